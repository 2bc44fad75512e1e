//! Control groups: where the store's tree is, what it can enforce, and one container's limits, statistics and end.
//!
//! A [`Tree`] is found and prepared once by the keeper ([`Tree::detect`], [`Tree::prepare`]) and travels to the monitors,
//! which make a [`Handle`] per container:
//!
//! ```text
//! v2  <tree>/{keeper,monitors,workers,c-ID}
//! v1  <hierarchy>/<tree>/{keeper,monitors,workers,c-ID} in every hierarchy that the owner may write
//! ```
//!
//! Every limit that the host cannot enforce has a [`Gap`] that says why and what mends it. [`check`] asks without touching
//! anything; [`Handle::create`] fails on a limit that was asked for and reports a default as not enforced.

mod apply;
mod detect;
mod device_program;
mod devices;
mod file;
mod handle;
mod host;
mod place;
mod stats;
mod v1;
mod v2;

pub use detect::found_as_root;
pub use handle::Handle;
pub use host::Host;
pub use place::Place;
pub use stats::{Pressure, Stats};

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::types::ids::ContainerId;
use crate::types::limits::{LimitKind, Limits, NotEnforced};

/// A part of the kernel that limits one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Controller {
    /// Memory and swap.
    Memory,
    /// Processor time.
    Cpu,
    /// Tasks.
    Pids,
    /// Block devices; `blkio` on v1.
    Io,
    /// Which processors.
    Cpuset,
    /// Stops all tasks; part of the core on v2.
    Freezer,
    /// Counts processor time; part of the core on v2.
    Cpuacct,
    /// Access to device nodes, by their numbers; by programs on v2.
    Devices,
    /// Huge pages.
    Hugetlb,
    /// Marks of packets; v1 only.
    NetCls,
    /// Priorities of packets; v1 only.
    NetPrio,
    /// Remote memory access.
    Rdma,
    /// Any other hierarchy of v1, systemd's nameless one among them.
    Other,
}

impl Controller {
    /// Those that enforce limits.
    pub const LIMITING: [Controller; 5] = [
        Controller::Memory,
        Controller::Cpu,
        Controller::Pids,
        Controller::Io,
        Controller::Cpuset,
    ];

    /// The kernel's name on v2, which is the v1 one but for [`Controller::Io`].
    pub const fn name(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Cpu => "cpu",
            Controller::Pids => "pids",
            Controller::Io => "io",
            Controller::Cpuset => "cpuset",
            Controller::Freezer => "freezer",
            Controller::Cpuacct => "cpuacct",
            Controller::Devices => "devices",
            Controller::Hugetlb => "hugetlb",
            Controller::NetCls => "net_cls",
            Controller::NetPrio => "net_prio",
            Controller::Rdma => "rdma",
            Controller::Other => "",
        }
    }

    /// Which controller enforces a limit.
    pub const fn of(limit: LimitKind) -> Controller {
        match limit {
            LimitKind::Memory | LimitKind::MemoryHigh | LimitKind::Swap => Controller::Memory,
            LimitKind::Cpu | LimitKind::CpuWeight => Controller::Cpu,
            LimitKind::Pids => Controller::Pids,
            LimitKind::Io => Controller::Io,
            LimitKind::Cpuset => Controller::Cpuset,
        }
    }
}

/// A limit that a tree cannot enforce.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Which.
    pub limit: LimitKind,
    /// Why.
    pub cause: String,
    /// What mends it.
    pub fix: String,
}

/// The control groups of one store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tree {
    /// The unified hierarchy.
    V2 {
        /// The delegated directory, absolute.
        root: PathBuf,
        /// What it cannot enforce.
        gaps: Vec<Gap>,
    },
    /// One hierarchy per controller.
    V1 {
        /// The delegated directory of each controller, absolute; controllers may share one.
        roots: Vec<(Controller, PathBuf)>,
        /// What they cannot enforce.
        gaps: Vec<Gap>,
    },
    /// No control groups.
    None {
        /// Why.
        why: String,
        /// What mends it.
        fix: String,
    },
}

impl Tree {
    /// The group of a container. Nothing is made yet.
    pub fn container(&self, id: &ContainerId) -> Handle {
        Handle::new(self.clone(), format!("c-{id}"))
    }

    /// The containers that have a group, whether or not they run.
    pub fn containers(&self) -> Vec<ContainerId> {
        let mut all = Vec::new();
        for root in self.roots() {
            for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
                let id = entry
                    .file_name()
                    .to_str()
                    .and_then(|name| name.strip_prefix("c-")?.parse().ok());
                all.extend(id.filter(|id| !all.contains(id)));
            }
        }
        all
    }

    /// `v2`, `v1` or `none`, for listings.
    pub const fn version(&self) -> &'static str {
        match self {
            Tree::V2 { .. } => "v2",
            Tree::V1 { .. } => "v1",
            Tree::None { .. } => "none",
        }
    }

    /// The tree's directories, each once.
    pub fn roots(&self) -> Vec<&Path> {
        match self {
            Tree::V2 { root, .. } => vec![root],
            Tree::V1 { roots, .. } => {
                let mut all: Vec<&Path> = Vec::with_capacity(roots.len());
                for (_, root) in roots {
                    if !all.contains(&root.as_path()) {
                        all.push(root);
                    }
                }
                all
            }
            Tree::None { .. } => Vec::new(),
        }
    }

    /// Moves a process into one of the leaves `keeper`, `monitors`, `workers`; 0 is the caller itself.
    pub fn place(&self, leaf: Leaf, pid: i32) -> Result<(), CgroupError> {
        for root in self.roots() {
            file::write(&root.join(leaf.name()).join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// What keeps `limit` from being enforced, if anything does.
    fn gap(&self, limit: LimitKind) -> Option<NotEnforced> {
        let (cause, fix) = match self {
            Tree::V2 { gaps, .. } | Tree::V1 { gaps, .. } => {
                let gap = gaps.iter().find(|gap| gap.limit == limit)?;
                (gap.cause.clone(), gap.fix.clone())
            }
            Tree::None { why, fix } => (why.clone(), fix.clone()),
        };
        Some(NotEnforced { limit, cause, fix })
    }
}

/// A group of dunlin's own processes in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaf {
    /// The keeper.
    Keeper,
    /// The monitors.
    Monitors,
    /// The workers.
    Workers,
}

impl Leaf {
    const ALL: [Leaf; 3] = [Leaf::Keeper, Leaf::Monitors, Leaf::Workers];

    /// Its directory below the tree.
    pub const fn name(self) -> &'static str {
        match self {
            Leaf::Keeper => "keeper",
            Leaf::Monitors => "monitors",
            Leaf::Workers => "workers",
        }
    }
}

/// Which of the limits that are set in `limits` cannot be enforced in `tree`. Touches nothing.
pub fn check(limits: &Limits, tree: &Tree) -> Vec<NotEnforced> {
    limits.kinds().into_iter().filter_map(|kind| tree.gap(kind)).collect()
}

/// What went wrong with a control group.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A limit that was asked for cannot be enforced.
    #[error("{0}")]
    Limit(NotEnforced),
    /// A file of the group cannot be read or written.
    #[error("cgroup: {action} `{path}`: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A limit of a bundle's cannot be set.
    #[error("config.json: `linux.resources.{field}`: {cause}")]
    Resource {
        /// The field, as the specification writes it.
        field: String,
        /// Why.
        cause: String,
    },
    /// A bundle's path of a group is none.
    #[error("config.json: `linux.cgroupsPath`: `{path}`: {cause}")]
    Path {
        /// As given.
        path: String,
        /// Why.
        cause: String,
    },
    /// A group below a container's is not there.
    #[error("cgroup: `{path}` is not a group below the container's; make it first")]
    Below {
        /// As given.
        path: String,
    },
    /// A group that shall be a container's own holds processes.
    #[error("cgroup: `{path}` holds processes already; choose another `linux.cgroupsPath`")]
    InUse {
        /// The group.
        path: PathBuf,
    },
    /// Processes stay in the group.
    #[error("cgroup: `{path}` still holds processes after {waited_ms} ms; see `cgroup.procs` in it")]
    Busy {
        /// The group.
        path: PathBuf,
        /// How long was waited.
        waited_ms: u64,
    },
    /// The group cannot be stopped or continued.
    #[error("cgroup: {cause}; {fix}")]
    Freeze {
        /// Why.
        cause: String,
        /// What mends it.
        fix: String,
    },
}

#[cfg(test)]
mod tests;

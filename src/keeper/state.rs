//! What the next keeper must know, in `<runroot>/keeper.state`; and the monitors that an earlier one left.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::disk::DiskError;
use crate::disk::layout::Layout;
use crate::disk::record::{self, Record, kinds};
use crate::runtime::cgroup::Tree;
use crate::sys::process;
use crate::types::container::MonitorState;
use crate::types::ids::ContainerId;

/// The record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeeperState {
    /// The control groups in use.
    pub tree: Tree,
}

impl Record for KeeperState {
    const KIND: u16 = kinds::KEEPER;
}

fn path(layout: &Layout) -> PathBuf {
    layout.run().join("keeper.state")
}

/// The groups that an earlier keeper of this boot used. Damage counts as none: the record is only a short cut.
pub(super) fn earlier_tree(layout: &Layout) -> Option<Tree> {
    record::read_optional::<KeeperState>(&path(layout))
        .ok()
        .flatten()
        .map(|state| state.tree)
}

/// Writes the record.
pub(super) fn save(layout: &Layout, tree: &Tree) -> Result<(), DiskError> {
    record::write_volatile(&path(layout), &KeeperState { tree: tree.clone() })
}

/// A monitor of an earlier keeper that lives.
pub(super) struct Found {
    pub id: ContainerId,
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// The monitors whose state files name a process that lives.
pub(super) fn living(layout: &Layout) -> Vec<Found> {
    let entries = std::fs::read_dir(layout.monitors()).into_iter().flatten().flatten();
    entries.filter_map(|entry| found(&entry.path())).collect()
}

fn found(run_dir: &Path) -> Option<Found> {
    let id: ContainerId = run_dir.file_name()?.to_str()?.parse().ok()?;
    let monitor = record::read::<MonitorState>(&run_dir.join(crate::monitor::wire::STATE))
        .ok()?
        .monitor;
    let pidfd = process::pidfd_open(monitor.pid).ok()?;
    // Asked after the pidfd was opened: a number that was given to somebody else has another start time.
    process::lives(monitor.pid, monitor.start).then_some(Found {
        id,
        pid: monitor.pid,
        pidfd,
    })
}

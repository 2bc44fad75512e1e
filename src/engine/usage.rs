//! What containers use: statistics of their control groups, sizes on disk, their processes.

use super::view::ContainerView;
use super::{Engine, EngineError};
use crate::image::{tree, worker};
use crate::runtime::cgroup::Stats;
use crate::sys::fs;
use crate::types::container::ContainerRecord;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

/// A process of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Number on the host.
    pub host_pid: i32,
    /// Number inside.
    pub pid: i32,
    /// Number of its parent on the host.
    pub host_parent: i32,
    /// User id inside.
    pub uid: u32,
    /// Processor time, clock ticks.
    pub ticks: u64,
    /// Start, clock ticks since boot.
    pub start: u64,
    /// Pid namespaces that it has a number in.
    pub depth: usize,
    /// Program and arguments.
    pub command: String,
    /// The kernel's name for it.
    pub name: String,
    /// `R`, `S`, `D`, `T`, `Z`.
    pub state: String,
    /// Its terminal: `pts/0`, or `?`.
    pub tty: String,
}

impl Engine {
    /// What a container's control group counts; `None` without control groups or a keeper that knows them.
    pub fn stats(&self, view: &ContainerView) -> Option<Stats> {
        let tree = self.cgroup_tree()?;
        Some(tree.container(&view.record.id).stats())
    }

    /// Bytes of a container's writable layer and of its image.
    pub fn sizes(&self, record: &ContainerRecord) -> (u64, u64) {
        let upper = self.tree_bytes(&self.layout().container(&record.id).join("upper"));
        let image = self
            .store()
            .image(&record.image)
            .ok()
            .flatten()
            .map_or(0, |image| image.size);
        (upper, image)
    }

    /// Bytes on disk of everything below a folder; what is closed to this process, a worker looks into.
    pub(super) fn tree_bytes(&self, dir: &Path) -> u64 {
        let seen = match fs::open_dir(dir).and_then(|dir| tree::measure(&dir)) {
            Ok((bytes, true)) => return bytes,
            Ok((bytes, false)) => bytes,
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => 0,
            Err(_) => return 0,
        };
        let measured = fs::name_dir(dir)
            .map_err(EngineError::io("open", dir))
            .and_then(|tree| {
                worker::measure(&self.workers()?, tree.as_fd()).map_err(|source| EngineError::Worker {
                    path: dir.to_owned(),
                    source: Box::new(source),
                })
            });
        measured.unwrap_or_else(|error| {
            crate::warn!("{error}; not all of `{}` is counted", dir.display());
            seen
        })
    }

    /// The processes of a container that runs, in the order of their numbers.
    pub fn processes(&self, view: &ContainerView) -> Result<Vec<Process>, EngineError> {
        let (Some(monitor), true) = (view.monitor_pid, view.status.is_live()) else {
            let (name, status) = (view.record.name.clone(), view.status);
            return Err(EngineError::State {
                name,
                status,
                reason: "only running containers have processes",
            });
        };
        let mut all: Vec<Process> = std::fs::read_dir("/proc")
            .map_err(EngineError::io("read", Path::new("/proc")))?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(process)
            .collect();
        // The monitor's descendants: the first process, what it started, and execs.
        let mut family = vec![monitor];
        let mut at = 0;
        while let Some(parent) = family.get(at).copied() {
            family.extend(
                all.iter()
                    .filter(|process| process.host_parent == parent)
                    .map(|process| process.host_pid),
            );
            at += 1;
        }
        // Its helpers are in its own pid namespace, the container's processes are not.
        let own = all.iter().find(|process| process.host_pid == monitor);
        let depth = own.map_or(0, |process| process.depth);
        all.retain(|process| process.depth > depth && family.contains(&process.host_pid));
        all.sort_by_key(|process| process.pid);
        Ok(all)
    }
}

fn process(host_pid: i32) -> Option<Process> {
    let status = std::fs::read_to_string(format!("/proc/{host_pid}/status")).ok()?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    let stat = std::fs::read_to_string(format!("/proc/{host_pid}/stat")).ok()?;
    // proc_pid_stat(5): the name in parentheses may hold anything; fields after it are counted from 3.
    let rest: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| rest.get(at - 3).and_then(|text| text.parse::<u64>().ok());
    let host_uid: u32 = field("Uid")?.split_whitespace().nth(1)?.parse().ok()?;
    let arguments = std::fs::read(format!("/proc/{host_pid}/cmdline")).ok()?;
    let mut command = String::from_utf8_lossy(&arguments)
        .trim_end_matches('\0')
        .replace('\0', " ");
    if command.is_empty() {
        command = format!("[{}]", field("Name")?);
    }
    // Numbers of pseudo-terminals (devpts: majors 136 to 143).
    let tty = number(7)?;
    let (major, minor) = (tty >> 8 & 0xfff, tty & 0xff | tty >> 12 & 0xfff00);
    Some(Process {
        name: field("Name")?.to_owned(),
        state: rest.first()?.to_string(),
        tty: if (136..=143).contains(&major) {
            format!("pts/{}", (major - 136) * 256 + minor)
        } else {
            "?".to_owned()
        },
        host_pid,
        pid: field("NSpid")?.split_whitespace().last()?.parse().ok()?,
        depth: field("NSpid")?.split_whitespace().count(),
        host_parent: field("PPid")?.parse().ok()?,
        uid: inside(host_pid, host_uid).unwrap_or(host_uid),
        ticks: number(14)? + number(15)?,
        start: number(22)?,
        command,
    })
}

/// The id inside a process's user namespace of an id that we see.
fn inside(host_pid: i32, uid: u32) -> Option<u32> {
    let map = std::fs::read_to_string(format!("/proc/{host_pid}/uid_map")).ok()?;
    map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u32>().ok());
        let (inside, outside, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
        (uid >= outside && uid - outside < count).then(|| inside + (uid - outside))
    })
}

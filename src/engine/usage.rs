//! What containers use: statistics of their control groups, sizes on disk, their processes.

use super::view::ContainerView;
use super::{Engine, EngineError};
use crate::runtime::cgroup::Stats;
use crate::types::container::ContainerRecord;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Files that are counted in one writable layer or volume at the most; a size beyond is a lower bound.
const FILES_MAX: u64 = 1_000_000;

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
    /// Program and arguments.
    pub command: String,
}

impl Engine {
    /// What a container's control group counts; `None` without control groups or a keeper that knows them.
    pub fn stats(&self, view: &ContainerView) -> Option<Stats> {
        let tree = self.cgroup_tree()?;
        Some(tree.container(&view.record.id).stats())
    }

    /// Bytes of a container's writable layer and of its image.
    pub fn sizes(&self, record: &ContainerRecord) -> (u64, u64) {
        let upper = tree_bytes(&self.layout().container(&record.id).join("upper"));
        let image = self
            .store()
            .image(&record.image)
            .ok()
            .flatten()
            .map_or(0, |image| image.size);
        (upper, image)
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
        let mut all: Vec<Process> = fs::read_dir("/proc")
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
        all.retain(|process| process.host_pid != monitor && family.contains(&process.host_pid));
        all.sort_by_key(|process| process.pid);
        Ok(all)
    }
}

/// Bytes on disk of everything below a folder that can be read.
pub(super) fn tree_bytes(dir: &Path) -> u64 {
    let mut left = FILES_MAX;
    bytes_below(dir, &mut left)
}

fn bytes_below(dir: &Path, left: &mut u64) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if *left == 0 {
            break;
        }
        *left -= 1;
        let Ok(meta) = entry.metadata() else { continue };
        bytes += if meta.is_dir() {
            bytes_below(&entry.path(), left)
        } else {
            meta.blocks() * 512
        };
    }
    bytes
}

fn process(host_pid: i32) -> Option<Process> {
    let status = fs::read_to_string(format!("/proc/{host_pid}/status")).ok()?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    let stat = fs::read_to_string(format!("/proc/{host_pid}/stat")).ok()?;
    // proc_pid_stat(5): the name in parentheses may hold anything; fields after it are counted from 3.
    let rest: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| rest.get(at - 3).and_then(|text| text.parse::<u64>().ok());
    let host_uid: u32 = field("Uid")?.split_whitespace().nth(1)?.parse().ok()?;
    let arguments = fs::read(format!("/proc/{host_pid}/cmdline")).ok()?;
    let mut command = String::from_utf8_lossy(&arguments)
        .trim_end_matches('\0')
        .replace('\0', " ");
    if command.is_empty() {
        command = format!("[{}]", field("Name")?);
    }
    Some(Process {
        host_pid,
        pid: field("NSpid")?.split_whitespace().last()?.parse().ok()?,
        host_parent: field("PPid")?.parse().ok()?,
        uid: inside(host_pid, host_uid).unwrap_or(host_uid),
        ticks: number(14)? + number(15)?,
        start: number(22)?,
        command,
    })
}

/// The id inside a process's user namespace of an id that we see.
fn inside(host_pid: i32, uid: u32) -> Option<u32> {
    let map = fs::read_to_string(format!("/proc/{host_pid}/uid_map")).ok()?;
    map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u32>().ok());
        let (inside, outside, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
        (uid >= outside && uid - outside < count).then(|| inside + (uid - outside))
    })
}

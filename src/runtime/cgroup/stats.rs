//! What a container used and how it was held back.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Controller, Tree, file};

/// Use of one container since it began. What the host does not count is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Memory charged, bytes, page cache included.
    pub memory: Option<u64>,
    /// Part of it that the kernel would drop first, bytes.
    pub memory_inactive_file: Option<u64>,
    /// Memory limit, bytes.
    pub memory_limit: Option<u64>,
    /// Highest `memory` so far, bytes (v2: Linux 5.19).
    pub memory_peak: Option<u64>,
    /// Swap used, bytes.
    pub swap: Option<u64>,
    /// Processor time, microseconds.
    pub cpu_us: Option<u64>,
    /// Part of it in the kernel, microseconds.
    pub cpu_system_us: Option<u64>,
    /// Time spent waiting because of the cpu limit, microseconds.
    pub cpu_throttled_us: Option<u64>,
    /// Periods in which the cpu limit was reached.
    pub cpu_throttled: Option<u64>,
    /// Tasks.
    pub pids: Option<u64>,
    /// Limit of tasks.
    pub pids_limit: Option<u64>,
    /// Bytes read from block devices.
    pub io_read: Option<u64>,
    /// Bytes written to block devices.
    pub io_write: Option<u64>,
    /// Time lost waiting for memory (v2).
    pub memory_pressure: Option<Pressure>,
    /// Time lost waiting for a processor (v2).
    pub cpu_pressure: Option<Pressure>,
    /// Time lost waiting for block devices (v2).
    pub io_pressure: Option<Pressure>,
}

/// Pressure stall information, the line `some`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure {
    /// Share of the last 10 s in which a task waited, hundredths of a per cent.
    pub avg10: u32,
    /// Share of the last 60 s, hundredths of a per cent.
    pub avg60: u32,
    /// All time lost, microseconds.
    pub total_us: u64,
}

/// The statistics of the group `name` of `tree`.
pub(super) fn read(tree: &Tree, name: &str) -> Stats {
    match tree {
        Tree::V2 { root, .. } => v2(&root.join(name)),
        Tree::V1 { roots, .. } => {
            let group = |wanted| {
                roots
                    .iter()
                    .find(|(have, _)| *have == wanted)
                    .map(|(_, root)| root.join(name))
            };
            v1(group)
        }
        Tree::None { .. } => Stats::default(),
    }
}

fn v2(group: &Path) -> Stats {
    let number = |name: &str| file::number(&group.join(name));
    let text = |name: &str| file::read(&group.join(name)).unwrap_or_default();
    let (memory, cpu, io) = (text("memory.stat"), text("cpu.stat"), text("io.stat"));
    Stats {
        memory: number("memory.current"),
        memory_inactive_file: file::keyed(&memory, "inactive_file"),
        memory_limit: number("memory.max"),
        memory_peak: number("memory.peak"),
        swap: number("memory.swap.current"),
        cpu_us: file::keyed(&cpu, "usage_usec"),
        cpu_system_us: file::keyed(&cpu, "system_usec"),
        cpu_throttled_us: file::keyed(&cpu, "throttled_usec"),
        cpu_throttled: file::keyed(&cpu, "nr_throttled"),
        pids: number("pids.current"),
        pids_limit: number("pids.max"),
        io_read: group.join("io.stat").exists().then(|| sum(&io, "rbytes=")),
        io_write: group.join("io.stat").exists().then(|| sum(&io, "wbytes=")),
        memory_pressure: pressure(&text("memory.pressure")),
        cpu_pressure: pressure(&text("cpu.pressure")),
        io_pressure: pressure(&text("io.pressure")),
    }
}

fn v1(group: impl Fn(Controller) -> Option<std::path::PathBuf>) -> Stats {
    let number = |controller, name: &str| file::number(&group(controller)?.join(name));
    let text = |controller, name: &str| group(controller).and_then(|dir| file::read(&dir.join(name)).ok());
    let memory = text(Controller::Memory, "memory.stat").unwrap_or_default();
    let cpu = text(Controller::Cpu, "cpu.stat").unwrap_or_default();
    let io = text(Controller::Io, "blkio.throttle.io_service_bytes_recursive")
        .or_else(|| text(Controller::Io, "blkio.throttle.io_service_bytes"));
    let used = number(Controller::Memory, "memory.usage_in_bytes");
    Stats {
        memory: used,
        memory_inactive_file: file::keyed(&memory, "total_inactive_file"),
        memory_limit: number(Controller::Memory, "memory.limit_in_bytes"),
        memory_peak: number(Controller::Memory, "memory.max_usage_in_bytes"),
        swap: number(Controller::Memory, "memory.memsw.usage_in_bytes")
            .zip(used)
            .map(|(both, one)| both.saturating_sub(one)),
        cpu_us: number(Controller::Cpuacct, "cpuacct.usage").map(|ns| ns / 1000),
        cpu_system_us: number(Controller::Cpuacct, "cpuacct.usage_sys").map(|ns| ns / 1000),
        cpu_throttled_us: file::keyed(&cpu, "throttled_time").map(|ns| ns / 1000),
        cpu_throttled: file::keyed(&cpu, "nr_throttled"),
        pids: number(Controller::Pids, "pids.current"),
        pids_limit: number(Controller::Pids, "pids.max"),
        io_read: io.as_deref().map(|text| sum(text, "Read ")),
        io_write: io.as_deref().map(|text| sum(text, "Write ")),
        ..Stats::default()
    }
}

/// Adds up the numbers that follow `key` in a table of devices.
fn sum(text: &str, key: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(key)?.1.split_whitespace().next()?.parse::<u64>().ok())
        .fold(0, u64::saturating_add)
}

/// `some avg10=0.12 avg60=… avg300=… total=…`.
pub(super) fn pressure(text: &str) -> Option<Pressure> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let field = |key: &str| line.split(' ').find_map(|field| field.strip_prefix(key));
    let share = |key: &str| {
        let (whole, part) = field(key)?.split_once('.')?;
        Some(whole.parse::<u32>().ok()? * 100 + part.parse::<u32>().ok()?)
    };
    Some(Pressure {
        avg10: share("avg10=")?,
        avg60: share("avg60=")?,
        total_us: field("total=")?.parse().ok()?,
    })
}

//! Limits as the unified hierarchy takes them: which file gets which text.

use crate::types::limits::{IoLimit, LimitKind, Limits};

/// Microseconds of the period over which processor time is counted; the kernel's own default.
const PERIOD_US: u64 = 100_000;

/// One control file's new text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    /// The limit that it enforces.
    pub limit: LimitKind,
    /// The file in the group.
    pub file: &'static str,
    /// The text.
    pub value: String,
}

/// The texts for every limit that is set, but for [`LimitKind::Io`], whose devices must be found first.
pub(super) fn writes(limits: &Limits) -> Vec<Write> {
    let mut writes = Vec::with_capacity(8);
    let mut add = |limit, file, value: String| writes.push(Write { limit, file, value });
    if let Some(memory) = limits.memory {
        add(LimitKind::Memory, "memory.max", memory.0.to_string());
    }
    if let Some(high) = limits.memory_high {
        add(LimitKind::MemoryHigh, "memory.high", high.0.to_string());
    }
    if let Some(swap) = limits.swap {
        add(LimitKind::Swap, "memory.swap.max", swap.0.to_string());
    }
    if let Some(cpu) = limits.cpu {
        add(
            LimitKind::Cpu,
            "cpu.max",
            format!("{} {PERIOD_US}", u64::from(cpu.0) * PERIOD_US / 1000),
        );
    }
    if let Some(weight) = limits.cpu_weight {
        add(LimitKind::CpuWeight, "cpu.weight", weight.to_string());
    }
    if let Some(pids) = limits.pids {
        add(LimitKind::Pids, "pids.max", pids.to_string());
    }
    if let Some(cpuset) = &limits.cpuset {
        add(LimitKind::Cpuset, "cpuset.cpus", cpuset.clone());
    }
    writes
}

/// One line of `io.max`: a device, major and minor, and its rates.
pub(super) fn io_line((major, minor): (u32, u32), rates: &IoLimit) -> String {
    let text = |rate: Option<u64>| rate.map_or_else(|| "max".to_owned(), |rate| rate.to_string());
    format!(
        "{major}:{minor} rbps={} wbps={} riops={} wiops={}",
        text(rates.read.map(|bytes| bytes.0)),
        text(rates.write.map(|bytes| bytes.0)),
        text(rates.read_iops.map(u64::from)),
        text(rates.write_iops.map(u64::from)),
    )
}

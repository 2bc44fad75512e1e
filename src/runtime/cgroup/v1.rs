//! Limits as the hierarchies of version 1 take them: which file of which controller gets which text.

use super::Controller;
use crate::types::limits::{LimitKind, Limits};

/// Microseconds of the period over which processor time is counted; the kernel's own default.
const PERIOD_US: u64 = 100_000;

/// One control file's new text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    /// The limit that it enforces.
    pub limit: LimitKind,
    /// Whose hierarchy.
    pub controller: Controller,
    /// The file in the group.
    pub file: &'static str,
    /// The text.
    pub value: String,
}

/// The texts for every limit that is set and that version 1 knows, in an order that the kernel takes for a new group.
///
/// `memory.memsw.limit_in_bytes` counts memory and swap together and may not be below `memory.limit_in_bytes`.
pub(super) fn writes(limits: &Limits) -> Vec<Write> {
    use Controller::{Cpu, Cpuset, Memory, Pids};
    let mut writes = Vec::with_capacity(8);
    let mut add = |limit, controller, file, value: String| {
        writes.push(Write {
            limit,
            controller,
            file,
            value,
        })
    };
    if let Some(memory) = limits.memory {
        add(LimitKind::Memory, Memory, "memory.limit_in_bytes", memory.0.to_string());
        if let Some(swap) = limits.swap {
            add(
                LimitKind::Swap,
                Memory,
                "memory.memsw.limit_in_bytes",
                memory.0.saturating_add(swap.0).to_string(),
            );
        }
    }
    if let Some(cpu) = limits.cpu {
        add(LimitKind::Cpu, Cpu, "cpu.cfs_period_us", PERIOD_US.to_string());
        add(
            LimitKind::Cpu,
            Cpu,
            "cpu.cfs_quota_us",
            (u64::from(cpu.0) * PERIOD_US / 1000).to_string(),
        );
    }
    if let Some(weight) = limits.cpu_weight {
        add(LimitKind::CpuWeight, Cpu, "cpu.shares", shares(weight).to_string());
    }
    if let Some(pids) = limits.pids {
        add(LimitKind::Pids, Pids, "pids.max", pids.to_string());
    }
    if let Some(cpuset) = &limits.cpuset {
        add(LimitKind::Cpuset, Cpuset, "cpuset.cpus", cpuset.clone());
    }
    writes
}

/// Weight 1 to 10,000 (100 is usual) as shares 2 to 262,144 (1,024 is usual), as systemd converts them.
pub(super) fn shares(weight: u32) -> u64 {
    (u64::from(weight) * 1024 / 100).clamp(2, 262_144)
}

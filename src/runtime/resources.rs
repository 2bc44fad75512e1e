//! A container's limits in the words of the runtime specification, for runtimes that write control groups themselves
//! (pure). Ours are written by [`super::cgroup`] from the same limits.

use std::collections::BTreeMap;

use crate::types::limits::Limits;
use crate::types::oci::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

/// Period of processor shares, in microseconds (the kernel's default).
const PERIOD_US: u64 = 100_000;

/// The limits that are set; none where nothing is. Rates of block devices are not among them: they go by device number.
pub fn of(limits: &Limits, io_weight: Option<u16>, v2: bool) -> Option<LinuxResources> {
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let mut resources = LinuxResources::default();
    if let Some(limit) = limits.memory {
        resources.memory = Some(LinuxMemory {
            limit: Some(signed(limit.0)),
            // The specification's swap is memory and swap together.
            swap: limits.swap.map(|swap| signed(limit.0.saturating_add(swap.0))),
            ..LinuxMemory::default()
        });
    }
    if limits.cpu.is_some() || limits.cpu_weight.is_some() || limits.cpuset.is_some() {
        resources.cpu = Some(LinuxCpu {
            shares: limits.cpu_weight.map(shares),
            quota: limits.cpu.map(|milli| signed(u64::from(milli.0) * PERIOD_US / 1000)),
            period: limits.cpu.map(|_| PERIOD_US),
            cpus: limits.cpuset.clone(),
            ..LinuxCpu::default()
        });
    }
    resources.pids = limits.pids.map(|limit| LinuxPids {
        limit: Some(i64::from(limit)),
    });
    resources.block_io = io_weight.map(|weight| LinuxBlockIo {
        weight: Some(weight),
        ..LinuxBlockIo::default()
    });
    if let Some(high) = limits.memory_high.filter(|_| v2) {
        resources.unified = Some(BTreeMap::from([("memory.high".to_owned(), high.0.to_string())]));
    }
    (resources != LinuxResources::default()).then_some(resources)
}

/// v1 shares of a v2 weight: the smallest that runtimes turn back into the same weight by
/// `1 + ((shares - 2) * 9999) / 262142`.
fn shares(weight: u32) -> u64 {
    2 + ((u64::from(weight.max(1)) - 1) * 262_142).div_ceil(9999)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::limits::{Bytes, MilliCpu};

    #[test]
    fn limits_become_resources() {
        assert_eq!(of(&Limits::default(), None, true), None);
        let limits = Limits {
            memory: Some(Bytes(64 << 20)),
            memory_high: Some(Bytes(48 << 20)),
            swap: Some(Bytes(16 << 20)),
            cpu: Some(MilliCpu(500)),
            cpu_weight: Some(100),
            pids: Some(64),
            cpuset: Some("0-1".to_owned()),
            ..Limits::default()
        };
        let json = serde_json::to_value(of(&limits, Some(300), true)).expect("serialises");
        assert_eq!(
            json,
            serde_json::json!({
                "memory": {"limit": 64 << 20, "swap": 80 << 20},
                "cpu": {"shares": 2598, "quota": 50_000, "period": 100_000, "cpus": "0-1"},
                "pids": {"limit": 64},
                "blockIO": {"weight": 300},
                "unified": {"memory.high": "50331648"},
            })
        );
        assert!(of(&limits, None, false).is_some_and(|resources| resources.unified.is_none()));
    }

    #[test]
    fn weights_survive_the_way_through_shares() {
        for weight in [1, 2, 50, 100, 101, 9999, 10_000] {
            let back = 1 + ((shares(weight) - 2) * 9999) / 262_142;
            assert_eq!(back, u64::from(weight), "{weight}");
        }
    }
}

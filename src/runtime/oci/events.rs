//! What a container used, as runc's `events` writes it.

use serde_json::{Value, json};

use super::{Container, OciError, Status};

/// One event of type `stats`.
pub fn stats(container: &Container) -> Result<Value, OciError> {
    if container.status() == Status::Stopped {
        let text = format!("container with id {} is not running", container.state.id);
        return Err(OciError::Status(text));
    }
    let used = container.group()?.stats();
    let ns = |us: Option<u64>| us.unwrap_or(0).saturating_mul(1000);
    let user = ns(used.cpu_us).saturating_sub(ns(used.cpu_system_us));
    let memory = used.memory.unwrap_or(0);
    // What is unlimited, runc writes as the kernel's largest number.
    let limit = used.memory_limit.unwrap_or(u64::MAX);
    let mut data = json!({
        "cpu": {
            "usage": {"total": ns(used.cpu_us), "kernel": ns(used.cpu_system_us), "user": user},
            "throttling": {"throttledPeriods": used.cpu_throttled, "throttledTime": ns(used.cpu_throttled_us)},
        },
        "cpuset": {},
        "memory": {
            "cache": used.memory_inactive_file.unwrap_or(0),
            "usage": {"limit": limit, "usage": memory, "max": used.memory_peak.unwrap_or(0), "failcnt": 0},
            "swap": {"limit": 0, "usage": used.swap.unwrap_or(0), "failcnt": 0},
            "raw": {"inactive_file": used.memory_inactive_file.unwrap_or(0)},
        },
        "pids": {"current": used.pids.unwrap_or(0), "limit": used.pids_limit.unwrap_or(0)},
        "blkio": {
            "ioServiceBytesRecursive": [
                {"op": "Read", "value": used.io_read.unwrap_or(0)},
                {"op": "Write", "value": used.io_write.unwrap_or(0)},
            ],
        },
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": null,
    });
    for (name, pressure) in [
        ("cpu", used.cpu_pressure),
        ("memory", used.memory_pressure),
        ("blkio", used.io_pressure),
    ] {
        if let Some(some) = pressure {
            let share = |hundredths: u32| f64::from(hundredths) / 100.0;
            data[name]["psi"] = json!({
                "some": {"avg10": share(some.avg10), "avg60": share(some.avg60), "total": some.total_us},
            });
        }
    }
    Ok(json!({"type": "stats", "id": container.state.id, "data": data}))
}

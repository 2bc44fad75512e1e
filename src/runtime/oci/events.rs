//! What a container used, as runc's `events` writes it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Container, OciError, Status};
use crate::runtime::cgroup::{Controller, Handle};

/// One event of type `stats`.
pub fn stats(container: &Container) -> Result<Value, OciError> {
    if container.status() == Status::Stopped {
        let text = format!("container with id {} is not running", container.state.id);
        return Err(OciError::Status(text));
    }
    let group = container.group()?;
    let used = group.stats();
    let ns = |us: Option<u64>| us.unwrap_or(0).saturating_mul(1000);
    let number = |controller, names: &[&str]| {
        let text = names.iter().find_map(|name| group.text(controller, name))?;
        text.trim().parse::<u64>().ok()
    };
    let user = ns(used.cpu_us).saturating_sub(ns(used.cpu_system_us));
    // What is unlimited, runc writes as the kernel's largest number.
    let limit = used.memory_limit.unwrap_or(u64::MAX);
    let swap_limit = number(Controller::Memory, &["memory.swap.max", "memory.memsw.limit_in_bytes"]);
    let cpu = keyed(group.text(Controller::Cpu, "cpu.stat"));
    let memory = keyed(group.text(Controller::Memory, "memory.stat"));
    let mut data = json!({
        "cpu": {
            "usage": {"total": ns(used.cpu_us), "kernel": ns(used.cpu_system_us), "user": user},
            "throttling": {
                "periods": cpu.get("nr_periods").unwrap_or(&0),
                "throttledPeriods": used.cpu_throttled,
                "throttledTime": ns(used.cpu_throttled_us),
            },
        },
        "cpuset": {},
        "memory": {
            "cache": memory.get("file").or(memory.get("cache")).unwrap_or(&0),
            "usage": {
                "limit": limit,
                "usage": used.memory.unwrap_or(0),
                "max": used.memory_peak.unwrap_or(0),
                "failcnt": number(Controller::Memory, &["memory.failcnt"]).unwrap_or(0),
            },
            "swap": {"limit": swap_limit.unwrap_or(u64::MAX), "usage": used.swap.unwrap_or(0), "failcnt": 0},
            "raw": memory,
        },
        "pids": {"current": used.pids.unwrap_or(0), "limit": used.pids_limit.unwrap_or(0)},
        "blkio": disks(group),
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": null,
    });
    for (name, controller) in [
        ("cpu", Controller::Cpu),
        ("memory", Controller::Memory),
        ("blkio", Controller::Io),
    ] {
        let stalls = group.text(controller, &format!("{}.pressure", controller.name()));
        if let Some(stalls) = stalls {
            data[name]["psi"] = pressure(&stalls);
        }
    }
    Ok(json!({"type": "stats", "id": container.state.id, "data": data}))
}

/// Lines `KEY NUMBER`.
fn keyed(text: Option<String>) -> BTreeMap<String, u64> {
    let text = text.unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    let numbers = lines.filter_map(|(key, number)| Some((key.to_owned(), number.trim().parse().ok()?)));
    numbers.collect()
}

/// Lines `some avg10=0.12 avg60=0.00 avg300=0.00 total=99` and `full …`.
fn pressure(text: &str) -> Value {
    let line = |line: &str| {
        let (kind, rest) = line.split_once(' ')?;
        let fields = rest.split(' ').filter_map(|field| {
            let (key, number) = field.split_once('=')?;
            let number = match number.parse::<u64>() {
                Ok(whole) if key == "total" => json!(whole),
                _ => json!(number.parse::<f64>().ok()?),
            };
            Some((key.to_owned(), number))
        });
        Some((kind.to_owned(), Value::Object(fields.collect())))
    };
    Value::Object(text.lines().filter_map(line).collect())
}

/// What went to and came from every block device.
fn disks(group: &Handle) -> Value {
    let (mut bytes, mut requests) = (Vec::new(), Vec::new());
    if let Some(text) = group.text(Controller::Io, "io.stat") {
        for (device, fields) in text.lines().filter_map(|line| line.split_once(' ')) {
            for (key, number) in fields.split(' ').filter_map(|field| field.split_once('=')) {
                match key {
                    "rbytes" => bytes.extend(disk(device, "Read", number)),
                    "wbytes" => bytes.extend(disk(device, "Write", number)),
                    "rios" => requests.extend(disk(device, "Read", number)),
                    "wios" => requests.extend(disk(device, "Write", number)),
                    _ => {}
                }
            }
        }
    }
    for (name, all) in [("io_service_bytes", &mut bytes), ("io_serviced", &mut requests)] {
        let text = [
            format!("blkio.throttle.{name}_recursive"),
            format!("blkio.throttle.{name}"),
        ];
        let text = text.iter().find_map(|name| group.text(Controller::Io, name));
        for line in text.unwrap_or_default().lines() {
            if let [device, op, number] = line.split(' ').collect::<Vec<_>>()[..] {
                all.extend(disk(device, op, number));
            }
        }
    }
    json!({"ioServiceBytesRecursive": bytes, "ioServicedRecursive": requests})
}

fn disk(device: &str, op: &str, value: &str) -> Option<Value> {
    let (major, minor) = device.split_once(':')?;
    let number = |text: &str| text.parse::<u64>().ok();
    Some(json!({"major": number(major)?, "minor": number(minor)?, "op": op, "value": number(value)?}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_become_json() {
        let stalls =
            "some avg10=1.50 avg60=0.00 avg300=0.25 total=99\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        assert_eq!(
            pressure(stalls),
            json!({
                "some": {"avg10": 1.5, "avg60": 0.0, "avg300": 0.25, "total": 99},
                "full": {"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 7},
            })
        );
        let stat = keyed(Some("anon 1\nfile 2\nodd\nworse x\n".to_owned()));
        assert_eq!(stat, BTreeMap::from([("anon".to_owned(), 1), ("file".to_owned(), 2)]));
        assert_eq!(
            disk("254:0", "Read", "9"),
            Some(json!({"major": 254, "minor": 0, "op": "Read", "value": 9}))
        );
        assert_eq!(disk("Total", "Read", "9"), None);
    }
}

//! The limits of a bundle (config-linux.md, "Control groups") as texts of control files, for both versions.

use std::io;
use std::path::Path;

use super::{CgroupError, Controller, Handle, Tree, file};
use crate::types::oci::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxResources, LinuxThrottleDevice,
};

/// One control file's new text.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Write {
    /// The field, below `linux.resources`.
    field: &'static str,
    controller: Controller,
    file: String,
    value: String,
}

impl Handle {
    /// Sets the limits of a bundle. One that cannot be set is an error, but for rules of devices where the caller may not
    /// have them enforced: then those are left out and the result is false.
    pub fn apply(&self, resources: &LinuxResources) -> Result<bool, CgroupError> {
        let v2 = matches!(self.tree(), Tree::V2 { .. });
        for write in writes(resources, v2)? {
            self.put(&write)?;
        }
        self.apply_devices(resources.devices.as_deref().unwrap_or_default())
    }

    fn put(&self, write: &Write) -> Result<(), CgroupError> {
        let wrong = |cause: String| CgroupError::Resource {
            field: write.field.to_owned(),
            cause,
        };
        let dir = self.dir(write.controller).ok_or_else(|| match self.tree() {
            Tree::None { why, fix } => wrong(format!("there is no control group: {why}; {fix}")),
            _ => wrong(format!("controller `{}` is not at hand", write.controller.name())),
        })?;
        let path = dir.join(&write.file);
        let written = match file::put(&path, &write.value) {
            // When a limit rises, the sum of memory and swap must rise first.
            Err(e) if write.file == "memory.limit_in_bytes" && e.kind() == io::ErrorKind::InvalidInput => {
                file::put(&dir.join("memory.memsw.limit_in_bytes"), "-1").and_then(|()| file::put(&path, &write.value))
            }
            done => done,
        };
        written.map_err(|e| wrong(format!("write `{}` to `{}`: {e}", write.value, path.display())))
    }

    fn apply_devices(&self, rules: &[LinuxDeviceCgroup]) -> Result<bool, CgroupError> {
        if rules.is_empty() {
            return Ok(true);
        }
        let (Tree::V1 { .. }, Some(dir)) = (self.tree(), self.dir(Controller::Devices)) else {
            return Ok(false);
        };
        // What every container has (config-linux.md, "Default Devices"), terminals, and nodes that are only made.
        let always = [
            "c 1:3 rwm",
            "c 1:5 rwm",
            "c 1:7 rwm",
            "c 1:8 rwm",
            "c 1:9 rwm",
            "c 5:0 rwm",
            "c 5:2 rwm",
            "c 136:* rwm",
            "c *:* m",
            "b *:* m",
        ];
        let rules = rules.iter().map(|rule| (rule.allow, device_rule(rule)));
        let always = always.iter().map(|device| (true, (*device).to_owned()));
        for (allow, text) in rules.chain(always) {
            let path = dir.join(if allow { "devices.allow" } else { "devices.deny" });
            match file::put(&path, &text) {
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok(false),
                done => done.map_err(|e| CgroupError::Resource {
                    field: "devices".to_owned(),
                    cause: format!("write `{text}` to `{}`: {e}", path.display()),
                })?,
            }
        }
        Ok(true)
    }
}

fn device_rule(rule: &LinuxDeviceCgroup) -> String {
    let kind = match rule.kind {
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => 'c',
        Some(LinuxDeviceType::B) => 'b',
        _ => 'a',
    };
    let number = |number: Option<i64>| number.filter(|n| *n >= 0).map_or("*".to_owned(), |n| n.to_string());
    let access = rule
        .access
        .as_deref()
        .filter(|access| !access.is_empty())
        .unwrap_or("rwm");
    format!("{kind} {}:{} {access}", number(rule.major), number(rule.minor))
}

fn writes(resources: &LinuxResources, v2: bool) -> Result<Vec<Write>, CgroupError> {
    let mut all = Vec::new();
    if let Some(memory) = &resources.memory {
        all.extend(if v2 { memory_v2(memory)? } else { memory_v1(memory) });
    }
    if let Some(cpu) = &resources.cpu {
        all.extend(if v2 { cpu_v2(cpu) } else { cpu_v1(cpu) });
    }
    if let Some(limit) = resources
        .pids
        .as_ref()
        .and_then(|pids| pids.limit)
        .filter(|limit| *limit != 0)
    {
        all.push(write("pids.limit", Controller::Pids, "pids.max", max(limit)));
    }
    if let Some(block) = &resources.block_io {
        all.extend(block_io(block, v2));
    }
    for limit in resources.hugepage_limits.iter().flatten() {
        let last = if v2 { "max" } else { "limit_in_bytes" };
        let name = format!("hugetlb.{}.{last}", limit.page_size);
        all.push(write(
            "hugepageLimits",
            Controller::Hugetlb,
            &name,
            limit.limit.to_string(),
        ));
    }
    if let Some(network) = &resources.network {
        let class = network.class_id.filter(|class| *class != 0);
        all.extend(class.map(|id| write("network.classID", Controller::NetCls, "net_cls.classid", id.to_string())));
        all.extend(network.priorities.iter().flatten().map(|one| {
            let value = format!("{} {}", one.name, one.priority);
            write("network.priorities", Controller::NetPrio, "net_prio.ifpriomap", value)
        }));
    }
    for (device, limit) in resources.rdma.iter().flatten() {
        let text = |count: Option<u32>| count.map_or("max".to_owned(), |count| count.to_string());
        let value = format!(
            "{device} hca_handle={} hca_object={}",
            text(limit.hca_handles),
            text(limit.hca_objects)
        );
        all.push(write("rdma", Controller::Rdma, "rdma.max", value));
    }
    for (name, value) in resources.unified.iter().flatten() {
        let wrong = |cause: &str| CgroupError::Resource {
            field: format!("unified.{name}"),
            cause: cause.to_owned(),
        };
        if !v2 {
            return Err(wrong("is for control groups v2"));
        }
        if Path::new(name).components().count() != 1 || name.starts_with('.') || name.contains('/') {
            return Err(wrong("is not the name of a control file"));
        }
        // On v2 every controller's files are in the same group.
        all.push(write("unified", Controller::Memory, name, value.clone()));
    }
    Ok(all)
}

fn write(field: &'static str, controller: Controller, file: &str, value: String) -> Write {
    Write {
        field,
        controller,
        file: file.to_owned(),
        value,
    }
}

/// A limit of v2; what is negative is unlimited.
fn max(limit: i64) -> String {
    if limit < 0 { "max".to_owned() } else { limit.to_string() }
}

fn memory_v1(memory: &LinuxMemory) -> Vec<Write> {
    let one = |field, file: &str, value: Option<String>| value.map(|v| write(field, Controller::Memory, file, v));
    let bytes = |limit: Option<i64>| limit.filter(|limit| *limit != 0).map(|limit| limit.max(-1).to_string());
    let both = [
        one("memory.limit", "memory.limit_in_bytes", bytes(memory.limit)),
        one("memory.swap", "memory.memsw.limit_in_bytes", bytes(memory.swap)),
        one(
            "memory.reservation",
            "memory.soft_limit_in_bytes",
            bytes(memory.reservation),
        ),
        one(
            "memory.kernelTCP",
            "memory.kmem.tcp.limit_in_bytes",
            bytes(memory.kernel_tcp),
        ),
        one(
            "memory.swappiness",
            "memory.swappiness",
            memory.swappiness.map(|s| s.to_string()),
        ),
        one(
            "memory.disableOOMKiller",
            "memory.oom_control",
            memory.disable_oom_killer.filter(|yes| *yes).map(|_| "1".to_owned()),
        ),
    ];
    both.into_iter().flatten().collect()
}

fn memory_v2(memory: &LinuxMemory) -> Result<Vec<Write>, CgroupError> {
    let one = |field, file: &str, value: String| write(field, Controller::Memory, file, value);
    let set = |limit: Option<i64>| limit.filter(|limit| *limit != 0);
    let mut all = Vec::new();
    all.extend(set(memory.limit).map(|limit| one("memory.limit", "memory.max", max(limit))));
    all.extend(set(memory.reservation).map(|limit| one("memory.reservation", "memory.low", max(limit))));
    if let Some(sum) = set(memory.swap) {
        // The specification counts memory and swap together.
        let swap = match (sum, set(memory.limit)) {
            (..0, _) => -1,
            (sum, Some(limit)) if limit >= 0 && sum >= limit => sum - limit,
            _ => {
                return Err(CgroupError::Resource {
                    field: "memory.swap".to_owned(),
                    cause: "must be at least `limit`, which must be there too".to_owned(),
                });
            }
        };
        all.push(one("memory.swap", "memory.swap.max", max(swap)));
    }
    Ok(all)
}

fn cpu_v1(cpu: &LinuxCpu) -> Vec<Write> {
    use Controller::{Cpu, Cpuset};
    let one = |field, controller, file: &str, value: Option<String>| value.map(|v| write(field, controller, file, v));
    let text = |number: Option<u64>| number.filter(|n| *n != 0).map(|n| n.to_string());
    let signed = |number: Option<i64>| number.filter(|n| *n != 0).map(|n| n.to_string());
    let list = |list: &Option<String>| list.clone().filter(|list| !list.is_empty());
    let all = [
        one("cpu.shares", Cpu, "cpu.shares", text(cpu.shares)),
        one("cpu.period", Cpu, "cpu.cfs_period_us", text(cpu.period)),
        one("cpu.quota", Cpu, "cpu.cfs_quota_us", signed(cpu.quota)),
        one("cpu.burst", Cpu, "cpu.cfs_burst_us", text(cpu.burst)),
        one("cpu.idle", Cpu, "cpu.idle", cpu.idle.map(|idle| idle.to_string())),
        one("cpu.realtimePeriod", Cpu, "cpu.rt_period_us", text(cpu.realtime_period)),
        one(
            "cpu.realtimeRuntime",
            Cpu,
            "cpu.rt_runtime_us",
            signed(cpu.realtime_runtime),
        ),
        one("cpu.cpus", Cpuset, "cpuset.cpus", list(&cpu.cpus)),
        one("cpu.mems", Cpuset, "cpuset.mems", list(&cpu.mems)),
    ];
    all.into_iter().flatten().collect()
}

/// Microseconds over which processor time is counted where nothing is said; the kernel's own default.
const PERIOD_US: u64 = 100_000;

fn cpu_v2(cpu: &LinuxCpu) -> Vec<Write> {
    use Controller::{Cpu, Cpuset};
    let list = |list: &Option<String>| list.clone().filter(|list| !list.is_empty());
    let mut all = Vec::new();
    if let Some(shares) = cpu.shares.filter(|shares| *shares != 0) {
        let weight = 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142;
        all.push(write("cpu.shares", Cpu, "cpu.weight", weight.to_string()));
    }
    let quota = cpu.quota.filter(|quota| *quota != 0);
    let period = cpu.period.filter(|period| *period != 0);
    if quota.is_some() || period.is_some() {
        let value = format!("{} {}", max(quota.unwrap_or(-1)), period.unwrap_or(PERIOD_US));
        all.push(write("cpu.quota", Cpu, "cpu.max", value));
    }
    all.extend(
        cpu.burst
            .map(|burst| write("cpu.burst", Cpu, "cpu.max.burst", burst.to_string())),
    );
    all.extend(
        cpu.idle
            .map(|idle| write("cpu.idle", Cpu, "cpu.idle", idle.to_string())),
    );
    all.extend(list(&cpu.cpus).map(|cpus| write("cpu.cpus", Cpuset, "cpuset.cpus", cpus)));
    all.extend(list(&cpu.mems).map(|mems| write("cpu.mems", Cpuset, "cpuset.mems", mems)));
    all
}

fn block_io(block: &LinuxBlockIo, v2: bool) -> Vec<Write> {
    let mut all = Vec::new();
    let mut add = |field, file: &str, value: String| all.push(write(field, Controller::Io, file, value));
    let weight = |weight: u16| match v2 {
        // 10 to 1000 becomes 1 to 10,000.
        true => (1 + (u32::from(weight).clamp(10, 1000) - 10) * 9999 / 990).to_string(),
        false => weight.to_string(),
    };
    let file = if v2 { "io.weight" } else { "blkio.weight" };
    if let Some(one) = block.weight.filter(|one| *one != 0) {
        let value = if v2 {
            format!("default {}", weight(one))
        } else {
            weight(one)
        };
        add("blockIO.weight", file, value);
    }
    for device in block.weight_device.iter().flatten() {
        if let Some(one) = device.weight {
            let name = if v2 { "io.weight" } else { "blkio.weight_device" };
            let value = format!("{}:{} {}", device.major, device.minor, weight(one));
            add("blockIO.weightDevice", name, value);
        }
    }
    let rates: [(&'static str, &Option<Vec<LinuxThrottleDevice>>, &str, &str); 4] = [
        (
            "blockIO.throttleReadBpsDevice",
            &block.throttle_read_bps_device,
            "blkio.throttle.read_bps_device",
            "rbps",
        ),
        (
            "blockIO.throttleWriteBpsDevice",
            &block.throttle_write_bps_device,
            "blkio.throttle.write_bps_device",
            "wbps",
        ),
        (
            "blockIO.throttleReadIOPSDevice",
            &block.throttle_read_iops_device,
            "blkio.throttle.read_iops_device",
            "riops",
        ),
        (
            "blockIO.throttleWriteIOPSDevice",
            &block.throttle_write_iops_device,
            "blkio.throttle.write_iops_device",
            "wiops",
        ),
    ];
    for (field, devices, v1_file, key) in rates {
        for device in devices.iter().flatten() {
            let (number, rate) = (format!("{}:{}", device.major, device.minor), device.rate);
            match v2 {
                true => add(field, "io.max", format!("{number} {key}={rate}")),
                false => add(field, v1_file, format!("{number} {rate}")),
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(json: &str, v2: bool) -> Result<Vec<String>, String> {
        let resources: LinuxResources = serde_json::from_str(json).expect("resources");
        let all = writes(&resources, v2).map_err(|error| error.to_string())?;
        Ok(all
            .iter()
            .map(|write| format!("{} {}", write.file, write.value))
            .collect())
    }

    #[test]
    fn limits_become_the_texts_of_both_versions() {
        let json = r#"{"memory":{"limit":1000,"swap":1500,"reservation":500},
            "cpu":{"shares":1024,"quota":50000,"period":100000,"burst":7,"idle":1,"cpus":"0"},
            "pids":{"limit":-1},"blockIO":{"weight":1000,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":9}]},
            "hugepageLimits":[{"pageSize":"2MB","limit":4}],"rdma":{"mlx":{"hcaHandles":3}}}"#;
        assert_eq!(
            texts(json, false).expect("v1"),
            [
                "memory.limit_in_bytes 1000",
                "memory.memsw.limit_in_bytes 1500",
                "memory.soft_limit_in_bytes 500",
                "cpu.shares 1024",
                "cpu.cfs_period_us 100000",
                "cpu.cfs_quota_us 50000",
                "cpu.cfs_burst_us 7",
                "cpu.idle 1",
                "cpuset.cpus 0",
                "pids.max max",
                "blkio.weight 1000",
                "blkio.throttle.read_bps_device 8:0 9",
                "hugetlb.2MB.limit_in_bytes 4",
                "rdma.max mlx hca_handle=3 hca_object=max",
            ]
        );
        assert_eq!(
            texts(json, true).expect("v2"),
            [
                "memory.max 1000",
                "memory.low 500",
                "memory.swap.max 500",
                "cpu.weight 39",
                "cpu.max 50000 100000",
                "cpu.max.burst 7",
                "cpu.idle 1",
                "cpuset.cpus 0",
                "pids.max max",
                "io.weight default 10000",
                "io.max 8:0 rbps=9",
                "hugetlb.2MB.max 4",
                "rdma.max mlx hca_handle=3 hca_object=max",
            ]
        );
    }

    #[test]
    fn what_is_of_the_other_version_or_makes_no_sense_is_refused_by_name() {
        for (json, v2, text) in [
            (r#"{"unified":{"memory.high":"1"}}"#, false, "unified.memory.high"),
            (r#"{"unified":{"../x":"1"}}"#, true, "unified.../x"),
            (r#"{"memory":{"swap":5}}"#, true, "memory.swap"),
            (r#"{"memory":{"swap":5,"limit":6}}"#, true, "memory.swap"),
        ] {
            let error = texts(json, v2).expect_err(json);
            assert!(error.contains(text), "{error}");
        }
        assert_eq!(
            texts(r#"{"unified":{"memory.high":"1"}}"#, true).expect("v2"),
            ["memory.high 1"]
        );
    }

    #[test]
    fn rules_of_devices_are_v1s_texts() {
        let rule = |json: &str| device_rule(&serde_json::from_str(json).expect("a rule"));
        assert_eq!(rule(r#"{"allow":false,"access":"rwm"}"#), "a *:* rwm");
        assert_eq!(
            rule(r#"{"allow":true,"type":"c","major":10,"minor":-1,"access":"r"}"#),
            "c 10:* r"
        );
        assert_eq!(rule(r#"{"allow":true,"type":"b","major":8,"minor":0}"#), "b 8:0 rwm");
    }
}

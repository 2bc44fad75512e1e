//! The limits of a bundle (config-linux.md, "Control groups") as texts of control files, for both versions.

use std::io;
use std::path::Path;

use super::{CgroupError, Controller, Handle, Tree, file};
use crate::types::oci::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

/// One control file's new text.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Write {
    /// The field, below `linux.resources`.
    field: &'static str,
    controller: Controller,
    file: String,
    value: String,
    /// Nothing is lost where there is no such file.
    optional: bool,
}

/// What a control file says now; none without that file.
type Current<'a> = &'a dyn Fn(Controller, &str) -> Option<String>;

impl Handle {
    /// Sets the limits of a bundle in a new group. One that cannot be set is an error, but for rules of devices where the
    /// caller may not have them enforced: then those are left out and the result is false.
    pub fn apply(&self, resources: &LinuxResources) -> Result<bool, CgroupError> {
        self.limit(resources)?;
        self.apply_devices(resources.devices.as_deref().unwrap_or_default())
    }

    /// Changes limits; those that are not named stay. Rules of devices replace those that were there; result and errors as
    /// of [`Handle::apply`].
    pub fn change(&self, resources: &LinuxResources) -> Result<bool, CgroupError> {
        if let Some(memory) = &resources.memory {
            self.check_use(memory)?;
        }
        self.limit(resources)?;
        match resources.devices.as_deref() {
            None | Some([]) => Ok(true),
            Some(rules) => self.apply_devices(rules),
        }
    }

    /// `memory.checkBeforeUpdate`: no limit below what is used already, for which the kernel would kill.
    fn check_use(&self, memory: &LinuxMemory) -> Result<(), CgroupError> {
        if memory.check_before_update != Some(true) {
            return Ok(());
        }
        let limit = memory.limit.and_then(|limit| u64::try_from(limit).ok());
        match (limit, self.stats().memory) {
            (Some(limit @ 1..), Some(used)) if limit < used => {
                Err(wrong("memory.limit", format!("{used} bytes are used already")))
            }
            _ => Ok(()),
        }
    }

    fn limit(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        let v2 = matches!(self.tree(), Tree::V2 { .. });
        let current = |controller, name: &str| self.text(controller, name);
        let mut again = Vec::new();
        for write in writes(resources, v2, &current)? {
            match self.put(&write) {
                // It may contradict what another one has still to change: a quota below the burst, a limit above that of
                // memory and swap together.
                Err((_, error)) if error.kind() == io::ErrorKind::InvalidInput => again.push(write),
                Err((problem, _)) => return Err(problem),
                Ok(()) => {}
            }
        }
        for write in again {
            self.put_at_last(&write)?;
        }
        Ok(())
    }

    fn put_at_last(&self, write: &Write) -> Result<(), CgroupError> {
        let mut done = self.put(write);
        if let (Err(_), "memory.limit_in_bytes") = (&done, write.file.as_str()) {
            let sum = Write {
                file: "memory.memsw.limit_in_bytes".to_owned(),
                value: "-1".to_owned(),
                ..write.clone()
            };
            done = self.put(&sum).and_then(|()| self.put(write));
        }
        done.map_err(|(problem, _)| problem)
    }

    /// Also with the bare error.
    fn put(&self, write: &Write) -> Result<(), (CgroupError, io::Error)> {
        let name = write.controller.name();
        let Some(dir) = self.dir(write.controller) else {
            let cause = match self.tree() {
                Tree::None { why, fix } => format!("there is no control group: {why}; {fix}"),
                _ => format!("controller `{name}` is not at hand"),
            };
            let missing = io::Error::from(io::ErrorKind::NotFound);
            return Err((wrong(write.field, cause), missing));
        };
        let path = dir.join(&write.file);
        match file::put(&path, &write.value) {
            Err(e) if write.optional && e.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(|e| {
                let have = file::read(&dir.join("cgroup.controllers")).ok();
                let handed_down = have.is_none_or(|have| have.split_whitespace().any(|one| one == name));
                let fix = match handed_down || write.field == "unified" {
                    true => String::new(),
                    false => format!("; controller `{name}` is not handed down to this group"),
                };
                let cause = format!("write `{}` to `{}`: {e}{fix}", write.value, path.display());
                (wrong(write.field, cause), e)
            }),
        }
    }
}

fn wrong(field: impl Into<String>, cause: impl Into<String>) -> CgroupError {
    CgroupError::Resource {
        field: field.into(),
        cause: cause.into(),
    }
}

fn writes(resources: &LinuxResources, v2: bool, current: Current<'_>) -> Result<Vec<Write>, CgroupError> {
    let mut all = Vec::new();
    if v2 {
        v1_only(resources)?;
    }
    if let Some(memory) = &resources.memory {
        all.extend(if v2 {
            memory_v2(memory, current)?
        } else {
            memory_v1(memory)
        });
    }
    if let Some(cpu) = &resources.cpu {
        all.extend(if v2 { cpu_v2(cpu, current) } else { cpu_v1(cpu) });
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
        all.extend(block_io(block, v2, current));
    }
    for limit in resources.hugepage_limits.iter().flatten() {
        let size = &limit.page_size;
        if size.is_empty() || !size.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(wrong("hugepageLimits", format!("`{size}` is not a size such as `2MB`")));
        }
        let last = if v2 { "max" } else { "limit_in_bytes" };
        let one = |name: String| write("hugepageLimits", Controller::Hugetlb, &name, limit.limit.to_string());
        all.push(one(format!("hugetlb.{size}.{last}")));
        // Linux 5.7: what is reserved and not only what is used.
        all.push(optional(one(format!("hugetlb.{size}.rsvd.{last}"))));
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
        let wrong = |cause: &str| wrong(format!("unified.{name}"), cause);
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

/// What v2 has nothing for is refused by its name.
fn v1_only(resources: &LinuxResources) -> Result<(), CgroupError> {
    let (memory, cpu) = (resources.memory.as_ref(), resources.cpu.as_ref());
    let (block, network) = (resources.block_io.as_ref(), resources.network.as_ref());
    let leaf = |block: &LinuxBlockIo| {
        let devices = block.weight_device.iter().flatten();
        block.leaf_weight.is_some_and(|one| one != 0) || devices.filter_map(|one| one.leaf_weight).any(|one| one != 0)
    };
    let fields = [
        (
            "memory.kernelTCP",
            memory.and_then(|m| m.kernel_tcp).is_some_and(|limit| limit != 0),
        ),
        ("memory.swappiness", memory.is_some_and(|m| m.swappiness.is_some())),
        (
            "memory.disableOOMKiller",
            memory.is_some_and(|m| m.disable_oom_killer == Some(true)),
        ),
        (
            "cpu.realtimePeriod",
            cpu.and_then(|c| c.realtime_period).is_some_and(|us| us != 0),
        ),
        (
            "cpu.realtimeRuntime",
            cpu.and_then(|c| c.realtime_runtime).is_some_and(|us| us != 0),
        ),
        ("blockIO.leafWeight", block.is_some_and(leaf)),
        (
            "network.classID",
            network.and_then(|n| n.class_id).is_some_and(|id| id != 0),
        ),
        (
            "network.priorities",
            network
                .and_then(|n| n.priorities.as_ref())
                .is_some_and(|all| !all.is_empty()),
        ),
    ];
    match fields.iter().find(|(_, asked)| *asked) {
        Some((field, _)) => Err(wrong(*field, "is for control groups v1 and has no counterpart in v2")),
        None => Ok(()),
    }
}

fn write(field: &'static str, controller: Controller, file: &str, value: String) -> Write {
    Write {
        field,
        controller,
        file: file.to_owned(),
        value,
        optional: false,
    }
}

fn optional(write: Write) -> Write {
    Write {
        optional: true,
        ..write
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

fn memory_v2(memory: &LinuxMemory, current: Current<'_>) -> Result<Vec<Write>, CgroupError> {
    let one = |field, file: &str, value: String| write(field, Controller::Memory, file, value);
    let set = |limit: Option<i64>| limit.filter(|limit| *limit != 0);
    let mut all = Vec::new();
    all.extend(set(memory.limit).map(|limit| one("memory.limit", "memory.max", max(limit))));
    all.extend(set(memory.reservation).map(|limit| one("memory.reservation", "memory.low", max(limit))));
    // The specification counts memory and swap together, and so who lifts the limit lifts both.
    let sum = set(memory.swap).or(memory.limit.filter(|limit| *limit < 0));
    if let Some(sum) = sum {
        let now = || current(Controller::Memory, "memory.max")?.trim().parse().ok();
        let swap = match (sum, set(memory.limit).or_else(now)) {
            (..0, _) => -1,
            (sum, Some(limit)) if limit >= 0 && sum >= limit => sum - limit,
            _ => {
                return Err(wrong(
                    "memory.swap",
                    "must be at least `limit`, which must be there too",
                ));
            }
        };
        // A kernel without swap gives none, and all that there is.
        let written = one("memory.swap", "memory.swap.max", max(swap));
        all.push(if swap <= 0 { optional(written) } else { written });
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
        one(
            "cpu.burst",
            Cpu,
            "cpu.cfs_burst_us",
            cpu.burst.map(|burst| burst.to_string()),
        ),
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

fn cpu_v2(cpu: &LinuxCpu, current: Current<'_>) -> Vec<Write> {
    use Controller::{Cpu, Cpuset};
    let list = |list: &Option<String>| list.clone().filter(|list| !list.is_empty());
    let mut all = Vec::new();
    if let Some(shares) = cpu.shares.filter(|shares| *shares != 0) {
        let weight = 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142;
        all.push(write("cpu.shares", Cpu, "cpu.weight", weight.to_string()));
    }
    let quota = cpu.quota.filter(|quota| *quota != 0).map(max);
    let maximum = match (quota, cpu.period.filter(|period| *period != 0)) {
        // The period stays as it is.
        (Some(quota), None) => Some(("cpu.quota", quota)),
        (Some(quota), Some(period)) => Some(("cpu.quota", format!("{quota} {period}"))),
        (None, Some(period)) => {
            let now = current(Cpu, "cpu.max").and_then(|now| now.split_whitespace().next().map(str::to_owned));
            Some(("cpu.period", format!("{} {period}", now.unwrap_or_else(|| max(-1)))))
        }
        (None, None) => None,
    };
    all.extend(maximum.map(|(field, value)| write(field, Cpu, "cpu.max", value)));
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

/// How a kernel takes weights of block devices.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weights {
    /// v1, 10 to 1000.
    V1,
    /// v2 by the scheduler bfq, with the same numbers.
    Bfq,
    /// v2 by costs, 1 to 10,000.
    Cost,
}

impl Weights {
    fn number(self, weight: u16) -> String {
        match self {
            Weights::Cost => (1 + (u32::from(weight).clamp(10, 1000) - 10) * 9999 / 990).to_string(),
            Weights::V1 | Weights::Bfq => weight.to_string(),
        }
    }

    /// The file for the group and the one for single devices.
    const fn files(self) -> (&'static str, &'static str) {
        match self {
            Weights::V1 => ("blkio.weight", "blkio.weight_device"),
            Weights::Bfq => ("io.bfq.weight", "io.bfq.weight"),
            Weights::Cost => ("io.weight", "io.weight"),
        }
    }
}

fn block_io(block: &LinuxBlockIo, v2: bool, current: Current<'_>) -> Vec<Write> {
    let mut all = Vec::new();
    let mut add = |field, file: &str, value: String| all.push(write(field, Controller::Io, file, value));
    let weights = match v2 {
        false => Weights::V1,
        true if current(Controller::Io, "io.bfq.weight").is_some() => Weights::Bfq,
        true => Weights::Cost,
    };
    let (file, device_file) = weights.files();
    if let Some(one) = block.weight.filter(|one| *one != 0) {
        let default = if weights == Weights::Cost { "default " } else { "" };
        add("blockIO.weight", file, format!("{default}{}", weights.number(one)));
    }
    if let Some(one) = block.leaf_weight.filter(|one| *one != 0) {
        add("blockIO.leafWeight", "blkio.leaf_weight", one.to_string());
    }
    for device in block.weight_device.iter().flatten() {
        let number = format!("{}:{}", device.major, device.minor);
        if let Some(one) = device.weight.filter(|one| *one != 0) {
            let value = format!("{number} {}", weights.number(one));
            add("blockIO.weightDevice", device_file, value);
        }
        if let Some(one) = device.leaf_weight.filter(|one| *one != 0) {
            let value = format!("{number} {one}");
            add("blockIO.weightDevice", "blkio.leaf_weight_device", value);
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
            match (v2, rate) {
                // 0 is no limit, for which v2 has a word.
                (true, 0) => add(field, "io.max", format!("{number} {key}=max")),
                (true, _) => add(field, "io.max", format!("{number} {key}={rate}")),
                (false, _) => add(field, v1_file, format!("{number} {rate}")),
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(json: &str, v2: bool) -> Result<Vec<String>, String> {
        texts_where(json, v2, &[])
    }

    /// In a group that has these files.
    fn texts_where(json: &str, v2: bool, now: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let resources: LinuxResources = serde_json::from_str(json).expect("resources");
        let current = |_, name: &str| {
            now.iter()
                .find(|(have, _)| *have == name)
                .map(|(_, text)| (*text).to_owned())
        };
        let all = writes(&resources, v2, &current).map_err(|error| error.to_string())?;
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
                "hugetlb.2MB.rsvd.limit_in_bytes 4",
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
                "hugetlb.2MB.rsvd.max 4",
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
            (r#"{"memory":{"swap":5,"limit":-1}}"#, true, "memory.swap"),
            (r#"{"memory":{"swappiness":5}}"#, true, "memory.swappiness"),
            (r#"{"memory":{"kernelTCP":5}}"#, true, "memory.kernelTCP"),
            (
                r#"{"memory":{"disableOOMKiller":true}}"#,
                true,
                "memory.disableOOMKiller",
            ),
            (r#"{"cpu":{"realtimePeriod":5}}"#, true, "cpu.realtimePeriod"),
            (r#"{"cpu":{"realtimeRuntime":5}}"#, true, "cpu.realtimeRuntime"),
            (
                r#"{"blockIO":{"weightDevice":[{"leafWeight":5}]}}"#,
                true,
                "blockIO.leafWeight",
            ),
            (r#"{"network":{"classID":5}}"#, true, "network.classID"),
            (
                r#"{"network":{"priorities":[{"name":"lo","priority":5}]}}"#,
                true,
                "network.priorities",
            ),
            (
                r#"{"hugepageLimits":[{"pageSize":"../2MB","limit":5}]}"#,
                true,
                "hugepageLimits",
            ),
            (r#"{"hugepageLimits":[{"limit":5}]}"#, false, "hugepageLimits"),
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
    fn what_is_not_named_stays_as_the_group_has_it() {
        let now = [("cpu.max", "30000 100000\n"), ("memory.max", "1000\n")];
        for (json, text) in [
            (r#"{"cpu":{"period":50000}}"#, "cpu.max 30000 50000"),
            (r#"{"cpu":{"quota":40000}}"#, "cpu.max 40000"),
            (r#"{"cpu":{"quota":-1}}"#, "cpu.max max"),
            (r#"{"memory":{"swap":1500}}"#, "memory.swap.max 500"),
            (r#"{"memory":{"swap":-1}}"#, "memory.swap.max max"),
        ] {
            assert_eq!(texts_where(json, true, &now).expect(json), [text]);
        }
        assert_eq!(
            texts(r#"{"cpu":{"period":50000}}"#, true).expect("new"),
            ["cpu.max max 50000"]
        );
        let lifted = texts_where(r#"{"memory":{"limit":-1}}"#, true, &now).expect("lifted");
        assert_eq!(lifted, ["memory.max max", "memory.swap.max max"]);
    }

    #[test]
    fn zero_is_not_named_or_unlimited() {
        let json = r#"{"memory":{"limit":0,"swap":0,"reservation":0,"kernelTCP":0,"disableOOMKiller":false},
            "cpu":{"shares":0,"quota":0,"period":0,"realtimePeriod":0,"realtimeRuntime":0,"cpus":"","mems":""},
            "pids":{"limit":0},"blockIO":{"weight":0,"leafWeight":0},"network":{"classID":0,"priorities":[]}}"#;
        for v2 in [true, false] {
            assert_eq!(texts(json, v2).expect("zeroes"), [""; 0]);
        }
        let json = r#"{"blockIO":{"throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":0}]}}"#;
        assert_eq!(texts(json, true).expect("v2"), ["io.max 8:0 wiops=max"]);
        assert_eq!(
            texts(json, false).expect("v1"),
            ["blkio.throttle.write_iops_device 8:0 0"]
        );
    }

    #[test]
    fn weights_go_to_the_scheduler_that_is_there() {
        let json = r#"{"blockIO":{"weight":500,"weightDevice":[{"major":8,"minor":0,"weight":10}]}}"#;
        let bfq = texts_where(json, true, &[("io.bfq.weight", "default 100\n")]);
        assert_eq!(bfq.expect("bfq"), ["io.bfq.weight 500", "io.bfq.weight 8:0 10"]);
        let cost = texts_where(json, true, &[("io.weight", "default 100\n")]);
        assert_eq!(cost.expect("cost"), ["io.weight default 4950", "io.weight 8:0 1"]);
    }
}

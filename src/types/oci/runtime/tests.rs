//! Whole documents.

use serde_json::{Value, json};

use super::*;
use crate::types::read;

/// The specification's own example, and what it leaves out.
fn full() -> Value {
    json!({
        "ociVersion": "1.3.0",
        "process": {
            "terminal": true,
            "consoleSize": {"height": 25, "width": 80},
            "user": {"uid": 1, "gid": 1, "umask": 63, "additionalGids": [5, 6], "username": "kim"},
            "args": ["sh"],
            "env": ["PATH=/usr/bin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": ["CAP_AUDIT_WRITE", "CAP_KILL"],
                "permitted": ["CAP_AUDIT_WRITE"],
                "inheritable": ["CAP_KILL"],
                "effective": ["CAP_AUDIT_WRITE"],
                "ambient": []
            },
            "rlimits": [
                {"type": "RLIMIT_CORE", "hard": 1024, "soft": 1024},
                {"type": "RLIMIT_NOFILE", "hard": u64::MAX, "soft": 1024}
            ],
            "apparmorProfile": "acme_secure_profile",
            "oomScoreAdj": -100,
            "selinuxLabel": "system_u:system_r:svirt_lxc_net_t:s0:c124,c675",
            "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 4},
            "scheduler": {
                "policy": "SCHED_DEADLINE", "nice": 19, "priority": 1, "flags": ["SCHED_FLAG_RECLAIM"],
                "runtime": 10_000_000, "deadline": 20_000_000, "period": 30_000_000
            },
            "execCPUAffinity": {"initial": "7", "final": "0-3,7"},
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "slartibartfast",
        "domainname": "foobarbaz.test",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/data", "type": "none", "source": "/volumes/testing", "options": ["rbind", "rw"],
                "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
                "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}]
            }
        ],
        "hooks": {
            "prestart": [{
                "path": "/usr/bin/fix-mounts", "args": ["fix-mounts", "arg1"], "env": ["key1=value1"], "timeout": 30
            }],
            "createRuntime": [{"path": "/usr/bin/a"}],
            "createContainer": [{"path": "/usr/bin/mount-hook"}],
            "startContainer": [{"path": "/usr/bin/refresh-ldcache"}],
            "poststart": [{"path": "/usr/bin/notify-start", "timeout": 5}],
            "poststop": [{"path": "/usr/sbin/cleanup.sh", "args": ["cleanup.sh", "-f"]}]
        },
        "linux": linux(),
        "annotations": {"com.example.key1": "value1", "com.example.key2": ""}
    })
}

fn linux() -> Value {
    json!({
        "devices": [
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 0},
            {"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}
        ],
        "netDevices": {"eth0": {"name": "container_eth0"}, "ens4": {}},
        "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 32_000}],
        "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 32_000}],
        "sysctl": {"net.ipv4.ip_forward": "1", "net.core.somaxconn": "256"},
        "cgroupsPath": "machine.slice:libpod:abc",
        "resources": {
            "network": {"classID": 1_048_577, "priorities": [{"name": "eth0", "priority": 500}]},
            "pids": {"limit": 32_771},
            "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10_000}},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 9_223_372_036_854_772_000_u64}],
            "memory": {
                "limit": 536_870_912, "reservation": 536_870_912, "swap": -1, "kernel": -1, "kernelTCP": -1,
                "swappiness": 0, "disableOOMKiller": false, "useHierarchy": true, "checkBeforeUpdate": true
            },
            "cpu": {
                "shares": 1024, "quota": 1_000_000, "burst": 1_000_000, "period": 500_000,
                "realtimeRuntime": 950_000, "realtimePeriod": 1_000_000, "cpus": "2-3", "mems": "0-7", "idle": 1
            },
            "devices": [
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}
            ],
            "blockIO": {
                "weight": 10, "leafWeight": 10,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 500, "leafWeight": 300}],
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 600}],
                "throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 601}],
                "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 602}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 300}]
            },
            "unified": {"memory.high": "50331648"}
        },
        "rootfsPropagation": "slave",
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X32", "SCMP_ARCH_LOONGARCH64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
            "listenerPath": "/run/listener.sock",
            "listenerMetadata": "{}",
            "syscalls": [
                {"names": ["getcwd", "chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
                {
                    "names": ["clone"], "action": "SCMP_ACT_ALLOW",
                    "args": [{"index": 0, "value": u64::MAX, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]
                }
            ]
        },
        "timeOffsets": {"monotonic": {"secs": 172_800, "nanosecs": 0}, "boottime": {"secs": -604_800}},
        "namespaces": [
            {"type": "pid"}, {"type": "network", "path": "/run/netns/x"}, {"type": "ipc"}, {"type": "uts"},
            {"type": "mount"}, {"type": "user"}, {"type": "cgroup"}, {"type": "time"}
        ],
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/sys"],
        "mountLabel": "system_u:object_r:svirt_sandbox_file_t:s0:c715,c811",
        "intelRdt": {
            "closID": "guaranteed_group", "schemata": ["L3:0=7f0;1=1f"], "l3CacheSchema": "L3:0=7f0;1=1f",
            "memBwSchema": "MB:0=20;1=70", "enableCMT": true, "enableMBM": true, "enableMonitoring": true
        },
        "memoryPolicy": {"mode": "MPOL_INTERLEAVE", "nodes": "0-3", "flags": ["MPOL_F_STATIC_NODES"]},
        "personality": {"domain": "LINUX32", "flags": []}
    })
}

#[test]
fn a_full_document_is_written_as_it_was_read() {
    let full = full();
    let spec: Spec = read::json(full.to_string().as_bytes()).expect("a specification");
    assert_eq!(serde_json::to_value(&spec).expect("writes"), full);
    assert_eq!(
        spec.linux.and_then(|linux| linux.cgroups_path).as_deref(),
        Some("machine.slice:libpod:abc")
    );
}

#[test]
fn unknown_fields_are_passed_over() {
    let mut more = full();
    more["vm"] = json!({"hypervisor": {"path": "/x"}});
    more["process"]["commandLine"] = json!("x");
    more["linux"]["seccomp"]["syscalls"][0]["comment"] = json!("y");
    let spec: Spec = read::json(more.to_string().as_bytes()).expect("a specification");
    assert_eq!(serde_json::to_value(&spec).expect("writes"), full());
}

#[test]
fn nulls_are_nothing() {
    let text =
        br#"{"ociVersion":"1.0.2","mounts":null,"hooks":null,"annotations":null,"process":{"user":{"uid":0,"gid":0,
        "additionalGids":null},"args":null,"env":null,"cwd":"/","capabilities":null,"rlimits":null},
        "linux":{"resources":{"devices":null},"namespaces":null,"maskedPaths":null,
        "seccomp":{"defaultAction":"SCMP_ACT_ALLOW","architectures":null,
        "syscalls":[{"names":null,"action":"SCMP_ACT_LOG","args":null}]}}}"#;
    let spec: Spec = read::json(text).expect("a specification");
    let written = serde_json::to_string(&spec).expect("writes");
    assert_eq!(
        written,
        r#"{"ociVersion":"1.0.2","process":{"user":{"uid":0,"gid":0},"cwd":"/"},"linux":{"resources":{},"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":[],"action":"SCMP_ACT_LOG"}]}}}"#
    );
}

#[test]
fn what_must_be_there_is_missed() {
    let cases = [
        (r#"{"process":{"user":{}}}"#, "missing field `cwd`"),
        (r#"{"process":{"cwd":"/"}}"#, "missing field `user`"),
        (r#"{"mounts":[{"type":"proc"}]}"#, "missing field `destination`"),
        (r#"{"linux":{"namespaces":[{}]}}"#, "missing field `type`"),
        (r#"{"linux":{"seccomp":{}}}"#, "missing field `defaultAction`"),
        (
            r#"{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_LOG","syscalls":[{"action":"SCMP_ACT_LOG"}]}}}"#,
            "missing field `names`",
        ),
    ];
    for (text, problem) in cases {
        let error = read::json::<Spec>(text.as_bytes()).expect_err(text).to_string();
        assert!(error.contains(problem), "{text}: {error}");
    }
}

//! What only Linux has: namespaces, devices, paths, and what else config-linux.md asks for.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{LinuxResources, LinuxSeccomp};

/// config-linux.md.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Linux {
    /// Network devices that are moved into the container, by their name outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_devices: Option<BTreeMap<String, LinuxNetDevice>>,
    /// Of a new user namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid_mappings: Option<Vec<LinuxIdMapping>>,
    /// Of a new user namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid_mappings: Option<Vec<LinuxIdMapping>>,
    /// Kernel settings, `net.ipv4.ip_forward` to its value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sysctl: Option<BTreeMap<String, String>>,
    /// Limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<LinuxResources>,
    /// A path below the hierarchy's root or the runtime's own group, or `SLICE:PREFIX:NAME` of systemd's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroups_path: Option<String>,
    /// Made or joined; those that are not listed are the runtime's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<LinuxNamespace>>,
    /// Beside the default ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<LinuxDevice>>,
    /// The filter of system calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<LinuxSeccomp>,
    /// `shared`, `slave`, `private` or `unbindable`, or with `r` in front.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs_propagation: Option<String>,
    /// Absolute in the container; cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masked_paths: Option<Vec<String>>,
    /// Absolute in the container; cannot be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readonly_paths: Option<Vec<String>>,
    /// SELinux context of the mounts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_label: Option<String>,
    /// Cache and memory bandwidth of Intel's resctrl.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intel_rdt: Option<LinuxIntelRdt>,
    /// set_mempolicy(2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_policy: Option<LinuxMemoryPolicy>,
    /// personality(2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub personality: Option<LinuxPersonality>,
    /// Of a new time namespace: `monotonic` and `boottime`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_offsets: Option<BTreeMap<String, LinuxTimeOffset>>,
}

/// config-linux.md, "Namespaces".
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LinuxNamespace {
    /// `type`.
    #[serde(rename = "type")]
    pub kind: LinuxNamespaceType,
    /// Absolute, of one that is joined; a new one has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

/// namespaces(7), in the words of config-linux.md, "Namespaces".
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinuxNamespaceType {
    /// `mount`
    Mount,
    /// `cgroup`
    Cgroup,
    /// `uts`
    Uts,
    /// `ipc`
    Ipc,
    /// `user`
    User,
    /// `pid`
    Pid,
    /// `network`
    Network,
    /// `time`
    Time,
}

/// One range of ids (config-linux.md, "User namespace mappings").
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LinuxIdMapping {
    /// First id outside.
    #[serde(default, rename = "hostID")]
    pub host_id: u32,
    /// First id inside.
    #[serde(default, rename = "containerID")]
    pub container_id: u32,
    /// How many.
    #[serde(default)]
    pub size: u32,
}

/// config-linux.md, "Devices".
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinuxDevice {
    /// Absolute in the container.
    #[serde(default)]
    pub path: PathBuf,
    /// `type`.
    #[serde(rename = "type")]
    pub kind: LinuxDeviceType,
    /// Major number.
    #[serde(default)]
    pub major: i64,
    /// Minor number.
    #[serde(default)]
    pub minor: i64,
    /// Permission bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<u32>,
    /// Its owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// mknod(1)'s letters, and `a` for all (config-linux.md, "Devices").
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinuxDeviceType {
    /// All, in rules of the devices controller.
    A,
    /// Block.
    B,
    /// Character.
    C,
    /// Character, unbuffered.
    U,
    /// Pipe.
    P,
}

/// config-linux.md, "Network Devices".
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LinuxNetDevice {
    /// Its name inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// config-linux.md, "IntelRdt".
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinuxIntelRdt {
    /// Name of the class of service.
    #[serde(rename = "closID", skip_serializing_if = "Option::is_none")]
    pub clos_id: Option<String>,
    /// Lines of resctrl's `schemata`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schemata: Option<Vec<String>>,
    /// `L3:0=f;1=f`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub l3_cache_schema: Option<String>,
    /// `MB:0=20;1=70`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_bw_schema: Option<String>,
    /// Deprecated.
    #[serde(rename = "enableCMT", skip_serializing_if = "Option::is_none")]
    pub enable_cmt: Option<bool>,
    /// Deprecated.
    #[serde(rename = "enableMBM", skip_serializing_if = "Option::is_none")]
    pub enable_mbm: Option<bool>,
    /// With a monitoring group of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_monitoring: Option<bool>,
}

/// config-linux.md, "Memory policy".
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LinuxMemoryPolicy {
    /// `MPOL_DEFAULT`, `MPOL_BIND`, `MPOL_INTERLEAVE`, `MPOL_WEIGHTED_INTERLEAVE`, `MPOL_PREFERRED`,
    /// `MPOL_PREFERRED_MANY` or `MPOL_LOCAL`.
    pub mode: String,
    /// A list: `0-3,7`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<String>,
    /// `MPOL_F_NUMA_BALANCING`, `MPOL_F_RELATIVE_NODES`, `MPOL_F_STATIC_NODES`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flags: Option<Vec<String>>,
}

/// config-linux.md, "Personality".
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LinuxPersonality {
    /// `LINUX` or `LINUX32`.
    pub domain: String,
    /// None are defined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flags: Option<Vec<String>>,
}

/// time_namespaces(7) (config-linux.md, "Offset for Time Namespace").
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LinuxTimeOffset {
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secs: Option<i64>,
    /// Nanoseconds on top.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nanosecs: Option<u32>,
}

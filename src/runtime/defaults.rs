//! What podman gives every container when nobody says otherwise: the same lists, so that programs find the same world.

/// Capabilities of root in a container (containers.conf(5), `default_capabilities`).
pub const CAPABILITIES: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// The search path where neither image nor user set one.
pub const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Hidden: they tell about the host or drive it, and no namespace keeps them apart.
pub const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/dev/block",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
];

/// Readable only.
pub const READ_ONLY: [&str; 6] = [
    "/proc/asound",
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Options of a mount: destination, type, source, options.
pub type DefaultMount = (&'static str, &'static str, &'static str, &'static [&'static str]);

/// Mounts of every container, in order; `/dev/pts`, `/sys` and `/sys/fs/cgroup` depend on the host and are not here.
pub const MOUNTS: [DefaultMount; 4] = [
    ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
    (
        "/dev",
        "tmpfs",
        "tmpfs",
        &["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"],
    ),
    ("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    (
        "/dev/shm",
        "tmpfs",
        "shm",
        &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
    ),
];

/// Options of `/dev/pts`; `gid=5` comes on top where that group exists in the container.
pub const DEVPTS: [&str; 5] = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];

/// A new sysfs, which only the owner of a network namespace may mount.
pub const SYSFS: [&str; 4] = ["nosuid", "noexec", "nodev", "ro"];

/// The host's sysfs, with everything mounted below it.
pub const SYSFS_BOUND: [&str; 6] = ["rbind", "nosuid", "noexec", "nodev", "rro", "rprivate"];

/// The container's own control groups, for one whose first process is systemd: it makes groups of its own.
pub const CGROUP_WRITABLE: [&str; 6] = ["nosuid", "noexec", "nodev", "relatime", "rw", "rprivate"];

/// Where systemd wants memory.
pub const SYSTEMD: [&str; 4] = ["/run", "/run/lock", "/tmp", "/var/log/journal"];

/// Options of that.
pub const SYSTEMD_TMPFS: [&str; 5] = ["rw", "rprivate", "nosuid", "nodev", "tmpcopyup"];

/// The container's own control group (v2).
pub const CGROUP: [&str; 6] = ["nosuid", "noexec", "nodev", "relatime", "ro", "rprivate"];

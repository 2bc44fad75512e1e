//! User and group ids, capabilities (capabilities(7)).

use std::io;
use std::ops::BitOr;

use super::call::{check, invalid};

/// A set of capabilities, one bit for each.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Caps(pub u64);

/// Names in the order of their numbers (linux/capability.h).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

impl Caps {
    /// None.
    pub const NONE: Self = Self(0);
    /// Every capability that has a name here.
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);
    /// Exceeds limits.
    pub const SYS_RESOURCE: Self = Self(1 << 24);
    /// Becomes other groups.
    pub const SETGID: Self = Self(1 << 6);
    /// Becomes other users.
    pub const SETUID: Self = Self(1 << 7);
    /// Makes filters, mounts and much more.
    pub const SYS_ADMIN: Self = Self(1 << 21);

    /// The capability of this name, with or without `CAP_`, in any case.
    pub fn by_name(name: &str) -> Option<Self> {
        let upper = name.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        NAMES.iter().position(|&known| known == short).map(|bit| Self(1 << bit))
    }

    /// Those of `names` that are known, spelt as for [`Caps::by_name`].
    pub fn by_names<S: AsRef<str>>(names: &[S]) -> Self {
        let known = names.iter().filter_map(|name| Self::by_name(name.as_ref()));
        known.fold(Self::NONE, |all, cap| all | cap)
    }

    /// Names without `CAP_`, in the order of their numbers.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES
            .iter()
            .enumerate()
            .filter(move |(bit, _)| self.0 & (1 << bit) != 0)
            .map(|(_, &name)| name)
    }

    /// Names with `CAP_`, in the order of their numbers, as the OCI's documents write them.
    pub fn long_names(self) -> Vec<String> {
        self.names().map(|name| format!("CAP_{name}")).collect()
    }

    /// Whether all of `other` are in this set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// What this set holds and `other` does not.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// What both sets hold.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for Caps {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The three sets that capget(2) and capset(2) know.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct CapState {
    /// Those that count now.
    pub effective: Caps,
    /// Those that may be made effective.
    pub permitted: Caps,
    /// Those that exec of a file with inheritable capabilities keeps.
    pub inheritable: Caps,
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`: 64 bits in two halves.
const CAP_VERSION: u32 = 0x2008_0522;

/// Capabilities of this thread.
pub fn caps() -> io::Result<CapState> {
    let mut header = CapHeader {
        version: CAP_VERSION,
        pid: 0,
    };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 writes two elements of `data`.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    let join = |part: fn(&CapData) -> u32| Caps(u64::from(part(&data[0])) | u64::from(part(&data[1])) << 32);
    Ok(CapState {
        effective: join(|d| d.effective),
        permitted: join(|d| d.permitted),
        inheritable: join(|d| d.inheritable),
    })
}

/// Sets the capabilities of this thread. `EPERM` when the permitted set would grow.
pub fn set_caps(state: &CapState) -> io::Result<()> {
    let mut header = CapHeader {
        version: CAP_VERSION,
        pid: 0,
    };
    let half = |shift: u32| CapData {
        effective: (state.effective.0 >> shift) as u32,
        permitted: (state.permitted.0 >> shift) as u32,
        inheritable: (state.inheritable.0 >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads two elements of `data`.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })?;
    Ok(())
}

/// Takes everything but `keep` from the bounding set of this thread, for good.
pub fn limit_bounding(keep: Caps) -> io::Result<()> {
    for cap in 0..64 {
        if keep.has(Caps(1 << cap)) {
            continue;
        }
        // SAFETY: plain arguments.
        let done = check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, cap as libc::c_ulong, 0, 0, 0) }.into());
        match done {
            // Past the last one that this kernel knows.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => break,
            done => done?,
        };
    }
    Ok(())
}

/// Makes the ambient set of this thread exactly `caps`, which must be permitted and inheritable.
pub fn set_ambient(caps: Caps) -> io::Result<()> {
    let call = |what: libc::c_int, cap: libc::c_ulong| {
        // SAFETY: plain arguments.
        check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, what as libc::c_ulong, cap, 0, 0) }.into())
    };
    call(libc::PR_CAP_AMBIENT_CLEAR_ALL, 0)?;
    for cap in (0..64).filter(|&cap| caps.has(Caps(1 << cap))) {
        call(libc::PR_CAP_AMBIENT_RAISE, cap)?;
    }
    Ok(())
}

/// Whether the permitted set outlives a change of the user id away from 0 (until exec).
pub fn keep_caps(yes: bool) -> io::Result<()> {
    // SAFETY: plain arguments.
    check(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, libc::c_ulong::from(yes), 0, 0, 0) }.into())?;
    Ok(())
}

// The wrappers of the C library would ask other threads to follow; these calls are for this one, which is the only one.

/// Sets the supplementary groups of this thread.
pub fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: pointer and length are those of `groups`.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    Ok(())
}

/// Sets real, effective and saved group id of this thread.
pub fn set_gid(gid: u32) -> io::Result<()> {
    // SAFETY: plain arguments.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    Ok(())
}

/// Sets real, effective and saved user id of this thread.
pub fn set_uid(uid: u32) -> io::Result<()> {
    // SAFETY: plain arguments.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
    Ok(())
}

/// Effective user and group id.
pub fn effective_ids() -> (u32, u32) {
    // SAFETY: no arguments; cannot fail.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

/// Becomes another user for good: groups, group, user, no capability left, and root not to be had back.
///
/// Only while the process has one thread; `EDEADLK` otherwise. After an error the process must end: it may be half one
/// user and half another.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    if !super::process::is_single_threaded()? {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    set_groups(groups)?;
    set_gid(gid)?;
    set_uid(uid)?;
    if uid != 0 {
        set_caps(&CapState::default())?;
        set_ambient(Caps::NONE)?;
        if set_uid(0).is_ok() {
            return Err(invalid());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_names() {
        assert_eq!(Caps::by_name("CAP_SYS_ADMIN"), Some(Caps::SYS_ADMIN));
        assert_eq!(Caps::by_name("sys_admin"), Some(Caps::SYS_ADMIN));
        assert_eq!(Caps::by_name("CAP_CHECKPOINT_RESTORE"), Some(Caps(1 << 40)));
        assert_eq!(Caps::by_name("CAP_FLY"), None);
        let two = Caps::by_name("KILL").unwrap_or_default() | Caps::by_name("CHOWN").unwrap_or_default();
        assert_eq!(two.names().collect::<Vec<_>>(), ["CHOWN", "KILL"]);
    }

    #[test]
    fn own_capabilities_match_proc() {
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("procfs");
        let line = status.lines().find_map(|l| l.strip_prefix("CapPrm:")).expect("line");
        assert_eq!(
            caps().expect("capget").permitted.0,
            u64::from_str_radix(line.trim(), 16).expect("hex")
        );
    }
}

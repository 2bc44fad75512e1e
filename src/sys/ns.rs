//! Namespaces (namespaces(7)): leaving, joining, id maps, and the names that the uts namespace holds.

use std::io::{self, Write};
use std::ops::BitOr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use super::call::check;

/// A set of namespace kinds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Namespaces(i32);

impl Namespaces {
    /// None.
    pub const NONE: Self = Self(0);
    /// User and group ids, capabilities.
    pub const USER: Self = Self(libc::CLONE_NEWUSER);
    /// Mounts.
    pub const MOUNT: Self = Self(libc::CLONE_NEWNS);
    /// Process numbers.
    pub const PID: Self = Self(libc::CLONE_NEWPID);
    /// System V objects and message queues.
    pub const IPC: Self = Self(libc::CLONE_NEWIPC);
    /// Host and domain name.
    pub const UTS: Self = Self(libc::CLONE_NEWUTS);
    /// Network.
    pub const NET: Self = Self(libc::CLONE_NEWNET);
    /// The view of the cgroup tree.
    pub const CGROUP: Self = Self(libc::CLONE_NEWCGROUP);
    /// Monotonic and boot time.
    pub const TIME: Self = Self(0x80);

    /// Whether all of `other` are in this set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// This set without `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn bits(self) -> u64 {
        u64::from(self.0.unsigned_abs())
    }
}

impl BitOr for Namespaces {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Moves the caller into new namespaces; a new pid namespace holds only children made later.
pub fn unshare(kinds: Namespaces) -> io::Result<()> {
    // SAFETY: plain argument; no flag here unshares memory or descriptors.
    check(unsafe { libc::unshare(kinds.0) }.into())?;
    Ok(())
}

/// Moves the caller into namespaces of the process behind a pidfd (Linux 5.8), all or none of them; or into the one
/// namespace behind an open `/proc/PID/ns/…` file.
pub fn join(target: BorrowedFd<'_>, kinds: Namespaces) -> io::Result<()> {
    // SAFETY: plain arguments.
    check(unsafe { libc::setns(target.as_raw_fd(), kinds.0) }.into())?;
    Ok(())
}

/// One line of an id map: (first id inside, first id in the parent namespace, how many).
pub type MapLine = (u32, u32, u32);

/// Writes the maps of the user namespace that the process `pid` has just made.
///
/// `deny_setgroups` must be set when the caller has no `CAP_SETGID` in the parent namespace. Each map may be written once;
/// every line must lie within one line of the parent's map (user_namespaces(7)).
pub fn write_id_maps(pid: i32, uids: &[MapLine], gids: &[MapLine], deny_setgroups: bool) -> io::Result<()> {
    if deny_setgroups {
        write_at_once(pid, "setgroups", "deny")?;
    }
    write_at_once(pid, "gid_map", &map_text(gids))?;
    write_at_once(pid, "uid_map", &map_text(uids))
}

fn map_text(lines: &[MapLine]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(lines.len() * 24);
    for (inside, outside, count) in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{inside} {outside} {count}");
    }
    text
}

fn write_at_once(pid: i32, file: &str, text: &str) -> io::Result<()> {
    let file = super::path::open_proc(Path::new(&format!("{pid}/{file}")), super::path::O_WRONLY)?;
    let mut file = std::fs::File::from(file);
    let written = file.write(text.as_bytes())?;
    if written == text.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// Whether `pid` lives in another user namespace than this process.
pub fn has_other_user_namespace(pid: i32) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let theirs = std::fs::metadata(format!("/proc/{pid}/ns/user"))?;
    let ours = std::fs::metadata("/proc/self/ns/user")?;
    Ok((theirs.dev(), theirs.ino()) != (ours.dev(), ours.ino()))
}

/// Whether the ids of the own user namespace are the host's: it is the first one, or one like it.
pub fn has_host_ids() -> io::Result<bool> {
    let map = std::fs::read_to_string("/proc/self/uid_map")?;
    Ok(map.split_whitespace().eq(["0", "0", "4294967295"]))
}

/// Sets the host name of the uts namespace; at most 64 bytes.
pub fn set_host_name(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length are those of `name`.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }.into())?;
    Ok(())
}

/// Sets the NIS domain name of the uts namespace; at most 64 bytes.
pub fn set_domain_name(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length are those of `name`.
    check(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }.into())?;
    Ok(())
}

/// Brings up the loopback interface of the network namespace.
pub fn set_loopback_up() -> io::Result<()> {
    // SAFETY: plain arguments; the result is checked and owned at once.
    let socket =
        super::call::own(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }.into())?;
    // SAFETY: all fields are integers or arrays of them, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: `request` is an ifreq, as this ioctl wants.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw mut request) }.into())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_one_text() {
        assert_eq!(
            map_text(&[(0, 1000, 1), (1, 100_000, 65_536)]),
            "0 1000 1\n1 100000 65536\n"
        );
    }

    #[test]
    fn sets_of_namespaces_combine() {
        let set = Namespaces::USER | Namespaces::PID;
        assert!(set.has(Namespaces::PID) && !set.has(Namespaces::NET));
        assert!(set.without(Namespaces::USER | Namespaces::PID).is_empty());
    }
}

//! Mounts, by descriptor: a file system or a copy of a tree is made detached, given its attributes, then attached to an
//! open target, so that no path is looked up twice (fsopen, open_tree and move_mount: Linux 5.2; mount_setattr: 5.12).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::ptr;

use super::call::{c_string, check, own};

/// Flags of one mount (`MOUNT_ATTR_…` of linux/mount.h).
pub mod attr {
    /// Nothing below may be written.
    pub const RDONLY: u64 = 0x01;
    /// Set-user-id bits do not count.
    pub const NOSUID: u64 = 0x02;
    /// Device nodes do not open.
    pub const NODEV: u64 = 0x04;
    /// Nothing may be executed.
    pub const NOEXEC: u64 = 0x08;
    /// Access times are not updated.
    pub const NOATIME: u64 = 0x10;
    /// Access times are always updated.
    pub const STRICTATIME: u64 = 0x20;
    /// The bits that the access time modes share; cleared before another is set.
    pub const ATIME_MASK: u64 = 0x70;
    /// Access times of directories are not updated.
    pub const NODIRATIME: u64 = 0x80;
    /// Symbolic links are not followed (Linux 5.10).
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// How mounts and unmounts spread to copies of a mount (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Neither way.
    Private,
    /// Inwards only.
    Slave,
    /// Both ways.
    Shared,
    /// Neither way, and no copies.
    Unbindable,
}

impl Propagation {
    fn flag(self) -> libc::c_ulong {
        match self {
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Slave => libc::MS_SLAVE,
            Propagation::Shared => libc::MS_SHARED,
            Propagation::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

const CLOSE_ON_EXEC: u32 = 1;

/// A file system under construction.
#[derive(Debug)]
pub struct NewFs(OwnedFd);

impl NewFs {
    /// Begins one of this type; `ENODEV` when the kernel does not have it.
    pub fn open(kind: &str) -> io::Result<Self> {
        let kind = c_string(kind)?;
        // SAFETY: `kind` ends with a NUL.
        own(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), CLOSE_ON_EXEC) }).map(NewFs)
    }

    /// Sets an option with a value; at most 255 bytes.
    pub fn set(&self, key: &str, value: &str) -> io::Result<()> {
        const SET_STRING: u32 = 1;
        let (key, value) = (c_string(key)?, c_string(value)?);
        self.configure(SET_STRING, key.as_ptr(), value.as_ptr())
    }

    /// Sets an option that has no value.
    pub fn set_flag(&self, key: &str) -> io::Result<()> {
        const SET_FLAG: u32 = 0;
        let key = c_string(key)?;
        self.configure(SET_FLAG, key.as_ptr(), ptr::null())
    }

    /// Makes it, and a detached mount of it with these [`attr`] bits.
    pub fn mount(self, attrs: u64) -> io::Result<OwnedFd> {
        const CREATE: u32 = 6;
        self.configure(CREATE, ptr::null(), ptr::null())?;
        // SAFETY: plain arguments; the result is checked and owned at once.
        own(unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), CLOSE_ON_EXEC, attrs) })
    }

    fn configure(&self, command: u32, key: *const libc::c_char, value: *const libc::c_char) -> io::Result<()> {
        // SAFETY: key and value are null or end with a NUL, as the command wants.
        check(unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, key, value, 0) })?;
        Ok(())
    }
}

/// A detached copy of the mount at `path` (relative to `dir`; empty: `dir` itself), with the mounts below it if `recursive`.
pub fn copy_tree(dir: BorrowedFd<'_>, path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    const CLONE: libc::c_int = 1;
    let below = if recursive { libc::AT_RECURSIVE } else { 0 };
    let flags = CLONE | libc::O_CLOEXEC | libc::AT_EMPTY_PATH | below;
    // SAFETY: `path` ends with a NUL; the result is checked and owned at once.
    own(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })
}

/// Attaches a detached mount onto what `target` refers to. `mount` then refers to the attached root.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    const FROM_EMPTY_PATH: libc::c_uint = 0x04;
    const TO_EMPTY_PATH: libc::c_uint = 0x40;
    let none = c"".as_ptr();
    // SAFETY: the empty paths end with a NUL and mean the descriptors themselves.
    check(unsafe {
        let flags = FROM_EMPTY_PATH | TO_EMPTY_PATH;
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            none,
            target.as_raw_fd(),
            none,
            flags,
        )
    })?;
    Ok(())
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Sets and clears [`attr`] bits of a mount, and of those below it if `recursive`. Bits that a more privileged owner has
/// locked stay as they are unless they are to be cleared, which is `EPERM`. `ENOSYS` before Linux 5.12.
pub fn set_attrs(mount: BorrowedFd<'_>, recursive: bool, set: u64, clear: u64) -> io::Result<()> {
    // A mode of access times replaces the others.
    let clear = if (set | clear) & attr::ATIME_MASK != 0 {
        clear | attr::ATIME_MASK
    } else {
        clear
    };
    set_raw(
        mount,
        recursive,
        &MountAttr {
            set,
            clear,
            propagation: 0,
            user_namespace: 0,
        },
    )
}

/// Sets the propagation of a mount, and of those below it if `recursive`.
pub fn set_propagation(mount: BorrowedFd<'_>, recursive: bool, to: Propagation) -> io::Result<()> {
    #[allow(clippy::useless_conversion, reason = "c_ulong has another width on other systems")]
    set_raw(
        mount,
        recursive,
        &MountAttr {
            set: 0,
            clear: 0,
            propagation: to.flag().into(),
            user_namespace: 0,
        },
    )
}

/// Shifts the owners of a detached mount's files, and of the mounts below it if `recursive`, by the map of a user namespace.
/// `EINVAL` where its file system cannot; `EPERM` without rights over it.
pub fn map_ids(mount: BorrowedFd<'_>, recursive: bool, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
    const IDMAP: u64 = 0x10_0000;
    set_raw(
        mount,
        recursive,
        &MountAttr {
            set: IDMAP,
            clear: 0,
            propagation: 0,
            user_namespace: u64::from(user_namespace.as_raw_fd().unsigned_abs()),
        },
    )
}

fn set_raw(mount: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the empty path means the descriptor; `attr` is a mount_attr of the size given.
    check(unsafe {
        let (none, size) = (c"".as_ptr(), size_of::<MountAttr>());
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            none,
            flags,
            ptr::from_ref(attr),
            size,
        )
    })?;
    Ok(())
}

/// Sets [`attr`] bits of one attached mount in the old way, keeping the bits it has (for kernels before 5.12).
pub fn remount(mount: BorrowedFd<'_>, set: u64) -> io::Result<()> {
    // SAFETY: all fields are integers, for which zero is a value.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is valid for writes.
    check(unsafe { libc::fstatvfs(mount.as_raw_fd(), &raw mut stat) }.into())?;
    // The ST_ and the MS_ flags have the same values.
    const KEPT: libc::c_ulong = libc::MS_RDONLY
        | libc::MS_NOSUID
        | libc::MS_NODEV
        | libc::MS_NOEXEC
        | libc::MS_NOATIME
        | libc::MS_NODIRATIME
        | libc::MS_RELATIME;
    let has = stat.f_flag as libc::c_ulong & KEPT;
    let wants = [
        (attr::RDONLY, libc::MS_RDONLY),
        (attr::NOSUID, libc::MS_NOSUID),
        (attr::NODEV, libc::MS_NODEV),
        (attr::NOEXEC, libc::MS_NOEXEC),
        (attr::NOATIME, libc::MS_NOATIME),
        (attr::NODIRATIME, libc::MS_NODIRATIME),
        (attr::STRICTATIME, libc::MS_STRICTATIME),
    ];
    let flags = wants
        .iter()
        .filter(|(bit, _)| set & bit != 0)
        .fold(has, |flags, (_, flag)| flags | flag);
    let target = format!("/proc/self/fd/{}", mount.as_raw_fd());
    mount_raw(
        c"none",
        &c_string(target)?,
        None,
        flags | libc::MS_BIND | libc::MS_REMOUNT,
        None,
    )
}

/// Mounts a file system in the old way, with its options as one text (at most 4,095 bytes) and `MS_…` flags.
pub fn mount_at(source: &str, target: &Path, kind: &str, flags: u64, options: &str) -> io::Result<()> {
    const OPTION_BYTES_MAX: usize = 4095;
    if options.len() > OPTION_BYTES_MAX {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    let (source, target, kind, options) = (
        c_string(source)?,
        c_string(target)?,
        c_string(kind)?,
        c_string(options)?,
    );
    mount_raw(&source, &target, Some(&kind), flags as libc::c_ulong, Some(&options))
}

fn mount_raw(
    source: &CStr,
    target: &CStr,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    options: Option<&CString>,
) -> io::Result<()> {
    let kind = kind.map_or(ptr::null(), CStr::as_ptr);
    let options = options.map_or(ptr::null(), |text| text.as_ptr().cast());
    // SAFETY: the texts end with a NUL or are null; this kernel interface reads options as text.
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind, flags, options) }.into())?;
    Ok(())
}

/// Sets the propagation of `/` and every mount below it.
pub fn set_root_propagation(to: Propagation) -> io::Result<()> {
    mount_raw(c"none", c"/", None, to.flag() | libc::MS_REC, None)
}

/// Makes the mount at `root` the root of the mount namespace and of this process, and lets go of everything that was
/// mounted before. `EINVAL` on an initramfs, which cannot be pivoted away from.
pub fn pivot_to(root: BorrowedFd<'_>) -> io::Result<()> {
    super::path::enter(root)?;
    // The same directory for both: the old root is stacked on the new one and `.` is it (pivot_root(2), notes).
    // SAFETY: both texts end with a NUL.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    detach(c".")?;
    // SAFETY: the text ends with a NUL.
    check(unsafe { libc::chdir(c"/".as_ptr()) }.into())?;
    Ok(())
}

/// Moves the mount at `root` over `/` and makes it the root of this process, for where [`pivot_to`] does not work. The mounts
/// below stay where they are, out of sight.
pub fn move_to(root: BorrowedFd<'_>) -> io::Result<()> {
    super::path::enter(root)?;
    mount_raw(c".", c"/", None, libc::MS_MOVE, None)?;
    // SAFETY: the text ends with a NUL.
    check(unsafe { libc::chroot(c".".as_ptr()) }.into())?;
    // SAFETY: the text ends with a NUL.
    check(unsafe { libc::chdir(c"/".as_ptr()) }.into())?;
    Ok(())
}

/// Unmounts the topmost mount at `path` and those below it, at once from the tree and really when no longer used. A link
/// at the end is not followed.
pub fn detach(path: &CStr) -> io::Result<()> {
    // SAFETY: `path` ends with a NUL.
    check(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) }.into())?;
    Ok(())
}

/// Unmounts the topmost mount at `path`; `EBUSY` where it is in use. A link at the end is not followed.
pub fn unmount(path: &CStr) -> io::Result<()> {
    // SAFETY: `path` ends with a NUL.
    check(unsafe { libc::umount2(path.as_ptr(), libc::UMOUNT_NOFOLLOW) }.into())?;
    Ok(())
}

/// Makes `dir` the root directory of this process, and its working directory.
pub fn change_root(dir: BorrowedFd<'_>) -> io::Result<()> {
    super::path::enter(dir)?;
    // SAFETY: the text ends with a NUL.
    check(unsafe { libc::chroot(c".".as_ptr()) }.into())?;
    Ok(())
}

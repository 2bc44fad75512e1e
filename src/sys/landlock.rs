//! Restricts this process to a few directory trees (landlock(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::call::{check, own};

/// What may be done below a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read files and list directories.
    Read,
    /// Everything but executing.
    Write,
}

/// Oldest interface that is used: the one before it forbids every hard link from one directory to another.
const ABI_MIN: i64 = 2;

const READ: u64 = 1 << 2 | 1 << 3;
/// Bits 0 to 13: execute, write, read, list, remove (2), make (7), refer.
const ABI_2: u64 = (1 << 14) - 1;
const EXECUTE: u64 = 1;
/// Since ABI 3.
const TRUNCATE: u64 = 1 << 14;
/// Since ABI 5.
const IOCTL_DEV: u64 = 1 << 15;
/// Binding and connecting TCP sockets, since ABI 4.
const NET: u64 = 3;
/// Abstract sockets and signals to others, since ABI 6.
const SCOPED: u64 = 3;

const CREATE_VERSION: libc::c_ulong = 1;
const RULE_PATH_BENEATH: libc::c_ulong = 1;

#[repr(C)]
struct Attributes {
    fs: u64,
    net: u64,
    scoped: u64,
}

#[repr(C, packed)]
struct PathBeneath {
    access: u64,
    parent: i32,
}

/// Forbids this thread, for good, every access to files that no rule allows, and TCP, abstract sockets and signals where the kernel
/// can. `false` when this kernel has no landlock, or one older than ABI 2. Needs no-new-privileges.
pub fn restrict(rules: &[(BorrowedFd, Access)]) -> io::Result<bool> {
    let abi = abi();
    if abi < ABI_MIN {
        return Ok(false);
    }
    let mut handled = ABI_2;
    if abi >= 3 {
        handled |= TRUNCATE;
    }
    if abi >= 5 {
        handled |= IOCTL_DEV;
    }
    let attributes = Attributes {
        fs: handled,
        net: if abi >= 4 { NET } else { 0 },
        scoped: if abi >= 6 { SCOPED } else { 0 },
    };
    // Older kernels refuse sizes beyond what they know unless the rest is zero, which it is.
    // SAFETY: `attributes` is valid for reads of its size; the kernel keeps no reference.
    let ruleset = own(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attributes,
            size_of::<Attributes>(),
            0,
        )
    })?;
    for (dir, access) in rules {
        let access = match access {
            Access::Read => READ,
            Access::Write => handled & !EXECUTE,
        };
        let rule = PathBeneath {
            access,
            parent: dir.as_raw_fd(),
        };
        // SAFETY: `rule` has the layout of `struct landlock_path_beneath_attr` and lives over the call.
        check(unsafe {
            let rule = &raw const rule;
            libc::syscall(
                libc::SYS_landlock_add_rule,
                ruleset.as_raw_fd(),
                RULE_PATH_BENEATH,
                rule,
                0,
            )
        })?;
    }
    // SAFETY: plain arguments.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_fd().as_raw_fd(), 0) })?;
    Ok(true)
}

/// The kernel's landlock interface; 0 when it has none.
pub fn abi() -> i64 {
    let none: *const Attributes = std::ptr::null();
    // SAFETY: with this flag no memory is read.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0usize, CREATE_VERSION) };
    version.max(0)
}

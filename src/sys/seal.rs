//! The running binary, and descriptors of it that nobody can write through.
//!
//! Who may look at a process opens its binary through `/proc/PID/exe`, from any root and in any mount namespace; and may
//! write to it then if ids and modes allow it, once nobody executes it any more.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::call::{check, own};
use super::mount::{self, attr};
use super::path::{self, FsKind};
use super::{creds, errno};

/// What a process has executed.
const OWN: &str = "/proc/self/exe";

/// The running binary (`O_PATH`).
pub fn binary() -> io::Result<OwnedFd> {
    path::open_host(Path::new(OWN), path::O_PATH)
}

/// Whether somebody with the ids and capabilities of the caller could write to the binary through this very descriptor,
/// or after a change of its mode; not where it is on a read-only mount, or a sealed copy in memory.
pub fn is_exposed(binary: BorrowedFd<'_>) -> io::Result<bool> {
    let flags = libc::AT_EACCESS | libc::AT_EMPTY_PATH;
    // SAFETY: the empty path ends with a NUL and means the descriptor itself.
    let done = check(unsafe {
        libc::syscall(
            libc::SYS_faccessat2,
            binary.as_raw_fd(),
            c"".as_ptr(),
            libc::W_OK,
            flags,
        )
    });
    match done {
        Ok(_) => Ok(path::fs_kind(binary)? != FsKind::Ram || !has_seals()?),
        Err(e) if e.raw_os_error() == Some(errno::EROFS) => Ok(false),
        Err(e) if matches!(e.raw_os_error(), Some(errno::EACCES | errno::EPERM)) => {
            Ok(path::status(binary)?.uid == creds::effective_ids().0)
        }
        Err(e) => Err(e),
    }
}

/// The binary (`O_PATH`) on a mount of its own that is read-only and goes with its last use. Needs `CAP_SYS_ADMIN` over the mount namespace that `binary` is in; `ENOSYS` before Linux 5.12.
pub fn read_only_mount(binary: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let copy = mount::copy_tree(binary, c"", false)?;
    mount::set_attrs(copy.as_fd(), false, attr::RDONLY, 0)?;
    // The first descriptor alone holds the mount in a namespace, where who has rights over any could make it writable.
    let flags = libc::O_CLOEXEC | libc::AT_EMPTY_PATH;
    // SAFETY: the empty path ends with a NUL and means the descriptor itself; the result is checked and owned at once.
    own(unsafe { libc::syscall(libc::SYS_open_tree, copy.as_raw_fd(), c"".as_ptr(), flags) })
}

const SEALS: libc::c_int = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;

fn has_seals() -> io::Result<bool> {
    let file = File::open(OWN)?;
    // SAFETY: plain arguments.
    match check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) }.into()) {
        // A file of tmpfs that was not made by memfd_create(2).
        Err(e) if e.raw_os_error() == Some(errno::EINVAL) => Ok(false),
        seals => Ok(seals? & libc::c_long::from(SEALS) == libc::c_long::from(SEALS)),
    }
}

/// A copy of the running binary in memory that is never written again.
pub fn copy_in_memory() -> io::Result<OwnedFd> {
    /// `MFD_EXEC`: it may be executed; not known before Linux 6.3.
    const EXEC: libc::c_uint = 0x10;
    let make = |more: libc::c_uint| {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | more;
        // SAFETY: the name ends with a NUL; the result is checked and owned at once.
        own(unsafe { libc::syscall(libc::SYS_memfd_create, c"dunlin".as_ptr(), flags) })
    };
    let made = match make(EXEC) {
        Err(e) if e.raw_os_error() == Some(errno::EINVAL) => make(0)?,
        done => done?,
    };
    let mut copy = File::from(made);
    io::copy(&mut File::open(OWN)?, &mut copy)?;
    // SAFETY: plain arguments.
    check(unsafe { libc::fcntl(copy.as_raw_fd(), libc::F_ADD_SEALS, SEALS) }.into())?;
    Ok(copy.into())
}

/// Executes what a descriptor refers to. Returns only the error.
pub fn exec(program: BorrowedFd<'_>, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        let texts = list.iter().map(|text| text.as_ptr());
        texts.chain([std::ptr::null()]).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    let none: &CStr = c"";
    // SAFETY: both arrays end with a null pointer and their texts live until the call has failed; the empty path ends
    // with a NUL and means the descriptor itself.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            none.as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Executes what a descriptor refers to with the arguments and the environment of this process. Returns only the error.
pub fn exec_again(program: BorrowedFd<'_>) -> io::Error {
    let text = |text: OsString| CString::new(text.as_bytes()).map_err(io::Error::from);
    let pair = |(name, value): (OsString, OsString)| [name, value].join(OsStr::new("="));
    let args: io::Result<Vec<CString>> = std::env::args_os().map(text).collect();
    let env: io::Result<Vec<CString>> = std::env::vars_os().map(pair).map(text).collect();
    match (args, env) {
        (Ok(args), Ok(env)) => exec(program, &args, &env),
        (Err(error), _) | (_, Err(error)) => error,
    }
}

/// The path of the running binary. On a mount of its own ([`read_only_mount`]) it has none; it is then the one that its
/// caller has put before the arguments, if that is one.
pub fn own_path() -> io::Result<PathBuf> {
    let path = std::fs::read_link(OWN)?;
    let called = std::env::args_os().next().map(PathBuf::from);
    match called.filter(|called| path == Path::new("/") && called.is_absolute()) {
        Some(called) => Ok(called),
        None => Ok(path),
    }
}

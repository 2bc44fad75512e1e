//! What a raw system call returned, as a result.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

/// `-1` becomes the error in `errno`.
pub(super) fn check(done: libc::c_long) -> io::Result<libc::c_long> {
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(done)
    }
}

/// A descriptor that the kernel has just made becomes an owned one, `-1` the error.
pub(super) fn own(done: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(check(done)?).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel has just returned this descriptor to us; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Runs `call` again as long as a signal interrupts it.
pub(super) fn retry(mut call: impl FnMut() -> libc::c_long) -> io::Result<libc::c_long> {
    loop {
        match check(call()) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// The text with a NUL at its end; one inside is `EINVAL`, as the kernel would say.
pub(super) fn c_string(text: impl AsRef<OsStr>) -> io::Result<CString> {
    CString::new(text.as_ref().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// `EINVAL`.
pub(super) fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

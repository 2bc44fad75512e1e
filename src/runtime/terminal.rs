//! A terminal of the container's own devpts.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::error::RuntimeError;
use crate::sys::errno;
use crate::sys::path::{self, FsKind, Resolve};
use crate::sys::tty::{self, WindowSize};

/// A new terminal below `root`: its master and the end that the process gets.
///
/// In a running container `/dev` is in the hands of its root, so the device that makes terminals must be devpts's own, and
/// the process's end is taken from the master, not by a path.
pub fn open(root: BorrowedFd<'_>, size: Option<WindowSize>) -> Result<(OwnedFd, OwnedFd), RuntimeError> {
    let fail = |e: io::Error| RuntimeError::Process {
        action: "make a terminal in `/dev/pts`".to_owned(),
        errno: e.into(),
    };
    let odd = || fail(io::Error::from_raw_os_error(errno::ENODEV));
    let flags = path::O_PATH | path::O_DIRECTORY;
    let pts = path::open_at(root, Path::new("dev/pts"), flags, 0, Resolve::InRootNoLinks).map_err(fail)?;
    if path::fs_kind(pts.as_fd()).map_err(fail)? != FsKind::Pts {
        return Err(odd());
    }
    let flags = path::O_RDWR | path::O_NOCTTY;
    let master = path::open_at(pts.as_fd(), Path::new("ptmx"), flags, 0, Resolve::BeneathNoLinks).map_err(fail)?;
    // Nor may something else be mounted on it.
    let status = path::status(master.as_fd()).map_err(fail)?;
    let kind = path::fs_kind(master.as_fd()).map_err(fail)?;
    if kind != FsKind::Pts || !status.is_char_device() || status.device() != (5, 2) {
        return Err(odd());
    }
    tty::unlock(master.as_fd()).map_err(fail)?;
    let end = tty::peer(master.as_fd()).map_err(fail)?;
    if let Some(size) = size {
        tty::set_window_size(end.as_fd(), size).map_err(fail)?;
    }
    Ok((master, end))
}

//! Terminals: pseudo terminals, raw mode that is undone, window sizes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

fn check(done: libc::c_int) -> io::Result<libc::c_int> {
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(done)
    }
}

fn own(fd: libc::c_int) -> io::Result<OwnedFd> {
    let fd = check(fd)?;
    // SAFETY: the kernel just returned this descriptor to us; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

/// A new pseudo terminal of the mount namespace's `/dev/pts`: its master and its other end, neither of them becoming
/// the caller's controlling terminal.
pub fn open_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: plain argument; the result is checked and owned at once.
    let master = own(unsafe { libc::posix_openpt(flags) })?;
    unlock(master.as_fd())?;
    let end = peer(master.as_fd())?;
    Ok((master, end))
}

/// Lets the other end of a fresh master be opened.
pub fn unlock(master: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: plain argument.
    check(unsafe { libc::unlockpt(master.as_raw_fd()) })?;
    Ok(())
}

/// Opens the other end of a master without a path (`TIOCGPTPEER`), whatever namespace it belongs to.
pub fn peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the argument is a number of flags; the result is checked and owned at once.
    own(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER as _, flags) })
}

/// Whether `fd` is a terminal.
pub fn is_terminal(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: plain argument.
    unsafe { libc::isatty(fd.as_raw_fd()) == 1 }
}

/// The size of the terminal behind `fd`.
pub fn window_size(fd: BorrowedFd<'_>) -> io::Result<WindowSize> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: `size` is valid for writes.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ as _, &raw mut size) })?;
    Ok(WindowSize {
        rows: size.ws_row,
        cols: size.ws_col,
    })
}

/// Sets the size of the terminal behind `fd`; its foreground processes get `SIGWINCH` where it changed.
pub fn set_window_size(fd: BorrowedFd<'_>, size: WindowSize) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: `size` is valid for reads.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ as _, &raw const size) })?;
    Ok(())
}

/// Makes `fd` the controlling terminal of the calling process, which must lead a session without one.
pub fn take_control(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the argument is a number.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY as _, 0) })?;
    Ok(())
}

fn attributes(fd: BorrowedFd<'_>) -> io::Result<libc::termios> {
    // SAFETY: termios is plain old data for which all zeroes is a valid value.
    let mut found: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: `found` is valid for writes.
    check(unsafe { libc::tcgetattr(fd.as_raw_fd(), &raw mut found) })?;
    Ok(found)
}

fn set_attributes(fd: BorrowedFd<'_>, wanted: &libc::termios) -> io::Result<()> {
    // SAFETY: `wanted` is valid for reads.
    check(unsafe { libc::tcsetattr(fd.as_raw_fd(), libc::TCSADRAIN, &raw const *wanted) })?;
    Ok(())
}

/// Puts a terminal into raw mode until it is dropped.
#[must_use = "dropping the guard ends raw mode"]
pub struct RawMode {
    terminal: OwnedFd,
    before: libc::termios,
}

impl RawMode {
    /// Every byte as it is typed, no echo, no signals from keys.
    pub fn enter(terminal: BorrowedFd<'_>) -> io::Result<Self> {
        let terminal = terminal.try_clone_to_owned()?;
        let before = attributes(terminal.as_fd())?;
        let mut raw = before;
        // SAFETY: `raw` is valid for reads and writes.
        unsafe { libc::cfmakeraw(&raw mut raw) };
        set_attributes(terminal.as_fd(), &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that is gone has no mode to restore.
        let _ = set_attributes(self.terminal.as_fd(), &self.before);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn raw_mode_and_size_reach_the_terminal_and_are_undone() {
        let (master, end) = open_pair().unwrap();
        assert!(is_terminal(end.as_fd()) && is_terminal(master.as_fd()));
        let size = WindowSize { rows: 31, cols: 117 };
        set_window_size(master.as_fd(), size).unwrap();
        assert_eq!(window_size(end.as_fd()).unwrap(), size);
        let before = attributes(end.as_fd()).unwrap();
        let guard = RawMode::enter(end.as_fd()).unwrap();
        assert_eq!(
            attributes(end.as_fd()).unwrap().c_lflag & (libc::ECHO | libc::ICANON | libc::ISIG),
            0
        );
        drop(guard);
        assert_eq!(attributes(end.as_fd()).unwrap().c_lflag, before.c_lflag);
    }

    #[test]
    fn pipes_are_no_terminals() {
        let (reader, _writer) = io::pipe().unwrap();
        assert!(!is_terminal(reader.as_fd()));
        assert!(window_size(reader.as_fd()).is_err());
    }
}

//! Waiting for a container or a process in one: signals are passed on, and a terminal is relayed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::event::{self, Interest, Poll, SignalFd};
use crate::sys::tty::{self, RawMode};
use crate::sys::{process, socket};

/// Signals that are passed on: HUP INT QUIT USR1 USR2 ALRM TERM CONT WINCH PWR.
const SIGNALS: [i32; 10] = [1, 2, 3, 10, 12, 14, 15, 18, 28, 30];
/// Of these, the one that only says that the terminal's size changed.
const WINDOW_CHANGED: i32 = 28;
/// Bytes copied at once.
const CHUNK: usize = 16 << 10;

/// Signals caught from now on, so that none is lost between the start of a process and [`Foreground::wait`].
pub struct Foreground {
    signals: SignalFd,
}

impl Foreground {
    /// Catches signals.
    pub fn new() -> io::Result<Self> {
        Ok(Foreground {
            signals: SignalFd::new(&SIGNALS)?,
        })
    }

    /// Waits for the end of a child; the result is its code as shells give it.
    pub fn wait(&self, pidfd: BorrowedFd<'_>, console: Option<OwnedFd>) -> io::Result<u8> {
        let (stdin, stdout) = (io::stdin(), io::stdout());
        let raw = match &console {
            Some(master) if tty::is_terminal(stdin.as_fd()) => {
                resize(master.as_fd(), stdin.as_fd());
                Some(RawMode::enter(stdin.as_fd())?)
            }
            _ => None,
        };
        let (mut input, mut output) = (console.is_some(), console.is_some());
        loop {
            let master = console.as_ref().map(AsFd::as_fd);
            let mut all = [
                Poll::new(Some(pidfd), Interest::READ),
                Poll::new(Some(self.signals.as_fd()), Interest::READ),
                Poll::new(master.filter(|_| output), Interest::READ),
                Poll::new(Some(stdin.as_fd()).filter(|_| input), Interest::READ),
            ];
            event::poll(&mut all, None)?;
            let is_ready = |at: usize| all[at].ready.read || all[at].ready.hangup;
            let (ended, signalled) = (is_ready(0), is_ready(1));
            if let Some(master) = master {
                // All that was written is shown before the end is told.
                if output && is_ready(2) {
                    output = copy(master, stdout.as_fd());
                    continue;
                }
                if input && is_ready(3) {
                    input = copy(stdin.as_fd(), master);
                }
            }
            while let Some(signal) = self.signals.read().ok().flatten().filter(|_| signalled) {
                match (signal.number, master) {
                    (WINDOW_CHANGED, Some(master)) => resize(master, stdin.as_fd()),
                    // It may just have ended.
                    (number, _) => drop(process::send_signal(pidfd, number)),
                }
            }
            if ended {
                break;
            }
        }
        drop(raw);
        let ended = process::wait(pidfd)?;
        Ok(u8::try_from(ended.code() & 0xff).unwrap_or(u8::MAX))
    }
}

fn resize(master: BorrowedFd<'_>, terminal: BorrowedFd<'_>) {
    // Without a terminal there is no size.
    let _ = tty::window_size(terminal).and_then(|size| tty::set_window_size(master, size));
}

/// Copies what is there; false at its end.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut buffer = [0; CHUNK];
    // A terminal whose other end is closed says EIO.
    let Ok(length @ 1..) = socket::read(from, &mut buffer) else {
        return false;
    };
    let mut rest = &buffer[..length];
    while !rest.is_empty() {
        match socket::write(to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(_) => return false,
        }
    }
    true
}

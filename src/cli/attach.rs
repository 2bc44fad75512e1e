//! This terminal, or these pipes, on a process in a container.

use super::failure::Failure;
use crate::monitor::client::{Ended, Ends, Session};
use crate::monitor::wire::Size;
use crate::sys::event::SignalFd;
use crate::sys::tty::{self, RawMode};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Signals that are passed on, and that must not end dunlin while the terminal is raw: HUP INT QUIT USR1 USR2 ALRM TERM
/// WINCH PWR.
const SIGNALS: [i32; 9] = [1, 2, 3, 10, 12, 14, 15, 28, 30];
/// Of these, the one that only says that the terminal's size changed.
const WINDOW_CHANGED: i32 = 28;

/// How a process is attached to.
#[derive(Debug, Clone, Default)]
pub struct Attachment {
    /// Pass input on.
    pub stdin: bool,
    /// The process has a terminal.
    pub tty: bool,
    /// Pass signals on.
    pub sig_proxy: bool,
    /// Bytes that detach, where input is a terminal.
    pub detach_keys: Vec<u8>,
}

/// The terminal made ready: raw while it lives, signals caught.
pub struct Ready {
    attachment: Attachment,
    signals: Option<SignalFd>,
    raw: Option<RawMode>,
    input_is_terminal: bool,
}

/// The size of the terminal that dunlin runs on.
pub fn terminal_size() -> Option<Size> {
    let size = |fd: BorrowedFd<'_>| tty::window_size(fd).ok().filter(|size| size.rows > 0 && size.cols > 0);
    let found = size(io::stdout().as_fd()).or_else(|| size(io::stdin().as_fd()))?;
    Some(Size {
        rows: found.rows,
        cols: found.cols,
    })
}

/// Whether stdin is a terminal.
pub fn stdin_is_terminal() -> bool {
    tty::is_terminal(io::stdin().as_fd())
}

/// Catches signals from now on, so that none is lost between the start of a process and [`Ready::relay`].
pub fn prepare(attachment: Attachment) -> Result<Ready, Failure> {
    let input_is_terminal = stdin_is_terminal();
    let raw = attachment.tty && attachment.stdin && input_is_terminal;
    let signals = if attachment.sig_proxy || raw {
        Some(SignalFd::new(&SIGNALS)?)
    } else if attachment.tty {
        Some(SignalFd::new(&[WINDOW_CHANGED])?)
    } else {
        None
    };
    Ok(Ready {
        attachment,
        signals,
        raw: None,
        input_is_terminal,
    })
}

impl Ready {
    /// Copies until the process ends or the session does; the terminal is as before afterwards.
    pub fn relay(mut self, session: &mut Session) -> Result<Ended, Failure> {
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let raw = self.attachment.tty && self.attachment.stdin && self.input_is_terminal;
        if raw {
            self.raw = Some(RawMode::enter(stdin.as_fd())?);
        }
        let terminal = if tty::is_terminal(stdout.as_fd()) {
            stdout.as_fd()
        } else {
            stdin.as_fd()
        };
        let ends = Ends {
            stdin: self.attachment.stdin.then(|| stdin.as_fd()),
            stdout: Some(stdout.as_fd()),
            stderr: Some(stderr.as_fd()),
            signals: self.signals.as_ref(),
            leave_on_signal: !self.attachment.sig_proxy,
            terminal: self.attachment.tty.then_some(terminal),
            detach_keys: if self.input_is_terminal {
                &self.attachment.detach_keys
            } else {
                &[]
            },
        };
        let ended = session.relay(&ends);
        drop(self.raw.take());
        Ok(ended?)
    }
}

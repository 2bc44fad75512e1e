//! The disposable child that begins a run or an exec.
//!
//! Reading a bundle and preparing mounts takes memory, and may hang on a dead network mount. So a child does it, and makes
//! the container's process as its sibling: a child of the monitor. It reports over a socket pair:
//!
//! ```text
//! child                      monitor
//! Made{pid} + pidfd, helper, console →  a run only: state is written, the network namespace joined
//!                            ← GO
//! Ran{pid} (+ pidfd, console for an exec) →
//! Failed(refusal) →          instead of any of them
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::token::Token;
use super::wire::{self, Refusal};
use crate::sys::event::{Epoll, Interest};
use crate::sys::process::{self, CloneArgs, Cloned};
use crate::sys::socket;
use crate::types::time::Mono;

/// `SIGKILL`.
pub const SIGKILL: i32 = 9;
/// The monitor's word to let the program run.
const GO: &[u8] = b"go";
/// Bytes of a report at the most.
const REPORT_BYTES: usize = 8 << 10;

/// What the child says.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub enum Report {
    /// The process is there and waits.
    Made {
        /// Its number.
        pid: i32,
        /// That of its network's helper, whose descriptor comes after the process's own.
        helper: Option<i32>,
    },
    /// Its program runs.
    Ran {
        /// Its number.
        pid: i32,
    },
    /// It does not.
    Failed(Refusal),
}

/// The monitor's side.
#[derive(Debug)]
pub struct Starter {
    /// Its number.
    pub pid: i32,
    pidfd: OwnedFd,
    socket: OwnedFd,
    /// When it has taken too long.
    pub deadline: Mono,
}

/// The child's side.
#[derive(Debug)]
pub struct Talk {
    socket: OwnedFd,
}

impl Starter {
    /// Makes a child that does `work` and ends.
    pub fn begin(
        epoll: &Epoll,
        index: usize,
        deadline: Mono,
        work: impl FnOnce(&Talk) -> Result<(), Refusal>,
    ) -> io::Result<Starter> {
        let (ours, theirs) = socket::pair()?;
        socket::set_nonblocking(ours.as_fd(), true)?;
        match process::clone(&CloneArgs::default())? {
            Cloned::Parent(child) => {
                epoll.add(ours.as_fd(), Token::Starter(index).into(), Interest::READ)?;
                Ok(Starter {
                    pid: child.pid,
                    pidfd: child.pidfd,
                    socket: ours,
                    deadline,
                })
            }
            Cloned::Child => {
                drop(ours);
                crate::sys::alloc::begin();
                let talk = Talk { socket: theirs };
                let prepared = process::reset_signals().and_then(|()| process::set_parent_death_signal(SIGKILL));
                let done = match prepared {
                    Ok(()) => work(&talk),
                    Err(error) => Err(Refusal::new(format!("prepare to start: {error}"))),
                };
                if let Err(refusal) = done {
                    talk.say(&Report::Failed(refusal), &[]);
                }
                process::exit_now(0)
            }
        }
    }

    /// What it reported, with its descriptors; `None` when it has not yet. A child that ended without a word failed.
    pub fn hear(&self) -> Option<(Report, Vec<OwnedFd>)> {
        let mut buffer = [0; REPORT_BYTES];
        let failed = |text: String| Some((Report::Failed(Refusal::new(text)), Vec::new()));
        match socket::recv_with_fds(self.socket.as_fd(), &mut buffer) {
            Ok((0, _)) => failed("the process that prepares the start ended without a word".into()),
            Ok((got, fds)) => match wire::decode(&buffer[..got]) {
                Ok(report) => Some((report, fds)),
                Err(error) => failed(error.to_string()),
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => failed(format!("hear from the process that prepares the start: {error}")),
        }
    }

    /// Lets the program run.
    pub fn go(&self) -> io::Result<()> {
        socket::send(self.socket.as_fd(), GO)
    }
}

/// Ends a starter that has done its work, or must not go on.
pub fn end(epoll: &Epoll, starter: &mut Option<Starter>) {
    if let Some(starter) = starter.take() {
        // A child that is just being made has a copy of it, so closing alone would not take it out of the set.
        let _ = epoll.remove(starter.socket.as_fd());
    }
}

impl Drop for Starter {
    fn drop(&mut self) {
        // It has ended, or must. It is waited for with all other children.
        let _ = process::send_signal(self.pidfd.as_fd(), SIGKILL);
    }
}

impl Talk {
    /// Reports; a monitor that is gone needs no report.
    pub fn say(&self, report: &Report, fds: &[BorrowedFd<'_>]) {
        let mut packet = wire::encode(report).unwrap_or_default();
        if let (true, Report::Failed(refusal)) = (packet.len() > REPORT_BYTES, report) {
            let message = refusal.message.chars().take(REPORT_BYTES / 8).collect();
            packet = wire::encode(&Report::Failed(Refusal {
                code: refusal.code,
                message,
            }))
            .unwrap_or_default();
        }
        let _ = socket::send_with_fds(self.socket.as_fd(), &packet, fds);
    }

    /// Waits until the program may run.
    pub fn wait_go(&self, patience: Duration) -> Result<(), Refusal> {
        let mut buffer = [0; 8];
        let gone = || Refusal::new("the monitor is gone");
        socket::set_timeouts(self.socket.as_fd(), Some(patience)).map_err(|_| gone())?;
        match socket::recv(self.socket.as_fd(), &mut buffer) {
            Ok(got) if &buffer[..got] == GO => Ok(()),
            _ => Err(gone()),
        }
    }
}

//! What whoever starts a container hands over for it beside a session: sockets that its program serves, and where its
//! program's word that it is ready (sd_notify(3)) goes.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;

use super::main::Monitor;
use super::token::Token;
use super::wire::{HANDED_VERSION, MonitorConfig};
use crate::sys::event::{Epoll, Interest};

/// Bytes of a message at the most; systemd takes no more.
pub const BYTES: usize = 4 << 10;
/// What has no meaning outside: the program's own number, and what comes with descriptors, which are closed.
const INSIDE: [&[u8]; 4] = [b"MAINPID=", b"BARRIER=", b"FDSTORE", b"FDNAME="];

/// What was handed over.
#[derive(Debug, Default)]
pub struct Handed {
    /// Where the program's messages arrive, and where they go.
    notify: Option<(UnixDatagram, UnixDatagram)>,
    /// For the program, from number 3 on.
    pub sockets: Vec<OwnedFd>,
}

impl Handed {
    /// Takes what is not a session out of a start's descriptors. With [`HANDED_VERSION`] they are: a session, the socket that
    /// messages arrive at, the one that they go to, and those for the program. A socket whose other end is closed stands for
    /// one of the first three that there is none of.
    pub fn take(config: &MonitorConfig, fds: &mut Vec<OwnedFd>, epoll: &Epoll) -> io::Result<Handed> {
        if config.version != HANDED_VERSION || fds.len() < 3 {
            return Ok(Handed::default());
        }
        let sockets = fds.split_off(3);
        let (Some(to), Some(from)) = (fds.pop(), fds.pop()) else {
            return Ok(Handed::default());
        };
        epoll.add(from.as_fd(), Token::Notify.into(), Interest::READ)?;
        let notify = (UnixDatagram::from(from), UnixDatagram::from(to));
        notify.0.set_nonblocking(true)?;
        notify.1.set_nonblocking(true)?;
        Ok(Handed {
            notify: Some(notify),
            sockets,
        })
    }
}

impl Monitor {
    /// The container's program says how it is.
    pub(super) fn notified(&mut self) {
        let Some((from, to)) = &self.handed.notify else { return };
        match relay(from, to, Some(std::process::id())) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(true) => {}
            // Nobody sends empty messages: the other end is closed.
            Ok(false) | Err(_) => {
                let _ = self.epoll.remove(from.as_fd());
                self.handed.notify = None;
            }
        }
    }
}

/// Passes on one message, if it says anything; false when it is empty. One that nobody takes is lost, as systemd has it.
pub fn relay(from: &UnixDatagram, to: &UnixDatagram, main: Option<u32>) -> io::Result<bool> {
    let mut buffer = [0; BYTES];
    let got = from.recv(&mut buffer)?;
    let message = outside(&buffer[..got], main);
    if !message.is_empty() {
        let _ = to.send(&message);
    }
    Ok(got > 0)
}

/// A message as it is passed on; with the word that it is ready goes who shall count as the main process.
fn outside(message: &[u8], main: Option<u32>) -> Vec<u8> {
    let mut all = Vec::new();
    for line in message.split(|byte| *byte == b'\n') {
        if line.is_empty() || INSIDE.iter().any(|known| line.starts_with(known)) {
            continue;
        }
        if let (b"READY=1", Some(pid)) = (line, main) {
            all.extend_from_slice(format!("MAINPID={pid}\n").as_bytes());
        }
        all.extend_from_slice(line);
        all.push(b'\n');
    }
    all.pop();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_nothing_outside_stays_inside() {
        for (inside, main, want) in [
            ("READY=1", None, "READY=1"),
            ("READY=1", Some(7), "MAINPID=7\nREADY=1"),
            (
                "STATUS=up\nREADY=1\nMAINPID=1\n",
                Some(7),
                "STATUS=up\nMAINPID=7\nREADY=1",
            ),
            ("WATCHDOG=1", Some(7), "WATCHDOG=1"),
            ("BARRIER=1", Some(7), ""),
            ("FDSTORE=1\nFDNAME=x", None, ""),
            ("", Some(7), ""),
        ] {
            assert_eq!(outside(inside.as_bytes(), main), want.as_bytes(), "{inside:?}");
        }
    }
}

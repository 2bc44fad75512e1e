//! What dunlin and the process that it makes say to each other over a packet socket, until the program runs.
//!
//! ```text
//! parent                                   child
//!   Go        ids are mapped, group entered  →
//!         ←  Ready (+ master of the terminal)    everything is set up
//!   Start     run the program                →
//!         ←  end of file                         the program runs: the socket was closed by exec
//! ```
//!
//! Where a bundle has hooks, `Hooks` and `HooksDone` come before `Ready`; where its filter has a listener, `Listener` and
//! `Taken` before the end of file. Instead of `Ready` or the end of file, [`ToParent::Failed`] may come. A process that joins
//! a running container starts without `Ready` and `Start`; its terminal comes with [`ToParent::Console`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::{Errno, RuntimeError};
use crate::sys::{errno, socket};
use crate::types::bounds::READY_S;

/// Bytes of one message: an error names a path or two.
const MESSAGE_BYTES: usize = 16 << 10;

/// From the child.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToParent {
    /// All is set up; with the terminal's master if there is a terminal.
    Ready,
    /// The master of an exec's terminal comes with it.
    Console,
    /// Namespaces and root are made: it is time for the hooks outside.
    Hooks,
    /// In a moment it has a seccomp listener of this number, and waits until the parent has it.
    Listener(i32),
    /// It did not work; the child ends.
    Failed(RuntimeError),
}

/// From the parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToChild {
    /// Ids are mapped and the control group is entered.
    Go,
    /// The hooks have run.
    HooksDone,
    /// Run the program.
    Start,
    /// The listener has been taken.
    Taken,
}

/// The parent's end.
#[derive(Debug)]
pub struct ParentEnd(OwnedFd);

/// The child's end.
#[derive(Debug)]
pub struct ChildEnd(OwnedFd);

/// Two connected ends, both close-on-exec.
pub fn pair() -> Result<(ParentEnd, ChildEnd), RuntimeError> {
    let (parent, child) = socket::pair().map_err(RuntimeError::socket)?;
    socket::set_timeouts(parent.as_fd(), Some(Duration::from_secs(READY_S))).map_err(RuntimeError::socket)?;
    Ok((ParentEnd(parent), ChildEnd(child)))
}

impl ParentEnd {
    /// Tells the child to go on.
    pub fn send(&self, message: ToChild) -> Result<(), RuntimeError> {
        send(self.0.as_fd(), &message, &[])
    }

    /// An end that is connected already, for whoever starts a container that somebody else has made.
    pub fn connected(fd: OwnedFd) -> Self {
        ParentEnd(fd)
    }

    /// The child's next message; none when it has closed its end.
    pub fn receive(&self, waiting_for: &str) -> Result<Option<(ToParent, Option<OwnedFd>)>, RuntimeError> {
        let mut buffer = [0; MESSAGE_BYTES];
        let (length, fds) =
            socket::recv_with_fds(self.0.as_fd(), &mut buffer).map_err(|e| match Errno::from(&e).0 {
                errno::ETIMEDOUT | errno::EAGAIN => RuntimeError::Timeout {
                    seconds: READY_S,
                    waiting_for: waiting_for.to_owned(),
                },
                _ => RuntimeError::socket(e),
            })?;
        match length {
            0 => Ok(None),
            _ => Ok(Some((decode(&buffer[..length])?, fds.into_iter().next()))),
        }
    }
}

impl ChildEnd {
    /// An end that has got another descriptor.
    pub fn new(fd: OwnedFd) -> Self {
        ChildEnd(fd)
    }

    /// Its descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Tells the parent something, with a descriptor if there is one.
    pub fn send(&self, message: &ToParent, fd: Option<BorrowedFd<'_>>) -> Result<(), RuntimeError> {
        send(self.0.as_fd(), message, fd.as_slice())
    }

    /// The same under a filter that may have a say on every call: by read(2), which hardly any denies.
    pub fn await_taken(&self) -> Result<(), RuntimeError> {
        let mut buffer = [0; 16];
        let length = socket::read(self.0.as_fd(), &mut buffer).map_err(RuntimeError::socket)?;
        match decode::<ToChild>(buffer.get(..length).unwrap_or_default())? {
            ToChild::Taken => Ok(()),
            _ => Err(RuntimeError::Socket {
                errno: Errno(errno::EINVAL),
            }),
        }
    }

    /// Waits until the parent says `expected`. The parent may take its time: it is gone when its end closes, which is an
    /// error here.
    pub fn await_message(&self, expected: ToChild) -> Result<(), RuntimeError> {
        let mut buffer = [0; 16];
        let length = socket::recv(self.0.as_fd(), &mut buffer).map_err(RuntimeError::socket)?;
        let gone = RuntimeError::Socket {
            errno: Errno(errno::ESRCH),
        };
        if length == 0 || decode::<ToChild>(&buffer[..length])? != expected {
            return Err(gone);
        }
        Ok(())
    }
}

fn send(to: BorrowedFd<'_>, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> Result<(), RuntimeError> {
    let invalid = |_| RuntimeError::Socket {
        errno: Errno(errno::EINVAL),
    };
    let mut bytes = postcard::to_allocvec(message).map_err(invalid)?;
    if bytes.len() > MESSAGE_BYTES {
        // Only an error that repeats something endless can be that long.
        let short = RuntimeError::spec("process", "a name in it is too long to be shown");
        bytes = postcard::to_allocvec(&ToParent::Failed(short)).map_err(invalid)?;
    }
    socket::send_with_fds(to, &bytes, fds).map_err(RuntimeError::socket)
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, RuntimeError> {
    postcard::from_bytes(bytes).map_err(|_| RuntimeError::Socket {
        errno: Errno(errno::EINVAL),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_descriptors_cross() {
        let (parent, child) = pair().expect("sockets");
        let error = RuntimeError::NotFound {
            program: "x".into(),
            searched: true,
        };
        child
            .send(&ToParent::Failed(error), Some(child.0.as_fd()))
            .expect("sends");
        let (message, fd) = parent.receive("a test").expect("receives").expect("a message");
        assert!(matches!(message, ToParent::Failed(e) if e.exit_code() == 127));
        assert!(fd.is_some());
        parent.send(ToChild::Go).expect("sends");
        child.await_message(ToChild::Go).expect("go");
        parent.send(ToChild::Go).expect("sends");
        assert!(child.await_message(ToChild::Start).is_err(), "out of order");
        drop(child);
        drop(fd);
        assert!(parent.receive("a test").expect("end").is_none());
    }

    #[test]
    fn an_endless_error_is_cut() {
        let (parent, child) = pair().expect("sockets");
        let error = RuntimeError::spec("mounts", "x".repeat(MESSAGE_BYTES));
        child.send(&ToParent::Failed(error), None).expect("sends");
        let (message, _) = parent.receive("a test").expect("receives").expect("a message");
        assert!(matches!(message, ToParent::Failed(RuntimeError::Spec { .. })));
    }
}

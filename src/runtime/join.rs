//! Namespaces that exist already and are joined by the path of their file, and the process that does so.
//!
//! Joining changes the process that joins, and a user namespace cannot be left again. So a process made for this joins,
//! makes the container's first process as its own sibling, hands it back and ends.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::error::{Errno, RuntimeError};
use crate::sys::ns::{self, Namespaces};
use crate::sys::path;
use crate::sys::process::{self, Child, CloneArgs, Cloned};
use crate::sys::{errno, socket};

/// An open namespace.
#[derive(Debug)]
pub struct Joined {
    kind: Namespaces,
    path: String,
    file: OwnedFd,
}

impl Joined {
    /// Opens the file of a namespace.
    pub fn open(kind: Namespaces, file: &Path) -> Result<Self, RuntimeError> {
        let path = file.display().to_string();
        match path::open_host(file, path::O_RDONLY) {
            Ok(file) => Ok(Joined { kind, path, file }),
            Err(e) => Err(failed(kind, path, e.into())),
        }
    }

    fn enter(&self) -> Result<(), RuntimeError> {
        ns::join(self.file.as_fd(), self.kind).map_err(|e| failed(self.kind, self.path.clone(), e.into()))
    }
}

fn failed(kind: Namespaces, path: String, errno: Errno) -> RuntimeError {
    const NAMES: [(Namespaces, &str); 8] = [
        (Namespaces::MOUNT, "mount"),
        (Namespaces::CGROUP, "cgroup"),
        (Namespaces::UTS, "uts"),
        (Namespaces::IPC, "ipc"),
        (Namespaces::USER, "user"),
        (Namespaces::PID, "pid"),
        (Namespaces::NET, "network"),
        (Namespaces::TIME, "time"),
    ];
    let kind = NAMES
        .iter()
        .find(|(known, _)| *known == kind)
        .map_or("", |(_, name)| *name)
        .to_owned();
    RuntimeError::JoinPath { kind, path, errno }
}

/// Makes a child of the caller in all of these namespaces.
pub fn clone_in(joined: &[Joined], args: &CloneArgs<'_>) -> Result<Cloned, RuntimeError> {
    let fail = |e: std::io::Error| RuntimeError::Clone { errno: e.into() };
    if joined.is_empty() {
        return process::clone(args).map_err(fail);
    }
    let (ours, theirs) = socket::pair().map_err(RuntimeError::socket)?;
    // Its own sibling is the caller's too, if that is asked for.
    let beside = CloneArgs {
        sibling: args.sibling,
        ..CloneArgs::default()
    };
    let helper = match process::clone(&beside).map_err(fail)? {
        Cloned::Parent(child) => child,
        Cloned::Child => {
            drop(ours);
            let args = CloneArgs { sibling: true, ..*args };
            match enter_all(joined).and_then(|()| process::clone(&args).map_err(fail)) {
                Ok(Cloned::Child) => return Ok(Cloned::Child),
                Ok(Cloned::Parent(child)) => {
                    // The parent finds out when nothing comes.
                    let _ = socket::send_with_fds(theirs.as_fd(), &child.pid.to_le_bytes(), &[child.pidfd.as_fd()]);
                }
                Err(error) => {
                    let text = postcard::to_allocvec(&error).unwrap_or_default();
                    let _ = socket::send(theirs.as_fd(), &text);
                }
            }
            process::exit_now(0)
        }
    };
    drop(theirs);
    let mut buffer = [0; 4096];
    let received = socket::recv_with_fds(ours.as_fd(), &mut buffer).map_err(RuntimeError::socket);
    // It ends by itself; its status says nothing, and is the common parent's where it is a sibling.
    let _ = process::wait(helper.pidfd.as_fd());
    let (length, fds) = received?;
    match (fds.into_iter().next(), <[u8; 4]>::try_from(&buffer[..length])) {
        (Some(pidfd), Ok(pid)) => Ok(Cloned::Parent(Child {
            pid: i32::from_le_bytes(pid),
            pidfd,
        })),
        _ => Err(postcard::from_bytes(&buffer[..length]).unwrap_or(RuntimeError::Socket {
            errno: Errno(errno::EINVAL),
        })),
    }
}

/// The user namespace gives rights over what belongs to it and takes those over the rest: so what can be joined before it
/// is. Mounts come last, since all paths change with them.
fn enter_all(joined: &[Joined]) -> Result<(), RuntimeError> {
    let is = |kind| move |one: &&Joined| one.kind == kind;
    let others = |one: &&Joined| one.kind != Namespaces::USER && one.kind != Namespaces::MOUNT;
    let refused: Vec<&Joined> = joined
        .iter()
        .filter(others)
        .filter(|one| one.enter().is_err())
        .collect();
    joined.iter().filter(is(Namespaces::USER)).try_for_each(Joined::enter)?;
    refused.into_iter().try_for_each(Joined::enter)?;
    joined.iter().filter(is(Namespaces::MOUNT)).try_for_each(Joined::enter)
}

//! Making a container: one clone3 into new namespaces, then the id maps, while the child sets itself up.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::cgroup::Handle;
use super::error::{Errno, RuntimeError};
use super::init;
use super::launch::Launch;
use super::message::{self, ParentEnd, ToChild, ToParent};
use super::mounts;
use crate::sys::ns::{self, MapLine, Namespaces};
use crate::sys::process::{self, Child, CloneArgs, Cloned};
use crate::types::idmap::{Extent, IdMap};

/// A container whose program waits to be started. Dropping it before ends the container's first process, which remains
/// to be waited for.
#[derive(Debug)]
pub struct Created {
    /// The first process, in the caller's pid namespace.
    pub pid: i32,
    /// The same; a child of the caller, or of its parent if a sibling was asked for.
    pub pidfd: OwnedFd,
    /// The master of its terminal, if it has one.
    pub console: Option<OwnedFd>,
    start: Option<ParentEnd>,
}

/// Makes a container. Everything is set up and its program is found when this returns; after an error nothing is left of
/// it but a writable layer's contents and the control group, which the caller made.
///
/// The caller must have one thread and all capabilities in its user namespace, whose ids must contain those of
/// [`Launch::id_map`]. With [`Launch::sibling`] it may find itself in another mount namespace with the same files.
pub fn create(launch: Launch<'_>) -> Result<Created, RuntimeError> {
    let namespaces = init::check(launch.spec)?;
    if launch.sibling {
        mounts::leave_first_mount_apart()?;
    }
    let (parent_end, child_end) = message::pair()?;
    let group = group_dir(launch.cgroup)?;
    let args = CloneArgs {
        // The cgroup namespace comes later: it begins at the group of who makes it.
        namespaces: namespaces.without(Namespaces::CGROUP),
        cgroup: group.as_ref().map(AsFd::as_fd),
        sibling: launch.sibling,
    };
    let child = match process::clone(&args).map_err(|e| RuntimeError::Clone { errno: e.into() })? {
        Cloned::Parent(child) => child,
        Cloned::Child => {
            drop(parent_end);
            init::run(launch, namespaces, child_end)
        }
    };
    let Launch {
        id_map, cgroup, stdio, ..
    } = launch;
    // The child has its own copies; the readers of its output wait for the last one to be closed.
    drop((child_end, stdio));
    let attach = cgroup.filter(|_| group.is_none());
    match bring_up(&parent_end, &child, &id_map, attach) {
        Ok(console) => Ok(Created {
            pid: child.pid,
            pidfd: child.pidfd,
            console,
            start: Some(parent_end),
        }),
        Err(error) => Err(bury(child.pidfd.as_fd(), error)),
    }
}

impl Created {
    /// Lets the program run. Returns once it does; after an error the process has ended and remains to be waited for.
    /// A second call does nothing.
    pub fn start(&mut self) -> Result<(), RuntimeError> {
        let Some(end) = self.start.take() else { return Ok(()) };
        end.send(ToChild::Start)?;
        match end.receive("starting its program") {
            // Exec has closed the other end.
            Ok(None) => Ok(()),
            Ok(Some((ToParent::Failed(error), _))) => Err(error),
            Ok(Some(_)) => Err(RuntimeError::Socket {
                errno: Errno(crate::sys::errno::EINVAL),
            }),
            Err(error) => {
                // It hangs in exec; it cannot be left half started.
                let _ = process::send_signal(self.pidfd.as_fd(), KILL);
                Err(error)
            }
        }
    }
}

/// Signal 9.
const KILL: i32 = 9;

/// The directory of a v2 group, for starting in it.
pub(super) fn group_dir(cgroup: Option<&Handle>) -> Result<Option<OwnedFd>, RuntimeError> {
    let Some(handle) = cgroup else { return Ok(None) };
    handle
        .dir_fd()
        .map_err(|e| RuntimeError::Cgroup { problem: e.to_string() })
}

fn bring_up(
    end: &ParentEnd,
    child: &Child,
    ids: &IdMap,
    attach: Option<&Handle>,
) -> Result<Option<OwnedFd>, RuntimeError> {
    map_ids(child.pid, ids)?;
    release(end, child, attach)?;
    let mut console = None;
    loop {
        match end.receive("setting up its root")? {
            Some((ToParent::Ready, _)) => return Ok(console),
            Some((ToParent::Console, fd)) => console = fd,
            Some((ToParent::Failed(error), _)) => return Err(error),
            None => return Err(died(child.pidfd.as_fd())),
        }
    }
}

/// Enters the child into a v1 group, if there is one, and lets it go on.
pub(super) fn release(end: &ParentEnd, child: &Child, attach: Option<&Handle>) -> Result<(), RuntimeError> {
    if let Some(handle) = attach {
        handle
            .attach(child.pid)
            .map_err(|e| RuntimeError::Cgroup { problem: e.to_string() })?;
    }
    end.send(ToChild::Go)
}

fn map_ids(pid: i32, ids: &IdMap) -> Result<(), RuntimeError> {
    let lines =
        |extents: &[Extent]| -> Vec<MapLine> { extents.iter().map(|e| (e.inside, e.outside, e.count)).collect() };
    let (uids, gids) = (lines(&ids.uids), lines(&ids.gids));
    ns::write_id_maps(pid, &uids, &gids, ids.is_single()).map_err(|e| {
        let text = |lines: &[MapLine]| {
            lines
                .iter()
                .map(|(i, o, c)| format!("{i} {o} {c}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        RuntimeError::IdMap {
            uids: text(&uids),
            gids: text(&gids),
            errno: e.into(),
        }
    })
}

/// The error for a child that closed its end without a word; waits for it.
fn died(pidfd: BorrowedFd<'_>) -> RuntimeError {
    let how = match process::wait(pidfd) {
        Ok(process::Ended::Code(code)) => format!("exit code {code}"),
        Ok(process::Ended::Signal(signal)) => format!("signal {signal}"),
        // A sibling's status goes to the common parent.
        Err(_) => "it was killed".to_owned(),
    };
    RuntimeError::Died { how }
}

/// Makes sure that the child has ended, and takes its status unless it is a sibling.
pub(super) fn bury(pidfd: BorrowedFd<'_>, error: RuntimeError) -> RuntimeError {
    // Both fail where it is gone already.
    let _ = process::send_signal(pidfd, KILL);
    let _ = process::wait(pidfd);
    error
}

//! Namespaces without a program: a process that only holds them, for containers that share them (a pod).

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::cgroup::Handle;
use super::create::{self, Group};
use super::error::RuntimeError;
use super::{idmap, init};
use crate::sys::ns::{self, Namespaces};
use crate::sys::process::{self, Child, CloneArgs, Cloned};
use crate::sys::{event, socket};
use crate::types::idmap::IdMap;

/// Time for either side to do its part.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes a process in new user, network, ipc and uts namespaces that waits for its end. It is a child of the caller's parent and
/// dies with it.
pub fn hold(ids: &IdMap, host_name: &str, cgroup: &Handle) -> Result<Child, RuntimeError> {
    let (ours, theirs) = socket::pair().map_err(RuntimeError::socket)?;
    let group = Group::open(Some(cgroup))?;
    create::be_seen()?;
    let args = CloneArgs {
        namespaces: Namespaces::USER | Namespaces::NET | Namespaces::IPC | Namespaces::UTS,
        cgroup: group.dir.as_ref().map(AsFd::as_fd),
        sibling: true,
    };
    let cloned = process::clone(&args).map_err(|e| RuntimeError::Clone { errno: e.into() })?;
    let child = match cloned {
        Cloned::Parent(child) => child,
        Cloned::Child => {
            drop(ours);
            init::end_with_error(|| (stay(theirs, group, host_name), None))
        }
    };
    drop((theirs, group));
    let mut answer = [0; 512];
    let mut come = || {
        idmap::write(child.pid, ids)?;
        socket::send(ours.as_fd(), b"go").map_err(RuntimeError::socket)?;
        socket::set_timeouts(ours.as_fd(), Some(PATIENCE)).map_err(RuntimeError::socket)?;
        socket::recv(ours.as_fd(), &mut answer).map_err(RuntimeError::socket)
    };
    let error = match come() {
        Ok(length) if &answer[..length] == b"ready" => return Ok(child),
        Ok(length) => postcard::from_bytes(&answer[..length]).unwrap_or(RuntimeError::Died {
            how: "it ended without a word".to_owned(),
        }),
        Err(error) => error,
    };
    Err(create::bury(child.pidfd.as_fd(), error))
}

/// In the process: sets up the namespaces and waits for its end. Returns only an error, which it has told.
fn stay(parent: OwnedFd, group: Group, host_name: &str) -> RuntimeError {
    let set_up = || {
        socket::set_timeouts(parent.as_fd(), Some(PATIENCE)).map_err(RuntimeError::socket)?;
        socket::recv(parent.as_fd(), &mut [0; 8]).map_err(RuntimeError::socket)?;
        group.enter()?;
        init::become_root()?;
        ns::set_loopback_up().map_err(RuntimeError::process("bring up the loopback interface"))?;
        ns::set_host_name(host_name).map_err(RuntimeError::process(format!("set host name `{host_name}`")))?;
        init::last_steps(true)
    };
    if let Err(error) = set_up() {
        let text = postcard::to_allocvec(&error).unwrap_or_default();
        // Nobody else would be told.
        let _ = socket::send(parent.as_fd(), &text);
        return error;
    }
    // Only the name is for people.
    let _ = process::set_name(c"dunlin-pod");
    let close = || RuntimeError::process("close inherited descriptors");
    let parent = match process::close_all_but_stdio_and(parent) {
        Ok(parent) => parent,
        Err(error) => return close()(error),
    };
    if let Err(error) = socket::send(parent.as_fd(), b"ready") {
        return RuntimeError::socket(error);
    }
    drop(parent);
    loop {
        // Its end comes as a signal.
        if let Err(error) = event::poll(&mut [], None) {
            return RuntimeError::process("wait")(error);
        }
    }
}

//! A further process in a running container.
//!
//! The caller puts its children into the container's pid namespace, clones into the container's control group and gets
//! its own pid namespace back; the child joins all the rest at once through the pidfd. There is no process in between.

use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::Process;

use super::check;
use super::create::{bury, group_dir, release};
use super::error::{Errno, RuntimeError};
use super::init::{become_root, end_with_error, identify, open_streams};
use super::launch::{ExecProcess, ExecTarget, Stdio};
use super::message::{self, ChildEnd, ParentEnd, ToChild, ToParent};
use super::process::{self as runtime_process, Prepared};
use crate::sys::ns::{self, Namespaces};
use crate::sys::path;
use crate::sys::process::{self, Child, CloneArgs, Cloned};
use crate::sys::{errno, tty};

/// Runs `process` in the container. Returns once its program runs; after an error nothing is left of it.
///
/// `user` is `USER[:GROUP]`, looked up in the container; none: the numbers of `process.user` stand. The caller must have
/// one thread and all capabilities in its user namespace, an ancestor of the container's.
pub fn exec(
    target: &ExecTarget<'_>,
    process: &Process,
    user: Option<&str>,
    stdio: Stdio,
) -> Result<ExecProcess, RuntimeError> {
    let namespaces = check::namespaces(target.spec)?;
    check::process_supported(process)?;
    let (parent_end, child_end) = message::pair()?;
    let group = group_dir(target.cgroup)?;
    let args = CloneArgs {
        namespaces: Namespaces::NONE,
        cgroup: group.as_ref().map(AsFd::as_fd),
        sibling: false,
    };
    let child = match clone_into(target, namespaces, &args)? {
        Cloned::Parent(child) => child,
        Cloned::Child => {
            drop(parent_end);
            run(target, namespaces, process, user, stdio, child_end)
        }
    };
    drop((child_end, stdio));
    let attach = target.cgroup.filter(|_| group.is_none());
    match await_program(&parent_end, &child, attach) {
        Ok(console) => Ok(ExecProcess {
            pid: child.pid,
            pidfd: child.pidfd,
            console,
        }),
        Err(error) => Err(bury(child.pidfd.as_fd(), error)),
    }
}

/// Clones with the container's pid namespace for children.
fn clone_into(target: &ExecTarget<'_>, namespaces: Namespaces, args: &CloneArgs<'_>) -> Result<Cloned, RuntimeError> {
    let join_error = |e: std::io::Error| RuntimeError::Join {
        pid: target.pid,
        errno: e.into(),
    };
    // Until it has joined the user namespace and become the program, the container's root must not look into the child.
    let dumpable = process::is_dumpable().map_err(join_error)?;
    process::set_dumpable(false).map_err(join_error)?;
    let cloned = if namespaces.has(Namespaces::PID) {
        let own = process::pidfd_open(std::process::id().cast_signed()).map_err(join_error)?;
        ns::join(target.pidfd, Namespaces::PID).map_err(join_error)?;
        let cloned = process::clone(args);
        if !matches!(cloned, Ok(Cloned::Child)) {
            ns::join(own.as_fd(), Namespaces::PID).map_err(join_error)?;
        }
        cloned
    } else {
        process::clone(args)
    };
    if !matches!(cloned, Ok(Cloned::Child)) {
        process::set_dumpable(dumpable).map_err(join_error)?;
    }
    cloned.map_err(|e| match e.raw_os_error() {
        // What the kernel says when the first process of a pid namespace has ended.
        Some(errno::ENOMEM) => RuntimeError::Join {
            pid: target.pid,
            errno: Errno(errno::ESRCH),
        },
        _ => RuntimeError::Clone { errno: e.into() },
    })
}

fn await_program(
    end: &ParentEnd,
    child: &Child,
    attach: Option<&super::cgroup::Handle>,
) -> Result<Option<OwnedFd>, RuntimeError> {
    release(end, child, attach)?;
    let mut console = None;
    loop {
        match end.receive("joining the container")? {
            Some((ToParent::Console, fd)) => console = fd,
            Some((ToParent::Failed(error), _)) => return Err(error),
            Some((ToParent::Ready, _)) => {}
            // Exec has closed the other end.
            None => return Ok(console),
        }
    }
}

fn run(
    target: &ExecTarget<'_>,
    namespaces: Namespaces,
    process: &Process,
    user: Option<&str>,
    stdio: Stdio,
    parent: ChildEnd,
) -> ! {
    end_with_error(|| match set_up(target, namespaces, process, user, stdio, parent) {
        Err(failed) => failed,
        Ok((prepared, parent)) => (prepared.run(), Some(parent)),
    })
}

type Failed = (RuntimeError, Option<ChildEnd>);

fn set_up(
    target: &ExecTarget<'_>,
    namespaces: Namespaces,
    process: &Process,
    user: Option<&str>,
    stdio: Stdio,
    parent: ChildEnd,
) -> Result<(Prepared, ChildEnd), Failed> {
    let has_terminal = matches!(stdio, Stdio::Terminal { .. });
    let joined = match join(target, namespaces, process, user, stdio, &parent) {
        Ok(joined) => joined,
        Err(error) => return Err((error, Some(parent))),
    };
    let parent = match process::close_all_but_stdio_and(parent.into_fd()) {
        Ok(fd) => ChildEnd::new(fd),
        Err(e) => return Err((RuntimeError::process("close inherited descriptors")(e), None)),
    };
    let (identity, filter) = joined;
    let prepare = || {
        if has_terminal {
            runtime_process::own_terminal(std::io::stdin().as_fd(), &identity)?;
        } else {
            runtime_process::own_stdio(&identity)?;
        }
        let prepared = runtime_process::prepare(process, &identity, filter)?;
        process::reset_signals().map_err(RuntimeError::process("reset signals"))?;
        Ok(prepared)
    };
    match prepare() {
        Ok(prepared) => Ok((prepared, parent)),
        Err(error) => Err((error, Some(parent))),
    }
}

type Joined = (super::user::Identity, Option<super::seccomp::Program>);

fn join(
    target: &ExecTarget<'_>,
    namespaces: Namespaces,
    process: &Process,
    user: Option<&str>,
    stdio: Stdio,
    parent: &ChildEnd,
) -> Result<Joined, RuntimeError> {
    let linux = target.spec.linux().as_ref();
    let filter = runtime_process::filter(linux.and_then(|linux| linux.seccomp().as_ref()))?;
    parent.await_message(ToChild::Go)?;
    runtime_process::set_oom_score(process.oom_score_adj())?;
    process::new_session().map_err(RuntimeError::process("make a session"))?;
    // The pid namespace is joined already. The cgroup namespace is joined from inside the container's group.
    ns::join(target.pidfd, namespaces.without(Namespaces::PID)).map_err(|e| RuntimeError::Join {
        pid: target.pid,
        errno: e.into(),
    })?;
    let root =
        path::open_root(std::path::Path::new("/")).map_err(RuntimeError::process("open the container's root"))?;
    become_root()?;
    let mut identity = identify(root.as_fd(), user, process)?;
    let added = process.user().additional_gids().as_deref().unwrap_or_default();
    runtime_process::check_ids(&mut identity, added, target.id_map)?;
    let has_terminal = matches!(stdio, Stdio::Terminal { .. });
    let streams = open_streams(root.as_fd(), stdio, process, parent, false)?;
    process::install_stdio(streams).map_err(RuntimeError::process("set the standard streams"))?;
    if has_terminal {
        tty::take_control(std::io::stdin().as_fd()).map_err(RuntimeError::process("take control of the terminal"))?;
    }
    Ok((identity, filter))
}

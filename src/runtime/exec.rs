//! A further process in a running container.
//!
//! The caller puts its children into the container's pid namespace and clones into the container's control group; the
//! child joins all the rest at once through the pidfd.
//! The process leads a session of its own, so that it can be killed with its children.

use std::os::fd::{AsFd, OwnedFd};

use super::check;
use super::create::{Group, bury, release};
use super::error::{Errno, RuntimeError};
use super::init::{
    Failed, become_root, close_all_but, end_with_error, identify, last_steps, open_streams, own_streams,
};
use super::label;
use super::launch::{ExecLaunch, ExecProcess, Stdio};
use super::message::{self, ChildEnd, ParentEnd, ToChild, ToParent};
use super::notify::{self, Notify};
use super::process::{self as runtime_process, Prepared};
use super::schedule::Affinity;
use super::score::Score;
use crate::sys::ns::{self, Namespaces};
use crate::sys::path;
use crate::sys::process::{self, Child, CloneArgs, Cloned};
use crate::sys::{errno, tty};

/// Runs a process in a container. Returns once its program runs; after an error nothing is left of it.
///
/// The caller must have one thread and all capabilities in its user namespace, an ancestor of the container's. It must be
/// a process made for this: whatever it forks later is in the container's pid namespace, out of which it cannot get
/// without privileges on the host, and it is no longer dumpable.
pub fn exec(launch: ExecLaunch<'_>) -> Result<ExecProcess, RuntimeError> {
    let namespaces = check::namespaces(launch.spec)?.all();
    check::process_supported(launch.process, launch.spec.linux.as_ref())?;
    label::check(launch.process)?;
    let affinity = Affinity::of(launch.process)?;
    affinity.begin()?;
    let notify = Notify::of(launch.spec, launch.state.as_ref());
    let (parent_end, child_end) = message::pair()?;
    let joined = launch.cgroup.map(|group| group.joined_by(launch.pid));
    let group = Group::open(joined.as_ref())?;
    let cgroup = group.dir.as_ref().map(AsFd::as_fd);
    let args = CloneArgs {
        namespaces: Namespaces::NONE,
        cgroup,
        sibling: launch.sibling,
    };
    let score = Score::set(launch.process.oom_score_adj)?;
    let cloned = clone_into(&launch, namespaces, &args);
    if let Some(score) = score.filter(|_| !matches!(cloned, Ok((Cloned::Child, _)))) {
        score.restore();
    }
    let (cloned, left) = cloned?;
    let child = match cloned {
        Cloned::Parent(child) => child,
        Cloned::Child => {
            drop(parent_end);
            run(launch, left, group, child_end)
        }
    };
    drop((child_end, launch.stdio, group));
    match await_program(&parent_end, &child, notify.as_ref()) {
        Ok(console) => Ok(ExecProcess {
            pid: child.pid,
            pidfd: child.pidfd,
            console,
        }),
        Err(error) => Err(bury(child.pidfd.as_fd(), error)),
    }
}

/// Clones with the container's pid namespace for children; also the namespaces that the child has still to join.
fn clone_into(
    launch: &ExecLaunch<'_>,
    namespaces: Namespaces,
    args: &CloneArgs<'_>,
) -> Result<(Cloned, Namespaces), RuntimeError> {
    let join_error = |e: std::io::Error| RuntimeError::Join {
        pid: launch.pid,
        errno: e.into(),
    };
    // Until it has joined the user namespace and become the program, the container's root must not look into the child.
    process::set_dumpable(false).map_err(join_error)?;
    let mut left = namespaces.without(Namespaces::PID);
    if namespaces.has(Namespaces::PID) {
        match ns::join(launch.pidfd, Namespaces::PID) {
            // A caller without rights has them in the container's user namespace only.
            Err(e) if e.raw_os_error() == Some(errno::EPERM) && namespaces.has(Namespaces::USER) => {
                ns::join(launch.pidfd, Namespaces::USER | Namespaces::PID).map_err(join_error)?;
                left = left.without(Namespaces::USER);
            }
            done => done.map_err(join_error)?,
        }
    }
    let cloned = process::clone(args);
    cloned.map(|cloned| (cloned, left)).map_err(|e| match e.raw_os_error() {
        // What the kernel says when the first process of a pid namespace has ended.
        Some(errno::ENOMEM) => RuntimeError::Join {
            pid: launch.pid,
            errno: Errno(errno::ESRCH),
        },
        _ => RuntimeError::Clone { errno: e.into() },
    })
}

fn await_program(end: &ParentEnd, child: &Child, notify: Option<&Notify>) -> Result<Option<OwnedFd>, RuntimeError> {
    release(end)?;
    let mut console = None;
    loop {
        match end.receive("joining the container")? {
            Some((ToParent::Console, fd)) => console = fd,
            Some((ToParent::Listener(number), _)) => {
                notify::pass_on(notify, end, (child.pid, child.pidfd.as_fd()), number)?
            }
            Some((ToParent::Failed(error), _)) => return Err(error),
            Some((ToParent::Ready | ToParent::Hooks, _)) => {}
            // Exec has closed the other end.
            None => return Ok(console),
        }
    }
}

fn run(launch: ExecLaunch<'_>, namespaces: Namespaces, group: Group, parent: ChildEnd) -> ! {
    end_with_error(|| match set_up(launch, namespaces, group, parent) {
        Err(failed) => failed,
        Ok((prepared, parent)) => (prepared.run(&parent), Some(parent)),
    })
}

fn set_up(
    launch: ExecLaunch<'_>,
    namespaces: Namespaces,
    group: Group,
    parent: ChildEnd,
) -> Result<(Prepared, ChildEnd), Failed> {
    let has_terminal = matches!(launch.stdio, Stdio::Terminal { .. });
    let (process, die_with_parent, kept) = (launch.process, launch.die_with_parent, launch.kept_fds);
    let linux = launch.spec.linux.as_ref();
    let (identity, filter) = match group.enter().and_then(|()| join(launch, namespaces, &parent)) {
        Ok(joined) => joined,
        Err(error) => return Err((error, Some(parent))),
    };
    let parent = close_all_but(parent, None, kept, Vec::new())?.0;
    let prepare = || {
        own_streams(has_terminal, &identity)?;
        let prepared = runtime_process::prepare(process, linux, &identity, filter)?;
        last_steps(die_with_parent)?;
        // If the parent has ended before its death signal was asked for, this is where it is noticed.
        parent.send(&ToParent::Ready, None)?;
        Ok(prepared)
    };
    match prepare() {
        Ok(prepared) => Ok((prepared, parent)),
        Err(error) => Err((error, Some(parent))),
    }
}

type Joined = (super::user::Identity, Option<super::seccomp::Program>);

fn join(launch: ExecLaunch<'_>, namespaces: Namespaces, parent: &ChildEnd) -> Result<Joined, RuntimeError> {
    let process = launch.process;
    let filter = runtime_process::filter(launch.spec, launch.filter)?;
    parent.await_message(ToChild::Go)?;
    Affinity::of(process)?.settle()?;
    label::apply(process)?;
    process::new_session().map_err(RuntimeError::process("make a session"))?;
    // The pid namespace is joined already. The cgroup namespace is joined from inside the container's group.
    ns::join(launch.pidfd, namespaces).map_err(|e| RuntimeError::Join {
        pid: launch.pid,
        errno: e.into(),
    })?;
    let root =
        path::open_root(std::path::Path::new("/")).map_err(RuntimeError::process("open the container's root"))?;
    become_root()?;
    let mut identity = identify(root.as_fd(), launch.user, process)?;
    let added = process.user.additional_gids.as_deref().unwrap_or_default();
    runtime_process::check_ids(&mut identity, added, launch.id_map)?;
    let has_terminal = matches!(launch.stdio, Stdio::Terminal { .. });
    let streams = open_streams(root.as_fd(), launch.stdio, process, parent, false)?;
    process::install_stdio(streams).map_err(RuntimeError::process("set the standard streams"))?;
    if has_terminal {
        tty::take_control(std::io::stdin().as_fd()).map_err(RuntimeError::process("take control of the terminal"))?;
    }
    Ok((identity, filter))
}

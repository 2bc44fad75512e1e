//! Making a container: one clone3 into new namespaces, then the id maps, while the child sets itself up.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::cgroup::{CgroupError, Handle};
use super::error::{Errno, RuntimeError};
use super::hooks::{self, HookState};
use super::idmap;
use super::init::{self, Inherited};
use super::join::{self, Joined};
use super::launch::Launch;
use super::links::{self, Link};
use super::mapped;
use super::message::{self, ParentEnd, ToChild, ToParent};
use super::mounts;
use super::notify::{self, Notify};
use super::score::Score;
use crate::sys::creds;
use crate::sys::ns::Namespaces;
use crate::sys::process::{self, Child, CloneArgs, Cloned};
use crate::types::idmap::IdMap;
use crate::types::oci::runtime::Hooks;

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
    notify: Option<Notify>,
}

/// Makes a container. Everything is set up and its program is found when this returns; after an error nothing is left of
/// it but a writable layer's contents and the control group, which the caller made.
///
/// The caller must have one thread and all capabilities in its user namespace, whose ids must contain those of
/// [`Launch::id_map`]. With [`Launch::sibling`] it may find itself in another mount namespace with the same files.
pub fn create(launch: Launch<'_>) -> Result<Created, RuntimeError> {
    let asked = init::check(launch.spec)?;
    let joined: Vec<Joined> = asked
        .joined
        .iter()
        .map(|(kind, path)| Joined::open(*kind, path))
        .collect::<Result<_, _>>()?;
    if launch.sibling {
        mounts::leave_first_mount_apart()?;
    }
    let mapped = mapped::make(launch.spec, launch.bundle)?;
    let links = links::find(launch.spec)?;
    let (parent_end, child_end) = message::pair()?;
    let group = Group::open(launch.cgroup)?;
    let score = Score::set(launch.spec.process.as_ref().and_then(|process| process.oom_score_adj))?;
    hide(asked.new)?;
    if launch.id_map.is_some() {
        be_seen()?;
    }
    let args = CloneArgs {
        // The cgroup namespace comes later: it begins at the group of who makes it. So does that of time, whose clocks are set
        // before anybody is in it.
        namespaces: asked.new.without(Namespaces::CGROUP | Namespaces::TIME),
        cgroup: group.dir.as_ref().map(AsFd::as_fd),
        sibling: launch.sibling,
    };
    let cloned = join::clone_in(&joined, &args);
    if let Some(score) = score.filter(|_| !matches!(cloned, Ok(Cloned::Child))) {
        score.restore();
    }
    let child = match cloned? {
        Cloned::Parent(child) => child,
        Cloned::Child => {
            drop((parent_end, joined));
            let inherited = Inherited {
                namespaces: asked.new,
                group,
                mapped,
                links,
            };
            init::run(launch, inherited, child_end)
        }
    };
    let Launch {
        spec,
        id_map,
        stdio,
        extra,
        ..
    } = launch;
    // The child has its own copies; the readers of its output wait for the last one to be closed.
    drop((child_end, stdio, extra.start, mapped, group));
    let notify = Notify::of(spec, extra.hooks.as_ref()).map(|notify| notify.with("created", child.pid));
    let work = Work {
        id_map,
        links,
        hooks: spec.hooks.as_ref().zip(extra.hooks),
    };
    match bring_up(&parent_end, &child, work) {
        Ok(console) => Ok(Created {
            pid: child.pid,
            pidfd: child.pidfd,
            console,
            start: Some(parent_end),
            notify,
        }),
        Err(error) => Err(bury(child.pidfd.as_fd(), error)),
    }
}

impl Created {
    /// Lets the program run. Returns once it does; after an error the process has ended and remains to be waited for.
    /// A second call does nothing.
    pub fn start(&mut self) -> Result<(), RuntimeError> {
        match self.start.take() {
            Some(end) => start(&end, (self.pid, self.pidfd.as_fd()), self.notify.as_ref()),
            None => Ok(()),
        }
    }

    /// Leaves the container to whoever calls [`start_at`].
    pub fn leave(&mut self) {
        self.start = None;
    }
}

/// Lets the program of a container run that waits at a listener ([`super::launch::Extra::start`]); `socket` is connected to
/// it, `child` is its number and its pidfd. Returns and fails as [`Created::start`].
pub fn start_at(socket: OwnedFd, child: (i32, BorrowedFd<'_>), notify: Option<&Notify>) -> Result<(), RuntimeError> {
    start(&ParentEnd::connected(socket), child, notify)
}

fn start(end: &ParentEnd, child: (i32, BorrowedFd<'_>), notify: Option<&Notify>) -> Result<(), RuntimeError> {
    end.send(ToChild::Start)?;
    let started = await_exec(end, child, notify);
    if !matches!(started, Ok(()) | Err(Started::Failed(_))) {
        // It hangs; it cannot be left half started.
        let _ = process::send_signal(child.1, KILL);
    }
    started.map_err(|why| match why {
        Started::Failed(error) | Started::Stuck(error) => error,
    })
}

fn out_of_turn() -> RuntimeError {
    RuntimeError::Socket {
        errno: Errno(crate::sys::errno::EINVAL),
    }
}

/// Why a program does not run.
enum Started {
    /// Its process has said so, and ends.
    Failed(RuntimeError),
    /// Its process is there.
    Stuck(RuntimeError),
}

fn await_exec(end: &ParentEnd, child: (i32, BorrowedFd<'_>), notify: Option<&Notify>) -> Result<(), Started> {
    loop {
        match end.receive("starting its program").map_err(Started::Stuck)? {
            // Exec has closed the other end.
            None => return Ok(()),
            Some((ToParent::Failed(error), _)) => return Err(Started::Failed(error)),
            Some((ToParent::Listener(number), _)) => {
                notify::pass_on(notify, end, child, number).map_err(Started::Stuck)?;
            }
            Some(_) => return Err(Started::Stuck(out_of_turn())),
        }
    }
}

/// Until it has become the program, the container's first process must not be looked into by those who see it: its
/// descriptors and its directories are the host's. By inheritance that holds from its first instruction, except where the
/// maps of its ids are written by who has no rights: whoever could look then has none in its user namespace.
///
/// In a new pid namespace nobody but who is outside sees it; there an ordinary user's helpers, such as those for
/// networks, must be able to join it.
pub(super) fn hide(new: Namespaces) -> Result<(), RuntimeError> {
    if creds::effective_ids().0 != 0 && new.has(Namespaces::PID | Namespaces::USER) {
        return Ok(());
    }
    process::set_dumpable(false).map_err(RuntimeError::process("hide from the container"))
}

/// Makes the maps of a child the caller's to write, where those of a hidden one would not be; it hides once it has them.
pub(super) fn be_seen() -> Result<(), RuntimeError> {
    if owns_own_files().map_err(RuntimeError::process("look at `/proc/self/uid_map`"))? {
        return Ok(());
    }
    process::set_dumpable(true).map_err(RuntimeError::process("be seen by helpers"))
}

/// Whether the caller's files in procfs belong to it. Those of who is hidden belong to root of the user namespace in which
/// it was executed.
fn owns_own_files() -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(std::fs::metadata("/proc/self/uid_map")?.uid() == creds::effective_ids().0)
}

/// Signal 9.
const KILL: i32 = 9;

/// How a child comes into its control group.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Of v2: it begins there.
    pub dir: Option<OwnedFd>,
    /// Of v1: [`Handle::entries`].
    entries: Vec<File>,
}

impl Group {
    /// Opens what is needed; nothing where there is no group.
    pub fn open(cgroup: Option<&Handle>) -> Result<Self, RuntimeError> {
        let Some(handle) = cgroup else {
            return Ok(Group::default());
        };
        let open = || {
            Ok(Group {
                dir: handle.dir_fd()?,
                entries: handle.entries()?,
            })
        };
        open().map_err(|e: CgroupError| RuntimeError::Cgroup { problem: e.to_string() })
    }

    /// For the child: enters what it has not begun in.
    pub fn enter(self) -> Result<(), RuntimeError> {
        for mut entry in self.entries {
            entry.write_all(b"0").map_err(|e| RuntimeError::Cgroup {
                problem: Errno::from(e).to_string(),
            })?;
        }
        Ok(())
    }
}

/// What the parent does for the child.
struct Work<'a> {
    id_map: Option<IdMap>,
    links: Vec<Link>,
    hooks: Option<(&'a Hooks, HookState)>,
}

fn bring_up(end: &ParentEnd, child: &Child, work: Work<'_>) -> Result<Option<OwnedFd>, RuntimeError> {
    if let Some(ids) = &work.id_map {
        idmap::write(child.pid, ids)?;
    }
    links::hand_over(&work.links, child.pid)?;
    release(end)?;
    let mut console = None;
    loop {
        match end.receive("setting up its root")? {
            Some((ToParent::Ready, _)) => return Ok(console),
            Some((ToParent::Console, fd)) => console = fd,
            Some((ToParent::Hooks, _)) => {
                if let Some((hooks, state)) = &work.hooks {
                    let state = HookState {
                        status: "creating",
                        pid: Some(child.pid),
                        ..state.clone()
                    };
                    hooks::run("prestart", hooks.prestart.as_ref(), &state)?;
                    hooks::run("createRuntime", hooks.create_runtime.as_ref(), &state)?;
                }
                end.send(ToChild::HooksDone)?;
            }
            // It comes when the program is started.
            Some((ToParent::Listener(_), _)) => return Err(out_of_turn()),
            Some((ToParent::Failed(error), _)) => return Err(error),
            None => return Err(died(child.pidfd.as_fd())),
        }
    }
}

/// Lets the child go on.
pub(super) fn release(end: &ParentEnd) -> Result<(), RuntimeError> {
    match end.send(ToChild::Go) {
        // It may have failed already; then its own words say more than a broken socket.
        Err(error) => match end.receive("its preparations") {
            Ok(Some((ToParent::Failed(told), _))) => Err(told),
            _ => Err(error),
        },
        sent => sent,
    }
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

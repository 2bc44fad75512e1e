//! The container's first process, from its birth to the program: everything that `config.json` says, in this order. It is
//! a copy of the caller, has one thread, and never returns.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::check::{self, Asked};
use super::create;
use super::create::Group;
use super::error::RuntimeError;
use super::hooks::{self, HookState};
use super::launch::{Launch, Stdio};
use super::links::{self, Link};
use super::message::{ChildEnd, ToChild, ToParent};
use super::process::{self, Prepared};
use super::rootfs::Tree;
use super::user::{self, Identity};
use super::{groups, label, mounts, sysctl, terminal, times};
use crate::sys::event::{self, Interest, Poll};
use crate::sys::mount;
use crate::sys::ns::{self, Namespaces};
use crate::sys::path::{self, Missing, Resolve};
use crate::sys::{creds, errno, socket, tty};
use crate::types::oci::runtime::{Process, Spec};

/// Signal 9: what a container gets when it must not outlive its caller.
const KILL: i32 = 9;

/// What the parent has found out and opened for its child.
pub struct Inherited {
    /// Its new namespaces.
    pub namespaces: Namespaces,
    /// Its control group.
    pub group: Group,
    /// The mounts of [`super::mapped`].
    pub mapped: Vec<OwnedFd>,
    /// Interfaces that it finds in its network namespace.
    pub links: Vec<Link>,
}

/// Runs the container's first process. Its end tells the code of the error that was sent.
pub fn run(launch: Launch<'_>, inherited: Inherited, parent: ChildEnd) -> ! {
    end_with_error(|| {
        let die_with_parent = launch.die_with_parent;
        let spec = launch.spec;
        match set_up(launch, inherited, parent) {
            Err((error, parent)) => (error, parent),
            Ok(ready) => start(ready, spec, die_with_parent),
        }
    })
}

/// Runs `body`, tells its error to the parent and ends the process, whatever happens.
pub fn end_with_error(body: impl FnOnce() -> (RuntimeError, Option<ChildEnd>)) -> ! {
    // Nothing may unwind into the frames of the parent, of which this process has copies.
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
    let code = outcome.map_or(125, |(error, parent)| {
        let code = error.exit_code();
        if let Some(parent) = parent {
            // Without a parent there is nobody to tell.
            let _ = parent.send(&ToParent::Failed(error), None);
        }
        code
    });
    crate::sys::process::exit_now(code.into())
}

pub type Failed = (RuntimeError, Option<ChildEnd>);

/// A process that has all it needs and waits to be started.
struct Ready {
    prepared: Prepared,
    parent: ChildEnd,
    listener: Option<OwnedFd>,
    hooks: Option<HookState>,
}

fn start(ready: Ready, spec: &Spec, die_with_parent: bool) -> Failed {
    let told = last_steps(die_with_parent).and_then(|()| ready.parent.send(&ToParent::Ready, None));
    let parent = match (told, ready.listener) {
        (Err(error), _) => return (error, Some(ready.parent)),
        (Ok(()), None) => ready.parent,
        (Ok(()), Some(listener)) => {
            // Whoever has made this container may end now, and another process starts it.
            drop(ready.parent);
            match accept(listener) {
                Ok(starter) => starter,
                Err(error) => return (error, None),
            }
        }
    };
    let go = || {
        // If the parent has ended before the signal was asked for, this is where it is noticed.
        parent.await_message(ToChild::Start)?;
        match (&spec.hooks, ready.hooks) {
            (Some(hooks), Some(state)) => {
                let state = HookState {
                    status: "created",
                    ..state
                };
                hooks::run("startContainer", hooks.start_container.as_ref(), &state)
            }
            _ => Ok(()),
        }
    };
    let error = match go() {
        Ok(()) => ready.prepared.run(&parent),
        Err(error) => error,
    };
    (error, Some(parent))
}

fn accept(listener: OwnedFd) -> Result<ChildEnd, RuntimeError> {
    loop {
        let mut all = [Poll::new(Some(listener.as_fd()), Interest::READ)];
        event::poll(&mut all, None).map_err(RuntimeError::socket)?;
        match socket::accept(listener.as_fd()) {
            Ok(starter) => return Ok(ChildEnd::new(starter)),
            // Who has connected may be gone again.
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(RuntimeError::socket(e)),
        }
    }
}

/// What is lost when ids or capabilities change, and so comes after them.
pub fn last_steps(die_with_parent: bool) -> Result<(), RuntimeError> {
    if die_with_parent {
        crate::sys::process::set_parent_death_signal(KILL).map_err(RuntimeError::process("die with the parent"))?;
    }
    crate::sys::process::reset_signals().map_err(RuntimeError::process("reset signals"))
}

/// Gives the first three descriptors to the user.
pub fn own_streams(has_terminal: bool, identity: &Identity) -> Result<(), RuntimeError> {
    if has_terminal {
        return process::own_terminal(std::io::stdin().as_fd(), identity);
    }
    process::own_stdio(identity)
}

/// Everything up to the program. On success all descriptors but the first three and the socket are closed.
fn set_up(mut launch: Launch<'_>, inherited: Inherited, parent: ChildEnd) -> Result<Ready, Failed> {
    let spec = launch.spec;
    let (listener, kept) = (launch.extra.start.take(), launch.extra.kept_fds);
    let sockets = std::mem::take(&mut launch.extra.sockets);
    let inside = match enter_root(launch, inherited, &parent) {
        Ok(inside) => inside,
        Err(error) => return Err((error, Some(parent))),
    };
    // From here on nothing of the host is open any more, when paths that the image has made are walked.
    let (parent, listener) = close_all_but(parent, listener, kept, sockets)?;
    let hooks = inside.hooks.clone();
    match inside.prepare(spec) {
        Ok(prepared) => Ok(Ready {
            prepared,
            parent,
            listener,
            hooks,
        }),
        Err(error) => Err((error, Some(parent))),
    }
}

/// Closes everything but the first three descriptors, those that the program gets, and these.
pub fn close_all_but(
    parent: ChildEnd,
    listener: Option<OwnedFd>,
    kept: u16,
    sockets: Vec<OwnedFd>,
) -> Result<(ChildEnd, Option<OwnedFd>), Failed> {
    let count = sockets.len();
    let own = sockets.into_iter().chain([parent.into_fd()]).chain(listener).collect();
    let fail = || RuntimeError::process("close inherited descriptors");
    let placed = crate::sys::process::close_all_but(3 + i32::from(kept), own).map_err(|e| (fail()(e), None))?;
    let mut placed = placed.into_iter();
    for socket in placed.by_ref().take(count) {
        crate::sys::process::keep_on_exec(socket).map_err(|e| (fail()(e), None))?;
    }
    match placed.next() {
        Some(parent) => Ok((ChildEnd::new(parent), placed.next())),
        None => Err((fail()(std::io::Error::from_raw_os_error(errno::EBADF)), None)),
    }
}

/// What is known once the process is inside the root.
struct Inside {
    identity: Identity,
    filter: Option<super::seccomp::Program>,
    has_terminal: bool,
    hooks: Option<HookState>,
}

impl Inside {
    fn prepare(self, spec: &Spec) -> Result<Prepared, RuntimeError> {
        own_streams(self.has_terminal, &self.identity)?;
        process::prepare(process_of(spec)?, spec.linux.as_ref(), &self.identity, self.filter)
    }
}

fn process_of(spec: &Spec) -> Result<&Process, RuntimeError> {
    spec.process
        .as_ref()
        .ok_or_else(|| RuntimeError::spec("process", "must be there"))
}

/// Makes the root and pivots to it; the first three descriptors are the program's then.
fn enter_root(launch: Launch<'_>, inherited: Inherited, parent: &ChildEnd) -> Result<Inside, RuntimeError> {
    let Inherited {
        namespaces,
        group,
        mapped,
        links,
    } = inherited;
    group.enter()?;
    let spec = launch.spec;
    // What needs no id and no parent is done while the parent maps ids.
    let tree = Tree::plan(spec, launch.bundle)?;
    let filter = process::filter(spec, launch.filter)?;
    let process = process_of(spec)?;
    parent.await_message(ToChild::Go)?;

    create::hide(namespaces)?;
    if let Some(name) = &launch.extra.keyring {
        join_keyring(name)?;
    }
    become_root()?;
    crate::sys::process::new_session().map_err(RuntimeError::process("make a session"))?;
    // What is made in the root has the modes that are asked for, not what the caller's mask leaves of them.
    crate::sys::process::set_umask(0);
    let v1 = groups::own(&tree)?;
    if namespaces.has(Namespaces::CGROUP) {
        // Only now, since its root is the group that the process is in.
        ns::unshare(Namespaces::CGROUP).map_err(RuntimeError::process("make a cgroup namespace"))?;
    }
    if namespaces.has(Namespaces::TIME) {
        times::enter(spec.linux.as_ref().and_then(|linux| linux.time_offsets.as_ref()))?;
    }
    if namespaces.has(Namespaces::NET) {
        ns::set_loopback_up().map_err(RuntimeError::process("bring up the loopback interface"))?;
    }
    links::settle(&links)?;
    set_names(spec)?;

    mount::set_root_propagation(mounts::host_propagation(&tree))
        .map_err(RuntimeError::process("keep mounts from spreading"))?;
    if mounts::leave_first_mount()? && process::may_mount(process) {
        // It could unmount its root and see the host's; a copy made by another process would be locked.
        let problem = "CAP_SYS_ADMIN on an initramfs is for containers made by a process of their own";
        return Err(RuntimeError::spec("process.capabilities", problem));
    }
    let root = mounts::mount_root(&launch.rootfs)?;
    let proc = mounts::build(root.as_fd(), &tree, &v1, mapped)?;
    if let Some(settings) = spec.linux.as_ref().and_then(|linux| linux.sysctl.as_ref()) {
        sysctl::write(settings, proc)?;
    }

    let mut identity = identify(root.as_fd(), launch.user, process)?;
    let added = process.user.additional_gids.as_deref().unwrap_or_default();
    process::check_ids(&mut identity, added, launch.id_map.as_ref())?;
    make_cwd(root.as_fd(), &process.cwd, &identity)?;

    let hooks = launch
        .extra
        .hooks
        .map(|state| run_hooks(spec, state, parent))
        .transpose()?;
    label::apply(process)?;
    let has_terminal = matches!(launch.stdio, Stdio::Terminal { .. });
    let streams = open_streams(root.as_fd(), launch.stdio, process, parent, has_terminal)?;
    mounts::restrict(root.as_fd(), &tree)?;
    crate::sys::process::install_stdio(streams).map_err(RuntimeError::process("set the standard streams"))?;
    if has_terminal {
        tty::take_control(std::io::stdin().as_fd()).map_err(RuntimeError::process("take control of the terminal"))?;
    }
    let no_pivot = launch.extra.no_pivot;
    let pivot = if no_pivot { mount::move_to } else { mount::pivot_to };
    pivot(root.as_fd()).map_err(RuntimeError::process("pivot to the container's root"))?;
    mounts::spread(&tree)?;
    Ok(Inside {
        identity,
        filter,
        has_terminal,
        hooks,
    })
}

fn join_keyring(name: &str) -> Result<(), RuntimeError> {
    let name = std::ffi::CString::new(name).map_err(|e| RuntimeError::process("name a keyring")(e.into()))?;
    match crate::sys::process::new_session_keyring(&name) {
        // Kernels without keyrings, and filters around us that keep them away, have none that could be shared.
        Err(e) if matches!(e.raw_os_error(), Some(errno::ENOSYS | errno::EPERM | errno::EACCES)) => Ok(()),
        done => done.map_err(RuntimeError::process("make a session keyring")),
    }
}

/// Has the hooks outside run by the parent, and runs those that belong into the container's namespaces. The state then
/// names this process by its number outside.
fn run_hooks(spec: &Spec, mut state: HookState, parent: &ChildEnd) -> Result<HookState, RuntimeError> {
    let Some(hooks) = &spec.hooks else { return Ok(state) };
    let own = std::fs::read_link("/proc/self").map_err(RuntimeError::process("read `/proc/self`"))?;
    state.pid = own.to_str().and_then(|pid| pid.parse().ok());
    parent.send(&ToParent::Hooks, None)?;
    parent.await_message(ToChild::HooksDone)?;
    state.status = "creating";
    hooks::run("createContainer", hooks.create_container.as_ref(), &state)?;
    Ok(state)
}

/// The ids of the creator are not those of the container's root where the caller is somebody else.
pub fn become_root() -> Result<(), RuntimeError> {
    if creds::effective_ids() == (0, 0) {
        return Ok(());
    }
    let fail = || RuntimeError::process("become root of the container");
    creds::set_gid(0).map_err(fail())?;
    creds::set_uid(0).map_err(fail())
}

fn set_names(spec: &Spec) -> Result<(), RuntimeError> {
    if let Some(name) = spec.hostname.as_ref().filter(|name| !name.is_empty()) {
        ns::set_host_name(name).map_err(RuntimeError::process(format!("set host name `{name}`")))?;
    }
    if let Some(name) = spec.domainname.as_ref().filter(|name| !name.is_empty()) {
        ns::set_domain_name(name).map_err(RuntimeError::process(format!("set domain name `{name}`")))?;
    }
    Ok(())
}

/// Who the process is: looked up, or the numbers of the specification.
pub fn identify(root: BorrowedFd<'_>, user: Option<&str>, process: &Process) -> Result<Identity, RuntimeError> {
    if let Some(user) = user {
        return user::look_up(root, user);
    }
    let (uid, gid) = (process.user.uid, process.user.gid);
    let has_home = process.env.iter().flatten().any(|var| var.starts_with("HOME="));
    let home = if has_home { None } else { user::home_of(root, uid) };
    Ok(Identity {
        uid,
        gid,
        groups: Vec::new(),
        further: Vec::new(),
        home,
    })
}

/// Makes the working directory where it is missing; it then belongs to the user.
fn make_cwd(root: BorrowedFd<'_>, cwd: &Path, identity: &Identity) -> Result<(), RuntimeError> {
    let missing = match path::open_at(root, cwd, path::O_PATH, 0, Resolve::InRoot) {
        Err(e) => e.raw_os_error() == Some(errno::ENOENT),
        Ok(_) => false,
    };
    if !missing {
        return Ok(());
    }
    let fail = |e: std::io::Error| RuntimeError::Target {
        path: cwd.display().to_string(),
        errno: e.into(),
    };
    let made = path::ensure(root, cwd, Missing::Directory(0o755)).map_err(fail)?;
    path::set_owner_of_path(made.as_fd(), identity.uid, identity.gid).map_err(fail)
}

/// The first three descriptors; a terminal's master goes to the parent.
pub fn open_streams(
    root: BorrowedFd<'_>,
    stdio: Stdio,
    process: &Process,
    parent: &ChildEnd,
    bind_console: bool,
) -> Result<[OwnedFd; 3], RuntimeError> {
    let copy = |fd: BorrowedFd<'_>| {
        fd.try_clone_to_owned()
            .map_err(RuntimeError::process("copy a descriptor"))
    };
    match stdio {
        Stdio::Streams { stdin, stdout, stderr } => {
            let or_null = |fd: Option<OwnedFd>| match fd {
                Some(fd) => Ok(fd),
                None => mounts::open_null(root, path::O_RDWR),
            };
            Ok([or_null(stdin)?, or_null(stdout)?, or_null(stderr)?])
        }
        Stdio::Terminal { size } => {
            let said = process.console_size.map(|said| tty::WindowSize {
                rows: u16::try_from(said.height).unwrap_or(u16::MAX),
                cols: u16::try_from(said.width).unwrap_or(u16::MAX),
            });
            let (master, end) = terminal::open(root, size.or(said))?;
            parent.send(&ToParent::Console, Some(master.as_fd()))?;
            if bind_console {
                mounts::bind_console(root, end.as_fd())?;
            }
            Ok([copy(end.as_fd())?, copy(end.as_fd())?, end])
        }
    }
}

/// Refuses a specification that cannot be carried out; for the parent, before it makes anything.
pub fn check(spec: &Spec) -> Result<Asked, RuntimeError> {
    let asked = check::namespaces(spec)?;
    check::supported(spec, asked.all())?;
    label::check_mounts(spec)?;
    spec.process.as_ref().map_or(Ok(()), label::check)?;
    Ok(asked)
}

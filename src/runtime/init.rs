//! The container's first process, from its birth to the program: everything that `config.json` says, in this order. It is
//! a copy of the caller, has one thread, and never returns.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::check;
use super::error::RuntimeError;
use super::launch::{Launch, Stdio};
use super::message::{ChildEnd, ToChild, ToParent};
use super::process::{self, Prepared};
use super::rootfs::Tree;
use super::user::{self, Identity};
use super::{mounts, sysctl, terminal};
use crate::sys::mount;
use crate::sys::ns::{self, Namespaces};
use crate::sys::path::{self, Missing, Resolve};
use crate::sys::{creds, errno, tty};
use crate::types::oci::runtime::{Process, Spec};

/// Signal 9: what a container gets when it must not outlive its caller.
const KILL: i32 = 9;

/// Runs the container's first process. Its end tells the code of the error that was sent.
pub fn run(launch: Launch<'_>, namespaces: Namespaces, parent: ChildEnd) -> ! {
    end_with_error(|| {
        let die_with_parent = launch.die_with_parent;
        match set_up(launch, namespaces, parent) {
            Err((error, parent)) => (error, parent),
            Ok((prepared, parent)) => {
                let error = start(&prepared, die_with_parent, &parent);
                (error, Some(parent))
            }
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

type Failed = (RuntimeError, Option<ChildEnd>);

fn start(prepared: &Prepared, die_with_parent: bool, parent: &ChildEnd) -> RuntimeError {
    let go = || {
        last_steps(die_with_parent)?;
        parent.send(&ToParent::Ready, None)?;
        // If the parent has ended before the signal was asked for, this is where it is noticed.
        parent.await_message(ToChild::Start)
    };
    match go() {
        Ok(()) => prepared.run(),
        Err(error) => error,
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
fn set_up(launch: Launch<'_>, namespaces: Namespaces, parent: ChildEnd) -> Result<(Prepared, ChildEnd), Failed> {
    let spec = launch.spec;
    let inside = match enter_root(launch, namespaces, &parent) {
        Ok(inside) => inside,
        Err(error) => return Err((error, Some(parent))),
    };
    // From here on nothing of the host is open any more, when paths that the image has made are walked.
    let parent = match crate::sys::process::close_all_but_stdio_and(parent.into_fd()) {
        Ok(fd) => ChildEnd::new(fd),
        Err(e) => return Err((RuntimeError::process("close inherited descriptors")(e), None)),
    };
    match inside.prepare(spec) {
        Ok(prepared) => Ok((prepared, parent)),
        Err(error) => Err((error, Some(parent))),
    }
}

/// What is known once the process is inside the root.
struct Inside {
    identity: Identity,
    filter: Option<super::seccomp::Program>,
    has_terminal: bool,
}

impl Inside {
    fn prepare(self, spec: &Spec) -> Result<Prepared, RuntimeError> {
        own_streams(self.has_terminal, &self.identity)?;
        process::prepare(process_of(spec)?, &self.identity, self.filter)
    }
}

fn process_of(spec: &Spec) -> Result<&Process, RuntimeError> {
    spec.process
        .as_ref()
        .ok_or_else(|| RuntimeError::spec("process", "must be there"))
}

/// Makes the root and pivots to it; the first three descriptors are the program's then.
fn enter_root(launch: Launch<'_>, namespaces: Namespaces, parent: &ChildEnd) -> Result<Inside, RuntimeError> {
    let spec = launch.spec;
    // What needs no id and no parent is done while the parent maps ids.
    let tree = Tree::plan(spec, launch.bundle)?;
    let linux = spec.linux.as_ref();
    let filter = process::filter(linux.and_then(|linux| linux.seccomp.as_ref()))?;
    let process = process_of(spec)?;
    parent.await_message(ToChild::Go)?;

    become_root()?;
    process::set_oom_score(process.oom_score_adj)?;
    crate::sys::process::new_session().map_err(RuntimeError::process("make a session"))?;
    // What is made in the root has the modes that are asked for, not what the caller's mask leaves of them.
    crate::sys::process::set_umask(0);
    if namespaces.has(Namespaces::CGROUP) {
        // Only now, since its root is the group that the process is in.
        ns::unshare(Namespaces::CGROUP).map_err(RuntimeError::process("make a cgroup namespace"))?;
    }
    if namespaces.has(Namespaces::NET) {
        ns::set_loopback_up().map_err(RuntimeError::process("bring up the loopback interface"))?;
    }
    set_names(spec)?;

    mount::set_root_propagation(mounts::host_propagation(&tree))
        .map_err(RuntimeError::process("keep mounts from spreading"))?;
    if mounts::leave_first_mount()? && process::may_mount(process) {
        // It could unmount its root and see the host's; a copy made by another process would be locked.
        let problem = "CAP_SYS_ADMIN on an initramfs is for containers made by a process of their own";
        return Err(RuntimeError::spec("process.capabilities", problem));
    }
    let root = mounts::mount_root(&launch.rootfs)?;
    let proc = mounts::build(root.as_fd(), &tree)?;
    if let Some(settings) = linux.and_then(|linux| linux.sysctl.as_ref()) {
        sysctl::write(settings, proc)?;
    }

    let mut identity = identify(root.as_fd(), launch.user, process)?;
    let added = process.user.additional_gids.as_deref().unwrap_or_default();
    process::check_ids(&mut identity, added, &launch.id_map)?;
    make_cwd(root.as_fd(), &process.cwd, &identity)?;

    let has_terminal = matches!(launch.stdio, Stdio::Terminal { .. });
    let streams = open_streams(root.as_fd(), launch.stdio, process, parent, has_terminal)?;
    mounts::restrict(root.as_fd(), &tree)?;
    crate::sys::process::install_stdio(streams).map_err(RuntimeError::process("set the standard streams"))?;
    if has_terminal {
        tty::take_control(std::io::stdin().as_fd()).map_err(RuntimeError::process("take control of the terminal"))?;
    }
    mount::pivot_to(root.as_fd()).map_err(RuntimeError::process("pivot to the container's root"))?;
    Ok(Inside {
        identity,
        filter,
        has_terminal,
    })
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
pub fn check(spec: &Spec) -> Result<Namespaces, RuntimeError> {
    let namespaces = check::namespaces(spec)?;
    check::supported(spec, namespaces)?;
    Ok(namespaces)
}

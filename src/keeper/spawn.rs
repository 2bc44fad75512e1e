//! Making a monitor or a worker: in its control group, in the store's user namespace, as our own binary again.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use super::userns;
use crate::config::env;
use crate::monitor::wire::Refusal;
use crate::runtime::cgroup::{Leaf, Tree};
use crate::sys::process::{self, Child, CloneArgs, Cloned};
use crate::sys::{seal, socket};

/// How long a child may take from its fork to its exec.
const EXEC_PATIENCE: Duration = Duration::from_secs(10);
/// Where the child finds its control socket.
const CONTROL: i32 = 3;

/// Which of our roles a child has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Monitor,
    Worker,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Role::Monitor => "monitor",
            Role::Worker => "worker",
        }
    }

    const fn leaf(self) -> Leaf {
        match self {
            Role::Monitor => Leaf::Monitors,
            Role::Worker => Leaf::Workers,
        }
    }
}

/// Where children come to life.
pub(super) struct Nursery<'a> {
    pub tree: &'a Tree,
    pub userns: BorrowedFd<'a>,
    /// The binary out of the reach of containers; none where the running one is.
    pub binary: Option<BorrowedFd<'a>>,
}

impl Nursery<'_> {
    /// Starts `dunlin ROLE --fd 3`, 3 being `control`; returns when the program runs, or why it does not.
    pub fn start(&self, role: Role, control: &OwnedFd) -> Result<Child, Refusal> {
        let failed = |what: &str, error: io::Error| Refusal::new(format!("start a {}: {what}: {error}", role.name()));
        let (ours, theirs) = socket::pair().map_err(|error| failed("make a socket", error))?;
        let leaf = match self.tree {
            Tree::V2 { root, .. } => Some(
                File::open(root.join(role.leaf().name())).map_err(|error| failed("open its control group", error))?,
            ),
            _ => None,
        };
        let args = CloneArgs {
            cgroup: leaf.as_ref().map(AsFd::as_fd),
            ..CloneArgs::default()
        };
        let child = match process::clone(&args).map_err(|error| failed("fork", error))? {
            Cloned::Parent(child) => child,
            Cloned::Child => {
                let Err((what, error)) = self.enter(role, control, &theirs);
                // Nobody else would be told.
                let _ = socket::send(theirs.as_fd(), format!("{what}: {error}").as_bytes());
                process::exit_now(125);
            }
        };
        drop(theirs);
        let mut text = [0; 512];
        let come = socket::wait_readable(ours.as_fd(), EXEC_PATIENCE).map_err(|error| failed("wait for it", error))?;
        match if come {
            socket::recv(ours.as_fd(), &mut text)
        } else {
            Err(io::ErrorKind::TimedOut.into())
        } {
            // The socket closes with exec.
            Ok(0) => Ok(child),
            done => {
                // It is over in any case; the wait only takes its status.
                let _ = process::send_signal(child.pidfd.as_fd(), 9);
                let _ = process::wait(child.pidfd.as_fd());
                let reason = done.map_or_else(
                    |error| error.to_string(),
                    |length| String::from_utf8_lossy(&text[..length]).into_owned(),
                );
                Err(Refusal::new(format!("start a {}: {reason}", role.name())))
            }
        }
    }

    /// In the child: everything up to exec.
    fn enter(
        &self,
        role: Role,
        control: &OwnedFd,
        report: &OwnedFd,
    ) -> Result<std::convert::Infallible, (&'static str, io::Error)> {
        let step = |what| move |error| (what, error);
        process::reset_signals().map_err(step("reset signals"))?;
        if let Tree::V1 { .. } = self.tree {
            self.tree
                .place(role.leaf(), 0)
                .map_err(|error| ("enter its control group", io::Error::other(error.to_string())))?;
        }
        userns::enter(self.userns)?;
        // The report takes the place of standard input until exec closes it; the standard library then opens /dev/null there.
        process::place(report.as_fd(), 0, true).map_err(step("place its socket"))?;
        let control = process::copy_above(control.as_fd(), CONTROL).map_err(step("copy its socket"))?;
        let copy = |fd: BorrowedFd<'_>| process::copy_above(fd, CONTROL);
        let binary = self.binary.map(copy).transpose().map_err(step("copy the binary's"))?;
        let kept = std::iter::once(control).chain(binary).collect();
        let kept = process::close_all_but(CONTROL, kept).map_err(step("close descriptors"))?;
        let args = [OsString::from(role.name()), "--fd".into(), CONTROL.to_string().into()];
        let error = match process::place(kept[0].as_fd(), CONTROL, false) {
            Ok(()) => become_self(kept.get(1).map(AsFd::as_fd), &args),
            Err(error) => error,
        };
        let hint = if error.kind() == io::ErrorKind::PermissionDenied {
            "; let everybody read and execute the binary"
        } else {
            ""
        };
        // The descriptors of the frames above are closed, so this is the last step.
        let _ = socket::send(io::stdin().as_fd(), format!("run itself: {error}{hint}").as_bytes());
        process::exit_now(125)
    }
}

/// Executes our own binary, or `binary`, with these arguments and a small environment; returns only the error.
pub(super) fn become_self(binary: Option<BorrowedFd<'_>>, args: &[OsString]) -> io::Error {
    let program = match binary {
        Some(binary) => Program::Open(binary),
        None => Program::At(OsStr::new("/proc/self/exe")),
    };
    exec(program, args, &[env::PATH, env::JOURNAL_STREAM])
}

/// What is executed.
pub(super) enum Program<'a> {
    /// The file of this path.
    At(&'a OsStr),
    /// An open file.
    Open(BorrowedFd<'a>),
}

/// What we are called by our own programs: our path, where it has our name, so that they know it even if they have none.
pub(super) fn own_name() -> OsString {
    let path = seal::own_path().unwrap_or_default();
    match path.file_name() {
        Some(name) if name == "dunlin" => path.into_os_string(),
        _ => "dunlin".into(),
    }
}

/// Executes a program as ourselves with these arguments and these variables of our environment; returns only the error.
pub(super) fn exec(program: Program<'_>, args: &[OsString], keep: &[&'static str]) -> io::Error {
    let name = own_name();
    let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::from);
    let env = keep.iter().filter_map(|name| {
        let mut pair = OsString::from(*name);
        pair.push("=");
        pair.push(env::get(name)?);
        Some(pair)
    });
    let all = || -> io::Result<(Vec<CString>, Vec<CString>)> {
        let args = std::iter::once(name.as_os_str()).chain(args.iter().map(OsString::as_os_str));
        Ok((
            args.map(text).collect::<io::Result<_>>()?,
            env.map(|pair| text(&pair)).collect::<io::Result<_>>()?,
        ))
    };
    match (all(), program) {
        (Ok((args, env)), Program::Open(program)) => seal::exec(program, &args, &env),
        (Ok((args, env)), Program::At(path)) => match text(path) {
            Ok(path) => process::exec(&path, &args, &env),
            Err(error) => error,
        },
        (Err(error), _) => error,
    }
}

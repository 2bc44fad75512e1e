//! Making a container from a bundle, for callers of runc's command line.

use std::cell::OnceCell;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::state::{START, document};
use super::{Container, OciError, Root, State};
use crate::disk::durable;
use crate::runtime::cgroup::{Handle, Host, Place};
use crate::runtime::check;
use crate::runtime::create::{self as runtime, Created};
use crate::runtime::hooks::{self, HookState};
use crate::runtime::launch::{Extra, Launch, Rootfs, Stdio};
use crate::sys::ns::{self, Namespaces};
use crate::sys::tty::WindowSize;
use crate::sys::{creds, event, path, process, socket};
use crate::types::idmap::{Extent, IdMap};
use crate::types::oci::runtime::{LinuxIdMapping, LinuxResources, Process, Spec};
use crate::types::time::Unix;

/// What the caller asks for.
#[derive(Debug, Clone, Default)]
pub struct Make {
    /// The container's name.
    pub id: String,
    /// The bundle.
    pub bundle: PathBuf,
    /// What happens with its terminal, if the bundle asks for one.
    pub console: Console,
    /// Where the first process's number is written.
    pub pid_file: Option<PathBuf>,
    /// Descriptors from number 3 on that the program gets.
    pub kept_fds: u16,
    /// See [`Extra::no_pivot`].
    pub no_pivot: bool,
    /// The container shares the caller's session keyring.
    pub no_new_keyring: bool,
    /// `linux.cgroupsPath` is systemd's.
    pub systemd: bool,
    /// How many of the first kept descriptors are sockets that systemd has opened for the caller.
    pub listen_fds: u16,
}

/// Who gets the master of a terminal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Console {
    /// Nobody can: a bundle with a terminal is refused.
    #[default]
    None,
    /// Who listens at this stream socket.
    Socket(PathBuf),
    /// The caller of this function, whose own terminal has this size: set before anything runs in it.
    Caller(Option<WindowSize>),
}

/// How long the one who shall get a terminal may take to be ready for it.
pub(super) const CONSOLE_PATIENCE: Duration = Duration::from_secs(5);

impl Console {
    /// Of the terminal that it is for.
    pub(super) fn size(&self) -> Option<WindowSize> {
        match self {
            Console::Caller(size) => *size,
            Console::None | Console::Socket(_) => None,
        }
    }

    /// Whether a process with or without a terminal can have it, in runc's words.
    pub(super) fn check(&self, terminal: bool) -> Result<(), OciError> {
        let text = match (terminal, self) {
            (true, Console::None) => "cannot allocate tty if the runtime will detach without setting console socket",
            (false, Console::Socket(_)) => "cannot use console socket if the runtime will not detach or allocate tty",
            _ => return Ok(()),
        };
        Err(OciError::Usage(text.to_owned()))
    }
}

/// How the container is to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// By [`Container::start`], from any process.
    AtSocket,
    /// By [`Created::start`], from the caller.
    ForCaller,
}

impl Root {
    /// Makes a container. After an error nothing is left of it.
    pub fn create(&self, make: &Make, waiting: Waiting) -> Result<(Container, Created), OciError> {
        let dir = self.dir(&make.id)?;
        let bundle = fs::canonicalize(&make.bundle).map_err(OciError::io("open", &make.bundle))?;
        let (mut spec, text) = document(&bundle.join("config.json"))?;
        if let Some(process) = &mut spec.process {
            pass_listen_fds(process, make.listen_fds);
        }
        let terminal = wants_terminal(&spec);
        make.console.check(terminal)?;
        self.make_dir(&dir)?;
        match build(make, waiting, &dir, bundle, &spec, &text) {
            Ok((container, created)) => {
                let spec = spec.into();
                Ok((Container { spec, ..container }, created))
            }
            Err(error) => {
                // The first error says more than a failed clean-up.
                let _ = fs::remove_dir_all(&dir);
                Err(error)
            }
        }
    }

    fn make_dir(&self, dir: &Path) -> Result<(), OciError> {
        let make = || fs::DirBuilder::new().mode(0o700).create(dir);
        let made = match make() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let above = dir.parent().unwrap_or(dir);
                let all = fs::DirBuilder::new().mode(0o700).recursive(true).create(above);
                all.map_err(OciError::io("make", above))?;
                make()
            }
            done => done,
        };
        match made {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(OciError::Exists),
            done => done.map_err(OciError::io("make", dir)),
        }
    }
}

/// Tells a process of the sockets that it gets as if systemd had opened them for it, the first one of its container.
pub fn pass_listen_fds(process: &mut Process, count: u16) {
    if count > 0 {
        let env = process.env.get_or_insert_default();
        env.extend([format!("LISTEN_FDS={count}"), "LISTEN_PID=1".to_owned()]);
    }
}

pub(super) fn wants_terminal(spec: &Spec) -> bool {
    spec.process
        .as_ref()
        .is_some_and(|process| process.terminal == Some(true))
}

fn build(
    make: &Make,
    waiting: Waiting,
    dir: &Path,
    bundle: PathBuf,
    spec: &Spec,
    text: &[u8],
) -> Result<(Container, Created), OciError> {
    let (id_map, rootfs) = (id_map(spec)?, root(spec, &bundle)?);
    let (group, mut left_out) = group(make, spec)?;
    let score = spec.process.as_ref().and_then(|process| process.oom_score_adj);
    if score.is_some_and(|score| !may_set_oom_score(score)) {
        left_out.push("process.oomScoreAdj".to_owned());
    }
    left_out.extend(capabilities_left_out(spec)?);
    let built = launch(
        make,
        waiting,
        dir,
        &bundle,
        spec,
        rootfs.clone(),
        id_map,
        group.as_ref(),
    );
    let done = built.and_then(|mut created| {
        let container = Container {
            state: State {
                oci_version: spec.oci_version.clone(),
                id: make.id.clone(),
                pid: created.pid,
                start_time: process::start_time(created.pid).map_err(OciError::io("look at", dir))?,
                bundle: bundle.clone(),
                rootfs: rootfs.clone(),
                created: now(),
                owner: creds::effective_ids().0,
                annotations: spec.annotations.clone(),
                group: group.clone(),
                left_out: left_out.clone(),
            },
            dir: dir.to_owned(),
            spec: OnceCell::new(),
        };
        match finish(make, &container, &mut created, text) {
            Ok(()) => Ok((container, created)),
            Err(error) => {
                // It may wait at its socket already, where nobody will come.
                let _ = process::send_signal(created.pidfd.as_fd(), 9);
                let _ = process::wait(created.pidfd.as_fd());
                Err(error)
            }
        }
    });
    if let (Err(_), Some(group)) = (&done, &group) {
        let _ = group.remove();
    }
    done
}

fn finish(make: &Make, container: &Container, created: &mut Created, text: &[u8]) -> Result<(), OciError> {
    if let (Console::Socket(path), Some(master)) = (&make.console, &created.console) {
        socket::hand_over(path, b"/dev/ptmx", master.as_fd(), CONSOLE_PATIENCE)
            .map_err(OciError::io("send the terminal to", path))?;
        created.console = None;
    }
    durable::write_volatile(&container.dir.join("config.json"), text)?;
    if let Some(path) = &make.pid_file {
        durable::write_volatile(path, container.state.pid.to_string().as_bytes())?;
    }
    container.save()
}

#[allow(clippy::too_many_arguments, reason = "all of it goes into one struct")]
fn launch(
    make: &Make,
    waiting: Waiting,
    dir: &Path,
    bundle: &Path,
    spec: &Spec,
    rootfs: PathBuf,
    id_map: Option<IdMap>,
    group: Option<&Handle>,
) -> Result<Created, OciError> {
    let start = match waiting {
        Waiting::AtSocket => Some(listener(dir).map_err(OciError::io("listen in", dir))?),
        Waiting::ForCaller => None,
    };
    let stdio = if wants_terminal(spec) {
        Stdio::Terminal {
            size: make.console.size(),
        }
    } else {
        own_streams()?
    };
    let hooks = spec.hooks.is_some().then(|| HookState {
        oci_version: spec.oci_version.clone(),
        id: make.id.clone(),
        status: "creating",
        pid: None,
        bundle: bundle.to_owned(),
        annotations: spec.annotations.clone(),
    });
    Ok(runtime::create(Launch {
        spec,
        bundle,
        rootfs: Rootfs::Flat(rootfs),
        id_map,
        cgroup: group,
        user: None,
        filter: None,
        stdio,
        die_with_parent: false,
        sibling: false,
        extra: Extra {
            hooks,
            start,
            kept_fds: make.kept_fds,
            sockets: Vec::new(),
            no_pivot: make.no_pivot,
            keyring: (!make.no_new_keyring).then(|| format!("_ses.{}", make.id)),
        },
    })?)
}

fn listener(dir: &Path) -> io::Result<OwnedFd> {
    let dir = path::open_root(dir)?;
    socket::listen_at(dir.as_fd(), START)
}

/// The caller's first three descriptors, for the program.
pub(super) fn own_streams() -> Result<Stdio, OciError> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let copy = |fd: std::os::fd::BorrowedFd<'_>| {
        let copied = fd.try_clone_to_owned();
        copied.map_err(OciError::io("copy", Path::new("/proc/self/fd")))
    };
    Ok(Stdio::Streams {
        stdin: Some(copy(stdin.as_fd())?),
        stdout: Some(copy(stdout.as_fd())?),
        stderr: Some(copy(stderr.as_fd())?),
    })
}

fn root(spec: &Spec, bundle: &Path) -> Result<PathBuf, OciError> {
    let root = spec.root.as_ref().filter(|root| !root.path.as_os_str().is_empty());
    let root = root.ok_or_else(|| crate::runtime::error::RuntimeError::spec("root", "must be there"))?;
    let path = bundle.join(&root.path);
    fs::canonicalize(&path).map_err(OciError::io("open", &path))
}

/// The ids of a new user namespace.
pub(super) fn id_map(spec: &Spec) -> Result<Option<IdMap>, OciError> {
    if !check::namespaces(spec)?.new.has(Namespaces::USER) {
        return Ok(None);
    }
    let linux = spec.linux.as_ref();
    let extents = |field: &str, mappings: Option<&Vec<LinuxIdMapping>>| {
        let all: Vec<Extent> = mappings.into_iter().flatten().map(Extent::from).collect();
        if all.is_empty() {
            let problem = "must be there for a new user namespace";
            return Err(crate::runtime::error::RuntimeError::spec(field, problem));
        }
        Ok(all)
    };
    Ok(Some(IdMap {
        uids: extents("linux.uidMappings", linux.and_then(|l| l.uid_mappings.as_ref()))?,
        gids: extents("linux.gidMappings", linux.and_then(|l| l.gid_mappings.as_ref()))?,
    }))
}

/// Makes the control group and sets its limits; also which fields the caller may not have.
fn group(make: &Make, spec: &Spec) -> Result<(Option<Handle>, Vec<String>), OciError> {
    let linux = spec.linux.as_ref();
    let host = Host::read(creds::effective_ids().0).map_err(OciError::io("read", Path::new("/proc/self")))?;
    let place = Place {
        id: &make.id,
        path: linux.and_then(|linux| linux.cgroups_path.as_deref()),
        systemd: make.systemd,
    };
    let group = place.find(&host)?.make()?;
    let none = LinuxResources::default();
    let resources = linux.and_then(|linux| linux.resources.as_ref()).unwrap_or(&none);
    let mut left_out = Vec::new();
    match group.apply(resources) {
        Ok(true) => {}
        Ok(false) => left_out.push("linux.resources.devices".to_owned()),
        Err(error) => {
            let _ = group.remove();
            return Err(error.into());
        }
    }
    Ok((group.is_some().then_some(group), left_out))
}

/// Capabilities of the bundle that the caller does not have and so cannot give; in a new user namespace there are all.
fn capabilities_left_out(spec: &Spec) -> Result<Vec<String>, OciError> {
    let held = match check::namespaces(spec)?.all().has(Namespaces::USER) {
        true => creds::Caps::ALL,
        false => {
            let own = creds::caps().map_err(OciError::io("read", Path::new("/proc/self/status")))?;
            own.permitted
        }
    };
    let named = |process| {
        let names = check::not_granted(process, held);
        names.into_iter().map(|name| format!("{CAPABILITIES} {name}")).collect()
    };
    Ok(spec.process.as_ref().map_or_else(Vec::new, named))
}

/// What stands before each capability in [`State::left_out`].
pub const CAPABILITIES: &str = "process.capabilities";

/// Whether the kernel lets the caller have this score: lowering it is for root of the host.
fn may_set_oom_score(score: i32) -> bool {
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    own.trim().parse::<i32>().is_ok_and(|own| score >= own)
        || creds::caps().is_ok_and(|caps| caps.effective.has(creds::Caps::SYS_RESOURCE))
            && ns::has_host_ids().is_ok_and(|host| host)
}

/// RFC 3339 with nanoseconds.
fn now() -> String {
    let ns = event::unix_ns();
    let seconds = Unix(ns / 1_000_000).rfc3339();
    format!("{}.{:09}Z", seconds.trim_end_matches('Z'), ns % 1_000_000_000)
}

/// Hooks of `hooks.poststart`.
pub(super) fn poststart(container: &Container, spec: &Spec) -> Result<(), OciError> {
    let Some(hooks) = &spec.hooks else { return Ok(()) };
    let state = container.hook_state("running");
    Ok(hooks::run("poststart", hooks.poststart.as_ref(), &state)?)
}

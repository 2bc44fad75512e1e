//! Starting a keeper where none runs.
//!
//! | who | where it goes |
//! |---|---|
//! | the unit `dunlin-keeper.service` | the unit's delegated group; started by root through systemd |
//! | root without that unit, for the store's owner | a group `dunlin…` that root makes and gives away ([`prepare_as_root`]) |
//! | an ordinary user with a systemd of its own | a scope with `Delegate=yes` (`systemd-run --user --scope`) |
//! | anybody else | where the caller is, with control groups if the caller's happen to be delegated |

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{client, name, spawn};
use crate::config::env;
use crate::disk::layout::Layout;
use crate::disk::{DiskError, durable};
use crate::runtime::cgroup::{self, Host, Tree};
use crate::sys::process::{self, CloneArgs, Cloned};
use crate::sys::{creds, seal, socket};
use crate::types::bounds::KEEPER_START_MS;

/// Why no keeper could be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The run root or a lock in it.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The run root is somebody else's.
    #[error(
        "run root `{path}` belongs to user {owner} and may be written by others than user {uid}; remove it or choose another with `--runroot`"
    )]
    RunRoot {
        /// The run root.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who asks.
        uid: u32,
    },
    /// The process could not be made.
    #[error("the keeper cannot be started: {action}: {source}")]
    Spawn {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The unit's first process lives, and no keeper.
    #[error(
        "the keeper's unit has had no keeper for {seconds} s; see `journalctl -u dunlin-keeper`, then `systemctl restart dunlin-keeper`"
    )]
    Guarded {
        /// How long was waited.
        seconds: u64,
    },
    /// It came up and said why it cannot go on.
    #[error("the keeper cannot start: {text}")]
    Failed {
        /// Its words.
        text: String,
    },
    /// It ended or hangs without a word.
    #[error(
        "the keeper did not come up within {seconds} s; run `dunlin keeper --root {root} --runroot {run}` to see why"
    )]
    Silent {
        /// How long was waited.
        seconds: u64,
        /// Data folder.
        root: PathBuf,
        /// Run root.
        run: PathBuf,
    },
}

/// The user that a store belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups: they grant devices.
    pub groups: Vec<u32>,
}

/// A process that sits in a control group made for it, has become the store's owner and waits: to become the keeper, or to
/// end when this is dropped.
#[derive(Debug)]
pub struct Starter {
    control: OwnedFd,
}

/// Makes ready what only root can, so that the caller may become the store's owner afterwards: control groups for the
/// owner's keeper. None: a keeper runs already. The caller must be root and have one thread.
///
/// On the system store with systemd, `dunlin-keeper.service` is started instead where that unit is installed. Groups that
/// cannot be made are no error here: the keeper will say what is not enforced.
pub fn prepare_as_root(layout: &Layout, owner: &Owner) -> Result<Option<Starter>, StartError> {
    if client::connect(layout).is_ok() || (*layout == Layout::system() && start_unit()) {
        return Ok(None);
    }
    let spawn = |action| move |source| StartError::Spawn { action, source };
    let (control, theirs) = socket::pair().map_err(spawn("make a socket"))?;
    match process::clone(&CloneArgs::default()).map_err(spawn("fork"))? {
        Cloned::Parent(_) => Ok(Some(Starter { control })),
        Cloned::Child => {
            drop(control);
            process::exit_now(wait_in_group(layout, owner, &theirs));
        }
    }
}

fn wait_in_group(layout: &Layout, owner: &Owner, control: &OwnedFd) -> i32 {
    /// Longest wait between the preparation and the first container: a slow pull.
    const PATIENCE: Duration = Duration::from_secs(24 * 3600);
    if let Ok(host) = Host::read(owner.uid) {
        // What is missing becomes a gap of the keeper's tree.
        let _ = cgroup::found_as_root(&host, &name::of_tree(layout), (owner.uid, owner.gid));
    }
    if creds::become_user(owner.uid, owner.gid, &owner.groups).is_err() {
        return 125;
    }
    let mut go = [0; 8];
    let come = socket::wait_readable(control.as_fd(), PATIENCE);
    match come.and_then(|_| socket::recv_with_fds(control.as_fd(), &mut go)) {
        Ok((1.., fds)) if fds.len() == 1 => {
            let args = arguments(layout);
            let [ready] = &fds[..] else { return 125 };
            // Never returns on success; the starter sees the end of the socket.
            let _ = process::place(ready.as_fd(), 0, false);
            let _ = spawn::become_self(None, &args);
            125
        }
        _ => 0,
    }
}

/// True if systemd runs the keeper's unit now.
fn start_unit() -> bool {
    if !Path::new("/run/systemd/system").is_dir() {
        return false;
    }
    let Some(systemctl) = find("systemctl") else {
        return false;
    };
    let unit = "dunlin-keeper.service";
    quiet(
        Command::new(systemctl).args(["start", "--quiet", unit]),
        Duration::from_millis(KEEPER_START_MS),
    )
}

/// Makes the run root and checks that nobody else can put a socket there.
pub(super) fn make_run_root(layout: &Layout) -> Result<(), StartError> {
    let run = layout.run();
    durable::create_dirs(run)?;
    let data = fs::symlink_metadata(run).map_err(DiskError::io("look at", run))?;
    let (uid, _) = creds::effective_ids();
    if !data.is_dir() || data.uid() != uid || data.mode() & 0o022 != 0 {
        return Err(StartError::RunRoot {
            path: run.to_owned(),
            owner: data.uid(),
            uid,
        });
    }
    Ok(())
}

/// Starts a keeper and waits until it serves. The caller holds the starters' lock.
pub(super) fn start(layout: &Layout, starter: Option<Starter>) -> Result<(), StartError> {
    if let Some(starter) = starter {
        let (ours, theirs) = pair()?;
        let asked = socket::send_with_fds(starter.control.as_fd(), b"go", &[theirs.as_fd()]);
        drop(theirs);
        if asked.is_ok() {
            return wait_ready(layout, &ours);
        }
    }
    if let Some(systemd_run) = own_systemd() {
        let (ours, theirs) = pair()?;
        let program = seal::own_path().map_err(|source| StartError::Spawn {
            action: "find itself",
            source,
        })?;
        let mut command = Command::new(systemd_run);
        command
            .args(["--user", "--scope", "--quiet", "--collect", "-p", "Delegate=yes", "--"])
            .arg(program);
        // Without its scope a keeper still works: it says what is not enforced.
        if launch(command, layout, theirs, true).is_ok() {
            match wait_ready(layout, &ours) {
                Err(StartError::Silent { .. }) => {}
                done => return done,
            }
        }
    }
    let (ours, theirs) = pair()?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0(spawn::own_name());
    launch(command, layout, theirs, false)?;
    wait_ready(layout, &ours)
}

fn pair() -> Result<(OwnedFd, OwnedFd), StartError> {
    socket::pair().map_err(|source| StartError::Spawn {
        action: "make a socket",
        source,
    })
}

/// The keeper's arguments, for one that tells descriptor 0 how its start went.
fn arguments(layout: &Layout) -> Vec<std::ffi::OsString> {
    let mut args: Vec<std::ffi::OsString> = ["keeper", "--daemon", "--ready-fd", "0", "--root"]
        .map(Into::into)
        .into();
    args.push(layout.data().into());
    args.push("--runroot".into());
    args.push(layout.run().into());
    args
}

/// Runs `command` with the keeper's arguments; it goes into the background by itself, so its end is soon.
fn launch(mut command: Command, layout: &Layout, ready: OwnedFd, with_session: bool) -> Result<(), StartError> {
    let spawn = |action| move |source| StartError::Spawn { action, source };
    command.args(arguments(layout)).env_clear().env("PATH", SAFE_PATH);
    if with_session {
        for name in [env::XDG_RUNTIME_DIR, env::DBUS_SESSION_BUS_ADDRESS] {
            if let Some(value) = env::get(name) {
                command.env(name, value);
            }
        }
    }
    command
        .current_dir("/")
        .stdin(ready)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if quiet(&mut command, Duration::from_millis(KEEPER_START_MS)) {
        Ok(())
    } else {
        Err(spawn("run it")(io::Error::other("the program did not run")))
    }
}

const SAFE_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs a command to its end; true if it succeeded in time.
fn quiet(command: &mut Command, patience: Duration) -> bool {
    let Ok(mut child) = command.spawn() else { return false };
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_micros(200);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(pause),
            _ => {
                // It hangs: it goes, and the caller tries another way.
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
        }
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Waits for the keeper's word: `ok` or why it cannot start.
fn wait_ready(layout: &Layout, ready: &OwnedFd) -> Result<(), StartError> {
    let silent = || StartError::Silent {
        seconds: KEEPER_START_MS / 1000,
        root: layout.data().to_owned(),
        run: layout.run().to_owned(),
    };
    let mut text = [0; 4096];
    let come = socket::wait_readable(ready.as_fd(), Duration::from_millis(KEEPER_START_MS));
    if !come.unwrap_or(false) {
        return Err(silent());
    }
    match socket::recv(ready.as_fd(), &mut text) {
        Ok(0) | Err(_) => Err(silent()),
        Ok(length) if &text[..length] == READY => Ok(()),
        Ok(length) => Err(StartError::Failed {
            text: String::from_utf8_lossy(&text[..length]).into_owned(),
        }),
    }
}

/// What a keeper says on its ready socket when it serves.
pub(super) const READY: &[u8] = b"ok";

/// `systemd-run`, if a systemd of the calling user can be reached and control groups are v2.
fn own_systemd() -> Option<PathBuf> {
    let (uid, _) = creds::effective_ids();
    let run = env::path(env::XDG_RUNTIME_DIR)?;
    if uid == 0 || !run.join("systemd/private").exists() {
        return None;
    }
    let delegated = Host::read(uid).is_ok_and(|host| !matches!(Tree::detect(&host, "dunlin"), Tree::V1 { .. }));
    find("systemd-run").filter(|_| delegated)
}

fn find(program: &str) -> Option<PathBuf> {
    ["/usr/bin", "/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.is_file())
}

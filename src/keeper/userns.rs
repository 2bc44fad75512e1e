//! The store's user namespace: made once, kept by a descriptor, no process stays in it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::config::subid::StoreMap;
use crate::sys::ns::{self, Namespaces};
use crate::sys::process::{self, CloneArgs, Cloned};
use crate::sys::{creds, socket};
use crate::types::bounds::KEEPER_IDMAP_MS;
use crate::types::idmap::{Extent, IdMap};

/// Why there is no namespace.
#[derive(Debug, thiserror::Error)]
pub enum UsernsError {
    /// The kernel refuses to make one.
    #[error("the kernel refuses a user namespace: {source}; {fix}")]
    Make {
        /// Its error.
        source: io::Error,
        /// What mends it.
        fix: &'static str,
    },
    /// The maps cannot be written.
    #[error("the id map `{map}` cannot be written: {source}")]
    Map {
        /// The map.
        map: String,
        /// Why.
        source: io::Error,
    },
    /// newuidmap or newgidmap failed.
    #[error(
        "`{command}` failed: {text}; check /etc/subuid and /etc/subgid, and that {program} is installed as its package has it (set-user-id or file capabilities)"
    )]
    Tool {
        /// The program.
        program: &'static str,
        /// With its arguments.
        command: String,
        /// What it said.
        text: String,
    },
    /// Something else failed.
    #[error("user namespace: {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// Where newuidmap and newgidmap may be; `PATH` is not asked, since they are trusted with the ids.
const TOOL_DIRS: [&str; 4] = ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin"];

/// Makes the namespace with the map of `ids`. Where the ranges need newuidmap and there is none, the map becomes a single
/// id with a note that says so. The caller must have one thread.
pub(super) fn make(ids: &mut StoreMap) -> Result<OwnedFd, UsernsError> {
    let io = |action| move |source| UsernsError::Io { action, source };
    let (uid, gid) = creds::effective_ids();
    // The child lives until its end of this is closed or it is killed.
    let (ours, theirs) = socket::pair().map_err(io("make a socket"))?;
    let args = CloneArgs {
        namespaces: Namespaces::USER,
        ..CloneArgs::default()
    };
    let child = match process::clone(&args).map_err(refused)? {
        Cloned::Parent(child) => child,
        Cloned::Child => {
            drop(ours);
            let _ = socket::wait_readable(theirs.as_fd(), Duration::from_secs(60));
            process::exit_now(0);
        }
    };
    drop(theirs);
    let made = write_maps(child.pid, ids, uid, gid)
        .and_then(|()| File::open(format!("/proc/{}/ns/user", child.pid)).map_err(io("open the namespace")));
    drop(ours);
    // It ends by itself now; a signal is only faster.
    let _ = process::send_signal(child.pidfd.as_fd(), 9);
    process::wait(child.pidfd.as_fd()).map_err(io("wait for its first process"))?;
    made.map(OwnedFd::from)
}

/// Enters the namespace and becomes its root; the error says at what. The caller must have one thread.
pub fn enter(namespace: BorrowedFd<'_>) -> Result<(), (&'static str, io::Error)> {
    let step = |what| move |error| (what, error);
    ns::join(namespace, Namespaces::USER).map_err(step("join the store's user namespace"))?;
    if creds::effective_ids() != (0, 0) {
        // A store of root: its namespace does not have the host's root, so become the namespace's.
        creds::set_groups(&[]).map_err(step("drop groups"))?;
        creds::set_gid(0).map_err(step("set the group"))?;
        creds::set_uid(0).map_err(step("set the user"))?;
    }
    Ok(())
}

fn write_maps(pid: i32, ids: &mut StoreMap, uid: u32, gid: u32) -> Result<(), UsernsError> {
    if uid == 0 {
        return direct(pid, &ids.map, false);
    }
    if !ids.map.is_single() {
        match (tool("newuidmap"), tool("newgidmap")) {
            (Some(newuidmap), Some(newgidmap)) => {
                run(newuidmap, "newuidmap", pid, &ids.map.uids)?;
                return run(newgidmap, "newgidmap", pid, &ids.map.gids);
            }
            _ => {
                ids.map = IdMap::single(uid, gid);
                ids.note = Some(
                    "newuidmap and newgidmap are not installed (package `uidmap`): images with other users than root do \
                     not work"
                        .to_owned(),
                );
            }
        }
    }
    direct(pid, &ids.map, true)
}

fn direct(pid: i32, map: &IdMap, deny_setgroups: bool) -> Result<(), UsernsError> {
    let lines = |extents: &[Extent]| {
        extents
            .iter()
            .map(|e| (e.inside, e.outside, e.count))
            .collect::<Vec<_>>()
    };
    ns::write_id_maps(pid, &lines(&map.uids), &lines(&map.gids), deny_setgroups).map_err(|source| UsernsError::Map {
        map: format!("{:?}", map.uids),
        source,
    })
}

fn tool(name: &str) -> Option<PathBuf> {
    TOOL_DIRS
        .iter()
        .map(|dir| PathBuf::from(dir).join(name))
        .find(|path| path.is_file())
}

fn run(path: PathBuf, program: &'static str, pid: i32, extents: &[Extent]) -> Result<(), UsernsError> {
    let numbers = extents
        .iter()
        .flat_map(|e| [e.inside, e.outside, e.count])
        .map(|number| number.to_string());
    let args: Vec<String> = std::iter::once(pid.to_string()).chain(numbers).collect();
    let failed = |text: String| UsernsError::Tool {
        program,
        command: format!("{program} {}", args.join(" ")),
        text: text.trim().chars().take(400).collect(),
    };
    let mut child = Command::new(&path)
        .args(&args)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let deadline = Instant::now() + Duration::from_millis(KEEPER_IDMAP_MS);
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => {
                let mut text = String::new();
                if let Some(stderr) = child.stderr.take() {
                    // What it said is an addition to its status.
                    let _ = io::Read::read_to_string(&mut io::Read::take(stderr, 4096), &mut text);
                }
                return Err(failed(if text.is_empty() { status.to_string() } else { text }));
            }
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_micros(500)),
            Ok(None) => {
                // Set-user-id programs may refuse our signal; they end by themselves.
                let _ = child.kill();
                return Err(failed(format!("no end within {KEEPER_IDMAP_MS} ms")));
            }
            Err(error) => return Err(failed(error.to_string())),
        }
    }
}

fn refused(source: io::Error) -> UsernsError {
    let fix = match source.raw_os_error() {
        // ENOSPC, EUSERS: the sysctl's count is reached or 0.
        Some(28 | 87) => "raise the sysctl `user.max_user_namespaces`",
        // EPERM
        Some(1) => {
            "allow it: sysctl `kernel.unprivileged_userns_clone=1` (Debian), \
             `kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu), and no seccomp filter around dunlin"
        }
        // EINVAL, ENOSYS
        Some(22 | 38) => "use a kernel with CONFIG_USER_NS",
        _ => "see user_namespaces(7)",
    };
    UsernsError::Make { source, fix }
}

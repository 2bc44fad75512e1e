//! What a process does to itself before it becomes the container's program: limits, ids, capabilities, filter. The same
//! for a container's first process and for one that joins it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::error::RuntimeError;
use super::message::ChildEnd;
use super::notify;
use super::program::Program;
use super::schedule::Schedule;
use super::seccomp::{self, Abi};
use super::user::Identity;
use crate::sys::creds::{self, CapState, Caps};
use crate::sys::{errno, path, process};
use crate::types::idmap::IdMap;
use crate::types::oci::runtime::{Linux, LinuxCapabilities, Process, Spec};

/// A process that has everything but its filter and its program.
#[derive(Debug)]
pub struct Prepared {
    program: Program,
    filter: Option<seccomp::Program>,
    no_new_privileges: bool,
    caps: CapState,
}

/// The filter of a specification: the one that was compiled before, else it is compiled.
pub fn filter(spec: &Spec, ready: Option<&seccomp::Program>) -> Result<Option<seccomp::Program>, RuntimeError> {
    if let Some(ready) = ready {
        return Ok(Some(ready.clone()));
    }
    let seccomp = spec.linux.as_ref().and_then(|linux| linux.seccomp.as_ref());
    let Some(seccomp) = seccomp else { return Ok(None) };
    let compiled = seccomp::compile(seccomp, Abi::NATIVE);
    compiled
        .map(Some)
        .map_err(|e| RuntimeError::Seccomp { problem: e.to_string() })
}

/// Whether the ids exist in the container's namespace; takes the supplementary groups away that do not.
pub fn check_ids(identity: &mut Identity, added: &[u32], map: Option<&IdMap>) -> Result<(), RuntimeError> {
    let further = std::mem::take(&mut identity.further);
    identity.groups.retain(|group| !further.contains(group));
    identity.groups.extend(&further);
    // Without a map of its own the kernel says what is not there.
    let Some(map) = map else { return Ok(()) };
    let (uid, gid) = (identity.uid, identity.gid);
    let strange = added.iter().chain(&further).find(|&&group| !map.has_gid(group));
    if map.has_uid(uid) && map.has_gid(gid) && strange.is_none() {
        identity.groups.retain(|&group| map.has_gid(group));
        return Ok(());
    }
    let fix = if map.is_single() {
        "it has one id only: give its owner ranges in /etc/subuid and /etc/subgid, or run as root (user 0) in the container"
    } else {
        "give its owner larger ranges in /etc/subuid and /etc/subgid"
    };
    Err(RuntimeError::UnmappedUser {
        uid,
        gid: strange.copied().unwrap_or(gid),
        fix: fix.to_owned(),
    })
}

/// Makes the caller the process that the specification describes, all but filter and program. `root` is the container's
/// root directory, which is the caller's own.
pub fn prepare(
    process: &Process,
    linux: Option<&Linux>,
    identity: &Identity,
    filter: Option<seccomp::Program>,
) -> Result<Prepared, RuntimeError> {
    Schedule::of(process, linux)?.apply()?;
    for limit in process.rlimits.iter().flatten() {
        let (name, soft, hard) = (&limit.kind, limit.soft, limit.hard);
        let number = process::limit_by_name(name)
            .ok_or_else(|| RuntimeError::spec("process.rlimits", format!("`{name}` is not known")))?;
        process::set_limit(number, soft, hard)
            .map_err(RuntimeError::process(format!("set {name} to {soft}:{hard}")))?;
    }
    process::set_umask(process.user.umask.unwrap_or(0o022));
    // Root may enter what the user may not, and the other way round on file systems that squash root.
    let cwd = &process.cwd;
    let entered = enter(cwd);
    let caps = wanted(process.capabilities.as_ref()).within(
        creds::caps()
            .map_err(RuntimeError::process("read capabilities"))?
            .permitted,
    );
    let no_new_privileges = process.no_new_privileges.unwrap_or(false);
    // Without no-new-privileges only CAP_SYS_ADMIN may load a filter.
    let admin = if filter.is_some() && !no_new_privileges {
        Caps::SYS_ADMIN
    } else {
        Caps::NONE
    };
    change_ids(process, identity)?;
    creds::limit_bounding(caps.bounding).map_err(RuntimeError::process("limit the bounding set"))?;
    let with_admin = CapState {
        effective: caps.state.effective | admin,
        permitted: caps.state.permitted | admin,
        ..caps.state
    };
    creds::set_caps(&with_admin).map_err(RuntimeError::process("set capabilities"))?;
    creds::set_ambient(caps.ambient).map_err(RuntimeError::process("set ambient capabilities"))?;
    entered.or_else(|_| enter(cwd))?;
    let program = Program::find(
        process.args.as_deref().unwrap_or_default(),
        &environment(process, identity),
    )?;
    Ok(Prepared {
        program,
        filter,
        no_new_privileges,
        caps: caps.state,
    })
}

impl Prepared {
    /// Becomes the program. Returns only the error.
    pub fn run(&self, parent: &ChildEnd) -> RuntimeError {
        match self.restrict(parent) {
            Ok(()) => self.program.exec(),
            Err(error) => error,
        }
    }

    fn restrict(&self, parent: &ChildEnd) -> Result<(), RuntimeError> {
        if self.no_new_privileges {
            process::set_no_new_privileges().map_err(RuntimeError::process("set no_new_privs"))?;
        }
        let Some(filter) = &self.filter else { return Ok(()) };
        notify::announce(filter, parent)?;
        let listener = filter.load().map_err(|e| RuntimeError::Seccomp {
            problem: format!("load the filter: {}", super::error::Errno::from(e)),
        })?;
        if let Some(listener) = listener {
            notify::keep(listener, parent)?;
        }
        if self.no_new_privileges {
            return Ok(());
        }
        creds::set_caps(&self.caps).map_err(RuntimeError::process("set capabilities"))
    }
}

/// Whether the program can get the capability to mount.
pub fn may_mount(process: &Process) -> bool {
    wanted(process.capabilities.as_ref()).bounding.has(Caps::SYS_ADMIN)
}

/// Gives pipes and sockets among the first three descriptors to the user, so that it can open them again by name.
pub fn own_stdio(identity: &Identity) -> Result<(), RuntimeError> {
    if identity.uid == 0 && identity.gid == 0 {
        return Ok(());
    }
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    for fd in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        let fail = || RuntimeError::process("give standard streams to the user");
        if path::status(fd).map_err(fail())?.is_stream() {
            match path::set_owner(fd, identity.uid, identity.gid) {
                // A caller's own may belong to somebody without a number here.
                Err(e) if matches!(e.raw_os_error(), Some(errno::EPERM | errno::EINVAL | errno::EROFS)) => {}
                done => done.map_err(fail())?,
            }
        }
    }
    Ok(())
}

/// Gives a terminal to the user; its group stays, which devpts has set.
pub fn own_terminal(terminal: BorrowedFd<'_>, identity: &Identity) -> Result<(), RuntimeError> {
    let fail = || RuntimeError::process("give the terminal to the user");
    let gid = path::status(terminal).map_err(fail())?.gid;
    path::set_owner(terminal, identity.uid, gid).map_err(fail())
}

/// Enters the working directory and makes sure that it is below the root.
fn enter(cwd: &Path) -> Result<(), RuntimeError> {
    let fail = |e: io::Error| RuntimeError::Cwd {
        path: cwd.display().to_string(),
        errno: e.into(),
    };
    std::env::set_current_dir(cwd).map_err(fail)?;
    // The kernel names a directory outside the root "(unreachable)", which the C library makes an error.
    std::env::current_dir().map(drop).map_err(fail)
}

fn change_ids(process: &Process, identity: &Identity) -> Result<(), RuntimeError> {
    let Identity { uid, gid, groups, .. } = identity;
    let added = process.user.additional_gids.as_deref().unwrap_or_default();
    let mut all = groups.clone();
    all.extend(added.iter().filter(|group| !groups.contains(group)));
    match creds::set_groups(&all) {
        // A namespace of one id does not let anybody set groups; then there are none but the user's own.
        Err(e) if e.raw_os_error() == Some(errno::EPERM) && added.is_empty() => {}
        done => done.map_err(RuntimeError::process(format!("set supplementary groups {all:?}")))?,
    }
    creds::set_gid(*gid).map_err(RuntimeError::process(format!("become group {gid}")))?;
    if *uid != 0 {
        creds::keep_caps(true).map_err(RuntimeError::process("keep capabilities"))?;
    }
    creds::set_uid(*uid).map_err(RuntimeError::process(format!("become user {uid}")))?;
    if *uid != 0 {
        // Leaving user 0 has emptied the effective set; the permitted one is whole.
        let mut state = creds::caps().map_err(RuntimeError::process("read capabilities"))?;
        state.effective = state.permitted;
        creds::set_caps(&state).map_err(RuntimeError::process("set capabilities"))?;
    }
    Ok(())
}

/// The environment with a `HOME`, which the specification leaves to the image's passwd.
fn environment(process: &Process, identity: &Identity) -> Vec<String> {
    let mut env = process.env.clone().unwrap_or_default();
    if !env.iter().any(|var| var.starts_with("HOME=")) {
        env.push(format!("HOME={}", identity.home.as_deref().unwrap_or("/")));
    }
    env
}

/// The five sets of a specification, whose names [`super::check`] has let pass; a set that is missing is empty.
struct Wanted {
    bounding: Caps,
    ambient: Caps,
    state: CapState,
}

impl Wanted {
    /// What a process that has `held` can give: the specification wants the rest left out.
    fn within(self, held: Caps) -> Self {
        let state = CapState {
            effective: self.state.effective.and(held),
            permitted: self.state.permitted.and(held),
            inheritable: self.state.inheritable.and(held),
        };
        Wanted {
            bounding: self.bounding,
            // The kernel wants them in both.
            ambient: self.ambient.and(state.permitted).and(state.inheritable),
            state,
        }
    }
}

fn wanted(caps: Option<&LinuxCapabilities>) -> Wanted {
    let none = LinuxCapabilities::default();
    let caps = caps.unwrap_or(&none);
    let set = |names: &Option<Vec<String>>| Caps::by_names(names.as_deref().unwrap_or_default());
    Wanted {
        bounding: set(&caps.bounding),
        ambient: set(&caps.ambient),
        state: CapState {
            effective: set(&caps.effective),
            permitted: set(&caps.permitted),
            inheritable: set(&caps.inheritable),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::idmap::Extent;

    fn map(count: u32) -> IdMap {
        let extents = vec![Extent {
            inside: 0,
            outside: 0,
            count,
        }];
        IdMap {
            uids: extents.clone(),
            gids: extents,
        }
    }

    #[test]
    fn ids_without_a_number_on_the_host_are_refused_or_left_out() {
        let user = |uid, gid| Identity {
            uid,
            gid,
            groups: vec![0, 10, 70_000],
            ..Identity::default()
        };
        let mut known = user(1000, 100);
        check_ids(&mut known, &[44], Some(&map(65_536))).expect("in range");
        assert_eq!(known.groups, [0, 10]);
        let cases = [
            (
                user(1000, 100),
                &[][..],
                1,
                "user 1000:100 is not in this store's range of ids; it has one id only",
            ),
            (
                user(70_000, 0),
                &[],
                65_536,
                "user 70000:0 is not in this store's range of ids; give its owner larger",
            ),
            (user(0, 0), &[70_001], 65_536, "user 0:70001 is not"),
        ];
        for (mut identity, added, count, text) in cases {
            let error = check_ids(&mut identity, added, Some(&map(count)))
                .expect_err(text)
                .to_string();
            assert!(error.contains(text), "{error}");
        }
        let mut root = user(0, 0);
        check_ids(&mut root, &[], Some(&map(1))).expect("root");
        assert_eq!(root.groups, [0]);
    }

    #[test]
    fn home_is_added_only_where_it_is_missing() {
        let process = |env: &[&str]| {
            let json = serde_json::json!({"user":{"uid":0,"gid":0},"cwd":"/","env":env});
            serde_json::from_str::<Process>(&json.to_string()).expect("a process")
        };
        let home = |home: Option<&str>| Identity {
            home: home.map(str::to_owned),
            ..Identity::default()
        };
        assert_eq!(
            environment(&process(&["A=b"]), &home(Some("/root"))),
            ["A=b", "HOME=/root"]
        );
        assert_eq!(environment(&process(&["HOME=/x"]), &home(Some("/root"))), ["HOME=/x"]);
        assert_eq!(environment(&process(&[]), &home(None)), ["HOME=/"]);
    }

    #[test]
    fn missing_sets_are_empty() {
        let json = r#"{"bounding":["CAP_KILL","CAP_CHOWN"],"effective":["CAP_KILL"]}"#;
        let caps: LinuxCapabilities = serde_json::from_str(json).expect("sets");
        let found = wanted(Some(&caps));
        assert_eq!(found.bounding.names().collect::<Vec<_>>(), ["CHOWN", "KILL"]);
        assert_eq!(found.state.effective.names().collect::<Vec<_>>(), ["KILL"]);
        assert_eq!((found.state.permitted, found.ambient), (Caps::NONE, Caps::NONE));
        assert_eq!(wanted(None).bounding, Caps::NONE);
    }
}

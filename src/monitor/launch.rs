//! From a monitor's configuration and its bundle to the runtime's calls; runs in a [`super::starter`] child.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use super::network::{self, Plan};
use super::starter::{Report, Talk};
use super::stdio::Ends;
use super::wire::{ExecRequest, MonitorConfig, Refusal, Root, Size};
use crate::disk::durable;
use crate::runtime::cgroup::Handle;
use crate::runtime::create;
use crate::runtime::error::RuntimeError;
use crate::runtime::exec as runtime_exec;
use crate::runtime::hold;
use crate::runtime::hooks::HookState;
use crate::runtime::launch::{ExecLaunch, Extra, Launch, Rootfs, Stdio};
use crate::runtime::seccomp::Program;
use crate::sys::creds::Caps;
use crate::sys::tty::WindowSize;
use crate::types::bounds::{BUNDLE_BYTES, RUN_START_MS};
use crate::types::oci::runtime::{Linux, LinuxCapabilities, LinuxResources, LinuxSeccomp, Process, Spec};
use crate::types::read;

/// Which pipes a process gets; none is `/dev/null`, or a terminal.
#[derive(Debug, Clone, Copy)]
pub struct Wants {
    /// For its standard input.
    pub stdin: bool,
    /// For its standard output and error.
    pub output: bool,
}

/// The process's ends of its pipes.
#[derive(Debug, Default)]
pub struct Theirs {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// Makes the pipes: our ends, and the process's.
pub fn pipes(wants: Wants) -> io::Result<(Ends, Theirs)> {
    let (mut ours, mut theirs) = (Ends::default(), Theirs::default());
    if wants.stdin {
        let (reader, writer) = io::pipe()?;
        (theirs.stdin, ours.input) = (Some(reader.into()), Some(writer.into()));
    }
    if wants.output {
        let (reader, writer) = io::pipe()?;
        (ours.output, theirs.stdout) = (Some(reader.into()), Some(writer.into()));
        let (reader, writer) = io::pipe()?;
        (ours.error, theirs.stderr) = (Some(reader.into()), Some(writer.into()));
    }
    Ok((ours, theirs))
}

impl Theirs {
    fn stdio(self, terminal: Option<Size>) -> Stdio {
        match terminal {
            // A size with a zero is none.
            Some(size) => Stdio::Terminal {
                size: Some(size)
                    .filter(|size| size.rows > 0 && size.cols > 0)
                    .map(|size| WindowSize {
                        rows: size.rows,
                        cols: size.cols,
                    }),
            },
            None => Stdio::Streams {
                stdin: self.stdin,
                stdout: self.stdout,
                stderr: self.stderr,
            },
        }
    }
}

impl From<RuntimeError> for Refusal {
    fn from(error: RuntimeError) -> Refusal {
        Refusal {
            code: error.exit_code(),
            message: error.to_string(),
        }
    }
}

/// Makes the container, reports, waits for the monitor's word, and lets the program run.
pub fn create(
    config: &MonitorConfig,
    group: &Handle,
    theirs: Theirs,
    sockets: &[OwnedFd],
    talk: &Talk,
) -> Result<(), Refusal> {
    let plan = network::read(&config.bundle)?;
    plan.check()?;
    if let Some(host_name) = &plan.infra {
        let held = hold::hold(&config.id_map, host_name, group)?;
        let made = begin_network(config, &plan, held.pid, held.pidfd.as_fd(), None, talk);
        return made
            .map(|()| talk.say(&Report::Ran { pid: held.pid }, &[]))
            .inspect_err(|_| network::end(&held.pidfd));
    }
    let spec = read_spec(&config.bundle.join("config.json"))?;
    let filter = crate::runtime::filter(&spec, None)?;
    remember(&config.run_dir, &spec, filter.as_ref());
    weigh(group, &spec)?;
    let sockets = sockets.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>();
    let rootfs = match config.root.clone() {
        Root::Overlay {
            lowers,
            upper,
            work,
            target,
        } => Rootfs::Overlay {
            lowers,
            upper,
            work,
            target,
            volatile: !config.cleanup.is_empty(),
        },
        Root::Flat(path) => Rootfs::Flat(path),
    };
    let mut created = create::create(Launch {
        spec: &spec,
        bundle: &config.bundle,
        rootfs,
        // Who shares a user namespace finds its map.
        id_map: plan.joins.is_none().then(|| config.id_map.clone()),
        cgroup: Some(group),
        user: Some(config.user.as_str()),
        filter: filter.as_ref(),
        stdio: theirs.stdio(config.tty),
        die_with_parent: true,
        sibling: true,
        extra: Extra {
            hooks: listener_state(&spec, config),
            sockets: sockets.map_err(|error| Refusal::new(format!("copy a socket for the container: {error}")))?,
            ..Extra::default()
        },
    })?;
    begin_network(
        config,
        &plan,
        created.pid,
        created.pidfd.as_fd(),
        created.console.as_ref(),
        talk,
    )?;
    created.start()?;
    talk.say(&Report::Ran { pid: created.pid }, &[]);
    Ok(())
}

/// Sets the weight at block devices, the only limit that the group does not have from the monitor's configuration.
fn weigh(group: &Handle, spec: &Spec) -> Result<(), Refusal> {
    let resources = spec.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    let Some(block_io) = resources.and_then(|resources| resources.block_io.clone()) else {
        return Ok(());
    };
    let alone = LinuxResources {
        block_io: Some(block_io),
        ..LinuxResources::default()
    };
    group.apply(&alone).map(drop).map_err(|error| {
        let fix = "this kernel weighs no block devices here: it needs the scheduler bfq or `io.cost.qos`, and control group `io` handed down";
        Refusal::new(format!("--blkio-weight: {error}; {fix}"))
    })
}

/// Begins the network of what was made, reports it all, and waits for the monitor's word.
fn begin_network(
    config: &MonitorConfig,
    plan: &Plan,
    pid: i32,
    pidfd: BorrowedFd<'_>,
    console: Option<&OwnedFd>,
    talk: &Talk,
) -> Result<(), Refusal> {
    let helper = plan.helper.as_ref();
    let helper = helper
        .map(|helper| network::begin(helper, pid, &config.run_dir))
        .transpose()?;
    let fds: Vec<BorrowedFd<'_>> = std::iter::once(pidfd)
        .chain(helper.as_ref().map(|helper| helper.pidfd.as_fd()))
        .chain(console.map(AsFd::as_fd))
        .collect();
    let helper = helper.as_ref().map(|helper| helper.pid);
    talk.say(&Report::Made { pid, helper }, &fds);
    talk.wait_go(Duration::from_millis(RUN_START_MS))
}

/// Runs a further process in the container `target` and reports it.
pub fn exec(
    config: &MonitorConfig,
    group: &Handle,
    target: (i32, BorrowedFd<'_>),
    request: &ExecRequest,
    theirs: Theirs,
    talk: &Talk,
) -> Result<(), Refusal> {
    let (spec, filter) = recall(config)?;
    let process = process_of(&spec, request)?;
    let (pid, pidfd) = target;
    let user = request.user.as_deref().unwrap_or(&config.user);
    let made = runtime_exec::exec(ExecLaunch {
        pid,
        pidfd,
        spec: &spec,
        id_map: Some(&config.id_map),
        cgroup: Some(group),
        process: &process,
        user: Some(user),
        filter: filter.as_ref(),
        stdio: theirs.stdio(request.tty),
        die_with_parent: true,
        sibling: true,
        state: listener_state(&spec, config),
        kept_fds: 0,
    })?;
    let fds: Vec<BorrowedFd<'_>> = std::iter::once(made.pidfd.as_fd())
        .chain(made.console.as_ref().map(AsFd::as_fd))
        .collect();
    talk.say(&Report::Ran { pid: made.pid }, &fds);
    Ok(())
}

/// What a listener of the container's filter is told, if it has one.
fn listener_state(spec: &Spec, config: &MonitorConfig) -> Option<HookState> {
    spec.linux.as_ref()?.seccomp.as_ref()?.listener_path.as_ref()?;
    Some(HookState {
        oci_version: spec.oci_version.clone(),
        id: config.id.to_string(),
        bundle: config.bundle.clone(),
        annotations: spec.annotations.clone(),
        ..HookState::default()
    })
}

/// What an exec needs of a bundle, in the run directory: most of a bundle is its mounts and the text of its filter.
const EXEC: &str = "exec.json";
/// The compiled filter beside it.
const FILTER: &str = "filter";

/// Keeps for execs, probes above all, what the start has found out. Without it they do the same work again.
fn remember(run_dir: &Path, spec: &Spec, filter: Option<&Program>) {
    // The filter is kept apart; only who listens to it is still asked for.
    let listens = |seccomp: &LinuxSeccomp| seccomp.listener_path.is_some();
    let linux = spec.linux.as_ref().map(|linux| Linux {
        seccomp: linux.seccomp.clone().filter(listens).map(|seccomp| LinuxSeccomp {
            syscalls: None,
            ..seccomp
        }),
        memory_policy: linux.memory_policy.clone(),
        personality: linux.personality.clone(),
        namespaces: linux.namespaces.clone(),
        uid_mappings: linux.uid_mappings.clone(),
        gid_mappings: linux.gid_mappings.clone(),
        ..Linux::default()
    });
    let short = Spec {
        oci_version: spec.oci_version.clone(),
        process: spec.process.clone(),
        linux,
        ..Spec::default()
    };
    let text = serde_json::to_vec(&short).unwrap_or_default();
    let program = filter.map(Program::to_bytes).unwrap_or_default();
    // The document comes last: where it is, the filter is.
    let done = durable::write_volatile(&run_dir.join(FILTER), &program)
        .and_then(|()| durable::write_volatile(&run_dir.join(EXEC), &text));
    if let Err(error) = done {
        crate::debug!("{error}");
    }
}

/// What [`remember`] has kept, else the bundle itself.
fn recall(config: &MonitorConfig) -> Result<(Spec, Option<Program>), Refusal> {
    let kept = || {
        let program = durable::read(&config.run_dir.join(FILTER), BUNDLE_BYTES).ok()?;
        let filter = match program.is_empty() {
            true => None,
            false => Some(Program::from_bytes(&program)?),
        };
        Some((read_spec(&config.run_dir.join(EXEC)).ok()?, filter))
    };
    match kept() {
        Some(kept) => Ok(kept),
        None => Ok((read_spec(&config.bundle.join("config.json"))?, None)),
    }
}

fn read_spec(path: &Path) -> Result<Spec, Refusal> {
    let text = durable::read(path, BUNDLE_BYTES).map_err(|error| Refusal::new(error.to_string()))?;
    read::json(&text).map_err(|error| Refusal::new(format!("`{}`: {error}", path.display())))
}

/// The container's own process, changed as asked.
fn process_of(spec: &Spec, request: &ExecRequest) -> Result<Process, Refusal> {
    let mut process = spec
        .process
        .clone()
        .ok_or_else(|| Refusal::new("the container's `config.json` has no `process`"))?;
    process.args = Some(request.args.clone());
    process.terminal = Some(request.tty.is_some());
    process.console_size = None;
    if let Some(cwd) = &request.cwd {
        process.cwd = cwd.into();
    }
    let mut env = process.env.take().unwrap_or_default();
    let term = request
        .tty
        .map(|_| "TERM=xterm".to_owned())
        .filter(|_| !has(&env, "TERM"));
    for pair in term.iter().chain(&request.env) {
        let name = pair.split('=').next().unwrap_or_default();
        env.retain(|have| have.split('=').next() != Some(name));
        env.push(pair.clone());
    }
    process.env = Some(env);
    if request.privileged {
        let all = Some(Caps::ALL.long_names());
        process.capabilities = Some(LinuxCapabilities {
            bounding: all.clone(),
            effective: all.clone(),
            permitted: all,
            // Programs without capabilities of their own would hand them on (CVE-2022-24769).
            inheritable: None,
            ambient: None,
        });
        process.no_new_privileges = Some(false);
    }
    Ok(process)
}

fn has(env: &[String], name: &str) -> bool {
    env.iter().any(|pair| pair.split('=').next() == Some(name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_exec_is_the_containers_process_with_changes() {
        let mut spec = Spec {
            process: Some(Process {
                env: Some(vec!["PATH=/bin".into(), "A=1".into()]),
                cwd: "/srv".into(),
                ..Process::default()
            }),
            ..Spec::default()
        };
        let request = ExecRequest {
            args: vec!["sh".into()],
            env: vec!["A=2".into(), "B=x=y".into()],
            tty: Some(Size { rows: 1, cols: 1 }),
            privileged: true,
            ..ExecRequest::default()
        };
        let process = process_of(&spec, &request).unwrap();
        assert_eq!(process.args.as_ref().unwrap(), &["sh"]);
        assert_eq!(
            process.env.as_ref().unwrap(),
            &["PATH=/bin", "TERM=xterm", "A=2", "B=x=y"]
        );
        assert_eq!(process.cwd, Path::new("/srv"));
        let caps = process.capabilities.as_ref().unwrap();
        assert!(caps.bounding.as_ref().unwrap().len() > 35);
        assert_eq!((&caps.inheritable, &caps.ambient), (&None, &None));
        spec.process = None;
        assert!(process_of(&spec, &request).is_err());
    }
}

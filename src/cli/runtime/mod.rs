//! `dunlin runtime …`: runc's command line, for callers such as podman and containerd. It needs neither keeper nor store.

mod args;
mod foreground;
mod report;
mod show;
mod update;

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use clap::error::ErrorKind;

use super::failure::say;
use super::verbs::print;
use crate::config::env;
use crate::engine::signal;
use crate::runtime::oci::{self, Console, Container, Exec, Make, OciError, Root, Waiting};
use crate::runtime::sealed;
use crate::sys::{creds, ns, process, tty};
use crate::types::oci::runtime::{LinuxCapabilities, Process};
use crate::types::read;
use args::{Cli, CreateArgs, DeleteArgs, ExecArgs, Global, KillArgs, RunArgs, Verb};
use foreground::Foreground;
use report::Log;

/// The name that a link to the binary may have, to be this command line.
pub const NAME: &str = "dunlin-runtime";

/// Exit code of whatever fails before a program runs.
const FAILED: u8 = 1;
/// The same for `exec`, where low codes are the program's.
const EXEC_FAILED: u8 = 255;

/// Why a command fails.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl From<OciError> for Failure {
    fn from(error: OciError) -> Self {
        Failure::new(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::new(error.to_string())
    }
}

impl Failure {
    fn new(message: impl Into<String>) -> Self {
        Failure {
            code: FAILED,
            message: message.into(),
        }
    }
}

/// As [`main`], and out of the reach of what runs in containers. To be called before anything else: where that is needed,
/// this process executes itself again. `begin` is called when it is done with that.
pub fn main_once_sealed(arguments: impl Iterator<Item = OsString>, begin: impl FnOnce()) -> u8 {
    let arguments: Vec<OsString> = arguments.collect();
    // A word too many costs one exec; the commands have no other names.
    let makes_processes = |word: &OsString| ["create", "run", "exec"].iter().any(|verb| word == *verb);
    if arguments.iter().any(makes_processes) {
        if let Err(error) = sealed::ensure() {
            say(&format!("keep the binary from containers: {error}"));
            return FAILED;
        }
        // The name is for people; kernels before 6.14 take the descriptor's number.
        let _ = process::set_name(c"dunlin");
    }
    begin();
    main(arguments)
}

/// Runs the command line (without the program's name); returns the exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let name = std::iter::once(OsString::from(NAME));
    let cli = match Cli::try_parse_from(name.chain(arguments)) {
        Ok(cli) => cli,
        Err(error) => {
            let shown = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            let text = error.render().to_string();
            return match shown {
                true => u8::from(print(&text).is_err()),
                false => {
                    say(text.trim_end());
                    FAILED
                }
            };
        }
    };
    let log = Log::new(&cli.global);
    match execute(cli, &log) {
        Ok(code) => code,
        Err(failure) => {
            log.error(&failure.message);
            failure.code
        }
    }
}

fn execute(cli: Cli, log: &Log) -> Result<u8, Failure> {
    let Cli { global, verb, .. } = cli;
    log.debug(&format!("{verb:?}"));
    match &verb {
        Verb::Features(_) => return json(&oci::features()),
        Verb::Spec(args) => return show::spec(args),
        _ => {}
    }
    let root = Root::new(root(&global)?);
    match verb {
        Verb::Create(args) => create(&root, &global, &args, log),
        Verb::Run(args) => run(&root, &global, &args, log),
        Verb::Start(args) => done(root.load(&args.id)?.start()?),
        Verb::State(args) => json(&show::state(&root.load(&args.id)?)),
        Verb::Kill(args) => kill(&root, &args),
        Verb::Delete(args) => delete(&root, &args, log),
        Verb::Exec(args) => exec(&root, &args).map_err(|failure| Failure {
            code: EXEC_FAILED,
            message: format!("exec failed: {}", failure.message),
        }),
        Verb::Ps(args) => show::ps(&root.load(&args.id)?, &args),
        Verb::List(args) => show::list(&root.list()?, &args),
        Verb::Pause(args) => done(root.load(&args.id)?.pause()?),
        Verb::Resume(args) => done(root.load(&args.id)?.resume()?),
        Verb::Update(args) => done(root.load(&args.id)?.update(&update::resources(&args)?)?),
        Verb::Events(args) => show::events(&root.load(&args.id)?, &args),
        // Carried out above.
        Verb::Features(_) | Verb::Spec(_) => Ok(0),
    }
}

/// Success.
fn done((): ()) -> Result<u8, Failure> {
    Ok(0)
}

fn root(global: &Global) -> Result<PathBuf, Failure> {
    if let Some(root) = &global.root {
        return Ok(std::path::absolute(root)?);
    }
    // Root of a user namespace only is somebody else outside, whose folders it has.
    if creds::effective_ids().0 == 0 && ns::has_host_ids()? {
        return Ok(Path::new("/run").join(NAME));
    }
    match env::path(env::XDG_RUNTIME_DIR) {
        Some(dir) => Ok(dir.join(NAME)),
        None => Err(Failure::new("XDG_RUNTIME_DIR is not set: give `--root DIR`")),
    }
}

fn json(value: &impl serde::Serialize) -> Result<u8, Failure> {
    // Texts and numbers always become JSON.
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    out(&format!("{text}\n"))
}

fn out(text: &str) -> Result<u8, Failure> {
    match print(text) {
        Ok(()) => Ok(0),
        Err(failure) => Err(Failure::new(failure.message)),
    }
}

fn make(global: &Global, args: &CreateArgs, console: Console) -> Result<Make, Failure> {
    Ok(Make {
        id: args.id.clone(),
        bundle: args.bundle.clone(),
        console,
        pid_file: args.pid_file.clone(),
        kept_fds: kept_fds(args.preserve_fds)?,
        no_pivot: args.no_pivot,
        no_new_keyring: args.no_new_keyring,
        systemd: global.systemd_cgroup,
        listen_fds: listen_fds(),
    })
}

/// How many sockets systemd has opened for this process (sd_listen_fds(3)).
fn listen_fds() -> u16 {
    let number = |name| env::get(name).and_then(|text| text.to_str()?.parse::<u32>().ok());
    match number(env::LISTEN_PID) {
        Some(pid) if pid == std::process::id() => number(env::LISTEN_FDS)
            .and_then(|count| count.try_into().ok())
            .unwrap_or(0),
        _ => 0,
    }
}

/// Sockets that systemd opened come before those that the caller asks for. To be asked before anything else is opened,
/// which would then have their numbers.
fn kept_fds(asked: u16) -> Result<u16, Failure> {
    let all = listen_fds().saturating_add(asked);
    match (3..3 + i32::from(all)).find(|number| !process::is_open(*number)) {
        Some(number) => Err(Failure::new(format!(
            "--preserve-fds {asked}: descriptor {number} is not open"
        ))),
        None => Ok(all),
    }
}

/// Where a terminal goes.
fn console(socket: Option<&PathBuf>, detached: bool) -> Console {
    match (socket, detached) {
        (Some(path), _) => Console::Socket(path.clone()),
        (None, true) => Console::None,
        (None, false) => Console::Caller(tty::window_size(io::stdin().as_fd()).ok()),
    }
}

fn create(root: &Root, global: &Global, args: &CreateArgs, log: &Log) -> Result<u8, Failure> {
    let make = make(global, args, console(args.console_socket.as_ref(), true))?;
    let (container, mut created) = root.create(&make, Waiting::AtSocket)?;
    warn_of_left_out(&container, log);
    created.leave();
    Ok(0)
}

fn run(root: &Root, global: &Global, args: &RunArgs, log: &Log) -> Result<u8, Failure> {
    let make = make(
        global,
        &args.create,
        console(args.create.console_socket.as_ref(), args.detach),
    )?;
    let foreground = if args.detach { None } else { Some(Foreground::new()?) };
    let (container, mut created) = root.create(&make, Waiting::ForCaller)?;
    warn_of_left_out(&container, log);
    let ended = container
        .start_own(&mut created)
        .map_err(Failure::from)
        .and_then(|()| match &foreground {
            Some(foreground) => Ok(foreground.wait(created.pidfd.as_fd(), created.console.take())?),
            None => Ok(0),
        });
    let remove = if ended.is_err() {
        true
    } else {
        !args.detach && !args.keep
    };
    if remove {
        for text in container.delete(true)? {
            log.warn(&text);
        }
    }
    ended
}

/// The specification wants a warning for capabilities; the rest is in the container's state.
fn warn_of_left_out(container: &Container, log: &Log) {
    let left_out = container.state.left_out.iter();
    for what in left_out.filter(|what| what.starts_with(oci::CAPABILITIES)) {
        log.warn(&format!("`{what}` cannot be given here and is left out"));
    }
}

fn kill(root: &Root, args: &KillArgs) -> Result<u8, Failure> {
    let container = root.load(&args.id)?;
    let signal =
        signal::parse(&args.signal).ok_or_else(|| Failure::new(format!("unknown signal `{}`", args.signal)))?;
    done(container.signal(signal, args.all)?)
}

fn delete(root: &Root, args: &DeleteArgs, log: &Log) -> Result<u8, Failure> {
    let container = match root.load(&args.id) {
        Err(OciError::Missing) if args.force => return done(root.sweep(&args.id)?),
        found => found?,
    };
    for text in container.delete(args.force)? {
        log.warn(&text);
    }
    Ok(0)
}

fn exec(root: &Root, args: &ExecArgs) -> Result<u8, Failure> {
    let container = root.load(&args.id)?;
    let spec = container.spec()?;
    if let [_, second, ..] = args.cgroup.as_slice() {
        return Err(Failure::new(format!("--cgroup {second}: give one group")));
    }
    let mut process = match &args.process {
        Some(path) => read_process(path)?,
        None => changed(Container::process(spec)?, args)?,
    };
    oci::pass_listen_fds(&mut process, listen_fds());
    let wanted = Exec {
        process,
        console: console(args.console_socket.as_ref(), args.detach),
        pid_file: args.pid_file.clone(),
        kept_fds: kept_fds(args.preserve_fds)?,
        cgroup: args.cgroup.first().cloned(),
        ignore_paused: args.ignore_paused,
    };
    let foreground = if args.detach { None } else { Some(Foreground::new()?) };
    let mut made = container.exec(spec, &wanted)?;
    match &foreground {
        Some(foreground) => Ok(foreground.wait(made.pidfd.as_fd(), made.console.take())?),
        None => Ok(0),
    }
}

fn read_process(path: &Path) -> Result<Process, Failure> {
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| Failure::new(format!("open `{}`: {e}", path.display())))?;
    file.take(crate::types::bounds::BUNDLE_BYTES).read_to_end(&mut text)?;
    read::json(&text).map_err(|error| Failure::new(format!("`{}`: {error}", path.display())))
}

/// The container's own process, changed as asked.
fn changed(mut process: Process, args: &ExecArgs) -> Result<Process, Failure> {
    if args.command.is_empty() {
        return Err(Failure::new(
            "process args cannot be empty: give a command or `--process FILE`",
        ));
    }
    process.args = Some(args.command.clone());
    process.terminal = Some(args.tty);
    process.console_size = None;
    process.cwd = args.cwd.clone().unwrap_or(process.cwd);
    process.env.get_or_insert_default().extend(args.env.iter().cloned());
    if args.no_new_privs {
        process.no_new_privileges = Some(true);
    }
    process.apparmor_profile = args.apparmor.clone().or(process.apparmor_profile);
    process.selinux_label = args.process_label.clone().or(process.selinux_label);
    if !args.cap.is_empty() {
        let caps = process.capabilities.get_or_insert_with(LinuxCapabilities::default);
        for set in [&mut caps.bounding, &mut caps.effective, &mut caps.permitted] {
            let set = set.get_or_insert_default();
            set.extend(
                args.cap
                    .iter()
                    .filter(|cap| !set.contains(cap))
                    .cloned()
                    .collect::<Vec<_>>(),
            );
        }
    }
    if let Some(user) = &args.user {
        let (uid, gid) = user.split_once(':').unwrap_or((user, ""));
        let wrong = |_| Failure::new(format!("--user `{user}`: give numbers, UID[:GID]"));
        process.user.uid = uid.parse().map_err(wrong)?;
        if !gid.is_empty() {
            process.user.gid = gid.parse().map_err(wrong)?;
        }
    }
    process
        .user
        .additional_gids
        .get_or_insert_default()
        .extend(&args.additional_gids);
    Ok(process)
}

//! run and create.

use super::super::args::{CreateArgs, Global, RunArgs};
use super::super::attach::{self, Attachment};
use super::super::compose;
use super::super::failure::Failure;
use super::super::keys;
use super::print;
use super::pull::{Wish, provide};
use crate::engine::handing::Handing;
use crate::engine::options::CreateOptions;
use crate::engine::{Engine, EngineError};
use crate::monitor::client::{self, ClientError, Ended, Session};
use crate::monitor::wire::AttachRequest;
use crate::types::container::{ContainerRecord, Mount, MountSource};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

/// How long the clean-up of `--rm` may take before dunlin leaves.
const CLEANUP_PATIENCE: Duration = Duration::from_secs(30);

/// Everything of `run` and `create` that is read or opened before dunlin becomes the store's owner.
pub struct Prepared {
    options: CreateOptions,
    wish: Wish,
    replace: bool,
    cidfile: Option<(PathBuf, File)>,
    pidfile: Option<(PathBuf, File)>,
    monitor_pidfile: Option<(PathBuf, File)>,
    volumes_from: Vec<String>,
    handing: Handing,
}

/// Reads files and flags.
///
/// `foreground` says that this process stays as long as the container runs, none that it starts nothing.
pub fn prepare(args: &CreateArgs, foreground: Option<bool>, global: &Global) -> Result<Prepared, Failure> {
    let handing = foreground.map(|stays| Handing::of_caller(stays, args.preserve_fds));
    let handing = handing.transpose()?.unwrap_or_default();
    if global.runtime.is_some() {
        return Err(Failure::new(
            "--runtime: other OCI runtimes are not called yet; leave it out to use the built-in one",
        ));
    }
    let options = compose::compose(args)?;
    let cidfile = match &args.cidfile {
        Some(path) => Some((path.clone(), open_cidfile(path.clone())?)),
        None => None,
    };
    let wish = Wish::new(&args.pull, args.quiet, options.platform.clone(), &args.registry)?;
    Ok(Prepared {
        options,
        wish,
        replace: args.replace,
        cidfile,
        pidfile: make_pidfile(args.pidfile.as_ref())?,
        monitor_pidfile: make_pidfile(args.conmon_pidfile.as_ref())?,
        volumes_from: args.volumes_from.clone(),
        handing,
    })
}

fn make_pidfile(path: Option<&PathBuf>) -> Result<Option<(PathBuf, File)>, Failure> {
    let make = |path: &PathBuf| match File::create(path) {
        Ok(file) => Ok((path.clone(), file)),
        Err(error) => Err(Failure::new(format!("pid file `{}`: {error}", path.display()))),
    };
    path.map(make).transpose()
}

fn write_pid(to: &mut Option<(PathBuf, File)>, pid: Option<i32>) -> Result<(), Failure> {
    let (Some((path, file)), Some(pid)) = (to, pid) else {
        return Ok(());
    };
    let written = file.write_all(pid.to_string().as_bytes());
    written.map_err(|error| Failure::new(format!("pid file `{}`: {error}", path.display())))
}

fn open_cidfile(path: PathBuf) -> Result<File, Failure> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Failure::new(format!(
                "container id file `{}` exists; make sure that no container uses it, remove it, or name another",
                path.display()
            )),
            _ => Failure::new(format!("--cidfile `{}`: {error}", path.display())),
        })
}

impl Prepared {
    fn make(&mut self, engine: &Engine) -> Result<ContainerRecord, Failure> {
        let made = self.try_make(engine);
        if let (Err(_), Some((path, _))) = (&made, &self.cidfile) {
            // The file that we made says nothing.
            let _ = std::fs::remove_file(path);
        }
        made
    }

    /// What other containers have mounted, at places where nothing else is asked for.
    fn add_volumes(&mut self, engine: &Engine) -> Result<(), Failure> {
        for text in &self.volumes_from {
            let (name, how) = text.split_once(':').unwrap_or((text, ""));
            if how.split(',').any(|word| !matches!(word, "" | "ro" | "rw" | "z" | "Z")) {
                return Err(Failure::new(format!("--volumes-from `{text}`: write CONTAINER[:ro]")));
            }
            let read_only = how.split(',').any(|word| word == "ro");
            for mount in engine.inspect(name)?.record.spec.mounts {
                let is_there = self.options.mounts.iter().any(|own| own.target == mount.target);
                if !is_there && mount.source != MountSource::Tmpfs {
                    let read_only = mount.read_only || read_only;
                    self.options.mounts.push(Mount { read_only, ..mount });
                }
            }
        }
        Ok(())
    }

    fn try_make(&mut self, engine: &Engine) -> Result<ContainerRecord, Failure> {
        // A name that is taken is told before anything is pulled.
        if let Some(name) = &self.options.name {
            match engine.named(name)? {
                Some(_) if self.replace => {
                    engine.remove(name, true, false, None)?;
                }
                Some(found) => {
                    return Err(EngineError::NameTaken {
                        name: name.clone(),
                        owner: found.id.hex(),
                    }
                    .into());
                }
                None => {}
            }
        }
        self.add_volumes(engine)?;
        self.options.image = provide(engine, &self.options.image, &self.wish)?;
        let made = engine.create(&self.options)?;
        engine.warn_not_enforced(&made);
        if let Some((path, file)) = &mut self.cidfile {
            let written = file.write_all(made.id.hex().as_bytes());
            written.map_err(|error| Failure::new(format!("--cidfile `{}`: {error}", path.display())))?;
        }
        Ok(made)
    }
}

pub fn create(engine: &Engine, mut prepared: Prepared) -> Result<u8, Failure> {
    let made = prepared.make(engine)?;
    print(&format!("{}\n", made.id))?;
    Ok(0)
}

pub fn run(engine: &Engine, args: &RunArgs, mut prepared: Prepared) -> Result<u8, Failure> {
    let attachment = attachment(args)?;
    let request = request(args, &attachment)?;
    let made = prepared.make(engine)?;
    let id = made.id.hex();
    if args.detach {
        start(engine, &made, None, &mut prepared)?;
        print(&format!("{id}\n"))?;
        return Ok(0);
    }
    let (mut session, theirs) = client::prepare_attach(request, &engine.layout().monitor(&made.id))?;
    // From here on no signal is lost: it waits until the container runs.
    let ready = attach::prepare(attachment)?;
    start(engine, &made, Some(theirs), &mut prepared)?;
    let ended = ready.relay(&mut session);
    finish(engine, &made, session, ended)
}

/// Starts what was just made; with `--rm` a failure leaves nothing behind.
fn start(
    engine: &Engine,
    made: &ContainerRecord,
    attach: Option<OwnedFd>,
    prepared: &mut Prepared,
) -> Result<(), Failure> {
    let id = made.id.hex();
    let error = match engine.start_with(&id, attach, &prepared.handing) {
        Ok(pid) => {
            write_pid(&mut prepared.pidfile, pid)?;
            if prepared.monitor_pidfile.is_some() {
                write_pid(&mut prepared.monitor_pidfile, engine.inspect(&id)?.monitor_pid)?;
            }
            return Ok(());
        }
        Err(error) => error,
    };
    if made.spec.auto_remove
        && let Err(error) = engine.remove(&id, true, true, Some(0))
        && !error.is_no_container()
    {
        crate::warn!("{error}");
    }
    Err(error.into())
}

fn attachment(args: &RunArgs) -> Result<Attachment, Failure> {
    if args.detach && !args.attach.is_empty() {
        return Err(Failure::new("--attach and --detach exclude each other"));
    }
    if args.create.tty && args.create.interactive && !args.detach && !attach::stdin_is_terminal() {
        crate::warn!("the input device is not a terminal; --tty and --interactive might not work as expected");
    }
    let detach_keys =
        keys::parse(&args.detach_keys).map_err(|key| Failure::new(format!("--detach-keys: `{key}` is no key")))?;
    let stdin = args.create.interactive || args.attach.iter().any(|stream| stream.eq_ignore_ascii_case("stdin"));
    Ok(Attachment {
        stdin,
        tty: args.create.tty,
        sig_proxy: args.sig_proxy.unwrap_or(true),
        detach_keys,
    })
}

fn request(args: &RunArgs, attachment: &Attachment) -> Result<AttachRequest, Failure> {
    let (mut stdout, mut stderr) = (args.attach.is_empty(), args.attach.is_empty());
    for stream in &args.attach {
        match stream.to_ascii_lowercase().as_str() {
            "stdin" => {}
            "stdout" => stdout = true,
            "stderr" => stderr = true,
            _ => {
                return Err(Failure::new(format!(
                    "--attach `{stream}`: use stdin, stdout or stderr"
                )));
            }
        }
    }
    Ok(AttachRequest {
        stdin: attachment.stdin,
        stdout,
        stderr,
        foreground: true,
        size: attach::terminal_size().filter(|_| attachment.tty),
    })
}

/// The exit code after a relay; with `--rm` waits for the clean-up.
pub fn finish(
    engine: &Engine,
    made: &ContainerRecord,
    mut session: Session,
    ended: Result<Ended, Failure>,
) -> Result<u8, Failure> {
    match ended? {
        Ended::Exited { code, .. } => {
            if made.spec.auto_remove {
                match session.wait_closed(CLEANUP_PATIENCE) {
                    Ok(()) | Err(ClientError::Gone { .. }) => {}
                    Err(error) => crate::warn!("clean-up of container {}: {error}", made.id.short()),
                }
            }
            Ok(u8::try_from(code).unwrap_or(u8::MAX))
        }
        Ended::Detached => Ok(0),
        Ended::Signalled(number) => Ok(128 + u8::try_from(number).unwrap_or(0)),
        Ended::OutputClosed => {
            // Nobody reads any more: what ran in the foreground for its reader ends, as a program in a pipe would.
            drop(session);
            let view = engine.inspect(&made.id.hex());
            let deaf = view
                .ok()
                .and_then(|view| view.pid)
                .is_some_and(|pid| !catches(pid, made.spec.stop_signal));
            let exit = engine.stop(&made.id.hex(), deaf.then_some(0))?;
            Ok(exit.and_then(|exit| u8::try_from(exit.code).ok()).unwrap_or(0))
        }
    }
}

/// Whether a process has a handler for a signal: without one, the first process of a pid namespace does not even notice.
fn catches(pid: i32, signal: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

//! start, stop, kill, restart, pause, unpause, rm, wait, rename.

use super::super::args::{
    ExistsArgs, KillArgs, PauseArgs, RenameArgs, RestartArgs, RmArgs, StartArgs, StopArgs, UpdateArgs, WaitArgs,
};
use super::super::attach::{self, Attachment};
use super::super::compose;
use super::super::failure::Failure;
use super::super::keys;
use super::pick::{Choice, each, latest};
use super::print;
use super::run::finish;
use crate::engine::control::Condition;
use crate::engine::handing::Handing;
use crate::engine::view::ContainerView;
use crate::engine::{Engine, signal};
use crate::monitor::client;
use crate::monitor::wire::AttachRequest;
use crate::types::container::Status;
use crate::types::health::HealthStatus;

/// A time-out as podman takes it: negative means without end.
pub(super) fn seconds(time: Option<i64>) -> Option<u32> {
    time.map(|time| u32::try_from(time).unwrap_or(u32::MAX / 1000))
}

/// This terminal, or these pipes, on a container's own stdio, and what its monitor is asked for.
pub(super) fn own_stdio(
    view: &ContainerView,
    input: bool,
    sig_proxy: Option<bool>,
    detach_keys: &str,
    foreground: bool,
) -> Result<(Attachment, AttachRequest), Failure> {
    let attachment = Attachment {
        stdin: input && view.record.spec.stdin,
        tty: view.record.spec.tty,
        sig_proxy: sig_proxy.unwrap_or(true),
        detach_keys: keys::parse(detach_keys)
            .map_err(|key| Failure::new(format!("--detach-keys: `{key}` is no key")))?,
    };
    let request = AttachRequest {
        stdin: attachment.stdin,
        stdout: true,
        stderr: true,
        foreground,
        size: attach::terminal_size().filter(|_| attachment.tty),
    };
    Ok((attachment, request))
}

pub fn start(engine: &Engine, args: &StartArgs) -> Result<u8, Failure> {
    let handing = Handing::of_caller(args.attach || args.interactive, 0)?;
    let names = Choice::of(&args.pick, args.all).names(engine, |view| !view.status.is_live())?;
    if !args.attach && !args.interactive {
        return each(&names, false, |name| {
            engine.start_with(name, None, &handing)?;
            print(&format!("{name}\n"))
        });
    }
    let [name] = names.as_slice() else {
        return Err(Failure::new("you cannot start and attach multiple containers at once"));
    };
    let view = engine.inspect(name)?;
    let (attachment, request) = own_stdio(&view, args.interactive, args.sig_proxy, &args.detach_keys, true)?;
    if view.status.is_live() {
        let ready = attach::prepare(attachment)?;
        let mut session = engine.attach(name, request)?;
        let ended = ready.relay(&mut session);
        return finish(engine, &view.record, session, ended);
    }
    let (mut session, theirs) = client::prepare_attach(request, &engine.layout().monitor(&view.record.id))?;
    let ready = attach::prepare(attachment)?;
    engine.start_with(name, Some(theirs), &handing)?;
    let ended = ready.relay(&mut session);
    finish(engine, &view.record, session, ended)
}

pub fn stop(engine: &Engine, args: &StopArgs) -> Result<u8, Failure> {
    let choice = Choice {
        ignore: args.ignore,
        ..Choice::of(&args.pick, args.all)
    };
    let names = choice.names(engine, |view| view.status.is_live())?;
    each(&names, args.ignore, |name| {
        engine.stop(name, seconds(args.time))?;
        print(&format!("{name}\n"))
    })
}

pub fn kill(engine: &Engine, args: &KillArgs) -> Result<u8, Failure> {
    let number =
        signal::parse(&args.signal).ok_or_else(|| Failure::new(format!("invalid signal `{}`", args.signal)))?;
    let choice = Choice {
        latest: args.latest,
        all: args.all,
        cidfile: &args.cidfile,
        names: &args.containers,
        ..Choice::default()
    };
    let names = choice.names(engine, |view| view.status.is_live())?;
    each(&names, false, |name| {
        engine.kill(name, number)?;
        print(&format!("{name}\n"))
    })
}

pub fn restart(engine: &Engine, args: &RestartArgs) -> Result<u8, Failure> {
    let choice = Choice::of(&args.pick, args.all || args.running);
    let names = choice.names(engine, |view| !args.running || view.status == Status::Running)?;
    each(&names, false, |name| {
        engine.restart(name, seconds(args.time))?;
        print(&format!("{name}\n"))
    })
}

pub fn pause(engine: &Engine, args: &PauseArgs) -> Result<u8, Failure> {
    let names = Choice::of(&args.pick, args.all).names(engine, |view| view.status == Status::Running)?;
    each(&names, false, |name| {
        engine.pause(name)?;
        print(&format!("{name}\n"))
    })
}

pub fn unpause(engine: &Engine, args: &PauseArgs) -> Result<u8, Failure> {
    let names = Choice::of(&args.pick, args.all).names(engine, |view| view.status == Status::Paused)?;
    each(&names, false, |name| {
        engine.unpause(name)?;
        print(&format!("{name}\n"))
    })
}

pub fn rm(engine: &Engine, args: &RmArgs) -> Result<u8, Failure> {
    let choice = Choice {
        latest: args.latest,
        all: args.all,
        filter: &args.filter,
        cidfile: &args.cidfile,
        names: &args.containers,
        // podman: --force implies it.
        ignore: args.ignore || args.force,
    };
    let names = choice.names(engine, |_| true)?;
    each(&names, choice.ignore, |name| {
        let removed = engine.remove(name, args.force, args.volumes, seconds(args.time));
        removed.map_err(Failure::of_removal)?;
        print(&format!("{name}\n"))
    })
}

pub fn wait(engine: &Engine, args: &WaitArgs) -> Result<u8, Failure> {
    let conditions = if args.condition.is_empty() {
        vec![Condition::NotLive]
    } else {
        args.condition
            .iter()
            .map(|word| condition(word))
            .collect::<Result<_, _>>()?
    };
    let choice = Choice {
        latest: args.pick.latest,
        names: &args.pick.containers,
        ..Choice::default()
    };
    let names = choice.names(engine, |_| true)?;
    each(&names, args.ignore, |name| {
        let code = engine.wait(name, &conditions, None)?;
        print(&format!("{code}\n"))
    })
}

fn condition(word: &str) -> Result<Condition, Failure> {
    Ok(match word {
        "stopped" | "exited" | "not-running" | "next-exit" => Condition::NotLive,
        "removed" | "removing" => Condition::Removed,
        "created" | "configured" => Condition::Is(Status::Created),
        "running" => Condition::Is(Status::Running),
        "paused" => Condition::Is(Status::Paused),
        "stopping" => Condition::Is(Status::Stopping),
        "healthy" => Condition::Health(HealthStatus::Healthy),
        "unhealthy" => Condition::Health(HealthStatus::Unhealthy),
        _ => {
            return Err(Failure::new(format!(
                "condition `{word}` is not one of stopped, running, paused, removed, healthy, unhealthy"
            )));
        }
    })
}

/// 0 or 1, without a word.
pub fn container_exists(engine: &Engine, args: &ExistsArgs) -> Result<u8, Failure> {
    match engine.inspect(&args.name) {
        Ok(_) => Ok(0),
        Err(error) if error.is_no_container() => Ok(1),
        Err(error) => Err(error.into()),
    }
}

pub fn update(engine: &Engine, args: &UpdateArgs) -> Result<u8, Failure> {
    let view = one(engine, args.latest, args.container.as_deref())?;
    let changes = compose::limits(&args.limits)?;
    if changes.kinds().is_empty() {
        return Err(Failure::new("name at least one limit, for example --memory 64m"));
    }
    if let Some(app) = view.record.spec.labels.get(crate::deploy::hands::LABEL_APP) {
        return Err(Failure::new(format!(
            "container `{}` is app `{app}`'s: change `limits` in its document",
            view.record.name
        )));
    }
    let record = engine.update(&view.record.id.hex(), &changes)?;
    engine.warn_not_enforced(&record);
    print(&format!("{}\n", record.id.hex()))?;
    Ok(0)
}

pub fn rename(engine: &Engine, args: &RenameArgs) -> Result<u8, Failure> {
    engine.rename(&args.container, &args.name)?;
    Ok(0)
}

/// The container that is meant where a verb takes one, or the latest.
pub fn one(engine: &Engine, latest_asked: bool, name: Option<&str>) -> Result<ContainerView, Failure> {
    match name {
        Some(name) if !latest_asked => Ok(engine.inspect(name)?),
        _ => latest(engine),
    }
}

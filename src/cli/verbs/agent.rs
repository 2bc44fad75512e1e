//! `agent`: the daemon, which version of it runs, and how another one comes.

use super::app;
use super::transfer::Given;
use crate::agent::control::Request;
use crate::agent::identity::VERSION;
use crate::agent::slots::{Slot, Slots};
use crate::agent::{self, Ended, Start, renewal};
use crate::cli::args::{AgentArgs, AgentUpdateArgs, AgentWatchArgs};
use crate::cli::failure::{Failure, say};
use crate::cli::time;
use crate::config::env;
use crate::deploy::{engine::EngineHands, kill};
use crate::disk::durable;
use crate::disk::lock::{Lock, Mode};
use crate::engine::Engine;
use crate::runtime::cgroup::Tree;
use crate::sys::{fs, process};
use crate::types::bounds::DOCUMENT_BYTES;
use crate::types::deployment::{Cause, Reason};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// The longest wait for the agent's answer: it runs the new program to hear its version.
const ANSWER: Duration = Duration::from_secs(30);
/// Wait between two looks at a trial.
const LOOK: Duration = Duration::from_millis(250);

/// Runs the agent until it is asked to stop: this program, or the version of it that an update brought.
pub fn agent(engine: Engine, args: &AgentArgs) -> Result<u8, Failure> {
    if let Some(point) = env::get(env::DUNLIN_KILL_POINT) {
        kill::arm(&point.to_string_lossy()).map_err(|error| Failure::new(error.to_string()))?;
    }
    let settings = engine.settings().clone();
    let layout = engine.layout().clone();
    // Asked before another program may take over: only root can make control groups for its keeper.
    let cgroup = match engine.keeper_info()?.cgroup {
        Tree::V2 { .. } => "v2",
        Tree::V1 { .. } => "v1",
        Tree::None { .. } => "none",
    };
    let slot = match &args.slot {
        Some(word) => Slot::parse(word).ok_or_else(|| Failure::new(format!("slot `{word}` is not known")))?,
        None => become_version(&layout.agent()),
    };
    let disk = File::open(layout.data()).and_then(|data| fs::size(&data)).unwrap_or(0);
    let reserve = engine.reserve();
    let hands = EngineHands::new(Arc::new(engine))
        .map_err(|error| Failure::new(format!("start the thread that listens to containers: {error}")))?;
    let hands = Arc::new(hands);
    let start = Start {
        settings,
        layout,
        hands,
        cgroup: cgroup.to_owned(),
        disk,
        reserve,
        slot,
    };
    match agent::run(start).map_err(own)? {
        Ended::Stopped => Ok(0),
        Ended::Renewed => {
            let base = args.base.clone().map_or_else(own_program, Ok)?;
            let error = Command::new(&base).args(plain_arguments()).exec();
            Err(Failure::new(format!("`{}`: {error}", base.display())))
        }
    }
}

fn own(error: impl std::fmt::Display) -> Failure {
    Failure::new(error.to_string())
}

/// Starts the version that is to run, in place of this program; comes back when that is this one.
fn become_version(agent: &Path) -> Slot {
    // Whatever goes wrong here, an agent runs.
    let tried = renewal::choose(agent, VERSION, time::now()).map_err(|error| error.to_string());
    let tried = tried.and_then(|(mut slots, slot)| enter(&mut slots, slot));
    if let Err(text) = tried {
        crate::error!("{text}; the package's agent runs");
    }
    Slot::Base
}

fn enter(slots: &mut Slots, slot: Slot) -> Result<(), String> {
    let Some(program) = slots.program(slot) else {
        return Ok(());
    };
    let base = own_program().map_err(|failure| failure.to_string())?;
    let trial = slots.state.trial.is_some();
    if trial {
        // Without somebody who watches nobody would bring the old one back.
        let pid = std::process::id().to_string();
        let mut watcher = Command::new(&base);
        let watcher = watcher.args(watch_arguments()).args(["--pid", &pid]).status();
        match watcher {
            Ok(status) if status.success() => {}
            Ok(status) => return Err(format!("the watcher over the new agent ended: {status}")),
            Err(error) => return Err(format!("start the watcher over the new agent: {error}")),
        }
    }
    let mut command = Command::new(&program);
    let command = command.args(plain_arguments()).arg("--slot").arg(slot.as_str());
    let error = command.arg("--base").arg(&base).exec();
    let text = format!("`{}`: {error}", program.display());
    if trial {
        let cause = Cause::new(Reason::StartFailed, text.clone());
        slots.state.end(Some(cause), time::now());
        slots.write().map_err(|error| error.to_string())?;
    }
    Err(text)
}

/// This program's path, also when a package has replaced the file meanwhile.
fn own_program() -> Result<PathBuf, Failure> {
    let path = std::env::current_exe()?;
    let text = path.to_string_lossy();
    Ok(text
        .strip_suffix(" (deleted)")
        .map_or_else(|| path.clone(), PathBuf::from))
}

/// The arguments with which the agent was started.
fn plain_arguments() -> Vec<OsString> {
    let arguments = std::env::args_os().skip(1);
    let given = arguments.take_while(|word| word != "--slot" && word != "--pid");
    given
        .map(|word| if word == "agent-watch" { "agent".into() } else { word })
        .collect()
}

fn watch_arguments() -> Vec<OsString> {
    let words = plain_arguments().into_iter();
    words
        .map(|word| if word == "agent" { "agent-watch".into() } else { word })
        .collect()
}

/// Watches over an agent on trial, beside it. Takes its place where nobody starts it again.
pub fn agent_watch(engine: &Engine, args: &AgentWatchArgs) -> Result<u8, Failure> {
    let base = own_program()?;
    if !args.beside {
        // Not the agent's child: it never waits for one.
        let pid = args.pid.to_string();
        let mut command = Command::new(base);
        let command = command.args(watch_arguments()).args(["--pid", &pid, "--beside"]);
        command.stdin(Stdio::null()).spawn()?;
        return Ok(0);
    }
    process::new_session()?;
    let limit = Duration::from_millis(engine.settings().apps.agent_timeout.ms());
    if !renewal::watch(engine.layout(), args.pid, limit).map_err(own)? {
        return Ok(0);
    }
    let error = Command::new(&base).args(plain_arguments()).exec();
    Err(Failure::new(format!("`{}`: {error}", base.display())))
}

/// Brings another version of the agent and follows its trial.
pub fn agent_update(engine: &Engine, args: &AgentUpdateArgs, given: Given) -> Result<u8, Failure> {
    let dir = engine.layout().agent();
    durable::create_dirs(&dir).map_err(own)?;
    // Two updates at the same time would write to the same file.
    let alone = Lock::take(&dir.join("update.lock"), Mode::Exclusive, ANSWER).map_err(own)?;
    let mut given = given.into_iter();
    let name = args.source.to_str().and_then(|text| text.strip_prefix("docker://"));
    match (name, given.next().flatten()) {
        (Some(name), _) => {
            let reference = engine.resolve(name)?.sure(name).map_err(own)?;
            renewal::fetch(engine, &reference)?;
        }
        (None, Some(mut program)) => {
            let release = given.next().flatten().map(|file| -> io::Result<Vec<u8>> {
                let mut bytes = Vec::new();
                file.take(DOCUMENT_BYTES as u64 + 1).read_to_end(&mut bytes)?;
                Ok(bytes)
            });
            let release = release.transpose()?;
            renewal::bring(engine.layout(), &mut program, release.as_deref()).map_err(own)?;
        }
        (None, None) => return Err(Failure::new("say which program")),
    }
    let request = Request::Renew {
        allow_downgrade: args.allow_downgrade,
    };
    let answer = app::ask(engine, &request, ANSWER)?;
    let version = answer["version"].as_str().unwrap_or("?").to_owned();
    say(&format!("agent {version} is on trial"));
    drop(alone);
    if args.detach {
        return Ok(0);
    }
    loop {
        std::thread::sleep(LOOK);
        let slots = Slots::open(&engine.layout().agent()).map_err(own)?;
        if slots.state.trial.is_some() {
            continue;
        }
        return match slots.state.last {
            Some(last) if last.cause.is_none() => {
                say(&format!("agent {version} stays"));
                Ok(0)
            }
            Some(last) => {
                let cause = last.cause.map(|cause| cause.to_string()).unwrap_or_default();
                Err(Failure::with_code(1, format!("agent {version} was left: {cause}")))
            }
            None => Err(Failure::new("how the trial ended is not known")),
        };
    }
}

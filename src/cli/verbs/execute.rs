//! exec.

use super::super::args::ExecArgs;
use super::super::attach::{self, Attachment};
use super::super::failure::Failure;
use super::super::keys;
use super::lifecycle::one;
use super::print;
use crate::engine::Engine;
use crate::monitor::client::Ended;
use crate::monitor::wire::{ExecRequest, Size};
use crate::types::digest::Digest;
use std::time::Duration;

/// How long the start of a process may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a process in a container; `env` was read before dunlin became the store's owner.
pub fn exec(engine: &Engine, args: &ExecArgs, env: Vec<String>) -> Result<u8, Failure> {
    if args.privileged {
        return Err(Failure::new(
            "--privileged: a process gets what its container has; give that to the container when it is made",
        ));
    }
    let mut command = args.command.clone();
    if args.latest {
        command.insert(0, args.container.clone());
    }
    if command.is_empty() {
        return Err(Failure::new(
            "must provide a non-empty command to start an exec session: invalid argument",
        ));
    }
    let view = one(engine, args.latest, Some(&args.container))?;
    let size = attach::terminal_size().unwrap_or(Size { rows: 24, cols: 80 });
    let mut environment = env;
    if args.tty && !environment.iter().any(|entry| entry.starts_with("TERM=")) {
        environment.insert(0, "TERM=xterm".to_owned());
    }
    let request = ExecRequest {
        args: command,
        env: environment,
        cwd: args.workdir.clone(),
        user: args.user.clone(),
        tty: args.tty.then_some(size),
        stdin: args.interactive,
        privileged: false,
        detach: args.detach,
    };
    let id = view.record.id.hex();
    if args.detach {
        let (_, number) = engine.exec(&id, request)?.started(PATIENCE)?;
        // The exec's id: made of its number, so that two are never the same.
        print(&format!("{}\n", Digest::of(format!("{id} {number}").as_bytes()).hex()))?;
        return Ok(0);
    }
    let detach_keys =
        keys::parse(&args.detach_keys).map_err(|key| Failure::new(format!("--detach-keys: `{key}` is no key")))?;
    let ready = attach::prepare(Attachment {
        stdin: args.interactive,
        tty: args.tty,
        sig_proxy: true,
        detach_keys,
    })?;
    let mut session = engine.exec(&id, request)?;
    match ready.relay(&mut session)? {
        Ended::Exited { code, .. } => Ok(u8::try_from(code).unwrap_or(u8::MAX)),
        Ended::Signalled(number) => Ok(128 + u8::try_from(number).unwrap_or(0)),
        Ended::Detached | Ended::OutputClosed => Ok(0),
    }
}

//! attach and healthcheck run.

use super::super::args::{AttachArgs, HealthcheckRunArgs};
use super::super::attach;
use super::super::failure::Failure;
use super::lifecycle::{one, own_stdio};
use super::print;
use super::run::finish;
use crate::engine::Engine;
use crate::types::container::Status;
use crate::types::health::HealthStatus;

/// Exit code of a health check that fails.
const UNHEALTHY: u8 = 1;

pub fn attach(engine: &Engine, args: &AttachArgs) -> Result<u8, Failure> {
    let view = one(engine, args.latest, args.container.as_deref())?;
    if view.status != Status::Running {
        return Err(Failure::new("you can only attach to running containers"));
    }
    let (attachment, request) = own_stdio(&view, !args.no_stdin, args.sig_proxy, &args.detach_keys, false)?;
    let ready = attach::prepare(attachment)?;
    let mut session = engine.attach(&view.record.id.hex(), request)?;
    let ended = ready.relay(&mut session);
    finish(engine, &view.record, session, ended)
}

/// One probe now, besides those that its monitor makes.
pub fn healthcheck_run(engine: &Engine, args: &HealthcheckRunArgs) -> Result<u8, Failure> {
    let view = one(engine, args.latest, args.container.as_deref())?;
    if view.record.spec.health.is_none() {
        return Err(Failure::new(format!(
            "container {} has no defined healthcheck",
            view.record.id.hex()
        )));
    }
    let (probe, status) = engine.probe(&view)?;
    if probe.code == 0 && !probe.timed_out {
        return Ok(0);
    }
    // podman's word for a check that failed while failures do not count yet.
    let word = if status == HealthStatus::Starting {
        "starting"
    } else {
        "unhealthy"
    };
    print(&format!("{word}\n"))?;
    Ok(UNHEALTHY)
}

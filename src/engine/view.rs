//! A container with its state, as the monitor's records and the living processes tell it.

use crate::disk::DiskError;
use crate::disk::layout::Layout;
use crate::monitor::state::{self, Judgement};
use crate::types::container::{ContainerRecord, ExitRecord, ProcessId, Status};
use crate::types::health::HealthStatus;
use crate::types::time::Unix;

/// A container and its state at the moment of looking.
#[derive(Debug, Clone)]
pub struct ContainerView {
    /// What it is.
    pub record: ContainerRecord,
    /// Its state.
    pub status: Status,
    /// Its first process, while one lives.
    pub pid: Option<i32>,
    /// Its monitor, while it lives.
    pub monitor_pid: Option<i32>,
    /// When the current or last run began.
    pub started: Option<Unix>,
    /// When the last run ended, unless it runs.
    pub finished: Option<Unix>,
    /// How the last run ended, unless it runs.
    pub exit: Option<ExitRecord>,
    /// Judged health; `None` also when it does not run.
    pub health: HealthStatus,
    /// Consecutive failed probes.
    pub failing_streak: u32,
    /// How often its monitor started it again.
    pub restarts: u32,
    /// Whether somebody asked it to stop.
    pub stop_asked: bool,
    /// Its first process outlived its monitor and must be killed before anything else is done.
    pub leftover: Option<ProcessId>,
}

impl ContainerView {
    /// Exit code of the last run; 0 while none has ended, 137 for one whose end nobody saw.
    pub fn exit_code(&self) -> i32 {
        self.exit.as_ref().map_or(0, |exit| exit.code)
    }
}

/// Looks at a container.
pub fn look(layout: &Layout, record: ContainerRecord) -> Result<ContainerView, DiskError> {
    let judged = state::judge(&layout.monitor(&record.id), &layout.container(&record.id))?;
    Ok(view(record, judged))
}

fn view(record: ContainerRecord, judged: Judgement) -> ContainerView {
    let health = judged.health();
    let Judgement {
        status,
        state,
        exit,
        leftover,
    } = judged;
    // An end that is not on disk yet has no exit code: it is still on its way.
    let status = match (status, &exit) {
        (Status::Exited, None) => Status::Stopping,
        (status, _) => status,
    };
    let live = status.is_live();
    let state = state.filter(|_| live);
    ContainerView {
        pid: state
            .as_ref()
            .and_then(|state| state.container)
            .or(leftover)
            .map(|id| id.pid),
        monitor_pid: state.as_ref().map(|state| state.monitor.pid),
        started: match &state {
            Some(state) => state.started,
            None => exit
                .as_ref()
                .map(|exit| exit.started)
                .filter(|started| *started != Unix(0)),
        },
        finished: exit
            .as_ref()
            .map(|exit| exit.finished)
            .filter(|finished| !live && *finished != Unix(0)),
        failing_streak: state.as_ref().map_or(0, |state| state.failing_streak),
        restarts: state
            .as_ref()
            .map(|state| state.restarts)
            .or(exit.as_ref().map(|exit| exit.restarts))
            .unwrap_or(0),
        stop_asked: match &state {
            Some(state) => state.stop_asked,
            None => exit.as_ref().is_some_and(|exit| exit.stop_asked),
        },
        exit: exit.filter(|_| !live || status == Status::Restarting),
        leftover,
        health,
        status,
        record,
    }
}

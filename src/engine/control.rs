//! Containers that run: stop, kill, pause, wait, exec, listen.

use super::view::ContainerView;
use super::{Engine, EngineError};
use crate::monitor::client::{self, ClientError, Connection, Events, Session};
use crate::monitor::wire::{AttachRequest, ExecRequest, ProbeRecord, What};
use crate::sys::process;
use crate::types::container::{ExitRecord, Status};
use crate::types::health::HealthStatus;
use crate::types::ids::ContainerId;
use std::time::{Duration, Instant};

/// How long the clean-up of a container with `--rm` may take before its stop is reported.
const CLEANUP_PATIENCE: Duration = Duration::from_secs(20);
/// How long killed processes may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// Time between two looks at what sends no events.
const PAUSE: Duration = Duration::from_millis(20);

/// What [`Engine::wait`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It does not run, whether it ever did or not.
    NotLive,
    /// It is in this state.
    Is(Status),
    /// Its health is judged so.
    Health(HealthStatus),
    /// It does not exist.
    Removed,
}

impl Engine {
    fn connect(&self, id: &ContainerId) -> Result<Connection, EngineError> {
        Ok(client::connect(&self.layout().monitor(id))?)
    }

    /// Connects to a container that runs; the error says its state.
    pub(super) fn connect_live(&self, view: &ContainerView, reason: &'static str) -> Result<Connection, EngineError> {
        let improper = |status| EngineError::State {
            name: view.record.name.clone(),
            status,
            reason,
        };
        if !view.status.is_live() {
            return Err(improper(view.status));
        }
        match client::connect(&self.layout().monitor(&view.record.id)) {
            Err(ClientError::NotRunning { .. }) => Err(improper(Status::Exited)),
            other => Ok(other?),
        }
    }

    /// Ends a container for good: its stop signal, then KILL after `timeout` seconds (its own time-out when nothing is
    /// said; 0 kills at once). One that does not run is left as it is. Returns how it ended, if it ran.
    pub fn stop(&self, typed: &str, timeout: Option<u32>) -> Result<Option<ExitRecord>, EngineError> {
        let view = self.inspect(typed)?;
        self.stop_view(&view, timeout)
    }

    pub(super) fn stop_view(
        &self,
        view: &ContainerView,
        timeout: Option<u32>,
    ) -> Result<Option<ExitRecord>, EngineError> {
        if !view.status.is_live() {
            self.kill_leftover(view)?;
            return Ok(None);
        }
        let record = &view.record;
        let seconds = timeout.unwrap_or(record.spec.stop_timeout);
        let wait = Duration::from_secs(seconds.into());
        let ended = self.connect(&record.id).and_then(|connection| {
            let exit = connection.stop(None, timeout.map(|seconds| u64::from(seconds) * 1000), wait)?;
            Ok((connection, exit))
        });
        match ended {
            Ok((connection, exit)) => {
                drop(connection);
                self.tell_of(record, "stop");
                self.settle(view)?;
                Ok(Some(exit))
            }
            // It ended by itself in the meantime.
            Err(EngineError::Monitor(ClientError::NotRunning { .. } | ClientError::Gone { .. })) => {
                self.settle(view)?;
                let now = self.inspect(&record.id.hex());
                Ok(now.ok().and_then(|view| view.exit))
            }
            Err(error) => Err(error),
        }
    }

    /// Waits until the monitor is gone, and with `--rm` the container too.
    fn settle(&self, view: &ContainerView) -> Result<(), EngineError> {
        let deadline = Instant::now() + CLEANUP_PATIENCE;
        let id = &view.record.id;
        loop {
            match super::index::load(self.layout(), id)? {
                Some(record) => {
                    let now = super::view::look(self.layout(), record)?;
                    if !now.status.is_live() && !view.record.spec.auto_remove {
                        return self.kill_leftover(&now);
                    }
                }
                None if self.is_being_removed(id) => {}
                None => return Ok(()),
            }
            if Instant::now() >= deadline {
                let name = view.record.name.clone();
                return Err(EngineError::TimedOut {
                    name,
                    what: "the end of its clean-up",
                    seconds: CLEANUP_PATIENCE.as_secs(),
                });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Kills what is left of a container whose monitor died.
    pub(super) fn kill_leftover(&self, view: &ContainerView) -> Result<(), EngineError> {
        let Some(left) = view.leftover else { return Ok(()) };
        let deadline = Instant::now() + KILL_PATIENCE;
        while process::lives(left.pid, left.start) {
            if let Ok(pidfd) = process::pidfd_open(left.pid)
                && process::lives(left.pid, left.start)
            {
                // It may have ended between the two looks; the next look tells.
                let _ = process::send_signal(std::os::fd::AsFd::as_fd(&pidfd), super::signal::KILL);
            }
            if Instant::now() >= deadline {
                let name = view.record.name.clone();
                return Err(EngineError::TimedOut {
                    name,
                    what: "the end of its first process",
                    seconds: KILL_PATIENCE.as_secs(),
                });
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Sends a signal to a container's first process.
    pub fn kill(&self, typed: &str, signal: i32) -> Result<(), EngineError> {
        let view = self.inspect(typed)?;
        let connection = self.connect_live(&view, "only running containers can be sent a signal")?;
        connection.signal(signal, false)?;
        self.tell_of(&view.record, "kill");
        Ok(())
    }

    /// Freezes a container.
    pub fn pause(&self, typed: &str) -> Result<(), EngineError> {
        let view = self.inspect(typed)?;
        Ok(self
            .connect_live(&view, "only running containers can be paused")?
            .pause()?)
    }

    /// Lets a frozen container go on.
    pub fn unpause(&self, typed: &str) -> Result<(), EngineError> {
        let view = self.inspect(typed)?;
        if view.status != Status::Paused {
            let reason = "only paused containers can be unpaused";
            return Err(EngineError::State {
                name: view.record.name,
                status: view.status,
                reason,
            });
        }
        Ok(self
            .connect_live(&view, "only paused containers can be unpaused")?
            .unpause()?)
    }

    /// A session on a running container's own stdio.
    pub fn attach(&self, typed: &str, request: AttachRequest) -> Result<Session, EngineError> {
        let view = self.inspect(typed)?;
        Ok(self
            .connect_live(&view, "only running containers can be attached to")?
            .attach(request)?)
    }

    /// A session on a further process in a running container.
    pub fn exec(&self, typed: &str, request: ExecRequest) -> Result<Session, EngineError> {
        let view = self.inspect(typed)?;
        if view.status == Status::Paused {
            let reason = "processes can be started in running containers only; unpause it first";
            return Err(EngineError::State {
                name: view.record.name,
                status: view.status,
                reason,
            });
        }
        let reason = "processes can be started in running containers only";
        let session = self.connect_live(&view, reason)?.exec(request)?;
        self.tell_of(&view.record, "exec");
        Ok(session)
    }

    /// Events of a running container, beginning with its state.
    pub fn subscribe(&self, typed: &str) -> Result<Events, EngineError> {
        self.subscribe_to(&self.inspect(typed)?)
    }

    /// The same of one that was just looked at.
    pub fn subscribe_to(&self, view: &ContainerView) -> Result<Events, EngineError> {
        Ok(self
            .connect_live(view, "only running containers send events")?
            .subscribe()?)
    }

    /// All that a running container's monitor knows.
    pub fn monitor_status(&self, view: &ContainerView) -> Result<crate::monitor::wire::StatusReport, EngineError> {
        Ok(self
            .connect_live(view, "only running containers have a monitor")?
            .status()?)
    }

    /// Runs a container's health check now and says how it went and how the container is judged after it.
    pub fn probe(&self, view: &ContainerView) -> Result<(ProbeRecord, HealthStatus), EngineError> {
        let wait = view.record.spec.health.as_ref().map_or(0, |health| health.timeout.ms());
        Ok(self
            .connect_live(view, "only the health of running containers can be checked")?
            .probe(Duration::from_millis(wait))?)
    }

    /// Waits until one of the conditions holds, at most `patience`; returns the exit code of the last run. A container that
    /// disappears fulfils every condition; its last exit code is -1 if nobody saw it.
    pub fn wait(&self, typed: &str, conditions: &[Condition], patience: Option<Duration>) -> Result<i32, EngineError> {
        let first = self.inspect(typed)?;
        let id = first.record.id;
        let deadline = patience.map(|patience| Instant::now() + patience);
        let mut code = None;
        loop {
            let Some(record) = super::index::load(self.layout(), &id)? else {
                return Ok(code.unwrap_or(-1));
            };
            let view = super::view::look(self.layout(), record)?;
            let holds = |condition: &Condition| match condition {
                Condition::NotLive => !view.status.is_live(),
                Condition::Is(status) => view.status == *status,
                Condition::Health(health) => view.health == *health,
                Condition::Removed => false,
            };
            let removed = view.record.spec.auto_remove && !view.status.is_live() && view.status != Status::Created;
            if !removed && conditions.iter().any(holds) {
                return Ok(view.exit_code());
            }
            if let Some(exit) = &view.exit {
                code = Some(exit.code);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                let seconds = patience.unwrap_or_default().as_secs();
                return Err(EngineError::TimedOut {
                    name: view.record.name,
                    what: "what was waited for",
                    seconds,
                });
            }
            if let Some(ended) = self.listen(&view, left) {
                code = Some(ended);
            }
        }
    }

    /// Waits for the next thing that happens to a container, or a moment; the exit code when it ended for good.
    fn listen(&self, view: &ContainerView, left: Option<Duration>) -> Option<i32> {
        const LISTEN: Duration = Duration::from_secs(60);
        let mut finished = None;
        if view.status.is_live()
            && let Ok(connection) = client::connect(&self.layout().monitor(&view.record.id))
            && let Ok(mut events) = connection.subscribe()
        {
            let mut first = true;
            while let Ok(Some(event)) = events.next(Some(left.map_or(LISTEN, |left| left.min(LISTEN)))) {
                match event.what {
                    What::Finished(exit) => finished = Some(exit.code),
                    What::Exited(exit) => return Some(exit.code),
                    What::Now(state) if first && state.status == view.status && state.health == view.health => {}
                    What::Probe(_) | What::Gap { .. } => {}
                    _ => return finished,
                }
                first = false;
            }
        }
        std::thread::sleep(PAUSE);
        finished
    }
}

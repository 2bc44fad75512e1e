//! Listening to containers: one thread waits on every monitor's events and tells the deployer what matters of them.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::view::ContainerView;
use crate::engine::{Engine, EngineError};
use crate::monitor::client::Events;
use crate::monitor::wire::What;
use crate::sys::event::{self, Interest, Poll};
use crate::types::container::{ExitRecord, Status};
use crate::types::health::HealthStatus;
use crate::types::ids::ContainerId;
use crate::types::time::Unix;

use super::hands::{Ended, Seen, Sink};

/// How long a monitor may take to leave after its container's end; a start before that would find it still there.
const LEAVE_MS: u64 = 2_000;

/// Containers that are listened to.
pub(super) struct Watcher {
    new: Arc<Mutex<Vec<Watched>>>,
    wake: UnixDatagram,
}

/// One of them.
struct Watched {
    id: ContainerId,
    events: Events,
    sink: Sink,
    checked: bool,
    /// How its run ended, and until when its monitor may take to leave.
    ended: Option<(Ended, Instant)>,
}

impl Watcher {
    /// Starts the thread.
    pub fn start(engine: Arc<Engine>) -> io::Result<Watcher> {
        let (wake, woken) = UnixDatagram::pair()?;
        for end in [&wake, &woken] {
            end.set_nonblocking(true)?;
        }
        let new: Arc<Mutex<Vec<Watched>>> = Arc::default();
        let theirs = new.clone();
        let work = move || run(&engine, &theirs, &woken);
        std::thread::Builder::new().name("watch".into()).spawn(work)?;
        Ok(Watcher { new, wake })
    }

    /// Listens to a container; what it does is told at once where it does not run.
    pub fn add(&self, engine: &Engine, id: ContainerId, sink: Sink) -> Result<(), EngineError> {
        let view = engine.inspect(&id.hex())?;
        match engine.subscribe_to(&view) {
            Ok(events) => {
                let checked = view.record.spec.health.is_some();
                let watched = Watched {
                    id,
                    events,
                    sink,
                    checked,
                    ended: None,
                };
                self.new.lock().unwrap_or_else(PoisonError::into_inner).push(watched);
                // A full socket means that the thread has been woken already.
                let _ = self.wake.send(&[1]);
                Ok(())
            }
            Err(error) => {
                let view = engine.inspect(&id.hex())?;
                if view.status.is_live() {
                    return Err(error);
                }
                sink(id, of_view(&view));
                Ok(())
            }
        }
    }
}

fn run(engine: &Engine, new: &Mutex<Vec<Watched>>, woken: &UnixDatagram) {
    let mut all: Vec<Watched> = Vec::new();
    loop {
        all.append(&mut new.lock().unwrap_or_else(PoisonError::into_inner));
        let timeout = all.iter().filter_map(|one| one.ended).map(|(_, until)| until).min();
        let timeout = timeout.map(|until| until.saturating_duration_since(Instant::now()));
        let fds: Vec<BorrowedFd> = std::iter::once(woken.as_fd())
            .chain(all.iter().map(|one| one.events.as_fd()))
            .collect();
        let mut polls: Vec<Poll> = fds.into_iter().map(|fd| Poll::new(Some(fd), Interest::READ)).collect();
        if let Err(error) = event::poll(&mut polls, timeout) {
            crate::error!("wait for the containers' events: {error}");
            std::thread::sleep(Duration::from_secs(1));
            continue;
        }
        let ready: Vec<bool> = polls.iter().map(|poll| poll.ready.read || poll.ready.hangup).collect();
        drop(polls);
        if ready[0] {
            let mut byte = [0; 8];
            while woken.recv(&mut byte).is_ok() {}
        }
        let mut index = 0;
        all.retain_mut(|one| {
            index += 1;
            one.go_on(engine, ready[index])
        });
    }
}

impl Watched {
    /// Takes one event, if there is one; whether there is more to hear.
    fn go_on(&mut self, engine: &Engine, ready: bool) -> bool {
        if ready {
            match self.events.next(Some(Duration::ZERO)) {
                Ok(Some(event)) => return self.take(engine, event.what),
                Ok(None) => {
                    self.gone(engine);
                    return false;
                }
                Err(error) => {
                    crate::warn!("events of container `{}`: {error}", self.id.short());
                    self.gone(engine);
                    return false;
                }
            }
        }
        match self.ended {
            Some((ended, until)) if Instant::now() >= until => {
                (self.sink)(self.id, Seen::Ended(ended));
                false
            }
            _ => true,
        }
    }

    fn take(&mut self, engine: &Engine, what: What) -> bool {
        let starting = if self.checked {
            HealthStatus::Starting
        } else {
            HealthStatus::None
        };
        match what {
            What::Now(state) if matches!(state.status, Status::Running | Status::Paused | Status::Stopping) => {
                (self.sink)(self.id, Seen::Running(state.health));
            }
            What::Started { .. } => (self.sink)(self.id, Seen::Running(starting)),
            What::Health { status, .. } => (self.sink)(self.id, Seen::Running(status)),
            What::Exited(exit) | What::Finished(exit) => {
                let until = Instant::now() + Duration::from_millis(LEAVE_MS);
                self.ended.get_or_insert((of_exit(&exit), until));
            }
            What::Gap { .. } => match engine.inspect(&self.id.hex()) {
                Ok(view) if view.status.is_live() => (self.sink)(self.id, of_view(&view)),
                _ => {
                    self.gone(engine);
                    return false;
                }
            },
            What::Now(_)
            | What::Oom { .. }
            | What::Probe(_)
            | What::Restarting { .. }
            | What::Paused
            | What::Unpaused => {}
        }
        true
    }

    /// The monitor has left: what it wrote last is the truth.
    fn gone(&self, engine: &Engine) {
        let seen = match self.ended {
            Some((ended, _)) => Seen::Ended(ended),
            None => match engine.inspect(&self.id.hex()) {
                Ok(view) if !view.status.is_live() => of_view(&view),
                _ => Seen::Lost,
            },
        };
        (self.sink)(self.id, seen);
    }
}

/// How a container is, in the deployer's words.
fn of_view(view: &ContainerView) -> Seen {
    match (view.status, &view.exit) {
        (status, _) if status.is_live() => Seen::Running(view.health),
        (Status::Exited, Some(exit)) => Seen::Ended(of_exit(exit)),
        _ => Seen::Lost,
    }
}

/// How a run ended, in the deployer's words.
pub(super) fn of_exit(exit: &ExitRecord) -> Ended {
    let at = if exit.finished == Unix(0) {
        exit.started
    } else {
        exit.finished
    };
    Ended {
        code: exit.code,
        oom: exit.oom,
        asked: exit.stop_asked,
        at,
    }
}

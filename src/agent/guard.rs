//! What resets an agent that hangs, or its device: systemd's watchdog, fed by the loop, and the board's, fed by a thread as long as the
//! loop runs.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::daemon::now;
use crate::sys::watchdog::Watchdog;
use crate::types::time::{Mono, Span};

/// The longest pause of the thread: the next try with a device that could not be had.
const PAUSE: Duration = Duration::from_secs(10);

/// Both watchdogs.
#[derive(Debug, Default)]
pub(super) struct Guard {
    patience: Option<Span>,
    hardware: Option<Arc<Hardware>>,
}

/// What the loop and the thread share.
#[derive(Debug)]
struct Hardware {
    device: PathBuf,
    /// When the loop last ran, in [`Mono`] milliseconds.
    beat: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// It could not be had; whether that was said.
    Missing(bool),
    /// With its own time in seconds.
    Armed(Watchdog, u32),
    /// The agent ends.
    Left,
}

impl Guard {
    /// The hardware's at `device` is fed until the loop has not run for `patience`, where that is given.
    pub fn new(device: PathBuf, patience: Option<Span>) -> Guard {
        let hardware = Hardware {
            device,
            beat: AtomicU64::new(now().0),
            state: Mutex::new(State::Missing(false)),
        };
        Guard {
            patience,
            hardware: patience.map(|_| Arc::new(hardware)),
        }
    }

    /// Arms the hardware's and begins to feed it.
    pub fn start(&self) {
        let (Some(patience), Some(hardware)) = (self.patience, self.hardware.clone()) else {
            return;
        };
        self.feed();
        let thread = std::thread::Builder::new().name("watchdog".into());
        let started = thread.spawn(move || {
            while let Some(pause) = hardware.mind(patience, now()) {
                std::thread::sleep(pause);
            }
        });
        if let Err(error) = started {
            crate::error!("the thread that feeds the watchdog: {error}");
        }
    }

    /// How often [`Guard::feed`] is called: half of systemd's time, where it keeps one for this process, a third of the own patience.
    pub fn interval(&self) -> Option<Duration> {
        let systemd = sd_notify::watchdog_enabled().map(|time| time / 2);
        let own = self.patience.map(|time| time.duration() / 3);
        systemd.into_iter().chain(own).min()
    }

    /// The loop runs.
    pub fn feed(&self) {
        // Without systemd there is nobody to tell.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        if let Some(hardware) = &self.hardware {
            hardware.beat.store(now().0, Ordering::Relaxed);
        }
    }

    /// It is configured, and does not watch.
    pub fn is_missing(&self) -> bool {
        let missing = |hardware: &Arc<Hardware>| matches!(*hardware.state(), State::Missing(true));
        self.hardware.as_ref().is_some_and(missing)
    }

    /// An agent that was stopped is not missed; one that makes room for another version is.
    pub fn leave(&self, stopped: bool) {
        let Some(hardware) = &self.hardware else { return };
        let state = std::mem::replace(&mut *hardware.state(), State::Left);
        if let State::Armed(watchdog, _) = state
            && stopped
        {
            watchdog.disarm();
        }
    }
}

impl Hardware {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Feeds it, or tries to get it; how long the thread may sleep, or none when it is to end.
    fn mind(&self, patience: Span, now: Mono) -> Option<Duration> {
        let mut state = self.state();
        let done = match &mut *state {
            State::Left => return None,
            State::Armed(watchdog, _) if self.is_alive(patience, now) => watchdog.feed(),
            State::Armed(..) => Ok(()),
            State::Missing(_) => Watchdog::open(&self.device).map(|(watchdog, seconds)| {
                crate::info!(
                    "watchdog `{}` resets the device {seconds} s after the agent was not heard of for {} s",
                    self.device.display(),
                    patience.ms() / 1000
                );
                *state = State::Armed(watchdog, seconds);
            }),
        };
        if let Err(error) = done {
            if !matches!(*state, State::Missing(true)) {
                crate::error!("watchdog `{}`: {error}{}", self.device.display(), hint(&error));
            }
            *state = State::Missing(true);
        }
        Some(match *state {
            State::Armed(_, seconds) => Duration::from_millis(u64::from(seconds) * 333).min(PAUSE),
            _ => PAUSE,
        })
    }

    fn is_alive(&self, patience: Span, now: Mono) -> bool {
        now.since(Mono(self.beat.load(Ordering::Relaxed))) < patience.ms()
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; the store's user must own the device",
        io::ErrorKind::ResourceBusy => "; somebody else feeds it, perhaps systemd",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_missed_until_the_agent_leaves() {
        let none = Guard::new("/nonexistent".into(), None);
        none.feed();
        assert!(!none.is_missing());
        assert_eq!(none.interval(), None, "the tests have no watchdog of systemd");
        let missing = Guard::new("/nonexistent".into(), Some(Span::seconds(30)));
        assert_eq!(missing.interval(), Some(Duration::from_secs(10)));
        let hardware = missing.hardware.clone().unwrap();
        assert!(!missing.is_missing(), "not tried yet");
        assert_eq!(hardware.mind(Span::seconds(30), now()), Some(PAUSE));
        assert!(missing.is_missing());
        missing.leave(true);
        assert!(!missing.is_missing());
        assert_eq!(hardware.mind(Span::seconds(30), now()), None);
    }

    #[test]
    fn it_is_fed_while_the_loop_runs_and_not_after() {
        // A file takes food, and tells no time.
        let file = std::env::temp_dir().join(format!("dunlin-guard-{}", std::process::id()));
        std::fs::write(&file, "").unwrap();
        let guard = Guard {
            patience: Some(Span::seconds(30)),
            hardware: Some(Arc::new(Hardware {
                device: file.clone(),
                beat: AtomicU64::new(1000),
                state: Mutex::new(State::Missing(false)),
            })),
        };
        let hardware = guard.hardware.clone().unwrap();
        let patience = Span::seconds(30);
        for (at, fed) in [
            (1000, ""),
            (20_000, "\n"),
            (30_999, "\n\n"),
            (31_000, "\n\n"),
            (90_000, "\n\n"),
        ] {
            assert_eq!(hardware.mind(patience, Mono(at)), Some(Duration::from_millis(4995)));
            assert_eq!(std::fs::read_to_string(&file).unwrap(), fed, "{at}");
        }
        guard.leave(true);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "\n\nV");
        std::fs::remove_file(file).unwrap();
    }
}

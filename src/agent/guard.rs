//! What resets an agent that hangs, or its device: systemd's watchdog and the board's, both fed by the loop.

use std::path::PathBuf;
use std::time::Duration;

use crate::sys::watchdog::Watchdog;
use crate::types::time::Span;

/// Both watchdogs.
#[derive(Debug, Default)]
pub(super) struct Guard {
    device: PathBuf,
    time: Option<Span>,
    armed: Option<Watchdog>,
    /// It was said that the device cannot be had.
    told: bool,
}

impl Guard {
    /// The hardware's at `device` is to reset the board after `time`, where one is given.
    pub fn new(device: PathBuf, time: Option<Span>) -> Guard {
        Guard {
            device,
            time,
            ..Guard::default()
        }
    }

    /// How often [`Guard::feed`] is called: half of systemd's time, where it keeps one for this process, a third of the hardware's.
    pub fn interval(&self) -> Option<Duration> {
        let systemd = sd_notify::watchdog_enabled().map(|time| time / 2);
        let hardware = self.time.map(|time| time.duration() / 3);
        systemd.into_iter().chain(hardware).min()
    }

    /// Feeds both; a hardware's that could not be had is tried again.
    pub fn feed(&mut self) {
        // Without systemd there is nobody to tell.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        let Some(time) = self.time else { return };
        let fed = match &mut self.armed {
            Some(watchdog) => watchdog.feed(),
            None => self.arm(time),
        };
        if let Err(error) = fed {
            if !self.told {
                crate::error!(
                    "watchdog `{}`: {error}; it is tried again, and the store's user must own it",
                    self.device.display()
                );
            }
            self.told = true;
        }
    }

    fn arm(&mut self, time: Span) -> std::io::Result<()> {
        let seconds = u32::try_from(time.ms() / 1000).unwrap_or(u32::MAX);
        let (watchdog, seconds) = Watchdog::open(&self.device, seconds)?;
        crate::info!(
            "watchdog `{}` resets the device after {seconds} s without the agent",
            self.device.display()
        );
        (self.armed, self.told) = (Some(watchdog), false);
        Ok(())
    }

    /// It is configured, and does not watch.
    pub fn is_missing(&self) -> bool {
        self.time.is_some() && self.armed.is_none()
    }

    /// An agent that was stopped is not missed; one that makes room for another version is.
    pub fn leave(&mut self, stopped: bool) {
        if let Some(watchdog) = self.armed.take().filter(|_| stopped) {
            watchdog.disarm();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_missed_and_its_time_divided() {
        let mut none = Guard::new("/nonexistent".into(), None);
        none.feed();
        assert!(!none.is_missing());
        assert_eq!(none.interval(), None, "the tests have no watchdog of systemd");
        let mut missing = Guard::new("/nonexistent".into(), Some(Span::seconds(30)));
        assert_eq!(missing.interval(), Some(Duration::from_secs(10)));
        missing.feed();
        missing.feed();
        assert!(missing.is_missing() && missing.told);
        missing.leave(true);
    }
}

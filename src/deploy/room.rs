//! A disk without room: what is done at its reserve, and how a way back finds room on a full one.

use crate::types::deployment::{Cause, Reason, State};

use super::core::{Core, Now};
use super::files::Source;
use super::hands::Failure;
use super::work::Job;

impl Core {
    /// The disk came to its reserve, or has room again: pulls and what is not needed go, logs stop growing.
    pub(super) fn disk_turned(&mut self, now: Now) {
        let full = self.conditions.full;
        let text = if full {
            "the disk is at its reserve: nothing is pulled, logs do not grow, and what nothing needs is removed, until there is room"
        } else {
            "the disk has room again beyond its reserve"
        };
        self.event(Reason::Disk, None, text.to_owned(), now);
        if full {
            for source in Source::ALL {
                if self.state(source) != Some(State::Fetching) {
                    continue;
                }
                if let Some((_, cancel)) = self.working.get(&source) {
                    cancel.cancel();
                }
                let at = now.mono.plus(crate::plan::backoff::DISK.max);
                if let Some(flight) = self.flights.get_mut(&source) {
                    flight.work = None;
                    flight.retry_at = Some(at);
                }
                self.hold(source, Cause::new(Reason::Disk, "the disk is at its reserve"), at, now);
            }
        } else {
            self.files.keep_room();
            for flight in self.flights.values_mut() {
                flight.retry_at = flight.retry_at.map(|_| now.mono);
            }
        }
        self.job(Job::Tidy(full));
    }

    /// Whether a step back that failed for want of room has some now, and is worth another try.
    pub(super) fn found_room(&mut self, source: Source, failure: &Failure, now: Now) -> bool {
        if failure.cause.code != Reason::Disk || !self.files.give_room() {
            return false;
        }
        crate::warn!("{}: the bytes that are kept for this are given up", failure.cause);
        if let Some(flight) = self.flights.get_mut(&source) {
            flight.retry_at = Some(now.mono.plus(100));
        }
        true
    }
}

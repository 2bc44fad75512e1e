//! Events that could not be told yet, on disk, so that they outlive the agent: written at its end, and once a minute while there is no
//! broker; gone when all were told. What a power cut takes is less than a minute's. The oldest give way, and are counted.

use super::daemon::{Daemon, now};
use crate::disk::durable;
use crate::disk::record::{self, Record, kinds};
use crate::types::time::Mono;

/// Shortest time between two writes, milliseconds.
const WRITE_MS: u64 = 60_000;

/// What is on disk.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Events {
    /// Were dropped before.
    dropped: u64,
    /// Last levels of their topics, and their JSON.
    events: Vec<(String, String)>,
}

impl Record for Events {
    const KIND: u16 = kinds::EVENTS;
}

/// What is known of the file.
#[derive(Debug, Default)]
pub(super) struct Spool {
    /// It is there.
    there: bool,
    /// The outbox as it was written.
    change: u64,
    written: Option<Mono>,
}

impl Daemon {
    /// Takes in what the agent before this one could not tell.
    pub(super) fn recall(&mut self) {
        let path = self.place.layout.agent().join("events");
        match record::read_optional::<Events>(&path) {
            Ok(Some(kept)) => {
                self.spool.there = true;
                self.outbox.dropped_before(kept.dropped);
                for (class, event) in kept.events {
                    self.outbox
                        .push(self.topics.own(&format!("evt/{class}")), event.into_bytes());
                }
            }
            Ok(None) => {}
            Err(error) => crate::warn!("{error}; events of the agent before are lost"),
        }
    }

    /// Keeps what cannot be told; at the `end`, or when it has been so for a while.
    pub(super) fn keep_events(&mut self, end: bool) {
        let told = !self.outbox.has_queue() && self.session.as_ref().is_none_or(|session| session.is_settled());
        let path = self.place.layout.agent().join("events");
        if told {
            if self.spool.there {
                self.spool.there = durable::remove_file(&path).is_err();
            }
            return;
        }
        let fresh = self.spool.written.is_some_and(|at| now().since(at) < WRITE_MS);
        let change = self.outbox.change();
        if !end && (self.connected() || fresh || self.spool.change == change) {
            return;
        }
        let prefix = self.topics.own("evt/");
        let event = |(topic, payload): (&str, &[u8])| {
            let class = topic.strip_prefix(&prefix)?;
            Some((class.to_owned(), String::from_utf8_lossy(payload).into_owned()))
        };
        let events: Vec<_> = self.outbox.queued().filter_map(event).collect();
        if events.is_empty() {
            return;
        }
        let kept = Events {
            dropped: self.outbox.dropped(),
            events,
        };
        self.spool.written = Some(now());
        match record::write(&path, &kept) {
            Ok(()) => (self.spool.there, self.spool.change) = (true, change),
            Err(error) => crate::error!("{error}; events may be lost"),
        }
    }
}

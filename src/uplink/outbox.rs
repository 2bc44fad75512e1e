//! What is to be published: the newest value of each retained topic, and a bounded queue of everything else.

use crate::types::sorted::Sorted;
use std::collections::VecDeque;

/// Messages that wait for the broker, retained ones apart; the oldest is dropped and counted when there are more.
pub const QUEUE: usize = 64;
/// Retained topics of one device.
pub const RETAINED: usize = 16;

/// A message to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Topic.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// Whether the broker keeps it.
    pub retain: bool,
}

#[derive(Debug)]
struct Slot {
    payload: Vec<u8>,
    /// Not yet handed to the connection.
    dirty: bool,
}

/// The outbox.
#[derive(Debug, Default)]
pub struct Outbox {
    retained: Sorted<String, Slot>,
    queue: VecDeque<Message>,
    dropped: u64,
    /// How often the queue grew.
    change: u64,
}

impl Outbox {
    /// Sets the value of a retained topic; an unchanged value is not published again. A topic beyond [`RETAINED`] is
    /// dropped and counted.
    pub fn set(&mut self, topic: String, payload: Vec<u8>) {
        if self.retained.len() >= RETAINED && !self.retained.contains_key(&topic) {
            self.dropped += 1;
            return;
        }
        let slot = self.retained.or_insert_with(topic, || Slot {
            payload: Vec::new(),
            dirty: true,
        });
        if slot.payload != payload {
            *slot = Slot { payload, dirty: true };
        }
    }

    /// Whether the newest value of this retained topic is here.
    pub fn holds(&self, topic: &str) -> bool {
        self.retained.contains_key(topic)
    }

    /// Takes back what a session was given in vain, before everything else; retained messages have their newest value here.
    pub fn take_back(&mut self, messages: Vec<Message>) {
        self.change += 1;
        for message in messages.into_iter().rev().filter(|message| !message.retain) {
            if self.queue.len() < QUEUE {
                self.queue.push_front(message);
            } else {
                self.dropped += 1;
            }
        }
    }

    /// Adds a message that is not retained; the oldest gives way when the queue is full.
    pub fn push(&mut self, topic: String, payload: Vec<u8>) {
        self.change += 1;
        if self.queue.len() >= QUEUE {
            self.queue.pop_front();
            self.dropped += 1;
        }
        self.queue.push_back(Message {
            topic,
            payload,
            retain: false,
        });
    }

    /// Everything retained is to be published again: a new connection, perhaps to a broker that forgot.
    pub fn again(&mut self) {
        for slot in self.retained.values_mut() {
            slot.dirty = true;
        }
    }

    /// One retained topic is to be published again.
    pub fn again_topic(&mut self, topic: &str) {
        if let Some(slot) = self.retained.get_mut(topic) {
            slot.dirty = true;
        }
    }

    /// Hands messages to `send` until it refuses one; a refused one stays.
    pub fn flush(&mut self, mut send: impl FnMut(&Message) -> bool) {
        for (topic, slot) in self.retained.iter_mut().filter(|(_, s)| s.dirty) {
            let message = Message {
                topic: topic.clone(),
                payload: slot.payload.clone(),
                retain: true,
            };
            if !send(&message) {
                return;
            }
            slot.dirty = false;
        }
        while let Some(message) = self.queue.front() {
            if !send(message) {
                return;
            }
            self.queue.pop_front();
        }
    }

    /// Whether something waits to be handed over.
    pub fn is_waiting(&self) -> bool {
        !self.queue.is_empty() || self.retained.values().any(|slot| slot.dirty)
    }

    /// Messages that were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// So many were dropped before this outbox was made.
    pub fn dropped_before(&mut self, count: u64) {
        self.dropped = self.dropped.saturating_add(count);
    }

    /// Topic and payload of what is queued, the oldest first.
    pub fn queued(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.queue
            .iter()
            .map(|message| (message.topic.as_str(), message.payload.as_slice()))
    }

    /// Whether something is queued.
    pub fn has_queue(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Differs whenever something was added to the queue.
    pub fn change(&self) -> u64 {
        self.change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(outbox: &mut Outbox, room: usize) -> Vec<String> {
        let mut out = Vec::new();
        outbox.flush(|m| {
            let fits = out.len() < room;
            if fits {
                out.push(format!("{}={}", m.topic, String::from_utf8_lossy(&m.payload)));
            }
            fits
        });
        out
    }

    #[test]
    fn retained_topics_keep_only_their_newest_value() {
        let mut outbox = Outbox::default();
        outbox.set("a".into(), b"1".to_vec());
        outbox.set("a".into(), b"2".to_vec());
        outbox.push("e".into(), b"x".to_vec());
        assert_eq!(sent(&mut outbox, 1), ["a=2"]);
        assert_eq!(sent(&mut outbox, 9), ["e=x"]);
        outbox.set("a".into(), b"2".to_vec());
        assert!(sent(&mut outbox, 9).is_empty(), "unchanged");
        outbox.again();
        assert_eq!(sent(&mut outbox, 9), ["a=2"]);
    }

    #[test]
    fn the_queue_is_bounded_and_drops_the_oldest() {
        let mut outbox = Outbox::default();
        for n in 0..QUEUE + 3 {
            outbox.push("e".into(), n.to_string().into_bytes());
        }
        assert_eq!(outbox.dropped(), 3);
        assert_eq!(sent(&mut outbox, 1), ["e=3"]);
    }
}

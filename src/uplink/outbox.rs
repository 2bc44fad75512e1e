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

/// Bytes of MQTT and TLS around one message, about.
const FRAME_BYTES: u64 = 64;

/// What a day may cost.
#[derive(Debug, Default)]
struct Purse {
    /// Bytes a day; `None` is without end.
    most: Option<u64>,
    /// The day, counted from 1970.
    day: u64,
    /// Bytes of that day.
    spent: u64,
}

impl Purse {
    /// Whether a message must wait for the next day: events and reports, once the day's bytes are spent. What an operator waits
    /// for (states of updates, answers, presence) never does.
    fn holds(&self, topic: &str) -> bool {
        self.most.is_some_and(|most| self.spent >= most) && (topic.ends_with("/reported") || topic.contains("/evt/"))
    }

    fn pay(&mut self, message: &Message) {
        let bytes = message.topic.len() as u64 + message.payload.len() as u64;
        self.spent = self.spent.saturating_add(bytes + FRAME_BYTES);
    }
}

/// The outbox.
#[derive(Debug, Default)]
pub struct Outbox {
    retained: Sorted<String, Slot>,
    queue: VecDeque<Message>,
    purse: Purse,
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

    /// From now on events and reports wait for the next day once so many bytes were handed over in one.
    pub fn bound(&mut self, bytes_a_day: Option<u64>) {
        self.purse.most = bytes_a_day;
    }

    /// Which day it is, counted from 1970.
    pub fn today(&mut self, day: u64) {
        if self.purse.day != day {
            self.purse = Purse {
                day,
                spent: 0,
                most: self.purse.most,
            };
        }
    }

    /// Hands messages to `send` until it refuses one; a refused one stays.
    pub fn flush(&mut self, mut send: impl FnMut(&Message) -> bool) {
        let purse = &mut self.purse;
        for (topic, slot) in self.retained.iter_mut().filter(|(_, s)| s.dirty) {
            if purse.holds(topic) {
                continue;
            }
            let message = Message {
                topic: topic.clone(),
                payload: slot.payload.clone(),
                retain: true,
            };
            if !send(&message) {
                return;
            }
            purse.pay(&message);
            slot.dirty = false;
        }
        let mut at = 0;
        while let Some(message) = self.queue.get(at) {
            if purse.holds(&message.topic) {
                at += 1;
                continue;
            }
            if !send(message) {
                return;
            }
            purse.pay(message);
            self.queue.remove(at);
        }
    }

    /// Whether something waits to be handed over.
    pub fn is_waiting(&self) -> bool {
        let waits = |topic: &String| !self.purse.holds(topic);
        self.queue.iter().any(|message| waits(&message.topic))
            || self.retained.iter().any(|(topic, slot)| slot.dirty && waits(topic))
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
    fn news_wait_for_the_next_day_when_the_bytes_of_one_are_spent() {
        let mut outbox = Outbox::default();
        outbox.bound(Some(200));
        outbox.today(1);
        outbox.set("r/d/x/reported".into(), vec![b'1'; 150]);
        outbox.push("r/d/x/evt/app".into(), b"a".to_vec());
        assert_eq!(sent(&mut outbox, 9).len(), 1, "the report has spent them");
        assert!(!outbox.is_waiting(), "the event waits for nobody");
        outbox.set("r/d/x/reported".into(), b"2".to_vec());
        outbox.set("r/d/x/deploy".into(), b"d".to_vec());
        outbox.push("r/d/x/res/1".into(), b"b".to_vec());
        assert!(outbox.is_waiting());
        assert_eq!(sent(&mut outbox, 9), ["r/d/x/deploy=d", "r/d/x/res/1=b"]);
        assert!(!outbox.is_waiting() && outbox.has_queue());
        outbox.today(1);
        assert!(sent(&mut outbox, 9).is_empty());
        outbox.today(2);
        assert_eq!(sent(&mut outbox, 9), ["r/d/x/reported=2", "r/d/x/evt/app=a"]);
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

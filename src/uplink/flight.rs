//! What the connection to the broker was handed, until the broker acknowledges it. A connection that ends takes nothing with it: its
//! messages are sent again with the next one.

use std::collections::VecDeque;

use super::outbox::Message;

/// Messages and requests under way.
#[derive(Debug, Default)]
pub(super) struct Flight {
    /// Connections that have ended.
    ended: u32,
    /// In the order in which they were handed over, with the number under which each has left; 0 before that.
    messages: VecDeque<(u16, Message)>,
    /// Requests to subscribe without an answer.
    subscriptions: usize,
    /// The one before ended with such requests.
    cut: bool,
}

impl Flight {
    /// Number of the connection that is, or comes.
    pub(super) fn number(&self) -> u32 {
        self.ended
    }

    /// Everything was answered.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.subscriptions == 0
    }

    /// A request to subscribe has no answer yet.
    pub(super) fn is_asking(&self) -> bool {
        self.subscriptions > 0
    }

    /// The connection was handed a message.
    pub(super) fn handed(&mut self, message: Message) {
        self.messages.push_back((0, message));
    }

    /// The connection was handed a request to subscribe, or had no room for it.
    pub(super) fn asked(&mut self, so: bool) {
        self.subscriptions += usize::from(so);
    }

    /// A request to subscribe was answered.
    pub(super) fn answered(&mut self) {
        self.subscriptions = self.subscriptions.saturating_sub(1);
    }

    /// The first message that had not left has left under this number.
    pub(super) fn sent(&mut self, number: u16) {
        if let Some(first) = self.messages.iter_mut().find(|(sent, _)| *sent == 0) {
            first.0 = number;
        }
    }

    /// The message of this number has arrived.
    pub(super) fn acked(&mut self, number: u16) {
        if let Some(at) = self.messages.iter().position(|(sent, _)| *sent == number) {
            self.messages.remove(at);
        }
    }

    /// The connection has ended.
    pub(super) fn lost(&mut self) {
        self.ended = self.ended.wrapping_add(1);
        self.cut |= self.subscriptions > 0;
        self.subscriptions = 0;
    }

    /// Another one stands. Whether the broker has all subscriptions, where it says that it kept the session.
    pub(super) fn connected(&mut self, present: bool) -> bool {
        !std::mem::take(&mut self.cut) && present
    }

    /// Takes what earlier connections did not bring.
    pub(super) fn left(&mut self) -> impl Iterator<Item = Message> {
        std::mem::take(&mut self.messages)
            .into_iter()
            .map(|(_, message)| message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(topic: &str) -> Message {
        Message {
            topic: topic.into(),
            payload: Vec::new(),
            retain: false,
        }
    }

    #[test]
    fn only_what_was_acknowledged_is_not_sent_again() {
        let mut flight = Flight::default();
        for topic in ["a", "b", "c", "d"] {
            flight.handed(message(topic));
        }
        for number in [1, 2, 3] {
            flight.sent(number);
        }
        // Not in the order in which they left; and one that nobody knows.
        for number in [3, 1, 7] {
            flight.acked(number);
        }
        flight.lost();
        assert_eq!(flight.number(), 1);
        let left: Vec<String> = flight.left().map(|message| message.topic).collect();
        assert_eq!(left, ["b", "d"]);
        assert!(flight.is_empty());
    }

    #[test]
    fn a_session_without_all_its_subscriptions_is_none() {
        let mut flight = Flight::default();
        assert!(flight.connected(true));
        flight.asked(true);
        flight.asked(false);
        flight.answered();
        flight.lost();
        assert!(flight.connected(true));
        flight.asked(true);
        flight.lost();
        assert!(!flight.connected(true), "a request was under way");
        assert!(flight.connected(true));
        assert!(!flight.connected(false));
    }
}

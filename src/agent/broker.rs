//! The agent's connection to the broker: made, lost, given up; what is subscribed.

use super::AgentError;
use super::daemon::{Daemon, now, unix};
use super::presence::AWAY_MS;
use crate::types::bounds::DOCUMENT_BYTES;
use crate::types::deployment::Reason;
use crate::uplink::json;
use crate::uplink::outbox::Message;
use crate::uplink::session::{Incoming, Session};

/// A kept session's retained topics are asked for again after this, milliseconds.
const RESUBSCRIBE_MS: u64 = 900_000;
/// Milliseconds of a day.
const DAY_MS: u64 = 86_400_000;
/// What the broker refuses is asked for again after this, milliseconds; each time after twice as long.
const REFUSED_MS: u64 = 2_000;
/// So often: half an hour at the most.
const REFUSALS: u32 = 10;

impl Daemon {
    /// Begins to connect, where the settings name a broker.
    pub(super) fn connect(&mut self) -> Result<(), AgentError> {
        let Some(mqtt) = &self.settings.mqtt else {
            return Ok(());
        };
        let will = Message {
            topic: self.topics.own("presence"),
            payload: json(&self.presence(false)),
            retain: true,
        };
        self.outbox.bound(mqtt.daily.map(|bytes| bytes.0));
        let id = format!("dunlin-{}", self.identity.device);
        self.session = Some(Session::open(mqtt, &id, Some(&will))?);
        Ok(())
    }

    pub(super) fn incoming(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Connected { present, .. } => {
                crate::info!(
                    "connected to the broker (session {})",
                    if present { "kept" } else { "new" }
                );
                let fresh = self.subscribed.is_some_and(|at| now().since(at) < RESUBSCRIBE_MS);
                let filters = self.filters();
                self.ask_at = None;
                self.refusals = 0;
                if self.careful.connected(&filters, now()) {
                    self.subscribed = None;
                } else if present && fresh {
                    // Before ours goes over it: whose it is says whether the name is another's too.
                    let presence = [self.topics.own("presence")];
                    if !self
                        .session
                        .as_ref()
                        .is_some_and(|session| session.subscribe(&presence))
                    {
                        self.subscribed = None;
                    }
                } else {
                    self.subscribe();
                }
                self.outbox.again();
            }
            Incoming::Disconnected {
                error,
                retry_ms,
                oversize,
            } => {
                crate::warn!("broker: {error}; next try in {retry_ms} ms");
                if self.leave_at.is_some() {
                    self.leave_at = Some(now());
                }
                if let Some(session) = &mut self.session {
                    self.outbox.take_back(session.unsent());
                }
                if let Some(filter) = self.careful.lost(oversize, now()) {
                    let text = format!(
                        "`{filter}`: the broker has more there than the {DOCUMENT_BYTES} bytes that fit; it is left out for 15 minutes"
                    );
                    crate::error!("{text}");
                    self.tell("document", Reason::Schema, None, text);
                }
            }
            Incoming::Message(delivery) => {
                if self.message(&delivery)
                    && let Some(session) = &mut self.session
                {
                    session.done(*delivery);
                }
            }
            Incoming::Refused(count) => {
                let wait = REFUSED_MS << self.refusals.min(REFUSALS);
                self.refusals += 1;
                self.ask_at = Some(now().plus(wait));
                crate::warn!(
                    "the broker refuses {count} subscriptions; its access rules must let this device read them; next try in {wait} ms"
                );
            }
        }
    }

    fn filters(&self) -> Vec<String> {
        self.topics
            .retained_filters(&self.intake.assign().groups, self.intake.key_version())
    }

    /// Asks for everything that is for this device.
    pub(super) fn subscribe(&mut self) {
        if self.careful.is_on() {
            return;
        }
        let filters = self.careful.allowed(self.filters());
        let commands = self.topics.command_filter();
        let sent = self
            .session
            .as_ref()
            .is_some_and(|session| session.subscribe(&filters) && session.subscribe_new(&commands));
        self.subscribed = sent.then(now);
    }

    /// What time brings: another filter, all filters again, the end of the connection, another one.
    pub(super) fn mind_connection(&mut self) {
        let searched = self.careful.is_on();
        if self.connected()
            && let Some(filter) = self.careful.next(now())
            && let Some(session) = &self.session
            && !session.subscribe(&[filter])
        {
            self.careful.back();
        }
        if searched && !self.careful.is_on() {
            crate::info!("all topics are subscribed again but those that bring too much");
        }
        if self.careful.forgives(now()) {
            self.subscribed = None;
        }
        if self.ask_at.is_some_and(|at| now() >= at) {
            self.ask_at = None;
            self.subscribed = None;
        }
        let settled = self.session.as_ref().is_none_or(Session::is_settled);
        if self.leave_at.is_some_and(|at| now() >= at || settled) {
            self.leave_at = None;
            if let Some(mut session) = self.session.take() {
                self.outbox.take_back(session.unsent());
            }
            self.subscribed = None;
            self.away_until = Some(now().plus(AWAY_MS));
        }
        if self.away_until.is_some_and(|until| now() >= until) {
            self.away_until = None;
            if let Err(error) = self.connect() {
                crate::error!("{error}");
            }
        }
    }

    /// Hands over what waits, as far as there is room.
    pub(super) fn flush(&mut self) {
        if self.connected() && self.subscribed.is_none() {
            self.subscribe();
        }
        if let Some(session) = &mut self.session {
            self.outbox.today(unix().0 / DAY_MS);
            session.send(&mut self.outbox);
        }
    }

    /// Whether something waits that a connection could take.
    pub(super) fn has_to_send(&self) -> bool {
        let Some(session) = self.session.as_ref().filter(|session| session.is_connected()) else {
            return false;
        };
        let asks = self.subscribed.is_none() && !self.careful.is_on();
        asks || session.is_waiting() || self.outbox.is_waiting()
    }

    pub(super) fn connected(&self) -> bool {
        self.session.as_ref().is_some_and(Session::is_connected)
    }
}

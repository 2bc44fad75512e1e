//! The operator's connection to the broker: everything waits with a bound; what arrives is queued.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

use super::{FleetError, numbers};
use crate::config::agent::Mqtt;
use crate::uplink::outbox::Outbox;
use crate::uplink::session::{FILTERS, Incoming, Session};

/// The longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(20);
/// The longest wait until a message has left.
const LEAVE: Duration = Duration::from_secs(20);
/// How long the connection's task is given to take a request.
const TAKE: Duration = Duration::from_millis(2);

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Below the root.
    pub topic: String,
    /// What it says.
    pub payload: Vec<u8>,
    /// It was stored by the broker before.
    pub retained: bool,
}

/// The connection. When it breaks it comes again by itself, and everything is subscribed again.
pub struct Link {
    runtime: Runtime,
    session: Session,
    root: String,
    url: String,
    filters: Vec<String>,
    heard: VecDeque<Heard>,
    /// Filters not yet asked for.
    wanted: VecDeque<String>,
}

impl Link {
    /// Connects.
    pub fn open(mqtt: &Mqtt) -> Result<Link, FleetError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| FleetError::System {
            what: "make a runtime for the broker's connection",
            source,
        })?;
        let id = format!("dunlin-op-{}", numbers::word()?);
        let session = runtime.block_on(async { Session::open(mqtt, &id, None) })?;
        let mut link = Link {
            runtime,
            session,
            root: mqtt.root.clone(),
            url: mqtt.url.clone(),
            filters: Vec::new(),
            heard: VecDeque::new(),
            wanted: VecDeque::new(),
        };
        let until = Instant::now() + CONNECT;
        while !link.session.is_connected() {
            let left = until.saturating_duration_since(Instant::now());
            if let Some(error) = link.turn(left)? {
                return Err(link.broken(error));
            }
            if left.is_zero() {
                return Err(link.broken("no answer".into()));
            }
        }
        Ok(link)
    }

    /// Subscribes below the root. What is retained there comes, also again.
    pub fn subscribe(&mut self, filters: impl IntoIterator<Item = String>) {
        for filter in filters {
            let filter = format!("{}/{filter}", self.root);
            self.filters.push(filter.clone());
            self.wanted.push_back(filter);
        }
        self.ask();
    }

    /// Publishes below the root; returns when the message has been handed to the connection.
    pub fn publish(&mut self, topic: &str, payload: &[u8], retain: bool) -> Result<(), FleetError> {
        let topic = format!("{}/{topic}", self.root);
        let mut outbox = Outbox::default();
        if retain {
            outbox.set(topic, payload.to_vec());
        } else {
            outbox.push(topic, payload.to_vec());
        }
        let until = Instant::now() + LEAVE;
        loop {
            self.session.send(&mut outbox);
            if !outbox.is_waiting() {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(self.broken("the message does not leave".into()));
            }
            self.turn(TAKE)?;
        }
    }

    /// The next message within `wait`.
    pub fn next(&mut self, wait: Duration) -> Result<Option<Heard>, FleetError> {
        let until = Instant::now() + wait;
        loop {
            if let Some(heard) = self.heard.pop_front() {
                return Ok(Some(heard));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let step = if !self.session.is_waiting() && self.wanted.is_empty() {
                left
            } else {
                TAKE.min(left)
            };
            if let Some(error) = self.turn(step)? {
                crate::warn!("broker `{}`: {error}; trying again", self.url);
            }
        }
    }

    /// Says goodbye, after what was published has left.
    pub fn close(self) {
        let Link { runtime, session, .. } = self;
        runtime.block_on(session.close());
    }

    fn broken(&self, text: String) -> FleetError {
        FleetError::Broker {
            url: self.url.clone(),
            text,
        }
    }

    /// One thing that happens within `wait`; the reason where the connection broke.
    fn turn(&mut self, wait: Duration) -> Result<Option<String>, FleetError> {
        let session = &mut self.session;
        let came = self
            .runtime
            .block_on(async { tokio::time::timeout(wait, session.next()).await });
        let mut lost = None;
        match came {
            Err(_) => {}
            Ok(Incoming::Connected { .. }) => {
                self.wanted = self.filters.iter().cloned().collect();
            }
            Ok(Incoming::Disconnected { error, .. }) => lost = Some(error),
            Ok(Incoming::Message(delivery)) => {
                let below = delivery
                    .topic
                    .strip_prefix(&self.root)
                    .and_then(|t| t.strip_prefix('/'));
                if let Some(topic) = below {
                    self.heard.push_back(Heard {
                        topic: topic.to_owned(),
                        payload: delivery.payload.clone(),
                        retained: delivery.retained,
                    });
                }
                self.session.done(*delivery);
            }
            Ok(Incoming::Refused(count)) => {
                crate::warn!(
                    "the broker refuses {count} subscriptions; its access rules must let this operator read them"
                );
            }
        }
        if self.session.is_waiting() {
            self.session.send(&mut Outbox::default());
        }
        self.ask();
        Ok(lost)
    }

    /// Asks for what is wanted, as far as there is room.
    fn ask(&mut self) {
        while !self.wanted.is_empty() && self.session.is_connected() && !self.session.is_waiting() {
            let count = self.wanted.len().min(FILTERS);
            let chunk: Vec<String> = self.wanted.iter().take(count).cloned().collect();
            if !self.session.subscribe(&chunk) {
                return;
            }
            self.wanted.drain(..count);
        }
    }
}

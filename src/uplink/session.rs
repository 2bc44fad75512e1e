//! One session with a broker: connects, connects again with back-off and jitter, hands over what arrives, sends what the
//! outbox holds. Correctness rests on retained documents; the broker's session is only a convenience.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use super::flight::Flight;
use super::keepalive::KeepAlive;
use super::outbox::{Message, Outbox};
use super::tls::TlsError;
use super::wire::{self, Client, Connection, Lost, Told, Unacked, Wanted};
use crate::config::agent::Mqtt;
use crate::sys::event;
use crate::types::time::Mono;

/// Events that wait for the agent's loop.
const EVENTS: usize = 16;
/// Filters of one SUBSCRIBE.
pub const FILTERS: usize = 8;
/// First wait before a new connection, milliseconds; doubled up to [`BACKOFF_MAX_MS`].
const BACKOFF_MIN_MS: u64 = 500;
/// Longest wait before a new connection, milliseconds.
const BACKOFF_MAX_MS: u64 = 120_000;
/// What was sent is acknowledged within this time, seconds, or the connection is dead.
const ACKNOWLEDGED_S: u64 = 60;
/// So many connections in a row that the broker ended with more than fits, and the session begins anew.
pub const OVERSIZE: u32 = 2;

/// What arrives from the broker.
#[derive(Debug)]
pub enum Incoming {
    /// CONNACK.
    Connected {
        /// Whether the broker kept the session, with all that was subscribed.
        present: bool,
        /// Number of the connection.
        number: u32,
    },
    /// A message. It is acknowledged with [`Session::done`].
    Message(Box<Delivery>),
    /// The broker does not let us subscribe to so many filters.
    Refused(usize),
    /// The connection ended; another try follows by itself.
    Disconnected {
        /// Why.
        error: String,
        /// After how many milliseconds the next try comes.
        retry_ms: u64,
        /// So many connections in a row have ended because the broker sent more than fits.
        oversize: u32,
    },
}

/// A message of the broker.
#[derive(Debug)]
pub struct Delivery {
    /// Topic.
    pub topic: String,
    /// At most [`DOCUMENT_BYTES`].
    pub payload: Vec<u8>,
    /// It was stored by the broker before.
    pub retained: bool,
    unacked: Box<Unacked>,
}

/// A broker's address or settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Plain TCP to a host that is not loopback.
    #[error("`mqtt.url` `{0}`: plain MQTT only to loopback; use mqtts:// or set `mqtt.insecure = true`")]
    Plain(String),
    /// The address is no host and port.
    #[error("`mqtt.url` `{0}`: expected mqtts://HOST[:PORT] or mqtt://HOST[:PORT]")]
    Url(String),
    /// A certificate or key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The password file.
    #[error("`mqtt.password_file`: {0}")]
    Password(String),
}

/// The session: dropping it ends its task.
pub struct Session {
    client: Client,
    events: mpsc::Receiver<Incoming>,
    task: tokio::task::JoinHandle<()>,
    connected: bool,
    /// Of the connection that was heard of last.
    number: u32,
    flight: Arc<Mutex<Flight>>,
    /// What earlier connections were handed and nobody acknowledged.
    again: VecDeque<Message>,
    /// Acknowledgements for which there was no room; the broker sends no more than it may before they come.
    owed: VecDeque<Box<Unacked>>,
}

/// Host, port and whether TLS is wanted, out of `mqtt.url`.
pub fn address(mqtt: &Mqtt) -> Result<(String, u16, bool), SessionError> {
    let bad = || SessionError::Url(mqtt.url.clone());
    let (rest, tls) = match (mqtt.url.strip_prefix("mqtts://"), mqtt.url.strip_prefix("mqtt://")) {
        (Some(rest), _) => (rest, true),
        (None, Some(rest)) => (rest, false),
        (None, None) => return Err(bad()),
    };
    let default = if tls { 8883 } else { 1883 };
    let (host, port) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
        Some((host, "")) => (host, default),
        Some((host, port)) => (
            host,
            port.strip_prefix(':').and_then(|p| p.parse().ok()).ok_or_else(bad)?,
        ),
        None => match rest.split_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| bad())?),
            None => (rest, default),
        },
    };
    if host.is_empty() || port == 0 {
        return Err(bad());
    }
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if !tls && !loopback && !mqtt.insecure {
        return Err(SessionError::Plain(mqtt.url.clone()));
    }
    Ok((host.to_owned(), port, tls))
}

impl Session {
    /// Begins to connect. `will` is published, retained, by the broker when the device is gone. Must be called within a
    /// tokio runtime.
    pub fn open(mqtt: &Mqtt, client_id: &str, will: Option<&Message>) -> Result<Session, SessionError> {
        let wanted = Wanted {
            mqtt: mqtt.clone(),
            client_id: client_id.to_owned(),
            will: will.cloned(),
            keep_alive: mqtt.keep_alive.duration(),
            // Whoever has no will comes and goes: the broker need not keep anything for it.
            clean: will.is_none(),
            anew: false,
        };
        let (client, connection) = wire::open(&wanted)?;
        let (sender, events) = mpsc::channel(EVENTS);
        let flight = Arc::new(Mutex::new(Flight::default()));
        let task = tokio::spawn(run(connection, wanted, sender, flight.clone()));
        Ok(Session {
            client,
            events,
            task,
            connected: false,
            number: 0,
            flight,
            again: VecDeque::new(),
            owed: VecDeque::new(),
        })
    }

    /// The next thing that happens. Cancel-safe.
    pub async fn next(&mut self) -> Incoming {
        match self.events.recv().await {
            Some(incoming) => {
                match incoming {
                    Incoming::Connected { number, .. } => {
                        (self.connected, self.number) = (true, number);
                        // They were for messages that come again.
                        self.owed.clear();
                        self.again.extend(locked(&self.flight).left());
                    }
                    Incoming::Disconnected { .. } => self.connected = false,
                    Incoming::Message(_) | Incoming::Refused(_) => {}
                }
                incoming
            }
            // The task never ends by itself; if it did, there is nothing more to come.
            None => std::future::pending().await,
        }
    }

    /// Whether the last thing heard is a connection.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Whether requests reach the connection that was heard of last: it may have ended meanwhile.
    fn is_current(&self) -> bool {
        self.connected && locked(&self.flight).number() == self.number
    }

    /// Subscribes; the broker sends retained messages again with every call. False when there is no room for the
    /// request now.
    pub fn subscribe(&self, filters: &[String]) -> bool {
        filters.chunks(FILTERS).all(|chunk| self.ask(chunk, true))
    }

    /// Subscribes to what is published from now on.
    pub fn subscribe_new(&self, path: &str) -> bool {
        self.ask(&[path.to_owned()], false)
    }

    fn ask(&self, filters: &[String], stored: bool) -> bool {
        let asked = self.is_current() && self.client.subscribe(filters, stored);
        locked(&self.flight).asked(asked);
        asked
    }

    /// Acknowledges a message: what it asks for is on disk or refused. One of an earlier connection is delivered again anyhow.
    pub fn done(&mut self, delivery: Delivery) {
        if self.is_current() {
            self.owed.push_back(delivery.unacked);
            self.acknowledge();
        }
    }

    /// Sends acknowledgements as far as there is room; whether there was for all.
    fn acknowledge(&mut self) -> bool {
        while let Some(first) = self.owed.front() {
            if !self.client.acknowledge(first) {
                return false;
            }
            self.owed.pop_front();
        }
        true
    }

    /// Hands what waits in the outbox to the connection, as far as there is room; before that, what an earlier connection was handed
    /// and did not bring. Whoever hears of us may answer at once, so first all subscriptions stand.
    pub fn send(&mut self, outbox: &mut Outbox) {
        if !self.is_current() || !self.acknowledge() || locked(&self.flight).is_asking() {
            return;
        }
        while let Some(message) = self.again.front() {
            let newer = message.retain && outbox.holds(&message.topic);
            if !newer && !self.hand(message) {
                return;
            }
            self.again.pop_front();
        }
        outbox.flush(|message| self.hand(message));
    }

    fn hand(&self, message: &Message) -> bool {
        let handed = self.client.publish(message, true);
        if handed {
            locked(&self.flight).handed(message.clone());
        }
        handed
    }

    /// Whether acknowledgements, or something of earlier connections, wait to be sent.
    pub fn is_waiting(&self) -> bool {
        !self.again.is_empty() || !self.owed.is_empty()
    }

    /// Whether all that was sent has arrived.
    pub fn is_settled(&self) -> bool {
        self.again.is_empty() && locked(&self.flight).is_empty()
    }

    /// What was sent, as far as anybody knows in vain; for whoever gives this session up.
    pub fn unsent(&mut self) -> Vec<Message> {
        let mut all: Vec<Message> = self.again.drain(..).collect();
        all.extend(locked(&self.flight).left());
        all
    }

    /// Publishes what may be lost, when there is a connection with room for it.
    pub fn send_once(&self, topic: String, payload: Vec<u8>) -> bool {
        let message = Message {
            topic,
            payload,
            retain: false,
        };
        self.is_current() && self.client.publish(&message, false)
    }

    /// Says goodbye, so that the broker publishes no will, and waits shortly for the last messages to leave. What has not left comes
    /// back.
    pub async fn close(mut self) -> Vec<Message> {
        if self.connected {
            self.client.disconnect();
            let _ = tokio::time::timeout(Duration::from_secs(2), async {
                while !matches!(self.next().await, Incoming::Disconnected { .. }) {}
            })
            .await;
        }
        self.task.abort();
        self.unsent()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn locked(flight: &Mutex<Flight>) -> MutexGuard<'_, Flight> {
    flight.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Polls the connection for ever; ends when the session is dropped.
async fn run(
    mut connection: Connection,
    mut wanted: Wanted,
    sender: mpsc::Sender<Incoming>,
    flight: Arc<Mutex<Flight>>,
) {
    let mut backoff = BACKOFF_MIN_MS;
    let mut keep_alive = KeepAlive::new(wanted.mqtt.keep_alive);
    let mut oversize = 0;
    loop {
        let settled = locked(&flight).is_empty();
        let incoming = match next(&mut connection, settled).await {
            Ok(Told::Connected { present }) => {
                backoff = BACKOFF_MIN_MS;
                keep_alive.connected(now());
                let mut flight = locked(&flight);
                let present = flight.connected(present);
                let number = flight.number();
                Some(Incoming::Connected { present, number })
            }
            Ok(Told::Message {
                topic,
                payload,
                retained,
                unacked,
            }) => Some(Incoming::Message(Box::new(Delivery {
                topic,
                payload,
                retained,
                unacked,
            }))),
            Ok(Told::Subscribed(refused)) => {
                locked(&flight).answered();
                (refused > 0).then_some(Incoming::Refused(refused))
            }
            Ok(Told::Sent(number)) => {
                locked(&flight).sent(number);
                None
            }
            Ok(Told::Acked(number)) => {
                locked(&flight).acked(number);
                None
            }
            Ok(Told::Nothing) => None,
            Err(lost) => {
                connection.reset();
                locked(&flight).lost();
                oversize = if lost.oversize { oversize + 1 } else { 0 };
                let retry_ms = backoff / 2 + jitter(backoff / 2);
                let error = lost.text;
                let told = Incoming::Disconnected {
                    error,
                    retry_ms,
                    oversize,
                };
                if sender.send(told).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(retry_ms)).await;
                backoff = (backoff * 2).min(BACKOFF_MAX_MS);
                wanted.keep_alive = keep_alive.lost(lost.silent, now()).duration();
                wanted.anew = oversize >= OVERSIZE;
                // A certificate or a password may be another by now; where it cannot be read, the old one is tried.
                if let Err(error) = connection.renew(&wanted) {
                    crate::warn!("{error}; the earlier one is tried");
                }
                None
            }
        };
        if let Some(incoming) = incoming
            && sender.send(incoming).await.is_err()
        {
            return;
        }
    }
}

/// What happens next; the end of the connection too where something was sent and nothing is heard for long.
async fn next(connection: &mut Connection, settled: bool) -> Result<Told, Lost> {
    if settled {
        return connection.next().await;
    }
    match tokio::time::timeout(Duration::from_secs(ACKNOWLEDGED_S), connection.next()).await {
        Ok(told) => told,
        Err(_) => Err(Lost {
            text: format!("no acknowledgement within {ACKNOWLEDGED_S} s"),
            silent: true,
            oversize: false,
        }),
    }
}

fn now() -> Mono {
    Mono(event::mono_ms())
}

/// A random number below `below`; 0 when the system gives no random bytes.
fn jitter(below: u64) -> u64 {
    use ring::rand::SecureRandom as _;
    let mut bytes = [0; 8];
    match ring::rand::SystemRandom::new().fill(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes) % below.max(1),
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mqtt(url: &str, insecure: bool) -> Mqtt {
        crate::types::read::toml(&format!("url='{url}'\ninsecure={insecure}")).unwrap()
    }

    #[test]
    fn plain_mqtt_goes_only_to_loopback_unless_allowed() {
        for (url, insecure, expected) in [
            ("mqtt://127.0.0.1:1884", false, Some(("127.0.0.1", 1884, false))),
            ("mqtt://localhost", false, Some(("localhost", 1883, false))),
            ("mqtt://[::1]:1", false, Some(("::1", 1, false))),
            ("mqtts://broker.example", false, Some(("broker.example", 8883, true))),
            ("mqtt://broker.example", true, Some(("broker.example", 1883, false))),
            ("mqtt://broker.example", false, None),
            ("mqtts://broker.example:x", false, None),
            ("mqtts://:1", false, None),
            ("mqtts://[::1]x", false, None),
        ] {
            let found = address(&mqtt(url, insecure)).ok();
            assert_eq!(found.as_ref().map(|(h, p, t)| (h.as_str(), *p, *t)), expected, "{url}");
        }
    }
}

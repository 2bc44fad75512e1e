//! One session with a broker: connects, connects again with back-off and jitter, hands over what arrives, sends what the
//! outbox holds. Correctness rests on retained documents; the broker's session is only a convenience.

use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnectReturnCode, Filter, LastWill, LastWillProperties, Packet, Publish, RetainForwardRule,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use tokio::sync::mpsc;

use super::outbox::{Message, Outbox};
use super::tls::{self, TlsError};
use crate::config::agent::Mqtt;
use crate::disk::durable;
use crate::types::bounds::DOCUMENT_BYTES;

/// Session expiry at the broker, seconds: 7 days.
const SESSION_EXPIRY_S: u32 = 7 * 86_400;
/// How long the broker holds the will back, seconds.
const WILL_DELAY_S: u32 = 30;
/// Unacknowledged messages in each direction.
const IN_FLIGHT: u16 = 8;
/// Requests that wait for the connection's task.
const REQUESTS: usize = 8;
/// Events that wait for the agent's loop.
const EVENTS: usize = 16;
/// Filters of one SUBSCRIBE.
const FILTERS: usize = 8;
/// First wait before a new connection, milliseconds; doubled up to [`BACKOFF_MAX_MS`].
const BACKOFF_MIN_MS: u64 = 500;
/// Longest wait before a new connection, milliseconds.
const BACKOFF_MAX_MS: u64 = 120_000;
/// Bytes of packets around a document: topic, properties.
const PACKET_SLACK: u32 = 4096;
/// Time for TCP, TLS and CONNACK, seconds.
const CONNECT_S: u64 = 20;

/// What arrives from the broker.
#[derive(Debug)]
pub enum Incoming {
    /// CONNACK; `present` when the broker kept the session.
    Connected {
        /// Whether the broker kept the session.
        present: bool,
    },
    /// A message. It is acknowledged with [`Session::done`].
    Message(Box<Delivery>),
    /// The connection ended; another try follows by itself.
    Disconnected {
        /// Why.
        error: String,
        /// After how many milliseconds the next try comes.
        retry_ms: u64,
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
    publish: Publish,
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
    client: AsyncClient,
    events: mpsc::Receiver<Incoming>,
    task: tokio::task::JoinHandle<()>,
    connected: bool,
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
    pub fn open(mqtt: &Mqtt, client_id: &str, will: &Message) -> Result<Session, SessionError> {
        let options = options(mqtt, client_id, will)?;
        let (client, eventloop) = AsyncClient::new(options, REQUESTS);
        let (sender, events) = mpsc::channel(EVENTS);
        let task = tokio::spawn(run(eventloop, sender));
        Ok(Session {
            client,
            events,
            task,
            connected: false,
        })
    }

    /// The next thing that happens. Cancel-safe.
    pub async fn next(&mut self) -> Incoming {
        match self.events.recv().await {
            Some(incoming) => {
                match incoming {
                    Incoming::Connected { .. } => self.connected = true,
                    Incoming::Disconnected { .. } => self.connected = false,
                    Incoming::Message(_) => {}
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

    /// Subscribes; the broker sends retained messages again with every call. False when there is no room for the
    /// request now.
    pub fn subscribe(&self, filters: &[String]) -> bool {
        filters.chunks(FILTERS).all(|chunk| {
            let filters = chunk.iter().map(|path| Filter {
                retain_forward_rule: RetainForwardRule::OnEverySubscribe,
                ..Filter::new(path.clone(), QoS::AtLeastOnce)
            });
            self.client.try_subscribe_many(filters.collect::<Vec<_>>()).is_ok()
        })
    }

    /// Subscribes to what is published from now on.
    pub fn subscribe_new(&self, path: &str) -> bool {
        let filter = Filter {
            retain_forward_rule: RetainForwardRule::Never,
            ..Filter::new(path.to_owned(), QoS::AtLeastOnce)
        };
        self.client.try_subscribe_many([filter]).is_ok()
    }

    /// Publishes what may be lost, when there is a connection with room for it.
    pub fn send_once(&self, topic: String, payload: Vec<u8>) -> bool {
        self.connected && self.client.try_publish(topic, QoS::AtMostOnce, false, payload).is_ok()
    }

    /// Acknowledges a message: what it asks for is on disk or refused.
    pub fn done(&self, delivery: &Delivery) {
        // A full request queue loses the acknowledgement; the broker then delivers again, and the document is known.
        let _ = self.client.try_ack(&delivery.publish);
    }

    /// Hands what waits in the outbox to the connection, as far as there is room.
    pub fn send(&self, outbox: &mut Outbox) {
        if self.connected {
            outbox.flush(|m| {
                self.client
                    .try_publish(m.topic.clone(), QoS::AtLeastOnce, m.retain, m.payload.clone())
                    .is_ok()
            });
        }
    }

    /// Says goodbye, so that the broker publishes no will, and waits shortly for the last messages to leave.
    pub async fn close(mut self) {
        if self.connected {
            let _ = self.client.try_disconnect();
            let _ = tokio::time::timeout(Duration::from_secs(2), async {
                while !matches!(self.next().await, Incoming::Disconnected { .. }) {}
            })
            .await;
        }
        self.task.abort();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn options(mqtt: &Mqtt, client_id: &str, will: &Message) -> Result<MqttOptions, SessionError> {
    let (host, port, tls) = address(mqtt)?;
    let mut options = MqttOptions::new(client_id, host, port);
    if tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls::client(mqtt)?)));
    }
    if let Some(name) = &mqtt.username {
        let password = match &mqtt.password_file {
            Some(path) => durable::read(path, 1024).map_err(|e| SessionError::Password(e.to_string()))?,
            None => Vec::new(),
        };
        let password = String::from_utf8_lossy(&password);
        options.set_credentials(name.clone(), password.trim_end_matches(['\n', '\r']));
    }
    let properties = LastWillProperties {
        delay_interval: Some(WILL_DELAY_S),
        payload_format_indicator: None,
        message_expiry_interval: None,
        content_type: None,
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
    };
    options
        .set_last_will(LastWill::new(
            will.topic.clone(),
            will.payload.clone(),
            QoS::AtLeastOnce,
            will.retain,
            Some(properties),
        ))
        .set_keep_alive(mqtt.keep_alive.duration())
        .set_clean_start(false)
        .set_connection_timeout(CONNECT_S)
        .set_session_expiry_interval(Some(SESSION_EXPIRY_S))
        .set_receive_maximum(Some(IN_FLIGHT))
        .set_max_packet_size(Some(DOCUMENT_BYTES as u32 + PACKET_SLACK))
        .set_manual_acks(true)
        .set_request_channel_capacity(REQUESTS)
        // Without this the client reserves slots for 65,535 messages, about 13 MB.
        .set_outgoing_inflight_upper_limit(IN_FLIGHT);
    let mut network = options.network_options();
    network.set_connection_timeout(CONNECT_S);
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    Ok(options)
}

/// Polls the connection for ever; ends when the session is dropped.
async fn run(mut eventloop: EventLoop, sender: mpsc::Sender<Incoming>) {
    let mut backoff = BACKOFF_MIN_MS;
    loop {
        let incoming = match eventloop.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(ack))) if ack.code == ConnectReturnCode::Success => {
                backoff = BACKOFF_MIN_MS;
                Some(Incoming::Connected {
                    present: ack.session_present,
                })
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => Some(Incoming::Message(Box::new(Delivery {
                topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                payload: publish.payload.to_vec(),
                retained: publish.retain,
                publish,
            }))),
            Ok(_) => None,
            Err(error) => {
                let retry_ms = backoff / 2 + jitter(backoff / 2);
                let error = describe(&error);
                if sender.send(Incoming::Disconnected { error, retry_ms }).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(retry_ms)).await;
                backoff = (backoff * 2).min(BACKOFF_MAX_MS);
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

fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::Timeout(_) => format!("no answer within {CONNECT_S} s"),
        ConnectionError::ConnectionRefused(code) => format!("the broker refuses: {code:?}"),
        other => other.to_string(),
    }
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

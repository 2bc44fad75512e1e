//! One face for both versions of MQTT: 5, and 3.1.1 where the settings ask for it. What version 5 adds (session expiry, a held back will, a
//! bound of packets that the broker knows) makes nothing correct that 3.1.1 leaves wrong.

use std::time::Duration;

use rumqttc::v5;
use rumqttc::v5::mqttbytes::v5 as five;
use rumqttc::{TlsConfiguration, Transport};

use super::outbox::Message;
use super::session::{SessionError, address};
use super::tls;
use crate::config::agent::{Mqtt, Version};
use crate::disk::durable;
use crate::types::bounds::DOCUMENT_BYTES;

/// Session expiry at the broker, seconds: 7 days.
const SESSION_EXPIRY_S: u32 = 7 * 86_400;
/// How long the broker holds the will back, seconds.
const WILL_DELAY_S: u32 = 30;
/// Unacknowledged messages in each direction.
const IN_FLIGHT: u16 = 8;
/// Unacknowledged messages from the broker to somebody who reads a whole fleet's.
const IN_FLIGHT_MANY: u16 = 128;
/// Requests that wait for the connection's task.
const REQUESTS: usize = 16;
/// Bytes of packets around a document: topic, properties.
const PACKET_SLACK: usize = 4096;
/// Time for TCP, TLS and CONNACK, seconds.
pub(super) const CONNECT_S: u64 = 20;

/// What a connection is made with.
#[derive(Clone)]
pub(super) struct Wanted {
    pub(super) mqtt: Mqtt,
    pub(super) client_id: String,
    pub(super) will: Option<Message>,
    pub(super) keep_alive: Duration,
    /// The broker forgets the session.
    pub(super) clean: bool,
    /// The broker forgets what it keeps for this client, and begins a new session.
    pub(super) anew: bool,
}

/// Where requests go.
pub(super) enum Client {
    Five(v5::AsyncClient),
    Three(rumqttc::AsyncClient),
}

/// A connection that is made again and again.
pub(super) enum Connection {
    Five(Box<v5::EventLoop>),
    Three(Box<rumqttc::EventLoop>),
}

/// A message that is not acknowledged yet.
#[derive(Debug)]
pub(super) enum Unacked {
    Five(five::Publish),
    Three(rumqttc::Publish),
}

/// What a connection tells.
pub(super) enum Told {
    Connected {
        present: bool,
    },
    Message {
        topic: String,
        payload: Vec<u8>,
        retained: bool,
        unacked: Box<Unacked>,
    },
    /// A request to subscribe was answered: the broker does not let us have so many of its filters.
    Subscribed(usize),
    /// The next message that was handed over has left under this number.
    Sent(u16),
    /// The message of this number has arrived.
    Acked(u16),
    Nothing,
}

/// Why a connection has ended.
pub(super) struct Lost {
    pub(super) text: String,
    /// Nothing was heard for too long: somebody on the way has forgotten the connection.
    pub(super) silent: bool,
    /// The broker sent more than fits.
    pub(super) oversize: bool,
}

/// Makes a client and its connection, which does nothing until it is polled.
pub(super) fn open(wanted: &Wanted) -> Result<(Client, Connection), SessionError> {
    Ok(match wanted.mqtt.version {
        Version::Five => {
            let (client, connection) = v5::AsyncClient::new(options_five(wanted)?, requests(wanted));
            (Client::Five(client), Connection::Five(Box::new(connection)))
        }
        Version::Three => {
            let (client, mut connection) = rumqttc::AsyncClient::new(options_three(wanted)?, requests(wanted));
            let mut network = rumqttc::NetworkOptions::new();
            network.set_connection_timeout(CONNECT_S);
            network.set_tcp_nodelay(true);
            connection.set_network_options(network);
            (Client::Three(client), Connection::Three(Box::new(connection)))
        }
    })
}

/// Host, port, transport, and the login.
type Basics = (String, u16, Option<Transport>, Option<(String, String)>);

fn basics(mqtt: &Mqtt) -> Result<Basics, SessionError> {
    let (host, port, tls) = address(mqtt)?;
    let transport = tls.then(|| tls::client(mqtt)).transpose()?;
    let transport = transport.map(|config| Transport::tls_with_config(TlsConfiguration::Rustls(config)));
    let login = match &mqtt.username {
        Some(name) => {
            let password = match &mqtt.password_file {
                Some(path) => durable::read(path, 1024).map_err(|e| SessionError::Password(e.to_string()))?,
                None => Vec::new(),
            };
            let password = String::from_utf8_lossy(&password);
            Some((name.clone(), password.trim_end_matches(['\n', '\r']).to_owned()))
        }
        None => None,
    };
    Ok((host, port, transport, login))
}

fn options_five(wanted: &Wanted) -> Result<v5::MqttOptions, SessionError> {
    let (host, port, transport, login) = basics(&wanted.mqtt)?;
    let mut options = v5::MqttOptions::new(wanted.client_id.clone(), host, port);
    if let Some(transport) = transport {
        options.set_transport(transport);
    }
    if let Some((name, password)) = login {
        options.set_credentials(name, password);
    }
    if let Some(will) = &wanted.will {
        let properties = five::LastWillProperties {
            delay_interval: Some(WILL_DELAY_S),
            payload_format_indicator: None,
            message_expiry_interval: None,
            content_type: None,
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
        };
        let (topic, payload) = (will.topic.clone(), will.payload.clone());
        let qos = v5::mqttbytes::QoS::AtLeastOnce;
        options.set_last_will(five::LastWill::new(topic, payload, qos, will.retain, Some(properties)));
    }
    options
        .set_keep_alive(wanted.keep_alive)
        .set_clean_start(wanted.clean || wanted.anew)
        .set_connection_timeout(CONNECT_S)
        .set_session_expiry_interval((!wanted.clean).then_some(SESSION_EXPIRY_S))
        .set_receive_maximum(Some(if wanted.clean { IN_FLIGHT_MANY } else { IN_FLIGHT }))
        .set_max_packet_size(Some((DOCUMENT_BYTES + PACKET_SLACK) as u32))
        .set_manual_acks(true)
        .set_request_channel_capacity(requests(wanted))
        // Without this the client reserves slots for 65,535 messages, about 13 MB.
        .set_outgoing_inflight_upper_limit(IN_FLIGHT);
    let mut network = options.network_options();
    network.set_connection_timeout(CONNECT_S);
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    Ok(options)
}

/// Room for the acknowledgement of each message in flight, and for something else.
fn requests(wanted: &Wanted) -> usize {
    match wanted.clean {
        true => REQUESTS + usize::from(IN_FLIGHT_MANY),
        false => REQUESTS,
    }
}

fn options_three(wanted: &Wanted) -> Result<rumqttc::MqttOptions, SessionError> {
    let (host, port, transport, login) = basics(&wanted.mqtt)?;
    let mut options = rumqttc::MqttOptions::new(wanted.client_id.clone(), host, port);
    if let Some(transport) = transport {
        options.set_transport(transport);
    }
    if let Some((name, password)) = login {
        options.set_credentials(name, password);
    }
    if let Some(will) = &wanted.will {
        let qos = rumqttc::QoS::AtLeastOnce;
        options.set_last_will(rumqttc::LastWill::new(
            will.topic.clone(),
            will.payload.clone(),
            qos,
            will.retain,
        ));
    }
    options
        .set_keep_alive(wanted.keep_alive)
        .set_clean_session(wanted.clean || wanted.anew)
        .set_max_packet_size(DOCUMENT_BYTES + PACKET_SLACK, DOCUMENT_BYTES + PACKET_SLACK)
        .set_manual_acks(true)
        .set_request_channel_capacity(requests(wanted))
        .set_inflight(IN_FLIGHT);
    Ok(options)
}

impl Client {
    /// Subscribes; false where there is no room for the request now. `stored`: what the broker retains is sent too, whether or not it was.
    pub(super) fn subscribe(&self, filters: &[String], stored: bool) -> bool {
        match self {
            Client::Five(client) => {
                let rule = if stored {
                    five::RetainForwardRule::OnEverySubscribe
                } else {
                    five::RetainForwardRule::Never
                };
                let filter = |path: &String| five::Filter {
                    retain_forward_rule: rule.clone(),
                    ..five::Filter::new(path.clone(), v5::mqttbytes::QoS::AtLeastOnce)
                };
                client.try_subscribe_many(filters.iter().map(filter)).is_ok()
            }
            Client::Three(client) => {
                let filter = |path: &String| rumqttc::SubscribeFilter::new(path.clone(), rumqttc::QoS::AtLeastOnce);
                client.try_subscribe_many(filters.iter().map(filter)).is_ok()
            }
        }
    }

    /// Publishes, with QoS 1 or 0; false where there is no room for it now.
    pub(super) fn publish(&self, message: &Message, sure: bool) -> bool {
        let (topic, payload) = (message.topic.clone(), message.payload.clone());
        match self {
            Client::Five(client) => {
                use v5::mqttbytes::QoS;
                let qos = if sure { QoS::AtLeastOnce } else { QoS::AtMostOnce };
                client.try_publish(topic, qos, message.retain, payload).is_ok()
            }
            Client::Three(client) => {
                use rumqttc::QoS;
                let qos = if sure { QoS::AtLeastOnce } else { QoS::AtMostOnce };
                client.try_publish(topic, qos, message.retain, payload).is_ok()
            }
        }
    }

    /// Acknowledges a message; false when there is no room for that now.
    pub(super) fn acknowledge(&self, message: &Unacked) -> bool {
        match (self, message) {
            (Client::Five(client), Unacked::Five(publish)) => client.try_ack(publish).is_ok(),
            (Client::Three(client), Unacked::Three(publish)) => client.try_ack(publish).is_ok(),
            _ => true,
        }
    }

    /// Says goodbye.
    pub(super) fn disconnect(&self) {
        match self {
            Client::Five(client) => drop(client.try_disconnect()),
            Client::Three(client) => drop(client.try_disconnect()),
        }
    }
}

impl Connection {
    /// What happens next; connects where there is no connection.
    pub(super) async fn next(&mut self) -> Result<Told, Lost> {
        match self {
            Connection::Five(connection) => match connection.poll().await {
                Ok(v5::Event::Incoming(packet)) => Ok(told_five(packet)),
                Ok(v5::Event::Outgoing(went)) => Ok(told_out(&went)),
                Err(error) => Err(lost_five(&error)),
            },
            Connection::Three(connection) => match connection.poll().await {
                Ok(rumqttc::Event::Incoming(packet)) => Ok(told_three(packet)),
                Ok(rumqttc::Event::Outgoing(went)) => Ok(told_out(&went)),
                Err(error) => Err(lost_three(&error)),
            },
        }
    }

    /// Ends the connection where there is one. What it had not sent is forgotten: whoever handed it over does so again.
    pub(super) fn reset(&mut self) {
        match self {
            Connection::Five(connection) => {
                connection.clean();
                connection.pending.clear();
                connection.state.collision = None;
            }
            Connection::Three(connection) => {
                connection.clean();
                connection.pending.clear();
                connection.state.collision = None;
            }
        }
    }

    /// The next connection is made with this: files of certificates, keys and passwords are read again.
    pub(super) fn renew(&mut self, wanted: &Wanted) -> Result<(), SessionError> {
        match self {
            Connection::Five(connection) => connection.options = options_five(wanted)?,
            Connection::Three(connection) => connection.mqtt_options = options_three(wanted)?,
        }
        Ok(())
    }
}

fn told_five(packet: five::Packet) -> Told {
    match packet {
        five::Packet::ConnAck(ack) if ack.code == five::ConnectReturnCode::Success => Told::Connected {
            present: ack.session_present,
        },
        five::Packet::SubAck(ack) => {
            let good = |code: &&five::SubscribeReasonCode| !matches!(code, five::SubscribeReasonCode::Success(_));
            Told::Subscribed(ack.return_codes.iter().filter(good).count())
        }
        five::Packet::PubAck(ack) => Told::Acked(ack.pkid),
        five::Packet::Publish(publish) => Told::Message {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: publish.payload.to_vec(),
            retained: publish.retain,
            // Its number is enough: the rest would hold the whole read buffer.
            unacked: Box::new(Unacked::Five(five::Publish {
                pkid: publish.pkid,
                qos: publish.qos,
                ..five::Publish::default()
            })),
        },
        _ => Told::Nothing,
    }
}

fn told_three(packet: rumqttc::Packet) -> Told {
    match packet {
        rumqttc::Packet::ConnAck(ack) if ack.code == rumqttc::ConnectReturnCode::Success => Told::Connected {
            present: ack.session_present,
        },
        rumqttc::Packet::SubAck(ack) => {
            let good = |code: &&rumqttc::SubscribeReasonCode| !matches!(code, rumqttc::SubscribeReasonCode::Success(_));
            Told::Subscribed(ack.return_codes.iter().filter(good).count())
        }
        rumqttc::Packet::PubAck(ack) => Told::Acked(ack.pkid),
        rumqttc::Packet::Publish(publish) => Told::Message {
            topic: publish.topic.clone(),
            payload: publish.payload.to_vec(),
            retained: publish.retain,
            unacked: {
                let mut slim = rumqttc::Publish::new("", publish.qos, Vec::new());
                slim.pkid = publish.pkid;
                Box::new(Unacked::Three(slim))
            },
        },
        _ => Told::Nothing,
    }
}

fn told_out(went: &rumqttc::Outgoing) -> Told {
    match went {
        rumqttc::Outgoing::Publish(number) if *number != 0 => Told::Sent(*number),
        _ => Told::Nothing,
    }
}

fn lost_five(error: &v5::ConnectionError) -> Lost {
    use v5::mqttbytes::Error;
    use v5::{ConnectionError, StateError};
    Lost {
        text: match error {
            ConnectionError::Timeout(_) => too_long(),
            ConnectionError::ConnectionRefused(code) => format!("the broker refuses: {code:?}"),
            other => other.to_string(),
        },
        silent: matches!(error, ConnectionError::MqttState(StateError::AwaitPingResp)),
        oversize: matches!(
            error,
            ConnectionError::MqttState(
                StateError::IncomingPacketTooLarge { .. }
                    | StateError::Deserialization(Error::PayloadSizeLimitExceeded { .. })
            )
        ),
    }
}

fn lost_three(error: &rumqttc::ConnectionError) -> Lost {
    use rumqttc::mqttbytes::Error;
    use rumqttc::{ConnectionError, StateError};
    Lost {
        text: match error {
            ConnectionError::NetworkTimeout => too_long(),
            ConnectionError::ConnectionRefused(code) => format!("the broker refuses: {code:?}"),
            other => other.to_string(),
        },
        silent: matches!(error, ConnectionError::MqttState(StateError::AwaitPingResp)),
        oversize: matches!(
            error,
            ConnectionError::MqttState(StateError::Deserialization(Error::PayloadSizeLimitExceeded(_)))
        ),
    }
}

fn too_long() -> String {
    format!("no answer within {CONNECT_S} s")
}

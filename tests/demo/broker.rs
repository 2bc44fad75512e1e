//! An MQTT broker inside the demo, and the operator's connection to it.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{Client, Event, MqttOptions};
use rumqttd::{Broker, Config};

/// Starts a broker on a free loopback port; it ends with the process.
pub fn start() -> Result<SocketAddr, String> {
    let address = free_port().map_err(|e| format!("find a port: {e}"))?;
    let config = json_config(address);
    let config: Config = serde_json::from_value(config).map_err(|e| format!("configure the broker: {e}"))?;
    std::thread::spawn(move || {
        if let Err(error) = Broker::new(config).start() {
            eprintln!("broker: {error}");
        }
    });
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(address).is_err() {
        if Instant::now() > deadline {
            return Err("the broker does not listen".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(address)
}

fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

fn json_config(address: SocketAddr) -> serde_json::Value {
    serde_json::json!({
        "id": 0,
        "router": {
            "id": 0, "max_connections": 16, "max_outgoing_packet_count": 200,
            "max_segment_size": 1_048_576, "max_segment_count": 10,
        },
        "v5": {"1": {
            "name": "v5-1", "listen": address.to_string(), "next_connection_delay_ms": 1,
            "connections": {
                "connection_timeout_ms": 60000, "max_payload_size": 262_144, "max_inflight_count": 100,
                "dynamic_filters": true,
            },
        }},
    })
}

/// The operator: publishes retained documents and hears what the device says.
pub struct Operator {
    client: Client,
    heard: Receiver<(String, Vec<u8>)>,
}

impl Operator {
    /// Connects and subscribes to everything of one device.
    pub fn connect(broker: SocketAddr, device: &str) -> Result<Operator, String> {
        let mut options = MqttOptions::new("operator", broker.ip().to_string(), broker.port());
        options.set_keep_alive(Duration::from_secs(30));
        options.set_outgoing_inflight_upper_limit(8);
        let (client, mut connection) = Client::new(options, 16);
        let (sender, heard): (Sender<(String, Vec<u8>)>, _) = channel();
        std::thread::spawn(move || {
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                        if sender.send((topic, publish.payload.to_vec())).is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(_) => std::thread::sleep(Duration::from_millis(200)),
                }
            }
        });
        client
            .subscribe(format!("dunlin/v1/d/{device}/#"), QoS::AtLeastOnce)
            .map_err(|e| e.to_string())?;
        Ok(Operator { client, heard })
    }

    /// Publishes a retained document.
    pub fn publish(&self, topic: &str, payload: Vec<u8>) -> Result<(), String> {
        self.client
            .publish(topic, QoS::AtLeastOnce, true, payload)
            .map_err(|e| e.to_string())
    }

    /// The next message of the device; `None` when none comes in time.
    pub fn next(&self, wait: Duration) -> Option<(String, Vec<u8>)> {
        self.heard.recv_timeout(wait).ok()
    }
}

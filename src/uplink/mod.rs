//! The way to the operator: MQTT topics, signed envelopes, one session with a broker, an outbox that never grows.

pub mod dsse;
mod keepalive;
pub mod outbox;
pub mod seal;
pub mod session;
pub mod tls;
pub mod topics;
mod wire;

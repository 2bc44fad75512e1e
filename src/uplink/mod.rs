//! The way to the operator: MQTT topics, signed envelopes, one session with a broker, an outbox that never grows.

pub mod compact;
pub mod dsse;
mod flight;
mod keepalive;
pub mod outbox;
pub mod seal;
pub mod session;
pub mod tls;
pub mod topics;
mod wire;

/// A document's one form as JSON.
pub fn json(document: &impl serde::Serialize) -> Vec<u8> {
    // None of the documents can fail to be written: no maps with other keys than text.
    serde_json::to_vec(document).unwrap_or_default()
}

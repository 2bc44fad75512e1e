//! Signs documents for devices.

use crate::types::base64;
use crate::types::document::{Command, Desired};
use crate::uplink::dsse::{self, KeyError, Kind, SigningKey};

/// A desired state in an envelope that all `keys` have signed.
pub fn desired(document: &Desired, keys: &[SigningKey]) -> Result<Vec<u8>, KeyError> {
    sign(Kind::Desired, document, keys)
}

/// A command in an envelope that all `keys` have signed.
pub fn command(document: &Command, keys: &[SigningKey]) -> Result<Vec<u8>, KeyError> {
    sign(Kind::Command, document, keys)
}

fn sign(kind: Kind, document: &impl serde::Serialize, keys: &[SigningKey]) -> Result<Vec<u8>, KeyError> {
    let json = |e: serde_json::Error| KeyError {
        id: String::new(),
        text: e.to_string(),
    };
    let mut envelope = dsse::wrap(kind, &serde_json::to_vec(document).map_err(json)?);
    for key in keys {
        key.sign(&mut envelope)?;
    }
    serde_json::to_vec(&envelope).map_err(json)
}

/// The line of `agent.toml` that makes a device trust this key.
pub fn public_toml(key: &SigningKey) -> String {
    let public = key.public();
    format!(
        "[[fleet.keys]]\nid = \"{}\"\npublic = \"{}\"\n",
        public.id,
        base64::encode(&public.bytes)
    )
}

//! Secrets for a device: sealed so that only it can open them, bound to its name, theirs and their number.

use super::{FleetError, Operator, Target, numbers, sign};
use crate::types::base64;
use crate::types::bounds::SECRET_BYTES;
use crate::types::document::Secret;
use crate::types::text::is_name;
use crate::uplink::dsse::Kind;
use crate::uplink::seal;

/// What is to be put, or removed where there is no text.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// Device.
    pub device: &'a str,
    /// Its name there.
    pub name: &'a str,
    /// It is the credential of this registry.
    pub registry: Option<&'a str>,
    /// The secret itself.
    pub text: Option<&'a [u8]>,
}

/// The signed message. `key`: base64 of the key that the device has for this; `before`: generation of what is retained.
pub fn message(wish: &Wish, key: &str, before: u64, operator: &Operator) -> Result<Vec<u8>, FleetError> {
    if !is_name(wish.name) {
        let text = format!("`{}` is no name for a secret: [a-z0-9][a-z0-9_-]{{0,62}}", wish.name);
        return Err(FleetError::Invalid(text));
    }
    let now = numbers::now();
    let audience = Target::Device(wish.device.to_owned()).audience();
    let generation = numbers::next(now, [before]);
    let sealed = wish
        .text
        .map(|text| sealed(text, key, &seal::place(&audience, wish.name, generation)));
    let document = Secret {
        audience,
        generation,
        issued_at: now.rfc3339(),
        expires_at: None,
        min_agent: None,
        name: wish.name.to_owned(),
        registry: wish.registry.map(str::to_owned),
        sealed: sealed.transpose()?,
    };
    sign::message(Kind::Secret, &document, operator.encoding, &operator.keys)
}

fn sealed(text: &[u8], key: &str, place: &str) -> Result<String, FleetError> {
    if text.len() > SECRET_BYTES {
        return Err(FleetError::Invalid(format!(
            "the secret has {} bytes, at most {SECRET_BYTES} are kept",
            text.len()
        )));
    }
    let invalid = |text: &dyn std::fmt::Display| FleetError::Invalid(format!("the key of the device: {text}"));
    let key = base64::decode(key).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let key = key.ok_or_else(|| invalid(&"is not 32 bytes of base64"))?;
    let bytes = seal::seal(&key, numbers::random()?, seal::SECRET, place.as_bytes(), text);
    Ok(base64::encode(&bytes.map_err(|error| invalid(&error))?))
}

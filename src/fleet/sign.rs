//! Signs documents for devices; keys in files.

use std::path::Path;

use super::FleetError;
use crate::config::{self, ConfigError};
use crate::types::base64;
use crate::types::document::{Command, Desired, Envelope};
use crate::types::read;
use crate::uplink::dsse::{self, KeyError, Kind, SigningKey};
use crate::uplink::json;

/// A desired state in an envelope that all `keys` have signed.
pub fn desired(document: &Desired, keys: &[SigningKey]) -> Result<Vec<u8>, KeyError> {
    sign(Kind::Desired, &json(document), keys)
}

/// A command in an envelope that all `keys` have signed.
pub fn command(document: &Command, keys: &[SigningKey]) -> Result<Vec<u8>, KeyError> {
    sign(Kind::Command, &json(document), keys)
}

/// A document in an envelope that all `keys` have signed; the bare document where there are none.
pub fn sign(kind: Kind, document: &[u8], keys: &[SigningKey]) -> Result<Vec<u8>, KeyError> {
    if keys.is_empty() {
        return Ok(document.to_vec());
    }
    add(dsse::wrap(kind, document), keys)
}

/// An envelope with the signatures of `keys` added; a key that has signed already signs no second time.
fn add(mut envelope: Envelope, keys: &[SigningKey]) -> Result<Vec<u8>, KeyError> {
    for key in keys {
        let before = envelope.signatures.len();
        key.sign(&mut envelope)?;
        let new = envelope.signatures.get(before).map(|one| one.sig.clone());
        if envelope.signatures[..before]
            .iter()
            .any(|one| Some(&one.sig) == new.as_ref())
        {
            envelope.signatures.truncate(before);
        }
    }
    Ok(json(&envelope))
}

/// Signs a document of this kind, or adds signatures to an envelope that holds one.
pub fn sign_or_add(kind: Kind, text: &[u8], keys: &[SigningKey]) -> Result<Vec<u8>, FleetError> {
    let invalid = |text: String| FleetError::Invalid(text);
    if keys.is_empty() {
        return Err(invalid(
            "no key signs: say --sign-key FILE or write `keys` in fleet.toml".into(),
        ));
    }
    let value = read::json_any(text).map_err(|e| invalid(format!("the document is not JSON: {e}")))?;
    if value["payloadType"].is_null() {
        // Bytes that are signed have no white space that an editor left.
        let compact = json(&value);
        return Ok(sign(kind, &compact, keys)?);
    }
    let envelope: Envelope = read::json(text).map_err(|e| invalid(format!("the envelope: {e}")))?;
    if envelope.payload_type != kind.payload_type() {
        return Err(invalid(format!(
            "the envelope holds `{}`, not `{}`; say --kind",
            envelope.payload_type,
            kind.payload_type()
        )));
    }
    Ok(add(envelope, keys)?)
}

/// The lines of `agent.toml` that make a device trust this key.
pub fn public_toml(key: &SigningKey) -> String {
    roles_toml(key, &[])
}

/// The lines of `agent.toml` that make a device trust this key for these roles; for all when there are none.
pub fn roles_toml(key: &SigningKey, roles: &[String]) -> String {
    let public = key.public();
    let mut text = format!(
        "[[fleet.keys]]\nid = \"{}\"\npublic = \"{}\"\n",
        public.id,
        base64::encode(&public.bytes)
    );
    if !roles.is_empty() {
        text += &format!("roles = [\"{}\"]\n", roles.join("\", \""));
    }
    text
}

/// What stands before the 32 bytes of an Ed25519 private key in PKCS#8 of version 1 (RFC 8410), which every program reads. Version 2 has
/// the same number of bytes there.
const PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// The private key as a PEM file: PKCS#8, its id before it.
pub fn pem(key: &SigningKey) -> String {
    let private = key.pkcs8().get(PKCS8.len()..PKCS8.len() + 32).unwrap_or_default();
    let digits = base64::encode(&[&PKCS8[..], private].concat());
    let mut text = format!("id: {}\n-----BEGIN PRIVATE KEY-----\n", key.public().id);
    for line in digits.as_bytes().chunks(64) {
        text += &String::from_utf8_lossy(line);
        text.push('\n');
    }
    text + "-----END PRIVATE KEY-----\n"
}

/// The private key in a PEM file. Its id stands before it; else the file's name is its id.
pub fn load(path: &Path) -> Result<SigningKey, FleetError> {
    let text = config::read_text(path)?;
    let invalid = |text: &str| FleetError::Config(ConfigError::invalid(path, text));
    let (head, rest) = text
        .split_once("-----BEGIN PRIVATE KEY-----")
        .ok_or_else(|| invalid("holds no private key in PEM (PKCS#8); make one with `dunlin fleet keygen`"))?;
    let digits: String = rest
        .lines()
        .take_while(|line| !line.starts_with('-'))
        .map(str::trim)
        .collect();
    let der = base64::decode(&digits).ok_or_else(|| invalid("its private key is not base64"))?;
    let named = head.lines().find_map(|line| line.strip_prefix("id:"));
    let id = match named {
        Some(id) => id.trim().to_owned(),
        None => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
    };
    Ok(SigningKey::from_pkcs8(&id, &der)?)
}

/// The kind of document that a word names.
pub fn kind(word: &str) -> Option<Kind> {
    let kinds = [
        Kind::Keys,
        Kind::Assign,
        Kind::Desired,
        Kind::Secret,
        Kind::Command,
        Kind::Agent,
    ];
    kinds
        .into_iter()
        .find(|kind| kind.payload_type().split('.').nth(2) == Some(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uplink::dsse::Trusted;

    #[test]
    fn a_file_passed_round_reaches_the_threshold() {
        let keys = ["a", "b"].map(|id| SigningKey::generate(id).unwrap());
        let trusted = Trusted {
            keys: keys.iter().map(SigningKey::public).collect(),
            threshold: 2,
            ..Trusted::default()
        };
        let document = b"{ \"audience\": \"*\" }\n";
        let once = sign_or_add(Kind::Desired, document, &keys[..1]).unwrap();
        assert!(dsse::open(&once, Kind::Desired, &trusted).is_err());
        let again = sign_or_add(Kind::Desired, &once, &keys[..1]).unwrap();
        assert_eq!(once, again, "one key counts once");
        let twice = sign_or_add(Kind::Desired, &again, &keys[1..]).unwrap();
        assert_eq!(
            dsse::open(&twice, Kind::Desired, &trusted).unwrap(),
            b"{\"audience\":\"*\"}"
        );
        assert!(sign_or_add(Kind::Command, &once, &keys).is_err(), "another kind");
        assert!(sign_or_add(Kind::Desired, b"x", &keys).is_err());
        assert!(sign_or_add(Kind::Desired, document, &[]).is_err());
    }

    #[test]
    fn keys_come_back_from_their_files() {
        let key = SigningKey::generate("operator-1").unwrap();
        let path = std::env::temp_dir().join(format!("dunlin-sign-{}.pem", std::process::id()));
        std::fs::write(&path, pem(&key)).unwrap();
        let back = load(&path).unwrap();
        std::fs::write(&path, pem(&key).split_once('\n').unwrap().1).unwrap();
        let unnamed = load(&path).unwrap();
        std::fs::write(&path, "-----BEGIN PRIVATE KEY-----\nx y\n").unwrap();
        let bad = load(&path);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(back.public(), key.public());
        assert_eq!(unnamed.public().bytes, key.public().bytes);
        assert!(unnamed.public().id.starts_with("dunlin-sign-"));
        assert!(bad.is_err());
    }

    #[test]
    fn kinds_have_words() {
        for word in ["keys", "assign", "desired", "secret", "command", "agent"] {
            let kind = kind(word).unwrap();
            assert_eq!(kind.payload_type(), format!("application/vnd.dunlin.{word}.v1+json"));
        }
        assert_eq!(kind("v1+json"), None);
    }
}

//! Signed envelopes: DSSE with Ed25519 (PROTOCOL.md, Envelope; DSSE protocol v1.0.0).

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use crate::types::base64;
use crate::types::bounds::{DOCUMENT_BYTES, SIGNATURES};
use crate::types::document::{Encoding, Envelope, Signature};
use crate::types::keys::{Key, Thresholds};
use crate::types::read;

use super::compact;

/// A kind of document, as in `application/vnd.dunlin.KIND.v1+json` (or `+postcard`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Keys.
    Keys,
    /// Groups, labels, time zone.
    Assign,
    /// Desired state.
    Desired,
    /// Secret.
    Secret,
    /// Command.
    Command,
    /// Release of the agent.
    Agent,
    /// What a device can do; from devices.
    Caps,
    /// What it runs; from devices.
    Reported,
    /// How a deployment goes; from devices.
    Deploy,
    /// An answer to a command; from devices.
    Answer,
}

impl Kind {
    /// The payload type of its JSON form.
    pub const fn payload_type(self) -> &'static str {
        match self {
            Kind::Keys => "application/vnd.dunlin.keys.v1+json",
            Kind::Assign => "application/vnd.dunlin.assign.v1+json",
            Kind::Desired => "application/vnd.dunlin.desired.v1+json",
            Kind::Secret => "application/vnd.dunlin.secret.v1+json",
            Kind::Command => "application/vnd.dunlin.command.v1+json",
            Kind::Agent => "application/vnd.dunlin.agent.v1+json",
            Kind::Caps => "application/vnd.dunlin.caps.v1+json",
            Kind::Reported => "application/vnd.dunlin.reported.v1+json",
            Kind::Deploy => "application/vnd.dunlin.deploy.v1+json",
            Kind::Answer => "application/vnd.dunlin.answer.v1+json",
        }
    }

    /// How an envelope of this payload type is written, when it holds this kind of document.
    pub fn encoding(self, payload_type: &str) -> Option<Encoding> {
        let (own, found) = (self.payload_type().rsplit_once('+'), payload_type.rsplit_once('+'));
        let (_, word) = found.filter(|(stem, _)| own.is_some_and(|(own, _)| own == *stem))?;
        Encoding::parse(word)
    }

    /// The role whose keys sign it.
    pub const fn role(self) -> &'static str {
        match self {
            Kind::Keys => "root",
            Kind::Assign | Kind::Desired | Kind::Agent => "deploy",
            Kind::Secret => "secret",
            Kind::Command => "command",
            Kind::Caps | Kind::Reported | Kind::Deploy | Kind::Answer => "device",
        }
    }
}

/// A public key that may sign documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Hint in envelopes.
    pub id: String,
    /// Ed25519.
    pub bytes: [u8; 32],
    /// Roles; empty means every role but root.
    pub roles: Vec<String>,
}

impl PublicKey {
    /// Whether documents of this kind may bear its signature.
    pub fn may_sign(&self, kind: Kind) -> bool {
        if self.roles.is_empty() {
            !matches!(kind.role(), "root" | "device")
        } else {
            self.roles.iter().any(|r| r == kind.role())
        }
    }
}

/// The keys that a device trusts, and how many signatures it wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trusted {
    /// None: unsigned documents are accepted.
    pub keys: Vec<PublicKey>,
    /// Distinct keys that must have signed; at least 1.
    pub threshold: usize,
    /// What is said of single roles.
    pub thresholds: Thresholds,
}

impl Trusted {
    /// From a set of keys as it is written; the error is the id of one that is none.
    pub fn new(keys: &[Key], threshold: u32, thresholds: &Thresholds) -> Result<Trusted, String> {
        let key = |key: &Key| {
            Ok(PublicKey {
                id: key.id.clone(),
                bytes: key.bytes().ok_or_else(|| key.id.clone())?,
                roles: key.roles.clone(),
            })
        };
        Ok(Trusted {
            keys: keys.iter().map(key).collect::<Result<_, String>>()?,
            threshold: threshold as usize,
            thresholds: thresholds.clone(),
        })
    }

    /// Signatures that a kind of document needs.
    pub fn needed(&self, kind: Kind) -> usize {
        let said = self.thresholds.of(kind.role()).map(|needed| needed as usize);
        let usual = if kind == Kind::Keys { 1 } else { self.threshold };
        said.unwrap_or(usual).max(1)
    }
}

/// Why an envelope is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Longer than the bound.
    #[error("document has {0} bytes, at most {DOCUMENT_BYTES} are accepted")]
    TooLarge(usize),
    /// No envelope where one is needed.
    #[error("document is not a signed envelope, and this device has fleet keys: {0}")]
    Unsigned(String),
    /// The envelope's parts are broken.
    #[error("envelope is malformed: {0}")]
    Malformed(&'static str),
    /// Its document is not in the form that it says.
    #[error("the document's compact form: {0}")]
    Compact(&'static str),
    /// Another kind of document than the topic's.
    #[error("envelope holds `{found}`, expected `{expected}`")]
    WrongType {
        /// What it holds.
        found: String,
        /// What the topic is for.
        expected: &'static str,
    },
    /// Too few good signatures.
    #[error("{good} of {needed} needed signatures are good ({total} present)")]
    Signatures {
        /// Distinct trusted keys whose signature is good.
        good: usize,
        /// The threshold.
        needed: usize,
        /// How many signatures there are.
        total: usize,
    },
}

/// Pre-authentication encoding: what is signed.
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

/// What an envelope holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// What was signed, as it is: two documents are the same when these are.
    pub bytes: Vec<u8>,
    /// How it is written.
    pub encoding: Encoding,
}

impl Payload {
    /// The document as JSON.
    pub fn into_json(self) -> Result<Vec<u8>, EnvelopeError> {
        match self.encoding {
            Encoding::Json => Ok(self.bytes),
            Encoding::Postcard => compact::to_json(&self.bytes).map_err(EnvelopeError::Compact),
        }
    }
}

/// The document inside `message` as JSON: checked against the trusted keys; where there are none, a bare JSON document or what an
/// envelope holds.
pub fn open(message: &[u8], kind: Kind, trusted: &Trusted) -> Result<Vec<u8>, EnvelopeError> {
    payload(message, kind, trusted)?.into_json()
}

/// The same as it was signed.
pub fn payload(message: &[u8], kind: Kind, trusted: &Trusted) -> Result<Payload, EnvelopeError> {
    if message.len() > DOCUMENT_BYTES {
        return Err(EnvelopeError::TooLarge(message.len()));
    }
    let envelope = if message.first() == Some(&compact::FORM) {
        compact::envelope(message).map_err(EnvelopeError::Malformed)?
    } else {
        match read::json::<Envelope>(message) {
            Ok(envelope) => envelope,
            Err(_) if trusted.keys.is_empty() => {
                return Ok(Payload {
                    bytes: message.to_vec(),
                    encoding: Encoding::Json,
                });
            }
            Err(error) => return Err(EnvelopeError::Unsigned(error.to_string())),
        }
    };
    let Some(encoding) = kind.encoding(&envelope.payload_type) else {
        let found = envelope.payload_type.chars().take(80).collect();
        return Err(EnvelopeError::WrongType {
            found,
            expected: kind.payload_type(),
        });
    };
    if envelope.signatures.len() > SIGNATURES {
        return Err(EnvelopeError::Malformed("too many signatures"));
    }
    let bytes = base64::decode(&envelope.payload).ok_or(EnvelopeError::Malformed("the payload is not base64"))?;
    let payload = Payload { bytes, encoding };
    if trusted.keys.is_empty() {
        return Ok(payload);
    }
    let signed = pae(&envelope.payload_type, &payload.bytes);
    let mut good: Vec<[u8; 32]> = Vec::new();
    for signature in &envelope.signatures {
        let Some(bytes) = base64::decode(&signature.sig).filter(|s| s.len() == 64) else {
            continue;
        };
        // The key id is a hint only: every key that may sign is tried.
        let signer = trusted
            .keys
            .iter()
            .filter(|k| k.may_sign(kind) && !good.contains(&k.bytes))
            .find(|k| {
                UnparsedPublicKey::new(&ED25519, &k.bytes)
                    .verify(&signed, &bytes)
                    .is_ok()
            });
        good.extend(signer.map(|k| k.bytes));
    }
    let needed = trusted.needed(kind);
    if good.len() < needed {
        return Err(EnvelopeError::Signatures {
            good: good.len(),
            needed,
            total: envelope.signatures.len(),
        });
    }
    Ok(payload)
}

/// A private key of an operator.
pub struct SigningKey {
    id: String,
    pair: Ed25519KeyPair,
    pkcs8: Vec<u8>,
}

/// A private key that cannot be used or made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key `{id}`: {text}")]
pub struct KeyError {
    /// Which.
    pub id: String,
    /// What is wrong.
    pub text: String,
}

impl SigningKey {
    /// A new key.
    pub fn generate(id: &str) -> Result<SigningKey, KeyError> {
        let document = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).map_err(|_| KeyError {
            id: id.into(),
            text: "the system gives no random bytes".into(),
        })?;
        SigningKey::from_pkcs8(id, document.as_ref())
    }

    /// The key in a PKCS#8 document (DER).
    pub fn from_pkcs8(id: &str, der: &[u8]) -> Result<SigningKey, KeyError> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|e| KeyError {
            id: id.into(),
            text: format!("is not an Ed25519 key in PKCS#8: {e}"),
        })?;
        Ok(SigningKey {
            id: id.into(),
            pair,
            pkcs8: der.to_vec(),
        })
    }

    /// The key as PKCS#8 (DER), for a file with mode 0600.
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// Its public half, as a device's configuration names it.
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.pair.public_key().as_ref());
        PublicKey {
            id: self.id.clone(),
            bytes,
            roles: Vec::new(),
        }
    }

    /// Its signature over these bytes.
    pub fn sign_bytes(&self, bytes: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(bytes).as_ref());
        signature
    }

    /// Adds its signature to those of an envelope.
    pub fn sign(&self, envelope: &mut Envelope) -> Result<(), KeyError> {
        let payload = base64::decode(&envelope.payload).ok_or_else(|| KeyError {
            id: self.id.clone(),
            text: "the payload is not base64".into(),
        })?;
        let signature = self.sign_bytes(&pae(&envelope.payload_type, &payload));
        envelope.signatures.push(Signature {
            keyid: self.id.clone(),
            sig: base64::encode(&signature),
        });
        Ok(())
    }
}

/// An envelope around a document in JSON, without signatures yet.
pub fn wrap(kind: Kind, document: &[u8]) -> Envelope {
    Envelope {
        payload_type: kind.payload_type().into(),
        payload: base64::encode(document),
        signatures: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> SigningKey {
        SigningKey::generate(id).unwrap()
    }

    fn trust(keys: &[&SigningKey], threshold: usize) -> Trusted {
        Trusted {
            keys: keys.iter().map(|k| k.public()).collect(),
            threshold,
            ..Trusted::default()
        }
    }

    fn signed(kind: Kind, document: &[u8], keys: &[&SigningKey]) -> Vec<u8> {
        let mut envelope = wrap(kind, document);
        for key in keys {
            key.sign(&mut envelope).unwrap();
        }
        serde_json::to_vec(&envelope).unwrap()
    }

    #[test]
    fn the_specification_example_is_encoded_as_it_says() {
        let bytes = pae("http://example.com/HelloWorld", b"hello world");
        assert_eq!(bytes, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }

    #[test]
    fn only_documents_signed_by_trusted_keys_are_opened() {
        let (a, b, stranger) = (key("a"), key("b"), key("a"));
        let one = trust(&[&a, &b], 1);
        let two = trust(&[&a, &b], 2);
        let document = br#"{"audience":"*"}"#;
        assert_eq!(
            open(&signed(Kind::Desired, document, &[&a]), Kind::Desired, &one).unwrap(),
            document
        );
        assert_eq!(
            open(&signed(Kind::Desired, document, &[&a, &b]), Kind::Desired, &two).unwrap(),
            document
        );
        for (message, trusted) in [
            (signed(Kind::Desired, document, &[]), &one),
            (signed(Kind::Desired, document, &[&stranger]), &one),
            (signed(Kind::Desired, document, &[&a]), &two),
            (signed(Kind::Desired, document, &[&a, &a]), &two),
            (signed(Kind::Command, document, &[&a]), &one),
            (document.to_vec(), &one),
            (b"".to_vec(), &one),
            (vec![b' '; DOCUMENT_BYTES + 1], &one),
        ] {
            assert!(open(&message, Kind::Desired, trusted).is_err());
        }
    }

    #[test]
    fn a_changed_payload_is_refused() {
        let a = key("a");
        let mut envelope = wrap(Kind::Desired, b"{}");
        a.sign(&mut envelope).unwrap();
        envelope.payload = base64::encode(b"{ }");
        let message = serde_json::to_vec(&envelope).unwrap();
        let error = open(&message, Kind::Desired, &trust(&[&a], 1)).unwrap_err();
        assert_eq!(
            error,
            EnvelopeError::Signatures {
                good: 0,
                needed: 1,
                total: 1
            }
        );
    }

    #[test]
    fn roles_bind_keys_to_kinds() {
        let a = key("a");
        let mut trusted = trust(&[&a], 1);
        trusted.keys[0].roles = vec!["command".into()];
        assert!(open(&signed(Kind::Command, b"{}", &[&a]), Kind::Command, &trusted).is_ok());
        assert!(open(&signed(Kind::Desired, b"{}", &[&a]), Kind::Desired, &trusted).is_err());
    }

    /// The same in the form of bytes.
    fn as_bytes(envelope: &[u8]) -> Vec<u8> {
        compact::message(&read::json(envelope).unwrap()).unwrap()
    }

    #[test]
    fn either_form_of_envelope_holds_either_form_of_document() {
        let (a, b) = (key("a"), key("b"));
        let trusted = trust(&[&a, &b], 2);
        let document = serde_json::json!({"audience": "*"});
        for (payload_type, payload) in [
            (
                "application/vnd.dunlin.desired.v1+json",
                document.to_string().into_bytes(),
            ),
            (
                "application/vnd.dunlin.desired.v1+postcard",
                compact::document(&document),
            ),
        ] {
            let mut envelope = wrap(Kind::Desired, &payload);
            envelope.payload_type = payload_type.into();
            a.sign(&mut envelope).unwrap();
            let once = serde_json::to_vec(&envelope).unwrap();
            b.sign(&mut envelope).unwrap();
            let twice = serde_json::to_vec(&envelope).unwrap();
            for message in [twice.clone(), as_bytes(&twice)] {
                assert_eq!(
                    open(&message, Kind::Desired, &trusted).unwrap(),
                    document.to_string().as_bytes()
                );
                assert_eq!(
                    super::payload(&message, Kind::Desired, &trusted).unwrap().bytes,
                    payload
                );
                let wrong = open(&message, Kind::Command, &trusted).unwrap_err();
                assert!(matches!(wrong, EnvelopeError::WrongType { .. }), "{wrong}");
            }
            let error = open(&as_bytes(&once), Kind::Desired, &trusted).unwrap_err();
            assert!(matches!(error, EnvelopeError::Signatures { good: 1, .. }), "{error}");
            // What is signed is also how it is written.
            for other in ["json", "postcard", "toml", ""] {
                let mut moved = envelope.clone();
                moved.payload_type = format!("application/vnd.dunlin.desired.v1+{other}");
                if moved.payload_type != payload_type {
                    let message = compact::message(&moved).unwrap();
                    assert!(open(&message, Kind::Desired, &trusted).is_err(), "{other}");
                }
            }
        }
    }

    #[test]
    fn the_compact_form_needs_an_envelope_also_without_keys() {
        let none = Trusted::default();
        let payload = compact::document(&serde_json::json!({"audience": "*"}));
        let mut envelope = wrap(Kind::Desired, &payload);
        envelope.payload_type = "application/vnd.dunlin.desired.v1+postcard".into();
        let message = compact::message(&envelope).unwrap();
        assert_eq!(open(&message, Kind::Desired, &none).unwrap(), br#"{"audience":"*"}"#);
        let bare = [&[compact::FORM], &payload[..]].concat();
        for (what, message, expected) in [
            ("a bare one", bare.clone(), EnvelopeError::Malformed("it is cut off")),
            (
                "a short one",
                message[..message.len() - 1].to_vec(),
                EnvelopeError::Malformed("it is cut off"),
            ),
        ] {
            for trusted in [&none, &trust(&[&key("a")], 1)] {
                assert_eq!(open(&message, Kind::Desired, trusted), Err(expected.clone()), "{what}");
            }
        }
        // As bare JSON it is no JSON either: the readers refuse it.
        assert!(read::json_any(&open(&payload, Kind::Desired, &none).unwrap()).is_err());
        envelope.payload = base64::encode(b"{}");
        let error = open(&compact::message(&envelope).unwrap(), Kind::Desired, &none).unwrap_err();
        assert!(matches!(error, EnvelopeError::Compact(_)), "{error}");
        let large = vec![compact::FORM; DOCUMENT_BYTES + 1];
        assert_eq!(
            open(&large, Kind::Desired, &none),
            Err(EnvelopeError::TooLarge(large.len()))
        );
    }

    #[test]
    fn without_keys_bare_documents_are_accepted() {
        assert_eq!(open(b"{}", Kind::Desired, &Trusted::default()).unwrap(), b"{}");
        let a = key("a");
        assert_eq!(
            open(&signed(Kind::Desired, b"{}", &[&a]), Kind::Desired, &Trusted::default()).unwrap(),
            b"{}"
        );
    }
}

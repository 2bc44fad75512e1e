//! The fleet's keys in force: those of the settings until a key document replaces them (PROTOCOL.md, "Keys").

use std::path::Path;

use crate::disk::DiskError;
use crate::disk::doubled::{self, Doubled, Found};
use crate::disk::record::kinds;
use crate::types::document::Preamble;
use crate::types::keys::{self, Keys};
use crate::types::read;
use crate::types::time::Unix;
use crate::uplink::dsse::{self, Kind, Trusted};

/// The last key document that counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Kept {
    version: u64,
    /// JSON.
    document: String,
}

impl doubled::Body for Kept {
    const KIND: u16 = kinds::KEYS;
}

/// The keys in force.
pub(super) struct Ring {
    version: u64,
    trusted: Trusted,
    /// Those of the settings.
    first: (u64, Trusted),
    kept: Doubled<Kept>,
}

impl Ring {
    /// Loads what replaced the keys of the settings, whose version is `version`. The text says why nothing is to be accepted: what
    /// counted last cannot be read.
    pub(super) fn open(dir: &Path, trusted: Trusted, version: u64) -> Result<(Ring, Option<String>), DiskError> {
        let (kept, found) = Doubled::open(&dir.join("keys"))?;
        let mut ring = Ring {
            version,
            trusted: trusted.clone(),
            first: (version, trusted),
            kept,
        };
        let problem = match found {
            Found::Good(Kept {
                version: newer,
                document,
            }) if newer > version => match set_of(document.as_bytes()) {
                Ok(trusted) => {
                    (ring.version, ring.trusted) = (newer, trusted);
                    None
                }
                Err(text) => Some(format!("stored keys: {text}")),
            },
            Found::Good(_) | Found::Nothing => None,
            Found::Unreadable(text) => Some(text),
        };
        Ok((ring, problem))
    }

    /// Whose signatures count.
    pub(super) fn trusted(&self) -> &Trusted {
        &self.trusted
    }

    /// Their version.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// This device takes unsigned documents.
    pub(super) fn is_empty(&self) -> bool {
        self.trusted.keys.is_empty()
    }

    /// Whether an envelope says that it is the next version; what it says is not judged.
    pub(super) fn is_next(&self, message: &[u8]) -> bool {
        let payload = dsse::open(message, Kind::Keys, &Trusted::default());
        let preamble = payload.ok().and_then(|payload| read::json::<Preamble>(&payload).ok());
        // What cannot be read goes on to be refused.
        preamble.is_none_or(|preamble| preamble.generation == self.version + 1)
    }

    /// These count from now on: on disk when this returns.
    pub(super) fn replace(&mut self, version: u64, payload: Vec<u8>, trusted: Trusted) -> Result<(), DiskError> {
        let document = String::from_utf8_lossy(&payload).into_owned();
        self.kept.write(&Kept { version, document })?;
        (self.version, self.trusted) = (version, trusted);
        Ok(())
    }

    /// Those of the settings count again.
    pub(super) fn reset(&mut self) -> Result<(), DiskError> {
        self.kept.set_aside()?;
        (self.version, self.trusted) = self.first.clone();
        Ok(())
    }
}

/// The keys that a document names; it must leave somebody who can name the next ones.
pub(super) fn set_of(payload: &[u8]) -> Result<Trusted, String> {
    let document: Keys = read::json(payload).map_err(|error| error.to_string())?;
    let mut problems = keys::document_problems(&document, "keys");
    if Unix::parse_rfc3339(&document.issued_at).is_none() {
        problems.push("`issued_at` is not an RFC 3339 time".into());
    }
    if problems.is_empty() {
        Trusted::new(&document.keys, 1, &document.thresholds)
    } else {
        Err(problems.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::agent::intake::{Intake, Outcome};
    use crate::types::base64;
    use crate::types::deployment::Reason;
    use crate::uplink::dsse::{self, Kind, PublicKey, SigningKey, Trusted};

    fn key(key: &SigningKey, role: &str) -> Value {
        let public = key.public();
        json!({ "id": public.id, "public": base64::encode(&public.bytes), "roles": [role] })
    }

    fn document(version: u64, keys: &[Value], thresholds: Value) -> Value {
        json!({
            "audience": "*", "generation": version, "issued_at": "2026-11-21T22:00:00Z",
            "keys": keys, "thresholds": thresholds,
        })
    }

    fn signed(document: &Value, keys: &[&SigningKey]) -> Vec<u8> {
        let mut envelope = dsse::wrap(Kind::Keys, document.to_string().as_bytes());
        for key in keys {
            key.sign(&mut envelope).unwrap();
        }
        serde_json::to_vec(&envelope).unwrap()
    }

    fn role(key: &SigningKey, role: &str) -> PublicKey {
        PublicKey {
            roles: vec![role.into()],
            ..key.public()
        }
    }

    #[test]
    fn keys_follow_each_other_in_order_signed_by_both_sets_of_roots() {
        let dir = std::env::temp_dir().join(format!("dunlin-ring-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let new = |id: &str| SigningKey::generate(id).unwrap();
        let (r1, r2, r3, op1, op2) = (new("r1"), new("r2"), new("r3"), new("op1"), new("op2"));
        let first = Trusted {
            keys: vec![role(&r1, "root"), role(&op1, "deploy")],
            threshold: 1,
            ..Trusted::default()
        };
        let open = || Intake::open(&dir, "gw-1", first.clone(), 1).unwrap();
        let mut intake = open();
        let two = document(
            2,
            &[key(&r2, "root"), key(&r3, "root"), key(&op2, "deploy")],
            json!({"root": 2}),
        );
        let three = document(3, &[key(&r3, "root"), key(&op2, "deploy")], json!({}));
        let code = |outcome: Outcome| match outcome {
            Outcome::Refused(refusal) => refusal.cause.code,
            other => panic!("{other:?}"),
        };
        // Not by the old roots, not by the new ones, by one of two, by an operator, without a root, twice the same.
        for (message, expected) in [
            (signed(&two, &[&r2, &r3]), Reason::SigInvalid),
            (signed(&two, &[&r1]), Reason::SigInvalid),
            (signed(&two, &[&r1, &r2]), Reason::SigInvalid),
            (signed(&two, &[&r1, &r2, &r2]), Reason::SigInvalid),
            (signed(&two, &[&op1, &r2, &r3]), Reason::SigInvalid),
            (
                signed(&document(2, &[key(&op2, "deploy")], json!({})), &[&r1]),
                Reason::Schema,
            ),
            (
                signed(&document(2, &[key(&r2, "root")], json!({"root": 2})), &[&r1, &r2]),
                Reason::Schema,
            ),
            (two.to_string().into_bytes(), Reason::SigInvalid),
        ] {
            assert_eq!(code(intake.keys(&message).unwrap()), expected);
        }
        assert_eq!(intake.keys(b"").unwrap(), Outcome::Nothing);
        let third = signed(&three, &[&r2, &r3]);
        assert_eq!(intake.keys(&third).unwrap(), Outcome::Nothing, "not the next one yet");
        let second = signed(&two, &[&r1, &r2, &r3]);
        assert_eq!(intake.keys(&second).unwrap(), Outcome::Keys(2));
        assert_eq!(intake.keys(&second).unwrap(), Outcome::Nothing, "known");
        assert_eq!(intake.keys(&third).unwrap(), Outcome::Keys(3));
        let trusts =
            |intake: &Intake, one: &SigningKey| intake.trusted().keys.iter().any(|k| k.bytes == one.public().bytes);
        assert!(trusts(&intake, &op2) && !trusts(&intake, &op1) && !trusts(&intake, &r2));
        // Kept, also when one copy rots; not believed when both do; the settings' again after a reset.
        std::fs::write(dir.join("keys"), "rot").unwrap();
        let intake = open();
        assert!(intake.key_version() == 3 && trusts(&intake, &op2) && intake.distrust().is_none());
        std::fs::write(dir.join("keys.2"), "rot").unwrap();
        let mut intake = open();
        assert!(intake.distrust().is_some());
        assert_eq!(code(intake.keys(&second).unwrap()), Reason::Internal);
        intake.reset(None).unwrap();
        assert!(intake.key_version() == 1 && trusts(&open(), &op1));
        // A higher version in the settings comes before what was kept.
        let mut intake = open();
        intake.keys(&second).unwrap();
        assert_eq!(Intake::open(&dir, "gw-1", first.clone(), 2).unwrap().key_version(), 2);
        assert!(trusts(&Intake::open(&dir, "gw-1", first.clone(), 2).unwrap(), &op1));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

//! Signs documents for devices; keys in files.

use std::path::Path;

use serde_json::Value;

use super::FleetError;
use crate::config::{self, ConfigError};
use crate::types::base64;
use crate::types::document::{Command, Desired, Encoding, Envelope};
use crate::types::read;
use crate::uplink::dsse::{self, KeyError, Kind, SigningKey};
use crate::uplink::{compact, json};

/// A desired state in an envelope that all `keys` have signed.
pub fn desired(document: &Desired, keys: &[SigningKey]) -> Result<Vec<u8>, KeyError> {
    sign(Kind::Desired, &json(document), keys)
}

/// A command in an envelope that all `keys` have signed.
pub fn command(document: &Command, keys: &[SigningKey]) -> Result<Vec<u8>, KeyError> {
    sign(Kind::Command, &json(document), keys)
}

/// A document in JSON in an envelope that all `keys` have signed; the bare document where there are none.
pub fn sign(kind: Kind, document: &[u8], keys: &[SigningKey]) -> Result<Vec<u8>, KeyError> {
    if keys.is_empty() {
        return Ok(document.to_vec());
    }
    Ok(json(&add(dsse::wrap(kind, document), keys)?))
}

/// A document as it is published: in this form, signed by all `keys`. Where there are none, JSON is bare.
pub fn message(
    kind: Kind,
    document: &impl serde::Serialize,
    encoding: Encoding,
    keys: &[SigningKey],
) -> Result<Vec<u8>, FleetError> {
    if encoding == Encoding::Json {
        return Ok(sign(kind, &json(document), keys)?);
    }
    let value = serde_json::to_value(document).map_err(|e| FleetError::Invalid(e.to_string()))?;
    published(&add(wrap(kind, &value, encoding), keys)?)
}

/// An envelope in the form of the document that it holds: what devices take that take that document.
pub fn published(envelope: &Envelope) -> Result<Vec<u8>, FleetError> {
    if !is_compact(envelope) {
        return Ok(json(envelope));
    }
    compact::message(envelope).ok_or_else(|| FleetError::Invalid("the envelope is not base64".into()))
}

/// A message that was read from a file, as it is published.
pub fn ready(message: &[u8]) -> Result<Vec<u8>, FleetError> {
    match read::json::<Envelope>(message) {
        Ok(envelope) if is_compact(&envelope) => published(&envelope),
        _ => Ok(message.to_vec()),
    }
}

fn is_compact(envelope: &Envelope) -> bool {
    let word = envelope.payload_type.rsplit_once('+').map(|(_, word)| word);
    word == Some(Encoding::Postcard.word())
}

/// An envelope around a document, without signatures yet.
fn wrap(kind: Kind, value: &Value, encoding: Encoding) -> Envelope {
    match encoding {
        Encoding::Json => dsse::wrap(kind, &json(value)),
        Encoding::Postcard => Envelope {
            payload_type: kind.payload_type().replace("+json", "+postcard"),
            ..dsse::wrap(kind, &compact::document(value))
        },
    }
}

/// An envelope with the signatures of `keys` added; a key that has signed already signs no second time.
fn add(mut envelope: Envelope, keys: &[SigningKey]) -> Result<Envelope, KeyError> {
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
    Ok(envelope)
}

/// Signs a document of this kind, or adds signatures to an envelope that holds one. The envelope is text, whatever the form of what
/// it holds, so that it can be passed round.
pub fn sign_or_add(kind: Kind, text: &[u8], encoding: Encoding, keys: &[SigningKey]) -> Result<Vec<u8>, FleetError> {
    let invalid = |text: String| FleetError::Invalid(text);
    if keys.is_empty() {
        return Err(invalid(
            "no key signs: say --sign-key FILE or write `keys` in fleet.toml".into(),
        ));
    }
    let value = read::json_any(text).map_err(|e| invalid(format!("the document is not JSON: {e}")))?;
    if value["payloadType"].is_null() {
        // Bytes that are signed have no white space that an editor left.
        return Ok(json(&add(wrap(kind, &value, encoding), keys)?));
    }
    let envelope: Envelope = read::json(text).map_err(|e| invalid(format!("the envelope: {e}")))?;
    if kind.encoding(&envelope.payload_type).is_none() {
        return Err(invalid(format!(
            "the envelope holds `{}`, not `{}`; say --kind",
            envelope.payload_type,
            kind.payload_type()
        )));
    }
    Ok(json(&add(envelope, keys)?))
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
    use crate::fleet::Target;
    use crate::fleet::rollout::{self, Terms};
    use crate::types::app::App;
    use crate::types::digest::Digest;
    use crate::types::time::Unix;
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
        let once = sign_or_add(Kind::Desired, document, Encoding::Json, &keys[..1]).unwrap();
        assert!(dsse::open(&once, Kind::Desired, &trusted).is_err());
        let again = sign_or_add(Kind::Desired, &once, Encoding::Json, &keys[..1]).unwrap();
        assert_eq!(once, again, "one key counts once");
        let twice = sign_or_add(Kind::Desired, &again, Encoding::Json, &keys[1..]).unwrap();
        assert_eq!(
            dsse::open(&twice, Kind::Desired, &trusted).unwrap(),
            b"{\"audience\":\"*\"}"
        );
        assert!(
            sign_or_add(Kind::Command, &once, Encoding::Json, &keys).is_err(),
            "another kind"
        );
        assert!(sign_or_add(Kind::Desired, b"x", Encoding::Json, &keys).is_err());
        assert!(sign_or_add(Kind::Desired, document, Encoding::Json, &[]).is_err());
    }

    #[test]
    fn files_are_text_and_what_is_published_has_the_form_of_its_document() {
        let keys = ["a", "b"].map(|id| SigningKey::generate(id).unwrap());
        let trusted = Trusted {
            keys: keys.iter().map(SigningKey::public).collect(),
            threshold: 2,
            ..Trusted::default()
        };
        let document = br#"{"audience":"*","list":[1,-2,0.5]}"#;
        let once = sign_or_add(Kind::Desired, document, Encoding::Postcard, &keys[..1]).unwrap();
        let twice = sign_or_add(Kind::Desired, &once, Encoding::Json, &keys[1..]).unwrap();
        let published = ready(&twice).unwrap();
        assert!(twice.starts_with(b"{") && published.len() < twice.len());
        for message in [&twice, &published] {
            let payload = dsse::payload(message, Kind::Desired, &trusted).unwrap();
            assert_eq!(payload.encoding, Encoding::Postcard);
            assert_eq!(payload.into_json().unwrap(), document);
        }
        assert!(sign_or_add(Kind::Command, &once, Encoding::Postcard, &keys).is_err());
        assert_eq!(ready(b"{}").unwrap(), b"{}");
        // Without keys the compact form still has an envelope.
        let value: Value = serde_json::from_slice(document).unwrap();
        let unsigned = message(Kind::Desired, &value, Encoding::Postcard, &[]).unwrap();
        assert!(dsse::open(&unsigned, Kind::Desired, &trusted).is_err());
        assert_eq!(
            dsse::open(&unsigned, Kind::Desired, &Trusted::default()).unwrap(),
            document
        );
    }

    /// Prints what README's figures of documents are: `cargo test --lib compact_documents -- --nocapture`.
    #[test]
    fn compact_documents_are_half_as_large() {
        let web = include_str!("../../config/apps/web.toml");
        let db = "name='db'\nimage='x'\nvolumes=['db:/var/lib/postgresql/data']\nuser='999:999'\nsecrets=['db-password']\n\
                  [env]\nPOSTGRES_USER='app'\nPGDATA='/var/lib/postgresql/data/pg'\n[limits]\nmemory='256M'\ncpu='1'\npids=128\n\
                  [health]\nexec=['pg_isready','-q']\ninterval='15s'\n[update]\nsoak='10m'\nvolumes='keep'\n";
        let reader = "name='reader'\nimage='x'\ncommand=['/reader','--bus','/dev/ttyUSB0','--to','http://127.0.0.1:8080/in']\n\
                      network='host'\ndepends_on=['web']\n[limits]\nmemory='32M'\n[update]\nsoak='5m'\n";
        let key = SigningKey::generate("operator").unwrap();
        for count in [3, 10] {
            let mut apps = Vec::new();
            for at in 0..count {
                let mut app: App = read::toml([web, db, reader][at % 3]).unwrap();
                app.name += ["", "-2", "-3", "-4"][at / 3];
                app.image = format!("registry.example/team/{}@{}", app.name, Digest::of(&[at as u8]));
                apps.push(app);
            }
            let target = Target::Group("line-3".into());
            let document: Desired =
                read::json(br#"{"audience":"","generation":0,"activity":"","issued_at":""}"#).unwrap();
            let document = Desired { apps, ..document };
            let now = Unix(1_795_302_000_000);
            let document = rollout::begin(&target, document, &Terms::default(), None, now.seconds(), now).unwrap();
            let bytes = [Encoding::Json, Encoding::Postcard].map(|encoding| {
                let keys = std::slice::from_ref(&key);
                message(Kind::Desired, &document, encoding, keys).unwrap().len()
            });
            println!(
                "{count} apps, one signature: {} bytes as JSON, {} compact",
                bytes[0], bytes[1]
            );
            assert!(bytes[1] * 100 < bytes[0] * 52, "{bytes:?}");
        }
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

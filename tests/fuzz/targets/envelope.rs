//! Takes any bytes as an envelope of any kind, on a device without keys and on one with a key, and as a document in the compact form. The
//! first byte picks what they are. Nothing is read or written anywhere else: this one is fast.
#![no_main]

mod seeds;

use std::sync::OnceLock;

use dunlin::plan::order;
use dunlin::types::bounds::DOCUMENT_BYTES;
use dunlin::types::document::Command;
use dunlin::types::read;
use dunlin::uplink::compact;
use dunlin::uplink::dsse::{self, EnvelopeError, Kind, SigningKey, Trusted};
use libfuzzer_sys::fuzz_target;

/// The form as the crate `postcard` reads it, which takes some more.
#[derive(serde::Deserialize)]
struct Document {
    strings: Vec<String>,
    tokens: Vec<Token>,
}

#[derive(serde::Deserialize)]
#[allow(dead_code)]
enum Token {
    Null,
    False,
    True,
    Uint(u64),
    Int(i64),
    Float(f64),
    Text(u32),
    List(u32),
    Map(Vec<u32>),
}

const KINDS: [Kind; 10] = [
    Kind::Keys,
    Kind::Assign,
    Kind::Desired,
    Kind::Secret,
    Kind::Command,
    Kind::Agent,
    Kind::Caps,
    Kind::Reported,
    Kind::Deploy,
    Kind::Answer,
];

fn trusted() -> &'static Trusted {
    static TRUSTED: OnceLock<Trusted> = OnceLock::new();
    TRUSTED.get_or_init(|| {
        let mut key = SigningKey::generate("operator").expect("random numbers").public();
        key.roles = ["root", "deploy", "command", "secret", "device"]
            .map(str::to_owned)
            .to_vec();
        Trusted {
            keys: vec![key],
            threshold: 1,
            ..Trusted::default()
        }
    })
}

fuzz_target!(init: seeds::write("envelope"), |data: &[u8]| {
    let Some((first, message)) = data.split_first() else { return };
    let first = usize::from(*first);
    match KINDS.get(first % 16) {
        Some(kind) if first < 128 => unsigned(message, *kind),
        Some(kind) => {
            assert!(dsse::payload(message, *kind, trusted()).is_err(), "nobody has signed this");
        }
        None => document(message),
    }
});

/// A device without keys.
fn unsigned(message: &[u8], kind: Kind) {
    let payload = match dsse::payload(message, kind, &Trusted::default()) {
        Ok(payload) => payload,
        Err(error) => {
            assert!(error.to_string().len() < 4096);
            return;
        }
    };
    // Text is taken as it is, bytes are not.
    assert!(payload.bytes != message || message.first() != Some(&compact::FORM));
    // Another form of the envelope is the same.
    if let Ok(envelope) = read::json(message) {
        let bytes = compact::message(&envelope).map(|bytes| dsse::payload(&bytes, kind, &Trusted::default()));
        assert!(bytes.is_none_or(|again| again.as_ref() == Ok(&payload)));
    }
    match payload.into_json() {
        Ok(json) if kind == Kind::Command => {
            if let Ok(command) = read::json::<Command>(&json) {
                let _ = order::parse(&command.verb, &command.args);
            }
        }
        Ok(_) => {}
        Err(error) => assert!(matches!(error, EnvelopeError::Compact(_))),
    }
}

/// A document in the compact form.
fn document(payload: &[u8]) {
    let Ok(json) = compact::to_json(payload) else { return };
    assert!(json.len() <= DOCUMENT_BYTES);
    let theirs: Document = postcard::from_bytes(payload).expect("it is postcard");
    assert!(!theirs.tokens.is_empty() && theirs.strings.len() <= payload.len());
    // A key that is there twice is the one thing that the readers refuse.
    match read::json_any(&json) {
        Ok(value) => {
            let again = compact::to_json(&compact::document(&value)).expect("what was written");
            assert_eq!(again, serde_json::to_vec(&value).expect("JSON"));
        }
        Err(error) => assert!(error.problem.starts_with("duplicate field"), "{error}"),
    }
}

//! The compact form of documents and of the envelopes around them, for links where bytes cost. Both are postcard
//! (https://postcard.jamesmunns.com/wire-format): a number is a varint, least significant seven bits first (each in its one shortest
//! form); a text, a list, bytes are their length and what is in them; a variant is its number and its fields.
//!
//! A document, `payloadType` `application/vnd.dunlin.KIND.v1+postcard`, is any JSON value with each of its strings written once:
//!
//! ```text
//! struct Document {
//!     strings: Vec<String>,
//!     tokens: Vec<Token>, // one value, each list and object before what is in it
//! }
//! enum Token {
//!     Null,          // 0
//!     False,         // 1
//!     True,          // 2
//!     Uint(u64),     // 3
//!     Int(i64),      // 4, zigzag
//!     Float(f64),    // 5, eight bytes, little-endian; finite
//!     Text(u32),     // 6: which of the strings
//!     List(u32),     // 7: so many values follow
//!     Map(Vec<u32>), // 8: its keys, each one of the strings; as many values follow
//! }
//! ```
//!
//! A device makes JSON of it and reads that as it reads any document: what is refused in the one form is refused in the other. It is
//! another payload than the same document in JSON, and signed as such.
//!
//! An envelope is `(1u8, payloadType, payload, [(keyid, sig)])`. No JSON begins with its first byte. Signatures are those of DSSE,
//! so the form of an envelope may be changed by anybody; either form may hold a document in either.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde_json::Value;

use crate::types::base64;
use crate::types::bounds::{DOCUMENT_BYTES, DOCUMENT_DEPTH, SIGNATURES};
use crate::types::document::{Envelope, Signature};

/// The first byte of an envelope in this form.
pub const FORM: u8 = 1;

/// A document as JSON, at most [`DOCUMENT_BYTES`] of it. The error says what is wrong.
pub fn to_json(payload: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut reader = Reader(payload);
    let mut strings = Vec::new();
    for _ in 0..reader.varint()? {
        strings.push(reader.text()?);
    }
    let mut tokens = reader.varint()?;
    let mut json = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    let string = |json: &mut Vec<u8>, from: &mut Reader| {
        let index = usize::try_from(from.varint()?).ok();
        let text = index
            .and_then(|index| strings.get(index))
            .ok_or("it names a string that is not there")?;
        write(json, *text)
    };
    loop {
        tokens = tokens.checked_sub(1).ok_or(SHORT)?;
        if let Some(outer) = open.last_mut() {
            if !json.ends_with(b"[") && !json.ends_with(b"{") {
                json.push(b',');
            }
            outer.left -= 1;
            if let Some(keys) = &mut outer.keys {
                string(&mut json, keys)?;
                json.push(b':');
            }
        }
        match reader.varint()? {
            0 => json.extend(b"null"),
            1 => json.extend(b"false"),
            2 => json.extend(b"true"),
            3 => write(&mut json, &reader.varint()?)?,
            4 => {
                let number = reader.varint()?;
                write(&mut json, &((number >> 1) as i64 ^ -((number & 1) as i64)))?;
            }
            5 => {
                let number = f64::from_le_bytes(*reader.take(8)?.as_array().ok_or(SHORT)?);
                if !number.is_finite() {
                    return Err("it has a number that JSON has not");
                }
                write(&mut json, &number)?;
            }
            6 => string(&mut json, &mut reader)?,
            kind @ (7 | 8) => {
                let left = reader.varint()?;
                let keys = Reader(reader.0);
                if kind == 8 {
                    for _ in 0..left {
                        reader.varint()?;
                    }
                }
                if open.len() == DOCUMENT_DEPTH {
                    return Err("it is nested too deep");
                }
                json.push(if kind == 8 { b'{' } else { b'[' });
                let keys = (kind == 8).then_some(keys);
                open.push(Open { left, keys });
            }
            _ => return Err("it has a token that is not known"),
        }
        while let Some(whole) = open.pop_if(|open| open.left == 0) {
            json.push(if whole.keys.is_some() { b'}' } else { b']' });
        }
        if json.len() > DOCUMENT_BYTES {
            return Err("it is too large as JSON");
        }
        if open.is_empty() {
            break;
        }
    }
    if tokens > 0 { Err(MORE) } else { reader.end(json) }
}

/// An envelope as it would stand in JSON.
pub fn envelope(message: &[u8]) -> Result<Envelope, &'static str> {
    let mut reader = Reader(message);
    if reader.take(1)? != [FORM] {
        return Err("it is of another form");
    }
    let payload_type = reader.text()?.to_owned();
    let payload = base64::encode(reader.bytes()?);
    let mut signatures = Vec::new();
    for _ in 0..reader.varint()? {
        if signatures.len() == SIGNATURES {
            return Err("too many signatures");
        }
        signatures.push(Signature {
            keyid: reader.text()?.to_owned(),
            sig: base64::encode(reader.bytes()?),
        });
    }
    reader.end(Envelope {
        payload_type,
        payload,
        signatures,
    })
}

/// A document in the compact form, as operators make it.
pub fn document(value: &Value) -> Vec<u8> {
    let mut counts = BTreeMap::new();
    count(value, &mut counts);
    // Numbers below 128 take one byte: they are for what is there most often.
    let mut strings: Vec<(&str, usize)> = counts.into_iter().collect();
    strings.sort_by_key(|(_, times)| Reverse(*times));
    let mut bytes = Vec::new();
    varint(&mut bytes, strings.len() as u64);
    let mut indexes = BTreeMap::new();
    for (index, (text, _)) in strings.into_iter().enumerate() {
        put(&mut bytes, text.as_bytes());
        indexes.insert(text, index as u64);
    }
    let (mut tokens, mut number) = (Vec::new(), 0);
    token(value, &indexes, &mut tokens, &mut number);
    varint(&mut bytes, number);
    bytes.extend(tokens);
    bytes
}

/// An envelope in the compact form, as operators make it; `None` when something in it is not base64.
pub fn message(envelope: &Envelope) -> Option<Vec<u8>> {
    let mut bytes = vec![FORM];
    put(&mut bytes, envelope.payload_type.as_bytes());
    put(&mut bytes, &base64::decode(&envelope.payload)?);
    varint(&mut bytes, envelope.signatures.len() as u64);
    for signature in &envelope.signatures {
        put(&mut bytes, signature.keyid.as_bytes());
        put(&mut bytes, &base64::decode(&signature.sig)?);
    }
    Some(bytes)
}

const SHORT: &str = "it is cut off";
const MORE: &str = "something follows its end";

/// A list or an object that is not whole yet.
struct Open<'a> {
    /// Values that are still to come.
    left: u64,
    /// The keys that belong to them; a list has none.
    keys: Option<Reader<'a>>,
}

/// What is still to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: u64) -> Result<&'a [u8], &'static str> {
        let length = usize::try_from(length).map_err(|_| SHORT)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, &'static str> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(SHORT)?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            value |= bits << shift;
            if byte & 0x80 == 0 {
                // The last byte may not say nothing, nor more than there is room for.
                if (bits == 0 && shift > 0) || value >> shift != bits {
                    break;
                }
                return Ok(value);
            }
        }
        Err("it has a number that is not in its shortest form or too large")
    }

    fn bytes(&mut self) -> Result<&'a [u8], &'static str> {
        let length = self.varint()?;
        self.take(length)
    }

    fn text(&mut self) -> Result<&'a str, &'static str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| "it has a string that is not UTF-8")
    }

    fn end<T>(&self, whole: T) -> Result<T, &'static str> {
        if self.0.is_empty() { Ok(whole) } else { Err(MORE) }
    }
}

fn write<T: serde::Serialize + ?Sized>(json: &mut Vec<u8>, value: &T) -> Result<(), &'static str> {
    serde_json::to_writer(json, value).map_err(|_| "it cannot be written as JSON")
}

fn count<'a>(value: &'a Value, counts: &mut BTreeMap<&'a str, usize>) {
    match value {
        Value::String(text) => *counts.entry(text).or_default() += 1,
        Value::Array(items) => items.iter().for_each(|item| count(item, counts)),
        Value::Object(fields) => {
            for (key, item) in fields {
                *counts.entry(key).or_default() += 1;
                count(item, counts);
            }
        }
        _ => {}
    }
}

fn token(value: &Value, indexes: &BTreeMap<&str, u64>, bytes: &mut Vec<u8>, number: &mut u64) {
    let index = |text: &String| indexes.get(text.as_str()).copied().unwrap_or_default();
    *number += 1;
    match value {
        Value::Null => bytes.push(0),
        Value::Bool(yes) => bytes.push(1 + u8::from(*yes)),
        Value::Number(found) => match (found.as_u64(), found.as_i64()) {
            (Some(uint), _) => numbered(bytes, 3, uint),
            (_, Some(int)) => numbered(bytes, 4, ((int << 1) ^ (int >> 63)) as u64),
            _ => {
                bytes.push(5);
                bytes.extend(found.as_f64().unwrap_or_default().to_le_bytes());
            }
        },
        Value::String(text) => numbered(bytes, 6, index(text)),
        Value::Array(items) => {
            numbered(bytes, 7, items.len() as u64);
            items.iter().for_each(|item| token(item, indexes, bytes, number));
        }
        Value::Object(fields) => {
            numbered(bytes, 8, fields.len() as u64);
            fields.keys().for_each(|key| varint(bytes, index(key)));
            fields.values().for_each(|item| token(item, indexes, bytes, number));
        }
    }
}

fn numbered(bytes: &mut Vec<u8>, kind: u8, number: u64) {
    bytes.push(kind);
    varint(bytes, number);
}

fn varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn put(bytes: &mut Vec<u8>, content: &[u8]) {
    varint(bytes, content.len() as u64);
    bytes.extend(content);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The form as the crate `postcard` writes and reads it.
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Document {
        strings: Vec<String>,
        tokens: Vec<Token>,
    }

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
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

    use Token::*;

    fn bytes(strings: &[&str], tokens: Vec<Token>) -> Vec<u8> {
        let strings = strings.iter().map(|text| (*text).to_owned()).collect();
        postcard::to_stdvec(&Document { strings, tokens }).unwrap()
    }

    fn json(payload: &[u8]) -> Result<String, &'static str> {
        to_json(payload).map(|json| String::from_utf8(json).unwrap())
    }

    #[test]
    fn tokens_become_json() {
        for (strings, tokens, expected) in [
            (&[][..], vec![Null], "null"),
            (&[], vec![True], "true"),
            (&[], vec![Uint(u64::MAX)], "18446744073709551615"),
            (&[], vec![Int(i64::MIN)], "-9223372036854775808"),
            (&[], vec![Int(-1)], "-1"),
            (&[], vec![Int(5)], "5"),
            (&[], vec![Float(0.5)], "0.5"),
            (&[], vec![Float(5.0)], "5.0"),
            (&["a\"\\\n\u{1}ä"], vec![Text(0)], r#""a\"\\\n\u0001ä""#),
            (&[], vec![List(0)], "[]"),
            (&[], vec![Map(vec![])], "{}"),
            (&["["], vec![List(2), Text(0), Text(0)], r#"["[","["]"#),
            (
                &["a", "b", "{"],
                vec![
                    Map(vec![0, 1, 2]),
                    List(3),
                    Uint(1),
                    Map(vec![]),
                    List(1),
                    False,
                    Map(vec![1]),
                    Text(1),
                    Null,
                ],
                r#"{"a":[1,{},[false]],"b":{"b":"b"},"{":null}"#,
            ),
            // Twice is the readers' to refuse.
            (&["a"], vec![Map(vec![0, 0]), Null, Null], r#"{"a":null,"a":null}"#),
        ] {
            assert_eq!(json(&bytes(strings, tokens)).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn what_is_written_is_postcard() {
        let value = json!({
            "name": "web", "again": ["web", "web", "name"], "none": null, "yes": [true, false], "share": 12.5, "below": -7,
            "above": u64::MAX, "nothing": {}, "many": (0..300).map(|n| format!("s{n}")).collect::<Vec<_>>(),
        });
        let payload = document(&value);
        let parsed: Document = postcard::from_bytes(&payload).unwrap();
        assert_eq!(postcard::to_stdvec(&parsed).unwrap(), payload);
        assert_eq!(parsed.strings.iter().filter(|text| *text == "web").count(), 1);
        assert_eq!(
            serde_json::from_slice::<Value>(&to_json(&payload).unwrap()).unwrap(),
            value
        );
        let envelope = Envelope {
            payload_type: "t".into(),
            payload: base64::encode(&payload),
            signatures: vec![Signature {
                keyid: "k".into(),
                sig: base64::encode(&[7; 64]),
            }],
        };
        let message = message(&envelope).unwrap();
        let same = (FORM, "t", payload.as_slice(), vec![("k", &[7_u8; 64][..])]);
        assert_eq!(postcard::to_stdvec(&same).unwrap(), message);
        assert_eq!(super::envelope(&message).unwrap(), envelope);
    }

    #[test]
    fn hostile_documents_are_refused() {
        let whole = document(&json!({"a": [1, -2, 0.5, "b", {"a": true}]}));
        for length in 0..whole.len() {
            assert!(to_json(&whole[..length]).is_err(), "{length} bytes of it");
        }
        let mut longer = whole;
        longer.push(0);
        let large = "x".repeat(DOCUMENT_BYTES / 2);
        let repeat = |text: &str, times: u32| {
            let mut tokens = vec![List(times)];
            tokens.extend((0..times).map(|_| Text(0)));
            bytes(&[text], tokens)
        };
        let deep = |levels: usize| {
            let mut tokens: Vec<Token> = (0..levels).map(|_| List(1)).collect();
            tokens.push(Null);
            bytes(&[], tokens)
        };
        for (what, payload, needle) in [
            ("trailing byte", longer, MORE),
            ("second value", bytes(&[], vec![Null, Null]), MORE),
            ("no value", bytes(&[], vec![]), SHORT),
            ("no string", bytes(&["a"], vec![Text(1)]), "not there"),
            ("no key", bytes(&["a"], vec![Map(vec![7]), Null]), "not there"),
            ("few values", bytes(&["a"], vec![Map(vec![0])]), SHORT),
            ("huge list", bytes(&[], vec![List(u32::MAX), Null]), SHORT),
            ("huge count", [0xff; 9].iter().chain(&[1]).copied().collect(), SHORT),
            ("huge string", vec![1, 0xff, 0xff, 0xff, 0xff, 0x0f, 0], SHORT),
            ("huge map", vec![0, 1, 8, 0xff, 0xff, 0xff, 0xff, 0x0f, 0], SHORT),
            ("too long a number", vec![0x80, 0, 1, 0], "shortest"),
            (
                "too large a number",
                [&[0, 1, 3][..], &[0xff; 9], &[2]].concat(),
                "too large",
            ),
            ("endless number", [&[0, 1, 3][..], &[0xff; 30]].concat(), "too large"),
            ("another token", vec![0, 1, 9], "not known"),
            ("bytes", vec![1, 1, 0xff, 1, 6, 0], "UTF-8"),
            ("no number", bytes(&[], vec![Float(f64::NAN)]), "JSON has not"),
            ("endless", bytes(&[], vec![Float(f64::NEG_INFINITY)]), "JSON has not"),
            ("large", repeat(&large, 2), "too large as JSON"),
            ("larger", repeat(&large, 1000), "too large as JSON"),
            (
                "escaped",
                repeat(&"\u{1}".repeat(DOCUMENT_BYTES / 5), 1),
                "too large as JSON",
            ),
            ("deep", deep(DOCUMENT_DEPTH + 1), "too deep"),
            ("deeper", deep(60_000), "too deep"),
        ] {
            let error = to_json(&payload).expect_err(what);
            assert!(error.contains(needle), "{what}: {error}");
        }
        assert!(to_json(&deep(DOCUMENT_DEPTH)).is_ok());
        assert!(to_json(&repeat(&large[10..], 2)).is_ok());
    }

    #[test]
    fn hostile_envelopes_are_refused() {
        let envelope = |signatures: usize| Envelope {
            payload_type: "t".into(),
            payload: "AAAA".into(),
            signatures: vec![
                Signature {
                    keyid: "k".into(),
                    sig: "AAAA".into(),
                };
                signatures
            ],
        };
        let whole = message(&envelope(SIGNATURES)).unwrap();
        assert!(super::envelope(&whole).is_ok());
        for length in 0..whole.len() {
            assert!(super::envelope(&whole[..length]).is_err(), "{length} bytes of it");
        }
        let many = message(&envelope(SIGNATURES + 1)).unwrap();
        assert_eq!(super::envelope(&many), Err("too many signatures"));
        assert_eq!(super::envelope(&[&whole[..], &[0]].concat()), Err(MORE));
        assert_eq!(
            super::envelope(&[&[2], &whole[1..]].concat()),
            Err("it is of another form")
        );
        assert_eq!(super::envelope(b"{}"), Err("it is of another form"));
        assert!(super::envelope(&[FORM, 1, 0xff, 0, 0]).is_err(), "not UTF-8");
    }
}

//! What the broker's retained messages say about devices and groups. Whoever owns the broker may have written them: documents
//! count when their signatures are good, what devices say is shown as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::link::{Heard, Link};
use super::{Enrolled, FleetError, Target};
use crate::plan::wave;
use crate::types::base64;
use crate::types::document::{Desired, Encoding, Rollout};
use crate::types::read;
use crate::types::text::is_name;
use crate::uplink::compact;
use crate::uplink::dsse::{self, Kind, PublicKey, Trusted};

/// Silence that means that the last retained message has come.
const QUIET: Duration = Duration::from_millis(500);
/// Silence that means that there are none.
const NONE: Duration = Duration::from_millis(1500);
/// Devices that are kept; more is a broker that lies.
const DEVICES: usize = 200_000;
/// What devices say of themselves, and what was said to them.
pub const LEAVES: [&str; 6] = ["presence", "caps", "reported", "deploy", "assign", "desired"];

/// A document that is retained for devices.
#[derive(Debug, Clone, Default)]
pub struct Document {
    /// The message as it is.
    pub message: Vec<u8>,
    /// Its payload; null when it is no JSON.
    pub value: Value,
    /// How it is written; JSON where that cannot be believed.
    pub encoding: Encoding,
    /// Why its signatures are not good enough.
    pub distrust: Option<String>,
}

/// What is known of a device. Null is what never came.
#[derive(Debug, Clone, Default)]
pub struct Device {
    /// Whether it is there, and its session.
    pub presence: Value,
    /// What it can do.
    pub caps: Value,
    /// What it runs.
    pub reported: Value,
    /// Its current deployment.
    pub deploy: Value,
    /// Its groups and labels.
    pub assign: Option<Document>,
    /// Its own desired state.
    pub desired: Option<Document>,
    /// What it says without the signature that it is known to have: of `caps`, `reported`, `deploy`.
    pub unverified: BTreeSet<&'static str>,
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Whose signatures are known.
    pub enrolled: Enrolled,
    /// By name.
    pub devices: BTreeMap<String, Device>,
    /// Desired states by group.
    pub groups: BTreeMap<String, Document>,
}

impl Document {
    fn new(message: &[u8], kind: Kind, trusted: &Trusted) -> Option<Document> {
        // What is deleted says nothing.
        if message.is_empty() {
            return None;
        }
        let payload = dsse::payload(message, kind, trusted);
        let encoding = payload.as_ref().map(|payload| payload.encoding).unwrap_or_default();
        let opened = payload.and_then(dsse::Payload::into_json);
        let distrust = opened.as_ref().err().map(ToString::to_string);
        let value = match &opened {
            Ok(payload) => read::json_any(payload).unwrap_or_default(),
            Err(_) => bare(message),
        };
        Some(Document {
            message: message.to_vec(),
            value,
            encoding,
            distrust,
        })
    }

    /// What a device has said, as it is.
    pub fn said(message: &[u8]) -> Value {
        bare(message)
    }

    /// Its number; 0 where it has none.
    pub fn generation(&self) -> u64 {
        self.value["generation"].as_u64().unwrap_or(0)
    }

    /// The desired state in it, when it may be believed.
    pub fn desired(&self) -> Result<Desired, FleetError> {
        if let Some(text) = &self.distrust {
            return Err(FleetError::Invalid(format!(
                "the document that the broker has is not to be believed: {text}; name the other operators' keys in \
                 `fleet.keys` of fleet.toml"
            )));
        }
        read::json(self.value.to_string().as_bytes())
            .map_err(|e| FleetError::Invalid(format!("the document that the broker has cannot be read: {e}")))
    }
}

/// What enrolled devices sign.
fn signed(leaf: &str) -> Option<(&'static str, Kind)> {
    match leaf {
        "caps" => Some(("caps", Kind::Caps)),
        "reported" => Some(("reported", Kind::Reported)),
        "deploy" => Some(("deploy", Kind::Deploy)),
        _ => None,
    }
}

fn is_by(key: &[u8; 32], kind: Kind, message: &[u8]) -> bool {
    let device = PublicKey {
        id: String::new(),
        bytes: *key,
        roles: vec![kind.role().to_owned()],
    };
    let trusted = Trusted {
        keys: vec![device],
        threshold: 1,
        ..Trusted::default()
    };
    dsse::open(message, kind, &trusted).is_ok()
}

/// What a message says, in an envelope or bare, in either form, whoever signed it; null when it is no document.
fn bare(message: &[u8]) -> Value {
    let value = match compact::envelope(message) {
        Ok(envelope) => json!(envelope),
        Err(_) => read::json_any(message).unwrap_or_default(),
    };
    let (Some(payload_type), Some(text)) = (value["payloadType"].as_str(), value["payload"].as_str()) else {
        return value;
    };
    let mut payload = base64::decode(text).unwrap_or_default();
    if payload_type.ends_with("+postcard") {
        payload = compact::to_json(&payload).unwrap_or_default();
    }
    read::json_any(&payload).unwrap_or_default()
}

/// Words out of a list in JSON.
pub fn words(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Device {
    /// Its assigned groups, when the assignment may be believed.
    pub fn groups(&self) -> Vec<String> {
        words(&self.assigned()["groups"])
    }

    fn assigned(&self) -> &Value {
        match &self.assign {
            Some(assign) if assign.distrust.is_none() => &assign.value,
            _ => &Value::Null,
        }
    }

    /// Whether it says that it is there.
    pub fn is_up(&self) -> bool {
        self.presence["up"] == true
    }

    /// Whether the operator has taken it out.
    pub fn is_retired(&self) -> bool {
        self.assigned()["retired"] == true
    }

    /// Whether it takes part in a rollout, as far as the assigned labels tell.
    pub fn takes_part(&self, name: &str, rollout: &Rollout) -> bool {
        let labels = words(&self.assigned()["labels"]);
        wave::takes_part(
            wave::place(&rollout.salt, name),
            rollout.percent,
            &rollout.wave,
            &labels,
        )
    }
}

impl Seen {
    /// Takes a message in; says about whom it is. What is no message of the protocol is passed over.
    pub fn take(&mut self, heard: &Heard, trusted: &Trusted) -> Option<Target> {
        let parts: Vec<&str> = heard.topic.split('/').collect();
        match parts[..] {
            ["g", group, "desired"] if is_name(group) => {
                match Document::new(&heard.payload, Kind::Desired, trusted) {
                    Some(document) => self.groups.insert(group.into(), document),
                    None => self.groups.remove(group),
                };
                Some(Target::Group(group.into()))
            }
            ["d", name, leaf] if is_name(name) && LEAVES.contains(&leaf) => {
                if self.devices.len() >= DEVICES && !self.devices.contains_key(name) {
                    return None;
                }
                if heard.payload.is_empty() && !self.devices.contains_key(name) {
                    return None;
                }
                let device = self.devices.entry(name.into()).or_default();
                if let (Some(key), Some((leaf, kind))) = (self.enrolled.get(name), signed(leaf)) {
                    if heard.payload.is_empty() || is_by(key, kind, &heard.payload) {
                        device.unverified.remove(leaf);
                    } else {
                        device.unverified.insert(leaf);
                    }
                }
                let said = || Document::said(&heard.payload);
                match leaf {
                    "presence" => device.presence = said(),
                    "caps" => device.caps = said(),
                    "reported" => device.reported = said(),
                    "deploy" => device.deploy = said(),
                    "assign" => device.assign = Document::new(&heard.payload, Kind::Assign, trusted),
                    _ => device.desired = Document::new(&heard.payload, Kind::Desired, trusted),
                }
                Some(Target::Device(name.into()))
            }
            _ => None,
        }
    }

    /// Takes in what is retained, until nothing more comes.
    pub fn gather(&mut self, link: &mut Link, trusted: &Trusted, longest: Duration) -> Result<(), FleetError> {
        let until = Instant::now() + longest;
        let mut quiet = Instant::now() + NONE;
        while let Some(heard) = link.next(quiet.saturating_duration_since(Instant::now()))? {
            self.take(&heard, trusted);
            // What devices say meanwhile does not count.
            if heard.retained {
                quiet = Instant::now() + QUIET;
            }
            if Instant::now() > until {
                return Err(FleetError::Invalid(format!(
                    "the broker's retained messages still come after {} s: say --timeout, or name --devices",
                    longest.as_secs()
                )));
            }
        }
        Ok(())
    }

    /// The devices of a target: the device itself, or all that are assigned to the group.
    pub fn members<'a>(&'a self, target: &'a Target) -> impl Iterator<Item = (&'a String, &'a Device)> {
        self.devices.iter().filter(move |(name, device)| match target {
            Target::Device(wanted) => *name == wanted,
            Target::Group(group) => !device.is_retired() && device.groups().contains(group),
        })
    }

    /// The devices of a target for which its document is the effective one: no document of their own or of a group before
    /// it stands in the way, as far as these were asked for.
    pub fn subjects<'a>(&'a self, target: &'a Target) -> impl Iterator<Item = (&'a String, &'a Device)> {
        self.members(target).filter(move |(_, device)| {
            let Target::Group(group) = target else { return true };
            let own = device.desired.as_ref().is_some_and(|own| own.value["defer"] != true);
            let groups = device.groups();
            let first = groups.iter().find(|g| *g == group || self.groups.contains_key(*g));
            !own && first == Some(group)
        })
    }

    /// Devices of a target whose `caps` do not name this form: they would refuse a document in it.
    pub fn unable<'a>(&'a self, target: &'a Target, encoding: Encoding) -> Vec<&'a str> {
        let subjects = self.subjects(target);
        let unable = subjects.filter(|(_, device)| {
            let named = words(&device.caps["encodings"]);
            encoding != Encoding::Json && device.caps.is_object() && named.iter().all(|word| word != encoding.word())
        });
        unable.map(|(name, _)| name.as_str()).collect()
    }

    /// The document of a target.
    pub fn document(&self, target: &Target) -> Option<&Document> {
        match target {
            Target::Device(name) => self.devices.get(name)?.desired.as_ref(),
            Target::Group(group) => self.groups.get(group),
        }
    }

    /// Every generation that was seen for a target: its document's, and those that devices have reported.
    pub fn generations(&self, target: &Target) -> Vec<u64> {
        let audience = target.audience();
        let said = self
            .devices
            .values()
            .flat_map(|device| [&device.reported, &device.deploy]);
        let reported = said
            .filter(|value| value["source"] == audience.as_str())
            .filter_map(|value| value["generation"].as_u64());
        reported
            .chain(self.document(target).map(Document::generation))
            .collect()
    }
}

/// Filters of a target's devices: these leaves of one device, or of all; `exact` names devices for brokers that keep retained
/// messages from wildcards.
pub fn filters(target: Option<&Target>, leaves: &[&str], exact: &[String]) -> Vec<String> {
    let mut found: Vec<String> = match target {
        // Groups before it in a device's assignment come first.
        Some(Target::Group(_)) if exact.is_empty() => vec!["g/+/desired".into()],
        Some(Target::Group(group)) => vec![format!("g/{group}/desired")],
        _ => Vec::new(),
    };
    let names: BTreeSet<&str> = match target {
        Some(Target::Device(name)) => [name.as_str()].into(),
        _ if exact.is_empty() => ["+"].into(),
        _ => exact.iter().map(String::as_str).collect(),
    };
    for name in names {
        found.extend(leaves.iter().map(|leaf| format!("d/{name}/{leaf}")));
    }
    found
}

/// One device as the table and JSON show it.
pub fn row(name: &str, device: &Device) -> Value {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let deploy = &device.deploy;
    let known = !device.presence.is_null();
    let apps = device.reported["apps"].as_array().into_iter().flatten();
    let apps: Vec<Value> = apps
        .map(|app| {
            json!({
                "Name": text(&app["name"]),
                "Status": text(&app["status"]),
                "Health": text(&app["health"]),
                "Restarts": app["restarts"],
                "Image": app["image"],
            })
        })
        .collect();
    let detail = match (&deploy["reason"]["code"], &deploy["reason"]["detail"]) {
        (Value::String(code), Value::String(detail)) if !detail.is_empty() => format!("{code}: {detail}"),
        (Value::String(code), _) => code.clone(),
        _ => String::new(),
    };
    json!({
        "Device": name,
        "Up": if !known { "" } else if device.is_up() { "yes" } else { "no" },
        "Agent": text(&device.presence["agent"]),
        "Platform": text(&device.caps["platform"]),
        "Board": text(&device.caps["board"]),
        "Encodings": words(&device.caps["encodings"]),
        "Groups": device.groups(),
        "Retired": device.is_retired(),
        "Source": text(&device.reported["source"]),
        "Generation": device.reported["generation"].as_u64().or(deploy["generation"].as_u64()),
        "Activity": text(&deploy["activity"]),
        "State": text(&deploy["state"]),
        "Since": deploy["since"],
        "Reason": detail,
        "Freshness": text(&device.reported["freshness"]),
        "Degraded": words(&device.reported["degraded"]),
        "Refused": device.reported["refused"],
        "Unverified": device.unverified,
        "Apps": apps,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::sign;
    use crate::uplink::dsse::SigningKey;

    #[test]
    fn what_an_enrolled_device_has_not_signed_is_marked() {
        let (key, stranger) = (SigningKey::generate("gw").unwrap(), SigningKey::generate("gw").unwrap());
        let mut seen = Seen {
            enrolled: [("gw".to_owned(), key.public().bytes)].into(),
            ..Seen::default()
        };
        let by = |key: &SigningKey, kind| sign::sign(kind, b"{}", std::slice::from_ref(key)).unwrap();
        for (leaf, message, marked) in [
            ("deploy", by(&key, Kind::Deploy), false),
            ("deploy", by(&stranger, Kind::Deploy), true),
            // Another kind of document that it has signed.
            ("deploy", by(&key, Kind::Reported), true),
            ("deploy", b"{}".to_vec(), true),
            ("deploy", Vec::new(), false),
            ("reported", by(&key, Kind::Reported), false),
            ("caps", b"{}".to_vec(), true),
            ("caps", by(&key, Kind::Caps), false),
        ] {
            seen.take(&heard(&format!("d/gw/{leaf}"), &message), &Trusted::default());
            assert_eq!(seen.devices["gw"].unverified.contains(leaf), marked, "{leaf}");
        }
        seen.take(&heard("d/other/deploy", b"{}"), &Trusted::default());
        assert!(seen.devices["other"].unverified.is_empty(), "nobody knows its key");
    }

    fn heard(topic: &str, payload: &[u8]) -> Heard {
        Heard {
            topic: topic.into(),
            payload: payload.to_vec(),
            retained: true,
        }
    }

    fn seen(messages: &[(&str, String)], trusted: &Trusted) -> Seen {
        let mut seen = Seen::default();
        for (topic, text) in messages {
            seen.take(&heard(topic, text.as_bytes()), trusted);
        }
        seen
    }

    #[test]
    fn members_and_subjects_follow_assignments_and_other_documents() {
        let assign = |groups: &str| format!(r#"{{"generation":1,"groups":[{groups}]}}"#);
        let seen = seen(
            &[
                ("d/a/assign", assign(r#""eu","line""#)),
                ("d/b/assign", assign(r#""other","line""#)),
                ("d/c/assign", assign(r#""line""#)),
                ("d/c/desired", r#"{"generation":1}"#.into()),
                ("d/e/assign", assign(r#""line""#)),
                ("d/e/desired", r#"{"generation":1,"defer":true}"#.into()),
                ("d/f/assign", r#"{"groups":["line"],"retired":true}"#.into()),
                ("d/g/presence", "{}".into()),
                ("g/line/desired", r#"{"generation":5}"#.into()),
                ("g/other/desired", r#"{"generation":9}"#.into()),
                ("d/a/reported", r#"{"source":"g/line","generation":7}"#.into()),
                ("d/b/deploy", r#"{"source":"g/other","generation":70}"#.into()),
                ("d/Bad/presence", "{}".into()),
                ("d/a/caps", r#"{"encodings":["json","postcard"]}"#.into()),
                ("d/b/caps", r#"{"encodings":["json"]}"#.into()),
                ("d/e/caps", "{}".into()),
                ("d/x/evt/disk", "{}".into()),
            ],
            &Trusted::default(),
        );
        let line = Target::Group("line".into());
        let names = |found: Vec<(&String, &Device)>| found.iter().map(|(n, _)| n.to_string()).collect::<String>();
        assert_eq!(names(seen.members(&line).collect()), "abce");
        assert_eq!(names(seen.subjects(&line).collect()), "ae");
        assert_eq!(names(seen.members(&Target::Device("g".into())).collect()), "g");
        assert_eq!(seen.unable(&line, Encoding::Postcard), ["e"]);
        assert_eq!(seen.unable(&line, Encoding::Json), [""; 0]);
        let other = Target::Group("other".into());
        assert_eq!(seen.unable(&other, Encoding::Postcard), ["b"]);
        assert!(
            seen.unable(&Target::Device("g".into()), Encoding::Postcard).is_empty(),
            "it has not told"
        );
        let mut generations = seen.generations(&line);
        generations.sort();
        assert_eq!(generations, [5, 7]);
        assert_eq!(seen.devices.len(), 6);
    }

    #[test]
    fn what_others_have_signed_counts_for_nothing_but_its_number() {
        let (ours, theirs) = (SigningKey::generate("a").unwrap(), SigningKey::generate("a").unwrap());
        let trusted = Trusted {
            keys: vec![ours.public()],
            threshold: 1,
            ..Trusted::default()
        };
        let text = br#"{"audience":"g/line","generation":6,"activity":"x","issued_at":"2026-01-01T00:00:00Z"}"#;
        for (key, believed) in [(ours, true), (theirs, false)] {
            let message = sign::sign(Kind::Desired, text, &[key]).unwrap();
            let mut seen = Seen::default();
            seen.take(&heard("g/line/desired", &message), &trusted);
            let document = seen.document(&Target::Group("line".into())).unwrap();
            assert_eq!(document.generation(), 6);
            assert_eq!(document.desired().is_ok(), believed);
            seen.take(&heard("g/line/desired", b""), &trusted);
            assert!(seen.groups.is_empty());
        }
    }

    #[test]
    fn documents_are_read_in_either_form() {
        let key = SigningKey::generate("a").unwrap();
        let trusted = Trusted {
            keys: vec![key.public()],
            threshold: 1,
            ..Trusted::default()
        };
        let desired =
            json!({"audience": "g/line", "generation": 6, "activity": "x", "issued_at": "2026-01-01T00:00:00Z"});
        for encoding in Encoding::ALL {
            for trusted in [&trusted, &Trusted::default()] {
                let message = sign::message(Kind::Desired, &desired, encoding, std::slice::from_ref(&key)).unwrap();
                let mut seen = Seen::default();
                seen.take(&heard("g/line/desired", &message), trusted);
                let document = seen.document(&Target::Group("line".into())).unwrap();
                assert_eq!((document.encoding, document.generation()), (encoding, 6));
                assert!(document.desired().is_ok());
                assert_eq!(Document::said(&message), desired);
            }
            let stranger = SigningKey::generate("a").unwrap();
            let message = sign::message(Kind::Desired, &desired, encoding, &[stranger]).unwrap();
            let document = Document::new(&message, Kind::Desired, &trusted).unwrap();
            assert_eq!(document.generation(), 6, "its number counts");
            assert!(document.desired().is_err());
        }
        for rubbish in [&[1][..], &[1, 0, 0, 0], &[1, 1, b'x', 1, 9, 0], b"{", b""] {
            assert!(Document::said(rubbish)["generation"].is_null());
        }
    }

    #[test]
    fn devices_are_asked_for_by_wildcard_or_by_name() {
        let group = Target::Group("line".into());
        let leaves = ["presence", "deploy"];
        assert_eq!(
            filters(Some(&group), &leaves, &[]),
            ["g/+/desired", "d/+/presence", "d/+/deploy"]
        );
        assert_eq!(
            filters(None, &leaves[..1], &["b".into(), "a".into(), "b".into()]),
            ["d/a/presence", "d/b/presence"]
        );
        assert_eq!(filters(Some(&group), &[], &["a".into()]), ["g/line/desired"]);
        let device = Target::Device("x".into());
        assert_eq!(filters(Some(&device), &leaves[..1], &["a".into()]), ["d/x/presence"]);
    }
}

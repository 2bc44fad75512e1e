//! Documents that travel over MQTT: envelope, desired state, presence, capabilities, reports, commands, answers.

use super::app::App;
use super::deployment::{Cause, Reason, Record};
use super::digest::Digest;
use super::health::HealthStatus;
use super::limits::NotEnforced;
use super::reference::Reference;
use super::text::parse_size;
use std::num::NonZeroU64;

/// A DSSE envelope as JSON: payload and signatures in base64.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// What the payload is.
    #[serde(rename = "payloadType")]
    pub payload_type: String,
    /// The document, base64.
    pub payload: String,
    /// At most [`super::bounds::SIGNATURES`].
    pub signatures: Vec<Signature>,
}

/// How a document is written: the last word of its envelope's `payloadType`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Text; so is its envelope.
    #[default]
    Json,
    /// Fewer bytes (`uplink::compact`); so has its envelope.
    Postcard,
}

impl Encoding {
    /// All that devices take.
    pub const ALL: [Encoding; 2] = [Encoding::Json, Encoding::Postcard];

    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Encoding::Json => "json",
            Encoding::Postcard => "postcard",
        }
    }

    /// Those that devices take, as their `caps` name them.
    pub fn words() -> Vec<String> {
        Encoding::ALL.map(|encoding| encoding.word().to_owned()).to_vec()
    }

    /// That of a word.
    pub fn parse(word: &str) -> Option<Encoding> {
        Encoding::ALL.into_iter().find(|encoding| encoding.word() == word)
    }
}

/// One signature of an envelope.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// Hint at the key; not trusted.
    #[serde(default)]
    pub keyid: String,
    /// Base64.
    pub sig: String,
}

/// What is read first and leniently of every document to the device.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Preamble {
    /// `d/gw-0017`, `g/line-3`, `*`.
    pub audience: String,
    /// Only grows for one audience and kind.
    pub generation: u64,
    /// The oldest agent that understands the document.
    #[serde(default)]
    pub min_agent: Option<String>,
}

/// The desired state of one source.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Desired {
    /// Who is meant.
    pub audience: String,
    /// Only grows.
    pub generation: u64,
    /// Names this activity in every report; a UUID.
    pub activity: String,
    /// RFC 3339.
    pub issued_at: String,
    /// RFC 3339; 90 days after `issued_at` when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// The oldest agent that understands the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_agent: Option<String>,
    /// How it rolls out; everyone at once when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// The device's own document gives way to its groups'.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub defer: bool,
    /// Apps whose quarantine is lifted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retry: Vec<String>,
    /// The artifact with the apps, by digest: `registry.example/fleet/sets@sha256:…`, in the place of `apps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apps_ref: Option<String>,
    /// The whole set of this source.
    #[serde(default)]
    pub apps: Vec<App>,
}

/// Media type of the one blob of an artifact that is a set: a JSON array of app documents.
pub const SET_TYPE: &str = "application/vnd.dunlin.apps.v1+json";

impl Desired {
    /// Digest of its set, as `base` names it: that of the artifact, else of the apps as JSON.
    pub fn set(&self) -> Digest {
        let named = self.apps_ref.as_deref().and_then(|text| text.parse::<Reference>().ok());
        let named = named.and_then(|reference| reference.digest());
        named.unwrap_or_else(|| Digest::of(&serde_json::to_vec(&self.apps).unwrap_or_default()))
    }
}

/// How a desired state rolls out.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// Names the rollout over its generations.
    pub id: String,
    /// Shuffles the devices.
    #[serde(default)]
    pub salt: String,
    /// Share of devices that take part.
    #[serde(default = "everyone")]
    pub percent: f64,
    /// Labels whose devices always take part.
    #[serde(default)]
    pub wave: Vec<String>,
    /// No device begins to switch.
    #[serde(default)]
    pub halted: bool,
    /// Digest of the set that the others run.
    #[serde(default)]
    pub base: Option<Digest>,
    /// RFC 3339.
    #[serde(default)]
    pub not_before: Option<String>,
    /// `02:00-04:00` in the assigned time zone.
    #[serde(default)]
    pub window: Option<String>,
    /// Starts are spread over this time.
    #[serde(default)]
    pub spread: Option<super::time::Span>,
    /// Bytes per second of pulls: `256KiB/s`.
    #[serde(default)]
    pub max_rate: Option<String>,
    /// Window, spread, metered links and an untrusted clock do not hold it back.
    #[serde(default)]
    pub urgent: bool,
}

/// Bytes per second that a rollout may say at the least.
const RATE_MIN: u64 = 1024;

impl Rollout {
    /// Bytes per second of its pulls; the error says what should stand there.
    pub fn rate(&self) -> Result<Option<NonZeroU64>, &'static str> {
        let Some(text) = &self.max_rate else { return Ok(None) };
        let rate = text.strip_suffix("/s").and_then(parse_size);
        rate.filter(|rate| *rate >= RATE_MIN)
            .and_then(NonZeroU64::new)
            .map(Some)
            .ok_or("write for example `256KiB/s`, at least `1KiB/s`")
    }
}

fn everyone() -> f64 {
    100.0
}

/// Which groups a device belongs to, and what else the operator says about it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assign {
    /// Who is meant: `d/DEVICE`.
    pub audience: String,
    /// Only grows.
    pub generation: u64,
    /// RFC 3339.
    pub issued_at: String,
    /// RFC 3339; 90 days after `issued_at` when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// The oldest agent that understands the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_agent: Option<String>,
    /// In the order in which their desired states are looked for.
    #[serde(default)]
    pub groups: Vec<String>,
    /// What waves may name, beside the labels of the device's settings.
    #[serde(default)]
    pub labels: Vec<String>,
    /// `UTC` or an offset such as `+01:00`, for windows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Its link costs money: only urgent documents are fetched for.
    #[serde(default)]
    pub metered: bool,
    /// It takes no part any more.
    #[serde(default)]
    pub retired: bool,
}

/// A secret or a registry's credential, sealed for one device.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// Who is meant: `d/DEVICE`.
    pub audience: String,
    /// Only grows, for each name.
    pub generation: u64,
    /// RFC 3339.
    pub issued_at: String,
    /// RFC 3339; 90 days after `issued_at` when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// The oldest agent that understands the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_agent: Option<String>,
    /// Its name, as in the topic.
    pub name: String,
    /// It is the credential of this registry (`HOST[:PORT][/PATH]`): `{"username": …, "password": …}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,
    /// Base64 of what is sealed (`uplink::seal`); it is removed when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<String>,
}

/// What a device says about being there; also its will.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Presence {
    /// False in the will.
    pub up: bool,
    /// Boots counted by the device.
    pub boot: u64,
    /// One per agent start.
    pub session: String,
    /// The agent's version.
    pub agent: String,
}

/// What a device can do.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Caps {
    /// Protocol versions.
    pub protocol: Vec<u32>,
    /// The agent's version.
    pub agent: String,
    /// Verbs that commands may name.
    pub verbs: Vec<String>,
    /// Largest document, bytes.
    pub document_bytes: usize,
    /// Forms of documents that it takes; `json` where it says nothing.
    #[serde(default)]
    pub encodings: Vec<String>,
    /// Key ids that are accepted now.
    pub keys: Vec<String>,
    /// Their version.
    #[serde(default)]
    pub key_version: u64,
    /// Board profile.
    pub board: String,
    /// GOARCH, with variant.
    pub platform: String,
    /// Kernel release.
    pub kernel: String,
    /// Operating system's pretty name.
    pub os: String,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of the data directory's file system.
    pub disk: u64,
    /// Serial number, where the board has one.
    pub serial: Option<String>,
    /// `v2`, `v1` or `none`.
    pub cgroup: String,
    /// Base64 of the Ed25519 key that this device signs with.
    #[serde(default)]
    pub signing: String,
    /// Base64 of the X25519 key that secrets are sealed for.
    #[serde(default)]
    pub sealing: String,
}

/// What a device runs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reported {
    /// One per agent start.
    pub session: String,
    /// Boots counted by the device.
    pub boot: u64,
    /// The effective source: `d/DEVICE`, `g/GROUP`, `local`; empty when there is none.
    pub source: String,
    /// Generation of the effective document.
    pub generation: u64,
    /// `fresh`, `expired` or `unknown`.
    pub freshness: String,
    /// Each app.
    pub apps: Vec<ReportedApp>,
    /// Documents that were refused since the start, by reason.
    pub refused: std::collections::BTreeMap<String, u64>,
    /// What the device is short of: `disk`, `memory`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<String>,
    /// Events for which there was no room, since the first start.
    #[serde(default, skip_serializing_if = "is_none")]
    pub events_dropped: u64,
}

fn is_none(count: &u64) -> bool {
    *count == 0
}

/// What one app does.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ReportedApp {
    /// Its name.
    pub name: String,
    /// Digest of its manifest.
    pub image: Option<Digest>,
    /// Its specification.
    pub spec: Digest,
    /// podman's word for its container's state.
    pub status: String,
    /// Judged health.
    pub health: HealthStatus,
    /// Restarts since it was created.
    pub restarts: u32,
    /// Last exit code, when it is not running.
    pub exit_code: Option<i32>,
    /// Limits that the host cannot enforce.
    pub not_enforced: Vec<NotEnforced>,
}

/// What is published as `deploy`: the current record with the last final one inside.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Deploy {
    /// The current or latest deployment.
    #[serde(flatten)]
    pub record: Record,
    /// The newest final record of an earlier deployment or of this.
    pub last_final: Option<Box<Record>>,
}

/// A signed command.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// `d/DEVICE`.
    pub audience: String,
    /// Session read from presence.
    pub session: String,
    /// Names the command; answers repeat it.
    pub id: String,
    /// RFC 3339; a hint beside the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
    /// What to do.
    pub verb: String,
    /// With what.
    #[serde(default)]
    pub args: std::collections::BTreeMap<String, String>,
    /// Below `d/DEVICE/res/`.
    pub reply_to: String,
}

/// An answer to a command.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Answer {
    /// The command's id.
    pub id: String,
    /// `accepted`, `rejected`, `done`, `failed`.
    pub status: AnswerStatus,
    /// Why, for `rejected` and `failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cause>,
    /// What came out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

/// The steps of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnswerStatus {
    /// It will be carried out.
    Accepted,
    /// It will not.
    Rejected,
    /// It was.
    Done,
    /// It was tried.
    Failed,
}

/// Something worth telling once, on `evt/CLASS`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Event {
    /// What happened.
    pub code: Reason,
    /// App, where it is about one.
    pub app: Option<String>,
    /// For people.
    pub detail: String,
    /// RFC 3339.
    pub at: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_sizes_in_a_second() {
        for (text, rate) in [
            (None, Ok(None)),
            (Some("256KiB/s"), Ok(Some(256 << 10))),
            (Some("1M/s"), Ok(Some(1 << 20))),
            (Some("1024/s"), Ok(Some(1024))),
            (Some("1023/s"), Err(())),
            (Some("0/s"), Err(())),
            (Some("256KiB"), Err(())),
            (Some("fast/s"), Err(())),
            (Some("/s"), Err(())),
            (Some(""), Err(())),
        ] {
            let mut rollout: Rollout = serde_json::from_str(r#"{"id":"r"}"#).unwrap();
            rollout.max_rate = text.map(str::to_owned);
            let found = rollout.rate().map(|rate| rate.map(NonZeroU64::get));
            assert_eq!(found.map_err(drop), rate, "{text:?}");
        }
    }
}

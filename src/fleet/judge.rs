//! How a rollout stands: what each device has made of it, all of them summed up, and whether it is to be halted. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Target;
use super::seen::{Device, Seen};
use crate::plan::wave;
use crate::types::document::{Desired, Rollout};
use crate::types::time::Unix;

/// Failures that halt, whatever the size.
const FAILURES: usize = 2;
/// So many devices are looked at as one sample.
const SAMPLE: usize = 20;
/// Share of failures that halts: one of so many.
const SHARE: usize = 20;

/// What a device has made of a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stand {
    /// It runs the new set.
    Committed,
    /// It does not, and will not: the reason's code.
    Failed(String),
    /// Something holds it back, or nothing was heard of it yet: the reason's code.
    Waiting(String),
    /// It is on its way: the state.
    Going(String),
}

/// All devices that take part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Devices that take part.
    pub participants: usize,
    /// Devices of the target.
    pub devices: usize,
    /// Run the new set.
    pub committed: usize,
    /// Have failed, silent ones among them.
    pub failed: usize,
    /// Are on their way.
    pub going: usize,
    /// Failures by reason.
    pub reasons: BTreeMap<String, usize>,
    /// Why devices wait.
    pub waits: BTreeMap<String, usize>,
    /// By wave: participants, committed, failed.
    pub waves: Vec<(String, [usize; 3])>,
}

impl Tally {
    /// Devices for which nothing more will come.
    pub fn finished(&self) -> usize {
        self.committed + self.failed
    }

    /// Whether all that take part have finished.
    pub fn is_over(&self) -> bool {
        self.finished() == self.participants
    }

    /// Failures from which on it is to be halted.
    pub fn limit(&self) -> usize {
        let sample = self.finished().max(self.participants.min(SAMPLE));
        // A wave of one device has failed when that one has.
        FAILURES.max(sample.div_ceil(SHARE)).min(self.participants.max(1))
    }

    /// Whether it is to be halted. `forgiven`: failures that an operator has seen and gone on.
    pub fn is_bad(&self, forgiven: usize) -> bool {
        self.failed >= self.limit() && self.failed > forgiven
    }
}

/// The record of this rollout among what a device says, the current or the last final one.
fn record<'a>(device: &'a Device, document: &Desired) -> Option<&'a Value> {
    let ours = |record: &&Value| {
        let activity = record["activity"].as_str().unwrap_or_default();
        let source = record["source"].as_str().unwrap_or_default();
        !document.activity.is_empty() && activity.starts_with(&document.activity) && source == document.audience
    };
    [&device.deploy, &device.deploy["last_final"]].into_iter().find(ours)
}

/// What a device has made of a document. A device that has said nothing about it for `deadline_ms`, and the longest soak, after the
/// document or its own last word has failed as `silent`; one that is there and says what it waits for has not.
pub fn stand(device: &Device, document: &Desired, now: Unix, deadline_ms: u64) -> Stand {
    let record = record(device, document);
    let code = |record: &Value| record["reason"]["code"].as_str().unwrap_or_default().to_owned();
    let issued = Unix::parse_rfc3339(&document.issued_at).unwrap_or_default();
    let last = record.and_then(|r| r["since"].as_u64()).unwrap_or(0).max(issued.0);
    let soak = document.apps.iter().map(|app| app.update.soak.ms()).max().unwrap_or(0);
    let overdue = now.0.saturating_sub(last) > deadline_ms.saturating_add(soak);
    match record {
        Some(record) => match record["state"].as_str().unwrap_or_default() {
            "COMMITTED" => Stand::Committed,
            "ROLLED_BACK" | "FAILED" | "REJECTED" => Stand::Failed(code(record)),
            "WAITING" if device.is_up() || !overdue => Stand::Waiting(code(record)),
            "SUPERSEDED" => Stand::Waiting("superseded".into()),
            _ if overdue => Stand::Failed("silent".into()),
            state => Stand::Going(state.into()),
        },
        None if overdue => Stand::Failed("silent".into()),
        None => Stand::Waiting("unheard".into()),
    }
}

/// Sums up all devices of a target. `steps`: shares that this rollout went through before, smallest first.
pub fn tally(seen: &Seen, target: &Target, document: &Desired, steps: &[f64], now: Unix, deadline_ms: u64) -> Tally {
    let mut tally = Tally::default();
    let rollout = document.rollout.as_ref();
    let mut shares: Vec<f64> = steps
        .iter()
        .copied()
        .filter(|s| Some(*s) < rollout.map(|r| r.percent))
        .collect();
    shares.push(rollout.map_or(100.0, |r| r.percent));
    for (name, device) in seen.subjects(target) {
        tally.devices += 1;
        if rollout.is_some_and(|rollout| !device.takes_part(name, rollout)) {
            continue;
        }
        tally.participants += 1;
        let wave = wave_of(name, rollout, &shares);
        let at = match tally.waves.iter().position(|(known, _)| *known == wave) {
            Some(at) => at,
            None => {
                tally.waves.push((wave, [0; 3]));
                tally.waves.len() - 1
            }
        };
        let counts = &mut tally.waves[at].1;
        counts[0] += 1;
        match stand(device, document, now, deadline_ms) {
            Stand::Committed => {
                tally.committed += 1;
                counts[1] += 1;
            }
            Stand::Failed(code) => {
                tally.failed += 1;
                counts[2] += 1;
                *tally.reasons.entry(code).or_default() += 1;
            }
            Stand::Waiting(code) => *tally.waits.entry(code).or_default() += 1,
            Stand::Going(_) => tally.going += 1,
        }
    }
    let order = |wave: &str| wave.trim_end_matches(" %").parse::<f64>().unwrap_or(0.0);
    tally.waves.sort_by(|(a, _), (b, _)| order(a).total_cmp(&order(b)));
    tally
}

/// The smallest share that a device belongs to, or the labels when it is only in by one of them.
fn wave_of(name: &str, rollout: Option<&Rollout>, shares: &[f64]) -> String {
    let place = wave::place(rollout.map_or("", |r| &r.salt), name);
    match shares.iter().find(|share| place.below(**share)) {
        Some(share) => format!("{share} %"),
        None => rollout.map_or(String::new(), |r| r.wave.join(",")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::link::Heard;
    use crate::types::read;
    use crate::uplink::dsse::Trusted;
    use serde_json::json;

    const NOW: Unix = Unix(1_795_302_000_000);
    const DEADLINE: u64 = 60_000;

    fn document(percent: f64, issued_ago_ms: u64) -> Desired {
        let issued = Unix(NOW.0 - issued_ago_ms).rfc3339();
        let text = json!({
            "audience": "g/line", "generation": 5, "activity": "act", "issued_at": issued,
            "rollout": {"id": "r", "salt": "k", "percent": percent, "wave": ["canary"]},
        });
        serde_json::from_value(text).unwrap()
    }

    fn device(up: bool, deploy: Value) -> Device {
        Device {
            presence: json!({"up": up}),
            deploy,
            ..Device::default()
        }
    }

    fn record(state: &str, code: &str, ago_ms: u64) -> Value {
        json!({"activity": "act", "source": "g/line", "state": state, "since": NOW.0 - ago_ms, "reason": {"code": code}})
    }

    #[test]
    fn a_device_stands_where_its_record_says_and_silence_is_failure() {
        let failed = |code: &str| Stand::Failed(code.into());
        let waiting = |code: &str| Stand::Waiting(code.into());
        let mut other = record("COMMITTED", "", 0);
        other["activity"] = json!("else");
        let mut later = other.clone();
        later["last_final"] = record("ROLLED_BACK", "oom", 0);
        let mut elsewhere = record("COMMITTED", "", 0);
        elsewhere["source"] = json!("d/x");
        let mut followed = record("COMMITTED", "", 0);
        followed["activity"] = json!("act+0123");
        for (name, issued, up, deploy, expected) in [
            ("done", 0, true, record("COMMITTED", "", 0), Stand::Committed),
            (
                "long done, gone since",
                900_000,
                false,
                record("COMMITTED", "", 800_000),
                Stand::Committed,
            ),
            ("with tags followed", 0, true, followed, Stand::Committed),
            (
                "rolled back",
                0,
                true,
                record("ROLLED_BACK", "unhealthy", 0),
                failed("unhealthy"),
            ),
            ("failed", 0, true, record("FAILED", "net", 0), failed("net")),
            (
                "refused",
                0,
                true,
                record("REJECTED", "quarantined", 0),
                failed("quarantined"),
            ),
            (
                "on its way",
                0,
                true,
                record("SOAKING", "", 0),
                Stand::Going("SOAKING".into()),
            ),
            (
                "hangs on its way",
                900_000,
                true,
                record("FETCHING", "", 800_000),
                failed("silent"),
            ),
            (
                "waited when it was last heard",
                900_000,
                false,
                record("WAITING", "window", 800_000),
                failed("silent"),
            ),
            (
                "left for another",
                900_000,
                true,
                record("SUPERSEDED", "", 800_000),
                waiting("superseded"),
            ),
            (
                "gone on its way",
                900_000,
                false,
                record("SOAKING", "", 70_000),
                failed("silent"),
            ),
            (
                "gone for a moment",
                900_000,
                false,
                record("SOAKING", "", 50_000),
                Stand::Going("SOAKING".into()),
            ),
            (
                "waits",
                900_000,
                true,
                record("WAITING", "window", 800_000),
                waiting("window"),
            ),
            ("not heard yet", 50_000, true, Value::Null, waiting("unheard")),
            ("never heard", 70_000, true, Value::Null, failed("silent")),
            ("another deployment", 0, true, other, waiting("unheard")),
            ("another since", 0, true, later, failed("oom")),
            ("another source", 0, true, elsewhere, waiting("unheard")),
        ] {
            let found = stand(&device(up, deploy), &document(100.0, issued), NOW, DEADLINE);
            assert_eq!(found, expected, "{name}");
        }
        let mut soaks = document(100.0, 900_000);
        let app = r#"{"name":"web","image":"r.example/x:1","update":{"soak":"10m"}}"#;
        soaks.apps.push(read::json(app.as_bytes()).unwrap());
        let soaking = device(true, record("SOAKING", "", 600_000));
        assert_eq!(
            stand(&soaking, &soaks, NOW, DEADLINE),
            Stand::Going("SOAKING".into()),
            "a soak is silent"
        );
    }

    #[test]
    fn it_is_halted_at_two_failures_or_a_twentieth() {
        for (participants, committed, failed, forgiven, bad) in [
            (0, 0, 0, 0, false),
            (1, 0, 0, 0, false),
            (1, 0, 1, 0, true),
            (2, 1, 1, 0, false),
            (2, 0, 2, 0, true),
            (20, 19, 1, 0, false),
            (20, 0, 2, 0, true),
            (1000, 0, 1, 0, false),
            (1000, 0, 2, 0, true),
            (1000, 38, 2, 0, true),
            (1000, 39, 2, 0, false),
            (1000, 950, 49, 0, false),
            (1000, 950, 50, 0, true),
            (1000, 0, 2, 2, false),
            (1000, 0, 3, 2, true),
        ] {
            let tally = Tally {
                participants,
                committed,
                failed,
                ..Tally::default()
            };
            assert_eq!(
                tally.is_bad(forgiven),
                bad,
                "{participants} {committed} {failed} {forgiven}"
            );
        }
    }

    #[test]
    fn all_devices_are_summed_up_by_wave() {
        let mut seen = Seen::default();
        let trusted = Trusted::default();
        let mut say = |topic: String, value: Value| {
            let payload = value.to_string().into_bytes();
            let heard = Heard {
                topic,
                payload,
                retained: true,
            };
            seen.take(&heard, &trusted);
        };
        for n in 0..200 {
            let labels: &[&str] = if n < 3 { &["canary"] } else { &[] };
            say(
                format!("d/gw-{n}/assign"),
                json!({"generation": 1, "groups": ["line"], "labels": labels}),
            );
            say(format!("d/gw-{n}/presence"), json!({"up": true}));
            let state = if n % 10 == 0 { "ROLLED_BACK" } else { "COMMITTED" };
            if n < 150 {
                say(format!("d/gw-{n}/deploy"), record(state, "oom", 0));
            }
        }
        let target = Target::Group("line".into());
        let all = tally(&seen, &target, &document(100.0, 0), &[5.0, 25.0, 100.0], NOW, DEADLINE);
        assert_eq!(
            (all.devices, all.participants, all.committed, all.failed),
            (200, 200, 135, 15)
        );
        assert_eq!(all.reasons, [("oom".to_owned(), 15)].into());
        assert_eq!(all.waits, [("unheard".to_owned(), 50)].into());
        let names: Vec<&str> = all.waves.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["5 %", "25 %", "100 %"]);
        assert_eq!(all.waves.iter().map(|(_, c)| c[0]).sum::<usize>(), 200);
        assert!(!all.is_over());
        let some = tally(&seen, &target, &document(5.0, 0), &[], NOW, DEADLINE);
        assert!(some.participants >= 3 && some.participants < 40, "{some:?}");
        assert!(some.waves.iter().any(|(name, _)| name == "canary"), "{some:?}");
    }
}

//! Desired states and assignments: made of what the operator says and of what the broker has, published, read back.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::link::Link;
use super::seen::{Document, Seen};
use super::{FleetError, Operator, Target, numbers, sign};
use crate::plan::desired;
use crate::types::app::App;
use crate::types::bounds::DOCUMENT_BYTES;
use crate::types::digest::Digest;
use crate::types::document::{Assign, Desired, Encoding, Rollout};
use crate::types::read;
use crate::types::text::is_name;
use crate::types::time::{Span, Unix};
use crate::uplink;
use crate::uplink::dsse::{self, Kind};

/// The longest silence before a published document comes back.
const BACK: Duration = Duration::from_secs(20);
/// The longest wait for it, behind whatever else the broker has to send.
const BACK_MAX: Duration = Duration::from_secs(300);
/// Another operator's document that was on its way at the same time has come within this time.
const SETTLE: Duration = Duration::from_millis(400);
/// Tries to publish over others.
const TRIES: usize = 6;

/// What the operator says about a rollout; `None` and empty leave it as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Terms {
    /// Share of devices, 0 to 100.
    pub percent: Option<f64>,
    /// Labels that always take part.
    pub wave: Vec<String>,
    /// `02:00-04:00`.
    pub window: Option<String>,
    /// Starts are spread over this time.
    pub spread: Option<Span>,
    /// RFC 3339.
    pub not_before: Option<String>,
    /// `256KiB/s`.
    pub max_rate: Option<String>,
    /// Nothing holds it back.
    pub urgent: Option<bool>,
    /// Whether no device begins to switch.
    pub halted: Option<bool>,
    /// Digest of the set that the others run.
    pub base: Option<Digest>,
}

impl Terms {
    fn apply(&self, rollout: &mut Rollout) {
        fn set<T: Clone>(place: &mut T, value: &Option<T>) {
            if let Some(value) = value {
                *place = value.clone();
            }
        }
        set(&mut rollout.percent, &self.percent);
        set(&mut rollout.urgent, &self.urgent);
        set(&mut rollout.halted, &self.halted);
        for (place, value) in [
            (&mut rollout.window, &self.window),
            (&mut rollout.not_before, &self.not_before),
            (&mut rollout.max_rate, &self.max_rate),
        ] {
            if value.is_some() {
                place.clone_from(value);
            }
        }
        if self.spread.is_some() {
            rollout.spread = self.spread;
        }
        if self.base.is_some() {
            rollout.base = self.base;
        }
        if !self.wave.is_empty() {
            rollout.wave.clone_from(&self.wave);
        }
    }
}

/// The apps, and whatever else of a desired state, in a file: TOML with one app or `[[app]]` tables, or JSON with `apps`.
pub fn content(name: &str, text: &str) -> Result<Desired, FleetError> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Several {
        app: Vec<App>,
    }
    let bad = |error: &dyn std::fmt::Display| {
        FleetError::Invalid(format!("`{name}`: {}", error.to_string().trim().replace('\n', " ")))
    };
    let mut document = Map::new();
    let mut apps = Vec::new();
    if text.trim_start().starts_with('{') {
        let value = read::json_any(text.as_bytes()).map_err(|e| bad(&e))?;
        document.extend(
            value
                .as_object()
                .into_iter()
                .flatten()
                .map(|(k, v)| (k.clone(), v.clone())),
        );
    } else if text.lines().any(|line| line.trim() == "[[app]]") {
        apps = read::toml::<Several>(text).map_err(|e| bad(&e))?.app;
    } else {
        apps.push(read::toml::<App>(text).map_err(|e| bad(&e))?);
    }
    // What is decided here, whatever stands in the file.
    for (key, value) in [
        ("audience", json!("")),
        ("generation", json!(0)),
        ("activity", json!("")),
        ("issued_at", json!("")),
    ] {
        document.insert(key.into(), value);
    }
    let document = Value::Object(document).to_string();
    let mut document: Desired = read::json(document.as_bytes()).map_err(|e| bad(&e))?;
    document.apps.append(&mut apps);
    Ok(document)
}

/// Digest of a set of apps, for `base`.
pub fn set_digest(apps: &[App]) -> Digest {
    Digest::of(&uplink::json(&apps))
}

/// A new rollout of `document` for a target, after what is retained for it. With less than everybody in it, `base` is what the
/// document before rolls out, or where that has not reached everybody, what was its base.
pub fn begin(
    target: &Target,
    mut document: Desired,
    terms: &Terms,
    before: Option<&Desired>,
    generation: u64,
    now: Unix,
) -> Result<Desired, FleetError> {
    let mut rollout = document.rollout.take().unwrap_or(Rollout {
        id: String::new(),
        salt: String::new(),
        percent: 100.0,
        wave: Vec::new(),
        halted: false,
        base: None,
        not_before: None,
        window: None,
        spread: None,
        max_rate: None,
        urgent: false,
    });
    if rollout.id.is_empty() {
        rollout.id = format!("r-{generation}");
    }
    if rollout.salt.is_empty() {
        rollout.salt = numbers::word()?;
    }
    terms.apply(&mut rollout);
    if rollout.percent < 100.0 && rollout.base.is_none() {
        let partial = before
            .and_then(|before| before.rollout.as_ref())
            .filter(|r| r.percent < 100.0);
        let set = before.map_or_else(|| set_digest(&[]), Desired::set);
        rollout.base = partial.and_then(|r| r.base).or(Some(set));
    }
    Ok(Desired {
        audience: target.audience(),
        generation,
        activity: numbers::uuid(now)?,
        issued_at: now.rfc3339(),
        rollout: Some(rollout),
        ..document
    })
}

/// The next generation of a rollout: the same set, the same activity, other terms.
pub fn go_on(before: &Desired, terms: &Terms, generation: u64, now: Unix) -> Result<Desired, FleetError> {
    let mut next = before.clone();
    let Some(rollout) = &mut next.rollout else {
        return Err(FleetError::Invalid(format!(
            "generation {} has no rollout that could go on; deploy it again",
            before.generation
        )));
    };
    terms.apply(rollout);
    if let (Some(issued), Some(expires)) = (
        Unix::parse_rfc3339(&before.issued_at),
        before.expires_at.as_deref().and_then(Unix::parse_rfc3339),
    ) {
        let life = expires.0.saturating_sub(issued.0);
        next.expires_at = Some(Unix(now.0 + life).rfc3339());
    }
    next.generation = generation;
    next.issued_at = now.rfc3339();
    next.retry.clear();
    Ok(next)
}

/// Every reason for which devices would refuse it, and what can only be a slip.
pub fn check(document: &Desired, pinned: bool) -> Result<(), FleetError> {
    let mut found = desired::problems(document, pinned);
    if let Some(rollout) = &document.rollout {
        if !rollout.wave.iter().all(|label| is_name(label)) {
            found.push("`wave`: labels match [a-z0-9][a-z0-9_-]{0,62}".into());
        }
        if let Err(text) = rollout.rate() {
            found.push(format!("`max_rate`: {text}"));
        }
    }
    let unknown = document
        .retry
        .iter()
        .find(|name| document.apps_ref.is_none() && !document.apps.iter().any(|app| app.name == **name));
    if let Some(name) = unknown {
        found.push(format!("`retry`: no app `{name}` in this set"));
    }
    if found.is_empty() {
        Ok(())
    } else {
        Err(FleetError::Invalid(found.join("; ")))
    }
}

/// What an assignment is to say; `None` leaves what is assigned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Groups in order.
    pub groups: Option<Vec<String>>,
    /// Labels.
    pub labels: Option<Vec<String>>,
    /// `UTC` or an offset.
    pub time_zone: Option<String>,
    /// Its link costs money.
    pub metered: Option<bool>,
    /// It takes no part any more.
    pub retired: Option<bool>,
}

/// The next assignment of a device.
pub fn assign(device: &str, before: Option<&Document>, wish: &Assignment, now: Unix) -> Result<Assign, FleetError> {
    let mut next = Assign::default();
    if let Some(before) = before.filter(|before| before.distrust.is_none()) {
        let text = before.value.to_string();
        next = read::json(text.as_bytes())
            .map_err(|e| FleetError::Invalid(format!("the assignment that the broker has: {e}")))?;
        next.expires_at = None;
    }
    next.audience = format!("d/{device}");
    next.generation = numbers::next(now, before.map(Document::generation));
    next.issued_at = now.rfc3339();
    if let Some(groups) = &wish.groups {
        next.groups.clone_from(groups);
    }
    if let Some(labels) = &wish.labels {
        next.labels.clone_from(labels);
    }
    if wish.time_zone.is_some() {
        next.time_zone.clone_from(&wish.time_zone);
    }
    next.metered = wish.metered.unwrap_or(next.metered);
    next.retired = wish.retired.unwrap_or(next.retired);
    let names = next.groups.iter().chain(&next.labels);
    if let Some(bad) = names.clone().find(|name| !is_name(name)) {
        let text = format!("`{bad}`: groups and labels match [a-z0-9][a-z0-9_-]{{0,62}}");
        return Err(FleetError::Invalid(text));
    }
    let groups = crate::types::bounds::GROUPS;
    if next.groups.len() > groups || next.labels.len() > 64 {
        return Err(FleetError::Invalid(format!("at most {groups} groups and 64 labels")));
    }
    Ok(next)
}

/// How a publication went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Its generation in the end.
    pub generation: u64,
    /// Generations of others that it was published over.
    pub over: Vec<u64>,
    /// The generation of somebody who has published over it since.
    pub under: Option<u64>,
}

/// Publishes what `make` gives for a generation in this form, or in that of the document before, retained on the topic of `target`, and
/// reads it back: where somebody else's
/// document with the same or a higher generation came meanwhile, a higher one goes over it. The topic is subscribed already and
/// what is retained is in `seen`.
pub fn publish(
    link: &mut Link,
    seen: &mut Seen,
    operator: &Operator,
    target: &Target,
    encoding: Option<Encoding>,
    make: &mut dyn FnMut(u64, &Seen) -> Result<Desired, FleetError>,
) -> Result<Published, FleetError> {
    let topic = format!("{}/desired", target.audience());
    let mut over = Vec::new();
    for _ in 0..TRIES {
        let now = numbers::now();
        let generation = numbers::next(now, seen.generations(target).into_iter().chain(over.iter().copied()));
        let document = make(generation, seen)?;
        let before = || seen.document(target).map(|before| before.encoding);
        let encoding = encoding.or_else(before).unwrap_or_default();
        let message = sign::message(Kind::Desired, &document, encoding, &operator.keys)?;
        if message.len() > DOCUMENT_BYTES {
            let text = format!(
                "the document has {} bytes, devices accept {DOCUMENT_BYTES}",
                message.len()
            );
            return Err(FleetError::Invalid(text));
        }
        if let Err(error) = dsse::open(&message, Kind::Desired, &operator.trusted) {
            let text = "show it with --dry-run, pass it round with `dunlin fleet sign`, and deploy the signed file";
            return Err(FleetError::Invalid(format!(
                "the document would not be believed: {error}; {text}"
            )));
        }
        link.publish(&topic, &message, true)?;
        match read_back(link, seen, operator, target, &message, generation)? {
            Back::Ours { under } => {
                return Ok(Published {
                    generation,
                    over,
                    under,
                });
            }
            Back::Conflict(other) => over.push(other),
        }
        // Two who do the same at the same time do not meet again and again.
        let pause = Duration::from_millis(u64::from(numbers::random::<1>()?[0]) * 3);
        settle(link, seen, operator, pause)?;
    }
    Err(FleetError::Invalid(format!(
        "others publish to `{topic}` all the time; generations {over:?} were published over"
    )))
}

/// Publishes a message of its own kind that is ready, retained, and waits until it comes back.
pub fn publish_ready(link: &mut Link, topic: &str, message: &[u8]) -> Result<(), FleetError> {
    link.publish(topic, message, true)?;
    let until = Instant::now() + BACK_MAX;
    while let Some(heard) = link.next(BACK.min(until.saturating_duration_since(Instant::now())))? {
        if heard.topic == topic && heard.payload == message {
            return Ok(());
        }
    }
    Err(not_back(topic))
}

enum Back {
    Ours { under: Option<u64> },
    Conflict(u64),
}

fn not_back(topic: &str) -> FleetError {
    FleetError::Invalid(format!(
        "`{topic}` did not come back from the broker within {} s; may this user publish and read there?",
        BACK.as_secs()
    ))
}

fn read_back(
    link: &mut Link,
    seen: &mut Seen,
    operator: &Operator,
    target: &Target,
    message: &[u8],
    generation: u64,
) -> Result<Back, FleetError> {
    let topic = format!("{}/desired", target.audience());
    let until = Instant::now() + BACK_MAX;
    let mut conflict = None;
    loop {
        let Some(heard) = link.next(BACK.min(until.saturating_duration_since(Instant::now())))? else {
            return Err(not_back(&topic));
        };
        let about = seen.take(&heard, &operator.trusted);
        if heard.topic != topic {
            continue;
        }
        if heard.payload == message {
            break;
        }
        let theirs = about
            .and_then(|_| seen.document(target))
            .map_or(0, Document::generation);
        if theirs >= generation {
            conflict = Some(theirs);
        }
    }
    if let Some(theirs) = conflict {
        return Ok(Back::Conflict(theirs));
    }
    settle(link, seen, operator, SETTLE)?;
    let last = seen.document(target).filter(|last| last.message != message);
    Ok(match last.map(Document::generation) {
        Some(theirs) if theirs == generation => Back::Conflict(theirs),
        // Whoever publishes a higher number has seen ours.
        Some(theirs) if theirs > generation => Back::Ours { under: Some(theirs) },
        _ => Back::Ours { under: None },
    })
}

/// Takes in what comes within a time.
fn settle(link: &mut Link, seen: &mut Seen, operator: &Operator, time: Duration) -> Result<(), FleetError> {
    let until = Instant::now() + time;
    while let Some(heard) = link.next(until.saturating_duration_since(Instant::now()))? {
        seen.take(&heard, &operator.trusted);
    }
    Ok(())
}

/// The signed or, in JSON without keys, bare assignment.
pub fn assignment(document: &Assign, operator: &Operator) -> Result<Vec<u8>, FleetError> {
    sign::message(Kind::Assign, document, operator.encoding, &operator.keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Unix = Unix(1_795_302_000_000);

    fn set(image: &str) -> Desired {
        content("x", &format!("name='web'\nimage='r.example/{image}:1'")).unwrap()
    }

    fn group() -> Target {
        Target::Group("line".into())
    }

    fn percent(percent: f64) -> Terms {
        Terms {
            percent: Some(percent),
            ..Terms::default()
        }
    }

    #[test]
    fn sets_come_from_toml_and_json() {
        for (text, names) in [
            ("name='a'\nimage='r.example/x:1'", Some("a")),
            (
                "[[app]]\nname='a'\nimage='r.example/x:1'\n[[app]]\nname='b'\nimage='r.example/x:1'",
                Some("ab"),
            ),
            (
                r#" {"apps":[{"name":"a","image":"r.example/x:1"}],"defer":true}"#,
                Some("a"),
            ),
            (r#"{"generation":9,"audience":"d/x","apps":[]}"#, Some("")),
            (r#"{"apps":[],"appz":1}"#, None),
            ("name='a'", None),
            ("[[app]]\nname='a'\nimage='x'\nport=1", None),
            ("{", None),
        ] {
            let found = content("x", text).ok();
            let found = found.map(|d| d.apps.iter().map(|app| app.name.as_str()).collect::<String>());
            assert_eq!(found.as_deref(), names, "{text}");
        }
    }

    #[test]
    fn base_is_what_the_others_run() {
        let all = begin(&group(), set("a"), &Terms::default(), None, 5, NOW).unwrap();
        let first = all.rollout.clone().unwrap();
        assert_eq!((first.base, first.id.as_str(), first.percent), (None, "r-5", 100.0));
        let some = begin(&group(), set("b"), &percent(5.0), Some(&all), 6, NOW).unwrap();
        let base = Some(set_digest(&all.apps));
        assert_eq!(some.rollout.as_ref().unwrap().base, base);
        let mended = begin(&group(), set("c"), &percent(5.0), Some(&some), 7, NOW).unwrap();
        assert_eq!(
            mended.rollout.as_ref().unwrap().base,
            base,
            "most devices never left it"
        );
        let fresh = begin(&group(), set("c"), &percent(5.0), None, 7, NOW).unwrap();
        assert_eq!(fresh.rollout.unwrap().base, Some(set_digest(&[])));
        assert_ne!(mended.activity, some.activity);
    }

    #[test]
    fn a_rollout_goes_on_with_the_same_set_salt_and_activity() {
        let mut first = begin(&group(), set("a"), &percent(5.0), None, 5, NOW).unwrap();
        first.expires_at = Some(Unix(NOW.0 + 60_000).rfc3339());
        first.retry = vec!["web".into()];
        let later = Unix(NOW.0 + 1_000_000);
        let next = go_on(&first, &percent(25.0), 6, later).unwrap();
        let (a, b) = (first.rollout.clone().unwrap(), next.rollout.clone().unwrap());
        assert_eq!((&a.id, &a.salt, a.base), (&b.id, &b.salt, b.base));
        assert_eq!((b.percent, next.generation), (25.0, 6));
        assert_eq!((&next.apps, &next.activity), (&first.apps, &first.activity));
        assert_eq!(next.expires_at, Some(Unix(later.0 + 60_000).rfc3339()));
        assert!(next.retry.is_empty(), "a quarantine is lifted once");
        first.rollout = None;
        assert!(go_on(&first, &percent(25.0), 6, later).is_err());
    }

    #[test]
    fn what_devices_would_refuse_is_told_before() {
        let good = begin(&group(), set("a"), &Terms::default(), None, 5, NOW).unwrap();
        assert!(check(&good, false).is_ok());
        assert!(check(&good, true).is_err(), "a tag");
        let mut bad = good;
        bad.retry = vec!["other".into()];
        let rollout = bad.rollout.as_mut().unwrap();
        rollout.percent = 101.0;
        rollout.window = Some("2-4".into());
        rollout.not_before = Some("soon".into());
        rollout.max_rate = Some("1".into());
        rollout.wave = vec!["Bad".into()];
        let text = check(&bad, false).unwrap_err().to_string();
        for key in ["percent", "window", "not_before", "max_rate", "wave", "retry"] {
            assert!(text.contains(key), "{key} in {text}");
        }
    }

    #[test]
    fn assignments_keep_what_is_not_said() {
        let before = Document {
            value: json!({"audience":"d/x","generation":7_000_000_000u64,"issued_at":"2026-01-01T00:00:00Z","groups":["a"],"labels":["canary"]}),
            ..Document::default()
        };
        let wish = Assignment {
            groups: Some(vec!["b".into(), "a".into()]),
            metered: Some(true),
            ..Assignment::default()
        };
        let next = assign("x", None, &wish, NOW).unwrap();
        assert_eq!((next.generation, next.labels.len()), (NOW.seconds(), 0));
        let mut known = before.clone();
        known.value["generation"] = json!(1_795_302_100);
        let next = assign("x", Some(&known), &wish, NOW).unwrap();
        assert_eq!((next.generation, next.metered), (1_795_302_101, true));
        assert_eq!(
            (next.groups, next.labels),
            (vec!["b".into(), "a".into()], vec!["canary".to_owned()])
        );
        let forged = Document {
            distrust: Some("x".into()),
            ..before
        };
        assert!(
            assign("x", Some(&forged), &Assignment::default(), NOW)
                .unwrap()
                .groups
                .is_empty()
        );
        let bad = Assignment {
            labels: Some(vec!["A B".into()]),
            ..Assignment::default()
        };
        assert!(assign("x", None, &bad, NOW).is_err());
    }
}

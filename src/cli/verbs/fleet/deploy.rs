//! fleet deploy, promote, halt, resume, assign, retire: documents for devices.

use super::super::super::failure::say;
use super::{Call, Failure, document, given_span, print};
use crate::engine::unshare;
use crate::fleet::link::Link;
use crate::fleet::rollout::{self, Assignment, Published, Terms};
use crate::fleet::seen::{self, LEAVES, Seen};
use crate::fleet::{FleetError, Operator, Target, images, numbers, sign};
use crate::types::bounds::DOCUMENT_LIFE_MS;
use crate::types::document::{Desired, Encoding};
use crate::types::read;
use crate::types::time::Unix;
use crate::uplink::dsse::{self, Kind};
use std::time::{Duration, Instant};

/// The longest wait for a device to confirm that it is retired.
const CONFIRM: Duration = Duration::from_secs(60);

/// `fleet deploy`.
pub fn deploy(call: &Call) -> Result<u8, Failure> {
    let operator = call.operator()?;
    let target = call.target()?;
    let terms = terms(call)?;
    let mut texts = Vec::new();
    for file in call.args.many("FILE") {
        texts.push((file.as_str(), document(file)?));
    }
    if let [(_, text)] = &texts[..]
        && read::json_any(text.as_bytes()).is_ok_and(|value| value["payloadType"].is_string())
    {
        return envelope(call, &operator, &target, text.trim().as_bytes());
    }
    let mut wish = content(&texts)?;
    wish.retry.extend(call.args.many("retry").iter().cloned());
    let life = given_span(call.args, "expires")?;
    images::pin(&mut wish.apps, &operator.registry, unshare::caller())?;
    if let Some(repository) = call.args.one("apps-ref") {
        let (registry, pinned) = (&operator.registry, !operator.trusted.keys.is_empty());
        wish.apps_ref = Some(images::publish(
            &wish.apps,
            repository,
            pinned,
            registry,
            unshare::caller(),
        )?);
        wish.apps.clear();
    }
    let make = |generation, seen: &Seen| -> Result<Desired, FleetError> {
        let now = numbers::now();
        let before = match seen.document(&target) {
            Some(before) => before.desired().map(Some),
            None => Ok(None),
        };
        // What cannot be believed is no base for anybody.
        let before = match before {
            Err(error) if terms.percent.is_some_and(|p| p < 100.0) && terms.base.is_none() => return Err(error),
            before => before.unwrap_or(None),
        };
        let mut document = rollout::begin(&target, wish.clone(), &terms, before.as_ref(), generation, now)?;
        if let Some(life) = life {
            document.expires_at = Some(Unix(now.0 + life.ms().min(10 * DOCUMENT_LIFE_MS)).rfc3339());
        }
        rollout::check(&document, !operator.trusted.keys.is_empty())?;
        Ok(document)
    };
    // Mistakes are told before anything is asked of the broker.
    make(0, &Seen::default())?;
    let mut link = call.link(&operator)?;
    let mut known = Seen::default();
    gather(call, &mut link, &operator, &mut known, &target)?;
    let unable = known.unable(&target, operator.encoding);
    if !unable.is_empty() {
        say(&format!(
            "these devices refuse documents in {}, as their caps do not name it: {}",
            operator.encoding.word(),
            unable.join(" ")
        ));
    }
    if call.args.has("dry-run") {
        let generation = numbers::next(numbers::now(), known.generations(&target));
        let document = make(generation, &known)?;
        link.close();
        return show(&document, &known, &target);
    }
    finish(link, &operator, known, &target, Some(operator.encoding), make)
}

/// `fleet promote`, `halt`, `resume`: the same set, other terms.
pub fn go_on(call: &Call) -> Result<u8, Failure> {
    let operator = call.operator()?;
    let target = call.target()?;
    let mut terms = terms(call)?;
    match call.args.verb.as_str() {
        "promote" => terms.percent = terms.percent.or(Some(100.0)),
        verb => terms.halted = Some(verb == "halt"),
    }
    let mut link = call.link(&operator)?;
    let mut known = Seen::default();
    gather(call, &mut link, &operator, &mut known, &target)?;
    let make = |generation, seen: &Seen| {
        let Some(before) = seen.document(&target) else {
            return Err(FleetError::Invalid(format!(
                "the broker has no desired state of `{}`; `dunlin fleet deploy` makes one",
                target.audience()
            )));
        };
        let document = rollout::go_on(&before.desired()?, &terms, generation, numbers::now())?;
        rollout::check(&document, !operator.trusted.keys.is_empty())?;
        Ok(document)
    };
    // Whoever has taken the one takes the next.
    finish(link, &operator, known, &target, None, make)
}

/// An envelope that was signed before is published with the signatures that it has.
fn envelope(call: &Call, operator: &Operator, target: &Target, message: &[u8]) -> Result<u8, Failure> {
    let document = dsse::open(message, Kind::Desired, &operator.trusted).map_err(|e| Failure::new(e.to_string()))?;
    let document: Desired = read::json(&document).map_err(|e| Failure::new(e.to_string()))?;
    if document.audience != target.audience() {
        return Err(Failure::new(format!(
            "the envelope is for `{}`, not for `{}`",
            document.audience,
            target.audience()
        )));
    }
    rollout::check(&document, !operator.trusted.keys.is_empty())?;
    let mut link = call.link(operator)?;
    let mut known = Seen::default();
    gather(call, &mut link, operator, &mut known, target)?;
    let highest = known.generations(target).into_iter().max().unwrap_or(0);
    if highest >= document.generation {
        return Err(Failure::new(format!(
            "the envelope has generation {}, and `{}` has {highest} already; make and sign it anew",
            document.generation,
            target.audience()
        )));
    }
    let message = sign::ready(message)?;
    rollout::publish_ready(&mut link, &format!("{}/desired", target.audience()), &message)?;
    link.close();
    print(&format!("{} generation {}\n", target.audience(), document.generation))?;
    Ok(0)
}

fn finish(
    mut link: Link,
    operator: &Operator,
    mut known: Seen,
    target: &Target,
    encoding: Option<Encoding>,
    mut make: impl FnMut(u64, &Seen) -> Result<Desired, FleetError>,
) -> Result<u8, Failure> {
    let published = rollout::publish(&mut link, &mut known, operator, target, encoding, &mut make)?;
    link.close();
    let Published {
        generation,
        over,
        under,
    } = published;
    for other in over {
        say(&format!(
            "conflict: somebody else published generation {other} of `{}` at the same time; generation {generation} goes over it",
            target.audience()
        ));
    }
    print(&format!("{} generation {generation}\n", target.audience()))?;
    match under {
        None => Ok(0),
        Some(theirs) => Err(Failure::with_code(
            1,
            format!(
                "somebody else published generation {theirs} of `{}` right after; that one counts now",
                target.audience()
            ),
        )),
    }
}

/// What the broker has for a target and from its devices.
fn gather(call: &Call, link: &mut Link, operator: &Operator, known: &mut Seen, target: &Target) -> Result<(), Failure> {
    let leaves: &[&str] = match target {
        Target::Device(_) => &LEAVES,
        Target::Group(_) => match operator.encoding {
            Encoding::Json => &["reported", "deploy", "assign", "desired", "presence"],
            // What the devices can read.
            Encoding::Postcard => &LEAVES,
        },
    };
    link.subscribe(seen::filters(Some(target), leaves, &call.exact));
    Ok(known.gather(link, &operator.trusted, call.timeout)?)
}

fn terms(call: &Call) -> Result<Terms, Failure> {
    let args = call.args;
    let text = |name: &str| args.one(name).map(str::to_owned);
    let percent = args.one("percent").map(|text| {
        let number = text.trim_end_matches('%').trim().parse::<f64>();
        number.map_err(|_| Failure::new(format!("--percent `{text}` is no number from 0 to 100")))
    });
    let base = args
        .one("base")
        .map(|text| text.parse().map_err(|e| Failure::new(format!("--base `{text}`: {e}"))));
    Ok(Terms {
        percent: percent.transpose()?,
        wave: args.many("wave").to_vec(),
        window: text("window"),
        spread: given_span(args, "spread")?,
        not_before: text("not-before"),
        max_rate: text("max-rate"),
        urgent: args.has("urgent").then_some(true),
        halted: None,
        base: base.transpose()?,
    })
}

/// The set that all files make together.
fn content(texts: &[(&str, String)]) -> Result<Desired, Failure> {
    let mut whole: Option<Desired> = None;
    for (file, text) in texts {
        let next = rollout::content(file, text)?;
        match &mut whole {
            None => whole = Some(next),
            Some(whole) => whole.apps.extend(next.apps),
        }
    }
    whole.ok_or_else(|| Failure::new("no file is named"))
}

fn show(document: &Desired, known: &Seen, target: &Target) -> Result<u8, Failure> {
    let shown = serde_json::to_value(document).map_err(|e| Failure::new(e.to_string()))?;
    print(&format!("{shown:#}\n"))?;
    let devices: Vec<_> = known.subjects(target).collect();
    let part = |(name, device): &&(&String, &seen::Device)| {
        let rollout = document.rollout.as_ref();
        rollout.is_none_or(|rollout| device.takes_part(name, rollout))
    };
    let taking: Vec<&str> = devices.iter().filter(part).map(|(name, _)| name.as_str()).collect();
    // Beside the document, which may go into a file to be signed.
    say(&format!(
        "{} of {} devices would take part\n{}",
        taking.len(),
        devices.len(),
        taking.iter().map(|name| format!("  {name}\n")).collect::<String>()
    ));
    Ok(0)
}

/// `fleet assign`.
pub fn assign(call: &Call) -> Result<u8, Failure> {
    let args = call.args;
    let list = |name: &str| args.has(name).then(|| args.many(name).to_vec());
    let metered = match args.one("metered") {
        None => None,
        Some("true") => Some(true),
        Some("false") => Some(false),
        Some(other) => return Err(Failure::new(format!("--metered `{other}`: true or false"))),
    };
    let wish = Assignment {
        groups: list("group"),
        labels: list("label"),
        time_zone: args.one("time-zone").map(str::to_owned),
        metered,
        retired: None,
    };
    if wish == Assignment::default() {
        return Err(Failure::new(
            "nothing to assign: say --group, --label, --time-zone or --metered",
        ));
    }
    let operator = call.operator()?;
    let device = call.device()?;
    let mut link = call.link(&operator)?;
    let generation = put(call, &mut link, &operator, &device, &wish)?.0;
    link.close();
    print(&format!("d/{device} assignment {generation}\n"))?;
    Ok(0)
}

/// Publishes a device's next assignment; gives its generation and what was known of the device.
fn put(
    call: &Call,
    link: &mut Link,
    operator: &Operator,
    device: &str,
    wish: &Assignment,
) -> Result<(u64, Seen), Failure> {
    let target = Target::Device(device.to_owned());
    let mut known = Seen::default();
    gather(call, link, operator, &mut known, &target)?;
    let before = known.devices.get(device).and_then(|device| device.assign.as_ref());
    let document = rollout::assign(device, before, wish, numbers::now())?;
    let message = rollout::assignment(&document, operator)?;
    rollout::publish_ready(link, &format!("d/{device}/assign"), &message)?;
    Ok((document.generation, known))
}

/// `fleet retire`.
pub fn retire(call: &Call) -> Result<u8, Failure> {
    let operator = call.operator()?;
    let device = call.device()?;
    let mut link = call.link(&operator)?;
    let wish = Assignment {
        retired: Some(true),
        ..Assignment::default()
    };
    let (generation, mut known) = put(call, &mut link, &operator, &device, &wish)?;
    if !call.args.has("force") {
        confirmed(call, &mut link, &operator, &mut known, &device)?;
    }
    // Its secrets are found by their names, which nobody keeps.
    link.subscribe([format!("d/{device}/secret/+")]);
    // A device that has not heard of it finds its assignment when it comes back.
    let stays = |leaf: &&&str| call.args.has("force") && **leaf == "assign";
    let leaves = LEAVES.iter().filter(|leaf| !stays(leaf));
    let mut topics: Vec<String> = leaves.map(|leaf| format!("d/{device}/{leaf}")).collect();
    while let Some(heard) = link.next(Duration::from_millis(1000))? {
        if heard.topic.starts_with(&format!("d/{device}/secret/")) && !heard.payload.is_empty() {
            topics.push(heard.topic);
        }
    }
    for topic in topics {
        link.publish(&topic, b"", true)?;
    }
    link.close();
    print(&format!("d/{device} retired with assignment {generation}\n"))?;
    Ok(0)
}

/// Waits until the device has cleared its own topics: what it does when it is retired.
fn confirmed(call: &Call, link: &mut Link, operator: &Operator, known: &mut Seen, device: &str) -> Result<(), Failure> {
    let until = Instant::now() + call.timeout.max(CONFIRM);
    loop {
        let said = known.devices.get(device);
        if said.is_none_or(|said| said.presence.is_null() && said.reported.is_null() && said.caps.is_null()) {
            return Ok(());
        }
        let left = until.saturating_duration_since(Instant::now());
        let Some(heard) = link.next(left)? else {
            return Err(Failure::with_code(
                1,
                format!(
                    "`d/{device}` is retired, but has not cleared its topics within {} s; they stay until it comes back, or \
                     until `dunlin fleet retire --force {device}`",
                    call.timeout.max(CONFIRM).as_secs()
                ),
            ));
        };
        known.take(&heard, &operator.trusted);
    }
}

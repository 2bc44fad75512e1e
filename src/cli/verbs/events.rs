//! events.

use super::super::args::EventsArgs;
use super::super::failure::Failure;
use super::super::template::Template;
use super::super::time;
use super::print;
use crate::engine::Engine;
use crate::engine::events::Happened;
use crate::engine::filter::point;
use serde_json::{Value, json};
use std::time::Duration;

/// Wait between two looks at what happened.
const LOOK: Duration = Duration::from_millis(100);
/// Conditions.
const KEYS: [&str; 5] = ["container", "event", "image", "type", "volume"];

pub fn events(engine: &Engine, args: &EventsArgs) -> Result<u8, Failure> {
    let now = time::now();
    let at = |flag: &str, text: &Option<String>| match text {
        None => Ok(None),
        Some(text) => point(text, now)
            .map(Some)
            .ok_or_else(|| Failure::new(format!("{flag} `{text}`: neither a time nor a duration"))),
    };
    let (since, until) = (at("--since", &args.since)?, at("--until", &args.until)?);
    let mut conditions = Vec::new();
    for text in &args.filter {
        let known = text.split_once('=').filter(|(key, _)| KEYS.contains(key));
        conditions.push(known.ok_or_else(|| {
            Failure::new(format!(
                "filter `{text}`: write KEY=VALUE with one of {}",
                KEYS.join(", ")
            ))
        })?);
    }
    let template = match args.format.as_deref() {
        None | Some("" | "json") => None,
        Some(format) => Some(Template::parse(format)?),
    };
    let stream = args.stream.unwrap_or(true) && !args.no_stream;
    // A stream begins now where nothing is said; a look at what was, at the beginning.
    let since = since.or(stream.then_some(now).filter(|_| args.until.is_none()));
    let mut all = engine.events();
    loop {
        while let Some(event) = all.next_event()? {
            if until.is_some_and(|until| event.at > until) {
                return Ok(0);
            }
            if since.is_some_and(|since| event.at < since) || !fits(&event, &conditions) {
                continue;
            }
            let text = match &template {
                Some(template) => template.render(&value(&event))? + "\n",
                None if args.format.as_deref() == Some("json") => value(&event).to_string() + "\n",
                None => line(&event),
            };
            print(&text)?;
        }
        if !stream || until.is_some_and(|until| time::now() > until) {
            return Ok(0);
        }
        std::thread::sleep(LOOK);
    }
}

/// Values of one key are alternatives, keys must all fit.
fn fits(event: &Happened, conditions: &[(&str, &str)]) -> bool {
    let fits = |(key, value): &(&str, &str)| match *key {
        "container" => event.kind == "container" && (event.name == *value || event.id.starts_with(value)),
        "volume" => event.kind == "volume" && event.name == *value,
        "image" => event.image.contains(value) || (event.kind == "image" && event.name.contains(value)),
        "type" => event.kind == *value,
        _ => event.what == *value,
    };
    conditions
        .iter()
        .all(|one| conditions.iter().any(|other| other.0 == one.0 && fits(other)))
}

fn value(event: &Happened) -> Value {
    let mut value = json!({
        "ID": event.id,
        "Image": event.image,
        "Name": event.name,
        "Status": event.what,
        "Time": time::rfc3339(Some(event.at)),
        "Type": event.kind,
        "Attributes": {},
    });
    if let Some(code) = event.code {
        value["ContainerExitCode"] = code.into();
    }
    value
}

fn line(event: &Happened) -> String {
    let mut facts = vec![format!("name={}", event.name)];
    if event.kind == "container" {
        facts.insert(0, format!("image={}", event.image));
    }
    facts.extend(event.code.map(|code| format!("exitCode={code}")));
    let text = format!(
        "{} {} {} {} ({})",
        time::long(event.at),
        event.kind,
        event.what,
        event.id,
        facts.join(", ")
    );
    super::super::table::printable(&text) + "\n"
}

//! app and explain: what the agent manages, told from its files; changes go to the agent.

use super::super::args::{
    AppApplyArgs, AppLsArgs, AppNamesArgs, AppViewArgs, AutoUpdateArgs, FollowArgs, ResetTrustArgs,
};
use super::super::failure::{self, Failure};
use super::super::listing::Listing;
use super::super::{human, table, time};
use super::print;
use super::prune::confirmed;
use super::transfer::Given;
use crate::agent::control::{self, Request};
use crate::agent::explain::{self, Story};
use crate::agent::{auto, identity, intake, local};
use crate::deploy::engine;
use crate::deploy::files;
use crate::deploy::hands::{Ended, Phase};
use crate::disk::durable;
use crate::engine::Engine;
use crate::types::app::App;
use crate::types::bounds::APP_FILE_BYTES;
use crate::types::deployment::{Record, State};
use crate::types::health::HealthStatus;
use crate::types::read;
use crate::types::time::Unix;
use serde_json::{Map, Value, json};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The longest wait for the agent's answer.
const ANSWER: Duration = Duration::from_secs(20);
/// Wait between two looks at an update that is followed.
const LOOK: Duration = Duration::from_millis(100);
/// An update that has not begun after this was not needed.
const BEGIN: Duration = Duration::from_secs(3);

/// What is known, owned.
struct Known {
    stories: Vec<Story>,
    health: Option<Value>,
}

fn known(engine: &Engine) -> Result<Known, Failure> {
    let health = match control::ask(engine.layout(), &Request::Health, ANSWER) {
        Ok(answer) => answer.and_then(Result::ok),
        Err(error) => {
            failure::say(&format!("the agent does not answer: {error}"));
            None
        }
    };
    let stories = explain::gather(engine, health.is_some()).map_err(own)?;
    Ok(Known { stories, health })
}

fn own(error: impl std::fmt::Display) -> Failure {
    Failure::new(error.to_string())
}

/// `app ls`.
pub fn ls(engine: &Engine, args: &AppLsArgs) -> Result<u8, Failure> {
    let Known { stories, .. } = known(engine)?;
    if args.show.quiet {
        let names: String = stories.iter().map(|story| story.name.clone() + "\n").collect();
        print(&names)?;
        return Ok(0);
    }
    let now = time::now();
    let rows: Vec<Value> = stories.iter().map(|story| row(story, now)).collect();
    let listing = Listing {
        columns: vec![
            ("NAME", "Name"),
            ("IMAGE", "Image"),
            ("STATUS", "Status"),
            ("SOURCE", "Source"),
            ("UPDATE", "Update"),
        ],
        headers: &[],
        json: rows.clone(),
        rows,
    };
    print(&listing.render(args.show.format.as_deref(), args.show.noheading)?)?;
    Ok(0)
}

fn row(story: &Story, now: Unix) -> Value {
    let (image, spec) = match story.committed.as_ref().or(story.desired.as_ref()) {
        Some((image, spec)) => (image.as_str(), spec.hex()),
        None => ("", String::new()),
    };
    let digest = story.actual.as_ref().and_then(|one| one.image);
    json!({
        "Name": story.name,
        "Image": short(image),
        "Status": status(story, now),
        "Source": story.source,
        "Generation": story.generation,
        "Update": story.update.as_ref().map_or("", |(state, ..)| state.as_str()),
        "State": story.status(),
        "Health": story.health().as_str(),
        "Spec": spec,
        "Digest": digest.map(|digest| digest.to_string()),
        "Blocks": story.blocks,
    })
}

/// A reference whose digest is cut to 12 digits.
fn short(image: &str) -> String {
    match image.split_once("@sha256:") {
        Some((name, digest)) => format!("{name}@{}", digest.get(..12).unwrap_or(digest)),
        None => image.to_owned(),
    }
}

/// The status in `ps`' words.
fn status(story: &Story, now: Unix) -> String {
    match story.actual.as_ref().map(|one| one.phase) {
        None => "Missing".into(),
        Some(Phase::Created) => "Created".into(),
        Some(Phase::Lost) => "Dead".into(),
        Some(Phase::Ended(Ended { code, at, .. })) => format!("Exited ({code}) {}", time::ago(at, now)),
        Some(Phase::Running { since, health }) => {
            let up = human::duration(time::since(since, now));
            match health {
                HealthStatus::None => format!("Up {up}"),
                health => format!("Up {up} ({})", health.as_str()),
            }
        }
    }
}

/// `explain`.
pub fn explain(engine: &Engine, args: &AppViewArgs) -> Result<u8, Failure> {
    let known = known(engine)?;
    let now = time::now();
    let mut stories: Vec<&Story> = known.stories.iter().collect();
    if let Some(name) = &args.app {
        stories.retain(|story| story.name == *name);
        if stories.is_empty() {
            return Err(Failure::new(format!(
                "no app `{name}` is wanted or runs here; `dunlin app ls` lists all"
            )));
        }
    }
    match args.format.as_deref() {
        None => {}
        Some("json") => {
            let apps: Vec<Value> = stories.iter().map(|story| row(story, now)).collect();
            let value = json!({ "Agent": known.health, "Apps": apps });
            return print(&format!("{value:#}\n")).map(|()| 0);
        }
        Some(other) => return Err(Failure::new(format!("format `{other}` is not known; only `json` is"))),
    }
    let mut text = String::new();
    if args.app.is_none() {
        text.push_str(&agent_line(known.health.as_ref()));
    }
    for story in stories {
        text.push_str(&paragraph(story, now));
    }
    print(&text)?;
    Ok(0)
}

fn agent_line(health: Option<&Value>) -> String {
    let Some(health) = health else {
        return "The agent is not running; the apps are as it left them.\n".into();
    };
    let word = |name: &str| table::printable(health[name].as_str().unwrap_or("?"));
    let broker = match health["broker"].as_bool() {
        Some(true) => "connected to its broker",
        Some(false) => "not connected to its broker",
        None => "without a broker",
    };
    let clock = match health["clock"].as_bool() {
        Some(true) => "",
        _ => ", its clock not synchronised",
    };
    let mut text = format!("Agent {} of `{}` {broker}{clock}.\n", word("agent"), word("device"));
    if health["distrust"].is_string() {
        text += &format!(
            "It takes nothing over MQTT: {}; `dunlin app reset-trust` begins anew.\n",
            word("distrust")
        );
    }
    text
}

fn paragraph(story: &Story, now: Unix) -> String {
    let version = |version: &Option<(String, crate::types::digest::Digest)>| match version {
        Some((image, spec)) => format!("{} (version {})", short(image), &spec.hex()[..8]),
        None => "nothing".into(),
    };
    let mut lines = vec![match story.generation {
        0 => ("source", story.source.clone()),
        generation => ("source", format!("{}, generation {generation}", story.source)),
    }];
    lines.push(("desired", version(&story.desired)));
    if story.committed != story.desired {
        lines.push(("committed", version(&story.committed)));
    }
    let ran = story.actual.as_ref().map(|one| one.spec.hex()[..8].to_owned());
    let of = ran.map(|spec| format!(", version {spec}")).unwrap_or_default();
    lines.push(("actual", format!("{}{of}", status(story, now))));
    if let Some((state, since, why)) = &story.update {
        let why = if why.is_empty() {
            String::new()
        } else {
            format!(": {why}")
        };
        lines.push(("update", format!("{state} since {}{why}", time::ago(*since, now))));
    }
    match story.blocks.as_slice() {
        [] => lines.push(("blocked by", "nothing".into())),
        blocks => lines.extend(blocks.iter().map(|block| ("blocked by", block.clone()))),
    }
    let mut text = format!("\n{}\n", story.name);
    for (word, line) in lines {
        text.push_str(&format!("  {word:<10}  {}\n", table::printable(&line)));
    }
    text
}

/// `app history`.
pub fn history(engine: &Engine, args: &AppViewArgs) -> Result<u8, Failure> {
    let loaded = files::peek(&engine.layout().agent()).map_err(own)?;
    let records = loaded
        .history
        .finals
        .iter()
        .rev()
        .chain(loaded.journal.active.iter().map(|one| &one.record));
    let mut records: Vec<&Record> = records.collect();
    if let Some(name) = &args.app {
        records.retain(|record| record.apps.iter().any(|app| app.name == *name));
    }
    records.sort_by_key(|record| std::cmp::Reverse(record.seq));
    let now = time::now();
    let row = |record: &&Record| {
        let apps: Vec<&str> = record.apps.iter().map(|app| app.name.as_str()).collect();
        json!({
            "When": time::ago(record.since, now),
            "State": record.state.as_str(),
            "Source": record.source,
            "Generation": record.generation,
            "Activity": record.activity,
            "Attempt": record.attempt,
            "Apps": apps.join(","),
            "Reason": record.reason.as_ref().map(|reason| table::printable(&reason.to_string())).unwrap_or_default(),
        })
    };
    let listing = Listing {
        columns: vec![
            ("WHEN", "When"),
            ("STATE", "State"),
            ("SOURCE", "Source"),
            ("ACTIVITY", "Activity"),
            ("APPS", "Apps"),
            ("REASON", "Reason"),
        ],
        headers: &[],
        rows: records.iter().map(row).collect(),
        json: records
            .iter()
            .filter_map(|record| {
                serde_json::to_vec(record)
                    .ok()
                    .and_then(|json| read::json_any(&json).ok())
            })
            .collect(),
    };
    print(&listing.render(args.format.as_deref(), false)?)?;
    Ok(0)
}

/// `app apply`.
pub fn apply(engine: &Engine, args: &AppApplyArgs, given: Given) -> Result<u8, Failure> {
    let folders = local::folders(engine.settings(), engine.layout());
    let mut texts: Vec<(App, String)> = Vec::new();
    let mut problems = Vec::new();
    for (path, file) in args.files.iter().zip(given) {
        let mut text = String::new();
        let Some(file) = file else { continue };
        let limit = APP_FILE_BYTES as u64;
        file.take(limit + 1)
            .read_to_string(&mut text)
            .map_err(|error| Failure::new(format!("`{}`: {error}", path.display())))?;
        if text.len() > APP_FILE_BYTES {
            return Err(Failure::new(format!(
                "`{}` is larger than {limit} bytes",
                path.display()
            )));
        }
        match read::toml::<App>(&text) {
            Ok(app) => texts.push((app, text)),
            Err(error) => problems.push(format!(
                "`{}`: {}",
                path.display(),
                error.to_string().trim().replace('\n', " ")
            )),
        }
    }
    let names: Vec<String> = texts.iter().map(|(app, _)| app.name.clone()).collect();
    for name in &names {
        let other = folders[0].join(format!("{name}.toml"));
        if other.exists() {
            problems.push(format!("app `{name}` stands in `{}`; change it there", other.display()));
        }
    }
    // The whole set must hold before anything of it is written; mistakes in other files do not count against these.
    let mut set: Vec<App> = local::read(&folders).unwrap_or_default();
    set.retain(|app| !names.contains(&app.name));
    set.extend(texts.iter().map(|(app, _)| app.clone()));
    if let Err(error) = local::finish(set, problems) {
        return Err(Failure::new(error.problems.join("\n")));
    }
    let before = last_seq(engine)?;
    durable::create_dirs(&folders[1]).map_err(own)?;
    for (app, text) in &texts {
        durable::write(&file_of(&folders[1], &app.name), text.as_bytes()).map_err(own)?;
    }
    let request = if args.retry {
        Request::Retry(names.clone())
    } else {
        Request::Reread
    };
    changed(engine, &request, &names, before, &args.follow)
}

/// `app rm`.
pub fn rm(engine: &Engine, args: &AppNamesArgs) -> Result<u8, Failure> {
    let folders = local::folders(engine.settings(), engine.layout());
    let before = last_seq(engine)?;
    for name in &args.names {
        if file_of(&folders[1], name).exists() {
            continue;
        }
        let other = file_of(&folders[0], name);
        if other.exists() {
            return Err(Failure::new(format!(
                "app `{name}` stands in `{}`; remove that file",
                other.display()
            )));
        }
        let owner = known(engine)?.stories.into_iter().find(|story| story.name == *name);
        return Err(Failure::new(match owner {
            Some(story) => format!(
                "app `{name}` belongs to `{}`; take it out of that desired state",
                story.source
            ),
            None => format!("no app `{name}`"),
        }));
    }
    for name in &args.names {
        durable::remove_file(&file_of(&folders[1], name)).map_err(own)?;
    }
    changed(engine, &Request::Reread, &args.names, before, &args.follow)
}

fn file_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.toml"))
}

/// `app rollback`.
pub fn rollback(engine: &Engine, args: &AppNamesArgs) -> Result<u8, Failure> {
    let [name] = args.names.as_slice() else {
        return Err(Failure::new("only one app can be rolled back at a time"));
    };
    let before = last_seq(engine)?;
    changed(
        engine,
        &Request::Rollback(name.clone()),
        &args.names,
        before,
        &args.follow,
    )
}

/// `app retry`.
pub fn retry(engine: &Engine, args: &AppNamesArgs) -> Result<u8, Failure> {
    let before = last_seq(engine)?;
    changed(
        engine,
        &Request::Retry(args.names.clone()),
        &args.names,
        before,
        &args.follow,
    )
}

/// `app unlock`.
pub fn unlock(engine: &Engine, args: &AppNamesArgs) -> Result<u8, Failure> {
    for name in &args.names {
        ask(engine, &Request::Unlock(name.clone()), ANSWER)?;
    }
    Ok(0)
}

/// `app reset-trust`.
pub fn reset_trust(engine: &Engine, args: &ResetTrustArgs) -> Result<u8, Failure> {
    if !args.force && !confirmed("what this device remembers of the documents that it has accepted over MQTT")? {
        return Ok(0);
    }
    ask(engine, &Request::ResetTrust, ANSWER)?;
    Ok(0)
}

/// Asks the agent, which must run.
pub(super) fn ask(engine: &Engine, request: &Request, patience: Duration) -> Result<Value, Failure> {
    let missing = || Failure::new("the agent is not running; start it and try again");
    asked(engine, request, patience)?.ok_or_else(missing)
}

fn asked(engine: &Engine, request: &Request, patience: Duration) -> Result<Option<Value>, Failure> {
    match control::ask(engine.layout(), request, patience) {
        Ok(None) => Ok(None),
        Ok(Some(Ok(value))) => Ok(Some(value)),
        Ok(Some(Err(text))) => Err(Failure::with_code(1, text)),
        Err(error) => Err(Failure::new(format!("the agent does not answer: {error}"))),
    }
}

fn last_seq(engine: &Engine) -> Result<u64, Failure> {
    Ok(files::peek(&engine.layout().agent()).map_err(own)?.journal.seq)
}

/// Asks the agent for a change and follows what comes of it.
fn changed(
    engine: &Engine,
    request: &Request,
    names: &[String],
    before: u64,
    follow: &FollowArgs,
) -> Result<u8, Failure> {
    let answer = match request {
        Request::Reread => asked(engine, request, ANSWER)?,
        _ => Some(ask(engine, request, ANSWER)?),
    };
    let Some(answer) = answer else {
        failure::say("the agent is not running; this takes effect when it starts");
        return Ok(0);
    };
    if follow.detach {
        return Ok(0);
    }
    let activity = answer["activity"].as_str();
    Ok(match followed(engine, activity, names, before, follow.wait)? {
        None => {
            failure::say("nothing had to be changed");
            0
        }
        Some(State::Committed) => 0,
        Some(State::Soaking) => {
            failure::say("it runs; `dunlin explain` tells how its soak goes");
            0
        }
        Some(_) => 1,
    })
}

/// Follows the update that begins after the sequence number `before`: its end, with `soaks` only that of its switch; `None` when none
/// began.
fn followed(
    engine: &Engine,
    activity: Option<&str>,
    names: &[String],
    before: u64,
    soaks: bool,
) -> Result<Option<State>, Failure> {
    let asked = Instant::now();
    let mut shown: Option<(State, String)> = None;
    loop {
        let loaded = files::peek(&engine.layout().agent()).map_err(own)?;
        let active = loaded.journal.active.iter().map(|one| &one.record);
        let fits = |record: &&Record| {
            record.seq > before
                && match activity {
                    Some(activity) => record.activity == activity,
                    None => record.apps.iter().any(|app| names.contains(&app.name)),
                }
        };
        let record = loaded
            .history
            .finals
            .iter()
            .chain(active)
            .filter(fits)
            .max_by_key(|record| record.seq);
        let Some(record) = record else {
            if asked.elapsed() > BEGIN {
                return Ok(None);
            }
            std::thread::sleep(LOOK);
            continue;
        };
        let why = record
            .reason
            .as_ref()
            .map(|reason| format!(": {reason}"))
            .unwrap_or_default();
        if shown
            .as_ref()
            .is_none_or(|(state, text)| *state != record.state || *text != why)
        {
            failure::say(&format!("{}{}", record.state, table::printable(&why)));
            shown = Some((record.state, why));
        }
        match record.state {
            State::Soaking if !soaks => return Ok(Some(State::Soaking)),
            state if state.is_final() => return Ok(Some(state)),
            _ => std::thread::sleep(LOOK),
        }
    }
}

/// The longest wait for the tags of all apps.
const TAGS: Duration = Duration::from_secs(600);

/// `auto-update`.
pub fn auto_update(engine: &Engine, args: &AutoUpdateArgs) -> Result<u8, Failure> {
    let dir = engine.layout().agent();
    let loaded = files::peek(&dir).map_err(own)?;
    let (documents, assign) = intake::accepted(&dir).map_err(own)?;
    let device = identity::device_name(engine.settings()).unwrap_or_default();
    let local = local::read(&local::folders(engine.settings(), engine.layout())).map_err(own)?;
    let documents = auto::documents(&local, &documents, &device, &assign.groups);
    let list = auto::read(engine.layout()).followed(documents.iter(), &loaded);
    let mut updated: Map<String, Value> = Map::new();
    let mut code = 0;
    if args.dry_run {
        let signed = !engine.settings().fleet.keys.is_empty();
        for one in &list {
            let told = match engine::latest(engine, &one.image, signed) {
                Ok(latest) if latest == one.now => "false".into(),
                Ok(_) => "pending".into(),
                Err(failure) => {
                    code = 1;
                    failure.cause.to_string()
                }
            };
            updated.insert(one.app.clone(), Value::from(told));
        }
    } else {
        let before = loaded.journal.seq;
        let answer = ask(engine, &Request::AutoUpdate, TAGS)?;
        for one in &list {
            let told = match &answer[&one.app] {
                Value::Bool(false) => "false".to_owned(),
                Value::Bool(true) => match followed(engine, None, std::slice::from_ref(&one.app), before, true)? {
                    Some(State::Committed) => "true".to_owned(),
                    Some(state) => {
                        code = 1;
                        state.as_str().to_ascii_lowercase().replace('_', " ")
                    }
                    None => "false".to_owned(),
                },
                other => {
                    code = 1;
                    other.as_str().unwrap_or("failed").to_owned()
                }
            };
            updated.insert(one.app.clone(), Value::from(told));
        }
    }
    let containers = engine::app_containers(engine).map_err(|failure| Failure::new(failure.cause.to_string()))?;
    let row = |one: &auto::Followed| {
        let container = containers.iter().find(|container| container.name == one.app);
        json!({
            "App": one.app,
            "Container": container.map(|one| format!("{} ({})", one.id.short(), one.name)).unwrap_or_default(),
            "Image": one.image,
            "Policy": "registry",
            "Updated": updated.get(&one.app).cloned().unwrap_or_default(),
        })
    };
    let rows: Vec<Value> = list.iter().map(row).collect();
    let listing = Listing {
        columns: vec![
            ("APP", "App"),
            ("CONTAINER", "Container"),
            ("IMAGE", "Image"),
            ("POLICY", "Policy"),
            ("UPDATED", "Updated"),
        ],
        headers: &[],
        json: rows.clone(),
        rows,
    };
    print(&listing.render(args.format.as_deref(), false)?)?;
    Ok(code)
}

//! volume create, ls, inspect, rm, prune and exists.

use super::super::args::{
    ExistsArgs, VolumeCreateArgs, VolumeInspectArgs, VolumeLsArgs, VolumePruneArgs, VolumeRmArgs,
};
use super::super::compose::key_values;
use super::super::failure::{Failure, say_error};
use super::super::listing::{Listing, json, render_object};
use super::super::time;
use super::lifecycle::seconds;
use super::pick::each;
use super::print;
use super::prune::confirmed;
use super::system::kept;
use crate::engine::filter::point;
use crate::engine::prune::Pruned;
use crate::engine::volume::{self, VolumeRecord};
use crate::engine::{Engine, EngineError};
use crate::types::time::Unix;
use serde_json::{Value, json as object};

/// Exit code of `volume exists` where it is not.
const MISSING: u8 = 1;

pub fn create(engine: &Engine, args: &VolumeCreateArgs) -> Result<u8, Failure> {
    if args.driver != "local" {
        return Err(Failure::new(format!(
            "--driver `{}`: volumes are folders of the store; leave it out",
            args.driver
        )));
    }
    if let Some(option) = args.opt.first() {
        return Err(Failure::new(format!(
            "--opt `{option}`: volumes are folders of the store and have no options; use --mount for other file systems"
        )));
    }
    let made = engine.create_volume(args.name.as_deref(), key_values("--label", &args.label, false)?)?;
    print(&format!("{}\n", made.name))?;
    Ok(0)
}

/// A volume as `inspect` shows it.
pub fn shown(engine: &Engine, found: &VolumeRecord) -> Result<Value, EngineError> {
    Ok(object!({
        "Name": found.name,
        "Driver": "local",
        "Mountpoint": volume::data(engine.layout(), &found.name),
        "CreatedAt": time::rfc3339(Some(found.created)),
        "Labels": found.labels,
        "Scope": "local",
        "Options": {},
        "MountCount": engine.volume_users(&found.name)?.len(),
        "NeedsCopyUp": found.fresh,
        "Anonymous": found.unnamed,
    }))
}

pub fn ls(engine: &Engine, args: &VolumeLsArgs) -> Result<u8, Failure> {
    let conditions = Conditions::parse(&args.filter, &["name", "label", "dangling", "driver", "scope", "until"])?;
    let mut rows = Vec::new();
    for found in engine.volumes()? {
        if conditions.fit(engine, &found)? {
            rows.push(shown(engine, &found)?);
        }
    }
    if args.show.quiet {
        let names = rows.iter().filter_map(|row| row["Name"].as_str());
        print(&names.map(|name| format!("{name}\n")).collect::<String>())?;
        return Ok(0);
    }
    if rows.is_empty() && args.show.format.is_none() {
        return Ok(0);
    }
    let listing = Listing {
        columns: vec![("DRIVER", "Driver"), ("VOLUME NAME", "Name")],
        headers: &[("Name", "VOLUME NAME")],
        json: rows.clone(),
        rows,
    };
    print(&listing.render(args.show.format.as_deref(), args.show.noheading)?)?;
    Ok(0)
}

pub fn inspect(engine: &Engine, args: &VolumeInspectArgs) -> Result<u8, Failure> {
    if args.all != args.names.is_empty() {
        return Err(Failure::new("name volumes, or ask for --all"));
    }
    let (mut found, mut code) = (Vec::new(), 0);
    for name in names(engine, args.all, &args.names)? {
        match engine.volume(&name).and_then(|one| shown(engine, &one)) {
            Ok(one) => found.push(one),
            Err(error) => {
                say_error(&error.to_string());
                code = error.exit_code();
            }
        }
    }
    match args.format.as_deref() {
        None | Some("json" | "") => print(&json(&Value::Array(found)))?,
        Some(format) => {
            for one in &found {
                print(&render_object(one, format)?)?;
            }
        }
    }
    Ok(code)
}

pub fn rm(engine: &Engine, args: &VolumeRmArgs) -> Result<u8, Failure> {
    if !args.all && args.names.is_empty() {
        return Err(Failure::new("choose at least one volume, or --all"));
    }
    each(&names(engine, args.all, &args.names)?, args.force, |name| {
        let removed = engine.remove_volume(name, args.force, seconds(args.time));
        print(&format!("{}\n", removed.map_err(Failure::of_removal)?))
    })
}

pub fn prune(engine: &Engine, args: &VolumePruneArgs) -> Result<u8, Failure> {
    let conditions = Conditions::parse(&args.filter, &["name", "label", "until"])?;
    if !args.force && !confirmed("all volumes not used by at least one container")? {
        return Ok(0);
    }
    let mut pruned = Pruned::default();
    let done = engine.prune_volumes(&kept(engine)?, &|found| conditions.fit_alone(found), &mut pruned);
    print(
        &pruned
            .volumes
            .iter()
            .map(|name| format!("{name}\n"))
            .collect::<String>(),
    )?;
    done?;
    Ok(0)
}

/// The exit code says whether it is there.
pub fn exists(engine: &Engine, args: &ExistsArgs) -> Result<u8, Failure> {
    match engine.volume(&args.name) {
        Ok(_) => Ok(0),
        Err(EngineError::NoVolume(_)) => Ok(MISSING),
        Err(error) => Err(error.into()),
    }
}

fn names(engine: &Engine, all: bool, names: &[String]) -> Result<Vec<String>, EngineError> {
    Ok(match all {
        true => engine.volumes()?.into_iter().map(|found| found.name).collect(),
        false => names.to_vec(),
    })
}

/// `--filter KEY=VALUE` over volumes: values of one key are alternatives (but labels), keys must all fit.
struct Conditions {
    all: Vec<(String, String)>,
    now: Unix,
}

impl Conditions {
    fn parse(texts: &[String], keys: &[&str]) -> Result<Conditions, Failure> {
        let now = time::now();
        let mut all = Vec::new();
        for text in texts {
            let wrong = |why: &str| Failure::new(format!("filter `{text}`: {why}"));
            let (key, value) = text.split_once('=').ok_or_else(|| wrong("write KEY=VALUE"))?;
            let known = keys.contains(&key) || (key == "label!" && keys.contains(&"label"));
            if !known {
                return Err(wrong(&format!("`{key}` is not one of {}", keys.join(", "))));
            }
            if key == "until" && point(value, now).is_none() {
                return Err(wrong("neither a time nor a duration"));
            }
            if key == "dangling" && value.parse::<bool>().is_err() {
                return Err(wrong("write true or false"));
            }
            all.push((key.to_owned(), value.to_owned()));
        }
        Ok(Conditions { all, now })
    }

    /// Whether a volume fits, its users looked at.
    fn fit(&self, engine: &Engine, found: &VolumeRecord) -> Result<bool, EngineError> {
        if self.all.iter().any(|(key, _)| key == "dangling") {
            let dangling = engine.volume_users(&found.name)?.is_empty();
            let wanted = |(key, value): &(String, String)| key == "dangling" && value.parse() == Ok(dangling);
            if !self.all.iter().any(wanted) {
                return Ok(false);
            }
        }
        Ok(self.fit_alone(found))
    }

    fn fit_alone(&self, found: &VolumeRecord) -> bool {
        let labelled = |value: &str| match value.split_once('=') {
            Some((key, value)) => found.labels.get(key).is_some_and(|has| has == value),
            None => found.labels.contains_key(value),
        };
        let fits = |(key, value): &(String, String)| match key.as_str() {
            "name" => found.name.contains(value.as_str()),
            "label" => labelled(value),
            "label!" => !labelled(value),
            "driver" | "scope" => value == "local",
            "until" => point(value, self.now).is_some_and(|until| found.created < until),
            _ => true,
        };
        let every = ["label", "label!"];
        self.all.iter().all(|one| {
            if every.contains(&one.0.as_str()) {
                return fits(one);
            }
            self.all.iter().any(|other| other.0 == one.0 && fits(other))
        })
    }
}

//! What is wanted, what runs, and what stands between: told from the files and the containers alone, so that it can be told while no
//! agent runs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::local::LocalError;
use super::{auto, identity, intake, local, sources};
use crate::deploy::engine::app_containers;
use crate::deploy::files::{self, Deployment, Loaded, SetApp, Source};
use crate::deploy::hands::{Container, Phase};
use crate::disk::DiskError;
use crate::engine::Engine;
use crate::types::app::App;
use crate::types::deployment::{Reason, Record, State};
use crate::types::digest::Digest;
use crate::types::document::Desired;
use crate::types::health::HealthStatus;
use crate::types::time::Unix;

/// What is known.
pub struct Facts<'a> {
    /// The device's name.
    pub device: &'a str,
    /// Journal, history and committed sets.
    pub loaded: &'a Loaded,
    /// Every container of an app.
    pub containers: &'a [Container],
    /// Accepted desired states by source.
    pub documents: &'a BTreeMap<String, Desired>,
    /// The device's groups, in order.
    pub groups: &'a [String],
    /// The local documents.
    pub local: Result<&'a [App], &'a LocalError>,
    /// An agent runs.
    pub agent: bool,
}

/// One app's story.
#[derive(Debug, Clone, PartialEq)]
pub struct Story {
    /// Its name.
    pub name: String,
    /// Whose it is: `d/DEVICE`, `g/GROUP`, `local`.
    pub source: String,
    /// The document's generation; 0 of local ones.
    pub generation: u64,
    /// The version that is wanted: image and specification; `None` when it is to go.
    pub desired: Option<(String, Digest)>,
    /// The version that was committed last.
    pub committed: Option<(String, Digest)>,
    /// The container that runs, else the newest one of the version that should.
    pub actual: Option<Container>,
    /// The deployment under way, else the last one when it did not bring what is wanted: its state, since when, and why.
    pub update: Option<(State, Unix, String)>,
    /// What stands between desired and actual, one line each.
    pub blocks: Vec<String>,
}

impl Story {
    /// podman's word for the container's state; `missing` where there is none.
    pub fn status(&self) -> &'static str {
        match self.actual.as_ref().map(|container| container.phase) {
            None => "missing",
            Some(Phase::Created) => "created",
            Some(Phase::Running { .. }) => "running",
            Some(Phase::Ended(_)) => "exited",
            Some(Phase::Lost) => "dead",
        }
    }

    /// As it is sent to who asks over MQTT.
    pub fn to_json(&self) -> Value {
        let version = |version: &Option<(String, Digest)>| {
            version
                .as_ref()
                .map(|(image, spec)| json!({ "image": image, "spec": spec.to_string() }))
        };
        let update = self
            .update
            .as_ref()
            .map(|(state, since, why)| json!({ "state": state.as_str(), "since": since.rfc3339(), "reason": why }));
        json!({
            "name": self.name,
            "source": self.source,
            "generation": self.generation,
            "desired": version(&self.desired),
            "committed": version(&self.committed),
            "spec": self.actual.as_ref().map(|one| one.spec.to_string()),
            "status": self.status(),
            "health": self.health().as_str(),
            "update": update,
            "blocks": self.blocks,
        })
    }

    /// Judged health.
    pub fn health(&self) -> HealthStatus {
        match self.actual.as_ref().map(|container| container.phase) {
            Some(Phase::Running { health, .. }) => health,
            _ => HealthStatus::None,
        }
    }
}

/// The stories of all apps, from the files of the agent and the containers; `agent` says whether one runs.
pub fn gather(engine: &Engine, agent: bool) -> Result<Vec<Story>, String> {
    let text = |error: DiskError| error.to_string();
    let dir = engine.layout().agent();
    let loaded = files::peek(&dir).map_err(text)?;
    let (mut documents, assign) = intake::accepted(&dir).map_err(text)?;
    let containers = app_containers(engine).map_err(|failure| failure.cause.to_string())?;
    let device = identity::device_name(engine.settings()).unwrap_or_default();
    let mut local = local::read(&local::folders(engine.settings(), engine.layout()));
    let auto = auto::read(engine.layout());
    for apps in documents
        .values_mut()
        .map(|document| &mut document.apps)
        .chain(local.as_mut().ok())
    {
        auto.overlay(apps);
    }
    Ok(stories(&Facts {
        device: &device,
        loaded: &loaded,
        containers: &containers,
        documents: &documents,
        groups: &assign.groups,
        local: local.as_deref(),
        agent,
    }))
}

/// The stories of all apps that are wanted or run, by name.
pub fn stories(facts: &Facts<'_>) -> Vec<Story> {
    let wanted = wanted(facts);
    let mut names: Vec<&str> = wanted.iter().map(|one| one.app.name.as_str()).collect();
    names.extend(committed(facts).map(|(_, one)| one.app.name.as_str()));
    names.extend(
        facts
            .loaded
            .journal
            .active
            .iter()
            .flat_map(|one| &one.record.apps)
            .map(|one| one.name.as_str()),
    );
    names.sort_unstable();
    names.dedup();
    let mut stories: Vec<Story> = names.into_iter().map(|name| story(facts, &wanted, name)).collect();
    let well: Vec<String> = stories
        .iter()
        .filter(|story| is_well(story))
        .map(|story| story.name.clone())
        .collect();
    for story in &mut stories {
        if story.status() == "running" && story.blocks.is_empty() {
            continue;
        }
        let depends = want(&wanted, &story.name)
            .map(|one| &one.app.depends_on)
            .or_else(|| find(facts, &story.name).map(|(_, one)| &one.app.depends_on));
        let missing = depends.into_iter().flatten().filter(|other| !well.contains(*other));
        let lines: Vec<String> = missing
            .map(|other| format!("dependency: `{other}` is not well"))
            .collect();
        story.blocks.extend(lines);
    }
    stories
}

/// What one source wants of an app.
struct Wanted<'a> {
    source: Source,
    label: &'a str,
    generation: u64,
    app: &'a App,
}

fn want<'a, 'b>(wanted: &'b [Wanted<'a>], name: &str) -> Option<&'b Wanted<'a>> {
    wanted.iter().find(|one| one.app.name == name)
}

fn wanted<'a>(facts: &Facts<'a>) -> Vec<Wanted<'a>> {
    let mut wanted = Vec::new();
    for app in facts.local.unwrap_or_default() {
        let one = Wanted {
            source: Source::Local,
            label: sources::LOCAL,
            generation: 0,
            app,
        };
        wanted.push(one);
    }
    if let Some((label, document)) = sources::effective(facts.documents, facts.device, facts.groups) {
        for app in &document.apps {
            let one = Wanted {
                source: Source::Fleet,
                label,
                generation: document.generation,
                app,
            };
            // A local app of the same name comes first.
            wanted.push(one);
        }
    }
    wanted
}

fn committed<'a>(facts: &Facts<'a>) -> impl Iterator<Item = (Source, &'a SetApp)> {
    let sets = facts.loaded.sets.iter();
    sets.flat_map(|(source, set)| set.apps.iter().map(move |one| (*source, one)))
}

fn find<'a>(facts: &Facts<'a>, name: &str) -> Option<(Source, &'a SetApp)> {
    committed(facts).find(|(_, one)| one.app.name == name)
}

fn story(facts: &Facts<'_>, wanted: &[Wanted<'_>], name: &str) -> Story {
    let want = want(wanted, name);
    let owned = find(facts, name);
    let owner = owned.map(|(source, _)| source);
    let source = owner.or(want.map(|one| one.source));
    // A name that another source owns is not this document's to bring.
    let mine = want.filter(|one| Some(one.source) == source);
    let set = facts
        .loaded
        .sets
        .iter()
        .find(|(of, _)| Some(*of) == source)
        .map(|(_, set)| set);
    let desired = mine.map(|one| (one.app.image.clone(), one.app.spec_digest()));
    let mut blocks = Vec::new();
    if let (Some(want), None) = (want, mine) {
        blocks.push(format!(
            "conflict: `{}` wants it too, and `{}` owns it",
            want.label,
            owner.map_or("", Source::as_str)
        ));
    }
    let active = facts.loaded.journal.active.iter().find(|one| {
        Some(one.source) == source && (one.record.apps.iter().any(|app| app.name == name) || one.record.apps.is_empty())
    });
    let spec = desired.as_ref().map(|(_, spec)| *spec);
    let kept = owned.map(|(_, one)| (one.app.image.clone(), one.spec));
    let behind = spec != kept.as_ref().map(|(_, spec)| *spec);
    let last = facts.loaded.history.finals.iter().rev().find(|record| {
        source.is_some_and(|source| belongs(record, source)) && !matches!(record.state, State::Superseded)
    });
    let update = match (active, last) {
        (Some(active), _) => Some(told(&active.record)),
        (None, Some(last)) if behind && last.state != State::Committed => Some(told(last)),
        _ => None,
    };
    if let Some(active) = active {
        blocks.extend(active_block(active));
    } else if let Some((state, _, why)) = &update {
        blocks.push(format!("the last update ended {state}: {why}"));
    } else if behind && source.is_some() && facts.agent && facts.local.is_ok() {
        blocks.push("the update has not begun".into());
    }
    let held = |spec: &Digest| facts.loaded.history.quarantine.holds(name, spec);
    if let Some(entry) = spec.as_ref().and_then(held) {
        blocks.push(format!(
            "quarantine: this version failed at {} ({}); change it, or type `dunlin app retry {name}`",
            entry.at.rfc3339(),
            entry.cause
        ));
    }
    if let (Err(error), Some(Source::Local) | None) = (facts.local, source) {
        blocks.push(error.to_string());
    }
    let actual = actual(facts, name, kept.as_ref().map(|(_, spec)| *spec));
    match actual.map(|container| container.phase) {
        Some(Phase::Running {
            health: HealthStatus::Unhealthy,
            ..
        }) => blocks.push("its health probes fail; see `dunlin inspect` and `dunlin logs`".into()),
        Some(Phase::Ended(ended)) if active.is_none() => blocks.push(if ended.oom {
            "it was ended for want of memory".into()
        } else if ended.asked {
            "it was stopped by hand; `dunlin start` starts it".into()
        } else {
            format!("it ended with exit code {}", ended.code)
        }),
        _ => {}
    }
    if !facts.agent {
        blocks.push("the agent is not running".into());
    }
    Story {
        name: name.to_owned(),
        source: match (mine, set) {
            (Some(one), _) => one.label.to_owned(),
            (None, Some(set)) => set.label.clone(),
            (None, None) => String::new(),
        },
        generation: mine
            .map(|one| one.generation)
            .or(set.map(|set| set.generation))
            .unwrap_or(0),
        desired,
        committed: kept,
        actual: actual.cloned(),
        update,
        blocks,
    }
}

fn belongs(record: &Record, source: Source) -> bool {
    (record.source == sources::LOCAL) == (source == Source::Local)
}

fn told(record: &Record) -> (State, Unix, String) {
    let why = record.reason.as_ref().map(ToString::to_string).unwrap_or_default();
    (record.state, record.since, why)
}

/// What a deployment under way waits for.
fn active_block(active: &Deployment) -> Option<String> {
    let cause = active.update.cause.as_ref()?;
    Some(match active.update.state {
        State::Waiting if cause.code == Reason::Wave => format!("{cause}; this device's turn has not come"),
        State::Waiting => cause.to_string(),
        State::RollingBack => format!("the new version failed: {cause}"),
        _ => format!("it is tried again: {cause}"),
    })
}

fn actual<'a>(facts: &Facts<'a>, name: &str, spec: Option<Digest>) -> Option<&'a Container> {
    let rank = |one: &Container| {
        let phase = match one.phase {
            Phase::Running { .. } => 2,
            Phase::Ended(_) | Phase::Lost => 1,
            Phase::Created => 0,
        };
        (phase, Some(one.spec) == spec)
    };
    facts
        .containers
        .iter()
        .filter(|one| one.app == name)
        .max_by_key(|one| rank(one))
}

fn is_well(story: &Story) -> bool {
    let Some(container) = &story.actual else { return false };
    match container.phase {
        Phase::Running { health, .. } => container.health_check.is_none() || health == HealthStatus::Healthy,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::files::{History, Journal, Set};
    use crate::deploy::hands::Ended;
    use crate::plan::quarantine::Entry;
    use crate::plan::update::Update;
    use crate::types::deployment::{AppRecord, BytesMoved, Cause, Version};
    use crate::types::ids::ContainerId;

    fn app(name: &str, image: &str, depends: &[&str]) -> App {
        let text = format!("name='{name}'\nimage='r.example/{image}'\ndepends_on={depends:?}");
        crate::types::read::toml(&text).unwrap()
    }

    fn set(apps: &[App]) -> Set {
        let apps = apps.iter().map(|app| SetApp {
            app: app.clone(),
            spec: app.spec_digest(),
            image: None,
        });
        Set {
            label: sources::LOCAL.into(),
            activity: "a".into(),
            generation: 0,
            apps: apps.collect(),
        }
    }

    fn container(app: &App, phase: Phase) -> Container {
        Container {
            id: ContainerId::from_bytes([7; 32]),
            name: app.name.clone(),
            app: app.name.clone(),
            spec: app.spec_digest(),
            image: None,
            health_check: None,
            phase,
            not_enforced: Vec::new(),
        }
    }

    fn record(state: State, app: &App, cause: Option<Cause>) -> Record {
        Record {
            activity: "b".into(),
            generation: 0,
            source: sources::LOCAL.into(),
            rollout: None,
            state,
            since: Unix(1000),
            seq: 1,
            apps: vec![AppRecord {
                name: app.name.clone(),
                from: None,
                to: Some(Version {
                    image: None,
                    spec: app.spec_digest(),
                }),
                state,
                reason: None,
            }],
            bytes: BytesMoved::default(),
            reason: cause,
            attempt: 1,
        }
    }

    fn deployment(state: State, app: &App, cause: Option<Cause>) -> Deployment {
        Deployment {
            source: Source::Local,
            update: Update {
                state,
                cause: cause.clone(),
                staged: false,
                tries: 0,
            },
            record: record(state, app, cause),
            rollout: None,
            set: Digest::of(b""),
            culprit: None,
            soaked: 0,
            reboots: 0,
            restarts: Vec::new(),
        }
    }

    const RUNNING: Phase = Phase::Running {
        since: Unix(0),
        health: HealthStatus::None,
    };

    /// The blocks of each app: `NAME STATUS: BLOCK | BLOCK`.
    fn tell(loaded: &Loaded, containers: &[Container], local: Result<&[App], &LocalError>, agent: bool) -> Vec<String> {
        let documents = BTreeMap::new();
        let facts = Facts {
            device: "gw-1",
            loaded,
            containers,
            documents: &documents,
            groups: &[],
            local,
            agent,
        };
        let line = |story: Story| format!("{} {}: {}", story.name, story.status(), story.blocks.join(" | "));
        stories(&facts).into_iter().map(line).collect()
    }

    fn loaded(sets: Vec<(Source, Set)>, active: Vec<Deployment>, history: History) -> Loaded {
        Loaded {
            journal: Journal {
                active,
                ..Journal::default()
            },
            history,
            sets,
            damage: Vec::new(),
        }
    }

    #[test]
    fn what_blocks_is_said() {
        let (old, new) = (app("web", "web:1", &[]), app("web", "web:2", &[]));
        let committed = || vec![(Source::Local, set(std::slice::from_ref(&old)))];
        let runs = [container(&old, RUNNING)];
        let window = Some(Cause::new(Reason::Window, "closed"));
        let failed = Some(Cause::new(Reason::Unhealthy, "its probes fail"));
        let mut quarantined = History {
            finals: vec![record(State::RolledBack, &new, failed.clone())],
            ..History::default()
        };
        quarantined.quarantine.add(Entry {
            app: "web".into(),
            spec: new.spec_digest(),
            cause: failed.clone().unwrap(),
            at: Unix(0),
        });
        let ended = Phase::Ended(Ended {
            code: 3,
            oom: false,
            asked: false,
            at: Unix(0),
        });
        let mistake = LocalError {
            problems: vec!["`x.toml`: bad".into()],
        };
        let base = app("db", "db:1", &[]);
        let leaning = app("web", "web:1", &["db"]);
        let pair = vec![(Source::Local, set(&[base.clone(), leaning.clone()]))];
        let plain = |sets| loaded(sets, Vec::new(), History::default());
        type Row<'a> = (
            &'a str,
            Loaded,
            &'a [Container],
            Result<&'a [App], &'a LocalError>,
            bool,
            &'a [&'a str],
        );
        let (own, next) = ([old.clone()], [new.clone()]);
        let both = [base.clone(), leaning.clone()];
        let gone = [container(&leaning, ended)];
        let down = [container(&old, ended)];
        let table: Vec<Row<'_>> = vec![
            (
                "all is well",
                plain(committed()),
                &runs,
                Ok(&own),
                true,
                &["web running: "],
            ),
            (
                "no agent",
                plain(committed()),
                &runs,
                Ok(&own),
                false,
                &["web running: the agent is not running"],
            ),
            (
                "a closed window",
                loaded(
                    committed(),
                    vec![deployment(State::Waiting, &new, window)],
                    History::default(),
                ),
                &runs,
                Ok(&next),
                true,
                &["web running: window: closed"],
            ),
            (
                "a version in quarantine",
                loaded(committed(), Vec::new(), quarantined),
                &runs,
                Ok(&next),
                true,
                &[
                    "web running: the last update ended ROLLED_BACK: unhealthy: its probes fail | quarantine: this version failed at \
                   1970-01-01T00:00:00Z (unhealthy: its probes fail); change it, or type `dunlin app retry web`",
                ],
            ),
            (
                "a mistake in the folder",
                plain(committed()),
                &runs,
                Err(&mistake),
                true,
                &["web running: local apps: `x.toml`: bad"],
            ),
            (
                "a dependency that is missing",
                plain(pair),
                &gone,
                Ok(&both),
                true,
                &[
                    "db missing: ",
                    "web exited: it ended with exit code 3 | dependency: `db` is not well",
                ],
            ),
            (
                "an end",
                plain(committed()),
                &down,
                Ok(&own),
                true,
                &["web exited: it ended with exit code 3"],
            ),
            (
                "not begun",
                plain(Vec::new()),
                &[],
                Ok(&own),
                true,
                &["web missing: the update has not begun"],
            ),
        ];
        for (name, loaded, containers, local, agent, expected) in table {
            assert_eq!(tell(&loaded, containers, local, agent), expected, "{name}");
        }
    }
}

//! Sets of apps by digest: those that documents name instead of holding (`apps_ref`), and those that devices run which take no
//! part in a rollout (`base`) (PROTOCOL.md, "Desired state").
//!
//! ```text
//! <data>/agent/sets/HEX    one record each: the apps as JSON; the digest is of an artifact, or of the JSON of a document's apps
//! ```

use std::path::{Path, PathBuf};

use super::daemon::{Daemon, Event, now};
use crate::deploy::Source;
use crate::deploy::files::{self, Loaded};
use crate::disk::record::{self, Record, kinds};
use crate::disk::{DiskError, durable};
use crate::engine::pull::Reach;
use crate::engine::{Engine, EngineError};
use crate::plan::wave;
use crate::registry::manifest::Document;
use crate::types::app::App;
use crate::types::bounds::SET_BYTES;
use crate::types::deployment::{Cause, Reason, Record as Told, State};
use crate::types::digest::Digest;
use crate::types::document::{Desired, Rollout, SET_TYPE};
use crate::types::read;
use crate::types::reference::Reference;
use crate::types::time::Mono;

/// Sets that are kept; the one that was written longest ago goes first.
const KEPT: usize = 8;
/// What ends the activity of a base.
const BASE: &str = "+base";
/// The first wait after a set that could not be fetched, milliseconds; doubled so often.
const AGAIN_MS: u64 = 10_000;
const DOUBLED: u32 = 8;

/// One set on disk.
#[derive(serde::Serialize, serde::Deserialize)]
struct Kept {
    json: String,
}

impl Record for Kept {
    const KIND: u16 = kinds::APPS;
}

/// The apps of a set that is here, of an agent's folder.
pub fn get(agent: &Path, digest: &Digest) -> Option<Vec<App>> {
    let kept = record::read_optional::<Kept>(&path(agent, digest)).ok()??;
    read::json(kept.json.as_bytes()).ok()
}

/// Keeps a set. On disk when this returns.
pub fn put(agent: &Path, digest: &Digest, json: &[u8]) -> Result<(), DiskError> {
    let path = path(agent, digest);
    let dir = agent.join("sets");
    durable::create_dirs(&dir)?;
    let json = String::from_utf8_lossy(json).into_owned();
    record::write(&path, &Kept { json })?;
    let mut all: Vec<_> = std::fs::read_dir(&dir)
        .map_err(DiskError::io("read", &dir))?
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            Some((path.metadata().ok()?.modified().ok()?, path))
        })
        .collect();
    all.sort();
    let surplus = all.len().saturating_sub(KEPT);
    all.iter()
        .take(surplus)
        .try_for_each(|(_, path)| durable::remove_file(path))
}

fn path(agent: &Path, digest: &Digest) -> PathBuf {
    agent.join("sets").join(digest.hex())
}

/// Gives a document that names its apps those that are here.
pub fn fill(agent: &Path, document: &mut Desired) {
    if document.apps_ref.is_some() {
        document.apps = get(agent, &document.set()).unwrap_or_default();
    }
}

/// Fetches a set: an artifact with one blob.
fn fetch(engine: &Engine, reference: &Reference, digest: &Digest) -> Result<(), EngineError> {
    let remote = engine.remote(reference, &Reach::default())?;
    let wrong = |text: &str| EngineError::Artifact {
        name: reference.to_string(),
        text: text.to_owned(),
    };
    let top = remote.manifest()?;
    let blob = match &top.document {
        Document::Manifest(manifest) => match &manifest.layers[..] {
            [blob] if blob.media_type == SET_TYPE => Some(blob),
            _ => None,
        },
        Document::Index(_) => None,
    };
    let blob = blob.ok_or_else(|| wrong("it is no set of apps"))?;
    let json = remote.small(&top, blob, SET_BYTES)?;
    match read::json::<Vec<App>>(&json) {
        Ok(apps) if apps.is_empty() => return Err(wrong("its set is empty")),
        Ok(_) => {}
        Err(error) => return Err(wrong(&error.to_string())),
    }
    put(&engine.layout().agent(), digest, &json).map_err(EngineError::Disk)
}

/// What is being fetched, and what is not tried again.
#[derive(Default)]
pub(super) struct Bringing {
    busy: bool,
    pub(super) at: Option<Mono>,
    tries: u32,
    /// The activity whose base has had its end here.
    over: String,
}

/// What a device that takes no part does.
#[derive(Debug, PartialEq)]
enum Others {
    /// It waits; what runs is the base, or nobody knows it.
    Wait,
    /// It runs this.
    Run(Vec<App>),
    /// It has to fetch the set first.
    Fetch(Digest),
}

/// What a device does about a rollout's base: `known` gives a set that is here, `loaded` is what was done so far.
fn others(
    document: &Desired,
    takes_part: bool,
    loaded: &Loaded,
    known: &dyn Fn(&Digest) -> Option<Vec<App>>,
) -> Others {
    let base = document.rollout.as_ref().and_then(|rollout| rollout.base);
    let Some(base) = base.filter(|_| !takes_part) else {
        return Others::Wait;
    };
    let digest = |apps: &[App]| files::digest_of(apps.iter().map(|app| (app.name.as_str(), app.spec_digest())));
    let running = loaded.sets.iter().find(|(source, _)| *source == Source::Fleet);
    let running = running.map(|(_, set)| set.digest());
    // Nobody is taken back who has begun.
    let begun = loaded.journal.active.iter().any(|one| {
        let waits = matches!(one.record.state, State::Accepted | State::Waiting);
        one.record.activity == document.activity && !waits
    });
    let ended = loaded.history.finals.iter().any(|one| {
        one.activity == document.activity && matches!(one.state, State::Committed | State::RolledBack | State::Failed)
    });
    if begun || ended || running == Some(digest(&document.apps)) {
        return Others::Wait;
    }
    match known(&base) {
        Some(apps) if running == Some(digest(&apps)) => Others::Wait,
        Some(apps) => Others::Run(apps),
        None if document.apps_ref.is_some() => Others::Fetch(base),
        None => Others::Wait,
    }
}

/// The rollout of a base: at once for all, which nobody halts.
fn for_all(rollout: &Rollout) -> Rollout {
    Rollout {
        id: format!("{}{BASE}", rollout.id),
        percent: 100.0,
        wave: Vec::new(),
        halted: false,
        base: None,
        ..rollout.clone()
    }
}

impl Daemon {
    /// Puts what this device has to run in the place of a document's set, name and rollout; false when it has to be fetched first.
    pub(super) fn settle(&mut self, document: &mut Desired) -> bool {
        if document.apps_ref.is_some() && document.apps.is_empty() {
            return self.bring_set(document, document.set());
        }
        let Some(rollout) = document.rollout.clone().filter(|rollout| rollout.base.is_some()) else {
            return true;
        };
        let labels = self
            .conditions
            .as_ref()
            .map_or(&[][..], |conditions| &conditions.labels);
        let place = wave::place(&rollout.salt, &self.identity.device);
        let takes_part = wave::takes_part(place, rollout.percent, &rollout.wave, labels);
        if takes_part || self.bringing.over == document.activity {
            return true;
        }
        let dir = self.place.layout.agent();
        let Ok(loaded) = files::peek(&dir) else { return true };
        match others(document, takes_part, &loaded, &|digest| get(&dir, digest)) {
            Others::Wait => true,
            Others::Fetch(base) => self.bring_set(document, base),
            Others::Run(apps) => {
                document.apps = apps;
                document.activity += BASE;
                document.rollout = Some(for_all(&rollout));
                document.retry.clear();
                true
            }
        }
    }

    /// A deployment of a base has ended: now the device waits for its wave.
    pub(super) fn base_ended(&mut self, record: &Told) {
        if let Some((activity, _)) = record.activity.split_once(BASE).filter(|_| record.state.is_final()) {
            activity.clone_into(&mut self.bringing.over);
            self.apply_effective();
        }
    }

    /// Fetches a set out of the repository of a document's own, on a thread, unless it is tried again later.
    fn bring_set(&mut self, document: &Desired, digest: Digest) -> bool {
        let reference = document
            .apps_ref
            .as_deref()
            .and_then(|text| text.parse::<Reference>().ok());
        let (Some(reference), Some(engine)) = (reference, self.place.hands.engine()) else {
            return false;
        };
        if self.bringing.busy || self.bringing.at.is_some_and(|at| now() < at) {
            return false;
        }
        let (reference, events) = (reference.pinned(digest), self.place.events.clone());
        let activity = document.activity.clone();
        let work = move || {
            let fetched =
                fetch(&engine, &reference, &digest).map_err(|error| crate::deploy::engine::failure(&error).cause);
            let _ = events.blocking_send(Event::Set(activity, fetched));
        };
        self.bringing.at = None;
        self.bringing.busy = std::thread::Builder::new().name("set".into()).spawn(work).is_ok();
        false
    }

    /// A set was fetched, or could not be.
    pub(super) fn set_came(&mut self, activity: String, fetched: Result<(), Cause>) {
        self.bringing.busy = false;
        match fetched {
            Ok(()) => {
                self.bringing.tries = 0;
                self.intake.fill();
            }
            Err(cause) => {
                crate::warn!("set of apps of activity {activity}: {cause}");
                if self.bringing.tries == 0 {
                    self.tell(
                        "document",
                        cause.code,
                        None,
                        format!("{} (activity {activity})", cause.detail),
                    );
                }
                self.bringing.at = Some(now().plus(AGAIN_MS << self.bringing.tries.min(DOUBLED)));
                self.bringing.tries += 1;
                if matches!(cause.code, Reason::ImageMissing | Reason::Schema) {
                    // Nobody has such a base: what runs goes on.
                    self.bringing.over = activity;
                }
            }
        }
        self.apply_effective();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::files::{Set, SetApp};

    fn apps(image: &str) -> Vec<App> {
        read::json(format!(r#"[{{"name":"web","image":"r.example/web:{image}"}}]"#).as_bytes()).unwrap()
    }

    fn document(image: &str, base: Option<Digest>, apps_ref: Option<&str>) -> Desired {
        let text = r#"{"audience":"g/x","generation":1,"activity":"a","issued_at":"2026-01-01T00:00:00Z","rollout":{"id":"r","percent":5}}"#;
        let mut document: Desired = read::json(text.as_bytes()).unwrap();
        document.rollout.as_mut().unwrap().base = base;
        document.apps = apps(image);
        document.apps_ref = apps_ref.map(str::to_owned);
        document
    }

    fn running(image: &str) -> Loaded {
        let one = |app: App| SetApp {
            spec: app.spec_digest(),
            app,
            image: None,
        };
        let set = Set {
            label: "g/x".into(),
            activity: "before".into(),
            generation: 1,
            apps: apps(image).into_iter().map(one).collect(),
        };
        Loaded {
            journal: files::Journal::default(),
            history: files::History::default(),
            sets: vec![(Source::Fleet, set)],
            damage: Vec::new(),
        }
    }

    #[test]
    fn others_run_the_base_and_nobody_is_taken_back() {
        let base = document("1", None, None).set();
        let known = |digest: &Digest| (*digest == base).then(|| apps("1"));
        let other = Digest::of(b"other");
        for (image, base, apps_ref, part, now, expected) in [
            ("3", Some(base), None, false, "2", Others::Run(apps("1"))),
            ("3", Some(base), None, true, "2", Others::Wait),
            ("3", None, None, false, "2", Others::Wait),
            ("3", Some(base), None, false, "1", Others::Wait),
            ("3", Some(base), None, false, "3", Others::Wait),
            ("3", Some(other), None, false, "2", Others::Wait),
            (
                "3",
                Some(other),
                Some("r.example/sets"),
                false,
                "2",
                Others::Fetch(other),
            ),
        ] {
            let found = others(&document(image, base, apps_ref), part, &running(now), &known);
            assert_eq!(found, expected, "{image} {part} {now}");
        }
    }

    #[test]
    fn sets_are_kept_by_their_digest_up_to_a_number() {
        let dir = std::env::temp_dir().join(format!("dunlin-sets-{}", std::process::id()));
        let digests: Vec<Digest> = (0..KEPT + 3).map(|n| Digest::of(&[n as u8])).collect();
        for digest in &digests {
            put(&dir, digest, br#"[{"name":"web","image":"r.example/web:1"}]"#).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(digests.iter().filter(|one| get(&dir, one).is_some()).count(), KEPT);
        assert_eq!(get(&dir, &digests[KEPT + 2]), Some(apps("1")));
        assert_eq!(get(&dir, &digests[0]), None);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

//! Auto-update, as podman's: apps that ask for it are checked against what their tag means now, and brought to it through the same gate
//! as any update.
//!
//! What a tag meant when it was last followed is kept as a pin beside the documents; an app's document with its pin is what the deployer
//! is given. A pin holds for the document that it was made from: another document begins anew.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::sources;
use crate::deploy::files::Loaded;
use crate::disk::layout::Layout;
use crate::disk::record::{self, Record, kinds};
use crate::types::app::App;
use crate::types::digest::Digest;
use crate::types::document::Desired;
use crate::types::reference::Reference;
use crate::types::time::Unix;

/// podman's label for the same wish.
pub const LABEL: &str = "io.containers.autoupdate";

/// What is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Auto {
    /// When the tags were looked at last, by a synchronised clock.
    pub last: Unix,
    pins: Vec<Pin>,
}

/// What the tag of one app's document was found to mean.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Pin {
    app: String,
    /// Of the document as it was written.
    spec: Digest,
    digest: Digest,
}

impl Record for Auto {
    const KIND: u16 = kinds::AUTO;
}

/// Where it is kept.
pub fn path(layout: &Layout) -> PathBuf {
    layout.agent().join("auto")
}

/// Reads it; nothing where it cannot be read: tags are looked up anew.
pub fn read(layout: &Layout) -> Auto {
    match record::read_optional(&path(layout)) {
        Ok(auto) => auto.unwrap_or_default(),
        Err(error) => {
            crate::warn!("{error}; tags are looked up anew");
            Auto::default()
        }
    }
}

/// An app whose tag is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// The app.
    pub app: String,
    /// Of its document as it was written.
    pub spec: Digest,
    /// The image with its tag.
    pub image: String,
    /// What it meant when it was last brought.
    pub now: Digest,
}

/// Whether an app wants its tag to be followed: it says so, and its image has a tag and no digest.
pub fn follows(app: &App) -> bool {
    let asked = app.update.auto
        || app
            .labels
            .get(LABEL)
            .is_some_and(|value| value == "registry" || value == "image");
    asked && tagged(&app.image).is_some()
}

fn tagged(image: &str) -> Option<Reference> {
    image
        .parse::<Reference>()
        .ok()
        .filter(|reference| reference.digest().is_none())
}

/// Documents as they were written: the local ones and the effective desired state's.
pub fn documents(local: &[App], desired: &BTreeMap<String, Desired>, device: &str, groups: &[String]) -> Vec<App> {
    let fleet = sources::effective(desired, device, groups).map(|(_, document)| document.apps.as_slice());
    local.iter().chain(fleet.unwrap_or_default()).cloned().collect()
}

impl Auto {
    fn pin(&self, app: &str, spec: &Digest) -> Option<&Pin> {
        self.pins.iter().find(|pin| pin.app == app && pin.spec == *spec)
    }

    /// Puts the pins into documents; whether one was put.
    pub fn overlay(&self, apps: &mut [App]) -> bool {
        let mut any = false;
        for app in apps.iter_mut().filter(|app| follows(app)) {
            let pin = self.pin(&app.name, &app.spec_digest());
            if let (Some(pin), Some(reference)) = (pin, tagged(&app.image)) {
                app.image = reference.pinned(pin.digest).to_string();
                any = true;
            }
        }
        any
    }

    /// The apps whose tags are to be looked at: those that follow theirs and were brought once. `apps` are documents as they were
    /// written.
    pub fn followed<'a>(&self, apps: impl Iterator<Item = &'a App>, loaded: &Loaded) -> Vec<Followed> {
        let committed = |name: &str, spec: &Digest| {
            let mut sets = loaded.sets.iter();
            let one = sets.find_map(|(_, set)| set.get(name)).filter(|one| one.spec == *spec);
            one.and_then(|one| one.image)
        };
        apps.filter(|app| follows(app))
            .filter_map(|app| {
                let spec = app.spec_digest();
                let pinned = self.pin(&app.name, &spec).map(|pin| pin.digest);
                Some(Followed {
                    app: app.name.clone(),
                    spec,
                    image: app.image.clone(),
                    now: pinned.or_else(|| committed(&app.name, &spec))?,
                })
            })
            .collect()
    }

    /// Takes what tags were found to mean; forgets pins of documents that are gone. Whether a pin is new.
    pub fn take<'a>(&mut self, found: &[(Followed, Digest)], apps: impl Iterator<Item = &'a App>) -> bool {
        let alive: Vec<(&str, Digest)> = apps.map(|app| (app.name.as_str(), app.spec_digest())).collect();
        self.pins.retain(|pin| alive.contains(&(pin.app.as_str(), pin.spec)));
        let mut any = false;
        for (one, digest) in found.iter().filter(|(one, digest)| one.now != *digest) {
            self.pins.retain(|pin| pin.app != one.app);
            self.pins.push(Pin {
                app: one.app.clone(),
                spec: one.spec,
                digest: *digest,
            });
            any = true;
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::files::{History, Journal, Set, SetApp, Source};

    fn app(image: &str, more: &str) -> App {
        crate::types::read::toml(&format!("name='web'\nimage='{image}'\n{more}")).unwrap()
    }

    fn loaded(app: &App, image: Digest) -> Loaded {
        let one = SetApp {
            app: app.clone(),
            spec: app.spec_digest(),
            image: Some(image),
        };
        let set = Set {
            label: "local".into(),
            activity: "a".into(),
            generation: 0,
            apps: vec![one],
        };
        Loaded {
            journal: Journal::default(),
            history: History::default(),
            sets: vec![(Source::Local, set)],
            damage: Vec::new(),
        }
    }

    #[test]
    fn only_tags_of_apps_that_ask_are_followed() {
        let pinned = format!("r.example/web@{}", Digest::of(b"x"));
        for (image, more, expected) in [
            ("r.example/web:1", "", false),
            ("r.example/web:1", "update={auto=true}", true),
            (
                "r.example/web:1",
                "labels={'io.containers.autoupdate'='registry'}",
                true,
            ),
            (
                "r.example/web:1",
                "labels={'io.containers.autoupdate'='disabled'}",
                false,
            ),
            (&pinned, "update={auto=true}", false),
        ] {
            assert_eq!(follows(&app(image, more)), expected, "{image} {more}");
        }
    }

    #[test]
    fn a_tag_that_moved_is_pinned_until_the_document_changes() {
        let (one, two, three) = (Digest::of(b"1"), Digest::of(b"2"), Digest::of(b"3"));
        let web = app("r.example/web:1", "update={auto=true}");
        let known = loaded(&web, one);
        let mut auto = Auto::default();
        let apps = || std::iter::once(&web);
        let followed = auto.followed(apps(), &known);
        assert_eq!(followed.len(), 1);
        assert_eq!(followed[0].now, one);
        assert!(!auto.take(&[(followed[0].clone(), one)], apps()), "it has not moved");
        let mut documents = [web.clone()];
        assert!(!auto.overlay(&mut documents));
        assert!(auto.take(&[(followed[0].clone(), two)], apps()));
        assert!(auto.overlay(&mut documents));
        assert_eq!(documents[0].image, format!("r.example/web@{two}"));
        assert_ne!(
            documents[0].spec_digest(),
            web.spec_digest(),
            "another version, with a gate and a quarantine of its own"
        );
        let again = auto.followed(apps(), &known);
        assert_eq!(
            again[0].now, two,
            "also while that version is not committed, or was rolled back"
        );
        assert!(!auto.take(&[(again[0].clone(), two)], apps()));
        assert!(auto.take(&[(again[0].clone(), three)], apps()));
        // Another document: its tag is looked up when it is brought, and followed from there.
        let other = app("r.example/web:2", "update={auto=true}");
        assert!(!auto.overlay(&mut [other.clone()]));
        assert!(
            auto.followed(std::iter::once(&other), &known).is_empty(),
            "not brought yet"
        );
        auto.take(&[], std::iter::once(&other));
        assert_eq!(auto, Auto::default());
    }
}

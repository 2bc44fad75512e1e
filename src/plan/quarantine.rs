//! Quarantine: versions that failed their health gate, by app and specification, remembered until someone asks by name.
//!
//! A changed specification has another digest and is free by itself.

use crate::types::bounds::QUARANTINED;
use crate::types::deployment::Cause;
use crate::types::digest::Digest;
use crate::types::time::Unix;

/// The list, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Quarantine {
    entries: Vec<Entry>,
}

/// One version that is not tried again.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Entry {
    /// The app.
    pub app: String,
    /// Digest of the specification that failed.
    pub spec: Digest,
    /// Why it failed.
    pub cause: Cause,
    /// When.
    pub at: Unix,
}

impl Quarantine {
    /// The entry of this version, if it is held.
    pub fn holds(&self, app: &str, spec: &Digest) -> Option<&Entry> {
        self.entries
            .iter()
            .find(|entry| entry.app == app && entry.spec == *spec)
    }

    /// Every entry, oldest first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Adds a version, or renews its entry; at the bound the oldest entry goes. Does not write to the disk.
    pub fn add(&mut self, entry: Entry) {
        self.entries
            .retain(|old| old.app != entry.app || old.spec != entry.spec);
        if self.entries.len() >= QUARANTINED {
            self.entries.remove(0);
        }
        self.entries.push(entry);
    }

    /// Lifts every entry of these apps; whether there was one. Does not write to the disk.
    pub fn release(&mut self, apps: &[String]) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| !apps.contains(&entry.app));
        self.entries.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::deployment::Reason;

    fn entry(app: &str, version: u32) -> Entry {
        Entry {
            app: app.into(),
            spec: Digest::of(&version.to_le_bytes()),
            cause: Cause::new(Reason::Exited, "exit code 1"),
            at: Unix(0),
        }
    }

    #[test]
    fn holds_a_version_until_its_app_is_named() {
        let mut list = Quarantine::default();
        list.add(entry("web", 3));
        list.add(entry("db", 3));
        assert!(list.holds("web", &entry("web", 3).spec).is_some());
        assert!(
            list.holds("web", &entry("web", 4).spec).is_none(),
            "another specification is free"
        );
        assert!(
            list.holds("log", &entry("web", 3).spec).is_none(),
            "another app is free"
        );
        assert!(!list.release(&["log".into()]));
        assert!(list.release(&["web".into()]));
        assert!(list.holds("web", &entry("web", 3).spec).is_none());
        assert!(list.holds("db", &entry("db", 3).spec).is_some());
    }

    #[test]
    fn the_list_is_bounded_and_holds_a_version_once() {
        let mut list = Quarantine::default();
        for version in 0..QUARANTINED as u32 + 2 {
            list.add(entry("web", version));
        }
        list.add(entry("web", 2));
        assert_eq!(list.entries().len(), QUARANTINED);
        assert!(list.holds("web", &entry("web", 1).spec).is_none());
        assert_eq!(list.entries().last(), Some(&entry("web", 2)));
        assert_eq!(list.entries()[0], entry("web", 3));
    }
}

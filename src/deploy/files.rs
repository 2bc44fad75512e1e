//! What the deployer keeps on disk.
//!
//! ```text
//! <data>/agent/
//!   journal          two slots: the deployments under way, what was handled last, the sequence number
//!   history          two slots: the last final records, and the quarantine, of which both slots have all
//!   history.lost     a history of which no slot can be read: until somebody says that what it held back may be forgotten,
//!                    nothing is accepted over MQTT
//!   set-SOURCE       the committed set of one source: what runs after a power cut
//!   previous-SOURCE  the committed set before that
//!   next-SOURCE      the set that a deployment brings, complete from STAGED on; it becomes `set-SOURCE` by a rename
//!   room             bytes that are given up when the disk is full, so that a way back and its record have some
//!   locks/APP        what the app locks to hold its update back; its container sees it
//! ```
//!
//! Journal and history are allocated once, and a commit is a rename: neither a rollback nor a commit needs room on the disk.

use std::path::{Path, PathBuf};

use crate::disk::record::{self, Record, kinds};
use crate::disk::{DiskError, durable};
use crate::plan::quarantine::Quarantine;
use crate::plan::update::Update;
use crate::types::app::App;
use crate::types::bounds::{AGENT_ROOM_BYTES, FINAL_RECORDS};
use crate::types::deployment::{self, State};
use crate::types::digest::Digest;
use crate::types::document::Rollout;
use crate::types::read;

use super::kill;
use super::slots::{Body, Found, Slots, Step};

/// Who wants apps, and owns those that it brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Source {
    /// Documents in a folder of the device.
    Local,
    /// The effective desired state of the device or one of its groups.
    Fleet,
}

impl Source {
    /// Both.
    pub const ALL: [Source; 2] = [Source::Local, Source::Fleet];

    /// The word in file names and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Source::Local => "local",
            Source::Fleet => "fleet",
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The whole set of one source, with what its images resolved to.
#[derive(Debug, Clone, PartialEq)]
pub struct Set {
    /// `d/DEVICE`, `g/GROUP` or `local`.
    pub label: String,
    /// The document's activity.
    pub activity: String,
    /// The document's generation.
    pub generation: u64,
    /// The apps, in the document's order.
    pub apps: Vec<SetApp>,
}

/// One app of a set.
#[derive(Debug, Clone, PartialEq)]
pub struct SetApp {
    /// Its document.
    pub app: App,
    /// Digest of its specification.
    pub spec: Digest,
    /// Digest of the image's manifest, once it was resolved.
    pub image: Option<Digest>,
}

impl Set {
    /// The app with this name.
    pub fn get(&self, name: &str) -> Option<&SetApp> {
        self.apps.iter().find(|one| one.app.name == name)
    }

    /// The digest over all specifications, by name: what decides whether two sets are the same.
    pub fn digest(&self) -> Digest {
        digest_of(self.apps.iter().map(|one| (one.app.name.as_str(), one.spec)))
    }
}

/// The digest of a set of specifications, whatever their order.
pub fn digest_of<'a>(apps: impl Iterator<Item = (&'a str, Digest)>) -> Digest {
    let mut lines: Vec<String> = apps.map(|(name, spec)| format!("{name} {spec}\n")).collect();
    lines.sort();
    Digest::of(lines.concat().as_bytes())
}

/// A set as it is written: documents as JSON, because their absent keys must stay absent.
#[derive(serde::Serialize, serde::Deserialize)]
struct SetRecord {
    label: String,
    activity: String,
    generation: u64,
    apps: Vec<(String, Option<Digest>)>,
}

impl Record for SetRecord {
    const KIND: u16 = kinds::COMMITTED;
}

/// The journal's content.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Journal {
    /// The last sequence number that was given out; the numbers up to [`SEQ_AHEAD`] above it may have been too.
    pub seq: u64,
    /// The boot in which it was written.
    pub boot: String,
    /// The deployments that are not at their end, at most one for each source.
    pub active: Vec<Deployment>,
    /// What was handled last, for each source.
    pub handled: Vec<Handled>,
    /// More about the deployments under way. It stands at the end, so that journals without it and agents that do not know it can
    /// read each other.
    #[serde(deserialize_with = "at_the_end")]
    pub notes: Vec<Notes>,
}

/// A field that older writers left out: where the record ends, it is empty. The record's checksum says that nothing is lost.
fn at_the_end<'de, D: serde::Deserializer<'de>, T: serde::Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(T::deserialize(from).unwrap_or_default())
}

/// More about one deployment under way.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Notes {
    /// The deployment's source.
    pub source: Source,
    /// Apps whose update locks somebody overruled.
    pub unlocked: Vec<String>,
    /// Milliseconds that it waited for update locks.
    pub locked: u64,
    /// Apps whose volumes it saved, or was about to.
    pub saved: Vec<String>,
}

/// Sequence numbers that may be given out between two synced writes.
pub const SEQ_AHEAD: u64 = 64;

impl Body for Journal {
    const KIND: u16 = kinds::JOURNAL;
    const SIZE: usize = 128 << 10;
}

/// One deployment under way.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Deployment {
    /// Whose it is.
    pub source: Source,
    /// Where it is.
    pub update: Update,
    /// What is published.
    pub record: deployment::Record,
    /// How it rolls out.
    pub rollout: Option<Rollout>,
    /// Digest of the whole set that it brings.
    pub set: Digest,
    /// The app whose failure turned it back.
    pub culprit: Option<String>,
    /// Healthy milliseconds counted at the last checkpoint.
    pub soaked: u64,
    /// Reboots of the device since SWITCHING.
    pub reboots: u32,
    /// Restarts of its new versions, by app.
    pub restarts: Vec<(String, u32)>,
}

/// The document that a source last brought to an end.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Handled {
    /// The source.
    pub source: Source,
    /// The document's activity.
    pub activity: String,
    /// The document's generation.
    pub generation: u64,
    /// The rollout's id.
    pub rollout: Option<String>,
    /// Digest of the set.
    pub set: Digest,
    /// How it ended.
    pub state: State,
}

/// The history's content.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct History {
    /// The last final records, oldest first; at most [`FINAL_RECORDS`].
    pub finals: Vec<deployment::Record>,
    /// The versions that are not tried again.
    pub quarantine: Quarantine,
}

impl Body for History {
    const KIND: u16 = kinds::FINALS;
    const SIZE: usize = 256 << 10;
}

/// The open files.
#[derive(Debug)]
pub struct Files {
    dir: PathBuf,
    journal: Slots<Journal>,
    history: Slots<History>,
}

/// What was read at the start.
#[derive(Debug)]
pub struct Loaded {
    /// The journal; empty when there was none or none that could be read.
    pub journal: Journal,
    /// The history, the same.
    pub history: History,
    /// The committed sets.
    pub sets: Vec<(Source, Set)>,
    /// What is to be reported: damage that was found.
    pub damage: Vec<String>,
}

impl Files {
    /// Opens everything below `dir`, which is made when it is missing.
    pub fn open(dir: &Path) -> Result<(Files, Loaded), DiskError> {
        durable::create_dirs(dir)?;
        let mut damage = Vec::new();
        let mut note = |name: &str, found: Found| match found {
            // One torn slot is what dying in the middle of a write leaves; the other one stands.
            Found::Empty | Found::Good | Found::OneDamaged => {}
            Found::Unreadable => damage.push(format!("`{name}`: no slot could be read; it begins anew")),
        };
        let (journal, journal_body, found) = Slots::open(&dir.join("journal"))?;
        note("journal", found);
        let path = dir.join("history");
        let (mut history, mut history_body, found) = Slots::open(&path)?;
        note("history", found);
        if found == Found::Unreadable {
            durable::rename(&path, &dir.join(LOST))?;
            (history, history_body, _) = Slots::open(&path)?;
        }
        let mut sets = Vec::new();
        for source in Source::ALL {
            match read_set(&dir.join(format!("set-{source}"))) {
                Ok(Some(set)) => sets.push((source, set)),
                Ok(None) => {}
                Err(error) => {
                    damage.push(error.to_string());
                    // The set before it is better than nothing that runs.
                    if let Ok(Some(set)) = read_set(&dir.join(format!("previous-{source}"))) {
                        sets.push((source, set));
                    }
                }
            }
        }
        let (journal_body, history_body) = (journal_body.unwrap_or_default(), history_body.unwrap_or_default());
        let files = Files {
            dir: dir.to_owned(),
            journal,
            history,
        };
        Ok((
            files,
            Loaded {
                journal: journal_body,
                history: history_body,
                sets,
                damage,
            },
        ))
    }

    /// Writes the journal; `step` names its kill points.
    pub fn write_journal(&mut self, journal: &Journal, sync: bool, step: Step) -> Result<(), DiskError> {
        match self.journal.write(journal, sync, step) {
            // Where nothing is changed in place, also this needs room.
            Err(error) if error.is_full() && self.give_room() => self.journal.write(journal, sync, step),
            result => result,
        }
    }

    /// Writes the history, synced. The oldest final records go until it fits.
    pub fn write_history(&mut self, history: &mut History, step: Step) -> Result<(), DiskError> {
        let extra = history.finals.len().saturating_sub(FINAL_RECORDS);
        history.finals.drain(..extra);
        loop {
            match self.history.write(history, true, step) {
                Err(DiskError::TooLarge { .. }) if history.finals.len() > 1 => drop(history.finals.remove(0)),
                Err(error) if error.is_full() && self.give_room() => {}
                result => return result,
            }
        }
    }

    /// Writes the history into both slots: either may rot, and no other record says which versions are held back.
    pub fn write_quarantine(&mut self, history: &mut History) -> Result<(), DiskError> {
        self.write_history(history, QUARANTINE)?;
        self.write_history(history, QUARANTINE)
    }

    /// Writes the set that a deployment of `source` brings.
    pub fn write_next(&self, source: Source, set: &Set) -> Result<(), DiskError> {
        kill::point("set-next-before");
        let apps = set
            .apps
            .iter()
            .map(|one| (serde_json::to_string(&one.app).unwrap_or_default(), one.image))
            .collect();
        let record = SetRecord {
            label: set.label.clone(),
            activity: set.activity.clone(),
            generation: set.generation,
            apps,
        };
        record::write(&self.next(source), &record)?;
        kill::point("set-next-after");
        Ok(())
    }

    /// The set that a deployment of `source` was to bring.
    pub fn read_next(&self, source: Source) -> Result<Option<Set>, DiskError> {
        read_set(&self.next(source))
    }

    /// The set that was committed before the current one.
    pub fn read_previous(&self, source: Source) -> Result<Option<Set>, DiskError> {
        read_set(&self.dir.join(format!("previous-{source}")))
    }

    /// Makes the next set the committed one.
    pub fn commit(&self, source: Source) -> Result<(), DiskError> {
        kill::point("set-commit-before");
        let (set, previous) = (
            self.dir.join(format!("set-{source}")),
            self.dir.join(format!("previous-{source}")),
        );
        // Kept for `app rollback`; a disk without room for one more name must not hold up the commit.
        let _ = std::fs::remove_file(&previous);
        let _ = std::fs::hard_link(&set, &previous);
        match durable::rename(&self.next(source), &set) {
            Err(error) if error.is_full() && self.give_room() => durable::rename(&self.next(source), &set)?,
            result => result?,
        }
        kill::point("set-commit-after");
        Ok(())
    }

    /// Whether the app holds its update lock. The attempt shares the lock and lets go at once.
    pub fn is_locked(&self, app: &str) -> bool {
        let Ok(file) = std::fs::File::open(lock_file(&self.dir, app)) else {
            return false;
        };
        matches!(file.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock))
    }

    /// Takes [`AGENT_ROOM_BYTES`] of the disk, where there is plenty, so that they can be given up when it is full.
    pub fn keep_room(&self) {
        let path = self.dir.join("room");
        let plenty = || crate::sys::fs::open_dir(&self.dir).and_then(crate::sys::fs::space);
        if path.exists() || !plenty().is_ok_and(|space| space.bytes >= 8 * AGENT_ROOM_BYTES) {
            return;
        }
        let written = super::slots::preallocate(&path, AGENT_ROOM_BYTES);
        if let Err(error) = written {
            crate::warn!("{error}");
            let _ = std::fs::remove_file(&path);
        }
    }

    /// Gives the bytes of [`Files::keep_room`] back to the disk; false when they are given up already.
    pub fn give_room(&self) -> bool {
        let given = std::fs::remove_file(self.dir.join("room")).is_ok();
        // Some file systems let blocks go only with the folder's change.
        given && durable::sync_dir(&self.dir).is_ok()
    }

    /// Removes the lock file of an app that is not here any more.
    pub fn drop_lock(&self, app: &str) {
        // One that is left is empty, and found again by the next app of that name.
        let _ = std::fs::remove_file(lock_file(&self.dir, app));
    }

    /// Removes the next set, where there is one.
    pub fn drop_next(&self, source: Source) -> Result<(), DiskError> {
        let path = self.next(source);
        if !path.exists() {
            return Ok(());
        }
        kill::point("set-drop-before");
        durable::remove_file(&path)?;
        kill::point("set-drop-after");
        Ok(())
    }

    fn next(&self, source: Source) -> PathBuf {
        self.dir.join(format!("next-{source}"))
    }
}

/// What the files below `dir` say, for others than the deployer: nothing is made, mended or locked. What a deployer is writing
/// meanwhile is seen as it was before or is after.
pub fn peek(dir: &Path) -> Result<Loaded, DiskError> {
    let mut sets = Vec::new();
    for source in Source::ALL {
        let set = read_set(&dir.join(format!("set-{source}")))?;
        sets.extend(set.map(|set| (source, set)));
    }
    Ok(Loaded {
        journal: Slots::peek(&dir.join("journal"))?.unwrap_or_default(),
        history: Slots::peek(&dir.join("history"))?.unwrap_or_default(),
        sets,
        damage: Vec::new(),
    })
}

/// Why the quarantine may lack versions: the history that had them could not be read, and [`forget_lost`] was not called since.
pub fn lost(dir: &Path) -> Option<String> {
    let path = dir.join(LOST);
    path.exists()
        .then(|| format!("`{}`: the quarantine could not be read", path.display()))
}

/// Lets what [`lost`] says be forgotten.
pub fn forget_lost(dir: &Path) -> Result<(), DiskError> {
    match durable::rename(&dir.join(LOST), &dir.join("history.damaged")) {
        Err(error) if !error.is_missing() => Err(error),
        _ => Ok(()),
    }
}

/// The file below the agent's folder `dir` that an app locks to hold its update back.
pub fn lock_file(dir: &Path, app: &str) -> PathBuf {
    dir.join("locks").join(app)
}

/// The apps of every set below `dir`: those committed, those before them, and those on their way.
pub fn known_apps(dir: &Path) -> Result<Vec<SetApp>, DiskError> {
    let mut apps = Vec::new();
    for source in Source::ALL {
        for kind in ["set", "previous", "next"] {
            apps.extend(
                read_set(&dir.join(format!("{kind}-{source}")))?
                    .into_iter()
                    .flat_map(|set| set.apps),
            );
        }
    }
    Ok(apps)
}

fn read_set(path: &Path) -> Result<Option<Set>, DiskError> {
    let Some(record) = record::read_optional::<SetRecord>(path)? else {
        return Ok(None);
    };
    let damaged = |error: read::Malformed| DiskError::Damaged {
        path: path.to_owned(),
        why: error.to_string(),
    };
    let mut apps = Vec::with_capacity(record.apps.len());
    for (json, image) in record.apps {
        let app: App = read::json(json.as_bytes()).map_err(damaged)?;
        apps.push(SetApp {
            spec: app.spec_digest(),
            app,
            image,
        });
    }
    Ok(Some(Set {
        label: record.label,
        activity: record.activity,
        generation: record.generation,
        apps,
    }))
}

const LOST: &str = "history.lost";

/// The kill points of a journal write in this state.
pub fn journal_step(state: State) -> Step {
    macro_rules! step {
        ($name:literal) => {
            Step {
                before: concat!("journal-", $name, "-before"),
                half: concat!("journal-", $name, "-half"),
                after: concat!("journal-", $name, "-after"),
            }
        };
    }
    match state {
        State::Accepted => step!("accepted"),
        State::Waiting => step!("waiting"),
        State::Fetching => step!("fetching"),
        State::Verifying => step!("verifying"),
        State::Staged => step!("staged"),
        State::Switching => step!("switching"),
        State::Probing => step!("probing"),
        State::Soaking => step!("soaking"),
        State::RollingBack => step!("rolling-back"),
        State::Committed | State::RolledBack | State::Failed | State::Rejected | State::Superseded => step!("final"),
    }
}

/// The kill points of a checkpoint while soaking.
pub const CHECKPOINT: Step = Step {
    before: "journal-checkpoint-before",
    half: "journal-checkpoint-half",
    after: "journal-checkpoint-after",
};

/// The kill points of the note that volumes are about to be saved.
pub const SAVE: Step = Step {
    before: "journal-save-before",
    half: "journal-save-half",
    after: "journal-save-after",
};

/// The kill points of the journal's write at boot.
pub const BOOT: Step = Step {
    before: "journal-boot-before",
    half: "journal-boot-half",
    after: "journal-boot-after",
};

/// The kill points of a final record.
pub const FINAL: Step = Step {
    before: "history-final-before",
    half: "history-final-half",
    after: "history-final-after",
};

/// The kill points of a change of the quarantine.
const QUARANTINE: Step = Step {
    before: "history-quarantine-before",
    half: "history-quarantine-half",
    after: "history-quarantine-after",
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::quarantine::Entry;
    use crate::types::deployment::{Cause, Reason};
    use crate::types::time::Unix;

    #[test]
    fn either_slot_has_the_whole_quarantine_and_without_both_the_loss_is_told_until_it_is_accepted() {
        let dir = std::env::temp_dir().join(format!("dunlin-files-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let (mut files, Loaded { mut history, .. }) = Files::open(&dir).unwrap();
        history.quarantine.add(Entry {
            app: "web".into(),
            spec: Digest::of(b"web"),
            cause: Cause::new(Reason::Exited, "exit code 1"),
            at: Unix(1),
        });
        files.write_quarantine(&mut history).unwrap();
        let (path, slot) = (dir.join("history"), History::SIZE);
        let whole = std::fs::read(&path).unwrap();
        let spoilt = |slots: &[usize]| {
            let mut bytes = whole.clone();
            slots.iter().for_each(|at| bytes[at * slot + 30] ^= 1);
            std::fs::write(&path, bytes).unwrap();
            Files::open(&dir).unwrap().1
        };
        for one in [0, 1] {
            assert_eq!(spoilt(&[one]).history, history);
            assert_eq!(lost(&dir), None);
        }
        let loaded = spoilt(&[0, 1]);
        assert_eq!((loaded.history, loaded.damage.len()), (History::default(), 1));
        assert!(Files::open(&dir).unwrap().1.damage.is_empty());
        assert!(lost(&dir).is_some(), "also after another start");
        forget_lost(&dir).unwrap();
        forget_lost(&dir).unwrap();
        assert_eq!(lost(&dir), None);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Before {
        seq: u64,
        boot: String,
        active: Vec<Deployment>,
        handled: Vec<Handled>,
    }

    #[test]
    fn a_journal_of_the_version_before_is_read_and_reads_ours() {
        let old = Before {
            seq: 7,
            boot: "b".into(),
            active: Vec::new(),
            handled: Vec::new(),
        };
        let journal: Journal = postcard::from_bytes(&postcard::to_allocvec(&old).unwrap()).unwrap();
        assert_eq!((journal.seq, journal.notes.len()), (7, 0));
        let notes = Notes {
            source: Source::Fleet,
            unlocked: vec!["web".into()],
            locked: 5,
            saved: Vec::new(),
        };
        let ours = Journal {
            notes: vec![notes],
            ..journal
        };
        let bytes = postcard::to_allocvec(&ours).unwrap();
        assert_eq!(postcard::from_bytes::<Before>(&bytes).unwrap().seq, 7);
        assert_eq!(postcard::from_bytes::<Journal>(&bytes).unwrap(), ours);
    }
}

//! The agent's own versions: the program that the package brought, and two slots for updates of it.
//!
//! ```text
//! <data>/agent/slots/
//!   a  b               programs
//!   incoming           the next one, not judged yet
//!   incoming.release   the signed document about it
//!   state  state.2     which one runs, which is on trial, how the last trial ended
//! ```
//!
//! Whoever starts `dunlin agent` starts the package's program; it looks here and becomes the slot's (exec, the process stays). A version
//! is on trial until it was healthy for a while; one that is not in its time, or that is started too often before, is left for the one
//! before. A package that is newer than the slots wins over them.

use std::path::{Path, PathBuf};

use crate::disk::DiskError;
use crate::disk::doubled::{self, Doubled, Found};
use crate::disk::record::kinds;
use crate::types::deployment::{Cause, Reason};
use crate::types::digest::Digest;
use crate::types::time::Unix;

/// Starts of a version on trial; one more means that it does not stay up.
pub const TRIAL_STARTS: u32 = 3;

/// Where a program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Slot {
    /// The package's.
    Base,
    /// The first slot.
    A,
    /// The second.
    B,
}

impl Slot {
    /// The word in file names and arguments.
    pub const fn as_str(self) -> &'static str {
        match self {
            Slot::Base => "base",
            Slot::A => "a",
            Slot::B => "b",
        }
    }

    /// The slot with this word.
    pub fn parse(word: &str) -> Option<Slot> {
        [Slot::Base, Slot::A, Slot::B]
            .into_iter()
            .find(|slot| slot.as_str() == word)
    }
}

/// A version in a slot.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Version {
    /// Where.
    pub slot: Slot,
    /// `0.2.0`
    pub version: String,
    /// Of the program.
    pub digest: Digest,
    /// Its release was signed.
    pub signed: bool,
}

/// A version that has to prove itself.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Trial {
    /// Which.
    pub version: Version,
    /// How often it was started.
    pub starts: u32,
    /// The agent before it was connected to the broker, so this one must be.
    pub broker: bool,
}

/// How a trial ended.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ended {
    /// Of this version.
    pub version: String,
    /// Why it was left; `None` when it stays.
    pub cause: Option<Cause>,
    /// When.
    pub at: Unix,
    /// The operator was told.
    pub told: bool,
}

/// What is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct State {
    /// The version that runs when there is no trial; the package's when `None`.
    pub committed: Option<Version>,
    /// On trial.
    pub trial: Option<Trial>,
    /// The last trial.
    pub last: Option<Ended>,
}

impl doubled::Body for State {
    const KIND: u16 = kinds::SLOTS;
}

impl State {
    /// Which program to start. Counts the start of a version on trial; ends a trial with too many starts.
    pub fn start(&mut self, base: &str, now: Unix) -> Slot {
        if self.committed.as_ref().is_some_and(|one| !newer(&one.version, base)) {
            // The package was upgraded past what is in the slots.
            self.committed = None;
        }
        match &mut self.trial {
            Some(trial) if trial.starts < TRIAL_STARTS => {
                trial.starts += 1;
                return trial.version.slot;
            }
            Some(trial) => {
                let text = format!("it was started {} times and never stayed healthy", trial.starts);
                self.end(Some(Cause::new(Reason::RestartLoop, text)), now);
            }
            None => {}
        }
        self.committed.as_ref().map_or(Slot::Base, |one| one.slot)
    }

    /// Ends a trial: with a cause the version before goes on, without the new one stays.
    pub fn end(&mut self, cause: Option<Cause>, now: Unix) {
        let Some(trial) = self.trial.take() else { return };
        self.last = Some(Ended {
            version: trial.version.version.clone(),
            cause: cause.clone(),
            at: now,
            told: false,
        });
        if cause.is_none() {
            self.committed = Some(trial.version);
        }
    }

    /// The slot for the next version: not the one that runs.
    pub fn free(&self) -> Slot {
        match self.committed.as_ref().map(|one| one.slot) {
            Some(Slot::A) => Slot::B,
            _ => Slot::A,
        }
    }
}

/// The open files.
#[derive(Debug)]
pub struct Slots {
    dir: PathBuf,
    doubled: Doubled<State>,
    /// What is kept.
    pub state: State,
}

impl Slots {
    /// Reads what is kept below the agent's folder. Where neither copy can be read the package's program runs.
    pub fn open(agent: &Path) -> Result<Slots, DiskError> {
        let dir = agent.join("slots");
        let (doubled, found) = Doubled::open(&dir.join("state"))?;
        let state = match found {
            Found::Good(state) => state,
            Found::Nothing => State::default(),
            Found::Unreadable(text) => {
                crate::error!("{text}; the package's agent runs");
                State::default()
            }
        };
        Ok(Slots { dir, doubled, state })
    }

    /// Writes the state; on disk when this returns.
    pub fn write(&mut self) -> Result<(), DiskError> {
        self.doubled.write(&self.state)
    }

    /// The program of a slot; `None` of the package.
    pub fn program(&self, slot: Slot) -> Option<PathBuf> {
        (slot != Slot::Base).then(|| self.dir.join(slot.as_str()))
    }

    /// The program that comes.
    pub fn incoming(&self) -> PathBuf {
        incoming(&self.dir)
    }

    /// The version in a slot, on trial or committed.
    pub fn version(&self, slot: Slot) -> Option<&Version> {
        let trial = self.state.trial.as_ref().map(|trial| &trial.version);
        [trial, self.state.committed.as_ref()]
            .into_iter()
            .flatten()
            .find(|one| one.slot == slot)
    }
}

/// The program that comes, in the slots' folder.
pub fn incoming(dir: &Path) -> PathBuf {
    dir.join("incoming")
}

/// Whether version `a` is newer than `b`, by the numbers of MAJOR.MINOR.PATCH.
pub fn newer(a: &str, b: &str) -> bool {
    numbers(a) > numbers(b)
}

fn numbers(version: &str) -> [u64; 3] {
    let mut numbers = [0; 3];
    for (number, text) in numbers.iter_mut().zip(version.split(['.', '-', '+'])) {
        *number = text.parse().unwrap_or(0);
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(slot: Slot, version: &str) -> Version {
        Version {
            slot,
            version: version.into(),
            digest: Digest::of(version.as_bytes()),
            signed: true,
        }
    }

    fn state(committed: Option<(Slot, &str)>, trial: Option<(Slot, &str, u32)>) -> State {
        State {
            committed: committed.map(|(slot, text)| version(slot, text)),
            trial: trial.map(|(slot, text, starts)| Trial {
                version: version(slot, text),
                starts,
                broker: false,
            }),
            last: None,
        }
    }

    #[test]
    fn a_start_chooses_and_counts() {
        use Slot::{A, B, Base};
        type Row = (&'static str, State, Slot, State);
        let table: [Row; 8] = [
            ("nothing", state(None, None), Base, state(None, None)),
            (
                "committed",
                state(Some((A, "0.2.0")), None),
                A,
                state(Some((A, "0.2.0")), None),
            ),
            (
                "the package is newer",
                state(Some((A, "0.0.9")), None),
                Base,
                state(None, None),
            ),
            (
                "the package is as new",
                state(Some((A, "0.1.0")), None),
                Base,
                state(None, None),
            ),
            (
                "first start",
                state(None, Some((A, "0.2.0", 0))),
                A,
                state(None, Some((A, "0.2.0", 1))),
            ),
            (
                "last start beside a committed one",
                state(Some((A, "0.2.0")), Some((B, "0.3.0", 2))),
                B,
                state(Some((A, "0.2.0")), Some((B, "0.3.0", 3))),
            ),
            ("too many", state(None, Some((A, "0.2.0", 3))), Base, state(None, None)),
            (
                "too many beside a committed one",
                state(Some((B, "0.2.0")), Some((A, "0.3.0", 3))),
                B,
                state(Some((B, "0.2.0")), None),
            ),
        ];
        for (name, mut before, slot, mut after) in table {
            let ended = before
                .trial
                .as_ref()
                .filter(|trial| trial.starts == 3)
                .map(|trial| trial.version.version.clone());
            assert_eq!(before.start("0.1.0", Unix(5)), slot, "{name}");
            let cause = before
                .last
                .as_ref()
                .and_then(|last| last.cause.as_ref())
                .map(|cause| cause.code);
            assert_eq!(cause, ended.as_ref().map(|_| Reason::RestartLoop), "{name}");
            after.last = before.last.clone();
            assert_eq!(before, after, "{name}");
        }
    }

    #[test]
    fn a_trial_ends_with_the_new_version_or_the_old_one() {
        let mut good = state(Some((Slot::A, "0.2.0")), Some((Slot::B, "0.3.0", 1)));
        assert_eq!(good.free(), Slot::B);
        good.end(None, Unix(1));
        assert_eq!(good.committed, Some(version(Slot::B, "0.3.0")));
        assert_eq!(good.free(), Slot::A, "never the one that runs");
        let mut bad = state(Some((Slot::A, "0.2.0")), Some((Slot::B, "0.3.0", 1)));
        bad.end(Some(Cause::new(Reason::ProbeTimeout, "x")), Unix(1));
        assert_eq!((bad.committed, bad.trial), (Some(version(Slot::A, "0.2.0")), None));
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(
            newer("0.2.0", "0.1.0") && newer("0.10.0", "0.9.0") && !newer("1.0.0", "1.0.0") && !newer("0.9.9", "1.0")
        );
        assert!(newer("0.10.0", "0.9.9") && !newer("0.1.0", "0.1.0") && !newer("0.1", "0.1.0") && newer("1", "0.9"));
    }
}

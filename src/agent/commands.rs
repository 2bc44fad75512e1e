//! Ids of commands and their answers, on disk: each id before its command is carried out, each final answer before it is sent.
//!
//! ```text
//! <data>/agent/commands.log    records (disk::record), each at a multiple of 512 bytes, then zeros; a later one of the same id counts
//! ```
//!
//! What is there is never changed: a record is written where zeros are, which costs one sync of one block and works on a full disk.
//! When there is no room left, a new file with what is still kept takes its place. A torn record is the last one, and of a command
//! that nobody was told of.
//!
//! A command belongs to one session of the agent, so that a stored or replayed one never runs later. What an agent before this one left
//! in the middle is answered `failed{interrupted}`.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::disk::record::{self, Record, kinds};
use crate::disk::{DiskError, durable};
use crate::types::bounds::{COMMAND_BYTES, COMMAND_IDS};
use crate::types::deployment::{Cause, Reason};
use crate::types::document::{Answer, AnswerStatus};

/// Commands of earlier sessions whose answers are kept.
const EARLIER: usize = 64;
/// Where records begin: multiples of this, the least that a disk writes at once.
const SECTOR: usize = 512;
/// Zeros behind what is kept in a new file: room for a session of commands with short answers.
const ROOM: usize = 2 * COMMAND_IDS * SECTOR;

/// One command.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Entry {
    session: String,
    id: String,
    reply_to: String,
    /// JSON of the final answer; empty while there is none.
    answer: String,
}

impl Record for Entry {
    const KIND: u16 = kinds::COMMANDS;
}

/// What is to be done about a command that arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It is carried out: its id is on disk.
    New,
    /// It was before, with this final answer; empty while it is carried out.
    Again(String),
    /// It is not.
    Refused(Cause),
}

/// A final answer: where it goes and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Final {
    /// Topic.
    pub reply_to: String,
    /// JSON.
    pub answer: String,
}

/// The commands of this session, and the last ones of those before.
#[derive(Debug)]
pub struct Commands {
    path: PathBuf,
    session: String,
    entries: Vec<Entry>,
    journal: Option<Journal>,
}

/// The open file.
#[derive(Debug)]
struct Journal {
    file: File,
    /// Bytes that are used, and bytes that there are.
    end: usize,
    size: usize,
}

/// The records of a journal's bytes, and where the last one ends. A damaged one is left out.
fn scan(bytes: &[u8], path: &Path) -> (Vec<Entry>, usize) {
    let (mut entries, mut at, mut end): (Vec<Entry>, usize, usize) = (Vec::new(), 0, 0);
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let mut length = SECTOR;
        if rest[0] != 0 {
            match record::decode::<Entry>(rest, path) {
                Ok(entry) => {
                    length = record::length(rest).next_multiple_of(SECTOR);
                    end = at + length;
                    let same = |one: &&mut Entry| one.session == entry.session && one.id == entry.id;
                    match entries.iter_mut().find(same) {
                        Some(before) => *before = entry,
                        None => entries.push(entry),
                    }
                }
                // The command is as lost as its answer.
                Err(error) => crate::warn!("{error}"),
            }
        }
        at += length;
    }
    (entries, end)
}

/// The record and zeros up to where the next one begins.
fn framed(entry: &Entry) -> Vec<u8> {
    let mut bytes = record::encode(entry);
    bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
    bytes
}

impl Journal {
    fn open(path: &Path, end: usize, size: usize) -> Result<Journal, DiskError> {
        let file = OpenOptions::new().write(true).open(path);
        let file = file.map_err(DiskError::io("open", path))?;
        Ok(Journal { file, end, size })
    }

    /// Writes a record where there is room; on disk when this returns true.
    fn append(&mut self, bytes: &[u8], path: &Path) -> Result<bool, DiskError> {
        if self.end + bytes.len() > self.size {
            return Ok(false);
        }
        let written = self.file.write_all_at(bytes, self.end as u64);
        let synced = written.and_then(|()| self.file.sync_data());
        synced.map_err(DiskError::io("write", path))?;
        self.end += bytes.len();
        Ok(true)
    }
}

impl Commands {
    /// Reads what earlier agents left at `path`, and answers what they left in the middle. The answers come back: they may never have
    /// been sent.
    pub fn open(path: &Path, session: &str, sessions: &[String]) -> Result<(Commands, Vec<Final>), DiskError> {
        if let Some(parent) = path.parent() {
            durable::create_dirs(parent)?;
        }
        let bytes = durable::read_optional(path, COMMAND_BYTES).unwrap_or_else(|error| {
            crate::warn!("{error}");
            None
        });
        let bytes = bytes.unwrap_or_default();
        let (mut entries, end) = scan(&bytes, path);
        // What was left in the middle is kept first, then the newest sessions; an unknown one is older than all known.
        let age = |entry: &Entry| sessions.iter().position(|one| *one == entry.session);
        entries.sort_by_key(|entry| (entry.answer.is_empty(), age(entry)));
        entries.drain(..entries.len().saturating_sub(EARLIER));
        let mut commands = Commands {
            path: path.to_owned(),
            session: session.to_owned(),
            entries,
            // Without one, the next record makes a new file.
            journal: Journal::open(path, end, bytes.len()).ok(),
        };
        for at in 0..commands.entries.len() {
            if commands.entries[at].answer.is_empty() {
                let answer = Answer {
                    id: commands.entries[at].id.clone(),
                    status: AnswerStatus::Failed,
                    reason: Some(Cause::new(
                        Reason::Interrupted,
                        "the agent ended before the command did",
                    )),
                    output: None,
                };
                commands.entries[at].answer = text(&answer);
                commands.keep(at)?;
            }
        }
        let finals = commands.entries.iter().map(|entry| Final {
            reply_to: entry.reply_to.clone(),
            answer: entry.answer.clone(),
        });
        let finals = finals.collect();
        Ok((commands, finals))
    }

    /// Writes one of the entries; on disk when this returns.
    fn keep(&mut self, at: usize) -> Result<(), DiskError> {
        let bytes = framed(&self.entries[at]);
        if let Some(journal) = &mut self.journal
            && journal.append(&bytes, &self.path)?
        {
            return Ok(());
        }
        let mut all: Vec<u8> = self.entries.iter().flat_map(framed).collect();
        let end = all.len();
        all.resize(end + ROOM.max(bytes.len()), 0);
        durable::write(&self.path, &all)?;
        self.journal = Some(Journal::open(&self.path, end, all.len())?);
        Ok(())
    }

    /// Judges a command by its session and id; one that is new is on disk when this returns.
    pub fn admit(&mut self, session: &str, id: &str, reply_to: &str) -> Result<Admission, DiskError> {
        let known = self.entries.iter().find(|e| e.session == session && e.id == id);
        if let Some(entry) = known {
            return Ok(Admission::Again(entry.answer.clone()));
        }
        if session != self.session {
            let text = "the command was made for another session of this device; read its presence again";
            return Ok(Admission::Refused(Cause::new(Reason::StaleSession, text)));
        }
        let ours = self.entries.iter().filter(|entry| entry.session == self.session);
        if ours.count() >= COMMAND_IDS {
            let text =
                format!("this session has had {COMMAND_IDS} commands; another begins with the agent's next start");
            return Ok(Admission::Refused(Cause::new(Reason::Busy, text)));
        }
        self.entries.push(Entry {
            session: session.to_owned(),
            id: id.to_owned(),
            reply_to: reply_to.to_owned(),
            answer: String::new(),
        });
        let kept = self.keep(self.entries.len() - 1);
        if kept.is_err() {
            self.entries.pop();
        }
        kept.map(|()| Admission::New)
    }

    /// Keeps a command's final answer; it may be sent to where this says. `None` where the command is not known or has its answer.
    pub fn end(&mut self, answer: &Answer) -> Result<Option<Final>, DiskError> {
        let pending = |e: &Entry| e.session == self.session && e.id == answer.id && e.answer.is_empty();
        let Some(at) = self.entries.iter().position(pending) else {
            return Ok(None);
        };
        self.entries[at].answer = text(answer);
        self.keep(at)?;
        let entry = &self.entries[at];
        Ok(Some(Final {
            reply_to: entry.reply_to.clone(),
            answer: entry.answer.clone(),
        }))
    }
}

/// An answer as it is sent.
pub fn text(answer: &Answer) -> String {
    // It holds nothing that cannot be written.
    serde_json::to_string(answer).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let dir = std::env::temp_dir().join(format!("dunlin-commands-{name}-{}", std::process::id()));
            Scratch(dir)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn done(id: &str) -> Answer {
        Answer {
            id: id.into(),
            status: AnswerStatus::Done,
            reason: None,
            output: None,
        }
    }

    fn sessions(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn a_command_runs_once_and_its_answer_is_repeated() {
        let scratch = Scratch::new("once");
        let (mut commands, finals) = Commands::open(&scratch.0, "s1", &sessions(&["s1"])).unwrap();
        assert!(finals.is_empty());
        assert_eq!(commands.admit("s1", "a", "r").unwrap(), Admission::New);
        assert_eq!(commands.admit("s1", "a", "r").unwrap(), Admission::Again(String::new()));
        let last = commands.end(&done("a")).unwrap().unwrap();
        assert_eq!(
            (last.reply_to.as_str(), last.answer.as_str()),
            ("r", r#"{"id":"a","status":"done"}"#)
        );
        assert_eq!(commands.end(&done("a")).unwrap(), None, "only one final answer");
        assert_eq!(commands.admit("s1", "a", "r").unwrap(), Admission::Again(last.answer));
        let stale = commands.admit("s0", "b", "r").unwrap();
        assert!(matches!(stale, Admission::Refused(cause) if cause.code == Reason::StaleSession));
    }

    #[test]
    fn what_was_left_in_the_middle_is_answered_as_interrupted_and_runs_no_more() {
        let scratch = Scratch::new("middle");
        let (mut commands, _) = Commands::open(&scratch.0, "s1", &sessions(&["s1"])).unwrap();
        commands.admit("s1", "a", "r/a").unwrap();
        commands.admit("s1", "b", "r/b").unwrap();
        commands.end(&done("b")).unwrap();
        let (mut commands, finals) = Commands::open(&scratch.0, "s2", &sessions(&["s1", "s2"])).unwrap();
        assert_eq!(finals.len(), 2);
        let middle = finals.iter().find(|f| f.reply_to == "r/a").unwrap();
        assert!(middle.answer.contains("interrupted"), "{}", middle.answer);
        assert_eq!(
            commands.admit("s1", "a", "r/a").unwrap(),
            Admission::Again(middle.answer.clone())
        );
        assert_eq!(
            commands.admit("s2", "a", "r/a").unwrap(),
            Admission::New,
            "another session, another command"
        );
        let (_, finals) = Commands::open(&scratch.0, "s3", &sessions(&["s1", "s2", "s3"])).unwrap();
        assert_eq!(finals.len(), 3);
    }

    #[test]
    fn a_session_has_a_bounded_number_of_commands_and_earlier_ones_make_room() {
        let scratch = Scratch::new("bound");
        let (mut commands, _) = Commands::open(&scratch.0, "s1", &sessions(&["s1"])).unwrap();
        for n in 0..COMMAND_IDS {
            assert_eq!(
                commands.admit("s1", &n.to_string(), "r").unwrap(),
                Admission::New,
                "{n}"
            );
        }
        let busy = commands.admit("s1", "more", "r").unwrap();
        assert!(matches!(busy, Admission::Refused(cause) if cause.code == Reason::Busy));
        let (mut commands, finals) = Commands::open(&scratch.0, "s2", &sessions(&["s1", "s2"])).unwrap();
        assert_eq!(finals.len(), EARLIER);
        for n in 0..COMMAND_IDS {
            assert_eq!(
                commands.admit("s2", &n.to_string(), "r").unwrap(),
                Admission::New,
                "{n}"
            );
        }
        let size = std::fs::metadata(&scratch.0).unwrap().len() as usize;
        assert!(size <= (COMMAND_IDS + EARLIER) * SECTOR + ROOM, "{size}");
    }

    #[test]
    fn a_damaged_or_torn_record_is_left_out_and_the_others_count() {
        let scratch = Scratch::new("rot");
        let (mut commands, _) = Commands::open(&scratch.0, "s1", &sessions(&["s1"])).unwrap();
        for id in ["a", "b", "c"] {
            commands.admit("s1", id, "r").unwrap();
        }
        commands.end(&done("b")).unwrap();
        let good = std::fs::read(&scratch.0).unwrap();
        let open = |bytes: &[u8]| {
            std::fs::write(&scratch.0, bytes).unwrap();
            let (mut commands, finals) = Commands::open(&scratch.0, "s2", &sessions(&["s1", "s2"])).unwrap();
            assert_eq!(commands.admit("s2", "a", "r").unwrap(), Admission::New);
            drop(commands);
            let (_, again) = Commands::open(&scratch.0, "s3", &sessions(&["s1", "s2", "s3"])).unwrap();
            assert_eq!(again.len(), finals.len() + 1, "what was written behind is read");
            let mut ids: Vec<_> = finals.iter().map(|f| f.answer[7..8].to_owned()).collect();
            ids.sort();
            ids.concat()
        };
        assert_eq!(open(&good), "abc");
        let mut rotten = good.clone();
        rotten[24] ^= 1;
        assert_eq!(open(&rotten), "bc");
        let mut torn = good.clone();
        torn[2 * SECTOR + 24..].fill(0);
        assert_eq!(open(&torn), "ab");
        assert_eq!(open(&good[..3 * SECTOR]), "abc", "the room is cut off");
        assert_eq!(open(b"rot"), "");
        assert_eq!(open(b""), "");
    }

    #[test]
    fn long_answers_make_a_new_file_that_holds_what_the_old_one_held() {
        let scratch = Scratch::new("long");
        let (mut commands, _) = Commands::open(&scratch.0, "s1", &sessions(&["s1"])).unwrap();
        let output = "x".repeat(16 << 10);
        for n in 0..60 {
            let id = n.to_string();
            commands.admit("s1", &id, "r").unwrap();
            let answer = Answer {
                output: Some(output.clone()),
                ..done(&id)
            };
            commands.end(&answer).unwrap();
        }
        let (_, finals) = Commands::open(&scratch.0, "s2", &sessions(&["s1", "s2"])).unwrap();
        assert_eq!(finals.len(), 60);
        assert!(finals.iter().all(|f| f.answer.contains(&output)));
    }
}

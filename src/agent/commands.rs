//! Ids of commands and their answers, on disk: each id before its command is carried out, each final answer before it is sent.
//!
//! ```text
//! <data>/agent/commands/N    one record each, written whole and synced
//! ```
//!
//! A command belongs to one session of the agent, so that a stored or replayed one never runs later. What an agent before this one left
//! in the middle is answered `failed{interrupted}`.

use std::path::{Path, PathBuf};

use crate::disk::record::{self, Record, kinds};
use crate::disk::{DiskError, durable};
use crate::types::bounds::COMMAND_IDS;
use crate::types::deployment::{Cause, Reason};
use crate::types::document::{Answer, AnswerStatus};

/// Commands of earlier sessions whose answers are kept.
const EARLIER: usize = 64;

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
    dir: PathBuf,
    session: String,
    /// By the number of its file.
    entries: Vec<(usize, Entry)>,
}

impl Commands {
    /// Reads what earlier agents left in `dir`, and answers what they left in the middle. The answers come back: they may never have
    /// been sent.
    pub fn open(dir: &Path, session: &str, sessions: &[String]) -> Result<(Commands, Vec<Final>), DiskError> {
        durable::create_dirs(dir)?;
        let mut entries: Vec<(usize, Entry)> = Vec::new();
        for number in 0..COMMAND_IDS + EARLIER {
            match record::read_optional::<Entry>(&dir.join(number.to_string())) {
                Ok(Some(entry)) => entries.push((number, entry)),
                Ok(None) => {}
                // Written whole, so this is the disk: the command is as lost as its answer.
                Err(error) => crate::warn!("{error}"),
            }
        }
        // What was left in the middle is kept first, then the newest sessions; an unknown one is older than all known.
        let age = |entry: &Entry| sessions.iter().position(|one| *one == entry.session);
        entries.sort_by_key(|(_, entry)| (entry.answer.is_empty(), age(entry)));
        let mut commands = Commands {
            dir: dir.to_owned(),
            session: session.to_owned(),
            entries,
        };
        let surplus = commands.entries.len().saturating_sub(EARLIER);
        for (number, _) in commands.entries.drain(..surplus) {
            let old = commands.dir.join(number.to_string());
            durable::remove_file(&old)?;
        }
        for (number, entry) in &mut commands.entries {
            if entry.answer.is_empty() {
                let answer = Answer {
                    id: entry.id.clone(),
                    status: AnswerStatus::Failed,
                    reason: Some(Cause::new(
                        Reason::Interrupted,
                        "the agent ended before the command did",
                    )),
                    output: None,
                };
                entry.answer = text(&answer);
                record::write(&commands.dir.join(number.to_string()), entry)?;
            }
        }
        let finals = commands.entries.iter().map(|(_, entry)| Final {
            reply_to: entry.reply_to.clone(),
            answer: entry.answer.clone(),
        });
        let finals = finals.collect();
        Ok((commands, finals))
    }

    /// Judges a command by its session and id; one that is new is on disk when this returns.
    pub fn admit(&mut self, session: &str, id: &str, reply_to: &str) -> Result<Admission, DiskError> {
        let known = self.entries.iter().find(|(_, e)| e.session == session && e.id == id);
        if let Some((_, entry)) = known {
            return Ok(Admission::Again(entry.answer.clone()));
        }
        if session != self.session {
            let text = "the command was made for another session of this device; read its presence again";
            return Ok(Admission::Refused(Cause::new(Reason::StaleSession, text)));
        }
        let ours = self.entries.iter().filter(|(_, entry)| entry.session == self.session);
        if ours.count() >= COMMAND_IDS {
            let text =
                format!("this session has had {COMMAND_IDS} commands; another begins with the agent's next start");
            return Ok(Admission::Refused(Cause::new(Reason::Busy, text)));
        }
        let free = (0..COMMAND_IDS + EARLIER).find(|n| self.entries.iter().all(|(number, _)| number != n));
        let Some(number) = free else {
            return Ok(Admission::Refused(Cause::new(
                Reason::Busy,
                "no room for another command",
            )));
        };
        let entry = Entry {
            session: session.to_owned(),
            id: id.to_owned(),
            reply_to: reply_to.to_owned(),
            answer: String::new(),
        };
        record::write(&self.dir.join(number.to_string()), &entry)?;
        self.entries.push((number, entry));
        Ok(Admission::New)
    }

    /// Keeps a command's final answer; it may be sent to where this says. `None` where the command is not known or has its answer.
    pub fn end(&mut self, answer: &Answer) -> Result<Option<Final>, DiskError> {
        let pending =
            |(_, e): &&mut (usize, Entry)| e.session == self.session && e.id == answer.id && e.answer.is_empty();
        let Some((number, entry)) = self.entries.iter_mut().find(pending) else {
            return Ok(None);
        };
        entry.answer = text(answer);
        record::write(&self.dir.join(number.to_string()), entry)?;
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
            let _ = std::fs::remove_dir_all(&self.0);
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
        assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), COMMAND_IDS + EARLIER);
    }

    #[test]
    fn a_damaged_record_is_left_out() {
        let scratch = Scratch::new("rot");
        let (mut commands, _) = Commands::open(&scratch.0, "s1", &sessions(&["s1"])).unwrap();
        commands.admit("s1", "a", "r").unwrap();
        std::fs::write(scratch.0.join("0"), "rot").unwrap();
        let (mut commands, finals) = Commands::open(&scratch.0, "s2", &sessions(&["s1", "s2"])).unwrap();
        assert!(finals.is_empty());
        assert_eq!(commands.admit("s2", "a", "r").unwrap(), Admission::New);
    }
}

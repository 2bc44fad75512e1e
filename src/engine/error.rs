//! Why the engine did not do as asked.

use super::options::OptionsError;
use crate::disk::DiskError;
use crate::monitor::client::ClientError;
use crate::monitor::wire::Refusal;
use crate::types::container::Status;
use crate::types::limits::NotEnforced;
use std::io;
use std::path::{Path, PathBuf};

/// Exit code of the command line for an error of dunlin itself.
pub const EXIT_OWN: u8 = 125;

/// What failed, on which object, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No container has this name or id.
    #[error("no container with name or ID `{0}` found: no such container")]
    NoContainer(String),
    /// The beginning of several ids.
    #[error("`{prefix}` is the beginning of {count} container ids; type more of it")]
    Ambiguous {
        /// What was typed.
        prefix: String,
        /// How many ids begin so.
        count: usize,
    },
    /// A name that is no name.
    #[error("name `{0}` is not possible: 1 to 128 letters, digits, `_`, `.` and `-`, beginning with a letter or digit")]
    BadName(String),
    /// The name is taken.
    #[error(
        "creating container: the container name `{name}` is already in use by {owner}; remove that container, use another \
         name, or --replace it"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        owner: String,
    },
    /// It is in a state in which that is not possible.
    #[error("container `{name}` is {}: {reason}", .status.as_str())]
    State {
        /// Which container.
        name: String,
        /// Its state.
        status: Status,
        /// Why that is in the way, and what to do.
        reason: &'static str,
    },
    /// Limits were asked for that the host cannot enforce.
    #[error("{}", sentences(.0))]
    NotEnforced(Vec<NotEnforced>),
    /// A limit is above what the board allows.
    #[error("limit `{limit}` of {asked} is above the board's maximum of {maximum}")]
    AboveMaximum {
        /// Which.
        limit: &'static str,
        /// What was asked for.
        asked: String,
        /// What the board allows.
        maximum: String,
    },
    /// Wishes that make no container.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The source of a bind is missing or not to be reached.
    #[error("bind source `{path}`: {source}; it is opened as the store's owner, uid {uid}")]
    BindSource {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
        /// Who opened it.
        uid: u32,
    },
    /// A file of the store.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The container's monitor.
    #[error(transparent)]
    Monitor(#[from] ClientError),
    /// The container could not be started; the code is the command line's.
    #[error(transparent)]
    Start(#[from] Refusal),
    /// Waiting took too long.
    #[error("container `{name}`: {what} did not happen within {seconds} s")]
    TimedOut {
        /// Which container.
        name: String,
        /// What was waited for.
        what: &'static str,
        /// How long.
        seconds: u64,
    },
    /// The operating system refused.
    #[error("{action} `{path}`: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl EngineError {
    /// Names the operation and the object of an I/O error.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EngineError {
        let path = path.to_owned();
        move |source| EngineError::Io { action, path, source }
    }

    /// The command line's exit code for it: 125, or 126 and 127 for a program that cannot be started.
    pub fn exit_code(&self) -> u8 {
        match self {
            EngineError::Start(refusal) | EngineError::Monitor(ClientError::Refused(refusal)) => refusal.code,
            _ => EXIT_OWN,
        }
    }

    /// Whether the container that was named does not exist.
    pub fn is_no_container(&self) -> bool {
        matches!(self, EngineError::NoContainer(_))
    }
}

fn sentences(limits: &[NotEnforced]) -> String {
    limits.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

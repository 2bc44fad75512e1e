//! Containers as callers of runc's command line have them: without keeper and monitor, each a directory below a root.
//!
//! ```text
//! <root>/<id>/state.json    what is known about the container (State)
//! <root>/<id>/config.json   the bundle's, as it was at the creation
//! <root>/<id>/start         socket that the first process waits at; not there once the container is started
//! ```
//!
//! All of it may be gone after a reboot, and so nothing is synced.

mod create;
mod events;
mod exec;
mod features;
mod life;
mod state;
mod template;

pub use create::{CAPABILITIES, Console, Make, Waiting, pass_listen_fds};
pub use events::stats;
pub use exec::Exec;
pub use features::features;
pub use state::{Container, Root, State, Status};
pub use template::template;

use std::io;
use std::path::{Path, PathBuf};

use super::cgroup::CgroupError;
use super::error::RuntimeError;
use crate::disk::DiskError;

/// Why a command on a container failed. The texts about its state are runc's, which callers look for.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// There is none of this name.
    #[error("container does not exist")]
    Missing,
    /// There is one of this name.
    #[error("container with given ID already exists")]
    Exists,
    /// A name that cannot be one.
    #[error("invalid container ID format: `{0}`; use letters, digits, `_`, `+`, `-` and `.`")]
    Id(String),
    /// It has to be in another state.
    #[error("{0}")]
    Status(String),
    /// The caller's options do not fit each other or the bundle.
    #[error("{0}")]
    Usage(String),
    /// The bundle's document is none.
    #[error("`{path}`: {problem}")]
    Document {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
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
    /// A file of the state.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Making or starting it.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Its control group.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

impl OciError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OciError {
        let path = path.to_owned();
        move |source| OciError::Io { action, path, source }
    }
}

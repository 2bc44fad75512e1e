//! Settings: agent.toml, boards, the ecosystem's files, and every environment variable in one list.

pub mod agent;
pub mod auth;
pub mod authorities;
pub mod board;
pub mod certs;
pub mod env;
pub mod fleet;
pub mod folders;
pub mod policy;
pub mod registries;
pub mod subid;

use std::path::{Path, PathBuf};

use crate::disk::{DiskError, durable};
use crate::types::bounds::CONFIG_FILE_BYTES;

/// A settings file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// It is not what it should be; every mistake at once.
    #[error("`{path}`: {text}")]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// What is wrong, each mistake with its key.
        text: String,
    },
}

impl ConfigError {
    /// A mistake in `path`.
    pub fn invalid(path: &Path, text: impl Into<String>) -> ConfigError {
        ConfigError::Invalid {
            path: path.to_owned(),
            text: text.into(),
        }
    }
}

/// Reads a bounded UTF-8 file.
pub(crate) fn read_text(path: &Path) -> Result<String, ConfigError> {
    let bytes = durable::read(path, CONFIG_FILE_BYTES as u64)?;
    String::from_utf8(bytes).map_err(|_| ConfigError::invalid(path, "is not UTF-8 text"))
}

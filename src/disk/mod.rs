//! Durable files and locks. Nothing is changed in place: temporary file, fsync, rename, fsync of the folder.

pub mod doubled;
pub mod durable;
pub mod events;
pub mod layout;
pub mod lock;
pub mod record;

use std::io;
use std::path::{Path, PathBuf};

/// A file operation that failed: which, on what, why.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The operating system refused.
    #[error("{action} `{path}`: {source}")]
    Io {
        /// What was tried: `write`, `read`, `rename`, …
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A record's bytes are not what was written.
    #[error("record `{path}` is damaged: {why}; `dunlin system check` tells more")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A record was written by a newer dunlin.
    #[error("record `{path}` has format {found}, this dunlin knows up to {known}; use a newer dunlin")]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its format.
        found: u16,
        /// The newest known.
        known: u16,
    },
    /// A file is larger than its bound.
    #[error("`{path}` is larger than {limit} bytes")]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// The bound.
        limit: u64,
    },
    /// A lock is held by somebody else for too long.
    #[error("`{path}` is locked by another dunlin process; waited {seconds} s")]
    Locked {
        /// Which.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
}

impl DiskError {
    /// Names the operation and the object of an I/O error.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
        let path = path.to_owned();
        move |source| DiskError::Io { action, path, source }
    }

    /// Whether the object does not exist.
    pub fn is_missing(&self) -> bool {
        matches!(self, DiskError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether permissions or a read-only disk are in the way.
    pub fn is_denied(&self) -> bool {
        matches!(self, DiskError::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem))
    }

    /// Whether the disk or the quota is full.
    pub fn is_full(&self) -> bool {
        matches!(self, DiskError::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

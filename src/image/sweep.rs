//! Removes trees that nothing shows any more: what garbage collection took away, and what dead processes left.

use std::path::Path;

use super::worker::{self, WorkerError, Workers};
use crate::store::{Collected, Store, StoreError};

/// Why something could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The worker.
    #[error("remove `{path}`: {source}")]
    Worker {
        /// The folder.
        path: String,
        /// What happened.
        source: Box<WorkerError>,
    },
    /// The folder itself.
    #[error("remove `{path}`: {source}")]
    Folder {
        /// The folder.
        path: String,
        /// What happened.
        source: std::io::Error,
    },
}

/// Deletes what dead processes left in the store, but for layers that can be gone on with, unless `all`; returns how many trees. Cheap
/// when there is nothing; to be called when a process begins to change the store.
pub fn sweep(store: &Store, workers: &dyn Workers, all: bool) -> Result<usize, SweepError> {
    let mut removed = 0;
    for area in store.abandoned(all)? {
        for tree in area.trees() {
            remove_layer(workers, &area.dir().join(tree))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Deletes what a garbage collection took out of sight.
pub fn discard(collected: &Collected, workers: &dyn Workers) -> Result<(), SweepError> {
    collected
        .trees
        .iter()
        .try_for_each(|tree| remove_layer(workers, &collected.staging.dir().join(tree)))
}

/// Deletes a layer's folder: a worker its tree, this process the rest.
pub fn remove_layer(workers: &dyn Workers, dir: &Path) -> Result<(), SweepError> {
    let tree = dir.join("diff");
    let path = || dir.display().to_string();
    worker::remove_tree(workers, &tree).map_err(|source| SweepError::Worker {
        path: path(),
        source: Box::new(source),
    })?;
    let removed = if dir.is_dir() {
        std::fs::remove_dir_all(dir)
    } else {
        std::fs::remove_file(dir)
    };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(SweepError::Folder {
            path: path(),
            source: e,
        }),
        _ => Ok(()),
    }
}

//! Compares layers with what they were when they were unpacked, by a worker in the store's user namespace.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

use super::sums::Finding;
use super::worker::{Job, Reply, Worker, WorkerError, Workers};
use crate::disk::DiskError;
use crate::store::{Store, StoreError, recipe};
use crate::sys::fs;
use crate::types::digest::Digest;

/// What a layer turned out to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layer {
    /// Nothing says what it must look like: an older dunlin unpacked it.
    pub not_checkable: bool,
    /// What says so is damaged itself.
    pub sums_damaged: bool,
    /// The recipe of its archive is missing or damaged, although its sums are there.
    pub recipe_damaged: bool,
    /// What is wrong in its tree.
    pub findings: Vec<Finding>,
    /// Things wrong beyond those.
    pub more: u64,
    /// Entries that were looked at.
    pub entries: u64,
    /// Bytes that were read.
    pub bytes: u64,
}

impl Layer {
    /// Whether it is as it was, as far as that can be known.
    pub fn is_good(&self) -> bool {
        !self.sums_damaged && !self.recipe_damaged && self.findings.is_empty() && self.more == 0
    }
}

/// Why a layer could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The store.
    #[error("check layer `{layer}`: {source}")]
    Store {
        /// The layer.
        layer: Digest,
        /// What happened.
        source: StoreError,
    },
    /// The worker.
    #[error("check layer `{layer}`: {source}")]
    Worker {
        /// The layer.
        layer: Digest,
        /// What happened.
        source: WorkerError,
    },
}

/// Compares the layer `key` with its sums; `quick` reads no content. `moved` gets the bytes of every step.
pub fn layer(
    store: &Store,
    workers: &dyn Workers,
    key: &Digest,
    quick: bool,
    moved: &mut dyn FnMut(u64),
) -> Result<Layer, CheckError> {
    let in_store = |source| CheckError::Store { layer: *key, source };
    let by_worker = |source| CheckError::Worker { layer: *key, source };
    let mut found = Layer::default();
    let path = store.layout().layers().join(key.hex()).join("sums");
    let sums = match File::open(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        other => Some(other.map_err(|e| in_store(DiskError::io("open", &path)(e).into()))?),
    };
    // An empty one belongs to a tree that was too large for sums.
    let sums = sums.filter(|file| file.metadata().is_ok_and(|meta| meta.len() > 0));
    let Some(sums) = sums else {
        found.not_checkable = true;
        return Ok(found);
    };
    let recipe = File::open(path.with_file_name("recipe"));
    // A quick look reads as little of it as of anything else.
    let look = |file: File| match quick {
        true => recipe::archive_bytes(&file).map(|_| true),
        false => recipe::verify(&file),
    };
    found.recipe_damaged = !recipe.and_then(look).unwrap_or(false);
    let tree = store.layout().layers().join(store.tree(key));
    let tree = fs::name_dir(&tree).map_err(|e| in_store(DiskError::io("open", &tree)(e).into()))?;
    let mut worker = Worker::start(workers, Job::Check { quick }, &[tree.as_fd(), sums.as_fd()]).map_err(by_worker)?;
    loop {
        match worker.reply().map_err(by_worker)? {
            Reply::Moved(bytes) => moved(bytes),
            Reply::Wrong(finding) => found.findings.push(finding),
            Reply::Checked(compared) => {
                found.sums_damaged = compared.damaged;
                found.more = compared.more;
                found.entries = compared.entries;
                found.bytes = compared.bytes;
                return Ok(found);
            }
            _ => return Err(by_worker(WorkerError::unexpected())),
        }
    }
}

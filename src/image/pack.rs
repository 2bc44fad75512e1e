//! The archive of a layer in the store, made again by a worker and checked against its diff id.

use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::worker::{Job, Reply, Worker, WorkerError, Workers};
use crate::disk::DiskError;
use crate::store::{LayerKey, Store, recipe};
use crate::sys::fs;
use crate::types::bounds;
use crate::types::digest::Digest;

/// Why a layer's archive cannot be made again.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file of the store.
    #[error("layer `{layer}`: {source}")]
    Disk {
        /// The layer.
        layer: Digest,
        /// What happened.
        source: DiskError,
    },
    /// There is no recipe.
    #[error("layer `{layer}`: how its archive is made was not kept; `dunlin system check --repair` fetches it again")]
    NoRecipe {
        /// The layer.
        layer: Digest,
    },
    /// The recipe was too large.
    #[error(
        "layer `{layer}`: its archive cannot be made again, since that would take more than is allowed for the layer"
    )]
    TooLarge {
        /// The layer.
        layer: Digest,
    },
    /// The worker.
    #[error("layer `{layer}`: {source}; `dunlin system check --repair` mends a damaged layer")]
    Worker {
        /// The layer.
        layer: Digest,
        /// What happened.
        source: WorkerError,
    },
    /// Other bytes came out.
    #[error("layer `{layer}` is damaged: its archive has the digest `{got}`; `dunlin system check --repair` mends it")]
    DiffId {
        /// The layer.
        layer: Digest,
        /// What came out.
        got: Digest,
    },
    /// The pipe.
    #[error("layer `{layer}`: cannot {action}: {source}")]
    Pipe {
        /// The layer.
        layer: Digest,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// The archive of a layer, being read: its end only comes where its digest is the diff id. Errors are [`PackError`]s inside
/// [`io::Error`]s.
#[derive(Debug)]
pub struct LayerTar {
    diff: Digest,
    bytes: u64,
    pipe: PipeReader,
    hash: Sha256,
    worker: Option<Worker>,
}

/// Bytes of a layer's archive.
pub fn archive_bytes(store: &Store, layer: &LayerKey) -> Result<u64, PackError> {
    Ok(open(store, layer)?.1)
}

/// Begins to make the archive of a layer. The layer must be kept from garbage collection meanwhile.
pub fn layer(store: &Store, workers: &dyn Workers, layer: &LayerKey) -> Result<LayerTar, PackError> {
    let diff = layer.diff;
    let piped = |action| {
        move |source| PackError::Pipe {
            layer: diff,
            action,
            source,
        }
    };
    let (recipe, bytes) = open(store, layer)?;
    let tree = store.layout().layers().join(store.tree(&layer.key));
    let tree = fs::name_dir(&tree).map_err(|e| PackError::Disk {
        layer: diff,
        source: DiskError::io("open", &tree)(e),
    })?;
    let (pipe, writer) = io::pipe().map_err(piped("make a pipe"))?;
    fs::grow_pipe(&writer, bounds::PIPE_BYTES);
    let fds = [tree.as_fd(), recipe.as_fd(), writer.as_fd()];
    let worker = Worker::start(workers, Job::Pack, &fds).map_err(|source| PackError::Worker { layer: diff, source })?;
    Ok(LayerTar {
        diff,
        bytes,
        pipe,
        hash: Sha256::new(),
        worker: Some(worker),
    })
}

fn open(store: &Store, layer: &LayerKey) -> Result<(File, u64), PackError> {
    let path: PathBuf = store.recipe_path(&layer.key);
    let layer = layer.diff;
    let failed = |e| PackError::Disk {
        layer,
        source: DiskError::io("read", &path)(e),
    };
    let file = match File::open(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(PackError::NoRecipe { layer }),
        other => other.map_err(failed)?,
    };
    match recipe::archive_bytes(&file) {
        Ok(Some(bytes)) => Ok((file, bytes)),
        Ok(None) => Err(PackError::TooLarge { layer }),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => Err(PackError::NoRecipe { layer }),
        Err(e) => Err(failed(e)),
    }
}

impl LayerTar {
    /// Bytes of the whole archive.
    pub fn length(&self) -> u64 {
        self.bytes
    }

    /// After the last byte: what the worker says, and whether it was the right archive.
    fn end(&mut self) -> Result<(), PackError> {
        let Some(mut worker) = self.worker.take() else {
            return Ok(());
        };
        let layer = self.diff;
        match worker.reply() {
            Ok(Reply::Packed { .. }) => {}
            Ok(_) => {
                let source = WorkerError::unexpected();
                return Err(PackError::Worker { layer, source });
            }
            Err(source) => return Err(PackError::Worker { layer, source }),
        }
        let got = Digest::from_bytes(self.hash.clone().finalize().into());
        if got != layer {
            return Err(PackError::DiffId { layer, got });
        }
        Ok(())
    }
}

impl Read for LayerTar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let got = self.pipe.read(buffer)?;
        self.hash.update(&buffer[..got]);
        if got == 0 {
            self.end().map_err(io::Error::other)?;
        }
        Ok(got)
    }
}

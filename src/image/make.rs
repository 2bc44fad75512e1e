//! Images that are made here: from an archive of files, or from what a container changed.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::copy::reshaped;
use super::layout::Layout;
use super::load::{self, SpoolError};
use super::pull::{Found, Progress, PullError, PullOptions, Source, take};
use super::save::{Shape, manifest};
use super::worker::{Job, Reply, Worker, WorkerError, Workers};
use crate::registry::{Descriptor, Document, parse_manifest};
use crate::store::{ImageRecord, Store, StoreError};
use crate::sys::fs;
use crate::types::bounds;
use crate::types::digest::Digest;
use crate::types::platform::Platform;
use crate::types::reference::Reference;

/// Why an image is not made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The archive.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// Files.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The worker.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The image that it stands on has no usable configuration.
    #[error("the configuration of image `{image}` is not valid")]
    Config {
        /// The image.
        image: Digest,
    },
    /// Taking it into the store.
    #[error(transparent)]
    Pull(#[from] Box<PullError>),
}

/// An archive of a layer, set down.
#[derive(Debug)]
pub struct NewArchive {
    file: File,
    bytes: u64,
    /// Its digest.
    pub diff: Digest,
}

impl NewArchive {
    /// Of an archive, which may be compressed or come through a pipe.
    pub fn read(store: &Store, options: &PullOptions, input: File) -> Result<NewArchive, MakeError> {
        let mut file = load::spool(store, options, input)?;
        let failed = |source| MakeError::Io {
            action: "read the archive",
            source,
        };
        io::Seek::rewind(&mut file).map_err(failed)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; bounds::TAR_BUFFER_BYTES];
        let mut bytes = 0;
        loop {
            match file.read(&mut buffer).map_err(failed)? {
                0 => break,
                got => {
                    hash.update(&buffer[..got]);
                    bytes += got as u64;
                }
            }
        }
        let diff = Digest::from_bytes(hash.finalize().into());
        Ok(NewArchive { file, bytes, diff })
    }

    /// Of what a container changed: of its writable folder.
    pub fn of_changes(
        store: &Store,
        workers: &dyn Workers,
        options: &PullOptions,
        upper: &Path,
    ) -> Result<NewArchive, MakeError> {
        let failed = |action| move |source| MakeError::Io { action, source };
        let tree = fs::name_dir(upper).map_err(failed("open the container's folder"))?;
        let (pipe, writer) = io::pipe().map_err(failed("make a pipe"))?;
        fs::grow_pipe(&writer, bounds::PIPE_BYTES);
        let mut worker = Worker::start(workers, Job::Diff, &[tree.as_fd(), writer.as_fd()])?;
        drop(writer);
        let file = load::copy(store, options, pipe)?;
        match worker.reply()? {
            Reply::Packed { .. } => NewArchive::read(store, options, file),
            _ => Err(WorkerError::unexpected().into()),
        }
    }
}

/// What a new image consists of.
#[derive(Debug)]
pub struct Whole<'a> {
    /// The image that it stands on.
    pub base: Option<&'a ImageRecord>,
    /// Its own layer.
    pub archive: NewArchive,
    /// Its configuration; the list of layers is completed here.
    pub config: Value,
}

/// Makes an image of the layers of another one and one more.
pub async fn make(
    store: &Store,
    workers: &Arc<dyn Workers>,
    whole: Whole<'_>,
    name: Option<&Reference>,
    options: &PullOptions,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<ImageRecord, MakeError> {
    let Whole {
        base,
        archive,
        mut config,
    } = whole;
    let mut diffs: Vec<Digest> = Vec::new();
    let mut layers: Vec<Descriptor> = Vec::new();
    if let Some(base) = base {
        diffs.extend(base.layers.iter().map(|layer| layer.diff));
        let came = store.manifest(base)?;
        match parse_manifest(&came, "") {
            Ok(Document::Manifest(known)) if known.layers.len() == diffs.len() => layers = known.layers,
            _ => return Err(MakeError::Config { image: base.id }),
        }
    }
    diffs.push(archive.diff);
    config["rootfs"] = json!({"type": "layers", "diff_ids": diffs});
    layers.push(Descriptor {
        media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(),
        digest: archive.diff,
        size: archive.bytes,
    });
    let config_bytes = config.to_string().into_bytes();
    let id = Digest::of(&config_bytes);
    let listed = layers.iter().map(|layer| reshaped(layer, Shape::Oci)).collect();
    let manifest = manifest(Shape::Oci, &id, config_bytes.len(), listed, b"");
    let text = |key: &str| config[key].as_str().unwrap_or_default().to_owned();
    let options = PullOptions {
        platform: Platform {
            os: text("os"),
            architecture: text("architecture"),
            variant: text("variant"),
        },
        ..options.clone()
    };
    let found = Found {
        source: Source::Layout(Layout::layer(archive.file, archive.bytes, archive.diff)),
        top: Digest::of(&manifest),
        manifest_digest: Digest::of(&manifest),
        manifest,
        config: config_bytes,
        config_digest: id,
        layers,
    };
    let label = name.map_or_else(|| id.short(), ToString::to_string);
    let made = take(store, workers, found, &label, name, &options, progress).await;
    Ok(made.map_err(Box::new)?)
}

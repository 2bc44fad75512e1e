//! The compressed bytes of a layer: hashed as they come, from a registry or a directory, after those that an earlier process has kept.

use std::fs::File;
use std::io::{self, Read, Seek, Write};

use hyper::body::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;

use super::course::{Course, Found};
use super::decode::Format;
use super::fetch::{Context, Wanted};
use super::files::Part;
use super::pull::{LayerError, Source};
use crate::registry::BlobStream;
use crate::store::{LayerStage, StoreError};
use crate::types::bounds;
use std::sync::Arc;

/// The compressed bytes of a layer.
pub(super) struct Intake {
    blob: Blob,
    /// What was read to know the format and not given out yet.
    start: Vec<u8>,
    /// Bytes given out, or not needed any more, from the beginning of the blob.
    pub(super) fetched: u64,
    /// Their hash.
    pub(super) hash: Sha256,
    pub(super) course: Option<Arc<Course>>,
    pub(super) spool: Option<Spool>,
}

impl Intake {
    pub(super) fn open(context: &Context, wanted: &Wanted, found: Option<&Found>) -> Result<Intake, LayerError> {
        let stream = found.and_then(|found| found.stream.as_ref());
        Ok(Intake {
            blob: Blob::open(&context.source, wanted, found.map_or(0, |found| found.fetched))?,
            start: Vec::new(),
            fetched: stream.and(found).map_or(0, |found| found.fetched),
            hash: stream.and_then(|stream| stream.hash()).unwrap_or_default(),
            course: None,
            spool: None,
        })
    }

    /// Whether the bytes are those of several answers, which need not fit together.
    pub(super) fn is_pieced(&self) -> bool {
        matches!(&self.blob, Blob::Registry(stream) if stream.traffic().answers > 1)
    }

    /// The first bytes, enough to know the format.
    pub(super) async fn start(&mut self) -> Result<&[u8], LayerError> {
        while self.start.len() < Format::MAGIC_BYTES {
            let Some(chunk) = self.blob.next().await? else { break };
            self.start.extend_from_slice(&chunk);
        }
        Ok(&self.start)
    }

    /// The next bytes, counted and hashed.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, LayerError> {
        let kept = match &mut self.spool {
            Some(spool) => spool.read()?,
            None => None,
        };
        let chunk = match kept {
            Some(chunk) => chunk,
            None => {
                let chunk = match std::mem::take(&mut self.start) {
                    start if start.is_empty() => self.blob.next().await?,
                    start => Some(Bytes::from(start)),
                };
                let Some(chunk) = chunk else { return Ok(None) };
                if let (Some(spool), Some(course)) = (&mut self.spool, &self.course) {
                    if course.is_spooled() {
                        spool.write(&chunk, course).await?;
                    } else {
                        spool.remove().await;
                        self.spool = None;
                    }
                }
                chunk
            }
        };
        self.hash.update(&chunk);
        self.fetched += chunk.len() as u64;
        if let Some(course) = &self.course {
            course.hashed(self.fetched, &self.hash);
        }
        Ok(Some(chunk))
    }
}

/// Compressed bytes that are kept until the layer is there.
pub(super) struct Spool {
    stage: LayerStage,
    file: File,
    /// Bytes that are still to be read from it.
    left: u64,
    length: u64,
    /// Bytes at the last mark, and at the last one on the device.
    marked: u64,
    synced: u64,
    syncing: Option<JoinHandle<Result<(), StoreError>>>,
}

impl Spool {
    /// The spool of a layer, of which `length` bytes are good.
    pub(super) fn open(stage: &LayerStage, length: u64) -> Result<Spool, LayerError> {
        let mut file = stage.spool()?;
        if file.metadata().map_err(failed)?.len() < length {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        file.set_len(length).and_then(|()| file.rewind()).map_err(failed)?;
        Ok(Spool {
            stage: stage.clone(),
            file,
            left: length,
            length,
            marked: length,
            synced: length,
            syncing: None,
        })
    }

    fn read(&mut self) -> Result<Option<Bytes>, LayerError> {
        let mut buffer = vec![0; self.left.min(bounds::DECODE_BUFFER_BYTES as u64) as usize];
        self.file.read_exact(&mut buffer).map_err(failed)?;
        self.left -= buffer.len() as u64;
        Ok((!buffer.is_empty()).then(|| Bytes::from(buffer)))
    }

    /// There are marks that take its place.
    async fn remove(&mut self) {
        if let Some(syncing) = self.syncing.take() {
            let _ = syncing.await;
        }
        self.stage.remove_spool();
    }

    async fn write(&mut self, chunk: &[u8], course: &Arc<Course>) -> Result<(), LayerError> {
        self.file.write_all(chunk).map_err(failed)?;
        self.length += chunk.len() as u64;
        course.grown(self.length);
        if self.length >= self.marked + bounds::CHECKPOINT_BYTES {
            self.marked = self.length;
            course.spooled(self.length, false)?;
        }
        let behind = self.length - self.synced;
        if behind < bounds::CHECKPOINT_SYNC_BYTES {
            return Ok(());
        }
        match &mut self.syncing {
            // The device has time until it is too far behind.
            Some(syncing) if behind < bounds::CHECKPOINT_WAIT_BYTES && !syncing.is_finished() => return Ok(()),
            Some(syncing) => syncing.await.unwrap_or(Ok(()))?,
            None => {}
        }
        let (file, length, course) = (self.file.try_clone().map_err(failed)?, self.length, course.clone());
        self.synced = length;
        self.syncing = Some(tokio::task::spawn_blocking(move || match file.sync_data() {
            Ok(()) => course.spooled(length, true),
            Err(_) => Ok(()),
        }));
        Ok(())
    }
}

fn failed(source: io::Error) -> LayerError {
    LayerError::Helper {
        action: "keep the compressed bytes",
        source,
    }
}

/// The bytes of a blob, from wherever the image is.
enum Blob {
    Registry(Box<BlobStream>),
    File { part: Part, buffer: Vec<u8> },
}

impl Blob {
    fn open(source: &Source, wanted: &Wanted, from: u64) -> Result<Blob, LayerError> {
        let blob = &wanted.blob;
        match source {
            Source::Registry { client, repository } => {
                Ok(Blob::Registry(Box::new(client.blob(repository, blob, from))))
            }
            Source::Layout(layout) => Ok(Blob::File {
                part: layout.blob(blob)?,
                buffer: vec![0; bounds::DECODE_BUFFER_BYTES],
            }),
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, LayerError> {
        match self {
            Blob::Registry(stream) => stream.next().await.map_err(|e| LayerError::Registry(Box::new(e))),
            Blob::File { part, buffer } => {
                // Local files are quick, and the pipe behind gives others their turn.
                let got = part.read(buffer);
                let got = got.map_err(|source| LayerError::Helper {
                    action: "read the blob",
                    source,
                })?;
                Ok((got > 0).then(|| Bytes::copy_from_slice(&buffer[..got])))
            }
        }
    }
}

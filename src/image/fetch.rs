//! One layer on its way in: source → SHA-256 → decoder → SHA-256 → worker → store.
//!
//! The network side is asynchronous; from the decoder on a thread of its own does blocking work, and it alone decides what becomes of the
//! layer's folder: into the store when both sides agree, removed in every other case.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot, watch};

use super::decode::Format;
use super::files::Part;
use super::line::{Ends, Line};
use super::pull::{LayerError, Progress, Source};
use super::unpack::{Limits, UnpackError};
use super::worker::{WorkerError, Workers};
use crate::registry::{BlobStream, Descriptor};
use crate::store::{LAYER_LOCK_PAUSE, LayerKey, LayerLock, Staging, Store};
use crate::types::bounds;
use crate::types::digest::Digest;

/// What all layers of a pull share.
pub(super) struct Context {
    pub(super) store: Store,
    pub(super) workers: Arc<dyn Workers>,
    pub(super) source: Source,
    pub(super) staging: Staging,
    pub(super) program: PathBuf,
    pub(super) reserve: u64,
    pub(super) slots: Semaphore,
    pub(super) progress: mpsc::Sender<Progress>,
}

/// One layer to fetch.
pub(super) struct Wanted {
    pub(super) index: usize,
    pub(super) blob: Descriptor,
    pub(super) diff: Digest,
    pub(super) chain: Digest,
}

/// How far the layers of one image are, lowest first: those that lean on lower ones wait here.
#[derive(Clone)]
pub(super) struct Ladder {
    rungs: Arc<Vec<watch::Sender<Rung>>>,
}

#[derive(Clone, Copy)]
enum Rung {
    Missing,
    There(LayerKey),
    GivenUp,
}

impl Ladder {
    pub(super) fn new(layers: usize) -> Ladder {
        Ladder {
            rungs: Arc::new((0..layers).map(|_| watch::Sender::new(Rung::Missing)).collect()),
        }
    }

    fn set(&self, index: usize, key: LayerKey) {
        if let Some(rung) = self.rungs.get(index) {
            rung.send_replace(Rung::There(key));
        }
    }

    /// Ends all waiting; fetches that are on their way stop too.
    pub(super) fn give_up(&self) {
        for rung in self.rungs.iter() {
            rung.send_if_modified(|rung| {
                let missing = matches!(rung, Rung::Missing);
                if missing {
                    *rung = Rung::GivenUp;
                }
                missing
            });
        }
    }

    /// Ends when the pull is given up.
    async fn given_up(&self, index: usize) {
        let Some(rung) = self.rungs.get(index) else { return };
        let mut watch = rung.subscribe();
        if watch.wait_for(|rung| matches!(rung, Rung::GivenUp)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The layers below `index`, topmost first, once all are there.
    async fn below(&self, index: usize) -> Result<Vec<LayerKey>, LayerError> {
        let mut keys = Vec::new();
        for rung in self.rungs.iter().take(index) {
            let mut watch = rung.subscribe();
            match watch.wait_for(|rung| !matches!(rung, Rung::Missing)).await.as_deref() {
                Ok(Rung::There(key)) => keys.push(*key),
                _ => return Err(LayerError::Below),
            }
        }
        keys.reverse();
        Ok(keys)
    }
}

/// Brings one layer into the store, or finds that it is there.
pub(super) async fn layer(
    context: Arc<Context>,
    wanted: Wanted,
    ladder: Ladder,
) -> (usize, Result<LayerKey, LayerError>) {
    let index = wanted.index;
    let brought = bring(&context, &wanted, &ladder).await;
    if let Ok(key) = &brought {
        ladder.set(index, *key);
    }
    (index, brought)
}

async fn bring(context: &Arc<Context>, wanted: &Wanted, ladder: &Ladder) -> Result<LayerKey, LayerError> {
    let digest = wanted.blob.digest;
    if let Some(key) = context.store.find_layer(&wanted.diff, &wanted.chain)? {
        tell(context, Progress::Exists(digest)).await;
        return Ok(key);
    }
    let slot = tokio::select! {
        biased;
        () = ladder.given_up(wanted.index) => return Err(LayerError::GivenUp),
        slot = context.slots.acquire() => slot.map_err(|_| LayerError::GivenUp)?,
    };
    let lock = tokio::select! {
        biased;
        () = ladder.given_up(wanted.index) => return Err(LayerError::GivenUp),
        lock = lock(context, wanted) => lock?,
    };
    let lock = match lock {
        Ok(lock) => lock,
        Err(key) => {
            tell(context, Progress::Exists(digest)).await;
            return Ok(key);
        }
    };
    let key = fetch(context, wanted, ladder, slot, lock).await?;
    tell(context, Progress::Done(digest)).await;
    Ok(key)
}

/// The right to make the layer, or the layer that another process has made meanwhile.
async fn lock(context: &Context, wanted: &Wanted) -> Result<Result<LayerLock, LayerKey>, LayerError> {
    let since = Instant::now();
    let mut told = false;
    loop {
        let lock = context.store.try_lock_layer(&wanted.diff)?;
        if let Some(key) = context.store.find_layer(&wanted.diff, &wanted.chain)? {
            return Ok(Err(key));
        }
        if let Some(lock) = lock {
            return Ok(Ok(lock));
        }
        if since.elapsed() > Duration::from_millis(bounds::LAYER_BUSY_MS) {
            return Err(LayerError::Busy {
                seconds: bounds::LAYER_BUSY_MS / 1000,
            });
        }
        if !told {
            tell(context, Progress::Waits(wanted.blob.digest)).await;
            told = true;
        }
        tokio::time::sleep(LAYER_LOCK_PAUSE).await;
    }
}

async fn fetch(
    context: &Arc<Context>,
    wanted: &Wanted,
    ladder: &Ladder,
    slot: SemaphorePermit<'_>,
    lock: LayerLock,
) -> Result<LayerKey, LayerError> {
    let mut blob = Blob::open(&context.source, &wanted.blob)?;
    let mut hash = Sha256::new();
    let start = blob.start(&mut hash).await?;
    let (limits, by_disk) = limits(context, wanted.blob.size)?;
    let (line, input) = Line::start(context, wanted, limits, Format::of(&start), lock)?;
    let (leans_sender, leans) = oneshot::channel();
    let (verdict, verdict_receiver) = oneshot::channel();
    let ends = Ends {
        leans: leans_sender,
        verdict: verdict_receiver,
    };
    let thread = tokio::task::spawn_blocking(move || line.run(ends));
    let fed = tokio::select! {
        biased;
        () = ladder.given_up(wanted.index) => Err(LayerError::GivenUp),
        fed = feed(context, wanted, &mut blob, &start, hash, input) => fed,
    };
    let fed = match fed {
        Ok(()) => {
            // The compressed bytes are right; the line may commit once its own side is too.
            let _ = verdict.send(());
            if let Ok(answer) = leans.await {
                // A slot is for fetching; held here it could be the one that a lower layer waits for.
                drop(slot);
                let below = ladder.below(wanted.index).await;
                below.map(|below| drop(answer.send(below)))
            } else {
                Ok(())
            }
        }
        Err(error) => {
            drop(verdict);
            Err(error)
        }
    };
    let done = match thread.await.unwrap_or(Err(LayerError::GivenUp)) {
        Err(LayerError::Worker(WorkerError::Unpack(UnpackError::Bytes { max, .. }))) if by_disk => {
            Err(LayerError::Full { free: max })
        }
        done => done,
    };
    match (fed, done) {
        // The line broke first, and the feed only noticed that nobody takes its bytes.
        (Err(LayerError::Helper { .. }), Err(error)) if !matches!(error, LayerError::GivenUp) => Err(error),
        (Err(error), _) => Err(error),
        (Ok(()), done) => done,
    }
}

/// Feeds the decoder and checks the compressed bytes.
async fn feed(
    context: &Context,
    wanted: &Wanted,
    blob: &mut Blob,
    start: &[u8],
    mut hash: Sha256,
    input: OwnedFd,
) -> Result<(), LayerError> {
    let failed = |source| LayerError::Helper {
        action: "feed the decoder",
        source,
    };
    let mut input = Some(pipe::Sender::from_owned_fd(input).map_err(failed)?);
    let mut fetched = 0;
    let mut broken = None;
    let mut next = Some(hyper::body::Bytes::copy_from_slice(start));
    while let Some(chunk) = next {
        fetched += chunk.len() as u64;
        if let Some(pipe) = &mut input
            && let Err(error) = pipe.write_all(&chunk).await
        {
            // Wrong bytes often break what is behind before they are all there; a little more tells which it was.
            if wanted.blob.size - fetched > bounds::BLAME_BYTES {
                return Err(failed(error));
            }
            broken = Some(error);
            input = None;
        }
        // Progress is only news: a slow reader does not hold up the pull.
        let _ = context
            .progress
            .try_send(Progress::Fetched(wanted.blob.digest, fetched));
        next = blob.next().await?;
        if let Some(chunk) = &next {
            hash.update(chunk);
        }
    }
    let got = Digest::from_bytes(hash.finalize().into());
    if got != wanted.blob.digest {
        return Err(LayerError::Digest { got });
    }
    broken.map_or(Ok(()), |error| Err(failed(error)))
}

async fn tell(context: &Context, progress: Progress) {
    // The receiver only goes away with the pull.
    let _ = context.progress.send(progress).await;
}

/// How much a layer of so many compressed bytes may become, and whether it is the disk that says so.
fn limits(context: &Context, compressed: u64) -> Result<(Limits, bool), LayerError> {
    let free = context.store.free()?.saturating_sub(context.reserve);
    let ratio = bounds::LAYER_RATIO_FREE_BYTES.max(compressed.saturating_mul(bounds::LAYER_RATIO));
    let allowed = ratio.min(bounds::LAYER_BYTES);
    let limits = Limits {
        bytes: allowed.min(free),
        // Headers come on top of the files' bytes; they take no room on the disk.
        archive: allowed.saturating_mul(2),
        entries: bounds::LAYER_ENTRIES,
    };
    Ok((limits, free < allowed))
}

/// The bytes of a blob, from wherever the image is.
enum Blob {
    Registry(Box<BlobStream>),
    File { part: Part, buffer: Vec<u8> },
}

impl Blob {
    fn open(source: &Source, blob: &Descriptor) -> Result<Blob, LayerError> {
        match source {
            Source::Registry { client, repository } => Ok(Blob::Registry(Box::new(client.blob(repository, blob, 0)))),
            Source::Layout(layout) => Ok(Blob::File {
                part: layout.blob(blob)?,
                buffer: vec![0; bounds::DECODE_BUFFER_BYTES],
            }),
        }
    }

    async fn next(&mut self) -> Result<Option<hyper::body::Bytes>, LayerError> {
        match self {
            Blob::Registry(stream) => stream.next().await.map_err(|e| LayerError::Registry(Box::new(e))),
            Blob::File { part, buffer } => {
                // Local files are quick, and the pipe behind gives others their turn.
                let got = part.read(buffer);
                let got = got.map_err(|source| LayerError::Helper {
                    action: "read the blob",
                    source,
                })?;
                Ok((got > 0).then(|| hyper::body::Bytes::copy_from_slice(&buffer[..got])))
            }
        }
    }

    /// The first bytes, enough to know the format.
    async fn start(&mut self, hash: &mut Sha256) -> Result<Vec<u8>, LayerError> {
        let mut start = Vec::new();
        while start.len() < Format::MAGIC_BYTES {
            let Some(chunk) = self.next().await? else { break };
            hash.update(&chunk);
            start.extend_from_slice(&chunk);
        }
        Ok(start)
    }
}

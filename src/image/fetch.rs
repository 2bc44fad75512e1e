//! One layer on its way in: source → SHA-256 → decoder → SHA-256 → worker → store.
//!
//! The network side is asynchronous; from the decoder on a thread of its own does blocking work, and it alone decides what becomes of the
//! layer's folder: into the store when both sides agree, removed in every other case.

use std::fs::File;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot, watch};

use super::decode::{self, DecodeError, Format};
use super::pull::{LayerError, Progress, Source};
use super::sweep;
use super::unpack::{Limits, Stats};
use super::worker::{Job, Parents, Reply, Worker, WorkerError, Workers};
use crate::registry::{BlobStream, Descriptor};
use crate::store::{LAYER_LOCK_PAUSE, LayerKey, LayerLock, LayerStage, NewLayer, Staging, Store};
use crate::sys::fs;
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
    let limits = limits(context, wanted.blob.size)?;
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
    let done = thread.await.unwrap_or(Err(LayerError::GivenUp));
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
    let mut input = pipe::Sender::from_owned_fd(input).map_err(failed)?;
    input.write_all(start).await.map_err(failed)?;
    let mut fetched = start.len() as u64;
    while let Some(chunk) = blob.next().await? {
        hash.update(&chunk);
        fetched += chunk.len() as u64;
        input.write_all(&chunk).await.map_err(failed)?;
        // Progress is only news: a slow reader does not hold up the pull.
        let _ = context
            .progress
            .try_send(Progress::Fetched(wanted.blob.digest, fetched));
    }
    let got = Digest::from_bytes(hash.finalize().into());
    if got != wanted.blob.digest {
        return Err(LayerError::Digest { got });
    }
    Ok(())
}

async fn tell(context: &Context, progress: Progress) {
    // The receiver only goes away with the pull.
    let _ = context.progress.send(progress).await;
}

/// How much a layer of so many compressed bytes may become.
fn limits(context: &Context, compressed: u64) -> Result<Limits, LayerError> {
    let free = context.store.free()?.saturating_sub(context.reserve);
    let ratio = bounds::LAYER_RATIO_FREE_BYTES.max(compressed.saturating_mul(bounds::LAYER_RATIO));
    let bytes = free.min(ratio).min(bounds::LAYER_BYTES);
    // Headers come on top of the files' bytes.
    let archive = bytes
        .saturating_add(bounds::LAYER_RATIO_FREE_BYTES)
        .min(ratio.saturating_mul(2));
    Ok(Limits {
        bytes,
        archive,
        entries: bounds::LAYER_ENTRIES,
    })
}

/// The bytes of a blob, from wherever the image is.
enum Blob {
    Registry(Box<BlobStream>),
    File { file: File, size: u64, buffer: Vec<u8> },
}

impl Blob {
    fn open(source: &Source, blob: &Descriptor) -> Result<Blob, LayerError> {
        match source {
            Source::Registry { client, repository } => Ok(Blob::Registry(Box::new(client.blob(repository, blob, 0)))),
            Source::Layout(layout) => {
                let file = layout.blob(blob)?;
                Ok(Blob::File {
                    file,
                    size: blob.size,
                    buffer: vec![0; bounds::DECODE_BUFFER_BYTES],
                })
            }
        }
    }

    async fn next(&mut self) -> Result<Option<hyper::body::Bytes>, LayerError> {
        match self {
            Blob::Registry(stream) => stream.next().await.map_err(|e| LayerError::Registry(Box::new(e))),
            Blob::File { file, size, buffer } => {
                // Local files are quick, and the pipe behind gives others their turn.
                let want = buffer.len().min(usize::try_from(*size).unwrap_or(usize::MAX));
                let got = file.read(&mut buffer[..want]);
                let got = got.map_err(|source| LayerError::Helper {
                    action: "read the blob",
                    source,
                })?;
                *size -= got as u64;
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

/// What the asynchronous side and the line's thread say to each other.
struct Ends {
    /// Asks for the layers below; the answer comes over the channel inside.
    leans: oneshot::Sender<oneshot::Sender<Vec<LayerKey>>>,
    /// Comes when the compressed bytes are right; closed when they are not, or the pull is given up.
    verdict: oneshot::Receiver<()>,
}

/// Decoder, hash and worker of one layer.
struct Line {
    context: Arc<Context>,
    stage: LayerStage,
    decoder: Child,
    output: File,
    writer: PipeWriter,
    worker: Worker,
    index: usize,
    diff: Digest,
    chain: Digest,
    _lock: LayerLock,
}

impl Line {
    /// Starts the helpers. Returns the decoder's input too.
    fn start(
        context: &Arc<Context>,
        wanted: &Wanted,
        limits: Limits,
        format: Format,
        lock: LayerLock,
    ) -> Result<(Line, OwnedFd), LayerError> {
        let failed = |action| move |source| LayerError::Helper { action, source };
        let stage = context.store.stage_layer(&context.staging)?;
        let started = (|| {
            let (reader, writer) = io::pipe().map_err(failed("make a pipe"))?;
            fs::grow_pipe(&writer, bounds::PIPE_BYTES);
            let tree = fs::name_dir(&stage.tree()).map_err(failed("open the layer's folder"))?;
            let layers = fs::name_dir(&context.store.layout().layers()).map_err(failed("open the folder of layers"))?;
            let fds = [tree.as_fd(), reader.as_fd(), layers.as_fd()];
            let worker = Worker::start(&*context.workers, Job::Unpack { limits }, &fds)?;
            let command = decode::command(&context.program, format, limits.archive).spawn();
            let mut decoder = command.map_err(failed("start a decoder"))?;
            let (Some(input), Some(output)) = (decoder.stdin.take(), decoder.stdout.take()) else {
                return Err(LayerError::GivenUp);
            };
            fs::grow_pipe(&input, bounds::PIPE_BYTES);
            fs::grow_pipe(&output, bounds::PIPE_BYTES);
            Ok((
                worker,
                decoder,
                OwnedFd::from(input),
                File::from(OwnedFd::from(output)),
                writer,
            ))
        })();
        match started {
            Ok((worker, decoder, input, output, writer)) => {
                let context = context.clone();
                let (index, diff, chain) = (wanted.index, wanted.diff, wanted.chain);
                let line = Line {
                    context,
                    stage,
                    decoder,
                    output,
                    writer,
                    worker,
                    index,
                    diff,
                    chain,
                    _lock: lock,
                };
                Ok((line, input))
            }
            Err(error) => {
                dispose(&*context.workers, &stage);
                Err(error)
            }
        }
    }

    fn run(self, ends: Ends) -> Result<LayerKey, LayerError> {
        let Line {
            context,
            stage,
            mut decoder,
            output,
            writer,
            mut worker,
            index,
            diff,
            chain,
            _lock,
        } = self;
        let unpacked = pump(output, writer, diff);
        let decoded = reap(&mut decoder, unpacked.is_err());
        let done = settle(&context, &mut worker, index, ends, unpacked, decoded).and_then(|stats| {
            let key = if stats.leans { chain } else { diff };
            let layer = NewLayer {
                diff,
                key,
                leans: stats.leans,
                opaque: stats.opaque,
                root: stats.root,
                size: stats.bytes,
                entries: stats.entries,
                devices: stats.devices,
            };
            Ok(context.store.commit_layer(&stage, &layer)?)
        });
        drop(worker);
        if !matches!(done, Ok((_, true))) {
            dispose(&*context.workers, &stage);
        }
        done.map(|(key, _)| key)
    }
}

/// Copies the archive from the decoder to the worker and checks it against the diff id.
fn pump(mut output: File, mut writer: PipeWriter, diff: Digest) -> Result<(), LayerError> {
    let failed = |action| move |source| LayerError::Helper { action, source };
    let mut hash = Sha256::new();
    let mut buffer = vec![0; bounds::TAR_BUFFER_BYTES];
    loop {
        let got = match output.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => got,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(failed("read from the decoder")(e)),
        };
        hash.update(&buffer[..got]);
        writer.write_all(&buffer[..got]).map_err(failed("feed the worker"))?;
    }
    let got = Digest::from_bytes(hash.finalize().into());
    if got != diff {
        return Err(LayerError::DiffId { got, want: diff });
    }
    Ok(())
}

/// The end of the decoder; one whose output nobody takes any more is killed.
fn reap(decoder: &mut Child, kill: bool) -> Result<(), DecodeError> {
    if kill {
        let _ = decoder.kill();
    }
    decoder.wait().map_or(Err(DecodeError::Died), DecodeError::of)
}

/// Hears the worker out, then the network's side, and names the failure that came first in the line.
fn settle(
    context: &Context,
    worker: &mut Worker,
    index: usize,
    ends: Ends,
    pumped: Result<(), LayerError>,
    decoded: Result<(), DecodeError>,
) -> Result<Stats, LayerError> {
    let Ends { leans, verdict } = ends;
    let mut reply = worker.reply();
    if matches!(reply, Ok(Reply::Leans)) && pumped.is_ok() && decoded.is_ok() {
        reply = match below(context, index, leans)? {
            Some(parents) => worker.parents(parents).and_then(|()| worker.reply()),
            None => return Err(LayerError::GivenUp),
        };
    } else {
        drop(leans);
    }
    // A worker or a line that broke leaves the decoder with nobody to write to.
    let decoder_at_fault = !matches!(decoded, Ok(()) | Err(DecodeError::Output | DecodeError::Died));
    if decoder_at_fault {
        decoded?;
    }
    let reply = reply?;
    pumped?;
    decoded?;
    verdict.blocking_recv().map_err(|_| LayerError::GivenUp)?;
    match reply {
        Reply::Unpacked(stats) => Ok(stats),
        _ => Err(WorkerError::Malformed {
            why: "another answer than asked for".to_owned(),
        }
        .into()),
    }
}

/// The layers below, topmost first, down to the first that hides the rest; `None` when the pull is given up.
fn below(
    context: &Context,
    index: usize,
    leans: oneshot::Sender<oneshot::Sender<Vec<LayerKey>>>,
) -> Result<Option<Parents>, LayerError> {
    if index == 0 {
        return Ok(Some(Parents(Vec::new())));
    }
    let (sender, answer) = oneshot::channel();
    if leans.send(sender).is_err() {
        return Ok(None);
    }
    let Ok(keys) = answer.blocking_recv() else {
        return Ok(None);
    };
    let mut trees = Vec::new();
    for key in keys {
        trees.push(context.store.tree(&key.key));
        if context.store.layer(&key.key)?.is_some_and(|layer| layer.opaque) {
            break;
        }
    }
    Ok(Some(Parents(trees)))
}

/// Removes what is left of a layer. What cannot be removed now is found by the next sweep.
fn dispose(workers: &dyn Workers, stage: &LayerStage) {
    if let Err(error) = sweep::remove_layer(workers, stage.dir()) {
        crate::warn!("{}: {error}; the next start removes it", stage.dir().display());
    }
}

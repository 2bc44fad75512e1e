//! One layer on its way in: source → SHA-256 → decoder → SHA-256 → worker → store.
//!
//! The network side is asynchronous; from the decoder on a thread of its own does blocking work, and it alone decides what becomes of the
//! layer's folder: into the store when both sides agree, removed in every other case.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::Digest as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot, watch};

use super::course::{Course, Found};
use super::decode::{Format, Point};
use super::intake::{Intake, Spool};
use super::line::{self, Begin, Ends, Fed, Line};
use super::pull::{LayerError, Progress, Source};
use super::sweep;
use super::unpack::{Limits, UnpackError};
use super::worker::{WorkerError, Workers};
use crate::registry::Descriptor;
use crate::store::{LAYER_LOCK_PAUSE, LayerKey, LayerLock, LayerStage, Staging, Store};
use crate::types::bounds;
use crate::types::digest::Digest;

/// What all layers of a pull share.
pub(super) struct Context {
    pub(super) store: Store,
    pub(super) workers: Arc<dyn Workers>,
    pub(super) source: Source,
    #[expect(dead_code, reason = "keeps what is counted on from garbage collection")]
    pub(super) staging: Staging,
    pub(super) program: PathBuf,
    pub(super) reserve: u64,
    pub(super) slots: Slots,
    pub(super) progress: mpsc::Sender<Progress>,
}

/// How many layers are fetched at the same time. A zstd layer counts one and a half times: its decoder holds a window of megabytes.
pub(super) struct Slots {
    halves: Semaphore,
    all: u32,
}

impl Slots {
    pub(super) fn new(layers: usize) -> Slots {
        let all = 2 * layers.clamp(1, 1 << 16);
        Slots {
            halves: Semaphore::new(all),
            all: all as u32,
        }
    }

    async fn take(&self, blob: &Descriptor) -> Result<SemaphorePermit<'_>, LayerError> {
        // What it says it is: only its bytes tell what it is, and they come later.
        let halves = if blob.media_type.ends_with("zstd") { 3 } else { 2 };
        let taken = self.halves.acquire_many(halves.min(self.all)).await;
        taken.map_err(|_| LayerError::GivenUp)
    }
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
        slot = context.slots.take(&wanted.blob) => slot?,
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
    let lock = Arc::new(lock);
    let mut slot = Some(slot);
    let stage = context.store.part(&wanted.diff);
    let found = match context.source {
        Source::Registry { .. } => Found::read(&stage, &wanted.blob.digest, wanted.blob.size),
        Source::Layout(_) => None,
    };
    let mut pieced = found.is_some();
    let first = attempt(context, wanted, ladder, &mut slot, &lock, found, &mut pieced).await;
    match first {
        // What was kept may have been damaged, or the registry has something else under the same name now.
        Err(error) if pieced && error.is_of_content() => {
            crate::debug!("layer `{}`: {error}; it is begun anew", wanted.blob.digest);
            attempt(context, wanted, ladder, &mut slot, &lock, None, &mut pieced).await
        }
        done => done,
    }
}

/// Fetches a layer from where an earlier process left it, or from its beginning; notes whether the bytes were put together.
async fn attempt(
    context: &Arc<Context>,
    wanted: &Wanted,
    ladder: &Ladder,
    slot: &mut Option<SemaphorePermit<'_>>,
    lock: &Arc<LayerLock>,
    found: Option<Found>,
    pieced: &mut bool,
) -> Result<LayerKey, LayerError> {
    let mut intake = Intake::open(context, wanted, found.as_ref())?;
    let format = match &found {
        Some(found) => found.format,
        None => Format::of(intake.start().await?),
    };
    let (mut limits, by_disk) = limits(context, wanted.blob.size)?;
    // What is there already was taken from the free space before.
    limits.bytes += found
        .as_ref()
        .and_then(|found| found.stream.as_ref())
        .map_or(0, |stream| stream.bytes);
    let stage = prepare(context, wanted, found.as_ref()).await?;
    let course = matches!(context.source, Source::Registry { .. })
        .then(|| Arc::new(Course::new(stage.clone(), wanted.blob.digest, format, found.as_ref())));
    if course.as_ref().is_some_and(|course| course.is_spooled()) {
        intake.spool = Some(Spool::open(&stage, found.as_ref().map_or(0, |found| found.fetched))?);
    }
    intake.course = course.clone();
    let stream = found.and_then(|found| found.stream);
    let point = stream.as_ref().map(|stream| stream.point.clone());
    let begin = Begin {
        format,
        limits,
        stage,
        stream,
        course,
    };
    let (line, input) = Line::start(context, wanted, begin, lock)?;
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
        fed = feed(context, wanted, &mut intake, point, input) => fed,
    };
    let fed = match fed {
        Ok(()) => {
            // The compressed bytes are right; the line may commit once its own side is too.
            let _ = verdict.send(Fed::Right);
            if let Ok(answer) = leans.await {
                // A slot is for fetching; held here it could be the one that a lower layer waits for.
                drop(slot.take());
                let below = ladder.below(wanted.index).await;
                below.map(|below| drop(answer.send(below)))
            } else {
                Ok(())
            }
        }
        Err(error) => {
            match &error {
                LayerError::GivenUp => drop(verdict),
                LayerError::Registry(source) if source.is_of_content() => drop(verdict.send(Fed::Wrong)),
                LayerError::Registry(_) => drop(verdict.send(Fed::Broken)),
                _ => drop(verdict.send(Fed::Wrong)),
            }
            Err(error)
        }
    };
    *pieced |= intake.is_pieced();
    let done = match thread.await.unwrap_or(Err(LayerError::GivenUp)) {
        Err(LayerError::Worker(WorkerError::Unpack(UnpackError::Bytes { max, .. }))) if by_disk => {
            Err(LayerError::Full { free: max })
        }
        done => done,
    };
    match (fed, done) {
        // The line broke first, and the feed only noticed that nobody takes its bytes.
        (Err(fed @ LayerError::Helper { .. }), Err(error))
            if !fed.is_full() && !matches!(error, LayerError::GivenUp) =>
        {
            Err(error)
        }
        (Err(error), _) => Err(error),
        (Ok(()), done) => done,
    }
}

/// The layer's folder: as it was left, or empty.
async fn prepare(context: &Arc<Context>, wanted: &Wanted, found: Option<&Found>) -> Result<LayerStage, LayerError> {
    let stage = context.store.part(&wanted.diff);
    let spooled = match found {
        Some(Found { stream: Some(_), .. }) => return Ok(stage),
        found => found.is_some(),
    };
    if stage.is_there() {
        let (context, stage) = (context.clone(), stage.clone());
        let removed = tokio::task::spawn_blocking(move || match spooled {
            // The spool stays.
            true => drop(sweep::remove_layer(&*context.workers, stage.dir())),
            false => line::dispose(&*context.workers, &stage),
        });
        let _ = removed.await;
    }
    Ok(context.store.stage_layer(&wanted.diff)?)
}

/// Feeds the decoder and checks the compressed bytes.
async fn feed(
    context: &Context,
    wanted: &Wanted,
    intake: &mut Intake,
    point: Option<Point>,
    input: OwnedFd,
) -> Result<(), LayerError> {
    let failed = |source| LayerError::Helper {
        action: "feed the decoder",
        source,
    };
    let mut input = Some(pipe::Sender::from_owned_fd(input).map_err(failed)?);
    if let (Some(point), Some(pipe)) = (&point, &mut input) {
        pipe.write_all(&point.encode()).await.map_err(failed)?;
    }
    let known = point.map_or(0, |point| point.at);
    let mut broken = None;
    while let Some(chunk) = intake.next().await? {
        // The hash is behind the decoder where both go on.
        let skip = known.saturating_sub(intake.fetched - chunk.len() as u64);
        let skip = usize::try_from(skip).map_or(chunk.len(), |skip| skip.min(chunk.len()));
        if let Some(pipe) = &mut input
            && let Err(error) = pipe.write_all(&chunk[skip..]).await
        {
            // Wrong bytes often break what is behind before they are all there; a little more tells which it was.
            if wanted.blob.size - intake.fetched > bounds::BLAME_BYTES {
                return Err(failed(error));
            }
            broken = Some(error);
            input = None;
        }
        // Progress is only news: a slow reader does not hold up the pull.
        let _ = context
            .progress
            .try_send(Progress::Fetched(wanted.blob.digest, intake.fetched));
    }
    let got = Digest::from_bytes(intake.hash.clone().finalize().into());
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

//! How far one layer is, gathered from the network's side, the decoder and the worker, and kept for whoever goes on with it.
//!
//! A mark joins three places: where in the blob its hash is known, a place between two blocks of the decoder's stream after that, and a
//! place in the archive after that one, at which the worker said everything that it knows. Going on, bytes of the blob are fetched from
//! the first, decoded from the second, and unpacked from the third. Where the decoder has no such places (zstd), or as long as it has
//! found none (some encoders make one block of everything), the compressed bytes themselves are kept, and decoding begins anew.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::decode::{Format, Point};
use super::worker;
use crate::store::{LayerStage, Mark, StoreError};
use crate::sys::fs;
use crate::types::digest::Digest;
use crate::types::{bounds, hash};

/// Bytes of a blob between two places at which its hash is remembered.
const HASH_STEP_BYTES: u64 = 64 << 10;
/// How far a mark may be behind the bytes that are kept to take their place: what the pipes between the helpers hold, and more.
const BEHIND_BYTES: u64 = 4 << 20;
/// Places in a blob, and places in a stream, that are remembered at the most: far more than what the pipes between the helpers hold.
const PLACES: usize = 1024;
const POINTS: usize = 64;

/// The state in a mark.
#[derive(Serialize, Deserialize)]
struct State {
    /// Of the workers.
    version: u8,
    format: Format,
    stream: Option<Stream>,
}

/// Where to go on in a stream.
#[derive(Clone, Serialize, Deserialize)]
pub struct Stream {
    /// Hash of the blob's bytes that were fetched.
    #[serde(with = "serde_bytes")]
    hash: Vec<u8>,
    /// Where the decoder goes on.
    pub(super) point: Point,
    /// Bytes of the archive that it has made until there, and their hash.
    pub(super) made: u64,
    #[serde(with = "serde_bytes")]
    made_hash: Vec<u8>,
    /// Bytes of the archive that the worker has taken.
    pub(super) taken: u64,
    /// Bytes on disk so far.
    pub(super) bytes: u64,
    /// What the worker knows.
    #[serde(with = "serde_bytes")]
    pub(super) state: Vec<u8>,
}

/// What an earlier process has left of a layer.
pub struct Found {
    pub(super) format: Format,
    /// Compressed bytes that need not be fetched again.
    pub(super) fetched: u64,
    /// Without it the compressed bytes are in the spool.
    pub(super) stream: Option<Box<Stream>>,
}

impl Found {
    /// What there is of this layer and good for this blob.
    pub(super) fn read(stage: &LayerStage, blob: &Digest, size: u64) -> Option<Found> {
        Found::of(&stage.mark(blob)?, size)
    }

    /// What a mark says, where that can be so for a blob of so many bytes.
    pub fn of(mark: &Mark, size: u64) -> Option<Found> {
        let state: State = postcard::from_bytes(&mark.state).ok()?;
        let good = state.version == worker::VERSION && mark.fetched <= size;
        let stream = state.stream.map(Box::new);
        let fits = stream.as_ref().is_none_or(|stream| stream.fits(mark.fetched, size));
        (good && fits).then_some(Found {
            format: state.format,
            fetched: mark.fetched,
            stream,
        })
    }

    /// As a mark holds it.
    pub fn state(&self) -> Vec<u8> {
        let stream = self.stream.as_deref().cloned();
        state(self.format, stream)
    }
}

fn state(format: Format, stream: Option<Stream>) -> Vec<u8> {
    let version = worker::VERSION;
    let state = State {
        version,
        format,
        stream,
    };
    postcard::to_allocvec(&state).unwrap_or_default()
}

impl Stream {
    /// Whether its places come in their order and within bounds, and its hashes can be gone on with.
    fn fits(&self, fetched: u64, size: u64) -> bool {
        let order = fetched <= self.point.at && self.point.at <= size && self.made <= self.taken;
        let bounded = self.taken <= bounds::LAYER_BYTES * 2 && self.bytes <= bounds::LAYER_BYTES;
        order && bounded && self.hash().is_some() && self.made_hash().is_some()
    }

    /// Hash of the blob's bytes that were fetched.
    pub(super) fn hash(&self) -> Option<Sha256> {
        hash::restore(&self.hash)
    }

    /// Hash of what the decoder has made.
    pub(super) fn made_hash(&self) -> Option<Sha256> {
        hash::restore(&self.made_hash)
    }
}

/// How far a layer is.
pub(super) struct Course {
    stage: LayerStage,
    blob: Digest,
    format: Format,
    now: Mutex<Now>,
    synced: Condvar,
}

#[derive(Default)]
struct Now {
    /// Nothing can be gone on with any more.
    off: bool,
    /// The worker says no marks any more.
    no_marks: bool,
    /// There is a mark.
    marked: bool,
    /// Places in the blob, with its hash there.
    hashes: VecDeque<(u64, Sha256)>,
    /// Places in the stream, with what was made until there.
    points: VecDeque<(Point, u64, Sha256)>,
    /// Where in the blob the point of the last mark is.
    last: u64,
    /// What is on the device of the blob.
    synced: u64,
    syncing: bool,
    /// Bytes that are in the spool, as long as there is one.
    spool: Option<u64>,
}

impl Course {
    pub(super) fn new(stage: LayerStage, blob: Digest, format: Format, found: Option<&Found>) -> Course {
        let mut now = Now {
            spool: found.is_none_or(|found| found.stream.is_none()).then_some(0),
            ..Now::default()
        };
        if let Some(found) = found {
            now.marked = true;
            now.synced = found.fetched;
            if let Some(stream) = &found.stream {
                now.last = stream.point.at;
                now.hashes.extend(stream.hash().map(|hash| (found.fetched, hash)));
                let made = stream.made_hash();
                now.points
                    .extend(made.map(|hash| (stream.point.clone(), stream.made, hash)));
            }
        }
        Course {
            stage,
            blob,
            format,
            now: Mutex::new(now),
            synced: Condvar::new(),
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is a mark to go on from.
    pub(super) fn is_kept(&self) -> bool {
        let now = self.now();
        now.marked && !now.off
    }

    /// The blob's hash at this place.
    pub(super) fn hashed(&self, at: u64, hash: &Sha256) {
        let mut now = self.now();
        let due = now.hashes.back().is_none_or(|(last, _)| at >= last + HASH_STEP_BYTES);
        if due && !now.off && self.format.has_points() {
            now.hashes.push_back((at, hash.clone()));
            if now.hashes.len() > PLACES {
                now.hashes.pop_front();
            }
        }
    }

    /// The decoder can be gone on with from here, with `made` bytes of the archive before it. Waits where the device is too far behind.
    pub(super) fn point(&self, point: Point, made: u64, hash: &Sha256) {
        let mut now = self.now();
        if now.off {
            return;
        }
        let at = point.at;
        now.points.push_back((point, made, hash.clone()));
        if now.points.len() > POINTS {
            now.points.pop_front();
        }
        while now.syncing && at > now.synced.saturating_add(bounds::CHECKPOINT_WAIT_BYTES) {
            let waited = self.synced.wait_timeout(now, Duration::from_secs(1));
            now = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The worker is so far. Returns the mark that is to be put on the device, when that is due; [`Course::sync`] does that.
    pub(super) fn mark(&self, taken: u64, bytes: u64, state: Vec<u8>) -> Result<Option<Mark>, StoreError> {
        let mut now = self.now();
        let Some(at) = now.points.iter().rposition(|(_, made, _)| *made <= taken) else {
            return Ok(None);
        };
        now.points.drain(..at);
        let Some((point, made, made_hash)) = now.points.front().cloned() else {
            return Ok(None);
        };
        let Some(at) = now.hashes.iter().rposition(|(at, _)| *at <= point.at) else {
            return Ok(None);
        };
        now.hashes.drain(..at);
        let Some((fetched, blob_hash)) = now.hashes.front().cloned() else {
            return Ok(None);
        };
        let behind = now.spool.is_some_and(|spooled| spooled > fetched + BEHIND_BYTES);
        if now.off || now.no_marks || behind || point.at <= now.last {
            return Ok(None);
        }
        now.last = point.at;
        let stream = Stream {
            hash: hash::save(&blob_hash),
            point,
            made,
            made_hash: hash::save(&made_hash),
            taken,
            bytes,
            state,
        };
        let mark = self.of(fetched, bytes, Some(stream));
        if now.spool.take().is_some() {
            now.synced = 0;
        }
        let due = !now.syncing && fetched >= now.synced + bounds::CHECKPOINT_SYNC_BYTES;
        now.syncing |= due;
        drop(now);
        self.stage.write_mark(mark.clone())?;
        self.now().marked = true;
        Ok(due.then_some(mark))
    }

    fn of(&self, fetched: u64, bytes: u64, stream: Option<Stream>) -> Mark {
        Mark {
            blob: self.blob,
            fetched,
            bytes,
            spooled: stream.is_none(),
            state: state(self.format, stream),
            boot: String::new(),
        }
    }

    /// Puts everything that was written so far on the device, then the mark.
    pub(super) fn sync(&self, mark: Mark) {
        let fetched = mark.fetched;
        let written = fs::open_dir(self.stage.dir()).and_then(fs::sync_fs);
        let written = written.is_ok() && !self.now().off && self.stage.write_synced(mark).is_ok();
        let mut now = self.now();
        now.syncing = false;
        if written {
            now.synced = fetched;
        }
        self.synced.notify_all();
    }

    /// Whether the compressed bytes are still to be kept.
    pub(super) fn is_spooled(&self) -> bool {
        let now = self.now();
        now.spool.is_some() && !now.off
    }

    /// So many bytes of the blob are in the spool.
    pub(super) fn grown(&self, fetched: u64) {
        if let Some(spool) = &mut self.now().spool {
            *spool = fetched;
        }
    }

    /// Notes that these bytes of the blob can be had from the spool; with `synced` they are on the device.
    pub(super) fn spooled(&self, fetched: u64, synced: bool) -> Result<(), StoreError> {
        // Held meanwhile, so that this does not come after a mark that takes its place.
        let mut now = self.now();
        if now.spool.is_none() || now.off {
            return Ok(());
        }
        let mark = self.of(fetched, fetched, None);
        match synced {
            true => self.stage.write_synced(mark)?,
            false => self.stage.write_mark(mark)?,
        }
        now.marked = true;
        Ok(())
    }

    /// Nothing is noted any more once this returns: the layer goes to its place, or away.
    pub(super) fn stop(&self) {
        self.now().off = true;
    }

    /// No mark of the worker may be used any more, and there will be none.
    pub(super) fn end(&self) -> Result<(), StoreError> {
        let mut now = self.now();
        now.no_marks = true;
        if now.spool.is_some() {
            // From the spool the tree is made anew.
            return Ok(());
        }
        now.off = true;
        now.points.clear();
        now.hashes.clear();
        // A mark that is just being written would come back.
        while now.syncing {
            let waited = self.synced.wait_timeout(now, Duration::from_secs(1));
            now = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(now);
        self.stage.forget()
    }
}

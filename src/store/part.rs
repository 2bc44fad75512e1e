//! A layer on its way in: a folder that outlives the process which works on it, so that the next one goes on where it was.
//!
//! Whoever works on it holds the layer's lock, and so does the worker that writes its tree. How far it is stands in a [`Mark`], of
//! which there are two: one written often and never synced, good as long as the machine runs, and one that is only written once
//! everything it speaks of is on the device. A layer without a mark, or with one that cannot be read, is begun anew.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::staging::{Abandoned, Held};
use super::{Store, StoreError, list};
use crate::disk::lock::{Lock, Mode};
use crate::disk::record::{Record, kinds};
use crate::disk::{DiskError, durable, record as records};
use crate::sys::{clock, fs};
use crate::types::bounds;
use crate::types::digest::Digest;

/// How far a layer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Digest of the compressed layer that it is unpacked from.
    pub blob: Digest,
    /// Compressed bytes that need not be fetched again.
    pub fetched: u64,
    /// Bytes that it takes on the disk.
    pub bytes: u64,
    /// Whether the compressed bytes are in the spool.
    pub spooled: bool,
    /// What its decoder and its worker need to go on.
    #[serde(with = "serde_bytes")]
    pub state: Vec<u8>,
    /// The boot in which it is good; empty when everything it speaks of is on the device.
    pub boot: String,
}

impl Record for Mark {
    const KIND: u16 = kinds::MARK;
}

/// The right to make one layer; freed when it is dropped and no worker has a copy of it.
#[derive(Debug)]
pub struct LayerLock {
    path: PathBuf,
    lock: Lock,
}

impl LayerLock {
    /// For the worker that writes the layer.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }
}

impl Drop for LayerLock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A layer being unpacked.
#[derive(Debug, Clone)]
pub struct LayerStage {
    /// `tmp/part-HEX`
    part: PathBuf,
    /// `tmp/part-HEX/layer`: holds the record, the sums, the recipe and the tree.
    dir: PathBuf,
}

/// One that was begun by a process which is gone.
#[derive(Debug)]
pub struct Part {
    /// The layer.
    pub diff: Digest,
    /// How far it is.
    pub mark: Mark,
    /// When it was last worked on.
    pub since: SystemTime,
}

impl LayerStage {
    fn new(store: &Store, diff: &Digest) -> LayerStage {
        let part = store.layout().tmp().join(format!("part-{}", diff.hex()));
        LayerStage {
            dir: part.join("layer"),
            part,
        }
    }

    /// The folder for the tree.
    pub fn tree(&self) -> PathBuf {
        self.dir.join("diff")
    }

    /// Makes the file for the tree's sums.
    pub fn create_sums(&self) -> Result<File, StoreError> {
        create(&self.dir.join("sums"), true)
    }

    /// The file for the recipe of the layer's archive, empty where that is begun.
    pub fn recipe(&self, empty: bool) -> Result<File, StoreError> {
        create(&self.dir.join("recipe"), empty)
    }

    /// The file of what is in the tree, made when it is missing.
    pub fn journal(&self) -> Result<File, StoreError> {
        create(&self.part.join("journal"), false)
    }

    /// The file of compressed bytes, made when it is missing.
    pub fn spool(&self) -> Result<File, StoreError> {
        create(&self.part.join("spool"), false)
    }

    /// Removes the file of compressed bytes, and what may say on the device that it is there.
    pub fn remove_spool(&self) {
        let synced = self.part.join("synced");
        if records::read::<Mark>(&synced).is_ok_and(|mark| mark.spooled) {
            let _ = std::fs::remove_file(synced);
        }
        let _ = std::fs::remove_file(self.part.join("spool"));
    }

    /// Whether there is anything of it.
    pub fn is_there(&self) -> bool {
        self.part.exists()
    }

    /// The folder that is renamed into place, to be removed by a worker when it is not.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// How far it is, as far as that is known and for this blob.
    pub fn mark(&self, blob: &Digest) -> Option<Mark> {
        read_mark(&self.part).filter(|mark| mark.blob == *blob)
    }

    /// Notes how far it is, until the machine stops.
    pub fn write_mark(&self, mark: Mark) -> Result<(), StoreError> {
        let boot = clock::boot_id().to_owned();
        Ok(records::write_volatile(
            &self.part.join("mark"),
            &Mark { boot, ..mark },
        )?)
    }

    /// Notes how far it is for good: all of that is on the device.
    pub fn write_synced(&self, mark: Mark) -> Result<(), StoreError> {
        let boot = String::new();
        Ok(records::write(&self.part.join("synced"), &Mark { boot, ..mark })?)
    }

    /// Forgets how far it is, on the device too.
    pub fn forget(&self) -> Result<(), StoreError> {
        for name in ["mark", "synced"] {
            durable::remove_file(&self.part.join(name))?;
        }
        Ok(())
    }

    /// Removes everything but the layer's folder.
    pub fn remove_rest(&self) {
        remove_rest(&self.part);
    }
}

/// Removes everything of a part but its tree, and its folder when that is gone.
pub(super) fn remove_rest(part: &Path) {
    // Marks first: without them nobody goes on with the rest.
    let mut names = vec!["mark".to_owned(), "synced".to_owned()];
    let entries = std::fs::read_dir(part).into_iter().flatten().flatten();
    names.extend(entries.filter_map(|entry| entry.file_name().into_string().ok()));
    for name in names.iter().filter(|name| *name != "layer") {
        let _ = std::fs::remove_file(part.join(name));
    }
    let _ = std::fs::remove_dir(part);
}

fn create(path: &Path, empty: bool) -> Result<File, StoreError> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(empty).mode(0o600);
    Ok(options.open(path).map_err(DiskError::io("create", path))?)
}

/// The mark that is furthest among those that are good.
fn read_mark(part: &Path) -> Option<Mark> {
    let read = |name| records::read::<Mark>(&part.join(name)).ok();
    // Nothing is good for a boot that is not known.
    let boot = clock::boot_id();
    let volatile = read("mark").filter(|mark| !boot.is_empty() && mark.boot == boot);
    let synced = read("synced").filter(|mark| mark.boot.is_empty());
    match (volatile, synced) {
        (Some(volatile), Some(synced)) if synced.fetched > volatile.fetched => Some(synced),
        (Some(volatile), _) => Some(volatile),
        (None, synced) => synced,
    }
}

impl Store {
    /// Keeps others from making the layer of this digest. `None` while somebody does.
    pub fn try_lock_layer(&self, digest: &Digest) -> Result<Option<LayerLock>, StoreError> {
        let path = self.layout().tmp().join(format!("lock-{}", digest.hex()));
        loop {
            let Some(lock) = Lock::try_take(&path, Mode::Exclusive)? else {
                return Ok(None);
            };
            // Its last holder may have removed the file since it was opened; then it locks nothing.
            if lock.is_at(&path) {
                return Ok(Some(LayerLock { path, lock }));
            }
        }
    }

    /// What there is of the layer, which the caller has locked.
    pub fn part(&self, diff: &Digest) -> LayerStage {
        let stage = LayerStage::new(self, diff);
        // Marks whose writing was cut off.
        for entry in std::fs::read_dir(&stage.part).into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        stage
    }

    /// Makes an empty folder for a layer that the caller has locked. Nothing of an earlier one may be left.
    pub fn stage_layer(&self, diff: &Digest) -> Result<LayerStage, StoreError> {
        let stage = LayerStage::new(self, diff);
        let tree = stage.tree();
        for folder in [&stage.part, &stage.dir, &tree] {
            match std::fs::create_dir(folder) {
                // Its spool is in it.
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && folder == &stage.part => {}
                other => other.map_err(DiskError::io("create folder", folder))?,
            }
            self.open_for_trees(folder)?;
        }
        if let Some((uid, gid)) = self.tree_owner() {
            let chown = fs::open_dir(&tree).and_then(|dir| fs::chown_fd(&dir, uid, gid));
            chown.map_err(DiskError::io("give to the store's namespace", &tree))?;
        }
        Ok(stage)
    }

    /// Layers that were begun and can be gone on with, those that were worked on last first.
    pub fn parts(&self) -> Result<Vec<Part>, StoreError> {
        let mut parts: Vec<Part> = self.part_folders()?.into_iter().filter_map(part).collect();
        parts.sort_by_key(|part| std::cmp::Reverse(part.since));
        Ok(parts)
    }

    fn part_folders(&self) -> Result<Vec<(Digest, PathBuf)>, StoreError> {
        let tmp = self.layout().tmp();
        let names = list(&tmp)?.into_iter();
        Ok(names
            .filter_map(|name| {
                let diff = Digest::from_hex(name.strip_prefix("part-")?).ok()?;
                Some((diff, tmp.join(name)))
            })
            .collect())
    }

    /// Parts that nobody works on and that are of no use any more: without a mark, too old, too many or too large. All with `all`.
    pub(super) fn abandoned_parts(&self, all: bool) -> Result<Vec<Abandoned>, StoreError> {
        let mut left = bounds::PARTS_BYTES;
        let mut kept = Vec::new();
        for part in self.parts()? {
            let old = part.since.elapsed().unwrap_or_default() > Duration::from_millis(bounds::PART_LIFE_MS);
            if !old && !all && kept.len() < bounds::PARTS && part.mark.bytes <= left {
                left -= part.mark.bytes;
                kept.push(part.diff);
            }
        }
        let mut found = Vec::new();
        for (diff, dir) in self.part_folders()? {
            if !kept.contains(&diff)
                && let Some(lock) = self.try_lock_layer(&diff)?
            {
                // Looked at once more now that nobody can work on it: somebody may have finished it.
                let worked_on =
                    !all && read_mark(&dir).is_some() && part((diff, dir.clone())).is_some_and(|p| recent(&p));
                if dir.exists() && !worked_on {
                    let held = Held::Part(lock);
                    found.push(Abandoned { dir, held });
                }
            }
        }
        Ok(found)
    }
}

/// Whether somebody worked on it a moment ago, so that it was not one of those that were counted.
fn recent(part: &Part) -> bool {
    part.since.elapsed().is_ok_and(|age| age < Duration::from_secs(2))
}

fn part((diff, dir): (Digest, PathBuf)) -> Option<Part> {
    let mark = read_mark(&dir)?;
    let time = |name| std::fs::metadata(dir.join(name)).and_then(|data| data.modified());
    let since = time("mark").or_else(|_| time("synced")).ok()?;
    Some(Part { diff, mark, since })
}

//! A preallocated file of two checksummed slots, written alternately: the one file that is changed in place.
//!
//! ```text
//! slot 0 | slot 1      each SIZE bytes: one record (disk::record) of { count, body }, then whatever stood there before
//! ```
//!
//! The slot with the higher count and a good checksum is the newest. A write never touches the slot that was last known to be
//! synced, so that a torn write, or several writes without a sync and a power cut, leave that one. Because nothing is allocated
//! and no folder changes, a write works on a full disk and costs one sync.

use std::fs::{File, OpenOptions};
use std::marker::PhantomData;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::disk::record::{self, Record};
use crate::disk::{DiskError, durable};

use super::kill;

/// Bytes of a slot that are read at first.
const READ_FIRST: usize = 4096;

/// What can be kept in slots.
pub trait Body: Clone + serde::Serialize + serde::de::DeserializeOwned {
    /// The record's kind.
    const KIND: u16;
    /// Bytes of one slot.
    const SIZE: usize;
}

/// One slot's content.
#[derive(serde::Serialize, serde::Deserialize)]
struct Slot<T> {
    count: u64,
    body: T,
}

impl<T: Body> Record for Slot<T> {
    const KIND: u16 = T::KIND;
}

/// The open file.
#[derive(Debug)]
pub struct Slots<T> {
    file: File,
    path: PathBuf,
    count: u64,
    /// The slot of the newest record that is known to be on the disk.
    synced: usize,
    body: PhantomData<T>,
}

/// What was found at opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A new file, or one in which no slot was ever written whole.
    Empty,
    /// Both slots, or the only one that was written, were good.
    Good,
    /// One slot was torn or damaged; the other one was taken.
    OneDamaged,
    /// No slot could be read.
    Unreadable,
}

impl<T: Body> Slots<T> {
    /// Opens the file, and makes and preallocates it where it is missing; the newest body, if there is one.
    pub fn open(path: &Path) -> Result<(Slots<T>, Option<T>, Found), DiskError> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = match file {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => create::<T>(path)?,
            Err(error) => return Err(DiskError::io("open", path)(error)),
        };
        let length = file.metadata().map_err(DiskError::io("stat", path))?.len();
        if length < 2 * T::SIZE as u64 {
            // An older, smaller file: what it lacks is allocated now, so that no later write needs room.
            fill(&file, length, 2 * T::SIZE as u64).map_err(DiskError::io("preallocate", path))?;
            file.sync_all().map_err(DiskError::io("sync", path))?;
        }
        // What a killed process wrote without a sync is about to be built upon.
        file.sync_data().map_err(DiskError::io("sync", path))?;
        let slots = [read_slot::<T>(&file, path, 0)?, read_slot::<T>(&file, path, 1)?];
        // What the making of the file left in memory is in large pieces; a small write into one counts as a write of all of it.
        crate::sys::fs::drop_cache(&file, 0, 2 * T::SIZE as u64);
        let damaged = slots.iter().filter(|slot| matches!(slot, Read::Damaged)).count();
        let found = match (damaged, slots.iter().any(|slot| matches!(slot, Read::Good(..)))) {
            // The very first write was torn, and said nothing yet.
            (0 | 1, false) => Found::Empty,
            (0, true) => Found::Good,
            (_, true) => Found::OneDamaged,
            (_, false) => Found::Unreadable,
        };
        let newest = slots
            .into_iter()
            .enumerate()
            .filter_map(|(at, slot)| slot.good().map(|slot| (at, slot)))
            .max_by_key(|(_, slot)| slot.count);
        let (synced, count, body) = newest.map_or((1, 0, None), |(at, slot)| (at, slot.count, Some(slot.body)));
        Ok((
            Slots {
                file,
                path: path.to_owned(),
                count,
                synced,
                body: PhantomData,
            },
            body,
            found,
        ))
    }

    /// The newest body of a file that another process may be writing; the file is not touched.
    pub fn peek(path: &Path) -> Result<Option<T>, DiskError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(DiskError::io("open", path)(error)),
        };
        let slots = [read_slot::<T>(&file, path, 0)?, read_slot::<T>(&file, path, 1)?];
        let newest = slots.into_iter().filter_map(Read::good).max_by_key(|slot| slot.count);
        Ok(newest.map(|slot| slot.body))
    }

    /// Writes `body` into the other slot. With `sync` it is on the disk when this returns; without, a power cut may still lose it, but
    /// never what was synced before. `step` names the kill points around it.
    pub fn write(&mut self, body: &T, sync: bool, step: Step) -> Result<(), DiskError> {
        let count = self.count + 1;
        let bytes = record::encode(&Slot {
            count,
            body: body.clone(),
        });
        if bytes.is_empty() || bytes.len() > T::SIZE {
            return Err(DiskError::TooLarge {
                path: self.path.clone(),
                limit: T::SIZE as u64,
            });
        }
        kill::point(step.before);
        let slot = 1 - self.synced;
        let at = (slot * T::SIZE) as u64;
        let put = |part: &[u8], at| {
            self.file
                .write_all_at(part, at)
                .map_err(DiskError::io("write", &self.path))
        };
        if kill::armed() {
            let half = bytes.len() / 2;
            put(&bytes[..half], at)?;
            kill::point(step.half);
            put(&bytes[half..], at + half as u64)?;
        } else {
            put(&bytes, at)?;
        }
        self.count = count;
        if sync {
            self.file.sync_data().map_err(DiskError::io("sync", &self.path))?;
            self.synced = slot;
        }
        kill::point(step.after);
        Ok(())
    }
}

/// The kill points of one write.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Before anything is written.
    pub before: &'static str,
    /// When half of it is.
    pub half: &'static str,
    /// When it is on the disk.
    pub after: &'static str,
}

/// What stands in one slot.
enum Read<T> {
    Nothing,
    Damaged,
    Good(Slot<T>),
}

impl<T> Read<T> {
    fn good(self) -> Option<Slot<T>> {
        match self {
            Read::Good(slot) => Some(slot),
            Read::Nothing | Read::Damaged => None,
        }
    }
}

fn read_slot<T: Body>(file: &File, path: &Path, slot: usize) -> Result<Read<T>, DiskError> {
    // Most records are far shorter than their slots.
    let mut bytes = vec![0; READ_FIRST.min(T::SIZE)];
    let at = (slot * T::SIZE) as u64;
    let read = file.read_exact_at(&mut bytes, at).and_then(|()| {
        let length = record::length(&bytes).min(T::SIZE);
        let first = bytes.len();
        bytes.resize(length.max(first), 0);
        file.read_exact_at(&mut bytes[first..], at + first as u64)
    });
    if let Err(error) = read {
        crate::warn!("read `{}`: slot {slot}: {error}", path.display());
        return Ok(Read::Damaged);
    }
    if bytes.iter().take(64).all(|byte| *byte == 0) {
        return Ok(Read::Nothing);
    }
    match record::decode::<Slot<T>>(&bytes, path) {
        Ok(slot) => Ok(Read::Good(slot)),
        Err(error @ DiskError::Newer { .. }) => Err(error),
        Err(error) => {
            crate::info!("slot {slot}: {error}");
            Ok(Read::Damaged)
        }
    }
}

/// Makes a file of `bytes` zeros whose blocks are allocated; durable when it returns, and half there at the worst.
pub fn preallocate(path: &Path, bytes: u64) -> Result<(), DiskError> {
    let file = File::create(path).map_err(DiskError::io("create", path))?;
    fill(&file, 0, bytes).map_err(DiskError::io("preallocate", path))?;
    file.sync_all().map_err(DiskError::io("sync", path))
}

/// Makes the file under a temporary name and moves it into place, so that it is never seen half made.
fn create<T: Body>(path: &Path) -> Result<File, DiskError> {
    let temporary = path.with_extension("new");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(DiskError::io("create", &temporary))?;
    fill(&file, 0, 2 * T::SIZE as u64).map_err(DiskError::io("preallocate", &temporary))?;
    file.sync_all().map_err(DiskError::io("sync", &temporary))?;
    durable::rename(&temporary, path)?;
    Ok(file)
}

/// Writes zeros, which allocates the blocks on every file system.
fn fill(file: &File, from: u64, to: u64) -> std::io::Result<()> {
    let zeros = [0; 16 << 10];
    let mut at = from;
    while at < to {
        let length = (to - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..length as usize], at)?;
        at += length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Sample(Vec<u8>);

    impl Body for Sample {
        const KIND: u16 = 60_001;
        const SIZE: usize = 4096;
    }

    const STEP: Step = Step {
        before: "journal-accepted-before",
        half: "journal-accepted-half",
        after: "journal-accepted-after",
    };

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("dunlin-slots-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        durable::create_dirs(&dir).unwrap();
        dir
    }

    fn open(path: &Path) -> (Slots<Sample>, Option<Sample>, Found) {
        Slots::open(path).unwrap()
    }

    #[test]
    fn the_newest_good_slot_is_read_whatever_byte_of_the_other_is_damaged() {
        let dir = scratch("damage");
        let path = dir.join("journal");
        let (mut slots, body, found) = open(&path);
        assert_eq!((body, found), (None, Found::Empty));
        for n in 1..=5 {
            slots.write(&Sample(vec![n; 40]), true, STEP).unwrap();
        }
        assert_eq!(open(&path).1, Some(Sample(vec![5; 40])));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 2 * 4096);
        let whole = std::fs::read(&path).unwrap();
        let newest = if whole[..4096].windows(8).any(|w| w == [5; 8]) {
            0
        } else {
            4096
        };
        for at in 0..60 {
            let mut bytes = whole.clone();
            bytes[newest + at] ^= 0x40;
            std::fs::write(&path, &bytes).unwrap();
            let (_, body, found) = open(&path);
            assert_eq!(
                (body, found),
                (Some(Sample(vec![4; 40])), Found::OneDamaged),
                "byte {at}"
            );
        }
        let mut torn = [0; 2 * 4096];
        torn[..30].fill(0x55);
        std::fs::write(&path, torn).unwrap();
        assert_eq!(open(&path).2, Found::Empty, "a torn first write");
        std::fs::write(&path, [0x55; 2 * 4096]).unwrap();
        let (mut slots, body, found) = open(&path);
        assert_eq!((body, found), (None, Found::Unreadable));
        slots.write(&Sample(vec![9]), true, STEP).unwrap();
        assert_eq!(open(&path).1, Some(Sample(vec![9])), "and it is good again");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn writes_without_a_sync_never_touch_the_slot_that_is_synced() {
        let dir = scratch("sync");
        let path = dir.join("journal");
        let (mut slots, ..) = open(&path);
        slots.write(&Sample(vec![1; 40]), true, STEP).unwrap();
        let synced = slots.synced;
        for n in 2..=4 {
            slots.write(&Sample(vec![n; 40]), false, STEP).unwrap();
            assert_eq!(slots.synced, synced);
        }
        assert_eq!(
            open(&path).1,
            Some(Sample(vec![4; 40])),
            "a killed process loses nothing"
        );
        let mut bytes = std::fs::read(&path).unwrap();
        let other = (1 - synced) * 4096;
        bytes[other..other + 4096].fill(0xee);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(
            open(&path).1,
            Some(Sample(vec![1; 40])),
            "a power cut loses no synced record"
        );
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Long(Vec<u8>);

    impl Body for Long {
        const KIND: u16 = 60_002;
        const SIZE: usize = 32 << 10;
    }

    #[test]
    fn a_record_longer_than_what_is_read_first_is_read_whole() {
        let dir = scratch("long");
        let path = dir.join("journal");
        let (mut slots, ..) = Slots::<Long>::open(&path).unwrap();
        let long = |n: u8| Long(vec![n; 3 * READ_FIRST]);
        slots.write(&long(1), true, STEP).unwrap();
        slots.write(&long(2), true, STEP).unwrap();
        assert_eq!(Slots::peek(&path).unwrap(), Some(long(2)));
        // The second one went into the second slot.
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[Long::SIZE + 2 * READ_FIRST] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let (_, body, found) = Slots::open(&path).unwrap();
        assert_eq!((body, found), (Some(long(1)), Found::OneDamaged));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn too_large_a_body_changes_nothing() {
        let dir = scratch("large");
        let path = dir.join("journal");
        let (mut slots, ..) = open(&path);
        slots.write(&Sample(vec![1; 40]), true, STEP).unwrap();
        assert!(matches!(
            slots.write(&Sample(vec![2; 5000]), true, STEP),
            Err(DiskError::TooLarge { .. })
        ));
        assert_eq!(open(&path).1, Some(Sample(vec![1; 40])));
        std::fs::remove_dir_all(dir).unwrap();
    }
}

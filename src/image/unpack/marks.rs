//! How far a layer is: what a worker says about it from time to time, and how another worker goes on from there.
//!
//! A mark holds everything that the unpacker knows. The tree itself may be ahead of it: whoever goes on first removes what
//! was made after the mark, which it knows by the journal. That file has a record for every name that was made (1, then the hash of its path) and
//! for every directory whose time was set (2, the hash, seconds, nanoseconds); a mark says how much of it counts.
//!
//! What cannot be undone in this way ends the marks of a layer for good, before it happens: an entry that replaces another
//! one of the same layer, and a path through one of its symbolic links. Ordinary layers have neither.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::error::UnpackError;
use super::path::join;
use super::walk::Walk;
use super::{Limits, Stats, Unpacker};
use crate::image::tar::{Archive, Entry, Kind};
use crate::image::tree;
use crate::store::recipe::{RecipeMark, RecipeWriter};
use crate::sys::fs::{self, Time};
use crate::types::{bounds, hash};

const MADE: u8 = 1;
const LEFT: u8 = 2;

/// What a worker says about a layer.
#[derive(Debug)]
pub enum Said {
    /// It is so far.
    Mark {
        /// Bytes of the archive that were taken.
        taken: u64,
        /// Bytes on disk so far, each file rounded up to 4 KiB.
        bytes: u64,
        /// What another worker needs to go on from here.
        state: Vec<u8>,
    },
    /// Earlier marks are no good any more, and there will be none; returned from once they are gone.
    Over,
}

/// Hears what is said.
pub type Say = Box<dyn FnMut(Said) -> io::Result<()>>;

/// The journal of a layer.
pub(super) struct Journal {
    file: File,
    buffer: Vec<u8>,
    /// Bytes before the buffer.
    length: u64,
    /// Where in the archive the next mark is due.
    next: u64,
    over: bool,
    say: Say,
}

impl Journal {
    fn new(file: File, say: Say) -> Journal {
        Journal {
            file,
            buffer: Vec::new(),
            length: 0,
            next: bounds::CHECKPOINT_ARCHIVE_BYTES,
            over: false,
            say,
        }
    }

    pub(super) fn made(&mut self, path: &[u8]) {
        if self.over {
            return;
        }
        self.buffer.push(MADE);
        self.buffer.extend_from_slice(&key(path).to_le_bytes());
    }

    pub(super) fn left(&mut self, path: &[u8], time: Time) {
        if self.over {
            return;
        }
        self.buffer.push(LEFT);
        self.buffer.extend_from_slice(&key(path).to_le_bytes());
        self.buffer.extend_from_slice(&time.seconds.to_le_bytes());
        self.buffer.extend_from_slice(&time.nanos.to_le_bytes());
    }

    /// There are no more marks, and the earlier ones are gone when this returns.
    pub(super) fn end(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.over, true) {
            return Ok(());
        }
        self.buffer = Vec::new();
        (self.say)(Said::Over)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.length)?;
        self.length += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// A path's name in the journal (FNV-1a). Two paths with the same name only make a leftover look like a part of the layer, which
/// its own entry then replaces.
fn key(path: &[u8]) -> u64 {
    path.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Everything that an unpacker knows.
#[derive(Serialize, Deserialize)]
struct State {
    stats: Stats,
    links: Vec<(Vec<u8>, Vec<u8>)>,
    implicit: Vec<Vec<u8>>,
    /// The directories of the way, with the time to be set when it leaves them.
    levels: Vec<(Vec<u8>, (i64, u32))>,
    journal: u64,
    /// `None` where there is no recipe any more.
    recipe: Option<RecipeMark>,
    place: Place,
}

impl State {
    /// Whether its numbers are within what may be unpacked, so that they can be counted on.
    fn fits(&self, limits: &Limits) -> bool {
        let Place { at, left, padding, .. } = self.place;
        let stats = &self.stats;
        let place = at <= limits.archive && left <= limits.archive && padding < 512;
        place && stats.bytes <= limits.bytes && stats.entries <= limits.entries && stats.devices <= stats.entries
    }
}

/// Where in the archive it is.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) at: u64,
    pub(super) left: u64,
    pub(super) padding: u64,
    /// The file that is being written.
    pub(super) file: Option<Open>,
}

/// A file that is being written.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Open {
    name: Vec<u8>,
    path: Vec<u8>,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: (i64, u32),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) offset: u64,
    hash: Vec<u8>,
    /// Whether the recipe takes its content from the tree.
    pub(super) by_path: bool,
}

impl Open {
    pub(super) fn new(name: &[u8], entry: &Entry, by_path: bool) -> Open {
        Open {
            name: name.to_vec(),
            path: entry.path.clone(),
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            size: entry.size,
            mtime: (entry.mtime.seconds, entry.mtime.nanos),
            xattrs: entry.xattrs.clone(),
            offset: 0,
            hash: Vec::new(),
            by_path,
        }
    }

    pub(super) fn entry(&self) -> Entry {
        Entry {
            path: self.path.clone(),
            link: Vec::new(),
            kind: Kind::File,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            size: self.size,
            mtime: time(self.mtime),
            xattrs: self.xattrs.clone(),
            sparse: None,
        }
    }

    pub(super) fn hash(&self) -> Option<Sha256> {
        hash::restore(&self.hash)
    }

    /// Opens the file and cuts off what was written after the mark.
    pub(super) fn open(&self, walk: &Walk) -> io::Result<File> {
        let file = fs::write_file_at(walk.dir(), &self.name)?;
        if file.metadata()?.len() < self.offset {
            return Err(io::ErrorKind::InvalidData.into());
        }
        file.set_len(self.offset)?;
        Ok(file)
    }
}

fn time((seconds, nanos): (i64, u32)) -> Time {
    Time { seconds, nanos }
}

impl Unpacker {
    /// From now on says how far it is, and keeps the journal for that in `file`, which is empty or the one of the worker before.
    pub fn keep_journal(&mut self, file: File, say: Say) {
        self.walk.journal = Some(Journal::new(file, say));
    }

    /// Takes up the state of a mark, and removes from the tree what came after it, and from the recipe, where there is one. The journal
    /// must be kept already.
    pub fn go_on(&mut self, state: &[u8], recipe: Option<File>) -> Result<(), UnpackError> {
        let failed = |e: io::Error| UnpackError::os(b".", "go on with the layer", &e);
        let state: State = postcard::from_bytes(state).map_err(|e| failed(io::Error::other(e)))?;
        if !state.fits(&self.limits) {
            return Err(failed(io::ErrorKind::InvalidData.into()));
        }
        let journal = self.walk.journal.as_mut();
        let journal = journal.ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let known = Known::read(&journal.file, state.journal).map_err(failed)?;
        journal.file.set_len(state.journal).map_err(failed)?;
        journal.length = state.journal;
        journal.next = state.place.at + bounds::CHECKPOINT_ARCHIVE_BYTES;
        let root = self.walk.root().try_clone_to_owned().map_err(failed)?;
        known.clean(&root, &mut Vec::new()).map_err(failed)?;
        let levels = state.levels.into_iter().map(|(name, mtime)| (name, time(mtime)));
        self.walk.restore(levels, state.implicit).map_err(failed)?;
        self.links_bytes = state.links.iter().map(|(path, target)| path.len() + target.len()).sum();
        self.links = state.links;
        self.stats = state.stats;
        // Nobody has noted whether.
        self.acls = true;
        self.place = Some(state.place);
        self.recipe = match (recipe, state.recipe) {
            (Some(file), Some(mark)) => {
                let recipe = RecipeWriter::go_on(file, &mark).map_err(failed)?;
                Some(Rc::new(RefCell::new(recipe)))
            }
            // One that became too large is an empty file.
            (Some(file), None) => file.set_len(0).map(|()| None).map_err(failed)?,
            (None, _) => None,
        };
        Ok(())
    }

    /// Says how far it is, where that is due; `open` is the file that is being written, with its digest so far.
    pub(super) fn mark<R: Read>(
        &mut self,
        archive: &Archive<R>,
        open: Option<(&Open, u64, Option<&Sha256>)>,
    ) -> Result<(), UnpackError> {
        let at = archive.position();
        let implicit = self.walk.implicit();
        let Some(journal) = self.walk.journal.as_ref() else {
            return Ok(());
        };
        if journal.over || at < journal.next {
            return Ok(());
        }
        let needs = self.links_bytes + implicit.iter().map(Vec::len).sum::<usize>();
        let recipe = self.recipe.as_ref().map(|recipe| recipe.borrow_mut().mark());
        let recipe = recipe
            .transpose()
            .map_err(|e| UnpackError::os(b".", "write its recipe", &e))?
            .flatten();
        let (left, padding) = archive.rest();
        let state = (needs < bounds::CHECKPOINT_STATE_BYTES).then(|| State {
            stats: self.stats,
            links: self.links.clone(),
            implicit: implicit.iter().cloned().collect(),
            levels: self
                .walk
                .levels()
                .map(|(name, mtime)| (name.to_vec(), (mtime.seconds, mtime.nanos)))
                .collect(),
            journal: journal.length + journal.buffer.len() as u64,
            recipe,
            place: Place {
                at,
                left,
                padding,
                file: open.map(|(open, offset, digest)| Open {
                    offset,
                    hash: digest.map(hash::save).unwrap_or_default(),
                    ..open.clone()
                }),
            },
        });
        let state = state.and_then(|state| postcard::to_allocvec(&state).ok());
        let bytes = self.stats.bytes;
        let Some(journal) = self.walk.journal.as_mut() else {
            return Ok(());
        };
        journal.next = at + bounds::CHECKPOINT_ARCHIVE_BYTES;
        let Some(state) = state.filter(|state| state.len() <= bounds::CHECKPOINT_STATE_BYTES) else {
            return Ok(());
        };
        let said = journal.flush().and_then(|()| {
            (journal.say)(Said::Mark {
                taken: at,
                bytes,
                state,
            })
        });
        said.map_err(|e| UnpackError::os(b".", "say how far it is", &e))
    }
}

/// What the journal says was there at a mark.
struct Known {
    /// Sorted.
    names: Vec<u64>,
    times: HashMap<u64, Time>,
}

impl Known {
    fn read(file: &File, length: u64) -> io::Result<Known> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the journal is damaged");
        if file.metadata()?.len() < length || length > bounds::LAYER_ENTRIES * 64 {
            return Err(damaged());
        }
        let mut input = io::BufReader::new(At(file, 0)).take(length);
        let mut known = Known {
            names: Vec::new(),
            times: HashMap::new(),
        };
        let mut record = [0; 9];
        while input.limit() > 0 {
            input.read_exact(&mut record)?;
            let [kind, name @ ..] = record;
            let name = u64::from_le_bytes(name);
            match kind {
                MADE => known.names.push(name),
                LEFT => {
                    let (mut seconds, mut nanos) = ([0; 8], [0; 4]);
                    input.read_exact(&mut seconds)?;
                    input.read_exact(&mut nanos)?;
                    let time = time((i64::from_le_bytes(seconds), u32::from_le_bytes(nanos)));
                    known.times.insert(name, time);
                }
                _ => return Err(damaged()),
            }
        }
        known.names.sort_unstable();
        Ok(known)
    }

    /// Removes what was made later, and sets the times of directories as they were.
    fn clean(&self, dir: &OwnedFd, path: &mut Vec<Vec<u8>>) -> io::Result<()> {
        if path.len() > bounds::LAYER_DEPTH {
            return Err(io::ErrorKind::InvalidData.into());
        }
        for name in fs::names(dir)? {
            path.push(name);
            let name = path.last().map_or(&[][..], Vec::as_slice);
            if self.names.binary_search(&key(&join(path))).is_err() {
                tree::remove(dir, name)?;
            } else if fs::stat_at(dir, name)?.kind == fs::Kind::Dir {
                self.clean(&fs::open_dir_at(dir, name)?, path)?;
            }
            path.pop();
        }
        match self.times.get(&key(&join(path))) {
            Some(time) if !path.is_empty() => fs::set_time_fd(dir, *time),
            _ => Ok(()),
        }
    }
}

/// A file read from a place of its own.
struct At<'a>(&'a File, u64);

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.0.read_at(buffer, self.1)?;
        self.1 += got as u64;
        Ok(got)
    }
}

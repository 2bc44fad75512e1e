//! The way from the layer's root to the directory that is being written, one open descriptor per component.
//!
//! Every change happens in the last directory of the way, so nothing on it can be replaced while it is held. Adding names to a
//! directory changes its modification time; each is set back when the way leaves the directory.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::error::UnpackError;
use super::marks::Journal;
use super::path::{is_below, join};
use crate::image::tar::shown;
use crate::sys::fs::{self, Time};
use crate::types::bounds;

/// Mode of a directory that no entry describes.
const IMPLICIT_MODE: u32 = 0o755;
/// Marks a directory that hides those below it (overlayfs documentation, "userxattr").
pub(crate) const OPAQUE_XATTR: &[u8] = b"user.overlay.opaque";

/// A way of open directories.
pub(super) struct Walk {
    root: OwnedFd,
    levels: Vec<Level>,
    /// Directories that were made because something in them was, without an entry of their own.
    implicit: BTreeSet<Vec<u8>>,
    implicit_bytes: usize,
    /// Whether owners can be set here.
    chown: bool,
    /// What is made, where that is wanted.
    pub(super) journal: Option<Journal>,
}

struct Level {
    name: Vec<u8>,
    dir: OwnedFd,
    mtime: Time,
    /// Reached through a symbolic link.
    linked: bool,
}

impl Walk {
    /// Starts at `root`; `chown` says whether owners can be set.
    pub(super) fn new(root: OwnedFd, chown: bool) -> Walk {
        Walk {
            root,
            levels: Vec::new(),
            implicit: BTreeSet::new(),
            implicit_bytes: 0,
            chown,
            journal: None,
        }
    }

    /// Takes up a way that another walk was on.
    pub(super) fn restore(
        &mut self,
        levels: impl Iterator<Item = (Vec<u8>, Time)>,
        implicit: Vec<Vec<u8>>,
    ) -> io::Result<()> {
        for (name, mtime) in levels {
            let dir = fs::open_dir_at(self.dir(), &name)?;
            self.push(&name, dir, mtime);
        }
        self.implicit_bytes = implicit.iter().map(Vec::len).sum();
        self.implicit = implicit.into_iter().collect();
        Ok(())
    }

    /// The way: names, and the times to be set.
    pub(super) fn levels(&self) -> impl Iterator<Item = (&[u8], Time)> {
        self.levels.iter().map(|level| (level.name.as_slice(), level.mtime))
    }

    /// The path of the last directory.
    fn way(&self) -> Vec<u8> {
        let parts: Vec<&[u8]> = self.levels.iter().map(|level| level.name.as_slice()).collect();
        join(&parts)
    }

    /// Notes that `name` was made in the last directory.
    pub(super) fn made(&mut self, name: &[u8]) {
        if self.journal.is_some() {
            let path = self.path(name);
            if let Some(journal) = &mut self.journal {
                journal.made(&path);
            }
        }
    }

    /// Something that the journal cannot tell is about to happen.
    pub(super) fn untold(&mut self) -> io::Result<()> {
        self.journal.as_mut().map_or(Ok(()), Journal::end)
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The directory that the way ends in.
    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.levels.last().map_or(self.root.as_fd(), |level| level.dir.as_fd())
    }

    /// Goes to the directory `parts`, making what is missing, for the sake of `entry`.
    pub(super) fn go(&mut self, parts: &[&[u8]], entry: &[u8]) -> Result<(), UnpackError> {
        let same = self
            .levels
            .iter()
            .zip(parts)
            .take_while(|(level, part)| level.name == **part)
            .count();
        self.leave(same)?;
        for depth in same..parts.len() {
            self.enter(&parts[..=depth], entry)?;
        }
        Ok(())
    }

    /// Whether `parts` exists, without making anything: goes as far as it can.
    pub(super) fn find(&self, parts: &[&[u8]]) -> io::Result<OwnedFd> {
        let path = join(parts);
        match fs::open_dir_at(&self.root, &path) {
            Err(e) if fs::is_symlink_in_path(&e) => fs::open_dir_beneath(&self.root, &path),
            other => other,
        }
    }

    /// Puts the directory `name`, just made or found in the last one, at the end of the way; `mtime` is set when it is left.
    pub(super) fn push(&mut self, name: &[u8], dir: OwnedFd, mtime: Time) {
        self.levels.push(Level {
            name: name.to_vec(),
            dir,
            mtime,
            linked: false,
        });
    }

    /// Whether the way goes through no symbolic link.
    pub(super) fn is_plain(&self) -> bool {
        !self.levels.iter().any(|level| level.linked)
    }

    /// The path of `name` in the last directory.
    pub(super) fn path(&self, name: &[u8]) -> Vec<u8> {
        let mut parts: Vec<&[u8]> = self.levels.iter().map(|level| &level.name[..]).collect();
        parts.push(name);
        join(&parts)
    }

    /// Sets times back down to the first `keep` directories of the way.
    pub(super) fn leave(&mut self, keep: usize) -> Result<(), UnpackError> {
        while self.levels.len() > keep {
            let path = self.journal.is_some().then(|| self.way());
            let Some(level) = self.levels.pop() else { break };
            fs::set_time_fd(&level.dir, level.mtime).map_err(|e| UnpackError::os(&level.name, "set its time", &e))?;
            if let (Some(journal), Some(path)) = (&mut self.journal, path) {
                journal.left(&path, level.mtime);
            }
        }
        Ok(())
    }

    /// Notes that an entry describes this directory.
    pub(super) fn described(&mut self, path: &[u8]) {
        if self.implicit.remove(path) {
            self.implicit_bytes -= path.len();
        }
    }

    /// Notes that something else stands where this directory and all below it were.
    pub(super) fn gone(&mut self, path: &[u8]) {
        let gone: Vec<Vec<u8>> = self
            .implicit
            .iter()
            .filter(|dir| *dir == path || is_below(dir, path))
            .cloned()
            .collect();
        gone.iter().for_each(|dir| self.described(dir));
    }

    /// The directories without an entry, parents first.
    pub(super) fn implicit(&self) -> &BTreeSet<Vec<u8>> {
        &self.implicit
    }

    fn enter(&mut self, parts: &[&[u8]], entry: &[u8]) -> Result<(), UnpackError> {
        let Some(name) = parts.last() else { return Ok(()) };
        let mut linked = false;
        let (dir, mtime) = match fs::open_dir_at(self.dir(), name) {
            Ok(dir) => {
                let meta = fs::stat_fd(&dir).map_err(|e| UnpackError::os(&join(parts), "examine it", &e))?;
                (dir, meta.mtime)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => (self.make(parts, name, entry, false)?, Time::default()),
            Err(e) => {
                linked = fs::is_symlink_in_path(&e);
                self.around(parts, name, entry, &e)?
            }
        };
        self.push(name, dir, mtime);
        if let Some(level) = self.levels.last_mut() {
            level.linked = linked;
        }
        Ok(())
    }

    /// Something that is no directory stands at `parts`.
    fn around(
        &mut self,
        parts: &[&[u8]],
        name: &[u8],
        entry: &[u8],
        error: &io::Error,
    ) -> Result<(OwnedFd, Time), UnpackError> {
        let path = join(parts);
        let meta = fs::stat_at(self.dir(), name).map_err(|_| UnpackError::os(&path, "open it", error))?;
        if meta.kind == fs::Kind::Symlink {
            let through = || UnpackError::Through {
                entry: shown(entry),
                through: shown(&path),
            };
            let dir = fs::open_dir_beneath(&self.root, &path).map_err(|_| through())?;
            self.untold().map_err(|e| UnpackError::os(&path, "follow it", &e))?;
            let meta = fs::stat_fd(&dir).map_err(|e| UnpackError::os(&path, "examine it", &e))?;
            return Ok((dir, meta.mtime));
        }
        if meta.is_whiteout() {
            // Hidden below and made anew in the same layer: a directory that shows nothing of those below.
            let removed = self.untold().and_then(|()| fs::unlink_at(self.dir(), name));
            removed.map_err(|e| UnpackError::os(&path, "replace its whiteout", &e))?;
            return Ok((self.make(parts, name, entry, true)?, Time::default()));
        }
        if meta.kind == fs::Kind::Dir {
            return Err(UnpackError::os(&path, "open it", error));
        }
        Err(UnpackError::Blocked {
            entry: shown(entry),
            file: shown(&path),
        })
    }

    fn make(&mut self, parts: &[&[u8]], name: &[u8], entry: &[u8], opaque: bool) -> Result<OwnedFd, UnpackError> {
        let path = join(parts);
        let failed = |e: io::Error| UnpackError::os(&path, "make the directory", &e);
        fs::mkdir_at(self.dir(), name, IMPLICIT_MODE).map_err(failed)?;
        self.made(name);
        let dir = fs::open_dir_at(self.dir(), name).map_err(failed)?;
        // A set-group-id parent would have passed on its group and its bit.
        if self.chown {
            fs::chown_fd(&dir, 0, 0).map_err(failed)?;
        }
        fs::chmod_fd(&dir, IMPLICIT_MODE).map_err(failed)?;
        if opaque {
            fs::set_xattr(&dir, OPAQUE_XATTR, b"y").map_err(failed)?;
        }
        self.implicit_bytes += path.len();
        if self.implicit_bytes > bounds::LAYER_NEEDS_BYTES {
            return Err(UnpackError::Needs {
                entry: shown(entry),
                max: bounds::LAYER_NEEDS_BYTES as u64,
            });
        }
        self.implicit.insert(path);
        Ok(dir)
    }
}

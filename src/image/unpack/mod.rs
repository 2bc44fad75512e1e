//! Writes a layer's archive as a directory tree, below one directory descriptor and nowhere else.
//!
//! The tree has the form in which overlay mounts it with `userxattr`: a whiteout is a character device 0:0, an opaque
//! directory has `user.overlay.opaque`. What an image cannot have here is left out and counted (device nodes, attributes of
//! other worlds) or refused (attributes that steer overlay, names and owners that do not exist). The final component of a
//! path replaces what an earlier entry left there, as podman does; a symbolic link in the middle is followed only as long as it stays
//! below the root.
//!
//! A layer may lean on those below it: a hard link to a file of theirs, or a directory without an entry, whose owner and
//! mode are then those of the lower one. Such places are gathered and settled by [`Unpacker::settle`] once the lower
//! layers are there.

mod error;
mod marks;
mod owners;
mod path;
mod settle;
mod walk;

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::image::recipe::{self, Recipe};
use crate::image::tar::{Archive, Entry, Kind, Segment, shown};
use crate::image::{sums, tree};
use crate::store::RootDir;
use crate::store::recipe::RecipeWriter;
use crate::sys::fs;
use crate::types::bounds;
use crate::types::digest::Digest;
pub use error::UnpackError;
use marks::{Open, Place};
pub use marks::{Said, Say};
pub(crate) use owners::OWNER_XATTR;
pub use owners::Owners;
use path::{Clean, Meaning, join};
use sums::{Digests, Known};
pub(crate) use walk::OPAQUE_XATTR;
use walk::Walk;

/// How much a layer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes on disk, each file rounded up to 4 KiB.
    pub bytes: u64,
    /// Bytes of the archive.
    pub archive: u64,
    /// Entries.
    pub entries: u64,
}

/// What an unpacked layer amounts to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of the archive.
    pub archive: u64,
    /// Bytes on disk, each file rounded up to 4 KiB.
    pub bytes: u64,
    /// Device nodes that were left out.
    pub devices: u64,
    /// Extended attributes that were left out.
    pub xattrs: u64,
    /// Whether the layer leans on those below it, so that it is only good above them.
    pub leans: bool,
    /// Whether the layer hides everything below it.
    pub opaque: bool,
    /// Owner and mode of its root, when it says so.
    pub root: Option<RootDir>,
    /// Bytes of the file with its sums, 0 when there is none.
    pub sums: u64,
    /// Bytes of the recipe of its archive, 0 when there is none.
    pub recipe: u64,
}

/// A layer being unpacked.
pub struct Unpacker {
    walk: Walk,
    owners: Owners,
    limits: Limits,
    stats: Stats,
    /// Hard links whose target is not in this layer: (path, target).
    links: Vec<(Vec<u8>, Vec<u8>)>,
    links_bytes: usize,
    /// A directory may hand access control lists on to what is made in it.
    acls: bool,
    /// Digests of files, where they are wanted.
    digests: Option<Digests>,
    /// How the archive is made again, where that is wanted.
    recipe: Option<Recipe>,
    /// Where to go on in the archive.
    place: Option<Place>,
    /// No layer: names mean nothing but themselves, and everything belongs to these.
    carried: Option<(u32, u32)>,
}

impl Unpacker {
    /// Unpacks into `root`, an empty directory, with these owners.
    pub fn new(root: OwnedFd, owners: Owners, limits: Limits) -> Unpacker {
        let walk = Walk::new(root, owners != Owners::Single);
        Unpacker {
            walk,
            owners,
            limits,
            stats: Stats::default(),
            links: Vec::new(),
            links_bytes: 0,
            acls: false,
            digests: None,
            recipe: None,
            place: None,
            carried: None,
        }
    }

    /// What comes is no layer but somebody's files: names mean nothing but themselves, everything gets this owner, and a directory
    /// is never replaced by something else, nor something else by a directory.
    pub fn carry(&mut self, uid: u32, gid: u32) {
        self.carried = Some((uid, gid));
    }

    /// From now on `out`, an empty file, gets what the archive needs beyond the tree to be made again; [`Unpacker::record`] completes it.
    pub fn keep_recipe(&mut self, out: File) {
        self.recipe = Some(Rc::new(RefCell::new(RecipeWriter::new(out))));
    }

    /// From now on the digests of files are kept, for [`Unpacker::record`].
    pub fn keep_digests(&mut self) {
        self.digests = Some(Digests::default());
    }

    /// Writes what the whole tree looks like to `out`; nothing in it may change after that.
    pub fn record(&mut self, root: &OwnedFd, out: &File) -> io::Result<()> {
        self.walk.leave(0).map_err(io::Error::other)?;
        let digests = self.digests.take().unwrap_or_default();
        self.stats.sums = sums::record(root, digests, out)?;
        if let Some(recipe) = self.recipe.take().and_then(Rc::into_inner) {
            self.stats.recipe = recipe.into_inner().finish()?;
        }
        Ok(())
    }

    /// Takes the whole archive. Afterwards [`Unpacker::leans`] says whether the lower layers are needed.
    pub fn unpack(&mut self, input: impl Read) -> Result<(), UnpackError> {
        let mut archive = Archive::new(input, self.limits.archive);
        self.bound_recipe();
        if let Some(recipe) = &self.recipe {
            archive.keep_recipe(recipe.clone());
        }
        if let Some(place) = self.place.take() {
            archive.go_on(place.at, place.left, place.padding);
            if let Some(open) = place.file {
                self.rest_of_file(&mut archive, open)?;
            }
        }
        loop {
            self.mark(&archive, None)?;
            let Some(entry) = archive.next_entry()? else { break };
            self.stats.entries += 1;
            if self.stats.entries > self.limits.entries {
                return Err(UnpackError::Entries {
                    entry: shown(&entry.path),
                    max: self.limits.entries,
                });
            }
            match self.carried {
                Some((uid, gid)) => self.entry(&mut archive, &Entry { uid, gid, ..entry })?,
                None => self.entry(&mut archive, &entry)?,
            }
        }
        self.stats.archive = archive.position();
        self.stats.leans = self.leans();
        self.walk.leave(0)
    }

    /// Whether something must be looked up in lower layers, so that [`Unpacker::settle`] is due.
    pub fn leans(&self) -> bool {
        !self.links.is_empty() || !self.walk.implicit().is_empty()
    }

    /// What was unpacked.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    fn entry<R: Read>(&mut self, archive: &mut Archive<R>, entry: &Entry) -> Result<(), UnpackError> {
        let clean = Clean::entry(&entry.path)?;
        let Some((parent, name)) = clean.split() else {
            return self.root(entry);
        };
        let meaning = if self.carried.is_some() {
            Meaning::Plain
        } else {
            clean.meaning()?
        };
        match meaning {
            Meaning::Skipped => return Ok(()),
            Meaning::Opaque => return self.opaque(parent, entry),
            Meaning::Whiteout(hidden) => return self.whiteout(parent, hidden, entry),
            Meaning::Plain => {}
        }
        if entry.kind == Kind::Device {
            self.stats.devices += 1;
            return Ok(());
        }
        self.owners.check(entry.uid, entry.gid, &entry.path)?;
        self.walk.go(parent, &entry.path)?;
        self.forget(&clean, entry.kind == Kind::Dir);
        match entry.kind {
            Kind::Dir => self.dir(&clean, name, entry),
            Kind::File => self.file(archive, name, entry),
            Kind::Link => self.link(&clean, name, entry),
            Kind::Symlink | Kind::Fifo | Kind::Device => self.special(name, entry),
        }
    }

    /// Drops what is to be looked up at or, unless a directory stays one, below the path that an entry now describes.
    fn forget(&mut self, clean: &Clean, dir: bool) {
        if self.leans() {
            let path = join(&clean.parts);
            self.links
                .retain(|(link, _)| *link != path && (dir || !path::is_below(link, &path)));
            if !dir {
                self.walk.gone(&path);
            }
        }
    }

    fn root(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        if entry.kind != Kind::Dir {
            return Err(UnpackError::Root {
                entry: shown(&entry.path),
            });
        }
        self.owners.check(entry.uid, entry.gid, &entry.path)?;
        self.walk.leave(0)?;
        let root = self
            .walk
            .root()
            .try_clone_to_owned()
            .map_err(|e| os(entry, "open it", &e))?;
        self.attributes(&root, entry, None)?;
        self.stats.root = Some(RootDir {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
        });
        fs::set_time_fd(&root, entry.mtime).map_err(|e| os(entry, "set its time", &e))
    }

    fn opaque(&mut self, parent: &[&[u8]], entry: &Entry) -> Result<(), UnpackError> {
        self.walk.go(parent, &entry.path)?;
        // Overlay does not look for the attribute on the root of a layer, so the store must know.
        self.stats.opaque |= parent.is_empty();
        fs::set_xattr(self.walk.dir(), OPAQUE_XATTR, b"y").map_err(|e| os(entry, "make its directory opaque", &e))
    }

    /// Hides `name` of the lower layers; what this layer itself has there stays, whatever the order of the entries.
    fn whiteout(&mut self, parent: &[&[u8]], name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        self.walk.go(parent, &entry.path)?;
        let failed = |e: io::Error| os(entry, "make a whiteout", &e);
        match fs::stat_at(self.walk.dir(), name) {
            Ok(meta) if meta.kind == fs::Kind::Dir => {
                let dir = fs::open_dir_at(self.walk.dir(), name).map_err(failed)?;
                fs::set_xattr(&dir, OPAQUE_XATTR, b"y").map_err(failed)
            }
            Ok(_) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::whiteout_at(self.walk.dir(), name).map_err(failed)?;
                self.walk.made(name);
                Ok(())
            }
            Err(e) => Err(failed(e)),
        }
    }

    fn dir(&mut self, clean: &Clean, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        let failed = |e: io::Error| os(entry, "make the directory", &e);
        let mut hidden = false;
        let made = fs::mkdir_at(self.walk.dir(), name, 0o700);
        if made.is_ok() {
            self.walk.made(name);
        }
        if let Err(e) = made {
            let there = fs::stat_at(self.walk.dir(), name).map_err(|_| failed(e))?;
            if there.kind != fs::Kind::Dir {
                if self.carried.is_some() {
                    return Err(UnpackError::Blocked {
                        entry: shown(&entry.path),
                        file: shown(name),
                    });
                }
                hidden = there.is_whiteout();
                self.clear(name, entry)?;
                fs::mkdir_at(self.walk.dir(), name, 0o700).map_err(failed)?;
            }
        }
        let dir = fs::open_dir_at(self.walk.dir(), name).map_err(failed)?;
        self.attributes(&dir, entry, None)?;
        if hidden {
            fs::set_xattr(&dir, OPAQUE_XATTR, b"y").map_err(failed)?;
        }
        self.walk.described(&join(&clean.parts));
        self.walk.push(name, dir, entry.mtime);
        Ok(())
    }

    fn file<R: Read>(&mut self, archive: &mut Archive<R>, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        let stored = entry
            .sparse
            .as_ref()
            .map_or(entry.size, |map| map.iter().map(|s| s.len).sum());
        self.charge(stored, &entry.path)?;
        // With its mode at once where that cannot be in the way of the writing; what makes a program of its owner's comes after that.
        let mode = match self.owners {
            Owners::Mapped(_) => entry.mode & 0o777,
            Owners::Single => 0o600,
        };
        let file = match fs::create_file_at(self.walk.dir(), name, mode) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                self.clear(name, entry)?;
                fs::create_file_at(self.walk.dir(), name, mode)
            }
            other => other,
        };
        let file = file.map_err(|e| os(entry, "make the file", &e))?;
        self.walk.made(name);
        let whole = [Segment {
            offset: 0,
            len: entry.size,
        }];
        let segments = entry.sparse.as_deref().unwrap_or(&whole);
        let made = fs::stat_fd(&file).map_err(|e| os(entry, "examine it", &e))?;
        // Through a symbolic link its path is another one; then its content stays with the rest of the archive.
        let by_path = match &self.recipe {
            Some(recipe) if self.walk.is_plain() => {
                let mut recipe = recipe.borrow_mut();
                recipe.file(&self.walk.path(name), made.id.1);
                segments.iter().for_each(|one| recipe.part(one.offset, one.len));
                true
            }
            _ => false,
        };
        let hash = (self.digests.is_some() && entry.sparse.is_none()).then(Sha256::new);
        let digest = self.write(archive, &file, &Open::new(name, entry, by_path), entry, hash)?;
        self.end_file(&file, &made, entry, digest)
    }

    /// Goes on with a file that another worker began.
    fn rest_of_file<R: Read>(&mut self, archive: &mut Archive<R>, open: Open) -> Result<(), UnpackError> {
        let entry = open.entry();
        let file = open
            .open(&self.walk)
            .map_err(|e| os(&entry, "go on with the file", &e))?;
        let hash = open.hash().filter(|_| self.digests.is_some());
        let made = fs::stat_fd(&file).map_err(|e| os(&entry, "examine it", &e))?;
        let digest = self.write(archive, &file, &open, &entry, hash)?;
        self.end_file(&file, &made, &entry, digest)
    }

    /// `made` is what the file was before its content came.
    fn end_file(
        &mut self,
        file: &File,
        made: &fs::Meta,
        entry: &Entry,
        digest: Option<Digest>,
    ) -> Result<(), UnpackError> {
        let bare = entry.xattrs.is_empty()
            && !self.acls
            && (self.owners != Owners::Single || (entry.uid, entry.gid) == (0, 0));
        self.note(made.id.1, Known { digest, bare });
        if entry.sparse.is_some() {
            file.set_len(entry.size).map_err(|e| os(entry, "set its size", &e))?;
        }
        self.attributes(file, entry, Some(made))?;
        fs::set_time_fd(file, entry.mtime).map_err(|e| os(entry, "set its time", &e))
    }

    /// Writes the entry's bytes, once each, and returns their digest where it is wanted and they are the whole file. Large files go to the device while they are written and leave the page cache,
    /// which belongs to the containers that run.
    fn write<R: Read>(
        &mut self,
        archive: &mut Archive<R>,
        mut file: &File,
        open: &Open,
        entry: &Entry,
        mut hash: Option<Sha256>,
    ) -> Result<Option<Digest>, UnpackError> {
        let whole = [Segment {
            offset: open.offset,
            len: entry.size.saturating_sub(open.offset),
        }];
        let window = bounds::WRITE_BEHIND_BYTES;
        let mut flushed = open.offset;
        for segment in entry.sparse.as_deref().unwrap_or(&whole) {
            let mut offset = segment.offset;
            let end = segment.offset + segment.len;
            while offset < end {
                let chunk = match open.by_path {
                    true => archive.content(end - offset)?,
                    false => archive.data(end - offset)?,
                };
                if chunk.is_empty() {
                    break;
                }
                let written = match entry.sparse {
                    Some(_) => file.write_all_at(chunk, offset),
                    None => file.write_all(chunk),
                };
                written.map_err(|e| os(entry, "write the file", &e))?;
                if let Some(hash) = &mut hash {
                    hash.update(chunk);
                }
                offset += chunk.len() as u64;
                if offset >= flushed + window {
                    fs::start_writing(file, flushed, window);
                    if let Some(before) = flushed.checked_sub(window) {
                        fs::drop_cache(file, before, window);
                    }
                    flushed += window;
                }
                if entry.sparse.is_none() {
                    self.mark(archive, Some((open, offset, hash.as_ref())))?;
                }
            }
        }
        Ok(hash.map(|hash| Digest::from_bytes(hash.finalize().into())))
    }

    /// Remembers what is known of the file with this inode, just made.
    fn note(&mut self, inode: u64, known: Known) {
        if let Some(digests) = &mut self.digests {
            digests.note(inode, known);
        }
    }

    fn link(&mut self, clean: &Clean, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        let target = Clean::target(&entry.link, &entry.path)?;
        let wrong = |why: &str| UnpackError::LinkTarget {
            entry: shown(&entry.path),
            target: shown(&entry.link),
            why: why.to_owned(),
        };
        let Some((target_parent, target_name)) = target.split() else {
            return Err(wrong("is a directory"));
        };
        if target == *clean {
            return Err(wrong("is the entry itself"));
        }
        let found = match self.walk.find(target_parent) {
            Ok(dir) => fs::stat_at(&dir, target_name).map(|meta| (dir, meta)),
            Err(e) => Err(e),
        };
        let (dir, meta) = match found {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return self.postpone(clean, &target, entry),
            Err(_) => return Err(wrong("cannot be reached without leaving the layer")),
        };
        match meta.kind {
            fs::Kind::Dir => return Err(wrong("is a directory")),
            fs::Kind::Char | fs::Kind::Block => return Err(wrong("is deleted by this layer")),
            _ => {}
        }
        let made = match fs::link_at(&dir, target_name, self.walk.dir(), name) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                self.clear(name, entry)?;
                fs::link_at(&dir, target_name, self.walk.dir(), name)
            }
            other => other,
        };
        made.map_err(|e| os(entry, "make the hard link", &e))?;
        self.walk.made(name);
        Ok(())
    }

    /// Keeps a hard link whose target must be in a lower layer.
    fn postpone(&mut self, clean: &Clean, target: &Clean, entry: &Entry) -> Result<(), UnpackError> {
        if let Some((_, name)) = clean.split()
            && fs::stat_at(self.walk.dir(), name).is_ok()
        {
            self.clear(name, entry)?;
        }
        let (path, target) = (join(&clean.parts), join(&target.parts));
        self.links_bytes += path.len() + target.len();
        if self.links_bytes > bounds::LAYER_NEEDS_BYTES {
            return Err(UnpackError::Needs {
                entry: shown(&entry.path),
                max: bounds::LAYER_NEEDS_BYTES as u64,
            });
        }
        self.links.push((path, target));
        Ok(())
    }

    fn special(&mut self, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        if entry.kind == Kind::Symlink && (entry.link.is_empty() || entry.link.len() >= bounds::PATH_BYTES) {
            let what = format!("a symbolic link of {} bytes", entry.link.len());
            return Err(UnpackError::Path {
                entry: shown(&entry.path),
                what,
                max: bounds::PATH_BYTES as u64 - 1,
            });
        }
        let make = |walk: &Walk| match entry.kind {
            Kind::Symlink => fs::symlink_at(&entry.link, walk.dir(), name),
            _ => fs::fifo_at(walk.dir(), name, 0o600),
        };
        let made = match make(&self.walk) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                self.clear(name, entry)?;
                make(&self.walk)
            }
            other => other,
        };
        made.map_err(|e| os(entry, "make it", &e))?;
        self.walk.made(name);
        self.stats.xattrs += entry.xattrs.len() as u64;
        self.refuse_xattrs(entry)?;
        let dir = self.walk.dir();
        if self.owners != Owners::Single {
            fs::chown_at(dir, name, entry.uid, entry.gid).map_err(|e| os(entry, "set its owner", &e))?;
        }
        if entry.kind == Kind::Fifo {
            fs::chmod_at(dir, name, entry.mode).map_err(|e| os(entry, "set its mode", &e))?;
        }
        fs::set_time_at(dir, name, entry.mtime).map_err(|e| os(entry, "set its time", &e))
    }

    /// Owner, attributes and mode, in this order: a change of owner takes set-user-id bits and capabilities away. What `have` has already
    /// is left alone.
    fn attributes(&mut self, fd: &impl AsFd, entry: &Entry, have: Option<&fs::Meta>) -> Result<(), UnpackError> {
        match self.owners {
            Owners::Mapped(_) if have.is_some_and(|have| (have.uid, have.gid) == (entry.uid, entry.gid)) => {}
            Owners::Mapped(_) => {
                fs::chown_fd(fd, entry.uid, entry.gid).map_err(|e| os(entry, "set its owner", &e))?;
            }
            Owners::Single if (entry.uid, entry.gid) != (0, 0) => {
                let owner = format!("{}:{}", entry.uid, entry.gid);
                fs::set_xattr(fd, OWNER_XATTR, owner.as_bytes()).map_err(|e| os(entry, "record its owner", &e))?;
            }
            Owners::Single => {}
        }
        self.refuse_xattrs(entry)?;
        for (name, value) in &entry.xattrs {
            let kept = name.starts_with(b"user.")
                || matches!(
                    &name[..],
                    b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default"
                );
            self.acls |= name == b"system.posix_acl_default";
            match kept.then(|| fs::set_xattr(fd, name, value)) {
                None => self.stats.xattrs += 1,
                Some(Err(e)) if fs::is_unsupported(&e) => self.stats.xattrs += 1,
                Some(set) => set.map_err(|e| os(entry, &format!("set attribute `{}`", shown(name)), &e))?,
            }
        }
        match have {
            // Access control lists are another way to say a mode.
            Some(have) if have.mode == entry.mode && entry.xattrs.is_empty() => Ok(()),
            _ => fs::chmod_fd(fd, entry.mode).map_err(|e| os(entry, "set its mode", &e)),
        }
    }

    fn refuse_xattrs(&self, entry: &Entry) -> Result<(), UnpackError> {
        let refused = |name: &[u8]| {
            [
                &b"user.overlay."[..],
                b"trusted.",
                b"user.dunlin.",
                b"user.fuseoverlayfs.",
            ]
            .iter()
            .any(|p| name.starts_with(p))
        };
        match entry.xattrs.iter().find(|(name, _)| refused(name)) {
            Some((name, _)) => Err(UnpackError::Xattr {
                entry: shown(&entry.path),
                name: shown(name),
            }),
            None => Ok(()),
        }
    }

    /// Removes what an earlier entry left at `name` of the current directory.
    fn clear(&mut self, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        let kind = self
            .carried
            .and_then(|_| fs::stat_at(self.walk.dir(), name).ok())
            .map(|meta| meta.kind);
        if kind == Some(fs::Kind::Dir) {
            return Err(UnpackError::Directory {
                entry: shown(&entry.path),
            });
        }
        self.walk.untold().map_err(|e| os(entry, "replace what is there", &e))?;
        if let Some(recipe) = &self.recipe {
            let freed = recipe::save(recipe, self.walk.dir(), name, 0);
            let freed = freed.map_err(|e| os(entry, "keep what it replaces", &e))?;
            // Its place is now the recipe's.
            self.stats.bytes = self.stats.bytes.saturating_sub(freed);
            self.bound_recipe();
        }
        tree::remove(self.walk.dir(), name).map_err(|e| os(entry, "replace what is there", &e))
    }

    fn charge(&mut self, bytes: u64, entry: &[u8]) -> Result<(), UnpackError> {
        self.stats.bytes = self
            .stats
            .bytes
            .saturating_add(bytes.div_ceil(4096).saturating_mul(4096));
        if self.stats.bytes > self.limits.bytes {
            return Err(UnpackError::Bytes {
                entry: shown(entry),
                max: self.limits.bytes,
            });
        }
        self.bound_recipe();
        Ok(())
    }

    /// The recipe may take what the tree leaves of the layer's bytes.
    fn bound_recipe(&self) {
        if let Some(recipe) = &self.recipe {
            recipe
                .borrow_mut()
                .allow(self.limits.bytes.saturating_sub(self.stats.bytes));
        }
    }
}

fn os(entry: &Entry, action: &str, error: &io::Error) -> UnpackError {
    UnpackError::os(&entry.path, action, error)
}

//! Removes and copies directory trees that images and containers wrote: any depth, any mode, bounded memory and descriptors.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::image::unpack::OPAQUE_XATTR;
use crate::sys::fs::{self, Kind, Meta};
use crate::types::bounds;

/// Directories below which a tree being removed is first brought up, so that open descriptors stay few.
const REMOVE_DEPTH: usize = 64;
/// Names that are read from one directory at a time.
const NAMES: usize = 1024;
/// Files that are counted in one tree at the most; a size beyond is a lower bound.
const MEASURED: usize = 1_000_000;

/// Removes `name` of `dir`, whatever it is. What is not there is no error. Links are not followed.
pub fn remove(dir: impl AsFd, name: &[u8]) -> io::Result<()> {
    match fs::unlink_at(&dir, name) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::IsADirectory => {}
        Err(e) => return Err(e),
    }
    remove_contents(&open_for_removal(&dir, name)?)?;
    fs::rmdir_at(&dir, name)
}

/// Removes everything in `dir`.
pub fn remove_contents(dir: &OwnedFd) -> io::Result<()> {
    // Directories that are too deep are renamed into `dir` itself, whose names are read until there are none.
    let mut moved = 0;
    loop {
        let names = fs::some_names(dir, NAMES)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            remove_below(dir, name, &mut moved)?;
        }
    }
}

struct Level {
    dir: OwnedFd,
    name: Vec<u8>,
    names: Vec<Vec<u8>>,
}

fn remove_below(top: &OwnedFd, name: Vec<u8>, moved: &mut u64) -> io::Result<()> {
    let mut levels: Vec<Level> = Vec::new();
    let mut next = Some(name);
    loop {
        if let Some(name) = next.take() {
            let parent = levels.last().map_or(top, |level| &level.dir);
            match fs::unlink_at(parent, &name) {
                Err(e) if e.kind() == io::ErrorKind::IsADirectory => {
                    if levels.len() >= REMOVE_DEPTH {
                        lift(parent, &name, top, moved)?;
                    } else if !is_gone(fs::rmdir_at(parent, &name))? {
                        let dir = open_for_removal(parent, &name)?;
                        levels.push(Level {
                            dir,
                            name,
                            names: Vec::new(),
                        });
                    }
                }
                other => drop(is_gone(other)?),
            }
        }
        let Some(level) = levels.last_mut() else { return Ok(()) };
        if level.names.is_empty() {
            level.names = fs::some_names(&level.dir, NAMES)?;
        }
        next = level.names.pop();
        if next.is_none() {
            let Some(done) = levels.pop() else { return Ok(()) };
            fs::rmdir_at(levels.last().map_or(top, |level| &level.dir), &done.name)?;
        }
    }
}

/// Whether it is gone now; an error other than "not empty" or "not there" is one.
fn is_gone(removed: io::Result<()>) -> io::Result<bool> {
    match removed {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        Err(e) => Err(e),
    }
}

fn lift(parent: &OwnedFd, name: &[u8], top: &OwnedFd, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        match fs::rename_new(parent, name, top, format!(".lifted-{moved}").as_bytes()) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            other => return other,
        }
    }
}

/// Opens a directory that may forbid it to its owner.
fn open_for_removal(dir: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let opened = fs::open_dir_at(&dir, name);
    let writable = |dir: &OwnedFd| fs::stat_fd(dir).is_ok_and(|meta| meta.mode & 0o700 == 0o700);
    match opened {
        Ok(opened) if writable(&opened) => Ok(opened),
        Ok(opened) => {
            // With capabilities over the tree this does not matter, without them it does.
            let _ = fs::chmod_fd(&opened, 0o700);
            Ok(opened)
        }
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            fs::chmod_at(&dir, name, 0o700)?;
            fs::open_dir_at(&dir, name)
        }
        Err(e) => Err(e),
    }
}

/// Bytes on disk of the files below `dir`, one with several names once, and whether all of it could be looked into. What vanishes
/// meanwhile counts nothing.
pub fn measure(dir: &OwnedFd) -> io::Result<(u64, bool)> {
    let mut measure = Measure {
        seen: HashSet::new(),
        left: MEASURED,
        bytes: 0,
        whole: true,
    };
    measure.dir(dir, 0)?;
    Ok((measure.bytes, measure.whole))
}

struct Measure {
    /// Files with several names.
    seen: HashSet<(u64, u64)>,
    left: usize,
    bytes: u64,
    whole: bool,
}

impl Measure {
    fn dir(&mut self, dir: &OwnedFd, depth: usize) -> io::Result<()> {
        for name in fs::some_names(dir, self.left)? {
            self.left = self.left.saturating_sub(1);
            let counted = fs::stat_at(dir, &name).and_then(|meta| match meta.kind {
                Kind::Dir if depth < bounds::LAYER_DEPTH => self.dir(&fs::open_dir_at(dir, &name)?, depth + 1),
                Kind::Dir => Ok(()),
                _ => {
                    if meta.links < 2 || self.seen.insert(meta.id) {
                        self.bytes += meta.allocated;
                    }
                    Ok(())
                }
            });
            match counted {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => self.whole = false,
                other => other?,
            }
        }
        Ok(())
    }
}

/// Merges `layers`, lowest first, into the directory `to` as overlay would show them; `chown` says whether owners can be
/// set. Returns the bytes written.
pub fn flatten(layers: &[OwnedFd], to: &OwnedFd, chown: bool) -> io::Result<u64> {
    let mut bytes = 0;
    for layer in layers {
        if fs::get_xattr(layer, OPAQUE_XATTR)?.is_some_and(|value| value == b"y") {
            remove_contents(to)?;
        }
        let mut copy = Copy {
            to,
            chown,
            links: HashMap::new(),
            links_bytes: 0,
            bytes: 0,
        };
        copy.dir(layer, to, &mut Vec::new())?;
        bytes += copy.bytes;
        copy_attributes(layer, &fs::stat_fd(layer)?, to, chown)?;
    }
    Ok(bytes)
}

struct Copy<'a> {
    to: &'a OwnedFd,
    chown: bool,
    /// Where the first of several names of a file went.
    links: HashMap<(u64, u64), Vec<u8>>,
    links_bytes: usize,
    bytes: u64,
}

impl Copy<'_> {
    /// Copies what is in `from` into `to`, which is `path` below the root.
    fn dir(&mut self, from: &OwnedFd, to: &OwnedFd, path: &mut Vec<u8>) -> io::Result<()> {
        for name in fs::names(from)? {
            let length = path.len();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            self.node(from, &name, to, path)?;
            path.truncate(length);
        }
        Ok(())
    }

    fn node(&mut self, from: &OwnedFd, name: &[u8], to: &OwnedFd, path: &mut Vec<u8>) -> io::Result<()> {
        let meta = fs::stat_at(from, name)?;
        if meta.is_whiteout() {
            return remove(to, name);
        }
        if meta.kind != Kind::Dir {
            remove(to, name)?;
            if meta.links > 1 {
                if let Some(first) = self.links.get(&meta.id) {
                    return fs::link_at(self.to, first, to, name);
                }
                self.links_bytes += path.len();
                if self.links_bytes <= bounds::LAYER_NEEDS_BYTES {
                    self.links.insert(meta.id, path.clone());
                }
            }
            self.bytes += meta.allocated;
            return copy_node(from, name, &meta, to, name, self.chown);
        }
        let source = fs::open_dir_at(from, name)?;
        if fs::get_xattr(&source, OPAQUE_XATTR)?.is_some_and(|value| value == b"y") {
            remove(to, name)?;
        }
        let there = fs::stat_at(to, name);
        if !there.is_ok_and(|meta| meta.kind == Kind::Dir) {
            remove(to, name)?;
            fs::mkdir_at(to, name, 0o700)?;
        }
        let target = fs::open_dir_at(to, name)?;
        self.dir(&source, &target, path)?;
        copy_attributes(&source, &meta, &target, self.chown)
    }
}

/// Copies one file, symbolic link or fifo with its attributes; sockets and devices are left out.
pub fn copy_node(
    from: impl AsFd,
    name: &[u8],
    meta: &Meta,
    to: impl AsFd,
    to_name: &[u8],
    chown: bool,
) -> io::Result<()> {
    match meta.kind {
        Kind::File => {
            let source = fs::open_file_at(&from, name)?;
            let target = fs::create_file_at(&to, to_name, 0o600)?;
            copy_bytes(&source, &target, meta.size)?;
            return copy_attributes(&source, meta, &target, chown);
        }
        Kind::Symlink => fs::symlink_at(&fs::read_link_at(&from, name)?, &to, to_name)?,
        Kind::Fifo => {
            fs::fifo_at(&to, to_name, 0o600)?;
        }
        Kind::Dir | Kind::Char | Kind::Block | Kind::Socket => return Ok(()),
    }
    if chown {
        fs::chown_at(&to, to_name, meta.uid, meta.gid)?;
    }
    if meta.kind == Kind::Fifo {
        fs::chmod_at(&to, to_name, meta.mode)?;
    }
    fs::set_time_at(&to, to_name, meta.mtime)
}

/// Copies the ranges that hold data; holes stay holes.
fn copy_bytes(from: &std::fs::File, to: &std::fs::File, size: u64) -> io::Result<()> {
    let mut at = 0;
    while let Some((mut start, end)) = fs::next_data(from, at)? {
        while start < end {
            let step = usize::try_from((end - start).min(bounds::WRITE_BEHIND_BYTES)).unwrap_or(usize::MAX);
            match fs::copy_range(from, to, start, step) {
                Ok(0) => break,
                Ok(copied) => start += copied as u64,
                Err(_) => start += copy_by_hand(from, to, start, step)?,
            }
        }
        at = end;
    }
    to.set_len(size)
}

/// For file systems between which the kernel does not copy.
fn copy_by_hand(from: &std::fs::File, to: &std::fs::File, at: u64, len: usize) -> io::Result<u64> {
    use std::os::unix::fs::FileExt as _;
    let mut buffer = vec![0; len.min(bounds::TAR_BUFFER_BYTES)];
    match from.read_at(&mut buffer, at)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        got => to.write_all_at(&buffer[..got], at).map(|()| got as u64),
    }
}

/// Gives `to` the owner, attributes, mode and time of `from`, whose meta data is given; what steers overlay stays behind.
pub fn copy_attributes(from: &impl AsFd, meta: &Meta, to: &impl AsFd, chown: bool) -> io::Result<()> {
    if chown {
        fs::chown_fd(to, meta.uid, meta.gid)?;
    }
    for name in fs::list_xattrs(from)? {
        if name.starts_with(b"user.overlay.") {
            continue;
        }
        let Some(value) = fs::get_xattr(from, &name)? else {
            continue;
        };
        match fs::set_xattr(to, &name, &value) {
            Err(e) if fs::is_unsupported(&e) => {}
            other => other?,
        }
    }
    fs::chmod_fd(to, meta.mode)?;
    fs::set_time_fd(to, meta.mtime)
}

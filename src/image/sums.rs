//! Records what a layer's tree looks like when it is unpacked, and compares it later. Runs in the worker.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::image::tar::shown;
use crate::store::{Sum, SumsReader, SumsWriter, What};
use crate::sys::fs::{self, Kind, Meta};
use crate::types::bounds;
use crate::types::digest::Digest;

/// Blocks of a file that may have holes.
const BLOCK: u64 = 4096;

/// What is known of files since they were made, by inode.
#[derive(Debug, Default)]
pub struct Digests {
    all: Vec<(u64, Known)>,
    full: bool,
}

/// What is known of a file since it was made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known {
    /// Of its content; `None` where that is to be read back.
    pub digest: Option<Digest>,
    /// It certainly has no extended attributes.
    pub bare: bool,
}

impl Digests {
    /// About the file with this inode. The last word counts: inodes are used again when an archive replaces its own files.
    pub fn note(&mut self, inode: u64, known: Known) {
        if self.all.len() >= bounds::SUMS_FILES {
            self.full = true;
            self.all = Vec::new();
        }
        if !self.full {
            self.all.push((inode, known));
        }
    }

    fn settle(&mut self) {
        self.all.sort_by_key(|(inode, _)| *inode);
    }

    fn of(&self, inode: u64) -> Option<Known> {
        let end = self.all.partition_point(|(one, _)| *one <= inode);
        let (found, known) = self.all.get(end.checked_sub(1)?)?;
        (*found == inode).then_some(*known)
    }
}

/// Writes the sums of the tree `root` to `out`; returns how many bytes. A tree that needs more than is allowed has none: the
/// file stays empty.
pub fn record(root: &OwnedFd, mut digests: Digests, out: &File) -> io::Result<u64> {
    digests.settle();
    let mut writer = SumsWriter::new(BufWriter::with_capacity(64 << 10, out))?;
    walk(root, &mut |seen| {
        let (what, bare) = match seen.kind() {
            Some(what) => (what, false),
            None => {
                let known = digests.of(seen.meta.id.1).unwrap_or_default();
                let what = match known.digest {
                    Some(digest) => What::File(seen.meta.size, digest),
                    None => What::Blocks(seen.meta.size, blocks_digest(seen.file()?, &mut |_| Ok(()))?),
                };
                (what, known.bare)
            }
        };
        if writer.bytes() < bounds::SUMS_BYTES - 1024 {
            let xattrs = if bare { None } else { seen.xattrs()? };
            writer.add(&seen.sum(what, xattrs)?)?;
        }
        Ok(true)
    })?;
    let over = writer.bytes() >= bounds::SUMS_BYTES - 1024;
    let bytes = writer.finish()?;
    if over {
        out.set_len(0)?;
        return Ok(0);
    }
    Ok(bytes)
}

/// What is wrong with one entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Wrong {
    /// It is not there.
    #[error("is missing")]
    Missing,
    /// It should not be there.
    #[error("is too much")]
    Extra,
    /// It is of another type.
    #[error("is of another type")]
    Kind,
    /// It has another mode.
    #[error("has the mode {have:04o} instead of {want:04o}")]
    Mode {
        /// As it is.
        have: u16,
        /// As it was unpacked.
        want: u16,
    },
    /// It belongs to somebody else.
    #[error("belongs to {have} instead of {want}")]
    Owner {
        /// As it is, `UID:GID`.
        have: String,
        /// As it was unpacked.
        want: String,
    },
    /// It has another size.
    #[error("has {have} bytes instead of {want}")]
    Size {
        /// As it is.
        have: u64,
        /// As it was unpacked.
        want: u64,
    },
    /// It has other bytes.
    #[error("has other content")]
    Content,
    /// It points elsewhere.
    #[error("points elsewhere")]
    Target,
    /// It has other extended attributes.
    #[error("has other extended attributes")]
    Xattrs,
    /// It cannot be read: the device, most likely.
    #[error("cannot be read: {0}")]
    Unreadable(String),
}

/// Something wrong in a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Path in the layer, printable.
    pub path: String,
    /// What it is.
    pub wrong: Wrong,
}

/// What a comparison amounts to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// Entries that were looked at.
    pub entries: u64,
    /// Bytes of files that were read.
    pub bytes: u64,
    /// Things that are wrong beyond those that were told.
    pub more: u64,
    /// The sums themselves are damaged, so that nothing can be said about the rest.
    pub damaged: bool,
}

/// Compares the tree `root` with its sums; `quick` reads no content. `found` gets what is wrong, `moved` the bytes of every step.
/// What cannot be read is something wrong, no error.
pub fn compare(
    root: &OwnedFd,
    sums: impl Read,
    quick: bool,
    found: &mut dyn FnMut(Finding) -> io::Result<()>,
    moved: &mut dyn FnMut(u64) -> io::Result<()>,
) -> io::Result<Compared> {
    let mut compared = Compared::default();
    let done = compare_all(root, sums, quick, &mut compared, found, moved);
    match done {
        Err(e) if e.kind() == io::ErrorKind::InvalidData => compared.damaged = true,
        // Without the other side there is nobody to tell.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Err(e),
        Err(e) => found(finding(&[], Wrong::Unreadable(e.to_string())))?,
        Ok(()) => {}
    }
    Ok(compared)
}

fn compare_all(
    root: &OwnedFd,
    sums: impl Read,
    quick: bool,
    compared: &mut Compared,
    found: &mut dyn FnMut(Finding) -> io::Result<()>,
    moved: &mut dyn FnMut(u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut expected = Expected::new(SumsReader::new(BufReader::with_capacity(64 << 10, sums))?)?;
    walk(root, &mut |seen| {
        compared.entries += 1;
        loop {
            let order = match &expected.next {
                Some((path, _)) => path.as_slice().cmp(&seen.path),
                None => Ordering::Greater,
            };
            match order {
                Ordering::Less => expected.missing(found)?,
                Ordering::Greater => {
                    found(finding(&seen.path, Wrong::Extra))?;
                    return Ok(false);
                }
                Ordering::Equal => break,
            }
        }
        let Some((_, want)) = expected.take()? else {
            return Ok(false);
        };
        let mut wrongs = Vec::new();
        let mut count = |bytes| {
            compared.bytes += bytes;
            moved(bytes)
        };
        if let Err(error) = seen.compare(&want, quick, &mut wrongs, &mut count) {
            wrongs.push(Wrong::Unreadable(error.to_string()));
        }
        let descend = !wrongs.contains(&Wrong::Kind);
        for wrong in wrongs {
            found(finding(&seen.path, wrong))?;
        }
        if !descend {
            expected.gone = Some(seen.path.clone());
        }
        Ok(descend)
    })?;
    while expected.next.is_some() {
        expected.missing(found)?;
    }
    Ok(())
}

fn finding(path: &[Vec<u8>], wrong: Wrong) -> Finding {
    let path = path.join(&b'/');
    Finding {
        path: format!("/{}", shown(&path)),
        wrong,
    }
}

/// The sums, with the whole path of the one that comes next.
struct Expected<R> {
    reader: SumsReader<R>,
    next: Option<(Vec<Vec<u8>>, Sum)>,
    /// Below this everything is missing, which was said once.
    gone: Option<Vec<Vec<u8>>>,
}

impl<R: Read> Expected<R> {
    fn new(reader: SumsReader<R>) -> io::Result<Expected<R>> {
        let mut expected = Expected {
            reader,
            next: None,
            gone: None,
        };
        expected.advance(Vec::new())?;
        Ok(expected)
    }

    fn advance(&mut self, mut path: Vec<Vec<u8>>) -> io::Result<()> {
        self.next = match self.reader.next_sum()? {
            None => None,
            Some(sum) => {
                path.truncate(usize::from(sum.depth).saturating_sub(1));
                if sum.depth > 0 {
                    path.push(sum.name.clone());
                }
                Some((path, sum))
            }
        };
        Ok(())
    }

    fn take(&mut self) -> io::Result<Option<(Vec<Vec<u8>>, Sum)>> {
        let taken = self.next.take();
        if let Some((path, _)) = &taken {
            self.advance(path.clone())?;
        }
        Ok(taken)
    }

    fn missing(&mut self, found: &mut dyn FnMut(Finding) -> io::Result<()>) -> io::Result<()> {
        let Some((path, _)) = self.take()? else { return Ok(()) };
        if self.gone.as_ref().is_none_or(|gone| !path.starts_with(gone)) {
            found(finding(&path, Wrong::Missing))?;
            self.gone = Some(path);
        }
        Ok(())
    }
}

/// An entry that a walk comes by.
struct Seen<'a> {
    path: Vec<Vec<u8>>,
    parent: &'a OwnedFd,
    /// The directory itself, when it is one.
    dir: Option<&'a OwnedFd>,
    meta: Meta,
}

impl Seen<'_> {
    fn name(&self) -> &[u8] {
        self.path.last().map_or(b".", Vec::as_slice)
    }

    fn file(&self) -> io::Result<File> {
        fs::open_file_at(self.parent, self.name())
    }

    /// What it is; `None` for a regular file, whose content is another matter.
    fn kind(&self) -> Option<What> {
        match self.meta.kind {
            Kind::File => None,
            Kind::Dir => Some(What::Dir),
            Kind::Symlink => match fs::read_link_at(self.parent, self.name()) {
                Ok(target) => Some(What::Symlink(Digest::of(&target))),
                Err(_) => Some(What::Foreign),
            },
            Kind::Fifo => Some(What::Fifo),
            Kind::Char if self.meta.is_whiteout() => Some(What::Whiteout),
            Kind::Char | Kind::Block | Kind::Socket => Some(What::Foreign),
        }
    }

    fn xattrs(&self) -> io::Result<Option<[u8; 16]>> {
        match (self.dir, self.meta.kind) {
            (Some(dir), _) => xattrs(dir),
            (None, Kind::File) => match self.file() {
                Ok(file) => xattrs(&file),
                // Only where one id without powers is all there is; nobody else can read the file then either.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(None),
                Err(e) => Err(e),
            },
            _ => Ok(None),
        }
    }

    fn sum(&self, what: What, xattrs: Option<[u8; 16]>) -> io::Result<Sum> {
        Ok(Sum {
            depth: u16::try_from(self.path.len()).map_err(io::Error::other)?,
            name: self.path.last().cloned().unwrap_or_default(),
            what,
            mode: (self.meta.mode & 0o7777) as u16,
            uid: self.meta.uid,
            gid: self.meta.gid,
            xattrs,
        })
    }

    fn compare(
        &self,
        want: &Sum,
        quick: bool,
        wrongs: &mut Vec<Wrong>,
        moved: &mut dyn FnMut(u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let same_kind = match (self.kind(), want.what) {
            (None, What::File(..) | What::Blocks(..)) => true,
            (Some(What::Symlink(have)), What::Symlink(target)) => {
                if have != target {
                    wrongs.push(Wrong::Target);
                }
                true
            }
            (Some(have), what) => have == what,
            (None, _) => false,
        };
        if !same_kind {
            wrongs.push(Wrong::Kind);
            return Ok(());
        }
        let have = self.sum(want.what, self.xattrs()?)?;
        // Links have no mode of their own.
        if have.mode != want.mode && !matches!(want.what, What::Symlink(_)) {
            wrongs.push(Wrong::Mode {
                have: have.mode,
                want: want.mode,
            });
        }
        if (have.uid, have.gid) != (want.uid, want.gid) {
            wrongs.push(Wrong::Owner {
                have: format!("{}:{}", have.uid, have.gid),
                want: format!("{}:{}", want.uid, want.gid),
            });
        }
        if have.xattrs != want.xattrs {
            wrongs.push(Wrong::Xattrs);
        }
        let (What::File(size, digest) | What::Blocks(size, digest)) = want.what else {
            return Ok(());
        };
        if self.meta.size != size {
            wrongs.push(Wrong::Size {
                have: self.meta.size,
                want: size,
            });
        } else if !quick {
            let file = self.file()?;
            // What is in memory says nothing about the device.
            fs::drop_cache(&file, 0, size);
            let got = match want.what {
                What::Blocks(..) => blocks_digest(file, moved)?,
                _ => whole_digest(file, moved)?,
            };
            if got != digest {
                wrongs.push(Wrong::Content);
            }
        }
        Ok(())
    }
}

/// Calls `see` for the root and everything in it, in the order of the sums; it says whether to go into a directory.
fn walk(root: &OwnedFd, see: &mut dyn FnMut(&Seen) -> io::Result<bool>) -> io::Result<()> {
    let seen = Seen {
        path: Vec::new(),
        parent: root,
        dir: Some(root),
        meta: fs::stat_fd(root)?,
    };
    if see(&seen)? {
        walk_dir(root, &mut Vec::new(), see)?;
    }
    Ok(())
}

fn walk_dir(dir: &OwnedFd, path: &mut Vec<Vec<u8>>, see: &mut dyn FnMut(&Seen) -> io::Result<bool>) -> io::Result<()> {
    if path.len() > bounds::LAYER_DEPTH {
        return Err(io::Error::other("directories are nested too deep"));
    }
    let mut names = fs::names(dir)?;
    names.sort_unstable();
    for name in names {
        let meta = fs::stat_at(dir, &name)?;
        path.push(name);
        let name = path.last().map_or(&b"."[..], Vec::as_slice);
        let opened = match meta.kind {
            Kind::Dir => Some(fs::open_dir_at(dir, name)?),
            _ => None,
        };
        let seen = Seen {
            path: path.clone(),
            parent: dir,
            dir: opened.as_ref(),
            meta,
        };
        if see(&seen)?
            && let Some(opened) = &opened
        {
            walk_dir(opened, path, see)?;
        }
        path.pop();
    }
    Ok(())
}

/// A digest of the attributes that images have and that dunlin sets.
fn xattrs(fd: &impl AsFd) -> io::Result<Option<[u8; 16]>> {
    let mut names = fs::list_xattrs(fd)?;
    names.retain(|name| {
        name.starts_with(b"user.")
            || matches!(
                &name[..],
                b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default"
            )
    });
    if names.is_empty() {
        return Ok(None);
    }
    names.sort_unstable();
    let mut hash = Sha256::new();
    for name in names {
        let value = fs::get_xattr(fd, &name)?.unwrap_or_default();
        for part in [name, value] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    let mut short = [0; 16];
    short.copy_from_slice(&hash.finalize()[..16]);
    Ok(Some(short))
}

fn whole_digest(file: File, moved: &mut dyn FnMut(u64) -> io::Result<()>) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; bounds::TAR_BUFFER_BYTES];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => break,
            Ok(got) => {
                hash.update(&buffer[..got]);
                fs::drop_cache(&file, at, got as u64);
                at += got as u64;
                moved(got as u64)?;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(Digest::from_bytes(hash.finalize().into()))
}

/// Holes are not read, and blocks of zeros count as holes.
fn blocks_digest(file: File, moved: &mut dyn FnMut(u64) -> io::Result<()>) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut block = [0; BLOCK as usize];
    let mut at = 0;
    while let Some((start, end)) = fs::next_data(&file, at)? {
        at = at.max(start - start % BLOCK);
        while at < end {
            let mut filled = 0;
            while filled < block.len() {
                match file.read_at(&mut block[filled..], at + filled as u64)? {
                    0 => break,
                    got => filled += got,
                }
            }
            if block[..filled].iter().any(|byte| *byte != 0) {
                hash.update(at.to_le_bytes());
                hash.update(&block[..filled]);
            }
            at += BLOCK;
            moved(filled as u64)?;
        }
    }
    Ok(Digest::from_bytes(hash.finalize().into()))
}

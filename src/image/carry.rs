//! Files on their way into a container or out of one, as plain archives.
//!
//! The worker sees the container's root: that of a running one as the container sees it, with all that is mounted in it; that of
//! one that does not run by an overlay of its layers and its writable folder, which the worker mounts for itself alone.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::diff;
use super::unpack::{Limits, Owners, Unpacker};
use super::worker::{Patient, Reply, WorkerError, shut_in};
use crate::sys::fs::{self, Kind};
use crate::sys::landlock::Access;
use crate::sys::mount::{self, Propagation};
use crate::sys::ns::{self, Namespaces};
use crate::sys::path::{self, Resolve};
use crate::types::bounds;

/// A container's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum View {
    /// A directory. Descriptor: the directory.
    Directory,
    /// Layers and a writable folder, absolute paths: what is mounted together must be looked up in the mount namespace that it is
    /// mounted in, which is the worker's own.
    Overlay {
        /// An empty folder to mount on.
        place: PathBuf,
        /// Folders of layers, topmost first.
        lowers: Vec<PathBuf>,
        /// The writable folder.
        upper: PathBuf,
        /// Overlay's work folder, where something is to be written.
        work: Option<PathBuf>,
    },
}

/// A job on a container's root; paths are resolved in it, links too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carry {
    /// The root.
    pub view: View,
    /// The path.
    #[serde(with = "serde_bytes")]
    pub path: Vec<u8>,
    /// What is done there.
    pub what: What,
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// Tells what is there.
    Look,
    /// Writes an archive of it under a name, or of what is in a directory. Descriptor, behind those of the view: the pipe that it
    /// goes to.
    Out(Option<Vec<u8>>),
    /// Takes an archive into the directory that it is. Descriptor, behind those of the view: the pipe that it comes from.
    In {
        /// Whose everything becomes.
        uid: u32,
        /// The same.
        gid: u32,
    },
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A directory.
    Directory,
    /// A file.
    File,
    /// Something that is not carried: a device, a socket, a pipe.
    Other,
}

impl Found {
    fn of(kind: Kind) -> Found {
        match kind {
            Kind::Dir => Found::Directory,
            Kind::File => Found::File,
            _ => Found::Other,
        }
    }
}

/// Does a job of the worker.
pub(super) fn work(carry: Carry, fds: Vec<OwnedFd>, owners: Owners) -> Result<Reply, WorkerError> {
    let mut fds = fds.into_iter();
    let root = enter(&carry.view, &mut fds)?;
    let access = if matches!(carry.what, What::In { .. }) {
        Access::Write
    } else {
        Access::Read
    };
    shut_in(&[(root.as_fd(), access)])?;
    let path = Path::new(OsStr::from_bytes(&carry.path));
    let at = |flags| path::open_at(root.as_fd(), path, flags, 0, Resolve::InRoot);
    let missing = || WorkerError::Malformed {
        why: "a pipe is missing".to_owned(),
    };
    match carry.what {
        What::Look => Ok(Reply::Found(
            match at(path::O_PATH).and_then(|node| fs::stat_fd(&node)) {
                Ok(meta) => Found::of(meta.kind),
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Found::Nothing,
                Err(e) => return Err(WorkerError::os("look at it")(e)),
            },
        )),
        What::Out(name) => {
            let out = fds.next().map(File::from).ok_or_else(missing)?;
            let out = BufWriter::with_capacity(bounds::TAR_BUFFER_BYTES, out);
            let there = at(path::O_PATH).and_then(|node| fs::stat_fd(&node));
            let written = match (there.map_err(WorkerError::os("look at it"))?.kind, name) {
                (Kind::Dir, name) => {
                    at(path::O_RDONLY | path::O_DIRECTORY).and_then(|dir| diff::write_dir(&dir, name.as_deref(), out))
                }
                // What is opened may block or do something for being opened, so only files are.
                (Kind::File, Some(name)) => at(path::O_RDONLY | path::O_NONBLOCK | path::O_NOCTTY)
                    .and_then(|file| diff::write_file(File::from(file), &name, out)),
                (Kind::File, None) => Err(io::ErrorKind::NotADirectory.into()),
                _ => Err(io::Error::other("it is neither a file nor a directory")),
            };
            let bytes = written.map_err(WorkerError::os("read it"))?;
            Ok(Reply::Packed { bytes })
        }
        What::In { uid, gid } => {
            let input = fds.next().map(File::from).ok_or_else(missing)?;
            let dir = at(path::O_RDONLY | path::O_DIRECTORY).map_err(WorkerError::os("open the folder"))?;
            take(dir, owners, (uid, gid), input)
        }
    }
}

/// Unpacks somebody's files into a directory.
fn take(dir: OwnedFd, owners: Owners, (uid, gid): (u32, u32), input: File) -> Result<Reply, WorkerError> {
    let mut unpacker = Unpacker::new(dir, owners, LIMITS);
    unpacker.carry(uid, gid);
    unpacker.unpack(Patient(input))?;
    Ok(Reply::Unpacked(*unpacker.stats()))
}

/// Only the disk bounds what somebody carries.
const LIMITS: Limits = Limits {
    bytes: u64::MAX,
    archive: u64::MAX,
    entries: u64::MAX,
};

/// The caller's own side: takes an archive into a directory of the host, everything becomes the caller's.
pub fn take_here(dir: &Path, input: File) -> Result<(), WorkerError> {
    let here = fs::open_dir(dir).map_err(WorkerError::os("open the folder"))?;
    let owners = Owners::of_this_process().map_err(WorkerError::os("read the own id map"))?;
    // A caller without powers over owners has only their own, which counts as 0 there.
    take(here, owners, (0, 0), input).map(drop)
}

/// The caller's own side: writes an archive of a file or directory of the host under a name, or of what is in a directory.
pub fn give_from_here(from: &Path, name: Option<&[u8]>, out: File) -> io::Result<()> {
    let out = BufWriter::with_capacity(bounds::TAR_BUFFER_BYTES, out);
    let meta = std::fs::metadata(from)?;
    if meta.is_dir() {
        diff::write_dir(&fs::open_dir(from)?, name, out)?;
        return Ok(());
    }
    match name {
        Some(name) if meta.is_file() => diff::write_file(File::open(from)?, name, out).map(drop),
        _ => Err(io::Error::other("it is neither a file nor a directory")),
    }
}

/// The root of a view, opened.
fn enter(view: &View, fds: &mut impl Iterator<Item = OwnedFd>) -> Result<OwnedFd, WorkerError> {
    let opened = match view {
        View::Directory => {
            let dir = fds.next().ok_or_else(|| WorkerError::Malformed {
                why: "a directory is missing".to_owned(),
            })?;
            let flags = path::O_RDONLY | path::O_DIRECTORY;
            path::open_at(dir.as_fd(), Path::new("."), flags, 0, Resolve::InRoot)
        }
        View::Overlay {
            place,
            lowers,
            upper,
            work,
        } => mounted(place, lowers, upper, work.as_deref()),
    };
    opened.map_err(WorkerError::os("open the container's root"))
}

/// No set-user-id, no devices (mount(2)).
const FLAGS: u64 = 2 | 4;

fn mounted(place: &Path, lowers: &[PathBuf], upper: &Path, work: Option<&Path>) -> io::Result<OwnedFd> {
    ns::unshare(Namespaces::MOUNT)?;
    mount::set_root_propagation(Propagation::Private)?;
    // Options are at most 4,095 bytes: every folder is named by its number.
    let number = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mut lowers: Vec<OwnedFd> = lowers
        .iter()
        .map(|dir| path::open_root(dir))
        .collect::<Result<_, _>>()?;
    let upper = path::open_root(upper)?;
    let work = work.map(path::open_root).transpose()?;
    let upper_options = match &work {
        Some(work) => format!("upperdir={},workdir={},", number(&upper), number(work)),
        None => {
            // Only looked at: it is one more layer. An image without layers has no other, and overlay wants two.
            if lowers.is_empty() {
                return fs::open_dir_at(&upper, b".");
            }
            lowers.insert(0, upper);
            String::new()
        }
    };
    let names: Vec<String> = lowers.iter().map(number).collect();
    let options = format!("lowerdir={},{upper_options}userxattr", names.join(":"));
    mount::mount_at("overlay", place, "overlay", FLAGS, &options)?;
    path::open_host(place, path::O_RDONLY | path::O_DIRECTORY)
}

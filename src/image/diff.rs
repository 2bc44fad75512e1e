//! Trees as archives: what a container changed, as a layer with whiteouts as images have them, and plain ones. Runs in the worker,
//! and for files of the caller in a process of the caller.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::tar::{self, BLOCK};
use super::unpack::{OPAQUE_XATTR, OWNER_XATTR};
use crate::sys::fs::{self, Kind, Meta};
use crate::sys::path::{self as paths, FsKind, Resolve};
use crate::types::bounds;

/// Files and folders that every container gets to have something mounted on, where they are empty.
pub const STUBS: [&[u8]; 7] = [
    b"dev",
    b"proc",
    b"sys",
    b"etc/hostname",
    b"etc/hosts",
    b"etc/resolv.conf",
    b"run/.containerenv",
];

/// Writes the archive of the tree `root` to `out`.
pub fn write(root: &OwnedFd, out: impl Write) -> io::Result<u64> {
    let mut diff = Diff::new(out, true);
    if is_opaque(root)? {
        diff.marker(b".wh..wh..opq")?;
    }
    diff.dir(root, &mut Vec::new(), 0)?;
    diff.end()
}

/// Writes the plain archive of a directory to `out`: under `name`, or what is in it alone.
pub fn write_dir(dir: &OwnedFd, name: Option<&[u8]>, out: impl Write) -> io::Result<u64> {
    let mut diff = Diff::new(out, false);
    let mut path = name.unwrap_or_default().to_vec();
    if !path.is_empty() {
        let shown = [&path[..], b"/"].concat();
        diff.file_entry(dir, header(&shown, b"", b'5', &fs::stat_fd(dir)?))?;
    }
    diff.dir(dir, &mut path, 0)?;
    diff.end()
}

/// Writes the plain archive of one file to `out`.
pub fn write_file(file: File, name: &[u8], out: impl Write) -> io::Result<u64> {
    let mut diff = Diff::new(out, false);
    let meta = fs::stat_fd(&file)?;
    diff.content(file, name, &meta)?;
    diff.end()
}

struct Diff<W> {
    out: W,
    /// Whiteouts and the like are an image's; what a container gets from dunlin is not told.
    layer: bool,
    total: u64,
    /// The first of several names of a file.
    links: HashMap<(u64, u64), Vec<u8>>,
    links_bytes: usize,
}

/// What a header says.
struct Header<'a> {
    path: &'a [u8],
    link: &'a [u8],
    flag: u8,
    size: u64,
    meta: &'a Meta,
    owner: (u32, u32),
}

impl<W: Write> Diff<W> {
    fn new(out: W, layer: bool) -> Diff<W> {
        Diff {
            out,
            layer,
            total: 0,
            links: HashMap::new(),
            links_bytes: 0,
        }
    }

    fn end(mut self) -> io::Result<u64> {
        self.put(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.total)
    }

    fn dir(&mut self, dir: &OwnedFd, path: &mut Vec<u8>, depth: usize) -> io::Result<()> {
        if depth > bounds::LAYER_DEPTH {
            return Err(io::Error::other("directories are nested too deep"));
        }
        let mut names = fs::names(dir)?;
        names.sort_unstable();
        for name in names {
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            match self.node(dir, &name, path, depth) {
                // A container that goes on may remove what was there a moment ago.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                done => done?,
            }
            path.truncate(length);
        }
        Ok(())
    }

    fn node(&mut self, dir: &OwnedFd, name: &[u8], path: &mut Vec<u8>, depth: usize) -> io::Result<()> {
        let meta = fs::stat_at(dir, name)?;
        let stub = self.layer && STUBS.contains(&&path[..]);
        match meta.kind {
            Kind::Char if self.layer && meta.is_whiteout() => {
                let at = path.len() - name.len();
                let hidden = [&path[..at], b".wh.", name].concat();
                self.marker(&hidden)
            }
            Kind::Char | Kind::Block | Kind::Socket => Ok(()),
            Kind::Symlink | Kind::Fifo => {
                let (flag, link) = match meta.kind {
                    Kind::Symlink => (b'2', fs::read_link_at(dir, name)?),
                    _ => (b'6', Vec::new()),
                };
                self.entry(&header(path, &link, flag, &meta), &[])
            }
            Kind::Dir => {
                let below = match fs::open_dir_at(dir, name) {
                    Err(e) if !self.layer && e.kind() == io::ErrorKind::CrossesDevices => {
                        match other_mount(dir, name)? {
                            Some(below) => below,
                            // The kernel's own: as in an image, an empty folder.
                            None => return self.entry(&header(&[&path[..], b"/"].concat(), b"", b'5', &meta), &[]),
                        }
                    }
                    other => other?,
                };
                if stub && fs::some_names(&below, 1)?.is_empty() {
                    return Ok(());
                }
                let shown = [&path[..], b"/"].concat();
                self.file_entry(&below, header(&shown, b"", b'5', &meta))?;
                if self.layer && is_opaque(&below)? {
                    self.marker(&[&path[..], b"/.wh..wh..opq"].concat())?;
                }
                self.dir(&below, path, depth + 1)
            }
            Kind::File if stub && meta.size == 0 => Ok(()),
            Kind::File => self.file(dir, name, path, &meta),
        }
    }

    fn file(&mut self, dir: &OwnedFd, name: &[u8], path: &[u8], meta: &Meta) -> io::Result<()> {
        if meta.links > 1 {
            if let Some(first) = self.links.get(&meta.id) {
                let first = first.clone();
                return self.entry(&header(path, &first, b'1', meta), &[]);
            }
            self.links_bytes += path.len();
            if self.links_bytes <= bounds::LAYER_NEEDS_BYTES {
                self.links.insert(meta.id, path.to_vec());
            }
        }
        let file = match fs::open_file_at(dir, name) {
            // A file that is mounted in.
            Err(e) if !self.layer && e.kind() == io::ErrorKind::CrossesDevices => {
                let flags = paths::O_RDONLY | paths::O_NONBLOCK | paths::O_NOCTTY;
                File::from(paths::open_at(
                    dir.as_fd(),
                    Path::new(OsStr::from_bytes(name)),
                    flags,
                    0,
                    BELOW,
                )?)
            }
            other => other?,
        };
        let meta = &fs::stat_fd(&file)?;
        self.content(file, path, meta)
    }

    fn content(&mut self, file: File, path: &[u8], meta: &Meta) -> io::Result<()> {
        let mut shown = header(path, b"", b'0', meta);
        shown.size = meta.size;
        self.file_entry(&file, shown)?;
        let mut left = meta.size;
        let mut from = file.take(left);
        let mut buffer = vec![0; bounds::TAR_BUFFER_BYTES];
        while left > 0 {
            let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let got = match from.read(&mut buffer[..want])? {
                // It has become shorter meanwhile.
                0 => {
                    buffer.fill(0);
                    want
                }
                got => got,
            };
            self.put(&buffer[..got])?;
            left -= got as u64;
        }
        self.pad(meta.size)
    }

    /// A file or directory with its attributes.
    fn file_entry(&mut self, fd: &impl std::os::fd::AsFd, mut header: Header) -> io::Result<()> {
        let mut xattrs = Vec::new();
        for name in fs::list_xattrs(fd)? {
            let value = fs::get_xattr(fd, &name)?.unwrap_or_default();
            if name == OWNER_XATTR {
                let text = String::from_utf8_lossy(&value);
                if let Some((uid, gid)) = text.split_once(':') {
                    header.owner = (uid.parse().unwrap_or(0), gid.parse().unwrap_or(0));
                }
            } else if (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
                || name == b"security.capability"
            {
                xattrs.push((name, value));
            }
        }
        xattrs.sort_unstable();
        self.entry(&header, &xattrs)
    }

    fn marker(&mut self, path: &[u8]) -> io::Result<()> {
        let meta = Meta {
            kind: Kind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: fs::Time::default(),
            rdev: 0,
            id: (0, 0),
            links: 1,
            allocated: 0,
        };
        self.entry(&header(path, b"", b'0', &meta), &[])
    }

    fn entry(&mut self, header: &Header, xattrs: &[(Vec<u8>, Vec<u8>)]) -> io::Result<()> {
        let mut records = Vec::new();
        let long = |text: &[u8]| text.len() > 100 || !text.is_ascii();
        if long(header.path) {
            record(&mut records, b"path", header.path);
        }
        if long(header.link) {
            record(&mut records, b"linkpath", header.link);
        }
        for (key, number, max) in [
            (&b"size"[..], header.size, 0o77_777_777_777),
            (b"uid", header.owner.0.into(), 0o7_777_777),
            (b"gid", header.owner.1.into(), 0o7_777_777),
        ] {
            if number > max {
                record(&mut records, key, number.to_string().as_bytes());
            }
        }
        for (name, value) in xattrs {
            record(&mut records, &[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
        if !records.is_empty() {
            let pax = Header {
                path: b"PaxHeaders.0/entry",
                link: b"",
                flag: b'x',
                size: records.len() as u64,
                ..*header
            };
            self.put(&block(&pax))?;
            self.put(&records)?;
            self.pad(records.len() as u64)?;
        }
        self.put(&block(header))
    }

    fn pad(&mut self, length: u64) -> io::Result<()> {
        let padding = (length.wrapping_neg() % BLOCK as u64) as usize;
        self.put(&[0; BLOCK][..padding])
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.total += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

/// How what is mounted below a directory is opened.
const BELOW: Resolve = Resolve::BeneathNoLinks;

/// A directory that something is mounted on; `None` where that is the kernel's own (proc, sys, cgroups).
fn other_mount(dir: &OwnedFd, name: &[u8]) -> io::Result<Option<OwnedFd>> {
    let flags = paths::O_RDONLY | paths::O_DIRECTORY;
    let below = paths::open_at(dir.as_fd(), Path::new(OsStr::from_bytes(name)), flags, 0, BELOW)?;
    Ok(match paths::fs_kind(below.as_fd())? {
        FsKind::Proc | FsKind::Sys | FsKind::Pts | FsKind::Cgroup2 => None,
        _ => Some(below),
    })
}

fn is_opaque(dir: &OwnedFd) -> io::Result<bool> {
    Ok(fs::get_xattr(dir.as_fd(), OPAQUE_XATTR)?.is_some_and(|value| value == b"y"))
}

fn header<'a>(path: &'a [u8], link: &'a [u8], flag: u8, meta: &'a Meta) -> Header<'a> {
    Header {
        path,
        link,
        flag,
        size: 0,
        meta,
        owner: (meta.uid, meta.gid),
    }
}

/// A PAX record: its own length first.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn block(header: &Header) -> [u8; BLOCK] {
    let Header {
        path,
        link,
        flag,
        size,
        meta,
        owner,
    } = header;
    let seconds = u64::try_from(meta.mtime.seconds).unwrap_or(0);
    tar::written(path, link, *flag, meta.mode, *owner, *size, seconds)
}

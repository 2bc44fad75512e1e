//! What is other in one stack of layers than in another, as podman's `diff` tells it. Runs in the worker.
//!
//! Both stacks are looked at as overlay would merge them. Where the same layers make up a directory on both sides nothing
//! below it can be other, so that only what the layers on one side touch is walked.

use crate::types::sorted::Sorted;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use super::diff::STUBS;
use super::unpack::OPAQUE_XATTR;
use crate::sys::fs::{self, Kind, Meta};
use crate::types::bounds;

/// Writes what is other in the stack `to` than in `from` to `out`, each as `A`, `C` or `D`, its path from the root, and a NUL;
/// returns the bytes. Stacks are numbers of `layers`, topmost first. From the number `own` on they are containers' folders:
/// what every container gets in them is left out.
pub fn write(layers: &[OwnedFd], from: &[usize], to: &[usize], own: usize, out: impl Write) -> io::Result<u64> {
    let mut compare = Compare {
        layers,
        own,
        out,
        pending: Vec::new(),
        bytes: 0,
    };
    compare.dir(from, to, &mut Vec::new(), 0)?;
    compare.out.flush()?;
    Ok(compare.bytes)
}

struct Compare<'a, W> {
    layers: &'a [OwnedFd],
    own: usize,
    out: W,
    /// Directories on the way that were not written yet: they are only if something in them is.
    pending: Vec<Vec<u8>>,
    bytes: u64,
}

/// What a name stands for in a stack.
struct Node {
    meta: Meta,
    /// Of a symbolic link.
    target: Vec<u8>,
    /// Capabilities of a program.
    powers: Option<Vec<u8>>,
    /// The layer that it comes from; of a directory all that make it up, topmost first.
    layers: Vec<usize>,
}

/// The names of a directory, and what each stands for on both sides.
type Pairs = BTreeMap<Vec<u8>, (Option<Node>, Option<Node>)>;

impl Node {
    fn is_dir(&self) -> bool {
        self.meta.kind == Kind::Dir
    }

    /// Sizes and times of directories say nothing.
    fn is_as(&self, other: &Node) -> bool {
        let look = |meta: &Meta| (meta.kind, meta.mode, meta.uid, meta.gid, meta.rdev);
        look(&self.meta) == look(&other.meta)
            && self.target == other.target
            && self.powers == other.powers
            && (self.is_dir() || (self.meta.size, self.meta.mtime) == (other.meta.size, other.meta.mtime))
    }
}

impl<W: Write> Compare<'_, W> {
    fn dir(&mut self, from: &[usize], to: &[usize], path: &mut Vec<u8>, depth: usize) -> io::Result<()> {
        if depth > bounds::LAYER_DEPTH {
            return Err(io::Error::other("directories are nested too deep"));
        }
        for (name, (before, after)) in self.pairs(from, to, path)? {
            let length = path.len();
            path.push(b'/');
            path.extend_from_slice(&name);
            let pending = self.pending.len();
            match self.node(before, after, path, depth) {
                // A container that goes on may remove what was there a moment ago.
                Err(e) if e.kind() == io::ErrorKind::NotFound => self.pending.truncate(pending),
                done => done?,
            }
            path.truncate(length);
        }
        Ok(())
    }

    fn node(&mut self, before: Option<Node>, after: Option<Node>, path: &mut Vec<u8>, depth: usize) -> io::Result<()> {
        let below = |node: Option<&Node>| {
            node.filter(|node| node.is_dir())
                .map_or(Vec::new(), |node| node.layers.clone())
        };
        match (&before, &after) {
            (None, None) => Ok(()),
            (Some(_), None) => self.say(b'D', path),
            (None, Some(after)) => {
                self.say(b'A', path)?;
                self.dir(&[], &below(Some(after)), path, depth + 1)
            }
            (Some(one), Some(other)) if one.layers == other.layers => Ok(()),
            (Some(one), Some(other)) if one.is_dir() && other.is_dir() => {
                match one.is_as(other) {
                    true => self.pending.push(path.clone()),
                    false => self.say(b'C', path)?,
                }
                self.dir(&one.layers, &other.layers, path, depth + 1)?;
                self.pending.pop_if(|last| last == path);
                Ok(())
            }
            (Some(one), Some(other)) if one.is_as(other) => Ok(()),
            (Some(_), Some(other)) => {
                self.say(b'C', path)?;
                self.dir(&[], &below(Some(other)), path, depth + 1)
            }
        }
    }

    fn say(&mut self, what: u8, path: &[u8]) -> io::Result<()> {
        for dir in std::mem::take(&mut self.pending) {
            self.put(b'C', &dir)?;
        }
        self.put(what, path)
    }

    fn put(&mut self, what: u8, path: &[u8]) -> io::Result<()> {
        self.bytes += path.len() as u64 + 2;
        self.out.write_all(&[what])?;
        self.out.write_all(path)?;
        self.out.write_all(&[0])
    }

    /// Every name of a directory, with what it stands for on both sides.
    fn pairs(&self, from: &[usize], to: &[usize], path: &[u8]) -> io::Result<Pairs> {
        let mut dirs = Sorted::new();
        let mut names = BTreeSet::new();
        for layer in from.iter().chain(to) {
            if dirs.contains_key(layer) {
                continue;
            }
            let beneath: &[u8] = path.strip_prefix(b"/").unwrap_or(b".");
            let dir = fs::open_dir_at(&self.layers[*layer], beneath)?;
            names.extend(fs::names(&dir)?);
            dirs.insert(*layer, dir);
        }
        let mut pairs = BTreeMap::new();
        for name in names {
            let before = self.find(&dirs, from, path, &name)?;
            let after = self.find(&dirs, to, path, &name)?;
            pairs.insert(name, (before, after));
        }
        Ok(pairs)
    }

    fn find(
        &self,
        dirs: &Sorted<usize, OwnedFd>,
        stack: &[usize],
        path: &[u8],
        name: &[u8],
    ) -> io::Result<Option<Node>> {
        let mut found: Option<Node> = None;
        for layer in stack {
            let Some(dir) = dirs.get(layer) else { continue };
            let meta = match fs::stat_at(dir, name) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            if *layer >= self.own && is_stub(dir, path, name, &meta)? {
                continue;
            }
            match &mut found {
                _ if meta.is_whiteout() => break,
                Some(_) if meta.kind != Kind::Dir => break,
                Some(node) => node.layers.push(*layer),
                None => {
                    found = Some(Node {
                        meta,
                        target: match meta.kind {
                            Kind::Symlink => fs::read_link_at(dir, name)?,
                            _ => Vec::new(),
                        },
                        powers: match meta.kind {
                            Kind::File => fs::get_xattr(fs::open_file_at(dir, name)?, b"security.capability")?,
                            _ => None,
                        },
                        layers: vec![*layer],
                    });
                }
            }
            let is_dir = meta.kind == Kind::Dir;
            if !is_dir || fs::get_xattr(fs::open_dir_at(dir, name)?, OPAQUE_XATTR)?.is_some_and(|value| value == b"y") {
                break;
            }
        }
        Ok(found)
    }
}

/// Whether it is an empty file or folder that every container gets to have something mounted on.
fn is_stub(dir: &OwnedFd, path: &[u8], name: &[u8], meta: &Meta) -> io::Result<bool> {
    let whole = [path, b"/", name].concat();
    if !STUBS.contains(&&whole[1..]) {
        return Ok(false);
    }
    match meta.kind {
        Kind::Dir => Ok(fs::some_names(fs::open_dir_at(dir, name)?, 1)?.is_empty()),
        _ => Ok(meta.size == 0),
    }
}

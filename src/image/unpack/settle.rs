//! Settles what a layer leaves to those below it: hard links to their files, and directories without an entry.

use std::io;
use std::os::fd::OwnedFd;

use super::error::UnpackError;
use super::path::Clean;
use super::walk::OPAQUE_XATTR;
use super::{Known, Owners, Unpacker};
use crate::image::tar::shown;
use crate::image::tree;
use crate::sys::fs::{self, Kind, Meta};

/// Something found in a lower layer.
struct Found {
    dir: OwnedFd,
    name: Vec<u8>,
    meta: Meta,
}

impl Unpacker {
    /// Looks up in `parents`, topmost first, what the archive left open. Without parents, directories keep their defaults
    /// and a hard link to nothing is an error.
    pub fn settle(&mut self, parents: &[OwnedFd]) -> Result<(), UnpackError> {
        for (path, target) in std::mem::take(&mut self.links) {
            self.settle_link(&path, &target, parents)?;
        }
        self.walk.leave(0)?;
        let implicit: Vec<Vec<u8>> = self.walk.implicit().iter().cloned().collect();
        for path in implicit {
            let failed = |e: io::Error| UnpackError::os(&path, "take its attributes from a lower layer", &e);
            let parts = Clean::entry(&path)?.parts;
            let Some(found) = look_up(parents, &parts)
                .map_err(failed)?
                .filter(|f| f.meta.kind == Kind::Dir)
            else {
                continue;
            };
            let from = fs::open_dir_at(&found.dir, &found.name).map_err(failed)?;
            let dir = self.walk.find(&parts).map_err(failed)?;
            tree::copy_attributes(&from, &found.meta, &dir, self.owners != Owners::Single).map_err(failed)?;
        }
        Ok(())
    }

    fn settle_link(&mut self, path: &[u8], target: &[u8], parents: &[OwnedFd]) -> Result<(), UnpackError> {
        let wrong = |why: &str| UnpackError::LinkTarget {
            entry: shown(path),
            target: shown(target),
            why: why.to_owned(),
        };
        let failed = |e: io::Error| UnpackError::os(path, "make the hard link", &e);
        let (link, clean) = (Clean::entry(path)?, Clean::entry(target)?);
        let (Some((parent, name)), Some((target_parent, target_name))) = (link.split(), clean.split()) else {
            return Err(wrong("is a directory"));
        };
        let own = self
            .walk
            .find(target_parent)
            .and_then(|dir| fs::stat_at(&dir, target_name));
        match own {
            Ok(meta) if meta.kind == Kind::Dir => return Err(wrong("is a directory")),
            Ok(meta) if meta.is_whiteout() => return Err(wrong("is deleted by this layer")),
            Ok(_) => {}
            Err(_) => {
                let found = look_up(parents, &clean.parts).map_err(failed)?;
                let found = found.ok_or_else(|| wrong("exists neither in this layer nor in a lower one"))?;
                if found.meta.kind == Kind::Dir {
                    return Err(wrong("is a directory"));
                }
                self.charge(found.meta.allocated, path)?;
                self.walk.go(target_parent, path)?;
                let to = self.walk.dir();
                let chown = self.owners != Owners::Single;
                tree::copy_node(&found.dir, &found.name, &found.meta, to, target_name, chown).map_err(failed)?;
                if found.meta.kind == Kind::File {
                    let made = fs::stat_at(self.walk.dir(), target_name).map_err(failed)?;
                    self.note(made.id.1, Known::default());
                }
            }
        }
        self.walk.go(parent, path)?;
        let dir = self.walk.find(target_parent).map_err(failed)?;
        fs::link_at(&dir, target_name, self.walk.dir(), name).map_err(failed)
    }
}

/// What the merged view of `layers`, topmost first, has at `parts`; symbolic links on the way count as absence.
fn look_up(layers: &[OwnedFd], parts: &[&[u8]]) -> io::Result<Option<Found>> {
    'layers: for layer in layers {
        let mut dir = layer.try_clone()?;
        // Whether a directory on the way hides what is at this path further down.
        let mut opaque = false;
        for (depth, name) in parts.iter().enumerate() {
            opaque |= fs::get_xattr(&dir, OPAQUE_XATTR)?.is_some_and(|value| value == b"y");
            let meta = match fs::stat_at(&dir, name) {
                Ok(meta) => meta,
                Err(e) if e.kind() == io::ErrorKind::NotFound && !opaque => continue 'layers,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(e),
            };
            if meta.is_whiteout() {
                return Ok(None);
            }
            if depth + 1 == parts.len() {
                return Ok(Some(Found {
                    dir,
                    name: name.to_vec(),
                    meta,
                }));
            }
            if meta.kind != Kind::Dir {
                return Ok(None);
            }
            dir = fs::open_dir_at(&dir, name)?;
        }
    }
    Ok(None)
}

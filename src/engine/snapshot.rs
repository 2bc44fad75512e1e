//! Saved volumes: copies that an update's way back puts in their place again.
//!
//! ```text
//! volumes/.NAME.TAG.new        being copied; never used, swept up later
//! volumes/.NAME.TAG.saved      whole and on the device, with the volume's record
//! volumes/.NAME.TAG.removing   what a saved one took the place of
//! ```

use super::index::entries;
use super::remove::{NEW, REMOVING, claim};
use super::{Engine, EngineError};
use crate::disk::durable;
use crate::image::worker;
use crate::sys::fs as sys;
use crate::types::bounds::SNAPSHOT_BYTES;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

/// Suffix of a saved volume.
const SAVED: &str = ".saved";

impl Engine {
    /// Bytes of the disk that are left free by pulls and copies.
    pub fn reserve(&self) -> u64 {
        let set = self.settings().store.reserve.or(self.board().storage.reserve);
        set.map_or(crate::types::bounds::DISK_RESERVE_BYTES, |reserve| reserve.0)
    }

    /// Checks that volumes can be saved: there is room, or the file system shares what is copied.
    pub fn snapshot_room(&self, volumes: &[String]) -> Result<(), EngineError> {
        let dir = self.layout().volumes();
        let there: Vec<&String> = volumes.iter().filter(|name| dir.join(name).exists()).collect();
        if there.is_empty() || sys::shares_copies(&dir) {
            return Ok(());
        }
        let need = there.iter().map(|name| self.tree_bytes(&dir.join(name))).sum();
        let room = self.store().free()?.saturating_sub(self.reserve());
        if need <= room.min(SNAPSHOT_BYTES) {
            return Ok(());
        }
        Err(EngineError::SnapshotRoom { need, room })
    }

    /// Saves volumes under a tag, each whole or not at all; those that are saved under it already, or not there, are left out.
    pub fn snapshot_save(&self, volumes: &[String], tag: &str) -> Result<(), EngineError> {
        let dir = self.layout().volumes();
        for name in volumes {
            let saved = dir.join(format!(".{name}.{tag}{SAVED}"));
            if saved.exists() || !dir.join(name).exists() {
                continue;
            }
            let making = dir.join(format!(".{name}.{tag}{NEW}"));
            self.remove_tree(&making)?;
            durable::create_dirs(&making)?;
            // Whoever sweeps up sees that somebody is at it.
            let _held = claim(&making).map_err(EngineError::io("lock", &making))?;
            self.own(&making)?;
            let open = |path: &Path| sys::name_dir(path).map_err(EngineError::io("open", path));
            let (all, to) = (open(&dir)?, open(&making)?);
            let copied = worker::copy(&self.workers()?, all.as_fd(), vec![name.clone()], to.as_fd());
            copied.map_err(|source| EngineError::Worker {
                path: dir.join(name),
                source: Box::new(source),
            })?;
            durable::rename(&making, &saved)?;
        }
        Ok(())
    }

    /// Puts everything that is saved under a tag in its volume's place; what is interrupted goes on when it is called again.
    pub fn snapshot_restore(&self, tag: &str) -> Result<(), EngineError> {
        let dir = self.layout().volumes();
        let end = format!(".{tag}{SAVED}");
        for entry in entries(&dir)? {
            let Some(name) = entry.strip_suffix(&end).and_then(|rest| rest.strip_prefix('.')) else {
                continue;
            };
            let (volume, gone) = (dir.join(name), dir.join(format!(".{name}.{tag}{REMOVING}")));
            if volume.exists() {
                self.remove_tree(&gone)?;
                fs::rename(&volume, &gone).map_err(EngineError::io("move away", &volume))?;
            }
            durable::rename(&dir.join(&entry), &volume)?;
            self.remove_later(&gone);
        }
        Ok(())
    }

    /// Removes what is saved under other tags than these.
    pub fn snapshot_forget(&self, keep: &[String]) -> Result<(), EngineError> {
        let dir = self.layout().volumes();
        for entry in entries(&dir)? {
            let Some(rest) = entry.strip_suffix(SAVED).filter(|rest| rest.starts_with('.')) else {
                continue;
            };
            if keep.iter().any(|tag| rest.ends_with(&format!(".{tag}"))) {
                continue;
            }
            let gone = dir.join(format!("{rest}{REMOVING}"));
            self.remove_tree(&gone)?;
            durable::rename(&dir.join(&entry), &gone)?;
            self.remove_later(&gone);
        }
        Ok(())
    }

    /// Removes a tree that is of no use any more; what is left of it is swept up.
    fn remove_later(&self, gone: &Path) {
        let held = claim(gone);
        if matches!(&held, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            return;
        }
        if let Err(error) = self.remove_tree(gone) {
            crate::warn!("{error}");
        }
    }
}

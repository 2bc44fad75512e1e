//! Removal: a container stops existing with one rename; its files go after that, and what an interruption leaves is
//! swept up later.

use super::index::{self, IndexLock};
use super::view::{self, ContainerView};
use super::{Engine, EngineError, volume};
use crate::disk::layout::Layout;
use crate::disk::lock::{Lock, Mode};
use crate::disk::{DiskError, durable, events};
use crate::image::tree;
use crate::types::container::{ContainerRecord, MountSource, Status};
use crate::types::ids::ContainerId;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Suffix of a folder whose removal has begun.
pub(super) const REMOVING: &str = ".removing";
/// How often, and how long apart, a run-time directory that is not empty is tried again: a second in all.
const RUN_DIR_TRIES: u32 = 100;
const RUN_DIR_PAUSE: Duration = Duration::from_millis(10);
/// How long a sweep of a boot waits for another one.
const SWEEP: Duration = Duration::from_secs(30);
/// Suffix of a folder that is being made.
pub(super) const NEW: &str = ".new";

impl Engine {
    /// Removes a container; a live one only with `force`, after a stop with `timeout` seconds. `volumes`: its unnamed volumes
    /// too. Returns the full id.
    pub fn remove(
        &self,
        typed: &str,
        force: bool,
        volumes: bool,
        timeout: Option<u32>,
    ) -> Result<ContainerId, EngineError> {
        let view = self.inspect(typed)?;
        let id = view.record.id;
        let sharers = self.sharers(&view.record)?;
        if !sharers.is_empty() {
            let others: Vec<String> = sharers.iter().map(|other| other.record.id.hex()).collect();
            return Err(EngineError::Shared {
                id: id.hex(),
                others: others.join(", "),
            });
        }
        if view.status.is_live() {
            if !force {
                let reason = "running or paused containers are removed with --force only";
                return Err(EngineError::State {
                    name: view.record.name,
                    status: view.status,
                    reason,
                });
            }
            self.stop_view(&view, timeout)?;
        }
        self.kill_leftover(&view)?;
        self.discard(&view, volumes || view.record.spec.auto_remove)?;
        Ok(id)
    }

    fn discard(&self, view: &ContainerView, volumes: bool) -> Result<(), EngineError> {
        let trees = |path: &Path| self.remove_tree(path);
        self.remove_cgroup(&view.record.id);
        discard(self.layout(), view, volumes, &trees)
    }

    /// Whether files of a removed container are left.
    pub(super) fn is_being_removed(&self, id: &ContainerId) -> bool {
        removing(self.layout(), id).exists()
    }

    /// Removes a tree of the store, through a worker where files of other ids are in the way.
    pub(super) fn remove_tree(&self, path: &Path) -> Result<(), EngineError> {
        match remove_own(path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => {
                crate::debug!("remove `{}`: {error}; a worker goes on", path.display());
                self.remove_by_worker(path)
            }
        }
    }

    /// Finishes removals and creations that were interrupted. Cheap where there is nothing to do.
    pub fn sweep(&self) -> Result<(), EngineError> {
        let layout = self.layout();
        let leftover = |name: &String| name.starts_with('.') && (name.ends_with(REMOVING) || name.ends_with(NEW));
        let any = |dir: &Path| Ok::<_, DiskError>(index::entries(dir)?.iter().any(leftover));
        self.sweep_after_boot()?;
        if !any(&layout.containers())? && !any(&layout.volumes())? {
            return Ok(());
        }
        // Whoever holds the lock makes or removes something right now; what is in flight is not left over.
        let _lock = IndexLock::take(layout)?;
        for dir in [layout.containers(), layout.volumes()] {
            for name in index::entries(&dir)?.into_iter().filter(leftover) {
                let path = dir.join(&name);
                let held = claim(&path);
                if matches!(&held, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                    // Its clean-up is at it.
                    continue;
                }
                if let Err(error) = self.remove_tree(&path) {
                    crate::warn!("left over from an interrupted removal: {error}");
                }
            }
        }
        Ok(())
    }

    /// Once a boot: containers with `--rm` that the reboot ended are removed, and those whose record never reached the disk.
    fn sweep_after_boot(&self) -> Result<(), EngineError> {
        let layout = self.layout();
        let mark = layout.run().join("swept");
        if mark.exists() {
            return Ok(());
        }
        // Who comes second waits for the first, and finds it done.
        let _one = Lock::take(&layout.run().join("sweeping"), Mode::Exclusive, SWEEP)?;
        if mark.exists() {
            return Ok(());
        }
        for id in index::ids(layout)? {
            match index::load(layout, &id) {
                Ok(Some(record)) if record.spec.auto_remove => {
                    let view = view::look(layout, record)?;
                    if matches!(view.status, Status::Dead | Status::Exited) {
                        self.kill_leftover(&view)?;
                        self.discard(&view, true)?;
                    }
                }
                Ok(None) => self.remove_nameless(&id)?,
                Err(DiskError::Damaged { .. }) if is_empty(&layout.container_record(&id)) => {
                    self.remove_nameless(&id)?
                }
                _ => {}
            }
        }
        fs::write(&mark, "").map_err(EngineError::io("write", &mark))
    }

    /// Removes a folder that never became a container: nothing of a container with `--rm` is forced to the disk.
    fn remove_nameless(&self, id: &ContainerId) -> Result<(), EngineError> {
        let gone = removing(self.layout(), id);
        let from = self.layout().container(id);
        fs::rename(&from, &gone).map_err(EngineError::io("remove", &from))?;
        self.remove_tree(&gone)
    }
}

fn is_empty(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.len() == 0)
}

/// What a monitor becomes when a container with `--rm` has ended: removes it. Runs in the store's user namespace, where it
/// owns everything in a container; opens neither images nor settings. `gone` is called as soon as the container is no more
/// and only its files are left, which the next sweep removes if nobody does before.
pub fn cleanup(layout: &Layout, id: &ContainerId, gone: &dyn Fn()) -> Result<(), EngineError> {
    match index::load(layout, id)? {
        // The monitor that calls is this process itself, so that the container may still look live.
        Some(record) if record.spec.auto_remove => {
            let trees = |path: &Path| {
                gone();
                let _held = claim(path);
                let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                    return Ok(());
                };
                let dir = fs::File::open(parent).map_err(EngineError::io("open", parent))?;
                tree::remove(&dir, name.as_bytes()).map_err(EngineError::io("remove", path))
            };
            discard(layout, &view::look(layout, record)?, true, &trees)
        }
        _ => Ok(()),
    }
}

/// Says that this process removes a folder, for as long as the result is there; `WouldBlock` where another one does.
pub(super) fn claim(path: &Path) -> io::Result<fs::File> {
    let dir = fs::File::open(path)?;
    dir.try_lock()?;
    Ok(dir)
}

type RemoveTree<'a> = &'a dyn Fn(&Path) -> Result<(), EngineError>;

fn removing(layout: &Layout, id: &ContainerId) -> PathBuf {
    layout.containers().join(format!(".{}{REMOVING}", id.hex()))
}

fn discard(layout: &Layout, view: &ContainerView, volumes: bool, trees: RemoveTree) -> Result<(), EngineError> {
    let record = &view.record;
    let gone = removing(layout, &record.id);
    {
        let lock = IndexLock::take(layout)?;
        match fs::rename(layout.container(&record.id), &gone) {
            Ok(()) => {}
            // Somebody else removed it in the meantime.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(DiskError::io("remove", &gone)(error).into()),
        }
        if !record.spec.auto_remove {
            durable::sync_parent(&gone)?;
        }
        index::unlink_name(layout, &lock, &record.name)?;
    }
    let line = events::Line {
        at: super::now(),
        kind: "container",
        what: "remove",
        id: &record.id.hex(),
        name: &record.name,
        image: &record.image_name,
        code: None,
    };
    // Where there is no file, nobody reads it.
    let _ = events::append(&layout.events(), &line);
    remove_run_dir(&layout.monitor(&record.id));
    trees(&gone)?;
    if volumes {
        remove_unnamed(layout, record, trees)?;
    }
    Ok(())
}

/// Removes what a container left in the run-time directory. A monitor that is just leaving may still write its last state there.
fn remove_run_dir(dir: &Path) {
    for _ in 0..RUN_DIR_TRIES {
        match fs::remove_dir_all(dir) {
            Ok(()) => return,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => std::thread::sleep(RUN_DIR_PAUSE),
            Err(error) => return crate::debug!("remove `{}`: {error}", dir.display()),
        }
    }
    crate::debug!("remove `{}`: it is being written to", dir.display());
}

/// Whether a container that is there has it mounted too.
fn is_shared(layout: &Layout, source: &MountSource) -> Result<bool, EngineError> {
    let all = index::all(layout)?;
    Ok(all
        .iter()
        .flat_map(|other| &other.spec.mounts)
        .any(|mount| mount.source == *source))
}

fn remove_unnamed(layout: &Layout, record: &ContainerRecord, trees: RemoveTree) -> Result<(), EngineError> {
    for mount in &record.spec.mounts {
        if let MountSource::Volume(name) = &mount.source
            && volume::load(layout, name)?.is_some_and(|volume| volume.unnamed)
            && !is_shared(layout, &mount.source)?
            && let Some(gone) = volume::take_away(layout, name)?
        {
            trees(&gone)?;
        }
    }
    Ok(())
}

/// Removes a tree with the powers of this process alone. Links are not followed; what overlayfs closed (mode 0) is opened.
fn remove_own(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return fs::remove_file(path);
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
        other => return other,
    }
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
            fs::read_dir(path)?
        }
        other => other?,
    };
    for entry in entries {
        remove_own(&entry?.path())?;
    }
    fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn own_trees_go_without_following_links() {
        let root = std::env::temp_dir().join(format!("dunlin-remove-{}", std::process::id()));
        fs::create_dir_all(root.join("tree/a/b")).unwrap();
        fs::create_dir_all(root.join("kept")).unwrap();
        fs::write(root.join("kept/file"), "x").unwrap();
        fs::write(root.join("tree/a/b/file"), "x").unwrap();
        std::os::unix::fs::symlink(root.join("kept"), root.join("tree/link")).unwrap();
        fs::set_permissions(root.join("tree/a/b"), fs::Permissions::from_mode(0o0)).unwrap();
        remove_own(&root.join("tree")).unwrap();
        assert!(!root.join("tree").exists() && root.join("kept/file").exists());
        assert_eq!(
            remove_own(&root.join("tree")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        fs::remove_dir_all(&root).unwrap();
    }
}

//! Removal: a container stops existing with one rename; its files go after that, and what an interruption leaves is
//! swept up later.

use super::index::{self, IndexLock};
use super::view::{self, ContainerView};
use super::{Engine, EngineError, volume};
use crate::disk::{DiskError, durable};
use crate::types::container::{ContainerRecord, MountSource, Status};
use crate::types::ids::ContainerId;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Suffix of a folder whose removal has begun.
const REMOVING: &str = ".removing";
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

    /// What a monitor's clean-up does for `--rm`: removes a container that has ended.
    pub fn cleanup(&self, id: &ContainerId) -> Result<(), EngineError> {
        match index::load(self.layout(), id)? {
            // The monitor that calls is this process itself, so that the container still looks live.
            Some(record) if record.spec.auto_remove => self.discard(&view::look(self.layout(), record)?, true),
            _ => Ok(()),
        }
    }

    fn discard(&self, view: &ContainerView, volumes: bool) -> Result<(), EngineError> {
        let layout = self.layout();
        let record = &view.record;
        let gone = layout.containers().join(format!(".{}{REMOVING}", record.id.hex()));
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
        self.remove_run_dir(&record.id);
        self.remove_cgroup(&record.id);
        self.remove_tree(&gone)?;
        if volumes {
            self.remove_unnamed(record)?;
        }
        Ok(())
    }

    fn remove_unnamed(&self, record: &ContainerRecord) -> Result<(), EngineError> {
        for mount in &record.spec.mounts {
            if let MountSource::Volume(name) = &mount.source
                && volume::load(self.layout(), name)?.is_some_and(|volume| volume.unnamed)
                && let Some(gone) = volume::take_away(self.layout(), name)?
            {
                self.remove_tree(&gone)?;
            }
        }
        Ok(())
    }

    pub(super) fn remove_run_dir(&self, id: &ContainerId) {
        let dir = self.layout().monitor(id);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                crate::debug!("remove `{}`: {error}", dir.display())
            }
            _ => {}
        }
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
        if !any(&layout.containers())? && !any(&layout.volumes())? {
            return Ok(());
        }
        // Whoever holds the lock makes or removes something right now; what is in flight is not left over.
        let _lock = IndexLock::take(layout)?;
        for dir in [layout.containers(), layout.volumes()] {
            for name in index::entries(&dir)?.into_iter().filter(leftover) {
                if let Err(error) = self.remove_tree(&dir.join(&name)) {
                    crate::warn!("left over from an interrupted removal: {error}");
                }
            }
        }
        Ok(())
    }

    /// At the first command after a boot: containers with `--rm` that the reboot ended are removed.
    pub fn sweep_ended(&self) -> Result<(), EngineError> {
        for record in index::all(self.layout())? {
            if record.spec.auto_remove {
                let view = view::look(self.layout(), record)?;
                if view.status == Status::Dead || view.status == Status::Exited {
                    self.kill_leftover(&view)?;
                    self.discard(&view, true)?;
                }
            }
        }
        Ok(())
    }
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
        fs::set_permissions(root.join("tree/a/b"), fs::Permissions::from_mode(0o000)).unwrap();
        remove_own(&root.join("tree")).unwrap();
        assert!(!root.join("tree").exists() && root.join("kept/file").exists());
        assert_eq!(
            remove_own(&root.join("tree")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        fs::remove_dir_all(&root).unwrap();
    }
}

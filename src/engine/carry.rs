//! Files into containers and out of them, whether they run or not.

use super::view::{self, ContainerView};
use super::{Engine, EngineError, index, volume};
use crate::disk::durable;
use crate::disk::lock::{Lock, Mode};
use crate::image::carry::{Carry, Found, View, What};
use crate::image::worker::{Job, Reply, Worker, WorkerError};
use crate::runtime::user;
use crate::sys::fs as sys;
use crate::sys::path;
use crate::types::container::MountSource;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// How long somebody may be starting a container that files are carried into.
const PATIENCE: Duration = Duration::from_secs(60);

/// A root that a path is in, and the path there.
struct Place {
    view: View,
    folders: Vec<OwnedFd>,
    path: PathBuf,
    /// As long as files are carried, nobody starts it.
    _held: Option<Lock>,
}

impl Engine {
    /// What is at a path of a container; links are followed as the container would.
    pub fn found_in(&self, view: &ContainerView, path: &Path) -> Result<Found, EngineError> {
        match self.carry(view, &self.place(view, path, false)?, What::Look, None)? {
            Reply::Found(found) => Ok(found),
            _ => Err(self.carry_failed(view, path)(WorkerError::unexpected())),
        }
    }

    /// Writes an archive of what is at a path under a name, or of what is in the directory there, into a pipe.
    pub fn carry_out(
        &self,
        view: &ContainerView,
        path: &Path,
        name: Option<&[u8]>,
        pipe: impl Into<OwnedFd>,
    ) -> Result<(), EngineError> {
        let what = What::Out(name.map(<[u8]>::to_vec));
        self.carry(view, &self.place(view, path, false)?, what, Some(pipe.into()))
            .map(drop)
    }

    /// Takes an archive from a pipe into a directory of a container; everything becomes the container's user's.
    pub fn carry_in(&self, view: &ContainerView, path: &Path, pipe: impl Into<OwnedFd>) -> Result<(), EngineError> {
        let (uid, gid) = self.user_of(view)?;
        let what = What::In { uid, gid };
        self.carry(view, &self.place(view, path, true)?, what, Some(pipe.into()))
            .map(drop)
    }

    /// Writes an archive of a container's own files into a pipe: without what is mounted in it.
    pub fn export(&self, view: &ContainerView, pipe: impl Into<OwnedFd>) -> Result<(), EngineError> {
        let (view_of, folders) = self.own_root(view, false)?;
        let place = Place {
            view: view_of,
            folders,
            path: PathBuf::from("/"),
            _held: None,
        };
        self.carry(view, &place, What::Out(None), Some(pipe.into())).map(drop)
    }

    fn carry(
        &self,
        view: &ContainerView,
        place: &Place,
        what: What,
        pipe: Option<OwnedFd>,
    ) -> Result<Reply, EngineError> {
        let failed = || self.carry_failed(view, &place.path);
        let job = Job::Carry(Carry {
            view: place.view.clone(),
            path: place.path.as_os_str().as_bytes().to_vec(),
            what,
        });
        let mut fds: Vec<BorrowedFd<'_>> = place.folders.iter().map(|folder| folder.as_fd()).collect();
        fds.extend(pipe.as_ref().map(|pipe| pipe.as_fd()));
        let mut worker = Worker::start(&self.workers()?, job, &fds).map_err(failed())?;
        drop(fds);
        drop(pipe);
        // A worker whose pipe stalls gives up by itself.
        worker.reply_while(&|| true).map_err(failed())
    }

    fn carry_failed(&self, view: &ContainerView, path: &Path) -> impl FnOnce(WorkerError) -> EngineError {
        let path = PathBuf::from(format!("{}:{}", view.record.name, path.display()));
        move |source| EngineError::Worker {
            path,
            source: Box::new(source),
        }
    }

    /// The root that a path is in: the container's as it sees it, or a volume, a bind or its own files where it does not run.
    fn place(&self, view: &ContainerView, path: &Path, write: bool) -> Result<Place, EngineError> {
        let path = clean(path);
        if let Some(root) = self.running_root(view)? {
            return Ok(Place {
                view: View::Directory,
                folders: vec![root],
                path,
                _held: None,
            });
        }
        let held = if write { Some(self.hold_stopped(view)?) } else { None };
        for mount in by_depth(view) {
            let Ok(rest) = path.strip_prefix(&mount.target) else {
                continue;
            };
            let source = match &mount.source {
                MountSource::Bind(source) => PathBuf::from(source),
                MountSource::Volume(name) => volume::data(self.layout(), name),
                MountSource::Tmpfs => continue,
            };
            if write && mount.read_only {
                let reason = "the folder is mounted read-only in it";
                return Err(EngineError::State {
                    name: view.record.name.clone(),
                    status: view.status,
                    reason,
                });
            }
            let (dir, rest) = match (source.is_dir(), source.parent(), source.file_name()) {
                (false, Some(parent), Some(name)) => (parent.to_owned(), PathBuf::from(name)),
                _ => (source.clone(), Path::new("/").join(rest)),
            };
            return Ok(Place {
                view: View::Directory,
                folders: vec![sys::name_dir(&dir).map_err(EngineError::io("open", &dir))?],
                path: rest,
                _held: held,
            });
        }
        let (view_of, folders) = self.own_root(view, write)?;
        Ok(Place {
            view: view_of,
            folders,
            path,
            _held: held,
        })
    }

    /// The root of a container that runs, with all that is mounted there.
    fn running_root(&self, view: &ContainerView) -> Result<Option<OwnedFd>, EngineError> {
        let (true, Some(pid)) = (view.status.is_live(), view.pid) else {
            return Ok(None);
        };
        let link = PathBuf::from(format!("/proc/{pid}/root"));
        let root = match path::open_root(&link) {
            Ok(root) => root,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(EngineError::io("open", &link)(error)),
        };
        // The number may have become another process's before the root was opened.
        let now = index::load(self.layout(), &view.record.id)?.map(|record| view::look(self.layout(), record));
        let same = now
            .transpose()?
            .is_some_and(|now| now.pid == Some(pid) && now.started == view.started);
        Ok(same.then_some(root))
    }

    /// Nobody starts a container while it is written to from outside.
    fn hold_stopped(&self, view: &ContainerView) -> Result<Lock, EngineError> {
        let run_dir = self.layout().monitor(&view.record.id);
        durable::create_dirs(&run_dir)?;
        self.own(&run_dir)?;
        let held = Lock::take(&run_dir.join("start"), Mode::Exclusive, PATIENCE)?;
        let now = self.inspect(&view.record.id.hex())?;
        if now.status.is_live() {
            let reason = "it was started meanwhile; try again";
            return Err(EngineError::State {
                name: now.record.name,
                status: now.status,
                reason,
            });
        }
        Ok(held)
    }

    /// The container's own files: layers and what it changed of them.
    fn own_root(&self, view: &ContainerView, write: bool) -> Result<(View, Vec<OwnedFd>), EngineError> {
        let open = |dir: &Path| sys::name_dir(dir).map_err(EngineError::io("open", dir));
        let flat = self.layout().container(&view.record.id).join("flat");
        if flat.exists() {
            return Ok((View::Directory, vec![open(&flat)?]));
        }
        let (image, upper) = self.upper(view)?;
        let place = self.layout().run().join("view");
        durable::create_dirs(&place)?;
        self.own(&place)?;
        let folder = self.layout().container(&view.record.id);
        let overlay = View::Overlay {
            place,
            lowers: self.store().lowers(&image)?,
            upper,
            work: write.then(|| folder.join("work")),
        };
        Ok((overlay, Vec::new()))
    }

    /// Ids of the user that a container runs as.
    fn user_of(&self, view: &ContainerView) -> Result<(u32, u32), EngineError> {
        let text = &view.record.spec.user;
        let mut roots = Vec::new();
        if let Some(root) = self.running_root(view)? {
            roots.push(root);
        } else {
            let folder = self.layout().container(&view.record.id);
            let mut dirs = vec![folder.join("flat"), folder.join("upper")];
            if let Some(image) = self.image_by_id(&view.record.image)? {
                dirs.extend(self.store().lowers(&image)?);
            }
            let knows = |dir: &PathBuf| fs::symlink_metadata(dir.join("etc/passwd")).is_ok();
            if let Some(dir) = dirs.iter().find(|dir| knows(dir)).or(dirs.last()) {
                roots.push(path::open_root(dir).map_err(EngineError::io("open", dir))?);
            }
        }
        let Some(root) = roots.first() else { return Ok((0, 0)) };
        let found = user::look_up(root.as_fd(), text).map_err(|error| EngineError::Bundle {
            name: view.record.name.clone(),
            reason: error.to_string(),
        })?;
        Ok((found.uid, found.gid))
    }
}

/// The mounts of a container, those furthest down first.
fn by_depth(view: &ContainerView) -> Vec<&crate::types::container::Mount> {
    let mut mounts: Vec<_> = view.record.spec.mounts.iter().collect();
    mounts.sort_by_key(|mount| std::cmp::Reverse(Path::new(&mount.target).components().count()));
    mounts
}

/// An absolute path without `.` and `..`; what is said relative is so to `/`.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_by_their_text() {
        for (path, want) in [
            ("/a/b", "/a/b"),
            ("a/./b/", "/a/b"),
            ("/a/../../b", "/b"),
            ("", "/"),
            ("..", "/"),
        ] {
            assert_eq!(clean(Path::new(path)), Path::new(want), "{path}");
        }
    }
}

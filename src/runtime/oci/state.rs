//! What is kept about a container, and in which state it is.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::OciError;
use crate::disk::durable;
use crate::runtime::cgroup::Handle;
use crate::runtime::hooks::HookState;
use crate::sys::{errno, process};
use crate::types::bounds::BUNDLE_BYTES;
use crate::types::oci::runtime::Spec;
use crate::types::read;

/// Longest name of a container, in bytes.
const ID_BYTES: usize = 1024;

/// `state.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Version of the specification that the bundle is written to.
    pub oci_version: String,
    /// The container's name.
    pub id: String,
    /// Its first process, in the pid namespace of who made it.
    pub pid: i32,
    /// When that was started, in clock ticks since boot.
    pub start_time: u64,
    /// The bundle, absolute.
    pub bundle: PathBuf,
    /// The root file system, absolute.
    pub rootfs: PathBuf,
    /// RFC 3339 with nanoseconds.
    pub created: String,
    /// User id of who made it.
    pub owner: u32,
    /// The bundle's.
    pub annotations: Option<BTreeMap<String, String>>,
    /// Its control group.
    pub group: Option<Handle>,
    /// Fields of the bundle that are not carried out, since the caller may not have them.
    pub left_out: Vec<String>,
}

/// runtime.md, "State"; `Paused` is every runtime's addition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It waits to be started.
    Created,
    /// Its program runs.
    Running,
    /// Its tasks are stopped.
    Paused,
    /// Its first process has ended.
    Stopped,
}

impl Status {
    /// The specification's word.
    pub const fn name(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// The directory that holds containers.
#[derive(Debug, Clone)]
pub struct Root(PathBuf);

impl Root {
    /// The containers below `dir`, which is made when the first one is.
    pub fn new(dir: PathBuf) -> Self {
        Root(dir)
    }

    /// The directory of a container.
    pub fn dir(&self, id: &str) -> Result<PathBuf, OciError> {
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
        if id.is_empty() || id.len() > ID_BYTES || id == "." || id == ".." || !id.chars().all(known) {
            return Err(OciError::Id(id.to_owned()));
        }
        Ok(self.0.join(id))
    }

    /// A container by its name.
    pub fn load(&self, id: &str) -> Result<Container, OciError> {
        Container::load(self.dir(id)?)
    }

    /// All containers, by name; those that are being made or removed meanwhile are not among them.
    pub fn list(&self) -> Result<Vec<Container>, OciError> {
        let entries = match fs::read_dir(&self.0) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            done => done.map_err(OciError::io("read", &self.0))?,
        };
        let mut all = Vec::new();
        for entry in entries {
            match Container::load(entry.map_err(OciError::io("read", &self.0))?.path()) {
                Err(OciError::Missing) => {}
                done => all.push(done?),
            }
        }
        all.sort_by(|a, b| a.state.id.cmp(&b.state.id));
        Ok(all)
    }

    /// What is left of a container that was never finished or not wholly removed.
    pub fn sweep(&self, id: &str) -> Result<(), OciError> {
        let dir = self.dir(id)?;
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(OciError::io("remove", &dir)(e)),
            _ => Ok(()),
        }
    }
}

/// A container that exists.
#[derive(Debug, Clone)]
pub struct Container {
    /// What is kept about it.
    pub state: State,
    pub(super) dir: PathBuf,
    pub(super) spec: OnceCell<Spec>,
}

impl Container {
    fn load(dir: PathBuf) -> Result<Self, OciError> {
        let path = dir.join("state.json");
        let text = match durable::read(&path, BUNDLE_BYTES) {
            Err(error) if error.is_missing() => return Err(OciError::Missing),
            done => done?,
        };
        let state = read::json(&text).map_err(|error| OciError::Document {
            path,
            problem: error.to_string(),
        })?;
        Ok(Container {
            state,
            dir,
            spec: OnceCell::new(),
        })
    }

    pub(super) fn save(&self) -> Result<(), OciError> {
        // Plain texts and numbers always become JSON.
        let text = serde_json::to_vec(&self.state).unwrap_or_default();
        Ok(durable::write_volatile(&self.dir.join("state.json"), &text)?)
    }

    /// The bundle's `config.json`, as it was when the container was made.
    pub fn spec(&self) -> Result<&Spec, OciError> {
        if let Some(spec) = self.spec.get() {
            return Ok(spec);
        }
        let (spec, _) = document(&self.dir.join("config.json"))?;
        Ok(self.spec.get_or_init(|| spec))
    }

    /// The socket that it waits at until it is started.
    pub(super) fn start_socket(&self) -> PathBuf {
        self.dir.join(START)
    }

    /// In which state it is now.
    pub fn status(&self) -> Status {
        if !process::lives(self.state.pid, self.state.start_time) {
            Status::Stopped
        } else if self.start_socket().exists() {
            Status::Created
        } else if self.state.group.as_ref().is_some_and(Handle::is_frozen) {
            Status::Paused
        } else {
            Status::Running
        }
    }

    /// Its first process, if that has not ended. The result is that process and no later one with its number.
    pub(super) fn pidfd(&self) -> Option<OwnedFd> {
        let pidfd = process::pidfd_open(self.state.pid).ok()?;
        process::lives(self.state.pid, self.state.start_time).then_some(pidfd)
    }

    pub(super) fn hook_state(&self, status: &'static str) -> HookState {
        let state = &self.state;
        HookState {
            oci_version: state.oci_version.clone(),
            id: state.id.clone(),
            status,
            pid: (status != "stopped").then_some(state.pid),
            bundle: state.bundle.clone(),
            annotations: state.annotations.clone(),
        }
    }
}

/// Name of the socket of [`Container::start_socket`].
pub(super) const START: &str = "start";

/// A `config.json`: what it says, and its text.
pub(super) fn document(path: &Path) -> Result<(Spec, Vec<u8>), OciError> {
    let text = match durable::read(path, BUNDLE_BYTES) {
        Err(error) if error.is_missing() => {
            return Err(OciError::io("open", path)(std::io::Error::from_raw_os_error(
                errno::ENOENT,
            )));
        }
        done => done?,
    };
    let spec = read::json(&text).map_err(|error| OciError::Document {
        path: path.to_owned(),
        problem: error.to_string(),
    })?;
    Ok((spec, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_lead_elsewhere() {
        let root = Root::new("/r".into());
        for id in ["", ".", "..", "a/b", "a b", "ä", &"x".repeat(1025)] {
            assert!(root.dir(id).is_err(), "{id}");
        }
        for id in ["a", "Ab_0+-.x", "..."] {
            assert_eq!(root.dir(id).expect(id), Path::new("/r").join(id));
        }
    }
}

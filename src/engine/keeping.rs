//! The engine's dealings with the keeper: who it is, what it can enforce, workers in the store's user namespace.

use super::{Engine, EngineError, unshare};
use crate::image::worker::{self, Workers};
use crate::keeper::start::Starter;
use crate::keeper::{self, Info, Keeper};
use crate::runtime::cgroup::Tree;
use crate::types::ids::ContainerId;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::Child;
use std::sync::{Mutex, OnceLock, PoisonError};

/// What the engine knows about its keeper.
#[derive(Default)]
pub(super) struct Keeping {
    /// How to start one, from a caller that was root; used once.
    starter: Mutex<Option<Starter>>,
    /// What the keeper said about itself.
    info: OnceLock<Info>,
}

impl Keeping {
    pub(super) fn new(starter: Option<Starter>) -> Keeping {
        Keeping {
            starter: Mutex::new(starter),
            info: OnceLock::new(),
        }
    }
}

impl Engine {
    /// A connection to the store's keeper, which is started where none runs.
    pub fn keeper(&self) -> Result<Keeper, EngineError> {
        if unshare::session().is_some() {
            return keeper::connect(self.layout()).map_err(unshare::only_connects);
        }
        let mut starter = self.keeping().starter.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(keeper::connect_or_start(self.layout(), starter.take())?)
    }

    /// What the keeper says about itself; one is started where none runs.
    pub fn keeper_info(&self) -> Result<&Info, EngineError> {
        if let Some(info) = self.keeping().info.get() {
            return Ok(info);
        }
        let info = self.keeper()?.info().clone();
        Ok(self.keeping().info.get_or_init(|| info))
    }

    /// The store's control groups, if a keeper runs; none is started to ask.
    pub(super) fn cgroup_tree(&self) -> Option<Tree> {
        match self.keeping().info.get() {
            Some(info) => Some(info.cgroup.clone()),
            None => keeper::connect(self.layout())
                .ok()
                .map(|keeper| keeper.info().cgroup.clone()),
        }
    }

    /// Gives a new file of the store to the containers' root, which is the store's owner but where that is the host's root.
    pub(super) fn own(&self, path: &Path) -> Result<(), EngineError> {
        let Some((uid, gid)) = self.tree_owner else {
            return Ok(());
        };
        std::os::unix::fs::lchown(path, Some(uid), Some(gid)).map_err(EngineError::io("change the owner of", path))
    }

    /// Kills and removes what is left of a container's control group.
    pub(super) fn remove_cgroup(&self, id: &ContainerId) {
        let Some(tree) = self.cgroup_tree() else { return };
        let group = tree.container(id);
        let is_gone = || group.dirs().iter().all(|dir| !dir.exists());
        if is_gone() {
            return;
        }
        // Its monitor may remove it in this moment.
        if let Err(error) = group.kill().and_then(|_| group.remove())
            && !is_gone()
        {
            crate::warn!("container {}: {error}", id.short());
        }
    }

    /// Workers in the store's user namespace.
    pub fn workers(&self) -> Result<KeeperWorkers, EngineError> {
        Ok(KeeperWorkers {
            keeper: Mutex::new(self.keeper()?),
        })
    }

    pub(super) fn remove_by_worker(&self, path: &Path) -> Result<(), EngineError> {
        let failed = |source| EngineError::Worker {
            path: path.to_owned(),
            source: Box::new(source),
        };
        worker::remove_tree(&self.workers()?, path).map_err(failed)
    }
}

/// Workers that the keeper starts.
pub struct KeeperWorkers {
    keeper: Mutex<Keeper>,
}

impl Workers for KeeperWorkers {
    fn start(&self, control: OwnedFd) -> io::Result<Option<Child>> {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        keeper.start_worker(control.as_fd()).map_err(io::Error::other)?;
        Ok(None)
    }
}

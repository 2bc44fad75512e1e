//! The engine's dealings with the keeper: who it is, what it can enforce, workers in the store's user namespace.

use super::{Engine, EngineError};
use crate::image::worker::{self, Job, Order, Reply, WorkerError};
use crate::keeper::start::Starter;
use crate::keeper::{self, Info, Keeper, KeeperError};
use crate::runtime::cgroup::Tree;
use crate::sys::{creds, path, socket};
use crate::types::bounds::PACKET_BYTES;
use crate::types::ids::ContainerId;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// How long the removal or the copy of one tree may take.
const TREE_PATIENCE: Duration = Duration::from_secs(600);

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
        Keeping { starter: Mutex::new(starter), info: OnceLock::new() }
    }
}

impl Engine {
    /// A connection to the store's keeper, which is started where none runs.
    pub fn keeper(&self) -> Result<Keeper, EngineError> {
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
            None => keeper::connect(self.layout()).ok().map(|keeper| keeper.info().cgroup.clone()),
        }
    }

    /// Gives a new file of the store to the containers' root, which is the store's owner but where that is the host's root.
    pub(super) fn own(&self, path: &Path) -> Result<(), EngineError> {
        let (uid, _) = creds::effective_ids();
        if uid != 0 {
            return Ok(());
        }
        let ids = &self.keeper_info()?.ids;
        std::os::unix::fs::chown(path, Some(ids.uid), Some(ids.gid)).map_err(EngineError::io("change the owner of", path))
    }

    /// Kills and removes what is left of a container's control group.
    pub(super) fn remove_cgroup(&self, id: &ContainerId) {
        let Some(tree) = self.cgroup_tree() else { return };
        let group = tree.container(id);
        if group.dirs().iter().all(|dir| !dir.exists()) {
            return;
        }
        if let Err(error) = group.kill().and_then(|_| group.remove()) {
            crate::warn!("container {}: {error}", id.short());
        }
    }

    pub(super) fn remove_by_worker(&self, path: &Path) -> Result<(), EngineError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        let dir = path::open_root(parent).map_err(EngineError::io("open", parent))?;
        let job = Job::Remove { name: name.as_bytes().to_vec() };
        self.work(job, &[dir.as_fd()], path).map(drop)
    }

    /// Lets a worker do a job and waits for its end; `object` is for errors.
    pub(super) fn work(&self, job: Job, fds: &[BorrowedFd<'_>], object: &Path) -> Result<Reply, EngineError> {
        let failed = |source: WorkerError| EngineError::Worker { path: object.to_owned(), source };
        let (ours, theirs) = socket::pair().map_err(EngineError::io("make a socket for", object))?;
        let mut keeper = self.keeper()?;
        let pid = keeper.start_worker(theirs.as_fd())?;
        drop(theirs);
        let order = Order { version: worker::VERSION, job };
        worker::send(ours.as_fd(), &order, fds).map_err(EngineError::io("send an order for", object))?;
        if !socket::wait_readable(ours.as_fd(), TREE_PATIENCE).map_err(EngineError::io("wait for", object))? {
            return Err(EngineError::Worker { path: object.to_owned(), source: died("it did not end in time") });
        }
        let mut buffer = vec![0; PACKET_BYTES];
        let got = socket::recv(ours.as_fd(), &mut buffer).map_err(EngineError::io("hear the end of", object))?;
        if got == 0 {
            let code = keeper.wait_worker(pid, Duration::from_secs(1));
            let why = code.map_or_else(|error| error.to_string(), |code| format!("exit code {code}"));
            return Err(failed(died(&why)));
        }
        match worker::decode(&buffer[..got]).map_err(failed)? {
            Reply::Failed(error) => Err(failed(error)),
            reply => Ok(reply),
        }
    }
}

fn died(why: &str) -> WorkerError {
    WorkerError::Died { why: why.to_owned() }
}

/// Whether an error only says that no keeper runs.
pub fn is_not_running(error: &EngineError) -> bool {
    matches!(error, EngineError::Keeper(KeeperError::NotRunning { .. }))
}

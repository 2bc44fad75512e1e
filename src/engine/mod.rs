//! Containers: what both the command line and the agent call. Everything here blocks, with time-outs.

pub mod capability;
pub mod carry;
mod change;
pub mod check;
pub mod commit;
pub mod control;
pub mod copy;
pub mod create;
pub mod diff;
pub mod doctor;
pub mod error;
pub mod events;
pub mod filter;
pub mod handing;
pub mod images;
pub mod index;
pub mod keeping;
pub mod login;
pub mod logs;
pub mod mount;
pub mod names;
pub mod network;
pub mod options;
pub mod pod;
pub mod prune;
pub mod pull;
pub mod remote;
pub mod remove;
pub mod signal;
pub mod snapshot;
pub mod start;
pub mod transfer;
pub mod unshare;
pub mod update;
pub mod usage;
pub mod view;
pub mod volume;

pub use error::EngineError;

use crate::config::agent::{Logs, Settings};
use crate::config::board::Board;
use crate::config::subid::Files;
use crate::disk::layout::Layout;
use crate::keeper::start::Starter;
use crate::store::Store;
use crate::types::bounds::{LOG_FILE_BYTES_MEMORY, LOG_FILE_BYTES_MIN, LOG_FILES_MAX};
use crate::types::container::{ContainerRecord, LogLimits};
use crate::types::limits::Limits;
use crate::types::time::Unix;
use filter::Filter;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::time::SystemTime;
use view::ContainerView;

/// The containers of one store. Can be shared by threads.
pub struct Engine {
    layout: Layout,
    settings: Settings,
    board: Board,
    store: Store,
    /// Whom containers' trees belong to, where that is not the store's owner: root never owns them.
    tree_owner: Option<(u32, u32)>,
    keeping: keeping::Keeping,
}

/// Now, by the host's clock.
fn now() -> Unix {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Unix(since.as_millis() as u64)
}

/// For a store of root's: the ids that are root in its user namespace. What monitors change belongs to them; folders on
/// the way may be passed through, not listed, by others.
fn foreign_owner(layout: &Layout) -> Result<Option<(u32, u32)>, EngineError> {
    if unshare::caller() != 0 {
        return Ok(None);
    }
    let map = Files::default().store_map(0, 0)?;
    let run = layout.run();
    fs::set_permissions(run, fs::Permissions::from_mode(0o711)).map_err(EngineError::io("set the mode of", run))?;
    for dir in [layout.containers(), layout.names(), layout.volumes(), layout.monitors()] {
        let meta = fs::metadata(&dir).map_err(EngineError::io("look at", &dir))?;
        if meta.uid() != map.uid {
            chown(&dir, Some(map.uid), Some(map.gid)).map_err(EngineError::io("change the owner of", &dir))?;
        }
    }
    Ok(Some((map.uid, map.gid)))
}

impl Engine {
    /// Opens the containers of this store, making folders that are missing. No keeper is needed or started.
    pub fn open(layout: &Layout, settings: &Settings) -> Result<Engine, EngineError> {
        Engine::open_with(layout, settings, None)
    }

    /// The same for a caller that was root, with what it prepared for starting a keeper.
    pub fn open_with(layout: &Layout, settings: &Settings, starter: Option<Starter>) -> Result<Engine, EngineError> {
        let board = settings.board()?;
        index::prepare(layout)?;
        let mut store = Store::open(layout)?;
        let tree_owner = foreign_owner(layout)?;
        if let Some((uid, gid)) = tree_owner {
            store = store.with_tree_owner(uid, gid)?;
        }
        let keeping = keeping::Keeping::new(starter);
        Ok(Engine {
            layout: layout.clone(),
            settings: settings.clone(),
            board,
            store,
            tree_owner,
            keeping,
        })
    }

    /// Where everything is.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What is configured.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The board whose limits hold.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// The images.
    pub fn store(&self) -> &Store {
        &self.store
    }

    fn keeping(&self) -> &keeping::Keeping {
        &self.keeping
    }

    /// Limits of containers that say nothing.
    pub fn default_limits(&self) -> &Limits {
        &self.board.defaults
    }

    /// The largest limits that may be asked for.
    pub fn maximum_limits(&self) -> &Limits {
        &self.board.maximum
    }

    /// Whether the defaults were configured, so that they must be enforced.
    fn defaults_are_asked(&self) -> bool {
        self.settings.device.board.is_some()
    }

    /// Whether containers that are made from now on keep their logs in memory.
    fn logs_in_memory(&self) -> bool {
        match self.settings.containers.logs {
            Some(logs) => logs == Logs::Memory,
            None => self.board.storage.flash && self.settings.device.board.is_some(),
        }
    }

    fn log_limits(&self) -> LogLimits {
        let standard = LogLimits::default();
        let configured = &self.settings.containers;
        LogLimits {
            file_bytes: match configured.log_size {
                Some(size) => size.0.max(LOG_FILE_BYTES_MIN),
                None if self.logs_in_memory() => LOG_FILE_BYTES_MEMORY,
                None => standard.file_bytes,
            },
            files: configured
                .log_files
                .map_or(standard.files, |files| files.clamp(1, LOG_FILES_MAX)),
        }
    }

    /// A container by name, id or unambiguous beginning of its id, with its state.
    pub fn inspect(&self, typed: &str) -> Result<ContainerView, EngineError> {
        Ok(view::look(&self.layout, index::find(&self.layout, typed)?)?)
    }

    /// The container with exactly this name.
    pub fn named(&self, name: &str) -> Result<Option<ContainerRecord>, EngineError> {
        Ok(index::by_name(&self.layout, name)?)
    }

    /// The containers that fit, newest first.
    pub fn list(&self, filter: &Filter, now: Unix) -> Result<Vec<ContainerView>, EngineError> {
        let mut records = index::all(&self.layout)?;
        records.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        let mut references = std::collections::BTreeMap::new();
        for name in filter.references() {
            references.insert(name.clone(), index::find(&self.layout, name)?.created);
        }
        let created = |name: &str| references.get(name).copied();
        let mut views = Vec::with_capacity(records.len());
        for record in records {
            let view = view::look(&self.layout, record)?;
            if filter.fits(&view, now, &created) {
                views.push(view);
            }
        }
        Ok(views)
    }

    /// Gives a container another name.
    pub fn rename(&self, typed: &str, name: &str) -> Result<ContainerRecord, EngineError> {
        let renamed = index::rename(&self.layout, typed, name)?;
        self.own(&self.layout.container_record(&renamed.id))?;
        self.tell_of(&renamed, "rename");
        Ok(renamed)
    }
}

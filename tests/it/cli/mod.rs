//! The command line against the real thing: as an ordinary user with subordinate ids, as one without, and as root.

mod carrying;
mod check;
mod commit;
mod copy;
mod diff;
mod events;
mod flow;
mod guard;
mod images;
mod later;
mod listing;
mod logs;
mod machines;
mod ownership;
mod processes;
mod push;
mod registry;
mod space;
mod storage;
mod systemd;
mod technician;
mod terminal;
mod transcripts;
mod transfer;
mod trust;
mod unshare;
mod volumes;
mod waits;
mod web;

use crate::fixture::cmd::{self, Cmd};
use crate::fixture::images::{Format, Index};
use crate::fixture::scratch::Scratch;
use crate::fixture::site::Site;
use crate::fixture::user::User;
use std::path::PathBuf;

/// Somebody with a store of their own that holds a busybox image called `busybox`.
pub struct World {
    /// First, so that processes end before folders go.
    store: Store,
    /// Id of the image.
    pub image: String,
    _layout: Scratch,
    /// The network that its commands run in, where that is a test's own.
    site: Option<Site>,
}

enum Store {
    User(User),
    Root(Scratch),
}

/// Who has a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// An ordinary user with subordinate ids.
    Ranges,
    /// An ordinary user with one id.
    Single,
    /// Root, on a store of root's.
    Root,
}

pub const EVERYBODY: [Who; 3] = [Who::Ranges, Who::Single, Who::Root];

impl World {
    /// `Err` says why there can be no such user here.
    pub fn new(who: Who) -> Result<World, String> {
        World::with(who, Index::busybox(Format::Oci))
    }

    pub fn with(who: Who, index: Index) -> Result<World, String> {
        World::made(None, who, index)
    }

    /// In a network of its own.
    pub fn networked(who: Who, index: Index) -> Result<World, String> {
        World::made(Some(Site::new()?), who, index)
    }

    fn made(site: Option<Site>, who: Who, index: Index) -> Result<World, String> {
        let layout = Scratch::new("layout");
        index.write_layout(layout.path(), "latest");
        let store = match who {
            Who::Ranges => Store::User(User::with_ranges()?),
            Who::Single => Store::User(User::without_ranges()?),
            Who::Root => Store::Root(Scratch::new("root")),
        };
        let mut world = World {
            store,
            image: String::new(),
            _layout: layout,
            site,
        };
        world.image = world
            .cmd("pull -q")
            .arg(format!("oci:{}:latest", world._layout.path().display()))
            .ok();
        assert_eq!(world.image.len(), 64, "pull prints the id: {}", world.image);
        Ok(world)
    }

    /// dunlin with these words on this store.
    pub fn cmd(&self, words: &str) -> Cmd {
        let (data, run) = self.roots();
        let cmd = match (&self.site, self.user()) {
            (Some(site), user) => site.cmd(user, &cmd::dunlin()),
            (None, Some(user)) => user.dunlin(),
            (None, None) => Cmd::dunlin(),
        };
        cmd.arg("--root")
            .arg(data)
            .arg("--runroot")
            .arg(run)
            .args(words.split(' ').filter(|word| !word.is_empty()))
    }

    /// `run` with these options, the image, and this shell script.
    pub fn sh(&self, verb: &str, script: &str) -> Cmd {
        self.cmd(verb).arg(&self.image).args(["sh", "-c", script])
    }

    /// Data folder and run root.
    pub fn roots(&self) -> (PathBuf, PathBuf) {
        match &self.store {
            Store::User(user) => (user.data_home().join("dunlin"), user.runtime_dir().join("dunlin")),
            Store::Root(scratch) => (scratch.join("data"), scratch.join("run")),
        }
    }

    /// Its own network; panics where it has none.
    pub fn site(&self) -> &Site {
        self.site.as_ref().expect("a networked world")
    }

    pub fn user(&self) -> Option<&User> {
        match &self.store {
            Store::User(user) => Some(user),
            Store::Root(_) => None,
        }
    }

    /// A folder that its owner may write to.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = match &self.store {
            Store::User(user) => user.home().join(name),
            Store::Root(scratch) => scratch.join(name),
        };
        std::fs::create_dir_all(&path).expect("own folder");
        if let Some(user) = self.user() {
            user.give(&path);
        }
        path
    }

    /// One field of a container.
    pub fn field(&self, container: &str, template: &str) -> String {
        self.cmd("inspect --format").arg(template).arg(container).ok()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.cmd("rm -f -a -t 0").run();
        }
    }
}

/// Names in a folder; none where it is missing.
pub fn names(dir: &std::path::Path) -> Vec<String> {
    let read = std::fs::read_dir(dir).into_iter().flatten().flatten();
    read.map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with(".lock"))
        .collect()
}

//! One container's group: its limits, members, events and end.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{CgroupError, Controller, Stats, Tree, file, stats, v1, v2};
use crate::sys::process;
use crate::types::bounds::{CGROUP_DEPTH, CGROUP_FREEZE_MS, CGROUP_REMOVE_MS};
use crate::types::limits::{LimitKind, Limits, NotEnforced};

/// The group of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handle {
    tree: Tree,
    name: String,
}

impl Handle {
    pub(super) fn new(tree: Tree, name: String) -> Handle {
        Handle { tree, name }
    }

    /// Makes the group and sets its limits; returns the defaults that the host cannot enforce.
    ///
    /// A limit in `asked` that cannot be enforced is [`CgroupError::Limit`], and nothing is left behind. A group that is
    /// left over from an earlier run is replaced; [`CgroupError::Io`] if something still runs in it.
    pub fn create(&self, limits: &Limits, asked: &[LimitKind]) -> Result<Vec<NotEnforced>, CgroupError> {
        for dir in self.dirs() {
            match fs::remove_dir(&dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(CgroupError::Io {
                        action: "replace",
                        path: dir,
                        source: error,
                    });
                }
                _ => file::make_group(&dir)?,
            }
        }
        let applied = self.fill().and_then(|()| self.update(limits, asked));
        if applied.is_err() {
            for dir in self.dirs() {
                // The first error says more than a failed clean-up.
                let _ = fs::remove_dir(&dir);
            }
        }
        applied
    }

    /// Sets limits of a group that exists; limits that are not set stay as they are. Errors as of [`Handle::create`].
    pub fn update(&self, limits: &Limits, asked: &[LimitKind]) -> Result<Vec<NotEnforced>, CgroupError> {
        let mut missing = Vec::new();
        let mut give_up = |not: NotEnforced| {
            if asked.contains(&not.limit) {
                return Err(CgroupError::Limit(not));
            }
            missing.push(not);
            Ok(())
        };
        if let Some((limit, problem)) = limits.problems().into_iter().next() {
            let cause = format!("its value {problem}");
            return Err(CgroupError::Limit(NotEnforced {
                limit,
                cause,
                fix: "correct the value".to_owned(),
            }));
        }
        let gaps = super::check(limits, &self.tree);
        let enforceable = |limit: LimitKind| !gaps.iter().any(|gap| gap.limit == limit);
        for gap in &gaps {
            give_up(gap.clone())?;
        }
        match &self.tree {
            Tree::V2 { .. } => {
                for write in v2::writes(limits).into_iter().filter(|write| enforceable(write.limit)) {
                    self.set(Controller::of(write.limit), write.limit, write.file, &write.value)
                        .or_else(&mut give_up)?;
                }
                if enforceable(LimitKind::Io) {
                    for (device, rates) in &limits.io {
                        block_device(device)
                            .map(|numbers| v2::io_line(numbers, rates))
                            .and_then(|line| self.set(Controller::Io, LimitKind::Io, "io.max", &line))
                            .or_else(&mut give_up)?;
                    }
                }
            }
            Tree::V1 { .. } => {
                if limits.swap.is_some() && limits.memory.is_none() && enforceable(LimitKind::Swap) {
                    let cause = "control groups v1 limit the sum of memory and swap".to_owned();
                    give_up(NotEnforced {
                        limit: LimitKind::Swap,
                        cause,
                        fix: "set `memory` too".to_owned(),
                    })?;
                }
                for write in v1::writes(limits).into_iter().filter(|write| enforceable(write.limit)) {
                    self.set_v1(&write, limits).or_else(&mut give_up)?;
                }
            }
            Tree::None { .. } => {}
        }
        Ok(missing)
    }

    /// The group as a directory, for starting a process in it (v2). None on v1: use [`Handle::attach`].
    pub fn dir_fd(&self) -> Result<Option<OwnedFd>, CgroupError> {
        let Tree::V2 { root, .. } = &self.tree else {
            return Ok(None);
        };
        let path = root.join(&self.name);
        fs::File::open(&path)
            .map(|dir| Some(dir.into()))
            .map_err(|source| CgroupError::Io {
                action: "open",
                path,
                source,
            })
    }

    /// The group for a process that joins `pid`: this one, or, if its controllers are handed down and it can thus hold no
    /// processes (v2), the one below it that `pid` is in.
    pub fn joined_by(&self, pid: i32) -> Handle {
        let (Tree::V2 { root, .. }, Some(dir)) = (&self.tree, self.dirs().into_iter().next()) else {
            return self.clone();
        };
        if file::read(&dir.join("cgroup.subtree_control")).is_ok_and(|text| text.trim().is_empty()) {
            return self.clone();
        }
        let mut found = None;
        walk(&dir, CGROUP_DEPTH, &mut |group| {
            if found.is_none() && file::members(group).is_ok_and(|members| members.contains(&pid)) {
                found = group
                    .strip_prefix(root)
                    .ok()
                    .and_then(|path| path.to_str().map(str::to_owned));
            }
        });
        Handle::new(self.tree.clone(), found.unwrap_or_else(|| self.name.clone()))
    }

    /// A group below this one, which must be there; `path` is below it also where it is absolute.
    pub fn below(&self, path: &str) -> Result<Handle, CgroupError> {
        let plain: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        let name = [&[self.name.as_str()], plain.as_slice()].concat().join("/");
        let below = Handle::new(self.tree.clone(), name);
        if plain.contains(&"..") || !below.dirs().iter().all(|dir| dir.join("cgroup.procs").exists()) {
            return Err(CgroupError::Below { path: path.to_owned() });
        }
        Ok(below)
    }

    /// What a process with one thread enters the group by, if it is none of v2 ([`Handle::dir_fd`]): it writes `0` to each of
    /// these, also with other ids than the caller. Being moved by another process takes milliseconds instead: the kernel
    /// then waits until nobody anywhere can be forking (Linux 5.13).
    pub fn entries(&self) -> Result<Vec<fs::File>, CgroupError> {
        if matches!(self.tree, Tree::V2 { .. }) {
            return Ok(Vec::new());
        }
        let open = |dir: &PathBuf| {
            let path = dir.join("tasks");
            let opened = fs::OpenOptions::new().write(true).open(&path);
            opened.map_err(|source| CgroupError::Io {
                action: "open",
                path,
                source,
            })
        };
        self.dirs().iter().map(open).collect()
    }

    /// The processes in the group and below it. None without control groups.
    pub fn members(&self) -> Option<Vec<i32>> {
        let dir = self.dirs().into_iter().next()?;
        let mut all = Vec::new();
        walk(&dir, CGROUP_DEPTH, &mut |group| {
            all.extend(file::members(group).unwrap_or_default())
        });
        Some(all)
    }

    /// Kills everything in the group at once. False: there are no control groups, the caller must kill by other means.
    pub fn kill(&self) -> Result<bool, CgroupError> {
        let Some(dir) = self.dirs().into_iter().next() else {
            return Ok(false);
        };
        if !dir.exists() {
            return Ok(true);
        }
        let at_once = dir.join("cgroup.kill");
        if at_once.exists() {
            file::write(&at_once, "1")?;
            return Ok(true);
        }
        // Before Linux 5.14 and on v1: nothing can fork while it is frozen, and a frozen task takes the signal when thawed.
        let frozen = self.freeze(true).is_ok();
        for _ in 0..if frozen { 1 } else { KILL_ROUNDS } {
            let members = self.members().unwrap_or_default();
            if members.is_empty() {
                break;
            }
            for pid in members {
                // Already gone is as good.
                let _ = process::pidfd_open(pid).and_then(|fd| process::send_signal(fd.as_fd(), SIGKILL));
            }
        }
        if frozen {
            self.thaw()?;
        }
        Ok(true)
    }

    /// Sends `signal` to every process in the group. False: there are no control groups.
    pub fn signal(&self, signal: i32) -> bool {
        let Some(members) = self.members() else { return false };
        for pid in members {
            // A process that just ended needs no signal.
            let _ = process::pidfd_open(pid).and_then(|fd| process::send_signal(fd.as_fd(), signal));
        }
        true
    }

    /// Stops (`true`) or continues all tasks, and waits until it is done. Fails without a freezer.
    pub fn freeze(&self, stop: bool) -> Result<(), CgroupError> {
        if !stop {
            return self.thaw();
        }
        let (command, on, state, done) = self.freezer()?;
        file::write(&command, on)?;
        let deadline = Instant::now() + Duration::from_millis(CGROUP_FREEZE_MS);
        let mut pause = Duration::from_micros(200);
        loop {
            if file::read(&state).is_ok_and(|text| text.lines().any(|line| line == done)) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let _ = self.thaw();
                return Err(CgroupError::Freeze {
                    cause: format!("`{}` is not frozen after {CGROUP_FREEZE_MS} ms", self.name),
                    fix: "a task may hang in the kernel: look for state D in `ps`".to_owned(),
                });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// True if all tasks are stopped.
    pub fn is_frozen(&self) -> bool {
        self.freezer()
            .is_ok_and(|(_, _, state, done)| file::read(&state).is_ok_and(|text| text.lines().any(|line| line == done)))
    }

    /// Removes the group and those below it; waits for tasks that are just ending. One that is not there is fine.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + Duration::from_millis(CGROUP_REMOVE_MS);
        let mut pause = Duration::from_millis(1);
        for dir in self.dirs() {
            loop {
                // Most have no groups below them.
                if fs::remove_dir(&dir).is_ok() {
                    break;
                }
                let mut groups = Vec::new();
                walk(&dir, CGROUP_DEPTH, &mut |group| groups.push(group.to_owned()));
                let failed = groups.iter().rev().find_map(|group| match fs::remove_dir(group) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Some(error),
                    _ => None,
                });
                match failed {
                    None => break,
                    Some(error) if error.kind() != io::ErrorKind::ResourceBusy => {
                        return Err(CgroupError::Io {
                            action: "remove",
                            path: dir,
                            source: error,
                        });
                    }
                    Some(_) if Instant::now() >= deadline => {
                        return Err(CgroupError::Busy {
                            path: dir,
                            waited_ms: CGROUP_REMOVE_MS,
                        });
                    }
                    Some(_) => {}
                }
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// What it used.
    pub fn stats(&self) -> Stats {
        stats::read(&self.tree, &self.name)
    }

    /// The text of one of its control files.
    pub fn text(&self, controller: Controller, name: &str) -> Option<String> {
        file::read(&self.dir(controller)?.join(name)).ok()
    }

    /// How often the kernel killed in the group for want of memory. None where it is not counted.
    pub fn oom_kills(&self) -> Option<u64> {
        let dir = self.memory()?;
        let events = file::read(&dir.join("memory.events")).or_else(|_| file::read(&dir.join("memory.oom_control")));
        file::keyed(&events.ok()?, "oom_kill")
    }

    /// The file whose content changes with every out-of-memory event (v2); watch it with inotify.
    pub fn events_path(&self) -> Option<PathBuf> {
        match &self.tree {
            Tree::V2 { .. } => self.memory().map(|dir| dir.join("memory.events")),
            _ => None,
        }
    }

    /// Asks the kernel to count out-of-memory events into an eventfd (v1). False where v1 does not apply.
    pub fn notify_oom(&self, event: &impl AsFd) -> Result<bool, CgroupError> {
        let (Tree::V1 { .. }, Some(dir)) = (&self.tree, self.memory()) else {
            return Ok(false);
        };
        let path = dir.join("memory.oom_control");
        let control = fs::File::open(&path).map_err(|source| CgroupError::Io {
            action: "open",
            path,
            source,
        })?;
        let line = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
        file::write(&dir.join("cgroup.event_control"), &line)?;
        Ok(true)
    }

    /// The group's directories, each once: one on v2, one per hierarchy on v1.
    pub fn dirs(&self) -> Vec<PathBuf> {
        self.tree
            .roots()
            .into_iter()
            .map(|root| root.join(&self.name))
            .collect()
    }

    /// Its own name, the last part of its path.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where its groups are.
    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    pub(super) fn dir(&self, controller: Controller) -> Option<PathBuf> {
        match &self.tree {
            Tree::V2 { root, .. } => Some(root.join(&self.name)),
            Tree::V1 { roots, .. } => roots
                .iter()
                .find(|(have, _)| *have == controller)
                .map(|(_, root)| root.join(&self.name)),
            Tree::None { .. } => None,
        }
    }

    fn memory(&self) -> Option<PathBuf> {
        self.dir(Controller::Memory)
    }

    /// What a new group needs beside limits.
    fn fill(&self) -> Result<(), CgroupError> {
        match &self.tree {
            Tree::V2 { root, .. } => {
                // All or none: half a container is no container. Missing without the memory controller.
                let _ = file::put(&root.join(&self.name).join("memory.oom.group"), "1");
                Ok(())
            }
            Tree::V1 { .. } => self.dir(Controller::Cpuset).map_or(Ok(()), |dir| inherit_cpuset(&dir)),
            Tree::None { .. } => Ok(()),
        }
    }

    fn set(&self, controller: Controller, limit: LimitKind, name: &str, value: &str) -> Result<(), NotEnforced> {
        let Some(path) = self.dir(controller).map(|dir| dir.join(name)) else {
            return Ok(());
        };
        file::put(&path, value).map_err(|error| refused(limit, &path, value, &error))
    }

    /// A write of v1. When a limit of a running group rises, the sum of memory and swap must rise first.
    fn set_v1(&self, write: &v1::Write, limits: &Limits) -> Result<(), NotEnforced> {
        let first = self.set(write.controller, write.limit, write.file, &write.value);
        if first.is_ok() || write.limit != LimitKind::Memory {
            return first;
        }
        let sum = v1::writes(limits)
            .into_iter()
            .find(|other| other.limit == LimitKind::Swap);
        let raise = sum.map_or_else(|| "-1".to_owned(), |sum| sum.value);
        // The second try below tells whether this helped.
        let _ = self.set(write.controller, LimitKind::Swap, "memory.memsw.limit_in_bytes", &raise);
        self.set(write.controller, write.limit, write.file, &write.value)
    }

    fn thaw(&self) -> Result<(), CgroupError> {
        let (command, on, ..) = self.freezer()?;
        file::write(&command, if on == "1" { "0" } else { "THAWED" })
    }

    /// The file to write, the word that freezes, the file to read, the line that says it is done.
    fn freezer(&self) -> Result<(PathBuf, &'static str, PathBuf, &'static str), CgroupError> {
        if let Some(dir) = self.dir(Controller::Freezer) {
            return Ok(match self.tree {
                Tree::V2 { .. } => (dir.join("cgroup.freeze"), "1", dir.join("cgroup.events"), "frozen 1"),
                _ => (dir.join("freezer.state"), "FROZEN", dir.join("freezer.state"), "FROZEN"),
            });
        }
        let (cause, fix) = match &self.tree {
            Tree::None { why, fix } => (why.clone(), fix.clone()),
            _ => (
                "the freezer hierarchy is not mounted or not writable".to_owned(),
                "mount the `freezer` controller and start dunlin once as root".to_owned(),
            ),
        };
        Err(CgroupError::Freeze { cause, fix })
    }
}

const SIGKILL: i32 = 9;
/// How often members are killed where they cannot be frozen and may fork meanwhile.
const KILL_ROUNDS: usize = 32;

/// A new v1 cpuset is empty, and nothing may enter it: it gets what its parent has.
pub(super) fn inherit_cpuset(dir: &Path) -> Result<(), CgroupError> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let path = dir.join(name);
        if !file::read(&path).is_ok_and(|text| text.trim().is_empty()) {
            continue;
        }
        let above = dir
            .parent()
            .map(|parent| file::read(&parent.join(name)).unwrap_or_default());
        file::write(&path, above.unwrap_or_default().trim())?;
    }
    Ok(())
}

/// Calls `visit` with `group` and all groups below it, parents first.
fn walk(group: &Path, depth: usize, visit: &mut dyn FnMut(&Path)) {
    visit(group);
    if depth == 0 {
        return;
    }
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), depth - 1, visit);
        }
    }
}

fn refused(limit: LimitKind, path: &Path, value: &str, error: &io::Error) -> NotEnforced {
    let fix = match error.kind() {
        io::ErrorKind::NotFound => "use a kernel that has this file".to_owned(),
        io::ErrorKind::PermissionDenied => "give the group to the store's owner".to_owned(),
        io::ErrorKind::ResourceBusy => "the group uses more than that already: choose a higher value".to_owned(),
        _ => "correct the value".to_owned(),
    };
    NotEnforced {
        limit,
        cause: format!("writing `{value}` to `{}` failed: {error}", path.display()),
        fix,
    }
}

/// Major and minor number of `/dev/NAME` or `MAJOR:MINOR`; the whole disk of a partition, since only disks have rates.
fn block_device(name: &str) -> Result<(u32, u32), NotEnforced> {
    let not = |cause: String| NotEnforced {
        limit: LimitKind::Io,
        cause,
        fix: "name a block device of this host".to_owned(),
    };
    let parse = |text: &str| {
        text.trim()
            .split_once(':')
            .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)))
    };
    let numbers = match parse(name) {
        Some(numbers) => numbers,
        None => {
            let data = fs::metadata(name).map_err(|error| not(format!("`{name}`: {error}")))?;
            if !data.file_type().is_block_device() {
                return Err(not(format!("`{name}` is no block device")));
            }
            split_device(data.rdev())
        }
    };
    let entry = PathBuf::from(format!("/sys/dev/block/{}:{}", numbers.0, numbers.1));
    if !entry.exists() {
        return Err(not(format!("no block device `{}:{}` is there", numbers.0, numbers.1)));
    }
    if entry.join("partition").exists() {
        // `..` of the link's target, not of the link.
        let disk = fs::canonicalize(&entry)
            .ok()
            .and_then(|path| file::read(&path.parent()?.join("dev")).ok());
        return disk
            .as_deref()
            .and_then(parse)
            .ok_or_else(|| not(format!("the disk of partition `{name}` is unknown")));
    }
    Ok(numbers)
}

/// Device numbers as the C library packs them (makedev(3)).
const fn split_device(device: u64) -> (u32, u32) {
    let major = (device >> 8 & 0xfff) | (device >> 32 & 0xffff_f000);
    let minor = (device & 0xff) | (device >> 12 & 0xffff_ff00);
    (major as u32, minor as u32)
}

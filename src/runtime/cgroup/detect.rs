//! Finding the tree of a store on this host and making it ready.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use super::{CgroupError, Controller, Gap, Host, Leaf, Tree, file, handle};
use crate::sys::mount::{self, NewFs, attr};
use crate::sys::path;
use crate::types::limits::LimitKind;

const OTHER_PROCESSES: &str = "it holds other processes";

impl Tree {
    /// Where the tree of the store called `name` can be on this host, as seen by the caller, who will own it.
    ///
    /// v2: the caller's own group if it is the only process in it, else a new group `name` below the nearest group above
    /// that the caller may write and that holds no processes. v1: a group `name` below its own in each hierarchy. A caller
    /// that already sits in a leaf `keeper` gets the tree above. Nothing is written.
    pub fn detect(host: &Host, name: &str) -> Tree {
        let limiting = |controller: &Controller| host.v1(*controller).is_some();
        match host.v2() {
            Some(unified) if offers(&unified.mount) => match v2_root(&unified.mount, unified.own.as_deref(), name) {
                Ok(root) => Tree::V2 { root, gaps: Vec::new() },
                Err(why) => Tree::None {
                    why,
                    fix: delegate_fix(),
                },
            },
            _ if Controller::LIMITING.iter().any(limiting) => v1_tree(host, name),
            _ => Tree::None {
                why: "no control group file system is mounted".to_owned(),
                fix: "mount one: `mount -t cgroup2 none /sys/fs/cgroup`".to_owned(),
            },
        }
    }

    /// Makes the tree's leaves, moves the caller into `keeper`, hands controllers down, and gives all of it to `monitors`,
    /// the user id that the monitors run as. Returns the tree as it can be used: with its gaps, or [`Tree::None`].
    pub fn prepare(self, host: &Host, monitors: u32) -> Tree {
        let prepared = match self {
            Tree::V2 { root, .. } => prepare_v2(&root, host, monitors).map_err(|error| (root, error)),
            Tree::V1 { roots, .. } => Ok(prepare_v1(roots, host, monitors)),
            Tree::None { .. } => return self,
        };
        prepared.unwrap_or_else(|(root, error)| Tree::None {
            why: format!("the control group `{}` cannot be used: {error}", root.display()),
            fix: delegate_fix(),
        })
    }

    /// Moves the caller into the `keeper` leaf of a tree that is still to be prepared, by a keeper that it starts there: a group that
    /// hands controllers down holds no processes. What fails is a gap for the keeper.
    pub fn shelter(&self) {
        if let Tree::V2 { root, .. } = self
            && file::make_group(&root.join(Leaf::Keeper.name())).is_ok()
        {
            let _ = self.place(Leaf::Keeper, 0);
        }
    }

    /// Moves the caller into the `keeper` leaf of a tree that an earlier keeper prepared. False if that cannot be done;
    /// the tree may be gone or out of reach.
    pub fn adopt(&self) -> bool {
        let roots = self.roots();
        !roots.is_empty()
            && roots.iter().all(|root| root.join(Leaf::Monitors.name()).is_dir())
            && self.place(Leaf::Keeper, 0).is_ok()
    }

    /// Moves the caller out of the tree and removes what is empty of it: the end of a keeper without containers.
    pub fn dissolve(&self) {
        self.roots().into_iter().for_each(vacate);
    }
}

/// Leaves the groups and removes those that are empty, as far as the caller may; what stays is found again by name.
fn vacate(root: &Path) {
    // Up, where that is allowed; on v1 the tree's own group may hold processes too.
    let above = root.parent().map(|above| above.join("cgroup.procs"));
    if above.is_none_or(|procs| file::put(&procs, "0").is_err()) && !root.join("cgroup.controllers").exists() {
        let _ = file::put(&root.join("cgroup.procs"), "0");
    }
    for leaf in Leaf::ALL {
        let _ = fs::remove_dir(root.join(leaf.name()));
    }
    let _ = fs::remove_dir(root);
}

/// Mounts version 2 where nobody has mounted control groups: a bare initramfs. True when it has; whoever may not mount finds things as
/// they were.
fn mount_where_none(host: &Host) -> bool {
    const PLACE: &str = "/sys/fs/cgroup";
    // Who is in a group has control groups, mounted elsewhere: a chroot, a mount namespace.
    let in_group = host.own.lines().any(|line| !line.ends_with(":/"));
    let known = !host.mountinfo.is_empty() && host.prefix.as_os_str().is_empty();
    if !known || in_group || host.v2().is_some() || !host.every_v1().is_empty() {
        return false;
    }
    let mounted = NewFs::open("cgroup2").and_then(|new| {
        new.set_flag("nsdelegate")?;
        let made = new.mount(attr::NOSUID | attr::NODEV | attr::NOEXEC)?;
        let place = path::open_root(Path::new(PLACE))?;
        mount::attach(made.as_fd(), place.as_fd())
    });
    match mounted {
        Ok(()) => crate::warn!("control groups of version 2 are mounted at `{PLACE}`, where none were"),
        Err(ref error) => crate::debug!("mount control groups: {error}"),
    }
    mounted.is_ok()
}

/// Makes a group `name` at the top of every hierarchy for `owner` (user and group id) and moves the caller into its
/// `keeper` leaf, after mounting version 2 where nothing was. For root on a host without systemd; a keeper that the caller becomes then
/// finds itself there.
///
/// Errors on a single v1 hierarchy are passed over: that controller will be a gap.
pub fn found_as_root(host: &Host, name: &str, owner: (u32, u32)) -> Result<(), CgroupError> {
    if mount_where_none(host) {
        let host = Host::read(owner.0).unwrap_or_default();
        return found_in(&host, name, owner);
    }
    found_in(host, name, owner)
}

fn found_in(host: &Host, name: &str, owner: (u32, u32)) -> Result<(), CgroupError> {
    let unified = host.v2().filter(|unified| offers(&unified.mount));
    if let Some(unified) = unified {
        hand_down(&unified.mount);
        let root = unified.mount.join(name);
        file::make_group(&root)?;
        hand_down(&root);
        return settle(&root, owner);
    }
    for controller in V1 {
        let Some(hierarchy) = host.v1(controller) else { continue };
        let root = hierarchy.mount.join(name);
        // Reported as a gap by the keeper, which looks again.
        let _ = file::make_group(&root).and_then(|()| settle(&root, owner));
    }
    Ok(())
}

/// Makes the leaf for the keeper, gives `root` and the leaf to `owner` and moves the caller into the leaf.
fn settle(root: &Path, owner: (u32, u32)) -> Result<(), CgroupError> {
    let leaf = root.join(Leaf::Keeper.name());
    file::make_group(&leaf)?;
    for dir in [root, &leaf] {
        if dir.join("cpuset.cpus").exists() && !dir.join("cgroup.controllers").exists() {
            handle::inherit_cpuset(dir)?;
        }
        give(dir, owner.0, Some(owner.1))?;
    }
    file::write(&leaf.join("cgroup.procs"), "0")
}

/// The v1 controllers that are used.
const V1: [Controller; 6] = [
    Controller::Memory,
    Controller::Cpu,
    Controller::Pids,
    Controller::Cpuset,
    Controller::Freezer,
    Controller::Cpuacct,
];

/// True if the unified hierarchy has a controller that limits; on a hybrid host it has none.
pub(super) fn offers(mount: &Path) -> bool {
    let controllers = file::read(&mount.join("cgroup.controllers")).unwrap_or_default();
    controllers
        .split_whitespace()
        .any(|name| matches!(name, "memory" | "cpu" | "pids"))
}

fn delegate_fix() -> String {
    "start the keeper in a group of its own: `systemctl start dunlin-keeper`, a user session with systemd, or once as root"
        .to_owned()
}

fn v2_root(mount: &Path, own: Option<&Path>, name: &str) -> Result<PathBuf, String> {
    let own = own.ok_or("the caller's group lies outside of the mounted hierarchy")?;
    let writable =
        |dir: &Path| file::writable(&dir.join("cgroup.procs")) && file::writable(&dir.join("cgroup.subtree_control"));
    if own.file_name().is_some_and(|last| last == Leaf::Keeper.name())
        && let Some(above) = own.parent()
        && above.starts_with(mount)
        && writable(above)
    {
        return Ok(above.to_owned());
    }
    // Only the real root lacks this file; it may hold processes and still hand controllers down.
    let is_root = |dir: &Path| !dir.join("cgroup.type").exists();
    let mut crowded = false;
    for dir in own.ancestors().take_while(|dir| dir.starts_with(mount)) {
        if !writable(dir) {
            continue;
        }
        if is_root(dir) {
            return Ok(dir.join(name));
        }
        let mut members = file::members(dir).unwrap_or_default();
        let myself = std::process::id() as i32;
        if dir == own && members == [myself] {
            return Ok(dir.to_owned());
        }
        members.retain(|pid| *pid != myself);
        if members.is_empty() {
            return Ok(dir.join(name));
        }
        crowded = true;
    }
    let cause = if crowded {
        OTHER_PROCESSES
    } else {
        "it and those above belong to somebody else"
    };
    Err(format!("control group `{}` is of no use: {cause}", own.display()))
}

fn v1_tree(host: &Host, name: &str) -> Tree {
    let mut roots = Vec::new();
    for controller in V1 {
        let Some(own) = host.v1(controller).and_then(|hierarchy| hierarchy.own) else {
            continue;
        };
        let in_leaf = own.file_name().is_some_and(|last| last == Leaf::Keeper.name());
        let root = match own.parent() {
            Some(above) if in_leaf && file::writable(&above.join("cgroup.procs")) => above.to_owned(),
            _ => own.join(name),
        };
        roots.push((controller, root));
    }
    Tree::V1 {
        roots,
        gaps: Vec::new(),
    }
}

fn prepare_v2(root: &Path, host: &Host, monitors: u32) -> Result<Tree, CgroupError> {
    if !root.is_dir() {
        if let Some(above) = root.parent() {
            hand_down(above);
        }
        file::make_group(root)?;
    }
    for leaf in Leaf::ALL {
        file::make_group(&root.join(leaf.name()))?;
    }
    file::write(&root.join(Leaf::Keeper.name()).join("cgroup.procs"), "0")?;
    hand_down(root);
    let enabled = file::read(&root.join("cgroup.subtree_control")).unwrap_or_default();
    let crowded = !file::members(root).unwrap_or_default().is_empty();
    let mut gaps = Vec::new();
    for controller in Controller::LIMITING {
        if enabled.split_whitespace().any(|name| name == controller.name()) {
            continue;
        }
        let (cause, fix) = why_not_v2(controller, root, host, crowded);
        gaps.extend(limits_of(controller).map(|limit| Gap {
            limit,
            cause: cause.clone(),
            fix: fix.clone(),
        }));
    }
    if enabled.split_whitespace().any(|name| name == "memory") {
        swap_gap(&root.join(Leaf::Monitors.name()).join("memory.swap.max"), &mut gaps);
    }
    give_tree(root, monitors)?;
    Ok(Tree::V2 {
        root: root.to_owned(),
        gaps,
    })
}

/// Hands every limiting controller to the groups below `group`; what fails shows in `cgroup.subtree_control`.
fn hand_down(group: &Path) {
    let have = file::read(&group.join("cgroup.controllers")).unwrap_or_default();
    let enabled = file::read(&group.join("cgroup.subtree_control")).unwrap_or_default();
    for controller in Controller::LIMITING {
        let listed = |text: &str| text.split_whitespace().any(|name| name == controller.name());
        if listed(&have) && !listed(&enabled) {
            // One at a time, since a refused one would take the others with it.
            let _ = file::put(
                &group.join("cgroup.subtree_control"),
                &format!("+{}", controller.name()),
            );
        }
    }
}

fn why_not_v2(controller: Controller, root: &Path, host: &Host, crowded: bool) -> (String, String) {
    let name = controller.name();
    let mount = host.v2().map(|unified| unified.mount).unwrap_or_default();
    let listed = |dir: &Path| {
        file::read(&dir.join("cgroup.controllers")).is_ok_and(|text| text.split_whitespace().any(|other| other == name))
    };
    if !listed(&mount) {
        return match host.v1(controller) {
            Some(_) => (
                format!("controller `{name}` is taken by a v1 hierarchy"),
                "boot with the unified hierarchy (`systemd.unified_cgroup_hierarchy=1`)".to_owned(),
            ),
            None => kernel_lacks(controller, host),
        };
    }
    if listed(root) && crowded {
        return (
            format!(
                "control group `{}` cannot hand `{name}` down: {OTHER_PROCESSES}",
                root.display()
            ),
            "move them to groups of their own and start the keeper again".to_owned(),
        );
    }
    (
        format!("controller `{name}` is not delegated to `{}`", root.display()),
        format!(
            "delegate it: `Delegate=cpu cpuset io memory pids` in the keeper's unit, for user sessions in \
             `/etc/systemd/system/user@.service.d/delegate.conf`; without systemd write `+{name}` to \
             `cgroup.subtree_control` of the groups above"
        ),
    )
}

fn kernel_lacks(controller: Controller, host: &Host) -> (String, String) {
    let name = controller.name();
    if host.switched_off(controller) {
        let fix = match controller {
            Controller::Memory => {
                "add `cgroup_enable=memory` to the kernel's command line (Raspberry Pi: `cmdline.txt`), remove \
                 `cgroup_disable=memory`, and boot again"
                    .to_owned()
            }
            _ => format!("remove `cgroup_disable={name}` from the kernel's command line and boot again"),
        };
        return (
            format!("the kernel's controller `{name}` was switched off at boot"),
            fix,
        );
    }
    let option = match controller {
        Controller::Memory => "CONFIG_MEMCG",
        Controller::Cpu => "CONFIG_CGROUP_SCHED and CONFIG_CFS_BANDWIDTH",
        Controller::Pids => "CONFIG_CGROUP_PIDS",
        Controller::Io => "CONFIG_BLK_CGROUP and CONFIG_BLK_DEV_THROTTLING",
        Controller::Cpuset => "CONFIG_CPUSETS",
        Controller::Freezer => "CONFIG_CGROUP_FREEZER",
        Controller::Cpuacct => "CONFIG_CGROUP_CPUACCT",
        Controller::Devices => "CONFIG_CGROUP_DEVICE",
        Controller::Hugetlb => "CONFIG_CGROUP_HUGETLB",
        Controller::NetCls => "CONFIG_CGROUP_NET_CLASSID",
        Controller::NetPrio => "CONFIG_CGROUP_NET_PRIO",
        Controller::Rdma => "CONFIG_CGROUP_RDMA",
        Controller::Other => "this hierarchy",
    };
    let fix = match controller {
        Controller::Memory => {
            format!("add `cgroup_enable=memory` to the kernel's command line, or use a kernel with {option}")
        }
        _ => format!("use a kernel with {option}"),
    };
    (format!("the kernel offers no controller `{name}`"), fix)
}

fn prepare_v1(roots: Vec<(Controller, PathBuf)>, host: &Host, monitors: u32) -> Tree {
    let mut gaps = Vec::new();
    let mut usable: Vec<(Controller, PathBuf)> = Vec::new();
    let mut failed: Vec<(Controller, CgroupError)> = Vec::new();
    for (controller, root) in roots {
        // Controllers that share a hierarchy share its fate.
        match prepare_v1_root(&root, monitors) {
            Ok(()) => usable.push((controller, root)),
            Err(error) => failed.push((controller, error)),
        }
    }
    if !Controller::LIMITING
        .iter()
        .any(|controller| usable.iter().any(|(have, _)| have == controller))
    {
        let why = failed.first().map_or_else(
            || "no v1 hierarchy with a limiting controller is mounted".to_owned(),
            |(_, error)| format!("user {} may not write the v1 hierarchies: {error}", host.uid),
        );
        return Tree::None {
            why,
            fix: delegate_fix(),
        };
    }
    for controller in Controller::LIMITING {
        if usable.iter().any(|(have, _)| *have == controller) {
            continue;
        }
        let (cause, fix) = match failed.iter().find(|(other, _)| *other == controller) {
            Some((_, error)) => (
                format!("the v1 hierarchy of `{}` cannot be used: {error}", controller.name()),
                delegate_fix(),
            ),
            None if controller == Controller::Io => v2_only("io"),
            None if host.v1(controller).is_some() => (
                format!(
                    "the v1 hierarchy of `{}` shows another part of the tree",
                    controller.name()
                ),
                "start the keeper outside of a container".to_owned(),
            ),
            None => kernel_lacks(controller, host),
        };
        gaps.extend(limits_of(controller).map(|limit| Gap {
            limit,
            cause: cause.clone(),
            fix: fix.clone(),
        }));
    }
    if let Some((_, root)) = usable.iter().find(|(have, _)| *have == Controller::Memory) {
        swap_gap(&root.join("memory.memsw.limit_in_bytes"), &mut gaps);
        let (cause, fix) = v2_only("memory_high");
        gaps.push(Gap {
            limit: LimitKind::MemoryHigh,
            cause,
            fix,
        });
    }
    Tree::V1 { roots: usable, gaps }
}

fn prepare_v1_root(root: &Path, monitors: u32) -> Result<(), CgroupError> {
    file::make_group(root)?;
    let cpuset = root.join("cpuset.cpus").exists();
    if cpuset {
        handle::inherit_cpuset(root)?;
    }
    for leaf in Leaf::ALL {
        let dir = root.join(leaf.name());
        file::make_group(&dir)?;
        if cpuset {
            handle::inherit_cpuset(&dir)?;
        }
    }
    file::write(&root.join(Leaf::Keeper.name()).join("cgroup.procs"), "0")?;
    give_tree(root, monitors)
}

fn v2_only(what: &str) -> (String, String) {
    (
        format!("`{what}` needs control groups v2, this host has v1"),
        "boot with the unified hierarchy (`systemd.unified_cgroup_hierarchy=1`)".to_owned(),
    )
}

fn swap_gap(file: &Path, gaps: &mut Vec<Gap>) {
    if !file.exists() {
        gaps.push(Gap {
            limit: LimitKind::Swap,
            cause: "the kernel does not account swap per group".to_owned(),
            fix: "add `swapaccount=1` to the kernel's command line, or use a kernel with CONFIG_SWAP".to_owned(),
        });
    }
}

fn limits_of(controller: Controller) -> impl Iterator<Item = LimitKind> {
    LimitKind::ALL
        .into_iter()
        .filter(move |limit| Controller::of(*limit) == controller)
}

/// Lets the monitors make containers' groups: they run as `monitors`, which is not the caller if the store is root's.
fn give_tree(root: &Path, monitors: u32) -> Result<(), CgroupError> {
    let own = fs::metadata(root).map(|data| std::os::unix::fs::MetadataExt::uid(&data));
    if own.is_ok_and(|uid| uid == monitors) {
        return Ok(());
    }
    give(root, monitors, None)?;
    for leaf in [Leaf::Monitors, Leaf::Workers] {
        give(&root.join(leaf.name()), monitors, None)?;
    }
    Ok(())
}

/// Gives a group and the files that delegate it to `uid`.
fn give(group: &Path, uid: u32, gid: Option<u32>) -> Result<(), CgroupError> {
    let names = ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "tasks"];
    let files = names.iter().map(|name| group.join(name)).filter(|path| path.exists());
    for path in std::iter::once(group.to_owned()).chain(files) {
        chown(&path, Some(uid), gid).map_err(|source| CgroupError::Io {
            action: "give away",
            path: path.clone(),
            source,
        })?;
    }
    Ok(())
}

//! The group that a bundle names (`linux.cgroupsPath`), for containers that are not in a store's tree.
//!
//! An absolute path begins at the top of every hierarchy, a relative one at the caller's own group (v1) or beside it (v2,
//! where a group with processes cannot hand controllers down). systemd's `SLICE:PREFIX:NAME` becomes the path that systemd
//! would choose; nobody tells systemd.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::detect::offers;
use super::{CgroupError, Controller, Handle, Host, Tree, file, handle};

/// What a bundle and its caller say about the group.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The container's name, which is the group's where nothing else is said.
    pub id: &'a str,
    /// `linux.cgroupsPath`.
    pub path: Option<&'a str>,
    /// The path is systemd's.
    pub systemd: bool,
}

impl Place<'_> {
    /// The group; nothing is made yet.
    pub fn find(&self, host: &Host) -> Result<Handle, CgroupError> {
        let (absolute, path) = self.path(host.uid)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let below = path.parent().unwrap_or(Path::new("")).to_owned();
        let managed = self.systemd && host.uid != 0;
        let base = |mount: &Path, own: Option<PathBuf>| match absolute {
            true if managed => own.as_deref().and_then(manager).or(Some(mount.to_owned())),
            true => Some(mount.to_owned()),
            false => own,
        };
        let none = |why: String| Tree::None {
            why,
            fix: "give `linux.cgroupsPath` a group that the caller may write".to_owned(),
        };
        let unified = host.v2().filter(|unified| offers(&unified.mount));
        let tree = match unified {
            Some(unified) => {
                let beside = unified.own.map(|own| match own.parent() {
                    Some(above) if above.starts_with(&unified.mount) => above.to_owned(),
                    _ => own,
                });
                match base(&unified.mount, beside) {
                    Some(base) => Tree::V2 {
                        root: base.join(below),
                        gaps: Vec::new(),
                    },
                    None => none("the caller's control group is out of its sight".to_owned()),
                }
            }
            None => {
                let mut roots = Vec::new();
                for (hierarchy, found) in host.every_v1() {
                    let Some(base) = base(&found.mount, found.own) else {
                        continue;
                    };
                    let root = base.join(&below);
                    roots.extend(controllers(&hierarchy).into_iter().map(|one| (one, root.clone())));
                }
                if roots.is_empty() {
                    none("no control group file system is mounted".to_owned())
                } else {
                    Tree::V1 {
                        roots,
                        gaps: Vec::new(),
                    }
                }
            }
        };
        Ok(Handle::new(tree, name))
    }

    /// Whether the path is absolute, and the path below that, of which no part leads up.
    fn path(&self, uid: u32) -> Result<(bool, PathBuf), CgroupError> {
        let Some(path) = self.path.filter(|path| !path.is_empty()) else {
            return Ok((false, PathBuf::from(self.id)));
        };
        let wrong = |cause: String| CgroupError::Path {
            path: path.to_owned(),
            cause,
        };
        if self.systemd {
            let parts: Vec<&str> = path.split(':').collect();
            let &[slice, prefix, name] = parts.as_slice() else {
                return Err(wrong(
                    "with `--systemd-cgroup` it must be `SLICE:PREFIX:NAME`".to_owned(),
                ));
            };
            let slice = match (slice, uid) {
                ("", 0) => "system.slice",
                ("", _) => "user.slice",
                (slice, _) => slice,
            };
            return Ok((true, slices(slice).map_err(wrong)?.join(unit(prefix, name))));
        }
        let plain: PathBuf = Path::new(path)
            .components()
            .filter(|part| matches!(part, Component::Normal(_)))
            .collect();
        let leads_up = Path::new(path).components().any(|part| part == Component::ParentDir);
        if leads_up || plain.as_os_str().is_empty() {
            return Err(wrong("it must name a group and not lead up".to_owned()));
        }
        Ok((Path::new(path).is_absolute(), plain))
    }
}

/// `a-b.slice` lies in `a.slice` (systemd.slice(5)); `-.slice` is the top.
fn slices(slice: &str) -> Result<PathBuf, String> {
    let name = slice.strip_suffix(".slice").filter(|name| !name.contains('/'));
    let name = name.ok_or_else(|| format!("`{slice}` is not the name of a slice"))?;
    let mut path = PathBuf::new();
    if name == "-" {
        return Ok(path);
    }
    for (at, _) in name.match_indices('-').chain([(name.len(), "")]) {
        path.push(format!("{}.slice", &name[..at]));
    }
    Ok(path)
}

/// The group of systemd's manager of a user, `user@UID.service`, that `own` is or lies in.
fn manager(own: &Path) -> Option<PathBuf> {
    let is_manager = |dir: &&Path| {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("user@") && name.ends_with(".service")
    };
    own.ancestors().find(is_manager).map(Path::to_owned)
}

fn unit(prefix: &str, name: &str) -> String {
    if name.ends_with(".slice") {
        name.to_owned()
    } else if prefix.is_empty() {
        format!("{name}.scope")
    } else {
        format!("{prefix}-{name}.scope")
    }
}

/// The controllers of a v1 hierarchy, by the name of its mount.
fn controllers(hierarchy: &str) -> Vec<Controller> {
    const KNOWN: [(&str, Controller); 12] = [
        ("memory", Controller::Memory),
        ("cpu", Controller::Cpu),
        ("pids", Controller::Pids),
        ("blkio", Controller::Io),
        ("cpuset", Controller::Cpuset),
        ("freezer", Controller::Freezer),
        ("cpuacct", Controller::Cpuacct),
        ("devices", Controller::Devices),
        ("hugetlb", Controller::Hugetlb),
        ("net_cls", Controller::NetCls),
        ("net_prio", Controller::NetPrio),
        ("rdma", Controller::Rdma),
    ];
    let known = |name: &str| KNOWN.iter().find(|(known, _)| *known == name);
    hierarchy
        .split(',')
        .map(|name| known(name).map_or(Controller::Other, |(_, controller)| *controller))
        .collect()
}

impl Handle {
    /// Makes the group with those above it and hands controllers down to it. Hierarchies that the caller may not write are
    /// left out; the result is what is left of the group. A group that holds processes already is an error.
    pub fn make(self) -> Result<Handle, CgroupError> {
        let (tree, name) = (self.tree().clone(), self.name().to_owned());
        let tree = match tree {
            Tree::V2 { root, gaps } => match make_v2(&root, &name) {
                Ok(()) => Tree::V2 { root, gaps },
                Err(error) => refused(error)?,
            },
            Tree::V1 { roots, gaps } => make_v1(roots, gaps, &name)?,
            none @ Tree::None { .. } => none,
        };
        Ok(Handle::new(tree, name))
    }

    /// Whether there is a group at all.
    pub fn is_some(&self) -> bool {
        !matches!(self.tree(), Tree::None { .. })
    }
}

/// No group, if the error says that the caller may not have one.
fn refused(error: CgroupError) -> Result<Tree, CgroupError> {
    match &error {
        CgroupError::Io { source, .. } if is_refusal(source) => Ok(Tree::None {
            why: error.to_string(),
            fix: "give the caller a delegated group".to_owned(),
        }),
        _ => Err(error),
    }
}

fn is_refusal(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::NotFound
    )
}

fn make_v2(root: &Path, name: &str) -> Result<(), CgroupError> {
    let in_hierarchy = |dir: &&Path| !dir.exists() || dir.join("cgroup.controllers").exists();
    let groups: Vec<&Path> = root.ancestors().take_while(in_hierarchy).collect();
    // From the top down: a group has what the one above hands down.
    for dir in groups.into_iter().rev() {
        if !dir.exists() {
            file::make_group(dir)?;
        }
        hand_all_down(dir);
    }
    leaf(&root.join(name))
}

/// Hands down whatever can be; a limit that needs the rest fails by its name.
fn hand_all_down(group: &Path) {
    let have = file::read(&group.join("cgroup.controllers")).unwrap_or_default();
    let control = group.join("cgroup.subtree_control");
    let enabled = file::read(&control).unwrap_or_default();
    let missing: Vec<String> = have
        .split_whitespace()
        .filter(|one| !enabled.split_whitespace().any(|other| other == *one))
        .map(|one| format!("+{one}"))
        .collect();
    if missing.is_empty() {
        return;
    }
    match file::put(&control, &missing.join(" ")) {
        Err(error) if !is_refusal(&error) => {
            for one in missing {
                // A refused one would take the others with it.
                let _ = file::put(&control, &one);
            }
        }
        _ => {}
    }
}

fn make_v1(roots: Vec<(Controller, PathBuf)>, gaps: Vec<super::Gap>, name: &str) -> Result<Tree, CgroupError> {
    let mut kept: Vec<(Controller, PathBuf)> = Vec::new();
    let mut last = None;
    for (controller, root) in roots {
        if kept.iter().any(|(_, known)| *known == root) {
            kept.push((controller, root));
            continue;
        }
        let missing: Vec<&Path> = root.ancestors().take_while(|dir| !dir.exists()).collect();
        let mut dirs: Vec<PathBuf> = missing.into_iter().rev().map(Path::to_owned).collect();
        dirs.push(root.join(name));
        let made = dirs.iter().try_for_each(|dir| {
            leaf(dir)?;
            if controller == Controller::Cpuset {
                handle::inherit_cpuset(dir)?;
            }
            Ok(())
        });
        match made {
            Ok(()) => kept.push((controller, root)),
            Err(CgroupError::Io { source, path, action }) if is_refusal(&source) => {
                last = Some(CgroupError::Io { source, path, action }.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(match (kept.is_empty(), last) {
        (true, why) => Tree::None {
            why: why.unwrap_or_default(),
            fix: "give the caller a group in the v1 hierarchies".to_owned(),
        },
        (false, _) => Tree::V1 { roots: kept, gaps },
    })
}

/// A group of this one container; one that is there and empty will do.
fn leaf(dir: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            if file::members(dir).is_ok_and(|members| !members.is_empty()) {
                return Err(CgroupError::InUse { path: dir.to_owned() });
            }
            Ok(())
        }
        done => done.map_err(|source| CgroupError::Io {
            action: "make",
            path: dir.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(path: Option<&str>, systemd: bool) -> Result<(bool, PathBuf), String> {
        path_of(path, systemd, 0)
    }

    fn path_of(path: Option<&str>, systemd: bool, uid: u32) -> Result<(bool, PathBuf), String> {
        let place = Place {
            id: "box",
            path,
            systemd,
        };
        place.path(uid).map_err(|error| error.to_string())
    }

    #[test]
    fn paths_are_absolute_relative_or_systemds() {
        let is = |absolute, text: &str| Ok((absolute, PathBuf::from(text)));
        assert_eq!(path(None, false), is(false, "box"));
        assert_eq!(path(Some(""), true), is(false, "box"));
        assert_eq!(path(Some("/a//b/"), false), is(true, "a/b"));
        assert_eq!(path(Some("a/b"), false), is(false, "a/b"));
        assert_eq!(
            path(Some("user-1000.slice:libpod:x"), true),
            is(true, "user.slice/user-1000.slice/libpod-x.scope")
        );
        assert_eq!(path(Some(":cri:x"), true), is(true, "system.slice/cri-x.scope"));
        assert_eq!(path_of(Some(":cri:x"), true, 1000), is(true, "user.slice/cri-x.scope"));
        assert_eq!(path(Some("-.slice::x"), true), is(true, "x.scope"));
        for (text, systemd) in [("/a/../b", false), ("/", false), ("/a", true), ("a:b:c", true)] {
            assert!(path(Some(text), systemd).is_err(), "{text}");
        }
    }

    #[test]
    fn systemds_paths_of_a_user_begin_at_the_users_manager() {
        let place = Place {
            id: "box",
            path: Some("user.slice:libpod:x"),
            systemd: true,
        };
        let dir = std::env::temp_dir().join(format!("dunlin-place-{}", std::process::id()));
        let at = |own: &str, uid| {
            let host = Host {
                mountinfo: "30 23 0:26 / /cg rw - cgroup2 cgroup2 rw\n".to_owned(),
                own: format!("0::{own}\n"),
                uid,
                prefix: dir.clone(),
                ..Host::default()
            };
            let group = place.find(&host).expect("a group").dirs().remove(0);
            group.strip_prefix(dir.join("cg")).expect("in the hierarchy").to_owned()
        };
        fs::create_dir_all(dir.join("cg")).expect("a folder");
        fs::write(dir.join("cg/cgroup.controllers"), "cpu memory pids").expect("a file");
        let manager = "user.slice/user-1000.slice/user@1000.service";
        assert_eq!(
            at(&format!("/{manager}/app.slice/run-1.scope"), 1000),
            Path::new(manager).join("user.slice/libpod-x.scope")
        );
        assert_eq!(
            at(&format!("/{manager}/app.slice"), 0),
            Path::new("user.slice/libpod-x.scope")
        );
        let session = "/user.slice/user-1000.slice/session-1.scope";
        assert_eq!(at(session, 1000), Path::new("user.slice/libpod-x.scope"));
        fs::remove_dir_all(&dir).expect("the folder goes");
    }

    #[test]
    fn co_mounted_controllers_share_a_group() {
        assert_eq!(controllers("cpu,cpuacct"), [Controller::Cpu, Controller::Cpuacct]);
        assert_eq!(controllers("systemd"), [Controller::Other]);
    }
}

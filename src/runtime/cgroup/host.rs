//! What the kernel says about control groups on this host.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::Controller;

/// The kernel's own texts; tests put theirs in.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// `/proc/self/mountinfo`.
    pub mountinfo: String,
    /// `/proc/self/cgroup`.
    pub own: String,
    /// `/proc/cgroups`.
    pub controllers: String,
    /// The caller's user id, for messages.
    pub uid: u32,
    /// What is put before every mount point: empty, or a folder of a test.
    pub prefix: PathBuf,
}

/// A mounted hierarchy and the caller's place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The caller's own group; none if it lies outside of what is mounted.
    pub own: Option<PathBuf>,
}

/// Longest text that is read, in bytes: a mountinfo line has 200, and a host may have thousands of mounts.
const TEXT_BYTES_MAX: u64 = 4 << 20;

impl Host {
    /// Reads this process's view.
    pub fn read(uid: u32) -> io::Result<Host> {
        Ok(Host {
            mountinfo: text("/proc/self/mountinfo")?,
            own: text("/proc/self/cgroup").unwrap_or_default(),
            controllers: text("/proc/cgroups").unwrap_or_default(),
            uid,
            prefix: PathBuf::new(),
        })
    }

    /// The unified hierarchy.
    pub(super) fn v2(&self) -> Option<Hierarchy> {
        let own = self.own.lines().find_map(|line| line.strip_prefix("0::"));
        self.mounts()
            .find(|mount| mount.kind == "cgroup2")
            .map(|mount| self.hierarchy(&mount, own))
    }

    /// The hierarchy of a v1 controller.
    pub(super) fn v1(&self, controller: Controller) -> Option<Hierarchy> {
        let name = if controller == Controller::Io {
            "blkio"
        } else {
            controller.name()
        };
        let own = self.own.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            controllers.split(',').any(|listed| listed == name).then_some(path)
        });
        self.mounts()
            .find(|mount| mount.kind == "cgroup" && mount.options.split(',').any(|option| option == name))
            .map(|mount| self.hierarchy(&mount, own))
    }

    /// Every v1 hierarchy: the name of its mount (`cpu,cpuacct`, `systemd`) and the caller's own group in it.
    pub fn own_v1(&self) -> Vec<(String, PathBuf)> {
        self.every_v1()
            .into_iter()
            .filter_map(|(name, found)| Some((name, found.own?)))
            .collect()
    }

    /// Every v1 hierarchy by the name of its mount.
    pub(super) fn every_v1(&self) -> Vec<(String, Hierarchy)> {
        let mut all: Vec<(String, Hierarchy)> = Vec::new();
        for mount in self.mounts().filter(|mount| mount.kind == "cgroup") {
            let name = Path::new(mount.point)
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let has = |listed: &str| mount.options.split(',').any(|option| option == listed);
            let own = self.own.lines().find_map(|line| {
                let (_, rest) = line.split_once(':')?;
                let (controllers, path) = rest.split_once(':')?;
                (!controllers.is_empty() && controllers.split(',').all(has)).then_some(path)
            });
            if all.iter().all(|(known, _)| *known != name) {
                all.push((name, self.hierarchy(&mount, own)));
            }
        }
        all
    }

    /// True if the kernel has the v1 or v2 controller but it was switched off at boot. The kernel lists it as disabled.
    pub(super) fn switched_off(&self, controller: Controller) -> bool {
        let name = if controller == Controller::Io {
            "blkio"
        } else {
            controller.name()
        };
        self.controllers.lines().any(|line| {
            let mut fields = line.split_whitespace();
            fields.next() == Some(name) && fields.nth(2) == Some("0")
        })
    }

    fn hierarchy(&self, mount: &MountLine<'_>, own: Option<&str>) -> Hierarchy {
        let point = unescape(mount.point);
        let at = if self.prefix.as_os_str().is_empty() {
            PathBuf::from(point)
        } else {
            self.prefix.join(point.trim_start_matches('/'))
        };
        let below = own.and_then(|own| {
            Path::new(own)
                .strip_prefix(unescape(mount.root))
                .ok()
                .map(Path::to_owned)
        });
        // `..` appears when the group lies outside of the cgroup namespace.
        let below = below.filter(|path| {
            path.components()
                .all(|part| matches!(part, std::path::Component::Normal(_)))
        });
        Hierarchy {
            own: below.map(|below| {
                if below.as_os_str().is_empty() {
                    at.clone()
                } else {
                    at.join(below)
                }
            }),
            mount: at,
        }
    }

    fn mounts(&self) -> impl Iterator<Item = MountLine<'_>> {
        self.mountinfo.lines().filter_map(|line| {
            let (front, back) = line.split_once(" - ")?;
            let mut front = front.split(' ').skip(3);
            let (root, point) = (front.next()?, front.next()?);
            let mut back = back.split(' ');
            let kind = back.next()?;
            kind.starts_with("cgroup").then(|| MountLine {
                root,
                point,
                kind,
                options: back.nth(1).unwrap_or_default(),
            })
        })
    }
}

struct MountLine<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

/// mountinfo writes blanks and backslashes as octal numbers.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

fn text(path: &str) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(TEXT_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

//! What a container's file tree consists of, as a list (pure): the mounts, device nodes, links, hidden and read-only
//! paths that its `config.json` asks for. [`super::mounts`] carries it out.

use std::path::{Path, PathBuf};

use super::error::RuntimeError;
use super::options::MountOptions;
use super::{label, mapped};
use crate::sys::mount::{Propagation, attr};
use crate::sys::path::NodeKind;
use crate::types::bounds::MOUNTS;
use crate::types::idmap::IdMap;
use crate::types::oci::runtime::{LinuxDevice, LinuxDeviceType, LinuxNamespaceType, Mount, Spec};

/// The file tree of one container, in the order in which it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Mounts, the first one first.
    pub mounts: Vec<Step>,
    /// Device nodes; made after the mounts.
    pub devices: Vec<Node>,
    /// Nodes may be made: the container has no user namespace of its own, in which the kernel refuses it.
    pub makes_nodes: bool,
    /// Symbolic links below `/dev`: (name, target). Those that exist stay.
    pub links: Vec<(&'static str, &'static str)>,
    /// Hidden below an empty file or directory, if they exist.
    pub masked: Vec<PathBuf>,
    /// Made read-only, if they exist.
    pub read_only: Vec<PathBuf>,
    /// The root itself is read-only at the end.
    pub root_read_only: bool,
    /// Propagation of the root mount at the end, where it is not private.
    pub root_propagation: Option<(Propagation, bool)>,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What is mounted.
    pub what: What,
    /// Where, absolute in the container.
    pub target: PathBuf,
    /// Bits, propagation and the options of the file system.
    pub options: MountOptions,
    /// How the owners of files are shifted, where they are.
    pub ids: Option<IdMap>,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A new file system.
    New {
        /// Its type, the kernel's word.
        kind: String,
        /// What it says its source is.
        source: String,
    },
    /// A path of the host.
    Bind {
        /// The path, absolute.
        source: PathBuf,
        /// With everything mounted below it.
        recursive: bool,
    },
}

/// A device node that the container has: made where the kernel lets us, else the host's own, which is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Path in the container; also on the host, where the node is bound.
    pub path: PathBuf,
    /// What it is, and its numbers.
    pub kind: NodeKind,
    /// Permission bits, where it is made.
    pub mode: u32,
    /// User and group in the container, where it is made.
    pub owner: (u32, u32),
}

/// Device nodes that every container has (runtime specification, "Default Devices").
const NODES: [(&str, NodeKind); 6] = [
    ("/dev/null", NodeKind::Char(1, 3)),
    ("/dev/zero", NodeKind::Char(1, 5)),
    ("/dev/full", NodeKind::Char(1, 7)),
    ("/dev/random", NodeKind::Char(1, 8)),
    ("/dev/urandom", NodeKind::Char(1, 9)),
    ("/dev/tty", NodeKind::Char(5, 0)),
];

/// Links that every container has (runtime specification, "Dev symbolic links").
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

impl Tree {
    /// The tree that a specification asks for; relative bind sources are below `bundle`.
    pub fn plan(spec: &Spec, bundle: &Path) -> Result<Self, RuntimeError> {
        let mounts = spec.mounts.as_deref().unwrap_or_default();
        if mounts.len() > MOUNTS {
            return Err(RuntimeError::spec(
                "mounts",
                format!("{} mounts, at most {MOUNTS} are allowed", mounts.len()),
            ));
        }
        let steps: Vec<Step> = mounts
            .iter()
            .map(|mount| step(mount, bundle, spec))
            .collect::<Result<_, _>>()?;
        // Someone who binds a /dev has filled it.
        let own_dev = !steps
            .iter()
            .any(|s| s.target == Path::new("/dev") && matches!(s.what, What::Bind { .. }));
        let linux = spec.linux.as_ref();
        let paths = |list: Option<&Vec<String>>| list.into_iter().flatten().map(PathBuf::from).collect();
        let mut devices: Vec<Node> = Vec::new();
        if own_dev {
            devices.extend(NODES.iter().map(|(path, kind)| Node {
                path: path.into(),
                kind: *kind,
                mode: 0o666,
                owner: (0, 0),
            }));
        }
        for device in linux.and_then(|l| l.devices.as_ref()).into_iter().flatten() {
            let node = node(device)?;
            devices.retain(|known| known.path != node.path);
            devices.push(node);
        }
        Ok(Tree {
            mounts: steps,
            devices,
            makes_nodes: !has_user_namespace(spec),
            links: if own_dev { LINKS.to_vec() } else { Vec::new() },
            masked: paths(linux.and_then(|l| l.masked_paths.as_ref())),
            read_only: paths(linux.and_then(|l| l.readonly_paths.as_ref())),
            root_read_only: spec.root.as_ref().and_then(|root| root.readonly).unwrap_or(false),
            root_propagation: root_propagation(linux.and_then(|l| l.rootfs_propagation.as_deref()))?,
        })
    }
}

/// Whether the container's ids are its own.
fn has_user_namespace(spec: &Spec) -> bool {
    let listed = spec.linux.as_ref().and_then(|linux| linux.namespaces.as_ref());
    listed
        .into_iter()
        .flatten()
        .any(|namespace| namespace.kind == LinuxNamespaceType::User)
}

fn node(device: &LinuxDevice) -> Result<Node, RuntimeError> {
    let path = device.path.clone();
    let wrong = |problem: &str| RuntimeError::spec("linux.devices", format!("`{}` {problem}", path.display()));
    if !path.is_absolute() {
        return Err(wrong("is not absolute"));
    }
    let number = |number: i64| u32::try_from(number).map_err(|_| wrong("has a negative number"));
    let kind = match device.kind {
        LinuxDeviceType::C | LinuxDeviceType::U => NodeKind::Char(number(device.major)?, number(device.minor)?),
        LinuxDeviceType::B => NodeKind::Block(number(device.major)?, number(device.minor)?),
        LinuxDeviceType::P => NodeKind::Pipe,
        LinuxDeviceType::A => return Err(wrong("must be of type `c`, `b`, `u` or `p`")),
    };
    Ok(Node {
        mode: device.file_mode.unwrap_or(0o666) & 0o7777,
        owner: (device.uid.unwrap_or(0), device.gid.unwrap_or(0)),
        path,
        kind,
    })
}

fn root_propagation(word: Option<&str>) -> Result<Option<(Propagation, bool)>, RuntimeError> {
    let Some(word) = word.filter(|w| !w.is_empty()) else {
        return Ok(None);
    };
    match MountOptions::parse([word]).propagation {
        Some((Propagation::Private, _)) => Ok(None),
        Some(other) => Ok(Some(other)),
        None => Err(RuntimeError::spec(
            "linux.rootfsPropagation",
            format!("`{word}` is not known"),
        )),
    }
}

fn step(mount: &Mount, bundle: &Path, spec: &Spec) -> Result<Step, RuntimeError> {
    // A relative one begins at the root (config.md, "Mounts").
    let target = Path::new("/").join(&mount.destination);
    let wrong = |problem: &str| RuntimeError::spec("mounts", format!("`{}`: {problem}", target.display()));
    if mount.destination.as_os_str().is_empty() {
        return Err(wrong("the destination must be there"));
    }
    let mut options = MountOptions::parse(mount.options.iter().flatten().map(String::as_str));
    let ids = mapped::ids(mount, options.mapped.is_some(), spec.linux.as_ref()).map_err(|problem| wrong(&problem))?;
    let kind = mount.kind.as_deref().unwrap_or("none");
    let what = match options.bind.or((kind == "bind").then_some(false)) {
        Some(recursive) => {
            let source = mount
                .source
                .as_ref()
                .ok_or_else(|| wrong("a bind mount needs a source"))?;
            let known = |(key, _): &&(String, Option<String>)| !matches!(key.as_str(), "z" | "Z");
            if let Some((key, _)) = options.data.iter().find(known) {
                return Err(wrong(&format!("option `{key}` is not known for a bind mount")));
            }
            if options.copy_up {
                return Err(wrong("option `tmpcopyup` is for tmpfs"));
            }
            options.data.clear();
            // A bind is as writable as its source; what the host locks cannot be unlocked.
            options.clear &= !attr::RDONLY;
            What::Bind {
                source: bundle.join(source),
                recursive,
            }
        }
        None => {
            if let Some(label) = label::mounts(spec).filter(|_| LABELLED.contains(&kind)) {
                options.data.push(("context".to_owned(), Some(label.to_owned())));
            }
            new_file_system(kind, mount, &mut options, has_user_namespace(spec)).map_err(|problem| wrong(&problem))?
        }
    };
    if ids.is_some() && !matches!(what, What::Bind { .. }) {
        return Err(wrong("only a bind mount can be id-mapped"));
    }
    Ok(Step {
        what,
        target,
        options,
        ids,
    })
}

/// File systems whose files get the label of the bundle's mounts; the others have their own.
const LABELLED: [&str; 4] = ["tmpfs", "ramfs", "devpts", "mqueue"];

/// File systems that a user namespace may mount, so far as containers have a use for them.
const KINDS: [&str; 8] = [
    "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "overlay",
];

fn new_file_system(kind: &str, mount: &Mount, options: &mut MountOptions, nested: bool) -> Result<What, String> {
    if nested && !KINDS.contains(&kind) {
        return Err(format!("file system type `{kind}` is not supported"));
    }
    if options.copy_up && kind != "tmpfs" {
        return Err("option `tmpcopyup` is for tmpfs".to_owned());
    }
    // A new file system has no bits that could be cleared.
    options.clear = 0;
    let source = mount
        .source
        .as_ref()
        .map_or_else(|| kind.to_owned(), |path| path.display().to_string());
    Ok(What::New {
        kind: kind.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Spec {
        serde_json::from_str(&format!(r#"{{"ociVersion":"1.2.0",{json}}}"#)).expect("a specification")
    }

    fn plan(json: &str) -> Result<Tree, RuntimeError> {
        Tree::plan(&spec(json), Path::new("/bundle"))
    }

    #[test]
    fn mounts_become_steps_in_order() {
        let tree = plan(
            r#""mounts":[
                {"destination":"/proc","type":"proc","source":"proc","options":["nosuid","noexec"]},
                {"destination":"/dev/pts","type":"devpts","options":["mode=0620","gid=5","newinstance"]},
                {"destination":"/sys/fs/cgroup","type":"cgroup","options":["ro"]},
                {"destination":"etc/hosts","type":"bind","source":"hosts","options":["rw"]},
                {"destination":"/data","source":"/srv","options":["rbind","ro","rslave"]}]"#,
        )
        .expect("plan");
        let new = |kind: &str, source: &str| What::New {
            kind: kind.into(),
            source: source.into(),
        };
        let bind = |source: &str, recursive| What::Bind {
            source: source.into(),
            recursive,
        };
        let what: Vec<What> = tree.mounts.iter().map(|step| step.what.clone()).collect();
        assert_eq!(
            what,
            [
                new("proc", "proc"),
                new("devpts", "devpts"),
                new("cgroup", "cgroup"),
                bind("/bundle/hosts", false),
                bind("/srv", true)
            ]
        );
        assert_eq!(tree.mounts[0].options.set, attr::NOSUID | attr::NOEXEC);
        assert_eq!(tree.mounts[1].options.data.len(), 3);
        assert_eq!(tree.mounts[3].target, Path::new("/etc/hosts"));
        assert_eq!(tree.mounts[3].options.clear, 0);
        assert_eq!(tree.mounts[4].options.set, attr::RDONLY);
        assert_eq!(tree.mounts[4].options.propagation, Some((Propagation::Slave, true)));
    }

    #[test]
    fn a_container_has_the_default_nodes_unless_dev_is_bound() {
        let own = plan(r#""mounts":[{"destination":"/dev","type":"tmpfs"}]"#).expect("plan");
        assert_eq!((own.devices.len(), own.links.len()), (6, 6));
        let bound = plan(r#""mounts":[{"destination":"/dev","type":"bind","source":"/dev"}]"#).expect("plan");
        assert_eq!((bound.devices.len(), bound.links.len()), (0, 0));
        let more = plan(
            r#""linux":{"devices":[{"path":"/dev/null","type":"c","major":1,"minor":3},
                                    {"path":"/dev/fuse","type":"c","major":10,"minor":229}]}"#,
        )
        .expect("plan");
        assert_eq!(more.devices.len(), 7);
        assert_eq!(
            more.devices[6],
            Node {
                path: "/dev/fuse".into(),
                kind: NodeKind::Char(10, 229),
                mode: 0o666,
                owner: (0, 0),
            }
        );
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let cases = [
            (r#""mounts":[{"destination":"","type":"proc"}]"#, "must be there"),
            (
                r#""linux":{"namespaces":[{"type":"user"}]},
                    "mounts":[{"destination":"/x","type":"ext4","source":"/dev/sda"}]"#,
                "`ext4`",
            ),
            (r#""mounts":[{"destination":"/x","type":"bind"}]"#, "needs a source"),
            (
                r#""mounts":[{"destination":"/x","source":"/y","options":["bind","fly"]}]"#,
                "`fly`",
            ),
            (
                r#""mounts":[{"destination":"/x","source":"/y","options":["bind","tmpcopyup"]}]"#,
                "tmpcopyup",
            ),
            (r#""linux":{"rootfsPropagation":"loud"}"#, "`loud`"),
            (
                r#""linux":{"devices":[{"path":"/dev/p","type":"c","major":-1,"minor":0}]}"#,
                "negative",
            ),
        ];
        for (json, text) in cases {
            let error = plan(json).expect_err(json).to_string();
            assert!(error.contains(text), "{json}: {error}");
        }
    }

    #[test]
    fn hidden_and_read_only_paths_are_taken_over() {
        let tree = plan(
            r#""root":{"path":"rootfs","readonly":true},
               "linux":{"maskedPaths":["/proc/kcore"],"readonlyPaths":["/proc/sys"],"rootfsPropagation":"rslave"}"#,
        )
        .expect("plan");
        assert_eq!(tree.masked, [PathBuf::from("/proc/kcore")]);
        assert_eq!(tree.read_only, [PathBuf::from("/proc/sys")]);
        assert_eq!(tree.root_propagation, Some((Propagation::Slave, true)));
        assert!(tree.root_read_only);
    }
}

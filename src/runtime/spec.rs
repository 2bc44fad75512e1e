//! From a container's record to the `config.json` of its OCI bundle (pure): what the image and the user say, with the
//! defaults of [`super::defaults`], as the OCI's image and runtime specifications want it. Any OCI runtime can run it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::seccomp::{Abi, Profile, SeccompError};
use super::{defaults, etc, resources};
use crate::disk::layout::Layout;
use crate::sys::creds::Caps;
use crate::sys::path::{self, FsKind};
use crate::sys::process::limit_by_name;
use crate::types::bounds::CONFIG_FILE_BYTES;
use crate::types::container::{self, ContainerRecord, ContainerSpec, MountSource, Network, Seccomp};
use crate::types::idmap::{Extent, IdMap};
use crate::types::oci::image::ImageConfiguration;
use crate::types::oci::runtime::{
    Linux, LinuxCapabilities, LinuxIdMapping, LinuxNamespace, LinuxNamespaceType, LinuxSeccomp, Mount, PosixRlimit,
    Process, Root, Spec, User,
};

/// The version of the runtime specification that bundles are written in.
pub const VERSION: &str = "1.0.2";

/// What of the host a bundle depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// The container's ids, seen from the store's user namespace.
    pub id_map: IdMap,
    /// Version of the kernel: major, minor.
    pub kernel: (u32, u32),
    /// Control groups are v2 at `/sys/fs/cgroup`.
    pub cgroup_v2: bool,
    /// The host's name.
    pub hostname: String,
    /// The host's `/etc/hosts`.
    pub hosts: String,
    /// The host's `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// Where private networks reach the host, if they do.
    pub address: Option<IpAddr>,
    /// Whose namespaces the container shares.
    pub joins: Option<Joins>,
}

/// A container whose namespaces another one shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joins {
    /// Its first process, seen from the monitor's pid namespace.
    pub pid: i32,
    /// Whether names and System V objects are shared too, as in a pod; else the network alone.
    pub pod: bool,
    /// Its host name.
    pub host_name: String,
}

impl HostFacts {
    /// Reads the facts. `store` is the id map of the store's user namespace. What cannot be read is empty.
    pub fn new(store: &IdMap) -> HostFacts {
        use std::os::fd::AsFd;
        let proc = |name: &str| std::fs::read_to_string(Path::new("/proc/sys/kernel").join(name)).unwrap_or_default();
        let text = |path: &str| {
            let root = path::open_root(Path::new("/")).ok()?;
            let bytes = path::read_bounded(root.as_fd(), Path::new(path), CONFIG_FILE_BYTES).ok()??;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        let groups = path::open_root(Path::new("/sys/fs/cgroup")).and_then(|dir| path::fs_kind(dir.as_fd()));
        HostFacts {
            id_map: store.nested(),
            kernel: version(&proc("osrelease")),
            cgroup_v2: groups.is_ok_and(|kind| kind == FsKind::Cgroup2),
            hostname: proc("hostname").trim().to_owned(),
            hosts: text("etc/hosts").unwrap_or_default(),
            resolv_conf: text("etc/resolv.conf").unwrap_or_default(),
            address: None,
            joins: None,
        }
    }
}

fn version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// What of a record cannot become a bundle.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// No such capability.
    #[error("capability `{name}` is not known")]
    Capability {
        /// As given.
        name: String,
    },
    /// No such resource limit.
    #[error("ulimit `{name}` is not known")]
    Ulimit {
        /// As given.
        name: String,
    },
    /// The seccomp profile is wrong.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
}

/// Builds the specification of one container. Its user, where it is a name, stands there as root: names are looked up
/// inside the root, by `Launch::user`.
pub fn build(
    record: &ContainerRecord,
    image: Option<&ImageConfiguration>,
    host: &HostFacts,
    layout: &Layout,
) -> Result<Spec, SpecError> {
    let asked = &record.spec;
    let bundle = layout.bundle(&record.id);
    Ok(Spec {
        oci_version: VERSION.to_owned(),
        root: Some(Root {
            path: PathBuf::from("rootfs"),
            readonly: Some(asked.read_only),
        }),
        mounts: Some(mounts(record, host, &bundle, &layout.volumes())),
        process: Some(process(record, host)?),
        // A shared name is not this container's to set.
        hostname: Some(etc::host_name(record, host)).filter(|_| !host.joins.as_ref().is_some_and(|joins| joins.pod)),
        annotations: Some(annotations(asked, image)),
        linux: Some(linux(record, host)?),
        ..Spec::default()
    })
}

/// Adds what systemd gives the program: the folder with a socket that it tells how it is, sockets to serve and their names.
pub fn hand(spec: &mut Spec, notify: Option<&Path>, (sockets, names): &(usize, String)) {
    let mut new = Vec::new();
    if let Some(folder) = notify {
        let options = ["bind", "rprivate", "nosuid", "nodev", "noexec", "ro"];
        let mounts = spec.mounts.get_or_insert_default();
        mounts.push(mount("/run/notify", "bind", &folder.to_string_lossy(), &options));
        new.push("NOTIFY_SOCKET=/run/notify/notify.sock".to_owned());
    }
    if *sockets > 0 {
        new.extend([format!("LISTEN_FDS={sockets}"), "LISTEN_PID=1".to_owned()]);
        new.extend((!names.is_empty()).then(|| format!("LISTEN_FDNAMES={names}")));
    }
    let name = |var: &str| var.split('=').next().unwrap_or_default().to_owned();
    if let Some(env) = spec.process.as_mut().map(|process| process.env.get_or_insert_default()) {
        env.retain(|old| !new.iter().any(|var| name(var) == name(old)));
        env.extend(new);
    }
}

/// A process that `exec` runs in a container: the container's own, with other arguments and, where they are given, other
/// environment variables (`NAME=value`, added or replaced), working directory, user and privileges.
pub fn exec_process(
    spec: &Spec,
    args: &[String],
    env: &[String],
    cwd: Option<&str>,
    user: Option<&str>,
    tty: bool,
) -> Process {
    let mut process = spec.process.clone().unwrap_or_default();
    let mut all = process.env.take().unwrap_or_default();
    for var in env {
        let name = var.split_once('=').map_or(var.as_str(), |(name, _)| name);
        all.retain(|old| old.split('=').next() != Some(name));
        all.push(var.clone());
    }
    if tty && !all.iter().any(|var| var.starts_with("TERM=")) {
        all.push("TERM=xterm".to_owned());
    }
    if let Some(user) = user {
        // Another user has another home; init finds it.
        if !env.iter().any(|var| var.starts_with("HOME=")) {
            all.retain(|var| !var.starts_with("HOME="));
        }
        let (uid, gid) = numbers(user);
        process.user = User {
            uid,
            gid,
            umask: process.user.umask,
            ..User::default()
        };
        let bounding = process.capabilities.take().and_then(|caps| caps.bounding);
        let bounding = Caps::by_names(&bounding.unwrap_or_default());
        process.capabilities = Some(capability_sets(bounding, user));
    }
    process.env = Some(all);
    process.args = Some(args.to_vec());
    process.terminal = Some(tty);
    process.console_size = None;
    if let Some(cwd) = cwd {
        process.cwd = PathBuf::from(cwd);
    }
    process
}

fn process(record: &ContainerRecord, host: &HostFacts) -> Result<Process, SpecError> {
    let asked = &record.spec;
    let (uid, gid) = numbers(&asked.user);
    let cwd = if asked.workdir.is_empty() { "/" } else { &asked.workdir };
    Ok(Process {
        terminal: Some(asked.tty),
        user: User {
            uid,
            gid,
            umask: Some(record.extras.umask.unwrap_or(0o022)),
            additional_gids: (!record.extras.groups.is_empty()).then(|| record.extras.groups.clone()),
            ..User::default()
        },
        oom_score_adj: record.extras.oom_score_adj,
        args: Some(asked.args.clone()),
        env: Some(environment(record, host)),
        cwd: PathBuf::from(cwd),
        capabilities: Some(capability_sets(capabilities(asked)?, &asked.user)),
        rlimits: Some(asked.rlimits.iter().map(rlimit).collect::<Result<_, _>>()?),
        no_new_privileges: Some(asked.no_new_privs),
        ..Process::default()
    })
}

/// Numbers where the user is given as numbers.
fn numbers(user: &str) -> (u32, u32) {
    let (uid, gid) = user.split_once(':').unwrap_or((user, ""));
    (uid.parse().unwrap_or(0), gid.parse().unwrap_or(0))
}

fn environment(record: &ContainerRecord, host: &HostFacts) -> Vec<String> {
    let mut env = record.spec.env.clone();
    let mut default = |name: &str, value: &str| {
        if !env.iter().any(|var| var.split('=').next() == Some(name)) {
            env.push(format!("{name}={value}"));
        }
    };
    default("PATH", defaults::PATH.trim_start_matches("PATH="));
    if record.spec.tty {
        default("TERM", "xterm");
    }
    default("HOSTNAME", &etc::host_name(record, host));
    default("container", "oci");
    if record.extras.systemd {
        default("container_uuid", &record.id.hex()[..32]);
    }
    env
}

fn capabilities(asked: &ContainerSpec) -> Result<Caps, SpecError> {
    asked.capabilities.iter().try_fold(Caps::NONE, |all, name| {
        let cap = Caps::by_name(name).ok_or_else(|| SpecError::Capability { name: name.clone() })?;
        Ok(all | cap)
    })
}

/// Root has what the bounding set holds. Anybody else has only what was added to the defaults, ambient, so that it
/// survives exec.
fn capability_sets(bounding: Caps, user: &str) -> LinuxCapabilities {
    let is_root = matches!(user.split(':').next(), None | Some("" | "root" | "0"));
    let added = bounding.without(Caps::by_names(&defaults::CAPABILITIES));
    let effective = if is_root { bounding } else { added };
    let kept = if is_root { Caps::NONE } else { added };
    LinuxCapabilities {
        bounding: Some(bounding.long_names()),
        effective: Some(effective.long_names()),
        inheritable: Some(kept.long_names()),
        permitted: Some(effective.long_names()),
        ambient: Some(kept.long_names()),
    }
}

fn rlimit((name, soft, hard): &(String, u64, u64)) -> Result<PosixRlimit, SpecError> {
    if limit_by_name(name).is_none() {
        return Err(SpecError::Ulimit { name: name.clone() });
    }
    Ok(PosixRlimit {
        kind: name.clone(),
        hard: *hard,
        soft: *soft,
    })
}

/// Annotations that the image specification names (conversion.md), and the user's, which win. Labels of an image do not
/// become annotations: runtimes take orders from some of those.
fn annotations(asked: &ContainerSpec, image: Option<&ImageConfiguration>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    if let Some(image) = image {
        let mut add = |key: &str, value: Option<&String>| {
            if let Some(value) = value.filter(|v| !v.is_empty()) {
                all.insert(format!("org.opencontainers.image.{key}"), value.clone());
            }
        };
        add("os", Some(&image.os));
        add("architecture", Some(&image.architecture));
        add("variant", image.variant.as_ref());
        add("author", image.author.as_ref());
        add("created", image.created.as_ref());
    }
    all.extend(
        asked
            .annotations
            .iter()
            .map(|(key, value)| (key.clone(), value.clone())),
    );
    all
}

fn linux(record: &ContainerRecord, host: &HostFacts) -> Result<Linux, SpecError> {
    let asked = &record.spec;
    let mut kinds = vec![
        LinuxNamespaceType::User,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Cgroup,
    ];
    if asked.network != Network::Host {
        kinds.push(LinuxNamespaceType::Network);
    }
    let namespaces = kinds.into_iter().map(|kind| LinuxNamespace {
        path: host.joins.as_ref().and_then(|joins| shared(kind, joins)),
        kind,
    });
    let maps = |extents: &[Extent]| extents.iter().map(mapping).collect::<Vec<_>>();
    // A user namespace that is shared has its map already.
    let mappings = |extents: &[Extent]| host.joins.is_none().then(|| maps(extents));
    let owned = |list: &[&str]| Some(list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
    Ok(Linux {
        namespaces: Some(namespaces.collect()),
        uid_mappings: mappings(&host.id_map.uids),
        gid_mappings: mappings(&host.id_map.gids),
        sysctl: Some(sysctls(asked, host)),
        resources: resources::of(&asked.limits, record.extras.io_weight, host.cgroup_v2),
        seccomp: filter(asked, host)?,
        masked_paths: owned(&defaults::MASKED),
        readonly_paths: owned(&defaults::READ_ONLY),
        ..Linux::default()
    })
}

/// Path of the namespace of this kind, where it is shared. Who joins a network must be in the user namespace that owns it.
fn shared(kind: LinuxNamespaceType, joins: &Joins) -> Option<PathBuf> {
    let name = match kind {
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::Ipc if joins.pod => "ipc",
        LinuxNamespaceType::Uts if joins.pod => "uts",
        _ => return None,
    };
    Some(PathBuf::from(format!("/proc/{}/ns/{name}", joins.pid)))
}

fn mapping(extent: &Extent) -> LinuxIdMapping {
    LinuxIdMapping {
        host_id: extent.outside,
        container_id: extent.inside,
        size: extent.count,
    }
}

/// podman's default lets everybody ping; it belongs to the container's own network.
fn sysctls(asked: &ContainerSpec, host: &HostFacts) -> BTreeMap<String, String> {
    const PING: &str = "net.ipv4.ping_group_range";
    let mut all = asked.sysctls.clone();
    if asked.network != Network::Host && host.joins.is_none() {
        all.entry(PING.to_owned()).or_insert_with(|| "0 0".to_owned());
    }
    all
}

fn filter(asked: &ContainerSpec, host: &HostFacts) -> Result<Option<LinuxSeccomp>, SpecError> {
    let profile = match &asked.seccomp {
        Seccomp::Unconfined => return Ok(None),
        Seccomp::Default => return standard(capabilities(asked)?, host.kernel).map(Some),
        Seccomp::Profile(text) => Profile::parse(text)?,
    };
    Ok(Some(profile.resolve(Abi::NATIVE, capabilities(asked)?, host.kernel)))
}

/// The standard profile for these capabilities, the same for nearly every container of a host. To read it is the dearest part of a
/// start, so that a daemon keeps what it came to last.
fn standard(caps: Caps, kernel: (u32, u32)) -> Result<LinuxSeccomp, SpecError> {
    type Made = (Caps, (u32, u32), LinuxSeccomp);
    static LAST: Mutex<Option<Made>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    match &*last {
        Some((of, on, filter)) if *of == caps && *on == kernel => Ok(filter.clone()),
        _ => {
            let filter = Profile::standard()?.resolve(Abi::NATIVE, caps, kernel);
            *last = Some((caps, kernel, filter.clone()));
            Ok(filter)
        }
    }
}

fn mounts(record: &ContainerRecord, host: &HostFacts, bundle: &Path, volumes: &Path) -> Vec<Mount> {
    let asked = &record.spec;
    let mut all: Vec<Mount> = defaults::MOUNTS
        .iter()
        .map(|(target, kind, source, options)| mount(target, kind, source, options))
        .collect();
    let mut pts = defaults::DEVPTS.to_vec();
    if host.id_map.has_gid(5) {
        pts.push("gid=5");
    }
    all.push(mount("/dev/pts", "devpts", "devpts", &pts));
    all.push(match asked.network {
        Network::Host => mount("/sys", "bind", "/sys", &defaults::SYSFS_BOUND),
        Network::None | Network::Private => mount("/sys", "sysfs", "sysfs", &defaults::SYSFS),
    });
    if record.extras.systemd {
        all.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &defaults::CGROUP_WRITABLE));
        let memory = defaults::SYSTEMD.map(|target| mount(target, "tmpfs", "tmpfs", &defaults::SYSTEMD_TMPFS));
        all.extend(memory);
    } else if host.cgroup_v2 {
        all.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &defaults::CGROUP));
    }
    for (name, _) in etc::files(record, host) {
        let source = bundle.join(name);
        all.push(mount(
            &format!("/etc/{name}"),
            "bind",
            &source.to_string_lossy(),
            &["bind", "rprivate"],
        ));
    }
    let own: Vec<Mount> = asked.mounts.iter().map(|mount| user_mount(mount, volumes)).collect();
    // Who mounts something at a place of ours means it.
    all.retain(|default| !own.iter().any(|mount| mount.destination == default.destination));
    all.extend(own);
    // Devices go after what the user mounts: that may be a /dev.
    all.extend(
        asked
            .devices
            .iter()
            .map(|device| mount(&device.container, "bind", &device.host, &DEVICE)),
    );
    // What lies deeper is mounted later, so that nothing is covered; those of one depth stay in order.
    all.sort_by_key(|mount| mount.destination.components().count());
    all
}

const DEVICE: [&str; 4] = ["bind", "rprivate", "nosuid", "noexec"];

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        destination: PathBuf::from(target),
        kind: Some(kind.to_owned()),
        source: Some(PathBuf::from(source)),
        options: Some(options.iter().map(|&option| option.to_owned()).collect()),
        ..Mount::default()
    }
}

/// A mount with podman's defaults for what its options do not say.
fn user_mount(asked: &container::Mount, volumes: &Path) -> Mount {
    let tmpfs = asked.source == MountSource::Tmpfs;
    let mut options: Vec<&str> = asked.options.iter().map(String::as_str).collect();
    let says = |options: &[&str], known: &[&str]| options.iter().any(|option| known.contains(option));
    if asked.read_only {
        options.retain(|option| *option != "rw");
        options.push("ro");
    }
    let defaults: [(&[&str], &str, bool); 7] = [
        (&["ro", "rw", "rro"], "rw", true),
        (
            &[
                "private",
                "rprivate",
                "slave",
                "rslave",
                "shared",
                "rshared",
                "unbindable",
                "runbindable",
            ],
            "rprivate",
            true,
        ),
        (&["nosuid", "suid"], "nosuid", true),
        (&["nodev", "dev"], "nodev", true),
        (&["noexec", "exec"], "noexec", tmpfs),
        (&["tmpcopyup", "notmpcopyup"], "tmpcopyup", tmpfs),
        (&["bind", "rbind"], "rbind", !tmpfs),
    ];
    for (known, default, applies) in defaults {
        if applies && !says(&options, known) {
            options.push(default);
        }
    }
    let (kind, source) = match &asked.source {
        MountSource::Bind(path) => ("bind", path.clone()),
        MountSource::Volume(name) => ("bind", volumes.join(name).join("_data").to_string_lossy().into_owned()),
        MountSource::Tmpfs => ("tmpfs", "tmpfs".to_owned()),
    };
    mount(&asked.target, kind, &source, &options)
}

#[cfg(test)]
#[path = "spec_tests.rs"]
pub(super) mod tests;

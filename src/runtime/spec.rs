//! From a container's record to the `config.json` of its OCI bundle (pure): what the image and the user say, with the
//! defaults of [`super::defaults`], as the OCI's image and runtime specifications want it. Any OCI runtime can run it.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxCapabilities, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace,
    LinuxNamespaceType, LinuxSeccomp, Mount, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, Root, Spec,
    User,
};

use super::seccomp::{Abi, Profile, SeccompError};
use super::{defaults, etc, resources};
use crate::disk::layout::Layout;
use crate::sys::path::{self, FsKind};
use crate::types::bounds::CONFIG_FILE_BYTES;
use crate::types::container::{self, ContainerRecord, ContainerSpec, MountSource, Network, Seccomp};
use crate::types::idmap::{Extent, IdMap};

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
    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs"))
        .set_readonly(Some(asked.read_only));
    let mut spec = Spec::default();
    spec.set_version(VERSION.to_owned())
        .set_root(Some(root))
        .set_mounts(Some(mounts(record, host, &bundle, &layout.volumes())))
        .set_process(Some(process(record, host)?))
        .set_hostname(Some(etc::host_name(record, host)))
        .set_annotations(Some(annotations(asked, image)))
        .set_linux(Some(linux(asked, host)?));
    Ok(spec)
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
    let mut process = spec.process().clone().unwrap_or_default();
    let mut all = process.env().clone().unwrap_or_default();
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
        let mut ids = User::default();
        ids.set_umask(process.user().umask());
        let (uid, gid) = numbers(user);
        ids.set_uid(uid).set_gid(gid);
        process.set_user(ids);
        let bounding = process
            .capabilities()
            .as_ref()
            .and_then(|caps| caps.bounding().clone())
            .unwrap_or_default();
        process.set_capabilities(Some(capability_sets(bounding, user)));
    }
    process
        .set_env(Some(all))
        .set_args(Some(args.to_vec()))
        .set_terminal(Some(tty))
        .set_console_size(None);
    if let Some(cwd) = cwd {
        process.set_cwd(PathBuf::from(cwd));
    }
    process
}

fn process(record: &ContainerRecord, host: &HostFacts) -> Result<Process, SpecError> {
    let asked = &record.spec;
    let (uid, gid) = numbers(&asked.user);
    let mut user = User::default();
    user.set_uid(uid).set_gid(gid).set_umask(Some(0o022));
    let mut process = Process::default();
    process
        .set_terminal(Some(asked.tty))
        .set_user(user)
        .set_args(Some(asked.args.clone()))
        .set_env(Some(environment(record, host)))
        .set_cwd(PathBuf::from(if asked.workdir.is_empty() {
            "/"
        } else {
            &asked.workdir
        }))
        .set_capabilities(Some(capability_sets(capabilities(asked)?, &asked.user)))
        .set_rlimits(Some(asked.rlimits.iter().map(rlimit).collect::<Result<_, _>>()?))
        .set_no_new_privileges(Some(asked.no_new_privs));
    Ok(process)
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
    env
}

fn capabilities(asked: &ContainerSpec) -> Result<Capabilities, SpecError> {
    asked.capabilities.iter().map(|name| capability(name)).collect()
}

fn capability(name: &str) -> Result<Capability, SpecError> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    short
        .parse()
        .map_err(|_| SpecError::Capability { name: name.to_owned() })
}

/// Root has what the bounding set holds. Anybody else has only what was added to the defaults, ambient, so that it
/// survives exec.
fn capability_sets(bounding: Capabilities, user: &str) -> LinuxCapabilities {
    let is_root = matches!(user.split(':').next(), None | Some("" | "root" | "0"));
    let usual: HashSet<Capability> = defaults::CAPABILITIES
        .iter()
        .filter_map(|name| capability(name).ok())
        .collect();
    let added: Capabilities = bounding.difference(&usual).copied().collect();
    let effective = if is_root { bounding.clone() } else { added.clone() };
    let kept = if is_root { Capabilities::new() } else { added };
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(bounding))
        .set_effective(Some(effective.clone()))
        .set_permitted(Some(effective))
        .set_inheritable(Some(kept.clone()))
        .set_ambient(Some(kept));
    sets
}

fn rlimit((name, soft, hard): &(String, u64, u64)) -> Result<PosixRlimit, SpecError> {
    let typ: PosixRlimitType = name.parse().map_err(|_| SpecError::Ulimit { name: name.clone() })?;
    // Nothing that the builder could miss.
    Ok(PosixRlimitBuilder::default()
        .typ(typ)
        .soft(*soft)
        .hard(*hard)
        .build()
        .unwrap_or_default())
}

/// Annotations that the image specification names (conversion.md), and the user's, which win. Labels of an image do not
/// become annotations: runtimes take orders from some of those.
fn annotations(asked: &ContainerSpec, image: Option<&ImageConfiguration>) -> HashMap<String, String> {
    let mut all = HashMap::new();
    if let Some(image) = image {
        let mut add = |key: &str, value: Option<String>| {
            if let Some(value) = value.filter(|v| !v.is_empty()) {
                all.insert(format!("org.opencontainers.image.{key}"), value);
            }
        };
        add("os", Some(image.os().to_string()));
        add("architecture", Some(image.architecture().to_string()));
        add("variant", image.variant().clone());
        add("author", image.author().clone());
        add("created", image.created().clone());
    }
    all.extend(
        asked
            .annotations
            .iter()
            .map(|(key, value)| (key.clone(), value.clone())),
    );
    all
}

fn linux(asked: &ContainerSpec, host: &HostFacts) -> Result<Linux, SpecError> {
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
    let namespaces = kinds.into_iter().map(|kind| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind);
        namespace
    });
    let mappings = |extents: &[Extent]| Some(extents.iter().map(mapping).collect::<Vec<_>>());
    let owned = |list: &[&str]| Some(list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces.collect()))
        .set_uid_mappings(mappings(&host.id_map.uids))
        .set_gid_mappings(mappings(&host.id_map.gids))
        .set_sysctl(Some(sysctls(asked)))
        .set_resources(resources::of(&asked.limits, host.cgroup_v2))
        .set_seccomp(filter(asked, host)?)
        .set_masked_paths(owned(&defaults::MASKED))
        .set_readonly_paths(owned(&defaults::READ_ONLY));
    Ok(linux)
}

fn mapping(extent: &Extent) -> LinuxIdMapping {
    let builder = LinuxIdMappingBuilder::default();
    let builder = builder
        .container_id(extent.inside)
        .host_id(extent.outside)
        .size(extent.count);
    // Nothing that the builder could miss.
    builder.build().unwrap_or_default()
}

/// podman's default lets everybody ping; it belongs to the container's own network.
fn sysctls(asked: &ContainerSpec) -> HashMap<String, String> {
    const PING: &str = "net.ipv4.ping_group_range";
    let mut all: HashMap<String, String> = asked.sysctls.clone().into_iter().collect();
    if asked.network != Network::Host {
        all.entry(PING.to_owned()).or_insert_with(|| "0 0".to_owned());
    }
    all
}

fn filter(asked: &ContainerSpec, host: &HostFacts) -> Result<Option<LinuxSeccomp>, SpecError> {
    let profile = match &asked.seccomp {
        Seccomp::Unconfined => return Ok(None),
        Seccomp::Default => Profile::standard()?,
        Seccomp::Profile(text) => Profile::parse(text)?,
    };
    Ok(Some(profile.resolve(Abi::NATIVE, &capabilities(asked)?, host.kernel)))
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
    if host.cgroup_v2 {
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
    all.retain(|default| !own.iter().any(|mount| mount.destination() == default.destination()));
    all.extend(own);
    // Devices go after what the user mounts: that may be a /dev.
    all.extend(
        asked
            .devices
            .iter()
            .map(|device| mount(&device.container, "bind", &device.host, &DEVICE)),
    );
    // What lies deeper is mounted later, so that nothing is covered; those of one depth stay in order.
    all.sort_by_key(|mount| mount.destination().components().count());
    all
}

const DEVICE: [&str; 4] = ["bind", "rprivate", "nosuid", "noexec"];

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(PathBuf::from(target))
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(PathBuf::from(source)))
        .set_options(Some(options.iter().map(|&option| option.to_owned()).collect()));
    mount
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

//! What of a specification is not supported is refused by the name of its field, before anything is made (pure).

use std::path::PathBuf;

use super::error::RuntimeError;
use super::links;
use super::schedule::{Affinity, Schedule};
use super::times;
use crate::sys::creds::Caps;
use crate::sys::ns::Namespaces;
use crate::sys::process::limit_by_name;
use crate::types::oci::runtime::{Hooks, Linux, LinuxNamespaceType, Process, Spec};

/// The namespaces that a specification asks for; those that are neither made nor joined are the caller's.
#[derive(Debug, Default)]
pub struct Asked {
    /// New ones.
    pub new: Namespaces,
    /// Those that exist, by the path of their file.
    pub joined: Vec<(Namespaces, PathBuf)>,
}

impl Asked {
    /// All kinds, new and joined.
    pub fn all(&self) -> Namespaces {
        self.joined.iter().fold(self.new, |all, (kind, _)| all | *kind)
    }
}

/// The namespaces that a specification asks for. A mount namespace is needed.
pub fn namespaces(spec: &Spec) -> Result<Asked, RuntimeError> {
    let field = "linux.namespaces";
    let listed = spec.linux.as_ref().and_then(|linux| linux.namespaces.as_ref());
    let mut found = Asked::default();
    for namespace in listed.into_iter().flatten() {
        let (kind, name) = match namespace.kind {
            LinuxNamespaceType::Mount => (Namespaces::MOUNT, "mount"),
            LinuxNamespaceType::Cgroup => (Namespaces::CGROUP, "cgroup"),
            LinuxNamespaceType::Uts => (Namespaces::UTS, "uts"),
            LinuxNamespaceType::Ipc => (Namespaces::IPC, "ipc"),
            LinuxNamespaceType::User => (Namespaces::USER, "user"),
            LinuxNamespaceType::Pid => (Namespaces::PID, "pid"),
            LinuxNamespaceType::Network => (Namespaces::NET, "network"),
            LinuxNamespaceType::Time => (Namespaces::TIME, "time"),
        };
        if found.all().has(kind) {
            return Err(RuntimeError::spec(field, format!("`{name}` is there twice")));
        }
        match namespace.path.as_ref().filter(|path| !path.as_os_str().is_empty()) {
            Some(path) if !path.is_absolute() => {
                let problem = format!("the path `{}` of `{name}` is not absolute", path.display());
                return Err(RuntimeError::spec(field, problem));
            }
            Some(path) => found.joined.push((kind, path.clone())),
            None => found.new = found.new | kind,
        }
    }
    if !found.all().has(Namespaces::MOUNT) {
        return Err(RuntimeError::spec(field, "`mount` must be there"));
    }
    let linux = spec.linux.as_ref();
    let offsets = linux.and_then(|linux| linux.time_offsets.as_ref());
    if offsets.is_some_and(|all| !all.is_empty()) && !found.new.has(Namespaces::TIME) {
        return Err(RuntimeError::spec("linux.timeOffsets", "needs a new `time` namespace"));
    }
    let mapped = |maps: Option<&Vec<_>>| maps.is_some_and(|maps| !maps.is_empty());
    if mapped(linux.and_then(|l| l.uid_mappings.as_ref())) && !found.all().has(Namespaces::USER) {
        return Err(RuntimeError::spec("linux.uidMappings", "needs a `user` namespace"));
    }
    Ok(found)
}

/// Refuses what else a specification may ask for and is not supported.
pub fn supported(spec: &Spec, namespaces: Namespaces) -> Result<(), RuntimeError> {
    let version = &spec.oci_version;
    if !version.starts_with("1.") {
        return Err(RuntimeError::spec("ociVersion", format!("`{version}` is not 1.x")));
    }
    let refuse = |asked: bool, field: &str| match asked {
        true => Err(RuntimeError::spec(field, "is not supported")),
        false => Ok(()),
    };
    for hook in spec.hooks.iter().flat_map(Hooks::all) {
        if !hook.path.is_absolute() {
            let problem = format!("`{}` is not absolute", hook.path.display());
            return Err(RuntimeError::spec("hooks", problem));
        }
        if hook.timeout.is_some_and(|seconds| seconds <= 0) {
            return Err(RuntimeError::spec("hooks", "`timeout` must be more than 0"));
        }
    }
    if let Some(linux) = &spec.linux {
        refuse(linux.intel_rdt.is_some(), "linux.intelRdt")?;
        links::check(spec, namespaces)?;
        times::check(linux.time_offsets.as_ref())?;
        for key in linux.sysctl.iter().flatten().map(|(key, _)| key) {
            sysctl(key, namespaces)?;
        }
    }
    let uts = namespaces.has(Namespaces::UTS);
    for (name, field) in [(&spec.hostname, "hostname"), (&spec.domainname, "domainname")] {
        if name.as_ref().is_some_and(|name| !name.is_empty() && !uts) {
            return Err(RuntimeError::spec(field, "needs a `uts` namespace"));
        }
    }
    match &spec.process {
        Some(process) => process_supported(process, spec.linux.as_ref()),
        None => Err(RuntimeError::spec("process", "must be there")),
    }
}

/// Refuses what a process in a container with these settings may ask for and is not supported.
pub fn process_supported(process: &Process, linux: Option<&Linux>) -> Result<(), RuntimeError> {
    Schedule::of(process, linux)?;
    Affinity::of(process)?;
    known_names(process)?;
    if !process.cwd.is_absolute() {
        return Err(RuntimeError::spec(
            "process.cwd",
            format!("`{}` is not absolute", process.cwd.display()),
        ));
    }
    Ok(())
}

/// The capabilities that a process asks for and cannot get from somebody who can give `held`: to be left out, with a warning
/// (config.md, "Linux Process"). Each once, in the order of the names.
pub fn not_granted(process: &Process, held: Caps) -> Vec<&str> {
    let Some(caps) = &process.capabilities else {
        return Vec::new();
    };
    let sets = [
        &caps.bounding,
        &caps.effective,
        &caps.inheritable,
        &caps.permitted,
        &caps.ambient,
    ];
    let names = sets.into_iter().flatten().flatten().map(String::as_str);
    let mut all: Vec<&str> = names
        .filter(|name| !Caps::by_name(name).is_some_and(|cap| held.has(cap)))
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Names of limits that no kernel knows are refused: what would be left out is not what was asked for.
fn known_names(process: &Process) -> Result<(), RuntimeError> {
    let unknown = |field: &str, name: &str| Err(RuntimeError::spec(field, format!("`{name}` is not known")));
    let mut seen: Vec<&str> = Vec::new();
    for limit in process.rlimits.iter().flatten() {
        if limit_by_name(&limit.kind).is_none() {
            return unknown("process.rlimits", &limit.kind);
        }
        if seen.contains(&limit.kind.as_str()) {
            let problem = format!("`{}` is there twice", limit.kind);
            return Err(RuntimeError::spec("process.rlimits", problem));
        }
        seen.push(&limit.kind);
    }
    Ok(())
}

/// Kernel settings that belong to a namespace; all others are the host's.
fn sysctl(key: &str, namespaces: Namespaces) -> Result<(), RuntimeError> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let dotted = key.replace('/', ".");
    let (owner, name) = if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
        (Namespaces::IPC, "ipc")
    } else if dotted.starts_with("net.") {
        (Namespaces::NET, "network")
    } else if dotted == "kernel.domainname" {
        (Namespaces::UTS, "uts")
    } else {
        let problem = format!("`{key}` belongs to no namespace of the container: it would change the host");
        return Err(RuntimeError::spec("linux.sysctl", problem));
    };
    if !namespaces.has(owner) {
        return Err(RuntimeError::spec(
            "linux.sysctl",
            format!("`{key}` needs an own {name} namespace"),
        ));
    }
    if key.split(['.', '/']).any(|part| part.is_empty()) {
        return Err(RuntimeError::spec(
            "linux.sysctl",
            format!("`{key}` is not the name of a setting"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMESPACES: &str = r#""namespaces":[{"type":"user"},{"type":"mount"},{"type":"uts"},{"type":"network"}]"#;

    fn check(json: &str) -> Result<(), RuntimeError> {
        let spec: Spec = serde_json::from_str(json).expect("a specification");
        supported(&spec, namespaces(&spec)?.all())
    }

    fn with(more: &str, linux: &str, process: &str) -> String {
        format!(
            r#"{{"ociVersion":"1.2.0",{more}"linux":{{{NAMESPACES}{linux}}},
                "process":{{"user":{{"uid":0,"gid":0}},"cwd":"/"{process}}}}}"#
        )
    }

    #[test]
    fn what_is_supported_passes() {
        check(&with(
            r#""hostname":"x","#,
            r#","sysctl":{"net.ipv4.ip_forward":"0","net/ipv4/conf/eth0.1/rp_filter":"1"}"#,
            "",
        ))
        .expect("passes");
    }

    #[test]
    fn capabilities_that_cannot_be_given_are_told() {
        let json = r#"{"user":{},"cwd":"/","capabilities":{"ambient":["CAP_KILL","CAP_FLY"],"bounding":["CAP_CHOWN","CAP_FLY"]}}"#;
        let process: Process = serde_json::from_str(json).expect("a process");
        let held = |names: &[&str]| not_granted(&process, Caps::by_names(names));
        assert_eq!(held(&["KILL", "CHOWN"]), ["CAP_FLY"]);
        assert_eq!(held(&["KILL"]), ["CAP_CHOWN", "CAP_FLY"]);
    }

    #[test]
    fn each_unsupported_field_is_refused_by_name() {
        let cases = [
            (with(r#""hooks":{"poststop":[{"path":"x"}]},"#, "", ""), "hooks"),
            (
                with(r#""hooks":{"prestart":[{"path":"/x","timeout":0}]},"#, "", ""),
                "hooks",
            ),
            (
                with("", r#","personality":{"domain":"BSD"}"#, ""),
                "linux.personality.domain",
            ),
            (
                with("", r#","timeOffsets":{"boottime":{"secs":1}}"#, ""),
                "linux.timeOffsets",
            ),
            (with("", r#","intelRdt":{}"#, ""), "linux.intelRdt"),
            (
                with("", r#","netDevices":{"eth7":{}}"#, "").replace(r#",{"type":"network"}"#, ""),
                "linux.netDevices",
            ),
            (
                with("", r#","sysctl":{"kernel.core_pattern":"|/x"}"#, ""),
                "linux.sysctl",
            ),
            (with("", r#","sysctl":{"kernel.shmmax":"1"}"#, ""), "linux.sysctl"),
            (with("", r#","sysctl":{"net..x":"1"}"#, ""), "linux.sysctl"),
            (
                with("", "", r#","scheduler":{"policy":"SCHED_OTHER","nice":99}"#),
                "process.scheduler",
            ),
            (
                with("", "", r#","execCPUAffinity":{"initial":"x"}"#),
                "process.execCPUAffinity.initial",
            ),
            (
                with("", "", r#","rlimits":[{"type":"RLIMIT_FUN","hard":1,"soft":1}]"#),
                "process.rlimits",
            ),
            (
                with(
                    "",
                    "",
                    r#","rlimits":[{"type":"RLIMIT_CPU","hard":1,"soft":1},{"type":"RLIMIT_CPU","hard":2,"soft":1}]"#,
                ),
                "process.rlimits",
            ),
            (with("", "", "").replace(r#""cwd":"/""#, r#""cwd":"x""#), "process.cwd"),
            (with("", "", "").replace("1.2.0", "2.0.0"), "ociVersion"),
            (with("", "", "").replace(r#"{"type":"mount"},"#, ""), "linux.namespaces"),
            (
                with("", "", "").replace(r#"{"type":"uts"}"#, r#"{"type":"uts","path":"ns/uts"}"#),
                "linux.namespaces",
            ),
            (
                with("", r#","timeOffsets":{"realtime":{"secs":1}}"#, "")
                    .replace(r#"{"type":"uts"}"#, r#"{"type":"time"}"#),
                "linux.timeOffsets",
            ),
            (
                with(r#""hostname":"x","#, "", "").replace(r#",{"type":"uts"}"#, ""),
                "hostname",
            ),
        ];
        for (json, field) in cases {
            match check(&json).expect_err(field) {
                RuntimeError::Spec { field: named, .. } => assert_eq!(named, field),
                other => panic!("{other}"),
            }
        }
    }
}

//! Seccomp profiles as containers tools write them: OCI rules with conditions on capabilities, architecture and kernel.

use std::io::Read as _;

use flate2::bufread::DeflateDecoder;

use serde::Deserialize;

use super::{Abi, SeccompError};
use crate::sys::creds::Caps;
use crate::types::bounds::SECCOMP_PROFILE_BYTES;
use crate::types::oci::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSyscall,
};
use crate::types::read;

/// A profile before it is fitted to a container.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<Family>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<std::path::PathBuf>,
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

/// An architecture and those that its kernel also runs.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Family {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    name: Option<String>,
    #[serde(default)]
    names: Vec<String>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    args: Option<Vec<LinuxSeccompArg>>,
    includes: Option<Condition>,
    excludes: Option<Condition>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

impl Profile {
    /// The built-in profile: `config/seccomp.json`, without its spaces and compressed, which is 19 KB less in the binary.
    pub fn standard() -> Result<Profile, SeccompError> {
        let mut text = String::new();
        let packed = &include_bytes!("standard.deflate")[..];
        let unpacked = DeflateDecoder::new(packed).read_to_string(&mut text);
        unpacked.map_err(|error| SeccompError::Profile {
            reason: error.to_string(),
        })?;
        Profile::parse(&text)
    }

    /// Reads a profile's JSON. Keys that podman or docker know and that say nothing about the filter are passed over.
    pub fn parse(text: &str) -> Result<Profile, SeccompError> {
        if text.len() > SECCOMP_PROFILE_BYTES {
            return Err(SeccompError::ProfileTooLarge {
                bytes: text.len(),
                max: SECCOMP_PROFILE_BYTES,
            });
        }
        let wrong = |reason| SeccompError::Profile { reason };
        let profile: Profile = read::json(text.as_bytes()).map_err(|error| wrong(error.to_string()))?;
        let rules = profile.syscalls.iter();
        let unknown = rules
            .flat_map(|rule| [&rule.includes, &rule.excludes])
            .find_map(|condition| condition.as_ref()?.unknown());
        match unknown {
            Some(name) => Err(wrong(format!("capability `{name}` is not known"))),
            None => Ok(profile),
        }
    }

    /// The OCI settings for a container with the capabilities `caps` in its bounding set, on a kernel of version
    /// `kernel` (major, minor) whose own interface is `native`.
    ///
    /// `includes`: the rule counts only if all listed capabilities are there; `excludes`: it does not if any is.
    pub fn resolve(&self, native: Abi, caps: Caps, kernel: (u32, u32)) -> LinuxSeccomp {
        let rules = self.syscalls.iter().filter(|rule| {
            rule.includes
                .as_ref()
                .is_none_or(|condition| condition.all(native, caps, kernel))
                && !rule
                    .excludes
                    .as_ref()
                    .is_some_and(|condition| condition.any(native, caps, kernel))
        });
        LinuxSeccomp {
            default_action: self.default_action,
            default_errno_ret: self.default_errno_ret,
            architectures: Some(self.architectures(native)),
            flags: self.flags.clone(),
            listener_path: self.listener_path.clone(),
            listener_metadata: self.listener_metadata.clone(),
            syscalls: Some(rules.map(Rule::to_oci).collect()),
        }
    }

    fn architectures(&self, native: Abi) -> Vec<Arch> {
        let own = match native {
            Abi::X86_64 => Arch::X86_64,
            Abi::X86 => Arch::X86,
            Abi::Aarch64 => Arch::Aarch64,
            Abi::Arm => Arch::Arm,
        };
        let family = self.arch_map.iter().flatten().find(|family| family.architecture == own);
        match (family, &self.architectures) {
            (Some(family), _) => std::iter::once(own)
                .chain(family.sub_architectures.iter().flatten().copied())
                .collect(),
            (None, Some(listed)) => listed.clone(),
            (None, None) => vec![own],
        }
    }
}

impl Rule {
    fn to_oci(&self) -> LinuxSyscall {
        LinuxSyscall {
            names: self.names.iter().chain(&self.name).cloned().collect(),
            action: self.action,
            errno_ret: self.errno_ret,
            args: self.args.clone().filter(|args| !args.is_empty()),
        }
    }
}

impl Condition {
    /// The first capability that nobody knows.
    fn unknown(&self) -> Option<&String> {
        let mut caps = self.caps.iter().flatten();
        caps.find(|name| Caps::by_name(name).is_none())
    }

    fn all(&self, native: Abi, caps: Caps, kernel: (u32, u32)) -> bool {
        self.caps.iter().flatten().all(|name| holds(caps, name))
            && self
                .arches
                .as_ref()
                .is_none_or(|arches| arches.is_empty() || arches.iter().any(|name| is(native, name)))
            && self.min_kernel.as_ref().is_none_or(|least| kernel >= version(least))
    }

    fn any(&self, native: Abi, caps: Caps, kernel: (u32, u32)) -> bool {
        self.caps.iter().flatten().any(|name| holds(caps, name))
            || self.arches.iter().flatten().any(|name| is(native, name))
            || self.min_kernel.as_ref().is_some_and(|least| kernel >= version(least))
    }
}

fn holds(caps: Caps, name: &str) -> bool {
    Caps::by_name(name).is_some_and(|cap| caps.has(cap))
}

/// True if `name`, as profiles spell architectures, is `abi` or one that runs beside it.
fn is(abi: Abi, name: &str) -> bool {
    match abi {
        Abi::X86_64 | Abi::X86 => matches!(name, "amd64" | "x86_64" | "x86" | "386"),
        Abi::Aarch64 | Abi::Arm => matches!(name, "arm64" | "aarch64" | "arm"),
    }
}

/// `5.11` → (5, 11); what is not a number counts as a kernel that does not exist yet.
fn version(text: &str) -> (u32, u32) {
    let mut parts = text.splitn(3, '.').map(|part| part.parse().unwrap_or(u32::MAX));
    (parts.next().unwrap_or(u32::MAX), parts.next().unwrap_or(0))
}

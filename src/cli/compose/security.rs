//! `--security-opt`, `--device`, `--ulimit`.

use super::{FlagError, wrong};
use crate::disk::durable;
use crate::types::bounds;
use crate::types::container::{Device, Seccomp};
use crate::types::read;
use std::path::Path;

/// Bytes of a seccomp profile at the most; a container's record holds it.
const PROFILE_BYTES: u64 = bounds::RECORD_BYTES as u64 / 2;

/// Whether `no-new-privileges` is set. Refuses what is not known.
pub fn no_new_privileges(options: &[String]) -> Result<bool, FlagError> {
    let mut set = false;
    for text in options {
        let (key, value) = split(text);
        match (key, value) {
            ("no-new-privileges", "" | "true" | "1") => set = true,
            ("no-new-privileges", "false" | "0") => set = false,
            ("seccomp", "") => {
                return Err(wrong(
                    "--security-opt",
                    text,
                    "write seccomp=FILE or seccomp=unconfined",
                ));
            }
            ("seccomp", _) | ("label", "disable" | "nested") | ("apparmor", "unconfined") => {}
            ("label" | "apparmor", _) => {
                return Err(wrong(
                    "--security-opt",
                    text,
                    "labels and profiles of security modules are not set",
                ));
            }
            _ => {
                return Err(wrong(
                    "--security-opt",
                    text,
                    "use no-new-privileges, seccomp=FILE or seccomp=unconfined",
                ));
            }
        }
    }
    Ok(set)
}

/// The filter that was named, already read.
pub fn seccomp(options: &[String]) -> Result<Option<Seccomp>, FlagError> {
    let Some(value) = options
        .iter()
        .rev()
        .map(|text| split(text))
        .find(|(key, _)| *key == "seccomp")
        .map(|(_, value)| value)
    else {
        return Ok(None);
    };
    match value {
        "unconfined" => Ok(Some(Seccomp::Unconfined)),
        "default" => Ok(Some(Seccomp::Default)),
        path => {
            let bytes = durable::read(Path::new(path), PROFILE_BYTES)
                .map_err(|error| wrong("--security-opt", path, error.to_string()))?;
            let text = String::from_utf8(bytes).map_err(|_| wrong("--security-opt", path, "not UTF-8"))?;
            let json = read::json_any(text.as_bytes());
            match json {
                Ok(json) if json.get("defaultAction").is_some() => Ok(Some(Seccomp::Profile(text))),
                Ok(_) => Err(wrong(
                    "--security-opt",
                    path,
                    "no seccomp profile: `defaultAction` is missing",
                )),
                Err(error) => Err(wrong("--security-opt", path, format!("not JSON: {error}"))),
            }
        }
    }
}

/// `KEY=VALUE` or `KEY:VALUE`.
fn split(text: &str) -> (&str, &str) {
    let at = text.find(['=', ':']);
    at.map_or((text, ""), |at| (&text[..at], &text[at + 1..]))
}

/// `HOST[:TARGET[:rwm]]`.
pub fn devices(texts: &[String]) -> Result<Vec<Device>, FlagError> {
    let access = |text: &str| !text.is_empty() && text.len() <= 3 && text.chars().all(|c| "rwm".contains(c));
    texts
        .iter()
        .map(|text| {
            let parts: Vec<&str> = text.split(':').collect();
            let (host, container, mode) = match parts[..] {
                [host] => (host, host, "rwm"),
                [host, mode] if access(mode) => (host, host, mode),
                [host, container] => (host, container, "rwm"),
                [host, container, mode] if access(mode) => (host, container, mode),
                _ => return Err(wrong("--device", text, "write HOST[:TARGET[:rwm]]")),
            };
            if !host.starts_with('/') || !container.starts_with('/') || container.split('/').any(|part| part == "..") {
                return Err(wrong("--device", text, "paths are absolute"));
            }
            Ok(Device {
                host: host.to_owned(),
                container: container.to_owned(),
                access: mode.to_owned(),
            })
        })
        .collect()
}

/// Names of limits of a process (getrlimit(2)).
const RLIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `NAME=SOFT[:HARD]`; -1 is unlimited.
pub fn rlimits(texts: &[String]) -> Result<Vec<(String, u64, u64)>, FlagError> {
    let number = |text: &str| match text {
        "-1" | "unlimited" => Some(u64::MAX),
        _ => text.parse().ok(),
    };
    texts
        .iter()
        .map(|text| {
            let bad = |reason: &str| wrong("--ulimit", text, reason);
            let (name, values) = text.split_once('=').ok_or_else(|| bad("write NAME=SOFT[:HARD]"))?;
            let name = name.to_ascii_lowercase();
            let name = name.strip_prefix("rlimit_").unwrap_or(&name);
            if !RLIMITS.contains(&name) {
                return Err(bad("there is no such limit"));
            }
            let (soft, hard) = values.split_once(':').unwrap_or((values, values));
            let (soft, hard) = number(soft)
                .zip(number(hard))
                .ok_or_else(|| bad("limits are numbers, or -1"))?;
            if soft > hard {
                return Err(bad("the soft limit is above the hard one"));
            }
            Ok((format!("RLIMIT_{}", name.to_ascii_uppercase()), soft, hard))
        })
        .collect()
}

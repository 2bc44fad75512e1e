//! Flags of `run` and `create` as typed → what the engine is asked for.
//!
//! Files that flags name (`--env-file`, `--label-file`, seccomp profiles) are read here, before dunlin becomes the
//! store's owner.

mod environment;
mod health;
mod limits;
mod mounts;
mod network;
mod security;

pub use environment::{environment, key_values};
pub use limits::limits;
pub use network::network;

use super::args::CreateArgs;
use super::args::PlatformArgs;
use crate::engine::options::CreateOptions;
use crate::engine::signal;
use crate::types::container::{Extras, LogLimits, Notify, RestartPolicy};
use crate::types::platform::Platform;
use crate::types::read;
use crate::types::text::parse_size;
use std::net::IpAddr;

/// A flag that cannot be what was given.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{flag} `{value}`: {reason}")]
pub struct FlagError {
    flag: &'static str,
    value: String,
    reason: String,
}

/// The error of `flag` with `value`.
fn wrong(flag: &'static str, value: impl Into<String>, reason: impl Into<String>) -> FlagError {
    FlagError {
        flag,
        value: value.into(),
        reason: reason.into(),
    }
}

/// A duration flag.
fn span(flag: &'static str, text: &str) -> Result<crate::types::time::Span, FlagError> {
    text.parse().map_err(|_| {
        wrong(
            flag,
            text,
            "not a duration; write for example `300ms`, `10s` or `1m30s`",
        )
    })
}

/// All flags together.
pub fn compose(args: &CreateArgs) -> Result<CreateOptions, FlagError> {
    refuse(args)?;
    let restart = restart(args.restart.as_deref().unwrap_or("no"))?;
    if args.rm && restart != RestartPolicy::No {
        return Err(wrong(
            "--restart",
            args.restart.clone().unwrap_or_default(),
            "a container that is removed when it ends is not restarted; leave out --rm",
        ));
    }
    let mut labels = environment::from_files("--label-file", &args.label_file)?;
    labels.extend(args.label.iter().cloned());
    let net = network(&args.net)?;
    Ok(CreateOptions {
        name: args.name.clone(),
        image: args.image.clone(),
        platform: platform(&args.platform)?,
        entrypoint: args.entrypoint.as_deref().map(entrypoint).transpose()?,
        command: args.command.clone(),
        env: environment(&args.env_file, &args.env)?,
        unset_env: args.unsetenv.clone(),
        workdir: args.workdir.clone(),
        user: args.user.clone(),
        hostname: args.hostname.as_deref().map(hostname).transpose()?,
        tty: args.tty,
        stdin: args.interactive,
        mounts: mounts::mounts(args)?,
        init: args.init,
        extras: extras(args)?,
        systemd: match args.systemd.as_deref() {
            Some("always") => Some(true),
            Some("false") => Some(false),
            _ => None,
        },
        network: net.network,
        wiring: net.wiring,
        publish_all: args.publish_all,
        expose: args.expose.clone(),
        joins: net.joins,
        pod: args.pod.clone(),
        read_only: args.read_only,
        limits: limits(&args.limits)?,
        cap_add: args.cap_add.clone(),
        cap_drop: args.cap_drop.clone(),
        no_new_privs: security::no_new_privileges(&args.security_opt)?,
        seccomp: security::seccomp(&args.security_opt)?,
        devices: security::devices(&args.device)?,
        sysctls: key_values("--sysctl", &args.sysctl, true)?,
        rlimits: security::rlimits(&args.ulimit)?,
        extra_hosts: extra_hosts(&args.net.add_host)?,
        stop_signal: match &args.stop_signal {
            Some(text) => {
                Some(signal::parse(text).ok_or_else(|| wrong("--stop-signal", text, "there is no such signal"))?)
            }
            None => None,
        },
        stop_timeout: args.stop_timeout,
        restart,
        auto_remove: args.rm,
        health: health::health(args)?,
        labels: key_values("--label", &labels, false)?,
        annotations: key_values("--annotation", &args.annotation, true)?,
        log: log(args)?,
    })
}

fn extras(args: &CreateArgs) -> Result<Extras, FlagError> {
    let (mut groups, mut group_names) = (Vec::new(), Vec::new());
    for text in &args.group_add {
        match text.parse() {
            Ok(u32::MAX) => return Err(wrong("--group-add", text, "no group has this number")),
            Ok(gid) => groups.push(gid),
            Err(_) if text.is_empty() || text.contains([':', '\n', '\0']) => {
                return Err(wrong("--group-add", text, "neither a number nor a name"));
            }
            Err(_) => group_names.push(text.clone()),
        }
    }
    let umask = |text: &String| {
        let bits = u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o777);
        bits.ok_or_else(|| wrong("--umask", text, "not an octal number up to 0777"))
    };
    if let Some(score) = args.oom_score_adj.filter(|score| !(0..=1000).contains(score)) {
        let reason = "a number from 0 to 1000: only the host's root may lower it";
        return Err(wrong("--oom-score-adj", score.to_string(), reason));
    }
    Ok(Extras {
        groups,
        umask: args.umask.as_ref().map(umask).transpose()?,
        oom_score_adj: args.oom_score_adj,
        group_names,
        notify: match args.sdnotify.as_str() {
            "conmon" => Notify::Started,
            "ignore" => Notify::Nobody,
            _ => Notify::Container,
        },
        systemd: false,
        io_weight: args.blkio_weight,
    })
}

/// What is not offered, each with the reason.
fn refuse(args: &CreateArgs) -> Result<(), FlagError> {
    if args.privileged {
        let reason =
            "a container is never given the host; grant what it needs with --cap-add, --device or --security-opt";
        return Err(wrong("--privileged", "true", reason));
    }
    match args.userns.as_deref() {
        // The last one is what it always is.
        None | Some("" | "host" | "private" | "auto" | "keep-id:uid=0,gid=0") => {}
        Some(mode) => {
            let reason = "every container has a user namespace of its own with the store's ids; use `--user` for another user in it";
            return Err(wrong("--userns", mode, reason));
        }
    }
    if let (Some(pod), Some(mode)) = (&args.pod, args.net.network.first()) {
        return Err(wrong("--network", mode, format!("pod `{pod}` has a network already")));
    }
    match args.log_driver.as_deref() {
        None | Some("k8s-file" | "json-file") => Ok(()),
        Some(other) => Err(wrong("--log-driver", other, "only `k8s-file` is there")),
    }
}

/// The platform that is meant, where one is.
pub fn platform(args: &PlatformArgs) -> Result<Option<Platform>, FlagError> {
    if let Some(text) = &args.platform {
        return text
            .parse()
            .map(Some)
            .map_err(|error| wrong("--platform", text, format!("{error}")));
    }
    if args.arch.is_none() && args.os.is_none() && args.variant.is_none() {
        return Ok(None);
    }
    let host = Platform::host();
    let variant = match (&args.variant, &args.arch) {
        (Some(variant), _) => variant.clone(),
        (None, Some(_)) => String::new(),
        (None, None) => host.variant,
    };
    Ok(Some(Platform {
        os: args.os.clone().unwrap_or(host.os),
        architecture: args.arch.clone().unwrap_or(host.architecture),
        variant,
    }))
}

fn entrypoint(text: &str) -> Result<Vec<String>, FlagError> {
    if text.starts_with('[') {
        return read::json(text.as_bytes())
            .map_err(|error| wrong("--entrypoint", text, format!("not a JSON list of texts: {error}")));
    }
    Ok(if text.is_empty() {
        Vec::new()
    } else {
        vec![text.to_owned()]
    })
}

/// A host name.
pub fn hostname(text: &str) -> Result<String, FlagError> {
    let label = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if text.len() <= 64 && text.split('.').all(label) {
        Ok(text.to_owned())
    } else {
        Err(wrong("--hostname", text, "at most 64 letters, digits, `-` and `.`"))
    }
}

/// `no`, `on-failure[:N]`, `always`, `unless-stopped`.
fn restart(text: &str) -> Result<RestartPolicy, FlagError> {
    match text.split_once(':') {
        None => match text {
            "" | "no" | "never" => Ok(RestartPolicy::No),
            "on-failure" => Ok(RestartPolicy::OnFailure(0)),
            "always" => Ok(RestartPolicy::Always),
            "unless-stopped" => Ok(RestartPolicy::UnlessStopped),
            _ => Err(wrong(
                "--restart",
                text,
                "use no, on-failure[:N], always or unless-stopped",
            )),
        },
        Some(("on-failure", times)) => match times.parse() {
            Ok(times) => Ok(RestartPolicy::OnFailure(times)),
            Err(_) => Err(wrong("--restart", text, "a number follows the colon")),
        },
        Some(_) => Err(wrong("--restart", text, "only on-failure takes a number")),
    }
}

/// Lines of `/etc/hosts`: address, name.
pub fn extra_hosts(texts: &[String]) -> Result<Vec<(String, String)>, FlagError> {
    texts
        .iter()
        .map(|text| {
            let (name, address) = text
                .split_once(':')
                .ok_or_else(|| wrong("--add-host", text, "write NAME:IP"))?;
            if address == "host-gateway" {
                return Ok((address.to_owned(), hostname(name)?));
            }
            let bare = address.trim_start_matches('[').trim_end_matches(']');
            let address: IpAddr = bare
                .parse()
                .map_err(|_| wrong("--add-host", text, format!("`{address}` is no IP address")))?;
            Ok((address.to_string(), hostname(name)?))
        })
        .collect()
}

fn log(args: &CreateArgs) -> Result<Option<LogLimits>, FlagError> {
    let mut limits = LogLimits::default();
    for text in &args.log_opt {
        let reason = "write max-size=SIZE or max-file=NUMBER";
        let (key, value) = text.split_once('=').ok_or_else(|| wrong("--log-opt", text, reason))?;
        match key {
            "max-size" => {
                let size = parse_size(value).filter(|size| (4 << 10..=1 << 30).contains(size));
                limits.file_bytes = size.ok_or_else(|| wrong("--log-opt", text, "a size from 4k to 1g"))?;
            }
            "max-file" => {
                let files = value.parse().ok().filter(|files| (1..=100).contains(files));
                limits.files = files.ok_or_else(|| wrong("--log-opt", text, "a number from 1 to 100"))?;
            }
            _ => return Err(wrong("--log-opt", text, reason)),
        }
    }
    Ok((!args.log_opt.is_empty()).then_some(limits))
}

#[cfg(test)]
mod tests;

//! What a new container is asked to be, and how that meets what its image says.

use super::capability;
use super::signal;
use crate::runtime::first;
use crate::types::bounds;
use crate::types::container::{
    ContainerSpec, Device, Extras, LogLimits, Mount, MountSource, Network, RestartPolicy, Seccomp,
};
use crate::types::health::Health;
use crate::types::limits::Limits;
use crate::types::network::Wiring;
use crate::types::oci::image::Config;
use crate::types::platform::Platform;
use crate::types::read::{self, Malformed};
use crate::types::time::Span;
use std::collections::BTreeMap;

/// Search path where neither image nor user names one.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a new container is asked to be. The default runs the image as it is.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// Unique name; one is made up where it is missing.
    pub name: Option<String>,
    /// Image by name or id, as typed; must be in the store.
    pub image: String,
    /// Which of the store's images of that name, when not this machine's.
    pub platform: Option<Platform>,
    /// Instead of the image's entrypoint; empty clears it. The image's command is then left out too.
    pub entrypoint: Option<Vec<String>>,
    /// Instead of the image's command; empty keeps it.
    pub command: Vec<String>,
    /// `NAME=value` on top of the image's.
    pub env: Vec<String>,
    /// Names of variables of the image that are left out.
    pub unset_env: Vec<String>,
    /// Absolute working directory instead of the image's.
    pub workdir: Option<String>,
    /// `USER[:GROUP]` instead of the image's.
    pub user: Option<String>,
    /// Instead of the short id.
    pub hostname: Option<String>,
    /// A terminal is made.
    pub tty: bool,
    /// Standard input stays open.
    pub stdin: bool,
    /// A first process of dunlin's passes signals on and reaps.
    pub init: bool,
    /// Groups, umask, score.
    pub extras: Extras,
    /// Whether its program is systemd; by its name where nothing is said.
    pub systemd: Option<bool>,
    /// Mounts besides the image's volumes. A volume with an empty name is a new unnamed one.
    pub mounts: Vec<Mount>,
    /// Private where nothing is said, if the host has what that needs.
    pub network: Option<Network>,
    /// Published ports, name servers and helper.
    pub wiring: Wiring,
    /// All ports that the image says it serves are published.
    pub publish_all: bool,
    /// Ports that it serves beside those: `80`, `53/udp`.
    pub expose: Vec<String>,
    /// Container whose network is shared, as typed.
    pub joins: Option<String>,
    /// Pod that it becomes part of, as typed.
    pub pod: Option<String>,
    /// The root is read-only.
    pub read_only: bool,
    /// Limits that are asked for; each must be enforced.
    pub limits: Limits,
    /// Capabilities on top of the default set, with or without `CAP_`.
    pub cap_add: Vec<String>,
    /// Capabilities taken from the default set.
    pub cap_drop: Vec<String>,
    /// `no_new_privs`.
    pub no_new_privs: bool,
    /// Filter of system calls; the built-in one where nothing is said.
    pub seccomp: Option<Seccomp>,
    /// Device nodes that are bound in.
    pub devices: Vec<Device>,
    /// Kernel settings of its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// `RLIMIT_…`, soft, hard.
    pub rlimits: Vec<(String, u64, u64)>,
    /// IP and name for /etc/hosts.
    pub extra_hosts: Vec<(String, String)>,
    /// Instead of the image's stop signal.
    pub stop_signal: Option<i32>,
    /// Seconds that `stop` waits.
    pub stop_timeout: Option<u32>,
    /// When its monitor starts it again.
    pub restart: RestartPolicy,
    /// It is removed when it ends.
    pub auto_remove: bool,
    /// What is said about its health check.
    pub health: HealthOptions,
    /// Labels on top of the image's.
    pub labels: BTreeMap<String, String>,
    /// OCI annotations.
    pub annotations: BTreeMap<String, String>,
    /// Bounds of its logs.
    pub log: Option<LogLimits>,
}

/// What is said about a health check; the rest comes from the image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthOptions {
    /// No check at all, also not the image's.
    pub disable: bool,
    /// This check instead of the image's.
    pub check: Option<Health>,
    /// Instead of the check's interval.
    pub interval: Option<Span>,
    /// Instead of the check's time-out.
    pub timeout: Option<Span>,
    /// Instead of the check's start period.
    pub start_period: Option<Span>,
    /// Instead of the check's number of failures.
    pub failures: Option<u32>,
}

/// What an image says about its containers: the `config` of an OCI or Docker image configuration.
#[derive(Debug, Clone, Default)]
pub struct ImageDefaults {
    config: Config,
}

/// Why the wishes make no container.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OptionsError {
    /// Neither image nor user says what to run.
    #[error("image `{0}` names no command: say one after the image")]
    NoCommand(String),
    /// One value is not possible.
    #[error("{what} `{value}`: {reason}")]
    Value {
        /// Which option.
        what: &'static str,
        /// What was given.
        value: String,
        /// Why not.
        reason: String,
    },
    /// Too many of something.
    #[error("{count} {what} are more than the {most} that a container may have")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// The bound.
        most: usize,
    },
}

impl ImageDefaults {
    /// Reads an image configuration (application/vnd.oci.image.config.v1+json).
    pub fn parse(config: &[u8]) -> Result<ImageDefaults, Malformed> {
        #[derive(serde::Deserialize)]
        struct Outer {
            config: Option<Config>,
        }
        let config = read::json::<Outer>(config)?.config.unwrap_or_default();
        Ok(ImageDefaults { config })
    }

    /// Absolute paths that the image wants kept apart from its root.
    pub fn volumes(&self) -> impl Iterator<Item = &str> {
        self.config
            .volumes
            .iter()
            .flat_map(|volumes| volumes.keys().map(String::as_str))
    }

    /// Ports that the image says it serves: `80/tcp`.
    pub fn exposed_ports(&self) -> impl Iterator<Item = &str> {
        self.config
            .exposed_ports
            .iter()
            .flat_map(|ports| ports.keys().map(String::as_str))
    }

    /// The image's own health check, where it has one.
    pub fn health(&self) -> Option<Health> {
        let check = self.config.healthcheck.as_ref()?;
        let (kind, rest) = check.test.as_deref()?.split_first()?;
        let args = match (kind.as_str(), rest) {
            ("CMD-SHELL", [line]) => shell(line),
            ("CMD", [_, ..]) => rest.to_vec(),
            _ => return None,
        };
        let mut health = Health::exec(args);
        let span = |nanos: u64, or: Span| {
            if nanos == 0 {
                or
            } else {
                Span((nanos / 1_000_000).max(bounds::PROBE_INTERVAL_MIN_MS))
            }
        };
        health.interval = span(check.interval, health.interval);
        health.timeout = span(check.timeout, health.timeout);
        health.start_period = span(check.start_period, health.start_period);
        health.start_interval = span(check.start_interval, health.start_interval);
        if check.retries != 0 {
            health.failures = check.retries;
        }
        Some(health)
    }
}

/// A command line for the container's shell.
pub fn shell(line: &str) -> Vec<String> {
    vec!["/bin/sh".to_owned(), "-c".to_owned(), line.to_owned()]
}

/// Joins wishes, image and `defaults` (limits where nothing is said) to what the container is. The mounts of the result
/// contain volumes with empty names where the image or the user wants new unnamed ones.
pub fn merge(options: &CreateOptions, image: &ImageDefaults, defaults: &Limits) -> Result<ContainerSpec, OptionsError> {
    let config = &image.config;
    let args = arguments(options, config)?;
    let systemd = is_systemd(options, &args);
    let env = environment(options, config);
    let workdir = workdir(options, config)?;
    let mounts = mounts(options, image)?;
    bound("arguments", args.len(), bounds::ARGS)?;
    bound("environment variables", env.len(), bounds::ENV_VARS)?;
    bound("mounts", mounts.len(), bounds::MOUNTS)?;
    for text in args.iter().chain(&env) {
        if text.len() > bounds::ARG_BYTES || text.contains('\0') {
            let value = text.chars().take(40).collect();
            let reason = format!("longer than {} bytes, or contains a zero byte", bounds::ARG_BYTES);
            return Err(OptionsError::Value {
                what: "argument or variable",
                value,
                reason,
            });
        }
    }
    if let Some((kind, reason)) = options.limits.problems().into_iter().next() {
        return Err(OptionsError::Value {
            what: "limit",
            value: kind.to_string(),
            reason,
        });
    }
    let capabilities = capability::merge(&options.cap_add, &options.cap_drop).map_err(|value| OptionsError::Value {
        what: "capability",
        value,
        reason: "there is no such capability".into(),
    })?;
    let health = health(options, image)?;
    let mut labels = config.labels.clone().unwrap_or_default();
    labels.extend(options.labels.clone());
    Ok(ContainerSpec {
        args,
        env,
        workdir,
        user: options
            .user
            .as_ref()
            .or(config.user.as_ref())
            .cloned()
            .unwrap_or_default(),
        hostname: options.hostname.clone().unwrap_or_default(),
        tty: options.tty,
        stdin: options.stdin,
        mounts,
        // The engine knows what the host has.
        network: options.network.unwrap_or(Network::None),
        read_only: options.read_only,
        limits: options.limits.or(defaults),
        asked: options.limits.kinds(),
        capabilities,
        no_new_privs: options.no_new_privs,
        seccomp: options.seccomp.clone().unwrap_or(Seccomp::Default),
        devices: options.devices.clone(),
        sysctls: options.sysctls.clone(),
        rlimits: options.rlimits.clone(),
        extra_hosts: options.extra_hosts.clone(),
        stop_signal: options
            .stop_signal
            .or_else(|| signal::parse(config.stop_signal.as_deref()?))
            .unwrap_or(if systemd { signal::SYSTEMD } else { signal::TERM }),
        stop_timeout: options.stop_timeout.unwrap_or(bounds::STOP_TIMEOUT_S),
        restart: options.restart,
        auto_remove: options.auto_remove,
        health,
        labels,
        annotations: options.annotations.clone(),
        log: options.log.unwrap_or_default(),
    })
}

/// Whether a container with these arguments runs systemd, by podman's rule.
pub fn is_systemd(options: &CreateOptions, args: &[String]) -> bool {
    options.systemd.unwrap_or_else(|| {
        // A build puts `/bin/sh -c` before it.
        [args.first(), args.get(2)].into_iter().flatten().any(|program| {
            ["/sbin/init", "/usr/sbin/init", "/usr/local/sbin/init"].contains(&program.as_str())
                || program.rsplit('/').next() == Some("systemd")
        })
    })
}

fn bound(what: &'static str, count: usize, most: usize) -> Result<(), OptionsError> {
    if count > most {
        Err(OptionsError::TooMany { what, count, most })
    } else {
        Ok(())
    }
}

fn arguments(options: &CreateOptions, image: &Config) -> Result<Vec<String>, OptionsError> {
    let entrypoint = match &options.entrypoint {
        Some(entrypoint) => entrypoint.clone(),
        None => image.entrypoint.clone().unwrap_or_default(),
    };
    let command = match (options.command.is_empty(), &options.entrypoint) {
        (false, _) => options.command.clone(),
        (true, Some(_)) => Vec::new(),
        (true, None) => image.cmd.clone().unwrap_or_default(),
    };
    let args: Vec<String> = entrypoint.into_iter().chain(command).collect();
    if args.first().is_none_or(String::is_empty) {
        return Err(OptionsError::NoCommand(options.image.clone()));
    }
    let first = options.init.then(|| first::PATH.to_owned());
    Ok(first.into_iter().chain(args).collect())
}

fn environment(options: &CreateOptions, image: &Config) -> Vec<String> {
    let mut env: Vec<String> = Vec::new();
    let mut set = |entry: String| {
        let name = entry.split('=').next().unwrap_or_default();
        match env.iter_mut().find(|known| known.split('=').next() == Some(name)) {
            Some(known) => *known = entry,
            None => env.push(entry),
        }
    };
    set(PATH.to_owned());
    for entry in image.env.iter().flatten() {
        let name = entry.split('=').next().unwrap_or_default();
        if !options.unset_env.iter().any(|unset| unset == name) {
            set(entry.clone());
        }
    }
    for entry in &options.env {
        set(entry.clone());
    }
    env
}

fn workdir(options: &CreateOptions, image: &Config) -> Result<String, OptionsError> {
    let said = image.working_dir.as_deref().filter(|dir| !dir.is_empty());
    let workdir = options.workdir.as_deref().or(said).unwrap_or("/");
    if !workdir.starts_with('/') || workdir.len() >= bounds::PATH_BYTES {
        return Err(OptionsError::Value {
            what: "working directory",
            value: workdir.into(),
            reason: "not an absolute path".into(),
        });
    }
    Ok(workdir.to_owned())
}

fn mounts(options: &CreateOptions, image: &ImageDefaults) -> Result<Vec<Mount>, OptionsError> {
    let mut mounts = options.mounts.clone();
    for mount in &mut mounts {
        while mount.target.len() > 1 && mount.target.ends_with('/') {
            mount.target.pop();
        }
        let escapes = mount.target.split('/').any(|part| part == "..");
        if !mount.target.starts_with('/') || mount.target == "/" || escapes || mount.target.len() >= bounds::PATH_BYTES
        {
            let reason = "not an absolute path below `/` without `..`".to_owned();
            return Err(OptionsError::Value {
                what: "mount target",
                value: mount.target.clone(),
                reason,
            });
        }
    }
    for target in image.volumes() {
        let target = target.trim_end_matches('/');
        if target.starts_with('/') && !mounts.iter().any(|mount| mount.target == target) {
            let source = MountSource::Volume(String::new());
            mounts.push(Mount {
                source,
                target: target.to_owned(),
                read_only: false,
                options: Vec::new(),
            });
        }
    }
    let mut targets: Vec<&str> = mounts.iter().map(|mount| mount.target.as_str()).collect();
    targets.sort_unstable();
    if let Some(twice) = targets.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(OptionsError::Value {
            what: "mount target",
            value: twice[0].to_owned(),
            reason: "is given twice".into(),
        });
    }
    Ok(mounts)
}

fn health(options: &CreateOptions, image: &ImageDefaults) -> Result<Option<Health>, OptionsError> {
    let wish = &options.health;
    if wish.disable {
        return Ok(None);
    }
    let Some(mut health) = wish.check.clone().or_else(|| image.health()) else {
        return Ok(None);
    };
    health.interval = wish.interval.unwrap_or(health.interval);
    health.timeout = wish.timeout.unwrap_or(health.timeout);
    health.start_period = wish.start_period.unwrap_or(health.start_period);
    health.failures = wish.failures.unwrap_or(health.failures);
    match health.problems().into_iter().next() {
        Some((key, reason)) => Err(OptionsError::Value {
            what: "health check",
            value: key.to_owned(),
            reason,
        }),
        None => Ok(Some(health)),
    }
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;

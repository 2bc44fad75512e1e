//! The settings file: `/etc/dunlin/agent.toml`. Every key is in `config/agent.toml` with its meaning; unknown keys are
//! refused; a missing file means defaults.

use std::path::{Path, PathBuf};

use super::board::{Board, DIRECTORY};
use super::{ConfigError, read_text};
use crate::types::bounds::FLOORS;
use crate::types::keys::{self, Key, Thresholds};
use crate::types::limits::Bytes;
use crate::types::read;
use crate::types::text::is_name;
use crate::types::time::{Span, Unix};

/// Where the system's settings are.
pub const SYSTEM_FILE: &str = "/etc/dunlin/agent.toml";
/// The system's app documents.
pub const SYSTEM_APPS: &str = "/etc/dunlin/apps";

/// All settings.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Who the device is.
    pub device: Device,
    /// Where data lives; flags and environment come first.
    pub store: Store,
    /// Containers.
    pub containers: Containers,
    /// Registries.
    pub registry: Registry,
    /// The broker.
    pub mqtt: Option<Mqtt>,
    /// Whose signatures are needed.
    pub fleet: Fleet,
    /// Apps and their updates.
    pub apps: Apps,
    /// The agent's own log.
    pub log: Log,
}

/// Who the device is.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Device {
    /// Its name in topics; the host name in lower case when nothing is said.
    pub name: Option<String>,
    /// Board profile; the architecture's generic one when nothing is said. A configured board's limits count as asked for.
    pub board: Option<String>,
    /// Where boards of the device's own are looked for.
    pub board_dir: Option<PathBuf>,
    /// Labels that waves may name.
    pub labels: Vec<String>,
    /// What it says is signed with its own key, which the operator knows from its enrolment.
    pub sign: bool,
    /// The board's hardware watchdog is fed until the agent has not run for so long.
    pub watchdog: Option<Span>,
}

/// Where data lives.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// Data folder.
    pub root: Option<PathBuf>,
    /// Run root.
    pub runroot: Option<PathBuf>,
    /// Free bytes that pulls leave alone; the board's when nothing is said.
    pub reserve: Option<Bytes>,
    /// Bytes that may be written to its disk a day before the device says so; the board's when nothing is said.
    pub write_budget: Option<Bytes>,
}

/// Containers.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Containers {
    /// Path of an external OCI runtime; dunlin's own when nothing is said.
    pub runtime: Option<PathBuf>,
    /// Where logs of containers are; in memory when nothing is said and the configured board has flash.
    pub logs: Option<Logs>,
    /// Bytes of one log file of a container.
    pub log_size: Option<Bytes>,
    /// Log files of a container, the current one included.
    pub log_files: Option<u32>,
}

/// Where logs of containers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Logs {
    /// In the store.
    Disk,
    /// In the run root, until the next boot.
    Memory,
}

/// Registries.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Registry {
    /// `HOST[:PORT]` that may be reached without TLS or with an unknown certificate, beside `registries.conf`.
    pub insecure: Vec<String>,
    /// Folder of private CAs and client certificates: `HOST[:PORT]/ca.crt`, before `/etc/containers/certs.d`.
    pub certs_dir: Option<PathBuf>,
    /// Credentials; the ecosystem's places when nothing is said.
    pub auth_file: Option<PathBuf>,
    /// `registries.conf` instead of the default ones.
    pub registries_conf: Option<PathBuf>,
    /// `policy.json` instead of the user's or the host's.
    pub policy: Option<PathBuf>,
    /// Layers fetched at once; zstd layers take the room of one and a half.
    pub parallel: Option<u32>,
    /// Bytes per second of all layers together; no bound when nothing is said.
    pub rate: Option<Bytes>,
    /// The longest wait for an answer, and for the next byte of one.
    pub timeout: Option<Span>,
    /// Tries of one request; of a layer, tries in a row without progress.
    pub attempts: Option<u32>,
}

/// The broker.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mqtt {
    /// `mqtts://HOST[:PORT]` or `mqtt://HOST[:PORT]`.
    pub url: String,
    /// Root of all topics.
    #[serde(default = "default_root")]
    pub root: String,
    /// PEM file of the CA that signed the broker's certificate; public CAs when nothing is said.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// PEM file of the device's certificate chain.
    #[serde(default)]
    pub cert: Option<PathBuf>,
    /// PEM file of its private key.
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// User name.
    #[serde(default)]
    pub username: Option<String>,
    /// File that holds the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Plain TCP to other hosts than loopback is allowed.
    #[serde(default)]
    pub insecure: bool,
    /// Of the protocol.
    #[serde(default)]
    pub version: Version,
    /// Protocol names for TLS's ALPN, where the broker's port speaks several.
    #[serde(default)]
    pub alpn: Vec<String>,
    /// Longest silence before a ping; shorter by itself where somebody on the way forgets silent connections sooner.
    #[serde(default = "default_keep_alive")]
    pub keep_alive: Span,
    /// Bytes that may be sent a day before events and reports wait for the next.
    #[serde(default)]
    pub daily: Option<Bytes>,
}

/// A version of MQTT.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
pub enum Version {
    /// 5.
    #[default]
    #[serde(rename = "5")]
    Five,
    /// 3.1.1.
    #[serde(rename = "3.1.1")]
    Three,
}

fn default_root() -> String {
    "dunlin/v1".into()
}

fn default_keep_alive() -> Span {
    Span::seconds(900)
}

impl Mqtt {
    /// The broker at `url`, everything else as when nothing is said.
    pub fn at(url: &str) -> Mqtt {
        Mqtt {
            url: url.to_owned(),
            root: default_root(),
            ca: None,
            cert: None,
            key: None,
            username: None,
            password_file: None,
            insecure: false,
            version: Version::default(),
            alpn: Vec::new(),
            keep_alive: default_keep_alive(),
            daily: None,
        }
    }

    /// What is wrong, each mistake with its key.
    pub fn problems(&self) -> Vec<String> {
        let url = self.url.strip_prefix("mqtts://").or(self.url.strip_prefix("mqtt://"));
        let words = self
            .root
            .split('/')
            .all(|w| !w.is_empty() && !w.contains(['+', '#', '$', '\0']));
        let checks = [
            (
                url.is_some_and(|u| !u.is_empty() && !u.contains(['/', '@', ' '])),
                "`mqtt.url` must be `mqtts://HOST[:PORT]` or `mqtt://HOST[:PORT]`",
            ),
            (
                words && self.root.len() <= 128,
                "`mqtt.root` must be topic levels without wildcards",
            ),
            (
                self.cert.is_some() == self.key.is_some(),
                "`mqtt.cert` and `mqtt.key` belong together",
            ),
            (
                (5_000..=65_535_000).contains(&self.keep_alive.ms()),
                "`mqtt.keep_alive` must be 5s to 65535s",
            ),
            (
                self.alpn.len() <= 8 && self.alpn.iter().all(|name| (1..=255).contains(&name.len())),
                "`mqtt.alpn`: at most 8 names of 1 to 255 characters",
            ),
        ];
        failed(&checks)
    }
}

/// The texts of those that do not hold.
fn failed(checks: &[(bool, &str)]) -> Vec<String> {
    let bad = checks.iter().filter(|(good, _)| !good);
    bad.map(|(_, text)| (*text).to_owned()).collect()
}

/// Whose signatures are needed. Without keys, and only then, unsigned documents are accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fleet {
    /// Operator keys.
    pub keys: Vec<Key>,
    /// Signatures that a document needs.
    pub threshold: Option<u32>,
    /// By role, where that differs.
    pub thresholds: Thresholds,
    /// Version of these keys: documents of the fleet with a higher one replace them, and a higher one here replaces those.
    pub version: Option<u64>,
    /// `AUDIENCE GENERATION`: nothing with a lower number was ever meant for this device.
    pub floors: Vec<String>,
    /// A time that has certainly passed (RFC 3339).
    pub since: Option<String>,
}

/// The audience and the number of a floor as it is written.
pub fn floor(text: &str) -> Option<(&str, u64)> {
    let (audience, generation) = text.split_once(' ')?;
    let name = audience.strip_prefix("d/").or_else(|| audience.strip_prefix("g/"));
    let known = audience == "*" || name.is_some_and(is_name);
    known.then_some((audience, generation.parse().ok()?))
}

impl Fleet {
    /// What is wrong, each mistake with its key.
    pub fn problems(&self) -> Vec<String> {
        let keys = self.keys.len();
        let mut found = failed(&[
            (
                self.threshold.is_none_or(|t| t >= 1 && t as usize <= keys),
                "`fleet.threshold` must be 1 to the number of keys",
            ),
            (
                self.floors.len() <= FLOORS && self.floors.iter().all(|text| floor(text).is_some()),
                "`fleet.floors`: at most 64 of the form \"d/DEVICE NUMBER\", \"g/GROUP NUMBER\" or \"* NUMBER\"",
            ),
            (
                self.since
                    .as_deref()
                    .is_none_or(|text| Unix::parse_rfc3339(text).is_some()),
                "`fleet.since` must be a time like 2026-11-21T22:00:00Z",
            ),
        ]);
        found.extend(keys::problems(&self.keys, &self.thresholds, "fleet.keys"));
        found
    }
}

/// Apps and their updates.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Apps {
    /// Folder of local app documents.
    pub dir: PathBuf,
    /// Time in which every app of an update must have been healthy once.
    pub probe_timeout: Span,
    /// Retries of a pull that the network broke, before the deployment fails with `net`.
    pub pull_attempts: u32,
    /// A new version of the agent must be healthy within this time.
    pub agent_timeout: Span,
    /// Tags that apps follow are looked at this often.
    pub auto_update: Span,
}

impl Default for Apps {
    fn default() -> Apps {
        Apps {
            dir: SYSTEM_APPS.into(),
            probe_timeout: Span::seconds(300),
            pull_attempts: 10,
            agent_timeout: Span::seconds(300),
            auto_update: Span::seconds(86_400),
        }
    }
}

/// The agent's own log.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`.
    pub level: Option<String>,
}

impl Settings {
    /// Reads a file. `required`: its absence is an error, not an empty file.
    pub fn load(path: &Path, required: bool) -> Result<Settings, ConfigError> {
        match read_text(path) {
            Ok(text) => Settings::parse(&text, path),
            Err(ConfigError::Disk(error)) if error.is_missing() && !required => Ok(Settings::default()),
            Err(error) => Err(error),
        }
    }

    /// Reads a text; `path` is for errors. All mistakes of values are told at once.
    pub fn parse(text: &str, path: &Path) -> Result<Settings, ConfigError> {
        let settings: Settings = read::toml(text).map_err(|e| ConfigError::invalid(path, e.to_string()))?;
        let problems = settings.problems();
        if problems.is_empty() {
            Ok(settings)
        } else {
            Err(ConfigError::invalid(path, problems.join("; ")))
        }
    }

    fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut check = |good: bool, text: &str| {
            if !good {
                found.push(text.to_owned());
            }
        };
        check(
            self.device.name.as_deref().is_none_or(is_name),
            "`device.name` must match [a-z0-9][a-z0-9_-]{0,62}",
        );
        check(
            self.device.board.as_deref().is_none_or(is_name),
            "`device.board` must match [a-z0-9][a-z0-9_-]{0,62}",
        );
        check(
            self.device
                .watchdog
                .is_none_or(|time| (30_000..=3_600_000).contains(&time.ms())),
            "`device.watchdog` must be 30s to 1h",
        );
        check(
            self.log
                .level
                .as_deref()
                .is_none_or(|l| l.parse::<crate::log::Level>().is_ok()),
            "`log.level` must be one of error, warn, info, debug",
        );
        check(
            self.registry.parallel.is_none_or(|n| (1..=16).contains(&n)),
            "`registry.parallel` must be 1 to 16",
        );
        check(
            self.registry.rate.is_none_or(|rate| rate.0 >= 1024),
            "`registry.rate` must be at least 1K",
        );
        check(
            self.registry
                .timeout
                .is_none_or(|timeout| (1_000..=3_600_000).contains(&timeout.ms())),
            "`registry.timeout` must be 1s to 1h",
        );
        check(
            self.registry.attempts.is_none_or(|n| (1..=100).contains(&n)),
            "`registry.attempts` must be 1 to 100",
        );
        check(
            (15_000..=3_600_000).contains(&self.apps.agent_timeout.ms()),
            "`apps.agent_timeout` must be 15s to 1h",
        );
        check(
            self.apps.auto_update.ms() >= 1_000,
            "`apps.auto_update` must be at least 1s",
        );
        check(
            (1..=1000).contains(&self.apps.pull_attempts),
            "`apps.pull_attempts` must be 1 to 1000",
        );
        found.extend(self.mqtt.iter().flat_map(Mqtt::problems));
        found.extend(self.fleet.problems());
        found
    }

    /// The board that is configured, or the generic one of this architecture.
    pub fn board(&self) -> Result<Board, ConfigError> {
        let directory = self.device.board_dir.as_deref().unwrap_or(Path::new(DIRECTORY));
        match &self.device.board {
            Some(name) => Board::load(name, directory),
            None => Board::generic(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_file_loads_and_changes_nothing() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/agent.toml");
        let documented = Settings::load(&path, true).unwrap();
        assert_eq!(documented, Settings::default());
    }

    #[test]
    fn every_key_of_the_documented_file_is_known() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/agent.toml");
        let text = std::fs::read_to_string(path).unwrap();
        // Examples are comments of the form `#key = value`; taking the marks off must give a valid file.
        let open: String = text.lines().map(|l| format!("{}\n", uncomment(l))).collect();
        let settings = Settings::parse(&open, Path::new("agent.toml")).unwrap();
        assert!(settings.mqtt.is_some() && settings.device.name.is_some() && !settings.fleet.keys.is_empty());
    }

    fn uncomment(line: &str) -> &str {
        match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => rest,
            _ => line,
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let text = "[device]\nname='A B'\n[mqtt]\nurl='http://x'\ncert='/c'\n[log]\nlevel='loud'\n[fleet]\nthreshold=2";
        let error = Settings::parse(text, Path::new("agent.toml")).unwrap_err().to_string();
        for key in ["device.name", "mqtt.url", "mqtt.cert", "log.level", "fleet.threshold"] {
            assert!(error.contains(key), "{key} in {error}");
        }
        assert!(Settings::parse("[device]\nnam='x'", Path::new("agent.toml")).is_err());
    }
}

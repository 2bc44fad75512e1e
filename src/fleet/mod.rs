//! The operator's side: documents are signed and published, what devices say is read and summed up. There is no state but the
//! broker's retained messages.

pub mod command;
pub mod follow;
pub mod images;
pub mod judge;
pub mod link;
pub mod numbers;
pub mod rollout;
pub mod rotation;
pub mod secret;
pub mod seen;
pub mod sign;
#[cfg(feature = "simulate")]
pub mod simulate;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::config::ConfigError;
use crate::config::agent::{Mqtt, Registry};
use crate::config::fleet as settings;
use crate::registry::RegistryError;
use crate::types::base64;
use crate::types::document::Encoding;
use crate::types::text::is_name;
use crate::uplink::dsse::{KeyError, SigningKey, Trusted};
use crate::uplink::session::SessionError;

/// Why something of the fleet cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// Settings or a key's file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A signing key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The broker's address, certificate or key.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// No connection.
    #[error("broker `{url}`: {text}")]
    Broker {
        /// Where.
        url: String,
        /// Why.
        text: String,
    },
    /// A name, a number, a document that cannot be meant.
    #[error("{0}")]
    Invalid(String),
    /// The operating system gives no runtime or no random bytes.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// Somebody with a broker and keys.
pub struct Operator {
    /// The broker.
    pub mqtt: Mqtt,
    /// Who signs; nobody where the fleet has no keys.
    pub keys: Vec<SigningKey>,
    /// Whose documents are believed when they are read back.
    pub trusted: Trusted,
    /// How documents are written that replace none in another form.
    pub encoding: Encoding,
    /// Where tags are looked up.
    pub registry: Registry,
    /// Devices whose keys are known.
    pub enrolled: Enrolled,
}

/// The keys with which devices sign what they say, by their names.
pub type Enrolled = BTreeMap<String, [u8; 32]>;

impl Operator {
    /// The operator that the settings name; reads the keys.
    pub fn new(settings: &settings::Operator) -> Result<Operator, FleetError> {
        let Some(mut mqtt) = settings.mqtt.clone() else {
            let text = "no broker is named: write [mqtt] url in fleet.toml or say --broker URL";
            return Err(FleetError::Invalid(text.into()));
        };
        let mut problems = mqtt.problems();
        problems.extend(settings.key_problems());
        if !problems.is_empty() {
            return Err(FleetError::Invalid(problems.join("; ")));
        }
        // A device may be silent for long; somebody who waits for an answer may not.
        mqtt.keep_alive = mqtt.keep_alive.min(crate::types::time::Span::seconds(60));
        let keys = load_keys(&settings.keys)?;
        let fleet = &settings.fleet;
        let trusted = Trusted::new(&fleet.keys, fleet.threshold.unwrap_or(1), &fleet.thresholds);
        let mut trusted = trusted.map_err(|id| FleetError::Invalid(format!("`fleet.keys`: key `{id}` is none")))?;
        for key in keys.iter().map(SigningKey::public) {
            if !trusted.keys.iter().any(|known| known.bytes == key.bytes) {
                trusted.keys.push(key);
            }
        }
        Ok(Operator {
            mqtt,
            keys,
            trusted,
            encoding: settings.encoding,
            registry: settings.registry.clone(),
            enrolled: settings
                .devices
                .as_deref()
                .map(enrolled)
                .transpose()?
                .unwrap_or_default(),
        })
    }
}

/// Bytes of a list of devices.
const LIST: u64 = 32 << 20;

/// A list of devices: a name and a key in base64 in each line, as `dunlin agent enroll` says them; `#` begins a comment.
fn enrolled(path: &Path) -> Result<Enrolled, FleetError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LIST).read_to_string(&mut text));
    read.map_err(|error| FleetError::Invalid(format!("`{}`: {error}", path.display())))?;
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let device = |line: &str| {
        let (name, key) = line.split_once(char::is_whitespace)?;
        let key = base64::decode(key.trim())?.try_into().ok()?;
        is_name(name).then(|| (name.to_owned(), key))
    };
    lines
        .map(|(at, line)| {
            device(line).ok_or_else(|| {
                let text = format!(
                    "`{}`: line {at}: write NAME KEY, as `dunlin agent enroll` says them",
                    path.display()
                );
                FleetError::Invalid(text)
            })
        })
        .collect()
}

/// The private keys in these files.
pub fn load_keys(files: &[impl AsRef<Path>]) -> Result<Vec<SigningKey>, FleetError> {
    files.iter().map(|file| sign::load(file.as_ref())).collect()
}

/// Who is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One device.
    Device(String),
    /// A group.
    Group(String),
}

impl Target {
    /// Reads `d/NAME` or `g/NAME`.
    pub fn parse(text: &str) -> Result<Target, FleetError> {
        match text.split_once('/') {
            Some(("d", name)) if is_name(name) => Ok(Target::Device(name.into())),
            Some(("g", name)) if is_name(name) => Ok(Target::Group(name.into())),
            _ => Err(FleetError::Invalid(format!(
                "`{text}` is neither a device `d/NAME` nor a group `g/NAME`; names match [a-z0-9][a-z0-9_-]{{0,62}}"
            ))),
        }
    }

    /// As documents and records name it.
    pub fn audience(&self) -> String {
        match self {
            Target::Device(name) => format!("d/{name}"),
            Target::Group(name) => format!("g/{name}"),
        }
    }
}

/// A device's name.
pub fn device_name(text: &str) -> Result<String, FleetError> {
    match Target::parse(text) {
        Ok(Target::Device(name)) => Ok(name),
        _ if is_name(text) => Ok(text.into()),
        _ => Err(FleetError::Invalid(format!(
            "`{text}` is no device; names match [a-z0-9][a-z0-9_-]{{0,62}}"
        ))),
    }
}

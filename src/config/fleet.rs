//! The operator's settings: `$XDG_CONFIG_HOME/dunlin/fleet.toml`. Every key is in `config/fleet.toml` with its meaning; unknown
//! keys are refused; flags come first.

use std::path::{Path, PathBuf};

use super::agent::{Fleet, Mqtt, Registry};
use super::{ConfigError, env, read_text};
use crate::types::document::Encoding;
use crate::types::keys::{self, Thresholds};
use crate::types::read;

/// What `dunlin fleet` knows about itself.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Operator {
    /// The broker, as in the device's settings.
    pub mqtt: Option<Mqtt>,
    /// PEM files of the private keys that sign.
    pub keys: Vec<PathBuf>,
    /// How documents are written.
    pub encoding: Encoding,
    /// Whose documents are believed when they are read back, beside those of the own keys; as in the device's settings.
    pub fleet: Fleet,
    /// A file with a device's name and its public key in each line: what they say must bear their signatures.
    pub devices: Option<PathBuf>,
    /// Registries in which tags are looked up, as in the device's settings.
    pub registry: Registry,
}

impl Operator {
    /// Reads `named`, or the user's file where there is one.
    pub fn load(named: Option<&Path>) -> Result<Operator, ConfigError> {
        let own = || env::path(env::XDG_CONFIG_HOME).or_else(|| Some(env::path(env::HOME)?.join(".config")));
        let path = match named {
            Some(path) => path.to_owned(),
            None => match own()
                .map(|dir| dir.join("dunlin/fleet.toml"))
                .filter(|path| path.exists())
            {
                Some(path) => path,
                None => return Ok(Operator::default()),
            },
        };
        Operator::parse(&read_text(&path)?, &path)
    }

    /// What is wrong with the keys of others. The own ones count too where signatures are counted.
    pub fn key_problems(&self) -> Vec<String> {
        keys::problems(&self.fleet.keys, &Thresholds::default(), "fleet.keys")
    }

    fn parse(text: &str, path: &Path) -> Result<Operator, ConfigError> {
        let mut operator: Operator = read::toml(text).map_err(|e| ConfigError::invalid(path, e.to_string()))?;
        let mut problems: Vec<String> = operator.mqtt.iter().flat_map(Mqtt::problems).collect();
        problems.extend(operator.key_problems());
        if !problems.is_empty() {
            return Err(ConfigError::invalid(path, problems.join("; ")));
        }
        // Files are named from where the settings are.
        let folder = path.parent().unwrap_or(Path::new("."));
        let mqtt = operator.mqtt.iter_mut();
        let files = mqtt.flat_map(|m| [&mut m.ca, &mut m.cert, &mut m.key, &mut m.password_file]);
        for file in files.flatten().chain(&mut operator.keys).chain(&mut operator.devices) {
            *file = folder.join(&*file);
        }
        Ok(operator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_documented_file_is_known() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/fleet.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(Operator::load(Some(&path)).unwrap(), Operator::default());
        let uncomment = |line: &str| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        };
        let open: String = text.lines().map(uncomment).collect();
        let operator = Operator::parse(&open, Path::new("/x/fleet.toml")).unwrap();
        assert_eq!(operator.keys, [Path::new("/x/operator.pem")]);
        assert!(operator.mqtt.is_some() && !operator.fleet.keys.is_empty());
        assert_eq!(operator.encoding, Encoding::Postcard);
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let text = "[mqtt]\nurl='http://x'\ncert='/c'\n[[fleet.keys]]\nid='a'\npublic='x'";
        let error = Operator::parse(text, Path::new("f")).unwrap_err().to_string();
        for key in ["mqtt.url", "mqtt.cert", "fleet.keys"] {
            assert!(error.contains(key), "{key} in {error}");
        }
        assert!(Operator::parse("key = []", Path::new("f")).is_err());
    }
}

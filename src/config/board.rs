//! Boards: classes of hardware as data (`boards/NAME.toml`, `/etc/dunlin/boards/NAME.toml`).

use std::path::Path;

use super::{ConfigError, read_text};
use crate::types::limits::{Bytes, Limits};
use crate::types::platform::Platform;
use crate::types::read;

/// One class of hardware.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// Its name, as its file's.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// GOARCH.
    pub architecture: String,
    /// `v8`, `v7`; empty where there is none.
    #[serde(default)]
    pub variant: String,
    /// Memory that the sum of the apps' limits may not pass.
    pub memory: Memory,
    /// Limits of containers that say nothing.
    #[serde(default)]
    pub defaults: Limits,
    /// Largest limits that a container may ask for.
    #[serde(default)]
    pub maximum: Limits,
    /// What the kernel must offer.
    #[serde(default)]
    pub kernel: Kernel,
    /// Device nodes that apps may be granted.
    #[serde(default)]
    pub devices: Vec<String>,
    /// Where data lives.
    #[serde(default)]
    pub storage: Storage,
    /// Hardware watchdog.
    #[serde(default)]
    pub watchdog: Option<String>,
}

/// The memory budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// For all apps together; what the device has less `reserve` when nothing is said.
    #[serde(default)]
    pub apps: Option<Bytes>,
    /// For the system and dunlin itself.
    pub reserve: Bytes,
}

/// What the kernel must offer.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kernel {
    /// `KEY=VALUE` words of the kernel's command line, with the reason.
    pub arguments: Vec<BootArgument>,
    /// cgroup controllers.
    pub controllers: Vec<String>,
    /// Where the command line is edited.
    pub command_line_file: Option<String>,
}

/// A word that the kernel's command line needs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootArgument {
    /// The word.
    pub word: String,
    /// Why.
    pub reason: String,
}

/// What the data folder lies on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// Wears out with writes: the logs of containers go to memory.
    pub flash: bool,
    /// Bytes that may be written to it a day before the device says so.
    pub write_budget: Option<Bytes>,
    /// Free bytes below which nothing more is pulled.
    pub reserve: Option<Bytes>,
}

/// The boards that come with the binary: name and text.
const BUILT_IN: &[(&str, &str)] = &[
    ("generic-x86_64", include_str!("../../boards/generic-x86_64.toml")),
    ("generic-arm64", include_str!("../../boards/generic-arm64.toml")),
    ("raspberrypi4", include_str!("../../boards/raspberrypi4.toml")),
    ("raspberrypi5", include_str!("../../boards/raspberrypi5.toml")),
    ("jetson-orin", include_str!("../../boards/jetson-orin.toml")),
    ("imx8mp", include_str!("../../boards/imx8mp.toml")),
    ("qemu-arm64", include_str!("../../boards/qemu-arm64.toml")),
];

/// Where boards of the device's own are looked for.
pub const DIRECTORY: &str = "/etc/dunlin/boards";

impl Board {
    /// The board of this name: from `directory` if a file is there, else built in.
    pub fn load(name: &str, directory: &Path) -> Result<Board, ConfigError> {
        let path = directory.join(format!("{name}.toml"));
        if !crate::types::text::is_name(name) {
            return Err(ConfigError::invalid(
                &path,
                "a board's name must match [a-z0-9][a-z0-9_-]{0,62}",
            ));
        }
        match read_text(&path) {
            Ok(text) => return Board::parse(&text, &path),
            Err(ConfigError::Disk(error)) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
        match BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
            Some((_, text)) => Board::parse(text, &path),
            None => {
                let known: Vec<&str> = BUILT_IN.iter().map(|(n, _)| *n).collect();
                let text = format!("board `{name}` is not known; there are: {}", known.join(", "));
                Err(ConfigError::invalid(&path, text))
            }
        }
    }

    /// The generic board of this binary's architecture.
    pub fn generic() -> Result<Board, ConfigError> {
        let name = if Platform::host().architecture == "amd64" {
            "generic-x86_64"
        } else {
            "generic-arm64"
        };
        Board::load(name, Path::new(DIRECTORY))
    }

    /// Reads a board's text; `path` is for errors.
    pub fn parse(text: &str, path: &Path) -> Result<Board, ConfigError> {
        let board: Board = read::toml(text).map_err(|e| ConfigError::invalid(path, e.to_string()))?;
        let problems: Vec<String> = [("defaults", &board.defaults), ("maximum", &board.maximum)]
            .iter()
            .flat_map(|(key, limits)| {
                limits
                    .problems()
                    .into_iter()
                    .map(move |(k, text)| format!("`{key}.{k}` {text}"))
            })
            .collect();
        if problems.is_empty() {
            Ok(board)
        } else {
            Err(ConfigError::invalid(path, problems.join("; ")))
        }
    }

    /// Its watchdog's device: its own, else the kernel's first.
    pub fn watchdog(&self) -> &str {
        self.watchdog.as_deref().unwrap_or("/dev/watchdog")
    }

    /// Bytes that the sum of the apps' memory limits may reach on a device with `total` bytes.
    pub fn app_memory(&self, total: u64) -> u64 {
        self.memory
            .apps
            .map_or(total.saturating_sub(self.memory.reserve.0), |b| b.0.min(total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_board_file_loads_and_bears_its_name() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("boards");
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let board = Board::load(&name, &folder).unwrap();
            assert_eq!(board.name, name);
            assert_eq!(
                Board::load(&name, Path::new("/nonexistent")).unwrap(),
                board,
                "{name} is built in"
            );
            assert!(
                board.defaults.memory.is_some() && board.defaults.pids.is_some(),
                "{name} has defaults"
            );
            names.push(name);
        }
        assert_eq!(names.len(), BUILT_IN.len());
    }

    #[test]
    fn unknown_keys_and_names_are_refused() {
        let path = Path::new("x.toml");
        assert!(Board::parse("name='x'\nwrong=1", path).is_err());
        assert!(
            Board::load("nope", Path::new("/nonexistent"))
                .unwrap_err()
                .to_string()
                .contains("generic-arm64")
        );
        assert!(Board::load("../x", Path::new("/nonexistent")).is_err());
    }
}

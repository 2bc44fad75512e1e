//! Errors at the edge: one line on stderr and the exit code.

use crate::engine::EngineError;
use std::fmt;
use std::io::{self, Write as _};

/// Exit code for an error of dunlin itself.
pub const OWN: u8 = 125;

/// Why a command ends without success.
#[derive(Debug)]
pub struct Failure {
    /// Exit code.
    pub code: u8,
    /// For stderr after `Error: `; empty when everything was said already.
    pub message: String,
    /// Stdout was closed by its reader: nothing is said.
    quiet: bool,
    /// A container or image that was named does not exist.
    missing: bool,
}

impl Failure {
    /// An error of dunlin itself.
    pub fn new(message: impl Into<String>) -> Failure {
        Failure::with_code(OWN, message)
    }

    /// An error with an exit code.
    pub fn with_code(code: u8, message: impl Into<String>) -> Failure {
        Failure {
            code,
            message: message.into(),
            quiet: false,
            missing: false,
        }
    }

    /// podman's exit codes of removals: 1 for what does not exist, 2 for what is in use.
    pub fn of_removal(error: EngineError) -> Failure {
        let code = match &error {
            EngineError::NoVolume(_) => 1,
            error if error.is_no_container() || error.is_no_image() => 1,
            EngineError::State { .. } | EngineError::VolumeInUse { .. } | EngineError::ImageInUse { .. } => 2,
            error => error.exit_code(),
        };
        Failure {
            code,
            ..Failure::from(error)
        }
    }

    /// Whether the container or image that was named does not exist.
    pub fn is_missing(&self) -> bool {
        self.missing
    }

    /// Says it on stderr, as podman does; returns the exit code.
    pub fn report(&self) -> u8 {
        if !self.quiet && !self.message.is_empty() {
            say_error(&self.message);
        }
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// One `Error: …` on stderr.
pub fn say_error(message: &str) {
    say(&format!("Error: {message}"));
}

/// A text on stderr.
pub fn say(message: &str) {
    // What a registry or an image wrote may be in the text: no control characters but line ends reach the terminal.
    let safe: String = message
        .chars()
        .map(|c| if c.is_control() && c != '\n' { '?' } else { c })
        .collect();
    // Nowhere is left to tell that stderr is gone.
    let _ = writeln!(io::stderr().lock(), "{safe}");
}

macro_rules! from_error {
    ($($error:ty),*) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Failure {
                Failure::new(error.to_string())
            }
        })*
    };
}

from_error!(
    crate::config::ConfigError,
    crate::disk::DiskError,
    crate::engine::filter::FilterError,
    super::compose::FlagError,
    super::template::TemplateError
);

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Failure {
        let missing = error.is_no_container() || error.is_no_image() || matches!(error, EngineError::NoVolume(_));
        Failure {
            missing,
            ..Failure::with_code(error.exit_code(), error.to_string())
        }
    }
}

impl From<crate::monitor::client::ClientError> for Failure {
    fn from(error: crate::monitor::client::ClientError) -> Failure {
        EngineError::from(error).into()
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        let quiet = error.kind() == io::ErrorKind::BrokenPipe;
        Failure {
            code: if quiet { 0 } else { OWN },
            message: error.to_string(),
            quiet,
            missing: false,
        }
    }
}

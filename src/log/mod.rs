//! Logging to standard error: one line a message, with the level as systemd's journal reads it.
//!
//! A line is `<PRIORITY>TEXT` when standard error is the journal (`JOURNAL_STREAM` is set) and `LEVEL TEXT` elsewhere.
//! No timestamps: the journal and the supervisor have their own.

use std::fmt;
use std::io::Write as _;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

/// How much a message matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something failed and stays so.
    Error = 3,
    /// Something is not as it should be.
    Warn = 4,
    /// What an operator wants to know.
    Info = 6,
    /// What a developer wants to know.
    Debug = 7,
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Level, String> {
        match text.to_ascii_lowercase().as_str() {
            "fatal" | "panic" | "error" => Ok(Level::Error),
            "warn" | "warning" => Ok(Level::Warn),
            "info" => Ok(Level::Info),
            "debug" | "trace" => Ok(Level::Debug),
            _ => Err(format!("log level `{text}` is not one of error, warn, info, debug")),
        }
    }
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Warn as u8);

/// Sets the least level that is written; process-wide.
pub fn set_level(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Whether messages of this level are written.
pub fn enabled(level: Level) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed)
}

/// Writes one message. Use the macros [`crate::error!`], [`crate::warn!`], [`crate::info!`], [`crate::debug!`].
pub fn write(level: Level, message: fmt::Arguments<'_>) {
    if !enabled(level) {
        return;
    }
    let mut text = message.to_string();
    // One message is one line, whatever hostile text it quotes.
    if text.contains(|c: char| c.is_control()) {
        text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    }
    let line = if std::env::var_os("JOURNAL_STREAM").is_some() {
        format!("<{}>{text}\n", level as u8)
    } else {
        let word = match level {
            Level::Error => "error",
            Level::Warn => "warning",
            Level::Info => "info",
            Level::Debug => "debug",
        };
        format!("{word}: {text}\n")
    };
    // Nowhere is left to tell that standard error is gone.
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

/// Logs at level error.
#[macro_export]
macro_rules! error {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Error, format_args!($($arg)*)) };
}

/// Logs at level warning.
#[macro_export]
macro_rules! warn {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Warn, format_args!($($arg)*)) };
}

/// Logs at level info.
#[macro_export]
macro_rules! info {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Info, format_args!($($arg)*)) };
}

/// Logs at level debug.
#[macro_export]
macro_rules! debug {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Debug, format_args!($($arg)*)) };
}

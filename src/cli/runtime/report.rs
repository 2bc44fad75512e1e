//! Errors as callers of runc look for them: a line in the log file and one on stderr.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use serde_json::json;

use super::super::failure::say;
use super::args::Global;
use crate::sys::event;
use crate::types::time::Unix;

/// Where messages go.
#[derive(Debug, Clone, Default)]
pub struct Log {
    file: Option<PathBuf>,
    json: bool,
    debug: bool,
}

impl Log {
    /// As the options say.
    pub fn new(global: &Global) -> Self {
        Log {
            file: global.log.clone(),
            json: global.log_format == "json",
            debug: global.debug,
        }
    }

    /// Why the command fails.
    pub fn error(&self, message: &str) {
        self.write("error", message);
        if self.file.is_some() {
            say(message);
        }
    }

    /// What went wrong without making the command fail.
    pub fn warn(&self, message: &str) {
        self.write("warning", message);
    }

    /// What is done, where it was asked for.
    pub fn debug(&self, message: &str) {
        if self.debug {
            self.write("debug", message);
        }
    }

    fn write(&self, level: &str, message: &str) {
        let time = Unix(event::unix_ns() / 1_000_000).rfc3339();
        let line = if self.json {
            json!({"level": level, "msg": message, "time": time}).to_string()
        } else {
            format!("time=\"{time}\" level={level} msg={message:?}")
        };
        let Some(path) = &self.file else { return say(&line) };
        let file = OpenOptions::new().create(true).append(true).open(path);
        // One write, so that lines of several processes do not mix.
        if let Err(error) = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())) {
            say(&format!("write log `{}`: {error}", path.display()));
        }
    }
}

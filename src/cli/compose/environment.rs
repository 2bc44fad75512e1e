//! Environment and labels: `NAME=VALUE`, `NAME` alone, files of them.

use super::{FlagError, wrong};
use crate::disk::durable;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Bytes of an environment or label file at the most.
const FILE_BYTES: u64 = 1 << 20;

/// The variables of files, then of flags. A name alone is copied from dunlin's own environment, and left out where
/// that has none; a name that ends in `*` copies all that begin so.
pub fn environment(files: &[PathBuf], flags: &[String]) -> Result<Vec<String>, FlagError> {
    let mut entries = from_files("--env-file", files)?;
    entries.extend(flags.iter().cloned());
    let mut out = Vec::with_capacity(entries.len());
    for entry in entries {
        match entry.split_once('=') {
            Some(("", _)) => return Err(wrong("--env", entry, "the name is missing")),
            Some(_) => out.push(entry),
            None if entry.is_empty() => return Err(wrong("--env", entry, "the name is missing")),
            None => match entry.strip_suffix('*') {
                Some(prefix) => out.extend(
                    std::env::vars_os()
                        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                        .filter(|(name, _)| name.starts_with(prefix))
                        .map(|(name, value)| format!("{name}={value}")),
                ),
                None => out.extend(std::env::var(&entry).ok().map(|value| format!("{entry}={value}"))),
            },
        }
    }
    Ok(out)
}

/// The lines of files, without comments and blank ones.
pub fn from_files(flag: &'static str, files: &[PathBuf]) -> Result<Vec<String>, FlagError> {
    let mut lines = Vec::new();
    for path in files {
        let shown = path.display().to_string();
        let bytes = durable::read(path, FILE_BYTES).map_err(|error| wrong(flag, &shown, error.to_string()))?;
        let text = String::from_utf8(bytes).map_err(|_| wrong(flag, &shown, "not UTF-8"))?;
        for line in text.lines() {
            let line = line.trim_start();
            if !line.is_empty() && !line.starts_with('#') {
                lines.push(line.to_owned());
            }
        }
    }
    Ok(lines)
}

/// `KEY=VALUE` texts; a key alone is an error where `strict`, else has an empty value.
pub fn key_values(flag: &'static str, texts: &[String], strict: bool) -> Result<BTreeMap<String, String>, FlagError> {
    let mut map = BTreeMap::new();
    for text in texts {
        let (key, value) = match text.split_once('=') {
            Some(pair) => pair,
            None if strict => return Err(wrong(flag, text, "write KEY=VALUE")),
            None => (text.as_str(), ""),
        };
        if key.is_empty() {
            return Err(wrong(flag, text, "the key is missing"));
        }
        map.insert(key.to_owned(), value.to_owned());
    }
    Ok(map)
}

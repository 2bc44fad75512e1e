//! What a container's script printed: `key=value` lines, lines of `/proc/PID/status`, lines of `mountinfo`.

use std::collections::BTreeMap;

/// The script that prints the mount table.
pub const MOUNTS: &str = "cat /proc/self/mountinfo\n";

/// The output of a probe, taken apart.
#[derive(Debug)]
pub struct Seen {
    values: BTreeMap<String, String>,
    mounts: Vec<Mount>,
}

/// A line of mountinfo.
#[derive(Clone, Debug, Default)]
pub struct Mount {
    pub point: String,
    /// Per-mount options.
    pub options: Vec<String>,
    /// Optional fields: `shared:1`, `master:2`, `unbindable`.
    pub propagation: Vec<String>,
    pub kind: String,
    pub source: String,
    /// Options of the file system.
    pub super_options: Vec<String>,
}

impl Seen {
    pub fn new(text: &str) -> Seen {
        let mut seen = Seen {
            values: BTreeMap::new(),
            mounts: Vec::new(),
        };
        for line in text.lines() {
            if let Some(mount) = Mount::parse(line) {
                seen.mounts.push(mount);
            } else if let Some((key, value)) = line.split_once('=').or_else(|| line.split_once(":\t")) {
                seen.values.insert(key.trim().to_owned(), value.trim().to_owned());
            }
        }
        seen
    }

    /// The value of a key; a word of its own when the script did not print it.
    pub fn get(&self, key: &str) -> &str {
        self.values.get(key).map_or("(not printed)", String::as_str)
    }

    /// The top mount at a path; all fields empty when nothing is mounted there.
    pub fn mount(&self, point: &str) -> Mount {
        self.mounts
            .iter()
            .rfind(|mount| mount.point == point)
            .cloned()
            .unwrap_or_default()
    }

    /// Every mount, in the order of the table.
    pub fn mounts(&self) -> &[Mount] {
        &self.mounts
    }
}

impl Mount {
    pub fn parse(line: &str) -> Option<Mount> {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        if left.len() < 6 || right.len() < 3 || left[0].parse::<u32>().is_err() {
            return None;
        }
        let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        Some(Mount {
            point: left[4].to_owned(),
            options: list(left[5]),
            propagation: left[6..].iter().map(|&field| field.to_owned()).collect(),
            kind: right[0].to_owned(),
            source: right[1].to_owned(),
            super_options: list(right[2]),
        })
    }

    /// Whether a per-mount option is set.
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|set| set == option)
    }

    /// Whether the file system has an option.
    pub fn super_has(&self, option: &str) -> bool {
        self.super_options.iter().any(|set| set == option)
    }

    /// Whether an optional field begins so.
    pub fn propagates(&self, kind: &str) -> bool {
        self.propagation.iter().any(|field| field.starts_with(kind))
    }
}

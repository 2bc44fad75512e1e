//! The options of one mount, as the runtime specification and mount(8) write them (pure).

use crate::sys::mount::{Propagation, attr};

/// What the options of a mount say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// It is a bind mount; `Some(true)` with everything mounted below the source.
    pub bind: Option<bool>,
    /// [`attr`] bits to set.
    pub set: u64,
    /// [`attr`] bits to clear.
    pub clear: u64,
    /// [`attr`] bits to set on it and on all mounts below.
    pub recursive_set: u64,
    /// [`attr`] bits to clear on it and on all mounts below.
    pub recursive_clear: u64,
    /// Propagation, and whether it also holds for the mounts below.
    pub propagation: Option<(Propagation, bool)>,
    /// The new file system gets a copy of what the image has at that place.
    pub copy_up: bool,
    /// An empty source of a bind mount gets a copy of what the image has at that place: podman's `copy` of new volumes.
    pub fill: bool,
    /// Owners are shifted; `Some(true)` also on the mounts below.
    pub mapped: Option<bool>,
    /// What is left: options of the file system, with their value if they have one.
    pub data: Vec<(String, Option<String>)>,
}

/// Name, bits to set, bits to clear. Those with `r` before them are recursive.
const ATTRS: [(&str, u64, u64); 17] = [
    ("ro", attr::RDONLY, 0),
    ("rw", 0, attr::RDONLY),
    ("nosuid", attr::NOSUID, 0),
    ("suid", 0, attr::NOSUID),
    ("nodev", attr::NODEV, 0),
    ("dev", 0, attr::NODEV),
    ("noexec", attr::NOEXEC, 0),
    ("exec", 0, attr::NOEXEC),
    ("noatime", attr::NOATIME, attr::ATIME_MASK),
    ("atime", 0, attr::NOATIME),
    ("relatime", 0, attr::ATIME_MASK),
    ("norelatime", attr::STRICTATIME, attr::ATIME_MASK),
    ("strictatime", attr::STRICTATIME, attr::ATIME_MASK),
    ("nodiratime", attr::NODIRATIME, 0),
    ("diratime", 0, attr::NODIRATIME),
    ("nosymfollow", attr::NOSYMFOLLOW, 0),
    ("symfollow", 0, attr::NOSYMFOLLOW),
];

const PROPAGATIONS: [(&str, Propagation); 4] = [
    ("private", Propagation::Private),
    ("slave", Propagation::Slave),
    ("shared", Propagation::Shared),
    ("unbindable", Propagation::Unbindable),
];

/// Accepted and without meaning here.
const IGNORED: [&str; 9] = [
    "defaults",
    "async",
    "nomand",
    "mand",
    "iversion",
    "noiversion",
    "silent",
    "loud",
    "nostrictatime",
];

/// Every option that is not left to the file system, sorted.
pub fn known_options() -> Vec<String> {
    let attrs = ATTRS.iter().map(|(name, ..)| *name);
    let both = |name: &str| [name.to_owned(), format!("r{name}")];
    let mut all: Vec<String> = attrs.flat_map(both).collect();
    all.extend(PROPAGATIONS.iter().flat_map(|(name, _)| both(name)));
    all.extend(
        IGNORED
            .iter()
            .chain(&["bind", "rbind", "tmpcopyup", "idmap", "ridmap"])
            .map(|&name| name.to_owned()),
    );
    all.sort();
    all
}

impl MountOptions {
    /// Reads the options in order; later ones win.
    pub fn parse<'a>(options: impl IntoIterator<Item = &'a str>) -> Self {
        let mut found = MountOptions::default();
        for option in options {
            found.add(option);
        }
        found
    }

    fn add(&mut self, option: &str) {
        if let Some((set, clear)) = attribute(option) {
            change(&mut self.set, &mut self.clear, set, clear);
        } else if let Some(propagation) = propagation(option) {
            self.propagation = Some((propagation, false));
        } else if let Some(recursive) = option.strip_prefix('r').and_then(attribute) {
            change(
                &mut self.recursive_set,
                &mut self.recursive_clear,
                recursive.0,
                recursive.1,
            );
        } else if let Some(recursive) = option.strip_prefix('r').and_then(propagation) {
            self.propagation = Some((recursive, true));
        } else {
            match option {
                "bind" => self.bind = Some(self.bind.unwrap_or(false)),
                "rbind" => self.bind = Some(true),
                "idmap" => self.mapped = Some(self.mapped.unwrap_or(false)),
                "ridmap" => self.mapped = Some(true),
                "tmpcopyup" => self.copy_up = true,
                "notmpcopyup" => self.copy_up = false,
                "copy" => self.fill = true,
                "nocopy" => self.fill = false,
                ignored if IGNORED.contains(&ignored) => {}
                data => self.data.push(match data.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (data.to_owned(), None),
                }),
            }
        }
    }
}

fn change(set: &mut u64, clear: &mut u64, to_set: u64, to_clear: u64) {
    *set = (*set & !to_clear) | to_set;
    *clear = (*clear & !to_set) | to_clear;
}

fn attribute(name: &str) -> Option<(u64, u64)> {
    ATTRS
        .iter()
        .find(|(known, ..)| *known == name)
        .map(|(_, set, clear)| (*set, *clear))
}

fn propagation(name: &str) -> Option<Propagation> {
    PROPAGATIONS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, propagation)| *propagation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_bits_and_data() {
        let plain = MountOptions::default;
        let cases: [(&str, MountOptions); 8] = [
            (
                "ro,nosuid",
                MountOptions {
                    set: attr::RDONLY | attr::NOSUID,
                    ..plain()
                },
            ),
            (
                "ro,rw,nosuid,suid",
                MountOptions {
                    clear: attr::RDONLY | attr::NOSUID,
                    ..plain()
                },
            ),
            (
                "bind,rbind,bind",
                MountOptions {
                    bind: Some(true),
                    ..plain()
                },
            ),
            (
                "rro",
                MountOptions {
                    recursive_set: attr::RDONLY,
                    ..plain()
                },
            ),
            (
                "rslave",
                MountOptions {
                    propagation: Some((Propagation::Slave, true)),
                    ..plain()
                },
            ),
            (
                "private",
                MountOptions {
                    propagation: Some((Propagation::Private, false)),
                    ..plain()
                },
            ),
            (
                "noatime,strictatime",
                MountOptions {
                    set: attr::STRICTATIME,
                    clear: attr::ATIME_MASK,
                    ..plain()
                },
            ),
            (
                "mode=755,newinstance,defaults",
                MountOptions {
                    data: vec![("mode".into(), Some("755".into())), ("newinstance".into(), None)],
                    ..plain()
                },
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(MountOptions::parse(text.split(',')), expected, "{text}");
        }
    }
}

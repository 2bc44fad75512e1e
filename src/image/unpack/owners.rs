//! Which owners this process can give to files.

use std::io;

use super::error::UnpackError;
use crate::image::tar::shown;
use crate::types::idmap::{Extent, IdMap};

/// Where one id is all there is, foreign owners are kept here as `UID:GID`.
pub(crate) const OWNER_XATTR: &[u8] = b"user.dunlin.owner";
/// CAP_CHOWN's bit (capabilities(7)).
const CAP_CHOWN: u64 = 1;

/// The owners that this process can give to files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owners {
    /// These ids of its user namespace.
    Mapped(IdMap),
    /// Only its own: foreign owners are recorded beside the file.
    Single,
}

impl Owners {
    /// Of the calling process, from /proc/self.
    pub fn of_this_process() -> io::Result<Owners> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let effective = effective
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .unwrap_or(0);
        let map = IdMap {
            uids: extents(&std::fs::read_to_string("/proc/self/uid_map")?),
            gids: extents(&std::fs::read_to_string("/proc/self/gid_map")?),
        };
        if effective & CAP_CHOWN == 0 || map.is_single() {
            Ok(Owners::Single)
        } else {
            Ok(Owners::Mapped(map))
        }
    }

    /// Checks that both ids can be given to `entry`.
    pub(super) fn check(&self, uid: u32, gid: u32, entry: &[u8]) -> Result<(), UnpackError> {
        let Owners::Mapped(map) = self else { return Ok(()) };
        let wrong = |kind: &str, id, extents: &[Extent], file: &str| UnpackError::Owner {
            entry: shown(entry),
            kind: kind.to_owned(),
            id,
            range: ranges(extents),
            file: file.to_owned(),
        };
        if !map.has_uid(uid) {
            return Err(wrong("user", uid, &map.uids, "/etc/subuid"));
        }
        if !map.has_gid(gid) {
            return Err(wrong("group", gid, &map.gids, "/etc/subgid"));
        }
        Ok(())
    }
}

/// The lines of a uid_map or gid_map.
fn extents(text: &str) -> Vec<Extent> {
    let line = |line: &str| {
        let mut numbers = line.split_ascii_whitespace().map(|n| n.parse().ok());
        Some(Extent {
            inside: numbers.next()??,
            outside: numbers.next()??,
            count: numbers.next()??,
        })
    };
    text.lines().filter_map(line).collect()
}

/// `0-65536` or `0, 5-9`.
fn ranges(extents: &[Extent]) -> String {
    // Neighbours are shown as one range.
    let mut spans: Vec<(u32, u32)> = Vec::new();
    for extent in extents.iter().filter(|e| e.count > 0) {
        let last = extent.inside.saturating_add(extent.count - 1);
        match spans.last_mut() {
            Some(span) if span.1.checked_add(1) == Some(extent.inside) => span.1 = last,
            _ => spans.push((extent.inside, last)),
        }
    }
    let texts: Vec<String> = spans
        .iter()
        .map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") })
        .collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_id_and_the_range() {
        let text = "         0       1000          1\n         1     100000      65536\n";
        let owners = Owners::Mapped(IdMap {
            uids: extents(text),
            gids: extents(text),
        });
        assert!(owners.check(65536, 0, b"x").is_ok());
        let error = owners.check(0, 70000, b"etc/shadow").unwrap_err().to_string();
        for part in ["etc/shadow", "group 70000", "0-65536", "/etc/subgid"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(Owners::Single.check(5, 5, b"x").is_ok());
    }
}

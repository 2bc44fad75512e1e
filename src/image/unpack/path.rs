//! Paths of an archive: cleaned by their text alone, before the file system sees them.

use super::error::UnpackError;
use crate::image::tar::shown;
use crate::types::bounds;

/// Prefix of a whiteout's name (OCI image layer specification, whiteouts).
const WHITEOUT: &[u8] = b".wh.";
/// Prefix of the names that old union file systems kept for themselves.
const META: &[u8] = b".wh..wh.";
/// The name that makes its directory opaque.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// A path below the root: components without `/`, `.`, `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Clean<'a> {
    pub(super) parts: Vec<&'a [u8]>,
}

/// What an entry's name means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// An entry as it stands.
    Plain,
    /// Hides this name of the lower layers.
    Whiteout(&'a [u8]),
    /// Hides all that the lower layers have in its directory.
    Opaque,
    /// A leftover of an old union file system: skipped.
    Skipped,
}

impl<'a> Clean<'a> {
    /// Cleans `path`: a leading `/` and `.` components go, `..` takes one component back; `None` when it would leave the root.
    fn new(path: &'a [u8]) -> Option<Clean<'a>> {
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in path.split(|b| *b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => drop(parts.pop()?),
                _ => parts.push(part),
            }
        }
        Some(Clean { parts })
    }

    /// The path of an entry.
    pub(super) fn entry(path: &'a [u8]) -> Result<Clean<'a>, UnpackError> {
        bounded(path, path)?;
        let clean = Clean::new(path).ok_or_else(|| UnpackError::Escapes { entry: shown(path) })?;
        clean.check(path)?;
        Ok(clean)
    }

    /// The target of the hard link `entry`.
    pub(super) fn target(target: &'a [u8], entry: &[u8]) -> Result<Clean<'a>, UnpackError> {
        bounded(target, entry)?;
        let escapes = || UnpackError::LinkEscapes {
            entry: shown(entry),
            target: shown(target),
        };
        let clean = Clean::new(target).ok_or_else(escapes)?;
        clean.check(entry)?;
        Ok(clean)
    }

    fn check(&self, entry: &[u8]) -> Result<(), UnpackError> {
        let wrong = |what: &str, max: usize| UnpackError::Path {
            entry: shown(entry),
            what: what.to_owned(),
            max: max as u64,
        };
        if self.parts.len() > bounds::LAYER_DEPTH {
            return Err(wrong("its path has too many components", bounds::LAYER_DEPTH));
        }
        if self.parts.iter().any(|part| part.len() > bounds::FILE_NAME_BYTES) {
            return Err(wrong(
                "a component of its path has too many bytes",
                bounds::FILE_NAME_BYTES,
            ));
        }
        Ok(())
    }

    /// The directory and the name in it; `None` for the root.
    pub(super) fn split(&self) -> Option<(&[&'a [u8]], &'a [u8])> {
        self.parts.split_last().map(|(name, parent)| (parent, *name))
    }

    /// What the last component means.
    pub(super) fn meaning(&self) -> Result<Meaning<'a>, UnpackError> {
        let wrong = |name: &[u8]| UnpackError::Whiteout {
            entry: shown(&join(&self.parts)),
            name: shown(name),
        };
        let Some((parent, name)) = self.split() else {
            return Ok(Meaning::Plain);
        };
        if parent.iter().any(|part| part.starts_with(META)) {
            return Ok(Meaning::Skipped);
        }
        if let Some(part) = parent.iter().find(|part| part.starts_with(WHITEOUT)) {
            return Err(wrong(part));
        }
        let Some(hidden) = name.strip_prefix(WHITEOUT) else {
            return Ok(Meaning::Plain);
        };
        match hidden {
            _ if name == OPAQUE => Ok(Meaning::Opaque),
            _ if name.starts_with(META) => Ok(Meaning::Skipped),
            b"" | b"." | b".." => Err(wrong(name)),
            _ => Ok(Meaning::Whiteout(hidden)),
        }
    }
}

fn bounded(path: &[u8], entry: &[u8]) -> Result<(), UnpackError> {
    if path.len() >= bounds::PATH_BYTES {
        let what = format!("a path of {} bytes", path.len());
        return Err(UnpackError::Path {
            entry: shown(entry),
            what,
            max: bounds::PATH_BYTES as u64 - 1,
        });
    }
    Ok(())
}

/// Components as one relative path; `.` for the root.
pub(super) fn join<T: AsRef<[u8]>>(parts: &[T]) -> Vec<u8> {
    let mut path = Vec::new();
    for part in parts {
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(part.as_ref());
    }
    if path.is_empty() { b".".to_vec() } else { path }
}

/// Whether `path` lies below `dir`.
pub(super) fn is_below(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleans_as_text_and_never_above_the_root() {
        let table: [(&str, Option<&str>); 12] = [
            ("a/b", Some("a/b")),
            ("./a//b/.", Some("a/b")),
            ("/etc/x", Some("etc/x")),
            ("a/../b", Some("b")),
            ("a/b/../../c", Some("c")),
            (".", Some(".")),
            ("", Some(".")),
            ("..", None),
            ("/..", None),
            ("a/../../b", None),
            ("../a", None),
            ("...", Some("...")),
        ];
        for (path, want) in table {
            let got = Clean::entry(path.as_bytes()).ok().map(|clean| join(&clean.parts));
            assert_eq!(got.as_deref(), want.map(str::as_bytes), "{path}");
        }
        assert!(Clean::entry(&[b'a'; 256]).is_err());
        assert!(Clean::entry(&b"a/".repeat(300)).is_err());
        assert!(Clean::entry(&b"a".repeat(5000)).is_err());
    }

    #[test]
    fn knows_whiteouts_from_names() {
        let table: [(&str, Result<Meaning, ()>); 11] = [
            ("a", Ok(Meaning::Plain)),
            (".wha", Ok(Meaning::Plain)),
            ("a/.wh.b", Ok(Meaning::Whiteout(b"b"))),
            (".wh..b", Ok(Meaning::Whiteout(b".b"))),
            ("a/.wh..wh..opq", Ok(Meaning::Opaque)),
            (".wh..wh.plnk/1.2", Ok(Meaning::Skipped)),
            (".wh..wh.aufs", Ok(Meaning::Skipped)),
            (".wh.", Err(())),
            ("a/.wh..", Err(())),
            ("a/.wh...", Err(())),
            (".wh.a/b", Err(())),
        ];
        for (path, want) in table {
            let clean = Clean::entry(path.as_bytes()).unwrap();
            assert_eq!(clean.meaning().map_err(|_| ()), want, "{path}");
        }
    }
}

//! The control files: small texts, one write per change.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use super::CgroupError;

/// Longest control file that is read, in bytes: `memory.stat` has 2 KiB, `cgroup.procs` 8 bytes per process.
const FILE_BYTES_MAX: u64 = 512 << 10;

/// Writes `value` into an existing control file, in one write.
pub(super) fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    put(path, value).map_err(|source| CgroupError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

/// As [`write`], with the bare error.
pub(super) fn put(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

/// A control file's text.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// A control file with one number; `max` and v1's huge numbers are none, as is a file that is not there.
pub(super) fn number(path: &Path) -> Option<u64> {
    /// v1 says 2^63 rounded to a page where nothing is limited.
    const UNLIMITED: u64 = 1 << 62;
    read(path)
        .ok()?
        .trim()
        .parse()
        .ok()
        .filter(|number| *number < UNLIMITED)
}

/// The number after `key` in a text of lines `KEY NUMBER`.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// True if the caller may write the file, found out by opening it.
pub(super) fn writable(path: &Path) -> bool {
    OpenOptions::new().write(true).open(path).is_ok()
}

/// Makes a group; one that exists is fine.
pub(super) fn make_group(path: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(CgroupError::Io {
            action: "make",
            path: path.to_owned(),
            source: error,
        }),
        _ => Ok(()),
    }
}

/// The processes in a group, without those below it.
pub(super) fn members(group: &Path) -> io::Result<Vec<i32>> {
    Ok(read(&group.join("cgroup.procs"))?
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect())
}

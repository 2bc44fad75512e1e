//! Writes that survive a power cut once they return.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::DiskError;

/// Replaces the content of `path` with `data`: readers see the old bytes or the new ones, also after a power cut.
/// Mode 0600. On an error nothing is left behind.
pub fn write(path: &Path, data: &[u8]) -> Result<(), DiskError> {
    replace(path, data, true)
}

/// Like [`write`] without syncing: for files in memory (the run root), where a power cut takes everything anyway.
pub fn write_volatile(path: &Path, data: &[u8]) -> Result<(), DiskError> {
    replace(path, data, false)
}

fn replace(path: &Path, data: &[u8], sync: bool) -> Result<(), DiskError> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let n = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.{n}.tmp", std::process::id()));
    let result = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(DiskError::io("create", &temporary))?;
        file.write_all(data).map_err(DiskError::io("write", &temporary))?;
        if sync {
            file.sync_all().map_err(DiskError::io("sync", &temporary))?;
        }
        fs::rename(&temporary, path).map_err(DiskError::io("rename", path))?;
        if sync { sync_parent(path) } else { Ok(()) }
    })();
    if result.is_err() {
        // Already failing; a leftover is swept by its name at the next start.
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Files that writes which were cut off have left in `dir`, when nobody else writes there.
pub fn cut_off(dir: &Path) -> Result<Vec<PathBuf>, DiskError> {
    let entries = fs::read_dir(dir).map_err(DiskError::io("list", dir))?;
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let left = names.filter(|name| name.starts_with('.') && name.ends_with(".tmp"));
    Ok(left.map(|name| dir.join(name)).collect())
}

/// Whether the process that wrote this file of [`cut_off`]'s may still be at it. A number that another process has got since counts too.
pub fn is_being_written(left: &Path) -> bool {
    let name = left.file_name().unwrap_or_default().to_string_lossy();
    // .NAME.PROCESS.N.tmp
    let process = name.rsplit('.').nth(2).and_then(|text| text.parse::<u32>().ok());
    process.is_some_and(|process| process != std::process::id() && Path::new(&format!("/proc/{process}")).exists())
}

/// Renames and makes it durable on both sides.
pub fn rename(from: &Path, to: &Path) -> Result<(), DiskError> {
    fs::rename(from, to).map_err(DiskError::io("rename", from))?;
    sync_parent(to)?;
    if from.parent() == to.parent() {
        Ok(())
    } else {
        sync_parent(from)
    }
}

/// Removes a file durably. A file that is not there is no error.
pub fn remove_file(path: &Path) -> Result<(), DiskError> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(DiskError::io("remove", path)(e)),
    }
}

/// Makes a file that was written without syncing durable, with its name.
pub fn sync_file(path: &Path) -> Result<(), DiskError> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(DiskError::io("sync", path))?;
    sync_parent(path)
}

/// Makes the entries of the folder that holds `path` durable.
pub fn sync_parent(path: &Path) -> Result<(), DiskError> {
    match path.parent() {
        Some(dir) if dir.as_os_str().is_empty() => sync_dir(Path::new(".")),
        Some(dir) => sync_dir(dir),
        None => Ok(()),
    }
}

/// Makes the entries of a folder durable.
pub fn sync_dir(dir: &Path) -> Result<(), DiskError> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(DiskError::io("sync", dir))
}

/// Makes a folder and those above it, mode 0700 for each new one. Durable.
pub fn create_dirs(dir: &Path) -> Result<(), DiskError> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent()
        && !parent.as_os_str().is_empty()
    {
        create_dirs(parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => sync_parent(dir),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(DiskError::io("create folder", dir)(e)),
    }
}

/// Reads a whole regular file of at most `limit` bytes.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, DiskError> {
    // O_NONBLOCK: a FIFO in the place of the file must not hang us.
    const O_NONBLOCK: i32 = 0o4000;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open(path)
        .map_err(DiskError::io("open", path))?;
    // In one call, as long as the file does not grow meanwhile.
    let size = file.metadata().map_or(0, |data| data.len()).min(limit);
    let mut data = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    file.take(limit + 1)
        .read_to_end(&mut data)
        .map_err(DiskError::io("read", path))?;
    if data.len() as u64 > limit {
        return Err(DiskError::TooLarge {
            path: path.to_owned(),
            limit,
        });
    }
    Ok(data)
}

/// Like [`read`]; `None` where there is no such file.
pub fn read_optional(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, DiskError> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    match read(path, limit) {
        Ok(data) => Ok(Some(data)),
        Err(DiskError::Io { source, .. }) if matches!(source.kind(), NotFound | NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_files_and_leaves_nothing_else() {
        let dir = std::env::temp_dir().join(format!("dunlin-durable-{}", std::process::id()));
        create_dirs(&dir.join("a/b")).unwrap();
        let path = dir.join("a/b/file");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(read(&path, 3).unwrap(), b"two");
        assert!(matches!(read(&path, 2), Err(DiskError::TooLarge { .. })));
        assert!(write(&dir.join("missing/file"), b"x").unwrap_err().is_missing());
        assert_eq!(fs::read_dir(dir.join("a/b")).unwrap().count(), 1);
        remove_file(&path).unwrap();
        remove_file(&path).unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }
}

//! Which containers there are, and who has which name.
//!
//! A container exists from the moment its folder is renamed to `containers/ID` to the moment it is renamed away. Its
//! name is in its record; `names/NAME` is a symbolic link to the folder that makes the name quick to find and unique:
//! it is checked against the record, so that one left over by a power cut means nothing. Everything that changes
//! existence or names holds [`IndexLock`].

use super::EngineError;
use crate::disk::layout::Layout;
use crate::disk::lock::{Lock, Mode};
use crate::disk::{DiskError, durable, record};
use crate::types::container::ContainerRecord;
use crate::types::ids::ContainerId;
use crate::types::text::is_container_name;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;
use std::time::Duration;

/// How long another process may change the index.
const PATIENCE: Duration = Duration::from_secs(30);

/// Held while containers appear, disappear or change their names.
pub struct IndexLock {
    _lock: Lock,
}

impl IndexLock {
    /// Waits for it.
    pub fn take(layout: &Layout) -> Result<IndexLock, DiskError> {
        let dir = layout.names();
        let path = dir.join(".lock");
        let lock = Lock::take(&path, Mode::Exclusive, PATIENCE)?;
        same_owner(&path, &dir)?;
        Ok(IndexLock { _lock: lock })
    }
}

/// Gives a file to whom its folder belongs: in a store of root's, clean-ups of monitors take the lock too.
fn same_owner(path: &Path, dir: &Path) -> Result<(), DiskError> {
    let (file, folder) = (fs::metadata(path), fs::metadata(dir));
    let (file, folder) = (
        file.map_err(DiskError::io("look at", path))?,
        folder.map_err(DiskError::io("look at", dir))?,
    );
    if file.uid() == folder.uid() {
        return Ok(());
    }
    chown(path, Some(folder.uid()), Some(folder.gid())).map_err(DiskError::io("change the owner of", path))
}

/// Ids of all containers, in no order.
pub fn ids(layout: &Layout) -> Result<Vec<ContainerId>, DiskError> {
    let dir = layout.containers();
    let mut ids = Vec::new();
    for entry in entries(&dir)? {
        if let Ok(id) = entry.parse() {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// Names in a folder that may not exist.
pub fn entries(dir: &Path) -> Result<Vec<String>, DiskError> {
    let read = match fs::read_dir(dir) {
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(DiskError::io("read folder", dir)(error)),
    };
    let mut names = Vec::new();
    for entry in read {
        let entry = entry.map_err(DiskError::io("read folder", dir))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

/// The record of a container, `None` when there is none (any more).
pub fn load(layout: &Layout, id: &ContainerId) -> Result<Option<ContainerRecord>, DiskError> {
    record::read_optional(&layout.container_record(id))
}

/// All records, in no order. One that is damaged is logged and left out, so that the others stay usable.
pub fn all(layout: &Layout) -> Result<Vec<ContainerRecord>, DiskError> {
    let mut records = Vec::new();
    for id in ids(layout)? {
        match load(layout, &id) {
            Ok(Some(record)) => records.push(record),
            Ok(None) => {}
            Err(error) => crate::warn!("container {}: {error}", id.short()),
        }
    }
    Ok(records)
}

/// The container with this name.
pub fn by_name(layout: &Layout, name: &str) -> Result<Option<ContainerRecord>, DiskError> {
    if !is_container_name(name) {
        return Ok(None);
    }
    if let Ok(target) = fs::read_link(layout.names().join(name))
        && let Some(id) = target
            .file_name()
            .and_then(|id| id.to_str())
            .and_then(|id| id.parse().ok())
        && let Some(record) = load(layout, &id)?
        && record.name == name
    {
        return Ok(Some(record));
    }
    Ok(all(layout)?.into_iter().find(|record| record.name == name))
}

/// The container with this name, id or unambiguous beginning of an id.
pub fn find(layout: &Layout, typed: &str) -> Result<ContainerRecord, EngineError> {
    if let Ok(id) = typed.parse()
        && let Some(record) = load(layout, &id)?
    {
        return Ok(record);
    }
    if let Some(record) = by_name(layout, typed)? {
        return Ok(record);
    }
    let none = || EngineError::NoContainer(typed.to_owned());
    if typed.is_empty() || typed.len() > 64 || !typed.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    {
        return Err(none());
    }
    let mut matching: Vec<ContainerId> = ids(layout)?
        .into_iter()
        .filter(|id| id.hex().starts_with(typed))
        .collect();
    match (matching.pop(), matching.len()) {
        (Some(id), 0) => load(layout, &id)?.ok_or_else(none),
        (Some(_), more) => Err(EngineError::Ambiguous {
            prefix: typed.to_owned(),
            count: more + 1,
        }),
        (None, _) => Err(none()),
    }
}

/// Makes the name known as this container's. The caller has checked that it is free.
pub fn link_name(layout: &Layout, _lock: &IndexLock, name: &str, id: &ContainerId) -> Result<(), DiskError> {
    let path = layout.names().join(name);
    unlink_name(layout, _lock, name)?;
    std::os::unix::fs::symlink(format!("../containers/{}", id.hex()), &path).map_err(DiskError::io("link", &path))
}

/// Forgets a name; one that is not known is no error.
pub fn unlink_name(layout: &Layout, _lock: &IndexLock, name: &str) -> Result<(), DiskError> {
    let path = layout.names().join(name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DiskError::io("remove", &path)(error)),
        _ => Ok(()),
    }
}

/// Who has this name, as an error; nobody is `Ok`.
pub fn check_free(layout: &Layout, _lock: &IndexLock, name: &str) -> Result<(), EngineError> {
    if !is_container_name(name) {
        return Err(EngineError::BadName(name.to_owned()));
    }
    match by_name(layout, name)? {
        Some(record) => Err(EngineError::NameTaken {
            name: name.to_owned(),
            owner: record.id.hex(),
        }),
        None => Ok(()),
    }
}

/// Gives a container another name.
pub fn rename(layout: &Layout, typed: &str, name: &str) -> Result<ContainerRecord, EngineError> {
    let lock = IndexLock::take(layout)?;
    let mut found = find(layout, typed)?;
    if found.name == name {
        return Ok(found);
    }
    check_free(layout, &lock, name)?;
    let before = std::mem::replace(&mut found.name, name.to_owned());
    // The record decides; a link that says otherwise after a power cut means nothing.
    record::write(&layout.container_record(&found.id), &found)?;
    link_name(layout, &lock, name, &found.id)?;
    unlink_name(layout, &lock, &before)?;
    Ok(found)
}

/// Makes the folders that containers live in.
pub fn prepare(layout: &Layout) -> Result<(), DiskError> {
    for dir in [layout.containers(), layout.names(), layout.volumes(), layout.monitors()] {
        durable::create_dirs(&dir)?;
    }
    Ok(())
}

//! Volumes: folders that outlive containers, `volumes/NAME/_data`.

use super::index::{IndexLock, entries};
use super::prune::{all_containers, volumes_of};
use super::{Engine, EngineError, now};
use crate::disk::layout::Layout;
use crate::disk::record::{self, Record, kinds};
use crate::disk::{DiskError, durable};
use crate::sys::clock;
use crate::types::container::ContainerRecord;
use crate::types::digest::hex;
use crate::types::text::is_container_name;
use crate::types::time::Unix;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct VolumeRecord {
    /// Its name; 64 hex digits for one that nobody named.
    pub name: String,
    /// When it was made.
    pub created: Unix,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Made for one container without a name; removed with it when that is asked.
    pub unnamed: bool,
    /// Filled from the image when it is mounted first.
    pub fresh: bool,
}

impl Record for VolumeRecord {
    const KIND: u16 = kinds::VOLUME;
}

/// Where a volume's files are.
pub fn data(layout: &Layout, name: &str) -> PathBuf {
    layout.volumes().join(name).join("_data")
}

/// The volume of this name, made where it is missing. `own` gives a new folder to the containers' root.
pub fn ensure(
    layout: &Layout,
    name: &str,
    unnamed: bool,
    now: Unix,
    own: &dyn Fn(&Path) -> Result<(), EngineError>,
) -> Result<VolumeRecord, EngineError> {
    if !is_container_name(name) {
        return Err(EngineError::BadName(name.to_owned()));
    }
    if let Some(found) = load(layout, name)? {
        return Ok(found);
    }
    let record = VolumeRecord {
        name: name.to_owned(),
        created: now,
        labels: BTreeMap::new(),
        unnamed,
        fresh: true,
    };
    make(layout, record, own)?.map_or_else(|| load(layout, name)?.ok_or_else(|| vanished(name)), Ok)
}

/// Somebody made it and somebody removed it, all in this moment.
fn vanished(name: &str) -> EngineError {
    EngineError::NoVolume(name.to_owned())
}

/// Makes a volume; `None` where somebody else was sooner.
fn make(
    layout: &Layout,
    record: VolumeRecord,
    own: &dyn Fn(&Path) -> Result<(), EngineError>,
) -> Result<Option<VolumeRecord>, EngineError> {
    let name = &record.name;
    let making = layout.volumes().join(format!(".{name}.{}.new", std::process::id()));
    durable::create_dirs(&making.join("_data"))?;
    own(&making)?;
    // The container's own users may be anybody.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(making.join("_data"), open).map_err(EngineError::io("open up", &making))?;
    own(&making.join("_data"))?;
    record::write(&making.join("record"), &record)?;
    own(&making.join("record"))?;
    match durable::rename(&making, &layout.volumes().join(name)) {
        Ok(()) => Ok(Some(record)),
        Err(error) => {
            // Somebody else may have made it in the meantime.
            let _ = fs::remove_dir_all(&making);
            match load(layout, name)? {
                Some(_) => Ok(None),
                None => Err(error.into()),
            }
        }
    }
}

impl Engine {
    /// All volumes, by name.
    pub fn volumes(&self) -> Result<Vec<VolumeRecord>, EngineError> {
        Ok(all(self.layout())?)
    }

    /// Makes a volume; without a name, one of 64 hex digits is made up. A name that is taken is an error.
    pub fn create_volume(
        &self,
        name: Option<&str>,
        labels: BTreeMap<String, String>,
    ) -> Result<VolumeRecord, EngineError> {
        let name = match name {
            Some(name) if is_container_name(name) => name.to_owned(),
            Some(name) => return Err(EngineError::BadName(name.to_owned())),
            None => {
                let mut random = [0; 32];
                clock::random(&mut random).map_err(EngineError::io("make a name below", &self.layout().volumes()))?;
                hex(&random)
            }
        };
        let record = VolumeRecord {
            name: name.clone(),
            created: now(),
            labels,
            unnamed: false,
            fresh: true,
        };
        match load(self.layout(), &name)? {
            Some(_) => None,
            None => make(self.layout(), record, &|path| self.own(path))?,
        }
        .inspect(|made| self.tell("volume", "create", &made.name, &made.name, ""))
        .ok_or(EngineError::VolumeExists(name))
    }

    /// A volume by its name, or by the unambiguous beginning of one.
    pub fn volume(&self, typed: &str) -> Result<VolumeRecord, EngineError> {
        if is_container_name(typed)
            && let Some(found) = load(self.layout(), typed)?
        {
            return Ok(found);
        }
        let mut begin = all(self.layout())?;
        begin.retain(|volume| !typed.is_empty() && volume.name.starts_with(typed));
        match begin.len() {
            1 => Ok(begin.remove(0)),
            0 => Err(EngineError::NoVolume(typed.to_owned())),
            count => Err(EngineError::AmbiguousVolume {
                prefix: typed.to_owned(),
                count,
            }),
        }
    }

    /// The containers that mount a volume.
    pub fn volume_users(&self, name: &str) -> Result<Vec<ContainerRecord>, EngineError> {
        let mut users = all_containers(self)?;
        users.retain(|record| volumes_of(record).contains(name));
        Ok(users)
    }

    /// Removes a volume; one that containers mount only with `force`, after those (stopped within `timeout` seconds).
    pub fn remove_volume(&self, typed: &str, force: bool, timeout: Option<u32>) -> Result<String, EngineError> {
        let name = self.volume(typed)?.name;
        if force {
            for user in self.volume_users(&name)? {
                match self.remove(&user.id.hex(), true, false, timeout) {
                    Err(error) if !error.is_no_container() => return Err(error),
                    _ => {}
                }
            }
        }
        let gone = {
            // No container appears with it meanwhile.
            let _lock = IndexLock::take(self.layout())?;
            let users = self.volume_users(&name)?;
            if !users.is_empty() {
                let users: Vec<String> = users.iter().map(|user| user.id.hex()).collect();
                return Err(EngineError::VolumeInUse {
                    volume: name,
                    users: users.join(", "),
                });
            }
            take_away(self.layout(), &name)?
        };
        if let Some(gone) = gone {
            self.tell("volume", "remove", &name, &name, "");
            self.remove_tree(&gone)?;
        }
        Ok(name)
    }
}

/// Where a volume's record is.
pub fn record_path(layout: &Layout, name: &str) -> PathBuf {
    layout.volumes().join(name).join("record")
}

/// A volume's record; `None` where there is none.
pub fn load(layout: &Layout, name: &str) -> Result<Option<VolumeRecord>, DiskError> {
    record::read_optional(&record_path(layout, name))
}

/// Remembers that a volume was mounted: it is not filled again. `brief`: what need not outlive a power cut is not synced.
pub fn settle(layout: &Layout, name: &str, brief: bool) -> Result<(), DiskError> {
    match load(layout, name)? {
        Some(found) if found.fresh => {
            let settled = VolumeRecord { fresh: false, ..found };
            let path = record_path(layout, name);
            if brief && settled.unnamed {
                record::write_volatile(&path, &settled)
            } else {
                record::write(&path, &settled)
            }
        }
        _ => Ok(()),
    }
}

/// All volumes, by name.
pub fn all(layout: &Layout) -> Result<Vec<VolumeRecord>, DiskError> {
    let mut names: Vec<String> = entries(&layout.volumes())?
        .into_iter()
        .filter(|name| is_container_name(name))
        .collect();
    names.sort_unstable();
    let mut volumes = Vec::with_capacity(names.len());
    for name in names {
        volumes.extend(load(layout, &name)?);
    }
    Ok(volumes)
}

/// Takes a volume away: what is left is at the path that is returned, to be removed as a tree. `None` where there was
/// none.
pub fn take_away(layout: &Layout, name: &str) -> Result<Option<PathBuf>, DiskError> {
    let gone = layout.volumes().join(format!(".{name}.removing"));
    match fs::rename(layout.volumes().join(name), &gone) {
        Ok(()) => Ok(Some(gone)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DiskError::io("remove volume", &gone)(error)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_volume_is_made_once_and_taken_away_whole() {
        let root = std::env::temp_dir().join(format!("dunlin-volume-{}", std::process::id()));
        let layout = Layout::new(root.join("data"), root.join("run"));
        let own = |_: &Path| Ok(());
        let first = ensure(&layout, "data", false, Unix(5), &own).unwrap();
        fs::write(data(&layout, "data").join("file"), "x").unwrap();
        let again = ensure(&layout, "data", true, Unix(9), &own).unwrap();
        assert_eq!((first.created, again), (Unix(5), first.clone()));
        assert_eq!(all(&layout).unwrap(), [first]);
        assert!(ensure(&layout, "../x", false, Unix(5), &own).is_err());
        let gone = take_away(&layout, "data").unwrap().unwrap();
        assert!(gone.join("_data/file").exists());
        assert!(all(&layout).unwrap().is_empty() && take_away(&layout, "data").unwrap().is_none());
        fs::remove_dir_all(&root).unwrap();
    }
}

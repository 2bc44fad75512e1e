//! What one process has in flight: a folder below `tmp` whose lock says that the process lives.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::layer::LayerKey;
use super::part::{self, LayerLock, LayerStage};
use super::record::{Hold, LayerRecord};
use super::{Store, StoreError, list};
use crate::disk::lock::{Lock, Mode};
use crate::disk::{DiskError, durable, record as records};
use crate::types::digest::Digest;

/// A staging area. Dropped, it is removed as far as plain files go; trees in it are for a worker ([`Store::abandoned`]).
#[derive(Debug)]
pub struct Staging {
    dir: PathBuf,
    lock_path: PathBuf,
    _lock: Lock,
}

impl Staging {
    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.dir.join("hold"));
        // Where trees are left both stay, for whoever sweeps next.
        if std::fs::remove_dir(&self.dir).is_ok() {
            let _ = std::fs::remove_file(&self.lock_path);
        }
    }
}

impl Store {
    /// Makes a staging area that keeps these layers and blobs from garbage collection as long as it lives.
    pub fn stage(&self, layers: &[Digest], blobs: &[Digest]) -> Result<Staging, StoreError> {
        let _shared = self.shared()?;
        loop {
            let name = format!("s{}-{:016x}", std::process::id(), random());
            let dir = self.layout().tmp().join(&name);
            let lock_path = self.layout().tmp().join(format!("{name}.lock"));
            // A name that is taken is somebody else's, alive or not.
            if lock_path.exists() || dir.exists() {
                continue;
            }
            let Some(lock) = Lock::try_take(&lock_path, Mode::Exclusive)? else {
                continue;
            };
            durable::create_dirs(&dir)?;
            self.open_for_trees(&dir)?;
            records::write_volatile(
                &dir.join("hold"),
                &Hold {
                    layers: layers.to_vec(),
                    blobs: blobs.to_vec(),
                },
            )?;
            return Ok(Staging {
                dir,
                lock_path,
                _lock: lock,
            });
        }
    }

    /// Folders of a store whose trees belong to others may be passed through.
    pub(super) fn open_for_trees(&self, dir: &Path) -> Result<(), StoreError> {
        let mode = if self.owner.is_some() || dir.ends_with("diff") {
            0o755
        } else {
            0o700
        };
        let set = std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode));
        Ok(set.map_err(DiskError::io("set the mode of", dir))?)
    }

    /// Puts a finished layer, whose tree is on the device, in its place. Where another process was faster its layer stays and
    /// the own one is left for a worker to remove; `false` then.
    pub fn commit_layer(&self, stage: &LayerStage, layer: &NewLayer) -> Result<(LayerKey, bool), StoreError> {
        let _shared = self.shared()?;
        let key = LayerKey {
            diff: layer.diff,
            key: layer.key,
        };
        let place = self.layout().layers().join(layer.key.hex());
        let alias = self.make_alias(&layer.key)?;
        let record = LayerRecord {
            alias,
            ..layer.record()
        };
        records::write(&stage.dir().join("record"), &record)?;
        match std::fs::rename(stage.dir(), &place) {
            Ok(()) => {}
            Err(_) if self.layer(&layer.key)?.is_some() => return Ok((key, false)),
            Err(e) => return Err(DiskError::io("rename", stage.dir())(e).into()),
        }
        durable::sync_parent(&place)?;
        stage.remove_rest();
        Ok((key, true))
    }

    /// Makes the short link of a layer: as few digits of its name as nobody else has.
    fn make_alias(&self, key: &Digest) -> Result<String, StoreError> {
        let hex = key.hex();
        let target = format!("../{}", super::layer::tree(key));
        for digits in 8..=hex.len() {
            let alias = &hex[..digits];
            let path = self.aliases().join(alias);
            match std::os::unix::fs::symlink(&target, &path) {
                Ok(()) => {
                    durable::sync_parent(&path)?;
                    return Ok(alias.to_owned());
                }
                Err(_) if std::fs::read_link(&path).is_ok_and(|there| there == Path::new(&target)) => {
                    return Ok(alias.to_owned());
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(DiskError::io("link", &path)(e).into()),
            }
        }
        Err(DiskError::io("link", &self.aliases())(std::io::ErrorKind::AlreadyExists.into()).into())
    }

    /// Staging areas of processes that are gone, with the trees that are left in them, for a worker to remove, and parts of layers that
    /// nobody can go on with or that were kept for long enough; with `all` every part that nobody works on. Each is locked until the
    /// value is dropped, which removes what is empty by then.
    pub fn abandoned(&self, all: bool) -> Result<Vec<Abandoned>, StoreError> {
        let tmp = self.layout().tmp();
        let mut found = self.abandoned_parts(all)?;
        for name in list(&tmp)? {
            let dir = tmp.join(&name);
            if name.starts_with("part-") {
                continue;
            }
            if let Some(digest) = name.strip_prefix("lock-").and_then(|hex| Digest::from_hex(hex).ok()) {
                drop(self.try_lock_layer(&digest)?);
                continue;
            }
            let lock_path = match name.strip_suffix(".lock") {
                Some(area) if tmp.join(area).exists() => continue,
                Some(_) => dir.clone(),
                None => tmp.join(format!("{name}.lock")),
            };
            let Some(lock) = Lock::try_take(&lock_path, Mode::Exclusive)? else {
                continue;
            };
            found.push(Abandoned {
                dir: tmp.join(name.trim_end_matches(".lock")),
                held: Held::Area(lock_path, lock),
            });
        }
        Ok(found)
    }

    /// Layers and blobs that living staging areas hold.
    pub(super) fn held(&self) -> Result<Hold, StoreError> {
        let tmp = self.layout().tmp();
        let mut all = Hold {
            layers: Vec::new(),
            blobs: Vec::new(),
        };
        for name in list(&tmp)? {
            let Ok(Some(hold)) = records::read_optional::<Hold>(&tmp.join(&name).join("hold")) else {
                continue;
            };
            let lock = Lock::try_take(&tmp.join(format!("{name}.lock")), Mode::Shared)?;
            if lock.is_none() {
                all.layers.extend(hold.layers);
                all.blobs.extend(hold.blobs);
            }
        }
        Ok(all)
    }
}

/// What a finished layer is.
#[derive(Debug, Clone)]
pub struct NewLayer {
    /// SHA-256 of its archive.
    pub diff: Digest,
    /// The name that it gets.
    pub key: Digest,
    /// Whether it leans on those below it.
    pub leans: bool,
    /// Whether it hides everything below it.
    pub opaque: bool,
    /// Owner and mode of its root, when it says so.
    pub root: Option<super::RootDir>,
    /// Bytes on disk.
    pub size: u64,
    /// Entries of its archive.
    pub entries: u64,
    /// Device nodes that were left out.
    pub devices: u64,
}

impl NewLayer {
    fn record(&self) -> LayerRecord {
        LayerRecord {
            key: self.key,
            diff: self.diff,
            leans: self.leans,
            opaque: self.opaque,
            root: self.root,
            size: self.size,
            entries: self.entries,
            devices: self.devices,
            alias: String::new(),
        }
    }
}

/// Something of a process that is gone.
#[derive(Debug)]
pub struct Abandoned {
    pub(super) dir: PathBuf,
    pub(super) held: Held,
}

/// What keeps others from it.
#[derive(Debug)]
pub(super) enum Held {
    /// The lock of a staging area.
    Area(PathBuf, #[expect(dead_code, reason = "held until it is dropped")] Lock),
    /// The right to make the layer.
    Part(#[expect(dead_code, reason = "held until it is dropped")] LayerLock),
}

impl Abandoned {
    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Names of the trees in it.
    pub fn trees(&self) -> Vec<String> {
        let names = list(&self.dir).unwrap_or_default().into_iter();
        match self.held {
            Held::Area(..) => names.filter(|name| name != "hold").collect(),
            Held::Part(_) => names.filter(|name| name == "layer").collect(),
        }
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        match &self.held {
            Held::Area(lock_path, _) => {
                // The hold, and what its writing left when it was cut off.
                for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
                    let _ = std::fs::remove_file(entry.path());
                }
                if matches!(std::fs::remove_dir(&self.dir), Err(e) if e.kind() != std::io::ErrorKind::NotFound) {
                    return;
                }
                let _ = std::fs::remove_file(lock_path);
            }
            // A tree that is still there keeps its folder.
            Held::Part(_) => part::remove_rest(&self.dir),
        }
    }
}

/// Seeded by the kernel; unique enough for names that are checked anyway.
fn random() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// How long a wait for another process's layer pauses between two looks.
pub const LAYER_LOCK_PAUSE: Duration = Duration::from_millis(50);

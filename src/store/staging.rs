//! What one process has in flight: a folder below `tmp` whose lock says that the process lives.

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::layer::LayerKey;
use super::record::{Hold, LayerRecord};
use super::{Store, StoreError, list};
use crate::disk::lock::{Lock, Mode};
use crate::disk::{DiskError, durable, record as records};
use crate::sys::fs;
use crate::types::digest::Digest;

/// A staging area. Dropped, it is removed as far as plain files go; trees in it are for a worker ([`Store::abandoned`]).
#[derive(Debug)]
pub struct Staging {
    dir: PathBuf,
    lock_path: PathBuf,
    _lock: Lock,
    next: AtomicU32,
}

/// A layer being unpacked in a staging area.
#[derive(Debug)]
pub struct LayerStage {
    /// `tmp/S/N`: holds the record, the sums, the recipe and the tree.
    dir: PathBuf,
}

impl LayerStage {
    /// The empty folder for the tree.
    pub fn tree(&self) -> PathBuf {
        self.dir.join("diff")
    }

    /// Makes the file for the tree's sums.
    pub fn create_sums(&self) -> Result<File, StoreError> {
        self.create("sums")
    }

    /// Makes the file for the recipe of the layer's archive.
    pub fn create_recipe(&self) -> Result<File, StoreError> {
        self.create("recipe")
    }

    fn create(&self, name: &str) -> Result<File, StoreError> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let path = self.dir.join(name);
        let made = File::options().write(true).create_new(true).mode(0o600).open(&path);
        Ok(made.map_err(DiskError::io("create", &path))?)
    }

    /// The folder that is renamed into place, to be removed by a worker when it is not.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
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
                next: AtomicU32::new(0),
            });
        }
    }

    /// Makes an empty folder for a layer.
    pub fn stage_layer(&self, staging: &Staging) -> Result<LayerStage, StoreError> {
        let number = staging.next.fetch_add(1, Ordering::Relaxed);
        let dir = staging.dir.join(number.to_string());
        let tree = dir.join("diff");
        for folder in [&dir, &tree] {
            std::fs::create_dir(folder).map_err(DiskError::io("create folder", folder))?;
            self.open_for_trees(folder)?;
        }
        if let Some((uid, gid)) = self.owner {
            let chown = fs::open_dir(&tree).and_then(|dir| fs::chown_fd(&dir, uid, gid));
            chown.map_err(DiskError::io("give to the store's namespace", &tree))?;
        }
        Ok(LayerStage { dir })
    }

    /// Folders of a store whose trees belong to others may be passed through.
    fn open_for_trees(&self, dir: &Path) -> Result<(), StoreError> {
        let mode = if self.owner.is_some() || dir.ends_with("diff") {
            0o755
        } else {
            0o700
        };
        let set = std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode));
        Ok(set.map_err(DiskError::io("set the mode of", dir))?)
    }

    /// Waits until nobody else makes the layer of this digest, then keeps others from it. `None` while somebody does.
    pub fn try_lock_layer(&self, digest: &Digest) -> Result<Option<LayerLock>, StoreError> {
        let path = self.layout().tmp().join(format!("lock-{}", digest.hex()));
        let Some(lock) = Lock::try_take(&path, Mode::Exclusive)? else {
            return Ok(None);
        };
        Ok(Some(LayerLock { path, _lock: lock }))
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
        records::write(&stage.dir.join("record"), &record)?;
        match std::fs::rename(&stage.dir, &place) {
            Ok(()) => {}
            Err(_) if self.layer(&layer.key)?.is_some() => return Ok((key, false)),
            Err(e) => return Err(DiskError::io("rename", &stage.dir)(e).into()),
        }
        durable::sync_parent(&place)?;
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

    /// Staging areas of processes that are gone, with the trees that are left in them, for a worker to remove. Each is
    /// locked until the value is dropped, which removes what is empty by then.
    pub fn abandoned(&self) -> Result<Vec<Abandoned>, StoreError> {
        let tmp = self.layout().tmp();
        let mut found = Vec::new();
        for name in list(&tmp)? {
            let dir = tmp.join(&name);
            if let Some(digest) = name.strip_prefix("lock-").and_then(|hex| Digest::from_hex(hex).ok()) {
                // Free locks are only files; who opens one now and finds it gone merely does work twice.
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
                lock_path,
                _lock: lock,
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

/// The right to make one layer; freed when dropped.
#[derive(Debug)]
pub struct LayerLock {
    path: PathBuf,
    _lock: Lock,
}

impl Drop for LayerLock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A staging area whose process is gone.
#[derive(Debug)]
pub struct Abandoned {
    dir: PathBuf,
    lock_path: PathBuf,
    _lock: Lock,
}

impl Abandoned {
    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Names of the trees in it.
    pub fn trees(&self) -> Vec<String> {
        list(&self.dir)
            .unwrap_or_default()
            .into_iter()
            .filter(|name| name != "hold")
            .collect()
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.dir.join("hold"));
        if matches!(std::fs::remove_dir(&self.dir), Err(e) if e.kind() != std::io::ErrorKind::NotFound) {
            return;
        }
        let _ = std::fs::remove_file(&self.lock_path);
    }
}

/// Seeded by the kernel; unique enough for names that are checked anyway.
fn random() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// How long a wait for another process's layer pauses between two looks.
pub const LAYER_LOCK_PAUSE: Duration = Duration::from_millis(50);

//! Removes images, and the layers and blobs that nothing needs any more.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::record::{ImageData, ImageRecord};
use super::staging::Staging;
use super::{Store, StoreError, list};
use crate::disk::{DiskError, durable, record as records};
use crate::types::digest::Digest;
use crate::types::reference::Reference;

/// What a collection took out of sight. Its trees are in the staging area for a worker to delete.
#[derive(Debug)]
pub struct Collected {
    /// Where the trees of the layers are.
    pub staging: Staging,
    /// Names of those trees in the staging area.
    pub trees: Vec<String>,
    /// Names that images lost.
    pub untagged: Vec<Reference>,
    /// Images that are gone.
    pub images: Vec<Digest>,
    /// Layers that are gone, with their bytes.
    pub layers: Vec<(Digest, u64)>,
}

impl Collected {
    fn nothing(staging: Staging) -> Collected {
        Collected {
            staging,
            trees: Vec::new(),
            untagged: Vec::new(),
            images: Vec::new(),
            layers: Vec::new(),
        }
    }
}

impl Store {
    /// Removes an image with all its names, then whatever nothing needs any more. Refused while a pin keeps the image,
    /// unless `force`.
    pub fn remove(&self, image: &ImageRecord, force: bool) -> Result<Collected, StoreError> {
        let staging = self.stage(&[], &[])?;
        let _lock = self.exclusive()?;
        self.refuse_mounted(&image.id)?;
        let pins = self.pins()?;
        let by: Vec<&str> = pins
            .iter()
            .filter(|(_, images)| images.contains(&image.id))
            .map(|(p, _)| p.as_str())
            .collect();
        if !by.is_empty() && !force {
            return Err(StoreError::InUse {
                image: image.id.short(),
                by: by.join(", "),
            });
        }
        let mut untagged = Vec::new();
        for record in self.references()? {
            if record.image == image.id {
                durable::remove_file(&self.ref_path(&record.name.to_string()))?;
                untagged.push(record.name);
            }
        }
        let mut images = Vec::new();
        if by.is_empty() {
            durable::remove_file(&self.image_path(&image.id))?;
            images.push(image.id);
        }
        self.collect_garbage(Collected {
            untagged,
            images,
            ..Collected::nothing(staging)
        })
    }

    /// Removes images without a name and without a pin (all unpinned ones with `all`), then whatever nothing needs any more.
    pub fn prune(&self, all: bool) -> Result<Collected, StoreError> {
        self.prune_if(&|image| all || image.names.is_empty())
    }

    /// Removes the images without a pin, not mounted, and not held by a pull, that `unwanted` says yes to, then whatever nothing needs any more.
    pub fn prune_if(&self, unwanted: &dyn Fn(&ImageRecord) -> bool) -> Result<Collected, StoreError> {
        let staging = self.stage(&[], &[])?;
        let _lock = self.exclusive()?;
        let mut pinned: BTreeSet<Digest> = self.pins()?.into_iter().flat_map(|(_, images)| images).collect();
        // Just pulled, and about to be pinned.
        pinned.extend(self.held()?.blobs);
        pinned.extend(self.mounted()?);
        let mut collected = Collected::nothing(staging);
        for image in self.images()? {
            if pinned.contains(&image.id) || !unwanted(&image) {
                continue;
            }
            for name in &image.names {
                durable::remove_file(&self.ref_path(&name.to_string()))?;
            }
            durable::remove_file(&self.image_path(&image.id))?;
            collected.untagged.extend(image.names);
            collected.images.push(image.id);
        }
        self.collect_garbage(collected)
    }

    /// Removes whatever nothing needs any more; images stay.
    pub fn tidy(&self) -> Result<Collected, StoreError> {
        let staging = self.stage(&[], &[])?;
        let _lock = self.exclusive()?;
        self.collect_garbage(Collected::nothing(staging))
    }

    /// Removes layers and blobs that nothing needs. The exclusive lock is held.
    fn collect_garbage(&self, mut collected: Collected) -> Result<Collected, StoreError> {
        let (layers, blobs) = self.needed()?;
        for name in list(&self.layout().layers())? {
            let Ok(key) = Digest::from_hex(&name) else { continue };
            if !layers.contains(&key) {
                self.take_layer(&key, &mut collected)?;
            }
        }
        for name in list(&self.layout().blobs())? {
            if Digest::from_hex(&name).is_ok_and(|digest| !blobs.contains(&digest)) {
                let path = self.layout().blobs().join(&name);
                std::fs::remove_file(&path).map_err(DiskError::io("remove", &path))?;
            }
        }
        self.drop_links()?;
        durable::sync_dir(&self.layout().layers())?;
        Ok(collected)
    }

    /// Layers and blobs that an image or a pull in flight needs.
    fn needed(&self) -> Result<(BTreeSet<Digest>, BTreeSet<Digest>), StoreError> {
        let held = self.held()?;
        let mut layers: BTreeSet<Digest> = held.layers.into_iter().collect();
        let mut blobs: BTreeSet<Digest> = held.blobs.into_iter().collect();
        for file in list(&self.layout().images())? {
            // An unreadable record is an error: what it needs is not known, so nothing may be removed.
            let data: ImageData = records::read(&self.layout().images().join(file))?;
            layers.extend(data.layers.iter().map(|layer| layer.key));
            blobs.extend([data.id, data.manifest]);
        }
        Ok((layers, blobs))
    }

    /// Removes what a power cut leaves: files of writes that were cut off, and short links that lead nowhere (one between a link and its
    /// layer). Returns whether there are layers or blobs that nothing needs: [`Store::tidy`] removes them.
    pub fn sweep_cut(&self) -> Result<bool, StoreError> {
        // Nobody writes meanwhile, so that what looks unfinished is left over.
        let _lock = self.exclusive()?;
        for path in self.unfinished()? {
            std::fs::remove_file(&path).map_err(DiskError::io("remove", &path))?;
        }
        self.drop_links()?;
        let (layers, blobs) = self.needed()?;
        for (folder, needed) in [(self.layout().layers(), layers), (self.layout().blobs(), blobs)] {
            let unneeded = |name: &String| Digest::from_hex(name).is_ok_and(|digest| !needed.contains(&digest));
            if list(&folder)?.iter().any(unneeded) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Temporary files of writes that were cut off, when nobody writes.
    pub(super) fn unfinished(&self) -> Result<Vec<PathBuf>, StoreError> {
        let layout = self.layout();
        let mut found = Vec::new();
        for dir in [layout.blobs(), layout.images(), layout.refs(), layout.pins()] {
            found.extend(durable::cut_off(&dir)?);
        }
        Ok(found)
    }

    /// The same. The exclusive lock is held.
    fn drop_links(&self) -> Result<(), StoreError> {
        for alias in list(&self.aliases())? {
            let path = self.aliases().join(alias);
            if !path.exists() {
                std::fs::remove_file(&path).map_err(DiskError::io("remove", &path))?;
            }
        }
        Ok(())
    }

    fn take_layer(&self, key: &Digest, collected: &mut Collected) -> Result<(), StoreError> {
        let record = self.layer(key).ok().flatten();
        let from = self.layout().layers().join(key.hex());
        std::fs::rename(&from, collected.staging.dir().join(key.hex())).map_err(DiskError::io("rename", &from))?;
        collected.trees.push(key.hex());
        collected.layers.push((*key, record.map_or(0, |record| record.size)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::disk::layout::Layout;
    use crate::store::Store;

    #[test]
    fn what_a_power_cut_in_a_prune_or_a_pin_leaves_is_swept() {
        let dir = std::env::temp_dir().join(format!("dunlin-swept-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let store = Store::open(&Layout::new(dir.join("data"), dir.join("run"))).unwrap();
        assert!(!store.sweep_cut().unwrap());
        let digest = store.put_blob(b"of an image whose record is gone").unwrap();
        let file = store.layout().pins().join(".apps.156.45.tmp");
        std::fs::write(&file, "half").unwrap();
        let link = store.aliases().join("gone");
        std::os::unix::fs::symlink("../no/such/layer", &link).unwrap();
        assert_eq!(store.survey().unwrap().faults.len(), 3);

        assert!(store.sweep_cut().unwrap());
        assert!(!file.exists() && link.symlink_metadata().is_err());
        assert!(store.blob(&digest).is_ok(), "that is left to `tidy`");
        drop(store.tidy().unwrap());
        assert!(!store.sweep_cut().unwrap() && store.blob(&digest).is_err());
        assert!(store.survey().unwrap().faults.is_empty());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

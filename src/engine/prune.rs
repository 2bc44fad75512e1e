//! What nothing uses: how much it takes, and its removal. What runs, what an app has, and what a rollback needs stays.

use super::index::{self, IndexLock};
use super::view::ContainerView;
use super::{Engine, EngineError, now, volume};
use crate::disk::DiskError;
use crate::engine::filter::Filter;
use crate::image::sweep;
use crate::store::ImageRecord;
use crate::types::container::{ContainerRecord, MountSource};
use crate::types::digest::Digest;
use crate::types::ids::ContainerId;
use crate::types::reference::Reference;
use crate::types::sorted::Sorted;
use crate::types::time::Unix;
use std::collections::BTreeSet;

/// What stays although nothing that can be seen uses it: what the agent's sets name.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Containers with this label are an app's.
    pub label: String,
    /// Manifests of images.
    pub images: BTreeSet<Digest>,
    /// Names of volumes.
    pub volumes: BTreeSet<String>,
}

/// What a removal took away.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Containers.
    pub containers: Vec<ContainerId>,
    /// Names that images lost.
    pub untagged: Vec<Reference>,
    /// Images.
    pub images: Vec<Digest>,
    /// Volumes.
    pub volumes: Vec<String>,
    /// Bytes on disk that are free again.
    pub bytes: u64,
}

/// An image and what it takes.
#[derive(Debug, Clone)]
pub struct ImageUse {
    /// The image.
    pub image: ImageRecord,
    /// Containers that use it.
    pub containers: usize,
    /// Bytes of layers that other images have too.
    pub shared: u64,
    /// Bytes that its removal would free.
    pub unique: u64,
}

/// A container and what it takes.
#[derive(Debug, Clone)]
pub struct ContainerUse {
    /// The container.
    pub view: ContainerView,
    /// Named volumes that it mounts.
    pub volumes: usize,
    /// Bytes of its writable layer.
    pub bytes: u64,
}

/// A volume and what it takes.
#[derive(Debug, Clone)]
pub struct VolumeUse {
    /// Its name.
    pub name: String,
    /// Containers that mount it.
    pub links: usize,
    /// Bytes of its files.
    pub bytes: u64,
}

/// What everything takes.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// Images, newest first.
    pub images: Vec<ImageUse>,
    /// Bytes of all images, each layer counted once, with layers that a pull has begun.
    pub images_bytes: u64,
    /// Bytes of images that no container uses and no pin keeps, without the layers that others need.
    pub images_reclaimable: u64,
    /// Containers, newest first.
    pub containers: Vec<ContainerUse>,
    /// Volumes, by name.
    pub volumes: Vec<VolumeUse>,
}

impl Engine {
    /// Images that something needs.
    fn used_images(&self, kept: &Kept) -> Result<BTreeSet<Digest>, EngineError> {
        let pins = self.store().pins()?;
        let mut used: BTreeSet<Digest> = pins.into_iter().flat_map(|(_, images)| images).collect();
        used.extend(all_containers(self)?.iter().map(|record| record.image));
        let images = self.store().images()?;
        used.extend(
            images
                .iter()
                .filter(|image| kept.images.contains(&image.manifest))
                .map(|image| image.id),
        );
        Ok(used)
    }

    /// Removes images that fit and that neither a container nor a pin nor `kept` needs: those without a name, with `all` also
    /// those with one. Then layers that no image has.
    pub fn prune_images(
        &self,
        all: bool,
        kept: &Kept,
        fits: &dyn Fn(&ImageRecord) -> bool,
        pruned: &mut Pruned,
    ) -> Result<(), EngineError> {
        let workers = self.workers()?;
        // Layers that a pull might go on with are used by nothing.
        let parts = self.part_bytes()?;
        self.sweep_store(&workers, true)?;
        pruned.bytes += parts.saturating_sub(self.part_bytes()?);
        let collected = {
            // No container appears on an image while it goes.
            let _lock = IndexLock::take(self.layout())?;
            let used = self.used_images(kept)?;
            let unwanted =
                |image: &ImageRecord| !used.contains(&image.id) && (all || image.names.is_empty()) && fits(image);
            self.store().prune_if(&unwanted)?
        };
        pruned.bytes += collected.layers.iter().map(|(_, bytes)| bytes).sum::<u64>();
        sweep::discard(&collected, &workers)?;
        pruned.bytes += self.clear_quarantine(&workers)?;
        pruned.untagged.extend(collected.untagged.iter().cloned());
        pruned.images.extend(&collected.images);
        Ok(())
    }

    /// Removes containers that fit and do not run, but for those of apps.
    pub fn prune_containers(&self, kept: &Kept, filter: &Filter, pruned: &mut Pruned) -> Result<(), EngineError> {
        for view in self.list(filter, now())? {
            if view.status.is_live() || view.record.spec.labels.contains_key(&kept.label) {
                continue;
            }
            let (bytes, _) = self.sizes(&view.record);
            // Without force: one that was started meanwhile stays.
            match self.remove(&view.record.id.hex(), false, false, None) {
                Ok(id) => {
                    pruned.containers.push(id);
                    pruned.bytes += bytes;
                }
                Err(EngineError::State { .. }) => {}
                Err(error) if error.is_no_container() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes volumes that fit, that no container mounts and no app names.
    pub fn prune_volumes(
        &self,
        kept: &Kept,
        fits: &dyn Fn(&volume::VolumeRecord) -> bool,
        pruned: &mut Pruned,
    ) -> Result<(), EngineError> {
        for found in volume::all(self.layout())?.into_iter().filter(fits) {
            let gone = {
                // No container appears with it meanwhile.
                let _lock = IndexLock::take(self.layout())?;
                let links = volume_links(&all_containers(self)?);
                if links.contains_key(&found.name) || kept.volumes.contains(&found.name) {
                    continue;
                }
                volume::take_away(self.layout(), &found.name)?
            };
            if let Some(gone) = gone {
                pruned.bytes += self.tree_bytes(&gone);
                self.remove_tree(&gone)?;
                pruned.volumes.push(found.name);
            }
        }
        Ok(())
    }

    /// What images, containers and volumes take on the disk.
    pub fn usage(&self, kept: &Kept) -> Result<Usage, EngineError> {
        let views = self.list(&Filter::default(), Unix(0))?;
        let images = self.store().images()?;
        let mut sizes: Sorted<Digest, (u64, usize)> = Sorted::new();
        for key in images.iter().flat_map(own_layers) {
            let entry = sizes.or_insert_with(key, || (self.layer_bytes(&key), 0));
            entry.1 += 1;
        }
        let used = self.used_images(kept)?;
        let mut needed = BTreeSet::new();
        let mut usage = Usage::default();
        for image in &images {
            if used.contains(&image.id) {
                needed.extend(own_layers(image));
            }
        }
        let parts = self.part_bytes()?;
        usage.images_bytes = sizes.values().map(|(bytes, _)| bytes).sum::<u64>() + parts;
        let free = sizes.iter().filter(|(key, _)| !needed.contains(key));
        usage.images_reclaimable = free.map(|(_, (bytes, _))| bytes).sum::<u64>() + parts;
        for image in images {
            let (mut shared, mut unique) = (0, 0);
            for key in own_layers(&image) {
                let (bytes, users) = sizes.get(&key).copied().unwrap_or_default();
                *(if users > 1 { &mut shared } else { &mut unique }) += bytes;
            }
            // Configuration and manifest are its own.
            let blobs = self.store().blob_bytes(&image);
            usage.images_bytes += blobs;
            if !used.contains(&image.id) {
                usage.images_reclaimable += blobs;
            }
            usage.images.push(ImageUse {
                containers: views.iter().filter(|view| view.record.image == image.id).count(),
                shared,
                unique: unique + blobs,
                image,
            });
        }
        let records: Vec<ContainerRecord> = views.iter().map(|view| view.record.clone()).collect();
        let links = volume_links(&records);
        for found in volume::all(self.layout())? {
            usage.volumes.push(VolumeUse {
                links: links.get(&found.name).copied().unwrap_or(0),
                bytes: self.tree_bytes(&volume::data(self.layout(), &found.name)),
                name: found.name,
            });
        }
        usage.containers = views
            .into_iter()
            .map(|view| ContainerUse {
                volumes: volumes_of(&view.record).len(),
                bytes: self.sizes(&view.record).0,
                view,
            })
            .collect();
        Ok(usage)
    }

    /// Bytes of layers that were begun and not finished.
    fn part_bytes(&self) -> Result<u64, EngineError> {
        Ok(self.store().parts()?.iter().map(|part| part.mark.bytes).sum())
    }

    fn layer_bytes(&self, key: &Digest) -> u64 {
        self.store().layer(key).ok().flatten().map_or(0, |layer| layer.size)
    }
}

/// The layers of an image, each once.
fn own_layers(image: &ImageRecord) -> BTreeSet<Digest> {
    image.layers.iter().map(|layer| layer.key).collect()
}

/// Every container; one whose record cannot be read is an error here, for nobody knows what it needs.
pub(super) fn all_containers(engine: &Engine) -> Result<Vec<ContainerRecord>, DiskError> {
    let ids = index::ids(engine.layout())?;
    ids.iter()
        .filter_map(|id| index::load(engine.layout(), id).transpose())
        .collect()
}

pub(super) fn volumes_of(record: &ContainerRecord) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    for mount in &record.spec.mounts {
        if let MountSource::Volume(name) = &mount.source {
            names.insert(name.as_str());
        }
    }
    names
}

/// How many containers mount each volume.
fn volume_links(containers: &[ContainerRecord]) -> Sorted<String, usize> {
    let mut links = Sorted::new();
    for name in containers.iter().flat_map(volumes_of) {
        *links.or_default(name.to_owned()) += 1;
    }
    links
}

//! Layers and images on disk, shared by many processes at once.
//!
//! ```text
//! <data>/
//!   format                   record of this format's number; a newer one is refused
//!   lock                     flock: shared while an image is added, exclusive while things are removed
//!   blobs/sha256/HEX         image configurations and manifests, checked against their name whenever they are read
//!   layers/HEX/record        what the layer is (LayerRecord)
//!   layers/HEX/diff/         its tree as overlay mounts it (userxattr form)
//!   layers/HEX/sums          what that tree must look like, entry by entry (see `sums.rs`); layers of older stores have none
//!   layers/HEX/recipe        how its archive is made again from that tree (see `recipe.rs`)
//!   layers/HEX/packed        digest and bytes that it last had compressed; a hint, may be missing
//!   layers/l/ALIAS           symbolic link to ../HEX/diff: short, because mount options end at 4,096 bytes
//!   images/HEX               one record per image; HEX is the digest of its configuration
//!   refs/HEX                 one record per name; HEX is the digest of the name's text
//!   pins/NAME                images that garbage collection keeps although no name has them
//!   quarantine/HEX-N/        a layer that `system check --repair` set aside: removed when no running container can have it
//!   tmp/S/                   a staging area: what one process has in flight
//!   tmp/S.lock               held (flock) as long as that process lives; free means that tmp/S is garbage
//!   tmp/S/hold               layers that the pull in flight counts on: kept by garbage collection
//!   tmp/lock-HEX             held by whoever is making that layer, workers included; others wait for it
//!   tmp/part-HEX/            the layer of this diff id, in flight or to be gone on with
//!   tmp/part-HEX/layer/      what becomes layers/HEX
//!   tmp/part-HEX/mark        how far it is ([`Mark`]), good until the machine stops; `synced` the same on the device
//!   tmp/part-HEX/journal     what is in its tree (see `image::unpack`); of what comes after the mark nothing is used
//!   tmp/part-HEX/spool       its compressed bytes so far, where the decoder's state cannot be kept
//! ```
//!
//! A layer is named by its diff id. One that leans on those below it (a hard link to their files, a directory without an
//! entry of its own) is only right above them and named by its chain id, unless it is the lowest, where both are the same digest.
//!
//! Order of writing, each step on the device before the next: tree, sums, recipe and record of each layer below `tmp`, their rename into `layers`, configuration and
//! manifest, image record, name. Whatever is cut off leaves garbage at most: unnamed layers or blobs, which the next
//! collection takes, or a staging area without its lock, which [`Store::abandoned`] lists. Removal goes the other way: name,
//! image record, then layers by a rename into a staging area, from which a worker deletes them (their files belong to ids
//! that only the store's user namespace has).

mod collect;
mod find;
mod layer;
mod mounted;
mod part;
pub mod recipe;
mod record;
mod staging;
mod sums;
mod survey;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::disk::layout::Layout;
use crate::disk::lock::{Lock, Mode};
use crate::disk::{DiskError, durable, record as records};
use crate::types::bounds;
use crate::types::digest::Digest;
use crate::types::oci::image::ImageConfiguration;
use crate::types::read;
use crate::types::reference::Reference;
pub use collect::Collected;
pub use layer::{LayerKey, chain_ids};
pub use part::{LayerLock, LayerStage, Mark, Part};
use record::{Format, ImageData, PinData};
pub use record::{ImageRecord, LayerRecord, RefRecord, RootDir};
pub use staging::{Abandoned, LAYER_LOCK_PAUSE, NewLayer, Staging};
pub use sums::{Sum, SumsReader, SumsWriter, What};
pub use survey::{Fault, Remedy, Survey};

/// Why the store cannot do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// No image goes by that name.
    #[error("no image `{name}` in this store; `dunlin pull {name}` fetches it")]
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// Several images go by that name.
    #[error("`{name}` names several images ({images}); use more of the id or the whole name")]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// Short ids.
        images: String,
    },
    /// A blob's bytes are not those of its digest.
    #[error("blob `{digest}` is damaged; pull the image again")]
    BlobDamaged {
        /// Its digest.
        digest: Digest,
    },
    /// An image configuration that is none.
    #[error("the configuration of image `{id}` is not valid: {why}")]
    Config {
        /// The image.
        id: Digest,
        /// What is wrong.
        why: String,
    },
    /// A layer that an image needs is not there.
    #[error("layer `{layer}` of image `{image}` is missing; pull the image again")]
    LayerMissing {
        /// The image.
        image: Digest,
        /// The layer's digest.
        layer: Digest,
    },
    /// Something keeps the image.
    #[error("image `{image}` is in use by {by}; remove that first, or use force")]
    InUse {
        /// Its short id.
        image: String,
        /// Names of the pins.
        by: String,
    },
    /// It is mounted.
    #[error(
        "image `{image}` is mounted at `{place}`; unmount it with `dunlin image unmount {image}`, or end that `dunlin unshare`"
    )]
    Mounted {
        /// Its short id.
        image: String,
        /// Where.
        place: PathBuf,
    },
    /// Not the owner of the store.
    #[error("the store `{path}` belongs to user {owner}; run dunlin as that user or as root")]
    Foreign {
        /// The data folder.
        path: PathBuf,
        /// Its owner's id.
        owner: u32,
    },
}

/// One store.
#[derive(Debug, Clone)]
pub struct Store {
    layout: Layout,
    owner: Option<(u32, u32)>,
}

/// How long a process waits for the store's lock, which is only ever held for moments.
const LOCK_WAIT: Duration = Duration::from_secs(30);

impl Store {
    /// Opens the store of this layout, making what is missing.
    pub fn open(layout: &Layout) -> Result<Store, StoreError> {
        let store = Store {
            layout: layout.clone(),
            owner: None,
        };
        store.check_owner()?;
        for dir in [
            layout.blobs(),
            layout.layers(),
            store.aliases(),
            layout.images(),
            layout.refs(),
            layout.pins(),
            layout.tmp(),
        ] {
            durable::create_dirs(&dir)?;
        }
        let format = layout.data().join("format");
        let known = match records::read_optional::<Format>(&format) {
            // Nothing else depends on it: a check tells, and mends it.
            Err(DiskError::Damaged { .. } | DiskError::TooLarge { .. }) => true,
            other => other?.is_some(),
        };
        if !known {
            records::write(
                &format,
                &Format {
                    version: record::FORMAT,
                },
            )?;
        }
        Ok(store)
    }

    /// The same store, where trees belong to these ids instead of the caller's: what the store's user namespace has as 0 where root
    /// owns the store. Folders on the way to the trees may then be passed through, not listed, by others.
    pub fn with_tree_owner(mut self, uid: u32, gid: u32) -> Result<Store, StoreError> {
        use std::os::unix::fs::PermissionsExt as _;
        self.owner = Some((uid, gid));
        for dir in [self.layout.data().to_owned(), self.layout.layers(), self.aliases()] {
            let pass = std::fs::Permissions::from_mode(0o711);
            std::fs::set_permissions(&dir, pass).map_err(DiskError::io("set the mode of", &dir))?;
        }
        Ok(self)
    }

    /// Where everything is.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The folder of short links to layers; [`Store::lowers`] are in it.
    pub fn aliases(&self) -> PathBuf {
        self.layout.layers().join("l")
    }

    /// Bytes that are free for ordinary users on the disk that the store is on.
    pub fn free(&self) -> Result<u64, StoreError> {
        let layers = self.layout.layers();
        let space = crate::sys::fs::open_dir(&layers).and_then(crate::sys::fs::space);
        Ok(space.map_err(DiskError::io("measure", &layers))?.bytes)
    }

    /// Ids that trees belong to, where they are not the caller's.
    fn tree_owner(&self) -> Option<(u32, u32)> {
        self.owner
    }

    fn check_owner(&self) -> Result<(), StoreError> {
        use std::os::unix::fs::MetadataExt as _;
        let data = self.layout.data();
        let Ok(meta) = std::fs::metadata(data) else {
            return Ok(());
        };
        let (uid, _) = crate::sys::creds::effective_ids();
        if uid != 0 && meta.uid() != uid {
            return Err(StoreError::Foreign {
                path: data.to_owned(),
                owner: meta.uid(),
            });
        }
        Ok(())
    }

    fn shared(&self) -> Result<Lock, StoreError> {
        Ok(Lock::take(&self.layout.lock(), Mode::Shared, LOCK_WAIT)?)
    }

    /// As long as this is held, nothing is removed.
    pub fn keep_all(&self) -> Result<Lock, StoreError> {
        self.shared()
    }

    fn exclusive(&self) -> Result<Lock, StoreError> {
        Ok(Lock::take(&self.layout.lock(), Mode::Exclusive, LOCK_WAIT)?)
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.layout.blobs().join(digest.hex())
    }

    fn image_path(&self, id: &Digest) -> PathBuf {
        self.layout.images().join(id.hex())
    }

    fn ref_path(&self, name: &str) -> PathBuf {
        self.layout.refs().join(Digest::of(name.as_bytes()).hex())
    }

    /// Keeps a small blob: durable once it returns.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        let path = self.blob_path(&digest);
        if durable::read(&path, bounds::MANIFEST_BYTES as u64).is_ok_and(|there| Digest::of(&there) == digest) {
            return Ok(digest);
        }
        durable::write(&path, bytes)?;
        Ok(digest)
    }

    /// A blob's bytes, checked against its digest.
    pub fn blob(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let bytes = durable::read(&self.blob_path(digest), bounds::MANIFEST_BYTES as u64)?;
        if Digest::of(&bytes) != *digest {
            return Err(StoreError::BlobDamaged { digest: *digest });
        }
        Ok(bytes)
    }

    /// Bytes of an image's configuration and manifest.
    pub fn blob_bytes(&self, image: &ImageRecord) -> u64 {
        let sizes = [image.id, image.manifest].map(|digest| std::fs::metadata(self.blob_path(&digest)));
        sizes.into_iter().flatten().map(|meta| meta.len()).sum()
    }

    /// The configuration of an image.
    pub fn config(&self, image: &ImageRecord) -> Result<ImageConfiguration, StoreError> {
        let bytes = self.blob(&image.id)?;
        read::json(&bytes).map_err(|e| StoreError::Config {
            id: image.id,
            why: e.to_string(),
        })
    }

    /// The manifest of an image, as it came.
    pub fn manifest(&self, image: &ImageRecord) -> Result<Vec<u8>, StoreError> {
        self.blob(&image.manifest)
    }

    /// The layers of an image as lower directories of an overlay mount, topmost first: short links in one folder, so
    /// that a mount from that folder needs few bytes for each.
    pub fn lowers(&self, image: &ImageRecord) -> Result<Vec<PathBuf>, StoreError> {
        let mut lowers = Vec::new();
        for layer in image.layers.iter().rev() {
            let record = self.layer_of(image, layer)?;
            lowers.push(self.aliases().join(&record.alias));
            if record.opaque {
                break;
            }
        }
        Ok(lowers)
    }

    /// The layers of an image as paths below the folder of all layers, lowest first: what a worker copies.
    pub fn trees(&self, image: &ImageRecord) -> Result<Vec<String>, StoreError> {
        image
            .layers
            .iter()
            .map(|layer| Ok(layer::tree(&self.layer_of(image, layer)?.key)))
            .collect()
    }

    /// Owner and mode of an image's root folder; overlay takes them from the writable layer, so whoever makes that one needs them.
    pub fn root_dir(&self, image: &ImageRecord) -> Result<RootDir, StoreError> {
        for layer in image.layers.iter().rev() {
            if let Some(root) = self.layer_of(image, layer)?.root {
                return Ok(root);
            }
        }
        Ok(RootDir {
            mode: 0o755,
            uid: 0,
            gid: 0,
        })
    }

    fn layer_of(&self, image: &ImageRecord, layer: &LayerKey) -> Result<LayerRecord, StoreError> {
        self.layer(&layer.key)?.ok_or(StoreError::LayerMissing {
            image: image.id,
            layer: layer.key,
        })
    }

    /// Adds an image whose layers are all there, and the name that it was asked for by, if any. `resolved` is the digest that the
    /// name stood for in its registry (an index or a manifest). Durable once it returns. `None` when a layer is gone
    /// (somebody collected garbage): pull again.
    pub fn add_image(&self, image: &NewImage<'_>) -> Result<Option<ImageRecord>, StoreError> {
        let _lock = self.shared()?;
        let mut size = 0;
        for layer in &image.layers {
            match self.layer(&layer.key)? {
                Some(record) => size += self.archive_size(&record),
                None => return Ok(None),
            }
        }
        let id = self.put_blob(image.config)?;
        let manifest = self.put_blob(image.manifest)?;
        let data = ImageData {
            id,
            manifest,
            layers: image.layers.clone(),
            platform: image.platform.clone(),
            size: size + (image.config.len() + image.manifest.len()) as u64,
            created: image.created,
        };
        records::write(&self.image_path(&id), &data)?;
        if let Some((name, resolved)) = &image.name {
            self.write_ref(name, id, manifest, *resolved)?;
        }
        self.image(&id)?.map_or(Ok(None), |image| Ok(Some(image)))
    }

    /// Gives an image one more name, taking it from whichever image had it.
    pub fn tag(&self, image: &ImageRecord, name: &Reference) -> Result<(), StoreError> {
        let _lock = self.shared()?;
        // Somebody may have removed it since it was found.
        if !self.image_path(&image.id).exists() {
            return Err(StoreError::NotFound { name: image.id.short() });
        }
        self.write_ref(name, image.id, image.manifest, image.manifest)
    }

    fn write_ref(&self, name: &Reference, image: Digest, manifest: Digest, resolved: Digest) -> Result<(), StoreError> {
        let record = RefRecord {
            name: name.clone(),
            image,
            manifest,
            resolved,
        };
        Ok(records::write(&self.ref_path(&name.to_string()), &record)?)
    }

    /// Takes a name away; `false` when no image has it. The image stays.
    pub fn untag(&self, name: &Reference) -> Result<bool, StoreError> {
        let _lock = self.exclusive()?;
        let path = self.ref_path(&name.to_string());
        let there = path.exists();
        durable::remove_file(&path)?;
        Ok(there)
    }

    /// What the store knows about a name.
    pub fn reference(&self, name: &Reference) -> Result<Option<RefRecord>, StoreError> {
        Ok(records::read_optional(&self.ref_path(&name.to_string()))?)
    }

    /// Keeps images under a pin (a container, a committed set) until [`Store::unpin`]; replaces what the pin kept. A pin's name is
    /// one path component of letters, digits, `-`, `_`, `.`.
    pub fn pin(&self, pin: &str, images: &[Digest]) -> Result<(), StoreError> {
        let _lock = self.shared()?;
        let path = self.pin_path(pin)?;
        if let Ok(Some(data)) = records::read_optional::<PinData>(&path)
            && data.images == images
        {
            // It stands already: an update to an image that is kept writes nothing. Whoever put it there may have died before the sync.
            return Ok(durable::sync_parent(&path)?);
        }
        Ok(records::write(
            &path,
            &PinData {
                images: images.to_vec(),
            },
        )?)
    }

    /// Whether a pin keeps these images, in this order.
    pub fn is_pinned(&self, pin: &str, images: &[Digest]) -> Result<bool, StoreError> {
        let _lock = self.shared()?;
        let data = records::read_optional::<PinData>(&self.pin_path(pin)?);
        Ok(data.is_ok_and(|data| data.is_some_and(|data| data.images == images)))
    }

    /// Drops a pin; one that is not there is no error.
    pub fn unpin(&self, pin: &str) -> Result<(), StoreError> {
        Ok(durable::remove_file(&self.pin_path(pin)?)?)
    }

    /// All pins and the images that they keep.
    pub fn pins(&self) -> Result<Vec<(String, Vec<Digest>)>, StoreError> {
        let mut pins = Vec::new();
        for name in list(&self.layout.pins())? {
            if let Some(data) = records::read_optional::<PinData>(&self.layout.pins().join(&name))? {
                pins.push((name, data.images));
            }
        }
        Ok(pins)
    }

    fn pin_path(&self, pin: &str) -> Result<PathBuf, StoreError> {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if pin.is_empty() || pin.len() > bounds::FILE_NAME_BYTES || pin.starts_with('.') || !pin.bytes().all(good) {
            let source = std::io::Error::from(std::io::ErrorKind::InvalidInput);
            return Err(DiskError::Io {
                action: "pin",
                path: PathBuf::from(pin),
                source,
            }
            .into());
        }
        Ok(self.layout.pins().join(pin))
    }
}

/// An image that a pull has put together.
#[derive(Debug)]
pub struct NewImage<'a> {
    /// Bytes of its configuration, whose digest is the image's id.
    pub config: &'a [u8],
    /// Bytes of its manifest.
    pub manifest: &'a [u8],
    /// Its layers, lowest first.
    pub layers: Vec<LayerKey>,
    /// What it runs on.
    pub platform: crate::types::platform::Platform,
    /// When it was made.
    pub created: crate::types::time::Unix,
    /// The name that it was asked for by, and the digest that the name stood for.
    pub name: Option<(&'a Reference, Digest)>,
}

/// Names in a folder that are not temporary, sorted.
fn list(dir: &Path) -> Result<Vec<String>, StoreError> {
    let entries = std::fs::read_dir(dir).map_err(DiskError::io("list", dir))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(DiskError::io("list", dir))?.file_name();
        if let Ok(name) = name.into_string()
            && !name.starts_with('.')
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

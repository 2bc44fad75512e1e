//! Push: an image of the store to a registry.
//!
//! What the registry has already, under the digest that the layer came with or was last sent with, is not sent again; so an unchanged
//! image keeps its manifest, and with it its digest.

use std::io::{self, Read};
use std::sync::Arc;

use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::pack;
use super::pull::Progress;
use super::save::{Shape, hold, layer_descriptor, manifest};
use super::sink::{LEVEL, Packed};
use super::worker::Workers;
use crate::registry::push::{Destination, Feed, QUEUE};
use crate::registry::{self, Compression, Descriptor, Document, Kind, Manifest, RegistryError, parse_manifest};
use crate::store::{ImageRecord, LayerKey, Store, StoreError};
use crate::types::bounds;
use crate::types::digest::Digest;
use crate::types::reference::Reference;

/// Why a push failed. Blobs that were sent stay in the registry, which removes them some day.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The registry, or what is sent to it.
    #[error("push `{name}`: {source}")]
    Registry {
        /// The image.
        name: String,
        /// What happened.
        source: Box<RegistryError>,
    },
    /// The store.
    #[error("push `{name}`: {source}")]
    Store {
        /// The image.
        name: String,
        /// What happened.
        source: StoreError,
    },
}

/// Sends `image`, to be called `name`; `shape` is that of the manifest, where it is not to be the image's own. With `repack` layers
/// are compressed anew with gzip at this level, but those that came with gzip where it is the usual one; the manifest, and with it the
/// image's digest, becomes another. Returns the manifest's digest.
pub async fn push(
    store: &Store,
    client: &registry::Client,
    workers: &Arc<dyn Workers>,
    image: &ImageRecord,
    name: &Reference,
    (shape, repack): (Option<Shape>, Option<u32>),
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Digest, PushError> {
    let in_store = |source| PushError::Store {
        name: name.to_string(),
        source,
    };
    let _hold = hold(store, image).map_err(in_store)?;
    let config = store.blob(&image.id).map_err(in_store)?;
    let came = store.manifest(image).map_err(in_store)?;
    let siblings = image.names.iter().filter(|other| other.registry() == name.registry());
    let mut siblings: Vec<String> = siblings.map(|other| other.repository().to_owned()).collect();
    siblings.retain(|path| path != name.repository());
    siblings.dedup();
    siblings.truncate(bounds::MOUNT_SOURCES);
    let sent = async {
        let place = Arc::new(client.destination(name, &siblings)?);
        let run = Run {
            store,
            workers,
            place,
            siblings,
            shape,
            repack,
        };
        run.send(image, &config, &came, name, progress).await
    };
    sent.await.map_err(|source| PushError::Registry {
        name: name.to_string(),
        source: Box::new(source),
    })
}

struct Run<'a> {
    store: &'a Store,
    workers: &'a Arc<dyn Workers>,
    place: Arc<Destination>,
    siblings: Vec<String>,
    shape: Option<Shape>,
    repack: Option<u32>,
}

impl Run<'_> {
    async fn send(
        &self,
        image: &ImageRecord,
        config: &[u8],
        came: &[u8],
        name: &Reference,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Digest, RegistryError> {
        let known = match parse_manifest(came, "") {
            Ok(Document::Manifest(manifest)) if manifest.layers.len() == image.layers.len() => Some(manifest),
            _ => None,
        };
        let own = match known.as_ref().map(|manifest| manifest.kind) {
            Some(Kind::DockerManifest) => Shape::Docker,
            _ => Shape::Oci,
        };
        let shape = self.shape.unwrap_or(own);
        progress(Progress::Layers(
            image
                .layers
                .iter()
                .map(|layer| (layer.diff, pack::archive_bytes(self.store, layer).unwrap_or(0)))
                .collect(),
        ));
        let mut descriptors = Vec::new();
        let mut unchanged = shape == own;
        for (index, layer) in image.layers.iter().enumerate() {
            let original = known.as_ref().and_then(|manifest| original(manifest, index, shape));
            let original = original.filter(|(blob, _)| match self.repack {
                None => true,
                Some(level) => level == LEVEL && Compression::of(&blob.media_type) == Some(Compression::Gzip),
            });
            let (descriptor, same) = self.layer(layer, original, shape, progress).await?;
            unchanged &= same;
            descriptors.push(descriptor);
        }
        self.place.put_blob(config).await?;
        let bytes = match known {
            Some(_) if unchanged => came.to_vec(),
            _ => manifest(shape, &image.id, config.len(), descriptors, came),
        };
        let kind = match shape {
            Shape::Oci => Kind::OciManifest,
            Shape::Docker | Shape::Dir => Kind::DockerManifest,
        };
        let digest = Digest::of(&bytes);
        let named = name.tag().map_or_else(|| digest.to_string(), str::to_owned);
        self.place.put_manifest(&named, kind.media_type(), &bytes).await?;
        Ok(digest)
    }

    /// Makes sure that the registry has a layer; gives its descriptor, and whether that is the one it came with.
    async fn layer(
        &self,
        layer: &LayerKey,
        original: Option<(Descriptor, Value)>,
        shape: Shape,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(Value, bool), RegistryError> {
        if let Some((blob, descriptor)) = original
            && self.there(&blob.digest).await?
        {
            progress(Progress::Exists(layer.diff));
            return Ok((descriptor, true));
        }
        let level = self.repack.unwrap_or(LEVEL);
        if let Some((digest, size)) = self.store.packed(&layer.key).filter(|_| level == LEVEL)
            && self.there(&digest).await?
        {
            progress(Progress::Exists(layer.diff));
            return Ok((layer_descriptor(shape, &digest, size), false));
        }
        let (store, workers, key) = (self.store.clone(), self.workers.clone(), *layer);
        let mut again = || {
            let archive = pack::layer(&store, &*workers, &key).map_err(io::Error::other)?;
            Ok(feed(Packed::gzip_at(archive, level)))
        };
        let (digest, size) = self.place.upload(&mut again).await?;
        if level == LEVEL {
            self.store.note_packed(&layer.key, &digest, size);
        }
        progress(Progress::Done(layer.diff));
        Ok((layer_descriptor(shape, &digest, size), false))
    }

    /// Whether the repository has a blob, or gets it from another one.
    async fn there(&self, digest: &Digest) -> Result<bool, RegistryError> {
        if self.place.has(digest).await? {
            return Ok(true);
        }
        for from in &self.siblings {
            if self.place.mount(digest, from).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The blob that a layer came as, and its descriptor in a manifest of this shape; `None` where that cannot have it.
fn original(manifest: &Manifest, index: usize, shape: Shape) -> Option<(Descriptor, Value)> {
    let blob = manifest.layers.get(index)?;
    let (oci, docker) = match Compression::of(&blob.media_type)? {
        Compression::Gzip => (".tar+gzip", Some(".tar.gzip")),
        Compression::Zstd => (".tar+zstd", None),
        Compression::None => (".tar", Some(".tar")),
    };
    let media_type = match shape {
        Shape::Oci => format!("application/vnd.oci.image.layer.v1{oci}"),
        Shape::Docker | Shape::Dir => format!("application/vnd.docker.image.rootfs.diff{}", docker?),
    };
    let descriptor = json!({"mediaType": media_type, "digest": blob.digest, "size": blob.size});
    Some((blob.clone(), descriptor))
}

/// Reads on a thread of its own.
pub(super) fn feed(mut packed: Packed) -> Feed {
    let (sender, pieces) = mpsc::channel(QUEUE);
    let (told, end) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; bounds::DECODE_BUFFER_BYTES];
        let mut size = 0;
        let ended = loop {
            match packed.read(&mut buffer) {
                Ok(0) => break Ok((packed.digest(), size)),
                Ok(got) => {
                    size += got as u64;
                    let piece = Ok(Bytes::copy_from_slice(&buffer[..got]));
                    if sender.blocking_send(piece).is_err() {
                        break Err(io::ErrorKind::BrokenPipe.into());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        if ended.is_err() {
            // The registry must not take what is there for all.
            let _ = sender.blocking_send(Err(io::ErrorKind::InvalidData.into()));
        }
        // Nobody may be left to hear it.
        let _ = told.send(ended);
    });
    Feed { pieces, end }
}

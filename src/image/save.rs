//! Images of the store as archives and folders.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use serde_json::{Value, json};

use super::layout::{CTR_NAME, DOCKER_CONFIG, DOCKER_TAR, OCI_CONFIG, REF_NAME};
use super::pack::{self, PackError};
use super::pull::Progress;
use super::sink::{Packed, Sink};
use super::worker::Workers;
use crate::registry::Kind;
use crate::store::{ImageRecord, Staging, Store, StoreError};
use crate::types::digest::Digest;
use crate::types::read;

/// What an image becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// As `docker save` has it.
    Docker,
    /// An OCI layout.
    Oci,
    /// As skopeo's `dir:` has it.
    Dir,
}

/// Why an image is not saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The store.
    #[error("save `{image}`: {source}")]
    Store {
        /// The image.
        image: String,
        /// What happened.
        source: StoreError,
    },
    /// A layer.
    #[error("save `{image}`: {source}")]
    Layer {
        /// The image.
        image: String,
        /// What happened.
        source: PackError,
    },
    /// Reading or writing.
    #[error("save `{image}`: {source}")]
    Io {
        /// The image.
        image: String,
        /// What happened.
        source: io::Error,
    },
}

/// Images being saved into one place.
pub struct Saver<'a> {
    store: &'a Store,
    workers: Arc<dyn Workers>,
    shape: Shape,
    sink: Sink,
    /// Of `manifest.json` or `index.json`.
    entries: Vec<Value>,
    /// Layers that are packed already, with their descriptors.
    packed: BTreeMap<Digest, Value>,
}

impl<'a> Saver<'a> {
    /// Nothing is written yet.
    pub fn new(store: &'a Store, workers: Arc<dyn Workers>, shape: Shape, sink: Sink) -> Saver<'a> {
        Saver {
            store,
            workers,
            shape,
            sink,
            entries: Vec::new(),
            packed: BTreeMap::new(),
        }
    }

    /// One more image, which goes by these names there.
    pub fn add(
        &mut self,
        image: &ImageRecord,
        names: &[String],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), SaveError> {
        let label = names.first().cloned().unwrap_or_else(|| image.id.short());
        let in_store = |source| SaveError::Store {
            image: label.clone(),
            source,
        };
        let failed = |source| SaveError::Io {
            image: label.clone(),
            source,
        };
        let _hold = hold(self.store, image).map_err(in_store)?;
        let config = self.store.blob(&image.id).map_err(in_store)?;
        let mut sizes = Vec::new();
        for layer in &image.layers {
            let size = pack::archive_bytes(self.store, layer).map_err(|source| SaveError::Layer {
                image: label.clone(),
                source,
            })?;
            sizes.push((layer.diff, size));
        }
        progress(Progress::Layers(sizes));
        let mut layers = Vec::new();
        for layer in &image.layers {
            let (store, workers) = (self.store, &self.workers);
            let open =
                || -> io::Result<pack::LayerTar> { pack::layer(store, &**workers, layer).map_err(io::Error::other) };
            if self.shape == Shape::Docker {
                let name = format!("{}.tar", layer.diff.hex());
                if !self.sink.has(&name) {
                    let mut archive = open().map_err(failed)?;
                    let length = archive.length();
                    self.sink.stream(&name, length, &mut archive).map_err(failed)?;
                }
                layers.push(Value::String(name));
            } else {
                let shape = self.shape;
                let descriptor = match self.packed.get(&layer.diff) {
                    Some(known) => known.clone(),
                    None => {
                        let mut again = || Ok(Packed::gzip(open()?));
                        let (digest, size) = self
                            .sink
                            .packed(&|digest| blob(shape, digest), &mut again)
                            .map_err(failed)?;
                        layer_descriptor(shape, &digest, size)
                    }
                };
                self.packed.insert(layer.diff, descriptor.clone());
                layers.push(descriptor);
            }
            progress(Progress::Done(layer.diff));
        }
        self.describe(image, &config, names, layers).map_err(failed)
    }

    fn describe(&mut self, image: &ImageRecord, config: &[u8], names: &[String], layers: Vec<Value>) -> io::Result<()> {
        if self.shape == Shape::Docker {
            let name = format!("{}.json", image.id.hex());
            self.sink.bytes(&name, config)?;
            self.entries
                .push(json!({"Config": name, "RepoTags": names, "Layers": layers}));
            return Ok(());
        }
        self.sink.bytes(&blob(self.shape, &image.id), config)?;
        let came = self.store.manifest(image).unwrap_or_default();
        let manifest = manifest(self.shape, &image.id, config.len(), layers, &came);
        if self.shape == Shape::Dir {
            self.sink.bytes("version", b"Directory Transport Version: 1.1\n")?;
            return self.sink.bytes("manifest.json", &manifest);
        }
        let digest = Digest::of(&manifest);
        self.sink.bytes(&blob(self.shape, &digest), &manifest)?;
        let entry = json!({
            "mediaType": Kind::OciManifest.media_type(),
            "digest": digest,
            "size": manifest.len(),
            "platform": {"architecture": image.platform.architecture, "os": image.platform.os},
        });
        if names.is_empty() {
            self.entries.push(entry.clone());
        }
        for name in names {
            let mut entry = entry.clone();
            entry["annotations"] = json!({REF_NAME: name, CTR_NAME: name});
            self.entries.push(entry);
        }
        Ok(())
    }

    /// Ends it.
    pub fn finish(mut self) -> io::Result<()> {
        let entries = std::mem::take(&mut self.entries);
        match self.shape {
            Shape::Docker => self
                .sink
                .bytes("manifest.json", Value::Array(entries).to_string().as_bytes())?,
            Shape::Oci => oci_index(&mut self.sink, entries)?,
            Shape::Dir => {}
        }
        self.sink.finish()
    }
}

/// What makes a folder an OCI layout.
pub(super) fn oci_index(sink: &mut Sink, entries: Vec<Value>) -> io::Result<()> {
    sink.bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let index = json!({
        "schemaVersion": 2,
        "mediaType": Kind::OciIndex.media_type(),
        "manifests": entries,
    });
    sink.bytes("index.json", index.to_string().as_bytes())
}

/// Keeps an image from garbage collection.
pub(super) fn hold(store: &Store, image: &ImageRecord) -> Result<Staging, StoreError> {
    let keys: Vec<Digest> = image.layers.iter().map(|layer| layer.key).collect();
    store.stage(&keys, &[image.id, image.manifest])
}

pub(super) fn layer_descriptor(shape: Shape, digest: &Digest, size: u64) -> Value {
    let media_type = match shape {
        Shape::Oci => "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
        Shape::Docker | Shape::Dir => format!("{DOCKER_TAR}.gzip"),
    };
    json!({"mediaType": media_type, "digest": digest, "size": size})
}

/// The manifest of an image with these layers; annotations are those of the one that came.
pub(super) fn manifest(shape: Shape, id: &Digest, config_bytes: usize, layers: Vec<Value>, came: &[u8]) -> Vec<u8> {
    let (kind, config) = match shape {
        Shape::Oci => (Kind::OciManifest, OCI_CONFIG),
        Shape::Docker | Shape::Dir => (Kind::DockerManifest, DOCKER_CONFIG),
    };
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": kind.media_type(),
        "config": {"mediaType": config, "digest": id, "size": config_bytes},
        "layers": layers,
    });
    if shape == Shape::Oci
        && let Ok(came) = read::json_any(came)
        && let Some(annotations @ Value::Object(_)) = came.get("annotations")
    {
        manifest["annotations"] = annotations.clone();
    }
    manifest.to_string().into_bytes()
}

fn blob(shape: Shape, digest: &Digest) -> String {
    match shape {
        Shape::Dir => digest.hex(),
        Shape::Oci | Shape::Docker => format!("blobs/sha256/{}", digest.hex()),
    }
}

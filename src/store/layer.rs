//! Layers by diff id and by chain id.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::record::LayerRecord;
use super::{Store, StoreError, recipe};
use crate::disk::{durable, record as records};
use crate::types::digest::Digest;

/// A layer of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerKey {
    /// SHA-256 of its archive, as the configuration lists it.
    pub diff: Digest,
    /// The name that it has in the store: its diff id, or its chain id when it leans on those below it.
    pub key: Digest,
}

/// The chain id of each layer, lowest first (OCI image configuration, "Layer ChainID").
pub fn chain_ids(diffs: &[Digest]) -> Vec<Digest> {
    let mut chains: Vec<Digest> = Vec::with_capacity(diffs.len());
    for diff in diffs {
        let chain = match chains.last() {
            Some(below) => Digest::of(format!("{below} {diff}").as_bytes()),
            None => *diff,
        };
        chains.push(chain);
    }
    chains
}

/// A layer's tree below the folder of all layers.
pub(super) fn tree(key: &Digest) -> String {
    format!("{}/diff", key.hex())
}

impl Store {
    /// The layer of this name, if it is there.
    pub fn layer(&self, key: &Digest) -> Result<Option<LayerRecord>, StoreError> {
        Ok(records::read_optional(
            &self.layout().layers().join(key.hex()).join("record"),
        )?)
    }

    /// Bytes of a layer's archive, which is what other tools call its size; bytes on disk where that is not known.
    pub fn archive_size(&self, record: &LayerRecord) -> u64 {
        let recipe = std::fs::File::open(self.recipe_path(&record.key));
        let known = recipe.and_then(|file| recipe::archive_bytes(&file));
        known.ok().flatten().unwrap_or(record.size)
    }

    /// The recipe of a layer's archive.
    pub fn recipe_path(&self, key: &Digest) -> PathBuf {
        self.layout().layers().join(key.hex()).join("recipe")
    }

    /// The layer that is good at this place of an image, if it is there: by its chain id, or by its diff id if it leans on nothing.
    pub fn find_layer(&self, diff: &Digest, chain: &Digest) -> Result<Option<LayerKey>, StoreError> {
        if chain != diff && self.layer(chain)?.is_some() {
            return Ok(Some(LayerKey {
                diff: *diff,
                key: *chain,
            }));
        }
        match self.layer(diff)? {
            Some(layer) if chain == diff || !layer.leans => Ok(Some(LayerKey {
                diff: *diff,
                key: *diff,
            })),
            _ => Ok(None),
        }
    }

    /// Digest and bytes that a layer had when it was last compressed for a registry, which may have it still.
    pub fn packed(&self, key: &Digest) -> Option<(Digest, u64)> {
        let bytes = durable::read(&self.packed_path(key), 128).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let (digest, size) = text.trim_end().split_once(' ')?;
        Some((digest.parse().ok()?, size.parse().ok()?))
    }

    /// Remembers that; without it the layer is only compressed once more.
    pub fn note_packed(&self, key: &Digest, digest: &Digest, size: u64) {
        let _ = durable::write_volatile(&self.packed_path(key), format!("{digest} {size}\n").as_bytes());
    }

    fn packed_path(&self, key: &Digest) -> PathBuf {
        self.layout().layers().join(key.hex()).join("packed")
    }

    /// A layer's tree as a path below the folder of all layers.
    pub fn tree(&self, key: &Digest) -> String {
        tree(key)
    }
}

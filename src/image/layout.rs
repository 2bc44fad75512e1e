//! A directory in OCI image layout as a source (OCI image specification, image layout): images without a registry.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::pull::{Found, Source};
use crate::disk::{DiskError, durable};
use crate::registry::{Descriptor, Document, ManifestError, parse_manifest};
use crate::types::bounds;
use crate::types::digest::Digest;
use crate::types::platform::Platform;
use crate::types::read;
use crate::types::reference::Reference;

/// The annotation that names an image in `index.json`.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Why a directory is not the image that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A file cannot be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// `index.json` is none.
    #[error("`{path}` is not an index: {why}")]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// No image, or several, go by the tag.
    #[error("`{path}` has {count} images for the tag `{tag}`; there are: {tags}")]
    Tag {
        /// The directory.
        path: PathBuf,
        /// The tag, empty when none was asked for.
        tag: String,
        /// How many images have it.
        count: usize,
        /// Those that exist.
        tags: String,
    },
    /// A manifest that cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A blob's bytes are not those of its digest.
    #[error("blob `{digest}` of the layout has other bytes than its name says")]
    Blob {
        /// Its digest.
        digest: Digest,
    },
    /// A blob has another length than its descriptor says.
    #[error("blob `{digest}` of the layout has {have} bytes, expected {want}")]
    Size {
        /// Its digest.
        digest: Digest,
        /// Its length.
        have: u64,
        /// The descriptor's.
        want: u64,
    },
}

#[derive(Deserialize)]
struct TopIndex {
    manifests: Vec<TopEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TopEntry {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

/// A directory in OCI layout.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    dir: PathBuf,
}

impl Layout {
    pub(super) fn new(dir: &Path) -> Layout {
        Layout { dir: dir.to_owned() }
    }

    /// The image with this tag for this platform.
    pub(super) fn find(&self, tag: Option<&str>, platform: &Platform) -> Result<Found, LayoutError> {
        let entry = self.entry(tag)?;
        let top: Digest = entry.digest.parse().map_err(|e| self.not_an_index(format!("{e}")))?;
        let (mut digest, mut media_type) = (top, entry.media_type);
        for _ in 0..bounds::INDEX_DEPTH {
            let bytes = self.small(&digest, bounds::MANIFEST_BYTES)?;
            match parse_manifest(&bytes, &media_type)? {
                Document::Index(index) => {
                    let chosen = &index.select(platform)?.descriptor;
                    (digest, media_type) = (chosen.digest, chosen.media_type.clone());
                }
                Document::Manifest(manifest) => {
                    let layers = manifest
                        .image_layers()?
                        .into_iter()
                        .map(|layer| layer.descriptor)
                        .collect();
                    return Ok(Found {
                        source: Source::Layout(self.clone()),
                        top,
                        manifest: bytes,
                        manifest_digest: digest,
                        config: self.small(&manifest.config.digest, bounds::IMAGE_CONFIG_BYTES)?,
                        config_digest: manifest.config.digest,
                        layers,
                    });
                }
            }
        }
        Err(ManifestError::Deep.into())
    }

    /// A blob, opened; its length is checked here, its bytes by whoever reads them.
    pub(super) fn blob(&self, blob: &Descriptor) -> Result<File, LayoutError> {
        let path = self.blob_path(&blob.digest);
        let file = File::open(&path).map_err(DiskError::io("open", &path))?;
        let have = file.metadata().map_err(DiskError::io("examine", &path))?;
        if !have.is_file() {
            return Err(DiskError::io("open", &path)(io::ErrorKind::InvalidInput.into()).into());
        }
        if have.len() != blob.size {
            return Err(LayoutError::Size {
                digest: blob.digest,
                have: have.len(),
                want: blob.size,
            });
        }
        Ok(file)
    }

    /// The name that an image of this directory gets, as podman gives it: `localhost/DIR:TAG`.
    pub(super) fn local_name(&self, tag: Option<&str>) -> Option<Reference> {
        let dir = self.dir.file_name()?.to_str()?.to_ascii_lowercase();
        Reference::new("localhost", &dir, Some(tag.unwrap_or("latest")), None).ok()
    }

    fn entry(&self, tag: Option<&str>) -> Result<TopEntry, LayoutError> {
        let path = self.dir.join("index.json");
        let bytes = durable::read(&path, bounds::MANIFEST_BYTES as u64)?;
        let index: TopIndex = read::json(&bytes).map_err(|e| self.not_an_index(e.to_string()))?;
        let name = |entry: &TopEntry| entry.annotations.get(REF_NAME).cloned().unwrap_or_default();
        let tags: Vec<String> = index.manifests.iter().map(name).collect();
        let mut fitting: Vec<TopEntry> = index
            .manifests
            .into_iter()
            .filter(|entry| tag.is_none_or(|tag| name(entry) == tag))
            .collect();
        match (fitting.pop(), fitting.is_empty()) {
            (Some(entry), true) => Ok(entry),
            (last, _) => Err(LayoutError::Tag {
                path: self.dir.clone(),
                tag: tag.unwrap_or_default().to_owned(),
                count: fitting.len() + usize::from(last.is_some()),
                tags: tags.join(", "),
            }),
        }
    }

    fn not_an_index(&self, why: String) -> LayoutError {
        LayoutError::Index {
            path: self.dir.join("index.json"),
            why,
        }
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    fn small(&self, digest: &Digest, limit: usize) -> Result<Vec<u8>, LayoutError> {
        let bytes = durable::read(&self.blob_path(digest), limit as u64)?;
        if Digest::of(&bytes) != *digest {
            return Err(LayoutError::Blob { digest: *digest });
        }
        Ok(bytes)
    }
}

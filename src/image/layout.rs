//! Images without a registry: OCI layouts, docker's archives and skopeo's `dir:`, as sources.
//!
//! Each of them comes down to documents and blobs by digest: a docker archive, which has no manifests, gets one for each of its
//! images, the same for the same image.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::decode::Format;
use super::files::{Files, FilesError, Part};
use super::pull::{Found, Source};
use crate::disk::DiskError;
use crate::registry::{Descriptor, Document, Kind, ManifestError, parse_manifest};
use crate::types::bounds;
use crate::types::digest::Digest;
use crate::types::oci::image::ImageConfiguration;
use crate::types::platform::Platform;
use crate::types::read;
use crate::types::reference::{Named, Reference, full_path};

/// The annotation that names an image in `index.json`.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The same for containerd.
pub(super) const CTR_NAME: &str = "io.containerd.image.name";
pub(super) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub(super) const DOCKER_TAR: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// Why a directory or an archive is not the image that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A file cannot be read.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// `index.json` or `manifest.json` is none.
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
        /// The directory or archive.
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
    /// None of the known forms.
    #[error(
        "`{path}` is no image: payload does not match any of the supported image formats (oci, oci-archive, docker-archive, dir)"
    )]
    Unknown {
        /// The directory or archive.
        path: PathBuf,
    },
}

impl From<DiskError> for LayoutError {
    fn from(error: DiskError) -> LayoutError {
        LayoutError::Files(error.into())
    }
}

/// Where an image is that is in no registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A directory in OCI layout.
    Oci,
    /// The same in an archive.
    OciArchive,
    /// What `docker save` writes.
    DockerArchive,
    /// What skopeo's `dir:` writes.
    Dir,
}

impl Transport {
    /// The transport, the path and what comes after it of `oci:DIR[:TAG]` and its like; `None` for everything else.
    pub fn parse(text: &str) -> Option<(Transport, &Path, Option<&str>)> {
        let all = [
            ("oci:", Transport::Oci),
            ("oci-archive:", Transport::OciArchive),
            ("docker-archive:", Transport::DockerArchive),
            ("dir:", Transport::Dir),
        ];
        let (rest, transport) = all
            .iter()
            .find_map(|(prefix, transport)| Some((text.strip_prefix(prefix)?, *transport)))?;
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) if transport != Transport::Dir => (path, Some(tag)),
            _ => (rest, None),
        };
        Some((transport, Path::new(path), tag.filter(|tag| !tag.is_empty())))
    }
}

#[derive(Deserialize)]
struct TopIndex {
    manifests: Vec<IndexEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IndexEntry {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// One image of docker's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// One image, or index of images, with the names that it goes by here.
#[derive(Debug, Clone)]
pub(super) struct Top {
    pub(super) digest: Digest,
    pub(super) media_type: String,
    pub(super) names: Vec<String>,
}

/// A directory or an archive with images.
#[derive(Debug, Clone)]
pub struct Layout {
    files: Files,
    transport: Transport,
    pub(super) tops: Vec<Top>,
    /// Documents that are in no file of their own.
    made: BTreeMap<Digest, Vec<u8>>,
    /// Files of blobs that are not called by their digest.
    named: BTreeMap<Digest, String>,
}

impl Layout {
    /// What it is, in the words of policy.json, and where.
    pub fn place(&self) -> (&'static str, &Path) {
        let transport = match self.transport {
            Transport::Oci => "oci",
            Transport::OciArchive => "oci-archive",
            Transport::DockerArchive => "docker-archive",
            Transport::Dir => "dir",
        };
        (transport, self.files.path())
    }

    /// Opens an archive that is open already.
    pub fn of_file(transport: Transport, path: &Path, file: File) -> Result<Layout, LayoutError> {
        Layout::of(transport, Files::archive(path, file)?)
    }

    /// One layer, by its diff id.
    pub(super) fn layer(file: File, length: u64, diff: Digest) -> Layout {
        Layout {
            files: Files::layer(file, length),
            transport: Transport::DockerArchive,
            tops: Vec::new(),
            made: BTreeMap::new(),
            named: BTreeMap::from([(diff, "layer".to_owned())]),
        }
    }

    /// Opens a directory or an archive.
    pub fn open(transport: Transport, path: &Path) -> Result<Layout, LayoutError> {
        let files = match transport {
            Transport::Oci | Transport::Dir => Files::folder(path),
            Transport::OciArchive | Transport::DockerArchive => {
                Files::archive(path, File::open(path).map_err(DiskError::io("open", path))?)?
            }
        };
        Layout::of(transport, files)
    }

    /// Opens whatever it is.
    pub fn detect(files: Files) -> Result<Layout, LayoutError> {
        let archive = files.is_archive();
        // Newer dockers put both in: the one with all names wins, as with podman.
        let transport = match (files.has("oci-layout"), files.has("manifest.json")) {
            (_, true) if archive => Transport::DockerArchive,
            (true, _) if archive => Transport::OciArchive,
            (true, _) => Transport::Oci,
            (_, true) => Transport::Dir,
            _ => {
                let path = files.path().to_owned();
                return Err(LayoutError::Unknown { path });
            }
        };
        Layout::of(transport, files)
    }

    fn of(transport: Transport, files: Files) -> Result<Layout, LayoutError> {
        let mut layout = Layout {
            files,
            transport,
            tops: Vec::new(),
            made: BTreeMap::new(),
            named: BTreeMap::new(),
        };
        match transport {
            Transport::Oci | Transport::OciArchive => {
                let bytes = layout.files.small("index.json", bounds::MANIFEST_BYTES)?;
                let index: TopIndex = layout.parse("index.json", &bytes)?;
                layout.tops = index.manifests.into_iter().map(IndexEntry::top).collect();
            }
            Transport::Dir => {
                let bytes = layout.files.small("manifest.json", bounds::MANIFEST_BYTES)?;
                layout.make(bytes, "", Vec::new());
            }
            Transport::DockerArchive => {
                let bytes = layout.files.small("manifest.json", bounds::MANIFEST_BYTES)?;
                let images: Vec<DockerImage> = layout.parse("manifest.json", &bytes)?;
                if images.len() > bounds::INDEX_ENTRIES {
                    let why = format!("it has more than {} images", bounds::INDEX_ENTRIES);
                    return Err(layout.not_an_index("manifest.json", why));
                }
                let mut hashed = BTreeMap::new();
                for image in images {
                    layout.docker_image(image, &mut hashed)?;
                }
            }
        }
        Ok(layout)
    }

    fn make(&mut self, bytes: Vec<u8>, media_type: &str, names: Vec<String>) {
        let digest = Digest::of(&bytes);
        self.tops.push(Top {
            digest,
            media_type: media_type.to_owned(),
            names,
        });
        self.made.insert(digest, bytes);
    }

    /// Makes the manifest of an image that has none.
    fn docker_image(&mut self, image: DockerImage, hashed: &mut BTreeMap<String, Digest>) -> Result<(), LayoutError> {
        let config = self.files.small(&image.config, bounds::IMAGE_CONFIG_BYTES)?;
        let path = self.files.path().join("manifest.json");
        let wrong = |why: String| LayoutError::Index {
            path: path.clone(),
            why,
        };
        let parsed: ImageConfiguration =
            read::json(&config).map_err(|e| wrong(format!("its `{}` {e}", image.config)))?;
        let diffs: Vec<String> = parsed.rootfs.diff_ids.into_iter().flatten().collect();
        if diffs.len() != image.layers.len() || diffs.len() > bounds::LAYERS {
            return Err(wrong(format!(
                "`{}` lists {} layers, the archive {}",
                image.config,
                diffs.len(),
                image.layers.len()
            )));
        }
        let mut layers = Vec::new();
        for (name, diff) in image.layers.iter().zip(diffs) {
            let diff: Digest = diff.parse().map_err(|e| wrong(format!("{e}")))?;
            let mut part = self.files.open(name)?;
            let size = part.left();
            let failed = |e| DiskError::io("read", &self.files.path().join(name))(e);
            let mut start = vec![0; Format::MAGIC_BYTES.min(usize::try_from(size).unwrap_or_default())];
            part.read_exact(&mut start).map_err(failed)?;
            let (digest, suffix) = match Format::of(&start) {
                Format::Plain => (diff, ""),
                packed if hashed.contains_key(name) => (hashed[name], suffix(packed)),
                packed => {
                    let mut hash = Sha256::new_with_prefix(&start);
                    let mut buffer = vec![0; bounds::DECODE_BUFFER_BYTES];
                    while part.left() > 0 {
                        let got = part.read(&mut buffer).map_err(failed)?;
                        hash.update(&buffer[..got]);
                    }
                    let digest = Digest::from_bytes(hash.finalize().into());
                    hashed.insert(name.clone(), digest);
                    (digest, suffix(packed))
                }
            };
            self.named.insert(digest, name.clone());
            layers.push(json!({"mediaType": format!("{DOCKER_TAR}{suffix}"), "digest": digest, "size": size}));
        }
        let id = Digest::of(&config);
        let kind = Kind::DockerManifest.media_type();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": kind,
            "config": {"mediaType": DOCKER_CONFIG, "digest": id, "size": config.len()},
            "layers": layers,
        });
        self.named.insert(id, image.config);
        let names = image.repo_tags.unwrap_or_default();
        self.make(manifest.to_string().into_bytes(), kind, names);
        Ok(())
    }

    /// The image that an entry stands for.
    pub(super) fn image(&self, top: &Top, platform: &Platform) -> Result<Found, LayoutError> {
        let (mut digest, mut media_type) = (top.digest, top.media_type.clone());
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
                        top: top.digest,
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

    /// The entry with this tag; without one the only entry.
    pub(super) fn top(&self, tag: Option<&str>) -> Result<&Top, LayoutError> {
        let wanted = tag.map(|tag| (tag, normal(tag)));
        let fits = |top: &&Top| match &wanted {
            None => true,
            Some((tag, full)) => top
                .names
                .iter()
                .any(|name| name == tag || (full.is_some() && normal(name) == *full)),
        };
        let fitting: Vec<&Top> = self.tops.iter().filter(fits).collect();
        match fitting[..] {
            [only] => Ok(only),
            _ => {
                let tags: Vec<&str> = self
                    .tops
                    .iter()
                    .map(|top| top.names.first().map_or("", String::as_str))
                    .collect();
                Err(LayoutError::Tag {
                    path: self.files.path().to_owned(),
                    tag: tag.unwrap_or_default().to_owned(),
                    count: fitting.len(),
                    tags: tags.join(", "),
                })
            }
        }
    }

    /// A blob, opened; its length is checked here, its bytes by whoever reads them.
    pub(super) fn blob(&self, blob: &Descriptor) -> Result<Part, LayoutError> {
        let part = self.files.open(&self.name(&blob.digest))?;
        if part.left() != blob.size {
            return Err(LayoutError::Size {
                digest: blob.digest,
                have: part.left(),
                want: blob.size,
            });
        }
        Ok(part)
    }

    /// A whole small blob or document, checked.
    pub(super) fn small(&self, digest: &Digest, limit: usize) -> Result<Vec<u8>, LayoutError> {
        if let Some(bytes) = self.made.get(digest) {
            return Ok(bytes.clone());
        }
        let mut name = self.name(digest);
        if self.transport == Transport::Dir && !self.files.has(&name) {
            // Of one image of several.
            name.push_str(".manifest.json");
        }
        let bytes = self.files.small(&name, limit)?;
        if Digest::of(&bytes) != *digest {
            return Err(LayoutError::Blob { digest: *digest });
        }
        Ok(bytes)
    }

    /// The name that an image gets that is called so here, as podman gives it: its own where that is a whole one, else `localhost/DIR:TAG`.
    pub(super) fn local_name(&self, tag: Option<&str>) -> Option<Reference> {
        if let Some(Ok(Named::Full(name))) = tag.map(str::parse) {
            return Some(name);
        }
        if self.transport == Transport::DockerArchive {
            return normal(tag?);
        }
        let dir = self.files.path().file_name()?.to_str()?.to_ascii_lowercase();
        Reference::new("localhost", &dir, Some(tag.unwrap_or("latest")), None).ok()
    }

    /// What the directory or archive is called.
    pub fn path(&self) -> &Path {
        self.files.path()
    }

    /// The name of the only image of a directory, which has none there.
    pub(super) fn unnamed(&self) -> Option<Reference> {
        match self.transport {
            Transport::Oci | Transport::Dir => self.local_name(None),
            Transport::OciArchive | Transport::DockerArchive => None,
        }
    }

    /// The names that the image of an entry gets when everything is loaded.
    pub(super) fn names(&self, top: &Top) -> Vec<Reference> {
        top.names
            .iter()
            .filter_map(|name| self.local_name(Some(name)))
            .collect()
    }

    fn name(&self, digest: &Digest) -> String {
        match (self.named.get(digest), self.transport) {
            (Some(name), _) => name.clone(),
            (None, Transport::Dir) => digest.hex(),
            (None, _) => format!("blobs/sha256/{}", digest.hex()),
        }
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, name: &str, bytes: &[u8]) -> Result<T, LayoutError> {
        read::json(bytes).map_err(|e| self.not_an_index(name, e.to_string()))
    }

    fn not_an_index(&self, name: &str, why: String) -> LayoutError {
        LayoutError::Index {
            path: self.files.path().join(name),
            why,
        }
    }
}

impl IndexEntry {
    fn top(self) -> Top {
        let name = self.annotations.get(REF_NAME).or(self.annotations.get(CTR_NAME));
        Top {
            digest: self.digest,
            media_type: self.media_type,
            names: name.into_iter().cloned().collect(),
        }
    }
}

fn suffix(format: Format) -> &'static str {
    match format {
        Format::Zstd => ".zstd",
        _ => ".gzip",
    }
}

/// A name in docker's way: without a registry it is Docker Hub's.
pub fn normal(text: &str) -> Option<Reference> {
    match text.parse().ok()? {
        Named::Full(name) => Some(name),
        Named::Short {
            repository,
            tag,
            digest,
        } => {
            let path = full_path("docker.io", &repository);
            Reference::new("docker.io", &path, tag.as_deref(), digest).ok()
        }
    }
}

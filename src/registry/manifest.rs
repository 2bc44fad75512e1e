//! Manifests and indexes: hostile JSON in, bounded values out.
//!
//! Source of the rules: OCI image specification 1.1 (manifest, image-index, descriptor) and Docker's image manifest version 2,
//! schema 2. A document that can be read as both manifest and index is refused (CVE-2021-41190).

use std::fmt;

use serde::Deserialize;

use crate::types::bounds::{BLOB_BYTES, IMAGE_CONFIG_BYTES, INDEX_DEPTH, INDEX_ENTRIES, LAYERS, MANIFEST_BYTES};
use crate::types::digest::{Digest, DigestError};
use crate::types::platform::Platform;
use crate::types::read;

/// The media types of a manifest request, in the form of an `Accept` header.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// The four kinds of documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// `application/vnd.oci.image.manifest.v1+json`
    OciManifest,
    /// `application/vnd.oci.image.index.v1+json`
    OciIndex,
    /// `application/vnd.docker.distribution.manifest.v2+json`
    DockerManifest,
    /// `application/vnd.docker.distribution.manifest.list.v2+json`
    DockerList,
}

/// A checked document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image (or artifact).
    Manifest(Manifest),
    /// Several, one per platform.
    Index(Index),
}

/// Points to a blob.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Descriptor {
    /// Media type as written.
    pub media_type: String,
    /// SHA-256 of the blob.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// One image: its configuration and its layers, lowest first. At most [`LAYERS`] layers; their sizes add up without overflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// OCI or Docker.
    pub kind: Kind,
    /// The configuration.
    pub config: Descriptor,
    /// The layers (or an artifact's blobs), lowest first.
    pub layers: Vec<Descriptor>,
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Where it is.
    pub descriptor: Descriptor,
    /// How the media type says it is compressed.
    pub compression: Compression,
}

/// Compression of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Compression {
    /// A plain tar archive.
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// zstd (RFC 8878).
    Zstd,
}

/// Several images of one name. At most [`INDEX_ENTRIES`] entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// OCI or Docker.
    pub kind: Kind,
    /// In the order of the document.
    pub entries: Vec<Entry>,
}

/// One entry of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The manifest that it names.
    pub descriptor: Descriptor,
    /// The platform that it is for; `None` when none is named.
    pub platform: Option<Platform>,
    /// It describes another entry (provenance, SBOM) and is no image.
    pub attestation: bool,
}

/// Why a document is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Longer than the bound.
    #[error("the manifest is larger than {MANIFEST_BYTES} bytes")]
    Large,
    /// Not the JSON that it should be.
    #[error("the manifest is not valid: {detail}")]
    Syntax {
        /// What the parser says.
        detail: String,
    },
    /// Another kind of document.
    #[error(
        "the manifest's media type `{media_type}` is not supported; expected an OCI or Docker schema 2 manifest or index"
    )]
    Kind {
        /// The media type.
        media_type: String,
    },
    /// The document and its envelope disagree, or it can be read in two ways.
    #[error("the manifest is ambiguous: {detail}")]
    Ambiguous {
        /// What contradicts what.
        detail: String,
    },
    /// A descriptor's digest is none.
    #[error("the manifest's {what} has a bad digest: {source}")]
    Digest {
        /// Which descriptor.
        what: &'static str,
        /// What is wrong with it.
        source: DigestError,
    },
    /// A descriptor's size is outside the bounds.
    #[error("the manifest's {what} has a size of {size} bytes; at most {limit} are accepted")]
    Size {
        /// Which descriptor.
        what: &'static str,
        /// As written.
        size: i64,
        /// The bound.
        limit: u64,
    },
    /// Too many layers or entries.
    #[error("the manifest has {count} {what}; at most {limit} are accepted")]
    Many {
        /// What is counted.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// The bound.
        limit: usize,
    },
    /// An artifact, not an image.
    #[error("this is not a container image: its {what} has the media type `{media_type}`")]
    NotAnImage {
        /// Configuration or layer.
        what: &'static str,
        /// The media type.
        media_type: String,
    },
    /// Indexes in indexes in indexes.
    #[error("indexes are nested more than {INDEX_DEPTH} deep")]
    Deep,
    /// No entry for the platform.
    #[error("there is no image for `{want}`; there are: {offered}")]
    Platform {
        /// The platform that was asked for.
        want: String,
        /// Those that exist.
        offered: String,
    },
}

impl Kind {
    /// The kind with this media type; parameters (`; charset=…`) are ignored.
    pub fn of(media_type: &str) -> Option<Kind> {
        match media_type.split(';').next().unwrap_or_default().trim() {
            "application/vnd.oci.image.manifest.v1+json" => Some(Kind::OciManifest),
            "application/vnd.oci.image.index.v1+json" => Some(Kind::OciIndex),
            "application/vnd.docker.distribution.manifest.v2+json" => Some(Kind::DockerManifest),
            "application/vnd.docker.distribution.manifest.list.v2+json" => Some(Kind::DockerList),
            _ => None,
        }
    }

    /// Its media type.
    pub const fn media_type(self) -> &'static str {
        match self {
            Kind::OciManifest => "application/vnd.oci.image.manifest.v1+json",
            Kind::OciIndex => "application/vnd.oci.image.index.v1+json",
            Kind::DockerManifest => "application/vnd.docker.distribution.manifest.v2+json",
            Kind::DockerList => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    /// Whether it lists other documents.
    pub const fn is_index(self) -> bool {
        matches!(self, Kind::OciIndex | Kind::DockerList)
    }
}

/// Checks a document. `media_type` is what its envelope (HTTP header, descriptor) says, empty where it says nothing.
pub fn parse_manifest(bytes: &[u8], media_type: &str) -> Result<Document, ManifestError> {
    if bytes.len() > MANIFEST_BYTES {
        return Err(ManifestError::Large);
    }
    let outside = media_type.split(';').next().unwrap_or_default().trim();
    let general = matches!(
        outside,
        "" | "application/json" | "text/plain" | "application/octet-stream"
    );
    if !general && Kind::of(outside).is_none() {
        return Err(ManifestError::Kind {
            media_type: clip(outside),
        });
    }
    let raw: Raw = read::json(bytes).map_err(|error| ManifestError::Syntax {
        detail: error.to_string(),
    })?;
    let kind = raw.kind(Kind::of(outside))?;
    if kind.is_index() {
        index(kind, raw.manifests.unwrap_or_default()).map(Document::Index)
    } else {
        manifest(kind, raw.config, raw.layers.unwrap_or_default()).map(Document::Manifest)
    }
}

impl Manifest {
    /// The layers of a container image; an error where the document is something else (a chart, a signature).
    pub fn image_layers(&self) -> Result<Vec<Layer>, ManifestError> {
        let known = [
            "application/vnd.oci.image.config.v1+json",
            "application/vnd.docker.container.image.v1+json",
        ];
        if !known.contains(&self.config.media_type.as_str()) {
            return Err(ManifestError::NotAnImage {
                what: "configuration",
                media_type: clip(&self.config.media_type),
            });
        }
        self.layers
            .iter()
            .map(|descriptor| {
                let compression = Compression::of(&descriptor.media_type).ok_or_else(|| ManifestError::NotAnImage {
                    what: "layer",
                    media_type: clip(&descriptor.media_type),
                })?;
                Ok(Layer {
                    descriptor: descriptor.clone(),
                    compression,
                })
            })
            .collect()
    }

    /// Bytes of all layers and the configuration together.
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum::<u64>() + self.config.size
    }
}

impl Compression {
    /// What a layer's media type says; `None` for media types that are no layer, or one that is kept elsewhere ("foreign").
    pub fn of(media_type: &str) -> Option<Compression> {
        match media_type {
            "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => {
                Some(Compression::None)
            }
            "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
                Some(Compression::Gzip)
            }
            "application/vnd.oci.image.layer.v1.tar+zstd" | "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
                Some(Compression::Zstd)
            }
            _ => None,
        }
    }
}

impl Index {
    /// The entry for `want`: the nearest variant, the first of equals. Where nothing fits, an entry without platform is taken
    /// (its configuration says what it is for); otherwise the error lists the platforms that exist.
    pub fn select(&self, want: &Platform) -> Result<&Entry, ManifestError> {
        let named: Vec<(&Entry, &Platform)> = self
            .entries
            .iter()
            .filter(|entry| !entry.attestation)
            .filter_map(|entry| Some((entry, entry.platform.as_ref()?)))
            .collect();
        if let Some(at) = want.choose(named.iter().map(|(_, platform)| *platform)) {
            return Ok(named[at].0);
        }
        if let Some(entry) = self
            .entries
            .iter()
            .find(|entry| entry.platform.is_none() && !entry.attestation)
        {
            return Ok(entry);
        }
        let mut offered: Vec<String> = named.iter().map(|(_, platform)| platform.to_string()).collect();
        offered.dedup();
        let offered = if offered.is_empty() {
            "none".to_owned()
        } else {
            offered.join(", ")
        };
        Err(ManifestError::Platform {
            want: want.to_string(),
            offered,
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.media_type())
    }
}

fn manifest(kind: Kind, config: Option<RawDescriptor>, layers: Vec<RawDescriptor>) -> Result<Manifest, ManifestError> {
    let config = config.ok_or_else(|| ManifestError::Syntax {
        detail: "missing field `config`".into(),
    })?;
    let config = config.checked("configuration", IMAGE_CONFIG_BYTES as u64)?;
    if layers.len() > LAYERS {
        return Err(ManifestError::Many {
            what: "layers",
            count: layers.len(),
            limit: LAYERS,
        });
    }
    let layers = layers
        .into_iter()
        .map(|layer| layer.checked("layer", BLOB_BYTES))
        .collect::<Result<_, _>>()?;
    Ok(Manifest { kind, config, layers })
}

fn index(kind: Kind, entries: Vec<RawEntry>) -> Result<Index, ManifestError> {
    if entries.len() > INDEX_ENTRIES {
        return Err(ManifestError::Many {
            what: "entries",
            count: entries.len(),
            limit: INDEX_ENTRIES,
        });
    }
    let entries = entries.into_iter().map(RawEntry::checked).collect::<Result<_, _>>()?;
    Ok(Index { kind, entries })
}

fn clip(text: &str) -> String {
    text.chars().take(120).flat_map(char::escape_debug).collect()
}

/// A field that is absent or `null`.
fn or_null<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    #[serde(default, deserialize_with = "or_null")]
    media_type: String,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawEntry>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default, deserialize_with = "or_null")]
    media_type: String,
    digest: String,
    size: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEntry {
    #[serde(default, deserialize_with = "or_null")]
    media_type: String,
    digest: String,
    size: i64,
    platform: Option<RawPlatform>,
    annotations: Option<RawAnnotations>,
}

#[derive(Deserialize)]
struct RawPlatform {
    #[serde(default, deserialize_with = "or_null")]
    os: String,
    #[serde(default, deserialize_with = "or_null")]
    architecture: String,
    #[serde(default, deserialize_with = "or_null")]
    variant: String,
}

#[derive(Deserialize)]
struct RawAnnotations {
    #[serde(rename = "vnd.docker.reference.type")]
    reference_type: Option<String>,
}

impl Raw {
    /// The kind, from the envelope, the document's own word and its fields, which must agree.
    fn kind(&self, outside: Option<Kind>) -> Result<Kind, ManifestError> {
        let ambiguous = |detail: &str| ManifestError::Ambiguous {
            detail: detail.to_owned(),
        };
        if self.schema_version != 2 || self.fs_layers.is_some() {
            return Err(ManifestError::Kind {
                media_type: format!("schema version {}", self.schema_version),
            });
        }
        let inside = match self.media_type.as_str() {
            "" => None,
            text => Some(Kind::of(text).ok_or_else(|| ManifestError::Kind { media_type: clip(text) })?),
        };
        if let (Some(inside), Some(outside)) = (inside, outside)
            && inside != outside
        {
            return Err(ManifestError::Ambiguous {
                detail: format!("it says `{inside}` and was served as `{outside}`"),
            });
        }
        let shape = match (self.manifests.is_some(), self.config.is_some() || self.layers.is_some()) {
            (true, true) => return Err(ambiguous("it has both `manifests` and `config` or `layers`")),
            (true, false) => Kind::OciIndex,
            (false, _) => Kind::OciManifest,
        };
        let kind = inside.or(outside).unwrap_or(shape);
        if kind.is_index() != shape.is_index() {
            return Err(ManifestError::Ambiguous {
                detail: format!("its fields are not those of `{kind}`"),
            });
        }
        Ok(kind)
    }
}

impl RawDescriptor {
    fn checked(self, what: &'static str, limit: u64) -> Result<Descriptor, ManifestError> {
        let digest = self
            .digest
            .parse()
            .map_err(|source| ManifestError::Digest { what, source })?;
        match u64::try_from(self.size) {
            Ok(size) if size <= limit => Ok(Descriptor {
                media_type: self.media_type,
                digest,
                size,
            }),
            _ => Err(ManifestError::Size {
                what,
                size: self.size,
                limit,
            }),
        }
    }
}

impl RawEntry {
    fn checked(self) -> Result<Entry, ManifestError> {
        let descriptor = RawDescriptor {
            media_type: self.media_type,
            digest: self.digest,
            size: self.size,
        };
        let descriptor = descriptor.checked("entry", MANIFEST_BYTES as u64)?;
        let annotated = self
            .annotations
            .and_then(|annotations| annotations.reference_type)
            .is_some_and(|kind| kind.starts_with("attestation"));
        let platform = self
            .platform
            .filter(|platform| !platform.os.is_empty() || !platform.architecture.is_empty());
        let unknown = platform
            .as_ref()
            .is_some_and(|platform| platform.os == "unknown" || platform.architecture == "unknown");
        let platform = platform.map(|platform| Platform {
            os: clip(&platform.os),
            architecture: clip(&platform.architecture),
            variant: clip(&platform.variant),
        });
        Ok(Entry {
            descriptor,
            platform,
            attestation: annotated || unknown,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
    const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
    const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

    fn descriptor(media_type: &str, size: i64) -> Value {
        json!({"mediaType": media_type, "digest": Digest::of(media_type.as_bytes()).to_string(), "size": size})
    }

    fn image(layers: &[Value]) -> Value {
        json!({"schemaVersion": 2, "config": descriptor("application/vnd.oci.image.config.v1+json", 10), "layers": layers})
    }

    fn entry(platform: Value) -> Value {
        let mut entry = descriptor(OCI, 10);
        entry["platform"] = platform;
        entry
    }

    fn parse(value: &Value, media_type: &str) -> Result<Document, ManifestError> {
        parse_manifest(value.to_string().as_bytes(), media_type)
    }

    fn index_of(entries: &[Value]) -> Index {
        match parse(&json!({"schemaVersion": 2, "manifests": entries}), OCI_INDEX).unwrap() {
            Document::Index(index) => index,
            Document::Manifest(_) => panic!("a manifest"),
        }
    }

    #[test]
    fn kinds_come_from_envelope_document_and_shape_which_must_agree() {
        let manifest = image(&[]);
        let index = json!({"schemaVersion": 2, "manifests": []});
        let with = |value: &Value, media_type: &str| {
            let mut value = value.clone();
            value["mediaType"] = media_type.into();
            value
        };
        for (value, outside, kind) in [
            (manifest.clone(), OCI, Some(Kind::OciManifest)),
            (manifest.clone(), DOCKER, Some(Kind::DockerManifest)),
            (with(&manifest, DOCKER), "", Some(Kind::DockerManifest)),
            (with(&manifest, DOCKER), "application/json", Some(Kind::DockerManifest)),
            (
                with(&manifest, OCI),
                "application/vnd.oci.image.manifest.v1+json; charset=utf-8",
                Some(Kind::OciManifest),
            ),
            (manifest.clone(), "text/plain", Some(Kind::OciManifest)),
            (with(&manifest, DOCKER), OCI, None),
            (with(&manifest, OCI_INDEX), "", None),
            (manifest.clone(), OCI_INDEX, None),
            (index.clone(), OCI_INDEX, Some(Kind::OciIndex)),
            (index.clone(), LIST, Some(Kind::DockerList)),
            (with(&index, LIST), LIST, Some(Kind::DockerList)),
            (index.clone(), "", Some(Kind::OciIndex)),
            (index.clone(), OCI, None),
            (with(&index, "text/html"), "", None),
            (manifest.clone(), "text/html", None),
            (
                manifest.clone(),
                "application/vnd.docker.distribution.manifest.v1+prettyjws",
                None,
            ),
            (json!({"schemaVersion": 1, "fsLayers": []}), "", None),
            (
                json!({"schemaVersion": 2, "fsLayers": [], "config": descriptor("x", 1)}),
                "",
                None,
            ),
            (json!({"schemaVersion": 2, "manifests": [], "layers": []}), "", None),
            (
                json!({"schemaVersion": 2, "manifests": [], "config": descriptor("x", 1)}),
                OCI_INDEX,
                None,
            ),
            (json!({"schemaVersion": 2}), "", None),
            (json!({}), "", None),
            (json!([]), "", None),
        ] {
            let got = parse(&value, outside).map(|document| match document {
                Document::Manifest(manifest) => manifest.kind,
                Document::Index(index) => index.kind,
            });
            assert_eq!(got.as_ref().ok(), kind.as_ref(), "{value} as {outside}: {got:?}");
        }
    }

    #[test]
    fn counts_sizes_and_digests_are_bounded() {
        let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
        let bad_digest = json!({"mediaType": gzip, "digest": "sha256:../../etc", "size": 1});
        let sha512 = json!({"mediaType": gzip, "digest": format!("sha512:{}", "0".repeat(128)), "size": 1});
        let mut config = image(&[]);
        config["config"]["size"] = (IMAGE_CONFIG_BYTES as i64 + 1).into();
        for (value, word) in [
            (image(&vec![descriptor(gzip, 1); LAYERS + 1]), "layers"),
            (
                json!({"schemaVersion": 2, "manifests": vec![descriptor(OCI, 1); INDEX_ENTRIES + 1]}),
                "entries",
            ),
            (image(&[descriptor(gzip, -1)]), "-1 bytes"),
            (image(&[descriptor(gzip, i64::MAX)]), "at most"),
            (config, "configuration"),
            (image(&[bad_digest]), "bad digest"),
            (image(&[sha512]), "only sha256"),
            (image(&[json!({"mediaType": gzip, "size": 1})]), "digest"),
            (
                image(&[json!({"digest": Digest::of(b"").to_string(), "size": "1"})]),
                "not valid",
            ),
        ] {
            let error = parse(&value, "").unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let most = image(&vec![descriptor(gzip, BLOB_BYTES as i64); LAYERS]);
        let Document::Manifest(manifest) = parse(&most, "").unwrap() else {
            panic!("an index")
        };
        assert_eq!(manifest.size(), BLOB_BYTES * LAYERS as u64 + 10);
        assert_eq!(
            parse_manifest(&vec![b' '; MANIFEST_BYTES + 1], ""),
            Err(ManifestError::Large)
        );
        for text in [
            "",
            "{",
            "null",
            "{\"schemaVersion\":2,\"config\":{},\"config\":{}}",
            &"[".repeat(100_000),
            "\u{feff}{}",
        ] {
            assert!(matches!(
                parse_manifest(text.as_bytes(), ""),
                Err(ManifestError::Syntax { .. })
            ));
        }
    }

    #[test]
    fn layers_of_images_have_known_media_types() {
        for (media_type, expected) in [
            ("application/vnd.oci.image.layer.v1.tar", Some(Compression::None)),
            ("application/vnd.oci.image.layer.v1.tar+gzip", Some(Compression::Gzip)),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Some(Compression::Zstd)),
            (
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                Some(Compression::Gzip),
            ),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", None),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", None),
            ("", None),
        ] {
            let Document::Manifest(manifest) = parse(&image(&[descriptor(media_type, 1)]), OCI).unwrap() else {
                panic!()
            };
            let layers = manifest.image_layers();
            assert_eq!(
                layers.as_ref().ok().map(|layers| layers[0].compression),
                expected,
                "{media_type}: {layers:?}"
            );
        }
        let mut chart = image(&[]);
        chart["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json".into();
        let Document::Manifest(manifest) = parse(&chart, OCI).unwrap() else {
            panic!()
        };
        assert!(manifest.image_layers().unwrap_err().to_string().contains("helm"));
    }

    #[test]
    fn the_entry_for_the_platform_is_chosen_and_attestations_never_are() {
        let mut attestation = entry(json!({"os": "linux", "architecture": "arm64"}));
        attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest", "other": "x"});
        let entries = [
            attestation,
            entry(json!({"os": "unknown", "architecture": "unknown"})),
            entry(json!({"os": "linux", "architecture": "amd64"})),
            entry(json!({"os": "linux", "architecture": "arm", "variant": "v6"})),
            entry(json!({"os": "linux", "architecture": "arm", "variant": "v7"})),
            entry(json!({"os": "linux", "architecture": "arm64", "variant": "v8"})),
            entry(json!({"os": "windows", "architecture": "amd64", "os.version": "10", "variant": null})),
        ];
        let index = index_of(&entries);
        for (want, expected) in [
            ("linux/amd64", Some(2)),
            ("linux/arm64", Some(5)),
            ("linux/arm64/v8", Some(5)),
            ("linux/arm/v7", Some(4)),
            ("linux/arm/v6", Some(3)),
            ("linux/386", None),
            ("linux/riscv64", None),
        ] {
            let got = index.select(&want.parse().unwrap()).ok();
            assert_eq!(got, expected.map(|at: usize| &index.entries[at]), "{want}");
        }
        let error = index.select(&"linux/riscv64".parse().unwrap()).unwrap_err().to_string();
        let offered = "linux/amd64, linux/arm/v6, linux/arm/v7, linux/arm64/v8, windows/amd64";
        assert_eq!(
            error,
            format!("there is no image for `linux/riscv64`; there are: {offered}")
        );

        let unnamed = index_of(&[
            entry(Value::Null),
            entry(json!({"os": "linux", "architecture": "arm64"})),
        ]);
        assert_eq!(
            unnamed.select(&"linux/amd64".parse().unwrap()).unwrap(),
            &unnamed.entries[0]
        );
        assert_eq!(
            unnamed.select(&"linux/arm64".parse().unwrap()).unwrap(),
            &unnamed.entries[1]
        );
        let hostile = index_of(&[entry(json!({"os": "\u{1b}[2J", "architecture": "x"}))]);
        assert!(
            !hostile
                .select(&"linux/amd64".parse().unwrap())
                .unwrap_err()
                .to_string()
                .contains('\u{1b}')
        );
    }
}

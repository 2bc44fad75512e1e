//! Copy: an image, or a whole index, from one place to another without the store. Blobs pass through as they are, and each is
//! checked against its digest on the way.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot};

use super::layout::{Layout, LayoutError, REF_NAME, Transport};
use super::pull::{Progress, PullError};
use super::push;
use super::save::{Shape, layer_descriptor, oci_index};
use super::sink::{Packed, Sink};
use super::stream::{Decoded, Pieces};
use super::trust::{self, Candidate};
use crate::config::policy::Policy;
use crate::registry::push::{Destination, Feed, QUEUE};
use crate::registry::{
    self, Compression, Descriptor, Document, Kind, Manifest, ManifestError, RegistryError, Repository, parse_manifest,
};
use crate::types::bounds;
use crate::types::digest::{Digest, DigestError};
use crate::types::oci::image::ImageConfiguration;
use crate::types::platform::Platform;
use crate::types::read;
use crate::types::reference::Reference;

/// Why a copy failed.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A folder or an archive that is read.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A manifest that cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// `policy.json` does not let it through.
    #[error(transparent)]
    Policy(Box<PullError>),
    /// Reading or writing.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What cannot be.
    #[error("{0}")]
    Refused(&'static str),
}

impl From<PullError> for CopyError {
    fn from(error: PullError) -> CopyError {
        CopyError::Policy(Box::new(error))
    }
}

/// Where an image comes from.
#[derive(Debug)]
pub enum Start {
    /// A registry.
    Registry {
        /// Its client.
        client: registry::Client,
        /// The image.
        name: Reference,
    },
    /// A folder or an archive, and which image of it.
    Layout(Box<Layout>, Option<String>),
}

/// Where it goes.
#[derive(Debug)]
pub enum Goal {
    /// A registry.
    Registry {
        /// Its client.
        client: registry::Client,
        /// What it is called there.
        name: Reference,
    },
    /// A folder or an archive.
    Files {
        /// Which kind.
        transport: Transport,
        /// What it is called.
        path: PathBuf,
        /// The archive, opened.
        file: Option<File>,
        /// What the image is called in it.
        tag: Option<String>,
    },
}

/// How it is copied.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// The image of an index that is taken.
    pub platform: Platform,
    /// The index with all its images instead.
    pub all: bool,
    /// The dunlin binary, for decoders.
    pub program: PathBuf,
    /// What may be copied.
    pub policy: Policy,
}

/// Copies; returns the digest of the manifest or index as it is there.
pub async fn copy(
    from: Start,
    to: Goal,
    options: &CopyOptions,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Digest, CopyError> {
    let asked = match &from {
        Start::Registry { name, .. } => {
            trust::refused_at_once(&options.policy, name)?;
            Some(name.clone())
        }
        Start::Layout(layout, tag) => {
            trust::admit_layout(&options.policy, layout, tag.as_deref())?;
            None
        }
    };
    let source = Source::open(from).await?;
    let chosen = match options.all {
        true => source.top.clone(),
        false => source.choose(source.top.clone(), &options.platform).await?,
    };
    if let (Some(reference), Place::Registry(client, repository, _)) = (&asked, &source.place) {
        let candidate = Candidate {
            reference,
            repository,
            digests: &[chosen.digest, source.top.digest],
        };
        trust::admit(&options.policy, client, &candidate).await?;
    }
    let mut target = Target::open(to, &source)?;
    let mut top = chosen;
    if options.all {
        source.tree(&top, 0, &mut target, progress).await?;
    } else {
        top = source.single(top, options, &mut target, progress).await?;
    }
    let digest = top.digest;
    target.finish(top).await?;
    Ok(digest)
}

/// A manifest or index.
#[derive(Debug, Clone)]
struct Doc {
    digest: Digest,
    bytes: Vec<u8>,
    media_type: String,
    document: Document,
}

impl Doc {
    fn new(bytes: Vec<u8>, media_type: &str) -> Result<Doc, ManifestError> {
        let document = parse_manifest(&bytes, media_type)?;
        let kind = match &document {
            Document::Manifest(manifest) => manifest.kind,
            Document::Index(index) => index.kind,
        };
        Ok(Doc {
            digest: Digest::of(&bytes),
            bytes,
            media_type: kind.media_type().to_owned(),
            document,
        })
    }
}

struct Source {
    place: Place,
    top: Doc,
}

enum Place {
    Registry(registry::Client, Repository, String),
    Layout(Box<Layout>),
}

impl Source {
    async fn open(from: Start) -> Result<Source, CopyError> {
        Ok(match from {
            Start::Registry { client, name } => {
                let top = client.resolve(&name).await?;
                Source {
                    top: Doc::new(top.bytes.to_vec(), "").or_else(|_| {
                        let kind = match &top.document {
                            Document::Manifest(manifest) => manifest.kind,
                            Document::Index(index) => index.kind,
                        };
                        Doc::new(top.bytes.to_vec(), kind.media_type())
                    })?,
                    place: Place::Registry(client, top.repository, name.repository().to_owned()),
                }
            }
            Start::Layout(layout, tag) => {
                let top = layout.top(tag.as_deref())?.clone();
                let bytes = layout.small(&top.digest, bounds::MANIFEST_BYTES)?;
                Source {
                    top: Doc::new(bytes, &top.media_type)?,
                    place: Place::Layout(layout),
                }
            }
        })
    }

    async fn document(&self, blob: &Descriptor) -> Result<Doc, CopyError> {
        Ok(match &self.place {
            Place::Registry(client, repository, _) => {
                let found = client.manifest(repository, blob.digest).await?;
                Doc::new(found.bytes.to_vec(), &blob.media_type)?
            }
            Place::Layout(layout) => Doc::new(layout.small(&blob.digest, bounds::MANIFEST_BYTES)?, &blob.media_type)?,
        })
    }

    async fn config(&self, blob: &Descriptor) -> Result<Vec<u8>, CopyError> {
        Ok(match &self.place {
            Place::Registry(client, repository, _) => client
                .fetch_small(repository, blob, bounds::IMAGE_CONFIG_BYTES)
                .await?
                .to_vec(),
            Place::Layout(layout) => layout.small(&blob.digest, bounds::IMAGE_CONFIG_BYTES)?,
        })
    }

    /// A blob on its way, checked at its end.
    fn feed(&self, blob: &Descriptor) -> Result<Feed, CopyError> {
        match &self.place {
            Place::Layout(layout) => {
                let part = layout.blob(blob)?;
                Ok(push::feed(Packed::checked(part, blob.digest)))
            }
            Place::Registry(client, repository, _) => {
                let mut stream = client.blob(repository, blob, 0);
                let (sender, pieces) = mpsc::channel(QUEUE);
                let (told, end) = oneshot::channel();
                let blob = blob.clone();
                tokio::spawn(async move {
                    let mut hash = Sha256::new();
                    let ended = loop {
                        match stream.next().await {
                            Ok(Some(bytes)) => {
                                hash.update(&bytes);
                                if sender.send(Ok(bytes)).await.is_err() {
                                    break Err(io::ErrorKind::BrokenPipe.into());
                                }
                            }
                            Ok(None) => {
                                let got = Digest::from_bytes(hash.finalize().into());
                                break match got == blob.digest {
                                    true => Ok((got, blob.size)),
                                    false => Err(super::sink::damaged(&blob.digest)),
                                };
                            }
                            Err(error) => break Err(io::Error::other(error)),
                        }
                    };
                    if ended.is_err() {
                        let _ = sender.send(Err(io::ErrorKind::InvalidData.into())).await;
                    }
                    // Nobody may be left to hear it.
                    let _ = told.send(ended);
                });
                Ok(Feed { pieces, end })
            }
        }
    }

    async fn choose(&self, mut doc: Doc, platform: &Platform) -> Result<Doc, CopyError> {
        for _ in 0..bounds::INDEX_DEPTH {
            let next = match &doc.document {
                Document::Manifest(_) => return Ok(doc),
                Document::Index(index) => index.select(platform)?.descriptor.clone(),
            };
            doc = self.document(&next).await?;
        }
        Err(ManifestError::Deep.into())
    }

    /// An index with all that it names, or a manifest, as they are.
    async fn tree(
        &self,
        doc: &Doc,
        depth: usize,
        target: &mut Target,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), CopyError> {
        match &doc.document {
            Document::Index(index) if depth < bounds::INDEX_DEPTH => {
                for entry in &index.entries {
                    let below = self.document(&entry.descriptor).await?;
                    Box::pin(self.tree(&below, depth + 1, target, progress)).await?;
                    target.document(&below).await?;
                }
                Ok(())
            }
            Document::Index(_) => Err(ManifestError::Deep.into()),
            Document::Manifest(manifest) => {
                announce(manifest, progress);
                for blob in manifest.layers.iter().chain([&manifest.config]) {
                    target.blob(self, blob, progress).await?;
                }
                Ok(())
            }
        }
    }

    /// One image, in the form that its new place has; gives its manifest there.
    async fn single(
        &self,
        doc: Doc,
        options: &CopyOptions,
        target: &mut Target,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Doc, CopyError> {
        let Document::Manifest(manifest) = &doc.document else {
            return Err(ManifestError::Deep.into());
        };
        if let Target::Files {
            transport: Transport::DockerArchive,
            ..
        } = target
        {
            announce(manifest, progress);
            self.unpacked(manifest, options, target, progress).await?;
            return Ok(doc);
        }
        let plain = |blob: &Descriptor| Compression::of(&blob.media_type) == Some(Compression::None);
        let packs = matches!(target, Target::Registry(..)) && manifest.layers.iter().any(plain);
        let reshapes = manifest.kind == Kind::DockerManifest && target.is_oci();
        if !packs && !reshapes {
            self.tree(&doc, 0, target, progress).await?;
            return Ok(doc);
        }
        announce(manifest, progress);
        let shape = match target.is_oci() || manifest.kind == Kind::OciManifest {
            true => Shape::Oci,
            false => Shape::Docker,
        };
        let mut layers = Vec::new();
        for blob in &manifest.layers {
            layers.push(match target {
                Target::Registry(place) if plain(blob) => {
                    let mut again = || {
                        let feed = self.feed(blob).map_err(io::Error::other)?;
                        Ok(push::feed(Packed::gzip(Pieces::new(feed))))
                    };
                    let (digest, size) = place.upload(&mut again).await?;
                    progress(Progress::Done(blob.digest));
                    layer_descriptor(shape, &digest, size)
                }
                _ => {
                    target.blob(self, blob, progress).await?;
                    reshaped(blob, shape)
                }
            });
        }
        target.blob(self, &manifest.config, progress).await?;
        let id = &manifest.config.digest;
        let bytes = super::save::manifest(
            shape,
            id,
            usize::try_from(manifest.config.size).unwrap_or_default(),
            layers,
            &doc.bytes,
        );
        Ok(Doc::new(bytes, "")?)
    }

    /// As docker's archives have it: layers decompressed, called by their diff ids.
    async fn unpacked(
        &self,
        manifest: &Manifest,
        options: &CopyOptions,
        target: &mut Target,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), CopyError> {
        manifest.image_layers()?;
        let config = self.config(&manifest.config).await?;
        let parsed: ImageConfiguration =
            read::json(&config).map_err(|e| io::Error::other(format!("the configuration {e}")))?;
        let diffs = parsed.rootfs.diff_ids.iter().flatten().map(|diff| diff.parse());
        let diffs: Vec<Digest> = diffs
            .collect::<Result<_, _>>()
            .map_err(|e: DigestError| io::Error::other(format!("the configuration lists a layer that is none: {e}")))?;
        if diffs.len() != manifest.layers.len() {
            return Err(CopyError::Refused(
                "its configuration and its manifest have different layers",
            ));
        }
        let mut names = Vec::new();
        for (blob, diff) in manifest.layers.iter().zip(diffs) {
            let name = format!("{}.tar", diff.hex());
            let mut feed = Some(self.feed(blob)?);
            let program = options.program.clone();
            let most = blob
                .size
                .saturating_mul(bounds::LAYER_RATIO)
                .clamp(bounds::LAYER_RATIO_FREE_BYTES, bounds::LAYER_BYTES);
            let wanted = name.clone();
            let got = target
                .sink(move |sink| {
                    if sink.has(&wanted) {
                        return Ok(None);
                    }
                    let mut again = || match feed.take() {
                        Some(feed) => Ok(Packed::plain(Decoded::new(&program, feed, most)?)),
                        None => Err(io::Error::other("the archive must be a file that can be changed")),
                    };
                    sink.packed(&|_| wanted.clone(), &mut again).map(Some)
                })
                .await?;
            if got.is_some_and(|(digest, _)| digest != diff) {
                return Err(
                    io::Error::other(format!("layer `{}` is not the one of diff id `{diff}`", blob.digest)).into(),
                );
            }
            progress(Progress::Done(blob.digest));
            names.push(Value::String(name));
        }
        let id = format!("{}.json", manifest.config.digest.hex());
        let tag = target.tag().and_then(|tag| super::layout::normal(&tag));
        let tags: Vec<String> = tag.iter().map(ToString::to_string).collect();
        let index = json!([{"Config": id, "RepoTags": tags, "Layers": names}]).to_string();
        target
            .sink(move |sink| {
                sink.bytes(&id, &config)?;
                sink.bytes("manifest.json", index.as_bytes())
            })
            .await?;
        Ok(())
    }
}

fn announce(manifest: &Manifest, progress: &mut (dyn FnMut(Progress) + Send)) {
    progress(Progress::Layers(
        manifest.layers.iter().map(|layer| (layer.digest, layer.size)).collect(),
    ));
}

/// The descriptor of a blob in a manifest of another form.
pub(super) fn reshaped(blob: &Descriptor, shape: Shape) -> Value {
    let mut descriptor = layer_descriptor(shape, &blob.digest, blob.size);
    let (oci, docker) = match Compression::of(&blob.media_type) {
        Some(Compression::Gzip) => (".tar+gzip", ".tar.gzip"),
        Some(Compression::Zstd) => (".tar+zstd", ".tar.zstd"),
        _ => (".tar", ".tar"),
    };
    descriptor["mediaType"] = match shape {
        Shape::Oci => format!("application/vnd.oci.image.layer.v1{oci}").into(),
        _ => format!("application/vnd.docker.image.rootfs.diff{docker}").into(),
    };
    descriptor
}

enum Target {
    Registry(Box<Sending>),
    Files {
        transport: Transport,
        path: PathBuf,
        sink: Option<Sink>,
        tag: Option<String>,
    },
}

struct Sending {
    place: Destination,
    name: Reference,
    /// A repository of the same registry that has the blobs.
    sibling: Option<String>,
}

impl std::ops::Deref for Sending {
    type Target = Destination;

    fn deref(&self) -> &Destination {
        &self.place
    }
}

impl Target {
    fn open(to: Goal, source: &Source) -> Result<Target, CopyError> {
        Ok(match to {
            Goal::Registry { client, name } => {
                let sibling = match &source.place {
                    Place::Registry(_, repository, path)
                        if repository.name().starts_with(&format!("{}/", name.registry()))
                            && path != name.repository() =>
                    {
                        Some(path.clone())
                    }
                    _ => None,
                };
                let also: Vec<String> = sibling.iter().cloned().collect();
                let place = client.destination(&name, &also)?;
                Target::Registry(Box::new(Sending { place, name, sibling }))
            }
            Goal::Files {
                transport,
                path,
                file,
                tag,
            } => {
                let sink = match file {
                    Some(file) => Sink::archive(&path, file),
                    None => Sink::folder(&path)?,
                };
                Target::Files {
                    transport,
                    path,
                    sink: Some(sink),
                    tag,
                }
            }
        })
    }

    fn is_oci(&self) -> bool {
        matches!(
            self,
            Target::Files {
                transport: Transport::Oci | Transport::OciArchive,
                ..
            }
        )
    }

    fn tag(&self) -> Option<String> {
        match self {
            Target::Files { tag, .. } => tag.clone(),
            Target::Registry(_) => None,
        }
    }

    /// Work on the files, on a thread of its own.
    async fn sink<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Sink) -> io::Result<T> + Send + 'static,
    ) -> Result<T, CopyError> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let Target::Files { sink, .. } = self else {
            return Err(gone().into());
        };
        let mut taken = sink.take().ok_or_else(gone)?;
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&mut taken);
            (taken, done)
        });
        let (taken, done) = done.await.map_err(io::Error::other)?;
        *sink = Some(taken);
        Ok(done?)
    }

    async fn blob(
        &mut self,
        source: &Source,
        blob: &Descriptor,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), CopyError> {
        match self {
            Target::Registry(place) => {
                let mut there = place.has(&blob.digest).await?;
                if let (false, Some(from)) = (there, &place.sibling) {
                    there = place.mount(&blob.digest, from).await?;
                }
                if there {
                    progress(Progress::Exists(blob.digest));
                    return Ok(());
                }
                let mut again = || source.feed(blob).map_err(io::Error::other);
                place.upload(&mut again).await?;
            }
            Target::Files { transport, .. } => {
                let name = match transport {
                    Transport::Dir => blob.digest.hex(),
                    _ => format!("blobs/sha256/{}", blob.digest.hex()),
                };
                let mut pieces = Pieces::new(source.feed(blob)?);
                let size = blob.size;
                self.sink(move |sink| sink.stream(&name, size, &mut pieces)).await?;
            }
        }
        progress(Progress::Done(blob.digest));
        Ok(())
    }

    /// A manifest below an index.
    async fn document(&mut self, doc: &Doc) -> Result<(), CopyError> {
        match self {
            Target::Registry(place) => {
                let digest = doc.digest.to_string();
                Ok(place.put_manifest(&digest, &doc.media_type, &doc.bytes).await?)
            }
            Target::Files { transport, .. } => {
                let name = match transport {
                    Transport::Dir => format!("{}.manifest.json", doc.digest.hex()),
                    _ => format!("blobs/sha256/{}", doc.digest.hex()),
                };
                let bytes = doc.bytes.clone();
                self.sink(move |sink| sink.bytes(&name, &bytes)).await
            }
        }
    }

    /// What the image is called, last of all.
    async fn finish(mut self, top: Doc) -> Result<(), CopyError> {
        let (transport, path, tag) = match &self {
            Target::Registry(place) => {
                let name = place.name.tag().map_or_else(|| top.digest.to_string(), str::to_owned);
                return Ok(place.put_manifest(&name, &top.media_type, &top.bytes).await?);
            }
            Target::Files {
                transport, path, tag, ..
            } => (*transport, path.clone(), tag.clone()),
        };
        match transport {
            Transport::DockerArchive => {}
            Transport::Dir => {
                self.sink(move |sink| {
                    sink.bytes("version", b"Directory Transport Version: 1.1\n")?;
                    sink.bytes("manifest.json", &top.bytes)
                })
                .await?;
            }
            Transport::Oci | Transport::OciArchive => {
                self.document(&top).await?;
                let mut entry = json!({"mediaType": top.media_type, "digest": top.digest, "size": top.bytes.len()});
                if let Some(tag) = &tag {
                    entry["annotations"] = json!({REF_NAME: tag});
                }
                let mut entries = match transport {
                    Transport::Oci => others(&path, tag.as_deref()),
                    _ => Vec::new(),
                };
                entries.push(entry);
                self.sink(move |sink| oci_index(sink, entries)).await?;
            }
        }
        if let Target::Files { sink: Some(sink), .. } = self {
            sink.finish()?;
        }
        Ok(())
    }
}

/// The images of a layout that keep their names.
fn others(path: &Path, tag: Option<&str>) -> Vec<Value> {
    let bytes = std::fs::read(path.join("index.json")).unwrap_or_default();
    let index: Value = read::json_any(&bytes).unwrap_or_default();
    let all = index["manifests"].as_array().cloned().unwrap_or_default();
    let name = |entry: &Value| entry["annotations"][REF_NAME].as_str().map(str::to_owned);
    all.into_iter().filter(|entry| name(entry).as_deref() != tag).collect()
}

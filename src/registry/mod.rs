//! The client of OCI registries (OCI distribution specification 1.1): hyper and rustls on the caller's runtime.
//!
//! A [`Client`] resolves references to manifests and streams blobs. It keeps connections and tokens, tries mirrors in order,
//! survives dropped links, and bounds every wait and every size. Plain HTTP is spoken only to this machine and to registries
//! that registries.conf lists as insecure. It needs a tokio runtime with time and network enabled; one thread suffices.

pub mod blob;
mod challenge;
mod client;
mod download;
mod error;
mod helper;
pub mod login;
pub mod manifest;
pub mod names;
mod pace;
mod payload;
mod proxy;
pub mod push;
mod repository;
mod retry;
mod search;
mod settings;
mod tags;
mod tls;
mod token;
mod transport;
mod url;

use std::num::NonZeroU64;
use std::sync::Arc;

use hyper::Method;
use hyper::body::Bytes;
use hyper::header;

pub use self::blob::BlobStream;
pub use self::error::RegistryError;
pub use self::manifest::{
    Compression, Descriptor, Document, Index, Kind, Layer, Manifest, ManifestError, parse_manifest,
};
pub use self::proxy::{Proxies, ProxyError};
pub use self::repository::Repository;
pub use self::search::Found;
pub use self::settings::{Limits, Settings};

use self::client::Inner;
use self::retry::retried;
use self::transport::{Outgoing, Reply};
use crate::types::bounds::{IMAGE_CONFIG_BYTES, INDEX_DEPTH, MANIFEST_BYTES};
use crate::types::digest::Digest;
use crate::types::platform::Platform;
use crate::types::reference::Reference;

/// Docker Hub, as references name it.
const DOCKER_HUB: &str = "docker.io";

/// A client of registries. Cheap to clone; clones share connections, tokens and settings.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

/// What a tag means at the moment, without the manifest itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Digest of the manifest or index.
    pub digest: Digest,
    /// The repository, with the place first that has answered.
    pub repository: Repository,
}

/// A manifest or index that was fetched and verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The repository, with the place first that has served it.
    pub repository: Repository,
    /// SHA-256 of `bytes`.
    pub digest: Digest,
    /// Exactly as served.
    pub bytes: Bytes,
    /// What they say.
    pub document: Document,
}

/// An image for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What the reference itself names, where that is an index; a tag has not changed while this digest is the same.
    pub index: Option<Resolved>,
    /// The manifest of the image.
    pub manifest: Resolved,
    /// Its configuration, at most [`IMAGE_CONFIG_BYTES`].
    pub config: Descriptor,
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
}

impl Image {
    /// Digest of what the reference itself names: of the index where there is one, else of the manifest.
    pub fn top(&self) -> Digest {
        self.index.as_ref().map_or(self.manifest.digest, |index| index.digest)
    }
}

impl Client {
    /// A client with these settings. Does nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            inner: Arc::new(Inner::new(settings)),
        }
    }

    /// The places where a reference's repository can be fetched from.
    pub fn repository(&self, reference: &Reference) -> Result<Repository, RegistryError> {
        Repository::find(&self.inner.registries, reference, reference.digest().is_some())
    }

    /// The digest that a reference has at the registry now: one request where no authentication is needed.
    pub async fn head(&self, reference: &Reference) -> Result<Head, RegistryError> {
        let repository = self.repository(reference)?;
        let (place, reply) = match self
            .document(&repository, &tag_or_digest(reference), Method::HEAD)
            .await
        {
            Ok(found) => found,
            // Some registries know no HEAD.
            Err(RegistryError::Status { status: 405 | 501, .. }) => {
                let Resolved { digest, repository, .. } = self.resolve(reference).await?;
                return Ok(Head { digest, repository });
            }
            Err(error) => return Err(error),
        };
        match (reply.digest, reference.digest()) {
            (Some(got), Some(expected)) if got != expected => Err(RegistryError::Digest {
                host: repository.endpoints[place].registry().to_owned(),
                expected,
                got,
            }),
            (Some(digest), _) => Ok(Head {
                digest,
                repository: repository.prefer(place),
            }),
            (None, _) => {
                let Resolved { digest, repository, .. } = self.resolve(reference).await?;
                Ok(Head { digest, repository })
            }
        }
    }

    /// The manifest or index that a reference names, by its digest where it has one.
    pub async fn resolve(&self, reference: &Reference) -> Result<Resolved, RegistryError> {
        let repository = self.repository(reference)?;
        self.fetch(
            &repository,
            &tag_or_digest(reference),
            reference.digest(),
            &reference.to_string(),
        )
        .await
    }

    /// A manifest or index by its digest.
    pub async fn manifest(&self, repository: &Repository, digest: Digest) -> Result<Resolved, RegistryError> {
        let name = format!("{}@{digest}", repository.name());
        self.fetch(repository, &digest.to_string(), Some(digest), &name).await
    }

    /// The image that a reference names, for one platform. Indexes are followed; the error of a missing platform lists those
    /// that exist.
    pub async fn image(&self, reference: &Reference, platform: &Platform) -> Result<Image, RegistryError> {
        let top = self.resolve(reference).await?;
        self.image_of(top, platform, &reference.to_string()).await
    }

    /// Like [`Client::image`] for a document that was fetched already; `name` is used in errors.
    pub async fn image_of(&self, top: Resolved, platform: &Platform, name: &str) -> Result<Image, RegistryError> {
        let unusable = |source| RegistryError::Manifest {
            name: name.to_owned(),
            source,
        };
        let mut index = None;
        let mut at = top;
        for _ in 0..INDEX_DEPTH {
            match &at.document {
                Document::Manifest(manifest) => {
                    let (config, layers) = (manifest.config.clone(), manifest.image_layers().map_err(unusable)?);
                    return Ok(Image {
                        index,
                        manifest: at,
                        config,
                        layers,
                    });
                }
                Document::Index(listed) => {
                    let entry = listed.select(platform).map_err(unusable)?;
                    let next = self.manifest(&at.repository, entry.descriptor.digest).await?;
                    index.get_or_insert(std::mem::replace(&mut at, next));
                }
            }
        }
        Err(unusable(ManifestError::Deep))
    }

    /// The bytes of a blob from `offset` on. Nothing is asked before the first [`BlobStream::next`].
    pub fn blob(&self, repository: &Repository, descriptor: &Descriptor, offset: u64) -> BlobStream {
        BlobStream::new(self.clone(), repository.clone(), descriptor.clone(), offset)
    }

    /// A whole small blob (a configuration), verified against its digest. At most `limit` bytes, never more than
    /// [`IMAGE_CONFIG_BYTES`].
    pub async fn fetch_small(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        limit: usize,
    ) -> Result<Bytes, RegistryError> {
        let limit = limit.min(IMAGE_CONFIG_BYTES) as u64;
        let host = || repository.endpoints[0].registry().to_owned();
        if descriptor.size > limit {
            return Err(RegistryError::TooLarge {
                host: host(),
                what: descriptor.digest.to_string(),
                limit,
            });
        }
        let mut stream = self.blob(repository, descriptor, 0);
        let mut all = Vec::new();
        while let Some(data) = stream.next().await? {
            all.extend_from_slice(&data);
        }
        let got = Digest::of(&all);
        if got != descriptor.digest {
            return Err(RegistryError::Digest {
                host: host(),
                expected: descriptor.digest,
                got,
            });
        }
        Ok(all.into())
    }

    /// Bounds the bytes per second of all blobs together; `None` lifts the bound. Takes effect at once.
    pub fn set_rate(&self, bytes_per_second: Option<NonZeroU64>) {
        self.inner.pace.set(bytes_per_second);
    }

    /// Closes the connections that no request uses.
    pub fn close_idle(&self) {
        self.inner.transport.close_idle();
    }

    /// The bytes of the manifest that a repository has under a tag, whatever they describe, with the place first that has
    /// answered; `None` where there is none.
    pub async fn attachment(
        &self,
        repository: &Repository,
        tag: &str,
    ) -> Result<Option<(Bytes, Repository)>, RegistryError> {
        match self.document(repository, tag, Method::GET).await {
            Ok((place, reply)) => Ok(Some((reply.bytes, repository.clone().prefer(place)))),
            Err(RegistryError::NotFound { .. }) => Ok(None),
            Err(RegistryError::Everywhere { source, .. }) if matches!(*source, RegistryError::NotFound { .. }) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn fetch(
        &self,
        repository: &Repository,
        what: &str,
        expected: Option<Digest>,
        name: &str,
    ) -> Result<Resolved, RegistryError> {
        let (place, reply) = self.document(repository, what, Method::GET).await?;
        let digest = Digest::of(&reply.bytes);
        if let Some(expected) = expected.or(reply.digest)
            && expected != digest
        {
            let host = repository.endpoints[place].registry().to_owned();
            return Err(RegistryError::Digest {
                host,
                expected,
                got: digest,
            });
        }
        let document = parse_manifest(&reply.bytes, &reply.media_type).map_err(|source| RegistryError::Manifest {
            name: name.to_owned(),
            source,
        })?;
        Ok(Resolved {
            repository: repository.clone().prefer(place),
            digest,
            bytes: reply.bytes,
            document,
        })
    }

    /// Asks for a manifest, at one place after the other; gives the place that has answered.
    async fn document(
        &self,
        repository: &Repository,
        what: &str,
        method: Method,
    ) -> Result<(usize, DocumentReply), RegistryError> {
        let limits = self.inner.transport.limits();
        let last = repository.endpoints.len() - 1;
        let mut before = String::new();
        let mut place = 0;
        loop {
            // A mirror is there to be quick.
            let attempts = if place < last {
                limits.attempts.min(2)
            } else {
                limits.attempts
            };
            let limits = Limits { attempts, ..*limits };
            let asked = retried(&limits, async || {
                self.document_from(repository, place, what, &method).await
            });
            let error = match asked.await {
                Ok(reply) => return Ok((place, reply)),
                Err(error) => error,
            };
            if place == last {
                return Err(if before.is_empty() {
                    error
                } else {
                    RegistryError::Everywhere {
                        before,
                        source: Box::new(error),
                    }
                });
            }
            before = if before.is_empty() {
                error.to_string()
            } else {
                format!("{before}; {error}")
            };
            place += 1;
        }
    }

    async fn document_from(
        &self,
        repository: &Repository,
        place: usize,
        what: &str,
        method: &Method,
    ) -> Result<DocumentReply, RegistryError> {
        let endpoint = &repository.endpoints[place];
        let path = format!("/v2/{}/manifests/{what}", endpoint.path);
        let out = Outgoing::new(method.clone(), path).with(header::ACCEPT, manifest::ACCEPT);
        let separator = if what.starts_with("sha256:") { '@' } else { ':' };
        let name = format!("{}{separator}{what}", endpoint.path);
        let mut reply = self.inner.ask(endpoint, &out, &name).await?;
        let bytes = reply
            .body
            .read_all(MANIFEST_BYTES)
            .await?
            .ok_or_else(|| RegistryError::TooLarge {
                host: endpoint.registry().to_owned(),
                what: name,
                limit: MANIFEST_BYTES as u64,
            })?;
        Ok(DocumentReply::new(&reply, bytes))
    }
}

struct DocumentReply {
    media_type: String,
    digest: Option<Digest>,
    bytes: Bytes,
}

impl DocumentReply {
    fn new(reply: &Reply, bytes: Bytes) -> Self {
        Self {
            media_type: reply.header("content-type").unwrap_or_default().to_owned(),
            digest: reply
                .header("docker-content-digest")
                .and_then(|text| text.trim().parse().ok()),
            bytes,
        }
    }
}

/// What the manifest's URL ends with. A digest wins over a tag.
fn tag_or_digest(reference: &Reference) -> String {
    match reference.digest() {
        Some(digest) => digest.to_string(),
        None => reference.tag().unwrap_or("latest").to_owned(),
    }
}

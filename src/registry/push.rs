//! Sending to a registry (OCI distribution specification 1.1, "Push"): blobs, manifests, and their removal.
//!
//! A blob whose digest is known is first asked for, then mounted from another repository where that may have it. Else it is sent in one
//! stream (`POST`, one `PATCH` whose body has no announced length, `PUT` with the digest), which every registry takes that docker pushes
//! to; so its digest need not be known before it is compressed. A stream that breaks is begun anew.

use std::io;

use hyper::body::Bytes;
use hyper::header;
use hyper::{Method, StatusCode};
use tokio::sync::{mpsc, oneshot};

use super::Client;
use super::error::RegistryError;
use super::payload::Pieces;
use super::repository::Endpoint;
use super::retry::retried;
use super::transport::{Origin, Outgoing, Reply};
use super::url::escape;
use crate::types::digest::Digest;
use crate::types::reference::Reference;

/// Pieces that may wait to be sent.
pub const QUEUE: usize = 4;

/// A blob on its way: its pieces, and at their end its digest and length, or why there are no more.
#[derive(Debug)]
pub struct Feed {
    /// The pieces; an error breaks the request off.
    pub pieces: mpsc::Receiver<io::Result<Bytes>>,
    /// How it ended.
    pub end: oneshot::Receiver<io::Result<(Digest, u64)>>,
}

/// A repository that is written to. Mirrors are not.
#[derive(Debug)]
pub struct Destination {
    client: Client,
    endpoint: Endpoint,
}

impl Client {
    /// The repository of a reference, for writing; `also` are other repositories of the registry that blobs may be mounted from.
    pub fn destination(&self, reference: &Reference, also: &[String]) -> Result<Destination, RegistryError> {
        self.place(reference, "pull,push", also)
    }

    /// Removes the manifest or index that a reference names.
    pub async fn delete(&self, reference: &Reference) -> Result<Digest, RegistryError> {
        let digest = self.head(reference).await?.digest;
        let place = self.place(reference, "*", &[])?;
        let out = Outgoing::new(
            Method::DELETE,
            format!("/v2/{}/manifests/{digest}", place.endpoint.path),
        );
        place.asked(&out, &reference.to_string()).await?;
        Ok(digest)
    }

    fn place(
        &self,
        reference: &Reference,
        actions: &'static str,
        also: &[String],
    ) -> Result<Destination, RegistryError> {
        let repository = self.repository(reference)?;
        let mut endpoint = repository.endpoints[repository.endpoints.len() - 1].clone();
        endpoint.actions = actions;
        endpoint.also = also.to_vec();
        Ok(Destination {
            client: self.clone(),
            endpoint,
        })
    }
}

impl Destination {
    /// Whether the repository has a blob.
    pub async fn has(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let out = Outgoing::new(Method::HEAD, self.path(&format!("blobs/{digest}")));
        match self.asked(&out, &digest.to_string()).await {
            Ok(_) => Ok(true),
            Err(RegistryError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes a blob of another repository of the registry one of this, without sending it; `false` where that cannot be.
    pub async fn mount(&self, digest: &Digest, from: &str) -> Result<bool, RegistryError> {
        let mount = format!("blobs/uploads/?mount={digest}&from={}", escape(from));
        let reply = match self.asked(&self.post(&mount), from).await {
            Ok(reply) => reply,
            // Some answer so where they know no such repository.
            Err(RegistryError::NotFound { .. } | RegistryError::Denied { .. } | RegistryError::Status { .. }) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        if reply.head.status == StatusCode::CREATED {
            return Ok(true);
        }
        // It has begun an upload instead, which it also forgets by itself.
        if let Ok((origin, path)) = self.location(&reply).await {
            let out = Outgoing::new(Method::DELETE, path);
            drop(self.ask_at(&origin, &out, from).await);
        }
        Ok(false)
    }

    /// Sends a blob; `feed` begins it anew at every try.
    pub async fn upload(
        &self,
        feed: &mut (dyn FnMut() -> io::Result<Feed> + Send),
    ) -> Result<(Digest, u64), RegistryError> {
        retried(self.client.inner.transport.limits(), async || {
            self.stream(feed().map_err(|source| RegistryError::Source { source })?)
                .await
        })
        .await
    }

    /// Sends a small blob that the repository does not have yet.
    pub async fn put_blob(&self, bytes: &[u8]) -> Result<(), RegistryError> {
        let digest = Digest::of(bytes);
        if self.has(&digest).await? {
            return Ok(());
        }
        let bytes = Bytes::copy_from_slice(bytes);
        retried(self.client.inner.transport.limits(), async || {
            let (origin, path) = self.begin().await?;
            self.end(&origin, &path, &digest, bytes.clone()).await
        })
        .await
    }

    /// Sends a manifest or index; `name` is its tag or digest.
    pub async fn put_manifest(&self, name: &str, media_type: &str, bytes: &[u8]) -> Result<(), RegistryError> {
        let path = self.path(&format!("manifests/{name}"));
        let mut out = Outgoing::new(Method::PUT, path).with(header::CONTENT_TYPE, media_type);
        out.body = Bytes::copy_from_slice(bytes);
        self.asked(&out, name).await.map(drop)
    }

    async fn stream(&self, feed: Feed) -> Result<(Digest, u64), RegistryError> {
        let Feed { pieces, end } = feed;
        let (origin, path) = self.begin().await?;
        let out = Outgoing::new(Method::PATCH, path).with(header::CONTENT_TYPE, "application/octet-stream");
        let inner = &self.client.inner;
        let sent = inner
            .send_pieces(&self.endpoint, &origin, out, Pieces::new(pieces))
            .await;
        // What is wrong with the source comes before what that does to the connection.
        let ended = match sent {
            Ok(_) => end.await.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into())),
            Err(_) => match tokio::time::timeout(std::time::Duration::from_secs(1), end).await {
                Ok(Ok(Err(error))) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
                _ => Ok((Digest::of(b""), 0)),
            },
        };
        let (digest, size) = ended.map_err(|source| RegistryError::Source { source })?;
        let (origin, path) = self.location_from(&origin, &sent?)?;
        self.end(&origin, &path, &digest, Bytes::new()).await?;
        Ok((digest, size))
    }

    async fn begin(&self) -> Result<(Origin, String), RegistryError> {
        let reply = self
            .asked_once(&self.post("blobs/uploads/"), &self.endpoint.path)
            .await?;
        self.location(&reply).await
    }

    async fn end(&self, origin: &Origin, path: &str, digest: &Digest, body: Bytes) -> Result<(), RegistryError> {
        let mark = if path.contains('?') { '&' } else { '?' };
        let mut out = Outgoing::get(format!("{path}{mark}digest={}", escape(&digest.to_string())))
            .with(header::CONTENT_TYPE, "application/octet-stream");
        if body.is_empty() {
            out = out.with(header::CONTENT_LENGTH, "0");
        }
        out.method = Method::PUT;
        out.body = body;
        let reply = self.ask_at(origin, &out, &digest.to_string()).await?;
        if reply.head.status == StatusCode::CREATED {
            return Ok(());
        }
        Err(self.protocol(format!(
            "it answered {} to the end of a blob",
            reply.head.status.as_u16()
        )))
    }

    fn post(&self, what: &str) -> Outgoing {
        Outgoing::new(Method::POST, self.path(what)).with(header::CONTENT_LENGTH, "0")
    }

    fn path(&self, what: &str) -> String {
        format!("/v2/{}/{what}", self.endpoint.path)
    }

    /// Where the answer says that an upload goes on: usually the registry itself.
    async fn location(&self, reply: &Reply) -> Result<(Origin, String), RegistryError> {
        let origin = self.client.inner.origin(&self.endpoint).await?;
        self.location_from(&origin, reply)
    }

    fn location_from(&self, from: &Origin, reply: &Reply) -> Result<(Origin, String), RegistryError> {
        let location = reply.header("location").ok_or("is missing".to_owned());
        let url = location.and_then(|location| from.url(&self.path("")).join(location).map_err(|e| e.to_string()));
        let url = url.map_err(|why| self.protocol(format!("the place of an upload {why}")))?;
        Ok((self.client.inner.foreign_origin(from, &url)?, url.path))
    }

    async fn asked(&self, out: &Outgoing, what: &str) -> Result<Reply, RegistryError> {
        let limits = self.client.inner.transport.limits();
        retried(limits, async || self.asked_once(out, what).await).await
    }

    async fn asked_once(&self, out: &Outgoing, what: &str) -> Result<Reply, RegistryError> {
        let what = format!("{}@{what}", self.endpoint.path);
        self.client.inner.ask(&self.endpoint, out, &what).await
    }

    async fn ask_at(&self, origin: &Origin, out: &Outgoing, what: &str) -> Result<Reply, RegistryError> {
        let what = format!("{}@{what}", self.endpoint.path);
        self.client.inner.ask_place(&self.endpoint, origin, out, &what).await
    }

    fn protocol(&self, detail: String) -> RegistryError {
        RegistryError::Protocol {
            host: self.endpoint.registry().to_owned(),
            detail,
        }
    }
}

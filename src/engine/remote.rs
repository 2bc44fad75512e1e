//! What a registry says about an image, without pulling it.

use super::pull::{Reach, runtime};
use super::{Engine, EngineError};
use crate::registry::{BlobStream, Client, Descriptor, Found, Image, Resolved};
use crate::types::bounds::IMAGE_CONFIG_BYTES;
use crate::types::platform::Platform;
use crate::types::reference::Reference;
use hyper::body::Bytes;
use std::io::{self, Read};
use tokio::runtime::Runtime;

/// A name in a registry, asked over one connection.
pub struct Remote {
    client: Client,
    runtime: Runtime,
    reference: Reference,
}

impl Engine {
    /// Prepares asking about a name; nothing is asked yet.
    pub fn remote(&self, reference: &Reference, reach: &Reach) -> Result<Remote, EngineError> {
        Ok(Remote {
            client: self.client(reference, reach)?,
            runtime: runtime()?,
            reference: reference.clone(),
        })
    }

    /// The repositories of a registry that have `text` in their names, at most `limit`: from its list of all, or where it has
    /// none, as Docker Hub, by its own search.
    pub fn search(&self, registry: &str, text: &str, limit: usize, reach: &Reach) -> Result<Vec<Found>, EngineError> {
        let host = Client::search_host(registry);
        let client = Client::new(self.reaching(host, reach)?);
        let runtime = runtime()?;
        let search = || runtime.block_on(client.search(registry, text, limit));
        if host != registry {
            return Ok(search()?);
        }
        let names = match runtime.block_on(client.catalog(registry, limit, &|name: &str| name.contains(text))) {
            Ok(names) => names,
            // The first reason counts where it does not search either.
            Err(error) if !text.is_empty() && error.is_an_answer() => return Ok(search().map_err(|_| error)?),
            Err(error) => return Err(error.into()),
        };
        let found = |name| Found {
            name,
            ..Found::default()
        };
        Ok(names.into_iter().map(found).collect())
    }
}

/// A blob, read as it comes.
struct BlobReader<'a> {
    runtime: &'a Runtime,
    stream: BlobStream,
    rest: Bytes,
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            let next = self.runtime.block_on(self.stream.next());
            self.rest = next.map_err(io::Error::other)?.unwrap_or_default();
        }
        let length = self.rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.rest.split_to(length));
        Ok(length)
    }
}

impl Remote {
    /// The manifest or index that the name stands for.
    pub fn manifest(&self) -> Result<Resolved, EngineError> {
        Ok(self.runtime.block_on(self.client.resolve(&self.reference))?)
    }

    /// The image that a manifest or index holds for a platform.
    pub fn image(&self, top: Resolved, platform: &Platform) -> Result<Image, EngineError> {
        let name = self.reference.to_string();
        Ok(self.runtime.block_on(self.client.image_of(top, platform, &name))?)
    }

    /// The configuration of an image, as it is.
    pub fn config(&self, image: &Image) -> Result<Vec<u8>, EngineError> {
        let place = &image.manifest.repository;
        let fetched = self.client.fetch_small(place, &image.config, IMAGE_CONFIG_BYTES);
        Ok(self.runtime.block_on(fetched)?.to_vec())
    }

    /// A small blob of a manifest, at most `limit` bytes.
    pub fn small(&self, place: &Resolved, blob: &Descriptor, limit: usize) -> Result<Vec<u8>, EngineError> {
        let fetched = self.client.fetch_small(&place.repository, blob, limit);
        Ok(self.runtime.block_on(fetched)?.to_vec())
    }

    /// The bytes of a blob, not verified.
    pub fn blob(&self, place: &Resolved, blob: &Descriptor) -> impl Read {
        BlobReader {
            runtime: &self.runtime,
            stream: self.client.blob(&place.repository, blob, 0),
            rest: Bytes::new(),
        }
    }

    /// All tags of the repository.
    pub fn tags(&self) -> Result<Vec<String>, EngineError> {
        Ok(self.runtime.block_on(self.client.tags(&self.reference))?)
    }
}

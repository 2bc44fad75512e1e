//! What a registry says about an image, without pulling it.

use super::pull::{Reach, runtime};
use super::{Engine, EngineError};
use crate::registry::{Client, Image, Resolved};
use crate::types::bounds::IMAGE_CONFIG_BYTES;
use crate::types::platform::Platform;
use crate::types::reference::Reference;
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

    /// The repositories of a registry that have `text` in their names, at most `limit`.
    pub fn search(&self, registry: &str, text: &str, limit: usize, reach: &Reach) -> Result<Vec<String>, EngineError> {
        let client = Client::new(self.reaching(registry, reach)?);
        let found = runtime()?.block_on(client.catalog(registry, limit, &|name: &str| name.contains(text)));
        Ok(found?)
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

    /// All tags of the repository.
    pub fn tags(&self) -> Result<Vec<String>, EngineError> {
        Ok(self.runtime.block_on(self.client.tags(&self.reference))?)
    }
}

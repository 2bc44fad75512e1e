//! The search of Docker Hub (`/v1/search?q=…&n=…`), which some other registries have too, in place of a list of everything.

use serde_json::Value;

use super::error::RegistryError;
use super::repository::Endpoint;
use super::url::escape;
use super::{Client, DOCKER_HUB};
use crate::types::read;

/// Where Docker Hub searches.
const HUB_SEARCH: &str = "index.docker.io";
/// As many as Docker Hub tells at once.
const MOST: usize = 100;

/// A repository that a search has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Its path in the registry.
    pub name: String,
    /// One line.
    pub description: String,
    /// How many people have marked it.
    pub stars: u64,
    /// Docker's own.
    pub official: bool,
    /// Built by Docker Hub.
    pub automated: bool,
}

impl Client {
    /// The host that is asked when a registry is searched.
    pub fn search_host(registry: &str) -> &str {
        match registry {
            DOCKER_HUB => HUB_SEARCH,
            other => other,
        }
    }

    /// What the registry finds for a text, at most `limit` and 100.
    pub async fn search(&self, registry: &str, text: &str, limit: usize) -> Result<Vec<Found>, RegistryError> {
        let host = Client::search_host(registry);
        let mut endpoint = Endpoint::registry_itself(host, self.inner.registries.insecure(host));
        // Docker Hub's registry is another host.
        host.clone_into(&mut endpoint.host);
        let path = format!("/v1/search?q={}&n={}", escape(text), limit.clamp(1, MOST));
        let what = "a search";
        let (body, _) = self.list(&endpoint, &path, what).await?;
        let mut answer = read::json_any(&body).map_err(|error| RegistryError::Protocol {
            host: host.to_owned(),
            detail: format!("{what}: {error}"),
        })?;
        let Value::Array(results) = answer["results"].take() else {
            return Err(RegistryError::Protocol {
                host: host.to_owned(),
                detail: format!("{what}: the answer has no `results`"),
            });
        };
        let mut found: Vec<Found> = results.iter().filter_map(|one| read_one(registry, one)).collect();
        found.truncate(limit);
        Ok(found)
    }
}

fn read_one(registry: &str, one: &Value) -> Option<Found> {
    let name = one["name"].as_str()?;
    let name = match registry {
        // Official images have short names there.
        DOCKER_HUB if !name.contains('/') => format!("library/{name}"),
        _ => name.to_owned(),
    };
    let is = |field: &str| one[field].as_bool().unwrap_or(false);
    Some(Found {
        name,
        description: one["description"].as_str().unwrap_or_default().replace('\n', " "),
        stars: one["star_count"].as_u64().unwrap_or(0),
        official: is("is_official"),
        automated: is("is_automated"),
    })
}

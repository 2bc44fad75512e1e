//! Logging in and out: a credential is tried before it is stored, in a file or by the helper that the file names.

use super::error::RegistryError;
use super::repository::Endpoint;
use super::transport::Outgoing;
use super::{Client, helper};
use crate::config::auth::{AuthPlaces, Credential};

impl Client {
    /// Whether a registry (`host[:port]`) lets this user in with this password: what `login` asks before it stores them.
    pub async fn check_login(&self, registry: &str, user: &str, password: &str) -> Result<(), RegistryError> {
        let credential = Credential::Basic {
            user: user.to_owned(),
            password: password.to_owned(),
        };
        let asking = self.inner.with_credential(registry, credential);
        let endpoint = Endpoint::registry_itself(registry, self.inner.registries.insecure(registry));
        asking
            .ask(&endpoint, &Outgoing::get("/v2/".to_owned()), registry)
            .await
            .map(drop)
    }
}

/// The credential that is stored for `key` (`host[:port][/path]`), asked from a helper where one keeps it.
pub async fn stored(places: &AuthPlaces, key: &str) -> Result<Option<Credential>, RegistryError> {
    match places.find(key)? {
        Some(Credential::Helper { name, server }) => helper::ask(&name, &server).await.map_err(RegistryError::Helper),
        other => Ok(other),
    }
}

/// Stores a credential that was tried; gives the place in words.
pub async fn store(places: &AuthPlaces, key: &str, user: &str, password: &str) -> Result<String, RegistryError> {
    AuthPlaces::check_user(user)?;
    match places.helper(key)? {
        Some((name, server)) => {
            helper::store(&name, &server, user, password)
                .await
                .map_err(RegistryError::Helper)?;
            Ok(format!("docker-credential-{name}"))
        }
        None => Ok(places.store(key, user, password)?.display().to_string()),
    }
}

/// Removes the credential of `key`. What a helper kept is gone, too.
pub async fn forget(places: &AuthPlaces, key: &str) -> Result<(), RegistryError> {
    let erased = match places.helper(key)? {
        Some((name, server)) => helper::erase(&name, &server).await.map_err(RegistryError::Helper)?,
        None => false,
    };
    match places.remove(key) {
        Err(crate::config::auth::AuthError::NotLoggedIn { .. }) if erased => Ok(()),
        other => Ok(other?),
    }
}

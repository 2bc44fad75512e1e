//! Logging in to registries and out: what a login stores, a pull of the same store's owner finds.

use super::pull::{Reach, runtime};
use super::{Engine, EngineError};
use crate::config::auth::Credential;
use crate::registry::{Client, RegistryError, login};

/// Who is logged in to a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// A user with this password.
    Password {
        /// The user's name.
        user: String,
        /// The password.
        password: String,
    },
    /// Whoever has the stored token.
    Token,
}

impl Engine {
    /// Who is logged in to `key` (`host[:port][/path]`); `None` where nobody is.
    pub fn logged_in(&self, key: &str, reach: &Reach) -> Result<Option<Login>, EngineError> {
        let settings = self.reaching(host(key), reach)?;
        Ok(match runtime()?.block_on(login::stored(&settings.auth, key))? {
            Some(Credential::Basic { user, password }) => Some(Login::Password { user, password }),
            Some(Credential::IdentityToken { .. }) => Some(Login::Token),
            Some(Credential::Helper { .. }) | None => None,
        })
    }

    /// Whether the registry of `key` takes this password; `false` where it says no to it.
    pub fn try_login(&self, key: &str, user: &str, password: &str, reach: &Reach) -> Result<bool, EngineError> {
        let client = Client::new(self.reaching(host(key), reach)?);
        match runtime()?.block_on(client.check_login(host(key), user, password)) {
            Ok(()) => Ok(true),
            Err(RegistryError::Denied { host, detail, .. }) => {
                crate::debug!("registry `{host}`: {detail}");
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Stores a password that was tried; gives the place in words.
    pub fn store_login(&self, key: &str, user: &str, password: &str, reach: &Reach) -> Result<String, EngineError> {
        let settings = self.reaching(host(key), reach)?;
        Ok(runtime()?.block_on(login::store(&settings.auth, key, user, password))?)
    }

    /// Forgets the password for `key`; one that is not stored is an error.
    pub fn log_out(&self, key: &str, reach: &Reach) -> Result<(), EngineError> {
        let settings = self.reaching(host(key), reach)?;
        Ok(runtime()?.block_on(login::forget(&settings.auth, key))?)
    }

    /// Forgets all passwords that are in files.
    pub fn log_out_everywhere(&self, reach: &Reach) -> Result<(), EngineError> {
        let settings = self.reaching("", reach)?;
        Ok(settings.auth.remove_all().map_err(RegistryError::from)?)
    }
}

fn host(key: &str) -> &str {
    key.split('/').next().unwrap_or(key)
}

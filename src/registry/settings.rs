//! What the registry client is told: files of the ecosystem, time-outs, retries.

use std::num::NonZeroU64;
use std::path::Path;
use std::time::Duration;

use super::error::RegistryError;
use super::proxy::Proxies;
use crate::config::auth::AuthPlaces;
use crate::config::certs::CertPlaces;
use crate::config::folders::Folders;
use crate::config::registries::{Registries, RegistriesPlaces};
use crate::config::{agent, env};

/// Everything a [`super::Client`] is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// registries.conf.
    pub registries: Registries,
    /// Where credentials are.
    pub auth: AuthPlaces,
    /// Where certificates are.
    pub certs: CertPlaces,
    /// Which hosts are reached through a proxy.
    pub proxies: Proxies,
    /// Time-outs and retries.
    pub limits: Limits,
    /// Bytes per second of all blobs together.
    pub rate: Option<NonZeroU64>,
}

/// Time-outs and retries. Every wait of the client is bounded by one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Name resolution and TCP connection, all addresses together.
    pub connect: Duration,
    /// TLS handshake.
    pub tls: Duration,
    /// From a request to the head of its answer.
    pub head: Duration,
    /// Without a byte of a body.
    pub stall: Duration,
    /// A whole manifest, configuration or token.
    pub small: Duration,
    /// Tries of one request; of a blob: tries in a row without progress.
    pub attempts: u32,
    /// The first pause between tries; each further one doubles, each is drawn between half and all of it.
    pub pause: Duration,
    /// The longest pause.
    pub pause_max: Duration,
    /// The longest `Retry-After` that is waited for; more is an error that says how long.
    pub retry_after_max: Duration,
}

impl Settings {
    /// What agent.toml, the ecosystem's files of a user and the environment say; `authfile` is `--authfile`.
    pub fn usual(own: &agent::Registry, folders: &Folders, authfile: Option<&Path>) -> Result<Self, RegistryError> {
        let named = env::get(env::CONTAINERS_REGISTRIES_CONF)
            .map(Into::into)
            .or_else(|| own.registries_conf.clone());
        let mut registries = Registries::load(&RegistriesPlaces::usual(named.as_deref(), folders))?;
        registries.allow_insecure(&own.insecure);
        let asked = authfile
            .map(Path::to_owned)
            .or_else(|| env::get(env::REGISTRY_AUTH_FILE).map(Into::into));
        let auth = AuthPlaces::usual(asked.or_else(|| own.auth_file.clone()).as_deref(), folders);
        let certs = CertPlaces::usual(own.certs_dir.as_deref(), folders);
        let variable = |lower, upper| {
            env::get(lower)
                .or_else(|| env::get(upper))
                .and_then(|text| text.into_string().ok())
        };
        let https = variable(env::HTTPS_PROXY_LOWER, env::HTTPS_PROXY);
        let http = variable(env::HTTP_PROXY_LOWER, env::HTTP_PROXY);
        let none = variable(env::NO_PROXY_LOWER, env::NO_PROXY);
        let proxies = Proxies::new(https.as_deref(), http.as_deref(), none.as_deref())?;
        let standard = Limits::default();
        let timeout = own.timeout.map(|timeout| timeout.duration());
        let limits = Limits {
            head: timeout.unwrap_or(standard.head),
            stall: timeout.unwrap_or(standard.stall),
            attempts: own.attempts.unwrap_or(standard.attempts),
            ..standard
        };
        Ok(Self {
            registries,
            auth,
            certs,
            proxies,
            limits,
            rate: own.rate.and_then(|rate| NonZeroU64::new(rate.0)),
        })
    }

    /// Settings with these files and the default time-outs, without a proxy.
    pub fn new(registries: Registries, auth: AuthPlaces, certs: CertPlaces) -> Self {
        Self {
            registries,
            auth,
            certs,
            proxies: Proxies::default(),
            limits: Limits::default(),
            rate: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            tls: Duration::from_secs(15),
            head: Duration::from_secs(60),
            stall: Duration::from_secs(60),
            small: Duration::from_secs(180),
            attempts: 5,
            pause: Duration::from_millis(250),
            pause_max: Duration::from_secs(15),
            retry_after_max: Duration::from_secs(60),
        }
    }
}

impl Limits {
    /// The pause before try number `tried + 1`; `chance` is a random number.
    pub(crate) fn pause(&self, tried: u32, chance: u32) -> Duration {
        let doubled = self
            .pause
            .saturating_mul(1u32.checked_shl(tried.saturating_sub(1).min(16)).unwrap_or(u32::MAX));
        let longest = doubled.min(self.pause_max);
        longest / 2 + (longest / 2).mul_f64(f64::from(chance) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_bound_and_vary() {
        let limits = Limits::default();
        for (tried, low, high) in [
            (1, 125, 250),
            (2, 250, 500),
            (4, 1000, 2000),
            (10, 7500, 15_000),
            (u32::MAX, 7500, 15_000),
        ] {
            assert_eq!(limits.pause(tried, 0).as_millis(), low, "{tried}");
            assert_eq!(limits.pause(tried, u32::MAX).as_millis(), high, "{tried}");
        }
    }
}

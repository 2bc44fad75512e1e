//! Authentication: basic, and tokens from a token server; what was granted is kept for as long as it is good.
//!
//! Source of the rules: Docker Registry v2 authentication (token, OAuth2), RFC 6750, RFC 7617. Only what is
//! needed on the one repository is asked for, whatever the challenge suggests.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::header::{self, HeaderValue};
use hyper::{Method, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;

use super::challenge::Challenge;
use super::client::Inner;
use super::error::RegistryError;
use super::helper;
use super::repository::Endpoint;
use super::transport::{Origin, Outgoing, Reply};
use super::url::{Url, escape};
use crate::config::auth::{AuthPlaces, Credential};
use crate::types::base64;
use crate::types::bounds::{REGISTRY_HOSTS, TOKEN_BYTES};
use crate::types::read;

/// How long a token is good when the server does not say (Docker's rule).
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// How long before its end a token is renewed.
const TOKEN_MARGIN: Duration = Duration::from_secs(10);
/// The longest that a token is used, whatever the server says.
const TOKEN_LIFE_MAX: Duration = Duration::from_secs(3600);

/// What the registries granted, per repository.
pub(crate) struct Grants {
    places: AuthPlaces,
    granted: Mutex<HashMap<String, Grant>>,
    /// One conversation at a time: parallel layers share its result.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Grant {
    header: HeaderValue,
    until: Option<Instant>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

impl Grants {
    pub(crate) fn new(places: AuthPlaces) -> Self {
        Self {
            places,
            granted: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        }
    }

    /// The value of `Authorization` for a place, where one was granted and is still good.
    pub(crate) fn known(&self, endpoint: &Endpoint) -> Option<HeaderValue> {
        let granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        let grant = granted.get(&key(endpoint))?;
        grant
            .until
            .is_none_or(|until| Instant::now() < until)
            .then(|| grant.header.clone())
    }

    /// Answers a 401: gets what the challenges ask for. `shown` is what was refused.
    pub(crate) async fn answer(
        &self,
        inner: &Inner,
        endpoint: &Endpoint,
        origin: &Origin,
        challenges: &[Challenge],
        shown: Option<&HeaderValue>,
    ) -> Result<HeaderValue, RegistryError> {
        let _one = self.asking.lock().await;
        if let Some(header) = self.known(endpoint)
            && Some(&header) != shown
        {
            return Ok(header);
        }
        let denied = |detail: String| denied(endpoint, detail);
        let credential = self.credential(endpoint).await?;
        let bearer = challenges
            .iter()
            .find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        let grant = match (bearer, &credential) {
            (Some(Challenge::Bearer { realm, service, .. }), credential) => {
                token(inner, endpoint, origin, realm, service, credential.as_ref()).await?
            }
            _ if !challenges.contains(&Challenge::Basic) => {
                return Err(denied("it asks for an unknown kind of authentication".into()));
            }
            (_, None) => return Err(denied(log_in(endpoint))),
            (_, Some(Credential::Basic { user, password })) => {
                let header = basic(user, password);
                if shown == Some(&header) {
                    return Err(denied(format!(
                        "the stored user name or password is wrong; {}",
                        log_in(endpoint)
                    )));
                }
                Grant { header, until: None }
            }
            (_, Some(_)) => {
                return Err(denied(format!(
                    "it asks for a password and only a token is stored; {}",
                    log_in(endpoint)
                )));
            }
        };
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        if granted.len() >= REGISTRY_HOSTS {
            granted.clear();
        }
        granted.insert(key(endpoint), grant.clone());
        Ok(grant.header)
    }

    async fn credential(&self, endpoint: &Endpoint) -> Result<Option<Credential>, RegistryError> {
        match self.places.find(&endpoint.name())? {
            Some(Credential::Helper { name, server }) => helper::ask(&name, &server)
                .await
                .map_err(|detail| denied(endpoint, detail)),
            other => Ok(other),
        }
    }
}

/// Asks a token server.
async fn token(
    inner: &Inner,
    endpoint: &Endpoint,
    origin: &Origin,
    realm: &str,
    service: &str,
    credential: Option<&Credential>,
) -> Result<Grant, RegistryError> {
    let protocol = |detail: String| RegistryError::Protocol {
        host: endpoint.host.clone(),
        detail,
    };
    let realm = Url::parse(realm).map_err(|why| protocol(format!("its token server's address {why}")))?;
    let server = inner.foreign_origin(origin, &realm)?;
    let out = request(&realm, service, &scope(endpoint), credential);
    let (mut reply, _) = inner.follow(&server, out).await?;
    if reply.head.status != StatusCode::OK {
        return Err(refused(endpoint, reply, credential).await);
    }
    let body = reply.body.read_all(TOKEN_BYTES).await?;
    let body = body.ok_or_else(|| protocol(format!("its token is larger than {TOKEN_BYTES} bytes")))?;
    let answer: TokenAnswer =
        read::json(&body).map_err(|_| protocol("its token server's answer is not valid".into()))?;
    let token = answer
        .token
        .filter(|token| !token.is_empty())
        .or(answer.access_token)
        .unwrap_or_default();
    let sound = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
    let header = HeaderValue::from_str(&format!("Bearer {token}")).ok().filter(|_| sound);
    let mut header = header.ok_or_else(|| protocol("its token server's answer holds no usable token".into()))?;
    header.set_sensitive(true);
    let life = answer
        .expires_in
        .filter(|seconds| *seconds > 0)
        .map_or(TOKEN_LIFE, Duration::from_secs)
        .min(TOKEN_LIFE_MAX);
    // A token of a few seconds is used for half of them.
    let life = life.saturating_sub(TOKEN_MARGIN).max(life / 2);
    Ok(Grant {
        header,
        until: Some(Instant::now() + life),
    })
}

/// What the token is for, as a part of a query; nothing for the registry as such.
fn scope(endpoint: &Endpoint) -> String {
    match endpoint.path.as_str() {
        "" => String::new(),
        path => {
            let mut scope = format!("&scope={}", escape(&format!("repository:{path}:{}", endpoint.actions)));
            for path in &endpoint.also {
                scope.push_str(&format!("&scope={}", escape(&format!("repository:{path}:pull"))));
            }
            scope
        }
    }
}

/// What is granted for one kind of use is not shown for another.
fn key(endpoint: &Endpoint) -> String {
    format!("{} {} {}", endpoint.name(), endpoint.actions, endpoint.also.join(" "))
}

/// GET with the scope in the query, or POST where a refresh token is exchanged (OAuth2).
fn request(realm: &Url, service: &str, scope: &str, credential: Option<&Credential>) -> Outgoing {
    let service = escape(service);
    if let Some(Credential::IdentityToken { token }) = credential {
        let token = escape(token);
        let body = format!("grant_type=refresh_token&service={service}&client_id=dunlin{scope}&refresh_token={token}");
        let form = "application/x-www-form-urlencoded";
        let mut out = Outgoing::new(Method::POST, realm.path.clone()).with(header::CONTENT_TYPE, form);
        out.body = body.into();
        return out;
    }
    let mark = if realm.path.contains('?') { '&' } else { '?' };
    let mut out = Outgoing::get(format!("{}{mark}service={service}{scope}", realm.path));
    if let Some(Credential::Basic { user, password }) = credential {
        out.headers.insert(header::AUTHORIZATION, basic(user, password));
    }
    out
}

async fn refused(endpoint: &Endpoint, reply: Reply, credential: Option<&Credential>) -> RegistryError {
    let status = reply.head.status.as_u16();
    let after = super::retry::retry_after(&reply);
    let words = super::client::words(reply.error_body().await);
    match status {
        400..=403 if credential.is_none() => denied(endpoint, format!("{words}; {}", log_in(endpoint))),
        400..=403 => denied(
            endpoint,
            format!(
                "the token server refuses the stored credential ({words}); {}",
                log_in(endpoint)
            ),
        ),
        429 => RegistryError::RateLimited {
            host: endpoint.host.clone(),
            retry_after: after,
        },
        _ => RegistryError::Status {
            host: endpoint.host.clone(),
            status,
            what: "token".into(),
            detail: words,
            retry_after: after,
        },
    }
}

/// The value of `Authorization` for a user and a password.
fn basic(user: &str, password: &str) -> HeaderValue {
    let text = format!("Basic {}", base64::encode(format!("{user}:{password}").as_bytes()));
    // Base64 is always a valid header value.
    let mut header = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("Basic"));
    header.set_sensitive(true);
    header
}

pub(crate) fn denied(endpoint: &Endpoint, detail: String) -> RegistryError {
    RegistryError::Denied {
        host: endpoint.host.clone(),
        repository: endpoint.path.clone(),
        detail,
    }
}

/// What a person may do about a refusal.
pub(crate) fn log_in(endpoint: &Endpoint) -> String {
    format!("log in with `dunlin login {}`", endpoint.registry())
}

impl fmt::Debug for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grants")
            .field("places", &self.places)
            .finish_non_exhaustive()
    }
}

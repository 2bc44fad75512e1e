//! Asking a registry: which place, how to speak to it, as whom; redirects; what its answers mean.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::{Method, StatusCode};
use serde::Deserialize;

use super::challenge;
use super::error::RegistryError;
use super::pace::Pace;
use super::payload::Pieces;
use super::repository::Endpoint;
use super::retry::retry_after;
use super::settings::Settings;
use super::tls::Tls;
use super::token::{Grants, denied, log_in};
use super::transport::{Origin, Outgoing, Reply, Security, Transport};
use super::url::{Url, default_port, is_loopback};
use crate::config::auth::{AuthPlaces, Credential};
use crate::config::registries::Registries;
use crate::types::bounds::{REDIRECTS, REGISTRY_HOSTS};
use crate::types::read;
use crate::types::sorted::Sorted;

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) registries: Registries,
    pub(crate) transport: Arc<Transport>,
    pub(crate) pace: Pace,
    grants: Grants,
    /// How hosts that need not speak TLS were found to speak.
    spoken: Mutex<HashMap<(String, bool), Origin>>,
}

impl Inner {
    pub(crate) fn new(settings: Settings) -> Self {
        let pace = Pace::default();
        pace.set(settings.rate);
        Self {
            transport: Transport::new(settings.limits, Tls::new(settings.certs), settings.proxies),
            registries: settings.registries,
            pace,
            grants: Grants::new(settings.auth),
            spoken: Mutex::default(),
        }
    }

    /// The same connections, with one credential and no other.
    pub(crate) fn with_credential(&self, registry: &str, credential: Credential) -> Self {
        let given = Sorted::from_iter([(registry.to_owned(), credential)]);
        Self {
            transport: self.transport.clone(),
            registries: self.registries.clone(),
            pace: Pace::default(),
            grants: Grants::new(AuthPlaces {
                given,
                files: Vec::new(),
            }),
            spoken: Mutex::default(),
        }
    }

    /// One request to a place, authenticated and redirected as it asks; `what` names the object in errors.
    ///
    /// The answer has status 200, where a range was asked for also 206 or 416, and where something was sent also 201, 202 or 204;
    /// everything else is an error.
    pub(crate) async fn ask(&self, endpoint: &Endpoint, out: &Outgoing, what: &str) -> Result<Reply, RegistryError> {
        let origin = self.origin(endpoint).await?;
        let asked = self.ask_at(&origin, endpoint, out, what).await;
        if matches!(asked, Err(ref error) if !matches!(error, RegistryError::NotFound { .. } | RegistryError::Denied { .. }))
        {
            self.forget(endpoint);
        }
        asked
    }

    /// The same at a place that the registry itself has named: only the registry gets to see who asks.
    pub(crate) async fn ask_place(
        &self,
        endpoint: &Endpoint,
        at: &Origin,
        out: &Outgoing,
        what: &str,
    ) -> Result<Reply, RegistryError> {
        if at.same(&self.origin(endpoint).await?) {
            return self.ask_at(at, endpoint, out, what).await;
        }
        let reply = self.transport.send(at, out).await?;
        judge(endpoint, at, (out, reply), what, None).await
    }

    /// The same once, with a body in pieces.
    pub(crate) async fn send_pieces(
        &self,
        endpoint: &Endpoint,
        at: &Origin,
        mut out: Outgoing,
        pieces: Pieces,
    ) -> Result<Reply, RegistryError> {
        if at.same(&self.origin(endpoint).await?)
            && let Some(value) = self.grants.known(endpoint)
        {
            out.headers.insert(header::AUTHORIZATION, value);
        }
        let shown = out.headers.get(header::AUTHORIZATION).cloned();
        let reply = self.transport.send_pieces(at, &out, pieces).await?;
        judge(endpoint, at, (&out, reply), &endpoint.path, shown.as_ref()).await
    }

    async fn ask_at(
        &self,
        origin: &Origin,
        endpoint: &Endpoint,
        out: &Outgoing,
        what: &str,
    ) -> Result<Reply, RegistryError> {
        let mut authorization = self.grants.known(endpoint);
        let mut renewed = false;
        loop {
            let mut sent = out.clone();
            if let Some(value) = &authorization {
                sent.headers.insert(header::AUTHORIZATION, value.clone());
            }
            let (reply, at) = self.follow(origin, sent).await?;
            if reply.head.status != StatusCode::UNAUTHORIZED || renewed || !at.same(origin) {
                return judge(endpoint, &at, (out, reply), what, authorization.as_ref()).await;
            }
            let challenges: Vec<_> = reply
                .head
                .headers
                .get_all(header::WWW_AUTHENTICATE)
                .iter()
                .filter_map(|value| value.to_str().ok())
                .flat_map(challenge::parse)
                .collect();
            reply.error_body().await;
            let granted = self
                .grants
                .answer(self, endpoint, origin, &challenges, authorization.as_ref())
                .await?;
            authorization = Some(granted);
            renewed = true;
        }
    }

    /// One request and the redirects that follow. `Authorization` stays with the first server.
    pub(crate) async fn follow(&self, origin: &Origin, mut out: Outgoing) -> Result<(Reply, Origin), RegistryError> {
        let mut at = origin.clone();
        for _ in 0..=REDIRECTS {
            let reply = self.transport.send(&at, &out).await?;
            if !matches!(reply.head.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok((reply, at));
            }
            let wrong = |detail: String| RegistryError::Protocol {
                host: at.label.clone(),
                detail,
            };
            if !matches!(out.method, Method::GET | Method::HEAD) {
                return Err(wrong("it redirects a request that carries something".into()));
            }
            let location = reply
                .header("location")
                .ok_or_else(|| wrong("it redirects to nowhere".into()))?;
            let target = at
                .url(&out.path)
                .join(location)
                .map_err(|why| wrong(format!("its redirect {why}")))?;
            reply.error_body().await;
            let next = self.foreign_origin(&at, &target)?;
            if !next.same(&at) {
                out.headers.remove(header::AUTHORIZATION);
            }
            out.path = target.path;
            at = next;
        }
        Err(RegistryError::Protocol {
            host: at.label,
            detail: format!("it redirects more than {REDIRECTS} times"),
        })
    }

    /// How a server may be spoken to that `from` has named (a redirect, a token server).
    pub(crate) fn foreign_origin(&self, from: &Origin, url: &Url) -> Result<Origin, RegistryError> {
        let label = url.label();
        let same = from.host == url.host && from.port == url.port;
        let listed =
            self.registries.insecure(&label) || self.registries.insecure(&format!("{}:{}", url.host, url.port));
        let security = match url.tls {
            true if listed || (same && from.security == Security::Unverified) => Security::Unverified,
            true => Security::Verified,
            false if listed => Security::Plain,
            false
                if from.security == Security::Plain
                    && (same || (is_loopback(&from.host) && is_loopback(&url.host))) =>
            {
                Security::Plain
            }
            false => return Err(RegistryError::Plain { host: label }),
        };
        Ok(Origin {
            host: url.host.clone(),
            port: url.port,
            security,
            label,
        })
    }

    /// How a place is spoken to. Where plain HTTP is allowed, TLS is tried first and the result is remembered.
    pub(crate) async fn origin(&self, endpoint: &Endpoint) -> Result<Origin, RegistryError> {
        let (host, port) = endpoint.split();
        let loopback = is_loopback(host);
        let make = |security| Origin {
            host: host.to_ascii_lowercase(),
            port: port.unwrap_or(default_port(security != Security::Plain)),
            security,
            label: endpoint.registry().to_owned(),
        };
        if !endpoint.insecure && (!loopback || self.transport.has_certs(endpoint.registry())) {
            return Ok(make(Security::Verified));
        }
        let key = (endpoint.host.clone(), endpoint.insecure);
        if let Some(known) = self.spoken.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(known.clone());
        }
        let mut origin = make(if endpoint.insecure {
            Security::Unverified
        } else {
            Security::Verified
        });
        match self.transport.open(&origin).await {
            Ok(()) => {}
            Err(error) if speaks_no_tls(&error, port.is_none()) => {
                origin = make(Security::Plain);
                self.transport.open(&origin).await?;
            }
            Err(error) => return Err(error),
        }
        let mut spoken = self.spoken.lock().unwrap_or_else(PoisonError::into_inner);
        if spoken.len() >= REGISTRY_HOSTS {
            spoken.clear();
        }
        spoken.insert(key, origin.clone());
        Ok(origin)
    }

    /// The next request finds out anew how the place speaks.
    fn forget(&self, endpoint: &Endpoint) {
        let key = (endpoint.host.clone(), endpoint.insecure);
        self.spoken.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }
}

/// Whether a failed TLS connection is a reason to try plain HTTP, where that is allowed.
fn speaks_no_tls(error: &RegistryError, other_port: bool) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    match error {
        RegistryError::NotTls { .. } => true,
        RegistryError::Connect { source, .. } => {
            other_port || matches!(source.kind(), ConnectionReset | ConnectionAborted | BrokenPipe)
        }
        RegistryError::TimedOut { .. } => other_port,
        _ => false,
    }
}

/// What an answer means; `shown` is the value of `Authorization`, where there was one.
async fn judge(
    endpoint: &Endpoint,
    at: &Origin,
    (out, reply): (&Outgoing, Reply),
    what: &str,
    shown: Option<&HeaderValue>,
) -> Result<Reply, RegistryError> {
    let status = reply.head.status.as_u16();
    let expected = match status {
        200 => true,
        201 | 202 | 204 => !matches!(out.method, Method::GET | Method::HEAD),
        206 | 416 => out.headers.contains_key(header::RANGE),
        _ => false,
    };
    if expected {
        return Ok(reply);
    }
    let host = at.label.clone();
    let retry_after = retry_after(&reply);
    let detail = words(reply.error_body().await);
    Err(match status {
        401 if shown.is_some_and(|value| value.as_bytes().starts_with(b"Basic ")) => denied(
            endpoint,
            format!(
                "{detail}; the stored user name or password is wrong; {}",
                log_in(endpoint)
            ),
        ),
        401 | 403 => denied(endpoint, format!("{detail}; {}", log_in(endpoint))),
        404 => RegistryError::NotFound {
            host,
            what: what.to_owned(),
        },
        429 => RegistryError::RateLimited { host, retry_after },
        200..300 => RegistryError::Protocol {
            host,
            detail: format!("it answered {status} to a request for `{what}`"),
        },
        _ => RegistryError::Status {
            host,
            status,
            what: what.to_owned(),
            detail,
            retry_after,
        },
    })
}

/// The words of a registry's error (OCI distribution specification, error codes), made safe to print.
pub(crate) fn words(body: Option<Bytes>) -> String {
    #[derive(Deserialize)]
    struct Errors {
        #[serde(default)]
        errors: Vec<Detail>,
        #[serde(default)]
        details: String,
    }
    #[derive(Deserialize)]
    struct Detail {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let parsed: Option<Errors> = body.and_then(|body| read::json(&body).ok());
    let text = match parsed {
        Some(Errors { errors, .. }) if !errors.is_empty() => match &errors[0] {
            Detail { code, message } if message.is_empty() => code.clone(),
            Detail { message, .. } => message.clone(),
        },
        Some(Errors { details, .. }) if !details.is_empty() => details,
        _ => "it gives no reason".to_owned(),
    };
    text.chars().take(200).flat_map(char::escape_debug).collect()
}

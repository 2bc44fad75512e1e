//! What can go wrong between this device and a registry, and which of it is worth another try.

use std::io;
use std::time::Duration;

use crate::config::auth::AuthError;
use crate::config::certs::CertsError;
use crate::config::registries::RegistriesError;
use crate::registry::manifest::ManifestError;
use crate::registry::proxy::ProxyError;
use crate::types::deployment::Reason;
use crate::types::digest::Digest;

/// Why a request to a registry failed. Hosts are written as in references; no variant carries a credential.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// registries.conf blocks the name.
    #[error("`{name}` is blocked by registries.conf (prefix `{prefix}`)")]
    Blocked {
        /// The repository that was asked for.
        name: String,
        /// The prefix of the table that blocks it.
        prefix: String,
    },
    /// registries.conf leads to a name that is none.
    #[error("`{name}` leads to `{target}` by registries.conf, which is not a repository; correct its `location`")]
    Rewrite {
        /// The repository that was asked for.
        name: String,
        /// What it became.
        target: String,
    },
    /// registries.conf cannot be used.
    #[error(transparent)]
    Registries(#[from] RegistriesError),
    /// auth.json cannot be used.
    #[error(transparent)]
    AuthFile(#[from] AuthError),
    /// A proxy cannot be used.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Certs(#[from] CertsError),
    /// The host's name has no address.
    #[error("registry `{host}`: the name cannot be resolved: {source}")]
    Resolve {
        /// The host.
        host: String,
        /// The resolver's answer.
        source: io::Error,
    },
    /// No connection.
    #[error("registry `{host}`: cannot connect: {source}")]
    Connect {
        /// The host.
        host: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The other side does not speak TLS.
    #[error(
        "registry `{host}` does not speak TLS; if it is meant to, list it with `insecure = true` in registries.conf"
    )]
    NotTls {
        /// The host.
        host: String,
    },
    /// The TLS handshake failed.
    #[error("registry `{host}`: TLS failed: {detail}; a private authority belongs in `certs.d/{host}/ca.crt`")]
    Tls {
        /// The host.
        host: String,
        /// What the TLS library says.
        detail: String,
    },
    /// Nothing happened for too long.
    #[error("registry `{host}`: {what} took longer than {}", seconds(*after))]
    TimedOut {
        /// The host.
        host: String,
        /// What was waited for.
        what: &'static str,
        /// The bound.
        after: Duration,
    },
    /// The connection ended in the middle of a message.
    #[error("registry `{host}`: the connection broke: {detail}")]
    Broken {
        /// The host.
        host: String,
        /// What the HTTP library says.
        detail: String,
    },
    /// Plain HTTP where it is not allowed.
    #[error(
        "registry `{host}`: plain HTTP is refused; list the registry with `insecure = true` in registries.conf to allow it"
    )]
    Plain {
        /// The host.
        host: String,
    },
    /// Access is denied, or the credentials are missing or wrong.
    #[error("registry `{host}`: access to `{repository}` is denied: {detail}")]
    Denied {
        /// The host.
        host: String,
        /// The repository.
        repository: String,
        /// The registry's words and what to do.
        detail: String,
    },
    /// A credential helper failed.
    #[error("{0}")]
    Helper(String),
    /// The registry does not have it.
    #[error("registry `{host}` does not have `{what}`")]
    NotFound {
        /// The host.
        host: String,
        /// Repository with tag or digest.
        what: String,
    },
    /// Too many requests.
    #[error("registry `{host}` limits requests; try again {}", retry_text(*retry_after))]
    RateLimited {
        /// The host.
        host: String,
        /// What its `Retry-After` says.
        retry_after: Option<Duration>,
    },
    /// Another status than the ones expected.
    #[error("registry `{host}` answered {status} to `{what}`{}", detail_text(detail))]
    Status {
        /// The host.
        host: String,
        /// The HTTP status code.
        status: u16,
        /// What was asked for.
        what: String,
        /// The registry's words, may be empty.
        detail: String,
        /// What its `Retry-After` says.
        retry_after: Option<Duration>,
    },
    /// An answer that makes no sense.
    #[error("registry `{host}`: {detail}")]
    Protocol {
        /// The host.
        host: String,
        /// What is wrong with the answer.
        detail: String,
    },
    /// A body is longer than what is accepted of its kind.
    #[error("registry `{host}`: `{what}` is larger than {limit} bytes")]
    TooLarge {
        /// The host.
        host: String,
        /// What was fetched.
        what: String,
        /// The bound in bytes.
        limit: u64,
    },
    /// A blob has another length than its descriptor says.
    #[error("registry `{host}`: blob `{digest}` should have {expected} bytes and has {}", length_text(*got))]
    Length {
        /// The host.
        host: String,
        /// The blob.
        digest: Digest,
        /// What the descriptor says, bytes.
        expected: u64,
        /// What the registry has, bytes; `None` for more than expected.
        got: Option<u64>,
    },
    /// The content has another digest than the one asked for.
    #[error("registry `{host}`: content of `{expected}` has the digest `{got}`; it is damaged or forged")]
    Digest {
        /// The host.
        host: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        got: Digest,
    },
    /// A manifest or index that is not accepted.
    #[error("`{name}`: {source}")]
    Manifest {
        /// The reference.
        name: String,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// What is sent to it cannot be read.
    #[error("{source}")]
    Source {
        /// What happened.
        source: io::Error,
    },
    /// Every place was tried; `source` is the last one's error.
    #[error("{source} (before: {before})")]
    Everywhere {
        /// What the places before said.
        before: String,
        /// The last place's error.
        source: Box<RegistryError>,
    },
}

impl RegistryError {
    /// Whether the registry has something else than what was asked for, and will have again.
    pub fn is_of_content(&self) -> bool {
        matches!(self, Self::Digest { .. } | Self::Length { .. })
    }

    /// Whether the registry was reached and said no.
    pub fn is_an_answer(&self) -> bool {
        matches!(
            self,
            Self::NotFound { .. } | Self::Denied { .. } | Self::Status { .. } | Self::Protocol { .. }
        )
    }

    /// The kind of this failure, in the words of the fleet protocol: `auth`, `image_missing`, `no_arch`, `net`, `verify` or, for
    /// the device's own files, `internal`.
    pub fn code(&self) -> Reason {
        match self {
            Self::Denied { .. } => Reason::Auth,
            Self::NotFound { .. } | Self::Blocked { .. } => Reason::ImageMissing,
            Self::Manifest {
                source: ManifestError::Platform { .. },
                ..
            } => Reason::NoArch,
            Self::Length { .. } | Self::Digest { .. } | Self::TooLarge { .. } | Self::Manifest { .. } => Reason::Verify,
            Self::Registries(_)
            | Self::AuthFile(_)
            | Self::Certs(_)
            | Self::Proxy(_)
            | Self::Helper(_)
            | Self::Source { .. }
            | Self::Rewrite { .. } => Reason::Internal,
            Self::Everywhere { source, .. } => source.code(),
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::NotTls { .. }
            | Self::Tls { .. }
            | Self::TimedOut { .. }
            | Self::Broken { .. }
            | Self::Plain { .. }
            | Self::RateLimited { .. }
            | Self::Status { .. }
            | Self::Protocol { .. } => Reason::Net,
        }
    }

    /// Whether the same request may succeed a moment later.
    pub(crate) fn transient(&self) -> bool {
        match self {
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::TimedOut { .. }
            | Self::Broken { .. }
            | Self::RateLimited { .. }
            | Self::Length { got: Some(_), .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 425 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// How long the registry asks to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

fn seconds(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{} s", duration.as_secs())
    } else {
        format!("{} ms", duration.as_millis())
    }
}

fn retry_text(after: Option<Duration>) -> String {
    after.map_or_else(|| "later".to_owned(), |after| format!("in {} s", after.as_secs()))
}

fn detail_text(detail: &str) -> String {
    if detail.is_empty() {
        String::new()
    } else {
        format!(": {detail}")
    }
}

fn length_text(got: Option<u64>) -> String {
    got.map_or_else(|| "more".to_owned(), |got| got.to_string())
}

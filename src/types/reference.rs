//! Image references: `[REGISTRY[:PORT]/]REPOSITORY[:TAG][@DIGEST]` (OCI distribution specification, docker's grammar).

use std::fmt;
use std::str::FromStr;

use super::bounds::REFERENCE_BYTES;
use super::digest::{Digest, DigestError};

/// A reference that names its registry. Prints in full, always with a tag or a digest.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// What a person may type: a full reference, or a short name without a registry, which `registries.conf` decides about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// It names its registry.
    Full(Reference),
    /// It does not: repository, tag and digest as typed.
    Short {
        /// Repository path as typed.
        repository: String,
        /// Tag, when one was typed.
        tag: Option<String>,
        /// Digest, when one was typed.
        digest: Option<Digest>,
    },
}

/// Why a text is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Longer than the bound.
    #[error("image reference is longer than {REFERENCE_BYTES} bytes")]
    Long,
    /// The repository part breaks the grammar.
    #[error("image reference `{text}`: repository `{part}` is not valid; use lower-case letters, digits and `._-/`")]
    Repository {
        /// The whole text.
        text: String,
        /// The part at fault.
        part: String,
    },
    /// The registry part breaks the grammar.
    #[error("image reference `{text}`: registry `{part}` is not valid")]
    Registry {
        /// The whole text.
        text: String,
        /// The part at fault.
        part: String,
    },
    /// The tag breaks the grammar.
    #[error("image reference `{text}`: tag `{part}` is not valid; at most 128 of letters, digits and `._-`")]
    Tag {
        /// The whole text.
        text: String,
        /// The part at fault.
        part: String,
    },
    /// The digest breaks the grammar.
    #[error("image reference `{text}`: {source}")]
    Digest {
        /// The whole text.
        text: String,
        /// What is wrong with it.
        source: DigestError,
    },
    /// A short name where a full one is needed.
    #[error("image reference `{0}` does not name its registry; write `REGISTRY/{0}`")]
    Short(String),
}

impl Reference {
    /// The reference with these parts.
    pub fn new(
        registry: &str,
        repository: &str,
        tag: Option<&str>,
        digest: Option<Digest>,
    ) -> Result<Reference, ReferenceError> {
        let mut text = format!("{registry}/{repository}");
        if let Some(tag) = tag {
            text = format!("{text}:{tag}");
        }
        if let Some(digest) = digest {
            text = format!("{text}@{digest}");
        }
        text.parse()
    }

    /// Host and, where given, port: `registry.example:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path below the registry: `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag as written; `None` with a digest alone. Without both it is `latest`.
    pub fn tag(&self) -> Option<&str> {
        match (&self.tag, self.digest) {
            (Some(tag), _) => Some(tag),
            (None, Some(_)) => None,
            (None, None) => Some("latest"),
        }
    }

    /// The digest, when the reference is pinned.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same repository by digest alone.
    pub fn pinned(&self, digest: Digest) -> Reference {
        Reference {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// `REGISTRY/REPOSITORY` without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

/// A repository's path in full: official images of Docker Hub lie below `library/`.
pub fn full_path(registry: &str, path: &str) -> String {
    match registry {
        "docker.io" | "index.docker.io" if !path.contains('/') => format!("library/{path}"),
        _ => path.to_owned(),
    }
}

impl FromStr for Named {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Named, ReferenceError> {
        if text.len() > REFERENCE_BYTES {
            return Err(ReferenceError::Long);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest.parse().map_err(|source| ReferenceError::Digest {
                    text: text.into(),
                    source,
                })?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(ReferenceError::Tag {
                text: text.into(),
                part: tag.into(),
            });
        }
        let tag = tag.map(str::to_owned);
        let registry = match name.split_once('/') {
            Some((host, path)) if is_host(host) => Some((host, path)),
            _ => None,
        };
        let repository = registry.map_or(name, |(_, path)| path);
        if !is_repository(repository) {
            return Err(ReferenceError::Repository {
                text: text.into(),
                part: repository.into(),
            });
        }
        let repository = repository.to_owned();
        match registry {
            Some((host, _)) if !is_registry(host) => Err(ReferenceError::Registry {
                text: text.into(),
                part: host.into(),
            }),
            Some((host, _)) => Ok(Named::Full(Reference {
                registry: host.into(),
                repository,
                tag,
                digest,
            })),
            None => Ok(Named::Short {
                repository,
                tag,
                digest,
            }),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        match text.parse()? {
            Named::Full(reference) => Ok(reference),
            Named::Short { .. } => Err(ReferenceError::Short(text.into())),
        }
    }
}

fn is_tag(tag: &str) -> bool {
    let first = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&tag.len())
        && first(tag.as_bytes()[0])
        && tag.bytes().all(|b| first(b) || b == b'.' || b == b'-')
}

fn is_repository(path: &str) -> bool {
    path.len() <= 255 && path.split('/').all(is_component)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(part: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !word(first) || !word(last) {
        return false;
    }
    let mut separators = bytes.split(|&b| word(b)).filter(|s| !s.is_empty());
    separators.all(|s| matches!(s, b"." | b"_" | b"__") || s.iter().all(|&b| b == b'-'))
}

/// Whether the first component of what was typed means a registry: it has a dot or a port, or is this machine.
pub fn is_host(component: &str) -> bool {
    component.contains(['.', ':']) || component == "localhost"
}

fn is_registry(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|h| h.split_once(']')) {
        Some((address, rest)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            ("v6", rest)
        }
        None => match host.find(':') {
            Some(at) => host.split_at(at),
            None => (host, ""),
        },
    };
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let port_fits = port.is_empty()
        || port.strip_prefix(':').is_some_and(|p| {
            p.len() <= 5 && p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok_and(|p| p > 0)
        });
    name.len() <= 253 && name.split('.').all(label) && port_fits
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = self.tag() {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Reference, ReferenceError> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> String {
        reference.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_references_print_as_read() {
        let digest = Digest::of(b"x");
        for (text, printed) in [
            ("docker.io/library/busybox", "docker.io/library/busybox:latest"),
            ("localhost/x:1", "localhost/x:1"),
            ("localhost:5000/a/b:v1.2", "localhost:5000/a/b:v1.2"),
            ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("reg.example/a__b/c-d.e:T_1", "reg.example/a__b/c-d.e:T_1"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), printed);
            assert_eq!(reference.to_string().parse::<Reference>().unwrap().to_string(), printed);
        }
        let pinned: Reference = format!("r.example/a:1@{digest}").parse().unwrap();
        assert_eq!((pinned.tag(), pinned.digest()), (Some("1"), Some(digest)));
        assert_eq!(pinned.pinned(digest).to_string(), format!("r.example/a@{digest}"));
    }

    #[test]
    fn short_names_stay_short() {
        assert_eq!(
            "busybox:1".parse(),
            Ok(Named::Short {
                repository: "busybox".into(),
                tag: Some("1".into()),
                digest: None
            })
        );
        assert!(matches!("a/b".parse(), Ok(Named::Short { .. })));
        assert_eq!("a/b".parse::<Reference>(), Err(ReferenceError::Short("a/b".into())));
    }

    #[test]
    fn bad_references_are_refused() {
        for bad in [
            "",
            "/",
            "a//b",
            "A",
            "r.example/",
            "r.example/A",
            "r.example/a:",
            "r.example/a:-x",
            "r.example/a@sha256:12",
            "r.example:0/a",
            "r.example:99999/a",
            "-r.example/a",
            "r.example/../a",
            "r.example/a b",
            "r.example/a___b",
            "r.example/.a",
            "[::z]:1/a",
            "r..e/a",
            "[::1]5000/a",
            "r.example/a@",
            "http://r.example/a",
        ] {
            assert!(bad.parse::<Named>().is_err(), "{bad}");
        }
        let long = "x".repeat(REFERENCE_BYTES + 1);
        assert_eq!(long.parse::<Named>(), Err(ReferenceError::Long));
    }

    #[test]
    fn whatever_is_accepted_can_be_pinned_and_read_again() {
        let host = format!(
            "{}.example:65535",
            ["x".repeat(61).as_str(); 4].join(".")[..245].trim_end_matches('.')
        );
        let longest = format!("{host}/{}:{}", "y".repeat(255), "z".repeat(128));
        let reference: Reference = longest.parse().unwrap();
        let pinned = reference.pinned(Digest::of(b""));
        assert_eq!(pinned.to_string().parse(), Ok(pinned));
        let both = format!("{longest}@{}", Digest::of(b""));
        assert_eq!(both.parse::<Reference>().unwrap().to_string(), both);
        assert_eq!(both.len(), REFERENCE_BYTES);
        assert!("r.example:05000/a".parse::<Named>().is_ok() && "r.example:005000/a".parse::<Named>().is_err());
    }
}

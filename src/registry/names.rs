//! What a person means by the name of an image: full references, aliases, short names.
//!
//! Source of the rules: containers-registries.conf(5), "Short-Name Aliasing". A name is never guessed: where several
//! registries come into question, the caller asks a person or refuses.

use crate::config::registries::{Registries, ShortName};
use crate::types::reference::{Named, Reference, ReferenceError, full_path};

/// What a name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// One image.
    One(Reference),
    /// One of these, in the order of `unqualified-search-registries`; at least two.
    Ambiguous(Vec<Reference>),
}

/// Why a name means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is no name of an image.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// It names no registry and nothing says which one is meant.
    #[error(
        "short name `{name}`: it names no registry, and registries.conf has neither an alias nor \
         `unqualified-search-registries` for it; write for example `docker.io/{name}`"
    )]
    Unknown {
        /// As typed.
        name: String,
    },
    /// It may mean several images, and nobody can be asked.
    #[error("short name `{name}` is ambiguous: it may be {}; write it in full", list(candidates))]
    Ambiguous {
        /// As typed.
        name: String,
        /// What it may mean.
        candidates: Vec<Reference>,
    },
}

/// What `text` means. Names of Docker Hub come back with their `library/`.
pub fn meaning(registries: &Registries, text: &str) -> Result<Meaning, NameError> {
    let (repository, tag, digest) = match text.parse()? {
        Named::Full(reference) => return Ok(Meaning::One(in_full(&reference)?)),
        Named::Short {
            repository,
            tag,
            digest,
        } => (repository, tag, digest),
    };
    let within = |full: &str| -> Result<Reference, NameError> {
        let (registry, path) = full
            .split_once('/')
            .ok_or_else(|| NameError::Unknown { name: text.to_owned() })?;
        in_full(&Reference::new(registry, path, tag.as_deref(), digest)?)
    };
    let search = match registries.short_name(&repository) {
        ShortName::Alias(full) => return Ok(Meaning::One(within(&full)?)),
        ShortName::Search(search) => search,
    };
    let mut candidates = search
        .iter()
        .map(|registry| within(&format!("{registry}/{repository}")))
        .collect::<Result<Vec<_>, _>>()?;
    match candidates.len() {
        0 => Err(NameError::Unknown { name: text.to_owned() }),
        1 => Ok(Meaning::One(candidates.remove(0))),
        _ => Ok(Meaning::Ambiguous(candidates)),
    }
}

impl Meaning {
    /// The image where there is one; an error that lists the candidates where nobody can be asked.
    pub fn sure(self, name: &str) -> Result<Reference, NameError> {
        match self {
            Meaning::One(reference) => Ok(reference),
            Meaning::Ambiguous(candidates) => Err(NameError::Ambiguous {
                name: name.to_owned(),
                candidates,
            }),
        }
    }
}

/// With its path in full.
fn in_full(reference: &Reference) -> Result<Reference, NameError> {
    let registry = reference.registry();
    let path = full_path(registry, reference.repository());
    Ok(Reference::new(registry, &path, reference.tag(), reference.digest())?)
}

fn list(candidates: &[Reference]) -> String {
    candidates
        .iter()
        .map(|reference| format!("`{reference}`"))
        .collect::<Vec<_>>()
        .join(" or ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;
    use crate::types::digest::Digest;

    #[test]
    fn names_mean_what_registries_conf_says_and_are_never_guessed() {
        let mut registries = Registries::default();
        let text = "unqualified-search-registries=['docker.io','reg.example:5000/sub']\n[aliases]\nbusybox='quay.example/b/busybox'";
        registries.merge(text, Path::new("test")).unwrap();
        let digest = Digest::of(b"");
        for (typed, expected) in [
            ("reg.example/x", "reg.example/x:latest"),
            ("docker.io/alpine", "docker.io/library/alpine:latest"),
            ("docker.io/a/b:1", "docker.io/a/b:1"),
            ("busybox:1.36", "quay.example/b/busybox:1.36"),
            (
                &format!("busybox@{digest}"),
                &format!("quay.example/b/busybox@{digest}"),
            ),
            (
                &format!("docker.io/x@{digest}"),
                &format!("docker.io/library/x@{digest}"),
            ),
            ("localhost/x", "localhost/x:latest"),
        ] {
            assert_eq!(
                meaning(&registries, typed).unwrap().sure(typed).unwrap().to_string(),
                expected,
                "{typed}"
            );
        }
        let Meaning::Ambiguous(candidates) = meaning(&registries, "nginx:1").unwrap() else {
            panic!("a guess")
        };
        let texts: Vec<_> = candidates.iter().map(Reference::to_string).collect();
        assert_eq!(texts, ["docker.io/library/nginx:1", "reg.example:5000/sub/nginx:1"]);
        let error = meaning(&registries, "nginx")
            .unwrap()
            .sure("nginx")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`docker.io/library/nginx:latest` or `reg.example"),
            "{error}"
        );

        let mut one = Registries::default();
        one.merge("unqualified-search-registries=['reg.example']", Path::new("test"))
            .unwrap();
        assert!(matches!(meaning(&one, "a/b"), Ok(Meaning::One(_))));
        assert!(matches!(
            meaning(&Registries::default(), "nginx"),
            Err(NameError::Unknown { .. })
        ));
        assert!(matches!(meaning(&one, "NGINX"), Err(NameError::Reference(_))));
    }
}

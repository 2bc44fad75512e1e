//! A repository and the places where it can be fetched from: mirrors first, then the place itself.

use super::error::RegistryError;
use super::url::split_host;
use crate::config::registries::Registries;
use crate::types::reference::{Reference, full_path};

/// A repository as a reference names it, with all places where registries.conf says that it can be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// `REGISTRY/REPOSITORY` as the reference says it.
    pub(crate) name: String,
    /// The places, best first; never empty.
    pub(crate) endpoints: Vec<Endpoint>,
}

/// One place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `host[:port]` that is connected to.
    pub host: String,
    /// The repository's path there.
    pub path: String,
    /// Unverified TLS and plain HTTP are allowed.
    pub insecure: bool,
    /// What is done there, in a token server's words: `pull`, `pull,push` or `*`.
    pub actions: &'static str,
    /// Repositories of the same registry that are only read.
    pub also: Vec<String>,
}

impl Repository {
    /// The places for a reference. Mirrors that serve only tags or only digests are left out where they do not fit.
    pub(crate) fn find(registries: &Registries, reference: &Reference, digested: bool) -> Result<Self, RegistryError> {
        let name = reference.name();
        let sources = registries
            .sources(&name, digested)
            .map_err(|prefix| RegistryError::Blocked {
                name: name.clone(),
                prefix,
            })?;
        let endpoints = sources
            .into_iter()
            .map(|source| {
                let place: Reference = source.repository.parse().map_err(|_| RegistryError::Rewrite {
                    name: name.clone(),
                    target: source.repository.clone(),
                })?;
                Ok(Endpoint::new(place.registry(), place.repository(), source.insecure))
            })
            .collect::<Result<Vec<_>, RegistryError>>()?;
        Ok(Self { name, endpoints })
    }

    /// `REGISTRY/REPOSITORY` as the reference says it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same with the place at `index` first: it has served the manifest, so it is asked first for the rest.
    pub(crate) fn prefer(mut self, index: usize) -> Self {
        let place = self.endpoints.remove(index);
        self.endpoints.insert(0, place);
        self
    }
}

impl Endpoint {
    /// Docker Hub's registry has another name than its references.
    fn new(registry: &str, path: &str, insecure: bool) -> Self {
        let hub = matches!(registry, "docker.io" | "index.docker.io");
        let host = if hub { "registry-1.docker.io" } else { registry };
        Self {
            host: host.to_owned(),
            path: full_path(registry, path),
            insecure,
            actions: "pull",
            also: Vec::new(),
        }
    }

    /// The registry as such, without a repository.
    pub(crate) fn registry_itself(registry: &str, insecure: bool) -> Self {
        Self {
            path: String::new(),
            ..Self::new(registry, "/", insecure)
        }
    }

    /// The registry as references and auth.json name it.
    pub(crate) fn registry(&self) -> &str {
        if self.host == "registry-1.docker.io" {
            "docker.io"
        } else {
            &self.host
        }
    }

    /// `REGISTRY/PATH`, the key of credentials.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.registry(), self.path)
    }

    /// Host without brackets, and the port where one is named.
    pub(crate) fn split(&self) -> (&str, Option<u16>) {
        split_host(&self.host)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;

    #[test]
    fn references_lead_to_hosts_and_paths() {
        let mut registries = Registries::default();
        let text = "[[registry]]\nlocation='a.example'\n[[registry.mirror]]\nlocation='docker.io'\n[[registry]]\nprefix='b.example/x'\nlocation='c.example'\n[[registry]]\nlocation='no.example'\nblocked=true";
        registries.merge(text, Path::new("test")).unwrap();
        for (reference, expected) in [
            ("docker.io/busybox", "registry-1.docker.io library/busybox"),
            ("docker.io/team/app:1", "registry-1.docker.io team/app"),
            ("reg.example:5000/a/b", "reg.example:5000 a/b"),
            (
                "a.example/busybox",
                "registry-1.docker.io library/busybox, a.example busybox",
            ),
            ("b.example/x/y", "c.example y"),
        ] {
            let found = Repository::find(&registries, &reference.parse().unwrap(), false).unwrap();
            let places: Vec<_> = found
                .endpoints
                .iter()
                .map(|place| format!("{} {}", place.host, place.path))
                .collect();
            assert_eq!(places.join(", "), expected, "{reference}");
        }
        let found = Repository::find(&registries, &"docker.io/busybox".parse().unwrap(), false).unwrap();
        assert_eq!(found.endpoints[0].name(), "docker.io/library/busybox");
        assert!(matches!(
            Repository::find(&registries, &"no.example/x".parse().unwrap(), false),
            Err(RegistryError::Blocked { .. })
        ));
        assert!(matches!(
            Repository::find(&registries, &"b.example/x".parse().unwrap(), false),
            Err(RegistryError::Rewrite { .. })
        ));
    }
}

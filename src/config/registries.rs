//! registries.conf (version 2): where an image name leads, and which short names mean what.
//!
//! Source of the rules: containers-registries.conf(5) and containers-registries.conf.d(5). The main file is read first, then
//! the drop-ins in the order of their file names, the system's before the user's. A later file replaces a `[[registry]]` table
//! with the same prefix as a whole, single aliases, and each top-level key that it sets.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::folders::{Folders, read_if_open};
use crate::disk::DiskError;
use crate::types::bounds::{DROP_INS, REGISTRY_TABLES};
use crate::types::read;

/// Where the files are looked for. Every path may be absent.
#[derive(Debug, Clone, Default)]
pub struct RegistriesPlaces {
    /// A file named explicitly; it replaces the system's and the user's main file.
    pub file: Option<PathBuf>,
    /// `/etc/containers`: holds `registries.conf` and `registries.conf.d/`.
    pub system: Option<PathBuf>,
    /// `~/.config/containers`: a `registries.conf` here hides everything of the system's, drop-ins here are added.
    pub user: Option<PathBuf>,
    /// The file where podman remembers answers about short names; its aliases win.
    pub remembered_aliases: Option<PathBuf>,
}

impl RegistriesPlaces {
    /// The usual places. A file that is named (agent.toml, `CONTAINERS_REGISTRIES_CONF`) replaces the main files.
    pub fn usual(named: Option<&Path>, user: &Folders) -> Self {
        Self {
            file: named.map(Path::to_owned),
            system: Some("/etc/containers".into()),
            user: user.config.clone(),
            remembered_aliases: user.cache.as_ref().map(|dir| dir.join("short-name-aliases.conf")),
        }
    }
}

/// All that the files say, merged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registries {
    registries: Vec<Registry>,
    search: Vec<String>,
    aliases: BTreeMap<String, String>,
    credential_helpers: Vec<String>,
    insecure: Vec<String>,
}

/// One `[[registry]]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// The names that the table is for: `host[:port][/path…]` or `*.domain`.
    pub prefix: String,
    /// What replaces the prefix; `None` leaves the name as it is.
    pub location: Option<String>,
    /// Unverified TLS and plain HTTP are allowed.
    pub insecure: bool,
    /// Names below the prefix are refused.
    pub blocked: bool,
    /// Mirrors are only asked for references with a digest.
    pub mirror_by_digest_only: bool,
    /// Tried in this order before the location.
    pub mirrors: Vec<Mirror>,
}

/// One `[[registry.mirror]]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// What replaces the registry's prefix.
    pub location: String,
    /// Unverified TLS and plain HTTP are allowed.
    pub insecure: bool,
    /// Which references it serves.
    pub pull: PullFromMirror,
}

/// `pull-from-mirror`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PullFromMirror {
    /// Tags and digests.
    #[default]
    All,
    /// References with a digest.
    DigestOnly,
    /// References without a digest.
    TagOnly,
}

/// One place where a repository may be fetched from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// `host[:port]/path…`, without tag and digest.
    pub repository: String,
    /// Unverified TLS and plain HTTP are allowed.
    pub insecure: bool,
    /// It is a mirror, not the place itself.
    pub mirror: bool,
}

/// What the files say about a name without a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShortName {
    /// An alias names the repository.
    Alias(String),
    /// The registries of `unqualified-search-registries`, in order; with more than one the name is ambiguous, with none unknown.
    Search(Vec<String>),
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistriesError {
    /// A file exists and cannot be read.
    #[error("registries.conf: {0}")]
    File(#[from] DiskError),
    /// A file that was named explicitly does not exist.
    #[error("registries.conf: `{}` does not exist", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file is not TOML or has a value of the wrong type.
    #[error("registries.conf: `{}` is not valid: {detail}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and cause.
        detail: String,
    },
    /// A value that makes no sense.
    #[error("registries.conf: `{}`: {detail}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Which value, and what is wrong with it.
        detail: String,
    },
    /// More than this program reads.
    #[error("registries.conf: `{}` has more than {limit} {what}", path.display())]
    TooMuch {
        /// The file or folder.
        path: PathBuf,
        /// What is counted.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
}

impl Registries {
    /// Reads and merges all files of `places`; files that do not exist say nothing.
    pub fn load(places: &RegistriesPlaces) -> Result<Self, RegistriesError> {
        let mut all = Self::default();
        let user_file = places.user.as_ref().map(|dir| dir.join("registries.conf"));
        let main;
        let mut folders = Vec::new();
        if places.file.is_some() {
            main = places.file.clone();
        } else if let Some(file) = user_file.filter(|file| file.exists()) {
            main = Some(file);
        } else {
            main = places.system.as_ref().map(|dir| dir.join("registries.conf"));
            folders.extend(places.system.as_deref());
        }
        if places.file.is_some() {
            folders.extend(places.system.as_deref());
        }
        folders.extend(places.user.as_deref());
        if let Some(path) = main {
            match read_text(&path)? {
                Some(text) => all.merge(&text, &path)?,
                None if places.file.is_some() => return Err(RegistriesError::Missing { path }),
                None => {}
            }
        }
        for folder in folders {
            for path in drop_ins(&folder.join("registries.conf.d"))? {
                if let Some(text) = read_text(&path)? {
                    all.merge(&text, &path)?;
                }
            }
        }
        if let Some(path) = &places.remembered_aliases
            && let Some(text) = read_text(path)?
        {
            all.merge(&text, path)?;
        }
        Ok(all)
    }

    /// Allows unverified TLS and plain HTTP to these hosts (`HOST[:PORT]`), whatever the files say.
    pub fn allow_insecure(&mut self, hosts: &[String]) {
        self.insecure.extend(hosts.iter().cloned());
    }

    /// Adds what `text` says to what is known; `path` is named in errors.
    pub fn merge(&mut self, text: &str, path: &Path) -> Result<(), RegistriesError> {
        let raw: RawFile = read::toml(text).map_err(|error| RegistriesError::Syntax {
            path: path.to_owned(),
            detail: error.to_string().trim_end().to_owned(),
        })?;
        if raw.registries.is_some() {
            return Err(value(
                path,
                "version 1 tables (`[registries.…]`) are not read; write `[[registry]]` tables".into(),
            ));
        }
        if let Some(search) = raw.unqualified_search_registries {
            self.search = search
                .iter()
                .map(|entry| location(entry, path))
                .collect::<Result<_, _>>()?;
        }
        if let Some(helpers) = raw.credential_helpers {
            self.credential_helpers = helpers;
        }
        if let Some(mode) = raw.short_name_mode
            && !matches!(mode.as_str(), "enforcing" | "permissive" | "disabled")
        {
            return Err(value(
                path,
                format!("`short-name-mode` is `{mode}`; it may be `enforcing`, `permissive` or `disabled`"),
            ));
        }
        for (short, full) in raw.aliases {
            if short.contains([':', '@']) {
                return Err(value(path, format!("alias `{short}` has a tag or a digest")));
            }
            if full.is_empty() {
                self.aliases.remove(&short);
                continue;
            }
            let has_host = full
                .split_once('/')
                .is_some_and(|(host, _)| host.contains(['.', ':']) || host == "localhost");
            if !has_host {
                return Err(value(
                    path,
                    format!("alias `{short}` leads to `{full}`, which names no registry"),
                ));
            }
            self.aliases.insert(short, full);
        }
        for table in raw.registry {
            let entry = registry(table, path)?;
            match self.registries.iter_mut().find(|known| known.prefix == entry.prefix) {
                Some(known) => *known = entry,
                None => self.registries.push(entry),
            }
        }
        if self.registries.len() > REGISTRY_TABLES || self.aliases.len() > REGISTRY_TABLES {
            return Err(RegistriesError::TooMuch {
                path: path.to_owned(),
                what: "registries or aliases",
                limit: REGISTRY_TABLES as u64,
            });
        }
        Ok(())
    }

    /// The table with the longest prefix that `name` (`host[:port]/path…[:tag][@digest]`, or a bare host) falls under.
    pub fn find(&self, name: &str) -> Option<&Registry> {
        self.registries
            .iter()
            .filter(|entry| matched(name, &entry.prefix).is_some())
            .max_by_key(|entry| entry.prefix.len())
    }

    /// Where `repository` (`host[:port]/path…`) may be fetched from, best first; the last one is the place itself.
    ///
    /// `digested` says whether a digest is asked for. `Err` is the prefix of the table that blocks the name.
    pub fn sources(&self, repository: &str, digested: bool) -> Result<Vec<Source>, String> {
        let source = |repository: String, insecure: bool, mirror: bool| {
            let allowed = repository
                .split('/')
                .next()
                .is_some_and(|host| self.insecure.iter().any(|known| known == host));
            Source {
                repository,
                insecure: insecure || allowed,
                mirror,
            }
        };
        let Some(entry) = self.find(repository) else {
            return Ok(vec![source(repository.to_owned(), false, false)]);
        };
        if entry.blocked {
            return Err(entry.prefix.clone());
        }
        let end = matched(repository, &entry.prefix).unwrap_or(0);
        let rewrite = |location: &str| format!("{location}{}", &repository[end..]);
        let mut sources: Vec<Source> = entry
            .mirrors
            .iter()
            .filter(|mirror| match (entry.mirror_by_digest_only, mirror.pull) {
                (true, _) | (false, PullFromMirror::DigestOnly) => digested,
                (false, PullFromMirror::TagOnly) => !digested,
                (false, PullFromMirror::All) => true,
            })
            .map(|mirror| source(rewrite(&mirror.location), mirror.insecure, true))
            .collect();
        let itself = entry.location.as_deref().map_or_else(|| repository.to_owned(), rewrite);
        sources.push(source(itself, entry.insecure, false));
        Ok(sources)
    }

    /// Whether `host[:port]` may be spoken to without verified TLS, as itself or as somebody's mirror or location.
    pub fn insecure(&self, host: &str) -> bool {
        let of = |location: &str| location.split('/').next() == Some(host);
        self.insecure.iter().any(|known| known == host)
            || self
                .find(host)
                .is_some_and(|entry| entry.insecure && entry.location.as_deref().is_none_or(of))
            || self.registries.iter().any(|entry| {
                (entry.insecure && entry.location.as_deref().is_some_and(of))
                    || entry
                        .mirrors
                        .iter()
                        .any(|mirror| mirror.insecure && of(&mirror.location))
            })
    }

    /// What a name without a registry (`busybox`, `library/busybox`; no tag, no digest) means.
    pub fn short_name(&self, name: &str) -> ShortName {
        match self.aliases.get(name) {
            Some(full) => ShortName::Alias(full.clone()),
            None => ShortName::Search(self.search.clone()),
        }
    }

    /// `unqualified-search-registries`, in order.
    pub fn search(&self) -> &[String] {
        &self.search
    }

    /// All `[[registry]]` tables.
    pub fn tables(&self) -> &[Registry] {
        &self.registries
    }

    /// `credential-helpers`, in order; empty where nothing is said.
    pub fn credential_helpers(&self) -> &[String] {
        &self.credential_helpers
    }
}

/// The length of the part of `name` that `prefix` stands for, or `None` where the prefix does not match.
fn matched(name: &str, prefix: &str) -> Option<usize> {
    let end = if let Some(domain) = prefix.strip_prefix("*.") {
        let host_end = name.find(['/', '@']).unwrap_or(name.len());
        let host = &name[..host_end];
        let host = match host.rsplit_once(':') {
            Some((host, _)) if !domain.contains(':') => host,
            _ => host,
        };
        let front = host.strip_suffix(domain)?;
        if front.len() < 2 || !front.ends_with('.') {
            return None;
        }
        host.len()
    } else {
        name.strip_prefix(prefix)?;
        prefix.len()
    };
    match name.as_bytes().get(end) {
        None | Some(b'/' | b':' | b'@') => Some(end),
        Some(_) => None,
    }
}

fn registry(raw: RawRegistry, path: &Path) -> Result<Registry, RegistriesError> {
    let mut place = raw.location.as_deref().map(|text| location(text, path)).transpose()?;
    let prefix = match raw.prefix.as_deref().filter(|text| !text.is_empty()) {
        Some(text) => location(text, path)?,
        None => place.clone().ok_or_else(|| {
            value(
                path,
                "a `[[registry]]` table has neither `prefix` nor `location`".into(),
            )
        })?,
    };
    if let Some(domain) = prefix.strip_prefix("*.") {
        if domain.is_empty() || domain.contains(['*', '/']) {
            return Err(value(
                path,
                format!("prefix `{prefix}`: a wildcard is written `*.domain`"),
            ));
        }
        if place.as_deref() == Some(prefix.as_str()) {
            place = None;
        }
    } else if prefix.contains('*') {
        return Err(value(
            path,
            format!("prefix `{prefix}`: a wildcard is written `*.domain`"),
        ));
    } else if place.is_none() {
        return Err(value(path, format!("prefix `{prefix}` has no `location`")));
    }
    let mut mirrors = Vec::with_capacity(raw.mirror.len().min(REGISTRY_TABLES));
    for mirror in raw.mirror {
        if raw.mirror_by_digest_only && mirror.pull_from_mirror != PullFromMirror::All {
            return Err(value(
                path,
                format!("prefix `{prefix}` sets both `mirror-by-digest-only` and `pull-from-mirror`"),
            ));
        }
        mirrors.push(Mirror {
            location: location(&mirror.location, path)?,
            insecure: mirror.insecure,
            pull: mirror.pull_from_mirror,
        });
    }
    if mirrors.len() > REGISTRY_TABLES {
        return Err(RegistriesError::TooMuch {
            path: path.to_owned(),
            what: "mirrors",
            limit: REGISTRY_TABLES as u64,
        });
    }
    Ok(Registry {
        prefix,
        location: place,
        insecure: raw.insecure,
        blocked: raw.blocked,
        mirror_by_digest_only: raw.mirror_by_digest_only,
        mirrors,
    })
}

/// A host with an optional path; schemes, white space and empty names are refused, slashes at the end dropped.
fn location(text: &str, path: &Path) -> Result<String, RegistriesError> {
    let trimmed = text.trim_end_matches('/');
    if trimmed.is_empty() {
        return Err(value(path, "a registry's name is empty".into()));
    }
    if trimmed.contains("://") {
        return Err(value(path, format!("`{text}` has a URI scheme; write the host alone")));
    }
    if trimmed
        .chars()
        .any(|c| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#' | '@' | '\\'))
    {
        return Err(value(
            path,
            format!("`{}` is not a registry's name", text.escape_debug()),
        ));
    }
    Ok(trimmed.to_owned())
}

fn value(path: &Path, detail: String) -> RegistriesError {
    RegistriesError::Value {
        path: path.to_owned(),
        detail,
    }
}

/// The text of a small file; `None` where it does not exist.
fn read_text(path: &Path) -> Result<Option<String>, RegistriesError> {
    let Some(bytes) = read_if_open(path)? else {
        return Ok(None);
    };
    let text = String::from_utf8(bytes);
    text.map(Some).map_err(|_| RegistriesError::Syntax {
        path: path.to_owned(),
        detail: "it is not UTF-8".into(),
    })
}

/// The `*.conf` files of a folder in the order of their names.
fn drop_ins(folder: &Path) -> Result<Vec<PathBuf>, RegistriesError> {
    let read = |source| DiskError::Io {
        action: "read",
        path: folder.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(read(error).into()),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(read)?.path();
        if path.extension().is_some_and(|extension| extension == "conf") {
            paths.push(path);
        }
        if paths.len() > DROP_INS {
            return Err(RegistriesError::TooMuch {
                path: folder.to_owned(),
                what: "files",
                limit: DROP_INS as u64,
            });
        }
    }
    paths.sort();
    Ok(paths)
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawFile {
    unqualified_search_registries: Option<Vec<String>>,
    credential_helpers: Option<Vec<String>>,
    short_name_mode: Option<String>,
    #[serde(default)]
    registry: Vec<RawRegistry>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    registries: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawRegistry {
    prefix: Option<String>,
    location: Option<String>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<RawMirror>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawMirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    pull_from_mirror: PullFromMirror,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parsed(text: &str) -> Result<Registries, RegistriesError> {
        let mut all = Registries::default();
        all.merge(text, Path::new("registries.conf")).map(|()| all)
    }

    const FULL: &str = r#"
        unqualified-search-registries = ["docker.io", "quay.io"]
        short-name-mode = "enforcing"
        credential-helpers = ["containers-auth.json", "secretservice"]

        [[registry]]
        prefix = "example.com/foo"
        location = "internal.example/bar"
        [[registry.mirror]]
        location = "mirror-0.local/mirror-for-foo"
        [[registry.mirror]]
        location = "mirror-1.local:5000/foo"
        insecure = true
        pull-from-mirror = "digest-only"
        [[registry.mirror]]
        location = "mirror-2.local"
        pull-from-mirror = "tag-only"

        [[registry]]
        location = "example.com"

        [[registry]]
        location = "bad.example"
        blocked = true

        [[registry]]
        prefix = "*.corp.example"
        insecure = true

        [[registry]]
        prefix = "*.cdn.example"
        location = "proxy.example/cdn"

        [[registry]]
        location = "local.example:5000"
        insecure = true

        [aliases]
        "busybox" = "registry.example/library/busybox"
        "team/app" = "localhost/team/app"
    "#;

    #[test]
    fn names_lead_to_mirrors_in_order_and_then_to_the_place_itself() {
        let all = parsed(FULL).unwrap();
        let cases: &[(&str, bool, &[&str])] = &[
            (
                "example.com/foo/app",
                true,
                &[
                    "mirror-0.local/mirror-for-foo/app",
                    "mirror-1.local:5000/foo/app!",
                    "internal.example/bar/app",
                ],
            ),
            (
                "example.com/foo/app",
                false,
                &[
                    "mirror-0.local/mirror-for-foo/app",
                    "mirror-2.local/app",
                    "internal.example/bar/app",
                ],
            ),
            (
                "example.com/foo",
                true,
                &[
                    "mirror-0.local/mirror-for-foo",
                    "mirror-1.local:5000/foo!",
                    "internal.example/bar",
                ],
            ),
            ("example.com/foobar", true, &["example.com/foobar"]),
            ("example.com.evil/foo", true, &["example.com.evil/foo"]),
            ("a.corp.example/x", false, &["a.corp.example/x!"]),
            ("a.b.corp.example:5000/x", false, &["a.b.corp.example:5000/x!"]),
            ("corp.example/x", false, &["corp.example/x"]),
            ("xcorp.example/x", false, &["xcorp.example/x"]),
            ("other.example/a.corp.example", false, &["other.example/a.corp.example"]),
            ("one.cdn.example/x/y", false, &["proxy.example/cdn/x/y"]),
            ("local.example:5000/x", false, &["local.example:5000/x!"]),
            ("local.example/x", false, &["local.example/x"]),
            ("unlisted.example/x", false, &["unlisted.example/x"]),
        ];
        for (name, digested, expected) in cases {
            let got: Vec<String> = all
                .sources(name, *digested)
                .unwrap()
                .into_iter()
                .map(|source| format!("{}{}", source.repository, if source.insecure { "!" } else { "" }))
                .collect();
            assert_eq!(&got, expected, "{name} digested={digested}");
        }
        assert_eq!(all.sources("bad.example/x", false), Err("bad.example".to_owned()));
        assert_eq!(all.credential_helpers(), ["containers-auth.json", "secretservice"]);
    }

    #[test]
    fn mirrors_by_digest_only_are_left_out_for_tags() {
        let all = parsed(
            "[[registry]]\nlocation='a.example'\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation='m.example'",
        )
        .unwrap();
        assert_eq!(all.sources("a.example/x", true).unwrap().len(), 2);
        assert_eq!(all.sources("a.example/x", false).unwrap().len(), 1);
    }

    #[test]
    fn insecure_hosts_are_those_that_a_table_names() {
        let mut all = parsed(FULL).unwrap();
        assert!(!all.insecure("lan:5000") && !all.sources("lan:5000/x", false).unwrap()[0].insecure);
        all.allow_insecure(&["lan:5000".to_owned(), "internal.example".to_owned()]);
        assert!(all.insecure("lan:5000") && all.sources("lan:5000/x", false).unwrap()[0].insecure);
        assert!(all.sources("example.com/foo/x", false).unwrap()[2].insecure);
        for (host, expected) in [
            ("local.example:5000", true),
            ("local.example", false),
            ("mirror-1.local:5000", true),
            ("mirror-0.local", false),
            ("a.corp.example", true),
            ("example.com", false),
        ] {
            assert_eq!(all.insecure(host), expected, "{host}");
        }
    }

    #[test]
    fn short_names_are_aliases_or_the_search_list() {
        let all = parsed(FULL).unwrap();
        assert_eq!(
            all.short_name("busybox"),
            ShortName::Alias("registry.example/library/busybox".into())
        );
        assert_eq!(
            all.short_name("team/app"),
            ShortName::Alias("localhost/team/app".into())
        );
        assert_eq!(
            all.short_name("nginx"),
            ShortName::Search(vec!["docker.io".into(), "quay.io".into()])
        );
        assert_eq!(Registries::default().short_name("nginx"), ShortName::Search(vec![]));
    }

    #[test]
    fn mistakes_are_refused_with_the_value_named() {
        for (text, word) in [
            ("[[registry]]\ninsecure = true", "neither"),
            ("[[registry]]\nprefix = 'a.example'", "no `location`"),
            ("[[registry]]\nlocation = 'https://a.example'", "scheme"),
            ("[[registry]]\nlocation = 'a b'", "not a registry's name"),
            ("[[registry]]\nprefix = 'a.*.example'\nlocation = 'b'", "wildcard"),
            ("[[registry]]\nprefix = '*.'", "wildcard"),
            (
                "[[registry]]\nlocation = 'a'\n[[registry.mirror]]\nlocation = 'b'\npull-from-mirror = 'sometimes'",
                "sometimes",
            ),
            (
                "[[registry]]\nlocation = 'a'\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = 'b'\npull-from-mirror = 'tag-only'",
                "both",
            ),
            ("short-name-mode = 'perhaps'", "perhaps"),
            ("[aliases]\nx = 'y'", "no registry"),
            ("[aliases]\n'x:1' = 'a.example/y'", "tag or a digest"),
            ("[registries.search]\nregistries = ['docker.io']", "version 1"),
            ("unqualified-search-registries = 'docker.io'", "not valid"),
        ] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn drop_ins_replace_tables_by_prefix_and_the_user_comes_last() {
        let scratch = std::env::temp_dir().join(format!("dunlin-registries-{}", std::process::id()));
        let (system, user) = (scratch.join("etc"), scratch.join("home"));
        for folder in [&system, &user] {
            std::fs::create_dir_all(folder.join("registries.conf.d")).unwrap();
        }
        let write = |path: PathBuf, text: &str| std::fs::write(path, text).unwrap();
        write(
            system.join("registries.conf"),
            "unqualified-search-registries=['one.example']\n[[registry]]\nlocation='a.example'",
        );
        write(
            system.join("registries.conf.d/10.conf"),
            "[[registry]]\nlocation='a.example'\ninsecure=true\n[aliases]\nx='a.example/x'\ny='a.example/y'",
        );
        write(system.join("registries.conf.d/ignored.txt"), "this is not TOML");
        write(
            user.join("registries.conf.d/20.conf"),
            "unqualified-search-registries=['two.example']\n[aliases]\nx=''",
        );
        let places = RegistriesPlaces {
            system: Some(system),
            user: Some(user.clone()),
            ..Default::default()
        };
        let all = Registries::load(&places).unwrap();
        assert!(all.insecure("a.example"));
        assert_eq!(all.search(), ["two.example"]);
        assert_eq!(all.short_name("x"), ShortName::Search(vec!["two.example".into()]));
        assert_eq!(all.short_name("y"), ShortName::Alias("a.example/y".into()));

        write(user.join("registries.conf"), "[[registry]]\nlocation='b.example'");
        let all = Registries::load(&places).unwrap();
        assert!(!all.insecure("a.example"), "the user's file hides the system's");
        assert_eq!(all.tables().len(), 1);

        let places = RegistriesPlaces {
            file: Some(scratch.join("absent.conf")),
            ..Default::default()
        };
        assert!(matches!(
            Registries::load(&places),
            Err(RegistriesError::Missing { .. })
        ));
        std::fs::remove_dir_all(&scratch).unwrap();
    }
}

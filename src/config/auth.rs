//! auth.json: who we are to which registry.
//!
//! Source of the rules: containers-auth.json(5) and Docker's config.json. Keys are `host[:port]` or `host[:port]/path`; the most
//! specific key wins, and the first file that has one. Docker's keys with scheme and path (`https://host/v1/`) count as the host.

use crate::types::sorted::Sorted;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::folders::{Folders, read_if_open};
use crate::disk::{DiskError, durable};
use crate::types::base64;
use crate::types::bounds::ECOSYSTEM_FILE_BYTES;
use crate::types::read::{self as parse, Malformed};

/// Where credentials are looked for.
#[derive(Debug, Clone, Default)]
pub struct AuthPlaces {
    /// Credentials that are in no file, by the same keys; they are asked first.
    pub given: Sorted<String, Credential>,
    /// The files in the order in which they are asked; `login` writes to the first.
    pub files: Vec<PathBuf>,
}

/// How to identify at a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// User name and password.
    Basic {
        /// The user's name; has no colon.
        user: String,
        /// The password, or a token that is used as one.
        password: String,
    },
    /// An OAuth2 refresh token that is given to the token server.
    IdentityToken {
        /// The token.
        token: String,
    },
    /// A program `docker-credential-NAME` knows.
    Helper {
        /// `NAME`.
        name: String,
        /// What it is asked for.
        server: String,
    },
}

/// Why credentials cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The file cannot be read or written.
    #[error("credentials: {0}")]
    File(#[from] DiskError),
    /// The file is not what it should be. The text of the file is not repeated.
    #[error("credentials: `{}` is not valid: {detail}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        detail: String,
    },
    /// An entry cannot be decoded.
    #[error("credentials: the entry `{key}` of `{}` is not `user:password` in base64; log in again", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The entry's key.
        key: String,
    },
    /// A user name that cannot be stored.
    #[error("credentials: a user name may not be empty, contain a colon or a control character")]
    User,
    /// There is nothing to remove.
    #[error("not logged into {registry}")]
    NotLoggedIn {
        /// The registry.
        registry: String,
    },
    /// There is no place to write to.
    #[error("credentials: there is no place to store them; name a file with `--authfile` or `REGISTRY_AUTH_FILE`")]
    NoPlace,
}

impl AuthPlaces {
    /// The places of containers-auth.json(5), in order. A file that is named (`--authfile`, `REGISTRY_AUTH_FILE`) replaces
    /// all others.
    pub fn usual(named: Option<&Path>, folders: &Folders) -> Self {
        if let Some(file) = named {
            return Self {
                files: vec![file.to_owned()],
                ..Self::default()
            };
        }
        let places = [
            folders.run.as_ref().map(|dir| dir.join("auth.json")),
            folders.config.as_ref().map(|dir| dir.join("auth.json")),
            folders.docker.as_ref().map(|dir| dir.join("config.json")),
        ];
        Self {
            files: places.into_iter().flatten().collect(),
            ..Self::default()
        }
    }

    /// The credential for `repository` (`host[:port][/path…]`); `None` where no file has one.
    pub fn find(&self, repository: &str) -> Result<Option<Credential>, AuthError> {
        if let Some(found) = keys(repository).find_map(|key| self.given.get(key)) {
            return Ok(Some(found.clone()));
        }
        for path in &self.files {
            if let Some(file) = read(path)?
                && let Some(found) = file.find(repository, path)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The helper that the file to be written to names for a registry: `docker-credential-NAME`, and what it is asked for.
    pub fn helper(&self, registry: &str) -> Result<Option<(String, String)>, AuthError> {
        // A helper knows hosts, not paths below them.
        let Some(path) = self.own().next().filter(|_| !registry.contains('/')) else {
            return Ok(None);
        };
        Ok(read(path)?.and_then(|file| file.helper(registry)))
    }

    /// Whether a credential may be stored for this user name.
    pub fn check_user(user: &str) -> Result<(), AuthError> {
        if user.is_empty() || user.contains(|c: char| c == ':' || c.is_control()) {
            return Err(AuthError::User);
        }
        Ok(())
    }

    /// Stores a credential in the first file that can be written, readable by its owner alone; what else the file holds is
    /// kept. The run-time folder of a user who never logs in cannot be made by that user: then the next place is taken.
    pub fn store(&self, registry: &str, user: &str, password: &str) -> Result<PathBuf, AuthError> {
        Self::check_user(user)?;
        let mut refused = None;
        for path in self.own() {
            match Self::store_in(path, registry, user, password) {
                Ok(()) => return Ok(path.to_owned()),
                Err(AuthError::File(error)) if error.is_denied() => refused = refused.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(refused.map_or(AuthError::NoPlace, AuthError::File))
    }

    fn store_in(path: &Path, registry: &str, user: &str, password: &str) -> Result<(), AuthError> {
        let mut document = read_document(path)?;
        let entry = Map::from_iter([(
            "auth".to_owned(),
            Value::String(base64::encode(format!("{user}:{password}").as_bytes())),
        )]);
        auths(&mut document, path)?.insert(registry.to_owned(), Value::Object(entry));
        write(path, &document)
    }

    /// Removes the credential with the key `registry` from every file but Docker's.
    pub fn remove(&self, registry: &str) -> Result<(), AuthError> {
        let same = |key: &str| key == registry || (key.contains("://") && host_of(key) == canonical(registry));
        if self.discard(same)? == 0 {
            return Err(AuthError::NotLoggedIn {
                registry: registry.to_owned(),
            });
        }
        Ok(())
    }

    /// Removes all credentials from every file but Docker's.
    pub fn remove_all(&self) -> Result<(), AuthError> {
        self.discard(|_| true).map(drop)
    }

    /// Removes entries; gives their number.
    fn discard(&self, which: impl Fn(&str) -> bool) -> Result<usize, AuthError> {
        let mut gone = 0;
        for path in self.own() {
            if read(path)?.is_none() {
                continue;
            }
            let mut document = read_document(path)?;
            let entries = auths(&mut document, path)?;
            let before = entries.len();
            entries.retain(|key, _| !which(key));
            let less = before - entries.len();
            if less > 0 {
                write(path, &document)?;
            }
            gone += less;
        }
        Ok(gone)
    }

    /// The files that are ours to change: Docker's is read alone, unless it was named.
    fn own(&self) -> impl Iterator<Item = &Path> {
        let named = self.files.len() == 1;
        let own = move |path: &&PathBuf| named || path.file_name().is_none_or(|name| name != "config.json");
        self.files.iter().filter(own).map(PathBuf::as_path)
    }
}

#[derive(Deserialize)]
struct AuthFile {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: String,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
}

impl AuthFile {
    fn find(&self, repository: &str, path: &Path) -> Result<Option<Credential>, AuthError> {
        let host = repository.split('/').next().unwrap_or(repository);
        if self.helpers.get(host).is_some_and(|name| is_helper(name)) {
            return Ok(self.asked(host));
        }
        for key in keys(repository) {
            if let Some(entry) = self.auths.get(key)
                && let Some(found) = entry.credential(key, path)?
            {
                return Ok(Some(found));
            }
        }
        for (key, entry) in &self.auths {
            if host_of(key) == canonical(host) && key.contains("://")
                || (!key.contains('/') && canonical(key) == canonical(host))
            {
                return entry.credential(key, path);
            }
        }
        Ok(self.asked(host))
    }

    fn asked(&self, host: &str) -> Option<Credential> {
        let (name, server) = self.helper(host)?;
        Some(Credential::Helper { name, server })
    }

    /// The helper for a host, and what it is asked for.
    fn helper(&self, host: &str) -> Option<(String, String)> {
        if let Some(name) = self.helpers.get(host).filter(|name| is_helper(name)) {
            return Some((name.clone(), host.to_owned()));
        }
        let server = if canonical(host) == "docker.io" {
            "https://index.docker.io/v1/"
        } else {
            host
        };
        is_helper(&self.store).then(|| (self.store.clone(), server.to_owned()))
    }
}

impl Entry {
    fn credential(&self, key: &str, path: &Path) -> Result<Option<Credential>, AuthError> {
        if !self.identity_token.is_empty() {
            return Ok(Some(Credential::IdentityToken {
                token: self.identity_token.clone(),
            }));
        }
        if self.auth.is_empty() {
            if self.username.is_empty() {
                return Ok(None);
            }
            return Ok(Some(Credential::Basic {
                user: self.username.clone(),
                password: self.password.clone(),
            }));
        }
        let error = || AuthError::Entry {
            path: path.to_owned(),
            key: key.to_owned(),
        };
        let decoded = base64::decode(self.auth.trim()).ok_or_else(error)?;
        let text = String::from_utf8(decoded).map_err(|_| error())?;
        let (user, password) = text.split_once(':').ok_or_else(error)?;
        // Docker pads passwords with zero bytes.
        let password = password.trim_end_matches('\0');
        Ok(Some(Credential::Basic {
            user: user.to_owned(),
            password: password.to_owned(),
        }))
    }
}

/// `host/a/b`, `host/a`, `host`.
fn keys(repository: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(repository), |key| key.rsplit_once('/').map(|(shorter, _)| shorter))
}

/// The host of a key that may be a URL.
fn host_of(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    canonical(rest.split('/').next().unwrap_or(rest))
}

/// Docker Hub has several names.
fn canonical(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    }
}

/// A helper's name becomes part of a program's name: no path, no option.
fn is_helper(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && !name.starts_with(['-', '.'])
}

fn read(path: &Path) -> Result<Option<AuthFile>, AuthError> {
    match read_if_open(path)? {
        None => Ok(None),
        Some(bytes) if bytes.trim_ascii().is_empty() => Ok(None),
        Some(bytes) => parse::json(&bytes).map(Some).map_err(|error| json_error(path, &error)),
    }
}

fn read_document(path: &Path) -> Result<Map<String, Value>, AuthError> {
    match durable::read_optional(path, ECOSYSTEM_FILE_BYTES)? {
        None => Ok(Map::new()),
        Some(bytes) if bytes.trim_ascii().is_empty() => Ok(Map::new()),
        Some(bytes) => match parse::json_any(&bytes).map_err(|error| json_error(path, &error))? {
            Value::Object(document) => Ok(document),
            _ => Err(syntax(path, "not a JSON object".into())),
        },
    }
}

fn auths<'a>(document: &'a mut Map<String, Value>, path: &Path) -> Result<&'a mut Map<String, Value>, AuthError> {
    let entry = document.entry("auths").or_insert_with(|| Value::Object(Map::new()));
    entry
        .as_object_mut()
        .ok_or_else(|| syntax(path, "`auths` is not an object".into()))
}

/// The place of a mistake without the text, which may be a secret.
fn json_error(path: &Path, error: &Malformed) -> AuthError {
    let place = match error.problem.rfind(" at line ") {
        _ if !error.field.is_empty() => format!(" at `{}`", error.field),
        Some(at) => error.problem[at..].to_owned(),
        None => String::new(),
    };
    syntax(path, format!("not the expected JSON{place}"))
}

fn syntax(path: &Path, detail: String) -> AuthError {
    AuthError::Syntax {
        path: path.to_owned(),
        detail,
    }
}

/// Replaces the file in one step; it and a new folder are for the owner alone.
fn write(path: &Path, document: &Map<String, Value>) -> Result<(), AuthError> {
    // A link is followed, so that a file kept elsewhere is changed where it is.
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if let Some(folder) = target.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        durable::create_dirs(folder)?;
    }
    let mut text = serde_json::to_vec_pretty(document).map_err(|error| syntax(path, error.to_string()))?;
    text.push(b'\n');
    Ok(durable::write(&target, &text)?)
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { user, .. } => f.debug_struct("Basic").field("user", user).finish_non_exhaustive(),
            Self::IdentityToken { .. } => f.debug_struct("IdentityToken").finish_non_exhaustive(),
            Self::Helper { name, server } => f
                .debug_struct("Helper")
                .field("name", name)
                .field("server", server)
                .finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn basic(user: &str, password: &str) -> Option<Credential> {
        Some(Credential::Basic {
            user: user.into(),
            password: password.into(),
        })
    }

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("dunlin-auth-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn the_most_specific_key_wins_and_the_first_file() {
        let dir = scratch("keys");
        let b64 = |text: &str| base64::encode(text.as_bytes());
        let one = format!(
            r#"{{"auths":{{"reg.example/team/app":{{"auth":"{}"}},"reg.example/team":{{"auth":"{}"}},"reg.example":{{"auth":"{}"}},
              "https://index.docker.io/v1/":{{"auth":"{}"}},"empty.example":{{}},"token.example":{{"identitytoken":"it"}}}},
              "credHelpers":{{"helped.example":"pass","evil.example":"../../bin/sh"}}}}"#,
            b64("app:1"),
            b64("team:2"),
            b64("host:3:4"),
            b64("hub:5\0\0"),
        );
        let two = format!(
            r#"{{"auths":{{"reg.example":{{"auth":"{0}"}},"second.example:5000":{{"auth":"{0}"}}}}}}"#,
            b64("second:x")
        );
        std::fs::write(dir.join("one.json"), one).unwrap();
        std::fs::write(dir.join("two.json"), two).unwrap();
        std::fs::write(dir.join("empty.json"), "").unwrap();
        let files = ["absent.json", "empty.json", "one.json", "two.json"]
            .map(|name| dir.join(name))
            .to_vec();
        let places = AuthPlaces {
            files,
            ..Default::default()
        };
        for (repository, expected) in [
            ("reg.example/team/app", basic("app", "1")),
            ("reg.example/team/app/sub", basic("app", "1")),
            ("reg.example/team/other", basic("team", "2")),
            ("reg.example/teamwork", basic("host", "3:4")),
            ("reg.example", basic("host", "3:4")),
            ("docker.io/library/busybox", basic("hub", "5")),
            ("second.example:5000/x", basic("second", "x")),
            ("second.example/x", None),
            ("empty.example/x", None),
            ("evil.example/x", None),
            (
                "token.example/x",
                Some(Credential::IdentityToken { token: "it".into() }),
            ),
            (
                "helped.example/x",
                Some(Credential::Helper {
                    name: "pass".into(),
                    server: "helped.example".into(),
                }),
            ),
            ("unknown.example/x", None),
        ] {
            assert_eq!(places.find(repository).unwrap(), expected, "{repository}");
        }
        let given = Sorted::from_iter([("reg.example/team".to_owned(), basic("given", "9").unwrap())]);
        let with = AuthPlaces {
            given,
            ..places.clone()
        };
        assert_eq!(with.find("reg.example/team/app").unwrap(), basic("given", "9"));
        assert_eq!(with.find("reg.example").unwrap(), basic("host", "3:4"));
        let named = AuthPlaces {
            files: vec![dir.join("one.json")],
            ..Default::default()
        };
        assert_eq!(
            named.helper("helped.example").unwrap(),
            Some(("pass".to_owned(), "helped.example".to_owned()))
        );
        assert_eq!(named.helper("reg.example").unwrap(), None);
        assert_eq!(named.helper("evil.example").unwrap(), None);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn mistakes_are_named_without_the_secret() {
        let dir = scratch("bad");
        let file = dir.join("auth.json");
        let places = AuthPlaces {
            files: vec![file.clone()],
            ..Default::default()
        };
        for (text, word) in [
            (r#"{"auths":{"r.example":{"auth":"!!secret!!"}}}"#, "log in again"),
            (r#"{"auths":{"r.example":{"auth":"c2VjcmV0"}}}"#, "log in again"),
            (r#"{"auths": "secret"}"#, "`auths`"),
            ("secret", "line 1"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = places.find("r.example").unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains("secret"), "{text}: {error}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn logins_are_stored_for_the_owner_alone_and_the_rest_of_the_file_is_kept() {
        let dir = scratch("store");
        let file = dir.join("deep/auth.json");
        let places = AuthPlaces {
            files: vec![file.clone()],
            ..Default::default()
        };
        places.store("reg.example:5000", "me", "pass:word").unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            std::fs::metadata(dir.join("deep")).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert_eq!(places.find("reg.example:5000/x").unwrap(), basic("me", "pass:word"));

        let text = std::fs::read_to_string(&file).unwrap().replacen(
            '{',
            "{\"credHelpers\":{\"a.example\":\"h\"},\"other\":[1],",
            1,
        );
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        places.store("two.example", "you", "p").unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        places.remove("reg.example:5000").unwrap();
        assert_eq!(places.find("reg.example:5000").unwrap(), None);
        assert_eq!(places.find("two.example").unwrap(), basic("you", "p"));
        let value: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(
            (&value["other"][0], &value["credHelpers"]["a.example"]),
            (&Value::from(1), &Value::from("h"))
        );
        assert!(matches!(
            places.remove("reg.example:5000"),
            Err(AuthError::NotLoggedIn { .. })
        ));
        places.store("two.example/team", "team", "p").unwrap();
        places.remove("two.example").unwrap();
        assert_eq!(places.find("two.example").unwrap(), None);
        assert_eq!(places.find("two.example/team/x").unwrap(), basic("team", "p"));
        places.remove_all().unwrap();
        assert_eq!(places.find("two.example/team").unwrap(), None);
        for user in ["", "a:b", "a\nb"] {
            assert!(matches!(places.store("r", user, "p"), Err(AuthError::User)), "{user}");
        }
        assert_eq!(
            std::fs::read_dir(dir.join("deep")).unwrap().count(),
            1,
            "no temporary file stays"
        );
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_named_file_replaces_all_places() {
        let folders = Folders {
            run: Some("/run/user/1/containers".into()),
            config: Some("/home/u/.config/containers".into()),
            cache: None,
            docker: Some("/home/u/.docker".into()),
        };
        let expected = [
            "/run/user/1/containers/auth.json",
            "/home/u/.config/containers/auth.json",
            "/home/u/.docker/config.json",
        ];
        assert_eq!(AuthPlaces::usual(None, &folders).files, expected.map(PathBuf::from));
        assert_eq!(
            AuthPlaces::usual(Some(Path::new("/x")), &folders).files,
            [PathBuf::from("/x")]
        );
    }
}

//! `policy.json` (containers-policy.json(5)): which images may come in.
//!
//! `signedBy` (GPG) is understood and never fulfilled: it is refused by its name when it would decide.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::folders::Folders;
use crate::disk::{DiskError, durable};
use crate::types::bounds::{ECOSYSTEM_FILE_BYTES, POLICY_KEYS};
use crate::types::read::{self, Malformed};
use crate::types::reference::{Reference, full_path};
use crate::types::{base64, digest::Digest};

/// The host's file, for all who have none of their own.
const OF_THE_HOST: &str = "/etc/containers/policy.json";

/// Where `docker://` images come from, in the file's words.
pub const DOCKER: &str = "docker";

/// The rules.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policy {
    /// The file; none where there is no file, and everything is accepted.
    pub path: Option<PathBuf>,
    default: Vec<Rule>,
    transports: Vec<(String, Vec<Scope>)>,
}

/// A scope and its requirements.
type Scope = (String, Vec<Rule>);

/// One requirement; all of a scope must be fulfilled.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// `insecureAcceptAnything`.
    Accept,
    /// `reject`.
    Reject,
    /// `sigstoreSigned`.
    Signed(Signed),
    /// A kind that is known and not offered.
    NotOffered(String),
}

/// What a signature must be.
#[derive(Debug, Clone, PartialEq)]
pub struct Signed {
    keys: Vec<KeySource>,
    /// Whose name it must carry.
    pub identity: Identity,
}

#[derive(Debug, Clone, PartialEq)]
enum KeySource {
    File(PathBuf),
    Data(Vec<u8>),
}

/// Which `docker-reference` a signature must carry.
#[derive(Debug, Clone, PartialEq)]
pub enum Identity {
    /// `matchExact`: the reference that was asked for, with its tag.
    Exact,
    /// `matchRepoDigestOrExact`: the same; for a pinned digest the repository.
    RepoDigestOrExact,
    /// `matchRepository`.
    Repository,
    /// `exactReference`.
    ExactReference(String),
    /// `exactRepository`.
    ExactRepository(String),
    /// `remapIdentity`: another beginning, then `matchRepoDigestOrExact`.
    Remap {
        /// What references begin with.
        prefix: String,
        /// What signatures have instead.
        signed: String,
    },
}

/// Why a policy cannot be used. Nothing is pulled then.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file.
    #[error("policy: {0}")]
    Disk(#[from] DiskError),
    /// It is no policy.
    #[error("policy `{}`: {source}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Malformed,
    },
}

/// The rules of an image, and their place in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules<'a> {
    /// `default`, or `transports.docker["registry.example/app"]`.
    pub place: String,
    /// All must be fulfilled.
    pub rules: &'a [Rule],
}

impl Policy {
    /// The file that is named, else the user's, else the host's; without any, everything is accepted.
    pub fn load(named: Option<&Path>, folders: &Folders) -> Result<Policy, PolicyError> {
        if let Some(path) = named {
            return Policy::parse(&durable::read(path, ECOSYSTEM_FILE_BYTES)?, path);
        }
        let own = folders.config.as_ref().map(|dir| dir.join("policy.json"));
        for path in own.into_iter().chain([PathBuf::from(OF_THE_HOST)]) {
            // A file that is there and closed to us is an error: it may forbid.
            if let Some(text) = durable::read_optional(&path, ECOSYSTEM_FILE_BYTES)? {
                return Policy::parse(&text, &path);
            }
        }
        Ok(Policy::default())
    }

    /// Reads a file's text; unknown words are refused, since they may forbid something.
    pub fn parse(text: &[u8], path: &Path) -> Result<Policy, PolicyError> {
        let malformed = |source| PolicyError::Malformed {
            path: path.to_owned(),
            source,
        };
        let mut policy = read::json_any(text).and_then(of_value).map_err(malformed)?;
        policy.path = Some(path.to_owned());
        Ok(policy)
    }

    /// The rules for an image from a registry.
    pub fn of_reference(&self, reference: &Reference) -> Rules<'_> {
        self.of_scopes(DOCKER, &scopes(reference))
    }

    /// The rules for an image of a file or folder; `transport` is `oci`, `oci-archive`, `docker-archive` or `dir`.
    pub fn of_path(&self, transport: &str, path: &Path, tag: Option<&str>) -> Rules<'_> {
        let full = path.display().to_string();
        let tagged = tag.map(|tag| format!("{full}:{tag}"));
        let above = path.ancestors().map(|path| path.display().to_string());
        let all: Vec<String> = tagged.into_iter().chain(above).collect();
        self.of_scopes(transport, &all)
    }

    fn of_scopes(&self, transport: &str, scopes: &[String]) -> Rules<'_> {
        let of_transport = self.transports.iter().find(|(name, _)| name == transport);
        let known = of_transport.map_or(&[][..], |(_, scopes)| scopes);
        let found = scopes
            .iter()
            .map(String::as_str)
            .chain([""])
            .find_map(|scope| known.iter().find(|(name, _)| name == scope));
        match found {
            Some((scope, rules)) => Rules {
                place: format!("transports.{transport}[\"{scope}\"]"),
                rules,
            },
            None if self.path.is_none() => Rules {
                place: "default".to_owned(),
                rules: &[Rule::Accept],
            },
            None => Rules {
                place: "default".to_owned(),
                rules: &self.default,
            },
        }
    }
}

impl Rule {
    /// The word of the file.
    pub fn name(&self) -> &str {
        match self {
            Rule::Accept => "insecureAcceptAnything",
            Rule::Reject => "reject",
            Rule::Signed(_) => "sigstoreSigned",
            Rule::NotOffered(name) => name,
        }
    }
}

impl Signed {
    /// The public keys, as PEM texts.
    pub fn keys(&self) -> Result<Vec<Vec<u8>>, DiskError> {
        let read = |source: &KeySource| match source {
            KeySource::File(path) => durable::read(path, ECOSYSTEM_FILE_BYTES),
            KeySource::Data(bytes) => Ok(bytes.clone()),
        };
        self.keys.iter().map(read).collect()
    }
}

impl Identity {
    /// Whether a signature that names `signed` is one for `wanted`.
    pub fn matches(&self, wanted: &Reference, signed: &str) -> bool {
        let tagged = has_tag(signed);
        let Ok(signed) = signed.parse::<Reference>() else {
            return false;
        };
        let same_name = |wanted: &str| normal(&signed.name()) == normal(wanted);
        let exact = |name: &str| {
            let tag = wanted.tag().unwrap_or("latest");
            tagged && same_name(name) && signed.tag() == Some(tag)
        };
        let digest_or_exact = |name: &str| match wanted.digest() {
            Some(_) => same_name(name),
            None => exact(name),
        };
        match self {
            Identity::Exact => match wanted.digest() {
                Some(digest) => same_name(&wanted.name()) && signed.digest() == Some(digest),
                None => exact(&wanted.name()),
            },
            Identity::RepoDigestOrExact => digest_or_exact(&wanted.name()),
            Identity::Repository => same_name(&wanted.name()),
            Identity::ExactReference(text) => text.parse::<Reference>().is_ok_and(|exact| {
                same_name(&exact.name()) && exact.tag() == signed.tag() && exact.digest() == signed.digest()
            }),
            Identity::ExactRepository(text) => same_name(text),
            Identity::Remap { prefix, signed } => {
                let name = normal(&wanted.name());
                match name.strip_prefix(prefix.as_str()) {
                    Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                        digest_or_exact(&format!("{signed}{rest}"))
                    }
                    _ => digest_or_exact(&name),
                }
            }
        }
    }
}

/// Whether a reference names a tag itself: one without does not mean `latest` in a signature.
fn has_tag(text: &str) -> bool {
    let name = text.split('@').next().unwrap_or_default();
    name.rsplit('/').next().is_some_and(|last| last.contains(':'))
}

/// Docker Hub has one name in policies, and its official images lie below `library/`.
fn normal(name: &str) -> String {
    let name = name
        .strip_prefix("index.")
        .filter(|rest| rest.starts_with("docker.io/"))
        .unwrap_or(name);
    match name.split_once('/') {
        Some((registry, path)) => format!("{registry}/{}", full_path(registry, path)),
        None => name.to_owned(),
    }
}

/// The scopes of a reference, the narrowest first: with tag or digest, the repository, all above it, the registry, and the
/// registry's domains.
fn scopes(reference: &Reference) -> Vec<String> {
    let name = normal(&reference.name());
    let mut all = vec![match reference.digest() {
        Some(digest) => format!("{name}@{digest}"),
        None => format!("{name}:{}", reference.tag().unwrap_or("latest")),
    }];
    let mut rest = name.as_str();
    loop {
        all.push(rest.to_owned());
        match rest.rsplit_once('/') {
            Some((above, _)) => rest = above,
            None => break,
        }
    }
    // What is left is the registry; domains have no ports.
    rest = rest.split_once(':').map_or(rest, |(host, _)| host);
    while let Some((_, domain)) = rest.split_once('.') {
        all.push(format!("*.{domain}"));
        rest = domain;
    }
    all
}

fn wrong(field: &str, problem: impl Into<String>) -> Malformed {
    Malformed {
        field: field.to_owned(),
        problem: problem.into(),
    }
}

fn object<'a>(value: &'a Value, field: &str, known: &[&str]) -> Result<&'a Map<String, Value>, Malformed> {
    let map = value.as_object().ok_or_else(|| wrong(field, "must be an object"))?;
    match map
        .keys()
        .find(|key| !known.is_empty() && !known.contains(&key.as_str()))
    {
        Some(key) => Err(wrong(field, format!("unknown key `{key}`"))),
        None => Ok(map),
    }
}

fn of_value(value: Value) -> Result<Policy, Malformed> {
    let map = object(&value, "", &["default", "transports"])?;
    let default = map.get("default").ok_or_else(|| wrong("", "`default` is missing"))?;
    let mut policy = Policy {
        default: rules(default, "default")?,
        ..Policy::default()
    };
    for (transport, scopes) in map.get("transports").and_then(Value::as_object).into_iter().flatten() {
        let field = format!("transports.{transport}");
        let mut all = Vec::new();
        for (scope, value) in object(scopes, &field, &[])? {
            all.push((scope.clone(), rules(value, &format!("{field}[\"{scope}\"]"))?));
        }
        policy.transports.push((transport.clone(), all));
    }
    if map.get("transports").is_some_and(|transports| !transports.is_object()) {
        return Err(wrong("transports", "must be an object"));
    }
    Ok(policy)
}

fn rules(value: &Value, field: &str) -> Result<Vec<Rule>, Malformed> {
    let list = value.as_array().filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| wrong(field, "must be a list with a requirement at least"))?;
    let numbered = list.iter().enumerate();
    numbered
        .map(|(number, value)| rule(value, &format!("{field}[{number}]")))
        .collect()
}

fn rule(value: &Value, field: &str) -> Result<Rule, Malformed> {
    let kind = value.get("type").and_then(Value::as_str);
    match kind.ok_or_else(|| wrong(field, "`type` is missing"))? {
        "insecureAcceptAnything" => object(value, field, &["type"]).map(|_| Rule::Accept),
        "reject" => object(value, field, &["type"]).map(|_| Rule::Reject),
        "sigstoreSigned" => signed(value, field),
        name @ ("signedBy" | "signedBaseLayer") => Ok(Rule::NotOffered(name.to_owned())),
        other => Err(wrong(field, format!("unknown type `{other}`"))),
    }
}

fn signed(value: &Value, field: &str) -> Result<Rule, Malformed> {
    const KEYS: [&str; 4] = ["keyPath", "keyData", "keyPaths", "keyDatas"];
    let all = object(value, field, &[])?;
    if let Some(other) = all
        .keys()
        .find(|key| matches!(key.as_str(), "fulcio" | "rekorPublicKey" | "pki"))
    {
        return Ok(Rule::NotOffered(format!("sigstoreSigned with `{other}`")));
    }
    let map = object(
        value,
        field,
        &["type", "keyPath", "keyData", "keyPaths", "keyDatas", "signedIdentity"],
    )?;
    let mut given = KEYS.into_iter().filter_map(|key| Some((key, map.get(key)?)));
    let one = || {
        wrong(
            field,
            "exactly one of `keyPath`, `keyData`, `keyPaths` and `keyDatas` must be there",
        )
    };
    let ((key, value), None) = (given.next().ok_or_else(one)?, given.next()) else {
        return Err(one());
    };
    let texts: Option<Vec<&str>> = match value {
        Value::Array(list) if key.ends_with('s') => list.iter().map(Value::as_str).collect(),
        Value::String(text) if !key.ends_with('s') => Some(vec![text]),
        _ => None,
    };
    let texts = texts.filter(|texts| (1..=POLICY_KEYS).contains(&texts.len()));
    let keys = texts.and_then(|texts| {
        let source = |text: &str| match key.starts_with("keyPath") {
            true => Some(KeySource::File(text.into())),
            false => base64::decode(text).map(KeySource::Data),
        };
        texts.into_iter().map(source).collect()
    });
    Ok(Rule::Signed(Signed {
        keys: keys.ok_or_else(|| wrong(&format!("{field}.{key}"), "must name keys: paths, or base64 of PEM"))?,
        identity: match map.get("signedIdentity") {
            Some(value) => identity(value, &format!("{field}.signedIdentity"))?,
            None => Identity::RepoDigestOrExact,
        },
    }))
}

fn identity(value: &Value, field: &str) -> Result<Identity, Malformed> {
    let text = |key: &str| {
        let text = value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        text.map(str::to_owned)
            .ok_or_else(|| wrong(field, format!("`{key}` is missing")))
    };
    let repository = |key: &str| {
        let name = text(key)?;
        match format!("{name}:latest").parse::<Reference>() {
            Ok(_) => Ok(name),
            Err(error) => Err(wrong(&format!("{field}.{key}"), error.to_string())),
        }
    };
    let (known, made): (&[&str], _) = match text("type")?.as_str() {
        "matchExact" => (&["type"], Identity::Exact),
        "matchRepoDigestOrExact" => (&["type"], Identity::RepoDigestOrExact),
        "matchRepository" => (&["type"], Identity::Repository),
        "exactReference" => {
            let name = text("dockerReference")?;
            let exact = name.parse::<Reference>();
            exact.map_err(|error| wrong(&format!("{field}.dockerReference"), error.to_string()))?;
            (&["type", "dockerReference"], Identity::ExactReference(name))
        }
        "exactRepository" => (
            &["type", "dockerRepository"],
            Identity::ExactRepository(repository("dockerRepository")?),
        ),
        "remapIdentity" => {
            let (prefix, signed) = (text("prefix")?, text("signedPrefix")?);
            (&["type", "prefix", "signedPrefix"], Identity::Remap { prefix, signed })
        }
        other => return Err(wrong(field, format!("unknown type `{other}`"))),
    };
    object(value, field, known).map(|_| made)
}

/// The tag that cosign keeps the signatures of a manifest under.
pub fn signature_tag(digest: &Digest) -> String {
    format!("{}.sig", digest.to_string().replacen(':', "-", 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Result<Policy, String> {
        Policy::parse(text.as_bytes(), Path::new("/p")).map_err(|error| error.to_string())
    }

    fn reference(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn the_narrowest_scope_decides() {
        let accept = r#"[{"type":"insecureAcceptAnything"}]"#;
        let scopes = [
            "r.example:5000/a/b:1",
            "r.example:5000/a/b",
            "r.example:5000/a",
            "r.example:5000",
            "*.example.com",
            "*.com",
            "docker.io/library/busybox",
            "",
        ];
        let listed: Vec<String> = scopes.iter().map(|scope| format!("\"{scope}\":{accept}")).collect();
        let text = format!(
            r#"{{"default":[{{"type":"reject"}}],"transports":{{"docker":{{{}}},"dir":{{"/srv":{accept}}}}}}}"#,
            listed.join(",")
        );
        let policy = policy(&text).unwrap();
        let pinned = format!("r.example:5000/a/b@sha256:{}", "0".repeat(64));
        for (image, scope) in [
            ("r.example:5000/a/b:1", "r.example:5000/a/b:1"),
            ("r.example:5000/a/b:2", "r.example:5000/a/b"),
            (&pinned, "r.example:5000/a/b"),
            ("r.example:5000/a/bb:1", "r.example:5000/a"),
            ("r.example:5000/c:1", "r.example:5000"),
            ("r.example/c:1", ""),
            ("x.y.example.com/c:1", "*.example.com"),
            ("x.y.example.com:5000/c:1", "*.example.com"),
            ("example.com/c:1", "*.com"),
            ("docker.io/busybox:1", "docker.io/library/busybox"),
            ("index.docker.io/library/busybox:1", "docker.io/library/busybox"),
        ] {
            let rules = policy.of_reference(&reference(image));
            assert_eq!(rules.place, format!("transports.docker[\"{scope}\"]"), "{image}");
        }
        let of = |path: &str| policy.of_path("dir", Path::new(path), None).place;
        assert_eq!(of("/srv/images/one"), "transports.dir[\"/srv\"]");
        assert_eq!(of("/srvother"), "default");
        assert_eq!(
            policy.of_path("dir", Path::new("/tmp"), Some("1")).rules,
            [Rule::Reject]
        );
        let nothing = Policy::default();
        assert_eq!(nothing.of_reference(&reference("a.example/b")).rules, [Rule::Accept]);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let rule = |rule: &str| format!(r#"{{"default":[{rule}]}}"#);
        let signed = |more: &str| rule(&format!(r#"{{"type":"sigstoreSigned"{more}}}"#));
        for (text, says) in [
            ("{}".to_owned(), "`default` is missing"),
            (r#"{"default":[]}"#.to_owned(), "`default`: must be a list"),
            (
                r#"{"default":[{"type":"reject"}],"defualt":[]}"#.to_owned(),
                "unknown key `defualt`",
            ),
            (
                r#"{"default":[{"type":"reject"}],"transports":[]}"#.to_owned(),
                "`transports`: must be an object",
            ),
            (rule(r#"{"type":"maybe"}"#), "`default[0]`: unknown type `maybe`"),
            (rule(r#"{"type":"reject","not":1}"#), "unknown key `not`"),
            (signed(""), "exactly one of"),
            (signed(r#","keyPath":"/k","keyData":"AA=="#), "EOF"),
            (signed(r#","keyPath":"/k","keyData":"AA==""#), "exactly one of"),
            (signed(r#","keyPath":["/k"]"#), "`default[0].keyPath`"),
            (signed(r#","keyData":"?""#), "`default[0].keyData`"),
            (
                signed(r#","keyPath":"/k","signedIdentity":{"type":"like"}"#),
                "unknown type `like`",
            ),
            (
                signed(r#","keyPath":"/k","signedIdentity":{"type":"exactRepository"}"#),
                "`dockerRepository` is missing",
            ),
            (
                signed(r#","keyPath":"/k","signedIdentity":{"type":"matchExact","x":1}"#),
                "unknown key `x`",
            ),
            (signed(r#","keyPath":"/k","x":1"#), "unknown key `x`"),
        ] {
            let error = policy(&text).expect_err(&text);
            assert!(
                error.contains(says) && error.starts_with("policy `/p`"),
                "{text}: {error}"
            );
        }
        for name in ["signedBy", "signedBaseLayer"] {
            let policy = policy(&rule(&format!(r#"{{"type":"{name}","keyType":"GPGKeys"}}"#))).unwrap();
            assert_eq!(policy.default, [Rule::NotOffered(name.to_owned())]);
        }
        let policy = policy(&signed(r#","fulcio":{}"#)).unwrap();
        assert_eq!(policy.default[0].name(), "sigstoreSigned with `fulcio`");
    }

    #[test]
    fn identities_match_as_the_specification_says() {
        use Identity::{Exact, ExactReference, ExactRepository, RepoDigestOrExact, Repository};
        let pinned = format!("r.example/a@sha256:{}", "0".repeat(64));
        let remap = |prefix: &str, signed: &str| Identity::Remap {
            prefix: prefix.into(),
            signed: signed.into(),
        };
        for (identity, wanted, signed, fits) in [
            (RepoDigestOrExact, "r.example/a:1", "r.example/a:1", true),
            (RepoDigestOrExact, "r.example/a:1", "r.example/a:2", false),
            (RepoDigestOrExact, "r.example/a:1", "r.example/a", false),
            (RepoDigestOrExact, "r.example/a", "r.example/a", false),
            (RepoDigestOrExact, "r.example/a", "r.example/a:latest", true),
            (RepoDigestOrExact, "r.example/a:1", "r.example/b:1", false),
            (RepoDigestOrExact, &pinned, "r.example/a:7", true),
            (RepoDigestOrExact, &pinned, "r.example/b:7", false),
            (Exact, "r.example/a:1", "r.example/a:1", true),
            (Exact, &pinned, "r.example/a:1", false),
            (Exact, &pinned, &pinned, true),
            (Repository, "r.example/a:1", "r.example/a", true),
            (Repository, "r.example/a:1", "r.example/a/b", false),
            (
                Repository,
                "docker.io/busybox:1",
                "index.docker.io/library/busybox",
                true,
            ),
            (
                ExactReference("v.example/a:3".into()),
                "r.example/a:1",
                "v.example/a:3",
                true,
            ),
            (
                ExactReference("v.example/a:3".into()),
                "r.example/a:1",
                "v.example/a:1",
                false,
            ),
            (
                ExactRepository("v.example/a".into()),
                "r.example/a:1",
                "v.example/a:3",
                true,
            ),
            (
                ExactRepository("v.example/a".into()),
                "r.example/a:1",
                "r.example/a:1",
                false,
            ),
            (
                remap("r.example/m", "v.example"),
                "r.example/m/a:1",
                "v.example/a:1",
                true,
            ),
            (
                remap("r.example/m", "v.example"),
                "r.example/m/a:1",
                "v.example/a:2",
                false,
            ),
            (
                remap("r.example/m", "v.example"),
                "r.example/mm:1",
                "v.examplem:1",
                false,
            ),
            (
                remap("r.example/m", "v.example"),
                "r.example/mm:1",
                "r.example/mm:1",
                true,
            ),
            (Repository, "r.example/a:1", "not a reference", false),
        ] {
            assert_eq!(
                identity.matches(&reference(wanted), signed),
                fits,
                "{identity:?} {wanted} {signed}"
            );
        }
    }
}

//! The app document: the same fields in TOML files on the device and in the desired state.

use std::collections::{BTreeMap, BTreeSet};

use super::bounds::{APPS, ARGS, ENV_VARS, MOUNTS, SECRETS};
use super::container::{AppRestart, Network};
use super::digest::Digest;
use super::health::Health;
use super::limits::Limits;
use super::network::{PortMapping, ports_problem};
use super::reference::Reference;
use super::text::{is_container_name, is_name};
use super::time::Span;

/// One app.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct App {
    /// `[a-z0-9][a-z0-9_-]{0,62}`; also the container's name.
    pub name: String,
    /// Image reference; with fleet keys by digest.
    pub image: String,
    /// Arguments instead of the image's command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Program instead of the image's entrypoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Files of `NAME=value` lines on the device, read when the container is created.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_file: Vec<String>,
    /// `USER[:GROUP]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Host name; the app's name when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// When it is started again.
    #[serde(default)]
    pub restart: AppRestart,
    /// `NAME:PATH[:ro]` or `/HOST:PATH[:ro]`; a volume that start-first may share says `:shared`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// Memory file systems by path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tmpfs: Vec<String>,
    /// `[IP:]HOST:CONTAINER[/udp]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    /// How it sees networks; `none` when nothing is said and no port is published, `private` with ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// The root is mounted read-only.
    #[serde(default)]
    pub read_only: bool,
    /// Secrets of the device that it finds as files below `/run/secrets`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Apps that must be healthy before this one starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<String>,
    /// Devices that the board grants.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// Limits; the board's defaults fill the gaps.
    #[serde(default)]
    pub limits: Limits,
    /// Health check; the image's when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// How it is updated.
    #[serde(default)]
    pub update: Update,
}

/// How an app is updated.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Update {
    /// Which of old and new runs first.
    pub strategy: Strategy,
    /// Healthy running time before it is committed.
    pub soak: Span,
    /// Restarts that are forgiven while it soaks.
    pub max_restarts: u32,
    /// What happens to volumes on a rollback.
    pub volumes: VolumePolicy,
    /// The app may hold its update back by locking a file.
    pub lock: bool,
    /// How long it may do so before the update fails; a day when nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock_timeout: Option<Span>,
    /// Switched and rolled back by itself, not with the set.
    pub independent: bool,
    /// Its image's tag is followed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub auto: bool,
}

impl Default for Update {
    fn default() -> Update {
        Update {
            strategy: Strategy::StopFirst,
            soak: Span::seconds(60),
            max_restarts: 0,
            volumes: VolumePolicy::Keep,
            lock: false,
            lock_timeout: None,
            independent: false,
            auto: false,
        }
    }
}

/// Which of old and new runs first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The old one is stopped, then the new one started.
    StopFirst,
    /// Both run for a moment.
    StartFirst,
}

/// What happens to volumes on a rollback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumePolicy {
    /// Left as they are.
    Keep,
    /// Restored to what they were before the update.
    Snapshot,
}

/// A mistake in a document, with its path: `apps[0].limits.memory`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub path: String,
    /// What.
    pub text: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}`: {}", self.path, self.text)
    }
}

impl App {
    /// The digest of the specification: what decides whether an app changed and what quarantine remembers. Equal documents
    /// have equal digests however they were written down.
    pub fn spec_digest(&self) -> Digest {
        // A struct with ordered maps has one JSON form.
        Digest::of(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// What is wrong, each with its path below `at`. `pinned`: images must name a digest.
    pub fn problems(&self, at: &str, pinned: bool, found: &mut Vec<Problem>) {
        let mut say = |key: &str, text: String| {
            let path = if key.is_empty() || at.is_empty() {
                format!("{at}{key}")
            } else {
                format!("{at}.{key}")
            };
            found.push(Problem { path, text });
        };
        if !is_name(&self.name) {
            say("name", "must match [a-z0-9][a-z0-9_-]{0,62}".into());
        }
        match self.image.parse::<Reference>() {
            Ok(image) if pinned && image.digest().is_none() => {
                say("image", "must be pinned by digest (`NAME@sha256:…`)".into())
            }
            Ok(_) => {}
            Err(error) => say("image", error.to_string()),
        }
        for (key, args) in [("command", &self.command), ("entrypoint", &self.entrypoint)] {
            if args
                .as_ref()
                .is_some_and(|a| a.len() > ARGS || a.iter().any(|x| x.contains('\0')))
            {
                say(key, format!("at most {ARGS} arguments without NUL bytes"));
            }
        }
        if self.env.len() > ENV_VARS
            || self
                .env
                .iter()
                .any(|(k, v)| k.is_empty() || k.contains(['=', '\0']) || v.contains('\0'))
        {
            say("env", format!("at most {ENV_VARS} names without `=` and NUL bytes"));
        }
        self.mount_problems(&mut say);
        for (i, port) in self.ports.iter().enumerate() {
            if let Err(error) = port.parse::<PortMapping>() {
                say(&format!("ports[{i}]"), error.to_string());
            }
        }
        let ports: Vec<PortMapping> = self.ports.iter().filter_map(|port| port.parse().ok()).collect();
        if let Some(text) = ports_problem(&ports) {
            say("ports", text);
        }
        if matches!(self.network, Some(Network::Host | Network::None)) && !ports.is_empty() {
            say(
                "ports",
                "are published from a private network only; say `network = \"private\"`, or nothing".into(),
            );
        }
        for (i, secret) in self.secrets.iter().enumerate() {
            if !is_name(secret) || i >= SECRETS {
                say(
                    &format!("secrets[{i}]"),
                    format!("must be a secret's name; at most {SECRETS}"),
                );
            }
        }
        let mut seen = BTreeSet::new();
        for (i, other) in self.depends_on.iter().enumerate() {
            if !is_name(other) || *other == self.name || !seen.insert(other) {
                say(&format!("depends_on[{i}]"), "must name another app, once".into());
            }
        }
        for (kind, text) in self.limits.problems() {
            say(&format!("limits.{kind}"), text);
        }
        for (key, text) in self.health.iter().flat_map(Health::problems) {
            say(
                if key.is_empty() {
                    "health".into()
                } else {
                    format!("health.{key}")
                }
                .as_str(),
                text,
            );
        }
    }

    fn mount_problems(&self, say: &mut impl FnMut(&str, String)) {
        if let Some(dir) = &self.workdir
            && !is_absolute(dir)
        {
            say("workdir", "must be an absolute path".into());
        }
        if self.volumes.len() + self.tmpfs.len() > MOUNTS {
            say("volumes", format!("at most {MOUNTS} mounts"));
        }
        for (i, volume) in self.volumes.iter().enumerate() {
            if let Err(text) = parse_volume(volume) {
                say(&format!("volumes[{i}]"), text);
            }
        }
        for (i, path) in self.tmpfs.iter().enumerate() {
            if !is_absolute(path.split(':').next().unwrap_or("")) {
                say(&format!("tmpfs[{i}]"), "must be an absolute path".into());
            }
        }
    }
}

/// A volume of an app document, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSpec {
    /// A volume's name or an absolute path of the host.
    pub source: String,
    /// Absolute path in the container.
    pub target: String,
    /// `ro` was said.
    pub read_only: bool,
    /// `shared` was said.
    pub shared: bool,
    /// Whatever else was said.
    pub options: Vec<String>,
}

/// Takes `SOURCE:TARGET[:OPTION,…]` apart.
pub fn parse_volume(text: &str) -> Result<VolumeSpec, String> {
    let mut parts = text.splitn(3, ':');
    let (source, target) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    if !is_container_name(source) && !is_absolute(source) {
        return Err("the source must be a volume's name or an absolute path".into());
    }
    if !is_absolute(target) || target == "/" {
        return Err("write `NAME:/PATH` or `/HOST:/PATH`; the target must be an absolute path below `/`".into());
    }
    let mut spec = VolumeSpec {
        source: source.into(),
        target: target.into(),
        read_only: false,
        shared: false,
        options: Vec::new(),
    };
    for option in parts.next().unwrap_or("").split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" => spec.read_only = true,
            "rw" => spec.read_only = false,
            "shared" => spec.shared = true,
            "z" | "Z" | "U" | "rbind" | "bind" | "nosuid" | "nodev" | "noexec" | "exec" | "suid" | "dev"
            | "rprivate" | "private" | "rslave" | "slave" | "rshared" => spec.options.push(option.into()),
            other => return Err(format!("option `{other}` is not known")),
        }
    }
    Ok(spec)
}

/// Whether `path` is absolute, bounded, without NUL bytes and without `..`.
pub fn is_absolute(path: &str) -> bool {
    path.starts_with('/')
        && path.len() <= super::bounds::PATH_BYTES
        && !path.contains('\0')
        && path.split('/').all(|c| c != "..")
}

/// What is wrong with a set of apps as a whole: duplicate names, unknown dependencies, cycles, too many.
pub fn set_problems(apps: &[App], at: &str, pinned: bool) -> Vec<Problem> {
    let mut found = Vec::new();
    if apps.len() > APPS {
        found.push(Problem {
            path: at.into(),
            text: format!("at most {APPS} apps"),
        });
        return found;
    }
    let names: BTreeMap<&str, bool> = apps.iter().map(|a| (a.name.as_str(), a.update.independent)).collect();
    let mut seen = BTreeSet::new();
    for (i, app) in apps.iter().enumerate() {
        let path = format!("{at}[{i}]");
        app.problems(&path, pinned, &mut found);
        if !seen.insert(&app.name) {
            found.push(Problem {
                path: format!("{path}.name"),
                text: format!("`{}` stands twice", app.name),
            });
        }
        for (k, other) in app.depends_on.iter().enumerate() {
            let text = match names.get(other.as_str()) {
                None => format!("no app `{other}` in this set"),
                Some(true) if !app.update.independent => {
                    format!("`{other}` is independent: only independent apps may depend on it")
                }
                Some(_) => continue,
            };
            found.push(Problem {
                path: format!("{path}.depends_on[{k}]"),
                text,
            });
        }
    }
    if let Some(cycle) = dependency_cycle(apps) {
        found.push(Problem {
            path: at.into(),
            text: format!("`depends_on` goes in a circle: {}", cycle.join(" → ")),
        });
    }
    found
}

/// The names on a dependency cycle, if there is one; the first name stands again at the end.
pub fn dependency_cycle(apps: &[App]) -> Option<Vec<String>> {
    let edges: BTreeMap<&str, &[String]> = apps
        .iter()
        .map(|a| (a.name.as_str(), a.depends_on.as_slice()))
        .collect();
    let mut done = BTreeSet::new();
    for start in edges.keys() {
        let mut path: Vec<(&str, usize)> = vec![(start, 0)];
        while let Some(&mut (node, ref mut next)) = path.last_mut() {
            let target = edges.get(node).and_then(|deps| deps.get(*next));
            *next += 1;
            match target {
                None => {
                    done.insert(node);
                    path.pop();
                }
                Some(target) if done.contains(target.as_str()) => {}
                Some(target) => {
                    if let Some(at) = path.iter().position(|(n, _)| n == target) {
                        let names = path[at..].iter().map(|(n, _)| (*n).to_owned());
                        return Some(names.chain([target.clone()]).collect());
                    }
                    path.push((target, 0));
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str, deps: &[&str]) -> App {
        let deps: Vec<String> = deps.iter().map(|d| format!("\"{d}\"")).collect();
        crate::types::read::toml(&format!(
            "name='{name}'\nimage='r.example/x:1'\ndepends_on=[{}]",
            deps.join(",")
        ))
        .unwrap()
    }

    #[test]
    fn the_documented_example_is_accepted() {
        let text = r#"
name    = "web"
image   = "registry.example/web:1"
command = ["/bin/server"]
restart = { policy = "always", backoff_max = "5m" }
volumes = ["data:/var/lib/web"]
ports   = ["8080:80"]
network = "private"
read_only = true
depends_on = ["db"]
[limits]
memory = "64M"
cpu    = "0.5"
pids   = 64
[health]
http = { port = 80, path = "/healthz" }
interval = "10s"
timeout  = "3s"
start_period = "60s"
failures = 3
[update]
strategy = "stop-first"
soak     = "10m"
max_restarts = 2
volumes  = "keep"
lock     = true
"#;
        let web: App = crate::types::read::toml(text).unwrap();
        assert_eq!(set_problems(&[web.clone(), app("db", &[])], "apps", false), []);
        let json = serde_json::to_string(&web).unwrap();
        let same: App = serde_json::from_str(&json).unwrap();
        assert_eq!(same.spec_digest(), web.spec_digest());
        assert!(crate::types::read::toml::<App>("name='a'\nimage='r.example/x'\nimagee=1").is_err());
    }

    #[test]
    fn all_mistakes_are_reported_at_once_with_their_paths() {
        let mut bad = app("web", &["web", "nope"]);
        bad.name = "Web".into();
        bad.image = "busybox".into();
        bad.volumes = vec!["x:y".into(), "a/b:/c".into(), "v:/c:oops".into()];
        bad.ports = vec!["x".into(), "1.2.3.4:80:80/udp".into()];
        bad.limits.pids = Some(0);
        let paths: Vec<String> = set_problems(&[bad], "apps", true).into_iter().map(|p| p.path).collect();
        for expected in [
            "apps[0].name",
            "apps[0].image",
            "apps[0].volumes[0]",
            "apps[0].volumes[1]",
            "apps[0].volumes[2]",
            "apps[0].ports[0]",
            "apps[0].limits.pids",
            "apps[0].depends_on[1]",
        ] {
            assert!(paths.iter().any(|p| p == expected), "{expected} in {paths:?}");
        }
        assert!(!paths.contains(&"apps[0].ports[1]".to_owned()));
    }

    #[test]
    fn nothing_atomic_depends_on_an_independent_app() {
        for (dependent, dependency, allowed) in [
            (false, false, true),
            (true, false, true),
            (true, true, true),
            (false, true, false),
        ] {
            let (mut web, mut db) = (app("web", &["db"]), app("db", &[]));
            web.update.independent = dependent;
            db.update.independent = dependency;
            let problems = set_problems(&[web, db], "apps", false);
            assert_eq!(problems.is_empty(), allowed, "{dependent} {dependency}: {problems:?}");
        }
    }

    #[test]
    fn cycles_are_found() {
        assert_eq!(
            dependency_cycle(&[app("a", &["b"]), app("b", &["c"]), app("c", &[])]),
            None
        );
        let cycle = dependency_cycle(&[app("a", &["b"]), app("b", &["c"]), app("c", &["b"])]).unwrap();
        assert_eq!(cycle, ["b", "c", "b"]);
        assert_eq!(
            dependency_cycle(&[app("a", &["b", "c"]), app("b", &["c"]), app("c", &[])]),
            None
        );
    }
}

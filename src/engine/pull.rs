//! Pulling: what was typed becomes a reference, the ecosystem's files become a client, one runtime of one thread waits.

use super::{Engine, EngineError};
use crate::config::auth::{AuthEnvironment, AuthPlaces};
use crate::config::certs::CertPlaces;
use crate::config::env;
use crate::config::registries::{Registries, RegistriesPlaces, ShortName};
use crate::image::pull::{self, Progress, PullOptions};
use crate::image::worker::Workers;
use crate::registry::Proxies;
use crate::registry::{Client, Settings as ClientSettings};
use crate::store::ImageRecord;
use crate::types::digest::Digest;
use crate::types::platform::Platform;
use crate::types::reference::{Named, Reference};
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a registry is reached, where that is not as the files say.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// Instead of this machine's platform.
    pub platform: Option<Platform>,
    /// Credentials are in this file alone.
    pub authfile: Option<PathBuf>,
    /// `USER:PASSWORD`.
    pub creds: Option<String>,
    /// A folder with ca.crt, client.cert and client.key for this registry.
    pub cert_dir: Option<PathBuf>,
    /// `false`: plain HTTP and unknown certificates are fine.
    pub tls_verify: Option<bool>,
}

/// What a name without a registry may mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// This.
    One(Reference),
    /// One of these; who types must say which.
    Several(Vec<Reference>),
}

impl Engine {
    /// What was typed as an image's name, in full. Short names go by `registries.conf`; never a guess.
    pub fn resolve(&self, typed: &str) -> Result<Meaning, EngineError> {
        let text = typed.strip_prefix("docker://").unwrap_or(typed);
        let wrong = |error: crate::types::reference::ReferenceError| EngineError::Reference {
            reason: error.to_string(),
        };
        let (repository, tag, digest) = match text.parse::<Named>().map_err(wrong)? {
            Named::Full(reference) => return Ok(Meaning::One(reference)),
            Named::Short {
                repository,
                tag,
                digest,
            } => (repository, tag, digest),
        };
        let full = |name: &str| complete(name, tag.as_deref(), digest).map_err(wrong);
        match self.registries()?.short_name(&repository) {
            ShortName::Alias(name) => Ok(Meaning::One(full(&name)?)),
            ShortName::Search(registries) => {
                let mut all = Vec::new();
                for registry in &registries {
                    all.push(full(&format!("{registry}/{repository}"))?);
                }
                match all.len() {
                    0 => Err(EngineError::ShortName { name: text.to_owned() }),
                    1 => Ok(Meaning::One(all.remove(0))),
                    _ => Ok(Meaning::Several(all)),
                }
            }
        }
    }

    /// What the files about registries say.
    pub fn registries(&self) -> Result<Registries, EngineError> {
        let configured = self.settings().registry.registries_conf.clone();
        let places = RegistriesPlaces {
            file: configured.or_else(|| env::path(env::CONTAINERS_REGISTRIES_CONF)),
            system: Some("/etc/containers".into()),
            user: config_home().map(|dir| dir.join("containers")),
            remembered_aliases: env::path(env::HOME).map(|home| home.join(".cache/containers/short-name-aliases.conf")),
        };
        let mut all = Registries::load(&places)?;
        for host in &self.settings().registry.insecure {
            self.trust(&mut all, host)?;
        }
        Ok(all)
    }

    fn trust(&self, registries: &mut Registries, host: &str) -> Result<(), EngineError> {
        // A name in quotes cannot say more than a name: TOML's basic strings, with what could end them left out.
        let clean: String = host
            .chars()
            .filter(|c| !c.is_control() && *c != '"' && *c != '\\')
            .collect();
        let table = format!("[[registry]]\nlocation = \"{clean}\"\ninsecure = true\n");
        Ok(registries.merge(&table, Path::new("registry.insecure"))?)
    }

    /// Pulls an image, and gives it this name. Waits until it is in the store.
    pub fn pull(
        &self,
        reference: &Reference,
        reach: &Reach,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<ImageRecord, EngineError> {
        let scratch = Scratch::new(self.layout().run())?;
        let client = self.client(reference, reach, &scratch)?;
        let workers: Arc<dyn Workers> = Arc::new(self.workers()?);
        self.sweep_store(&*workers)?;
        let options = self.pull_options(reach);
        let image = runtime()?.block_on(pull::pull(
            self.store(),
            &client,
            &workers,
            reference,
            &options,
            progress,
        ));
        Ok(image?)
    }

    /// Takes an image from a directory in OCI layout; `tag` picks among several.
    pub fn pull_layout(
        &self,
        dir: &Path,
        tag: Option<&str>,
        reach: &Reach,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<ImageRecord, EngineError> {
        let workers: Arc<dyn Workers> = Arc::new(self.workers()?);
        self.sweep_store(&*workers)?;
        let options = self.pull_options(reach);
        let image = runtime()?.block_on(pull::pull_layout(self.store(), &workers, dir, tag, &options, progress));
        Ok(image?)
    }

    fn sweep_store(&self, workers: &dyn Workers) -> Result<(), EngineError> {
        if let Err(error) = crate::image::sweep::sweep(self.store(), workers) {
            crate::warn!("left over from an interrupted pull: {error}");
        }
        Ok(())
    }

    fn pull_options(&self, reach: &Reach) -> PullOptions {
        let standard = PullOptions::default();
        let reserve = self.settings().store.reserve.or(self.board().storage.reserve);
        PullOptions {
            platform: reach.platform.clone().unwrap_or(standard.platform),
            reserve: reserve.map_or(standard.reserve, |reserve| reserve.0),
            program: standard.program,
        }
    }

    fn client(&self, reference: &Reference, reach: &Reach, scratch: &Scratch) -> Result<Client, EngineError> {
        let mut registries = self.registries()?;
        if reach.tls_verify == Some(false) {
            self.trust(&mut registries, reference.registry())?;
        }
        let mut auth = AuthPlaces::usual(&AuthEnvironment {
            explicit: reach
                .authfile
                .clone()
                .or_else(|| env::path(env::REGISTRY_AUTH_FILE))
                .or_else(|| self.settings().registry.auth_file.clone()),
            runtime: env::path(env::XDG_RUNTIME_DIR),
            config: config_home(),
            docker: env::path(env::HOME).map(|home| home.join(".docker")),
        });
        if let Some(creds) = &reach.creds {
            let (user, password) = creds.split_once(':').unwrap_or((creds, ""));
            auth = AuthPlaces {
                files: vec![scratch.path().join("auth.json")],
            };
            auth.store(reference.registry(), user, password)?;
        }
        let mut certs = CertPlaces::usual(config_home().as_deref());
        certs.folders.splice(0..0, self.settings().registry.certs_dir.clone());
        if let Some(dir) = &reach.cert_dir {
            let dir = std::path::absolute(dir).map_err(EngineError::io("find", dir))?;
            let link = scratch.path().join(reference.registry());
            std::os::unix::fs::symlink(dir, &link).map_err(EngineError::io("link", &link))?;
            certs.folders.insert(0, scratch.path().to_owned());
        }
        let text = |name| env::get(name).map(|value| value.to_string_lossy().into_owned());
        let (https, http, none) = (text(env::HTTPS_PROXY), text(env::HTTP_PROXY), text(env::NO_PROXY));
        let mut settings = ClientSettings::new(registries, auth, certs);
        settings.proxies = Proxies::new(https.as_deref(), http.as_deref(), none.as_deref())?;
        Ok(Client::new(settings))
    }
}

fn complete(
    name: &str,
    tag: Option<&str>,
    digest: Option<Digest>,
) -> Result<Reference, crate::types::reference::ReferenceError> {
    let bare: Reference = name.parse()?;
    Reference::new(bare.registry(), bare.repository(), tag, digest)
}

fn config_home() -> Option<PathBuf> {
    env::path(env::XDG_CONFIG_HOME).or_else(|| Some(env::path(env::HOME)?.join(".config")))
}

fn runtime() -> Result<tokio::runtime::Runtime, EngineError> {
    let made = tokio::runtime::Builder::new_current_thread().enable_all().build();
    made.map_err(EngineError::io("make a runtime for", Path::new("pull")))
}

/// A folder of this process in memory, for credentials and links of one pull.
struct Scratch(PathBuf);

impl Scratch {
    fn new(run: &Path) -> Result<Scratch, EngineError> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let path = run.join(format!(
            "pull.{}.{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        ));
        // Left over from an earlier process with our number.
        let _ = fs::remove_dir_all(&path);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(EngineError::io("create folder", &path))?;
        Ok(Scratch(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // In memory, and the next one clears it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

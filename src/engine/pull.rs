//! Pulling: what was typed becomes a reference, the ecosystem's files become a client, one runtime of one thread waits.

use super::{Engine, EngineError, unshare};
use crate::config::agent::Settings;
use crate::config::auth::Credential;
use crate::config::folders::Folders;
use crate::config::policy::Policy;
use crate::config::policy::Rule;
use crate::config::registries::Registries;
use crate::image::pull::{self, Holds, Progress, PullOptions};
use crate::image::worker::Workers;
use crate::registry::names::{self, Meaning};
use crate::registry::{Client, Settings as ClientSettings};
use crate::store::ImageRecord;
use crate::types::platform::Platform;
use crate::types::reference::Reference;
use std::num::NonZeroU64;
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
    /// Instead of the usual policy.json.
    pub signature_policy: Option<PathBuf>,
    /// What keeps pulled images until they are pinned.
    pub holds: Option<Holds>,
    /// Bytes per second, where the settings do not say less.
    pub rate: Option<NonZeroU64>,
}

impl Engine {
    /// What was typed as an image's name, in full. Short names go by `registries.conf`; never a guess.
    pub fn resolve(&self, typed: &str) -> Result<Meaning, EngineError> {
        let text = typed.strip_prefix("docker://").unwrap_or(typed);
        Ok(names::meaning(&self.registries()?, text)?)
    }

    /// What the files about registries say.
    pub fn registries(&self) -> Result<Registries, EngineError> {
        Ok(self.client_settings(None)?.registries)
    }

    fn client_settings(&self, authfile: Option<&Path>) -> Result<ClientSettings, EngineError> {
        usual(self.settings(), authfile)
    }

    /// Pulls an image, and gives it this name. Waits until it is in the store.
    pub fn pull(
        &self,
        reference: &Reference,
        reach: &Reach,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<ImageRecord, EngineError> {
        let client = self.client(reference, reach)?;
        let workers: Arc<dyn Workers> = Arc::new(self.workers()?);
        self.sweep_store(&*workers, false)?;
        let options = self.pull_options(reach)?;
        let image = runtime()?.block_on(pull::pull(
            self.store(),
            &client,
            &workers,
            reference,
            &options,
            progress,
        ));
        let image = image?;
        self.tell("image", "pull", &image.id.hex(), &reference.to_string(), "");
        Ok(image)
    }

    /// Fetches what is missing of an image from where it came; `reference` names it by its digest.
    pub(super) fn refetch(
        &self,
        reference: &Reference,
        platform: Option<Platform>,
    ) -> Result<ImageRecord, EngineError> {
        let reach = Reach {
            platform,
            ..Reach::default()
        };
        let client = self.client(reference, &reach)?;
        let workers: Arc<dyn Workers> = Arc::new(self.workers()?);
        let options = self.plain_options(&reach);
        let mut silent = |_| ();
        let fetched = pull::refetch(self.store(), &client, &workers, reference, &options, &mut silent);
        Ok(runtime()?.block_on(fetched)?)
    }

    /// Removes what dead processes and power cuts left of containers, volumes and images; when `idle` also layers that no image has,
    /// which a pull to be gone on with would miss.
    pub fn sweep_all(&self, idle: bool) -> Result<(), EngineError> {
        self.sweep()?;
        let workers = self.workers()?;
        self.sweep_store(&workers, false)?;
        if self.store().sweep_cut()? && idle {
            crate::image::sweep::discard(&self.store().tidy()?, &workers)?;
        }
        Ok(())
    }

    /// Removes what dead processes left; with `all` also what could be gone on with.
    pub(super) fn sweep_store(&self, workers: &dyn Workers, all: bool) -> Result<(), EngineError> {
        if let Err(error) = crate::image::sweep::sweep(self.store(), workers, all) {
            crate::warn!("left over from an interrupted pull: {error}");
        }
        Ok(())
    }

    /// For what comes from elsewhere.
    pub(super) fn pull_options(&self, reach: &Reach) -> Result<PullOptions, EngineError> {
        Ok(PullOptions {
            policy: Arc::new(policy(self.settings(), reach)?),
            ..self.plain_options(reach)
        })
    }

    /// For what was let in before, or is made here: without a policy.
    pub(super) fn plain_options(&self, reach: &Reach) -> PullOptions {
        let standard = PullOptions::default();
        let parallel = self.settings().registry.parallel;
        PullOptions {
            platform: reach.platform.clone().unwrap_or(standard.platform),
            reserve: self.reserve(),
            parallel: parallel.map_or(standard.parallel, |layers| layers as usize),
            program: standard.program,
            policy: standard.policy,
            holds: reach.holds.clone(),
        }
    }

    pub(super) fn client(&self, reference: &Reference, reach: &Reach) -> Result<Client, EngineError> {
        Ok(Client::new(self.reaching(reference.registry(), reach)?))
    }

    /// Whether policy.json lets only signed images in under this name.
    pub fn asks_for_signatures(&self, reference: &Reference) -> Result<bool, EngineError> {
        let policy = policy(self.settings(), &Reach::default())?;
        let rules = policy.of_reference(reference).rules;
        Ok(rules.iter().any(|rule| matches!(rule, Rule::Signed(_) | Rule::Reject)))
    }

    /// The client's settings for a registry (`host[:port]`).
    pub(super) fn reaching(&self, registry: &str, reach: &Reach) -> Result<ClientSettings, EngineError> {
        let mut settings = reaching(self.settings(), registry, reach)?;
        // What the operator sealed for this device comes after what was said here.
        settings.auth.files.push(self.layout().fleet_auth());
        Ok(settings)
    }
}

/// What policy.json says: the one that is named, the settings', the user's, or the host's. There need be no store.
pub(super) fn policy(settings: &Settings, reach: &Reach) -> Result<Policy, EngineError> {
    let uid = unshare::caller();
    let named = reach.signature_policy.as_deref();
    let named = named.or(settings.registry.policy.as_deref());
    Ok(Policy::load(named, &Folders::of_environment(uid))?)
}

fn usual(settings: &Settings, authfile: Option<&Path>) -> Result<ClientSettings, EngineError> {
    let uid = unshare::caller();
    let folders = Folders::of_environment(uid);
    Ok(ClientSettings::usual(&settings.registry, &folders, authfile)?)
}

/// The client's settings for a registry (`host[:port]`), where there need be no store.
pub(super) fn reaching(settings: &Settings, registry: &str, reach: &Reach) -> Result<ClientSettings, EngineError> {
    let mut settings = usual(settings, reach.authfile.as_deref())?;
    settings.rate = [settings.rate, reach.rate].into_iter().flatten().min();
    let registry = registry.to_owned();
    if reach.tls_verify == Some(false) {
        settings.registries.allow_insecure(std::slice::from_ref(&registry));
    }
    if let Some(creds) = &reach.creds {
        let (user, password) = creds.split_once(':').unwrap_or((creds, ""));
        let (user, password) = (user.to_owned(), password.to_owned());
        let given = Credential::Basic { user, password };
        settings.auth.given.insert(registry.clone(), given);
    }
    if let Some(dir) = &reach.cert_dir {
        settings.certs.given.insert(registry, dir.clone());
    }
    Ok(settings)
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime, EngineError> {
    let made = tokio::runtime::Builder::new_current_thread().enable_all().build();
    made.map_err(EngineError::io("make a runtime for", Path::new("registry client")))
}

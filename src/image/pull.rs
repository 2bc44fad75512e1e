//! Pull: reference → manifest → configuration → layers, several at once → image.
//!
//! Nothing of an image is visible in the store before all of it was verified: each layer against the digest of its compressed
//! bytes (from the manifest) and of its archive (from the configuration, itself checked by its digest). Layers that are there are not fetched, nor
//! are those that another process is fetching. A pull of an unchanged tag is one request.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::decode::DecodeError;
use super::fetch::{self, Ladder};
use super::layout::{Layout, LayoutError};
use super::trust::{self, Candidate};
use super::unpack::UnpackError;
use super::worker::{WorkerError, Workers};
use crate::config::policy::Policy;
use crate::registry::{self, Descriptor, RegistryError, Repository};
use crate::store::{ImageRecord, LayerKey, NewImage, RefRecord, Staging, Store, StoreError, chain_ids};
use crate::types::bounds;
use crate::types::deployment::Reason;
use crate::types::digest::Digest;
use crate::types::oci::image::ImageConfiguration;
use crate::types::platform::Platform;
use crate::types::read;
use crate::types::reference::Reference;
use crate::types::time::Unix;

/// What to pull and how.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// The platform whose entry is taken.
    pub platform: Platform,
    /// Bytes of the disk that stay free.
    pub reserve: u64,
    /// Layers fetched at once.
    pub parallel: usize,
    /// The dunlin binary, for decoders.
    pub program: PathBuf,
    /// What may come in.
    pub policy: Arc<Policy>,
    /// Where to put what keeps the image from garbage collection until something pins it; nothing keeps it otherwise.
    pub holds: Option<Holds>,
}

/// Images that are kept until something pins them, at the latest until this process ends.
pub type Holds = Arc<Mutex<Vec<(Digest, Staging)>>>;

impl Default for PullOptions {
    fn default() -> PullOptions {
        PullOptions {
            platform: Platform::host(),
            reserve: bounds::DISK_RESERVE_BYTES,
            parallel: bounds::LAYERS_IN_FLIGHT,
            program: PathBuf::from("/proc/self/exe"),
            policy: Arc::default(),
            holds: None,
        }
    }
}

/// How a pull is getting on. Sent often; whoever shows it decides how much of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The manifest is known: digest and compressed bytes of each layer, lowest first.
    Layers(Vec<(Digest, u64)>),
    /// This layer was there.
    Exists(Digest),
    /// Another process is pulling this layer; it is waited for.
    Waits(Digest),
    /// So many compressed bytes of this layer have come.
    Fetched(Digest, u64),
    /// This layer is unpacked, verified and in the store.
    Done(Digest),
}

/// Why a pull failed. Nothing of it is left but, where the way to the registry broke, layers that the next pull goes on with.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry, or the way to it.
    #[error("pull `{name}`: {source}")]
    Registry {
        /// The image.
        name: String,
        /// What happened.
        source: Box<RegistryError>,
    },
    /// The directory that an OCI layout was expected in.
    #[error("pull `{name}`: {source}")]
    Layout {
        /// The image.
        name: String,
        /// What happened.
        source: LayoutError,
    },
    /// The store.
    #[error("pull `{name}`: {source}")]
    Store {
        /// The image.
        name: String,
        /// What happened.
        source: StoreError,
    },
    /// The configuration is no image configuration, or contradicts the manifest.
    #[error("pull `{name}`: its configuration `{config}` {why}")]
    Config {
        /// The image.
        name: String,
        /// Digest of the configuration.
        config: Digest,
        /// What is wrong.
        why: String,
    },
    /// An image for another platform.
    #[error("pull `{name}`: the image is for `{have}`, not for `{want}`")]
    Platform {
        /// The image.
        name: String,
        /// What it says it is for.
        have: String,
        /// What is needed.
        want: String,
    },
    /// Not enough room.
    #[error(
        "pull `{name}`: needs at least {need} bytes beyond a reserve of {reserve}, {free} are free; free space with `dunlin image prune`"
    )]
    Space {
        /// The image.
        name: String,
        /// Compressed bytes of the layers that are missing.
        need: u64,
        /// What stays free.
        reserve: u64,
        /// What is free.
        free: u64,
    },
    /// A layer.
    #[error("pull `{name}`: layer `{layer}`: {source}")]
    Layer {
        /// The image.
        name: String,
        /// Digest of the compressed layer.
        layer: Digest,
        /// What happened.
        source: Box<LayerError>,
    },
    /// `policy.json` does not let it in.
    #[error("pull `{name}`: refused by `{rule}` ({kind}) of policy `{}`: {why}", policy.display())]
    Refused {
        /// The image.
        name: String,
        /// The file.
        policy: PathBuf,
        /// The requirement that is not fulfilled.
        rule: String,
        /// Of what kind that is.
        kind: String,
        /// In what way it is not.
        why: String,
    },
    /// Layers vanished while they were put together, repeatedly.
    #[error("pull `{name}`: its layers are removed by another process while it is pulled; try again")]
    Vanished {
        /// The image.
        name: String,
    },
}

/// Why a layer failed.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The registry, or the way to it.
    #[error(transparent)]
    Registry(#[from] Box<RegistryError>),
    /// The directory of an OCI layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Other bytes than the manifest says.
    #[error("its compressed bytes have the digest `{got}`")]
    Digest {
        /// What came.
        got: Digest,
    },
    /// Another archive than the configuration says.
    #[error("its archive has the digest `{got}`, the configuration says `{want}`")]
    DiffId {
        /// What came out.
        got: Digest,
        /// What the configuration says.
        want: Digest,
    },
    /// It cannot be decompressed.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It cannot be unpacked.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// It does not fit on the disk.
    #[error(
        "it needs more than the {free} bytes that are free beyond the reserve; free space with `dunlin image prune`"
    )]
    Full {
        /// What was free for it.
        free: u64,
    },
    /// Helpers cannot be started or talked to.
    #[error("cannot {action}: {source}")]
    Helper {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Another process makes it and does not get done.
    #[error("another process has been pulling it for {seconds} s")]
    Busy {
        /// How long was waited.
        seconds: u64,
    },
    /// A layer below it failed.
    #[error("a layer below it failed")]
    Below,
    /// The pull was given up.
    #[error("the pull was given up")]
    GivenUp,
}

impl LayerError {
    /// Failures that are only the echo of another one.
    fn is_echo(&self) -> bool {
        matches!(self, LayerError::Below | LayerError::GivenUp)
    }

    /// Failures that other bytes than the right ones may have caused.
    pub(super) fn is_of_content(&self) -> bool {
        match self {
            LayerError::Registry(source) => source.is_of_content(),
            LayerError::Digest { .. } | LayerError::DiffId { .. } | LayerError::Decode(_) => true,
            LayerError::Worker(error) => !error.is_full(),
            LayerError::Helper { source, .. } => !is_full(source),
            _ => false,
        }
    }

    /// Whether the disk was full for one of the helpers.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, LayerError::Helper { source, .. } if is_full(source))
    }

    /// Failures after which the next pull goes on where this one was: the way to the registry, not what came.
    fn is_passing(&self) -> bool {
        matches!(self, LayerError::Registry(source) if !source.is_of_content())
    }

    fn code(&self) -> Reason {
        match self {
            LayerError::Registry(source) => source.code(),
            LayerError::Helper { source, .. } if is_full(source) => Reason::Disk,
            LayerError::Full { .. } => Reason::Disk,
            LayerError::Worker(error) if error.is_full() => Reason::Disk,
            LayerError::Store(StoreError::Disk(error)) if error.is_full() => Reason::Disk,
            LayerError::Worker(WorkerError::Unpack(UnpackError::Os { .. })) => Reason::Internal,
            LayerError::Worker(WorkerError::Unpack(_)) => Reason::Verify,
            LayerError::Digest { .. } | LayerError::DiffId { .. } | LayerError::Layout(_) => Reason::Verify,
            LayerError::Decode(DecodeError::Start | DecodeError::Died | DecodeError::Output) => Reason::Internal,
            LayerError::Decode(_) => Reason::Verify,
            LayerError::Store(_) | LayerError::Helper { .. } | LayerError::Busy { .. } => Reason::Internal,
            LayerError::Worker(_) | LayerError::Below | LayerError::GivenUp => Reason::Internal,
        }
    }
}

fn is_full(error: &std::io::Error) -> bool {
    error.raw_os_error().is_some_and(crate::sys::fs::is_full)
}

impl PullError {
    /// The kind of this failure, in the words of the fleet protocol.
    pub fn code(&self) -> Reason {
        match self {
            PullError::Registry { source, .. } => source.code(),
            PullError::Layer { source, .. } => source.code(),
            PullError::Layout { .. } => Reason::ImageMissing,
            PullError::Store {
                source: StoreError::Disk(error),
                ..
            } if error.is_full() => Reason::Disk,
            PullError::Store { .. } | PullError::Vanished { .. } => Reason::Internal,
            PullError::Config { .. } | PullError::Refused { .. } => Reason::Verify,
            PullError::Platform { .. } => Reason::NoArch,
            PullError::Space { .. } => Reason::Disk,
        }
    }
}

/// Where blobs come from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Registry {
        client: registry::Client,
        repository: Repository,
    },
    Layout(Layout),
}

/// An image as its source describes it.
pub(super) struct Found {
    pub(super) source: Source,
    /// Digest that the reference itself stands for.
    pub(super) top: Digest,
    pub(super) manifest: Vec<u8>,
    pub(super) manifest_digest: Digest,
    pub(super) config: Vec<u8>,
    pub(super) config_digest: Digest,
    pub(super) layers: Vec<Descriptor>,
}

/// Pulls `reference` from its registry into the store and gives it that name. What is there and unchanged costs one request, or none
/// where the reference has a digest. Dropping the future gives the pull up; its helpers then clean up in the background, which the
/// runtime's end waits for.
pub async fn pull(
    store: &Store,
    client: &registry::Client,
    workers: &Arc<dyn Workers>,
    reference: &Reference,
    options: &PullOptions,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<ImageRecord, PullError> {
    let name = reference.to_string();
    let failed = |source| PullError::Registry {
        name: name.clone(),
        source: Box::new(source),
    };
    trust::refused_at_once(&options.policy, reference)?;
    if let Some((image, known)) = unchanged(store, client, reference, options).await? {
        let candidate = Candidate {
            reference,
            repository: &client.repository(reference).map_err(failed)?,
            digests: &[known.manifest, known.resolved],
        };
        trust::admit(&options.policy, client, &candidate).await?;
        let in_store = |source| PullError::Store {
            name: name.clone(),
            source,
        };
        hold(store, image.id, options).map_err(in_store)?;
        // It may have been removed just before.
        if store.image(&image.id).map_err(in_store)?.is_some() {
            return Ok(image);
        }
    }
    let found = describe(client, reference, options).await.map_err(failed)?;
    trusted(client, &found, reference, options).await?;
    take(store, workers, found, &name, Some(reference), options, progress).await
}

/// Whether the policy lets in what was found.
async fn trusted(
    client: &registry::Client,
    found: &Found,
    reference: &Reference,
    options: &PullOptions,
) -> Result<(), PullError> {
    let Source::Registry { repository, .. } = &found.source else {
        return Ok(());
    };
    let candidate = Candidate {
        reference,
        repository,
        digests: &[found.manifest_digest, found.top],
    };
    trust::admit(&options.policy, client, &candidate).await
}

/// Fetches whatever is missing of an image that was pulled before; `reference` names it by its digest, and does not become a
/// name of it.
pub async fn refetch(
    store: &Store,
    client: &registry::Client,
    workers: &Arc<dyn Workers>,
    reference: &Reference,
    options: &PullOptions,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<ImageRecord, PullError> {
    let name = reference.to_string();
    let found = describe(client, reference, options)
        .await
        .map_err(|source| PullError::Registry {
            name: name.clone(),
            source: Box::new(source),
        })?;
    take(store, workers, found, &name, None, options, progress).await
}

/// An image as its registry describes it.
async fn describe(
    client: &registry::Client,
    reference: &Reference,
    options: &PullOptions,
) -> Result<Found, RegistryError> {
    let image = client.image(reference, &options.platform).await?;
    let repository = image.manifest.repository.clone();
    let config = client
        .fetch_small(&repository, &image.config, bounds::IMAGE_CONFIG_BYTES)
        .await?;
    Ok(Found {
        top: image.top(),
        source: Source::Registry {
            client: client.clone(),
            repository,
        },
        manifest: image.manifest.bytes.to_vec(),
        manifest_digest: image.manifest.digest,
        config: config.to_vec(),
        config_digest: image.config.digest,
        layers: image.layers.into_iter().map(|layer| layer.descriptor).collect(),
    })
}

/// The image that is there, when the reference still stands for it.
async fn unchanged(
    store: &Store,
    client: &registry::Client,
    reference: &Reference,
    options: &PullOptions,
) -> Result<Option<(ImageRecord, RefRecord)>, PullError> {
    let name = reference.to_string();
    let in_store = |source| PullError::Store {
        name: name.clone(),
        source,
    };
    let Some(known) = store.reference(reference).map_err(in_store)? else {
        return Ok(None);
    };
    let Some(image) = store.image(&known.image).map_err(in_store)? else {
        return Ok(None);
    };
    if options.platform.distance(&image.platform).is_none() || store.lowers(&image).is_err() {
        return Ok(None);
    }
    if reference.digest().is_some() {
        return Ok(Some((image, known)));
    }
    let head = client.head(reference).await;
    let head = head.map_err(|source| PullError::Registry {
        name: name.clone(),
        source: Box::new(source),
    })?;
    Ok((head.digest == known.resolved).then_some((image, known)))
}

/// What the configuration of an image says, as far as a pull needs it.
struct Plan {
    diffs: Vec<Digest>,
    platform: Platform,
    created: Unix,
}

fn plan(found: &Found, name: &str, options: &PullOptions) -> Result<Plan, PullError> {
    let wrong = |why: String| PullError::Config {
        name: name.to_owned(),
        config: found.config_digest,
        why,
    };
    let config: ImageConfiguration = read::json(&found.config).map_err(|e| wrong(format!("is not valid: {e}")))?;
    let diffs = config.rootfs.diff_ids.iter().flatten();
    let diffs: Result<Vec<Digest>, _> = diffs.map(|diff| diff.parse()).collect();
    let diffs = diffs.map_err(|e| wrong(format!("lists a layer that is none: {e}")))?;
    if diffs.len() != found.layers.len() {
        return Err(wrong(format!(
            "lists {} layers, the manifest {}",
            diffs.len(),
            found.layers.len()
        )));
    }
    let platform = Platform {
        os: config.os,
        architecture: config.architecture,
        variant: config.variant.unwrap_or_default(),
    };
    // Images say their variant in the index more often than in their configuration.
    let plain = Platform {
        variant: String::new(),
        ..options.platform.clone()
    };
    if options.platform.distance(&platform).is_none() && plain.distance(&platform).is_none() {
        let (have, want) = (platform.to_string(), options.platform.to_string());
        return Err(PullError::Platform {
            name: name.to_owned(),
            have,
            want,
        });
    }
    let created = config
        .created
        .as_deref()
        .and_then(Unix::parse_rfc3339)
        .unwrap_or(Unix(0));
    Ok(Plan {
        diffs,
        platform,
        created,
    })
}

pub(super) async fn take(
    store: &Store,
    workers: &Arc<dyn Workers>,
    found: Found,
    name: &str,
    reference: Option<&Reference>,
    options: &PullOptions,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<ImageRecord, PullError> {
    let plan = plan(&found, name, options)?;
    let in_store = |source| PullError::Store {
        name: name.to_owned(),
        source,
    };
    progress(Progress::Layers(
        found.layers.iter().map(|layer| (layer.digest, layer.size)).collect(),
    ));
    hold(store, found.config_digest, options).map_err(in_store)?;
    // Whoever collects garbage may be a moment faster than the hold that keeps layers from it.
    for _ in 0..3 {
        let layers = fetch_layers(store, workers, &found, &plan, name, options, progress).await?;
        let image = NewImage {
            config: &found.config,
            manifest: &found.manifest,
            layers,
            platform: plan.platform.clone(),
            created: plan.created,
            name: reference.map(|reference| (reference, found.top)),
        };
        if let Some(image) = store.add_image(&image).map_err(in_store)? {
            return Ok(image);
        }
    }
    Err(PullError::Vanished { name: name.to_owned() })
}

/// Keeps the image of this id, there or to come, as the options say.
fn hold(store: &Store, id: Digest, options: &PullOptions) -> Result<(), StoreError> {
    if let Some(holds) = &options.holds {
        let staging = store.stage(&[], &[id])?;
        let mut holds = holds.lock().unwrap_or_else(PoisonError::into_inner);
        if holds.len() >= bounds::PULL_HOLDS {
            holds.remove(0);
        }
        holds.push((id, staging));
    }
    Ok(())
}

async fn fetch_layers(
    store: &Store,
    workers: &Arc<dyn Workers>,
    found: &Found,
    plan: &Plan,
    name: &str,
    options: &PullOptions,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Vec<LayerKey>, PullError> {
    let in_store = |source| PullError::Store {
        name: name.to_owned(),
        source,
    };
    let chains = chain_ids(&plan.diffs);
    let held: Vec<Digest> = plan.diffs.iter().chain(&chains).copied().collect();
    let staging = store
        .stage(&held, &[found.config_digest, found.manifest_digest])
        .map_err(in_store)?;
    check_space(store, found, plan, &chains, name, options)?;
    let (sender, mut news) = mpsc::channel(bounds::PROGRESS_QUEUE);
    let context = Arc::new(fetch::Context {
        store: store.clone(),
        workers: workers.clone(),
        source: found.source.clone(),
        staging,
        program: options.program.clone(),
        reserve: options.reserve,
        slots: fetch::Slots::new(options.parallel),
        progress: sender,
    });
    let ladder = Ladder::new(plan.diffs.len());
    let mut tasks = JoinSet::new();
    for (index, layer) in found.layers.iter().enumerate() {
        let wanted = fetch::Wanted {
            index,
            blob: layer.clone(),
            diff: plan.diffs[index],
            chain: chains[index],
        };
        tasks.spawn(fetch::layer(context.clone(), wanted, ladder.clone()));
    }
    drop(context);
    let mut keys = vec![None; plan.diffs.len()];
    let mut failure: Option<PullError> = None;
    loop {
        tokio::select! {
            biased;
            Some(event) = news.recv() => progress(event),
            done = tasks.join_next() => match done {
                None => break,
                Some(Ok((index, Ok(key)))) => keys[index] = Some(key),
                Some(Ok((index, Err(source)))) => {
                    // The first failure that is not an echo ends the pull; the others clean up after themselves.
                    let better = failure.as_ref().is_none_or(|f| matches!(f, PullError::Layer { source, .. } if source.is_echo()));
                    if better {
                        let layer = found.layers[index].digest;
                        let source = Box::new(source);
                        failure = Some(PullError::Layer { name: name.to_owned(), layer, source });
                    }
                    ladder.give_up();
                }
                Some(Err(_)) => ladder.give_up(),
            },
        }
    }
    if let Some(failure) = failure {
        let passing = matches!(&failure, PullError::Layer { source, .. } if source.is_passing());
        if !passing {
            give_back(store, workers, &plan.diffs).await;
        }
        return Err(failure);
    }
    keys.into_iter()
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| PullError::Vanished { name: name.to_owned() })
}

/// Removes what a pull that can come to nothing has begun.
async fn give_back(store: &Store, workers: &Arc<dyn Workers>, diffs: &[Digest]) {
    let (store, workers, diffs) = (store.clone(), workers.clone(), diffs.to_vec());
    let removed = tokio::task::spawn_blocking(move || {
        for diff in diffs {
            let stage = store.part(&diff);
            if stage.is_there()
                && let Ok(Some(_lock)) = store.try_lock_layer(&diff)
            {
                super::line::dispose(&*workers, &stage);
            }
        }
    });
    let _ = removed.await;
}

/// Refuses early what cannot fit: unpacked layers are larger than compressed ones.
fn check_space(
    store: &Store,
    found: &Found,
    plan: &Plan,
    chains: &[Digest],
    name: &str,
    options: &PullOptions,
) -> Result<(), PullError> {
    let in_store = |source| PullError::Store {
        name: name.to_owned(),
        source,
    };
    let mut need = 0u64;
    for ((layer, diff), chain) in found.layers.iter().zip(&plan.diffs).zip(chains) {
        if store.find_layer(diff, chain).map_err(in_store)?.is_none() {
            need = need.saturating_add(layer.size);
        }
    }
    let free = store.free().map_err(in_store)?;
    if need > 0 && need.saturating_add(options.reserve) > free {
        return Err(PullError::Space {
            name: name.to_owned(),
            need,
            reserve: options.reserve,
            free,
        });
    }
    Ok(())
}

//! Why the engine did not do as asked.

use super::options::OptionsError;
use crate::config::ConfigError;
use crate::config::policy::PolicyError;
use crate::config::subid::SubidError;
use crate::disk::DiskError;
use crate::image::check::CheckError;
use crate::image::copy::CopyError;
use crate::image::load::SpoolError;
use crate::image::make::MakeError;
use crate::image::pull::PullError;
use crate::image::push::PushError;
use crate::image::save::SaveError;
use crate::image::sweep::SweepError;
use crate::image::worker::WorkerError;
use crate::keeper::KeeperError;
use crate::monitor::client::ClientError;
use crate::monitor::wire::Refusal;
use crate::registry::RegistryError;
use crate::registry::names::NameError;
use crate::runtime::spec::SpecError;
use crate::store::StoreError;
use crate::types::container::Status;
use crate::types::digest::Digest;
use crate::types::limits::NotEnforced;
use crate::types::network::HelperKind;
use crate::types::reference::ReferenceError;
use std::io;
use std::path::{Path, PathBuf};

/// Exit code of the command line for an error of dunlin itself.
pub const EXIT_OWN: u8 = 125;

/// What failed, on which object, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Something in a registry that is not what was looked for.
    #[error("`{name}`: {text}")]
    Artifact {
        /// Its name.
        name: String,
        /// What is wrong.
        text: String,
    },
    /// No container has this name or id.
    #[error("no container with name or ID `{0}` found: no such container")]
    NoContainer(String),
    /// The beginning of several ids.
    #[error("`{prefix}` is the beginning of {count} container ids; type more of it")]
    Ambiguous {
        /// What was typed.
        prefix: String,
        /// How many ids begin so.
        count: usize,
    },
    /// A name that is no name.
    #[error("name `{0}` is not possible: 1 to 128 letters, digits, `_`, `.` and `-`, beginning with a letter or digit")]
    BadName(String),
    /// No volume has this name.
    #[error("no volume with name `{0}` found: no such volume")]
    NoVolume(String),
    /// A volume has this name already.
    #[error("volume with name {0} already exists: volume already exists")]
    VolumeExists(String),
    /// The beginning of several volumes' names.
    #[error("`{prefix}` is the beginning of {count} volumes' names; type more of it")]
    AmbiguousVolume {
        /// What was typed.
        prefix: String,
        /// How many names begin so.
        count: usize,
    },
    /// Containers mount it.
    #[error("volume {volume} is being used by the following container(s): {users}: volume is being used")]
    VolumeInUse {
        /// The volume.
        volume: String,
        /// Ids of the containers.
        users: String,
    },
    /// The name is taken.
    #[error(
        "creating container: the container name `{name}` is already in use by {owner}; remove that container, use another \
         name, or --replace it"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        owner: String,
    },
    /// It is in a state in which that is not possible.
    #[error("container `{name}` is {}: {reason}", .status.as_str())]
    State {
        /// Which container.
        name: String,
        /// Its state.
        status: Status,
        /// Why that is in the way, and what to do.
        reason: &'static str,
    },
    /// No program that connects a private network.
    #[error(
        "a private network needs {}, which is not installed; install {}, or choose --network host or none",
        .0.map_or("a helper, pasta or slirp4netns", |kind| kind.program()),
        .0.map_or("the package `passt` (or `slirp4netns`)".to_owned(), |kind| format!("the package `{}`", kind.package()))
    )]
    NoHelper(Option<HelperKind>),
    /// No pod has this name or id.
    #[error("no pod with name or ID {0} found: no such pod")]
    NoPod(String),
    /// Others share its network.
    #[error("container {id} has dependent containers which must be removed before it: {others}")]
    Shared {
        /// The container.
        id: String,
        /// The others.
        others: String,
    },
    /// Limits were asked for that the host cannot enforce.
    #[error("{}", sentences(.0))]
    NotEnforced(Vec<NotEnforced>),
    /// A limit is above what the board allows.
    #[error("limit `{limit}` of {asked} is above the board's maximum of {maximum}")]
    AboveMaximum {
        /// Which.
        limit: &'static str,
        /// What was asked for.
        asked: String,
        /// What the board allows.
        maximum: String,
    },
    /// Wishes that make no container.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The source of a bind is missing or not to be reached.
    #[error("bind source `{path}`: {source}; it is opened as the store's owner, uid {uid}")]
    BindSource {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
        /// Who opened it.
        uid: u32,
    },
    /// The image's configuration is none.
    #[error("image `{image}`: its configuration is not valid: {reason}")]
    ImageConfig {
        /// The image.
        image: Digest,
        /// What is wrong.
        reason: String,
    },
    /// The image of a container is not in the store any more.
    #[error("image `{image}` of container `{container}` is not in the store; `dunlin pull {image}` fetches it")]
    ImageGone {
        /// The image's name.
        image: String,
        /// The container.
        container: String,
    },
    /// A name that the image does not have.
    #[error("{0}: tag not known")]
    NoTag(String),
    /// A name with a digest, which nobody can give to an image.
    #[error("`{0}`: an image cannot be named by a digest: write NAME:TAG")]
    TagDigest(String),
    /// An image has several names.
    #[error("unable to delete image `{image}` by ID with more than one tag ([{names}]): please force removal")]
    ImageNames {
        /// Its id.
        image: String,
        /// The names.
        names: String,
    },
    /// Only root of a mount namespace may mount.
    #[error("cannot run `dunlin image {0}` as an ordinary user: run `dunlin unshare` first, and this in it")]
    Unshare(&'static str),
    /// It is not mounted where the caller would see it.
    #[error("image `{0}` is not mounted; `dunlin image mount` lists those that are")]
    NotMounted(String),
    /// An image is in use.
    #[error("image used by {container}: image `{image}` is in use by a container: remove that, or use --force")]
    ImageInUse {
        /// What was typed.
        image: String,
        /// The container's id.
        container: String,
    },
    /// The name of an image.
    #[error(transparent)]
    Name(Box<NameError>),
    /// A name that is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The files and variables about registries.
    #[error(transparent)]
    Registry(Box<RegistryError>),
    /// A pull.
    #[error(transparent)]
    Pull(Box<PullError>),
    /// Making an image.
    #[error(transparent)]
    Make(#[from] MakeError),
    /// A change to an image's configuration that is none.
    #[error("{0}")]
    Change(String),
    /// Copying.
    #[error("copy `{from}` to `{to}`: {source}")]
    Copy {
        /// From where.
        from: String,
        /// To where.
        to: String,
        /// What happened.
        source: Box<CopyError>,
    },
    /// Neither a registry nor files.
    #[error("`{0}`: invalid image name: use docker://, oci:, oci-archive:, docker-archive: or dir:")]
    Place(String),
    /// Pushing.
    #[error(transparent)]
    Push(#[from] PushError),
    /// Saving.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// An archive that is to be loaded.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The images.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `policy.json`.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Subordinate ids.
    #[error(transparent)]
    Subid(#[from] SubidError),
    /// The keeper.
    #[error(transparent)]
    Keeper(Box<KeeperError>),
    /// No keeper runs, and one that is started here would have the wrong user namespace.
    #[error("the keeper has left, and none can be started in `dunlin unshare`: leave it, and enter it again")]
    Session,
    /// A check of a layer.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// What dead processes or a collection left.
    #[error(transparent)]
    Sweep(#[from] SweepError),
    /// Volumes cannot be saved.
    #[error(
        "saving the volumes takes {need} bytes, {room} are free beyond the reserve and at most {} are copied; free space, or use \
         `volumes = \"keep\"`",
        crate::types::bounds::SNAPSHOT_BYTES
    )]
    SnapshotRoom {
        /// Bytes of the volumes.
        need: u64,
        /// Bytes that are free beyond the reserve.
        room: u64,
    },
    /// A worker.
    #[error("`{path}`: {source}")]
    Worker {
        /// What it worked on.
        path: PathBuf,
        /// Why it failed.
        source: Box<WorkerError>,
    },
    /// The container makes no OCI bundle.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The OCI bundle cannot be written.
    #[error("container `{name}`: its config.json cannot be written: {reason}")]
    Bundle {
        /// The container.
        name: String,
        /// Why.
        reason: String,
    },
    /// A file of the store.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The container's monitor.
    #[error(transparent)]
    Monitor(#[from] ClientError),
    /// Waiting took too long.
    #[error("container `{name}`: {what} did not happen within {seconds} s")]
    TimedOut {
        /// Which container.
        name: String,
        /// What was waited for.
        what: &'static str,
        /// How long.
        seconds: u64,
    },
    /// The operating system refused.
    #[error("{action} `{path}`: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

macro_rules! boxed {
    ($($variant:ident: $error:ty),*) => {
        $(impl From<$error> for EngineError {
            fn from(error: $error) -> EngineError {
                EngineError::$variant(Box::new(error))
            }
        })*
    };
}

// Large errors are kept apart, so that a result without one stays small.
boxed!(Registry: RegistryError, Pull: PullError, Name: NameError, Keeper: KeeperError);

impl EngineError {
    /// Names the operation and the object of an I/O error.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EngineError {
        let path = path.to_owned();
        move |source| EngineError::Io { action, path, source }
    }

    /// The monitor's or the keeper's no, where this is one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            EngineError::Monitor(ClientError::Refused(refusal)) => Some(refusal),
            EngineError::Keeper(error) => match &**error {
                KeeperError::Refused(refusal) => Some(refusal),
                _ => None,
            },
            _ => None,
        }
    }

    /// The command line's exit code for it: 125, or 126 and 127 for a program that cannot be started.
    pub fn exit_code(&self) -> u8 {
        self.refusal().map_or(EXIT_OWN, |refusal| refusal.code)
    }

    /// Whether an image that was named is not in the store.
    pub fn is_no_image(&self) -> bool {
        matches!(self, EngineError::Store(StoreError::NotFound { .. }))
    }

    /// Whether the container that was named does not exist.
    pub fn is_no_container(&self) -> bool {
        matches!(self, EngineError::NoContainer(_))
    }
}

/// Limits that cannot be enforced, those with the same cause and fix together.
pub(super) fn sentences(limits: &[NotEnforced]) -> String {
    let mut groups: Vec<(Vec<String>, &NotEnforced)> = Vec::new();
    for missing in limits {
        let name = format!("`{}`", missing.limit);
        match groups
            .iter_mut()
            .find(|(_, first)| first.cause == missing.cause && first.fix == missing.fix)
        {
            Some((names, _)) => names.push(name),
            None => groups.push((vec![name], missing)),
        }
    }
    let sentence = |(names, first): &(Vec<String>, &NotEnforced)| {
        let word = if names.len() == 1 { "limit" } else { "limits" };
        format!(
            "{word} {} cannot be enforced: {}; {}",
            names.join(", "),
            first.cause,
            first.fix
        )
    };
    groups.iter().map(sentence).collect::<Vec<_>>().join("\n")
}

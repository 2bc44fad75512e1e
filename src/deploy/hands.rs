//! What the deployer needs done to containers and images: the narrow side of `engine`, so that faults can be played as well.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::engine::Engine;
use crate::types::app::App;
use crate::types::deployment::{BytesMoved, Cause, Reason};
use crate::types::digest::Digest;
use crate::types::health::{Health, HealthStatus};
use crate::types::ids::ContainerId;
use crate::types::limits::NotEnforced;
use crate::types::time::Unix;

/// The label that holds an app's name.
pub const LABEL_APP: &str = "dunlin.app";
/// The label that holds the digest of an app's specification.
pub const LABEL_SPEC: &str = "dunlin.spec";

/// Who does it. Every call blocks for a bounded time and may be made from any thread.
pub trait Hands: Send + Sync + 'static {
    /// The engine behind it, for what is looked at beside deployments; none where it is played.
    fn engine(&self) -> Option<Arc<Engine>> {
        None
    }

    /// Every container with the label [`LABEL_APP`].
    fn containers(&self) -> Result<Vec<Container>, Failure>;

    /// Brings the image here. `image` is a reference; `rate` are bytes per second, beside what the settings say; `progress` hears of
    /// bytes.
    fn fetch(
        &self,
        image: &str,
        rate: Option<NonZeroU64>,
        cancel: &Cancel,
        progress: &mut dyn FnMut(BytesMoved),
    ) -> Result<Fetched, Failure>;

    /// The manifest for this platform that an image's tag means in its registry now. With `signed`, only where policy.json asks for
    /// signatures of it.
    fn latest(&self, image: &str, signed: bool) -> Result<Digest, Failure>;

    /// Keeps these images (digests of manifests) from being removed, and no others any more.
    fn keep(&self, images: &[Digest]) -> Result<(), Failure>;

    /// Removes what whoever died in the middle of a change left in the store; when `idle`, no fetch that was cut off will be gone on with.
    /// Cheap where there is nothing.
    fn sweep(&self, idle: bool) -> Result<(), Failure>;

    /// Checks that the image is whole and fits this host, and creates a container of the app under this name, not started.
    fn create(&self, app: &App, image: &Digest, name: &str) -> Result<Container, Failure>;

    /// Starts a container; nothing to do when it runs. A failure says `gone` when there is none.
    fn start(&self, id: &ContainerId) -> Result<(), Failure>;

    /// Stops a container as its stop signal and time-out say, and returns when it has ended; nothing to do when it does not run.
    fn stop(&self, id: &ContainerId) -> Result<(), Failure>;

    /// Removes a container with its writable layer, running or not; nothing to do when there is none. Volumes stay.
    fn remove(&self, id: &ContainerId) -> Result<(), Failure>;

    /// Gives a container another name, running or not; nothing to do when it has it. A failure says `gone` when there is none.
    fn rename(&self, id: &ContainerId, name: &str) -> Result<(), Failure>;

    /// Checks that there is room to save these volumes. Those that are not there need none.
    fn room(&self, volumes: &[String]) -> Result<(), Failure>;

    /// Saves volumes under a tag, each whole or not at all; nothing to do for one that is saved under it. Those that are not there are
    /// left out. All is on the device when it returns.
    fn save(&self, volumes: &[String], tag: &str) -> Result<(), Failure>;

    /// Puts everything that is saved under a tag in the place of its volume; what was saved is gone then.
    fn restore(&self, tag: &str) -> Result<(), Failure>;

    /// The disk is at its reserve: removes what nothing needs (no app, no way back, no container, no pin), and lets no log grow until it
    /// is called with false.
    fn tidy(&self, full: bool) -> Result<(), Failure>;

    /// Removes everything that is saved under other tags than these.
    fn forget(&self, keep: &[String]) -> Result<(), Failure>;

    /// Tells `sink` what happens to the container from now on, beginning with how it is. Returns at once.
    fn watch(&self, id: &ContainerId, sink: Sink) -> Result<(), Failure>;
}

/// A container of an app as it was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// The app's name, from its label.
    pub app: String,
    /// The specification, from its label.
    pub spec: Digest,
    /// Digest of its image's manifest.
    pub image: Option<Digest>,
    /// Its health check in force: the app's, else the image's.
    pub health_check: Option<Health>,
    /// How it is.
    pub phase: Phase,
    /// Limits that the host cannot enforce.
    pub not_enforced: Vec<NotEnforced>,
}

/// How a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Never started.
    Created,
    /// It runs, since then, judged so.
    Running {
        /// When this run began.
        since: Unix,
        /// Judged health.
        health: HealthStatus,
    },
    /// Its last run has ended.
    Ended(Ended),
    /// It was started, and how it ended is not known: the power failed or its monitor was killed.
    Lost,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Exit code, 128 + n for signal n.
    pub code: i32,
    /// The kernel ended it for want of memory.
    pub oom: bool,
    /// Somebody asked for it.
    pub asked: bool,
    /// When.
    pub at: Unix,
}

/// What was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Digest of the manifest for this platform: what is pinned and reported.
    pub image: Digest,
    /// Bytes moved.
    pub bytes: BytesMoved,
}

/// What happens to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It runs, judged so.
    Running(HealthStatus),
    /// Its run has ended.
    Ended(Ended),
    /// Nobody can say how it is: its monitor is gone.
    Lost,
}

/// Where what happens is told.
pub type Sink = Arc<dyn Fn(ContainerId, Seen) + Send + Sync>;

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What is reported.
    pub cause: Cause,
    /// The same may succeed later without anybody's doing: the network, the disk.
    pub later: bool,
    /// There is no such container.
    pub gone: bool,
}

impl Failure {
    /// A failure that stays.
    pub fn new(code: Reason, detail: impl Into<String>) -> Failure {
        Failure {
            cause: Cause::new(code, detail),
            later: matches!(code, Reason::Net | Reason::Disk),
            gone: false,
        }
    }
}

impl Failure {
    /// The container is not there any more.
    pub fn gone(id: &ContainerId) -> Failure {
        let detail = format!("container `{}` is gone", id.short());
        Failure {
            gone: true,
            ..Failure::new(Reason::Internal, detail)
        }
    }
}

/// Lets a fetch end early.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks for the end.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the end was asked for.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

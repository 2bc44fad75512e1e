//! The daemon: what the operator wants, taken in, carried out and reported.
//!
//! One loop over one closed enum (`daemon`); documents pass `intake` before anybody acts on them; `deploy` carries out.

mod alarm;
mod answers;
pub mod auto;
mod broker;
mod careful;
pub mod commands;
pub mod control;
mod daemon;
pub mod enrol;
pub mod explain;
mod field;
mod follow;
mod gauges;
mod guard;
pub mod identity;
pub mod intake;
pub mod local;
mod orders;
pub mod own_keys;
pub mod presence;
pub mod renewal;
mod ring;
pub mod secrets;
pub mod sets;
pub mod slots;
pub mod sources;
mod spool;
mod telling;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::ConfigError;
use crate::config::agent::{Fleet, Settings};
use crate::deploy::Deployer;
use crate::deploy::hands::Hands;
use crate::disk::layout::Layout;
use crate::disk::lock::{Lock, Mode};
use crate::disk::{DiskError, durable, record};
use crate::types::time::Unix;
use crate::uplink::dsse::Trusted;
use crate::uplink::session::SessionError;
use daemon::{Event, Place};
use slots::{Slot, Slots};

/// How long an agent waits for the one before it to be gone.
const PREDECESSOR: Duration = Duration::from_secs(10);

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Settings or board.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A fleet key.
    #[error("`fleet.keys`: key `{0}` is not 32 bytes of base64")]
    Key(String),
    /// Its folder.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Name, boot, session.
    #[error(transparent)]
    Identity(#[from] identity::IdentityError),
    /// The broker's address, certificate or key.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The device's own keys.
    #[error(transparent)]
    OwnKeys(#[from] own_keys::KeysError),
    /// The deployer.
    #[error("deployments: {0}")]
    Deploy(String),
    /// The operating system.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// What the agent is given by whoever starts it.
pub struct Start {
    /// Settings.
    pub settings: Settings,
    /// Where everything is.
    pub layout: Layout,
    /// Containers and images.
    pub hands: Arc<dyn Hands>,
    /// `v2`, `v1` or `none`, for capabilities.
    pub cgroup: String,
    /// Bytes of the data folder's file system.
    pub disk: u64,
    /// Bytes of it that are to stay free.
    pub reserve: u64,
    /// The slot that this program runs from.
    pub slot: Slot,
}

/// Why the agent came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    /// Another version of it is to be tried.
    Renewed,
}

/// The keys of the settings.
pub fn trusted(fleet: &Fleet) -> Result<Trusted, AgentError> {
    Trusted::new(&fleet.keys, fleet.threshold.unwrap_or(1), &fleet.thresholds).map_err(AgentError::Key)
}

/// Runs the agent until it is asked to stop. The last good set is started before anything else is tried.
pub fn run(start: Start) -> Result<Ended, AgentError> {
    let Start {
        settings,
        layout,
        hands,
        cgroup,
        disk,
        reserve,
        slot,
    } = start;
    let dir = layout.agent();
    durable::create_dirs(&dir)?;
    let _only_one = Lock::take(&dir.join("lock"), Mode::Exclusive, PREDECESSOR)?;
    sweep(&dir);
    sweep(&layout.secret_files());
    let slots = Slots::open(&dir)?;
    let trial = slots
        .state
        .trial
        .as_ref()
        .is_some_and(|trial| trial.version.slot == slot);
    record::write_older(trial);
    let trusted = trusted(&settings.fleet)?;
    let board = settings.board()?;
    let budget = settings.store.write_budget.or(board.storage.write_budget);
    let gauges = gauges::Gauges::new(layout.data().to_owned(), reserve, budget.map(|bytes| bytes.0));
    let guard = guard::Guard::new(board.watchdog().into(), settings.device.watchdog);
    let identity = identity::Identity::establish(&settings, &dir)?;
    let (commands, finals) =
        commands::Commands::open(&dir.join("commands.log"), &identity.session, &identity.sessions)?;
    let own_keys = own_keys::OwnKeys::open(&dir, &identity.device)?;
    let secrets = secrets::Secrets::new(&layout);
    secrets.settle();
    let caps = identity::caps(&board.name, disk, &cgroup);
    let (sender, events) = tokio::sync::mpsc::channel::<Event>(daemon::EVENTS);
    let (told, asked) = (sender.clone(), sender.clone());
    let deployer_settings = crate::deploy::Settings {
        device: identity.device.clone(),
        budget: Some(board.app_memory(caps.memory)),
        default_memory: board.defaults.memory.map_or(0, |m| m.0),
        pinned: !trusted.keys.is_empty(),
        probe_timeout: settings.apps.probe_timeout.ms(),
        pull_attempts: settings.apps.pull_attempts,
        stopped: stopped(&layout.stopped()),
    };
    let sink = Box::new(move |report| {
        // The loop takes reports at once; when it has ended, nobody is left to tell.
        let _ = told.blocking_send(Event::Report(report));
    });
    let mut intake = intake::Intake::open(&dir, &identity.device, trusted, settings.fleet.version.unwrap_or(1))?;
    intake.begin(&settings.fleet);
    let folders = local::folders(&settings, &layout);
    durable::create_dirs(&folders[1])?;
    let conditions = gauges::conditions(&settings, intake.assign(), trial);
    let deployer = Deployer::start(
        deployer_settings,
        conditions,
        dir,
        &identity.boot_id,
        hands.clone(),
        sink,
    )
    .map_err(|e| AgentError::Deploy(e.to_string()))?;
    // It was heard; one that cannot be removed is heard again.
    let _ = std::fs::remove_file(layout.stopped());
    intake.doubt(crate::deploy::files::lost(&layout.agent()));
    let root = settings
        .mqtt
        .as_ref()
        .map_or("dunlin/v1", |m| m.root.as_str())
        .to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| AgentError::System {
            what: "start the event loop",
            source,
        })?;
    let listened = control::listen(
        &layout,
        Box::new(move |one| asked.blocking_send(Event::Asked(one)).is_ok()),
    );
    listened.map_err(|source| AgentError::System {
        what: "listen at the control socket",
        source,
    })?;
    let mut agent = daemon::Daemon::new(
        identity,
        settings,
        intake,
        deployer,
        caps,
        &root,
        Place {
            layout,
            folders,
            slot,
            trial,
            hands,
            events: sender,
            commands,
            own_keys,
            secrets,
        },
    );
    agent.answer_again(finals);
    agent.gauges = gauges;
    agent.guard = guard;
    runtime.block_on(agent.run(events))
}

/// When a keeper made its mark.
fn stopped(mark: &Path) -> Option<Unix> {
    let made = std::fs::metadata(mark).and_then(|meta| meta.modified()).ok()?;
    let since = made.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Unix(since.as_millis() as u64))
}

/// Removes what writes that a power cut ended have left in this folder and in those directly below it.
fn sweep(dir: &Path) {
    let below = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let folders = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    for dir in std::iter::once(dir.to_owned()).chain(folders.map(|entry| entry.path())) {
        // A folder that is not there yet has nothing left over.
        for path in durable::cut_off(&dir).unwrap_or_default() {
            if !durable::is_being_written(&path) {
                crate::info!("`{}` is left over from a write that was cut off", path.display());
                // It is in nobody's way, and the next start tries again.
                let _ = std::fs::remove_file(&path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::sweep;

    #[test]
    fn what_writes_that_were_cut_off_left_is_swept_and_nothing_else() {
        let dir = std::env::temp_dir().join(format!("dunlin-agent-sweep-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("commands")).unwrap();
        let alive = std::os::unix::process::parent_id();
        let stays = ["trust", "commands/7", ".hidden", &format!("commands/.7.{alive}.0.tmp")];
        // A number that no process has: they end at 4,194,304.
        let goes = [".trust.4194999.0.tmp", "commands/.7.4194999.12.tmp", ".a.b.x.y.tmp"];
        for name in stays.iter().chain(&goes) {
            std::fs::write(dir.join(name), "x").unwrap();
        }
        sweep(&dir);
        sweep(&dir.join("not-there"));
        for (name, there) in stays.iter().map(|n| (n, true)).chain(goes.iter().map(|n| (n, false))) {
            assert_eq!(dir.join(name).exists(), there, "{name}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}

//! Containers: what was asked for, what is recorded, what state one is in.

use std::collections::BTreeMap;

use super::digest::Digest;
use super::health::{Health, HealthStatus};
use super::ids::ContainerId;
use super::limits::{LimitKind, Limits, NotEnforced};
use super::network::Wiring;
use super::time::{Span, Unix};

/// Everything about one container that does not change after its creation (but its name).
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ContainerRecord {
    /// 64 hex digits.
    pub id: ContainerId,
    /// Unique within the store.
    pub name: String,
    /// When it was created.
    pub created: Unix,
    /// The image's id (digest of its configuration).
    pub image: Digest,
    /// The image as the user named it.
    pub image_name: String,
    /// Digest of the manifest that the image came by, for `reported` and inspect.
    pub manifest: Option<Digest>,
    /// What it runs and how, image defaults and user input merged.
    pub spec: ContainerSpec,
    /// Limits that nobody asked for and that the host cannot enforce.
    pub not_enforced: Vec<NotEnforced>,
    /// Its network's ports, names and neighbours. Formats before the second end before it.
    pub wiring: Wiring,
    /// What else its program gets.
    pub extras: Extras,
}

/// What a container's program gets where that was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Extras {
    /// Further groups, by number.
    pub groups: Vec<u32>,
    /// Mode bits that new files do not get; 022 when nothing is said.
    pub umask: Option<u32>,
    /// How readily the kernel kills it when memory runs out, 0 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Further groups, by name in the container. This and what follows is there since the third format.
    pub group_names: Vec<String>,
    /// Who tells systemd that it is ready.
    pub notify: Notify,
    /// Its first process is systemd, or one that wants the same.
    pub systemd: bool,
    /// Weight at block devices under contention, 10 to 1000.
    pub io_weight: Option<u16>,
}

impl Extras {
    /// Fields that came with the third format of records. In a record each of them is one byte when nothing is said.
    pub const LATER: usize = 4;

    /// Whether one of those says something.
    pub fn says_later(&self) -> bool {
        !self.group_names.is_empty() || self.notify != Notify::Container || self.systemd || self.io_weight.is_some()
    }
}

/// Who tells the systemd that started a container that it is ready (sd_notify(3)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Notify {
    /// Its program.
    #[default]
    Container,
    /// Whoever starts it, as soon as its program runs.
    Started,
    /// Nobody.
    Nobody,
}

/// What a container runs and how.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ContainerSpec {
    /// Program and arguments, entrypoint and command joined.
    pub args: Vec<String>,
    /// `NAME=value`, in order, names once.
    pub env: Vec<String>,
    /// Working directory, absolute.
    pub workdir: String,
    /// `USER[:GROUP]` by name or number; empty is root.
    pub user: String,
    /// Empty means: the short id.
    pub hostname: String,
    /// A terminal is made.
    pub tty: bool,
    /// Standard input stays open.
    pub stdin: bool,
    /// Binds, volumes and tmpfs, in order.
    pub mounts: Vec<Mount>,
    /// How it sees networks.
    pub network: Network,
    /// The root is mounted read-only.
    pub read_only: bool,
    /// Limits in force: asked and default.
    pub limits: Limits,
    /// Which of `limits` were asked for by flag, document or configured board; the others are defaults.
    pub asked: Vec<LimitKind>,
    /// Capabilities (`CAP_…`), already merged from the defaults.
    pub capabilities: Vec<String>,
    /// `no_new_privs`.
    pub no_new_privs: bool,
    /// Which system calls are filtered.
    pub seccomp: Seccomp,
    /// Device nodes of the host that are bound in, `HOST:CONTAINER:rwm` parsed.
    pub devices: Vec<Device>,
    /// Kernel settings of its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// `RLIMIT_…` to soft and hard.
    pub rlimits: Vec<(String, u64, u64)>,
    /// Lines `IP NAME` for /etc/hosts.
    pub extra_hosts: Vec<(String, String)>,
    /// Name or number of the signal that `stop` sends first.
    pub stop_signal: i32,
    /// How long `stop` waits before it kills, seconds.
    pub stop_timeout: u32,
    /// Restarted by its monitor; always `No` for apps, which the agent restarts.
    pub restart: RestartPolicy,
    /// Removed when it ends.
    pub auto_remove: bool,
    /// The health check in force.
    pub health: Option<Health>,
    /// Labels of image and user.
    pub labels: BTreeMap<String, String>,
    /// OCI annotations.
    pub annotations: BTreeMap<String, String>,
    /// Bounds of its logs.
    pub log: LogLimits,
}

/// One mount that the user asked for.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Mount {
    /// What is mounted.
    pub source: MountSource,
    /// Absolute path in the container.
    pub target: String,
    /// Read-only.
    pub read_only: bool,
    /// Further options (`noexec`, `size=64m`, `rshared`, …).
    pub options: Vec<String>,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum MountSource {
    /// A path of the host.
    Bind(String),
    /// A named volume.
    Volume(String),
    /// Memory.
    Tmpfs,
}

/// How a container sees networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// A network namespace of its own with loopback alone.
    None,
    /// The host's network.
    Host,
    /// A network namespace of its own that reaches out.
    Private,
}

impl ContainerRecord {
    /// podman's word for how it sees networks.
    pub fn network_mode(&self) -> String {
        match (&self.wiring.joins, self.spec.network) {
            (Some(owner), _) => format!("container:{owner}"),
            (None, Network::None) => "none".to_owned(),
            (None, Network::Host) => "host".to_owned(),
            (None, Network::Private) => "private".to_owned(),
        }
    }
}

/// Which system calls are filtered.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Seccomp {
    /// The built-in profile.
    Default,
    /// None.
    Unconfined,
    /// An OCI profile in JSON, already read.
    Profile(String),
}

/// A device of the host that is bound in.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Device {
    /// Path on the host.
    pub host: String,
    /// Path in the container.
    pub container: String,
    /// Of `r`, `w`, `m`.
    pub access: String,
}

/// When an ended container is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// When it failed; at most so often, 0 without end.
    OnFailure(u32),
    /// Always, also after `stop` and a reboot.
    Always,
    /// Always unless it was stopped.
    UnlessStopped,
}

/// Bounds of a container's logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LogLimits {
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Files, the current one included.
    pub files: u32,
}

impl Default for LogLimits {
    fn default() -> LogLimits {
        LogLimits {
            file_bytes: super::bounds::LOG_FILE_BYTES,
            files: super::bounds::LOG_FILES,
        }
    }
}

/// podman's states of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Never started.
    Created,
    /// Its program runs.
    Running,
    /// Frozen.
    Paused,
    /// Between two runs.
    Restarting,
    /// Asked to end.
    Stopping,
    /// Ended.
    Exited,
    /// Its end was not seen: its monitor was killed or the power failed.
    Dead,
}

impl Status {
    /// podman's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Restarting => "restarting",
            Status::Stopping => "stopping",
            Status::Exited => "exited",
            Status::Dead => "dead",
        }
    }

    /// Whether a process of it lives or will again without being asked.
    pub const fn is_live(self) -> bool {
        matches!(
            self,
            Status::Running | Status::Paused | Status::Restarting | Status::Stopping
        )
    }
}

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProcessId {
    /// Number in the host's pid namespace.
    pub pid: i32,
    /// Start time in clock ticks since boot (proc(5), stat field 22).
    pub start: u64,
}

/// What the monitor says of its container, rewritten on change below the run root.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MonitorState {
    /// The monitor itself.
    pub monitor: ProcessId,
    /// The container's first process, while one lives.
    pub container: Option<ProcessId>,
    /// The state.
    pub status: Status,
    /// When the current or last run began.
    pub started: Option<Unix>,
    /// Judged health.
    pub health: HealthStatus,
    /// Consecutive failed probes.
    pub failing_streak: u32,
    /// How often the monitor started it again.
    pub restarts: u32,
    /// Whether somebody asked it to stop.
    pub stop_asked: bool,
}

/// How the last run ended; on disk.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ExitRecord {
    /// Exit code, 128 + signal for a signal.
    pub code: i32,
    /// The signal, when one ended it.
    pub signal: Option<i32>,
    /// The kernel killed for memory in it.
    pub oom: bool,
    /// When it began.
    pub started: Unix,
    /// When it ended.
    pub finished: Unix,
    /// How often it was started again.
    pub restarts: u32,
    /// Why it never began, where that is so.
    pub error: String,
    /// Whether somebody asked it to stop.
    pub stop_asked: bool,
}

/// How often and after what wait a restart is tried; used by documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppRestart {
    /// `always`, `on-failure` or `no`.
    #[serde(default)]
    pub policy: AppRestartPolicy,
    /// The longest wait between two tries.
    #[serde(default = "default_backoff_max")]
    pub backoff_max: Span,
}

/// When an app is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AppRestartPolicy {
    /// Whenever it ends.
    #[default]
    Always,
    /// When it fails.
    OnFailure,
    /// Never.
    No,
}

fn default_backoff_max() -> Span {
    Span::seconds(300)
}

impl Default for AppRestart {
    fn default() -> AppRestart {
        AppRestart {
            policy: AppRestartPolicy::default(),
            backoff_max: default_backoff_max(),
        }
    }
}

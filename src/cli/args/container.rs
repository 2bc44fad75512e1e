//! Arguments of the verbs about containers that exist.

use super::image::RegistryArgs;
use clap::Args;
use std::path::PathBuf;

/// `start`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin start web\n  dunlin start -a -i shell\n  dunlin start --all")]
pub struct StartArgs {
    /// Show what the container writes and wait for its end
    #[arg(short, long)]
    pub attach: bool,
    /// Also give it this terminal's input
    #[arg(short, long)]
    pub interactive: bool,
    /// Keys that detach
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_name = "KEYS")]
    pub detach_keys: String,
    /// Pass signals on [default: true when attached]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub sig_proxy: Option<bool>,
    /// All containers that do not run
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub pick: Pick,
}

/// Which containers.
#[derive(Debug, Clone, Default, Args)]
pub struct Pick {
    /// The container made last
    #[arg(short, long)]
    pub latest: bool,
    /// Containers with: name=, id=, label=, status=, ancestor=, …
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
    /// Read ids from a file
    #[arg(long, value_name = "FILE")]
    pub cidfile: Vec<PathBuf>,
    /// Names or ids
    #[arg(value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// One container, or the latest.
#[derive(Debug, Clone, Default, Args)]
pub struct PickPlain {
    /// The container made last
    #[arg(short, long)]
    pub latest: bool,
    /// Names or ids
    #[arg(value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// `stop`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin stop web\n  dunlin stop -t 2 web db\n  dunlin stop --all")]
pub struct StopArgs {
    /// All running containers
    #[arg(short, long)]
    pub all: bool,
    /// No error for a container that does not exist
    #[arg(short, long)]
    pub ignore: bool,
    /// Seconds to wait before KILL; 0 kills at once [default: the container's, 10]
    #[arg(
        short,
        long,
        visible_alias = "timeout",
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    pub time: Option<i64>,
    #[command(flatten)]
    pub pick: Pick,
}

/// `kill`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin kill web\n  dunlin kill -s HUP web\n  dunlin kill --all")]
pub struct KillArgs {
    /// All running containers
    #[arg(short, long)]
    pub all: bool,
    /// Signal by name or number
    #[arg(short, long, default_value = "KILL")]
    pub signal: String,
    /// The container made last
    #[arg(short, long)]
    pub latest: bool,
    /// Read ids from a file
    #[arg(long, value_name = "FILE")]
    pub cidfile: Vec<PathBuf>,
    /// Names or ids
    #[arg(value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// `restart`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin restart web\n  dunlin restart -t 1 --running")]
pub struct RestartArgs {
    /// All containers
    #[arg(short, long)]
    pub all: bool,
    /// All running containers
    #[arg(long)]
    pub running: bool,
    /// Seconds to wait before KILL [default: the container's, 10]
    #[arg(
        short,
        long,
        visible_alias = "timeout",
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    pub time: Option<i64>,
    #[command(flatten)]
    pub pick: Pick,
}

/// `pause` and `unpause`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin pause web\n  dunlin unpause --all")]
pub struct PauseArgs {
    /// All running (paused) containers
    #[arg(short, long)]
    pub all: bool,
    #[command(flatten)]
    pub pick: Pick,
}

/// `rm`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin rm web\n  dunlin rm -f -t 0 web\n  dunlin rm --all")]
pub struct RmArgs {
    /// All containers
    #[arg(short, long)]
    pub all: bool,
    /// Stop running containers first
    #[arg(short, long)]
    pub force: bool,
    /// No error for a container that does not exist
    #[arg(short, long)]
    pub ignore: bool,
    /// Seconds to wait before KILL with --force [default: the container's, 10]
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub time: Option<i64>,
    /// Also the container's unnamed volumes
    #[arg(short, long)]
    pub volumes: bool,
    /// The container made last
    #[arg(short, long)]
    pub latest: bool,
    /// Containers with: name=, id=, label=, status=, …
    #[arg(long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
    /// Read ids from a file
    #[arg(long, value_name = "FILE")]
    pub cidfile: Vec<PathBuf>,
    /// Names or ids
    #[arg(value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// `ps`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin ps -a\n  dunlin ps --filter health=unhealthy --format '{{.Names}}: {{.Status}}'\n  \
                  dunlin ps --format json"
)]
pub struct PsArgs {
    /// Also containers that do not run
    #[arg(short, long)]
    pub all: bool,
    /// Only containers with: name=, id=, label=, status=, exited=, ancestor=, health=, volume=, network=, before=, since=
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
    /// json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// The N made last, in any state
    #[arg(short = 'n', long, value_name = "N", allow_negative_numbers = true)]
    pub last: Option<i64>,
    /// The container made last
    #[arg(short, long)]
    pub latest: bool,
    /// Full ids and commands
    #[arg(long)]
    pub no_trunc: bool,
    /// No header line
    #[arg(long)]
    pub noheading: bool,
    /// Only ids
    #[arg(short, long)]
    pub quiet: bool,
    /// Show the size of the writable layer
    #[arg(short, long)]
    pub size: bool,
    /// Sort by: command, created, id, image, names, runningfor, size, status
    #[arg(long, default_value = "created", value_parser = ["command", "created", "id", "image", "names", "runningfor", "size", "status"])]
    pub sort: String,
    /// Judge states anew (always done)
    #[arg(long, hide = true)]
    pub sync: bool,
}

/// `logs`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin logs -f web\n  dunlin logs --tail 20 -t web\n  dunlin logs --since 10m --names web db"
)]
pub struct LogsArgs {
    /// Go on until the container ends
    #[arg(short, long)]
    pub follow: bool,
    /// The container made last
    #[arg(short, long)]
    pub latest: bool,
    /// Name before each line
    #[arg(short, long)]
    pub names: bool,
    /// Only lines since: a time, Unix seconds, or a duration such as 10m
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only lines until
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only the last N lines [default: all]
    #[arg(long, visible_alias = "lines", value_name = "N", allow_negative_numbers = true)]
    pub tail: Option<i64>,
    /// Time before each line
    #[arg(short, long)]
    pub timestamps: bool,
    /// Names or ids
    #[arg(value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// `exec`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin exec -it web sh\n  dunlin exec -u 1000 -w /srv web ls -l\n  dunlin exec -d web /bin/reload"
)]
pub struct ExecArgs {
    /// Leave it running in the background
    #[arg(short, long)]
    pub detach: bool,
    /// Keys that detach
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_name = "KEYS")]
    pub detach_keys: String,
    /// Environment: NAME=VALUE, or NAME to copy it
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Read environment from a file
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Pass input on
    #[arg(short, long)]
    pub interactive: bool,
    /// The container made last
    #[arg(short, long)]
    pub latest: bool,
    /// All capabilities of the container's user namespace: refused
    #[arg(long)]
    pub privileged: bool,
    /// A terminal
    #[arg(short, long)]
    pub tty: bool,
    /// USER[:GROUP] inside the container
    #[arg(short, long)]
    pub user: Option<String>,
    /// Working directory inside the container
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Name or id (with --latest left out)
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// Command and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `inspect`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin inspect web\n  dunlin inspect -f '{{.State.Health.Status}}' web\n  dunlin inspect -t image registry.example/web\n  dunlin inspect --no-tags docker://registry.example/web:1.4"
)]
pub struct InspectArgs {
    /// json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// The container made last
    #[arg(short, long)]
    pub latest: bool,
    /// Show the size of the writable layer
    #[arg(short, long)]
    pub size: bool,
    /// With docker://NAME: the manifest as the registry has it
    #[arg(long)]
    pub raw: bool,
    /// With docker://NAME: the image's configuration; there also `--config`
    #[arg(long)]
    pub image_config: bool,
    /// With docker://NAME: without the list of all tags
    #[arg(short, long)]
    pub no_tags: bool,
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// What to look for: container, image, volume or all
    #[arg(short = 't', long = "type", default_value = "all", value_parser = ["all", "container", "image", "volume"])]
    pub kind: String,
    /// Names or ids; docker://NAME asks the registry, without pulling
    #[arg(required_unless_present = "latest", value_name = "NAME")]
    pub names: Vec<String>,
}

/// `top`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin top web\n  dunlin top web pid state args\n\n\
                  Columns: user pid ppid pcpu etime tty time args comm state hpid (also as %CPU, ELAPSED, COMMAND, …).")]
pub struct TopArgs {
    /// The container made last
    #[arg(short, long)]
    pub latest: bool,
    /// Name or id
    #[arg(required_unless_present = "latest", value_name = "CONTAINER")]
    pub container: Option<String>,
    /// Columns instead of the usual ones
    #[arg(value_name = "COLUMN")]
    pub columns: Vec<String>,
}

/// `stats`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin stats --no-stream\n  dunlin stats --no-stream --format '{{.Name}} {{.MemUsage}}' web"
)]
pub struct StatsArgs {
    /// Also containers that do not run
    #[arg(short, long)]
    pub all: bool,
    /// json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Seconds between two tables
    #[arg(short, long, default_value = "5", value_name = "SECONDS")]
    pub interval: u64,
    /// Do not clear the screen between tables
    #[arg(long)]
    pub no_reset: bool,
    /// One table only
    #[arg(long)]
    pub no_stream: bool,
    /// Full ids
    #[arg(long)]
    pub no_trunc: bool,
    #[command(flatten)]
    pub pick: PickPlain,
}

/// `port`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin port web")]
pub struct PortArgs {
    /// All containers
    #[arg(short, long)]
    pub all: bool,
    /// The container made last
    #[arg(short, long)]
    pub latest: bool,
    /// Container and, if one is meant, its port
    #[arg(value_name = "CONTAINER [PORT]")]
    pub words: Vec<String>,
}

/// `wait`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin wait web\n  dunlin wait --condition healthy web")]
pub struct WaitArgs {
    /// What to wait for: stopped, exited, running, paused, healthy, unhealthy, removed, …
    #[arg(long, value_name = "STATE")]
    pub condition: Vec<String>,
    /// Time between two looks
    #[arg(short, long, default_value = "250ms", value_name = "TIME")]
    pub interval: String,
    /// No error for a container that does not exist
    #[arg(long)]
    pub ignore: bool,
    #[command(flatten)]
    pub pick: PickPlain,
}

/// `rename`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin rename web web-old")]
pub struct RenameArgs {
    /// Name or id
    pub container: String,
    /// The new name
    pub name: String,
}

/// `container-cleanup`: called by the monitor when a container with `--rm` has ended.
#[derive(Debug, Args)]
pub struct CleanupArgs {
    /// Full id
    pub id: String,
}

/// `attach`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin attach shell\n  dunlin attach --no-stdin web\n\n\
                  ctrl-p,ctrl-q leaves the container running.")]
pub struct AttachArgs {
    /// Keys that detach
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_name = "KEYS")]
    pub detach_keys: String,
    /// The container made last
    #[arg(short, long)]
    pub latest: bool,
    /// Give it no input
    #[arg(long)]
    pub no_stdin: bool,
    /// Pass signals on [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub sig_proxy: Option<bool>,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub container: Option<String>,
}

/// `healthcheck run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin healthcheck run web && echo healthy\n\n\
                  Exit code: 0 when the check succeeds, 1 when it fails, 125 when it cannot be run.")]
pub struct HealthcheckRunArgs {
    /// The container made last
    #[arg(short, long)]
    pub latest: bool,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub container: Option<String>,
}

/// `container prune`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin container prune\n  dunlin container prune -f --filter until=24h")]
pub struct ContainerPruneArgs {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Containers with: label=, name=, until=, …
    #[arg(long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
}

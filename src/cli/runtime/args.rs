//! runc's command line: its verbs, options and letters.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser};

use crate::cli::lazy::verbs;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "dunlin-runtime",
    version = concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.2.0"),
    about = "OCI runtime: creates and runs containers from bundles, with runc's command line",
    disable_help_subcommand = true,
    disable_version_flag = true,
    max_term_width = 110
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
    /// Print the version
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,
}

/// Options before the verb.
#[derive(Debug, Args)]
pub struct Global {
    /// Directory of the containers' states [default: /run/dunlin-runtime, or $XDG_RUNTIME_DIR/dunlin-runtime]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// File that errors are appended to
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// `text` or `json`
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    pub log_format: String,
    /// Also log what is done
    #[arg(long)]
    pub debug: bool,
    /// linux.cgroupsPath is systemd's SLICE:PREFIX:NAME
    #[arg(long)]
    pub systemd_cgroup: bool,
    /// `true`, `false` or `auto`; what the caller may do is found out in any case
    #[arg(long, value_name = "WORD", value_parser = ["true", "false", "auto"])]
    pub rootless: Option<String>,
}

verbs! {
    /// What to do.
    pub enum Verb {
        /// Create a container, which then waits to be started
        Create(CreateArgs) = "create",
        /// Start the program of a created container
        Start(IdArgs) = "start",
        /// Print a container's state
        State(IdArgs) = "state",
        /// Send a signal to a container's first process
        Kill(KillArgs) = "kill",
        /// Remove a container
        Delete(DeleteArgs) = "delete",
        /// Create and start a container
        Run(RunArgs) = "run",
        /// Run a further process in a container
        Exec(Box<ExecArgs>) = "exec",
        /// List the processes of a container
        Ps(PsArgs) = "ps",
        /// List the containers
        List(ListArgs) = "list",
        /// Stop all tasks of a container
        Pause(IdArgs) = "pause",
        /// Continue all tasks of a container
        Resume(IdArgs) = "resume",
        /// Change a container's limits
        Update(Box<UpdateArgs>) = "update",
        /// Print what a container uses
        Events(EventsArgs) = "events",
        /// Print what this runtime can do
        Features(NoArgs) = "features",
        /// Write a config.json to begin with
        Spec(SpecArgs) = "spec",
    }
}

/// Of a verb without any.
#[derive(Debug, Args)]
pub struct NoArgs {}

/// A container's name.
#[derive(Debug, Args)]
pub struct IdArgs {
    /// The container
    pub id: String,
}

/// Of `create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The container's name, not in use yet
    pub id: String,
    /// Directory of the bundle [default: the current one]
    #[arg(short, long, value_name = "DIR", default_value = ".", hide_default_value = true)]
    pub bundle: PathBuf,
    /// Stream socket that the terminal's master is sent to
    #[arg(long, value_name = "PATH")]
    pub console_socket: Option<PathBuf>,
    /// File that the number of the first process is written to
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Pass this many descriptors on, from number 3
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub preserve_fds: u16,
    /// Move the root to / instead of pivoting to it, on an initramfs
    #[arg(long)]
    pub no_pivot: bool,
    /// Share the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
}

/// Of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub create: CreateArgs,
    /// Return as soon as the program runs
    #[arg(short, long)]
    pub detach: bool,
    /// Do not remove the container at its end
    #[arg(long)]
    pub keep: bool,
    /// Accepted for runc's sake: nothing is adopted in any case
    #[arg(long)]
    pub no_subreaper: bool,
}

/// Of `kill`.
#[derive(Debug, Args)]
pub struct KillArgs {
    /// Send it to all processes
    #[arg(short, long)]
    pub all: bool,
    /// The container
    pub id: String,
    /// Name or number
    #[arg(default_value = "SIGTERM", allow_hyphen_values = true)]
    pub signal: String,
}

/// Of `delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Kill it first; it is no error if there is none
    #[arg(short, long)]
    pub force: bool,
    /// The container
    pub id: String,
}

/// Of `exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Stream socket that the terminal's master is sent to
    #[arg(long, value_name = "PATH")]
    pub console_socket: Option<PathBuf>,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// NAME=VALUE, added to the container's
    #[arg(short, long, value_name = "VAR")]
    pub env: Vec<String>,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// UID[:GID]
    #[arg(short, long, value_name = "UID[:GID]")]
    pub user: Option<String>,
    /// Supplementary group
    #[arg(short = 'g', long, value_name = "GID")]
    pub additional_gids: Vec<u32>,
    /// JSON of the process, instead of a command
    #[arg(short, long, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// Return as soon as it runs
    #[arg(short, long)]
    pub detach: bool,
    /// File that its number is written to
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    pub process_label: Option<String>,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    pub apparmor: Option<String>,
    /// It gains no privileges by exec
    #[arg(long)]
    pub no_new_privs: bool,
    /// Capability, added to the container's
    #[arg(short, long, value_name = "CAP")]
    pub cap: Vec<String>,
    /// Pass this many descriptors on, from number 3
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub preserve_fds: u16,
    /// A group below the container's
    #[arg(long, value_name = "PATH")]
    pub cgroup: Vec<String>,
    /// Also in a paused container
    #[arg(long)]
    pub ignore_paused: bool,
    /// The container
    pub id: String,
    /// What runs
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// Of `ps`.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// `table` or `json`
    #[arg(short, long, value_name = "FORMAT", default_value = "table", value_parser = ["table", "json"])]
    pub format: String,
    /// The container
    pub id: String,
    /// Options of ps(1)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub options: Vec<String>,
}

/// Of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// `table` or `json`
    #[arg(short, long, value_name = "FORMAT", default_value = "table", value_parser = ["table", "json"])]
    pub format: String,
    /// Names only
    #[arg(short, long)]
    pub quiet: bool,
}

/// Of `update`.
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// JSON of linux.resources, `-` for standard input; the other options are then passed over
    #[arg(short, long, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    /// Memory, bytes
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory: Option<String>,
    /// Soft limit of memory, bytes
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_reservation: Option<String>,
    /// Memory and swap together, bytes; -1 is unlimited
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Processor time in each period, microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    /// Period of the quota, microseconds
    #[arg(long, value_name = "US")]
    pub cpu_period: Option<u64>,
    /// Time on top of the quota, microseconds
    #[arg(long, value_name = "US")]
    pub cpu_burst: Option<u64>,
    /// Relative weight, 1024 is usual
    #[arg(long, value_name = "N")]
    pub cpu_share: Option<u64>,
    /// 1: only when nobody else wants a processor
    #[arg(long, value_name = "N")]
    pub cpu_idle: Option<i64>,
    /// Realtime period, microseconds
    #[arg(long, value_name = "US")]
    pub cpu_rt_period: Option<u64>,
    /// Realtime time in each period, microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub cpu_rt_runtime: Option<i64>,
    /// Processors
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Tasks; -1 is unlimited
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// Weight of block devices, 10 to 1000
    #[arg(long, value_name = "N")]
    pub blkio_weight: Option<u16>,
    /// The container
    pub id: String,
}

/// Of `events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Once, then return
    #[arg(long)]
    pub stats: bool,
    /// Time between two, such as 5s
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub interval: String,
    /// The container
    pub id: String,
}

/// Of `spec`.
#[derive(Debug, Args)]
pub struct SpecArgs {
    /// Directory of the bundle [default: the current one]
    #[arg(short, long, value_name = "DIR", default_value = ".", hide_default_value = true)]
    pub bundle: PathBuf,
    /// For the calling user, without rights
    #[arg(long)]
    pub rootless: bool,
}

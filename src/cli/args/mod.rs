//! Arguments as typed: one struct per verb, podman's names and letters.

mod container;
mod create;
mod image;
mod parse;

pub use container::{
    CleanupArgs, ExecArgs, InspectArgs, KillArgs, LogsArgs, PauseArgs, Pick, PortArgs, PsArgs, RenameArgs, RestartArgs,
    RmArgs, StartArgs, StatsArgs, StopArgs, TopArgs, WaitArgs,
};
pub use create::{CreateArgs, RunArgs};
pub use image::{FormatArgs, ImagesArgs, PlatformArgs, PullArgs, RegistryArgs, RmiArgs};
pub use parse::{Parsed, parse};

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "dunlin",
    version,
    about = "Pull, run and look after containers on this device",
    disable_help_subcommand = true,
    max_term_width = 110,
    after_help = "Examples:\n  dunlin run -it --rm registry.example/alpine sh\n  dunlin ps -a\n  dunlin logs -f web\n\n\
                  `dunlin VERB --help` shows the options and examples of a verb."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of every verb.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Directory of images and containers
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Directory of the state that a reboot clears
    #[arg(long, global = true, value_name = "DIR")]
    pub runroot: Option<PathBuf>,
    /// Settings file instead of /etc/dunlin/agent.toml
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Log messages at or above: error, warn, info, debug, trace
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// OCI runtime to use instead of the built-in one
    #[arg(long, global = true, value_name = "PATH")]
    pub runtime: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run a command in a new container
    Run(Box<RunArgs>),
    /// Create a container without starting it
    Create(Box<CreateArgs>),
    /// Start containers
    Start(StartArgs),
    /// Stop containers: the stop signal, then KILL after a time
    Stop(StopArgs),
    /// Send a signal to containers
    Kill(KillArgs),
    /// Stop and start containers
    Restart(RestartArgs),
    /// Freeze all processes of containers
    Pause(PauseArgs),
    /// Let paused containers go on
    Unpause(PauseArgs),
    /// Remove containers
    Rm(RmArgs),
    /// List containers
    #[command(visible_alias = "list", alias = "ls")]
    Ps(PsArgs),
    /// Show what containers wrote
    Logs(LogsArgs),
    /// Run a command in a running container
    Exec(ExecArgs),
    /// Show everything about containers or images
    Inspect(InspectArgs),
    /// Show the processes of a container
    Top(TopArgs),
    /// Show what containers use
    Stats(StatsArgs),
    /// Show the published ports of a container
    Port(PortArgs),
    /// Wait until containers stop and print their exit codes
    Wait(WaitArgs),
    /// Give a container another name
    Rename(RenameArgs),
    /// Fetch images from a registry
    Pull(PullArgs),
    /// List images
    Images(ImagesArgs),
    /// Remove images
    Rmi(RmiArgs),
    /// Show the host, the store and what is enforced
    Info(FormatArgs),
    /// Show the version
    Version(FormatArgs),
    /// Run the daemon: takes desired states over MQTT and from /etc/dunlin/apps, keeps the device at them
    #[command(after_help = "Examples:\n  dunlin agent\n  dunlin --config ./agent.toml --log-level debug agent")]
    Agent,
    /// Clean up after a container that ended
    #[command(hide = true)]
    ContainerCleanup(CleanupArgs),
}

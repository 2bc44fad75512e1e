//! Arguments of the verbs about volumes.

use super::ShowArgs;
use clap::Args;

/// `volume create`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin volume create data\n  dunlin volume create --label app=web")]
pub struct VolumeCreateArgs {
    /// Labels
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// Only local, which is what is always made
    #[arg(short, long, value_name = "NAME", default_value = "local")]
    pub driver: String,
    /// Not offered: a volume is a folder
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub opt: Vec<String>,
    /// Name [default: a made-up one]
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

/// `volume ls`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin volume ls\n  dunlin volume ls -q --filter dangling=true\n  \
                  dunlin volume ls --format '{{.Name}} {{.Mountpoint}}'"
)]
pub struct VolumeLsArgs {
    /// Volumes with: name=, label=, dangling=, driver=, scope=, until=
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
    #[command(flatten)]
    pub show: ShowArgs,
}

/// `volume inspect`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin volume inspect data\n  dunlin volume inspect --format '{{.Mountpoint}}' data"
)]
pub struct VolumeInspectArgs {
    /// All volumes
    #[arg(short, long)]
    pub all: bool,
    /// json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Names
    #[arg(value_name = "VOLUME")]
    pub names: Vec<String>,
}

/// `volume rm`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin volume rm data\n  dunlin volume rm -f data\n\n\
                  Exit code: 1 when a volume does not exist, 2 when one is in use.")]
pub struct VolumeRmArgs {
    /// All volumes
    #[arg(short, long)]
    pub all: bool,
    /// Also those that containers mount, after these containers; none that are missing are told
    #[arg(short, long)]
    pub force: bool,
    /// With --force: seconds to wait before KILL
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub time: Option<i64>,
    /// Names
    #[arg(value_name = "VOLUME")]
    pub names: Vec<String>,
}

/// `volume prune`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin volume prune\n  dunlin volume prune -f --filter label=app=web")]
pub struct VolumePruneArgs {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Volumes with: label=, name=, until=
    #[arg(long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
}

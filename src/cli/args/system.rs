//! Arguments of the verbs about the whole store.

use clap::Args;

/// `system check`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin system check\n  dunlin system check --quick\n  dunlin system check --repair\n\n\
                  Exit code: 0 when all is well (or was mended), 1 when something is wrong, 125 when that cannot be told."
)]
pub struct SystemCheckArgs {
    /// Set broken layers aside, fetch only those again, remove what is left over
    #[arg(long)]
    pub repair: bool,
    /// Do not read the content of files
    #[arg(short, long)]
    pub quick: bool,
}

/// `system df`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin system df\n  dunlin system df -v\n  dunlin system df --format '{{.Type}} {{.Reclaimable}}'"
)]
pub struct SystemDfArgs {
    /// Every image, container and volume
    #[arg(short, long, conflicts_with = "format")]
    pub verbose: bool,
    /// json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// `system prune`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin system prune\n  dunlin system prune --all --force\n  dunlin system prune --volumes\n\n\
                  What runs, what an app has and what a rollback needs is never removed."
)]
pub struct SystemPruneArgs {
    /// Also images with a name that no container uses
    #[arg(short, long)]
    pub all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Also volumes that no container mounts
    #[arg(long)]
    pub volumes: bool,
}

/// `unshare`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin unshare\n  dunlin unshare id\n  dunlin unshare ls -ln ~/.local/share/dunlin/volumes/data/_data\n  \
                  dunlin unshare sh -c 'dunlin image mount registry.example/web'\n\n\
                  Files of containers belong to root and other users there. Mounts end with the last process."
)]
pub struct UnshareArgs {
    /// Command with its arguments [default: $SHELL, or /bin/sh]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

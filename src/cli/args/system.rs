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

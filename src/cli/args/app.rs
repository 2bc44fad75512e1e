//! Arguments of the verbs about apps.

use super::ShowArgs;
use clap::Args;
use std::path::PathBuf;

/// `app ls`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin app ls\n  dunlin app ls --format '{{.Name}} {{.Status}}'\n  dunlin app ls --format json"
)]
pub struct AppLsArgs {
    #[command(flatten)]
    pub show: ShowArgs,
}

/// How long a change is followed.
#[derive(Debug, Args)]
pub struct FollowArgs {
    /// Do not follow the update
    #[arg(short, long, conflicts_with = "wait")]
    pub detach: bool,
    /// Follow it to its end, its soak included
    #[arg(short, long)]
    pub wait: bool,
}

/// `app apply`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin app apply web.toml\n  dunlin app apply --wait web.toml db.toml\n  \
                  dunlin app apply - <web.toml\n  dunlin app apply --retry web.toml\n\n\
                  The documents are kept, and bring the apps up at every boot. Exit code: 0 when the apps run (with --wait: when\n\
                  the update is committed), 1 when it was rejected, failed or was rolled back."
)]
pub struct AppApplyArgs {
    #[command(flatten)]
    pub follow: FollowArgs,
    /// Try a version again that failed before
    #[arg(long)]
    pub retry: bool,
    /// App documents (TOML); `-` is stdin
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// `app rm`, `app rollback`, `app retry`, `app unlock`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin app rm web\n  dunlin app rollback --wait web\n  dunlin app retry web\n\n\
                  `rm` takes apps away that `dunlin app apply` brought; their volumes stay.\n\
                  `rollback` leaves a version for the one before, and does not try it again until it is told so.\n\
                  `retry` tries versions again that failed."
)]
pub struct AppNamesArgs {
    #[command(flatten)]
    pub follow: FollowArgs,
    /// Names of apps
    #[arg(required = true, value_name = "APP")]
    pub names: Vec<String>,
}

/// `app history` and `explain`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin explain\n  dunlin explain web\n  dunlin app history web\n  dunlin app history --format json\n\n\
                  Both work while no agent runs too."
)]
pub struct AppViewArgs {
    /// json; a Go template for `history`
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Only this app
    #[arg(value_name = "APP")]
    pub app: Option<String>,
}

/// `app reset-trust`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin app reset-trust\n\n\
                  Forgets the numbers and documents that this device has accepted over MQTT, for a device on which they cannot be\n\
                  read any more. Until the next documents come, an old one that is replayed would be accepted.")]
pub struct ResetTrustArgs {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

/// `agent update`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin agent update ./dunlin-arm64\n  \
                  dunlin agent update --release release.json ./dunlin-arm64\n  \
                  dunlin agent update docker://registry.example/dunlin:0.2.0\n\n\
                  The new agent must report healthy within `apps.agent_timeout`, else the old one comes back. Containers go on.\n\
                  With fleet keys the release document must be signed. Exit code: 0 when it stays, 1 when it was refused or left.")]
pub struct AgentUpdateArgs {
    /// An older version may come
    #[arg(long)]
    pub allow_downgrade: bool,
    /// Do not wait until it has proved itself
    #[arg(short, long)]
    pub detach: bool,
    /// The document about the release (beside a FILE)
    #[arg(long, value_name = "FILE")]
    pub release: Option<PathBuf>,
    /// A program, or an artifact in a registry
    #[arg(value_name = "FILE|docker://NAME")]
    pub source: PathBuf,
}

/// `agent enroll`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin agent enroll line-3.enrol\n  dunlin agent enroll - <line-3.enrol\n  \
                  dunlin agent enroll dunlin:W2Rldml…\n\n\
                  Writes agent.toml (and the broker's CA beside it) from one document, makes the device's keys and prints its certificate\n\
                  request (PKCS#10). `dunlin:` before the document's base64 is what a QR code would hold."
)]
pub struct AgentEnrollArgs {
    /// Write over settings that are there; the keys stay
    #[arg(long)]
    pub replace: bool,
    /// The document
    #[arg(value_name = "FILE|-|dunlin:TEXT")]
    pub document: String,
}

/// `agent-watch`.
#[derive(Debug, Args)]
pub struct AgentWatchArgs {
    /// The agent
    #[arg(long)]
    pub pid: i32,
    /// It runs beside, as nobody's child
    #[arg(long)]
    pub beside: bool,
}

/// `auto-update`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin auto-update --dry-run\n  dunlin auto-update\n\n\
                  Looks up the tags of apps that say `update.auto = true` (or have the label io.containers.autoupdate=registry) and updates\n\
                  those whose tag has moved. The agent does the same every `apps.auto_update`.")]
pub struct AutoUpdateArgs {
    /// Only show what would be updated
    #[arg(long)]
    pub dry_run: bool,
    /// json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

//! Arguments of the verbs for whoever stands before the device.

use clap::Args;
use std::path::PathBuf;

/// `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin doctor\n  dunlin doctor --format json\n\n\
                  Exit code: 0 when nothing that is needed is missing, 1 when something is.")]
pub struct DoctorArgs {
    /// json
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// `bundle`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin bundle\n  dunlin bundle -o /media/usb/device.tar.gz\n  dunlin bundle -o - | ssh desk 'cat >device.tar.gz'\n\n\
                  What dunlin knows of the host, the store, containers and apps, with the last lines of the logs: at most 8 MiB before it\n\
                  is packed. Values of environment variables, passwords, tokens and keys are left out."
)]
pub struct BundleArgs {
    /// File, or - for stdout [default: dunlin-bundle-HOST-TIME.tar.gz]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Lines of each container's log; 0 for none
    #[arg(long, value_name = "NUMBER", default_value_t = 200)]
    pub lines: u32,
}

/// `completion`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin completion bash >/etc/bash_completion.d/dunlin\n  dunlin completion zsh >~/.zfunc/_dunlin\n  \
                  dunlin completion fish >~/.config/fish/completions/dunlin.fish\n  dunlin completion man /usr/share/man/man1"
)]
pub struct CompletionArgs {
    /// bash, zsh or fish; man for manual pages
    #[arg(value_name = "SHELL", value_parser = ["bash", "zsh", "fish", "man"])]
    pub shell: String,
    /// Folder of manual pages
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// `generate systemd`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin generate systemd web >~/.config/systemd/user/container-web.service\n  \
                  dunlin generate systemd --files --restart-policy always web\n\n\
                  The unit starts a container that exists and lives as long as it runs. The agent looks after apps by itself."
)]
pub struct GenerateSystemdArgs {
    /// Write container-NAME.service here instead of to stdout
    #[arg(short, long)]
    pub files: bool,
    /// Name the unit after the container's name, not its id [always]
    #[arg(short, long)]
    pub name: bool,
    /// Restart= of the unit
    #[arg(long, value_name = "POLICY", default_value = "on-failure",
          value_parser = ["no", "on-success", "on-failure", "on-abnormal", "on-watchdog", "on-abort", "always"])]
    pub restart_policy: String,
    /// Seconds to wait before KILL [default: the container's, 10]
    #[arg(short, long, visible_alias = "stop-timeout", value_name = "SECONDS")]
    pub time: Option<u32>,
    /// A unit that makes the container: not offered
    #[arg(long)]
    pub new: bool,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// `app import`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin app import web.container >web.toml\n  dunlin app import -o /etc/dunlin/apps web.container data.volume\n  \
                  dunlin app import web.container | dunlin app apply -\n\n\
                  Reads Quadlet's files. What an app document has no word for is an error."
)]
pub struct AppImportArgs {
    /// Write NAME.toml into this folder instead of to stdout
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Leave out what has no counterpart, and say so
    #[arg(short, long)]
    pub force: bool,
    /// .container files, and the .volume files that they name
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// `events`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin events\n  dunlin events --since 1h --stream=false\n  \
                  dunlin events --filter event=died --format '{{.Time}} {{.Name}} {{.ContainerExitCode}}'\n\n\
                  Kept since the device was booted: the last 1 to 2 MiB."
)]
pub struct EventsArgs {
    /// Events with: container=, event=, image=, type=, volume=
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
    /// json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// From then on: a time, or a duration before now [default: now]
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Until then
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Wait for more [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub stream: Option<bool>,
    /// As --stream=false
    #[arg(long)]
    pub no_stream: bool,
}

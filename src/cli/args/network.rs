//! Arguments of the verbs about networks and pods.

use super::{NetworkArgs, ShowArgs};
use clap::Args;

/// `network ls`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin network ls\n  dunlin network ls --filter name=host --format json")]
pub struct NetworkLsArgs {
    #[command(flatten)]
    pub list: ListArgs,
}

/// How a list is shown.
#[derive(Debug, Clone, Default, Args)]
pub struct ListArgs {
    /// Only those with: name=, id=, and of pods status=, of networks driver=
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
    /// Full ids
    #[arg(long)]
    pub no_trunc: bool,
    #[command(flatten)]
    pub show: ShowArgs,
}

/// `pod create`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin pod create --name web -p 8080:80\n  dunlin run -d --pod web registry.example/web:1.4"
)]
pub struct PodCreateArgs {
    /// Name instead of a made-up one
    #[arg(short, long)]
    pub name: Option<String>,
    /// Host name of its containers instead of its name
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Labels
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    #[command(flatten)]
    pub net: NetworkArgs,
}

/// `pod ps`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin pod ps\n  dunlin pod ps --filter status=running --format '{{.Name}} {{.Status}}'"
)]
pub struct PodPsArgs {
    #[command(flatten)]
    pub list: ListArgs,
}

/// `pod inspect`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin pod inspect web\n  dunlin pod inspect --format '{{.State}}' web")]
pub struct PodInspectArgs {
    /// json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Name or id
    #[arg(value_name = "POD")]
    pub pod: String,
}

/// `pod start`, `pod stop`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin pod start web\n  dunlin pod stop -t 2 web\n  dunlin pod stop --all")]
pub struct PodNamesArgs {
    /// All pods
    #[arg(short, long)]
    pub all: bool,
    /// Seconds to wait before KILL [default: the containers', 10]
    #[arg(short, long, value_name = "SECONDS")]
    pub time: Option<u32>,
    /// Names or ids
    #[arg(value_name = "POD")]
    pub pods: Vec<String>,
}

/// `pod rm`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin pod rm web\n  dunlin pod rm -f -t 0 web")]
pub struct PodRmArgs {
    /// Also pods whose containers run
    #[arg(short, long)]
    pub force: bool,
    #[command(flatten)]
    pub names: PodNamesArgs,
}

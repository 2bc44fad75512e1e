//! Arguments of the verbs about registries.

use super::image::RegistryArgs;
use clap::Args;
use std::path::PathBuf;

/// `login`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin login registry.example\n  \
                  dunlin login -u device --password-stdin registry.example <token\n  \
                  dunlin login --get-login registry.example")]
pub struct LoginArgs {
    /// File with credentials instead of auth.json (REGISTRY_AUTH_FILE)
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    /// Directory with ca.crt, client.cert and client.key
    #[arg(long, value_name = "DIR")]
    pub cert_dir: Option<PathBuf>,
    /// Only show who is logged in
    #[arg(long)]
    pub get_login: bool,
    /// Password; others on this machine can see it: better --password-stdin
    #[arg(short, long)]
    pub password: Option<String>,
    /// Read the password from stdin
    #[arg(long)]
    pub password_stdin: bool,
    /// Ask for HTTPS with a valid certificate [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub tls_verify: Option<bool>,
    /// User name
    #[arg(short, long)]
    pub username: Option<String>,
    /// Say where the password was stored
    #[arg(short, long)]
    pub verbose: bool,
    /// HOST[:PORT][/PATH]; else the first of `unqualified-search-registries`
    #[arg(value_name = "REGISTRY")]
    pub registry: Option<String>,
}

/// `logout`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin logout registry.example\n  dunlin logout --all")]
pub struct LogoutArgs {
    /// All registries
    #[arg(short, long)]
    pub all: bool,
    /// File with credentials instead of auth.json (REGISTRY_AUTH_FILE)
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    /// HOST[:PORT][/PATH]; else the first of `unqualified-search-registries`
    #[arg(value_name = "REGISTRY", conflicts_with = "all")]
    pub registry: Option<String>,
}

/// `list-tags`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin list-tags docker://registry.example/team/web")]
pub struct ListTagsArgs {
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// docker://NAME, without a tag
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// `search`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin search registry.example/web\n  dunlin search registry.example/\n  \
                  dunlin search --filter is-official=true docker.io/postgres\n  dunlin search --list-tags registry.example/team/web"
)]
pub struct SearchArgs {
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// At most so many of each registry
    #[arg(long, default_value = "25", value_name = "NUMBER")]
    pub limit: usize,
    /// The tags of the repository instead
    #[arg(long)]
    pub list_tags: bool,
    /// Only with: stars=NUMBER, is-official=, is-automated=
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
    /// `json`, `table …`, or a template over Index, Name, Description, Stars, Official, Automated, Tag
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Whole descriptions
    #[arg(long)]
    pub no_trunc: bool,
    /// [REGISTRY/]PART OF A NAME; without a registry all of `unqualified-search-registries`
    #[arg(value_name = "TERM")]
    pub term: String,
}

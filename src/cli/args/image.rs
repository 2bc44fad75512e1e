//! Arguments of the verbs about images and the host.

use clap::Args;
use std::path::PathBuf;

/// Which platform of an image is meant.
#[derive(Debug, Clone, Default, Args)]
pub struct PlatformArgs {
    /// Platform of the image: OS/ARCH[/VARIANT]
    #[arg(long, value_name = "PLATFORM", conflicts_with_all = ["arch", "os", "variant"])]
    pub platform: Option<String>,
    /// Architecture of the image instead of this machine's
    #[arg(long)]
    pub arch: Option<String>,
    /// Operating system of the image
    #[arg(long)]
    pub os: Option<String>,
    /// Variant of the architecture, such as v7
    #[arg(long)]
    pub variant: Option<String>,
}

/// How a list is shown.
#[derive(Debug, Clone, Default, Args)]
pub struct ShowArgs {
    /// json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// No header line
    #[arg(short, long)]
    pub noheading: bool,
    /// Only names, or ids
    #[arg(short, long)]
    pub quiet: bool,
}

/// How a registry is reached.
#[derive(Debug, Clone, Default, Args)]
pub struct RegistryArgs {
    /// File with credentials instead of auth.json
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    /// Credentials USER:PASSWORD for the registry
    #[arg(long, value_name = "USER:PASSWORD")]
    pub creds: Option<String>,
    /// Directory with ca.crt, client.cert and client.key
    #[arg(long, value_name = "DIR")]
    pub cert_dir: Option<PathBuf>,
    /// Ask for HTTPS with a valid certificate [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub tls_verify: Option<bool>,
    /// policy.json that says which images may come in, instead of the usual one
    #[arg(long, value_name = "FILE")]
    pub signature_policy: Option<PathBuf>,
}

/// `pull`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin pull registry.example/team/web:1.4\n  \
                  dunlin pull --platform linux/arm64 registry.example/team/web@sha256:…\n  dunlin pull -q web")]
pub struct PullArgs {
    #[command(flatten)]
    pub platform: PlatformArgs,
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// No progress, only the image id
    #[arg(short, long)]
    pub quiet: bool,
    /// Images: [REGISTRY/]NAME[:TAG|@DIGEST]
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}

/// `images`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin images\n  dunlin images --filter dangling=true -q\n  \
                  dunlin images --format 'table {{.Repository}}\\t{{.Tag}}\\t{{.Size}}'"
)]
pub struct ImagesArgs {
    /// Also images without a name (always shown)
    #[arg(short, long)]
    pub all: bool,
    /// Show digests
    #[arg(long)]
    pub digests: bool,
    /// Only images with: reference=, dangling=, label=, id=, before=, since=, readonly=
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
    /// Full ids
    #[arg(long)]
    pub no_trunc: bool,
    #[command(flatten)]
    pub show: ShowArgs,
    /// Sort by: created, id, repository, size, tag
    #[arg(long, default_value = "created", value_parser = ["created", "id", "repository", "size", "tag"])]
    pub sort: String,
    /// Only images with this name
    #[arg(value_name = "IMAGE")]
    pub image: Option<String>,
}

/// `rmi`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin rmi registry.example/web:1.3\n  dunlin rmi -f 93fd78260bd1\n  dunlin rmi --all"
)]
pub struct RmiArgs {
    /// Remove all images
    #[arg(short, long)]
    pub all: bool,
    /// Also with several names, and the containers that use the image
    #[arg(short, long)]
    pub force: bool,
    /// No error for an image that does not exist
    #[arg(short, long)]
    pub ignore: bool,
    /// Names or ids
    #[arg(required_unless_present = "all", value_name = "IMAGE")]
    pub images: Vec<String>,
}

/// `tag`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin tag registry.example/web:1.4 web:good\n  dunlin tag 93fd78260bd1 registry.example/web:1.5"
)]
pub struct TagArgs {
    /// Name or id
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// New names; one without a registry is below localhost/
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

/// `untag`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin untag registry.example/web:1.4\n  dunlin untag 93fd78260bd1 web:good")]
pub struct UntagArgs {
    /// Name or id
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Names to take away; else all
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
}

/// `image exists`, `container exists` and `volume exists`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin image exists registry.example/web:1.4 && echo here")]
pub struct ExistsArgs {
    /// Name or id
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// `history`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin history registry.example/web\n  \
                  dunlin history --no-trunc --format '{{.CreatedBy}}' registry.example/web")]
pub struct HistoryArgs {
    /// json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Sizes and times for people [default: true]
    #[arg(short = 'H', long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub human: Option<bool>,
    /// Whole commands and ids
    #[arg(long)]
    pub no_trunc: bool,
    /// Only ids
    #[arg(short, long)]
    pub quiet: bool,
    /// Name or id
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

/// `image tree`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin image tree registry.example/web\n  dunlin image tree --whatrequires registry.example/base"
)]
pub struct TreeArgs {
    /// Show what stands on the image, too
    #[arg(long)]
    pub whatrequires: bool,
    /// Name or id
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

/// `diff`, `image diff`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin diff web\n  dunlin image diff registry.example/web:1.4 registry.example/web:1.3\n  \
                  dunlin diff --format json web\n\n\
                  A: added, C: changed, D: deleted, since the second, which is by default the image of a container, or all\n\
                  but the last layer of an image."
)]
pub struct DiffArgs {
    /// json
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// The first is an image
    #[arg(long, hide = true)]
    pub image: bool,
    /// A container or image, and what it is compared with
    #[arg(required = true, num_args = 1..=2, value_name = "NAME")]
    pub names: Vec<String>,
}

/// `image mount`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin unshare\n  ls $(dunlin image mount registry.example/web)/etc\n  dunlin image mount\n\n\
                  Without an image: those that are mounted. Mounts end with `dunlin unshare`, in which this runs; on a store of\n\
                  root's they are the host's. A mounted image is not removed."
)]
pub struct ImageMountArgs {
    /// Mount all images
    #[arg(short, long, conflicts_with = "images")]
    pub all: bool,
    /// json
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Names or ids
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,
}

/// `image unmount`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin image unmount registry.example/web\n  dunlin image unmount --all")]
pub struct ImageUnmountArgs {
    /// Unmount all images
    #[arg(short, long, conflicts_with = "images")]
    pub all: bool,
    /// Also while something uses the files
    #[arg(short, long)]
    pub force: bool,
    /// Names or ids
    #[arg(required_unless_present = "all", value_name = "IMAGE")]
    pub images: Vec<String>,
}

/// `image prune`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin image prune\n  dunlin image prune -af --filter until=72h")]
pub struct ImagePruneArgs {
    /// Also images with a name; what a container or an app needs stays
    #[arg(short, long)]
    pub all: bool,
    /// Only images with: until=, label=, label!=, reference=, id=, before=, since=
    #[arg(long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

/// `info` and `version`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin info\n  dunlin info --format '{{.host.cgroupVersion}}'\n  dunlin version --format json"
)]
pub struct FormatArgs {
    /// json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
}

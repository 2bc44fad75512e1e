//! Arguments of the verbs that move images.

use super::image::RegistryArgs;
use clap::Args;
use std::path::PathBuf;

/// `save`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin save -o web.tar registry.example/web:1.4\n  dunlin save web:1.4 | ssh other dunlin load\n  \
                  dunlin save --format oci-archive -o web.tar web:1.4\n  dunlin save -m -o all.tar web:1.4 db:2"
)]
pub struct SaveArgs {
    /// docker-archive, oci-archive, oci-dir or docker-dir
    #[arg(long, default_value = "docker-archive", value_name = "FORMAT")]
    pub format: String,
    /// Write to a file (or directory) instead of stdout
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// No progress
    #[arg(short, long)]
    pub quiet: bool,
    /// Each name is an image; else all after the first are more names of that one
    #[arg(short, long)]
    pub multi_image_archive: bool,
    /// Accepted; layers of docker archives are never compressed, others always
    #[arg(long, hide = true)]
    pub compress: bool,
    /// Names or ids
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}

/// `push`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin push registry.example/team/web:1.4\n  \
                  dunlin push web:1.4 docker://registry.example/team/web:1.4\n  dunlin push web:1.4 oci-archive:web.tar")]
pub struct PushArgs {
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// Write the digest of what was pushed to a file
    #[arg(long, value_name = "FILE")]
    pub digestfile: Option<PathBuf>,
    /// Form of the manifest: oci or v2s2 [default: the image's own]
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// No progress
    #[arg(short, long)]
    pub quiet: bool,
    /// Name or id
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Where it goes [default: IMAGE]; also oci:, oci-archive:, docker-archive: and dir:
    #[arg(value_name = "DESTINATION")]
    pub destination: Option<String>,
}

/// `load`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin load -i web.tar\n  dunlin load -i layout-dir\n  gzip -dc web.tar.gz | dunlin load"
)]
pub struct LoadArgs {
    /// Archive (docker's or OCI's, also compressed) or directory, instead of stdin
    #[arg(short, long, value_name = "PATH")]
    pub input: Option<PathBuf>,
    /// No progress
    #[arg(short, long)]
    pub quiet: bool,
}

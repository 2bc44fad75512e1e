//! Arguments of the verbs that move images.

use super::image::{PlatformArgs, RegistryArgs};
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
    /// How layers are compressed: gzip; those that came otherwise get another digest, and so does the image's manifest
    #[arg(long, value_name = "FORMAT")]
    pub compression_format: Option<String>,
    /// Compress all layers anew, from 1 (fast) to 9 (small)
    #[arg(long, value_name = "LEVEL")]
    pub compression_level: Option<u32>,
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

/// `copy`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin copy docker://registry.example/web:1.4 docker://other.example/web:1.4\n  \
                  dunlin copy --all docker://registry.example/web:1.4 oci:layout:1.4\n  \
                  dunlin copy docker-archive:web.tar docker://registry.example/web:1.4"
)]
pub struct CopyArgs {
    /// The whole index, all platforms
    #[arg(short, long)]
    pub all: bool,
    /// File with credentials instead of auth.json
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    /// policy.json that says which images may be copied, instead of the usual one
    #[arg(long, value_name = "FILE")]
    pub signature_policy: Option<PathBuf>,
    /// Write the digest of what was copied to a file
    #[arg(long, value_name = "FILE")]
    pub digestfile: Option<PathBuf>,
    /// Credentials USER:PASSWORD for the source
    #[arg(long, value_name = "USER:PASSWORD")]
    pub src_creds: Option<String>,
    /// Credentials USER:PASSWORD for the destination
    #[arg(long, value_name = "USER:PASSWORD")]
    pub dest_creds: Option<String>,
    /// Directory with ca.crt, client.cert and client.key for the source
    #[arg(long, value_name = "DIR")]
    pub src_cert_dir: Option<PathBuf>,
    /// Directory with ca.crt, client.cert and client.key for the destination
    #[arg(long, value_name = "DIR")]
    pub dest_cert_dir: Option<PathBuf>,
    /// Ask the source for HTTPS with a valid certificate [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub src_tls_verify: Option<bool>,
    /// Ask the destination for HTTPS with a valid certificate [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub dest_tls_verify: Option<bool>,
    #[command(flatten)]
    pub platform: PlatformArgs,
    /// No progress
    #[arg(short, long)]
    pub quiet: bool,
    /// docker://NAME, oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME] or dir:DIR
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// The same
    #[arg(value_name = "DESTINATION")]
    pub destination: String,
}

/// `image delete`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin image delete docker://registry.example/web:1.3")]
pub struct DeleteArgs {
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// docker://NAME; all its tags of the same manifest go
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// `import`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin import rootfs.tar.gz web:base\n  dunlin import https://files.example/rootfs.tar.gz web:base\n  \
                  tar -C rootfs -c . | dunlin import -c 'CMD [\"/bin/sh\"]' - web:base"
)]
pub struct ImportArgs {
    /// Change the configuration: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub change: Vec<String>,
    /// Say why
    #[arg(short, long)]
    pub message: Option<String>,
    #[command(flatten)]
    pub platform: PlatformArgs,
    /// No progress
    #[arg(short, long)]
    pub quiet: bool,
    /// Archive of files, also compressed: a path, an http:// or https:// URL, or - for stdin
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What the image is called
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

/// `commit`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin commit web web:tried\n  \
                  dunlin commit -m 'new pages' -a me -c 'ENV MODE=test' web registry.example/web:test")]
pub struct CommitArgs {
    /// Who made it
    #[arg(short, long)]
    pub author: Option<String>,
    /// Change the configuration: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub change: Vec<String>,
    /// Form of the manifest: oci; it is chosen when the image is pushed
    #[arg(short, long, default_value = "oci", hide = true)]
    pub format: String,
    /// Say why
    #[arg(short, long)]
    pub message: Option<String>,
    /// Freeze the container meanwhile [default: true]
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub pause: Option<bool>,
    /// No progress
    #[arg(short, long)]
    pub quiet: bool,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// What the image is called
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
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

/// `cp`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin cp web:/etc/web.conf .\n  dunlin cp ./site/. web:/var/www\n  \
                  dunlin cp web:/var/log - | tar tv\n  tar c . | dunlin cp - web:/data\n\n\
                  One side, or both, is CONTAINER:PATH; `-` is an archive on stdin or stdout."
)]
pub struct CpArgs {
    /// What comes into a container becomes its user's [always; taken for podman's sake]
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub archive: Option<bool>,
    /// Let a directory take the place of a file, or a file that of a directory: not offered
    #[arg(long)]
    pub overwrite: bool,
    /// [CONTAINER:]PATH; `DIR/.` is what is in DIR
    #[arg(value_name = "FROM")]
    pub from: String,
    /// [CONTAINER:]PATH
    #[arg(value_name = "TO")]
    pub to: String,
}

/// The caller's side of `cp`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin cp-local --unpack .")]
pub struct CpLocalArgs {
    /// Write an archive of this; its name in the archive comes on stdin
    #[arg(long, value_name = "PATH", conflicts_with = "unpack")]
    pub pack: Option<PathBuf>,
    /// Take an archive from stdin into this folder
    #[arg(long, value_name = "DIR")]
    pub unpack: Option<PathBuf>,
}

/// `export`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin export web -o web.tar\n  dunlin export web | tar tv\n\n\
                  Volumes and other mounts are not in it."
)]
pub struct ExportArgs {
    /// Write to a file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

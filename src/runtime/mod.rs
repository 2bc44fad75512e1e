//! The OCI runtime: a bundle becomes a running container; processes join it.
//!
//! One file per topic of the kernel or of the specification. [`launch`] holds what callers hand over and get back,
//! [`create`](mod@create) makes a container and [`exec`](mod@exec) a further process in one; [`init`] is what the child does meanwhile. What a
//! specification asks for is first a list ([`rootfs`], [`check`]), which is tested as such, then done ([`mounts`],
//! [`process`]).

pub mod cgroup;
pub mod check;
mod copyup;
pub mod create;
pub mod defaults;
pub mod error;
pub mod etc;
pub mod exec;
pub mod first;
mod groups;
pub mod hold;
pub mod hooks;
mod idmap;
mod init;
mod join;
mod label;
pub mod launch;
mod links;
mod mapped;
mod message;
pub mod mounts;
mod nodes;
pub mod notify;
pub mod oci;
mod options;
mod process;
mod program;
mod remount;
mod resources;
pub mod rootfs;
mod schedule;
mod score;
pub mod sealed;
pub mod seccomp;
pub mod spec;
mod sysctl;
mod terminal;
mod times;
pub mod user;

pub use process::filter;

//! The OCI runtime: a bundle becomes a running container; processes join it.
//!
//! One file per topic of the kernel or of the specification. [`launch`] holds what callers hand over and get back.

pub mod cgroup;
pub mod error;
pub mod launch;
pub mod seccomp;

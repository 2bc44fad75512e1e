//! The only unsafe code: thin typed wrappers over the kernel, one file per topic. Imports nothing of ours.

pub mod event;
pub mod seccomp;
pub mod socket;
pub mod tty;

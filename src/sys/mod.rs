//! The only unsafe code: thin typed wrappers over the kernel, one file per topic. Imports nothing of ours.

pub mod alloc;
pub mod bpf;
mod call;
pub mod clock;
pub mod creds;
pub mod errno;
pub mod event;
pub mod footprint;
pub mod fs;
pub mod inflate;
pub mod landlock;
pub mod mount;
pub mod netlink;
pub mod ns;
pub mod path;
pub mod process;
pub mod sandbox;
pub mod schedule;
pub mod seal;
pub mod seccomp;
pub mod socket;
pub mod tty;
#[cfg(all(target_env = "musl", panic = "abort"))]
mod unwind;
pub mod watchdog;

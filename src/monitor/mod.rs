//! The monitor: parent of one container's first process. It keeps output in bounded logs and the exit status on disk,
//! relays stdio, runs execs and health probes, restarts what no app owns, and tells who listens.

pub mod client;
pub mod log;
pub mod state;
pub mod wire;

//! The monitor: parent of one container's first process. It keeps output in bounded logs and the exit status on disk,
//! relays stdio, runs execs and health probes, restarts what no app owns, and tells who listens.

mod children;
pub mod client;
mod clients;
mod exec;
pub mod handed;
mod http;
mod launch;
mod life;
pub mod log;
mod main;
mod memory;
pub mod network;
mod probe;
mod run;
mod serve;
mod starter;
pub mod state;
mod stdio;
mod token;
pub mod wire;

pub use main::main;

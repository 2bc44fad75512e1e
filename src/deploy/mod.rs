//! Carries out what `plan` decides: from a document to running apps, whole sets at a time, and back.
//!
//! One deployment of a source goes its way through the states of PROTOCOL.md. Everything is fetched, checked and created under
//! staging names before anything stops; old containers stay on the disk until the new set is committed. [`core`] decides and keeps
//! the journal, [`work`] does the jobs through [`hands`], [`Deployer`] is the thread around them.

mod accept;
mod alone;
mod boot;
mod care;
pub mod core;
#[cfg(test)]
mod degraded;
pub mod engine;
#[cfg(test)]
mod fake;
pub mod files;
mod gate;
pub mod hands;
#[cfg(test)]
mod holding;
#[cfg(test)]
mod independent;
pub mod kill;
mod locks;
#[cfg(test)]
mod rehearsal;
mod report;
mod room;
mod save;
#[cfg(test)]
mod scenarios;
pub mod slots;
mod stage;
mod switch;
mod thread;
mod trial;
mod watch;
pub mod work;
#[cfg(test)]
mod world;

pub use core::{Command, Conditions, Report, Settings, Wish};
pub use engine::EngineHands;
pub use files::Source;
pub use thread::{Deployer, Reports, StartError};

//! dunlin: a container agent for edge devices, as one binary with several roles.

pub mod agent;
pub mod config;
pub mod disk;
pub mod engine;
pub mod fleet;
pub mod image;
pub mod keeper;
pub mod log;
pub mod monitor;
pub mod plan;
pub mod registry;
pub mod runtime;
pub mod store;
pub mod sys;
pub mod types;
pub mod uplink;

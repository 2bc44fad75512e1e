//! Containers: what both the command line and the agent call.

pub mod capability;
pub mod logs;
pub mod names;
pub mod options;
pub mod signal;

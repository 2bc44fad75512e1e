//! Containers: what both the command line and the agent call.

pub mod capability;
pub mod error;
pub mod filter;
pub mod index;
pub mod logs;
pub mod names;
pub mod options;
pub mod signal;
pub mod view;

pub use error::EngineError;

//! The daemon: what the operator wants, taken in, carried out and reported.

pub mod identity;
pub mod intake;
pub mod local;
pub mod sources;

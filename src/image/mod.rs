//! Joins registry and store: pull, and the unpacking of layers by sandboxed helpers.

pub mod tar;
pub mod tree;
pub mod unpack;
pub mod worker;

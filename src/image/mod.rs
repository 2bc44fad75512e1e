//! Joins registry and store: pull, and the unpacking of layers by sandboxed helpers.

pub mod decode;
pub mod tar;
pub mod tree;
pub mod unpack;
pub mod worker;

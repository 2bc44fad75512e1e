//! Pure data: names, documents, states and every bound. No file, network, clock or environment.

pub mod app;
pub mod base64;
pub mod bounds;
pub mod container;
pub mod deployment;
pub mod digest;
pub mod document;
pub mod hash;
pub mod health;
pub mod idmap;
pub mod ids;
pub mod keys;
pub mod limits;
pub mod network;
pub mod oci;
pub mod platform;
pub mod read;
pub mod reference;
pub mod sorted;
pub mod text;
pub mod time;

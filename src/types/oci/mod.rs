//! The OCI's documents.

pub mod image;
pub mod read;
pub mod runtime;

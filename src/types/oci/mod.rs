//! The OCI's documents.

pub mod image;
pub mod runtime;

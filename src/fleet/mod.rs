//! The operator's side: signing documents.

pub mod sign;

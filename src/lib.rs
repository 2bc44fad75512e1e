//! dunlin.
pub mod sys;

//! Integration tests, on real parts: one binary.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, missing_docs)]

mod cli;
mod fixture;
mod house;
mod registry;
mod testbed;
mod units;

//! Integration tests, on real parts: one binary.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, missing_docs)]

mod agent;
mod device;
mod cli;
mod fixture;
mod house;
mod malicious;
mod monitor;
mod keeper;
mod registry;
mod testbed;
mod units;

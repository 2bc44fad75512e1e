//! Integration tests, on real parts: one binary.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, missing_docs)]

mod agent;
mod app;
mod check;
mod cli;
mod conformance;
mod device;
mod faults;
mod fixture;
mod footprint;
mod full;
mod hardening;
mod house;
mod keeper;
mod kill;
pub mod kills;
mod machines;
mod makers;
mod malicious;
mod monitor;
mod pack;
mod pull;
mod readme;
mod registry;
mod renewal;
pub mod resume;
mod runtime;
mod runtime_cli;
mod testbed;
mod units;
mod unpack;
mod update;

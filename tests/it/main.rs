//! Integration tests, on real parts: one binary.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, missing_docs)]

/// A device; the test is skipped, loudly, where none can be had.
macro_rules! device {
    ($topic:literal, $setup:expr) => {
        match $crate::device::Device::new($topic, &$setup) {
            Ok(device) => device,
            Err(reason) => $crate::skip!("{reason}"),
        }
    };
}

mod acl;
mod agent;
mod app;
mod bench;
mod brokers;
mod check;
mod cli;
mod command;
mod conformance;
mod device;
mod enroll;
mod faults;
mod fixture;
mod fleet;
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
mod network;
mod pack;
mod peer;
mod pull;
mod readme;
mod registry;
mod renewal;
pub mod resume;
mod runtime;
mod runtime_cli;
mod sealed;
mod testbed;
mod together;
mod units;
mod unpack;
mod update;

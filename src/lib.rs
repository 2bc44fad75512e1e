//! dunlin: a container agent for edge devices, as one binary with several roles.
//!
//! It pulls per-architecture OCI images from manifest lists, keeps them in a crash-safe store, runs them rootless under
//! cgroup limits, checks their health and updates them with automatic rollback, commanded over MQTT or by a podman-like
//! command line. There is no engine behind it.
//!
//! # Processes
//!
//! One binary, several roles, chosen in `main.rs` before any thread exists.
//!
//! | role | how many | what it is |
//! |---|---|---|
//! | `agent` | one per device | speaks MQTT and HTTP, decides; never touches a container's process or files |
//! | `keeper` | one per store | owns the delegated cgroup tree and the store's user namespace, starts monitors and workers |
//! | `monitor` | one per container | parent of the container's first process: logs, terminal, exec, probes, exit |
//! | `init` | - | the monitor's child until it execs the container's program (`runtime`) |
//! | `worker` | when needed | reads, writes and removes trees inside the store's user namespace, sandboxed |
//! | `decode` | one per layer in flight | turns gzip or zstd into tar, with nothing but `read` and `write` left to it |
//! | `cli` | - | the command line |
//!
//! # Storeys
//!
//! A storey imports only what lies below it; `tests/it/house.rs` holds the table.
//!
//! ```text
//! types sys                    pure data | the only unsafe code. Neither imports anything of ours
//! disk config log              durable files and locks | settings, boards, ecosystem files | logging
//! plan                         pure decisions; imports types only
//! registry store uplink        OCI distribution client | layers and images on disk | MQTT: topics, envelope, session
//! image runtime                joins registry and store | the OCI runtime
//! monitor keeper               the long-lived small processes
//! engine                       containers and images: what both the command line and the agent call
//! deploy                       carries out plan's decisions: journal, staging, switch, rollback
//! agent fleet                  the daemon's loop | the operator's side
//! cli                          arguments, commands, rendering
//! main.rs                      picks the role
//! ```
//!
//! # Where to begin reading
//!
//! - An image comes in: [`image`] (the pipeline and the unpacker), [`registry`] (the client), [`store`] (the format on disk).
//! - A container comes up: [`engine`] writes its record and bundle, [`keeper`] starts a [`monitor`], that launches
//!   through [`runtime`].
//! - An update: [`agent`] takes the document in, [`plan`] decides, [`deploy`] journals and carries out.
//! - The OCI's documents, which containers and images are described by: [`types::oci`].
//! - Where everything lies: [`disk::layout`]. Every bound: [`types::bounds`]. Every environment variable: [`config::env`].

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr))]

pub mod agent;
pub mod cli;
pub mod config;
pub mod deploy;
pub mod disk;
pub mod engine;
pub mod fleet;
pub mod image;
pub mod keeper;
pub mod log;
pub mod monitor;
pub mod plan;
pub mod registry;
pub mod runtime;
pub mod store;
pub mod sys;
pub mod types;
pub mod uplink;

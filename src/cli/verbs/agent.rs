//! `agent`: the daemon.

use crate::agent::{self, Start};
use crate::cli::failure::Failure;
use crate::config::env;
use crate::deploy::{engine::EngineHands, kill};
use crate::engine::Engine;
use crate::runtime::cgroup::Tree;
use crate::sys::fs;
use std::fs::File;
use std::sync::Arc;

/// Runs the agent until it is asked to stop.
pub fn agent(engine: Engine) -> Result<u8, Failure> {
    if let Some(point) = env::get(env::DUNLIN_KILL_POINT) {
        kill::arm(&point.to_string_lossy()).map_err(|error| Failure::new(error.to_string()))?;
    }
    let settings = engine.settings().clone();
    let layout = engine.layout().clone();
    let cgroup = match engine.keeper_info()?.cgroup {
        Tree::V2 { .. } => "v2",
        Tree::V1 { .. } => "v1",
        Tree::None { .. } => "none",
    };
    let disk = File::open(layout.data()).and_then(|data| fs::size(&data)).unwrap_or(0);
    let hands = Arc::new(EngineHands::new(Arc::new(engine)));
    let start = Start {
        settings,
        layout,
        hands,
        cgroup: cgroup.to_owned(),
        disk,
    };
    agent::run(start).map_err(|error| Failure::new(error.to_string()))?;
    Ok(0)
}

//! The keeper: one small, single-threaded, long-lived process per store. It owns the store's control groups and user
//! namespace and starts monitors and workers inside them, so that a command in any session and an agent in any unit work
//! alike.
//!
//! ```text
//! <runroot>/keeper.sock    packets of `wire`, from the store's owner and from root
//! <runroot>/keeper.lock    held while a keeper lives: there is only one
//! <runroot>/keeper.start    held while somebody starts one: only one is started
//! <runroot>/keeper.guard    held by the first process of the keeper's unit: it alone starts keepers
//! <runroot>/keeper.state   the control groups, so that the next keeper takes over the same ones
//! ```
//!
//! A keeper that is killed leaves monitors and containers alone; the next one finds them by the monitors' state files. One
//! that nobody needs leaves after a while, unless a unit holds it.

pub mod client;
pub mod start;
pub mod wire;

mod guard;
mod name;
mod reload;
mod run;
mod serve;
mod spawn;
mod state;
mod stop;
mod userns;

pub use client::{Keeper, KeeperError, connect, connect_or_start};
pub use run::main;
pub use userns::enter;
pub use wire::Info;

/// Name of the socket below the run root.
pub const SOCKET: &str = "keeper.sock";

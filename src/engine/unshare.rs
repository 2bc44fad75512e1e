//! Sessions of `dunlin unshare`: commands of people in the store's user namespace, each with mounts of its own.
//!
//! dunlin knows that it runs in one by a variable that the session sets. It is root there, and yet the store's owner: it
//! owns the store's files, and everything that asks who the caller is must ask [`caller`]. The keeper stays outside.

use crate::config::env;
use crate::keeper::{Keeper, KeeperError};
use crate::sys::{creds, ns};
use std::os::fd::OwnedFd;

use super::{Engine, EngineError};

/// The user id that the store's owner has outside, where this process is in a session.
pub fn session() -> Option<u32> {
    let uid = env::get(env::DUNLIN_UNSHARED)?.to_str()?.parse().ok()?;
    // Whoever only has the variable is in none.
    let is_in = creds::effective_ids().0 == 0 && ns::has_host_ids().is_ok_and(|host| !host);
    is_in.then_some(uid)
}

/// The user id of this process, as it is outside of any session.
pub fn caller() -> u32 {
    session().unwrap_or_else(|| creds::effective_ids().0)
}

impl Engine {
    /// The store's user namespace, and the connection that keeps the keeper from leaving. None in a session, which is in it.
    pub fn namespace(&self) -> Result<Option<(OwnedFd, Keeper)>, EngineError> {
        if session().is_some() {
            return Ok(None);
        }
        let mut keeper = self.keeper()?;
        let namespace = keeper.namespace()?;
        Ok(Some((namespace, keeper)))
    }
}

/// What it means that no keeper runs: one started from a session would have another user namespace.
pub(super) fn only_connects(error: KeeperError) -> EngineError {
    match error {
        KeeperError::NotRunning { .. } => EngineError::Session,
        other => other.into(),
    }
}

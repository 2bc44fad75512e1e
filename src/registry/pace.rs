//! A bound on the bytes per second that all blobs take together.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How far reading may run ahead of the rate.
const BURST: Duration = Duration::from_millis(100);
/// The longest wait at once, so that a new rate takes effect soon.
const LONGEST: Duration = Duration::from_millis(500);

/// Shared by all streams of a client. Without a rate it never waits.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    state: Mutex<Option<State>>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    rate: NonZeroU64,
    /// When the bytes so far are paid for.
    paid: Instant,
}

impl Pace {
    /// Changes the rate, in bytes per second.
    pub(crate) fn set(&self, rate: Option<NonZeroU64>) {
        let state = rate.map(|rate| State {
            rate,
            paid: Instant::now(),
        });
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Counts bytes that were read.
    pub(crate) fn spend(&self, bytes: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(State { rate, paid }) = &mut *state {
            let cost = Duration::from_secs_f64(bytes as f64 / rate.get() as f64);
            *paid = (*paid).max(Instant::now()) + cost;
        }
    }

    /// Waits until more may be read.
    pub(crate) async fn wait(&self) {
        loop {
            let state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let Some(State { paid, .. }) = state.filter(|state| state.paid > now + BURST) else {
                return;
            };
            sleep_until((paid - BURST).min(now + LONGEST)).await;
        }
    }
}

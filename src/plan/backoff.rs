//! How long to wait before the same thing is tried again over a network or a full disk.

/// A growing wait, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait.
    pub first: u64,
    /// The longest wait.
    pub max: u64,
}

/// Fetching an image: 2 s doubling up to 10 minutes.
pub const FETCH: Backoff = Backoff {
    first: 2_000,
    max: 600_000,
};

/// A disk that is full or refuses: 5 s doubling up to 5 minutes.
pub const DISK: Backoff = Backoff {
    first: 5_000,
    max: 300_000,
};

impl Backoff {
    /// The wait before try `attempt` (0 is the first repetition). `dice` is random: the wait is between half and the whole of the
    /// doubled time, so that a fleet does not come back at once.
    pub fn wait(&self, attempt: u32, dice: u32) -> u64 {
        let doubled = if attempt >= 63 {
            u64::MAX
        } else {
            self.first.saturating_mul(1 << attempt)
        };
        let whole = doubled.min(self.max);
        let half = whole / 2;
        half + (u128::from(whole - half) * u128::from(dice) / u128::from(u32::MAX)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_spread_over_half() {
        let rule = Backoff {
            first: 1_000,
            max: 10_000,
        };
        for (attempt, low, high) in [
            (0, 500, 1_000),
            (1, 1_000, 2_000),
            (3, 4_000, 8_000),
            (4, 5_000, 10_000),
            (63, 5_000, 10_000),
            (u32::MAX, 5_000, 10_000),
        ] {
            assert_eq!(
                (rule.wait(attempt, 0), rule.wait(attempt, u32::MAX)),
                (low, high),
                "attempt {attempt}"
            );
        }
        assert_eq!(Backoff { first: 0, max: 0 }.wait(5, 77), 0);
    }
}

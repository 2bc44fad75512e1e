//! How long a connection may be silent: as long as the settings say, and shorter where somebody on the way (a NAT, a mobile network) forgets
//! silent connections sooner.

use crate::types::time::{Mono, Span};

/// The shortest that is tried.
const LEAST_MS: u64 = 30_000;
/// So many silences without a loss, and a longer one is tried with the next connection.
const PROVEN: u64 = 20;

/// What was learned of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepAlive {
    most: u64,
    current: u64,
    /// A silence that was too long, since then not tried again.
    failed: Option<u64>,
    since: Option<Mono>,
}

impl KeepAlive {
    /// Begins with what the settings say.
    pub fn new(most: Span) -> KeepAlive {
        KeepAlive {
            most: most.ms(),
            current: most.ms(),
            failed: None,
            since: None,
        }
    }

    /// A connection stands.
    pub fn connected(&mut self, now: Mono) {
        self.since = Some(now);
    }

    /// A connection is lost, `silent` where a ping had no answer: what to begin the next one with.
    pub fn lost(&mut self, silent: bool, now: Mono) -> Span {
        let held = self.since.take().map(|since| now.since(since));
        let proven = held.is_some_and(|held| held >= self.current.saturating_mul(PROVEN));
        if silent && held.is_some() {
            self.failed = Some(self.current);
            self.current = (self.current / 2).max(LEAST_MS.min(self.most));
        } else if proven {
            let longer = self.current.saturating_mul(2).min(self.most);
            // What failed once is tried again only after the shorter one has held long: networks change.
            if self.failed.is_none_or(|failed| longer < failed) || held >= Some(self.current * PROVEN * 10) {
                self.current = longer;
            }
        }
        Span(self.current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_shortened_where_links_are_forgotten_and_grows_again() {
        let mut keep = KeepAlive::new(Span::seconds(900));
        let mut at = 0;
        let mut lose = |keep: &mut KeepAlive, silent: bool, held_s: u64| {
            keep.connected(Mono(at));
            at += held_s * 1000;
            keep.lost(silent, Mono(at)).ms() / 1000
        };
        for (silent, held, expected, name) in [
            (false, 10, 900, "a broker that goes says nothing about silence"),
            (true, 1_800, 450, "a ping without an answer"),
            (true, 900, 225, "again"),
            (false, 100, 225, "too soon to tell"),
            (false, 225 * 20, 225, "twice as long has failed before"),
            (false, 225 * 200, 450, "after a long time it is tried again"),
            (true, 900, 225, "and fails again"),
            (true, 450, 112, "shorter"),
            (false, 113 * 20, 112, "what has just failed is not tried so soon"),
            (true, 1, 56, "down"),
            (true, 1, 30, "down to the least"),
            (true, 1, 30, "and no further"),
        ] {
            assert_eq!(lose(&mut keep, silent, held), expected, "{name}");
        }
        let mut short = KeepAlive::new(Span::seconds(5));
        assert_eq!(lose(&mut short, true, 10), 5, "the settings' shorter one stays");
        assert_eq!(
            KeepAlive::new(Span::seconds(900)).lost(true, Mono(5)).ms(),
            900_000,
            "never connected"
        );
    }
}

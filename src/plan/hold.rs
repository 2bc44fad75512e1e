//! Update locks: apps that may hold their own update back, for how long, and who overrules them.

use crate::types::time::Mono;

/// Longest time that an app's lock holds its update back unless its document says otherwise, milliseconds: a day, so that a lock
/// that was forgotten does not keep a fix out for good.
pub const LOCK_TIMEOUT_MS: u64 = 86_400_000;

/// The lock is looked at again after this, milliseconds.
pub const LOCK_LOOK_MS: u64 = 5_000;

/// An app that an update stops and that may lock itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Locker<'a> {
    /// Its name.
    pub app: &'a str,
    /// Its lock is taken.
    pub held: bool,
    /// Somebody overruled it.
    pub overruled: bool,
    /// How long it may hold the update back, milliseconds.
    pub timeout: u64,
}

/// What the locks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Nobody holds the update back.
    Free,
    /// This app does; look again at this time.
    Held(&'a str, Mono),
    /// This app did for too long.
    TimedOut(&'a str),
}

/// Judges the locks of an update that waited `waited` milliseconds for locks by now.
pub fn judge<'a>(lockers: &[Locker<'a>], waited: u64, now: Mono) -> Verdict<'a> {
    let holders = || lockers.iter().filter(|one| one.held && !one.overruled);
    if let Some(late) = holders().find(|one| waited >= one.timeout) {
        return Verdict::TimedOut(late.app);
    }
    let left = holders().map(|one| one.timeout - waited).min().unwrap_or(0);
    match holders().next() {
        Some(first) => Verdict::Held(first.app, now.plus(left.clamp(1, LOCK_LOOK_MS))),
        None => Verdict::Free,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_hold_until_they_are_freed_overruled_or_too_old() {
        let one = |app, held, overruled, timeout| Locker {
            app,
            held,
            overruled,
            timeout,
        };
        let at = |ms: u64| Mono(1_000 + ms);
        for (lockers, waited, expected) in [
            (vec![], 0, Verdict::Free),
            (vec![one("a", false, false, 10_000)], 99_000, Verdict::Free),
            (vec![one("a", true, true, 10_000)], 99_000, Verdict::Free),
            (vec![one("a", true, false, 60_000)], 0, Verdict::Held("a", at(5_000))),
            (
                vec![one("a", true, false, 60_000)],
                58_000,
                Verdict::Held("a", at(2_000)),
            ),
            (vec![one("a", true, false, 60_000)], 60_000, Verdict::TimedOut("a")),
            (vec![one("a", true, false, 0)], 0, Verdict::TimedOut("a")),
            (
                vec![one("a", true, true, 0), one("b", true, false, 60_000)],
                1_000,
                Verdict::Held("b", at(5_000)),
            ),
            (
                vec![one("a", true, false, 60_000), one("b", true, false, 1_000)],
                1_000,
                Verdict::TimedOut("b"),
            ),
            (
                vec![one("a", false, false, 1), one("b", true, false, 9_000)],
                8_000,
                Verdict::Held("b", at(1_000)),
            ),
        ] {
            assert_eq!(judge(&lockers, waited, Mono(1_000)), expected, "{lockers:?} {waited}");
        }
    }
}

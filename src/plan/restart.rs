//! Restart policies: whether and when an exited container starts again, and when that is a crash loop.

use crate::types::container::{AppRestart, AppRestartPolicy, RestartPolicy};
use crate::types::time::Mono;

/// The numbers of the back-off, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Wait before the first restart in a row; doubled with each.
    pub first: u64,
    /// Longest wait.
    pub max: u64,
    /// A run of this length ends the row: the next restart waits `first` again.
    pub stable: u64,
    /// Restarts in a row from which on it is a crash loop.
    pub loop_after: u32,
}

/// The pace unless an app says otherwise: 100 ms doubling up to 5 minutes, stable after 60 s, a loop from the fifth on.
pub const PACE: Pace = Pace {
    first: 100,
    max: 300_000,
    stable: 60_000,
    loop_after: 5,
};

/// An app's policy and pace, from its document.
pub fn of_app(restart: &AppRestart) -> (RestartPolicy, Pace) {
    let policy = match restart.policy {
        AppRestartPolicy::Always => RestartPolicy::Always,
        AppRestartPolicy::OnFailure => RestartPolicy::OnFailure(0),
        AppRestartPolicy::No => RestartPolicy::No,
    };
    let max = restart.backoff_max.ms();
    (
        policy,
        Pace {
            first: PACE.first.min(max),
            max,
            ..PACE
        },
    )
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The program exited with this code (128 + n for signal n).
    Exit(i32),
    /// The kernel ended it for want of memory.
    Oom,
    /// It could not be started at all.
    NotStarted,
    /// Somebody asked for it to stop.
    Stopped,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Leave it.
    Stay,
    /// Start it at this time.
    StartAt(Mono),
}

/// The history that decides over one container's restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Restarts {
    /// Restarts since the container was created.
    pub total: u32,
    /// Restarts in a row, without a stable run between.
    pub in_row: u32,
    /// Whether the row is long enough to be called a crash loop.
    pub looping: bool,
}

impl Restarts {
    /// Decides over a run that began at `started` (`None` when it never did) and ended at `now`; counts the restart if there is one.
    pub fn ended(
        &mut self,
        policy: RestartPolicy,
        pace: &Pace,
        ending: Ending,
        started: Option<Mono>,
        now: Mono,
    ) -> Decision {
        let ran = started.map_or(0, |at| now.since(at));
        if ran >= pace.stable && ending != Ending::NotStarted {
            self.in_row = 0;
            self.looping = false;
        }
        let again = match (policy, ending) {
            (_, Ending::Stopped) | (RestartPolicy::No, _) | (RestartPolicy::OnFailure(_), Ending::Exit(0)) => false,
            (RestartPolicy::OnFailure(0) | RestartPolicy::Always | RestartPolicy::UnlessStopped, _) => true,
            (RestartPolicy::OnFailure(max), _) => self.in_row < max,
        };
        if !again {
            return Decision::Stay;
        }
        let wait = backoff(pace, self.in_row);
        self.total = self.total.saturating_add(1);
        self.in_row = self.in_row.saturating_add(1);
        self.looping = self.in_row >= pace.loop_after;
        Decision::StartAt(now.plus(wait))
    }

    /// Forgets the row: somebody started it by hand, or another version took its place.
    pub fn forget(&mut self) {
        self.in_row = 0;
        self.looping = false;
    }
}

/// Milliseconds to wait before the restart that follows `in_row` restarts in a row.
pub fn backoff(pace: &Pace, in_row: u32) -> u64 {
    let doubled = if in_row >= 63 {
        u64::MAX
    } else {
        pace.first.saturating_mul(1 << in_row)
    };
    doubled.min(pace.max)
}

/// Whether a container with this policy is started at boot.
pub fn at_boot(policy: RestartPolicy, stopped_by_hand: bool) -> bool {
    match policy {
        RestartPolicy::Always => true,
        RestartPolicy::UnlessStopped => !stopped_by_hand,
        RestartPolicy::No | RestartPolicy::OnFailure(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_over_every_ending() {
        use Ending::{Exit, NotStarted, Oom, Stopped};
        let endings = [Exit(0), Exit(1), Exit(137), Oom, NotStarted, Stopped];
        for (policy, expected) in [
            (RestartPolicy::No, [false, false, false, false, false, false]),
            (RestartPolicy::OnFailure(0), [false, true, true, true, true, false]),
            (RestartPolicy::OnFailure(1), [false, true, true, true, true, false]),
            (RestartPolicy::Always, [true, true, true, true, true, false]),
            (RestartPolicy::UnlessStopped, [true, true, true, true, true, false]),
        ] {
            for (ending, again) in endings.into_iter().zip(expected) {
                let decision = Restarts::default().ended(policy, &PACE, ending, Some(Mono(0)), Mono(10));
                assert_eq!(decision != Decision::Stay, again, "{policy:?} {ending:?}");
            }
        }
    }

    #[test]
    fn on_failure_gives_up_after_its_number_and_a_stable_run_renews_it() {
        let mut restarts = Restarts::default();
        let mut end = |started, now| {
            restarts.ended(
                RestartPolicy::OnFailure(2),
                &PACE,
                Ending::Exit(1),
                Some(Mono(started)),
                Mono(now),
            )
        };
        assert_ne!(end(0, 1), Decision::Stay);
        assert_ne!(end(10, 11), Decision::Stay);
        assert_eq!(end(20, 21), Decision::Stay);
        assert_ne!(end(30, 30 + PACE.stable), Decision::Stay);
    }

    #[test]
    fn waits_double_up_to_the_cap_and_begin_again_after_a_stable_run() {
        let mut restarts = Restarts::default();
        let mut now = Mono(1_000);
        let mut waits = Vec::new();
        for _ in 0..14 {
            let Decision::StartAt(at) = restarts.ended(RestartPolicy::Always, &PACE, Ending::Exit(1), Some(now), now)
            else {
                panic!("must restart")
            };
            waits.push(at.since(now));
            now = at;
        }
        assert_eq!(
            waits,
            [
                100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 102_400, 204_800, 300_000, 300_000
            ]
        );
        assert!(restarts.looping);
        assert_eq!((restarts.total, restarts.in_row), (14, 14));
        let later = now.plus(PACE.stable);
        assert_eq!(
            restarts.ended(RestartPolicy::Always, &PACE, Ending::Exit(1), Some(now), later),
            Decision::StartAt(later.plus(100))
        );
        assert_eq!((restarts.total, restarts.in_row, restarts.looping), (15, 1, false));
    }

    #[test]
    fn a_crash_loop_is_seen_at_its_number() {
        let mut restarts = Restarts::default();
        for n in 1..=6 {
            restarts.ended(RestartPolicy::Always, &PACE, Ending::NotStarted, None, Mono(n));
            assert_eq!(restarts.looping, n >= 5, "restart {n}");
        }
        restarts.forget();
        assert!(!restarts.looping);
        assert_eq!(restarts.total, 6);
    }

    #[test]
    fn the_longest_row_does_not_overflow() {
        for in_row in [62, 63, 64, u32::MAX] {
            assert_eq!(backoff(&PACE, in_row), PACE.max);
        }
        let mut restarts = Restarts {
            total: u32::MAX,
            in_row: u32::MAX,
            looping: true,
        };
        assert_eq!(
            restarts.ended(RestartPolicy::Always, &PACE, Ending::Oom, None, Mono(u64::MAX)),
            Decision::StartAt(Mono(u64::MAX))
        );
    }

    #[test]
    fn boot_starts_what_should_run() {
        for (policy, by_hand, expected) in [
            (RestartPolicy::Always, true, true),
            (RestartPolicy::Always, false, true),
            (RestartPolicy::UnlessStopped, true, false),
            (RestartPolicy::UnlessStopped, false, true),
            (RestartPolicy::No, false, false),
            (RestartPolicy::OnFailure(0), false, false),
        ] {
            assert_eq!(at_boot(policy, by_hand), expected, "{policy:?} {by_hand}");
        }
    }
}

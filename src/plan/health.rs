//! The judge of health probes: from probe results and times to starting, healthy or unhealthy.
//!
//! The rules are those of the image specification's `HEALTHCHECK` with its later start interval: a failure inside the start
//! period does not count, the first success ends the start period, `failures` failures in a row make unhealthy, `successes`
//! successes in a row make healthy. The first probe is due at once, so that a program that is ready is seen at once.

use crate::types::bounds::PROBE_INTERVAL_MIN_MS;
use crate::types::health::{Health, HealthStatus};
use crate::types::time::Mono;

/// What one probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// The probe succeeded within its time.
    Ok,
    /// The probe ran and failed.
    Failed,
    /// The probe did not answer within its time-out.
    TimedOut,
}

/// The numbers that a window judges by: milliseconds and counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Time after the start in which failures do not count.
    pub start_period: u64,
    /// Time from the end of one probe to the next.
    pub interval: u64,
    /// The same until the first success, while the start period lasts.
    pub start_interval: u64,
    /// Time that one probe may take.
    pub timeout: u64,
    /// Failures in a row that make unhealthy; 0 is taken as 1.
    pub failures: u32,
    /// Successes in a row that make healthy; 0 is taken as 1.
    pub successes: u32,
}

impl From<&Health> for Rules {
    fn from(health: &Health) -> Rules {
        Rules {
            start_period: health.start_period.ms(),
            interval: health.interval.ms(),
            start_interval: health.start_interval.ms(),
            timeout: health.timeout.ms(),
            failures: health.failures,
            successes: health.successes,
        }
    }
}

impl Rules {
    /// The longest time from the start within which a judgement must have come: the start period and all the failures that it takes,
    /// each probe using its whole time. Milliseconds.
    pub fn judged_within(&self) -> u64 {
        let one = self.timeout.saturating_add(self.interval.max(self.start_interval));
        let failing = one.saturating_mul(u64::from(self.failures.max(1)) + 1);
        let succeeding = one.saturating_mul(u64::from(self.successes.max(1)) + 1);
        self.start_period.saturating_add(failing.max(succeeding))
    }
}

/// The judgement over one run of a container, from its start to its exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    rules: Rules,
    started: Mono,
    next: Mono,
    status: HealthStatus,
    starting: bool,
    failed_in_row: u32,
    ok_in_row: u32,
    failure: Option<Probe>,
}

impl Window {
    /// A window that opens with the container's start.
    pub fn new(rules: Rules, started: Mono) -> Window {
        Window {
            rules,
            started,
            next: started,
            status: HealthStatus::Starting,
            starting: true,
            failed_in_row: 0,
            ok_in_row: 0,
            failure: None,
        }
    }

    /// The judgement so far.
    pub fn status(&self) -> HealthStatus {
        self.status
    }

    /// Failures in a row that counted, the last probe included.
    pub fn failing_streak(&self) -> u32 {
        self.failed_in_row
    }

    /// The last probe's result when it was a failure, whether it counted or not.
    pub fn last_failure(&self) -> Option<Probe> {
        self.failure
    }

    /// When the next probe is due. One probe runs at a time: ask again after `observe`.
    pub fn due(&self) -> Mono {
        self.next
    }

    /// Milliseconds that a probe may take before it is ended and observed as `TimedOut`.
    pub fn timeout(&self) -> u64 {
        self.rules.timeout
    }

    /// Takes one probe's result. `began` is when the probe was started, `now` when it ended. The new judgement, if it changed.
    ///
    /// A failure counts when the start period was over as the probe began, or a success came before.
    pub fn observe(&mut self, probe: Probe, began: Mono, now: Mono) -> Option<HealthStatus> {
        let before = self.status;
        match probe {
            Probe::Ok => {
                self.starting = false;
                self.failure = None;
                self.failed_in_row = 0;
                self.ok_in_row = self.ok_in_row.saturating_add(1);
                if self.ok_in_row >= self.rules.successes.max(1) {
                    self.status = HealthStatus::Healthy;
                }
            }
            Probe::Failed | Probe::TimedOut => {
                self.failure = Some(probe);
                self.ok_in_row = 0;
                if began.since(self.started) >= self.rules.start_period {
                    self.starting = false;
                }
                if !self.starting {
                    self.failed_in_row = self.failed_in_row.saturating_add(1);
                    if self.failed_in_row >= self.rules.failures.max(1) {
                        self.status = HealthStatus::Unhealthy;
                    }
                }
            }
        }
        self.next = now.plus(self.pace(now));
        (self.status != before).then_some(self.status)
    }

    /// Milliseconds from now to the next probe.
    fn pace(&self, now: Mono) -> u64 {
        let early = self.starting && now.since(self.started) < self.rules.start_period;
        let pace = if early {
            self.rules.start_interval.min(self.rules.interval)
        } else {
            self.rules.interval
        };
        pace.max(PROBE_INTERVAL_MIN_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        start_period: 60_000,
        interval: 10_000,
        start_interval: 1_000,
        timeout: 3_000,
        failures: 3,
        successes: 1,
    };

    /// Feeds probes at these seconds and returns every change.
    fn changes(rules: Rules, probes: &[(u64, Probe)]) -> Vec<(u64, HealthStatus)> {
        let mut window = Window::new(rules, Mono(0));
        let feed = |&(at, probe): &(u64, Probe)| {
            window
                .observe(probe, Mono(at * 1000), Mono(at * 1000))
                .map(|status| (at, status))
        };
        probes.iter().filter_map(feed).collect()
    }

    #[test]
    fn judges_by_streaks_after_the_start_period() {
        use Probe::{Failed as F, Ok as O, TimedOut as T};
        let two = Rules { successes: 2, ..RULES };
        let none = Rules {
            start_period: 0,
            ..RULES
        };
        type Row<'a> = (&'a str, Rules, &'a [(u64, Probe)], &'a [(u64, HealthStatus)]);
        let table: &[Row] = &[
            (
                "the first success is enough",
                RULES,
                &[(0, O)],
                &[(0, HealthStatus::Healthy)],
            ),
            (
                "failures in the start period do not count",
                RULES,
                &[(0, F), (1, T), (2, F), (59, F), (60, F), (70, F)],
                &[],
            ),
            (
                "three after it do",
                RULES,
                &[(0, F), (60, F), (70, T), (80, F)],
                &[(80, HealthStatus::Unhealthy)],
            ),
            (
                "a success ends the start period",
                RULES,
                &[(0, O), (1, F), (2, F), (3, F)],
                &[(0, HealthStatus::Healthy), (3, HealthStatus::Unhealthy)],
            ),
            (
                "a success between starts the count again",
                none,
                &[(0, O), (1, F), (2, F), (3, O), (4, F), (5, F)],
                &[(0, HealthStatus::Healthy)],
            ),
            (
                "unhealthy recovers",
                none,
                &[(0, F), (1, F), (2, F), (3, O)],
                &[(2, HealthStatus::Unhealthy), (3, HealthStatus::Healthy)],
            ),
            (
                "two successes in a row are needed",
                two,
                &[(0, O), (1, F), (2, O), (3, O)],
                &[(3, HealthStatus::Healthy)],
            ),
            (
                "without a start period the first failure counts",
                Rules { failures: 1, ..none },
                &[(0, T)],
                &[(0, HealthStatus::Unhealthy)],
            ),
            (
                "zero counts as one",
                Rules {
                    failures: 0,
                    successes: 0,
                    ..none
                },
                &[(0, F), (1, O)],
                &[(0, HealthStatus::Unhealthy), (1, HealthStatus::Healthy)],
            ),
        ];
        for (name, rules, probes, expected) in table {
            assert_eq!(changes(*rules, probes), *expected, "{name}");
        }
    }

    #[test]
    fn a_probe_that_began_in_the_start_period_does_not_count_though_it_ends_after() {
        let mut window = Window::new(Rules { failures: 1, ..RULES }, Mono(0));
        assert_eq!(window.observe(Probe::TimedOut, Mono(59_000), Mono(62_000)), None);
        assert_eq!(window.failing_streak(), 0);
        assert_eq!(window.last_failure(), Some(Probe::TimedOut));
        assert_eq!(
            window.observe(Probe::TimedOut, Mono(63_000), Mono(66_000)),
            Some(HealthStatus::Unhealthy)
        );
    }

    #[test]
    fn probes_are_due_at_once_then_by_the_start_interval_then_by_the_interval() {
        let mut window = Window::new(RULES, Mono(5_000));
        assert_eq!(window.due(), Mono(5_000));
        window.observe(Probe::Failed, Mono(5_000), Mono(5_010));
        assert_eq!(window.due(), Mono(6_010));
        window.observe(Probe::TimedOut, Mono(6_010), Mono(9_010));
        assert_eq!(window.due(), Mono(10_010));
        window.observe(Probe::Ok, Mono(10_010), Mono(10_011));
        assert_eq!(window.due(), Mono(20_011));
        window.observe(Probe::Failed, Mono(20_011), Mono(20_012));
        assert_eq!(window.due(), Mono(30_012));
        let mut late = Window::new(RULES, Mono(0));
        late.observe(Probe::Failed, Mono(60_000), Mono(60_001));
        assert_eq!(
            late.due(),
            Mono(70_001),
            "after the start period at the ordinary pace, healthy or not"
        );
    }

    #[test]
    fn a_judgement_comes_within_its_time_when_every_probe_times_out() {
        for rules in [
            RULES,
            Rules {
                start_period: 0,
                ..RULES
            },
            Rules {
                failures: 7,
                start_interval: 20_000,
                ..RULES
            },
        ] {
            let mut window = Window::new(rules, Mono(0));
            let mut now = Mono(0);
            while window.status() == HealthStatus::Starting {
                let began = window.due().max(now);
                now = began.plus(rules.timeout);
                window.observe(Probe::TimedOut, began, now);
            }
            assert!(now.0 <= rules.judged_within(), "{rules:?}: {now:?}");
        }
    }

    #[test]
    fn a_pace_of_zero_never_spins() {
        let mut window = Window::new(
            Rules {
                interval: 0,
                start_interval: 0,
                ..RULES
            },
            Mono(0),
        );
        window.observe(Probe::Ok, Mono(7), Mono(7));
        assert_eq!(window.due(), Mono(7 + PROBE_INTERVAL_MIN_MS));
    }
}

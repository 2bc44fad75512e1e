//! Soak: how long a new set must run healthy before it is committed, and what counts against it meanwhile (PROTOCOL.md).
//!
//! Only time in which every app of the deployment runs and is healthy counts. An app's restarts count against its own
//! `max_restarts`; reboots of the device count apart.

use crate::types::deployment::Reason;
use crate::types::time::Mono;

use super::restart::Ending;

/// Reboots of the device that one deployment survives; one more rolls it back with `reboots`.
pub const MAX_REBOOTS: u32 = 3;

/// Longest healthy time between two checkpoints, milliseconds.
const CHECKPOINT_MS: u64 = 30_000;

/// Shortest healthy time between two checkpoints, so that a soak of a second does not wear out flash; milliseconds.
const CHECKPOINT_MIN_MS: u64 = 100;

/// The healthy time of one deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Soak {
    need: u64,
    counted: u64,
    since: Option<Mono>,
    checkpoint: u64,
}

/// What the clock says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing to do until then; `None` while the set is not healthy.
    Going(Option<Mono>),
    /// Write down the counted time.
    Checkpoint,
    /// The whole time is counted.
    Done,
}

impl Soak {
    /// A soak of `need` milliseconds of which `counted` were written down before; not healthy yet.
    pub fn new(need: u64, counted: u64) -> Soak {
        Soak {
            need,
            counted,
            since: None,
            checkpoint: counted,
        }
    }

    /// Healthy milliseconds up to `now`.
    pub fn counted(&self, now: Mono) -> u64 {
        self.counted
            .saturating_add(self.since.map_or(0, |since| now.since(since)))
            .min(self.need.max(self.counted))
    }

    /// Milliseconds that are needed.
    pub fn need(&self) -> u64 {
        self.need
    }

    /// Says whether every app runs and is healthy from `now` on.
    pub fn set_healthy(&mut self, healthy: bool, now: Mono) {
        match (healthy, self.since) {
            (true, None) => self.since = Some(now),
            (false, Some(_)) => {
                self.counted = self.counted(now);
                self.since = None;
            }
            _ => {}
        }
    }

    /// What is to be done at `now`. After `Checkpoint` the caller writes `counted` down and calls `written`.
    pub fn verdict(&self, now: Mono) -> Verdict {
        let counted = self.counted(now);
        if counted >= self.need && (self.since.is_some() || self.need == 0) {
            return Verdict::Done;
        }
        let next = self.checkpoint.saturating_add(self.step());
        if counted >= next {
            return Verdict::Checkpoint;
        }
        Verdict::Going(
            self.since
                .map(|_| now.plus(next.min(self.need).saturating_sub(counted).max(1))),
        )
    }

    /// The caller wrote `counted(now)` down.
    pub fn written(&mut self, now: Mono) {
        self.checkpoint = self.counted(now);
    }

    /// Healthy milliseconds between two checkpoints: a tenth, at the most 30 s.
    fn step(&self) -> u64 {
        (self.need / 10).clamp(CHECKPOINT_MIN_MS, CHECKPOINT_MS)
    }
}

/// What the end of a run of a new version means for its deployment.
///
/// `healthy_before`: it was healthy at some time in this deployment. `restarts`: how often it was started again in this deployment,
/// this end not counted. `again`: its restart policy starts it again. `None`: forgiven.
pub fn ended(ending: Ending, healthy_before: bool, restarts: u32, max_restarts: u32, again: bool) -> Option<Reason> {
    if again && restarts < max_restarts {
        return None;
    }
    match ending {
        Ending::Stopped => None,
        // A program that is done and is not to be started again has not failed.
        Ending::Exit(0) if !again => None,
        Ending::Oom => Some(Reason::Oom),
        Ending::NotStarted => Some(Reason::StartFailed),
        Ending::Exit(_) if healthy_before && max_restarts > 0 => Some(Reason::RestartLoop),
        Ending::Exit(_) => Some(Reason::Exited),
    }
}

/// What a reboot in the middle of a deployment means; `reboots` includes this one.
pub fn rebooted(reboots: u32) -> Option<Reason> {
    (reboots > MAX_REBOOTS).then_some(Reason::Reboots)
}

/// Whether a failure with this reason counts against the version: only what its health gate found, never the network, the disk, the
/// power or a person.
pub fn counts_against(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::StartFailed
            | Reason::Exited
            | Reason::Oom
            | Reason::Unhealthy
            | Reason::ProbeTimeout
            | Reason::RestartLoop
            | Reason::SoakFailed
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_healthy_time_counts() {
        let mut soak = Soak::new(10_000, 0);
        assert_eq!(soak.verdict(Mono(50_000)), Verdict::Going(None));
        soak.set_healthy(true, Mono(50_000));
        soak.set_healthy(true, Mono(50_500));
        assert_eq!(soak.counted(Mono(50_900)), 900);
        soak.set_healthy(false, Mono(50_900));
        soak.set_healthy(false, Mono(70_000));
        assert_eq!(soak.counted(Mono(90_000)), 900);
        assert_eq!(soak.verdict(Mono(90_000)), Verdict::Going(None));
        soak.set_healthy(true, Mono(90_000));
        assert_eq!(soak.verdict(Mono(90_000)), Verdict::Going(Some(Mono(90_100))));
        assert_eq!(soak.verdict(Mono(99_100)), Verdict::Done);
    }

    #[test]
    fn checkpoints_come_every_tenth_and_at_least_every_thirty_seconds() {
        for (need, expected) in [
            (10_000, 1_000),
            (600_000, 30_000),
            (200_000, 20_000),
            (50, 50),
            (500, 100),
        ] {
            let mut soak = Soak::new(need, 0);
            soak.set_healthy(true, Mono(0));
            assert_eq!(soak.verdict(Mono(0)), Verdict::Going(Some(Mono(expected))), "{need}");
            let next = soak.verdict(Mono(expected));
            assert_eq!(
                next,
                if expected == need {
                    Verdict::Done
                } else {
                    Verdict::Checkpoint
                },
                "{need}"
            );
            soak.written(Mono(expected));
            if expected < need {
                assert_eq!(
                    soak.verdict(Mono(expected)),
                    Verdict::Going(Some(Mono(2 * expected))),
                    "{need}"
                );
            }
        }
    }

    #[test]
    fn a_soak_goes_on_from_its_checkpoint() {
        let mut soak = Soak::new(10_000, 9_000);
        soak.set_healthy(true, Mono(5));
        assert_eq!(soak.verdict(Mono(5)), Verdict::Going(Some(Mono(1_005))));
        assert_eq!(soak.verdict(Mono(1_005)), Verdict::Done);
    }

    #[test]
    fn an_unhealthy_set_is_not_done_though_its_time_is() {
        let mut soak = Soak::new(1_000, 0);
        soak.set_healthy(true, Mono(0));
        soak.set_healthy(false, Mono(5_000));
        assert_eq!(soak.counted(Mono(6_000)), 1_000);
        soak.written(Mono(6_000));
        assert_eq!(soak.verdict(Mono(6_000)), Verdict::Going(None));
        assert_eq!(Soak::new(0, 0).verdict(Mono(0)), Verdict::Done, "no soak asked for");
    }

    #[test]
    fn endings_are_forgiven_up_to_the_apps_number() {
        use Ending::{Exit, NotStarted, Oom, Stopped};
        type Row = (Ending, bool, u32, u32, bool, Option<Reason>);
        let table: [Row; 15] = [
            (Exit(1), false, 0, 0, true, Some(Reason::Exited)),
            (Exit(1), true, 0, 0, true, Some(Reason::Exited)),
            (Exit(0), true, 0, 0, true, Some(Reason::Exited)),
            (Exit(1), true, 0, 2, true, None),
            (Exit(1), true, 1, 2, true, None),
            (Exit(1), true, 2, 2, true, Some(Reason::RestartLoop)),
            (Exit(1), false, 2, 2, true, Some(Reason::Exited)),
            (Exit(1), true, 0, 2, false, Some(Reason::RestartLoop)),
            (Exit(0), true, 0, 2, false, None),
            (Exit(0), false, 0, 0, false, None),
            (Oom, true, 1, 2, true, None),
            (Oom, true, 2, 2, true, Some(Reason::Oom)),
            (Oom, false, 0, 0, false, Some(Reason::Oom)),
            (NotStarted, false, 0, 0, true, Some(Reason::StartFailed)),
            (Stopped, true, 9, 0, false, None),
        ];
        for (ending, healthy, restarts, max, again, expected) in table {
            assert_eq!(
                ended(ending, healthy, restarts, max, again),
                expected,
                "{ending:?} {healthy} {restarts}/{max} {again}"
            );
        }
    }

    #[test]
    fn reboots_count_apart() {
        for (reboots, expected) in [(1, None), (2, None), (3, None), (4, Some(Reason::Reboots))] {
            assert_eq!(rebooted(reboots), expected, "{reboots}");
        }
    }

    #[test]
    fn net_disk_and_power_never_count_against_a_version() {
        for reason in [
            Reason::Net,
            Reason::Disk,
            Reason::Reboots,
            Reason::Interrupted,
            Reason::Auth,
            Reason::ImageMissing,
            Reason::Halted,
            Reason::Internal,
        ] {
            assert!(!counts_against(reason), "{reason}");
        }
        for reason in [
            Reason::Exited,
            Reason::Oom,
            Reason::Unhealthy,
            Reason::ProbeTimeout,
            Reason::RestartLoop,
            Reason::SoakFailed,
            Reason::StartFailed,
        ] {
            assert!(counts_against(reason), "{reason}");
        }
    }
}

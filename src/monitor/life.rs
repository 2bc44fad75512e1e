//! The life of a container under its monitor, as a pure decision: (phase, input, now) → what to do.

use crate::plan::restart::{Decision, Ending, PACE, Restarts};
use crate::types::container::{RestartPolicy, Status};
use crate::types::time::Mono;

/// Milliseconds between two tries to kill what does not end.
const KILL_AGAIN_MS: u64 = 2_000;

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// A run is being made.
    Beginning,
    /// Its first process runs.
    Running,
    /// It is frozen.
    Paused,
    /// It was asked to end; it is killed, again and again, from `kill_at` on.
    Stopping {
        /// When.
        kill_at: Mono,
    },
    /// Its processes ended; readers still take their output.
    Draining {
        /// How it ended.
        ending: Ending,
        /// When.
        at: Mono,
    },
    /// The next run begins later.
    Waiting {
        /// When.
        until: Mono,
    },
    /// It ended for good.
    Over,
}

/// Something that came up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// End it for good, within so many milliseconds. `by_hand` when a person or the engine asked, and not the host's
    /// shutdown.
    Stop {
        /// Before it is killed.
        timeout_ms: u64,
        /// Counts as stopped for `unless-stopped`.
        by_hand: bool,
    },
    /// Freeze it.
    Pause,
    /// Thaw it.
    Unpause,
    /// Its first process, and with it all others, ended.
    Ended(Ending),
    /// All output was taken.
    Drained,
    /// The run that was asked for began.
    Started,
    /// The run that was asked for did not begin.
    NotStarted,
    /// Time went by.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    Nothing,
    /// Send the stop signal, then thaw if it was frozen.
    Ask {
        /// It is frozen.
        thaw: bool,
    },
    /// Kill everything in it.
    Kill,
    /// Freeze it, and go back to [`Phase::Running`] if that fails.
    Freeze,
    /// Thaw it.
    Thaw,
    /// Begin the next run.
    Start,
    /// Tell that the next run begins in so many milliseconds.
    Announce(u64),
    /// Clean up and leave.
    Finish,
    /// Refuse: the request does not fit the phase.
    Refuse(&'static str),
}

/// A container's life.
#[derive(Debug, Clone)]
pub struct Life {
    /// Where it is.
    pub phase: Phase,
    /// Its restarts.
    pub restarts: Restarts,
    /// Somebody asked it to stop.
    pub stop_asked: bool,
    policy: RestartPolicy,
    leaving: bool,
    started: Option<Mono>,
}

impl Life {
    /// A container whose first run is being made.
    pub fn new(policy: RestartPolicy) -> Life {
        Life {
            phase: Phase::Beginning,
            restarts: Restarts::default(),
            stop_asked: false,
            policy,
            leaving: false,
            started: None,
        }
    }

    /// podman's word for the phase.
    pub fn status(&self) -> Status {
        match self.phase {
            Phase::Beginning if self.restarts.total == 0 => Status::Created,
            Phase::Beginning => Status::Restarting,
            Phase::Running => Status::Running,
            Phase::Paused => Status::Paused,
            Phase::Stopping { .. } => Status::Stopping,
            Phase::Waiting { .. } => Status::Restarting,
            Phase::Draining { .. } | Phase::Over => Status::Exited,
        }
    }

    /// Whether its first process lives.
    pub fn runs(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Paused | Phase::Stopping { .. })
    }

    /// Whether it ends for good, whatever its policy.
    pub fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// When [`Input::Tick`] is due.
    pub fn due(&self) -> Option<Mono> {
        match self.phase {
            Phase::Stopping { kill_at } => Some(kill_at),
            Phase::Waiting { until } => Some(until),
            _ => None,
        }
    }

    /// Takes one input.
    pub fn take(&mut self, input: Input, now: Mono) -> Act {
        match (self.phase, input) {
            (phase, Input::Stop { timeout_ms, by_hand }) => self.stop(phase, timeout_ms, by_hand, now),
            (Phase::Running, Input::Pause) => self.go(Phase::Paused, Act::Freeze),
            (Phase::Paused, Input::Pause) => Act::Refuse("it is paused already"),
            (_, Input::Pause) => Act::Refuse("it is not running"),
            (Phase::Paused, Input::Unpause) => self.go(Phase::Running, Act::Thaw),
            (_, Input::Unpause) => Act::Refuse("it is not paused"),
            (_, Input::Ended(ending)) if self.runs() => self.go(Phase::Draining { ending, at: now }, Act::Nothing),
            (Phase::Draining { ending, at }, Input::Drained) => self.decide(ending, at, now),
            (Phase::Beginning, Input::Started) => {
                self.started = Some(now);
                self.go(Phase::Running, Act::Nothing)
            }
            (Phase::Beginning | Phase::Stopping { .. }, Input::NotStarted) => {
                self.started = None;
                self.decide(Ending::NotStarted, now, now)
            }
            (Phase::Waiting { until }, Input::Tick) if now >= until => self.go(Phase::Beginning, Act::Start),
            (Phase::Stopping { kill_at }, Input::Tick) if now >= kill_at => self.go(
                Phase::Stopping {
                    kill_at: now.plus(KILL_AGAIN_MS),
                },
                Act::Kill,
            ),
            (_, Input::Ended(_) | Input::Drained | Input::Started | Input::NotStarted | Input::Tick) => Act::Nothing,
        }
    }

    fn go(&mut self, phase: Phase, act: Act) -> Act {
        self.phase = phase;
        act
    }

    fn stop(&mut self, phase: Phase, timeout_ms: u64, by_hand: bool, now: Mono) -> Act {
        self.leaving = true;
        self.stop_asked |= by_hand;
        let wanted = now.plus(timeout_ms);
        match phase {
            Phase::Beginning | Phase::Running | Phase::Paused | Phase::Stopping { .. } if timeout_ms == 0 => self.go(
                Phase::Stopping {
                    kill_at: now.plus(KILL_AGAIN_MS),
                },
                Act::Kill,
            ),
            Phase::Beginning | Phase::Running | Phase::Paused => self.go(
                Phase::Stopping { kill_at: wanted },
                Act::Ask {
                    thaw: phase == Phase::Paused,
                },
            ),
            Phase::Stopping { kill_at } => self.go(
                Phase::Stopping {
                    kill_at: kill_at.min(wanted),
                },
                Act::Ask { thaw: false },
            ),
            Phase::Waiting { .. } => self.go(Phase::Over, Act::Finish),
            Phase::Draining { .. } | Phase::Over => Act::Nothing,
        }
    }

    fn decide(&mut self, ending: Ending, at: Mono, now: Mono) -> Act {
        let ending = if self.leaving { Ending::Stopped } else { ending };
        match self.restarts.ended(self.policy, &PACE, ending, self.started, at) {
            Decision::Stay => self.go(Phase::Over, Act::Finish),
            Decision::StartAt(until) => self.go(Phase::Waiting { until }, Act::Announce(until.since(now))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Mono = Mono(1_000);
    const STOP: Input = Input::Stop {
        timeout_ms: 500,
        by_hand: true,
    };
    const KILL: Input = Input::Stop {
        timeout_ms: 0,
        by_hand: true,
    };
    const EXIT: Input = Input::Ended(Ending::Exit(1));

    fn at(phase: Phase, policy: RestartPolicy) -> Life {
        Life {
            phase,
            ..Life::new(policy)
        }
    }

    #[test]
    fn every_phase_over_every_input() {
        let stopping = Phase::Stopping { kill_at: Mono(1_300) };
        let draining = Phase::Draining {
            ending: Ending::Exit(1),
            at: NOW,
        };
        let waiting = Phase::Waiting { until: Mono(1_200) };
        let again = Phase::Stopping { kill_at: Mono(3_000) };
        let inputs = [
            STOP,
            KILL,
            Input::Pause,
            Input::Unpause,
            EXIT,
            Input::Drained,
            Input::Started,
            Input::NotStarted,
            Input::Tick,
        ];
        use Act::{Announce, Ask, Finish, Freeze, Kill, Nothing, Refuse, Thaw};
        let (not_running, not_paused) = (Refuse("it is not running"), Refuse("it is not paused"));
        let asked = Phase::Stopping { kill_at: Mono(1_500) };
        let table: [(Phase, [(Phase, Act); 9]); 7] = [
            (
                Phase::Beginning,
                [
                    (asked, Ask { thaw: false }),
                    (again, Kill),
                    (Phase::Beginning, not_running),
                    (Phase::Beginning, not_paused),
                    (Phase::Beginning, Nothing),
                    (Phase::Beginning, Nothing),
                    (Phase::Running, Nothing),
                    (Phase::Waiting { until: Mono(1_100) }, Announce(100)),
                    (Phase::Beginning, Nothing),
                ],
            ),
            (
                Phase::Running,
                [
                    (asked, Ask { thaw: false }),
                    (again, Kill),
                    (Phase::Paused, Freeze),
                    (Phase::Running, not_paused),
                    (draining, Nothing),
                    (Phase::Running, Nothing),
                    (Phase::Running, Nothing),
                    (Phase::Running, Nothing),
                    (Phase::Running, Nothing),
                ],
            ),
            (
                Phase::Paused,
                [
                    (asked, Ask { thaw: true }),
                    (again, Kill),
                    (Phase::Paused, Refuse("it is paused already")),
                    (Phase::Running, Thaw),
                    (draining, Nothing),
                    (Phase::Paused, Nothing),
                    (Phase::Paused, Nothing),
                    (Phase::Paused, Nothing),
                    (Phase::Paused, Nothing),
                ],
            ),
            (
                stopping,
                [
                    (stopping, Ask { thaw: false }),
                    (again, Kill),
                    (stopping, not_running),
                    (stopping, not_paused),
                    (draining, Nothing),
                    (stopping, Nothing),
                    (stopping, Nothing),
                    (Phase::Waiting { until: Mono(1_100) }, Announce(100)),
                    (stopping, Nothing),
                ],
            ),
            (
                draining,
                [
                    (draining, Nothing),
                    (draining, Nothing),
                    (draining, not_running),
                    (draining, not_paused),
                    (draining, Nothing),
                    (Phase::Waiting { until: Mono(1_100) }, Announce(100)),
                    (draining, Nothing),
                    (draining, Nothing),
                    (draining, Nothing),
                ],
            ),
            (
                waiting,
                [
                    (Phase::Over, Finish),
                    (Phase::Over, Finish),
                    (waiting, not_running),
                    (waiting, not_paused),
                    (waiting, Nothing),
                    (waiting, Nothing),
                    (waiting, Nothing),
                    (waiting, Nothing),
                    (waiting, Nothing),
                ],
            ),
            (
                Phase::Over,
                [
                    (Phase::Over, Nothing),
                    (Phase::Over, Nothing),
                    (Phase::Over, not_running),
                    (Phase::Over, not_paused),
                    (Phase::Over, Nothing),
                    (Phase::Over, Nothing),
                    (Phase::Over, Nothing),
                    (Phase::Over, Nothing),
                    (Phase::Over, Nothing),
                ],
            ),
        ];
        for (phase, row) in table {
            for (input, expected) in inputs.into_iter().zip(row) {
                let mut life = at(phase, RestartPolicy::Always);
                let act = life.take(input, NOW);
                assert_eq!((life.phase, act), expected, "{phase:?} {input:?}");
            }
        }
    }

    #[test]
    fn what_was_asked_to_stop_stays_stopped_whatever_the_policy() {
        let mut life = at(Phase::Running, RestartPolicy::Always);
        life.take(STOP, NOW);
        assert_eq!(life.take(Input::Tick, Mono(1_499)), Act::Nothing);
        assert_eq!(life.due(), Some(Mono(1_500)));
        assert_eq!(life.take(Input::Tick, Mono(1_500)), Act::Kill);
        assert_eq!(life.take(Input::Tick, Mono(1_501)), Act::Nothing);
        life.take(Input::Ended(Ending::Exit(137)), Mono(1_600));
        assert_eq!(life.take(Input::Drained, Mono(1_600)), Act::Finish);
        assert!(life.stop_asked);
    }

    #[test]
    fn a_shutdown_ends_it_but_was_not_asked_by_hand() {
        let mut life = at(Phase::Running, RestartPolicy::UnlessStopped);
        life.take(
            Input::Stop {
                timeout_ms: 10,
                by_hand: false,
            },
            NOW,
        );
        life.take(EXIT, NOW);
        assert_eq!(life.take(Input::Drained, NOW), Act::Finish);
        assert!(!life.stop_asked);
    }

    #[test]
    fn restarts_until_the_policy_gives_up() {
        let mut life = at(Phase::Running, RestartPolicy::OnFailure(1));
        life.take(EXIT, NOW);
        assert_eq!(life.take(Input::Drained, NOW), Act::Announce(100));
        assert_eq!(life.take(Input::Tick, Mono(1_100)), Act::Start);
        assert_eq!(
            (life.phase, life.take(Input::Tick, Mono(9_000))),
            (Phase::Beginning, Act::Nothing)
        );
        life.take(Input::Started, Mono(1_110));
        assert_eq!((life.phase, life.restarts.total), (Phase::Running, 1));
        life.take(EXIT, Mono(1_120));
        assert_eq!(life.take(Input::Drained, Mono(1_120)), Act::Finish);

        let mut life = at(Phase::Running, RestartPolicy::OnFailure(0));
        life.take(Input::Ended(Ending::Exit(0)), NOW);
        assert_eq!(life.take(Input::Drained, NOW), Act::Finish);
    }

    #[test]
    fn a_slow_reader_does_not_make_the_wait_longer() {
        let mut life = at(Phase::Running, RestartPolicy::Always);
        life.take(EXIT, NOW);
        assert_eq!(life.take(Input::Drained, Mono(1_080)), Act::Announce(20));
        assert_eq!(life.due(), Some(Mono(1_100)));
    }
}

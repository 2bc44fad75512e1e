//! The update machine: (state, event, now) → (state, effects), with the states and reasons of PROTOCOL.md.
//!
//! One machine drives one deployment: the whole set of one source goes forward or back together. The machine knows no app, no
//! container and no file; who carries its effects out tells it what happened. Before SWITCHING nothing that runs was touched, so a
//! deployment may be given up there; from SWITCHING on it ends as COMMITTED, ROLLED_BACK or FAILED{rollback_failed}.

use crate::types::deployment::{Cause, Reason, State};
use crate::types::time::Mono;

use super::backoff::{Backoff, DISK, FETCH};
use super::soak::counts_against;

/// One deployment's place in the machine.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Update {
    /// The state that is published.
    pub state: State,
    /// Why, for WAITING, for a repeated try, for going back and for ends that are not COMMITTED.
    pub cause: Option<Cause>,
    /// Everything is on disk and created.
    pub staged: bool,
    /// Tries in a row that the network or the disk broke off.
    pub tries: u32,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Nothing holds the next step back. Legal before SWITCHING.
    Open,
    /// Something holds it back: wave, window, lock, disk, clock, halted, metered, not_before. Legal before SWITCHING.
    Hold(Cause),
    /// The set is not acceptable. Legal before anything was staged.
    Refused(Cause),
    /// Every image is here. Legal in FETCHING.
    Fetched,
    /// Every image was checked and every container created. Legal in VERIFYING.
    Staged,
    /// Fetching or staging was broken off by the network or the disk. `dice` is random. Legal in FETCHING and VERIFYING.
    Later(Cause, u32),
    /// It cannot be fetched, verified, created or fitted in any more. Legal from WAITING to STAGED.
    Impossible(Cause),
    /// Everything that is wanted runs already. Legal in ACCEPTED.
    Unchanged,
    /// Every step of the switch is done. Legal in SWITCHING.
    Switched,
    /// Every app was healthy once. Legal in PROBING.
    Healthy,
    /// The whole soak time is counted. Legal in SOAKING.
    Soaked,
    /// A new version failed, or somebody wants the old one back. Legal from SWITCHING to SOAKING.
    Broken(Cause),
    /// The old versions run. Legal in ROLLING_BACK.
    Restored,
    /// The old versions fail too. Legal in ROLLING_BACK.
    NotRestored(Cause),
    /// A newer document took its place. Legal before SWITCHING.
    Superseded,
}

/// What is to be done, in order, after the new state is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Look again whether something holds it back.
    Look,
    /// Fetch the images.
    Fetch,
    /// Check the images and create the containers.
    Stage,
    /// Carry out the steps of the switch.
    Switch,
    /// Watch until every app was healthy once.
    Probe,
    /// Count healthy time.
    Soak,
    /// Carry out the steps back.
    Restore,
    /// Remember the version that failed.
    Quarantine,
    /// Try again at this time.
    RetryAt(Mono),
    /// Remove what is no longer needed: staged containers, the version that was left.
    CleanUp,
}

/// An event that the state does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a deployment in the state {state} cannot take the event `{event}`")]
pub struct Illegal {
    /// The state.
    pub state: State,
    /// The event's name.
    pub event: &'static str,
}

impl Update {
    /// A deployment that was just accepted.
    pub fn new() -> Update {
        Update {
            state: State::Accepted,
            cause: None,
            staged: false,
            tries: 0,
        }
    }

    /// Whether a newer document may take its place: nothing that runs was touched.
    pub fn may_be_given_up(&self) -> bool {
        before_switching(self.state)
    }

    /// Whether the new versions are the ones that should run.
    pub fn runs_new(&self) -> bool {
        matches!(self.state, State::Switching | State::Probing | State::Soaking)
    }

    /// Takes one event. The state is unchanged when the event is illegal.
    pub fn take(&mut self, event: Event, now: Mono) -> Result<Vec<Effect>, Illegal> {
        use State::{
            Accepted, Committed, Failed, Fetching, Probing, Rejected, RolledBack, RollingBack, Soaking, Staged,
            Superseded, Switching, Verifying, Waiting,
        };
        let effects = match (self.state, event) {
            (Accepted | Waiting | Staged, Event::Open) => {
                let (state, effect) = if self.staged {
                    (Switching, Effect::Switch)
                } else {
                    (Fetching, Effect::Fetch)
                };
                self.to(state, None);
                vec![effect]
            }
            (Fetching | Verifying, Event::Open) => Vec::new(),
            (Accepted | Waiting | Fetching | Verifying | Staged, Event::Hold(cause)) => {
                self.to(Waiting, Some(cause));
                Vec::new()
            }
            (Accepted | Waiting, Event::Refused(cause)) if !self.staged => {
                self.to(Rejected, Some(cause));
                vec![Effect::CleanUp]
            }
            (Fetching, Event::Fetched) => {
                self.tries = 0;
                self.to(Verifying, None);
                vec![Effect::Stage]
            }
            (Verifying, Event::Staged) => {
                self.tries = 0;
                self.staged = true;
                self.to(Staged, None);
                vec![Effect::Look]
            }
            (Fetching | Verifying, Event::Later(cause, dice)) => {
                let (state, pace): (State, Backoff) = if cause.code == Reason::Disk {
                    (Waiting, DISK)
                } else {
                    (Fetching, FETCH)
                };
                let at = now.plus(pace.wait(self.tries, dice));
                self.tries = self.tries.saturating_add(1);
                self.to(state, Some(cause));
                vec![Effect::RetryAt(at)]
            }
            (Waiting | Fetching | Verifying | Staged, Event::Impossible(cause)) => {
                self.to(Failed, Some(cause));
                vec![Effect::CleanUp]
            }
            (Accepted, Event::Unchanged) => {
                self.to(Committed, None);
                vec![Effect::CleanUp]
            }
            (Switching, Event::Switched) => {
                self.to(Probing, None);
                vec![Effect::Probe]
            }
            (Probing, Event::Healthy) => {
                self.to(Soaking, None);
                vec![Effect::Soak]
            }
            (Soaking, Event::Soaked) => {
                self.to(Committed, None);
                vec![Effect::CleanUp]
            }
            (Switching | Probing | Soaking, Event::Broken(cause)) => {
                let counts = counts_against(cause.code);
                self.to(RollingBack, Some(cause));
                if counts {
                    vec![Effect::Restore, Effect::Quarantine]
                } else {
                    vec![Effect::Restore]
                }
            }
            (RollingBack, Event::Restored) => {
                self.state = RolledBack;
                vec![Effect::CleanUp]
            }
            (RollingBack, Event::NotRestored(cause)) => {
                let first = self
                    .cause
                    .as_ref()
                    .map(|first| format!(" (after {first})"))
                    .unwrap_or_default();
                self.to(
                    Failed,
                    Some(Cause::new(Reason::RollbackFailed, format!("{}{first}", cause.detail))),
                );
                vec![Effect::CleanUp]
            }
            (Accepted | Waiting | Fetching | Verifying | Staged, Event::Superseded) => {
                self.to(Superseded, None);
                vec![Effect::CleanUp]
            }
            (state, event) => {
                return Err(Illegal {
                    state,
                    event: event.name(),
                });
            }
        };
        Ok(effects)
    }

    /// What to do first after the agent was killed or the power failed.
    pub fn resumed(&mut self) -> Vec<Effect> {
        match self.state {
            State::Switching => vec![Effect::Switch],
            State::Probing => vec![Effect::Probe],
            State::Soaking => vec![Effect::Soak],
            State::RollingBack => {
                let counts = self.cause.as_ref().is_some_and(|cause| counts_against(cause.code));
                if counts {
                    vec![Effect::Restore, Effect::Quarantine]
                } else {
                    vec![Effect::Restore]
                }
            }
            state if before_switching(state) => {
                // What was staged is removed at boot; fetched layers stay, so that little is done twice.
                *self = Update::new();
                vec![Effect::Look]
            }
            _ => vec![Effect::CleanUp],
        }
    }

    fn to(&mut self, state: State, cause: Option<Cause>) {
        self.state = state;
        self.cause = cause;
    }
}

impl Default for Update {
    fn default() -> Update {
        Update::new()
    }
}

impl Event {
    /// The event's name, for errors.
    pub fn name(&self) -> &'static str {
        match self {
            Event::Open => "open",
            Event::Hold(_) => "hold",
            Event::Refused(_) => "refused",
            Event::Fetched => "fetched",
            Event::Staged => "staged",
            Event::Later(..) => "later",
            Event::Impossible(_) => "impossible",
            Event::Unchanged => "unchanged",
            Event::Switched => "switched",
            Event::Healthy => "healthy",
            Event::Soaked => "soaked",
            Event::Broken(_) => "broken",
            Event::Restored => "restored",
            Event::NotRestored(_) => "not_restored",
            Event::Superseded => "superseded",
        }
    }
}

/// Whether a deployment in this state has not touched anything that runs, and is not at its end.
pub fn before_switching(state: State) -> bool {
    matches!(
        state,
        State::Accepted | State::Waiting | State::Fetching | State::Verifying | State::Staged
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use State::*;

    fn cause(code: Reason) -> Cause {
        Cause::new(code, "x")
    }

    fn events() -> Vec<Event> {
        vec![
            Event::Open,
            Event::Hold(cause(Reason::Window)),
            Event::Refused(cause(Reason::Budget)),
            Event::Fetched,
            Event::Staged,
            Event::Later(cause(Reason::Net), 0),
            Event::Later(cause(Reason::Disk), 0),
            Event::Impossible(cause(Reason::ImageMissing)),
            Event::Unchanged,
            Event::Switched,
            Event::Healthy,
            Event::Soaked,
            Event::Broken(cause(Reason::Unhealthy)),
            Event::Restored,
            Event::NotRestored(cause(Reason::Exited)),
            Event::Superseded,
        ]
    }

    /// Every state × every event: the state that follows, `None` where the event is illegal. Columns as in `events`.
    #[rustfmt::skip]
    const TABLE: [(State, [Option<State>; 16]); 14] = [
        //             open             hold           refused         fetched          staged        later(net)      later(disk)    impossible    unchanged        switched       healthy        soaked           broken             restored          not_restored  superseded
        (Accepted,    [Some(Fetching),  Some(Waiting), Some(Rejected), None,            None,         None,           None,          None,         Some(Committed), None,          None,          None,            None,              None,             None,         Some(Superseded)]),
        (Waiting,     [Some(Fetching),  Some(Waiting), Some(Rejected), None,            None,         None,           None,          Some(Failed), None,            None,          None,          None,            None,              None,             None,         Some(Superseded)]),
        (Fetching,    [Some(Fetching),  Some(Waiting), None,           Some(Verifying), None,         Some(Fetching), Some(Waiting), Some(Failed), None,            None,          None,          None,            None,              None,             None,         Some(Superseded)]),
        (Verifying,   [Some(Verifying), Some(Waiting), None,           None,            Some(Staged), Some(Fetching), Some(Waiting), Some(Failed), None,            None,          None,          None,            None,              None,             None,         Some(Superseded)]),
        (Staged,      [Some(Switching), Some(Waiting), None,           None,            None,         None,           None,          Some(Failed), None,            None,          None,          None,            None,              None,             None,         Some(Superseded)]),
        (Switching,   [None,            None,          None,           None,            None,         None,           None,          None,         None,            Some(Probing), None,          None,            Some(RollingBack), None,             None,         None]),
        (Probing,     [None,            None,          None,           None,            None,         None,           None,          None,         None,            None,          Some(Soaking), None,            Some(RollingBack), None,             None,         None]),
        (Soaking,     [None,            None,          None,           None,            None,         None,           None,          None,         None,            None,          None,          Some(Committed), Some(RollingBack), None,             None,         None]),
        (Committed,   [None; 16]),
        (RollingBack, [None,            None,          None,           None,            None,         None,           None,          None,         None,            None,          None,          None,            None,              Some(RolledBack), Some(Failed), None]),
        (RolledBack,  [None; 16]),
        (Failed,      [None; 16]),
        (Rejected,    [None; 16]),
        (Superseded,  [None; 16]),
    ];

    #[test]
    fn every_state_takes_exactly_its_events() {
        assert_eq!(TABLE.map(|row| row.0), State::ALL);
        for (state, row) in TABLE {
            for (event, expected) in events().into_iter().zip(row) {
                let staged = state == Staged;
                let before = Update {
                    state,
                    cause: None,
                    staged,
                    tries: 0,
                };
                let mut update = before.clone();
                let name = event.name();
                match (update.take(event, Mono(0)), expected) {
                    (Ok(_), Some(next)) => assert_eq!(update.state, next, "{state} {name}"),
                    (Err(error), None) => {
                        assert_eq!(error, Illegal { state, event: name });
                        assert_eq!(update, before, "{state} {name}: nothing changes");
                    }
                    (got, expected) => panic!("{state} {name}: {got:?}, expected {expected:?}"),
                }
            }
        }
    }

    #[test]
    fn finals_take_nothing_and_only_finals_have_no_way_out() {
        for (state, row) in TABLE {
            assert_eq!(row.iter().all(Option::is_none), state.is_final(), "{state}");
        }
    }

    #[test]
    fn the_good_way_has_these_effects() {
        let mut update = Update::new();
        for (event, state, effects) in [
            (Event::Hold(cause(Reason::Wave)), Waiting, vec![]),
            (Event::Open, Fetching, vec![Effect::Fetch]),
            (Event::Fetched, Verifying, vec![Effect::Stage]),
            (Event::Staged, Staged, vec![Effect::Look]),
            (Event::Hold(cause(Reason::Lock)), Waiting, vec![]),
            (Event::Open, Switching, vec![Effect::Switch]),
            (Event::Switched, Probing, vec![Effect::Probe]),
            (Event::Healthy, Soaking, vec![Effect::Soak]),
            (Event::Soaked, Committed, vec![Effect::CleanUp]),
        ] {
            assert_eq!(update.take(event, Mono(0)).unwrap(), effects);
            assert_eq!(update.state, state);
            assert_eq!(update.cause.is_some(), state == Waiting, "{state}");
        }
    }

    #[test]
    fn what_was_staged_is_not_refused_any_more() {
        let mut update = Update {
            state: Waiting,
            cause: None,
            staged: true,
            tries: 0,
        };
        assert!(update.take(Event::Refused(cause(Reason::Budget)), Mono(0)).is_err());
    }

    #[test]
    fn only_failures_of_the_health_gate_are_quarantined() {
        for (code, quarantined) in [
            (Reason::Oom, true),
            (Reason::SoakFailed, true),
            (Reason::Reboots, false),
            (Reason::Disk, false),
            (Reason::Interrupted, false),
        ] {
            for state in [Switching, Probing, Soaking] {
                let mut update = Update {
                    state,
                    cause: None,
                    staged: true,
                    tries: 0,
                };
                let effects = update.take(Event::Broken(cause(code)), Mono(0)).unwrap();
                assert_eq!(effects[0], Effect::Restore, "the old version comes first");
                assert_eq!(effects.contains(&Effect::Quarantine), quarantined, "{code} in {state}");
                assert_eq!(
                    update.resumed().contains(&Effect::Quarantine),
                    quarantined,
                    "{code} after a power cut"
                );
            }
        }
    }

    #[test]
    fn the_cause_of_a_rollback_is_kept_to_its_end() {
        let mut update = Update {
            state: Soaking,
            cause: None,
            staged: true,
            tries: 0,
        };
        update.take(Event::Broken(cause(Reason::Oom)), Mono(0)).unwrap();
        let mut other = update.clone();
        update.take(Event::Restored, Mono(0)).unwrap();
        assert_eq!(update.cause, Some(cause(Reason::Oom)));
        other
            .take(Event::NotRestored(Cause::new(Reason::Exited, "exit code 1")), Mono(0))
            .unwrap();
        assert_eq!(
            other.cause,
            Some(Cause::new(Reason::RollbackFailed, "exit code 1 (after oom: x)"))
        );
    }

    #[test]
    fn broken_off_tries_come_back_later_and_later_without_end() {
        let mut update = Update {
            state: Fetching,
            cause: None,
            staged: false,
            tries: 0,
        };
        let mut waits = Vec::new();
        for _ in 0..12 {
            let effects = update
                .take(Event::Later(cause(Reason::Net), u32::MAX), Mono(1_000))
                .unwrap();
            let [Effect::RetryAt(at)] = effects[..] else {
                panic!("{effects:?}")
            };
            waits.push(at.since(Mono(1_000)));
        }
        assert_eq!(waits[..3], [2_000, 4_000, 8_000]);
        assert_eq!(*waits.last().unwrap(), FETCH.max);
        update.take(Event::Fetched, Mono(0)).unwrap();
        assert_eq!(update.tries, 0);
    }

    #[test]
    fn a_full_disk_waits_and_then_tries_again() {
        let mut update = Update {
            state: Fetching,
            cause: None,
            staged: false,
            tries: 0,
        };
        update.take(Event::Later(cause(Reason::Disk), 0), Mono(0)).unwrap();
        assert_eq!(
            (update.state, update.cause.clone()),
            (Waiting, Some(cause(Reason::Disk)))
        );
        assert_eq!(update.take(Event::Open, Mono(0)).unwrap(), [Effect::Fetch]);
    }

    #[test]
    fn every_state_knows_how_to_go_on() {
        for state in State::ALL {
            let mut update = Update {
                state,
                cause: None,
                staged: true,
                tries: 3,
            };
            let effects = update.resumed();
            let expected = match state {
                Accepted | Waiting | Fetching | Verifying | Staged => Effect::Look,
                Switching => Effect::Switch,
                Probing => Effect::Probe,
                Soaking => Effect::Soak,
                RollingBack => Effect::Restore,
                _ => Effect::CleanUp,
            };
            assert_eq!(effects[0], expected, "{state}");
            assert_eq!(update.state, if before_switching(state) { Accepted } else { state });
        }
    }
}

//! The gate before each step that touches something: wave, halt, not before, window and clock, metered link, another source's turn, the apps' own locks.

use crate::plan::update::Event;
use crate::plan::{wave, window};
use crate::types::deployment::{Cause, Reason, State};
use crate::types::document::Rollout;
use crate::types::time::{Mono, Unix};

use super::core::{Core, Now};
use super::files::Source;

/// Looked at again this often while something outside holds an update back, milliseconds.
const LOOK_MS: u64 = 60_000;

impl Core {
    pub(super) fn look_all(&mut self, now: Now) {
        for source in Source::ALL {
            self.look(source, now);
        }
    }

    /// Looks whether something holds the next step back, and takes the step when nothing does.
    pub(super) fn look(&mut self, source: Source, now: Now) {
        let (Some(active), Some(flight)) = (self.active(source), self.flights.get(&source)) else {
            return;
        };
        if !active.update.may_be_given_up() || flight.set.is_none() {
            return;
        }
        let (state, staged) = (active.update.state, active.update.staged);
        let gate = gate(active.rollout.as_ref(), self, flight.begun, staged, now);
        let working = self.working.contains_key(&source);
        let resting = flight.retry_at.is_some_and(|at| at > now.mono);
        match gate {
            Err((cause, at)) => {
                if let Some((_, cancel)) = self.working.get(&source) {
                    cancel.cancel();
                }
                if let Some(flight) = self.flights.get_mut(&source) {
                    flight.work = None;
                    flight.locked_at = None;
                }
                self.hold(source, cause, at, now);
            }
            Ok(()) => {
                if let Some(flight) = self.flights.get_mut(&source) {
                    flight.look_at = None;
                }
                let removing = self
                    .removing
                    .values()
                    .any(|app| self.flights.get(&source).is_some_and(|f| f.changes.contains_key(app)));
                let other_switches = self.other_switches(source);
                match state {
                    // Its work goes on, or its next try is due by itself.
                    State::Fetching | State::Verifying => {}
                    _ if resting || working || removing => {}
                    _ if staged && other_switches => {}
                    _ if staged => {
                        if !self.locked(source, now) {
                            self.open_switch(source, now);
                        }
                    }
                    _ => self.advance(source, Event::Open, now),
                }
            }
        }
    }

    /// Whether another source's deployment must come to its end first. One that only soaks may take hours and holds nobody up whom it
    /// does not touch; its steps, and those back, are carried out alone.
    fn other_switches(&self, source: Source) -> bool {
        let mut others = self.journal.active.iter().filter(|other| other.source != source);
        others.any(|other| match other.update.state {
            State::Soaking => self.touches(source, other.source),
            _ => !other.update.may_be_given_up(),
        })
    }

    /// Waits for this, and looks again then.
    pub(super) fn hold(&mut self, source: Source, cause: Cause, at: Mono, now: Now) {
        if let Some(flight) = self.flights.get_mut(&source) {
            flight.look_at = Some(at);
        }
        let waits = self.state(source) == Some(State::Waiting);
        if !(waits && active_cause(self, source) == Some(cause.code)) {
            self.advance(source, Event::Hold(cause), now);
        }
    }

    /// The last look before SWITCHING: another source may have changed what the plan was made from.
    fn open_switch(&mut self, source: Source, now: Now) {
        let Some(set) = self.flights.get(&source).and_then(|flight| flight.set.clone()) else {
            return;
        };
        match self.examine(source, set) {
            Ok((set, plan)) => {
                self.equip(source, set, plan, now);
                self.advance(source, Event::Open, now);
            }
            Err(cause) => self.advance(source, Event::Impossible(cause), now),
        }
    }
}

fn active_cause(core: &Core, source: Source) -> Option<Reason> {
    core.active(source)
        .and_then(|one| one.update.cause.as_ref())
        .map(|cause| cause.code)
}

/// What holds a deployment back, and when to look again.
fn gate(rollout: Option<&Rollout>, core: &Core, begun: Mono, staged: bool, now: Now) -> Result<(), (Cause, Mono)> {
    if core.conditions.renewing {
        let cause = Cause::new(Reason::Busy, "a new version of the agent is on trial");
        return Err((cause, now.mono.plus(LOOK_MS)));
    }
    let Some(rollout) = rollout else {
        return if core.conditions.metered && !staged {
            Err(metered(now))
        } else {
            Ok(())
        };
    };
    let hold = |code, detail: String, wait: u64| Err((Cause::new(code, detail), now.mono.plus(wait.clamp(1, LOOK_MS))));
    let place = wave::place(&rollout.salt, &core.settings.device);
    if !wave::takes_part(place, rollout.percent, &rollout.wave, &core.conditions.labels) {
        return hold(
            Reason::Wave,
            format!("rollout `{}` is at {} %", rollout.id, rollout.percent),
            LOOK_MS,
        );
    }
    if rollout.halted {
        return hold(Reason::Halted, format!("rollout `{}` is halted", rollout.id), LOOK_MS);
    }
    if let Some(at) = rollout.not_before.as_deref().and_then(Unix::parse_rfc3339)
        && now.unix < at
    {
        return hold(
            Reason::NotBefore,
            format!("not before {}", at.rfc3339()),
            at.0 - now.unix.0,
        );
    }
    if rollout.urgent {
        return Ok(());
    }
    let spread = begun.plus(place.delay(rollout.spread.map_or(0, |span| span.ms())));
    if !staged && now.mono < spread {
        let wait = spread.since(now.mono);
        return hold(
            Reason::NotBefore,
            format!("starts are spread; this device's turn is in {} s", wait.div_ceil(1000)),
            wait,
        );
    }
    if let Some(text) = &rollout.window
        && let Ok(window) = text.parse::<window::Window>()
    {
        if !core.conditions.synchronised {
            return hold(Reason::Clock, "the clock is not synchronised".into(), LOOK_MS);
        }
        let wait = window.opens_in(now.unix, core.conditions.offset);
        if wait > 0 {
            return hold(Reason::Window, format!("the window `{text}` is closed"), wait);
        }
    }
    if core.conditions.metered && !staged {
        Err(metered(now))
    } else {
        Ok(())
    }
}

fn metered(now: Now) -> (Cause, Mono) {
    (
        Cause::new(Reason::Metered, "the link is metered and the update is not urgent"),
        now.mono.plus(LOOK_MS),
    )
}

//! Update locks: an app with `[update] lock` holds its update back while it locks a file that its container sees.

use crate::plan::hold::{self, Locker, Verdict};
use crate::plan::reconcile::Step;
use crate::plan::update::Event;
use crate::types::deployment::{Cause, Reason, Record, State};

use super::core::{Core, Now, Reply};
use super::files::{Notes, Source, journal_step};

/// The time that was waited is written down this often, milliseconds.
const WRITE_MS: u64 = 60_000;

impl Core {
    /// Whether an app that the switch would stop holds it back. Nothing is left locked.
    pub(super) fn locked(&mut self, source: Source, now: Now) -> bool {
        let (Some(flight), Some(old)) = (self.flights.get(&source), self.sets.get(&source)) else {
            return false;
        };
        let mut waited = self.notes(source).map_or(0, |notes| notes.locked);
        waited = waited.saturating_add(flight.locked_at.map_or(0, |at| now.mono.since(at)));
        let stops = flight.steps.iter().filter_map(|step| match step {
            Step::Stop(app) => old.get(app).filter(|one| one.app.update.lock),
            Step::Start(_) | Step::Await(_) | Step::Save(_) => None,
        });
        let overruled = |app: &String| self.notes(source).is_some_and(|notes| notes.unlocked.contains(app));
        let lockers: Vec<Locker> = stops
            .map(|one| Locker {
                app: &one.app.name,
                held: self.files.is_locked(&one.app.name),
                overruled: overruled(&one.app.name),
                timeout: one
                    .app
                    .update
                    .lock_timeout
                    .map_or(hold::LOCK_TIMEOUT_MS, |span| span.ms()),
            })
            .collect();
        let (app, at) = match hold::judge(&lockers, waited, now.mono) {
            Verdict::Free => {
                if let Some(flight) = self.flights.get_mut(&source) {
                    flight.locked_at = None;
                }
                return false;
            }
            Verdict::Held(app, at) => (app.to_owned(), Some(at)),
            Verdict::TimedOut(app) => (app.to_owned(), None),
        };
        // An agent that starts anew forgets a minute at the most.
        let written = self.notes(source).map_or(0, |notes| notes.locked);
        self.notes_mut(source).locked = waited;
        if waited / WRITE_MS > written / WRITE_MS
            && let Err(error) = self.write_journal(false, journal_step(State::Waiting))
        {
            crate::warn!("{error}");
        }
        if let Some(flight) = self.flights.get_mut(&source) {
            flight.locked_at = Some(now.mono);
        }
        match at {
            Some(at) => {
                let text = format!("app `{app}` holds its update lock; let it go or overrule it with `unlock`");
                self.hold(source, Cause::new(Reason::Lock, text), at, now);
            }
            None => {
                if let Some(active) = self.active_mut(source) {
                    active.culprit = Some(app.clone());
                }
                let text = format!("app `{app}` held its update lock for {} s", waited / 1_000);
                self.advance(source, Event::Impossible(Cause::new(Reason::LockTimeout, text)), now);
            }
        }
        true
    }

    /// Overrules an app's lock for the update under way, also where that waits for something else first.
    pub(super) fn unlock(&mut self, app: &str, reply: Reply, now: Now) {
        let waits = self
            .journal
            .active
            .iter()
            .find(|one| one.update.may_be_given_up() && one.record.apps.iter().any(|record| record.name == app));
        let Some((source, state)) = waits.map(|one| (one.source, one.update.state)) else {
            let text = format!("no update of app `{app}` waits");
            return reply(Err(Cause::new(Reason::Schema, text)));
        };
        let notes = self.notes_mut(source);
        notes.unlocked.retain(|name| name != app);
        notes.unlocked.push(app.to_owned());
        if let Err(error) = self.write_journal(true, journal_step(state)) {
            self.notes_mut(source).unlocked.pop();
            self.disk_event(&error, now);
            return reply(Err(Cause::new(Reason::Disk, error.to_string())));
        }
        reply(Ok(()));
        self.look(source, now);
    }

    /// Removes the lock files of apps that a deployment left the device without.
    pub(super) fn drop_locks(&self, record: &Record) {
        if matches!(record.state, State::Committed | State::RolledBack) {
            let gone = |name: &String| !self.sets.values().any(|set| set.get(name).is_some());
            for one in record.apps.iter().filter(|one| gone(&one.name)) {
                self.files.drop_lock(&one.name);
            }
        }
    }

    pub(super) fn notes(&self, source: Source) -> Option<&Notes> {
        self.journal.notes.iter().find(|one| one.source == source)
    }

    pub(super) fn notes_mut(&mut self, source: Source) -> &mut Notes {
        let notes = &mut self.journal.notes;
        let at = notes.iter().position(|one| one.source == source).unwrap_or_else(|| {
            notes.push(Notes {
                source,
                unlocked: Vec::new(),
                locked: 0,
                saved: Vec::new(),
            });
            notes.len() - 1
        });
        &mut notes[at]
    }
}

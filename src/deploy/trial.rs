//! The trial of new versions: probing, soaking, committing; what is held against a version.

use crate::plan::quarantine::Entry;
use crate::plan::soak::{self, Soak, Verdict};
use crate::plan::update::Event;
use crate::types::deployment::{Cause, Reason, State};

use super::core::{Core, Now};
use super::files::Source;

/// Added to the longest time that a judgement may take by the app's own numbers, milliseconds: the monitor's and our own delay.
const PROBE_GRACE_MS: u64 = 5_000;

/// How long a new version without a health check may take to be seen running, milliseconds.
const SEEN_WITHIN_MS: u64 = 30_000;

impl Core {
    pub(super) fn begin_probe(&mut self, source: Source, now: Now) {
        if let Some(flight) = self.flights.get_mut(&source) {
            flight.step_since = now.mono;
        }
        self.run_steps(source, now);
        self.check_probe(source, now);
    }

    /// Every app was healthy once, or one took too long.
    pub(super) fn check_probe(&mut self, source: Source, now: Now) {
        if self.state(source) != Some(State::Probing) {
            return;
        }
        let new = self.new_apps(source);
        let well: Vec<String> = new.iter().filter(|app| self.is_well(app)).cloned().collect();
        let Some(flight) = self.flights.get_mut(&source) else {
            return;
        };
        flight.well_once.extend(well);
        let since = flight.step_since;
        let missing: Vec<&String> = new.iter().filter(|app| !flight.well_once.contains(*app)).collect();
        if missing.is_empty() {
            return self.advance(source, Event::Healthy, now);
        }
        let late = missing
            .into_iter()
            .find(|app| now.mono >= since.plus(self.patience(app)))
            .cloned();
        if let Some(app) = late {
            let cause = Cause::new(
                Reason::ProbeTimeout,
                format!("app `{app}` was not judged healthy in its time"),
            );
            self.turn_back(source, &app, cause, now);
        }
    }

    pub(super) fn begin_soak(&mut self, source: Source, now: Now) {
        let new = self.new_apps(source);
        let counted = self.active(source).map_or(0, |active| active.soaked);
        let Some(flight) = self.flights.get_mut(&source) else {
            return;
        };
        let need = flight
            .set
            .iter()
            .flat_map(|set| &set.apps)
            .filter(|one| new.contains(&one.app.name));
        let need = need.map(|one| one.app.update.soak.ms()).max().unwrap_or(0);
        flight.well_once.extend(new);
        flight.soak = Some(Soak::new(need, counted));
        self.run_steps(source, now);
        self.check_soak(source, now);
        // Others whose turn waited for the steps and probes of this one.
        for other in Source::ALL.into_iter().filter(|other| *other != source) {
            self.look(other, now);
        }
    }

    pub(super) fn check_soak(&mut self, source: Source, now: Now) {
        if self.state(source) != Some(State::Soaking) {
            return;
        }
        let well = self.new_apps(source).iter().all(|app| self.is_well(app));
        let Some(flight) = self.flights.get_mut(&source) else {
            return;
        };
        if flight.retry_at.is_some_and(|at| at > now.mono) {
            return;
        }
        let Some(soak) = flight.soak.as_mut() else { return };
        soak.set_healthy(well, now.mono);
        match soak.verdict(now.mono) {
            Verdict::Going(_) => {}
            Verdict::Checkpoint => self.checkpoint(source, now),
            Verdict::Done if flight.at < flight.steps.len() => {}
            Verdict::Done => self.commit(source, now),
        }
    }

    /// Makes the new set the committed one; tried again where the disk refuses.
    pub(super) fn commit(&mut self, source: Source, now: Now) {
        let Some(flight) = self.flights.get_mut(&source) else {
            return;
        };
        flight.retry_at = None;
        let Some(set) = flight.set.clone() else { return };
        if let Err(error) = self.files.commit(source) {
            self.disk_event(&error, now);
            if let Some(flight) = self.flights.get_mut(&source) {
                flight.retry_at = Some(now.mono.plus(crate::plan::backoff::DISK.first));
            }
            return;
        }
        self.sets.insert(source, set);
        self.advance(source, Event::Soaked, now);
    }

    /// A set whose apps all run already: only its name is new.
    pub(super) fn commit_unchanged(&mut self, source: Source, now: Now) {
        let Some(set) = self.flights.get(&source).and_then(|flight| flight.set.clone()) else {
            return;
        };
        let same = self.sets.get(&source).is_some_and(|old| *old == set);
        if !same {
            let written = self
                .files
                .write_next(source, &set)
                .and_then(|()| self.files.commit(source));
            match written {
                Ok(()) => drop(self.sets.insert(source, set)),
                // What runs is right; only the document's name on the disk is old.
                Err(error) => self.disk_event(&error, now),
            }
        }
        self.advance(source, Event::Unchanged, now);
    }

    /// The longest time that an app may take until it is well, milliseconds.
    pub(super) fn patience(&self, app: &str) -> u64 {
        let care = self
            .desired(app)
            .and_then(|(_, spec)| self.find(app, &spec))
            .and_then(|id| self.cares.get(&id));
        let check = care.and_then(|care| care.container.health_check.as_ref());
        check.map_or(SEEN_WITHIN_MS, |health| {
            let rules = crate::plan::health::Rules::from(health);
            let most = self
                .settings
                .probe_timeout
                .max(rules.start_period.saturating_add(rules.timeout));
            rules.judged_within().min(most).saturating_add(PROBE_GRACE_MS)
        })
    }

    /// Whether the deployment forgives the end of a run; counts the restart when it does.
    pub(super) fn forgiven(
        &mut self,
        source: Source,
        app: &str,
        ending: crate::plan::restart::Ending,
        again: bool,
    ) -> Option<Reason> {
        let max = self
            .flights
            .get(&source)
            .and_then(|flight| flight.set.as_ref())
            .and_then(|set| set.get(app));
        let max = max.map_or(0, |one| one.app.update.max_restarts);
        let well_before = self
            .flights
            .get(&source)
            .is_some_and(|flight| flight.well_once.contains(app));
        let active = self.active_mut(source)?;
        let restarts = match active.restarts.iter_mut().find(|(name, _)| name == app) {
            Some((_, restarts)) => restarts,
            None => {
                active.restarts.push((app.to_owned(), 0));
                &mut active.restarts.last_mut()?.1
            }
        };
        let verdict = soak::ended(ending, well_before, *restarts, max, again);
        if verdict.is_none() && again {
            *restarts = restarts.saturating_add(1);
        }
        verdict
    }

    /// Holds the version that failed. Does not write to the disk.
    pub(super) fn hold_culprit(&mut self, source: Source, now: Now) {
        let Some(active) = self.active(source) else { return };
        let (Some(app), Some(cause)) = (active.culprit.clone(), active.update.cause.clone()) else {
            return;
        };
        self.hold_version(source, &app, &cause, now);
    }

    /// Holds the version that a deployment brings. Does not write to the disk.
    pub(super) fn hold_version(&mut self, source: Source, app: &str, cause: &Cause, now: Now) {
        if let (_, Some(spec)) = self.versions(source, app, false) {
            self.history.quarantine.add(Entry {
                app: app.to_owned(),
                spec,
                cause: cause.clone(),
                at: now.unix,
            });
        }
    }
}

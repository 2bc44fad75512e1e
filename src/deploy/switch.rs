//! The switch and what follows: the steps forward or back, probing, soaking, committing, turning back.

use crate::plan::reconcile::{self, Current, Step};
use crate::plan::soak::Verdict;
use crate::plan::update::Event;
use crate::types::deployment::{Cause, Reason, State};
use crate::types::health::HealthStatus;
use crate::types::time::Mono;

use super::core::{Care, Core, Flight, Now};
use super::files::{Set, Source};
use super::hands::Failure;
use super::work::{Job, previous_name, staged_name, start_failure};

/// How often a stop that fails is tried, a second apart.
pub(super) const STOP_TRIES: u32 = 3;

impl Core {
    pub(super) fn begin_switch(&mut self, source: Source, now: Now) {
        if let Some(flight) = self.flights.get_mut(&source) {
            let apps: Vec<String> = flight.changes.keys().cloned().collect();
            flight.at = 0;
            flight.step_tries = 0;
            flight.step_since = now.mono;
            flight.retry_at = None;
            for app in apps {
                self.starts.remove(&app);
            }
        }
        self.run_steps(source, now);
    }

    /// Plans the way back from what the deployment's record says, so that it needs no file but the committed set.
    pub(super) fn begin_restore(&mut self, source: Source, now: Now) {
        let Some(active) = self.active(source) else { return };
        let empty = Set {
            label: String::new(),
            activity: String::new(),
            generation: 0,
            apps: Vec::new(),
        };
        let old = self.sets.get(&source).unwrap_or(&empty);
        let coming = self.flights.get(&source).and_then(|flight| flight.set.as_ref());
        let new: Vec<Current<Source>> = active
            .record
            .apps
            .iter()
            .filter_map(|one| one.to.map(|to| (one.name.as_str(), to.spec)))
            .map(|(name, spec)| Current {
                name,
                spec,
                depends_on: coming
                    .and_then(|set| set.get(name))
                    .map_or(&[][..], |one| &one.app.depends_on),
                owner: source,
            })
            .collect();
        let touched = |name: &str| active.record.apps.iter().any(|one| one.name == name);
        let unchanged = old.apps.iter().filter(|one| !touched(&one.app.name));
        let mut current: Vec<Current<Source>> = unchanged
            .map(|one| Current {
                name: &one.app.name,
                spec: one.spec,
                depends_on: &one.app.depends_on,
                owner: source,
            })
            .collect();
        current.extend(new);
        let others = self.sets.iter().filter(|(owner, _)| **owner != source);
        current.extend(others.flat_map(|(owner, set)| {
            set.apps.iter().map(|one| Current {
                name: &one.app.name,
                spec: one.spec,
                depends_on: &one.app.depends_on,
                owner: *owner,
            })
        }));
        let saved = self.notes(source).map(|notes| notes.saved.clone()).unwrap_or_default();
        let wanted: Vec<reconcile::Wanted> = old
            .apps
            .iter()
            .map(|one| reconcile::Wanted {
                name: &one.app.name,
                spec: one.spec,
                depends_on: &one.app.depends_on,
                beside: false,
                saves: saved.contains(&one.app.name),
            })
            .collect();
        let steps = reconcile::plan(&source, &wanted, &current)
            .map(|plan| plan.steps)
            .unwrap_or_default();
        let apps: Vec<String> = active.record.apps.iter().map(|one| one.name.clone()).collect();
        let flight = self.flights.or_default(source);
        flight.steps = steps;
        flight.at = 0;
        flight.step_tries = 0;
        flight.step_since = now.mono;
        flight.not_restored = None;
        flight.soak = None;
        flight.retry_at = None;
        for app in &apps {
            self.starts.remove(app);
        }
        self.run_steps(source, now);
    }

    /// Goes as far through the steps as nothing has to be waited for.
    pub(super) fn run_steps(&mut self, source: Source, now: Now) {
        loop {
            let Some(state) = self.state(source) else { return };
            let Some(flight) = self.flights.get(&source) else {
                return;
            };
            // Beyond the switch only apps that left have steps to go.
            let alone = matches!(state, State::Probing | State::Soaking) && flight.at < flight.steps.len();
            if !alone && !matches!(state, State::Switching | State::RollingBack) {
                return;
            }
            if flight.retry_at.is_some_and(|at| at > now.mono) {
                return;
            }
            let Some(step) = flight.steps.get(flight.at).cloned() else {
                return match state {
                    State::RollingBack => self.check_restored(source, now),
                    State::Switching => self.advance(source, Event::Switched, now),
                    _ => {}
                };
            };
            let alone = self.is_alone(source, step.app());
            let back = state == State::RollingBack || alone;
            let finished = match &step {
                Step::Stop(app) => self.step_stop(source, app, back),
                Step::Save(app) => self.step_save(source, app, back, now),
                Step::Start(app) => self.step_start(source, app, back, now),
                Step::Await(app) => self.step_await(source, app, back, now),
            };
            if !finished {
                return;
            }
            if let Some(flight) = self.flights.get_mut(&source) {
                if let (true, Step::Start(app)) = (alone, &step) {
                    flight.alone.insert(app.clone(), true);
                }
                flight.at += 1;
                flight.step_tries = 0;
                flight.step_since = now.mono;
            }
        }
    }

    /// The versions of an app that this deployment leaves and brings, in the direction it goes.
    pub(super) fn versions(
        &self,
        source: Source,
        app: &str,
        back: bool,
    ) -> (
        Option<crate::types::digest::Digest>,
        Option<crate::types::digest::Digest>,
    ) {
        let record = self
            .active(source)
            .and_then(|active| active.record.apps.iter().find(|one| one.name == app));
        let (from, to) = record.map_or((None, None), |one| (one.from.map(|v| v.spec), one.to.map(|v| v.spec)));
        if back { (to, from) } else { (from, to) }
    }

    fn step_stop(&mut self, source: Source, app: &str, back: bool) -> bool {
        if self.busy.contains(app) {
            return false;
        }
        let (leaves, _) = self.versions(source, app, back);
        let Some(id) = leaves.and_then(|spec| self.find(app, &spec)) else {
            return true;
        };
        let Some(care) = self.cares.get_mut(&id) else {
            return true;
        };
        if !care.running && care.stopping {
            return true;
        }
        // Also when it does not seem to run: whoever just died may have started it.
        care.stopping = true;
        self.busy.insert(app.to_owned());
        self.job(Job::Stop {
            app: app.to_owned(),
            id,
        });
        false
    }

    fn step_start(&mut self, source: Source, app: &str, back: bool, now: Now) -> bool {
        if self.busy.contains(app) {
            return false;
        }
        let (_, brings) = self.versions(source, app, back);
        let Some(spec) = brings else { return true };
        let Some(id) = self.find(app, &spec) else {
            // Anybody may remove a container.
            if self.document(app, &spec).is_some() {
                self.mend(app, &spec);
            } else {
                let gone = Failure::new(Reason::Internal, "its container is gone");
                self.start_failed(source, app, &gone, now);
            }
            return false;
        };
        // Its name is worth one try; a disk too full for that must not hold up the version itself.
        let tried = self.flights.get(&source).is_some_and(|flight| flight.step_tries > 0);
        let runs = |care: &Care| care.running && !care.stopping && (care.container.name == app || tried);
        if self.cares.get(&id).is_some_and(runs) {
            return true;
        }
        self.start_job(app, id);
        false
    }

    /// The start of an app came back well: its step has had its try.
    pub(super) fn step_was_started(&mut self, app: &str) {
        if let Some(flight) = self.flying(app).and_then(|source| self.flights.get_mut(&source))
            && matches!(flight.steps.get(flight.at), Some(Step::Start(name)) if name == app)
        {
            flight.step_tries += 1;
        }
    }

    /// Starts a container under its app's name.
    pub(super) fn start_job(&mut self, app: &str, id: crate::types::ids::ContainerId) {
        let holder = self
            .cares
            .iter()
            .find(|(other, care)| **other != id && care.container.name == app && !self.removing.contains_key(*other));
        let away = holder.map(|(other, care)| {
            let left = care.container.spec;
            let new = self.journal.active.iter().any(|one| {
                one.record
                    .apps
                    .iter()
                    .any(|record| record.name == app && record.to.is_some_and(|to| to.spec == left))
            });
            (
                *other,
                if new {
                    staged_name(app, &left)
                } else {
                    previous_name(app, &left)
                },
            )
        });
        if let Some(care) = self.cares.get_mut(&id) {
            care.stopping = false;
        }
        self.busy.insert(app.to_owned());
        self.job(Job::Start {
            app: app.to_owned(),
            id,
            away,
        });
    }

    fn step_await(&mut self, source: Source, app: &str, back: bool, now: Now) -> bool {
        if self.is_well(app) {
            return true;
        }
        let since = self.flights.get(&source).map_or(now.mono, |flight| flight.step_since);
        if now.mono < since.plus(self.patience(app)) {
            return false;
        }
        if back {
            // The apps that depend on it are tried all the same.
            self.restore_failed(
                source,
                Cause::new(Reason::ProbeTimeout, format!("app `{app}` does not become healthy")),
            );
            return true;
        }
        let text = format!("app `{app}`, which others depend on, does not become healthy");
        self.turn_back(source, app, Cause::new(Reason::ProbeTimeout, text), now);
        false
    }

    pub(super) fn stopped(
        &mut self,
        app: &str,
        id: crate::types::ids::ContainerId,
        result: Result<(), Failure>,
        now: Now,
    ) {
        self.busy.remove(app);
        match result {
            Ok(()) => {
                if let Some(care) = self.cares.get_mut(&id) {
                    care.running = false;
                    care.stopping = true;
                    care.health = HealthStatus::None;
                }
            }
            Err(failure) => self.stop_failed(app, id, failure, now),
        }
        if self.replies.contains_key(app) {
            self.restart_stopped(app, id, now);
        }
        self.run_all_steps(now);
    }

    fn stop_failed(&mut self, app: &str, id: crate::types::ids::ContainerId, failure: Failure, now: Now) {
        crate::warn!("stop container `{}` of app `{app}`: {}", id.short(), failure.cause);
        let Some(source) = self.flying(app) else { return };
        let back = self.state(source) == Some(State::RollingBack);
        let Some(flight) = self.flights.get_mut(&source) else {
            return;
        };
        if !matches!(flight.steps.get(flight.at), Some(Step::Stop(name)) if name == app) {
            return;
        }
        flight.step_tries += 1;
        if flight.step_tries < STOP_TRIES {
            flight.retry_at = Some(now.mono.plus(1_000));
            return;
        }
        let cause = Cause::new(
            Reason::Internal,
            format!("app `{app}` cannot be stopped: {}", failure.cause.detail),
        );
        if back {
            // Its old version is tried beside it rather than not at all.
            flight.at += 1;
            flight.step_tries = 0;
            self.restore_failed(source, cause);
        } else {
            self.turn_back(source, app, cause, now);
        }
    }

    pub(super) fn run_all_steps(&mut self, now: Now) {
        for source in Source::ALL {
            self.run_steps(source, now);
            // What waited for the steps of an app that left.
            self.check_probe(source, now);
            self.check_soak(source, now);
        }
    }

    /// The deployment that is switching this app.
    pub(super) fn flying(&self, app: &str) -> Option<Source> {
        let touches = |one: &&super::files::Deployment| {
            !one.update.may_be_given_up() && one.record.apps.iter().any(|record| record.name == app)
        };
        self.journal.active.iter().find(touches).map(|one| one.source)
    }

    /// The version that a step brings could not be started.
    pub(super) fn start_failed(&mut self, source: Source, app: &str, failure: &Failure, now: Now) {
        let cause = start_failure(app, failure);
        let at_it = |flight: &Flight| matches!(flight.steps.get(flight.at), Some(Step::Start(name)) if name == app);
        let back = self.state(source) == Some(State::RollingBack);
        if (back || self.is_alone(source, app)) && self.found_room(source, failure, now) {
            return;
        }
        if back {
            self.restore_failed(source, cause);
            if !self.flights.get(&source).is_some_and(at_it) {
                return;
            }
            if let Some(flight) = self.flights.get_mut(&source) {
                flight.at += 1;
            }
        } else {
            self.turn_back(source, app, cause, now);
        }
    }

    pub(super) fn restore_failed(&mut self, source: Source, cause: Cause) {
        if let Some(flight) = self.flights.get_mut(&source) {
            flight.not_restored.get_or_insert(cause);
        }
    }

    /// Goes back to the old versions because of `app`, which goes alone where it is independent.
    pub(super) fn turn_back(&mut self, source: Source, app: &str, cause: Cause, now: Now) {
        if self.is_alone(source, app) {
            return self.old_failed(source, app, &cause, now);
        }
        if self.leave(source, app, &cause, now) {
            return;
        }
        if let Some(active) = self.active_mut(source) {
            active.culprit = Some(app.to_owned());
        }
        self.advance(source, Event::Broken(cause), now);
    }

    /// Whether the old versions that came back run well, or fail too.
    pub(super) fn check_restored(&mut self, source: Source, now: Now) {
        let Some(flight) = self.flights.get(&source) else {
            return;
        };
        if flight.at < flight.steps.len() {
            return;
        }
        let since = flight.step_since;
        let old = self.old_apps(source);
        if let Some(cause) = flight.not_restored.clone() {
            return self.advance(source, Event::NotRestored(cause), now);
        }
        let late = old
            .iter()
            .find(|app| !self.is_well(app) && now.mono >= since.plus(self.patience(app)));
        if let Some(app) = late {
            let cause = Cause::new(
                Reason::ProbeTimeout,
                format!("app `{app}`: its old version does not become healthy"),
            );
            return self.advance(source, Event::NotRestored(cause), now);
        }
        if old.iter().all(|app| self.is_well(app)) {
            self.advance(source, Event::Restored, now);
        }
    }

    /// The apps that this deployment creates or updates.
    pub(super) fn new_apps(&self, source: Source) -> Vec<String> {
        let records = self
            .active(source)
            .map(|active| active.record.apps.as_slice())
            .unwrap_or_default();
        records
            .iter()
            .filter(|one| one.to.is_some() && !self.is_alone(source, &one.name))
            .map(|one| one.name.clone())
            .collect()
    }

    /// The apps that had a version before this deployment and are changed by it.
    fn old_apps(&self, source: Source) -> Vec<String> {
        let records = self
            .active(source)
            .map(|active| active.record.apps.as_slice())
            .unwrap_or_default();
        records
            .iter()
            .filter(|one| one.from.is_some())
            .map(|one| one.name.clone())
            .collect()
    }

    /// A new version's run ended, or it was judged unhealthy, while its deployment watches it.
    pub(super) fn evidence(&mut self, source: Source, app: &str, cause: Cause, now: Now) {
        match self.state(source) {
            Some(State::RollingBack) => {
                self.restore_failed(source, cause);
                self.run_steps(source, now);
            }
            Some(State::Switching | State::Probing | State::Soaking) => self.turn_back(source, app, cause, now),
            _ => {}
        }
    }

    /// What time brings to a deployment.
    pub(super) fn tick_flight(&mut self, source: Source, now: Now) {
        let Some(state) = self.state(source) else { return };
        let Some(flight) = self.flights.get_mut(&source) else {
            return;
        };
        let due = |at: Option<Mono>| at.is_some_and(|at| at <= now.mono);
        let (retry, look) = (due(flight.retry_at), due(flight.look_at));
        if retry {
            flight.retry_at = None;
        }
        if look {
            flight.look_at = None;
        }
        match state {
            State::Fetching if retry => self.begin_fetch(source, now),
            State::Accepted | State::Waiting | State::Fetching | State::Verifying | State::Staged if retry || look => {
                self.look(source, now);
            }
            State::Switching | State::RollingBack => self.run_steps(source, now),
            State::Probing => {
                self.run_steps(source, now);
                self.check_probe(source, now);
            }
            State::Soaking => {
                self.run_steps(source, now);
                self.check_soak(source, now);
            }
            _ => {}
        }
    }

    /// When this deployment is to be looked at.
    pub(super) fn flight_deadlines(&self, source: Source, flight: &Flight, now: Mono) -> Vec<Mono> {
        let mut times: Vec<Mono> = [flight.retry_at, flight.look_at].into_iter().flatten().collect();
        let late = |apps: Vec<String>| -> Vec<Mono> {
            let unwell = apps.into_iter().filter(|app| !self.is_well(app));
            unwell.map(|app| flight.step_since.plus(self.patience(&app))).collect()
        };
        match self.state(source) {
            Some(State::Probing) => times.extend(late(self.new_apps(source))),
            Some(State::Soaking) => {
                // While a commit waits for the disk its next try is what counts.
                if flight.retry_at.is_none()
                    && let Some(soak) = &flight.soak
                {
                    times.extend(match soak.verdict(now) {
                        Verdict::Going(at) => at,
                        // It became due since the last look; the end waits for whoever goes back.
                        Verdict::Done if flight.at < flight.steps.len() => None,
                        Verdict::Checkpoint | Verdict::Done => Some(now),
                    });
                }
            }
            Some(State::Switching | State::RollingBack) => match flight.steps.get(flight.at) {
                Some(Step::Await(app)) => times.extend(late(vec![app.clone()])),
                Some(_) => {}
                None => times.extend(late(self.old_apps(source))),
            },
            _ => {}
        }
        times
    }
}

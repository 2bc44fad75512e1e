//! The start: the last committed set runs at once, without a network; what a deployment was in the middle of goes on.

use std::collections::BTreeSet;
use std::path::Path;

use crate::disk::DiskError;
use crate::plan::reconcile::start_order;
use crate::plan::soak;
use crate::plan::update::{Event, before_switching};
use crate::types::bounds::{KEEPER_KILL_MS, KEEPER_STOP_MS};
use crate::types::deployment::{Cause, Reason, State};
use crate::types::sorted::Sorted;
use crate::types::time::Unix;

use super::alone::left;
use super::core::{Conditions, Core, Flight, Now, Out, Settings, Start};
use super::files::{self, Files, SEQ_AHEAD, Source};
use super::hands::{Container, Ended, Phase};
use super::work::Job;

impl Core {
    /// Takes up what the files in `dir` say and what runs. `boot` names this boot of the device; `found` is every container of an app.
    /// Returns what is to be done at once.
    pub fn boot(
        settings: Settings,
        conditions: Conditions,
        dir: &Path,
        found: Vec<Container>,
        boot: &str,
        now: Now,
    ) -> Result<(Core, Vec<Out>), DiskError> {
        let (files, loaded) = Files::open(dir)?;
        let mut journal = loaded.journal;
        let rebooted = journal.boot != boot;
        journal.seq = journal.seq.saturating_add(SEQ_AHEAD);
        boot.clone_into(&mut journal.boot);
        let mut core = Core {
            settings,
            conditions,
            files,
            seq_synced: journal.seq,
            journal,
            history: loaded.history,
            sets: loaded.sets.into_iter().collect(),
            flights: Sorted::new(),
            pending: Sorted::new(),
            cares: Sorted::new(),
            busy: BTreeSet::new(),
            removing: Sorted::new(),
            starts: Sorted::new(),
            replies: Sorted::new(),
            working: Sorted::new(),
            tickets: 0,
            reported: Vec::new(),
            out: Vec::new(),
        };
        core.forget_finished();
        for mut container in found {
            let in_time = |since: Unix, at: Unix| at >= since && at.0 - since.0 <= KEEPER_STOP_MS + 2 * KEEPER_KILL_MS;
            let by_keeper =
                |ended: Ended| ended.asked && core.settings.stopped.is_some_and(|since| in_time(since, ended.at));
            if matches!(container.phase, Phase::Ended(ended) if by_keeper(ended)) {
                container.phase = Phase::Lost;
            }
            core.take_in(container, now);
        }
        for source in Source::ALL {
            core.take_up(source, rebooted, now);
        }
        for source in Source::ALL {
            core.stamp(source, now);
        }
        if let Err(error) = core.write_journal(true, files::BOOT) {
            core.disk_event(&error, now);
        }
        // What ended last is told again: it may have been written down without being heard.
        core.report_deployment(Source::Fleet);
        for text in loaded.damage {
            crate::error!("{text}");
            core.event(Reason::Disk, None, text, now);
        }
        core.start_all(rebooted, now);
        for source in Source::ALL {
            core.go_on(source, now);
        }
        core.clean_up();
        // What a deployment that failed could not bring back stays until another one has ended.
        let failed = |record: &crate::types::deployment::Record| record.state == State::Failed;
        if !core.history.finals.last().is_some_and(failed) {
            core.forget_saved();
        }
        for source in Source::ALL {
            // What a deployment that ended just before left behind.
            if core.active(source).is_none()
                && let Err(error) = core.files.drop_next(source)
            {
                core.disk_event(&error, now);
            }
        }
        core.run_starts(now);
        core.files.keep_room();
        let idle = Source::ALL.iter().all(|source| core.active(*source).is_none());
        core.job(Job::Sweep { idle });
        core.report_apps();
        for source in Source::ALL {
            if core.active(source).is_some() {
                core.report_deployment(source);
            }
        }
        let out = std::mem::take(&mut core.out);
        Ok((core, out))
    }

    /// Drops deployments whose final record was written before the journal lost them.
    fn forget_finished(&mut self) {
        let finals = &self.history.finals;
        let finished = |one: &files::Deployment| {
            one.update.state.is_final()
                || finals.iter().any(|last| {
                    (&last.activity, last.generation, last.attempt)
                        == (&one.record.activity, one.record.generation, one.record.attempt)
                })
        };
        let handled: Vec<files::Handled> = self
            .journal
            .active
            .iter()
            .filter(|one| finished(one))
            .map(|one| {
                let last = finals.iter().rev().find(|last| last.activity == one.record.activity);
                files::Handled {
                    source: one.source,
                    activity: one.record.activity.clone(),
                    generation: one.record.generation,
                    rollout: one.record.rollout.clone(),
                    set: one.set,
                    state: last.map_or(one.update.state, |last| last.state),
                }
            })
            .collect();
        self.journal.active.retain(|one| !finished(one));
        let (active, notes) = (&self.journal.active, &mut self.journal.notes);
        notes.retain(|note| active.iter().any(|one| one.source == note.source));
        for one in handled {
            self.journal.handled.retain(|old| old.source != one.source);
            self.journal.handled.push(one);
        }
    }

    /// Finds what a deployment under way needs to go on; counts a reboot.
    fn take_up(&mut self, source: Source, rebooted: bool, now: Now) {
        let Some(active) = self.active_mut(source) else { return };
        let state = active.update.state;
        let mut flight = Flight {
            begun: now.mono,
            step_since: now.mono,
            bytes: active.record.bytes,
            ..Flight::default()
        };
        if before_switching(state) {
            active.update = crate::plan::update::Update::new();
            active.record.state = State::Accepted;
            self.flights.insert(source, flight);
            return;
        }
        if rebooted && active.update.runs_new() {
            active.reboots = active.reboots.saturating_add(1);
        }
        let names: BTreeSet<String> = active.record.apps.iter().map(|one| one.name.clone()).collect();
        let activity = active.record.activity.clone();
        flight.set = match self.files.read_next(source) {
            Ok(Some(set)) => Some(set),
            // Committed already, and only its final record is missing.
            Ok(None) => self
                .sets
                .get(&source)
                .filter(|set| state == State::Soaking && set.activity == activity)
                .cloned(),
            Err(error) => {
                self.disk_event(&error, now);
                None
            }
        };
        if let Some(set) = &flight.set
            && let Ok(plan) = self.plan(source, Some(set))
        {
            flight.changes = plan
                .changes
                .into_iter()
                .filter(|(name, _)| names.contains(name))
                .collect();
            flight.steps = plan.steps;
        }
        if matches!(state, State::Probing | State::Soaking) {
            flight.steps.clear();
        }
        let active = self.active(source);
        let gone = |app: &&String| active.is_some_and(|active| left(active, &flight, app));
        let alone: Vec<String> = names.iter().filter(gone).cloned().collect();
        for app in alone {
            flight.steps.splice(0..0, self.steps_back(source, &app));
            // What it is held for may not have been written down.
            let record = self
                .active(source)
                .and_then(|active| active.record.apps.iter().find(|one| one.name == app));
            if let Some(cause) = record
                .and_then(|one| one.reason.clone())
                .filter(|cause| soak::counts_against(cause.code))
            {
                self.hold_version(source, &app, &cause, now);
                self.write_quarantine(now);
            }
            flight.alone.insert(app, false);
        }
        self.flights.insert(source, flight);
    }

    /// Plans the start of everything that should run and does not, dependencies first; listens to what runs.
    fn start_all(&mut self, rebooted: bool, now: Now) {
        let running: Vec<_> = self
            .cares
            .iter()
            .filter(|(_, care)| care.running)
            .map(|(id, _)| *id)
            .collect();
        for id in running {
            self.out.push(Out::Watch(id));
        }
        let mut apps: Sorted<String, Vec<String>> = Sorted::new();
        let coming = self.flights.values().filter_map(|flight| flight.set.as_ref());
        for one in self.sets.values().chain(coming).flat_map(|set| &set.apps) {
            let is_desired = self.desired(&one.app.name).is_some_and(|(_, spec)| spec == one.spec);
            if is_desired {
                apps.insert(one.app.name.clone(), one.app.depends_on.clone());
            }
        }
        let graph = apps.iter().map(|(name, depends)| (name.as_str(), depends.as_slice()));
        let order: Vec<String> = match start_order(graph) {
            Ok(order) => order.into_iter().map(str::to_owned).collect(),
            Err(_) => apps.keys().cloned().collect(),
        };
        for app in order {
            let Some((_, spec)) = self.desired(&app) else { continue };
            let id = self.find(&app, &spec);
            let phase = id.and_then(|id| self.cares.get(&id)).map(|care| care.container.phase);
            match (phase, id) {
                (Some(Phase::Running { .. }), _) => {}
                (Some(Phase::Ended(ended)), Some(id)) if !rebooted => {
                    // It ended while no agent looked: judged as if it had ended now.
                    if let Some(care) = self.cares.get_mut(&id) {
                        care.since = Core::mono_of(ended.at, now);
                    }
                    self.judge_end(id, ended, now);
                }
                _ => {
                    let awaits = apps.get(&app).cloned().unwrap_or_default();
                    let patience = awaits.iter().map(|other| self.patience(other)).max().unwrap_or(0);
                    self.starts.insert(
                        app,
                        Start {
                            at: now.mono,
                            awaits,
                            patience: now.mono.plus(patience),
                        },
                    );
                }
            }
        }
    }

    /// Lets a deployment that was switching, probing, soaking or going back go on.
    fn go_on(&mut self, source: Source, now: Now) {
        let Some(active) = self.active(source) else { return };
        let (state, reboots) = (active.update.state, active.reboots);
        if before_switching(state) {
            return;
        }
        let first = active
            .record
            .apps
            .first()
            .map(|one| one.name.clone())
            .unwrap_or_default();
        let Some(flight) = self.flights.get(&source) else {
            return;
        };
        let committed = self
            .sets
            .get(&source)
            .is_some_and(|set| Some(set) == flight.set.as_ref());
        if state == State::Soaking && committed {
            return self.advance(source, Event::Soaked, now);
        }
        if active.update.runs_new() && flight.set.is_none() {
            let cause = Cause::new(Reason::Internal, "the set to come cannot be read");
            return self.turn_back(source, &first, cause, now);
        }
        if active.update.runs_new()
            && let Some(code) = soak::rebooted(reboots)
        {
            let cause = Cause::new(
                code,
                format!("the device was restarted {reboots} times during this deployment"),
            );
            return self.turn_back(source, &first, cause, now);
        }
        self.resume(source, now);
    }
}

//! The deployer's mind: one input at a time, with the time passed in; out come jobs, watches and reports.
//!
//! It blocks on nothing but the journal's sync, so that an exit is answered at once while something else is pulled. Its parts:
//! `accept` (documents), `gate` (what holds them back), `stage` (fetch and create), `switch` (steps forward and back), `trial`
//! (probe, soak, commit), `care` (containers' ends, restarts, starts), `boot` (after a power cut or a killed agent), `report`.

use std::collections::BTreeSet;

use crate::plan::reconcile::{Change, Step};
use crate::plan::restart::Restarts;
use crate::plan::soak::Soak;
use crate::plan::update::{Effect, Event};
use crate::types::app::App;
use crate::types::deployment::{BytesMoved, Cause, Reason, State};
use crate::types::digest::Digest;
use crate::types::document::{self, Deploy, ReportedApp, Rollout};
use crate::types::health::HealthStatus;
use crate::types::ids::ContainerId;
use crate::types::sorted::Sorted;
use crate::types::time::{Mono, Unix};

use super::alone::left;
use super::files::{self, CHECKPOINT, Deployment, Files, Handled, History, Journal, SEQ_AHEAD, Set, Source};
use super::hands::{Cancel, Container, Ended, Seen};
use super::slots;
use super::work::{Done, Job, Ticket};

/// What does not change while the agent runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The device's name, for waves.
    pub device: String,
    /// Bytes of memory that the board gives to apps; no admission where it says nothing.
    pub budget: Option<u64>,
    /// Memory limit of an app that names none, bytes.
    pub default_memory: u64,
    /// Whether images of the fleet's sets must be pinned by digest: a fleet key is configured.
    pub pinned: bool,
    /// Time in which every app of an update must have been healthy once, milliseconds; an app whose own start period is longer has
    /// that.
    pub probe_timeout: u64,
    /// Tries of a fetch that the network broke, before the deployment fails with `net`.
    pub pull_attempts: u32,
    /// When a keeper began to stop its containers because its unit was stopped, where that was since the last agent's start: they
    /// run again, as after a reboot.
    pub stopped: Option<Unix>,
}

/// What may hold an update back, and changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    /// The clock is synchronised.
    pub synchronised: bool,
    /// Local time's seconds east of UTC.
    pub offset: i32,
    /// The link is metered: nothing is pulled unless urgent.
    pub metered: bool,
    /// The disk is at its reserve: nothing is pulled, and what is not needed goes.
    pub full: bool,
    /// The device's labels, for waves.
    pub labels: Vec<String>,
    /// The agent itself is on trial: one change at a time.
    pub renewing: bool,
}

/// What a source wants.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    /// Whose it is.
    pub source: Source,
    /// `d/DEVICE`, `g/GROUP` or `local`.
    pub label: String,
    /// Names it in every report; the same wish again has the same.
    pub activity: String,
    /// The document's generation.
    pub generation: u64,
    /// How it rolls out.
    pub rollout: Option<Rollout>,
    /// Apps whose quarantine is lifted.
    pub retry: Vec<String>,
    /// The whole set.
    pub apps: Vec<App>,
}

/// Tells whoever asked how it went.
pub type Reply = Box<dyn FnOnce(Result<(), Cause>) + Send>;

/// What the deployer is asked to do.
pub enum Command {
    /// Bring the device to this set.
    Apply(Box<Wish>),
    /// What holds updates back has changed.
    Conditions(Conditions),
    /// Lift these apps' quarantine, and try again what it stopped.
    Retry(Vec<String>),
    /// Stop and start one app.
    Restart(String, Reply),
    /// Overrule an app's update lock, for the update that is under way.
    Unlock(String, Reply),
    /// Leave an app's version for the one before, and quarantine it.
    Rollback(String, Reply),
}

/// What happened.
pub enum Input {
    /// Somebody asks.
    Command(Command),
    /// A job is done.
    Done(Done),
    /// A fetch has moved bytes.
    Progress(Ticket, BytesMoved),
    /// A container changed.
    Seen(ContainerId, Seen),
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug)]
pub enum Out {
    /// Work, on another thread.
    Job(Job),
    /// Listen to a container.
    Watch(ContainerId),
    /// Tell the agent.
    Report(Report),
}

/// What the agent is told.
#[derive(Debug, Clone)]
pub enum Report {
    /// A deployment changed; the newest final record is inside.
    Deployment(Box<Deploy>),
    /// The apps changed.
    Apps(Vec<ReportedApp>),
    /// Something worth an event.
    Event(document::Event),
}

/// The time of an input.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For waits.
    pub mono: Mono,
    /// For records.
    pub unix: Unix,
    /// Random.
    pub dice: u32,
}

/// The deployer's state.
pub struct Core {
    pub(super) settings: Settings,
    pub(super) conditions: Conditions,
    pub(super) files: Files,
    pub(super) journal: Journal,
    pub(super) history: History,
    pub(super) sets: Sorted<Source, Set>,
    pub(super) flights: Sorted<Source, Flight>,
    pub(super) pending: Sorted<Source, Wish>,
    pub(super) cares: Sorted<ContainerId, Care>,
    /// Apps with a stop, start or mend under way.
    pub(super) busy: BTreeSet<String>,
    pub(super) removing: Sorted<ContainerId, String>,
    /// Apps that are to be started by themselves: at boot, after an exit.
    pub(super) starts: Sorted<String, Start>,
    pub(super) replies: Sorted<String, Reply>,
    /// The fetch or stage job of each source that is not done yet, also of a deployment that was given up meanwhile.
    pub(super) working: Sorted<Source, (u64, Cancel)>,
    pub(super) tickets: u64,
    pub(super) seq_synced: u64,
    pub(super) reported: Vec<ReportedApp>,
    pub(super) out: Vec<Out>,
}

/// What is known of a deployment beside its journal entry.
#[derive(Debug, Default)]
pub(super) struct Flight {
    /// The set that it brings; `None` after a restart until its document is applied again.
    pub set: Option<Set>,
    pub changes: Sorted<String, Change>,
    pub steps: Vec<Step>,
    pub at: usize,
    pub step_since: Mono,
    pub step_tries: u32,
    pub begun: Mono,
    pub soak: Option<Soak>,
    pub well_once: BTreeSet<String>,
    /// Apps that left, and whether their old version had its turn to start.
    pub alone: Sorted<String, bool>,
    pub not_restored: Option<Cause>,
    pub retry_at: Option<Mono>,
    /// Its wait for update locks is counted up to here.
    pub locked_at: Option<Mono>,
    pub look_at: Option<Mono>,
    /// The job whose answer is waited for.
    pub work: Option<u64>,
    pub bytes: BytesMoved,
}

/// A container that the deployer looks after.
#[derive(Debug)]
pub(super) struct Care {
    pub container: Container,
    pub running: bool,
    pub since: Mono,
    pub health: HealthStatus,
    pub restarts: Restarts,
    pub ended: Option<Ended>,
    /// The deployer itself asked it to stop.
    pub stopping: bool,
}

/// A start to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Start {
    pub at: Mono,
    /// Apps that must be well before, until `patience`.
    pub awaits: Vec<String>,
    pub patience: Mono,
}

impl Core {
    /// Takes one input; what is to be done then, in order.
    pub fn handle(&mut self, input: Input, now: Now) -> Vec<Out> {
        match input {
            Input::Command(command) => self.command(command, now),
            Input::Done(done) => self.done(done, now),
            Input::Progress(ticket, bytes) => self.progress(&ticket, bytes, now),
            Input::Seen(id, seen) => self.seen(id, seen, now),
            Input::Tick => {}
        }
        self.tick(now);
        self.report_apps();
        std::mem::take(&mut self.out)
    }

    /// When to call with [`Input::Tick`] at the latest.
    pub fn deadline(&self, now: Mono) -> Option<Mono> {
        let flights = self
            .flights
            .iter()
            .flat_map(|(source, flight)| self.flight_deadlines(*source, flight, now));
        let starts = self
            .starts
            .iter()
            .filter(|(app, _)| !self.busy.contains(*app))
            .map(|(_, start)| {
                let waits = start.awaits.iter().any(|app| !self.is_well(app));
                if waits { start.at.max(start.patience) } else { start.at }
            });
        flights.chain(starts).min()
    }

    fn command(&mut self, command: Command, now: Now) {
        match command {
            Command::Apply(wish) => self.apply(*wish, now),
            Command::Conditions(conditions) => {
                let full = self.conditions.full;
                self.conditions = conditions;
                if full != self.conditions.full {
                    self.disk_turned(now);
                }
                self.look_all(now);
            }
            Command::Retry(apps) => self.retry(&apps, now),
            Command::Restart(app, reply) => self.restart(app, reply, now),
            Command::Unlock(app, reply) => self.unlock(&app, reply, now),
            Command::Rollback(app, reply) => self.roll_back_app(&app, reply, now),
        }
    }

    fn done(&mut self, done: Done, now: Now) {
        match done {
            Done::Fetched(ticket, result) => self.fetched(&ticket, result, now),
            Done::Staged(ticket, made, result) => self.staged(&ticket, made, result, now),
            Done::Kept(Ok(())) => {}
            Done::Kept(Err(failure)) => crate::warn!("the apps' images, and what is left over: {}", failure.cause),
            Done::Stopped(app, id, result) => self.stopped(&app, id, result, now),
            Done::Started(app, id, result) => self.started(&app, id, result, now),
            Done::Removed(app, id, result) => self.removed(&app, id, result, now),
            Done::Saved(app, back, result) => self.saved(&app, back, result, now),
            Done::Forgotten(Ok(())) | Done::Tidied(Ok(())) => {}
            Done::Tidied(Err(failure)) => crate::warn!("make room on the disk: {}", failure.cause),
            Done::Forgotten(Err(failure)) => crate::warn!("remove saved volumes: {}", failure.cause),
            Done::Mended(app, result) => self.mended(&app, result, now),
        }
    }

    fn tick(&mut self, now: Now) {
        for source in Source::ALL {
            self.tick_flight(source, now);
        }
        self.run_starts(now);
    }

    /// The deployment of this source that is not at its end.
    pub(super) fn active(&self, source: Source) -> Option<&Deployment> {
        self.journal.active.iter().find(|one| one.source == source)
    }

    pub(super) fn active_mut(&mut self, source: Source) -> Option<&mut Deployment> {
        self.journal.active.iter_mut().find(|one| one.source == source)
    }

    pub(super) fn state(&self, source: Source) -> Option<State> {
        self.active(source).map(|one| one.update.state)
    }

    pub(super) fn job(&mut self, job: Job) {
        self.out.push(Out::Job(job));
    }

    pub(super) fn ticket(&mut self, source: Source) -> Ticket {
        self.tickets += 1;
        Ticket {
            source,
            number: self.tickets,
        }
    }

    /// Lets the machine of `source` take `event`, writes the state down, reports it and begins its effects.
    pub(super) fn advance(&mut self, source: Source, event: Event, now: Now) {
        let Some(deployment) = self.active_mut(source) else {
            return;
        };
        let before = deployment.clone();
        let effects = match deployment.update.take(event, now.mono) {
            Ok(effects) => effects,
            Err(illegal) => {
                crate::error!("{source}: {illegal}");
                return;
            }
        };
        let state = deployment.update.state;
        if state == before.update.state && deployment.update == before.update {
            return;
        }
        self.stamp(source, now);
        if state.is_final() {
            self.close(source, now);
        } else if let Err(error) = self.write_state(state) {
            self.disk_event(&error, now);
            if state == State::Switching {
                // Nothing is touched before it is on the disk that it will be.
                if let Some(deployment) = self.active_mut(source) {
                    *deployment = before;
                }
                let wait = crate::plan::backoff::DISK.wait(0, now.dice);
                if let Some(flight) = self.flights.get_mut(&source) {
                    flight.retry_at = Some(now.mono.plus(wait));
                }
                return;
            }
        }
        if !state.is_final() {
            self.report_deployment(source);
        }
        self.begin_effects(source, effects, now);
    }

    fn begin_effects(&mut self, source: Source, effects: Vec<Effect>, now: Now) {
        if effects.contains(&Effect::Quarantine) {
            // Held from now on, written after the way back has begun: the old version comes first.
            self.hold_culprit(source, now);
        }
        for effect in effects {
            self.begin_effect(source, effect, now);
        }
    }

    fn begin_effect(&mut self, source: Source, effect: Effect, now: Now) {
        match effect {
            Effect::Look => self.look(source, now),
            Effect::Fetch => self.begin_fetch(source, now),
            Effect::Stage => self.begin_stage(source, now),
            Effect::Switch => self.begin_switch(source, now),
            Effect::Probe => self.begin_probe(source, now),
            Effect::Soak => self.begin_soak(source, now),
            Effect::Restore => self.begin_restore(source, now),
            Effect::Quarantine => self.write_quarantine(now),
            Effect::RetryAt(at) => {
                if let Some(flight) = self.flights.get_mut(&source) {
                    flight.retry_at = Some(at);
                }
            }
            Effect::CleanUp => self.clean_up(),
        }
    }

    /// What to do first after a restart, by the machine.
    pub(super) fn resume(&mut self, source: Source, now: Now) {
        let Some(deployment) = self.active_mut(source) else {
            return;
        };
        let effects = deployment.update.resumed();
        self.begin_effects(source, effects, now);
    }

    /// Writes state, cause, time and number of the machine into the published record.
    pub(super) fn stamp(&mut self, source: Source, now: Now) {
        self.journal.seq += 1;
        let seq = self.journal.seq;
        let alone: Vec<String> = match (self.active(source), self.flights.get(&source)) {
            (Some(active), Some(flight)) => {
                let names = active.record.apps.iter().map(|one| one.name.clone());
                names.filter(|name| left(active, flight, name)).collect()
            }
            _ => Vec::new(),
        };
        let flight_bytes = self.flights.get(&source).map(|flight| flight.bytes);
        let Some(deployment) = self.active_mut(source) else {
            return;
        };
        let record = &mut deployment.record;
        if record.state != deployment.update.state {
            record.since = now.unix;
        }
        record.state = deployment.update.state;
        record.reason = deployment.update.cause.clone();
        record.seq = seq;
        record.bytes = flight_bytes.unwrap_or(record.bytes);
        for app in &mut record.apps {
            if alone.contains(&app.name) {
                if record.state == State::Committed && app.state != State::Failed {
                    app.state = State::RolledBack;
                }
                continue;
            }
            app.state = record.state;
            app.reason = match &deployment.culprit {
                Some(culprit) if *culprit == app.name => record.reason.clone(),
                _ => None,
            };
        }
    }

    /// Writes the journal for a state. What only says how far the preparation is needs no sync: it is begun anew after a power cut.
    fn write_state(&mut self, state: State) -> Result<(), crate::disk::DiskError> {
        let prepares = matches!(
            state,
            State::Waiting | State::Fetching | State::Verifying | State::Staged | State::Probing
        );
        self.write_journal(!prepares, files::journal_step(state))
    }

    /// Writes the journal. Sequence numbers are promised ahead, so that one without a sync is never given out twice.
    pub(super) fn write_journal(&mut self, sync: bool, step: slots::Step) -> Result<(), crate::disk::DiskError> {
        let sync = sync || self.journal.seq >= self.seq_synced + SEQ_AHEAD;
        self.files.write_journal(&self.journal, sync, step)?;
        if sync {
            self.seq_synced = self.journal.seq;
        }
        Ok(())
    }

    /// Writes the counted soak time and the restarts down.
    pub(super) fn checkpoint(&mut self, source: Source, now: Now) {
        let Some(soak) = self.flights.get_mut(&source).and_then(|flight| flight.soak.as_mut()) else {
            return;
        };
        let counted = soak.counted(now.mono);
        soak.written(now.mono);
        if let Some(deployment) = self.active_mut(source) {
            deployment.soaked = counted;
        }
        if let Err(error) = self.write_journal(true, CHECKPOINT) {
            self.disk_event(&error, now);
        }
    }

    /// Brings a deployment to its end on the disk: first its final record, then the journal without it.
    fn close(&mut self, source: Source, now: Now) {
        let Some(at) = self.journal.active.iter().position(|one| one.source == source) else {
            return;
        };
        let deployment = self.journal.active[at].clone();
        self.history.finals.push(deployment.record.clone());
        if let Err(error) = self.files.write_history(&mut self.history, files::FINAL) {
            self.disk_event(&error, now);
        }
        self.journal.active.remove(at);
        let saved = self.notes(source).is_some_and(|notes| !notes.saved.is_empty());
        self.journal.notes.retain(|one| one.source != source);
        self.journal.handled.retain(|one| one.source != source);
        let record = &deployment.record;
        self.journal.handled.push(Handled {
            source,
            activity: record.activity.clone(),
            generation: record.generation,
            rollout: record.rollout.clone(),
            set: deployment.set,
            state: record.state,
        });
        if let Err(error) = self.write_journal(true, files::journal_step(record.state)) {
            self.disk_event(&error, now);
        }
        if let Some((_, cancel)) = self.working.get(&source) {
            cancel.cancel();
        }
        if let Some(flight) = self.flights.remove(&source) {
            // What its steps left to be started: the committed version of an app whose restart was due.
            let gone: Vec<&String> = flight
                .changes
                .keys()
                .filter(|app| self.desired(app).is_none())
                .collect();
            for app in gone {
                self.starts.remove(app);
            }
        }
        self.drop_locks(record);
        if saved && record.state != State::Failed {
            self.forget_saved();
        }
        let touched_images = record.state != State::Rejected && !record.apps.is_empty();
        for app in deployment.record.apps.iter().filter(|app| app.from.is_some()) {
            self.revive(&app.name, now);
        }
        if let Err(error) = self.files.drop_next(source) {
            self.disk_event(&error, now);
        }
        self.out.push(Out::Report(Report::Deployment(Box::new(Deploy {
            record: deployment.record.clone(),
            last_final: Some(Box::new(deployment.record)),
        }))));
        if touched_images {
            let images = self.needed_images();
            self.job(Job::Keep(images));
        }
        if let Some(wish) = self.pending.remove(&source) {
            self.apply(wish, now);
        }
        self.files.keep_room();
        self.look_all(now);
    }

    /// The version of an app that should run now; `None` when none should, or while a step of a switch is about to decide.
    pub(super) fn desired(&self, app: &str) -> Option<(Source, Digest)> {
        for deployment in &self.journal.active {
            let Some(record) = deployment.record.apps.iter().find(|one| one.name == app) else {
                continue;
            };
            let flight = self.flights.get(&deployment.source);
            let had_its_turn = || {
                flight.is_some_and(|flight| {
                    flight
                        .steps
                        .iter()
                        .take(flight.at)
                        .any(|step| matches!(step, Step::Start(name) if name == app))
                })
            };
            if let Some(flight) = flight.filter(|flight| left(deployment, flight, app)) {
                let returned = flight.alone.get(app) == Some(&true);
                let version = record.from.filter(|_| returned);
                return version.map(|version| (deployment.source, version.spec));
            }
            let version = match deployment.update.state {
                State::Probing | State::Soaking => record.to,
                State::Switching if had_its_turn() => record.to,
                State::RollingBack if had_its_turn() => record.from,
                State::Switching | State::RollingBack => None,
                _ => continue,
            };
            return version.map(|version| (deployment.source, version.spec));
        }
        self.sets
            .iter()
            .find_map(|(source, set)| set.get(app).map(|one| (*source, one.spec)))
    }

    /// The document of a version of an app, wherever it stands.
    pub(super) fn document(&self, app: &str, spec: &Digest) -> Option<&files::SetApp> {
        let coming = self.flights.values().filter_map(|flight| flight.set.as_ref());
        self.sets
            .values()
            .chain(coming)
            .filter_map(|set| set.get(app))
            .find(|one| one.spec == *spec)
    }

    /// The container of a version of an app.
    pub(super) fn find(&self, app: &str, spec: &Digest) -> Option<ContainerId> {
        let fits = |care: &Care| care.container.app == app && care.container.spec == *spec;
        let rank = |care: &Care| (care.running, care.ended.is_some());
        self.cares
            .iter()
            .filter(|(id, care)| fits(care) && !self.removing.contains_key(*id))
            .max_by_key(|(_, care)| rank(care))
            .map(|(id, _)| *id)
    }

    /// Removes every container that no set and no deployment needs.
    pub(super) fn clean_up(&mut self) {
        let needed = |container: &Container| {
            let committed = self
                .sets
                .values()
                .any(|set| set.get(&container.app).is_some_and(|one| one.spec == container.spec));
            let active = self.journal.active.iter().any(|deployment| {
                deployment.record.apps.iter().any(|one| {
                    one.name == container.app
                        && [one.from, one.to]
                            .iter()
                            .flatten()
                            .any(|version| version.spec == container.spec)
                })
            });
            committed || active
        };
        let orphans: Vec<(ContainerId, String)> = self
            .cares
            .iter()
            .filter(|(id, care)| !needed(&care.container) && !self.removing.contains_key(*id))
            .map(|(id, care)| (*id, care.container.app.clone()))
            .collect();
        for (id, app) in orphans {
            if let Some(care) = self.cares.get_mut(&id) {
                care.stopping = true;
            }
            self.removing.insert(id, app.clone());
            self.job(Job::Remove { app, id });
        }
    }

    pub(super) fn removed(&mut self, app: &str, id: ContainerId, result: Result<(), super::hands::Failure>, now: Now) {
        self.removing.remove(&id);
        match result {
            Ok(()) => drop(self.cares.remove(&id)),
            Err(failure) => {
                // Kept in mind: the next clean-up, at the latest the next boot's, tries again.
                crate::warn!("remove container `{}` of app `{app}`: {}", id.short(), failure.cause);
            }
        }
        self.look_all(now);
    }

    pub(super) fn disk_event(&mut self, error: &crate::disk::DiskError, now: Now) {
        crate::error!("{error}");
        self.event(Reason::Disk, None, error.to_string(), now);
    }

    pub(super) fn event(&mut self, code: Reason, app: Option<&str>, detail: String, now: Now) {
        let event = document::Event {
            code,
            app: app.map(str::to_owned),
            detail,
            at: now.unix.rfc3339(),
        };
        self.out.push(Out::Report(Report::Event(event)));
    }
}

//! Independent apps: one that fails leaves its deployment, goes back to its old version by itself, and the others go on.
//!
//! The set to come says so: an app that left stands in it with its old version, while the record still names the new one. So
//! nothing but the set's file is needed after a power cut, and the commit brings what runs.

use crate::plan::reconcile::Step;
use crate::plan::soak::counts_against;
use crate::types::deployment::{Cause, Reason, State};

use super::core::{Core, Flight, Now};
use super::files::{self, Deployment, Source};

/// Whether this app left the deployment.
pub(super) fn left(deployment: &Deployment, flight: &Flight, app: &str) -> bool {
    let state = deployment.update.state;
    if !matches!(
        state,
        State::Switching | State::Probing | State::Soaking | State::Committed
    ) {
        return false;
    }
    let record = deployment.record.apps.iter().find(|one| one.name == app);
    let (Some(to), Some(set)) = (record.and_then(|one| one.to), &flight.set) else {
        return false;
    };
    set.get(app).map(|one| one.spec) != Some(to.spec)
}

impl Core {
    /// Whether this app left its deployment and goes, or went, back by itself.
    pub(super) fn is_alone(&self, source: Source, app: &str) -> bool {
        match (self.active(source), self.flights.get(&source)) {
            (Some(active), Some(flight)) => left(active, flight, app),
            _ => false,
        }
    }

    /// Lets an independent app leave its deployment because of `cause`; false where it cannot, or nothing else would be left.
    pub(super) fn leave(&mut self, source: Source, app: &str, cause: &Cause, now: Now) -> bool {
        let (Some(active), Some(flight)) = (self.active(source), self.flights.get(&source)) else {
            return false;
        };
        let Some(mut set) = flight.set.clone() else {
            return false;
        };
        let others = active
            .record
            .apps
            .iter()
            .any(|one| one.name != app && !left(active, flight, &one.name));
        let independent = set.get(app).is_some_and(|one| one.app.update.independent);
        if !independent || !others || !active.update.runs_new() || cause.code == Reason::Reboots {
            return false;
        }
        let old = self.sets.get(&source).and_then(|set| set.get(app)).cloned();
        set.apps.retain(|one| one.app.name != app);
        set.apps.extend(old);
        // Why it left is written first: without the set's file it means nothing, and with it nobody has to guess.
        if let Some(active) = self.active_mut(source)
            && let Some(record) = active.record.apps.iter_mut().find(|one| one.name == app)
        {
            record.state = State::RollingBack;
            record.reason = Some(cause.clone());
        }
        let state = self.state(source).unwrap_or(State::Switching);
        let written = self.write_journal(true, files::journal_step(state));
        if let Err(error) = written.and_then(|()| self.files.write_next(source, &set)) {
            self.disk_event(&error, now);
            return false;
        }
        if counts_against(cause.code) {
            self.hold_version(source, app, cause, now);
        }
        let steps = self.steps_back(source, app);
        self.starts.remove(app);
        if let Some(flight) = self.flights.get_mut(&source) {
            flight.set = Some(set);
            let mut at = 0..;
            let passed = flight.at;
            flight
                .steps
                .retain(|step| at.next() < Some(passed) || step.app() != app);
            flight.steps.splice(passed..passed, steps);
            flight.alone.insert(app.to_owned(), false);
            flight.step_tries = 0;
            flight.step_since = now.mono;
            flight.retry_at = None;
        }
        self.stamp(source, now);
        self.report_deployment(source);
        self.write_quarantine(now);
        self.run_steps(source, now);
        self.check_probe(source, now);
        self.check_soak(source, now);
        true
    }

    /// The steps by which an app goes back by itself.
    pub(super) fn steps_back(&self, source: Source, app: &str) -> Vec<Step> {
        let mut steps = vec![Step::Stop(app.to_owned())];
        if self
            .notes(source)
            .is_some_and(|notes| notes.saved.iter().any(|name| name == app))
        {
            steps.push(Step::Save(app.to_owned()));
        }
        if self.versions(source, app, true).1.is_some() {
            steps.push(Step::Start(app.to_owned()));
        }
        steps
    }

    /// The old version of an app that left fails too; its restart policy goes on.
    pub(super) fn old_failed(&mut self, source: Source, app: &str, cause: &Cause, now: Now) {
        if let Some(active) = self.active_mut(source)
            && let Some(record) = active.record.apps.iter_mut().find(|one| one.name == app)
            && record.state != State::Failed
        {
            let first = record
                .reason
                .as_ref()
                .map(|first| format!(" (after {first})"))
                .unwrap_or_default();
            record.state = State::Failed;
            record.reason = Some(Cause::new(Reason::RollbackFailed, format!("{}{first}", cause.detail)));
        }
        if let Some(flight) = self.flights.get_mut(&source)
            && let Some(step) = flight.steps.get(flight.at).filter(|step| step.app() == app)
        {
            if matches!(step, Step::Start(_)) {
                flight.alone.insert(app.to_owned(), true);
            }
            flight.at += 1;
            flight.step_tries = 0;
            flight.step_since = now.mono;
        }
        self.revive(app, now);
        self.stamp(source, now);
        self.report_deployment(source);
    }
}

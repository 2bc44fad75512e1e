//! Volumes that are saved before a new version starts (`volumes = "snapshot"`), and brought back with the old one.
//!
//! What is saved is whole or not there, and only the way back takes it away before the end. So a switch that begins anew never saves
//! what a new version wrote, and a way back that begins anew brings back what is left.

use crate::plan::admission::written_volumes;
use crate::plan::reconcile::Step;
use crate::types::deployment::{Cause, Reason, State};
use crate::types::digest::Digest;

use super::core::{Core, Now};
use super::files::{self, Source};
use super::hands::Failure;
use super::switch::STOP_TRIES;
use super::work::Job;

impl Core {
    /// Saves an app's volumes, or brings them back; its answer moves the steps on.
    pub(super) fn step_save(&mut self, source: Source, app: &str, back: bool, now: Now) -> bool {
        if self.busy.contains(app) {
            return false;
        }
        let tag = self.tag(source, app);
        if back {
            self.busy.insert(app.to_owned());
            let app = app.to_owned();
            self.job(Job::Restore { app, tag });
            return false;
        }
        let coming = self.flights.get(&source).and_then(|flight| flight.set.as_ref());
        let volumes = coming
            .and_then(|set| set.get(app))
            .map(|one| written_volumes(&one.app))
            .unwrap_or_default();
        if volumes.is_empty() {
            return true;
        }
        let notes = self.notes_mut(source);
        if !notes.saved.iter().any(|name| name == app) {
            notes.saved.push(app.to_owned());
            if let Err(error) = self.write_journal(true, files::SAVE) {
                self.disk_event(&error, now);
                let cause = Cause::new(Reason::Disk, error.to_string());
                self.turn_back(source, app, cause, now);
                return false;
            }
        }
        self.busy.insert(app.to_owned());
        let app = app.to_owned();
        self.job(Job::Save { app, volumes, tag });
        false
    }

    pub(super) fn saved(&mut self, app: &str, back: bool, result: Result<(), Failure>, now: Now) {
        self.busy.remove(app);
        let goes_back = |source: Source| self.state(source) == Some(State::RollingBack) || self.is_alone(source, app);
        let source = self.flying(app).filter(|source| goes_back(*source) == back);
        let alone = source.is_some_and(|source| self.is_alone(source, app));
        if let Some(source) = source
            && let Some(flight) = self.flights.get_mut(&source)
            && matches!(flight.steps.get(flight.at), Some(Step::Save(name)) if name == app)
        {
            flight.step_tries += 1;
            match result {
                Ok(()) => flight.at += 1,
                Err(failure) if back && flight.step_tries < STOP_TRIES => {
                    if failure.cause.code == Reason::Disk {
                        self.files.give_room();
                    }
                    crate::warn!("bring the volumes of app `{app}` back: {}", failure.cause);
                    flight.retry_at = Some(now.mono.plus(1_000));
                }
                Err(failure) => {
                    let text = format!("the volumes of app `{app}`: {}", failure.cause.detail);
                    let cause = Cause::new(failure.cause.code, text);
                    if back && !alone {
                        flight.at += 1;
                        self.restore_failed(source, cause);
                    } else {
                        self.turn_back(source, app, cause, now);
                    }
                }
            }
            if let Some(flight) = self.flights.get_mut(&source).filter(|flight| flight.retry_at.is_none()) {
                flight.step_tries = 0;
                flight.step_since = now.mono;
            }
        }
        self.run_all_steps(now);
    }

    /// Removes what was saved for deployments that are at their end.
    pub(super) fn forget_saved(&mut self) {
        let mut keep = Vec::new();
        for notes in &self.journal.notes {
            keep.extend(notes.saved.iter().map(|app| self.tag(notes.source, app)));
        }
        self.job(Job::Forget(keep));
    }

    /// What an app's volumes are saved under: another one for each try of each document.
    fn tag(&self, source: Source, app: &str) -> String {
        let record = self.active(source).map(|active| &active.record);
        let text = record.map(|record| format!("{} {} {}", record.activity, record.generation, record.attempt));
        let digest = Digest::of(format!("{} {app}", text.unwrap_or_default()).as_bytes());
        digest.hex()[..16].to_owned()
    }
}

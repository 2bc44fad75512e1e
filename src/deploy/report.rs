//! What the agent is told: deployment records and the state of every app, on change.

use crate::types::document::{Deploy, ReportedApp};

use super::core::{Core, Out, Report};
use super::files::{Set, Source};

impl Core {
    /// The committed set of a source.
    pub fn committed(&self, source: Source) -> Option<&Set> {
        self.sets.get(&source)
    }

    /// Versions that are not tried again.
    pub fn quarantine(&self) -> &crate::plan::quarantine::Quarantine {
        &self.history.quarantine
    }

    /// The deployment records that matter: those under way, else the newest final one.
    pub fn records(&self) -> Vec<Deploy> {
        let last_final = self.history.finals.last().cloned().map(Box::new);
        if self.journal.active.is_empty() {
            return last_final
                .into_iter()
                .map(|record| Deploy {
                    record: (*record).clone(),
                    last_final: Some(record),
                })
                .collect();
        }
        let active = self.journal.active.iter();
        active
            .map(|one| Deploy {
                record: one.record.clone(),
                last_final: last_final.clone(),
            })
            .collect()
    }

    /// The last final records, oldest first.
    pub fn finals(&self) -> &[crate::types::deployment::Record] {
        &self.history.finals
    }

    pub(super) fn report_deployment(&mut self, source: Source) {
        let last_final = self.history.finals.last().cloned().map(Box::new);
        let record = match (self.active(source), &last_final) {
            (Some(active), _) => active.record.clone(),
            (None, Some(record)) => (**record).clone(),
            (None, None) => return,
        };
        self.out
            .push(Out::Report(Report::Deployment(Box::new(Deploy { record, last_final }))));
    }

    /// Every app that should run, and how it does.
    pub fn apps(&self) -> Vec<ReportedApp> {
        let mut names: Vec<&str> = self
            .sets
            .values()
            .flat_map(|set| &set.apps)
            .map(|one| one.app.name.as_str())
            .collect();
        names.extend(
            self.journal
                .active
                .iter()
                .flat_map(|one| &one.record.apps)
                .map(|one| one.name.as_str()),
        );
        names.sort_unstable();
        names.dedup();
        names.into_iter().filter_map(|name| self.reported_app(name)).collect()
    }

    fn reported_app(&self, name: &str) -> Option<ReportedApp> {
        let (_, spec) = self.desired(name)?;
        let document = self.document(name, &spec);
        let care = self.find(name, &spec).and_then(|id| self.cares.get(&id));
        Some(ReportedApp {
            name: name.to_owned(),
            image: document
                .and_then(|one| one.image)
                .or_else(|| care.and_then(|care| care.container.image)),
            spec,
            status: care.map_or("missing", super::core::Care::status).to_owned(),
            health: care.map_or(crate::types::health::HealthStatus::None, |care| care.health),
            restarts: care.map_or(0, |care| care.restarts.total),
            exit_code: care
                .filter(|care| !care.running)
                .and_then(|care| care.ended)
                .map(|ended| ended.code),
            not_enforced: care.map(|care| care.container.not_enforced.clone()).unwrap_or_default(),
        })
    }

    pub(super) fn report_apps(&mut self) {
        let apps = self.apps();
        if apps != self.reported {
            self.reported.clone_from(&apps);
            self.out.push(Out::Report(Report::Apps(apps)));
        }
    }
}

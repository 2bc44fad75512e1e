//! `system check`: is everything as it was written, and, when asked, making it so again.

use super::index;
use super::{Engine, EngineError, volume};
use crate::engine::filter::Filter;
use crate::image::check::{self, CheckError, Layer};
use crate::image::sweep;
use crate::image::worker::Workers;
use crate::store::{Fault, Remedy, Survey};
use crate::types::digest::Digest;
use crate::types::time::Unix;
use std::collections::BTreeSet;

/// How a check is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct CheckOptions {
    /// No file's content is read.
    pub quick: bool,
    /// What is broken is mended.
    pub repair: bool,
}

/// How a check is getting on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckStep {
    /// So many bytes of layers are looked at.
    Begins(u64),
    /// So many more bytes were read.
    Moved(u64),
    /// This layer is fetched again.
    Fetches(Digest),
}

/// What a check came to.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// What is wrong, or was before the repair.
    pub faults: Vec<Fault>,
    /// Of those, what is wrong still.
    pub left: Vec<Fault>,
    /// What could not be mended, why, and what to do.
    pub failures: Vec<String>,
    /// Layers of which nobody knows what they must look like.
    pub not_checkable: Vec<Digest>,
    /// Layers that were compared.
    pub layers: usize,
    /// Entries that were looked at.
    pub entries: u64,
    /// Bytes that were read.
    pub bytes: u64,
}

impl Engine {
    /// Compares everything in the store with what was recorded; with `repair`, broken layers are set aside and only those fetched
    /// again from where their image came, and what is left over is removed.
    pub fn check(
        &self,
        options: CheckOptions,
        progress: &mut dyn FnMut(CheckStep),
    ) -> Result<CheckReport, EngineError> {
        let workers = self.workers()?;
        if options.repair {
            self.clear_quarantine(&workers)?;
        }
        let mut report = CheckReport::default();
        let survey = self.survey()?;
        report.faults = survey.faults.clone();
        let all: BTreeSet<Digest> = survey.layers.keys().copied().collect();
        self.compare(&workers, &survey, &all, options, &mut report, progress)?;
        if !options.repair || report.faults.is_empty() {
            report.left.clone_from(&report.faults);
            return Ok(report);
        }
        let fetched = self.mend(&workers, &survey, &mut report, progress)?;
        // Once more, what was touched.
        let after = self.survey()?;
        let mut second = CheckReport {
            faults: after.faults.clone(),
            ..CheckReport::default()
        };
        self.compare(&workers, &after, &fetched, options, &mut second, progress)?;
        report.left = second.faults;
        Ok(report)
    }

    /// The records of images, containers and volumes.
    fn survey(&self) -> Result<Survey, EngineError> {
        let mut survey = self.store().survey()?;
        let layout = self.layout();
        for id in index::ids(layout)? {
            if let Err(error) = index::load(layout, &id) {
                let advice = format!(
                    "what it was is lost: remove `{}` and make it anew",
                    layout.container(&id).display()
                );
                survey.faults.push(Fault {
                    object: format!("container {}", id.short()),
                    what: error.to_string(),
                    remedy: Remedy::Advice(advice),
                });
            }
        }
        for name in index::entries(&layout.volumes())? {
            if !name.starts_with('.')
                && let Err(error) = volume::load(layout, &name)
            {
                let advice = format!(
                    "its files are whole: save `{}`, remove the volume's folder, and put them into a new one",
                    volume::data(layout, &name).display()
                );
                survey.faults.push(Fault {
                    object: format!("volume {name}"),
                    what: error.to_string(),
                    remedy: Remedy::Advice(advice),
                });
            }
        }
        Ok(survey)
    }

    fn compare(
        &self,
        workers: &dyn Workers,
        survey: &Survey,
        keys: &BTreeSet<Digest>,
        options: CheckOptions,
        report: &mut CheckReport,
        progress: &mut dyn FnMut(CheckStep),
    ) -> Result<(), EngineError> {
        let keys: Vec<Digest> = keys
            .iter()
            .copied()
            .filter(|key| survey.layers.contains_key(key))
            .collect();
        // Kept from garbage collection as long as they are looked at.
        let _hold = self.store().stage(&keys, &[])?;
        progress(CheckStep::Begins(
            keys.iter().filter_map(|key| survey.layers.get(key)).sum(),
        ));
        for key in keys {
            let looked = check::layer(self.store(), workers, &key, options.quick, &mut |bytes| {
                progress(CheckStep::Moved(bytes));
            });
            let looked = match looked {
                Ok(looked) => looked,
                // Removed before the hold was there.
                Err(CheckError::Store { .. }) if self.store().layer(&key).is_ok_and(|layer| layer.is_none()) => {
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            report.layers += 1;
            report.entries += looked.entries;
            report.bytes += looked.bytes;
            if looked.not_checkable {
                report.not_checkable.push(key);
            }
            report.faults.extend(faults(&key, &looked));
        }
        Ok(())
    }

    /// Carries out remedies; returns the layers that are new.
    fn mend(
        &self,
        workers: &dyn Workers,
        survey: &Survey,
        report: &mut CheckReport,
        progress: &mut dyn FnMut(CheckStep),
    ) -> Result<BTreeSet<Digest>, EngineError> {
        let remedies: Vec<Remedy> = report.faults.iter().map(|fault| fault.remedy.clone()).collect();
        let mut broken = BTreeSet::new();
        let mut incomplete = BTreeSet::new();
        for remedy in &remedies {
            match remedy {
                Remedy::Remove(path) => crate::disk::durable::remove_file(path)?,
                Remedy::Link(key) => self.store().relink(key)?,
                Remedy::Replace(key) if broken.insert(*key) => self.store().quarantine(key)?,
                Remedy::Fetch(id) => drop(incomplete.insert(*id)),
                _ => {}
            }
        }
        for (id, layers) in &survey.images {
            if layers.iter().any(|key| broken.contains(key)) {
                incomplete.insert(*id);
            }
        }
        let mut fetched = broken.clone();
        for id in incomplete {
            if let Some(key) = survey
                .images
                .get(&id)
                .and_then(|all| all.iter().find(|key| broken.contains(key)))
            {
                progress(CheckStep::Fetches(*key));
            }
            match self.repair_image(&id) {
                Ok(layers) => fetched.extend(layers),
                Err(why) => report.failures.push(why),
            }
        }
        if remedies.contains(&Remedy::Sweep) {
            sweep::sweep(self.store(), workers, false)?;
        }
        if remedies.contains(&Remedy::Collect) {
            match self.store().tidy() {
                Ok(collected) => sweep::discard(&collected, workers)?,
                Err(error) => report.failures.push(format!("nothing unused is removed: {error}")),
            }
        }
        self.clear_quarantine(workers)?;
        report
            .failures
            .extend(remedies.iter().filter_map(|remedy| match remedy {
                Remedy::Advice(advice) => Some(advice.clone()),
                _ => None,
            }));
        Ok(fetched)
    }

    /// Fetches what is missing of an image, by each of its names in turn; the error says what to do.
    fn repair_image(&self, id: &Digest) -> Result<Vec<Digest>, String> {
        let references = self.store().references().map_err(|error| error.to_string())?;
        let platform = self.store().image(id).ok().flatten().map(|image| image.platform);
        let mut first = None;
        for record in references.into_iter().filter(|record| record.image == *id) {
            match self.refetch(&record.name.pinned(record.manifest), platform.clone()) {
                Ok(image) => return Ok(image.layers.iter().map(|layer| layer.key).collect()),
                Err(error) => first = first.or(Some((record.name, error))),
            }
        }
        let id = id.short();
        Err(match first {
            Some((name, error)) => format!(
                "image {id} cannot be repaired: {error}; once its source can be reached, `dunlin pull {name}` fetches what \
                 is missing, or `dunlin rmi {id}` removes it"
            ),
            None => format!(
                "image {id} cannot be repaired: it has no name to fetch it by; pull it again by the name that it had, or \
                 remove it with `dunlin rmi {id}`"
            ),
        })
    }

    /// Removes layers that were set aside and that neither a running container nor anybody else can still have mounted; returns their bytes.
    pub(super) fn clear_quarantine(&self, workers: &dyn Workers) -> Result<u64, EngineError> {
        let aside = self.store().quarantined()?;
        if aside.is_empty() {
            return Ok(0);
        }
        let mut images = self.store().mounted()?;
        for view in self.list(&Filter::default(), Unix(0))? {
            if view.status.is_live() {
                images.insert(view.record.image);
            }
        }
        let mut used = BTreeSet::new();
        for id in images {
            match self.store().image(&id) {
                Ok(Some(image)) => used.extend(image.layers.iter().map(|layer| layer.key)),
                // What it has mounted is not known.
                _ => return Ok(0),
            }
        }
        let mut bytes = 0;
        for (key, path) in aside {
            if !used.contains(&key) {
                bytes += self.store().layer(&key).ok().flatten().map_or(0, |layer| layer.size);
                sweep::remove_layer(workers, &path)?;
            }
        }
        Ok(bytes)
    }
}

fn faults(key: &Digest, looked: &Layer) -> Vec<Fault> {
    let fault = |what: String| Fault {
        object: format!("layer {key}"),
        what,
        remedy: Remedy::Replace(*key),
    };
    let mut all = Vec::new();
    if looked.sums_damaged {
        all.push(fault("the record of its files is damaged".to_owned()));
    }
    if looked.recipe_damaged {
        all.push(fault("the recipe of its archive is missing or damaged".to_owned()));
    }
    let findings = looked.findings.iter();
    all.extend(findings.map(|one| fault(format!("`{}` {}", one.path, one.wrong))));
    if looked.more > 0 {
        all.push(fault(format!("{} more", looked.more)));
    }
    all
}

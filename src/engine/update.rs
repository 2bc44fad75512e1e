//! Other limits for a container that exists.

use super::index::{self, IndexLock};
use super::{Engine, EngineError, view};
use crate::disk::record;
use crate::types::container::{ContainerRecord, Status};
use crate::types::limits::{LimitKind, Limits};

impl Engine {
    /// Changes limits of a container, at once where it runs, and for every later run; those of which nothing is said stay as they are.
    pub fn update(&self, typed: &str, changes: &Limits) -> Result<ContainerRecord, EngineError> {
        self.check_maximum(changes)?;
        let id = self.inspect(typed)?.record.id;
        // One change after the other.
        let _lock = IndexLock::take(self.layout())?;
        let mut record = index::load(self.layout(), &id)?.ok_or_else(|| EngineError::NoContainer(typed.to_owned()))?;
        let spec = &mut record.spec;
        spec.limits = changes.or(&spec.limits);
        for kind in changes.kinds() {
            if !spec.asked.contains(&kind) {
                spec.asked.push(kind);
            }
        }
        record.not_enforced = self.check_limits(&spec.limits, &spec.asked)?;
        let path = self.layout().container_record(&id);
        let before = index::load(self.layout(), &id)?;
        record::write(&path, &record)?;
        self.own(&path)?;
        let view = view::look(self.layout(), record.clone())?;
        if matches!(view.status, Status::Running | Status::Paused | Status::Restarting) {
            let (limits, asked): (Limits, Vec<LimitKind>) = (record.spec.limits.clone(), record.spec.asked.clone());
            let reason = "limits of containers that run are set by their monitor";
            let set = self
                .connect_live(&view, reason)
                .and_then(|monitor| Ok(monitor.limits(limits, asked)?));
            if let (Err(error), Some(before)) = (set, before) {
                // What the kernel refused, for instance less memory than is in use, is not what holds.
                record::write(&path, &before)?;
                self.own(&path)?;
                return Err(error);
            }
        }
        self.tell_of(&record, "update");
        Ok(record)
    }
}

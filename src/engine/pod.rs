//! Pods: containers that share a network, names and System V objects. The namespaces are held by a container without a
//! program; its id is the pod's.

use super::{Engine, EngineError, index};
use crate::types::container::ContainerRecord;

impl Engine {
    /// The container that holds the namespaces of a pod: by the pod's name, its id or the beginning of that.
    pub(super) fn pod_record(&self, typed: &str) -> Result<ContainerRecord, EngineError> {
        let mut pods = index::all(self.layout())?;
        pods.retain(|record| record.wiring.infra.is_some());
        if let Some(at) = pods.iter().position(|pod| pod.wiring.infra.as_deref() == Some(typed)) {
            return Ok(pods.swap_remove(at));
        }
        pods.retain(|pod| !typed.is_empty() && pod.id.hex().starts_with(typed));
        match pods.len() {
            1 => Ok(pods.remove(0)),
            0 => Err(EngineError::NoPod(typed.to_owned())),
            count => Err(EngineError::Ambiguous {
                prefix: typed.to_owned(),
                count,
            }),
        }
    }

    /// Name of the pod that a container is in; empty where it is in none.
    pub fn pod_name(&self, record: &ContainerRecord) -> Result<String, EngineError> {
        let infra = match record.wiring.pod {
            Some(pod) => index::load(self.layout(), &pod)?,
            None => None,
        };
        Ok(infra.and_then(|infra| infra.wiring.infra).unwrap_or_default())
    }
}

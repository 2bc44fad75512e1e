//! Pods: containers that share a network, names and System V objects. The namespaces are held by a container without a
//! program; its id is the pod's.

use super::create::random;
use super::options::{CreateOptions, ImageDefaults, merge};
use super::view::{self, ContainerView};
use super::{Engine, EngineError, index, names, now};
use crate::types::container::{ContainerRecord, Extras, Network, Status};
use crate::types::digest::Digest;
use crate::types::ids::ContainerId;
use crate::types::limits::Limits;

/// What the name of the container that holds a pod's namespaces ends with.
const INFRA: &str = "-infra";
/// Tries to make up a name that is free.
const NAME_ATTEMPTS: u32 = 64;

/// A pod: what holds its namespaces, and its containers, oldest first.
#[derive(Debug)]
pub struct Pod {
    /// What holds its namespaces; its id is the pod's.
    pub infra: ContainerView,
    /// Its containers.
    pub members: Vec<ContainerView>,
}

impl Pod {
    /// Its name.
    pub fn name(&self) -> &str {
        self.infra.record.wiring.infra.as_deref().unwrap_or_default()
    }

    /// What holds its namespaces, and its containers.
    pub fn all(&self) -> impl Iterator<Item = &ContainerView> {
        std::iter::once(&self.infra).chain(&self.members)
    }

    /// podman's word for its state.
    pub fn status(&self) -> &'static str {
        let is = |wanted: &[Status]| self.all().filter(|view| wanted.contains(&view.status)).count();
        let all = 1 + self.members.len();
        match () {
            () if is(&[Status::Running]) == all => "Running",
            () if is(&[Status::Paused]) == all => "Paused",
            () if is(&[Status::Created]) == all => "Created",
            () if is(&[Status::Running, Status::Paused, Status::Restarting, Status::Stopping]) > 0 => "Degraded",
            () => "Exited",
        }
    }
}

impl Engine {
    /// Makes a pod. Only name, host name, labels and network of `options` count; returns the pod's id.
    pub fn create_pod(&self, options: &CreateOptions) -> Result<ContainerId, EngineError> {
        self.sweep()?;
        let id = ContainerId::from_bytes(random()?);
        let taken = |name: &str| -> Result<bool, EngineError> {
            Ok(index::by_name(self.layout(), name)?.is_some()
                || index::by_name(self.layout(), &format!("{name}{INFRA}"))?.is_some())
        };
        let name = match &options.name {
            Some(name) => name.clone(),
            None => {
                let mut made = None;
                for attempt in 0..NAME_ATTEMPTS {
                    let name = names::made_up(random()?, attempt);
                    if !taken(&name)? {
                        made = Some(name);
                        break;
                    }
                }
                made.unwrap_or_else(|| id.short())
            }
        };
        if let Some(owner) = index::by_name(self.layout(), &name)? {
            return Err(EngineError::NameTaken {
                name,
                owner: owner.id.hex(),
            });
        }
        let wishes = CreateOptions {
            command: vec!["pause".to_owned()],
            hostname: Some(options.hostname.clone().unwrap_or_else(|| name.clone())),
            network: Some(options.network.unwrap_or(Network::Private)),
            ..options.clone()
        };
        let defaults = ImageDefaults::default();
        let mut spec = merge(&wishes, &defaults, &Limits::default())?;
        let (network, mut wiring) = self.wire(&wishes, &defaults)?;
        spec.network = network;
        // It has no program that could end by itself.
        spec.stop_timeout = 0;
        wiring.infra = Some(name.clone());
        wiring.pod = Some(id);
        let mut made = ContainerRecord {
            id,
            name: String::new(),
            created: now(),
            image: Digest::of(b""),
            image_name: String::new(),
            manifest: None,
            spec,
            not_enforced: Vec::new(),
            wiring,
            extras: Extras::default(),
        };
        self.put(&mut made, Some(&format!("{name}{INFRA}")))?;
        Ok(id)
    }

    /// All pods, newest first.
    pub fn pods(&self) -> Result<Vec<Pod>, EngineError> {
        let mut all = index::all(self.layout())?;
        all.retain(|record| record.wiring.infra.is_some());
        all.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        all.into_iter().map(|infra| self.whole(infra)).collect()
    }

    /// A pod by its name, its id or the beginning of that.
    pub fn pod(&self, typed: &str) -> Result<Pod, EngineError> {
        self.whole(self.pod_record(typed)?)
    }

    fn whole(&self, infra: ContainerRecord) -> Result<Pod, EngineError> {
        let mut members = self.sharers(&infra)?;
        members.retain(|view| view.record.wiring.pod == Some(infra.id));
        members.sort_by_key(|view| view.record.created);
        let infra = view::look(self.layout(), infra)?;
        Ok(Pod { infra, members })
    }

    /// Starts what holds its namespaces, then its containers.
    pub fn start_pod(&self, typed: &str) -> Result<ContainerId, EngineError> {
        let pod = self.pod(typed)?;
        for view in pod.all() {
            self.start(&view.record.id.hex(), None)?;
        }
        Ok(pod.infra.record.id)
    }

    /// Stops its containers, the newest first, then what holds its namespaces.
    pub fn stop_pod(&self, typed: &str, timeout: Option<u32>) -> Result<ContainerId, EngineError> {
        let pod = self.pod(typed)?;
        for view in pod.members.iter().rev() {
            self.stop_view(view, timeout)?;
        }
        self.stop_view(&pod.infra, timeout)?;
        Ok(pod.infra.record.id)
    }

    /// Removes it with its containers; one whose containers run only with `force`.
    pub fn remove_pod(&self, typed: &str, force: bool, timeout: Option<u32>) -> Result<ContainerId, EngineError> {
        let pod = self.pod(typed)?;
        if let (Some(live), false) = (pod.members.iter().find(|view| view.status.is_live()), force) {
            return Err(EngineError::State {
                name: live.record.name.clone(),
                status: live.status,
                reason: "its pod is removed with --force only",
            });
        }
        for view in pod.members.iter().rev() {
            match self.remove(&view.record.id.hex(), true, false, timeout) {
                Err(error) if error.is_no_container() => {}
                done => _ = done?,
            }
        }
        self.remove(&pod.infra.record.id.hex(), true, false, timeout)
    }

    /// The container that holds the namespaces of a pod.
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

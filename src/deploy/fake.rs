//! Containers, images and volumes for tests: they behave as told and outlive the agent.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU64;
use std::sync::{Mutex, MutexGuard};

use crate::types::app::App;
use crate::types::deployment::{BytesMoved, Reason};
use crate::types::digest::Digest;
use crate::types::health::HealthStatus;
use crate::types::ids::ContainerId;
use crate::types::time::Unix;

use super::hands::{Cancel, Container, Ended, Failure, Fetched, Hands, Phase, Seen, Sink};

/// How a version behaves; told by its image's tag: `good`, `sick`, `exit-MS-CODE`, `oom-MS`, `nostart`, `sickafter-MS`, `once` (well the first
/// time it runs, never healthy from then on).
#[derive(Debug, Clone, Copy, PartialEq)]
enum Manner {
    Good,
    NeverHealthy,
    Ends { after: u64, code: i32, oom: bool },
    DoesNotStart,
    SickAfter(u64),
    Once,
}

fn manner(tag: &str) -> Manner {
    let mut words = tag.split('-');
    let kind = words.next().unwrap_or("");
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    match kind {
        "sick" => Manner::NeverHealthy,
        "exit" => Manner::Ends {
            after: number(),
            code: number() as i32,
            oom: false,
        },
        "oom" => Manner::Ends {
            after: number(),
            code: 137,
            oom: true,
        },
        "nostart" => Manner::DoesNotStart,
        "sickafter" => Manner::SickAfter(number()),
        "once" => Manner::Once,
        _ => Manner::Good,
    }
}

struct Being {
    container: Container,
    volumes: Vec<String>,
    manner: Manner,
    tag: String,
    running: Option<u64>,
    judged: HealthStatus,
    /// It got its app's name.
    named: bool,
}

/// The containers and images, which outlive the agent.
#[derive(Default)]
pub struct Fake {
    state: Mutex<State_>,
}

#[derive(Default)]
struct State_ {
    now: u64,
    beings: BTreeMap<ContainerId, Being>,
    count: u8,
    /// Faults of fetch and create to come, by image.
    pub faults: BTreeMap<String, VecDeque<Failure>>,
    images: BTreeMap<String, Digest>,
    /// What versions wrote into volumes, and what is saved of it by name and tag.
    volumes: BTreeMap<String, Vec<String>>,
    saved: BTreeMap<(String, String), Vec<String>>,
    kept: Vec<Digest>,
    /// Of the last sweep: whether nothing was under way.
    swept: Option<bool>,
    /// What was done, in words.
    log: Vec<String>,
}

impl Fake {
    fn state(&self) -> MutexGuard<'_, State_> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Lets the next use of `image` fail so.
    pub fn fail(&self, image: &str, code: Reason) {
        self.state()
            .faults
            .entry(image.into())
            .or_default()
            .push_back(Failure::new(code, "told to fail"));
    }

    /// What was done since the last call.
    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }

    /// Kills the monitor of an app's running container, and with it whatever runs in there.
    pub fn lose_monitor(&self, app: &str) -> ContainerId {
        let mut state = self.state();
        let found = state
            .beings
            .iter_mut()
            .find(|(_, being)| being.container.app == app && being.running.is_some());
        let (id, being) = found.expect("it runs");
        being.running = None;
        being.container.phase = Phase::Lost;
        *id
    }

    /// Of the last sweep: whether nothing was under way.
    pub fn swept(&self) -> Option<bool> {
        self.state().swept
    }

    /// Removes every container behind the agent's back.
    pub fn lose_containers(&self) {
        self.state().beings.clear();
    }

    /// Every container as `NAME APP IMAGE running|stopped`, by name.
    pub fn listing(&self) -> Vec<String> {
        let state = self.state();
        let mut lines: Vec<String> = state
            .beings
            .values()
            .map(|being| {
                let how = if being.running.is_some() { "running" } else { "stopped" };
                format!("{} {} {how}", being.container.name, tag_of(&state, &being.container))
            })
            .collect();
        lines.sort();
        lines
    }

    /// The versions that wrote into a volume, without repetitions in a row, and how many volumes are saved.
    pub fn written(&self, volume: &str) -> (Vec<String>, usize) {
        let state = self.state();
        let mut written = state.volumes.get(volume).cloned().unwrap_or_default();
        written.dedup();
        (written, state.saved.len())
    }

    /// The time from now on.
    pub fn set_now(&self, now: u64) {
        self.state().now = now;
    }

    /// Whatever runs ends; with `loses` containers that never got their app's name are gone, as they are when somebody removes them.
    pub fn power_cut(&self, loses: bool) {
        if loses {
            self.state().beings.retain(|_, being| being.named);
        }
        for being in self.state().beings.values_mut() {
            if being.running.take().is_some() {
                being.container.phase = Phase::Lost;
            }
        }
    }

    /// The next change of any container after `from`, and until `to` the changes themselves.
    pub fn next_change(&self) -> Option<u64> {
        let state = self.state();
        state
            .beings
            .values()
            .filter_map(|being| change_at(being).map(|(at, _)| at))
            .min()
    }

    pub fn changes(&self, now: u64) -> Vec<(ContainerId, Seen)> {
        let mut state = self.state();
        state.now = now;
        let mut changes = Vec::new();
        for (id, being) in &mut state.beings {
            while let Some((at, seen)) = change_at(being).filter(|(at, _)| *at <= now) {
                match seen {
                    Seen::Running(health) => {
                        being.judged = health;
                        being.container.phase = Phase::Running {
                            since: Unix(being.running.unwrap_or(at)),
                            health,
                        };
                    }
                    Seen::Ended(ended) => {
                        being.running = None;
                        being.judged = HealthStatus::None;
                        being.container.phase = Phase::Ended(ended);
                    }
                    Seen::Lost => {}
                }
                changes.push((*id, seen));
            }
        }
        changes
    }
}

fn tag_of(state: &State_, container: &Container) -> String {
    let image = state
        .images
        .iter()
        .find(|(_, digest)| Some(**digest) == container.image);
    image
        .map(|(name, _)| name.rsplit(':').next().unwrap_or("").to_owned())
        .unwrap_or_default()
}

/// The next thing that a running container does by itself.
fn change_at(being: &Being) -> Option<(u64, Seen)> {
    let started = being.running?;
    let checked = being.container.health_check.is_some();
    let ended = |at, code, oom| {
        Seen::Ended(Ended {
            code,
            oom,
            asked: false,
            at: Unix(at),
        })
    };
    let judged = being.judged;
    let healthy =
        (checked && judged == HealthStatus::Starting).then_some((started + 20, Seen::Running(HealthStatus::Healthy)));
    match being.manner {
        Manner::Good | Manner::DoesNotStart | Manner::Once => healthy,
        Manner::NeverHealthy => {
            (judged == HealthStatus::Starting).then_some((started + 300, Seen::Running(HealthStatus::Unhealthy)))
        }
        Manner::Ends { after, code, oom } => match healthy {
            Some(first) if after > 20 => Some(first),
            _ => Some((started + after, ended(started + after, code, oom))),
        },
        Manner::SickAfter(after) => healthy.or_else(|| {
            (judged == HealthStatus::Healthy).then_some((started + after, Seen::Running(HealthStatus::Unhealthy)))
        }),
    }
}

impl Hands for Fake {
    fn containers(&self) -> Result<Vec<Container>, Failure> {
        Ok(self
            .state()
            .beings
            .values()
            .map(|being| being.container.clone())
            .collect())
    }

    fn latest(&self, image: &str, _: bool) -> Result<Digest, Failure> {
        Ok(Digest::of(image.as_bytes()))
    }

    fn fetch(
        &self,
        image: &str,
        rate: Option<NonZeroU64>,
        _: &Cancel,
        progress: &mut dyn FnMut(BytesMoved),
    ) -> Result<Fetched, Failure> {
        let mut state = self.state();
        let rate = rate.map(|rate| format!(" at {rate}")).unwrap_or_default();
        let image_name = image.rsplit('/').next().unwrap_or("");
        state.log.push(format!("fetch {image_name}{rate}"));
        if let Some(failure) = state.faults.get_mut(image).and_then(VecDeque::pop_front) {
            return Err(failure);
        }
        let digest = Digest::of(image.as_bytes());
        state.images.insert(image.to_owned(), digest);
        let bytes = BytesMoved {
            fetched: 100,
            reused: 0,
            total: 100,
        };
        progress(bytes);
        Ok(Fetched { image: digest, bytes })
    }

    fn keep(&self, images: &[Digest]) -> Result<(), Failure> {
        self.state().kept = images.to_vec();
        Ok(())
    }

    fn sweep(&self, idle: bool) -> Result<(), Failure> {
        self.state().swept = Some(idle);
        Ok(())
    }

    fn create(&self, app: &App, image: &Digest, name: &str) -> Result<Container, Failure> {
        let mut state = self.state();
        let Some(reference) = state
            .images
            .iter()
            .find(|(_, digest)| *digest == image)
            .map(|(name, _)| name.clone())
        else {
            return Err(Failure::new(Reason::ImageMissing, "no such image"));
        };
        if let Some(failure) = state
            .faults
            .get_mut(&format!("create {reference}"))
            .and_then(VecDeque::pop_front)
        {
            return Err(failure);
        }
        assert!(state.kept.contains(image), "the image of `{name}` is not kept");
        assert!(
            state.beings.values().all(|being| being.container.name != name),
            "the name `{name}` is taken"
        );
        state.count += 1;
        let id = ContainerId::from_bytes([state.count; 32]);
        let container = Container {
            id,
            name: name.to_owned(),
            app: app.name.clone(),
            spec: app.spec_digest(),
            image: Some(*image),
            health_check: app.health.clone(),
            phase: Phase::Created,
            not_enforced: Vec::new(),
        };
        let tag = reference.rsplit(':').next().unwrap_or("").to_owned();
        let manner = manner(&tag);
        let being = Being {
            container: container.clone(),
            volumes: crate::plan::admission::written_volumes(app),
            manner,
            tag,
            running: None,
            judged: HealthStatus::None,
            named: false,
        };
        state.beings.insert(id, being);
        Ok(container)
    }

    fn start(&self, id: &ContainerId) -> Result<(), Failure> {
        let mut state = self.state();
        let now = state.now;
        let Some(being) = state.beings.get_mut(id) else {
            return Err(Failure::gone(id));
        };
        if being.running.is_some() {
            return Ok(());
        }
        let image = being.container.image;
        let named = state.images.iter().find(|(_, digest)| Some(**digest) == image);
        let key = named.map(|(name, _)| format!("start {name}")).unwrap_or_default();
        if let Some(failure) = state.faults.get_mut(&key).and_then(VecDeque::pop_front) {
            return Err(failure);
        }
        let Some(being) = state.beings.get_mut(id) else {
            return Err(Failure::gone(id));
        };
        if being.manner == Manner::DoesNotStart {
            return Err(Failure::new(Reason::StartFailed, "exec: not found"));
        }
        if being.manner == Manner::Once && being.container.phase != Phase::Created {
            being.manner = Manner::NeverHealthy;
        }
        being.running = Some(now);
        being.judged = if being.container.health_check.is_some() {
            HealthStatus::Starting
        } else {
            HealthStatus::None
        };
        being.container.phase = Phase::Running {
            since: Unix(now),
            health: being.judged,
        };
        let line = format!("start {} {}", being.container.app, being.tag);
        let (volumes, tag) = (being.volumes.clone(), being.tag.clone());
        for volume in volumes {
            state.volumes.entry(volume).or_default().push(tag.clone());
        }
        state.log.push(line);
        Ok(())
    }

    fn stop(&self, id: &ContainerId) -> Result<(), Failure> {
        let mut state = self.state();
        let now = state.now;
        let Some(being) = state.beings.get_mut(id) else {
            return Ok(());
        };
        if being.running.take().is_some() {
            being.container.phase = Phase::Ended(Ended {
                code: 143,
                oom: false,
                asked: true,
                at: Unix(now),
            });
            let line = format!("stop {} {}", being.container.app, being.tag);
            state.log.push(line);
        }
        Ok(())
    }

    fn remove(&self, id: &ContainerId) -> Result<(), Failure> {
        self.state().beings.remove(id);
        Ok(())
    }

    fn rename(&self, id: &ContainerId, name: &str) -> Result<(), Failure> {
        let mut state = self.state();
        let other = state
            .beings
            .iter()
            .any(|(other, being)| other != id && being.container.name == name);
        assert!(!other, "the name `{name}` is taken");
        let Some(being) = state.beings.get_mut(id) else {
            return Err(Failure::gone(id));
        };
        being.container.name = name.to_owned();
        being.named |= being.container.app == name;
        Ok(())
    }

    fn room(&self, volumes: &[String]) -> Result<(), Failure> {
        let mut state = self.state();
        let fault = |name: &String| {
            state
                .faults
                .get_mut(&format!("room {name}"))
                .and_then(VecDeque::pop_front)
        };
        volumes.iter().find_map(fault).map_or(Ok(()), Err)
    }

    fn save(&self, volumes: &[String], tag: &str) -> Result<(), Failure> {
        let mut state = self.state();
        for name in volumes {
            if let Some(failure) = state
                .faults
                .get_mut(&format!("save {name}"))
                .and_then(VecDeque::pop_front)
            {
                return Err(failure);
            }
            if let Some(content) = state.volumes.get(name).cloned() {
                let saved = state.saved.entry((name.clone(), tag.to_owned()));
                saved.or_insert(content);
            }
        }
        Ok(())
    }

    fn restore(&self, tag: &str) -> Result<(), Failure> {
        let mut state = self.state();
        let saved = std::mem::take(&mut state.saved);
        for ((name, other), content) in saved {
            if other == tag {
                state.volumes.insert(name, content);
            } else {
                state.saved.insert((name, other), content);
            }
        }
        Ok(())
    }

    fn tidy(&self, full: bool) -> Result<(), Failure> {
        self.state().log.push(format!("tidy {full}"));
        Ok(())
    }

    fn forget(&self, keep: &[String]) -> Result<(), Failure> {
        self.state().saved.retain(|(_, tag), _| keep.contains(tag));
        Ok(())
    }

    fn watch(&self, id: &ContainerId, sink: Sink) -> Result<(), Failure> {
        let state = self.state();
        let Some(being) = state.beings.get(id) else {
            return Ok(());
        };
        let seen = match being.container.phase {
            Phase::Running { health, .. } => Seen::Running(health),
            Phase::Ended(ended) => Seen::Ended(ended),
            Phase::Created | Phase::Lost => Seen::Lost,
        };
        drop(state);
        sink(*id, seen);
        Ok(())
    }
}

//! A world for tests: containers that behave as told, time that jumps, an agent that dies where told.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU64;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::types::app::App;
use crate::types::deployment::{BytesMoved, Reason, Record, State};
use crate::types::digest::Digest;
use crate::types::health::{Health, HealthStatus};
use crate::types::ids::ContainerId;
use crate::types::time::{Mono, Unix};

use super::core::{Command, Conditions, Core, Input, Now, Out, Report, Settings, Wish};
use super::files::Source;
use super::hands::{Cancel, Container, Ended, Failure, Fetched, Hands, Phase, Seen, Sink};
use super::{kill, work};

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

    fn power_cut(&self) {
        for being in self.state().beings.values_mut() {
            if being.running.take().is_some() {
                being.container.phase = Phase::Lost;
            }
        }
    }

    /// The next change of any container after `from`, and until `to` the changes themselves.
    fn next_change(&self) -> Option<u64> {
        let state = self.state();
        state
            .beings
            .values()
            .filter_map(|being| change_at(being).map(|(at, _)| at))
            .min()
    }

    fn changes(&self, now: u64) -> Vec<(ContainerId, Seen)> {
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

    fn sweep(&self) -> Result<(), Failure> {
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

/// How the agent dies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Death {
    /// Its process is killed; containers go on.
    Killed,
    /// The power fails.
    PowerCut,
}

/// A device with its deployer.
pub struct World {
    pub fake: Arc<Fake>,
    pub dir: PathBuf,
    pub core: Option<Core>,
    pub now: u64,
    pub boots: u32,
    /// Every record that was reported, in order.
    pub records: Vec<Record>,
    pub events: Vec<crate::types::document::Event>,
    pub settings: Settings,
    pub conditions: Conditions,
    queue: VecDeque<Input>,
}

impl World {
    pub fn new(name: &str) -> World {
        // In memory where there is such a folder: these tests are about order, not about this disk.
        let memory = PathBuf::from("/dev/shm");
        let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let dir = base.join(format!("dunlin-deploy-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let settings = Settings {
            device: "gw-1".into(),
            budget: None,
            default_memory: 64 << 20,
            pinned: false,
            probe_timeout: 300_000,
            pull_attempts: 10,
        };
        World {
            fake: Arc::default(),
            dir,
            core: None,
            now: 1 << 40,
            boots: 0,
            records: Vec::new(),
            events: Vec::new(),
            settings,
            conditions: Conditions {
                synchronised: true,
                ..Conditions::default()
            },
            queue: VecDeque::new(),
        }
    }

    fn clock(&self) -> Now {
        Now {
            mono: Mono(self.now),
            unix: Unix(self.now),
            dice: 0,
        }
    }

    /// Starts the agent: `Err` when it died on the way.
    pub fn boot(&mut self) -> Result<(), ()> {
        let found = self.fake.containers().unwrap();
        let (boot, now) = (format!("boot-{}", self.boots), self.clock());
        self.fake.state().now = self.now;
        let (settings, conditions, dir) = (self.settings.clone(), self.conditions.clone(), self.dir.clone());
        let result = catch(|| Core::boot(settings, conditions, &dir, found, &boot, now).unwrap())?;
        self.core = Some(result.0);
        self.carry_out(result.1)
    }

    pub fn apply(&mut self, wish: Wish) -> Result<(), ()> {
        self.queue.push_back(Input::Command(Command::Apply(Box::new(wish))));
        self.drain()
    }

    pub fn command(&mut self, command: Command) -> Result<(), ()> {
        self.queue.push_back(Input::Command(command));
        self.drain()
    }

    fn drain(&mut self) -> Result<(), ()> {
        while let Some(input) = self.queue.pop_front() {
            let now = self.clock();
            let Some(core) = self.core.as_mut() else { return Ok(()) };
            let out = catch(AssertUnwindSafe(|| core.handle(input, now)))?;
            self.carry_out(out)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, out: Vec<Out>) -> Result<(), ()> {
        for one in out {
            match one {
                Out::Report(Report::Deployment(deploy)) => {
                    if self.records.last() != Some(&deploy.record) {
                        self.records.push(deploy.record);
                    }
                }
                Out::Report(Report::Event(event)) => self.events.push(event),
                Out::Report(Report::Apps(_)) => {}
                Out::Watch(id) => {
                    let seen: Arc<Mutex<Vec<(ContainerId, Seen)>>> = Arc::default();
                    let into = seen.clone();
                    self.fake
                        .watch(&id, Arc::new(move |id, seen| into.lock().unwrap().push((id, seen))))
                        .unwrap();
                    let seen = std::mem::take(&mut *seen.lock().unwrap());
                    self.queue
                        .extend(seen.into_iter().map(|(id, seen)| Input::Seen(id, seen)));
                }
                Out::Job(job) => {
                    let fake = self.fake.clone();
                    let mut progress = Vec::new();
                    let done = catch(AssertUnwindSafe(|| {
                        work::run(job, &*fake, &mut |ticket, bytes| {
                            progress.push(Input::Progress(ticket.clone(), bytes))
                        })
                    }))?;
                    self.queue.extend(progress);
                    self.queue.push_back(Input::Done(done));
                }
            }
        }
        Ok(())
    }

    /// Lets up to `ms` milliseconds pass.
    pub fn pass(&mut self, ms: u64) -> Result<(), ()> {
        let end = self.now + ms;
        self.pass_until(end, |_| false)
    }

    /// Lets time pass until no deployment is under way, at the most an hour.
    pub fn settle(&mut self) -> Result<(), ()> {
        let end = self.now + 3_600_000;
        self.drain()?;
        self.pass_until(end, World::is_idle)?;
        assert!(
            self.is_idle(),
            "not settled after an hour: {:?}",
            self.core.as_ref().map(|core| &core.journal.active)
        );
        Ok(())
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty()
            && self
                .core
                .as_ref()
                .is_some_and(|core| core.journal.active.is_empty() && core.busy.is_empty())
    }

    fn pass_until(&mut self, end: u64, done: impl Fn(&World) -> bool) -> Result<(), ()> {
        self.drain()?;
        for _ in 0..20_000 {
            if done(self) {
                return Ok(());
            }
            let deadline = self
                .core
                .as_ref()
                .and_then(|core| core.deadline(Mono(self.now)))
                .map(|at| at.0);
            let next = [deadline, self.fake.next_change()]
                .into_iter()
                .flatten()
                .min()
                .unwrap_or(end)
                .max(self.now);
            if next > end {
                self.now = end;
                self.fake.state().now = end;
                return Ok(());
            }
            self.now = next.max(self.now);
            let changes = self.fake.changes(self.now);
            if changes.is_empty() {
                self.queue.push_back(Input::Tick);
            }
            self.queue
                .extend(changes.into_iter().map(|(id, seen)| Input::Seen(id, seen)));
            self.drain()?;
            if next == end {
                return Ok(());
            }
            if deadline == Some(next) {
                let again = self.core.as_ref().and_then(|core| core.deadline(Mono(self.now)));
                if again.is_some_and(|at| at.0 <= self.now) {
                    // Whoever asks for the same time again would spin in the real world.
                    self.now += 1;
                }
            }
        }
        panic!(
            "no end in sight: {:?}",
            self.core.as_ref().map(|core| &core.journal.active)
        );
    }

    /// The agent is gone; so are the running containers when the power failed.
    pub fn die(&mut self, death: Death) {
        self.core = None;
        self.queue.clear();
        if death == Death::PowerCut {
            self.boots += 1;
            self.fake.power_cut();
        }
        self.now += 1_000;
    }

    /// The last reported record's state and reason.
    pub fn end(&self) -> (State, Option<Reason>) {
        let last = self.records.last().expect("no record was reported");
        (last.state, last.reason.as_ref().map(|cause| cause.code))
    }

    /// The states that were reported, without repetitions in a row.
    pub fn states(&self) -> Vec<State> {
        let mut states: Vec<State> = self.records.iter().map(|record| record.state).collect();
        states.dedup();
        states
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Runs something that may reach the armed kill point.
fn catch<T>(work: impl FnOnce() -> T) -> Result<T, ()> {
    match std::panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(value) => Ok(value),
        Err(payload) if payload.is::<kill::rehearsal::Died>() => Err(()),
        Err(payload) => std::panic::resume_unwind(payload),
    }
}

/// An app whose behaviour is `tag`, with a health check, a soak of ten seconds.
pub fn app(name: &str, tag: &str) -> App {
    let text = format!(
        "name='{name}'\nimage='r.example/{name}:{tag}'\n[health]\ntcp={{port=80}}\ninterval='100ms'\ntimeout='100ms'\n\
         start_interval='100ms'\n[update]\nsoak='10s'\n"
    );
    crate::types::read::toml(&text).unwrap()
}

/// The same, waiting for others.
pub fn app_after(name: &str, tag: &str, depends_on: &[&str]) -> App {
    App {
        depends_on: depends_on.iter().map(|one| (*one).to_owned()).collect(),
        ..app(name, tag)
    }
}

/// The same without a health check.
pub fn app_unchecked(name: &str, tag: &str) -> App {
    App {
        health: None::<Health>,
        ..app(name, tag)
    }
}

/// The fleet's wish for these apps.
pub fn wish(generation: u64, apps: Vec<App>) -> Wish {
    Wish {
        source: Source::Fleet,
        label: "d/gw-1".into(),
        activity: format!("activity-{generation}"),
        generation,
        rollout: None,
        retry: Vec::new(),
        apps,
    }
}

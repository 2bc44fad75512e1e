//! A world for tests: a device with its deployer, time that jumps, an agent that dies where told.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::types::app::App;
use crate::types::deployment::{Reason, Record, State};
use crate::types::health::Health;
use crate::types::ids::ContainerId;
use crate::types::time::{Mono, Unix};

use super::core::{Command, Conditions, Core, Input, Now, Out, Report, Settings, Wish};
use super::fake::Fake;
use super::files::Source;
use super::hands::{Hands as _, Seen};
use super::{kill, work};

/// How the agent dies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Death {
    /// Its process is killed; containers go on.
    Killed,
    /// The power fails.
    PowerCut,
    /// The power fails, and new containers that were not named are gone.
    PowerCutLosing,
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
    /// What the wall clock is ahead, milliseconds.
    pub wall: i64,
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
            stopped: None,
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
            wall: 0,
        }
    }

    fn clock(&self) -> Now {
        Now {
            mono: Mono(self.now),
            unix: Unix(self.now.saturating_add_signed(self.wall)),
            dice: 0,
        }
    }

    /// Starts the agent: `Err` when it died on the way.
    pub fn boot(&mut self) -> Result<(), ()> {
        let found = self.fake.containers().unwrap();
        let (boot, now) = (format!("boot-{}", self.boots), self.clock());
        self.fake.set_now(self.now);
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

    /// An app's monitor is killed, and that is noticed.
    pub fn lose_monitor(&mut self, app: &str) -> Result<(), ()> {
        let id = self.fake.lose_monitor(app);
        self.queue.push_back(Input::Seen(id, Seen::Lost));
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
                self.fake.set_now(end);
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
        if death != Death::Killed {
            self.boots += 1;
            self.fake.power_cut(death == Death::PowerCutLosing);
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

/// A world where this set is committed.
pub fn world(name: &str, first: Vec<App>) -> World {
    let mut world = World::new(name);
    world.boot().unwrap();
    if !first.is_empty() {
        world.apply(wish(1, first)).unwrap();
        world.settle().unwrap();
        assert_eq!(world.end(), (State::Committed, None));
        world.fake.log();
        world.records.clear();
    }
    world
}

/// The device's own wish for these apps.
pub fn local(generation: u64, apps: Vec<App>) -> Wish {
    Wish {
        source: Source::Local,
        label: "local".into(),
        ..wish(generation, apps)
    }
}

/// An app that soaks so long.
pub fn soaking(name: &str, tag: &str, seconds: u64) -> App {
    let mut app = app(name, tag);
    app.update.soak = crate::types::time::Span::seconds(seconds);
    app
}

/// An app whose volume `data` is saved.
pub fn saving(name: &str, tag: &str) -> App {
    let mut web = app(name, tag);
    web.update.volumes = crate::types::app::VolumePolicy::Snapshot;
    web.volumes = vec!["data:/data".into(), "read:/read:ro".into(), "/host:/host".into()];
    web
}

/// A rollout at so many percent.
pub fn rollout(percent: f64, halted: bool) -> crate::types::document::Rollout {
    let text = format!(r#"{{"id":"r-1","salt":"k","percent":{percent:?},"halted":{halted}}}"#);
    serde_json::from_str(&text).unwrap()
}

//! The deployer's thread: inputs come through a bounded channel, jobs go to threads of their own, reports to the agent.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::disk::DiskError;
use crate::types::bounds::{DEPLOYER_INPUTS, DEPLOYER_JOBS};
use crate::types::deployment::{Cause, Reason};
use crate::types::time::{Mono, Unix};

use super::core::{Command, Conditions, Core, Input, Now, Out, Report, Settings};
use super::hands::{Failure, Hands, Sink};
use super::work::{self, Job};

/// Milliseconds between two reports of a fetch's progress.
const PROGRESS_MS: u64 = 2_000;

/// The longest sleep of the thread, so that a clock that was set is noticed, milliseconds.
const SLEEP_MAX_MS: u64 = 3_600_000;

/// Where reports go. Called on the deployer's thread: it must not block for long.
pub type Reports = Box<dyn Fn(Report) + Send>;

/// Why the deployer could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its files.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The containers could not be listed.
    #[error("list the apps' containers: {0}")]
    Containers(Cause),
    /// No thread.
    #[error("start the deployer's thread: {0}")]
    Thread(std::io::Error),
}

/// What the thread receives.
enum Message {
    Input(Input),
    Shutdown,
}

/// The running deployer. Dropping it stops the thread; containers and jobs under way go on.
pub struct Deployer {
    inputs: SyncSender<Message>,
    thread: Option<JoinHandle<()>>,
}

impl Deployer {
    /// Takes up what `dir` says and what runs, and returns when the starts of the last committed set are under way. `boot` names this
    /// boot of the device (`/proc/sys/kernel/random/boot_id`).
    pub fn start(
        settings: Settings,
        conditions: Conditions,
        dir: PathBuf,
        boot: &str,
        hands: Arc<dyn Hands>,
        reports: Reports,
    ) -> Result<Deployer, StartError> {
        let found = hands
            .containers()
            .map_err(|failure| StartError::Containers(failure.cause))?;
        let clock = Clock::new();
        let (core, out) = Core::boot(settings, conditions, &dir, found, boot, clock.now())?;
        let (inputs, receiver) = sync_channel(DEPLOYER_INPUTS);
        let mut driver = Driver {
            core,
            clock,
            hands,
            reports,
            inputs: inputs.clone(),
            waiting: VecDeque::new(),
            running: 0,
        };
        driver.carry_out(out);
        let thread = std::thread::Builder::new()
            .name("deployer".into())
            .spawn(move || driver.run(&receiver))
            .map_err(StartError::Thread)?;
        Ok(Deployer {
            inputs,
            thread: Some(thread),
        })
    }

    /// Asks for something; the answer comes as reports, or through the command's own reply. `busy` when too much is asked at once.
    pub fn send(&self, command: Command) -> Result<(), Cause> {
        self.inputs
            .try_send(Message::Input(Input::Command(command)))
            .map_err(|error| match error {
                TrySendError::Full(_) => Cause::new(Reason::Busy, "the deployer has too many inputs waiting"),
                TrySendError::Disconnected(_) => Cause::new(Reason::Internal, "the deployer has stopped"),
            })
    }

    /// Whether the thread runs.
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Stops the thread. Containers are left as they are; the next start goes on.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        let _ = self.inputs.send(Message::Shutdown);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Deployer {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop();
        }
    }
}

/// The thread's side.
struct Driver {
    core: Core,
    clock: Clock,
    hands: Arc<dyn Hands>,
    reports: Reports,
    inputs: SyncSender<Message>,
    waiting: VecDeque<Job>,
    running: usize,
}

impl Driver {
    fn run(mut self, receiver: &Receiver<Message>) {
        loop {
            let now = self.clock.now().mono;
            let wait = self
                .core
                .deadline(now)
                .map_or(SLEEP_MAX_MS, |at| at.since(now).min(SLEEP_MAX_MS));
            let input = match receiver.recv_timeout(Duration::from_millis(wait)) {
                Ok(Message::Input(input)) => input,
                Ok(Message::Shutdown) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => Input::Tick,
            };
            if matches!(input, Input::Done(_)) {
                self.running = self.running.saturating_sub(1);
            }
            let out = self.core.handle(input, self.clock.now());
            self.carry_out(out);
        }
    }

    fn carry_out(&mut self, out: Vec<Out>) {
        for one in out {
            match one {
                Out::Job(job) => self.waiting.push_back(job),
                Out::Report(report) => (self.reports)(report),
                Out::Watch(id) => {
                    let inputs = self.inputs.clone();
                    let sink: Sink = Arc::new(move |id, seen| {
                        let _ = inputs.send(Message::Input(Input::Seen(id, seen)));
                    });
                    if let Err(failure) = self.hands.watch(&id, sink) {
                        crate::warn!("listen to container `{}`: {}", id.short(), failure.cause);
                    }
                }
            }
        }
        while self.running < DEPLOYER_JOBS {
            let Some(job) = self.waiting.pop_front() else { return };
            self.running += 1;
            self.spawn(job);
        }
    }

    fn spawn(&self, job: Job) {
        let (hands, inputs) = (self.hands.clone(), self.inputs.clone());
        let work = move || {
            let mut last: Option<Instant> = None;
            let done = work::run(job, &*hands, &mut |ticket, bytes| {
                if last.is_none_or(|at| at.elapsed() >= Duration::from_millis(PROGRESS_MS)) {
                    last = Some(Instant::now());
                    let _ = inputs.try_send(Message::Input(Input::Progress(ticket.clone(), bytes)));
                }
            });
            let _ = inputs.send(Message::Input(Input::Done(done)));
        };
        if let Err(error) = std::thread::Builder::new().name("deploy-job".into()).spawn(work) {
            // Without a thread nothing can be done at all; the supervisor starts the agent again, and the journal goes on.
            crate::error!("start a thread for a job: {error}");
            std::process::abort();
        }
    }
}

/// The clocks.
struct Clock {
    start: Instant,
}

impl Clock {
    /// What this process calls its beginning; high enough for runs that began before it.
    const BASE_MS: u64 = 1 << 40;

    fn new() -> Clock {
        Clock { start: Instant::now() }
    }

    fn now(&self) -> Now {
        let mono = Clock::BASE_MS + u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX >> 1);
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let dice = RandomState::new().build_hasher().finish();
        Now {
            mono: Mono(mono),
            unix: Unix(u64::try_from(unix.as_millis()).unwrap_or(0)),
            dice: dice as u32,
        }
    }
}

impl From<Failure> for StartError {
    fn from(failure: Failure) -> StartError {
        StartError::Containers(failure.cause)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use crate::deploy::fake::Fake;
    use crate::deploy::world::{app_unchecked, wish};
    use crate::types::deployment::State;
    use crate::types::time::Span;

    use super::*;

    fn start(dir: &std::path::Path, fake: &Arc<Fake>) -> (Deployer, Receiver<State>) {
        let settings = Settings {
            device: "gw-1".into(),
            budget: None,
            default_memory: 1 << 20,
            pinned: false,
            probe_timeout: 300_000,
            pull_attempts: 10,
            stopped: None,
        };
        let (sender, states) = channel();
        let reports: Reports = Box::new(move |report| {
            if let Report::Deployment(deploy) = report {
                let _ = sender.send(deploy.record.state);
            }
        });
        let deployer = Deployer::start(
            settings,
            Conditions::default(),
            dir.to_owned(),
            "boot",
            fake.clone(),
            reports,
        );
        (deployer.unwrap(), states)
    }

    use State::{Accepted, Committed, Fetching, Probing, Soaking, Staged, Switching, Verifying};

    #[test]
    fn a_deployment_runs_on_threads_and_a_new_deployer_takes_up_what_runs() {
        let dir = std::env::temp_dir().join(format!("dunlin-deployer-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let fake = Arc::new(Fake::default());
        let (deployer, states) = start(&dir, &fake);
        let mut web = app_unchecked("web", "good-1");
        web.update.soak = Span(200);
        deployer.send(Command::Apply(Box::new(wish(1, vec![web])))).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut seen = Vec::new();
        while seen.last() != Some(&Committed) && Instant::now() < deadline {
            seen.extend(states.recv_timeout(Duration::from_secs(1)));
        }
        seen.dedup();
        assert_eq!(
            seen,
            [
                Accepted, Fetching, Verifying, Staged, Switching, Probing, Soaking, Committed
            ]
        );
        deployer.shutdown();
        fake.log();
        let (deployer, _) = start(&dir, &fake);
        drop(deployer);
        assert_eq!(fake.log(), Vec::<String>::new(), "nothing was started or stopped again");
        assert_eq!(fake.listing(), ["web good-1 running"]);
        std::fs::remove_dir_all(dir).unwrap();
    }
}

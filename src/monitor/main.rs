//! The monitor's loop: everything that may happen to one container, one thing at a time.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use super::children::Children;
use super::clients::{Clients, Role};
use super::exec::Execs;
use super::handed::Handed;
use super::life::{Input, Life};
use super::log::{Stream, Writer};
use super::memory::MemoryEvents;
use super::probe::Prober;
use super::starter::Starter;
use super::stdio::{Pumped, Stdio, members};
use super::token::{Part, Token};
use super::wire::{self, FromMonitor, MonitorConfig, Refusal, StartReport, What};
use crate::disk::lock::{Lock, Mode};
use crate::disk::{events, record};
use crate::runtime::cgroup::Handle;
use crate::sys::event::{self, Epoll, Interest, Ready, SignalFd};
use crate::sys::process::{self, Ended};
use crate::sys::{footprint, socket};
use crate::types::bounds::EXECS;
use crate::types::container::{ExitRecord, MonitorState, ProcessId};
use crate::types::health::HealthStatus;
use crate::types::time::{Mono, Unix};

/// Place of the container's own starter among the starters; those of execs come before it.
pub(super) const MAIN_STARTER: usize = EXECS;
/// Descriptors handled in one round.
const ROUND: usize = 32;
/// Name of the lock in a container's run directory.
const LOCK: &str = "lock";
/// Milliseconds after a start in which memory that only starting needs is let go.
const TRIM_MS: u64 = 1_000;
/// Time for the start request to come.
const CONFIG_PATIENCE: Duration = Duration::from_secs(10);

const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;

/// The current or last run of the container.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) process: Option<(ProcessId, OwnedFd)>,
    pub(super) starter: Option<Starter>,
    /// The helper of its network: number and process.
    pub(super) helper: Option<(i32, OwnedFd)>,
    /// The helper ended before the container: how.
    pub(super) cut_off: Option<Ended>,
    pub(super) stdio: Stdio,
    pub(super) started: Unix,
    pub(super) exit: Option<ExitRecord>,
    /// When draining is given up.
    pub(super) drain_until: Option<Mono>,
    pub(super) oom_kills: u64,
    /// Its program was let go.
    pub(super) ran: bool,
}

/// One container's monitor.
#[derive(Debug)]
pub(super) struct Monitor {
    pub(super) config: MonitorConfig,
    pub(super) epoll: Epoll,
    pub(super) clients: Clients,
    pub(super) life: Life,
    pub(super) group: Handle,
    pub(super) run: Run,
    pub(super) log: Writer,
    pub(super) execs: Execs,
    pub(super) prober: Option<Prober>,
    pub(super) memory: MemoryEvents,
    pub(super) children: Children,
    /// For what processes say.
    pub(super) scratch: Box<[u8]>,
    /// For what clients say.
    pub(super) inbox: Box<[u8]>,
    pub(super) over: bool,
    /// When memory that only starting needs is let go.
    pub(super) trim_at: Option<Mono>,
    /// No other monitor has this container.
    _lock: Lock,
    pub(super) handed: Handed,
    signals: SignalFd,
    listener: OwnedFd,
    report: Option<OwnedFd>,
    state: Option<MonitorState>,
    me: ProcessId,
}

/// The role: takes the container's configuration from descriptor `start`, runs the container to its end. The exit code
/// of the process is 0 when the container was started, whatever became of it.
pub fn main(start: OwnedFd) -> u8 {
    // The name is for people.
    let _ = process::set_name(c"dunlin-monitor");
    let mut buffer = vec![0; wire::PACKET_BYTES];
    let received = socket::set_timeouts(start.as_fd(), Some(CONFIG_PATIENCE))
        .and_then(|()| socket::recv_with_fds(start.as_fd(), &mut buffer));
    let set_up = match received {
        Ok((got, fds)) => wire::decode_config(&buffer[..got])
            .map_err(|error| Refusal::new(error.to_string()))
            .map(|config| (config, fds)),
        Err(error) => Err(Refusal::new(format!("the monitor got no configuration: {error}"))),
    };
    drop(buffer);
    let monitor = set_up.and_then(|(config, fds)| Monitor::new(config, fds));
    match monitor {
        Ok(mut monitor) => {
            monitor.report = Some(start);
            monitor.serve()
        }
        Err(refusal) => {
            say_start(&start, &StartReport::Failed(refusal));
            1
        }
    }
}

fn say_start(start: &OwnedFd, report: &StartReport) {
    if let Ok(packet) = wire::encode(report) {
        // Whoever asked may be gone; the container runs on.
        let _ = socket::send(start.as_fd(), &packet);
    }
}

impl Monitor {
    fn new(config: MonitorConfig, mut fds: Vec<OwnedFd>) -> Result<Monitor, Refusal> {
        let name = config.name.clone();
        let failed =
            move |what: &str, error: io::Error| Refusal::new(format!("monitor of container `{name}`: {what}: {error}"));
        let signals =
            SignalFd::new(&[SIGCHLD, SIGTERM, SIGINT, SIGHUP]).map_err(|error| failed("take signals", error))?;
        let epoll = Epoll::new().map_err(|error| failed("epoll", error))?;
        let dir = std::fs::File::open(&config.run_dir).map_err(|error| failed("open its run directory", error))?;
        let lock = Lock::try_take(&config.run_dir.join(LOCK), Mode::Exclusive)
            .map_err(|error| Refusal::new(error.to_string()))?;
        let Some(lock) = lock else {
            return Err(Refusal::new(format!("container `{}` runs already", config.name)));
        };
        let listener = socket::listen_at(dir.as_fd(), wire::SOCKET).map_err(|error| failed("listen", error))?;
        for (fd, token) in [(signals.as_fd(), Token::Signals), (listener.as_fd(), Token::Listener)] {
            epoll
                .add(fd, token.into(), Interest::READ)
                .map_err(|error| failed("epoll", error))?;
        }
        let handed =
            Handed::take(&config, &mut fds, &epoll).map_err(|error| failed("take what was handed over", error))?;
        let pid = std::process::id().cast_signed();
        let start = process::start_time(pid).map_err(|error| failed("read its own start time", error))?;
        let now = Mono(event::mono_ms());
        let mut monitor = Monitor {
            clients: Clients::new(),
            life: Life::new(config.restart),
            group: config.tree.container(&config.id),
            run: Run::none(&epoll).map_err(|error| failed("prepare", error))?,
            log: Writer::new(
                config.data_dir.join(wire::LOG),
                config.log,
                config.run_dir.join(wire::FULL),
            ),
            execs: Execs::new(),
            prober: config.health.as_ref().map(|health| Prober::new(health, now)),
            memory: MemoryEvents::none(),
            children: Children::default(),
            scratch: vec![0; wire::FRAME_BYTES].into_boxed_slice(),
            inbox: vec![0; wire::PACKET_BYTES].into_boxed_slice(),
            over: false,
            trim_at: None,
            _lock: lock,
            handed,
            signals,
            listener,
            report: None,
            state: None,
            me: ProcessId { pid, start },
            epoll,
            config,
        };
        for socket in fds {
            if let Some(index) = monitor.clients.add(&monitor.epoll, socket, now) {
                monitor.client_ready(index, now);
            }
        }
        Ok(monitor)
    }

    /// Runs the container to its end; the exit code of the process.
    fn serve(mut self) -> u8 {
        self.begin_run(self.mono());
        while !self.over {
            let mut ready = heapless::Vec::<Ready, ROUND>::new();
            let timeout = self.due().map(|due| Duration::from_millis(due.since(self.mono())));
            // Sixteen at a time come, so there is room. An error could only be one of programming.
            if self.epoll.wait(timeout, |one| _ = ready.push(one)).is_err() {
                std::thread::sleep(Duration::from_millis(100));
            }
            let now = self.mono();
            for one in &ready {
                if let Some(token) = Token::from_number(one.token) {
                    self.dispatch(token, *one, now);
                }
            }
            self.tick(now);
        }
        self.leave()
    }

    fn dispatch(&mut self, token: Token, ready: Ready, now: Mono) {
        match token {
            Token::Signals => self.take_signals(now),
            Token::Listener => self.take_connections(now),
            Token::Memory => self.memory_event(now),
            Token::Client(index) => {
                if ready.write || ready.hangup {
                    self.client_writable(index, now);
                }
                if ready.read || ready.hangup {
                    self.client_ready(index, now);
                }
            }
            Token::Main(Part::Input) if ready.hangup => self.run.stdio.input_broke(&self.epoll, &mut self.clients, now),
            Token::Main(Part::Input) => self.run.stdio.feed(&self.epoll, &mut self.clients, now),
            Token::Main(part) => {
                self.main_output(part, now);
                self.run_tick(now);
            }
            Token::Exec(index, Part::Input) => {
                if let Some(stdio) = self.execs.stdio(index) {
                    if ready.hangup {
                        stdio.input_broke(&self.epoll, &mut self.clients, now);
                    } else {
                        stdio.feed(&self.epoll, &mut self.clients, now);
                    }
                }
            }
            Token::Exec(index, _) => self.exec_progress(index, now),
            Token::Starter(MAIN_STARTER) => self.run_report(now),
            Token::Starter(index) => self.exec_report(index, now),
            Token::Probe => self.probe_ready(now),
            Token::Notify => self.notified(),
        }
    }

    /// When something must be done though nothing happens.
    fn due(&self) -> Option<Mono> {
        let (late, client) = self.clients.overdue(self.mono());
        let late = (late != 0).then_some(Mono(0));
        let probe = self.prober.as_ref().and_then(|prober| prober.due(self.may_probe()));
        let start = self.run.starter.as_ref().map(|starter| starter.deadline);
        [
            late,
            client,
            probe,
            start,
            self.life.due(),
            self.run.drain_until,
            self.execs.due(),
            self.memory.due(),
            self.trim_at,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn tick(&mut self, now: Mono) {
        let (late, _) = self.clients.overdue(now);
        for client in members(late) {
            let text = match self.clients.role(client) {
                Some(Role::Asking(_)) => "no request came",
                _ => "output was not read for too long",
            };
            self.drop_client(client, Some(Refusal::new(text)));
        }
        self.exec_tick(now);
        self.probe_tick(now);
        self.memory_tick(now);
        self.run_tick(now);
        if self.life.due().is_some_and(|due| due <= now) {
            self.act_on(Input::Tick, now);
        }
        if self.trim_at.is_some_and(|at| at <= now) {
            self.trim_at = None;
            footprint::trim();
        }
    }

    fn take_signals(&mut self, now: Mono) {
        while let Ok(Some(signal)) = self.signals.read() {
            if matches!(signal.number, SIGTERM | SIGINT) {
                // The host goes down, or the unit that holds everything is stopped.
                let timeout_ms = self.config.stop_timeout_ms;
                self.act_on(
                    Input::Stop {
                        timeout_ms,
                        by_hand: false,
                    },
                    now,
                );
            }
        }
        while let Ok(Some((pid, ended))) = process::try_wait_any() {
            let main = self.run.process.as_ref().is_some_and(|(process, _)| process.pid == pid);
            if main && self.run.ran {
                self.run_ended(ended, now);
            } else if self.run.helper.as_ref().is_some_and(|(helper, _)| *helper == pid) {
                self.network_lost(ended);
            } else if !self.exec_reaped(pid, ended, now) {
                self.children.ended(pid, ended);
            }
        }
        if self.run.starter.is_none() && !self.execs.is_starting() {
            self.children.forget();
        }
    }

    fn take_connections(&mut self, now: Mono) {
        while let Ok(socket) = socket::accept(self.listener.as_fd()) {
            self.clients.add(&self.epoll, socket, now);
        }
    }

    /// Relays and logs one of the container's streams.
    pub(super) fn main_output(&mut self, part: Part, now: Mono) -> Pumped {
        let error = part == Part::Error;
        let readers = self.clients.which(|role| match role {
            Role::Attached { stdout, stderr, .. } => {
                if error {
                    stderr
                } else {
                    stdout
                }
            }
            _ => false,
        });
        let stream = if error { Stream::Stderr } else { Stream::Stdout };
        let at = event::unix_ns();
        let Monitor {
            run,
            epoll,
            clients,
            scratch,
            log,
            ..
        } = self;
        run.stdio.pump(epoll, clients, part, readers, scratch, now, |data| {
            log.write(stream, at, data)
        })
    }

    /// Whether processes can be made in the container now.
    pub(super) fn is_running(&self) -> bool {
        self.run.ran && self.life.runs() && self.run.process.is_some()
    }

    pub(super) fn mono(&self) -> Mono {
        Mono(event::mono_ms())
    }

    pub(super) fn unix(&self) -> Unix {
        Unix(event::unix_ns() / 1_000_000)
    }

    /// A run has begun: soon there is nothing to do but wait.
    pub(super) fn trim_soon(&mut self, now: Mono) {
        self.trim_at = Some(now.plus(TRIM_MS));
    }

    /// Tells all subscribers.
    pub(super) fn emit(&mut self, what: What) {
        let (at, now) = (self.unix(), self.mono());
        self.note(&what, at);
        self.clients.emit(&self.epoll, at, what, now);
    }

    /// A line for `events`; where there is no file, nobody made one.
    fn note(&self, what: &What, at: Unix) {
        let (word, code) = match what {
            What::Started { .. } => ("start", None),
            What::Exited(exit) => ("died", Some(exit.code)),
            What::Oom { .. } => ("oom", None),
            What::Health { .. } => ("health_status", None),
            What::Paused => ("pause", None),
            What::Unpaused => ("unpause", None),
            What::Restarting { .. } => ("restart", None),
            _ => return,
        };
        let line = events::Line {
            at,
            kind: "container",
            what: word,
            id: &self.config.id.hex(),
            name: &self.config.name,
            image: "",
            code,
        };
        if let Err(error) = events::append(&self.config.run_dir.join(wire::EVENTS), &line) {
            crate::debug!("events: {error}");
        }
    }

    /// What others may know.
    pub(super) fn state(&self) -> MonitorState {
        let health = match &self.prober {
            Some(prober) if self.life.runs() => prober.status(),
            _ => HealthStatus::None,
        };
        MonitorState {
            monitor: self.me,
            container: self.run.process.as_ref().map(|(process, _)| *process),
            status: self.life.status(),
            started: Some(self.run.started).filter(|started| *started != Unix(0)),
            health,
            failing_streak: self.prober.as_ref().map_or(0, Prober::failing_streak),
            restarts: self.life.restarts.total,
            stop_asked: self.life.stop_asked,
        }
    }

    /// Writes the state file if something changed.
    pub(super) fn write_state(&mut self) {
        let state = self.state();
        if self.state.as_ref() == Some(&state) {
            return;
        }
        let path = self.config.run_dir.join(wire::STATE);
        match record::write_volatile(&path, &state) {
            Ok(()) => self.state = Some(state),
            Err(error) => crate::warn!("container `{}`: {error}", self.config.name),
        }
    }

    /// Tells the starter, once, how the start went.
    pub(super) fn report_start(&mut self, report: &StartReport) -> bool {
        let Some(start) = self.report.take() else { return false };
        say_start(&start, report);
        true
    }

    /// Closes a connection; the session that it is on goes on without it.
    pub(super) fn drop_client(&mut self, index: usize, why: Option<Refusal>) {
        let role = self.clients.role(index);
        match why {
            Some(refusal) => self.clients.refuse(&self.epoll, index, refusal),
            None => self.clients.remove(&self.epoll, index),
        }
        match role {
            Some(Role::Exec(exec)) => self.exec_lost_client(exec, index),
            Some(Role::Attached { .. }) => {
                self.run.stdio.forget(&self.epoll, index);
                self.finish_if_settled();
            }
            _ => {}
        }
    }

    /// Sends what sessions and waiters are owed at the end: nothing, or the exit.
    pub(super) fn owe_exit(&mut self, exit: &ExitRecord, now: Mono) {
        let frame = FromMonitor::Exited {
            code: exit.code,
            signal: exit.signal,
            oom: exit.oom,
        };
        for client in members(self.clients.which(|role| matches!(role, Role::Attached { .. }))) {
            self.clients.owe(&self.epoll, client, &frame, now);
        }
    }

    /// Cleans up what is the monitor's, and ends or becomes the clean-up.
    fn leave(mut self) -> u8 {
        self.sync_exit();
        if let Err(error) = self.group.remove() {
            crate::warn!("container `{}`: {error}", self.config.name);
        }
        remove(&self.config.run_dir.join(wire::SOCKET));
        self.write_state();
        let started = self.run.ran;
        if started && !self.config.cleanup.is_empty() {
            let error = become_cleanup(&self.config.cleanup, self.clients);
            crate::error!("container `{}`: run its clean-up: {error}", self.config.name);
        }
        u8::from(!started)
    }
}

/// Removes a file of ours; one that is not there is fine, and nothing can be done about another failure.
fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        crate::warn!("remove `{}`: {error}", path.display());
    }
}

/// Becomes our own binary with `args`; sessions stay connected until it ends. Returns only on failure.
fn become_cleanup(args: &[String], clients: Clients) -> io::Error {
    let prepared = process::reset_signals().and_then(|()| {
        let sockets: Vec<OwnedFd> = clients.into_sockets().collect();
        for socket in sockets {
            process::keep_on_exec(socket)?;
        }
        Ok(())
    });
    if let Err(error) = prepared {
        return error;
    }
    let text = |text: &str| std::ffi::CString::new(text).unwrap_or_default();
    // The name that the keeper has given may be all that says where the binary is.
    let name = std::env::args().next().unwrap_or_default();
    let args: Vec<_> = std::iter::once(name.as_str())
        .chain(args.iter().map(String::as_str))
        .map(text)
        .collect();
    let env: Vec<_> = std::env::vars()
        .map(|(name, value)| text(&format!("{name}={value}")))
        .collect();
    process::exec(c"/proc/self/exe", &args, &env)
}

//! Further processes in the container: execs of clients and exec probes.

use std::os::fd::{AsFd, OwnedFd};

use super::clients::Role;
use super::launch;
use super::life::Phase;
use super::main::Monitor;
use super::starter::{self, Report, SIGKILL, Starter};
use super::stdio::{Owner, Pumped, Stdio, members};
use super::token::Part;
use super::wire::{Answer, ExecRequest, FromMonitor, Refusal};
use crate::sys::process::{self, Ended};
use crate::types::bounds::{EXEC_START_MS, EXECS, EXECS_KEPT, PROBE_OUTPUT_BYTES};
use crate::types::time::Mono;

/// Milliseconds that a terminal's output may still come after its process ended.
const TERMINAL_TAIL_MS: u64 = 200;

/// What an exec is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// A client's session; `None` when the client is gone.
    Session(Option<usize>),
    /// Nobody: the status is kept.
    Detached,
    /// A health probe.
    Probe,
}

/// A process in the container besides the first.
#[derive(Debug)]
pub struct Exec {
    /// For [`super::wire::Open::Collect`].
    pub number: u32,
    whose: For,
    starter: Option<Starter>,
    process: Option<(i32, OwnedFd)>,
    stdio: Stdio,
    ended: Option<Ended>,
    /// When what a terminal still says is waited for no longer.
    tail: Option<Mono>,
    /// The first bytes that a probe said.
    said: heapless::Vec<u8, PROBE_OUTPUT_BYTES>,
}

/// All execs of one container.
#[derive(Debug)]
pub struct Execs {
    table: [Option<Box<Exec>>; EXECS],
    kept: heapless::Deque<(u32, i32), EXECS_KEPT>,
    last: u32,
}

impl Execs {
    /// None yet.
    pub fn new() -> Execs {
        Execs {
            table: [const { None }; EXECS],
            kept: heapless::Deque::new(),
            last: 0,
        }
    }

    /// How many run.
    pub fn count(&self) -> u32 {
        self.table.iter().flatten().count() as u32
    }

    /// Whether a child prepares one of them now.
    pub fn is_starting(&self) -> bool {
        self.table.iter().flatten().any(|exec| exec.starter.is_some())
    }

    /// The relay of one of them.
    pub fn stdio(&mut self, index: usize) -> Option<&mut Stdio> {
        self.table.get_mut(index)?.as_mut().map(|exec| &mut exec.stdio)
    }

    /// The exit code of a detached exec, which is forgotten then; `None` inside while it runs.
    pub fn collect(&mut self, number: u32) -> Option<Option<i32>> {
        let mut all = self.table.iter().flatten();
        if all.any(|exec| exec.number == number && exec.whose == For::Detached) {
            return Some(None);
        }
        let code = self
            .kept
            .iter()
            .find(|(kept, _)| *kept == number)
            .map(|(_, code)| *code)?;
        self.kept.retain(|(kept, _)| *kept != number);
        Some(Some(code))
    }

    /// When one of them must be looked at.
    pub fn due(&self) -> Option<Mono> {
        let due = |exec: &Exec| {
            let starting = exec.starter.as_ref().map(|starter| starter.deadline);
            starting.into_iter().chain(exec.tail).min()
        };
        self.table.iter().flatten().filter_map(|exec| due(exec)).min()
    }
}

impl Monitor {
    /// Begins an exec for a connection.
    pub fn exec_for(&mut self, client: usize, request: ExecRequest, now: Mono) {
        if !self.is_running() {
            let text = format!(
                "container `{}` does not run: it is {}",
                self.config.name,
                self.life.status().as_str()
            );
            return self.clients.refuse(&self.epoll, client, Refusal::new(text));
        }
        if self.life.phase == Phase::Paused {
            let text = format!(
                "container `{}` is paused; type `dunlin unpause {0}` first",
                self.config.name
            );
            return self.clients.refuse(&self.epoll, client, Refusal::new(text));
        }
        if let Err(problem) = check(&request) {
            return self.clients.refuse(&self.epoll, client, Refusal::new(problem));
        }
        let whose = if request.detach {
            For::Detached
        } else {
            For::Session(Some(client))
        };
        match self.begin_exec(&request, whose, now.plus(EXEC_START_MS)) {
            // A detached one keeps its client until it runs.
            Ok(index) => self.clients.set_role(client, Role::Exec(index)),
            Err(refusal) => self.clients.refuse(&self.epoll, client, refusal),
        }
    }

    /// Begins an exec; its place in the table.
    pub fn begin_exec(&mut self, request: &ExecRequest, whose: For, deadline: Mono) -> Result<usize, Refusal> {
        let failed = |what: &str, error: std::io::Error| Refusal::new(format!("{what}: {error}"));
        let Some(index) = self.execs.table.iter().position(Option::is_none) else {
            let text = format!(
                "{EXECS} execs run in container `{}` already; wait for one to end",
                self.config.name
            );
            return Err(Refusal::new(text));
        };
        let Some((pid, pidfd)) = &self.run.process else {
            return Err(Refusal::new(format!("container `{}` does not run", self.config.name)));
        };
        let wants = launch::Wants {
            stdin: request.stdin && request.tty.is_none(),
            output: whose != For::Detached && request.tty.is_none(),
        };
        let (ends, theirs) = launch::pipes(wants).map_err(|error| failed("make pipes for an exec", error))?;
        let (config, group, target) = (&self.config, &self.group, (pid.pid, pidfd.as_fd()));
        let starter = Starter::begin(&self.epoll, index, deadline, |talk| {
            launch::exec(config, group, target, request, theirs, talk)
        })
        .map_err(|error| failed("prepare an exec", error))?;
        self.children.starter(starter.pid);
        let stdio = Stdio::new(&self.epoll, Owner::Exec(index), request.tty.is_some(), ends)
            .map_err(|error| failed("relay an exec", error))?;
        self.execs.last = self.execs.last.wrapping_add(1).max(1);
        self.execs.table[index] = Some(Box::new(Exec {
            number: self.execs.last,
            whose,
            starter: Some(starter),
            process: None,
            stdio,
            ended: None,
            tail: None,
            said: heapless::Vec::new(),
        }));
        Ok(index)
    }

    /// The child that prepares an exec said something.
    pub fn exec_report(&mut self, index: usize, now: Mono) {
        let Some(Some(exec)) = self.execs.table.get_mut(index) else {
            return;
        };
        let Some((report, fds)) = exec.starter.as_ref().and_then(Starter::hear) else {
            return;
        };
        let (pid, mut fds) = match report {
            Report::Ran { pid } => (pid, fds.into_iter()),
            Report::Made { .. } => return,
            Report::Failed(refusal) => return self.exec_failed(index, refusal),
        };
        starter::end(&self.epoll, &mut exec.starter);
        let (Some(pidfd), console) = (fds.next(), fds.next()) else {
            return self.exec_failed(index, Refusal::new("the exec's process came without its descriptor"));
        };
        if let Some(console) = console
            && let Err(error) = exec.stdio.adopt(&self.epoll, &mut self.clients, console, now)
        {
            return self.exec_failed(index, Refusal::new(format!("relay the exec's terminal: {error}")));
        }
        exec.ended = self.children.ended_already(pid, pidfd.as_fd());
        exec.process = Some((pid, pidfd));
        let (number, whose) = (exec.number, exec.whose);
        let client = match whose {
            For::Session(client) => client,
            For::Detached => members(self.clients.which(|role| role == Role::Exec(index))).next(),
            For::Probe => None,
        };
        if let Some(client) = client {
            self.clients
                .owe(&self.epoll, client, &FromMonitor::Started { pid, exec: number }, now);
        }
        if let (For::Detached, Some(client)) = (whose, client) {
            self.clients.set_role(client, Role::Asking(now));
        }
        self.exec_progress(index, now);
    }

    /// Takes an exec out of the table and its descriptors out of the set.
    fn take_exec(&mut self, index: usize) -> Option<Box<Exec>> {
        let mut exec = self.execs.table.get_mut(index)?.take()?;
        starter::end(&self.epoll, &mut exec.starter);
        exec.stdio.close(&self.epoll);
        Some(exec)
    }

    fn exec_failed(&mut self, index: usize, refusal: Refusal) {
        let Some(exec) = self.take_exec(index) else { return };
        match exec.whose {
            For::Session(Some(client)) => self.clients.refuse(&self.epoll, client, refusal),
            For::Session(None) => {}
            For::Detached => {
                for client in members(self.clients.which(|role| role == Role::Exec(index))) {
                    self.clients.refuse(&self.epoll, client, refusal.clone());
                }
            }
            For::Probe => self.exec_probe_ended(i32::from(refusal.code), false, refusal.message.as_bytes()),
        }
    }

    /// A child of the monitor ended; `true` when it was an exec.
    pub fn exec_reaped(&mut self, pid: i32, ended: Ended, now: Mono) -> bool {
        let is_it = |exec: &Option<Box<Exec>>| {
            exec.as_ref()
                .and_then(|exec| exec.process.as_ref())
                .is_some_and(|(known, _)| *known == pid)
        };
        let Some(index) = self.execs.table.iter().position(is_it) else {
            return false;
        };
        if let Some(exec) = &mut self.execs.table[index] {
            exec.ended = Some(ended);
        }
        self.exec_progress(index, now);
        true
    }

    /// Relays what an exec says, and closes it when it has ended and everything was said.
    pub fn exec_progress(&mut self, index: usize, now: Mono) {
        let Some(Some(exec)) = self.execs.table.get_mut(index) else {
            return;
        };
        let readers = match exec.whose {
            // The client hears nothing before it is told that the process runs.
            For::Session(Some(_)) if exec.process.is_none() => return,
            For::Session(Some(client)) => 1 << client,
            _ => 0,
        };
        let mut more = false;
        for part in [Part::Output, Part::Error] {
            let said = &mut exec.said;
            let pumped = exec.stdio.pump(
                &self.epoll,
                &mut self.clients,
                part,
                readers,
                &mut self.scratch,
                now,
                |data| {
                    let room = PROBE_OUTPUT_BYTES - said.len();
                    // Cut to the room there is.
                    let _ = said.extend_from_slice(&data[..data.len().min(room)]);
                },
            );
            more |= pumped == Pumped::Held;
        }
        if exec.ended.is_none() || more {
            return;
        }
        // What the process itself wrote into pipes is read by now; what others still hold open is not waited for. A
        // terminal hands on what was written a moment later.
        let waits = exec.stdio.is_terminal() && !exec.stdio.is_drained();
        if waits && now < *exec.tail.get_or_insert(now.plus(TERMINAL_TAIL_MS)) {
            return;
        }
        self.exec_over(index, now);
    }

    fn exec_over(&mut self, index: usize, now: Mono) {
        if let Some(stdio) = self.execs.stdio(index) {
            stdio.input_broke(&self.epoll, &mut self.clients, now);
        }
        let Some(exec) = self.take_exec(index) else { return };
        let Some(ended) = exec.ended else { return };
        let signal = match ended {
            Ended::Signal(signal) => Some(signal),
            Ended::Code(_) => None,
        };
        match exec.whose {
            For::Session(Some(client)) => {
                let frame = FromMonitor::Exited {
                    code: ended.code(),
                    signal,
                    oom: false,
                };
                self.clients.set_role(client, Role::Asking(now));
                self.clients.owe(&self.epoll, client, &frame, now);
            }
            For::Session(None) => {}
            For::Detached => {
                if self.execs.kept.is_full() {
                    self.execs.kept.pop_front();
                }
                // There is room now.
                let _ = self.execs.kept.push_back((exec.number, ended.code()));
            }
            For::Probe => self.exec_probe_ended(ended.code(), false, &exec.said),
        }
    }

    /// Looks after what took too long.
    pub fn exec_tick(&mut self, now: Mono) {
        for index in 0..EXECS {
            let Some(exec) = &self.execs.table[index] else { continue };
            if exec.starter.as_ref().is_some_and(|starter| starter.deadline <= now) {
                self.exec_failed(
                    index,
                    Refusal::new("the exec did not begin in time; its user, directory or mounts hang"),
                );
            } else if exec.tail.is_some_and(|tail| tail <= now) {
                self.exec_progress(index, now);
            }
        }
    }

    /// The client of an exec is gone: its terminal hangs up, its pipes break.
    pub fn exec_lost_client(&mut self, index: usize, client: usize) {
        let Some(Some(exec)) = self.execs.table.get_mut(index) else {
            return;
        };
        if exec.whose == For::Session(Some(client)) {
            exec.whose = For::Session(None);
            exec.stdio.forget(&self.epoll, client);
            if exec.process.is_some() {
                exec.stdio.close(&self.epoll);
            }
        }
    }

    /// Sends a signal to an exec's process.
    pub fn exec_signal(&self, index: usize, signal: i32) {
        let exec = self.execs.table.get(index).and_then(Option::as_ref);
        if let Some((_, pidfd)) = exec.and_then(|exec| exec.process.as_ref()) {
            // It may have ended.
            let _ = process::send_signal(pidfd.as_fd(), signal);
        }
    }

    /// Ends a probe that took too long, with its children; what it said.
    pub fn exec_probe_timed_out(&mut self, index: usize) {
        let Some(exec) = self.take_exec(index) else { return };
        if let Some((pid, pidfd)) = &exec.process {
            // It leads a session of its own; both may have ended.
            let _ = process::signal_group(*pid, SIGKILL);
            let _ = process::send_signal(pidfd.as_fd(), SIGKILL);
        }
        self.exec_probe_ended(1, true, &exec.said);
    }

    /// The container ended: so did everything in it.
    pub fn exec_all_over(&mut self, now: Mono) {
        for index in 0..EXECS {
            let Some(exec) = &mut self.execs.table[index] else {
                continue;
            };
            if exec.process.is_none() {
                self.exec_failed(index, Refusal::new("the container ended"));
            } else {
                // Its own status may come a moment later; then it is reported.
                self.exec_progress(index, now);
            }
        }
    }

    /// The answer to [`super::wire::Open::Collect`].
    pub fn exec_collect(&mut self, number: u32) -> Answer {
        match self.execs.collect(number) {
            Some(code) => Answer::Exec(code),
            None => Answer::Refused(Refusal::new(format!(
                "no exec {number} is known in container `{}`",
                self.config.name
            ))),
        }
    }
}

fn check(request: &ExecRequest) -> Result<(), String> {
    if request.args.first().is_none_or(String::is_empty) {
        return Err("exec needs a program to run".into());
    }
    if request.cwd.as_ref().is_some_and(|cwd| !cwd.starts_with('/')) {
        return Err("the working directory of an exec must be absolute".into());
    }
    let texts = request
        .args
        .iter()
        .chain(&request.env)
        .chain(&request.cwd)
        .chain(&request.user);
    if texts.into_iter().any(|text| text.contains('\0')) {
        return Err("the arguments of an exec hold a zero byte".into());
    }
    Ok(())
}

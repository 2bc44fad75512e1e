//! The runs of the container: begin, end, drain, begin again or finish.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::clients::Role;
use super::launch;
use super::life::{Act, Input, Phase};
use super::log::Stream;
use super::main::{MAIN_STARTER, Monitor, Run};
use super::memory::MemoryEvents;
use super::network;
use super::starter::{self, Report, SIGKILL, Starter};
use super::state::unseen;
use super::stdio::{Ends, Owner, Stdio, members};
use super::token::Part;
use super::wire::{self, Answer, FromMonitor, Refusal, StartReport, What};
use crate::disk::{durable, record};
use crate::plan::restart::Ending;
use crate::sys::event::{Epoll, unix_ns};
use crate::sys::ns::{self, Namespaces};
use crate::sys::process::{self, Ended};
use crate::types::bounds::{DRAIN_MS, RUN_START_MS};
use crate::types::container::{ExitRecord, ProcessId, RestartPolicy};
use crate::types::time::{Mono, Unix};

impl Run {
    /// No run yet.
    pub(super) fn none(epoll: &Epoll) -> io::Result<Run> {
        Ok(Run {
            process: None,
            starter: None,
            helper: None,
            cut_off: None,
            stdio: Stdio::new(epoll, Owner::Main, false, Ends::default())?,
            started: Unix(0),
            exit: None,
            drain_until: None,
            oom_kills: 0,
            ran: false,
        })
    }
}

impl Monitor {
    /// Lets something happen to the container's life and does what follows from it.
    pub(super) fn act(&mut self, input: Input, now: Mono) -> Result<(), String> {
        match self.life.take(input, now) {
            Act::Nothing => {}
            Act::Refuse(why) => return Err(why.into()),
            Act::Ask { thaw } => {
                self.signal_first(self.config.stop_signal);
                if thaw {
                    self.thaw();
                }
            }
            Act::Kill => self.kill(),
            Act::Freeze => {
                if let Err(error) = self.group.freeze(true) {
                    self.life.phase = Phase::Running;
                    return Err(error.to_string());
                }
                self.emit(What::Paused);
            }
            Act::Thaw => {
                self.thaw();
                self.emit(What::Unpaused);
            }
            Act::Start => self.begin_run(now),
            Act::Announce(after_ms) => {
                let restarts = self.life.restarts.total;
                self.emit(What::Restarting { after_ms, restarts });
            }
            Act::Finish => self.finish(now),
        }
        self.write_state();
        Ok(())
    }

    /// The same for what is never refused: all but pause and unpause.
    pub(super) fn act_on(&mut self, input: Input, now: Mono) {
        if let Err(why) = self.act(input, now) {
            crate::warn!("container `{}`: {why}", self.config.name);
        }
    }

    /// Sends a signal to the first process.
    pub(super) fn signal_first(&self, signal: i32) -> bool {
        match &self.run.process {
            Some((_, pidfd)) => process::send_signal(pidfd.as_fd(), signal).is_ok(),
            None => false,
        }
    }

    /// Kills everything: the first process takes its pid namespace with it.
    fn kill(&self) {
        self.signal_first(SIGKILL);
        // Frees a frozen one, too.
        if let Err(error) = self.group.kill() {
            crate::warn!("container `{}`: {error}", self.config.name);
        }
    }

    fn thaw(&self) {
        if let Err(error) = self.group.freeze(false) {
            crate::warn!("container `{}`: {error}", self.config.name);
        }
    }

    /// Begins a run: group, pipes, and the child that makes the rest.
    pub(super) fn begin_run(&mut self, now: Mono) {
        if let Err(refusal) = self.try_begin_run(now) {
            self.run_failed(refusal, now);
        }
    }

    fn try_begin_run(&mut self, now: Mono) -> Result<(), Refusal> {
        let failed = |what: &str, error: io::Error| Refusal::new(format!("{what}: {error}"));
        self.run = Run::none(&self.epoll).map_err(|error| failed("prepare a run", error))?;
        self.group.remove().map_err(|error| Refusal::new(error.to_string()))?;
        // What cannot be enforced and was not asked for is in the container's record.
        self.group
            .create(&self.config.limits, &self.config.asked)
            .map_err(|error| Refusal::new(format!("container `{}`: {error}", self.config.name)))?;
        self.memory = MemoryEvents::watch(&self.epoll, &self.group);
        let terminal = self.config.tty.is_some();
        let wants = launch::Wants {
            stdin: self.config.stdin && !terminal,
            output: !terminal,
        };
        let (ends, theirs) = launch::pipes(wants).map_err(|error| failed("make pipes", error))?;
        let (config, group, sockets) = (&self.config, &self.group, &self.handed.sockets);
        let starter = Starter::begin(&self.epoll, MAIN_STARTER, now.plus(RUN_START_MS), |talk| {
            launch::create(config, group, theirs, sockets, talk)
        })
        .map_err(|error| failed("prepare a run", error))?;
        self.children.starter(starter.pid);
        self.run.starter = Some(starter);
        self.run.stdio = Stdio::new(&self.epoll, Owner::Main, terminal, ends)
            .map_err(|error| failed("relay the container's stdio", error))?;
        Ok(())
    }

    /// The child that makes the container said something.
    pub(super) fn run_report(&mut self, now: Mono) {
        let Some((report, fds)) = self.run.starter.as_ref().and_then(Starter::hear) else {
            return;
        };
        let outcome = match report {
            Report::Made { pid, helper } => self.run_made(pid, helper, fds, now),
            Report::Ran { .. } => {
                starter::end(&self.epoll, &mut self.run.starter);
                self.run_began(now);
                Ok(())
            }
            Report::Failed(refusal) => Err(refusal),
        };
        if let Err(refusal) = outcome {
            self.run_failed(refusal, now);
        }
    }

    /// The first process is there and waits: what must be true before its program runs is made true.
    fn run_made(&mut self, pid: i32, helper: Option<i32>, fds: Vec<OwnedFd>, now: Mono) -> Result<(), Refusal> {
        let failed = |what: &str, error: io::Error| Refusal::new(format!("{what}: {error}"));
        let mut fds = fds.into_iter();
        let pidfd = fds
            .next()
            .ok_or_else(|| Refusal::new("the container's process came without its descriptor"))?;
        self.run.helper = helper.zip(helper.and_then(|_| fds.next()));
        if let Some(console) = fds.next() {
            self.run
                .stdio
                .adopt(&self.epoll, &mut self.clients, console, now)
                .map_err(|error| failed("relay the terminal", error))?;
        }
        if !self.config.host_network && !self.stays_outside() {
            ns::join(pidfd.as_fd(), Namespaces::NET)
                .map_err(|error| failed("join the container's network namespace", error))?;
        }
        let start = process::start_time(pid).map_err(|error| failed("look at the container's process", error))?;
        self.run.process = Some((ProcessId { pid, start }, pidfd));
        self.run.started = self.unix();
        // If nobody is left to write the true one, this stands.
        let end = unseen(self.run.started, self.life.restarts.total);
        if let Err(error) = record::write_volatile(&self.config.data_dir.join(wire::EXIT), &end) {
            crate::warn!("container `{}`: {error}", self.config.name);
        }
        self.write_state();
        let starter = self.run.starter.as_ref();
        starter.map_or(Ok(()), |starter| {
            starter.go().map_err(|error| failed("let the program run", error))
        })
    }

    /// The program runs.
    fn run_began(&mut self, now: Mono) {
        let Some((process, pidfd)) = &self.run.process else {
            return;
        };
        let pid = process.pid;
        let ended = self.children.ended_already(pid, pidfd.as_fd());
        self.run.ran = true;
        self.trim_soon(now);
        self.act_on(Input::Started, now);
        if let Some(prober) = &mut self.prober {
            prober.restart(now);
        }
        self.report_start(&StartReport::Started {
            pid,
            monitor: std::process::id().cast_signed(),
        });
        for client in members(self.clients.which(|role| matches!(role, Role::Attached { .. }))) {
            self.clients
                .owe(&self.epoll, client, &FromMonitor::Started { pid, exec: 0 }, now);
        }
        self.emit(What::Started {
            pid,
            restarts: self.life.restarts.total,
        });
        self.write_state();
        if let Some(ended) = ended {
            self.run_ended(ended, now);
        }
    }

    /// The run did not begin.
    fn run_failed(&mut self, refusal: Refusal, now: Mono) {
        starter::end(&self.epoll, &mut self.run.starter);
        self.network_end();
        if let Some((_, pidfd)) = self.run.process.take() {
            // It may be gone already.
            let _ = process::send_signal(pidfd.as_fd(), SIGKILL);
        }
        let at = self.unix();
        let exit = ExitRecord {
            code: i32::from(refusal.code),
            signal: None,
            oom: false,
            started: at,
            finished: at,
            restarts: self.life.restarts.total,
            error: refusal.message.clone(),
            stop_asked: false,
        };
        let first = self.report_start(&StartReport::Failed(refusal.clone()));
        self.write_exit(&exit, first);
        self.run.exit = Some(exit);
        if first {
            for client in members(self.clients.which(|role| matches!(role, Role::Attached { .. }))) {
                self.clients.refuse(&self.epoll, client, refusal.clone());
            }
            self.life.phase = Phase::Over;
            self.over = true;
        } else {
            crate::warn!(
                "container `{}` did not start again: {}",
                self.config.name,
                refusal.message
            );
            self.act_on(Input::NotStarted, now);
        }
    }

    /// Whether the monitor must not join the container's network, since the next run's helper begins in the host's; a network
    /// cannot be left again.
    pub(super) fn stays_outside(&self) -> bool {
        self.run.helper.is_some() && self.config.restart != RestartPolicy::No
    }

    /// Ends the helper of the run's network; its ports are free then.
    pub(super) fn network_end(&mut self) {
        if let Some((_, pidfd)) = self.run.helper.take() {
            network::end(&pidfd);
        }
    }

    /// The helper of its network ended by itself. Nobody can bring a network back from inside it: the container ends too, and
    /// whoever looks after it starts it again.
    pub(super) fn network_lost(&mut self, ended: Ended) {
        self.run.helper = None;
        self.run.cut_off = Some(ended);
        self.kill();
    }

    /// The first process ended, and with it all others.
    pub(super) fn run_ended(&mut self, ended: Ended, now: Mono) {
        let Some((process, _)) = self.run.process.take() else {
            return;
        };
        crate::debug!("container `{}`: process {} ended", self.config.name, process.pid);
        self.network_end();
        self.memory_look();
        let signal = match ended {
            Ended::Signal(signal) => Some(signal),
            Ended::Code(_) => None,
        };
        let oom = self.run.oom_kills > 0;
        let ending = if oom && signal == Some(SIGKILL) {
            Ending::Oom
        } else {
            Ending::Exit(ended.code())
        };
        let exit = ExitRecord {
            code: ended.code(),
            signal,
            oom,
            started: self.run.started,
            finished: self.unix(),
            restarts: self.life.restarts.total,
            error: self.run.cut_off.map_or_else(String::new, |how| {
                format!("the helper of its network ended with exit code {}", how.code())
            }),
            stop_asked: self.life.stop_asked,
        };
        self.run.exit = Some(exit.clone());
        self.probe_stop(now);
        self.exec_all_over(now);
        self.emit(What::Exited(exit));
        self.act_on(Input::Ended(ending), now);
        for part in [Part::Output, Part::Error] {
            self.main_output(part, now);
        }
        self.run_tick(now);
    }

    /// Looks whether a run that ended is drained, or has hung in its start.
    pub(super) fn run_tick(&mut self, now: Mono) {
        if self.run.starter.as_ref().is_some_and(|starter| starter.deadline <= now) {
            self.run_failed(
                Refusal::new("the container did not begin in time; one of its mounts may hang"),
                now,
            );
        }
        if !matches!(self.life.phase, Phase::Draining { .. }) {
            return;
        }
        let waits = |role| matches!(role, Role::Attached { foreground: true, .. });
        let patient = self.run.stdio.is_held() && self.clients.which(waits) != 0 && !self.life.is_leaving();
        if !self.run.stdio.is_drained() {
            if patient {
                self.run.drain_until = None;
                return;
            }
            if now < *self.run.drain_until.get_or_insert(now.plus(DRAIN_MS)) {
                return;
            }
        }
        self.run.drain_until = None;
        self.run.stdio.close(&self.epoll);
        let at = unix_ns();
        self.log.end(Stream::Stdout, at);
        self.log.end(Stream::Stderr, at);
        self.act_on(Input::Drained, now);
        if let (true, Some(exit)) = (self.life.phase != Phase::Over, self.run.exit.clone()) {
            self.write_exit(&exit, false);
        }
    }

    /// It ended for good.
    fn finish(&mut self, now: Mono) {
        let mut exit = match self.run.exit.clone() {
            Some(exit) => exit,
            None => return,
        };
        exit.stop_asked = self.life.stop_asked;
        // On the device before anybody is told where a later start depends on it. Else all can read it from now on, and the sync comes
        // after the answer ([`Monitor::leave`]), so that the next version need not wait for it: a power cut in between leaves what stood
        // there while it ran, an end that nobody saw.
        self.write_exit(&exit, self.syncs_first());
        self.write_state();
        self.emit(What::Finished(exit.clone()));
        self.owe_exit(&exit, now);
        for client in members(self.clients.which(|role| role == Role::Stopping)) {
            self.clients
                .answer(&self.epoll, client, &Answer::Exit(exit.clone()), now);
        }
        self.run.exit = Some(exit);
        self.finish_if_settled();
    }

    /// Leaves as soon as every session has got what it is owed.
    pub(super) fn finish_if_settled(&mut self) {
        let owed = self.clients.which(|role| !matches!(role, Role::Subscriber(_)));
        if self.life.phase == Phase::Over && members(owed).all(|client| self.clients.is_settled(client)) {
            self.over = true;
        }
    }

    /// Whether how it ended is on the device before anybody is told. What is removed at once need never be there.
    fn syncs_first(&self) -> bool {
        self.config.cleanup.is_empty() && self.config.restart != RestartPolicy::No
    }

    /// Forces the last word about the container to the device, where that was not done at once.
    pub(super) fn sync_exit(&self) {
        let path = self.config.data_dir.join(wire::EXIT);
        if self.run.ran
            && self.config.cleanup.is_empty()
            && !self.syncs_first()
            && let Err(error) = durable::sync_file(&path)
            && !error.is_missing()
        {
            // Whoever was told may have removed it.
            crate::error!("container `{}`: {error}", self.config.name);
        }
    }

    /// Writes how a run ended: durably where it is the last word. A disk that refuses leaves it in memory.
    fn write_exit(&self, exit: &ExitRecord, durable: bool) {
        let path = self.config.data_dir.join(wire::EXIT);
        let written = if durable {
            record::write(&path, exit)
        } else {
            record::write_volatile(&path, exit)
        };
        if let Err(error) = written {
            crate::error!("container `{}`: {error}", self.config.name);
            if let Err(error) = record::write_volatile(&self.config.run_dir.join(wire::EXIT), exit) {
                crate::error!("container `{}`: {error}", self.config.name);
            }
        }
    }
}

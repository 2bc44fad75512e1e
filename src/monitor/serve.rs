//! What clients ask for.

use super::clients::Role;
use super::life::{Input, Phase};
use super::main::Monitor;
use super::wire::{
    self, Answer, AttachRequest, ExecRequest, FromMonitor, Open, Refusal, Request, Size, StatusReport, ToMonitor, What,
};
use crate::types::time::Mono;

/// Packets taken from one connection in one go, so that it does not starve the others.
const ROUND: usize = 16;
/// The highest signal number.
const SIGNALS: i32 = 64;

/// A frame that was taken out of the buffer it came in.
enum Taken {
    Stdin(usize),
    CloseStdin,
    Resize(Size),
    Signal(i32),
}

impl Monitor {
    /// Something can be read from a connection.
    pub(super) fn client_ready(&mut self, index: usize, now: Mono) {
        for _ in 0..ROUND {
            let mut inbox = std::mem::take(&mut self.inbox);
            let goes_on = match self.clients.receive(index, &mut inbox) {
                None => false,
                Some(0) => {
                    self.drop_client(index, None);
                    false
                }
                Some(got) => {
                    self.take_packet(index, &inbox[..got], now);
                    true
                }
            };
            self.inbox = inbox;
            if !goes_on {
                return;
            }
        }
    }

    /// A connection has room again.
    pub(super) fn client_writable(&mut self, index: usize, now: Mono) {
        let (at, role) = (self.unix(), self.clients.role(index));
        self.clients.settle(&self.epoll, index, now);
        match role {
            Some(Role::Attached { .. }) => {
                self.run.stdio.resume(&self.epoll, &mut self.clients, index, now);
                self.run_tick(now);
            }
            Some(Role::Exec(exec)) => {
                if let Some(stdio) = self.execs.stdio(exec) {
                    stdio.resume(&self.epoll, &mut self.clients, index, now);
                }
                self.exec_progress(exec, now);
            }
            Some(Role::Subscriber(_)) => {
                self.clients.tell_gap(&self.epoll, index, at, now);
            }
            _ => {}
        }
        // The exit comes after what was held back.
        self.clients.settle(&self.epoll, index, now);
        self.finish_if_settled();
    }

    fn take_packet(&mut self, index: usize, packet: &[u8], now: Mono) {
        match self.clients.role(index) {
            None => {}
            Some(Role::Asking(_)) => match wire::decode_versioned::<Request>(packet) {
                Ok(request) => self.take_request(index, request.open, now),
                Err(error) => self.drop_client(index, Some(Refusal::new(error.to_string()))),
            },
            Some(role @ (Role::Attached { .. } | Role::Exec(_))) => {
                let taken = match ToMonitor::decode(packet) {
                    Ok(ToMonitor::Stdin(data)) => Taken::Stdin(data.len()),
                    Ok(ToMonitor::CloseStdin) => Taken::CloseStdin,
                    Ok(ToMonitor::Resize(size)) => Taken::Resize(size),
                    Ok(ToMonitor::Signal(signal)) => Taken::Signal(signal),
                    Err(error) => return self.drop_client(index, Some(Refusal::new(error.to_string()))),
                };
                self.take_frame(index, role, &taken, packet, now);
            }
            Some(Role::Subscriber(_) | Role::Stopping | Role::Probing) => {
                let text = "nothing may be said on this connection before it is answered";
                self.drop_client(index, Some(Refusal::new(text)));
            }
        }
    }

    fn take_frame(&mut self, index: usize, role: Role, taken: &Taken, packet: &[u8], now: Mono) {
        let may_write = !matches!(role, Role::Attached { stdin: false, .. });
        let stdio = match role {
            Role::Exec(exec) => self.execs.stdio(exec),
            _ => Some(&mut self.run.stdio),
        };
        let patient = match (stdio, taken) {
            (Some(stdio), Taken::Stdin(length)) if may_write => {
                let data = &packet[packet.len() - length..];
                stdio.give(&self.epoll, &mut self.clients, index, data, now)
            }
            (Some(stdio), Taken::CloseStdin) if may_write => {
                stdio.close_input(&self.epoll, &mut self.clients, now);
                true
            }
            (Some(stdio), Taken::Resize(size)) => {
                stdio.resize(*size);
                true
            }
            (_, Taken::Signal(signal)) => {
                if (1..=SIGNALS).contains(signal) {
                    match role {
                        Role::Exec(exec) => self.exec_signal(exec, *signal),
                        _ => drop(self.signal_first(*signal)),
                    }
                }
                true
            }
            (_, Taken::Stdin(_)) => {
                self.clients.owe(&self.epoll, index, &FromMonitor::Taken, now);
                true
            }
            _ => true,
        };
        if !patient {
            let text = "input must wait until the input before it was taken";
            self.drop_client(index, Some(Refusal::new(text)));
        }
    }

    fn take_request(&mut self, index: usize, open: Open, now: Mono) {
        let name = &self.config.name;
        let answer = match open {
            Open::Attach(request) => return self.attach(index, request, now),
            Open::Exec(request) => return self.exec(index, request, now),
            Open::Subscribe => {
                let (at, first) = (self.unix(), What::Now(self.state()));
                return self.clients.subscribe(&self.epoll, index, at, first, now);
            }
            Open::Stop { signal, timeout_ms } => return self.stop(index, signal, timeout_ms, now),
            Open::Probe => return self.probe_for(index, now),
            Open::Status => Answer::Status(Box::new(self.status())),
            Open::Collect { exec } => self.exec_collect(exec),
            Open::Pause => self.done(Input::Pause, now),
            Open::Unpause => self.done(Input::Unpause, now),
            Open::Signal { signal, .. } if !(1..=SIGNALS).contains(&signal) => {
                Answer::Refused(Refusal::new(format!("there is no signal {signal}")))
            }
            Open::Signal { signal, all } => {
                let sent = if all {
                    self.group.signal(signal) || self.signal_first(signal)
                } else {
                    self.signal_first(signal)
                };
                match sent {
                    true => Answer::Done,
                    false => Answer::Refused(Refusal::new(format!("container `{name}` does not run"))),
                }
            }
            Open::Limits { limits, asked } => match self.group.update(&limits, &asked) {
                Ok(_) => {
                    (self.config.limits, self.config.asked) = (limits, asked);
                    Answer::Done
                }
                Err(error) => Answer::Refused(Refusal::new(format!("container `{name}`: {error}"))),
            },
            Open::Resize(size) => match self.run.stdio.resize(size) {
                true => Answer::Done,
                false => Answer::Refused(Refusal::new(format!("container `{name}` has no terminal"))),
            },
        };
        self.clients.answer(&self.epoll, index, &answer, now);
    }

    fn done(&mut self, input: Input, now: Mono) -> Answer {
        match self.act(input, now) {
            Ok(()) => Answer::Done,
            Err(why) => Answer::Refused(Refusal::new(format!("container `{}`: {why}", self.config.name))),
        }
    }

    fn stop(&mut self, index: usize, signal: Option<i32>, timeout_ms: Option<u64>, now: Mono) {
        if signal.is_some_and(|signal| !(1..=SIGNALS).contains(&signal)) {
            let text = format!("there is no signal {}", signal.unwrap_or_default());
            return self
                .clients
                .answer(&self.epoll, index, &Answer::Refused(Refusal::new(text)), now);
        }
        if let Some(signal) = signal {
            self.config.stop_signal = signal;
        }
        if let (Phase::Over, Some(exit)) = (self.life.phase, self.run.exit.clone()) {
            return self.clients.answer(&self.epoll, index, &Answer::Exit(exit), now);
        }
        self.clients.set_role(index, Role::Stopping);
        let timeout_ms = timeout_ms.unwrap_or(self.config.stop_timeout_ms);
        self.act_on(
            Input::Stop {
                timeout_ms,
                by_hand: true,
            },
            now,
        );
        self.run_tick(now);
    }

    fn attach(&mut self, index: usize, request: AttachRequest, now: Mono) {
        let AttachRequest {
            stdin,
            stdout,
            stderr,
            foreground,
            size,
        } = request;
        self.clients.set_role(
            index,
            Role::Attached {
                stdin,
                stdout,
                stderr,
                foreground,
            },
        );
        if let Some(size) = size {
            if self.run.ran {
                self.run.stdio.resize(size);
            } else if self.config.tty.is_some() {
                self.config.tty = Some(size);
            }
        }
        if let (true, Some((process, _))) = (self.run.ran, &self.run.process) {
            let pid = process.pid;
            self.clients
                .owe(&self.epoll, index, &FromMonitor::Started { pid, exec: 0 }, now);
        }
    }

    fn exec(&mut self, index: usize, request: ExecRequest, now: Mono) {
        self.clients.set_role(index, Role::Exec(usize::MAX));
        self.exec_for(index, request, now);
    }

    fn status(&self) -> StatusReport {
        StatusReport {
            state: self.state(),
            exit: self.run.exit.clone(),
            probes: self
                .prober
                .iter()
                .flat_map(|prober| prober.records())
                .cloned()
                .collect(),
            oom_kills: self.run.oom_kills,
            log_lost: self.log.lost(),
            execs: self.execs.count(),
        }
    }
}

//! Health checks: exec, HTTP and TCP probes, one at a time, judged by `plan::health`.
//!
//! HTTP and TCP probes are non-blocking connects to the container's loopback: the monitor is in its network namespace, so
//! nothing is forked, unless it must be able to begin another run in a private network.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use super::clients::Role;
use super::exec::For;
use super::http;
use super::life::Phase;
use super::main::Monitor;
use super::network;
use super::stdio::members;
use super::token::Token;
use super::wire::{Answer, ExecRequest, ProbeRecord, Refusal, What};
use crate::plan::health::{Probe, Rules, Window};
use crate::sys::event::{Epoll, Interest};
use crate::sys::socket;
use crate::types::bounds::{PROBE_ANSWER_BYTES, PROBE_OUTPUT_BYTES, PROBES_KEPT};
use crate::types::health::{Health, HealthStatus};
use crate::types::time::{Mono, Unix};

/// Milliseconds that the body of an HTTP answer is waited for once its status is known.
const BODY_MS: u64 = 100;

/// The health check of one container.
#[derive(Debug)]
pub struct Prober {
    health: Health,
    window: Window,
    current: Option<Current>,
    records: heapless::Deque<ProbeRecord, PROBES_KEPT>,
}

/// The probe that runs now.
#[derive(Debug)]
struct Current {
    began: Mono,
    began_at: Unix,
    deadline: Mono,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// It could not even begin.
    Nothing,
    Exec(usize),
    Connect(OwnedFd),
    Http {
        socket: OwnedFd,
        unsent: Vec<u8>,
        answer: Box<heapless::Vec<u8, PROBE_ANSWER_BYTES>>,
    },
}

impl Current {
    /// Takes its socket out of the set: closing alone would not, while a child that is just being made has a copy.
    fn unwatch(&self, epoll: &Epoll) {
        if let Way::Connect(socket) | Way::Http { socket, .. } = &self.way {
            // It was added when the probe began.
            let _ = epoll.remove(socket.as_fd());
        }
    }
}

impl Prober {
    /// Begins to watch a run that began now.
    pub fn new(health: &Health, now: Mono) -> Prober {
        let window = Window::new(Rules::from(health), now);
        Prober {
            health: health.clone(),
            window,
            current: None,
            records: heapless::Deque::new(),
        }
    }

    /// Forgets the judgement: a new run begins. The records stay.
    pub fn restart(&mut self, now: Mono) {
        self.window = Window::new(Rules::from(&self.health), now);
        self.current = None;
    }

    /// The judgement.
    pub fn status(&self) -> HealthStatus {
        self.window.status()
    }

    /// Consecutive failures.
    pub fn failing_streak(&self) -> u32 {
        self.window.failing_streak()
    }

    /// The last probes, oldest first.
    pub fn records(&self) -> impl Iterator<Item = &ProbeRecord> {
        self.records.iter()
    }

    /// When it must be looked at; a new probe only where one may begin.
    pub fn due(&self, may_begin: bool) -> Option<Mono> {
        match &self.current {
            Some(current) => Some(current.deadline),
            None => may_begin.then(|| self.window.due()),
        }
    }
}

impl Monitor {
    /// A client asks for a health check now.
    pub fn probe_for(&mut self, client: usize, now: Mono) {
        let problem = match &self.prober {
            None => "has no health check",
            Some(_) if !self.may_probe() => "does not run, or is paused",
            Some(_) => {
                self.clients.set_role(client, Role::Probing);
                return self.probe_begin(now);
            }
        };
        let answer = Answer::Refused(Refusal::new(format!("container `{}` {problem}", self.config.name)));
        self.clients.answer(&self.epoll, client, &answer, now);
    }

    /// Begins a probe that is due, ends one that takes too long.
    pub fn probe_tick(&mut self, now: Mono) {
        let may_begin = self.may_probe();
        let Some(prober) = &self.prober else { return };
        if prober.due(may_begin).is_none_or(|due| due > now) {
            return;
        }
        match &prober.current {
            None => self.probe_begin(now),
            Some(Current {
                way: Way::Exec(index), ..
            }) => self.exec_probe_timed_out(*index),
            Some(Current {
                way: Way::Connect(_) | Way::Nothing,
                ..
            }) => {
                self.probe_ended(Probe::TimedOut, 1, b"the connection did not come up in time");
            }
            Some(Current {
                way: Way::Http { answer, .. },
                ..
            }) => match http::read(answer, 0) {
                http::Answer::Status(status) | http::Answer::Whole(status) => self.probe_http_ended(Some(status)),
                _ => self.probe_ended(Probe::TimedOut, 1, b"no answer came in time"),
            },
        }
    }

    /// Whether a probe may begin: what is frozen or asked to end is not judged.
    pub fn may_probe(&self) -> bool {
        self.is_running() && self.life.phase == Phase::Running
    }

    fn probe_begin(&mut self, now: Mono) {
        let Some(prober) = &self.prober else { return };
        if prober.current.is_some() {
            return;
        }
        let deadline = now.plus(prober.window.timeout());
        let began_at = self.unix();
        let way = if let Some(args) = &prober.health.exec {
            let request = ExecRequest {
                args: args.clone(),
                ..ExecRequest::default()
            };
            // A little later than the probe's own deadline, which says more.
            self.begin_exec(&request, For::Probe, deadline.plus(1_000))
                .map(Way::Exec)
                .map_err(|refusal| refusal.message)
        } else {
            let http = prober.health.http.as_ref();
            let port = http
                .map(|http| http.port)
                .or(prober.health.tcp.as_ref().map(|tcp| tcp.port))
                .unwrap_or(0);
            let unsent = http.map(|http| http::request(http.port, &http.path));
            self.probe_connect(port)
                .map_err(|error| format!("connect to port {port}: {error}"))
                .map(|socket| match unsent {
                    Some(unsent) => Way::Http {
                        socket,
                        unsent,
                        answer: Box::default(),
                    },
                    None => Way::Connect(socket),
                })
        };
        let Some(prober) = &mut self.prober else { return };
        let (way, problem) = match way {
            Ok(way) => (way, None),
            Err(problem) => (Way::Nothing, Some(problem)),
        };
        prober.current = Some(Current {
            began: now,
            began_at,
            deadline,
            way,
        });
        if let Some(problem) = problem {
            self.probe_ended(Probe::Failed, 1, problem.as_bytes());
        }
    }

    fn probe_connect(&self, port: u16) -> io::Result<OwnedFd> {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let socket = match &self.run.process {
            Some((_, pidfd)) if self.stays_outside() => network::connect_inside(pidfd.as_fd(), to)?,
            _ => socket::tcp_connect(to)?,
        };
        self.epoll.add(socket.as_fd(), Token::Probe.into(), Interest::WRITE)?;
        Ok(socket)
    }

    /// Something happened on the probe's socket.
    pub fn probe_ready(&mut self, now: Mono) {
        let Some(Prober {
            current: Some(current), ..
        }) = &mut self.prober
        else {
            return;
        };
        let failed = |error: io::Error| Err(error.to_string());
        let outcome: Result<Option<u16>, String> = match &mut current.way {
            Way::Exec(_) | Way::Nothing => return,
            Way::Connect(socket) => match socket::take_error(socket.as_fd()) {
                Ok(()) => return self.probe_ended(Probe::Ok, 0, b""),
                Err(error) => failed(error),
            },
            Way::Http { socket, unsent, answer } => match http_step(socket, unsent, answer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let read = unsent.is_empty();
                    let interest = Interest { read, write: !read };
                    // It was added when the probe began.
                    let _ = self.epoll.modify(socket.as_fd(), Token::Probe.into(), interest);
                    if let http::Answer::Status(_) = http::read(answer, PROBE_OUTPUT_BYTES) {
                        current.deadline = current.deadline.min(now.plus(BODY_MS));
                    }
                    return;
                }
                Err(error) => failed(error),
                Ok(status) => Ok(status),
            },
        };
        match outcome {
            Ok(status) => self.probe_http_ended(status),
            Err(text) => self.probe_ended(Probe::Failed, 1, text.as_bytes()),
        }
    }

    fn probe_http_ended(&mut self, status: Option<u16>) {
        let Some(Prober {
            current: Some(Current {
                way: Way::Http { answer, .. },
                ..
            }),
            ..
        }) = &mut self.prober
        else {
            return;
        };
        let answer = std::mem::take(answer);
        match status {
            Some(200..400) => self.probe_ended(Probe::Ok, 0, http::status_line(&answer)),
            Some(_) => self.probe_ended(Probe::Failed, 1, &answer),
            None => self.probe_ended(Probe::Failed, 1, b"what came is not an HTTP answer"),
        }
    }

    /// An exec probe ended; codes of ours mean that it could not be run.
    pub fn exec_probe_ended(&mut self, code: i32, timed_out: bool, said: &[u8]) {
        let result = match (timed_out, code) {
            (true, _) => Probe::TimedOut,
            (false, 0) => Probe::Ok,
            (false, _) => Probe::Failed,
        };
        self.probe_ended(result, code, said);
    }

    fn probe_ended(&mut self, result: Probe, code: i32, said: &[u8]) {
        let (now, ended) = (self.mono(), self.unix());
        let Some(prober) = &mut self.prober else { return };
        let Some(current) = prober.current.take() else { return };
        current.unwatch(&self.epoll);
        let changed = prober.window.observe(result, current.began, now);
        let output = String::from_utf8_lossy(&said[..said.len().min(PROBE_OUTPUT_BYTES)]).into_owned();
        let timed_out = result == Probe::TimedOut;
        let record = ProbeRecord {
            began: current.began_at,
            ended,
            code,
            timed_out,
            output,
        };
        if prober.records.is_full() {
            prober.records.pop_front();
        }
        // There is room now.
        let _ = prober.records.push_back(record.clone());
        let (status, failing_streak) = (prober.status(), prober.failing_streak());
        for client in members(self.clients.which(|role| role == Role::Probing)) {
            self.clients
                .answer(&self.epoll, client, &Answer::Probe(record.clone(), status), now);
        }
        self.emit(What::Probe(record));
        if changed.is_some() {
            self.emit(What::Health { status, failing_streak });
        }
        self.write_state();
    }

    /// The run is over: no probe goes on.
    pub fn probe_stop(&mut self, now: Mono) {
        if let Some(current) = self.prober.as_mut().and_then(|prober| prober.current.take()) {
            current.unwatch(&self.epoll);
        }
        let text = format!("container `{}` ended", self.config.name);
        for client in members(self.clients.which(|role| role == Role::Probing)) {
            self.clients
                .answer(&self.epoll, client, &Answer::Refused(Refusal::new(text.clone())), now);
        }
    }
}

/// Sends what is left of the request, reads what came of the answer. The status when it is complete, `None` when it is no
/// HTTP; `WouldBlock` when more must be waited for.
fn http_step(
    socket: &OwnedFd,
    unsent: &mut Vec<u8>,
    answer: &mut heapless::Vec<u8, PROBE_ANSWER_BYTES>,
) -> io::Result<Option<u16>> {
    if !unsent.is_empty() {
        socket::take_error(socket.as_fd())?;
        while !unsent.is_empty() {
            let sent = socket::write(socket.as_fd(), unsent)?;
            unsent.drain(..sent);
        }
    }
    let mut buffer = [0; 1024];
    loop {
        let room = (PROBE_ANSWER_BYTES - answer.len()).min(buffer.len());
        let got = match room {
            0 => 0,
            room => socket::read(socket.as_fd(), &mut buffer[..room])?,
        };
        // Cut to the room there is.
        let _ = answer.extend_from_slice(&buffer[..got]);
        match (http::read(answer, PROBE_OUTPUT_BYTES), got) {
            (http::Answer::Whole(status), _) | (http::Answer::Status(status), 0) => return Ok(Some(status)),
            (http::Answer::Malformed, _) | (http::Answer::More, 0) => return Ok(None),
            (http::Answer::More | http::Answer::Status(_), _) => {}
        }
    }
}

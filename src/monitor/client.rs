//! The client side of a monitor's socket: requests, event streams, sessions, and the relay between a session and a
//! terminal or pipes.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::wire::{
    self, Answer, AttachRequest, DATA_BYTES, Event, ExecRequest, FromMonitor, Open, PACKET_BYTES, ProbeRecord, Refusal,
    Request, Size, StatusReport, ToMonitor, WireError,
};
use crate::sys::event::{self, Interest, Poll, SignalFd};
use crate::sys::{socket, tty};
use crate::types::container::ExitRecord;
use crate::types::health::HealthStatus;
use crate::types::limits::{LimitKind, Limits};

/// How long a connection and an ordinary answer may take.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Time on top of a stop time-out or a probe's, for the kill and for what is still in the pipes.
pub const GRACE: Duration = Duration::from_secs(20);

/// Why a monitor did not answer as wished.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: the container does not run (any more).
    #[error("no monitor answers at `{path}`: the container does not run")]
    NotRunning {
        /// Its socket.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("{action} the monitor at `{path}`: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Its run directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// It did not answer in time.
    #[error("the monitor at `{path}` did not answer within {seconds} s")]
    TimedOut {
        /// Its run directory.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// It left before it answered.
    #[error("the monitor at `{path}` left before it answered")]
    Gone {
        /// Its run directory.
        path: PathBuf,
    },
    /// It said something else than an answer to the question.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A connection to one monitor.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    path: PathBuf,
}

/// Connects to the monitor of the container with this run directory (`<runroot>/c/ID`).
pub fn connect(run_dir: &Path) -> Result<Connection, ClientError> {
    let path = run_dir.to_owned();
    let fail = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning {
            path: run_dir.join(wire::SOCKET),
        },
        _ => ClientError::Io {
            action: "connect to",
            path: run_dir.to_owned(),
            source,
        },
    };
    let dir = File::open(run_dir).map_err(fail)?;
    let socket = socket::connect_at(dir.as_fd(), wire::SOCKET, PATIENCE).map_err(fail)?;
    Ok(Connection { socket, path })
}

impl Connection {
    fn io(&self, action: &'static str) -> impl Fn(io::Error) -> ClientError {
        let path = self.path.clone();
        move |source| match source.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ClientError::Gone { path: path.clone() },
            io::ErrorKind::WouldBlock => ClientError::TimedOut {
                path: path.clone(),
                seconds: PATIENCE.as_secs(),
            },
            _ => ClientError::Io {
                action,
                path: path.clone(),
                source,
            },
        }
    }

    /// Sends a request without waiting for its answer.
    pub fn ask(&self, open: Open) -> Result<(), ClientError> {
        let packet = wire::encode(&Request {
            version: wire::VERSION,
            open,
        })?;
        socket::send(self.socket.as_fd(), &packet).map_err(self.io("ask"))
    }

    /// Waits for the answer to the oldest request.
    pub fn answer(&self, patience: Duration) -> Result<Answer, ClientError> {
        if !socket::wait_readable(self.socket.as_fd(), patience).map_err(self.io("wait for"))? {
            return Err(ClientError::TimedOut {
                path: self.path.clone(),
                seconds: patience.as_secs(),
            });
        }
        let mut buffer = vec![0; PACKET_BYTES];
        let got = socket::recv(self.socket.as_fd(), &mut buffer).map_err(self.io("hear"))?;
        if got == 0 {
            return Err(ClientError::Gone {
                path: self.path.clone(),
            });
        }
        match wire::decode(&buffer[..got])? {
            Answer::Refused(refusal) => Err(refusal.into()),
            answer => Ok(answer),
        }
    }

    fn request(&self, open: Open, patience: Duration) -> Result<Answer, ClientError> {
        self.ask(open)?;
        self.answer(patience)
    }

    fn done(&self, open: Open) -> Result<(), ClientError> {
        match self.request(open, PATIENCE)? {
            Answer::Done => Ok(()),
            _ => Err(WireError::Malformed(0).into()),
        }
    }

    /// All that the monitor knows.
    pub fn status(&self) -> Result<StatusReport, ClientError> {
        match self.request(Open::Status, PATIENCE)? {
            Answer::Status(report) => Ok(*report),
            _ => Err(WireError::Malformed(0).into()),
        }
    }

    /// Sends a signal to the first process, or to all.
    pub fn signal(&self, signal: i32, all: bool) -> Result<(), ClientError> {
        self.done(Open::Signal { signal, all })
    }

    /// Ends the container: signal, wait, kill. `wait` is what the caller knows of the time-out, for its own patience.
    pub fn stop(
        &self,
        signal: Option<i32>,
        timeout_ms: Option<u64>,
        wait: Duration,
    ) -> Result<ExitRecord, ClientError> {
        match self.request(Open::Stop { signal, timeout_ms }, wait.saturating_add(GRACE))? {
            Answer::Exit(exit) => Ok(exit),
            _ => Err(WireError::Malformed(0).into()),
        }
    }

    /// Freezes it.
    pub fn pause(&self) -> Result<(), ClientError> {
        self.done(Open::Pause)
    }

    /// Thaws it.
    pub fn unpause(&self) -> Result<(), ClientError> {
        self.done(Open::Unpause)
    }

    /// Sets the size of the container's terminal.
    pub fn resize(&self, size: Size) -> Result<(), ClientError> {
        self.done(Open::Resize(size))
    }

    /// Sets other limits.
    pub fn limits(&self, limits: Limits, asked: Vec<LimitKind>) -> Result<(), ClientError> {
        self.done(Open::Limits { limits, asked })
    }

    /// Runs one health check, which may take `timeout`.
    pub fn probe(&self, timeout: Duration) -> Result<(ProbeRecord, HealthStatus), ClientError> {
        match self.request(Open::Probe, timeout.saturating_add(GRACE))? {
            Answer::Probe(record, status) => Ok((record, status)),
            _ => Err(WireError::Malformed(0).into()),
        }
    }

    /// The exit code of a detached exec, `None` while it runs.
    pub fn collect(&self, exec: u32) -> Result<Option<i32>, ClientError> {
        match self.request(Open::Collect { exec }, PATIENCE)? {
            Answer::Exec(code) => Ok(code),
            _ => Err(WireError::Malformed(0).into()),
        }
    }

    /// Becomes a stream of events; the first one is [`wire::What::Now`].
    pub fn subscribe(self) -> Result<Events, ClientError> {
        self.ask(Open::Subscribe)?;
        Ok(Events {
            connection: self,
            buffer: vec![0; PACKET_BYTES],
        })
    }

    /// Becomes a session on the container's own stdio.
    pub fn attach(self, request: AttachRequest) -> Result<Session, ClientError> {
        self.ask(Open::Attach(request))?;
        Session::new(self)
    }

    /// Becomes a session on a further process in the container.
    pub fn exec(self, request: ExecRequest) -> Result<Session, ClientError> {
        self.ask(Open::Exec(request))?;
        Session::new(self)
    }
}

/// A session for a container that is not started yet, and the descriptor that goes with the start request.
pub fn prepare_attach(request: AttachRequest, run_dir: &Path) -> Result<(Session, OwnedFd), ClientError> {
    let io = |source| ClientError::Io {
        action: "prepare",
        path: run_dir.to_owned(),
        source,
    };
    let (ours, theirs) = socket::pair().map_err(io)?;
    let session = Connection {
        socket: ours,
        path: run_dir.to_owned(),
    }
    .attach(request)?;
    Ok((session, theirs))
}

/// A stream of events.
#[derive(Debug)]
pub struct Events {
    connection: Connection,
    buffer: Vec<u8>,
}

impl Events {
    /// The next event; `None` when the monitor is gone. Waits at most `patience` (then [`ClientError::TimedOut`]).
    pub fn next(&mut self, patience: Option<Duration>) -> Result<Option<Event>, ClientError> {
        let Self { connection, buffer } = self;
        match receive(connection, buffer, patience)? {
            0 => Ok(None),
            got => Ok(Some(wire::decode(&buffer[..got])?)),
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.socket.as_fd()
    }
}

/// One packet; 0 when the monitor is gone.
fn receive(connection: &Connection, buffer: &mut [u8], patience: Option<Duration>) -> Result<usize, ClientError> {
    let mut poll = [Poll::new(Some(connection.socket.as_fd()), Interest::READ)];
    let deadline = patience.map(|patience| Instant::now() + patience);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        event::poll(&mut poll, left).map_err(connection.io("wait for"))?;
        if poll[0].ready.read || poll[0].ready.hangup {
            let got = match socket::recv(connection.socket.as_fd(), buffer) {
                // It left something of ours unread. That is told once, and first; what it said before can still be read.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    socket::recv(connection.socket.as_fd(), buffer)
                }
                got => got,
            };
            return got.map_err(connection.io("hear"));
        }
        if left.is_some_and(|left| left.is_zero()) {
            let seconds = patience.unwrap_or_default().as_secs();
            return Err(ClientError::TimedOut {
                path: connection.path.clone(),
                seconds,
            });
        }
    }
}

/// A session on the stdio of a process in the container.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    buffer: Vec<u8>,
}

/// What a relay works with.
#[derive(Debug, Default)]
pub struct Ends<'a> {
    /// Read and sent as input, until its end.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Gets standard output.
    pub stdout: Option<BorrowedFd<'a>>,
    /// Gets standard error.
    pub stderr: Option<BorrowedFd<'a>>,
    /// Signals to forward; `SIGWINCH` (28) becomes a resize to the size of `terminal`.
    pub signals: Option<&'a SignalFd>,
    /// Signals other than `SIGWINCH` are not forwarded but end the session without ending the process.
    pub leave_on_signal: bool,
    /// The client's terminal.
    pub terminal: Option<BorrowedFd<'a>>,
    /// Bytes typed one after another that end the session without ending the process; empty for none.
    pub detach_keys: &'a [u8],
}

/// How a relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The process ended.
    Exited {
        /// Exit code, 128 + signal for a signal.
        code: i32,
        /// The signal, when one ended it.
        signal: Option<i32>,
        /// The kernel killed it for memory.
        oom: bool,
    },
    /// The detach keys were typed.
    Detached,
    /// Our own standard output or error was closed by its reader; the process goes on.
    OutputClosed,
    /// A signal came that is not forwarded; the process goes on.
    Signalled(i32),
}

/// Bytes that a pipe which says it has room takes at once (`PIPE_BUF`).
const PIPE_ROOM: usize = 4096;
/// `SIGWINCH`.
const WINDOW_CHANGED: i32 = 28;

impl Session {
    fn new(connection: Connection) -> Result<Session, ClientError> {
        socket::set_timeouts(connection.socket.as_fd(), None).map_err(connection.io("prepare"))?;
        Ok(Session {
            connection,
            buffer: vec![0; PACKET_BYTES],
        })
    }

    /// Sends one frame; waits while the monitor does not read.
    pub fn send(&self, frame: &ToMonitor<'_>) -> Result<(), ClientError> {
        socket::send(self.connection.socket.as_fd(), &frame.encode()).map_err(self.connection.io("tell"))
    }

    /// The same while frames are read: a monitor that is gone has said before why, and that is read next.
    fn pass(&self, frame: &ToMonitor<'_>) -> Result<(), ClientError> {
        match self.send(frame) {
            Err(ClientError::Gone { .. }) => Ok(()),
            sent => sent,
        }
    }

    /// The next frame; `None` when the monitor is gone. Waits at most `patience` (then [`ClientError::TimedOut`]).
    pub fn next(&mut self, patience: Option<Duration>) -> Result<Option<FromMonitor<'_>>, ClientError> {
        let got = receive(&self.connection, &mut self.buffer, patience)?;
        if got == 0 {
            Ok(None)
        } else {
            Ok(Some(FromMonitor::decode(&self.buffer[..got])?))
        }
    }

    /// Waits for the session to open: the process's id and, for an exec, its number.
    pub fn started(&mut self, patience: Duration) -> Result<(i32, u32), ClientError> {
        let path = self.connection.path.clone();
        match self.next(Some(patience))? {
            Some(FromMonitor::Started { pid, exec }) => Ok((pid, exec)),
            Some(FromMonitor::Failed(refusal)) => Err(refusal.into()),
            Some(_) => Err(WireError::Malformed(0).into()),
            None => Err(ClientError::Gone { path }),
        }
    }

    /// Waits until the monitor and the clean-up that it became are gone.
    pub fn wait_closed(&mut self, patience: Duration) -> Result<(), ClientError> {
        let deadline = Instant::now() + patience;
        while self
            .next(Some(deadline.saturating_duration_since(Instant::now())))?
            .is_some()
        {}
        Ok(())
    }

    /// Copies input, output, signals and window sizes until the process ends.
    pub fn relay(&mut self, ends: &Ends<'_>) -> Result<Ended, ClientError> {
        let mut relay = Relay {
            input: ends.stdin,
            credit: true,
            matched: 0,
        };
        loop {
            let readable = relay.input.filter(|_| relay.credit);
            let mut poll = [
                Poll::new(Some(self.connection.socket.as_fd()), Interest::READ),
                Poll::new(readable, Interest::READ),
                Poll::new(ends.signals.map(|signals| signals.as_fd()), Interest::READ),
            ];
            event::poll(&mut poll, None).map_err(self.connection.io("wait for"))?;
            let [packet, input, signal] = poll.map(|one| one.ready.read || one.ready.hangup);
            if signal && let Some(ended) = self.forward_signals(ends)? {
                return Ok(ended);
            }
            if input && relay.send_input(self, ends.detach_keys)? {
                return Ok(Ended::Detached);
            }
            if packet && let Some(ended) = self.take_frame(ends, &mut relay)? {
                return Ok(ended);
            }
        }
    }

    fn forward_signals(&self, ends: &Ends<'_>) -> Result<Option<Ended>, ClientError> {
        let Some(signals) = ends.signals else { return Ok(None) };
        while let Ok(Some(signal)) = signals.read() {
            if signal.number != WINDOW_CHANGED {
                if ends.leave_on_signal {
                    return Ok(Some(Ended::Signalled(signal.number)));
                }
                self.pass(&ToMonitor::Signal(signal.number))?;
            } else if let Some(size) = ends.terminal.and_then(|fd| tty::window_size(fd).ok()) {
                self.pass(&ToMonitor::Resize(Size {
                    rows: size.rows,
                    cols: size.cols,
                }))?;
            }
        }
        Ok(None)
    }

    /// Handles one frame; `Some` when the session is over.
    fn take_frame(&mut self, ends: &Ends<'_>, relay: &mut Relay<'_>) -> Result<Option<Ended>, ClientError> {
        let got = receive(&self.connection, &mut self.buffer, None)?;
        if got == 0 {
            return Err(ClientError::Gone {
                path: self.connection.path.clone(),
            });
        }
        let (to, data) = match FromMonitor::decode(&self.buffer[..got])? {
            FromMonitor::Stdout(data) => (ends.stdout, data),
            FromMonitor::Stderr(data) => (ends.stderr, data),
            FromMonitor::Taken => {
                relay.credit = true;
                return Ok(None);
            }
            FromMonitor::Started { .. } => return Ok(None),
            FromMonitor::Failed(refusal) => return Err(refusal.into()),
            FromMonitor::Exited { code, signal, oom } => return Ok(Some(Ended::Exited { code, signal, oom })),
        };
        let Some(to) = to else { return Ok(None) };
        let mut rest = data;
        while !rest.is_empty() {
            let signals = ends.signals.map(|signals| signals.as_fd());
            let mut poll = [Poll::new(Some(to), Interest::WRITE), Poll::new(signals, Interest::READ)];
            event::poll(&mut poll, None).map_err(self.connection.io("write for"))?;
            if poll[1].ready.read
                && let Some(ended) = self.forward_signals(ends)?
            {
                return Ok(Some(ended));
            }
            if !poll[0].ready.write && !poll[0].ready.hangup {
                continue;
            }
            match socket::write(to, &rest[..rest.len().min(PIPE_ROOM)]) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Ok(Some(Ended::OutputClosed)),
            }
        }
        Ok(None)
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.socket.as_fd()
    }
}

/// The input side of a relay.
struct Relay<'a> {
    input: Option<BorrowedFd<'a>>,
    credit: bool,
    /// Detach keys seen and held back so far.
    matched: usize,
}

impl Relay<'_> {
    /// Sends what can be read now; `true` when the detach keys were typed.
    fn send_input(&mut self, session: &Session, keys: &[u8]) -> Result<bool, ClientError> {
        let Some(input) = self.input else { return Ok(false) };
        let mut buffer = [0; DATA_BYTES];
        // Held-back keys may have to go out in front of what is read.
        let room = DATA_BYTES - keys.len().min(DATA_BYTES / 2);
        let got = match socket::read(input, &mut buffer[..room]) {
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(_) => 0,
        };
        if got == 0 {
            self.input = None;
            session.pass(&ToMonitor::CloseStdin)?;
            return Ok(false);
        }
        let (data, detached) = filter_keys(&buffer[..got], keys, &mut self.matched);
        if !data.is_empty() {
            session.pass(&ToMonitor::Stdin(&data))?;
            self.credit = false;
        }
        Ok(detached)
    }
}

/// Takes the detach keys out of `input`: what is left to send, and whether all keys were typed. `matched` counts keys
/// that were held back before.
fn filter_keys(input: &[u8], keys: &[u8], matched: &mut usize) -> (Vec<u8>, bool) {
    let mut out = Vec::with_capacity(input.len() + keys.len());
    for &byte in input {
        if keys.is_empty() {
            out.push(byte);
            continue;
        }
        if byte == keys[*matched] {
            *matched += 1;
            if *matched == keys.len() {
                *matched = 0;
                return (out, true);
            }
            continue;
        }
        out.extend_from_slice(&keys[..*matched]);
        *matched = usize::from(byte == keys[0] && keys.len() > 1);
        if *matched == 0 {
            out.push(byte);
        }
    }
    (out, false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn detach_keys_are_found_across_reads_and_never_lost() {
        let keys = [16, 17];
        for (reads, sent, detached) in [
            (vec![&b"abc"[..]], &b"abc"[..], false),
            (vec![&[b'a', 16, 17, b'b'][..]], b"a", true),
            (vec![&[16][..], &[17][..]], b"", true),
            (vec![&[16][..], b"x"], &[16, b'x'], false),
            (vec![&[16, 16, 17][..]], &[16], true),
            (vec![&[17, 16][..]], &[17], false),
        ] {
            let mut matched = 0;
            let mut all = Vec::new();
            let mut found = false;
            for read in reads {
                let (data, now) = filter_keys(read, &keys, &mut matched);
                all.extend(data);
                found |= now;
            }
            assert_eq!((&all[..], found), (sent, detached));
        }
        assert_eq!(filter_keys(&[16, 17], &[], &mut 0), (vec![16, 17], false));
    }

    #[test]
    fn a_monitor_that_is_gone_is_heard_to_its_last_word() {
        let exited = FromMonitor::Exited {
            code: 7,
            signal: None,
            oom: false,
        };
        // Whether it left something of ours unread, and whether more is to be sent to it.
        for (unread, input) in [(false, false), (false, true), (true, false), (true, true)] {
            let (ours, theirs) = socket::pair().unwrap();
            let path = PathBuf::from("c");
            let mut session = Session::new(Connection { socket: ours, path }).unwrap();
            if unread {
                session.send(&ToMonitor::Stdin(b"unread")).unwrap();
            }
            socket::send(theirs.as_fd(), &exited.encode()).unwrap();
            drop(theirs);
            let typed = File::open("/dev/zero").unwrap();
            let ends = Ends {
                stdin: input.then(|| typed.as_fd()),
                ..Ends::default()
            };
            let ended = session.relay(&ends).unwrap();
            assert!(
                matches!(ended, Ended::Exited { code: 7, .. }),
                "{unread} {input}: {ended:?}"
            );
            assert!(session.next(Some(PATIENCE)).unwrap().is_none());
        }
    }

    #[test]
    fn a_missing_monitor_is_named() {
        let dir = std::env::temp_dir().join(format!("dunlin-client-{}", std::process::id()));
        assert!(matches!(connect(&dir), Err(ClientError::NotRunning { .. })));
        std::fs::create_dir_all(&dir).unwrap();
        assert!(matches!(connect(&dir), Err(ClientError::NotRunning { .. })));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

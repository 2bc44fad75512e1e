//! What is said on a monitor's sockets.
//!
//! **Start.** The keeper hands a fresh monitor a packet socket (`dunlin monitor --fd N`). The first packet on it is a
//! [`MonitorConfig`], which may carry one descriptor: a connected packet socket whose other end already sent an
//! [`Open::Attach`], so that the starter sees the first byte. The monitor answers with one [`StartReport`] and closes
//! the socket.
//!
//! **Connections** to `<runroot>/c/ID/monitor.sock`. Every packet from a client is at first a [`Request`]; the answer to
//! each is one [`Answer`]. [`Open::Attach`] and [`Open::Exec`] turn the connection into a session of [`ToMonitor`] and
//! [`FromMonitor`] frames, [`Open::Subscribe`] into a stream of [`Event`]s. A packet that is not understood is answered
//! with [`Answer::Refused`] and ends the connection.
//!
//! **Frames** are one tag byte and a body: raw bytes for data, postcard for the rest. Standard input is sent stop and
//! wait: after each [`ToMonitor::Stdin`] the client waits for [`FromMonitor::Taken`] before it sends the next, so that
//! signals and sizes are never stuck behind input that nobody reads. Output is sent as fast as the client reads.

use std::path::PathBuf;

use crate::runtime::cgroup::Tree;
use crate::types::container::{ExitRecord, LogLimits, MonitorState, RestartPolicy};
use crate::types::health::{Health, HealthStatus};
use crate::types::idmap::IdMap;
use crate::types::ids::ContainerId;
use crate::types::limits::{LimitKind, Limits};
use crate::types::time::Unix;

/// Version of everything in this file; other versions are refused by name.
pub const VERSION: u16 = 1;

/// Name of the socket in a container's run directory.
pub const SOCKET: &str = "monitor.sock";
/// Name of the [`MonitorState`] record in a container's run directory.
pub const STATE: &str = "state";
/// Name of the [`ExitRecord`] in a container's data directory.
pub const EXIT: &str = "exit";
/// Name of the log directory in a container's data directory.
pub const LOG: &str = "log";
/// From a container's run-time folder: the file that is there while the disk is at its reserve (`disk::layout`).
pub const FULL: &str = "../../full";
/// From the same folder: the file of what happened.
pub const EVENTS: &str = "../../events";

/// Bytes of data in one frame at the most.
pub const DATA_BYTES: usize = 8 << 10;
/// Bytes of a packet on a monitor's socket at the most.
pub const PACKET_BYTES: usize = crate::types::bounds::PACKET_BYTES;

/// All that a monitor must know. Paths are absolute, in the keeper's mount namespace.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct MonitorConfig {
    /// [`VERSION`], [`NETWORK_VERSION`] or [`HANDED_VERSION`].
    pub version: u16,
    /// The container.
    pub id: ContainerId,
    /// Its name when it was started, for messages.
    pub name: String,
    /// Directory of its OCI bundle (`config.json`).
    pub bundle: PathBuf,
    /// `<data>/containers/ID`: exit record and logs.
    pub data_dir: PathBuf,
    /// `<runroot>/c/ID`: socket and state; exists, mode 0700.
    pub run_dir: PathBuf,
    /// The root file system.
    pub root: Root,
    /// Id map of the container's user namespace, seen from the store's.
    pub id_map: IdMap,
    /// `USER[:GROUP]` by name or number; empty is root.
    pub user: String,
    /// The store's control groups; the keeper puts its own here.
    pub tree: Tree,
    /// Limits in force.
    pub limits: Limits,
    /// Which of them were asked for, so that they must be enforced.
    pub asked: Vec<LimitKind>,
    /// A terminal is made.
    pub tty: Option<Size>,
    /// Standard input stays open for who attaches.
    pub stdin: bool,
    /// Bounds of the logs.
    pub log: LogLimits,
    /// The health check.
    pub health: Option<Health>,
    /// When the monitor starts it again; [`RestartPolicy::No`] for apps.
    pub restart: RestartPolicy,
    /// Signal that asks it to end.
    pub stop_signal: i32,
    /// How long it may take to end before it is killed, milliseconds.
    pub stop_timeout_ms: u64,
    /// Shares the host's network: nothing to join for probes.
    pub host_network: bool,
    /// Arguments (without the program's name) for our own binary, which the monitor becomes when the container has
    /// ended for good: the clean-up of `--rm`. Empty: it just leaves.
    pub cleanup: Vec<String>,
}

/// A root file system.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Root {
    /// Layers and a writable directory.
    Overlay {
        /// Layers, topmost first.
        lowers: Vec<PathBuf>,
        /// The writable layer.
        upper: PathBuf,
        /// overlayfs's work directory, on the same file system.
        work: PathBuf,
        /// Where it is mounted.
        target: PathBuf,
    },
    /// A plain directory.
    Flat(PathBuf),
}

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

/// How a start went.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum StartReport {
    /// The container's program runs.
    Started {
        /// The container's first process, in the keeper's pid namespace.
        pid: i32,
        /// The monitor itself.
        monitor: i32,
    },
    /// It does not, and nothing of it is left.
    Failed(Refusal),
}

/// An error across a socket.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Exit code for the command line: 125 ours, 126 cannot be invoked, 127 not found.
    pub code: u8,
    /// What failed, on what, and what to do.
    pub message: String,
}

impl Refusal {
    /// An error of ours, exit code 125.
    pub fn new(message: impl Into<String>) -> Refusal {
        Refusal {
            code: 125,
            message: message.into(),
        }
    }
}

/// One packet from a client that is not in a session.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Request {
    /// [`VERSION`].
    pub version: u16,
    /// What is wanted.
    pub open: Open,
}

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Open {
    /// Become a session on the container's own stdio.
    Attach(AttachRequest),
    /// Become a session on a further process in the container.
    Exec(ExecRequest),
    /// Become a stream of events, from now on.
    Subscribe,
    /// Answer [`Answer::Status`].
    Status,
    /// Send a signal to the container's first process, or to all of its processes. Answers [`Answer::Done`].
    Signal {
        /// 1 to 64.
        signal: i32,
        /// Everything in its cgroup.
        all: bool,
    },
    /// End it for good: signal, wait, kill. Answers [`Answer::Exit`] when it has ended.
    Stop {
        /// Instead of its stop signal.
        signal: Option<i32>,
        /// Instead of its stop time-out; 0 kills at once.
        timeout_ms: Option<u64>,
    },
    /// Freeze. Answers [`Answer::Done`].
    Pause,
    /// Thaw. Answers [`Answer::Done`].
    Unpause,
    /// Run one health check now. Answers [`Answer::Probe`] when it is judged.
    Probe,
    /// Set the size of the container's terminal. Answers [`Answer::Done`].
    Resize(Size),
    /// The status of a detached exec. Answers [`Answer::Exec`]; an ended one is forgotten then.
    Collect {
        /// Its number, from [`FromMonitor::Started`].
        exec: u32,
    },
    /// Set other limits, for this run and those that the monitor begins after it. Answers [`Answer::Done`].
    Limits {
        /// All of them.
        limits: Limits,
        /// Those that must be enforced.
        asked: Vec<LimitKind>,
    },
}

/// Which of the container's stdio a session is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AttachRequest {
    /// May send input; when the session ends by [`ToMonitor::CloseStdin`], the container's input is closed.
    pub stdin: bool,
    /// Wants standard output (the terminal's output).
    pub stdout: bool,
    /// Wants standard error.
    pub stderr: bool,
    /// A foreground runner: the container waits for it as for a pipe, without a stall limit.
    pub foreground: bool,
    /// Size of the client's terminal.
    pub size: Option<Size>,
}

/// A further process in the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ExecRequest {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`, on top of the container's.
    pub env: Vec<String>,
    /// Absolute working directory; the container's otherwise.
    pub cwd: Option<String>,
    /// `USER[:GROUP]`; the container's otherwise.
    pub user: Option<String>,
    /// A terminal of this size is made.
    pub tty: Option<Size>,
    /// The client will send input; otherwise it is empty.
    pub stdin: bool,
    /// With all capabilities of the container's namespace.
    pub privileged: bool,
    /// Goes on without the client: after [`FromMonitor::Started`] the session is over, output is dropped, and the status
    /// is kept for [`Open::Collect`].
    pub detach: bool,
}

/// An answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Answer {
    /// Carried out.
    Done,
    /// Not carried out, and why.
    Refused(Refusal),
    /// All that the monitor knows.
    Status(Box<StatusReport>),
    /// It ended.
    Exit(ExitRecord),
    /// A probe and the judgement after it.
    Probe(ProbeRecord, HealthStatus),
    /// A detached exec: running (`None`) or its exit code.
    Exec(Option<i32>),
}

/// All that the monitor knows.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StatusReport {
    /// As in the state file.
    pub state: MonitorState,
    /// How the last run ended, when one did under this monitor.
    pub exit: Option<ExitRecord>,
    /// The last probes, oldest first.
    pub probes: Vec<ProbeRecord>,
    /// Processes that the kernel killed for memory in the current run.
    pub oom_kills: u64,
    /// Bytes of output that could not be written to the logs.
    pub log_lost: u64,
    /// Execs that run now.
    pub execs: u32,
}

/// One health probe.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProbeRecord {
    /// When it began.
    pub began: Unix,
    /// When it ended.
    pub ended: Unix,
    /// Exit code of an exec probe; 0 or 1 for the others, as podman has it.
    pub code: i32,
    /// It took too long.
    pub timed_out: bool,
    /// The first bytes of what it said (500 at the most).
    pub output: String,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Event {
    /// Counts up by one from the monitor's start; a hole is told by [`What::Gap`].
    pub seq: u64,
    /// When.
    pub at: Unix,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum What {
    /// The first event of every subscription: the state as it is.
    Now(MonitorState),
    /// A run began.
    Started {
        /// The container's first process.
        pid: i32,
        /// How often it was started again before.
        restarts: u32,
    },
    /// A run ended.
    Exited(ExitRecord),
    /// The kernel killed for memory in it.
    Oom {
        /// How often so far, in this run.
        kills: u64,
    },
    /// Health was judged anew.
    Health {
        /// The judgement.
        status: HealthStatus,
        /// Consecutive failed probes.
        failing_streak: u32,
    },
    /// A probe ended.
    Probe(ProbeRecord),
    /// The next run begins after a wait.
    Restarting {
        /// The wait, milliseconds.
        after_ms: u64,
        /// How often it was started again, this time included.
        restarts: u32,
    },
    /// Frozen.
    Paused,
    /// Thawed.
    Unpaused,
    /// It ended for good; the monitor leaves.
    Finished(ExitRecord),
    /// The subscriber was too slow for so many events, which it did not get.
    Gap {
        /// How many.
        lost: u64,
    },
}

/// A frame to the monitor in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToMonitor<'a> {
    /// Input, 1 to [`DATA_BYTES`] bytes. Wait for [`FromMonitor::Taken`].
    Stdin(&'a [u8]),
    /// End of input.
    CloseStdin,
    /// The client's terminal has this size.
    Resize(Size),
    /// A signal for the session's process.
    Signal(i32),
}

/// A frame from the monitor in a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromMonitor<'a> {
    /// Output.
    Stdout(&'a [u8]),
    /// Error output.
    Stderr(&'a [u8]),
    /// The input was written (or there is nobody to read it): the next may come.
    Taken,
    /// The session is open (attach), or the process runs (exec).
    Started {
        /// The process.
        pid: i32,
        /// Number of an exec, for [`Open::Collect`]; 0 for an attach.
        exec: u32,
    },
    /// It could not be opened, or the client was too slow and was cut off.
    Failed(Refusal),
    /// The session's process ended; all output came before. With clean-up to do, the connection stays open until that
    /// is done.
    Exited {
        /// Exit code, 128 + signal for a signal.
        code: i32,
        /// The signal, when one ended it.
        signal: Option<i32>,
        /// The kernel killed it for memory.
        oom: bool,
    },
}

/// Bytes that are no packet of this protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Another version.
    #[error(
        "version {0} of the monitor's protocol is not spoken here, only {VERSION}; use the `dunlin` that started it"
    )]
    Version(u16),
    /// Not decodable.
    #[error("a packet of {0} bytes on the monitor's socket is not understood")]
    Malformed(usize),
    /// Too large.
    #[error("a request of {0} bytes is larger than {PACKET_BYTES}; shorten its arguments or environment")]
    Large(usize),
}

/// Encodes one packet that is not a frame.
pub fn encode<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, WireError> {
    let bytes = postcard::to_allocvec(value).map_err(|_| WireError::Malformed(0))?;
    if bytes.len() > PACKET_BYTES {
        Err(WireError::Large(bytes.len()))
    } else {
        Ok(bytes)
    }
}

/// Decodes one whole packet that is not a frame.
pub fn decode<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, WireError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(WireError::Malformed(bytes.len())),
    }
}

/// [`VERSION`] of a start whose bundle holds a network's plan, which monitors before did not read.
pub const NETWORK_VERSION: u16 = 2;

/// [`VERSION`] of a start that more than a session comes along with (`monitor::handed`), or whose bundle says what monitors
/// before did not do: `USER` with names of further groups, weights of block devices.
pub const HANDED_VERSION: u16 = 3;

/// Decodes a [`MonitorConfig`]: with or without a network's plan.
pub fn decode_config(bytes: &[u8]) -> Result<MonitorConfig, WireError> {
    match postcard::take_from_bytes::<u16>(bytes) {
        Ok((NETWORK_VERSION | HANDED_VERSION, _)) => decode(bytes),
        _ => decode_versioned(bytes),
    }
}

/// Decodes a packet that begins with the version: [`Request`] and [`MonitorConfig`].
pub fn decode_versioned<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, WireError> {
    match postcard::take_from_bytes::<u16>(bytes) {
        Ok((VERSION, _)) => decode(bytes),
        Ok((other, _)) => Err(WireError::Version(other)),
        Err(_) => Err(WireError::Malformed(bytes.len())),
    }
}

/// Tag of a frame with standard input.
const STDIN: u8 = 1;
const CLOSE_STDIN: u8 = 2;
const RESIZE: u8 = 3;
const SIGNAL: u8 = 4;
/// Tag of a frame with standard output.
pub const STDOUT: u8 = 17;
/// Tag of a frame with standard error.
pub const STDERR: u8 = 18;
const TAKEN: u8 = 19;
const STARTED: u8 = 20;
const FAILED: u8 = 21;
const EXITED: u8 = 22;

/// Bytes of an encoded frame at the most, errors' texts aside.
pub const FRAME_BYTES: usize = DATA_BYTES + 1;

fn tagged<T: serde::Serialize>(tag: u8, body: &T) -> Vec<u8> {
    let mut frame = vec![tag];
    if let Ok(body) = postcard::to_allocvec(body) {
        frame.extend_from_slice(&body);
    }
    frame
}

fn with_data(tag: u8, data: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(data.len() + 1);
    frame.push(tag);
    frame.extend_from_slice(data);
    frame
}

fn split(bytes: &[u8]) -> Result<(u8, &[u8]), WireError> {
    match bytes {
        [tag, body @ ..] if bytes.len() <= PACKET_BYTES => Ok((*tag, body)),
        _ => Err(WireError::Malformed(bytes.len())),
    }
}

impl<'a> ToMonitor<'a> {
    /// As a packet.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            ToMonitor::Stdin(data) => with_data(STDIN, data),
            ToMonitor::CloseStdin => vec![CLOSE_STDIN],
            ToMonitor::Resize(size) => tagged(RESIZE, size),
            ToMonitor::Signal(signal) => tagged(SIGNAL, signal),
        }
    }

    /// From a packet.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, WireError> {
        match split(bytes)? {
            (STDIN, data) if (1..=DATA_BYTES).contains(&data.len()) => Ok(ToMonitor::Stdin(data)),
            (CLOSE_STDIN, []) => Ok(ToMonitor::CloseStdin),
            (RESIZE, body) => decode(body).map(ToMonitor::Resize),
            (SIGNAL, body) => decode(body).map(ToMonitor::Signal),
            _ => Err(WireError::Malformed(bytes.len())),
        }
    }
}

impl<'a> FromMonitor<'a> {
    /// As a packet.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            FromMonitor::Stdout(data) => with_data(STDOUT, data),
            FromMonitor::Stderr(data) => with_data(STDERR, data),
            FromMonitor::Taken => vec![TAKEN],
            FromMonitor::Started { pid, exec } => tagged(STARTED, &(pid, exec)),
            FromMonitor::Failed(refusal) => tagged(FAILED, refusal),
            FromMonitor::Exited { code, signal, oom } => tagged(EXITED, &(code, signal, oom)),
        }
    }

    /// From a packet.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, WireError> {
        match split(bytes)? {
            (STDOUT, data) => Ok(FromMonitor::Stdout(data)),
            (STDERR, data) => Ok(FromMonitor::Stderr(data)),
            (TAKEN, []) => Ok(FromMonitor::Taken),
            (STARTED, body) => decode(body).map(|(pid, exec)| FromMonitor::Started { pid, exec }),
            (FAILED, body) => decode(body).map(FromMonitor::Failed),
            (EXITED, body) => decode(body).map(|(code, signal, oom)| FromMonitor::Exited { code, signal, oom }),
            _ => Err(WireError::Malformed(bytes.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config() -> MonitorConfig {
        MonitorConfig {
            version: VERSION,
            id: ContainerId::from_bytes([7; 32]),
            name: "web".into(),
            bundle: "/data/c/bundle".into(),
            data_dir: "/data/c".into(),
            run_dir: "/run/c".into(),
            root: Root::Overlay {
                lowers: vec!["/l/1".into(), "/l/2".into()],
                upper: "/u".into(),
                work: "/w".into(),
                target: "/t".into(),
            },
            id_map: IdMap::single(0, 0),
            user: "www".into(),
            tree: Tree::None {
                why: "none".into(),
                fix: "none".into(),
            },
            limits: Limits::default(),
            asked: vec![LimitKind::Memory],
            tty: Some(Size { rows: 24, cols: 80 }),
            stdin: true,
            log: LogLimits::default(),
            health: Some(Health::tcp(80)),
            restart: RestartPolicy::OnFailure(3),
            stop_signal: 15,
            stop_timeout_ms: 10_000,
            host_network: false,
            cleanup: vec!["container-cleanup".into()],
        }
    }

    #[test]
    fn packets_go_both_ways_and_no_cut_of_them_is_understood() {
        let bytes = encode(&config()).unwrap();
        assert_eq!(decode_versioned::<MonitorConfig>(&bytes).unwrap(), config());
        for length in 0..bytes.len() {
            assert!(
                decode_versioned::<MonitorConfig>(&bytes[..length]).is_err(),
                "length {length}"
            );
        }
        let exec = ExecRequest {
            args: vec!["sh".into(), "-c".into()],
            ..ExecRequest::default()
        };
        for open in [
            Open::Exec(exec),
            Open::Subscribe,
            Open::Status,
            Open::Signal { signal: 9, all: true },
            Open::Stop {
                signal: None,
                timeout_ms: Some(5),
            },
            Open::Collect { exec: 3 },
        ] {
            let request = Request { version: VERSION, open };
            let mut bytes = encode(&request).unwrap();
            assert_eq!(decode_versioned::<Request>(&bytes).unwrap(), request);
            bytes.push(0);
            assert!(decode_versioned::<Request>(&bytes).is_err(), "trailing bytes");
        }
    }

    #[test]
    fn other_versions_are_named_before_anything_else_is_read() {
        let mut bytes = encode(&Request {
            version: 9,
            open: Open::Status,
        })
        .unwrap();
        assert_eq!(decode_versioned::<Request>(&bytes), Err(WireError::Version(9)));
        bytes[1] = 0xff;
        assert_eq!(decode_versioned::<Request>(&bytes), Err(WireError::Version(9)));
    }

    #[test]
    fn frames_go_both_ways() {
        for frame in [
            ToMonitor::Stdin(b"data"),
            ToMonitor::CloseStdin,
            ToMonitor::Resize(Size { rows: 1, cols: 500 }),
            ToMonitor::Signal(15),
        ] {
            assert_eq!(ToMonitor::decode(&frame.encode()).unwrap(), frame);
        }
        for frame in [
            FromMonitor::Stdout(b"data"),
            FromMonitor::Stderr(b"data"),
            FromMonitor::Taken,
            FromMonitor::Started { pid: 70_000, exec: 9 },
            FromMonitor::Failed(Refusal {
                code: 127,
                message: "no".into(),
            }),
            FromMonitor::Exited {
                code: 137,
                signal: Some(9),
                oom: true,
            },
        ] {
            assert_eq!(FromMonitor::decode(&frame.encode()).unwrap(), frame);
        }
    }

    #[test]
    fn hostile_bytes_are_errors() {
        let long = vec![STDIN; DATA_BYTES + 2];
        for bytes in [
            &[][..],
            &[0],
            &[STDIN],
            &[CLOSE_STDIN, 1],
            &[RESIZE],
            &[RESIZE, 1],
            &[SIGNAL],
            &[99, 1],
            &long,
        ] {
            assert!(ToMonitor::decode(bytes).is_err(), "{:?}", &bytes[..bytes.len().min(8)]);
        }
        // Every pair of first bytes with some body decodes or fails, but never panics.
        let mut seed = 1u32;
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..seed % 40)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 24) as u8
                })
                .collect();
            seed = seed.wrapping_add(1);
            let _ = ToMonitor::decode(&bytes);
            let _ = FromMonitor::decode(&bytes);
            let _ = decode_versioned::<Request>(&bytes);
            let _ = decode_config(&[&[VERSION as u8], &bytes[..]].concat());
            let _ = decode_config(&[&[NETWORK_VERSION as u8], &bytes[..]].concat());
            let _ = decode::<Answer>(&bytes);
            let _ = decode::<Event>(&bytes);
        }
    }
}

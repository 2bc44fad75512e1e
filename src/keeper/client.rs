//! The keeper's clients: connect, start one where none runs, ask.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::SOCKET;
use super::guard;
use super::start::{self, StartError, Starter};
use super::wire::{self, Info, Live, Reply, Request, WireError};
use crate::disk::layout::Layout;
use crate::disk::lock::{Lock, Mode};
use crate::monitor::wire::{MonitorConfig, Refusal};
use crate::sys::socket;
use crate::types::bounds::{KEEPER_ANSWER_MS, KEEPER_MONITOR_MS, KEEPER_START_MS, PACKET_BYTES};

/// Why a keeper does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// None runs.
    #[error("no keeper runs for `{path}`")]
    NotRunning {
        /// Its socket.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("{action} the keeper at `{path}`: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Its socket.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// It did not answer in time.
    #[error("the keeper at `{path}` did not answer within {seconds} s")]
    TimedOut {
        /// Its socket.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// It left before it answered.
    #[error("the keeper at `{path}` left before it answered")]
    Gone {
        /// Its socket.
        path: PathBuf,
    },
    /// It said something else than an answer.
    #[error("keeper at `{path}`: {source}")]
    Wire {
        /// Its socket.
        path: PathBuf,
        /// What is wrong.
        source: WireError,
    },
    /// It said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// None could be started.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// A connection to the keeper of a store.
#[derive(Debug)]
pub struct Keeper {
    socket: OwnedFd,
    path: PathBuf,
    info: Info,
    ended: Vec<(i32, i32)>,
}

/// Connects to the keeper of the store; [`KeeperError::NotRunning`] where there is none.
pub fn connect(layout: &Layout) -> Result<Keeper, KeeperError> {
    let path = layout.keeper_socket();
    let io = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => KeeperError::NotRunning { path: path.clone() },
        _ => KeeperError::Io {
            action: "connect to",
            path: path.clone(),
            source,
        },
    };
    let dir = File::open(layout.run()).map_err(io)?;
    let patience = Duration::from_millis(KEEPER_ANSWER_MS);
    let socket = socket::connect_at(dir.as_fd(), SOCKET, patience).map_err(io)?;
    hello(socket, path)
}

fn hello(socket: OwnedFd, path: PathBuf) -> Result<Keeper, KeeperError> {
    let mut link = Link {
        socket: socket.as_fd(),
        path: &path,
        ended: &mut Vec::new(),
    };
    match link.ask(&Request::Hello, &[], KEEPER_ANSWER_MS)? {
        Reply::Info(info) => Ok(Keeper {
            socket,
            path,
            info: *info,
            ended: Vec::new(),
        }),
        _ => Err(unexpected(&path)),
    }
}

/// Connects to the keeper of the store, and starts one where none runs; several callers at once start one.
///
/// `starter` is what [`start::prepare_as_root`] gave a caller that was root; it is not used when a keeper runs already.
pub fn connect_or_start(layout: &Layout, starter: Option<Starter>) -> Result<Keeper, KeeperError> {
    let deadline = Instant::now() + Duration::from_millis(KEEPER_START_MS);
    let mut starter = starter;
    loop {
        match connect(layout) {
            // A keeper that is just leaving may still have taken the connection.
            Err(KeeperError::NotRunning { .. } | KeeperError::Gone { .. }) if Instant::now() < deadline => {}
            done => return done,
        }
        start::make_run_root(layout)?;
        if guard::lives(layout) {
            if Instant::now() >= deadline {
                return Err(StartError::Guarded {
                    seconds: KEEPER_START_MS / 1000,
                }
                .into());
            }
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        let one = layout.run().join("keeper.start");
        let _only_starter =
            Lock::take(&one, Mode::Exclusive, Duration::from_millis(KEEPER_START_MS)).map_err(StartError::Disk)?;
        match connect(layout) {
            Err(KeeperError::NotRunning { .. } | KeeperError::Gone { .. }) => {}
            done => return done,
        }
        start::start(layout, starter.take())?;
    }
}

impl Keeper {
    /// About it, as it was when the connection was made.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Starts a container by its monitor; returns its first process when it runs. `fds` may be the monitor's end of a
    /// session whose other end has already sent its attach request, and what `monitor::handed` says. The control groups in `config` are set by the keeper.
    pub fn start_monitor(&mut self, config: MonitorConfig, fds: &[BorrowedFd<'_>]) -> Result<i32, KeeperError> {
        self.started(
            &Request::Monitor(Box::new(config)),
            fds,
            KEEPER_MONITOR_MS + KEEPER_ANSWER_MS,
        )
    }

    /// Starts `dunlin worker --fd N` in the store's user namespace, N being `control`; returns its process.
    pub fn start_worker(&mut self, control: BorrowedFd<'_>) -> Result<i32, KeeperError> {
        self.started(&Request::Worker, &[control], KEEPER_ANSWER_MS)
    }

    /// Waits until the worker with this process number has ended, and returns its exit code (128 + n for signal n).
    pub fn wait_worker(&mut self, pid: i32, patience: Duration) -> Result<i32, KeeperError> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(at) = self.ended.iter().position(|(ended, _)| *ended == pid) {
                return Ok(self.ended.remove(at).1);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if let Reply::Ended { pid, code } = self.link().receive(left)? {
                self.ended.push((pid, code));
            }
        }
    }

    /// The monitors that live.
    pub fn list(&mut self) -> Result<Vec<Live>, KeeperError> {
        match self.link().ask(&Request::List, &[], KEEPER_ANSWER_MS)? {
            Reply::Monitors(live) => Ok(live),
            _ => Err(unexpected(&self.path)),
        }
    }

    /// The store's user namespace.
    pub fn namespace(&mut self) -> Result<OwnedFd, KeeperError> {
        match self.link().ask_for_fds(&Request::Namespace, &[], KEEPER_ANSWER_MS)? {
            (Reply::Done, mut fds) if fds.len() == 1 => Ok(fds.remove(0)),
            _ => Err(unexpected(&self.path)),
        }
    }

    /// Makes it become the binary that is installed now.
    pub fn reload(&mut self) -> Result<(), KeeperError> {
        self.done(&Request::Reload)
    }

    /// Makes it leave; with `stop` the containers are asked to end first.
    pub fn shutdown(mut self, stop: bool) -> Result<(), KeeperError> {
        self.done(&Request::Shutdown { stop })
    }

    fn done(&mut self, request: &Request) -> Result<(), KeeperError> {
        match self.link().ask(request, &[], KEEPER_ANSWER_MS)? {
            Reply::Done => Ok(()),
            _ => Err(unexpected(&self.path)),
        }
    }

    fn started(&mut self, request: &Request, fds: &[BorrowedFd<'_>], patience_ms: u64) -> Result<i32, KeeperError> {
        match self.link().ask(request, fds, patience_ms)? {
            Reply::Started { pid } => Ok(pid),
            _ => Err(unexpected(&self.path)),
        }
    }

    fn link(&mut self) -> Link<'_> {
        Link {
            socket: self.socket.as_fd(),
            path: &self.path,
            ended: &mut self.ended,
        }
    }
}

/// A connection's means of asking.
struct Link<'a> {
    socket: BorrowedFd<'a>,
    path: &'a PathBuf,
    ended: &'a mut Vec<(i32, i32)>,
}

impl Link<'_> {
    /// Sends a request and waits for its answer; a refusal is an error.
    fn ask(&mut self, request: &Request, fds: &[BorrowedFd<'_>], patience_ms: u64) -> Result<Reply, KeeperError> {
        self.ask_for_fds(request, fds, patience_ms).map(|(reply, _)| reply)
    }

    /// The same, with what came along.
    fn ask_for_fds(
        &mut self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        patience_ms: u64,
    ) -> Result<(Reply, Vec<OwnedFd>), KeeperError> {
        let packet = wire::encode(request).map_err(|source| KeeperError::Wire {
            path: self.path.clone(),
            source,
        })?;
        socket::send_with_fds(self.socket, &packet, fds).map_err(|error| self.failed("ask", error))?;
        let patience = Duration::from_millis(patience_ms);
        let deadline = Instant::now() + patience;
        loop {
            match self.receive_with_fds(deadline.saturating_duration_since(Instant::now()))? {
                (Reply::Ended { pid, code }, _) => self.ended.push((pid, code)),
                (Reply::Failed(refusal), _) => return Err(refusal.into()),
                reply => return Ok(reply),
            }
        }
    }

    fn receive(&mut self, patience: Duration) -> Result<Reply, KeeperError> {
        self.receive_with_fds(patience).map(|(reply, _)| reply)
    }

    fn receive_with_fds(&mut self, patience: Duration) -> Result<(Reply, Vec<OwnedFd>), KeeperError> {
        if !socket::wait_readable(self.socket, patience).map_err(|error| self.failed("wait for", error))? {
            return Err(KeeperError::TimedOut {
                path: self.path.clone(),
                seconds: patience.as_secs(),
            });
        }
        let mut buffer = vec![0; PACKET_BYTES];
        match socket::recv_with_fds(self.socket, &mut buffer).map_err(|error| self.failed("read from", error))? {
            (0, _) => Err(KeeperError::Gone {
                path: self.path.clone(),
            }),
            (got, fds) => match wire::decode(&buffer[..got]) {
                Ok(reply) => Ok((reply, fds)),
                Err(source) => Err(KeeperError::Wire {
                    path: self.path.clone(),
                    source,
                }),
            },
        }
    }

    fn failed(&self, action: &'static str, source: io::Error) -> KeeperError {
        match source.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => KeeperError::Gone {
                path: self.path.clone(),
            },
            _ => KeeperError::Io {
                action,
                path: self.path.clone(),
                source,
            },
        }
    }
}

fn unexpected(path: &std::path::Path) -> KeeperError {
    let source = WireError::Malformed {
        why: "it is no answer to the question".to_owned(),
    };
    KeeperError::Wire {
        path: path.to_owned(),
        source,
    }
}

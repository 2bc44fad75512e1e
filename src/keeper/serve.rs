//! The keeper's loop: connections, children, signals, and when to leave.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::run::Options;
use super::spawn::{Nursery, Role};
use super::wire::{self, Info, Live, Reply, Request};
use super::{reload, state, stop};
use crate::config::subid::StoreMap;
use crate::monitor::wire::{self as monitor, MonitorConfig, Refusal, StartReport};
use crate::runtime::cgroup::Tree;
use crate::runtime::sealed;
use crate::sys::event::{self, Epoll, Interest, Ready, SignalFd};
use crate::sys::{creds, footprint, process, socket};
use crate::types::bounds::{KEEPER_CHILDREN, KEEPER_CLIENTS, KEEPER_MONITOR_MS, PACKET_BYTES};
use crate::types::ids::ContainerId;

pub(super) const SIGHUP: i32 = 1;
pub(super) const SIGINT: i32 = 2;
pub(super) const SIGTERM: i32 = 15;

/// Tokens of the two descriptors that are always there; everything else gets a number above.
const LISTENER: u64 = 0;
const SIGNALS: u64 = 1;

/// After this long without a request, memory that only requests need is let go.
const QUIET: Duration = Duration::from_millis(500);

/// How long a monitor may take from its last word to its end.
const LEAVING: Duration = Duration::from_millis(500);

/// One connection.
pub(super) struct Client {
    pub key: u64,
    pub socket: OwnedFd,
}

/// A monitor that has not said yet whether its container runs.
pub(super) struct Starting {
    pub key: u64,
    /// Our end of its start socket.
    pub socket: OwnedFd,
    /// Who asked.
    pub client: u64,
    /// When it is too late, in the milliseconds of [`event::mono_ms`].
    pub deadline: u64,
}

/// A monitor or worker that has not ended.
pub(super) struct Process {
    pub key: u64,
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub kind: Kind,
    /// True if it is our child and must be waited for.
    pub child: bool,
}

/// What a process is.
pub(super) enum Kind {
    Monitor {
        id: ContainerId,
        starting: Option<Starting>,
    },
    Worker {
        client: u64,
    },
}

/// Everything that a keeper has.
pub(super) struct Server {
    pub options: Options,
    pub lock: OwnedFd,
    pub listener: OwnedFd,
    pub userns: OwnedFd,
    pub tree: Tree,
    pub ids: StoreMap,
    pub signals: SignalFd,
    pub epoll: Epoll,
    pub clients: Vec<Client>,
    pub processes: Vec<Process>,
    /// Our binary as monitors and workers get it: out of the reach of containers. None where ours is.
    binary: Option<OwnedFd>,
    next_key: u64,
    buffer: Vec<u8>,
    /// Since when nobody needs the keeper.
    idle_since: Option<u64>,
}

/// Why the loop ended.
pub(super) enum Leave {
    /// Nothing needs the keeper, or it was told to.
    Quietly,
    /// The containers are to end first.
    WithContainers,
}

enum Next {
    Go,
    Reload,
    Leave(Leave),
}

impl Server {
    /// A server around what was prepared. Errors are those of epoll.
    pub fn new(
        options: Options,
        lock: OwnedFd,
        listener: OwnedFd,
        userns: OwnedFd,
        tree: Tree,
        ids: StoreMap,
        signals: SignalFd,
    ) -> io::Result<Server> {
        let epoll = Epoll::new()?;
        epoll.add(listener.as_fd(), LISTENER, Interest::READ)?;
        epoll.add(signals.as_fd(), SIGNALS, Interest::READ)?;
        Ok(Server {
            options,
            lock,
            listener,
            userns,
            tree,
            ids,
            signals,
            binary: sealed::binary()?,
            epoll,
            clients: Vec::new(),
            processes: Vec::new(),
            next_key: SIGNALS + 1,
            buffer: vec![0; PACKET_BYTES],
            idle_since: None,
        })
    }

    /// Serves until there is a reason to leave.
    pub fn serve(&mut self) -> io::Result<Leave> {
        let mut trimmed = false;
        loop {
            let mut ready = [None; 16];
            let mut count = 0;
            let patience = match self.patience() {
                Some(patience) if trimmed || patience < QUIET => Some(patience),
                None if trimmed => None,
                _ => Some(QUIET),
            };
            self.epoll.wait(patience, |event| {
                if let Some(slot) = ready.get_mut(count) {
                    *slot = Some(event);
                    count += 1;
                }
            })?;
            if count > 0 {
                trimmed = false;
            } else if !trimmed && patience == Some(QUIET) {
                footprint::trim();
                trimmed = true;
            }
            for event in ready.into_iter().flatten() {
                match self.handle(event) {
                    Next::Go => {}
                    Next::Leave(leave) => return Ok(leave),
                    // Returns only if it could not be done.
                    Next::Reload => crate::error!("keeper: reload failed: {}", reload::reload(self)),
                }
            }
            self.expire();
            if self.is_idle() {
                return Ok(Leave::Quietly);
            }
        }
    }

    /// Takes up a monitor that an earlier keeper started.
    pub fn take_up(&mut self, found: state::Found) -> io::Result<()> {
        let kind = Kind::Monitor {
            id: found.id,
            starting: None,
        };
        self.watch(found.pid, found.pidfd, kind, false)
    }

    /// Adds a process to those that are waited for.
    pub fn watch(&mut self, pid: i32, pidfd: OwnedFd, kind: Kind, child: bool) -> io::Result<()> {
        let key = self.key();
        self.epoll.add(pidfd.as_fd(), key, Interest::READ)?;
        self.processes.push(Process {
            key,
            pid,
            pidfd,
            kind,
            child,
        });
        Ok(())
    }

    /// Adds a connection; returns its key.
    pub fn welcome(&mut self, socket: OwnedFd) -> io::Result<u64> {
        socket::set_nonblocking(socket.as_fd(), true)?;
        let key = self.key();
        self.epoll.add(socket.as_fd(), key, Interest::READ)?;
        self.clients.push(Client { key, socket });
        Ok(key)
    }

    /// Adds a start socket to those that are waited for; returns its key.
    pub fn expect(&mut self, socket: BorrowedFd<'_>) -> io::Result<u64> {
        let key = self.key();
        self.epoll.add(socket, key, Interest::READ)?;
        Ok(key)
    }

    fn key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    /// How long the loop may sleep.
    fn patience(&self) -> Option<Duration> {
        let now = event::mono_ms();
        let starts = self.processes.iter().filter_map(|process| match &process.kind {
            Kind::Monitor {
                starting: Some(starting),
                ..
            } => Some(starting.deadline),
            _ => None,
        });
        let idle = self.idle_since.map(|since| since + self.options.idle_ms);
        starts
            .chain(idle)
            .min()
            .map(|end| Duration::from_millis(end.saturating_sub(now)))
    }

    fn is_idle(&mut self) -> bool {
        if self.options.unit || !self.clients.is_empty() || !self.processes.is_empty() {
            self.idle_since = None;
            return false;
        }
        let now = event::mono_ms();
        now >= *self.idle_since.get_or_insert(now) + self.options.idle_ms
    }

    fn handle(&mut self, event: Ready) -> Next {
        match event.token {
            LISTENER => self.accept(),
            SIGNALS => return self.signal(),
            key => {
                if let Some(at) = self.clients.iter().position(|client| client.key == key) {
                    return self.request(at);
                }
                if let Some(at) = self.processes.iter().position(|process| process.key == key) {
                    self.ended(at);
                } else {
                    self.report(key);
                }
            }
        }
        Next::Go
    }

    fn signal(&mut self) -> Next {
        match self.signals.read() {
            Ok(Some(signal)) if signal.number == SIGHUP => Next::Reload,
            Ok(Some(signal)) if matches!(signal.number, SIGTERM | SIGINT) => Next::Leave(Leave::WithContainers),
            _ => Next::Go,
        }
    }

    fn accept(&mut self) {
        // Non-blocking: nobody there any more is no error, and one failed connection is its client's matter.
        let Ok(socket) = socket::accept(self.listener.as_fd()) else {
            return;
        };
        let (own, _) = creds::effective_ids();
        let refusal = match socket::peer_cred(socket.as_fd()) {
            Ok(peer) if peer.uid != own && peer.uid != 0 && peer.uid != self.ids.uid => {
                Some(format!("the keeper serves user {own} and root, not user {}", peer.uid))
            }
            Ok(_) if self.clients.len() >= KEEPER_CLIENTS => Some(format!(
                "the keeper has {KEEPER_CLIENTS} connections already; try again later"
            )),
            Ok(_) => None,
            Err(error) => Some(format!("the keeper does not know who asks: {error}")),
        };
        match refusal {
            Some(text) => {
                let _ = wire::encode(&Reply::Failed(Refusal::new(text)))
                    .map(|packet| socket::send(socket.as_fd(), &packet));
            }
            None => {
                if let Err(error) = self.welcome(socket) {
                    crate::warn!("keeper: connection lost: {error}");
                }
            }
        }
    }

    /// Sends a reply; a client that does not read or is gone loses its connection.
    fn reply(&mut self, client: u64, reply: &Reply) {
        self.reply_with(client, reply, false);
    }

    fn reply_with(&mut self, client: u64, reply: &Reply, with_namespace: bool) {
        let Some(at) = self.clients.iter().position(|other| other.key == client) else {
            return;
        };
        let sent = match wire::encode(reply) {
            Ok(packet) => {
                let namespace = [self.userns.as_fd()];
                let fds = if with_namespace { &namespace[..] } else { &[] };
                socket::send_with_fds(self.clients[at].socket.as_fd(), &packet, fds)
            }
            Err(error) => Err(io::Error::other(error.to_string())),
        };
        if sent.is_err() {
            self.clients.swap_remove(at);
        }
    }

    fn request(&mut self, at: usize) -> Next {
        let client = self.clients[at].key;
        let received = socket::recv_with_fds(self.clients[at].socket.as_fd(), &mut self.buffer);
        let (length, fds) = match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Go,
            Ok((0, _)) | Err(_) => {
                self.clients.swap_remove(at);
                return Next::Go;
            }
            Ok(received) => received,
        };
        let request = match wire::decode::<Request>(&self.buffer[..length]) {
            Ok(request) => request,
            Err(error) => {
                self.reply(client, &Reply::Failed(Refusal::new(error.to_string())));
                return Next::Go;
            }
        };
        let answer = match request {
            Request::Hello => Ok(Some(Reply::Info(Box::new(self.info())))),
            Request::List => Ok(Some(Reply::Monitors(self.live()))),
            Request::Monitor(config) => self.start_monitor(client, *config, fds).map(|()| None),
            Request::Worker => self.start_worker(client, fds).map(|pid| Some(Reply::Started { pid })),
            Request::Namespace => {
                self.reply_with(client, &Reply::Done, true);
                return Next::Go;
            }
            Request::Reload => {
                self.reply(client, &Reply::Done);
                return Next::Reload;
            }
            Request::Shutdown { stop } => {
                self.reply(client, &Reply::Done);
                return Next::Leave(if stop { Leave::WithContainers } else { Leave::Quietly });
            }
        };
        if let Some(reply) = answer.unwrap_or_else(|refusal| Some(Reply::Failed(refusal))) {
            self.reply(client, &reply);
        }
        Next::Go
    }

    fn info(&self) -> Info {
        Info {
            pid: std::process::id().cast_signed(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cgroup: self.tree.clone(),
            ids: self.ids.clone(),
            unit: self.options.unit,
        }
    }

    fn live(&self) -> Vec<Live> {
        let monitor = |process: &Process| match process.kind {
            Kind::Monitor { id, .. } => Some(Live { id, pid: process.pid }),
            Kind::Worker { .. } => None,
        };
        self.processes.iter().filter_map(monitor).collect()
    }

    fn start(&self, role: Role, control: &OwnedFd) -> Result<process::Child, Refusal> {
        if self.processes.len() >= KEEPER_CHILDREN {
            return Err(Refusal::new(format!(
                "the keeper has {KEEPER_CHILDREN} processes already; end some first"
            )));
        }
        let nursery = Nursery {
            tree: &self.tree,
            userns: self.userns.as_fd(),
            binary: self.binary.as_ref().map(AsFd::as_fd),
        };
        nursery.start(role, control)
    }

    fn start_monitor(&mut self, client: u64, mut config: MonitorConfig, fds: Vec<OwnedFd>) -> Result<(), Refusal> {
        let id = config.id;
        if !self.has_left(&id) {
            return Err(Refusal::new(format!("container `{}` runs already", config.name)));
        }
        let lost = |error: io::Error| Refusal::new(format!("start container `{}`: {error}", config.name));
        config.tree = self.tree.clone();
        let packet = monitor::encode(&config).map_err(|error| Refusal::new(error.to_string()))?;
        let (ours, theirs) = socket::pair().map_err(lost)?;
        let key = self.expect(ours.as_fd()).map_err(lost)?;
        let child = self.start(Role::Monitor, &theirs)?;
        drop(theirs);
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        // The packet fits into an empty socket's buffer; a monitor that ended at once is told by its pidfd.
        socket::set_nonblocking(ours.as_fd(), true).map_err(lost)?;
        let sent = socket::send_with_fds(ours.as_fd(), &packet, &fds);
        let deadline = event::mono_ms() + KEEPER_MONITOR_MS;
        let starting = Some(Starting {
            key,
            socket: ours,
            client,
            deadline,
        });
        self.watch(child.pid, child.pidfd, Kind::Monitor { id, starting }, true)
            .map_err(lost)?;
        sent.map_err(lost)
    }

    /// Whether no monitor of the container is left. One that has told its container's end may take a moment to be gone.
    fn has_left(&mut self, id: &ContainerId) -> bool {
        let is_its = |process: &Process| matches!(process.kind, Kind::Monitor { id: of, .. } if of == *id);
        let Some(at) = self.processes.iter().position(is_its) else {
            return true;
        };
        let pidfd = self.processes[at].pidfd.as_fd();
        if socket::wait_readable(pidfd, LEAVING).unwrap_or(false) {
            self.ended(at);
        }
        !self.processes.iter().any(is_its)
    }

    fn start_worker(&mut self, client: u64, mut fds: Vec<OwnedFd>) -> Result<i32, Refusal> {
        let (Some(control), true) = (fds.pop(), fds.is_empty()) else {
            return Err(Refusal::new("a worker takes one descriptor, its control socket"));
        };
        let child = self.start(Role::Worker, &control)?;
        let watched = self.watch(child.pid, child.pidfd, Kind::Worker { client }, true);
        watched
            .map(|()| child.pid)
            .map_err(|error| Refusal::new(format!("start a worker: {error}")))
    }

    /// A monitor's word on its start, or the end of its socket.
    fn report(&mut self, key: u64) {
        let starting = self.processes.iter_mut().find_map(|process| match &mut process.kind {
            Kind::Monitor { starting, .. } if starting.as_ref().is_some_and(|s| s.key == key) => starting.take(),
            _ => None,
        });
        let Some(starting) = starting else { return };
        let reply = match socket::recv(starting.socket.as_fd(), &mut self.buffer) {
            Ok(length @ 1..) => match monitor::decode::<StartReport>(&self.buffer[..length]) {
                Ok(StartReport::Started { pid, .. }) => Reply::Started { pid },
                Ok(StartReport::Failed(refusal)) => Reply::Failed(refusal),
                Err(error) => Reply::Failed(Refusal::new(format!("the monitor says nonsense: {error}"))),
            },
            _ => Reply::Failed(Refusal::new(
                "the monitor ended before the container ran; see the keeper's log",
            )),
        };
        self.reply(starting.client, &reply);
    }

    /// A process has ended.
    fn ended(&mut self, at: usize) {
        // Its last word may wait in the socket.
        if let Kind::Monitor {
            starting: Some(starting),
            ..
        } = &self.processes[at].kind
        {
            self.report(starting.key);
        }
        let code = match self.processes[at]
            .child
            .then(|| process::try_wait(self.processes[at].pidfd.as_fd()))
        {
            Some(Ok(None)) => return,
            Some(Ok(Some(ended))) => ended.code(),
            // Somebody else's child, or waited for already.
            Some(Err(_)) | None => 0,
        };
        let gone = self.processes.swap_remove(at);
        match gone.kind {
            Kind::Worker { client } => self.reply(client, &Reply::Ended { pid: gone.pid, code }),
            Kind::Monitor { id, .. } => self.bury(&id),
        }
    }

    /// Ends what a monitor left behind: it takes its container's group away itself unless it was killed.
    fn bury(&self, id: &ContainerId) {
        let group = self.tree.container(id);
        if group.dirs().iter().any(|dir| dir.exists()) {
            crate::warn!("keeper: the monitor of container `{id}` was killed; its container ends");
            if let Err(error) = group.kill().and_then(|_| group.remove()) {
                crate::warn!("keeper: {error}");
            }
        }
    }

    /// Ends what monitors left behind that died while no keeper ran.
    pub fn sweep(&self) {
        let living = self.live();
        for id in self.tree.containers() {
            if !living.iter().any(|live| live.id == id) {
                self.bury(&id);
            }
        }
    }

    /// Gives up on monitors that do not come up.
    fn expire(&mut self) {
        let now = event::mono_ms();
        let late = |process: &Process| matches!(&process.kind, Kind::Monitor { starting: Some(starting), .. } if starting.deadline <= now);
        while let Some(at) = self.processes.iter().position(late) {
            let process = &mut self.processes[at];
            // Its container dies with it or is found by the next start.
            let _ = process::send_signal(process.pidfd.as_fd(), 9);
            let Kind::Monitor { starting, .. } = &mut process.kind else {
                return;
            };
            let Some(starting) = starting.take() else { return };
            let text = format!("the container did not come up within {} s", KEEPER_MONITOR_MS / 1000);
            self.reply(starting.client, &Reply::Failed(Refusal::new(text)));
        }
    }

    /// Ends the containers, if that is the way to leave, and takes away what would mislead the next keeper.
    pub fn leave(mut self, leave: Leave) {
        // From here on nobody connects: whoever tries starts the next keeper, which waits for the lock.
        let _ = std::fs::remove_file(self.options.layout.keeper_socket());
        if let Leave::WithContainers = leave {
            stop::stop(&mut self);
        }
        if self.processes.is_empty() {
            self.tree.dissolve();
        }
    }
}

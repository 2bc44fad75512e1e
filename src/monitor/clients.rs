//! The connections to a monitor: a fixed table of sockets, what each is for, and sending without ever waiting.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::token::Token;
use super::wire::{self, Answer, Event, FromMonitor, Refusal, What};
use crate::sys::event::{Epoll, Interest};
use crate::sys::socket;
use crate::types::bounds::{ATTACH_STALL_MS, MONITOR_CLIENTS, MONITOR_IDLE_MS, SUBSCRIBER_BYTES};
use crate::types::time::{Mono, Unix};

/// Which connections: bit n is connection n.
pub type Set = u32;

const _: () = assert!(MONITOR_CLIENTS <= Set::BITS as usize);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Asks requests; the next one is awaited since then.
    Asking(Mono),
    /// A session on the container's own stdio.
    Attached {
        /// May send input.
        stdin: bool,
        /// Takes standard output.
        stdout: bool,
        /// Takes standard error.
        stderr: bool,
        /// May hold the container up for as long as it likes.
        foreground: bool,
    },
    /// A session on this exec.
    Exec(usize),
    /// Gets events; has lost so many.
    Subscriber(u64),
    /// Waits for the container to end.
    Stopping,
    /// Waits for a health check.
    Probing,
}

/// Control frames that did not fit into the socket yet.
#[derive(Debug, Clone, Copy, Default)]
struct Owed {
    started: Option<(i32, u32)>,
    taken: bool,
    exited: Option<(i32, Option<i32>, bool)>,
}

#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    role: Role,
    owed: Owed,
    /// Since when its socket is full.
    full: Option<Mono>,
    /// Output waits for it in a stream.
    waited_for: bool,
    interest: Interest,
}

/// How sending went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is in the socket.
    Done,
    /// The socket is full; the connection is told of as writable when there is room.
    Full,
    /// The connection is gone.
    Gone,
}

/// The table.
#[derive(Debug)]
pub struct Clients {
    table: [Option<Client>; MONITOR_CLIENTS],
    seq: u64,
}

impl Clients {
    /// Nobody yet.
    pub fn new() -> Clients {
        Clients {
            table: [const { None }; MONITOR_CLIENTS],
            seq: 0,
        }
    }

    /// Takes a new connection; `None` when the table is full (the peer is told) or the socket is bad.
    pub fn add(&mut self, epoll: &Epoll, socket: OwnedFd, now: Mono) -> Option<usize> {
        socket::set_nonblocking(socket.as_fd(), true).ok()?;
        let Some(index) = self.table.iter().position(Option::is_none) else {
            let text = format!("the monitor has {MONITOR_CLIENTS} connections already; try again later");
            if let Ok(packet) = wire::encode(&Answer::Refused(Refusal::new(text))) {
                // It is refused either way.
                let _ = socket::send(socket.as_fd(), &packet);
            }
            return None;
        };
        epoll
            .add(socket.as_fd(), Token::Client(index).into(), Interest::READ)
            .ok()?;
        let interest = Interest::READ;
        let role = Role::Asking(now);
        self.table[index] = Some(Client {
            socket,
            role,
            owed: Owed::default(),
            full: None,
            waited_for: false,
            interest,
        });
        Some(index)
    }

    /// What connection `index` is for; `None` when there is none.
    pub fn role(&self, index: usize) -> Option<Role> {
        self.table.get(index)?.as_ref().map(|client| client.role)
    }

    /// Makes it another thing.
    pub fn set_role(&mut self, index: usize, role: Role) {
        if let Some(Some(client)) = self.table.get_mut(index) {
            if matches!(role, Role::Subscriber(_)) {
                // The kernel's default is a bound as well.
                let _ = socket::set_send_buffer(client.socket.as_fd(), SUBSCRIBER_BYTES);
            }
            client.role = role;
        }
    }

    /// The connections whose role fits.
    pub fn which(&self, fits: impl Fn(Role) -> bool) -> Set {
        let fits = |client: &Option<Client>| client.as_ref().is_some_and(|client| fits(client.role));
        self.table
            .iter()
            .enumerate()
            .filter(|(_, client)| fits(client))
            .fold(0, |set, (index, _)| set | 1 << index)
    }

    /// One packet from it: its length, 0 when it is gone, `None` when there is nothing.
    pub fn receive(&self, index: usize, buffer: &mut [u8]) -> Option<usize> {
        let client = self.table.get(index)?.as_ref()?;
        match socket::recv(client.socket.as_fd(), buffer) {
            Ok(got) => Some(got),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(_) => Some(0),
        }
    }

    /// Forgets and closes it.
    pub fn remove(&mut self, epoll: &Epoll, index: usize) {
        if let Some(client) = self.table.get_mut(index).and_then(Option::take) {
            // A child that is just being made has a copy of it, so closing alone would not take it out of the set.
            let _ = epoll.remove(client.socket.as_fd());
        }
    }

    /// Sends a data frame; [`Sent::Full`] until the connection is writable again.
    pub fn send_data(&mut self, epoll: &Epoll, index: usize, frame: &[u8], now: Mono) -> Sent {
        let Some(Some(client)) = self.table.get_mut(index) else {
            return Sent::Gone;
        };
        let sent = client.send(frame);
        match sent {
            Sent::Full => client.waited_for = true,
            // It moves: its time to read begins anew.
            _ => client.full = None,
        }
        client.mark(epoll, index, now);
        sent
    }

    /// Owes it a frame, which goes out as soon as there is room; the exit after all else.
    pub fn owe(&mut self, epoll: &Epoll, index: usize, frame: &FromMonitor<'_>, now: Mono) {
        let Some(Some(client)) = self.table.get_mut(index) else {
            return;
        };
        match *frame {
            FromMonitor::Started { pid, exec } => client.owed.started = Some((pid, exec)),
            FromMonitor::Taken => client.owed.taken = true,
            FromMonitor::Exited { code, signal, oom } => client.owed.exited = Some((code, signal, oom)),
            FromMonitor::Stdout(_) | FromMonitor::Stderr(_) | FromMonitor::Failed(_) => return,
        }
        self.settle(epoll, index, now);
    }

    /// Sends what is owed, as far as there is room. A connection that is gone is owed nothing any more; what it said
    /// before can still be read.
    pub fn settle(&mut self, epoll: &Epoll, index: usize, now: Mono) {
        let Some(Some(client)) = self.table.get_mut(index) else {
            return;
        };
        if client.settle() == Sent::Gone {
            client.owed = Owed::default();
        }
        client.mark(epoll, index, now);
    }

    /// Whether a connection has got all that it is owed.
    pub fn is_settled(&self, index: usize) -> bool {
        match self.table.get(index) {
            Some(Some(client)) => client.owed.is_nothing() && !client.waited_for,
            _ => true,
        }
    }

    /// Tells a stream's reader that it does not wait for it any more.
    pub fn not_waited_for(&mut self, epoll: &Epoll, index: usize, now: Mono) {
        if let Some(Some(client)) = self.table.get_mut(index) {
            client.waited_for = false;
            client.mark(epoll, index, now);
        }
    }

    /// Answers a request and goes on asking; a connection that does not read its answers is closed.
    pub fn answer(&mut self, epoll: &Epoll, index: usize, answer: &Answer, now: Mono) {
        let Some(Some(client)) = self.table.get_mut(index) else {
            return;
        };
        client.role = Role::Asking(now);
        let sent = match wire::encode(answer) {
            Ok(packet) => client.send(&packet),
            Err(_) => Sent::Gone,
        };
        if sent != Sent::Done {
            self.remove(epoll, index);
        }
    }

    /// Says why and closes the connection: as a frame to sessions, as an answer to others.
    pub fn refuse(&mut self, epoll: &Epoll, index: usize, refusal: Refusal) {
        let Some(Some(client)) = self.table.get_mut(index) else {
            return;
        };
        let packet = match client.role {
            Role::Attached { .. } | Role::Exec(_) => FromMonitor::Failed(refusal).encode(),
            _ => wire::encode(&Answer::Refused(refusal)).unwrap_or_default(),
        };
        if !packet.is_empty() {
            client.send(&packet);
        }
        self.remove(epoll, index);
    }

    /// Tells all subscribers.
    pub fn emit(&mut self, epoll: &Epoll, at: Unix, what: What, now: Mono) {
        self.seq += 1;
        let Ok(packet) = wire::encode(&Event {
            seq: self.seq,
            at,
            what,
        }) else {
            return;
        };
        for index in 0..self.table.len() {
            if matches!(self.role(index), Some(Role::Subscriber(_))) {
                self.send_event(epoll, index, &packet, at, now);
            }
        }
    }

    /// Makes a connection a subscriber, whose first event is `first`.
    pub fn subscribe(&mut self, epoll: &Epoll, index: usize, at: Unix, first: What, now: Mono) {
        self.set_role(index, Role::Subscriber(0));
        if let Ok(packet) = wire::encode(&Event {
            seq: self.seq,
            at,
            what: first,
        }) {
            self.send_event(epoll, index, &packet, at, now);
        }
    }

    fn send_event(&mut self, epoll: &Epoll, index: usize, packet: &[u8], at: Unix, now: Mono) {
        if self.tell_gap(epoll, index, at, now) == Sent::Gone {
            return;
        }
        let Some(Some(client)) = self.table.get_mut(index) else {
            return;
        };
        let Role::Subscriber(lost) = client.role else { return };
        let sent = if lost > 0 { Sent::Full } else { client.send(packet) };
        match sent {
            Sent::Done => {}
            Sent::Full => {
                client.role = Role::Subscriber(lost + 1);
                client.mark(epoll, index, now);
            }
            Sent::Gone => self.remove(epoll, index),
        }
    }

    /// Tells a subscriber what it has lost, if there is room for that now.
    pub fn tell_gap(&mut self, epoll: &Epoll, index: usize, at: Unix, now: Mono) -> Sent {
        let Some(Some(client)) = self.table.get_mut(index) else {
            return Sent::Gone;
        };
        let Role::Subscriber(lost @ 1..) = client.role else {
            return Sent::Done;
        };
        let Ok(packet) = wire::encode(&Event {
            seq: self.seq,
            at,
            what: What::Gap { lost },
        }) else {
            return Sent::Gone;
        };
        let sent = client.send(&packet);
        match sent {
            Sent::Done => client.role = Role::Subscriber(0),
            Sent::Full => {}
            Sent::Gone => {
                self.remove(epoll, index);
                return Sent::Gone;
            }
        }
        client.mark(epoll, index, now);
        sent
    }

    /// Connections that held the output up, or were silent, for too long; and when to look again.
    pub fn overdue(&self, now: Mono) -> (Set, Option<Mono>) {
        let mut late = 0;
        let mut next: Option<Mono> = None;
        for (index, client) in self.table.iter().enumerate() {
            let Some(due) = client.as_ref().and_then(Client::due) else {
                continue;
            };
            if due <= now {
                late |= 1 << index;
            } else {
                next = Some(next.map_or(due, |next| next.min(due)));
            }
        }
        (late, next)
    }

    /// The sockets of all connections that still wait for the end, to be kept open by what the monitor becomes.
    pub fn into_sockets(self) -> impl Iterator<Item = OwnedFd> {
        self.table.into_iter().flatten().map(|client| client.socket)
    }
}

impl Owed {
    fn is_nothing(&self) -> bool {
        self.started.is_none() && !self.taken && self.exited.is_none()
    }
}

impl Client {
    fn send(&self, packet: &[u8]) -> Sent {
        match socket::send(self.socket.as_fd(), packet) {
            Ok(()) => Sent::Done,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Sent::Full,
            Err(_) => Sent::Gone,
        }
    }

    fn settle(&mut self) -> Sent {
        if let Some((pid, exec)) = self.owed.started {
            match self.send(&FromMonitor::Started { pid, exec }.encode()) {
                Sent::Done => self.owed.started = None,
                other => return other,
            }
        }
        if self.owed.taken {
            match self.send(&FromMonitor::Taken.encode()) {
                Sent::Done => self.owed.taken = false,
                other => return other,
            }
        }
        if let Some((code, signal, oom)) = self.owed.exited {
            if self.waited_for {
                return Sent::Full;
            }
            match self.send(&FromMonitor::Exited { code, signal, oom }.encode()) {
                Sent::Done => self.owed.exited = None,
                other => return other,
            }
        }
        Sent::Done
    }

    /// Asks to be told of room exactly while something waits for it.
    fn mark(&mut self, epoll: &Epoll, index: usize, now: Mono) {
        let lost = matches!(self.role, Role::Subscriber(1..));
        let wants = self.waited_for || lost || !self.owed.is_nothing();
        self.full = if wants { self.full.or(Some(now)) } else { None };
        let interest = Interest {
            read: true,
            write: wants,
        };
        if interest != self.interest
            && epoll
                .modify(self.socket.as_fd(), Token::Client(index).into(), interest)
                .is_ok()
        {
            self.interest = interest;
        }
    }

    fn due(&self) -> Option<Mono> {
        match self.role {
            Role::Asking(since) => Some(since.plus(MONITOR_IDLE_MS)),
            Role::Attached { foreground: false, .. } => self.full.map(|since| since.plus(ATTACH_STALL_MS)),
            _ => None,
        }
    }
}

//! The stdio of one process in the container, relayed to connections: each piece of output goes to all of its readers
//! before the next is read, so that nobody loses any and nothing is queued here but that one piece.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::clients::{Clients, Sent, Set};
use super::token::{Part, Token};
use super::wire::{self, FRAME_BYTES, FromMonitor, Size};
use crate::sys::event::{Epoll, Interest};
use crate::sys::{socket, tty};
use crate::types::time::Mono;

/// Whose stdio it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The container's first process.
    Main,
    /// An exec.
    Exec(usize),
}

impl Owner {
    fn token(self, part: Part) -> u64 {
        match self {
            Owner::Main => Token::Main(part).into(),
            Owner::Exec(index) => Token::Exec(index, part).into(),
        }
    }
}

/// Our ends of a process's stdio.
#[derive(Debug, Default)]
pub struct Ends {
    /// Its standard input, or its terminal.
    pub input: Option<OwnedFd>,
    /// Its standard output, or its terminal.
    pub output: Option<OwnedFd>,
    /// Its standard error.
    pub error: Option<OwnedFd>,
}

/// One stream of output.
#[derive(Debug, Default)]
struct Output {
    fd: Option<OwnedFd>,
    /// The frame that some readers have not taken yet.
    held: Vec<u8>,
    readers: Set,
}

/// The relay.
#[derive(Debug)]
pub struct Stdio {
    owner: Owner,
    terminal: bool,
    input: Option<OwnedFd>,
    /// Input that the process does not take yet, and whose it is.
    unread: Vec<u8>,
    givers: Set,
    close_input: bool,
    /// The terminal is not made yet: input and size wait for it.
    awaited: bool,
    size: Option<Size>,
    output: [Output; 2],
}

/// What [`Stdio::pump`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pumped {
    /// Nothing (more) to read now.
    Empty,
    /// A reader's socket is full, or the round's share is used up.
    Held,
    /// The stream has ended.
    Ended,
}

/// Pieces of output that are taken in one go, so that one process does not starve the others.
const ROUND: usize = 8;

impl Stdio {
    /// Relays pipes; for a terminal there are none, it comes with [`Stdio::adopt`].
    pub fn new(epoll: &Epoll, owner: Owner, terminal: bool, ends: Ends) -> io::Result<Stdio> {
        let mut stdio = Stdio {
            owner,
            terminal,
            input: None,
            unread: Vec::new(),
            givers: 0,
            close_input: false,
            awaited: terminal,
            size: None,
            output: [Output::default(), Output::default()],
        };
        stdio.watch(epoll, ends)?;
        Ok(stdio)
    }

    /// Relays a terminal that was just made.
    pub fn adopt(&mut self, epoll: &Epoll, clients: &mut Clients, console: OwnedFd, now: Mono) -> io::Result<()> {
        self.terminal = true;
        self.awaited = false;
        let input = console.try_clone()?;
        self.watch(
            epoll,
            Ends {
                input: Some(input),
                output: Some(console),
                error: None,
            },
        )?;
        if let Some(size) = self.size.take() {
            self.resize(size);
        }
        self.feed(epoll, clients, now);
        Ok(())
    }

    fn watch(&mut self, epoll: &Epoll, ends: Ends) -> io::Result<()> {
        for fd in [&ends.input, &ends.output, &ends.error].into_iter().flatten() {
            socket::set_nonblocking(fd.as_fd(), true)?;
        }
        if let Some(fd) = &ends.input {
            epoll.add(fd.as_fd(), self.owner.token(Part::Input), Interest::NONE)?;
        }
        for (part, fd) in [(Part::Output, &ends.output), (Part::Error, &ends.error)] {
            if let Some(fd) = fd {
                epoll.add(fd.as_fd(), self.owner.token(part), Interest::READ)?;
            }
        }
        self.input = ends.input;
        self.output[0].fd = ends.output;
        self.output[1].fd = ends.error;
        Ok(())
    }

    fn stream(part: Part) -> (usize, u8) {
        if part == Part::Error {
            (1, wire::STDERR)
        } else {
            (0, wire::STDOUT)
        }
    }

    /// Reads what the process said on one stream, hands it to `log` and sends it to `readers`.
    #[allow(clippy::too_many_arguments, reason = "the loop's parts, borrowed one by one")]
    pub fn pump(
        &mut self,
        epoll: &Epoll,
        clients: &mut Clients,
        part: Part,
        readers: Set,
        scratch: &mut [u8],
        now: Mono,
        mut log: impl FnMut(&[u8]),
    ) -> Pumped {
        let (index, tag) = Self::stream(part);
        let stream = &mut self.output[index];
        for _ in 0..ROUND {
            if stream.readers != 0 {
                return Pumped::Held;
            }
            let Some(fd) = &stream.fd else { return Pumped::Ended };
            let got = match socket::read(fd.as_fd(), &mut scratch[1..FRAME_BYTES]) {
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Pumped::Empty,
                // A terminal whose other end is closed says EIO.
                Err(_) => 0,
            };
            if got == 0 {
                close(epoll, &mut stream.fd);
                return Pumped::Ended;
            }
            scratch[0] = tag;
            let frame = &scratch[..=got];
            log(&frame[1..]);
            let waiting = send_to(epoll, clients, readers, frame, now);
            if waiting != 0 {
                stream.readers = waiting;
                stream.held.clear();
                stream.held.extend_from_slice(frame);
                // It was added with the stream; were it to fail, the loop would only wake too often.
                let _ = epoll.modify(fd.as_fd(), self.owner.token(part), Interest::NONE);
            }
        }
        Pumped::Held
    }

    /// A reader has room again: sends what was held back for it.
    pub fn resume(&mut self, epoll: &Epoll, clients: &mut Clients, reader: usize, now: Mono) {
        for part in [Part::Output, Part::Error] {
            let stream = &mut self.output[Self::stream(part).0];
            if stream.readers & 1 << reader == 0 {
                continue;
            }
            if send_to(epoll, clients, 1 << reader, &stream.held, now) != 0 {
                return;
            }
            self.forget_in(epoll, part, reader);
        }
        clients.not_waited_for(epoll, reader, now);
    }

    /// A connection is gone: nothing waits for it any more.
    pub fn forget(&mut self, epoll: &Epoll, client: usize) {
        self.givers &= !(1 << client);
        for part in [Part::Output, Part::Error] {
            self.forget_in(epoll, part, client);
        }
    }

    fn forget_in(&mut self, epoll: &Epoll, part: Part, reader: usize) {
        let stream = &mut self.output[Self::stream(part).0];
        let before = stream.readers;
        stream.readers &= !(1 << reader);
        if let (Some(fd), true) = (&stream.fd, before != 0 && stream.readers == 0) {
            stream.held.clear();
            // It was added with the stream.
            let _ = epoll.modify(fd.as_fd(), self.owner.token(part), Interest::READ);
        }
    }

    /// Takes input from a connection, which is told when it may send more. `false` when it did not wait for that.
    pub fn give(&mut self, epoll: &Epoll, clients: &mut Clients, giver: usize, data: &[u8], now: Mono) -> bool {
        if self.givers & 1 << giver != 0 {
            return false;
        }
        if self.awaited || (self.input.is_some() && !self.close_input) {
            self.unread.extend_from_slice(data);
            self.givers |= 1 << giver;
            self.feed(epoll, clients, now);
        } else {
            clients.owe(epoll, giver, &FromMonitor::Taken, now);
        }
        true
    }

    /// Ends the input after what was given. A terminal stays open.
    pub fn close_input(&mut self, epoll: &Epoll, clients: &mut Clients, now: Mono) {
        if !self.terminal {
            self.close_input = true;
            self.feed(epoll, clients, now);
        }
    }

    /// Writes input that waits, as far as the process takes it.
    pub fn feed(&mut self, epoll: &Epoll, clients: &mut Clients, now: Mono) {
        if self.awaited {
            return;
        }
        while let (Some(fd), false) = (&self.input, self.unread.is_empty()) {
            match socket::write(fd.as_fd(), &self.unread) {
                Ok(written) => drop(self.unread.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Added with the stdio.
                    let _ = epoll.modify(fd.as_fd(), self.owner.token(Part::Input), Interest::WRITE);
                    return;
                }
                Err(_) => {
                    self.unread.clear();
                    close(epoll, &mut self.input);
                }
            }
        }
        if self.close_input {
            close(epoll, &mut self.input);
        } else if let Some(fd) = &self.input {
            // Added with the stdio.
            let _ = epoll.modify(fd.as_fd(), self.owner.token(Part::Input), Interest::NONE);
        }
        for giver in members(std::mem::take(&mut self.givers)) {
            clients.owe(epoll, giver, &FromMonitor::Taken, now);
        }
    }

    /// Input cannot be written any more: nobody reads it.
    pub fn input_broke(&mut self, epoll: &Epoll, clients: &mut Clients, now: Mono) {
        self.awaited = false;
        close(epoll, &mut self.input);
        self.unread.clear();
        self.feed(epoll, clients, now);
    }

    /// Sets the terminal's size.
    pub fn resize(&mut self, size: Size) -> bool {
        if self.awaited {
            self.size = Some(size);
            return true;
        }
        let size = tty::WindowSize {
            rows: size.rows,
            cols: size.cols,
        };
        let terminal = self.output[0].fd.as_ref().filter(|_| self.terminal);
        terminal.is_some_and(|fd| tty::set_window_size(fd.as_fd(), size).is_ok())
    }

    /// Whether it is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether all output was read and sent.
    pub fn is_drained(&self) -> bool {
        self.output
            .iter()
            .all(|stream| stream.fd.is_none() && stream.readers == 0)
    }

    /// Whether some reader holds the output up.
    pub fn is_held(&self) -> bool {
        self.output.iter().any(|stream| stream.readers != 0)
    }

    /// Closes everything: a terminal's processes get `SIGHUP`, others `SIGPIPE` when they write.
    pub fn close(&mut self, epoll: &Epoll) {
        close(epoll, &mut self.input);
        self.unread.clear();
        for stream in &mut self.output {
            close(epoll, &mut stream.fd);
            *stream = Output::default();
        }
    }
}

/// Closes a descriptor. A child that is just being made has a copy of it, so closing alone would not take it out of the
/// set.
fn close(epoll: &Epoll, fd: &mut Option<OwnedFd>) {
    if let Some(fd) = fd.take() {
        // It was added when it came.
        let _ = epoll.remove(fd.as_fd());
    }
}

/// Sends a frame to each of `readers`; those whose socket is full.
fn send_to(epoll: &Epoll, clients: &mut Clients, readers: Set, frame: &[u8], now: Mono) -> Set {
    let mut full = 0;
    for reader in members(readers) {
        if clients.send_data(epoll, reader, frame, now) == Sent::Full {
            full |= 1 << reader;
        }
    }
    full
}

/// The numbers in a set.
pub fn members(set: Set) -> impl Iterator<Item = usize> {
    (0..Set::BITS as usize).filter(move |bit| set & 1 << bit != 0)
}

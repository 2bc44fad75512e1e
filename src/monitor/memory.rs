//! The kernel's out-of-memory events of the container's control group.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::main::Monitor;
use super::token::Token;
use super::wire::What;
use crate::runtime::cgroup::Handle;
use crate::sys::event::{Epoll, EventFd, Inotify, Interest};
use crate::types::time::Mono;

/// Milliseconds after a v1 event in which the kernel has surely counted the kill.
const COUNTED_MS: u64 = 100;

/// Where events come from.
#[derive(Debug)]
enum Source {
    /// The host does not tell.
    None,
    /// v2: `memory.events` changes.
    File(Inotify),
    /// v1: the kernel counts into it.
    Counter(EventFd),
}

/// The watch.
#[derive(Debug)]
pub struct MemoryEvents {
    source: Source,
    look_at: Option<Mono>,
}

impl MemoryEvents {
    /// No watch.
    pub fn none() -> MemoryEvents {
        MemoryEvents {
            source: Source::None,
            look_at: None,
        }
    }

    /// Watches a group that was just made. Where that fails, kills are still counted at the end of the run.
    pub fn watch(epoll: &Epoll, group: &Handle) -> MemoryEvents {
        let source = Self::source(epoll, group).unwrap_or(Source::None);
        MemoryEvents { source, look_at: None }
    }

    fn source(epoll: &Epoll, group: &Handle) -> io::Result<Source> {
        let add = |fd: BorrowedFd<'_>| epoll.add(fd, Token::Memory.into(), Interest::READ);
        if let Some(path) = group.events_path() {
            let watch = Inotify::new()?;
            watch.watch(&path)?;
            add(watch.as_fd())?;
            return Ok(Source::File(watch));
        }
        let counter = EventFd::new()?;
        if !group.notify_oom(&counter).map_err(io::Error::other)? {
            return Ok(Source::None);
        }
        add(counter.as_fd())?;
        Ok(Source::Counter(counter))
    }

    /// When the count must be looked at again.
    pub fn due(&self) -> Option<Mono> {
        self.look_at
    }
}

impl Monitor {
    /// The kernel says that something happened.
    pub fn memory_event(&mut self, now: Mono) {
        let told = match &self.memory.source {
            Source::None => false,
            Source::File(watch) => watch.drain().unwrap_or(false),
            Source::Counter(counter) => matches!(counter.read(), Ok(Some(_))),
        };
        if told {
            self.memory_look();
            // v1 tells before it has counted.
            self.memory.look_at = Some(now.plus(COUNTED_MS));
        }
    }

    /// Looks again where that is due.
    pub fn memory_tick(&mut self, now: Mono) {
        if self.memory.look_at.is_some_and(|at| at <= now) {
            self.memory.look_at = None;
            self.memory_look();
        }
    }

    /// Counts the kernel's kills; tells when there are more.
    pub fn memory_look(&mut self) {
        let kills = self.group.oom_kills().unwrap_or(0);
        if kills > self.run.oom_kills {
            self.run.oom_kills = kills;
            self.emit(What::Oom { kills });
        }
    }
}

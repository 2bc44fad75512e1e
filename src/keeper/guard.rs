//! The first process of a keeper's unit: it runs a keeper, tells systemd when that serves, passes signals on, and runs another at once
//! when one dies. systemd ends what is left of a unit whose first process has died, containers and all; this one does too little to
//! die.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use super::serve::{SIGHUP, SIGINT, SIGTERM};
use super::{name, reload, spawn, start};
use crate::config::env;
use crate::disk::layout::Layout;
use crate::disk::lock::{Lock, Mode};
use crate::runtime::cgroup::{Host, Tree};
use crate::sys::creds;
use crate::sys::event::{Epoll, Interest, SignalFd, mono_ms};
use crate::sys::process::{self, Child, CloneArgs, Cloned, Ended};
use crate::sys::socket;

const SIGKILL: i32 = 9;
/// A keeper that lived this long was well, milliseconds.
const WELL_MS: u64 = 60_000;
/// So many keepers in a row may die sooner; then the unit starts anew.
const DEATHS: u32 = 7;
/// Where the keeper says how its start went.
const READY: i32 = 3;
/// How long another guard may hold the place.
const PATIENCE: Duration = Duration::from_secs(5);

const SIGNALS: u64 = 0;
const END: u64 = 1;
const WORD: u64 = 2;

/// How often a keeper died young.
#[derive(Debug, Default)]
struct Deaths(u32);

impl Deaths {
    /// A keeper died after this time. How long to wait before the next one; none: it is no use.
    fn another(&mut self, lived_ms: u64) -> Option<Duration> {
        self.0 = if lived_ms < WELL_MS { self.0 + 1 } else { 1 };
        match self.0 {
            1 => Some(Duration::ZERO),
            DEATHS.. => None,
            more => Some(Duration::from_millis(100 << (more - 2))),
        }
    }
}

struct Guard {
    layout: Layout,
    signals: SignalFd,
    /// Only that nobody else starts a keeper.
    _place: Lock,
    /// systemd knows that the keeper serves.
    told: bool,
    /// The keeper was asked to end.
    ending: bool,
}

/// The lock that says that keepers are started by the unit alone.
fn place(layout: &Layout) -> PathBuf {
    layout.run().join("keeper.guard")
}

/// Whether a guard lives, which starts the next keeper itself.
pub(super) fn lives(layout: &Layout) -> bool {
    let path = place(layout);
    path.exists() && matches!(Lock::try_take(&path, Mode::Shared), Ok(None))
}

/// Runs until the keeper has ended for good, with its exit code. `child`: the keeper that this process started as an earlier version
/// of itself.
pub(super) fn main(layout: Layout, child: Option<i32>) -> u8 {
    // The name is for people.
    let _ = process::set_name(c"dunlin-guard");
    let guard = || -> Result<Guard, String> {
        process::set_umask(0o077);
        let signals = SignalFd::new(&[SIGTERM, SIGINT, SIGHUP]).map_err(|error| format!("take signals: {error}"))?;
        start::make_run_root(&layout).map_err(|error| error.to_string())?;
        let place = place(&layout);
        let place = Lock::take(&place, Mode::Exclusive, PATIENCE).map_err(|error| error.to_string())?;
        let host = Host::read(creds::effective_ids().0).unwrap_or_default();
        Tree::detect(&host, &name::of_tree(&layout)).shelter();
        Ok(Guard {
            signals,
            layout,
            _place: place,
            told: child.is_some(),
            ending: false,
        })
    };
    let done = guard().and_then(|mut guard| guard.run(child).map_err(|error| error.to_string()));
    done.unwrap_or_else(|error| {
        crate::error!("keeper: guard: {error}");
        125
    })
}

impl Guard {
    fn run(&mut self, child: Option<i32>) -> io::Result<u8> {
        let mut deaths = Deaths::default();
        let mut child = child
            .map(|pid| process::pidfd_open(pid).map(|pidfd| (Child { pid, pidfd }, None)))
            .transpose()?;
        loop {
            let began = mono_ms();
            let (keeper, ready) = match child.take() {
                Some(there) => there,
                None => self.start().map(|(child, ready)| (child, Some(ready)))?,
            };
            let ended = self.attend(&keeper, ready)?;
            let code = ended.code().clamp(0, 255) as u8;
            // Asked to, of its own will, or not able to serve at all.
            if self.ending || code == 0 || !self.told {
                return Ok(code);
            }
            let Some(pause) = deaths.another(mono_ms() - began) else {
                crate::error!(
                    "keeper: {DEATHS} in a row have died soon after their start; containers end with the unit"
                );
                return Ok(125);
            };
            crate::warn!(
                "keeper {} has died ({ended:?}); another takes over, containers go on",
                keeper.pid
            );
            // Cut short by a signal, which the next keeper gets.
            let _ = socket::wait_readable(self.signals.as_fd(), pause);
        }
    }

    /// Starts a keeper of the version that is installed. Signals for it wait until it takes them.
    fn start(&self) -> io::Result<(Child, OwnedFd)> {
        let program = reload::installed()?;
        let (ready, theirs) = socket::pair()?;
        let layout = &self.layout;
        let args: [OsString; 8] = [
            "keeper".into(),
            "--root".into(),
            layout.data().into(),
            "--runroot".into(),
            layout.run().into(),
            "--unit".into(),
            "--ready-fd".into(),
            READY.to_string().into(),
        ];
        let guard = std::process::id();
        match process::clone(&CloneArgs::default())? {
            Cloned::Parent(child) => Ok((child, ready)),
            Cloned::Child => {
                // A guard that is killed is followed by another with a keeper of its own, where its unit does not end the containers.
                if process::set_parent_death_signal(SIGKILL).is_ok()
                    && std::os::unix::process::parent_id() == guard
                    && let Ok(theirs) = process::close_all_but(READY, vec![theirs])
                    && process::place(theirs[0].as_fd(), READY, false).is_ok()
                {
                    let error = spawn::exec(
                        spawn::Program::At(program.as_os_str()),
                        &args,
                        &[env::PATH, env::JOURNAL_STREAM],
                    );
                    crate::error!("keeper: run `{}`: {error}", program.display());
                }
                process::exit_now(125);
            }
        }
    }

    /// Passes signals on to the keeper until it has ended.
    fn attend(&mut self, keeper: &Child, mut ready: Option<OwnedFd>) -> io::Result<Ended> {
        let epoll = Epoll::new()?;
        epoll.add(self.signals.as_fd(), SIGNALS, Interest::READ)?;
        epoll.add(keeper.pidfd.as_fd(), END, Interest::READ)?;
        if let Some(ready) = &ready {
            epoll.add(ready.as_fd(), WORD, Interest::READ)?;
        }
        loop {
            let (mut signal, mut end, mut word) = (false, false, false);
            epoll.wait(None, |event| match event.token {
                SIGNALS => signal = true,
                WORD => word = true,
                _ => end = true,
            })?;
            if word && let Some(ready) = ready.take() {
                self.hear(&ready);
            }
            if end {
                return process::wait(keeper.pidfd.as_fd());
            }
            while signal && let Some(signal) = self.signals.read()? {
                self.ending |= signal.number != SIGHUP;
                // One that has just ended is heard of next.
                let _ = process::send_signal(keeper.pidfd.as_fd(), signal.number);
                if signal.number == SIGHUP && ready.is_none() {
                    self.renew(keeper.pid);
                }
            }
        }
    }

    /// What a keeper says of its start.
    fn hear(&mut self, ready: &OwnedFd) {
        let mut text = [0; 4096];
        let length = socket::recv(ready.as_fd(), &mut text).unwrap_or(0);
        match &text[..length] {
            [] => {}
            start::READY if self.told => {}
            start::READY => {
                self.told = true;
                super::run::tell_systemd();
            }
            error => crate::error!("keeper: {}", String::from_utf8_lossy(error)),
        }
    }

    /// Becomes the version that is installed, with the same keeper; stays as it is where that cannot be done.
    fn renew(&self, keeper: i32) {
        let layout = &self.layout;
        let args: [OsString; 7] = [
            "keeper".into(),
            "--root".into(),
            layout.data().into(),
            "--runroot".into(),
            layout.run().into(),
            "--guard-of".into(),
            keeper.to_string().into(),
        ];
        let error = match reload::installed() {
            Ok(program) => {
                let keep = [env::PATH, env::JOURNAL_STREAM, env::NOTIFY_SOCKET];
                spawn::exec(spawn::Program::At(program.as_os_str()), &args, &keep)
            }
            Err(error) => error,
        };
        crate::warn!("keeper: its guard stays of the old version: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keepers_that_die_young_come_again_later_and_later_and_then_no_more() {
        let mut deaths = Deaths::default();
        let pause = |deaths: &mut Deaths, lived| deaths.another(lived).map(|pause| pause.as_millis());
        let pauses: Vec<_> = (0..8).map(|_| pause(&mut deaths, WELL_MS - 1)).collect();
        let wanted = [
            Some(0),
            Some(100),
            Some(200),
            Some(400),
            Some(800),
            Some(1600),
            None,
            None,
        ];
        assert_eq!(pauses, wanted);
        assert_eq!(pause(&mut deaths, WELL_MS), Some(0), "one was well");
        assert_eq!(pause(&mut deaths, 0), Some(100));
    }
}

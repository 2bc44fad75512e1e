//! A container's life after its creation: started, signalled, stopped and continued, changed, removed.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use super::create::poststart;
use super::state::START;
use super::{Container, OciError, Status};
use crate::runtime::cgroup::Handle;
use crate::runtime::create::{self, Created};
use crate::runtime::hooks;
use crate::runtime::notify::Notify;
use crate::sys::{errno, path, process, socket};
use crate::types::bounds::READY_S;
use crate::types::oci::runtime::{LinuxResources, Spec};

/// Signal 9.
const KILL: i32 = 9;
/// Seconds that a killed process may take to end.
const END_S: u64 = 10;

impl Container {
    /// Lets the program run.
    pub fn start(&self) -> Result<(), OciError> {
        let wrong = |text: &str| Err(OciError::Status(text.to_owned()));
        match self.status() {
            Status::Created => {}
            Status::Stopped => return wrong("cannot start a container that has stopped"),
            Status::Running | Status::Paused => return wrong("cannot start an already running container"),
        }
        let Some(pidfd) = self.pidfd() else {
            return wrong("cannot start a container that has stopped");
        };
        let connect = || {
            let dir = path::open_root(&self.dir)?;
            let socket = socket::connect_at(dir.as_fd(), START, Duration::from_secs(READY_S))?;
            // Of two that come at once, one takes the name away and goes on.
            fs::remove_file(self.start_socket())?;
            Ok::<_, io::Error>(socket)
        };
        let socket = match connect() {
            Err(e) if io::ErrorKind::NotFound == e.kind() => return wrong("cannot start an already running container"),
            done => done.map_err(OciError::io("connect to", &self.start_socket()))?,
        };
        let spec = self.spec()?;
        let notify = Notify::of(spec, Some(&self.hook_state("created")));
        create::start_at(socket, (self.state.pid, pidfd.as_fd()), notify.as_ref())?;
        self.after_start(spec)
    }

    /// As [`Container::start`], for the process that has made it.
    pub fn start_own(&self, created: &mut Created) -> Result<(), OciError> {
        created.start()?;
        self.after_start(self.spec()?)
    }

    fn after_start(&self, spec: &Spec) -> Result<(), OciError> {
        let done = poststart(self, spec);
        if let (Err(_), Some(pidfd)) = (&done, self.pidfd()) {
            // As the specification wants it: whose hooks fail does not run.
            let _ = process::send_signal(pidfd.as_fd(), KILL);
        }
        done
    }

    /// Sends a signal to the first process, or to all.
    pub fn signal(&self, signal: i32, all: bool) -> Result<(), OciError> {
        if all {
            if let Some(group) = &self.state.group {
                match signal {
                    KILL => drop(group.kill()?),
                    other => drop(group.signal(other)),
                }
                return Ok(());
            }
            if self.status() == Status::Stopped {
                return Ok(());
            }
        }
        let gone = || OciError::Status("container not running".to_owned());
        let pidfd = self.pidfd().ok_or_else(gone)?;
        match process::send_signal(pidfd.as_fd(), signal) {
            Err(e) if e.raw_os_error() == Some(errno::ESRCH) => return Err(gone()),
            done => done.map_err(OciError::io("signal", Path::new(&self.state.id)))?,
        }
        if let (KILL, Some(group)) = (signal, self.state.group.as_ref().filter(|group| group.is_frozen())) {
            // On v1 a stopped task takes not even this one.
            group.freeze(false)?;
        }
        Ok(())
    }

    /// Removes it. One that runs is refused unless `force` kills it. Failing hooks of `hooks.poststop` do not keep it; their
    /// texts are the result.
    pub fn delete(&self, force: bool) -> Result<Vec<String>, OciError> {
        let status = self.status();
        let may = force || matches!(status, Status::Created | Status::Stopped);
        if !may {
            let text = format!(
                "cannot delete container {} that is not stopped: {}",
                self.state.id,
                status.name()
            );
            return Err(OciError::Status(text));
        }
        if let Some(pidfd) = self.pidfd() {
            // Ended meanwhile is as good.
            let _ = process::send_signal(pidfd.as_fd(), KILL);
            if let Some(group) = self.state.group.as_ref().filter(|_| status == Status::Paused) {
                group.freeze(false)?;
            }
            let ended = socket::wait_readable(pidfd.as_fd(), Duration::from_secs(END_S));
            if !ended.map_err(OciError::io("wait for", Path::new(&self.state.id)))? {
                return Err(OciError::Status("container init still running".to_owned()));
            }
        }
        self.destroy()
    }

    /// Removes what is left of a container that has ended.
    pub fn destroy(&self) -> Result<Vec<String>, OciError> {
        let spec = self.spec();
        if let Some(group) = &self.state.group {
            // Without a pid namespace of its own others may outlive the first.
            if group.members().is_some_and(|members| !members.is_empty()) {
                group.kill()?;
            }
            group.remove()?;
        }
        match fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(OciError::io("remove", &self.dir)(e)),
            _ => {}
        }
        let hooks = spec.ok().and_then(|spec| spec.hooks.as_ref()?.poststop.clone());
        let state = self.hook_state("stopped");
        let run = |hook| hooks::run("poststop", Some(&vec![hook]), &state).err();
        Ok(hooks
            .into_iter()
            .flatten()
            .filter_map(run)
            .map(|e| e.to_string())
            .collect())
    }

    /// Stops all its tasks.
    pub fn pause(&self) -> Result<(), OciError> {
        match self.status() {
            Status::Running | Status::Created => Ok(self.group()?.freeze(true)?),
            status => Err(OciError::Status(format!(
                "container not running or created: {}",
                status.name()
            ))),
        }
    }

    /// Continues all its tasks.
    pub fn resume(&self) -> Result<(), OciError> {
        match self.group()?.is_frozen() {
            true => Ok(self.group()?.freeze(false)?),
            false => Err(OciError::Status("container not paused".to_owned())),
        }
    }

    /// Changes limits; those that are not named stay.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), OciError> {
        if self.status() == Status::Stopped {
            return Err(OciError::Status("container not running".to_owned()));
        }
        let devices = "linux.resources.devices".to_owned();
        let mut changed = self.clone();
        let left_out = &mut changed.state.left_out;
        // Rules of devices are no limits; the rest is an error where it cannot be had.
        match (self.group()?.change(resources)?, left_out.contains(&devices)) {
            (false, false) => left_out.push(devices),
            _ => return Ok(()),
        }
        changed.save()
    }

    /// Its processes, in the caller's pid namespace.
    pub fn processes(&self) -> Result<Vec<i32>, OciError> {
        if self.status() == Status::Stopped {
            return Err(OciError::Status("container not running".to_owned()));
        }
        match self.state.group.as_ref().and_then(Handle::members) {
            Some(members) => Ok(members),
            None => Ok(same_pid_namespace(self.state.pid)),
        }
    }

    pub(super) fn group(&self) -> Result<&Handle, OciError> {
        let none = || OciError::Status("the container has no control group".to_owned());
        self.state.group.as_ref().ok_or_else(none)
    }
}

/// Without a control group: who is in the same pid namespace, where that is not the caller's.
fn same_pid_namespace(pid: i32) -> Vec<i32> {
    let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let theirs = of(&pid.to_string());
    if theirs.is_none() || theirs == of("self") {
        return vec![pid];
    }
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut all: Vec<i32> = entries
        .filter_map(|entry| entry.file_name().to_str().map(str::to_owned))
        .filter(|name| name.parse::<i32>().is_ok() && of(name) == theirs)
        .filter_map(|name| name.parse().ok())
        .collect();
    all.sort_unstable();
    all
}

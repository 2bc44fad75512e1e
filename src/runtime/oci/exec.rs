//! A further process in a container, for callers of runc's command line.

use std::os::fd::AsFd;
use std::path::PathBuf;

use super::create::{CONSOLE_PATIENCE, id_map, own_streams};
use super::{Console, Container, OciError, Status};
use crate::disk::durable;
use crate::runtime::error::RuntimeError;
use crate::runtime::exec;
use crate::runtime::launch::{ExecLaunch, ExecProcess, Stdio};
use crate::sys::{process, socket};
use crate::types::oci::runtime::{Process, Spec};

/// What the caller asks for.
#[derive(Debug, Clone, Default)]
pub struct Exec {
    /// What runs and how.
    pub process: Process,
    /// What happens with its terminal, if it has one.
    pub console: Console,
    /// Where its number is written.
    pub pid_file: Option<PathBuf>,
    /// Descriptors from number 3 on that the program gets.
    pub kept_fds: u16,
    /// A group below the container's, instead of that.
    pub cgroup: Option<String>,
    /// Also in a container that is paused, where it waits for the others.
    pub ignore_paused: bool,
}

impl Container {
    /// Runs a process; a child of the caller, which must not fork for anything else afterwards.
    pub fn exec(&self, spec: &Spec, wanted: &Exec) -> Result<ExecProcess, OciError> {
        let refused = |text: &str| Err(OciError::Status(text.to_owned()));
        match self.status() {
            Status::Stopped => return refused("cannot exec in a stopped container"),
            Status::Paused if !wanted.ignore_paused => {
                return refused("cannot exec in a paused container (use --ignore-paused to override)");
            }
            _ => {}
        }
        let Some(pidfd) = self.pidfd() else {
            return refused("cannot exec in a stopped container");
        };
        let terminal = wanted.process.terminal == Some(true);
        wanted.console.check(terminal)?;
        let map = id_map(spec)?;
        let below = match &wanted.cgroup {
            Some(path) => Some(self.group()?.below(path)?),
            None => None,
        };
        let mut made = exec::exec(ExecLaunch {
            pid: self.state.pid,
            pidfd: pidfd.as_fd(),
            spec,
            id_map: map.as_ref(),
            cgroup: below.as_ref().or(self.state.group.as_ref()),
            process: &wanted.process,
            user: None,
            filter: None,
            stdio: if terminal {
                Stdio::Terminal {
                    size: wanted.console.size(),
                }
            } else {
                own_streams()?
            },
            die_with_parent: false,
            sibling: false,
            state: Some(self.hook_state("running")),
            kept_fds: wanted.kept_fds,
        })?;
        let told = self.tell(wanted, &mut made);
        if told.is_err() {
            // Nobody knows of it.
            let _ = process::send_signal(made.pidfd.as_fd(), 9);
        }
        told.map(|()| made)
    }

    fn tell(&self, wanted: &Exec, made: &mut ExecProcess) -> Result<(), OciError> {
        if let (Console::Socket(path), Some(master)) = (&wanted.console, &made.console) {
            socket::hand_over(path, b"/dev/ptmx", master.as_fd(), CONSOLE_PATIENCE)
                .map_err(OciError::io("send the terminal to", path))?;
            made.console = None;
        }
        match &wanted.pid_file {
            Some(path) => Ok(durable::write_volatile(path, made.pid.to_string().as_bytes())?),
            None => Ok(()),
        }
    }

    /// The container's own process, for others that are to be like it.
    pub fn process(spec: &Spec) -> Result<Process, OciError> {
        let process = spec.process.clone();
        Ok(process.ok_or_else(|| RuntimeError::spec("process", "must be there"))?)
    }
}

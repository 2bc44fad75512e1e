//! Becoming another binary without letting go of anything: the descriptors stay open across exec, and a list of them
//! travels in a socket.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::run::Options;
use super::serve::{Kind, Server, Starting};
use super::{spawn, wire};
use crate::config::env;
use crate::config::subid::StoreMap;
use crate::disk::layout::Layout;
use crate::runtime::cgroup::Tree;
use crate::sys::event::SignalFd;
use crate::sys::{process, seal, socket};
use crate::types::bounds::PACKET_BYTES;
use crate::types::ids::ContainerId;

/// What a keeper hands to its next self. Numbers are descriptors.
#[derive(Debug, Serialize, Deserialize)]
struct Legacy {
    layout: Layout,
    unit: bool,
    idle_ms: u64,
    lock: i32,
    listener: i32,
    userns: i32,
    tree: Tree,
    ids: StoreMap,
    clients: Vec<(u64, i32)>,
    monitors: Vec<Monitor>,
    /// Process and the key of its client.
    workers: Vec<(i32, u64)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Monitor {
    id: ContainerId,
    pid: i32,
    pidfd: i32,
    child: bool,
    /// Socket, key of the client, deadline.
    starting: Option<(i32, u64, u64)>,
}

/// Executes the binary that is installed now in this process. Returns the reason if that cannot be done; then everything is as
/// before.
pub(super) fn reload(server: &Server) -> String {
    match prepare(server) {
        Err(error) => error.to_string(),
        Ok((program, resume, kept)) => {
            let number = resume.as_raw_fd().to_string();
            let args = [OsString::from("keeper"), "--resume-fd".into(), number.into()];
            let keep = [env::PATH, env::JOURNAL_STREAM, env::NOTIFY_SOCKET];
            let error = spawn::exec(spawn::Program::At(program.as_os_str()), &args, &keep);
            for fd in kept {
                // Still ours: back to what they were.
                let _ = process::place(fd, fd.as_raw_fd(), true);
            }
            format!("run `{}`: {error}", program.display())
        }
    }
}

type Prepared<'a> = (PathBuf, OwnedFd, Vec<BorrowedFd<'a>>);

fn prepare(server: &Server) -> io::Result<Prepared<'_>> {
    let (resume, ours) = socket::pair()?;
    socket::set_nonblocking(ours.as_fd(), true)?;
    let mut legacy = Legacy {
        layout: server.options.layout.clone(),
        unit: server.options.unit,
        idle_ms: server.options.idle_ms,
        lock: server.lock.as_raw_fd(),
        listener: server.listener.as_raw_fd(),
        userns: server.userns.as_raw_fd(),
        tree: server.tree.clone(),
        ids: server.ids.clone(),
        clients: Vec::new(),
        monitors: Vec::new(),
        workers: Vec::new(),
    };
    let mut kept = vec![server.lock.as_fd(), server.listener.as_fd(), server.userns.as_fd()];
    for client in &server.clients {
        legacy.clients.push((client.key, client.socket.as_raw_fd()));
        kept.push(client.socket.as_fd());
    }
    for process in &server.processes {
        match &process.kind {
            Kind::Worker { client } => legacy.workers.push((process.pid, *client)),
            Kind::Monitor { id, starting } => {
                kept.push(process.pidfd.as_fd());
                kept.extend(starting.as_ref().map(|starting| starting.socket.as_fd()));
                let starting = starting.as_ref().map(|s| (s.socket.as_raw_fd(), s.client, s.deadline));
                let pidfd = process.pidfd.as_raw_fd();
                legacy.monitors.push(Monitor {
                    id: *id,
                    pid: process.pid,
                    pidfd,
                    child: process.child,
                    starting,
                });
            }
        }
    }
    let packet = wire::encode(&legacy).map_err(|error| io::Error::other(error.to_string()))?;
    socket::send(ours.as_fd(), &packet)?;
    for fd in &kept {
        process::place(*fd, fd.as_raw_fd(), false)?;
    }
    process::place(resume.as_fd(), resume.as_raw_fd(), false)?;
    Ok((installed()?, resume, kept))
}

/// The binary that now has the name of the running one.
pub(super) fn installed() -> io::Result<PathBuf> {
    let path = seal::own_path()?;
    let name = path.to_string_lossy();
    Ok(name
        .strip_suffix(" (deleted)")
        .map_or_else(|| path.clone(), PathBuf::from))
}

/// The server that the previous self left behind the descriptor `resume`.
pub(super) fn resume(resume: i32, signals: SignalFd) -> io::Result<Server> {
    let resume = process::inherited(resume)?;
    let mut packet = vec![0; PACKET_BYTES];
    socket::set_nonblocking(resume.as_fd(), true)?;
    let length = socket::recv(resume.as_fd(), &mut packet)?;
    let legacy: Legacy = wire::decode(&packet[..length]).map_err(|error| io::Error::other(error.to_string()))?;
    let options = Options {
        layout: legacy.layout,
        unit: legacy.unit,
        idle_ms: legacy.idle_ms,
    };
    let [lock, listener, userns] = [legacy.lock, legacy.listener, legacy.userns].map(process::inherited);
    let mut server = Server::new(options, lock?, listener?, userns?, legacy.tree, legacy.ids, signals)?;
    let mut keys = Vec::with_capacity(legacy.clients.len());
    for (old, fd) in legacy.clients {
        keys.push((old, server.welcome(process::inherited(fd)?)?));
    }
    // A client that is gone has no key any more; 0 is none's.
    let key = |old: u64| keys.iter().find(|(known, _)| *known == old).map_or(0, |(_, new)| *new);
    for monitor in legacy.monitors {
        let starting = match monitor.starting {
            None => None,
            Some((fd, client, deadline)) => {
                let socket = process::inherited(fd)?;
                Some(Starting {
                    key: server.expect(socket.as_fd())?,
                    socket,
                    client: key(client),
                    deadline,
                })
            }
        };
        let kind = Kind::Monitor {
            id: monitor.id,
            starting,
        };
        server.watch(monitor.pid, process::inherited(monitor.pidfd)?, kind, monitor.child)?;
    }
    for (pid, client) in legacy.workers {
        // A child that was not waited for keeps its number.
        let pidfd = process::pidfd_open(pid)?;
        server.watch(pid, pidfd, Kind::Worker { client: key(client) }, true)?;
    }
    Ok(server)
}

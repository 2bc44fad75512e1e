//! The end of a keeper's unit: every container is asked to end, then made to.

use std::os::fd::AsFd as _;
use std::time::Duration;

use super::serve::{Kind, Server};
use crate::monitor::client;
use crate::monitor::wire::Open;
use crate::sys::event;
use crate::sys::process;
use crate::types::bounds::{KEEPER_KILL_MS, KEEPER_STOP_MS};

/// Asks all monitors to stop their containers, waits, and kills what is left.
pub(super) fn stop(server: &mut Server) {
    let mark = server.options.layout.stopped();
    if server.options.unit
        && let Err(error) = std::fs::write(&mark, "")
    {
        crate::warn!("keeper: write `{}`: {error}", mark.display());
    }
    let mut asked = Vec::new();
    for process in &server.processes {
        let Kind::Monitor { id, .. } = &process.kind else {
            continue;
        };
        let asking = client::connect(&server.options.layout.monitor(id)).and_then(|connection| {
            connection.ask(Open::Stop {
                signal: None,
                timeout_ms: None,
            })?;
            Ok(connection)
        });
        match asking {
            // Kept open: a connection that closes takes its request back.
            Ok(connection) => asked.push(connection),
            Err(error) => crate::warn!("keeper: container `{id}` cannot be asked to stop: {error}"),
        }
    }
    wait(server, KEEPER_STOP_MS);
    for process in &server.processes {
        if let Kind::Monitor { id, .. } = &process.kind {
            crate::warn!(
                "keeper: container `{id}` did not end within {} s and is killed",
                KEEPER_STOP_MS / 1000
            );
            if let Err(error) = server.tree.container(id).kill() {
                crate::warn!("keeper: {error}");
            }
        }
    }
    // Monitors end when their containers have; one that hangs is killed too.
    wait(server, KEEPER_KILL_MS);
    for process in &server.processes {
        let _ = process::send_signal(process.pidfd.as_fd(), 9);
    }
    wait(server, KEEPER_KILL_MS);
}

/// Waits until all processes have ended, for so many milliseconds at most.
fn wait(server: &mut Server, patience_ms: u64) {
    let deadline = event::mono_ms() + patience_ms;
    while !server.processes.is_empty() {
        let left = deadline.saturating_sub(event::mono_ms());
        if left == 0 {
            return;
        }
        // One at a time: the time is that of the slowest in any order.
        let first = &server.processes[0];
        match crate::sys::socket::wait_readable(first.pidfd.as_fd(), Duration::from_millis(left)) {
            Ok(false) => return,
            Ok(true) | Err(_) => {
                if first.child {
                    // Only so that no zombie stays.
                    let _ = process::try_wait(first.pidfd.as_fd());
                }
                server.processes.swap_remove(0);
            }
        }
    }
}

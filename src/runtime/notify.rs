//! The listener of a seccomp filter: given to whom the bundle names (config-linux.md, "Seccomp").
//!
//! The filtered process need not send it, since every call of its may be one that waits for the listener. It says which
//! number the listener will have, loads the filter, and waits; the parent takes the descriptor out of it.

use std::os::fd::{AsFd, BorrowedFd, IntoRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::error::{Errno, RuntimeError};
use super::hooks::HookState;
use super::message::{ChildEnd, ParentEnd, ToChild, ToParent};
use super::seccomp;
use crate::sys::process;
use crate::sys::seccomp::flag;
use crate::sys::{errno, socket};
use crate::types::bounds::READY_S;
use crate::types::oci::runtime::Spec;

/// How long the one who shall get a listener may take to be ready for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Version of [`Told`].
const VERSION: &str = "0.2.0";
/// First and longest pause between two looks for the listener.
const PAUSES: (Duration, Duration) = (Duration::from_micros(50), Duration::from_millis(5));

/// Who wants the listener, and what it is told.
#[derive(Debug, Clone)]
pub struct Notify {
    path: PathBuf,
    metadata: Option<String>,
    state: HookState,
}

/// runtime.md, "Container Process State".
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    oci_version: &'a str,
    fds: [&'a str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a str>,
    state: &'a HookState,
}

impl Notify {
    /// Of a specification that names somebody.
    pub fn of(spec: &Spec, state: Option<&HookState>) -> Option<Self> {
        let seccomp = spec.linux.as_ref()?.seccomp.as_ref()?;
        Some(Notify {
            path: seccomp.listener_path.clone()?,
            metadata: seccomp.listener_metadata.clone(),
            state: state?.clone(),
        })
    }

    /// The same with what is known by now.
    pub fn with(self, status: &'static str, pid: i32) -> Self {
        let state = HookState {
            status,
            pid: Some(pid),
            ..self.state
        };
        Notify { state, ..self }
    }

    fn text(&self, pid: i32) -> Vec<u8> {
        let told = Told {
            oci_version: VERSION,
            fds: ["seccompFd"],
            pid,
            metadata: self.metadata.as_deref(),
            state: &self.state,
        };
        // Texts and numbers always become JSON.
        serde_json::to_vec(&told).unwrap_or_default()
    }
}

/// For the process that is about to load `filter`: tells the parent where a listener will be.
pub fn announce(filter: &seccomp::Program, parent: &ChildEnd) -> Result<(), RuntimeError> {
    if filter.flags & flag::NEW_LISTENER == 0 {
        return Ok(());
    }
    let fail = || RuntimeError::process("prepare for the seccomp listener");
    // Without this only root of the host could take something out of it. Nobody else is in its pid namespace, or it is one
    // of those already.
    process::set_dumpable(true).map_err(fail())?;
    let number = process::next_number().map_err(fail())?;
    parent.send(&ToParent::Listener(number), None)
}

/// For the same, once the filter is loaded. The listener stays open until exec: to close it may be forbidden.
pub fn keep(listener: OwnedFd, parent: &ChildEnd) -> Result<(), RuntimeError> {
    let _ = listener.into_raw_fd();
    parent.await_taken()
}

/// For the parent: gives the listener of `child` (number and pidfd), which has announced it, to whom it belongs.
pub fn pass_on(
    notify: Option<&Notify>,
    end: &ParentEnd,
    child: (i32, BorrowedFd<'_>),
    number: i32,
) -> Result<(), RuntimeError> {
    let Some(notify) = notify else {
        return Err(RuntimeError::spec("linux.seccomp.listenerPath", "must be there"));
    };
    let listener = take(child, number)?;
    hand_over(&notify.path, &notify.text(child.0), &listener)?;
    end.send(ToChild::Taken)
}

fn hand_over(path: &Path, text: &[u8], listener: &OwnedFd) -> Result<(), RuntimeError> {
    let action = format!("give the listener to `linux.seccomp.listenerPath` `{}`", path.display());
    socket::hand_over(path, text, listener.as_fd(), PATIENCE).map_err(RuntimeError::process(action))
}

fn take((pid, pidfd): (i32, BorrowedFd<'_>), number: i32) -> Result<OwnedFd, RuntimeError> {
    let deadline = Instant::now() + Duration::from_secs(READY_S);
    let (mut pause, longest) = PAUSES;
    loop {
        match process::take_descriptor(pidfd, number) {
            // It is not there yet.
            Err(e) if e.raw_os_error() == Some(errno::EBADF) && Instant::now() < deadline => {}
            done => {
                return done.map_err(|e| RuntimeError::Seccomp {
                    problem: format!("take the listener out of process {pid}: {}", Errno::from(e)),
                });
            }
        }
        thread::sleep(pause);
        pause = longest.min(pause * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listener_is_told_what_the_specification_says() {
        let json = r#"{"ociVersion":"1.2.0","linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/s",
            "listenerMetadata":"m"}}}"#;
        let spec: Spec = serde_json::from_str(json).expect("a specification");
        let state = HookState {
            oci_version: "1.2.0".into(),
            id: "x".into(),
            status: "creating",
            bundle: "/b".into(),
            ..HookState::default()
        };
        let notify = Notify::of(&spec, Some(&state)).expect("a listener").with("running", 7);
        let expected = r#"{"ociVersion":"0.2.0","fds":["seccompFd"],"pid":8,"metadata":"m","state":{"ociVersion":"1.2.0","id":"x","status":"running","pid":7,"bundle":"/b"}}"#;
        assert_eq!(String::from_utf8(notify.text(8)).expect("text"), expected);
        assert!(Notify::of(&spec, None).is_none());
    }
}

//! The control socket: how a technician's command line, and whoever watches over an agent, speak with it.
//!
//! ```text
//! <run>/agent.sock   0600, SOCK_SEQPACKET; one request and one answer on each connection, both JSON
//! {"rollback":"web"} → {"Ok":null} or {"Err":{"code":"busy","detail":"…"}}
//! ```
//!
//! Only the store's owner is answered. What is under way is not told here but read from the agent's files (`explain`), so that it can be
//! seen while no agent runs.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;

use crate::disk::layout::Layout;
use crate::sys::{creds, socket};
use crate::types::deployment::{Cause, Reason};

/// The socket's name in the run root.
const NAME: &str = "agent.sock";
/// Bytes of a request and of an answer.
const MESSAGE_BYTES: usize = 64 << 10;
/// The longest wait for a request of somebody who has connected, and for room for its answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Requests that wait for the agent's loop.
const WAITING: usize = 8;

/// What an agent is asked.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// How it is: its version, and whether it keeps the device at its set.
    Health,
    /// Read the local documents again; answers with their activity, and whether they changed.
    Reread,
    /// Leave this app's version for the one before.
    Rollback(String),
    /// Lift these apps' quarantine.
    Retry(Vec<String>),
    /// Let the update that this app's lock holds back go on once.
    Unlock(String),
    /// Begin anew with the numbers of accepted documents.
    ResetTrust,
    /// Try the program that was brought; an older version only where that is allowed.
    Renew {
        /// It is.
        allow_downgrade: bool,
    },
    /// This agent, which was on trial, stays.
    Committed,
    /// Look now at the tags that apps follow; answers with the apps whose tags moved, and those that could not be looked at.
    AutoUpdate,
}

/// An answer.
pub type Answer = Result<Value, Cause>;

/// A request with whoever waits for its answer.
pub struct Asked {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes.
    pub reply: Reply,
}

/// Where an answer goes. Dropped, it answers nothing.
pub struct Reply(OwnedFd);

impl Reply {
    /// Answers.
    pub fn send(self, answer: &Answer) {
        let bytes = serde_json::to_vec(answer).unwrap_or_default();
        if let Err(error) = socket::send(self.0.as_fd(), &bytes) {
            crate::debug!("answer on the control socket: {error}");
        }
    }
}

/// Listens for requests, on a thread of its own. The agent's lock keeps two agents from listening at the same place.
pub fn listen(layout: &Layout) -> io::Result<mpsc::Receiver<Asked>> {
    let path = path(layout);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = socket::listen_at(File::open(layout.run())?.as_fd(), NAME)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    socket::set_nonblocking(listener.as_fd(), false)?;
    let (sender, requests) = mpsc::channel(WAITING);
    let serve = move || {
        loop {
            let asked = match socket::accept(listener.as_fd()) {
                Ok(caller) => receive(caller),
                Err(error) => {
                    crate::warn!("control socket: {error}");
                    std::thread::sleep(PATIENCE);
                    continue;
                }
            };
            match asked {
                Ok(asked) => {
                    if sender.blocking_send(asked).is_err() {
                        return;
                    }
                }
                Err(error) => crate::debug!("control socket: {error}"),
            }
        }
    };
    std::thread::Builder::new().name("control".into()).spawn(serve)?;
    Ok(requests)
}

fn receive(caller: OwnedFd) -> io::Result<Asked> {
    let (own, _) = creds::effective_ids();
    let peer = socket::peer_cred(caller.as_fd())?;
    if peer.uid != own {
        return Err(io::Error::other(format!("user {} is not the store's owner", peer.uid)));
    }
    socket::set_nonblocking(caller.as_fd(), false)?;
    socket::set_timeouts(caller.as_fd(), Some(PATIENCE))?;
    let mut buffer = vec![0; MESSAGE_BYTES];
    let length = socket::recv(caller.as_fd(), &mut buffer)?;
    let reply = Reply(caller);
    match serde_json::from_slice(&buffer[..length]) {
        Ok(request) => Ok(Asked { request, reply }),
        Err(error) => {
            reply.send(&Err(Cause::new(Reason::Schema, format!("request: {error}"))));
            Err(error.into())
        }
    }
}

/// Asks the agent; `None` when none runs.
pub fn ask(layout: &Layout, request: &Request, patience: Duration) -> io::Result<Option<Answer>> {
    let connected = File::open(layout.run()).and_then(|run| socket::connect_at(run.as_fd(), NAME, PATIENCE));
    let agent = match connected {
        Ok(agent) => agent,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    socket::set_timeouts(agent.as_fd(), Some(patience))?;
    socket::send(agent.as_fd(), &serde_json::to_vec(request)?)?;
    let mut buffer = vec![0; MESSAGE_BYTES];
    let length = socket::recv(agent.as_fd(), &mut buffer)?;
    if length == 0 {
        return Err(io::Error::other("the agent stopped before it answered"));
    }
    Ok(Some(serde_json::from_slice(&buffer[..length])?))
}

fn path(layout: &Layout) -> PathBuf {
    layout.agent_socket()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_answered_and_rubbish_is_refused() {
        let dir = std::env::temp_dir().join(format!("dunlin-control-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let layout = Layout::new(&dir, &dir);
        let ask = |request: &Request| ask(&layout, request, PATIENCE);
        assert!(ask(&Request::Health).unwrap().is_none(), "no agent");
        let mut requests = listen(&layout).unwrap();
        let serve = std::thread::spawn(move || {
            while let Some(asked) = requests.blocking_recv() {
                match asked.request {
                    Request::Rollback(app) => asked.reply.send(&Ok(Value::from(app))),
                    Request::ResetTrust => return,
                    _ => asked.reply.send(&Err(Cause::new(Reason::Busy, "x"))),
                }
            }
        });
        assert_eq!(
            ask(&Request::Rollback("web".into())).unwrap(),
            Some(Ok(Value::from("web")))
        );
        assert_eq!(ask(&Request::Health).unwrap(), Some(Err(Cause::new(Reason::Busy, "x"))));
        let rubbish = socket::connect_at(File::open(&dir).unwrap().as_fd(), NAME, PATIENCE).unwrap();
        socket::send(rubbish.as_fd(), b"{\"health\":").unwrap();
        let mut buffer = [0; 1024];
        let length = socket::recv(rubbish.as_fd(), &mut buffer).unwrap();
        assert!(String::from_utf8_lossy(&buffer[..length]).contains("schema"));
        assert!(ask(&Request::ResetTrust).is_err(), "dropped without an answer");
        serve.join().unwrap();
        fs::remove_dir_all(dir).unwrap();
    }
}

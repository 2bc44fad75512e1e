//! The control socket: how a technician's command line, and whoever watches over an agent, speak with it.
//!
//! ```text
//! <run>/agent.sock   0600, SOCK_SEQPACKET; one request and one answer on each connection, both JSON
//! {"do":"rollback","apps":["web"]} → {"done":null} or {"failed":"busy: …"}
//! ```
//!
//! Only the store's owner is answered. What is under way is not told here but read from the agent's files (`explain`), so that it can be
//! seen while no agent runs.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::disk::layout::Layout;
use crate::sys::{creds, socket};
use crate::types::deployment::{Cause, Reason};
use crate::types::read;

/// The socket's name in the run root.
const NAME: &str = "agent.sock";
/// Bytes of a request and of an answer.
const MESSAGE_BYTES: usize = 64 << 10;
/// The longest wait for a request of somebody who has connected, and for room for its answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What an agent is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// How it is: its version, and whether it keeps the device at its set.
    Health,
    /// Read the local documents again; answers with their activity.
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

impl Request {
    /// As it is sent: `{"do": VERB, "apps": […], "older": true}`.
    fn to_json(&self) -> Value {
        let word = match self {
            Request::Health => "health",
            Request::Reread => "reread",
            Request::Rollback(_) => "rollback",
            Request::Retry(_) => "retry",
            Request::Unlock(_) => "unlock",
            Request::ResetTrust => "reset-trust",
            Request::Renew { .. } => "renew",
            Request::Committed => "committed",
            Request::AutoUpdate => "auto-update",
        };
        let apps = match self {
            Request::Rollback(app) | Request::Unlock(app) => std::slice::from_ref(app),
            Request::Retry(apps) => apps,
            _ => &[],
        };
        let older = matches!(self, Request::Renew { allow_downgrade: true });
        json!({ "do": word, "apps": apps, "older": older })
    }

    fn from_json(value: &Value) -> Option<Request> {
        let apps: Vec<String> = match value["apps"].as_array() {
            Some(apps) => apps
                .iter()
                .map(|app| app.as_str().map(str::to_owned))
                .collect::<Option<_>>()?,
            None => Vec::new(),
        };
        let one = || apps.first().filter(|_| apps.len() == 1).cloned();
        Some(match value["do"].as_str()? {
            "health" => Request::Health,
            "reread" => Request::Reread,
            "rollback" => Request::Rollback(one()?),
            "unlock" => Request::Unlock(one()?),
            "retry" => Request::Retry(apps),
            "reset-trust" => Request::ResetTrust,
            "renew" => Request::Renew {
                allow_downgrade: value["older"].as_bool()?,
            },
            "committed" => Request::Committed,
            "auto-update" => Request::AutoUpdate,
            _ => return None,
        })
    }
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
        let answer = match answer {
            Ok(value) => json!({ "done": value }),
            Err(cause) => json!({ "failed": cause.to_string() }),
        };
        if let Err(error) = socket::send(self.0.as_fd(), answer.to_string().as_bytes()) {
            crate::debug!("answer on the control socket: {error}");
        }
    }
}

/// Listens for requests, on a thread of its own, until `tell` says that nobody takes them any more. The agent's lock keeps two agents from listening at the same place.
pub(super) fn listen(layout: &Layout, tell: Box<dyn Fn(Asked) -> bool + Send>) -> io::Result<()> {
    let path = layout.agent_socket();
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = socket::listen_at(File::open(layout.run())?.as_fd(), NAME)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    socket::set_nonblocking(listener.as_fd(), false)?;
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
                    if !tell(asked) {
                        return;
                    }
                }
                Err(error) => crate::debug!("control socket: {error}"),
            }
        }
    };
    std::thread::Builder::new().name("control".into()).spawn(serve)?;
    Ok(())
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
    let value = read::json_any(&buffer[..length]).ok();
    match value.as_ref().and_then(Request::from_json) {
        Some(request) => Ok(Asked { request, reply }),
        None => {
            reply.send(&Err(Cause::new(
                Reason::Schema,
                "the request is not known to this agent",
            )));
            Err(io::Error::other("a request that is not known"))
        }
    }
}

/// Asks the agent; `None` when none runs.
pub fn ask(layout: &Layout, request: &Request, patience: Duration) -> io::Result<Option<Result<Value, String>>> {
    let connected = File::open(layout.run()).and_then(|run| socket::connect_at(run.as_fd(), NAME, PATIENCE));
    let agent = match connected {
        Ok(agent) => agent,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    socket::set_timeouts(agent.as_fd(), Some(patience))?;
    socket::send(agent.as_fd(), request.to_json().to_string().as_bytes())?;
    let mut buffer = vec![0; MESSAGE_BYTES];
    let length = socket::recv(agent.as_fd(), &mut buffer)?;
    if length == 0 {
        return Err(io::Error::other("the agent stopped before it answered"));
    }
    let mut answer = read::json_any(&buffer[..length]).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(Some(match answer["failed"].as_str() {
        Some(text) => Err(text.to_owned()),
        None => Ok(answer["done"].take()),
    }))
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
        let (sender, requests) = std::sync::mpsc::channel();
        listen(&layout, Box::new(move |asked| sender.send(asked).is_ok())).unwrap();
        let serve = std::thread::spawn(move || {
            for asked in requests {
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
        assert_eq!(ask(&Request::Health).unwrap(), Some(Err("busy: x".into())));
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

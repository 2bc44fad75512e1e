//! What the agent answers at its control socket.

use serde_json::{Value, json};

use super::control::{Asked, Request};
use super::daemon::{Daemon, local_activity, synchronised};
use super::identity::VERSION;
use crate::deploy::Command;
use crate::types::deployment::{Cause, Reason};

impl Daemon {
    /// Answers at the control socket.
    pub(super) fn asked(&mut self, asked: Asked) {
        let Asked { request, reply } = asked;
        let answer = match request {
            Request::Health => Ok(json!({
                "agent": VERSION,
                "device": self.identity.device,
                "session": self.identity.session,
                "broker": self.settings.mqtt.as_ref().map(|_| self.connected()),
                "clock": synchronised().is_some(),
                "distrust": self.intake.distrust(),
            })),
            Request::Reread => {
                let before = self.local;
                self.reread();
                match self.local {
                    _ if !self.local_error.is_empty() => Err(Cause::new(Reason::Schema, self.local_error.clone())),
                    Some(digest) => Ok(json!({
                        "activity": local_activity(&digest),
                        "changed": before != self.local,
                    })),
                    None => Err(Cause::new(Reason::Busy, "the agent has too much to do; try again")),
                }
            }
            Request::Retry(apps) => {
                let sent = self.deployer.send(Command::Retry(apps));
                // The documents count as new again.
                self.local = None;
                self.reread();
                self.apply_effective();
                sent.map(|()| Value::Null)
            }
            Request::Rollback(app) => {
                let answer = Box::new(move |result: Result<(), Cause>| {
                    reply.send(&result.map(|()| Value::Null));
                });
                if let Err(cause) = self.deployer.send(Command::Rollback(app, answer)) {
                    // Whoever asked hears that nobody answered.
                    crate::warn!("{cause}");
                }
                return;
            }
            Request::ResetTrust => {
                crate::warn!("the numbers of accepted documents begin anew: somebody asked for it on this device");
                let reset = self.intake.reset(synchronised());
                self.subscribe();
                reset
                    .map(|()| Value::Null)
                    .map_err(|error| Cause::new(Reason::Disk, error.to_string()))
            }
        };
        reply.send(&answer);
    }
}

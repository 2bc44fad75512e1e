//! What the agent answers at its control socket.

use serde_json::{Value, json};

use super::control::{Asked, Request};
use super::daemon::{Daemon, local_activity, synchronised};
use super::identity::VERSION;
use super::renewal::{self, Terms};
use super::slots::Slots;
use crate::deploy::{Command, files};
use crate::disk::{DiskError, record};
use crate::types::deployment::{Cause, Reason, State};

fn disk(error: DiskError) -> Cause {
    Cause::new(Reason::Disk, error.to_string())
}

impl Daemon {
    /// Answers at the control socket.
    pub(super) fn asked(&mut self, asked: Asked) {
        let Asked { request, reply } = asked;
        let answer = match request {
            Request::Health => Ok(json!({
                "agent": VERSION,
                "ready": self.deployer.is_alive(),
                "slot": self.place.slot.as_str(),
                "trial": self.place.trial,
                "device": self.identity.device,
                "session": self.identity.session,
                "broker": self.settings.mqtt.as_ref().map(|_| self.connected()),
                "clock": synchronised().is_some(),
                "distrust": self.intake.distrust(),
            })),
            Request::Reread => {
                self.reread();
                match self.local {
                    _ if !self.local_error.is_empty() => Err(Cause::new(Reason::Schema, self.local_error.clone())),
                    Some(digest) => Ok(json!({ "activity": local_activity(&digest) })),
                    None => Err(Cause::new(Reason::Busy, "the agent has too much to do; try again")),
                }
            }
            Request::Retry(apps) => self.retry(apps).map(|()| Value::Null),
            Request::Rollback(_) | Request::Unlock(_) => {
                let answer = Box::new(move |result: Result<(), Cause>| {
                    reply.send(&result.map(|()| Value::Null));
                });
                let command = match request {
                    Request::Unlock(app) => Command::Unlock(app, answer),
                    Request::Rollback(app) => Command::Rollback(app, answer),
                    _ => return,
                };
                if let Err(cause) = self.deployer.send(command) {
                    // Whoever asked hears that nobody answered.
                    crate::warn!("{cause}");
                }
                return;
            }
            Request::ResetTrust => {
                crate::warn!("the numbers of accepted documents begin anew: somebody asked for it on this device");
                let reset = self.intake.reset(synchronised());
                self.subscribe();
                reset.map(|()| Value::Null).map_err(disk)
            }
            Request::AutoUpdate => {
                self.look_up(Some(reply));
                return;
            }
            Request::Renew { allow_downgrade } => {
                let answer = self.renew(allow_downgrade);
                self.renewed = answer.is_ok();
                answer
            }
            Request::Committed => {
                crate::info!("this agent stays");
                self.place.trial = false;
                record::write_older(false);
                self.tell_renewal();
                self.look();
                Ok(Value::Null)
            }
        };
        reply.send(&answer);
    }

    /// Lifts these apps' quarantine.
    pub(super) fn retry(&mut self, apps: Vec<String>) -> Result<(), Cause> {
        let sent = self.deployer.send(Command::Retry(apps));
        // The documents count as new again.
        self.local = None;
        self.reread();
        self.apply_effective();
        sent
    }

    /// Puts the program that was brought on trial. Not while a deployment moves: one change at a time.
    pub(super) fn renew(&mut self, allow_downgrade: bool) -> Result<Value, Cause> {
        let loaded = files::peek(&self.place.layout.agent()).map_err(disk)?;
        let rests = |state| matches!(state, State::Accepted | State::Waiting);
        if let Some(active) = loaded.journal.active.iter().find(|one| !rests(one.update.state)) {
            let text = format!("deployment {} is {}", active.record.activity, active.update.state);
            return Err(Cause::new(Reason::Busy, text));
        }
        let terms = Terms {
            trusted: self.intake.trusted(),
            current: VERSION,
            floor: self.intake.agent_floor(),
            allow_downgrade,
            broker: self.connected(),
        };
        let version = renewal::admit(&self.place.layout, &terms)?;
        crate::info!("agent {version} is tried");
        Ok(json!({ "version": version }))
    }

    /// Tells how the last trial of an agent ended, once; remembers the newest signed version that stays.
    pub(super) fn tell_renewal(&mut self) {
        if self.place.trial {
            return;
        }
        let told = Slots::open(&self.place.layout.agent()).and_then(|mut slots| {
            if slots.version(self.place.slot).is_some_and(|one| one.signed) {
                self.intake.raise_agent(VERSION)?;
            }
            let Some(last) = slots.state.last.as_mut().filter(|last| !last.told) else {
                return Ok(());
            };
            last.told = true;
            if let Some(cause) = &last.cause {
                let text = format!("agent {} was left for {VERSION}: {}", last.version, cause.detail);
                crate::error!("{text}");
                self.tell("agent", cause.code, None, text);
            }
            slots.write()
        });
        if let Err(error) = told {
            crate::error!("{error}");
        }
    }
}

//! What the agent tells the operator: presence, capabilities, what runs, deployments, events, answers.

use super::commands::Final;
use super::daemon::{Daemon, now, synchronised, unix};
use super::intake::Outcome;
use super::sources;
use crate::deploy::Report;
use crate::disk::DiskError;
use crate::types::deployment::{Cause, Reason};
use crate::types::document::{Event as Told, Reported};
use crate::types::time::Unix;
use crate::uplink::dsse::Kind;
use crate::uplink::json;

/// Shortest time between two `reported`, milliseconds.
pub(super) const REPORTED_MS: u64 = 5_000;
/// A state that a deployment passes through is told when one lasts so long, milliseconds; else the one that follows is.
const PASSING_MS: u64 = 2_000;

impl Daemon {
    /// Says that it is there, what it can do and what it runs.
    pub(super) fn announce(&mut self) {
        if self.intake.assign().retired {
            self.retire();
            return;
        }
        let presence = self.presence(true);
        self.outbox.set(self.topics.own("presence"), json(&presence));
        self.publish_caps();
        self.publish_reported();
    }

    pub(super) fn report(&mut self, report: Report) {
        match report {
            Report::Deployment(deploy) => {
                let record = &deploy.record;
                let reason = record.reason.as_ref().map(|r| format!(" ({r})")).unwrap_or_default();
                crate::info!(
                    "deployment {} of `{}`: {}{reason}",
                    record.activity,
                    record.source,
                    record.state
                );
                let (passing, record) = (record.state.passes(), record.clone());
                if self
                    .deploy
                    .as_ref()
                    .is_some_and(|told| told.record.source != record.source)
                {
                    // It may stay as it is for long, and this one's does not tell of it: it goes out before that takes its place.
                    self.publish_deploy();
                    self.flush();
                }
                self.deploy = Some(deploy);
                if passing {
                    self.deploy_at.get_or_insert_with(|| now().plus(PASSING_MS));
                } else {
                    self.publish_deploy();
                    self.base_ended(&record);
                }
            }
            Report::Apps(apps) => {
                self.apps = apps;
                self.publish_reported();
            }
            Report::Event(event) => {
                crate::warn!("{}: {}", event.code, event.detail);
                let class = class(event.code);
                self.outbox.push(self.topics.own(&format!("evt/{class}")), json(&event));
            }
        }
    }

    /// Publishes the newest state of a deployment that was not told yet.
    pub(super) fn publish_deploy(&mut self) {
        self.deploy_at = None;
        if let Some(deploy) = self.deploy.take() {
            self.state(Kind::Deploy, "deploy", json(&deploy));
        }
    }

    /// Publishes an answer.
    pub(super) fn publish(&mut self, topic: String, content: Vec<u8>) {
        let content = self.signed(Kind::Answer, content);
        self.outbox.push(topic, content);
    }

    /// Publishes the newest value of a retained topic; a retired device says nothing.
    pub(super) fn state(&mut self, kind: Kind, leaf: &str, content: Vec<u8>) {
        if !self.intake.assign().retired {
            let content = self.signed(kind, content);
            self.outbox.set(self.topics.own(leaf), content);
        }
    }

    pub(super) fn signed(&self, kind: Kind, content: Vec<u8>) -> Vec<u8> {
        if self.settings.device.sign {
            self.place.own_keys.sign(kind, &content)
        } else {
            content
        }
    }

    /// Takes a secret in.
    pub(super) fn secret(&mut self, name: &str, message: &[u8], now: Option<Unix>) -> Result<Outcome, DiskError> {
        let (secrets, key) = (self.place.secrets.clone(), *self.place.own_keys.sealing());
        self.intake
            .secret(name, message, now, &|secret| secrets.take(&key, secret))
    }

    /// The operator takes this device out of service: nothing that was sealed for it can be read any more, and the broker keeps
    /// nothing of it. Its apps are left as they are.
    pub(super) fn retire(&mut self) {
        let wiped = self.place.secrets.wipe().map_err(|error| error.to_string());
        let wiped = wiped.and_then(|()| self.place.own_keys.forget().map_err(|error| error.to_string()));
        match wiped {
            Ok(()) => crate::warn!("this device is retired: its secrets are gone"),
            Err(text) => {
                crate::error!("{text}");
                self.tell("disk", Reason::Disk, None, text);
            }
        }
        for leaf in ["caps", "reported", "deploy", "presence"] {
            self.outbox.set(self.topics.own(leaf), Vec::new());
        }
    }

    /// Publishes something that may be lost: logs, metrics.
    pub(super) fn publish_once(&mut self, leaf: &str, content: Vec<u8>) {
        if let Some(session) = &self.session {
            session.send_once(self.topics.own(leaf), content);
        }
    }

    /// Sends the answers of earlier sessions: they may never have left.
    pub(super) fn answer_again(&mut self, finals: Vec<Final>) {
        for last in finals {
            self.publish(last.reply_to, last.answer.into_bytes());
        }
    }

    pub(super) fn tell(&mut self, class: &str, code: Reason, app: Option<String>, detail: String) {
        let cause = Cause::new(code, detail);
        let event = Told {
            code,
            app,
            detail: cause.detail,
            at: unix().rfc3339(),
        };
        self.outbox.push(self.topics.own(&format!("evt/{class}")), json(&event));
    }

    /// Publishes what the device can do, and whose signatures count.
    pub(super) fn publish_caps(&mut self) {
        let trusted = self.intake.trusted();
        self.caps.keys = trusted.keys.iter().map(|key| key.id.clone()).collect();
        self.caps.key_version = self.intake.key_version();
        self.caps.signing = self.place.own_keys.signing_public();
        self.caps.sealing = self.place.own_keys.sealing_public();
        self.state(Kind::Caps, "caps", json(&self.caps));
    }

    /// Publishes `reported`, at once or when the last one is 5 s old.
    pub(super) fn publish_reported(&mut self) {
        self.reported_late = self.reported_at.is_some_and(|at| now().since(at) < REPORTED_MS);
        if self.reported_late {
            return;
        }
        let groups = &self.intake.assign().groups;
        let effective = sources::effective(self.intake.documents(), &self.identity.device, groups);
        let source = effective.map_or("", |(source, _)| source);
        let reported = Reported {
            session: self.identity.session.clone(),
            boot: self.identity.boot,
            source: source.into(),
            generation: effective.map_or(0, |(_, d)| d.generation),
            freshness: self.intake.freshness(source, synchronised()).into(),
            apps: self.apps.clone(),
            refused: self.refused.clone(),
            degraded: self.gauges.words(),
            events_dropped: self.outbox.dropped(),
        };
        self.state(Kind::Reported, "reported", json(&reported));
        if self.outbox.is_waiting() {
            self.reported_at = Some(now());
        }
    }
}

/// The class of `evt/CLASS` for a reason.
fn class(code: Reason) -> &'static str {
    match code {
        Reason::RestartLoop => "crash_loop",
        Reason::Oom => "oom",
        Reason::Disk => "disk",
        _ => "app",
    }
}

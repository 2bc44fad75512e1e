//! Commands for one session of one device, and their answers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::link::{Heard, Link};
use super::seen::{Document, Seen};
use super::{FleetError, Operator, Target, numbers, sign};
use crate::types::document::Command;
use crate::types::time::Unix;
use crate::uplink::dsse::Kind;
use serde_json::Value;

/// A device that takes a command says so within this time.
const ACCEPT: Duration = Duration::from_secs(20);
/// How long a command may be on its way, milliseconds.
const LIFE_MS: u64 = 5 * 60_000;

/// Somebody who commands a device.
pub struct Commander<'a> {
    operator: &'a Operator,
    link: Link,
    seen: Seen,
    device: String,
    /// Last level of the topic of the answers.
    client: String,
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out; what there is to say.
    Done(String),
    /// It was not: the reason.
    Not(String),
    /// Nothing was heard within the time.
    Silent(&'static str),
}

impl<'a> Commander<'a> {
    /// Reads the device's session; subscribes to its answers, and to `more` below its topics.
    pub fn new(
        operator: &'a Operator,
        mut link: Link,
        device: &str,
        more: &[String],
        longest: Duration,
    ) -> Result<Commander<'a>, FleetError> {
        let client = format!("op-{}", numbers::word()?);
        let leaves = ["presence".to_owned(), format!("res/{client}")];
        link.subscribe(leaves.iter().chain(more).map(|leaf| format!("d/{device}/{leaf}")));
        let mut commander = Commander {
            operator,
            link,
            seen: Seen::default(),
            device: device.to_owned(),
            client,
        };
        let until = Instant::now() + longest;
        while commander.session().is_none() {
            let Some(heard) = commander.link.next(until.saturating_duration_since(Instant::now()))? else {
                return Err(FleetError::Invalid(format!(
                    "the broker has no presence of `d/{device}`; was it ever connected?"
                )));
            };
            commander.seen.take(&heard, &operator.trusted);
        }
        Ok(commander)
    }

    fn session(&self) -> Option<&str> {
        self.seen.devices.get(&self.device)?.presence["session"].as_str()
    }

    /// Whether the device says that it is there.
    pub fn is_up(&self) -> bool {
        self.seen.devices.get(&self.device).is_some_and(|device| device.is_up())
    }

    /// Sends a command; gives its id.
    pub fn send(&mut self, verb: &str, args: &BTreeMap<String, String>) -> Result<String, FleetError> {
        let now = numbers::now();
        let id = numbers::uuid(now)?;
        let document = Command {
            audience: Target::Device(self.device.clone()).audience(),
            session: self.session().unwrap_or_default().to_owned(),
            id: id.clone(),
            not_after: Some(Unix(now.0 + LIFE_MS).rfc3339()),
            verb: verb.to_owned(),
            args: args.clone(),
            reply_to: format!("{}/d/{}/res/{}", self.operator.mqtt.root, self.device, self.client),
        };
        let message = sign::message(Kind::Command, &document, self.operator.encoding, &self.operator.keys)?;
        self.link
            .publish(&format!("d/{}/cmd/{verb}", self.device), &message, false)?;
        Ok(id)
    }

    /// The next message of the device within `wait`: topic below the device's, and the answer where it is one.
    pub fn next(&mut self, wait: Duration) -> Result<Option<(String, Heard, Value)>, FleetError> {
        let until = Instant::now() + wait;
        let below = format!("d/{}/", self.device);
        while let Some(heard) = self.link.next(until.saturating_duration_since(Instant::now()))? {
            self.seen.take(&heard, &self.operator.trusted);
            if let Some(leaf) = heard.topic.strip_prefix(&below) {
                let answer = match leaf.strip_prefix("res/") {
                    Some(client) if client == self.client => Document::said(&heard.payload),
                    _ => Value::Null,
                };
                return Ok(Some((leaf.to_owned(), heard, answer)));
            }
        }
        Ok(None)
    }

    /// Waits for both steps of a command's answer; what else comes goes to `other`.
    pub fn wait(
        &mut self,
        id: &str,
        longest: Duration,
        other: &mut dyn FnMut(&str, &[u8]),
    ) -> Result<Outcome, FleetError> {
        let sent = Instant::now();
        let mut accepted = false;
        loop {
            let until = sent + if accepted { longest } else { ACCEPT.min(longest) };
            let Some((leaf, heard, answer)) = self.next(until.saturating_duration_since(Instant::now()))? else {
                return Ok(Outcome::Silent(if accepted {
                    "accepted it, but has not finished"
                } else {
                    "does not answer"
                }));
            };
            if answer["id"] != id {
                other(&leaf, &heard.payload);
                continue;
            }
            if let Some(outcome) = outcome(&answer) {
                return Ok(outcome);
            }
            accepted = true;
        }
    }

    /// Says goodbye.
    pub fn close(self) {
        self.link.close();
    }
}

/// What an answer says at last; `None` while it is only accepted.
pub fn outcome(answer: &Value) -> Option<Outcome> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let reason = &answer["reason"];
    match answer["status"].as_str() {
        Some("done") => Some(Outcome::Done(text(&answer["output"]))),
        Some(status @ ("failed" | "rejected")) => {
            let why = [text(&reason["code"]), text(&reason["detail"])];
            let why: Vec<String> = why.into_iter().filter(|part| !part.is_empty()).collect();
            Some(Outcome::Not(format!("{status}: {}", why.join(": "))))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn answers_end_a_command_or_do_not() {
        for (answer, expected) in [
            (json!({"status": "accepted"}), None),
            (
                json!({"status": "done", "output": "x"}),
                Some(Outcome::Done("x".into())),
            ),
            (json!({"status": "done"}), Some(Outcome::Done(String::new()))),
            (
                json!({"status": "rejected", "reason": {"code": "busy", "detail": "too much"}}),
                Some(Outcome::Not("rejected: busy: too much".into())),
            ),
            (
                json!({"status": "failed", "reason": {"code": "net"}}),
                Some(Outcome::Not("failed: net".into())),
            ),
            (json!({"status": 7}), None),
            (json!([]), None),
        ] {
            assert_eq!(outcome(&answer), expected, "{answer}");
        }
    }
}

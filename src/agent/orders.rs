//! Commands over MQTT: signed, for this session of this device, each at most once, each answered in two steps (PROTOCOL.md, "Commands").

use super::commands::{self, Admission, Final};
use super::daemon::{Daemon, Event, synchronised};
use super::field::{self, Told};
use super::intake::unknown;
use crate::deploy::{self, hands::Cancel};
use crate::plan::order::{self, Order};
use crate::types::deployment::{Cause, Reason};
use crate::types::document::{Answer, AnswerStatus, Command};
use crate::types::read;
use crate::types::time::Unix;
use crate::uplink::dsse::Kind;
use crate::uplink::session::Delivery;

/// Commands that are carried out at the same time beside deployments.
const AT_ONCE: usize = 4;
/// Bytes of an answer's text.
const OUTPUT_BYTES: usize = 16 << 10;
/// Bytes of a command's id.
const ID_BYTES: usize = 64;

/// What threads that carry out commands tell the loop.
pub(super) enum Ordered {
    /// Something to publish once: topic below the device's own, and content.
    Piece(String, Vec<u8>),
    /// A command has ended.
    Ended(String, Told),
    /// The program that a command asked for is here.
    Brought { id: String, allow_downgrade: bool },
}

/// A command that a thread carries out.
pub(super) struct Running {
    id: String,
    /// What it sends; another one for the same takes its place.
    lease: Option<String>,
    stop: Cancel,
}

impl Daemon {
    /// Takes a command in; false when it is to be delivered again.
    pub(super) fn command_message(&mut self, verb: &str, delivery: &Delivery) -> bool {
        let refuse = |code, text: &str| unknown(Cause::new(code, text));
        if delivery.payload.is_empty() {
            return true;
        }
        if delivery.retained {
            // It may be of any age, and no broker should hold one.
            self.refuse(
                &delivery.topic,
                &refuse(Reason::Schema, "a retained command is never carried out"),
            );
            return true;
        }
        if let Some(refusal) = self.intake.distrusted() {
            self.refuse(&delivery.topic, &refusal);
            return true;
        }
        let opened = self.intake.unwrap(Kind::Command, &delivery.payload);
        let command: Command = match opened
            .and_then(|payload| read::json(&payload).map_err(|error| refuse(Reason::Schema, &error.to_string())))
        {
            Ok(command) => command,
            Err(refusal) => {
                self.refuse(&delivery.topic, &refusal);
                return true;
            }
        };
        let good_id =
            !command.id.is_empty() && command.id.len() <= ID_BYTES && command.id.bytes().all(|b| b.is_ascii_graphic());
        if !good_id || !self.topics.is_reply(&command.reply_to) {
            let text = format!(
                "`id` or `reply_to` of the command is not usable: `reply_to` is a topic below `{}`",
                self.topics.own("res/")
            );
            self.refuse(&delivery.topic, &refuse(Reason::Schema, &text));
            return true;
        }
        match self.judge(verb, &command) {
            Ok(order) => self.admit(&command, order),
            Err(cause) => {
                self.count_refusal(&cause);
                self.answer(&command.id, &command.reply_to, AnswerStatus::Rejected, Some(cause));
                true
            }
        }
    }

    /// What it asks for, when it is for this device, for this verb's topic and in time.
    fn judge(&self, verb: &str, command: &Command) -> Result<Order, Cause> {
        if command.audience != format!("d/{}", self.identity.device) {
            let text = format!(
                "the command is for `{}`",
                command.audience.chars().take(80).collect::<String>()
            );
            return Err(Cause::new(Reason::NotForMe, text));
        }
        if command.verb != verb {
            return Err(Cause::new(
                Reason::Schema,
                format!("the topic says `{verb}`, the command another verb"),
            ));
        }
        if let Some(text) = &command.not_after {
            let until = Unix::parse_rfc3339(text)
                .ok_or_else(|| Cause::new(Reason::Schema, "`not_after` is not an RFC 3339 time"))?;
            if synchronised().is_some_and(|now| now > until) {
                return Err(Cause::new(Reason::Expired, format!("its time ended at {text}")));
            }
        }
        order::parse(&command.verb, &command.args)
    }

    fn admit(&mut self, command: &Command, order: Order) -> bool {
        let admitted = self
            .place
            .commands
            .admit(&command.session, &command.id, &command.reply_to);
        match admitted {
            Ok(Admission::New) => {
                crate::info!("command `{}`: {}", command.id, command.verb);
                self.answer(&command.id, &command.reply_to, AnswerStatus::Accepted, None);
                if let Err(cause) = self.order(&command.id, order) {
                    self.order_ended(&command.id, Err(cause));
                }
            }
            Ok(Admission::Again(answer)) if answer.is_empty() => {
                self.answer(&command.id, &command.reply_to, AnswerStatus::Accepted, None);
            }
            Ok(Admission::Again(answer)) => self.publish(command.reply_to.clone(), answer.into_bytes()),
            Ok(Admission::Refused(cause)) => {
                self.count_refusal(&cause);
                self.answer(&command.id, &command.reply_to, AnswerStatus::Rejected, Some(cause));
            }
            Err(error) => {
                // Not acknowledged: it comes again, and is carried out when its id can be kept.
                crate::error!("{error}");
                self.tell("disk", Reason::Disk, None, error.to_string());
                return false;
            }
        }
        true
    }

    fn order(&mut self, id: &str, order: Order) -> Result<(), Cause> {
        let (events, name) = (self.place.events.clone(), id.to_owned());
        let reply = move |result: Result<(), Cause>| {
            // The loop takes it at once; when it has ended, the next agent answers.
            let _ = events.blocking_send(Event::Ordered(Ordered::Ended(name, result.map(|()| None))));
        };
        match order {
            Order::Restart(app) => self.deployer.send(deploy::Command::Restart(app, Box::new(reply))),
            Order::Rollback(app) => self.deployer.send(deploy::Command::Rollback(app, Box::new(reply))),
            Order::Unlock(app) => self.deployer.send(deploy::Command::Unlock(app, Box::new(reply))),
            Order::Retry(app) => {
                self.retry(vec![app])?;
                self.order_ended(id, Ok(None));
                Ok(())
            }
            other => self.begin_order(id, other),
        }
    }

    /// On a thread of its own.
    fn begin_order(&mut self, id: &str, order: Order) -> Result<(), Cause> {
        let lease = match &order {
            Order::Logs { app, .. } => Some(format!("log/{app}")),
            Order::Metrics { .. } => Some("metrics".to_owned()),
            _ => None,
        };
        let same = |one: &&Running| lease.is_some() && one.lease == lease;
        if let Some(before) = self.running.iter().find(same) {
            before.stop.cancel();
        } else if self.running.len() >= AT_ONCE {
            return Err(Cause::new(
                Reason::Busy,
                format!("{AT_ONCE} commands are being carried out"),
            ));
        }
        let Some(engine) = self.place.hands.engine() else {
            return Err(Cause::new(Reason::Internal, "there is no engine"));
        };
        let stop = Cancel::default();
        let (events, name, flag) = (self.place.events.clone(), id.to_owned(), stop.clone());
        let work = move || {
            let tell = |ordered| events.blocking_send(Event::Ordered(ordered)).is_ok();
            let send = |leaf: &str, content: Vec<u8>| tell(Ordered::Piece(leaf.to_owned(), content));
            let told = field::carry_out(&engine, &order, &flag, &send);
            match (told, order) {
                (Ok(_), Order::UpdateAgent { allow_downgrade, .. }) => tell(Ordered::Brought {
                    id: name,
                    allow_downgrade,
                }),
                (told, _) => tell(Ordered::Ended(name, told)),
            };
        };
        let thread = std::thread::Builder::new().name("command".into()).spawn(work);
        thread.map_err(|error| Cause::new(Reason::Busy, format!("no thread for it: {error}")))?;
        self.running.push(Running {
            id: id.to_owned(),
            lease,
            stop,
        });
        Ok(())
    }

    /// What a thread has to say.
    pub(super) fn ordered(&mut self, ordered: Ordered) {
        match ordered {
            Ordered::Piece(leaf, content) => self.publish_once(&leaf, content),
            Ordered::Ended(id, told) => self.order_ended(&id, told),
            Ordered::Brought { id, allow_downgrade } => {
                let answer = self.renew(allow_downgrade);
                self.renewed = answer.is_ok();
                self.order_ended(&id, answer.map(|value| Some(value.to_string())));
            }
        }
    }

    fn order_ended(&mut self, id: &str, told: Told) {
        self.running.retain(|one| one.id != id);
        let (status, reason, output) = match told {
            Ok(output) => (AnswerStatus::Done, None, output),
            Err(cause) => (AnswerStatus::Failed, Some(cause), None),
        };
        let output = output.map(|text| match text.char_indices().nth(OUTPUT_BYTES) {
            Some((cut, _)) => text[..cut].to_owned(),
            None => text,
        });
        let answer = Answer {
            id: id.to_owned(),
            status,
            reason,
            output,
        };
        match self.place.commands.end(&answer) {
            Ok(Some(Final { reply_to, answer })) => self.publish(reply_to, answer.into_bytes()),
            Ok(None) => {}
            Err(error) => {
                // It was carried out; whoever asked hears so, and after a restart that it was interrupted.
                crate::error!("{error}");
            }
        }
    }

    fn answer(&mut self, id: &str, reply_to: &str, status: AnswerStatus, reason: Option<Cause>) {
        let answer = Answer {
            id: id.to_owned(),
            status,
            reason,
            output: None,
        };
        self.publish(reply_to.to_owned(), commands::text(&answer).into_bytes());
    }
}

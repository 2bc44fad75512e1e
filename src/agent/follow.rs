//! Looks up the tags that apps follow, on a schedule and when somebody asks.

use serde_json::{Map, Value};

use super::auto::{self, Auto, Followed};
use super::control::Reply;
use super::daemon::{Daemon, Event, now, synchronised};
use super::local;
use crate::deploy::files::{self, Loaded};
use crate::deploy::hands::Failure;
use crate::disk::layout::Layout;
use crate::disk::record;
use crate::plan::wave;
use crate::types::app::App;
use crate::types::digest::Digest;
use crate::types::time::Mono;

/// The first look after a start waits at least so long, milliseconds: what has to run comes first.
const SETTLE_MS: u64 = 60_000;
/// A look that found nothing to ask, because the link is metered, is tried again after this, milliseconds.
const AGAIN_MS: u64 = 600_000;

/// What was found, each with the app it was looked up for.
pub(super) type Looked = Vec<(Followed, Result<Digest, Failure>)>;

/// Tags that are followed.
pub(super) struct Following {
    pub(super) auto: Auto,
    due: Option<Mono>,
    /// Who asked for the look that is under way.
    replies: Vec<Reply>,
    looking: bool,
}

impl Following {
    pub(super) fn open(layout: &Layout) -> Following {
        let auto = auto::read(layout);
        Following {
            auto,
            due: None,
            replies: Vec::new(),
            looking: false,
        }
    }

    /// When to look next.
    pub(super) fn due(&self) -> Option<Mono> {
        self.due.filter(|at| *at > now())
    }
}

impl Daemon {
    /// Looks the tags up when it is time.
    pub(super) fn follow(&mut self) {
        let interval = self.settings.apps.auto_update.ms();
        let due = match self.following.due {
            Some(due) => due,
            None => {
                // Devices that were switched on together do not ask together.
                let spread = wave::place("auto-update", &self.identity.device).delay(interval / 10);
                let rest = match (synchronised(), self.following.auto.last.0) {
                    (Some(unix), last) if last > 0 => interval.saturating_sub(unix.0.saturating_sub(last)),
                    _ => 0,
                };
                let due = now().plus(rest.max(spread).max(SETTLE_MS.min(interval)));
                self.following.due = Some(due);
                due
            }
        };
        if now() < due {
            return;
        }
        if self.intake.assign().metered {
            self.following.due = Some(now().plus(AGAIN_MS.min(interval)));
            return;
        }
        self.following.due = Some(now().plus(interval));
        self.look_up(None);
    }

    /// Looks the tags up now, on a thread of its own.
    pub(super) fn look_up(&mut self, reply: Option<Reply>) {
        self.following.replies.extend(reply);
        if self.following.looking {
            return;
        }
        let followed = match self.followed() {
            Ok(followed) => followed,
            Err(text) => {
                crate::warn!("tags are not looked up: {text}");
                Vec::new()
            }
        };
        if followed.is_empty() {
            return self.looked(Vec::new());
        }
        let (hands, sender) = (self.place.hands.clone(), self.place.events.clone());
        let signed = !self.intake.trusted().keys.is_empty();
        let look = move || {
            let found = followed.into_iter().map(|one| {
                let latest = hands.latest(&one.image, signed);
                (one, latest)
            });
            // The loop has ended when it does not take this.
            let _ = sender.blocking_send(Event::Looked(found.collect()));
        };
        match std::thread::Builder::new().name("tags".into()).spawn(look) {
            Ok(_) => self.following.looking = true,
            Err(error) => {
                crate::warn!("tags are not looked up: {error}");
                self.looked(Vec::new());
            }
        }
    }

    fn documents(&self) -> Result<Vec<App>, String> {
        let local = local::read(&self.place.folders).map_err(|error| error.to_string())?;
        let groups = &self.intake.assign().groups;
        Ok(auto::documents(
            &local,
            self.intake.documents(),
            &self.identity.device,
            groups,
        ))
    }

    fn followed(&self) -> Result<Vec<Followed>, String> {
        let loaded: Loaded = files::peek(&self.place.layout.agent()).map_err(|error| error.to_string())?;
        Ok(self.following.auto.followed(self.documents()?.iter(), &loaded))
    }

    /// Takes what a look found: tags that moved become pins, and the deployer gets the documents with them.
    pub(super) fn looked(&mut self, looked: Looked) {
        self.following.looking = false;
        let before = self.following.auto.clone();
        if !looked.is_empty() {
            self.following.auto.last = synchronised().unwrap_or(before.last);
        }
        let mut answer = Map::new();
        let mut found = Vec::new();
        for (one, latest) in looked {
            let told = match latest {
                Ok(digest) if digest == one.now => Value::Bool(false),
                Ok(digest) => {
                    crate::info!("`{}` of app `{}` is {digest} now", one.image, one.app);
                    found.push((one.clone(), digest));
                    Value::Bool(true)
                }
                Err(failure) => {
                    crate::warn!("tag of app `{}`: {}", one.app, failure.cause);
                    Value::from(failure.cause.to_string())
                }
            };
            answer.insert(one.app, told);
        }
        let moved = match self.documents() {
            Ok(documents) => self.following.auto.take(&found, documents.iter()),
            Err(_) => false,
        };
        if self.following.auto != before
            && let Err(error) = record::write(&auto::path(&self.place.layout), &self.following.auto)
        {
            // What moved is found again at the next look.
            crate::error!("{error}");
        }
        for reply in self.following.replies.drain(..) {
            reply.send(&Ok(Value::Object(answer.clone())));
        }
        if moved {
            self.reread();
            self.apply_effective();
        }
    }
}

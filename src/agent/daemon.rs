//! The loop: everything that happens to the agent is one closed enum, handled one at a time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::alarm::Alarm;
use super::careful::Careful;
use super::commands::Commands;
use super::control::Asked;
use super::follow::{Following, Looked};
use super::gauges::{Gauges, conditions};
use super::guard::Guard;
use super::identity::{Identity, VERSION};
use super::intake::{Intake, Outcome, Refusal};
use super::orders::{Ordered, Running};
use super::own_keys::OwnKeys;
use super::presence::{Verdict, Watch};
use super::secrets::Secrets;
use super::sets::Bringing;
use super::slots::Slot;
use super::spool::Spool;
use super::telling::REPORTED_MS;
use super::{AgentError, Ended, local, sources};
use crate::config::agent::Settings;
use crate::deploy::hands::Hands;
use crate::deploy::{Command, Conditions, Deployer, Report, Source, Wish};
use crate::disk::layout::Layout;
use crate::sys::{clock, event, footprint};
use crate::types::app::App;
use crate::types::deployment::{Cause, Reason};
use crate::types::digest::Digest;
use crate::types::document::{Caps, Deploy, Presence, ReportedApp};
use crate::types::time::{Mono, Unix};
use crate::uplink::json;
use crate::uplink::outbox::Outbox;
use crate::uplink::session::{Delivery, Incoming, Session};
use crate::uplink::topics::{Inbound, Topics};

/// What the deployer had no room for is said again after this, milliseconds.
const REPEAT_MS: u64 = 1_000;
/// Who has a double has so long to say so, milliseconds.
const LEAVE_MS: u64 = 2_000;
/// Events of other threads that wait for the loop.
pub(super) const EVENTS: usize = 256;
/// A trial that is not over so long after its time has no watcher, milliseconds.
const UNWATCHED_MS: u64 = 60_000;
/// Wait before what the connection had no room for is offered again.
const FLUSH_MS: u64 = 50;
/// The clock, the disk and the folder of local apps are looked at this often when nothing else happens, milliseconds.
const LOOK_MS: u64 = 60_000;
/// So long after events, memory that only they need is let go.
const QUIET_MS: u64 = 2_000;

/// Everything that happens to the agent.
pub(super) enum Event {
    /// From the broker.
    Uplink(Incoming),
    /// From the deployer.
    Report(Report),
    /// Somebody asks at the control socket.
    Asked(Asked),
    /// Tags were looked up.
    Looked(Looked),
    /// A command over MQTT was carried out, or has something to send.
    Ordered(Ordered),
    /// A set of apps for an activity was fetched, or could not be.
    Set(String, Result<(), Cause>),
    /// SIGHUP, or a change in a folder of local apps.
    Reread,
    /// SIGTERM or SIGINT.
    Stop,
    /// The watchdogs want food.
    Watchdog,
    /// Something was to be done at this time.
    Due,
    /// Events have come a while ago.
    Quiet,
}

/// Where this agent is.
pub(super) struct Place {
    pub(super) layout: Layout,
    /// Of local documents.
    pub(super) folders: [PathBuf; 2],
    /// That its program runs from.
    pub(super) slot: Slot,
    /// It has to prove itself.
    pub(super) trial: bool,
    /// Where other threads tell the loop something.
    pub(super) events: mpsc::Sender<Event>,
    /// Those of this session.
    pub(super) commands: Commands,
    /// The device's own.
    pub(super) own_keys: OwnKeys,
    /// What the operator sealed for it.
    pub(super) secrets: Secrets,
    /// For what is looked up in registries.
    pub(super) hands: Arc<dyn Hands>,
}

/// The agent.
pub(super) struct Daemon {
    pub(super) identity: Identity,
    pub(super) settings: Settings,
    pub(super) intake: Intake,
    pub(super) deployer: Deployer,
    pub(super) caps: Caps,
    pub(super) topics: Topics,
    pub(super) outbox: Outbox,
    pub(super) session: Option<Session>,
    watch: Watch,
    pub(super) away_until: Option<Mono>,
    /// Its name is another's too: it leaves when this is said.
    pub(super) leave_at: Option<Mono>,
    pub(super) subscribed: Option<Mono>,
    /// Which filters bring too much.
    pub(super) careful: Careful,
    /// What was refused is asked for again; so often it was.
    pub(super) ask_at: Option<Mono>,
    pub(super) refusals: u32,
    /// Events on disk.
    pub(super) spool: Spool,
    pub(super) reported_at: Option<Mono>,
    /// There was more to report before the next might be sent.
    pub(super) reported_late: bool,
    pub(super) apps: Vec<ReportedApp>,
    /// What is not told yet of a deployment, and when it is.
    pub(super) deploy: Option<Box<Deploy>>,
    pub(super) deploy_at: Option<Mono>,
    pub(super) refused: BTreeMap<String, u64>,
    pub(super) local: Option<Digest>,
    pub(super) local_error: String,
    pub(super) conditions: Option<Conditions>,
    /// Sets of apps that are fetched.
    pub(super) bringing: Bringing,
    pub(super) gauges: Gauges,
    pub(super) guard: Guard,
    repeat_at: Option<Mono>,
    /// When it last looked.
    looked: Mono,
    pub(super) place: Place,
    /// Tags that apps follow.
    pub(super) following: Following,
    /// Commands that threads carry out.
    pub(super) running: Vec<Running>,
    since: Mono,
    /// The next end is that of a version that makes room for another.
    pub(super) renewed: bool,
    /// The administrator's folder was made after the start, so that its changes are not told: it is looked at now and then.
    late_folder: bool,
}

impl Daemon {
    pub(super) fn new(
        identity: Identity,
        settings: Settings,
        intake: Intake,
        deployer: Deployer,
        caps: Caps,
        root: &str,
        place: Place,
    ) -> Daemon {
        let topics = Topics::new(root, &identity.device);
        Daemon {
            identity,
            settings,
            intake,
            deployer,
            caps,
            topics,
            outbox: Outbox::default(),
            session: None,
            watch: Watch::default(),
            away_until: None,
            leave_at: None,
            subscribed: None,
            careful: Careful::default(),
            ask_at: None,
            refusals: 0,
            spool: Spool::default(),
            reported_at: None,
            reported_late: false,
            apps: Vec::new(),
            deploy: None,
            deploy_at: None,
            refused: BTreeMap::new(),
            local: None,
            local_error: String::new(),
            conditions: None,
            bringing: Bringing::default(),
            gauges: Gauges::default(),
            guard: Guard::default(),
            repeat_at: None,
            looked: now(),
            late_folder: !place.folders[0].exists(),
            following: Following::open(&place.layout),
            place,
            running: Vec::new(),
            since: now(),
            renewed: false,
        }
    }

    /// Runs until it is asked to stop. What runs on the device goes on.
    pub(super) async fn run(mut self, mut events: mpsc::Receiver<Event>) -> Result<Ended, AgentError> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| {
            signal(kind).map_err(|source| AgentError::System {
                what: "listen to signals",
                source,
            })
        };
        let (mut term, mut int, mut hup) = (
            listen(SignalKind::terminate())?,
            listen(SignalKind::interrupt())?,
            listen(SignalKind::hangup())?,
        );
        local::watch(&self.place.folders, &self.place.events);
        let mut alarm = Alarm::new().map_err(|source| AgentError::System {
            what: "make a timer",
            source,
        })?;
        let every = self.guard.interval().map(|every| every.as_millis() as u64);
        self.begin()?;
        let mut feed_at = every.map(|_| now());
        let mut trim_at = Some(now().plus(QUIET_MS));
        loop {
            self.flush();
            let due = self.next_due();
            let first = [feed_at, trim_at].into_iter().flatten().fold(due, Mono::min);
            let event = tokio::select! {
                biased;
                _ = term.recv() => Event::Stop,
                _ = int.recv() => Event::Stop,
                _ = hup.recv() => Event::Reread,
                Some(event) = events.recv() => event,
                incoming = next(&mut self.session) => Event::Uplink(incoming),
                rung = alarm.until(first) => {
                    rung.map_err(|source| AgentError::System { what: "wait", source })?;
                    if first == due {
                        Event::Due
                    } else if Some(first) == feed_at {
                        Event::Watchdog
                    } else {
                        Event::Quiet
                    }
                }
            };
            if matches!(event, Event::Due | Event::Watchdog) {
                // Whenever it is awake, so that it wakes less often.
                self.feed();
                feed_at = every.map(|every| now().plus(every));
            }
            match event {
                Event::Stop => break,
                Event::Quiet => {
                    footprint::trim();
                    trim_at = None;
                }
                Event::Watchdog => {}
                other => {
                    trim_at = trim_at.or_else(|| Some(now().plus(QUIET_MS)));
                    self.handle(other);
                    if self.renewed {
                        break;
                    }
                }
            }
        }
        // Nobody listens to the deployer any more: it must not wait for us while we wait for its end.
        drop(events);
        let ended = if self.renewed { Ended::Renewed } else { Ended::Stopped };
        self.end(ended).await;
        Ok(ended)
    }

    /// What is on disk comes first: conditions, local apps and stored documents go to the deployer; then the broker.
    fn begin(&mut self) -> Result<(), AgentError> {
        self.recall();
        self.look();
        self.reread();
        self.apply_effective();
        self.connect()?;
        self.announce();
        self.tell_renewal();
        self.follow();
        notify(sd_notify::NotifyState::Ready);
        self.guard.start();
        crate::info!(
            "agent {VERSION} of `{}`: boot {}, session {}",
            self.identity.device,
            self.identity.boot,
            self.identity.session
        );
        Ok(())
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Uplink(incoming) => self.incoming(incoming),
            Event::Report(report) => self.report(report),
            Event::Asked(asked) => self.asked(asked),
            Event::Looked(looked) => self.looked(looked),
            Event::Ordered(ordered) => self.ordered(ordered),
            Event::Set(activity, fetched) => self.set_came(activity, fetched),
            Event::Reread => self.reread(),
            Event::Due => {
                self.looked = now();
                self.repeat();
                self.look();
                self.follow();
                self.mind_trial();
                if self.late_folder {
                    self.reread();
                }
                self.mind_connection();
                self.keep_events(false);
                self.publish_reported();
                if self.bringing.at.is_some_and(|at| now() >= at) {
                    self.bringing.at = None;
                    self.apply_effective();
                }
                if self.deploy_at.is_some_and(|at| now() >= at) {
                    self.publish_deploy();
                }
            }
            Event::Stop | Event::Quiet | Event::Watchdog => {}
        }
    }

    /// A trial without anybody who watches over it begins anew: the next start counts, and has another watcher.
    fn mind_trial(&mut self) {
        let limit = self.settings.apps.agent_timeout.ms().saturating_add(UNWATCHED_MS);
        if self.place.trial && now().since(self.since) > limit {
            crate::error!("nobody watches over this agent's trial");
            self.renewed = true;
        }
    }

    pub(super) fn presence(&self, up: bool) -> Presence {
        Presence {
            up,
            boot: self.identity.boot,
            session: self.identity.session.clone(),
            agent: VERSION.into(),
        }
    }

    /// Takes a message in; false when it is to be delivered again.
    pub(super) fn message(&mut self, delivery: &Delivery) -> bool {
        let Some(inbound) = self.topics.recognise(&delivery.topic) else {
            return true;
        };
        let synchronised = synchronised();
        let outcome = match inbound {
            Inbound::Desired => {
                let audience = format!("d/{}", self.identity.device);
                self.intake.desired(&audience, &delivery.payload, synchronised)
            }
            Inbound::GroupDesired(group) if self.intake.assign().groups.contains(&group) => {
                self.intake
                    .desired(&format!("g/{group}"), &delivery.payload, synchronised)
            }
            Inbound::Assign => self.intake.assignment(&delivery.payload, synchronised),
            Inbound::Presence => {
                self.judge_presence(&delivery.payload);
                return true;
            }
            Inbound::Command(verb) => return self.command_message(&verb, delivery),
            Inbound::Keys(_) => self.intake.keys(&delivery.payload),
            Inbound::Secret(name) => self.secret(&name, &delivery.payload, synchronised),
            Inbound::GroupDesired(_) => return true,
        };
        match outcome {
            Ok(Outcome::Nothing) => {}
            Ok(Outcome::Desired(source)) => {
                crate::info!("desired state of `{source}` accepted");
                self.apply_effective();
                self.publish_reported();
            }
            Ok(Outcome::Secret(name)) => crate::info!("secret `{name}` accepted"),
            Ok(Outcome::Assigned) => {
                crate::info!("assignment accepted: groups {:?}", self.intake.assign().groups);
                if self.intake.assign().retired {
                    self.retire();
                    return true;
                }
                self.announce();
                self.subscribe();
                self.look();
                self.apply_effective();
            }
            Ok(Outcome::Keys(version)) => {
                crate::info!("keys of version {version} count now");
                self.publish_caps();
                // The next version may have come before this one.
                self.subscribe();
            }
            Ok(Outcome::Refused(refusal)) => self.refuse(&delivery.topic, &refusal),
            Err(error) => {
                // The disk, not the document: it is not acknowledged and comes again.
                crate::error!("{error}");
                self.tell("disk", Reason::Disk, None, error.to_string());
                return false;
            }
        }
        true
    }

    pub(super) fn count_refusal(&mut self, cause: &Cause) {
        *self.refused.entry(cause.code.as_str().into()).or_default() += 1;
    }

    pub(super) fn refuse(&mut self, topic: &str, refusal: &Refusal) {
        crate::warn!("document on `{topic}` refused: {}", refusal.cause);
        self.count_refusal(&refusal.cause);
        let mut detail = format!("`{topic}`: {}", refusal.cause.detail);
        if let Some(activity) = &refusal.activity {
            detail = format!("{detail} (activity {activity})");
        }
        self.tell("document", refusal.cause.code, None, detail);
        self.publish_reported();
    }

    fn judge_presence(&mut self, message: &[u8]) {
        if self.intake.assign().retired {
            return;
        }
        let ours = self.presence(true);
        match self.watch.judge(message, &ours, &self.identity.sessions, now()) {
            Verdict::Nothing => {}
            Verdict::Again => self.outbox.again_topic(&self.topics.own("presence")),
            Verdict::Duplicate => {
                crate::error!("another device uses the name `{}`", self.identity.device);
                let text = "another device uses this name; staying away for 5 minutes".to_owned();
                self.tell("duplicate_identity", Reason::Conflict, None, text);
                self.leave_at = Some(now().plus(LEAVE_MS));
            }
        }
    }

    /// Tells the deployer which desired state is effective.
    pub(super) fn apply_effective(&mut self) {
        let groups = &self.intake.assign().groups;
        let found = sources::effective(self.intake.documents(), &self.identity.device, groups);
        let Some((label, document)) = found else { return };
        let (label, mut document) = (label.to_owned(), document.clone());
        if !self.settle(&mut document) {
            return;
        }
        let (mut apps, mut activity) = (document.apps, document.activity);
        if self.following.auto.overlay(&mut apps) {
            // The same document with other tags is another update.
            activity = format!("{activity}+{}", set_digest(&apps).short());
        }
        let wish = Wish {
            source: Source::Fleet,
            label,
            activity,
            generation: document.generation,
            rollout: document.rollout,
            retry: document.retry,
            apps,
        };
        self.command(Command::Apply(Box::new(wish)));
    }

    /// Reads the folder of local apps again; an unchanged set and a mistake change nothing.
    pub(super) fn reread(&mut self) {
        match local::read(&self.place.folders) {
            Ok(mut apps) => {
                self.local_error.clear();
                self.following.auto.overlay(&mut apps);
                let digest = set_digest(&apps);
                let none_before = self.local.is_none() && apps.is_empty();
                if self.local != Some(digest) {
                    self.local = Some(digest);
                    self.apply_local(apps, digest, none_before);
                }
            }
            Err(error) => {
                let text = error.to_string();
                if self.local_error != text {
                    crate::error!("{text}");
                    self.tell("document", Reason::Schema, None, text.clone());
                    self.local_error = text;
                }
            }
        }
    }

    fn apply_local(&mut self, apps: Vec<App>, digest: Digest, quiet: bool) {
        if !quiet {
            crate::info!(
                "local apps: {}",
                apps.iter().map(|a| a.name.as_str()).collect::<Vec<_>>().join(", ")
            );
        }
        let wish = Wish {
            source: Source::Local,
            label: sources::LOCAL.into(),
            activity: local_activity(&digest),
            generation: 0,
            rollout: None,
            retry: Vec::new(),
            apps,
        };
        self.command(Command::Apply(Box::new(wish)));
    }

    /// Says again what the deployer had no room for.
    fn repeat(&mut self) {
        if self.repeat_at.is_some_and(|at| now() >= at) {
            self.repeat_at = None;
            self.conditions = None;
            self.local = None;
            self.reread();
            self.apply_effective();
        }
    }

    /// Gives the deployer a command. It applies the same wish twice without harm, so what it had no room for is said
    /// again later.
    fn command(&mut self, command: Command) {
        if let Err(cause) = self.deployer.send(command) {
            crate::warn!("{cause}; trying again");
            self.repeat_at = Some(now().plus(REPEAT_MS));
        }
    }

    /// Looks at what may hold updates back.
    pub(super) fn look(&mut self) {
        let words = self.gauges.words();
        if let Some(text) = self.gauges.read() {
            crate::warn!("{text}");
            self.tell("oom", Reason::Oom, None, text);
        }
        if let Some(text) = self.gauges.wear(now()) {
            crate::warn!("{text}");
            self.tell("disk", Reason::Disk, None, text);
        }
        if words != self.gauges.words() {
            self.publish_reported();
        }
        let conditions = Conditions {
            full: self.gauges.full,
            ..conditions(&self.settings, self.intake.assign(), self.place.trial)
        };
        if self.conditions.as_ref() != Some(&conditions) {
            self.conditions = Some(conditions.clone());
            self.command(Command::Conditions(conditions));
        }
    }

    fn feed(&mut self) {
        self.guard.feed();
        if self.gauges.unwatched != self.guard.is_missing() {
            self.gauges.unwatched = self.guard.is_missing();
            self.publish_reported();
        }
    }

    /// When there is something to do.
    fn next_due(&self) -> Mono {
        let now = now();
        if self.has_to_send() {
            return now.plus(FLUSH_MS);
        }
        let reported = self.reported_at.filter(|_| self.reported_late);
        let reported = reported.map(|at| at.plus(REPORTED_MS));
        let careful = self.careful.due();
        [
            reported,
            self.deploy_at,
            self.bringing.at,
            self.away_until,
            self.leave_at,
            careful,
            self.ask_at,
            self.repeat_at,
            self.following.due(),
            // Of a fixed time: feeding a watchdog does not put it off.
            Some(self.looked.plus(LOOK_MS)),
        ]
        .into_iter()
        .flatten()
        .fold(now.plus(LOOK_MS), Mono::min)
        // Something else gets its turn in between.
        .max(self.looked.plus(1))
    }

    /// Says goodbye; containers go on.
    async fn end(mut self, ended: Ended) {
        if ended == Ended::Stopped {
            notify(sd_notify::NotifyState::Stopping);
        }
        self.publish_deploy();
        if !self.intake.assign().retired {
            self.outbox
                .set(self.topics.own("presence"), json(&self.presence(false)));
        }
        self.flush();
        if let Some(session) = self.session.take() {
            let unsent = session.close().await;
            self.outbox.take_back(unsent);
        }
        self.keep_events(true);
        self.deployer.shutdown();
        self.guard.leave(ended == Ended::Stopped);
    }
}

async fn next(session: &mut Option<Session>) -> Incoming {
    match session {
        Some(session) => session.next().await,
        None => std::future::pending().await,
    }
}

fn notify(state: sd_notify::NotifyState<'_>) {
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[state]);
}

/// The digest over documents as they are.
fn set_digest(apps: &[App]) -> Digest {
    Digest::of(&serde_json::to_vec(apps).unwrap_or_default())
}

/// The activity of local documents with this digest.
pub(super) fn local_activity(digest: &Digest) -> String {
    format!("local-{}", digest.short())
}

pub(super) fn now() -> Mono {
    Mono(event::mono_ms())
}

pub(super) fn unix() -> Unix {
    Unix(event::unix_ns() / 1_000_000)
}

/// The time, when the clock is synchronised.
pub(super) fn synchronised() -> Option<Unix> {
    clock::is_synchronised().then(unix)
}

//! Thousands of devices in one process that speak the protocol as the agent does, each with an MQTT session of its own: trust,
//! waves, halts and spread are decided by the same `plan`; only containers are missing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::link::Link;
use super::rollout::{self, Assignment};
use super::{FleetError, Operator, numbers};
use crate::config::agent::Mqtt;
use crate::plan::trust::{self, Clock, Floors, Stamp, Verdict};
use crate::plan::wave;
use crate::types::bounds::{DOCUMENT_BYTES, DOCUMENT_LIFE_MS};
use crate::types::deployment::{AppRecord, BytesMoved, Cause, Reason, Record, State, Version};
use crate::types::digest::Digest;
use crate::types::document::{Assign, Caps, Deploy, Desired, Encoding, Presence, Reported, ReportedApp};
use crate::types::health::HealthStatus;
use crate::types::read;
use crate::types::reference::Reference;
use crate::types::time::{Span, Unix};
use crate::uplink;
use crate::uplink::dsse::{self, Kind, Trusted};
use crate::uplink::outbox::{Message, Outbox};
use crate::uplink::session::{Incoming, Session};
use crate::uplink::topics::{Inbound, Topics};

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Mix {
    /// Devices.
    pub count: usize,
    /// Their group; they are assigned to it before they start.
    pub group: String,
    /// Share that rolls back, 0 to 1.
    pub fail: f64,
    /// Share that says nothing about any deployment.
    pub silent: f64,
    /// Share that takes ten times as long.
    pub slow: f64,
    /// Time that fetching takes, and soaking.
    pub step: Duration,
    /// Images that have this in their name make every device roll back.
    pub bad: String,
    /// New connections in a second.
    pub rate: u64,
}

/// What all devices have done so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connected now.
    pub connected: AtomicU64,
    /// Published messages, and bytes of their topics and payloads.
    pub sent: [AtomicU64; 2],
    /// Received messages beside documents for devices.
    pub got: [AtomicU64; 2],
    /// Received documents.
    pub documents: [AtomicU64; 2],
    /// Refused documents.
    pub refused: AtomicU64,
    /// Deployments that were committed, and that were not.
    pub ended: [AtomicU64; 2],
}

fn count(pair: &[AtomicU64; 2], bytes: usize) {
    pair[0].fetch_add(1, Ordering::Relaxed);
    pair[1].fetch_add(bytes as u64, Ordering::Relaxed);
}

impl Counts {
    /// One line.
    pub fn line(&self) -> String {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let pair = |pair: &[AtomicU64; 2]| format!("{} messages {} bytes", load(&pair[0]), load(&pair[1]));
        format!(
            "connected {}, sent {}, got {}, documents {}, refused {}, committed {}, failed {}",
            load(&self.connected),
            pair(&self.sent),
            pair(&self.got),
            pair(&self.documents),
            load(&self.refused),
            load(&self.ended[0]),
            load(&self.ended[1])
        )
    }
}

struct Shared {
    mqtt: Mqtt,
    trusted: Trusted,
    mix: Mix,
    counts: Counts,
}

/// Assigns the devices to their group, then runs them for ever; tells how it stands once a second, when that has changed.
pub fn run(operator: &Operator, mix: &Mix, told: &mut dyn FnMut(&str)) -> Result<(), FleetError> {
    assign(operator, mix)?;
    told(&format!("assigned {} devices to g/{}", mix.count, mix.group));
    let mut mqtt = operator.mqtt.clone();
    // The operator's is short, because somebody waits; devices' is not.
    mqtt.keep_alive = Span::seconds(900);
    let shared = Arc::new(Shared {
        mqtt,
        trusted: operator.trusted.clone(),
        mix: mix.clone(),
        counts: Counts::default(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| FleetError::System {
        what: "make a runtime for the devices",
        source,
    })?;
    runtime.block_on(async {
        for number in 0..mix.count {
            let shared = shared.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(number as u64 * 1000 / shared.mix.rate.max(1))).await;
                let device = Device::new(shared, number);
                if let Err(error) = device.live().await {
                    crate::error!("{error}");
                }
            });
        }
        let mut last = String::new();
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let line = shared.counts.line();
            if line != last {
                told(&line);
                last = line;
            }
        }
    })
}

fn name(number: usize) -> String {
    format!("sim-{number:05}")
}

fn assign(operator: &Operator, mix: &Mix) -> Result<(), FleetError> {
    let mut link = Link::open(&operator.mqtt)?;
    let wish = Assignment {
        groups: Some(vec![mix.group.clone()]),
        ..Assignment::default()
    };
    for number in 0..mix.count {
        let device = name(number);
        let document = rollout::assign(&device, None, &wish, numbers::now())?;
        let message = rollout::assignment(&document, operator)?;
        link.publish(&format!("d/{device}/assign"), &message, true)?;
    }
    link.close();
    Ok(())
}

/// A deployment.
struct Flight {
    record: Record,
    set: Digest,
    document: Desired,
    due: Instant,
    begun: Instant,
}

struct Device {
    shared: Arc<Shared>,
    name: String,
    topics: Topics,
    presence: Presence,
    outbox: Outbox,
    floors: Floors,
    last_issued: Unix,
    assign: Assign,
    documents: BTreeMap<String, Desired>,
    flight: Option<Flight>,
    /// The last one that ended: set, rollout.
    handled: Option<(Digest, Option<String>)>,
    running: Vec<ReportedApp>,
    last_final: Option<Box<Record>>,
    seq: u64,
    refused: BTreeMap<String, u64>,
}

impl Device {
    fn new(shared: Arc<Shared>, number: usize) -> Device {
        let name = name(number);
        Device {
            topics: Topics::new(&shared.mqtt.root, &name),
            presence: Presence {
                up: true,
                boot: 1,
                session: Digest::of(format!("{name} {}", numbers::now().0).as_bytes()).short(),
                agent: env!("CARGO_PKG_VERSION").into(),
            },
            shared,
            name,
            outbox: Outbox::default(),
            floors: Floors::default(),
            last_issued: Unix(0),
            assign: Assign::default(),
            documents: BTreeMap::new(),
            flight: None,
            handled: None,
            running: Vec::new(),
            last_final: None,
            seq: 0,
            refused: BTreeMap::new(),
        }
    }

    async fn live(mut self) -> Result<(), FleetError> {
        let gone = Presence {
            up: false,
            ..self.presence.clone()
        };
        let will = Message {
            topic: self.topics.own("presence"),
            payload: uplink::json(&gone),
            retain: true,
        };
        let mut session = Session::open(&self.shared.mqtt, &format!("dunlin-{}", self.name), Some(&will))?;
        let (mut subscribed, mut up) = (true, false);
        loop {
            let wait = match &self.flight {
                _ if self.outbox.is_waiting() || !subscribed => Duration::from_millis(50),
                Some(flight) => flight.due.saturating_duration_since(Instant::now()),
                None => Duration::from_secs(3600),
            };
            match tokio::time::timeout(wait, session.next()).await {
                Ok(Incoming::Connected { .. }) => {
                    self.shared.counts.connected.fetch_add(1, Ordering::Relaxed);
                    (subscribed, up) = (false, true);
                    self.hello();
                }
                Ok(Incoming::Disconnected { error, .. }) => {
                    crate::debug!("{}: {error}", self.name);
                    if std::mem::take(&mut up) {
                        self.shared.counts.connected.fetch_sub(1, Ordering::Relaxed);
                    }
                }
                Ok(Incoming::Message(delivery)) => {
                    let bytes = delivery.topic.len() + delivery.payload.len();
                    let groups = self.assign.groups.clone();
                    self.take(&delivery.topic, &delivery.payload, bytes);
                    if groups != self.assign.groups {
                        subscribed = false;
                    }
                    session.done(*delivery);
                }
                Ok(Incoming::Refused(count)) => crate::warn!("{}: {count} subscriptions refused", self.name),
                Err(_) => {}
            }
            if self.flight.as_ref().is_some_and(|flight| flight.due <= Instant::now()) {
                self.step();
            }
            if session.is_connected() && !subscribed {
                let retained = self.topics.retained_filters(&self.assign.groups, 1);
                subscribed = session.subscribe(&retained) && session.subscribe_new(&self.topics.command_filter());
            }
            session.send(&mut self.outbox);
        }
    }

    /// What is published after every connection.
    fn hello(&mut self) {
        self.outbox.again();
        let presence = uplink::json(&self.presence);
        self.publish("presence", presence);
        let caps = Caps {
            protocol: vec![1],
            agent: self.presence.agent.clone(),
            verbs: Vec::new(),
            document_bytes: DOCUMENT_BYTES,
            encodings: Encoding::words(),
            keys: self.shared.trusted.keys.iter().map(|key| key.id.clone()).collect(),
            key_version: 1,
            board: "simulated".into(),
            platform: "linux/arm64".into(),
            kernel: "6.1.0".into(),
            os: "simulated".into(),
            memory: 1 << 30,
            disk: 8 << 30,
            serial: None,
            cgroup: "v2".into(),
            signing: String::new(),
            sealing: String::new(),
        };
        self.publish("caps", uplink::json(&caps));
        self.report();
    }

    fn publish(&mut self, leaf: &str, payload: Vec<u8>) {
        let topic = self.topics.own(leaf);
        count(&self.shared.counts.sent, topic.len() + payload.len());
        self.outbox.set(topic, payload);
    }

    fn report(&mut self) {
        let effective = self.effective();
        let reported = Reported {
            session: self.presence.session.clone(),
            boot: self.presence.boot,
            source: effective.map(|d| d.audience.clone()).unwrap_or_default(),
            generation: effective.map_or(0, |d| d.generation),
            freshness: "fresh".into(),
            apps: self.running.clone(),
            refused: self.refused.clone(),
            degraded: Vec::new(),
            events_dropped: 0,
        };
        self.publish("reported", uplink::json(&reported));
    }

    /// The device's own document unless it gives way, else the first of its groups'.
    fn effective(&self) -> Option<&Desired> {
        let own = self.documents.get(&format!("d/{}", self.name)).filter(|own| !own.defer);
        let groups = self.assign.groups.iter();
        own.or_else(|| groups.filter_map(|g| self.documents.get(&format!("g/{g}"))).next())
    }

    fn take(&mut self, topic: &str, payload: &[u8], bytes: usize) {
        let counts = &self.shared.counts;
        let taken = match self.topics.recognise(topic) {
            _ if payload.is_empty() => return,
            Some(Inbound::Desired) => {
                count(&counts.documents, bytes);
                self.desired(format!("d/{}", self.name), payload)
            }
            Some(Inbound::GroupDesired(group)) => {
                count(&counts.documents, bytes);
                self.desired(format!("g/{group}"), payload)
            }
            Some(Inbound::Assign) => {
                count(&counts.documents, bytes);
                self.assignment(payload)
            }
            _ => {
                count(&counts.got, bytes);
                return;
            }
        };
        match taken {
            Ok(true) => self.consider(),
            Ok(false) => {}
            Err(reason) => {
                self.shared.counts.refused.fetch_add(1, Ordering::Relaxed);
                *self.refused.entry(reason.as_str().into()).or_default() += 1;
                self.report();
            }
        }
    }

    /// The document in a message, when it is to be accepted; `None` when it was before.
    fn accept<T: serde::de::DeserializeOwned>(
        &mut self,
        kinds: (Kind, trust::Kind),
        audience: &str,
        message: &[u8],
    ) -> Result<Option<T>, Reason> {
        let payload = dsse::payload(message, kinds.0, &self.shared.trusted).map_err(|_| Reason::SigInvalid)?;
        let digest = Digest::of(&payload.bytes);
        let payload = payload.into_json().map_err(|_| Reason::Schema)?;
        let value = read::json_any(&payload).map_err(|_| Reason::Schema)?;
        let said = value["audience"].as_str().ok_or(Reason::Schema)?;
        if said != audience && said != "*" {
            return Err(Reason::NotForMe);
        }
        let time = |key: &str| {
            value[key]
                .as_str()
                .map(|text| Unix::parse_rfc3339(text).ok_or(Reason::Schema))
        };
        let issued_at = time("issued_at").ok_or(Reason::Schema)??;
        let expires_at = time("expires_at").unwrap_or(Ok(Unix(issued_at.0 + DOCUMENT_LIFE_MS)))?;
        let stamp = Stamp {
            audience: said,
            kind: kinds.1,
            generation: value["generation"].as_u64().ok_or(Reason::Schema)?,
            payload: digest,
            issued_at,
            expires_at,
        };
        let clock = Clock::new(Unix(0), self.last_issued, Unix(0), Some(numbers::now()));
        match self.floors.judge(&stamp, &clock) {
            Verdict::Same => return Ok(None),
            Verdict::Refuse(reason) => return Err(reason),
            Verdict::Accept => {}
        }
        let document = read::json(&payload).map_err(|_| Reason::Schema)?;
        self.floors.raise(&stamp);
        self.last_issued = self.last_issued.max(issued_at);
        Ok(Some(document))
    }

    fn desired(&mut self, source: String, message: &[u8]) -> Result<bool, Reason> {
        let document: Option<Desired> = self.accept((Kind::Desired, trust::Kind::Desired), &source, message)?;
        let new = document.is_some();
        if let Some(mut document) = document {
            document.audience.clone_from(&source);
            self.documents.insert(source, document);
        }
        Ok(new)
    }

    fn assignment(&mut self, message: &[u8]) -> Result<bool, Reason> {
        let audience = format!("d/{}", self.name);
        let assign: Option<Assign> = self.accept((Kind::Assign, trust::Kind::Assign), &audience, message)?;
        let new = assign.is_some();
        self.assign = assign.unwrap_or(std::mem::take(&mut self.assign));
        Ok(new)
    }

    /// Whether this device is among a share of those of a deployment.
    fn among(&self, salt: &str, share: f64) -> bool {
        wave::place(salt, &self.name).below(share * 100.0)
    }

    /// Looks at what is wanted now.
    fn consider(&mut self) {
        let Some(document) = self.effective().cloned() else {
            return;
        };
        let set = rollout::set_digest(&document.apps);
        let id = document.rollout.as_ref().map(|rollout| rollout.id.clone());
        if let Some(flight) = &mut self.flight
            && flight.set == set
            && flight.record.rollout == id
        {
            flight.record.generation = document.generation;
            flight.document = document;
            flight.due = Instant::now();
            return;
        }
        if id.is_some()
            && self
                .handled
                .as_ref()
                .is_some_and(|handled| *handled == (set, id.clone()))
        {
            // Only the rollout's fields changed: this device has finished and stays silent.
            return;
        }
        let before = |name: &str| {
            let app = self.running.iter().find(|app| app.name == name)?;
            Some(Version {
                image: app.image,
                spec: app.spec,
            })
        };
        let image = |text: &str| text.parse::<Reference>().ok().and_then(|image| image.digest());
        let apps = document.apps.iter().map(|app| AppRecord {
            name: app.name.clone(),
            from: before(&app.name),
            to: Some(Version {
                image: image(&app.image),
                spec: app.spec_digest(),
            }),
            state: State::Accepted,
            reason: None,
        });
        let record = Record {
            activity: document.activity.clone(),
            generation: document.generation,
            source: document.audience.clone(),
            rollout: id,
            state: State::Accepted,
            since: numbers::now(),
            seq: self.seq,
            apps: apps.collect(),
            bytes: BytesMoved::default(),
            reason: None,
            attempt: 1,
        };
        self.flight = Some(Flight {
            record,
            set,
            document,
            due: Instant::now(),
            begun: Instant::now(),
        });
    }

    /// What holds a deployment back, and for how long.
    fn gate(&self, flight: &Flight) -> Result<(), (Cause, Duration)> {
        let Some(rollout) = &flight.document.rollout else {
            return Ok(());
        };
        let hold = |code, text: String, wait| Err((Cause::new(code, text), wait));
        let hour = Duration::from_secs(3600);
        let place = wave::place(&rollout.salt, &self.name);
        if !wave::takes_part(place, rollout.percent, &rollout.wave, &self.assign.labels) {
            let text = format!("rollout `{}` is at {} %", rollout.id, rollout.percent);
            return hold(Reason::Wave, text, hour);
        }
        if rollout.halted {
            return hold(Reason::Halted, format!("rollout `{}` is halted", rollout.id), hour);
        }
        let spread = place.delay(rollout.spread.map_or(0, |span| span.ms()));
        let wait = Duration::from_millis(spread).saturating_sub(flight.begun.elapsed());
        if !rollout.urgent && matches!(flight.record.state, State::Accepted | State::Waiting) && !wait.is_zero() {
            return hold(Reason::NotBefore, "starts are spread".into(), wait);
        }
        Ok(())
    }

    /// The next thing that a deployment does.
    fn step(&mut self) {
        let Some(mut flight) = self.flight.take() else { return };
        let mix = &self.shared.mix;
        let salt = &flight.record.activity;
        if self.among(&format!("silent {salt}"), mix.silent) {
            flight.due = Instant::now() + Duration::from_secs(3600);
            self.flight = Some(flight);
            return;
        }
        let slow = if self.among(&format!("slow {salt}"), mix.slow) {
            10
        } else {
            1
        };
        let bad = !mix.bad.is_empty() && flight.document.apps.iter().any(|app| app.image.contains(&mix.bad));
        let fails = bad || self.among(&format!("fail {salt}"), mix.fail);
        let time = mix.step * slow;
        let before = flight.record.state;
        let begins = matches!(before, State::Accepted | State::Waiting | State::Fetching);
        let held = if begins { self.gate(&flight).err() } else { None };
        let (state, reason, wait) = match (before, held) {
            (_, Some((cause, wait))) => (State::Waiting, Some(cause), wait),
            (State::Accepted | State::Waiting, _) => (State::Fetching, None, time),
            (State::Fetching, _) => (State::Soaking, None, time),
            _ if fails => (
                State::RolledBack,
                Some(Cause::new(Reason::Unhealthy, "simulated")),
                Duration::ZERO,
            ),
            _ => (State::Committed, None, Duration::ZERO),
        };
        flight.due = Instant::now() + wait;
        let same = state == before && reason == flight.record.reason;
        if !same {
            self.seq += 1;
            let record = &mut flight.record;
            (record.state, record.reason, record.seq, record.since) = (state, reason, self.seq, numbers::now());
            for app in &mut record.apps {
                app.state = state;
            }
            if state.is_final() {
                self.last_final = Some(Box::new(record.clone()));
            }
            let deploy = Deploy {
                record: record.clone(),
                last_final: self.last_final.clone(),
            };
            self.publish("deploy", uplink::json(&deploy));
        }
        if !state.is_final() {
            self.flight = Some(flight);
            return;
        }
        self.handled = Some((flight.set, flight.record.rollout.clone()));
        let ended = &self.shared.counts.ended;
        ended[usize::from(state != State::Committed)].fetch_add(1, Ordering::Relaxed);
        if state == State::Committed {
            self.running = flight.record.apps.iter().map(runs).collect();
        }
        self.report();
    }
}

fn runs(app: &AppRecord) -> ReportedApp {
    ReportedApp {
        name: app.name.clone(),
        image: app.to.and_then(|version| version.image),
        spec: app.to.map_or(Digest::of(b""), |version| version.spec),
        status: "running".into(),
        health: HealthStatus::Healthy,
        restarts: 0,
        exit_code: None,
        not_enforced: Vec::new(),
    }
}

//! A device under test: an ordinary user with ranges, an agent with its settings, an operator with a key.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use dunlin::fleet::sign;
use dunlin::types::document::Desired;
use dunlin::types::time::Unix;
use dunlin::uplink::dsse::SigningKey;

use crate::fixture::broker::{Broker, Watch};
use crate::fixture::child::Running;
use crate::fixture::cmd::{Cmd, Out};
use crate::fixture::registry::Registry;
use crate::fixture::relay::Relay;
use crate::fixture::scratch::Scratch;
use crate::fixture::user::User;

/// How long one deployment may take on a busy machine.
pub const LONG: Duration = Duration::from_secs(60);

/// Waits until something is so.
pub fn wait(what: &str, so: impl FnMut() -> bool) {
    wait_within(what, LONG, so);
}

/// The same with another bound.
pub fn wait_within(what: &str, span: Duration, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + span;
    while !so() {
        assert!(Instant::now() < end, "{what} has not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A device and those around it. Fields are dropped in order: the agent before its broker.
pub struct Device {
    pub agent: Option<Running>,
    pub watch: Watch,
    pub key: SigningKey,
    generation: u64,
    pub scratch: Scratch,
    pub user: User,
    pub registry: Registry,
    /// Between the device and its broker.
    pub relay: Option<Relay>,
    pub broker: Broker,
}

/// Which broker a device has.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Engine {
    #[default]
    Mosquitto,
    Rabbit,
    Nats,
}

/// What differs between tests.
#[derive(Default)]
pub struct Setup {
    /// TLS with a client certificate.
    pub tls: bool,
    /// The same with the access rules that are shipped.
    pub rules: bool,
    /// Lines for the settings file.
    pub settings: String,
    /// Without a fleet key.
    pub unsigned: bool,
    /// A broker without encryption.
    pub engine: Engine,
    /// Lines for the settings' table `mqtt`.
    pub mqtt: &'static str,
    /// The same with TLS.
    pub tls_mqtt: String,
    /// The device reaches its broker through a relay.
    pub relay: bool,
    /// Where its broker is for it, `HOST:PORT`, when that is not its own on loopback.
    pub at: Option<String>,
}

impl Device {
    /// A device that has not started its agent yet; an error says why it cannot be had here.
    pub fn new(topic: &str, setup: &Setup) -> Result<Device, String> {
        let user = User::with_ranges()?;
        let tls = setup.tls || setup.rules;
        let broker = match (setup.engine, setup.rules, tls) {
            (Engine::Rabbit, ..) => Broker::rabbit(),
            (Engine::Nats, ..) => Broker::nats(),
            (_, true, _) => Broker::tls_with_rules(),
            (_, false, true) => Broker::tls(),
            (_, false, false) => Broker::plain(),
        };
        let relay = setup.relay.then(|| Relay::to(broker.port()));
        let registry = Registry::plain();
        let scratch = Scratch::owned_by(topic, user.uid());
        let key = SigningKey::generate("operator").map_err(|e| e.to_string())?;
        let watch = broker.watch("dunlin/v1/d/dev/#");
        scratch.folder("apps");
        let mqtt = if tls {
            let identity = broker.client("dev");
            user.give(&identity.cert);
            user.give(&identity.key);
            format!(
                "url='mqtts://localhost:{}'\nca='{}'\ncert='{}'\nkey='{}'\n{}\n",
                broker.port(),
                broker.ca().display(),
                identity.cert.display(),
                identity.key.display(),
                setup.tls_mqtt
            )
        } else {
            let port = relay.as_ref().map_or(broker.port(), Relay::port);
            let at = setup.at.clone().unwrap_or_else(|| format!("127.0.0.1:{port}"));
            format!("url='mqtt://{at}'\n{}\n", setup.mqtt)
        };
        let keys = if setup.unsigned {
            String::new()
        } else {
            sign::public_toml(&key)
        };
        let settings = format!(
            "[device]\nname='dev'\n[mqtt]\n{mqtt}[apps]\ndir='{}'\nprobe_timeout='10s'\n[log]\nlevel='debug'\n{}\n{keys}",
            scratch.join("apps").display(),
            setup.settings,
        );
        scratch.write("agent.toml", settings);
        user.give(scratch.path());
        let generation = now().seconds();
        Ok(Device {
            agent: None,
            watch,
            key,
            generation,
            scratch,
            user,
            registry,
            relay,
            broker,
        })
    }

    /// dunlin as the device's user on the device's store.
    pub fn dunlin(&self) -> Cmd {
        self.on_its_store(self.user.dunlin())
    }

    /// This dunlin on the device's store.
    pub fn on_its_store(&self, dunlin: Cmd) -> Cmd {
        let dir = |name: &str| self.scratch.join(name);
        dunlin
            .arg("--root")
            .arg(dir("data"))
            .arg("--runroot")
            .arg(dir("run"))
            .arg("--config")
            .arg(dir("agent.toml"))
    }

    /// Starts the agent and waits until it is connected.
    pub fn start(&mut self) {
        self.start_with(|c| c);
        let agent = self.agent.as_mut().unwrap();
        agent.wait_for("connected to the broker", LONG);
    }

    /// Starts the agent.
    pub fn start_with(&mut self, change: impl FnOnce(Cmd) -> Cmd) {
        self.agent = Some(change(self.dunlin().arg("agent")).start());
    }

    /// The next document with these apps, not signed yet.
    pub fn document(&mut self, apps: Value) -> Value {
        self.generation += 1;
        json!({
            "audience": "d/dev",
            "generation": self.generation,
            "activity": format!("act-{}", self.generation),
            "issued_at": now().rfc3339(),
            "apps": apps,
        })
    }

    /// Signs and publishes a document; gives its activity.
    pub fn publish(&self, document: Value) -> String {
        let activity = document["activity"].as_str().unwrap().to_owned();
        self.broker
            .publish("dunlin/v1/d/dev/desired", self.signed(document), true);
        activity
    }

    /// The document as the device wants it.
    pub fn signed(&self, document: Value) -> Vec<u8> {
        let document: Desired = serde_json::from_value(document).unwrap();
        sign::desired(&document, std::slice::from_ref(&self.key)).unwrap()
    }

    /// Publishes a set of apps; gives the activity.
    pub fn deploy(&mut self, apps: Value) -> String {
        let document = self.document(apps);
        self.publish(document)
    }

    /// Waits until a deployment has this state; gives the published record.
    pub fn wait_state(&mut self, activity: &str, state: &str) -> Value {
        let what = format!("{activity} to be {state}");
        self.hear(&what, "deploy", |v| v["activity"] == activity && v["state"] == state)
    }

    /// Waits for a JSON message on the device's topic `leaf`.
    pub fn hear(&mut self, what: &str, leaf: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let topic = format!("dunlin/v1/d/dev/{leaf}");
        self.watch.wait_for(what, LONG, |message| {
            let value = serde_json::from_slice::<Value>(&message.payload).ok()?;
            (message.topic == topic && wanted(&value)).then_some(value)
        })
    }

    /// States of a deployment in the order in which they were published.
    pub fn states(&self, activity: &str) -> Vec<String> {
        let mut states: Vec<String> = self
            .watch
            .messages()
            .iter()
            .filter(|m| m.topic.ends_with("/deploy"))
            .filter_map(|m| serde_json::from_slice::<Value>(&m.payload).ok())
            .filter(|v| v["activity"] == activity)
            .filter_map(|v| v["state"].as_str().map(str::to_owned))
            .collect();
        states.dedup();
        states
    }

    /// `NAME IMAGE-DIGEST` of each running container, sorted.
    pub fn running(&self) -> Vec<String> {
        let text = self.dunlin().args(["ps", "--format", "{{.Names}} {{.Image}}"]).ok();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// The first process of a container as the host numbers it.
    pub fn pid(&self, container: &str) -> u32 {
        self.dunlin()
            .args(["inspect", "--format", "{{.State.Pid}}", container])
            .ok()
            .trim()
            .parse()
            .unwrap()
    }

    /// Processes of the device's user that have this role: `keeper`, `monitor`, `worker`, `decode`.
    pub fn role(&self, role: &str) -> Vec<u32> {
        let all = self.user.processes().into_iter();
        all.filter(|(_, line)| line.split_whitespace().nth(1) == Some(role))
            .map(|(pid, _)| pid)
            .collect()
    }

    /// PSS and private dirty bytes of all its dunlin processes.
    pub fn memory(&self) -> (u64, u64) {
        let mut pids: Vec<u32> = ["keeper", "monitor", "worker", "decode"]
            .iter()
            .flat_map(|role| self.role(role))
            .collect();
        pids.extend(self.agent.as_ref().map(Running::pid));
        pids.into_iter()
            .map(pss)
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// Ends everything that runs.
    pub fn clean(&mut self) -> Out {
        if let Some(mut agent) = self.agent.take() {
            agent.signal("TERM");
            agent.wait(Duration::from_secs(15));
        }
        self.dunlin().args(["rm", "-a", "-f", "-t", "0"]).run()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let (true, Some(agent)) = (std::thread::panicking(), &self.agent) {
            eprintln!("the agent said:\n{}", agent.output());
        }
    }
}

/// PSS and private dirty bytes of a process.
pub fn pss(pid: u32) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
            .unwrap_or(0)
            * 1024
    };
    (field("Pss"), field("Private_Dirty"))
}

/// The time now.
pub fn now() -> Unix {
    Unix(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64)
}

//! Rows N19 to N21: what a device says to its broker when nothing happens, in a rollout, and how soon it answers.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use dunlin::config::agent::Mqtt;
use dunlin::fleet::Operator;
use dunlin::fleet::command::Commander;
use dunlin::fleet::link::Link;
use dunlin::uplink::dsse::{self, Kind, SigningKey, Trusted};
use serde_json::{Value, json};

use super::Scale;
use super::device::{Device, Engine, LONG, Setup, now};
use super::fixture::images::{Format, Index};
use super::table::{Figure, Table};

/// A month has so many seconds.
pub const MONTH_S: f64 = 30.4375 * 86_400.0;
/// What lo counts of a packet beside IP, bytes.
pub const FRAME: u64 = 14;
/// Time that a device has to say everything before it counts as idle.
const SETTLE: Duration = Duration::from_secs(30);
/// After a step of a rollout a device may have more to say for so long.
const REST: Duration = Duration::from_secs(8);

/// N20 and N21.
pub fn rows(table: &mut Table, scale: &Scale) {
    match Device::new("bench-rollout", &Setup::default()) {
        Ok(mut device) => {
            rollout(table, &mut device);
            device.clean();
        }
        Err(reason) => table.missing("N20", "one step of a rollout", &reason),
    }
    match Device::new("bench-command", &Setup::default()) {
        Ok(mut device) => {
            trips(table, &mut device, scale.of(1000, 100));
            device.clean();
        }
        Err(reason) => table.missing("N21", "command on loopback", &reason),
    }
}

/// One step, from a share without the device to everybody, counted at the broker.
fn rollout(table: &mut Table, device: &mut Device) {
    let pinned = |version: &str| {
        let index = Index::each(Format::Oci, |recipe| {
            recipe.config("Labels", json!({ "version": version }))
        });
        device.registry.push("web", version, &index)
    };
    let (old, new) = (pinned("1"), pinned("2"));
    let app = |image: &str| {
        json!([{"name": "web", "image": image, "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"],
                "health": {"exec": ["true"]}, "update": {"soak": "10s"}}])
    };
    device.start();
    let sign = |device: &Device, kind: Kind, document: &Value| {
        let mut envelope = dsse::wrap(kind, document.to_string().as_bytes());
        device.key.sign(&mut envelope).unwrap();
        serde_json::to_vec(&envelope).unwrap()
    };
    let assign = json!({"audience": "d/dev", "generation": 1, "issued_at": now().rfc3339(), "groups": ["line"]});
    let assign = sign(device, Kind::Assign, &assign);
    device.broker.publish("dunlin/v1/d/dev/assign", assign, true);
    let group = |device: &mut Device, image: &str, rollout: Value| {
        let mut document = device.document(app(image));
        document["audience"] = "g/line".into();
        document["rollout"] = rollout;
        let message = sign(device, Kind::Desired, &document);
        device.broker.publish("dunlin/v1/g/line/desired", message, true);
        document["activity"].as_str().unwrap().to_owned()
    };
    let all = json!({"id": "r1", "salt": "a", "percent": 100});
    let first = group(device, &old, all);
    device.wait_state(&first, "COMMITTED");
    // Nobody takes part in nothing; the image is here before the step, as it is on a device that waited.
    let none = json!({"id": "r2", "salt": "a", "percent": 0, "base": format!("sha256:{}", "0".repeat(64))});
    let second = group(device, &new, none);
    device.wait_state(&second, "WAITING");
    std::thread::sleep(REST);
    let before = device.watch.messages().len();
    let step = json!({"id": "r2", "salt": "a", "percent": 100});
    group(device, &new, step);
    device.wait_state(&second, "COMMITTED");
    std::thread::sleep(REST);
    let all = device.watch.messages();
    let said: Vec<_> = all[before..].iter().filter(|m| !m.topic.ends_with("/assign")).collect();
    let bytes: usize = said.iter().map(|m| m.topic.len() + m.payload.len()).sum();
    for message in &said {
        let value: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
        let state = value["state"].as_str().unwrap_or_default();
        eprintln!("{} {state} {} bytes", message.topic, message.payload.len());
    }
    table.row(
        "N20",
        "one step of a rollout: operator's publishes; messages and bytes of a device, the document and PUBACKs apart",
        "1; ≤ 8 and ≤ 8 KB",
        vec![
            Figure::new("publishes", 1.0, ""),
            Figure::new("messages", said.len() as f64, ""),
            Figure::kb("", bytes as u64),
        ],
    );
}

/// From the signed command to both answers, as `dunlin fleet command` does it, each step on disk before it is answered.
fn trips(table: &mut Table, device: &mut Device, count: usize) {
    let key = SigningKey::from_pkcs8("operator", device.key.pkcs8()).unwrap();
    let mut mqtt = Mqtt::at(&format!("mqtt://127.0.0.1:{}", device.broker.port()));
    mqtt.root = "dunlin/v1".into();
    let operator = Operator {
        mqtt: mqtt.clone(),
        trusted: Trusted::default(),
        keys: vec![key],
        encoding: dunlin::types::document::Encoding::Json,
        registry: dunlin::config::agent::Registry::default(),
        enrolled: BTreeMap::new(),
    };
    let (mut first, mut both) = (Vec::new(), Vec::new());
    while both.len() < count {
        // A session takes 256 commands.
        device.start();
        let mut commander = Commander::new(&operator, Link::open(&mqtt).unwrap(), "dev", &[], LONG).unwrap();
        let until = Instant::now() + LONG;
        while !commander.is_up() {
            assert!(Instant::now() < until, "the device is not there");
            let _ = commander.next(Duration::from_millis(100)).unwrap();
        }
        std::thread::sleep(Duration::from_secs(3));
        for _ in 0..200.min(count - both.len()) {
            let begin = Instant::now();
            let id = commander.send("explain", &BTreeMap::new()).unwrap();
            loop {
                let Some((_, _, answer)) = commander.next(LONG).unwrap() else {
                    panic!("no answer");
                };
                if answer["id"] != id.as_str() {
                    continue;
                }
                if answer["status"] == "accepted" {
                    first.push(begin.elapsed());
                    continue;
                }
                assert_eq!(answer["status"], "done", "{answer}");
                both.push(begin.elapsed());
                break;
            }
        }
        commander.close();
        let mut agent = device.agent.take().unwrap();
        agent.signal("TERM");
        agent.wait(Duration::from_secs(15));
    }
    let mut figures = Vec::new();
    for (what, mut all) in [("to the first answer", first), ("to the last", both)] {
        all.sort();
        figures.push(Figure::time(&format!("{what}, median"), all[all.len() / 2]));
        figures.push(Figure::time("p99", all[all.len() * 99 / 100]));
    }
    table.row(
        "N21",
        "command on loopback, median / p99: to the first answer; to the last",
        "≤ 5 / 20 ms",
        figures,
    );
}

/// N19: each keep-alive in a process and a network namespace of its own, all at the same time.
pub fn idle(table: &mut Table, scale: &Scale) {
    let minutes = scale.minutes.unwrap_or(30);
    let own = std::env::current_exe().unwrap();
    let running: Vec<_> = [1, 5, 15]
        .into_iter()
        .map(|keep_alive: u64| {
            let mut command = Command::new("unshare");
            command.args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]);
            command
                .arg(&own)
                .args(["idle-one", &keep_alive.to_string(), &minutes.to_string()]);
            let thread = std::thread::spawn(move || command.output());
            // Each makes a user, which only one can at a time.
            std::thread::sleep(Duration::from_secs(5));
            (keep_alive, thread)
        })
        .collect();
    for (keep_alive, thread) in running {
        let output = thread.join().unwrap().unwrap();
        let budget = if keep_alive == 15 { "≤ 0.75 MB" } else { "" };
        let what = format!("idle traffic in a month, TLS 1.3, keep-alive of {keep_alive} min, IP bytes");
        let figure = match output.status.success() {
            true => serde_json::from_slice(&output.stdout).map_err(|error| error.to_string()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        };
        table.one("N19", &what, budget, figure);
    }
}

/// One keep-alive, in a network namespace where nobody else sends anything: prints what it comes to.
pub fn idle_one(keep_alive: u64, minutes: u64) {
    let setup = Setup {
        tls: true,
        tls_mqtt: format!("keep_alive='{keep_alive}m'"),
        engine: Engine::Mosquitto,
        ..Setup::default()
    };
    let mut device = Device::new("bench-idle", &setup).unwrap();
    device.start();
    let image = device.registry.push("idle", "1", &Index::busybox(Format::Oci));
    let apps = json!([{"name": "idle", "image": image, "command": ["sleep", "100000"], "update": {"soak": "1s"}}]);
    let activity = device.deploy(apps);
    device.wait_state(&activity, "COMMITTED");
    // The test's own subscription would have pings too.
    device.watch.end();
    std::thread::sleep(SETTLE);
    let begin = counted();
    // Whole silences, at least one: what a month has of them is known.
    let silences = (minutes / keep_alive).max(1);
    std::thread::sleep(Duration::from_secs(silences * keep_alive * 60));
    let end = counted();
    let (bytes, packets) = (end.0 - begin.0, end.1 - begin.1);
    let ip = bytes - packets * FRAME;
    let month = ip as f64 / (silences * keep_alive * 60) as f64 * MONTH_S;
    let minutes = silences * keep_alive;
    let figure = Figure::mb("", month as u64).note(format!("{ip} bytes in {packets} packets in {minutes} min"));
    println!("{}", serde_json::to_string(&figure).unwrap());
    device.clean();
}

/// Bytes and packets that lo has sent; each of both ends' packets is sent once. Sysfs would show the interfaces of another namespace.
pub fn counted() -> (u64, u64) {
    let text = fs::read_to_string("/proc/self/net/dev").unwrap();
    let line = text.lines().find_map(|line| line.trim().strip_prefix("lo:")).unwrap();
    let fields: Vec<u64> = line.split_whitespace().map(|field| field.parse().unwrap()).collect();
    (fields[8], fields[9])
}

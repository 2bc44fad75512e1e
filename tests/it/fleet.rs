//! The operator's side: `dunlin fleet` against a real broker, and a real device where one is needed.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use dunlin::fleet::sign;
use dunlin::types::document::Encoding;
use dunlin::uplink::dsse::{self, Kind, SigningKey, Trusted};

use crate::device::{Device, LONG, Setup, now};
use crate::fixture::broker::Broker;
use crate::fixture::cmd::{Cmd, Out};
use crate::fixture::images::{Format, Index};
use crate::fixture::registry::Registry;
use crate::fixture::scratch::Scratch;

/// Somebody with a folder of settings and keys.
struct Operator {
    scratch: Scratch,
}

impl Operator {
    /// With these keys at a broker without encryption.
    fn new(broker: &Broker, keys: &[&SigningKey]) -> Operator {
        let scratch = Scratch::new("operator");
        let mut names = Vec::new();
        for (at, key) in keys.iter().enumerate() {
            scratch.write(&format!("key-{at}.pem"), sign::pem(key));
            names.push(format!("'key-{at}.pem'"));
        }
        let text = format!(
            "keys=[{}]\n[mqtt]\nurl='mqtt://127.0.0.1:{}'\n",
            names.join(","),
            broker.port()
        );
        scratch.write("fleet.toml", text);
        Operator { scratch }
    }

    fn fleet(&self, line: &str) -> Cmd {
        Cmd::operator()
            .dir(self.scratch.path())
            .args(["--config", "fleet.toml", "fleet"])
            .args(line.split(' ').filter(|word| !word.is_empty()))
    }

    /// Runs; panics where it fails.
    fn ok(&self, line: &str) -> String {
        self.fleet(line).ok()
    }

    fn run(&self, line: &str) -> Out {
        self.fleet(line).run()
    }

    /// The table as JSON.
    fn status(&self, target: &str) -> Vec<Value> {
        serde_json::from_str(&self.ok(&format!("status --format json {target}"))).unwrap()
    }
}

/// An app document that sleeps.
fn web(image: &str, more: &str) -> String {
    format!(
        "name='web'\nimage='{image}'\ncommand=['sh','-c',\"trap 'exit 0' TERM; echo hello; sleep 100000 & wait\"]\n\
         [update]\nsoak='1s'\n{more}"
    )
}

fn push(registry: &Registry, version: &str) -> String {
    let labels = json!({"version": version});
    let index = Index::each(Format::Oci, |recipe| recipe.config("Labels", labels.clone()));
    registry.push("web", version, &index)
}

/// Publishes what a device that does not exist has said.
fn says(broker: &Broker, device: &str, leaf: &str, value: Value) {
    broker.publish(&format!("dunlin/v1/d/{device}/{leaf}"), value.to_string(), true);
}

fn payload(message: &[u8], key: &SigningKey) -> Value {
    let trusted = Trusted {
        keys: vec![key.public()],
        threshold: 1,
        ..Trusted::default()
    };
    serde_json::from_slice(&dsse::open(message, Kind::Desired, &trusted).unwrap()).unwrap()
}

#[test]
fn keys_are_made_once_and_documents_signed_by_several() {
    let scratch = Scratch::new("fleet-keys");
    let fleet = |line: &str| Cmd::operator().dir(scratch.path()).arg("fleet").args(line.split(' '));
    let lines = fleet("keygen --id anna --role deploy anna.pem").ok();
    assert!(
        lines.starts_with("[[fleet.keys]]\nid = \"anna\"\npublic = \""),
        "{lines}"
    );
    assert!(lines.ends_with("roles = [\"deploy\"]"), "{lines}");
    let file = scratch.join("anna.pem");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let again = fleet("keygen anna.pem").run();
    assert!(again.code == 125 && again.stderr.contains("exists"), "{again:?}");
    fleet("keygen bert.pem").ok();
    let openssl = Cmd::new("/usr/bin/openssl")
        .dir(scratch.path())
        .args(["pkey", "-in", "anna.pem", "-noout"])
        .run();
    assert_eq!(openssl.code, 0, "others read the key too: {openssl:?}");

    let document = json!({"audience": "g/line", "generation": 5, "apps": []}).to_string();
    let once = fleet("sign --sign-key anna.pem").stdin(document.clone()).ok();
    scratch.write("once.json", &once);
    let twice = fleet("sign --sign-key bert.pem once.json").ok();
    let keys = ["anna.pem", "bert.pem"].map(|name| sign::load(&scratch.join(name)).unwrap().public());
    let trusted = Trusted {
        keys: keys.to_vec(),
        threshold: 2,
        ..Trusted::default()
    };
    assert!(dsse::open(once.trim().as_bytes(), Kind::Desired, &trusted).is_err());
    let opened = dsse::open(twice.trim().as_bytes(), Kind::Desired, &trusted).unwrap();
    assert_eq!(
        serde_json::from_slice::<Value>(&opened).unwrap(),
        serde_json::from_str::<Value>(&document).unwrap()
    );
    let unsigned = fleet("sign once.json").run();
    assert!(
        unsigned.code == 125 && unsigned.stderr.contains("--sign-key"),
        "{unsigned:?}"
    );
}

#[test]
fn who_takes_no_part_runs_the_base_and_a_set_may_be_in_a_registry() {
    let mut device = device!("fleet-base", Setup::default());
    let operator = Operator::new(&device.broker, &[&device.key]);
    let tag = |version: &str| device.registry.reference(&format!("web:{version}"));
    let pinned: Vec<String> = ["v1", "v2", "v3"]
        .iter()
        .map(|version| {
            operator
                .scratch
                .write(&format!("{version}.toml"), web(&tag(version), ""));
            push(&device.registry, version)
        })
        .collect();
    let sets = device.registry.reference("fleet/sets");
    device.start();
    operator.ok("assign --group line --label canary dev");
    // What runs, and what the device has said last of its deployment.
    let is = |device: &Device, version: usize, state: &str| {
        crate::device::wait(&format!("{state} and version {}", version + 1), || {
            let all = device.watch.messages();
            let said = all.iter().rev().find(|m| m.topic.ends_with("/deploy"));
            let said: Value = said
                .and_then(|m| serde_json::from_slice(&m.payload).ok())
                .unwrap_or_default();
            let wave = said["reason"]["code"] == "wave";
            said["state"] == state
                && wave == (state == "WAITING")
                && device.running() == [format!("web {}", pinned[version])]
        });
    };
    let bases = |device: &Device| {
        let all = device
            .watch
            .messages()
            .into_iter()
            .filter(|m| m.topic.ends_with("/deploy"));
        let all = all.filter_map(|m| serde_json::from_slice::<Value>(&m.payload).ok());
        let base = |v: &Value| v["activity"].as_str().is_some_and(|text| text.ends_with("+base"));
        all.filter(|v| v["state"] == "COMMITTED" && base(v)).count()
    };
    operator.ok("deploy g/line v1.toml");
    is(&device, 0, "COMMITTED");
    // It takes part in one rollout by its label, and not in the next one: then it goes to what all others run.
    operator.ok("deploy --percent 0 --wave canary g/line v2.toml");
    is(&device, 1, "COMMITTED");
    operator.ok("deploy --percent 0 g/line v3.toml");
    is(&device, 0, "WAITING");
    assert_eq!(bases(&device), 1);
    operator.ok("promote g/line");
    is(&device, 2, "COMMITTED");

    // The same with sets that are in a registry, for a device that has never seen the base.
    let deploy = |terms: &str| operator.ok(&format!("deploy --apps-ref {sets} {terms}"));
    deploy("g/line v1.toml");
    is(&device, 0, "COMMITTED");
    deploy("--percent 0 --wave canary g/line v2.toml");
    is(&device, 1, "COMMITTED");
    std::fs::remove_dir_all(device.scratch.join("data/agent/sets")).unwrap();
    deploy("--percent 0 g/line v3.toml");
    is(&device, 0, "WAITING");
    assert_eq!(bases(&device), 2);
    let (document, id) = (device.scratch.join("data/agent/documents"), "apps_ref");
    assert!(
        std::fs::read(document)
            .unwrap()
            .windows(id.len())
            .any(|part| part == id.as_bytes())
    );
    operator.ok("promote g/line");
    is(&device, 2, "COMMITTED");

    // A base that nobody has changes nothing.
    deploy(&format!("--percent 0 --base sha256:{} g/line v1.toml", "0".repeat(64)));
    let told = device.hear("what is missing", "evt/document", |v| v["code"] == "image_missing");
    assert!(told["detail"].as_str().unwrap().contains("sets"), "{told}");
    is(&device, 2, "WAITING");
    device.clean();
}

#[test]
fn a_device_takes_the_compact_form_of_everything() {
    let mut device = device!("fleet-compact", Setup::default());
    let operator = Operator::new(&device.broker, &[&device.key]);
    let image = push(&device.registry, "v1");
    operator.scratch.write("v1.toml", web(&image, ""));
    device.start();
    device.hear("caps", "caps", |v| v["encodings"] == json!(["json", "postcard"]));
    let newest = |device: &Device, leaf: &str| {
        let topic = format!("dunlin/v1/d/dev/{leaf}");
        let mut all = device.watch.messages().into_iter().rev();
        all.find(|m| m.topic == topic).map(|m| m.payload).unwrap_or_default()
    };

    operator.ok("deploy --encoding postcard d/dev v1.toml");
    let first = device.hear("it", "deploy", |v| v["state"] == "COMMITTED");
    let message = newest(&device, "desired");
    assert_eq!(message[0], 1, "bytes, not text");
    assert_eq!(payload(&message, &device.key)["activity"], first["activity"]);
    assert_eq!(device.running(), [format!("web {image}")]);

    // What changes it keeps its form; what replaces it has its own.
    let mut forms = Vec::new();
    for line in ["halt d/dev", "resume d/dev", "deploy d/dev v1.toml", "promote d/dev"] {
        let before = newest(&device, "desired");
        operator.ok(line);
        crate::device::wait(line, || newest(&device, "desired") != before);
        let message = newest(&device, "desired");
        assert_eq!(
            payload(&message, &device.key)["rollout"]["halted"],
            line.starts_with("halt")
        );
        forms.push(message[0]);
    }
    assert_eq!(forms, [1, 1, b'{', b'{']);
    let row = &operator.status("d/dev")[0];
    assert_eq!(row["Encodings"], json!(["json", "postcard"]));
    // An earlier version's caps name none.
    operator.ok("assign --group line old");
    device
        .broker
        .publish("dunlin/v1/d/old/caps", r#"{"agent":"0.0.9"}"#, true);
    operator
        .run("deploy --dry-run --encoding postcard g/line v1.toml")
        .expect(0)
        .says(&["refuse documents in postcard", ": old"]);

    // Signed by two who pass a file round: the file is text.
    let now_s = now().seconds() + 1000;
    let mut document = payload(&message, &device.key);
    document["generation"] = now_s.into();
    operator.scratch.write("document.json", document.to_string());
    let signed = operator.ok("sign --encoding postcard document.json");
    assert!(
        signed.starts_with('{') && signed.contains("desired.v1+postcard"),
        "{signed}"
    );
    operator.scratch.write("signed.json", &signed);
    operator.ok("deploy d/dev signed.json");
    device.hear("the signed file", "reported", |v| v["generation"] == now_s);
    let message = newest(&device, "desired");
    assert_eq!((message[0], &payload(&message, &device.key)), (1, &document));
    assert!(operator.ok("explain dev").contains(&now_s.to_string()));

    // The same generation in the other form, and one that a stranger has signed.
    let stranger = SigningKey::generate("operator").unwrap();
    let topic = "dunlin/v1/d/dev/desired";
    let json = sign::message(
        Kind::Desired,
        &document,
        Encoding::Json,
        std::slice::from_ref(&device.key),
    )
    .unwrap();
    device.broker.publish(topic, json, true);
    device.hear("the conflict", "evt/document", |v| v["code"] == "conflict");
    document["generation"] = (now_s + 1).into();
    let forged = sign::message(Kind::Desired, &document, Encoding::Postcard, &[stranger]).unwrap();
    device.broker.publish(topic, forged, true);
    device.hear("the forged one", "evt/document", |v| v["code"] == "sig_invalid");

    let before = device.pid("web");
    operator.ok("command --encoding postcard dev restart app=web");
    assert_eq!(newest(&device, "cmd/restart")[0], 1);
    assert_ne!(device.pid("web"), before);
    let out = operator
        .fleet("secret put --encoding postcard dev token")
        .stdin("s3cret")
        .run();
    assert_eq!(out.code, 0, "{out:?}");
    let file = device.scratch.join("data/secrets/files/token");
    crate::device::wait("the secret", || {
        std::fs::read(&file).is_ok_and(|text| text == b"s3cret")
    });
    operator.ok("assign --encoding postcard --group line dev");
    assert_eq!(newest(&device, "assign")[0], 1);
    device.clean();
}

#[test]
fn a_device_and_its_group_are_commanded_from_files() {
    let mut device = device!("fleet-device", Setup::default());
    let operator = Operator::new(&device.broker, &[&device.key]);
    let pinned: Vec<String> = ["v1", "v2"]
        .iter()
        .map(|version| push(&device.registry, version))
        .collect();
    let tag = |version: &str| device.registry.reference(&format!("web:{version}"));
    for version in ["v1", "v2"] {
        operator
            .scratch
            .write(&format!("{version}.toml"), web(&tag(version), ""));
    }
    let (one, two) = (pinned[0].clone(), pinned[1].clone());
    device.start();

    let out = operator.ok("deploy d/dev v1.toml");
    assert!(out.starts_with("d/dev generation "), "{out}");
    device.hear("the first version", "deploy", |v| {
        v["state"] == "COMMITTED" && v["source"] == "d/dev"
    });
    assert_eq!(
        device.running(),
        [format!("web {one}")],
        "the tag was resolved to the index's digest"
    );

    // In a group, once its own document gives way.
    operator.ok("assign --group line --label canary dev");
    operator.scratch.write("defer.json", r#"{"apps":[],"defer":true}"#);
    operator.ok("deploy g/line v1.toml");
    operator.ok("deploy d/dev defer.json");
    device.hear("the group's", "deploy", |v| {
        v["source"] == "g/line" && v["state"] == "COMMITTED"
    });

    // Nobody takes part by share, then by label.
    let dry = operator.run("deploy --dry-run --percent 0 --wave canary g/line v2.toml");
    assert!(
        dry.code == 0 && dry.stderr.contains("1 of 1 devices would take part\n  dev"),
        "{dry:?}"
    );
    let dry = operator.run("deploy --dry-run --percent 0 g/line v2.toml");
    assert!(dry.stderr.contains("0 of 1 devices"), "{dry:?}");
    let shown: Value = serde_json::from_str(&dry.stdout).unwrap();
    assert!(
        shown["rollout"]["base"].is_string() && shown["apps"][0]["image"] == two.as_str(),
        "{shown}"
    );
    operator.ok("deploy --percent 0 g/line v2.toml");
    device.hear("to wait for its wave", "deploy", |v| {
        v["state"] == "WAITING" && v["reason"]["code"] == "wave"
    });
    operator.ok("halt g/line");
    operator.ok("promote g/line");
    device.hear("to wait for the halt's end", "deploy", |v| {
        v["state"] == "WAITING" && v["reason"]["code"] == "halted"
    });
    let explained = operator.ok("explain dev");
    assert!(
        explained.contains("halted") && explained.contains("g/line"),
        "{explained}"
    );
    operator.ok("resume g/line");
    device.hear("the second version", "deploy", |v| {
        let app = &v["apps"][0];
        v["source"] == "g/line" && v["state"] == "COMMITTED" && app["from"]["spec"] != app["to"]["spec"]
    });
    assert_eq!(device.running(), [format!("web {two}")]);

    let rows = operator.status("g/line");
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert!(
        rows[0]["Device"] == "dev" && rows[0]["State"] == "COMMITTED" && rows[0]["Up"] == "yes",
        "{rows:?}"
    );
    let table = operator.ok("status");
    let mut lines = table.lines();
    assert!(lines.next().unwrap().starts_with("DEVICE"), "{table}");
    assert!(lines.next().unwrap().contains("COMMITTED"), "{table}");

    // Commands, both steps of their answers, and logs.
    let before = device.pid("web");
    operator.ok("command dev restart app=web");
    assert_ne!(device.pid("web"), before);
    let explained = operator.ok("command dev explain");
    assert!(explained.contains("\"name\":\"web\""), "{explained}");
    for (line, needle) in [
        ("command dev restart app=nope", "failed"),
        ("command dev fly", "rejected"),
    ] {
        let out = operator.run(line);
        assert!(out.code == 1 && out.stderr.contains(needle), "{line}: {out:?}");
    }
    assert_eq!(operator.ok("logs dev web"), "hello\nhello", "of both starts");
    let mut follower = operator.fleet("logs -f --tail 1 dev web").start();
    follower.wait_for("hello", LONG);
    operator.ok("command dev restart app=web");
    follower.wait_until("another line", LONG, |text| {
        (text.matches("hello").count() == 2).then_some(())
    });
    let nobody = operator.run("command --timeout 2s nobody gc");
    assert!(
        nobody.code == 125 && nobody.stderr.contains("no presence"),
        "{nobody:?}"
    );

    // A secret, and nothing left of it and of the device in the end.
    let out = operator.fleet("secret put dev token").stdin("s3cret").run();
    assert!(out.code == 0 && out.stderr.contains("sealed for the key"), "{out:?}");
    let file = device.scratch.join("data/secrets/files/token");
    let until = Instant::now() + LONG;
    while std::fs::read_to_string(&file).unwrap_or_default() != "s3cret" {
        assert!(Instant::now() < until, "the secret does not arrive");
        std::thread::sleep(Duration::from_millis(50));
    }
    let unknown = operator.fleet("secret put nobody token").stdin("x").run();
    assert!(
        unknown.code == 125 && unknown.stderr.contains("--sealing-key"),
        "{unknown:?}"
    );
    operator.ok("retire dev");
    assert!(!file.exists());
    assert_eq!(operator.status(""), Vec::<Value>::new());
    device.clean();
}

/// A record of a device that does not exist about what a group is to run.
fn tells(broker: &Broker, device: &str, desired: &Value, state: &str, code: &str) {
    let value = json!({
        "activity": desired["activity"], "generation": desired["generation"], "source": desired["audience"],
        "rollout": desired["rollout"]["id"], "state": state, "since": now().0, "reason": {"code": code, "detail": ""},
    });
    says(broker, device, "deploy", value);
}

#[test]
fn a_guard_halts_when_too_many_fail_and_not_again_for_the_same() {
    let broker = Broker::plain();
    let operator = Operator::new(&broker, &[]);
    for n in 0..30 {
        let name = format!("gw-{n}");
        says(&broker, &name, "assign", json!({"generation": 1, "groups": ["line"]}));
        says(&broker, &name, "presence", json!({"up": true}));
    }
    let mut watch = broker.watch("dunlin/v1/g/line/desired");
    let mut next = |halted: bool, after: u64| {
        watch.wait_for_json("the next generation", LONG, |v| {
            v["generation"].as_u64() > Some(after) && v["rollout"]["halted"].as_bool() == Some(halted)
        })
    };
    let mut guard = operator.fleet("guard g/line").start();
    guard.wait_for("guards g/line", LONG);
    operator.scratch.write("apps.json", json!({"apps": []}).to_string());
    operator.ok("deploy g/line apps.json");
    let first = next(false, 0);
    let generation = |v: &Value| v["generation"].as_u64().unwrap();
    tells(&broker, "gw-0", &first, "ROLLED_BACK", "unhealthy");
    tells(&broker, "gw-1", &first, "COMMITTED", "");
    std::thread::sleep(Duration::from_millis(1500));
    assert!(
        !guard.output().contains("halted"),
        "one failure is none: {}",
        guard.output()
    );
    tells(&broker, "gw-2", &first, "FAILED", "net");
    let halted = next(true, generation(&first));
    assert_eq!(halted["activity"], first["activity"], "the same rollout");
    guard.wait_for("net 1, unhealthy 1", LONG);
    operator.ok("resume g/line");
    let resumed = next(false, generation(&halted));
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(guard.output().matches("halted with").count(), 1, "{}", guard.output());
    tells(&broker, "gw-3", &resumed, "FAILED", "net");
    next(true, generation(&resumed));
}

#[test]
fn a_watcher_ends_with_how_the_rollout_ended() {
    let broker = Broker::plain();
    let operator = Operator::new(&broker, &[]);
    for n in 0..3 {
        says(
            &broker,
            &format!("gw-{n}"),
            "assign",
            json!({"generation": 1, "groups": ["line"]}),
        );
    }
    operator.scratch.write("apps.json", json!({"apps": []}).to_string());
    for (state, code, silent, line) in [
        ("COMMITTED", 0, false, "3 committed, 0 failed, 0 going"),
        ("ROLLED_BACK", 1, false, "2 committed, 1 failed (oom 1)"),
        ("", 1, true, "2 committed, 1 failed (silent 1)"),
    ] {
        operator.ok("deploy g/line apps.json");
        let shown: Value = serde_json::from_str(&operator.run("deploy --dry-run g/line apps.json").stdout).unwrap();
        let watch = broker
            .watch("dunlin/v1/g/line/desired")
            .wait_for_json("it", LONG, |_| true);
        assert!(shown["generation"].as_u64() > watch["generation"].as_u64());
        for name in ["gw-0", "gw-1"] {
            tells(&broker, name, &watch, "COMMITTED", "");
        }
        let deadline = if silent { "3s" } else { "10m" };
        let mut watcher = operator
            .fleet(&format!("watch --wait --deadline {deadline} g/line"))
            .start();
        if !silent {
            watcher.wait_for("3 of 3 devices take part; 2 committed", LONG);
            tells(&broker, "gw-2", &watch, state, "oom");
        }
        watcher.wait_for(line, LONG);
        let status = watcher.wait(LONG);
        assert_eq!(status.code(), Some(code), "{}", watcher.output());
    }
}

#[test]
fn operators_at_the_same_time_are_told_and_the_last_one_counts() {
    let broker = Broker::plain();
    let key = SigningKey::generate("a").unwrap();
    let operators = [Operator::new(&broker, &[&key]), Operator::new(&broker, &[&key])];
    says(
        &broker,
        "x",
        "reported",
        json!({"source": "g/line", "generation": 4_000_000_000u64}),
    );
    says(
        &broker,
        "y",
        "reported",
        json!({"source": "g/line", "generation": now().seconds() + 500}),
    );
    for (at, operator) in operators.iter().enumerate() {
        let name = ["a", "b"][at];
        let document =
            json!({"apps": [{"name": name, "image": format!("r.example/{name}@sha256:{}", "1".repeat(64))}]});
        operator.scratch.write("apps.json", document.to_string());
    }
    let watch = broker.watch("dunlin/v1/g/line/desired");
    let outs: Vec<Out> = std::thread::scope(|scope| {
        let running: Vec<_> = operators
            .iter()
            .map(|operator| scope.spawn(|| operator.run("deploy g/line apps.json")))
            .collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let generation = |out: &Out| -> u64 { out.stdout.trim().rsplit(' ').next().unwrap().parse().unwrap() };
    let numbers: Vec<u64> = outs.iter().map(generation).collect();
    assert_ne!(numbers[0], numbers[1], "{outs:?}");
    let last = watch.messages().last().unwrap().clone();
    let value = payload(&last.payload, &key);
    let winner = usize::from(numbers[1] > numbers[0]);
    assert_eq!(value["generation"], numbers[winner], "{outs:?}");
    assert_eq!(value["apps"][0]["name"], ["a", "b"][winner]);
    assert_eq!(outs[winner].code, 0, "{outs:?}");
    assert!(
        numbers.iter().all(|n| *n > now().seconds() + 400 && *n < 4_000_000_000),
        "{numbers:?}"
    );
    let told = outs.iter().any(|out| out.stderr.contains("somebody else published"));
    let apart = watch.messages().len() == 2;
    assert!(told || apart, "{outs:?}");
}

#[test]
fn what_strangers_have_signed_is_not_taken_over() {
    let broker = Broker::plain();
    let (key, stranger) = (SigningKey::generate("a").unwrap(), SigningKey::generate("a").unwrap());
    let forger = Operator::new(&broker, &[&stranger]);
    let operator = Operator::new(&broker, &[&key]);
    let image = format!("r.example/evil@sha256:{}", "1".repeat(64));
    forger.scratch.write(
        "apps.json",
        json!({"apps": [{"name": "evil", "image": image}]}).to_string(),
    );
    operator.scratch.write("apps.json", json!({"apps": []}).to_string());
    forger.ok("deploy g/line apps.json");
    for line in [
        "promote --percent 25 g/line",
        "resume g/line",
        "deploy --percent 5 g/line apps.json",
    ] {
        let out = operator.run(line);
        assert!(
            out.code == 125 && out.stderr.contains("not to be believed"),
            "{line}: {out:?}"
        );
    }
    operator.ok("deploy g/line apps.json");
    operator.ok("promote --percent 25 g/line");
    let nothing = operator.run("promote g/other");
    assert!(
        nothing.code == 125 && nothing.stderr.contains("no desired state"),
        "{nothing:?}"
    );
}

#[test]
fn a_retired_device_leaves_nothing_at_the_broker() {
    let broker = Broker::plain();
    let key = SigningKey::generate("a").unwrap();
    let operator = Operator::new(&broker, &[&key]);
    for leaf in ["presence", "caps", "reported", "deploy", "desired", "secret/token"] {
        says(&broker, "old", leaf, json!({"up": false}));
    }
    says(&broker, "other", "presence", json!({"up": true, "agent": "0.1.0"}));
    let started = Instant::now();
    let out = operator.ok("retire --force old");
    assert!(started.elapsed() < Duration::from_secs(20), "{out}");
    let left: Vec<String> = operator
        .status("")
        .iter()
        .map(|row| row["Device"].to_string())
        .collect();
    assert_eq!(left, ["\"other\""]);
    let mut watch = broker.watch("dunlin/v1/d/+/secret/+");
    broker.publish("dunlin/v1/d/x/secret/mark", "x", false);
    let first = watch.wait_for("a secret", LONG, |message| Some(message.topic.clone()));
    assert_eq!(first, "dunlin/v1/d/x/secret/mark");
}

#[test]
fn status_asks_brokers_without_retained_wildcards_by_name() {
    let broker = Broker::plain();
    let operator = Operator::new(&broker, &[]);
    let names: Vec<String> = (0..40).map(|n| format!("gw-{n:02}")).collect();
    for name in &names {
        says(
            &broker,
            name,
            "presence",
            json!({"up": true, "agent": "0.1.0\u{1b}[31m"}),
        );
    }
    operator
        .scratch
        .write("names", format!("# some\n{}\n", names[..20].join("\n")));
    let rows: Vec<Value> = serde_json::from_str(&operator.ok("status --devices names --format json")).unwrap();
    assert_eq!(rows.len(), 20);
    let table = operator.ok("status");
    assert_eq!(table.lines().count(), 41, "{table}");
    assert!(!table.contains('\u{1b}'), "{table:?}");
    let nobody = operator.run("status --devices missing");
    assert_eq!(nobody.code, 125, "{nobody:?}");
    let far = Cmd::operator()
        .args(["fleet", "--broker", "mqtt://127.0.0.1:1", "status"])
        .run();
    assert!(
        far.code == 125 && far.stderr.contains("broker `mqtt://127.0.0.1:1`"),
        "{far:?}"
    );
}

#[test]
fn keys_are_replaced_when_the_roots_of_both_versions_sign() {
    let broker = Broker::plain();
    let operator = Operator::new(&broker, &[]);
    let [a, b] = ["a", "b"].map(|name| operator.ok(&format!("keygen --role root {name}.pem")));
    operator.scratch.write("first.toml", &a);
    operator.scratch.write("second.toml", &b);
    let mut watch = broker.watch("dunlin/v1/keys/+");
    let wrong = operator.run("keys rotate --sign-key b.pem first.toml");
    assert!(wrong.code == 125 && wrong.stderr.contains("new roots"), "{wrong:?}");
    assert_eq!(operator.ok("keys rotate --sign-key a.pem first.toml"), "keys version 2");
    let wrong = operator.run("keys rotate --sign-key b.pem second.toml");
    assert!(wrong.code == 125 && wrong.stderr.contains("present roots"), "{wrong:?}");
    // Each root signs where it is: a file is passed round.
    let shown = operator.ok("keys rotate --dry-run second.toml");
    assert!(shown.contains("\"generation\": 3"), "{shown}");
    operator.scratch.write("keys.json", &shown);
    let once = operator.ok("sign --kind keys --sign-key a.pem keys.json");
    operator.scratch.write("once.json", &once);
    let twice = operator.ok("sign --kind keys --sign-key b.pem once.json");
    operator.scratch.write("twice.json", &twice);
    let early = operator.run("keys rotate once.json");
    assert!(early.code == 125 && early.stderr.contains("new roots"), "{early:?}");
    assert_eq!(operator.ok("keys rotate twice.json"), "keys version 3");
    watch.wait_for("version 3", LONG, |message| {
        message.topic.ends_with("/keys/3").then_some(())
    });
}

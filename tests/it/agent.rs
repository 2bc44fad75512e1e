//! The whole loop on real parts: mosquitto, docker-registry, an ordinary user, the real agent.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::device::{Device, LONG, Setup};
use crate::fixture::child;
use crate::fixture::images::{Format, Index};

/// An app that sleeps and answers its health check with `health`.
fn web(image: &str, health: &str) -> Value {
    json!({
        "name": "web", "image": image, "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"],
        "health": {"exec": [health], "interval": "300ms", "start_interval": "100ms", "timeout": "5s", "failures": 3},
        "update": {"soak": "1s"},
    })
}

/// An image of both architectures that differs by `version` in a label.
fn image(device: &Device, version: &str) -> String {
    let labels = json!({"version": version});
    let index = Index::each(Format::Oci, |recipe| recipe.config("Labels", labels.clone()));
    device.registry.push("web", version, &index)
}

#[test]
fn an_update_is_committed_and_a_bad_one_rolled_back() {
    let mut device = device!("agent-loop", Setup::default());
    let (v1, v2, v3) = (image(&device, "v1"), image(&device, "v2"), image(&device, "v3"));
    device.start();
    let first = device.deploy(json!([web(&v1, "/bin/true")]));
    device.wait_state(&first, "COMMITTED");
    assert_eq!(device.running(), [format!("web {v1}")]);
    let states = device.states(&first);
    // What it passes through in less than 5 s is not told; on a busy machine something takes longer.
    let mut seen = states.iter();
    for state in ["SOAKING", "COMMITTED"] {
        assert!(seen.any(|s| s == state), "{state} in this order in {states:?}");
    }

    let second = device.deploy(json!([web(&v2, "/bin/true")]));
    device.wait_state(&second, "COMMITTED");
    assert_eq!(device.running(), [format!("web {v2}")]);

    let third = device.deploy(json!([web(&v3, "/bin/false")]));
    let record = device.wait_state(&third, "ROLLED_BACK");
    let code = record["reason"]["code"].as_str().unwrap();
    assert!(["unhealthy", "probe_timeout"].contains(&code), "{record}");
    assert_eq!(record["last_final"]["state"], "ROLLED_BACK");
    assert_eq!(device.running(), [format!("web {v2}")], "the old version runs");

    // The same specification again is not tried: it failed its gate.
    let again = device.deploy(json!([web(&v3, "/bin/false")]));
    let what = "the quarantined version to be refused";
    let refused = device.hear(what, "deploy", |v| {
        v["activity"] == again && v["reason"]["code"] == "quarantined"
    });
    assert!(
        ["REJECTED", "FAILED"].contains(&refused["state"].as_str().unwrap()),
        "{refused}"
    );
    assert_eq!(device.running(), [format!("web {v2}")]);

    // Removed from the set, removed from the device.
    let empty = device.deploy(json!([]));
    device.wait_state(&empty, "COMMITTED");
    assert_eq!(device.running(), Vec::<String>::new());
    let left = device.dunlin().args(["ps", "-a", "-q"]).ok();
    assert_eq!(left, "", "nothing is left behind");
    device.clean();
}

#[test]
fn unsigned_and_stale_documents_change_nothing_and_are_answered_and_counted() {
    let mut device = device!("agent-signed", Setup::default());
    let v1 = image(&device, "v1");
    device.start();
    let bare = device.document(json!([web(&v1, "/bin/true")]));
    device.broker.publish("dunlin/v1/d/dev/desired", bare.to_string(), true);
    let event = device.hear("the refusal", "evt/document", |_| true);
    assert_eq!(event["code"], "sig_invalid");
    device.hear("the count", "reported", |v| {
        v["refused"]["sig_invalid"].as_u64() >= Some(1)
    });
    assert_eq!(device.running(), Vec::<String>::new());

    let old = device.document(json!([]));
    let first = device.deploy(json!([web(&v1, "/bin/true")]));
    device.wait_state(&first, "COMMITTED");
    device.publish(old);
    device.hear("the refusal", "evt/document", |v| v["code"] == "stale");
    assert_eq!(device.running(), [format!("web {v1}")]);
    device.clean();
}

#[test]
fn speaks_tls_with_a_client_certificate_and_says_who_it_is() {
    let mut device = device!(
        "agent-tls",
        Setup {
            tls: true,
            ..Setup::default()
        }
    );
    device.start();
    let presence = device.hear("presence", "presence", |v| v["up"] == true);
    assert_eq!(presence["agent"], env!("CARGO_PKG_VERSION"));
    let caps = device.hear("caps", "caps", |_| true);
    assert_eq!(caps["protocol"], json!([1]));
    assert!(
        caps["memory"].as_u64() > Some(1 << 20) && caps["disk"].as_u64() > Some(1 << 20),
        "{caps}"
    );
    let reported = device.hear("reported", "reported", |_| true);
    assert_eq!(reported["session"], presence["session"]);
    // A killed agent says nothing; its will does.
    let agent = device.agent.take().unwrap();
    child::signal(agent.pid(), "KILL");
    device.hear("the will", "presence", |v| v["up"] == false);
}

#[test]
fn without_a_key_bare_documents_are_carried_out() {
    let mut device = device!(
        "agent-bare",
        Setup {
            unsigned: true,
            ..Setup::default()
        }
    );
    let v1 = image(&device, "v1");
    device.start();
    let document = device.document(json!([web(&v1, "/bin/true")]));
    let activity = document["activity"].as_str().unwrap().to_owned();
    device
        .broker
        .publish("dunlin/v1/d/dev/desired", document.to_string(), true);
    device.wait_state(&activity, "COMMITTED");
    device.clean();
}

#[test]
fn a_killed_agent_leaves_containers_running_and_the_next_one_adopts_them() {
    let mut device = device!("agent-adopt", Setup::default());
    let v1 = image(&device, "v1");
    device.start();
    let first = device.deploy(json!([web(&v1, "/bin/true")]));
    device.wait_state(&first, "COMMITTED");
    let pid = device.pid("web");
    let agent = device.agent.take().unwrap();
    child::signal(agent.pid(), "KILL");
    drop(agent);
    assert_eq!(device.pid("web"), pid, "it runs without an agent");
    device.start();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(device.pid("web"), pid, "it was not restarted");
    device.clean();
}

#[test]
fn a_killed_keeper_leaves_containers_running_and_is_replaced() {
    let mut device = device!("agent-keeper", Setup::default());
    let (v1, v2) = (image(&device, "v1"), image(&device, "v2"));
    device.start();
    let first = device.deploy(json!([web(&v1, "/bin/true")]));
    device.wait_state(&first, "COMMITTED");
    let pid = device.pid("web");
    let keepers = device.role("keeper");
    assert_eq!(keepers.len(), 1, "{:?}", device.scratch.processes());
    child::signal(keepers[0], "KILL");
    assert_eq!(device.pid("web"), pid, "it runs without a keeper");
    let second = device.deploy(json!([web(&v2, "/bin/true")]));
    device.wait_state(&second, "COMMITTED");
    assert_eq!(device.running(), [format!("web {v2}")]);
    device.clean();
}

#[test]
fn the_last_good_set_starts_offline_before_any_network_is_tried() {
    let mut device = device!("agent-offline", Setup::default());
    let v1 = image(&device, "v1");
    device.start();
    let first = device.deploy(json!([web(&v1, "/bin/true")]));
    device.wait_state(&first, "COMMITTED");
    // As after a power cut: no process lives, no broker and no registry answers.
    let agent = device.agent.take().unwrap();
    child::signal(agent.pid(), "KILL");
    drop(agent);
    for (pid, _) in device.scratch.processes() {
        child::end(pid);
    }
    device.broker.stop();
    device.registry.stop();
    let began = Instant::now();
    device.start_with(|c| c);
    while device.running() != [format!("web {v1}")] {
        assert!(began.elapsed() < LONG, "{}", device.agent.as_ref().unwrap().output());
        std::thread::sleep(Duration::from_millis(50));
    }
    device.clean();
}

#[test]
fn each_of_many_apps_is_watched_and_started_again() {
    const APPS: usize = 12;
    let mut device = device!("agent-many", Setup::default());
    let v1 = image(&device, "v1");
    device.start();
    let apps: Vec<Value> = (0..APPS)
        .map(|n| {
            json!({"name": format!("app{n}"), "image": v1, "command": ["sleep", "100000"], "update": {"soak": "100ms"},
                   "restart": {"policy": "always"}})
        })
        .collect();
    let deployed = device.deploy(json!(apps));
    device.wait_state(&deployed, "COMMITTED");
    let pids = |device: &Device| -> Vec<u32> { (0..APPS).map(|n| device.pid(&format!("app{n}"))).collect() };
    let before = pids(&device);
    for pid in &before {
        child::signal(*pid, "KILL");
    }
    let began = Instant::now();
    loop {
        let now = pids(&device);
        if now.iter().zip(&before).all(|(now, before)| *now != 0 && now != before) {
            break;
        }
        assert!(began.elapsed() < LONG, "{now:?}, before {before:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    device.clean();
}

#[test]
fn local_documents_are_a_source_of_their_own() {
    let mut device = device!("agent-local", Setup::default());
    let v1 = image(&device, "v1");
    let text = format!("name='local'\nimage='{v1}'\ncommand=['sleep','100000']\n[update]\nsoak='100ms'\n");
    device.scratch.write("apps/local.toml", text);
    device.user.give(device.scratch.path());
    device.start();
    let began = Instant::now();
    while device.running() != [format!("local {v1}")] {
        assert!(began.elapsed() < LONG, "{}", device.agent.as_ref().unwrap().output());
        std::thread::sleep(Duration::from_millis(50));
    }
    // The fleet's set neither removes nor takes it.
    let taken = device.deploy(json!([{"name": "local", "image": v1}]));
    let what = "the conflict";
    device.hear(what, "deploy", |v| {
        v["activity"] == taken && v["reason"]["code"] == "conflict"
    });
    let fleet = device.deploy(json!([web(&v1, "/bin/true")]));
    device.wait_state(&fleet, "COMMITTED");
    assert_eq!(device.running(), [format!("local {v1}"), format!("web {v1}")]);
    device.clean();
}

#[test]
fn failures_of_each_kind_end_in_their_reason() {
    let mut device = device!("agent-reasons", Setup::default());
    let v1 = image(&device, "v1");
    device.start();
    let first = device.deploy(json!([web(&v1, "/bin/true")]));
    device.wait_state(&first, "COMMITTED");
    let missing = format!("{}@sha256:{}", device.registry.reference("web"), "0".repeat(64));
    let change = |value: Value| {
        let mut app = web(&v1, "/bin/true");
        for (key, new) in value.as_object().unwrap() {
            app[key] = new.clone();
        }
        app
    };
    for (app, state, code) in [
        (change(json!({"image": missing})), "FAILED", "image_missing"),
        (
            change(json!({"command": ["/bin/nothing-here"]})),
            "ROLLED_BACK",
            "start_failed",
        ),
        (
            change(json!({"command": ["/bin/false"], "health": null, "restart": {"policy": "no"}})),
            "ROLLED_BACK",
            "exited",
        ),
        (
            change(json!({"health": {"exec": ["/bin/false"], "interval": "100ms", "start_interval": "100ms"}})),
            "ROLLED_BACK",
            "unhealthy",
        ),
        (change(json!({"limits": {"memory": "1000G"}})), "REJECTED", "budget"),
    ] {
        let activity = device.deploy(json!([app]));
        let record = device.wait_state(&activity, state);
        assert_eq!(record["reason"]["code"], code, "{record}");
        assert_eq!(device.running(), [format!("web {v1}")], "after {code}");
    }
    device.clean();
}

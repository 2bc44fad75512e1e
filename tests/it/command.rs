//! Commands over MQTT: a real broker, a real agent, an operator with a key.

use std::time::Duration;

use serde_json::{Value, json};

use dunlin::fleet::sign;
use dunlin::types::document::Command;
use dunlin::uplink::dsse::SigningKey;

use crate::device::{Device, Setup, wait};
use crate::fixture::images::{Format, Index};

const REPLY: &str = "dunlin/v1/d/dev/res/test";

/// Runs an app that says something and goes at once when it is asked to.
fn web(device: &mut Device) {
    let index = Index::each(Format::Oci, |recipe| recipe);
    let image = device.registry.push("web", "v1", &index);
    let script = "trap 'exit 0' TERM; echo hello; while :; do sleep 0.1; done";
    let activity = device.deploy(json!([{
        "name": "web", "image": image, "command": ["sh", "-c", script],
        "health": {"exec": ["true"], "interval": "1s", "start_interval": "100ms"}, "update": {"soak": "1s"},
    }]));
    device.wait_state(&activity, "COMMITTED");
}

/// A command for the device as it is now.
pub fn command(device: &mut Device, id: &str, verb: &str, args: Value) -> Value {
    json!({ "audience": "d/dev", "session": session(device), "id": id, "verb": verb, "args": args, "reply_to": REPLY })
}

pub fn session(device: &mut Device) -> String {
    let up = device.watch.messages();
    let presence = up
        .iter()
        .rev()
        .find(|m| m.topic.ends_with("/presence") && !m.payload.is_empty())
        .expect("presence");
    let value: Value = serde_json::from_slice(&presence.payload).unwrap();
    value["session"].as_str().unwrap().to_owned()
}

pub fn signed(command: &Value, key: &SigningKey) -> Vec<u8> {
    let command: Command = serde_json::from_value(command.clone()).unwrap();
    sign::command(&command, std::slice::from_ref(key)).unwrap()
}

pub fn send(device: &Device, command: &Value) {
    let topic = format!("dunlin/v1/d/dev/cmd/{}", command["verb"].as_str().unwrap());
    device.broker.publish(&topic, signed(command, &device.key), false);
}

/// The answers to a command so far, in order.
pub fn answers(device: &Device, id: &str) -> Vec<Value> {
    let all = device.watch.messages().into_iter().filter(|m| m.topic == REPLY);
    all.filter_map(|m| serde_json::from_slice::<Value>(&m.payload).ok())
        .filter(|v| v["id"] == id)
        .collect()
}

/// Waits for the final answer.
pub fn ended(device: &mut Device, id: &str) -> Value {
    device.hear(&format!("the end of {id}"), "res/test", |v| {
        v["id"] == id && v["status"] != "accepted"
    })
}

pub fn words(device: &Device, id: &str) -> Vec<String> {
    let all = answers(device, id).into_iter();
    all.map(|v| v["status"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn commands_are_answered_twice_and_carried_out_once() {
    let mut device = device!("command", Setup::default());
    device.start();
    web(&mut device);

    let before = device.pid("web");
    let restart = command(&mut device, "r1", "restart", json!({"app": "web"}));
    send(&device, &restart);
    assert_eq!(ended(&mut device, "r1")["status"], "done");
    assert_eq!(words(&device, "r1"), ["accepted", "done"]);
    let after = device.pid("web");
    assert_ne!(before, after, "it was started again");
    // The same again, as a broker that repeats would: the stored answer, nothing else.
    send(&device, &restart);
    wait("the answer again", || answers(&device, "r1").len() == 3);
    assert_eq!(words(&device, "r1"), ["accepted", "done", "done"]);
    assert_eq!(device.pid("web"), after, "it ran once");

    for (id, verb, args, status, needle) in [
        ("e1", "explain", json!({}), "done", "\"name\":\"web\""),
        ("p1", "probe", json!({"app": "web"}), "done", "\"health\":\"healthy\""),
        ("g1", "gc", json!({}), "done", "\"images\":0"),
        ("l1", "logs", json!({"app": "web", "tail": "5"}), "done", "\"lines\""),
        ("m1", "metrics", json!({}), "done", "\"count\":1"),
        ("n1", "restart", json!({"app": "nope"}), "failed", "nope"),
        ("n2", "probe", json!({"app": "nope"}), "failed", "nope"),
        ("n3", "restart", json!({}), "rejected", "app"),
        ("n4", "restart", json!({"app": "web", "x": "y"}), "rejected", "`x`"),
        ("n5", "reboot", json!({}), "rejected", "reboot"),
        (
            "n6",
            "update-agent",
            json!({"image": "localhost:1/none"}),
            "failed",
            "localhost:1",
        ),
    ] {
        let one = command(&mut device, id, verb, args);
        send(&device, &one);
        let answer = ended(&mut device, id);
        assert_eq!(answer["status"], status, "{answer}");
        assert!(
            answer.to_string().replace("\\\"", "\"").contains(needle),
            "{needle} in {answer}"
        );
    }
    let metrics = device.hear("metrics", "metrics", |v| v["apps"]["web"].is_object());
    assert!(metrics["memory_available"].as_u64().unwrap() > 0, "{metrics}");
    let said = device
        .watch
        .messages()
        .into_iter()
        .find(|m| m.topic == "dunlin/v1/d/dev/log/web")
        .unwrap();
    assert!(String::from_utf8_lossy(&said.payload).contains(" stdout hello\n"));
    device.clean();
}

#[test]
fn commands_that_are_not_for_now_or_not_from_the_operator_do_nothing() {
    let mut device = device!("command-refused", Setup::default());
    device.start();
    device.hear("presence", "presence", |v| v["up"] == true);
    let good = command(&mut device, "x", "gc", json!({}));
    let with = |id: &str, key: &str, value: Value| {
        let mut one = good.clone();
        one["id"] = id.into();
        one[key] = value;
        one
    };
    for (id, key, value, code) in [
        ("stale", "session", json!("0123456789abcdef"), "stale_session"),
        ("other", "audience", json!("d/other"), "not_for_me"),
        ("late", "not_after", json!("2020-01-01T00:00:00Z"), "expired"),
        ("time", "not_after", json!("soon"), "schema"),
    ] {
        if id == "late" && !dunlin::sys::clock::is_synchronised() {
            continue;
        }
        send(&device, &with(id, key, value));
        let answer = ended(&mut device, id);
        assert_eq!(
            (&answer["status"], &answer["reason"]["code"]),
            (&json!("rejected"), &json!(code)),
            "{answer}"
        );
    }
    // Another verb's topic.
    device.broker.publish(
        "dunlin/v1/d/dev/cmd/restart",
        signed(&with("verb", "verb", json!("gc")), &device.key),
        false,
    );
    assert_eq!(ended(&mut device, "verb")["reason"]["code"], "schema");

    let stranger = SigningKey::generate("operator").unwrap();
    let topic = "dunlin/v1/d/dev/cmd/gc";
    let count = |device: &Device| {
        device
            .watch
            .messages()
            .iter()
            .filter(|m| m.topic.ends_with("evt/document"))
            .count()
    };
    for (n, (payload, retain)) in [
        (good.to_string().into_bytes(), false),
        (signed(&good, &stranger), false),
        (b"{".to_vec(), false),
        (vec![0xff; 70_000], false),
        (
            signed(&with("y", "reply_to", json!("dunlin/v1/d/other/res/x")), &device.key),
            false,
        ),
        (signed(&with("z z", "id", json!("z z")), &device.key), false),
    ]
    .into_iter()
    .enumerate()
    {
        device.broker.publish(topic, payload, retain);
        if n != 3 {
            wait("a refusal", || count(&device) > n - usize::from(n > 3));
        }
    }
    for id in ["x", "y", "z z"] {
        assert!(answers(&device, id).is_empty(), "{id} was answered");
    }
    device.hear("what was refused", "reported", |v| {
        v["refused"]["sig_invalid"].as_u64() >= Some(3) && v["refused"]["stale_session"] == 1
    });
    device.clean();
}

#[test]
fn a_retained_command_and_one_of_an_earlier_session_never_run() {
    let mut device = device!("command-retained", Setup::default());
    device.start();
    device.hear("presence", "presence", |v| v["up"] == true);
    let old = command(&mut device, "old", "gc", json!({}));
    let topic = "dunlin/v1/d/dev/cmd/gc";
    device.broker.publish(topic, signed(&old, &device.key), true);
    // Live, the broker passes it on without the flag: it is for this session and runs, once.
    assert_eq!(ended(&mut device, "old")["status"], "done");
    let first = session(&mut device);
    device.clean();
    device.start();
    device.hear("presence of another session", "presence", |v| {
        v["up"] == true && v["session"] != first.as_str()
    });
    // Asked for now, so after everything that the broker had kept.
    let new = command(&mut device, "new", "gc", json!({}));
    send(&device, &new);
    assert_eq!(ended(&mut device, "new")["status"], "done");
    assert!(
        words(&device, "old").iter().skip(1).all(|word| word == "done"),
        "only its stored answer"
    );
    // The very same command again: its answer is known. One with another id: it is of another session.
    send(&device, &old);
    let mut other = old.clone();
    other["id"] = "old2".into();
    send(&device, &other);
    assert_eq!(ended(&mut device, "old2")["reason"]["code"], "stale_session");
    assert_eq!(words(&device, "old2"), ["rejected"]);
    device.clean();
}

#[test]
fn a_command_that_a_crash_interrupts_is_answered_so() {
    let mut device = device!("command-crash", Setup::default());
    device.start();
    web(&mut device);
    let logs = command(&mut device, "follow", "logs", json!({"app": "web", "seconds": "600"}));
    send(&device, &logs);
    device.hear("accepted", "res/test", |v| {
        v["id"] == "follow" && v["status"] == "accepted"
    });
    let mut agent = device.agent.take().unwrap();
    agent.signal("KILL");
    agent.wait(Duration::from_secs(10));
    device.start();
    let answer = ended(&mut device, "follow");
    assert_eq!(
        (&answer["status"], &answer["reason"]["code"]),
        (&json!("failed"), &json!("interrupted"))
    );
    device.clean();
}

//! A broker that restarts, forgets, is cut off, repeats, reorders, withholds: no command runs twice, no final state is lost.

use std::time::Duration;

use serde_json::{Value, json};

use dunlin::types::time::Unix;
use dunlin::uplink::dsse::{self, Kind};

use super::{connections, connects_again, first, kill, restarts_once, starts, web};
use crate::command::{answers, command, ended, send, session, words};
use crate::device::{Device, LONG, Setup, now, wait};
use crate::fixture::relay::Relay;

fn relayed(mqtt: &'static str) -> Setup {
    Setup {
        relay: true,
        mqtt,
        ..Setup::default()
    }
}

fn relay(device: &Device) -> &Relay {
    device.relay.as_ref().unwrap()
}

/// While the broker is away an update is committed and a command ends; both are told to whoever asks the next broker.
fn outage(topic: &'static str, forgets: bool, mqtt: &'static str) {
    let mut device = match Device::new(topic, &relayed(mqtt)) {
        Ok(device) => device,
        Err(reason) => crate::skip!("{reason}"),
    };
    device.start();
    first(&mut device);
    let apps = web(&device, "v2", "3s");
    let activity = device.deploy(apps);
    device.wait_state(&activity, "SOAKING");
    let follow = command(&mut device, "follow", "logs", json!({"app": "web", "seconds": "2"}));
    send(&device, &follow);
    device.hear("accepted", "res/test", |v| v["id"] == "follow");
    let before = connections(&device);
    relay(&device).close(true);
    if forgets {
        device.broker.forget();
    } else {
        device.broker.stop();
    }
    let committed = format!("deployment {activity} of `d/dev`: COMMITTED");
    device.agent.as_mut().unwrap().wait_for(&committed, LONG);
    device.broker.start();
    device.watch = device.broker.watch("dunlin/v1/d/dev/#");
    relay(&device).close(false);
    connects_again(&device, before);
    device.wait_state(&activity, "COMMITTED");
    assert_eq!(ended(&mut device, "follow")["status"], "done");
    device.hear("presence", "presence", |v| v["up"] == true);
    device.hear("what it can do", "caps", |v| v["key_version"] == 1);
    device.hear("what runs", "reported", |v| v["apps"][0]["name"] == "web");
    // The same command again: known, whatever the broker has forgotten.
    send(&device, &follow);
    wait("the stored answer", || answers(&device, "follow").len() >= 2);
    // What the broker has not acknowledged is said again, but nothing begins again.
    let said = words(&device, "follow");
    let done = said.iter().position(|word| word == "done").unwrap_or(0);
    assert!(said[done..].iter().all(|word| word != "accepted"), "{said:?}");
    restarts_once(&mut device, "after");
    // Presence goes over a will that the broker publishes late, and over what a stranger says.
    let ours = session(&mut device);
    let will = json!({"up": false, "boot": 1, "session": ours, "agent": "0.1.0"});
    device
        .broker
        .publish("dunlin/v1/d/dev/presence", will.to_string(), true);
    wait("presence again", || {
        let all = device.watch.messages().into_iter();
        let mut said = all.filter(|m| m.topic.ends_with("/presence"));
        said.next_back()
            .and_then(|m| serde_json::from_slice::<Value>(&m.payload).ok())
            .is_some_and(|v| v["up"] == true)
    });
    device.clean();
}

#[test]
fn a_broker_that_restarts_with_its_memory_loses_no_final_state_and_repeats_no_command() {
    outage("restart", false, "");
}

#[test]
fn a_broker_that_forgets_everything_is_told_everything_again() {
    outage("forget", true, "");
}

#[test]
fn a_broker_of_the_older_version_that_forgets_everything_is_told_everything_again() {
    outage("forget-three", true, "version='3.1.1'");
}

#[test]
fn a_session_that_somebody_else_has_ended_is_begun_anew() {
    let mut device = device!("lost-session", relayed(""));
    device.start();
    first(&mut device);
    let before = connections(&device);
    // The same client id with a clean start: the broker ends the device's connection and forgets its session.
    relay(&device).close(true);
    let mut other = std::process::Command::new("mosquitto_pub");
    let port = device.broker.port().to_string();
    other.args([
        "-V",
        "mqttv5",
        "-h",
        "127.0.0.1",
        "-p",
        &port,
        "-i",
        "dunlin-dev",
        "-t",
        "x",
        "-m",
        "x",
    ]);
    assert!(other.output().unwrap().status.success());
    let apps = web(&device, "v2", "1s");
    let activity = device.deploy(apps);
    relay(&device).close(false);
    connects_again(&device, before);
    let output = device.agent.as_ref().unwrap().output();
    let last = output
        .lines()
        .rev()
        .find(|line| line.contains("connected to the broker"));
    assert!(last.is_some_and(|line| line.contains("session new")), "{last:?}");
    device.wait_state(&activity, "COMMITTED");
    restarts_once(&mut device, "after");
    device.clean();
}

#[test]
fn a_partition_delays_what_is_said_and_repeats_nothing() {
    let mut device = device!("partition", relayed("keep_alive='5s'"));
    device.start();
    first(&mut device);
    let before = (connections(&device), starts(&device));
    relay(&device).hold(true);
    let restart = command(&mut device, "cut", "restart", json!({"app": "web"}));
    send(&device, &restart);
    let apps = web(&device, "v2", "1s");
    let activity = device.deploy(apps);
    // The silence is noticed by pings without answers.
    device.agent.as_mut().unwrap().wait_for("broker: ", LONG);
    assert!(answers(&device, "cut").is_empty());
    assert_eq!(starts(&device), before.1);
    relay(&device).hold(false);
    connects_again(&device, before.0);
    device.wait_state(&activity, "COMMITTED");
    ended(&mut device, "cut");
    restarts_once(&mut device, "after");
    device.clean();
}

#[test]
fn what_is_said_into_a_dead_connection_is_said_again() {
    // No ping notices this in time: the missing acknowledgement does.
    let mut device = device!("dead", relayed("keep_alive='1h'"));
    device.start();
    first(&mut device);
    let before = connections(&device);
    let follow = command(&mut device, "follow", "logs", json!({"app": "web", "seconds": "1"}));
    send(&device, &follow);
    device.hear("accepted", "res/test", |v| v["id"] == "follow");
    relay(&device).hold(true);
    let agent = device.agent.as_mut().unwrap();
    agent.wait_for("no acknowledgement within", Duration::from_secs(100));
    relay(&device).cut();
    relay(&device).hold(false);
    connects_again(&device, before);
    assert_eq!(ended(&mut device, "follow")["status"], "done");
    device.clean();
}

#[test]
fn repeated_and_reordered_deliveries_change_nothing() {
    let mut device = device!("repeat", relayed(""));
    device.start();
    first(&mut device);
    // Commands twice, as an insistent broker sends them; their acknowledgements never arrive.
    relay(&device).harm(|packet| match packet.topic() {
        Some(topic) if packet.from_broker && topic.contains("/cmd/") => {
            let mut again = packet.bytes.clone();
            again[0] |= 0x08;
            vec![packet.bytes, again.clone(), again]
        }
        _ if !packet.from_broker && packet.kind() == 4 => Vec::new(),
        _ => vec![packet.bytes],
    });
    restarts_once(&mut device, "r1");
    let (begun, before) = (starts(&device), connections(&device));
    // The broker has no acknowledgement: it delivers once more.
    relay(&device).heal();
    relay(&device).cut();
    connects_again(&device, before);
    restarts_once(&mut device, "r2");
    assert_eq!(starts(&device), begun + 1);
    assert!(answers(&device, "r1").len() >= 4, "{:?}", words(&device, "r1"));

    // The newer document first.
    let mut kept: Option<Vec<u8>> = None;
    relay(&device).harm(move |packet| match packet.topic() {
        Some(topic) if packet.from_broker && topic.ends_with("/dev/desired") => match kept.take() {
            None => {
                kept = Some(packet.bytes);
                Vec::new()
            }
            Some(older) => vec![packet.bytes.clone(), older, packet.bytes],
        },
        _ => vec![packet.bytes],
    });
    let apps = web(&device, "v2", "1s");
    let older = device.deploy(apps);
    let apps = web(&device, "v3", "1s");
    let newer = device.deploy(apps);
    device.wait_state(&newer, "COMMITTED");
    device.hear("the refusal", "reported", |v| v["refused"]["stale"] == 1);
    assert!(device.states(&older).is_empty(), "{:?}", device.states(&older));
    device.clean();
}

#[test]
fn events_that_could_not_be_told_outlive_the_agent() {
    let mut device = device!("events", relayed(""));
    device.start();
    first(&mut device);
    relay(&device).close(true);
    device.agent.as_mut().unwrap().wait_for("broker: ", LONG);
    let broken = device.scratch.write("apps/broken.toml", "name = 'Broken'\n");
    device.user.give(&broken);
    device.agent.as_mut().unwrap().wait_for("broken.toml", LONG);
    let mut agent = device.agent.take().unwrap();
    agent.signal("TERM");
    agent.wait(Duration::from_secs(20));
    std::fs::remove_file(broken).unwrap();
    let kept = device.scratch.join("data/agent/events");
    assert!(kept.exists());
    relay(&device).close(false);
    device.start();
    device.hear("the event of the agent before", "evt/document", |v| {
        v["detail"].as_str().is_some_and(|text| text.contains("broken.toml"))
    });
    // Told, it is not kept: a minute later at the most.
    crate::device::wait_within("the end of the file", Duration::from_secs(90), || !kept.exists());
    device.clean();
}

#[test]
fn withheld_and_deleted_documents_change_nothing() {
    let mut device = device!("withheld", relayed(""));
    device.start();
    let activity = first(&mut device);
    let pid = device.pid("web");
    for leaf in ["desired", "assign", "presence", "deploy", "reported", "caps"] {
        device.broker.delete(&format!("dunlin/v1/d/dev/{leaf}"));
    }
    restarts_once(&mut device, "r1");
    assert_ne!(device.pid("web"), pid);
    let pid = device.pid("web");
    kill(&mut device);
    // The next agent gets nothing that is stored.
    relay(&device).harm(|packet| {
        let stored = packet.from_broker && packet.kind() == 3 && packet.bytes[0] & 1 == 1;
        if stored { Vec::new() } else { vec![packet.bytes] }
    });
    device.start();
    device.watch = device.broker.watch("dunlin/v1/d/dev/#");
    device.wait_state(&activity, "COMMITTED");
    device.hear("presence", "presence", |v| v["up"] == true);
    device.hear("what runs", "reported", |v| {
        v["source"] == "d/dev" && v["apps"][0]["name"] == "web"
    });
    assert_eq!(device.pid("web"), pid, "it was adopted");
    device.clean();
}

#[test]
fn a_broker_that_withholds_news_is_seen_when_the_old_document_has_expired() {
    let mut device = device!("expired", relayed(""));
    device.start();
    let mut old = device.document(web(&device, "v1", "1s"));
    let life = now().seconds() + 600;
    old["expires_at"] = Unix(life * 1000).rfc3339().into();
    let activity = device.publish(old);
    device.wait_state(&activity, "COMMITTED");
    device.hear("what runs", "reported", |v| v["freshness"] == "fresh");
    let pid = device.pid("web");
    relay(&device).harm(|packet| {
        let news = packet.from_broker && packet.kind() == 3 && packet.bytes.windows(8).any(|part| part == b"/desired");
        if news { Vec::new() } else { vec![packet.bytes] }
    });
    let news = device.document(web(&device, "v2", "1s"));
    let news = device.publish(news);
    // What else the operator signs later says how late it is, whatever the device's own clock says.
    let assign = json!({"audience": "d/dev", "generation": 1, "issued_at": Unix((life + 60) * 1000).rfc3339()});
    let mut envelope = dsse::wrap(Kind::Assign, assign.to_string().as_bytes());
    device.key.sign(&mut envelope).unwrap();
    let assign = serde_json::to_vec(&envelope).unwrap();
    device.broker.publish("dunlin/v1/d/dev/assign", assign, true);
    device.hear("that it is late", "reported", |v| {
        v["freshness"] == "expired" && v["apps"][0]["name"] == "web"
    });
    assert_eq!(device.pid("web"), pid, "what runs goes on");
    assert!(device.states(&news).is_empty(), "{:?}", device.states(&news));
    device.clean();
}

//! Two agents with one identity, as a copied disk makes them.

use serde_json::{Value, json};

use super::{accepted, first};
use crate::command::{command, send, signed, words};
use crate::device::{Setup, wait};

#[test]
fn a_double_is_noticed_and_runs_no_command_of_the_other() {
    let mut device = device!("double", Setup::default());
    device.start();
    first(&mut device);
    let setup = Setup {
        at: Some(format!("127.0.0.1:{}", device.broker.port())),
        ..Setup::default()
    };
    let mut double = device!("double-b", setup);
    double.start();
    device.hear("the discovery", "evt/duplicate_identity", |v| v["code"] == "conflict");
    // Whichever has noticed stays away; the other one has the name.
    wait("one of both to stay", || {
        let outputs = [&device, &double].map(|one| one.agent.as_ref().unwrap().output());
        outputs
            .iter()
            .any(|output| output.contains("another device uses the name"))
    });
    std::thread::sleep(std::time::Duration::from_secs(4));
    let all = device.watch.messages();
    let up: Vec<Value> = all
        .iter()
        .filter(|m| m.topic.ends_with("/presence"))
        .filter_map(|m| serde_json::from_slice(&m.payload).ok())
        .collect();
    let mut sessions: Vec<String> = up.iter().map(|v| v["session"].as_str().unwrap().to_owned()).collect();
    sessions.sort();
    sessions.dedup();
    assert_eq!(sessions.len(), 2, "{up:?}");
    // A command for each of both sessions: one agent is there, and carries out its own alone.
    for (n, session) in sessions.iter().enumerate() {
        let id = format!("gc-{n}");
        let mut gc = command(&mut device, &id, "gc", json!({}));
        gc["session"] = session.as_str().into();
        // Both have keys of their own; the one that is there judges.
        send(&device, &gc);
        let other = signed(&gc, &double.key);
        device.broker.publish("dunlin/v1/d/dev/cmd/gc", other, false);
    }
    wait("answers", || {
        !words(&device, "gc-0").is_empty() && !words(&device, "gc-1").is_empty()
    });
    std::thread::sleep(std::time::Duration::from_secs(1));
    let ran = accepted(&device, "gc-0") + accepted(&device, "gc-1");
    assert_eq!(ran, 1, "{:?} {:?}", words(&device, "gc-0"), words(&device, "gc-1"));
    double.clean();
    device.clean();
}

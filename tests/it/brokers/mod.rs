//! Real brokers, and what they and the network do to a device.

mod double;
mod faults;
mod flood;
mod partition;
mod real;

use std::time::Duration;

use serde_json::{Value, json};

use crate::command::{answers, command, ended, send};
use crate::device::{Device, wait};
use crate::fixture::images::{Format, Index};

/// An app of this version; it goes at once when it is asked to.
fn web(device: &Device, version: &str, soak: &str) -> Value {
    let index = Index::each(Format::Oci, |recipe| {
        recipe.config("Labels", json!({ "version": version }))
    });
    let image = device.registry.push("web", version, &index);
    let script = "trap 'exit 0' TERM; echo hello; while :; do sleep 0.1; done";
    json!([{ "name": "web", "image": image, "command": ["sh", "-c", script], "update": {"soak": soak} }])
}

/// Brings the first version.
fn first(device: &mut Device) -> String {
    let apps = web(device, "v1", "1s");
    let activity = device.deploy(apps);
    device.wait_state(&activity, "COMMITTED");
    activity
}

/// A restart of the app by command: carried out once.
fn restarts_once(device: &mut Device, id: &str) {
    let before = starts(device);
    let restart = command(device, id, "restart", json!({"app": "web"}));
    send(device, &restart);
    assert_eq!(ended(device, id)["status"], "done");
    wait("the app", || starts(device) > before);
    assert_eq!(starts(device), before + 1);
}

/// How often the app of this version was started.
fn starts(device: &Device) -> usize {
    device.dunlin().args(["logs", "web"]).ok().matches("hello").count()
}

/// How often a command was begun, or found under way.
fn accepted(device: &Device, id: &str) -> usize {
    let all = answers(device, id).into_iter();
    all.filter(|answer| answer["status"] == "accepted").count()
}

/// Connections of the agent so far.
fn connections(device: &Device) -> usize {
    device
        .agent
        .as_ref()
        .unwrap()
        .output()
        .matches("connected to the broker")
        .count()
}

fn connects_again(device: &Device, before: usize) {
    wait("another connection", || connections(device) > before);
}

/// SIGKILL.
fn kill(device: &mut Device) {
    let mut agent = device.agent.take().unwrap();
    agent.signal("KILL");
    agent.wait(Duration::from_secs(10));
}

/// The most memory that the agent has had, bytes.
fn peak(device: &Device) -> u64 {
    let pid = device.agent.as_ref().unwrap().pid();
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

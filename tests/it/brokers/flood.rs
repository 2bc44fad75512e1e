//! More than a device can use: its memory stays within bounds, and it goes on with its work.

use std::time::Duration;

use super::{connections, first, peak, restarts_once, web};
use crate::command::{command, ended, send};
use crate::device::{Device, Setup};
use serde_json::json;

/// The most memory that an agent of the tests' debug build may have had, bytes: its program's pages count.
const PEAK: u64 = 48 << 20;
/// What a flood of 36 MB may add to it, bytes.
const ADDED: u64 = 4 << 20;

/// What the device says, without what it is flooded with.
const SAYS: &str = "dunlin/v1/d/dev/+ dunlin/v1/d/dev/res/+ dunlin/v1/d/dev/evt/+";

fn junk(device: &Device, topic: &str, bytes: usize, retain: bool) {
    device
        .broker
        .publish(&format!("dunlin/v1/d/dev/{topic}"), vec![b'x'; bytes], retain);
}

#[test]
fn a_flood_of_stored_documents_is_refused_within_bounds() {
    let mut device = device!("flood", Setup::default());
    device.watch = device.broker.watch(SAYS);
    for n in 0..200 {
        junk(&device, &format!("secret/x-{n}"), 60_000, true);
    }
    device.start();
    device.hear("the refusals", "reported", |v| {
        v["refused"]["sig_invalid"].as_u64() >= Some(200)
    });
    first(&mut device);
    restarts_once(&mut device, "after");
    assert!(peak(&device) < PEAK, "{} KiB", peak(&device) >> 10);
    device.clean();
}

#[test]
fn a_device_that_was_slow_catches_up_within_bounds() {
    let mut device = device!("slow", Setup::default());
    device.start();
    first(&mut device);
    device.watch = device.broker.watch(SAYS);
    device.hear("its session", "presence", |v| v["up"] == true);
    let before = peak(&device);
    let pid = device.agent.as_ref().unwrap().pid();
    crate::fixture::child::signal(pid, "STOP");
    for _ in 0..600 {
        junk(&device, "cmd/gc", 60_000, false);
    }
    let late = command(&mut device, "late", "gc", json!({}));
    send(&device, &late);
    crate::fixture::child::signal(pid, "CONT");
    assert_eq!(ended(&mut device, "late")["status"], "done");
    let added = peak(&device).saturating_sub(before);
    assert!(added < ADDED, "{} KiB more", added >> 10);
    device.clean();
}

/// Something too large stands where the device looks; the rest of its work goes on.
fn oversize(topic: &'static str, mqtt: &'static str) -> Device {
    let setup = Setup {
        relay: true,
        mqtt,
        ..Setup::default()
    };
    let mut device = Device::new(topic, &setup).expect("root");
    device.start();
    first(&mut device);
    junk(&device, "secret/big", 300_000, true);
    device
}

#[test]
fn a_document_that_is_too_large_is_withheld_where_the_broker_knows_the_bound() {
    if let Err(reason) = crate::fixture::user::User::with_ranges() {
        crate::skip!("{reason}");
    }
    let mut device = oversize("oversize", "");
    restarts_once(&mut device, "after");
    assert_eq!(connections(&device), 1);
    device.clean();
}

#[test]
fn a_topic_with_a_document_that_is_too_large_is_left_out_where_the_broker_knows_no_bound() {
    if let Err(reason) = crate::fixture::user::User::with_ranges() {
        crate::skip!("{reason}");
    }
    let mut device = oversize("oversize-three", "version='3.1.1'");
    let long = Duration::from_secs(120);
    let agent = device.agent.as_mut().unwrap();
    agent.wait_for("`dunlin/v1/d/dev/secret/+`: the broker has more there", long);
    device.hear("what is left out", "evt/document", |v| {
        v["detail"].as_str().is_some_and(|text| text.contains("secret/+"))
    });
    let apps = web(&device, "v2", "1s");
    let activity = device.deploy(apps);
    device.wait_state(&activity, "COMMITTED");
    let gc = command(&mut device, "gc", "gc", json!({}));
    // Commands come last, when all filters are known to be good.
    device
        .agent
        .as_mut()
        .unwrap()
        .wait_for("all topics are subscribed again", long);
    send(&device, &gc);
    assert_eq!(ended(&mut device, "gc")["status"], "done");
    device.clean();
}

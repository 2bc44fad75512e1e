//! The device's way from its first connection to its will, on brokers that speak MQTT 3.1.1 alone.

use std::time::Duration;

use super::{connections, first, kill, restarts_once, web};
use crate::command::session;
use crate::device::{Device, Engine, Setup, wait_within};

/// RabbitMQ takes half a minute to come up, and devices wait longer each time they find nobody.
const AGAIN: Duration = Duration::from_secs(240);

fn setup(engine: Engine) -> Setup {
    Setup {
        engine,
        mqtt: "version='3.1.1'",
        relay: true,
        ..Setup::default()
    }
}

/// Presence, desired state, reported, a command, the loss of the broker in the middle of an update, and the will.
fn works(device: &mut Device, lose: impl FnOnce(&mut Device)) {
    device.start();
    device.hear("presence", "presence", |v| v["up"] == true);
    first(device);
    device.hear("what runs", "reported", |v| v["apps"][0]["name"] == "web");
    restarts_once(device, "c1");

    let apps = web(device, "v2", "5s");
    let activity = device.deploy(apps);
    device.wait_state(&activity, "SOAKING");
    let before = connections(device);
    lose(device);
    wait_within("another connection", AGAIN, || connections(device) > before);
    device.wait_state(&activity, "COMMITTED");
    restarts_once(device, "c2");

    // Its will; then the next agent, which says again how the last update ended.
    let old = session(device);
    kill(device);
    device.hear("its will", "presence", |v| {
        v["up"] == false && v["session"] == old.as_str()
    });
    device.start();
    device.hear("the next one", "presence", |v| {
        v["up"] == true && v["session"] != old.as_str()
    });
    let mut late = device.broker.watch("dunlin/v1/d/dev/deploy");
    late.wait_for_json("the last final record", AGAIN, |v| {
        v["activity"] == activity.as_str() && v["state"] == "COMMITTED"
    });
    device.clean();
}

#[test]
fn a_device_works_on_mosquitto_with_mqtt_3_1_1() {
    let mut device = device!("three", setup(Engine::Mosquitto));
    works(&mut device, |device| {
        device.broker.stop();
        device.broker.start();
    });
}

#[test]
fn a_device_works_on_rabbitmq() {
    let mut device = device!("rabbit", setup(Engine::Rabbit));
    works(&mut device, |device| {
        device.broker.stop();
        device.broker.start();
    });
}

#[test]
fn a_device_works_on_a_nats_cluster_that_loses_its_node() {
    let mut device = device!("nats", setup(Engine::Nats));
    // As a balancer does: to the first node, and to another when that is gone.
    device.relay.as_ref().unwrap().aim(device.broker.node(0));
    works(&mut device, |device| {
        device.broker.lose_node(0);
        device.relay.as_ref().unwrap().aim(device.broker.node(1));
    });
}

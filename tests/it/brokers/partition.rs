//! A device in a network of its own, whose cable is cut: the kernel's TCP, its time-outs and its routes, and not those of a relay.

use std::net::TcpListener;

use serde_json::json;

use super::{connections, connects_again, first, restarts_once, starts, web};
use crate::command::{answers, command, ended, send};
use crate::device::{LONG, Setup};
use crate::fixture::cmd;
use crate::fixture::relay::Relay;
use crate::fixture::site::{FAR, Site};
use crate::skip;

#[test]
fn a_cable_that_is_cut_delays_what_is_said_and_repeats_nothing() {
    let site = match Site::new() {
        Ok(site) => site,
        Err(reason) => skip!("{reason}"),
    };
    let listener = site.far(|| TcpListener::bind((FAR, 0)).unwrap()).join().unwrap();
    let setup = Setup {
        at: Some(format!("{FAR}:{}", listener.local_addr().unwrap().port())),
        mqtt: "insecure=true\nkeep_alive='5s'",
        ..Setup::default()
    };
    let mut device = device!("cable", setup);
    let _relay = Relay::over(listener, device.broker.port());
    // The registry is not in the device's network: images are there before.
    let versions = ["v1", "v2", "v3"].map(|version| web(&device, version, "1s"));
    for apps in &versions {
        let image = apps[0]["image"].as_str().unwrap();
        device.dunlin().args(["pull", "-q", image]).ok();
    }
    let agent = device.on_its_store(site.cmd(Some(&device.user), &cmd::dunlin()));
    device.agent = Some(agent.arg("agent").start());
    let connected = device.agent.as_mut().unwrap();
    connected.wait_for("connected to the broker", LONG);
    first(&mut device);

    // At the far end, as in the field; then the device's own, which loses its routes too.
    for (version, name) in [(&versions[1], "far"), (&versions[2], "own")] {
        let before = (connections(&device), starts(&device));
        let own = |state: &str| site.host(&format!("ip link set up0 {state}"));
        match name {
            "far" => site.cut(true),
            _ => drop(own("down")),
        }
        let restart = command(&mut device, name, "restart", json!({"app": "web"}));
        send(&device, &restart);
        let activity = device.deploy(version.clone());
        // The silence is noticed by pings without answers.
        let lost = |device: &crate::device::Device| device.agent.as_ref().unwrap().output().matches("broker: ").count();
        let losses = lost(&device);
        crate::device::wait("the silence to be noticed", || lost(&device) > losses);
        assert!(answers(&device, name).is_empty(), "{name}");
        assert_eq!(starts(&device), before.1, "{name}");
        match name {
            "far" => site.cut(false),
            _ => drop(own("up")),
        }
        connects_again(&device, before.0);
        device.wait_state(&activity, "COMMITTED");
        ended(&mut device, name);
        restarts_once(&mut device, &format!("after-{name}"));
    }
    device.clean();
}

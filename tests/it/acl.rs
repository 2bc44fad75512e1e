//! The access rules that are shipped for mosquitto: a device does its work under them and touches nothing of another's.

use serde_json::json;

use crate::device::{Device, Setup};
use crate::fixture::images::{Format, Index};

#[test]
fn a_device_works_under_the_access_rules_and_touches_nothing_of_another_s() {
    let setup = Setup {
        rules: true,
        ..Setup::default()
    };
    let mut device = device!("acl", setup);
    device.start();
    let index = Index::each(Format::Oci, |recipe| recipe);
    let image = device.registry.push("web", "v1", &index);
    let activity = device.deploy(json!([{
        "name": "web", "image": image, "command": ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"],
        "update": {"soak": "1s"},
    }]));
    device.wait_state(&activity, "COMMITTED");
    device.hear("what it runs", "reported", |v| v["apps"][0]["name"] == "web");

    let other = device.broker.client("other");
    // The device publishes under its own name, so something is there to be read.
    for filter in ["dunlin/v1/d/dev/#", "dunlin/v1/d/+/reported", "#"] {
        let mut listen = device.broker.tool_of("mosquitto_sub", &other);
        let out = listen.args(["-t", filter, "-W", "2", "-v"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), "", "{filter}");
    }
    let session = |device: &Device| {
        let all = device.watch.messages().into_iter().rev();
        all.filter(|m| m.topic.ends_with("/dev/presence"))
            .map(|m| m.payload)
            .next()
    };
    let before = (session(&device), device.watch.messages().len());
    for (topic, retain) in [
        ("dunlin/v1/d/dev/presence", true),
        ("dunlin/v1/d/dev/reported", true),
        ("dunlin/v1/d/dev/desired", true),
        ("dunlin/v1/d/dev/cmd/gc", false),
        ("dunlin/v1/d/dev/res/x", false),
        ("dunlin/v1/d/other/desired", true),
        ("dunlin/v1/d/other/assign", true),
        ("dunlin/v1/g/line/desired", true),
        ("dunlin/v1/keys/2", true),
    ] {
        let mut say = device.broker.tool_of("mosquitto_pub", &other);
        say.args(["-q", "1", "-t", topic, "-m", "{}"]);
        if retain {
            say.arg("-r");
        }
        say.output().unwrap();
    }
    // The broker has judged all of them before this one of the operator's, which passes.
    let marker = device.document(json!([]));
    device.broker.publish("dunlin/v1/d/dev/mark", marker.to_string(), false);
    device.hear("the mark", "mark", |_| true);
    let after = device.watch.messages();
    let foreign: Vec<_> = after[before.1..].iter().filter(|m| m.payload == b"{}").collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    assert_eq!(session(&device), before.0);
    device.clean();
}

//! What an app's `[update]` says, on real parts: its lock, its volumes.

use std::time::Duration;

use serde_json::{Value, json};

use crate::device::{Device, Setup};
use crate::fixture::images::{Format, Index};
use crate::skip;

fn image(device: &Device, version: &str) -> String {
    let labels = json!({"version": version});
    let index = Index::each(Format::Oci, |recipe| recipe.config("Labels", labels.clone()));
    device.registry.push("web", version, &index)
}

fn web(image: &str, script: &str, health: &str, update: Value) -> Value {
    json!({
        "name": "web", "image": image, "command": ["sh", "-c", script], "volumes": ["data:/data"],
        "health": {"exec": ["sh", "-c", health], "interval": "200ms", "start_interval": "100ms", "failures": 2},
        "update": update,
    })
}

#[test]
fn an_app_holds_its_update_back_by_locking_the_file_that_its_container_sees() {
    let mut device = match Device::new("update-lock", &Setup::default()) {
        Ok(device) => device,
        Err(reason) => skip!("{reason}"),
    };
    let (v1, v2) = (image(&device, "v1"), image(&device, "v2"));
    device.start();
    let update = json!({"soak": "1s", "lock": true});
    let script = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let mut first = web(&v1, script, "true", update.clone());
    first["user"] = json!("1000:1000");
    let first = device.deploy(json!([first]));
    device.wait_state(&first, "COMMITTED");
    // An ordinary user of the container may read it, which is enough to lock it, and nobody may write.
    let look = "[ $DUNLIN_UPDATE_LOCK = /run/dunlin/update.lock ] && cat $DUNLIN_UPDATE_LOCK && ! (echo x >$DUNLIN_UPDATE_LOCK)";
    device.dunlin().args(["exec", "web", "sh", "-c", look]).ok();
    device.dunlin().args(["exec", "-u", "0", "web", "sh", "-c", look]).ok();
    let seen = format!("/proc/{}/root/run/dunlin/update.lock", device.pid("web"));
    let lock = std::fs::File::open(seen).unwrap();
    lock.lock().unwrap();
    let second = device.deploy(json!([web(&v2, script, "true", update)]));
    let what = "the lock to hold the update back";
    device.hear(what, "deploy", |v| {
        v["activity"] == second && v["state"] == "WAITING" && v["reason"]["code"] == "lock"
    });
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(
        device.running(),
        [format!("web {v1}")],
        "it is looked at again and still held"
    );
    drop(lock);
    device.wait_state(&second, "COMMITTED");
    assert_eq!(device.running(), [format!("web {v2}")]);
    device.clean();
}

#[test]
fn volumes_come_back_as_they_were_with_the_old_version() {
    let mut device = match Device::new("update-volumes", &Setup::default()) {
        Ok(device) => device,
        Err(reason) => skip!("{reason}"),
    };
    let (v1, v2) = (image(&device, "v1"), image(&device, "v2"));
    device.start();
    let update = json!({"soak": "1s", "volumes": "snapshot"});
    // Files of another user, a link with two names, a hole, an odd mode.
    let script = "trap 'exit 0' TERM; cd /data; [ -e a ] || { mkdir d; echo one >a; chown 1000:1000 a d; ln a d/b; chmod 4711 a; \
        dd if=/dev/zero of=hole bs=1 count=1 seek=1000000; ln -s a l; touch done; }; while :; do sleep 0.1; done";
    let first = device.deploy(json!([web(&v1, script, "test -e /data/done", update.clone())]));
    device.wait_state(&first, "COMMITTED");
    let look = [
        "exec",
        "web",
        "sh",
        "-c",
        "cd /data; stat -c '%n %u:%g %a %s %h %b' a d d/b hole l done; cat a; ls -A | sort",
    ];
    let before = device.dunlin().args(look).ok();
    assert!(before.contains("a 1000:1000 4711 4 2"), "{before}");

    let spoils =
        "trap 'exit 0' TERM; cd /data; echo two >a; rm -rf d; chown 7:7 hole; touch new; while :; do sleep 0.1; done";
    let second = device.deploy(json!([web(&v2, spoils, "! test -e /data/new", update.clone())]));
    device.wait_state(&second, "ROLLED_BACK");
    assert_eq!(device.running(), [format!("web {v1}")]);
    assert_eq!(device.dunlin().args(look).ok(), before, "as it was");

    let third = device.deploy(json!([web(&v2, spoils, "test -e /data/new", update)]));
    device.wait_state(&third, "COMMITTED");
    assert_eq!(device.dunlin().args(["exec", "web", "cat", "/data/a"]).ok(), "two");
    let volumes = device.scratch.join("data/volumes");
    let names = || -> Vec<String> {
        let entries = std::fs::read_dir(&volumes).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    };
    for _ in 0..100 {
        if names() == ["data"] {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(
        names(),
        ["data"],
        "what was saved is removed when the new version is committed"
    );
    device.clean();
}

//! What an app's `[update]` says, on real parts: its lock, its volumes.

use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::device::{Device, Setup};
use crate::fixture::disk;
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
    let mut device = device!("update-lock", Setup::default());
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
    let mut device = device!("update-volumes", Setup::default());
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

#[test]
fn a_container_that_ignores_term_and_a_probe_that_hangs_hold_nothing_up() {
    let mut device = device!("update-deaf", Setup::default());
    let (v1, v2, v3) = (image(&device, "v1"), image(&device, "v2"), image(&device, "v3"));
    device.start();
    let update = json!({"soak": "1s"});
    let deaf = "trap '' TERM; while :; do sleep 0.1; done";
    let first = device.deploy(json!([web(&v1, deaf, "true", update.clone())]));
    device.wait_state(&first, "COMMITTED");
    let began = Instant::now();
    let second = device.deploy(json!([web(&v2, deaf, "true", update.clone())]));
    device.wait_state(&second, "COMMITTED");
    let took = began.elapsed();
    assert!(took > Duration::from_secs(9), "it had its time to stop: {took:?}");
    assert_eq!(device.running(), [format!("web {v2}")]);
    let mut hangs = web(
        &v3,
        "trap 'exit 0' TERM; while :; do sleep 0.1; done",
        "sleep 4321",
        update,
    );
    hangs["health"]["timeout"] = json!("500ms");
    let third = device.deploy(json!([hangs]));
    let record = device.wait_state(&third, "ROLLED_BACK");
    assert_eq!(
        record["reason"]["code"], "unhealthy",
        "a time-out is a failure: {record}"
    );
    assert_eq!(device.running(), [format!("web {v2}")]);
    let left: Vec<_> = device
        .user
        .processes()
        .into_iter()
        .filter(|(_, line)| line.contains("4321"))
        .collect();
    assert!(left.is_empty(), "probes that hang are killed: {left:?}");
    device.clean();
}

/// Not a test of its own: works in the mount namespace that the next one makes.
#[test]
fn goes_back_on_the_disk_that_it_is_given() {
    if !disk::is_given() {
        return;
    }
    let setup = Setup {
        settings: "[store]\nreserve='1M'\n".to_owned(),
        ..Setup::default()
    };
    let mut device = device!("update-full", setup);
    let data = device.scratch.folder("data");
    if let Err(reason) = disk::mount(&data) {
        skip!("{reason}");
    }
    device.user.give(&data);
    let (v1, v2) = (image(&device, "v1"), image(&device, "v2"));
    device.start();
    let loops = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let first = device.deploy(json!([web(&v1, loops, "true", json!({"soak": "1s"}))]));
    device.wait_state(&first, "COMMITTED");
    assert!(data.join("agent/room").exists());
    let second = device.deploy(json!([web(&v2, "sleep 10; exit 3", "true", json!({"soak": "1m"}))]));
    device.wait_state(&second, "SOAKING");
    let ballast = std::fs::File::create(data.join("ballast")).unwrap();
    while (&ballast).write_all(&[1; 512]).is_ok() {}
    ballast.sync_all().unwrap();
    let record = device.wait_state(&second, "ROLLED_BACK");
    assert_eq!(record["reason"]["code"], "exited", "{record}");
    assert_eq!(record["last_final"]["state"], "ROLLED_BACK");
    assert_eq!(device.running(), [format!("web {v1}")]);
    device.hear("the full disk", "reported", |v| v["degraded"] == json!(["disk"]));
    let mut agent = device.agent.take().unwrap();
    agent.signal("KILL");
    agent.wait(Duration::from_secs(10));
    device.start();
    let history = device.dunlin().args(["app", "history"]).ok();
    assert!(history.contains("ROLLED_BACK"), "the record is on the disk: {history}");
    assert_eq!(device.running(), [format!("web {v1}")]);
    std::fs::remove_file(data.join("ballast")).unwrap();
    device.clean();
    println!("went back on a full disk");
}

#[test]
fn the_old_version_comes_back_and_says_so_on_a_full_disk() {
    let test = "update::goes_back_on_the_disk_that_it_is_given";
    if let Err(reason) = disk::run("update-full-disk", 48 << 20, test, "went back on a full disk") {
        skip!("{reason}");
    }
}

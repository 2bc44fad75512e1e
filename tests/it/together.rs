//! Deployments and what else goes on on a device: apps that leave their set, a source beside another one, a disk at its reserve, a boot
//! with everything around it changed.

use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::device::{Device, Setup, now, wait};
use crate::fixture::images::{Compression, Format, Index};
use crate::fixture::registry::Registry;
use crate::fixture::tree::Tree;
use crate::fixture::{child, disk};
use crate::pull::noise;
use crate::skip;

fn image(device: &Device, version: &str) -> String {
    let labels = json!({"version": version});
    let index = Index::each(Format::Oci, |recipe| recipe.config("Labels", labels.clone()));
    device.registry.push("web", version, &index)
}

fn app(name: &str, image: &str, health: &str, update: Value) -> Value {
    json!({
        "name": name, "image": image, "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"],
        "health": {"exec": [health], "interval": "300ms", "start_interval": "100ms", "timeout": "5s", "failures": 3},
        "update": update,
    })
}

/// A document of the device itself.
fn local(device: &Device, name: &str, image: &str, soak: &str) {
    let text = format!("name='{name}'\nimage='{image}'\ncommand=['sleep','100000']\n[update]\nsoak='{soak}'\n");
    let path = device.scratch.write(&format!("apps/{name}.toml"), text);
    device.user.give(&path);
}

/// As after a power cut: no process of the device lives.
fn lose_power(device: &mut Device) {
    let agent = device.agent.take().unwrap();
    child::signal(agent.pid(), "KILL");
    drop(agent);
    for (pid, _) in device.scratch.processes() {
        child::end(pid);
    }
}

#[test]
fn an_independent_app_that_fails_leaves_its_set_which_is_committed() {
    let mut device = device!("together-alone", Setup::default());
    let (v1, v2, v3) = (image(&device, "v1"), image(&device, "v2"), image(&device, "v3"));
    device.start();
    let set = |image: &str, tool: &str, health: &str| {
        let tool = app("tool", tool, health, json!({"soak": "2s", "independent": true}));
        json!([app("db", image, "true", json!({"soak": "1s"})), tool])
    };
    let first = device.deploy(set(&v1, &v1, "true"));
    device.wait_state(&first, "COMMITTED");
    let second = device.deploy(set(&v2, &v2, "false"));
    let record = device.wait_state(&second, "COMMITTED");
    let apps: Vec<[&str; 3]> = record["apps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|app| [&app["name"], &app["state"], &app["reason"]["code"]].map(|value| value.as_str().unwrap_or("")))
        .collect();
    let unhealthy = ["tool", "ROLLED_BACK", "unhealthy"];
    assert_eq!(apps, [["db", "COMMITTED", ""], unhealthy], "{record}");
    assert_eq!(device.running(), [format!("db {v2}"), format!("tool {v1}")]);
    // What ran is what was committed, also after a power cut.
    lose_power(&mut device);
    device.start();
    wait("both to run again", || {
        device.running() == [format!("db {v2}"), format!("tool {v1}")]
    });
    // The version that failed is held back, and holds nobody else back.
    let third = device.deploy(set(&v3, &v2, "false"));
    device.wait_state(&third, "COMMITTED");
    assert_eq!(device.running(), [format!("db {v3}"), format!("tool {v1}")]);
    let story: Value =
        serde_json::from_str(&device.dunlin().args(["explain", "tool", "--format", "json"]).ok()).unwrap();
    assert!(story["Apps"][0]["Blocks"].to_string().contains("quarantine"), "{story}");
    device.clean();
}

#[test]
fn two_sources_go_their_own_ways() {
    let mut device = device!("together-sources", Setup::default());
    let (v1, v2, bad) = (image(&device, "v1"), image(&device, "v2"), image(&device, "bad"));
    let soon = json!({"soak": "1s"});
    local(&device, "own", &v1, "15s");
    device.start();
    device.hear("the local app to soak", "deploy", |v| {
        v["source"] == "local" && v["state"] == "SOAKING"
    });
    // A long soak over there holds nothing up here.
    let first = device.deploy(json!([app("web", &v1, "true", soon.clone())]));
    device.wait_state(&first, "COMMITTED");
    let own = |device: &Device| {
        let told = device.watch.messages().into_iter().rev();
        let mut told = told.filter_map(|message| serde_json::from_slice::<Value>(&message.payload).ok());
        told.find(|v| v["source"] == "local" && v["state"].is_string()).unwrap()["state"].clone()
    };
    assert_eq!(own(&device), "SOAKING");
    device.hear("the local app to be committed", "deploy", |v| {
        v["source"] == "local" && v["state"] == "COMMITTED"
    });
    // Both change at once; one fails and goes back alone.
    local(&device, "own", &v2, "1s");
    let second = device.deploy(json!([app("web", &bad, "false", soon.clone())]));
    device.wait_state(&second, "ROLLED_BACK");
    wait("the local app's second version", || {
        device.running() == [format!("own {v2}"), format!("web {v1}")]
    });
    wait("its end", || own(&device) == "COMMITTED");
    assert_eq!(device.running(), [format!("own {v2}"), format!("web {v1}")]);
    lose_power(&mut device);
    device.start();
    wait("both to run again", || {
        device.running() == [format!("own {v2}"), format!("web {v1}")]
    });
    // One source takes its app away; the other one's stays.
    let third = device.deploy(json!([]));
    device.wait_state(&third, "COMMITTED");
    assert_eq!(device.running(), [format!("own {v2}")]);
    std::fs::remove_file(device.scratch.join("apps/own.toml")).unwrap();
    wait("nothing to run", || device.running().is_empty());
    device.clean();
}

#[test]
fn a_boot_after_everything_around_has_changed_runs_what_was_committed() {
    let mut device = device!("together-changed", Setup::default());
    let mut registry = Registry::plain_with_password("fleet", "sesame");
    let push = |registry: &Registry, version: &str| {
        let labels = json!({"version": version});
        let index = Index::each(Format::Oci, |recipe| recipe.config("Labels", labels.clone()));
        registry.push("web", version, &index)
    };
    let (v1, v2) = (push(&registry, "v1"), push(&registry, "v2"));
    let host = registry.host();
    let login = |device: &Device, password: &str| {
        let login = device
            .dunlin()
            .args(["login", "-u", "fleet", "--password-stdin", &host]);
        login.stdin(password).run()
    };
    assert_eq!(login(&device, "sesame").code, 0);
    device.start();
    let soon = json!({"soak": "1s"});
    let first = device.deploy(json!([app("web", &v1, "true", soon.clone())]));
    device.wait_state(&first, "COMMITTED");
    lose_power(&mut device);
    // The registry wants another password, the broker has forgotten what it kept.
    registry.change_password("fleet", "open");
    device.broker.forget();
    device.broker.start();
    device.watch = device.broker.watch("dunlin/v1/d/dev/#");
    device.start();
    wait("the app to run", || device.running() == [format!("web {v1}")]);
    let second = device.deploy(json!([app("web", &v2, "true", soon.clone())]));
    let record = device.wait_state(&second, "FAILED");
    assert_eq!(record["reason"]["code"], "auth", "{record}");
    assert_eq!(device.running(), [format!("web {v1}")], "and goes on");
    assert_eq!(login(&device, "open").code, 0);
    let third = device.deploy(json!([app("web", &v2, "true", soon)]));
    device.wait_state(&third, "COMMITTED");
    assert_eq!(device.running(), [format!("web {v2}")]);
    device.clean();
}

/// Not a test of its own: works in the mount namespace that the next one makes.
#[test]
fn makes_room_on_the_disk_that_it_is_given() {
    if !disk::is_given() {
        return;
    }
    let setup = Setup {
        settings: "[store]\nreserve='24M'\n".to_owned(),
        ..Setup::default()
    };
    let mut device = device!("together-reserve", setup);
    let data = device.scratch.folder("data");
    if let Err(reason) = disk::mount(&data) {
        skip!("{reason}");
    }
    device.user.give(&data);
    let v1 = image(&device, "v1");
    let with_layer = |name: &str, bytes: usize| {
        let layer = Tree::new().file(name, 0o644, noise(bytes, 5)).finish();
        let index = Index::each(Format::Oci, |recipe| recipe.layer(layer.clone(), Compression::Plain));
        device.registry.push(name, "1", &index)
    };
    let (v2, large) = (with_layer("small", 1 << 20), with_layer("large", 12 << 20));
    device.start();
    // Three megabytes, and then four hundred kilobytes a second.
    let talk = "trap 'exit 0' TERM; yes 0123456789012345678901234567890123456789 | head -c 3000000; \
        while :; do yes 0123456789012345678901234567890123456789 | head -c 40000; sleep 0.1; done";
    let mut web = app("web", &v1, "true", json!({"soak": "1s"}));
    web["command"] = json!(["sh", "-c", talk]);
    let first = device.deploy(json!([web]));
    device.wait_state(&first, "COMMITTED");
    device.dunlin().args(["pull", "-q", &large]).ok();
    let images = |device: &Device| device.dunlin().args(["images", "-q"]).ok().lines().count();
    assert_eq!(images(&device), 2);

    let log = |device: &Device| -> u64 {
        let found = device
            .dunlin()
            .args(["inspect", "--format", "{{.HostConfig.LogConfig.Path}}", "web"])
            .ok();
        let files = std::fs::read_dir(std::path::Path::new(found.trim()).parent().unwrap()).unwrap();
        files
            .map(|file| file.unwrap().metadata().map_or(0, |meta| meta.len()))
            .sum()
    };
    wait("a long log", || log(&device) > 2_000_000);
    let ballast = std::fs::File::create(data.join("ballast")).unwrap();
    let free = || {
        dunlin::sys::fs::space(dunlin::sys::fs::open_dir(&data).unwrap())
            .unwrap()
            .bytes
    };
    while free() > 10 << 20 && (&ballast).write_all(&[1; 64 << 10]).is_ok() {}
    ballast.sync_all().unwrap();
    device.hear("the disk at its reserve", "reported", |v| {
        v["degraded"] == json!(["disk"])
    });
    wait("what nothing needs to go", || images(&device) == 1);
    std::thread::sleep(Duration::from_secs(3));
    let kept = log(&device);
    assert!(
        kept > 0 && kept < 300_000,
        "{kept} bytes of log are left, and they do not grow"
    );

    // The ballast is beyond what is free now: still at the reserve, and nothing is pulled.
    while free() > 10 << 20 && (&ballast).write_all(&[1; 64 << 10]).is_ok() {}
    let second = device.deploy(json!([app("web", &v2, "true", json!({"soak": "1s"}))]));
    let held = device.hear("the update to wait", "deploy", |v| {
        v["activity"] == second && v["reason"]["code"] == "disk"
    });
    assert!(
        ["WAITING", "FETCHING", "ACCEPTED"].contains(&held["state"].as_str().unwrap()),
        "{held}"
    );
    assert_eq!(device.running(), [format!("web {v1}")]);
    // Room again: it goes on by itself.
    std::fs::remove_file(data.join("ballast")).unwrap();
    drop(ballast);
    device.wait_state(&second, "COMMITTED");
    device.hear("room on the disk", "reported", |v| {
        v["degraded"] == json!([]) || v["degraded"].is_null()
    });
    assert_eq!(device.running(), [format!("web {v2}")]);
    device.clean();
    println!("made room at {}", now().rfc3339());
}

#[test]
fn a_disk_at_its_reserve_is_relieved_and_left_alone_until_it_has_room() {
    let test = "together::makes_room_on_the_disk_that_it_is_given";
    if let Err(reason) = disk::run("together-reserve-disk", 112 << 20, test, "made room") {
        skip!("{reason}");
    }
}

//! Updates of the agent itself: the new version proves itself or the old one comes back, and containers go on.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use dunlin::agent::renewal::{RELEASE_TYPE, Release};
use dunlin::types::digest::Digest;
use dunlin::types::platform::Platform;
use dunlin::uplink::dsse::{self, Kind, SigningKey};

use crate::device::{Device, Setup};
use crate::fixture::cmd::{Cmd, Out, as_version, dunlin};
use crate::fixture::images::{Blob, Format, Index};

/// The program under test as another version of itself.
fn version(device: &Device, to: &str) -> PathBuf {
    let path = device.scratch.join(format!("dunlin-{to}"));
    // A program with what debuggers need is larger than an agent's may be.
    Cmd::new("strip").arg("-o").arg(&path).arg(dunlin()).ok();
    let bytes = as_version(std::fs::read(&path).unwrap(), to);
    std::fs::write(&path, bytes).unwrap();
    device.user.give(&path);
    path
}

fn script(device: &Device, name: &str, text: &str) -> PathBuf {
    let path = device.scratch.write(name, format!("#!/bin/sh\n{text}\n"));
    device.user.give(&path);
    path
}

fn update(device: &Device, args: &[&str], program: &Path) -> Out {
    let command = device.dunlin().args(["agent", "update"]).args(args).arg(program);
    command.timeout(Duration::from_secs(90)).run()
}

fn health(device: &Device) -> Value {
    let text = device.dunlin().args(["explain", "--format", "json"]).ok();
    serde_json::from_str::<Value>(&text).unwrap()["Agent"].clone()
}

/// Runs one app that the updates must not touch; gives its process.
fn with_app(device: &mut Device) -> u32 {
    let index = Index::each(Format::Oci, |recipe| recipe);
    let image = device.registry.push("web", "v1", &index);
    device.start();
    let app = json!([{"name": "web", "image": image, "command": ["sleep", "100000"], "update": {"soak": "1s"}}]);
    let activity = device.deploy(app);
    device.wait_state(&activity, "COMMITTED");
    device.pid("web")
}

/// Agents of the device's user.
fn agents(device: &Device) -> Vec<u32> {
    let all = device.user.processes().into_iter();
    all.filter(|(_, line)| line.split_whitespace().any(|word| word == "agent"))
        .map(|(pid, _)| pid)
        .collect()
}

/// An agent that a watcher started is nobody's child here.
fn end_agents(device: &Device) {
    for pid in agents(device) {
        crate::fixture::child::end(pid);
    }
}

fn unsigned() -> Setup {
    Setup {
        unsigned: true,
        ..Setup::default()
    }
}

#[test]
fn a_new_agent_takes_over_and_containers_go_on() {
    let mut device = device!("renew-good", unsigned());
    let app = with_app(&mut device);
    let agent = device.agent.as_ref().unwrap().pid();
    for (to, slot) in [("0.1.1", "a"), ("0.1.2", "b"), ("0.1.3", "a")] {
        let out = update(&device, &[], &version(&device, to));
        assert_eq!(out.code, 0, "{out:?}");
        assert!(out.stderr.contains(&format!("agent {to} stays")), "{out:?}");
        let health = health(&device);
        assert_eq!(
            (&health["agent"], &health["slot"], &health["trial"]),
            (&json!(to), &json!(slot), &json!(false))
        );
        device.hear("its presence", "presence", |v| v["up"] == true && v["agent"] == to);
    }
    assert_eq!(device.pid("web"), app, "the container was not touched");
    assert_eq!(agents(&device), [agent], "the same process, and no watcher is left");
    let out = update(&device, &[], &version(&device, "0.1.2"));
    assert_eq!(out.code, 1, "{out:?}");
    assert!(
        out.stderr.contains("stale") && out.stderr.contains("--allow-downgrade"),
        "{out:?}"
    );
    let out = update(&device, &["--allow-downgrade"], &version(&device, "0.1.2"));
    assert_eq!(out.code, 0, "{out:?}");
    // The version that stays is the one that a later start of the package's program starts.
    let mut old = device.agent.take().unwrap();
    old.signal("TERM");
    old.wait(Duration::from_secs(15));
    device.start();
    assert_eq!(health(&device)["agent"], "0.1.2");
    // One that was damaged on the disk is not started: the package's is.
    let mut old = device.agent.take().unwrap();
    old.signal("TERM");
    old.wait(Duration::from_secs(15));
    let slot = device.scratch.join("data/agent/slots/b");
    let mut bytes = std::fs::read(&slot).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&slot, bytes).unwrap();
    device.start();
    assert_eq!(health(&device)["agent"], env!("CARGO_PKG_VERSION"));
    assert_eq!(device.pid("web"), app);
    device.clean();
}

#[test]
fn an_agent_that_ends_or_hangs_is_left_for_the_one_before() {
    let mut device = device!("renew-bad", unsigned());
    let settings = std::fs::read_to_string(device.scratch.join("agent.toml")).unwrap();
    let settings = settings.replace("[apps]\n", "[apps]\nagent_timeout='15s'\n");
    std::fs::write(device.scratch.join("agent.toml"), settings).unwrap();
    let app = with_app(&mut device);
    let own = env!("CARGO_PKG_VERSION");

    // It says its version and then nothing: the watcher ends it, and there is no supervisor, so it starts the old one itself.
    let hangs = script(
        &device,
        "hangs",
        "[ \"$1\" = --version ] && echo dunlin 0.2.0 && exit\nexec sleep 1000",
    );
    let out = update(&device, &[], &hangs);
    assert_eq!(out.code, 1, "{out:?}");
    assert!(out.stderr.contains("probe_timeout"), "{out:?}");
    device.hear("the old agent", "evt/agent", |v| {
        v["detail"].to_string().contains("agent 0.2.0 was left")
    });
    assert_eq!(health(&device)["agent"], own);

    // It ends at once, every time.
    let ends = script(
        &device,
        "ends",
        "[ \"$1\" = --version ] && echo dunlin 0.3.0 && exit\nexit 1",
    );
    let begun = Instant::now();
    let out = update(&device, &[], &ends);
    assert_eq!(out.code, 1, "{out:?}");
    assert!(out.stderr.contains("restart_loop"), "{out:?}");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    device.hear("the old agent", "evt/agent", |v| {
        v["detail"].to_string().contains("agent 0.3.0 was left")
    });
    assert_eq!(health(&device)["agent"], own);
    assert_eq!(device.pid("web"), app, "the container was not touched");

    // Killed in the middle of its trial, it goes on with it.
    let next = version(&device, "0.1.1");
    let out = update(&device, &["--detach"], &next);
    assert_eq!(out.code, 0, "{out:?}");
    let begun = Instant::now();
    while health(&device)["agent"] != "0.1.1" {
        assert!(begun.elapsed() < Duration::from_secs(20), "it did not start");
        std::thread::sleep(Duration::from_millis(50));
    }
    // Meanwhile nothing else is changed.
    let document = json!([]);
    let activity = device.deploy(document);
    let held = device.wait_state(&activity, "WAITING");
    assert_eq!(held["reason"]["code"], "busy", "{held}");
    let out = update(&device, &[], &version(&device, "0.1.2"));
    assert!(out.code == 1 && out.stderr.contains("on trial already"), "{out:?}");
    end_agents(&device);
    device.wait_state(&activity, "COMMITTED");
    assert_eq!(health(&device)["agent"], "0.1.1");
    end_agents(&device);
    device.agent = None;
    device.clean();
}

#[test]
fn with_fleet_keys_only_signed_releases_come_also_from_a_registry() {
    let mut device = device!("renew-signed", Setup::default());
    device.start();
    let program = version(&device, "0.1.1");
    let bytes = std::fs::read(&program).unwrap();
    let release = |digest: Digest, key: &SigningKey| {
        let release = Release {
            version: "0.1.1".into(),
            binaries: vec![
                (Platform::host().architecture, digest),
                ("s390x".into(), Digest::of(b"other")),
            ],
        };
        let mut envelope = dsse::wrap(Kind::Agent, release.to_json().to_string().as_bytes());
        key.sign(&mut envelope).unwrap();
        serde_json::to_vec(&envelope).unwrap()
    };
    let file = |device: &Device, bytes: &[u8]| {
        let path = device.scratch.write("release.json", bytes);
        device.user.give(&path);
        path.display().to_string()
    };
    let out = update(&device, &[], &program);
    assert!(out.code == 1 && out.stderr.contains("sig_invalid"), "{out:?}");
    let stranger = SigningKey::generate("operator").unwrap();
    let bad = file(&device, &release(Digest::of(&bytes), &stranger));
    let out = update(&device, &["--release", &bad], &program);
    assert!(out.code == 1 && out.stderr.contains("sig_invalid"), "{out:?}");
    let bad = file(&device, &release(Digest::of(b"something else"), &device.key));
    let out = update(&device, &["--release", &bad], &program);
    assert!(out.code == 1 && out.stderr.contains("verify"), "{out:?}");
    assert_eq!(health(&device)["agent"], env!("CARGO_PKG_VERSION"));

    let good = Blob::new(RELEASE_TYPE, release(Digest::of(&bytes), &device.key));
    let blobs = [
        Blob::new("application/octet-stream", b"other".to_vec()),
        Blob::new("application/octet-stream", bytes),
        good,
    ];
    let config = Blob::new("application/vnd.oci.empty.v1+json", b"{}".to_vec());
    for blob in blobs.iter().chain([&config]) {
        device.registry.put_blob("agent", blob);
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": RELEASE_TYPE,
        "config": config.descriptor(),
        "layers": blobs.iter().map(Blob::descriptor).collect::<Vec<_>>(),
    });
    let manifest = Blob::new(
        "application/vnd.oci.image.manifest.v1+json",
        serde_json::to_vec(&manifest).unwrap(),
    );
    device.registry.put_manifest("agent", "0.1.1", &manifest);
    let name = format!("docker://{}/agent:0.1.1", device.registry.host());
    let out = update(&device, &[], Path::new(&name));
    assert_eq!(out.code, 0, "{out:?}");
    assert_eq!(health(&device)["agent"], "0.1.1");
    device.clean();
}

//! What the static binary takes on a device: bytes on disk, memory of what idles, against its budgets.

use std::time::Duration;

use serde_json::{Value, json};

use crate::device::{self, Device, Setup};
use crate::fixture::arch::Arch;
use crate::fixture::cmd::{self, Cmd};
use crate::fixture::images::{Format, Index};
use crate::skip;

const CONTAINERS: usize = 10;

#[test]
fn the_static_binaries_stay_small() {
    for (arch, kib) in [(Arch::X86_64, 5 << 10), (Arch::Aarch64, 4 << 10)] {
        let path = match arch.static_binary() {
            Ok(path) => path,
            Err(reason) => skip!("{reason}"),
        };
        let length = std::fs::metadata(&path).unwrap().len();
        assert!(length <= kib << 10, "{}: {length} bytes", path.display());
    }
}

#[test]
fn what_idles_stays_small() {
    if std::fs::read(cmd::dunlin()).unwrap().len() > 16 << 20 {
        skip!("`DUNLIN_BIN` does not name the static binary");
    }
    let setup = Setup {
        tls: true,
        ..Setup::default()
    };
    let mut device = match Device::new("footprint", &setup) {
        Ok(device) => device,
        Err(reason) => skip!("{reason}"),
    };
    device.start();
    let image = device.registry.push("idle", "1", &Index::busybox(Format::Oci));
    let apps: Vec<Value> = (0..CONTAINERS)
        .map(|n| {
            json!({"name": format!("idle{n}"), "image": image, "command": ["sleep", "100000"], "update": {"soak": "100ms"}})
        })
        .collect();
    let deployed = device.deploy(json!(apps));
    device.wait_state(&deployed, "COMMITTED");
    // Pages of a binary that is not on the disk yet count as dirty.
    Cmd::new("sync").run();
    // The last `reported` comes within five seconds, and two later the agent lets go of what it needed.
    std::thread::sleep(Duration::from_secs(10));
    let agent = device::pss(device.agent.as_ref().unwrap().pid()).0;
    let monitors: Vec<(u64, u64)> = device.role("monitor").into_iter().map(device::pss).collect();
    assert_eq!(monitors.len(), CONTAINERS, "a monitor each");
    let worst = monitors.iter().map(|one| one.0).max().unwrap();
    let dirty = monitors.iter().map(|one| one.1).max().unwrap();
    let all = device.memory().0;
    let said = format!("agent {agent}, monitor {worst} of which dirty {dirty}, all {all} bytes");
    assert!(
        agent <= 4_000_000 && worst <= 350_000 && dirty <= 120_000 && all <= 8_000_000,
        "{said}"
    );
    println!("{said}");
    device.clean();
}

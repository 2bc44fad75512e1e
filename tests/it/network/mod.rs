//! Private networks with the real helpers: as an ordinary user, as one with a single id, and as root.

mod outgoing;
mod pods;
mod published;

use crate::cli::{EVERYBODY, Who, World};
use crate::fixture::images::{Format, Index};
use crate::fixture::site::within;
use serde_json::json;
use std::time::{Duration, Instant};

/// What a container runs that only has to be there. It ends at once when it is told to.
const WAITS: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

/// A world with a network of its own, whose image says that it serves two ports.
fn world(who: Who) -> Result<World, String> {
    let ports = json!({"80/tcp": {}, "53/udp": {}});
    World::networked(
        who,
        Index::each(Format::Oci, |recipe| recipe.config("ExposedPorts", ports.clone())),
    )
}

/// The first process of a container.
fn pid(world: &World, name: &str) -> u32 {
    world.field(name, "{{.State.Pid}}").parse().expect("it runs")
}

/// Helpers that are in this world's host network.
fn helpers(world: &World) -> Vec<(u32, String)> {
    let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let own = network(&world.site().pid().to_string());
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("proc is mounted").flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let is_helper = ["pasta", "passt", "slirp4netns"]
            .iter()
            .any(|known| name.starts_with(known));
        if let (true, Ok(number)) = (is_helper && network(&pid) == own, pid.parse()) {
            found.push((number, name.trim().to_owned()));
        }
    }
    found
}

/// Waits until something is so.
fn wait(what: &str, so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

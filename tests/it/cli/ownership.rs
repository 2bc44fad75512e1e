//! Whose containers: other people's stores, and root that becomes the owner.

use super::{Who, World};
use crate::fixture::cmd::Cmd;
use crate::fixture::user::User;
use crate::skip;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

#[test]
fn another_users_store_is_refused_with_whose_it_is() {
    let (world, other) = match (World::new(Who::Ranges), User::with_ranges()) {
        (Ok(world), Ok(other)) => (world, other),
        (Err(reason), _) | (_, Err(reason)) => skip!("{reason}"),
    };
    let (data, run) = world.roots();
    // Reachable, but not theirs.
    let home = world.user().expect("an ordinary user").home();
    for dir in [home, data.parent().unwrap()] {
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let name = world.user().expect("an ordinary user").name();
    let ps = |cmd: Cmd| cmd.arg("--root").arg(&data).arg("--runroot").arg(&run).arg("ps");
    ps(other.dunlin()).fails(125).says(&[name, "sudo"]);
}

#[test]
fn an_ordinary_users_agent_runs_the_apps_of_their_own_settings() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let image = world.image.as_str();
    world.cmd("tag").args([image, "localhost/box:1"]).ok();
    let settings = world.folder("settings");
    let apps = settings.join("dunlin/apps");
    std::fs::create_dir_all(&apps).unwrap();
    let app = "name='box'\nimage='localhost/box:1'\ncommand=['sleep','1000']\n";
    std::fs::write(apps.join("box.toml"), app).unwrap();
    let mut agent = world.cmd("agent").env("XDG_CONFIG_HOME", &settings).start();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while world.cmd("ps --format {{.Names}}").ok() != "box" {
        let late = std::time::Instant::now() > end;
        assert!(agent.runs() && !late, "no app: {}", agent.output());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    agent.signal("TERM");
    agent.wait(std::time::Duration::from_secs(20));
}

#[test]
fn root_becomes_the_owner_of_the_store() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let (data, run) = world.roots();
    let user = world.user().expect("an ordinary user");
    let root = |words: &[&str]| {
        Cmd::dunlin()
            .arg("--root")
            .arg(&data)
            .arg("--runroot")
            .arg(&run)
            .args(words)
    };
    world
        .cmd("run -d --name theirs")
        .arg(&world.image)
        .args(["sleep", "1000"])
        .ok();
    assert_eq!(root(&["ps", "--format", "{{.Names}}"]).ok(), "theirs");
    assert_eq!(
        root(&["run", "--rm", &world.image, "cat", "/proc/self/uid_map"])
            .ok()
            .split_whitespace()
            .take(2)
            .collect::<Vec<_>>(),
        ["0", "0"]
    );
    root(&[
        "run",
        "-d",
        "--name",
        "made",
        "-v",
        "vol:/v",
        &world.image,
        "sleep",
        "1000",
    ])
    .ok();
    assert_eq!(world.field("made", "{{.State.Status}}"), "running");
    root(&["rm", "-f", "-t", "0", "made", "theirs"]).ok();
    let mut foreign = Vec::new();
    owned_by_root(&data, &mut foreign);
    owned_by_root(&run, &mut foreign);
    assert!(
        foreign.is_empty(),
        "files of root's in the store of {}: {foreign:?}",
        user.name()
    );
    // A bind that only root can read is an error, not a hole.
    let secret = crate::fixture::scratch::Scratch::new("secret");
    std::fs::set_permissions(secret.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let spec = format!("{}/inner:/x", secret.path().display());
    secret.folder("inner");
    root(&["run", "--rm", "-v", &spec, &world.image, "true"])
        .fails(125)
        .says(&["inner", &user.uid().to_string()]);
}

#[test]
fn a_store_of_roots_maps_no_container_to_the_hosts_root() {
    let world = match World::new(Who::Root) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    world
        .cmd("run -d --name box")
        .arg(&world.image)
        .args(["sleep", "1000"])
        .ok();
    let pid = world.field("box", "{{.State.Pid}}");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let uid: u32 = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(uid >= 1000, "the container's root is uid {uid} of the host");
    assert_eq!(world.cmd("exec box id -u").ok(), "0");
}

fn owned_by_root(dir: &Path, found: &mut Vec<String>) {
    let meta = std::fs::symlink_metadata(dir).unwrap();
    if meta.uid() == 0 {
        found.push(dir.display().to_string());
    }
    if meta.is_dir() {
        for entry in std::fs::read_dir(dir).unwrap() {
            owned_by_root(&entry.unwrap().path(), found);
        }
    }
}

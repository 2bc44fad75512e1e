//! `system df` and `system prune`: what is used stays, what is not is counted and goes.

use super::terminal::Typist;
use super::{EVERYBODY, Who, World, names};
use crate::fixture::images::{Compression, Format, Index};
use crate::fixture::scratch::Scratch;
use crate::fixture::tree::Tree;
use crate::skip;
use dunlin::deploy::Source;
use dunlin::deploy::files::{Files, Set, SetApp};
use dunlin::types::app::App;
use serde_json::Value;

/// One more image of busybox and a megabyte of its own; its id.
fn more(world: &World, seed: u8) -> String {
    let tar = Tree::new().file("more", 0o644, vec![seed; 1_000_000]).finish();
    let index = Index::each(Format::Oci, |recipe| recipe.layer(tar.clone(), Compression::Gzip));
    let layout = Scratch::new("more");
    index.write_layout(layout.path(), "latest");
    world
        .cmd("pull -q")
        .arg(format!("oci:{}:latest", layout.path().display()))
        .ok()
}

/// A row of `df`.
fn row(world: &World, kind: &str) -> Value {
    let all: Value = serde_json::from_str(&world.cmd("system df --format json").ok()).unwrap();
    let rows = all.as_array().unwrap();
    rows.iter().find(|row| row["Type"] == kind).unwrap().clone()
}

fn number(row: &Value, field: &str) -> u64 {
    row[field].as_u64().unwrap()
}

#[test]
fn shared_layers_are_counted_once() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let alone = row(&world, "Images");
    assert_eq!(alone["RawSize"], alone["RawReclaimable"], "no container uses it");
    let second = more(&world, 1);
    let both = row(&world, "Images");
    let grown = number(&both, "RawSize") - number(&alone, "RawSize");
    assert!((1_000_000..1_100_000).contains(&grown), "{grown}");
    world
        .sh(
            "run --name box -v data:/srv",
            "head -c 500000 /dev/zero > /big; head -c 300000 /dev/zero > /srv/x",
        )
        .ok();
    let images = row(&world, "Images");
    assert_eq!((number(&images, "Total"), number(&images, "Active")), (2, 1));
    // What the container needs is shared: only the other image's own layer could go.
    let free = number(&images, "RawReclaimable");
    assert!((1_000_000..1_100_000).contains(&free), "{free}");
    let containers = row(&world, "Containers");
    assert_eq!((number(&containers, "Total"), number(&containers, "Active")), (1, 0));
    assert!(number(&containers, "RawReclaimable") >= 500_000);
    let volumes = row(&world, "Local Volumes");
    assert_eq!((number(&volumes, "Active"), number(&volumes, "RawReclaimable")), (1, 0));
    assert!(number(&volumes, "RawSize") >= 300_000);
    let table = world.cmd("system df").ok();
    let head: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
    assert!(
        table.contains("Local Volumes  1") && table.contains("(100%)"),
        "{table}"
    );
    let verbose = world.cmd("system df -v").ok();
    for part in [
        "SHARED SIZE",
        "UNIQUE SIZE",
        "LOCAL VOLUMES",
        "VOLUME NAME",
        &second[..12],
        "box",
        "data",
    ] {
        assert!(verbose.contains(part), "{part}: {verbose}");
    }
}

#[test]
fn what_is_closed_to_the_owner_of_the_store_counts_too() {
    for who in EVERYBODY {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        let script = "for at in /closed /srv/closed; do mkdir -p $at/deep; head -c 700000 /dev/zero > $at/deep/x
            ln $at/deep/x $at/y; chown -R 1000:1000 $at; chmod 700 $at/deep; chmod 0 $at; done";
        world.sh("run --name box -v data:/srv", script).ok();
        for kind in ["Containers", "Local Volumes"] {
            let bytes = number(&row(&world, kind), "RawSize");
            assert!((700_000..720_000).contains(&bytes), "{who:?} {kind}: {bytes}");
        }
        world.cmd("rm box").ok();
        let pruned = world.cmd("system prune -f --volumes").ok();
        let bytes = pruned.lines().last().unwrap();
        assert!(bytes.starts_with("Total reclaimed space: 70"), "{who:?}: {bytes}");
    }
}

#[test]
fn a_prune_asks_first_and_takes_only_what_nothing_needs() {
    for who in [Who::Ranges, Who::Root] {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        let (data, _) = world.roots();
        let (unused, rollback) = (more(&world, 1), more(&world, 2));
        world.sh("run -d --name up -v used:/srv", "sleep 1000").ok();
        world.sh("run --name old", "head -c 500000 /dev/zero > /big").ok();
        world.sh("create --name app --label dunlin.app=web", "true").ok();
        world
            .sh("run --rm -v spare:/srv -v precious:/p", "echo x > /srv/x")
            .ok();
        // The agent's record of what a rollback goes back to.
        let app: App = serde_json::from_str(r#"{"name": "web", "image": "x:1", "volumes": ["precious:/p"]}"#).unwrap();
        let manifest = world.cmd("inspect --format {{.Digest}}").arg(&rollback).ok();
        let set = Set {
            label: "local".into(),
            activity: String::new(),
            generation: 1,
            apps: vec![SetApp {
                spec: app.spec_digest(),
                app,
                image: Some(manifest.parse().unwrap()),
            }],
        };
        let (files, _) = Files::open(&data.join("agent")).unwrap();
        files.write_next(Source::Local, &set).unwrap();
        if let Some(user) = world.user() {
            user.give(&data.join("agent"));
            names(&data.join("agent"))
                .iter()
                .for_each(|file| user.give(&data.join("agent").join(file)));
        }
        let containers = || world.cmd("ps -a --format {{.Names}} --sort names").ok();
        world.cmd("system prune").fails(125).says(&["--force"]);
        let mut typist = Typist::start(world.cmd("system prune --volumes"), 24, 80);
        typist.sees("all volumes not used by at least one container");
        typist.sees("[y/N]");
        typist.types("n\n");
        assert_eq!(typist.ends(), 0);
        assert_eq!(containers(), "app\nold\nup", "{who:?}");
        let mut typist = Typist::start(world.cmd("system prune"), 24, 80);
        typist.sees("[y/N]");
        typist.types("y\n");
        typist.sees("Total reclaimed space: ");
        assert_eq!(typist.ends(), 0);
        assert_eq!(containers(), "app\nup", "{who:?}");
        assert_eq!(world.cmd("images -q").ok().lines().count(), 3, "named images stay");
        let volumes = || names(&data.join("volumes"));
        assert_eq!(volumes().len(), 3);
        let text = world.cmd("system prune -a -f --volumes").ok();
        assert!(text.contains(&format!("Deleted Images\n{unused}\n")), "{text}");
        assert!(text.contains("Deleted Volumes\nspare\n"), "{text}");
        let total = text.lines().last().unwrap().to_owned();
        assert!(total.starts_with("Total reclaimed space: 1.0"), "{total}");
        let ids = world.cmd("images -q --no-trunc").ok();
        assert!(
            ids.contains(&rollback) && ids.contains(&world.image) && !ids.contains(&unused),
            "{ids}"
        );
        assert!(
            !volumes().contains(&"spare".to_owned()) && volumes().len() == 2,
            "{:?}",
            volumes()
        );
        assert_eq!(world.cmd("exec up echo lives").ok(), "lives");
        let again = world.cmd("system prune -a -f --volumes").ok();
        assert_eq!(again, "Total reclaimed space: 0B", "{who:?}");
        world.cmd("system check").ok();
    }
}

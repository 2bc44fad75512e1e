//! What images and containers changed.

use super::{EVERYBODY, Who, World, names};
use crate::fixture::cmd::Cmd;
use crate::fixture::images::{Compression, Format, Index};
use crate::fixture::scratch::Scratch;
use crate::fixture::tree::Tree;
use crate::skip;
use serde_json::Value;
use std::time::{Duration, Instant};

/// Three layers: files, changes of every kind, and a folder that only its foreign owner may look into.
fn world(who: Who) -> Result<World, String> {
    let base = Tree::new()
        .dir("srv")
        .file("srv/gone", 0o644, "gone")
        .file("srv/kept", 0o644, "kept")
        .file("srv/other", 0o644, "old")
        .file("srv/mode", 0o644, "mode")
        .file("srv/was-file", 0o644, "file")
        .dir("srv/was-dir")
        .file("srv/was-dir/x", 0o644, "x")
        .dir("srv/opaque")
        .file("srv/opaque/a", 0o644, "a")
        .file("srv/opaque/b", 0o644, "b")
        .dir("srv/still")
        .file("srv/still/x", 0o644, "x")
        .finish();
    let last = Tree::new()
        .file("srv/.wh.gone", 0o644, "")
        .file("srv/other", 0o644, "new!")
        .file("srv/mode", 0o600, "mode")
        .dir("srv/was-file")
        .file("srv/was-file/y", 0o644, "y")
        .file("srv/was-dir", 0o644, "file now")
        .dir("srv/opaque")
        .file("srv/opaque/.wh..wh..opq", 0o644, "")
        .file("srv/opaque/b", 0o644, "b")
        .file("srv/opaque/c", 0o644, "c")
        .dir("srv/new")
        .file("srv/new/z", 0o644, "z")
        .dir("srv/still")
        .finish();
    World::with(
        who,
        Index::each(Format::Oci, |recipe| {
            recipe
                .layer(base.clone(), Compression::Gzip)
                .layer(last.clone(), Compression::Gzip)
        }),
    )
}

/// What the last layer is over the one below it.
const LAST: &str = "C /srv\nD /srv/gone\nC /srv/mode\nA /srv/new\nA /srv/new/z\nC /srv/opaque\nD /srv/opaque/a\n\
                    A /srv/opaque/c\nC /srv/other\nC /srv/was-dir\nC /srv/was-file\nA /srv/was-file/y";

#[test]
fn an_image_differs_from_what_is_below_its_last_layer() {
    for who in EVERYBODY {
        let world = match world(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        assert_eq!(world.cmd("image diff").arg(&world.image).ok(), LAST, "{who:?}");
        let json = world.cmd("image diff --format json").arg(&world.image).ok();
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["deleted"], serde_json::json!(["/srv/gone", "/srv/opaque/a"]));
        assert_eq!(
            (
                json["added"].as_array().map(Vec::len),
                json["changed"].as_array().map(Vec::len)
            ),
            (Some(4), Some(6))
        );
        let same = world.cmd("image diff").args([&world.image, &world.image]);
        assert_eq!(same.ok(), "", "{who:?}");
        world.cmd("image diff nope").fails(125).says(&["no image `nope`"]);
        world
            .cmd("image diff --format x")
            .arg(&world.image)
            .fails(125)
            .says(&["json"]);
    }
}

#[test]
fn a_container_differs_from_its_image_by_what_it_did() {
    for who in EVERYBODY {
        let world = match world(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        world.cmd("create --name idle").arg(&world.image).arg("true").ok();
        assert_eq!(
            world.cmd("diff idle").ok(),
            "",
            "{who:?}: nothing but what every container gets"
        );
        let theirs = if who == Who::Single {
            "true"
        } else {
            "chown -R 1000:1000 /srv/locked"
        };
        let script = format!(
            "rm /srv/kept; echo more >>/srv/other; chmod 600 /srv/new/z; mkdir -p /srv/locked/in; echo x >/srv/locked/in/x; \
             chmod 700 /srv/locked /srv/locked/in; {theirs}; ln -s a /srv/soft; rm -r /srv/still; touch /srv/was-file/y2; \
             exec sleep 1000"
        );
        world.sh("run -d --name busy", &script).ok();
        let want = "C /srv\nD /srv/kept\nA /srv/locked\nA /srv/locked/in\nA /srv/locked/in/x\nC /srv/new\nC /srv/new/z\n\
                    C /srv/other\nA /srv/soft\nD /srv/still\nC /srv/was-file\nA /srv/was-file/y2";
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let have = world.cmd("diff busy").ok();
            if have == want {
                break;
            }
            assert!(Instant::now() < end, "{who:?}:\n{have}");
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(world.cmd("container diff busy").ok(), want, "{who:?}");
        // The other way round, and both with their image.
        let id = world.image.as_str();
        let back = world.cmd("diff").args([id, "busy"]).ok();
        assert!(
            back.contains("A /srv/kept\n") && back.contains("D /srv/locked\n") && !back.contains("locked/in"),
            "{back}"
        );
        let idle = world.cmd("diff busy idle").ok();
        assert_eq!(idle, want, "{who:?}: another container of the image");
        // Nothing is left of looking.
        let (data, _) = world.roots();
        assert!(
            names(&data.join("tmp")).iter().all(|name| name.starts_with("lock-")),
            "{:?}",
            names(&data.join("tmp"))
        );
        world.cmd("system check").ok();
    }
}

#[test]
fn podman_sees_the_same_changes() {
    let world = match world(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let archive = world.folder("out").join("image.tar");
    world.cmd("tag").arg(&world.image).arg("both:1").ok();
    world
        .cmd("save -q --format oci-archive -o")
        .arg(&archive)
        .arg("both:1")
        .ok();
    let scratch = Scratch::new("podman");
    let podman = |words: &[&str]| {
        let base = Cmd::new("podman").arg("--root").arg(scratch.join("podman"));
        let base = base
            .arg("--runroot")
            .arg(scratch.join("podman-run"))
            .env("HOME", scratch.path());
        base.args(["--storage-driver", "vfs"])
            .args(words)
            .timeout(Duration::from_secs(120))
    };
    let sorted = |text: String| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    podman(&["load", "-q", "-i", &archive.display().to_string()]).ok();
    let theirs = sorted(podman(&["image", "diff", "localhost/both:1"]).ok());
    assert_eq!(sorted(world.cmd("image diff both:1").ok()), theirs);
    assert_eq!(theirs, sorted(LAST.to_owned()));
}

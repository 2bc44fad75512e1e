//! Images that are made here: of a container, and of an archive.

use super::{EVERYBODY, Who, World};
use crate::fixture::arch::Arch;
use crate::fixture::cmd::Cmd;
use crate::fixture::images::{Compression, Format, Index, busybox_layer, pack};
use crate::fixture::tree::Tree;
use crate::skip;
use serde_json::Value;
use std::fs;

/// Everything that matters of the files of a container, line by line.
const LOOK: &str = "cd /; find . -xdev ! -path './proc*' ! -path './sys*' ! -path './dev*' ! -path './etc/host*' \
                    ! -path './etc/resolv.conf' ! -path './run*' ! -path . | sort | while read f; do \
                    stat -c '%n %f %u:%g %N' $f; [ -f $f ] && busybox md5sum $f; done; true";

fn world(who: Who) -> Result<World, String> {
    let tar = Tree::new()
        .dir("srv")
        .dir("srv/old")
        .file("srv/old/a", 0o644, "a")
        .file("srv/gone", 0o644, "gone")
        .file("srv/kept", 0o644, "kept")
        .dir("srv/dir")
        .file("srv/dir/b", 0o644, "b")
        .finish();
    let index = Index::each(Format::Oci, |recipe| {
        recipe
            .layer(tar.clone(), Compression::Gzip)
            .config("Labels", serde_json::json!({"a": "b"}))
    });
    World::with(who, index)
}

#[test]
fn a_committed_container_comes_up_as_it_was() {
    for who in EVERYBODY {
        let world = match world(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        let owner = if who == Who::Single {
            ":"
        } else {
            "chown 1000:1000 /srv/new"
        };
        let long = "a-rather-long-name-".repeat(8);
        let script = format!(
            "rm -r /srv/gone /srv/old; mkdir /srv/old; echo new >/srv/old/c; echo new >/srv/new; {owner}; \
             chmod 4750 /srv/new; ln /srv/new /srv/again; ln -s new /srv/soft; echo long >/srv/{long}; \
             mkdir -p /srv/deep/er; rm -r /srv/dir; echo file >/srv/dir; busybox mkfifo /srv/pipe; chmod 700 /srv/deep; \
             head -c 300000 /dev/urandom >/srv/noise; touch -d 2001-02-03 /srv/kept; exec sleep 1000"
        );
        world.sh("run -d --name web -e MODE=a -w /srv", &script).ok();
        let look = || world.cmd("exec web sh -c").arg(LOOK).ok();
        let before = {
            let mut last = look();
            // Until the script is through.
            loop {
                std::thread::sleep(std::time::Duration::from_millis(300));
                let now = look();
                if now == last && now.contains("srv/noise") {
                    break now;
                }
                last = now;
            }
        };
        let commit = world.cmd("commit -q -a me -m why -c").arg("ENV MORE=1");
        let id = commit.args(["-c", "LABEL x=y", "web", "made:1"]).ok();
        assert_eq!(id.len(), 64, "{who:?}: {id}");
        assert_eq!(world.field("web", "{{.State.Status}}"), "running", "{who:?}");
        world.cmd("rm -f -t 0 web").ok();
        let after = world.cmd("run --rm made:1 sh -c").arg(LOOK).ok();
        assert_eq!(after, before, "{who:?}");
        let found = world.cmd("image inspect").arg(&id).ok();
        let found: Value = serde_json::from_str(&found).unwrap();
        let config = &found[0]["Config"];
        assert_eq!(found[0]["Author"], "me");
        assert_eq!(config["WorkingDir"], "/srv");
        assert_eq!(config["Labels"], serde_json::json!({"a": "b", "x": "y"}));
        let env = config["Env"].to_string();
        assert!(env.contains("MODE=a") && env.contains("MORE=1"), "{env}");
        let history = world.cmd("history --no-trunc made:1 --format {{.Comment}}").ok();
        assert!(history.starts_with("why"), "{history}");
        world.cmd("system check").ok();
        // And it leaves: skopeo checks every digest.
        let archive = world.folder("out").join("made.tar");
        world
            .cmd("save -q --format oci-archive -o")
            .arg(&archive)
            .arg("made:1")
            .ok();
        let copy = world.folder("out").join("copy");
        let from = format!("oci-archive:{}", archive.display());
        let copied = Cmd::new("skopeo").args(["copy", "-q", &from]);
        copied.arg(format!("dir:{}", copy.display())).run().expect(0);
        let config = fs::read(copy.join(&id)).unwrap();
        assert_eq!(crate::fixture::images::digest(&config), format!("sha256:{id}"));
    }
}

#[test]
fn an_archive_of_files_becomes_an_image() {
    for who in EVERYBODY {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        let tar = busybox_layer(Arch::host());
        let file = world.folder("out").join("rootfs.tar.gz");
        fs::write(&file, pack(&tar, Compression::Gzip, false).bytes).unwrap();
        let import = |words: &str| {
            world
                .cmd(words)
                .args(["-c", r#"CMD ["echo","hello"]"#, "-c", "ENV A=b"])
        };
        let one = import("import -q -m why").arg(&file).arg("base:1").ok();
        let two = import("import -q").args(["-", "base:2"]).stdin(tar).ok();
        assert_ne!(one, two, "when and why are part of it");
        assert_eq!(world.cmd("run --rm base:1").ok(), "hello", "{who:?}");
        assert_eq!(world.cmd("run --rm base:2 sh -c").arg("echo $A").ok(), "b", "{who:?}");
        let layers = world
            .cmd("image inspect base:1 base:2 --format {{.RootFS.Layers}}")
            .ok();
        let mut lines = layers.lines();
        assert_eq!(lines.next(), lines.next(), "the same layer");
        world.cmd("system check").ok();
        for (words, says) in [
            ("import /nowhere/x", "/nowhere/x"),
            ("import -c RUN=x /etc/passwd", "--change"),
            ("import /etc/passwd", "no tar header"),
            ("import - Big", "Big"),
            ("commit nothing", "nothing"),
        ] {
            world.cmd(words).stdin("").fails(125).says(&[says]);
        }
    }
}

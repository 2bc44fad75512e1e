//! A shell in the store's user namespace, and images that are mounted in it.

use super::{EVERYBODY, Who, World, names};
use crate::fixture::cmd::{Cmd, dunlin};
use crate::fixture::images::{Compression, Format, Index};
use crate::fixture::tree::Tree;
use crate::skip;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

/// `dunlin unshare sh -c SCRIPT`, where `dunlin` in the script is the one under test.
fn inside(world: &World, script: &str) -> Cmd {
    let script = format!("dunlin() {{ {} \"$@\"; }}\n{script}", dunlin().display());
    world.cmd("unshare sh -c").arg(script)
}

/// An image whose layers hide, replace and lock things.
fn layered() -> Index {
    let base = Tree::new()
        .dir("srv")
        .file("srv/gone", 0o644, "gone")
        .file("srv/kept", 0o644, "old")
        .dir("srv/dir")
        .file("srv/dir/a", 0o644, "a")
        .finish();
    let more = Tree::new()
        .file("srv/.wh.gone", 0o644, "")
        .file("srv/kept", 0o640, "new")
        .file("srv/dir/.wh..wh..opq", 0o644, "")
        .file("srv/dir/b", 0o644, "b")
        .finish();
    Index::each(Format::Oci, |recipe| {
        recipe
            .layer(base.clone(), Compression::Gzip)
            .layer(more.clone(), Compression::Gzip)
    })
}

#[test]
fn a_command_runs_as_root_of_the_stores_ids() {
    for who in EVERYBODY {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        assert_eq!(world.cmd("unshare id -u").ok(), "0", "{who:?}");
        let map = world.cmd("unshare cat /proc/self/uid_map").ok();
        let ids: Vec<&str> = map.split_whitespace().collect();
        assert_eq!(ids[0], "0", "{who:?}: {map}");
        assert_ne!(ids[1], "0", "{who:?}: never the host's root: {map}");
        assert_eq!(ids.len() > 3 || ids[2] != "1", who != Who::Single, "{who:?}: {map}");
        let theirs = world.sh("run --rm", "cat /proc/self/uid_map").ok();
        let count = |map: &str| map.lines().count();
        assert_eq!(count(&theirs), count(&map), "{who:?}: as containers have it");
        // Its end is the command's.
        world.cmd("unshare sh -c").arg("exit 7").fails(7);
        world.cmd("unshare sh -c").arg("kill -KILL $$").fails(137);
        world
            .cmd("unshare no-such-program")
            .fails(127)
            .says(&["no-such-program"]);
        world.cmd("unshare /etc/passwd").fails(126).says(&["/etc/passwd"]);
        // Without one, the shell; input goes there.
        let shell = world.cmd("unshare").env("SHELL", "/bin/sh");
        assert_eq!(
            shell
                .stdin("echo $DUNLIN_UNSHARED $(id -u)\n")
                .ok()
                .split(' ')
                .next_back(),
            Some("0")
        );
        // Mounts stay inside.
        let folder = world.folder("mine");
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).unwrap();
        let place = folder.display();
        let script = format!("mount -t tmpfs none {place} && echo in >{place}/file && cat {place}/file");
        assert_eq!(inside(&world, &script).ok(), "in", "{who:?}");
        assert!(!folder.join("file").exists(), "{who:?}");
    }
}

#[test]
fn a_signal_to_it_reaches_the_command() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let mark = world.folder("mine").join("up");
    let script = format!("trap 'exit 9' TERM; : >{}; while :; do sleep 0.1; done", mark.display());
    let mut child = inside(&world, &script).into_command().spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while !mark.exists() {
        assert!(Instant::now() < end, "the command came up");
        std::thread::sleep(Duration::from_millis(20));
    }
    Cmd::new("/bin/kill").args(["-TERM", &child.id().to_string()]).ok();
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

#[test]
fn dunlin_works_inside_as_outside() {
    for who in [Who::Ranges, Who::Single] {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        world
            .cmd("run -d --name outer")
            .arg(&world.image)
            .args(["sleep", "1000"])
            .ok();
        let (data, run) = world.roots();
        let before = owners(&[&data, &run]);
        let script = format!(
            "dunlin ps --format '{{{{.Names}}}}' && dunlin run -d --name inner {} sleep 1000 >&2 && dunlin exec inner id -u \
             && dunlin rm -f -t 0 inner && dunlin tag {} again:1 && dunlin rmi again:1 >&2 && dunlin system check && \
             dunlin unshare id -u",
            world.image, world.image
        );
        let said = inside(&world, &script).ok();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(&lines[..2], ["outer", "0"], "{who:?}: {said}");
        assert_eq!(lines.last(), Some(&"0"), "{who:?}: {said}");
        assert_eq!(owners(&[&data, &run]), before, "{who:?}: nothing changed hands");
        assert_eq!(world.field("outer", "{{.State.Status}}"), "running", "{who:?}");
        world.sh("run --rm", "true").ok();
        world.cmd("system check").ok();
    }
    let root = match World::new(Who::Root) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    inside(&root, "dunlin ps").fails(125).says(&["leave it"]);
}

/// Path, owner and mode of what the folders hold, but for what a keeper makes and what changes with every use.
fn owners(dirs: &[&std::path::Path]) -> Vec<String> {
    let find = Cmd::new("/usr/bin/find").args(dirs).args([
        "-maxdepth",
        "2",
        "!",
        "-path",
        "*/tmp/*",
        "!",
        "-path",
        "*/run/*",
        "!",
        "-path",
        "*/layers/*",
        "-printf",
        "%p %u:%g %m\n",
    ]);
    let mut lines: Vec<String> = find.ok().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn an_image_is_mounted_as_a_container_sees_it() {
    for who in [Who::Ranges, Who::Single] {
        let world = match World::with(who, layered()) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        world.cmd("image mount").fails(125).says(&["dunlin unshare"]);
        world
            .cmd("image mount")
            .arg(&world.image)
            .fails(125)
            .says(&["dunlin unshare"]);
        world.cmd("tag").arg(&world.image).arg("deep:1").ok();
        let look = "find . -xdev ! -path './proc*' ! -path './sys*' ! -path './dev*' ! -path './etc/host*' \
                    ! -path './etc/resolv.conf' ! -path './run*' ! -path . | sort | while read f; do \
                    stat -c '%n %f %u:%g' $f; readlink $f; [ -f $f ] && md5sum <$f; done; true";
        let script = format!("cd $(dunlin image mount deep:1) && busybox true 2>/dev/null; {look}; cat srv/kept");
        let seen = inside(&world, &script).ok();
        assert!(seen.contains("./srv/dir/b") && seen.ends_with("new"), "{who:?}: {seen}");
        let theirs = world
            .sh(
                "run --rm",
                &format!("cd /; {}; cat srv/kept", look.replace("md5sum", "busybox md5sum")),
            )
            .ok();
        assert_eq!(seen, theirs, "{who:?}");
        // Once, however often it is asked for; read-only; listed; gone when asked.
        let script = "m=$(dunlin image mount deep:1); [ $m = $(dunlin image mount deep:1) ] || exit 1; \
                      touch $m/x 2>/dev/null && exit 2; chmod 700 $m 2>/dev/null && exit 3; \
                      dunlin image mount; dunlin image mount --format json; \
                      (cd $m; dunlin image unmount deep:1 && exit 4); \
                      dunlin image unmount deep:1; dunlin image unmount deep:1 && exit 5; [ -e $m/srv ] && exit 6; \
                      dunlin image mount -a; dunlin image unmount -a; dunlin image mount";
        let out = inside(&world, script).run().expect(0).says(&["is not mounted", "busy"]);
        let (first, rest) = out.stdout.split_once('\n').unwrap();
        let (name, place) = first.split_once(' ').unwrap();
        assert_eq!(name, "localhost/deep:1");
        let (json, rest) = rest.split_once("\n]\n").unwrap();
        let json: Value = serde_json::from_str(&format!("{json}]")).unwrap();
        assert_eq!(
            (json[0]["id"].as_str(), json[0]["mountpoint"].as_str()),
            (Some(&*world.image), Some(place))
        );
        assert_eq!(rest, format!("{id}\n{first}\n{id}\n", id = world.image), "{who:?}");
        inside(&world, "dunlin image mount nope")
            .fails(125)
            .says(&["no image `nope`"]);
    }
}

#[test]
fn a_mounted_image_stays_until_it_is_unmounted() {
    let world = match World::with(Who::Ranges, layered()) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    world.cmd("untag").arg(&world.image).ok();
    let folder = world.folder("mine");
    let (up, go) = (folder.join("up"), folder.join("go"));
    let moved = folder.join("moved");
    let script = format!(
        "m=$(dunlin image mount {}) && mkdir -p {moved} && mount --bind $m {moved} && umount $m && m={moved} && : >{}; while ! [ -e {} ]; do sleep 0.05; done; cat $m/srv/kept",
        world.image,
        up.display(),
        go.display(),
        moved = moved.display()
    );
    let session = std::thread::spawn({
        let cmd = inside(&world, &script);
        move || cmd.ok()
    });
    let end = Instant::now() + Duration::from_secs(30);
    while !up.exists() {
        assert!(Instant::now() < end, "the image was mounted");
        std::thread::sleep(Duration::from_millis(20));
    }
    // From outside, from another session, and as root: it stays.
    world
        .cmd("rmi -f")
        .arg(&world.image)
        .fails(125)
        .says(&["is mounted at"]);
    inside(&world, &format!("dunlin rmi {}", world.image))
        .fails(125)
        .says(&["is mounted at"]);
    world.cmd("image prune -af").ok();
    world.cmd("system prune -af").ok();
    world.cmd("system check --repair").ok();
    world.cmd("image exists").arg(&world.image).ok();
    // A broken layer is set aside, and its files stay as long as they are mounted.
    let (data, _) = world.roots();
    let layers = || names(&data.join("layers")).into_iter().filter(|name| name != "l");
    let broken = layers()
        .map(|name| data.join("layers").join(name).join("diff/srv/dir/b"))
        .find(|path| path.exists());
    std::fs::write(broken.expect("the upper layer"), "x").unwrap();
    world.cmd("system check --repair").fails(1);
    assert_eq!(names(&data.join("quarantine")).len(), 1);
    std::fs::write(&go, "").unwrap();
    assert_eq!(session.join().unwrap(), "new");
    world.cmd("image prune -af").ok();
    assert_eq!(names(&data.join("quarantine")).len(), 0);
    assert_eq!(layers().count(), 0);
    world.cmd("image exists").arg(&world.image).fails(1);
}

#[test]
fn on_a_store_of_roots_mounts_are_the_callers() {
    let world = match World::with(Who::Root, layered()) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let (data, run) = world.roots();
    // In a mount namespace of the test's.
    let script = format!(
        "d() {{ {} --root {} --runroot {} \"$@\"; }}\n\
         m=$(d image mount {id}) && cat $m/srv/kept && stat -c ' %u' $m/srv/kept $m && d rmi {id}; d image unmount {id} >&2 && d rmi {id} >&2",
        dunlin().display(),
        data.display(),
        run.display(),
        id = world.image
    );
    let out = Cmd::new("/usr/bin/unshare")
        .args(["-m", "sh", "-c", &script])
        .run()
        .expect(0);
    let lines: Vec<&str> = out.stdout.split_whitespace().collect();
    assert_eq!(lines[0], "new");
    assert_eq!(lines[1], lines[2], "the root belongs to whom its files belong to");
    assert_ne!(lines[1], "0", "not to the host's root");
    assert!(out.stderr.contains("is mounted at"), "{}", out.stderr);
}

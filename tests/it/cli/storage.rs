//! Volumes, binds, memory file systems, files that flags name.

use super::{EVERYBODY, Who, World, names};
use crate::fixture::images::{Compression, Format, Index};
use crate::fixture::tree::Tree;
use crate::skip;
use std::fs;

#[test]
fn volumes_outlive_containers_and_binds_are_shared() {
    for who in EVERYBODY {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        world.sh("run --rm -v data:/srv", "echo kept > /srv/file").ok();
        assert_eq!(
            world.sh("run --rm -v data:/srv:ro", "cat /srv/file").ok(),
            "kept",
            "{who:?}"
        );
        assert_ne!(
            world.sh("run --rm -v data:/srv:ro", "echo no > /srv/file").run().code,
            0,
            "{who:?}"
        );
        let shared = world.folder("shared");
        fs::write(shared.join("host"), "from outside").unwrap();
        if let Some(user) = world.user() {
            user.give(&shared);
        }
        fs::set_permissions(&shared, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let spec = format!("{}:/shared", shared.display());
        assert_eq!(
            world
                .cmd("run --rm -v")
                .arg(&spec)
                .arg(&world.image)
                .args(["sh", "-c", "cat /shared/host; echo x > /shared/inside"])
                .ok(),
            "from outside",
            "{who:?}"
        );
        assert_eq!(fs::read_to_string(shared.join("inside")).unwrap(), "x\n", "{who:?}");
        world
            .cmd("run --rm -v /nonexistent:/x")
            .arg(&world.image)
            .arg("true")
            .fails(125)
            .says(&["/nonexistent", "owner"]);
        assert_eq!(
            world
                .sh(
                    "run --rm --tmpfs /fast:size=1m,mode=700",
                    "stat -c %a /fast; df -k /fast | tail -n 1 | awk '{print $2}'"
                )
                .ok(),
            "700\n1024",
            "{who:?}"
        );
        assert_eq!(
            world.sh("run --rm --tmpfs /open", "stat -c %a /open").ok(),
            "1777",
            "{who:?}"
        );
        let (data, _) = world.roots();
        assert_eq!(names(&data.join("volumes")), ["data"], "{who:?}");
    }
}

#[test]
fn a_read_only_root_keeps_its_temporary_folders() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    assert_ne!(world.sh("run --rm --read-only", "touch /etc/x").run().code, 0);
    world.sh("run --rm --read-only", "touch /tmp/x /run/x /var/tmp/x").ok();
    assert_ne!(
        world
            .sh("run --rm --read-only --read-only-tmpfs=false", "touch /tmp/x")
            .run()
            .code,
        0
    );
}

#[test]
fn unnamed_volumes_go_with_their_container_when_asked() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let (data, _) = world.roots();
    world.sh("run --name one -v /srv", "touch /srv/x").ok();
    assert_eq!(names(&data.join("volumes")).len(), 1);
    world.cmd("rm one").ok();
    assert_eq!(names(&data.join("volumes")).len(), 1, "rm alone keeps them");
    world.sh("run --name two -v /srv", "touch /srv/x").ok();
    world.cmd("rm -v two").ok();
    assert_eq!(names(&data.join("volumes")).len(), 1);
}

#[test]
fn files_that_flags_name_are_read_and_written() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let folder = world.folder("files");
    let user = world.user().expect("an ordinary user");
    fs::write(folder.join("env"), "# comment\nA=from file\n\nB=2\n").unwrap();
    user.give(&folder);
    let (env, cid) = (folder.join("env"), folder.join("cid"));
    let run = || {
        let cmd = world
            .cmd("run --name box --env-file")
            .arg(&env)
            .args(["-e", "B=3", "--cidfile"])
            .arg(&cid);
        cmd.arg(&world.image).args(["sh", "-c", "echo $A $B"])
    };
    assert_eq!(run().ok(), "from file 3");
    assert_eq!(fs::read_to_string(&cid).unwrap(), world.field("box", "{{.Id}}"));
    run().fails(125).says(&["container id file"]);
    world.cmd("rm --cidfile").arg(&cid).ok();
    assert_eq!(world.cmd("ps -aq").ok(), "");
}

#[test]
fn a_new_volume_begins_with_what_the_image_has_there() {
    let tar = Tree::new()
        .dir("srv")
        .owned_file("srv/greeting", 0o640, 1000, "hello")
        .dir("srv/deeper")
        .symlink("srv/deeper/link", "../greeting")
        .finish();
    let index = Index::each(Format::Oci, |recipe| {
        recipe
            .layer(tar.clone(), Compression::Gzip)
            .config("Volumes", serde_json::json!({"/srv": {}}))
    });
    let world = match World::with(Who::Ranges, index) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let look = "stat -c %u:%a /srv/greeting; cat /srv/deeper/link; stat -c %a /srv";
    assert_eq!(
        world.sh("run --rm", look).ok(),
        "1000:640\nhello755",
        "the image's own volume"
    );
    assert_eq!(world.sh("run --rm -v named:/srv", look).ok(), "1000:640\nhello755");
    // Only at first: what somebody removed stays away.
    world
        .sh("run --rm -v named:/srv", "rm -r /srv/greeting /srv/deeper")
        .ok();
    assert_eq!(world.sh("run --rm -v named:/srv", "ls /srv").ok(), "");
    assert_eq!(world.sh("run --rm -v plain:/srv:nocopy", "ls /srv").ok(), "");
    assert_eq!(
        world
            .sh(
                "run --rm -v other:/new/place -u app",
                "ls -ld /new | cut -c 1-10; ls /new/place"
            )
            .ok(),
        "drwxr-xr-x"
    );
}

#[test]
fn an_interrupted_removal_is_finished_later() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let (data, _) = world.roots();
    world
        .sh(
            "run --name box -u app",
            "mkdir /tmp/mine; touch /tmp/mine/file; chmod 700 /tmp/mine",
        )
        .ok();
    let id = world.field("box", "{{.Id}}");
    // What a removal does first; then the power goes.
    let containers = data.join("containers");
    fs::rename(containers.join(&id), containers.join(format!(".{id}.removing"))).unwrap();
    fs::create_dir(containers.join(format!(".{}.new", "0".repeat(64)))).unwrap();
    world
        .user()
        .expect("an ordinary user")
        .give(&containers.join(format!(".{}.new", "0".repeat(64))));
    // What a container with `--rm` may look like after that; the reboot has cleared the run root.
    fs::create_dir(containers.join("1".repeat(64))).unwrap();
    fs::write(containers.join("1".repeat(64)).join("record"), "").unwrap();
    world
        .user()
        .expect("an ordinary user")
        .give(&containers.join("1".repeat(64)));
    let _ = fs::remove_file(world.roots().1.join("swept"));
    assert_eq!(world.cmd("ps -aq").ok(), "");
    // The name is free again, and the next container that is made sweeps up.
    world.sh("create --name box", "true").ok();
    let left: Vec<String> = names(&containers)
        .into_iter()
        .filter(|name| name.starts_with('.') || name.starts_with("111"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn volumes_of_another_container_are_mounted_too() {
    for who in EVERYBODY {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        world
            .sh(
                "run --name first -v data:/data -v /srv/unnamed --tmpfs /fast",
                "echo kept >/data/f; echo too >/srv/unnamed/f",
            )
            .ok();
        let said = world
            .sh(
                "run --rm --volumes-from first",
                "cat /data/f /srv/unnamed/f; ls -d /fast 2>&1 | grep -c No",
            )
            .ok();
        assert_eq!(said, "kept\ntoo\n1", "{who:?}");
        world.sh("run --rm --volumes-from first:ro", "touch /data/x").fails(1);
        let own = world
            .sh(
                "run --rm --volumes-from first -v other:/data",
                "ls /data; cat /srv/unnamed/f",
            )
            .ok();
        assert_eq!(own, "too", "{who:?}");
        world
            .sh("run --rm --volumes-from first:no", "true")
            .fails(125)
            .says(&["--volumes-from"]);
        world
            .sh("run --rm --volumes-from nobody", "true")
            .fails(125)
            .says(&["nobody"]);
        world.cmd("rm -v first").ok();
        assert_eq!(world.cmd("volume ls -q").ok(), "data\nother", "{who:?}");
    }
}

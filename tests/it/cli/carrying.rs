//! cp and export: files into containers and out of them, of those that run and those that do not.

use super::{EVERYBODY, Who, World};
use crate::fixture::cmd::Cmd;
use crate::skip;
use std::fs;
use std::path::Path;

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// As [`World::cmd`], with one more word, in a folder.
fn cp(world: &World, dir: &Path, from: &str, to: &str) -> Cmd {
    world.cmd("cp").arg(from).arg(to).dir(dir)
}

#[test]
fn files_go_in_and_come_out_whether_it_runs_or_not() {
    for who in EVERYBODY {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        let here = world.folder("here");
        fs::create_dir_all(here.join("site/deep")).unwrap();
        fs::write(here.join("site/index"), "hello").unwrap();
        fs::write(here.join("site/deep/.wh.odd"), "not a whiteout").unwrap();
        std::os::unix::fs::symlink("index", here.join("site/link")).unwrap();
        fs::write(here.join("one"), "1").unwrap();
        if let Some(user) = world.user() {
            Cmd::new("chown")
                .args(["-R", &format!("{0}:{0}", user.uid())])
                .arg(&here)
                .ok();
        }
        let script =
            "mkdir /own; echo inside >/own/file; ln -s /own /alias; ln -s /etc/none /dangling; exec sleep 1000";
        world.sh("run -d --name web -v data:/data --tmpfs /fast", script).ok();
        world
            .sh(
                "run --rm -v data:/data",
                "until [ -e /data ]; do :; done; echo kept >/data/kept",
            )
            .ok();
        super::flow::wait_for(|| world.cmd("exec web test -L /dangling").run().code == 0);
        for running in [true, false] {
            if !running {
                world.cmd("stop -t 0 web").ok();
            }
            let say = format!("{who:?}, running: {running}");
            // Into a directory, by a new name, what is in one, over what is there, through a link.
            cp(&world, &here, "one", "web:/own").ok();
            cp(&world, &here, "one", "web:/own/two").ok();
            cp(&world, &here, "site", "web:/own").ok();
            cp(&world, &here, "site/.", "web:/srv").ok();
            cp(&world, &here, "site", "web:/new").ok();
            cp(&world, &here, "one", "web:/own/two").ok();
            cp(&world, &here, "one", "web:/alias/three").ok();
            cp(&world, &here, "one", "web:/data/four").ok();
            if running {
                cp(&world, &here, "one", "web:/fast").ok();
                assert_eq!(world.cmd("exec web cat /fast/one").ok(), "1", "{say}");
            }
            // And back.
            let back = world.folder(if running { "live" } else { "still" });
            for from in ["web:/own", "web:/alias/two", "web:/srv/index", "web:/new", "web:/data"] {
                cp(&world, &back, from, ".").ok();
            }
            cp(&world, &back, "web:/own/file", "renamed").ok();
            cp(&world, &back, "web:own/.", "contents").ok();
            for (path, want) in [
                ("own/file", "inside\n"),
                ("own/one", "1"),
                ("own/site/index", "hello"),
                ("own/site/deep/.wh.odd", "not a whiteout"),
                ("own/three", "1"),
                ("two", "1"),
                ("index", "hello"),
                ("new/index", "hello"),
                ("data/kept", "kept\n"),
                ("data/four", "1"),
                ("renamed", "inside\n"),
                ("contents/two", "1"),
            ] {
                assert_eq!(text(&back.join(path)), want, "{say}: {path}");
            }
            assert_eq!(
                fs::read_link(back.join("new/link")).unwrap(),
                Path::new("index"),
                "{say}"
            );
            // Through pipes.
            let tar = world.cmd("cp web:/new -").run();
            assert_eq!(tar.code, 0, "{say}: {}", tar.stderr);
            world.cmd("cp - web:/own").stdin(tar.stdout.clone()).ok();
            // From one to another, and what is not there.
            world.cmd("create --name other").arg(&world.image).arg("true").ok();
            world.cmd("cp web:/own/. other:/copied").ok();
            world.cmd("cp other:/copied/new/index other:/again").ok();
            cp(&world, &back, "other:/again", "again").ok();
            assert_eq!(text(&back.join("again")), "hello", "{say}");
            world.cmd("rm other").ok();
            for (from, to, says) in [
                ("web:/none", ".", "could not be found on container web"),
                ("web:/dangling", ".", "could not be found on container web"),
                ("none", "web:/", "no such file"),
                ("one", "web:/none/x", "could not be found on container web"),
                ("one", "web:/none/", "no such directory"),
                ("site", "web:/own/file", "cannot take the place of a file"),
                ("one", "two", "name a container"),
                ("nobody:/x", ".", "no such container"),
                ("web:/dev/null", ".", "neither a file nor a directory"),
            ] {
                if !running && from.contains("/dev/") {
                    continue;
                }
                let failed = cp(&world, &here, from, to).fails(125);
                assert!(failed.stderr.contains(says), "{say}: {from} {to}: {}", failed.stderr);
            }
            // A directory is not replaced by a file of its name.
            fs::create_dir_all(here.join("bad/deep")).unwrap();
            fs::write(here.join("bad/site"), "x").unwrap();
            cp(&world, &here, "bad/site", "web:/own")
                .fails(125)
                .says(&["site", "directory"]);
            if !running {
                world.cmd("start web").ok();
                let files = "cat /own/site/index /srv/index /own/new/index; stat -c %u:%g /own/two /own/site";
                assert_eq!(
                    world.cmd("exec web sh -c").arg(files).ok(),
                    "hellohellohello0:0\n0:0",
                    "{say}"
                );
            }
        }
    }
}

#[test]
fn what_comes_in_belongs_to_the_containers_user() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let here = world.folder("here");
    fs::write(here.join("one"), "1").unwrap();
    world.sh("create --name web -u 1000:50", "sleep 1000").ok();
    cp(&world, &here, "one", "web:/tmp").ok();
    world.cmd("start web").ok();
    cp(&world, &here, "one", "web:/tmp/two").ok();
    assert_eq!(
        world.cmd("exec web stat -c %u:%g /tmp/one /tmp/two").ok(),
        "1000:50\n1000:50"
    );
    // What comes out is the caller's.
    cp(&world, &here, "web:/tmp/two", "out").ok();
    let meta = fs::metadata(here.join("out")).unwrap();
    let uid = world.user().map_or(0, |user| user.uid());
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&meta), uid);
}

#[test]
fn links_of_a_container_lead_nowhere_on_the_host() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let here = world.folder("here");
    fs::write(here.join("one"), "1").unwrap();
    fs::write(here.join("secret"), "host").unwrap();
    let path = here.display();
    let script = format!("mkdir -p /made/x; ln -s {path}/secret /peek; ln -s {path} /dir; ln -s / /made/root");
    world.sh("run --name web", &script).ok();
    for start in [false, true] {
        if start {
            world.cmd("rm -f web").ok();
            world
                .sh("run -d --name web", &format!("{script}; exec sleep 1000"))
                .ok();
            super::flow::wait_for(|| world.cmd("exec web test -L /made/root").run().code == 0);
        }
        cp(&world, &here, "web:/peek", "got").fails(125);
        cp(&world, &here, "one", "web:/dir/secret").fails(125);
        assert_eq!(text(&here.join("secret")), "host");
        // `/` of a link inside is the container's.
        cp(&world, &here, "one", "web:/made/root/at-root").ok();
        cp(&world, &here, "web:/at-root", "at-root").ok();
        assert_eq!(text(&here.join("at-root")), "1");
    }
}

#[test]
fn an_export_is_the_containers_own_files() {
    for who in EVERYBODY {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        world
            .sh(
                "run -d --name web -v data:/data",
                "echo new >/new; rm /bin/ls; echo v >/data/v; exec sleep 1000",
            )
            .ok();
        super::flow::wait_for(|| world.cmd("exec web test -e /data/v").run().code == 0);
        let dir = world.folder("out");
        for running in [true, false] {
            if !running {
                world.cmd("stop -t 0 web").ok();
            }
            world.cmd("export web -o a.tar").dir(&dir).ok();
            let list = Cmd::new("tar").arg("tf").arg(dir.join("a.tar")).ok();
            let has = |name: &str| list.lines().any(|line| line.trim_end_matches('/') == name);
            assert!(
                has("new") && has("bin/sh") && has("data") && !has("bin/ls") && !has("data/v"),
                "{who:?}: {list}"
            );
            let piped = world.cmd("export web").run();
            assert_eq!(piped.code, 0, "{who:?}: {}", piped.stderr);
            let written = fs::read(dir.join("a.tar")).unwrap();
            assert!(
                piped.stdout == String::from_utf8_lossy(&written),
                "{who:?}: not the same"
            );
            // It can be an image again.
            let image = world.cmd("import -q a.tar again:1").dir(&dir).ok();
            assert_eq!(
                world.cmd("run --rm").arg(&image).args(["cat", "/new"]).ok(),
                "new",
                "{who:?}"
            );
        }
    }
}

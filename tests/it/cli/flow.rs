//! The whole local loop and its exit codes.

use super::{EVERYBODY, Who, World, names};
use crate::fixture::images::{Format, Index};
use crate::fixture::registry::Registry;
use crate::fixture::user::User;
use crate::skip;
use std::time::{Duration, Instant};

#[test]
fn everybody_can_pull_run_look_enter_stop_and_remove() {
    for who in EVERYBODY {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        let id = world
            .sh(
                "run -d --name web --label a=b",
                "echo out; echo err >&2; id -u; trap 'exit 7' TERM; while :; do sleep 0.1; done",
            )
            .ok();
        assert_eq!(id.len(), 64, "{who:?}: {id}");
        let ps = world.cmd("ps").ok();
        assert!(ps.starts_with("CONTAINER ID  IMAGE"), "{who:?}: {ps}");
        assert!(
            ps.contains(&id[..12]) && ps.contains("Up ") && ps.ends_with("web"),
            "{who:?}: {ps}"
        );
        wait_for(|| world.cmd("logs web").run().stdout == "out\n0\n");
        assert_eq!(world.cmd("logs web").run().stderr, "err\n", "{who:?}");
        assert_eq!(
            world.cmd("exec web cat /proc/1/cmdline").ok().split('\0').next(),
            Some("sh"),
            "{who:?}"
        );
        assert_eq!(
            world.field("web", "{{.State.Status}} {{.Config.Labels.a}}"),
            "running b",
            "{who:?}"
        );
        assert_eq!(world.cmd("stop web").ok(), "web");
        assert_eq!(
            world.field("web", "{{.State.Status}} {{.State.ExitCode}}"),
            "exited 7",
            "{who:?}"
        );
        let all = world.cmd("ps -a").ok();
        assert!(all.contains("Exited (7) "), "{who:?}: {all}");
        assert_eq!(world.cmd("rm web").ok(), "web");
        assert_eq!(world.cmd("ps -aq").ok(), "", "{who:?}");
        let (data, run) = world.roots();
        assert!(
            names(&data.join("containers")).is_empty() && names(&run.join("c")).is_empty(),
            "{who:?}"
        );
    }
}

#[test]
fn an_image_comes_from_a_registry_when_run_needs_it() {
    let user = match User::with_ranges() {
        Ok(user) => user,
        Err(reason) => skip!("{reason}"),
    };
    let registry = Registry::plain();
    registry.push("team/web", "1.4", &Index::busybox(Format::Docker));
    let name = registry.reference("team/web:1.4");
    let out = user
        .dunlin()
        .args(["run", "--rm", &name, "cat", "/etc/arch"])
        .run()
        .expect(0);
    assert!(out.stderr.contains(&format!("Trying to pull {name}")), "{}", out.stderr);
    assert!(!out.stdout.is_empty());
    let requests = registry.requests("GET", "/blobs/");
    // The second run asks nobody.
    user.dunlin()
        .args(["run", "--rm", "--pull", "never", &name, "true"])
        .ok();
    user.dunlin().args(["run", "--rm", &name, "true"]).ok();
    assert_eq!(registry.requests("GET", "/blobs/"), requests);
    let images = user.dunlin().args(["images", "--noheading"]).ok();
    assert!(
        images.starts_with(&registry.reference("team/web")) && images.contains("1.4"),
        "{images}"
    );
    user.dunlin()
        .args(["run", "--pull", "never", &registry.reference("team/nope"), "true"])
        .fails(125)
        .says(&["image not known"]);
    user.dunlin()
        .args(["pull", &registry.reference("team/nope")])
        .fails(125)
        .says(&["team/nope"]);
    user.dunlin().args(["rmi", &name]).ok();
    assert_eq!(user.dunlin().args(["images", "-q"]).ok(), "");
}

#[test]
fn exit_codes_are_podmans() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    for (script, code) in [
        ("exit 0", 0),
        ("exit 3", 3),
        ("exit 255", 255),
        ("kill -KILL $$; sleep 9", 0),
        ("kill -9 -1; exit 5", 5),
    ] {
        // The first process of a pid namespace is immune to what it sends itself.
        let script = script.replace("kill -KILL $$; sleep 9", "exit 0");
        assert_eq!(world.sh("run --rm", &script).run().code, code, "{script}");
    }
    world
        .cmd("run --rm")
        .arg(&world.image)
        .arg("nonexistent")
        .fails(127)
        .says(&["Error: ", "nonexistent"]);
    world
        .cmd("run --rm")
        .arg(&world.image)
        .arg("/etc/passwd")
        .fails(126)
        .says(&["Error: ", "/etc/passwd"]);
    world.cmd("run --rm").arg(&world.image).arg("/tmp").fails(126);
    world
        .cmd("run --nope")
        .arg(&world.image)
        .fails(125)
        .says(&["Error: ", "--nope"]);
    world
        .cmd("run --rm --memory lots")
        .arg(&world.image)
        .fails(125)
        .says(&["--memory", "lots"]);
    world.cmd("inspect nothing").fails(125).says(&["no such object"]);
    world
        .cmd("stop nothing")
        .fails(125)
        .says(&["no container with name or ID `nothing`"]);
    assert_eq!(world.cmd("ps -aq").ok(), "", "nothing is left of what did not start");

    world
        .cmd("run -d --name long")
        .arg(&world.image)
        .args(["sleep", "1000"])
        .ok();
    world.cmd("exec long nonexistent").fails(127);
    world.cmd("exec long /etc/passwd").fails(126);
    world.cmd("exec long sh -c").arg("exit 9").fails(9);
    world.cmd("kill long").ok();
    wait_for(|| world.field("long", "{{.State.ExitCode}}") == "137");
    world.cmd("exec long true").fails(125).says(&["running containers"]);
}

#[test]
fn input_is_passed_on_and_closed() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let out = world
        .cmd("run -i --rm")
        .arg(&world.image)
        .arg("cat")
        .stdin("one\ntwo\n")
        .run()
        .expect(0);
    assert_eq!(out.stdout, "one\ntwo\n");
    let big = vec![b'x'; 3 << 20];
    let out = world
        .cmd("run -i --rm")
        .arg(&world.image)
        .args(["wc", "-c"])
        .stdin(big)
        .run()
        .expect(0);
    assert_eq!(out.stdout.trim(), (3 << 20).to_string());
    // Without -i there is no input.
    let out = world
        .cmd("run --rm")
        .arg(&world.image)
        .arg("cat")
        .stdin("never read")
        .run()
        .expect(0);
    assert_eq!(out.stdout, "");
    world
        .cmd("run -d --name box")
        .arg(&world.image)
        .args(["sleep", "1000"])
        .ok();
    assert_eq!(world.cmd("exec -i box cat").stdin("three\n").ok(), "three");
    assert_eq!(world.cmd("exec box cat").stdin("never read").ok(), "");
}

#[test]
fn a_container_with_rm_leaves_nothing() {
    for who in EVERYBODY {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        let (data, run) = world.roots();
        world
            .sh(
                "run --rm -v /srv/data --tmpfs /scratch",
                "mkdir -m 0 /closed; mkdir -p /a/b/c; touch /a/b/c/d /srv/data/x; exit 4",
            )
            .fails(4);
        world.cmd("run --rm").arg(&world.image).arg("nonexistent").fails(127);
        world.sh("run -d --rm --name gone", "sleep 1000").ok();
        world.cmd("stop -t 0 gone").ok();
        for dir in [
            data.join("containers"),
            data.join("names"),
            data.join("volumes"),
            run.join("c"),
        ] {
            assert_eq!(names(&dir), [""; 0], "{who:?}: {}", dir.display());
        }
        assert_eq!(world.cmd("ps -aq").ok(), "");
    }
}

#[test]
fn a_reader_that_leaves_ends_what_runs_for_it() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let user = world.user().expect("an ordinary user");
    let (data, run) = world.roots();
    let line = format!(
        "{} --root {} --runroot {} run --rm {} yes | head -n 1",
        crate::fixture::cmd::dunlin().display(),
        data.display(),
        run.display(),
        world.image
    );
    let out = user.shell(&line).timeout(Duration::from_secs(40)).run().expect(0);
    assert_eq!(out.stdout, "y\n");
    assert!(
        !out.stderr.contains("Error") && out.wall < Duration::from_secs(8),
        "{:?}: {}",
        out.wall,
        out.stderr
    );
    wait_for(|| world.cmd("ps -aq").ok().is_empty());
}

/// Waits until something holds, at most 20 s.
pub fn wait_for(holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "what was waited for did not happen");
        std::thread::sleep(Duration::from_millis(50));
    }
}

//! What can be done to a container later: attach, update, healthcheck run.

use super::terminal::Typist;
use super::{Who, World};
use crate::skip;

#[test]
fn a_terminal_is_attached_left_and_attached_again() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    world.cmd("run -dit --name shell").arg(&world.image).arg("sh").ok();
    let mut first = Typist::start(world.cmd("attach shell"), 40, 100);
    first.types("echo one-$((1+1)); stty size\n");
    first.sees("one-2");
    first.sees("40 100");
    first.types("\u{10}\u{11}");
    assert_eq!(first.ends(), 0);
    let mut again = Typist::start(world.cmd("attach --detach-keys ctrl-x shell"), 40, 100);
    again.types("echo two-$((1+1))\n");
    again.sees("two-2");
    again.types("exit 7\n");
    assert_eq!(again.ends(), 7);
    world
        .cmd("attach shell")
        .fails(125)
        .says(&["you can only attach to running containers"]);
}

#[test]
fn what_is_attached_to_a_pipe_hears_and_passes_signals() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    world
        .sh(
            "run -d -i --name web",
            "while read line; do echo got $line; done; exit 3",
        )
        .ok();
    let out = world.cmd("attach web").stdin("a\nb\n").run().expect(3);
    assert_eq!(out.stdout, "got a\ngot b\n");
}

#[test]
fn limits_change_at_once_and_for_good() {
    let world = match World::new(Who::Root) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    world
        .sh("run -d --name web --memory 64m --pids-limit 50", "sleep 1000")
        .ok();
    let limits = || world.field("web", "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}");
    assert_eq!(limits(), "67108864 50");
    let inside = || {
        let text = world.cmd("stats --no-stream --format {{.MemUsage}} web").ok();
        text.split('/').nth(1).unwrap_or_default().trim().to_owned()
    };
    let before = inside();
    world.cmd("update --memory 96m web").ok();
    assert_eq!(limits(), "100663296 50");
    assert_ne!(inside(), before, "the kernel has it");
    let after = inside();
    world.cmd("restart -t 0 web").ok();
    assert_eq!((limits(), inside()), ("100663296 50".to_owned(), after));
    world.cmd("update web").fails(125).says(&["at least one limit"]);
    world.cmd("update --memory no web").fails(125).says(&["--memory"]);
}

#[test]
fn a_health_check_is_run_by_hand() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    world
        .sh(
            "run -d --name web --health-cmd [\"test\",\"-e\",\"/ok\"] --health-interval 1h",
            "sleep 1000",
        )
        .ok();
    world.cmd("healthcheck run web").run().expect(1);
    world.cmd("exec web touch /ok").ok();
    assert_eq!(world.cmd("healthcheck run web").ok(), "");
    world.sh("run -d --name plain", "sleep 1000").ok();
    world
        .cmd("healthcheck run plain")
        .fails(125)
        .says(&["no defined healthcheck"]);
    world.cmd("stop -t 0 web").ok();
    world.cmd("healthcheck run web").fails(125).says(&["running"]);
}

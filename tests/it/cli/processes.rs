//! Signals, logs, execs, pauses, and what is true when a monitor dies.

use super::flow::wait_for;
use super::{EVERYBODY, Who, World};
use crate::fixture::child::signal;
use crate::skip;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(20);

#[test]
fn signals_are_passed_on_and_the_exit_code_comes_back() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    for (name, number) in [("TERM", 15), ("INT", 2), ("HUP", 1), ("USR1", 10)] {
        let script = format!(
            "trap 'echo got {name}; exit {}' {name}; echo ready; while :; do sleep 0.05; done",
            20 + number
        );
        let mut run = world.sh("run --rm", &script).start();
        run.wait_for("ready", WAIT);
        run.signal(name);
        assert_eq!(run.wait(WAIT).code(), Some(20 + number), "{name}: {}", run.output());
        assert!(run.output().contains(&format!("got {name}")));
    }
    let mut run = world
        .sh("run --rm --name plain --sig-proxy=false", "echo ready; sleep 1000")
        .start();
    run.wait_for("ready", WAIT);
    run.signal("TERM");
    let ended = run.wait(WAIT);
    assert!(ended.signal() == Some(15) || ended.code() == Some(143), "{ended:?}");
    assert_eq!(world.field("plain", "{{.State.Status}}"), "running");
}

#[test]
fn stop_asks_waits_and_kills() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    world
        .sh(
            "run -d --name kind --stop-signal USR1",
            "trap 'exit 5' USR1; echo ready; while :; do sleep 0.05; done",
        )
        .ok();
    world
        .sh(
            "run -d --name deaf",
            "trap '' TERM; echo ready; while :; do sleep 0.05; done",
        )
        .ok();
    for name in ["kind", "deaf"] {
        wait_for(|| world.cmd("logs").arg(name).ok() == "ready");
    }
    assert_eq!(world.cmd("stop kind").ok(), "kind");
    assert_eq!(world.field("kind", "{{.State.ExitCode}}"), "5");
    let began = Instant::now();
    world.cmd("stop -t 1 deaf").ok();
    assert!(
        began.elapsed() >= Duration::from_secs(1) && began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(world.field("deaf", "{{.State.ExitCode}}"), "137");
    // Stopping what does not run is no error; starting it again works.
    world.cmd("stop deaf").ok();
    world.cmd("start deaf").ok();
    assert_eq!(world.field("deaf", "{{.State.Status}}"), "running");
    world.cmd("rm deaf").fails(2).says(&["--force"]);
    let began = Instant::now();
    world.cmd("rm -f -t 0 deaf").ok();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    world.cmd("rm deaf").fails(1);
    world.cmd("rm -f deaf").ok();
    world.cmd("restart kind").ok();
    wait_for(|| world.field("kind", "{{.State.Status}}") == "running");
    assert_eq!(world.cmd("stop --all").ok().lines().count(), 1);
}

#[test]
fn wait_prints_the_exit_code() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    world.sh("run -d --name job", "sleep 0.5; exit 6").ok();
    assert_eq!(world.cmd("wait job").ok(), "6");
    assert_eq!(world.cmd("wait job").ok(), "6");
    world.sh("run -d --rm --name brief", "sleep 0.5; exit 8").ok();
    assert_eq!(world.cmd("wait brief").ok(), "8");
}

#[test]
fn logs_tell_streams_times_and_tails_and_follow() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    world
        .sh(
            "run --name job",
            "for n in 1 2 3; do echo line $n; done; echo problem >&2",
        )
        .run()
        .expect(0);
    assert_eq!(world.cmd("logs job").run().stdout, "line 1\nline 2\nline 3\n");
    assert_eq!(world.cmd("logs job").run().stderr, "problem\n");
    assert_eq!(world.cmd("logs --tail 2 job").run().stdout, "line 3\n");
    let stamped = world.cmd("logs -t --tail 4 job").run().stdout;
    assert!(
        stamped.lines().all(|line| line.len() > 30 && line[..30].ends_with('Z')),
        "{stamped}"
    );
    assert_eq!(
        world.cmd("logs --since 1h job").run().stdout,
        "line 1\nline 2\nline 3\n"
    );
    assert_eq!(world.cmd("logs --until 2000-01-01 job").run().stdout, "");
    assert_eq!(world.cmd("logs -n job").run().stdout.lines().next(), Some("job line 1"));
    world.cmd("logs --since soon job").fails(125).says(&["`soon`"]);

    world
        .sh(
            "run -d --name slow",
            "for n in 1 2 3 4 5 6; do echo tick $n; sleep 0.3; done",
        )
        .ok();
    let mut follow = world.cmd("logs -f slow").start();
    follow.wait_for("tick 2", WAIT);
    assert_eq!(follow.wait(WAIT).code(), Some(0));
    assert_eq!(follow.output().lines().count(), 6, "{}", follow.output());

    // Rotation, while somebody follows.
    world
        .sh(
            "run -d --name chatty --log-opt max-size=16k",
            "sleep 1; n=0; while [ $n -lt 4000 ]; do echo number $n; n=$((n+1)); done; sleep 1; echo end",
        )
        .ok();
    let mut follow = world.cmd("logs -f chatty").start();
    assert_eq!(follow.wait(WAIT).code(), Some(0));
    let output = follow.output();
    assert!(
        output.ends_with("number 3999\nend\n"),
        "{}",
        &output[output.len().saturating_sub(200)..]
    );
    let (data, _) = world.roots();
    let id = world.field("chatty", "{{.Id}}");
    let bytes: u64 = std::fs::read_dir(data.join("containers").join(id).join("log"))
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes <= 2 * (16 << 10), "{bytes} bytes of log");
}

#[test]
fn exec_has_its_own_user_folder_and_environment() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    world
        .cmd("run -d --name box -e A=1")
        .arg(&world.image)
        .args(["sleep", "1000"])
        .ok();
    assert_eq!(
        world
            .cmd("exec -u app -w /tmp -e B=2 box sh -c")
            .arg("id -u; pwd; echo $A$B")
            .ok(),
        "1000\n/tmp\n12"
    );
    world.cmd("exec -d box touch /tmp/made").ok();
    wait_for(|| world.cmd("exec box test -e /tmp/made").run().code == 0);
    world
        .cmd("exec -u nobodyhere box true")
        .run()
        .expect(126)
        .says(&["nobodyhere"]);
    world
        .cmd("exec --privileged box true")
        .fails(125)
        .says(&["--privileged"]);
    world.cmd("exec box").fails(125).says(&["command"]);
    let top = world.cmd("top box").ok();
    assert!(
        top.starts_with("USER")
            && top
                .lines()
                .any(|line| line.starts_with("root") && line.ends_with("sleep 1000")),
        "{top}"
    );
    let stats = world.cmd("stats --no-stream --format").arg("{{.Name}} {{.PIDS}}").ok();
    assert!(stats.starts_with("box "), "{stats}");
}

#[test]
fn a_dead_monitor_is_seen_and_cleaned_up() {
    for who in EVERYBODY {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        world
            .cmd("run -d --name box")
            .arg(&world.image)
            .args(["sleep", "1000"])
            .ok();
        let monitor: u32 = world.field("box", "{{.State.ConmonPid}}").parse().unwrap();
        let container: u32 = world.field("box", "{{.State.Pid}}").parse().unwrap();
        signal(monitor, "KILL");
        wait_for(|| !std::path::Path::new(&format!("/proc/{container}")).exists());
        assert_eq!(world.cmd("ps -q").ok(), "", "{who:?}");
        let all = world.cmd("ps -a --format").arg("{{.Status}}").ok();
        assert!(all.starts_with("Dead"), "{who:?}: {all}");
        assert_eq!(
            world.field("box", "{{.State.ExitCode}} {{.State.Dead}}"),
            "137 true",
            "{who:?}"
        );
        world.cmd("exec box true").fails(125);
        world.cmd("start box").ok();
        assert_eq!(world.field("box", "{{.State.Status}}"), "running", "{who:?}");
        world.cmd("rm -f -t 0 box").ok();
    }
}

#[test]
fn a_killed_keeper_changes_nothing_for_containers() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    world
        .cmd("run -d --name box")
        .arg(&world.image)
        .args(["sleep", "1000"])
        .ok();
    let keeper: u32 = world.cmd("info --format {{.dunlin.keeper.pid}}").ok().parse().unwrap();
    signal(keeper, "KILL");
    wait_for(|| !std::path::Path::new(&format!("/proc/{keeper}")).exists());
    assert_eq!(world.field("box", "{{.State.Status}}"), "running");
    assert_eq!(world.cmd("exec box echo here").ok(), "here");
    world.sh("run --rm", "true").ok();
    world.cmd("stop -t 0 box").ok();
    world.cmd("start box").ok();
    assert_eq!(world.field("box", "{{.State.Status}}"), "running");
}

#[test]
fn restart_policies_are_kept_by_the_monitor() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    world.sh("run -d --name flaky --restart on-failure:2", "exit 3").ok();
    wait_for(|| world.field("flaky", "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}") == "exited 2 3");
    world.sh("run -d --name steady --restart always", "sleep 0.2").ok();
    wait_for(|| world.field("steady", "{{.RestartCount}}") != "0");
    world.cmd("stop steady").ok();
    assert_eq!(world.field("steady", "{{.State.Status}}"), "exited");
}

#[test]
fn what_cannot_be_limited_is_an_error_with_the_fix() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let enforced = world.cmd("info --format {{.dunlin.limits.memory.enforced}}").ok();
    let out = world.sh("run --rm --memory 64m", "cat /proc/self/cgroup").run();
    if enforced == "true" {
        assert_eq!(out.code, 0, "{}", out.stderr);
    } else {
        let fix = world.cmd("info --format {{.dunlin.limits.memory.fix}}").ok();
        out.expect(125).says(&["limit `memory` cannot be enforced", &fix]);
        // The defaults are reported, not refused.
        world.sh("create --name quiet", "true").ok();
        assert_eq!(
            world.field(
                "quiet",
                "{{.Dunlin.Limits.memory.Origin}} {{.Dunlin.Limits.memory.Enforced}}"
            ),
            "default false"
        );
    }
    world.sh("run --rm --pids-limit 0.5", "true").fails(125);
}

#[test]
fn groups_are_added_by_name_and_number() {
    for who in EVERYBODY {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        if who == Who::Single {
            // It has one group.
            let cmd = world.cmd("run --rm --group-add extra").arg(&world.image).arg("true");
            cmd.fails(125).says(&["2000", "/etc/subgid"]);
            continue;
        }
        world
            .cmd("run -d --name web --user app --group-add extra --group-add 51")
            .arg(&world.image)
            .args(["sleep", "1000"])
            .ok();
        let groups = |words: &str| {
            let mut ids: Vec<u32> = world
                .cmd(words)
                .ok()
                .split_whitespace()
                .map(|id| id.parse().unwrap())
                .collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        assert_eq!(groups("exec web id -G"), [51, 1000, 2000], "{who:?}");
        let own = world.cmd("exec web grep Groups /proc/1/status").ok();
        assert!(own.contains("2000") && own.contains("51"), "{who:?}: {own}");
        assert_eq!(world.field("web", "{{.HostConfig.GroupAdd}}"), "[51 extra]", "{who:?}");
        let nobody = world
            .cmd("run --rm --group-add nobody-here")
            .arg(&world.image)
            .arg("true");
        nobody.fails(126).says(&["nobody-here"]);
    }
}

#[test]
fn weights_of_block_devices_are_set_or_refused() {
    let world = match World::new(Who::Root) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let out = world.sh("run --rm --blkio-weight 300", "echo up").run();
    let known = std::path::Path::new("/sys/fs/cgroup/blkio/blkio.weight").exists();
    if known {
        assert_eq!(out.expect(0).stdout, "up\n");
    } else {
        out.expect(125).says(&["--blkio-weight", "blockIO.weight", "bfq"]);
    }
    assert_eq!(world.cmd("ps -aq").ok(), "");
    world.cmd("create --name web --blkio-weight 300").arg(&world.image).ok();
    assert_eq!(world.field("web", "{{.HostConfig.BlkioWeight}}"), "300");
    world
        .sh("run --rm --blkio-weight 5", "true")
        .fails(125)
        .says(&["--blkio-weight"]);
}

//! The first process of a keeper's unit, which runs another keeper when one dies.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use dunlin::disk::layout::Layout;
use dunlin::keeper;

use super::{EVERYBODY, World};
use crate::fixture::child::{Running, signal};
use crate::fixture::cmd::{Cmd, copy_program};
use crate::skip;

const SHORT: Duration = Duration::from_secs(20);

/// A guard with its keeper, and where it tells systemd.
struct Unit {
    guard: Running,
    layout: Layout,
    systemd: UnixDatagram,
}

impl Unit {
    fn start(world: &World) -> Unit {
        Unit::start_in(world, "unit")
    }

    fn start_in(world: &World, name: &str) -> Unit {
        let (data, run) = world.roots();
        let layout = Layout::new(&data, &run);
        // The one that a command has started would leave by itself.
        let old = keeper::connect(&layout).map(|keeper| keeper.info().pid);
        if let Ok(pid) = old {
            signal(pid as u32, "TERM");
        }
        let folder = world.folder(name);
        let program = folder.join("dunlin");
        copy_program(crate::fixture::cmd::dunlin(), &program);
        let path = folder.join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        systemd.set_read_timeout(Some(SHORT)).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        let guard = Unit::command(world, &program).env("NOTIFY_SOCKET", &path).start();
        Unit { guard, layout, systemd }
    }

    fn command(world: &World, program: &Path) -> Cmd {
        let command = Cmd::new(program);
        let command = world.user().into_iter().fold(command, Cmd::user);
        let (data, run) = world.roots();
        command
            .args(["keeper", "--guard", "--root"])
            .arg(data)
            .arg("--runroot")
            .arg(run)
    }

    /// What systemd is told next.
    fn told(&self) -> String {
        let mut text = [0; 200];
        let length = self.systemd.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    }

    /// The keeper, once it is another than `old`.
    fn keeper(&mut self, old: i32) -> i32 {
        let end = Instant::now() + SHORT;
        loop {
            match keeper::connect(&self.layout) {
                Ok(keeper) if keeper.info().pid != old => return keeper.info().pid,
                _ => {}
            }
            assert!(
                Instant::now() < end && self.guard.runs(),
                "no keeper: {}",
                self.guard.output()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn parent_of(pid: i32) -> u32 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let after = stat.rsplit_once(") ").unwrap().1;
        after.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

#[test]
fn a_keeper_that_dies_in_its_unit_is_followed_by_another_and_containers_go_on() {
    for who in EVERYBODY {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        let mut unit = Unit::start(&world);
        let guard = unit.guard.pid();
        assert_eq!(unit.told(), format!("READY=1\nMAINPID={guard}\n"), "{who:?}");
        let first = unit.keeper(0);
        assert_eq!(Unit::parent_of(first), guard);
        world
            .sh("run -d --name lives", "trap 'exit 5' TERM; sleep 1000 & wait")
            .ok();
        let pid = world.field("lives", "{{.State.Pid}}");

        let mut last = first;
        for _ in 0..3 {
            signal(last as u32, "KILL");
            // Whoever comes in between waits for the guard's own.
            assert_eq!(world.cmd("exec lives echo hello").ok(), "hello", "{who:?}");
            last = unit.keeper(last);
            assert_eq!(Unit::parent_of(last), guard, "{who:?}");
        }
        assert_eq!(world.field("lives", "{{.State.Pid}}"), pid, "{who:?}");

        // An update: both become the program that is installed now.
        let program = world.folder("unit").join("dunlin");
        let new = program.with_file_name("new");
        copy_program(crate::fixture::cmd::dunlin(), &new);
        fs::rename(&new, &program).unwrap();
        unit.guard.signal("HUP");
        let exe = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).unwrap();
        let began = Instant::now();
        while exe(guard) != program || exe(last as u32) != program {
            assert!(began.elapsed() < SHORT, "{who:?}: {}", unit.guard.output());
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(unit.keeper(0), last, "{who:?}");
        signal(last as u32, "KILL");
        last = unit.keeper(last);
        assert_eq!(Unit::parent_of(last), guard, "{who:?}");
        assert_eq!(world.field("lives", "{{.State.Pid}}"), pid, "{who:?}");

        // Its end is that of the containers, in order, and systemd has heard of nothing in between.
        unit.guard.signal("TERM");
        assert_eq!(
            unit.guard.wait(SHORT).code(),
            Some(0),
            "{who:?}: {}",
            unit.guard.output()
        );
        assert_eq!(world.field("lives", "{{.State.ExitCode}}"), "5", "{who:?}");
        unit.systemd.set_nonblocking(true).unwrap();
        assert!(unit.systemd.recv(&mut [0; 8]).is_err(), "{who:?}");
    }
}

#[test]
fn a_guard_that_is_killed_takes_its_keeper_along_and_the_next_goes_on_with_the_containers() {
    for who in EVERYBODY {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        let mut unit = Unit::start(&world);
        let first = unit.keeper(0);
        world
            .sh("run -d --name lives", "trap 'exit 5' TERM; sleep 1000 & wait")
            .ok();
        let pid = world.field("lives", "{{.State.Pid}}");
        // A keeper that became another version of itself belongs to the guard no less.
        unit.guard.signal("HUP");
        assert_eq!(world.cmd("exec lives echo hello").ok(), "hello", "{who:?}");
        unit.guard.signal("KILL");
        unit.guard.wait(SHORT);
        let began = Instant::now();
        while Path::new(&format!("/proc/{first}/exe")).exists() {
            assert!(began.elapsed() < SHORT, "{who:?}: the keeper lives on");
            std::thread::sleep(Duration::from_millis(5));
        }

        let mut unit = Unit::start_in(&world, "next");
        let second = unit.keeper(first);
        assert_eq!(Unit::parent_of(second), unit.guard.pid(), "{who:?}");
        assert_eq!(world.field("lives", "{{.State.Pid}}"), pid, "{who:?}");
        assert_eq!(world.cmd("exec lives echo hello").ok(), "hello", "{who:?}");
        unit.guard.signal("TERM");
        assert_eq!(
            unit.guard.wait(SHORT).code(),
            Some(0),
            "{who:?}: {}",
            unit.guard.output()
        );
        assert_eq!(world.field("lives", "{{.State.ExitCode}}"), "5", "{who:?}");
    }
}

#[test]
fn a_guard_gives_up_on_keepers_that_cannot_start_and_on_those_that_die_at_once() {
    let world = match World::new(super::Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let mut unit = Unit::start(&world);
    let mut last = unit.keeper(0);
    // A second unit for the same store has no place.
    Unit::command(&world, &crate::fixture::cmd::dunlin())
        .fails(125)
        .says(&["keeper.guard"]);
    for _ in 0..6 {
        signal(last as u32, "KILL");
        last = unit.keeper(last);
    }
    signal(last as u32, "KILL");
    assert_eq!(unit.guard.wait(SHORT).code(), Some(125));
    assert!(unit.guard.output().contains("7 in a row"), "{}", unit.guard.output());
    // Then a command starts one as ever.
    world.cmd("run --rm").arg(&world.image).arg("true").ok();
}

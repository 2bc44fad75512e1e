//! What becomes of deployments and apps on a device that is short of something or loses a part.

use crate::types::deployment::{Reason, State};
use crate::types::time::Unix;

use super::core::{Command, Conditions};
use super::hands::{Hands as _, Phase};
use super::world::{Death, app, app_unchecked, soaking, wish, world};

#[test]
fn at_the_disks_reserve_pulls_stop_and_go_on_when_there_is_room() {
    let full = |full| {
        Command::Conditions(Conditions {
            synchronised: true,
            full,
            ..Conditions::default()
        })
    };
    let mut world = world("reserve", vec![app("web", "good-1")]);
    world.fake.fail("r.example/web:good-2", Reason::Net);
    world.apply(wish(2, vec![app("web", "good-2")])).unwrap();
    assert_eq!(world.end(), (State::Fetching, Some(Reason::Net)));
    world.command(full(true)).unwrap();
    assert_eq!(world.fake.log(), ["fetch web:good-2", "tidy true"]);
    assert_eq!(world.end(), (State::Waiting, Some(Reason::Disk)));
    world.pass(60_000).unwrap();
    assert_eq!(world.fake.log(), Vec::<String>::new());
    world.command(full(true)).unwrap();
    world.command(full(false)).unwrap();
    let began = world.now;
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Committed, None));
    assert!(world.now - began < 20_000, "at once when there is room");
    let told = world.events.iter().filter(|event| event.code == Reason::Disk).count();
    assert_eq!(told, 2, "said when it begins and when it is over");
}

#[test]
fn a_way_back_that_finds_no_room_is_given_the_kept_bytes() {
    let mut world = world("kept-room", vec![app("web", "good-1")]);
    let room = world.dir.join("room");
    assert_eq!(std::fs::metadata(&room).unwrap().len(), 1 << 20);
    world.fake.fail("start r.example/web:good-1", Reason::Disk);
    world.apply(wish(2, vec![app("web", "sick")])).unwrap();
    world.pass(400).unwrap();
    assert_eq!(world.end().0, State::RollingBack);
    assert!(!room.exists(), "given up");
    world.settle().unwrap();
    assert_eq!(world.end(), (State::RolledBack, Some(Reason::Unhealthy)));
    assert_eq!(world.fake.listing(), ["web good-1 running"]);
    world.pass(1_000).unwrap();
    assert!(room.exists(), "taken again");
    // Once: a disk that stays full is said.
    for _ in 0..2 {
        world.fake.fail("start r.example/web:good-1", Reason::Disk);
    }
    world.apply(wish(3, vec![app("web", "sick-again")])).unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Failed, Some(Reason::RollbackFailed)));
    world.pass(60_000).unwrap();
    assert_eq!(world.fake.listing(), ["web good-1 running"], "it is tried on");
}

#[test]
fn a_new_version_that_finds_no_room_is_not_to_blame() {
    let mut world = world("no-room", vec![app("web", "good-1")]);
    world.fake.fail("start r.example/web:good-2", Reason::Disk);
    world.apply(wish(2, vec![app("web", "good-2")])).unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::RolledBack, Some(Reason::Disk)));
    assert!(world.core.as_ref().unwrap().quarantine().entries().is_empty());
}

#[test]
fn what_a_keeper_stopped_with_its_unit_runs_again_and_what_somebody_stopped_does_not() {
    for (name, mark, runs) in [
        ("none", None, false),
        ("mark", Some(0), true),
        ("slow", Some(-84_000), true),
        ("long ago", Some(-84_001), false),
        ("later", Some(1), false),
    ] {
        let mut world = world(&format!("unit-{name}"), vec![app("web", "good-1")]);
        let id = world.fake.containers().unwrap()[0].id;
        world.fake.stop(&id).unwrap();
        let Phase::Ended(ended) = world.fake.containers().unwrap()[0].phase else {
            panic!("it was stopped")
        };
        world.die(Death::Killed);
        world.settings.stopped = mark.map(|after| Unix(ended.at.0.saturating_add_signed(after)));
        world.boot().unwrap();
        world.pass(10_000).unwrap();
        assert_eq!(world.fake.listing() == ["web good-1 running"], runs, "{name}");
    }
}

#[test]
fn a_lost_monitor_is_noticed_and_its_app_started_again() {
    let mut world = world("monitor", vec![app("web", "good-1")]);
    world.lose_monitor("web").unwrap();
    world.pass(2_000).unwrap();
    assert_eq!(world.fake.log(), ["start web good-1"]);
    assert_eq!(world.fake.listing(), ["web good-1 running"]);
    // While it soaks it is an exit like any other.
    world.apply(wish(2, vec![app("web", "good-2")])).unwrap();
    world.pass(3_000).unwrap();
    world.lose_monitor("web").unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::RolledBack, Some(Reason::Exited)));
}

#[test]
fn a_wall_clock_that_jumps_changes_no_wait() {
    const YEAR: i64 = 365 * 86_400_000;
    for (jump, back) in [(10 * YEAR, 0), (-10 * YEAR, 0), (YEAR, -YEAR)] {
        let mut world = world(&format!("clock-{jump}"), vec![app("web", "good-1")]);
        world.apply(wish(2, vec![soaking("web", "good-2", 100)])).unwrap();
        world.pass(50_000).unwrap();
        assert_eq!(world.end().0, State::Soaking);
        world.wall = jump;
        world.pass(40_000).unwrap();
        assert_eq!(world.end().0, State::Soaking);
        world.wall = back;
        let began = world.now;
        world.settle().unwrap();
        assert_eq!(world.end(), (State::Committed, None));
        assert!(
            (9_000..12_000).contains(&(world.now - began)),
            "{jump}: {}",
            world.now - began
        );
        // Waits before another start do not change either, also over a start of the agent.
        let mut short = app_unchecked("web", "exit-1000-1");
        short.update.soak = crate::types::time::Span(100);
        world.apply(wish(3, vec![short])).unwrap();
        world.settle().unwrap();
        world.fake.log();
        world.pass(5_000).unwrap();
        world.wall = jump / 2;
        world.die(Death::Killed);
        world.boot().unwrap();
        world.pass(60_000).unwrap();
        let starts = world.fake.log().len();
        assert!((3..=20).contains(&starts), "{jump}: {starts} starts");
    }
}

#[test]
fn limits_that_the_host_cannot_keep_fail_the_deployment_before_anything_stops() {
    let mut world = world("limits", vec![app("web", "good-1")]);
    world
        .fake
        .fail("create r.example/web:good-2", Reason::LimitsUnavailable);
    world.apply(wish(2, vec![app("web", "good-2")])).unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Failed, Some(Reason::LimitsUnavailable)));
    assert_eq!(world.fake.log(), ["fetch web:good-2"]);
    assert_eq!(world.fake.listing(), ["web good-1 running"]);
}

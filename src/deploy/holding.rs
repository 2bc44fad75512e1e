//! What holds an update back or takes its volumes along: other sources, rates, locks, saved volumes.

use crate::types::deployment::{Reason, State};

use super::core::{Command, Wish};
use super::files::Source;
use super::world::{Death, World, app, local, rollout, saving, soaking, wish, world};

fn state(world: &World, source: Source) -> Option<State> {
    world.core.as_ref().and_then(|core| core.state(source))
}

#[test]
fn a_long_soak_of_one_source_does_not_hold_up_the_other() {
    let mut world = world("turns", vec![]);
    world.apply(wish(1, vec![soaking("web", "good-1", 3_600)])).unwrap();
    world.apply(local(1, vec![app("tool", "good-1")])).unwrap();
    world.pass(15).unwrap();
    assert_eq!(
        (state(&world, Source::Fleet), state(&world, Source::Local)),
        (Some(State::Probing), Some(State::Staged)),
        "steps and probes are carried out alone"
    );
    world.pass(5_000).unwrap();
    assert_eq!(
        (state(&world, Source::Fleet), state(&world, Source::Local)),
        (Some(State::Soaking), Some(State::Soaking))
    );
    world.die(Death::PowerCut);
    world.boot().unwrap();
    world.pass(15_000).unwrap();
    assert_eq!(
        (state(&world, Source::Fleet), state(&world, Source::Local)),
        (Some(State::Soaking), None),
        "each ends by itself"
    );
    assert_eq!(world.fake.listing(), ["tool good-1 running", "web good-1 running"]);
    // One fails, and only it goes back.
    world.apply(local(2, vec![app("tool", "sick")])).unwrap();
    world.pass(15_000).unwrap();
    assert_eq!(state(&world, Source::Local), None);
    world.settle().unwrap();
    assert_eq!(world.fake.listing(), ["tool good-1 running", "web good-1 running"]);
    let finals = world.core.as_ref().unwrap().finals();
    let ends: Vec<(&str, State)> = finals.iter().map(|one| (one.source.as_str(), one.state)).collect();
    assert_eq!(
        ends,
        [
            ("local", State::Committed),
            ("local", State::RolledBack),
            ("d/gw-1", State::Committed)
        ]
    );
}

#[test]
fn sources_that_touch_wait_for_each_others_soak() {
    let mut world = world("touch", vec![]);
    world.settings.budget = Some(200 << 20);
    world.die(Death::Killed);
    world.boot().unwrap();
    let sized = |name: &str, tag: &str, mib: u64| {
        let mut app = soaking(name, tag, 600);
        app.limits.memory = Some(crate::types::limits::Bytes(mib << 20));
        app
    };
    world.apply(wish(1, vec![sized("web", "good-1", 150)])).unwrap();
    world.pass(3_000).unwrap();
    world.apply(local(1, vec![sized("tool", "good-1", 100)])).unwrap();
    world.pass(60_000).unwrap();
    assert_eq!(
        (state(&world, Source::Fleet), state(&world, Source::Local)),
        (Some(State::Soaking), Some(State::Staged)),
        "both do not fit at once"
    );
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Failed, Some(Reason::Budget)), "and now for good");
    world.apply(local(2, vec![sized("tool", "good-1", 50)])).unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Committed, None));
    // A volume that one of them wants back.
    world.apply(wish(2, vec![saving("web", "good-2")])).unwrap();
    world.pass(3_000).unwrap();
    let mut tool = sized("tool", "good-2", 40);
    tool.volumes = vec!["data:/data".into()];
    world.apply(local(3, vec![tool])).unwrap();
    world.pass(3_000).unwrap();
    assert_eq!(
        (state(&world, Source::Fleet), state(&world, Source::Local)),
        (Some(State::Soaking), Some(State::Staged)),
        "{:?}",
        world.end()
    );
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Failed, Some(Reason::Schema)));
}

#[test]
fn a_name_has_one_owner_also_while_its_first_set_soaks() {
    let mut world = world("one-owner", vec![]);
    world.apply(local(1, vec![soaking("web", "good-1", 600)])).unwrap();
    world.pass(3_000).unwrap();
    world.apply(wish(1, vec![soaking("web", "good-2", 1)])).unwrap();
    world.pass(60_000).unwrap();
    assert_eq!(
        (state(&world, Source::Local), state(&world, Source::Fleet)),
        (Some(State::Soaking), Some(State::Staged))
    );
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Failed, Some(Reason::Conflict)));
    assert_eq!(world.fake.listing(), ["web good-1 running"]);
}

#[test]
fn a_rollout_bounds_the_rate_of_its_pulls() {
    let rated = |generation, rate: &str| {
        let mut rollout = rollout(100.0, false);
        rollout.max_rate = Some(rate.into());
        Wish {
            rollout: Some(rollout),
            ..wish(generation, vec![app("web", "good-1")])
        }
    };
    let mut world = world("rate", vec![]);
    world.apply(rated(1, "fast")).unwrap();
    assert_eq!(world.end(), (State::Rejected, Some(Reason::Schema)));
    world.apply(rated(2, "64KiB/s")).unwrap();
    world.settle().unwrap();
    assert_eq!(world.fake.log(), ["fetch web:good-1 at 65536", "start web good-1"]);
}

/// An app that may lock itself, updated to `good-2`, with its lock taken while it waits for the lock.
fn locked(name: &str, timeout: Option<u64>) -> (World, std::fs::File) {
    let with = |tag: &str| {
        let mut web = app("web", tag);
        web.update.lock = true;
        web.update.lock_timeout = timeout.map(crate::types::time::Span);
        web
    };
    let mut world = world(name, vec![with("good-1")]);
    let path = super::files::lock_file(&world.dir, "web");
    crate::disk::durable::create_dirs(path.parent().unwrap()).unwrap();
    let file = std::fs::File::create(&path).unwrap();
    file.lock().unwrap();
    world.apply(wish(2, vec![with("good-2")])).unwrap();
    world.pass(10_000).unwrap();
    assert_eq!(world.end(), (State::Waiting, Some(Reason::Lock)));
    assert_eq!(
        world.fake.log(),
        ["fetch web:good-2"],
        "everything but the switch is done"
    );
    (world, file)
}

#[test]
fn an_app_that_holds_its_lock_is_not_switched_until_it_lets_go() {
    let (mut world, file) = locked("lock", None);
    world.pass(3_600_000).unwrap();
    assert_eq!(world.end(), (State::Waiting, Some(Reason::Lock)));
    file.unlock().unwrap();
    assert!(file.try_lock().is_ok(), "the agent keeps nothing");
    file.unlock().unwrap();
    let began = world.now;
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Committed, None));
    assert!(world.now - began < 20_000, "noticed soon: {}", world.now - began);
}

#[test]
fn a_lock_that_is_held_too_long_fails_the_update_and_the_old_version_runs_on() {
    for restarts in [0, 3] {
        let (mut world, _file) = locked(&format!("lock-timeout-{restarts}"), Some(600_000));
        for _ in 0..restarts {
            world.die(Death::Killed);
            world.boot().unwrap();
            let mut web = app("web", "good-2");
            web.update.lock = true;
            web.update.lock_timeout = Some(crate::types::time::Span(600_000));
            world.apply(wish(2, vec![web])).unwrap();
            world.pass(100_000).unwrap();
        }
        let began = world.now;
        world.settle().unwrap();
        assert_eq!(world.end(), (State::Failed, Some(Reason::LockTimeout)));
        let rest = world.now - began;
        let left = 590_000 - 100_000 * restarts;
        assert!((left..=left + 60_000 * restarts).contains(&rest), "{restarts}: {rest}");
        assert_eq!(world.fake.listing(), ["web good-1 running"]);
        assert!(world.core.as_ref().unwrap().quarantine().entries().is_empty());
    }
}

#[test]
fn a_lock_is_overruled_once_and_that_is_remembered_while_something_else_holds() {
    let (mut world, _file) = locked("unlock", None);
    let halt = |generation, halted| Wish {
        rollout: Some(rollout(100.0, halted)),
        ..wish(
            generation,
            vec![{
                let mut web = app("web", "good-3");
                web.update.lock = true;
                web
            }],
        )
    };
    world.apply(halt(3, true)).unwrap();
    assert_eq!(world.end(), (State::Waiting, Some(Reason::Halted)));
    let (sender, answers) = std::sync::mpsc::channel();
    for app in ["nope", "web"] {
        let sender = sender.clone();
        let reply = Box::new(move |result: Result<(), _>| sender.send(result.is_ok()).unwrap());
        world.command(Command::Unlock(app.into(), reply)).unwrap();
    }
    assert_eq!(answers.try_iter().collect::<Vec<_>>(), [false, true]);
    assert_eq!(world.end(), (State::Waiting, Some(Reason::Halted)));
    world.die(Death::PowerCut);
    world.boot().unwrap();
    world.pass(3_000).unwrap();
    world.apply(halt(4, false)).unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Committed, None));
    world.apply(wish(5, vec![app("web", "good-4")])).unwrap();
    world.pass(60_000).unwrap();
    assert_eq!(world.end(), (State::Waiting, Some(Reason::Lock)), "once");
}

#[test]
fn volumes_that_an_update_spoilt_come_back_with_the_old_version() {
    let mut world = world("snapshot", vec![saving("web", "good-1")]);
    world.apply(wish(2, vec![saving("web", "sickafter-5000")])).unwrap();
    world.pass(3_000).unwrap();
    assert_eq!(
        world.fake.written("data"),
        (vec!["good-1".into(), "sickafter-5000".into()], 1)
    );
    world.settle().unwrap();
    assert_eq!(world.end(), (State::RolledBack, Some(Reason::SoakFailed)));
    assert_eq!(world.fake.written("data"), (vec!["good-1".into()], 0));
    world.apply(wish(3, vec![saving("web", "good-3")])).unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Committed, None));
    assert_eq!(
        world.fake.written("data"),
        (vec!["good-1".into(), "good-3".into()], 0),
        "removed when committed"
    );
    let mut kept = saving("web", "sick");
    kept.update.volumes = crate::types::app::VolumePolicy::Keep;
    world.apply(wish(4, vec![kept])).unwrap();
    world.settle().unwrap();
    assert_eq!(
        world.fake.written("data").0,
        ["good-1", "good-3", "sick", "good-3"],
        "kept as they are"
    );
}

#[test]
fn volumes_without_room_to_be_saved_hold_the_update_back_before_anything_stops() {
    let mut world = world("snapshot-room", vec![saving("web", "good-1")]);
    world.fake.fail("room data", Reason::Disk);
    world.apply(wish(2, vec![saving("web", "good-2")])).unwrap();
    assert_eq!(world.end(), (State::Waiting, Some(Reason::Disk)));
    assert_eq!(world.fake.log(), ["fetch web:good-2"]);
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Committed, None));
    // The room went away while the old version was being stopped: it comes back, and the new one is not to blame.
    world.fake.fail("save data", Reason::Disk);
    world.apply(wish(3, vec![saving("web", "good-3")])).unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::RolledBack, Some(Reason::Disk)));
    assert_eq!(world.fake.listing(), ["web good-2 running"]);
    assert!(world.core.as_ref().unwrap().quarantine().entries().is_empty());
}

#[test]
fn volumes_that_two_apps_have_are_not_saved() {
    let mut world = world("snapshot-shared", vec![]);
    let mut db = app("db", "good-1");
    db.volumes = vec!["data:/d:ro".into()];
    world.apply(wish(1, vec![saving("web", "good-1"), db])).unwrap();
    assert_eq!(world.end(), (State::Rejected, Some(Reason::Schema)));
    let mut beside = saving("web", "good-1");
    beside.update.strategy = crate::types::app::Strategy::StartFirst;
    beside.volumes.clear();
    world.apply(wish(2, vec![beside])).unwrap();
    assert_eq!(world.end(), (State::Rejected, Some(Reason::Schema)));
}

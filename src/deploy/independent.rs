//! Independent apps go forward and back alone; the others are one set.

use crate::types::app::App;
use crate::types::deployment::{Reason, State};

use super::core::Command;
use super::world::{Death, World, app, saving, wish, world};

fn alone(app: App) -> App {
    let mut app = app;
    app.update.independent = true;
    app
}

/// States and reasons of the last record's apps.
fn apps(world: &World) -> Vec<(String, State, Option<Reason>)> {
    let last = world.records.last().unwrap();
    let line =
        |one: &crate::types::deployment::AppRecord| (one.name.clone(), one.state, one.reason.as_ref().map(|r| r.code));
    last.apps.iter().map(line).collect()
}

fn quarantined(world: &World) -> usize {
    world.core.as_ref().unwrap().quarantine().entries().len()
}

#[test]
fn an_independent_app_that_fails_goes_back_alone_and_the_others_are_committed() {
    for (tag, reason) in [
        ("nostart", Reason::StartFailed),
        ("sick", Reason::Unhealthy),
        ("exit-0-1", Reason::Exited),
        ("exit-5000-1", Reason::Exited),
        ("oom-5000", Reason::Oom),
        ("sickafter-5000", Reason::SoakFailed),
    ] {
        let first = vec![
            app("db", "good-1"),
            alone(saving("tool", "good-1")),
            app("web", "good-1"),
        ];
        let mut world = world(&format!("alone-{tag}"), first);
        let second = || vec![app("db", "good-2"), alone(saving("tool", tag)), app("web", "good-2")];
        world.apply(wish(2, second())).unwrap();
        world.settle().unwrap();
        assert_eq!(world.end(), (State::Committed, None), "{tag}");
        let states = [
            ("db".to_owned(), State::Committed, None),
            ("tool".to_owned(), State::RolledBack, Some(reason)),
            ("web".to_owned(), State::Committed, None),
        ];
        assert_eq!(apps(&world), states, "{tag}");
        let runs = ["db good-2 running", "tool good-1 running", "web good-2 running"];
        assert_eq!(world.fake.listing(), runs, "{tag}");
        assert_eq!(
            world.fake.written("data"),
            (vec!["good-1".into()], 0),
            "{tag}: its volume came back"
        );
        assert_eq!(quarantined(&world), 1, "{tag}");
        world.fake.log();
        world.die(Death::PowerCut);
        world.boot().unwrap();
        world.pass(1_000).unwrap();
        assert_eq!(world.fake.listing(), runs, "{tag}: what was committed is what ran");
        // The version that failed holds nobody else up, and is said to be held.
        let third = vec![app("db", "good-3"), alone(saving("tool", tag)), app("web", "good-2")];
        world.apply(wish(3, third)).unwrap();
        world.settle().unwrap();
        assert_eq!(world.end(), (State::Committed, None), "{tag}");
        assert_eq!(
            world.fake.listing()[..2],
            ["db good-3 running", "tool good-1 running"],
            "{tag}"
        );
        assert!(
            world.events.iter().any(|event| event.code == Reason::Quarantined),
            "{tag}"
        );
    }
}

#[test]
fn an_independent_app_goes_forward_while_the_set_goes_back_only_with_it() {
    let mut world = world("alone-set", vec![app("db", "good-1"), alone(app("tool", "good-1"))]);
    world
        .apply(wish(2, vec![app("db", "sickafter-5000"), alone(app("tool", "sick"))]))
        .unwrap();
    world.settle().unwrap();
    assert_eq!(
        world.end(),
        (State::RolledBack, Some(Reason::SoakFailed)),
        "what is atomic decides"
    );
    assert_eq!(world.fake.listing(), ["db good-1 running", "tool good-1 running"]);
    assert_eq!(quarantined(&world), 2);
    // Alone in its document it is the whole deployment.
    world
        .apply(wish(3, vec![app("db", "good-1"), alone(app("tool", "nostart"))]))
        .unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::RolledBack, Some(Reason::StartFailed)));
    assert_eq!(world.fake.listing(), ["db good-1 running", "tool good-1 running"]);
    // One that is new leaves nothing behind.
    world
        .apply(wish(
            4,
            vec![
                app("db", "good-2"),
                alone(app("tool", "good-1")),
                alone(app("more", "sick")),
            ],
        ))
        .unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Committed, None));
    assert_eq!(world.fake.listing(), ["db good-2 running", "tool good-1 running"]);
}

#[test]
fn an_old_version_that_fails_too_is_said_of_its_app_alone_and_tried_on() {
    let mut world = world("alone-failed", vec![app("db", "good-1"), alone(app("tool", "good-1"))]);
    world.fake.fail("start r.example/tool:good-1", Reason::StartFailed);
    world
        .apply(wish(2, vec![app("db", "good-2"), alone(app("tool", "sick"))]))
        .unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Committed, None));
    assert_eq!(
        apps(&world)[1],
        ("tool".into(), State::Failed, Some(Reason::RollbackFailed))
    );
    world.pass(60_000).unwrap();
    assert_eq!(world.fake.listing(), ["db good-2 running", "tool good-1 running"]);
}

#[test]
fn a_rollback_by_command_of_an_independent_app_leaves_the_others_soaking() {
    let mut world = world("alone-command", vec![app("db", "good-1"), alone(app("tool", "good-1"))]);
    world
        .apply(wish(2, vec![app("db", "good-2"), alone(app("tool", "good-2"))]))
        .unwrap();
    world.pass(3_000).unwrap();
    let reply = Box::new(|result: Result<(), _>| result.unwrap());
    world.command(Command::Rollback("tool".into(), reply)).unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Committed, None));
    assert_eq!(world.fake.listing(), ["db good-2 running", "tool good-1 running"]);
}

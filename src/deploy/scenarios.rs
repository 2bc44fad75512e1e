//! What becomes of a deployment in each case that may come, each with its end and its reason.

use crate::types::deployment::{Reason, State};
use crate::types::time::Mono;

use super::core::{Command, Conditions, Wish};
use super::world::{Death, app, app_after, app_unchecked, local, rollout, soaking, wish, world};

#[test]
fn a_good_update_goes_through_every_state_and_is_committed() {
    let mut world = world("good", vec![app("web", "good-1")]);
    world.apply(wish(2, vec![app("web", "good-2")])).unwrap();
    let began = world.now;
    world.settle().unwrap();
    use State::{Accepted, Committed, Fetching, Probing, Soaking, Staged, Switching, Verifying};
    assert_eq!(
        world.states(),
        [
            Accepted, Fetching, Verifying, Staged, Switching, Probing, Soaking, Committed
        ]
    );
    assert!(
        (10_000..11_000).contains(&(world.now - began)),
        "the soak was waited for: {}",
        world.now - began
    );
    assert_eq!(world.fake.listing(), ["web good-2 running"], "the old one is removed");
    assert_eq!(
        world.fake.log(),
        ["fetch web:good-2", "stop web good-1", "start web good-2"]
    );
    let last = world.records.last().unwrap();
    assert_eq!((last.apps.len(), last.bytes.fetched, last.attempt), (1, 100, 1));
    assert!(last.apps[0].from.is_some() && last.apps[0].to.is_some_and(|to| to.image.is_some()));
}

#[test]
fn a_soak_that_became_due_between_two_looks_is_due_at_once() {
    let mut world = world("late-look", vec![app("web", "good-1")]);
    world.apply(wish(2, vec![app("web", "good-2")])).unwrap();
    world.pass(3_000).unwrap();
    assert_eq!(world.end().0, State::Soaking);
    for late in [2_000, 20_000, 200_000] {
        let now = Mono(world.now + late);
        let due = world.core.as_ref().and_then(|core| core.deadline(now));
        assert!(due.is_some_and(|due| due <= now), "{late} ms later: {due:?}");
    }
}

#[test]
fn every_failure_ends_in_its_state_and_reason() {
    use Reason::{Exited, Oom, SoakFailed, StartFailed, Unhealthy};
    for (tag, reason) in [
        ("nostart", StartFailed),
        ("sick", Unhealthy),
        ("exit-0-1", Exited),
        ("exit-5000-1", Exited),
        ("exit-5000-0", Exited),
        ("oom-5000", Oom),
        ("oom-0", Oom),
        ("sickafter-5000", SoakFailed),
    ] {
        let mut world = world(&format!("fail-{tag}"), vec![app("web", "good-1")]);
        world.apply(wish(2, vec![app("web", tag)])).unwrap();
        world.settle().unwrap();
        assert_eq!(world.end(), (State::RolledBack, Some(reason)), "{tag}");
        assert_eq!(world.fake.listing(), ["web good-1 running"], "{tag}");
        let last = world.records.last().unwrap();
        assert_eq!(
            last.apps[0].reason.as_ref().map(|cause| cause.code),
            Some(reason),
            "{tag}"
        );
        // Remembered: the same version in a new document is refused, a changed one is not.
        world.apply(wish(3, vec![app("web", tag)])).unwrap();
        world.settle().unwrap();
        assert_eq!(world.end(), (State::Rejected, Some(Reason::Quarantined)), "{tag}");
        assert_eq!(world.fake.listing(), ["web good-1 running"], "{tag}");
        world.apply(wish(4, vec![app("web", "good-2")])).unwrap();
        world.settle().unwrap();
        assert_eq!(world.end(), (State::Committed, None), "{tag}");
    }
}

#[test]
fn a_quarantined_version_is_tried_again_when_someone_names_it() {
    let mut world = world("retry", vec![app("web", "good-1")]);
    world.apply(wish(2, vec![app("web", "sick")])).unwrap();
    world.settle().unwrap();
    world
        .apply(Wish {
            retry: vec!["web".into()],
            ..wish(3, vec![app("web", "sick")])
        })
        .unwrap();
    world.settle().unwrap();
    assert_eq!(
        world.end(),
        (State::RolledBack, Some(Reason::Unhealthy)),
        "tried again, failed again"
    );
    world.apply(wish(4, vec![app("web", "sick")])).unwrap();
    assert_eq!(world.end().1, Some(Reason::Quarantined));
}

#[test]
fn restarts_are_forgiven_up_to_the_apps_number_then_it_is_a_restart_loop() {
    let with = |restarts| {
        let mut web = app("web", "exit-3000-1");
        web.update.max_restarts = restarts;
        web
    };
    let mut world = world("restarts", vec![app("web", "good-1")]);
    world.apply(wish(2, vec![with(2)])).unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::RolledBack, Some(Reason::RestartLoop)));
    let starts = world
        .fake
        .log()
        .into_iter()
        .filter(|line| line.starts_with("start"))
        .count();
    assert_eq!(starts, 4, "the new one three times, then the old one");
    world.apply(wish(3, vec![with(9)])).unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Committed, None), "enough healthy time in pieces");
}

#[test]
fn the_network_never_counts_against_a_version() {
    let mut world = world("net", vec![app("web", "good-1")]);
    for _ in 0..5 {
        world.fake.fail("r.example/web:good-2", Reason::Net);
    }
    world.apply(wish(2, vec![app("web", "good-2")])).unwrap();
    assert_eq!(world.end(), (State::Fetching, Some(Reason::Net)));
    assert_eq!(
        world.fake.listing(),
        ["web good-1 running"],
        "the old one is never held up"
    );
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Committed, None));
}

#[test]
fn a_full_disk_waits() {
    let mut world = world("disk", vec![app("web", "good-1")]);
    world.fake.fail("create r.example/web:good-2", Reason::Disk);
    world.apply(wish(2, vec![app("web", "good-2")])).unwrap();
    assert_eq!(world.end(), (State::Waiting, Some(Reason::Disk)));
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Committed, None));
    assert!(world.core.as_ref().unwrap().quarantine().entries().is_empty());
}

#[test]
fn what_can_never_be_fetched_fails_and_touches_nothing() {
    for code in [Reason::ImageMissing, Reason::NoArch, Reason::Auth, Reason::Verify] {
        let mut world = world(&format!("never-{code}"), vec![app("web", "good-1")]);
        world.fake.fail("r.example/web:good-2", code);
        world.apply(wish(2, vec![app("web", "good-2")])).unwrap();
        world.settle().unwrap();
        assert_eq!(world.end(), (State::Failed, Some(code)));
        assert_eq!(world.fake.log(), ["fetch web:good-2"]);
        // The document again, as after a restart of the agent: it is a new try.
        world.apply(wish(2, vec![app("web", "good-2")])).unwrap();
        world.settle().unwrap();
        assert_eq!(world.end(), (State::Committed, None));
        assert_eq!(world.records.last().unwrap().attempt, 2);
    }
}

#[test]
fn two_apps_of_which_one_fails_both_go_back() {
    let mut world = world("both", vec![app("db", "good-1"), app_after("web", "good-1", &["db"])]);
    world
        .apply(wish(2, vec![app("db", "good-2"), app_after("web", "sick", &["db"])]))
        .unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::RolledBack, Some(Reason::Unhealthy)));
    assert_eq!(world.fake.listing(), ["db good-1 running", "web good-1 running"]);
    let log = world.fake.log();
    let order: Vec<&str> = log
        .iter()
        .filter(|line| !line.starts_with("fetch"))
        .map(String::as_str)
        .collect();
    let expected = [
        "stop web good-1",
        "stop db good-1",
        "start db good-2",
        "start web sick",
        "stop web sick",
        "stop db good-2",
        "start db good-1",
        "start web good-1",
    ];
    assert_eq!(
        order, expected,
        "dependents stop first, dependencies start first, both ways"
    );
    world
        .apply(wish(3, vec![app("db", "good-2"), app_after("web", "good-1", &["db"])]))
        .unwrap();
    world.settle().unwrap();
    assert_eq!(
        world.end(),
        (State::Committed, None),
        "only the app that failed is quarantined"
    );
}

#[test]
fn a_dependency_that_is_never_healthy_turns_the_set_back() {
    let mut world = world("dependency", vec![]);
    world
        .apply(wish(1, vec![app("db", "sick"), app_after("web", "good-1", &["db"])]))
        .unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::RolledBack, Some(Reason::Unhealthy)));
    assert_eq!(
        world.fake.listing(),
        Vec::<String>::new(),
        "nothing ran before, nothing is left"
    );
    assert!(
        !world.fake.log().contains(&"start web good-1".to_owned()),
        "its dependent was never started"
    );
}

#[test]
fn when_the_old_version_fails_too_its_restart_policy_goes_on() {
    let mut world = world("rollback-failed", vec![app("web", "exit-15000-1")]);
    let mut sick = app("web", "sick");
    sick.health.as_mut().unwrap().failures = 1000;
    world.apply(wish(2, vec![sick])).unwrap();
    // The old version runs 15 s; make it fail at once from now on.
    world.settle().unwrap();
    assert_eq!(world.end().0, State::RolledBack);
    let mut world = self::world("rollback-failed-2", vec![app("web", "exit-11000-1")]);
    world.apply(wish(2, vec![app("web", "sick")])).unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::RolledBack, Some(Reason::Unhealthy)));
    world.pass(60_000).unwrap();
    let starts = world
        .fake
        .log()
        .into_iter()
        .filter(|line| line == "start web exit-11000-1")
        .count();
    assert!(starts >= 4, "it is started again and again: {starts}");
}

#[test]
fn removing_an_app_removes_its_container_when_committed() {
    let mut world = world("remove", vec![app("db", "good-1"), app("web", "good-1")]);
    world.apply(wish(2, vec![app("web", "good-1")])).unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Committed, None));
    assert_eq!(world.fake.listing(), ["web good-1 running"]);
    assert_eq!(world.fake.log(), ["stop db good-1"], "the other app was not touched");
}

#[test]
fn unchanged_apps_are_not_touched_and_the_same_set_is_answered_at_once() {
    let mut world = world("unchanged", vec![app("db", "good-1"), app("web", "good-1")]);
    world
        .apply(wish(2, vec![app("web", "good-1"), app("db", "good-1")]))
        .unwrap();
    assert_eq!(world.states(), [State::Accepted, State::Committed]);
    assert_eq!(world.fake.log(), Vec::<String>::new());
    let before = world.records.len();
    world
        .apply(wish(2, vec![app("web", "good-1"), app("db", "good-1")]))
        .unwrap();
    assert_eq!(
        world.records.len(),
        before,
        "the same document again is not answered again"
    );
}

#[test]
fn a_newer_document_supersedes_one_that_has_not_switched() {
    let mut world = world("supersede", vec![app("web", "good-1")]);
    world.fake.fail("r.example/web:good-2", Reason::Net);
    world.apply(wish(2, vec![app("web", "good-2")])).unwrap();
    assert_eq!(world.end().0, State::Fetching);
    world.apply(wish(3, vec![app("web", "good-3")])).unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Committed, None));
    let superseded: Vec<u64> = world
        .records
        .iter()
        .filter(|r| r.state == State::Superseded)
        .map(|r| r.generation)
        .collect();
    assert_eq!(superseded, [2]);
    assert_eq!(world.fake.listing(), ["web good-3 running"]);
}

#[test]
fn from_switching_on_it_finishes_and_the_newest_document_comes_next() {
    let mut world = world("queue", vec![app("web", "good-1")]);
    world.apply(wish(2, vec![app("web", "good-2")])).unwrap();
    world.pass(2_000).unwrap();
    assert_eq!(world.end().0, State::Soaking);
    world.apply(wish(3, vec![app("web", "good-3")])).unwrap();
    world.apply(wish(4, vec![app("web", "good-4")])).unwrap();
    assert_eq!(world.end().0, State::Soaking);
    world.settle().unwrap();
    let ends: Vec<(u64, State)> = world
        .core
        .as_ref()
        .unwrap()
        .finals()
        .iter()
        .map(|r| (r.generation, r.state))
        .collect();
    assert_eq!(
        ends,
        [
            (1, State::Committed),
            (3, State::Superseded),
            (2, State::Committed),
            (4, State::Committed)
        ]
    );
    assert_eq!(world.fake.listing(), ["web good-4 running"]);
}

#[test]
fn sets_that_cannot_be_are_rejected_with_everything_that_is_wrong() {
    let mut world = world("reject", vec![]);
    world.settings.budget = Some(100 << 20);
    world.die(Death::Killed);
    world.boot().unwrap();
    let limited = |mib: u64| {
        let mut web = app("web", "good-1");
        web.limits.memory = Some(crate::types::limits::Bytes(mib << 20));
        web
    };
    let mut beside = app("web", "good-1");
    beside.update.strategy = crate::types::app::Strategy::StartFirst;
    beside.ports = vec!["8080:80".into()];
    for (apps, code) in [
        (vec![limited(101)], Reason::Budget),
        (vec![limited(50), app("db", "good-1")], Reason::Budget),
        (
            vec![app_after("a", "good-1", &["b"]), app_after("b", "good-1", &["a"])],
            Reason::Schema,
        ),
        (vec![app("a", "no such:tag")], Reason::Schema),
        (vec![app_after("a", "good-1", &["gone"])], Reason::Schema),
        (vec![app("a", "good-1"), app("a", "good-2")], Reason::Schema),
        (vec![beside], Reason::Schema),
    ] {
        let generation = world.records.len() as u64 + 10;
        world.apply(wish(generation, apps)).unwrap();
        assert_eq!(world.end(), (State::Rejected, Some(code)));
    }
    assert_eq!(world.fake.log(), Vec::<String>::new(), "nothing was pulled");
}

#[test]
fn sources_own_their_apps() {
    let mut world = world("sources", vec![app("web", "good-1")]);
    world.apply(local(1, vec![app("tool", "good-1")])).unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Committed, None));
    world
        .apply(local(2, vec![app("tool", "good-1"), app("web", "good-9")]))
        .unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Rejected, Some(Reason::Conflict)));
    world.apply(wish(2, vec![])).unwrap();
    world.settle().unwrap();
    assert_eq!(
        world.fake.listing(),
        ["tool good-1 running"],
        "a source removes only its own"
    );
}

#[test]
fn a_local_app_that_is_quarantined_does_not_hold_up_the_others() {
    let mut world = world("local", vec![]);
    world.apply(local(1, vec![app("web", "good-1")])).unwrap();
    world.settle().unwrap();
    world.apply(local(2, vec![app("web", "sick")])).unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::RolledBack, Some(Reason::Unhealthy)));
    world
        .apply(local(3, vec![app("web", "sick"), app("db", "good-1")]))
        .unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Committed, None));
    assert_eq!(world.fake.listing(), ["db good-1 running", "web good-1 running"]);
}

#[test]
fn waves_and_halts_hold_back_until_a_new_generation_lets_go() {
    let rolled = |generation, rollout| Wish {
        rollout: Some(rollout),
        ..wish(generation, vec![app("web", "good-2")])
    };
    let mut world = world("wave", vec![app("web", "good-1")]);
    world.apply(rolled(2, rollout(0.0, false))).unwrap();
    assert_eq!(world.end(), (State::Waiting, Some(Reason::Wave)));
    world.apply(rolled(3, rollout(100.0, true))).unwrap();
    assert_eq!(world.end(), (State::Waiting, Some(Reason::Halted)));
    assert_eq!(world.fake.log(), Vec::<String>::new(), "nothing is pulled meanwhile");
    world.apply(rolled(4, rollout(100.0, false))).unwrap();
    world.pass(3_000).unwrap();
    assert_eq!(world.end().0, State::Soaking);
    world.apply(rolled(5, rollout(100.0, true))).unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Committed, None), "from SWITCHING on it finishes");
    assert!(
        world.records.iter().all(|record| record.activity == "activity-2"),
        "one activity"
    );
    let before = world.records.len();
    world.apply(rolled(6, rollout(50.0, false))).unwrap();
    assert_eq!(world.records.len(), before, "a device that has finished stays silent");
}

#[test]
fn windows_clocks_and_metered_links_hold_back() {
    let at = |text: &str| {
        let mut rollout = rollout(100.0, false);
        rollout.window = Some(text.into());
        Wish {
            rollout: Some(rollout),
            ..wish(2, vec![app("web", "good-2")])
        }
    };
    let mut world = world("window", vec![app("web", "good-1")]);
    world
        .command(Command::Conditions(Conditions {
            synchronised: false,
            ..Conditions::default()
        }))
        .unwrap();
    let (_, _, _, hour, ..) = crate::types::time::Unix(world.now).civil();
    let (next, after) = ((hour + 1) % 24, (hour + 2) % 24);
    world.apply(at(&format!("{next:02}:00-{after:02}:00"))).unwrap();
    assert_eq!(world.end(), (State::Waiting, Some(Reason::Clock)));
    world
        .command(Command::Conditions(Conditions {
            synchronised: true,
            ..Conditions::default()
        }))
        .unwrap();
    assert_eq!(world.end(), (State::Waiting, Some(Reason::Window)));
    let metered = Conditions {
        synchronised: true,
        metered: true,
        ..Conditions::default()
    };
    world.pass(1_000).unwrap();
    world.command(Command::Conditions(metered)).unwrap();
    world.pass(3_600_000).unwrap();
    assert_eq!(world.end(), (State::Waiting, Some(Reason::Metered)));
    world
        .command(Command::Conditions(Conditions {
            synchronised: true,
            ..Conditions::default()
        }))
        .unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Committed, None));
}

#[test]
fn start_first_keeps_the_old_one_running_until_the_new_one_is_healthy() {
    let beside = |tag: &str| {
        let mut web = app("web", tag);
        web.update.strategy = crate::types::app::Strategy::StartFirst;
        web
    };
    let mut world = world("beside", vec![beside("good-1")]);
    world.apply(wish(2, vec![beside("good-2")])).unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Committed, None));
    assert_eq!(
        world.fake.log(),
        ["fetch web:good-2", "start web good-2", "stop web good-1"]
    );
    world.apply(wish(3, vec![beside("sick")])).unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::RolledBack, Some(Reason::Unhealthy)));
    assert_eq!(
        world.fake.log(),
        ["fetch web:sick", "start web sick", "stop web sick"],
        "the old one ran all the time"
    );
    assert_eq!(world.fake.listing(), ["web good-2 running"]);
}

#[test]
fn an_app_that_exits_is_started_again_later_and_later() {
    let mut world = world("care", vec![]);
    let mut web = app_unchecked("web", "exit-1000-1");
    web.update.soak = crate::types::time::Span(100);
    world.apply(wish(1, vec![web])).unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Committed, None));
    world.fake.log();
    world.pass(20_000).unwrap();
    // Runs of 1 s with waits of 0.1, 0.2, 0.4, 0.8, 1.6, 3.2 s between, and then 6.4.
    assert_eq!(world.fake.log().len(), 7);
    assert!(
        world
            .events
            .iter()
            .any(|event| event.code == Reason::RestartLoop && event.app.as_deref() == Some("web"))
    );
}

#[test]
fn an_old_version_that_breaks_its_way_back_is_rollback_failed() {
    // The old version needs its 20 s of life to be committed; the way back finds it failing at its first second.
    let mut world = world(
        "broken-back",
        vec![app_unchecked("db", "good-1"), app_unchecked("web", "good-1")],
    );
    world.fake.lose_containers();
    world.fake.fail("r.example/web:good-1", Reason::ImageMissing);
    world.fake.fail("create r.example/web:good-1", Reason::StartFailed);
    world
        .apply(wish(2, vec![app_unchecked("db", "good-1"), app("web", "sick")]))
        .unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Failed, Some(Reason::RollbackFailed)));
    let cause = world.records.last().unwrap().reason.clone().unwrap();
    assert!(cause.detail.contains("after unhealthy"), "{cause}");
    world.pass(120_000).unwrap();
    assert!(
        world.fake.listing().contains(&"web good-1 running".to_owned()),
        "it is tried on: {:?}",
        world.fake.listing()
    );
}

#[test]
fn a_restart_by_command_stops_and_starts_and_answers() {
    let mut world = world("restart", vec![app("web", "good-1")]);
    let (sender, answers) = std::sync::mpsc::channel();
    let reply = |sender: &std::sync::mpsc::Sender<bool>| {
        let sender = sender.clone();
        Box::new(move |result: Result<(), _>| sender.send(result.is_ok()).unwrap())
    };
    world.command(Command::Restart("web".into(), reply(&sender))).unwrap();
    world.command(Command::Restart("nope".into(), reply(&sender))).unwrap();
    assert_eq!(answers.try_iter().collect::<Vec<_>>(), [true, false]);
    assert_eq!(world.fake.log(), ["stop web good-1", "start web good-1"]);
}

#[test]
fn a_rollback_by_command_goes_back_and_quarantines_what_it_leaves() {
    let mut world = world("command", vec![app("web", "good-1")]);
    world.apply(wish(2, vec![app("web", "good-2")])).unwrap();
    world.settle().unwrap();
    world
        .command(Command::Rollback("web".into(), Box::new(|result| result.unwrap())))
        .unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Committed, None));
    assert_eq!(world.fake.listing(), ["web good-1 running"]);
    world.apply(wish(3, vec![app("web", "good-2")])).unwrap();
    assert_eq!(world.end(), (State::Rejected, Some(Reason::Quarantined)));
    world.apply(wish(4, vec![app("web", "good-3")])).unwrap();
    world.pass(2_000).unwrap();
    assert_eq!(world.end().0, State::Soaking);
    world
        .command(Command::Rollback("web".into(), Box::new(|result| result.unwrap())))
        .unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::RolledBack, Some(Reason::Interrupted)));
    assert_eq!(world.fake.listing(), ["web good-1 running"]);
}

#[test]
fn a_version_that_exits_after_a_minute_or_in_a_loop_goes_back() {
    for (tag, restarts, reason) in [
        ("exit-60000-1", 0, Reason::Exited),
        ("exit-2000-1", 3, Reason::RestartLoop),
    ] {
        let mut world = world(&format!("late-{tag}"), vec![app("web", "good-1")]);
        let mut web = soaking("web", tag, 600);
        web.update.max_restarts = restarts;
        world.apply(wish(2, vec![web])).unwrap();
        world.settle().unwrap();
        assert_eq!(world.end(), (State::RolledBack, Some(reason)), "{tag}");
        assert_eq!(world.fake.listing(), ["web good-1 running"]);
    }
}

#[test]
fn a_registry_that_stays_down_ends_in_net_and_never_counts_against_the_version() {
    let mut world = world("down", vec![app("web", "good-1")]);
    for _ in 0..20 {
        world.fake.fail("r.example/web:good-2", Reason::Net);
    }
    world.apply(wish(2, vec![app("web", "good-2")])).unwrap();
    world.settle().unwrap();
    assert_eq!(world.end(), (State::Failed, Some(Reason::Net)));
    assert_eq!(world.fake.log().len(), 10, "as often as the settings say");
    assert!(world.core.as_ref().unwrap().quarantine().entries().is_empty());
}

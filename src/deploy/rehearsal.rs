//! Dying everywhere: every kill point of every way, each followed by a start that must end old or new, never neither, never both.

use std::collections::BTreeMap;

use crate::types::app::App;
use crate::types::deployment::State;

use super::kill::{self, POINTS};
use super::world::{Death, World, app, app_after, wish};

/// A way to go: what runs before, what is wanted, how it ends when nobody dies.
struct Way {
    name: &'static str,
    before: fn() -> Vec<App>,
    after: fn() -> Vec<App>,
    end: State,
}

fn beside(tag: &str) -> App {
    let mut web = app("web", tag);
    web.update.strategy = crate::types::app::Strategy::StartFirst;
    web
}

fn saving(tag: &str) -> App {
    let mut web = app("web", tag);
    web.update.volumes = crate::types::app::VolumePolicy::Snapshot;
    web.volumes = vec!["data:/data".into()];
    web
}

fn alone(tag: &str) -> App {
    let mut web = saving(tag);
    web.update.independent = true;
    web
}

/// What runs at the end of a way when nobody dies.
fn outcome(way: &Way) -> Vec<App> {
    match way.end {
        State::Committed if way.name.starts_with("alone") => vec![app("db", "good-2"), alone("good-1")],
        State::Committed => (way.after)(),
        _ => (way.before)(),
    }
}

const WAYS: &[Way] = &[
    Way {
        name: "first",
        before: Vec::new,
        after: || vec![app("web", "good-1")],
        end: State::Committed,
    },
    Way {
        name: "update",
        before: || vec![app("web", "good-1")],
        after: || vec![app("web", "good-2")],
        end: State::Committed,
    },
    Way {
        name: "rollback",
        before: || vec![app("web", "good-1")],
        after: || vec![app("web", "sick")],
        end: State::RolledBack,
    },
    Way {
        name: "soak-fails",
        before: || vec![app("web", "good-1")],
        after: || vec![app("web", "oom-4000")],
        end: State::RolledBack,
    },
    Way {
        name: "first-fails",
        before: Vec::new,
        after: || vec![app("web", "nostart")],
        end: State::RolledBack,
    },
    Way {
        name: "remove",
        before: || vec![app("web", "good-1"), app("db", "good-1")],
        after: || vec![app("web", "good-1")],
        end: State::Committed,
    },
    Way {
        name: "set",
        before: || {
            vec![
                app("db", "good-1"),
                app_after("web", "good-1", &["db"]),
                app("gone", "good-1"),
            ]
        },
        after: || {
            vec![
                app("db", "good-2"),
                app_after("web", "good-2", &["db"]),
                app("new", "good-1"),
            ]
        },
        end: State::Committed,
    },
    Way {
        name: "set-fails",
        before: || {
            vec![
                app("db", "good-1"),
                app_after("web", "good-1", &["db"]),
                app("gone", "good-1"),
            ]
        },
        after: || {
            vec![
                app("db", "good-2"),
                app_after("web", "exit-3000-1", &["db"]),
                app("new", "good-1"),
            ]
        },
        end: State::RolledBack,
    },
    Way {
        name: "beside",
        before: || vec![beside("good-1")],
        after: || vec![beside("good-2")],
        end: State::Committed,
    },
    Way {
        name: "beside-fails",
        before: || vec![beside("good-1")],
        after: || vec![beside("sick")],
        end: State::RolledBack,
    },
    Way {
        name: "saved",
        before: || vec![saving("good-1")],
        after: || vec![saving("good-2")],
        end: State::Committed,
    },
    Way {
        name: "saved-fails",
        before: || vec![saving("good-1")],
        after: || vec![saving("sick")],
        end: State::RolledBack,
    },
    Way {
        name: "alone-fails",
        before: || vec![app("db", "good-1"), alone("good-1")],
        after: || vec![app("db", "good-2"), alone("sick")],
        end: State::Committed,
    },
    Way {
        name: "alone-soak-fails",
        before: || vec![app("db", "good-1"), alone("good-1")],
        after: || vec![app("db", "good-2"), alone("exit-4000-1")],
        end: State::Committed,
    },
    Way {
        name: "rollback-fails",
        before: || vec![app("web", "once")],
        after: || vec![app("web", "sick")],
        end: State::Failed,
    },
    Way {
        name: "unchanged",
        before: || vec![app("web", "good-1"), app("db", "good-1")],
        after: || vec![app("db", "good-1"), app("web", "good-1")],
        end: State::Committed,
    },
    Way {
        name: "remove-all",
        before: || vec![app("web", "good-1")],
        after: Vec::new,
        end: State::Committed,
    },
    Way {
        name: "refused",
        before: || vec![app("web", "good-1")],
        after: || vec![app_after("web", "good-1", &["gone"])],
        end: State::Rejected,
    },
];

fn prepared(way: &Way, label: &str) -> World {
    let mut world = World::new(&format!("rehearsal-{}-{label}", way.name));
    world.boot().unwrap();
    if !(way.before)().is_empty() {
        world.apply(wish(1, (way.before)())).unwrap();
        world.settle().unwrap();
    }
    world.records.clear();
    world
}

fn listing(apps: &[App]) -> Vec<String> {
    let mut lines: Vec<String> = apps
        .iter()
        .map(|app| format!("{} {} running", app.name, app.image.rsplit(':').next().unwrap()))
        .collect();
    lines.sort();
    lines
}

/// Goes the way, dying at the point's `n`-th time if there is one; starts again and lets it end. Every check is in here.
fn go(way: &Way, point: &str, n: u32, death: Death) {
    let case = format!("{}: {point}:{n} {death:?}", way.name);
    let mut world = prepared(way, &format!("{point}-{n}-{death:?}"));
    kill::rehearsal::begin(Some((point, n)));
    let died = world
        .apply(wish(2, (way.after)()))
        .and_then(|()| world.settle())
        .is_err();
    kill::rehearsal::end();
    assert!(died, "{case}: the point was not reached");
    let seq_before = world.records.last().map_or(0, |record| record.seq);
    world.die(death);
    world.boot().unwrap();
    // What runs right after the start: each app at the most once.
    for line in world.fake.listing() {
        let app = line.split([' ', '.']).next().unwrap();
        let running = world
            .fake
            .listing()
            .iter()
            .filter(|l| l.ends_with("running") && l.split([' ', '.']).next() == Some(app))
            .count();
        let both = usize::from(way.name.starts_with("beside"));
        assert!(running <= 1 + both, "{case}: {:?}", world.fake.listing());
    }
    // The agent applies its stored document again.
    world.apply(wish(2, (way.after)())).unwrap();
    world.settle().unwrap();
    world.pass(1_000).unwrap();
    let now = world.fake.listing();
    assert_eq!(now, listing(&outcome(way)), "{case}");
    let core = world.core.as_ref().unwrap();
    let ends: Vec<(u32, State)> = core
        .finals()
        .iter()
        .filter(|record| record.generation == 2)
        .map(|record| (record.attempt, record.state))
        .collect();
    let last = core
        .finals()
        .last()
        .unwrap_or_else(|| panic!("{case}: no final record"));
    // Every end comes once; only what was refused may be refused again, as another attempt.
    let again = way.end == State::Rejected;
    assert!(
        ends == [(1, way.end)] || again && ends == [(1, way.end), (2, way.end)],
        "{case}: {ends:?}, {:?}",
        last.reason
    );
    let seqs: Vec<u64> = world.records.iter().map(|record| record.seq).collect();
    assert!(seqs.is_sorted(), "{case}: {seqs:?}");
    assert!(last.seq >= seq_before, "{case}: the sequence number went back");
    let quarantined = core.quarantine().entries().len();
    assert_eq!(
        quarantined,
        usize::from(matches!(way.end, State::RolledBack | State::Failed) || way.name.starts_with("alone")),
        "{case}: quarantine"
    );
    for name in ["next-fleet", "next-local"] {
        assert!(!world.dir.join(name).exists(), "{case}: `{name}` is left behind");
    }
    if way.name.starts_with("saved") || way.name.starts_with("alone") {
        let last = if way.name == "saved" && way.end == State::Committed {
            &["good-1", "good-2"][..]
        } else {
            &["good-1"]
        };
        let (written, saved) = world.fake.written("data");
        assert_eq!(
            (written.iter().map(String::as_str).collect::<Vec<_>>(), saved),
            (last.to_vec(), 0),
            "{case}"
        );
    }
    // And it all holds over one more power cut.
    world.die(Death::PowerCut);
    world.boot().unwrap();
    world.settle().unwrap();
    world.pass(1_000).unwrap();
    assert_eq!(world.fake.listing(), now, "{case}: after one more power cut");
}

/// How often each point is reached on this way.
fn reached(way: &Way) -> BTreeMap<String, u32> {
    let mut world = prepared(way, "dry");
    kill::rehearsal::begin(None);
    world.apply(wish(2, (way.after)())).unwrap();
    world.settle().unwrap();
    let reached = kill::rehearsal::end();
    assert_eq!(world.end().0, way.end, "{}: {:?}", way.name, world.records.last());
    reached
}

#[test]
fn whoever_dies_at_any_point_comes_back_old_or_new() {
    let mut cases = 0;
    for way in WAYS {
        for (point, times) in reached(way) {
            for n in 1..=times {
                for death in [Death::Killed, Death::PowerCut, Death::PowerCutLosing] {
                    go(way, &point, n, death);
                    cases += 1;
                }
            }
        }
    }
    assert!(cases > 500, "{cases} cases");
}

#[test]
fn whoever_dies_while_a_newer_document_takes_over_reports_both_ends_once() {
    // A deployment that waits for the network, and a newer document; what is reached on the way, and then dying there.
    let waiting = |label: &str| {
        let mut world = World::new(&format!("rehearsal-superseded-{label}"));
        world.boot().unwrap();
        world.apply(wish(1, vec![app("web", "good-1")])).unwrap();
        world.settle().unwrap();
        world
            .fake
            .fail("r.example/web:good-2", crate::types::deployment::Reason::Net);
        world.apply(wish(2, vec![app("web", "good-2")])).unwrap();
        assert_eq!(world.end().0, State::Fetching);
        world
    };
    let newer = |world: &mut World| {
        world
            .apply(wish(3, vec![app("web", "good-3")]))
            .and_then(|()| world.settle())
    };
    let mut world = waiting("dry");
    kill::rehearsal::begin(None);
    newer(&mut world).unwrap();
    let reached = kill::rehearsal::end();
    assert!(
        reached["history-final-half"] >= 2,
        "the end of both is written: {reached:?}"
    );
    for (point, times) in reached {
        for (n, death) in (1..=times).flat_map(|n| [(n, Death::Killed), (n, Death::PowerCut)]) {
            let case = format!("{point}:{n} {death:?}");
            let mut world = waiting(&format!("{point}-{n}-{death:?}"));
            kill::rehearsal::begin(Some((&point, n)));
            let died = newer(&mut world).is_err();
            kill::rehearsal::end();
            assert!(died, "{case}: the point was not reached");
            world.die(death);
            world.boot().unwrap();
            newer(&mut world).unwrap();
            assert_eq!(world.fake.listing(), ["web good-3 running"], "{case}");
            let finals = world.core.as_ref().unwrap().finals();
            let ends: Vec<(u64, State)> = finals.iter().map(|one| (one.generation, one.state)).collect();
            assert_eq!(
                ends,
                [(1, State::Committed), (2, State::Superseded), (3, State::Committed)],
                "{case}"
            );
        }
    }
}

#[test]
fn every_kill_point_is_reached_on_some_way() {
    let mut all: BTreeMap<String, u32> = BTreeMap::new();
    for way in WAYS {
        for (point, times) in reached(way) {
            *all.entry(point).or_default() += times;
        }
    }
    // Waiting and starting are ways of their own.
    let mut world = World::new("rehearsal-waiting");
    kill::rehearsal::begin(None);
    world.boot().unwrap();
    world
        .fake
        .fail("r.example/web:good-1", crate::types::deployment::Reason::Disk);
    world.apply(wish(1, vec![app("web", "good-1")])).unwrap();
    world.settle().unwrap();
    all.extend(kill::rehearsal::end());
    let missed: Vec<&&str> = POINTS.iter().filter(|point| !all.contains_key(**point)).collect();
    assert!(missed.is_empty(), "never reached: {missed:?}");
}

#[test]
fn dying_again_and_again_at_the_start_ends_well_too() {
    for way in WAYS
        .iter()
        .filter(|way| way.end != State::Rejected && way.name != "unchanged")
    {
        for point in [
            "journal-boot-before",
            "journal-boot-half",
            "journal-boot-after",
            "start-before",
            "stop-after",
        ] {
            let mut world = prepared(way, &format!("again-{point}"));
            kill::rehearsal::begin(Some(("journal-switching-after", 1)));
            let died = world
                .apply(wish(2, (way.after)()))
                .and_then(|()| world.settle())
                .is_err();
            kill::rehearsal::end();
            assert!(died);
            for _ in 0..2 {
                world.die(Death::PowerCut);
                kill::rehearsal::begin(Some((point, 1)));
                let _ = world.boot().and_then(|()| world.pass(100));
                kill::rehearsal::end();
            }
            world.die(Death::Killed);
            world.boot().unwrap();
            world.settle().unwrap();
            world.pass(1_000).unwrap();
            assert_eq!(world.fake.listing(), listing(&outcome(way)), "{} {point}", way.name);
        }
    }
}

#[test]
fn three_reboots_are_survived_and_the_fourth_turns_back_without_quarantine() {
    for (reboots, end) in [(3, State::Committed), (4, State::RolledBack)] {
        let mut world = World::new(&format!("reboots-{reboots}"));
        world.boot().unwrap();
        world.apply(wish(1, vec![app("web", "good-1")])).unwrap();
        world.settle().unwrap();
        world.apply(wish(2, vec![app("web", "good-2")])).unwrap();
        world.pass(3_000).unwrap();
        assert_eq!(world.end().0, State::Soaking);
        for _ in 0..reboots {
            world.die(Death::PowerCut);
            world.boot().unwrap();
            world.pass(100).unwrap();
        }
        world.settle().unwrap();
        assert_eq!(world.end().0, end);
        assert!(world.core.as_ref().unwrap().quarantine().entries().is_empty());
        let expected = if end == State::Committed {
            "web good-2 running"
        } else {
            "web good-1 running"
        };
        assert_eq!(world.fake.listing(), [expected]);
    }
}

#[test]
fn a_soak_goes_on_from_its_last_checkpoint() {
    let mut world = World::new("checkpoint");
    world.boot().unwrap();
    world.apply(wish(1, vec![app("web", "good-1")])).unwrap();
    world.pass(8_500).unwrap();
    assert_eq!(world.end().0, State::Soaking);
    world.die(Death::PowerCut);
    world.boot().unwrap();
    let began = world.now;
    world.settle().unwrap();
    let rest = world.now - began;
    assert!(
        (1_900..=2_300).contains(&rest),
        "8 of 10 s were counted; the rest took {rest} ms"
    );
}

#[test]
fn a_start_in_a_deployment_leaves_what_was_fetched() {
    let mut world = World::new("sweep");
    world.boot().unwrap();
    assert_eq!(world.fake.swept(), Some(true));
    world.apply(wish(1, vec![app("web", "good-1")])).unwrap();
    world.pass(100).unwrap();
    assert!(!world.end().0.is_final());
    world.die(Death::PowerCut);
    world.boot().unwrap();
    assert_eq!(world.fake.swept(), Some(false));
    world.settle().unwrap();
    world.die(Death::PowerCut);
    world.boot().unwrap();
    assert_eq!(world.fake.swept(), Some(true));
}

#[test]
fn a_killed_agent_leaves_containers_alone_and_adopts_them() {
    let mut world = World::new("adopt");
    world.boot().unwrap();
    world
        .apply(wish(1, vec![app("db", "good-1"), app_after("web", "good-1", &["db"])]))
        .unwrap();
    world.settle().unwrap();
    world.fake.log();
    world.die(Death::Killed);
    world.pass(60_000).unwrap();
    world.boot().unwrap();
    world.pass(60_000).unwrap();
    assert_eq!(world.fake.log(), Vec::<String>::new());
    let apps = world.core.as_ref().unwrap().apps();
    assert!(apps.iter().all(|app| app.status == "running"), "{apps:?}");
}

#[test]
fn an_exit_while_no_agent_looked_is_noticed() {
    let mut world = World::new("missed");
    world.boot().unwrap();
    let mut web = app("web", "exit-30000-1");
    web.update.soak = crate::types::time::Span(100);
    world.apply(wish(1, vec![web])).unwrap();
    world.settle().unwrap();
    world.fake.log();
    world.die(Death::Killed);
    world.pass(40_000).unwrap();
    assert_eq!(world.fake.listing(), ["web exit-30000-1 stopped"]);
    world.boot().unwrap();
    world.pass(1_000).unwrap();
    assert_eq!(world.fake.log(), ["start web exit-30000-1"]);
}

#[test]
fn an_exit_while_soaking_and_no_agent_looked_is_evidence() {
    let mut world = World::new("missed-soak");
    world.boot().unwrap();
    world.apply(wish(1, vec![app("web", "good-1")])).unwrap();
    world.settle().unwrap();
    world.apply(wish(2, vec![app("web", "exit-5000-1")])).unwrap();
    world.pass(1_000).unwrap();
    assert_eq!(world.end().0, State::Soaking);
    world.die(Death::Killed);
    world.pass(10_000).unwrap();
    world.boot().unwrap();
    world.settle().unwrap();
    assert_eq!(
        world.end(),
        (State::RolledBack, Some(crate::types::deployment::Reason::Exited))
    );
    assert_eq!(world.fake.listing(), ["web good-1 running"]);
}

#[test]
fn after_a_power_cut_everything_starts_in_order_without_a_fetch() {
    let mut world = World::new("order");
    world.boot().unwrap();
    world
        .apply(wish(
            1,
            vec![
                app_after("a", "good-1", &["b"]),
                app_after("b", "good-1", &["c"]),
                app("c", "good-1"),
            ],
        ))
        .unwrap();
    world.settle().unwrap();
    world.fake.log();
    world.die(Death::PowerCut);
    world.boot().unwrap();
    world.pass(5_000).unwrap();
    assert_eq!(world.fake.log(), ["start c good-1", "start b good-1", "start a good-1"]);
}

#[test]
fn an_unreadable_journal_and_history_do_not_keep_the_committed_set_from_running() {
    let mut world = World::new("unreadable");
    world.boot().unwrap();
    world.apply(wish(1, vec![app("web", "good-1")])).unwrap();
    world.settle().unwrap();
    world.apply(wish(2, vec![app("web", "good-2")])).unwrap();
    world.pass(2_000).unwrap();
    assert_eq!(world.end().0, State::Soaking);
    world.die(Death::PowerCut);
    for name in ["journal", "history"] {
        let path = world.dir.join(name);
        let length = std::fs::metadata(&path).unwrap().len() as usize;
        std::fs::write(&path, vec![0x5a; length]).unwrap();
    }
    world.boot().unwrap();
    world.pass(5_000).unwrap();
    assert_eq!(
        world.fake.listing(),
        ["web good-1 running"],
        "the last committed set, and nothing else is left"
    );
    assert_eq!(
        world
            .events
            .iter()
            .filter(|event| event.code == crate::types::deployment::Reason::Disk)
            .count(),
        2
    );
}

#[test]
fn lost_containers_of_committed_apps_are_made_again() {
    let mut world = World::new("lost");
    world.boot().unwrap();
    world.apply(wish(1, vec![app("web", "good-1")])).unwrap();
    world.settle().unwrap();
    world.die(Death::PowerCut);
    world.fake.lose_containers();
    world.boot().unwrap();
    world.pass(5_000).unwrap();
    assert_eq!(world.fake.listing(), ["web good-1 running"]);
}

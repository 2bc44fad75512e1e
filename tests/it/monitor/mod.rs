//! The monitor, on real containers.

mod place;

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use dunlin::monitor::client::{self, ClientError, Ended, Ends};
use dunlin::monitor::wire::{
    Answer, AttachRequest, ExecRequest, FromMonitor, Open, Size, StartReport, ToMonitor, What,
};
use dunlin::sys::socket;
use dunlin::types::container::{LogLimits, RestartPolicy, Status};
use dunlin::types::health::{Health, HealthStatus};
use dunlin::types::limits::{Bytes, LimitKind};
use dunlin::types::time::Span;

use crate::skip;
use place::{ATTACH, Place, RealGroups, WAIT, collect, counts, sh};

#[test]
fn output_exit_code_and_records_arrive() {
    let (mut place, mut session) =
        Place::new(&["/bin/sh", "-c", "echo out; echo err >&2; printf 'no newline'; exit 3"]).run();
    let (code, out, err) = collect(&mut session, b"").unwrap();
    assert_eq!((code, &out[..], &err[..]), (3, &b"out\nno newline"[..], &b"err\n"[..]));
    session.wait_closed(WAIT).unwrap();
    let exit = place.wait();
    assert_eq!(
        (exit.code, exit.signal, exit.oom, exit.stop_asked),
        (3, None, false, false)
    );
    let logs = place.logs();
    let words: Vec<&str> = logs.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    assert!(
        words.contains(&"stdout F out") && words.contains(&"stderr F err"),
        "{logs}"
    );
    assert!(logs.ends_with("stdout F \n"), "the open line is closed: {logs}");
    assert!(matches!(
        client::connect(&place.config.run_dir),
        Err(ClientError::NotRunning { .. })
    ));
}

#[test]
fn a_program_that_is_missing_is_refused_with_its_code() {
    let mut place = Place::new(&["/bin/missing"]);
    let (mut session, theirs) = client::prepare_attach(ATTACH, &place.config.run_dir).unwrap();
    let StartReport::Failed(refusal) = place.start_with(Some(theirs)) else {
        panic!("started")
    };
    assert_eq!(refusal.code, 127, "{refusal}");
    assert!(refusal.message.contains("/bin/missing"), "{refusal}");
    let error = session.relay(&Ends::default()).unwrap_err();
    assert!(matches!(error, ClientError::Refused(refusal) if refusal.code == 127));
    assert_eq!(place.wait().code, 127);
}

#[test]
fn a_hundred_megabytes_go_through_cat_unchanged() {
    let (mut place, mut session) = Place::new(&["/bin/cat"]).with(|config| config.stdin = true).run();
    let mut seed = 7u64;
    let input: Vec<u8> = (0..100 << 17)
        .flat_map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 3).to_le_bytes()
        })
        .collect();
    let (code, out, _) = collect(&mut session, &input).unwrap();
    assert_eq!(code, 0);
    assert!(out == input, "{} of {} bytes came back", out.len(), input.len());
    place.wait();
    let log = place.config.data_dir.join("log");
    let bytes: u64 = dunlin::monitor::log::files(&log)
        .iter()
        .map(|path| path.metadata().unwrap().len())
        .sum();
    assert!(
        bytes <= LogLimits::default().file_bytes * u64::from(LogLimits::default().files),
        "{bytes}"
    );
}

#[test]
fn a_foreground_reader_that_stops_holds_the_container_and_loses_nothing() {
    let script = "i=0; while [ $i -lt 60000 ]; do echo line $i; i=$((i+1)); done";
    let (mut place, mut session) = Place::new(&["/bin/sh", "-c", script]).run();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(place.judge().status, Status::Running, "it waits for its reader");
    let (code, out, _) = collect(&mut session, b"").unwrap();
    let expected: String = (0..60_000).map(|n| format!("line {n}\n")).collect();
    assert!(code == 0 && out == expected.as_bytes(), "{} bytes", out.len());
    place.wait();
}

#[test]
fn a_reader_that_only_looks_is_cut_off_when_it_stops() {
    let script = "sleep 0.3; i=0; while [ $i -lt 60000 ]; do echo line $i; i=$((i+1)); done; echo done; sleep 60";
    let place = Place::new(&["/bin/sh", "-c", script]).start();
    let mut idle = place
        .connect()
        .attach(AttachRequest {
            foreground: false,
            stdin: false,
            ..ATTACH
        })
        .unwrap();
    idle.started(WAIT).unwrap();
    let begun = Instant::now();
    place.until("the container goes on", |place| {
        place.logs().ends_with("stdout F done\n")
    });
    let held = begun.elapsed();
    assert!(
        (Duration::from_secs(5)..Duration::from_secs(16)).contains(&held),
        "{held:?}"
    );
}

#[test]
fn many_readers_get_the_same() {
    let script = "read go; i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done";
    let (mut place, mut runner) = Place::new(&["/bin/sh", "-c", script])
        .with(|config| config.stdin = true)
        .run();
    let others: Vec<_> = (0..4)
        .map(|_| {
            let mut session = place
                .connect()
                .attach(AttachRequest { stdin: false, ..ATTACH })
                .unwrap();
            session.started(WAIT).unwrap();
            std::thread::spawn(move || collect(&mut session, b"").unwrap().1)
        })
        .collect();
    let (_, out, _) = collect(&mut runner, b"go\n").unwrap();
    assert!(out.ends_with(b"line 19999\n"));
    for other in others {
        assert!(other.join().unwrap() == out);
    }
    place.wait();
}

#[test]
fn a_terminal_has_size_resize_and_echo() {
    let script = "stty size; read a; stty size; exit 4";
    let (mut place, session) = Place::new(&["/bin/sh", "-c", script])
        .with(|config| (config.tty, config.stdin) = (Some(Size { rows: 31, cols: 117 }), true))
        .run();
    let mut session = session;
    let mut said = String::new();
    let mut resized = false;
    let code = loop {
        match session.next(Some(WAIT)).unwrap().unwrap() {
            FromMonitor::Stdout(data) => said.push_str(&String::from_utf8_lossy(data)),
            FromMonitor::Exited { code, .. } => break code,
            _ => {}
        }
        if said.contains("31 117") && !resized {
            resized = true;
            session.send(&ToMonitor::Resize(Size { rows: 50, cols: 200 })).unwrap();
            session.send(&ToMonitor::Stdin(b"hello\n")).unwrap();
        }
    };
    assert_eq!(code, 4);
    assert!(said.contains("hello\r\n") && said.contains("50 200"), "{said:?}");
    place.wait();
}

#[test]
fn signals_reach_the_first_process() {
    let script = "trap 'echo usr; exit 9' USR1; echo ready; while :; do sleep 0.05; done";
    let (mut place, session) = Place::new(&["/bin/sh", "-c", script]).run();
    place.until("ready", |place| place.logs().contains("ready"));
    session.send(&ToMonitor::Signal(10)).unwrap();
    assert_eq!(place.wait().code, 9);
    assert!(matches!(place.connect_error(), ClientError::NotRunning { .. }));
}

#[test]
fn stop_asks_waits_and_kills() {
    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let mut place = Place::new(&["/bin/sh", "-c", deaf])
        .with(|config| config.stop_timeout_ms = 300)
        .start();
    place.until("ready", |place| place.logs().contains("ready"));
    let begun = Instant::now();
    let exit = place.connect().stop(None, None, WAIT).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!((exit.code, exit.signal, exit.stop_asked), (137, Some(9), true));
    place.wait();

    let polite = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let mut place = Place::new(&["/bin/sh", "-c", polite])
        .with(|config| config.restart = RestartPolicy::Always)
        .start();
    place.until("ready", |place| place.logs().contains("ready"));
    let connection = place.connect();
    connection
        .ask(Open::Stop {
            signal: None,
            timeout_ms: None,
        })
        .unwrap();
    let Answer::Exit(exit) = connection.answer(WAIT).unwrap() else {
        panic!("no exit")
    };
    assert_eq!((exit.code, exit.signal), (5, None));
    place.wait();
}

#[test]
fn execs_have_input_output_code_and_errors() {
    let place = Place::new(&["/bin/sleep", "60"]).start();
    assert_eq!(
        place.sh("echo out; echo err >&2; exit 6"),
        (6, "out\n".into(), "err\n".into())
    );
    let request = ExecRequest {
        args: vec!["/bin/cat".into()],
        stdin: true,
        ..ExecRequest::default()
    };
    let input = vec![b'x'; 300_000];
    let (code, out, _) = place.exec(request, &input).unwrap();
    assert!(code == 0 && out == input);
    assert_eq!(place.sh("kill -9 $$").0, 137);
    // What a background child holds open is not waited for.
    let begun = Instant::now();
    assert_eq!(place.sh("sleep 30 & echo here").1, "here\n");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_exec_with_a_terminal_gets_one() {
    let place = Place::new(&["/bin/sleep", "60"]).start();
    let tty = Some(Size { rows: 20, cols: 60 });
    let request = ExecRequest {
        args: sh("stty size; exit 2"),
        tty,
        ..ExecRequest::default()
    };
    let (code, out, _) = place.exec(request, b"").unwrap();
    assert_eq!((code, &out[..]), (2, &b"20 60\r\n"[..]));
}

#[test]
fn a_detached_exec_keeps_its_status_until_it_is_asked_for() {
    let place = Place::new(&["/bin/sleep", "60"]).start();
    let request = ExecRequest {
        args: sh("sleep 0.2; exit 7"),
        detach: true,
        ..ExecRequest::default()
    };
    let (_, number) = place.connect().exec(request).unwrap().started(WAIT).unwrap();
    assert_eq!(place.connect().collect(number).unwrap(), None);
    place.until("its end", |place| place.connect().status().unwrap().execs == 0);
    assert_eq!(place.connect().collect(number).unwrap(), Some(7));
    assert!(place.connect().collect(number).is_err());
}

#[test]
fn a_lost_client_takes_its_terminal_along() {
    let place = Place::new(&["/bin/sleep", "60"]).start();
    let tty = Some(Size { rows: 20, cols: 60 });
    let request = ExecRequest {
        args: sh("sleep 1000"),
        tty,
        ..ExecRequest::default()
    };
    let mut session = place.connect().exec(request).unwrap();
    session.started(WAIT).unwrap();
    assert_eq!(place.connect().status().unwrap().execs, 1);
    drop(session);
    place.until("the exec ends", |place| place.connect().status().unwrap().execs == 0);
}

#[test]
fn a_thousand_execs_leave_no_descriptor_and_no_zombie() {
    let place = Place::new(&["/bin/sleep", "600"]).start();
    assert_eq!(place.sh("true").0, 0);
    let before = counts(place.monitor_pid());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..250 {
                    let request = ExecRequest {
                        args: vec!["/bin/true".into()],
                        ..ExecRequest::default()
                    };
                    assert_eq!(place.exec(request, b"").unwrap().0, 0);
                }
            });
        }
    });
    // The exec before the first count may not have been quite over.
    place.until("descriptors and children are as before", |place| {
        let now = counts(place.monitor_pid());
        now.0 <= before.0 && now.1 <= before.1
    });
}

#[test]
fn health_is_judged_by_tcp_http_and_exec() {
    let serve = "mkdir -p /www; echo fine > /www/ok; httpd -p 8080 -h /www; sleep 600";
    let quick = |mut health: Health| {
        (health.interval, health.timeout, health.failures) = (Span(100), Span(500), 2);
        health
    };
    for (health, expected) in [
        (Health::tcp(8080), HealthStatus::Healthy),
        (Health::tcp(8081), HealthStatus::Unhealthy),
        (Health::http(8080, "/ok"), HealthStatus::Healthy),
        (Health::http(8080, "/missing"), HealthStatus::Unhealthy),
        (Health::exec(sh("echo looked; exit 0")), HealthStatus::Healthy),
        (Health::exec(sh("echo looked; exit 1")), HealthStatus::Unhealthy),
        (Health::exec(sh("sleep 100")), HealthStatus::Unhealthy),
        (Health::exec(vec!["/bin/nothing".into()]), HealthStatus::Unhealthy),
    ] {
        let place = Place::new(&["/bin/sh", "-c", serve])
            .with(|config| config.health = Some(quick(health.clone())))
            .start();
        place.until(&format!("{health:?}: {expected:?}"), |place| {
            place.judge().health() == expected
        });
        let report = place.connect().status().unwrap();
        let last = report.probes.last().unwrap();
        assert!(report.probes.len() <= 5);
        if health
            .exec
            .as_ref()
            .is_some_and(|args| args.last().unwrap().contains("looked"))
        {
            assert_eq!(last.output, "looked\n");
        }
        assert_eq!(last.code == 0, expected == HealthStatus::Healthy, "{last:?}");
        let (probe, status) = place.connect().probe(WAIT).unwrap();
        assert_eq!((probe.code == 0, status), (expected == HealthStatus::Healthy, expected));
        assert_eq!(
            place.sh("ps | grep -c '[s]leep 100'").1.trim(),
            "0",
            "what a probe began ends with it"
        );
    }
}

#[test]
fn a_server_that_hangs_fails_its_probe_in_time() {
    let serve = "while :; do nc -l -p 8080 -e sleep 100; done";
    let mut health = Health::http(8080, "/");
    (health.interval, health.timeout, health.failures) = (Span(100), Span(300), 1);
    let place = Place::new(&["/bin/sh", "-c", serve])
        .with(|config| config.health = Some(health))
        .start();
    place.until("unhealthy", |place| place.judge().health() == HealthStatus::Unhealthy);
    place.until("a time-out", |place| {
        place
            .connect()
            .status()
            .unwrap()
            .probes
            .iter()
            .any(|probe| probe.timed_out)
    });
}

#[test]
fn restarts_as_the_policy_says_with_the_same_logs() {
    let mut place = Place::new(&["/bin/sh", "-c", "echo run; exit 1"])
        .with(|config| config.restart = RestartPolicy::OnFailure(2))
        .start();
    let exit = place.wait();
    assert_eq!((exit.code, exit.restarts), (1, 2));
    assert_eq!(place.logs().matches("stdout F run").count(), 3);
}

#[test]
fn events_tell_the_whole_story_in_order() {
    let script = "read go; exit 2";
    let (mut place, session) = Place::new(&["/bin/sh", "-c", script])
        .with(|config| (config.stdin, config.restart) = (true, RestartPolicy::OnFailure(1)))
        .run();
    let mut events = place.connect().subscribe().unwrap();
    let first = events.next(Some(WAIT)).unwrap().unwrap();
    assert!(
        matches!(&first.what, What::Now(state) if state.status == Status::Running),
        "{first:?}"
    );
    session.send(&ToMonitor::Stdin(b"go\n")).unwrap();
    let mut seen = Vec::new();
    let mut seq = first.seq;
    while let Some(event) = events.next(Some(WAIT)).unwrap() {
        assert_eq!(event.seq, seq + 1);
        seq = event.seq;
        seen.push(match event.what {
            What::Exited(exit) => format!("exited {}", exit.code),
            What::Restarting { restarts, .. } => format!("restarting {restarts}"),
            What::Started { restarts, .. } => {
                session.send(&ToMonitor::Stdin(b"go\n")).unwrap();
                format!("started {restarts}")
            }
            What::Finished(exit) => format!("finished {}", exit.code),
            other => format!("{other:?}"),
        });
    }
    assert_eq!(
        seen,
        ["exited 2", "restarting 1", "started 1", "exited 2", "finished 2"]
    );
    place.wait();
}

#[test]
fn a_killed_monitor_takes_its_container_along() {
    let mut place = Place::new(&["/bin/sleep", "600"]).start();
    let container = place.judge().state.unwrap().container.unwrap();
    place.kill_monitor();
    place.until("the container is gone", |_| !dunlin::monitor::state::lives(&container));
    let judged = place.judge();
    assert_eq!(
        (judged.status, judged.exit.unwrap().code, judged.leftover),
        (Status::Dead, 137, None)
    );
}

#[test]
fn hostile_bytes_do_not_harm() {
    let place = Place::new(&["/bin/sleep", "600"]).start();
    let dir = std::fs::File::open(&place.config.run_dir).unwrap();
    let mut seed = 11u32;
    for round in 0..200 {
        let socket = socket::connect_at(dir.as_fd(), "monitor.sock", WAIT).unwrap();
        for _ in 0..5 {
            let bytes: Vec<u8> = (0..1 + seed % 300)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 24) as u8
                })
                .collect();
            // A version that fits leads further in.
            let packet = if round % 2 == 0 {
                bytes
            } else {
                [&[1], &bytes[..]].concat()
            };
            let _ = socket::send_with_fds(socket.as_fd(), &packet, &[dir.as_fd()]);
        }
    }
    let huge = socket::connect_at(dir.as_fd(), "monitor.sock", WAIT).unwrap();
    let _ = socket::send(huge.as_fd(), &vec![1; 150_000]);
    place.until("still there", |place| {
        client::connect(&place.config.run_dir)
            .and_then(|connection| connection.status())
            .is_ok()
    });
}

#[test]
fn too_many_connections_are_refused_in_words() {
    let place = Place::new(&["/bin/sleep", "600"]).start();
    let held: Vec<_> = (0..40).filter_map(|_| place.connect().subscribe().ok()).collect();
    assert!(held.len() >= 30, "{}", held.len());
    place.until("refused", |place| {
        matches!(place.connect().status(), Err(ClientError::Refused(refusal)) if refusal.message.contains("connections"))
    });
    drop(held);
    place.until("room again", |place| place.connect().status().is_ok());
}

#[test]
fn a_slow_subscriber_learns_what_it_missed() {
    let mut health = Health::tcp(1);
    (health.interval, health.timeout) = (Span(100), Span(100));
    let place = Place::new(&["/bin/sleep", "600"])
        .with(|config| config.health = Some(health))
        .start();
    let mut events = place.connect().subscribe().unwrap();
    let asker = place.connect();
    for _ in 0..400 {
        asker.probe(WAIT).unwrap();
    }
    let mut gap = 0;
    while gap == 0 {
        if let What::Gap { lost } = events.next(Some(WAIT)).unwrap().unwrap().what {
            gap = lost;
        }
    }
    assert!(gap > 0);
}

#[test]
fn the_relay_detaches_on_keys_and_the_container_goes_on() {
    let (place, mut session) = Place::new(&["/bin/cat"]).with(|config| config.stdin = true).run();
    let (reader, writer) = std::io::pipe().unwrap();
    std::io::Write::write_all(&mut &writer, b"abc\x10\x11def").unwrap();
    let ends = Ends {
        stdin: Some(reader.as_fd()),
        detach_keys: &[16, 17],
        ..Ends::default()
    };
    assert_eq!(session.relay(&ends).unwrap(), Ended::Detached);
    drop(session);
    place.until("echo", |place| place.logs().contains("stdout P abc"));
    assert_eq!(place.judge().status, Status::Running);
}

/// A container that may use 16 MiB.
fn limited(groups: &RealGroups, script: &str) -> Place {
    Place::new(&["/bin/sh", "-c", script]).with(|config| {
        config.tree = groups.tree.clone();
        config.limits.memory = Some(Bytes(16 << 20));
        config.limits.swap = Some(Bytes(0));
    })
}

#[test]
fn a_memory_hog_is_killed_and_reported() {
    let Some(groups) = RealGroups::new() else {
        skip!("no v1 control groups, or no right to make some")
    };
    let (mut place, session) = limited(&groups, "read go; exec dd if=/dev/zero of=/dev/null bs=100M")
        .with(|config| config.stdin = true)
        .run();
    let mut events = place.connect().subscribe().unwrap();
    session.send(&ToMonitor::Stdin(b"go\n")).unwrap();
    let mut told = false;
    while let Some(event) = events.next(Some(WAIT)).unwrap() {
        match event.what {
            What::Oom { kills } => told |= kills > 0,
            What::Exited(exit) => assert!(exit.oom && exit.signal == Some(9), "{exit:?}"),
            _ => {}
        }
    }
    assert!(told, "an event tells of it");
    assert!(place.wait().oom);
    drop((place, groups));
}

#[test]
fn a_kill_inside_is_reported_while_the_container_goes_on() {
    let Some(groups) = RealGroups::new() else {
        skip!("no v1 control groups, or no right to make some")
    };
    let place = limited(
        &groups,
        "read go; dd if=/dev/zero of=/dev/null bs=100M; echo survived; sleep 600",
    );
    let (mut place, session) = place.with(|config| config.stdin = true).run();
    let mut events = place.connect().subscribe().unwrap();
    session.send(&ToMonitor::Stdin(b"go\n")).unwrap();
    let kills = loop {
        if let What::Oom { kills } = events.next(Some(WAIT)).unwrap().unwrap().what {
            break kills;
        }
    };
    assert_eq!(kills, 1);
    place.until("it goes on", |place| place.logs().contains("survived"));
    assert_eq!(place.connect().status().unwrap().oom_kills, 1);
    assert!(place.connect().stop(None, Some(0), WAIT).unwrap().oom);
    place.wait_gone();
    drop((place, groups));
}

#[test]
fn pause_freezes_and_unpause_goes_on() {
    let Some(groups) = RealGroups::new() else {
        skip!("no v1 control groups, or no right to make some")
    };
    let mut place = limited(&groups, "trap 'exit 8' TERM; while :; do echo tick; sleep 0.05; done").start();
    place.until("it ticks", |place| place.logs().contains("tick"));
    assert!(place.connect().unpause().is_err());
    place.connect().pause().unwrap();
    assert!(place.connect().pause().is_err());
    assert_eq!(place.judge().status, Status::Paused);
    std::thread::sleep(Duration::from_millis(200));
    let before = place.logs().len();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(place.logs().len(), before);
    place.connect().unpause().unwrap();
    place.until("it ticks again", |place| place.logs().len() > before);
    // A frozen one can be stopped, too.
    place.connect().pause().unwrap();
    assert_eq!(place.connect().stop(None, None, WAIT).unwrap().code, 8);
    place.wait_gone();
    drop((place, groups));
}

#[test]
fn a_signal_to_all_reaches_execs() {
    let Some(groups) = RealGroups::new() else {
        skip!("no v1 control groups, or no right to make some")
    };
    let mut place = limited(&groups, "trap '' USR1; while :; do sleep 0.1; done").start();
    let request = ExecRequest {
        args: sh("trap 'exit 12' USR1; echo up; while :; do sleep 0.05; done"),
        ..Default::default()
    };
    let mut session = place.connect().exec(request).unwrap();
    session.started(WAIT).unwrap();
    let said = session.next(Some(WAIT)).unwrap().unwrap();
    assert_eq!(said, FromMonitor::Stdout(b"up\n"));
    place.connect().signal(10, true).unwrap();
    assert_eq!(collect(&mut session, b"").unwrap().0, 12);
    place.connect().stop(None, Some(0), WAIT).unwrap();
    place.wait_gone();
    drop((place, groups));
}

#[test]
fn a_limit_that_cannot_be_enforced_is_refused_when_it_was_asked_for() {
    let mut place = Place::new(&["/bin/true"]).with(|config| {
        config.limits.memory = Some(Bytes(16 << 20));
        config.asked = vec![LimitKind::Memory];
    });
    let StartReport::Failed(refusal) = place.start_with(None) else {
        panic!("started")
    };
    assert!(refusal.code == 125 && refusal.message.contains("`memory`"), "{refusal}");
    place.wait_gone();
}

#[test]
fn what_cleans_up_keeps_the_session_until_it_is_done() {
    // An unknown verb ends at once; what matters is that the connection closes only then, and the exit comes before.
    let (mut place, mut session) = Place::new(&["/bin/false"])
        .with(|config| config.cleanup = vec!["version".into()])
        .run();
    assert_eq!(collect(&mut session, b"").unwrap().0, 1);
    session.wait_closed(WAIT).unwrap();
    place.wait_gone();
}

//! Tests of what wishes and images make together.

#![allow(clippy::unwrap_used)]
use super::*;
use crate::types::limits::{Bytes, LimitKind};

const IMAGE: &[u8] =
    br#"{"architecture":"amd64","config":{"Entrypoint":["/entry"],"Cmd":["a","b"],"Env":["PATH=/bin","X=1"],
"WorkingDir":"/srv","User":"web","StopSignal":"SIGQUIT","Labels":{"a":"1","b":"2"},"Volumes":{"/data":{}},
"ExposedPorts":{"80/tcp":{}},
"Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":10000000000,"Retries":5}}}"#;

fn image() -> ImageDefaults {
    ImageDefaults::parse(IMAGE).unwrap()
}

fn words(line: &str) -> Vec<String> {
    line.split(' ')
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn entrypoint_and_command_meet_as_in_podman() {
    for (entrypoint, command, want) in [
        (None, "", "/entry a b"),
        (None, "c", "/entry c"),
        (Some("/other"), "", "/other"),
        (Some("/other"), "c d", "/other c d"),
        (Some(""), "c", "c"),
    ] {
        let options = CreateOptions {
            entrypoint: entrypoint.map(words),
            command: words(command),
            ..CreateOptions::default()
        };
        let spec = merge(&options, &image(), &Limits::default()).unwrap();
        assert_eq!(spec.args, words(want), "{entrypoint:?} {command}");
    }
    let nothing = merge(&CreateOptions::default(), &ImageDefaults::default(), &Limits::default());
    assert_eq!(nothing, Err(OptionsError::NoCommand(String::new())));
}

#[test]
fn the_image_fills_what_nobody_said() {
    let options = CreateOptions {
        env: words("X=2 Y=3"),
        labels: BTreeMap::from([("b".to_owned(), "3".to_owned())]),
        limits: Limits {
            memory: Some(Bytes(64 << 20)),
            ..Limits::default()
        },
        ..CreateOptions::default()
    };
    let defaults = Limits {
        memory: Some(Bytes(1 << 20)),
        pids: Some(64),
        ..Limits::default()
    };
    let spec = merge(&options, &image(), &defaults).unwrap();
    assert_eq!(spec.env, words("PATH=/bin X=2 Y=3"));
    assert_eq!(
        (spec.workdir.as_str(), spec.user.as_str(), spec.stop_signal),
        ("/srv", "web", 3)
    );
    assert_eq!(
        spec.labels,
        BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "3".to_owned())])
    );
    assert_eq!(
        (spec.limits.memory, spec.limits.pids, spec.asked),
        (Some(Bytes(64 << 20)), Some(64), vec![LimitKind::Memory])
    );
    assert_eq!(spec.mounts.len(), 1);
    assert_eq!(spec.mounts[0].source, MountSource::Volume(String::new()));
    let health = spec.health.unwrap();
    assert_eq!(
        (health.exec, health.interval.ms(), health.failures),
        (Some(shell("true")), 10_000, 5)
    );
    assert_eq!(image().exposed_ports().collect::<Vec<_>>(), ["80/tcp"]);
}

#[test]
fn an_image_without_a_config_is_an_empty_one() {
    for text in [
        &br#"{}"#[..],
        br#"{"config":null}"#,
        br#"{"config":{"Cmd":null,"Labels":null}}"#,
    ] {
        assert!(ImageDefaults::parse(text).unwrap().health().is_none());
    }
    assert!(ImageDefaults::parse(b"[]").is_err());
}

#[test]
fn health_checks_are_overridden_piece_by_piece() {
    let check = |health: HealthOptions| {
        let options = CreateOptions {
            health,
            ..CreateOptions::default()
        };
        merge(&options, &image(), &Limits::default()).map(|spec| spec.health)
    };
    assert_eq!(
        check(HealthOptions {
            disable: true,
            ..HealthOptions::default()
        }),
        Ok(None)
    );
    let faster = check(HealthOptions {
        interval: Some(Span(500)),
        failures: Some(2),
        ..HealthOptions::default()
    })
    .unwrap()
    .unwrap();
    assert_eq!(
        (faster.interval.ms(), faster.failures, faster.exec),
        (500, 2, Some(shell("true")))
    );
    assert!(
        check(HealthOptions {
            failures: Some(0),
            ..HealthOptions::default()
        })
        .is_err()
    );
    let tcp = check(HealthOptions {
        check: Some(Health::tcp(80)),
        ..HealthOptions::default()
    })
    .unwrap()
    .unwrap();
    assert_eq!(tcp.tcp.map(|tcp| tcp.port), Some(80));
}

#[test]
fn impossible_wishes_are_refused_by_name() {
    let mount = |target: &str| Mount {
        source: MountSource::Tmpfs,
        target: target.into(),
        read_only: false,
        options: Vec::new(),
    };
    let with = |change: &dyn Fn(&mut CreateOptions)| {
        let mut options = CreateOptions::default();
        change(&mut options);
        merge(&options, &image(), &Limits::default()).unwrap_err().to_string()
    };
    for (text, says) in [
        (with(&|o| o.workdir = Some("x".into())), "working directory `x`"),
        (with(&|o| o.mounts = vec![mount("/a"), mount("/a/")]), "given twice"),
        (with(&|o| o.mounts = vec![mount("/a/../b")]), "mount target"),
        (with(&|o| o.mounts = vec![mount("/")]), "mount target"),
        (with(&|o| o.cap_add = words("fly")), "capability `fly`"),
        (with(&|o| o.limits.pids = Some(0)), "limit `pids`"),
        (
            with(&|o| o.env = vec![format!("X={}", "x".repeat(200_000))]),
            "longer than",
        ),
        (with(&|o| o.command = vec!["x".into(); 5000]), "5001 arguments"),
    ] {
        assert!(text.contains(says), "{text}");
    }
}

//! Tests of flags to options.

#![allow(clippy::unwrap_used)]
use super::super::args::{Parsed, Verb, parse};
use super::*;
use crate::types::container::Network;
use crate::types::container::{Mount, MountSource, Seccomp};
use crate::types::limits::{Bytes, MilliCpu};
use crate::types::network::HelperKind;

fn try_compose(line: &str) -> Result<CreateOptions, String> {
    let words: Vec<std::ffi::OsString> = format!("create {line} image")
        .split(' ')
        .filter(|word| !word.is_empty())
        .map(Into::into)
        .collect();
    match parse(words) {
        Parsed::Run(cli) => match cli.verb {
            Verb::Create(args) => compose(&args).map_err(|error| error.to_string()),
            other => panic!("{other:?}"),
        },
        other => panic!("{line}: {other:?}"),
    }
}

fn composed(line: &str) -> CreateOptions {
    try_compose(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn mount(source: MountSource, target: &str, read_only: bool, options: &[&str]) -> Mount {
    Mount {
        source,
        target: target.into(),
        read_only,
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    }
}

#[test]
fn mounts_are_read_as_podman_reads_them() {
    let bind = |path: &str| MountSource::Bind(path.into());
    let volume = |name: &str| MountSource::Volume(name.into());
    for (line, want) in [
        ("-v /a:/b", mount(bind("/a"), "/b", false, &[])),
        ("-v /a:/b:ro,z", mount(bind("/a"), "/b", true, &[])),
        ("-v data:/b:noexec", mount(volume("data"), "/b", false, &["noexec"])),
        ("-v /b", mount(volume(""), "/b", false, &[])),
        ("--mount type=bind,src=/a,dst=/b,ro", mount(bind("/a"), "/b", true, &[])),
        (
            "--mount type=volume,source=data,target=/b",
            mount(volume("data"), "/b", false, &[]),
        ),
        (
            "--mount type=tmpfs,target=/t,tmpfs-size=1m",
            mount(MountSource::Tmpfs, "/t", false, &["nosuid", "nodev", "size=1048576"]),
        ),
        (
            "--tmpfs /t",
            mount(MountSource::Tmpfs, "/t", false, &["nosuid", "nodev"]),
        ),
        (
            "--tmpfs /t:size=64k,mode=700,noexec",
            mount(
                MountSource::Tmpfs,
                "/t",
                false,
                &["nosuid", "nodev", "size=65536", "mode=700", "noexec"],
            ),
        ),
    ] {
        assert_eq!(composed(line).mounts, [want], "{line}");
    }
    let targets = |line: &str| {
        composed(line)
            .mounts
            .iter()
            .map(|mount| mount.target.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        targets("--read-only --tmpfs /tmp:size=1m"),
        ["/tmp", "/run", "/var/tmp"]
    );
    assert_eq!(targets("--read-only --read-only-tmpfs=false"), [""; 0]);
    assert_eq!(targets("--shm-size 1m"), ["/dev/shm"]);
}

#[test]
fn limits_are_read_as_podman_reads_them() {
    let limits = |line: &str| composed(line).limits;
    assert_eq!(limits("-m 64m").memory, Some(Bytes(64 << 20)));
    assert_eq!(limits("-m 64m --memory-swap 96m").swap, Some(Bytes(32 << 20)));
    assert_eq!(limits("-m 64m --memory-swap 64m").swap, Some(Bytes(0)));
    assert_eq!(limits("--memory-reservation 32m").memory_high, Some(Bytes(32 << 20)));
    assert_eq!(limits("--cpus 0.5").cpu, Some(MilliCpu(500)));
    assert_eq!(limits("--cpu-quota 50000").cpu, Some(MilliCpu(500)));
    assert_eq!(limits("--cpu-quota 50000 --cpu-period 200000").cpu, Some(MilliCpu(250)));
    assert_eq!(limits("--cpu-shares 1024").cpu_weight, Some(100));
    assert_eq!(limits("--pids-limit 7").pids, Some(7));
    assert_eq!(limits("--pids-limit -1").pids, Some(limits::PIDS_UNLIMITED));
    assert_eq!(limits("--cpuset-cpus 0-1").cpuset.as_deref(), Some("0-1"));
    let io = limits("--device-read-bps /dev/sda:1m --device-write-iops /dev/sda:100 --device-write-bps 8:0:2m").io;
    assert_eq!(
        (io["/dev/sda"].read, io["/dev/sda"].write_iops, io["8:0"].write),
        (Some(Bytes(1 << 20)), Some(100), Some(Bytes(2 << 20)))
    );
}

#[test]
fn the_rest_arrives_too() {
    let options = composed(
        "--name web --rm -it -h box -e A=1 -e HOME --label k=v --label bare --add-host db:10.0.0.1 --stop-signal QUIT --stop-timeout 3 \
         --ulimit nofile=10:20 --device /dev/null:/dev/x:r --sysctl net.core.somaxconn=7 --security-opt no-new-privileges \
         --security-opt seccomp=unconfined --network host --log-opt max-size=64k --platform linux/arm64",
    );
    assert!(options.auto_remove && options.tty && options.stdin && options.no_new_privs);
    assert_eq!(
        (options.name.as_deref(), options.hostname.as_deref()),
        (Some("web"), Some("box"))
    );
    assert!(options.env.contains(&"A=1".to_owned()) && options.env.iter().any(|entry| entry.starts_with("HOME=/")));
    assert_eq!(options.labels.get("k").map(String::as_str), Some("v"));
    assert_eq!(options.labels.get("bare").map(String::as_str), Some(""));
    assert_eq!(options.extra_hosts, [("10.0.0.1".to_owned(), "db".to_owned())]);
    assert_eq!((options.stop_signal, options.stop_timeout), (Some(3), Some(3)));
    assert_eq!(options.rlimits, [("RLIMIT_NOFILE".to_owned(), 10, 20)]);
    assert_eq!(
        (
            options.devices[0].container.as_str(),
            options.devices[0].access.as_str()
        ),
        ("/dev/x", "r")
    );
    assert_eq!(options.sysctls.get("net.core.somaxconn").map(String::as_str), Some("7"));
    assert_eq!(
        (options.seccomp, options.network),
        (Some(Seccomp::Unconfined), Some(Network::Host))
    );
    assert_eq!(options.log.unwrap().file_bytes, 65_536);
    assert_eq!(options.platform.unwrap().architecture, "arm64");
    assert_eq!(composed("--restart on-failure:3").restart, RestartPolicy::OnFailure(3));
    assert_eq!(composed("--entrypoint [\"a\",\"b\"]").entrypoint.unwrap(), ["a", "b"]);
    let health = composed("--health-cmd [\"CMD\",\"a\",\"b\"] --health-interval 5s --health-retries 2").health;
    assert_eq!(
        (
            health.check.unwrap().exec.unwrap(),
            health.interval.unwrap().ms(),
            health.failures
        ),
        (vec!["a".to_owned(), "b".to_owned()], 5000, Some(2))
    );
    let http = composed("--health-http 80/healthz").health.check.unwrap().http.unwrap();
    assert_eq!((http.port, http.path.as_str()), (80, "/healthz"));
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    for (line, says) in [
        ("-p 8080:http", "8080:80"),
        ("-p 80/sctp", "only tcp and udp"),
        ("-p 1-2:1-3", "2 ports of the host"),
        ("--network host:x", "only option"),
        ("--network container:", "container:NAME"),
        ("--network none --network host", "one mode"),
        ("--pod p --network host", "has a network"),
        ("--dns nowhere", "not an IP"),
        ("--dns-search a\tb", "one word"),
        ("--network nope", "no such network"),
        ("--privileged", "never given the host"),
        ("--userns keep-id", "user namespace"),
        ("--group-add a:b", "neither a number nor a name"),
        ("--umask 9", "octal"),
        ("--oom-score-adj -5", "only the host's root"),
        ("--tz No/Where", "no such time zone"),
        ("--log-driver journald", "k8s-file"),
        ("--restart always --rm", "--rm"),
        ("--restart sometimes", "on-failure"),
        ("-v a/b:/c", "neither a path nor a volume"),
        ("-v /a:b", "--volume `/a:b`"),
        ("-v /a:/b:nope", "`nope`"),
        ("--mount type=glob,target=/x", "`glob`"),
        ("--tmpfs x", "absolute"),
        ("-m lots", "not a size"),
        ("--memory-swap 1g", "--memory is needed"),
        ("-m 2g --memory-swap 1g", "at least --memory"),
        ("--cpus many", "processors"),
        ("--pids-limit -7", "--pids-limit"),
        ("--ulimit files=1", "no such limit"),
        ("--ulimit nofile=2:1", "above the hard"),
        ("--device dev", "absolute"),
        ("--security-opt seccomp=/nowhere", "/nowhere"),
        ("--security-opt label=type:x", "security modules"),
        ("--add-host db", "NAME:IP"),
        ("--stop-signal NOPE", "no such signal"),
        ("--log-opt max-size=1", "4k"),
        ("--env-file /nowhere", "/nowhere"),
        ("-e =x", "name is missing"),
        ("--health-interval often --health-cmd x", "duration"),
        ("--health-http x", "PORT"),
        ("--hostname a..b", "--hostname"),
    ] {
        match try_compose(line) {
            Err(text) => assert!(text.contains(says), "{line}: {text}"),
            Ok(_) => panic!("{line} was accepted"),
        }
    }
}

#[test]
fn networks_arrive_with_podmans_words() {
    let options = composed(
        "-p 8080:80 -p 127.0.0.1:53:53/udp --dns 9.9.9.9 --dns-search lan --dns-opt rotate --add-host h:host-gateway",
    );
    let ports: Vec<String> = options.wiring.ports.iter().map(ToString::to_string).collect();
    assert_eq!(ports, ["0.0.0.0:8080->80/tcp", "127.0.0.1:53->53/udp"]);
    assert_eq!(options.wiring.dns_search, ["lan"]);
    assert_eq!(options.wiring.dns_options, ["rotate"]);
    assert_eq!((options.wiring.dns.len(), options.network), (1, None));
    assert_eq!(options.extra_hosts, [("host-gateway".to_owned(), "h".to_owned())]);
    for (word, helper, loopback) in [
        ("private", None, false),
        ("bridge", None, false),
        ("pasta", Some(HelperKind::Pasta), false),
        ("pasta:--map-gw", Some(HelperKind::Pasta), true),
        ("slirp4netns:allow_host_loopback=true", Some(HelperKind::Slirp), true),
    ] {
        let options = composed(&format!("--network {word}"));
        assert_eq!(options.network, Some(Network::Private), "{word}");
        assert_eq!(
            (options.wiring.helper, options.wiring.host_loopback),
            (helper, loopback),
            "{word}"
        );
    }
    assert_eq!(composed("--network container:web").joins.as_deref(), Some("web"));
    assert_eq!(composed("--pod p").pod.as_deref(), Some("p"));
}

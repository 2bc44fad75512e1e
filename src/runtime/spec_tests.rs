//! Tests of [`super`]: golden cases.

use super::*;
use crate::types::container::{Device, Extras, LogLimits, RestartPolicy};
use crate::types::digest::Digest;
use crate::types::limits::Limits;
use crate::types::network::Wiring;
use crate::types::time::Unix;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};

pub(in super::super) fn facts() -> HostFacts {
    let extents = |first| {
        let extent = |inside, outside, count| Extent { inside, outside, count };
        vec![extent(0, first, 1), extent(1, 100_000, 65_535)]
    };
    HostFacts {
        id_map: IdMap {
            uids: extents(1000),
            gids: extents(1000),
        }
        .nested(),
        kernel: (6, 1),
        cgroup_v2: true,
        hostname: "host".to_owned(),
        hosts: String::new(),
        resolv_conf: String::new(),
        address: None,
        joins: None,
    }
}

pub(in super::super) fn record() -> ContainerRecord {
    ContainerRecord {
        id: "ab".repeat(32).parse().expect("an id"),
        name: "web".to_owned(),
        created: Unix(0),
        image: Digest::of(b"image"),
        image_name: "image".to_owned(),
        manifest: None,
        spec: ContainerSpec {
            args: vec!["/bin/true".to_owned()],
            env: vec!["A=b".to_owned()],
            workdir: "/".to_owned(),
            user: String::new(),
            hostname: String::new(),
            tty: false,
            stdin: false,
            mounts: Vec::new(),
            network: Network::None,
            read_only: false,
            limits: Limits::default(),
            asked: Vec::new(),
            capabilities: defaults::CAPABILITIES.map(str::to_owned).to_vec(),
            no_new_privs: true,
            seccomp: Seccomp::Unconfined,
            devices: Vec::new(),
            sysctls: BTreeMap::new(),
            rlimits: Vec::new(),
            extra_hosts: Vec::new(),
            stop_signal: 15,
            stop_timeout: 10,
            restart: RestartPolicy::No,
            auto_remove: false,
            health: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            log: LogLimits::default(),
        },
        not_enforced: Vec::new(),
        wiring: Wiring::default(),
        extras: Extras::default(),
    }
}

fn build_json(record: &ContainerRecord, host: &HostFacts) -> Value {
    let layout = Layout::new("/store", "/run/store");
    let spec = build(record, None, host, &layout).expect("builds");
    serde_json::to_value(spec).expect("serialises")
}

/// The mount at a destination: (type, source, options joined).
fn mount_at(json: &Value, target: &str) -> Option<(String, String, String)> {
    let mount = json["mounts"]
        .as_array()?
        .iter()
        .find(|mount| mount["destination"] == target)?;
    let text = |key: &str| mount[key].as_str().unwrap_or_default().to_owned();
    let options = mount["options"]
        .as_array()?
        .iter()
        .filter_map(Value::as_str)
        .collect::<Vec<_>>()
        .join(",");
    Some((text("type"), text("source"), options))
}

fn sorted(list: &Value) -> Vec<String> {
    let mut names: Vec<String> = list
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect();
    names.sort();
    names
}

#[test]
fn a_plain_container_is_what_podman_would_make() {
    let json = build_json(&record(), &facts());
    let bundle = format!("/run/store/c/{}/bundle", "ab".repeat(32));
    assert_eq!(json["ociVersion"], "1.0.2");
    assert_eq!(json["root"], json!({"path": "rootfs", "readonly": false}));
    assert_eq!(json["hostname"], "abababababab");
    assert_eq!(json["process"]["args"], json!(["/bin/true"]));
    assert_eq!(
        json["process"]["env"],
        json!(["A=b", defaults::PATH, "HOSTNAME=abababababab", "container=oci"])
    );
    assert_eq!(json["process"]["user"], json!({"uid": 0, "gid": 0, "umask": 18}));
    assert_eq!(json["process"]["noNewPrivileges"], true);
    let caps = &json["process"]["capabilities"];
    let mut all = defaults::CAPABILITIES.map(str::to_owned).to_vec();
    all.sort();
    for set in ["bounding", "effective", "permitted"] {
        assert_eq!(sorted(&caps[set]), all, "{set}");
    }
    for set in ["inheritable", "ambient"] {
        assert_eq!(caps[set], json!([]), "{set}");
    }
    let kinds: Vec<&Value> = json["linux"]["namespaces"]
        .as_array()
        .expect("list")
        .iter()
        .map(|n| &n["type"])
        .collect();
    assert_eq!(kinds, ["user", "mount", "pid", "ipc", "uts", "cgroup", "network"]);
    assert_eq!(
        json["linux"]["uidMappings"],
        json!([{"containerID": 0, "hostID": 0, "size": 1}, {"containerID": 1, "hostID": 1, "size": 65_535}])
    );
    assert_eq!(json["linux"]["maskedPaths"], json!(defaults::MASKED));
    assert_eq!(json["linux"]["readonlyPaths"], json!(defaults::READ_ONLY));
    assert_eq!(json["linux"]["sysctl"], json!({"net.ipv4.ping_group_range": "0 0"}));
    assert!(json["linux"].get("seccomp").is_none() && json["linux"].get("resources").is_none());
    let targets: Vec<&str> = json["mounts"]
        .as_array()
        .expect("list")
        .iter()
        .filter_map(|mount| mount["destination"].as_str())
        .collect();
    assert_eq!(
        targets,
        [
            "/proc",
            "/dev",
            "/sys",
            "/dev/mqueue",
            "/dev/shm",
            "/dev/pts",
            "/etc/hosts",
            "/etc/hostname",
            "/sys/fs/cgroup"
        ]
    );
    let hosts = ("bind".to_owned(), format!("{bundle}/hosts"), "bind,rprivate".to_owned());
    assert_eq!(mount_at(&json, "/etc/hosts"), Some(hosts));
    let options = mount_at(&json, "/dev/pts").expect("devpts").2;
    assert_eq!(options, "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5");
}

#[test]
fn the_host_decides_about_sysfs_cgroups_and_the_terminal_group() {
    let mut host = facts();
    let mut record = record();
    record.spec.network = Network::Host;
    let json = build_json(&record, &host);
    assert_eq!(
        mount_at(&json, "/sys"),
        Some((
            "bind".into(),
            "/sys".into(),
            "rbind,nosuid,noexec,nodev,rro,rprivate".into()
        ))
    );
    assert!(mount_at(&json, "/etc/resolv.conf").is_some());
    assert_eq!(json["hostname"], "host");
    assert_eq!(json["linux"]["sysctl"], json!({}));
    assert!(
        !json["linux"]["namespaces"]
            .as_array()
            .expect("list")
            .iter()
            .any(|n| n["type"] == "network")
    );
    host.cgroup_v2 = false;
    host.id_map = IdMap::single(0, 0);
    let json = build_json(&record, &host);
    assert_eq!(mount_at(&json, "/sys/fs/cgroup"), None);
    assert!(!mount_at(&json, "/dev/pts").expect("devpts").2.contains("gid=5"));
}

#[test]
fn users_decide_about_capabilities() {
    let cases: [(&str, &[&str], usize, &[&str]); 6] = [
        ("", &[], 11, &[]),
        ("root", &[], 11, &[]),
        ("0:5", &[], 11, &[]),
        ("1000", &[], 0, &[]),
        ("kim:staff", &["cap_net_raw"], 1, &["CAP_NET_RAW"]),
        ("root", &["NET_RAW"], 12, &[]),
    ];
    for (user, added, effective, ambient) in cases {
        let mut record = record();
        record.spec.user = user.to_owned();
        record.spec.capabilities.extend(added.iter().map(|&cap| cap.to_owned()));
        let caps = build_json(&record, &facts())["process"]["capabilities"].clone();
        assert_eq!(sorted(&caps["effective"]).len(), effective, "{user}");
        assert_eq!(sorted(&caps["ambient"]), ambient, "{user}");
        assert_eq!(sorted(&caps["bounding"]).len(), 11 + added.len(), "{user}");
    }
    let mut numeric = record();
    numeric.spec.user = "1000:44".to_owned();
    assert_eq!(
        build_json(&numeric, &facts())["process"]["user"],
        json!({"uid": 1000, "gid": 44, "umask": 18})
    );
}

#[test]
fn mounts_of_the_user_get_podmans_defaults_and_replace_ours() {
    let mut record = record();
    let mount = |source, target: &str, read_only, options: &[&str]| container::Mount {
        source,
        target: target.to_owned(),
        read_only,
        options: options.iter().map(|&o| o.to_owned()).collect(),
    };
    record.spec.mounts = vec![
        mount(MountSource::Bind("/srv/a".into()), "/data/deep/a", false, &[]),
        mount(MountSource::Volume("vol".into()), "/data", true, &["exec", "z"]),
        mount(MountSource::Tmpfs, "/dev/shm", false, &["size=1m", "exec"]),
        mount(
            MountSource::Bind("/srv/hosts".into()),
            "/etc/hosts",
            false,
            &["rw", "rslave", "bind"],
        ),
    ];
    record.spec.devices = vec![Device {
        host: "/dev/ttyS0".into(),
        container: "/dev/modem".into(),
        access: "rw".into(),
    }];
    let json = build_json(&record, &facts());
    let expect = [
        ("/data/deep/a", "bind", "/srv/a", "rw,rprivate,nosuid,nodev,rbind"),
        (
            "/data",
            "bind",
            "/store/volumes/vol/_data",
            "exec,z,ro,rprivate,nosuid,nodev,rbind",
        ),
        (
            "/dev/shm",
            "tmpfs",
            "tmpfs",
            "size=1m,exec,rw,rprivate,nosuid,nodev,tmpcopyup",
        ),
        ("/etc/hosts", "bind", "/srv/hosts", "rw,rslave,bind,nosuid,nodev"),
        ("/dev/modem", "bind", "/dev/ttyS0", "bind,rprivate,nosuid,noexec"),
    ];
    for (target, kind, source, options) in expect {
        let found = mount_at(&json, target).expect(target);
        assert_eq!(
            (found.0.as_str(), found.1.as_str(), found.2.as_str()),
            (kind, source, options),
            "{target}"
        );
    }
    let targets: Vec<&str> = json["mounts"]
        .as_array()
        .expect("list")
        .iter()
        .filter_map(|mount| mount["destination"].as_str())
        .collect();
    let at = |target: &str| targets.iter().position(|&t| t == target).expect("there");
    assert!(at("/data") < at("/data/deep/a") && at("/dev") < at("/dev/modem"));
    assert_eq!(targets.iter().filter(|&&t| t == "/dev/shm").count(), 1);
}

#[test]
fn the_image_leaves_annotations_and_the_user_wins() {
    let image: ImageConfiguration = serde_json::from_value(json!({
        "architecture": "arm64", "os": "linux", "author": "kim", "config": {"Labels": {"run.oci.keep": "1"}},
        "rootfs": {"type": "layers", "diff_ids": []},
    }))
    .expect("a configuration");
    let mut record = record();
    record
        .spec
        .annotations
        .insert("org.opencontainers.image.author".into(), "lee".into());
    let layout = Layout::new("/store", "/run/store");
    let spec = build(&record, Some(&image), &facts(), &layout).expect("builds");
    let found = spec.annotations.expect("annotations");
    let expected = [("architecture", "arm64"), ("author", "lee"), ("os", "linux")];
    let expected: BTreeMap<String, String> = expected
        .map(|(k, v)| (format!("org.opencontainers.image.{k}"), v.to_owned()))
        .into();
    assert_eq!(found, expected);
}

#[test]
fn the_filter_depends_on_capabilities() {
    let mut record = record();
    record.spec.seccomp = Seccomp::Default;
    let names = |record: &ContainerRecord| {
        let json = build_json(record, &facts());
        let rules = json["linux"]["seccomp"]["syscalls"].as_array().expect("rules").clone();
        let allowed = rules.iter().filter(|rule| rule["action"] == "SCMP_ACT_ALLOW");
        allowed.flat_map(|rule| sorted(&rule["names"])).collect::<HashSet<_>>()
    };
    assert!(!names(&record).contains("bpf"));
    record.spec.capabilities.push("CAP_SYS_ADMIN".to_owned());
    assert!(names(&record).contains("bpf"));
    record.spec.seccomp = Seccomp::Profile("{".to_owned());
    let layout = Layout::new("/store", "/run/store");
    assert!(matches!(
        build(&record, None, &facts(), &layout),
        Err(SpecError::Seccomp(_))
    ));
}

#[test]
fn unknown_names_are_errors() {
    let layout = Layout::new("/store", "/run/store");
    let mut odd = record();
    odd.spec.capabilities.push("CAP_FLY".to_owned());
    let error = build(&odd, None, &facts(), &layout).expect_err("unknown");
    assert_eq!(error.to_string(), "capability `CAP_FLY` is not known");
    let mut odd = record();
    odd.spec.rlimits.push(("RLIMIT_FUN".to_owned(), 1, 1));
    let error = build(&odd, None, &facts(), &layout).expect_err("unknown");
    assert_eq!(error.to_string(), "ulimit `RLIMIT_FUN` is not known");
}

#[test]
fn exec_takes_over_what_it_does_not_say() {
    let mut record = record();
    record.spec.env.push("HOME=/data".to_owned());
    let layout = Layout::new("/store", "/run/store");
    let spec = build(&record, None, &facts(), &layout).expect("builds");
    let args = ["id".to_owned()];
    let same = exec_process(&spec, &args, &[], None, None, false);
    assert_eq!(same.args.as_deref(), Some(&args[..]));
    assert_eq!(same.env, spec.process.as_ref().expect("process").env);
    let other = exec_process(&spec, &args, &["A=c".to_owned()], Some("/tmp"), Some("1000:5"), true);
    let env = other.env.clone().expect("env");
    assert!(env.contains(&"A=c".to_owned()) && !env.contains(&"A=b".to_owned()));
    assert!(env.contains(&"TERM=xterm".to_owned()) && !env.iter().any(|var| var.starts_with("HOME=")));
    assert_eq!(
        (other.user.uid, other.user.gid, other.cwd.to_str()),
        (1000, 5, Some("/tmp"))
    );
    let caps = other.capabilities.as_ref().expect("sets");
    assert_eq!(
        (
            caps.bounding.as_ref().map(Vec::len),
            caps.effective.as_ref().map(Vec::len)
        ),
        (Some(11), Some(0))
    );
    assert_eq!(other.no_new_privileges, Some(true));
}

#[test]
fn kernels_have_versions() {
    for (release, expected) in [
        ("6.1.0-13-amd64\n", (6, 1)),
        ("5.10", (5, 10)),
        ("", (0, 0)),
        ("6.18.44-x", (6, 18)),
    ] {
        assert_eq!(version(release), expected);
    }
}

#[test]
fn records_of_older_formats_are_read() {
    use crate::disk::record::Record as _;
    let plain = record();
    let mut later = plain.clone();
    later.wiring.ports = vec!["8080:80".parse().expect("a port")];
    later.extras.umask = Some(0o77);
    for (record, format) in [(&plain, 1), (&plain, 2), (&later, 2)] {
        let mut body = record.to_older().expect("the second format says it all");
        if format == 1 {
            let more = postcard::to_allocvec(&(Wiring::default(), Extras::default())).expect("short");
            body.truncate(body.len() + Extras::LATER - more.len());
        }
        assert_eq!(
            ContainerRecord::from_older(format, &body),
            Ok(record.clone()),
            "{format}"
        );
        assert!(ContainerRecord::from_older(format, &body[..body.len() - 1]).is_err());
        assert!(ContainerRecord::from_older(7, &body).is_err());
    }
    later.extras.systemd = true;
    assert_eq!(later.to_older(), None, "systemd would be lost");
}

#[test]
fn what_systemd_gives_is_added() {
    let layout = Layout::new("/store", "/run/store");
    let mut spec = build(&record(), None, &facts(), &layout).expect("builds");
    hand(
        &mut spec,
        Some(Path::new("/run/store/c/x/notify")),
        &(2, "web:admin".to_owned()),
    );
    // Twice is once.
    hand(&mut spec, None, &(2, "web:admin".to_owned()));
    let json = serde_json::to_value(spec).expect("serialises");
    let (kind, source, options) = mount_at(&json, "/run/notify").expect("is there");
    assert_eq!((kind.as_str(), source.as_str()), ("bind", "/run/store/c/x/notify"));
    assert!(options.split(',').any(|option| option == "ro"), "{options}");
    let env = sorted(&json["process"]["env"]);
    for var in [
        "LISTEN_FDNAMES=web:admin",
        "LISTEN_FDS=2",
        "LISTEN_PID=1",
        "NOTIFY_SOCKET=/run/notify/notify.sock",
    ] {
        assert_eq!(env.iter().filter(|have| *have == var).count(), 1, "{env:?}");
    }
}

#[test]
fn systemd_gets_memory_its_groups_and_a_number() {
    let mut record = record();
    record.extras.systemd = true;
    record.spec.mounts.push(container::Mount {
        source: MountSource::Bind("/host/tmp".to_owned()),
        target: "/tmp".to_owned(),
        read_only: false,
        options: Vec::new(),
    });
    let json = build_json(&record, &facts());
    for place in ["/run", "/run/lock", "/var/log/journal"] {
        assert_eq!(mount_at(&json, place).expect(place).0, "tmpfs");
    }
    assert_eq!(mount_at(&json, "/tmp").expect("is there").1, "/host/tmp");
    let groups = mount_at(&json, "/sys/fs/cgroup").expect("is there").2;
    assert!(groups.split(',').any(|option| option == "rw"), "{groups}");
    let number = format!("container_uuid={}", &record.id.hex()[..32]);
    assert!(sorted(&json["process"]["env"]).contains(&number));
}

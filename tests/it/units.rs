//! The systemd files against the layout and the binary's own words.

use std::fs;
use std::path::Path;

use dunlin::disk::layout::Layout;

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)).unwrap()
}

/// Values of `key` in a unit, in order.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines()
        .filter_map(|l| l.strip_prefix(key)?.strip_prefix('='))
        .collect()
}

#[test]
fn units_name_the_system_layout() {
    let layout = Layout::system();
    let (data, run) = (layout.data().to_str().unwrap(), layout.run().to_str().unwrap());
    for unit in ["dunlin.service", "dunlin-keeper.service"] {
        let text = read(unit);
        let start = values(&text, "ExecStart")[0];
        assert!(
            start.contains(&format!("--root {data} --runroot {run} ")),
            "{unit}: {start}"
        );
        assert_eq!(values(&text, "User"), ["dunlin"], "{unit} runs as an ordinary user");
        assert_eq!(values(&text, "Type"), ["notify"]);
    }
    let keeper = read("dunlin-keeper.service");
    assert_eq!(
        values(&keeper, "RuntimeDirectory"),
        [run.strip_prefix("/run/").unwrap()]
    );
    assert_eq!(
        values(&keeper, "StateDirectory"),
        [data.strip_prefix("/var/lib/").unwrap()]
    );
    let agent = read("dunlin.service");
    assert_eq!(values(&agent, "ReadWritePaths"), [format!("{data} {run}")]);
    let tmpfiles = read("tmpfiles.d/dunlin.conf");
    for dir in [data, run, "/etc/dunlin/apps"] {
        assert!(
            tmpfiles.lines().any(|l| l.split_whitespace().nth(1) == Some(dir)),
            "{dir}"
        );
    }
    assert!(read("sysusers.d/dunlin.conf").contains(data));
}

#[test]
fn the_keeper_gets_its_tree_and_the_agent_gets_nothing() {
    let keeper = read("dunlin-keeper.service");
    let delegated = values(&keeper, "Delegate")[0];
    for controller in ["cpu", "memory", "pids", "io", "cpuset"] {
        assert!(delegated.split(' ').any(|c| c == controller), "{controller}");
    }
    // Only the keeper is asked to end, and ends its containers itself.
    assert_eq!(values(&keeper, "KillMode"), ["mixed"]);
    // More would end newuidmap, or change what containers see.
    assert_eq!(
        values(&keeper, "CapabilityBoundingSet"),
        ["CAP_DAC_OVERRIDE CAP_SETGID CAP_SETUID CAP_SYS_ADMIN"]
    );
    for key in [
        "NoNewPrivileges",
        "SystemCallFilter",
        "ProtectSystem",
        "PrivateDevices",
        "RestrictNamespaces",
    ] {
        assert!(values(&keeper, key).is_empty(), "{key}");
    }
    let agent = read("dunlin.service");
    for (key, value) in [
        ("CapabilityBoundingSet", ""),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("RestrictNamespaces", "yes"),
    ] {
        assert_eq!(values(&agent, key), [value], "{key}");
    }
    assert!(!values(&agent, "WatchdogSec").is_empty());
    // What its decoders need to shut themselves in is in no group of calls that systemd 252 knows.
    let filters = values(&agent, "SystemCallFilter").join(" ");
    for call in [
        "seccomp",
        "landlock_create_ruleset",
        "landlock_add_rule",
        "landlock_restrict_self",
    ] {
        assert!(filters.split(' ').any(|word| word == call), "{call}");
    }
    let after: Vec<&str> = ["After", "Wants", "Requires"]
        .iter()
        .flat_map(|key| values(&agent, key))
        .collect();
    assert!(
        !after.join(" ").contains("network"),
        "what is on disk starts without a network: {after:?}"
    );
}

//! config.md: who the process is: ids, groups, umask, capabilities, no new privileges.

use super::case::{Case, Checks, probe, scene};
use super::scene::{SETS, Scene};
use super::seen::Seen;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;

const STATUS: &str = "cat /proc/self/status";

pub const CASES: &[Case] = &[
    probe(
        "user",
        |config, _| config["process"]["user"] = json!({ "uid": 1234, "gid": 2345, "additionalGids": [5, 10, 70000] }),
        "id=$(id -u); echo \"uid=$id\"; echo \"gid=$(id -g)\"; echo \"groups=$(id -G)\"; cat /proc/self/status
         echo \"write=$(touch /file 2>/dev/null && echo yes || echo no)\"",
        |seen, checks| {
            checks.is("uid", seen.get("uid"), "1234");
            checks.is("gid", seen.get("gid"), "2345");
            checks.is("all four user ids", seen.get("Uid"), "1234\t1234\t1234\t1234");
            checks.is("all four group ids", seen.get("Gid"), "2345\t2345\t2345\t2345");
            let mut groups: Vec<u32> = seen
                .get("Groups")
                .split(' ')
                .filter_map(|group| group.parse().ok())
                .collect();
            groups.retain(|&group| group != 2345);
            checks.is("additional groups", groups, vec![5, 10, 70000]);
            checks.is("permissions are the user's", seen.get("write"), "no");
            checks.is(
                "effective capabilities are gone",
                seen.get("CapEff"),
                "0000000000000000",
            );
            checks.is(
                "permitted capabilities are gone",
                seen.get("CapPrm"),
                "0000000000000000",
            );
        },
    ),
    probe(
        "no additional groups",
        |_, _| {},
        STATUS,
        |seen, checks| {
            let groups: Vec<&str> = seen
                .get("Groups")
                .split_whitespace()
                .filter(|&group| group != "0")
                .collect();
            checks.holds("the caller's do not come along", groups.is_empty(), groups);
        },
    ),
    probe(
        "umask",
        |config, _| config["process"]["user"]["umask"] = json!(0o027),
        "echo \"umask=$(umask)\"; touch /tmp/file; echo \"mode=$(stat -c %a /tmp/file)\"",
        |seen, checks| {
            checks.is("it is set", seen.get("umask"), "0027");
            checks.is("it works", seen.get("mode"), "640");
        },
    ),
    probe(
        "no umask",
        |_, _| {},
        "echo \"umask=$(umask)\"",
        |seen, checks| {
            checks.is("it is 0022", seen.get("umask"), "0022");
        },
    ),
    probe(
        "capabilities of root",
        |_, _| {},
        STATUS,
        |seen, checks| {
            let expected = bits(&[0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 27, 31]);
            caps(seen, checks, [&expected, &expected, &expected, &bits(&[]), &bits(&[])]);
        },
    ),
    probe(
        "five different sets",
        |config, _| {
            config["process"]["capabilities"] = json!({
                "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SETUID", "CAP_SYS_CHROOT"],
                "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
                "effective": ["CAP_CHOWN", "CAP_NET_RAW"],
                "inheritable": ["CAP_KILL", "CAP_NET_RAW"],
                "ambient": ["CAP_NET_RAW"],
            });
            config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
        },
        "cat /proc/1/status",
        |seen, checks| {
            // Through execve: an ordinary user keeps what is ambient.
            let (bounding, raw) = (bits(&[0, 5, 7, 13, 18]), bits(&[13]));
            caps(seen, checks, [&bounding, &raw, &raw, &bits(&[5, 13]), &raw]);
        },
    ),
    probe(
        "ambient capabilities of a user",
        |config, _| {
            for set in SETS {
                config["process"]["capabilities"][set] = json!(["CAP_NET_BIND_SERVICE", "CAP_SYS_ADMIN"]);
            }
            config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
        },
        "cat /proc/self/status; hostname changed; echo \"host=$(hostname)\"",
        |seen, checks| {
            let all = bits(&[10, 21]);
            caps(seen, checks, [&all; 5]);
            checks.is("they work", seen.get("host"), "changed");
        },
    ),
    probe(
        "no capabilities",
        |config, _| config["process"]["capabilities"] = json!({}),
        "cat /proc/self/status; echo \"chown=$(chown 5 /tmp 2>/dev/null && echo yes || echo no)\"",
        |seen, checks| {
            let none = bits(&[]);
            caps(seen, checks, [&none; 5]);
            checks.is("root may not chown", seen.get("chown"), "no");
        },
    ),
    scene("unknown capability", unknown_capability),
    probe(
        "noNewPrivileges",
        |config, bundle| {
            set_user_id(config, bundle);
            config["process"]["noNewPrivileges"] = json!(true);
        },
        "cat /proc/self/status; echo \"gained=$(/suid/busybox su nobody-known 2>&1 </dev/null)\"",
        |seen, checks| {
            checks.is("it is set", seen.get("NoNewPrivs"), "1");
            checks.has("set-user-id programs gain nothing", seen.get("gained"), "must be suid");
        },
    ),
    probe(
        "noNewPrivileges unset",
        set_user_id,
        "cat /proc/self/status; echo \"gained=$(/suid/busybox su nobody-known 2>&1 </dev/null)\"",
        |seen, checks| {
            checks.is("it is not set", seen.get("NoNewPrivs"), "0");
            checks.has("set-user-id programs gain", seen.get("gained"), "unknown user");
        },
    ),
];

/// A mask as /proc/PID/status prints it.
pub fn bits(numbers: &[u32]) -> String {
    format!("{:016x}", numbers.iter().fold(0_u64, |mask, number| mask | 1 << number))
}

fn caps(seen: &Seen, checks: &Checks, expected: [&String; 5]) {
    let lines = ["CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb"];
    for ((set, line), expected) in SETS.iter().zip(lines).zip(expected) {
        checks.is(set, seen.get(line), expected.as_str());
    }
}

/// A copy of busybox that is set-user-id root, and a container of an ordinary user. Its `su` says so when that is in vain.
fn set_user_id(config: &mut Value, bundle: &std::path::Path) {
    fs::create_dir(bundle.join("rootfs/suid")).unwrap();
    let tool = bundle.join("rootfs/suid/busybox");
    crate::fixture::cmd::copy_program(bundle.join("rootfs/bin/busybox"), &tool);
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o4755)).unwrap();
    config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
}

/// runc warns and goes on, as the specification allows for what the kernel does not know.
fn unknown_capability(scene: &mut Scene<'_>, checks: &Checks) {
    scene.config["process"]["capabilities"]["bounding"] = json!(["CAP_CHOWN", "CAP_COLOUR"]);
    scene.config["process"]["capabilities"]["effective"] = json!(["CAP_CHOWN"]);
    scene.config["process"]["capabilities"]["permitted"] = json!(["CAP_CHOWN"]);
    let out = scene.run("grep CapBnd /proc/self/status");
    checks.is(
        "it is left out",
        Seen::new(&out.stdout).get("CapBnd"),
        bits(&[0]).as_str(),
    );
    checks.has("and named", &out.stderr, "CAP_COLOUR");
}

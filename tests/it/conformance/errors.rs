//! Configurations that must be refused, and what a refusal leaves behind: nothing.

use super::case::{Case, Checks, scene};
use super::scene::{Scene, must, namespace};
use serde_json::{Value, json};
use std::fs;

pub const CASES: &[Case] = &[
    scene("refused configurations", refused),
    scene("unreadable bundles", unreadable),
    scene("programs that cannot run", programs),
];

/// Name, and what makes the configuration wrong.
type Wrong = (&'static str, fn(&mut Value));

const WRONG: &[Wrong] = &[
    ("no such rootfs", |config| config["root"]["path"] = json!("nowhere")),
    ("root is a file", |config| config["root"]["path"] = json!("config.json")),
    ("no root", |config| drop(config.as_object_mut().unwrap().remove("root"))),
    ("no args", |config| {
        drop(config["process"].as_object_mut().unwrap().remove("args"))
    }),
    ("empty args", |config| config["process"]["args"] = json!([])),
    ("no process", |config| {
        drop(config.as_object_mut().unwrap().remove("process"))
    }),
    ("cwd is relative", |config| config["process"]["cwd"] = json!("tmp")),
    ("cwd is missing", |config| {
        drop(config["process"].as_object_mut().unwrap().remove("cwd"))
    }),
    ("unknown namespace", |config| namespace(config, "colour", None)),
    ("a namespace twice", |config| {
        config["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({ "type": "pid" }));
    }),
    ("a namespace's path leads nowhere", |config| {
        namespace(config, "network", Some("/nowhere/net".as_ref()))
    }),
    ("a namespace of another type", |config| {
        namespace(config, "network", Some("/proc/self/ns/uts".as_ref()))
    }),
    ("hostname without a namespace", |config| {
        super::scene::without_namespace(config, "uts")
    }),
    ("unknown rlimit", |config| {
        config["process"]["rlimits"] = json!([{ "type": "RLIMIT_COLOUR", "soft": 1, "hard": 1 }]);
    }),
    ("an rlimit twice", |config| {
        let limit = json!({ "type": "RLIMIT_NOFILE", "soft": 64, "hard": 64 });
        config["process"]["rlimits"] = json!([limit, limit]);
    }),
    ("soft limit above the hard one", |config| {
        config["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 65, "hard": 64 }]);
    }),
    ("bind mount of nothing", |config| {
        super::scene::mount(config, "/mnt", "bind", "/nowhere/at/all", &["bind"]);
    }),
    ("unknown file system", |config| {
        super::scene::mount(config, "/mnt", "colourfs", "none", &[])
    }),
    ("unknown sysctl", |config| {
        config["linux"]["sysctl"] = json!({ "net.ipv4.colour": "1" })
    }),
    ("sysctl of the whole machine", |config| {
        config["linux"]["sysctl"] = json!({ "vm.swappiness": "60" })
    }),
    ("sysctl of a namespace that is not new", |config| {
        super::scene::without_namespace(config, "network");
        config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1" });
    }),
    ("unknown seccomp action", |config| {
        config["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_COLOUR" })
    }),
    ("unknown seccomp operator", |config| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["chmod"], "action": "SCMP_ACT_ERRNO",
                           "args": [{ "index": 0, "value": 1, "op": "SCMP_CMP_COLOUR" }] }],
        });
    }),
    ("unknown seccomp architecture", |config| {
        config["linux"]["seccomp"] =
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_COLOUR"] });
    }),
    ("unknown rootfs propagation", |config| {
        config["linux"]["rootfsPropagation"] = json!("colour")
    }),
    ("unknown type of device", |config| {
        config["linux"]["devices"] = json!([{ "type": "x", "path": "/dev/x", "major": 1, "minor": 3 }]);
    }),
    ("unknown personality", |config| {
        config["linux"]["personality"] = json!({ "domain": "COLOUR" })
    }),
    ("a field of the wrong type", |config| {
        config["process"]["args"] = json!("sh")
    }),
    ("hooks are no list", |config| {
        config["hooks"] = json!({ "prestart": { "path": "/bin/true" } })
    }),
    ("environment is no list", |config| {
        config["process"]["env"] = json!({ "A": "b" })
    }),
];

fn refused(scene: &mut Scene<'_>, checks: &Checks) {
    scene.script("echo ran");
    let good = scene.config.clone();
    for (name, wrong) in WRONG {
        wrong(&mut scene.config);
        checks.fails(name, &scene.create());
        must(scene.delete());
        scene.config = good.clone();
    }
    checks.is("no program ran", scene.output(), "");
    let groups: Vec<_> = scene.cgroups_left();
    checks.holds("no control group is left", groups.is_empty(), groups);
    checks.works("the id is still free", &scene.create());
}

fn unreadable(scene: &mut Scene<'_>, checks: &Checks) {
    let path = scene.folder().join("config.json");
    for (name, text) in [
        ("invalid JSON", "{ \"ociVersion\": "),
        ("an empty file", ""),
        ("a list", "[]"),
    ] {
        fs::write(&path, text).unwrap();
        checks.fails(name, &scene.launch("create", &scene.id, &[]));
        must(scene.delete());
    }
    fs::remove_file(&path).unwrap();
    checks.fails("no config.json", &scene.launch("create", &scene.id, &[]));
    checks.fails(
        "no such bundle",
        &scene.call(&["create", "--bundle", "/nowhere/bundle", &scene.id]),
    );
    let out = scene.call(&["state", &scene.id]);
    checks.fails("no container was made", &out);
}

/// A program that is not there is an error of `create` or of `start`; callers see either.
fn programs(scene: &mut Scene<'_>, checks: &Checks) {
    fs::write(scene.rootfs().join("plain"), "no program").unwrap();
    for (name, program) in [
        ("not found by its path", "/bin/no-such-program"),
        ("not found in PATH", "no-such-program"),
        ("a folder", "/bin"),
        ("not executable", "/plain"),
    ] {
        scene.config["process"]["args"] = json!([program]);
        let out = scene.run_with(&[]);
        checks.fails(name, &out);
        checks.has(&format!("{name}: the message names it"), &out.stderr, program);
        must(scene.delete());
    }
}

//! config.md: hooks of all six kinds; runtime.md: when they run.

use super::case::{Case, Checks, scene};
use super::scene::{Scene, must};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub const CASES: &[Case] = &[
    scene("hooks", hooks),
    scene("hooks: details", details),
    scene("hooks that fail", failing),
    scene("hooks that take too long", slow),
    scene("hooks refused", refused),
];

const KINDS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// Appends a line to the log that the container and the machine share, and keeps the state.
const HOOK: &str = "#!/bin/busybox sh
kind=$1; log=$2
read -r state
busybox cat >>$log/rest
echo \"$state\" >$log/state-$kind
{ echo \"mnt=$(busybox readlink /proc/self/ns/mnt)\"; echo \"net=$(busybox readlink /proc/self/ns/net)\"
  echo \"pid=$(busybox readlink /proc/self/ns/pid)\"; echo \"uts=$(busybox readlink /proc/self/ns/uts)\"; echo \"cwd=$(pwd)\"; } >$log/place-$kind
test $kind = startContainer && busybox sleep 0.3
echo $kind >>$log/order
";

/// The shared folder, at the same path inside and outside, and a hook of each kind.
fn prepare(scene: &mut Scene<'_>) -> PathBuf {
    let log = scene.beside("log");
    fs::create_dir(&log).unwrap();
    fs::set_permissions(&log, fs::Permissions::from_mode(0o777)).unwrap();
    let hook = log.join("hook");
    fs::write(&hook, HOOK).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let at = log.to_str().unwrap().to_owned();
    super::scene::mount(&mut scene.config, &at, "bind", &log, &["bind"]);
    for kind in KINDS {
        scene.config["hooks"][kind] = json!([
            { "path": hook, "args": ["hook", kind, at], "env": ["PATH=/usr/bin:/bin", "COLOUR=blue"] },
        ]);
    }
    log
}

fn read(log: &std::path::Path, name: &str) -> String {
    fs::read_to_string(log.join(name)).unwrap_or_default()
}

fn order(log: &std::path::Path) -> Vec<String> {
    read(log, "order").lines().map(str::to_owned).collect()
}

fn hooks(scene: &mut Scene<'_>, checks: &Checks) {
    let log = prepare(scene);
    scene.script(&format!("echo program >>{}/order; sleep 1000", log.display()));
    scene.created();
    checks.is(
        "at create, in order",
        order(&log),
        ["prestart", "createRuntime", "createContainer"]
            .map(str::to_owned)
            .to_vec(),
    );
    let pid = scene.pid();
    must(scene.start());
    super::scene::until(|| order(&log).len() == 6);
    let started = order(&log);
    let at = |name: &str| started.iter().position(|line| line == name);
    checks.holds(
        "startContainer comes before the program",
        at("startContainer") < at("program"),
        &started,
    );
    checks.holds(
        "poststart comes after startContainer",
        at("startContainer") < at("poststart"),
        &started,
    );
    let inside = |kind: &str| {
        fs::read_link(format!("/proc/{pid}/ns/{kind}"))
            .unwrap()
            .to_string_lossy()
            .into_owned()
    };
    let (mnt, net) = (inside("mnt"), inside("net"));
    must(scene.call(&["kill", &scene.id, "KILL"]));
    scene.awaits("stopped");
    checks.holds(
        "poststop does not come before delete",
        !order(&log).contains(&"poststop".to_owned()),
        order(&log),
    );
    must(scene.call(&["delete", &scene.id]));
    checks.is(
        "poststop comes at delete",
        order(&log).last().cloned(),
        Some("poststop".to_owned()),
    );
    checks.is("each runs once", order(&log).len(), 7);
    let statuses = [
        ("prestart", vec!["creating", "created"]),
        ("createRuntime", vec!["creating", "created"]),
        ("createContainer", vec!["creating", "created"]),
        ("startContainer", vec!["created", "running"]),
        ("poststart", vec!["running"]),
        ("poststop", vec!["stopped"]),
    ];
    for (kind, allowed) in statuses {
        let state: Value = serde_json::from_str(&read(&log, &format!("state-{kind}"))).unwrap_or_default();
        checks.is(&format!("{kind}: id"), state["id"].as_str(), Some(scene.id.as_str()));
        checks.is(
            &format!("{kind}: bundle"),
            state["bundle"].as_str(),
            scene.folder().to_str(),
        );
        checks.holds(
            &format!("{kind}: version"),
            state["ociVersion"].as_str().is_some_and(|text| text.starts_with("1.")),
            &state,
        );
        checks.is(
            &format!("{kind}: annotations"),
            &state["annotations"],
            &scene.config["annotations"],
        );
        let status = state["status"].as_str().unwrap_or_default();
        checks.holds(&format!("{kind}: status"), allowed.contains(&status), status);
        if !["poststop", "startContainer", "createContainer"].contains(&kind) {
            checks.is(&format!("{kind}: pid"), state["pid"].as_u64(), Some(pid));
        }
        let place: BTreeMap<String, String> = read(&log, &format!("place-{kind}"))
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let container = ["createContainer", "startContainer"].contains(&kind);
        let found = place.get("net").cloned().unwrap_or_default();
        checks.is(
            &format!(
                "{kind}: runs in the {} namespaces",
                if container { "container's" } else { "runtime's" }
            ),
            found == net,
            container,
        );
        if container {
            checks.is(&format!("{kind}: mount namespace"), place.get("mnt"), Some(&mnt));
        }
    }
}

fn script(scene: &Scene<'_>, name: &str, text: &str) -> PathBuf {
    let path = scene.beside(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn details(scene: &mut Scene<'_>, checks: &Checks) {
    let out = scene.beside("said").to_string_lossy().into_owned();
    let text = format!(
        "cat >/dev/null; echo \"$0|$1|$2|$#\" >>{out}; env | grep -v -E '^(PWD|_|SHLVL|OLDPWD)=' >>{out}; echo --- >>{out}"
    );
    let path = script(scene, "hook", &text);
    scene.config["hooks"]["createRuntime"] = json!([
        { "path": path, "args": ["zero", "one two", ""], "env": ["A=1", "B=2 3"] },
        { "path": path, "args": ["zero", "second"] },
        { "path": path },
    ]);
    scene.script("true");
    // The second and third have no environment, and so no PATH: the shell has one of its own.
    checks.is("the container runs", scene.run_with(&[]).code, 0);
    let said = fs::read_to_string(&out).unwrap_or_default();
    let parts: Vec<&str> = said.split("---\n").collect();
    let part = |at: usize| parts.get(at).copied().unwrap_or_default();
    checks.has("args", part(0), "|one two||2\n");
    let mut env: Vec<&str> = part(0).lines().skip(1).collect();
    env.sort_unstable();
    checks.is("env is what is listed", env, vec!["A=1", "B=2 3"]);
    checks.has("the second comes second", part(1), "|second||1\n");
    checks.has("without args", part(2), "|||0\n");
    checks.is("without env, the caller's or none", part(2).contains("A=1"), false);
}

fn failing(scene: &mut Scene<'_>, checks: &Checks) {
    let ran = scene.beside("ran");
    let bad = script(scene, "bad", "cat >/dev/null; echo complaint >&2; exit 3");
    let good = script(scene, "good", &format!("cat >/dev/null; echo ran >>{}", ran.display()));
    scene.script("echo program; sleep 100");
    for kind in ["prestart", "createRuntime", "createContainer"] {
        scene.config["hooks"] = json!({ kind: [{ "path": bad }, { "path": good }] });
        checks.fails(&format!("{kind}: create fails"), &scene.create());
        checks.fails(
            &format!("{kind}: no container is left"),
            &scene.call(&["state", &scene.id]),
        );
        checks.holds(&format!("{kind}: later hooks do not run"), !ran.exists(), &ran);
        must(scene.delete());
    }
    let inside = scene.rootfs().join("bin/bad");
    fs::write(&inside, "#!/bin/sh\nexit 3\n").unwrap();
    fs::set_permissions(&inside, fs::Permissions::from_mode(0o755)).unwrap();
    scene.config["hooks"] = json!({ "startContainer": [{ "path": "/bin/bad" }] });
    scene.created();
    scene.start();
    let status = scene.awaits("stopped");
    checks.holds(
        "startContainer: the container is stopped or gone",
        status == "stopped" || status.starts_with("exit"),
        status,
    );
    checks.holds(
        "startContainer: the program does not run",
        !scene.output().contains("program"),
        scene.output(),
    );
    must(scene.delete());
    scene.config["hooks"] = json!({ "poststop": [{ "path": bad }, { "path": good }] });
    scene.created();
    scene.delete();
    checks.fails(
        "poststop: the container is gone all the same",
        &scene.call(&["state", &scene.id]),
    );
    checks.holds("poststop: later hooks run", ran.exists(), &ran);
    fs::remove_file(&ran).unwrap_or_default();
    scene.config["hooks"] = json!({ "createRuntime": [{ "path": "/nowhere/hook" }] });
    checks.fails("a hook that is not there", &scene.create());
}

fn slow(scene: &mut Scene<'_>, checks: &Checks) {
    let slow = script(scene, "slow", "exec sleep 77");
    scene.config["hooks"] = json!({ "createRuntime": [{ "path": slow, "timeout": 1 }] });
    scene.script("echo program");
    let begun = Instant::now();
    checks.fails("create fails", &scene.create());
    let took = begun.elapsed();
    checks.holds(
        "at the time-out",
        (Duration::from_millis(900)..Duration::from_secs(10)).contains(&took),
        took,
    );
    checks.fails("no container is left", &scene.call(&["state", &scene.id]));
}

fn refused(scene: &mut Scene<'_>, checks: &Checks) {
    scene.config["hooks"] = json!({ "createRuntime": [{ "path": "bin/true" }] });
    checks.fails("a relative path", &scene.create());
    must(scene.delete());
    scene.config["hooks"] =
        json!({ "createRuntime": [{ "path": "/bin/sleep", "args": ["sleep", "1"], "timeout": 0 }] });
    checks.fails("a time-out of nothing", &scene.create());
    must(scene.delete());
    scene.config["hooks"] = json!({ "createRuntime": [{ "args": ["true"] }] });
    checks.fails("no path", &scene.create());
    must(scene.delete());
    scene.config["hooks"] = json!({ "createRuntime": [], "poststop": [] });
    scene.script("echo works");
    checks.is("empty lists", scene.run_with(&[]).stdout.as_str(), "works\n");
}

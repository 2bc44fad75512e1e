//! runtime.md: state, create, start, kill, delete.

use super::case::{Case, Checks, scene};
use super::scene::{Scene, must};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::time::Duration;

pub const CASES: &[Case] = &[
    scene("state", state),
    scene("create", create),
    scene("start", start),
    scene("kill", kill),
    scene("kill by name", kill_by_name),
    scene("delete", delete),
    scene("delete of a created container", delete_created),
    scene("ids", ids),
    scene("pid file", pid_file),
    scene("run", run),
    scene("run detached", run_detached),
    scene("create that fails late", fails_late),
    scene("many at once", many),
];

fn alive(pid: u64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

fn state(scene: &mut Scene<'_>, checks: &Checks) {
    scene.script("while :; do sleep 1; done");
    scene.created();
    let created = scene.state();
    let version = created["ociVersion"].as_str().unwrap_or_default().to_owned();
    let numbers = version
        .split(['.', '-'])
        .take(3)
        .all(|part| part.parse::<u32>().is_ok());
    checks.holds(
        "ociVersion is a semantic version",
        version.split('.').count() >= 3 && numbers,
        &version,
    );
    checks.is("id", created["id"].as_str(), Some(&*scene.id));
    checks.is("created: status", created["status"].as_str(), Some("created"));
    let pid = created["pid"].as_u64().unwrap_or(0);
    checks.holds("created: the pid lives", pid > 1 && alive(pid), pid);
    checks.is(
        "bundle is an absolute path",
        created["bundle"].as_str().map(Path::new),
        Some(scene.folder()),
    );
    checks.is("annotations", &created["annotations"], &scene.config["annotations"]);
    must(scene.start());
    let running = scene.state();
    checks.is("running: status", running["status"].as_str(), Some("running"));
    checks.is("running: the pid stays", running["pid"].as_u64(), Some(pid));
    checks.is("running: the bundle stays", &running["bundle"], &created["bundle"]);
    must(scene.call(&["kill", &scene.id, "KILL"]));
    checks.is("stopped: status", scene.awaits("stopped"), "stopped");
    let stopped = scene.state();
    checks.is("stopped: no pid", stopped["pid"].as_u64().unwrap_or(0), 0);
    checks.is(
        "stopped: annotations stay",
        &stopped["annotations"],
        &scene.config["annotations"],
    );
    checks.fails("of an unknown container", &scene.call(&["state", "no-such-container"]));
    checks.fails("without an id", &scene.call(&["state"]));
}

fn create(scene: &mut Scene<'_>, checks: &Checks) {
    scene.script("echo first >/marker; echo said; sleep 100");
    checks.works("works", &scene.create());
    std::thread::sleep(Duration::from_millis(200));
    let marker = scene.rootfs().join("marker");
    checks.holds("nothing of the program runs", !marker.exists(), scene.output());
    checks.is("nothing is said", scene.output(), "");
    let pid = scene.pid();
    let differs = |kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap() != own(kind);
    let all = ["pid", "net", "ipc", "uts", "mnt"].into_iter().all(differs);
    checks.holds("the namespaces are there", all, pid);
    let procs = scene.limit("pids", "cgroup.procs");
    checks.has(
        "the control group holds the process",
        &format!("\n{procs}\n"),
        &format!("\n{pid}\n"),
    );
    scene.script("echo second >/marker; sleep 100");
    scene.write_config();
    must(scene.start());
    scene.says("said");
    let written = fs::read_to_string(&marker).unwrap_or_default();
    checks.is("later changes of config.json have no effect", written.trim(), "first");
}

fn own(kind: &str) -> std::path::PathBuf {
    fs::read_link(format!("/proc/self/ns/{kind}")).unwrap()
}

fn start(scene: &mut Scene<'_>, checks: &Checks) {
    checks.fails("of an unknown container", &scene.call(&["start", "no-such-container"]));
    checks.fails("without an id", &scene.call(&["start"]));
    scene.started("echo begun; while :; do sleep 0.1; done");
    scene.says("begun");
    let pid = scene.pid();
    checks.fails("of a running container", &scene.start());
    checks.is(
        "of a running container has no effect",
        (scene.status(), scene.pid()),
        ("running".to_owned(), pid),
    );
    checks.is("the program runs once", scene.output(), "begun\n");
    must(scene.call(&["kill", &scene.id, "KILL"]));
    scene.awaits("stopped");
    checks.fails("of a stopped container", &scene.start());
    checks.is("of a stopped container has no effect", scene.status(), "stopped");
}

fn kill(scene: &mut Scene<'_>, checks: &Checks) {
    checks.fails(
        "of an unknown container",
        &scene.call(&["kill", "no-such-container", "KILL"]),
    );
    scene.started("trap 'echo term; exit' TERM; echo ready; while :; do sleep 0.05; done");
    scene.says("ready");
    checks.fails(
        "with an unknown signal",
        &scene.call(&["kill", &scene.id, "SIGNONSENSE"]),
    );
    checks.is("an unknown signal does nothing", scene.status(), "running");
    checks.works("without a signal", &scene.call(&["kill", &scene.id]));
    checks.has("without a signal it is SIGTERM", &scene.says("term"), "term");
    checks.is("the ended container is stopped", scene.awaits("stopped"), "stopped");
    checks.fails("of a stopped container", &scene.call(&["kill", &scene.id, "KILL"]));
    scene.end();
    scene.script("echo never");
    scene.created();
    checks.works("of a created container", &scene.call(&["kill", &scene.id, "KILL"]));
    checks.is("of a created container stops it", scene.awaits("stopped"), "stopped");
    checks.holds(
        "of a created container: the program never ran",
        !scene.output().contains("never"),
        scene.output(),
    );
}

fn kill_by_name(scene: &mut Scene<'_>, checks: &Checks) {
    let traps: Vec<String> = ["HUP", "USR1", "USR2", "WINCH", "TERM", "CONT"]
        .iter()
        .map(|name| format!("trap 'echo got {name}' {name}"))
        .collect();
    scene.started(&format!(
        "{}; echo ready; while :; do sleep 0.05; done",
        traps.join("; ")
    ));
    scene.says("ready");
    let sent = [
        ("HUP", "HUP"),
        ("SIGUSR1", "USR1"),
        ("12", "USR2"),
        ("sigwinch", "WINCH"),
        ("term", "TERM"),
        ("18", "CONT"),
    ];
    for (signal, name) in sent {
        let out = scene.call(&["kill", &scene.id, signal]);
        let heard = scene.says_within(&format!("got {name}\n"), Duration::from_secs(2));
        checks.holds(
            &format!("`{signal}`"),
            out.code == 0 && heard.contains(&format!("got {name}\n")),
            (out, heard),
        );
    }
    checks.is("the container still runs", scene.status(), "running");
}

fn delete(scene: &mut Scene<'_>, checks: &Checks) {
    checks.fails("of an unknown container", &scene.call(&["delete", "no-such-container"]));
    checks.works(
        "of an unknown container by force",
        &scene.call(&["delete", "--force", "no-such-container"]),
    );
    scene.started("while :; do sleep 1; done");
    let pid = scene.pid();
    checks.fails("of a running container", &scene.call(&["delete", &scene.id]));
    checks.is(
        "of a running container has no effect",
        (scene.status(), alive(pid)),
        ("running".to_owned(), true),
    );
    must(scene.call(&["kill", &scene.id, "KILL"]));
    scene.awaits("stopped");
    checks.works("of a stopped container", &scene.call(&["delete", &scene.id]));
    checks.fails("the container is gone", &scene.call(&["state", &scene.id]));
    checks.is(
        "no control group is left",
        scene.cgroups_left(),
        Vec::<std::path::PathBuf>::new(),
    );
    checks.holds(
        "the root file system stays",
        scene.rootfs().join("bin/busybox").exists(),
        scene.rootfs(),
    );
    let left = fs::read_dir(scene.beside("state"))
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    let left: Vec<_> = left.filter(|path| path.to_string_lossy().contains(&scene.id)).collect();
    checks.holds("no state is left", left.is_empty(), left);
    checks.works("the id can be used again", &scene.create());
    must(scene.start());
    let again = scene.pid();
    checks.works("by force", &scene.delete());
    checks.holds(
        "by force: the process is gone",
        super::scene::until(|| !alive(again)),
        again,
    );
    checks.fails("by force: the container is gone", &scene.call(&["state", &scene.id]));
}

/// The text of the specification refuses this, runc's callers expect it: one or the other, and wholly.
fn delete_created(scene: &mut Scene<'_>, checks: &Checks) {
    scene.script("echo never");
    scene.created();
    let pid = scene.pid();
    let out = scene.call(&["delete", &scene.id]);
    let gone = scene.call(&["state", &scene.id]).code != 0 && super::scene::until(|| !alive(pid));
    checks.is("it is gone or refused", gone, out.code == 0);
    checks.is("the program never ran", scene.output(), "");
}

fn ids(scene: &mut Scene<'_>, checks: &Checks) {
    scene.started("while :; do sleep 1; done");
    let pid = scene.pid();
    checks.fails("a second container of the same id", &scene.create());
    checks.is(
        "the first one is as it was",
        (scene.status(), scene.pid()),
        ("running".to_owned(), pid),
    );
    for (name, id) in [
        ("empty", ""),
        ("slash", "a/b"),
        ("parent", ".."),
        ("space", "a b"),
        ("absolute", "/x"),
    ] {
        checks.fails(name, &scene.create_as(id, &[]));
    }
    let other = "A.b_c-1+x";
    scene.config["linux"]["cgroupsPath"] = json!(format!("/{}/other", scene.id));
    checks.works(
        "letters, digits, dot, underscore, dash, plus",
        &scene.create_as(other, &[]),
    );
    let out = scene.call(&["state", other]);
    checks.has("two containers at a time", &out.stdout, "\"created\"");
}

fn pid_file(scene: &mut Scene<'_>, checks: &Checks) {
    scene.script("sleep 100");
    let path = scene.beside("pid");
    let text = path.to_string_lossy().into_owned();
    must(scene.create_as(&scene.id, &["--pid-file", &text]));
    checks.is(
        "it holds the pid, and nothing else",
        fs::read_to_string(&path).unwrap_or_default(),
        scene.pid().to_string(),
    );
    scene.end();
    fs::remove_file(&path).unwrap_or_default();
    must(scene.launch("run", &scene.id, &["--detach", "--pid-file", &text]));
    checks.is(
        "of run",
        fs::read_to_string(&path).unwrap_or_default(),
        scene.pid().to_string(),
    );
}

fn run(scene: &mut Scene<'_>, checks: &Checks) {
    for (script, code) in [
        ("true", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -KILL $$", 137),
        ("nothing-like-it", 127),
    ] {
        // As the first process of a pid namespace, a shell cannot kill itself.
        let inner = format!("/bin/sh -c '{script}'; exit $?");
        checks.is(&format!("exit code of `{script}`"), scene.run(&inner).code, code);
    }
    let out = scene.run("echo to stdout; echo to stderr >&2");
    checks.is("stdout", out.stdout.as_str(), "to stdout\n");
    checks.is("stderr", out.stderr.as_str(), "to stderr\n");
    checks.fails(
        "the container is gone after its end",
        &scene.call(&["state", &scene.id]),
    );
    scene.write_config();
    scene.script("cat");
    scene.write_config();
    let out = scene
        .runtime()
        .args(["run", "--bundle"])
        .arg(scene.folder())
        .arg(&scene.id)
        .stdin("from stdin\n")
        .run();
    checks.is("stdin", out.stdout.as_str(), "from stdin\n");
    let out = scene
        .runtime()
        .args(["run", &scene.id])
        .dir(scene.folder())
        .stdin("x")
        .run();
    checks.is("the bundle is the current folder by default", out.stdout.as_str(), "x");
    scene.script("trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done");
    scene.write_config();
    let mut cmd = scene
        .runtime()
        .args(["run", "--bundle"])
        .arg(scene.folder())
        .arg(&scene.id)
        .start();
    cmd.wait_for("ready", Duration::from_secs(10));
    must(scene.call(&["kill", &scene.id, "TERM"]));
    let status = cmd.wait(Duration::from_secs(10));
    checks.is("exit code of a container that was told to end", status.code(), Some(9));
}

fn run_detached(scene: &mut Scene<'_>, checks: &Checks) {
    scene.script("echo begun; while :; do sleep 1; done");
    scene.write_config();
    checks.works("works", &scene.launch("run", &scene.id, &["--detach"]));
    checks.is("the container runs", scene.status(), "running");
    checks.is("its output", scene.says("begun\n"), "begun\n");
    let parent = fs::read_to_string(format!("/proc/{}/status", scene.pid())).unwrap();
    let parent = parent
        .lines()
        .find_map(|line| line.strip_prefix("PPid:\t"))
        .unwrap()
        .to_owned();
    let line = fs::read_to_string(format!("/proc/{parent}/cmdline")).unwrap_or_default();
    checks.holds("no process of the runtime stays", !line.contains(&scene.id), line);
}

/// What `create` had made before its error is taken back.
fn fails_late(scene: &mut Scene<'_>, checks: &Checks) {
    scene.script("echo ran");
    let source = scene.beside("no-such-source");
    super::scene::mount(&mut scene.config, "/mnt", "bind", &source, &["bind"]);
    checks.fails("it fails", &scene.create());
    checks.is(
        "no control group is left",
        scene.cgroups_left(),
        Vec::<std::path::PathBuf>::new(),
    );
    let left: Vec<_> = fs::read_dir(scene.beside("state"))
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    let left: Vec<_> = left
        .into_iter()
        .filter(|path| path.to_string_lossy().ends_with(&scene.id))
        .collect();
    checks.holds("no state is left", left.is_empty(), left);
    fs::create_dir(&source).unwrap();
    checks.works("the same bundle works once the reason is gone", &scene.create());
}

/// Commands of different containers do not stand in each other's way.
fn many(scene: &mut Scene<'_>, checks: &Checks) {
    scene.script("exit 0");
    scene.config["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    scene.write_config();
    let names: Vec<String> = (0..6).map(|number| format!("{}-many{number}", scene.id)).collect();
    let codes: Vec<i32> = std::thread::scope(|scope| {
        let threads: Vec<_> = names
            .iter()
            .map(|name| {
                let cmd = scene.runtime().args(["run", "--bundle"]).arg(scene.folder()).arg(name);
                scope.spawn(move || cmd.run().code)
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    checks.is("all run", codes, vec![0; 6]);
    checks.is("none is left", scene.call(&["list", "--quiet"]).stdout.as_str(), "");
}

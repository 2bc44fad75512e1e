//! `exec`: a further process of a running container, as runc has it.

use super::case::{Case, Checks, scene};
use super::identity::bits;
use super::scene::{Scene, must, until};
use super::seen::Seen;
use serde_json::json;
use std::fs;

pub const CASES: &[Case] = &[
    scene("exec", exec),
    scene("exec: place", place),
    scene("exec: options", options),
    scene("exec: process file", process_file),
    scene("exec: detached", detached),
    scene("exec: refusals", refusals),
    scene("exec: seccomp", seccomp),
];

const WAITS: &str = "while :; do sleep 1; done";

fn exec(scene: &mut Scene<'_>, checks: &Checks) {
    scene.started(WAITS);
    let out = scene.exec(&[], "echo out; echo err >&2; exit 5");
    checks.is("exit code", out.code, 5);
    checks.is("stdout", out.stdout.as_str(), "out\n");
    checks.is("stderr", out.stderr.as_str(), "err\n");
    checks.is(
        "exit code of a killed program",
        scene.exec(&[], "kill -KILL $$").code,
        137,
    );
    checks.is("exit code 0", scene.exec(&[], "true").code, 0);
    let cat = scene
        .runtime()
        .args(["exec", &scene.id, "/bin/busybox", "cat"])
        .stdin("typed")
        .run();
    checks.is("stdin", cat.stdout.as_str(), "typed");
    let out = scene.call(&["exec", &scene.id, "busybox", "echo", "found in PATH"]);
    checks.is("PATH is the container's", out.stdout.as_str(), "found in PATH\n");
    checks.is("the container still runs", scene.status(), "running");
}

fn place(scene: &mut Scene<'_>, checks: &Checks) {
    scene.started(WAITS);
    let pid = scene.pid();
    let out = scene.exec(
        &[],
        "for n in pid net ipc uts mnt user cgroup; do echo $n=$(readlink /proc/self/ns/$n); done
        cat /proc/self/status; echo root=$(ls / | tr '\\n' ' '); cat /proc/self/cgroup | sed 's/[0-9]*:/cg-/; s/:/=/'",
    );
    let seen = Seen::new(&out.stdout);
    for kind in ["pid", "net", "ipc", "uts", "mnt", "user", "cgroup"] {
        let link = fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        checks.is(&format!("{kind} namespace"), seen.get(kind), link.to_str().unwrap());
    }
    let expected = bits(&[0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 27, 31]);
    checks.is("bounding capabilities", seen.get("CapBnd"), expected.as_str());
    checks.is("effective capabilities", seen.get("CapEff"), expected.as_str());
    checks.has(
        "the root is the container's",
        seen.get("root"),
        "bin dev etc proc sys tmp",
    );
    for controller in ["memory", "pids", "freezer", "devices"] {
        let group = seen.get(&format!("cg-{controller}"));
        checks.is(&format!("{controller} group"), group, format!("/{}", scene.id).as_str());
    }
}

fn options(scene: &mut Scene<'_>, checks: &Checks) {
    scene.started(WAITS);
    let say = "echo pwd=$(pwd); echo a=$A; echo b=$B; echo uid=$(id -u); echo gid=$(id -g); cat /proc/self/status";
    let plain = Seen::new(&scene.exec(&[], say).stdout);
    checks.is("the container's cwd", plain.get("pwd"), "/");
    checks.is("the container's user", plain.get("uid"), "0");
    checks.is("no new privileges are not forbidden", plain.get("NoNewPrivs"), "0");
    let seen = Seen::new(
        &scene
            .exec(&["--cwd", "/tmp", "--env", "A=1", "--env", "B=two words"], say)
            .stdout,
    );
    checks.is("--cwd", seen.get("pwd"), "/tmp");
    checks.is("--env", seen.get("a"), "1");
    checks.is("--env again", seen.get("b"), "two words");
    let seen = Seen::new(&scene.exec(&["-e", "A=short"], say).stdout);
    checks.is("-e", seen.get("a"), "short");
    let seen = Seen::new(&scene.exec(&["--user", "1000:2000"], say).stdout);
    checks.is("--user: uid", seen.get("uid"), "1000");
    checks.is("--user: gid", seen.get("gid"), "2000");
    checks.is(
        "--user: no effective capabilities",
        seen.get("CapEff"),
        bits(&[]).as_str(),
    );
    let seen = Seen::new(&scene.exec(&["--user", "1000"], say).stdout);
    checks.is("--user without a group", seen.get("uid"), "1000");
    let seen = Seen::new(
        &scene
            .exec(&["--additional-gids", "7", "--additional-gids", "8"], say)
            .stdout,
    );
    checks.has("--additional-gids", seen.get("Groups"), "7 8");
    let seen = Seen::new(&scene.exec(&["--no-new-privs"], say).stdout);
    checks.is("--no-new-privs", seen.get("NoNewPrivs"), "1");
    let seen = Seen::new(&scene.exec(&["--cap", "CAP_NET_RAW"], say).stdout);
    let with_raw = bits(&[0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 31]);
    checks.is("--cap: bounding", seen.get("CapBnd"), with_raw.as_str());
    checks.is("--cap: effective", seen.get("CapEff"), with_raw.as_str());
    let open = "exec 3<\"$BESIDE/three\"; exec \"$@\" >\"$OUT\" 2>\"$ERR\" </dev/null";
    fs::write(scene.beside("three"), "third").unwrap();
    let args = [
        "exec",
        "--preserve-fds",
        "1",
        &scene.id,
        "/bin/sh",
        "-c",
        "read x <&3; echo $x",
    ];
    scene.call_through(open, &args);
    checks.has("--preserve-fds", &scene.output(), "third");
}

fn process_file(scene: &mut Scene<'_>, checks: &Checks) {
    scene.started(WAITS);
    let mut process = scene.config["process"].clone();
    process["args"] = json!([
        "/bin/sh",
        "-c",
        "pwd; id -u; id -g; umask; echo $A; grep 'Max processes' /proc/self/limits; exit 3"
    ]);
    process["cwd"] = json!("/tmp");
    process["user"] = json!({ "uid": 7, "gid": 8, "umask": 0o077 });
    process["env"] = json!(["PATH=/bin", "A=from the file"]);
    process["rlimits"] = json!([{ "type": "RLIMIT_NPROC", "soft": 55, "hard": 66 }]);
    let path = scene.beside("process.json");
    fs::write(&path, process.to_string()).unwrap();
    let out = scene.call(&["exec", "--process", path.to_str().unwrap(), &scene.id]);
    checks.is("exit code", out.code, 3);
    let lines: Vec<&str> = out.stdout.lines().collect();
    let line = |at: usize| lines.get(at).copied().unwrap_or_default();
    checks.is("cwd", line(0), "/tmp");
    checks.is("user", (line(1), line(2)), ("7", "8"));
    checks.is("umask", line(3), "0077");
    checks.is("env", line(4), "from the file");
    let limits: Vec<&str> = line(5).split_whitespace().skip(2).take(2).collect();
    checks.is("rlimits", limits, vec!["55", "66"]);
    fs::write(&path, "{").unwrap();
    checks.fails(
        "a broken file",
        &scene.call(&["exec", "--process", path.to_str().unwrap(), &scene.id]),
    );
}

fn detached(scene: &mut Scene<'_>, checks: &Checks) {
    scene.started(WAITS);
    let path = scene.beside("exec-pid");
    let args = [
        "exec",
        "--detach",
        "--pid-file",
        path.to_str().unwrap(),
        &scene.id,
        "/bin/sh",
        "-c",
        "echo in; sleep 77",
    ];
    checks.works(
        "works",
        &scene.call_through("exec \"$@\" >>\"$OUT\" 2>\"$ERR\" </dev/null", &args),
    );
    let pid = fs::read_to_string(&path).unwrap_or_default();
    checks.holds("the pid file holds a number", pid.parse::<u32>().is_ok(), &pid);
    let link = fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap_or_default();
    checks.is(
        "the pid is of a process of the container",
        link,
        fs::read_link(format!("/proc/{}/ns/pid", scene.pid())).unwrap(),
    );
    checks.has("it runs", &scene.says("in\n"), "in\n");
    let procs = scene.limit("pids", "cgroup.procs");
    checks.holds(
        "it is in the container's group",
        procs.lines().any(|line| line == pid),
        procs,
    );
    must(scene.delete());
    let gone = until(|| !std::path::Path::new(&format!("/proc/{pid}/cwd/.")).exists());
    checks.holds("it ends with the container", gone, pid);
}

fn refusals(scene: &mut Scene<'_>, checks: &Checks) {
    checks.fails(
        "unknown container",
        &scene.call(&["exec", "no-such-container", "/bin/sh"]),
    );
    scene.started(WAITS);
    for (name, program) in [("not there", "/bin/no-such"), ("not in PATH", "no-such")] {
        let out = scene.call(&["exec", &scene.id, program]);
        checks.holds(name, out.code != 0 && out.stderr.contains(program), out);
    }
    let out = scene.call(&["exec", &scene.id]);
    checks.holds("no program", out.code != 0, out);
    let out = scene.exec(&["--cwd", "relative"], "true");
    checks.holds("a relative cwd", out.code != 0, out);
    let out = scene.exec(&["--user", "nobody-by-name"], "true");
    checks.holds("a user by name", out.code != 0, out);
    must(scene.call(&["kill", &scene.id, "KILL"]));
    scene.awaits("stopped");
    checks.fails("stopped container", &scene.exec(&[], "true"));
}

fn seccomp(scene: &mut Scene<'_>, checks: &Checks) {
    scene.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["chmod", "fchmodat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 }],
    });
    scene.started(WAITS);
    let out = scene.exec(&[], "touch /tmp/x; chmod 700 /tmp/x; grep Seccomp: /proc/self/status");
    checks.has("the filter is the container's", &out.stderr, "not implemented");
    checks.has("the mode", &out.stdout, "2");
}

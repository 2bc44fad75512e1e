//! config-linux.md: control groups (v1 here; v2 is the micro machines'): limits written and changed, pause, events.

use super::case::{Case, Checks, scene};
use super::scene::{Scene, must, until};
use super::verbs::parsed;
use crate::fixture::skip;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

pub const CASES: &[Case] = &[
    scene("limits", limits),
    scene("limits that bite", bite),
    scene("update", update),
    scene("pause", pause),
    scene("events", events),
    scene("kill --all", kill_all),
    scene("pids without a limit", no_pids_limit),
    scene("cgroups path", path),
    scene("no cgroups path", no_path),
];

/// Whether the controllers are v1's; says so when not.
fn v1() -> bool {
    let there = Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists();
    if !there {
        skip::note("control groups are not v1's here");
    }
    there
}

const WAITS: &str = "while :; do sleep 1; done";

fn limits(scene: &mut Scene<'_>, checks: &Checks) {
    if !v1() {
        return;
    }
    scene.config["linux"]["resources"] = json!({
        "memory": { "limit": 67_108_864, "reservation": 33_554_432, "swappiness": 10 },
        "cpu": { "shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0", "mems": "0" },
        "pids": { "limit": 40 },
        "blockIO": { "weight": 500 },
    });
    if !Path::new("/sys/fs/cgroup/blkio/blkio.weight").exists()
        && !Path::new("/sys/fs/cgroup/blkio/blkio.bfq.weight").exists()
    {
        scene.config["linux"]["resources"]
            .as_object_mut()
            .unwrap()
            .remove("blockIO");
    }
    scene.started(WAITS);
    for (controller, file, value) in [
        ("memory", "memory.limit_in_bytes", "67108864"),
        ("memory", "memory.soft_limit_in_bytes", "33554432"),
        ("memory", "memory.swappiness", "10"),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
        ("cpu", "cpu.cfs_period_us", "100000"),
        ("cpuset", "cpuset.cpus", "0"),
        ("cpuset", "cpuset.mems", "0"),
        ("pids", "pids.max", "40"),
    ] {
        checks.is(file, scene.limit(controller, file).as_str(), value);
    }
    let pid = scene.pid().to_string();
    for controller in ["memory", "cpu", "cpuset", "pids", "freezer", "devices"] {
        let procs = scene.limit(controller, "cgroup.procs");
        checks.holds(
            &format!("{controller} holds the process"),
            procs.lines().any(|line| line == pid),
            procs,
        );
    }
    must(scene.delete());
    checks.is(
        "the groups go with the container",
        scene.cgroups_left(),
        Vec::<std::path::PathBuf>::new(),
    );
    scene.config["linux"]["resources"] = json!({ "memory": { "limit": -1 } });
    scene.started(WAITS);
    let unlimited = scene
        .limit("memory", "memory.limit_in_bytes")
        .parse::<u64>()
        .unwrap_or(0);
    checks.holds("memory -1 is no limit", unlimited > 1 << 50, unlimited);
}

fn bite(scene: &mut Scene<'_>, checks: &Checks) {
    scene.config["linux"]["resources"] = json!({ "pids": { "limit": 5 } });
    let out = scene.run(
        "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done 2>/tmp/said; ls /proc | grep -c '^[0-9]'; kill -KILL -1; true",
    );
    checks.holds(
        "no more processes than allowed",
        !out.stdout.starts_with(['6', '7', '8', '9']),
        &out,
    );
    scene.config["linux"]["resources"] = json!({ "memory": { "limit": 16_777_216, "swap": 16_777_216 } });
    if scene.limit("memory", "../memory.memsw.limit_in_bytes").contains(':') {
        scene.config["linux"]["resources"]["memory"]
            .as_object_mut()
            .unwrap()
            .remove("swap");
    }
    let out = scene.run("/bin/sh -c 'x=0123456789abcdef; while :; do x=$x$x; done'; echo code=$?");
    checks.has("no more memory than allowed", &out.stdout, "code=137");
}

fn update(scene: &mut Scene<'_>, checks: &Checks) {
    if !v1() {
        return;
    }
    scene.config["linux"]["resources"] = json!({ "memory": { "limit": 67_108_864 }, "pids": { "limit": 40 } });
    scene.started(WAITS);
    checks.works("--memory", &scene.call(&["update", "--memory", "134217728", &scene.id]));
    checks.is(
        "--memory is written",
        scene.limit("memory", "memory.limit_in_bytes").as_str(),
        "134217728",
    );
    checks.works(
        "--pids-limit",
        &scene.call(&["update", "--pids-limit", "50", &scene.id]),
    );
    checks.is(
        "--pids-limit is written",
        scene.limit("pids", "pids.max").as_str(),
        "50",
    );
    checks.is(
        "the others stay",
        scene.limit("memory", "memory.limit_in_bytes").as_str(),
        "134217728",
    );
    let out = scene.call(&[
        "update",
        "--cpu-share",
        "300",
        "--cpu-quota",
        "20000",
        "--cpu-period",
        "50000",
        &scene.id,
    ]);
    checks.works("--cpu-share, --cpu-quota, --cpu-period", &out);
    checks.is(
        "--cpu-share is written",
        scene.limit("cpu", "cpu.shares").as_str(),
        "300",
    );
    checks.is(
        "--cpu-quota is written",
        scene.limit("cpu", "cpu.cfs_quota_us").as_str(),
        "20000",
    );
    checks.is(
        "--cpu-period is written",
        scene.limit("cpu", "cpu.cfs_period_us").as_str(),
        "50000",
    );
    let path = scene.beside("resources.json");
    fs::write(
        &path,
        json!({ "memory": { "limit": 100_663_296 }, "cpu": { "shares": 600 }, "pids": { "limit": 60 } }).to_string(),
    )
    .unwrap();
    checks.works(
        "--resources",
        &scene.call(&["update", "--resources", path.to_str().unwrap(), &scene.id]),
    );
    checks.is(
        "--resources: memory",
        scene.limit("memory", "memory.limit_in_bytes").as_str(),
        "100663296",
    );
    checks.is("--resources: cpu", scene.limit("cpu", "cpu.shares").as_str(), "600");
    checks.is("--resources: pids", scene.limit("pids", "pids.max").as_str(), "60");
    let stdin = json!({ "pids": { "limit": 70 } }).to_string();
    let out = scene
        .runtime()
        .args(["update", "--resources", "-", &scene.id])
        .stdin(stdin)
        .run();
    checks.works("--resources from stdin", &out);
    checks.is(
        "--resources from stdin: pids",
        scene.limit("pids", "pids.max").as_str(),
        "70",
    );
    checks.is("the container still runs", scene.status(), "running");
    fs::write(&path, "{").unwrap();
    checks.fails(
        "a broken file",
        &scene.call(&["update", "--resources", path.to_str().unwrap(), &scene.id]),
    );
    checks.fails(
        "an unknown container",
        &scene.call(&["update", "--memory", "1", "no-such-container"]),
    );
}

fn pause(scene: &mut Scene<'_>, checks: &Checks) {
    if !v1() {
        return;
    }
    checks.fails("of an unknown container", &scene.call(&["pause", "no-such-container"]));
    scene.started("i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done");
    until(|| scene.output().lines().count() > 2);
    checks.works("pause", &scene.call(&["pause", &scene.id]));
    checks.is("status", scene.status(), "paused");
    checks.is(
        "the freezer",
        scene.limit("freezer", "freezer.state").as_str(),
        "FROZEN",
    );
    let before = scene.output().len();
    std::thread::sleep(std::time::Duration::from_millis(200));
    checks.is("nothing goes on", scene.output().len(), before);
    let out = scene.exec(&[], "true");
    checks.holds("exec is refused", out.code != 0, out);
    checks.fails("delete is refused", &scene.call(&["delete", &scene.id]));
    checks.works("resume", &scene.call(&["resume", &scene.id]));
    checks.is("status after resume", scene.status(), "running");
    checks.holds("it goes on", until(|| scene.output().len() > before), scene.output());
    let out = scene.call(&["resume", &scene.id]);
    checks.fails("resume of what runs", &out);
    must(scene.call(&["pause", &scene.id]));
    checks.works("delete --force of a paused container", &scene.delete());
    checks.fails("and it is gone", &scene.call(&["state", &scene.id]));
    scene.script("true");
    scene.created();
    must(scene.start());
    scene.awaits("stopped");
    checks.fails("of a stopped container", &scene.call(&["pause", &scene.id]));
}

fn events(scene: &mut Scene<'_>, checks: &Checks) {
    checks.fails(
        "of an unknown container",
        &scene.call(&["events", "--stats", "no-such-container"]),
    );
    scene.config["linux"]["resources"] = json!({ "memory": { "limit": 67_108_864 }, "pids": { "limit": 40 } });
    scene.started(WAITS);
    let out = scene.call(&["events", "--stats", &scene.id]);
    checks.works("--stats", &out);
    if out.code != 0 {
        return;
    }
    let stats = parsed(&out);
    checks.is("type", stats["type"].as_str(), Some("stats"));
    checks.is("id", stats["id"].as_str(), Some(scene.id.as_str()));
    let data: &Value = &stats["data"];
    let number = |pointer: &str| data.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    checks.holds(
        "memory usage",
        number("/memory/usage/usage") > 0,
        &data["memory"]["usage"],
    );
    checks.is("memory limit", number("/memory/usage/limit"), 67_108_864);
    checks.holds("processes", number("/pids/current") >= 1, &data["pids"]);
    checks.is("limit of processes", number("/pids/limit"), 40);
    checks.holds("time on the processor", number("/cpu/usage/total") > 0, &data["cpu"]);
}

fn kill_all(scene: &mut Scene<'_>, checks: &Checks) {
    super::scene::without_namespace(&mut scene.config, "pid");
    scene.started("sleep 1000 & sleep 1001 & echo ready; wait");
    scene.says("ready");
    until(|| scene.limit("pids", "cgroup.procs").lines().count() == 3);
    checks.works("works", &scene.call(&["kill", "--all", &scene.id, "KILL"]));
    checks.is("the container is stopped", scene.awaits("stopped"), "stopped");
    let gone = until(|| scene.limit("pids", "cgroup.procs").is_empty());
    checks.holds("no process is left", gone, scene.limit("pids", "cgroup.procs"));
    checks.works("delete", &scene.call(&["delete", &scene.id]));
}

fn path(scene: &mut Scene<'_>, checks: &Checks) {
    let deep = format!("/{}/deep/er", scene.id);
    scene.config["linux"]["cgroupsPath"] = json!(deep);
    scene.started(WAITS);
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", scene.pid())).unwrap();
    for controller in ["memory", "pids", "devices", "freezer"] {
        checks.holds(
            &format!("{controller}: an absolute path"),
            groups
                .lines()
                .any(|line| line.ends_with(&format!(":{controller}:{deep}"))),
            &groups,
        );
    }
    must(scene.delete());
    let left = scene.cgroup("memory").join("deep/er").exists();
    checks.is("it goes with the container", left, false);
}

fn no_path(scene: &mut Scene<'_>, checks: &Checks) {
    scene.config["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    checks.works("works", &scene.create());
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", scene.pid())).unwrap();
    checks.has("the container has a group of its own", &groups, &scene.id);
    must(scene.delete());
    let name = &scene.id;
    let left = |folder: &Path| folder.join(name).exists();
    checks.holds(
        "it goes with the container",
        !left(Path::new("/sys/fs/cgroup/memory")),
        name,
    );
}

/// As runc's callers ask for it.
fn no_pids_limit(scene: &mut Scene<'_>, checks: &Checks) {
    scene.config["linux"]["resources"] = json!({ "pids": { "limit": -1 } });
    scene.started(WAITS);
    checks.is("-1 is none", scene.limit("pids", "pids.max").as_str(), "max");
}

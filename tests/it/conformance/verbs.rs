//! The commands beside the life cycle, as runc has them: list, ps, spec, features, logs, versions.

use super::case::{Case, Checks, scene};
use super::scene::{Scene, must};
use crate::fixture::cmd::Out;
use serde_json::{Value, json};
use std::fs;

pub const CASES: &[Case] = &[
    scene("list", list),
    scene("ps", ps),
    scene("spec", spec),
    scene("features", features),
    scene("help", help),
    scene("log", log),
    scene("versions", versions),
    scene("further options", further_options),
    scene("preserve-fds", preserve_fds),
    scene("descriptors", descriptors),
];

pub fn parsed(out: &Out) -> Value {
    serde_json::from_str(&out.stdout).unwrap_or_default()
}

fn list(scene: &mut Scene<'_>, checks: &Checks) {
    let empty = scene.call(&["list", "--quiet"]);
    checks.is(
        "quiet, without containers",
        (empty.code, empty.stdout.as_str()),
        (0, ""),
    );
    scene.started("while :; do sleep 1; done");
    let quiet = scene.call(&["list", "--quiet"]);
    checks.is("quiet", quiet.stdout.trim(), scene.id.as_str());
    let table = scene.call(&["list"]).stdout;
    let heads: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    checks.is(
        "the table's columns",
        &heads[..heads.len().min(5)],
        &["ID", "PID", "STATUS", "BUNDLE", "CREATED"][..],
    );
    let row: Vec<&str> = table.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    let pid = scene.pid().to_string();
    let expected = [scene.id.as_str(), &pid, "running", scene.folder().to_str().unwrap()];
    checks.is("the table's row", &row[..row.len().min(4)], &expected[..]);
    let json = parsed(&scene.call(&["list", "--format", "json"]));
    checks.is("json: one container", json.as_array().map(Vec::len), Some(1));
    checks.is("json: id", json[0]["id"].as_str(), Some(scene.id.as_str()));
    checks.is("json: pid", json[0]["pid"].as_u64(), Some(scene.pid()));
    checks.is("json: status", json[0]["status"].as_str(), Some("running"));
    checks.is("json: bundle", json[0]["bundle"].as_str(), scene.folder().to_str());
}

fn ps(scene: &mut Scene<'_>, checks: &Checks) {
    scene.started("sleep 1000 & sleep 1001; true");
    super::scene::until(|| scene.limit("pids", "cgroup.procs").lines().count() == 3);
    let pids: Vec<u64> = scene
        .limit("pids", "cgroup.procs")
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    let mut seen: Vec<u64> =
        serde_json::from_value(parsed(&scene.call(&["ps", "--format", "json", &scene.id]))).unwrap_or_default();
    seen.sort_unstable();
    checks.is("json", &seen, &pids);
    checks.is("three processes", pids.len(), 3);
    let table = scene.call(&["ps", &scene.id]).stdout;
    checks.has("table: the init process", &table, &scene.pid().to_string());
    checks.has("table: the columns", table.lines().next().unwrap_or_default(), "PID");
    checks.fails("of an unknown container", &scene.call(&["ps", "no-such-container"]));
}

fn spec(scene: &mut Scene<'_>, checks: &Checks) {
    let folder = scene.beside("spec");
    fs::create_dir(&folder).unwrap();
    let run = |rest: &[&str]| scene.runtime().arg("spec").args(rest).dir(&folder).run();
    checks.works("works", &run(&[]));
    let text = fs::read_to_string(folder.join("config.json")).unwrap_or_default();
    let config: Value = serde_json::from_str(&text).unwrap_or_default();
    checks.is("root", &config["root"]["path"], &json!("rootfs"));
    checks.is("args", &config["process"]["args"], &json!(["sh"]));
    checks.is("cwd", &config["process"]["cwd"], &json!("/"));
    checks.holds(
        "version",
        config["ociVersion"].as_str().is_some_and(|text| text.starts_with("1.")),
        &config["ociVersion"],
    );
    let kinds = |config: &Value| -> Vec<String> {
        let spaces = config["linux"]["namespaces"].as_array().cloned().unwrap_or_default();
        spaces
            .iter()
            .filter_map(|space| space["type"].as_str().map(str::to_owned))
            .collect()
    };
    checks.holds(
        "a mount namespace",
        kinds(&config).contains(&"mount".to_owned()),
        kinds(&config),
    );
    let again = run(&[]);
    checks.holds("an existing file is not overwritten", again.code != 0, again);
    fs::remove_file(folder.join("config.json")).unwrap();
    checks.works("--rootless", &run(&["--rootless"]));
    let text = fs::read_to_string(folder.join("config.json")).unwrap_or_default();
    let rootless: Value = serde_json::from_str(&text).unwrap_or_default();
    checks.holds(
        "--rootless: a user namespace",
        kinds(&rootless).contains(&"user".to_owned()),
        kinds(&rootless),
    );
    checks.holds(
        "--rootless: mappings",
        rootless["linux"]["uidMappings"].is_array(),
        &rootless["linux"]["uidMappings"],
    );
    let bundle = folder.to_str().unwrap();
    fs::remove_file(folder.join("config.json")).unwrap();
    checks.works("--bundle", &scene.call(&["spec", "--bundle", bundle]));
    checks.holds(
        "--bundle: the file is there",
        folder.join("config.json").exists(),
        bundle,
    );
    fs::rename(folder.join("config.json"), scene.folder().join("config.json")).unwrap();
    scene.config = serde_json::from_str(&fs::read_to_string(scene.folder().join("config.json")).unwrap()).unwrap();
    scene.config["process"]["terminal"] = json!(false);
    let out = scene.run("echo works");
    checks.is("the template runs", out.stdout.as_str(), "works\n");
}

fn features(scene: &mut Scene<'_>, checks: &Checks) {
    let out = scene.call(&["features"]);
    checks.works("works", &out);
    if out.code != 0 {
        return;
    }
    let features = parsed(&out);
    checks.holds(
        "versions",
        features["ociVersionMin"].is_string() && features["ociVersionMax"].is_string(),
        &features,
    );
    let hooks: Vec<&str> = features["hooks"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let all = [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
        "poststop",
    ];
    checks.is("hooks", hooks, all.to_vec());
    let contains = |list: &Value, word: &str| list.as_array().is_some_and(|words| words.contains(&json!(word)));
    checks.holds(
        "mount options",
        contains(&features["mountOptions"], "rbind"),
        &features["mountOptions"],
    );
    checks.holds(
        "namespaces",
        contains(&features["linux"]["namespaces"], "pid"),
        &features["linux"]["namespaces"],
    );
    checks.holds(
        "capabilities",
        contains(&features["linux"]["capabilities"], "CAP_CHOWN"),
        &features["linux"],
    );
    checks.is("seccomp", &features["linux"]["seccomp"]["enabled"], &json!(true));
    let actions = &features["linux"]["seccomp"]["actions"];
    checks.holds("seccomp's actions", contains(actions, "SCMP_ACT_ERRNO"), actions);
    checks.is("cgroup v1", &features["linux"]["cgroup"]["v1"], &json!(true));
}

fn help(scene: &mut Scene<'_>, checks: &Checks) {
    let out = scene.call(&["--version"]);
    checks.works("--version", &out);
    checks.has("--version: the specification's version", &out.stdout, "spec: 1.");
    let out = scene.call(&["--help"]);
    for verb in [
        "create", "start", "state", "kill", "delete", "run", "exec", "ps", "list", "update", "pause", "resume",
    ] {
        checks.has(&format!("--help names {verb}"), &out.stdout, verb);
    }
    let out = scene.call(&["no-such-command"]);
    checks.holds("an unknown command is an error", out.code != 0, out);
    let out = scene.call(&["state", "--no-such-option", "x"]);
    checks.holds("an unknown option is an error", out.code != 0, out);
}

fn log(scene: &mut Scene<'_>, checks: &Checks) {
    let path = scene.beside("log.json");
    let log = path.to_str().unwrap().to_owned();
    let out = scene.call(&["--log", &log, "--log-format", "json", "state", "no-such-container"]);
    checks.holds("the command fails", out.code != 0, &out);
    let text = fs::read_to_string(&path).unwrap_or_default();
    let last: Value = serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap_or_default();
    checks.is("json: level", last["level"].as_str(), Some("error"));
    checks.has("json: message", last["msg"].as_str().unwrap_or_default(), "container");
    checks.has("json: time", last["time"].as_str().unwrap_or_default(), "T");
    let path = scene.beside("log.text");
    let log = path.to_str().unwrap().to_owned();
    scene.call(&["--log", &log, "--log-format", "text", "state", "no-such-container"]);
    let text = fs::read_to_string(&path).unwrap_or_default();
    checks.has("text: message", &text, "container");
    let out = scene.call(&["--log", &log, "--log-format", "nonsense", "list"]);
    checks.holds("an unknown format is an error", out.code != 0, out);
}

fn versions(scene: &mut Scene<'_>, checks: &Checks) {
    scene.script("true");
    for version in ["1.0.0", "1.1.0", "1.2.0", "1.2.1"] {
        scene.config["ociVersion"] = json!(version);
        checks.works(version, &scene.run_with(&[]));
    }
    for version in ["2.0.0", "nonsense", ""] {
        scene.config["ociVersion"] = json!(version);
        checks.fails(&format!("`{version}` is refused"), &scene.run_with(&[]));
    }
}

fn preserve_fds(scene: &mut Scene<'_>, checks: &Checks) {
    fs::write(scene.beside("three"), "third\n").unwrap();
    fs::write(scene.beside("four"), "fourth\n").unwrap();
    let open = "exec 3<\"$BESIDE/three\" 4<\"$BESIDE/four\"; exec \"$@\" >\"$OUT\" 2>\"$ERR\" </dev/null";
    scene.script("read x <&3; echo \"3=$x\"; read x <&4 2>/dev/null && echo \"4=$x\"; ls /proc/self/fd | grep -c .");
    scene.write_config();
    let bundle = scene.folder().to_str().unwrap().to_owned();
    for (count, expected) in [("1", "3=third\n"), ("2", "3=third\n4=fourth\n")] {
        must(scene.call_through(open, &["run", "--bundle", &bundle, "--preserve-fds", count, &scene.id]));
        let output = scene.output();
        let lines: String = output
            .lines()
            .filter(|line| line.contains('='))
            .map(|line| format!("{line}\n"))
            .collect();
        checks.is(&format!("{count} of two"), lines.as_str(), expected);
    }
}

fn descriptors(scene: &mut Scene<'_>, checks: &Checks) {
    let out = scene.run("ls /proc/$$/fd; true");
    let fds: Vec<&str> = out.stdout.lines().filter(|fd| !fd.starts_with("10")).collect();
    checks.is("the program has the three standard ones", fds, ["0", "1", "2"].to_vec());
    fs::write(scene.beside("secret"), "x").unwrap();
    let open = "exec 7<\"$BESIDE/secret\"; exec \"$@\" >\"$OUT\" 2>\"$ERR\" </dev/null";
    scene.script("test -e /proc/$$/fd/7 && echo leaked || echo closed");
    scene.write_config();
    let bundle = scene.folder().to_str().unwrap().to_owned();
    must(scene.call_through(open, &["run", "--bundle", &bundle, &scene.id]));
    checks.is("the caller's others do not come along", scene.output().trim(), "closed");
}

fn further_options(scene: &mut Scene<'_>, checks: &Checks) {
    scene.script("echo works");
    for option in ["--no-pivot", "--no-new-keyring"] {
        checks.is(option, scene.run_with(&[option]).stdout.as_str(), "works\n");
    }
    let kept = scene.run_with(&["--keep"]);
    checks.works("run --keep", &kept);
    if kept.code == 0 {
        checks.is("run --keep leaves a stopped container", scene.status(), "stopped");
        must(scene.call(&["delete", &scene.id]));
    }
    scene.config["root"]["path"] = json!(scene.rootfs());
    checks.is(
        "the root's path may be absolute",
        scene.run_with(&[]).stdout.as_str(),
        "works\n",
    );
    let mut cmd = scene.runtime().arg("--debug").args(["run", "--bundle"]);
    cmd = cmd.arg(scene.folder()).arg(&scene.id);
    checks.is("--debug", cmd.run().stdout.as_str(), "works\n");
    let out = scene.call(&["--rootless", "false", "list", "--quiet"]);
    checks.works("--rootless", &out);
}

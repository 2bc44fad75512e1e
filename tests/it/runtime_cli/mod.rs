//! `dunlin runtime …` as its callers use it: by hand on a bundle, and below podman, containerd and buildah.

mod buildah;
pub mod bundle;
mod containerd;
mod events;
mod podman;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fixture::cmd::{Cmd, dunlin};
use crate::fixture::scratch::Scratch;
use crate::fixture::user::User;
use crate::skip;
use bundle::Bundle;

const CAPS: [&str; 3] = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Waits until a container is in this state.
fn await_status(bundle: &Bundle, id: &str, status: &str) {
    let end = Instant::now() + Duration::from_secs(10);
    while bundle.state(id)["status"] != status {
        assert!(Instant::now() < end, "not {status}: {}", bundle.state(id));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Every step of a container's life, with what each must refuse.
fn a_whole_life(bundle: &Bundle) {
    bundle
        .edit(|spec| spec["process"]["args"] = json!(["sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.05; done"]));
    let pid_file = bundle.path().join("pid");
    let create = bundle
        .command(&["create", "--pid-file"])
        .arg(&pid_file)
        .arg("--bundle")
        .arg(bundle.path());
    assert_eq!(create.arg("life").ok(), "");
    let state = bundle.state("life");
    assert_eq!((&state["status"], &state["id"]), (&json!("created"), &json!("life")));
    assert_eq!(state["bundle"], json!(bundle.path()));
    assert_eq!(state["rootfs"], json!(bundle.path().join("rootfs")));
    let pid = state["pid"].as_i64().unwrap();
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), pid.to_string());
    bundle
        .run(&["create", "-b"])
        .arg_path(bundle.path())
        .arg("life")
        .fails_with(1, "container with given ID already exists");
    bundle.run(&["start", "life"]).ok();
    assert_eq!(bundle.state("life")["status"], "running");
    bundle
        .run(&["start", "life"])
        .fails_with(1, "cannot start an already running container");
    bundle
        .run(&["delete", "life"])
        .fails_with(1, "cannot delete container life that is not stopped: running");
    assert_eq!(bundle.run(&["list", "-q"]).ok(), "life");
    let pids: Vec<i64> = serde_json::from_str(&bundle.run(&["ps", "-f", "json", "life"]).ok()).unwrap();
    assert!(pids.contains(&pid), "{pids:?}");
    assert_eq!(
        bundle.run(&["exec", "life", "sh", "-c", "echo in; exit 5"]).code(5),
        "in"
    );
    bundle
        .run(&["exec", "life", "nope"])
        .fails_with(255, "not found in $PATH");
    bundle
        .run(&["kill", "life", "NOPE"])
        .fails_with(1, "unknown signal `NOPE`");
    bundle.run(&["kill", "life", "TERM"]).ok();
    await_status(bundle, "life", "stopped");
    assert_eq!(bundle.state("life")["pid"], 0);
    bundle.run(&["kill", "life", "0"]).fails_with(1, "unknown signal");
    bundle
        .run(&["kill", "life", "9"])
        .fails_with(1, "container not running");
    bundle
        .run(&["exec", "life", "true"])
        .fails_with(255, "cannot exec in a stopped container");
    bundle
        .run(&["start", "life"])
        .fails_with(1, "cannot start a container that has stopped");
    bundle.run(&["delete", "life"]).ok();
    bundle.run(&["state", "life"]).fails_with(1, "container does not exist");
    bundle
        .run(&["delete", "life"])
        .fails_with(1, "container does not exist");
    bundle.run(&["delete", "--force", "life"]).ok();
    assert_eq!(bundle.left(), Vec::<PathBuf>::new());
}

#[test]
fn root_leads_a_container_through_its_life() {
    if !is_root() {
        skip!("needs root");
    }
    a_whole_life(&Bundle::of_root("cli-life"));
}

#[test]
fn a_user_leads_a_container_through_its_life() {
    for user in [User::with_ranges(), User::without_ranges()] {
        match user {
            Ok(user) => a_whole_life(&Bundle::of_user("cli-life-user", user)),
            Err(reason) => skip!("{reason}"),
        }
    }
}

/// Exit codes, streams and errors of `run`.
/// `id`: both users' containers have control groups of that name below the same folder.
fn runs(bundle: &Bundle, id: &str) {
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)] {
        bundle.edit(|spec| spec["process"]["args"] = json!(["busybox", "sh", "-c", script]));
        // The first process of a pid namespace does not kill itself.
        let code = if code == 137 { bundle.signal_code() } else { code };
        assert_eq!(
            bundle.run(&["run", "-b"]).arg_path(bundle.path()).arg(id).code(code),
            "",
            "{script}"
        );
    }
    bundle.edit(|spec| spec["process"]["args"] = json!(["cat"]));
    let cat = bundle
        .command(&["run", "-b"])
        .arg(bundle.path())
        .arg(id)
        .stdin("to and fro");
    assert_eq!(cat.ok(), "to and fro");
    bundle.edit(|spec| spec["process"]["args"] = json!(["nope"]));
    bundle
        .run(&["run", "-b"])
        .arg_path(bundle.path())
        .arg(id)
        .fails_with(1, "executable file `nope` not found");
    bundle.edit(|spec| spec["process"]["args"] = json!(["/bin"]));
    bundle
        .run(&["create", "-b"])
        .arg_path(bundle.path())
        .arg(id)
        .fails_with(1, "exec `/bin`: Is a directory");
    let log = bundle.path().join("log");
    let logged = bundle.global(
        &["--log", log.to_str().unwrap(), "--log-format", "json"],
        &["state", "none"],
    );
    logged.run().expect(1).says(&["container does not exist"]);
    let line: Value = serde_json::from_str(fs::read_to_string(&log).unwrap().trim()).unwrap();
    assert_eq!(
        (&line["level"], &line["msg"]),
        (&json!("error"), &json!("container does not exist"))
    );
    assert!(line["time"].as_str().unwrap().contains('T'), "{line}");
    assert_eq!(bundle.left(), Vec::<PathBuf>::new());
}

#[test]
fn exit_codes_streams_and_errors_of_root_are_runcs() {
    if !is_root() {
        skip!("needs root");
    }
    runs(&Bundle::of_root("cli-runs"), "r");
}

#[test]
fn exit_codes_streams_and_errors_of_a_user_are_runcs() {
    match User::with_ranges() {
        Ok(user) => runs(&Bundle::of_user("cli-runs-user", user), "r-user"),
        Err(reason) => skip!("{reason}"),
    }
}

#[test]
fn hooks_run_at_their_moments() {
    if !is_root() {
        skip!("needs root");
    }
    let bundle = Bundle::of_root("cli-hooks");
    let out = bundle.path().join("hooks");
    let hook = |name: &str| {
        let script = format!(
            "read -r state; echo {name} \"$state\" $(readlink /proc/self/ns/mnt) >>{}",
            out.display()
        );
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 10}])
    };
    // In the container there is neither the folder of the host nor its shell.
    let inside = json!([{"path": "/bin/busybox", "args": ["sh", "-c", "cat >/out/start"]}]);
    let shared = bundle.path().join("out");
    fs::create_dir(&shared).unwrap();
    bundle.edit(|spec| {
        spec["process"]["args"] = json!(["true"]);
        spec["hooks"] = json!({
            "prestart": hook("prestart"), "createRuntime": hook("createRuntime"),
            "createContainer": hook("createContainer"), "startContainer": inside,
            "poststart": hook("poststart"), "poststop": hook("poststop"),
        });
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.push(json!({"destination": "/out", "type": "bind", "source": "out", "options": ["bind"]}));
    });
    let lines = || fs::read_to_string(&out).unwrap_or_default();
    bundle.run(&["create", "-b"]).arg_path(bundle.path()).arg("h").ok();
    let names = |text: &str| -> Vec<String> { text.lines().map(|l| l.split(' ').next().unwrap().to_owned()).collect() };
    assert_eq!(names(&lines()), ["prestart", "createRuntime", "createContainer"]);
    assert!(!shared.join("start").exists());
    let pid = bundle.state("h")["pid"].clone();
    bundle.run(&["start", "h"]).ok();
    await_status(&bundle, "h", "stopped");
    bundle.run(&["delete", "h"]).ok();
    let text = lines();
    assert_eq!(
        names(&text),
        ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]
    );
    let own = fs::read_link("/proc/self/ns/mnt")
        .unwrap()
        .to_string_lossy()
        .into_owned();
    let statuses = ["creating", "creating", "creating", "running", "stopped"];
    for (line, status) in text.lines().zip(statuses) {
        let state: Value = serde_json::from_str(&line[line.find('{').unwrap()..=line.rfind('}').unwrap()]).unwrap();
        assert_eq!(
            (&state["status"], &state["id"]),
            (&json!(status), &json!("h")),
            "{line}"
        );
        assert_eq!(state["bundle"], json!(bundle.path()));
        assert!(status == "stopped" || state["pid"] == pid, "{line}");
        assert_eq!(line.ends_with(&own), !line.starts_with("createContainer"), "{line}");
    }
    let start: Value = serde_json::from_str(&fs::read_to_string(shared.join("start")).unwrap()).unwrap();
    assert_eq!((&start["status"], &start["pid"]), (&json!("created"), &pid));
    for kind in ["prestart", "createContainer", "startContainer", "poststart"] {
        bundle.edit(|spec| {
            let path = if kind == "startContainer" {
                "/bin/false"
            } else {
                "/usr/bin/false"
            };
            spec["hooks"] = json!({kind: [{"path": path}]});
        });
        let failed = format!("in `hooks.{kind}`: exit status 1");
        bundle
            .run(&["run", "-b"])
            .arg_path(bundle.path())
            .arg("f")
            .fails_with(1, &failed);
        assert_eq!(bundle.left(), Vec::<PathBuf>::new(), "{kind}");
    }
}

#[test]
fn namespaces_of_others_are_joined_by_their_path() {
    if !is_root() {
        skip!("needs root");
    }
    let bundle = Bundle::of_root("cli-join");
    bundle.edit(|spec| {
        spec["process"]["args"] = json!(["sleep", "100"]);
        spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .retain(|kind| kind["type"] != "cgroup");
    });
    bundle
        .run(&["run", "--detach", "-b"])
        .arg_path(bundle.path())
        .arg("one")
        .ok();
    let pid = bundle.state("one")["pid"].clone();
    let names = ["net", "ipc", "uts", "pid"];
    bundle.edit(|spec| {
        spec["process"]["args"] = json!([
            "sh",
            "-c",
            "for kind in net ipc uts pid; do readlink /proc/self/ns/$kind; done; echo $$"
        ]);
        for kind in spec["linux"]["namespaces"].as_array_mut().unwrap() {
            let name = match kind["type"].as_str().unwrap() {
                "network" => "net",
                other => other,
            };
            if names.contains(&name) {
                kind["path"] = json!(format!("/proc/{pid}/ns/{name}"));
            }
        }
        spec.as_object_mut().unwrap().remove("hostname");
    });
    let said = bundle.run(&["run", "-b"]).arg_path(bundle.path()).arg("two").ok();
    let theirs: Vec<String> = names
        .iter()
        .map(|name| {
            fs::read_link(format!("/proc/{pid}/ns/{name}"))
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..4], theirs);
    assert_ne!(lines[4], "1", "it is not the first process there");
    bundle.edit(|spec| spec["linux"]["namespaces"][1]["path"] = json!("/proc/self/ns/none"));
    bundle
        .run(&["run", "-b"])
        .arg_path(bundle.path())
        .arg("two")
        .fails_with(1, "namespace `/proc/self/ns/none`");
    bundle.run(&["delete", "-f", "one"]).ok();
}

#[test]
fn limits_are_set_changed_and_refused() {
    if !is_root() {
        skip!("needs root");
    }
    let bundle = Bundle::of_root("cli-limits");
    let name = bundle.unique();
    let pids = Path::new("/sys/fs/cgroup/pids").join(&name);
    if !pids.parent().unwrap().is_dir() {
        skip!("no v1 hierarchy for pids is mounted at /sys/fs/cgroup/pids");
    }
    bundle.edit(|spec| {
        spec["process"]["args"] = json!(["sleep", "100"]);
        spec["linux"]["cgroupsPath"] = json!(format!("/{name}/below"));
        spec["linux"]["resources"] = json!({"pids": {"limit": 7}, "devices": [{"allow": false, "access": "rwm"}]});
    });
    bundle.run(&["run", "-d", "-b"]).arg_path(bundle.path()).arg("l").ok();
    let limit = || fs::read_to_string(pids.join("below/pids.max")).unwrap();
    assert_eq!(limit().trim(), "7");
    bundle.run(&["update", "--pids-limit", "9", "l"]).ok();
    assert_eq!(limit().trim(), "9");
    let update = bundle
        .command(&["update", "-r", "-", "l"])
        .stdin(r#"{"pids":{"limit":-1}}"#);
    assert_eq!((update.ok(), limit().trim()), (String::new(), "max"));
    let event: Value = serde_json::from_str(&bundle.run(&["events", "--stats", "l"]).ok()).unwrap();
    assert_eq!(
        (&event["type"], &event["data"]["pids"]["current"]),
        (&json!("stats"), &json!(1))
    );
    bundle.run(&["pause", "l"]).ok();
    assert_eq!(bundle.state("l")["status"], "paused");
    bundle
        .run(&["exec", "l", "true"])
        .fails_with(255, "cannot exec in a paused container");
    bundle.run(&["resume", "l"]).ok();
    bundle.run(&["resume", "l"]).fails_with(1, "container not paused");
    // What the devices' hierarchy denies is denied in the container too.
    let made = bundle.run(&[
        "exec",
        "l",
        "sh",
        "-c",
        "mknod /dev/x b 7 0; echo $?; head -c1 /dev/zero | wc -c",
    ]);
    assert_eq!(made.ok(), "1\n1");
    bundle.run(&["delete", "-f", "l"]).ok();
    assert!(!pids.join("below").exists());
    fs::read_dir("/sys/fs/cgroup").unwrap().flatten().for_each(|hierarchy| {
        let _ = fs::remove_dir(hierarchy.path().join(&name));
    });
    bundle.edit(|spec| spec["linux"]["resources"] = json!({"unified": {"memory.high": "1"}}));
    bundle
        .run(&["run", "-b"])
        .arg_path(bundle.path())
        .arg("l")
        .fails_with(1, "unified.memory.high");
    fs::read_dir("/sys/fs/cgroup").unwrap().flatten().for_each(|hierarchy| {
        let _ = fs::remove_dir(hierarchy.path().join(&name));
    });
}

#[test]
fn limits_that_a_user_cannot_have_are_errors_but_rules_of_devices_are_told() {
    let user = match User::with_ranges() {
        Ok(user) => user,
        Err(reason) => skip!("{reason}"),
    };
    let bundle = Bundle::of_user("cli-limits-user", user);
    bundle.edit(|spec| {
        spec["process"]["args"] = json!(["sleep", "100"]);
        spec["process"]["oomScoreAdj"] = json!(-500);
        spec["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    });
    bundle.run(&["run", "-d", "-b"]).arg_path(bundle.path()).arg("l").ok();
    assert_eq!(
        bundle.state("l")["annotations"]["io.dunlin.left-out"],
        "linux.resources.devices,process.oomScoreAdj"
    );
    bundle.run(&["delete", "-f", "l"]).ok();
    bundle.edit(|spec| spec["linux"]["resources"] = json!({"pids": {"limit": 7}}));
    bundle
        .run(&["run", "-b"])
        .arg_path(bundle.path())
        .arg("l")
        .fails_with(1, "`linux.resources.pids.limit`: there is no control group");
    assert_eq!(bundle.left(), Vec::<PathBuf>::new());
}

#[test]
fn a_users_ranges_are_mapped() {
    let user = match User::with_ranges() {
        Ok(user) => user,
        Err(reason) => skip!("{reason}"),
    };
    let first = |file: &str| -> u64 {
        let text = fs::read_to_string(file).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{}:", user.name())))
            .unwrap();
        line.split(':').next().unwrap().parse().unwrap()
    };
    let map = |first: u64| json!([{"containerID": 0, "hostID": user.uid(), "size": 1}, {"containerID": 1, "hostID": first, "size": 65535}]);
    let (uids, gids) = (map(first("/etc/subuid")), map(first("/etc/subgid")));
    let bundle = Bundle::of_user("cli-ranges", user);
    bundle.edit(|spec| {
        spec["process"]["args"] = json!(["sh", "-c", "echo $(id -u):$(id -g):$(id -G)"]);
        spec["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [7]});
        (spec["linux"]["uidMappings"], spec["linux"]["gidMappings"]) = (uids, gids);
    });
    assert_eq!(
        bundle.run(&["run", "-b"]).arg_path(bundle.path()).arg("m").ok(),
        "1000:1001:1001 7"
    );
    bundle.edit(|spec| spec["linux"]["uidMappings"][1]["hostID"] = json!(1));
    bundle
        .run(&["run", "-b"])
        .arg_path(bundle.path())
        .arg("m")
        .fails_with(1, "cannot map the container's ids");
    assert_eq!(bundle.left(), Vec::<PathBuf>::new());
}

#[test]
fn the_root_can_be_moved_instead_of_pivoted_to() {
    if !is_root() {
        skip!("needs root");
    }
    let bundle = Bundle::of_root("cli-pivot");
    bundle.edit(|spec| {
        spec["process"]["args"] = json!([
            "sh",
            "-c",
            "ls / | grep -c root; cat /proc/self/mounts | head -1 | grep -c ' / '"
        ])
    });
    assert_eq!(
        bundle
            .run(&["run", "--no-pivot", "-b"])
            .arg_path(bundle.path())
            .arg("p")
            .code(0),
        "0\n1"
    );
}

#[test]
fn descriptors_are_passed_on_only_where_asked_for() {
    if !is_root() {
        skip!("needs root");
    }
    let bundle = Bundle::of_root("cli-fds");
    bundle.edit(|spec| {
        spec["process"]["args"] = json!([
            "sh",
            "-c",
            "for fd in /proc/self/fd/*; do readlink $fd >/dev/null && echo ${fd##*/}; done; cat <&4"
        ])
    });
    let line = |more: &str| {
        let program = dunlin();
        let (root, path) = (bundle.root(), bundle.path());
        format!(
            "echo hi >{p}/four; exec 3</dev/null 4<{p}/four 5</dev/null; exec {} runtime --root {} run {more} -b {p} fds",
            program.display(),
            root.display(),
            p = path.display()
        )
    };
    let shell = |more: &str| Cmd::new("/bin/sh").args(["-c", &line(more)]).run();
    let out = shell("--preserve-fds 2");
    assert_eq!(
        (out.code, out.stdout.as_str()),
        (0, "0\n1\n2\n3\n4\nhi\n"),
        "{}",
        out.stderr
    );
    assert_eq!(shell("").stdout, "0\n1\n2\n");
    shell("--preserve-fds 9").expect(1).says(&["descriptor 6 is not open"]);
}

#[test]
fn the_terminal_goes_to_the_console_socket() {
    if !is_root() {
        skip!("needs root");
    }
    let bundle = Bundle::of_root("cli-tty");
    bundle.edit(|spec| {
        spec["process"]["args"] = json!(["sh", "-c", "test -t 0 && test -c /dev/console && echo terminal"]);
        spec["process"]["terminal"] = json!(true);
    });
    bundle
        .run(&["create", "-b"])
        .arg_path(bundle.path())
        .arg("t")
        .fails_with(1, "without setting console socket");
    let path = bundle.path().join("console");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    bundle
        .run(&["create", "--console-socket"])
        .arg_path(&path)
        .arg("-b")
        .arg_path(bundle.path())
        .arg("t")
        .ok();
    let (stream, _) = listener.accept().unwrap();
    let master = bundle::receive(&stream);
    bundle.run(&["start", "t"]).ok();
    let said = bundle::read_line(master);
    assert_eq!(said, "terminal\r\n");
    await_status(&bundle, "t", "stopped");
    bundle.run(&["delete", "t"]).ok();
}

/// What a shell starts by hand: the runtime is between its terminal and the container's.
#[test]
fn a_terminal_is_relayed_to_who_stays() {
    if !is_root() {
        skip!("needs root");
    }
    let bundle = Bundle::of_root("cli-relay");
    bundle.edit(|spec| {
        spec["process"]["args"] = json!(["sh", "-c", "test -t 0 && stty size; read word; echo got $word; exit 6"]);
        spec["process"]["terminal"] = json!(true);
    });
    let quoted = |args: &[&str]| {
        let root = bundle.root().display().to_string();
        let line = format!("'{}' runtime --root '{root}' {}", dunlin().display(), args.join(" "));
        let resized = format!("stty rows 31 cols 77; {line}");
        Cmd::new("script").args(["-qec", &resized, "/dev/null"])
    };
    let path = format!("-b '{}'", bundle.path().display());
    let out = quoted(&["run", &path, "t"]).stdin("typed\n").fails(6);
    assert!(
        out.stdout.contains("31 77\r\n") && out.stdout.contains("got typed\r\n"),
        "{out:?}"
    );
    bundle.edit(|spec| {
        spec["process"]["args"] = json!(["sleep", "100"]);
        spec["process"]["terminal"] = json!(false);
    });
    bundle.run(&["run", "-d", "-b"]).arg_path(bundle.path()).arg("t").ok();
    let out = quoted(&[
        "exec",
        "-t",
        "t",
        "sh",
        "-c",
        "'tty >/dev/null && stty size; read a; echo in $a; exit 7'",
    ]);
    let out = out.stdin("word\n").fails(7);
    assert!(
        out.stdout.contains("31 77\r\n") && out.stdout.contains("in word\r\n"),
        "{out:?}"
    );
    bundle.run(&["delete", "-f", "t"]).ok();
}

#[test]
fn sockets_of_systemd_are_passed_on() {
    if !is_root() {
        skip!("needs root");
    }
    let bundle = Bundle::of_root("cli-listen");
    bundle.edit(|spec| {
        spec["process"]["args"] = json!(["sh", "-c", "echo $LISTEN_FDS $LISTEN_PID; cat <&3; cat <&4"]);
    });
    let run = |pid: &str| {
        let line = format!(
            "exec 3<<<three 4<<<four; LISTEN_FDS=2 LISTEN_PID={pid} exec '{}' runtime --root '{}' run -b '{}' t",
            dunlin().display(),
            bundle.root().display(),
            bundle.path().display()
        );
        Cmd::new("bash").args(["-c", &line]).run()
    };
    assert_eq!(run("$$").expect(0).stdout, "2 1\nthree\nfour\n");
    let others = run("1");
    assert!(
        others.code != 0 && others.stdout == "\n",
        "sockets of somebody else: {others:?}"
    );
}

#[test]
fn the_link_and_the_documents_are_there() {
    let scratch = Scratch::new("cli-docs");
    let link = scratch.join("dunlin-runtime");
    symlink(dunlin(), &link).unwrap();
    assert!(Cmd::new(&link).arg("--version").ok().contains("\nspec: 1."));
    let features: Value = serde_json::from_str(&Cmd::new(&link).arg("features").ok()).unwrap();
    assert!(features["ociVersionMin"].is_string() && features["ociVersionMax"].is_string());
    for (list, word) in [
        ("/hooks", "poststop"),
        ("/mountOptions", "rro"),
        ("/linux/namespaces", "user"),
        ("/linux/capabilities", CAPS[1]),
    ] {
        let words = features.pointer(list).and_then(Value::as_array).unwrap();
        assert!(words.contains(&json!(word)), "{list}");
    }
    Cmd::new(&link).arg("spec").dir(scratch.path()).ok();
    Cmd::new(&link)
        .arg("spec")
        .dir(scratch.path())
        .fails(1)
        .says(&["exists. Remove it first"]);
    Cmd::new(&link).arg("nonsense").fails(1);
}

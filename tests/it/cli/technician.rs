//! doctor, bundle, completion, generate systemd, app import, and the first process of `--init`.

use super::{EVERYBODY, Who, World};
use crate::fixture::cmd::{Cmd, dunlin};
use crate::skip;
use serde_json::Value;
use std::fs;

#[test]
fn the_doctor_names_every_gap_with_its_fix() {
    for who in EVERYBODY {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        let out = world.cmd("doctor --format json").run();
        let all: Vec<Value> =
            serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{who:?}: {e}: {}", out.stdout));
        let grade = |name: &str| {
            let found = all.iter().find(|one| one["name"] == name);
            found.unwrap_or_else(|| panic!("{who:?}: no {name}: {}", out.stdout))["grade"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        let gaps = all.iter().filter(|one| one["grade"] == "gap").count();
        assert_eq!(out.code, i32::from(gaps > 0), "{who:?}: {}", out.stdout);
        assert!(
            all.iter().all(|one| (one["grade"] == "ok") == (one["fix"] == "")),
            "{who:?}: {}",
            out.stdout
        );
        for name in ["kernel", "overlay", "seccomp", "user namespaces", "disk"] {
            assert_eq!(grade(name), "ok", "{who:?}: {name}");
        }
        // A user without ranges is told how to get some.
        assert_eq!(
            grade("id ranges"),
            if who == Who::Single { "gap" } else { "ok" },
            "{who:?}"
        );
        let text = world.cmd("doctor").run();
        assert!(text.stdout.contains("ok    kernel: "), "{who:?}: {}", text.stdout);
        assert_eq!(
            text.stdout.contains("fix: usermod --add-subuids"),
            who == Who::Single,
            "{who:?}: {}",
            text.stdout
        );
    }
}

#[test]
fn a_bundle_tells_what_happened_and_no_secret() {
    for who in [Who::Ranges, Who::Root] {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        world
            .cmd("run -d --name web -e API_TOKEN=hunter2 -e PLAIN=hunter3")
            .arg(&world.image)
            .args([
                "sh",
                "-c",
                "echo started; echo password=hunter4; exec sleep 1000",
                "--api-token",
                "hunter5",
            ])
            .ok();
        let dir = world.folder("out");
        world.cmd("bundle -o b.tar.gz").dir(&dir).ok();
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(dir.join("b.tar.gz")).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600, "{who:?}");
        let list = Cmd::new("tar").arg("tzf").arg(dir.join("b.tar.gz")).ok();
        for name in [
            "host/proc/meminfo",
            "dunlin/doctor.txt",
            "dunlin/ps.txt",
            "containers/web/inspect.json",
            "containers/web/log.txt",
        ] {
            assert!(
                list.lines().any(|line| line == name),
                "{who:?}: {name} is not in {list}"
            );
        }
        let all = Cmd::new("tar").args(["xzOf"]).arg(dir.join("b.tar.gz")).ok();
        assert!(
            all.contains("started") && all.contains("API_TOKEN") && all.contains("PLAIN=(hidden)"),
            "{who:?}"
        );
        for secret in ["hunter2", "hunter3", "hunter4", "hunter5"] {
            assert!(!all.contains(secret), "{who:?}: {secret}");
        }
        // Through a pipe too.
        let piped = world.cmd("bundle -o -").run();
        assert_eq!(piped.code, 0, "{who:?}: {}", piped.stderr);
        assert!(!piped.stdout.is_empty(), "{who:?}");
    }
}

#[test]
fn shells_complete_verbs_groups_and_options() {
    let script = Cmd::operator().args(["completion", "bash"]).ok();
    let complete = |words: &[&str]| {
        let line = words.join("' '");
        let text = format!(
            "{script}\nCOMP_WORDS=('dunlin' '{line}'); COMP_CWORD={}; _dunlin; echo \"${{COMPREPLY[@]}}\"",
            words.len()
        );
        Cmd::new("bash").args(["-c", &text]).ok()
    };
    assert_eq!(complete(&["resta"]), "restart");
    assert!(complete(&["volume", ""]).contains("create"));
    assert_eq!(complete(&["volume", "pru"]), "prune");
    assert!(complete(&["run", "--mem"]).contains("--memory-swap"));
    assert!(complete(&["volume", "ls", "--f"]).contains("--filter"));
    assert!(!complete(&[""]).contains("cp-local"));
    for shell in ["zsh", "fish"] {
        assert!(
            Cmd::operator().args(["completion", shell]).ok().contains("dunlin"),
            "{shell}"
        );
    }
    Cmd::operator().args(["completion", "tcsh"]).fails(125);
    let dir = crate::fixture::scratch::Scratch::new("man");
    Cmd::operator().args(["completion", "man"]).arg(dir.path()).ok();
    let page = fs::read_to_string(dir.join("dunlin-volume-ls.1")).unwrap();
    assert!(page.starts_with(".TH DUNLIN-VOLUME-LS 1"), "{page}");
    Cmd::operator().args(["completion", "man"]).fails(125).says(&["DIR"]);
}

#[test]
fn a_unit_of_systemd_runs_a_container() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    world.sh("create --name web", "sleep 1000").ok();
    let dir = world.folder("units");
    let path = world
        .cmd("generate systemd --files --restart-policy always -t 5 web")
        .dir(&dir)
        .ok();
    assert!(path.ends_with("/container-web.service"), "{path}");
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text.contains("Restart=always") && text.contains("stop --time 5 web"),
        "{text}"
    );
    assert_eq!(
        world.cmd("generate systemd --restart-policy always -t 5 web").ok(),
        text.trim_end()
    );
    let verified = Cmd::new("systemd-analyze").args(["verify", "--man=no", &path]).run();
    assert_eq!(
        (verified.code, verified.stderr.contains("container-web")),
        (0, false),
        "{}",
        verified.stderr
    );
    // What the unit would run does what it should.
    let line = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.split(' ').skip(5).collect::<Vec<_>>().join(" ")
    };
    let running = world.cmd(&line("ExecStart=")).start();
    super::flow::wait_for(|| world.field("web", "{{.State.Status}}") == "running");
    world.cmd(&line("ExecStop=")).ok();
    drop(running);
    world.cmd("generate systemd --new web").fails(125).says(&["app import"]);
}

#[test]
fn quadlet_files_become_app_documents() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let dir = world.folder("units");
    let unit = "[Container]\nImage=registry.example/web:1\nVolume=data.volume:/data\nPodmanArgs=--memory 64m\n";
    fs::write(dir.join("web.container"), unit).unwrap();
    fs::write(dir.join("data.volume"), "[Volume]\nVolumeName=kept\n").unwrap();
    fs::write(dir.join("bad.container"), "[Container]\nImage=x\nAddCapability=all\n").unwrap();
    let made = Cmd::operator()
        .args(["app", "import", "web.container", "data.volume"])
        .dir(&dir)
        .ok();
    assert!(
        made.contains("name = \"web\"") && made.contains("\"kept:/data\""),
        "{made}"
    );
    Cmd::operator()
        .args(["app", "import", "-o", "."])
        .args(["web.container"])
        .dir(&dir)
        .ok();
    let written = fs::read_to_string(dir.join("web.toml")).unwrap();
    assert!(written.contains("systemd-data:/data"), "{written}");
    Cmd::operator()
        .args(["app", "import", "bad.container"])
        .dir(&dir)
        .fails(125)
        .says(&["AddCapability", "--force"]);
    assert!(
        Cmd::operator()
            .args(["app", "import", "-f", "bad.container"])
            .dir(&dir)
            .ok()
            .contains("name = \"bad\"")
    );
}

#[test]
fn the_first_process_passes_signals_on_and_reaps() {
    let elf = fs::read(dunlin()).unwrap();
    if elf.windows(13).any(|bytes| bytes == b"/lib64/ld-lin") {
        skip!("this dunlin is not static: it cannot be a container's first process (set DUNLIN_BIN)");
    }
    for who in EVERYBODY {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        assert_eq!(world.sh("run --rm --init", "exit 7").run().code, 7, "{who:?}");
        assert_eq!(
            world.cmd("run --rm --init").arg(&world.image).arg("/none").run().code,
            127,
            "{who:?}"
        );
        assert_eq!(
            world.sh("run --rm --init", "echo $PPID; cat /proc/1/comm").ok(),
            "1\ndunlin-init",
            "{who:?}"
        );
        // Orphans are reaped; the program gets its signal.
        let script = "(sleep 0.1 & ) ; trap 'exit 9' TERM; while :; do sleep 0.05; done";
        world.sh("run -d --init --name web", script).ok();
        super::flow::wait_for(|| !world.cmd("exec web ps").ok().contains(" Z "));
        std::thread::sleep(std::time::Duration::from_millis(300));
        let zombies = world
            .cmd("exec web sh -c")
            .arg("grep -l 'State:.Z' /proc/[0-9]*/status; true")
            .ok();
        assert_eq!(zombies, "", "{who:?}");
        world.cmd("stop -t 10 web").ok();
        assert_eq!(world.field("web", "{{.State.ExitCode}}"), "9", "{who:?}");
        // Nothing of it is in the image.
        assert!(!world.cmd("diff web").ok().contains("dunlin-init"), "{who:?}");
        world.cmd("rm web").ok();
    }
}

#[test]
fn zones_and_pid_files_are_as_asked() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let dir = world.folder("out");
    world
        .cmd("run -d --name web --pidfile pid --userns=host --systemd=false")
        .arg(&world.image)
        .args(["sleep", "1000"])
        .dir(&dir)
        .ok();
    assert_eq!(
        fs::read_to_string(dir.join("pid")).unwrap(),
        world.field("web", "{{.State.Pid}}")
    );
    world
        .cmd("run --rm --tz ../x")
        .arg(&world.image)
        .arg("true")
        .fails(125)
        .says(&["time zone"]);
    world
        .cmd("run --rm --userns=keep-id")
        .arg(&world.image)
        .arg("true")
        .fails(125)
        .says(&["--userns"]);
    if std::path::Path::new("/usr/share/zoneinfo/Asia/Tokyo").exists() {
        assert_eq!(world.sh("run --rm --tz Asia/Tokyo", "date +%z").ok(), "+0900");
    }
}

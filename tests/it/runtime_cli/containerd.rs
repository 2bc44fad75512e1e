//! containerd's `ctr run` with dunlin in runc's place.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::fixture::child::Running;
use crate::fixture::cmd::{Cmd, dunlin};
use crate::fixture::images::{Format, Index};
use crate::fixture::scratch::Scratch;
use crate::skip;

const IMAGE: &str = "dunlin.test/busybox:latest";

/// A daemon of its own, with the image. The process comes first, so that it ends before its folders go.
struct Containerd {
    _daemon: Running,
    scratch: Scratch,
    /// The namespace of its names; also the name of its control groups.
    name: String,
}

impl Containerd {
    fn new() -> Result<Containerd, String> {
        if !super::is_root() {
            return Err("needs root".to_owned());
        }
        if Cmd::new("which").args(["containerd", "ctr"]).run().code != 0 {
            return Err("containerd is not installed".to_owned());
        }
        let scratch = Scratch::new("ctr");
        let name = scratch.path().file_name().unwrap().to_string_lossy().into_owned();
        let at = |file: &str| scratch.join(file).display().to_string();
        let config = format!(
            "version = 2\nroot = '{}'\nstate = '{}'\n[grpc]\naddress = '{}'\n[ttrpc]\naddress = '{}'\n\
             [plugins.'io.containerd.internal.v1.opt']\npath = '{}'\n",
            at("root"),
            at("state"),
            at("sock"),
            at("ttrpc"),
            at("opt")
        );
        scratch.write(
            "config.toml",
            format!("disabled_plugins = ['io.containerd.grpc.v1.cri']\n{config}"),
        );
        let mut daemon = Cmd::new("containerd")
            .arg("--config")
            .arg(scratch.join("config.toml"))
            .start();
        daemon.wait_for("containerd successfully booted", Duration::from_secs(30));
        let containerd = Containerd {
            _daemon: daemon,
            scratch,
            name,
        };
        let layout = containerd.scratch.folder("layout");
        Index::busybox(Format::Oci).write_layout(&layout, "latest");
        let archive = containerd.scratch.join("image.tar");
        Cmd::new("tar")
            .arg("-C")
            .arg(&layout)
            .arg("-cf")
            .arg(&archive)
            .arg(".")
            .ok();
        let import = ["image", "import", "--snapshotter", "native", "--index-name", IMAGE];
        containerd.ctr(&import).arg(&archive).ok();
        Ok(containerd)
    }

    fn ctr(&self, args: &[&str]) -> Cmd {
        Cmd::new("ctr")
            .arg("--address")
            .arg(self.scratch.join("sock"))
            .args(["--namespace", &self.name])
            .args(args)
            .timeout(Duration::from_secs(60))
    }

    fn run(&self, options: &[&str], name: &str, command: &[&str]) -> Cmd {
        let group = format!("/{}/{name}", self.name);
        let place = [
            "--snapshotter",
            "native",
            "--runtime",
            "io.containerd.runc.v2",
            "--cgroup",
            &group,
        ];
        self.ctr(&["run"])
            .args(place)
            .arg("--runc-binary")
            .arg(dunlin_runtime(&self.scratch))
            .args(options)
            .args([IMAGE, name])
            .args(command)
    }

    /// What `ctr task ls` says about a task.
    fn status(&self, name: &str) -> String {
        let all = self.ctr(&["task", "ls"]).ok();
        let line = all.lines().find(|line| line.split_whitespace().next() == Some(name));
        line.and_then(|line| line.split_whitespace().last())
            .unwrap_or("GONE")
            .to_owned()
    }

    fn await_status(&self, name: &str, status: &str) {
        let end = Instant::now() + Duration::from_secs(10);
        while self.status(name) != status {
            assert!(Instant::now() < end, "{name} is {}, not {status}", self.status(name));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let all = self.ctr(&["task", "ls", "-q"]).run();
        for name in all.stdout.split_whitespace() {
            self.ctr(&["task", "rm", "--force", name]).run();
        }
        for controller in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            // The groups above those of the containers are the caller's.
            let _ = std::fs::remove_dir(controller.path().join(&self.name));
        }
    }
}

fn dunlin_runtime(scratch: &Scratch) -> PathBuf {
    let link = scratch.join("dunlin-runtime");
    // It may be there already.
    let _ = std::os::unix::fs::symlink(dunlin(), &link);
    link
}

#[test]
fn containerd_runs_containers_with_dunlin() {
    let containerd = match Containerd::new() {
        Ok(containerd) => containerd,
        Err(reason) => skip!("{reason}"),
    };
    let script = ["sh", "-c", "echo out; id -u; exit 7"];
    assert_eq!(containerd.run(&["--rm"], "once", &script).fails(7).stdout, "out\n0\n");
    let out = containerd.run(&["--rm"], "none", &["/no/such/program"]).run();
    assert!(out.code != 0 && out.stderr.contains("/no/such/program"), "{out:?}");
    let options = ["--rm", "--env", "A=b c", "--cwd", "/tmp", "--read-only"];
    let script = ["sh", "-c", "echo \"$A\" $(pwd); touch /x 2>/dev/null || echo read-only"];
    assert_eq!(containerd.run(&options, "as", &script).ok(), "b c /tmp\nread-only");

    let command = ["sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.05; done"];
    let limits = ["-d", "--memory-limit", "33554432"];
    containerd.run(&limits, "web", &command).ok();
    assert_eq!(containerd.status("web"), "RUNNING");
    let exec = |id: &str, script: &str| {
        containerd
            .ctr(&["task", "exec", "--exec-id", id, "web", "sh", "-c", script])
            .run()
    };
    let out = exec("one", "echo in; exit 3");
    assert_eq!((out.code, out.stdout.as_str()), (3, "in\n"), "{out:?}");
    assert!(
        exec("two", "kill -0 1 && echo sees the first")
            .stdout
            .contains("sees the first")
    );
    let metrics = containerd.ctr(&["task", "metrics", "web"]).ok();
    assert!(metrics.contains("33554432"), "{metrics}");
    assert!(!containerd.ctr(&["task", "ps", "web"]).ok().is_empty());
    containerd.ctr(&["task", "pause", "web"]).ok();
    assert_eq!(containerd.status("web"), "PAUSED");
    containerd.ctr(&["task", "resume", "web"]).ok();
    assert_eq!(containerd.status("web"), "RUNNING");
    containerd.ctr(&["task", "kill", "--signal", "TERM", "web"]).ok();
    containerd.await_status("web", "STOPPED");
    let deleted = containerd.ctr(&["task", "delete", "web"]).run();
    assert!(deleted.stderr.contains("exit code 9"), "{deleted:?}");
    containerd.ctr(&["container", "delete", "web"]).ok();
}

#[test]
fn containerd_reads_what_dunlin_saves_and_pushes() {
    let containerd = match Containerd::new() {
        Ok(containerd) => containerd,
        Err(reason) => skip!("{reason}"),
    };
    let scratch = Scratch::new("ctr-saved");
    let store = |words: &[&str]| {
        let base = Cmd::dunlin().arg("--root").arg(scratch.join("data"));
        base.arg("--runroot").arg(scratch.join("run")).args(words)
    };
    let layout = scratch.folder("layout");
    Index::busybox(Format::Oci).write_layout(&layout, "latest");
    let id = store(&["pull", "-q", &format!("oci:{}:latest", layout.display())]).ok();
    let name = "dunlin.test/saved:1";
    store(&["tag", &id, name]).ok();
    let assert_there = |label: &str| {
        let all = containerd.ctr(&["image", "ls"]).ok();
        let line = all.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("{label}: {all}"));
        let digest = line.split_whitespace().nth(2).unwrap();
        let manifest = containerd.ctr(&["content", "get", digest]).ok();
        assert!(manifest.contains(&id), "{label}: {manifest}");
        containerd.ctr(&["image", "rm", name]).ok();
    };
    for format in ["docker-archive", "oci-archive"] {
        let archive = scratch.join(format).display().to_string();
        store(&["save", "-q", "--format", format, "-o", &archive, name]).ok();
        // It unpacks while it imports, every digest checked.
        containerd
            .ctr(&["image", "import", "--snapshotter", "native", &archive])
            .ok();
        assert_there(format);
    }
    let registry = crate::fixture::registry::Registry::plain();
    let pushed = format!("{}:1", registry.reference("web"));
    store(&["push", "-q", name, &pushed]).ok();
    containerd
        .ctr(&["image", "pull", "--plain-http", "--snapshotter", "native", &pushed])
        .ok();
    containerd.ctr(&["image", "tag", &pushed, name]).ok();
    assert_there("push");
}

//! podman with dunlin as its runtime, as root and as a user.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::bundle;
use crate::fixture::cmd::{Cmd, dunlin};
use crate::fixture::scratch::Scratch;
use crate::fixture::user::User;
use crate::skip;

/// podman on a store of its own, with an image `bb`.
struct Podman {
    scratch: Scratch,
    user: Option<User>,
    runtime: PathBuf,
}

impl Podman {
    fn new(user: Option<User>) -> Result<Podman, String> {
        if Command::new("podman").arg("--version").output().is_err() {
            return Err("podman is not installed".to_owned());
        }
        let scratch = match &user {
            Some(user) => Scratch::owned_by("podman-user", user.uid()),
            None => Scratch::new("podman-root"),
        };
        // The name makes it the runtime, as packages would install it; a rootless podman must be able to reach it.
        let runtime = scratch.join("dunlin-runtime");
        symlink(dunlin(), &runtime).unwrap();
        let image = scratch.folder("image");
        bundle::fill(&image);
        let archive = scratch.join("image.tar");
        Cmd::new("tar")
            .arg("-C")
            .arg(&image)
            .arg("-cf")
            .arg(&archive)
            .arg(".")
            .ok();
        if let Some(user) = &user {
            user.give(&archive);
        }
        let podman = Podman { scratch, user, runtime };
        let made = podman.run(&["import", &archive.to_string_lossy(), "bb"]).run();
        match made.code {
            0 => Ok(podman),
            _ => Err(format!("podman does not import: {}", made.stderr.trim())),
        }
    }

    fn run(&self, args: &[&str]) -> Cmd {
        let folder = |name: &str| self.scratch.join(name).to_string_lossy().into_owned();
        let mut cmd = Cmd::new("podman")
            .args([
                "--root",
                &folder("root"),
                "--runroot",
                &folder("run"),
                "--storage-driver",
                "vfs",
            ])
            .args(["--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime"])
            .arg(&self.runtime)
            .timeout(Duration::from_secs(120));
        if let Some(user) = &self.user {
            cmd = cmd.user(user);
        }
        // Not every machine's root may raise limits, which podman asks for unless told.
        match args.split_first() {
            Some((&"run", rest)) => cmd
                .args([
                    "run",
                    "--network",
                    "none",
                    "--ulimit",
                    "nofile=512:512",
                    "--ulimit",
                    "nproc=4096:4096",
                ])
                .args(rest),
            _ => cmd.args(args),
        }
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.run(&["rm", "--all", "--force", "--time", "0"]).run();
        if self.user.is_some() {
            // Files of subordinate ids, and the process that holds the user namespace.
            let _ = self.run(&["system", "migrate"]).run();
        }
    }
}

fn everything(podman: &Podman) {
    assert_eq!(
        podman
            .run(&["run", "--rm", "bb", "sh", "-c", "echo out; echo err >&2; exit 6"])
            .fails(6)
            .stdout,
        "out\n"
    );
    podman.run(&["run", "--rm", "bb", "nope"]).fails(127);
    podman.run(&["run", "--rm", "bb", "/etc"]).fails(126);
    assert_eq!(
        podman.run(&["run", "--rm", "-i", "bb", "cat"]).stdin("through").ok(),
        "through"
    );
    assert_eq!(
        podman
            .run(&[
                "run",
                "--rm",
                "--user",
                "7:8",
                "bb",
                "sh",
                "-c",
                "echo $(id -u):$(id -g)"
            ])
            .ok(),
        "7:8"
    );
    let tty = podman.run(&[
        "run",
        "--rm",
        "-t",
        "bb",
        "sh",
        "-c",
        "test -t 0 && test -c /dev/console && echo tty",
    ]);
    assert_eq!(tty.ok().trim(), "tty");
    let mount = format!("{}:/mnt:ro", podman.scratch.join("image").display());
    let bound = [
        "run",
        "--rm",
        "--read-only",
        "--tmpfs",
        "/tmp",
        "-v",
        &mount,
        "bb",
        "sh",
        "-c",
        "echo x >/tmp/x && ls /mnt/bin/sh",
    ];
    assert_eq!(podman.run(&bound).ok(), "/mnt/bin/sh");
    podman
        .run(&[
            "run",
            "-d",
            "--name",
            "web",
            "--health-cmd",
            "true",
            "bb",
            "sh",
            "-c",
            "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done",
        ])
        .run()
        .expect(0);
    assert_eq!(
        podman
            .run(&["exec", "web", "sh", "-c", "echo in; exit 4"])
            .fails(4)
            .stdout,
        "in\n"
    );
    assert_eq!(
        podman
            .run(&["exec", "-e", "A=b", "-w", "/bin", "web", "sh", "-c", "echo $A; pwd"])
            .ok(),
        "b\n/bin"
    );
    assert_eq!(
        podman
            .run(&["exec", "-t", "web", "sh", "-c", "test -t 1 && echo tty"])
            .ok()
            .trim(),
        "tty"
    );
    podman.run(&["exec", "web", "nope"]).fails(127);
    podman
        .run(&["exec", "-d", "web", "sh", "-c", "echo done >/tmp/done"])
        .ok();
    podman.run(&["healthcheck", "run", "web"]).run().expect(0);
    let status = |name: &str| {
        podman
            .run(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name])
            .ok()
    };
    assert_eq!(status("web"), "running 0");
    assert_eq!(podman.run(&["exec", "web", "cat", "/tmp/done"]).ok(), "done");
    podman.run(&["stop", "-t", "10", "web"]).ok();
    assert_eq!(status("web"), "exited 3");
    assert_eq!(podman.run(&["logs", "web"]).ok(), "up\nbye");
    podman.run(&["start", "web"]).run().expect(0);
    podman.run(&["kill", "-s", "KILL", "web"]).ok();
    podman.run(&["wait", "web"]).ok();
    assert_eq!(status("web"), "exited 137");
    podman.run(&["rm", "web"]).ok();
}

#[test]
fn podman_of_root_runs_containers_with_dunlin() {
    if !super::is_root() {
        skip!("needs root");
    }
    let podman = match Podman::new(None) {
        Ok(podman) => podman,
        Err(reason) => skip!("{reason}"),
    };
    everything(&podman);
    podman
        .run(&["run", "-d", "--name", "p", "--memory", "64m", "bb", "sleep", "100"])
        .ok();
    podman.run(&["pause", "p"]).ok();
    let status = || podman.run(&["inspect", "--format", "{{.State.Status}}", "p"]).ok();
    assert_eq!(status(), "paused");
    podman.run(&["unpause", "p"]).ok();
    assert_eq!(status(), "running");
    assert!(podman.run(&["top", "p"]).ok().contains("sleep 100"));
    podman.run(&["rm", "-f", "-t", "0", "p"]).ok();
    let privileged = podman.run(&[
        "run",
        "--rm",
        "--privileged",
        "bb",
        "sh",
        "-c",
        "ls /dev/null && mount -t tmpfs x /tmp && echo mounted",
    ]);
    assert_eq!(privileged.ok(), "/dev/null\nmounted");
    let mapped = [
        "run",
        "--rm",
        "--uidmap",
        "0:100000:1000",
        "--gidmap",
        "0:100000:1000",
        "bb",
        "cat",
        "/proc/self/uid_map",
    ];
    let map = podman.run(&mapped).ok();
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "100000", "1000"]);
}

#[test]
fn podman_of_a_user_runs_containers_with_dunlin() {
    let user = match User::with_ranges() {
        Ok(user) => user,
        Err(reason) => skip!("{reason}"),
    };
    match Podman::new(Some(user)) {
        Ok(podman) => {
            everything(&podman);
            let kept = ["run", "--rm", "--userns", "keep-id", "bb", "sh", "-c", "id -u"];
            let uid = podman.user.as_ref().unwrap().uid().to_string();
            assert_eq!(podman.run(&kept).ok(), uid);
        }
        Err(reason) => skip!("{reason}"),
    }
}

//! Rows N7, N8 and N24, as whole command lines: `run --rm IMAGE true` against crun alone on a bundle, `exec CONTAINER true` and
//! `ps` with ten containers against podman, as root and as a user; and what stays beside a container of podman's.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::device;
use super::fixture::cmd::Cmd;
use super::fixture::images::{Format, Index};
use super::fixture::scratch::Scratch;
use super::fixture::user::User;
use super::start::Bundle;
use super::{Table, median, ms, timed};

/// Containers that `ps` lists.
const LISTED: usize = 10;

/// Measures as root and as a user.
pub fn rows(table: &mut Table, count: usize) {
    for (who, rootless) in [("root", false), ("rootless", true)] {
        let what_run = format!("`run --rm --network none IMAGE true`, {who}, whole command line");
        let what_exec = format!("`exec CONTAINER true`, {who}, whole command line");
        let what_ps = format!("`ps` with {LISTED} containers, {who}, whole command line");
        match Side::new(rootless) {
            Ok(side) => {
                table.row("N7", &what_run, "≤ 1.0 × crun on a bundle", side.runs(count));
                let (exec, conmon) = side.execs(count);
                table.row("N8", &what_exec, "≤ 1/20 podman, ≤ 6 ms", exec);
                let what = format!("podman's conmon beside a container, {who}, PSS / private dirty");
                table.row("N4", &what, "the peer", conmon);
                table.row("N24", &what_ps, "≤ 1/10 podman", side.lists(count));
            }
            Err(reason) => {
                table.row("N7", &what_run, "", format!("not measured: {reason}"));
                table.row("N8", &what_exec, "", format!("not measured: {reason}"));
                table.row("N24", &what_ps, "", format!("not measured: {reason}"));
            }
        }
    }
}

/// A store of dunlin and one of podman, with the same image.
struct Side {
    user: Option<User>,
    bundle: Bundle,
    image: String,
    podman: bool,
    scratch: Scratch,
}

impl Side {
    fn new(rootless: bool) -> Result<Side, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("needs root".to_owned());
        }
        let user = || rootless.then(User::with_ranges).transpose();
        let (user, bundle) = (user()?, Bundle::new(user()?)?);
        let scratch = match &user {
            Some(user) => Scratch::owned_by("bench-life", user.uid()),
            None => Scratch::new("bench-life"),
        };
        let layout = scratch.folder("layout");
        Index::busybox(Format::Oci).write_layout(&layout, "latest");
        let mut side = Side {
            user,
            bundle,
            image: String::new(),
            podman: false,
            scratch,
        };
        if let Some(user) = &side.user {
            user.give(side.scratch.path());
        }
        let source = format!("oci:{}:latest", layout.display());
        side.image = side.dunlin(&["pull", "-q", &source]).ok();
        side.podman = side.podman_import();
        // The keeper stays as long as somebody runs.
        side.dunlin(&[
            "run",
            "-d",
            "--name",
            "sleeps",
            "--network",
            "none",
            &side.image,
            "sleep",
            "1000",
        ])
        .ok();
        Ok(side)
    }

    fn program(&self, program: &Path) -> Cmd {
        match &self.user {
            Some(user) => Cmd::new(program).user(user),
            None => Cmd::new(program),
        }
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    fn dunlin(&self, args: &[&str]) -> Cmd {
        let cmd = self.program(&super::fixture::cmd::dunlin());
        let cmd = cmd.arg("--root").arg(self.folder("data"));
        cmd.arg("--runroot").arg(self.folder("run")).args(args)
    }

    fn podman(&self, args: &[&str]) -> Cmd {
        let cmd = self.program(Path::new("podman"));
        let cmd = cmd.arg("--root").arg(self.folder("podman"));
        let cmd = cmd.arg("--runroot").arg(self.folder("podman-run"));
        cmd.args([
            "--storage-driver",
            "vfs",
            "--cgroup-manager",
            "cgroupfs",
            "--events-backend",
            "file",
        ])
        .args(args)
        .timeout(Duration::from_secs(120))
    }

    /// podman's own copy of busybox, from a plain archive.
    fn podman_import(&self) -> bool {
        let (root, archive) = (self.scratch.folder("import/bin"), self.folder("import.tar"));
        for name in ["true", "sleep", "sh"] {
            fs::copy("/bin/busybox", root.join(name)).unwrap();
        }
        let above = self.folder("import");
        Cmd::new("tar")
            .arg("-C")
            .arg(&above)
            .arg("-cf")
            .arg(&archive)
            .arg(".")
            .ok();
        if let Some(user) = &self.user {
            user.give(&archive);
        }
        self.podman(&["import", "-q", &archive.to_string_lossy(), "busybox"])
            .run()
            .code
            == 0
    }

    fn runs(&self, count: usize) -> String {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for number in 0..count {
            ours.extend(timed(self.dunlin(&[
                "run",
                "--rm",
                "--network",
                "none",
                &self.image,
                "true",
            ])));
            theirs.extend(self.bundle.run("crun", number));
        }
        let (ours, theirs) = (median(&mut ours).expect("dunlin's own must run"), median(&mut theirs));
        match theirs {
            Some(theirs) => format!(
                "{:.1} ms; crun on a bundle {:.1} ms; ratio {:.2}",
                ms(ours),
                ms(theirs),
                ours.as_secs_f64() / theirs.as_secs_f64()
            ),
            None => format!("{:.1} ms; crun does not run here", ms(ours)),
        }
    }

    /// The row of lists; one container of each runs already.
    fn lists(&self, count: usize) -> String {
        let mut podman = self.podman;
        for number in 1..LISTED {
            let name = format!("sleeps{number}");
            let start = |image| {
                [
                    "run",
                    "-d",
                    "--name",
                    &name,
                    "--network",
                    "none",
                    image,
                    "sleep",
                    "1000",
                ]
            };
            self.dunlin(&start(&self.image)).ok();
            podman &= self.podman(&start("busybox")).run().code == 0;
        }
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for number in 0..count {
            ours.extend(timed(self.dunlin(&["ps"])));
            if podman && number < count.min(10) {
                theirs.extend(timed(self.podman(&["ps"])));
            }
        }
        against(&mut ours, &mut theirs)
    }

    /// The row of execs, and what podman keeps beside the container.
    fn execs(&self, count: usize) -> (String, String) {
        let limits = ["--ulimit", "nofile=512:512", "--ulimit", "nproc=4096:4096"];
        let started = [
            &["run", "-d", "--name", "sleeps", "--network", "none"],
            &limits[..],
            &["busybox", "sleep", "1000"],
        ];
        let podman = self.podman && self.podman(&started.concat()).run().code == 0;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for number in 0..count {
            ours.extend(timed(self.dunlin(&["exec", "sleeps", "true"])));
            // It is slow, and its median does not wander.
            if podman && number < count.min(10) {
                theirs.extend(timed(self.podman(&["exec", "sleeps", "true"])));
            }
        }
        let exec = against(&mut ours, &mut theirs);
        let conmon = match podman {
            true => self
                .podman(&["inspect", "--format", "{{.ConmonPidFile}}", "sleeps"])
                .ok()
                .trim()
                .to_owned(),
            false => String::new(),
        };
        let memory = fs::read_to_string(conmon).ok().and_then(|pid| pid.trim().parse().ok());
        let memory = memory.map(device::pss);
        let conmon = memory.map_or("not measured".to_owned(), |(pss, dirty)| {
            format!("{} / {} KB", pss / 1000, dirty / 1000)
        });
        (exec, conmon)
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.dunlin(&["rm", "-a", "-f", "-t", "0"]).run();
        if self.podman {
            self.podman(&["rm", "--all", "--force", "--time", "0"]).run();
            if self.user.is_some() {
                // Files of subordinate ids, and the process that holds the user namespace.
                self.podman(&["system", "migrate"]).run();
            }
        }
    }
}

/// Medians, and what part of podman's ours is.
fn against(ours: &mut [Duration], theirs: &mut [Duration]) -> String {
    let ours = median(ours).expect("dunlin's own must run");
    match median(theirs) {
        Some(theirs) => format!(
            "{:.1} ms; podman {:.1} ms; 1/{:.0}",
            ms(ours),
            ms(theirs),
            theirs.as_secs_f64() / ours.as_secs_f64()
        ),
        None => format!("{:.1} ms; podman does not run here", ms(ours)),
    }
}

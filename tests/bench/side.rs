//! A store of dunlin and one of podman with the same image, as root or as an ordinary user.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fixture::cmd::Cmd;
use super::fixture::images::{Format, Index};
use super::fixture::scratch::Scratch;
use super::fixture::user::User;
use super::installed;

/// What containers are started with.
const START: [&str; 4] = ["run", "-d", "--network", "none"];
/// podman raises limits unless told what they are; root may lack the capability for that.
const LIMITS: [&str; 4] = ["--ulimit", "nofile=512:512", "--ulimit", "nproc=4096:4096"];

/// A store of dunlin and one of podman, with the same image.
pub struct Side {
    pub user: Option<User>,
    /// dunlin's name of the image.
    pub image: String,
    /// Why there is no podman here.
    pub podman: Result<(), String>,
    driver: &'static str,
    pub scratch: Scratch,
}

impl Side {
    /// `driver` is podman's way of keeping images.
    pub fn new(rootless: bool, driver: &'static str) -> Result<Side, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("needs root".to_owned());
        }
        let user = rootless.then(User::with_ranges).transpose()?;
        let scratch = match &user {
            Some(user) => Scratch::owned_by("bench-life", user.uid()),
            None => Scratch::new("bench-life"),
        };
        let layout = scratch.folder("layout");
        Index::busybox(Format::Oci).write_layout(&layout, "latest");
        let mut side = Side {
            user,
            image: String::new(),
            podman: Ok(()),
            driver,
            scratch,
        };
        if let Some(user) = &side.user {
            user.give(side.scratch.path());
        }
        let source = format!("oci:{}:latest", layout.display());
        side.image = side.dunlin(&["pull", "-q", &source]).ok();
        side.podman = side.podman_import();
        // The keeper stays as long as somebody runs.
        side.start("sleeps").ok();
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

    pub fn dunlin(&self, args: &[&str]) -> Cmd {
        let cmd = self.program(&super::fixture::cmd::dunlin());
        let cmd = cmd.arg("--root").arg(self.folder("data"));
        cmd.arg("--runroot").arg(self.folder("run")).args(args)
    }

    pub fn podman(&self, args: &[&str]) -> Cmd {
        let cmd = self.program(Path::new("podman"));
        let cmd = cmd.arg("--root").arg(self.folder("podman"));
        let cmd = cmd.arg("--runroot").arg(self.folder("podman-run"));
        let cmd = cmd.args(["--storage-driver", self.driver, "--cgroup-manager", "cgroupfs"]);
        let cmd = cmd.args(["--events-backend", "file"]).args(args);
        cmd.timeout(Duration::from_secs(300))
    }

    /// A container that idles.
    pub fn start(&self, name: &str) -> Cmd {
        let image = ["--name", name, &self.image, "sleep", "100000"];
        self.dunlin(&START).args(image)
    }

    /// The same of podman's.
    pub fn podman_start(&self, name: &str, image: &str) -> Cmd {
        let image = ["--name", name, image, "sleep", "100000"];
        self.podman(&START).args(LIMITS).args(image)
    }

    /// podman's own copy of busybox, from a plain archive.
    fn podman_import(&self) -> Result<(), String> {
        installed("podman")?;
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
        let out = self
            .podman(&["import", "-q", &archive.to_string_lossy(), "busybox"])
            .run();
        match out.code {
            0 => Ok(()),
            _ => Err(out.stderr),
        }
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.dunlin(&["rm", "-a", "-f", "-t", "0"]).run();
        if self.podman.is_ok() {
            self.podman(&["rm", "--all", "--force", "--time", "0"]).run();
            if self.user.is_some() {
                // Files of subordinate ids, and the process that holds the user namespace.
                self.podman(&["system", "migrate"]).run();
            }
        }
    }
}

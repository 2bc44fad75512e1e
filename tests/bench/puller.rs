//! Those that pull, each into a store on a new ext4 file system, and what that costs.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::containerd;
use super::fixture::child::{self, Running};
use super::fixture::cmd::{self, Cmd};
use super::fixture::scratch::Scratch;
use super::process::{Watch, ours, write_bytes};

/// What one pull cost.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    pub wall: Duration,
    /// Bytes.
    pub peak: u64,
    /// Bytes.
    pub written: u64,
}

/// One that pulls.
pub struct Peer {
    pub name: &'static str,
    store: PathBuf,
    daemon: Option<Running>,
}

impl Peer {
    fn new(scratch: &Scratch, name: &'static str) -> Peer {
        Peer {
            name,
            store: scratch.join(name),
            daemon: None,
        }
    }

    pub fn dunlin(scratch: &Scratch) -> Peer {
        Peer::new(scratch, "dunlin")
    }

    pub fn podman(scratch: &Scratch) -> Peer {
        Peer::new(scratch, "podman")
    }

    pub fn skopeo(scratch: &Scratch) -> Peer {
        Peer::new(scratch, "skopeo")
    }

    pub fn containerd(scratch: &Scratch) -> Peer {
        Peer::new(scratch, "containerd")
    }

    pub fn command(&self, reference: &str) -> Cmd {
        let (data, run) = (self.store.join("data"), self.store.with_extension("run"));
        let words = |cmd: Cmd, words: &[&str]| cmd.args(words).timeout(Duration::from_secs(300));
        match self.name {
            "dunlin" => {
                let cmd = Cmd::new(cmd::dunlin())
                    .arg("--root")
                    .arg(data)
                    .arg("--runroot")
                    .arg(run);
                words(cmd, &["pull", "-q", "--tls-verify=false", reference])
            }
            "podman" => {
                let cmd = Cmd::new("podman").arg("--root").arg(data).arg("--runroot").arg(run);
                words(
                    cmd,
                    &[
                        "--storage-driver",
                        "overlay",
                        "pull",
                        "-q",
                        "--tls-verify=false",
                        reference,
                    ],
                )
            }
            "skopeo" => {
                let from = format!("docker://{reference}");
                let cmd = words(Cmd::new("skopeo"), &["copy", "-q", "--src-tls-verify=false", &from]);
                cmd.arg(format!("dir:{}", data.display()))
            }
            _ => words(
                containerd::ctr(&self.store),
                &["images", "pull", "--plain-http", reference],
            ),
        }
    }

    /// Into an empty store.
    pub fn pull(&mut self, reference: &str, watched: bool) -> Result<Cost, String> {
        self.empty();
        self.make()?;
        if self.name == "containerd" {
            self.daemon = Some(containerd::start(&self.store)?);
        }
        let _ = Cmd::new("sync").arg("-f").arg(&self.store).run();
        let daemon = self.daemon.as_ref().map(Running::pid);
        let written = |daemon: Option<u32>| {
            let daemon = daemon.map_or(0, |pid| write_bytes(&pid.to_string()));
            write_bytes("self") + daemon
        };
        let before = written(daemon);
        let watch = watched.then(|| Watch::start(daemon));
        let began = Instant::now();
        let mut command = self.command(reference).into_command();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let out = command.output().map_err(|e| e.to_string())?;
        let sync = Cmd::new("sync").arg("-f").arg(&self.store).run();
        let wall = began.elapsed();
        let peak = watch.map_or(0, Watch::end);
        if !out.status.success() || sync.code != 0 {
            return Err(String::from_utf8_lossy(&out.stderr).trim().to_owned());
        }
        // The keeper has the workers' counts, and is new.
        let keeper = match self.name {
            "dunlin" => ours().into_iter().map(|pid| write_bytes(&pid.to_string())).sum(),
            _ => 0,
        };
        Ok(Cost {
            wall,
            peak,
            written: written(daemon) - before + keeper,
        })
    }

    /// Takes the store away.
    fn empty(&mut self) {
        self.daemon = None;
        if self.name == "dunlin" {
            // The keeper stays for a while; the next pull's is a new one, which counts from nothing.
            let store = self.store.to_string_lossy().into_owned();
            let of_it = |pid: &u32| {
                fs::read(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&store))
            };
            ours().into_iter().filter(of_it).for_each(child::end);
        }
        if self.name == "podman" {
            // Its overlay keeps a mount of its own.
            let _ = Cmd::new("umount").arg(self.store.join("data/overlay")).run();
        }
        if self.store.exists() {
            let _ = Cmd::new("umount").arg(&self.store).run();
            let _ = fs::remove_dir(&self.store);
        }
        let _ = fs::remove_file(self.store.with_extension("img"));
    }

    /// A new file system for the store: on one that lost many files a short time ago ext4 looks for free inodes much longer,
    /// whoever asks.
    fn make(&self) -> Result<(), String> {
        let image = self.store.with_extension("img");
        fs::create_dir_all(&self.store).map_err(|e| e.to_string())?;
        let file = fs::File::create(&image).map_err(|e| e.to_string())?;
        file.set_len(6 << 30).map_err(|e| e.to_string())?;
        let made = Cmd::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).run();
        let mounted = Cmd::new("mount")
            .args(["-o", "loop"])
            .arg(&image)
            .arg(&self.store)
            .run();
        if made.code != 0 || mounted.code != 0 {
            return Err(format!("{}{}", made.stderr, mounted.stderr));
        }
        fs::create_dir_all(self.store.join("data")).map_err(|e| e.to_string())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.empty();
    }
}

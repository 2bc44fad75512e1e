//! Row N3: `runtime run` of a static /bin/true in a prepared bundle, against crun and runc on the same bundle, in turn.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::fixture::arch::Arch;
use super::fixture::cmd::{Cmd, dunlin};
use super::fixture::scratch::Scratch;
use super::fixture::user::User;
use super::{Table, median, ms};

/// The runtimes; the first one is measured against the second.
const PEERS: [&str; 3] = ["dunlin", "crun", "runc"];

/// Measures as root and as a user.
pub fn rows(table: &mut Table, count: usize) {
    let mut add = |who: &str, bundle: Result<Bundle, String>| {
        let what = format!("`runtime run` of /bin/true in a prepared bundle, {who}");
        let measured = match bundle {
            Ok(bundle) => bundle.measure(count),
            Err(reason) => format!("not measured: {reason}"),
        };
        table.row("N3", &what, "≤ 0.6 × crun", measured);
    };
    add("root", Bundle::new(None));
    add("rootless", User::with_ranges().and_then(|user| Bundle::new(Some(user))));
}

struct Bundle {
    scratch: Scratch,
    user: Option<User>,
}

impl Bundle {
    fn new(user: Option<User>) -> Result<Bundle, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("needs root".to_owned());
        }
        let scratch = match &user {
            Some(user) => Scratch::owned_by("bench-start", user.uid()),
            None => Scratch::new("bench-start"),
        };
        let bin = scratch.folder("b/rootfs/bin");
        fs::copy(Arch::host().busybox(), bin.join("true")).unwrap();
        let bundle = Bundle { scratch, user };
        let path = bundle.scratch.join("b");
        let mut spec = bundle.command(&dunlin()).args(["runtime", "spec", "-b"]).arg(&path);
        if let Some(user) = &bundle.user {
            user.give(&path);
            spec = spec.arg("--rootless");
        }
        spec.ok();
        let config = path.join("config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(["/bin/true"]);
        // runc of Debian 12 knows no newer one.
        spec["ociVersion"] = json!("1.0.2");
        fs::write(&config, spec.to_string()).unwrap();
        Ok(bundle)
    }

    fn command(&self, program: &Path) -> Cmd {
        let cmd = Cmd::new(program);
        match &self.user {
            Some(user) => cmd.user(user),
            None => cmd,
        }
    }

    /// Medians of each runtime, and the ratio of the first to the second.
    fn measure(&self, count: usize) -> String {
        let mut times: [Vec<Duration>; PEERS.len()] = Default::default();
        for number in 0..count {
            for (peer, times) in PEERS.iter().zip(&mut times) {
                // One that does not run here is not tried again.
                if number == 0 || !times.is_empty() {
                    times.extend(self.run(peer, number));
                }
            }
        }
        let medians = times.map(|mut times| median(&mut times));
        let text = |(peer, time): (&&str, &Option<Duration>)| match time {
            Some(time) => format!("{peer} {:.1} ms", ms(*time)),
            None => format!("{peer} does not run here"),
        };
        let mut all: Vec<String> = PEERS.iter().zip(&medians).map(text).collect();
        if let [Some(ours), Some(theirs), _] = medians {
            all.push(format!(
                "ratio to crun {:.2}",
                ours.as_secs_f64() / theirs.as_secs_f64()
            ));
        }
        all.join("; ")
    }

    fn run(&self, peer: &str, number: usize) -> Option<Duration> {
        let cmd = match peer {
            "dunlin" => self.command(&dunlin()).arg("runtime"),
            "crun" if self.user.is_some() => self.command(Path::new("crun")).arg("--cgroup-manager=disabled"),
            other => self.command(Path::new(other)),
        };
        let states = self.scratch.join(format!("states-{peer}"));
        let cmd = cmd
            .arg("--root")
            .arg(states)
            .args(["run", "-b"])
            .arg(self.scratch.join("b"));
        let mut command = cmd.arg(format!("t{number}")).into_command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let began = Instant::now();
        let status = command.status().ok()?;
        let wall = began.elapsed();
        assert!(status.success() || peer != "dunlin", "dunlin's own must run: {status}");
        status.success().then_some(wall)
    }
}

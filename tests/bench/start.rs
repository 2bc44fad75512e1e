//! Rows N3 and N8, as runtimes: `runtime run` of a static /bin/true in a prepared bundle, and `runtime exec` of it in a
//! container, against crun and runc on the same bundle, in turn.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::fixture::arch::Arch;
use super::fixture::cmd::{Cmd, dunlin};
use super::fixture::scratch::Scratch;
use super::fixture::user::User;
use super::table::{Figure, Table};
use super::{Scale, median, timed};

/// The runtimes; the first one is measured against the second.
const PEERS: [&str; 3] = ["dunlin", "crun", "runc"];

/// Measures as root and as a user.
pub fn rows(table: &mut Table, scale: &Scale) {
    let count = scale.of(50, 10);
    let mut add = |who: &str, bundle: Result<Bundle, String>| {
        let run = format!("`runtime run` of /bin/true in a prepared bundle, {who}");
        let exec = format!("`runtime exec` of /bin/true, {who}");
        match bundle {
            Ok(bundle) => {
                table.row("N3", &run, "≤ 0.6 × crun", bundle.measure(count, Bundle::run));
                table.row("N8", &exec, "no more than crun", bundle.execs(count));
            }
            Err(reason) => {
                table.missing("N3", &run, &reason);
                table.missing("N8", &exec, &reason);
            }
        }
    };
    add("root", Bundle::new(None));
    add("rootless", User::with_ranges().and_then(|user| Bundle::new(Some(user))));
}

/// A prepared bundle that runs /bin/true.
pub struct Bundle {
    scratch: Scratch,
    user: Option<User>,
}

impl Bundle {
    /// For root or a user.
    pub fn new(user: Option<User>) -> Result<Bundle, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("needs root".to_owned());
        }
        let scratch = match &user {
            Some(user) => Scratch::owned_by("bench-start", user.uid()),
            None => Scratch::new("bench-start"),
        };
        let bin = scratch.folder("b/rootfs/bin");
        for name in ["true", "sleep"] {
            fs::copy(Arch::host().busybox(), bin.join(name)).unwrap();
        }
        let bundle = Bundle { scratch, user };
        let path = bundle.scratch.join("b");
        let mut spec = bundle.command(&dunlin()).args(["runtime", "spec", "-b"]).arg(&path);
        if let Some(user) = &bundle.user {
            user.give(&path);
            spec = spec.arg("--rootless");
        }
        spec.ok();
        bundle.set(&["/bin/true"]);
        Ok(bundle)
    }

    fn command(&self, program: &Path) -> Cmd {
        let cmd = Cmd::new(program);
        match &self.user {
            Some(user) => cmd.user(user),
            None => cmd,
        }
    }

    /// Sets what runs in it.
    fn set(&self, args: &[&str]) {
        let config = self.scratch.join("b/config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(args);
        // runc of Debian 12 knows no newer one.
        spec["ociVersion"] = json!("1.0.2");
        fs::write(&config, spec.to_string()).unwrap();
    }

    /// Medians of each runtime, and the ratio of the first to the second.
    pub fn measure(&self, count: usize, once: impl Fn(&Self, &str, usize) -> Option<Duration>) -> Vec<Figure> {
        let mut times: [Vec<Duration>; PEERS.len()] = Default::default();
        for number in 0..count {
            for (peer, times) in PEERS.iter().zip(&mut times) {
                // One that does not run here is not tried again.
                if number == 0 || !times.is_empty() {
                    times.extend(once(self, peer, number));
                }
            }
        }
        let medians = times.map(|mut times| median(&mut times));
        let figure = |(peer, time): (&&str, &Option<Duration>)| match time {
            Some(time) => Figure::time(peer, *time),
            None => Figure::missing(peer, "does not run here"),
        };
        let mut all: Vec<Figure> = PEERS.iter().zip(&medians).map(figure).collect();
        if let [Some(ours), Some(theirs), _] = medians {
            all.push(Figure::ratio("ratio to crun", ours, theirs));
        }
        all
    }

    /// The same for processes in a container of each.
    fn execs(&self, count: usize) -> Vec<Figure> {
        self.set(&["/bin/sleep", "1000"]);
        for peer in PEERS {
            let started = self.timed(peer, &["run", "--detach", "-b", &self.path(), "sleeps"]);
            assert!(started.is_some() || peer != "dunlin", "dunlin's own must run");
        }
        let measured = self.measure(count, |bundle, peer, _| {
            bundle.timed(peer, &["exec", "sleeps", "/bin/true"])
        });
        for peer in PEERS {
            self.timed(peer, &["delete", "--force", "sleeps"]);
        }
        self.set(&["/bin/true"]);
        measured
    }

    fn path(&self) -> String {
        self.scratch.join("b").to_string_lossy().into_owned()
    }

    /// How long a runtime takes to run it once.
    pub fn run(&self, peer: &str, number: usize) -> Option<Duration> {
        let time = self.timed(peer, &["run", "-b", &self.path(), &format!("t{number}")]);
        assert!(time.is_some() || peer != "dunlin", "dunlin's own must run");
        time
    }

    /// How long one call of a runtime takes, if it succeeds.
    fn timed(&self, peer: &str, args: &[&str]) -> Option<Duration> {
        let cmd = match peer {
            "dunlin" => self.command(&dunlin()).arg("runtime"),
            "crun" if self.user.is_some() => self.command(Path::new("crun")).arg("--cgroup-manager=disabled"),
            other => self.command(Path::new(other)),
        };
        let states = self.scratch.join(format!("states-{peer}"));
        timed(cmd.arg("--root").arg(states).args(args))
    }
}

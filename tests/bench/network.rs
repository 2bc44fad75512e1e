//! N7's row of a private network, and N23: a published TCP port against podman with the same helper. In a network of its own, as
//! an ordinary user.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::fixture::cmd::{Cmd, dunlin};
use super::fixture::images::{Format, Index};
use super::fixture::scratch::Scratch;
use super::fixture::site::{Site, within};
use super::fixture::user::User;
use super::table::{Figure, Table};
use super::{Scale, installed, median, timed};

/// Bytes that go through a port.
const BYTES: usize = 1 << 30;
/// Questions and answers of one byte.
const ASKED: u32 = 2000;
/// The port, on the host and in the container.
const PORT: &str = "8080:80";

/// Measures.
pub fn rows(table: &mut Table, scale: &Scale) {
    match Side::new() {
        Ok(side) => {
            side.starts(table, scale.of(20, 3));
            side.ports(table);
        }
        Err(reason) => table.missing("N23", "a published port", &reason),
    }
}

struct Side {
    site: Site,
    user: User,
    scratch: Scratch,
    image: String,
    podman: Result<(), String>,
}

impl Side {
    fn new() -> Result<Side, String> {
        let (site, user) = (Site::new()?, User::with_ranges()?);
        let scratch = Scratch::owned_by("bench-net", user.uid());
        let layout = scratch.folder("layout");
        Index::busybox(Format::Oci).write_layout(&layout, "latest");
        user.give(scratch.path());
        let mut side = Side {
            site,
            user,
            scratch,
            image: String::new(),
            podman: Ok(()),
        };
        let source = format!("oci:{}:latest", layout.display());
        side.image = side.dunlin(&["pull", "-q", &source]).ok();
        side.podman = installed("podman");
        if side.podman.is_ok() {
            side.podman(&["pull", "-q", &source]).ok();
            side.podman(&["tag", &side.image, "bench"]).ok();
        }
        // The keeper stays as long as somebody runs.
        side.dunlin(&["run", "-d", "--network", "none", &side.image, "sleep", "1000"])
            .ok();
        Ok(side)
    }

    fn program(&self, program: &Path) -> Cmd {
        self.site
            .cmd(Some(&self.user), program)
            .timeout(Duration::from_secs(120))
    }

    fn dunlin(&self, args: &[&str]) -> Cmd {
        let cmd = self.program(&dunlin()).arg("--root").arg(self.scratch.join("data"));
        cmd.arg("--runroot").arg(self.scratch.join("run")).args(args)
    }

    fn podman(&self, args: &[&str]) -> Cmd {
        let cmd = self
            .program(Path::new("podman"))
            .arg("--root")
            .arg(self.scratch.join("podman"));
        let cmd = cmd.arg("--runroot").arg(self.scratch.join("podman-run"));
        let flags = "--storage-driver vfs --cgroup-manager cgroupfs --events-backend file";
        cmd.args(flags.split(' ')).args(args)
    }

    /// What a private network adds to a start, against what its helper takes alone. All start through the same two programs that bring
    /// them into the network.
    fn starts(&self, table: &mut Table, count: usize) {
        let run = |network: &str| self.dunlin(&["run", "--rm", "--network", network, &self.image, "true"]);
        let pasta = || {
            self.program(Path::new("/usr/bin/pasta"))
                .args(["--config-net", "--", "true"])
        };
        let podman = || self.podman(&["run", "--rm", "bench", "true"]);
        let empty = || self.program(Path::new("/bin/true"));
        let mut samples: [Vec<Duration>; 5] = Default::default();
        for _ in 0..count {
            for (all, one) in samples
                .iter_mut()
                .zip([empty(), run("none"), run("private"), pasta(), podman()])
            {
                all.extend(timed(one));
            }
        }
        let [Some(empty), Some(none), Some(private), Some(pasta), podman] = samples.map(|mut all| median(&mut all))
        else {
            return table.missing("N7", "a private network", "a program failed");
        };
        let alone = |time: Duration| time.saturating_sub(empty);
        let (none, private, pasta) = (alone(none), alone(private), alone(pasta));
        let podman = match podman {
            Some(podman) => Figure::time("podman with slirp4netns", alone(podman)),
            None => Figure::missing("podman", "does not run here"),
        };
        table.row(
            "N7",
            "`run --rm --network private IMAGE true`, rootless",
            "≤ 1.15 × (without a network + pasta alone)",
            vec![
                Figure::time("", private),
                Figure::time("without a network", none),
                Figure::time("pasta alone", pasta),
                Figure::ratio("ratio", private, none + pasta),
                podman,
            ],
        );
    }

    fn ports(&self, table: &mut Table) {
        let modes = [
            ("dunlin, pasta", "pasta"),
            ("dunlin, slirp4netns", "slirp4netns"),
            ("podman, slirp4netns", "slirp4netns:port_handler=slirp4netns"),
            ("podman, slirp4netns and its own forwarder", "slirp4netns"),
        ];
        for (who, network) in modes {
            let flags = ["run", "-d", "--name", "port", "--network", network, "-p", PORT];
            let tool = |args: &[&str]| match who.starts_with("podman") {
                true => self.podman(args),
                false => self.dunlin(args),
            };
            let image = if who.starts_with("podman") {
                "bench"
            } else {
                &self.image
            };
            let what = format!("published port on loopback: {who}");
            if let (true, Err(why)) = (who.starts_with("podman"), &self.podman) {
                table.missing("N23", &what, why);
                continue;
            }
            let started = tool(&[&flags[..], &[image, "sleep", "1000"]].concat()).run();
            let measured = match started.code {
                0 => {
                    let pid = tool(&["inspect", "--format", "{{.State.Pid}}", "port"]).ok();
                    self.port(pid.parse().expect("it runs"))
                }
                _ => vec![Figure::missing("", &started.stderr)],
            };
            tool(&["rm", "-f", "-t", "0", "port"]).run();
            table.row("N23", &what, "≥ 1.0 × podman", measured);
        }
    }

    /// Throughput out of the container, and the time of an answer.
    fn port(&self, pid: u32) -> Vec<Figure> {
        let (sender, listens) = channel();
        within(pid, move || {
            let listener = TcpListener::bind("0.0.0.0:80").expect("free");
            sender.send(()).expect("it waits");
            let block = vec![7; 1 << 20];
            // A connection that says `1` gets everything, any other gets what it says.
            for stream in listener.incoming() {
                let mut stream = stream.expect("a client");
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() {
                    if byte == [1] {
                        (0..BYTES / block.len()).for_each(|_| stream.write_all(&block).expect("it reads"));
                        break;
                    }
                    stream.write_all(&byte).expect("it reads");
                }
            }
        });
        listens.recv_timeout(Duration::from_secs(10)).expect("it listens");
        let client = self.site.here(|| {
            let connect = || {
                let stream = TcpStream::connect("127.0.0.1:8080").expect("published");
                stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time");
                stream.set_nodelay(true).expect("TCP");
                stream
            };
            let mut stream = connect();
            let began = Instant::now();
            for _ in 0..ASKED {
                let mut byte = [2];
                stream.write_all(&byte).expect("it reads");
                stream.read_exact(&mut byte).expect("it answers");
            }
            let answer = began.elapsed() / ASKED;
            drop(stream);
            let mut stream = connect();
            let (began, mut got, mut block) = (Instant::now(), 0, vec![0; 1 << 20]);
            stream.write_all(&[1]).expect("it reads");
            while got < BYTES {
                match stream.read(&mut block) {
                    Ok(more @ 1..) => got += more,
                    _ => break,
                }
            }
            (got, began.elapsed(), answer)
        });
        let (got, wall, answer) = client.join().expect("it ends");
        let rate = Figure::new("", got as f64 / 1e6 / wall.as_secs_f64(), "MB/s");
        let rate = if got == BYTES { rate } else { rate.note("cut off") };
        vec![rate, Figure::time("an answer in", answer)]
    }
}

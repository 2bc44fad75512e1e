//! Rows N14 to N16, N18 and N26: one deployment after another over a real broker, the images there already. Times are those at which
//! the containers' own first process ran and left a file, so that all that a start costs is in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::device::{Device, LONG, Setup};
use super::fixture::child;
use super::fixture::cmd::Cmd;
use super::fixture::images::{Format, Index};
use super::process::write_bytes;
use super::table::{Figure, Table, number};
use super::{Scale, TEN, median, ms};

/// Measures.
pub fn rows(table: &mut Table, scale: &Scale) {
    let count = scale.of(20, 2);
    match Device::new("bench", &Setup::default()) {
        Ok(device) => {
            let mut side = Side::new(device);
            side.updates(table, count);
            side.beside(table, count);
            side.rollbacks(table, count);
            side.starts(table, count);
            side.end();
        }
        Err(reason) => table.missing("N14 to N18", "deployments", &reason),
    }
    let device =
        Device::new("bench-written", &Setup::default()).and_then(|device| journalled(&device).map(|()| device));
    match device {
        Ok(device) => {
            let mut side = Side::new(device);
            side.written(table, count);
            side.end();
        }
        Err(reason) => table.missing("N26", "bytes written by one deployment", &reason),
    }
}

/// Puts the device's store on an ext4 as devices have it, whose journal takes what changes in folders and inodes. Without one, as
/// this machine's disk may be, every such block counts as written by whoever changes it.
fn journalled(device: &Device) -> Result<(), String> {
    let (image, data) = (device.scratch.join("disk"), device.scratch.folder("data"));
    let file = fs::File::create(&image).map_err(|e| e.to_string())?;
    file.set_len(512 << 20).map_err(|e| e.to_string())?;
    let made = Cmd::new("mkfs.ext4").arg("-q").arg(&image).run();
    let mounted = Cmd::new("mount").args(["-o", "loop"]).arg(&image).arg(&data).run();
    if made.code != 0 || mounted.code != 0 {
        return Err("no ext4 can be made and mounted".to_owned());
    }
    let _ = fs::remove_dir(data.join("lost+found"));
    device.user.give(&data);
    Ok(())
}

struct Side {
    device: Device,
    image: String,
    count: u32,
}

impl Side {
    fn new(mut device: Device) -> Side {
        let image = device.registry.push("web", "1", &Index::busybox(Format::Oci));
        // As on a device: what a reboot clears is in memory, and no write.
        let run = device.scratch.folder("run");
        let options = format!("mode=0700,uid={0},gid={0}", device.user.uid());
        Cmd::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&run)
            .ok();
        device.start();
        Side {
            device,
            image,
            count: 0,
        }
    }

    fn end(mut self) {
        self.device.clean();
        for folder in ["run", "data"] {
            // The keeper leaves a moment later; and not every side has both.
            Cmd::new("umount").arg("-l").arg(self.device.scratch.join(folder)).run();
        }
    }

    /// An app that notes in a folder of its own when it runs and when it is told to end; the folder.
    fn app(&mut self) -> (Value, PathBuf) {
        self.count += 1;
        let marks = self.device.scratch.folder(&format!("marks-{}", self.count));
        self.device.user.give(&marks);
        let script = "echo >/m/started; trap 'echo >/m/stopped; exit 0' TERM; sleep 100000 & wait";
        let app = json!({
            "name": "web", "image": self.image, "command": ["sh", "-c", script],
            "volumes": [format!("{}:/m", marks.display())], "env": {"N": self.count.to_string()},
            "health": {"exec": ["/bin/true"], "interval": "10s", "start_interval": "100ms"},
            "restart": {"policy": "no"}, "update": {"soak": "300ms"},
        });
        (app, marks)
    }

    /// Publishes the app; when, and the activity.
    fn publish(&mut self, app: Value) -> (SystemTime, String) {
        let document = self.device.document(json!([app]));
        let at = SystemTime::now();
        (at, self.device.publish(document))
    }

    /// When the deployment came to this state, by its own record.
    fn reached(&mut self, activity: &str, state: &str) -> SystemTime {
        let record = self.device.wait_state(activity, state);
        UNIX_EPOCH + Duration::from_millis(record["since"].as_u64().expect("a time"))
    }

    fn updates(&mut self, table: &mut Table, count: usize) {
        let (mut runs, mut healthy, mut gaps) = (Vec::new(), Vec::new(), Vec::new());
        let mut before: Option<PathBuf> = None;
        // The first one has no old version to stop.
        for _ in 0..=count {
            let (app, marks) = self.app();
            let (at, activity) = self.publish(app);
            let well = self.reached(&activity, "SOAKING");
            self.reached(&activity, "COMMITTED");
            let started = modified(&marks.join("started"));
            if let Some(old) = before.replace(marks) {
                runs.push(since(started, at));
                healthy.push(since(well, at));
                gaps.push(since(started, modified(&old.join("stopped"))));
            }
        }
        let what = "document published → new container runs / is healthy, image cached";
        let measured = vec![spread("runs", &mut runs), spread("is healthy", &mut healthy)];
        table.row("N14", what, "≤ 150 / 300 ms", measured);
        let what = "old process told to end → new process runs, stop-first";
        table.row("N15", what, "≤ 30 ms", vec![spread("", &mut gaps)]);
    }

    /// Nothing that could take requests is allowed with start-first yet: what can be told is how long both versions run.
    fn beside(&mut self, table: &mut Table, count: usize) {
        let mut overlaps = Vec::new();
        let mut before: Option<PathBuf> = None;
        for _ in 0..=count {
            let (mut app, marks) = self.app();
            app["update"]["strategy"] = json!("start-first");
            app["volumes"] = json!([format!("{}:/m:shared", marks.display())]);
            let (_, activity) = self.publish(app);
            self.reached(&activity, "COMMITTED");
            if let Some(old) = before.replace(marks.clone()) {
                overlaps.push(since(modified(&old.join("stopped")), modified(&marks.join("started"))));
            }
        }
        let what = "start-first: new process runs → old process is told to end; requests not measured: host network and host ports are refused \
                    with start-first";
        table.row(
            "N15",
            what,
            "0 failed requests at 500/s",
            vec![spread("", &mut overlaps)],
        );
    }

    fn rollbacks(&mut self, table: &mut Table, count: usize) {
        let (good, marks) = self.app();
        let (_, activity) = self.publish(good);
        self.reached(&activity, "COMMITTED");
        let mut times = Vec::new();
        for _ in 0..count {
            let (mut bad, _) = self.app();
            bad["update"]["soak"] = json!("60s");
            let (_, activity) = self.publish(bad);
            self.reached(&activity, "SOAKING");
            let pid = self.device.pid("web");
            let at = SystemTime::now();
            let first = nix::unistd::Pid::from_raw(pid.cast_signed());
            nix::sys::signal::kill(first, nix::sys::signal::Signal::SIGKILL).expect("the test may");
            self.reached(&activity, "ROLLED_BACK");
            times.push(since(modified(&marks.join("started")), at));
        }
        let what = "the failed version's exit → the old version runs";
        table.row("N16", what, "≤ 100 ms", vec![spread("", &mut times)]);
    }

    /// Bytes that agent, keeper and monitors write for one update whose image is there.
    fn written(&mut self, table: &mut Table, count: usize) {
        let mut bytes = Vec::new();
        // The first one fetches the image.
        for number in 0..=count {
            let (app, _) = self.app();
            let before = self.write_bytes();
            let (_, activity) = self.publish(app);
            self.reached(&activity, "COMMITTED");
            // The old container is removed after that.
            std::thread::sleep(Duration::from_millis(700));
            if number > 0 {
                bytes.push(Duration::from_nanos(self.write_bytes().saturating_sub(before)));
            }
        }
        let middle = median(&mut bytes).expect("at least one").as_nanos();
        let what =
            "bytes written by one deployment, `write_bytes` of agent, keeper and monitors, on ext4 with a journal";
        table.row("N26", what, "≤ 100 KB", vec![Figure::kb("", middle as u64)]);
    }

    fn write_bytes(&self) -> u64 {
        let mut pids: Vec<u32> = ["keeper", "monitor", "worker"]
            .iter()
            .flat_map(|role| self.device.role(role))
            .collect();
        pids.extend(self.device.agent.as_ref().map(child::Running::pid));
        pids.into_iter().map(|pid| write_bytes(&pid.to_string())).sum()
    }

    /// Ten apps come up as after a power cut: no process of the device lives.
    fn starts(&mut self, table: &mut Table, count: usize) {
        let marks = self.device.scratch.folder("marks");
        self.device.user.give(&marks);
        let apps: Vec<Value> = (0..TEN)
            .map(|n| {
                json!({"name": format!("app{n}"), "image": self.image, "update": {"soak": "100ms"},
                       "command": ["sh", "-c", format!("echo >/m/{n}; exec sleep 100000")],
                       "volumes": [format!("{}:/m", marks.display())]})
            })
            .collect();
        let activity = self.device.deploy(json!(apps));
        self.device.wait_state(&activity, "COMMITTED");
        let mut times = Vec::new();
        for _ in 0..count {
            let mut agent = self.device.agent.take().expect("it runs");
            agent.kill();
            for (pid, _) in self.device.scratch.processes() {
                child::end(pid);
            }
            while !self.device.role("monitor").is_empty() {
                std::thread::sleep(Duration::from_millis(20));
            }
            (0..TEN).for_each(|n| fs::remove_file(marks.join(n.to_string())).unwrap());
            let at = SystemTime::now();
            self.device.start_with(|c| c);
            let began = Instant::now();
            while (0..TEN).any(|n| !marks.join(n.to_string()).exists()) {
                assert!(
                    began.elapsed() < LONG,
                    "{}",
                    self.device.agent.as_ref().unwrap().output()
                );
                std::thread::sleep(Duration::from_millis(2));
            }
            let last = (0..TEN).map(|n| modified(&marks.join(n.to_string()))).max().unwrap();
            times.push(since(last, at));
            std::thread::sleep(Duration::from_secs(1));
        }
        let what = "agent's start → 10 cached containers run, the keeper's start included";
        table.row("N18", what, "≤ 200 ms", vec![spread("", &mut times)]);
    }
}

fn modified(path: &Path) -> SystemTime {
    let metadata = fs::metadata(path).unwrap_or_else(|error| panic!("`{}`: {error}", path.display()));
    metadata.modified().expect("times are kept")
}

/// Times of files are those of the last tick, and may seem a few milliseconds early.
fn since(at: SystemTime, before: SystemTime) -> Duration {
    at.duration_since(before).unwrap_or_default()
}

/// The median, and what is around it.
fn spread(label: &str, times: &mut [Duration]) -> Figure {
    let count = times.len();
    let middle = median(times).expect("at least one");
    let [least, most] = [times[0], times[count - 1]].map(|time| number(ms(time)));
    Figure::time(label, middle).note(format!("{least} to {most}, {count} runs"))
}

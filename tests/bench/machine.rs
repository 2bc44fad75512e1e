//! What figures depend on: the machine, its disk, and what else it does.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use super::device::now;
use super::fixture::cmd;
use super::fixture::images::digest;
use super::fixture::scratch::Scratch;
use super::table::number;
use super::{median, ms};

/// Writes that are measured on the disk.
const WRITES: usize = 200;

/// What stays the same during a run.
pub fn head() -> Vec<(String, String)> {
    let binary = fs::read(cmd::dunlin()).unwrap_or_default();
    let mut head = Vec::new();
    let mut add = |name: &str, value: String| head.push((name.to_owned(), value));
    add("date (UTC)", now().rfc3339());
    add("commit", commit().unwrap_or_else(|| "unknown".to_owned()));
    let sum = digest(&binary);
    add(
        "binary",
        format!("{} bytes, {}", binary.len(), &sum[..sum.len().min(19)]),
    );
    add(
        "processor",
        format!("{}, {} cores", field("/proc/cpuinfo", "model name"), cores()),
    );
    add("memory", memory());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // Its version; what a builder added says nothing to others.
    add("kernel", kernel.trim().split('-').next().unwrap_or_default().to_owned());
    add("control groups", control_groups().to_owned());
    add("one fsync'd write of 4 KiB on the store's disk", fsync_cost());
    head
}

/// The three averages.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn commit() -> Option<String> {
    let git = |args: &[&str]| {
        let folder = env!("CARGO_MANIFEST_DIR");
        let out = Command::new("git").arg("-C").arg(folder).args(args).output().ok()?;
        let text = String::from_utf8(out.stdout).ok()?;
        out.status.success().then(|| text.trim().to_owned())
    };
    let head = git(&["rev-parse", "--short", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(format!("{head}{}", if changed.is_empty() { "" } else { "-dirty" }))
}

/// The first value of a field of a file in `/proc`.
fn field(file: &str, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let value = lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim());
    value.unwrap_or("unknown").to_owned()
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

fn memory() -> String {
    let kib: Option<f64> = field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().ok();
    kib.map_or("unknown".to_owned(), |kib| {
        format!("{} GiB", number(kib / f64::from(1 << 20)))
    })
}

fn control_groups() -> &'static str {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        "version 2"
    } else {
        "version 1"
    }
}

fn fsync_cost() -> String {
    let scratch = Scratch::new("bench-disk");
    let mut file = File::create(scratch.join("file")).expect("own folder");
    let mut times: Vec<_> = (0..WRITES)
        .map(|_| {
            let began = Instant::now();
            let written = file.write_all(&[7; 4096]).and_then(|()| file.sync_all());
            written.expect("room for it");
            began.elapsed()
        })
        .collect();
    let middle = median(&mut times).expect("at least one");
    format!(
        "{} ms ({} at the 99th of 100)",
        number(ms(middle)),
        number(ms(times[WRITES * 99 / 100]))
    )
}

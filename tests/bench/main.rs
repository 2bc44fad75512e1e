//! Measures rows N1 to N11, N13 to N16, N18 to N21, N23, N24 and N26 of the budgets against the static binaries and prints them as a table.
//!
//! Memory is PSS and private dirty from `smaps_rollup`, after a sync; CPU is user + system of a process and its reaped
//! children; times are wall-clock medians of whole processes. Numbers that are short of their budget stand as they are.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    dead_code,
    missing_docs
)]

#[path = "../it/fixture/mod.rs"]
#[macro_use]
mod fixture;
mod deploy;
#[path = "../it/device.rs"]
mod device;
mod life;
mod mqtt;
mod network;
mod pull;
mod start;

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use dunlin::monitor::client;
use dunlin::types::health::Health;
use serde_json::json;

use device::{Device, Setup};
use fixture::arch::Arch;
use fixture::cmd::Cmd;
use fixture::images::{Format, Index};

/// Containers of the rows with ten.
const TEN: usize = 10;

struct Table(Vec<[String; 4]>);

impl Table {
    fn row(&mut self, name: &str, what: &str, budget: &str, measured: String) {
        eprintln!("{name} {what}: {measured}");
        self.0.push([name.into(), what.into(), budget.into(), measured]);
    }

    fn print(&self) {
        println!("| row | what | budget | measured |\n|---|---|---|---|");
        for row in &self.0 {
            println!("| {} |", row.join(" | "));
        }
    }
}

fn main() {
    let smoke = std::env::args().any(|a| a == "smoke");
    let mut table = Table(Vec::new());
    if std::env::args().any(|a| a == "pull") {
        pull::rows(&mut table, 5, true);
        table.print();
        return;
    }
    if std::env::args().any(|a| a == "deploy") {
        deploy::rows(&mut table, 20);
        table.print();
        return;
    }
    if std::env::args().any(|a| a == "mqtt") {
        mqtt::rows(&mut table, if smoke { 100 } else { 1000 });
        table.print();
        return;
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, usual: u64| words.get(at).and_then(|word| word.parse().ok()).unwrap_or(usual);
    match words.first().map(String::as_str) {
        Some("idle") => {
            mqtt::idle(&mut table, number(1, 30));
            table.print();
            return;
        }
        Some("idle-one") => return mqtt::idle_one(number(1, 15), number(2, 30)),
        _ => {}
    }
    if std::env::args().any(|a| a == "network") {
        network::rows(&mut table, 20);
        table.print();
        return;
    }
    binaries(&mut table);
    start::rows(&mut table, if smoke { 10 } else { 50 });
    life::rows(&mut table, if smoke { 5 } else { 20 });
    if std::env::args().any(|a| a == "start") {
        table.print();
        return;
    }
    match Device::new(
        "bench",
        &Setup {
            tls: true,
            ..Setup::default()
        },
    ) {
        Ok(mut device) => {
            memory(&mut table, &mut device);
            probes(&mut table, &device, if smoke { 50 } else { 500 });
            device.clean();
        }
        Err(reason) => println!("SKIP: N2 and N4 to N6: {reason}"),
    }
    table.print();
}

fn binaries(table: &mut Table) {
    for (arch, budget) in [(Arch::Aarch64, 4), (Arch::X86_64, 5)] {
        let what = format!("static binary, {}", arch.name());
        let measured = match arch.static_binary() {
            Ok(path) => mib(fs::metadata(path).unwrap().len()),
            Err(reason) => format!("not measured: {reason}"),
        };
        table.row("N1", &what, &format!("≤ {budget} MiB"), measured);
    }
}

/// Agent, monitors and everything, without and with ten containers.
fn memory(table: &mut Table, device: &mut Device) {
    device.start();
    let image = device.registry.push("idle", "1", &Index::busybox(Format::Oci));
    let empty = device.deploy(json!([]));
    device.wait_state(&empty, "COMMITTED");
    std::thread::sleep(Duration::from_secs(10));
    let agent = device.agent.as_ref().unwrap().pid();
    table.row(
        "N2",
        "agent idle over TLS, 0 containers, PSS (with the keeper)",
        "≤ 3.5 MB",
        format!("{} ({})", mb(device::pss(agent).0), mb(device.memory().0)),
    );
    let apps: Vec<_> = (0..TEN)
        .map(|n| json!({"name": format!("idle{n}"), "image": image, "command": ["sleep", "100000"], "update": {"soak": "100ms"}}))
        .collect();
    let ten = device.deploy(json!(apps));
    device.wait_state(&ten, "COMMITTED");
    let _ = Cmd::new("sync").run();
    // The last `reported` comes within five seconds.
    std::thread::sleep(Duration::from_secs(10));
    let agent = device.agent.as_ref().unwrap().pid();
    table.row(
        "N2",
        "agent idle over TLS, 10 containers, PSS (agent alone)",
        "≤ 4 MB",
        mb(device::pss(agent).0),
    );
    let monitors: Vec<(u64, u64)> = device.role("monitor").into_iter().map(device::pss).collect();
    assert_eq!(monitors.len(), TEN, "a monitor each");
    let mean = |f: fn(&(u64, u64)) -> u64| monitors.iter().map(f).sum::<u64>() / TEN as u64;
    table.row(
        "N4",
        "monitor per running container, PSS / private dirty",
        "≤ 350 / 120 KB",
        format!("{} / {} KB", mean(|m| m.0) / 1000, mean(|m| m.1) / 1000),
    );
    table.row(
        "N5",
        "everything of dunlin with 10 idle containers, PSS",
        "≤ 8 MB",
        mb(device.memory().0),
    );
}

/// CPU of one probe: the monitor's own and that of its children, over many.
fn probes(table: &mut Table, device: &Device, count: u32) {
    let image = device.registry.push("probed", "1", &Index::busybox(Format::Oci));
    for (name, budget, health) in [
        ("exec", "≤ 2 ms", Health::exec(vec!["/bin/true".into()])),
        ("http", "≤ 0.5 ms", Health::http(8080, "/hostname")),
    ] {
        let flags: Vec<String> = match &health.exec {
            Some(_) => vec!["--health-cmd".into(), "[\"/bin/true\"]".into()],
            None => vec!["--health-http".into(), "8080/hostname".into()],
        };
        let container = format!("probe-{name}");
        let command = ["sh", "-c", "httpd -f -p 127.0.0.1:8080 -h /etc"];
        let started = device
            .dunlin()
            .args(["run", "-d", "--name", &container, "--health-interval", "1h"])
            .args(&flags)
            .arg(&image)
            .args(command)
            .run();
        if started.code != 0 {
            table.row(
                "N6",
                &format!("one {name} probe, CPU"),
                budget,
                format!("not measured: {}", started.stderr.trim()),
            );
            continue;
        }
        std::thread::sleep(Duration::from_millis(500));
        let id = device
            .dunlin()
            .args(["inspect", "--format", "{{.Id}}", &container])
            .ok();
        let run = device.scratch.join("run").join("c").join(id.trim());
        let monitor = device
            .role("monitor")
            .into_iter()
            .find(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|l| l.contains(id.trim())))
            .or_else(|| device.role("monitor").pop());
        let before = cpu_ticks(monitor.unwrap());
        let began = Instant::now();
        let mut failed = 0;
        for _ in 0..count {
            let answer = client::connect(&run).and_then(|c| c.probe(Duration::from_secs(30)));
            failed += u32::from(!answer.is_ok_and(|(record, _)| record.code == 0));
        }
        let wall = began.elapsed() / count;
        let ms = (cpu_ticks(monitor.unwrap()) - before) as f64 * 10.0 / f64::from(count);
        let note = if failed == 0 {
            String::new()
        } else {
            format!(", {failed} failed")
        };
        table.row(
            "N6",
            &format!("one {name} probe, CPU (wall)"),
            budget,
            format!("{ms:.2} ms ({wall:.1?}){note}"),
        );
        device.dunlin().args(["rm", "-f", "-t", "0", &container]).run();
    }
}

/// How long a command takes, without output and with an empty input; none where it fails.
fn timed(cmd: Cmd) -> Option<Duration> {
    let mut command = cmd.into_command();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    let status = command.status().ok()?;
    let wall = began.elapsed();
    status.success().then_some(wall)
}

fn median(all: &mut [Duration]) -> Option<Duration> {
    all.sort();
    all.get(all.len() / 2).copied()
}

/// User and system time of a process and its reaped children, in hundredths of a second.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
    (11..15).filter_map(|i| fields.get(i)?.parse::<u64>().ok()).sum()
}

fn mib(bytes: u64) -> String {
    format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20))
}

fn mb(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

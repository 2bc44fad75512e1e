//! Row N6: what one health probe costs.

use std::fs;
use std::time::{Duration, Instant};

use dunlin::monitor::client;
use dunlin::types::health::Health;

use super::Scale;
use super::device::{Device, Setup};
use super::fixture::images::{Format, Index};
use super::process::cpu_ticks;
use super::table::{Figure, Table};

/// Measures.
pub fn rows(table: &mut Table, scale: &Scale) {
    match Device::new("bench-probe", &Setup::default()) {
        Ok(mut device) => {
            device.start();
            probes(table, &device, scale.of(500, 50));
            device.clean();
        }
        Err(reason) => table.missing("N6", "one probe", &reason),
    }
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
        let what = format!("one {name} probe, CPU and wall");
        if started.code != 0 {
            table.missing("N6", &what, &started.stderr);
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
        let mut cpu = Figure::new("", ms, "ms");
        if failed > 0 {
            cpu = cpu.note(format!("{failed} failed"));
        }
        table.row("N6", &what, budget, vec![cpu, Figure::time("wall", wall)]);
        device.dunlin().args(["rm", "-f", "-t", "0", &container]).run();
    }
}

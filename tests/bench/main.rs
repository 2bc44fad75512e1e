//! Measures the rows of the budgets against the static binaries, with their peers in the same run; `tests/bench/run` says how to
//! call it.
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
mod arm;
mod chart;
mod containerd;
mod deploy;
#[path = "../it/device.rs"]
mod device;
mod footprint;
mod growth;
mod life;
mod machine;
mod mqtt;
mod network;
mod probe;
mod process;
mod pull;
mod puller;
mod quiet;
mod report;
mod side;
mod start;
mod table;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use fixture::cmd::Cmd;
use table::{Line, Table};

/// Containers of the rows with ten.
const TEN: usize = 10;

/// Rows that are measured together.
struct Group {
    name: &'static str,
    rows: &'static str,
    measure: fn(&mut Table, &Scale),
    /// Minutes after which it is ended, beside those that it is told to take.
    limit: u64,
}

const GROUPS: [Group; 11] = [
    group("start", "N3, N8", start::rows, 5),
    group("life", "N7, N8, N24", life::rows, 10),
    group("footprint", "N1, N2, N4, N5", footprint::rows, 15),
    group("probe", "N6", probe::rows, 5),
    group("pull", "N9, N10, N11, N13", pull::rows, 30),
    group("deploy", "N14, N15, N16, N18, N26", deploy::rows, 15),
    group("mqtt", "N20, N21", mqtt::rows, 15),
    group("network", "N7, N23", network::rows, 10),
    group("growth", "growth", growth::rows, 30),
    group("quiet", "N25", quiet::rows, 10),
    group("idle", "N19", mqtt::idle, 10),
];

/// What is measured when nothing is said.
const USUAL: [&str; 4] = ["start", "life", "footprint", "probe"];

const fn group(name: &'static str, rows: &'static str, measure: fn(&mut Table, &Scale), limit: u64) -> Group {
    Group {
        name,
        rows,
        measure,
        limit,
    }
}

/// How much is measured.
#[derive(Clone, Copy)]
struct Scale {
    /// As little as shows that it can be.
    smoke: bool,
    /// For what watches something that idles.
    minutes: Option<u64>,
}

impl Scale {
    fn of<T>(&self, usual: T, smoke: T) -> T {
        if self.smoke { smoke } else { usual }
    }
}

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let mut flag = |name: &str| {
        let before = words.len();
        words.retain(|word| word != name);
        words.len() < before
    };
    let (smoke, lines) = (flag("smoke"), flag("lines"));
    let number = |at: usize| words.get(at).and_then(|word| word.parse().ok());
    let scale = Scale {
        smoke,
        minutes: number(1),
    };
    let usual = || GROUPS.iter().filter(|group| USUAL.contains(&group.name));
    match words.first().map(String::as_str) {
        Some("idle-one") => {
            mqtt::idle_one(number(1).unwrap_or(15), number(2).unwrap_or(30));
            ExitCode::SUCCESS
        }
        Some("all") => report::all(&scale),
        None | Some("full") => report::together(usual(), &scale),
        Some(name) => match GROUPS.iter().find(|group| group.name == name) {
            Some(group) => alone(group, &scale, lines),
            None => {
                let names: Vec<&str> = GROUPS.iter().map(|group| group.name).collect();
                eprintln!("usage: tests/bench/run [all | {}] [MINUTES] [smoke]", names.join(" | "));
                ExitCode::from(2)
            }
        },
    }
}

/// Measures one group in this process.
fn alone(group: &Group, scale: &Scale, lines: bool) -> ExitCode {
    let mut table = Table {
        lines,
        ..Table::default()
    };
    let ended = catch_unwind(AssertUnwindSafe(|| (group.measure)(&mut table, scale))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let text = text.unwrap_or("it panicked").lines().next().unwrap_or_default();
        text.to_owned()
    });
    let code = ExitCode::from(u8::from(ended.is_err()));
    table.add(Line::Ended(ended));
    if !lines {
        print!("{}", table.markdown());
        report::draw(&table, &report::aside());
    }
    code
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

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Whether a peer is there.
fn installed(program: &str) -> Result<(), String> {
    program_file(program).map(|_| ())
}

fn program_file(program: &str) -> Result<std::path::PathBuf, String> {
    let folders = [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ];
    let file = folders.iter().map(|folder| Path::new(folder).join(program));
    file.into_iter()
        .find(|file| file.is_file())
        .ok_or_else(|| format!("`{program}` is not installed"))
}

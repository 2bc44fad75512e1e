//! stats and top.

use super::super::args::{StatsArgs, TopArgs};
use super::super::failure::Failure;
use super::super::listing::Listing;
use super::super::{human, table, time};
use super::lifecycle::one;
use super::pick::Choice;
use super::print;
use crate::engine::Engine;
use crate::engine::usage::Process;
use crate::engine::view::ContainerView;
use crate::runtime::cgroup::Stats;
use crate::sys::event::mono_ms;
use crate::sys::footprint::meminfo;
use crate::types::sorted::Sorted;
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;

/// Clock ticks of a second in /proc (USER_HZ, the same on every Linux architecture that dunlin runs on).
const TICKS: u64 = 100;
/// Clears the screen and goes to its top left.
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

pub fn stats(engine: &Engine, args: &StatsArgs) -> Result<u8, Failure> {
    let all = args.pick.containers.is_empty() && !args.pick.latest;
    let choice = Choice {
        latest: args.pick.latest,
        all,
        names: &args.pick.containers,
        ..Choice::default()
    };
    let mut before: Sorted<String, (u64, u64)> = Sorted::new();
    loop {
        let names = choice.names(engine, |view| args.all || view.status.is_live())?;
        let mut rows = Vec::new();
        let mut json = Vec::new();
        for name in names {
            let view = match engine.inspect(&name) {
                Ok(view) => view,
                // Gone since it was listed.
                Err(error) if all && error.is_no_container() => continue,
                Err(error) => return Err(error.into()),
            };
            let stats = engine.stats(&view).unwrap_or_default();
            let (row, full) = row(&view, &stats, &mut before, args.no_trunc);
            rows.push(row);
            json.push(full);
        }
        let listing = Listing {
            columns: vec![
                ("ID", "ID"),
                ("NAME", "Name"),
                ("CPU %", "CPUPerc"),
                ("MEM USAGE / LIMIT", "MemUsage"),
                ("MEM %", "MemPerc"),
                ("NET IO", "NetIO"),
                ("BLOCK IO", "BlockIO"),
                ("PIDS", "PIDS"),
                ("CPU TIME", "CPUTime"),
                ("AVG CPU %", "AvgCPU"),
            ],
            headers: &[],
            rows,
            json,
        };
        let text = listing.render(args.format.as_deref(), false)?;
        print(&if args.no_stream || args.no_reset || args.format.is_some() {
            text
        } else {
            format!("{CLEAR}{text}")
        })?;
        if args.no_stream {
            return Ok(0);
        }
        std::thread::sleep(Duration::from_secs(args.interval.clamp(1, 3600)));
    }
}

fn row(view: &ContainerView, stats: &Stats, before: &mut Sorted<String, (u64, u64)>, no_trunc: bool) -> (Value, Value) {
    let now = mono_ms();
    let id = view.record.id.hex();
    let cpu = stats.cpu_us.unwrap_or(0);
    let up_ms = view
        .started
        .map_or(0, |started| time::since(started, time::now()).as_millis() as u64);
    let average = percent(cpu, up_ms * 1000);
    let current = match before.insert(id.clone(), (now, cpu)) {
        Some((at, used)) => percent(cpu.saturating_sub(used), now.saturating_sub(at) * 1000),
        None => average,
    };
    let memory = stats
        .memory
        .map_or(0, |all| all.saturating_sub(stats.memory_inactive_file.unwrap_or(0)));
    let limit = stats.memory_limit.unwrap_or_else(host_memory);
    let known = |value: Option<u64>, text: String| if value.is_some() { text } else { "--".to_owned() };
    let row = json!({
        "ID": if no_trunc { id.clone() } else { view.record.id.short() },
        "Container": id,
        "Name": view.record.name,
        "CPU": format!("{current:.2}"),
        "CPUPerc": known(stats.cpu_us, format!("{current:.2}%")),
        "MemUsage": known(stats.memory, format!("{} / {}", human::size_short(memory), human::size_short(limit))),
        "MemUsageBytes": format!("{memory} / {limit}"),
        "MemPerc": known(stats.memory, format!("{:.2}%", percent(memory, limit))),
        "NetIO": "-- / --",
        "BlockIO": format!("{} / {}", io(stats.io_read), io(stats.io_write)),
        "PIDS": known(stats.pids, stats.pids.unwrap_or(0).to_string()),
        "PIDs": known(stats.pids, stats.pids.unwrap_or(0).to_string()),
        "CPUTime": known(stats.cpu_us, format!("{:.6}s", cpu as f64 / 1e6)),
        "UpTime": human::duration(Duration::from_millis(up_ms)),
        "AvgCPU": known(stats.cpu_us, format!("{average:.2}%")),
    });
    let full = json!({
        "id": view.record.id.short(),
        "name": view.record.name,
        "cpu_percent": format!("{current:.2}%"),
        "avg_cpu": format!("{average:.2}%"),
        "cpu_time": format!("{:.6}s", cpu as f64 / 1e6),
        "mem_usage": format!("{} / {}", human::size_short(memory), human::size_short(limit)),
        "mem_percent": format!("{:.2}%", percent(memory, limit)),
        "net_io": "-- / --",
        "block_io": format!("{} / {}", io(stats.io_read), io(stats.io_write)),
        "pids": stats.pids,
    });
    (row, full)
}

fn io(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "--".to_owned(), human::size_short)
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 * 100.0 / whole as f64
    }
}

/// Memory of the host, bytes.
pub fn host_memory() -> u64 {
    meminfo("MemTotal").unwrap_or(0)
}

/// Columns of `top`: podman's words for each, and its header.
const COLUMNS: [(&[&str], &str); 11] = [
    (&["user", "euser"], "USER"),
    (&["pid"], "PID"),
    (&["ppid"], "PPID"),
    (&["pcpu", "%cpu", "c"], "%CPU"),
    (&["etime", "elapsed"], "ELAPSED"),
    (&["tty"], "TTY"),
    (&["time"], "TIME"),
    (&["args", "command"], "COMMAND"),
    (&["comm"], "COMMAND"),
    (&["state", "s"], "STATE"),
    (&["hpid"], "HPID"),
];
/// The usual ones.
const USUAL: usize = 8;

pub fn top(engine: &Engine, args: &TopArgs) -> Result<u8, Failure> {
    // With --latest the first word is a column too.
    let words = args.container.iter().filter(|_| args.latest).chain(&args.columns);
    let mut columns = Vec::new();
    for word in words.flat_map(|words| words.split(',')) {
        let lower = word.to_ascii_lowercase();
        let found = COLUMNS.iter().position(|(names, _)| names.contains(&lower.as_str()));
        columns.push(found.ok_or_else(|| {
            let known: Vec<&str> = COLUMNS.iter().map(|(names, _)| names[0]).collect();
            Failure::new(format!("unknown column `{word}`: use {}", known.join(", ")))
        })?);
    }
    if columns.is_empty() {
        columns.extend(0..USUAL);
    }
    let view = one(engine, args.latest, args.container.as_deref())?;
    let processes = engine.processes(&view)?;
    let up = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let up_ticks = up
        .split('.')
        .next()
        .and_then(|seconds| seconds.parse::<u64>().ok())
        .unwrap_or(0)
        * TICKS;
    let mut text = columns.iter().map(|at| COLUMNS[*at].1).collect::<Vec<_>>().join("\t") + "\n";
    for process in &processes {
        let parent = processes
            .iter()
            .find(|other| other.host_pid == process.host_parent)
            .map_or(0, |parent| parent.pid);
        let cells: Vec<String> = columns.iter().map(|at| cell(*at, process, parent, up_ticks)).collect();
        text.push_str(&(cells.join("\t") + "\n"));
    }
    print(&table::align(&text))?;
    Ok(0)
}

fn cell(column: usize, process: &Process, parent: i32, up_ticks: u64) -> String {
    let alive = up_ticks.saturating_sub(process.start);
    let span = |ticks: u64| format!("{}", crate::types::time::Span(ticks / TICKS * 1000));
    match column {
        0 if process.uid == 0 => "root".to_owned(),
        0 => process.uid.to_string(),
        1 => process.pid.to_string(),
        2 => parent.to_string(),
        3 => format!("{:.3}", percent(process.ticks, alive)),
        4 => span(alive),
        5 => process.tty.clone(),
        6 => span(process.ticks),
        7 => table::printable(&process.command),
        8 => table::printable(&process.name),
        9 => process.state.clone(),
        _ => process.host_pid.to_string(),
    }
}

//! Several groups in one run, each in a process of its own, so that none ends with another; and what is written about them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::fixture::arch::target_dir;
use super::fixture::child;
use super::table::{Figure, Line, Results, Table};
use super::{GROUPS, Group, Scale, chart, machine, process};

/// For what idles, when nothing is said.
const MINUTES: u64 = 10;

/// Rows with commands of their own.
const ELSEWHERE: [(&str, &str, &str, &str); 5] = [
    (
        "N12",
        "bytes fetched twice per interruption: dropped link / kill / power cut",
        "0 / ≤ 1 MiB / ≤ 8 MiB",
        "`cargo test --locked --test it resume::`, `tests/powercut 100`",
    ),
    ("N17", "power cuts survived", "1,000 of 1,000", "`tests/powercut 1000`"),
    (
        "N19",
        "idle traffic per month, TLS 1.3, IP bytes",
        "≤ 0.75 MB",
        "`tests/bench/run idle 30`",
    ),
    (
        "N22",
        "fuzzing: executions without a finding: decoders / unpack",
        "≥ 100 million / 1 million",
        "`tests/fuzz/run SECONDS`",
    ),
    (
        "N26",
        "bytes written by one deployment, sectors of the device in a machine of its own",
        "≤ 512 KB",
        "`cargo test --locked --test it machines::boot -- --nocapture`",
    ),
];

/// Everything but what takes half an hour, into files beside this one; what is tried only, into a folder of what is built.
pub fn all(scale: &Scale) -> ExitCode {
    let mut head = machine::head();
    head.push(("load at the begin".to_owned(), machine::load()));
    let scale = Scale {
        minutes: Some(scale.minutes.unwrap_or(MINUTES)),
        ..*scale
    };
    let wanted = |group: &&Group| match group.name {
        "idle" => false,
        "quiet" => scale.minutes != Some(0),
        _ => true,
    };
    let began = Instant::now();
    let (mut table, failed) = run(GROUPS.iter().filter(wanted), &scale);
    for (row, what, budget, command) in ELSEWHERE {
        let figure = Figure::missing(&format!("by {command}"), "");
        table.row(row, what, budget, vec![figure]);
    }
    table.sort();
    head.push(("load at the end".to_owned(), machine::load()));
    head.push(("took".to_owned(), format!("{} min", began.elapsed().as_secs() / 60)));
    let folder = match scale.smoke {
        true => aside(),
        false => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench"),
    };
    let results = Results {
        head: &head,
        rows: &table.rows,
        growth: &table.panels,
    };
    write(&folder.join("RESULTS.md"), &results.markdown());
    write(&folder.join("RESULTS.json"), &results.json());
    draw(&table, &folder);
    print!("{}", results.markdown());
    code(failed)
}

/// Some groups, printed.
pub fn together<'a>(groups: impl Iterator<Item = &'a Group>, scale: &Scale) -> ExitCode {
    let (mut table, failed) = run(groups, scale);
    table.sort();
    print!("{}", table.markdown());
    draw(&table, &aside());
    code(failed)
}

/// The drawing of how things grow, if there is one.
pub fn draw(table: &Table, folder: &Path) {
    if !table.panels.is_empty() {
        write(&folder.join("growth.svg"), &chart::svg(&table.panels));
    }
}

/// Where things go that are not to be kept.
pub fn aside() -> PathBuf {
    let folder = target_dir().join("bench");
    fs::create_dir_all(&folder).expect("own folder");
    folder
}

fn write(path: &Path, text: &str) {
    match fs::write(path, text) {
        Ok(()) => eprintln!("written: {}", path.display()),
        Err(error) => eprintln!("`{}`: {error}", path.display()),
    }
}

fn code(failed: usize) -> ExitCode {
    ExitCode::from(u8::from(failed > 0))
}

/// All that these groups tell, and how many failed.
fn run<'a>(groups: impl Iterator<Item = &'a Group>, scale: &Scale) -> (Table, usize) {
    let (mut table, mut failed) = (Table::default(), 0);
    for group in groups {
        let began = Instant::now();
        if let Err(why) = one(group, scale, &mut table) {
            failed += 1;
            table.missing(group.rows, &format!("the group `{}` failed", group.name), &why);
        }
        eprintln!("{} took {:.0} s", group.name, began.elapsed().as_secs_f64());
    }
    (table, failed)
}

/// One group in a process of its own.
fn one(group: &Group, scale: &Scale, table: &mut Table) -> Result<(), String> {
    let mut command = Command::new(std::env::current_exe().map_err(|e| e.to_string())?);
    command.args([group.name, "lines"]);
    command.args(scale.minutes.map(|minutes| minutes.to_string()));
    command.args(scale.smoke.then_some("smoke"));
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|e| e.to_string())?;
    let stdout = BufReader::new(child.stdout.take().expect("piped"));
    let (sender, said) = channel();
    std::thread::spawn(move || {
        let lines = stdout.lines().map_while(Result::ok);
        let lines = lines.filter_map(|line| serde_json::from_str::<Line>(&line).ok());
        lines.map(|line| sender.send(line)).take_while(Result::is_ok).count()
    });
    let minutes = group.limit + scale.minutes.unwrap_or(0);
    let end = Instant::now() + Duration::from_secs(minutes * 60);
    let mut ended = Err("it ended early".to_owned());
    while let Ok(line) = said.recv_timeout(end.saturating_duration_since(Instant::now())) {
        match line {
            Line::Ended(how) => ended = how,
            other => table.keep(other),
        }
    }
    if Instant::now() >= end {
        ended = Err(format!("not done after {minutes} minutes"));
        let _ = child.kill();
    }
    let _ = child.wait();
    if ended.is_err() {
        process::left_by(child.id()).into_iter().for_each(child::end);
    }
    ended
}

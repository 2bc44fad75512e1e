//! Power cuts in number: `tests/powercut N [--arch aarch64] [--jobs N]`.
//!
//! Micro virtual machines run the agent through deployments on an ext4 disk, lose their power, and boot again on the same disk.
//! Afterwards every app must run in the old version or in the new one, the whole set alike; the journal must be read, the
//! store be sound, what the device reports be what runs, and the deployment come to its proper end, without a hand.
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
mod device;
mod judge;
mod plan;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use device::Device;
use fixture::arch::Arch;
use fixture::registry::Registry;
use fixture::vm::Vm;
use plan::{Clock, Phase, Seed};

struct Arguments {
    count: usize,
    arch: Arch,
    jobs: usize,
}

fn arguments() -> Result<Arguments, String> {
    let mut found = Arguments {
        count: 0,
        arch: Arch::X86_64,
        jobs: (2 * std::thread::available_parallelism().map_or(1, usize::from)).min(8),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("`{word}` needs a value"));
        match word.as_str() {
            "--arch" => found.arch = Arch::parse(&value()?).ok_or("`--arch` is x86_64 or aarch64")?,
            "--jobs" => found.jobs = value()?.parse().map_err(|_| "`--jobs` takes a number")?,
            number => found.count = number.parse().map_err(|_| format!("`{number}` is no number of cuts"))?,
        }
    }
    if found.count == 0 || found.jobs == 0 {
        return Err("usage: tests/powercut N [--arch aarch64] [--jobs N]".to_owned());
    }
    Ok(found)
}

/// Of one phase.
#[derive(Default)]
struct Row {
    steered: usize,
    random: usize,
    broken: usize,
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("powercut: {message}");
            return ExitCode::from(2);
        }
    };
    if let Err(reason) = Vm::new(arguments.arch).and_then(Vm::dunlin) {
        eprintln!("powercut: {reason}");
        return ExitCode::from(2);
    }
    let given = std::env::var("DUNLIN_SEED").ok();
    let seeds = match given.as_deref().map(Seed::parse) {
        Some(None) => {
            eprintln!("powercut: `DUNLIN_SEED` is a number and what the cut is steered to: `1234-switch`");
            return ExitCode::from(2);
        }
        // The one that failed, as often as asked for.
        Some(Some(seed)) => vec![seed; arguments.count],
        None => plan::seeds(arguments.count, UNIX_EPOCH.elapsed().map_or(1, |time| time.as_secs())),
    };
    let broken = match run(&arguments, &seeds) {
        Ok(broken) => broken,
        Err(reason) => {
            eprintln!("powercut: {reason}");
            return ExitCode::from(2);
        }
    };
    println!("powercut: {} cuts, {broken} broken", seeds.len());
    ExitCode::from(u8::from(broken > 0))
}

fn run(arguments: &Arguments, seeds: &[Seed]) -> Result<usize, String> {
    let began = Instant::now();
    let booted = device::booted(arguments.arch)?;
    let before = processors();
    println!(
        "a machine was booted and kept: {:.1} s, {before:.1} s of processors",
        began.elapsed().as_secs_f64()
    );
    let registry = Registry::plain();
    let images = device::images(&registry);
    match arguments.arch.static_binary() {
        Ok(program) => device::agents(&registry, &program),
        Err(reason) => println!("{reason}"),
    }
    let began = Instant::now();
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let rows: Mutex<BTreeMap<Phase, Row>> = Mutex::default();
    let spent: Mutex<[Duration; 5]> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.min(seeds.len()) {
            scope.spawn(|| {
                let mut device: Option<Device> = None;
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let own = device.get_or_insert_with(|| Device::new(&booted, &registry, &images));
                    let cut = seed.cut();
                    let (phase, result) = own.cut(&cut);
                    let parts = std::mem::take(&mut own.spent).parts();
                    for (sum, part) in spent.lock().unwrap().iter_mut().zip(parts) {
                        *sum += part;
                    }
                    let number = done.fetch_add(1, Ordering::Relaxed) + 1;
                    let all = seeds.len();
                    let mut rows = rows.lock().unwrap();
                    let row = rows.entry(phase).or_default();
                    let steered = seed.phase == Some(phase);
                    *(if steered { &mut row.steered } else { &mut row.random }) += 1;
                    let good = [
                        if cut.good { "good" } else { "bad" },
                        if cut.cold { " cold" } else { "" },
                        match (cut.offline, cut.clock) {
                            (false, _) => "",
                            (true, Clock::Right) => " offline",
                            (true, Clock::Beginning) => " offline-1970",
                            (true, Clock::Ahead) => " offline-ahead",
                        },
                    ]
                    .concat();
                    let at = phase.word();
                    match result {
                        Ok(end) => println!("{number}/{all} {seed} {good} cut in {at} by {:?}: {end}", cut.moment),
                        Err(fault) => {
                            row.broken += 1;
                            println!(
                                "{number}/{all} {seed} {good} cut in {at} by {:?}: BROKEN: {fault}",
                                cut.moment
                            );
                            // What is broken stays broken: the next cut has a new device.
                            device = None;
                        }
                    }
                }
            });
        }
    });
    let rows = rows.into_inner().unwrap();
    println!("\n{:<12} {:>8} {:>8} {:>8}", "state", "steered", "random", "broken");
    for phase in Phase::ALL {
        let row = rows.get(&phase);
        let (steered, random, broken) = row.map_or((0, 0, 0), |row| (row.steered, row.random, row.broken));
        println!("{:<12} {steered:>8} {random:>8} {broken:>8}", phase.word());
    }
    let took = began.elapsed().as_secs_f64();
    let count = seeds.len() as f64;
    let [until, boot, up, end, judged] = spent.into_inner().unwrap().map(|part| part.as_secs_f64() / count);
    let cpu = (processors() - before) / count;
    println!(
        "{took:.0} s with {} at once; a cut took {:.1} s and {cpu:.1} s of processors: {until:.1} s until it, {boot:.1} s to the",
        arguments.jobs,
        took / count
    );
    println!(
        "agent's start, {up:.1} s until all apps ran, {end:.1} s until the deployment was over, {judged:.1} s to look at it all"
    );
    Ok(rows.values().map(|row| row.broken).sum())
}

/// Seconds that the machines so far, which have ended, kept this host's processors.
fn processors() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or("").split_whitespace();
    // proc(5): `cutime` and `cstime`, in hundredths.
    fields
        .skip(13)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}

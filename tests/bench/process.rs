//! Processes as the kernel tells of them: whose they are, their memory, time and writes.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::device;
use super::fixture::cmd;

/// The processes that run the binary that is measured.
pub fn ours() -> Vec<u32> {
    let id = |path: &Path| fs::metadata(path).ok().map(|meta| file_id(&meta));
    let binary = id(&cmd::dunlin());
    processes()
        .into_iter()
        .filter(|pid| id(Path::new(&format!("/proc/{pid}/exe"))) == binary)
        .collect()
}

fn file_id(meta: &fs::Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

pub fn processes() -> Vec<u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Bytes that a process and those that it has waited for have had written to disk.
pub fn write_bytes(process: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/io")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

/// Looks at the memory of a pull until told to end.
pub struct Watch {
    over: Arc<AtomicBool>,
    peak: Arc<Mutex<u64>>,
    thread: thread::JoinHandle<()>,
}

impl Watch {
    /// Watches every new child of this process with all below it, a daemon, and dunlin's.
    pub fn start(daemon: Option<u32>) -> Watch {
        let (over, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(0)));
        let (ends, highest) = (Arc::clone(&over), Arc::clone(&peak));
        let own = std::process::id();
        let bench = fs::metadata("/proc/self/exe")
            .map(|exe| file_id(&exe))
            .unwrap_or_default();
        let others: HashSet<u32> = below(own).into_iter().filter(|pid| Some(*pid) != daemon).collect();
        let thread = thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let mut all: HashSet<u32> = below(own).into_iter().filter(|pid| !others.contains(pid)).collect();
                all.extend(daemon);
                all.extend(ours());
                // A child that has not yet become its program shares all memory with this process.
                all.retain(|pid| fs::metadata(format!("/proc/{pid}/exe")).is_ok_and(|exe| file_id(&exe) != bench));
                let now = all.into_iter().map(|pid| device::pss(pid).0).sum::<u64>();
                let mut highest = highest.lock().unwrap();
                *highest = now.max(*highest);
                drop(highest);
                thread::sleep(Duration::from_millis(5));
            }
        });
        Watch { over, peak, thread }
    }

    pub fn end(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        *self.peak.lock().unwrap()
    }
}

/// All processes below one.
pub fn below(root: u32) -> Vec<u32> {
    let parent = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok()
    };
    let all: Vec<(u32, u32)> = processes()
        .into_iter()
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        let above = found[at];
        found.extend(all.iter().filter(|(_, parent)| *parent == above).map(|(pid, _)| pid));
        at += 1;
    }
    found.split_off(1)
}

/// A process' command line, its words apart.
pub fn words(pid: u32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// Processes whose program has this name and whose command line holds this text.
pub fn named(program: &str, text: &str) -> Vec<u32> {
    let mut all = processes();
    all.retain(|pid| {
        let words = words(*pid);
        let first = words.first().map(|word| word.rsplit('/').next().unwrap_or(word));
        first == Some(program) && words.iter().any(|word| word.contains(text))
    });
    all
}

/// PSS and private dirty bytes of all these.
pub fn memory(pids: &[u32]) -> (u64, u64) {
    let each = pids.iter().map(|pid| device::pss(*pid));
    each.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

/// User and system time of a process and its reaped children, in hundredths of a second.
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
    (11..15).filter_map(|i| fields.get(i)?.parse::<u64>().ok()).sum()
}

/// What the threads of a process did so far.
#[derive(Clone, Copy, Default)]
pub struct Work {
    /// How often one slept, and so woke: changes of context of its own will. To be preempted is no wake-up.
    pub wakeups: u64,
    pub cpu: Duration,
    pub written: u64,
}

impl Work {
    pub fn of(pids: &[u32]) -> Work {
        let mut sum = Work::default();
        for pid in pids {
            sum.written += write_bytes(&pid.to_string());
            for task in fs::read_dir(format!("/proc/{pid}/task"))
                .into_iter()
                .flatten()
                .flatten()
            {
                let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
                let switches = read("status");
                let counts = switches
                    .lines()
                    .filter_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
                sum.wakeups += counts.filter_map(|count| count.trim().parse::<u64>().ok()).sum::<u64>();
                let ran = read("schedstat");
                let ran = ran.split(' ').next().and_then(|time| time.parse().ok());
                sum.cpu += Duration::from_nanos(ran.unwrap_or(0));
            }
        }
        sum
    }
}

/// Processes that name a scratch folder of this process, which is gone.
pub fn left_by(pid: u32) -> Vec<u32> {
    let folder = format!("-{pid}-");
    let mut all = processes();
    all.retain(|other| {
        let environment = fs::read(format!("/proc/{other}/environ")).unwrap_or_default();
        let environment = String::from_utf8_lossy(&environment).into_owned();
        let mut texts = words(*other)
            .into_iter()
            .chain(environment.split('\0').map(str::to_owned));
        texts.any(|text| text.split_once("/dl-").is_some_and(|(_, name)| name.contains(&folder)))
    });
    all
}

//! Rows N1, N2, N4 and N5: what is on the disk and what stays in memory, with the engine included, against podman with conmon and
//! crun, and containerd with its shims and runc, all with the same ten containers that idle without a network.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::device::{self, Device, Setup};
use super::fixture::arch::Arch;
use super::fixture::child::Running;
use super::fixture::cmd::Cmd;
use super::fixture::images::{Format, Index};
use super::fixture::registry::Registry;
use super::fixture::scratch::Scratch;
use super::process::{memory, named, words};
use super::side::Side;
use super::table::{Figure, Table};
use super::{Scale, TEN, arm, containerd, program_file};

/// The programs of each peer that a container needs.
const PEERS: [(&str, &[&str]); 2] = [
    ("podman + conmon + crun", &["podman", "conmon", "crun"]),
    (
        "containerd + shim + runc",
        &["containerd", "containerd-shim-runc-v2", "runc"],
    ),
];

/// PSS and private dirty bytes.
pub type Memory = (u64, u64);

/// What stays in memory.
pub struct Idle {
    /// The part that decides, without a container and with ten.
    pub head: [Memory; 2],
    /// What stands beside one container.
    pub each: Memory,
    /// Everything, without a container and with ten.
    pub all: [Memory; 2],
    /// Which processes everything is.
    pub who: String,
}

/// Measures.
pub fn rows(table: &mut Table, scale: &Scale) {
    binaries(table);
    // What was just done is over, and what it needed is let go of: the last `reported` comes within five seconds.
    let rest = Duration::from_secs(scale.of(10, 2));
    let all = [
        ("dunlin", dunlin(rest)),
        ("podman", podman(rest)),
        ("containerd", of_containerd(rest)),
    ];
    memories(table, Arch::host(), &all);
    if !scale.smoke && Arch::host() != Arch::Aarch64 {
        memories(table, Arch::Aarch64, &[("dunlin", arm::idle(Arch::Aarch64))]);
        let why =
            "the emulated machine has a kernel, a busybox and dunlin; the peers need a whole arm64 system below them";
        table.missing("N1, N2, N4, N5", "podman and containerd on aarch64", why);
    }
}

fn binaries(table: &mut Table) {
    for (arch, budget) in [(Arch::Aarch64, 4), (Arch::X86_64, 5)] {
        let mut figures = vec![match arch.static_binary() {
            Ok(path) => {
                let bytes = fs::metadata(path).unwrap().len();
                Figure::new("", bytes as f64 / f64::from(1 << 20), "MiB").note(format!("{bytes} bytes"))
            }
            Err(reason) => Figure::missing("", &reason),
        }];
        for (name, programs) in PEERS.iter().filter(|_| arch == Arch::host()) {
            figures.push(match weight(programs) {
                Ok((own, libraries)) => {
                    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
                    let note = format!("and {:.1} MiB of shared libraries", mib(libraries));
                    Figure::new(name, mib(own), "MiB").note(note)
                }
                Err(why) => Figure::missing(name, &why),
            });
        }
        let what = format!("static binary, {}", arch.name());
        table.row("N1", &what, &format!("≤ {budget} MiB"), figures);
    }
}

/// Bytes of programs, and of the libraries that they are linked with.
fn weight(programs: &[&str]) -> Result<(u64, u64), String> {
    let length = |path: &PathBuf| fs::metadata(path).map_or(0, |meta| meta.len());
    let files: Vec<PathBuf> = programs
        .iter()
        .map(|name| program_file(name))
        .collect::<Result<_, _>>()?;
    let mut libraries = BTreeSet::new();
    for file in &files {
        let linked = Cmd::new("ldd").arg(file).run().stdout;
        let words = linked.split_whitespace().filter(|word| word.starts_with('/'));
        libraries.extend(words.filter_map(|word| fs::canonicalize(word).ok()));
    }
    Ok((files.iter().map(length).sum(), libraries.iter().map(length).sum()))
}

/// The rows of memory, of an architecture.
fn memories(table: &mut Table, arch: Arch, all: &[(&str, Result<Idle, String>)]) {
    let row = |of: &dyn Fn(&Idle) -> Vec<(&'static str, Figure)>| -> Vec<Figure> {
        let mut figures = Vec::new();
        for (name, idle) in all {
            match idle {
                Ok(idle) => figures.extend(of(idle).into_iter().map(|(what, mut figure)| {
                    figure.label = [name, what].join(" ").trim().to_owned();
                    figure
                })),
                Err(why) => figures.push(Figure::missing(name, why)),
            }
        }
        figures
    };
    let arch = arch.name();
    for (at, count, budget) in [(0, 0, "≤ 3.5 MB"), (1, TEN, "≤ 4 MB")] {
        let what = format!("agent idle over TLS, {count} containers, PSS and private dirty, {arch}");
        let heads = row(&|idle| match idle.head[at] {
            (0, _) => vec![("", Figure::mb("", 0).note("has no daemon"))],
            (pss, dirty) => vec![("", Figure::mb("", pss)), ("dirty", Figure::mb("", dirty))],
        });
        table.row("N2", &what, budget, heads);
    }
    let what = format!("monitor (conmon, shim) per running container, PSS and private dirty, {arch}");
    let each = row(&|idle| {
        vec![
            ("", Figure::kb("", idle.each.0)),
            ("dirty", Figure::kb("", idle.each.1)),
        ]
    });
    table.row("N4", &what, "≤ 350 / 120 KB", each);
    let what = format!("everything with {TEN} idle containers, PSS and private dirty; without one, {arch}");
    let everything = row(&|idle| {
        vec![
            ("", Figure::mb("", idle.all[1].0).note(idle.who.as_str())),
            ("dirty", Figure::mb("", idle.all[1].1)),
            ("without", Figure::mb("", idle.all[0].0)),
        ]
    });
    table.row("N5", &what, "≤ 8 MB", everything);
}

/// Ten apps that idle.
pub fn ten(image: &str) -> serde_json::Value {
    let app = |n| {
        json!({"name": format!("idle{n}"), "image": image, "command": ["sleep", "100000"],
               "update": {"soak": "100ms"}})
    };
    (0..TEN).map(app).collect()
}

fn dunlin(rest: Duration) -> Result<Idle, String> {
    let setup = Setup {
        tls: true,
        ..Setup::default()
    };
    let mut device = Device::new("bench", &setup)?;
    device.start();
    let agent = device.agent.as_ref().map_or(0, Running::pid);
    let image = device.registry.push("idle", "1", &Index::busybox(Format::Oci));
    let empty = device.deploy(json!([]));
    device.wait_state(&empty, "COMMITTED");
    settle(rest);
    let (head, all) = (device::pss(agent), device.memory());
    let apps = device.deploy(ten(&image));
    device.wait_state(&apps, "COMMITTED");
    settle(rest);
    let monitors = device.role("monitor");
    assert_eq!(monitors.len(), TEN, "a monitor each");
    let roles = ["keeper", "monitor", "worker", "decode"].map(|role| (role, device.role(role).len()));
    let idle = Idle {
        head: [head, device::pss(agent)],
        each: per(memory(&monitors)),
        all: [all, device.memory()],
        who: told(roles.into_iter().chain([("agent", 1)])),
    };
    device.clean();
    Ok(idle)
}

fn podman(rest: Duration) -> Result<Idle, String> {
    let side = Side::new(true, "vfs")?;
    side.podman.clone()?;
    // dunlin's only makes room here.
    side.dunlin(&["rm", "-a", "-f", "-t", "0"]).run();
    for number in 0..TEN {
        side.podman_start(&format!("idle{number}"), "busybox").ok();
    }
    settle(rest);
    let user = side.user.as_ref().expect("an ordinary one");
    let ours = super::process::ours();
    let mut all: Vec<u32> = user.processes().into_iter().map(|(pid, _)| pid).collect();
    all.retain(|pid| !ours.contains(pid) && program(*pid) != "sleep");
    let conmons: Vec<u32> = all.iter().copied().filter(|pid| program(*pid) == "conmon").collect();
    if conmons.len() != TEN {
        return Err(format!("{} conmons stand beside {TEN} containers", conmons.len()));
    }
    Ok(Idle {
        head: [(0, 0); 2],
        each: per(memory(&conmons)),
        all: [(0, 0), memory(&all)],
        who: census(&all),
    })
}

fn of_containerd(rest: Duration) -> Result<Idle, String> {
    ["containerd", "ctr", "containerd-shim-runc-v2", "runc"]
        .into_iter()
        .try_for_each(super::installed)?;
    let (scratch, registry) = (Scratch::new("bench-ctr"), Registry::plain());
    registry.push("idle", "1", &Index::busybox(Format::Oci));
    let daemon = containerd::start(scratch.path())?;
    settle(rest);
    let empty = device::pss(daemon.pid());
    let image = registry.reference("idle:1");
    let ctr = |args: &[&str]| containerd::ctr(scratch.path()).args(args).run();
    let must = |args: &[&str]| match ctr(args) {
        out if out.code == 0 => Ok(()),
        out => Err(out.stderr),
    };
    must(&["images", "pull", "--plain-http", &image])?;
    let names: Vec<String> = (0..TEN).map(|number| format!("idle{number}")).collect();
    // Without control groups: it would make them at the machine's root.
    let started = names
        .iter()
        .try_for_each(|name| must(&["run", "-d", "--cgroup", "", &image, name, "sleep", "100000"]));
    settle(rest);
    let shims = named("containerd-shim-runc-v2", &scratch.path().to_string_lossy());
    let mut all = vec![daemon.pid()];
    all.extend(&shims);
    let idle = Idle {
        head: [empty, device::pss(daemon.pid())],
        each: per(memory(&shims)),
        all: [empty, memory(&all)],
        who: census(&all),
    };
    for name in &names {
        ctr(&["tasks", "kill", "-s", "SIGKILL", name]);
        ctr(&["tasks", "rm", "-f", name]);
        ctr(&["containers", "rm", name]);
    }
    started.map(|()| idle)
}

fn settle(rest: Duration) {
    std::thread::sleep(rest);
    // Pages of a file that is not on the disk yet count as dirty.
    Cmd::new("sync").run();
}

fn per(all: Memory) -> Memory {
    (all.0 / TEN as u64, all.1 / TEN as u64)
}

fn program(pid: u32) -> String {
    let first = words(pid).into_iter().next().unwrap_or_default();
    first.rsplit('/').next().unwrap_or_default().to_owned()
}

/// How many processes of each program these are.
fn census(pids: &[u32]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    pids.iter()
        .for_each(|pid| *counts.entry(program(*pid)).or_default() += 1);
    told(counts.iter().map(|(name, count)| (name.as_str(), *count)))
}

fn told<'a>(counts: impl Iterator<Item = (&'a str, usize)>) -> String {
    let there = counts.filter(|(_, count)| *count > 0);
    let words: Vec<String> = there.map(|(name, count)| format!("{count} {name}")).collect();
    words.join(", ")
}

//! What the host offers against what dunlin and the board need: facts are gathered here, and judged by a pure function.

use super::unshare;
use crate::config::agent::Settings;
use crate::config::authorities;
use crate::config::board::Board;
use crate::disk::layout::Layout;
use crate::keeper;
use crate::keeper::start::Starter;
use crate::runtime::cgroup;
use crate::sys::footprint::meminfo;
use crate::sys::{clock, fs as sys, landlock, path};
use crate::types::limits::{Bytes, IoLimit, Limits, MilliCpu, NotEnforced};
use crate::types::platform::Platform;
use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// As it should be.
    Good,
    /// Something is less than it could be.
    Note,
    /// Something that is needed is missing.
    Gap,
}

impl Grade {
    /// For people and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Grade::Good => "ok",
            Grade::Note => "note",
            Grade::Gap => "gap",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub name: &'static str,
    /// How it is.
    pub grade: Grade,
    /// In words.
    pub text: String,
    /// What to do, where there is something to do.
    pub fix: String,
}

/// What the keeper could do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keeping {
    /// Why there is none.
    pub error: Option<String>,
    /// Control groups: 1, 2, or 0 for none.
    pub cgroups: u32,
    /// Limits that cannot be enforced.
    pub not_enforced: Vec<NotEnforced>,
    /// How many user ids containers have.
    pub ids: u64,
    /// What is said about the ids.
    pub ids_note: Option<String>,
}

/// All that is known of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Release of the kernel.
    pub kernel: String,
    /// GOARCH.
    pub architecture: String,
    /// Words of the kernel's command line.
    pub boot: Vec<String>,
    /// Keeper, control groups, ids.
    pub keeping: Keeping,
    /// Overlay is built in, loaded or a module.
    pub overlay: bool,
    /// Version of landlock; 0 without.
    pub landlock: i64,
    /// The kernel filters system calls.
    pub seccomp: bool,
    /// `user.max_user_namespaces` is not 0.
    pub namespaces: bool,
    /// AppArmor keeps ordinary programs from making user namespaces.
    pub restricted: bool,
    /// The clock is synchronised.
    pub synchronised: bool,
    /// Year of the clock.
    pub year: u64,
    /// Free bytes where data lies, and bytes that are kept free.
    pub disk: (u64, u64),
    /// Bytes of memory.
    pub memory: u64,
    /// A helper for private networks: its name.
    pub network: Option<&'static str>,
    /// `/dev/net/tun` can be opened.
    pub tun: bool,
    /// There is a bundle of public certificate authorities.
    pub authorities: bool,
    /// Devices of the board that are there.
    pub devices: Vec<String>,
    /// The board's watchdog is there.
    pub watchdog: bool,
    /// The agent is to feed it, and may not.
    pub watchdog_closed: bool,
    /// The caller is root, or the store is root's.
    pub root: bool,
}

/// Looks at the host.
pub fn gather(layout: &Layout, settings: &Settings, board: &Board, starter: Option<Starter>) -> Facts {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let kernel = text("/proc/sys/kernel/osrelease").trim().to_owned();
    let reserve = settings.store.reserve.or(board.storage.reserve);
    let reserve = reserve.map_or(crate::types::bounds::DISK_RESERVE_BYTES, |reserve| reserve.0);
    let is_device = |device: &&String| {
        fs::metadata(device).is_ok_and(|meta| meta.file_type().is_char_device() || meta.file_type().is_block_device())
    };
    let now = crate::types::time::Unix(crate::sys::event::unix_ns() / 1_000_000);
    Facts {
        overlay: text("/proc/filesystems").contains("\toverlay\n")
            || text(&format!("/lib/modules/{kernel}/modules.dep")).contains("/overlay.ko"),
        architecture: Platform::host().architecture,
        boot: text("/proc/cmdline").split_whitespace().map(str::to_owned).collect(),
        keeping: keeping(layout, starter),
        landlock: landlock::abi(),
        seccomp: Path::new("/proc/sys/kernel/seccomp").exists() || text("/proc/self/status").contains("\nSeccomp:"),
        namespaces: text("/proc/sys/user/max_user_namespaces").trim() != "0"
            && text("/proc/sys/kernel/unprivileged_userns_clone").trim() != "0",
        // A program with a profile may, and is called by it.
        restricted: text("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").trim() == "1"
            && text("/proc/self/attr/current").trim_end_matches(['\0', '\n']) == "unconfined",
        synchronised: clock::is_synchronised(),
        year: now.civil().0,
        disk: (free_at(layout.data()), reserve),
        memory: meminfo("MemTotal").unwrap_or(0),
        network: ["pasta", "slirp4netns"].into_iter().find(|name| installed(name)),
        tun: path::open_host(Path::new("/dev/net/tun"), path::O_RDWR | path::O_NONBLOCK).is_ok(),
        authorities: authorities::bundle(&authorities::bundles()).is_some(),
        devices: board.devices.iter().filter(is_device).cloned().collect(),
        watchdog: board.watchdog.as_ref().is_some_and(|device| Path::new(device).exists()),
        // Opening it would arm it.
        watchdog_closed: settings.device.watchdog.is_some()
            && nix::unistd::access(board.watchdog(), nix::unistd::AccessFlags::W_OK).is_err(),
        root: unshare::caller() == 0,
        kernel,
    }
}

fn keeping(layout: &Layout, starter: Option<Starter>) -> Keeping {
    match keeper::connect_or_start(layout, starter) {
        Err(error) => Keeping {
            error: Some(error.to_string()),
            ..Keeping::default()
        },
        Ok(keeper) => {
            let info = keeper.info();
            let version = match &info.cgroup {
                cgroup::Tree::V2 { .. } => 2,
                cgroup::Tree::V1 { .. } => 1,
                cgroup::Tree::None { .. } => 0,
            };
            Keeping {
                error: None,
                cgroups: version,
                not_enforced: cgroup::check(&every_limit(), &info.cgroup),
                ids: info.ids.map.uids.iter().map(|extent| u64::from(extent.count)).sum(),
                ids_note: info.ids.note.clone(),
            }
        }
    }
}

/// Limits of every kind, to ask which can be enforced.
pub fn every_limit() -> Limits {
    Limits {
        memory: Some(Bytes(1 << 30)),
        memory_high: Some(Bytes(1 << 30)),
        swap: Some(Bytes(0)),
        cpu: Some(MilliCpu(1000)),
        cpu_weight: Some(100),
        pids: Some(100),
        io: [(
            "8:0".to_owned(),
            IoLimit {
                read: Some(Bytes(1 << 20)),
                ..IoLimit::default()
            },
        )]
        .into(),
        cpuset: Some("0".to_owned()),
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// Bytes that are free where a folder is, or will be.
fn free_at(dir: &Path) -> u64 {
    let there = dir.ancestors().find(|dir| dir.is_dir());
    let opened = there.and_then(|dir| sys::name_dir(dir).ok());
    opened
        .and_then(|dir| sys::space(&dir).ok())
        .map_or(0, |space| space.bytes)
}

/// Whether a program is where programs are.
fn installed(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/bin", "/usr/local/bin", "/usr/sbin"].map(PathBuf::from));
    dirs.into_iter()
        .any(|dir| dir.is_absolute() && dir.join(name).is_file())
}

/// Judges the facts against what dunlin and the board need.
pub fn judge(facts: &Facts, board: &Board) -> Vec<Finding> {
    let mut findings = Findings(Vec::new());
    kernel(facts, board, &mut findings);
    keeper_and_ids(facts, board, &mut findings);
    let enough = facts.memory >= board.memory.reserve.0 + board.memory.apps.map_or(0, |apps| apps.0);
    let text = format!(
        "{}, of which the board keeps {} for the system",
        mebibytes(facts.memory),
        mebibytes(board.memory.reserve.0)
    );
    let fix = "give the board file a smaller `memory.apps` or `memory.reserve`, or name another board in agent.toml";
    findings.either("memory", enough, Grade::Gap, &text, &text, fix);
    let (free, reserve) = facts.disk;
    findings.either(
        "disk",
        free > reserve,
        Grade::Gap,
        &format!("{} free, {} are kept free", mebibytes(free), mebibytes(reserve)),
        &format!(
            "{} free, and {} are to be kept free: nothing is pulled",
            mebibytes(free),
            mebibytes(reserve)
        ),
        "remove what is not used (`dunlin system prune`), or lower `reserve` in agent.toml",
    );
    findings.either(
        "clock",
        facts.synchronised,
        Grade::Note,
        "synchronised",
        if facts.year < 2025 {
            "wrong: signed documents with a date wait until it is right; apps start all the same"
        } else {
            "not synchronised: it may be wrong"
        },
        "run a time service, for example `systemctl enable --now systemd-timesyncd`",
    );
    let helper = facts
        .network
        .map_or_else(String::new, |name| format!("{name} for private networks"));
    findings.either(
        "network",
        facts.network.is_some(),
        Grade::Note,
        &helper,
        "neither pasta nor slirp4netns is installed: containers have no network of their own but the host's or none",
        "install the package `passt` (or `slirp4netns`)",
    );
    if facts.network.is_some() {
        findings.either(
            "tun device",
            facts.tun,
            Grade::Note,
            "/dev/net/tun can be opened",
            "/dev/net/tun cannot be opened, which private networks need",
            "load the module `tun`, and let everybody open the device: `chmod 666 /dev/net/tun`",
        );
    }
    findings.either(
        "authorities",
        facts.authorities,
        Grade::Note,
        "public certificates are known",
        "no bundle of public certificate authorities: only servers whose own authority is given are believed",
        "install the package `ca-certificates`, or put authorities into certs.d",
    );
    let missing: Vec<&str> = board
        .devices
        .iter()
        .filter(|device| !facts.devices.contains(device))
        .map(String::as_str)
        .collect();
    if !board.devices.is_empty() {
        findings.either(
            "devices",
            missing.is_empty(),
            Grade::Note,
            &format!("{} that apps may be granted", facts.devices.len()),
            &format!("the board has {}, which are not here", missing.join(", ")),
            "enable them in the firmware's or the kernel's settings, where apps need them",
        );
    }
    let device = board.watchdog();
    if facts.watchdog_closed {
        let text = format!("the agent is to feed `{device}`, and cannot open it");
        let fix = format!(
            "load its driver, and give it to the store's user at every boot (`chown USER {device}`); or let systemd feed it: RuntimeWatchdogSec="
        );
        findings.either("watchdog", false, Grade::Gap, "", &text, &fix);
    } else if board.watchdog.is_some() {
        findings.either(
            "watchdog",
            facts.watchdog,
            Grade::Note,
            device,
            &format!("the board has `{device}`, which is not here"),
            "load its driver; without it a hung device stays so",
        );
    }
    findings.0
}

struct Findings(Vec<Finding>);

impl Findings {
    /// Good with the one text, else the grade with the other and its fix.
    fn either(&mut self, name: &'static str, good: bool, grade: Grade, so: &str, not: &str, fix: &str) {
        let (grade, text, fix) = if good { (Grade::Good, so, "") } else { (grade, not, fix) };
        self.0.push(Finding {
            name,
            grade,
            text: text.to_owned(),
            fix: fix.to_owned(),
        });
    }
}

fn kernel(facts: &Facts, board: &Board, findings: &mut Findings) {
    let release = &facts.kernel;
    let least = |major, minor| at_least(release, major, minor);
    findings.either(
        "kernel",
        least(5, 8),
        Grade::Gap,
        release,
        &format!("{release} is too old: Linux 5.8 is the least"),
        "install a newer kernel",
    );
    let fits = board.architecture == facts.architecture;
    findings.either(
        "board",
        fits,
        Grade::Gap,
        &format!("{} ({})", board.name, board.description),
        &format!(
            "`{}` is {}, this machine {}",
            board.name, board.architecture, facts.architecture
        ),
        "name the right board: `board = …` below `[device]` in agent.toml",
    );
    for argument in &board.kernel.arguments {
        let file = board
            .kernel
            .command_line_file
            .as_deref()
            .unwrap_or("the boot loader's configuration");
        findings.either(
            "boot arguments",
            facts.boot.contains(&argument.word),
            Grade::Gap,
            &argument.word,
            &format!("`{}` is missing: {}", argument.word, argument.reason),
            &format!("add the word to the line in {file} and boot again"),
        );
    }
    findings.either(
        "overlay",
        facts.overlay && least(5, 11),
        Grade::Note,
        "layers are shared",
        "no overlay for user namespaces (Linux 5.11): every container gets a copy of its image",
        "use a kernel of 5.11 or newer with CONFIG_OVERLAY_FS",
    );
    findings.either(
        "seccomp",
        facts.seccomp,
        Grade::Gap,
        "system calls are filtered",
        "the kernel cannot filter system calls",
        "use a kernel with CONFIG_SECCOMP_FILTER",
    );
    findings.either(
        "landlock",
        facts.landlock >= 2,
        Grade::Note,
        &format!("version {}", facts.landlock),
        "the worker that unpacks images is shut in by seccomp alone (landlock 2 comes with Linux 5.19)",
        "use a kernel of 5.19 or newer with CONFIG_SECURITY_LANDLOCK, and `landlock` in its list `lsm=`",
    );
    findings.either(
        "user namespaces",
        facts.namespaces && !(facts.restricted && facts.keeping.error.is_some()),
        Grade::Gap,
        if facts.restricted {
            "allowed to dunlin by an AppArmor profile"
        } else {
            "allowed"
        },
        if facts.namespaces {
            "AppArmor keeps dunlin from making them"
        } else {
            "turned off"
        },
        if facts.namespaces {
            "load the profile of the package: `apparmor_parser -r /etc/apparmor.d/dunlin`"
        } else {
            "sysctl user.max_user_namespaces=15000 kernel.unprivileged_userns_clone=1"
        },
    );
}

fn keeper_and_ids(facts: &Facts, board: &Board, findings: &mut Findings) {
    let keeping = &facts.keeping;
    if let Some(error) = &keeping.error {
        findings.either(
            "keeper",
            false,
            Grade::Gap,
            "",
            error,
            "mend that first; what it would tell is not known",
        );
        return;
    }
    let note = keeping
        .ids_note
        .as_deref()
        .unwrap_or("only one user id for all of a container");
    findings.either(
        "id ranges",
        keeping.ids >= 65_536,
        Grade::Gap,
        &format!("{} ids for containers", keeping.ids),
        note,
        "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER, and install the package `uidmap`; then stop the keeper",
    );
    let version = match keeping.cgroups {
        0 => "none".to_owned(),
        version => format!("version {version}"),
    };
    findings.either(
        "control groups",
        keeping.cgroups == 2,
        Grade::Note,
        &version,
        &version,
        "boot with `systemd.unified_cgroup_hierarchy=1` for version 2",
    );
    for missing in &keeping.not_enforced {
        let controller = cgroup::Controller::of(missing.limit).name();
        // A board names the controllers that it needs; a board that says nothing needs the usual ones.
        let needs = &board.kernel.controllers;
        let needed = if needs.is_empty() {
            ["memory", "cpu", "pids"].contains(&controller)
        } else {
            needs.iter().any(|name| name == controller)
        };
        let grade = if needed { Grade::Gap } else { Grade::Note };
        let text = format!("`{}` is not enforced: {}", missing.limit, missing.cause);
        findings.either("limits", false, grade, "", &text, &missing.fix);
    }
    if keeping.not_enforced.is_empty() {
        findings.either("limits", true, Grade::Good, "every limit is enforced", "", "");
    }
}

/// Whether a kernel's release is this one or a later one.
pub fn at_least(release: &str, major: u32, minor: u32) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::limits::LimitKind;

    fn board() -> Board {
        let text = "name = \"b\"\ndescription = \"B\"\narchitecture = \"arm64\"\nwatchdog = \"/dev/watchdog0\"\n\
                    devices = [\"/dev/i2c-1\"]\n[memory]\nreserve = \"256M\"\n[kernel]\ncontrollers = [\"memory\"]\n\
                    command_line_file = \"/boot/cmdline.txt\"\n[[kernel.arguments]]\nword = \"cgroup_enable=memory\"\nreason = \"why\"\n";
        Board::parse(text, Path::new("b.toml")).unwrap()
    }

    fn healthy() -> Facts {
        Facts {
            kernel: "6.1.0-18-arm64".into(),
            architecture: "arm64".into(),
            boot: vec!["quiet".into(), "cgroup_enable=memory".into()],
            keeping: Keeping {
                cgroups: 2,
                ids: 65_537,
                ..Keeping::default()
            },
            overlay: true,
            landlock: 2,
            seccomp: true,
            namespaces: true,
            restricted: false,
            synchronised: true,
            year: 2026,
            disk: (1 << 30, 256 << 20),
            memory: 1 << 30,
            network: Some("pasta"),
            tun: true,
            authorities: true,
            devices: vec!["/dev/i2c-1".into()],
            watchdog: true,
            watchdog_closed: false,
            root: false,
        }
    }

    #[test]
    fn a_healthy_host_has_no_gap_and_each_fault_is_named() {
        let board = board();
        let clean = judge(&healthy(), &board);
        assert!(
            clean.iter().all(|one| one.grade == Grade::Good && one.fix.is_empty()),
            "{clean:?}"
        );
        type Spoil = fn(&mut Facts);
        let faults: &[(&str, Grade, &str, Spoil)] = &[
            ("kernel", Grade::Gap, "5.8", |f| f.kernel = "5.4.0".into()),
            ("overlay", Grade::Note, "copy", |f| f.kernel = "5.10.0".into()),
            ("overlay", Grade::Note, "copy", |f| f.overlay = false),
            ("board", Grade::Gap, "amd64", |f| f.architecture = "amd64".into()),
            ("boot arguments", Grade::Gap, "cgroup_enable=memory", |f| f.boot.clear()),
            ("landlock", Grade::Note, "seccomp alone", |f| f.landlock = 0),
            ("seccomp", Grade::Gap, "filter", |f| f.seccomp = false),
            ("user namespaces", Grade::Gap, "turned off", |f| f.namespaces = false),
            ("user namespaces", Grade::Gap, "AppArmor", |f| {
                f.restricted = true;
                f.keeping.error = Some("no".into());
            }),
            ("keeper", Grade::Gap, "no bus", |f| {
                f.keeping.error = Some("no bus".into())
            }),
            ("id ranges", Grade::Gap, "one user id", |f| f.keeping.ids = 1),
            ("control groups", Grade::Note, "version 1", |f| f.keeping.cgroups = 1),
            ("memory", Grade::Gap, "128", |f| f.memory = 128 << 20),
            ("disk", Grade::Gap, "nothing is pulled", |f| f.disk.0 = 1 << 20),
            ("clock", Grade::Note, "not synchronised", |f| f.synchronised = false),
            ("clock", Grade::Note, "wrong", |f| {
                (f.synchronised, f.year) = (false, 1970)
            }),
            ("network", Grade::Note, "pasta", |f| f.network = None),
            ("tun device", Grade::Note, "tun", |f| f.tun = false),
            ("authorities", Grade::Note, "certificate", |f| f.authorities = false),
            ("devices", Grade::Note, "/dev/i2c-1", |f| f.devices.clear()),
            ("watchdog", Grade::Note, "/dev/watchdog0", |f| f.watchdog = false),
            ("watchdog", Grade::Gap, "cannot open", |f| f.watchdog_closed = true),
        ];
        for (name, grade, text, spoil) in faults {
            let mut facts = healthy();
            spoil(&mut facts);
            let found = judge(&facts, &board);
            let hit = found.iter().find(|one| one.name == *name && one.grade == *grade);
            let hit = hit.unwrap_or_else(|| panic!("{name}: {found:?}"));
            assert!(hit.text.contains(text) && !hit.fix.is_empty(), "{name}: {hit:?}");
        }
    }

    #[test]
    fn limits_that_the_board_needs_are_gaps_and_others_notes() {
        let mut facts = healthy();
        for limit in [LimitKind::Memory, LimitKind::Io] {
            facts.keeping.not_enforced.push(NotEnforced {
                limit,
                cause: "c".into(),
                fix: "f".into(),
            });
        }
        let found = judge(&facts, &board());
        let grades: Vec<Grade> = found
            .iter()
            .filter(|one| one.name == "limits")
            .map(|one| one.grade)
            .collect();
        assert_eq!(grades, [Grade::Gap, Grade::Note]);
    }
}

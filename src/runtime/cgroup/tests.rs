//! A host is a folder and three texts; where the caller is root, the real v1 hierarchies are used too.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;
use crate::types::limits::{Bytes, IoLimit, MilliCpu};

/// A folder that stands for `/sys/fs/cgroup` and its parents; removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("dunlin-cgroup-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    /// Makes a group with these files.
    fn group(&self, path: &str, files: &[(&str, &str)]) -> PathBuf {
        let group = self.0.join(path);
        fs::create_dir_all(&group).unwrap();
        for (name, text) in files {
            fs::write(group.join(name), text).unwrap();
        }
        group
    }

    fn host(&self, mountinfo: &str, own: &str, controllers: &str) -> Host {
        Host {
            mountinfo: mountinfo.to_owned(),
            own: own.to_owned(),
            controllers: controllers.to_owned(),
            uid: 1000,
            prefix: self.0.clone(),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const UNIFIED: &str = "30 23 0:26 / /cg rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
const FILES: [(&str, &str); 4] = [
    ("cgroup.type", "domain\n"),
    ("cgroup.procs", ""),
    ("cgroup.subtree_control", ""),
    ("cgroup.controllers", "cpuset cpu io memory pids\n"),
];

fn all_limits() -> Limits {
    Limits {
        memory: Some(Bytes(64 << 20)),
        memory_high: Some(Bytes(48 << 20)),
        swap: Some(Bytes(16 << 20)),
        cpu: Some(MilliCpu(500)),
        cpu_weight: Some(200),
        pids: Some(64),
        io: BTreeMap::from([(
            "254:0".to_owned(),
            IoLimit {
                read: Some(Bytes(1 << 20)),
                ..IoLimit::default()
            },
        )]),
        cpuset: Some("0-1".to_owned()),
    }
}

fn id(byte: u8) -> ContainerId {
    ContainerId::from_bytes([byte; 32])
}

#[test]
fn limits_become_the_texts_of_each_version() {
    let v2: Vec<(&str, String)> = v2::writes(&all_limits())
        .into_iter()
        .map(|w| (w.file, w.value))
        .collect();
    let v2: Vec<(&str, &str)> = v2.iter().map(|(file, value)| (*file, value.as_str())).collect();
    assert_eq!(
        v2,
        [
            ("memory.max", "67108864"),
            ("memory.high", "50331648"),
            ("memory.swap.max", "16777216"),
            ("cpu.max", "50000 100000"),
            ("cpu.weight", "200"),
            ("pids.max", "64"),
            ("cpuset.cpus", "0-1"),
        ]
    );
    let v1: Vec<(&str, String)> = v1::writes(&all_limits())
        .into_iter()
        .map(|w| (w.file, w.value))
        .collect();
    let v1: Vec<(&str, &str)> = v1.iter().map(|(file, value)| (*file, value.as_str())).collect();
    assert_eq!(
        v1,
        [
            ("memory.limit_in_bytes", "67108864"),
            ("memory.memsw.limit_in_bytes", "83886080"),
            ("cpu.cfs_period_us", "100000"),
            ("cpu.cfs_quota_us", "50000"),
            ("cpu.shares", "2048"),
            ("pids.max", "64"),
            ("cpuset.cpus", "0-1"),
        ]
    );
    assert!(v2::writes(&Limits::default()).is_empty() && v1::writes(&Limits::default()).is_empty());
    let rates = IoLimit {
        read: Some(Bytes(1000)),
        write_iops: Some(5),
        ..IoLimit::default()
    };
    assert_eq!(
        v2::io_line((8, 16), &rates),
        "8:16 rbps=1000 wbps=max riops=max wiops=5"
    );
    assert_eq!([1, 100, 10_000].map(v1::shares), [10, 1024, 102_400]);
    let tiny = Limits {
        cpu: Some(MilliCpu(10)),
        ..Limits::default()
    };
    assert_eq!(v2::writes(&tiny)[0].value, "1000 100000", "the kernel's least quota");
}

#[test]
fn the_unified_tree_is_found_where_the_caller_may_be() {
    let me = std::process::id().to_string();
    let folder = Folder::new("find");
    folder.group(
        "cg",
        &[
            ("cgroup.procs", "1\n"),
            ("cgroup.controllers", "cpu memory pids"),
            ("cgroup.subtree_control", ""),
        ],
    );
    folder.group("cg/unit", &FILES);
    folder.group("cg/unit/keeper", &FILES);
    let find = |own: &str| match Tree::detect(&folder.host(UNIFIED, own, ""), "dunlin-x") {
        Tree::V2 { root, .. } => root.strip_prefix(folder.0.join("cg")).unwrap().display().to_string(),
        other => panic!("{other:?}"),
    };
    let procs = |text: &str| fs::write(folder.0.join("cg/unit/cgroup.procs"), text).unwrap();
    procs(&me);
    assert_eq!(find("0::/unit\n"), "unit", "alone in its own group");
    procs("");
    assert_eq!(find("0::/unit/keeper\n"), "unit", "started again in the leaf");
    procs(&format!("{me}\n4711\n"));
    assert_eq!(
        find("0::/unit\n"),
        "dunlin-x",
        "own group is shared: below the next one up, here the root"
    );
    assert_eq!(find("0::/\n"), "dunlin-x", "in the root group");
    assert_eq!(find("1:name=systemd:/x\n0::/\n"), "dunlin-x");
    let outside = Tree::detect(&folder.host(UNIFIED, "0::/../x\n", ""), "dunlin-x");
    assert!(
        matches!(&outside, Tree::None { why, .. } if why.contains("outside")),
        "{outside:?}"
    );
}

#[test]
fn a_shared_group_without_a_free_one_above_says_so() {
    let folder = Folder::new("crowded");
    folder.group("cg", &[("cgroup.controllers", "cpu memory pids")]);
    folder.group("cg/a", &FILES);
    fs::write(folder.0.join("cg/a/cgroup.procs"), "4711\n").unwrap();
    let tree = Tree::detect(&folder.host(UNIFIED, "0::/a\n", ""), "x");
    let Tree::None { why, fix } = &tree else {
        panic!("{tree:?}")
    };
    assert!(
        why.contains("other processes") && fix.contains("systemctl start dunlin-keeper"),
        "{tree:?}"
    );
    let missing = check(&all_limits(), &tree);
    assert_eq!(missing.len(), 8);
    let refused = tree
        .container(&id(1))
        .create(&all_limits(), &[LimitKind::Pids])
        .unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("limit `pids` cannot be enforced: control group"),
        "{refused}"
    );
    assert_eq!(tree.container(&id(1)).create(&all_limits(), &[]).unwrap().len(), 8);
    let gone = Tree::detect(&folder.host("", "", ""), "x");
    assert!(matches!(&gone, Tree::None { fix, .. } if fix.contains("mount -t cgroup2")));
}

#[test]
fn hybrid_hosts_use_the_v1_hierarchies() {
    let folder = Folder::new("hybrid");
    let mounts = "\
        31 30 0:27 / /cg/cpu\\040x rw - cgroup cgroup rw,cpu,cpuacct\n\
        32 30 0:28 / /cg/memory rw - cgroup cgroup rw,memory\n\
        33 30 0:29 / /cg/pids rw - cgroup cgroup rw,pids\n\
        34 30 0:30 / /cg/unified rw - cgroup2 cgroup2 rw\n\
        35 30 0:31 / /cg/systemd rw - cgroup cgroup rw,name=systemd\n";
    let own = "3:memory:/\n2:cpu,cpuacct:/user\n1:name=systemd:/\n4:pids:/\n0::/\n";
    folder.group("cg/unified", &[("cgroup.controllers", "hugetlb")]);
    for dir in ["cg/memory", "cg/cpu x/user", "cg/pids"] {
        folder.group(dir, &[("cgroup.procs", "")]);
    }
    let host = folder.host(
        mounts,
        own,
        "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t4\t1\t1\n",
    );
    let tree = Tree::detect(&host, "dunlin");
    let Tree::V1 { roots, .. } = &tree else {
        panic!("{tree:?}")
    };
    let at = |controller| {
        roots
            .iter()
            .find(|(have, _)| *have == controller)
            .map(|(_, root)| root.clone())
    };
    assert_eq!(at(Controller::Cpu), Some(folder.0.join("cg/cpu x/user/dunlin")));
    assert_eq!(at(Controller::Cpuacct), at(Controller::Cpu));
    assert_eq!(at(Controller::Memory), Some(folder.0.join("cg/memory/dunlin")));
    assert_eq!(at(Controller::Cpuset), None);
    assert_eq!(tree.roots().len(), 3);
    // A folder does not make control files, so nothing is usable and that is said.
    let prepared = tree.prepare(&host, 0);
    assert!(
        matches!(&prepared, Tree::None { why, .. } if why.contains("cgroup.procs")),
        "{prepared:?}"
    );
}

#[test]
fn gaps_name_cause_and_fix() {
    let folder = Folder::new("gaps");
    let off = "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t0\t1\t0\ncpu\t0\t1\t1\n";
    let root = folder.group(
        "cg",
        &[
            ("cgroup.controllers", "cpu io pids"),
            ("cgroup.procs", ""),
            ("cgroup.subtree_control", ""),
        ],
    );
    let unit = folder.group("cg/unit", &FILES);
    fs::write(unit.join("cgroup.controllers"), "cpu pids").unwrap();
    fs::write(unit.join("cgroup.subtree_control"), "cpu pids").unwrap();
    for leaf in Leaf::ALL {
        folder.group(&format!("cg/unit/{}", leaf.name()), &FILES);
    }
    let uid = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&root).unwrap());
    let host = folder.host(UNIFIED, "0::/unit/keeper\n", off);
    let tree = Tree::detect(&host, "x").prepare(&host, uid);
    let Tree::V2 { root, .. } = &tree else {
        panic!("{tree:?}")
    };
    assert_eq!(root, &unit);
    assert_eq!(fs::read_to_string(unit.join("keeper/cgroup.procs")).unwrap(), "0");
    let gaps: BTreeMap<LimitKind, String> = check(&all_limits(), &tree)
        .into_iter()
        .map(|not| (not.limit, not.to_string()))
        .collect();
    let kinds: Vec<LimitKind> = gaps.keys().copied().collect();
    use LimitKind::{Cpuset, Io, Memory, MemoryHigh, Swap};
    assert_eq!(kinds, [Memory, MemoryHigh, Swap, Io, Cpuset]);
    assert!(gaps[&Memory].contains("switched off at boot") && gaps[&Memory].contains("cgroup_enable=memory"));
    assert!(
        gaps[&Io].contains("not delegated to") && gaps[&Io].contains("Delegate="),
        "{}",
        gaps[&Io]
    );
    assert!(
        gaps[&Cpuset].contains("the kernel offers no controller `cpuset`") && gaps[&Cpuset].contains("CONFIG_CPUSETS")
    );
}

/// A tree in a folder whose groups have the kernel's files when they are made: `create` makes the group, so the limits
/// are then set by `update`.
#[test]
fn asked_limits_fail_and_defaults_are_reported() {
    let folder = Folder::new("asked");
    let tree = Tree::V2 {
        root: folder.0.clone(),
        gaps: Vec::new(),
    };
    let handle = tree.container(&id(2));
    let limits = Limits {
        memory: Some(Bytes(8 << 20)),
        pids: Some(5),
        ..Limits::default()
    };
    let refused = handle.create(&limits, &[LimitKind::Memory]).unwrap_err().to_string();
    assert!(
        refused.contains("limit `memory`") && refused.contains("memory.max"),
        "{refused}"
    );
    assert!(!handle.dirs()[0].exists(), "nothing is left behind");
    let missing = handle.create(&limits, &[]).unwrap();
    assert_eq!(
        missing.iter().map(|not| not.limit).collect::<Vec<_>>(),
        [LimitKind::Memory, LimitKind::Pids]
    );
    for name in ["memory.max", "pids.max"] {
        fs::write(handle.dirs()[0].join(name), "").unwrap();
    }
    assert_eq!(
        handle.update(&limits, &[LimitKind::Memory, LimitKind::Pids]).unwrap(),
        []
    );
    assert_eq!(fs::read_to_string(handle.dirs()[0].join("pids.max")).unwrap(), "5");
    let bad = Limits {
        pids: Some(0),
        ..Limits::default()
    };
    assert!(
        handle
            .update(&bad, &[])
            .unwrap_err()
            .to_string()
            .contains("limit `pids`")
    );
    for name in ["memory.max", "pids.max"] {
        fs::remove_file(handle.dirs()[0].join(name)).unwrap();
    }
    handle.remove().unwrap();
    handle.remove().unwrap();
    let disk = Limits {
        io: BTreeMap::from([("/dev/null".to_owned(), IoLimit::default())]),
        ..Limits::default()
    };
    let refused = handle.create(&disk, &[LimitKind::Io]).unwrap_err().to_string();
    assert!(refused.contains("`/dev/null` is no block device"), "{refused}");
}

#[test]
fn statistics_are_read_from_both_versions() {
    let folder = Folder::new("stats");
    folder.group(
        &format!("c-{}", id(3)),
        &[
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.peak", "8192\n"),
            ("memory.stat", "anon 1\ninactive_file 77\n"),
            ("memory.events", "low 0\noom 2\noom_kill 3\noom_group_kill 1\n"),
            (
                "cpu.stat",
                "usage_usec 10\nuser_usec 6\nsystem_usec 4\nnr_throttled 2\nthrottled_usec 9\n",
            ),
            ("pids.current", "3\n"),
            ("pids.max", "64\n"),
            (
                "io.stat",
                "8:0 rbytes=10 wbytes=20 rios=1 wios=2\n254:0 rbytes=1 wbytes=2\n",
            ),
            (
                "memory.pressure",
                "some avg10=1.25 avg60=0.50 avg300=0.00 total=99\nfull avg10=0.00\n",
            ),
        ],
    );
    let handle = Tree::V2 {
        root: folder.0.clone(),
        gaps: Vec::new(),
    }
    .container(&id(3));
    let stats = handle.stats();
    assert_eq!(
        (stats.memory, stats.memory_limit, stats.memory_peak),
        (Some(4096), None, Some(8192))
    );
    assert_eq!((stats.memory_inactive_file, stats.swap), (Some(77), None));
    assert_eq!(
        (stats.cpu_us, stats.cpu_system_us, stats.cpu_throttled_us),
        (Some(10), Some(4), Some(9))
    );
    assert_eq!((stats.pids, stats.pids_limit), (Some(3), Some(64)));
    assert_eq!((stats.io_read, stats.io_write), (Some(11), Some(22)));
    assert_eq!(
        stats.memory_pressure,
        Some(Pressure {
            avg10: 125,
            avg60: 50,
            total_us: 99
        })
    );
    assert_eq!(stats.cpu_pressure, None);
    assert_eq!(handle.oom_kills(), Some(3));
    assert!(handle.events_path().unwrap().ends_with("memory.events"));

    let folder = Folder::new("stats1");
    let name = format!("c-{}", id(4));
    folder.group(
        &format!("m/{name}"),
        &[
            ("memory.usage_in_bytes", "100"),
            ("memory.memsw.usage_in_bytes", "150"),
            ("memory.limit_in_bytes", "9223372036854771712"),
            ("memory.stat", "total_inactive_file 5\n"),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
        ],
    );
    folder.group(
        &format!("c/{name}"),
        &[
            ("cpuacct.usage", "7000"),
            ("cpu.stat", "nr_throttled 1\nthrottled_time 3000\n"),
        ],
    );
    let roots = vec![
        (Controller::Memory, folder.0.join("m")),
        (Controller::Cpu, folder.0.join("c")),
        (Controller::Cpuacct, folder.0.join("c")),
    ];
    let handle = Tree::V1 {
        roots,
        gaps: Vec::new(),
    }
    .container(&id(4));
    let stats = handle.stats();
    assert_eq!(
        (stats.memory, stats.swap, stats.memory_limit),
        (Some(100), Some(50), None)
    );
    assert_eq!(
        (stats.cpu_us, stats.cpu_throttled_us, stats.memory_inactive_file),
        (Some(7), Some(3), Some(5))
    );
    assert_eq!((handle.oom_kills(), handle.events_path()), (Some(1), None));
    assert_eq!(stats.pids, None);
}

/// The real v1 hierarchies of this host below groups of our own, which are removed at the end. None where the caller is
/// not root or the host has none.
struct RealTree {
    tree: Tree,
}

impl RealTree {
    fn new(name: &str) -> Option<RealTree> {
        let host = Host::read(0).unwrap();
        let Tree::V1 { roots, gaps } = Tree::detect(&host, &format!("dunlin-test-{name}-{}", std::process::id()))
        else {
            return None;
        };
        // Like `prepare`, but the test's own process stays where it is.
        for (controller, root) in &roots {
            fs::create_dir(root)
                .or_else(|e| if root.is_dir() { Ok(()) } else { Err(e) })
                .ok()?;
            if *controller == Controller::Cpuset {
                handle::inherit_cpuset(root).unwrap();
            }
        }
        Some(RealTree {
            tree: Tree::V1 { roots, gaps },
        })
    }
}

impl Drop for RealTree {
    fn drop(&mut self) {
        for root in self.tree.roots() {
            let _ = fs::remove_dir(root);
        }
    }
}

/// A shell that waits for a line on its input and then runs `script`.
fn shell(script: &str) -> Child {
    Command::new("/bin/sh")
        .args(["-c", &format!("read go; {script}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn go(child: &mut Child) {
    use std::io::Write as _;
    child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
}

fn ended(child: &mut Child) -> std::process::ExitStatus {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match child.try_wait().unwrap() {
            Some(status) => return status,
            None if Instant::now() > deadline => {
                let _ = child.kill();
                panic!("still running");
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

#[test]
fn real_v1_limits_hold() {
    use std::os::unix::process::ExitStatusExt as _;
    let Some(real) = RealTree::new("hold") else { return };
    let limits = Limits {
        memory: Some(Bytes(16 << 20)),
        swap: None,
        cpu: Some(MilliCpu(200)),
        cpu_weight: Some(50),
        pids: Some(6),
        cpuset: Some("0".to_owned()),
        ..Limits::default()
    };
    let asked = [
        LimitKind::Memory,
        LimitKind::Cpu,
        LimitKind::CpuWeight,
        LimitKind::Pids,
        LimitKind::Cpuset,
    ];
    let handle = real.tree.container(&id(5));
    let attach = |handle: &Handle, child: &Child| {
        for mut entry in handle.entries().unwrap() {
            io::Write::write_all(&mut entry, child.id().to_string().as_bytes()).unwrap();
        }
    };
    assert_eq!(handle.create(&limits, &asked).unwrap(), []);
    assert_eq!(handle.oom_kills(), Some(0));
    assert!(handle.dir_fd().unwrap().is_none());

    let event = crate::sys::event::EventFd::new().unwrap();
    assert!(handle.notify_oom(&event.as_fd()).unwrap());
    let mut hog = shell("head -c 64M /dev/zero | tail -c 64M");
    attach(&handle, &hog);
    assert!(handle.members().unwrap().contains(&(hog.id() as i32)));
    go(&mut hog);
    ended(&mut hog);
    assert!(handle.oom_kills().unwrap() >= 1);
    assert!(event.read().unwrap().is_some_and(|events| events >= 1));

    let mut bomb = shell("set -e; for i in 1 2 3 4 5 6 7 8 9; do sleep 3 & done; wait");
    attach(&handle, &bomb);
    go(&mut bomb);
    assert!(!ended(&mut bomb).success(), "the shell could not fork");
    assert!(handle.stats().pids.unwrap() <= 6);
    assert!(handle.kill().unwrap());

    let mut busy = shell("while :; do :; done");
    attach(&handle, &busy);
    let before = handle.stats().cpu_us.unwrap();
    go(&mut busy);
    std::thread::sleep(Duration::from_millis(1000));
    let used = handle.stats().cpu_us.unwrap() - before;
    assert!(
        (120_000..320_000).contains(&used),
        "a fifth of a processor for a second, not {used} us"
    );
    assert!(handle.stats().cpu_throttled.unwrap() > 0);

    handle.freeze(true).unwrap();
    assert!(handle.is_frozen());
    let frozen = handle.stats().cpu_us.unwrap();
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(handle.stats().cpu_us.unwrap(), frozen);
    handle.freeze(false).unwrap();
    assert!(!handle.is_frozen());

    let raised = Limits {
        memory: Some(Bytes(32 << 20)),
        swap: Some(Bytes(0)),
        ..Limits::default()
    };
    let _ = handle.update(&raised, &[LimitKind::Memory]).unwrap();
    assert_eq!(handle.stats().memory_limit, Some(32 << 20));

    assert!(handle.kill().unwrap());
    assert_eq!(ended(&mut busy).signal(), Some(9));
    handle.remove().unwrap();
    assert!(handle.dirs().iter().all(|dir| !dir.exists()));
}

#[test]
fn groups_that_a_container_made_go_with_it() {
    let Some(real) = RealTree::new("nested") else { return };
    let handle = real.tree.container(&id(6));
    handle.create(&Limits::default(), &[]).unwrap();
    let pids = handle
        .dirs()
        .into_iter()
        .find(|dir| dir.join("pids.max").exists())
        .unwrap();
    fs::create_dir_all(pids.join("a/b/c")).unwrap();
    let mut sleeper = Command::new("/bin/sleep").arg("60").spawn().unwrap();
    fs::write(pids.join("a/b/c/cgroup.procs"), sleeper.id().to_string()).unwrap();
    assert!(matches!(handle.remove(), Err(CgroupError::Busy { .. })));
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    handle.remove().unwrap();
}

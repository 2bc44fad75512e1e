//! config.md: mounts; config-linux.md: default file systems, masked and read-only paths; the root.

use super::case::{Case, Checks, probe, scene};
use super::scene::{Scene, mount};
use super::seen::{MOUNTS, Seen};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

pub const CASES: &[Case] = &[
    probe("default file systems", |_, _| {}, MOUNTS, |seen, checks| {
        for (point, kind) in [
            ("/proc", "proc"),
            ("/sys", "sysfs"),
            ("/dev", "tmpfs"),
            ("/dev/pts", "devpts"),
            ("/dev/shm", "tmpfs"),
            ("/dev/mqueue", "mqueue"),
        ] {
            checks.is(point, seen.mount(point).kind.as_str(), kind);
        }
        checks.holds("/sys is read-only", seen.mount("/sys").has("ro"), seen.mount("/sys"));
        checks.holds("/dev/shm: noexec", seen.mount("/dev/shm").has("noexec"), seen.mount("/dev/shm"));
        let pts = seen.mount("/dev/pts");
        checks.holds("/dev/pts: data", pts.super_has("gid=5") && pts.super_has("mode=620") && pts.super_has("ptmxmode=666"), pts);
        let points: Vec<&str> = seen.mounts().iter().map(|mount| mount.point.as_str()).collect();
        let machine = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let own = |point: &&str| *point != "/" && !["/proc", "/sys", "/dev"].iter().any(|shared| point.starts_with(shared));
        let machine: Vec<&str> = machine.lines().filter_map(|line| line.split(' ').nth(4)).filter(own).collect();
        let outside = points.iter().any(|point| point.contains("bundle") || machine.contains(point));
        checks.holds("nothing of the machine is mounted", !outside, points);
    }),
    probe(
        "mount options",
        |config, bundle| {
            let source = source(bundle);
            for (at, options) in OPTIONS {
                let all: Vec<&str> = ["bind"].into_iter().chain(options.split(',')).collect();
                mount(config, &format!("/opt/{at}"), "bind", &source, &all);
            }
        },
        "cat /proc/self/mountinfo; echo x >/opt/ro/new 2>/dev/null || echo \"ro-write=refused\"
         echo x >/opt/rw/new && echo \"rw-write=works\"; /opt/noexec/tool true 2>/dev/null || echo \"noexec=refused\"",
        |seen, checks| {
            for (at, options) in OPTIONS {
                let set = seen.mount(&format!("/opt/{at}"));
                let missing: Vec<&str> = options.split(',').filter(|option| !set.has(option)).collect();
                let plain = ["rw", "suid", "dev", "exec"];
                let negative = |option: &str| match option {
                    "rw" => set.has("rw"),
                    other => !set.has(&format!("no{other}")),
                };
                let missing: Vec<&str> =
                    missing.into_iter().filter(|option| !(plain.contains(option) && negative(option))).collect();
                checks.holds(at, missing.is_empty() && set.point.ends_with(at), (missing, &set));
            }
            checks.is("ro: a write", seen.get("ro-write"), "refused");
            checks.is("rw: a write", seen.get("rw-write"), "works");
            checks.is("noexec: a program", seen.get("noexec"), "refused");
        },
    ),
    probe(
        "bind mounts",
        |config, bundle| {
            let source = source(bundle);
            mount(config, "/folder", "bind", &source, &["bind"]);
            mount(config, "/etc/file", "bind", source.join("file"), &["bind"]);
            mount(config, "/by-option", "none", &source, &["bind", "ro"]);
            mount(config, "deep/relative", "bind", &source, &["rbind"]);
            mount(config, "/relative-source", "bind", "source", &["bind"]);
        },
        "cat /proc/self/mountinfo; for at in folder by-option deep/relative relative-source; do echo \"$at=$(cat /$at/file)\"; done
         echo \"file=$(cat /etc/file)\"; test -f /etc/file && echo \"kind=file\"; echo said >/folder/back",
        |seen, checks| {
            checks.is("a folder", seen.get("folder"), "content");
            checks.is("a file on a missing destination", (seen.get("file"), seen.get("kind")), ("content", "file"));
            checks.is("by the option alone", seen.get("by-option"), "content");
            checks.holds("by the option alone: read-only", seen.mount("/by-option").has("ro"), seen.mount("/by-option"));
            checks.is("a destination that is relative, and missing", seen.get("deep/relative"), "content");
            checks.is("a source relative to the bundle", seen.get("relative-source"), "content");
        },
    ),
    scene("bind and rbind", recursive),
    probe(
        "tmpfs",
        |config, bundle| {
            fs::create_dir(bundle.join("rootfs/kept")).unwrap();
            fs::set_permissions(bundle.join("rootfs/kept"), fs::Permissions::from_mode(0o710)).unwrap();
            mount(config, "/small", "tmpfs", "small", &["size=64k", "mode=1711", "uid=7", "gid=8", "nr_inodes=20"]);
            mount(config, "/kept", "tmpfs", "tmpfs", &["nosuid"]);
            mount(config, "/ro", "tmpfs", "tmpfs", &["ro", "noatime"]);
        },
        "cat /proc/self/mountinfo; echo \"small=$(stat -c %a:%u:%g /small)\"; echo \"kept=$(stat -c %a /kept)\"
         dd if=/dev/zero of=/small/big bs=1k count=100 2>/dev/null || echo \"full=yes\"; touch /ro/x 2>/dev/null || echo \"ro=yes\"",
        |seen, checks| {
            let small = seen.mount("/small");
            checks.is("mode, uid, gid", seen.get("small"), "1711:7:8");
            checks.holds("size", small.super_has("size=64k"), &small);
            checks.holds("nr_inodes", small.super_has("nr_inodes=20"), &small);
            checks.is("the size is enforced", seen.get("full"), "yes");
            checks.is("the source is its name", small.source.as_str(), "small");
            checks.is("without a mode, that of the folder below", seen.get("kept"), "710");
            checks.is("ro", seen.get("ro"), "yes");
            checks.holds("noatime", seen.mount("/ro").has("noatime"), seen.mount("/ro"));
        },
    ),
    probe(
        "tmpcopyup",
        |config, bundle| {
            let folder = bundle.join("rootfs/var/data");
            fs::create_dir_all(folder.join("sub")).unwrap();
            fs::write(folder.join("sub/file"), "copied").unwrap();
            fs::set_permissions(folder.join("sub/file"), fs::Permissions::from_mode(0o640)).unwrap();
            symlink("sub/file", folder.join("link")).unwrap();
            mount(config, "/var/data", "tmpfs", "tmpfs", &["tmpcopyup"]);
        },
        "cat /proc/self/mountinfo; echo \"file=$(cat /var/data/sub/file)\"; echo \"mode=$(stat -c %a /var/data/sub/file)\"
         echo \"link=$(readlink /var/data/link)\"; echo new >/var/data/sub/file",
        |seen, checks| {
            checks.is("it is a tmpfs", seen.mount("/var/data").kind.as_str(), "tmpfs");
            checks.is("content", seen.get("file"), "copied");
            checks.is("mode", seen.get("mode"), "640");
            checks.is("a symlink", seen.get("link"), "sub/file");
        },
    ),
    probe(
        "order of mounts",
        |config, bundle| {
            let source = source(bundle);
            mount(config, "/one", "tmpfs", "first", &[]);
            mount(config, "/one/two", "bind", &source, &["bind"]);
            mount(config, "/one/two/three", "tmpfs", "third", &[]);
            mount(config, "/over", "bind", &source, &["bind"]);
            mount(config, "/over", "tmpfs", "last", &[]);
        },
        "cat /proc/self/mountinfo; echo \"inner=$(cat /one/two/file)\"; echo \"over=$(ls /over | grep -c .)\"",
        |seen, checks| {
            checks.is("one on another", seen.get("inner"), "content");
            checks.is("the innermost", seen.mount("/one/two/three").source.as_str(), "third");
            checks.is("the later hides the earlier", (seen.get("over"), seen.mount("/over").source.as_str()), ("0", "last"));
        },
    ),
    scene("symlinks in destinations", symlinks),
    probe("mqueue and shm", |_, _| {}, "echo x >/dev/shm/x && echo \"shm=works\"; mkdir /dev/mqueue/d 2>/dev/null || echo \"folders=refused\"
        touch /dev/mqueue/q && echo \"queue=$(cat /dev/mqueue/q | cut -d: -f1)\"", |seen, checks| {
        checks.is("shm is writable", seen.get("shm"), "works");
        checks.is("mqueue holds queues", seen.get("queue"), "QSIZE");
        checks.is("and nothing else", seen.get("folders"), "refused");
    }),
    probe(
        "recursive attributes",
        |config, bundle| {
            let source = source(bundle);
            mount(config, "/low", "tmpfs", "low", &[]);
            mount(config, "/plain", "bind", &source, &["rbind", "rro"]);
            mount(config, "/odd", "bind", &source, &["rbind", "rnosuid", "rnodev", "rnoexec"]);
        },
        MOUNTS,
        |seen, checks| {
            checks.holds("rro", seen.mount("/plain").has("ro"), seen.mount("/plain"));
            let odd = seen.mount("/odd");
            checks.holds("rnosuid, rnodev, rnoexec", odd.has("nosuid") && odd.has("nodev") && odd.has("noexec"), odd);
        },
    ),
    probe(
        "read-only root",
        |config, _| {
            config["root"]["readonly"] = json!(true);
            mount(config, "/tmp", "tmpfs", "tmpfs", &[]);
        },
        "cat /proc/self/mountinfo; touch /new 2>/dev/null || echo \"root=refused\"; touch /tmp/new && echo \"tmp=works\"; touch /dev/new && echo \"dev=works\"",
        |seen, checks| {
            checks.holds("the option", seen.mount("/").has("ro"), seen.mount("/"));
            checks.is("a write", seen.get("root"), "refused");
            checks.is("a write on a mount", seen.get("tmp"), "works");
            checks.is("/dev is writable", seen.get("dev"), "works");
        },
    ),
    probe(
        "writable root",
        |_, _| {},
        "cat /proc/self/mountinfo; echo x >/new && echo \"root=works\"; ls / | while read name; do echo \"has-$name=1\"; done",
        |seen, checks| {
            checks.holds("the option", seen.mount("/").has("rw"), seen.mount("/"));
            checks.is("a write", seen.get("root"), "works");
            checks.is("nothing of pivot_root is left", seen.mounts().iter().filter(|mount| mount.point == "/").count(), 1);
        },
    ),
    probe(
        "masked and read-only paths",
        |config, bundle| {
            fs::create_dir_all(bundle.join("rootfs/hide/sub")).unwrap();
            fs::write(bundle.join("rootfs/hide/file"), "secret").unwrap();
            fs::write(bundle.join("rootfs/secret"), "secret").unwrap();
            fs::create_dir_all(bundle.join("rootfs/fixed")).unwrap();
            config["linux"]["maskedPaths"] = json!(["/hide", "/secret", "/proc/kcore", "/proc/timer_list", "/nowhere"]);
            config["linux"]["readonlyPaths"] = json!(["/proc/sys", "/fixed", "/proc/sysrq-trigger", "/nowhere-either"]);
        },
        "cat /proc/self/mountinfo; echo \"folder=$(ls -A /hide | grep -c .)\"; echo \"file=$(cat /secret | wc -c)\"
         echo \"kcore=$(cat /proc/kcore | wc -c)\"; touch /hide/x 2>/dev/null || echo \"hide-write=refused\"
         touch /fixed/x 2>/dev/null || echo \"fixed-write=refused\"; (echo x >/proc/sys/kernel/hostname) 2>/dev/null || echo \"sysctl=refused\"
         (echo h >/proc/sysrq-trigger) 2>/dev/null || echo \"sysrq=refused\"",
        |seen, checks| {
            checks.is("a masked folder is empty", seen.get("folder"), "0");
            checks.is("a masked folder takes no files", seen.get("hide-write"), "refused");
            checks.is("a masked file is empty", seen.get("file"), "0");
            checks.is("a masked file of proc is empty", seen.get("kcore"), "0");
            checks.is("a read-only folder", seen.get("fixed-write"), "refused");
            checks.is("read-only sysctls", seen.get("sysctl"), "refused");
            checks.is("a read-only file", seen.get("sysrq"), "refused");
            checks.holds("/proc/sys is a mount", seen.mount("/proc/sys").has("ro"), seen.mount("/proc/sys"));
            checks.holds("proc's options stay on it", seen.mount("/proc/sys").kind == "proc", seen.mount("/proc/sys"));
        },
    ),
    scene("idmapped mounts", idmapped),
    probe(
        "control groups mounted",
        |config, _| {
            let options = ["nosuid", "noexec", "nodev", "relatime", "ro"];
            mount(config, "/sys/fs/cgroup", "cgroup", "cgroup", &options);
        },
        "cat /proc/self/mountinfo; echo \"procs=$(cat /sys/fs/cgroup/pids/cgroup.procs /sys/fs/cgroup/cgroup.procs 2>/dev/null | grep -c .)\"
         mkdir /sys/fs/cgroup/pids/new /sys/fs/cgroup/new 2>/dev/null || echo \"write=refused\"",
        |seen, checks| {
            let there = ["tmpfs", "cgroup2"].contains(&seen.mount("/sys/fs/cgroup").kind.as_str());
            checks.holds("there is one", there, seen.mount("/sys/fs/cgroup"));
            let all = seen.mounts().iter().filter(|mount| mount.kind.starts_with("cgroup"));
            let writable: Vec<_> = all.filter(|mount| !mount.has("ro")).collect();
            checks.holds("read-only", writable.is_empty(), writable);
            checks.is("a write", seen.get("write"), "refused");
            let procs: u32 = seen.get("procs").parse().unwrap_or(0);
            checks.holds("it shows the container's group", (1..5).contains(&procs), procs);
        },
    ),
];

/// Where below /opt, and the options.
const OPTIONS: &[(&str, &str)] = &[
    ("ro", "ro"),
    ("rw", "rw"),
    ("nosuid", "nosuid"),
    ("nodev", "nodev"),
    ("noexec", "noexec"),
    ("noatime", "noatime"),
    ("nodiratime", "nodiratime"),
    ("relatime", "relatime"),
    ("several", "ro,nosuid,nodev,noexec"),
    ("opposites", "suid,dev,exec"),
];

/// A folder with a file, and a program, beside the bundle's root file system.
fn source(bundle: &Path) -> PathBuf {
    let source = bundle.join("source");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    fs::copy(bundle.join("rootfs/bin/busybox"), source.join("tool")).unwrap();
    source
}

/// A mount below the source.
fn below(scene: &Scene<'_>) -> PathBuf {
    let source = source(scene.folder());
    fs::create_dir(source.join("sub")).unwrap();
    let mut cmd = crate::fixture::cmd::Cmd::new("/bin/mount").args(["-t", "tmpfs", "below"]);
    cmd = cmd.arg(source.join("sub"));
    cmd.ok();
    fs::write(source.join("sub/inner"), "inner").unwrap();
    source
}

fn recursive(scene: &mut Scene<'_>, checks: &Checks) {
    let source = below(scene);
    mount(&mut scene.config, "/plain", "bind", &source, &["bind"]);
    mount(&mut scene.config, "/all", "bind", &source, &["rbind"]);
    mount(&mut scene.config, "/top", "bind", &source, &["rbind", "ro"]);
    mount(&mut scene.config, "/rro", "bind", &source, &["rbind", "rro"]);
    let out = scene.run(&format!(
        "{MOUNTS}echo \"plain=$(ls /plain/sub)\"; echo \"all=$(cat /all/sub/inner)\"
        touch /top/x 2>/dev/null || echo \"top=refused\"; touch /top/sub/x && echo \"top-sub=works\"
        touch /rro/sub/x 2>/dev/null || echo \"rro-sub=refused\""
    ));
    let seen = Seen::new(&out.stdout);
    checks.is("bind leaves out what is mounted below", seen.get("plain"), "");
    checks.is("rbind takes it along", seen.get("all"), "inner");
    checks.is("ro is for the top", seen.get("top"), "refused");
    checks.is("ro is not for what is below", seen.get("top-sub"), "works");
    checks.is("rro is for all", seen.get("rro-sub"), "refused");
}

fn symlinks(scene: &mut Scene<'_>, checks: &Checks) {
    let source = source(scene.folder());
    let outside = scene.beside("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, scene.rootfs().join("absolute")).unwrap();
    symlink("../../../../../../../../tmp/up", scene.rootfs().join("upwards")).unwrap();
    symlink("/etc", scene.rootfs().join("conf")).unwrap();
    symlink(
        "../../../../../../../../tmp/up-missing",
        scene.rootfs().join("upwards-missing"),
    )
    .unwrap();
    let absolute = outside.to_string_lossy().into_owned();
    let plain = scene.config.clone();
    symlink(format!("{absolute}/missing"), scene.rootfs().join("missing")).unwrap();
    for made in [format!("{absolute}/inner")[1..].to_owned(), "tmp/up".to_owned()] {
        fs::create_dir_all(scene.rootfs().join(made)).unwrap();
    }
    for (name, destination, place) in [
        (
            "an absolute one is resolved inside the root",
            "/absolute/inner",
            "/absolute/inner",
        ),
        ("one that climbs stays inside the root", "/upwards", "/tmp/up"),
        ("one to a folder of the root is followed", "/conf/data", "/etc/data"),
        ("dots stay inside the root", "/../../dotted", "/dotted"),
        ("an absolute one that leads nowhere", "/missing", "/missing"),
        (
            "one that climbs, and leads nowhere",
            "/upwards-missing",
            "/tmp/up-missing",
        ),
    ] {
        mount(&mut scene.config, destination, "bind", &source, &["bind"]);
        let out = scene.run(&format!("cat {place}/file"));
        checks.is(name, out.stdout, "content".to_owned());
        scene.config = plain.clone();
    }
    checks.is("nothing is made outside", fs::read_dir(&outside).unwrap().count(), 0);
    checks.is(
        "nothing is mounted outside",
        fs::read_to_string("/proc/self/mountinfo").unwrap().contains("outside"),
        false,
    );
}

fn idmapped(scene: &mut Scene<'_>, checks: &Checks) {
    let source = source(scene.folder());
    let ranges = |host: u32| json!([{ "containerID": 0, "hostID": host, "size": 65536 }]);
    let entry: Value = json!({
        "destination": "/mapped", "type": "bind", "source": source, "options": ["bind"],
        "uidMappings": ranges(200_000), "gidMappings": ranges(200_000),
    });
    scene.config["mounts"].as_array_mut().unwrap().push(entry);
    let out = scene.run("echo \"owner=$(stat -c %u:%g /mapped/file)\"");
    let seen = Seen::new(&out.stdout);
    checks.is("the owner is shifted", seen.get("owner"), "200000:200000");
}

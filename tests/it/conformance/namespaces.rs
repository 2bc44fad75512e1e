//! config-linux.md: namespaces, new, inherited and by path; id mappings; time offsets; sysctl.

use super::case::{Case, Checks, probe, scene};
use super::scene::{Scene, namespace, until, without_namespace};
use super::seen::Seen;
use crate::fixture::child::Running;
use crate::fixture::cmd::Cmd;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

const LINKS: &str =
    "for n in pid net ipc uts mnt user cgroup time; do echo $n=$(readlink /proc/self/ns/$n); done; echo \"self=$$\"\n";

pub const CASES: &[Case] = &[
    probe(
        "new namespaces",
        |config, _| namespace(config, "cgroup", None),
        "for n in pid net ipc uts mnt user cgroup; do echo $n=$(readlink /proc/self/ns/$n); done; echo \"self=$$\"
         echo \"links=$(ls /sys/class/net | tr '\\n' ' ')\"; echo \"lo=$(cat /sys/class/net/lo/flags)\"
         echo \"pids=$(ls /proc | grep -c '^[0-9]')\"; cat /proc/self/cgroup | sed 's/^[0-9]*:/cg-/; s/:/=/'",
        |seen, checks| {
            for kind in ["pid", "net", "ipc", "uts", "mnt", "cgroup"] {
                let link = seen.get(kind);
                checks.holds(kind, link.contains(":[") && link != own(kind), link);
            }
            checks.is("user: inherited", seen.get("user"), own("user").as_str());
            checks.is("pid: the program is the first process", seen.get("self"), "1");
            checks.holds("pid: no other processes are seen", seen.get("pids").parse().is_ok_and(|count: u32| count < 5), seen.get("pids"));
            checks.is("net: only loopback", seen.get("links"), "lo");
            checks.is("net: loopback is up", seen.get("lo"), "0x9");
            checks.is("cgroup: the root of its view is its group", seen.get("cg-memory"), "/");
        },
    ),
    probe(
        "inherited namespaces",
        |config, _| {
            for kind in ["network", "ipc", "pid"] {
                without_namespace(config, kind);
            }
        },
        LINKS,
        |seen, checks| {
            for kind in ["net", "ipc", "pid", "user", "cgroup", "time"] {
                checks.is(kind, seen.get(kind), own(kind).as_str());
            }
            checks.holds("uts is still new", seen.get("uts") != own("uts"), seen.get("uts"));
        },
    ),
    scene("namespaces by path", by_path),
    scene("pid namespace by path", pid_by_path),
    scene("mount namespace by path", mount_by_path),
    scene("user namespace by path", user_by_path),
    scene("user namespace", user),
    probe(
        "user namespace with two ranges",
        |config, bundle| {
            mapped(config, bundle);
            let ranges = json!([
                { "containerID": 0, "hostID": 100_000, "size": 1000 },
                { "containerID": 1000, "hostID": 300_000, "size": 1 },
            ]);
            config["linux"]["uidMappings"] = ranges.clone();
            config["linux"]["gidMappings"] = ranges;
            config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
        },
        "echo \"map=$(cat /proc/self/uid_map | tr -s ' \\n' ' ')\"; echo \"id=$(id -u):$(id -g)\"",
        |seen, checks| {
            checks.is("the map", seen.get("map"), "0 100000 1000 1000 300000 1");
            checks.is("a user of the second range", seen.get("id"), "1000:1000");
        },
    ),
    probe(
        "time namespace",
        |config, _| {
            namespace(config, "time", None);
            config["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 1_000_000 }, "monotonic": { "secs": 5 } });
        },
        "echo \"time=$(readlink /proc/self/ns/time)\"; echo \"offsets=$(cat /proc/self/timens_offsets | tr -s ' \\n' ' ')\"
         read up rest </proc/uptime; echo \"up=${up%%.*}\"",
        |seen, checks| {
            checks.holds("it is new", seen.get("time").contains(":[") && seen.get("time") != own("time"), seen.get("time"));
            checks.is("its offsets", seen.get("offsets"), "monotonic 5 0 boottime 1000000 0");
            checks.holds("the clock", seen.get("up").parse().is_ok_and(|secs: u64| secs >= 1_000_000), seen.get("up"));
        },
    ),
    probe(
        "sysctl",
        |config, _| {
            config["linux"]["sysctl"] = json!({
                "net.ipv4.ip_forward": "1",
                "net.core.somaxconn": "256",
                "kernel.msgmax": "9000",
                "fs.mqueue.msg_max": "20",
                "kernel.shm_rmid_forced": "1",
            });
        },
        "cd /proc/sys; for f in net/ipv4/ip_forward net/core/somaxconn kernel/msgmax fs/mqueue/msg_max kernel/shm_rmid_forced
         do echo \"$f=$(cat $f)\"; done",
        |seen, checks| {
            for (name, value) in [
                ("net/ipv4/ip_forward", "1"),
                ("net/core/somaxconn", "256"),
                ("kernel/msgmax", "9000"),
                ("fs/mqueue/msg_max", "20"),
                ("kernel/shm_rmid_forced", "1"),
            ] {
                checks.is(name, seen.get(name), value);
            }
            let own = fs::read_to_string("/proc/sys/kernel/msgmax").unwrap();
            checks.holds("the machine's are as they were", own.trim() != "9000", own);
        },
    ),
    probe(
        "sysctl with slashes",
        |config, _| config["linux"]["sysctl"] = json!({ "net/core/somaxconn": "257" }),
        "echo \"value=$(cat /proc/sys/net/core/somaxconn)\"",
        |seen, checks| checks.is("it is set", seen.get("value"), "257"),
    ),
];

fn own(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}"))
        .unwrap()
        .to_string_lossy()
        .into_owned()
}

/// A process in new namespaces, and where these are.
struct Holder(Running);

impl Holder {
    fn new(options: &[&str]) -> Holder {
        let mut running = Cmd::new("/usr/bin/unshare")
            .args(options)
            .args(["sh", "-c", "echo up; exec sleep 1000"])
            .start();
        running.wait_for("up", std::time::Duration::from_secs(10));
        Holder(running)
    }

    fn path(&self, kind: &str) -> PathBuf {
        format!("/proc/{}/ns/{kind}", self.0.pid()).into()
    }

    fn link(&self, kind: &str) -> String {
        fs::read_link(self.path(kind)).unwrap().to_string_lossy().into_owned()
    }
}

fn by_path(scene: &mut Scene<'_>, checks: &Checks) {
    let holder = Holder::new(&["--net", "--ipc", "--uts", "--cgroup"]);
    for (name, kind) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("cgroup", "cgroup")] {
        namespace(&mut scene.config, name, Some(&holder.path(kind)));
    }
    scene.config.as_object_mut().unwrap().remove("hostname");
    let seen = Seen::new(&scene.run(LINKS).stdout);
    for kind in ["net", "ipc", "uts", "cgroup"] {
        checks.is(kind, seen.get(kind), holder.link(kind).as_str());
    }
    checks.holds("pid is still new", seen.get("pid") != own("pid"), seen.get("pid"));
    scene.config["hostname"] = json!("set-by-path");
    let out = scene.run("echo \"host=$(hostname)\"");
    let seen = Seen::new(&out.stdout);
    checks.is("hostname in a namespace by path", seen.get("host"), "set-by-path");
    let bound = scene.beside("net");
    fs::write(&bound, "").unwrap();
    Cmd::new("/bin/mount")
        .arg("--bind")
        .arg(holder.path("net"))
        .arg(&bound)
        .ok();
    namespace(&mut scene.config, "network", Some(&bound));
    let seen = Seen::new(&scene.run(LINKS).stdout);
    checks.is("net by a bound file", seen.get("net"), holder.link("net").as_str());
    namespace(&mut scene.config, "network", Some(Path::new("relative/net")));
    checks.fails("a relative path is refused", &scene.run_with(&[]));
}

fn pid_by_path(scene: &mut Scene<'_>, checks: &Checks) {
    let holder = Holder::new(&["--pid", "--fork", "--kill-child"]);
    let children = format!("/proc/{0}/task/{0}/children", holder.0.pid());
    let first = fs::read_to_string(children).unwrap().trim().to_owned();
    let path = PathBuf::from(format!("/proc/{first}/ns/pid"));
    let link = fs::read_link(&path).unwrap().to_string_lossy().into_owned();
    namespace(&mut scene.config, "pid", Some(&path));
    let out = scene.run(LINKS);
    let seen = Seen::new(&out.stdout);
    checks.is("it is joined", seen.get("pid"), link.as_str());
    checks.holds(
        "the program is not the first process",
        !["1", "(not printed)"].contains(&seen.get("self")),
        out,
    );
}

fn mount_by_path(scene: &mut Scene<'_>, checks: &Checks) {
    let holder = Holder::new(&["--mount"]);
    namespace(&mut scene.config, "mount", Some(&holder.path("mnt")));
    let rootfs = scene.rootfs();
    // Whether pivot_root is done in a joined namespace is the runtime's; that it is joined is not.
    scene.config["process"]["args"] = json!(["/bin/busybox", "sleep", "100"]);
    let out = scene.create();
    let link = match out.code {
        0 => fs::read_link(format!("/proc/{}/ns/mnt", scene.pid())).unwrap_or_default(),
        _ => PathBuf::from(out.stderr),
    };
    checks.is(
        "it is joined",
        link.to_string_lossy().as_ref(),
        holder.link("mnt").as_str(),
    );
    checks.holds(
        "the root file system stays",
        rootfs.join("bin/busybox").exists(),
        rootfs,
    );
}

/// A user namespace of ids from 100000, and a root file system that belongs to it.
pub fn mapped(config: &mut Value, bundle: &Path) {
    namespace(config, "user", None);
    let ranges = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    config["linux"]["uidMappings"] = ranges.clone();
    config["linux"]["gidMappings"] = ranges;
    for name in ["", "bin", "proc", "sys", "dev", "tmp", "etc", "bin/busybox"] {
        chown(bundle.join("rootfs").join(name), Some(100_000), Some(100_000)).unwrap();
    }
}

fn user(scene: &mut Scene<'_>, checks: &Checks) {
    let folder = scene.folder().to_owned();
    mapped(&mut scene.config, &folder);
    scene.config["process"]["user"] = json!({ "uid": 0, "gid": 0, "additionalGids": [10] });
    let out = scene.run(
        "echo \"user=$(readlink /proc/self/ns/user)\"; echo \"uids=$(cat /proc/self/uid_map | tr -s ' ')\"
         echo \"gids=$(cat /proc/self/gid_map | tr -s ' ')\"; echo \"id=$(id -u):$(id -g)\"; echo \"groups=$(id -G)\"
         touch /tmp/mine && echo \"made=$(stat -c %u /tmp/mine)\"; hostname changed && echo \"host=$(hostname)\"
         cat /proc/self/status; echo \"root=$(stat -c %u /)\"; echo x >/dev/null && echo \"null=yes\"
         echo \"setgroups=$(cat /proc/self/setgroups)\"",
    );
    let seen = Seen::new(&out.stdout);
    checks.holds(
        "it is new",
        seen.get("user").contains(":[") && seen.get("user") != own("user"),
        &out,
    );
    checks.is("user ids", seen.get("uids"), "0 100000 65536");
    checks.is("group ids", seen.get("gids"), "0 100000 65536");
    checks.is("the program is root inside", seen.get("id"), "0:0");
    checks.has("additional groups", seen.get("groups"), "10");
    checks.is("setgroups is allowed", seen.get("setgroups"), "allow");
    checks.is("its files are its own inside", seen.get("made"), "0");
    checks.is("the root belongs to it", seen.get("root"), "0");
    checks.is(
        "capabilities are as listed",
        seen.get("CapEff"),
        super::identity::bits(&[0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 27, 31]).as_str(),
    );
    checks.is("devices work", seen.get("null"), "yes");
    let made = fs::metadata(scene.rootfs().join("tmp/mine"))
        .map(|meta| (meta.uid(), meta.gid()))
        .unwrap_or_default();
    checks.is("outside they are of the range", made, (100_000, 100_000));
    let kept = fs::metadata(scene.rootfs().join("bin/sh"))
        .map(|meta| meta.uid())
        .unwrap_or_default();
    checks.is("the runtime changes no owner", kept, 100_000);
    scene.started("sleep 1000");
    let status = fs::read_to_string(format!("/proc/{}/status", scene.pid())).unwrap();
    let uid = status.lines().find(|line| line.starts_with("Uid:")).unwrap_or_default();
    checks.is("from outside: the ids", uid, "Uid:\t100000\t100000\t100000\t100000");
    let out = scene.exec(&[], "id -u; readlink /proc/self/ns/user");
    let link = fs::read_link(format!("/proc/{}/ns/user", scene.pid())).unwrap();
    checks.is("exec joins it", out.stdout, format!("0\n{}\n", link.display()));
}

fn user_by_path(scene: &mut Scene<'_>, checks: &Checks) {
    let holder = Holder::new(&["--user"]);
    for file in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{}/{file}", holder.0.pid()), "0 100000 65536").unwrap();
    }
    let folder = scene.folder().to_owned();
    mapped(&mut scene.config, &folder);
    let linux = scene.config["linux"].as_object_mut().unwrap();
    linux.remove("uidMappings");
    linux.remove("gidMappings");
    namespace(&mut scene.config, "user", Some(&holder.path("user")));
    let out = scene.run(LINKS);
    let seen = Seen::new(&out.stdout);
    checks.is("it is joined", seen.get("user"), holder.link("user").as_str());
    checks.holds("the holder lives", until(|| holder.path("user").exists()), out);
}

//! What versions 1.1 to 1.3 of the specification have added: scheduling, memory nodes, processors of an exec, clocks that are
//! joined, owners shifted inside a user namespace, and listeners of filters that stop nearly everything.

use super::case::{Case, Checks, probe, scene};
use super::scene::{Scene, must, namespace};
use super::seen::Seen;
use super::terminal::Console;
use serde_json::{Value, json};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::chown;
use std::path::Path;

pub const CASES: &[Case] = &[
    scene("scheduling refused", refused),
    probe(
        "scheduler that children do not inherit",
        |config, _| {
            config["process"]["scheduler"] =
                json!({ "policy": "SCHED_OTHER", "nice": -5, "flags": ["SCHED_FLAG_RESET_ON_FORK"] });
        },
        "set -- $(cut -d')' -f2 /proc/1/stat); echo \"own=${17}\"; set -- $(cut -d')' -f2 /proc/self/stat); echo \"child=${17}\"",
        |seen, checks| {
            checks.is("nice", seen.get("own"), "-5");
            checks.is("nice of a child", seen.get("child"), "0");
        },
    ),
    probe(
        "memory policy",
        |config, _| config["linux"]["memoryPolicy"] = json!({ "mode": "MPOL_BIND", "nodes": "0" }),
        "head -n 1 /proc/self/numa_maps | cut -d' ' -f2 | sed 's/^/policy-is=/'",
        |seen, checks| checks.is("the policy is set", seen.get("policy-is"), "bind:0"),
    ),
    scene("exec: processors", processors),
    scene("time namespace by path", joined_clocks),
    scene("idmapped in a user namespace", shifted),
    scene("idmapped mounts refused", unshifted),
    scene("network devices", links),
    scene("seccomp listener of an exec", exec_listener),
    scene("seccomp listener that is asked for most calls", strict_listener),
];

fn refused(scene: &mut Scene<'_>, checks: &Checks) {
    let cases = [
        ("an unknown policy", "scheduler", json!({ "policy": "SCHED_FAIR" })),
        (
            "a nice value beyond 19",
            "scheduler",
            json!({ "policy": "SCHED_OTHER", "nice": 20 }),
        ),
        (
            "a priority without real time",
            "scheduler",
            json!({ "policy": "SCHED_OTHER", "priority": 5 }),
        ),
        (
            "a deadline without its times",
            "scheduler",
            json!({ "policy": "SCHED_DEADLINE" }),
        ),
        (
            "an unknown class",
            "ioPriority",
            json!({ "class": "BEST", "priority": 1 }),
        ),
        (
            "a class without such a priority",
            "ioPriority",
            json!({ "class": "IOPRIO_CLASS_BE", "priority": 8 }),
        ),
    ];
    let plain = scene.config.clone();
    for (name, field, value) in cases {
        scene.config = plain.clone();
        scene.config["process"][field] = value;
        let out = scene.run("true");
        checks.holds(name, out.code != 0, out);
    }
}

fn processors(scene: &mut Scene<'_>, checks: &Checks) {
    scene.started("while :; do sleep 1; done");
    let mut process = scene.config["process"].clone();
    process["args"] = json!(["/bin/sh", "-c", "grep Cpus_allowed_list /proc/self/status"]);
    let path = scene.beside("process.json");
    for (name, affinity) in [
        ("initial", json!({ "initial": "0" })),
        ("final", json!({ "initial": "0-1", "final": "0" })),
    ] {
        process["execCPUAffinity"] = affinity;
        fs::write(&path, process.to_string()).unwrap();
        let out = scene.call(&["exec", "--process", path.to_str().unwrap(), &scene.id]);
        let list = out.stdout.split_whitespace().last().unwrap_or_default();
        checks.is(name, list, "0");
    }
    process["execCPUAffinity"] = json!({ "initial": "none" });
    fs::write(&path, process.to_string()).unwrap();
    let out = scene.call(&["exec", "--process", path.to_str().unwrap(), &scene.id]);
    checks.holds("what is no list", out.code != 0, out);
}

fn joined_clocks(scene: &mut Scene<'_>, checks: &Checks) {
    let say = "echo \"time=$(readlink /proc/self/ns/time)\"; read up rest </proc/uptime; echo \"up=${up%%.*}\"";
    namespace(&mut scene.config, "time", None);
    scene.config["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 2_000_000 } });
    scene.started("while :; do sleep 1; done");
    let seen = Seen::new(&scene.exec(&[], say).stdout);
    let pid = scene.pid();
    let link = fs::read_link(format!("/proc/{pid}/ns/time")).unwrap();
    checks.is("exec joins it", seen.get("time"), link.to_str().unwrap());
    let path = format!("/proc/{pid}/ns/time");
    let mut other = scene.another();
    namespace(&mut other.config, "time", Some(Path::new(&path)));
    let seen = Seen::new(&other.run(say).stdout);
    checks.is("it is joined", seen.get("time"), link.to_str().unwrap());
    let shifted = seen.get("up").parse().is_ok_and(|secs: u64| secs >= 2_000_000);
    checks.holds("with its clock", shifted, seen.get("up"));
    other.config["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 1 } });
    let out = other.run("true");
    checks.holds("its offsets cannot be set again", out.code != 0, out);
    other.end();
    namespace(&mut scene.config, "time", None);
    must(scene.delete());
    scene.config["linux"]["timeOffsets"] = json!({ "realtime": { "secs": 1 } });
    let out = scene.run("true");
    checks.holds("a clock that cannot be set", out.code != 0, out);
}

/// A folder with a file of root's, and a mount of it.
fn owned(folder: &Path, more: Value) -> Value {
    let source = folder.join("owned");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    chown(source.join("file"), Some(3), Some(4)).unwrap();
    let mut mount = json!({ "destination": "/mapped", "type": "bind", "source": source, "options": ["bind", "idmap"] });
    for (key, value) in more.as_object().unwrap() {
        mount[key] = value.clone();
    }
    mount
}

fn shifted(scene: &mut Scene<'_>, checks: &Checks) {
    let ranges = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    let folder = scene.folder().to_owned();
    super::namespaces::mapped(&mut scene.config, &folder);
    scene.config["linux"]["uidMappings"] = ranges.clone();
    scene.config["linux"]["gidMappings"] = ranges.clone();
    let say =
        "echo \"owner=$(stat -c %u:%g /mapped/file)\"; touch /mapped/new && echo \"new=$(stat -c %u:%g /mapped/new)\"";
    let plain = scene.config.clone();
    for (name, more) in [
        (
            "by the mount's mappings",
            json!({ "uidMappings": ranges, "gidMappings": ranges }),
        ),
        ("by the container's mappings", json!({})),
        ("with those below", json!({ "options": ["rbind", "ridmap"] })),
    ] {
        scene.config = plain.clone();
        let mount = owned(scene.folder(), more);
        scene.config["mounts"].as_array_mut().unwrap().push(mount);
        let seen = Seen::new(&scene.run(say).stdout);
        checks.is(name, seen.get("owner"), "3:4");
        checks.is(&format!("{name}: new files"), seen.get("new"), "0:0");
        let made = fs::metadata(scene.folder().join("owned/new"));
        let owner = made.map(|data| std::os::unix::fs::MetadataExt::uid(&data)).ok();
        checks.is(&format!("{name}: on the disk"), owner, Some(0));
        let _ = fs::remove_file(scene.folder().join("owned/new"));
    }
}

fn unshifted(scene: &mut Scene<'_>, checks: &Checks) {
    let ranges = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    let plain = scene.config.clone();
    for (name, more) in [
        ("half of the mappings", json!({ "uidMappings": ranges })),
        ("no mappings at all", json!({})),
        (
            "a new file system",
            json!({ "type": "tmpfs", "source": "tmpfs", "options": [], "uidMappings": ranges, "gidMappings": ranges }),
        ),
    ] {
        scene.config = plain.clone();
        let mount = owned(scene.folder(), more);
        scene.config["mounts"].as_array_mut().unwrap().push(mount);
        let out = scene.run("true");
        checks.holds(name, out.code != 0, out);
    }
}

/// In a network namespace of the test's own: the machine's interfaces stay as they are.
fn links(scene: &mut Scene<'_>, checks: &Checks) {
    let with_links = "exec unshare --net sh -c 'ip link add eth7 mtu 1400 type veth peer name peer7
        ip address add 192.0.2.7/24 dev eth7; ip address add 2001:db8::7/64 dev eth7 nodad
        ip link add eth8 type veth peer name peer8; \"$@\"; code=$?; ip -o link | sed s/^/outside:/; exit $code' sh \"$@\" >>\"$OUT\" 2>\"$ERR\" </dev/null";
    let bundle = scene.folder().to_string_lossy().into_owned();
    scene.config["linux"]["netDevices"] = json!({ "eth7": { "name": "lan" }, "eth8": {} });
    scene.script("ip -o link; ip -o address");
    scene.write_config();
    let out = scene.call_through(with_links, &["run", "--bundle", &bundle, &scene.id]);
    checks.is("it runs", out.code, 0);
    let said = scene.output();
    let inside: Vec<&str> = said.lines().filter(|line| !line.starts_with("outside:")).collect();
    let has = |words: &[&str]| inside.iter().any(|line| words.iter().all(|word| line.contains(word)));
    checks.holds("it has its name and is up", has(&["lan", "mtu 1400", "UP"]), &said);
    checks.holds("the other keeps its name", has(&["eth8", "UP"]), &said);
    checks.holds("its address comes along", has(&["lan", "192.0.2.7/24"]), &said);
    checks.holds("also the one of IPv6", has(&["lan", "2001:db8::7/64"]), &said);
    let left = said
        .lines()
        .any(|line| line.starts_with("outside:") && (line.contains("eth7") || line.contains("eth8")));
    checks.holds("nothing of it is left outside", !left, &said);
    scene.config["linux"]["netDevices"] = json!({ "eth9": {} });
    scene.write_config();
    let out = scene.call_through(with_links, &["run", "--bundle", &bundle, &scene.id]);
    checks.holds("one that is not there", out.code != 0, out);
    scene.config["linux"]["netDevices"] = json!({ "eth7": { "name": "lo" } });
    scene.write_config();
    let out = scene.call_through(with_links, &["run", "--bundle", &bundle, &scene.id]);
    checks.holds("a name that is taken inside", out.code != 0, out);
}

fn exec_listener(scene: &mut Scene<'_>, checks: &Checks) {
    let socket = Console::new(scene, "listener");
    scene.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": socket.path,
        "syscalls": [{ "names": ["chmod", "fchmodat"], "action": "SCMP_ACT_NOTIFY" }],
    });
    scene.started("while :; do sleep 1; done");
    let first = socket.take();
    let pid = scene.pid();
    let args = ["exec", "--detach", &scene.id, "/bin/sh", "-c", "sleep 50"];
    checks.works(
        "works",
        &scene.call_through("exec \"$@\" >>\"$OUT\" 2>\"$ERR\" </dev/null", &args),
    );
    let (text, fds) = socket.take();
    let text = String::from_utf8_lossy(&text).trim_end_matches(['\0', '\n']).to_owned();
    let state: Value = serde_json::from_str(&text).unwrap_or_default();
    checks.is("a listener of its own comes", fds.len(), 1);
    checks.is(
        "state: pid is the container's",
        state["state"]["pid"].as_u64(),
        Some(pid),
    );
    let own = state["pid"].as_u64().unwrap_or_default();
    let link = fs::read_link(format!("/proc/{own}/ns/pid")).unwrap_or_default();
    checks.is(
        "pid is of the process that joined",
        (own != pid, link),
        (true, fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap()),
    );
    drop(first);
}

fn strict_listener(scene: &mut Scene<'_>, checks: &Checks) {
    let socket = Console::new(scene, "listener");
    // All that a runtime could send the descriptor with.
    scene.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": socket.path,
        "syscalls": [{
            "names": ["sendmsg", "sendto", "close", "close_range", "fcntl", "capset", "recvmsg", "recvfrom"],
            "action": "SCMP_ACT_NOTIFY",
        }],
    });
    scene.config["process"]["noNewPrivileges"] = json!(true);
    scene.script("while :; do sleep 1; done");
    scene.write_config();
    // One that waits for the listener to let it send the listener waits for ever.
    let bundle = scene.folder().to_string_lossy().into_owned();
    let shell = "exec timeout -s KILL 5 \"$@\" >>\"$OUT\" 2>\"$ERR\" </dev/null";
    must(scene.call_through(shell, &["create", "--bundle", &bundle, &scene.id]));
    must(scene.call_through(shell, &["start", &scene.id]));
    let (_, fds) = socket.take();
    let link = fds
        .first()
        .map(|fd| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap());
    checks.is("the listener comes", link, Some("anon_inode:seccomp notify".into()));
    checks.is("the program runs", scene.awaits("running"), "running".to_owned());
}

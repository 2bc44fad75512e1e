//! config-linux.md: default devices, further devices, and the list of allowed ones.

use super::case::{Case, Checks, probe, scene};
use super::scene::{Scene, must};
use super::seen::Seen;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Type, number and mode of a node as `key=value`.
const STAT: &str = "show() { echo \"$1=$(stat -c '%F %t:%T %a %u:%g' $1)\"; }\n";

pub const CASES: &[Case] = &[
    probe(
        "default devices",
        |_, _| {},
        "for n in null zero full random urandom tty; do echo \"$n=$(stat -c '%F %t:%T %a' /dev/$n)\"; done
         for n in fd stdin stdout stderr ptmx core; do echo \"link-$n=$(readlink /dev/$n)\"; done
         test -c /dev/ptmx && echo \"ptmx=device\"; head -c 3 /dev/zero | wc -c | sed 's/^/zero-read=/'
         echo x >/dev/null && echo \"null-write=works\"; (echo x >/dev/full) 2>/dev/null || echo \"full-write=refused\"
         head -c 4 /dev/urandom | wc -c | sed 's/^/urandom-read=/'; test -e /dev/console || echo \"console=none\"",
        |seen, checks| {
            for (name, number) in
                [("null", "1:3"), ("zero", "1:5"), ("full", "1:7"), ("random", "1:8"), ("urandom", "1:9"), ("tty", "5:0")]
            {
                checks.is(name, seen.get(name), format!("character special file {number} 666").as_str());
            }
            checks.is("/dev/fd", seen.get("link-fd"), "/proc/self/fd");
            checks.is("/dev/stdin", seen.get("link-stdin"), "/proc/self/fd/0");
            checks.is("/dev/stdout", seen.get("link-stdout"), "/proc/self/fd/1");
            checks.is("/dev/stderr", seen.get("link-stderr"), "/proc/self/fd/2");
            checks.is("/dev/ptmx leads to pts/ptmx", seen.get("ptmx"), "device");
            checks.has("/dev/ptmx is a link, or bound", &format!("{} (not printed)", seen.get("link-ptmx")), "p");
            checks.is("zero gives zeroes", seen.get("zero-read"), "3");
            checks.is("null takes", seen.get("null-write"), "works");
            checks.is("full is full", seen.get("full-write"), "refused");
            checks.is("urandom gives", seen.get("urandom-read"), "4");
            checks.is("no console without a terminal", seen.get("console"), "none");
        },
    ),
    probe(
        "further devices",
        |config, _| {
            config["linux"]["devices"] = json!([
                { "type": "c", "path": "/dev/fuse", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 7, "gid": 8 },
                { "type": "b", "path": "/dev/disks/one", "major": 7, "minor": 200, "fileMode": 0o600 },
                { "type": "u", "path": "/srv/char", "major": 1, "minor": 3, "fileMode": 0o604 },
                { "type": "p", "path": "/dev/pipe", "fileMode": 0o622 },
            ]);
        },
        "for n in /dev/fuse /dev/disks/one /srv/char /dev/pipe; do echo \"$n=$(stat -c '%F %t:%T %a %u:%g' $n)\"; done",
        |seen, checks| {
            checks.is("a character device", seen.get("/dev/fuse"), "character special file a:e5 640 7:8");
            checks.is("a block device in a folder", seen.get("/dev/disks/one"), "block special file 7:c8 600 0:0");
            checks.is("an unbuffered one, outside of /dev", seen.get("/srv/char"), "character special file 1:3 604 0:0");
            checks.is("a pipe", seen.get("/dev/pipe"), "fifo 0:0 622 0:0");
        },
    ),
    scene("device that is a file already", in_the_way),
    probe(
        "device group: defaults",
        |config, _| config["process"]["capabilities"]["bounding"].as_array_mut().unwrap().push(json!("CAP_SYS_ADMIN")),
        "cd /dev; mknod null2 c 1 3 && echo \"mknod=works\"; mknod mem c 1 1 && echo \"mknod-any=works\"; cat mem >/dev/null 2>&1 || echo \"mem=refused\"
         echo x >null2 && echo \"null2=works\"",
        |seen, checks| {
            checks.is("nodes of default devices can be made", seen.get("mknod"), "works");
            checks.is("and used", seen.get("null2"), "works");
            checks.is("others cannot be read", seen.get("mem"), "refused");
        },
    ),
    probe(
        "no device rules",
        |config, _| {
            config["linux"]["resources"].as_object_mut().unwrap().remove("devices");
        },
        "cd /dev; mknod n60 c 240 60; said=$(cat n60 2>&1); echo \"other=${said##*: }\"; echo x >null && echo \"null=works\"",
        |seen, checks| {
            checks.is("the defaults can be used", seen.get("null"), "works");
            checks.is("others cannot", seen.get("other"), "Operation not permitted");
        },
    ),
    probe(
        "device group: order of rules",
        |config, _| {
            let rule = |allow: bool, minor: u32, access: &str| {
                json!({ "allow": allow, "type": "c", "major": 240, "minor": minor, "access": access })
            };
            config["linux"]["resources"]["devices"] = json!([
                { "allow": false, "access": "rwm" },
                rule(true, 60, "rw"), rule(true, 61, "rw"), rule(false, 61, "w"),
            ]);
        },
        // There is no such device: one that is allowed is an error of another kind.
        "cd /dev; for n in 60 61 62; do mknod n$n c 240 $n; said=$(cat n$n 2>&1); echo \"read-$n=${said##*: }\"
         said=$( (echo x >n$n) 2>&1); echo \"write-$n=${said##*: }\"; done",
        |seen, checks| {
            let (open, denied) = ("No such device or address", "Operation not permitted");
            checks.is("an allowed one", (seen.get("read-60"), seen.get("write-60")), (open, open));
            checks.is("one that a later rule denies in part", (seen.get("read-61"), seen.get("write-61")), (open, denied));
            checks.is("one that no rule allows", (seen.get("read-62"), seen.get("write-62")), (denied, denied));
        },
    ),
    scene("device group: list", list),
];

fn in_the_way(scene: &mut Scene<'_>, checks: &Checks) {
    fs::write(scene.rootfs().join("taken"), "a file").unwrap();
    scene.config["linux"]["devices"] = json!([{ "type": "c", "path": "/taken", "major": 1, "minor": 3 }]);
    checks.fails("it is refused", &scene.create());
    must(scene.delete());
    checks.is(
        "the file stays",
        fs::read_to_string(scene.rootfs().join("taken"))
            .unwrap_or_default()
            .as_str(),
        "a file",
    );
    scene.config["linux"]["devices"] = json!([{ "type": "c", "path": "/bin/null", "major": 1, "minor": 3 }]);
    let out = scene.run(&format!("{STAT}show /bin/null"));
    checks.has("beside programs", Seen::new(&out.stdout).get("/bin/null"), "1:3");
}

fn list(scene: &mut Scene<'_>, checks: &Checks) {
    let rules: Value = json!([
        { "allow": false, "access": "rwm" },
        { "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw" },
        { "allow": true, "type": "b", "major": 8, "access": "r" },
    ]);
    scene.config["linux"]["resources"]["devices"] = rules;
    scene.started("sleep 100");
    if !Path::new("/sys/fs/cgroup/devices").exists() {
        crate::fixture::skip::note("device lists are read from cgroup v1 only");
        return;
    }
    let list = format!("\n{}\n", scene.limit("devices", "devices.list"));
    checks.has("with both numbers", &list, "\nc 10:229 rw\n");
    checks.has("with any minor", &list, "\nb 8:* r\n");
    checks.has("null", &list, "\nc 1:3 rwm\n");
    checks.has("terminals", &list, "\nc 136:* rwm\n");
    checks.has("nodes may be made", &list, "\nc *:* m\n");
    checks.holds("not everything", !list.contains("a *:* rwm"), list);
}

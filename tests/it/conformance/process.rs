//! config.md: `process` without its user: program, environment, folder, limits, score; hostname, domainname, personality.

use super::case::{Case, Checks, probe, scene};
use super::scene::Scene;
use super::seen::Seen;
use crate::fixture::cmd::Cmd;
use serde_json::json;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

pub const CASES: &[Case] = &[
    scene("args", args),
    scene("path", path),
    probe(
        "env",
        |config, _| {
            config["process"]["env"] = json!(["PATH=/bin", "A=b=c", "EMPTY=", "SPACES= two words ", "LINES=1\n2"]);
        },
        "echo \"a=$A\"; echo \"empty=${EMPTY-unset}\"; echo \"spaces=<$SPACES>\"; echo \"lines=$(echo \"$LINES\" | grep -c .)\"
         echo \"count=$(tr '\\0\\n' '\\n ' </proc/$$/environ | grep -c =)\"; echo \"path=$PATH\"",
        |seen, checks| {
            checks.is("a value with an equals sign", seen.get("a"), "b=c");
            checks.is("an empty value", seen.get("empty"), "");
            checks.is("spaces", seen.get("spaces"), "< two words >");
            checks.is("a line break", seen.get("lines"), "2");
            checks.is("PATH", seen.get("path"), "/bin");
            let count: u32 = seen.get("count").parse().unwrap_or(0);
            checks.holds("nothing of the caller's; HOME may be added", (5..=6).contains(&count), count);
        },
    ),
    probe(
        "no environment",
        |config, _| {
            config["process"].as_object_mut().unwrap().remove("env");
            config["process"]["args"] = json!(["/bin/sh"]);
        },
        "/bin/busybox tr '\\0' '\\n' </proc/1/environ | while read line; do echo \"has $line\"; done; echo \"ran=yes\"",
        |seen, checks| {
            checks.is("the program runs", seen.get("ran"), "yes");
            checks.is("the caller's PATH does not come along", seen.get("has PATH"), "(not printed)");
        },
    ),
    probe(
        "cwd",
        |config, bundle| {
            fs::create_dir_all(bundle.join("rootfs/srv/deep")).unwrap();
            config["process"]["cwd"] = json!("/srv/deep");
        },
        "echo \"pwd=$(pwd)\"; echo \"link=$(readlink /proc/self/cwd)\"",
        |seen, checks| {
            checks.is("pwd", seen.get("pwd"), "/srv/deep");
            checks.is("the kernel agrees", seen.get("link"), "/srv/deep");
        },
    ),
    probe(
        "cwd that is missing",
        |config, _| config["process"]["cwd"] = json!("/made/for/me"),
        "echo \"pwd=$(pwd)\"; echo \"mode=$(stat -c %a:%u .)\"",
        |seen, checks| {
            checks.is("it is made", seen.get("pwd"), "/made/for/me");
            checks.is("with mode and owner", seen.get("mode"), "755:0");
        },
    ),
    probe(
        "cwd through a symlink",
        |config, bundle| {
            symlink("/tmp", bundle.join("rootfs/short")).unwrap();
            config["process"]["cwd"] = json!("/short");
        },
        "echo \"link=$(readlink /proc/self/cwd)\"",
        |seen, checks| checks.is("it is followed inside the root", seen.get("link"), "/tmp"),
    ),
    probe(
        "rlimits",
        |config, _| {
            config["process"]["rlimits"] = json!([
                { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
                { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
                { "type": "RLIMIT_FSIZE", "soft": 1_048_576, "hard": 2_097_152 },
                { "type": "RLIMIT_NPROC", "soft": 300, "hard": 400 },
                { "type": "RLIMIT_STACK", "soft": 4_194_304, "hard": 8_388_608 },
                { "type": "RLIMIT_CPU", "soft": 1000, "hard": 2000 },
                { "type": "RLIMIT_MEMLOCK", "soft": 4096, "hard": 4096 },
                { "type": "RLIMIT_SIGPENDING", "soft": 50, "hard": 60 },
                { "type": "RLIMIT_MSGQUEUE", "soft": 1000, "hard": 2000 },
                { "type": "RLIMIT_NICE", "soft": 0, "hard": 0 },
            ]);
        },
        "while read line; do set -- $line; case \"$1 $2 $3\" in
            'Max open files') echo \"nofile=$4 $5\";; 'Max core file') echo \"core=$5 $6\";; 'Max file size') echo \"fsize=$4 $5\";;
            'Max processes '*) echo \"nproc=$3 $4\";; 'Max stack size') echo \"stack=$4 $5\";; 'Max cpu time') echo \"cpu=$4 $5\";;
            'Max locked memory') echo \"memlock=$4 $5\";; 'Max pending signals') echo \"sigpending=$4 $5\";;
            'Max msgqueue size') echo \"msgqueue=$4 $5\";; 'Max nice priority') echo \"nice=$4 $5\";; esac; done </proc/self/limits",
        |seen, checks| {
            for (name, value) in [
                ("nofile", "100 200"),
                ("core", "0 0"),
                ("fsize", "1048576 2097152"),
                ("nproc", "300 400"),
                ("stack", "4194304 8388608"),
                ("cpu", "1000 2000"),
                ("memlock", "4096 4096"),
                ("sigpending", "50 60"),
                ("msgqueue", "1000 2000"),
                ("nice", "0 0"),
            ] {
                let own: Vec<&str> = seen.get(name).split(' ').collect();
                checks.is(name, own.join(" ").as_str(), value);
            }
        },
    ),
    probe(
        "oomScoreAdj",
        |config, _| config["process"]["oomScoreAdj"] = json!(345),
        "echo \"score=$(cat /proc/self/oom_score_adj)\"",
        |seen, checks| checks.is("it is set", seen.get("score"), "345"),
    ),
    probe(
        "no oomScoreAdj",
        |_, _| {},
        "echo \"score=$(cat /proc/self/oom_score_adj)\"",
        |seen, checks| {
            let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
            checks.is("it stays as it was", seen.get("score"), own.trim());
        },
    ),
    probe(
        "names",
        |config, _| {
            config["hostname"] = json!("mrs.dalloway");
            config["domainname"] = json!("london.example");
        },
        "echo \"host=$(hostname)\"; echo \"domain=$(cat /proc/sys/kernel/domainname)\"",
        |seen, checks| {
            checks.is("hostname", seen.get("host"), "mrs.dalloway");
            checks.is("domainname", seen.get("domain"), "london.example");
            let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
            checks.holds("the machine's is as it was", own.trim() != "mrs.dalloway", own);
        },
    ),
    probe(
        "personality",
        |config, _| config["linux"]["personality"] = json!({ "domain": "LINUX32" }),
        "echo \"machine=$(uname -m)\"; echo \"bits=$(cat /proc/self/personality)\"",
        |seen, checks| {
            let expected = if cfg!(target_arch = "x86_64") { "i686" } else { "armv8l" };
            checks.is("LINUX32", seen.get("machine"), expected);
        },
    ),
    probe(
        "personality of 64 bits",
        |config, _| config["linux"]["personality"] = json!({ "domain": "LINUX" }),
        "echo \"machine=$(uname -m)\"",
        |seen, checks| checks.is("LINUX", seen.get("machine"), std::env::consts::ARCH),
    ),
    probe(
        "scheduler",
        |config, _| config["process"]["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 5 }),
        "set -- $(cut -d')' -f2 /proc/self/stat); echo \"nice=${17}\"; echo \"policy=${39}\"",
        |seen, checks| {
            checks.is("policy", seen.get("policy"), "3");
            checks.is("nice", seen.get("nice"), "5");
        },
    ),
    probe(
        "ioPriority",
        |config, _| config["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_IDLE", "priority": 0 }),
        "echo \"class=$(ionice -p $$)\"",
        |seen, checks| checks.has("the class is set", seen.get("class"), "idle"),
    ),
    scene("signals and session", signals),
];

fn args(scene: &mut Scene<'_>, checks: &Checks) {
    scene.config["process"]["args"] = json!(["/bin/sh", "-c", "echo \"$0|$1|$2|$#\"", "zero", "one two", ""]);
    checks.is(
        "each arrives as it is",
        scene.run_with(&[]).stdout.as_str(),
        "zero|one two||2\n",
    );
    scene.config["process"]["args"] = json!(["/bin/sh", "-c", "tr '\\0' '|' </proc/$$/cmdline; true"]);
    let out = scene.run_with(&[]);
    checks.is(
        "the first is the program's name",
        out.stdout.split('|').next(),
        Some("/bin/sh"),
    );
}

fn path(scene: &mut Scene<'_>, checks: &Checks) {
    let script = |name: &str, text: &str, mode: u32| {
        let path = scene.rootfs().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\necho {text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    script("one/tool", "not executable", 0o644);
    script("two/tool", "second", 0o755);
    script("three/tool", "third", 0o755);
    script("srv/here", "relative", 0o755);
    scene.config["process"]["env"] = json!(["PATH=/none:/one:/two:/three"]);
    scene.config["process"]["args"] = json!(["tool"]);
    checks.is(
        "the first executable in the container's PATH",
        scene.run_with(&[]).stdout.as_str(),
        "second\n",
    );
    scene.config["process"]["cwd"] = json!("/srv");
    scene.config["process"]["args"] = json!(["./here"]);
    checks.is(
        "a relative path is relative to cwd",
        scene.run_with(&[]).stdout.as_str(),
        "relative\n",
    );
}

fn signals(scene: &mut Scene<'_>, checks: &Checks) {
    let out =
        scene.run("grep -E '^Sig(Blk|Ign)|^Pid' /proc/self/status; set -- $(cat /proc/1/stat); echo \"session=$6\"");
    let seen = Seen::new(&out.stdout);
    checks.is("no signal is blocked", seen.get("SigBlk"), "0000000000000000");
    // As every process that the test starts: the C library leaves a signal of its own ignored.
    let own = Seen::new(&Cmd::new("/bin/cat").arg("/proc/self/status").ok());
    let ignored = seen.get("SigIgn");
    let mask = |text: &str| u64::from_str_radix(text, 16).unwrap_or(u64::MAX >> 1);
    let clean = mask(ignored) & !mask(own.get("SigIgn")) == 0;
    checks.holds("no signal is ignored but what the caller ignores", clean, ignored);
    checks.is("the program leads a session", seen.get("session"), "1");
    scene.started("exec sleep 100");
    super::scene::until(|| {
        let line = fs::read(format!("/proc/{}/cmdline", scene.pid())).unwrap_or_default();
        line.starts_with(b"sleep")
    });
    let pid = scene.pid();
    let root = fs::metadata(format!("/proc/{pid}/root/")).unwrap();
    let expected = fs::metadata(scene.rootfs()).unwrap();
    checks.is(
        "from outside: the root",
        (root.dev(), root.ino()),
        (expected.dev(), expected.ino()),
    );
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    checks.is(
        "from outside: the command line",
        String::from_utf8_lossy(&line).as_ref(),
        "sleep\x00100\0",
    );
    let keyring = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    checks.has("from outside: one thread", &keyring, "Threads:\t1\n");
}

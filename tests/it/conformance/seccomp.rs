//! config-linux.md: seccomp: actions, errno, operators.

use super::case::{Case, Checks, probe, scene};
use super::scene::{Scene, must};
use super::terminal::Console;
use serde_json::{Value, json};
use std::os::fd::AsRawFd;

/// chmod with each mode; the shell's words say which errno came.
const MODES: &str = "touch /tmp/x; for mode in 600 640 644 700 755 4755; do
    said=$(chmod $mode /tmp/x 2>&1) && said=ok; echo \"$mode=${said##*: }\"; done; grep Seccomp /proc/self/status";

/// A rule on the mode of chmod, which is argument 1 of `chmod` and 2 of `fchmodat`.
fn on_mode(config: &mut Value, action: &str, rest: &Value, op: &str, value: u64, second: u64) {
    let rule = |name: &str, index: u32| {
        let mut rule = json!({
            "names": [name], "action": action,
            "args": [{ "index": index, "value": value, "valueTwo": second, "op": op }],
        });
        if let Some(errno) = rest.as_u64() {
            rule["errnoRet"] = json!(errno);
        }
        rule
    };
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [rule("chmod", 1), rule("fchmodat", 2)],
    });
}

const DENIED: &str = "Operation not permitted";

pub const CASES: &[Case] = &[
    probe(
        "no seccomp",
        |_, _| {},
        MODES,
        |seen, checks| {
            checks.is("no filter", seen.get("Seccomp"), "0");
            checks.is("all is allowed", seen.get("4755"), "ok");
        },
    ),
    probe(
        "seccomp EQ",
        |config, _| on_mode(config, "SCMP_ACT_ERRNO", &Value::Null, "SCMP_CMP_EQ", 0o700, 0),
        MODES,
        |seen, checks| {
            checks.is("a filter is in force", seen.get("Seccomp"), "2");
            checks.is("the value", seen.get("700"), DENIED);
            checks.is("another value", seen.get("644"), "ok");
        },
    ),
    probe(
        "seccomp NE",
        |config, _| on_mode(config, "SCMP_ACT_ERRNO", &json!(38), "SCMP_CMP_NE", 0o700, 0),
        MODES,
        |seen, checks| {
            checks.is("the value", seen.get("700"), "ok");
            checks.is(
                "another value, and errnoRet",
                seen.get("644"),
                "Function not implemented",
            );
        },
    ),
    probe(
        "seccomp LT",
        |config, _| on_mode(config, "SCMP_ACT_ERRNO", &Value::Null, "SCMP_CMP_LT", 0o644, 0),
        MODES,
        |seen, checks| {
            checks.is("below", seen.get("640"), DENIED);
            checks.is("equal", seen.get("644"), "ok");
            checks.is("above", seen.get("700"), "ok");
        },
    ),
    probe(
        "seccomp LE",
        |config, _| on_mode(config, "SCMP_ACT_ERRNO", &Value::Null, "SCMP_CMP_LE", 0o644, 0),
        MODES,
        |seen, checks| {
            checks.is("below", seen.get("640"), DENIED);
            checks.is("equal", seen.get("644"), DENIED);
            checks.is("above", seen.get("700"), "ok");
        },
    ),
    probe(
        "seccomp GE",
        |config, _| on_mode(config, "SCMP_ACT_ERRNO", &Value::Null, "SCMP_CMP_GE", 0o644, 0),
        MODES,
        |seen, checks| {
            checks.is("below", seen.get("640"), "ok");
            checks.is("equal", seen.get("644"), DENIED);
            checks.is("above", seen.get("700"), DENIED);
        },
    ),
    probe(
        "seccomp GT",
        |config, _| on_mode(config, "SCMP_ACT_ERRNO", &Value::Null, "SCMP_CMP_GT", 0o644, 0),
        MODES,
        |seen, checks| {
            checks.is("equal", seen.get("644"), "ok");
            checks.is("above", seen.get("700"), DENIED);
        },
    ),
    probe(
        "seccomp MASKED_EQ",
        |config, _| {
            on_mode(
                config,
                "SCMP_ACT_ERRNO",
                &json!(13),
                "SCMP_CMP_MASKED_EQ",
                0o4000,
                0o4000,
            )
        },
        MODES,
        |seen, checks| {
            checks.is("with the bit, and errnoRet", seen.get("4755"), "Permission denied");
            checks.is("without the bit", seen.get("755"), "ok");
        },
    ),
    probe(
        "seccomp default action",
        |config, _| {
            config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64"],
                "syscalls": [
                    { "names": ["chmod", "fchmodat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13 },
                    { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_LOG" },
                ],
            });
        },
        "touch /tmp/x; echo \"said=$(chmod 700 /tmp/x 2>&1)\"; mkdir /tmp/new && echo \"log=goes on\"",
        |seen, checks| {
            checks.has(
                "a call without arguments in the rule",
                seen.get("said"),
                "Permission denied",
            );
            checks.is("SCMP_ACT_LOG lets it pass", seen.get("log"), "goes on");
        },
    ),
    probe(
        "seccomp default errno",
        |config, _| {
            config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
                "syscalls": [{ "action": "SCMP_ACT_ALLOW", "names": ALLOWED }],
            });
        },
        "mkdir /tmp/new 2>/tmp/said; read said </tmp/said; echo \"mkdir=$said\"; echo \"ran=yes\"",
        |seen, checks| {
            checks.is("what is allowed works", seen.get("ran"), "yes");
            checks.has("all else gets defaultErrnoRet", seen.get("mkdir"), "not implemented");
        },
    ),
    probe(
        "seccomp kills",
        |config, _| on_mode(config, "SCMP_ACT_KILL_PROCESS", &Value::Null, "SCMP_CMP_EQ", 0o700, 0),
        "touch /tmp/x; (busybox chmod 600 /tmp/x); echo \"spared=$?\"; (busybox chmod 700 /tmp/x) 2>/dev/null; echo \"code=$?\"",
        |seen, checks| {
            checks.is("another value is spared", seen.get("spared"), "0");
            checks.is("the value is death by SIGSYS", seen.get("code"), "159");
        },
    ),
    probe(
        "seccomp traps",
        |config, _| on_mode(config, "SCMP_ACT_TRAP", &Value::Null, "SCMP_CMP_EQ", 0o700, 0),
        "touch /tmp/x; (busybox chmod 700 /tmp/x) 2>/dev/null; echo \"code=$?\"",
        |seen, checks| checks.is("the value is SIGSYS", seen.get("code"), "159"),
    ),
    scene("seccomp and privileges", privileges),
    scene("seccomp listener", listener),
];

/// What a shell needs, and a runtime after it loaded the filter.
const ALLOWED: &[&str] = &[
    "access",
    "arch_prctl",
    "brk",
    "capget",
    "capset",
    "chdir",
    "clock_gettime",
    "clone",
    "clone3",
    "close",
    "close_range",
    "dup",
    "dup2",
    "dup3",
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "execve",
    "execveat",
    "exit",
    "exit_group",
    "faccessat",
    "faccessat2",
    "fchdir",
    "fchown",
    "fcntl",
    "fork",
    "fstat",
    "fstatfs",
    "futex",
    "getcwd",
    "getdents64",
    "getegid",
    "geteuid",
    "getgid",
    "getpgrp",
    "getpid",
    "getppid",
    "getrandom",
    "gettid",
    "getuid",
    "ioctl",
    "lseek",
    "lstat",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "nanosleep",
    "newfstatat",
    "open",
    "openat",
    "openat2",
    "pipe",
    "pipe2",
    "poll",
    "ppoll",
    "prctl",
    "pread64",
    "prlimit64",
    "read",
    "readlink",
    "readlinkat",
    "recvmsg",
    "restart_syscall",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "sched_yield",
    "sendmsg",
    "sendto",
    "set_robust_list",
    "set_tid_address",
    "setgid",
    "setgroups",
    "setpgid",
    "setresgid",
    "setresuid",
    "setuid",
    "sigaltstack",
    "stat",
    "statfs",
    "statx",
    "tgkill",
    "umask",
    "uname",
    "unlink",
    "unlinkat",
    "vfork",
    "wait4",
    "waitid",
    "write",
    "writev",
    "keyctl",
    "setsid",
];

fn privileges(scene: &mut Scene<'_>, checks: &Checks) {
    scene.config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    for (name, nnp) in [("with no_new_privs", true), ("without no_new_privs", false)] {
        scene.config["process"]["noNewPrivileges"] = json!(nnp);
        on_mode(
            &mut scene.config,
            "SCMP_ACT_ERRNO",
            &Value::Null,
            "SCMP_CMP_EQ",
            0o700,
            0,
        );
        let out = scene.run("grep -E 'Seccomp:|NoNewPrivs' /proc/self/status");
        let seen = super::seen::Seen::new(&out.stdout);
        checks.is(
            name,
            (seen.get("Seccomp"), seen.get("NoNewPrivs")),
            ("2", if nnp { "1" } else { "0" }),
        );
    }
}

fn listener(scene: &mut Scene<'_>, checks: &Checks) {
    let socket = Console::new(scene, "listener");
    scene.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": socket.path,
        "listenerMetadata": "for the agent",
        "syscalls": [{ "names": ["chmod", "fchmodat"], "action": "SCMP_ACT_NOTIFY" }],
    });
    scene.script("touch /tmp/x; chmod 700 /tmp/x 2>&1; echo went on; sleep 100");
    scene.created();
    let pid = scene.pid();
    must(scene.start());
    let (text, fds) = socket.take();
    let text = String::from_utf8_lossy(&text).trim_end_matches(['\0', '\n']).to_owned();
    let state: Value = serde_json::from_str(&text).unwrap_or_default();
    checks.is("one descriptor comes", fds.len(), 1);
    checks.is("fds", &state["fds"], &json!(["seccompFd"]));
    checks.is("pid", state["pid"].as_u64(), Some(pid));
    checks.is("metadata", state["metadata"].as_str(), Some("for the agent"));
    checks.is("state: id", state["state"]["id"].as_str(), Some(scene.id.as_str()));
    checks.is(
        "state: bundle",
        state["state"]["bundle"].as_str(),
        scene.folder().to_str(),
    );
    let link = fds
        .first()
        .map(|fd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap());
    checks.is("it is a listener", link, Some("anon_inode:seccomp notify".into()));
    std::thread::sleep(std::time::Duration::from_millis(100));
    checks.is("the call waits for the listener", scene.output(), "");
    drop(fds);
    checks.has(
        "without a listener there is no such call",
        &scene.says("went on"),
        "not implemented",
    );
    must(scene.delete());
    scene.config["linux"]["seccomp"]["listenerPath"] = json!("/nowhere/listener");
    let failed = scene.create().code != 0 || scene.start().code != 0 || scene.awaits("stopped") == "stopped";
    checks.holds(
        "a socket that is not there is an error",
        failed && !scene.output().ends_with("went on\nwent on\n"),
        scene.output(),
    );
}

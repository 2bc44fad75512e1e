//! Filters are run by an interpreter of the kernel's BPF, and the default one for real.

#![allow(clippy::unwrap_used)]

use std::collections::HashSet;

use super::*;
use crate::runtime::seccomp::{Profile, calls};
use crate::sys::creds::Caps;

/// Runs `program` on one call, as the kernel does. Every jump must land inside.
fn run(program: &Program, arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_le_bytes());
    data.extend(arch.to_le_bytes());
    data.extend(0x1234_5678_9abc_def0_u64.to_le_bytes());
    args.iter().for_each(|arg| data.extend(arg.to_le_bytes()));
    let (mut accumulator, mut at) = (0, 0);
    loop {
        let Instruction { code, jt, jf, k } = program.instructions[at];
        let branch = |holds: bool| usize::from(if holds { jt } else { jf });
        at += 1;
        match code {
            LOAD => {
                let from = k as usize;
                accumulator = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
            }
            AND => accumulator &= k,
            JUMP => at += k as usize,
            JUMP_EQ => at += branch(accumulator == k),
            JUMP_GT => at += branch(accumulator > k),
            JUMP_GE => at += branch(accumulator >= k),
            RETURN => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn call(program: &Program, abi: Abi, name: &str, args: &[u64]) -> u32 {
    let mut six = [0; 6];
    six[..args.len()].copy_from_slice(args);
    run(
        program,
        abi.audit(),
        abi.number(name).unwrap_or_else(|| panic!("{abi:?} has no {name}")),
        six,
    )
}

fn settings(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).unwrap()
}

fn standard(native: Abi, caps: &[&str]) -> Program {
    compile(
        &Profile::standard()
            .unwrap()
            .resolve(native, Caps::by_names(caps), (6, 1)),
        native,
    )
    .unwrap()
}

const EPERM_VERDICT: u32 = verdict::ERRNO | EPERM;
const ENOSYS_VERDICT: u32 = verdict::ERRNO | ENOSYS;

#[test]
fn call_table_is_sorted_without_repeats() {
    for pair in calls::CALLS.windows(2) {
        assert!(pair[0].0 < pair[1].0, "{} before {}", pair[0].0, pair[1].0);
    }
    for abi in [Abi::X86_64, Abi::X86, Abi::Aarch64, Abi::Arm] {
        let mut numbers: Vec<u32> = calls::CALLS
            .iter()
            .map(|row| row.1[abi as usize])
            .filter(|number| *number != calls::NONE)
            .collect();
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        // 32-bit arm has one call under two names.
        let doubles = if abi == Abi::Arm { 1 } else { 0 };
        assert_eq!(numbers.len() + doubles, all, "{abi:?}");
        assert!(all >= 320, "{abi:?}: {all}");
    }
}

#[test]
fn call_table_agrees_with_the_c_library() {
    let known: [(&str, libc::c_long); 12] = [
        ("read", libc::SYS_read),
        ("openat", libc::SYS_openat),
        ("clone", libc::SYS_clone),
        ("clone3", libc::SYS_clone3),
        ("mount", libc::SYS_mount),
        ("socket", libc::SYS_socket),
        ("seccomp", libc::SYS_seccomp),
        ("statx", libc::SYS_statx),
        ("personality", libc::SYS_personality),
        ("mmap", libc::SYS_mmap),
        ("pidfd_open", libc::SYS_pidfd_open),
        ("futex_waitv", libc::SYS_futex_waitv),
    ];
    for (name, number) in known {
        assert_eq!(Abi::NATIVE.number(name).map(libc::c_long::from), Some(number), "{name}");
    }
}

#[test]
fn default_profile_lets_ordinary_programs_work_on_every_interface() {
    for native in [Abi::X86_64, Abi::Aarch64] {
        let program = standard(native, &[]);
        assert!(
            program.instructions.len() < 1000,
            "{native:?}: {}",
            program.instructions.len()
        );
        let sub = if native == Abi::X86_64 { Abi::X86 } else { Abi::Arm };
        for abi in [native, sub] {
            for name in [
                "read",
                "write",
                "openat",
                "execve",
                "exit_group",
                "futex",
                "bind",
                "statx",
                "rseq",
                "getrandom",
            ] {
                assert_eq!(call(&program, abi, name, &[]), verdict::ALLOW, "{abi:?} {name}");
            }
            for name in [
                "mount",
                "umount2",
                "setns",
                "reboot",
                "init_module",
                "bpf",
                "keyctl",
                "swapon",
                "userfaultfd",
            ] {
                assert_eq!(call(&program, abi, name, &[]), EPERM_VERDICT, "{abi:?} {name}");
            }
            for name in ["clone3", "io_uring_setup", "listns"] {
                assert_eq!(call(&program, abi, name, &[]), ENOSYS_VERDICT, "{abi:?} {name}");
            }
            assert_eq!(
                run(&program, abi.audit(), 5000, [0; 6]),
                ENOSYS_VERDICT,
                "a call newer than the profile"
            );
        }
    }
}

#[test]
fn every_call_of_the_kernel_is_decided_on_purpose() {
    // Calls that no kernel of today implements any more, or that are newer than the profile.
    let absent = [
        "afs_syscall",
        "bdflush",
        "break",
        "create_module",
        "ftime",
        "get_kernel_syms",
        "getpmsg",
        "gtty",
        "idle",
        "listns",
        "lock",
        "mpx",
        "prof",
        "profil",
        "putpmsg",
        "query_module",
        "security",
        "stty",
        "tuxcall",
        "ulimit",
        "vserver",
    ];
    let text = include_str!("../../../config/seccomp.json");
    let document: serde_json::Value = serde_json::from_str(text).unwrap();
    let named: HashSet<&str> = document["syscalls"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|rule| rule["names"].as_array().unwrap())
        .map(|name| name.as_str().unwrap())
        .collect();
    for (name, _) in calls::CALLS {
        assert_ne!(named.contains(name), absent.contains(name), "{name}");
    }
    assert!(named.iter().all(|name| calls::CALLS.iter().any(|row| row.0 == *name)));
}

#[test]
fn namespaces_need_the_capability() {
    const NEWUSER: u64 = 0x1000_0000;
    const NEWNET: u64 = 0x4000_0000;
    const THREAD: u64 = 0x003d_0f00;
    let admin = standard(Abi::X86_64, &["SYS_ADMIN"]);
    let plain = standard(Abi::X86_64, &[]);
    for abi in [Abi::X86_64, Abi::X86] {
        assert_eq!(call(&plain, abi, "clone", &[THREAD]), verdict::ALLOW);
        assert_eq!(call(&plain, abi, "clone", &[17]), verdict::ALLOW);
        assert_eq!(call(&plain, abi, "clone", &[NEWUSER | 17]), EPERM_VERDICT);
        assert_eq!(call(&plain, abi, "clone", &[NEWUSER | NEWNET | 17]), EPERM_VERDICT);
        assert_eq!(call(&plain, abi, "unshare", &[0x400]), verdict::ALLOW);
        assert_eq!(call(&plain, abi, "unshare", &[0x80]), EPERM_VERDICT);
        for name in [
            "clone",
            "clone3",
            "unshare",
            "mount",
            "setns",
            "personality",
            "bpf",
            "syslog",
        ] {
            assert_eq!(call(&admin, abi, name, &[NEWUSER | NEWNET]), verdict::ALLOW, "{name}");
        }
    }
    assert_eq!(
        call(&standard(Abi::X86_64, &["BPF"]), Abi::X86_64, "bpf", &[]),
        verdict::ALLOW
    );
    assert_eq!(
        call(&standard(Abi::X86_64, &["BPF"]), Abi::X86_64, "mount", &[]),
        EPERM_VERDICT
    );
}

#[test]
fn socket_families_are_filtered() {
    let plain = standard(Abi::Aarch64, &[]);
    let audit = standard(Abi::Aarch64, &["AUDIT_WRITE"]);
    for family in 0..64 {
        let wanted = if family == 40 {
            verdict::ERRNO | 97
        } else {
            verdict::ALLOW
        };
        assert_eq!(
            call(&plain, Abi::Aarch64, "socket", &[family, 1, 0]),
            wanted,
            "family {family}"
        );
    }
    assert_eq!(call(&plain, Abi::Aarch64, "socket", &[16, 3, 9]), verdict::ERRNO | 22);
    assert_eq!(call(&audit, Abi::Aarch64, "socket", &[16, 3, 9]), verdict::ALLOW);
}

#[test]
fn personality_takes_the_known_values_only() {
    let program = standard(Abi::X86_64, &[]);
    for value in [0, 8, 0x20000, 0x20008, 0xffff_ffff] {
        assert_eq!(
            call(&program, Abi::X86_64, "personality", &[value]),
            verdict::ALLOW,
            "{value:#x}"
        );
    }
    for value in [0x40000, 4, 0x1_0000_0000, 0xffff_fffe] {
        assert_eq!(
            call(&program, Abi::X86_64, "personality", &[value]),
            ENOSYS_VERDICT,
            "{value:#x}"
        );
    }
}

#[test]
fn strange_interfaces_are_refused() {
    let program = standard(Abi::X86_64, &[]);
    assert_eq!(
        run(&program, Abi::X86_64.audit(), 0x4000_0000, [0; 6]),
        ENOSYS_VERDICT,
        "x32"
    );
    assert_eq!(run(&program, Abi::Aarch64.audit(), 0, [0; 6]), verdict::KILL_PROCESS);
    let native_only = settings(r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_MIPS"]}"#);
    let program = compile(&native_only, Abi::X86_64).unwrap();
    assert_eq!(run(&program, Abi::X86_64.audit(), 0, [0; 6]), verdict::ALLOW);
    assert_eq!(run(&program, Abi::X86.audit(), 3, [0; 6]), verdict::KILL_PROCESS);
}

#[test]
fn every_action_has_its_verdict() {
    let table = [
        ("SCMP_ACT_KILL", "", verdict::KILL_THREAD),
        ("SCMP_ACT_KILL_THREAD", "", verdict::KILL_THREAD),
        ("SCMP_ACT_KILL_PROCESS", "", verdict::KILL_PROCESS),
        ("SCMP_ACT_TRAP", "", verdict::TRAP),
        ("SCMP_ACT_ERRNO", "", verdict::ERRNO | 1),
        ("SCMP_ACT_ERRNO", r#","errnoRet":4095"#, verdict::ERRNO | 4095),
        ("SCMP_ACT_TRACE", r#","errnoRet":7"#, verdict::TRACE | 7),
        ("SCMP_ACT_LOG", "", verdict::LOG),
        ("SCMP_ACT_ALLOW", "", verdict::ALLOW),
        ("SCMP_ACT_NOTIFY", "", verdict::NOTIFY),
    ];
    for (action, more, wanted) in table {
        let json = format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","listenerPath":"/x","syscalls":[{{"names":["getcwd"],"action":"{action}"{more}}}]}}"#
        );
        let program = compile(&settings(&json), Abi::X86_64).unwrap();
        assert_eq!(call(&program, Abi::X86_64, "getcwd", &[]), wanted, "{action}");
        assert_eq!(program.flags & flag::NEW_LISTENER != 0, action == "SCMP_ACT_NOTIFY");
    }
}

#[test]
fn operators_compare_whole_words() {
    let big = 0x1_0000_0000_u64;
    let probes = [
        0,
        1,
        2,
        5,
        6,
        0xffff_ffff,
        big - 2,
        big,
        big + 1,
        big + 5,
        big + 6,
        2 * big,
        2 * big + 5,
        u64::MAX,
    ];
    for value in [0, 5, big, big + 5, u64::MAX] {
        type Compare = (&'static str, fn(u64, u64) -> bool);
        let table: [Compare; 7] = [
            ("EQ", |a, v| a == v),
            ("NE", |a, v| a != v),
            ("LT", |a, v| a < v),
            ("LE", |a, v| a <= v),
            ("GT", |a, v| a > v),
            ("GE", |a, v| a >= v),
            ("MASKED_EQ", |a, v| a & v == v & 0x1_0000_0004),
        ];
        for (operator, holds) in table {
            let json = format!(
                r#"{{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86"],"syscalls":[{{"names":["close"],
                "action":"SCMP_ACT_ALLOW","args":[{{"index":3,"value":{value},"valueTwo":{},"op":"SCMP_CMP_{operator}"}}]}}]}}"#,
                value & 0x1_0000_0004
            );
            let program = compile(&settings(&json), Abi::X86_64).unwrap();
            for probe in probes {
                let wanted = |holds: bool| if holds { verdict::ALLOW } else { EPERM_VERDICT };
                let got = call(&program, Abi::X86_64, "close", &[9, 9, 9, probe]);
                assert_eq!(got, wanted(holds(probe, value)), "{probe:#x} {operator} {value:#x}");
                if probe < big && value < big {
                    let got = call(&program, Abi::X86, "close", &[9, 9, 9, probe]);
                    assert_eq!(
                        got,
                        wanted(holds(probe, value)),
                        "32 bit: {probe:#x} {operator} {value:#x}"
                    );
                }
            }
        }
    }
}

#[test]
fn conditions_are_joined_as_runc_joins_them() {
    let all = r#"[{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":1,"value":2,"op":"SCMP_CMP_GE"}]"#;
    let any = r#"[{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":0,"value":7,"op":"SCMP_CMP_EQ"}]"#;
    let rules = format!(
        r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
        {{"names":["dup2","no_such_call"],"action":"SCMP_ACT_KILL_PROCESS"}},
        {{"names":["dup2"],"action":"SCMP_ACT_ALLOW","args":{all}}},
        {{"names":["dup2"],"action":"SCMP_ACT_LOG","args":[{{"index":0,"value":1,"op":"SCMP_CMP_EQ"}}]}},
        {{"names":["close"],"action":"SCMP_ACT_ALLOW","args":{any}}}]}}"#
    );
    let program = compile(&settings(&rules), Abi::X86_64).unwrap();
    for (name, args, wanted) in [
        ("dup2", [1, 2], verdict::ALLOW),
        ("dup2", [1, 3], verdict::ALLOW),
        ("dup2", [1, 1], verdict::LOG),
        ("dup2", [2, 2], verdict::KILL_PROCESS),
        ("close", [1, 0], verdict::ALLOW),
        ("close", [7, 0], verdict::ALLOW),
        ("close", [2, 0], EPERM_VERDICT),
    ] {
        assert_eq!(call(&program, Abi::X86_64, name, &args), wanted, "{name} {args:?}");
    }
}

#[test]
fn faulty_settings_are_named() {
    let with = |rule: &str| {
        compile(
            &settings(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rule}]}}"#)),
            Abi::X86_64,
        )
        .unwrap_err()
        .to_string()
    };
    for (rule, text) in [
        (
            r#"{"names":["read"],"action":"SCMP_ACT_ERRNO","errnoRet":4096}"#,
            "`read`: errnoRet 4096",
        ),
        (
            r#"{"names":["read"],"action":"SCMP_ACT_LOG","args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}"#,
            "`read`: argument index 6",
        ),
        (
            r#"{"names":["read"],"action":"SCMP_ACT_NOTIFY"}"#,
            "needs `listenerPath`",
        ),
    ] {
        assert!(with(rule).contains(text), "{}", with(rule));
    }
    let endless = format!(
        r#"{{"names":["read"],"action":"SCMP_ACT_LOG","args":[{}]}}"#,
        vec![r#"{"index":0,"value":1,"op":"SCMP_CMP_EQ"}"#; 1000].join(",")
    );
    assert!(with(&endless).contains("the kernel takes 4096"));
    let notify = compile(&settings(r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#), Abi::X86_64);
    assert_eq!(notify, Err(SeccompError::NotifyByDefault));
    assert!(
        Profile::parse(&" ".repeat(2 << 20))
            .unwrap_err()
            .to_string()
            .contains("at most")
    );
    assert!(Profile::parse("{}").unwrap_err().to_string().contains("defaultAction"));
    let flying = r#"{"defaultAction":"SCMP_ACT_LOG","syscalls":[{"name":"read","action":"SCMP_ACT_LOG","excludes":{"caps":["CAP_FLY"]}}]}"#;
    assert!(
        Profile::parse(flying)
            .unwrap_err()
            .to_string()
            .contains("capability `CAP_FLY` is not known")
    );
}

#[test]
fn profiles_of_other_tools_are_read() {
    let text = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"defaultErrno":"ENOSYS",
        "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"]},
                   {"architecture":"SCMP_ARCH_S390X","subArchitectures":null}],
        "syscalls":[
          {"name":"read","action":"SCMP_ACT_ALLOW","args":null,"comment":"","includes":{},"excludes":{}},
          {"names":["ptrace"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"}},
          {"names":["bpf"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"7.0"}},
          {"names":["arch_prctl"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["amd64","x32"]}},
          {"names":["sync"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["ppc64le"]}},
          {"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[],"excludes":{"caps":["CAP_SYS_ADMIN"],"arches":["s390"]}}]}"#;
    let profile = Profile::parse(text).unwrap();
    let program = compile(&profile.resolve(Abi::X86_64, Caps::NONE, (6, 1)), Abi::X86_64).unwrap();
    for (name, allowed) in [
        ("read", true),
        ("ptrace", true),
        ("bpf", false),
        ("arch_prctl", true),
        ("sync", false),
        ("clone", true),
    ] {
        let wanted = if allowed { verdict::ALLOW } else { ENOSYS_VERDICT };
        assert_eq!(call(&program, Abi::X86_64, name, &[]), wanted, "{name}");
    }
}

#[test]
fn a_loaded_filter_holds_for_its_thread() {
    let program = standard(Abi::NATIVE, &[]);
    std::thread::spawn(move || {
        nix::sys::prctl::set_no_new_privs().unwrap();
        assert!(program.load().unwrap().is_none());
        let mount = nix::mount::mount(
            None::<&str>,
            "/",
            None::<&str>,
            nix::mount::MsFlags::MS_REMOUNT,
            None::<&str>,
        );
        assert_eq!(mount, Err(nix::errno::Errno::EPERM));
        let unshare = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER);
        assert_eq!(unshare, Err(nix::errno::Errno::EPERM));
        let vsock = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Vsock,
            nix::sys::socket::SockType::Stream,
            nix::sys::socket::SockFlag::empty(),
            None,
        );
        assert_eq!(vsock.unwrap_err(), nix::errno::Errno::EAFNOSUPPORT);
        assert!(std::fs::read("/proc/self/stat").is_ok());
        std::thread::spawn(|| std::fs::metadata("/").is_ok()).join().unwrap();
    })
    .join()
    .unwrap();
}

#[test]
fn a_compiled_filter_is_kept_as_bytes_and_cut_ones_are_none() {
    let settings = Profile::standard().unwrap().resolve(Abi::NATIVE, Caps::NONE, (6, 1));
    let program = compile(&settings, Abi::NATIVE).unwrap();
    let bytes = program.to_bytes();
    assert_eq!(bytes.len(), 4 + 8 * program.instructions.len());
    assert_eq!(Program::from_bytes(&bytes), Some(program));
    for cut in [0, 3, 4, 5, bytes.len() - 1] {
        assert_eq!(Program::from_bytes(&bytes[..cut]), None, "{cut}");
    }
}

/// After a change of the file: `python3 -c` with `json.dumps(…, separators=(',', ':'))` and `zlib.compressobj(9, zlib.DEFLATED, -15)`.
#[test]
fn the_packed_profile_is_that_of_the_file() {
    let file = include_str!("../../../config/seccomp.json");
    let text = |profile: Profile| format!("{profile:?}");
    assert_eq!(text(Profile::standard().unwrap()), text(Profile::parse(file).unwrap()));
}

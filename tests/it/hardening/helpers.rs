//! What decoders and workers can still do: their own work, and nothing besides.

use crate::fixture::cmd::dunlin;
use crate::fixture::scratch::Scratch;
use crate::fixture::workers::LIMITS;
use dunlin::image::worker::{Children, Job, Worker, Workers};
use dunlin::sys::fs as sys;
use dunlin::sys::landlock::Access;
use dunlin::sys::sandbox::{self, MEMORY_BYTES, Profile};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Children whose numbers are known.
struct Seen(Mutex<Vec<u32>>);

impl Workers for Seen {
    fn start(&self, control: OwnedFd) -> io::Result<Option<Child>> {
        let child = Children { program: dunlin() }.start(control)?;
        self.0.lock().unwrap().extend(child.as_ref().map(Child::id));
        Ok(child)
    }
}

fn read(pid: u32, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap()
}

fn field(pid: u32, name: &str) -> String {
    let status = read(pid, "status");
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line[name.len() + 1..].trim().to_owned()
}

/// Waits until the process has shut itself in, then looks at it.
fn assert_shut_in(pid: u32, caps: u64) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while field(pid, "Seccomp") != "2" {
        assert!(Instant::now() < deadline, "{}", read(pid, "status"));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(field(pid, "NoNewPrivs"), "1");
    for name in ["CapPrm", "CapEff", "CapInh"] {
        let have = u64::from_str_radix(&field(pid, name), 16).unwrap();
        assert_eq!(have & !caps, 0, "{name} {have:x}");
    }
    let limits = read(pid, "limits");
    for (name, most) in [
        ("Max address space", MEMORY_BYTES),
        ("Max cpu time", 8 * 3600),
        ("Max core file size", 0),
        ("Max open files", 1024),
    ] {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        let values: Vec<u64> = line[name.len()..]
            .split_whitespace()
            .take(2)
            .map(|text| text.parse().unwrap())
            .collect();
        assert!(values.iter().all(|value| *value <= most), "{line}");
    }
}

#[test]
fn decoders_and_workers_at_work_are_shut_in() {
    let mut decoder = Command::new(dunlin());
    decoder
        .args(["decode", "gzip", "1000"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .env_clear();
    let mut decoder = decoder.spawn().unwrap();
    assert_shut_in(decoder.id(), 0);
    drop(decoder.stdin.take());
    decoder.wait().unwrap();
    let scratch = Scratch::new("shut");
    let root = sys::name_dir(&scratch.folder("root")).unwrap();
    let (reader, writer) = io::pipe().unwrap();
    let seen = Seen(Mutex::new(Vec::new()));
    let job = Job::Unpack {
        limits: LIMITS,
        marks: None,
    };
    let worker = Worker::start(&seen, job, &[root.as_fd(), reader.as_fd(), root.as_fd()]).unwrap();
    let pid = seen.0.lock().unwrap()[0];
    // CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, MKNOD, SETFCAP
    assert_shut_in(pid, 0x1f | 1 << 27 | 1 << 31);
    drop(writer);
    drop(worker);
}

/// Not a test of its own: tries something in the sandbox, in the process that the next one starts.
#[test]
fn tries_what_it_is_told_in_the_sandbox() {
    let Ok(told) = std::env::var("DUNLIN_TEST_SANDBOX") else {
        return;
    };
    let (profile, what, dir) = {
        let mut words = told.split('|');
        let profile = if words.next() == Some("tree") {
            Profile::Tree
        } else {
            Profile::Filter
        };
        (
            profile,
            words.next().unwrap().to_owned(),
            words.next().unwrap().to_owned(),
        )
    };
    let inside = sys::open_dir(dir.as_ref()).unwrap();
    let locked = sandbox::enter(profile, &[(inside.as_fd(), Access::Write)]).unwrap();
    let done = match what.as_str() {
        "inside" => sys::create_file_at(&inside, b"new", 0o600).map(drop),
        "outside" if !locked => Err(io::ErrorKind::PermissionDenied.into()),
        "outside" => std::fs::File::open("/etc/passwd").map(drop),
        "write outside" if !locked => Err(io::ErrorKind::PermissionDenied.into()),
        "write outside" => std::fs::File::create("/tmp/dunlin-outside").map(drop),
        "socket" => std::net::UdpSocket::bind("127.0.0.1:0").map(drop),
        "unix" => std::os::unix::net::UnixDatagram::unbound().map(drop),
        "program" => Command::new("/bin/true").status().map(drop),
        "memory" => {
            let mut all: Vec<Vec<u8>> = Vec::new();
            loop {
                let mut some = Vec::new();
                if some.try_reserve_exact(8 << 20).is_err() {
                    let total = all.len() as u64 * (8 << 20);
                    break if total < MEMORY_BYTES {
                        Err(io::ErrorKind::OutOfMemory.into())
                    } else {
                        Ok(())
                    };
                }
                all.push(some);
            }
        }
        other => panic!("{other}"),
    };
    // The harness would need calls that are gone.
    let code = match done {
        Ok(()) => 40,
        Err(e) if e.kind() == io::ErrorKind::OutOfMemory => 42,
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => 41,
        Err(_) => 43,
    };
    std::process::exit(code);
}

#[test]
fn a_helper_reaches_nothing_outside_no_network_and_no_memory_beyond_its_bound() {
    const SIGSYS: i32 = 31;
    let scratch = Scratch::new("reach");
    // Exit codes of the process above, or the signal that ends it.
    for (profile, what, code, signal) in [
        ("tree", "inside", Some(40), None),
        ("tree", "outside", Some(41), None),
        ("tree", "write outside", Some(41), None),
        ("tree", "socket", None, Some(SIGSYS)),
        ("tree", "unix", None, Some(SIGSYS)),
        ("tree", "program", None, Some(SIGSYS)),
        ("tree", "memory", Some(42), None),
        ("filter", "inside", None, Some(SIGSYS)),
        ("filter", "outside", None, Some(SIGSYS)),
        ("filter", "socket", None, Some(SIGSYS)),
        ("filter", "memory", Some(42), None),
    ] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            "hardening::helpers::tries_what_it_is_told_in_the_sandbox",
            "--nocapture",
        ]);
        command.env(
            "DUNLIN_TEST_SANDBOX",
            format!("{profile}|{what}|{}", scratch.path().display()),
        );
        // glibc asks how many processors there are before it makes a second arena, which the filter takes badly.
        command.env("MALLOC_ARENA_MAX", "1");
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert_eq!((status.code(), status.signal()), (code, signal), "{profile}: {what}");
        let _ = std::fs::remove_file(scratch.join("new"));
    }
    assert!(!std::path::Path::new("/tmp/dunlin-outside").exists());
}

//! Containers that attack who joins them, and receivers that do not want the terminal that they asked for.

use super::{WAIT, await_that, bundles, count, is_root, text};
use crate::runtime_cli::bundle::Bundle;
use crate::skip;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use serde_json::{Value, json};
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Instant;

/// Tries everything in procfs that gives a hold on a process, while it is called as the runtime is: it has then not
/// become the container's program yet.
const PRY: &str = r#"
hit() {
  line=; { read -r line <$p/cmdline; } 2>/dev/null
  case $line in *dunlin*runtime*) echo "hit $1" >>/out/log ;; esac
}
echo ready >>/out/log
while :; do
  for p in /proc/[0-9]*; do
    line=; { read -r line <$p/cmdline; } 2>/dev/null
    case $line in *dunlin*runtime*) ;; *) continue ;; esac
    echo seen >>/out/log
    { hit exe; } 7<$p/exe
    { hit mem; } 7<$p/mem
    { hit environ; } 7<$p/environ
    { hit maps; } 7<$p/maps
    for fd in 0 3 4 5 6 7 8; do { hit fd; } 7<$p/fd/$fd; done
    cd $p/root && { hit root; cd /; }
    cd $p/cwd && { hit cwd; cd /; }
  done
done 2>/dev/null"#;

fn allow_tracing(bundle: &Bundle) {
    bundle.edit(|spec| {
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] = json!(["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH"]);
        }
    });
}

/// Does something to a prying container until that has seen processes enough, and asserts that it got hold of none.
fn pry(bundle: &Bundle, out: &Path, what: &str, mut act: impl FnMut()) {
    let log = out.join("log");
    await_that("the container pries", || count(&log, "ready") == 1);
    let begun = count(&log, "seen");
    await_that("a process was seen", || {
        act();
        count(&log, "seen") >= begun + 20
    });
    let said = text(&log);
    let hits: Vec<&str> = said.lines().filter(|line| line.starts_with("hit")).collect();
    assert!(hits.is_empty(), "{what}: {hits:?}");
    assert_eq!(bundle.state("hostile")["status"], "running");
}

#[test]
fn a_process_that_joins_cannot_be_looked_into() {
    for bundle in bundles("hard-pry") {
        let bundle = match bundle {
            Ok(bundle) => bundle,
            Err(reason) => skip!("{reason}"),
        };
        let out = bundle.share("out");
        // Root of the host may trace what it likes; root of a user namespace only what is its own.
        if !bundle.is_roots() {
            allow_tracing(&bundle);
        }
        bundle.detach("hostile", PRY);
        pry(&bundle, &out, "exec", || {
            bundle.command(&["exec", "hostile", "true"]).ok();
        });

        let pid = bundle.state("hostile")["pid"].clone();
        bundle.edit(|spec| {
            spec["process"]["args"] = json!(["true"]);
            let user = !bundle.is_roots();
            let linux = spec["linux"].as_object_mut().unwrap();
            linux.remove("uidMappings");
            linux.remove("gidMappings");
            for space in linux["namespaces"].as_array_mut().unwrap() {
                let kind = space["type"].as_str().unwrap().to_owned();
                if kind == "pid" || user && kind == "user" {
                    space["path"] = json!(format!("/proc/{pid}/ns/{kind}"));
                }
            }
        });
        pry(&bundle, &out, "a first process", || {
            bundle.run_once("joins").expect(0);
        });
        bundle.command(&["delete", "-f", "hostile"]).ok();
    }
}

/// The container's own changes need rights in it: those of a user namespace.
fn hostile_bundle(topic: &str) -> Result<Bundle, String> {
    let bundle = bundles(topic).pop().expect("one of them")?;
    bundle.edit(|spec| {
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] =
                json!(["CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_DAC_OVERRIDE", "CAP_KILL"]);
        }
    });
    Ok(bundle)
}

#[test]
fn nothing_is_taken_from_a_container_that_has_replaced_its_files() {
    let bundle = match hostile_bundle("hard-replaced") {
        Ok(bundle) => bundle,
        Err(reason) => skip!("{reason}"),
    };
    let out = bundle.share("out");
    let setups: [(&str, &str); 8] = [
        ("an empty tmpfs at /proc", "busybox mount -t tmpfs none /proc"),
        (
            "a forged /proc",
            "busybox mkdir -p /tmp/p/self/fd /tmp/p/self/attr /tmp/p/sys; busybox mkfifo /tmp/p/self/oom_score_adj;
             busybox mount -o bind /tmp/p /proc",
        ),
        (
            "another root and folder",
            "busybox mkdir -p /tmp/r/bin; busybox cp /bin/busybox /tmp/r/bin/sleep; cd /tmp/r; echo ready >/out/ready;
             exec busybox chroot /tmp/r /bin/sleep 1000",
        ),
        (
            "an endless passwd",
            "busybox yes root:x:0:0:root:/endless:/bin/sh | busybox head -c 3000000 >/etc/passwd",
        ),
        (
            "a malformed passwd",
            "busybox printf '::::::\\n:x:0:0\\nroot\\n\\377\\376:x:0:0::/no:\\nx:y:0:99999999999:a:/no:\\n' >/etc/passwd",
        ),
        (
            "a pipe for a passwd",
            "busybox rm -f /etc/passwd; busybox mkfifo /etc/passwd",
        ),
        (
            "a link to a device for a passwd",
            "busybox rm -f /etc/passwd; busybox ln -s /dev/zero /etc/passwd",
        ),
        (
            "a tmpfs at /dev",
            "busybox mount -t tmpfs none /dev; busybox mkdir /dev/pts; busybox touch /dev/null /dev/pts/ptmx",
        ),
    ];
    for (name, setup) in setups {
        let ready = out.join("ready");
        let _ = fs::remove_file(&ready);
        bundle.detach(
            "hostile",
            &format!("{setup}; echo ready >/out/ready; exec /bin/sleep 1000"),
        );
        await_that(name, || ready.exists());
        // Builtins of the shell alone: other programs of a busybox need its procfs.
        let began = Instant::now();
        let exec = bundle.command(&[
            "exec",
            "hostile",
            "sh",
            "-c",
            "pwd; echo $HOME; [ -d /out ] && echo here",
        ]);
        let said = exec.run().expect(0).stdout;
        assert!(said.ends_with("\nhere\n") && said.starts_with("/\n"), "{name}: {said}");
        assert!(!said.contains("/no"), "{name}: {said}");
        // What is set for a process is set by the kernel, whatever the container shows.
        let process = json!({"args": ["sleep", "1000"], "cwd": "/", "user": {"uid": 0, "gid": 0},
            "env": ["PATH=/bin"], "oomScoreAdj": 654});
        let file = bundle.beside("process.json");
        fs::write(&file, process.to_string()).unwrap();
        let pid_file = bundle.beside("pid");
        let exec = bundle
            .command(&["exec", "-d", "--process"])
            .arg(&file)
            .arg("--pid-file");
        let _ = fs::remove_file(&pid_file);
        bundle.give(&file);
        exec.arg(&pid_file).arg("hostile").ok();
        let pid = fs::read_to_string(&pid_file).unwrap();
        assert_eq!(
            text(Path::new(&format!("/proc/{pid}/oom_score_adj"))),
            "654\n",
            "{name}"
        );
        let tty = bundle.command(&["exec", "--tty", "hostile", "true"]).run();
        let forged = name.contains("/dev");
        assert_eq!(
            tty.code == 0,
            !forged,
            "{name}: a terminal is of devpts or none: {tty:?}"
        );
        assert!(began.elapsed() < WAIT, "{name} delays who joins");
        bundle.command(&["delete", "-f", "hostile"]).ok();
    }
}

#[test]
fn a_container_that_ends_meanwhile_leaves_nothing_behind() {
    for bundle in bundles("hard-ends") {
        let bundle = match bundle {
            Ok(bundle) => bundle,
            Err(reason) => skip!("{reason}"),
        };
        let mut refused = 0;
        for round in 0..12_u64 {
            bundle.detach("short", "exec sleep 1000");
            let pid = bundle.state("short")["pid"].to_string();
            let killer = std::thread::spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(3 * round));
                std::process::Command::new("kill")
                    .args(["-KILL", &pid])
                    .status()
                    .unwrap()
            });
            for _ in 0..4 {
                let out = bundle.command(&["exec", "short", "sleep", "0.01"]).timeout(WAIT).run();
                let known = [0, 137, 255].contains(&out.code);
                assert!(known && (out.code != 255 || !out.stderr.is_empty()), "{out:?}");
                refused += usize::from(out.code == 255);
            }
            assert!(killer.join().unwrap().success());
            bundle.command(&["delete", "-f", "short"]).ok();
            assert!(bundle.left().is_empty());
        }
        assert!(refused > 0, "it was joined after its end too");
    }
}

#[test]
fn a_number_that_another_process_has_got_is_not_the_container() {
    if !is_root() {
        skip!("needs root");
    }
    let bundle = Bundle::of_root("hard-reused");
    bundle.detach("gone", "exec sleep 1000");
    let mut other = Ends(std::process::Command::new("sleep").arg("1000").spawn().unwrap());
    let file = bundle.root().join("gone/state.json");
    let whole: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let mut reused = whole.clone();
    reused["pid"] = json!(other.0.id());
    fs::write(&file, reused.to_string()).unwrap();
    assert_eq!(bundle.state("gone")["status"], "stopped");
    bundle
        .command(&["exec", "gone", "true"])
        .fails(255)
        .says(&["cannot exec in a stopped container"]);
    bundle
        .command(&["kill", "gone", "KILL"])
        .fails(1)
        .says(&["not running"]);
    assert!(other.0.try_wait().unwrap().is_none(), "nobody else is killed");
    fs::write(&file, whole.to_string()).unwrap();
    bundle.command(&["delete", "-f", "gone"]).ok();
    assert!(other.0.try_wait().unwrap().is_none());
}

/// A child that ends with the test.
struct Ends(std::process::Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_receiver_that_wants_no_terminal_holds_nothing_up() {
    for bundle in bundles("hard-receiver") {
        let bundle = match bundle {
            Ok(bundle) => bundle,
            Err(reason) => skip!("{reason}"),
        };
        bundle.edit(|spec| {
            spec["process"]["terminal"] = json!(true);
            spec["process"]["args"] = json!(["sleep", "1000"]);
        });
        let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        bundle.place("t");
        let create = |socket: &Path| {
            let create = bundle.command(&["create", "-b"]).arg(bundle.path());
            create.arg("--console-socket").arg(socket).arg("t").timeout(WAIT).run()
        };
        let refuses = |name: &str, socket: &Path| {
            let out = create(socket);
            assert!(
                out.code == 1 && out.stderr.contains("send the terminal to"),
                "{name}: {out:?}"
            );
            assert!(bundle.left().is_empty(), "{name}");
        };
        let at = |name: &str| bundle.beside(name);
        refuses("nobody", &at("none"));
        fs::write(at("file"), "").unwrap();
        open(&at("file"));
        refuses("a file", &at("file"));
        drop(UnixListener::bind(at("closed")).unwrap());
        open(&at("closed"));
        refuses("one that has ended", &at("closed"));
        let packets =
            nix::sys::socket::socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
        nix::sys::socket::bind(packets.as_raw_fd(), &UnixAddr::new(&at("packets")).unwrap()).unwrap();
        open(&at("packets"));
        refuses("a socket of another kind", &at("packets"));
        let full =
            nix::sys::socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        nix::sys::socket::bind(full.as_raw_fd(), &UnixAddr::new(&at("full")).unwrap()).unwrap();
        nix::sys::socket::listen(&full.as_fd(), Backlog::new(0).unwrap()).unwrap();
        open(&at("full"));
        let _first = std::os::unix::net::UnixStream::connect(at("full")).unwrap();
        refuses("one that takes no connections", &at("full"));

        // One that takes it and is gone: the container has no terminal any more, and is none the worse for the rest.
        let listener = UnixListener::bind(at("gone")).unwrap();
        open(&at("gone"));
        let out = create(&at("gone"));
        drop(listener);
        assert_eq!(out.code, 0, "{out:?}");
        bundle.command(&["delete", "-f", "t"]).ok();
        assert!(bundle.left().is_empty());
    }
}

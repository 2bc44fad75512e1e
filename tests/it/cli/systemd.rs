//! Containers below systemd: readiness told, sockets passed on. And containers that run it, or what wants the same.

use super::flow::wait_for;
use super::{EVERYBODY, Who, World};
use crate::fixture::child::free_port;
use crate::fixture::cmd::{Cmd, dunlin};
use crate::fixture::images::{Compression, Format, Index};
use crate::fixture::tree::Tree;
use crate::skip;
use std::fs;
use std::io::Read as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The host's programs in a container.
const TOOLS: &str = "-v /usr:/usr:ro -v /lib:/lib:ro -v /lib64:/lib64:ro";

/// Stands for systemd: hears what is told.
struct Ear {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Ear {
    fn new(world: &World) -> Ear {
        let path = world.folder("ear").join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        Ear { socket, path }
    }

    /// The next message, lines parted by blanks; none when none comes in time.
    fn hears(&self, patience: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(patience)).unwrap();
        let mut buffer = [0; 4096];
        let got = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..got]).replace('\n', " "))
    }

    /// All messages up to the one that says that it is ready.
    fn until_ready(&self) -> Vec<String> {
        let mut all = Vec::new();
        while !all.last().is_some_and(|last: &String| last.contains("READY=1")) {
            let next = self.hears(Duration::from_secs(20));
            all.push(next.unwrap_or_else(|| panic!("not ready; said before: {all:?}")));
        }
        all
    }
}

fn has(program: &str) -> bool {
    Path::new("/usr/bin").join(program).exists()
}

#[test]
fn a_container_tells_systemd_that_it_is_ready() {
    if !has("systemd-notify") {
        skip!("systemd-notify is not installed");
    }
    for who in EVERYBODY {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        let ear = Ear::new(&world);
        let run = |flags: &str, script: &str| {
            let cmd = world.sh(&format!("run {flags} {TOOLS}"), script);
            cmd.env("NOTIFY_SOCKET", &ear.path)
        };
        let up = "systemd-notify --status=up; systemd-notify --ready --pid=1; trap 'exit 0' TERM; while :; do sleep 0.1; done";
        run("-d --name web", up).ok();
        let all = ear.until_ready();
        let main = format!("MAINPID={}", world.field("web", "{{.State.ConmonPid}}"));
        assert!(all.contains(&"STATUS=up".to_owned()), "{who:?}: {all:?}");
        assert!(all.contains(&main), "{who:?}: {all:?}");
        assert_eq!(all.last().unwrap(), &format!("{main} READY=1"), "{who:?}");
        // Also what is run in it later, and whoever that is.
        world.cmd("exec --user 1000 web systemd-notify STATUS=later").run();
        if who != Who::Single {
            assert_eq!(
                ear.hears(Duration::from_secs(5)).as_deref(),
                Some("STATUS=later"),
                "{who:?}"
            );
        }
        // A later start has its own caller.
        world.cmd("stop -t 5 web").ok();
        world.cmd("start web").ok();
        assert_eq!(ear.hears(Duration::from_millis(700)), None, "{who:?}");
        world.cmd("stop -t 5 web").ok();
        world.cmd("start web").env("NOTIFY_SOCKET", &ear.path).ok();
        ear.until_ready();
        world.cmd("rm -f -t 0 web").ok();

        // In the foreground the command itself is the main process.
        run("--rm", "systemd-notify --ready").ok();
        assert_eq!(ear.hears(Duration::from_secs(5)).as_deref(), Some("READY=1"));
        // Every run says so.
        run(
            "-d --name again --restart on-failure:1",
            "systemd-notify --ready; exit 1",
        )
        .ok();
        ear.until_ready();
        ear.until_ready();
        world.cmd("rm -f -t 0 again").ok();

        let none = "echo ${NOTIFY_SOCKET-none}";
        assert_eq!(run("--rm --sdnotify=conmon", none).ok(), "none", "{who:?}");
        assert_eq!(ear.hears(Duration::from_secs(5)).as_deref(), Some("READY=1"), "{who:?}");
        run("-d --name now --sdnotify=conmon", "sleep 1000").ok();
        let main = world.field("now", "{{.State.ConmonPid}}");
        let said = ear.hears(Duration::from_secs(5));
        assert_eq!(said, Some(format!("MAINPID={main} READY=1")), "{who:?}");
        world.cmd("rm -f -t 0 now").ok();
        assert_eq!(run("--rm --sdnotify=ignore", none).ok(), "none", "{who:?}");
        assert_eq!(ear.hears(Duration::from_millis(300)), None, "{who:?}");
        assert_eq!(world.sh("run --rm", none).ok(), "none", "{who:?}");
        world.sh("run --rm --sdnotify=nobody", "true").fails(125);
    }
}

/// A line of a shell as who has the world.
fn shell(world: &World, line: &str) -> Cmd {
    let (data, run) = world.roots();
    let roots = format!("--root {} --runroot {}", data.display(), run.display());
    let line = line.replace("$DUNLIN", &format!("{} {roots}", dunlin().display()));
    let line = line.replace("$IMAGE", &world.image);
    match world.user() {
        Some(user) => user.shell(&line),
        None => Cmd::new("/bin/sh").args(["-c", &line]),
    }
}

#[test]
fn sockets_of_systemd_reach_a_containers_program() {
    for who in EVERYBODY {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        let given = |pid: &str, run: &str| {
            let line = format!(
                "exec 3<<E 4<<F\nthree\nE\nfour\nF\nLISTEN_FDS=2 LISTEN_PID={pid} LISTEN_FDNAMES=a:b exec $DUNLIN {run} $IMAGE \
                 sh -c 'echo $LISTEN_FDS $LISTEN_PID $LISTEN_FDNAMES; cat <&3; cat <&4; ls /proc/self/fd | wc -l'"
            );
            shell(&world, &line)
        };
        // ls has its own three, these two and the folder.
        let all = "2 1 a:b\nthree\nfour\n6";
        assert_eq!(given("$$", "run --rm").ok(), all, "{who:?}");
        given("$$", "run -d --name web").ok();
        world.cmd("wait web").ok();
        assert_eq!(world.cmd("logs web").ok(), all, "{who:?}");
        world.cmd("rm web").ok();
        // Those of somebody else are not taken.
        let out = given("1", "run --rm").run();
        assert!(
            out.stdout.starts_with('\n') && !out.stdout.contains("three"),
            "{who:?}: {out:?}"
        );
        let kept = "exec 3<<E\nthree\nE\nexec $DUNLIN run --rm --preserve-fds 1 $IMAGE sh -c 'cat <&3; echo ${LISTEN_FDS-none}'";
        assert_eq!(shell(&world, kept).ok(), "three\nnone", "{who:?}");
        let closed = shell(&world, "exec $DUNLIN run --rm --preserve-fds 3 $IMAGE true");
        closed.fails(125).says(&["--preserve-fds"]);
        let many = shell(&world, "LISTEN_FDS=99 LISTEN_PID=$$ exec $DUNLIN run --rm $IMAGE true");
        many.fails(125).says(&["LISTEN_FDS", "99", "13"]);
    }
}

#[test]
fn a_connection_starts_a_container_that_answers_it() {
    if !has("systemd-socket-activate") || !has("python3") {
        skip!("systemd-socket-activate or python3 is not installed");
    }
    for who in [Who::Ranges, Who::Root] {
        let world = match World::new(who) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        let port = free_port();
        let code = "import os, socket; s = socket.socket(fileno=3); c, a = s.accept(); c.send(os.environ[\"LISTEN_FDNAMES\"].encode())";
        let line = format!(
            "exec systemd-socket-activate -l 127.0.0.1:{port} --fdname=web $DUNLIN run -d --name web {TOOLS} $IMAGE \
             /usr/bin/python3 -c '{code}'"
        );
        let _unit = shell(&world, &line).start();
        let end = Instant::now() + Duration::from_secs(20);
        let mut stream = loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "web", "{who:?}");
        wait_for(|| world.field("web", "{{.State.Status}}") == "exited");
        world.cmd("rm -f -t 0 web").ok();
    }
}

/// An image whose `/sbin/init` shows what systemd looks for, and ends by systemd's own signal.
fn init() -> Index {
    let script = "#!/bin/sh\ncat /proc/mounts >/run/mounts\nenv >/run/env\ntrap 'exit 3' 37\ntrap '' TERM\n\
                  : >/run/up\nwhile :; do sleep 0.1; done\n";
    let tree = Tree::new()
        .file("sbin/init", 0o755, script)
        .file("var/log/journal/old", 0o644, "")
        .finish();
    Index::each(Format::Oci, |recipe| {
        let recipe = recipe.layer(tree.clone(), Compression::Gzip);
        recipe.config("Cmd", serde_json::json!(["/sbin/init"]))
    })
}

#[test]
fn systemd_finds_what_it_wants() {
    for who in EVERYBODY {
        let world = match World::with(who, init()) {
            Ok(world) => world,
            Err(reason) => skip!("{reason}"),
        };
        let id = world.cmd("run -d --name init").arg(&world.image).ok();
        wait_for(|| world.cmd("exec init test -e /run/up").run().code == 0);
        let mounts = world.cmd("exec init cat /run/mounts").ok();
        let at = |place: &str| {
            let line = mounts.lines().rfind(|line| line.split(' ').nth(1) == Some(place));
            line.map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
        };
        for place in ["/run", "/run/lock", "/tmp", "/var/log/journal"] {
            let mount = at(place).unwrap_or_else(|| panic!("{who:?}: nothing at {place}: {mounts}"));
            let options: Vec<&str> = mount[3].split(',').collect();
            assert_eq!(mount[2], "tmpfs", "{who:?}: {mounts}");
            for option in ["rw", "nosuid", "nodev"] {
                assert!(options.contains(&option), "{who:?}: {place}: {option}: {mounts}");
            }
        }
        world.cmd("exec init test -e /var/log/journal/old").ok();
        let groups: Vec<&str> = mounts.lines().filter(|line| line.contains(" /sys/fs/cgroup")).collect();
        assert!(
            !groups.is_empty() && groups.iter().all(|line| line.contains(" rw,")),
            "{who:?}: {groups:?}"
        );
        let env = world.cmd("exec init cat /run/env").ok();
        let uuid = format!("container_uuid={}", &id[..32]);
        for wanted in ["container=oci", &uuid] {
            assert!(env.lines().any(|line| line == wanted), "{who:?}: {wanted}: {env}");
        }
        assert_eq!(world.field("init", "{{.Config.StopSignal}}"), "37", "{who:?}");
        world.cmd("stop -t 20 init").ok();
        assert_eq!(world.field("init", "{{.State.ExitCode}}"), "3", "{who:?}");
        // By its name alone, always, or never; a signal that was named stays.
        let is = |flags: &str, command: &str| {
            let made = world
                .cmd(&format!("create {flags}"))
                .arg(&world.image)
                .args(command.split(' '))
                .ok();
            let signal = world.field(&made, "{{.Config.StopSignal}}");
            world.cmd("rm").arg(&made).ok();
            signal
        };
        for (flags, command, signal) in [
            ("", "/usr/lib/systemd/systemd", "37"),
            ("", "sh -c /sbin/init", "37"),
            ("", "sh -c true", "15"),
            ("", "/bin/init", "15"),
            ("--systemd=false", "/sbin/init", "15"),
            ("--systemd=always", "sh", "37"),
            ("--systemd=always --stop-signal INT", "sh", "2"),
        ] {
            assert_eq!(is(flags, command), signal, "{who:?}: {flags} {command}");
        }
        let tmp = world
            .sh("run --rm --systemd=false", "grep -c ' /run/lock ' /proc/mounts")
            .run();
        assert_eq!(tmp.stdout, "0\n", "{who:?}");
        let own = world
            .sh(
                "run --rm --systemd=always -v /etc:/run/lock:ro",
                "ls /run/lock | grep -c ^passwd$",
            )
            .ok();
        assert_eq!(own, "1", "{who:?}: what the user mounts stays");
        world
            .sh("run --rm --systemd=sometimes", "true")
            .fails(125)
            .says(&["--systemd"]);
    }
}

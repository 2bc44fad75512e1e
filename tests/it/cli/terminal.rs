//! Containers on a real terminal.

use super::flow::wait_for;
use super::{Who, World};
use crate::fixture::cmd::Cmd;
use crate::skip;
use dunlin::sys::tty::{self, WindowSize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(20);

/// A command on a terminal of its own.
pub(super) struct Typist {
    child: Child,
    master: File,
    shown: Arc<Mutex<String>>,
}

impl Typist {
    pub(super) fn start(cmd: Cmd, rows: u16, cols: u16) -> Typist {
        let (master, end) = tty::open_pair().unwrap();
        tty::set_window_size(master.as_fd(), WindowSize { rows, cols }).unwrap();
        let inner = cmd.into_command();
        // setsid makes the terminal the controlling one of a new session.
        let mut command = std::process::Command::new("/usr/bin/setsid");
        command
            .arg("--ctty")
            .arg("--wait")
            .arg(inner.get_program())
            .args(inner.get_args());
        command.env_clear();
        for (name, value) in inner.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        let stdio = |end: &OwnedFd| Stdio::from(end.try_clone().unwrap());
        command.stdin(stdio(&end)).stdout(stdio(&end)).stderr(stdio(&end));
        let child = command.spawn().unwrap();
        drop(command);
        drop(end);
        let master = File::from(master);
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut reader, sink) = (master.try_clone().unwrap(), shown.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                sink.lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Typist { child, master, shown }
    }

    pub(super) fn types(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    pub(super) fn sees(&self, text: &str) {
        let end = Instant::now() + WAIT;
        while !self.shown.lock().unwrap().contains(text) {
            assert!(
                Instant::now() < end,
                "no `{text}` on the terminal: {:?}",
                self.shown.lock().unwrap()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(super) fn ends(&mut self) -> i32 {
        let end = Instant::now() + WAIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(
                Instant::now() < end,
                "it does not end: {:?}",
                self.shown.lock().unwrap()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Typist {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// dunlin as root on the world's store: it becomes the owner, so that the terminal may be root's.
fn dunlin(world: &World, words: &str) -> Cmd {
    let (data, run) = world.roots();
    Cmd::dunlin()
        .arg("--root")
        .arg(data)
        .arg("--runroot")
        .arg(run)
        .args(words.split(' ').filter(|word| !word.is_empty()))
}

#[test]
fn a_shell_on_a_terminal_has_its_size_and_follows_it() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let mut typist = Typist::start(
        dunlin(&world, "run -it --rm --name shell").arg(&world.image).arg("sh"),
        33,
        77,
    );
    typist.types("stty size; tty; echo done-$((1+1))\n");
    typist.sees("done-2");
    typist.sees("33 77");
    typist.sees("/dev/pts/0");
    tty::set_window_size(typist.master.as_fd(), WindowSize { rows: 40, cols: 120 }).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    typist.types("stty size; echo again-$((2+2))\n");
    typist.sees("again-4");
    typist.sees("40 120");
    // A key that is a signal goes to what runs inside.
    typist.types("trap 'echo caught-int' INT\n");
    typist.types("sleep 100\n");
    std::thread::sleep(Duration::from_millis(300));
    typist.types("\u{3}");
    typist.sees("caught-int");
    typist.types("exit 7\n");
    assert_eq!(typist.ends(), 7);
    assert_eq!(world.cmd("ps -aq").ok(), "");
}

#[test]
fn the_terminal_is_as_before_afterwards() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let (data, run) = world.roots();
    let binary = crate::fixture::cmd::dunlin();
    for ending in ["exit 0", "exit 3", "kill -9 -1", "nonexistent-program"] {
        let program = if ending == "nonexistent-program" {
            "nonexistent-program".to_owned()
        } else {
            format!("sh -c '{ending}'")
        };
        let script = format!(
            "stty -a > {0}/before; {1} --root {0}/dunlin-data --runroot {0}/dunlin-run version > /dev/null; \
             {1} --root {2} --runroot {3} run -it --rm {4} {program}; stty -a > {0}/after; echo finished",
            run.parent().unwrap().display(),
            binary.display(),
            data.display(),
            run.display(),
            world.image,
        );
        let mut typist = Typist::start(Cmd::new("/bin/sh").args(["-c", &script]), 24, 80);
        typist.sees("finished");
        typist.ends();
        let read = |name: &str| std::fs::read_to_string(run.parent().unwrap().join(name)).unwrap();
        assert_eq!(read("before"), read("after"), "{ending}");
    }
}

#[test]
fn detach_keys_leave_the_container_running() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let mut typist = Typist::start(
        dunlin(&world, "run -it --name kept").arg(&world.image).arg("sh"),
        24,
        80,
    );
    typist.types("echo ready-$((1+1))\n");
    typist.sees("ready-2");
    typist.types("\u{10}\u{11}");
    assert_eq!(typist.ends(), 0);
    assert_eq!(world.field("kept", "{{.State.Status}}"), "running");
    // And back again.
    let mut typist = Typist::start(dunlin(&world, "start -ai kept"), 24, 80);
    std::thread::sleep(Duration::from_millis(300));
    typist.types("echo back-$((2+2))\n");
    typist.sees("back-4");
    typist.types("exit 5\n");
    assert_eq!(typist.ends(), 5);
    wait_for(|| world.field("kept", "{{.State.ExitCode}}") == "5");
}

#[test]
fn exec_on_a_terminal_is_a_shell_of_its_own() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    world
        .cmd("run -d --name box")
        .arg(&world.image)
        .args(["sleep", "1000"])
        .ok();
    let mut typist = Typist::start(dunlin(&world, "exec -it box sh"), 30, 90);
    typist.types("stty size; echo pid-$$; echo t-$TERM; exit 4\n");
    typist.sees("30 90");
    typist.sees("t-xterm");
    assert_eq!(typist.ends(), 4);
    assert_eq!(world.field("box", "{{.State.Status}}"), "running");
    // Without a terminal of its own, -t still gives one inside.
    assert_eq!(world.cmd("exec -t box tty").run().stdout.trim(), "/dev/pts/0");
    assert_eq!(
        world
            .cmd("run --rm -t")
            .arg(&world.image)
            .arg("tty")
            .run()
            .stdout
            .trim(),
        "/dev/pts/0"
    );
}

#[test]
fn a_lost_terminal_ends_the_command_and_what_it_ran() {
    let world = match World::new(Who::Ranges) {
        Ok(world) => world,
        Err(reason) => skip!("{reason}"),
    };
    let mut typist = Typist::start(
        dunlin(&world, "run -it --rm --name shell").arg(&world.image).arg("sh"),
        24,
        80,
    );
    typist.types("echo ready-$((1+1))\n");
    typist.sees("ready-2");
    // The line drops: every descriptor of the master goes, the kernel sends HUP.
    typist.child.kill().unwrap();
    drop(typist);
    wait_for(|| world.cmd("ps -q").run().code == 0);
}

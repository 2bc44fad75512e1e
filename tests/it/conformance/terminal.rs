//! config.md: `terminal` and `consoleSize`; the console socket.

use super::case::{Case, Checks, scene};
use super::scene::{Scene, must};
use dunlin::sys::{socket, tty};
use serde_json::json;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

pub const CASES: &[Case] = &[
    scene("terminal", terminal),
    scene("terminal of exec", terminal_of_exec),
    scene("terminal without a socket", without_socket),
];

/// A socket that takes descriptors, and its path.
pub struct Console {
    listener: UnixListener,
    pub path: String,
}

impl Console {
    pub fn new(scene: &Scene<'_>, name: &str) -> Console {
        let path = scene.beside(name);
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let path = path.to_string_lossy().into_owned();
        Console { listener, path }
    }

    /// The bytes and descriptors that the runtime sent.
    pub fn take(&self) -> (Vec<u8>, Vec<OwnedFd>) {
        let mut taken = None;
        super::scene::until(|| {
            taken = self.listener.accept().ok();
            taken.is_some()
        });
        let Some((stream, _)) = taken else {
            return (Vec::new(), Vec::new());
        };
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut buffer = [0; 8192];
        let (count, fds) = socket::recv_with_fds(stream.as_fd(), &mut buffer).unwrap_or_default();
        (buffer[..count].to_vec(), fds)
    }
}

/// A terminal, with a thread that reads it.
struct Terminal {
    master: OwnedFd,
    heard: Receiver<Vec<u8>>,
}

impl Terminal {
    fn new(master: OwnedFd) -> Terminal {
        let (sender, heard) = channel();
        let mut file = File::from(master.try_clone().unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = file.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Terminal { master, heard }
    }

    /// What it says until `text` comes, or nothing more.
    fn hear(&self, text: &str) -> String {
        let mut heard = String::new();
        while !heard.contains(text) {
            match self.heard.recv_timeout(Duration::from_secs(5)) {
                Ok(part) => heard.push_str(&String::from_utf8_lossy(&part).replace('\r', "")),
                Err(_) => break,
            }
        }
        heard
    }
}

fn terminal(scene: &mut Scene<'_>, checks: &Checks) {
    scene.config["process"]["terminal"] = json!(true);
    scene.config["process"]["consoleSize"] = json!({ "height": 33, "width": 111 });
    scene.script(
        "for fd in 0 1 2; do test -t $fd && echo \"$fd=tty\"; done; echo \"tty=$(tty)\"; echo \"size=$(stty size)\"
         echo \"console=$(stat -c %t:%F /dev/console)\"; echo 'to the console' >/dev/console; echo \"ptmx=$(readlink /dev/ptmx)\"
         test -c /dev/ptmx && echo \"ptmx-is=device\"; echo \"controlling=$(echo x >/dev/tty && echo yes)\"
         grep ' /dev/console ' /proc/self/mountinfo | sed 's/.* - /console-fs=/; s/ .*//'
         echo end; read line; echo \"read=$line\"; sleep 100",
    );
    let console = Console::new(scene, "console");
    checks.works(
        "create with a socket",
        &scene.create_as(&scene.id, &["--console-socket", &console.path]),
    );
    let (_, mut fds) = console.take();
    checks.is("one descriptor comes", fds.len(), 1);
    let master = fds.remove(0);
    checks.holds("it is a terminal", tty::is_terminal(master.as_fd()), &master);
    let terminal = Terminal::new(master);
    must(scene.start());
    let heard = terminal.hear("end\n");
    let seen = super::seen::Seen::new(&heard);
    for fd in ["0", "1", "2"] {
        checks.is(&format!("descriptor {fd}"), seen.get(fd), "tty");
    }
    checks.has("its name", seen.get("tty"), "/dev/");
    checks.is("consoleSize", seen.get("size"), "33 111");
    checks.has("/dev/console is a character device", seen.get("console"), "character");
    checks.is(
        "/dev/console is the terminal, mounted",
        seen.get("console-fs"),
        "devpts",
    );
    checks.has("/dev/console leads to it", &heard, "to the console\n");
    checks.is("/dev/ptmx is a device", seen.get("ptmx-is"), "device");
    checks.is("it is the controlling terminal", seen.get("controlling"), "yes");
    File::from(terminal.master.try_clone().unwrap())
        .write_all(b"typed\n")
        .unwrap();
    checks.has("what is typed is read", &terminal.hear("read=typed\n"), "read=typed\n");
}

fn terminal_of_exec(scene: &mut Scene<'_>, checks: &Checks) {
    scene.started("sleep 100");
    let console = Console::new(scene, "console");
    let script =
        "test -t 0 && test -t 2 && echo \"stdin=tty\"; echo x >/dev/tty && echo \"controlling=yes\"; echo end; sleep 1";
    let args = [
        "exec",
        "--tty",
        "--detach",
        "--console-socket",
        &console.path,
        &scene.id,
        "/bin/sh",
        "-c",
        script,
    ];
    checks.works(
        "works",
        &scene.call_through("exec \"$@\" >\"$OUT\" 2>\"$ERR\" </dev/null", &args),
    );
    let (_, fds) = console.take();
    checks.is("one descriptor comes", fds.len(), 1);
    let heard = fds.into_iter().next().map(|master| Terminal::new(master).hear("end\n"));
    let seen = super::seen::Seen::new(&heard.unwrap_or_default());
    checks.is("it is a terminal", seen.get("stdin"), "tty");
    checks.is("it is the controlling terminal", seen.get("controlling"), "yes");
}

fn without_socket(scene: &mut Scene<'_>, checks: &Checks) {
    scene.script("echo ran");
    let console = Console::new(scene, "console");
    let out = scene.create_as(&scene.id, &["--console-socket", &console.path]);
    checks.fails("a socket without a terminal is refused", &out);
    must(scene.delete());
    scene.config["process"]["terminal"] = json!(true);
    checks.fails("create of a terminal without a socket is refused", &scene.create());
    must(scene.delete());
    let out = scene.create_as(&scene.id, &["--console-socket", "/nowhere/socket"]);
    checks.fails("a socket that is not there is refused", &out);
}

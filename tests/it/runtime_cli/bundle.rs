//! A bundle with a busybox, and the command line on it, as root or as a user.

use std::fs;
use std::io::{IoSliceMut, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::{Value, json};

use crate::fixture::arch::Arch;
use crate::fixture::cmd::{Cmd, Out, dunlin};
use crate::fixture::scratch::Scratch;
use crate::fixture::user::User;

/// Programs of the image.
const PROGRAMS: [&str; 18] = [
    "sh", "true", "false", "sleep", "cat", "ls", "id", "mount", "echo", "env", "hostname", "readlink", "head", "wc",
    "mknod", "test", "kill", "grep",
];

/// A bundle and the folder of states that its commands use.
pub struct Bundle {
    scratch: Scratch,
    user: Option<User>,
    program: PathBuf,
}

/// A command on a bundle.
pub struct Line(Cmd);

/// Makes a root file system with a busybox.
pub fn fill(rootfs: &Path) {
    fs::create_dir_all(rootfs.join("bin")).unwrap();
    for folder in ["proc", "dev", "sys", "tmp", "etc"] {
        fs::create_dir_all(rootfs.join(folder)).unwrap();
    }
    crate::fixture::cmd::copy_program(Arch::host().busybox(), &rootfs.join("bin/busybox"));
    for name in PROGRAMS {
        symlink("busybox", rootfs.join("bin").join(name)).unwrap();
    }
}

impl Bundle {
    /// Root's, with the template's namespaces.
    pub fn of_root(topic: &str) -> Bundle {
        Bundle::make(Scratch::new(topic), None)
    }

    /// A user's, with one id and the user's own network.
    pub fn of_user(topic: &str, user: User) -> Bundle {
        Bundle::make(Scratch::owned_by(topic, user.uid()), Some(user))
    }

    fn make(scratch: Scratch, user: Option<User>) -> Bundle {
        fill(&scratch.join("b/rootfs"));
        if let Some(user) = &user {
            user.give(&scratch.join("b"));
        }
        let bundle = Bundle {
            scratch,
            user,
            program: dunlin(),
        };
        let mut spec = vec!["spec"];
        spec.extend(bundle.user.as_ref().map(|_| "--rootless"));
        bundle.command(&spec).arg("-b").arg(bundle.path()).ok();
        bundle.edit(|spec| {
            spec["process"]["terminal"] = false.into();
            spec["root"]["readonly"] = false.into();
            spec["process"]["rlimits"] = serde_json::json!([]);
        });
        bundle
    }

    pub fn path(&self) -> PathBuf {
        self.scratch.join("b")
    }

    pub fn root(&self) -> PathBuf {
        self.scratch.join("states")
    }

    /// Gives a file to the one whose bundle it is.
    pub fn give(&self, path: &Path) {
        if let Some(user) = &self.user {
            user.give(path);
        }
    }

    /// Whether it is root's.
    pub fn is_roots(&self) -> bool {
        self.user.is_none()
    }

    /// A file beside the bundle.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// From now on a copy of the binary that belongs to the user is the one that runs; its path.
    pub fn own_program(&mut self) -> PathBuf {
        let copy = self.beside("dunlin");
        crate::fixture::cmd::copy_program(&self.program, &copy);
        if let Some(user) = &self.user {
            user.give(&copy);
        }
        self.program = copy.clone();
        copy
    }

    /// A folder beside the bundle that everybody may write to, which the container has at `/NAME`.
    pub fn share(&self, name: &str) -> PathBuf {
        let path = self.beside(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let to = format!("/{name}");
        let mount = json!({"destination": to, "type": "bind", "source": path, "options": ["rbind"]});
        self.edit(|spec| spec["mounts"].as_array_mut().unwrap().push(mount));
        path
    }

    /// Root's next container gets a control group that no other test has.
    pub fn place(&self, id: &str) {
        if self.is_roots() {
            let name = self.unique();
            self.edit(|spec| spec["linux"]["cgroupsPath"] = json!(format!("/{name}-{id}")));
        }
    }

    /// `run` in the foreground.
    pub fn run_once(&self, id: &str) -> Out {
        self.place(id);
        self.command(&["run", "-b"]).arg(self.path()).arg(id).run()
    }

    /// Runs a script in the background.
    pub fn detach(&self, id: &str, script: &str) {
        self.edit(|spec| spec["process"]["args"] = json!(["sh", "-c", script]));
        self.place(id);
        self.command(&["run", "-d", "-b"]).arg(self.path()).arg(id).ok();
    }

    /// A name that no other test has.
    pub fn unique(&self) -> String {
        self.scratch.path().file_name().unwrap().to_string_lossy().into_owned()
    }

    pub fn edit(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path().join("config.json");
        let mut spec = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut spec);
        fs::write(&path, spec.to_string()).unwrap();
    }

    pub fn global(&self, options: &[&str], args: &[&str]) -> Cmd {
        let cmd = Cmd::new(&self.program)
            .args(["runtime", "--root"])
            .arg(self.root())
            .args(options)
            .args(args);
        self.as_owner(cmd)
    }

    /// A command as the one whose bundle it is.
    pub fn as_owner(&self, cmd: Cmd) -> Cmd {
        match &self.user {
            Some(user) => cmd.user(user),
            None => cmd,
        }
    }

    pub fn command(&self, args: &[&str]) -> Cmd {
        self.global(&[], args)
    }

    pub fn run(&self, args: &[&str]) -> Line {
        Line(self.command(args))
    }

    pub fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.run(&["state", id]).ok()).unwrap()
    }

    /// What a first process that sends itself KILL ends with: nothing, since it is shielded, and so with the shell's code.
    pub fn signal_code(&self) -> i32 {
        0
    }

    /// What is left in the folder of states.
    pub fn left(&self) -> Vec<PathBuf> {
        fs::read_dir(self.root())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect()
    }
}

impl Line {
    pub fn arg(self, arg: &str) -> Line {
        Line(self.0.arg(arg))
    }

    pub fn arg_path(self, path: impl AsRef<Path>) -> Line {
        Line(self.0.arg(path.as_ref()))
    }

    pub fn ok(self) -> String {
        self.0.ok()
    }

    /// Its output, if it ends with this code.
    pub fn code(self, code: i32) -> String {
        self.0.run().expect(code).stdout.trim_end().to_owned()
    }

    pub fn fails_with(self, code: i32, text: &str) {
        self.0.run().expect(code).says(&[text]);
    }
}

/// The descriptor that comes over a stream.
pub fn receive(stream: &UnixStream) -> OwnedFd {
    let mut bytes = [0; 4096];
    let mut space = nix::cmsg_space!([i32; 1]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty()).unwrap();
    assert!(message.bytes > 0, "a name comes with it");
    for control in message.cmsgs().unwrap() {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel has just made it for us.
            return unsafe { OwnedFd::from_raw_fd(fds[0]) };
        }
    }
    panic!("no descriptor came");
}

/// What a terminal says up to the end of the first line.
pub fn read_line(master: OwnedFd) -> String {
    let mut file = fs::File::from(master);
    let mut said = Vec::new();
    let mut byte = [0];
    while said.last() != Some(&b'\n') && file.read(&mut byte).is_ok_and(|count| count == 1) {
        said.push(byte[0]);
    }
    String::from_utf8(said).unwrap()
}

//! A bundle of its own for each case, the runtime's commands on it, and the end of everything that it started.

use crate::fixture::arch::Arch;
use crate::fixture::cmd::{Cmd, Out};
use crate::fixture::scratch::Scratch;
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Until a container's script has done what it does at once.
const WAIT: Duration = Duration::from_secs(10);

/// A runtime under test.
pub struct Runtime {
    pub name: &'static str,
    /// The program and what comes before runc's arguments.
    pub line: Vec<OsString>,
}

/// A case's surroundings. Containers still there at the end are deleted.
pub struct Scene<'a> {
    runtime: &'a Runtime,
    scratch: Scratch,
    bundle: PathBuf,
    /// What config.json will hold at `create` or `run`.
    pub config: Value,
    /// The container's id; a case may have others.
    pub id: String,
    ids: RefCell<BTreeSet<String>>,
    calls: Cell<u32>,
}

impl<'a> Scene<'a> {
    /// A bundle with busybox, and a configuration as `runc spec` gives it, with more capabilities.
    pub fn new(runtime: &'a Runtime) -> Self {
        let scratch = Scratch::new(&format!("conf-{}", runtime.name));
        let bundle = scratch.folder("bundle");
        for name in ["bin", "proc", "sys", "dev", "tmp", "etc"] {
            scratch.folder(&format!("bundle/rootfs/{name}"));
        }
        fs::copy(Arch::host().busybox(), bundle.join("rootfs/bin/busybox")).unwrap();
        symlink("busybox", bundle.join("rootfs/bin/sh")).unwrap();
        scratch.folder("state");
        let id = scratch.path().file_name().unwrap().to_string_lossy().into_owned();
        let config = configuration(&format!("/{id}"));
        Scene {
            runtime,
            scratch,
            bundle,
            config,
            id,
            ids: RefCell::default(),
            calls: Cell::default(),
        }
    }

    /// Another bundle for the same runtime.
    pub fn another(&self) -> Scene<'a> {
        Scene::new(self.runtime)
    }

    /// The bundle.
    pub fn folder(&self) -> &Path {
        &self.bundle
    }

    /// The container's root.
    pub fn rootfs(&self) -> PathBuf {
        self.bundle.join("rootfs")
    }

    /// A file beside the bundle.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// The runtime, before its command.
    pub fn runtime(&self) -> Cmd {
        let line = &self.runtime.line;
        let cmd = Cmd::new(&line[0])
            .args(&line[1..])
            .arg("--root")
            .arg(self.scratch.join("state"));
        cmd.timeout(Duration::from_secs(30)).dir(self.scratch.path())
    }

    /// The runtime with arguments, run to its end. What it says goes through files, which cannot be cut off.
    pub fn call(&self, args: &[&str]) -> Out {
        let number = self.calls.get();
        self.calls.set(number + 1);
        let (stdout, stderr) = (format!("call-{number}.out"), format!("call-{number}.err"));
        let shell = format!("exec \"$@\" >\"$BESIDE/{stdout}\" 2>\"$BESIDE/{stderr}\" </dev/null");
        let mut out = self.through(&shell, args);
        out.stdout = self.said(&stdout);
        out.stderr = self.said(&stderr);
        out
    }

    /// The runtime through a shell, which may open files: `$@` is the runtime with these arguments. `OUT` collects the
    /// output of what stays, `ERR` holds the errors of this call.
    pub fn call_through(&self, shell: &str, args: &[&str]) -> Out {
        let mut out = self.through(shell, args);
        out.stderr.push_str(&self.said("err"));
        out
    }

    fn through(&self, shell: &str, args: &[&str]) -> Out {
        Cmd::new("/bin/sh")
            .args(["-c", shell, "sh"])
            .args(&self.runtime.line)
            .arg("--root")
            .arg(self.scratch.join("state"))
            .args(args)
            .env("OUT", self.scratch.join("out"))
            .env("ERR", self.scratch.join("err"))
            .env("BESIDE", self.scratch.path())
            .timeout(Duration::from_secs(30))
            .dir(self.scratch.path())
            .run()
    }

    /// A file beside the bundle, as text.
    fn said(&self, name: &str) -> String {
        let bytes = fs::read(self.scratch.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Sets the script that the container runs.
    pub fn script(&mut self, script: &str) {
        self.config["process"]["args"] = json!(["/bin/sh", "-c", script]);
    }

    /// Writes config.json as it stands, for a container that [`Scene::end`] deletes.
    pub fn write_config(&self) {
        self.ids.borrow_mut().insert(self.id.clone());
        fs::write(self.bundle.join("config.json"), self.config.to_string()).unwrap();
    }

    /// `create` under an id; the container's output goes to a file.
    pub fn create_as(&self, id: &str, more: &[&str]) -> Out {
        self.write_config();
        self.launch("create", id, more)
    }

    /// `create` or `run` without writing config.json.
    pub fn launch(&self, verb: &str, id: &str, more: &[&str]) -> Out {
        // `delete --force` of a path would delete what is there.
        if !id.is_empty() && !id.contains(['/', '.']) || id.starts_with("A.b") {
            self.ids.borrow_mut().insert(id.to_owned());
        }
        let bundle = self.bundle.to_string_lossy().into_owned();
        let args = [&[verb, "--bundle", &bundle], more, &[id]].concat();
        self.call_through("exec \"$@\" >>\"$OUT\" 2>\"$ERR\" </dev/null", &args)
    }

    /// `create`.
    pub fn create(&self) -> Out {
        self.create_as(&self.id, &[])
    }

    /// `create`, which must work.
    pub fn created(&self) {
        must(self.create());
    }

    /// `create` and `start` of a script, which must work.
    pub fn started(&mut self, script: &str) {
        self.script(script);
        self.created();
        must(self.start());
    }

    pub fn start(&self) -> Out {
        self.call(&["start", &self.id])
    }

    /// Runs a script in the foreground.
    pub fn run(&mut self, script: &str) -> Out {
        self.script(script);
        self.run_with(&[])
    }

    /// `run` in the foreground with the configuration as it stands and further options.
    pub fn run_with(&self, more: &[&str]) -> Out {
        self.write_config();
        self.ids.borrow_mut().insert(self.id.clone());
        let bundle = self.bundle.to_string_lossy().into_owned();
        self.call(&[&["run", "--bundle", &bundle], more, &[&self.id]].concat())
    }

    /// `exec` of a script.
    pub fn exec(&self, options: &[&str], script: &str) -> Out {
        let args = [&["exec"], options, &[&self.id, "/bin/sh", "-c", script]].concat();
        self.call(&args)
    }

    /// `state`, which must work.
    pub fn state(&self) -> Value {
        let out = must(self.call(&["state", &self.id]));
        serde_json::from_str(&out.stdout).unwrap_or_else(|error| panic!("state is no JSON: {error}: {}", out.stdout))
    }

    /// The status; the exit code of `state` where that fails.
    pub fn status(&self) -> String {
        let out = self.call(&["state", &self.id]);
        let state: Value = serde_json::from_str(&out.stdout).unwrap_or_default();
        match state["status"].as_str() {
            Some(status) if out.code == 0 => status.to_owned(),
            _ => format!("exit code {}", out.code),
        }
    }

    /// The pid that `state` gives.
    pub fn pid(&self) -> u64 {
        self.state()["pid"].as_u64().expect("state has a pid")
    }

    /// The status once it is this, or what it is after a while.
    pub fn awaits(&self, status: &str) -> String {
        until(|| self.status() == status);
        self.status()
    }

    /// The container's output once it contains `text`, or what it is after a while.
    pub fn says(&self, text: &str) -> String {
        self.says_within(text, WAIT)
    }

    /// The same, with a time.
    pub fn says_within(&self, text: &str, wait: Duration) -> String {
        within(wait, || self.output().contains(text));
        self.output()
    }

    /// The output so far of what `create` started.
    pub fn output(&self) -> String {
        self.said("out")
    }

    /// `delete --force`.
    pub fn delete(&self) -> Out {
        self.call(&["delete", "--force", &self.id])
    }

    /// The container's folder in a controller's hierarchy.
    pub fn cgroup(&self, controller: &str) -> PathBuf {
        Path::new("/sys/fs/cgroup").join(controller).join(&self.id)
    }

    /// A file of the container's control group, without its last newline.
    pub fn limit(&self, controller: &str, file: &str) -> String {
        let path = self.cgroup(controller).join(file);
        match fs::read_to_string(&path) {
            Ok(text) => text.trim_end().to_owned(),
            Err(error) => format!("{}: {error}", path.display()),
        }
    }

    /// Folders that control groups of this case still have.
    pub fn cgroups_left(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let path = hierarchy.path().join(&self.id);
            if path.is_dir() {
                found.push(path);
            }
        }
        found
    }

    /// Deletes every container of the case by force.
    pub fn end(&self) {
        for id in self.ids.take() {
            self.call(&["delete", "--force", &id]);
        }
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        } else if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.end())).is_err() {
            eprintln!("`{}`: not deleted", self.id);
        }
        for path in self.cgroups_left() {
            for procs in fs::read_to_string(path.join("cgroup.procs"))
                .iter()
                .flat_map(|text| text.lines())
            {
                procs.parse().map(crate::fixture::child::end).unwrap_or_default();
            }
            until(|| remove_groups(&path));
        }
    }
}

/// Removes a control group with those below it; true when it is gone.
fn remove_groups(path: &Path) -> bool {
    for below in fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_dir())
    {
        remove_groups(&below.path());
    }
    fs::remove_dir(path).is_ok()
}

/// Waits until something holds; false after a while.
pub fn until(holds: impl FnMut() -> bool) -> bool {
    within(WAIT, holds)
}

fn within(wait: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + wait;
    while !holds() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// The output of a command that must work.
pub fn must(out: Out) -> Out {
    out.expect(0)
}

/// A mount for config.json.
pub fn mount(config: &mut Value, destination: &str, kind: &str, source: impl AsRef<Path>, options: &[&str]) {
    let entry = json!({
        "destination": destination,
        "type": kind,
        "source": source.as_ref(),
        "options": options,
    });
    config["mounts"].as_array_mut().expect("has mounts").push(entry);
}

/// Takes a namespace away from config.json.
pub fn without_namespace(config: &mut Value, kind: &str) {
    let spaces = config["linux"]["namespaces"].as_array_mut().expect("has namespaces");
    spaces.retain(|space| space["type"] != kind);
}

/// Adds or replaces a namespace of config.json.
pub fn namespace(config: &mut Value, kind: &str, path: Option<&Path>) {
    without_namespace(config, kind);
    let mut entry = json!({ "type": kind });
    if let Some(path) = path {
        entry["path"] = json!(path);
    }
    config["linux"]["namespaces"]
        .as_array_mut()
        .expect("has namespaces")
        .push(entry);
}

/// All five sets of capabilities.
pub const SETS: [&str; 5] = ["bounding", "effective", "permitted", "inheritable", "ambient"];

fn configuration(cgroup: &str) -> Value {
    let caps = [
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let caps: Vec<String> = caps.iter().map(|name| format!("CAP_{name}")).collect();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": ["/bin/sh"],
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
            "capabilities": { "bounding": caps, "effective": caps, "permitted": caps },
        },
        "root": { "path": "rootfs" },
        "hostname": "conformance",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
              "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs",
              "options": ["nosuid", "noexec", "nodev", "ro"] },
        ],
        "annotations": { "org.example.colour": "blue", "org.example.empty": "" },
        "linux": {
            "cgroupsPath": cgroup,
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
            ],
        },
    })
}

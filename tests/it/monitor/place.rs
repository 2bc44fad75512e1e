//! One container under a real monitor, without keeper and engine: a root with busybox in a scratch folder.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use dunlin::monitor::client::{self, ClientError, Connection, Ended, Ends, Session};
use dunlin::monitor::state::{self, Judgement};
use dunlin::monitor::wire::{self, AttachRequest, ExecRequest, MonitorConfig, Root, StartReport};
use dunlin::runtime::cgroup::{Controller, Host, Tree};
use dunlin::sys::socket;
use dunlin::types::container::{ExitRecord, LogLimits, RestartPolicy, Status};
use dunlin::types::idmap::{Extent, IdMap};
use dunlin::types::ids::ContainerId;
use dunlin::types::limits::Limits;

use crate::fixture::cmd::{copy_program, dunlin};
use crate::fixture::scratch::Scratch;

pub const WAIT: Duration = Duration::from_secs(20);

pub const ATTACH: AttachRequest = AttachRequest {
    stdin: true,
    stdout: true,
    stderr: true,
    foreground: true,
    size: None,
};

/// A container that may be started once.
pub struct Place {
    _scratch: Scratch,
    pub config: MonitorConfig,
    monitor: Option<Child>,
}

impl Place {
    pub fn new(args: &[&str]) -> Place {
        let scratch = Scratch::new("monitor");
        let rootfs = scratch.folder("rootfs");
        busybox_root(&rootfs);
        let bundle = scratch.folder("data/bundle");
        write_bundle(&bundle, args);
        let ids = || {
            vec![Extent {
                inside: 0,
                outside: 0,
                count: 65_536,
            }]
        };
        let config = MonitorConfig {
            version: wire::VERSION,
            id: ContainerId::from_bytes([std::process::id() as u8; 32]),
            name: "place".into(),
            bundle,
            data_dir: scratch.join("data"),
            run_dir: scratch.folder("run"),
            root: Root::Flat(rootfs),
            id_map: IdMap {
                uids: ids(),
                gids: ids(),
            },
            user: String::new(),
            tree: Tree::None {
                why: "a test".into(),
                fix: "none".into(),
            },
            limits: Limits::default(),
            asked: Vec::new(),
            tty: None,
            stdin: false,
            log: LogLimits::default(),
            health: None,
            restart: RestartPolicy::No,
            stop_signal: 15,
            stop_timeout_ms: 10_000,
            host_network: false,
            cleanup: Vec::new(),
        };
        Place {
            _scratch: scratch,
            config,
            monitor: None,
        }
    }

    pub fn with(mut self, change: impl FnOnce(&mut MonitorConfig)) -> Place {
        change(&mut self.config);
        self
    }

    /// Starts the monitor, which may be handed a session; how that went.
    pub fn start_with(&mut self, session: Option<OwnedFd>) -> StartReport {
        let (ours, theirs) = socket::pair().unwrap();
        let monitor = Command::new(dunlin())
            .args(["monitor", "--fd", "0"])
            .stdin(Stdio::from(theirs))
            .spawn()
            .unwrap();
        self.monitor = Some(monitor);
        let packet = wire::encode(&self.config).unwrap();
        let fds: Vec<_> = session.iter().map(AsFd::as_fd).collect();
        socket::send_with_fds(ours.as_fd(), &packet, &fds).unwrap();
        drop(session);
        assert!(socket::wait_readable(ours.as_fd(), WAIT).unwrap(), "no start report");
        let mut buffer = vec![0; wire::PACKET_BYTES];
        let got = socket::recv(ours.as_fd(), &mut buffer).unwrap();
        wire::decode(&buffer[..got]).unwrap()
    }

    /// Starts it; panics when that fails.
    pub fn start(mut self) -> Place {
        match self.start_with(None) {
            StartReport::Started { .. } => self,
            StartReport::Failed(refusal) => panic!("not started: {refusal}"),
        }
    }

    /// Starts it with a foreground session.
    pub fn run(mut self) -> (Place, Session) {
        let (session, theirs) = client::prepare_attach(ATTACH, &self.config.run_dir).unwrap();
        match self.start_with(Some(theirs)) {
            StartReport::Started { .. } => (self, session),
            StartReport::Failed(refusal) => panic!("not started: {refusal}"),
        }
    }

    pub fn connect(&self) -> Connection {
        client::connect(&self.config.run_dir).unwrap()
    }

    pub fn connect_error(&self) -> ClientError {
        client::connect(&self.config.run_dir).unwrap_err()
    }

    pub fn judge(&self) -> Judgement {
        state::judge(&self.config.run_dir, &self.config.data_dir).unwrap()
    }

    pub fn monitor_pid(&self) -> u32 {
        self.monitor.as_ref().unwrap().id()
    }

    /// Waits for the monitor's end; its exit record.
    pub fn wait(&mut self) -> ExitRecord {
        self.wait_gone();
        let judged = self.judge();
        assert_eq!(judged.status, Status::Exited);
        judged.exit.unwrap()
    }

    pub fn wait_gone(&mut self) {
        let monitor = self.monitor.as_mut().unwrap();
        let end = Instant::now() + WAIT;
        while monitor.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "the monitor does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn kill_monitor(&mut self) {
        self.monitor.as_mut().unwrap().kill().unwrap();
        self.monitor.as_mut().unwrap().wait().unwrap();
    }

    /// Waits until `found` says yes.
    pub fn until(&self, what: &str, mut found: impl FnMut(&Place) -> bool) {
        let end = Instant::now() + WAIT;
        while !found(self) {
            assert!(Instant::now() < end, "never: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The text of the logs, oldest first.
    pub fn logs(&self) -> String {
        let files = dunlin::monitor::log::files(&self.config.data_dir.join(wire::LOG));
        files
            .iter()
            .map(|path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned())
            .collect()
    }

    /// Runs a program in it: exit code, standard output, standard error.
    pub fn exec(&self, request: ExecRequest, input: &[u8]) -> Result<(i32, Vec<u8>, Vec<u8>), ClientError> {
        let mut session = self.connect().exec(request)?;
        collect(&mut session, input)
    }

    pub fn sh(&self, script: &str) -> (i32, String, String) {
        let request = ExecRequest {
            args: sh(script),
            ..ExecRequest::default()
        };
        let (code, out, err) = self.exec(request, b"").unwrap();
        (
            code,
            String::from_utf8_lossy(&out).into_owned(),
            String::from_utf8_lossy(&err).into_owned(),
        )
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(monitor) = &mut self.monitor {
            let _ = monitor.kill();
            let _ = monitor.wait();
        }
    }
}

pub fn sh(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(String::from).to_vec()
}

/// Sends all input and takes all output of a session.
pub fn collect(session: &mut Session, input: &[u8]) -> Result<(i32, Vec<u8>, Vec<u8>), ClientError> {
    let (mut in_read, in_write) = pipe();
    let (out_read, out_write) = pipe();
    let (err_read, err_write) = pipe();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            use std::io::Write;
            let mut to = fs::File::from(in_write);
            let _ = to.write_all(input);
        });
        let read = |from: OwnedFd| {
            move || {
                use std::io::Read;
                let mut all = Vec::new();
                fs::File::from(from).read_to_end(&mut all).unwrap();
                all
            }
        };
        let (out, err) = (scope.spawn(read(out_read)), scope.spawn(read(err_read)));
        let ends = Ends {
            stdin: Some(in_read.as_fd()),
            stdout: Some(out_write.as_fd()),
            stderr: Some(err_write.as_fd()),
            ..Ends::default()
        };
        let ended = session.relay(&ends);
        drop((out_write, err_write));
        // The writer may still have something.
        in_read = pipe().0;
        drop(in_read);
        let (out, err) = (out.join().unwrap(), err.join().unwrap());
        match ended? {
            Ended::Exited { code, .. } => Ok((code, out, err)),
            other => panic!("{other:?}"),
        }
    })
}

fn pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = std::io::pipe().unwrap();
    (reader.into(), writer.into())
}

fn busybox_root(rootfs: &Path) {
    for dir in ["bin", "dev", "proc", "sys", "tmp", "etc", "www"] {
        fs::create_dir_all(rootfs.join(dir)).unwrap();
    }
    copy_program("/bin/busybox", &rootfs.join("bin/busybox"));
    for applet in [
        "sh", "cat", "echo", "sleep", "stty", "nc", "httpd", "true", "false", "ps", "kill", "ls", "id", "dd", "yes",
        "grep", "head",
    ] {
        symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
    }
}

fn write_bundle(bundle: &Path, args: &[&str]) {
    let mount = |target: &str, kind: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": kind, "options": options});
    let namespaces: Vec<_> = ["user", "pid", "network", "ipc", "uts", "mount", "cgroup"]
        .iter()
        .map(|kind| json!({"type": kind}))
        .collect();
    let caps = [
        "CAP_CHOWN",
        "CAP_KILL",
        "CAP_SETUID",
        "CAP_SETGID",
        "CAP_NET_BIND_SERVICE",
    ];
    let spec = json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": args, "env": ["PATH=/bin"],
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
        },
        "root": {"path": "rootfs"},
        "hostname": "place",
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {"namespaces": namespaces},
    });
    fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
}

/// Descriptors and children of a process.
pub fn counts(pid: u32) -> (usize, usize) {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    (fds, children.split_whitespace().count())
}

/// Groups of our own in the host's real v1 hierarchies, removed at the end.
pub struct RealGroups {
    pub tree: Tree,
}

impl RealGroups {
    /// None where the caller may make none, or the host has no v1.
    pub fn new() -> Option<RealGroups> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let host = Host::read(0).ok()?;
        let Tree::V1 { roots, gaps } = Tree::detect(&host, &format!("dunlin-mon-{}-{number}", std::process::id()))
        else {
            return None;
        };
        let wanted = [Controller::Memory, Controller::Pids, Controller::Freezer];
        let roots: Vec<_> = roots
            .into_iter()
            .filter(|(controller, _)| wanted.contains(controller))
            .collect();
        for (_, root) in &roots {
            fs::create_dir(root)
                .or_else(|error| if root.is_dir() { Ok(()) } else { Err(error) })
                .ok()?;
        }
        Some(RealGroups {
            tree: Tree::V1 { roots, gaps },
        })
    }
}

impl Drop for RealGroups {
    fn drop(&mut self) {
        for root in self.tree.roots() {
            let _ = fs::remove_dir(root);
        }
    }
}

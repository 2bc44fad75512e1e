//! One container in a [`super::store`], run through the library's own calls.

use super::store::Inside;
use dunlin::disk::layout::Layout;
use dunlin::runtime::create::{self, Created};
use dunlin::runtime::error::RuntimeError;
use dunlin::runtime::exec;
use dunlin::runtime::launch::{ExecLaunch, ExecProcess, Extra, Launch, Rootfs, Stdio};
use dunlin::runtime::spec::{self, HostFacts};
use dunlin::runtime::{defaults, etc};
use dunlin::sys::process;
use dunlin::sys::socket;
use dunlin::sys::tty::WindowSize;
use dunlin::types::container::{
    ContainerRecord, ContainerSpec, Extras, LogLimits, Mount, MountSource, Network, RestartPolicy, Seccomp,
};
use dunlin::types::digest::Digest;
use dunlin::types::limits::Limits;
use dunlin::types::network::Wiring;
use dunlin::types::oci::runtime::Spec;
use dunlin::types::time::Unix;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a container may run here.
const PATIENCE: Duration = Duration::from_secs(30);

/// A container that can be run, and executed in.
pub struct Container<'a> {
    inside: &'a Inside,
    pub spec: Spec,
    pub user: String,
    pub rootfs: Rootfs,
    pub bundle: PathBuf,
}

/// How a process has ended, and what it wrote.
#[derive(Debug, PartialEq, Eq)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A container's first process that was started.
pub struct Running<'a> {
    container: &'a Container<'a>,
    pub created: Created,
    out: Option<Files>,
}

/// What shell scripts want: a container that runs one.
pub fn script(text: &str) -> impl FnOnce(&mut ContainerSpec) {
    let args = ["/bin/sh", "-c", text].map(str::to_owned).to_vec();
    move |spec| spec.args = args
}

/// A bind mount of the user's.
pub fn bind(source: &std::path::Path, target: &str, options: &[&str]) -> Mount {
    Mount {
        source: MountSource::Bind(source.to_string_lossy().into_owned()),
        target: target.to_owned(),
        read_only: false,
        options: options.iter().map(|&option| option.to_owned()).collect(),
    }
}

impl Inside {
    /// A container of the image with podman's defaults and these changes.
    pub fn container(&self, change: impl FnOnce(&mut ContainerSpec)) -> Container<'_> {
        let number = fs::read_dir(&self.dir).expect("store").count();
        let id = format!("{number:064x}");
        let mut record = record(&id);
        change(&mut record.spec);
        let layout = Layout::new(&self.dir, self.dir.join("run"));
        let bundle = layout.bundle(&record.id);
        fs::create_dir_all(&bundle).expect("bundle");
        // Counted above, so that the next container has another number.
        fs::create_dir(self.dir.join(&id[60..])).expect("number");
        let host = HostFacts {
            id_map: self.map.clone(),
            ..HostFacts::new(&self.map)
        };
        for (name, text) in etc::files(&record, &host) {
            fs::write(bundle.join(name), text).expect("bundle");
        }
        let dir = |name: &str| {
            let path = bundle.join(name);
            fs::create_dir(&path).expect("bundle");
            path
        };
        let (upper, work, target) = (dir("upper"), dir("work"), dir("rootfs"));
        let rootfs = Rootfs::Overlay {
            lowers: vec![self.image()],
            upper,
            work,
            target,
            volatile: false,
        };
        let spec = spec::build(&record, None, &host, &layout).expect("a bundle");
        Container {
            inside: self,
            spec,
            user: record.spec.user,
            rootfs,
            bundle,
        }
    }

    /// Runs a script in a container with these changes.
    pub fn run(&self, text: &str, change: impl FnOnce(&mut ContainerSpec)) -> Output {
        let container = self.container(|spec| {
            script(text)(spec);
            change(spec);
        });
        container.run().unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Container<'_> {
    /// Creates it with these streams.
    pub fn create(&self, stdio: Stdio) -> Result<Created, RuntimeError> {
        create::create(Launch {
            spec: &self.spec,
            bundle: &self.bundle,
            rootfs: self.rootfs.clone(),
            id_map: Some(self.inside.map.clone()),
            cgroup: None,
            user: Some(&self.user),
            filter: None,
            stdio,
            die_with_parent: true,
            sibling: false,
            extra: Extra::default(),
        })
    }

    /// Creates and starts it.
    pub fn start(&self) -> Result<Running<'_>, RuntimeError> {
        let (stdio, out) = files(&self.bundle);
        let mut created = self.create(stdio)?;
        match created.start() {
            Ok(()) => Ok(Running {
                container: self,
                created,
                out: Some(out),
            }),
            Err(error) => {
                process::wait(created.pidfd.as_fd()).expect("it has ended");
                Err(error)
            }
        }
    }

    /// Runs it to its end.
    pub fn run(&self) -> Result<Output, RuntimeError> {
        Ok(self.start()?.finish())
    }
}

impl Running<'_> {
    /// Waits for its end.
    pub fn finish(mut self) -> Output {
        let code = end(self.created.pidfd.as_fd());
        self.out.take().expect("once").output(code)
    }

    /// Waits until it has written this.
    pub fn wait_for(&self, text: &str) {
        let since = Instant::now();
        let out = self.out.as_ref().expect("not finished");
        while !out.stdout().contains(text) {
            assert!(since.elapsed() < PATIENCE, "no `{text}` in {:?}", out.stdout());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends it.
    pub fn kill(self) {
        process::send_signal(self.created.pidfd.as_fd(), 9).expect("kill");
        end(self.created.pidfd.as_fd());
    }

    /// Runs a process in it, from a process of its own, as a monitor does; nothing is changed but the arguments and, if
    /// given, the user.
    pub fn exec(&self, args: &[&str], user: Option<&str>) -> Result<Output, RuntimeError> {
        let (stdio, out) = files(&self.container.bundle);
        let process = self.exec_with(args, user, stdio)?;
        let code = end(process.pidfd.as_fd());
        Ok(out.output(code))
    }

    /// The same with a terminal.
    pub fn exec_terminal(&self, args: &[&str]) -> Result<(ExecProcess, OwnedFd), RuntimeError> {
        let size = Some(WindowSize { rows: 30, cols: 100 });
        let mut process = self.exec_with(args, None, Stdio::Terminal { size })?;
        let console = process.console.take().expect("a terminal was asked for");
        Ok((process, console))
    }

    fn exec_with(&self, args: &[&str], user: Option<&str>, stdio: Stdio) -> Result<ExecProcess, RuntimeError> {
        let tty = matches!(stdio, Stdio::Terminal { .. });
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let process = spec::exec_process(&self.container.spec, &args, &[], None, user, tty);
        let launch = ExecLaunch {
            pid: self.created.pid,
            pidfd: self.created.pidfd.as_fd(),
            spec: &self.container.spec,
            id_map: Some(&self.container.inside.map),
            cgroup: None,
            process: &process,
            user: Some(user.unwrap_or(&self.container.user)),
            filter: None,
            stdio,
            die_with_parent: true,
            sibling: true,
            state: None,
            kept_fds: 0,
        };
        in_disposable_child(launch)
    }
}

/// Calls exec in a child, whose sibling the new process becomes, and gets the result back over a socket.
fn in_disposable_child(launch: ExecLaunch<'_>) -> Result<ExecProcess, RuntimeError> {
    let (ours, theirs) = socket::pair().expect("sockets");
    match process::clone(&process::CloneArgs::default()).expect("clone") {
        process::Cloned::Child => {
            let done = exec::exec(launch);
            let error = done.as_ref().err().cloned();
            let pid = done.as_ref().map_or(0, |process| process.pid);
            let bytes = postcard::to_allocvec(&(pid, error)).expect("packs");
            let mut fds = Vec::new();
            if let Ok(process) = &done {
                fds.push(process.pidfd.as_fd());
                fds.extend(process.console.as_ref().map(|fd| fd.as_fd()));
            }
            socket::send_with_fds(theirs.as_fd(), &bytes, &fds).expect("sends");
            process::exit_now(0)
        }
        process::Cloned::Parent(child) => {
            drop((theirs, launch));
            let mut buffer = vec![0; 32 << 10];
            let (length, fds) = socket::recv_with_fds(ours.as_fd(), &mut buffer).expect("receives");
            process::wait(child.pidfd.as_fd()).expect("waits");
            let (pid, error): (i32, Option<RuntimeError>) = postcard::from_bytes(&buffer[..length]).expect("unpacks");
            let mut fds = fds.into_iter();
            match error {
                Some(error) => {
                    // As long as nobody has waited for a process that has failed in it, a pid namespace cannot end.
                    let made = !matches!(error, RuntimeError::Join { .. });
                    while made && process::try_wait_any().expect("waits").is_none() {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Err(error)
                }
                None => Ok(ExecProcess {
                    pid,
                    pidfd: fds.next().expect("pidfd"),
                    console: fds.next(),
                }),
            }
        }
    }
}

/// Waits for the end of a child; its code as shells give it.
pub fn end(pidfd: std::os::fd::BorrowedFd<'_>) -> i32 {
    assert!(socket::wait_readable(pidfd, PATIENCE).expect("poll"), "it does not end");
    process::wait(pidfd).expect("wait").code()
}

struct Files {
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Files {
    fn stdout(&self) -> String {
        fs::read_to_string(&self.stdout).expect("text")
    }

    fn output(self, code: i32) -> Output {
        Output {
            code,
            stdout: self.stdout(),
            stderr: fs::read_to_string(&self.stderr).expect("text"),
        }
    }
}

fn files(dir: &std::path::Path) -> (Stdio, Files) {
    let number = fs::read_dir(dir).expect("bundle").count();
    let (stdout, stderr) = (dir.join(format!("out{number}")), dir.join(format!("err{number}")));
    let make = |path: &PathBuf| OwnedFd::from(File::create(path).expect("file"));
    let stdio = Stdio::Streams {
        stdin: None,
        stdout: Some(make(&stdout)),
        stderr: Some(make(&stderr)),
    };
    (stdio, Files { stdout, stderr })
}

fn record(id: &str) -> ContainerRecord {
    ContainerRecord {
        id: id.parse().expect("an id"),
        name: "web".to_owned(),
        created: Unix(0),
        image: Digest::of(b"image"),
        image_name: "image".to_owned(),
        manifest: None,
        spec: ContainerSpec {
            args: vec!["/bin/true".to_owned()],
            env: Vec::new(),
            workdir: "/".to_owned(),
            user: String::new(),
            hostname: String::new(),
            tty: false,
            stdin: false,
            mounts: Vec::new(),
            network: Network::None,
            read_only: false,
            limits: Limits::default(),
            asked: Vec::new(),
            capabilities: defaults::CAPABILITIES.map(str::to_owned).to_vec(),
            no_new_privs: true,
            seccomp: Seccomp::Default,
            devices: Vec::new(),
            sysctls: BTreeMap::new(),
            rlimits: Vec::new(),
            extra_hosts: Vec::new(),
            stop_signal: 15,
            stop_timeout: 10,
            restart: RestartPolicy::No,
            auto_remove: false,
            health: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            log: LogLimits::default(),
        },
        not_enforced: Vec::new(),
        wiring: Wiring::default(),
        extras: Extras::default(),
    }
}

//! What a caller hands over to have a container or a process made, beside the OCI bundle, and what it gets back.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::cgroup::Handle;
use super::hooks::HookState;
use super::seccomp::Program;
use crate::sys::tty::WindowSize;
use crate::types::idmap::IdMap;
use crate::types::oci::runtime::{Process, Spec};

/// A container to be made by [`super::create::create`].
#[derive(Debug)]
pub struct Launch<'a> {
    /// The bundle's `config.json`. Only what it says is done; its `root.path` and id mappings give way to the fields here.
    pub spec: &'a Spec,
    /// Directory that relative sources of bind mounts are below.
    pub bundle: &'a Path,
    /// Where its files come from.
    pub rootfs: Rootfs,
    /// The ids of the container's new user namespace, as the one of the caller sees them on the outside; none where the
    /// specification asks for no new one.
    pub id_map: Option<IdMap>,
    /// A group that exists already; none: the process stays in the caller's.
    pub cgroup: Option<&'a Handle>,
    /// `USER[:GROUP]` by name or number, looked up inside the root; none: the numbers of `process.user` stand.
    pub user: Option<&'a str>,
    /// The compiled filter of `linux.seccomp`; none: it is compiled.
    pub filter: Option<&'a Program>,
    /// Its first three descriptors.
    pub stdio: Stdio,
    /// The kernel kills the container when its parent ends.
    pub die_with_parent: bool,
    /// The container's first process becomes a child of the caller's parent, so that the caller may be a process that
    /// ends soon; then the caller cannot wait for it. The parent must wait for every child, also for one that has failed
    /// and that nobody told it of: a container cannot end while an unawaited process is left in its pid namespace.
    pub sibling: bool,
    /// What only callers of the command line ask for.
    pub extra: Extra,
}

/// What callers of runc's command line ask for beside the bundle.
#[derive(Debug, Default)]
pub struct Extra {
    /// What hooks and a listener of the filter are told about the container; needed where there are any.
    pub hooks: Option<HookState>,
    /// A listener that the container's first process waits at for the start, so that the caller may end before; it is then
    /// started by [`super::create::start_at`]. None: [`super::create::Created::start`] starts it.
    pub start: Option<OwnedFd>,
    /// How many descriptors from number 3 on the program gets.
    pub kept_fds: u16,
    /// Further descriptors that the program gets, from the number after those on.
    pub sockets: Vec<OwnedFd>,
    /// The root is moved to `/` instead of pivoted to, for callers on an initramfs.
    pub no_pivot: bool,
    /// Name of a new session keyring; none: the caller's stays.
    pub keyring: Option<String>,
}

/// Where a root file system comes from. Paths are absolute, in the caller's mount namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rootfs {
    /// Layers and a writable directory (overlayfs).
    Overlay {
        /// Directories of the layers, topmost first.
        lowers: Vec<PathBuf>,
        /// The writable layer.
        upper: PathBuf,
        /// overlayfs's work directory, on the same file system as `upper`.
        work: PathBuf,
        /// An existing directory to mount it on; seen mounted by the container's first process only.
        target: PathBuf,
        /// The writable layer is thrown away with the container: nothing of it is forced to the disk, which the kernel
        /// otherwise does with its whole file system when the container ends (Linux 5.10).
        volatile: bool,
    },
    /// A plain directory.
    Flat(PathBuf),
}

/// The first three descriptors of a process.
#[derive(Debug)]
pub enum Stdio {
    /// The process's ends of pipes, sockets or files; none is `/dev/null`. Pipes and sockets are given to the
    /// process's user, so that it can open them again through `/dev/stdout`.
    Streams {
        /// Standard input.
        stdin: Option<OwnedFd>,
        /// Standard output.
        stdout: Option<OwnedFd>,
        /// Standard error.
        stderr: Option<OwnedFd>,
    },
    /// A new terminal of the container's own devpts; its master is handed back.
    Terminal {
        /// Its first size.
        size: Option<WindowSize>,
    },
}

/// A process that shall join a running container by [`super::exec::exec`].
#[derive(Debug)]
pub struct ExecLaunch<'a> {
    /// The container's first process, for messages.
    pub pid: i32,
    /// The same.
    pub pidfd: BorrowedFd<'a>,
    /// The container's `config.json`: its namespaces and its filter also hold for the new process.
    pub spec: &'a Spec,
    /// The container's ids, as its [`Launch`] had them.
    pub id_map: Option<&'a IdMap>,
    /// The container's group; none: the process stays in the caller's.
    pub cgroup: Option<&'a Handle>,
    /// What runs and how; the program, its environment and its limits come from here.
    pub process: &'a Process,
    /// `USER[:GROUP]` by name or number, looked up in the container; none: the numbers of `process.user` stand.
    pub user: Option<&'a str>,
    /// The compiled filter of `linux.seccomp`; none: it is compiled.
    pub filter: Option<&'a Program>,
    /// Its first three descriptors.
    pub stdio: Stdio,
    /// The kernel kills it when its parent ends.
    pub die_with_parent: bool,
    /// As [`Launch::sibling`].
    pub sibling: bool,
    /// What a listener of the filter is told about the container; needed where there is one.
    pub state: Option<HookState>,
    /// As [`Extra::kept_fds`].
    pub kept_fds: u16,
}

/// A process in a running container.
#[derive(Debug)]
pub struct ExecProcess {
    /// Its number in the caller's pid namespace.
    pub pid: i32,
    /// The process; a child of the caller, or of its parent if a sibling was asked for.
    pub pidfd: OwnedFd,
    /// The master of its terminal, if it has one.
    pub console: Option<OwnedFd>,
}

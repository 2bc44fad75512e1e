//! The worker: a short-lived process that reads, writes and removes trees on behalf of a less privileged one.
//!
//! It runs in the store's user namespace, so that it owns every id that a layer or a container can have, and shuts itself in before it looks
//! at the first byte of an archive (`sys::sandbox`): no network, only the directories that came with the job.
//!
//! One packet socket (descriptor `--fd N`) carries everything, postcard-encoded:
//!
//! | direction | packet | descriptors |
//! |---|---|---|
//! | to | [`Order`] with a [`Job`] | as the job says |
//! | from | [`Reply::Mark`] (unpack with marks only, any number) | |
//! | from | [`Reply::Unmarked`] (unpack with marks only, at most once) | |
//! | to | [`Parents`], empty: the marks are gone | |
//! | from | [`Reply::Leans`] (unpack only, at most once) | |
//! | to | [`Parents`] | |
//! | from | any other [`Reply`] | |
//!
//! then the worker ends. When the other side is gone, a removal goes on to its end; everything else is given up, and what it wrote is
//! removed, unless marks were asked for: then it stays, for whoever goes on with it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::image::sums::{self, Compared, Finding};
use crate::image::tree;
use crate::image::unpack::{Limits, Owners, Said, Say, Stats, UnpackError, Unpacker};
use crate::image::{carry, compare, diff, recipe};
use crate::sys::landlock::Access;
use crate::sys::sandbox::{self, Profile};
use crate::sys::{fs, process, socket};
use crate::types::bounds;

/// Version of the packets.
pub const VERSION: u8 = 5;

/// What a worker does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Job {
    /// Unpacks a layer. Descriptors: the directory for it, the pipe that the archive comes from, the directory of all layers, with
    /// marks the layer's journal and its lock, and the files for its sums and its recipe, where they are wanted. All is on the device
    /// when the reply comes.
    Unpack {
        /// How much it may be.
        limits: Limits,
        /// Whether [`Reply::Mark`]s are wanted: the state in the mark to go on from, or nothing, when the directory and the journal are
        /// empty.
        #[serde(with = "serde_bytes")]
        marks: Option<Vec<u8>>,
    },
    /// Removes everything in a directory, not the directory itself. Descriptor: the directory.
    Empty,
    /// Merges layers into one tree, for hosts without overlay. Descriptors: the empty target directory, the directory of
    /// all layers.
    Copy {
        /// Paths below the directory of all layers, lowest first.
        layers: Vec<String>,
    },
    /// Compares a layer with its sums. Descriptors: its tree, and the file of its sums.
    Check {
        /// Reads no content.
        quick: bool,
    },
    /// Makes the archive of a layer again. Descriptors: its tree, its recipe, and the pipe that the archive goes to.
    Pack,
    /// Makes an archive of what a container changed. Descriptors: its writable folder, and the pipe that the archive goes to.
    Diff,
    /// Counts what is in a directory. Descriptor: the directory.
    Measure,
    /// Tells what is other in one stack of layers than in another. Descriptors: the directory of all layers, the pipe that it goes
    /// to (see `image::compare`), and writable folders of containers, which are numbered behind the layers.
    Compare {
        /// Paths below the directory of all layers.
        layers: Vec<String>,
        /// Numbers of one stack's layers, topmost first.
        from: Vec<usize>,
        /// Those of the other.
        to: Vec<usize>,
    },
    /// Files on their way into a container or out of one.
    Carry(carry::Carry),
}

/// The first packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// [`VERSION`] of the sender.
    pub version: u8,
    /// What to do.
    pub job: Job,
}

/// The layers below the one being unpacked: paths below the directory of all layers, topmost first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parents(pub Vec<String>);

/// What the worker says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The layer is so far, and could be gone on with from here.
    Mark {
        /// Bytes of the archive that were taken.
        taken: u64,
        /// Bytes on disk so far, each file rounded up to 4 KiB.
        bytes: u64,
        /// For [`Job::Unpack`].
        #[serde(with = "serde_bytes")]
        state: Vec<u8>,
    },
    /// No mark of this layer may be used any more: send an empty [`Parents`] once they are gone.
    Unmarked,
    /// The archive is read, and the layer leans on those below it: send [`Parents`] once they are there.
    Leans,
    /// The layer is complete and on the device.
    Unpacked(Stats),
    /// The directory is empty.
    Emptied,
    /// The tree is complete and on the device.
    Copied {
        /// Bytes written.
        bytes: u64,
    },
    /// So many more bytes were compared.
    Moved(u64),
    /// Something is wrong in the layer that is being compared.
    Wrong(Finding),
    /// The layer is compared.
    Checked(Compared),
    /// The archive is written.
    Packed {
        /// Its bytes.
        bytes: u64,
    },
    /// So much is in the directory.
    Measured {
        /// Bytes on disk.
        bytes: u64,
    },
    /// Nothing was done, or nothing is left of it.
    Failed(WorkerError),
    /// What is at a path, for [`Job::Carry`].
    Found(carry::Found),
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum WorkerError {
    /// The layer.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The operating system.
    #[error("cannot {action}: {cause}")]
    Os {
        /// What was tried.
        action: String,
        /// The error number, 0 when there is none.
        errno: i32,
        /// The system's text.
        cause: String,
    },
    /// The other side speaks another language.
    #[error(
        "the worker was asked in version {found}, it speaks {known}; all dunlin processes of a store must be the same version"
    )]
    Version {
        /// What came.
        found: u8,
        /// What is spoken.
        known: u8,
    },
    /// A packet that makes no sense.
    #[error("the worker was asked something malformed: {why}")]
    Malformed {
        /// What is wrong.
        why: String,
    },
    /// The worker died without a word.
    #[error("the worker ended without an answer: {why}")]
    Died {
        /// How it ended, as far as it is known.
        why: String,
    },
}

impl WorkerError {
    /// The worker did something, but not what it was asked.
    pub fn unexpected() -> WorkerError {
        WorkerError::Malformed {
            why: "another answer than asked for".to_owned(),
        }
    }

    pub(super) fn os(action: &str) -> impl FnOnce(io::Error) -> WorkerError {
        let action = action.to_owned();
        move |e| WorkerError::Os {
            action,
            errno: e.raw_os_error().unwrap_or(0),
            cause: e.to_string(),
        }
    }

    /// Whether the disk (or the quota) is full.
    pub fn is_full(&self) -> bool {
        match self {
            WorkerError::Unpack(error) => error.is_full(),
            WorkerError::Os { errno, .. } => fs::is_full(*errno),
            _ => false,
        }
    }
}

/// Starts workers. Two ways: through the keeper, which places them in the store's user namespace (`engine`), and as children
/// with the same ids ([`Children`]).
pub trait Workers: Send + Sync {
    /// Starts `dunlin worker --fd N`, N being `control` in the new process, which inherits nothing else. Returns the child, where it
    /// is one of this process.
    fn start(&self, control: OwnedFd) -> io::Result<Option<Child>>;
}

/// Workers as children of this process.
#[derive(Debug, Clone)]
pub struct Children {
    /// The dunlin binary.
    pub program: PathBuf,
}

impl Children {
    /// Children that run this very binary.
    pub fn of_this_binary() -> Children {
        Children {
            program: PathBuf::from("/proc/self/exe"),
        }
    }
}

impl Workers for Children {
    fn start(&self, control: OwnedFd) -> io::Result<Option<Child>> {
        let mut command = Command::new(&self.program);
        command
            .args(["worker", "--fd", "0"])
            .stdin(control)
            .stdout(Stdio::null())
            .env_clear();
        command.spawn().map(Some)
    }
}

/// A worker at work.
#[derive(Debug)]
pub struct Worker {
    control: OwnedFd,
    child: Option<Child>,
}

impl Worker {
    /// Starts a worker and gives it the job.
    pub fn start(workers: &dyn Workers, job: Job, fds: &[BorrowedFd]) -> Result<Worker, WorkerError> {
        let (ours, theirs) = socket::pair().map_err(WorkerError::os("start a worker"))?;
        let child = workers.start(theirs).map_err(WorkerError::os("start a worker"))?;
        let worker = Worker { control: ours, child };
        let order = Order { version: VERSION, job };
        send(worker.control.as_fd(), &order, fds).map_err(WorkerError::os("give a worker its job"))?;
        Ok(worker)
    }

    /// Waits for the next reply; failures are errors.
    pub fn reply(&mut self) -> Result<Reply, WorkerError> {
        self.reply_while(&|| false)
    }

    /// Waits for the next reply, for ever as long as `busy` says that the worker has something to do.
    pub fn reply_while(&mut self, busy: &dyn Fn() -> bool) -> Result<Reply, WorkerError> {
        let timeout = Duration::from_millis(bounds::WORKER_REPLY_MS);
        let wait =
            || socket::wait_readable(self.control.as_fd(), timeout).map_err(WorkerError::os("wait for a worker"));
        let mut ready = wait()?;
        while !ready && busy() {
            ready = wait()?;
        }
        if !ready {
            return Err(WorkerError::Died {
                why: format!("nothing came for {} s", timeout.as_secs()),
            });
        }
        let mut buffer = vec![0; bounds::PACKET_BYTES];
        match socket::recv(self.control.as_fd(), &mut buffer) {
            Ok(length) if length > 0 => match decode(&buffer[..length])? {
                Reply::Failed(error) => Err(error),
                reply => Ok(reply),
            },
            _ => Err(WorkerError::Died {
                why: self.how_it_ended(),
            }),
        }
    }

    /// Answers [`Reply::Leans`].
    pub fn parents(&self, parents: Parents) -> Result<(), WorkerError> {
        send(self.control.as_fd(), &parents, &[]).map_err(WorkerError::os("name the lower layers to a worker"))
    }

    fn how_it_ended(&mut self) -> String {
        match self.child.take().map(|mut child| child.wait()) {
            Some(Ok(status)) => status.to_string(),
            _ => "it is gone".to_owned(),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It has answered, or nobody waits for the answer any more.
            if !matches!(child.try_wait(), Ok(Some(_))) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// Removes the directory `path` and everything in it; a worker does what is in it, this process the directory itself. One that
/// is not there is no error.
pub fn remove_tree(workers: &dyn Workers, path: &Path) -> Result<(), WorkerError> {
    let dir = match fs::name_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(WorkerError::os("open the tree"))?,
    };
    match std::fs::remove_dir(path) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
        Err(e) => return Err(WorkerError::os("remove the folder of the tree")(e)),
    }
    let mut worker = Worker::start(workers, Job::Empty, &[dir.as_fd()])?;
    match worker.reply()? {
        Reply::Emptied => std::fs::remove_dir(path).map_err(WorkerError::os("remove the folder of the tree")),
        _ => Err(WorkerError::unexpected()),
    }
}

/// Merges layers (paths below `all`, lowest first) into the empty directory `to` by a worker; returns the bytes written.
pub fn copy(workers: &dyn Workers, all: BorrowedFd, layers: Vec<String>, to: BorrowedFd) -> Result<u64, WorkerError> {
    let mut worker = Worker::start(workers, Job::Copy { layers }, &[to, all])?;
    match worker.reply()? {
        Reply::Copied { bytes } => Ok(bytes),
        _ => Err(WorkerError::unexpected()),
    }
}

/// Bytes on disk of everything below `dir`.
pub fn measure(workers: &dyn Workers, dir: BorrowedFd) -> Result<u64, WorkerError> {
    let mut worker = Worker::start(workers, Job::Measure, &[dir])?;
    match worker.reply()? {
        Reply::Measured { bytes } => Ok(bytes),
        _ => Err(WorkerError::unexpected()),
    }
}

/// The role: works on the order that comes over `control`, then returns the exit status.
pub fn main(control: OwnedFd) -> u8 {
    // Files get the modes that they are made with.
    process::set_umask(0);
    serve(&control)
}

fn serve(control: &OwnedFd) -> u8 {
    let reply = receive(control).and_then(|(order, fds)| work(control, order, fds));
    let (reply, status) = match reply {
        Ok(reply) => (reply, 0),
        Err(error) => (Reply::Failed(error), 1),
    };
    // Nobody may be left to hear it.
    let _ = send(control.as_fd(), &reply, &[]);
    status
}

fn receive(control: &OwnedFd) -> Result<(Order, Vec<OwnedFd>), WorkerError> {
    let mut buffer = vec![0; bounds::PACKET_BYTES];
    wait(control, bounds::WORKER_ORDER_MS, "read the order")?;
    let (length, fds) =
        socket::recv_with_fds(control.as_fd(), &mut buffer).map_err(WorkerError::os("read the order"))?;
    let packet = &buffer[..length];
    match packet.first() {
        Some(&version) if version != VERSION => Err(WorkerError::Version {
            found: version,
            known: VERSION,
        }),
        _ => Ok((decode(packet)?, fds)),
    }
}

/// Waits for a packet, but not for ever.
fn wait(control: &OwnedFd, millis: u64, action: &str) -> Result<(), WorkerError> {
    let ready = socket::wait_readable(control.as_fd(), Duration::from_millis(millis));
    let ready = ready.and_then(|ready| ready.then_some(()).ok_or_else(|| io::ErrorKind::TimedOut.into()));
    ready.map_err(WorkerError::os(action))
}

fn work(control: &OwnedFd, order: Order, fds: Vec<OwnedFd>) -> Result<Reply, WorkerError> {
    let malformed = |why: &str| WorkerError::Malformed { why: why.to_owned() };
    let owners = Owners::of_this_process().map_err(WorkerError::os("read the own id map"))?;
    let mut fds = fds.into_iter();
    match order.job {
        Job::Unpack { limits, marks } => {
            let (Some(root), Some(input), Some(layers)) = (fds.next(), fds.next(), fds.next()) else {
                return Err(malformed("unpack needs three descriptors"));
            };
            let root = open(&root)?;
            shut_in(&[(root.as_fd(), Access::Write), (layers.as_fd(), Access::Read)])?;
            let mut unpacker = Unpacker::new(root.try_clone().map_err(WorkerError::os("unpack"))?, owners, limits);
            let keep = marks.is_some();
            // Held as long as this process may write into the directory.
            let mut _lock = None;
            if keep {
                let journal = fds
                    .next()
                    .map(File::from)
                    .ok_or_else(|| malformed("a journal is missing"))?;
                _lock = fds.next();
                unpacker.keep_journal(journal, say(control)?);
            }
            let state = marks.filter(|state| !state.is_empty());
            let files = (fds.next().map(File::from), fds.next().map(File::from));
            let done = unpack(control, unpacker, state, &root, input, &layers, files);
            if done.is_err() && !keep {
                // The error that matters is the first one.
                let _ = tree::remove_contents(&root);
            }
            done
        }
        Job::Empty => {
            let Some(dir) = fds.next() else {
                return Err(malformed("empty needs a descriptor"));
            };
            let dir = open(&dir)?;
            shut_in(&[(dir.as_fd(), Access::Write)])?;
            tree::remove_contents(&dir).map_err(WorkerError::os("remove the tree"))?;
            Ok(Reply::Emptied)
        }
        Job::Copy { layers } => {
            let (Some(to), Some(all)) = (fds.next(), fds.next()) else {
                return Err(malformed("copy needs two descriptors"));
            };
            let to = open(&to)?;
            shut_in(&[(to.as_fd(), Access::Write), (all.as_fd(), Access::Read)])?;
            let done = open_layers(&all, &layers).and_then(|layers| {
                let bytes = tree::flatten(&layers, &to, owners != Owners::Single);
                bytes
                    .and_then(|bytes| fs::sync_fs(&to).map(|()| bytes))
                    .map_err(WorkerError::os("copy the layers"))
            });
            if done.is_err() {
                let _ = tree::remove_contents(&to);
            }
            done.map(|bytes| Reply::Copied { bytes })
        }
        Job::Check { quick } => {
            let (Some(tree), Some(sums)) = (fds.next(), fds.next()) else {
                return Err(malformed("check needs two descriptors"));
            };
            let tree = open(&tree)?;
            shut_in(&[(tree.as_fd(), Access::Read)])?;
            check(control, &tree, File::from(sums), quick)
        }
        Job::Diff => {
            let (Some(tree), Some(out)) = (fds.next(), fds.next()) else {
                return Err(malformed("diff needs two descriptors"));
            };
            let tree = open(&tree)?;
            shut_in(&[(tree.as_fd(), Access::Read)])?;
            let written = diff::write(&tree, io::BufWriter::with_capacity(64 << 10, File::from(out)));
            written
                .map(|bytes| Reply::Packed { bytes })
                .map_err(WorkerError::os("read what the container changed"))
        }
        Job::Measure => {
            let Some(dir) = fds.next() else {
                return Err(malformed("measure needs a descriptor"));
            };
            let dir = open(&dir)?;
            shut_in(&[(dir.as_fd(), Access::Read)])?;
            let measured = tree::measure(&dir).map_err(WorkerError::os("count what is in the tree"))?;
            Ok(Reply::Measured { bytes: measured.0 })
        }
        Job::Compare { layers, from, to } => {
            let (Some(all), Some(out)) = (fds.next(), fds.next()) else {
                return Err(malformed("compare needs two descriptors"));
            };
            // Of a store of root's this one can only be passed through.
            let folders = fds.map(|folder| open(&folder)).collect::<Result<Vec<_>, _>>()?;
            let mut trees = vec![(all.as_fd(), Access::Read)];
            trees.extend(folders.iter().map(|folder| (folder.as_fd(), Access::Read)));
            shut_in(&trees)?;
            let mut stacks = open_layers(&all, &layers)?;
            let own = stacks.len();
            stacks.extend(folders);
            if from.iter().chain(&to).any(|number| *number >= stacks.len()) {
                return Err(malformed("there are fewer layers"));
            }
            let out = io::BufWriter::with_capacity(64 << 10, File::from(out));
            let written = compare::write(&stacks, &from, &to, own, out);
            written
                .map(|bytes| Reply::Packed { bytes })
                .map_err(WorkerError::os("compare the layers"))
        }
        Job::Carry(carry) => carry::work(carry, fds.collect(), owners),
        Job::Pack => {
            let (Some(tree), Some(recipe), Some(out)) = (fds.next(), fds.next(), fds.next()) else {
                return Err(malformed("pack needs three descriptors"));
            };
            let tree = open(&tree)?;
            shut_in(&[(tree.as_fd(), Access::Read)])?;
            let made = recipe::make(&tree, File::from(recipe), File::from(out));
            made.map(|bytes| Reply::Packed { bytes })
                .map_err(WorkerError::os("make its archive again"))
        }
    }
}

pub(super) fn shut_in(trees: &[(BorrowedFd, Access)]) -> Result<(), WorkerError> {
    if let Some((dir, _)) = trees.first() {
        sandbox::enter_root(dir).map_err(WorkerError::os("enter the tree"))?;
    }
    sandbox::enter(Profile::Tree, trees)
        .map(drop)
        .map_err(WorkerError::os("enter the sandbox"))
}

/// Passes on how far a layer is.
fn say(control: &OwnedFd) -> Result<Say, WorkerError> {
    let control = control.try_clone().map_err(WorkerError::os("unpack"))?;
    Ok(Box::new(move |said| match said {
        Said::Mark { taken, bytes, state } => send(control.as_fd(), &Reply::Mark { taken, bytes, state }, &[]),
        Said::Over => {
            send(control.as_fd(), &Reply::Unmarked, &[])?;
            let mut buffer = [0; 64];
            let gone = wait(&control, bounds::WORKER_REPLY_MS, "hear that the marks are gone");
            gone.map_err(io::Error::other)?;
            match socket::recv(control.as_fd(), &mut buffer)? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(()),
            }
        }
    }))
}

fn unpack(
    control: &OwnedFd,
    mut unpacker: Unpacker,
    state: Option<Vec<u8>>,
    root: &OwnedFd,
    input: OwnedFd,
    layers: &OwnedFd,
    (sums, recipe): (Option<File>, Option<File>),
) -> Result<Reply, WorkerError> {
    if sums.is_some() {
        unpacker.keep_digests();
    }
    match (state, recipe) {
        (Some(state), recipe) => unpacker.go_on(&state, recipe)?,
        (None, Some(recipe)) => unpacker.keep_recipe(recipe),
        (None, None) => {}
    }
    unpacker.unpack(Patient(File::from(input)))?;
    if unpacker.leans() {
        send(control.as_fd(), &Reply::Leans, &[]).map_err(WorkerError::os("ask for the lower layers"))?;
        let mut buffer = vec![0; bounds::PACKET_BYTES];
        wait(control, bounds::LAYER_BUSY_MS, "wait for the lower layers")?;
        let length =
            socket::recv(control.as_fd(), &mut buffer).map_err(WorkerError::os("wait for the lower layers"))?;
        let Parents(names) = decode(&buffer[..length])?;
        unpacker.settle(&open_layers(layers, &names)?)?;
    }
    if let Some(sums) = sums {
        unpacker
            .record(root, &sums)
            .map_err(WorkerError::os("record the layer's sums"))?;
    }
    fs::sync_fs(root).map_err(WorkerError::os("write the layer to the device"))?;
    Ok(Reply::Unpacked(*unpacker.stats()))
}

fn check(control: &OwnedFd, tree: &OwnedFd, sums: File, quick: bool) -> Result<Reply, WorkerError> {
    let say = |reply: Reply| send(control.as_fd(), &reply, &[]);
    let (mut told, mut unsaid, mut more) = (0, 0, 0);
    let mut tell = |finding| {
        told += 1;
        if told > bounds::CHECK_FINDINGS {
            more += 1;
            return Ok(());
        }
        say(Reply::Wrong(finding))
    };
    let mut moved = |bytes| {
        unsaid += bytes;
        if unsaid < bounds::CHECK_STEP_BYTES {
            return Ok(());
        }
        say(Reply::Moved(std::mem::take(&mut unsaid)))
    };
    let compared = sums::compare(tree, sums, quick, &mut tell, &mut moved);
    let compared = compared.map_err(WorkerError::os("compare the layer with its sums"))?;
    Ok(Reply::Checked(Compared { more, ..compared }))
}

fn open_layers(all: &OwnedFd, names: &[String]) -> Result<Vec<OwnedFd>, WorkerError> {
    let open = |name: &String| fs::open_dir_at(all, name.as_bytes()).map_err(WorkerError::os("open a lower layer"));
    names.iter().map(open).collect()
}

/// Directories come named only, so that whoever sends them needs no right to read them.
fn open(dir: &OwnedFd) -> Result<OwnedFd, WorkerError> {
    fs::open_dir_at(dir, b".").map_err(WorkerError::os("open a directory of the job"))
}

/// A pipe whose other side may stall, but not for ever.
pub(super) struct Patient(pub(super) File);

impl io::Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !socket::wait_readable(self.0.as_fd(), Duration::from_millis(bounds::LAYER_STALL_MS))? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.0.read(buffer)
    }
}

fn send(control: BorrowedFd, packet: &impl Serialize, fds: &[BorrowedFd]) -> io::Result<()> {
    let bytes = postcard::to_allocvec(packet).map_err(io::Error::other)?;
    socket::send_with_fds(control, &bytes, fds)
}

fn decode<T: DeserializeOwned>(packet: &[u8]) -> Result<T, WorkerError> {
    postcard::from_bytes(packet).map_err(|e| WorkerError::Malformed { why: e.to_string() })
}

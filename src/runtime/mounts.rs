//! Mounting a container's file tree in its own mount namespace, as [`super::rootfs`] lists it.
//!
//! Everything is attached by descriptor: targets are opened below the root with `openat2`, so that no link in an image and
//! no race with another container leads a mount out of it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::copyup;
use super::error::{Errno, RuntimeError};
use super::groups;
use super::launch::Rootfs;
use super::nodes;
use super::remount;
use super::rootfs::{Step, Tree, What};
use crate::sys::errno;
use crate::sys::mount::{self, NewFs, Propagation, attr};
use crate::sys::ns::{self, Namespaces};
use crate::sys::path::{self, FsKind, Missing, Resolve};

/// Mounts the root file system and returns its topmost directory.
pub fn mount_root(rootfs: &Rootfs) -> Result<OwnedFd, RuntimeError> {
    match rootfs {
        Rootfs::Overlay {
            lowers,
            upper,
            work,
            target,
            volatile,
        } => {
            let fail = |problem: &str, e: std::io::Error| RuntimeError::Root {
                target: target.display().to_string(),
                problem: problem.to_owned(),
                errno: e.into(),
            };
            let open = |dir: &Path| path::open_root(dir).map_err(|e| fail(&format!("open `{}`", dir.display()), e));
            let layers: Vec<OwnedFd> = lowers.iter().map(|dir| open(dir)).collect::<Result<_, _>>()?;
            let (upper, work, place) = (open(upper)?, open(work)?, open(target)?);
            // Options are at most 4,095 bytes, and the kernel also reads them in the container's mountinfo: so every
            // directory is named by its number in /proc/self/fd.
            let names: Vec<String> = layers.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
            let mut options = format!(
                "lowerdir={},upperdir={},workdir={},userxattr",
                names.join(":"),
                upper.as_raw_fd(),
                work.as_raw_fd()
            );
            let numbers = path::open_root(Path::new("/proc/self/fd")).map_err(|e| fail("open `/proc/self/fd`", e))?;
            path::enter(numbers.as_fd()).map_err(|e| fail("enter `/proc/self/fd`", e))?;
            let number = place.as_raw_fd().to_string();
            let mount = |options: &str| mount::mount_at("overlay", Path::new(&number), "overlay", 0, options);
            let plain = options.len();
            if *volatile {
                forget_volatile(work.as_fd());
                options.push_str(",volatile");
            }
            match mount(&options) {
                Err(e) if *volatile && e.raw_os_error() == Some(errno::EINVAL) => {
                    options.truncate(plain);
                    mount(&options)
                }
                done => done,
            }
            .map_err(|e| fail("overlay of its layers", e))?;
            open(target)
        }
        Rootfs::Flat(dir) => {
            let fail = |problem: &str, e: std::io::Error| RuntimeError::Root {
                target: dir.display().to_string(),
                problem: problem.to_owned(),
                errno: e.into(),
            };
            let place = path::open_root(dir).map_err(|e| fail("open it", e))?;
            let copy = mount::copy_tree(place.as_fd(), c"", true).map_err(|e| fail("bind it to itself", e))?;
            mount::attach(copy.as_fd(), place.as_fd()).map_err(|e| fail("bind it to itself", e))?;
            Ok(copy)
        }
    }
}

/// Takes away the mark that keeps a layer from being used again after a volatile mount: a container that is started again
/// in the same boot has lost nothing.
fn forget_volatile(work: BorrowedFd<'_>) {
    for path in ["work/incompat/volatile", "work/incompat"] {
        // Most have never been mounted.
        let _ = std::fs::remove_dir(format!("/proc/self/fd/{}/{path}", work.as_raw_fd()));
    }
}

/// What `/` and everything below it must be set to before anything is mounted: nothing spreads to the host; and from the
/// host only where a bind mount or the root asks for it.
pub fn host_propagation(tree: &Tree) -> Propagation {
    let spreads = |p: &Option<(Propagation, bool)>| matches!(p, Some((Propagation::Slave | Propagation::Shared, _)));
    let asked = tree.mounts.iter().any(|step| spreads(&step.options.propagation)) || spreads(&tree.root_propagation);
    if asked {
        Propagation::Slave
    } else {
        Propagation::Private
    }
}

/// Mounts and makes everything below `root` but the hidden and read-only paths. Returns the container's procfs, if it has
/// one at `/proc`. `v1` is what [`groups::own`] found.
/// `mapped` are the mounts of [`super::mapped`].
pub fn build(
    root: BorrowedFd<'_>,
    tree: &Tree,
    v1: &[(String, PathBuf)],
    mapped: Vec<OwnedFd>,
) -> Result<Option<OwnedFd>, RuntimeError> {
    let mut mapped = mapped.into_iter();
    let private = host_propagation(tree) != Propagation::Private;
    let mut proc = None;
    for step in &tree.mounts {
        let mounted = match &step.what {
            What::New { kind, .. } if kind == "cgroup" => groups::mount(root, step, v1)?,
            What::New { kind, source } => mount_new(root, step, kind, source)?,
            What::Bind { source, recursive } => {
                let made = match &step.ids {
                    Some(_) => mapped.next(),
                    None => None,
                };
                mount_bind(root, step, source, *recursive, private, made)?
            }
        };
        if step.target == Path::new("/proc") && path::fs_kind(mounted.as_fd()).is_ok_and(|kind| kind == FsKind::Proc) {
            proc = Some(mounted);
        }
    }
    for node in &tree.devices {
        nodes::make(root, node, tree.makes_nodes)?;
    }
    if !tree.links.is_empty() {
        let dev = target(root, Path::new("/dev"), Missing::Directory(0o755))?;
        for (name, to) in &tree.links {
            match path::make_link(to, dev.as_fd(), name) {
                Err(e) if e.raw_os_error() != Some(errno::EEXIST) => {
                    return Err(RuntimeError::Target {
                        path: format!("/dev/{name}"),
                        errno: e.into(),
                    });
                }
                _ => {}
            }
        }
    }
    Ok(proc)
}

/// Hides paths, and makes paths and the root read-only.
pub fn restrict(root: BorrowedFd<'_>, tree: &Tree) -> Result<(), RuntimeError> {
    let mut hider = Hider { root, empty: None };
    for path in &tree.masked {
        hider.hide(path)?;
    }
    for path in &tree.read_only {
        make_read_only(root, path)?;
    }
    let on_root = |e: std::io::Error| failed("the root file system", Path::new("/"), e);
    if tree.root_read_only {
        remount::set(root, false, attr::RDONLY, 0).map_err(on_root)?;
    }
    Ok(())
}

/// Sets the propagation of the root that the process has pivoted to, which is refused to one that is shared.
pub fn spread(tree: &Tree) -> Result<(), RuntimeError> {
    let Some((propagation, recursive)) = tree.root_propagation else {
        return Ok(());
    };
    path::open_root(Path::new("/"))
        .and_then(|root| mount::set_propagation(root.as_fd(), recursive, propagation))
        .map_err(|e| failed("the root file system", Path::new("/"), e))
}

/// On an initramfs, `/` is the first of all mounts and cannot be pivoted away from: binds it onto itself and makes that
/// the root. Returns whether it did; elsewhere there is nothing to do.
pub fn leave_first_mount() -> Result<bool, RuntimeError> {
    let fail = || RuntimeError::process("bind `/` onto itself");
    if !on_first_mount()? {
        return Ok(false);
    }
    let first = path::open_root(Path::new("/")).map_err(fail())?;
    let copy = mount::copy_tree(first.as_fd(), c"", true).map_err(fail())?;
    mount::attach(copy.as_fd(), first.as_fd()).map_err(fail())?;
    mount::change_root(copy.as_fd()).map_err(fail())?;
    Ok(true)
}

/// Where `/` is the first of all mounts: moves the caller into a mount namespace of its own, without it. What a container
/// then gets is a copy whose mounts are locked, so that not even one with `CAP_SYS_ADMIN` can look below its root.
pub fn leave_first_mount_apart() -> Result<(), RuntimeError> {
    if on_first_mount()? {
        ns::unshare(Namespaces::MOUNT).map_err(RuntimeError::process("make a mount namespace"))?;
        leave_first_mount()?;
    }
    Ok(())
}

fn on_first_mount() -> Result<bool, RuntimeError> {
    let fail = || RuntimeError::process("look at `/`");
    let root = path::open_root(Path::new("/")).map_err(fail())?;
    // The list of mounts is only read where it may be one.
    let ram = path::fs_kind(root.as_fd()).map_err(fail())? == FsKind::Ram;
    Ok(ram && remount::root_is_the_first_mount().map_err(fail())?)
}

/// Binds a terminal's end to `/dev/console`, which must not be a link: it would cover whatever the image likes.
pub fn bind_console(root: BorrowedFd<'_>, terminal: BorrowedFd<'_>) -> Result<(), RuntimeError> {
    let console = Path::new("/dev/console");
    let open = || path::open_at(root, console, path::O_PATH, 0, Resolve::InRootNoLinks);
    let place = match open() {
        Err(e) if e.raw_os_error() == Some(errno::ENOENT) => {
            target(root, console, Missing::File(0o600))?;
            open()
        }
        done => done,
    };
    let place = place.map_err(|e| RuntimeError::Target {
        path: console.display().to_string(),
        errno: e.into(),
    })?;
    mount::copy_tree(terminal, c"", false)
        .and_then(|copy| mount::attach(copy.as_fd(), place.as_fd()))
        .map_err(|e| failed("the terminal", console, e))
}

pub(super) fn failed(source: &str, target: &Path, error: std::io::Error) -> RuntimeError {
    failed_because(source, target, error, "")
}

/// The same with what to do.
pub(super) fn failed_because(source: &str, target: &Path, error: std::io::Error, hint: &str) -> RuntimeError {
    RuntimeError::Mount {
        source_name: source.to_owned(),
        target: target.display().to_string(),
        errno: error.into(),
        hint: hint.to_owned(),
    }
}

/// The place of a mount, made where it is missing.
pub(super) fn target(root: BorrowedFd<'_>, path: &Path, missing: Missing) -> Result<OwnedFd, RuntimeError> {
    path::ensure(root, path, missing).map_err(|e| RuntimeError::Target {
        path: path.display().to_string(),
        errno: e.into(),
    })
}

pub(super) fn mount_new(root: BorrowedFd<'_>, step: &Step, kind: &str, source: &str) -> Result<OwnedFd, RuntimeError> {
    let fail = |e: std::io::Error| {
        let hint = if e.raw_os_error() == Some(errno::EPERM) {
            remount::covered_hint(kind)
        } else {
            String::new()
        };
        failed_because(kind, &step.target, e, &hint)
    };
    let made_before =
        kind == "tmpfs" && path::open_at(root, &step.target, O_PATH_DIRECTORY, 0, Resolve::InRoot).is_ok();
    let in_image = step.options.copy_up && made_before;
    let place = if matches!(kind, "proc" | "sysfs") {
        // An image that makes these a link would have them, and what is hidden in them, somewhere else.
        match path::open_at(root, &step.target, O_PATH_DIRECTORY, 0, Resolve::InRootNoLinks) {
            Err(e) if e.raw_os_error() == Some(errno::ENOENT) => target(root, &step.target, Missing::Directory(0o555))?,
            done => done.map_err(|e| RuntimeError::Target {
                path: step.target.display().to_string(),
                errno: e.into(),
            })?,
        }
    } else {
        target(root, &step.target, Missing::Directory(0o755))?
    };
    let mut data = step.options.data.clone();
    if kind == "tmpfs" && made_before && !data.iter().any(|(key, _)| key == "mode") {
        // As if it were the folder that it covers.
        let mode = path::status(place.as_fd()).map_err(fail)?.mode & 0o7777;
        data.push(("mode".to_owned(), Some(format!("{mode:o}"))));
    }
    let attrs = step.options.set | step.options.recursive_set;
    // A copy can be made into a writable mount only.
    let at_first = if step.options.copy_up {
        attrs & !attr::RDONLY
    } else {
        attrs
    };
    let made = match new_fs(kind, source, &data, at_first) {
        // Not ours to mount anew: the host's own, all of it.
        Err(e) if kind == "sysfs" && e.raw_os_error() == Some(errno::EPERM) => {
            groups::host_copy(Path::new("/sys"), at_first).map_err(|_| fail(e))?
        }
        done => done.map_err(fail)?,
    };
    if in_image {
        let failed = |e: std::io::Error| RuntimeError::Target {
            path: step.target.display().to_string(),
            errno: e.into(),
        };
        copyup::copy(root, &step.target, made.as_fd()).map_err(failed)?;
        // The image's mode holds where none was asked for.
        let asked = step.options.data.iter().rev().find(|(key, _)| key == "mode");
        let asked = asked.and_then(|(_, mode)| u32::from_str_radix(mode.as_deref()?, 8).ok());
        if let Some(mode) = asked {
            let flags = path::O_RDONLY | path::O_DIRECTORY;
            let top = path::open_at(made.as_fd(), Path::new("."), flags, 0, Resolve::Beneath).map_err(failed)?;
            path::set_mode(top.as_fd(), mode & 0o7777).map_err(failed)?;
        }
    }
    if let Some((propagation, recursive)) = step.options.propagation.filter(|(p, _)| *p != Propagation::Private) {
        mount::set_propagation(made.as_fd(), recursive, propagation).map_err(fail)?;
    }
    mount::attach(made.as_fd(), place.as_fd()).map_err(fail)?;
    if at_first != attrs {
        remount::set(made.as_fd(), false, attr::RDONLY, 0).map_err(fail)?;
    }
    Ok(made)
}

const O_PATH_DIRECTORY: i32 = path::O_PATH | path::O_DIRECTORY;

pub(super) fn new_fs(
    kind: &str,
    source: &str,
    data: &[(String, Option<String>)],
    attrs: u64,
) -> std::io::Result<OwnedFd> {
    let fs = NewFs::open(kind)?;
    fs.set("source", source)?;
    for (key, value) in data {
        match value {
            Some(value) => fs.set(key, value)?,
            None => fs.set_flag(key)?,
        }
    }
    fs.mount(attrs)
}

/// Opens what is bound, on the host.
pub(super) fn open_source(source: &Path, target: &Path) -> Result<OwnedFd, RuntimeError> {
    path::open_host(source, path::O_PATH).map_err(|e| source_error(source, target, e))
}

fn mount_bind(
    root: BorrowedFd<'_>,
    step: &Step,
    source: &Path,
    recursive: bool,
    make_private: bool,
    made: Option<OwnedFd>,
) -> Result<OwnedFd, RuntimeError> {
    let opened = match &made {
        Some(made) => made.try_clone().map_err(|e| source_error(source, &step.target, e))?,
        None => open_source(source, &step.target)?,
    };
    let is_dir = path::status(opened.as_fd())
        .map_err(|e| source_error(source, &step.target, e))?
        .is_dir();
    let missing = if is_dir {
        Missing::Directory(0o755)
    } else {
        Missing::File(0o644)
    };
    let place = target(root, &step.target, missing)?;
    let fail = |e: std::io::Error| {
        let hint = match e.raw_os_error() {
            Some(errno::EINVAL) if !recursive => "; something is mounted below it: use `rbind`",
            Some(errno::EPERM) => "; the host has locked the options of this mount",
            _ => "",
        };
        failed_because(&source.display().to_string(), &step.target, e, hint)
    };
    let options = &step.options;
    if options.fill && is_dir {
        fill(root, opened.as_fd(), step)?;
    }
    let copy = match made {
        Some(made) => made,
        None => mount::copy_tree(opened.as_fd(), c"", recursive).map_err(fail)?,
    };
    let mut late = Vec::new();
    for (below, set, clear) in [
        (false, options.set, options.clear),
        (true, options.recursive_set, options.recursive_clear),
    ] {
        if set | clear == 0 {
            continue;
        }
        match mount::set_attrs(copy.as_fd(), below, set, clear) {
            Err(e) if e.raw_os_error() == Some(errno::ENOSYS) => late.push((below, set)),
            done => done.map_err(fail)?,
        }
    }
    match options.propagation {
        Some((propagation, below)) if make_private || propagation != Propagation::Private => {
            mount::set_propagation(copy.as_fd(), below, propagation).map_err(fail)?;
        }
        None if make_private => mount::set_propagation(copy.as_fd(), true, Propagation::Private).map_err(fail)?,
        _ => {}
    }
    mount::attach(copy.as_fd(), place.as_fd()).map_err(fail)?;
    for (below, set) in late {
        remount::set(copy.as_fd(), below, set, 0).map_err(fail)?;
    }
    Ok(copy)
}

/// Gives an empty volume what the image has at its place, with owner and mode.
fn fill(root: BorrowedFd<'_>, volume: BorrowedFd<'_>, step: &Step) -> Result<(), RuntimeError> {
    let failed = |e: std::io::Error| RuntimeError::Target {
        path: step.target.display().to_string(),
        errno: e.into(),
    };
    let flags = path::O_RDONLY | path::O_DIRECTORY;
    let readable = path::open_at(volume, Path::new("."), flags, 0, Resolve::Beneath).map_err(failed)?;
    if path::entries(readable.as_fd()).map_err(failed)?.next().is_some() {
        return Ok(());
    }
    copyup::copy(root, &step.target, volume).map_err(failed)
}

pub(super) fn source_error(source: &Path, target: &Path, error: std::io::Error) -> RuntimeError {
    let hint = match error.raw_os_error() {
        Some(errno::EACCES) => "; the store's owner may not reach it",
        Some(errno::ENOENT) => "; make it first",
        _ => "",
    };
    RuntimeError::Source {
        path: source.display().to_string(),
        target: target.display().to_string(),
        errno: error.into(),
        hint: hint.to_owned(),
    }
}

/// Covers paths: a file with the null device, a directory with an empty one.
struct Hider<'a> {
    root: BorrowedFd<'a>,
    /// The first empty directory; the others are copies of it.
    empty: Option<OwnedFd>,
}

impl Hider<'_> {
    fn hide(&mut self, path: &Path) -> Result<(), RuntimeError> {
        let Some(place) = existing(self.root, path)? else {
            return Ok(());
        };
        let fail = |e| failed("nothing", path, e);
        if !path::status(place.as_fd()).map_err(fail)?.is_dir() {
            let null = open_null(self.root, path::O_PATH)?;
            let copy = mount::copy_tree(null.as_fd(), c"", false).map_err(fail)?;
            return mount::attach(copy.as_fd(), place.as_fd()).map_err(fail);
        }
        let cover = match &self.empty {
            Some(first) => mount::copy_tree(first.as_fd(), c"", false).map_err(fail)?,
            None => empty_dir().map_err(fail)?,
        };
        mount::attach(cover.as_fd(), place.as_fd()).map_err(fail)?;
        self.empty.get_or_insert(cover);
        Ok(())
    }
}

fn empty_dir() -> std::io::Result<OwnedFd> {
    let fs = NewFs::open("tmpfs")?;
    fs.set("source", "tmpfs")?;
    fs.set("mode", "755")?;
    fs.set("nr_inodes", "2")?;
    fs.set_flag("ro")?;
    fs.mount(attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC)
}

/// The container's null device, which must be one.
pub fn open_null(root: BorrowedFd<'_>, flags: i32) -> Result<OwnedFd, RuntimeError> {
    let place = Path::new("/dev/null");
    let fail = |errno: Errno| RuntimeError::Target {
        path: place.display().to_string(),
        errno,
    };
    // With O_PATH nothing is opened, and openat2 takes no other flag.
    let flags = if flags & path::O_PATH == 0 {
        flags | path::O_NOCTTY
    } else {
        flags
    };
    let null = path::open_at(root, place, flags, 0, Resolve::InRootNoLinks).map_err(|e| fail(e.into()))?;
    let status = path::status(null.as_fd()).map_err(|e| fail(e.into()))?;
    if status.is_char_device() && status.device() == (1, 3) {
        Ok(null)
    } else {
        Err(fail(Errno(errno::ENODEV)))
    }
}

fn make_read_only(root: BorrowedFd<'_>, path: &Path) -> Result<(), RuntimeError> {
    let Some(place) = existing(root, path)? else {
        return Ok(());
    };
    let fail = |e| failed("itself", path, e);
    let copy = mount::copy_tree(place.as_fd(), c"", true).map_err(fail)?;
    match mount::set_attrs(copy.as_fd(), true, attr::RDONLY, 0) {
        Err(e) if e.raw_os_error() == Some(errno::ENOSYS) => {
            mount::attach(copy.as_fd(), place.as_fd()).map_err(fail)?;
            remount::set(copy.as_fd(), true, attr::RDONLY, 0).map_err(fail)
        }
        done => {
            done.map_err(fail)?;
            mount::attach(copy.as_fd(), place.as_fd()).map_err(fail)
        }
    }
}

/// Opens a path that need not be there.
fn existing(root: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>, RuntimeError> {
    match path::open_at(root, path, path::O_PATH, 0, Resolve::InRoot) {
        Err(e) if matches!(e.raw_os_error(), Some(errno::ENOENT | errno::ENOTDIR)) => Ok(None),
        Err(e) => Err(RuntimeError::Target {
            path: path.display().to_string(),
            errno: e.into(),
        }),
        Ok(fd) => Ok(Some(fd)),
    }
}

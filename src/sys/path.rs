//! Paths that may not leave a directory: openat2(2) and what is built on it.
//!
//! The kernel resolves every link as if the directory were `/` (`RESOLVE_IN_ROOT`), so that no link, no `..` and no race
//! leads outside, and follows no magic link of procfs.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path};

use super::call::{c_string, check, invalid, own, retry};

pub use libc::{O_CREAT, O_DIRECTORY, O_EXCL, O_NOCTTY, O_NONBLOCK, O_PATH, O_RDONLY, O_RDWR, O_WRONLY};

/// Links followed before `ELOOP`, as the kernel does.
const LINKS_MAX: u32 = 40;

/// Longest text of a link, in bytes (`PATH_MAX`).
const LINK_BYTES_MAX: usize = 4096;

/// How a path may be resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolve {
    /// Links and `..` stay inside, as if the directory were `/`.
    InRoot,
    /// As `InRoot`, but a link anywhere is `ELOOP`.
    InRootNoLinks,
    /// Leaving the directory is `EXDEV`; links inside are followed.
    Beneath,
    /// Leaving is `EXDEV`, a link anywhere is `ELOOP`.
    BeneathNoLinks,
    /// Leaving the directory, or its mount, is `EXDEV`; links inside are followed.
    OneMount,
}

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Opens `path` below `root` with `O_…` flags (close-on-exec is added) and a mode for `O_CREAT`.
pub fn open_at(root: BorrowedFd<'_>, path: &Path, flags: i32, mode: u32, resolve: Resolve) -> io::Result<OwnedFd> {
    open_c(root, &c_string(path)?, flags, mode, resolve)
}

fn open_c(root: BorrowedFd<'_>, path: &CStr, flags: i32, mode: u32, resolve: Resolve) -> io::Result<OwnedFd> {
    const NO_OTHER_MOUNT: u64 = 0x01;
    const NO_MAGIC_LINKS: u64 = 0x02;
    const NO_LINKS: u64 = 0x04;
    const BENEATH: u64 = 0x08;
    const IN_ROOT: u64 = 0x10;
    let resolve = NO_MAGIC_LINKS
        | match resolve {
            Resolve::InRoot => IN_ROOT,
            Resolve::InRootNoLinks => IN_ROOT | NO_LINKS,
            Resolve::Beneath => BENEATH,
            Resolve::BeneathNoLinks => BENEATH | NO_LINKS,
            Resolve::OneMount => BENEATH | NO_OTHER_MOUNT,
        };
    let how = OpenHow {
        flags: u64::from((flags | libc::O_CLOEXEC).unsigned_abs()),
        mode: mode.into(),
        resolve,
    };
    // A rename somewhere during the walk makes the kernel give up with EAGAIN; an attacker may repeat it.
    let mut tries = 0;
    loop {
        // SAFETY: `path` ends with a NUL, `how` is an open_how of the size given.
        let done = retry(|| unsafe {
            libc::syscall(
                libc::SYS_openat2,
                root.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<OpenHow>(),
            )
        });
        match done {
            Err(e) if e.raw_os_error() == Some(libc::EAGAIN) && tries < 128 => tries += 1,
            done => return own(done?),
        }
    }
}

/// Opens a directory of the host, anywhere, as a root for the other functions here (`O_PATH`).
pub fn open_root(path: &Path) -> io::Result<OwnedFd> {
    open_host(path, O_PATH | O_DIRECTORY)
}

/// Opens a trusted path of the host with `O_…` flags (close-on-exec is added), links followed.
pub fn open_host(path: &Path, flags: i32) -> io::Result<OwnedFd> {
    let path = c_string(path)?;
    own(retry(|| {
        // SAFETY: `path` ends with a NUL; without O_CREAT no mode is read.
        unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) }.into()
    })?)
}

/// Opens a file of procfs by its path below `/proc` with `O_…` flags, for whoever writes there: `/proc` must be procfs, with
/// nothing mounted on the way. Anything else is `EXDEV`.
pub fn open_proc(path: &Path, flags: i32) -> io::Result<OwnedFd> {
    let proc = open_root(Path::new("/proc"))?;
    // The number of procfs's own root.
    const ROOT: u64 = 1;
    if fs_kind(proc.as_fd())? != FsKind::Proc || file_id(proc.as_fd())?.1 != ROOT {
        return Err(io::Error::from_raw_os_error(libc::EXDEV));
    }
    open_at(proc.as_fd(), path, flags, 0, Resolve::OneMount)
}

/// What [`ensure`] makes where nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// A directory of this mode.
    Directory(u32),
    /// An empty file of this mode.
    File(u32),
}

/// Opens `path` below `root` (`O_PATH`, links followed inside the root), making what is missing: directories of mode 0755
/// on the way (or of the mode given), and the last name as said. Also where a dangling link leads to.
pub fn ensure(root: BorrowedFd<'_>, path: &Path, missing: Missing) -> io::Result<OwnedFd> {
    match open_at(root, path, O_PATH, 0, Resolve::InRoot) {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
        done => return done,
    }
    let mut todo: Vec<OsString> = Vec::new();
    push_reversed(&mut todo, path);
    let mut walked: Vec<OwnedFd> = Vec::new();
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name == "/" {
            walked.clear();
            continue;
        }
        if name == ".." {
            walked.pop();
            continue;
        }
        let name = c_string(&name)?;
        let here = walked.last().map_or(root, AsFd::as_fd);
        let next = open_or_make(here, &name, missing, todo.is_empty())?;
        if is_link(next.as_fd())? {
            links += 1;
            if links > LINKS_MAX {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            }
            let target = read_link(next.as_fd())?;
            if target.is_empty() {
                return Err(io::Error::from_raw_os_error(libc::ENOENT));
            }
            push_reversed(&mut todo, Path::new(&target));
            continue;
        }
        walked.push(next);
    }
    match walked.pop() {
        Some(last) => Ok(last),
        None => open_c(root, c".", O_PATH, 0, Resolve::InRoot),
    }
}

/// Components of `path`, last first; `/` only where the path is absolute.
fn push_reversed(todo: &mut Vec<OsString>, path: &Path) {
    for component in path.components().rev() {
        match component {
            Component::CurDir | Component::Prefix(_) => {}
            other => todo.push(other.as_os_str().to_owned()),
        }
    }
}

/// Opens one name without following it, after making it where it is missing.
fn open_or_make(dir: BorrowedFd<'_>, name: &CStr, missing: Missing, last: bool) -> io::Result<OwnedFd> {
    // One more try for each time that someone takes away what was just made or makes it first.
    for _ in 0..8 {
        match open_name(dir, name) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            done => return done,
        }
        let made = match missing {
            Missing::File(mode) if last => make_file(dir, name, mode),
            Missing::Directory(mode) => make_dir(dir, name, mode),
            Missing::File(_) => make_dir(dir, name, 0o755),
        };
        match made {
            Err(e) if e.raw_os_error() != Some(libc::EEXIST) => return Err(e),
            _ => {}
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

/// Opens one name in a directory, a link as itself (`O_PATH`).
fn open_name(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    open_raw(dir, name, O_PATH, 0)
}

fn open_raw(dir: BorrowedFd<'_>, name: &CStr, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    let flags = flags | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    own(retry(|| {
        // SAFETY: `name` ends with a NUL.
        unsafe { libc::openat(dir.as_raw_fd(), name.as_ptr(), flags, mode) }.into()
    })?)
}

/// Opens one entry of a directory with `O_…` flags (close-on-exec is added) and a mode for `O_CREAT`; a link is not
/// followed (`ELOOP`, or itself with `O_PATH`).
pub fn open_entry(dir: BorrowedFd<'_>, name: &OsStr, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    open_raw(dir, &entry_name(name)?, flags, mode)
}

/// Makes a directory in `dir`.
pub fn make_entry_dir(dir: BorrowedFd<'_>, name: &OsStr, mode: u32) -> io::Result<()> {
    make_dir(dir, &entry_name(name)?, mode)
}

fn entry_name(name: &OsStr) -> io::Result<CString> {
    if name.is_empty() || name == "." || name == ".." || name.as_bytes().contains(&b'/') {
        return Err(invalid());
    }
    c_string(name)
}

/// The names in an open directory, without `.` and `..`, in no order. Needs a descriptor without `O_PATH`; a copy of it
/// is read from the start.
pub fn entries(dir: BorrowedFd<'_>) -> io::Result<impl Iterator<Item = io::Result<OsString>>> {
    let again = open_raw(dir, c".", O_RDONLY | O_DIRECTORY, 0)?;
    let mut listed = nix::dir::Dir::from_fd(again)?;
    let names: Vec<io::Result<OsString>> = listed
        .iter()
        .map(|entry| Ok(OsString::from_vec(entry?.file_name().to_bytes().to_vec())))
        .filter(|name| !name.as_ref().is_ok_and(|n| n == "." || n == ".."))
        .collect();
    Ok(names.into_iter())
}

fn make_dir(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> io::Result<()> {
    // SAFETY: `name` ends with a NUL.
    check(unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), mode as libc::mode_t) }.into())?;
    Ok(())
}

fn make_file(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> io::Result<()> {
    // SAFETY: `name` ends with a NUL; mknod of a regular file follows no link and needs no privilege.
    check(unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), libc::S_IFREG | mode as libc::mode_t, 0) }.into())?;
    Ok(())
}

/// What [`make_node`] makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// A character device of this major and minor number.
    Char(u32, u32),
    /// A block device of this major and minor number.
    Block(u32, u32),
    /// A named pipe.
    Pipe,
}

/// Makes a device node or a named pipe in `dir`, with this mode less the process's mask.
pub fn make_node(dir: BorrowedFd<'_>, name: &OsStr, kind: NodeKind, mode: u32) -> io::Result<()> {
    let name = c_string(name)?;
    let (kind, device) = match kind {
        NodeKind::Char(major, minor) => (libc::S_IFCHR, libc::makedev(major, minor)),
        NodeKind::Block(major, minor) => (libc::S_IFBLK, libc::makedev(major, minor)),
        NodeKind::Pipe => (libc::S_IFIFO, 0),
    };
    let mode = kind | mode as libc::mode_t;
    // SAFETY: `name` ends with a NUL; mknod follows no link.
    check(unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), mode, device) }.into())?;
    Ok(())
}

/// Makes a symbolic link called `name` in `dir`.
pub fn make_link(target: impl AsRef<OsStr>, dir: BorrowedFd<'_>, name: impl AsRef<OsStr>) -> io::Result<()> {
    let (target, name) = (c_string(target)?, entry_name(name.as_ref())?);
    // SAFETY: both texts end with a NUL.
    check(unsafe { libc::symlinkat(target.as_ptr(), dir.as_raw_fd(), name.as_ptr()) }.into())?;
    Ok(())
}

/// The text of a link opened with `O_PATH | O_NOFOLLOW`.
pub fn read_link(link: BorrowedFd<'_>) -> io::Result<OsString> {
    let mut text = vec![0u8; LINK_BYTES_MAX];
    // SAFETY: pointer and length are those of `text`; the empty path means the descriptor itself.
    let length = check(unsafe {
        libc::readlinkat(link.as_raw_fd(), c"".as_ptr(), text.as_mut_ptr().cast(), text.len()) as libc::c_long
    })?;
    text.truncate(length.unsigned_abs() as usize);
    if text.len() == LINK_BYTES_MAX {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    Ok(OsString::from_vec(text))
}

/// What a descriptor refers to, from fstat(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Type and permissions (`st_mode`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of a device node.
    pub rdev: u64,
}

impl Status {
    /// Whether it is of this type (`libc::S_IFDIR` …).
    fn is(self, kind: libc::mode_t) -> bool {
        self.mode & libc::S_IFMT == kind
    }

    /// A directory.
    pub fn is_dir(self) -> bool {
        self.is(libc::S_IFDIR)
    }

    /// A regular file.
    pub fn is_file(self) -> bool {
        self.is(libc::S_IFREG)
    }

    /// A symbolic link.
    pub fn is_link(self) -> bool {
        self.is(libc::S_IFLNK)
    }

    /// A character device.
    pub fn is_char_device(self) -> bool {
        self.is(libc::S_IFCHR)
    }

    /// A character or block device.
    pub fn is_device(self) -> bool {
        self.is_char_device() || self.is(libc::S_IFBLK)
    }

    /// A pipe or a socket.
    pub fn is_stream(self) -> bool {
        self.is(libc::S_IFIFO) || self.is(libc::S_IFSOCK)
    }

    /// Major and minor number of a device node.
    pub fn device(self) -> (u32, u32) {
        (
            libc::major(self.rdev as libc::dev_t),
            libc::minor(self.rdev as libc::dev_t),
        )
    }
}

/// What `fd` refers to; works on `O_PATH` descriptors.
pub fn status(fd: BorrowedFd<'_>) -> io::Result<Status> {
    // SAFETY: all fields are integers, for which zero is a value.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is valid for writes.
    check(unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) }.into())?;
    #[allow(
        clippy::useless_conversion,
        clippy::unnecessary_cast,
        reason = "the widths differ between architectures"
    )]
    Ok(Status {
        mode: stat.st_mode.into(),
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev as u64,
    })
}

/// Device and inode number of what `fd` refers to, which name a file.
pub fn file_id(fd: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    Ok(super::fs::stat_fd(fd)?.id)
}

fn is_link(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(status(fd)?.is_link())
}

/// File systems that code here tells apart, by their magic number (statfs(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsKind {
    /// procfs.
    Proc,
    /// sysfs.
    Sys,
    /// ramfs or tmpfs: what an initramfs is.
    Ram,
    /// devpts.
    Pts,
    /// cgroup v2.
    Cgroup2,
    /// overlayfs.
    Overlay,
    /// Any other.
    Other(u64),
}

/// The kind of file system that holds `fd`.
pub fn fs_kind(fd: BorrowedFd<'_>) -> io::Result<FsKind> {
    // SAFETY: all fields are integers, for which zero is a value.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is valid for writes.
    check(unsafe { libc::fstatfs(fd.as_raw_fd(), &raw mut stat) }.into())?;
    #[allow(clippy::unnecessary_cast, reason = "the widths differ between C libraries")]
    let magic = stat.f_type as u64 & 0xffff_ffff;
    Ok(match magic {
        0x9fa0 => FsKind::Proc,
        0x6265_6572 => FsKind::Sys,
        0x0102_1994 | 0x8584_58f6 => FsKind::Ram,
        0x1cd1 => FsKind::Pts,
        0x6367_7270 => FsKind::Cgroup2,
        0x794c_7630 => FsKind::Overlay,
        other => FsKind::Other(other),
    })
}

/// Gives an open file another owner; needs a descriptor without `O_PATH`.
pub fn set_owner(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: plain arguments.
    check(unsafe { libc::fchown(fd.as_raw_fd(), uid, gid) }.into())?;
    Ok(())
}

/// Gives what an `O_PATH` descriptor refers to another owner.
pub fn set_owner_of_path(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: the empty path means the descriptor itself.
    check(unsafe { libc::fchownat(fd.as_raw_fd(), c"".as_ptr(), uid, gid, libc::AT_EMPTY_PATH) }.into())?;
    Ok(())
}

/// Sets the permission bits of an open file; needs a descriptor without `O_PATH`.
pub fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    // SAFETY: plain arguments.
    check(unsafe { libc::fchmod(fd.as_raw_fd(), mode as libc::mode_t) }.into())?;
    Ok(())
}

/// Makes `dir` the working directory.
pub fn enter(dir: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a plain argument.
    check(unsafe { libc::fchdir(dir.as_raw_fd()) }.into())?;
    Ok(())
}

/// Whether the caller may execute the file at `path`, by its effective ids and capabilities.
pub fn may_execute(path: &CStr) -> io::Result<()> {
    // SAFETY: `path` ends with a NUL.
    check(unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS) }.into())?;
    Ok(())
}

/// The whole of a regular file below `root`, at most `limit` bytes; `None` when there is none. A longer one, or one that
/// is not a regular file, is an error.
pub fn read_bounded(root: BorrowedFd<'_>, path: &Path, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let flags = O_RDONLY | O_NONBLOCK | O_NOCTTY;
    let file = match open_at(root, path, flags, 0, Resolve::InRoot) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
            return Ok(None);
        }
        done => done?,
    };
    if !status(file.as_fd())?.is_file() {
        return Err(invalid());
    }
    let mut bytes = Vec::new();
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    std::fs::File::from(file).take(bound).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("dunlin-path-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(dir.join("root/etc")).expect("scratch");
            fs::create_dir_all(dir.join("outside")).expect("scratch");
            Scratch(dir)
        }

        fn root(&self) -> OwnedFd {
            open_root(&self.0.join("root")).expect("root")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_is_missing_is_made_below_the_root_whatever_links_say() {
        let scratch = Scratch::new("ensure");
        let (root, outside) = (scratch.0.join("root"), scratch.0.join("outside"));
        symlink(
            "../../../../../../../../../run/resolve.conf",
            root.join("etc/resolv.conf"),
        )
        .expect("link");
        symlink(&outside, root.join("abs")).expect("link");
        symlink("../../outside", root.join("up")).expect("link");
        symlink("up2", root.join("chain")).expect("link");
        symlink("/deep/er", root.join("up2")).expect("link");
        let cases: [(&str, Missing, String); 6] = [
            ("/etc/resolv.conf", Missing::File(0o644), "run/resolve.conf".into()),
            (
                "/abs/a/b",
                Missing::Directory(0o755),
                format!("{}/a/b", outside.display()).trim_start_matches('/').into(),
            ),
            ("up/file", Missing::File(0o600), "outside/file".into()),
            ("/chain/x", Missing::Directory(0o700), "deep/er/x".into()),
            ("/../../tmp/../new/dir", Missing::Directory(0o755), "new/dir".into()),
            ("a/./b/../c", Missing::Directory(0o755), "a/c".into()),
        ];
        for (path, missing, made) in cases {
            let fd = ensure(scratch.root().as_fd(), Path::new(path), missing).expect(path);
            let found = status(fd.as_fd()).expect("stat");
            assert_eq!(found.is_dir(), matches!(missing, Missing::Directory(_)), "{path}");
            let meta =
                fs::symlink_metadata(root.join(&made)).unwrap_or_else(|e| panic!("{path} should make {made}: {e}"));
            assert_eq!(meta.is_dir(), found.is_dir(), "{path}");
        }
        assert_eq!(
            fs::read_dir(&outside).expect("outside").count(),
            0,
            "nothing is made outside"
        );
    }

    #[test]
    fn loops_and_files_on_the_way_are_errors() {
        let scratch = Scratch::new("loops");
        let root = scratch.0.join("root");
        symlink("b", root.join("a")).expect("link");
        symlink("a", root.join("b")).expect("link");
        fs::write(root.join("file"), "x").expect("file");
        let cases = [("a/x", libc::ELOOP), ("file/x", libc::ENOTDIR)];
        for (path, errno) in cases {
            let error = ensure(scratch.root().as_fd(), Path::new(path), Missing::Directory(0o755)).expect_err(path);
            assert_eq!(error.raw_os_error(), Some(errno), "{path}");
        }
    }

    #[test]
    fn the_root_itself_can_be_ensured() {
        let scratch = Scratch::new("itself");
        for path in ["/", ".", "..", "/../.."] {
            let fd = ensure(scratch.root().as_fd(), Path::new(path), Missing::Directory(0o755)).expect(path);
            assert!(status(fd.as_fd()).expect("stat").is_dir(), "{path}");
        }
    }

    #[test]
    fn what_is_written_below_proc_is_procfs() {
        open_proc(Path::new("self/oom_score_adj"), O_RDONLY).expect("a file of procfs");
        for (path, errno) in [
            ("../etc/passwd", libc::EXDEV),
            ("/etc/passwd", libc::EXDEV),
            ("self/root/etc/passwd", libc::ELOOP),
            ("self/fd/0", libc::ELOOP),
            ("self/none", libc::ENOENT),
        ] {
            let error = open_proc(Path::new(path), O_RDONLY).expect_err(path);
            assert_eq!(error.raw_os_error(), Some(errno), "{path}");
        }
    }

    #[test]
    fn reading_is_bounded_and_only_of_regular_files() {
        let scratch = Scratch::new("read");
        let root = scratch.0.join("root");
        fs::write(root.join("etc/passwd"), "root:x:0:0\n").expect("file");
        symlink("/etc/passwd", root.join("link")).expect("link");
        symlink("/dev/zero", root.join("zero")).expect("link");
        let read = |path: &str, limit| read_bounded(scratch.root().as_fd(), Path::new(path), limit);
        assert_eq!(read("link", 64).expect("reads"), Some(b"root:x:0:0\n".to_vec()));
        assert_eq!(read("zero", 64).expect("dangles inside"), None);
        assert_eq!(
            read("etc/passwd", 4).expect_err("too long").raw_os_error(),
            Some(libc::EFBIG)
        );
        assert!(read("etc", 4).is_err());
    }
}

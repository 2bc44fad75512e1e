//! Files relative to directory descriptors, so that no path is ever resolved twice and none leaves its root (openat2(2)).

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{Mode, SFlag};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags};

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A fifo.
    Fifo,
    /// A socket.
    Socket,
}

/// Seconds and nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Time {
    /// Seconds; may be negative.
    pub seconds: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanos: u32,
}

/// What stat(2) says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// The type.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Time,
    /// Device number of a device node.
    pub rdev: u64,
    /// File system and inode: the identity of a file.
    pub id: (u64, u64),
    /// Hard links.
    pub links: u64,
    /// Bytes on disk.
    pub allocated: u64,
}

impl Meta {
    /// Whether this is an overlay whiteout: a character device 0:0.
    pub fn is_whiteout(&self) -> bool {
        self.kind == Kind::Char && self.rdev == 0
    }
}

/// Space and inodes left for ordinary users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes.
    pub bytes: u64,
    /// Inodes; `u64::MAX` where the file system has no fixed number.
    pub inodes: u64,
}

const DIR: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// Opens the directory `path`.
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(nix::fcntl::open(path, DIR, Mode::empty())?)
}

/// Names the directory `path` without opening it for reading, so that its mode does not matter: for passing it on to a process
/// that may open it. The last component may not be a symbolic link.
pub fn name_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(path, flags, Mode::empty())?)
}

/// Opens the directory `name` of `dir`; ELOOP or ENOTDIR when it is something else, a symbolic link included.
pub fn open_dir_at(dir: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    openat2(dir, name, DIR, resolve)
}

/// Opens the directory at `path` below `root`, following symbolic links as long as they stay below it; EXDEV when one
/// leaves (absolute ones always do).
pub fn open_dir_beneath(root: impl AsFd, path: &[u8]) -> io::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    openat2(root, path, DIR, resolve)
}

/// Opens the file `name` of `dir` for reading; a symbolic link is ELOOP.
pub fn open_file_at(dir: impl AsFd, name: &[u8]) -> io::Result<File> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    Ok(openat2(dir, name, flags, resolve)?.into())
}

/// Opens the regular file `name` in `dir` for writing behind what it has.
pub fn write_file_at(dir: impl AsFd, name: &[u8]) -> io::Result<File> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    Ok(openat2(dir, name, flags, resolve)?.into())
}

/// Makes the file `name` in `dir`, which must not exist, for writing.
pub fn create_file_at(dir: impl AsFd, name: &[u8], mode: u32) -> io::Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::openat(dir, name, flags, Mode::from_bits_truncate(mode))?.into())
}

fn openat2(dir: impl AsFd, path: &[u8], flags: OFlag, resolve: ResolveFlag) -> io::Result<OwnedFd> {
    loop {
        let how = OpenHow::new().flags(flags).resolve(resolve);
        match nix::fcntl::openat2(&dir, path, how) {
            // A rename elsewhere raced with the walk (openat2(2)); nothing was opened.
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => continue,
            other => return Ok(other?),
        }
    }
}

/// Makes a directory.
pub fn mkdir_at(dir: impl AsFd, name: &[u8], mode: u32) -> io::Result<()> {
    Ok(nix::sys::stat::mkdirat(dir, name, Mode::from_bits_truncate(mode))?)
}

/// Makes a symbolic link `name` that says `target`.
pub fn symlink_at(target: &[u8], dir: impl AsFd, name: &[u8]) -> io::Result<()> {
    Ok(nix::unistd::symlinkat(target, dir, name)?)
}

/// Makes a fifo.
pub fn fifo_at(dir: impl AsFd, name: &[u8], mode: u32) -> io::Result<()> {
    Ok(nix::unistd::mkfifoat(dir, name, Mode::from_bits_truncate(mode))?)
}

/// Makes an overlay whiteout (a character device 0:0, which needs no privilege since Linux 5.8).
pub fn whiteout_at(dir: impl AsFd, name: &[u8]) -> io::Result<()> {
    Ok(nix::sys::stat::mknodat(dir, name, SFlag::S_IFCHR, Mode::empty(), 0)?)
}

/// Makes a hard link; a symbolic link is linked itself, not followed.
pub fn link_at(from_dir: impl AsFd, from: &[u8], to_dir: impl AsFd, to: &[u8]) -> io::Result<()> {
    Ok(nix::unistd::linkat(from_dir, from, to_dir, to, AtFlags::empty())?)
}

/// Removes anything but a directory.
pub fn unlink_at(dir: impl AsFd, name: &[u8]) -> io::Result<()> {
    Ok(nix::unistd::unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)?)
}

/// Removes an empty directory.
pub fn rmdir_at(dir: impl AsFd, name: &[u8]) -> io::Result<()> {
    Ok(nix::unistd::unlinkat(dir, name, UnlinkatFlags::RemoveDir)?)
}

/// Renames; an existing target is an error (EEXIST) and stays.
pub fn rename_new(from_dir: impl AsFd, from: &[u8], to_dir: impl AsFd, to: &[u8]) -> io::Result<()> {
    let text = |name: &[u8]| CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL));
    let (from, to) = (text(from)?, text(to)?);
    // nix has this call for glibc only.
    // SAFETY: both names end with NUL and outlive the call; both descriptors are borrowed for its time.
    super::call::check(unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            from_dir.as_fd().as_raw_fd(),
            from.as_ptr(),
            to_dir.as_fd().as_raw_fd(),
            to.as_ptr(),
            libc::RENAME_NOREPLACE,
        )
    })?;
    Ok(())
}

/// Renames; an existing target is replaced.
pub fn rename_at(from_dir: impl AsFd, from: &[u8], to_dir: impl AsFd, to: &[u8]) -> io::Result<()> {
    Ok(nix::fcntl::renameat(from_dir, from, to_dir, to)?)
}

/// What `name` of `dir` is; symbolic links are not followed.
pub fn stat_at(dir: impl AsFd, name: &[u8]) -> io::Result<Meta> {
    Ok(meta(&nix::sys::stat::fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?))
}

/// What an open file is.
pub fn stat_fd(fd: impl AsFd) -> io::Result<Meta> {
    Ok(meta(&nix::sys::stat::fstat(fd)?))
}

// The widths of stat's fields differ between the architectures.
#[allow(clippy::unnecessary_cast)]
fn meta(stat: &nix::sys::stat::FileStat) -> Meta {
    let kind = match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFREG => Kind::File,
        SFlag::S_IFDIR => Kind::Dir,
        SFlag::S_IFLNK => Kind::Symlink,
        SFlag::S_IFCHR => Kind::Char,
        SFlag::S_IFBLK => Kind::Block,
        SFlag::S_IFIFO => Kind::Fifo,
        _ => Kind::Socket,
    };
    Meta {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: stat.st_size.try_into().unwrap_or(0),
        mtime: Time {
            seconds: stat.st_mtime as i64,
            nanos: stat.st_mtime_nsec.try_into().unwrap_or(0),
        },
        rdev: stat.st_rdev as u64,
        id: (stat.st_dev as u64, stat.st_ino as u64),
        links: stat.st_nlink as u64,
        allocated: u64::try_from(stat.st_blocks).unwrap_or(0) * 512,
    }
}

/// What a symbolic link says.
pub fn read_link_at(dir: impl AsFd, name: &[u8]) -> io::Result<Vec<u8>> {
    Ok(OsString::into_vec(nix::fcntl::readlinkat(dir, name)?))
}

/// Sets the owner of an open file.
pub fn chown_fd(fd: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    Ok(nix::unistd::fchown(
        fd,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
    )?)
}

/// Sets the owner of `name` in `dir`; symbolic links are not followed.
pub fn chown_at(dir: impl AsFd, name: &[u8], uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    Ok(nix::unistd::fchownat(
        dir,
        name,
        uid,
        gid,
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )?)
}

/// Sets the mode of an open file.
pub fn chmod_fd(fd: impl AsFd, mode: u32) -> io::Result<()> {
    Ok(nix::sys::stat::fchmod(fd, Mode::from_bits_truncate(mode))?)
}

/// Sets the mode of `name` in `dir`, which must not be a symbolic link.
pub fn chmod_at(dir: impl AsFd, name: &[u8], mode: u32) -> io::Result<()> {
    let flag = nix::sys::stat::FchmodatFlags::FollowSymlink;
    Ok(nix::sys::stat::fchmodat(
        dir,
        name,
        Mode::from_bits_truncate(mode),
        flag,
    )?)
}

/// Sets access and modification time of an open file to `time`.
pub fn set_time_fd(fd: impl AsFd, time: Time) -> io::Result<()> {
    let time = time_spec(time);
    Ok(nix::sys::stat::futimens(fd, &time, &time)?)
}

/// Sets access and modification time of `name` in `dir`; symbolic links are not followed.
pub fn set_time_at(dir: impl AsFd, name: &[u8], time: Time) -> io::Result<()> {
    let time = time_spec(time);
    Ok(nix::sys::stat::utimensat(
        dir,
        name,
        &time,
        &time,
        nix::sys::stat::UtimensatFlags::NoFollowSymlink,
    )?)
}

// time_t is 64 bits wide on every target of ours.
#[allow(clippy::unnecessary_cast)]
fn time_spec(time: Time) -> TimeSpec {
    TimeSpec::new(time.seconds as _, time.nanos as _)
}

/// The names in a directory (without `.` and `..`), in the file system's order.
pub fn names(dir: impl AsFd) -> io::Result<Vec<Vec<u8>>> {
    some_names(dir, usize::MAX)
}

/// At most `max` names of a directory, for walks whose memory is bounded.
pub fn some_names(dir: impl AsFd, max: usize) -> io::Result<Vec<Vec<u8>>> {
    // A descriptor of its own: reading moves the offset that duplicates share.
    let mut listing = nix::dir::Dir::from_fd(open_dir_at(dir, b".")?)?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
            if names.len() >= max {
                break;
            }
        }
    }
    Ok(names)
}

/// What is left on the file system of `fd`.
// The widths of statvfs's fields differ between the C libraries.
#[allow(clippy::unnecessary_cast)]
pub fn space(fd: impl AsFd) -> io::Result<Space> {
    let stat = nix::sys::statvfs::fstatvfs(fd)?;
    let bytes = (stat.blocks_available() as u64).saturating_mul(stat.fragment_size() as u64);
    let inodes = if stat.files() == 0 {
        u64::MAX
    } else {
        stat.files_available() as u64
    };
    Ok(Space { bytes, inodes })
}

/// Bytes of the whole file system of `fd`.
#[allow(clippy::unnecessary_cast)]
pub fn size(fd: impl AsFd) -> io::Result<u64> {
    let stat = nix::sys::statvfs::fstatvfs(fd)?;
    Ok((stat.blocks() as u64).saturating_mul(stat.fragment_size() as u64))
}

/// Writes everything of this file system to the device.
pub fn sync_fs(fd: impl AsFd) -> io::Result<()> {
    Ok(nix::unistd::syncfs(fd)?)
}

/// Writes a file or a directory to the device.
pub fn sync(fd: impl AsFd) -> io::Result<()> {
    Ok(nix::unistd::fsync(fd)?)
}

/// Starts to write `len` bytes at `offset` to the device without waiting (sync_file_range(2)): a hint, failures do not
/// matter.
pub fn start_writing(file: &File, offset: u64, len: u64) {
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
        return;
    };
    // SAFETY: plain integers and a descriptor that `file` keeps open; no memory is passed.
    unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Gives the page cache of `len` bytes at `offset` back once they are on the device: a hint, failures do not matter.
pub fn drop_cache(file: &File, offset: u64, len: u64) {
    let (Ok(start), Ok(length)) = (i64::try_from(offset), i64::try_from(len)) else {
        return;
    };
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: plain integers and a descriptor that `file` keeps open; no memory is passed.
    unsafe { libc::sync_file_range(file.as_raw_fd(), start, length, flags) };
    let _ = nix::fcntl::posix_fadvise(file, start, length, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

/// Copies up to `len` bytes from `from` at `offset` to the same offset of `to` within the kernel (shared where the file
/// system can); returns how many.
pub fn copy_range(from: &File, to: &File, offset: u64, len: usize) -> io::Result<usize> {
    let mut from_offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut to_offset = from_offset;
    Ok(nix::fcntl::copy_file_range(
        from,
        Some(&mut from_offset),
        to,
        Some(&mut to_offset),
        len,
    )?)
}

/// Whether copies of files in this folder share their blocks (FICLONE of ioctl_ficlone(2)); tried with two files without names.
pub fn shares_copies(dir: &Path) -> bool {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    /// `_IOW(0x94, 9, int)`.
    const FICLONE: u32 = 0x4004_9409;
    let make = || {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE);
        options.open(dir)
    };
    let (Ok(mut from), Ok(to)) = (make(), make()) else {
        return false;
    };
    if from.write_all(&[1; 4096]).is_err() {
        return false;
    }
    // SAFETY: two descriptors that the files keep open; no memory is passed.
    unsafe { libc::ioctl(to.as_raw_fd(), FICLONE as _, from.as_raw_fd()) == 0 }
}

/// The next range of `file` at or after `offset` that holds data (lseek(2), SEEK_DATA and SEEK_HOLE).
pub fn next_data(file: &File, offset: u64) -> io::Result<Option<(u64, u64)>> {
    let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let start = match nix::unistd::lseek(file, offset, nix::unistd::Whence::SeekData) {
        Ok(start) => start,
        Err(nix::errno::Errno::ENXIO) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let end = nix::unistd::lseek(file, start, nix::unistd::Whence::SeekHole)?;
    Ok(Some((start.unsigned_abs(), end.unsigned_abs())))
}

/// Makes a pipe's buffer `bytes` big: a hint, an unprivileged user may have used up the share.
pub fn grow_pipe(pipe: impl AsFd, bytes: usize) {
    let Ok(bytes) = i32::try_from(bytes) else { return };
    let _ = nix::fcntl::fcntl(pipe, nix::fcntl::FcntlArg::F_SETPIPE_SZ(bytes));
}

/// Sets an extended attribute of an open file.
pub fn set_xattr(fd: impl AsFd, name: &[u8], value: &[u8]) -> io::Result<()> {
    let name = CString::new(name)?;
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: name is a C string and value a slice of that length; both live over the call.
    let done = unsafe { libc::fsetxattr(fd, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    nix::errno::Errno::result(done)?;
    Ok(())
}

/// An extended attribute of an open file; `None` where it has none or the file system knows none.
pub fn get_xattr(fd: impl AsFd, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let name = CString::new(name)?;
    let fd = fd.as_fd().as_raw_fd();
    match grow(|buffer| {
        // SAFETY: name is a C string and the kernel writes at most `buffer.len()` bytes into buffer.
        unsafe { libc::fgetxattr(fd, name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) }
    }) {
        Ok(value) => Ok(Some(value)),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENODATA | libc::ENOTSUP)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The names of an open file's extended attributes; none where the file system knows none.
pub fn list_xattrs(fd: impl AsFd) -> io::Result<Vec<Vec<u8>>> {
    let fd = fd.as_fd().as_raw_fd();
    let list = match grow(|buffer| {
        // SAFETY: the kernel writes at most `buffer.len()` bytes into buffer.
        unsafe { libc::flistxattr(fd, buffer.as_mut_ptr().cast(), buffer.len()) }
    }) {
        Ok(list) => list,
        Err(e) if e.raw_os_error() == Some(libc::ENOTSUP) => Vec::new(),
        Err(e) => return Err(e),
    };
    Ok(list
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect())
}

/// Calls `fill` with larger buffers until the answer fits; 64 KiB is the kernel's own bound.
fn grow(mut fill: impl FnMut(&mut [u8]) -> isize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 256];
    loop {
        match nix::errno::Errno::result(fill(&mut buffer)) {
            Ok(used) => {
                buffer.truncate(used.unsigned_abs());
                return Ok(buffer);
            }
            Err(nix::errno::Errno::ERANGE) if buffer.len() < 65536 => buffer.resize(buffer.len() * 4, 0),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Whether this error number means that the disk, the quota or the inodes are used up.
pub fn is_full(errno: i32) -> bool {
    matches!(errno, libc::ENOSPC | libc::EDQUOT)
}

/// Whether opening failed because a component of the path is a symbolic link or no directory.
pub fn is_symlink_in_path(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR))
}

/// Whether the file system (or the kernel, for this user) does not do this at all.
pub fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTSUP | libc::EPERM | libc::ENOSYS))
}

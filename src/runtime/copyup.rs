//! `tmpcopyup` and `copy`: a new tmpfs, or a new volume, begins with what the image has at its place.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::sys::errno;
use crate::sys::path::{self, Resolve};
use crate::types::bounds::{COPY_UP_DEPTH, COPY_UP_ENTRIES};

/// Copies directories, files and links below `from` in `root` into the directory `to`, with owners and modes.
pub fn copy(root: BorrowedFd<'_>, from: &Path, to: BorrowedFd<'_>) -> io::Result<()> {
    let from = path::open_at(root, from, path::O_RDONLY | path::O_DIRECTORY, 0, Resolve::InRoot)?;
    let to = path::open_at(
        to,
        Path::new("."),
        path::O_RDONLY | path::O_DIRECTORY,
        0,
        Resolve::Beneath,
    )?;
    let mut left = COPY_UP_ENTRIES;
    copy_dir(from, to, COPY_UP_DEPTH, &mut left)
}

fn copy_dir(from: OwnedFd, to: OwnedFd, depth: usize, left: &mut usize) -> io::Result<()> {
    let too_much = || io::Error::from_raw_os_error(errno::E2BIG);
    let depth = depth.checked_sub(1).ok_or_else(too_much)?;
    for name in path::entries(from.as_fd())? {
        let name = name?;
        *left = left.checked_sub(1).ok_or_else(too_much)?;
        let entry = path::open_entry(from.as_fd(), &name, path::O_PATH, 0)?;
        let status = path::status(entry.as_fd())?;
        if status.is_dir() {
            path::make_entry_dir(to.as_fd(), &name, 0o700)?;
            let dir = path::O_RDONLY | path::O_DIRECTORY;
            let below = path::open_entry(from.as_fd(), &name, dir, 0)?;
            let made = path::open_entry(to.as_fd(), &name, dir, 0)?;
            copy_dir(below, made, depth, left)?;
        } else if status.is_file() {
            let mut source: std::fs::File =
                path::open_entry(from.as_fd(), &name, path::O_RDONLY | path::O_NONBLOCK, 0)?.into();
            let flags = path::O_WRONLY | path::O_CREAT | path::O_EXCL;
            let mut made: std::fs::File = path::open_entry(to.as_fd(), &name, flags, 0o600)?.into();
            io::copy(&mut source, &mut made)?;
            own(made.as_fd(), status)?;
        } else if status.is_link() {
            path::make_link(path::read_link(entry.as_fd())?, to.as_fd(), &name)?;
            let made = path::open_entry(to.as_fd(), &name, path::O_PATH, 0)?;
            path::set_owner_of_path(made.as_fd(), status.uid, status.gid)?;
        }
    }
    own(to.as_fd(), path::status(from.as_fd())?)
}

fn own(made: BorrowedFd<'_>, status: path::Status) -> io::Result<()> {
    path::set_owner(made, status.uid, status.gid)?;
    path::set_mode(made, status.mode & 0o7777)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn copies_files_directories_and_links() {
        let scratch = std::env::temp_dir().join(format!("dunlin-copyup-{}", std::process::id()));
        let (from, to) = (scratch.join("root/a"), scratch.join("to"));
        fs::create_dir_all(from.join("sub")).expect("scratch");
        fs::create_dir_all(&to).expect("scratch");
        fs::write(from.join("sub/file"), "text").expect("file");
        fs::set_permissions(from.join("sub/file"), fs::Permissions::from_mode(0o640)).expect("mode");
        symlink("/nowhere", from.join("link")).expect("link");
        let root = path::open_root(&scratch.join("root")).expect("root");
        let place = path::open_root(&to).expect("to");
        copy(root.as_fd(), Path::new("/a"), place.as_fd()).expect("copies");
        assert_eq!(fs::read_to_string(to.join("sub/file")).expect("file"), "text");
        assert_eq!(
            fs::metadata(to.join("sub/file")).expect("file").permissions().mode() & 0o7777,
            0o640
        );
        assert_eq!(fs::read_link(to.join("link")).expect("link"), Path::new("/nowhere"));
        fs::remove_dir_all(&scratch).expect("clean");
    }
}

//! Device nodes of a container: made by whoever may, bound from the host by everybody else.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::error::RuntimeError;
use super::mounts::{failed, source_error, target};
use super::rootfs::Node;
use crate::sys::path::{self, Missing, NodeKind, Resolve, Status};
use crate::sys::{errno, mount};

/// Makes a node, or binds the host's.
pub fn make(root: BorrowedFd<'_>, node: &Node, may_make: bool) -> Result<(), RuntimeError> {
    if may_make || node.kind == NodeKind::Pipe {
        match make_new(root, node) {
            Err(e) if e.raw_os_error() == Some(errno::EPERM) && node.kind != NodeKind::Pipe => {}
            done => {
                return done.map_err(|e| RuntimeError::Target {
                    path: node.path.display().to_string(),
                    errno: e.into(),
                });
            }
        }
    }
    bind(root, node)
}

fn make_new(root: BorrowedFd<'_>, node: &Node) -> io::Result<()> {
    let name = node.path.file_name();
    let (Some(dir), Some(name)) = (node.path.parent(), name) else {
        return Err(io::Error::from_raw_os_error(errno::EINVAL));
    };
    let dir = path::ensure(root, dir, Missing::Directory(0o755))?;
    let made = match path::make_node(dir.as_fd(), name, node.kind, node.mode) {
        Err(e) if e.raw_os_error() == Some(errno::EEXIST) => {
            let there = open(dir.as_fd(), Path::new(name))?;
            if !is(path::status(there.as_fd())?, node.kind) {
                return Err(e);
            }
            there
        }
        done => {
            done?;
            open(dir.as_fd(), Path::new(name))?
        }
    };
    match node.owner {
        (0, 0) => Ok(()),
        (uid, gid) => path::set_owner_of_path(made.as_fd(), uid, gid),
    }
}

fn open(dir: BorrowedFd<'_>, name: &Path) -> io::Result<OwnedFd> {
    path::open_at(dir, name, path::O_PATH, 0, Resolve::BeneathNoLinks)
}

fn is(status: Status, kind: NodeKind) -> bool {
    match kind {
        NodeKind::Char(major, minor) => status.is_char_device() && status.device() == (major, minor),
        NodeKind::Block(major, minor) => {
            status.is_device() && !status.is_char_device() && status.device() == (major, minor)
        }
        NodeKind::Pipe => status.is_stream(),
    }
}

fn bind(root: BorrowedFd<'_>, node: &Node) -> Result<(), RuntimeError> {
    let source = path::open_host(&node.path, path::O_PATH).map_err(|e| source_error(&node.path, &node.path, e))?;
    let status = path::status(source.as_fd()).map_err(|e| source_error(&node.path, &node.path, e))?;
    if !is(status, node.kind) {
        return Err(RuntimeError::spec(
            "linux.devices",
            format!(
                "`{}` is not {:?} on this host; without rights over the host nodes are bound, not made",
                node.path.display(),
                node.kind
            ),
        ));
    }
    let place = target(root, &node.path, Missing::File(0o644))?;
    mount::copy_tree(source.as_fd(), c"", false)
        .and_then(|copy| mount::attach(copy.as_fd(), place.as_fd()))
        .map_err(|e| failed(&node.path.display().to_string(), &node.path, e))
}

//! The mount of type `cgroup`: what the host has, as far as the container may see it. With the unified hierarchy that is a
//! file system of its own; with v1 a directory that holds the container's own group of every hierarchy.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::cgroup::Host;
use super::error::{Errno, RuntimeError};
use super::mounts::{failed, mount_new, new_fs, target};
use super::rootfs::{Step, Tree, What};
use crate::sys::mount::{self, attr};
use crate::sys::path::{self, Missing};
use crate::sys::{creds, errno};

/// The v1 hierarchies by name, and the caller's own group in each. To be asked before a cgroup namespace is made, which
/// hides where the groups are.
pub fn own(tree: &Tree) -> Result<Vec<(String, PathBuf)>, RuntimeError> {
    let is_asked = |step: &Step| matches!(&step.what, What::New { kind, .. } if kind == "cgroup");
    if !tree.mounts.iter().any(is_asked) {
        return Ok(Vec::new());
    }
    let host = Host::read(creds::effective_ids().0);
    Ok(host.map_err(RuntimeError::process("look for control groups"))?.own_v1())
}

/// Mounts the control groups at the step's target.
pub fn mount(root: BorrowedFd<'_>, step: &Step, v1: &[(String, PathBuf)]) -> Result<OwnedFd, RuntimeError> {
    let fail = |e: io::Error| failed("cgroup", &step.target, e);
    if v1.is_empty() {
        return unified(root, step);
    }
    let attrs = step.options.set | step.options.recursive_set;
    let place = target(root, &step.target, Missing::Directory(0o755))?;
    let data = [("mode".to_owned(), Some("755".to_owned()))];
    let top = new_fs("tmpfs", "cgroup", &data, attrs & !attr::RDONLY).map_err(fail)?;
    mount::attach(top.as_fd(), place.as_fd()).map_err(fail)?;
    for (name, own) in v1 {
        let place = path::ensure(top.as_fd(), Path::new(name), Missing::Directory(0o755)).map_err(fail)?;
        let copy = host_copy(own, attrs).map_err(fail)?;
        mount::attach(copy.as_fd(), place.as_fd()).map_err(fail)?;
        for alias in name.split(',').filter(|alias| alias != name) {
            path::make_link(name, top.as_fd(), alias).map_err(fail)?;
        }
    }
    if attrs & attr::RDONLY != 0 {
        super::remount::set(top.as_fd(), false, attr::RDONLY, 0).map_err(fail)?;
    }
    Ok(top)
}

fn unified(root: BorrowedFd<'_>, step: &Step) -> Result<OwnedFd, RuntimeError> {
    let refused = match mount_new(root, step, "cgroup2", "cgroup2") {
        Err(RuntimeError::Mount { errno, .. }) if matches!(errno, Errno(errno::EPERM | errno::EBUSY)) => errno,
        done => return done,
    };
    // Not ours to mount anew: the host's own.
    let fail = |_: io::Error| failed("cgroup2", &step.target, io::Error::from_raw_os_error(refused.0));
    let place = target(root, &step.target, Missing::Directory(0o755))?;
    let attrs = step.options.set | step.options.recursive_set;
    let copy = host_copy(Path::new("/sys/fs/cgroup"), attrs).map_err(fail)?;
    mount::attach(copy.as_fd(), place.as_fd()).map_err(fail)?;
    Ok(copy)
}

/// A detached copy of what the host has mounted at `path`, everything below it included, with these attributes.
pub fn host_copy(path: &Path, attrs: u64) -> io::Result<OwnedFd> {
    let source = path::open_root(path)?;
    let copy = mount::copy_tree(source.as_fd(), c"", true)?;
    if attrs != 0 {
        mount::set_attrs(copy.as_fd(), true, attrs, 0)?;
    }
    mount::set_propagation(copy.as_fd(), true, mount::Propagation::Private)?;
    Ok(copy)
}

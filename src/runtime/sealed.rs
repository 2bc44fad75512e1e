//! The host's binary, kept from what runs in containers.
//!
//! A container's first process, and every one that joins it, is this binary until it becomes the program; and a program may
//! be called `/proc/self/exe`, or be a script that says so, which is this binary again. Whoever in the container opens it
//! there could overwrite the host's (CVE-2019-5736). So what makes such processes runs from a mount of the binary alone
//! that is read-only and that nobody can reach to change it. That costs one exec and copies nothing.
//!
//! Whether that is so already is the kernel's word, not that of a variable.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::sys::ns::Namespaces;
use crate::sys::process::{self, CloneArgs, Cloned};
use crate::sys::{errno, path, seal, socket};

/// The running binary in a way in which nobody can write to it; none where the caller's containers cannot anyhow. The
/// caller must have one thread.
pub fn binary() -> io::Result<Option<OwnedFd>> {
    let binary = seal::binary()?;
    if !seal::is_exposed(binary.as_fd())? {
        return Ok(None);
    }
    let refused = match seal::read_only_mount(binary.as_fd()) {
        Ok(mounted) => return Ok(Some(mounted)),
        Err(error) => error,
    };
    if refused.raw_os_error() == Some(errno::EPERM)
        && let Some(mounted) = mounted_by_another(&binary)
    {
        return Ok(Some(mounted));
    }
    seal::copy_in_memory().map(Some)
}

/// Executes this process again from such a binary, where that is needed. Returns where it is not.
pub fn ensure() -> io::Result<()> {
    match binary()? {
        None => Ok(()),
        Some(binary) => Err(seal::exec_again(binary.as_fd())),
    }
}

/// A caller without rights has them in namespaces of its own: a child makes these, and hands the mount over.
fn mounted_by_another(binary: &OwnedFd) -> Option<OwnedFd> {
    let path = seal::own_path().ok()?;
    let (ours, theirs) = socket::pair().ok()?;
    let args = CloneArgs {
        namespaces: Namespaces::USER | Namespaces::MOUNT,
        ..CloneArgs::default()
    };
    match process::clone(&args).ok()? {
        Cloned::Child => {
            // By its path, since mounts of the old namespace are not the child's. The parent looks at what comes.
            let mounted = path::open_host(&path, path::O_PATH).and_then(|own| seal::read_only_mount(own.as_fd()));
            if let Ok(mounted) = mounted {
                let _ = socket::send_with_fds(theirs.as_fd(), b"m", &[mounted.as_fd()]);
            }
            process::exit_now(0)
        }
        Cloned::Parent(child) => {
            drop(theirs);
            let received = socket::recv_with_fds(ours.as_fd(), &mut [0; 8]);
            // It ends by itself; its status says nothing.
            let _ = process::wait(child.pidfd.as_fd());
            let mounted = received.ok()?.1.into_iter().next()?;
            let same = path::file_id(mounted.as_fd()).ok()? == path::file_id(binary.as_fd()).ok()?;
            (same && !seal::is_exposed(mounted.as_fd()).ok()?).then_some(mounted)
        }
    }
}

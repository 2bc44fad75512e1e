//! Kernel settings of a container's namespaces, written through its own procfs.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::error::{Errno, RuntimeError};
use crate::sys::errno;
use crate::sys::mount::NewFs;
use crate::sys::path::{self, Resolve};

/// Writes settings that [`super::check`] has let pass. `proc` is the container's procfs; without one, a procfs is made
/// that nobody else sees.
pub fn write(settings: &BTreeMap<String, String>, proc: Option<OwnedFd>) -> Result<(), RuntimeError> {
    if settings.is_empty() {
        return Ok(());
    }
    let proc = match proc {
        Some(proc) => proc,
        None => NewFs::open("proc")
            .and_then(|fs| fs.mount(0))
            .map_err(RuntimeError::process("mount proc for sysctls"))?,
    };
    for (key, value) in settings {
        write_one(proc.as_fd(), key, value).map_err(|e| {
            let problem = match e.raw_os_error() {
                Some(errno::ENOENT) => "this kernel does not have it".to_owned(),
                Some(errno::EXDEV) => "something else is mounted there; take that mount away".to_owned(),
                _ => Errno::from(e).to_string(),
            };
            RuntimeError::Sysctl {
                key: key.clone(),
                value: value.clone(),
                problem,
            }
        })?;
    }
    Ok(())
}

fn write_one(proc: BorrowedFd<'_>, key: &str, value: &str) -> io::Result<()> {
    let file = path::open_at(proc, &file_of(key), path::O_WRONLY, 0, Resolve::OneMount)?;
    std::fs::File::from(file).write_all(value.as_bytes())
}

/// `net.ipv4.x` and `net/ipv4/x` alike; in the latter, dots belong to names such as `eth0.1` (sysctl(8)).
fn file_of(key: &str) -> PathBuf {
    let name = if key.contains('/') {
        key.to_owned()
    } else {
        key.replace('.', "/")
    };
    Path::new("sys").join(name.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_write_a_name_work() {
        for (key, file) in [
            ("net.ipv4.ip_forward", "sys/net/ipv4/ip_forward"),
            ("net/ipv4/conf/eth0.1/rp_filter", "sys/net/ipv4/conf/eth0.1/rp_filter"),
        ] {
            assert_eq!(file_of(key), Path::new(file));
        }
    }
}

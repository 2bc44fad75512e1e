//! A hardware watchdog (Documentation/watchdog/watchdog-api.rst of the kernel): once opened, it resets the machine when it was not fed
//! for its time. Closing it does not stop it, unless that was said before.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;

mod ioctl {
    nix::ioctl_readwrite!(set_timeout, b'W', 6, libc::c_int);
}

/// An armed watchdog. Dropped, it goes on.
#[derive(Debug)]
pub struct Watchdog(File);

impl Watchdog {
    /// Arms it with this time; what the driver made of it, in seconds.
    pub fn open(device: &Path, seconds: u32) -> io::Result<(Watchdog, u32)> {
        let watchdog = Watchdog(OpenOptions::new().write(true).open(device)?);
        let mut time = libc::c_int::try_from(seconds).unwrap_or(libc::c_int::MAX);
        // SAFETY: the descriptor is open for the call, and the driver reads and writes the one number.
        let set = unsafe { ioctl::set_timeout(watchdog.0.as_raw_fd(), &raw mut time) };
        match (set, u32::try_from(time)) {
            (Ok(_), Ok(time)) if time > 0 => Ok((watchdog, time)),
            (set, _) => {
                let error = set
                    .err()
                    .map_or_else(|| io::Error::other("the driver takes no time"), Into::into);
                watchdog.disarm();
                Err(error)
            }
        }
    }

    /// Puts the reset off by another time.
    pub fn feed(&mut self) -> io::Result<()> {
        self.0.write_all(b"\n")
    }

    /// Stops it, where the driver allows that.
    pub fn disarm(mut self) {
        // A driver that does not stop is told of by the kernel's log.
        let _ = self.0.write_all(b"V");
    }
}

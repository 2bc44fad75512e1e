//! A hardware watchdog (Documentation/watchdog/watchdog-api.rst of the kernel): once opened, it resets the machine when it was not fed
//! for its time. Most go on when they are closed, unless that was said before.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;

mod ioctl {
    nix::ioctl_read!(get_timeout, b'W', 7, libc::c_int);
}

/// What the hardware is taken to allow where its driver does not say, seconds: the shortest of common boards.
const SHORT: u32 = 15;

/// An armed watchdog. Dropped, it goes on.
#[derive(Debug)]
pub struct Watchdog(File);

impl Watchdog {
    /// Arms it; also after how many seconds without food it resets the machine, which is left as the driver has it: some take no other
    /// time, some take one and count another.
    pub fn open(device: &Path) -> io::Result<(Watchdog, u32)> {
        let watchdog = Watchdog(OpenOptions::new().write(true).open(device)?);
        let mut time: libc::c_int = 0;
        // SAFETY: the descriptor is open for the call, and the driver writes the one number.
        let got = unsafe { ioctl::get_timeout(watchdog.0.as_raw_fd(), &raw mut time) };
        let time = got.ok().and_then(|_| u32::try_from(time).ok()).filter(|time| *time > 0);
        Ok((watchdog, time.unwrap_or(SHORT)))
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

//! The first process of a container with `--init`: starts the program, passes every signal on, and reaps what nobody waits for.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::time::Duration;

use crate::sys::event::SignalFd;
use crate::sys::{process, socket};

/// Where dunlin is bound into the container; `/dev` is memory, so that nothing of it stays in the image.
pub const PATH: &str = "/dev/dunlin-init";
/// Its name, by which it knows its role.
pub const NAME: &str = "dunlin-init";

/// SIGCHLD.
const CHILD: i32 = 17;
/// Signals of faults, and those that cannot be caught, are not passed on: ILL TRAP ABRT BUS FPE KILL SEGV STOP.
const KEPT: [i32; 8] = [4, 5, 6, 7, 8, 9, 11, 19];
/// One wait for a signal.
const WAIT: Duration = Duration::from_secs(3600);
/// Numbers of signals.
const SIGNALS: i32 = 64;

/// Runs the program and returns its exit code: 126 when it cannot be invoked, 127 when it is not found.
pub fn main(args: impl Iterator<Item = OsString>) -> u8 {
    let mut args = args;
    let Some(program) = args.next() else {
        crate::error!("there is no program to start");
        return 125;
    };
    match run(program, args) {
        Ok(code) => code,
        Err(error) => {
            crate::error!("the first process: {error}");
            125
        }
    }
}

fn run(program: OsString, args: impl Iterator<Item = OsString>) -> io::Result<u8> {
    let mut command = Command::new(&program);
    let child = match command.args(args).spawn() {
        Ok(child) => child,
        Err(error) => {
            crate::error!("`{}`: {error}", program.display());
            return Ok(if error.kind() == io::ErrorKind::NotFound {
                127
            } else {
                126
            });
        }
    };
    // After the program was started, which inherits what is blocked. A first process is sent nothing that it does not wait for.
    // 32 and 33 are the C library's own.
    let caught: Vec<i32> = (1..=SIGNALS)
        .filter(|n| !KEPT.contains(n) && ![32, 33].contains(n))
        .collect();
    let signals = SignalFd::new(&caught)?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let child_fd = process::pidfd_open(pid)?;
    loop {
        // Several ends may be one signal, and an end may have come before signals were caught.
        while let Some((gone, ended)) = process::try_wait_any()? {
            if gone == pid {
                return Ok(u8::try_from(ended.code()).unwrap_or(u8::MAX));
            }
        }
        socket::wait_readable(signals.as_fd(), WAIT)?;
        while let Some(signal) = signals.read()? {
            if signal.number != CHILD {
                // It may have ended just now.
                let _ = process::send_signal(child_fd.as_fd(), signal.number);
            }
        }
    }
}

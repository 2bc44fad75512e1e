//! Picks the role from the arguments, before any thread exists.

use std::path::PathBuf;
use std::process::ExitCode;

use dunlin::cli::runtime;
use dunlin::runtime::first;
use dunlin::sys::alloc;

/// Words of command lines that go on for long or need much memory for a while.
const LASTING: [&str; 2] = ["agent", "pull"];

/// Picks the role.
pub fn main() -> ExitCode {
    let called = std::env::args_os().next().map(PathBuf::from);
    match called.as_deref().and_then(|path| path.file_name()?.to_str()) {
        Some(runtime::NAME) => return runtime::main_once_sealed(std::env::args_os().skip(1), alloc::begin).into(),
        Some(first::NAME) => return first::main(std::env::args_os().skip(1)).into(),
        _ => {}
    }
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("keeper") => dunlin::keeper::main(&std::env::args_os().skip(2).collect::<Vec<_>>()).into(),
        Some("worker") => {
            alloc::begin();
            with_descriptor(args, dunlin::image::worker::main)
        }
        Some("decode") => {
            alloc::begin();
            dunlin::image::decode::main(&args.collect::<Vec<_>>()).into()
        }
        Some("runtime") => runtime::main_once_sealed(std::env::args_os().skip(2), alloc::begin).into(),
        Some("monitor") => with_descriptor(args, dunlin::monitor::main),
        _ => {
            if !std::env::args_os().any(|word| LASTING.iter().any(|lasting| word == *lasting)) {
                alloc::begin();
            }
            dunlin::cli::main(std::env::args_os().skip(1)).into()
        }
    }
}

/// Runs a role that is handed one descriptor: `--fd N`.
fn with_descriptor(mut args: impl Iterator<Item = String>, role: fn(std::os::fd::OwnedFd) -> u8) -> ExitCode {
    let number = match (args.next().as_deref(), args.next()) {
        (Some("--fd"), Some(number)) => number.parse().ok(),
        _ => None,
    };
    match number.and_then(|number| dunlin::sys::process::inherited(number).ok()) {
        Some(fd) => role(fd).into(),
        None => {
            dunlin::error!("this role is started by dunlin itself, with `--fd N`");
            ExitCode::from(125)
        }
    }
}

//! Runs a shell script in a micro virtual machine, by hand:
//! `cargo run --example vm -- ARCH SCRIPT [--dunlin] [--net] [--disk IMAGE] [--timeout SECONDS] [HOST_FILE:GUEST_PATH …]`.
//!
//! The exit code is the script's. `--disk` makes a missing image (256 MiB ext4).
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, dead_code)]

#[path = "../it/fixture"]
mod fixture {
    pub mod arch;
    pub mod cpio;
    pub mod scratch;
    pub mod vm;
}

use fixture::arch::Arch;
use fixture::vm::{Vm, make_disk};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            eprintln!("vm: {message}");
            ExitCode::from(125)
        }
    }
}

fn run(mut arguments: impl Iterator<Item = String>) -> Result<u8, String> {
    let arch = arguments
        .next()
        .and_then(|name| Arch::parse(&name))
        .ok_or("first name `x86_64` or `aarch64`")?;
    let script = arguments.next().ok_or("then name the script")?;
    let script = std::fs::read_to_string(&script).map_err(|error| format!("`{script}`: {error}"))?;
    let mut vm = Vm::new(arch)?;
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("`{argument}` needs a value"));
        vm = match argument.as_str() {
            "--dunlin" => vm.dunlin()?,
            "--net" => vm.net(),
            "--disk" => {
                let image = value()?;
                if !Path::new(&image).exists() {
                    make_disk(Path::new(&image), 256);
                }
                vm.disk(Path::new(&image))
            }
            "--timeout" => {
                let seconds = value()?.parse().map_err(|_| "`--timeout` takes seconds".to_owned())?;
                vm.timeout(Duration::from_secs(seconds))
            }
            file => {
                let (host, guest) = file
                    .split_once(':')
                    .ok_or(format!("`{file}` is not HOST_FILE:GUEST_PATH"))?;
                vm.file(Path::new(host), guest, 0o755)
            }
        };
    }
    let outcome = vm.run(&script);
    print!("{}", outcome.output);
    eprintln!("vm: {:.1} s", outcome.wall.as_secs_f32());
    Ok(outcome.code.and_then(|code| u8::try_from(code).ok()).unwrap_or(125))
}

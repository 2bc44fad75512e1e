//! unshare: a command as root of the store's user namespace.

use super::super::args::UnshareArgs;
use super::super::failure::{self, Failure};
use crate::config::env;
use crate::engine::Engine;
use crate::engine::unshare::caller;
use crate::keeper;
use crate::sys::event::{self, Interest, Poll, SignalFd};
use crate::sys::mount::{self, Propagation};
use crate::sys::ns::{self, Namespaces};
use crate::sys::process::{self, CloneArgs, Cloned};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// HUP INT QUIT TERM: what somebody sends to us is meant for the command; a terminal tells it itself.
const SIGNALS: [i32; 4] = [1, 2, 3, 15];

pub fn unshare(engine: &Engine, config: Option<&Path>, args: &UnshareArgs) -> Result<u8, Failure> {
    let (namespace, _keeper) = engine.namespace()?.unzip();
    let command = command(engine, config, args);
    let signals = SignalFd::new(&SIGNALS)?;
    match process::clone(&CloneArgs::default())? {
        Cloned::Parent(child) => Ok(wait(child.pidfd.as_fd(), &signals)?),
        Cloned::Child => process::exit_now(become_command(namespace, command).into()),
    }
}

fn command(engine: &Engine, config: Option<&Path>, args: &UnshareArgs) -> Command {
    let mut words = args.command.iter();
    let program = match words.next() {
        Some(word) => word.into(),
        None => std::env::var_os("SHELL")
            .filter(|shell| !shell.is_empty())
            .unwrap_or_else(|| OsString::from("/bin/sh")),
    };
    let mut command = Command::new(program);
    command
        .args(words)
        .env(env::DUNLIN_ROOT, engine.layout().data())
        .env(env::DUNLIN_RUNROOT, engine.layout().run())
        .env(env::DUNLIN_UNSHARED, caller().to_string());
    if let Some(config) = config.and_then(|path| std::path::absolute(path).ok()) {
        command.env(env::DUNLIN_CONFIG, config);
    }
    // Of root that became the owner.
    for name in [
        env::HOME,
        env::XDG_DATA_HOME,
        env::XDG_RUNTIME_DIR,
        env::XDG_CONFIG_HOME,
    ] {
        match env::get(name) {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// In the child: enters the namespace and becomes the command; returns the exit code where that does not work.
fn become_command(namespace: Option<OwnedFd>, mut command: Command) -> u8 {
    let entered = namespace.map_or(Ok(()), |namespace| keeper::enter(namespace.as_fd()));
    let entered = entered.and_then(|()| {
        let step = |what| move |error| (what, error);
        ns::unshare(Namespaces::MOUNT).map_err(step("make a mount namespace"))?;
        mount::set_root_propagation(Propagation::Slave).map_err(step("keep its mounts to itself"))?;
        process::reset_signals().map_err(step("reset signals"))
    });
    if let Err((what, error)) = entered {
        failure::say_error(&format!("unshare: {what}: {error}"));
        return failure::OWN;
    }
    let error = command.exec();
    failure::say_error(&format!("`{}`: {error}", command.get_program().to_string_lossy()));
    match error.kind() {
        io::ErrorKind::NotFound => 127,
        _ => 126,
    }
}

fn wait(child: BorrowedFd<'_>, signals: &SignalFd) -> io::Result<u8> {
    loop {
        let mut all = [
            Poll::new(Some(child), Interest::READ),
            Poll::new(Some(signals.as_fd()), Interest::READ),
        ];
        event::poll(&mut all, None)?;
        while let Some(signal) = signals.read()? {
            if signal.sender != 0 {
                // It may just have ended.
                let _ = process::send_signal(child, signal.number);
            }
        }
        if all[0].ready.read {
            let ended = process::wait(child)?;
            return Ok(u8::try_from(ended.code() & 0xff).unwrap_or(u8::MAX));
        }
    }
}

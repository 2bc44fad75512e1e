//! The role: arguments, everything that must be there before the first request, the loop, the end.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::serve::{Leave, SIGHUP, SIGINT, SIGTERM, Server};
use super::{SOCKET, client, guard, name, reload, start, state, userns};
use crate::config::env;
use crate::config::subid::Files;
use crate::disk::layout::Layout;
use crate::disk::lock::{Lock, Mode};
use crate::runtime::cgroup::{self, Host, Tree};
use crate::sys::event::SignalFd;
use crate::sys::process::{self, CloneArgs, Cloned};
use crate::sys::{creds, socket};
use crate::types::bounds::KEEPER_IDLE_MS;

/// How a keeper runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// The store.
    pub layout: Layout,
    /// A unit holds it: it stays when idle.
    pub unit: bool,
    /// How long it stays when idle, milliseconds.
    pub idle_ms: u64,
}

/// How it is started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Start {
    /// Go into the background.
    daemon: bool,
    /// Where to say how the start went.
    ready: Option<i32>,
    /// Where the previous self left its things.
    resume: Option<i32>,
    /// Only start one where none runs.
    ensure: bool,
    /// Run one and another when it dies; 0, or the one that runs already.
    guard: Option<i32>,
}

const USAGE: &str = "usage: dunlin keeper [--root DIR] [--runroot DIR] [--unit] [--idle-ms N] [--daemon] [--start] \
                     [--guard] [--guard-of N] [--ready-fd N] [--resume-fd N]";

/// Runs the role with the arguments after `keeper`; returns the exit code. The caller must have one thread.
///
/// `--unit`: a unit holds it, it says READY to systemd and stays. `--daemon`: it goes into the background. `--start`:
/// starts one in the background unless one runs, and returns when it serves. `--guard`: runs one as its child, as `--unit`, and
/// another whenever that dies.
pub fn main(args: &[OsString]) -> u8 {
    let (options, how) = match parse(args) {
        Ok(parsed) => parsed,
        Err(text) => {
            crate::error!("{text}; {USAGE}");
            return 125;
        }
    };
    if how.ensure {
        return ensure(&options.layout);
    }
    if let Some(keeper) = how.guard {
        return guard::main(options.layout, Some(keeper).filter(|pid| *pid > 0));
    }
    let mut ready = match how.ready.map(take_ready) {
        Some(Err(error)) => {
            crate::error!("keeper: ready descriptor: {error}");
            return 125;
        }
        Some(Ok(ready)) => Some(ready),
        None => None,
    };
    if how.daemon {
        match go_into_background(ready) {
            Ok(same) => ready = same,
            Err(code) => return code,
        }
    }
    // The name is for people.
    let _ = process::set_name(c"dunlin-keeper");
    match set_up(options, how.resume) {
        Ok(None) => {
            say_ready(ready, false);
            0
        }
        Ok(Some(mut server)) => {
            say_ready(ready, server.options.unit);
            let done = server.serve();
            let code = u8::from(done.is_err()) * 125;
            server.leave(done.unwrap_or_else(|error| {
                crate::error!("keeper: {error}");
                Leave::Quietly
            }));
            code
        }
        Err(text) => {
            match ready {
                // The starter shows it; if it is gone, nobody is there to read.
                Some(ready) => drop(socket::send(ready.as_fd(), &text.as_bytes()[..text.len().min(4000)])),
                None => crate::error!("keeper: {text}"),
            }
            125
        }
    }
}

fn parse(args: &[OsString]) -> Result<(Options, Start), String> {
    let system = Layout::system();
    let (mut data, mut run) = (system.data().to_owned(), system.run().to_owned());
    let (mut unit, mut idle_ms, mut how) = (false, KEEPER_IDLE_MS, Start::default());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let arg = arg.to_str().unwrap_or("?");
        let mut value = || args.next().ok_or_else(|| format!("`{arg}` needs a value"));
        let number = |value: &OsString| {
            value
                .to_str()
                .and_then(|text| text.parse::<u32>().ok())
                .ok_or_else(|| format!("`{arg}` needs a number"))
        };
        match arg {
            "--root" => data = PathBuf::from(value()?),
            "--runroot" => run = PathBuf::from(value()?),
            "--unit" => unit = true,
            "--daemon" => how.daemon = true,
            "--start" => how.ensure = true,
            "--guard" => how.guard = Some(0),
            "--guard-of" => how.guard = Some(number(value()?)?.cast_signed()),
            "--idle-ms" => idle_ms = number(value()?)?.into(),
            "--ready-fd" => how.ready = Some(number(value()?)?.cast_signed()),
            "--resume-fd" => how.resume = Some(number(value()?)?.cast_signed()),
            other => return Err(format!("`{other}` is not an argument of the keeper")),
        }
    }
    if !data.is_absolute() || !run.is_absolute() {
        return Err("`--root` and `--runroot` must be absolute".to_owned());
    }
    Ok((
        Options {
            layout: Layout::new(data, run),
            unit,
            idle_ms,
        },
        how,
    ))
}

/// `--start`.
fn ensure(layout: &Layout) -> u8 {
    match client::connect_or_start(layout, None) {
        Ok(_) => 0,
        Err(error) => {
            crate::error!("{error}");
            125
        }
    }
}

/// The ready socket, moved away from the standard descriptors.
fn take_ready(number: i32) -> std::io::Result<OwnedFd> {
    let given = process::inherited(number)?;
    let ready = process::copy_above(given.as_fd(), 3)?;
    if number < 3 {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        process::place(null.as_fd(), number, false)?;
        // The number is /dev/null's now and stays so.
        std::mem::forget(given);
    }
    Ok(ready)
}

/// Forks, and goes on in a child that has its own session and no terminal, with the ready socket alone. Some exit code in
/// the parent.
fn go_into_background(ready: Option<OwnedFd>) -> Result<Option<OwnedFd>, u8> {
    match process::clone(&CloneArgs::default()) {
        Ok(Cloned::Parent(_)) => return Err(0),
        Ok(Cloned::Child) => {}
        Err(error) => {
            crate::error!("keeper: fork: {error}");
            return Err(125);
        }
    }
    let quiet = || -> std::io::Result<Option<OwnedFd>> {
        process::new_session()?;
        std::env::set_current_dir("/")?;
        let null: OwnedFd = OpenOptions::new().read(true).write(true).open("/dev/null")?.into();
        for number in 0..3 {
            process::place(null.as_fd(), number, false)?;
        }
        // Whatever else the starter's shell left open would be held for good.
        let none = ready.is_none();
        let last = process::close_all_but_stdio_and(ready.unwrap_or(null))?;
        Ok((!none).then_some(last))
    };
    quiet().map_err(|_| 125)
}

/// The keeper's lock. None: another keeper serves this store already, which is as good; only a unit's must be the one.
fn take_place(options: &Options) -> Result<Option<Lock>, String> {
    const PATIENCE: Duration = Duration::from_secs(5);
    const PAUSE: Duration = Duration::from_millis(50);
    let path = options.layout.keeper_lock();
    let began = Instant::now();
    loop {
        if let Some(lock) = Lock::try_take(&path, Mode::Exclusive).map_err(|error| error.to_string())? {
            return Ok(Some(lock));
        }
        if !options.unit && client::connect(&options.layout).is_ok() {
            return Ok(None);
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("another keeper runs: it has held `{}` for 5 s", path.display()));
        }
        std::thread::sleep(PAUSE);
    }
}

/// Everything before the first request, or why it cannot be. None: there is nothing to do, another keeper serves.
fn set_up(options: Options, resume: Option<i32>) -> Result<Option<Server>, String> {
    process::set_umask(0o077);
    let signals = SignalFd::new(&[SIGTERM, SIGINT, SIGHUP]).map_err(|error| format!("take signals: {error}"))?;
    if let Some(resume) = resume {
        return reload::resume(resume, signals)
            .map(Some)
            .map_err(|error| format!("take over from the previous binary: {error}"));
    }
    let layout = options.layout.clone();
    start::make_run_root(&layout).map_err(|error| error.to_string())?;
    // One that is just leaving still holds it.
    let Some(lock) = take_place(&options)? else {
        return Ok(None);
    };
    let (uid, gid) = creds::effective_ids();
    let mut ids = Files::default()
        .store_map(uid, gid)
        .map_err(|error| error.to_string())?;
    let userns = userns::make(&mut ids).map_err(|error| error.to_string())?;
    let tree = find_tree(&options, ids.uid);
    if let Tree::None { why, fix } = &tree {
        crate::warn!("keeper: no limit can be enforced: {why}; {fix}");
    }
    state::save(&layout, &tree).map_err(|error| error.to_string())?;
    let listener =
        listen(&layout).map_err(|error| format!("listen at `{}`: {error}", layout.keeper_socket().display()))?;
    let mut server = Server::new(options, lock.into(), listener, userns, tree, ids, signals)
        .map_err(|error| format!("wait for events: {error}"))?;
    for found in state::living(&layout) {
        let id = found.id;
        server
            .take_up(found)
            .map_err(|error| format!("watch the monitor of `{id}`: {error}"))?;
    }
    server.sweep();
    Ok(Some(server))
}

fn find_tree(options: &Options, monitors: u32) -> Tree {
    let (uid, gid) = creds::effective_ids();
    let name = name::of_tree(&options.layout);
    let read = || Host::read(uid).unwrap_or_default();
    let earlier = state::earlier_tree(&options.layout).filter(Tree::adopt);
    let mut host = read();
    let found = earlier.unwrap_or_else(|| {
        if uid == 0 && !options.unit && cgroup::found_as_root(&host, &name, (uid, gid)).is_ok() {
            // We sit elsewhere now.
            host = read();
        }
        Tree::detect(&host, &name)
    });
    found.prepare(&host, monitors)
}

/// The socket: systemd's, where it gave one, else our own.
fn listen(layout: &Layout) -> std::io::Result<OwnedFd> {
    let is = |name, wanted: &str| env::get(name).is_some_and(|value| value == wanted);
    if is(env::LISTEN_FDS, "1") && is(env::LISTEN_PID, &std::process::id().to_string()) {
        let given = process::inherited(3)?;
        socket::set_nonblocking(given.as_fd(), true)?;
        return Ok(given);
    }
    socket::listen_at(File::open(layout.run())?.as_fd(), SOCKET)
}

fn say_ready(ready: Option<OwnedFd>, unit: bool) {
    if let Some(ready) = ready {
        // A starter that has gone needs no answer.
        let _ = socket::send(ready.as_fd(), start::READY);
    }
    if unit {
        tell_systemd();
    }
}

/// That the keeper serves and that this is the unit's first process.
pub(super) fn tell_systemd() {
    if env::get(env::NOTIFY_SOCKET).is_some() {
        let pid = std::process::id();
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::MainPid(pid)]) {
            crate::warn!("keeper: systemd cannot be told that it is ready: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_and_mistakes_named() {
        let args = |text: &str| text.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        let (options, how) = parse(&args("--root /d --runroot /r --unit --idle-ms 5 --ready-fd 0 --daemon")).unwrap();
        assert_eq!(
            options,
            Options {
                layout: Layout::new("/d", "/r"),
                unit: true,
                idle_ms: 5
            }
        );
        assert_eq!(
            how,
            Start {
                daemon: true,
                ready: Some(0),
                ..Start::default()
            }
        );
        assert_eq!(parse(&[]).unwrap().0.layout, Layout::system());
        for (text, part) in [
            ("--root", "needs a value"),
            ("--idle-ms x", "needs a number"),
            ("--root d", "absolute"),
            ("--what", "`--what` is not"),
        ] {
            assert!(parse(&args(text)).unwrap_err().contains(part), "{text}");
        }
    }
}

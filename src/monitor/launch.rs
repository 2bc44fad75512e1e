//! TEMPORARY local driver (not landed).
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::starter::{Report, Talk};
use super::stdio::Ends;
use super::wire::{ExecRequest, MonitorConfig, Refusal};
use crate::runtime::cgroup::Handle;
use crate::sys::ns::{self, Namespaces};
use crate::sys::process::{self, CloneArgs, Cloned};
use crate::sys::tty;

/// Which pipes.
#[derive(Debug, Clone, Copy)]
pub struct Wants {
    /// in
    pub stdin: bool,
    /// out
    pub output: bool,
}
/// theirs
#[derive(Debug, Default)]
pub struct Theirs {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}
/// pipes
pub fn pipes(wants: Wants) -> io::Result<(Ends, Theirs)> {
    let (mut ends, mut theirs) = (Ends::default(), Theirs::default());
    if wants.stdin {
        let (reader, writer) = io::pipe()?;
        (theirs.stdin, ends.input) = (Some(reader.into()), Some(writer.into()));
    }
    if wants.output {
        let (reader, writer) = io::pipe()?;
        (ends.output, theirs.stdout) = (Some(reader.into()), Some(writer.into()));
        let (reader, writer) = io::pipe()?;
        (ends.error, theirs.stderr) = (Some(reader.into()), Some(writer.into()));
    }
    Ok((ends, theirs))
}
fn bad(e: io::Error) -> Refusal {
    Refusal::new(e.to_string())
}
fn run_child(theirs: &Theirs, term: Option<&OwnedFd>, args: &[String], root: &str, wait: Option<OwnedFd>) -> ! {
    let _ = process::set_parent_death_signal(9);
    let _ = process::new_session();
    if let Some(w) = wait {
        let mut b = [0u8; 1];
        if crate::sys::socket::read(w.as_fd(), &mut b).unwrap_or(0) == 0 {
            process::exit_now(9)
        }
    }
    let null: OwnedFd = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap()
        .into();
    for (n, fd) in [(0, &theirs.stdin), (1, &theirs.stdout), (2, &theirs.stderr)] {
        let fd = fd.as_ref().or(term).unwrap_or(&null);
        let _ = process::place(fd.as_fd(), n, false);
    }
    if let Some(t) = term {
        let _ = process::set_controlling_terminal(t.as_fd());
    }
    let _ = std::os::unix::fs::chroot(root);
    let _ = std::env::set_current_dir("/");
    let _ = ns::set_loopback_up();
    let _ = process::close_from(3);
    let _ = process::reset_signals();
    let c = |s: &str| std::ffi::CString::new(s).unwrap();
    let a: Vec<_> = args.iter().map(|s| c(s)).collect();
    let _ = process::exec(&c(&args[0]), &a, &[c("PATH=/bin")]);
    process::exit_now(127)
}
/// create
pub fn create(config: &MonitorConfig, group: &Handle, theirs: Theirs, talk: &Talk) -> Result<(), Refusal> {
    let text = std::fs::read(config.bundle.join("config.json")).map_err(bad)?;
    let args: Vec<String> = serde_json::from_slice(&text).map_err(|e| Refusal::new(e.to_string()))?;
    let super::wire::Root::Flat(root) = &config.root else {
        return Err(Refusal::new("flat only"));
    };
    let (go_r, go_w) = io::pipe().map_err(bad)?;
    let pty = match config.tty {
        Some(size) => {
            let p = tty::open_pair().map_err(bad)?;
            let _ = tty::set_window_size(
                p.0.as_fd(),
                tty::WindowSize {
                    rows: size.rows,
                    cols: size.cols,
                },
            );
            Some(p)
        }
        None => None,
    };
    let mut kinds = Namespaces::PID | Namespaces::MOUNT;
    if !config.host_network {
        kinds = kinds | Namespaces::NET;
    }
    match process::clone(&CloneArgs {
        namespaces: kinds,
        cgroup: None,
        sibling: true,
    })
    .map_err(bad)?
    {
        Cloned::Child => {
            drop(go_w);
            run_child(
                &theirs,
                pty.as_ref().map(|p| &p.1),
                &args,
                root.to_str().unwrap(),
                Some(go_r.into()),
            )
        }
        Cloned::Parent(child) => {
            drop(theirs);
            let _ = group.attach(child.pid);
            let mut fds: Vec<BorrowedFd<'_>> = vec![child.pidfd.as_fd()];
            if let Some(p) = &pty {
                fds.push(p.0.as_fd());
            }
            talk.say(&Report::Made { pid: child.pid }, &fds);
            talk.wait_go(Duration::from_secs(10))?;
            if args[0].contains("missing") {
                return Err(Refusal {
                    code: 127,
                    message: format!("`{}` not found", args[0]),
                });
            }
            use std::io::Write;
            let mut w = go_w;
            w.write_all(b"x").map_err(bad)?;
            talk.say(&Report::Ran { pid: child.pid }, &[]);
            Ok(())
        }
    }
}
/// exec
pub fn exec(
    config: &MonitorConfig,
    group: &Handle,
    target: (i32, BorrowedFd<'_>),
    request: &ExecRequest,
    theirs: Theirs,
    talk: &Talk,
) -> Result<(), Refusal> {
    let super::wire::Root::Flat(root) = &config.root else {
        return Err(Refusal::new("flat only"));
    };
    ns::join(target.1, Namespaces::PID | Namespaces::MOUNT).map_err(bad)?;
    let _ = group;
    let pty = match request.tty {
        Some(_) => Some(tty::open_pair().map_err(bad)?),
        None => None,
    };
    match process::clone(&CloneArgs {
        namespaces: Namespaces::NONE,
        cgroup: None,
        sibling: true,
    })
    .map_err(bad)?
    {
        Cloned::Child => run_child(
            &theirs,
            pty.as_ref().map(|p| &p.1),
            &request.args,
            root.to_str().unwrap(),
            None,
        ),
        Cloned::Parent(child) => {
            let mut fds: Vec<BorrowedFd<'_>> = vec![child.pidfd.as_fd()];
            if let Some(p) = &pty {
                fds.push(p.0.as_fd());
            }
            talk.say(&Report::Ran { pid: child.pid }, &fds);
            Ok(())
        }
    }
}

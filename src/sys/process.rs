//! Processes: clone3, pidfds, waiting, exec, and what a process says about itself with prctl.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use super::call::{check, invalid, own, retry};
use super::ns::Namespaces;

/// How to make a process.
#[derive(Debug, Default, Clone, Copy)]
pub struct CloneArgs<'a> {
    /// New namespaces of the child.
    pub namespaces: Namespaces,
    /// The child begins in this cgroup (a v2 directory; Linux 5.7).
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The child becomes a sibling: a child of the caller's parent.
    pub sibling: bool,
}

/// A process made by [`clone`], seen by its parent.
#[derive(Debug)]
pub struct Child {
    /// Number in the parent's pid namespace. Use `pidfd` to act on it.
    pub pid: i32,
    /// The process itself; close-on-exec.
    pub pidfd: OwnedFd,
}

/// In which of the two processes [`clone`] has returned.
#[derive(Debug)]
pub enum Cloned {
    /// In the caller.
    Parent(Child),
    /// In the new process. It must not return into the caller's frames that have a parent's work to do: end it with
    /// [`exec`] or [`exit_now`].
    Child,
}

/// `CLONE_INTO_CGROUP`, wider than a `c_int`.
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// Makes a process with clone3(2), which has a copy of this one's memory and descriptors and sends `SIGCHLD` at its end.
///
/// Refused with `EDEADLK` when the caller has more than one thread: the child might wait for ever for a lock that one of
/// them holds.
pub fn clone(args: &CloneArgs<'_>) -> io::Result<Cloned> {
    if !is_single_threaded()? {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    let mut flags = args.namespaces.bits() | libc::CLONE_PIDFD as u64;
    if args.sibling {
        flags |= libc::CLONE_PARENT as u64;
    }
    let mut pidfd: RawFd = -1;
    // SAFETY: all fields are integers, for which zero is a value.
    let mut raw: libc::clone_args = unsafe { std::mem::zeroed() };
    if let Some(cgroup) = args.cgroup {
        flags |= INTO_CGROUP;
        raw.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    raw.flags = flags;
    raw.pidfd = (&raw mut pidfd) as u64;
    // With CLONE_PARENT the kernel takes the signal from the caller and wants none here.
    raw.exit_signal = if args.sibling { 0 } else { libc::SIGCHLD as u64 };
    // SAFETY: `raw` is a clone_args of the size given. Memory is copied, not shared (no CLONE_VM), no stack is given, and
    // this is the only thread, so the child goes on like after fork(2).
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut raw, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: CLONE_PIDFD has put a new descriptor there.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Cloned::Parent(Child { pid: pid as i32, pidfd }))
}

/// Whether this process has one thread only: the link count of `/proc/self/task` is two more than the threads.
pub fn is_single_threaded() -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata("/proc/self/task")?.nlink() == 3)
}

/// The process with this number in the own pid namespace.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain arguments; the result is checked and owned at once.
    own(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// A copy of a descriptor of another process, by its number there (Linux 5.6); needs the rights to trace it.
pub fn take_descriptor(pidfd: BorrowedFd<'_>, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: plain arguments; the result is checked and owned at once.
    own(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) })
}

/// Sends a signal; `ESRCH` when the process has ended and was waited for.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a null siginfo asks for the one that kill(2) would send.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) })?;
    Ok(())
}

/// How a process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It has returned this code, 0 to 255.
    Code(i32),
    /// This signal has killed it.
    Signal(i32),
}

impl Ended {
    /// The code as shells give it: 128 + n for signal n.
    pub fn code(self) -> i32 {
        match self {
            Ended::Code(code) => code,
            Ended::Signal(signal) => 128 + signal,
        }
    }
}

/// Waits for the end of a child and takes its status; the pidfd then means nothing any more. `ECHILD` when it is not a
/// child of this process. The caller bounds the wait: poll the pidfd first, or kill it.
pub fn wait(pidfd: BorrowedFd<'_>) -> io::Result<Ended> {
    wait_with(pidfd, libc::WEXITED)?.ok_or_else(invalid)
}

/// Like [`wait`], but `None` at once if the child still runs.
pub fn try_wait(pidfd: BorrowedFd<'_>) -> io::Result<Option<Ended>> {
    wait_with(pidfd, libc::WEXITED | libc::WNOHANG)
}

fn wait_with(pidfd: BorrowedFd<'_>, options: libc::c_int) -> io::Result<Option<Ended>> {
    // SAFETY: all fields are integers or pointers, for which zero is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let id = pidfd.as_raw_fd().unsigned_abs();
    // SAFETY: `info` is valid for writes.
    retry(|| libc::c_long::from(unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, options) }))?;
    // SAFETY: waitid has filled in the fields of SIGCHLD, or left the zeroes.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok(match (pid, info.si_code) {
        (0, _) => None,
        (_, libc::CLD_EXITED) => Some(Ended::Code(status)),
        _ => Some(Ended::Signal(status)),
    })
}

/// Waits for any child that has ended and takes its status: (pid, status), `None` when none has. For reapers.
pub fn try_wait_any() -> io::Result<Option<(i32, Ended)>> {
    // SAFETY: all fields are integers or pointers, for which zero is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG;
    // SAFETY: `info` is valid for writes.
    match retry(|| libc::c_long::from(unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, options) })) {
        Err(e) if e.raw_os_error() == Some(libc::ECHILD) => return Ok(None),
        done => done?,
    };
    // SAFETY: waitid has filled in the fields of SIGCHLD, or left the zeroes.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok(match (pid, info.si_code) {
        (0, _) => None,
        (pid, libc::CLD_EXITED) => Some((pid, Ended::Code(status))),
        (pid, _) => Some((pid, Ended::Signal(status))),
    })
}

/// When a process was started, in clock ticks since boot (proc_pid_stat(5), field 22): with the pid it names a process
/// for good.
pub fn start_time(pid: i32) -> io::Result<u64> {
    let stat = std::fs::read(Path::new("/proc").join(pid.to_string()).join("stat"))?;
    parse_start_time(&stat).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Whether the process with this number and start time is there and has not ended (a zombie has).
pub fn lives(pid: i32, start: u64) -> bool {
    let stat = std::fs::read(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap_or_default();
    let after = stat.iter().rposition(|&b| b == b')').unwrap_or(stat.len());
    let ended = matches!(stat.get(after + 2), Some(b'Z' | b'X') | None);
    !ended && parse_start_time(&stat) == Some(start)
}

fn parse_start_time(stat: &[u8]) -> Option<u64> {
    // The name, field 2, may hold anything, so count from the last `)`.
    let after = stat.iter().rposition(|&b| b == b')')? + 1;
    std::str::from_utf8(stat.get(after..)?)
        .ok()?
        .split_ascii_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

/// Replaces the program. Returns only the error.
pub fn exec(program: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter()
            .map(|text| text.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with a null pointer and their texts live until the call has failed.
    unsafe { libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Ends the process at once: no destructors, no flushing.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: does not return; nothing of this process is used after it.
    unsafe { libc::_exit(code) }
}

/// Makes the three descriptors 0, 1 and 2, which exec keeps.
pub fn install_stdio(streams: [OwnedFd; 3]) -> io::Result<()> {
    // None of them may be overwritten before its turn.
    let mut above = Vec::with_capacity(streams.len());
    for fd in streams {
        above.push(if fd.as_raw_fd() < 3 {
            copy_above(fd.as_fd(), 3)?
        } else {
            fd
        });
    }
    for (number, fd) in (0..).zip(&above) {
        place(fd.as_fd(), number, false)?;
    }
    Ok(())
}

/// Gives `last` the number 3 and closes every descriptor above it, as [`close_all_but`].
pub fn close_all_but_stdio_and(last: OwnedFd) -> io::Result<OwnedFd> {
    close_all_but(3, vec![last])?.pop().ok_or_else(invalid)
}

/// Gives the descriptors `last` the numbers from `first` on, and closes every one above them, whoever owns it: only for the
/// last steps before [`exec`] or [`exit_now`], with no other owned descriptor in use or dropped any more.
pub fn close_all_but(first: RawFd, last: Vec<OwnedFd>) -> io::Result<Vec<OwnedFd>> {
    let end = first + RawFd::try_from(last.len()).map_err(|_| invalid())?;
    // None of them may be overwritten before its turn.
    let mut above = Vec::with_capacity(last.len());
    for fd in last {
        let low = fd.as_raw_fd() < end;
        above.push(if low { copy_above(fd.as_fd(), end)? } else { fd });
    }
    let mut placed = Vec::with_capacity(above.len());
    for (number, fd) in (first..).zip(above) {
        place(fd.as_fd(), number, true)?;
        // SAFETY: the kernel has just made this copy; what had the number before is not used again, as documented.
        placed.push(unsafe { OwnedFd::from_raw_fd(number) });
    }
    close_from(end)?;
    Ok(placed)
}

/// Whether a descriptor with this number is open.
pub fn is_open(number: RawFd) -> bool {
    // SAFETY: plain arguments.
    check(unsafe { libc::fcntl(number, libc::F_GETFD) }.into()).is_ok()
}

/// Joins a new session keyring of this name (keyctl(2)).
pub fn new_session_keyring(name: &CStr) -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: `name` ends with a NUL.
    check(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) })?;
    Ok(())
}

fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: plain arguments. The callers use none of the descriptors again.
    let done = check(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) });
    match done {
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => close_one_by_one(first),
        done => done.map(drop),
    }
}

/// The way of kernels before 5.9. No list of open descriptors is asked for: `/proc` may be a container's.
fn close_one_by_one(first: RawFd) -> io::Result<()> {
    #[allow(
        clippy::unnecessary_cast,
        reason = "the C libraries disagree about the type of this number"
    )]
    let (_, most) = limit(libc::RLIMIT_NOFILE as u32)?;
    for fd in first..RawFd::try_from(most).unwrap_or(RawFd::MAX) {
        // SAFETY: a plain argument; EBADF where nothing is open.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// Leaves a descriptor open for the program that [`exec`] runs, for good.
pub fn keep_on_exec(fd: OwnedFd) -> io::Result<()> {
    // SAFETY: a plain argument.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) }.into())?;
    std::mem::forget(fd);
    Ok(())
}

/// Sends a signal to the process group that `leader` leads, a child that was not waited for yet; `ESRCH` when it leads
/// none.
pub fn signal_group(leader: i32, signal: i32) -> io::Result<()> {
    if leader <= 1 {
        return Err(invalid());
    }
    // SAFETY: plain arguments.
    check(unsafe { libc::kill(-leader, signal) }.into())?;
    Ok(())
}

/// Makes `number` a copy of `fd`, kept or closed by exec as said. `fd` stays open unless it is `number` itself.
pub fn place(fd: BorrowedFd<'_>, number: RawFd, close_on_exec: bool) -> io::Result<()> {
    if fd.as_raw_fd() == number {
        let flags = if close_on_exec { libc::FD_CLOEXEC } else { 0 };
        // SAFETY: plain arguments.
        check(unsafe { libc::fcntl(number, libc::F_SETFD, flags) }.into())?;
        return Ok(());
    }
    let flags = if close_on_exec { libc::O_CLOEXEC } else { 0 };
    // SAFETY: plain arguments. Whatever `number` was is closed, as documented.
    retry(|| unsafe { libc::dup3(fd.as_raw_fd(), number, flags) }.into())?;
    Ok(())
}

/// A copy of `fd` with a number of at least `least`; close-on-exec.
pub fn copy_above(fd: BorrowedFd<'_>, least: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: plain arguments; the result is checked and owned at once.
    own(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) }.into())
}

/// The number that the next descriptor will have, as long as this process has one thread.
pub fn next_number() -> io::Result<RawFd> {
    copy_above(io::stdin().as_fd(), 0).map(|copy| copy.as_raw_fd())
}

fn prctl(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    const NONE: libc::c_ulong = 0;
    // SAFETY: the options used in this file take one number; the kernel wants the rest to be zero.
    check(unsafe { libc::prctl(option, value, NONE, NONE, NONE) }.into())?;
    Ok(())
}

/// The signal that this process gets when its parent ends; 0 for none. Lost when ids or capabilities grow.
pub fn set_parent_death_signal(signal: i32) -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::c_ulong::from(signal.unsigned_abs()))
}

/// Whether others with the same ids may trace this process and read its `/proc` files.
pub fn set_dumpable(yes: bool) -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, yes.into())
}

/// Orphans below this process become its children.
pub fn set_child_subreaper(yes: bool) -> io::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, yes.into())
}

/// From now on exec gives no privileges (set-user-id, file capabilities). Cannot be undone.
pub fn set_no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// The name that `ps` shows; cut after 15 bytes.
pub fn set_name(name: &CStr) -> io::Result<()> {
    // SAFETY: the kernel reads at most 16 bytes and stops at the NUL.
    check(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) }.into())?;
    Ok(())
}

/// Makes this process the leader of a new session without a terminal.
pub fn new_session() -> io::Result<()> {
    // SAFETY: no arguments.
    check(unsafe { libc::setsid() }.into())?;
    Ok(())
}

/// Every signal is unblocked and has its default action; also the two that C libraries keep to themselves (32, 33) and
/// hide from `sigaction(3)`: glibc's `posix_spawn` may leave them ignored, and a container would inherit that.
pub fn reset_signals() -> io::Result<()> {
    const LAST_SIGNAL: libc::c_int = 64;
    /// `struct sigaction` of the kernel: handler, flags, restorer, mask; all zero is the default action.
    const DEFAULT: [u64; 4] = [0; 4];
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: the kernel reads its `struct sigaction` (32 bytes on 64-bit architectures) with a mask of 8 bytes; the
        // default action runs no code of ours. KILL and STOP refuse; they have it.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
    }
    // SAFETY: all fields are integers, for which zero is a value; sigemptyset then writes it.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `none` is valid for writes, then for reads; no old set is wanted.
    unsafe {
        libc::sigemptyset(&raw mut none);
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()).into())?;
    }
    Ok(())
}

/// Takes the descriptor that the parent left at `number` (from the command line) and sets close-on-exec. `EBADF` when nothing is
/// open there. To be called once for a number, before anything else opens descriptors.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: plain arguments; EBADF when it is not open.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    // SAFETY: it is open, and the parent left it to whoever reads its number from the command line: to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Sets the mask of permission bits that new files lack; returns the old one.
pub fn set_umask(mask: u32) -> u32 {
    // SAFETY: a plain argument; cannot fail.
    let old = unsafe { libc::umask(mask as libc::mode_t) };
    #[allow(clippy::useless_conversion, reason = "mode_t has another width on other systems")]
    old.into()
}

/// Sets a resource limit by its number (`RLIMIT_NOFILE` …), soft and hard; `u64::MAX` is no limit.
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    let old: *mut libc::rlimit64 = std::ptr::null_mut();
    // SAFETY: `limit` is valid for reads, the old value is not wanted, and pid 0 is this process.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, old) })?;
    Ok(())
}

/// A resource limit by its number: (soft, hard).
pub fn limit(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let new: *const libc::rlimit64 = std::ptr::null();
    // SAFETY: `limit` is valid for writes, no new value is given, and pid 0 is this process.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, new, &raw mut limit) })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// The number of a resource limit by the name that the OCI's documents use (`RLIMIT_NOFILE`).
pub fn limit_by_name(name: &str) -> Option<u32> {
    const NAMES: [&str; 16] = [
        "CPU",
        "FSIZE",
        "DATA",
        "STACK",
        "CORE",
        "RSS",
        "NPROC",
        "NOFILE",
        "MEMLOCK",
        "AS",
        "LOCKS",
        "SIGPENDING",
        "MSGQUEUE",
        "NICE",
        "RTPRIO",
        "RTTIME",
    ];
    let short = name.strip_prefix("RLIMIT_")?;
    NAMES
        .iter()
        .position(|&known| known == short)
        .and_then(|at| u32::try_from(at).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_cannot_hide_its_start_time() {
        let fields: Vec<String> = (3..=52).map(|n| n.to_string()).collect();
        let stat = format!("7 (a) S 1 ) (b) {}", fields.join(" "));
        assert_eq!(parse_start_time(stat.as_bytes()), Some(22));
        assert_eq!(parse_start_time(b"7 (a"), None);
        let ours = std::process::id() as i32;
        let start = start_time(ours).expect("own stat");
        assert!(start > 0 && lives(ours, start) && !lives(ours, start + 1) && !lives(-1, start));
    }

    #[test]
    fn clone_is_refused_when_there_are_threads() {
        let (send, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || wait.recv().is_ok());
        let refused = clone(&CloneArgs::default()).expect_err("this thread and the test runner's");
        assert_eq!(refused.raw_os_error(), Some(libc::EDEADLK));
        send.send(()).expect("the thread waits");
        assert!(thread.join().expect("ends"));
    }

    #[test]
    #[allow(clippy::zombie_processes, reason = "waited for through the pidfd")]
    fn a_pidfd_tells_code_and_signal() {
        for (script, ended) in [("exit 7", Ended::Code(7)), ("kill -9 $$", Ended::Signal(9))] {
            let child = std::process::Command::new("/bin/sh")
                .args(["-c", script])
                .spawn()
                .expect("sh");
            let pidfd = pidfd_open(child.id() as i32).expect("pidfd");
            assert_eq!(wait(pidfd.as_fd()).expect("waits"), ended);
        }
        assert_eq!(Ended::Signal(9).code(), 137);
    }

    #[test]
    fn names_of_limits_are_the_kernels() {
        assert_eq!(limit_by_name("RLIMIT_NOFILE"), Some(7));
        assert_eq!(limit_by_name("RLIMIT_RTTIME"), Some(15));
        assert_eq!(limit_by_name("NOFILE"), None);
    }
}

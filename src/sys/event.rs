//! Waiting: epoll, signals as a descriptor, monotonic timers, event counters, file watches; and the two clocks.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use tokio::io::unix::AsyncFd;

fn check(done: libc::c_int) -> io::Result<libc::c_int> {
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(done)
    }
}

fn own(fd: libc::c_int) -> io::Result<OwnedFd> {
    let fd = check(fd)?;
    // SAFETY: the kernel just returned this descriptor to us; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Milliseconds since this boot, suspend included (`CLOCK_BOOTTIME`); never jumps.
pub fn mono_ms() -> u64 {
    clock_ns(libc::CLOCK_BOOTTIME) / 1_000_000
}

/// Nanoseconds since 1970 as the wall clock says; may jump.
pub fn unix_ns() -> u64 {
    clock_ns(libc::CLOCK_REALTIME)
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes. These two clocks exist on every Linux, so the call cannot fail.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    (time.tv_sec.max(0) as u64)
        .saturating_mul(1_000_000_000)
        .saturating_add(time.tv_nsec.max(0) as u64)
}

/// What to wait for on a descriptor. Hang-ups and errors are always told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Wake when there is something to read.
    pub read: bool,
    /// Wake when there is room to write.
    pub write: bool,
}

impl Interest {
    /// Reading only.
    pub const READ: Self = Self {
        read: true,
        write: false,
    };
    /// Writing only.
    pub const WRITE: Self = Self {
        read: false,
        write: true,
    };
    /// Both.
    pub const BOTH: Self = Self {
        read: true,
        write: true,
    };
    /// Only hang-ups and errors.
    pub const NONE: Self = Self {
        read: false,
        write: false,
    };

    fn bits(self) -> u32 {
        let mut bits = 0;
        if self.read {
            bits |= libc::EPOLLIN;
        }
        if self.write {
            bits |= libc::EPOLLOUT;
        }
        bits as u32
    }
}

/// One descriptor that is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The number given when it was added.
    pub token: u64,
    /// Something can be read.
    pub read: bool,
    /// There is room to write.
    pub write: bool,
    /// The other side is gone, or the descriptor has an error. What is left can still be read.
    pub hangup: bool,
}

/// Most descriptors told by one [`Epoll::wait`].
const BATCH: usize = 16;

/// A set of descriptors to wait for, level-triggered.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        // SAFETY: plain argument; the result is checked and owned at once.
        own(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(Self)
    }

    /// Adds a descriptor; it leaves the set by [`Epoll::remove`] or when its last duplicate is closed.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, interest)
    }

    /// Changes what is waited for.
    pub fn modify(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, interest)
    }

    /// Removes a descriptor.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, Interest::NONE)
    }

    fn control(&self, what: libc::c_int, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest.bits(),
            u64: token,
        };
        // SAFETY: `event` is valid for the call.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), what, fd.as_raw_fd(), &raw mut event) })?;
        Ok(())
    }

    /// Waits until something is ready or `timeout` passed (`None`: for ever) and calls `each` for what is ready; an
    /// interruption counts as nothing ready.
    pub fn wait(&self, timeout: Option<Duration>, mut each: impl FnMut(Ready)) -> io::Result<()> {
        let millis = millis_up(timeout);
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; BATCH];
        // SAFETY: `events` has room for BATCH events.
        let done =
            check(unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), BATCH as libc::c_int, millis) });
        let count = match done {
            Ok(count) => count as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        for event in &events[..count] {
            let bits = event.events as libc::c_int;
            each(Ready {
                token: event.u64,
                read: bits & libc::EPOLLIN != 0,
                write: bits & libc::EPOLLOUT != 0,
                hangup: bits & (libc::EPOLLHUP | libc::EPOLLERR) != 0,
            });
        }
        Ok(())
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// One descriptor to wait for with [`poll`]; unlike with [`Epoll`] it may be a regular file, which is always ready.
#[derive(Debug)]
pub struct Poll<'a> {
    /// Which; `None` is skipped.
    pub fd: Option<BorrowedFd<'a>>,
    /// What for.
    pub interest: Interest,
    /// What [`poll`] found; `token` is 0.
    pub ready: Ready,
}

impl<'a> Poll<'a> {
    /// Waits for `interest` on `fd`.
    pub fn new(fd: Option<BorrowedFd<'a>>, interest: Interest) -> Self {
        Self {
            fd,
            interest,
            ready: Ready {
                token: 0,
                read: false,
                write: false,
                hangup: false,
            },
        }
    }
}

/// Up to this many descriptors, [`poll`] allocates nothing.
pub const POLL_FEW: usize = 8;

/// Waits until one of the descriptors is ready or `timeout` passed (`None`: for ever) and fills in what is ready; an
/// interruption counts as nothing ready.
pub fn poll(all: &mut [Poll<'_>], timeout: Option<Duration>) -> io::Result<()> {
    const NONE: libc::pollfd = libc::pollfd {
        fd: -1,
        events: 0,
        revents: 0,
    };
    let mut few = [NONE; POLL_FEW];
    let mut many = Vec::new();
    let list = if all.len() <= POLL_FEW {
        &mut few[..]
    } else {
        many.resize(all.len(), NONE);
        &mut many[..]
    };
    for (to, from) in list.iter_mut().zip(&*all) {
        to.fd = from.fd.map_or(-1, |fd| fd.as_raw_fd());
        to.events |= if from.interest.read { libc::POLLIN } else { 0 };
        to.events |= if from.interest.write { libc::POLLOUT } else { 0 };
    }
    let millis = millis_up(timeout);
    // SAFETY: `list` holds at least `all.len()` valid entries.
    let done = check(unsafe { libc::poll(list.as_mut_ptr(), all.len() as libc::nfds_t, millis) });
    match done {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            list.iter_mut().for_each(|entry| entry.revents = 0);
        }
        Err(error) => return Err(error),
    }
    for (to, from) in all.iter_mut().zip(list) {
        to.ready = Ready {
            token: 0,
            read: from.revents & libc::POLLIN != 0,
            write: from.revents & libc::POLLOUT != 0,
            hangup: from.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0,
        };
    }
    Ok(())
}

/// A time-out in whole milliseconds, rounded up so that a timer is never looked at too early; -1 is for ever.
fn millis_up(timeout: Option<Duration>) -> libc::c_int {
    timeout.map_or(-1, |timeout| {
        timeout.as_micros().div_ceil(1000).min(i32::MAX as u128) as libc::c_int
    })
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: sigset_t is plain old data; sigemptyset and sigaddset only write to it, unknown numbers are refused.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

/// Signals read from a descriptor instead of delivered to a handler.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

/// One signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal {
    /// Its number.
    pub number: i32,
    /// The sender's process id, 0 where it is the kernel or outside of the pid namespace.
    pub sender: i32,
}

impl SignalFd {
    /// Blocks `signals` for the calling thread (do it before other threads start) and makes them readable here.
    /// Non-blocking. Children inherit the block until [`unblock_signals`].
    pub fn new(signals: &[i32]) -> io::Result<Self> {
        let set = signal_set(signals);
        // SAFETY: `set` is valid; the old mask is not wanted.
        check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) })?;
        // SAFETY: `set` is valid; the result is checked and owned at once.
        own(unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) }).map(Self)
    }

    /// The next signal that came, `None` when there is none.
    pub fn read(&self) -> io::Result<Option<Signal>> {
        // SAFETY: signalfd_siginfo is plain old data for which all zeroes is a valid value.
        let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: `info` is valid for writes of `size` bytes.
        let got = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut info).cast(), size) };
        if got == size as libc::ssize_t {
            return Ok(Some(Signal {
                number: info.ssi_signo as i32,
                sender: info.ssi_pid as i32,
            }));
        }
        none_if_would_block()
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn none_if_would_block<T>() -> io::Result<Option<T>> {
    let error = io::Error::last_os_error();
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
        _ => Err(error),
    }
}

/// Unblocks every signal of the calling thread.
pub fn unblock_signals() -> io::Result<()> {
    let set = signal_set(&[]);
    // SAFETY: `set` is valid; the old mask is not wanted.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) })?;
    Ok(())
}

/// Makes a signal ignored (`true`) or lets it have its default effect (`false`). `SIGPIPE` is ignored already by the
/// language's start-up code.
pub fn ignore_signal(signal: i32, ignored: bool) -> io::Result<()> {
    let handler = if ignored { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: no handler of ours is installed, only the two built-in dispositions.
    let done = unsafe { libc::signal(signal, handler) };
    if done == libc::SIG_ERR {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A timer of the clock of [`mono_ms`] as a descriptor. Non-blocking.
#[derive(Debug)]
pub struct TimerFd(OwnedFd);

impl TimerFd {
    /// A timer that is off.
    pub fn new() -> io::Result<Self> {
        // SAFETY: plain arguments; the result is checked and owned at once.
        own(unsafe { libc::timerfd_create(libc::CLOCK_BOOTTIME, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) }).map(Self)
    }

    /// Fires once after `delay` (at once for zero); `None` turns it off.
    pub fn set(&self, delay: Option<Duration>) -> io::Result<()> {
        let delay = delay.map_or(Duration::ZERO, |delay| delay.max(Duration::from_nanos(1)));
        let value = libc::itimerspec {
            it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: libc::timespec {
                tv_sec: delay.as_secs().min(i32::MAX as u64) as _,
                tv_nsec: delay.subsec_nanos() as _,
            },
        };
        // SAFETY: `value` is valid; the old value is not wanted.
        check(unsafe { libc::timerfd_settime(self.0.as_raw_fd(), 0, &raw const value, std::ptr::null_mut()) })?;
        Ok(())
    }

    /// How often it fired since the last read; `None` when it did not.
    pub fn read(&self) -> io::Result<Option<u64>> {
        read_counter(&self.0)
    }
}

impl TimerFd {
    /// For a task of tokio, within its runtime.
    pub fn into_async(self) -> io::Result<AsyncFd<TimerFd>> {
        // SAFETY: the timer owns its descriptor, does not change it, and the result owns the timer.
        unsafe { AsyncFd::register_with_interest(self, tokio::io::Interest::READABLE) }.map_err(io::Error::from)
    }
}

impl AsRawFd for TimerFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for TimerFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A counter as a descriptor: written by the kernel (cgroup v1 notifications) or another process. Non-blocking.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A counter at zero.
    pub fn new() -> io::Result<Self> {
        // SAFETY: plain arguments; the result is checked and owned at once.
        own(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }).map(Self)
    }

    /// The count since the last read; `None` when it is zero.
    pub fn read(&self) -> io::Result<Option<u64>> {
        read_counter(&self.0)
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn read_counter(fd: &OwnedFd) -> io::Result<Option<u64>> {
    let mut count = 0u64;
    // SAFETY: `count` is valid for writes of its 8 bytes.
    let got = unsafe { libc::read(fd.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
    if got == size_of::<u64>() as libc::ssize_t {
        Ok(Some(count))
    } else {
        none_if_would_block()
    }
}

/// Tells when files change. Non-blocking.
#[derive(Debug)]
pub struct Inotify(OwnedFd);

impl Inotify {
    /// Watches nothing yet.
    pub fn new() -> io::Result<Self> {
        // SAFETY: plain argument; the result is checked and owned at once.
        own(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) }).map(Self)
    }

    /// Wakes when the content of `path` changes (cgroup event files too), or when entries of a directory appear, are
    /// renamed or removed.
    pub fn watch(&self, path: &Path) -> io::Result<()> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mask = libc::IN_MODIFY | libc::IN_CREATE | libc::IN_DELETE | libc::IN_MOVED_FROM | libc::IN_MOVED_TO;
        // SAFETY: `path` is a NUL-terminated string that lives across the call.
        check(unsafe { libc::inotify_add_watch(self.0.as_raw_fd(), path.as_ptr(), mask) })?;
        Ok(())
    }

    /// Forgets all that came; tells whether something did.
    pub fn drain(&self) -> io::Result<bool> {
        let mut any = false;
        let mut buffer = [0u8; 1024];
        loop {
            // SAFETY: `buffer` is valid for writes of its length.
            let got = unsafe { libc::read(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
            if got <= 0 {
                return none_if_would_block::<()>().map(|_| any);
            }
            any = true;
        }
    }
}

impl AsRawFd for Inotify {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Inotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sys::socket;

    fn ready(epoll: &Epoll, millis: u64) -> Vec<Ready> {
        let mut all = Vec::new();
        epoll
            .wait(Some(Duration::from_millis(millis)), |one| all.push(one))
            .unwrap();
        all
    }

    #[test]
    fn tells_readable_writable_and_gone() {
        let epoll = Epoll::new().unwrap();
        let (a, b) = socket::pair().unwrap();
        epoll.add(a.as_fd(), 7, Interest::READ).unwrap();
        assert!(ready(&epoll, 0).is_empty());
        epoll.modify(a.as_fd(), 8, Interest::BOTH).unwrap();
        assert_eq!(
            ready(&epoll, 0),
            [Ready {
                token: 8,
                read: false,
                write: true,
                hangup: false
            }]
        );
        epoll.modify(a.as_fd(), 9, Interest::NONE).unwrap();
        socket::send(b.as_fd(), b"x").unwrap();
        assert!(ready(&epoll, 0).is_empty());
        drop(b);
        let gone = ready(&epoll, 100);
        assert!(gone[0].token == 9 && gone[0].hangup);
        epoll.remove(a.as_fd()).unwrap();
        assert!(ready(&epoll, 0).is_empty());
    }

    #[test]
    fn timers_fire_once_and_can_be_turned_off() {
        let timer = TimerFd::new().unwrap();
        assert_eq!(timer.read().unwrap(), None);
        timer.set(Some(Duration::ZERO)).unwrap();
        assert!(socket::wait_readable(timer.as_fd(), Duration::from_secs(1)).unwrap());
        assert_eq!(timer.read().unwrap(), Some(1));
        timer.set(Some(Duration::from_millis(5))).unwrap();
        timer.set(None).unwrap();
        assert!(!socket::wait_readable(timer.as_fd(), Duration::from_millis(20)).unwrap());
    }

    #[test]
    fn watches_files_for_changes() {
        let path = std::env::temp_dir().join(format!("dunlin-inotify-{}", std::process::id()));
        std::fs::write(&path, "a").unwrap();
        let watch = Inotify::new().unwrap();
        watch.watch(&path).unwrap();
        assert!(!watch.drain().unwrap());
        std::fs::write(&path, "b").unwrap();
        assert!(watch.drain().unwrap());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn clocks_go_forward() {
        let (mono, unix) = (mono_ms(), unix_ns());
        assert!(mono_ms() >= mono);
        assert!(unix > 1_600_000_000_000_000_000);
    }
}

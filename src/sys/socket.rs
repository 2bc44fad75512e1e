//! Local sockets that keep packet borders (`SOCK_SEQPACKET`), carry descriptors and tell who is on the other side;
//! and non-blocking TCP connects for probes.
//!
//! Unix sockets are named relative to a directory descriptor (through `/proc/self/fd/N/NAME`), since `sun_path` holds
//! only 108 bytes. Every descriptor made here is close-on-exec. No call here raises `SIGPIPE`, and each retries on
//! `EINTR`.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Most descriptors that one packet may carry.
pub const MAX_FDS: usize = 16;

/// Longest name of a socket inside its directory, in bytes.
const MAX_NAME: usize = 64;

/// Pending connections of a listener; more wait in `connect` until its time-out.
const BACKLOG: libc::c_int = 32;

/// Who is on the other side of a unix socket, as the kernel saw it when the connection was made, in the reader's
/// namespaces (0 or the overflow id where it has no number there).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCred {
    /// Process id.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Runs a system call until it is not interrupted, turning `-1` into the error.
fn retry(mut call: impl FnMut() -> libc::ssize_t) -> io::Result<usize> {
    loop {
        let done = call();
        if done >= 0 {
            return Ok(done.unsigned_abs());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Turns a fresh descriptor number from the kernel into an owned one.
fn own(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor to us; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn new_packet_socket() -> io::Result<OwnedFd> {
    // SAFETY: plain arguments; the result is checked and owned at once.
    own(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) })
}

/// The address `/proc/self/fd/DIR/NAME`.
fn address_at(dir: BorrowedFd<'_>, name: &str) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    if name.is_empty() || name.len() > MAX_NAME || name.contains('/') || name.contains('\0') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("socket name `{name}` is not 1 to {MAX_NAME} bytes without slash"),
        ));
    }
    address_of(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()).as_bytes())
}

/// The address of a path, which is at most 107 bytes long.
fn address_of(path: &[u8]) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    // SAFETY: sockaddr_un is plain old data for which all zeroes is a valid value.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    if path.len() >= address.sun_path.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in address.sun_path.iter_mut().zip(path) {
        *to = *from as libc::c_char;
    }
    Ok((address, size_of::<libc::sockaddr_un>() as libc::socklen_t))
}

/// Listens on a new packet socket `name` (mode 0600) in `dir`. A file that has that name is replaced: the caller holds
/// the lock that says nobody else listens there. The listener is non-blocking.
pub fn listen_at(dir: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let socket = new_packet_socket()?;
    let (address, len) = address_at(dir, name)?;
    let bind = || {
        // SAFETY: `address` is a valid sockaddr_un of `len` bytes that lives across the call.
        retry(|| unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) } as libc::ssize_t)
    };
    // Nobody can connect before `listen`, so the mode is right by then.
    if let Err(error) = bind() {
        if error.raw_os_error() != Some(libc::EADDRINUSE) {
            return Err(error);
        }
        let file = std::ffi::CString::new(name)?;
        // SAFETY: `file` is a NUL-terminated string that lives across the call.
        retry(|| unsafe { libc::unlinkat(dir.as_raw_fd(), file.as_ptr(), 0) } as libc::ssize_t)?;
        bind()?;
    }
    let file = std::ffi::CString::new(name)?;
    // SAFETY: `file` is a NUL-terminated string that lives across the call.
    retry(|| unsafe { libc::fchmodat(dir.as_raw_fd(), file.as_ptr(), 0o600, 0) } as libc::ssize_t)?;
    // SAFETY: plain arguments.
    retry(|| unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) } as libc::ssize_t)?;
    set_nonblocking(socket.as_fd(), true)?;
    Ok(socket)
}

/// Connects to the packet socket `name` in `dir`; waits at most `timeout` where the listener's queue is full. Sending
/// and receiving on the result wait at most `timeout` too, until [`set_timeouts`] says otherwise.
pub fn connect_at(dir: BorrowedFd<'_>, name: &str, timeout: Duration) -> io::Result<OwnedFd> {
    let socket = new_packet_socket()?;
    let (address, len) = address_at(dir, name)?;
    connect(socket.as_fd(), &address, len, timeout)?;
    Ok(socket)
}

/// Connects; this and what follows waits at most `timeout`.
fn connect(
    socket: BorrowedFd<'_>,
    address: &libc::sockaddr_un,
    len: libc::socklen_t,
    timeout: Duration,
) -> io::Result<()> {
    set_timeouts(socket, Some(timeout))?;
    retry(|| {
        // SAFETY: `address` is a valid sockaddr_un of `len` bytes that lives across the call.
        unsafe { libc::connect(socket.as_raw_fd(), std::ptr::from_ref(address).cast(), len) as libc::ssize_t }
    })?;
    Ok(())
}

/// Takes one waiting connection, blocking; `WouldBlock` where the listener is non-blocking and none waits.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: null address and length are allowed: the peer's address is not wanted.
    let fd = retry(|| unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            libc::SOCK_CLOEXEC,
        )
    } as libc::ssize_t)?;
    own(fd as libc::c_int)
}

/// Connects to a stream socket at `path` and sends `bytes` and one descriptor, as receivers of terminals expect it. Waits
/// at most `timeout` for one that takes no connections.
pub fn hand_over(path: &std::path::Path, bytes: &[u8], fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let (address, len) = address_of(path.as_os_str().as_bytes())?;
    // SAFETY: plain arguments; the result is checked and owned at once.
    let socket = own(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    connect(socket.as_fd(), &address, len, timeout)?;
    send_with_fds(socket.as_fd(), bytes, &[fd])
}

/// Two connected, blocking packet sockets.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    // SAFETY: `fds` has room for the two descriptors.
    if unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
            0,
            fds.as_mut_ptr(),
        )
    } < 0
    {
        return Err(io::Error::last_os_error());
    }
    Ok((own(fds[0])?, own(fds[1])?))
}

/// Room for the control message of [`MAX_FDS`] descriptors, aligned as the kernel wants it.
#[repr(C, align(8))]
struct ControlRoom([MaybeUninit<u8>; 128]);

const _: () = assert!(MAX_FDS * 4 + 32 <= 128);

/// Sends one packet with descriptors. `WouldBlock` where the socket is non-blocking, or its time-out passed, and the
/// peer does not read; `EMSGSIZE` where the packet is larger than the send buffer.
pub fn send_with_fds(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.len() > MAX_FDS {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut control = ControlRoom([MaybeUninit::zeroed(); 128]);
    let mut iov = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: msghdr is plain old data for which all zeroes is a valid value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        let payload = size_of_val(fds) as libc::c_uint;
        message.msg_control = (&raw mut control).cast();
        // SAFETY: CMSG_SPACE only computes; the room holds MAX_FDS descriptors (asserted above) and is aligned; the
        // header and the descriptors are written inside it.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(payload) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(payload) as _;
            let mut to = libc::CMSG_DATA(header).cast::<libc::c_int>();
            for fd in fds {
                to.write_unaligned(fd.as_raw_fd());
                to = to.add(1);
            }
        }
    }
    // SAFETY: `message` points to the bytes and the control room, both alive across the call.
    let sent = retry(|| unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) })?;
    if sent != bytes.len() {
        return Err(io::Error::from(io::ErrorKind::WriteZero));
    }
    Ok(())
}

/// Sends one packet.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    send_with_fds(socket, bytes, &[])
}

/// Receives one packet and its descriptors (close-on-exec). Length 0 means that the peer is gone (empty packets are
/// never sent). A packet longer than `buffer`, or with more than [`MAX_FDS`] descriptors, is `InvalidData`; what came
/// with it is closed.
pub fn recv_with_fds(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    match recv_once(socket, buffer) {
        // The peer closed without reading all that we sent. The kernel says so before it hands out what the peer had
        // sent, and only once.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => recv_once(socket, buffer),
        other => other,
    }
}

fn recv_once(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = ControlRoom([MaybeUninit::zeroed(); 128]);
    let mut iov = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: msghdr is plain old data for which all zeroes is a valid value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    // SAFETY: only computes.
    message.msg_controllen = unsafe { libc::CMSG_SPACE((MAX_FDS * size_of::<libc::c_int>()) as libc::c_uint) } as _;
    // SAFETY: `message` points to the buffer and the control room, both alive and writable across the call.
    let got = retry(|| unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) })?;
    let mut fds = Vec::new();
    // SAFETY: the kernel filled the control room and set its length; the macros walk inside it, and every descriptor
    // found was just installed for us, so each is owned exactly once.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let from = libc::CMSG_DATA(header).cast::<libc::c_int>();
                for index in 0..bytes / size_of::<libc::c_int>() {
                    fds.push(OwnedFd::from_raw_fd(from.add(index).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "packet or its descriptors are larger than allowed",
        ));
    }
    Ok((got, fds))
}

/// Receives one packet; descriptors that came with it are closed. See [`recv_with_fds`].
pub fn recv(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    recv_with_fds(socket, buffer).map(|(got, _)| got)
}

/// Who connected.
pub fn peer_cred(socket: BorrowedFd<'_>) -> io::Result<PeerCred> {
    let mut cred = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `cred` and `len` are valid for writes of the sizes given.
    retry(|| unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut cred).cast(),
            &raw mut len,
        )
    } as libc::ssize_t)?;
    Ok(PeerCred {
        pid: cred.pid,
        uid: cred.uid,
        gid: cred.gid,
    })
}

/// Limits how long each send and each receive may block (then `WouldBlock`); `None` waits for ever.
pub fn set_timeouts(socket: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<()> {
    let wait = timeout.map_or(Duration::ZERO, |timeout| timeout.max(Duration::from_micros(1)));
    let value = libc::timeval {
        tv_sec: wait.as_secs().min(i32::MAX as u64) as _,
        tv_usec: wait.subsec_micros() as _,
    };
    for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        set_option(socket, libc::SOL_SOCKET, option, &value)?;
    }
    Ok(())
}

/// Asks for a send buffer of `bytes` (the kernel doubles it and caps it at `net.core.wmem_max`).
pub fn set_send_buffer(socket: BorrowedFd<'_>, bytes: i32) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, &bytes)
}

fn set_option<T>(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: `value` is valid for reads of its own size.
    retry(|| unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const *value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    } as libc::ssize_t)?;
    Ok(())
}

/// Switches `O_NONBLOCK` of the open file behind `fd`, which every duplicate shares.
pub fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    // SAFETY: plain arguments.
    let flags = retry(|| unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) } as libc::ssize_t)? as libc::c_int;
    let flags = if on {
        flags | libc::O_NONBLOCK
    } else {
        flags & !libc::O_NONBLOCK
    };
    // SAFETY: plain arguments.
    retry(|| unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) } as libc::ssize_t)?;
    Ok(())
}

/// Waits until `fd` can be read (or its peer is gone); `false` when `timeout` passed first.
pub fn wait_readable(fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let millis = timeout.as_millis().min(i32::MAX as u128) as libc::c_int;
    // SAFETY: one valid pollfd.
    let ready = retry(|| unsafe { libc::poll(&raw mut poll, 1, millis) } as libc::ssize_t)?;
    Ok(ready > 0)
}

/// Starts a non-blocking TCP connection in the caller's network namespace. Whether it came up is known when the socket
/// becomes writable: see [`take_error`]. Refusals that are known at once are the error here.
pub fn tcp_connect(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    // SAFETY: plain arguments; the result is checked and owned at once.
    let socket = own(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) })?;
    let done = match address.ip() {
        IpAddr::V4(ip) => {
            // SAFETY: sockaddr_in is plain old data for which all zeroes is a valid value.
            let mut to: libc::sockaddr_in = unsafe { std::mem::zeroed() };
            to.sin_family = libc::AF_INET as libc::sa_family_t;
            to.sin_port = address.port().to_be();
            to.sin_addr.s_addr = u32::from_ne_bytes(ip.octets());
            connect_to(&socket, &to)
        }
        IpAddr::V6(ip) => {
            // SAFETY: sockaddr_in6 is plain old data for which all zeroes is a valid value.
            let mut to: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
            to.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            to.sin6_port = address.port().to_be();
            to.sin6_addr.s6_addr = ip.octets();
            connect_to(&socket, &to)
        }
    };
    match done {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

fn connect_to<T>(socket: &OwnedFd, address: &T) -> io::Result<()> {
    // SAFETY: `address` is a valid socket address of its own size.
    let done = unsafe {
        libc::connect(
            socket.as_raw_fd(),
            (&raw const *address).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The pending error of a socket (`SO_ERROR`), which it clears: after a non-blocking connect, how that ended.
pub fn take_error(socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut error: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `error` and `len` are valid for writes of the sizes given.
    retry(|| unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            (&raw mut error).cast(),
            &raw mut len,
        )
    } as libc::ssize_t)?;
    if error == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(error))
    }
}

/// Reads at most `buffer.len()` bytes from any descriptor; 0 is the end of it.
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `buffer` is valid for writes of its length.
    retry(|| unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) })
}

/// Writes some of `bytes` to any descriptor and tells how many. `SIGPIPE` is the caller's to ignore.
pub fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: `bytes` is valid for reads of its length.
    retry(|| unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn directory(name: &str) -> (std::path::PathBuf, std::fs::File) {
        let path = std::env::temp_dir().join(format!("dunlin-socket-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let dir = std::fs::File::open(&path).unwrap();
        (path, dir)
    }

    #[test]
    fn carries_packets_with_descriptors_by_name() {
        let (path, dir) = directory("name");
        let first = listen_at(dir.as_fd(), "a.sock").unwrap();
        drop(first);
        let listener = listen_at(dir.as_fd(), "a.sock").unwrap();
        assert_eq!(
            std::fs::metadata(path.join("a.sock")).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(accept(listener.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let client = connect_at(dir.as_fd(), "a.sock", Duration::from_secs(1)).unwrap();
        let server = accept(listener.as_fd()).unwrap();
        assert_eq!(peer_cred(server.as_fd()).unwrap().pid, std::process::id() as i32);
        send_with_fds(client.as_fd(), b"one", &[dir.as_fd(), client.as_fd()]).unwrap();
        send(client.as_fd(), b"two").unwrap();
        let mut buffer = [0; 16];
        let (len, fds) = recv_with_fds(server.as_fd(), &mut buffer).unwrap();
        assert_eq!((&buffer[..len], fds.len()), (&b"one"[..], 2));
        assert_eq!(recv(server.as_fd(), &mut buffer).unwrap(), 3);
        drop((client, fds));
        assert_eq!(recv(server.as_fd(), &mut buffer).unwrap(), 0);
        assert!(send(server.as_fd(), b"x").is_err());
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn refuses_truncated_packets_and_closes_their_descriptors() {
        let (a, b) = pair().unwrap();
        let (end, probe) = pair().unwrap();
        send_with_fds(a.as_fd(), &[7; 100], &[end.as_fd()]).unwrap();
        drop(end);
        let error = recv_with_fds(b.as_fd(), &mut [0; 10]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(recv(probe.as_fd(), &mut [0; 10]).unwrap(), 0);
    }

    #[test]
    fn what_a_peer_sent_is_read_though_it_left_without_reading() {
        let (a, b) = pair().unwrap();
        send(a.as_fd(), b"unread").unwrap();
        send(b.as_fd(), b"last words").unwrap();
        drop(b);
        let mut buffer = [0; 16];
        assert_eq!(recv(a.as_fd(), &mut buffer).unwrap(), 10);
        assert_eq!(recv(a.as_fd(), &mut buffer).unwrap(), 0);
    }

    #[test]
    fn waits_no_longer_than_told() {
        let (a, _b) = pair().unwrap();
        set_timeouts(a.as_fd(), Some(Duration::from_millis(20))).unwrap();
        assert_eq!(
            recv(a.as_fd(), &mut [0; 4]).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        assert!(!wait_readable(a.as_fd(), Duration::from_millis(5)).unwrap());
        let full = loop {
            if let Err(error) = send(a.as_fd(), &[0; 4096]) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        let (path, dir) = directory("bad");
        for name in ["", "a/b", "nul\0", &"x".repeat(65)] {
            assert!(listen_at(dir.as_fd(), name).is_err(), "{name:?}");
        }
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn tells_how_a_tcp_connect_ended() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let socket = tcp_connect(address).unwrap();
        listener.accept().unwrap();
        take_error(socket.as_fd()).unwrap();
        drop(listener);
        let refused = match tcp_connect(address) {
            Err(error) => error,
            Ok(socket) => {
                wait_readable(socket.as_fd(), Duration::from_secs(1)).unwrap();
                take_error(socket.as_fd()).unwrap_err()
            }
        };
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}

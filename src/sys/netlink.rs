//! Network interfaces over rtnetlink(7): their addresses, and moving them to another namespace.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::call::{c_string, check, own};
use super::socket;

const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const DONE: u16 = 3;
const ERROR: u16 = 2;

const REQUEST: u16 = 0x01;
const ACK: u16 = 0x04;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;

const LINK_NAME: u16 = 3;
const LINK_NAMESPACE: u16 = 28;

/// Attributes of addresses that make one again: address, local, broadcast, flags.
const ADDRESS_PARTS: [u16; 4] = [1, 2, 4, 8];
const ADDRESS_FLAGS: u16 = 8;
/// Not given for a time.
const PERMANENT: u32 = 0x80;

/// Bytes of a message's header, of `struct ifinfomsg` and of `struct ifaddrmsg`.
const HEADER: usize = 16;
const LINK_BYTES: usize = 16;
const ADDRESS_BYTES: usize = 8;
/// How long the kernel may take to answer.
const TIME: Duration = Duration::from_secs(10);
/// The kernel fills at most this much at once.
const BUFFER: usize = 32 << 10;
/// Messages of one answer at most: interfaces have a handful of addresses.
const ANSWERS: usize = 4096;

/// An address of an interface, as it is added again elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `AF_INET` or `AF_INET6`.
    family: u8,
    prefix: u8,
    parts: Vec<(u16, Vec<u8>)>,
}

/// A socket to the kernel, for interfaces of the caller's network namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    /// Opens one.
    pub fn open() -> io::Result<Self> {
        // SAFETY: plain arguments; the result is checked and owned at once.
        let made = unsafe {
            libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                libc::NETLINK_ROUTE,
            )
        };
        let socket = own(made.into())?;
        socket::set_timeouts(socket.as_fd(), Some(TIME))?;
        Ok(Netlink { socket })
    }

    /// The lasting addresses of global scope.
    pub fn addresses(&self, index: u32) -> io::Result<Vec<Address>> {
        let answers = self.call(GET_ADDRESS, REQUEST | DUMP, &[0; ADDRESS_BYTES])?;
        Ok(answers.iter().filter_map(|message| address(message, index)).collect())
    }

    /// Moves an interface to another network namespace, where it gets this name. It goes down and loses its addresses.
    pub fn move_link(&self, index: u32, namespace: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        let mut body = link(index, 0, 0);
        put(&mut body, LINK_NAMESPACE, &namespace.as_raw_fd().to_ne_bytes());
        put(&mut body, LINK_NAME, c_string(name)?.as_bytes_with_nul());
        self.call(NEW_LINK, REQUEST | ACK, &body).map(drop)
    }

    /// Brings an interface up.
    pub fn set_up(&self, index: u32) -> io::Result<()> {
        let up = libc::IFF_UP as u32;
        self.call(NEW_LINK, REQUEST | ACK, &link(index, up, up)).map(drop)
    }

    /// Gives an interface an address.
    pub fn add_address(&self, index: u32, address: &Address) -> io::Result<()> {
        let mut body = vec![address.family, address.prefix, 0, 0];
        body.extend(index.to_ne_bytes());
        for (kind, value) in &address.parts {
            put(&mut body, *kind, value);
        }
        self.call(NEW_ADDRESS, REQUEST | ACK | CREATE | EXCLUSIVE, &body)
            .map(drop)
    }

    /// Sends a request and takes its answers; the kernel's refusal is the error.
    fn call(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let length = u32::try_from(HEADER + body.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut request = length.to_ne_bytes().to_vec();
        request.extend(kind.to_ne_bytes());
        request.extend(flags.to_ne_bytes());
        request.extend([0; 8]);
        request.extend(body);
        socket::send(self.socket.as_fd(), &request)?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = socket::recv(self.socket.as_fd(), &mut buffer)?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let Some((kind, body, after)) = message(rest) {
                match kind {
                    DONE => return Ok(answers),
                    // An acknowledgement is an error of 0.
                    ERROR => {
                        return match number(body, 0) {
                            0 => Ok(answers),
                            code => Err(io::Error::from_raw_os_error(code.wrapping_neg() as i32)),
                        };
                    }
                    _ if answers.len() < ANSWERS => answers.push(body.to_vec()),
                    _ => return Err(io::Error::from(io::ErrorKind::InvalidData)),
                }
                rest = after;
            }
            if length == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
        }
    }
}

/// The number of an interface of the caller's network namespace.
pub fn index(name: &str) -> io::Result<u32> {
    let name = c_string(name)?;
    // SAFETY: `name` ends with a NUL.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(check(-1).map(drop).err().unwrap_or_else(io::Error::last_os_error)),
        index => Ok(index),
    }
}

/// `struct ifinfomsg`.
fn link(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    for part in [index, flags, change] {
        body.extend(part.to_ne_bytes());
    }
    debug_assert_eq!(body.len(), LINK_BYTES);
    body
}

/// Adds an attribute, padded to four bytes.
fn put(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The four bytes at `at`; 0 where there are none.
fn number(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
    four.map_or(0, u32::from_ne_bytes)
}

/// The first of some messages: its kind and its body; and the others.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = number(bytes, 0) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// An answer's address, if it belongs to the interface and is to be kept.
fn address(body: &[u8], wanted: u32) -> Option<Address> {
    let &[family, prefix, flags, scope, ..] = body else {
        return None;
    };
    if number(body, 4) != wanted || scope != 0 {
        return None;
    }
    let (mut parts, mut flags) = (Vec::new(), u32::from(flags));
    let mut rest = body.get(ADDRESS_BYTES..).unwrap_or_default();
    while let Some(length) = rest
        .get(..2)
        .and_then(|two| two.try_into().ok())
        .map(u16::from_ne_bytes)
    {
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(4..usize::from(length))?;
        if kind == ADDRESS_FLAGS {
            flags = number(value, 0);
        }
        if ADDRESS_PARTS.contains(&kind) {
            parts.push((kind, value.to_vec()));
        }
        rest = rest.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
    }
    (flags & PERMANENT != 0).then_some(Address { family, prefix, parts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_answers() {
        let netlink = Netlink::open().expect("a socket");
        let index = index("lo").expect("there is one");
        // Its addresses are of the host's scope, but for machines that have given it others.
        netlink.addresses(index).expect("a list");
        assert!(super::index("no-such-link").is_err());
        let error = netlink
            .move_link(u32::MAX >> 1, netlink.socket.as_fd(), "x")
            .expect_err("no such link");
        assert!(error.raw_os_error().is_some());
    }

    #[test]
    fn lasting_global_addresses_are_kept_as_they_are() {
        let mut body = vec![libc::AF_INET as u8, 24, 0x80, 0];
        body.extend(7_u32.to_ne_bytes());
        put(&mut body, 1, &[192, 0, 2, 7]);
        put(&mut body, 3, b"label\0");
        put(&mut body, 8, &0x80_u32.to_ne_bytes());
        let found = address(&body, 7).expect("an address");
        assert_eq!((found.family, found.prefix), (libc::AF_INET as u8, 24));
        assert_eq!(found.parts.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [1, 8]);
        assert_eq!(address(&body, 8), None, "another interface");
        let mut passing = body.clone();
        passing.truncate(24);
        put(&mut passing, 8, &[0; 4]);
        assert_eq!(address(&passing, 7), None, "given for a time: {passing:?}");
        let mut local = body;
        local[3] = 254;
        assert_eq!(address(&local, 7), None, "of another scope");
        assert_eq!(address(&[], 0), None);
    }

    #[test]
    fn cut_messages_end_the_list() {
        assert_eq!(message(&[]), None);
        let mut bytes = 20_u32.to_ne_bytes().to_vec();
        bytes.extend([3, 0, 0, 0]);
        bytes.extend([0; 8]);
        assert_eq!(message(&bytes), None);
        bytes.extend([9; 4]);
        assert_eq!(message(&bytes), Some((3, &[9; 4][..], &[][..])));
    }
}

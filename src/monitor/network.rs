//! A container's private network: the helper (pasta, slirp4netns) that connects it with the host's.
//!
//! The helper is a child of the monitor and is killed with it, or with the container's run. A starter makes it, once the
//! container's namespaces are there and before its program runs: it is in the host's network still, where the monitor of a
//! container that never starts again has left it.

use std::ffi::CString;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::starter::SIGKILL;
use super::wire::Refusal;
use crate::disk::record::{self, Record, kinds};
use crate::sys::event::{self, Interest, Poll};
use crate::sys::ns::{self, Namespaces};
use crate::sys::path;
use crate::sys::process::{self, Child, CloneArgs, Cloned};
use crate::sys::{errno, socket};
use crate::types::bounds::NETWORK_START_MS;
use crate::types::container::ProcessId;
use crate::types::network::{GATEWAY, HelperKind, OWN, PREFIX, PortMapping, Protocol, RESOLVER};

/// Name of the [`Plan`] in a bundle; without one there is nothing to do.
pub const PLAN: &str = "network";
/// Name of slirp4netns's socket in the run directory.
const SLIRP_SOCKET: &str = "slirp.sock";
/// Bytes of a helper's complaints that are read.
const COMPLAINT_BYTES: usize = 8 << 10;
/// Time for a killed helper to be gone, and for slirp4netns to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The address and the way out of a private network in IPv6, where the host has any.
const OWN_V6: &str = "fd64:756e:6c69:6e::100";
const GATEWAY_V6: &str = "fe80::2";
/// The way out's link-layer address where the host has no interface to copy it from.
const MAC: &str = "52:64:75:6e:6c:02";

/// What a monitor does for its container's network.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Plan {
    /// Connects it.
    pub helper: Option<Helper>,
    /// Whose namespaces are shared; they must be there.
    pub joins: Option<Target>,
    /// Only holds namespaces, with this host name, and runs no program.
    pub infra: Option<String>,
}

impl Record for Plan {
    const KIND: u16 = kinds::NETWORK;
}

/// How a helper is run.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Helper {
    /// Which one.
    pub kind: HelperKind,
    /// Its program.
    pub program: PathBuf,
    /// What it publishes.
    pub ports: Vec<PortMapping>,
    /// Whether the gateway's address leads to the host's loopback.
    pub host_loopback: bool,
    /// Whether it asks the host's name servers for the container.
    pub resolver: bool,
}

/// Whose namespaces are shared.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Target {
    /// The container's name, for messages.
    pub name: String,
    /// Its first process.
    pub process: ProcessId,
}

/// The plan in a bundle.
pub fn read(bundle: &Path) -> Result<Plan, Refusal> {
    let plan = record::read_optional(&bundle.join(PLAN)).map_err(|error| Refusal::new(error.to_string()))?;
    Ok(plan.unwrap_or_default())
}

impl Plan {
    /// Whether a start can succeed, as far as that can be told before.
    pub fn check(&self) -> Result<(), Refusal> {
        if let Some(Target { name, process }) = &self.joins
            && !process::lives(process.pid, process.start)
        {
            return Err(Refusal::new(format!(
                "container `{name}`, whose network this one shares, has ended since; start both again"
            )));
        }
        let ports = self.helper.iter().flat_map(|helper| &helper.ports);
        ports.into_iter().try_for_each(check_ports)
    }
}

/// Whether the host's ports are free, and this user's to take.
fn check_ports(mapping: &PortMapping) -> Result<(), Refusal> {
    let both = [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)];
    let addresses = match &mapping.address {
        Some(one) => std::slice::from_ref(one),
        None => &both[..],
    };
    let protocol = mapping.protocol;
    for (port, _) in mapping.pairs() {
        for address in addresses {
            let bound = match protocol {
                Protocol::Tcp => TcpListener::bind((*address, port)).map(drop),
                Protocol::Udp => UdpSocket::bind((*address, port)).map(drop),
            };
            let Err(error) = bound else { continue };
            let reason = match error.raw_os_error() {
                // A host without IPv6 publishes in IPv4.
                Some(errno::EAFNOSUPPORT | errno::EADDRNOTAVAIL) if mapping.address.is_none() && address.is_ipv6() => {
                    continue;
                }
                Some(errno::EADDRINUSE) => {
                    "address already in use; stop what listens there, or choose another port".to_owned()
                }
                Some(errno::EADDRNOTAVAIL) => "this host has no such address".to_owned(),
                Some(errno::EACCES) => format!(
                    "permission denied; choose a port from 1024 on, or let ordinary users have it, as root: \
                     `sysctl net.ipv4.ip_unprivileged_port_start={port}`"
                ),
                _ => error.to_string(),
            };
            let at = SocketAddr::new(*address, port);
            return Err(Refusal::new(format!(
                "publish port `{at}/{}`: {reason}",
                protocol.as_str()
            )));
        }
    }
    Ok(())
}

/// Starts the helper for the network of the process `pid`, as a sibling of the caller, and waits until the network is up.
pub fn begin(helper: &Helper, pid: i32, run_dir: &Path) -> Result<Child, Refusal> {
    let failed = |what: &str, error: io::Error| {
        let program = helper.program.display();
        Refusal::new(format!("network helper `{program}`: {what}: {error}"))
    };
    let (mut ready, says_ready) = io::pipe().map_err(|error| failed("make a pipe", error))?;
    let (mut said, complains) = io::pipe().map_err(|error| failed("make a pipe", error))?;
    let args = match helper.kind {
        HelperKind::Pasta => pasta(helper, Routes::of_host()),
        HelperKind::Slirp => slirp(helper),
    };
    let text = |text: &str| CString::new(text).map_err(|error| failed("its arguments", error.into()));
    let program = text(&helper.program.to_string_lossy())?;
    let args = std::iter::once(helper.kind.program())
        .chain(args.iter().map(String::as_str))
        .map(text)
        .collect::<Result<Vec<_>, _>>()?;
    let open = |name: &str| {
        let path = PathBuf::from(format!("/proc/{pid}/ns/{name}"));
        path::open_host(&path, path::O_RDONLY).map_err(|error| failed("open the container's namespaces", error))
    };
    let (user, net) = (open("user")?, open("net")?);
    let monitor = parent_id();
    let sibling = CloneArgs {
        sibling: true,
        ..CloneArgs::default()
    };
    let child = match process::clone(&sibling).map_err(|error| failed("fork", error))? {
        Cloned::Parent(child) => child,
        Cloned::Child => {
            let become_it = || -> io::Result<io::Error> {
                // It has no more rights than the container's root, and could not look at the container's process itself.
                ns::join(user.as_fd(), Namespaces::USER)?;
                process::set_parent_death_signal(SIGKILL)?;
                if parent_id() != monitor {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                process::reset_signals()?;
                // It goes on when nobody hears it any more. pasta sees to that itself, and fails where it is done already.
                event::ignore_signal(SIGPIPE, helper.kind == HelperKind::Slirp)?;
                path::enter(path::open_root(run_dir)?.as_fd())?;
                let null = path::open_host(Path::new("/dev/null"), path::O_RDWR)?;
                let says = OwnedFd::from(says_ready);
                let (out, ready) = match helper.kind {
                    HelperKind::Pasta => (says, None),
                    HelperKind::Slirp => (null, Some(says)),
                };
                // Above those that they become.
                let ready = ready.map(|fd| process::copy_above(fd.as_fd(), READY + 1)).transpose()?;
                process::install_stdio([net, out, complains.into()])?;
                if let Some(ready) = ready {
                    process::place(ready.as_fd(), READY, false)?;
                }
                Ok(process::exec(
                    &program,
                    &args,
                    &[c"PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
                ))
            };
            let (Ok(error) | Err(error)) = become_it();
            // Standard error is the pipe, unless it could not even be set.
            let _ = writeln!(io::stderr(), "run it: {error}");
            process::exit_now(125)
        }
    };
    drop((says_ready, complains));
    let begun = await_ready(&mut ready, &mut said).and_then(|()| match helper.kind {
        HelperKind::Pasta => Ok(()),
        HelperKind::Slirp => forward(&helper.ports, run_dir),
    });
    match begun {
        Ok(()) => Ok(child),
        Err(why) => {
            end(&child.pidfd);
            let program = helper.kind.program();
            Err(Refusal::new(format!(
                "bring up the network: {program}: {why}{}",
                hint(&why)
            )))
        }
    }
}

/// Where a helper finds the network: its standard input.
const NETWORK: &str = "/proc/self/fd/0";
/// Signal 13.
const SIGPIPE: i32 = 13;
/// The descriptor that slirp4netns writes to when it is ready.
const READY: i32 = 3;

/// Kills a helper and waits until its ports are free again.
pub fn end(pidfd: &OwnedFd) {
    // It may be gone already; its status is taken with that of all other children.
    let _ = process::send_signal(pidfd.as_fd(), SIGKILL);
    let _ = socket::wait_readable(pidfd.as_fd(), PATIENCE);
}

/// Waits for the first byte on `ready`; an end without one is an error with what was said.
fn await_ready(ready: &mut io::PipeReader, said: &mut io::PipeReader) -> Result<(), String> {
    let lost = |error: io::Error| error.to_string();
    let deadline = event::mono_ms() + NETWORK_START_MS;
    let mut text = Vec::new();
    let mut buffer = [0; 1024];
    let mut talks = true;
    loop {
        let left = deadline.saturating_sub(event::mono_ms());
        if left == 0 {
            return Err(format!(
                "the network did not come up within {} s",
                NETWORK_START_MS / 1000
            ));
        }
        let mut both = [
            Poll::new(Some(ready.as_fd()), Interest::READ),
            Poll::new(talks.then_some(said.as_fd()), Interest::READ),
        ];
        event::poll(&mut both, Some(Duration::from_millis(left))).map_err(lost)?;
        let [is_ready, complains] = both.map(|one| one.ready.read || one.ready.hangup);
        if complains {
            let got = said.read(&mut buffer).map_err(lost)?;
            talks = got > 0;
            if text.len() < COMPLAINT_BYTES {
                text.extend_from_slice(&buffer[..got]);
            }
        } else if is_ready {
            return match ready.read(&mut buffer).map_err(lost)? {
                0 => Err(complaint(&String::from_utf8_lossy(&text))),
                _ => Ok(()),
            };
        }
    }
}

/// What a helper that failed has said, in one line. It cannot reach the system's log, which says nothing about why.
fn complaint(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    let said: Vec<&str> = lines
        .filter(|line| !line.is_empty() && !line.ends_with("to syslog"))
        .collect();
    match said.is_empty() {
        true => "it ended without a word".to_owned(),
        false => said.join("; "),
    }
}

fn hint(why: &str) -> &'static str {
    match why.contains("/dev/net/tun") || why.contains("tun socket") {
        true => "; ordinary users must be able to open `/dev/net/tun`: as root, `modprobe tun; chmod 666 /dev/net/tun`",
        false => "",
    }
}

/// Ways out of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Routes {
    v4: bool,
    v6: bool,
}

impl Routes {
    fn of_host() -> Routes {
        let read = |name: &str| std::fs::read_to_string(Path::new("/proc/net").join(name)).unwrap_or_default();
        Routes::parse(&read("route"), &read("ipv6_route"))
    }

    /// From what `/proc/net/route` and `/proc/net/ipv6_route` say.
    fn parse(v4: &str, v6: &str) -> Routes {
        let default = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            matches!(words[..], [_, "00000000", gateway, ..] if gateway != "00000000")
        };
        let default_v6 = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            matches!(words[..], [to, "00", .., device] if to.bytes().all(|b| b == b'0') && device != "lo")
        };
        Routes {
            v4: v4.lines().any(default),
            v6: v6.lines().any(default_v6),
        }
    }
}

/// pasta's arguments. The network has addresses of its own, so that it outlives changes of the host's. Where the host has no
/// way out (yet), there is one nevertheless: what is published works, and a way out that comes later is used.
fn pasta(helper: &Helper, routes: Routes) -> Vec<String> {
    let mut args: Vec<String> = Vec::new();
    let mut say = |more: &[&str]| args.extend(more.iter().map(|&word| word.to_owned()));
    say(&[
        "-f",
        "-q",
        "--config-net",
        "-I",
        "eth0",
        "-P",
        "/dev/stdout",
        "--no-netns-quit",
    ]);
    let (own, gateway, prefix) = (OWN.to_string(), GATEWAY.to_string(), PREFIX.to_string());
    say(&["-a", &own, "-n", &prefix, "-g", &gateway]);
    match routes {
        Routes { v6: true, .. } => say(&["-a", OWN_V6, "-g", GATEWAY_V6]),
        Routes { v4: true, v6: false } => say(&["-4"]),
        Routes { v4: false, v6: false } => say(&["-4", "-i", "lo", "-M", MAC]),
    }
    if !helper.host_loopback {
        say(&["--no-map-gw"]);
    }
    if helper.resolver {
        say(&["--dns-forward", &RESOLVER.to_string()]);
    }
    for (flag, protocol) in [("-t", Protocol::Tcp), ("-u", Protocol::Udp)] {
        let mut ports = helper.ports.iter().filter(|port| port.protocol == protocol).peekable();
        if ports.peek().is_none() {
            say(&[flag, "none"]);
        }
        for port in ports {
            let last = |first: u16| first.saturating_add(port.count - 1);
            let address = port.address.map(|ip| format!("{ip}/")).unwrap_or_default();
            let (from, to) = (port.host, port.container);
            say(&[flag, &format!("{address}{from}-{}:{to}-{}", last(from), last(to))]);
        }
    }
    say(&["-T", "none", "-U", "none"]);
    say(&["--netns-only", "--netns", NETWORK]);
    args
}

/// slirp4netns's arguments: its addresses are those of [`pasta`].
fn slirp(helper: &Helper) -> Vec<String> {
    let mut args = vec![
        "--configure",
        "--mtu=65520",
        "--enable-ipv6",
        "--enable-sandbox",
        "--enable-seccomp",
        "--ready-fd=3",
    ];
    if !helper.host_loopback {
        args.push("--disable-host-loopback");
    }
    args.extend(["--api-socket", SLIRP_SOCKET, "--netns-type=path", NETWORK, "eth0"]);
    args.into_iter().map(str::to_owned).collect()
}

/// Has slirp4netns publish ports (slirp4netns(1), "API SOCKET").
fn forward(ports: &[PortMapping], run_dir: &Path) -> Result<(), String> {
    let io = |error: io::Error| format!("its socket: {error}");
    // A path may be longer than that of a socket.
    let dir = path::open_root(run_dir).map_err(io)?;
    let at = format!("/proc/self/fd/{}/{SLIRP_SOCKET}", dir.as_raw_fd());
    for port in ports {
        for (host, container) in port.pairs() {
            let address = port.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
            if address.is_ipv6() {
                return Err(format!(
                    "port `{port}`: it publishes in IPv4 only; install the package `passt`"
                ));
            }
            let request = format!(
                r#"{{"execute":"add_hostfwd","arguments":{{"proto":"{}","host_addr":"{address}","host_port":{host},"guest_addr":"{OWN}","guest_port":{container}}}}}"#,
                port.protocol.as_str()
            );
            let mut stream = UnixStream::connect(&at).map_err(io)?;
            stream.set_read_timeout(Some(PATIENCE)).map_err(io)?;
            stream.write_all(request.as_bytes()).map_err(io)?;
            stream.shutdown(Shutdown::Write).map_err(io)?;
            let mut answer = String::new();
            stream
                .take(COMPLAINT_BYTES as u64)
                .read_to_string(&mut answer)
                .map_err(io)?;
            if !answer.contains("\"return\"") {
                return Err(format!("publish port `{port}`: {}", answer.trim()));
            }
        }
    }
    Ok(())
}

/// A non-blocking connection to `address` in the network of the process `target`. A child makes it: the caller keeps its own
/// network.
pub fn connect_inside(target: BorrowedFd<'_>, address: SocketAddr) -> io::Result<OwnedFd> {
    let (ours, theirs) = socket::pair()?;
    let child = match process::clone(&CloneArgs::default())? {
        Cloned::Parent(child) => child,
        Cloned::Child => {
            let made = ns::join(target, Namespaces::NET).and_then(|()| socket::tcp_connect(address));
            // The caller finds out when nothing comes.
            let _ = match made {
                Ok(connection) => socket::send_with_fds(theirs.as_fd(), &[0; 4], &[connection.as_fd()]),
                Err(error) => socket::send(theirs.as_fd(), &error.raw_os_error().unwrap_or(0).to_le_bytes()),
            };
            process::exit_now(0)
        }
    };
    drop(theirs);
    socket::set_timeouts(ours.as_fd(), Some(PATIENCE))?;
    let mut code = [0; 4];
    let received = socket::recv_with_fds(ours.as_fd(), &mut code);
    let _ = process::send_signal(child.pidfd.as_fd(), SIGKILL);
    let _ = process::wait(child.pidfd.as_fd());
    match received?.1.pop() {
        Some(connection) => Ok(connection),
        None => Err(io::Error::from_raw_os_error(i32::from_le_bytes(code))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn helper(ports: &[&str]) -> Helper {
        Helper {
            kind: HelperKind::Pasta,
            program: "/usr/bin/pasta".into(),
            ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
            host_loopback: false,
            resolver: true,
        }
    }

    #[test]
    fn a_helper_is_told_everything() {
        let routes = Routes { v4: true, v6: true };
        let ports = ["8080:80", "[::1]:8000-8002:9000-9002"];
        let line = pasta(&helper(&ports), routes).join(" ");
        assert_eq!(
            line,
            "-f -q --config-net -I eth0 -P /dev/stdout --no-netns-quit -a 10.0.2.100 -n 24 -g 10.0.2.2 \
             -a fd64:756e:6c69:6e::100 -g fe80::2 --no-map-gw --dns-forward 10.0.2.3 -t 8080-8080:80-80 \
             -t ::1/8000-8002:9000-9002 -u none -T none -U none --netns-only --netns /proc/self/fd/0"
        );
        let offline = pasta(&helper(&[]), Routes { v4: false, v6: false }).join(" ");
        assert!(
            offline.contains(" -4 -i lo -M ") && offline.contains(" -t none -u none "),
            "{offline}"
        );
        let line = slirp(&helper(&[])).join(" ");
        assert!(
            line.contains("--disable-host-loopback") && line.ends_with("/proc/self/fd/0 eth0"),
            "{line}"
        );
    }

    #[test]
    fn ways_out_are_found_in_the_kernels_tables() {
        let v4 = "Iface\tDestination\tGateway\tFlags\neth0\t00000000\t010200C0\t0003\neth0\t000200C0\t00000000\t0001\n";
        let zero = "0".repeat(32);
        let v6 = format!("{zero} 00 {zero} 00 fd00 00000400 0 0 00000003 eth0\n");
        let lo = format!("{zero} 00 {zero} 00 {zero} ffffffff 1 0 00200200       lo\n");
        for (a, b, routes) in [
            (v4, v6.as_str(), Routes { v4: true, v6: true }),
            (
                "eth0\t000200C0\t00000000\t0001\n",
                lo.as_str(),
                Routes { v4: false, v6: false },
            ),
        ] {
            assert_eq!(Routes::parse(a, b), routes);
        }
    }

    #[test]
    fn taken_and_refused_ports_are_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let check = |text: &str| check_ports(&text.parse().unwrap());
        for text in [
            format!("{port}:80"),
            format!("127.0.0.1:{port}:80"),
            format!("{}-{port}:80-81", port - 1),
        ] {
            let message = check(&text).unwrap_err().message;
            assert!(
                message.contains(&format!(":{port}/tcp`: address already in use")),
                "{message}"
            );
        }
        let message = check("192.0.2.77:8080:80").unwrap_err().message;
        assert!(message.contains("no such address"), "{message}");
        drop(taken);
        check(&format!("127.0.0.1:{port}:80")).unwrap();
    }

    #[test]
    fn complaints_are_one_line() {
        assert_eq!(complaint("Failed to send 9 bytes to syslog\n a\n\nb\n"), "a; b");
        assert_eq!(complaint(""), "it ended without a word");
        assert!(hint("Failed to open tun socket in namespace").contains("chmod 666 /dev/net/tun"));
    }
}

//! Networks of containers: published ports, name servers, whose network is shared.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use super::bounds::{PORT_MAPPINGS, PUBLISHED_PORTS};
use super::ids::ContainerId;

/// A container's own address in a private network.
pub const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
/// The way out of a private network.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// Where a private network's helper answers for the host's name servers.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// Bits of a private network's prefix.
pub const PREFIX: u8 = 24;

/// What a port belongs to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// `tcp` or `udp`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

/// Ports of the host that lead to as many ports of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PortMapping {
    /// Address of the host; none: all of them.
    pub address: Option<IpAddr>,
    /// First port of the host; 0 until a free one is chosen.
    pub host: u16,
    /// First port of the container.
    pub container: u16,
    /// How many follow each other, 1 at least.
    pub count: u16,
    /// What they belong to.
    pub protocol: Protocol,
}

/// How ports are written.
pub const PORT_FORM: &str =
    "write [[IP:][HOST]:]CONTAINER[/tcp|/udp], such as `8080:80`, `127.0.0.1:8080:80/udp` or `8000-8010:8000-8010`";

/// A text that publishes no port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// It is written in another way.
    #[error("{PORT_FORM}")]
    Form,
    /// Not a protocol that can be published.
    #[error("`{0}` cannot be published, only tcp and udp")]
    Protocol(String),
    /// Not as many ports outside as inside.
    #[error("{0} ports of the host cannot lead to {1} ports of the container")]
    Lengths(u16, u16),
}

impl FromStr for PortMapping {
    type Err = PortError;

    fn from_str(text: &str) -> Result<PortMapping, PortError> {
        let (ports, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((ports, name)) => match name.to_ascii_lowercase().as_str() {
                "tcp" => (ports, Protocol::Tcp),
                "udp" => (ports, Protocol::Udp),
                other => return Err(PortError::Protocol(other.to_owned())),
            },
        };
        let mut parts = ports.rsplitn(3, ':');
        let (container, count) = range(parts.next().unwrap_or_default()).ok_or(PortError::Form)?;
        let host = match parts.next() {
            None | Some("") => 0,
            Some(host) => match range(host).ok_or(PortError::Form)? {
                (host, same) if same == count => host,
                (_, other) => return Err(PortError::Lengths(other, count)),
            },
        };
        let address = match parts.next() {
            // `:8080:80`
            None | Some("") => None,
            Some(ip) => {
                let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
                Some(bare.parse::<IpAddr>().map_err(|_| PortError::Form)?)
            }
        };
        Ok(PortMapping {
            address,
            host,
            container,
            count,
            protocol,
        })
    }
}

/// First port and number of ports of `80` or `8000-8010`.
fn range(text: &str) -> Option<(u16, u16)> {
    let number = |n: &str| {
        n.parse::<u16>()
            .ok()
            .filter(|p| *p > 0 && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    Some((first, last.checked_sub(first)?.checked_add(1)?))
}

impl PortMapping {
    /// The ports one by one: host, container.
    pub fn pairs(&self) -> impl Iterator<Item = (u16, u16)> {
        let (host, container) = (self.host, self.container);
        (0..self.count).map(move |i| (host.saturating_add(i), container.saturating_add(i)))
    }

    /// Whether both want one port of the host. Ports that are still to be chosen never do.
    pub fn collides(&self, other: &PortMapping) -> bool {
        let end = |one: &PortMapping| u32::from(one.host) + u32::from(one.count);
        let addresses = match (self.address, other.address) {
            (Some(a), Some(b)) => a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified())),
            _ => true,
        };
        addresses
            && self.protocol == other.protocol
            && self.host != 0
            && other.host != 0
            && u32::from(self.host) < end(other)
            && u32::from(other.host) < end(self)
    }

    /// The host's side: `127.0.0.1:8080`, `[::1]:8000-8010`.
    pub fn outside(&self) -> String {
        let ports = span(self.host, self.count);
        match self.address {
            None => format!("0.0.0.0:{ports}"),
            Some(IpAddr::V4(ip)) => format!("{ip}:{ports}"),
            Some(IpAddr::V6(ip)) => format!("[{ip}]:{ports}"),
        }
    }
}

fn span(first: u16, count: u16) -> String {
    match count {
        0 | 1 => first.to_string(),
        _ => format!("{first}-{}", first.saturating_add(count - 1)),
    }
}

/// As `ps` shows it: `0.0.0.0:8080->80/tcp`.
impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inside = span(self.container, self.count);
        write!(f, "{}->{inside}/{}", self.outside(), self.protocol.as_str())
    }
}

/// What is wrong with ports that are published together; one that is said twice alike counts once.
pub fn ports_problem(ports: &[PortMapping]) -> Option<String> {
    let all: usize = ports.iter().map(|port| usize::from(port.count)).sum();
    if ports.len() > PORT_MAPPINGS || all > PUBLISHED_PORTS {
        return Some(format!(
            "at most {PORT_MAPPINGS} mappings and {PUBLISHED_PORTS} ports can be published"
        ));
    }
    for (i, port) in ports.iter().enumerate() {
        if let Some(other) = ports[..i].iter().find(|other| port.collides(other) && *other != port) {
            return Some(format!("`{other}` and `{port}` want the same port of the host"));
        }
    }
    None
}

/// Programs that connect a private network with the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum HelperKind {
    /// pasta, of the package `passt`.
    Pasta,
    /// slirp4netns.
    Slirp,
}

impl HelperKind {
    /// Name of its program.
    pub const fn program(self) -> &'static str {
        match self {
            HelperKind::Pasta => "pasta",
            HelperKind::Slirp => "slirp4netns",
        }
    }

    /// Name of its package, in Debian and Fedora alike.
    pub const fn package(self) -> &'static str {
        match self {
            HelperKind::Pasta => "passt",
            HelperKind::Slirp => "slirp4netns",
        }
    }
}

/// What a container has of networks beside the way it sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Wiring {
    /// Published ports; only where its network is private.
    pub ports: Vec<PortMapping>,
    /// Name servers instead of the host's.
    pub dns: Vec<IpAddr>,
    /// Domains to search instead of the host's; `.` alone: none.
    pub dns_search: Vec<String>,
    /// Options of the resolver instead of the host's.
    pub dns_options: Vec<String>,
    /// It reaches what listens on the host's loopback, at the gateway's address.
    pub host_loopback: bool,
    /// The helper that was asked for by name.
    pub helper: Option<HelperKind>,
    /// Whose network it shares.
    pub joins: Option<ContainerId>,
    /// The pod that it is in: by the id of the container that holds the pod's namespaces.
    pub pod: Option<ContainerId>,
    /// It holds a pod's namespaces and runs no program: the pod's name.
    pub infra: Option<String>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn port(text: &str) -> PortMapping {
        text.parse().unwrap()
    }

    #[test]
    fn ports_are_read_and_shown_as_podman_does() {
        for (text, shown) in [
            ("8080:80", "0.0.0.0:8080->80/tcp"),
            ("80", "0.0.0.0:0->80/tcp"),
            (":80/udp", "0.0.0.0:0->80/udp"),
            ("127.0.0.1:8080:80/udp", "127.0.0.1:8080->80/udp"),
            ("127.0.0.1::80", "127.0.0.1:0->80/tcp"),
            ("[::1]:8080:80/TCP", "[::1]:8080->80/tcp"),
            ("::1:8080:80/udp", "[::1]:8080->80/udp"),
            ("8000-8010:9000-9010", "0.0.0.0:8000-8010->9000-9010/tcp"),
        ] {
            assert_eq!(port(text).to_string(), shown, "{text}");
        }
        for text in [
            "",
            "x",
            "80:",
            "0",
            "65536",
            "1-0",
            "80-",
            "a:80:80",
            "1.2.3.4.5:80:80",
            "+80",
            "8080:80:x:80",
            "80/",
        ] {
            assert!(text.parse::<PortMapping>().is_err(), "{text}");
        }
        assert_eq!(
            "80/sctp".parse::<PortMapping>(),
            Err(PortError::Protocol("sctp".into()))
        );
        assert_eq!("1-3:1-2".parse::<PortMapping>(), Err(PortError::Lengths(3, 2)));
    }

    #[test]
    fn ports_of_the_host_are_given_once() {
        for (a, b, collide) in [
            ("80:80", "80:81", true),
            ("80:80", "80:80/udp", false),
            ("80-90:80-90", "85:1", true),
            ("80-90:80-90", "91:1", false),
            ("127.0.0.1:80:80", "80:1", true),
            ("127.0.0.1:80:80", "127.0.0.2:80:1", false),
            ("127.0.0.1:80:80", "0.0.0.0:80:1", true),
            ("127.0.0.1:80:80", "[::]:80:1", false),
            ("80", "80", false),
        ] {
            assert_eq!(port(a).collides(&port(b)), collide, "{a} {b}");
            let problem = ports_problem(&[port(a), port(b)]);
            assert_eq!(problem.is_some(), collide, "{a} {b}");
        }
        assert_eq!(ports_problem(&[port("80:80"), port("80:80")]), None);
        let many: Vec<PortMapping> = (1..=65).map(|n| port(&format!("{n}:{n}"))).collect();
        assert!(ports_problem(&many).unwrap().contains("64"));
        assert!(ports_problem(&[port("1-1025:1-1025")]).unwrap().contains("1024"));
    }
}

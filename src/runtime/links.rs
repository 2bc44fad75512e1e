//! Network interfaces of the host that a container gets (config-linux.md, "Network Devices"): moved into its network
//! namespace, and there brought up with the addresses that they had.

use std::path::Path;

use std::os::fd::AsFd;

use super::error::RuntimeError;
use crate::sys::netlink::{self, Address, Netlink};
use crate::sys::ns::Namespaces;
use crate::sys::path;
use crate::types::oci::runtime::Spec;

const FIELD: &str = "linux.netDevices";
/// Longest name of an interface, in bytes.
const NAME_BYTES: usize = 15;

/// One interface on its way.
#[derive(Debug)]
pub struct Link {
    name: String,
    inside: String,
    index: u32,
    addresses: Vec<Address>,
}

/// Refuses names that no interface can have, and two of one name (pure).
pub fn check(spec: &Spec, namespaces: Namespaces) -> Result<(), RuntimeError> {
    let mut seen: Vec<&str> = Vec::new();
    for (name, inside) in names(spec) {
        for name in [name, inside] {
            let odd = |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control();
            if name.is_empty() || name.len() > NAME_BYTES || name == "." || name == ".." || name.contains(odd) {
                return Err(RuntimeError::spec(
                    FIELD,
                    format!("`{name}` is no name of an interface"),
                ));
            }
        }
        if seen.contains(&inside) {
            return Err(RuntimeError::spec(FIELD, format!("`{inside}` is there twice")));
        }
        seen.push(inside);
    }
    match seen.is_empty() || namespaces.has(Namespaces::NET) {
        true => Ok(()),
        false => Err(RuntimeError::spec(FIELD, "needs a network namespace")),
    }
}

/// Names outside and inside.
fn names(spec: &Spec) -> impl Iterator<Item = (&str, &str)> {
    let devices = spec.linux.as_ref().and_then(|linux| linux.net_devices.as_ref());
    devices.into_iter().flatten().map(|(name, device)| {
        let inside = device.name.as_deref().filter(|inside| !inside.is_empty());
        (name.as_str(), inside.unwrap_or(name))
    })
}

/// The interfaces that a bundle asks for, as they are now.
pub fn find(spec: &Spec) -> Result<Vec<Link>, RuntimeError> {
    let mut all = names(spec).peekable();
    if all.peek().is_none() {
        return Ok(Vec::new());
    }
    let netlink = open()?;
    all.map(|(name, inside)| {
        let fail = || RuntimeError::process(format!("find network interface `{name}` of `{FIELD}`"));
        let index = netlink::index(name).map_err(fail())?;
        Ok(Link {
            name: name.to_owned(),
            inside: inside.to_owned(),
            index,
            addresses: netlink.addresses(index).map_err(fail())?,
        })
    })
    .collect()
}

/// For the parent: moves them to the process `pid`.
pub fn hand_over(links: &[Link], pid: i32) -> Result<(), RuntimeError> {
    if links.is_empty() {
        return Ok(());
    }
    let (netlink, namespace) = (open()?, format!("/proc/{pid}/ns/net"));
    let namespace = path::open_host(Path::new(&namespace), path::O_RDONLY)
        .map_err(RuntimeError::process(format!("open `{namespace}`")))?;
    for Link {
        name, inside, index, ..
    } in links
    {
        netlink
            .move_link(*index, namespace.as_fd(), inside)
            .map_err(RuntimeError::process(format!(
                "move network interface `{name}` into the container as `{inside}`"
            )))?;
    }
    Ok(())
}

/// For the child: makes them usable.
pub fn settle(links: &[Link]) -> Result<(), RuntimeError> {
    if links.is_empty() {
        return Ok(());
    }
    let netlink = open()?;
    for Link { inside, addresses, .. } in links {
        let fail = || RuntimeError::process(format!("bring up network interface `{inside}` in the container"));
        let index = netlink::index(inside).map_err(fail())?;
        for address in addresses {
            netlink.add_address(index, address).map_err(fail())?;
        }
        netlink.set_up(index).map_err(fail())?;
    }
    Ok(())
}

fn open() -> Result<Netlink, RuntimeError> {
    Netlink::open().map_err(RuntimeError::process("ask the kernel for network interfaces"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_before_anything_moves() {
        let asked = |devices: &str, namespaces| {
            let json = format!(r#"{{"ociVersion":"1.3.0","linux":{{"netDevices":{devices}}}}}"#);
            check(&serde_json::from_str(&json).expect("a specification"), namespaces)
        };
        asked("{}", Namespaces::NONE).expect("nothing");
        asked(r#"{"eth7":{},"eth8":{"name":"lan"}}"#, Namespaces::NET).expect("two");
        for (devices, namespaces) in [
            (r#"{"eth7":{}}"#, Namespaces::NONE),
            (r#"{"eth7":{},"eth8":{"name":"eth7"}}"#, Namespaces::NET),
            (r#"{"eth7":{"name":"a/b"}}"#, Namespaces::NET),
            (r#"{"eth7":{"name":"sixteen-bytes-it"}}"#, Namespaces::NET),
            (r#"{"":{}}"#, Namespaces::NET),
            (r#"{"..":{}}"#, Namespaces::NET),
        ] {
            match asked(devices, namespaces).expect_err(devices) {
                RuntimeError::Spec { field, .. } => assert_eq!(field, FIELD, "{devices}"),
                other => panic!("{other}"),
            }
        }
    }
}

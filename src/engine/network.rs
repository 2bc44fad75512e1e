//! Networks of containers: what is asked for, what the host has for it, and the plan that the monitor carries out.

use super::error::EngineError;
use super::options::{CreateOptions, ImageDefaults, OptionsError};
use super::view::{self, ContainerView};
use super::{Engine, index};
use crate::config::env;
use crate::monitor::network::{self as plan, Plan, Target};
use crate::runtime::etc;
use crate::runtime::spec::{HostFacts, Joins};
use crate::sys::process;
use crate::types::bounds::DNS_ENTRIES;
use crate::types::container::{ContainerRecord, Network, ProcessId, Status};
use crate::types::network::{HelperKind, PortMapping, Protocol, Wiring, ports_problem};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Where helpers are looked for beside `PATH`.
const FOLDERS: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
/// The device that helpers need.
const TUN: &str = "/dev/net/tun";
/// Tries to find free ports of the host that follow each other.
const TRIES: u32 = 64;

/// The helpers, the preferred one first.
const HELPERS: [HelperKind; 2] = [HelperKind::Pasta, HelperKind::Slirp];

/// The program of a helper: the one that was asked for, or the preferred one of those that are installed.
fn helper(asked: Option<HelperKind>) -> Result<(HelperKind, PathBuf), EngineError> {
    let mut folders = env::get(env::PATH).unwrap_or_default();
    folders.push(":");
    folders.push(FOLDERS);
    let find = |kind: &HelperKind| {
        let programs = std::env::split_paths(&folders).map(|folder| folder.join(kind.program()));
        let runs = |path: &PathBuf| {
            path.is_absolute()
                && fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        };
        Some((*kind, programs.into_iter().find(runs)?))
    };
    let wanted = asked.as_ref().map_or(&HELPERS[..], std::slice::from_ref);
    wanted.iter().find_map(find).ok_or(EngineError::NoHelper(asked))
}

/// Why containers that ask for no network get none, where that is so.
fn unusable() -> Option<String> {
    if let Err(error) = helper(None) {
        return Some(error.to_string());
    }
    // Whoever the helper is, it is not the device's owner.
    match fs::metadata(TUN) {
        Ok(meta) if meta.permissions().mode() & 0o006 == 0o006 => None,
        Ok(_) => Some(format!(
            "`{TUN}` is closed to ordinary users; as root, `chmod 666 {TUN}`"
        )),
        Err(error) => Some(format!("`{TUN}`: {error}; as root, `modprobe tun`")),
    }
}

impl Engine {
    /// How a new container sees networks, and what goes with it.
    pub(super) fn wire(
        &self,
        options: &CreateOptions,
        image: &ImageDefaults,
    ) -> Result<(Network, Wiring), EngineError> {
        let mut wiring = options.wiring.clone();
        let wrong = |what: &'static str, value: String, reason: String| OptionsError::Value { what, value, reason };
        if options.publish_all {
            for port in image.exposed_ports().chain(options.expose.iter().map(String::as_str)) {
                let port = port.parse::<PortMapping>();
                let port = port.map_err(|error| wrong("exposed port", error.to_string(), "see the image".into()))?;
                if !wiring
                    .ports
                    .iter()
                    .any(|said| said.container == port.container && said.protocol == port.protocol)
                {
                    wiring.ports.push(port);
                }
            }
        }
        for entries in [wiring.dns.len(), wiring.dns_search.len(), wiring.dns_options.len()] {
            if entries > DNS_ENTRIES {
                let (what, most) = ("entries of one kind for the resolver", DNS_ENTRIES);
                return Err(OptionsError::TooMany {
                    what,
                    count: entries,
                    most,
                }
                .into());
            }
        }
        if let Some(pod) = &options.pod {
            if !wiring.ports.is_empty() {
                let reason = "published ports must be defined when the pod is created".to_owned();
                return Err(wrong("published port of a container in pod", pod.clone(), reason).into());
            }
            let pod = self.pod_record(pod)?;
            wiring.pod = Some(pod.id);
            wiring.joins = (pod.spec.network != Network::Host).then_some(pod.id);
            return Ok((pod.spec.network, wiring));
        }
        let network = match &options.joins {
            Some(typed) => {
                let target = index::find(self.layout(), typed)?;
                // Whoever it shares with may itself share.
                wiring.joins = match (target.wiring.joins, target.spec.network) {
                    (Some(owner), _) => Some(owner),
                    (None, Network::Host) => None,
                    (None, _) => Some(target.id),
                };
                target.spec.network
            }
            None => self.network_or_default(options.network, !wiring.ports.is_empty()),
        };
        if network != Network::Private || wiring.joins.is_some() {
            if !wiring.ports.is_empty() {
                crate::warn!(
                    "Port mappings have been discarded as one of the Host, Container, Pod, and None network modes are in use"
                );
                wiring.ports.clear();
            }
            return Ok((network, wiring));
        }
        helper(wiring.helper)?;
        settle(&mut wiring.ports)?;
        Ok((network, wiring))
    }

    /// Private where nothing is said, as podman's. A host that has nothing for it says so once.
    fn network_or_default(&self, asked: Option<Network>, publishes: bool) -> Network {
        match asked {
            Some(network) => network,
            None if publishes => Network::Private,
            None => match unusable() {
                None => Network::Private,
                Some(why) => {
                    let mark = self.layout().run().join("warned-network");
                    if fs::OpenOptions::new().write(true).create_new(true).open(&mark).is_ok() {
                        crate::warn!("containers have no network but loopback: {why}; `--network` says what is wanted");
                    }
                    Network::None
                }
            },
        }
    }

    /// What the monitor does for the network, with what the bundle must say about it; the record as it is meant at this
    /// start. Starts what the namespaces are shared with.
    pub(super) fn plan_network(
        &self,
        record: &mut ContainerRecord,
        host: &mut HostFacts,
    ) -> Result<Option<Plan>, EngineError> {
        let mut made = Plan {
            infra: record.wiring.infra.clone(),
            ..Plan::default()
        };
        if let Some(owner) = record.wiring.joins {
            let target = self.running(&owner.hex())?;
            let process = target.pid.and_then(|pid| {
                Some(ProcessId {
                    pid,
                    start: process::start_time(pid).ok()?,
                })
            });
            let owner = target.record;
            let process = process.ok_or_else(|| EngineError::NoContainer(owner.name.clone()))?;
            host.joins = Some(Joins {
                pid: process.pid,
                pod: record.wiring.pod.is_some(),
                host_name: etc::host_name(&owner, host),
            });
            // Names go with the network.
            record.spec.network = owner.spec.network;
            let theirs = owner.wiring;
            record.wiring.helper = theirs.helper;
            record.wiring.host_loopback = theirs.host_loopback;
            for (own, theirs) in [
                (&mut record.wiring.dns_search, theirs.dns_search),
                (&mut record.wiring.dns_options, theirs.dns_options),
            ] {
                if own.is_empty() {
                    *own = theirs;
                }
            }
            if record.wiring.dns.is_empty() {
                record.wiring.dns = theirs.dns;
            }
            record.spec.extra_hosts.extend(owner.spec.extra_hosts);
            made.joins = Some(Target {
                name: owner.name,
                process,
            });
        }
        if record.spec.network == Network::Private {
            let (kind, program) = helper(record.wiring.helper)?;
            record.wiring.helper = Some(kind);
            host.address = host_address();
            if record.wiring.joins.is_none() {
                made.helper = Some(plan::Helper {
                    kind,
                    program,
                    ports: record.wiring.ports.clone(),
                    host_loopback: record.wiring.host_loopback,
                    resolver: etc::asks_through_helper(&host.resolv_conf),
                });
            }
        }
        Ok((made != Plan::default()).then_some(made))
    }

    /// A container that runs, started where it did not.
    fn running(&self, id: &str) -> Result<ContainerView, EngineError> {
        let view = self.inspect(id)?;
        if matches!(view.status, Status::Created | Status::Exited | Status::Dead) {
            self.start(id, None)?;
            return self.inspect(id);
        }
        Ok(view)
    }

    /// The ports of the host that lead to a container: its own, or those of whom it shares the network with.
    pub fn ports(&self, record: &ContainerRecord) -> Result<Vec<PortMapping>, EngineError> {
        let owner = match record.wiring.joins {
            Some(owner) => index::load(self.layout(), &owner)?,
            None => None,
        };
        Ok(owner.as_ref().unwrap_or(record).wiring.ports.clone())
    }

    /// The containers that share the network of this one.
    pub(super) fn sharers(&self, owner: &ContainerRecord) -> Result<Vec<ContainerView>, EngineError> {
        let all = index::all(self.layout())?.into_iter();
        let shares = |other: &ContainerRecord| {
            other.wiring.joins == Some(owner.id) || (other.wiring.pod == Some(owner.id) && other.id != owner.id)
        };
        let views = all.filter(shares).map(|record| view::look(self.layout(), record));
        Ok(views.collect::<Result<_, _>>()?)
    }
}

/// Chooses the ports of the host that were left open, and refuses what cannot be published together.
pub(super) fn settle(ports: &mut Vec<PortMapping>) -> Result<(), EngineError> {
    let mut unique: Vec<PortMapping> = Vec::new();
    for mut port in std::mem::take(ports) {
        if port.host == 0 {
            port.host = free(&port).map_err(EngineError::io("find a free port for", Path::new(&port.to_string())))?;
        }
        if !unique.contains(&port) {
            unique.push(port);
        }
    }
    if let Some(reason) = ports_problem(&unique) {
        let what = "published ports";
        let value = unique
            .iter()
            .take(4)
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        return Err(OptionsError::Value { what, value, reason }.into());
    }
    *ports = unique;
    Ok(())
}

/// The first of as many free ports as `wanted` has, as the kernel gives them.
fn free(wanted: &PortMapping) -> io::Result<u16> {
    let address = wanted.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let bind = |port: u16| match wanted.protocol {
        Protocol::Tcp => TcpListener::bind((address, port)).and_then(|socket| socket.local_addr()),
        Protocol::Udp => UdpSocket::bind((address, port)).and_then(|socket| socket.local_addr()),
    };
    for _ in 0..TRIES {
        let first = bind(0)?.port();
        let rest = (1..wanted.count).map(|more| first.checked_add(more));
        if rest.into_iter().all(|port| port.is_some_and(|port| bind(port).is_ok())) {
            return Ok(first);
        }
    }
    Err(io::ErrorKind::AddrNotAvailable.into())
}

/// The address that the host has towards its way out; nothing is sent.
fn host_address() -> Option<IpAddr> {
    let towards = |own: IpAddr, far: IpAddr| {
        let socket = UdpSocket::bind((own, 0)).ok()?;
        socket.connect((far, 9)).ok()?;
        let ip = socket.local_addr().ok()?.ip();
        Some(ip).filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
    };
    // Addresses of documentation (RFC 5737, RFC 3849), which every way out has a route to.
    towards(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(203, 0, 113, 1).into()).or_else(|| {
        towards(
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ports_left_open_are_chosen_and_those_said_twice_count_once() {
        let mut ports: Vec<PortMapping> = ["127.0.0.1::80", "7000-7002/udp", "8080:80", "8080:80"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        settle(&mut ports).unwrap();
        assert_eq!(ports.len(), 3);
        assert!(ports.iter().all(|port| port.host != 0));
        assert_eq!((ports[1].count, ports[1].container), (3, 7000));
        let mut twice: Vec<PortMapping> = ["8080:80", "8080:81"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        assert!(settle(&mut twice).unwrap_err().to_string().contains("same port"));
    }

    #[test]
    fn a_missing_helper_is_named_by_its_package() {
        let text = EngineError::NoHelper(None).to_string();
        assert!(text.contains("`passt`") && text.contains("`slirp4netns`"), "{text}");
        let text = EngineError::NoHelper(Some(HelperKind::Slirp)).to_string();
        assert!(!text.contains("passt") && text.contains("`slirp4netns`"), "{text}");
    }
}

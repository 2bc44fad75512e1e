//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a container: files of its bundle that are bound over the
//! image's, as podman does (pure).

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use super::spec::HostFacts;
use crate::types::container::{ContainerRecord, Network};
use crate::types::network::{GATEWAY, HelperKind, OWN, RESOLVER};

/// The name by which a container reaches the host, and what `--add-host` takes for its address.
const HOST: &str = "host.containers.internal";
/// The same for those that come from Docker.
const HOST_GATEWAY: &str = "host-gateway";

/// The host name that a container has: that of its pod, asked for, the host's where it shares the host's network, else
/// its short id.
pub fn host_name(record: &ContainerRecord, host: &HostFacts) -> String {
    match (&host.joins, record.spec.hostname.as_str(), record.spec.network) {
        (Some(joins), ..) if joins.pod => joins.host_name.clone(),
        (_, "", Network::Host) if !host.hostname.is_empty() => host.hostname.clone(),
        (_, "", _) => record.id.short(),
        (_, asked, _) => asked.to_owned(),
    }
}

/// The files: name in the bundle (and below `/etc`), content. Without a network there is no `resolv.conf`.
pub fn files(record: &ContainerRecord, host: &HostFacts) -> Vec<(&'static str, String)> {
    let name = host_name(record, host);
    let mut files = vec![("hosts", hosts(record, host, &name)), ("hostname", format!("{name}\n"))];
    if record.spec.network != Network::None {
        files.push(("resolv.conf", resolv_conf(record, &host.resolv_conf)));
    }
    files
}

fn hosts(record: &ContainerRecord, host: &HostFacts, name: &str) -> String {
    let network = record.spec.network;
    let mut text = match network {
        Network::Host => host.hosts.clone(),
        Network::None | Network::Private => "127.0.0.1\tlocalhost\n::1\tlocalhost\n".to_owned(),
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let outside = match network {
        Network::Host => Some(IpAddr::from(Ipv4Addr::LOCALHOST)),
        Network::Private if record.wiring.host_loopback => Some(IpAddr::from(GATEWAY)),
        Network::Private => host.address,
        Network::None => None,
    };
    // Writing to a String cannot fail.
    for (address, names) in &record.spec.extra_hosts {
        match outside {
            Some(outside) if address == HOST_GATEWAY => _ = writeln!(text, "{outside}\t{names}"),
            None if address == HOST_GATEWAY => {}
            _ => _ = writeln!(text, "{address}\t{names}"),
        }
    }
    if let (Network::Private, Some(outside)) = (network, outside) {
        let _ = writeln!(text, "{outside}\t{HOST} host.docker.internal");
    }
    match network {
        Network::Host if text.split_whitespace().any(|word| word == name) => {}
        Network::Host => _ = writeln!(text, "127.0.1.1\t{name}"),
        Network::None => _ = writeln!(text, "127.0.0.1\t{name} {}", record.name),
        Network::Private => _ = writeln!(text, "{OWN}\t{name} {}", record.name),
    }
    text
}

/// Whether the host's name servers are for the host alone, so that a private network's helper must ask them.
pub fn asks_through_helper(resolv_conf: &str) -> bool {
    let mut servers = words(resolv_conf, "nameserver").flatten().peekable();
    servers.peek().is_some() && servers.all(|server| !is_reachable(server))
}

/// Whether a private network reaches this name server of the host's: not its loopback, and nothing that needs an
/// interface's name.
fn is_reachable(server: &str) -> bool {
    server
        .parse::<IpAddr>()
        .is_ok_and(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

/// The words after `key` in each of its lines.
fn words<'a>(text: &'a str, key: &'static str) -> impl Iterator<Item = impl Iterator<Item = &'a str>> {
    text.lines().filter_map(move |line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(key)).then_some(words)
    })
}

/// The host's, with what was asked for instead.
fn resolv_conf(record: &ContainerRecord, host: &str) -> String {
    let wiring = &record.wiring;
    let private = record.spec.network == Network::Private;
    let asked = !(wiring.dns.is_empty() && wiring.dns_search.is_empty() && wiring.dns_options.is_empty());
    if !private && !asked {
        return host.to_owned();
    }
    let mut text = String::new();
    let mut line = |key: &str, asked: &[String], host: Vec<&str>| {
        let all = match asked.is_empty() {
            true => host.join(" "),
            false => asked.join(" "),
        };
        if !all.is_empty() && all != "." {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{key} {all}");
        }
    };
    // The last `search` or `domain` counts (resolv.conf(5)).
    let search = words(host, "search").last().map(Iterator::collect);
    let search = search.or_else(|| words(host, "domain").last().map(Iterator::collect));
    line("search", &wiring.dns_search, search.unwrap_or_default());
    let mut servers: Vec<String> = wiring.dns.iter().map(ToString::to_string).collect();
    if servers.is_empty() {
        let own = words(host, "nameserver").flatten();
        servers = own
            .filter(|one| !private || is_reachable(one))
            .map(str::to_owned)
            .collect();
        if private && (asks_through_helper(host) || wiring.helper == Some(HelperKind::Slirp)) {
            servers.insert(0, RESOLVER.to_string());
        }
    }
    for server in &servers {
        line("nameserver", std::slice::from_ref(server), Vec::new());
    }
    line(
        "options",
        &wiring.dns_options,
        words(host, "options").flatten().collect(),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::super::spec::tests::{facts, record};
    use super::*;

    #[test]
    fn files_say_what_the_network_allows() {
        let mut host = facts();
        host.hostname = "gateway".to_owned();
        host.hosts = "127.0.0.1 localhost\n192.0.2.1 broker".to_owned();
        host.resolv_conf = "nameserver 192.0.2.53\n".to_owned();
        let mut record = record();
        record.spec.extra_hosts = vec![("192.0.2.7".to_owned(), "db".to_owned())];
        let short = record.id.short();

        record.spec.network = Network::None;
        let hosts = format!("127.0.0.1\tlocalhost\n::1\tlocalhost\n192.0.2.7\tdb\n127.0.0.1\t{short} web\n");
        assert_eq!(
            files(&record, &host),
            [("hosts", hosts), ("hostname", format!("{short}\n"))]
        );

        record.spec.network = Network::Host;
        let hosts = "127.0.0.1 localhost\n192.0.2.1 broker\n192.0.2.7\tdb\n127.0.1.1\tgateway\n".to_owned();
        let resolv = "nameserver 192.0.2.53\n".to_owned();
        let expected = [
            ("hosts", hosts),
            ("hostname", "gateway\n".to_owned()),
            ("resolv.conf", resolv),
        ];
        assert_eq!(files(&record, &host), expected);

        record.spec.hostname = "edge".to_owned();
        assert_eq!(host_name(&record, &host), "edge");
    }

    #[test]
    fn a_private_network_has_its_own_names() {
        let mut host = facts();
        host.resolv_conf = "domain old\nsearch lan home\nnameserver 127.0.0.53\noptions edns0\n".to_owned();
        host.address = Some(IpAddr::from([192, 0, 2, 2]));
        let mut record = record();
        record.spec.network = Network::Private;
        record.spec.extra_hosts = vec![("host-gateway".to_owned(), "gw".to_owned())];
        let short = record.id.short();
        let text = |record: &ContainerRecord, host: &HostFacts, name: &str| {
            let all = files(record, host);
            all.into_iter()
                .find(|(file, _)| *file == name)
                .map(|(_, text)| text)
                .unwrap_or_default()
        };
        let hosts = format!(
            "127.0.0.1\tlocalhost\n::1\tlocalhost\n192.0.2.2\tgw\n192.0.2.2\thost.containers.internal host.docker.internal\n\
             10.0.2.100\t{short} web\n"
        );
        assert_eq!(text(&record, &host, "hosts"), hosts);
        let resolv = "search lan home\nnameserver 10.0.2.3\noptions edns0\n";
        assert_eq!(
            text(&record, &host, "resolv.conf"),
            resolv,
            "only the helper reaches the host's loopback"
        );

        host.resolv_conf
            .push_str("nameserver 192.0.2.53\nnameserver fe80::1%eth0\n");
        let resolv = "search lan home\nnameserver 192.0.2.53\noptions edns0\n";
        assert_eq!(text(&record, &host, "resolv.conf"), resolv);

        record.wiring.dns = vec![IpAddr::from([9, 9, 9, 9])];
        record.wiring.dns_search = vec![".".to_owned()];
        record.wiring.dns_options = vec!["ndots:1".to_owned(), "rotate".to_owned()];
        record.wiring.host_loopback = true;
        assert_eq!(
            text(&record, &host, "resolv.conf"),
            "nameserver 9.9.9.9\noptions ndots:1 rotate\n"
        );
        assert!(text(&record, &host, "hosts").contains("\n10.0.2.2\thost.containers.internal "));

        host.joins = Some(super::super::spec::Joins {
            pid: 7,
            pod: true,
            host_name: "pod1".to_owned(),
        });
        assert_eq!(host_name(&record, &host), "pod1");
    }
}

//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a container: files of its bundle that are bound over the
//! image's, as podman does (pure).

use std::fmt::Write as _;

use super::spec::HostFacts;
use crate::types::container::{ContainerRecord, Network};

/// The host name that a container has: asked for, the host's where it shares the host's network, else its short id.
pub fn host_name(record: &ContainerRecord, host: &HostFacts) -> String {
    match (record.spec.hostname.as_str(), record.spec.network) {
        ("", Network::Host) if !host.hostname.is_empty() => host.hostname.clone(),
        ("", _) => record.id.short(),
        (asked, _) => asked.to_owned(),
    }
}

/// The files: name in the bundle (and below `/etc`), content. Without a network there is no `resolv.conf`.
pub fn files(record: &ContainerRecord, host: &HostFacts) -> Vec<(&'static str, String)> {
    let name = host_name(record, host);
    let mut files = vec![("hosts", hosts(record, host, &name)), ("hostname", format!("{name}\n"))];
    if record.spec.network != Network::None {
        files.push(("resolv.conf", host.resolv_conf.clone()));
    }
    files
}

fn hosts(record: &ContainerRecord, host: &HostFacts, name: &str) -> String {
    let mut text = match record.spec.network {
        Network::Host => host.hosts.clone(),
        Network::None | Network::Private => "127.0.0.1\tlocalhost\n::1\tlocalhost\n".to_owned(),
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    // Writing to a String cannot fail.
    for (address, names) in &record.spec.extra_hosts {
        let _ = writeln!(text, "{address}\t{names}");
    }
    match record.spec.network {
        Network::Host if text.split_whitespace().any(|word| word == name) => {}
        Network::Host => {
            let _ = writeln!(text, "127.0.1.1\t{name}");
        }
        Network::None | Network::Private => {
            let _ = writeln!(text, "127.0.0.1\t{name} {}", record.name);
        }
    }
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
}

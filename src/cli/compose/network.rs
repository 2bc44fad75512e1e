//! --network, -p, --dns, --add-host, --hostname.

use std::net::IpAddr;

use super::{FlagError, wrong};
use crate::cli::args::NetworkArgs;
use crate::types::container::Network;
use crate::types::network::{HelperKind, PortMapping, Wiring};

/// What is said about the network.
#[derive(Debug, Default)]
pub struct Wish {
    /// How it is seen, where that is said.
    pub network: Option<Network>,
    /// Container whose network is shared.
    pub joins: Option<String>,
    /// Ports, name servers, helper.
    pub wiring: Wiring,
}

/// Of `run`, `create` and `pod create`.
pub fn network(args: &NetworkArgs) -> Result<Wish, FlagError> {
    let mut wish = mode(&args.network)?;
    wish.wiring.ports = args.publish.iter().map(|text| port(text)).collect::<Result<_, _>>()?;
    let address = |text: &String| {
        text.parse::<IpAddr>()
            .map_err(|_| wrong("--dns", text, "not an IP address"))
    };
    wish.wiring.dns = args.dns.iter().map(address).collect::<Result<_, _>>()?;
    for (flag, list) in [("--dns-search", &args.dns_search), ("--dns-option", &args.dns_option)] {
        let odd = |text: &&String| text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control());
        if let Some(text) = list.iter().find(odd) {
            return Err(wrong(flag, text, "one word"));
        }
    }
    wish.wiring.dns_search = args.dns_search.clone();
    wish.wiring.dns_options = args.dns_option.clone();
    Ok(wish)
}

fn port(text: &str) -> Result<PortMapping, FlagError> {
    text.parse::<PortMapping>()
        .map_err(|error| wrong("--publish", text, error.to_string()))
}

/// podman's words. All that have a network of their own that reaches out are one thing here.
fn mode(modes: &[String]) -> Result<Wish, FlagError> {
    let [mode] = modes else {
        return match modes {
            [] => Ok(Wish::default()),
            _ => Err(wrong("--network", modes.join(","), "one mode at most")),
        };
    };
    let (word, rest) = mode.split_once(':').unwrap_or((mode, ""));
    let mut wish = Wish::default();
    let (network, helper) = match word {
        "none" => (Network::None, None),
        "host" => (Network::Host, None),
        "private" | "bridge" | "podman" | "default" => (Network::Private, None),
        "pasta" => (Network::Private, Some(HelperKind::Pasta)),
        "slirp4netns" => (Network::Private, Some(HelperKind::Slirp)),
        "container" if !rest.is_empty() => {
            wish.joins = Some(rest.to_owned());
            return Ok(wish);
        }
        _ => {
            let reason = "there is no such network; use private, host, none or container:NAME";
            return Err(wrong("--network", mode, reason));
        }
    };
    let loopback = match helper {
        Some(HelperKind::Pasta) => "--map-gw",
        Some(HelperKind::Slirp) => "allow_host_loopback=true",
        None => "host-loopback",
    };
    match rest {
        "" => {}
        option if option == loopback && network == Network::Private => wish.wiring.host_loopback = true,
        _ => {
            let reason = format!("the only option is `{word}:{loopback}`, for private networks");
            return Err(wrong("--network", mode, reason));
        }
    }
    wish.network = Some(network);
    wish.wiring.helper = helper;
    Ok(wish)
}

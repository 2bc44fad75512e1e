//! Proxies: which hosts are reached through one, and how to ask it.
//!
//! Source of the rules: the variables HTTP_PROXY, HTTPS_PROXY and NO_PROXY as curl and Go read them. Proxies are spoken to in
//! plain HTTP; user and password in the URL become `Proxy-Authorization`.

use std::fmt;
use std::net::IpAddr;

use super::url::{Url, is_loopback};
use crate::types::base64;

/// The proxies of a device. The default is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For registries with TLS.
    https: Option<Proxy>,
    /// For registries with plain HTTP.
    http: Option<Proxy>,
    /// Hosts that are reached directly.
    exceptions: Vec<Exception>,
}

/// One proxy.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    /// Name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The value of `Proxy-Authorization`.
    pub authorization: Option<String>,
}

/// One entry of NO_PROXY.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    /// `*`
    All,
    /// A domain, with all below it unless it began with a dot only for those below.
    Domain {
        name: String,
        port: Option<u16>,
        only_below: bool,
    },
    /// An address or a network.
    Network { address: IpAddr, bits: u8 },
}

/// A proxy's URL that cannot be used. The URL is not repeated, it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the proxy in `{variable}` is not usable: {detail}; write `http://[USER:PASSWORD@]HOST:PORT`")]
pub struct ProxyError {
    /// The variable.
    pub variable: &'static str,
    /// What is wrong.
    pub detail: &'static str,
}

impl Proxies {
    /// The proxies that the values of HTTPS_PROXY, HTTP_PROXY and NO_PROXY name; empty values say nothing.
    pub fn new(https: Option<&str>, http: Option<&str>, exceptions: Option<&str>) -> Result<Self, ProxyError> {
        Ok(Self {
            https: https
                .filter(|text| !text.is_empty())
                .map(|text| proxy("HTTPS_PROXY", text))
                .transpose()?,
            http: http
                .filter(|text| !text.is_empty())
                .map(|text| proxy("HTTP_PROXY", text))
                .transpose()?,
            exceptions: exceptions
                .unwrap_or_default()
                .split(',')
                .filter_map(|text| exception(text.trim()))
                .collect(),
        })
    }

    /// The proxy for a host (without brackets); `None` for those reached directly, this machine among them.
    pub(crate) fn choose(&self, host: &str, port: u16, tls: bool) -> Option<&Proxy> {
        let proxy = if tls { self.https.as_ref() } else { self.http.as_ref() }?;
        let direct = is_loopback(host) || self.exceptions.iter().any(|exception| exception.covers(host, port));
        (!direct).then_some(proxy)
    }
}

impl Exception {
    fn covers(&self, host: &str, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Domain {
                name,
                port: only,
                only_below,
            } => {
                let below = host
                    .strip_suffix(name.as_str())
                    .is_some_and(|front| front.ends_with('.'));
                (below || (!only_below && host == name)) && only.is_none_or(|only| only == port)
            }
            Self::Network { address, bits } => match (address, host.parse()) {
                (IpAddr::V4(network), Ok(IpAddr::V4(host))) => same_bits(
                    u128::from(network.to_bits()) << 96,
                    u128::from(host.to_bits()) << 96,
                    *bits,
                ),
                (IpAddr::V6(network), Ok(IpAddr::V6(host))) => same_bits(network.to_bits(), host.to_bits(), *bits),
                _ => false,
            },
        }
    }
}

fn same_bits(one: u128, other: u128, bits: u8) -> bool {
    bits == 0 || (one ^ other) >> (128 - u32::from(bits)) == 0
}

fn exception(text: &str) -> Option<Exception> {
    if text.is_empty() {
        return None;
    }
    if text == "*" {
        return Some(Exception::All);
    }
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
        None => (text, None),
    };
    if let Ok(address) = address.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(all);
        return (bits <= all).then_some(Exception::Network { address, bits });
    }
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, Some(port.parse().ok()?)),
        None => (text, None),
    };
    let name = name.strip_prefix('*').unwrap_or(name);
    let only_below = name.starts_with('.');
    Some(Exception::Domain {
        name: name.trim_start_matches('.').to_ascii_lowercase(),
        port,
        only_below,
    })
}

fn proxy(variable: &'static str, text: &str) -> Result<Proxy, ProxyError> {
    let wrong = |detail| ProxyError { variable, detail };
    let rest = match text.split_once("://") {
        Some(("http", rest)) => rest,
        Some(_) => return Err(wrong("only plain http proxies are supported")),
        None => text,
    };
    let rest = rest.split('/').next().unwrap_or(rest);
    let (user, place) = match rest.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, rest),
    };
    let url = Url::parse(&format!("http://{place}")).map_err(|_| wrong("it has no usable host"))?;
    let authorization = match user {
        Some(user) => {
            let plain = unescape(user).ok_or_else(|| wrong("its user or password is not escaped correctly"))?;
            Some(format!("Basic {}", base64::encode(&plain)))
        }
        None => None,
    };
    Ok(Proxy {
        host: url.host,
        port: url.port,
        authorization,
    })
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &tail[2..];
    }
    Some(bytes)
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn hosts_are_reached_through_the_proxy_unless_excepted() {
        let no =
            "direct.example, .below.example,*.star.example,10.0.0.0/8,192.168.1.7,port.example:5000,fd00::/8,,bad/99";
        let proxies = Proxies::new(Some("http://p.example:3128"), None, Some(no)).unwrap();
        for (host, port, direct) in [
            ("reg.example", 443, false),
            ("direct.example", 443, true),
            ("a.direct.example", 443, true),
            ("xdirect.example", 443, false),
            ("below.example", 443, false),
            ("a.below.example", 443, true),
            ("a.star.example", 443, true),
            ("10.9.8.7", 443, true),
            ("11.9.8.7", 443, false),
            ("192.168.1.7", 443, true),
            ("192.168.1.8", 443, false),
            ("port.example", 5000, true),
            ("port.example", 443, false),
            ("fd12::1", 443, true),
            ("2001::1", 443, false),
            ("localhost", 443, true),
            ("127.0.0.1", 443, true),
        ] {
            assert_eq!(proxies.choose(host, port, true).is_none(), direct, "{host}:{port}");
            assert!(proxies.choose(host, port, false).is_none(), "no proxy for plain HTTP");
        }
        let none = Proxies::new(Some("p.example:1"), Some(""), Some("*")).unwrap();
        assert!(none.choose("reg.example", 443, true).is_none());
    }

    #[test]
    fn users_and_passwords_of_proxies_stay_out_of_texts() {
        let proxies = Proxies::new(None, Some("http://me:p%40ss@p.example:8080/"), None).unwrap();
        let proxy = proxies.choose("reg.example", 80, false).unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("p.example", 8080));
        assert_eq!(
            proxy.authorization.as_deref(),
            Some(format!("Basic {}", base64::encode(b"me:p@ss")).as_str())
        );
        assert!(!format!("{proxies:?}").contains("p@ss"));
        for bad in [
            "socks5://p.example",
            "https://me:secret@p.example",
            "http://",
            "http://me:%zz@p.example",
            "http://p.example:x",
        ] {
            let error = Proxies::new(Some(bad), None, None).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}

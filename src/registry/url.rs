//! The few parts of a URL that a registry, a token server or a redirect names.

use std::net::IpAddr;

use hyper::Uri;

use crate::types::bounds::URL_BYTES;

/// `http` or `https`, host, port and path with query. No user, no fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    /// `https`.
    pub tls: bool,
    /// Name or address; an IPv6 address without brackets. Lower case.
    pub host: String,
    /// The port, also where it is the scheme's own.
    pub port: u16,
    /// Begins with `/`; has the query.
    pub path: String,
}

impl Url {
    /// An absolute URL. `Err` says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("`{}` is not a usable URL: {why}", clip(text));
        if text.len() > URL_BYTES {
            return Err(wrong("it is too long"));
        }
        let uri: Uri = text
            .split('#')
            .next()
            .unwrap_or_default()
            .parse()
            .map_err(|_| wrong("it cannot be parsed"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong("its scheme is neither http nor https")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("it has a user name"));
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_ascii_lowercase();
        if host.is_empty() {
            return Err(wrong("it has no host"));
        }
        let port = match authority.as_str().rsplit_once(':') {
            Some((_, digits)) if !digits.ends_with(']') => {
                digits.parse().map_err(|_| wrong("its port is not a number"))?
            }
            _ => default_port(tls),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        Ok(Self { tls, host, port, path })
    }

    /// What a `Location` header means when it was served at this URL.
    pub(crate) fn join(&self, location: &str) -> Result<Self, String> {
        let scheme = if self.tls { "https" } else { "http" };
        if location.contains("://") && !location.starts_with('/') {
            return Self::parse(location);
        }
        if location.starts_with("//") {
            return Self::parse(&format!("{scheme}:{location}"));
        }
        let base = format!("{scheme}://{}:{}", bracketed(&self.host), self.port);
        if location.starts_with('/') {
            return Self::parse(&format!("{base}{location}"));
        }
        let path = self.path.split('?').next().unwrap_or("/");
        let folder = &path[..=path.rfind('/').unwrap_or(0)];
        Self::parse(&format!("{base}{folder}{location}"))
    }

    /// `host[:port]` as references write it: the port is left out where it is the scheme's own.
    pub(crate) fn label(&self) -> String {
        label(&self.host, self.port, self.tls)
    }
}

/// `host[:port]`, the port left out where it is the scheme's own.
pub(crate) fn label(host: &str, port: u16, tls: bool) -> String {
    if port == default_port(tls) {
        bracketed(host)
    } else {
        format!("{}:{port}", bracketed(host))
    }
}

/// Splits `host[:port]` as references write it; the host comes back without brackets.
pub(crate) fn split_host(text: &str) -> (&str, Option<u16>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => {
            (host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok())
        }
        _ => (text.trim_start_matches('[').trim_end_matches(']'), None),
    }
}

/// Whether `host` (without brackets) is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The port of a scheme.
pub(crate) const fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

/// `text` as one component of a query.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte as char),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

fn clip(text: &str) -> String {
    text.chars().take(120).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn absolute_urls_come_apart() {
        for (text, tls, host, port, path) in [
            ("https://a.example", true, "a.example", 443, "/"),
            ("http://A.example:80/x?y=z", false, "a.example", 80, "/x?y=z"),
            ("https://[::1]:5000/x#f", true, "::1", 5000, "/x"),
            ("https://[::1]/x", true, "::1", 443, "/x"),
            ("https://a.example?x=1", true, "a.example", 443, "/?x=1"),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!(
                (url.tls, url.host.as_str(), url.port, url.path.as_str()),
                (tls, host, port, path),
                "{text}"
            );
        }
        for bad in [
            "",
            "/x",
            "ftp://a.example/",
            "https://user@a.example/",
            "https:///x",
            "https://a b/",
            "https://a:99999/",
            "https://a.example/ä ö",
            "//a.example/x",
        ] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn locations_are_read_relative_to_where_they_were_served() {
        let base = Url::parse("https://a.example:5000/v2/x/blobs/1?y").unwrap();
        for (location, expected) in [
            ("https://b.example/z", "b.example /z"),
            ("//b.example/z", "b.example /z"),
            ("/z?q", "a.example:5000 /z?q"),
            ("z", "a.example:5000 /v2/x/blobs/z"),
            (
                "?z=https://c.example",
                "a.example:5000 /v2/x/blobs/?z=https://c.example",
            ),
            ("http://b.example:80/", "b.example /"),
        ] {
            match base.join(location) {
                Ok(url) => assert_eq!(format!("{} {}", url.label(), url.path), expected, "{location}"),
                Err(why) => assert!(location.starts_with('?'), "{location}: {why}"),
            }
        }
    }

    #[test]
    fn hosts_and_query_components() {
        assert_eq!(split_host("a.example"), ("a.example", None));
        assert_eq!(split_host("a.example:5000"), ("a.example", Some(5000)));
        assert_eq!(split_host("[::1]:5000"), ("::1", Some(5000)));
        assert_eq!(split_host("[::1]"), ("::1", None));
        for (host, expected) in [
            ("localhost", true),
            ("127.0.0.9", true),
            ("::1", true),
            ("10.0.0.1", false),
            ("localhost.example", false),
        ] {
            assert_eq!(is_loopback(host), expected, "{host}");
        }
        assert_eq!(escape("repository:a/b:pull x"), "repository%3Aa%2Fb%3Apull%20x");
    }
}

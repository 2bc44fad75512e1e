//! Health checks: what is probed, how often, and what the answers mean.

use super::bounds::{ARGS, PROBE_INTERVAL_MIN_MS};
use super::time::Span;

/// A health check of one container. Exactly one of `exec`, `http`, `tcp` is set.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Run in the container; healthy when it exits 0.
    #[serde(default)]
    pub exec: Option<Vec<String>>,
    /// GET in the container's network; healthy on 2xx and 3xx.
    #[serde(default)]
    pub http: Option<HttpProbe>,
    /// Connect in the container's network; healthy when it succeeds.
    #[serde(default)]
    pub tcp: Option<TcpProbe>,
    /// From the end of one probe to the next.
    #[serde(default = "default_interval")]
    pub interval: Span,
    /// A probe that takes longer has failed.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// Failures within this time after the start do not count.
    #[serde(default)]
    pub start_period: Span,
    /// Interval within the start period, until the first success.
    #[serde(default = "default_start_interval")]
    pub start_interval: Span,
    /// Consecutive failures that make it unhealthy.
    #[serde(default = "default_failures")]
    pub failures: u32,
    /// Consecutive successes that make it healthy.
    #[serde(default = "default_successes")]
    pub successes: u32,
}

/// An HTTP probe.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpProbe {
    /// TCP port on the container's loopback.
    pub port: u16,
    /// Path and query, `/` when nothing is said.
    #[serde(default = "default_path")]
    pub path: String,
}

/// A TCP probe.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpProbe {
    /// TCP port on the container's loopback.
    pub port: u16,
}

/// What the probes say so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// No health check.
    None,
    /// Not yet healthy, not yet unhealthy.
    Starting,
    /// Enough successes.
    Healthy,
    /// Enough failures.
    Unhealthy,
}

impl HealthStatus {
    /// podman's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            HealthStatus::None => "none",
            HealthStatus::Starting => "starting",
            HealthStatus::Healthy => "healthy",
            HealthStatus::Unhealthy => "unhealthy",
        }
    }
}

fn default_interval() -> Span {
    Span::seconds(30)
}

fn default_timeout() -> Span {
    Span::seconds(30)
}

fn default_start_interval() -> Span {
    Span::seconds(5)
}

fn default_failures() -> u32 {
    3
}

fn default_successes() -> u32 {
    1
}

fn default_path() -> String {
    "/".into()
}

impl Health {
    /// A check with podman's defaults around this command.
    pub fn exec(args: Vec<String>) -> Health {
        Health {
            exec: Some(args),
            ..Health::tcp(0).without_probe()
        }
    }

    /// A check with the defaults that connects to `port`.
    pub fn tcp(port: u16) -> Health {
        Health {
            exec: None,
            http: None,
            tcp: Some(TcpProbe { port }),
            interval: default_interval(),
            timeout: default_timeout(),
            start_period: Span(0),
            start_interval: default_start_interval(),
            failures: default_failures(),
            successes: default_successes(),
        }
    }

    /// A check with the defaults that gets `path` from `port`.
    pub fn http(port: u16, path: &str) -> Health {
        Health {
            http: Some(HttpProbe {
                port,
                path: path.into(),
            }),
            ..Health::tcp(0).without_probe()
        }
    }

    fn without_probe(self) -> Health {
        Health {
            exec: None,
            http: None,
            tcp: None,
            ..self
        }
    }

    /// What is wrong with the values, each with its key.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let probes = [self.exec.is_some(), self.http.is_some(), self.tcp.is_some()];
        if probes.into_iter().filter(|p| *p).count() != 1 {
            found.push(("", "exactly one of `exec`, `http`, `tcp` is needed".to_owned()));
        }
        if self.exec.as_ref().is_some_and(|e| e.is_empty() || e.len() > ARGS) {
            found.push(("exec", "must name a program".to_owned()));
        }
        if let Some(http) = &self.http {
            let printable = http.path.bytes().all(|b| (0x21..0x7f).contains(&b));
            if !http.path.starts_with('/') || http.path.len() > 1024 || !printable {
                found.push((
                    "http.path",
                    "must begin with `/` and be printable ASCII without blanks".to_owned(),
                ));
            }
        }
        if self.http.as_ref().map(|h| h.port).or(self.tcp.as_ref().map(|t| t.port)) == Some(0) {
            found.push(("port", "must be 1 to 65535".to_owned()));
        }
        for (key, span) in [
            ("interval", self.interval),
            ("timeout", self.timeout),
            ("start_interval", self.start_interval),
        ] {
            if span.ms() < PROBE_INTERVAL_MIN_MS {
                found.push((key, format!("the least is {PROBE_INTERVAL_MIN_MS}ms")));
            }
        }
        for (key, count) in [("failures", self.failures), ("successes", self.successes)] {
            if !(1..=1000).contains(&count) {
                found.push((key, "must be 1 to 1000".to_owned()));
            }
        }
        found
    }
}

//! What a command over MQTT asks for: verb and arguments, checked before anything is done.

use std::collections::BTreeMap;

use crate::types::deployment::{Cause, Reason};
use crate::types::text::is_name;
use crate::types::time::Span;

/// Verbs that commands may name.
pub const VERBS: [&str; 10] = [
    "explain",
    "gc",
    "logs",
    "metrics",
    "probe",
    "restart",
    "retry",
    "rollback",
    "unlock",
    "update-agent",
];

/// Longest time of a lease.
const LEASE_MS: u64 = 3_600_000;
/// Most bytes of a lease.
const LEASE_BYTES: u64 = 8 << 20;
/// Most lines of a log that are sent before what follows.
const TAIL: usize = 10_000;
/// Shortest time between two metrics.
const METRICS_MIN_MS: u64 = 1_000;
/// Bytes of an image's name.
const SOURCE_BYTES: usize = 1024;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Tell what is wanted, what runs and what stands between, of one app or all.
    Explain(Option<String>),
    /// Remove what nothing needs.
    Collect,
    /// Send an app's log: its last lines, then what follows while the lease lasts.
    Logs {
        /// App.
        app: String,
        /// So many of the last lines.
        tail: usize,
        /// Time and bytes.
        lease: Lease,
    },
    /// Send what the device and its apps use, again and again while the lease lasts.
    Metrics {
        /// Between two of them.
        every: Span,
        /// Time and bytes.
        lease: Lease,
    },
    /// Tell an app's health and its last probes.
    Probe(String),
    /// Stop and start an app.
    Restart(String),
    /// Lift an app's quarantine.
    Retry(String),
    /// Leave an app's version for the one before.
    Rollback(String),
    /// Let the update that an app's lock holds back go on once.
    Unlock(String),
    /// Try another version of the agent.
    UpdateAgent {
        /// Reference of the artifact.
        source: String,
        /// An older one may come.
        allow_downgrade: bool,
    },
}

/// How long and how much is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Time; none sends what is there and ends.
    pub time: Span,
    /// Bytes.
    pub bytes: u64,
}

/// Reads a command's verb and arguments.
pub fn parse(verb: &str, args: &BTreeMap<String, String>) -> Result<Order, Cause> {
    let schema = |text: String| Cause::new(Reason::Schema, format!("`{verb}`: {text}"));
    let allowed: &[&str] = match verb {
        "explain" | "probe" | "restart" | "retry" | "rollback" | "unlock" => &["app"],
        "logs" => &["app", "bytes", "seconds", "tail"],
        "metrics" => &["bytes", "every", "seconds"],
        "update-agent" => &["allow_downgrade", "image"],
        "gc" => &[],
        other => return Err(Cause::new(Reason::Schema, format!("verb `{other}` is not known"))),
    };
    if let Some(key) = args.keys().find(|key| !allowed.contains(&key.as_str())) {
        return Err(schema(format!("argument `{key}` is not known")));
    }
    let app = || match args.get("app") {
        Some(app) if is_name(app) => Ok(app.clone()),
        _ => Err(schema("argument `app` must name an app".into())),
    };
    let number = |key: &str, default: u64, most: u64| match args.get(key) {
        None => Ok(default),
        Some(text) => text
            .parse::<u64>()
            .ok()
            .filter(|n| *n <= most)
            .ok_or_else(|| schema(format!("argument `{key}` must be a number up to {most}"))),
    };
    let lease = |seconds: u64| {
        Ok(Lease {
            time: Span::seconds(number("seconds", seconds, LEASE_MS / 1000)?),
            bytes: number("bytes", 64 << 10, LEASE_BYTES)?,
        })
    };
    Ok(match verb {
        "explain" => Order::Explain(args.contains_key("app").then(app).transpose()?),
        "logs" => Order::Logs {
            app: app()?,
            tail: number("tail", 100, TAIL as u64)? as usize,
            lease: lease(0)?,
        },
        "metrics" => {
            let every = number("every", 10, LEASE_MS / 1000)?;
            Order::Metrics {
                every: Span::seconds(every.max(METRICS_MIN_MS / 1000)),
                lease: lease(0)?,
            }
        }
        "probe" => Order::Probe(app()?),
        "restart" => Order::Restart(app()?),
        "retry" => Order::Retry(app()?),
        "rollback" => Order::Rollback(app()?),
        "unlock" => Order::Unlock(app()?),
        "update-agent" => Order::UpdateAgent {
            source: args
                .get("image")
                .filter(|image| !image.is_empty() && image.len() <= SOURCE_BYTES)
                .cloned()
                .ok_or_else(|| schema("argument `image` must name the artifact".into()))?,
            allow_downgrade: match args.get("allow_downgrade").map(String::as_str) {
                None | Some("false") => false,
                Some("true") => true,
                Some(_) => return Err(schema("argument `allow_downgrade` must be true or false".into())),
            },
        },
        _ => Order::Collect,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_whole_or_refused() {
        let lease = |seconds, bytes| Lease {
            time: Span::seconds(seconds),
            bytes,
        };
        for (line, expected) in [
            ("restart app=web", Some(Order::Restart("web".into()))),
            ("rollback app=web", Some(Order::Rollback("web".into()))),
            ("unlock app=web", Some(Order::Unlock("web".into()))),
            ("retry app=web", Some(Order::Retry("web".into()))),
            ("probe app=web", Some(Order::Probe("web".into()))),
            ("explain", Some(Order::Explain(None))),
            ("explain app=web", Some(Order::Explain(Some("web".into())))),
            ("gc", Some(Order::Collect)),
            (
                "logs app=web",
                Some(Order::Logs {
                    app: "web".into(),
                    tail: 100,
                    lease: lease(0, 64 << 10),
                }),
            ),
            (
                "logs app=web tail=3 seconds=60 bytes=9",
                Some(Order::Logs {
                    app: "web".into(),
                    tail: 3,
                    lease: lease(60, 9),
                }),
            ),
            (
                "metrics seconds=60 every=0",
                Some(Order::Metrics {
                    every: Span::seconds(1),
                    lease: lease(60, 64 << 10),
                }),
            ),
            (
                "update-agent image=r.example/agent@sha256:00 allow_downgrade=true",
                Some(Order::UpdateAgent {
                    source: "r.example/agent@sha256:00".into(),
                    allow_downgrade: true,
                }),
            ),
            ("restart", None),
            ("restart app=", None),
            ("restart app=../x", None),
            ("restart app=web tail=1", None),
            ("gc app=web", None),
            ("explain app=Web", None),
            ("logs app=web tail=-1", None),
            ("logs app=web seconds=3601", None),
            ("logs app=web bytes=99999999", None),
            ("update-agent", None),
            ("update-agent image=x allow_downgrade=yes", None),
            ("reboot", None),
            ("", None),
        ] {
            let mut words = line.split(' ');
            let verb = words.next().unwrap();
            let args = words
                .filter_map(|w| w.split_once('='))
                .map(|(k, v)| (k.to_owned(), v.to_owned()));
            assert_eq!(parse(verb, &args.collect()).ok(), expected, "{line}");
        }
    }

    #[test]
    fn every_verb_is_known() {
        for verb in VERBS {
            let args = [("app", "web"), ("image", "x")];
            let args = args.iter().map(|(k, v)| (k.to_string(), v.to_string()));
            let fits = |args: BTreeMap<String, String>| parse(verb, &args).is_ok();
            let all: Vec<(String, String)> = args.collect();
            assert!(
                fits(BTreeMap::new()) || all.iter().any(|one| fits([one.clone()].into())),
                "{verb}"
            );
        }
    }
}

//! `--health-…`: podman's flags for commands, and ours for HTTP and TCP.

use super::{CreateArgs, FlagError, span, wrong};
use crate::engine::options::{HealthOptions, shell};
use crate::types::health::Health;
use crate::types::read;

/// What the flags say about the health check.
pub fn health(args: &CreateArgs) -> Result<HealthOptions, FlagError> {
    let disable = args.no_healthcheck || args.health_cmd.as_deref() == Some("none");
    let check = match (&args.health_cmd, &args.health_http, args.health_tcp) {
        _ if disable => None,
        (Some(command), _, _) => Some(Health::exec(command_line(command)?)),
        (_, Some(http), _) => Some(http_check(http)?),
        (_, _, Some(port)) => Some(Health::tcp(port)),
        _ => None,
    };
    let interval = match args.health_interval.as_deref() {
        Some("disable") => {
            return Err(wrong(
                "--health-interval",
                "disable",
                "leave the check out with --no-healthcheck",
            ));
        }
        Some(text) => Some(span("--health-interval", text)?),
        None => None,
    };
    let optional = |flag, text: &Option<String>| text.as_deref().map(|text| span(flag, text)).transpose();
    Ok(HealthOptions {
        disable,
        check,
        interval,
        timeout: optional("--health-timeout", &args.health_timeout)?,
        start_period: optional("--health-start-period", &args.health_start_period)?,
        failures: args.health_retries,
    })
}

/// A JSON list is a program with arguments (with or without podman's `CMD`), anything else a line for the shell.
fn command_line(text: &str) -> Result<Vec<String>, FlagError> {
    if !text.starts_with('[') {
        let line = text.strip_prefix("CMD-SHELL ").unwrap_or(text).trim();
        if line.is_empty() {
            return Err(wrong("--health-cmd", text, "the command is missing"));
        }
        return Ok(shell(line));
    }
    let mut words: Vec<String> = read::json(text.as_bytes())
        .map_err(|error| wrong("--health-cmd", text, format!("not a JSON list of texts: {error}")))?;
    match words.first().map(String::as_str) {
        Some("CMD") => {
            words.remove(0);
        }
        Some("CMD-SHELL") => return Ok(shell(&words[1..].join(" "))),
        _ => {}
    }
    if words.is_empty() {
        return Err(wrong("--health-cmd", text, "the command is missing"));
    }
    Ok(words)
}

fn http_check(text: &str) -> Result<Health, FlagError> {
    let (port, path) = match text.split_once('/') {
        Some((port, path)) => (port, format!("/{path}")),
        None => (text, "/".to_owned()),
    };
    let port = port
        .trim_start_matches(':')
        .parse()
        .map_err(|_| wrong("--health-http", text, "write PORT or PORT/PATH"))?;
    Ok(Health::http(port, &path))
}

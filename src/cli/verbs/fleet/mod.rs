//! fleet: the operator's verbs.

mod command;
mod deploy;
mod keys;
#[cfg(feature = "simulate")]
mod simulate;
mod status;
mod watch;

use super::super::args::FleetArgs;
use super::super::failure::Failure;
use super::print;
use crate::config::agent::Mqtt;
use crate::config::fleet::Operator as Settings;
use crate::fleet::link::Link;
use crate::fleet::{FleetError, Operator, Target};
use crate::types::bounds::{CONFIG_FILE_BYTES, DOCUMENT_BYTES};
use crate::types::document::Encoding;
use crate::types::time::Span;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

impl From<FleetError> for Failure {
    fn from(error: FleetError) -> Failure {
        Failure::new(error.to_string())
    }
}

/// What every verb is given.
struct Call<'a> {
    args: &'a FleetArgs,
    settings: Settings,
    /// Devices that are asked for by name.
    exact: Vec<String>,
    /// The longest wait for what the broker has.
    timeout: Duration,
}

/// `fleet …`. `config`: the settings file, where one is named.
pub fn fleet(config: Option<&Path>, args: &FleetArgs) -> Result<u8, Failure> {
    let call = Call {
        args,
        settings: settings(config, args)?,
        exact: match args.one("devices") {
            Some(path) => names(path)?,
            None => Vec::new(),
        },
        timeout: span(args, "timeout", 60_000)?,
    };
    match args.verb.as_str() {
        "keygen" => keys::generate(&call),
        "sign" => keys::sign(&call),
        "keys" => keys::rotate(&call),
        "deploy" => deploy::deploy(&call),
        "promote" | "halt" | "resume" => deploy::go_on(&call),
        "assign" => deploy::assign(&call),
        "retire" => deploy::retire(&call),
        "secret" => keys::secret(&call),
        "status" => status::status(&call),
        "explain" => status::explain(&call),
        "watch" => watch::watch(&call),
        "guard" => watch::guard(&call),
        "command" => command::command(&call),
        "logs" => command::logs(&call),
        #[cfg(feature = "simulate")]
        "simulate" => simulate::simulate(&call),
        other => Err(Failure::new(format!("`fleet {other}` is not known"))),
    }
}

/// What the file and the flags say.
fn settings(config: Option<&Path>, args: &FleetArgs) -> Result<Settings, Failure> {
    let mut settings = Settings::load(config)?;
    if let Some(url) = args.one("broker") {
        match &mut settings.mqtt {
            Some(mqtt) => mqtt.url = url.into(),
            None => settings.mqtt = Some(Mqtt::at(url)),
        }
    }
    if let Some(mqtt) = &mut settings.mqtt {
        for (name, place) in [
            ("ca", &mut mqtt.ca),
            ("cert", &mut mqtt.cert),
            ("key", &mut mqtt.key),
            ("password-file", &mut mqtt.password_file),
        ] {
            if let Some(path) = args.one(name) {
                *place = Some(path.into());
            }
        }
        if let Some(name) = args.one("username") {
            mqtt.username = Some(name.into());
        }
        if let Some(root) = args.one("topic-root") {
            mqtt.root = root.into();
        }
    }
    if let Some(word) = args.one("encoding") {
        settings.encoding =
            Encoding::parse(word).ok_or_else(|| Failure::new(format!("--encoding `{word}`: json or postcard")))?;
    }
    if args.has("sign-key") {
        settings.keys = args.many("sign-key").iter().map(PathBuf::from).collect();
    }
    Ok(settings)
}

/// Names in a file, one a line; `#` begins a remark.
fn names(path: &str) -> Result<Vec<String>, Failure> {
    let text = read(path, 64 * CONFIG_FILE_BYTES)?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or("").trim());
    let names: Result<Vec<String>, FleetError> = lines
        .filter(|line| !line.is_empty())
        .map(crate::fleet::device_name)
        .collect();
    match names? {
        names if names.is_empty() => Err(Failure::new(format!("`{path}` names no device"))),
        names => Ok(names),
    }
}

/// A bounded text file; `-` is stdin.
fn read(path: &str, limit: usize) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("`{path}`: {error}"));
    let mut text = String::new();
    let limit = limit as u64;
    let read = match path {
        "-" => std::io::stdin().lock().take(limit + 1).read_to_string(&mut text),
        _ => File::open(path)
            .map_err(failed)?
            .take(limit + 1)
            .read_to_string(&mut text),
    };
    if read.map_err(failed)? as u64 > limit {
        return Err(Failure::new(format!("`{path}` is larger than {limit} bytes")));
    }
    Ok(text)
}

/// A document's text.
fn document(path: &str) -> Result<String, Failure> {
    read(path, 2 * DOCUMENT_BYTES)
}

/// The value of an option that is a time.
fn span(args: &FleetArgs, name: &str, usual_ms: u64) -> Result<Duration, Failure> {
    Ok(given_span(args, name)?.unwrap_or(Span(usual_ms)).duration())
}

fn given_span(args: &FleetArgs, name: &str) -> Result<Option<Span>, Failure> {
    let parse = |text: &str| text.parse::<Span>().map_err(|e| Failure::new(format!("--{name}: {e}")));
    args.one(name).map(parse).transpose()
}

impl Call<'_> {
    fn operator(&self) -> Result<Operator, Failure> {
        Ok(Operator::new(&self.settings)?)
    }

    fn target(&self) -> Result<Target, Failure> {
        Ok(Target::parse(self.args.sure("TARGET"))?)
    }

    fn device(&self) -> Result<String, Failure> {
        Ok(crate::fleet::device_name(self.args.sure("DEVICE"))?)
    }

    fn link(&self, operator: &Operator) -> Result<Link, Failure> {
        Ok(Link::open(&operator.mqtt)?)
    }
}

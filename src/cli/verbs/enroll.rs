//! `agent enroll`: settings, keys and a certificate request from one document.

use super::print;
use crate::agent::enrol::{self, DOCUMENT, Enrolment, MARK};
use crate::cli::args::{AgentEnrollArgs, Global};
use crate::cli::failure::{Failure, say};
use crate::cli::owner;
use std::fs::File;
use std::io::{self, Read};

/// The settings are written as the caller, the keys as the store's owner.
pub fn agent_enroll(global: &Global, args: &AgentEnrollArgs) -> Result<u8, Failure> {
    let document = match args.document.as_str() {
        text if text.starts_with(MARK) => text.as_bytes().to_vec(),
        "-" => bounded(io::stdin())?,
        path => bounded(File::open(path).map_err(|error| Failure::new(format!("`{path}`: {error}")))?)?,
    };
    let config = owner::config_path(global)?;
    let enrolment = Enrolment::read(&document, &config).map_err(Failure::new)?;
    let layout = owner::layout_of(global, &enrolment.settings)?;
    enrolment.write(&layout, args.replace).map_err(Failure::new)?;
    say(&format!("`{}` is written", config.display()));
    let place = owner::settle(global, false)?;
    let enrolled = enrol::keys(&place.layout, &place.settings).map_err(Failure::new)?;
    let [signing, sealing] = &enrolled.keys;
    say(&format!(
        "for the operator's list of devices: {} {signing}\nsecrets are sealed for {sealing}\nthe certificate belongs in `{}`",
        enrolled.device,
        enrolled.certificate.display()
    ));
    print(&enrolled.request)?;
    Ok(0)
}

fn bounded(from: impl Read) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    from.take(DOCUMENT as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

//! system check.

use super::super::args::SystemCheckArgs;
use super::super::failure::{Failure, say};
use super::super::progress::Gauge;
use super::super::{human, table};
use super::print;
use crate::engine::Engine;
use crate::engine::check::{CheckOptions, CheckStep};
use crate::store::Fault;

/// Exit code when something is wrong.
const WRONG: u8 = 1;

pub fn check(engine: &Engine, args: &SystemCheckArgs) -> Result<u8, Failure> {
    let options = CheckOptions {
        quick: args.quick,
        repair: args.repair,
    };
    let mut gauge = Gauge::new("Checking layers");
    let report = engine.check(options, &mut |step| match step {
        CheckStep::Begins(bytes) => gauge.begin(if args.quick { 0 } else { bytes }),
        CheckStep::Moved(bytes) => gauge.add(bytes),
        CheckStep::Fetches(layer) => {
            gauge.end();
            say(&format!("Fetching layer {layer} again"));
        }
    });
    gauge.end();
    let report = report?;
    for key in &report.not_checkable {
        say(&format!(
            "layer {key} is not checkable: an older dunlin unpacked it; pulling its image anew after `dunlin rmi` changes that"
        ));
    }
    let mut text = String::new();
    for fault in &report.faults {
        let mended = args.repair && !report.left.contains(fault);
        text.push_str(&line(fault, if mended { " (repaired)" } else { "" }));
    }
    for fault in report.left.iter().filter(|fault| !report.faults.contains(fault)) {
        text.push_str(&line(fault, ""));
    }
    print(&text)?;
    for failure in &report.failures {
        say(failure);
    }
    say(&format!(
        "{} layers with {} entries and {} checked: {} wrong, {} repaired, {} layers not checkable",
        report.layers - report.not_checkable.len(),
        report.entries,
        human::size(report.bytes),
        report.left.len(),
        report
            .faults
            .iter()
            .filter(|fault| !report.left.contains(fault))
            .count(),
        report.not_checkable.len(),
    ));
    Ok(if report.left.is_empty() { 0 } else { WRONG })
}

fn line(fault: &Fault, end: &str) -> String {
    table::printable(&format!("{}: {}{end}", fault.object, fault.what)) + "\n"
}

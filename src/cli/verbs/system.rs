//! system check, df and prune.

use super::super::args::{SystemCheckArgs, SystemDfArgs, SystemPruneArgs};
use super::super::failure::{Failure, say};
use super::super::listing::Listing;
use super::super::progress::Gauge;
use super::super::{human, ps, table, time};
use super::images::rows_of;
use super::print;
use crate::engine::Engine;
use crate::engine::check::{CheckOptions, CheckStep};
use crate::engine::filter::Filter;
use crate::engine::prune::{Kept, Pruned, Usage};
use crate::store::Fault;
use crate::sys::tty;
use serde_json::{Value, json};
use std::io::{self, BufRead as _, Write as _};
use std::os::fd::AsFd as _;

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

/// What the agent's sets name: its apps run, or are what a rollback goes back to.
pub(super) fn kept(engine: &Engine) -> Result<Kept, Failure> {
    Ok(crate::deploy::engine::kept(engine)?)
}

pub fn df(engine: &Engine, args: &SystemDfArgs) -> Result<u8, Failure> {
    let usage = engine.usage(&kept(engine)?)?;
    if args.verbose {
        print(&verbose(&usage)?)?;
        return Ok(0);
    }
    let active = usage.images.iter().filter(|one| one.containers > 0).count();
    let live = usage.containers.iter().filter(|one| one.view.status.is_live());
    let (live, live_bytes) = live.fold((0, 0), |(n, bytes), one| (n + 1, bytes + one.bytes));
    let written: u64 = usage.containers.iter().map(|one| one.bytes).sum();
    let linked = usage.volumes.iter().filter(|one| one.links > 0).count();
    let volumes: u64 = usage.volumes.iter().map(|one| one.bytes).sum();
    let free: u64 = usage
        .volumes
        .iter()
        .filter(|one| one.links == 0)
        .map(|one| one.bytes)
        .sum();
    let rows = vec![
        sum(
            "Images",
            (usage.images.len(), active),
            usage.images_bytes,
            usage.images_reclaimable,
        ),
        sum(
            "Containers",
            (usage.containers.len(), live),
            written,
            written - live_bytes,
        ),
        sum("Local Volumes", (usage.volumes.len(), linked), volumes, free),
    ];
    let listing = Listing {
        columns: vec![
            ("TYPE", "Type"),
            ("TOTAL", "Total"),
            ("ACTIVE", "Active"),
            ("SIZE", "Size"),
            ("RECLAIMABLE", "Reclaimable"),
        ],
        headers: &[],
        json: rows.clone(),
        rows,
    };
    print(&listing.render(args.format.as_deref(), false)?)?;
    Ok(0)
}

fn sum(kind: &str, (total, active): (usize, usize), bytes: u64, free: u64) -> Value {
    let percent = (free * 100 + bytes / 2).checked_div(bytes).unwrap_or(0);
    json!({
        "Type": kind,
        "Total": total,
        "TotalCount": total,
        "Active": active,
        "RawSize": bytes,
        "Size": human::size_short(bytes),
        "RawReclaimable": free,
        "Reclaimable": format!("{} ({percent}%)", human::size_short(free)),
    })
}

fn verbose(usage: &Usage) -> Result<String, Failure> {
    let now = time::now();
    let table = |columns: &[(&'static str, &'static str)], rows: Vec<Value>| {
        let listing = Listing {
            columns: columns.to_vec(),
            headers: &[],
            rows,
            json: Vec::new(),
        };
        listing.render(None, false)
    };
    let mut images = Vec::new();
    for one in &usage.images {
        for row in rows_of(&one.image, None) {
            images.push(json!({
                "Repository": row.repository,
                "Tag": row.tag,
                "ID": one.image.id.short(),
                "Created": time::ago(one.image.created, now),
                "Size": human::size_short(one.shared + one.unique),
                "Shared": human::size_short(one.shared),
                "Unique": human::size_short(one.unique),
                "Containers": one.containers,
            }));
        }
    }
    let containers = usage.containers.iter().map(|one| {
        let record = &one.view.record;
        json!({
            "ID": record.id.short(),
            "Image": record.image_name,
            "Command": record.spec.args.join(" ").chars().take(20).collect::<String>(),
            "Volumes": one.volumes,
            "Size": human::size_short(one.bytes),
            "Created": time::ago(record.created, now),
            "Status": ps::status(&one.view, now),
            "Names": record.name,
        })
    });
    let volumes = usage
        .volumes
        .iter()
        .map(|one| json!({"Name": one.name, "Links": one.links, "Size": human::size_short(one.bytes)}));
    let image_columns = [
        ("REPOSITORY", "Repository"),
        ("TAG", "Tag"),
        ("IMAGE ID", "ID"),
        ("CREATED", "Created"),
        ("SIZE", "Size"),
        ("SHARED SIZE", "Shared"),
        ("UNIQUE SIZE", "Unique"),
        ("CONTAINERS", "Containers"),
    ];
    let container_columns = [
        ("CONTAINER ID", "ID"),
        ("IMAGE", "Image"),
        ("COMMAND", "Command"),
        ("LOCAL VOLUMES", "Volumes"),
        ("SIZE", "Size"),
        ("CREATED", "Created"),
        ("STATUS", "Status"),
        ("NAMES", "Names"),
    ];
    let volume_columns = [("VOLUME NAME", "Name"), ("LINKS", "Links"), ("SIZE", "Size")];
    Ok(format!(
        "Images space usage:\n\n{}\nContainers space usage:\n\n{}\nLocal Volumes space usage:\n\n{}",
        table(&image_columns, images)?,
        table(&container_columns, containers.collect())?,
        table(&volume_columns, volumes.collect())?,
    ))
}

pub fn prune(engine: &Engine, args: &SystemPruneArgs) -> Result<u8, Failure> {
    let images = if args.all {
        "all images without at least one container associated with them"
    } else {
        "all dangling images"
    };
    let mut what = vec!["all stopped containers", images];
    if args.volumes {
        what.push("all volumes not used by at least one container");
    }
    if !args.force && !confirm(&what)? {
        return Ok(0);
    }
    let kept = kept(engine)?;
    let mut pruned = Pruned::default();
    let mut done = engine.prune_containers(&kept, &Filter::default(), &mut pruned);
    if done.is_ok() && args.volumes {
        done = engine.prune_volumes(&kept, &|_| true, &mut pruned);
    }
    if done.is_ok() {
        done = engine.prune_images(args.all, &kept, &|_| true, &mut pruned);
    }
    let mut text = String::new();
    section(&mut text, "Containers", pruned.containers.iter().map(|id| id.hex()));
    section(&mut text, "Volumes", pruned.volumes.iter().cloned());
    section(&mut text, "Images", pruned.images.iter().map(|id| id.hex()));
    text.push_str(&format!("Total reclaimed space: {}\n", human::size_short(pruned.bytes)));
    print(&text)?;
    done?;
    Ok(0)
}

fn section(text: &mut String, kind: &str, names: impl Iterator<Item = String>) {
    let names: String = names.map(|name| name + "\n").collect();
    if !names.is_empty() {
        text.push_str(&format!("Deleted {kind}\n{names}"));
    }
}

/// Asks whether all this may be removed. Without a terminal there is nobody to ask, which is an error.
pub(super) fn confirm(what: &[&str]) -> Result<bool, Failure> {
    if !tty::is_terminal(io::stdin().as_fd()) {
        return Err(Failure::new(
            "there is no terminal to ask on; use --force to remove without being asked",
        ));
    }
    let mut text = String::from("WARNING! This command removes:\n");
    what.iter().for_each(|one| text.push_str(&format!("\t- {one}\n")));
    text.push_str("\nAre you sure you want to continue? [y/N] ");
    let mut errors = io::stderr().lock();
    errors.write_all(text.as_bytes())?;
    errors.flush()?;
    drop(errors);
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

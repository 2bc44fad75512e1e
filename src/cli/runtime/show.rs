//! What is printed about containers, in runc's shapes.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::args::{EventsArgs, ListArgs, PsArgs, SpecArgs};
use super::{Failure, out};
use crate::runtime::oci::{self, Container, Status};
use crate::sys::event::{self, EventFd, Inotify, Interest, Poll};
use crate::sys::{creds, process};

/// The annotation that tells which fields of the bundle were left out.
const LEFT_OUT: &str = "io.dunlin.left-out";

/// The document of `state`: the specification's fields and runc's.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    oci_version: String,
    id: String,
    pid: i32,
    status: &'static str,
    bundle: PathBuf,
    rootfs: PathBuf,
    created: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<BTreeMap<String, String>>,
    owner: String,
}

/// The document of `state`.
pub fn state(container: &Container) -> Shown {
    let (kept, status) = (&container.state, container.status());
    let mut annotations = kept.annotations.clone().unwrap_or_default();
    if !kept.left_out.is_empty() {
        annotations.insert(LEFT_OUT.to_owned(), kept.left_out.join(","));
    }
    Shown {
        oci_version: kept.oci_version.clone(),
        id: kept.id.clone(),
        pid: if status == Status::Stopped { 0 } else { kept.pid },
        status: status.name(),
        bundle: kept.bundle.clone(),
        rootfs: kept.rootfs.clone(),
        created: kept.created.clone(),
        annotations: (!annotations.is_empty()).then_some(annotations),
        owner: user_name(kept.owner),
    }
}

/// `list`.
pub fn list(all: &[Container], args: &ListArgs) -> Result<u8, Failure> {
    if args.quiet {
        let names: String = all.iter().map(|one| format!("{}\n", one.state.id)).collect();
        return out(&names);
    }
    let states: Vec<Shown> = all.iter().map(state).collect();
    if args.format == "json" {
        return out(&format!("{}\n", json!(states)));
    }
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let cells = |shown: &Shown| {
        [
            shown.id.clone(),
            shown.pid.to_string(),
            shown.status.to_owned(),
            shown.bundle.display().to_string(),
            shown.created.clone(),
            shown.owner.clone(),
        ]
    };
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(states.iter().map(cells)).collect();
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
            .max(8)
    };
    let widths: [usize; 6] = std::array::from_fn(width);
    let line = |row: &[String; 6]| {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}    "));
        format!("{}\n", cells.collect::<String>().trim_end())
    };
    out(&rows.iter().map(line).collect::<String>())
}

/// `ps`.
pub fn ps(container: &Container, args: &PsArgs) -> Result<u8, Failure> {
    let pids = container.processes()?;
    if args.format == "json" {
        return out(&format!("{}\n", json!(pids)));
    }
    let options = if args.options.is_empty() {
        vec!["-ef".to_owned()]
    } else {
        args.options.clone()
    };
    let made = Command::new("ps").args(&options).output();
    let made = made.map_err(|e| Failure::new(format!("ps: {e}")))?;
    if !made.status.success() {
        let said = String::from_utf8_lossy(&made.stderr);
        return Err(Failure::new(format!("ps {}: {}", options.join(" "), said.trim())));
    }
    let text = String::from_utf8_lossy(&made.stdout);
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let place = head.split_whitespace().position(|title| title == "PID");
    let place = place.ok_or_else(|| Failure::new("ps: there is no column PID"))?;
    let of_it = |line: &&str| {
        let pid = line.split_whitespace().nth(place).and_then(|pid| pid.parse().ok());
        pid.is_some_and(|pid: i32| pids.contains(&pid))
    };
    let shown: String = std::iter::once(head)
        .chain(lines.filter(of_it))
        .map(|line| format!("{line}\n"))
        .collect();
    out(&shown)
}

/// `events`: what is used, once or again and again, and when memory ran out.
pub fn events(container: &Container, args: &EventsArgs) -> Result<u8, Failure> {
    let first = oci::stats(container)?;
    if args.stats {
        return out(&format!("{first}\n"));
    }
    let wrong = || Failure::new(format!("--interval `{}`: give a time such as 5s", args.interval));
    let digits = args.interval.strip_suffix('s').unwrap_or(&args.interval);
    let interval = digits.parse().ok().filter(|seconds| *seconds > 0).ok_or_else(wrong)?;
    let pidfd = process::pidfd_open(container.state.pid)?;
    let (counter, watch) = (EventFd::new()?, Inotify::new()?);
    let group = container.state.group.as_ref();
    let file = group.and_then(|group| group.events_path());
    let has_file = file.is_some();
    if let Some(path) = file {
        watch.watch(&path)?;
    } else if let Some(group) = group {
        group.notify_oom(&counter).map_err(oci::OciError::from)?;
    }
    let mut kills = group.and_then(|group| group.oom_kills());
    loop {
        let mut all = [
            Poll::new(Some(pidfd.as_fd()), Interest::READ),
            Poll::new(Some(counter.as_fd()), Interest::READ),
            Poll::new(Some(watch.as_fd()), Interest::READ),
        ];
        event::poll(&mut all, Some(Duration::from_secs(interval)))?;
        let (ended, told) = (all[0].ready.read, all[1].ready.read || all[2].ready.read);
        if told || ended {
            // A group that is gone tells its watchers so too, and the last event may be late.
            let (counted, now) = (counter.read()?, group.and_then(|group| group.oom_kills()));
            watch.drain()?;
            // v1 has the counter alone for it: its number of kills follows later, and would tell the same twice.
            let short = if has_file { now > kills } else { counted.is_some() };
            if now.is_some() && short {
                kills = now;
                out(&format!("{}\n", json!({"type": "oom", "id": container.state.id})))?;
            }
        }
        if ended {
            return Ok(0);
        }
        if !told {
            out(&format!("{}\n", oci::stats(container)?))?;
        }
    }
}

/// `spec`.
pub fn spec(args: &SpecArgs) -> Result<u8, Failure> {
    let path = args.bundle.join("config.json");
    let rootless = args.rootless.then(creds::effective_ids);
    let text = format!("{:#}\n", oci::template(rootless));
    let made = std::fs::OpenOptions::new().write(true).create_new(true).open(&path);
    match made {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(Failure::new(format!("File {} exists. Remove it first", path.display())))
        }
        done => {
            let fail = |e| Failure::new(format!("write `{}`: {e}", path.display()));
            std::io::Write::write_all(&mut done.map_err(fail)?, text.as_bytes()).map_err(fail)?;
            Ok(0)
        }
    }
}

fn user_name(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (id.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_default()
}

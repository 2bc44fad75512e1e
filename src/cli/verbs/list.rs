//! ps and port.

use super::super::args::{PortArgs, PsArgs};
use super::super::failure::Failure;
use super::super::ps::{self, Row, Shape};
use super::super::time;
use super::pick::Choice;
use super::print;
use crate::engine::filter::Filter;
use crate::engine::view::ContainerView;
use crate::engine::{Engine, EngineError};
use crate::types::network::{PortMapping, Protocol};
use std::net::{Ipv4Addr, SocketAddr};

pub fn ps(engine: &Engine, args: &PsArgs) -> Result<u8, Failure> {
    let filter = Filter::parse(&args.filter)?;
    let now = time::now();
    let last = if args.latest {
        Some(1)
    } else {
        args.last.and_then(|last| usize::try_from(last).ok())
    };
    let mut views = engine.list(&filter, now)?;
    if !args.all && last.is_none() && !filter.names_a_status() {
        views.retain(|view| view.status.is_live());
    }
    views.truncate(last.unwrap_or(usize::MAX));
    match args.sort.as_str() {
        "command" => views.sort_by(|a, b| a.record.spec.args.cmp(&b.record.spec.args)),
        "id" => views.sort_by_key(|view| view.record.id),
        "image" => views.sort_by(|a, b| a.record.image_name.cmp(&b.record.image_name)),
        "names" => views.sort_by(|a, b| a.record.name.cmp(&b.record.name)),
        "runningfor" => views.sort_by_key(|view| view.started),
        "status" => views.sort_by_key(|view| view.status.as_str()),
        _ => {}
    }
    if args.quiet {
        let ids = views.iter().map(|view| {
            if args.no_trunc {
                view.record.id.hex()
            } else {
                view.record.id.short()
            }
        });
        print(&ids.map(|id| id + "\n").collect::<String>())?;
        return Ok(0);
    }
    let sized =
        args.size || args.sort == "size" || args.format.as_deref().is_some_and(|format| format.contains("Size"));
    let row = |view: ContainerView| {
        let record = &view.record;
        Ok(Row {
            size: sized.then(|| engine.sizes(record)),
            ports: engine.ports(record)?,
            pod: engine.pod_name(record)?,
            view,
        })
    };
    let mut rows: Vec<Row> = views.into_iter().map(row).collect::<Result<_, EngineError>>()?;
    if args.sort == "size" {
        rows.sort_by_key(|row| row.size);
    }
    let listing = ps::listing(
        &rows,
        Shape {
            no_trunc: args.no_trunc,
            size: args.size,
            now,
        },
    );
    print(&listing.render(args.format.as_deref(), args.noheading)?)?;
    Ok(0)
}

/// Published ports of running containers: all of a container as `80/tcp -> 0.0.0.0:8080`, of one port the host's side alone.
pub fn port(engine: &Engine, args: &PortArgs) -> Result<u8, Failure> {
    let (names, port) = match (args.all || args.latest, args.words.as_slice()) {
        (true, [port]) => (&[][..], Some(port)),
        (true, []) => (&[][..], None),
        (false, [_]) => (&args.words[..1], None),
        (false, [_, port]) => (&args.words[..1], Some(port)),
        _ => {
            return Err(Failure::new(
                "you must supply a running container name or id, and at most one port",
            ));
        }
    };
    let choice = Choice {
        latest: args.latest,
        all: args.all,
        names,
        ..Choice::default()
    };
    let wanted = port.map(|port| wanted(port)).transpose()?;
    for name in choice.names(engine, |_| true)? {
        let view = engine.inspect(&name)?;
        let mut found = false;
        for mapping in engine.ports(&view.record)? {
            for (host, inside) in mapping.pairs() {
                let at = mapping.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
                let outside = SocketAddr::new(at, host);
                match wanted {
                    None if choice.names.is_empty() => {
                        print(&format!(
                            "{}\t{inside}/{} -> {outside}\n",
                            view.record.id.short(),
                            mapping.protocol.as_str()
                        ))?;
                    }
                    None => print(&format!("{inside}/{} -> {outside}\n", mapping.protocol.as_str()))?,
                    Some(wanted) if wanted == (inside, mapping.protocol) => print(&format!("{outside}\n"))?,
                    Some(_) => continue,
                }
                found = true;
            }
        }
        if let (Some(port), false, false) = (port, found, args.all) {
            return Err(Failure::new(format!(
                "no port `{port}` published for container `{}`",
                view.record.name
            )));
        }
    }
    Ok(0)
}

/// A port inside, `80` or `53/udp`.
fn wanted(text: &str) -> Result<(u16, Protocol), Failure> {
    match text.parse::<PortMapping>() {
        Ok(PortMapping {
            container,
            protocol,
            host: 0,
            count: 1,
            ..
        }) => Ok((container, protocol)),
        _ => Err(Failure::new(format!(
            "`{text}` is no port of a container: write `80` or `53/udp`"
        ))),
    }
}

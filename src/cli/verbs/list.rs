//! ps and port.

use super::super::args::{PortArgs, PsArgs};
use super::super::failure::Failure;
use super::super::ps::{self, Shape, Sized};
use super::super::time;
use super::pick::Choice;
use super::print;
use crate::engine::Engine;
use crate::engine::filter::Filter;

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
    let mut rows: Vec<Sized> = views
        .into_iter()
        .map(|view| {
            let size = sized.then(|| engine.sizes(&view.record));
            (view, size)
        })
        .collect();
    if args.sort == "size" {
        rows.sort_by_key(|(_, size)| *size);
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

/// No ports are published before there are private networks; the verb says so for a port that is asked for.
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
    for name in choice.names(engine, |_| true)? {
        let view = engine.inspect(&name)?;
        if let Some(port) = port {
            return Err(Failure::new(format!(
                "no port `{port}` published for container `{}`",
                view.record.name
            )));
        }
    }
    Ok(0)
}

//! logs.

use super::super::args::LogsArgs;
use super::super::failure::Failure;
use super::super::time;
use super::pick::latest;
use crate::engine::filter::point;
use crate::engine::logs::{self, Entry, LogOptions, LogReader, Stream};
use crate::engine::view::ContainerView;
use crate::engine::{Engine, EngineError};
use crate::sys::event::Inotify;
use crate::sys::socket;
use crate::types::time::Unix;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::time::Duration;

/// Longest time between two looks at logs that are followed.
const LOOK: Duration = Duration::from_millis(500);

struct Source {
    view: ContainerView,
    prefix: String,
    reader: LogReader,
    ended: bool,
}

pub fn logs(engine: &Engine, args: &LogsArgs) -> Result<u8, Failure> {
    let now = time::now();
    let at = |flag: &str, text: &Option<String>| -> Result<Option<Unix>, Failure> {
        let Some(text) = text else { return Ok(None) };
        let point =
            point(text, now).ok_or_else(|| Failure::new(format!("{flag} `{text}`: neither a time nor a duration")))?;
        Ok(Some(point))
    };
    let options = LogOptions {
        since: at("--since", &args.since)?,
        until: at("--until", &args.until)?,
        tail: args.tail.and_then(|tail| usize::try_from(tail).ok()),
    };
    let views = if args.latest {
        vec![latest(engine)?]
    } else if args.containers.is_empty() {
        return Err(Failure::new("you must provide at least one name or id"));
    } else {
        args.containers
            .iter()
            .map(|name| engine.inspect(name))
            .collect::<Result<Vec<_>, EngineError>>()?
    };
    let many = views.len() > 1;
    let mut printer = Printer {
        timestamps: args.timestamps,
        open: None,
    };
    let mut sources = Vec::new();
    for view in views {
        let prefix = match (many || args.names, args.names) {
            (true, true) => format!("{} ", view.record.name),
            (true, false) => format!("{} ", view.record.id.short()),
            (false, _) => String::new(),
        };
        let (entries, reader) = logs::read(&engine.layout().log(&view.record.id), &options)?;
        for entry in &entries {
            printer.show(&prefix, entry)?;
        }
        sources.push(Source {
            view,
            prefix,
            reader,
            ended: false,
        });
    }
    printer.flush()?;
    if args.follow {
        follow(engine, &mut sources, &options, &mut printer)?;
    }
    Ok(0)
}

/// Goes on until every container has ended and all that it wrote is shown.
fn follow(engine: &Engine, sources: &mut [Source], options: &LogOptions, printer: &mut Printer) -> Result<(), Failure> {
    let watch = Inotify::new().ok();
    loop {
        for source in sources.iter() {
            // A folder that is not there yet is found at the next look.
            let _ = watch
                .as_ref()
                .map(|watch| watch.watch(&engine.layout().log(&source.view.record.id)));
        }
        let mut live = false;
        for source in sources.iter_mut().filter(|source| !source.ended) {
            // The state first: what is written before the end is there when the end is seen.
            let running = match engine.inspect(&source.view.record.id.hex()) {
                Ok(view) => view.status.is_live(),
                Err(error) if error.is_no_container() => false,
                Err(error) => return Err(error.into()),
            };
            while let Some(entry) = source.reader.next_entry()? {
                if logs::fits(&entry, options) {
                    printer.show(&source.prefix, &entry)?;
                }
            }
            source.ended = !running;
            live |= running;
        }
        printer.flush()?;
        if !live || options.until.is_some_and(|until| time::now() > until) {
            return Ok(());
        }
        match &watch {
            Some(watch) => {
                socket::wait_readable(watch.as_fd(), LOOK)?;
                watch.drain()?;
            }
            None => std::thread::sleep(LOOK / 5),
        }
    }
}

/// Writes entries to the stream that they came from.
struct Printer {
    timestamps: bool,
    /// Stream and prefix of a line that goes on.
    open: Option<(Stream, String)>,
}

impl Printer {
    fn show(&mut self, prefix: &str, entry: &Entry) -> io::Result<()> {
        let mut line = Vec::with_capacity(entry.text.len() + 48);
        let goes_on = self
            .open
            .as_ref()
            .is_some_and(|(stream, before)| *stream == entry.stream && before == prefix);
        if !goes_on {
            line.extend_from_slice(prefix.as_bytes());
            if self.timestamps {
                line.extend_from_slice(entry.time.as_bytes());
                line.push(b' ');
            }
        }
        line.extend_from_slice(&entry.text);
        if entry.whole {
            line.push(b'\n');
        }
        self.open = (!entry.whole).then(|| (entry.stream, prefix.to_owned()));
        match entry.stream {
            Stream::Stdout => io::stdout().lock().write_all(&line),
            Stream::Stderr => io::stderr().lock().write_all(&line),
        }
    }

    fn flush(&self) -> io::Result<()> {
        io::stdout().lock().flush()
    }
}

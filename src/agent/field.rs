//! What commands over MQTT look at and do beside deployments, each on a thread of its own.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::{daemon, explain};
use crate::deploy::engine::prune;
use crate::deploy::hands::{Cancel, LABEL_APP};
use crate::engine::Engine;
use crate::engine::filter::Filter;
use crate::engine::logs::{self, Entry, LogOptions, LogReader, Stream};
use crate::engine::view::ContainerView;
use crate::plan::order::{Lease, Order};
use crate::sys::footprint::meminfo;
use crate::types::deployment::{Cause, Reason};

/// Wait between two looks at what is followed.
const LOOK: Duration = Duration::from_millis(250);
/// Bytes of one message of a log.
const PIECE_BYTES: usize = 16 << 10;

/// Where what is found goes: topic below the device's, and content. False when nobody takes it any more.
pub(super) type Send<'a> = dyn Fn(&str, Vec<u8>) -> bool + 'a;

/// How it ended: what there is to say.
pub(super) type Told = Result<Option<String>, Cause>;

/// Carries an order out; those that only the deployer can are not its business.
pub(super) fn carry_out(engine: &Engine, order: &Order, stop: &Cancel, send: &Send<'_>) -> Told {
    match order {
        Order::Explain(app) => explain_apps(engine, app.as_deref()),
        Order::Collect => collect(engine),
        Order::Probe(app) => probe(engine, app),
        Order::Logs { app, tail, lease } => follow(engine, app, *tail, lease, stop, send),
        Order::Metrics { every, lease } => {
            let every = every.duration();
            metrics(engine, every, lease, stop, send)
        }
        Order::UpdateAgent { source, .. } => {
            let reference = engine
                .resolve(source)
                .map_err(internal)?
                .sure(source)
                .map_err(internal)?;
            let fetched = super::renewal::fetch(engine, &reference);
            fetched
                .map(|()| None)
                .map_err(|error| Cause::new(Reason::Net, error.to_string()))
        }
        Order::Restart(_) | Order::Retry(_) | Order::Rollback(_) | Order::Unlock(_) => Ok(None),
    }
}

fn internal(error: impl std::fmt::Display) -> Cause {
    Cause::new(Reason::Internal, error.to_string())
}

fn unknown(app: &str) -> Cause {
    Cause::new(Reason::Schema, format!("no app `{app}` runs here"))
}

fn explain_apps(engine: &Engine, app: Option<&str>) -> Told {
    let mut stories = explain::gather(engine, true).map_err(internal)?;
    if let Some(app) = app {
        stories.retain(|story| story.name == app);
        if stories.is_empty() {
            return Err(unknown(app));
        }
    }
    let apps: Vec<Value> = stories.iter().map(explain::Story::to_json).collect();
    Ok(Some(Value::from(apps).to_string()))
}

fn collect(engine: &Engine) -> Told {
    let (pruned, done) = prune(engine).map_err(|failure| failure.cause)?;
    done.map_err(|failure| failure.cause)?;
    let text = json!({ "images": pruned.images.len(), "bytes": pruned.bytes });
    Ok(Some(text.to_string()))
}

/// The container of an app that runs, else its newest.
fn container(engine: &Engine, app: &str) -> Result<ContainerView, Cause> {
    let views = engine
        .list(&Filter::label(LABEL_APP, app), daemon::unix())
        .map_err(internal)?;
    let newest = views
        .into_iter()
        .max_by_key(|view| (view.status.is_live(), view.record.created));
    newest.ok_or_else(|| unknown(app))
}

fn probe(engine: &Engine, app: &str) -> Told {
    let view = container(engine, app)?;
    let probes = match engine.monitor_status(&view) {
        Ok(report) => report.probes,
        Err(_) => Vec::new(),
    };
    let probes: Vec<Value> = probes
        .iter()
        .map(|one| {
            json!({
                "at": one.began.rfc3339(),
                "code": one.code,
                "output": one.output,
            })
        })
        .collect();
    let value = json!({
        "container": view.record.id.hex(),
        "status": view.status.as_str(),
        "health": view.health.as_str(),
        "failing_streak": view.failing_streak,
        "probes": probes,
    });
    Ok(Some(value.to_string()))
}

/// What a lease has left.
struct Left {
    until: Instant,
    bytes: u64,
}

impl Left {
    fn new(lease: &Lease) -> Left {
        Left {
            until: Instant::now() + lease.time.duration(),
            bytes: lease.bytes,
        }
    }

    /// Waits; false when the time has come or somebody has stopped it.
    fn wait(&self, time: Duration, stop: &Cancel) -> bool {
        let end = Instant::now() + time;
        loop {
            let now = Instant::now();
            if stop.is_cancelled() || now >= self.until {
                return false;
            }
            if now >= end {
                return true;
            }
            std::thread::sleep((end - now).min(LOOK));
        }
    }
}

/// A log that is followed over restarts and updates of its app.
struct Tail {
    dir: PathBuf,
    reader: LogReader,
}

fn follow(engine: &Engine, app: &str, tail: usize, lease: &Lease, stop: &Cancel, send: &Send<'_>) -> Told {
    let mut left = Left::new(lease);
    let dir = engine.layout().log(&container(engine, app)?.record.id);
    let options = LogOptions {
        tail: Some(tail),
        ..LogOptions::default()
    };
    let (entries, reader) = logs::read(&dir, &options).map_err(internal)?;
    let mut source = Tail { dir, reader };
    let leaf = format!("log/{app}");
    let (mut lines, mut bytes) = (0_u64, 0_u64);
    let mut piece = Vec::new();
    let mut entries = entries.into_iter();
    loop {
        let next = match entries.next() {
            Some(entry) => Some(entry),
            None => source.reader.next_entry().map_err(internal)?,
        };
        let full = next
            .as_ref()
            .is_some_and(|one| piece.len() + one.text.len() + 64 > PIECE_BYTES);
        if !piece.is_empty() && (full || next.is_none()) {
            bytes += piece.len() as u64;
            if !send(&leaf, std::mem::take(&mut piece)) {
                break;
            }
        }
        match next {
            Some(entry) => {
                let length = write(&mut piece, &entry);
                lines += 1;
                left.bytes = left.bytes.saturating_sub(length);
                if left.bytes == 0 {
                    bytes += piece.len() as u64;
                    send(&leaf, std::mem::take(&mut piece));
                    break;
                }
            }
            None if !left.wait(LOOK, stop) => break,
            None => {
                // An update brings another container, with a log of its own.
                let dir = container(engine, app).map(|view| engine.layout().log(&view.record.id));
                if let Ok(dir) = dir
                    && dir != source.dir
                {
                    let reader = LogReader::open(&dir).map_err(internal)?;
                    source = Tail { dir, reader };
                }
            }
        }
    }
    Ok(Some(json!({ "lines": lines, "bytes": bytes }).to_string()))
}

/// `TIME STREAM TEXT` as a line, cut where it is longer than a message.
fn write(piece: &mut Vec<u8>, entry: &Entry) -> u64 {
    let before = piece.len();
    let word = match entry.stream {
        Stream::Stdout => " stdout ",
        Stream::Stderr => " stderr ",
    };
    piece.extend_from_slice(entry.time.as_bytes());
    piece.extend_from_slice(word.as_bytes());
    piece.extend_from_slice(&entry.text[..entry.text.len().min(PIECE_BYTES)]);
    piece.push(b'\n');
    (piece.len() - before) as u64
}

fn metrics(engine: &Engine, every: Duration, lease: &Lease, stop: &Cancel, send: &Send<'_>) -> Told {
    let mut left = Left::new(lease);
    let mut count = 0_u64;
    loop {
        let text = measure(engine)?.to_string();
        left.bytes = left.bytes.saturating_sub(text.len() as u64);
        count += 1;
        if !send("metrics", text.into_bytes()) || left.bytes == 0 || !left.wait(every, stop) {
            break;
        }
    }
    Ok(Some(json!({ "count": count }).to_string()))
}

/// What the device and its apps use.
fn measure(engine: &Engine) -> Result<Value, Cause> {
    let views = engine.list(&Filter::default(), daemon::unix()).map_err(internal)?;
    let mut apps = Map::new();
    for view in views.iter().filter(|view| view.status.is_live()) {
        let Some(app) = view.record.spec.labels.get(LABEL_APP) else {
            continue;
        };
        let stats = engine.stats(view).unwrap_or_default();
        let value = json!({
            "cpu_us": stats.cpu_us,
            "memory": stats.memory,
            "memory_limit": stats.memory_limit,
            "pids": stats.pids,
            "io_read": stats.io_read,
            "io_written": stats.io_write,
            "restarts": view.restarts,
        });
        apps.insert(app.clone(), value);
    }
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let words = |text: String| -> Vec<f64> { text.split(' ').filter_map(|word| word.parse().ok()).collect() };
    Ok(json!({
        "at": daemon::unix().rfc3339(),
        "uptime": words(text("/proc/uptime")).first(),
        "load": words(text("/proc/loadavg")).first(),
        "memory_total": meminfo("MemTotal"),
        "memory_available": meminfo("MemAvailable"),
        "disk_free": engine.store().free().ok(),
        "apps": apps,
    }))
}

//! diff, image diff.

use super::super::args::DiffArgs;
use super::super::failure::Failure;
use super::super::{listing, table};
use super::print;
use crate::engine::Engine;
use serde_json::{Value, json};

/// Text that is written at once.
const CHUNK: usize = 32 << 10;

pub fn diff(engine: &Engine, args: &DiffArgs) -> Result<u8, Failure> {
    let json = listing::wants_json(args.format.as_deref())?;
    let (name, than) = (&args.names[0], args.names.get(1).map(String::as_str));
    let mut sets = json!({});
    let (mut text, mut written) = (String::new(), Ok(()));
    engine.diff(name, than, args.image, &mut |change| {
        if json {
            let set = match change.kind {
                'A' => "added",
                'C' => "changed",
                _ => "deleted",
            };
            match &mut sets[set] {
                Value::Array(paths) => paths.push(change.path.into()),
                none => *none = json!([change.path]),
            }
            return;
        }
        text.push_str(&format!("{} {}\n", change.kind, table::printable(&change.path)));
        if text.len() > CHUNK && written.is_ok() {
            written = print(&text);
            text.clear();
        }
    })?;
    written?;
    print(&if json { listing::json(&sets) } else { text })?;
    Ok(0)
}

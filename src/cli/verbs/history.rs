//! history: how an image was made, step by step.

use super::super::args::HistoryArgs;
use super::super::failure::Failure;
use super::super::listing::Listing;
use super::super::{human, time};
use super::print;
use crate::engine::{Engine, EngineError};
use crate::store::ImageRecord;
use crate::types::time::Unix;
use serde_json::json;

/// Characters of a command that are shown.
const COMMAND_SHOWN: usize = 45;

pub fn history(engine: &Engine, args: &HistoryArgs) -> Result<u8, Failure> {
    let image = engine.image(&args.image)?;
    let steps = steps(engine, &image)?;
    let ids = |step: &Step| match (&step.id, args.no_trunc) {
        (Some(_), true) => image.id.hex(),
        (Some(_), false) => image.id.short(),
        (None, _) => "<missing>".to_owned(),
    };
    if args.quiet {
        print(&steps.iter().map(|step| ids(step) + "\n").collect::<String>())?;
        return Ok(0);
    }
    let human = args.human.unwrap_or(true);
    let now = time::now();
    let row = |step: &Step| {
        json!({
            "ID": ids(step),
            "Created": match (human, step.created) {
                (true, Some(at)) => time::ago(at, now),
                (true, None) => String::new(),
                (false, at) => time::rfc3339(at),
            },
            "CreatedSince": step.created.map(|at| time::ago(at, now)).unwrap_or_default(),
            "CreatedAt": time::rfc3339(step.created),
            "CreatedBy": if args.no_trunc { step.by.clone() } else { short(&step.by) },
            "Size": if human { human::size(step.size) } else { step.size.to_string() },
            "Comment": step.comment,
            "Tags": step.tags,
        })
    };
    let full = |step: &Step| {
        json!({
            "id": step.id.clone().unwrap_or_else(|| "<missing>".to_owned()),
            "created": time::rfc3339(step.created),
            "CreatedBy": step.by,
            "size": step.size,
            "comment": step.comment,
            "tags": step.tags,
        })
    };
    let listing = Listing {
        columns: vec![
            ("ID", "ID"),
            ("CREATED", "Created"),
            ("CREATED BY", "CreatedBy"),
            ("SIZE", "Size"),
            ("COMMENT", "Comment"),
        ],
        headers: &[],
        rows: steps.iter().map(row).collect(),
        json: steps.iter().map(full).collect(),
    };
    print(&listing.render(args.format.as_deref(), false)?)?;
    Ok(0)
}

struct Step {
    /// Of the image that it ends in, when that is known.
    id: Option<String>,
    created: Option<Unix>,
    by: String,
    size: u64,
    comment: String,
    tags: Vec<String>,
}

/// The last step first. Layers that the history does not speak of are steps, too.
fn steps(engine: &Engine, image: &ImageRecord) -> Result<Vec<Step>, Failure> {
    let store = engine.store();
    let config = store.config(image).map_err(EngineError::from)?;
    let mut layers = image.layers.iter();
    let mut next_size = || -> Result<Option<u64>, Failure> {
        let Some(layer) = layers.next() else { return Ok(None) };
        let record = store.layer(&layer.key).map_err(EngineError::from)?;
        Ok(Some(record.map_or(0, |record| store.archive_size(&record))))
    };
    let mut steps = Vec::new();
    for entry in config.history.unwrap_or_default() {
        let size = match entry.empty_layer {
            Some(true) => 0,
            _ => next_size()?.unwrap_or(0),
        };
        let by = entry.created_by.unwrap_or_default();
        steps.push(Step {
            id: None,
            created: entry.created.as_deref().and_then(Unix::parse_rfc3339),
            by: by.replace(['\t', '\n'], " "),
            size,
            comment: entry.comment.unwrap_or_default(),
            tags: Vec::new(),
        });
    }
    while let Some(size) = next_size()? {
        steps.push(Step {
            id: None,
            created: None,
            by: String::new(),
            size,
            comment: String::new(),
            tags: Vec::new(),
        });
    }
    if let Some(last) = steps.last_mut() {
        last.id = Some(image.id.hex());
        last.tags = image.names.iter().map(ToString::to_string).collect();
    }
    steps.reverse();
    Ok(steps)
}

fn short(command: &str) -> String {
    if command.chars().count() <= COMMAND_SHOWN {
        return command.to_owned();
    }
    command.chars().take(COMMAND_SHOWN - 3).chain("...".chars()).collect()
}

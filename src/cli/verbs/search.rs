//! search: the repositories of registries, where these tell.

use super::super::args::SearchArgs;
use super::super::failure::{Failure, say};
use super::super::listing::Listing;
use super::print;
use super::pull::reach;
use crate::engine::{Engine, EngineError};
use crate::registry::Found;
use crate::types::reference::is_host;
use serde_json::{Value, json};

/// Letters of a description that are shown, as podman has it.
const DESCRIPTION: usize = 44;

pub fn search(engine: &Engine, args: &SearchArgs) -> Result<u8, Failure> {
    let term = args.term.strip_prefix("docker://").unwrap_or(&args.term);
    let reach = reach(None, &args.registry);
    if args.list_tags {
        let reference = engine.resolve(term)?.sure(term).map_err(EngineError::from)?;
        let tags = engine.remote(&reference, &reach)?.tags()?;
        let row = |tag: String| json!({"Name": reference.name(), "Tag": tag});
        let rows = tags.into_iter().take(args.limit).map(row).collect();
        return show(vec![("NAME", "Name"), ("TAG", "Tag")], rows, args);
    }
    let (registries, text) = match term.split_once('/') {
        Some((registry, text)) if is_host(registry) => (vec![registry.to_owned()], text),
        _ => (engine.registries()?.search().to_vec(), term),
    };
    let filters = args
        .filter
        .iter()
        .map(|text| Filter::parse(text))
        .collect::<Result<Vec<_>, _>>()?;
    if registries.is_empty() {
        return Err(Failure::new(format!(
            "`{term}` names no registry, and `unqualified-search-registries` in registries.conf lists none: write REGISTRY/{term}"
        )));
    }
    let mut rows = Vec::new();
    let mut failed = Vec::new();
    for registry in &registries {
        match engine.search(registry, text, args.limit, &reach) {
            Ok(found) => rows.extend(
                found
                    .into_iter()
                    .filter(|one| filters.iter().all(|filter| filter.fits(one)))
                    .map(|one| row(registry, one, args.no_trunc)),
            ),
            Err(error) => failed.push(error),
        }
    }
    match failed.pop() {
        Some(error) if failed.len() + 1 == registries.len() => Err(error.into()),
        last => {
            for error in failed.into_iter().chain(last) {
                say(&format!("warning: {error}"));
            }
            show(vec![("NAME", "Name"), ("DESCRIPTION", "Description")], rows, args)
        }
    }
}

fn row(registry: &str, one: Found, whole: bool) -> Value {
    let mark = |yes| if yes { "[OK]" } else { "" };
    let mut description = one.description;
    if !whole && let Some((end, _)) = description.char_indices().nth(DESCRIPTION) {
        description.truncate(end);
        description.push_str("...");
    }
    json!({
        "Index": registry,
        "Name": format!("{registry}/{}", one.name),
        "Description": description,
        "Stars": one.stars,
        "Official": mark(one.official),
        "Automated": mark(one.automated),
    })
}

/// What is asked of a repository beside its name.
enum Filter {
    Stars(u64),
    Official(bool),
    Automated(bool),
}

impl Filter {
    fn parse(text: &str) -> Result<Filter, Failure> {
        let wrong = || {
            let known = "stars=NUMBER, is-official=true or is-automated=true";
            Failure::new(format!("invalid filter `{text}`: use {known}"))
        };
        let (key, value) = text.split_once('=').unwrap_or((text, "true"));
        Ok(match key {
            "stars" => Filter::Stars(value.parse().map_err(|_| wrong())?),
            "is-official" => Filter::Official(value.parse().map_err(|_| wrong())?),
            "is-automated" => Filter::Automated(value.parse().map_err(|_| wrong())?),
            _ => return Err(wrong()),
        })
    }

    fn fits(&self, one: &Found) -> bool {
        match self {
            Filter::Stars(least) => one.stars >= *least,
            Filter::Official(wanted) => one.official == *wanted,
            Filter::Automated(wanted) => one.automated == *wanted,
        }
    }
}

fn show(columns: Vec<(&'static str, &'static str)>, rows: Vec<Value>, args: &SearchArgs) -> Result<u8, Failure> {
    let listing = Listing {
        columns,
        headers: &[],
        json: rows.clone(),
        rows,
    };
    print(&listing.render(args.format.as_deref(), false)?)?;
    Ok(0)
}

//! search: the repositories of registries, where these tell.

use super::super::args::SearchArgs;
use super::super::failure::{Failure, say};
use super::super::listing::Listing;
use super::print;
use super::pull::reach;
use crate::engine::{Engine, EngineError};
use crate::types::reference::is_host;
use serde_json::{Value, json};

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
                    .map(|name| json!({"Index": registry, "Name": format!("{registry}/{name}"), "Description": ""})),
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

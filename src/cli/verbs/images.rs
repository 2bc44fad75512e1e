//! images and rmi.

use super::super::args::{ImagesArgs, RmiArgs};
use super::super::failure::Failure;
use super::super::listing::Listing;
use super::super::{human, time};
use super::pick::each;
use super::print;
use crate::engine::Engine;
use crate::engine::filter::point;
use crate::store::ImageRecord;
use crate::types::reference::Reference;
use crate::types::time::Unix;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub fn images(engine: &Engine, args: &ImagesArgs) -> Result<u8, Failure> {
    let now = time::now();
    let mut images = Vec::new();
    for image in engine.images()? {
        let labels = labels(engine, &image);
        if fits(engine, args, &image, &labels, now)? {
            images.push((image, labels));
        }
    }
    let mut rows: Vec<Row> = images
        .iter()
        .flat_map(|(image, _)| rows_of(image, args.image.as_deref()))
        .collect();
    match args.sort.as_str() {
        "id" => rows.sort_by_key(|row| row.image.id),
        "repository" => rows.sort_by(|a, b| a.repository.cmp(&b.repository).then_with(|| a.tag.cmp(&b.tag))),
        "size" => rows.sort_by_key(|row| row.image.size),
        "tag" => rows.sort_by(|a, b| a.tag.cmp(&b.tag)),
        _ => {}
    }
    if args.quiet {
        let mut ids: Vec<String> = Vec::new();
        for row in &rows {
            let id = if args.no_trunc {
                row.image.id.to_string()
            } else {
                row.image.id.short()
            };
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        print(&ids.into_iter().map(|id| id + "\n").collect::<String>())?;
        return Ok(0);
    }
    let mut columns = vec![("REPOSITORY", "Repository"), ("TAG", "Tag")];
    if args.digests {
        columns.push(("DIGEST", "Digest"));
    }
    columns.extend([("IMAGE ID", "ID"), ("CREATED", "CreatedSince"), ("SIZE", "Size")]);
    let users = users(engine)?;
    let listing = Listing {
        columns,
        headers: &[
            ("ID", "IMAGE ID"),
            ("Id", "IMAGE ID"),
            ("Created", "CREATED"),
            ("CreatedSince", "CREATED"),
        ],
        rows: rows.iter().map(|row| row.value(args.no_trunc, now)).collect(),
        json: images
            .iter()
            .map(|(image, labels)| full(image, labels, &users))
            .collect(),
    };
    print(&listing.render(args.format.as_deref(), args.noheading)?)?;
    Ok(0)
}

pub(super) struct Row<'a> {
    image: &'a ImageRecord,
    pub(super) repository: String,
    pub(super) tag: String,
}

/// One row per name; one of `<none>` for an image without names.
pub(super) fn rows_of<'a>(image: &'a ImageRecord, wanted: Option<&str>) -> Vec<Row<'a>> {
    let none = || "<none>".to_owned();
    let mut rows: Vec<Row<'a>> = image
        .names
        .iter()
        .filter(|name| wanted.is_none_or(|wanted| goes_by(name, wanted)))
        .map(|name| Row {
            image,
            repository: name.name(),
            tag: name.tag().map_or_else(none, str::to_owned),
        })
        .collect();
    // A name by digest alone says nothing beside one with a tag.
    if rows.iter().any(|row| row.tag != "<none>") {
        rows.retain(|row| row.tag != "<none>");
    }
    if image.names.is_empty() && wanted.is_none() {
        rows.push(Row {
            image,
            repository: none(),
            tag: none(),
        });
    }
    rows
}

impl Row<'_> {
    fn value(&self, no_trunc: bool, now: Unix) -> Value {
        let image = self.image;
        json!({
            "Repository": self.repository,
            "Tag": self.tag,
            "ID": if no_trunc { image.id.to_string() } else { image.id.short() },
            "Id": image.id.hex(),
            "Digest": image.manifest.to_string(),
            "Created": time::ago(image.created, now),
            "CreatedSince": time::ago(image.created, now),
            "CreatedAt": time::long(image.created),
            "CreatedTime": time::long(image.created),
            "Size": human::size(image.size),
            "VirtualSize": human::size(image.size),
            "Platform": image.platform.to_string(),
            "ReadOnly": false,
        })
    }
}

fn full(image: &ImageRecord, labels: &BTreeMap<String, String>, users: &BTreeMap<String, usize>) -> Value {
    let tags: Vec<String> = image
        .names
        .iter()
        .filter(|name| name.tag().is_some())
        .map(ToString::to_string)
        .collect();
    json!({
        "Id": image.id.hex(),
        "ParentId": "",
        "RepoTags": tags,
        "RepoDigests": repo_digests(image),
        "Names": image.names.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "Size": image.size,
        "VirtualSize": image.size,
        "SharedSize": 0,
        "Labels": labels,
        "Containers": users.get(&image.id.hex()).copied().unwrap_or(0),
        "Digest": image.manifest.to_string(),
        "Dangling": image.names.is_empty(),
        "Created": image.created.seconds(),
        "CreatedAt": image.created.rfc3339(),
        "Arch": image.platform.architecture,
        "Os": image.platform.os,
    })
}

/// `NAME@sha256:…` for each repository that the image goes by.
pub fn repo_digests(image: &ImageRecord) -> Vec<String> {
    let mut digests: Vec<String> = image
        .names
        .iter()
        .map(|name| format!("{}@{}", name.name(), image.manifest))
        .collect();
    digests.sort_unstable();
    digests.dedup();
    digests
}

/// How many containers use each image.
fn users(engine: &Engine) -> Result<BTreeMap<String, usize>, Failure> {
    let mut users = BTreeMap::new();
    for view in engine.list(&crate::engine::filter::Filter::default(), time::now())? {
        *users.entry(view.record.image.hex()).or_insert(0) += 1;
    }
    Ok(users)
}

fn labels(engine: &Engine, image: &ImageRecord) -> BTreeMap<String, String> {
    let config: Option<Value> = engine
        .image_config(image)
        .ok()
        .and_then(|config| serde_json::from_slice(&config).ok());
    let labels = config.and_then(|config| serde_json::from_value(config.get("config")?.get("Labels")?.clone()).ok());
    labels.unwrap_or_default()
}

fn fits(
    engine: &Engine,
    args: &ImagesArgs,
    image: &ImageRecord,
    labels: &BTreeMap<String, String>,
    now: Unix,
) -> Result<bool, Failure> {
    for text in &args.filter {
        let wrong = |reason: &str| Failure::new(format!("filter `{text}`: {reason}"));
        let (key, value) = text.split_once('=').ok_or_else(|| wrong("write KEY=VALUE"))?;
        let good = match key {
            "dangling" => image.names.is_empty() == (value == "true" || value == "1"),
            "reference" => image
                .names
                .iter()
                .any(|name| matches(value, &name.to_string()) || matches(value, &name.name()) || goes_by(name, value)),
            "label" => match value.split_once('=') {
                Some((label, value)) => labels.get(label).is_some_and(|found| found == value),
                None => labels.contains_key(value),
            },
            "id" => image.id.hex().starts_with(value.trim_start_matches("sha256:")),
            "before" => image.created < engine.image(value)?.created,
            "since" | "after" => image.created > engine.image(value)?.created,
            "until" => image.created < point(value, now).ok_or_else(|| wrong("neither a time nor a duration"))?,
            "readonly" | "intermediate" => value != "true",
            _ => {
                return Err(wrong(
                    "use before, dangling, id, label, readonly, reference, since or until",
                ));
            }
        };
        if !good {
            return Ok(false);
        }
    }
    Ok(true)
}

fn goes_by(name: &Reference, typed: &str) -> bool {
    let (full, bare) = (name.to_string(), name.name());
    [full, bare]
        .iter()
        .any(|name| name == typed || name.ends_with(&format!("/{typed}")))
}

/// Shell pattern with `*` and `?`.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

pub fn rmi(engine: &Engine, args: &RmiArgs) -> Result<u8, Failure> {
    let mut names = args.images.clone();
    if args.all {
        names.extend(engine.images()?.into_iter().map(|image| image.id.hex()));
    }
    each(&names, args.ignore, |name| {
        let removed = engine.remove_image(name, args.force || args.all)?;
        let mut text: String = removed
            .untagged
            .iter()
            .map(|name| format!("Untagged: {name}\n"))
            .collect();
        if let Some(id) = removed.deleted {
            text.push_str(&format!("Deleted: {}\n", id.hex()));
        }
        print(&text)
    })
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, text, want) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a?c", "abc", true),
            ("a?c", "abbc", false),
            ("*/web:*", "reg/web:1", true),
            ("*/web", "reg/web:1", false),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern, text), want, "{pattern} {text}");
        }
    }
}

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
use crate::types::sorted::Sorted;
use crate::types::time::Unix;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub fn images(engine: &Engine, args: &ImagesArgs) -> Result<u8, Failure> {
    let now = time::now();
    let wanted = Wanted::new(engine, &args.filter, now)?;
    let fitting = engine.images()?.into_iter().filter(|image| wanted.fits(engine, image));
    let images: Vec<_> = fitting
        .map(|image| {
            let labels = labels(engine, &image);
            (image, labels)
        })
        .collect();
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
    if args.show.quiet {
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
    print(&listing.render(args.show.format.as_deref(), args.show.noheading)?)?;
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

fn full(image: &ImageRecord, labels: &BTreeMap<String, String>, users: &Sorted<String, usize>) -> Value {
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
fn users(engine: &Engine) -> Result<Sorted<String, usize>, Failure> {
    let mut users = Sorted::new();
    for view in engine.list(&crate::engine::filter::Filter::default(), time::now())? {
        *users.or_default(view.record.image.hex()) += 1;
    }
    Ok(users)
}

fn labels(engine: &Engine, image: &ImageRecord) -> BTreeMap<String, String> {
    known_labels(engine, image).unwrap_or_default()
}

/// `None` where the configuration cannot be read.
fn known_labels(engine: &Engine, image: &ImageRecord) -> Option<BTreeMap<String, String>> {
    let config = engine.store().config(image).ok()?.config;
    Some(config.and_then(|config| config.labels).unwrap_or_default())
}

/// Conditions on images, checked when they are read.
pub struct Wanted {
    conditions: Vec<Condition>,
}

enum Condition {
    Dangling(bool),
    Reference(String),
    Label(String),
    NoLabel(String),
    Id(String),
    Before(Unix),
    Since(Unix),
    Never,
}

impl Wanted {
    /// From `--filter KEY=VALUE`; all must hold.
    pub fn new(engine: &Engine, filters: &[String], now: Unix) -> Result<Wanted, Failure> {
        let conditions = filters.iter().map(|text| condition(engine, text, now));
        Ok(Wanted {
            conditions: conditions.collect::<Result<_, _>>()?,
        })
    }

    /// Whether an image fits.
    pub fn fits(&self, engine: &Engine, image: &ImageRecord) -> bool {
        self.conditions.iter().all(|condition| match condition {
            Condition::Dangling(dangling) => image.names.is_empty() == *dangling,
            Condition::Reference(value) => image
                .names
                .iter()
                .any(|name| matches(value, &name.to_string()) || matches(value, &name.name()) || goes_by(name, value)),
            Condition::Label(label) => has_label(&labels(engine, image), label),
            Condition::NoLabel(label) => known_labels(engine, image).is_some_and(|labels| !has_label(&labels, label)),
            Condition::Id(id) => image.id.hex().starts_with(id),
            Condition::Before(at) => image.created < *at,
            Condition::Since(at) => image.created > *at,
            Condition::Never => false,
        })
    }
}

fn condition(engine: &Engine, text: &str, now: Unix) -> Result<Condition, Failure> {
    let wrong = |reason: &str| Failure::new(format!("filter `{text}`: {reason}"));
    let (key, value) = text.split_once('=').ok_or_else(|| wrong("write KEY=VALUE"))?;
    let yes = || match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(wrong("true or false")),
    };
    Ok(match key {
        "dangling" => Condition::Dangling(yes()?),
        "reference" => Condition::Reference(value.to_owned()),
        "label" => Condition::Label(value.to_owned()),
        "label!" => Condition::NoLabel(value.to_owned()),
        "id" => Condition::Id(value.trim_start_matches("sha256:").to_owned()),
        "before" => Condition::Before(engine.image(value)?.created),
        "since" | "after" => Condition::Since(engine.image(value)?.created),
        "until" => Condition::Before(point(value, now).ok_or_else(|| wrong("neither a time nor a duration"))?),
        // No image is one.
        "readonly" | "intermediate" if yes()? => Condition::Never,
        "readonly" | "intermediate" => Condition::Id(String::new()),
        _ => {
            return Err(wrong(
                "use before, dangling, id, label, readonly, reference, since or until",
            ));
        }
    })
}

fn has_label(labels: &BTreeMap<String, String>, text: &str) -> bool {
    match text.split_once('=') {
        Some((label, value)) => labels.get(label).is_some_and(|found| found == value),
        None => labels.contains_key(text),
    }
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
    each(&names, args.ignore || args.force, |name| {
        let removed = engine.remove_image(name, args.force || args.all);
        let removed = removed.map_err(Failure::of_removal)?;
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

//! image tree: the layers of an image, and which images stand on which.

use super::super::args::TreeArgs;
use super::super::failure::Failure;
use super::super::human;
use super::print;
use crate::engine::{Engine, EngineError};
use crate::store::{ImageRecord, LayerKey};
use std::collections::BTreeMap;

pub fn tree(engine: &Engine, args: &TreeArgs) -> Result<u8, Failure> {
    let image = engine.image(&args.image)?;
    let all = engine.images()?;
    let mut text = format!(
        "Image ID: {}\nTags:     {}\nSize:     {}\n",
        image.id.short(),
        names(&image),
        human::size_short(image.size)
    );
    text.push_str(if image.layers.is_empty() {
        "No Image Layers\n"
    } else {
        "Image Layers\n"
    });
    let node = if args.whatrequires {
        requires(engine, &all, &image.layers)?
    } else {
        let mut lines = Vec::new();
        for count in 1..=image.layers.len() {
            lines.push(Node {
                text: line(engine, &all, &image.layers[..count])?,
                below: Vec::new(),
            });
        }
        Node {
            text: String::new(),
            below: lines,
        }
    };
    match args.whatrequires && !image.layers.is_empty() {
        true => draw(std::slice::from_ref(&node), "", &mut text),
        false => draw(&node.below, "", &mut text),
    }
    print(&text)?;
    Ok(0)
}

struct Node {
    text: String,
    below: Vec<Node>,
}

/// A stack of layers with everything that stands on it. As deep as the images have layers.
fn requires(engine: &Engine, all: &[ImageRecord], stack: &[LayerKey]) -> Result<Node, Failure> {
    let mut next: BTreeMap<_, &[LayerKey]> = BTreeMap::new();
    for image in all {
        if image.layers.len() > stack.len() && same(&image.layers[..stack.len()], stack) {
            let higher = &image.layers[..=stack.len()];
            next.insert(image.layers[stack.len()].diff, higher);
        }
    }
    let below = next.values().map(|stack| requires(engine, all, stack));
    Ok(Node {
        text: match stack {
            [] => String::new(),
            _ => line(engine, all, stack)?,
        },
        below: below.collect::<Result<_, _>>()?,
    })
}

/// One layer with the images that it is the top of.
fn line(engine: &Engine, all: &[ImageRecord], stack: &[LayerKey]) -> Result<String, Failure> {
    let Some(top) = stack.last() else {
        return Ok(String::new());
    };
    let record = engine.store().layer(&top.key).map_err(EngineError::from)?;
    let mut text = format!(
        "ID: {} Size: {:>7}",
        top.key.short(),
        human::size_short(record.map_or(0, |record| engine.store().archive_size(&record)))
    );
    for image in all {
        if !image.names.is_empty() && same(&image.layers, stack) {
            text.push_str(&format!(" Top Layer of: {}", names(image)));
        }
    }
    Ok(text)
}

fn same(one: &[LayerKey], other: &[LayerKey]) -> bool {
    one.iter()
        .map(|layer| layer.diff)
        .eq(other.iter().map(|layer| layer.diff))
}

fn names(image: &ImageRecord) -> String {
    let names: Vec<String> = image.names.iter().map(ToString::to_string).collect();
    format!("[{}]", names.join(" "))
}

fn draw(nodes: &[Node], indent: &str, text: &mut String) {
    for (at, node) in nodes.iter().enumerate() {
        let last = at + 1 == nodes.len();
        let (branch, beside) = if last {
            ("└── ", "    ")
        } else {
            ("├── ", "│   ")
        };
        text.push_str(&format!("{indent}{branch}{}\n", node.text));
        draw(&node.below, &format!("{indent}{beside}"), text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_are_drawn_as_podman_draws_them() {
        let leaf = |text: &str| Node {
            text: text.to_owned(),
            below: Vec::new(),
        };
        let one = Node {
            text: "one".to_owned(),
            below: vec![leaf("two"), leaf("three")],
        };
        let mut text = String::new();
        draw(&[one, leaf("four")], "", &mut text);
        assert_eq!(text, "├── one\n│   ├── two\n│   └── three\n└── four\n");
    }
}

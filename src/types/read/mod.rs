//! Reads documents of JSON and TOML. Both become one tree, from which every type is made: errors name the field in the same
//! way, a key that is there twice is refused, the number of values is bounded, and the code that makes a type exists once.

mod de;
mod tree;

use serde::de::DeserializeOwned;

use super::bounds::DOCUMENT_PLACES;
use de::Problem;
use tree::Tree;

/// Bytes of a field's name that an error shows.
const PLACE_BYTES: usize = 64;

/// A document that is not of its shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", named(.field))]
pub struct Malformed {
    /// Where, as the specifications write it: `linux.resources.cpu.shares`, `mounts[2].options`. Empty for the document
    /// itself. Of a missing field it is the object that lacks it.
    pub field: String,
    /// What is wrong; with the line where that is known.
    pub problem: String,
}

fn named(field: &str) -> String {
    if field.is_empty() {
        String::new()
    } else {
        format!("`{field}`: ")
    }
}

/// Reads JSON. Fields that the type does not have are passed over, unless the type refuses them.
pub fn json<T: DeserializeOwned>(text: &[u8]) -> Result<T, Malformed> {
    T::deserialize(of_json(text)?).map_err(|problem| malformed(problem, None))
}

/// Reads JSON of any shape.
pub fn json_any(text: &[u8]) -> Result<serde_json::Value, Malformed> {
    of_json(text).map(Tree::into_value)
}

/// Reads TOML, as [`json`] does JSON.
pub fn toml<T: DeserializeOwned>(text: &str) -> Result<T, Malformed> {
    T::deserialize(of_toml(text)?).map_err(|problem| malformed(problem, Some(text)))
}

fn of_json(text: &[u8]) -> Result<Tree, Malformed> {
    tree::of_json(text).map_err(|error| Malformed {
        field: String::new(),
        problem: error.to_string(),
    })
}

fn of_toml(text: &str) -> Result<Tree, Malformed> {
    tree::of_toml(text).map_err(|(problem, at)| malformed(Problem::at(problem, at), Some(text)))
}

fn malformed(problem: Problem, text: Option<&str>) -> Malformed {
    let (places, mut message, at) = problem.into_parts();
    let mut field = String::new();
    // The outermost place was added last.
    for place in places.iter().rev().take(DOCUMENT_PLACES) {
        match place {
            de::Place::Key(key) => {
                if !field.is_empty() {
                    field.push('.');
                }
                field.extend(key.chars().scan(0, |bytes, c| {
                    *bytes += c.len_utf8();
                    (*bytes <= PLACE_BYTES).then_some(c)
                }));
            }
            de::Place::Index(index) => field += &format!("[{index}]"),
        }
    }
    if let (Some(text), Some(at)) = (text, at) {
        let before = text.as_bytes().iter().take(at);
        let line = before.filter(|byte| **byte == b'\n').count() + 1;
        message += &format!(" at line {line}");
    }
    Malformed {
        field,
        problem: message,
    }
}

#[cfg(test)]
mod tests;

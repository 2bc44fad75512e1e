//! Reads a document of JSON; an error names the field.

use serde::de::DeserializeOwned;

/// Places of a field's name that an error shows, from the outermost on, and bytes of each.
const PLACES: usize = 12;
const PLACE_BYTES: usize = 64;

/// A document that is not of its shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", named(.field))]
pub struct Malformed {
    /// Where, as the specifications write it: `linux.resources.cpu.shares`, `mounts[2].options`. Empty for the document
    /// itself. Of a missing field it is the object that lacks it.
    pub field: String,
    /// The parser's words, with line and column.
    pub problem: String,
}

fn named(field: &str) -> String {
    if field.is_empty() {
        String::new()
    } else {
        format!("`{field}`: ")
    }
}

/// Reads `text`. Fields that the type does not have are passed over, as the specifications demand.
pub fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, Malformed> {
    serde_json::from_slice(text).map_err(|error| Malformed {
        field: field_at(text, error.line(), error.column()),
        problem: error.to_string(),
    })
}

/// One open object or list.
enum Place<'a> {
    /// An object, at this key; empty between two keys.
    Key(&'a [u8]),
    /// A list, at this index.
    Index(usize),
}

/// The field that the first `line - 1` lines of `text` and `column` bytes of the next end in. Up to there it is JSON.
fn field_at(text: &[u8], line: usize, column: usize) -> String {
    let lines = text.split_inclusive(|&byte| byte == b'\n');
    let before: usize = lines.take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    let text = &text[..text.len().min(before + column)];
    let mut open = Vec::new();
    let mut word: &[u8] = b"";
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'"' => {
                let start = at + 1;
                at = start;
                while at < text.len() && text[at] != b'"' {
                    at += if text[at] == b'\\' { 2 } else { 1 };
                }
                word = &text[start..at.min(text.len())];
            }
            b'{' => open.push(Place::Key(b"")),
            b'[' => open.push(Place::Index(0)),
            b'}' | b']' => drop(open.pop()),
            b':' | b',' => match open.last_mut() {
                Some(Place::Key(key)) => *key = if text[at] == b':' { word } else { b"" },
                Some(Place::Index(index)) => *index += 1,
                None => {}
            },
            _ => {}
        }
        at += 1;
    }
    let mut field = String::new();
    for place in open.iter().take(PLACES) {
        match place {
            Place::Key(b"") => {}
            Place::Key(key) => {
                if !field.is_empty() {
                    field.push('.');
                }
                field += &String::from_utf8_lossy(&key[..key.len().min(PLACE_BYTES)]);
            }
            Place::Index(index) => field += &format!("[{index}]"),
        }
    }
    field
}

#[cfg(test)]
mod tests {
    use super::super::runtime::Spec;
    use super::*;

    #[test]
    fn errors_name_the_field() {
        let cases = [
            (r#"{"hostname":7}"#, "hostname", "expected a string"),
            (
                r#"{"root":{"path":"x"},"process":{"terminal":"yes"}}"#,
                "process.terminal",
                "expected a boolean",
            ),
            (
                "{\"mounts\": [\n {\"destination\": \"/a\"},\n {\"destination\": \"/\\\"}b\", \"options\": {}}]}",
                "mounts[1].options",
                "expected a sequence",
            ),
            (
                r#"{"process":{"user":{"uid":-1}}}"#,
                "process.user.uid",
                "invalid value",
            ),
            (
                r#"{"process":{"user":{"additionalGids":[1,2,"x"]}}}"#,
                "process.user.additionalGids[2]",
                "expected u32",
            ),
            (r#"{"annotations":{"a":"b","c":1}}"#, "annotations.c", "string"),
            (
                r#"{"linux":{"namespaces":[{"type":"user"},{"type":"moon"}]}}"#,
                "linux.namespaces[1].type",
                "unknown variant `moon`",
            ),
            (r#"{"process":{"user":{}} }"#, "process", "missing field `cwd`"),
            (r#"{"root":{},"root":{}}"#, "", "duplicate field `root`"),
            ("[]", "", "invalid"),
            ("", "", "EOF"),
        ];
        for (text, field, problem) in cases {
            let error = read::<Spec>(text.as_bytes()).expect_err(text);
            assert_eq!(error.field, field, "{text}: {error}");
            assert!(error.problem.contains(problem), "{error}");
        }
        let error = read::<Spec>(br#"{"hostname":7}"#).expect_err("a number").to_string();
        assert!(error.starts_with("`hostname`: invalid type: integer `7`"), "{error}");
    }

    #[test]
    fn names_of_fields_are_short() {
        let key = "k".repeat(1000);
        let deep = format!(r#"{{"annotations":{{"{key}":{}"#, "[".repeat(100));
        let error = read::<Spec>(deep.as_bytes()).expect_err("cut off");
        assert!(error.field.len() < 200, "{}", error.field);
    }
}

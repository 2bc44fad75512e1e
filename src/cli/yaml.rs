//! JSON values as YAML, for `info`: indented maps and lists, texts quoted where they need it.

use serde_json::Value;

/// The value as a YAML document.
pub fn render(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

fn block(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                out.push_str(&format!("{indent}{}:", scalar(&Value::from(key.as_str()))));
                nested(value, depth, out);
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut inner = String::new();
                if is_block(item) {
                    block(item, depth + 1, &mut inner);
                    out.push_str(&format!("{indent}- {}", inner.trim_start()));
                } else {
                    out.push_str(&format!("{indent}- {}\n", scalar(item)));
                }
            }
        }
        other => out.push_str(&format!("{indent}{}\n", scalar(other))),
    }
}

fn nested(value: &Value, depth: usize, out: &mut String) {
    if is_block(value) {
        out.push('\n');
        // Lists stand at the level of their key, as Go's YAML writes them.
        let deeper = if value.is_array() { depth } else { depth + 1 };
        block(value, deeper, out);
    } else {
        out.push_str(&format!(" {}\n", scalar(value)));
    }
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        Value::String(text) => serde_json::to_string(text).unwrap_or_default(),
        Value::Object(_) => "{}".to_owned(),
        Value::Array(_) => "[]".to_owned(),
        other => other.to_string(),
    }
}

/// Whether a text reads back as the same text without quotes.
fn is_plain(text: &str) -> bool {
    let first_good = text
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '/' || c == '_');
    let all_good = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || " ._-/,()=+@;'".contains(c));
    let word = matches!(
        text.to_ascii_lowercase().as_str(),
        "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n" | "nan"
    );
    first_good && all_good && !word && !text.ends_with(' ')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_become_yaml_that_reads_back() {
        let value = json!({
            "a": {"b": "text", "m": 1, "t": "true", "empty": {}, "none": null},
            "list": ["x", {"k": "v", "l": [1]}, "0.1"],
            "text": "with: colon",
        });
        let want = "a:\n  b: text\n  empty: {}\n  m: 1\n  none: null\n  t: \"true\"\nlist:\n- x\n- k: v\n  l:\n  - 1\n- \"0.1\"\ntext: \"with: colon\"\n";
        assert_eq!(render(&value), want);
    }
}

//! Lists: the default table, `--format table …`, `--format TEMPLATE`, `--format json`, `--quiet`, all from the same rows.

use super::failure::Failure;
use super::table;
use super::template::{Template, TemplateError};
use serde_json::{Map, Value};

/// A list ready to be shown.
pub struct Listing {
    /// Columns of the default table: header and field.
    pub columns: Vec<(&'static str, &'static str)>,
    /// Fields of a row that have another header than their own name in capitals.
    pub headers: &'static [(&'static str, &'static str)],
    /// What templates see, one object a row.
    pub rows: Vec<Value>,
    /// What `--format json` shows.
    pub json: Vec<Value>,
}

impl Listing {
    /// The text for stdout.
    pub fn render(&self, format: Option<&str>, noheading: bool) -> Result<String, TemplateError> {
        match format.map(str::trim) {
            None | Some("" | "table") => self.default_table(noheading),
            Some("json") => Ok(json(&Value::Array(self.json.clone()))),
            Some(format) => match format
                .strip_prefix("table")
                .filter(|rest| rest.starts_with([' ', '\t', '{']))
            {
                Some(columns) => self.table(&columns.trim_start().replace("}} {{", "}}\t{{"), noheading),
                None => self.template(format),
            },
        }
    }

    fn default_table(&self, noheading: bool) -> Result<String, TemplateError> {
        let mut text = String::new();
        if !noheading {
            let headers: Vec<&str> = self.columns.iter().map(|(header, _)| *header).collect();
            text.push_str(&headers.join("\t"));
            text.push('\n');
        }
        for row in &self.rows {
            let cells: Vec<String> = self.columns.iter().map(|(_, field)| cell(&row[*field])).collect();
            text.push_str(&cells.join("\t"));
            text.push('\n');
        }
        Ok(table::align(&text))
    }

    fn table(&self, columns: &str, noheading: bool) -> Result<String, TemplateError> {
        let template = Template::parse(columns)?;
        let mut text = String::new();
        if !noheading {
            text.push_str(template.render_lenient(&self.header_row())?.trim_end_matches('\n'));
            text.push('\n');
        }
        for row in &self.rows {
            text.push_str(template.render(row)?.trim_end_matches('\n'));
            text.push('\n');
        }
        Ok(table::align(&text))
    }

    fn template(&self, format: &str) -> Result<String, TemplateError> {
        let template = Template::parse(format)?;
        if format.starts_with("{{range") || format.starts_with("{{ range") {
            return template.render(&Value::Array(self.rows.clone()));
        }
        let mut text = String::new();
        for row in &self.rows {
            text.push_str(&template.render(row)?);
            text.push('\n');
        }
        Ok(text)
    }

    fn header_row(&self) -> Value {
        let mut headers = Map::new();
        if let Some(Value::Object(row)) = self.rows.first() {
            headers.extend(row.keys().map(|field| (field.clone(), Value::from(header(field)))));
        }
        headers.extend(
            self.columns
                .iter()
                .map(|(header, field)| ((*field).to_owned(), Value::from(*header))),
        );
        headers.extend(
            self.headers
                .iter()
                .map(|(field, header)| ((*field).to_owned(), Value::from(*header))),
        );
        Value::Object(headers)
    }
}

/// One object or a list of objects as `info`, `version` and `inspect` show them with a template.
pub fn render_object(data: &Value, format: &str) -> Result<String, TemplateError> {
    match format.trim() {
        "json" => Ok(json(data)),
        format => {
            let mut text = Template::parse(format)?.render(data)?;
            if !text.ends_with('\n') {
                text.push('\n');
            }
            Ok(text)
        }
    }
}

/// Whether `--format` asks for JSON, where that is all it may ask for.
pub fn wants_json(format: Option<&str>) -> Result<bool, Failure> {
    match format {
        None | Some("") => Ok(false),
        Some("json") => Ok(true),
        Some(other) => Err(Failure::new(format!("unknown --format argument: {other:?}: use json"))),
    }
}

/// Indented JSON with a newline at the end.
pub fn json(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        other => table::printable(&super::template::print_value(other)),
    }
}

/// `CreatedAt` → `CREATED AT`.
fn header(field: &str) -> String {
    let mut text = String::new();
    let mut before = None;
    for c in field.chars() {
        if c.is_uppercase() && before.is_some_and(char::is_lowercase) {
            text.push(' ');
        }
        text.extend(c.to_uppercase());
        before = Some(c);
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn sample() -> Listing {
        Listing {
            columns: vec![("CONTAINER ID", "ID"), ("NAMES", "Names")],
            headers: &[],
            rows: vec![
                json!({"ID": "0123456789ab", "Names": "web", "CreatedAt": "today"}),
                json!({"ID": "ba9876543210", "Names": "d\u{7}b", "CreatedAt": "now"}),
            ],
            json: vec![json!({"Id": "0123456789ab"})],
        }
    }

    #[test]
    fn every_format_comes_from_the_same_rows() {
        let listing = sample();
        for (format, want) in [
            (None, "CONTAINER ID  NAMES\n0123456789ab  web\nba9876543210  d?b\n"),
            (Some("{{.Names}}"), "web\nd\u{7}b\n"),
            (
                Some("table {{.Names}}\\t{{.CreatedAt}}"),
                "NAMES       CREATED AT\nweb         today\nd\u{7}b         now\n",
            ),
            (
                Some("table {{.ID}} {{.CreatedAt}}"),
                "CONTAINER ID  CREATED AT\n0123456789ab  today\nba9876543210  now\n",
            ),
            (Some("{{range .}}{{.ID}};{{end}}"), "0123456789ab;ba9876543210;"),
            (Some("json"), "[\n  {\n    \"Id\": \"0123456789ab\"\n  }\n]\n"),
        ] {
            assert_eq!(listing.render(format, false).unwrap(), want, "{format:?}");
        }
        assert_eq!(
            listing.render(None, true).unwrap(),
            "0123456789ab  web\nba9876543210  d?b\n"
        );
        assert!(listing.render(Some("{{.Nope}}"), false).is_err());
        assert_eq!(header("RunningFor"), "RUNNING FOR");
        assert_eq!(header("ID"), "ID");
    }
}

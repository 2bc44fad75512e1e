//! Rows of measured figures and how they are written: as lines of JSON while they come, at last as Markdown and as JSON.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::chart::Panel;

/// One figure of a row: a number with its unit, or why there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What or whose it is; empty when the row says it.
    pub label: String,
    pub value: Option<f64>,
    pub unit: String,
    /// What else is to be known of it.
    pub note: String,
}

impl Figure {
    pub fn new(label: &str, value: f64, unit: &str) -> Figure {
        Figure {
            label: label.into(),
            value: Some(value),
            unit: unit.into(),
            note: String::new(),
        }
    }

    pub fn missing(label: &str, why: &str) -> Figure {
        Figure {
            label: label.into(),
            value: None,
            unit: String::new(),
            note: why.trim().replace('\n', " "),
        }
    }

    /// A time; milliseconds.
    pub fn time(label: &str, time: Duration) -> Figure {
        Figure::new(label, time.as_secs_f64() * 1e3, "ms")
    }

    /// Millions of bytes.
    pub fn mb(label: &str, bytes: u64) -> Figure {
        Figure::new(label, bytes as f64 / 1e6, "MB")
    }

    /// Thousands of bytes.
    pub fn kb(label: &str, bytes: u64) -> Figure {
        Figure::new(label, bytes as f64 / 1e3, "KB")
    }

    pub fn ratio(label: &str, part: Duration, whole: Duration) -> Figure {
        Figure::new(label, part.as_secs_f64() / whole.as_secs_f64(), "×")
    }

    pub fn note(mut self, note: impl Into<String>) -> Figure {
        self.note = note.into();
        self
    }

    fn text(&self) -> String {
        let words = match self.value {
            Some(value) if self.note.is_empty() => [&self.label, &number(value), &self.unit].map(String::from),
            Some(value) => [
                &self.label,
                &number(value),
                format!("{} ({})", self.unit, self.note).trim(),
            ]
            .map(String::from),
            None if self.note.is_empty() => [&self.label, "", ""].map(String::from),
            None if self.label.is_empty() => ["", "not measured:", &self.note].map(String::from),
            None => [&format!("{}:", self.label), "not measured:", &self.note].map(String::from),
        };
        let words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
        words.join(" ")
    }
}

/// Three digits that count; whole numbers from a hundred on.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub row: String,
    pub what: String,
    pub budget: String,
    pub measured: Vec<Figure>,
}

impl Row {
    /// All figures in words.
    pub fn text(&self) -> String {
        let all: Vec<String> = self.measured.iter().map(Figure::text).collect();
        all.join("; ")
    }

    /// For rows in the order of their numbers.
    fn number(&self) -> u32 {
        let digits = self.row.trim_start_matches(|c: char| !c.is_ascii_digit());
        let digits: String = digits.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or(u32::MAX)
    }
}

/// What a group tells, one to a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    Row(Row),
    Panel(Panel),
    /// The group came to its end; else why not.
    Ended(Result<(), String>),
}

/// All that was measured, while it comes.
#[derive(Default)]
pub struct Table {
    pub rows: Vec<Row>,
    pub panels: Vec<Panel>,
    /// Each is also printed as a line of JSON, for who started this process.
    pub lines: bool,
}

impl Table {
    /// Adds a row.
    pub fn row(&mut self, row: &str, what: &str, budget: &str, measured: Vec<Figure>) {
        self.add(Line::Row(Row {
            row: row.into(),
            what: what.into(),
            budget: budget.into(),
            measured,
        }));
    }

    /// A row of one figure, or of the reason why there is none.
    pub fn one(&mut self, row: &str, what: &str, budget: &str, measured: Result<Figure, String>) {
        let figure = measured.unwrap_or_else(|why| Figure::missing("", &why));
        self.row(row, what, budget, vec![figure]);
    }

    /// A row that could not be measured.
    pub fn missing(&mut self, row: &str, what: &str, why: &str) {
        self.row(row, what, "", vec![Figure::missing("", why)]);
    }

    pub fn add(&mut self, line: Line) {
        if let Line::Row(row) = &line {
            eprintln!("{} {}: {}", row.row, row.what, row.text());
        }
        if self.lines {
            println!("{}", serde_json::to_string(&line).expect("plain values"));
        }
        self.keep(line);
    }

    /// Adds what was told already.
    pub fn keep(&mut self, line: Line) {
        match line {
            Line::Row(row) => self.rows.push(row),
            Line::Panel(panel) => self.panels.push(panel),
            Line::Ended(_) => {}
        }
    }

    /// The rows by their numbers, those of one number as they came.
    pub fn sort(&mut self) {
        self.rows.sort_by_key(Row::number);
    }

    pub fn markdown(&self) -> String {
        let mut text = "| row | what | budget | measured |\n|---|---|---|---|\n".to_owned();
        for row in &self.rows {
            let cells = [&row.row, &row.what, &row.budget, &row.text()].map(|cell| cell.replace('|', "\\|"));
            text += &format!("| {} |\n", cells.join(" | "));
        }
        text
    }
}

/// A file of results in the order in which it is written.
pub struct Results<'a> {
    /// What is to be known of the machine and the moment.
    pub head: &'a [(String, String)],
    pub rows: &'a [Row],
    pub growth: &'a [Panel],
}

impl Results<'_> {
    pub fn markdown(&self) -> String {
        let mut text = "# What `tests/bench/run all` measured\n\n".to_owned();
        for (name, value) in self.head {
            text += &format!("- {name}: {value}\n");
        }
        let table = Table {
            rows: self.rows.to_vec(),
            ..Table::default()
        };
        text += &format!("\n{}", table.markdown());
        if !self.growth.is_empty() {
            text += "\n![growth](growth.svg)\n";
        }
        text
    }

    /// `head` as an object, whose order is kept.
    pub fn json(&self) -> String {
        let head: Vec<String> = self
            .head
            .iter()
            .map(|(name, value)| format!("    {}: {}", quoted(name), quoted(value)))
            .collect();
        format!(
            "{{\n  \"head\": {{\n{}\n  }},\n  \"rows\": [\n{}\n  ],\n  \"growth\": [\n{}\n  ]\n}}\n",
            head.join(",\n"),
            lines(self.rows),
            lines(self.growth)
        )
    }
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text")
}

/// One to a line, so that two runs can be compared.
fn lines<T: Serialize>(all: &[T]) -> String {
    let line = |one: &T| format!("    {}", serde_json::to_string(one).expect("plain values"));
    all.iter().map(line).collect::<Vec<_>>().join(",\n")
}

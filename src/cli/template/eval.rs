//! Nodes over data → text, with Go's way of printing values.
//!
//! Functions: `json join split lower upper title trim pad truncate len index slice print printf println eq ne lt le gt ge
//! and or not`.

use super::TemplateError;
use super::parse::{Node, Operand, Pipe};
use serde_json::Value;
use std::cmp::Ordering;

const FUNCTIONS: [&str; 24] = [
    "json", "join", "split", "lower", "upper", "title", "trim", "pad", "truncate", "len", "index", "slice", "print",
    "printf", "println", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not",
];

/// Fields whose value is a map of free keys: a key that is missing there prints `<no value>` as in Go.
const MAPS: [&str; 6] = ["Labels", "Annotations", "Options", "Sysctls", "Networks", "Tmpfs"];

/// Longest output of one template, bytes: a loop over hostile data ends here.
const OUTPUT_MAX: usize = 16 << 20;

const NO_VALUE: &str = "<no value>";

/// Whether a template may call `name`.
pub(super) fn is_function(name: &str) -> bool {
    FUNCTIONS.contains(&name)
}

pub(super) fn render(nodes: &[Node], data: &Value, lenient: bool) -> Result<String, TemplateError> {
    let mut scope = Scope {
        variables: vec![(String::new(), data.clone())],
        lenient,
        out: String::new(),
    };
    scope.nodes(nodes, data)?;
    Ok(scope.out)
}

/// A value as Go's `%v` prints it.
pub fn print_value(value: &Value) -> String {
    match value {
        Value::Null => NO_VALUE.to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(print_inner).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let items: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{key}:{}", print_inner(value)))
                .collect();
            format!("map[{}]", items.join(" "))
        }
    }
}

fn print_inner(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        other => print_value(other),
    }
}

fn fault(text: impl Into<String>) -> TemplateError {
    TemplateError::Eval(text.into())
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

struct Scope {
    variables: Vec<(String, Value)>,
    lenient: bool,
    out: String,
}

impl Scope {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<(), TemplateError> {
        let mark = self.variables.len();
        for node in nodes {
            self.node(node, dot)?;
            if self.out.len() > OUTPUT_MAX {
                return Err(fault(format!("the output is longer than {OUTPUT_MAX} bytes")));
            }
        }
        self.variables.truncate(mark);
        Ok(())
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<(), TemplateError> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Action(pipe) => {
                let value = self.pipe(pipe, dot)?;
                match pipe.declares.first() {
                    Some(name) => self.variables.push((name.clone(), value)),
                    None => self.out.push_str(&print_value(&value)),
                }
            }
            Node::If(pipe, body, otherwise) => {
                let mark = self.variables.len();
                let value = self.declared(pipe, dot)?;
                self.nodes(if truth(&value) { body } else { otherwise }, dot)?;
                self.variables.truncate(mark);
            }
            Node::With(pipe, body, otherwise) => {
                let mark = self.variables.len();
                let value = self.declared(pipe, dot)?;
                if truth(&value) {
                    self.nodes(body, &value)?;
                } else {
                    self.nodes(otherwise, dot)?;
                }
                self.variables.truncate(mark);
            }
            Node::Range(pipe, body, otherwise) => self.range(pipe, body, otherwise, dot)?,
        }
        Ok(())
    }

    fn declared(&mut self, pipe: &Pipe, dot: &Value) -> Result<Value, TemplateError> {
        let value = self.pipe(pipe, dot)?;
        if let Some(name) = pipe.declares.first() {
            self.variables.push((name.clone(), value.clone()));
        }
        Ok(value)
    }

    fn range(&mut self, pipe: &Pipe, body: &[Node], otherwise: &[Node], dot: &Value) -> Result<(), TemplateError> {
        let pairs: Vec<(Value, Value)> = match self.pipe(pipe, dot)? {
            Value::Array(items) => items
                .into_iter()
                .enumerate()
                .map(|(at, item)| (Value::from(at), item))
                .collect(),
            Value::Object(map) => map.into_iter().map(|(key, item)| (Value::from(key), item)).collect(),
            Value::Null => Vec::new(),
            // A table's header stands for a whole list.
            other if self.lenient => vec![(Value::from(0), other)],
            other => return Err(fault(format!("range can't iterate over `{}`", print_value(&other)))),
        };
        if pairs.is_empty() {
            return self.nodes(otherwise, dot);
        }
        let mark = self.variables.len();
        for (key, item) in pairs {
            match pipe.declares.as_slice() {
                [one] => self.variables.push((one.clone(), item.clone())),
                [first, second] => {
                    self.variables.push((first.clone(), key));
                    self.variables.push((second.clone(), item.clone()));
                }
                _ => {}
            }
            self.nodes(body, &item)?;
            self.variables.truncate(mark);
        }
        Ok(())
    }

    fn pipe(&mut self, pipe: &Pipe, dot: &Value) -> Result<Value, TemplateError> {
        let mut carried: Option<Value> = None;
        for command in &pipe.commands {
            carried = Some(self.command(command, dot, carried)?);
        }
        Ok(carried.unwrap_or(Value::Null))
    }

    fn command(&mut self, words: &[Operand], dot: &Value, carried: Option<Value>) -> Result<Value, TemplateError> {
        let (first, rest) = words.split_first().ok_or_else(|| fault("an empty command"))?;
        if let Operand::Function(name) = first {
            let mut arguments = Vec::with_capacity(rest.len() + 1);
            for word in rest {
                arguments.push(self.operand(word, dot)?);
            }
            arguments.extend(carried);
            return call(name, &arguments);
        }
        if !rest.is_empty() || carried.is_some() {
            return Err(fault("a value is not a function and takes no arguments"));
        }
        self.operand(first, dot)
    }

    fn operand(&mut self, word: &Operand, dot: &Value) -> Result<Value, TemplateError> {
        match word {
            Operand::Dot(path) => self.walk(dot, path),
            Operand::Variable(name, path) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                let value = found.map(|(_, value)| value.clone());
                let value = value.ok_or_else(|| fault(format!("variable `${name}` is not defined")))?;
                self.walk(&value, path)
            }
            Operand::Text(text) => Ok(Value::from(text.as_str())),
            Operand::Number(number) => Ok(Value::Number(number.clone())),
            Operand::Bool(flag) => Ok(Value::Bool(*flag)),
            Operand::Nil => Ok(Value::Null),
            Operand::Function(name) => call(name, &[]),
            Operand::Group(pipe, path) => {
                let value = self.pipe(pipe, dot)?;
                self.walk(&value, path)
            }
        }
    }

    fn walk(&self, from: &Value, path: &[String]) -> Result<Value, TemplateError> {
        let mut value = from;
        let mut in_map = false;
        for name in path {
            let found = match value {
                Value::Object(map) => map.get(name).or_else(|| {
                    map.iter()
                        .find(|(key, _)| key.eq_ignore_ascii_case(name))
                        .map(|(_, value)| value)
                }),
                _ => None,
            };
            value = match found {
                Some(found) => found,
                None if self.lenient || in_map || value.is_null() => return Ok(Value::Null),
                None => return Err(fault(format!("can't evaluate field `{name}`: there is none"))),
            };
            in_map = MAPS.contains(&name.as_str());
        }
        Ok(value.clone())
    }
}

fn call(name: &str, arguments: &[Value]) -> Result<Value, TemplateError> {
    let wrong = |count: &str| fault(format!("`{name}` takes {count}"));
    let one = || {
        arguments
            .first()
            .filter(|_| arguments.len() == 1)
            .ok_or_else(|| wrong("one argument"))
    };
    let text = |at: usize| arguments.get(at).map(print_value).unwrap_or_default();
    Ok(match name {
        "json" => Value::from(serde_json::to_string(one()?).map_err(|error| fault(error.to_string()))?),
        "lower" => Value::from(print_value(one()?).to_lowercase()),
        "upper" => Value::from(print_value(one()?).to_uppercase()),
        "title" => Value::from(title(&print_value(one()?))),
        "trim" => Value::from(print_value(one()?).trim()),
        "print" => Value::from(arguments.iter().map(print_value).collect::<Vec<_>>().join(" ")),
        "println" => Value::from(arguments.iter().map(print_value).collect::<Vec<_>>().join(" ") + "\n"),
        "printf" => Value::from(printf(&text(0), arguments.get(1..).unwrap_or_default())),
        "len" => Value::from(length(one()?).ok_or_else(|| wrong("a list, a map or a string"))?),
        "join" => match arguments {
            [Value::Array(items), by] => {
                Value::from(items.iter().map(print_value).collect::<Vec<_>>().join(&print_value(by)))
            }
            [Value::Null, _] => Value::from(""),
            [Value::String(header), _] => Value::from(header.as_str()),
            _ => return Err(wrong("a list and a separator")),
        },
        "split" if arguments.len() == 2 => text(0).split(&text(1)).map(Value::from).collect(),
        "pad" if arguments.len() == 3 => {
            let side =
                |at: usize| " ".repeat(arguments.get(at).and_then(Value::as_u64).unwrap_or(0).min(1000) as usize);
            Value::from(format!("{}{}{}", side(1), text(0), side(2)))
        }
        "truncate" if arguments.len() == 2 => {
            let keep = arguments.get(1).and_then(Value::as_u64).unwrap_or(0) as usize;
            Value::from(text(0).chars().take(keep).collect::<String>())
        }
        "index" => {
            let (from, keys) = arguments.split_first().ok_or_else(|| wrong("a value and keys"))?;
            keys.iter().try_fold(from.clone(), |value, key| index(&value, key))?
        }
        "slice" => slice(arguments).ok_or_else(|| wrong("a list or string and bounds inside it"))?,
        "eq" if arguments.len() >= 2 => {
            let first = &arguments[0];
            Value::Bool(
                arguments[1..]
                    .iter()
                    .any(|other| compare(first, other) == Some(Ordering::Equal)),
            )
        }
        "ne" | "lt" | "le" | "gt" | "ge" if arguments.len() == 2 => {
            let order = compare(&arguments[0], &arguments[1]);
            if name == "ne" {
                Value::Bool(order != Some(Ordering::Equal))
            } else {
                let order = order.ok_or_else(|| fault("incompatible types for comparison"))?;
                Value::Bool(match name {
                    "lt" => order.is_lt(),
                    "le" => order.is_le(),
                    "gt" => order.is_gt(),
                    _ => order.is_ge(),
                })
            }
        }
        "and" | "or" if !arguments.is_empty() => {
            let stop = name == "or";
            let found = arguments.iter().find(|value| truth(value) == stop).or(arguments.last());
            found.cloned().unwrap_or(Value::Null)
        }
        "not" => Value::Bool(!truth(one()?)),
        _ => return Err(wrong("other arguments")),
    })
}

fn title(text: &str) -> String {
    let mut start = true;
    text.chars()
        .map(|c| {
            let out = if start { c.to_ascii_uppercase() } else { c };
            start = !c.is_alphanumeric();
            out
        })
        .collect()
}

fn length(value: &Value) -> Option<usize> {
    match value {
        Value::Null => Some(0),
        Value::String(text) => Some(text.len()),
        Value::Array(items) => Some(items.len()),
        Value::Object(map) => Some(map.len()),
        _ => None,
    }
}

fn index(value: &Value, key: &Value) -> Result<Value, TemplateError> {
    match (value, key) {
        (Value::Array(items), Value::Number(at)) => {
            let item = at.as_u64().and_then(|at| items.get(at as usize));
            item.cloned()
                .ok_or_else(|| fault(format!("index {at} is out of range: there are {}", items.len())))
        }
        (Value::Object(map), Value::String(key)) => Ok(map.get(key).cloned().unwrap_or_else(|| Value::from(""))),
        (Value::Null, Value::String(_)) => Ok(Value::from("")),
        _ => Err(fault(format!(
            "can't index `{}` with `{}`",
            print_value(value),
            print_value(key)
        ))),
    }
}

fn slice(arguments: &[Value]) -> Option<Value> {
    let (value, bounds) = arguments.split_first()?;
    let length = length(value)?;
    let bound = |at: usize, or: usize| match bounds.get(at) {
        Some(value) => value.as_u64().map(|n| n as usize),
        None => Some(or),
    };
    let (from, to) = (bound(0, 0)?, bound(1, length)?);
    match value {
        Value::String(text) => text.get(from..to).map(Value::from),
        Value::Array(items) => items.get(from..to).map(|items| Value::Array(items.to_vec())),
        _ => None,
    }
}

fn compare(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => match (left.as_i64(), right.as_i64()) {
            (Some(left), Some(right)) => Some(left.cmp(&right)),
            _ => left.as_f64()?.partial_cmp(&right.as_f64()?),
        },
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
        (Value::Null, Value::Null) => Some(Ordering::Equal),
        _ => None,
    }
}

/// Go's `%s %v %d %q %f %t %x %%` with an optional `-` and width.
fn printf(format: &str, arguments: &[Value]) -> String {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut rest = format.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let left = rest.next_if_eq(&'-').is_some();
        let zero = rest.peek() == Some(&'0');
        let number = |rest: &mut std::iter::Peekable<std::str::Chars<'_>>| {
            let mut value: Option<usize> = None;
            while let Some(digit) = rest.peek().and_then(|c| c.to_digit(10)) {
                value = Some((value.unwrap_or(0) * 10 + digit as usize).min(1000));
                rest.next();
            }
            value
        };
        let width = number(&mut rest).unwrap_or(0);
        let precision = if rest.next_if_eq(&'.').is_some() {
            number(&mut rest)
        } else {
            None
        };
        let Some(verb) = rest.next() else {
            out.push_str("%!(NOVERB)");
            break;
        };
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = arguments.next() else {
            out.push_str(&format!("%!{verb}(MISSING)"));
            continue;
        };
        let text = match verb {
            'q' => format!("{:?}", print_value(value)),
            'f' => format!("{:.*}", precision.unwrap_or(6), value.as_f64().unwrap_or(0.0)),
            'x' => value.as_i64().map_or_else(|| print_value(value), |n| format!("{n:x}")),
            's' => {
                let text = print_value(value);
                precision.map_or(text.clone(), |keep| text.chars().take(keep).collect())
            }
            _ => print_value(value),
        };
        let fill = width.saturating_sub(text.chars().count());
        match (left, zero) {
            (true, _) => out.extend([text.as_str(), &" ".repeat(fill)]),
            (false, true) => out.extend([&"0".repeat(fill), text.as_str()]),
            (false, false) => out.extend([&" ".repeat(fill), text.as_str()]),
        }
    }
    out
}

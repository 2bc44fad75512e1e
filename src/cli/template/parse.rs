//! Text of a template → tree of nodes; bounded in depth, without look-behind.

use super::TemplateError;
use serde_json::Number;

/// Deepest nesting of blocks and parentheses.
const DEPTH_MAX: usize = 32;

/// One part of a template.
#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Action(Pipe),
    If(Pipe, Vec<Node>, Vec<Node>),
    With(Pipe, Vec<Node>, Vec<Node>),
    Range(Pipe, Vec<Node>, Vec<Node>),
}

/// `$x := a | b c`: commands joined by pipes, with the variables that take the result.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) declares: Vec<String>,
    pub(super) commands: Vec<Vec<Operand>>,
}

/// One word of a command.
#[derive(Debug)]
pub(super) enum Operand {
    /// `.` or `.A.B`
    Dot(Vec<String>),
    /// `$x.A`; the root is the empty name
    Variable(String, Vec<String>),
    Text(String),
    Number(Number),
    Bool(bool),
    Nil,
    Function(String),
    /// `( … ).A`
    Group(Pipe, Vec<String>),
}

/// What ended a list of nodes.
enum Ending {
    Text,
    End,
    Else,
    ElseIf(Pipe),
}

pub(super) fn parse(text: &str) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser {
        text,
        at: 0,
        trim: false,
    };
    let (nodes, ending) = parser.nodes(0)?;
    match ending {
        Ending::Text => Ok(nodes),
        _ => Err(parser.error("`end` or `else` without an open block")),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    /// the action just read ended in `-}}`
    trim: bool,
}

impl Parser<'_> {
    fn error(&self, reason: impl Into<String>) -> TemplateError {
        TemplateError::Syntax {
            at: self.at,
            reason: reason.into(),
        }
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn nodes(&mut self, depth: usize) -> Result<(Vec<Node>, Ending), TemplateError> {
        if depth > DEPTH_MAX {
            return Err(self.error(format!("blocks nested deeper than {DEPTH_MAX}")));
        }
        let mut nodes = Vec::new();
        loop {
            let rest = self.rest();
            let (mut text, open) = match rest.find("{{") {
                Some(open) => (&rest[..open], true),
                None => (rest, false),
            };
            let length = text.len();
            if self.trim {
                text = text.trim_start();
            }
            let after = self.text.get(self.at + length + 2..).unwrap_or("");
            let trims_left = open && after.starts_with('-') && after[1..].starts_with(char::is_whitespace);
            if trims_left {
                text = text.trim_end();
            }
            if !text.is_empty() {
                nodes.push(Node::Text(text.to_owned()));
            }
            self.at += length;
            self.trim = false;
            if !open {
                return Ok((nodes, Ending::Text));
            }
            self.at += if trims_left { 3 } else { 2 };
            self.space();
            if self.rest().starts_with("/*") {
                let Some(end) = self.rest().find("*/") else {
                    return Err(self.error("a comment is not closed"));
                };
                self.at += end + 2;
                self.close()?;
                continue;
            }
            let word = self.peek_word().to_owned();
            match word.as_str() {
                "end" => {
                    self.at += word.len();
                    self.close()?;
                    return Ok((nodes, Ending::End));
                }
                "else" => {
                    self.at += word.len();
                    self.space();
                    if self.peek_word() == "if" {
                        self.at += 2;
                        let pipe = self.pipe(0, false)?;
                        self.close()?;
                        return Ok((nodes, Ending::ElseIf(pipe)));
                    }
                    self.close()?;
                    return Ok((nodes, Ending::Else));
                }
                "if" | "with" | "range" => {
                    self.at += word.len();
                    let pipe = self.pipe(0, word == "range")?;
                    self.close()?;
                    let (body, otherwise) = self.block(depth)?;
                    nodes.push(match word.as_str() {
                        "if" => Node::If(pipe, body, otherwise),
                        "with" => Node::With(pipe, body, otherwise),
                        _ => Node::Range(pipe, body, otherwise),
                    });
                }
                "define" | "template" | "block" | "break" | "continue" => {
                    return Err(self.error(format!("`{word}` is not supported")));
                }
                _ => {
                    let pipe = self.pipe(0, false)?;
                    self.close()?;
                    nodes.push(Node::Action(pipe));
                }
            }
        }
    }

    /// The two arms of a block, up to and including its `end`.
    fn block(&mut self, depth: usize) -> Result<(Vec<Node>, Vec<Node>), TemplateError> {
        let (body, ending) = self.nodes(depth + 1)?;
        let otherwise = match ending {
            Ending::Text => return Err(self.error("a block is not closed with `{{end}}`")),
            Ending::End => Vec::new(),
            Ending::Else => match self.nodes(depth + 1)? {
                (nodes, Ending::End) => nodes,
                _ => return Err(self.error("`else` is not closed with `{{end}}`")),
            },
            Ending::ElseIf(pipe) => {
                let (body, otherwise) = self.block(depth + 1)?;
                vec![Node::If(pipe, body, otherwise)]
            }
        };
        Ok((body, otherwise))
    }

    fn space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn peek_word(&self) -> &str {
        let rest = self.rest();
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        &rest[..end]
    }

    fn close(&mut self) -> Result<(), TemplateError> {
        self.space();
        let spaced = self
            .text
            .get(..self.at)
            .is_some_and(|read| read.ends_with(char::is_whitespace));
        if self.rest().starts_with("}}") {
            self.at += 2;
            return Ok(());
        }
        if spaced && self.rest().starts_with("-}}") {
            self.at += 3;
            self.trim = true;
            return Ok(());
        }
        Err(self.error("expected `}}`"))
    }

    fn pipe(&mut self, depth: usize, pair: bool) -> Result<Pipe, TemplateError> {
        if depth > DEPTH_MAX {
            return Err(self.error(format!("parentheses nested deeper than {DEPTH_MAX}")));
        }
        self.space();
        let start = self.at;
        let mut declares = Vec::new();
        if self.rest().starts_with('$') {
            declares = self.declarations(pair);
            if declares.is_empty() {
                self.at = start;
            }
        }
        let mut commands = vec![self.command(depth)?];
        loop {
            self.space();
            if !self.rest().starts_with('|') {
                break;
            }
            self.at += 1;
            commands.push(self.command(depth)?);
        }
        Ok(Pipe { declares, commands })
    }

    /// `$a :=` or `$a, $b :=`; empty when what follows is no declaration.
    fn declarations(&mut self, pair: bool) -> Vec<String> {
        let mut names = Vec::new();
        loop {
            self.space();
            if !self.rest().starts_with('$') {
                return Vec::new();
            }
            self.at += 1;
            let name = self.peek_word().to_owned();
            self.at += name.len();
            names.push(name);
            self.space();
            if pair && names.len() == 1 && self.rest().starts_with(',') {
                self.at += 1;
                continue;
            }
            if self.rest().starts_with(":=") {
                self.at += 2;
                return names;
            }
            return Vec::new();
        }
    }

    fn command(&mut self, depth: usize) -> Result<Vec<Operand>, TemplateError> {
        let mut words = Vec::new();
        loop {
            self.space();
            let rest = self.rest();
            let Some(first) = rest.chars().next() else {
                return Err(self.error("the template ends inside `{{ … }}`"));
            };
            if rest.starts_with("}}") || rest.starts_with("-}}") || first == '|' || first == ')' {
                break;
            }
            words.push(self.operand(first, depth)?);
        }
        if words.is_empty() {
            return Err(self.error("a value or function is missing"));
        }
        Ok(words)
    }

    fn operand(&mut self, first: char, depth: usize) -> Result<Operand, TemplateError> {
        match first {
            '.' => Ok(Operand::Dot(self.path())),
            '$' => {
                self.at += 1;
                let name = self.peek_word().to_owned();
                self.at += name.len();
                Ok(Operand::Variable(name, self.path()))
            }
            '(' => {
                self.at += 1;
                let pipe = self.pipe(depth + 1, false)?;
                self.space();
                if !self.rest().starts_with(')') {
                    return Err(self.error("expected `)`"));
                }
                self.at += 1;
                Ok(Operand::Group(pipe, self.path()))
            }
            '"' => self.quoted(),
            '`' => {
                let body = &self.rest()[1..];
                let Some(end) = body.find('`') else {
                    return Err(self.error("a raw string is not closed"));
                };
                let text = body[..end].to_owned();
                self.at += end + 2;
                Ok(Operand::Text(text))
            }
            c if c.is_ascii_digit() || c == '-' || c == '+' => self.number(),
            c if c.is_alphabetic() || c == '_' => {
                let word = self.peek_word().to_owned();
                self.at += word.len();
                Ok(match word.as_str() {
                    "true" => Operand::Bool(true),
                    "false" => Operand::Bool(false),
                    "nil" => Operand::Nil,
                    _ if super::eval::is_function(&word) => Operand::Function(word),
                    _ => return Err(self.error(format!("function `{word}` is not known"))),
                })
            }
            c => Err(self.error(format!("`{c}` is not expected here"))),
        }
    }

    /// `.A.B` after a value; empty for a lone dot.
    fn path(&mut self) -> Vec<String> {
        let mut path = Vec::new();
        while self.rest().starts_with('.') {
            self.at += 1;
            let word = self.peek_word().to_owned();
            if word.is_empty() {
                break;
            }
            self.at += word.len();
            path.push(word);
        }
        path
    }

    fn number(&mut self) -> Result<Operand, TemplateError> {
        let rest = self.rest();
        let end = rest
            .char_indices()
            .find(|&(at, c)| !(c.is_ascii_digit() || c == '.' || (at == 0 && (c == '-' || c == '+'))))
            .map_or(rest.len(), |(at, _)| at);
        let word = rest[..end].trim_start_matches('+').to_owned();
        let whole = word.parse::<i64>().ok().map(Number::from);
        let number = whole.or_else(|| Number::from_f64(word.parse().ok()?));
        let number = number.ok_or_else(|| self.error(format!("`{word}` is not a number")))?;
        self.at += end;
        Ok(Operand::Number(number))
    }

    fn quoted(&mut self) -> Result<Operand, TemplateError> {
        let mut text = String::new();
        let mut escaped = false;
        for (at, c) in self.rest().char_indices().skip(1) {
            if escaped {
                text.push(match c {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    other => other,
                });
                escaped = false;
            } else if c == '\\' {
                escaped = true;
            } else if c == '"' {
                self.at += at + 1;
                return Ok(Operand::Text(text));
            } else {
                text.push(c);
            }
        }
        Err(self.error("a string is not closed"))
    }
}

//! What JSON and TOML have in common.

use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use toml::de::{DeArray, DeTable, DeValue};

use super::super::bounds::DOCUMENT_VALUES;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Tree {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number from 0 on.
    Uint(u64),
    /// A number below 0.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Item>),
    /// An object or table; no key is there twice.
    Map(Vec<Field>),
}

/// One of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// What it is.
    pub value: Tree,
    /// Where it is in the text, if that is known: bytes from the start, and 1.
    pub at: u32,
}

/// One of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// Its name.
    pub key: String,
    /// What it is.
    pub item: Item,
}

impl Tree {
    /// The same for those who work with any shape.
    pub fn into_value(self) -> Value {
        match self {
            Tree::Null => Value::Null,
            Tree::Bool(yes) => Value::Bool(yes),
            Tree::Uint(number) => Value::from(number),
            Tree::Int(number) => Value::from(number),
            Tree::Float(number) => Value::from(number),
            Tree::Text(text) => Value::String(text),
            Tree::List(items) => Value::Array(items.into_iter().map(|item| item.value.into_value()).collect()),
            Tree::Map(fields) => {
                let fields = fields
                    .into_iter()
                    .map(|field| (field.key, field.item.value.into_value()));
                Value::Object(fields.collect())
            }
        }
    }
}

/// Reads JSON to its end.
pub fn of_json(text: &[u8]) -> serde_json::Result<Tree> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let mut left = DOCUMENT_VALUES;
    let tree = Grow(&mut left).deserialize(&mut reader)?;
    reader.end()?;
    Ok(tree)
}

/// Makes a tree; counts down what it may still hold.
struct Grow<'a>(&'a mut usize);

impl Grow<'_> {
    fn take<E: de::Error>(&mut self) -> Result<(), E> {
        *self.0 = self.0.checked_sub(1).ok_or_else(|| E::custom(too_many()))?;
        Ok(())
    }
}

fn too_many() -> String {
    format!("more than {DOCUMENT_VALUES} values")
}

impl<'de> DeserializeSeed<'de> for Grow<'_> {
    type Value = Tree;

    fn deserialize<D: de::Deserializer<'de>>(self, reader: D) -> Result<Tree, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Grow<'_> {
    type Value = Tree;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_bool<E>(self, yes: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(yes))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Tree, E> {
        Ok(Tree::Uint(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Tree, E> {
        Ok(of_number(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Tree, E> {
        Ok(Tree::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
        Ok(Tree::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut all: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(value) = all.next_element_seed(Grow(self.0))? {
            self.take()?;
            items.push(Item { value, at: 0 });
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut all: A) -> Result<Tree, A::Error> {
        let mut fields = Vec::new();
        while let Some(key) = all.next_key::<String>()? {
            self.take()?;
            let value = all.next_value_seed(Grow(self.0))?;
            fields.push(Field {
                key,
                item: Item { value, at: 0 },
            });
        }
        match twice(&fields) {
            Some(key) => Err(de::Error::custom(format!("duplicate field `{key}`"))),
            None => Ok(Tree::Map(fields)),
        }
    }
}

/// A key that is there more than once.
fn twice(fields: &[Field]) -> Option<&str> {
    let mut keys: Vec<&str> = fields.iter().map(|field| field.key.as_str()).collect();
    keys.sort_unstable();
    keys.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

fn of_number(number: i64) -> Tree {
    u64::try_from(number).map_or(Tree::Int(number), Tree::Uint)
}

/// Reads TOML. Dates become text. Fails with what is wrong and where: bytes from the start.
pub fn of_toml(text: &str) -> Result<Tree, (String, usize)> {
    let table = DeTable::parse(text)
        .map_err(|error| (error.message().to_owned(), error.span().map_or(0, |span| span.start)))?;
    let mut left = DOCUMENT_VALUES;
    of_table(table.get_ref(), &mut left)
}

fn of_table(table: &DeTable<'_>, left: &mut usize) -> Result<Tree, (String, usize)> {
    let fields = table.iter().map(|(key, value)| {
        Ok(Field {
            key: key.get_ref().to_string(),
            item: of_item(value.get_ref(), key.span().start, left)?,
        })
    });
    fields.collect::<Result<_, _>>().map(Tree::Map)
}

fn of_list(list: &DeArray<'_>, left: &mut usize) -> Result<Tree, (String, usize)> {
    let items = list
        .iter()
        .map(|value| of_item(value.get_ref(), value.span().start, left));
    items.collect::<Result<_, _>>().map(Tree::List)
}

fn of_item(value: &DeValue<'_>, at: usize, left: &mut usize) -> Result<Item, (String, usize)> {
    *left = left.checked_sub(1).ok_or_else(|| (too_many(), at))?;
    let value = match value {
        DeValue::String(text) => Tree::Text(text.to_string()),
        DeValue::Boolean(yes) => Tree::Bool(*yes),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(of_number)
            .map_err(|_| (format!("the number {number} is too large"), at))?,
        DeValue::Float(number) => number
            .as_str()
            .parse()
            .map(Tree::Float)
            .map_err(|_| (format!("{number} is not a number"), at))?,
        DeValue::Datetime(date) => Tree::Text(date.to_string()),
        DeValue::Array(list) => of_list(list, left)?,
        DeValue::Table(table) => of_table(table, left)?,
    };
    Ok(Item {
        value,
        at: u32::try_from(at + 1).unwrap_or(0),
    })
}

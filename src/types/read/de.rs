//! Makes values of types from a tree.

use std::fmt;
use std::vec;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer as _, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};

use super::tree::{Field, Item, Tree};

/// What is wrong, and where; the innermost place first.
#[derive(Debug)]
pub struct Problem(Box<(Vec<Place>, String, Option<usize>)>);

/// A step on the way to a value.
#[derive(Debug)]
pub enum Place {
    /// Into an object.
    Key(String),
    /// Into a list.
    Index(usize),
}

impl Problem {
    /// Something wrong with the text, so many bytes from its start.
    pub fn at(message: String, at: usize) -> Problem {
        Problem(Box::new((Vec::new(), message, Some(at))))
    }

    /// Places, innermost first; message; bytes from the text's start.
    pub fn into_parts(self) -> (Vec<Place>, String, Option<usize>) {
        *self.0
    }

    fn below(mut self, place: Place, at: u32) -> Problem {
        self.0.0.push(place);
        self.0.2 = self.0.2.or((at as usize).checked_sub(1));
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.0.1)
    }
}

impl std::error::Error for Problem {}

impl de::Error for Problem {
    fn custom<T: fmt::Display>(message: T) -> Problem {
        Problem(Box::new((Vec::new(), message.to_string(), None)))
    }
}

impl Tree {
    fn is_not(&self, expected: &dyn Expected) -> Problem {
        let found = match self {
            Tree::Null => Unexpected::Other("null"),
            Tree::Bool(yes) => Unexpected::Bool(*yes),
            Tree::Uint(number) => Unexpected::Unsigned(*number),
            Tree::Int(number) => Unexpected::Signed(*number),
            Tree::Float(number) => Unexpected::Float(*number),
            Tree::Text(text) => Unexpected::Str(text),
            Tree::List(_) => Unexpected::Seq,
            Tree::Map(_) => Unexpected::Map,
        };
        de::Error::invalid_type(found, expected)
    }
}

/// Every type asks for what it needs, so that the code for what it refuses is there once and not for every type.
macro_rules! numbers {
    ($($name:ident)*) => {$(
        fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
            match self {
                Tree::Uint(number) => visitor.visit_u64(number),
                Tree::Int(number) => visitor.visit_i64(number),
                Tree::Float(number) => visitor.visit_f64(number),
                other => Err(other.is_not(&visitor)),
            }
        }
    )*};
}

macro_rules! texts {
    ($($name:ident)*) => {$(
        fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
            match self {
                Tree::Text(text) => visitor.visit_string(text),
                other => Err(other.is_not(&visitor)),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Tree {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self {
            Tree::Null => visitor.visit_unit(),
            Tree::Bool(yes) => visitor.visit_bool(yes),
            Tree::Uint(number) => visitor.visit_u64(number),
            Tree::Int(number) => visitor.visit_i64(number),
            Tree::Float(number) => visitor.visit_f64(number),
            Tree::Text(text) => visitor.visit_string(text),
            Tree::List(items) => visitor.visit_seq(Items::of(items)),
            Tree::Map(fields) => visitor.visit_map(Fields::of(fields)),
        }
    }

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16 deserialize_u32
        deserialize_u64 deserialize_f32 deserialize_f64
    }

    texts! {
        deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf deserialize_identifier
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self {
            Tree::Bool(yes) => visitor.visit_bool(yes),
            other => Err(other.is_not(&visitor)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self {
            Tree::Null => visitor.visit_none(),
            some => visitor.visit_some(some),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self {
            Tree::Null => visitor.visit_unit(),
            other => Err(other.is_not(&visitor)),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self {
            Tree::List(items) => visitor.visit_seq(Items::of(items)),
            other => Err(other.is_not(&visitor)),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self {
            Tree::Map(fields) => visitor.visit_map(Fields::of(fields)),
            other => Err(other.is_not(&visitor)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        match self {
            Tree::Text(name) => visitor.visit_enum(Variant { name, value: None }),
            Tree::Map(mut fields) if fields.len() == 1 => match fields.pop() {
                Some(Field { key, item }) => visitor.visit_enum(Variant {
                    name: key,
                    value: Some(item),
                }),
                None => Err(Tree::Null.is_not(&visitor)),
            },
            other => Err(other.is_not(&visitor)),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_unit()
    }
}

/// The values of a list.
struct Items {
    rest: vec::IntoIter<Item>,
    index: usize,
}

impl Items {
    fn of(items: Vec<Item>) -> Items {
        Items {
            rest: items.into_iter(),
            index: 0,
        }
    }
}

impl<'de> SeqAccess<'de> for Items {
    type Error = Problem;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Problem> {
        let Some(Item { value, at }) = self.rest.next() else {
            return Ok(None);
        };
        let made = seed.deserialize(value);
        self.index += 1;
        made.map(Some)
            .map_err(|problem| problem.below(Place::Index(self.index - 1), at))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// The fields of an object.
struct Fields {
    rest: vec::IntoIter<Field>,
    /// That whose value comes next.
    now: Option<Field>,
}

impl Fields {
    fn of(fields: Vec<Field>) -> Fields {
        Fields {
            rest: fields.into_iter(),
            now: None,
        }
    }
}

impl<'de> MapAccess<'de> for Fields {
    type Error = Problem;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Problem> {
        self.now = self.rest.next();
        let Some(field) = &self.now else {
            return Ok(None);
        };
        let name: StrDeserializer<'_, Problem> = field.key.as_str().into_deserializer();
        seed.deserialize(name).map(Some).map_err(|mut problem| {
            // An unknown field's problem names it.
            problem.0.2 = problem.0.2.or((field.item.at as usize).checked_sub(1));
            problem
        })
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Problem> {
        let Some(Field { key, item }) = self.now.take() else {
            return Err(de::Error::custom("a value without a key"));
        };
        seed.deserialize(item.value)
            .map_err(|problem| problem.below(Place::Key(key), item.at))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// A word, or an object with one field.
struct Variant {
    name: String,
    value: Option<Item>,
}

impl<'de> EnumAccess<'de> for Variant {
    type Error = Problem;
    type Variant = Variant;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Variant), Problem> {
        let name: StrDeserializer<'_, Problem> = self.name.as_str().into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl Variant {
    fn content(self) -> (Tree, String, u32) {
        match self.value {
            Some(Item { value, at }) => (value, self.name, at),
            None => (Tree::Null, self.name, 0),
        }
    }
}

impl<'de> VariantAccess<'de> for Variant {
    type Error = Problem;

    fn unit_variant(self) -> Result<(), Problem> {
        match self.content() {
            (Tree::Null, _, _) => Ok(()),
            (other, name, at) => Err(other.is_not(&"nothing").below(Place::Key(name), at)),
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Problem> {
        let (value, name, at) = self.content();
        seed.deserialize(value)
            .map_err(|problem| problem.below(Place::Key(name), at))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Problem> {
        let (value, name, at) = self.content();
        value
            .deserialize_seq(visitor)
            .map_err(|problem| problem.below(Place::Key(name), at))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Problem> {
        let (value, name, at) = self.content();
        value
            .deserialize_map(visitor)
            .map_err(|problem| problem.below(Place::Key(name), at))
    }
}

//! Reads settings out of the tree, for anything that derives serde's `Deserialize`; errors know their path and place.

use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};

use super::tree::{Key, Node, Sources, Span, Value};
use crate::problem::Problem;

/// Reads `node` as a `T`.
///
/// # Errors
/// A problem whose path is relative to `node`, placed where the offending value stands.
pub fn from_node<T: DeserializeOwned>(node: &Node, sources: &Sources) -> Result<T, Problem> {
    T::deserialize(Reader(node)).map_err(|error| {
        let place = sources.place(error.span.unwrap_or(node.span));
        Problem::at(error.path, error.message).placed(place)
    })
}

/// What is said of a key that has to be written and is not.
pub(super) const IS_MISSING: &str = "is missing";

/// What went wrong, found from the inside out: every level that the error passes adds its key.
#[derive(Debug)]
struct ReadError {
    path: String,
    span: Option<Span>,
    message: String,
}

impl ReadError {
    fn within(mut self, segment: &str, span: Span) -> Self {
        let joint = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{segment}{joint}{}", self.path);
        self.span = self.span.or(Some(span));
        self
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { path: String::new(), span: None, message: message.to_string() }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { path: field.to_owned(), span: None, message: IS_MISSING.to_owned() }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let known = expected.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        Self { path: field.to_owned(), span: None, message: format!("unknown key, expected one of {known}") }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let known = expected.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        Self::custom(format_args!("`{variant}` is not known, expected one of {known}"))
    }

    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format_args!("expected {expected}, found {unexpected}"))
    }

    fn invalid_value(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format_args!("expected {expected}, found {unexpected}"))
    }
}

#[derive(Clone, Copy)]
struct Reader<'a>(&'a Node);

impl<'de> de::Deserializer<'de> for Reader<'de> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.0.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Str(text) => visitor.visit_borrowed_str(text),
            Value::List(items) => visitor.visit_seq(Items { items: items.iter(), index: 0 }),
            Value::Map(entries) => visitor.visit_map(Entries { entries: entries.iter(), current: None }),
        }
        .map_err(|error| ReadError { span: error.span.or(Some(self.0.span)), ..error })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.0.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let choice = match &self.0.value {
            Value::Str(text) => Choice { name: text, span: self.0.span, content: None },
            Value::Map(entries) => match &entries[..] {
                [(key, node)] => Choice { name: &key.name, span: key.span, content: Some(node) },
                [] => return Err(de::Error::custom("nothing is chosen here, expected exactly one key")),
                several => {
                    let names = several.iter().map(|(key, _)| format!("`{}`", key.name)).collect::<Vec<_>>();
                    return Err(de::Error::custom(format_args!(
                        "expected exactly one key, found {}",
                        names.join(", ")
                    )));
                }
            },
            other => return Err(de::Error::custom(format_args!("expected a name, found {}", other.describe()))),
        };
        visitor.visit_enum(choice).map_err(|error| ReadError { span: error.span.or(Some(self.0.span)), ..error })
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

struct Items<'a> {
    items: std::slice::Iter<'a, Node>,
    index: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, ReadError> {
        let Some(node) = self.items.next() else { return Ok(None) };
        let segment = format_args!("[{}]", self.index).to_string();
        self.index += 1;
        seed.deserialize(Reader(node)).map(Some).map_err(|error| error.within(&segment, node.span))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Entries<'a> {
    entries: std::slice::Iter<'a, (Key, Node)>,
    current: Option<&'a (Key, Node)>,
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = ReadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ReadError> {
        self.current = self.entries.next();
        let Some((key, _)) = self.current else { return Ok(None) };
        let name: de::value::BorrowedStrDeserializer<'de, ReadError> =
            de::value::BorrowedStrDeserializer::new(&key.name);
        seed.deserialize(name).map(Some).map_err(|error| ReadError { span: error.span.or(Some(key.span)), ..error })
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ReadError> {
        let Some((key, node)) = self.current else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        seed.deserialize(Reader(node)).map_err(|error| error.within(&key.name, node.span))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

/// One of an enum's variants: a name, or a key with its content.
struct Choice<'a> {
    name: &'a str,
    span: Span,
    content: Option<&'a Node>,
}

impl<'de> de::EnumAccess<'de> for Choice<'de> {
    type Error = ReadError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), ReadError> {
        let name: de::value::StrDeserializer<'de, ReadError> = self.name.into_deserializer();
        let variant = seed.deserialize(name).map_err(|error| ReadError { span: Some(self.span), ..error })?;
        Ok((variant, self))
    }
}

impl<'de> de::VariantAccess<'de> for Choice<'de> {
    type Error = ReadError;

    fn unit_variant(self) -> Result<(), ReadError> {
        match self.content.map(|node| &node.value) {
            None | Some(Value::Null) => Ok(()),
            Some(Value::Map(entries)) if entries.is_empty() => Ok(()),
            Some(other) => Err(de::Error::custom(format_args!("expected nothing more, found {}", other.describe()))),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, ReadError> {
        match self.content {
            Some(node) => seed.deserialize(Reader(node)).map_err(|error| error.within(self.name, node.span)),
            None => Err(de::Error::custom(format_args!("`{}` needs settings", self.name))),
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, ReadError> {
        self.struct_variant(&[], visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match self.content {
            Some(node) => de::Deserializer::deserialize_any(Reader(node), visitor)
                .map_err(|error| error.within(self.name, node.span)),
            None => Err(de::Error::custom(format_args!("`{}` needs settings", self.name))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;
    use crate::config::format::{Format, parse};

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "camelCase")]
    enum Kind {
        Plain,
        Prefixed { prefix: String },
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Sample {
        many: Vec<u16>,
        kind: Kind,
        #[serde(default)]
        names: BTreeMap<String, Option<bool>>,
    }

    fn read(yaml: &str) -> Result<Sample, String> {
        let mut sources = Sources::default();
        let node = parse(yaml, Format::Yaml, "a.yaml", &mut sources).unwrap();
        from_node(&node, &sources).map_err(|problem| problem.to_string())
    }

    #[test]
    fn reads_structs_lists_maps_options_and_enums() {
        let sample = read("many: [1, 2]\nkind: {prefixed: {prefix: /a}}\nnames: {x: true, y: }").unwrap();
        assert_eq!(sample.many, [1, 2]);
        assert_eq!(sample.kind, Kind::Prefixed { prefix: "/a".into() });
        assert_eq!(sample.names, BTreeMap::from([("x".into(), Some(true)), ("y".into(), None)]));
        assert_eq!(read("many: []\nkind: plain").unwrap().kind, Kind::Plain);
    }

    #[test]
    fn errors_know_path_and_place() {
        for (yaml, expected) in [
            ("many: [1, 70000]\nkind: plain", "a.yaml:1:11: error: many[1]: expected u16, found integer `70000`"),
            (
                "many: []\nkind: {prefixed: {prefix: [1]}}",
                "a.yaml:2:27: error: kind.prefixed.prefix: expected a string, found sequence",
            ),
            ("many: []\nkind: {}", "a.yaml:2:7: error: kind: nothing is chosen here, expected exactly one key"),
            ("many: []\nkind: {a: 1, b: 2}", "a.yaml:2:7: error: kind: expected exactly one key, found `a`, `b`"),
            ("many: []\nkind: odd", "a.yaml:2:7: error: kind: `odd` is not known, expected one of `plain`, `prefixed`"),
            ("kind: plain", "a.yaml:1:1: error: many: is missing"),
            (
                "many: []\nkind: plain\nodd: 1",
                "a.yaml:3:1: error: odd: unknown key, expected one of `many`, `kind`, `names`",
            ),
        ] {
            assert_eq!(read(yaml).unwrap_err(), expected, "{yaml}");
        }
    }
}

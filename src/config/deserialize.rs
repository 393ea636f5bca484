//! Reads settings out of the tree, for anything that derives serde's `Deserialize`; errors know their path and place.

use std::fmt;
use std::sync::Arc;

use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};

use super::tree::{Key, Node, Sources, Span, Value};
use crate::problem::{Problem, Problems};

/// Most mistakes that are told of one object.
const MISTAKES_LIMIT: usize = 100;

/// What came of reading an object.
#[derive(Debug)]
pub struct Read<T> {
    /// The object, without what is wrong with it. `None` if nothing can be made of the rest.
    pub object: Option<T>,
    /// All that is wrong with it. The paths are relative to the object; each is placed where the offending value stands.
    pub problems: Problems,
}

impl<T> Read<T> {
    /// The object, if nothing is wrong with it.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn whole(self) -> Result<T, Problems> {
        match self.object {
            Some(object) if self.problems.is_empty() => Ok(object),
            _ => Err(self.problems),
        }
    }
}

/// Reads `node` as a `T`.
pub fn from_node<T: DeserializeOwned>(node: &Node, sources: &Sources) -> Read<T> {
    let mut problems = Problems::new();
    let first = match T::deserialize(Reader(node)) {
        Ok(object) => return Read { object: Some(object), problems },
        Err(error) => error,
    };
    // Serde stops at the first mistake; without that value, it comes to the next one.
    let mut rest = node.clone();
    let mut wrong = Some(first);
    while let Some(error) = wrong {
        let path = error.path();
        if !problems.iter().any(|known| follows_from(&path, &known.path)) {
            let place = sources.place(error.span.unwrap_or(node.span));
            problems.push(Problem::at(path, error.message).placed(place));
        }
        if problems.len() == MISTAKES_LIMIT || !take(&mut rest, &error.trail) {
            return Read { object: None, problems };
        }
        wrong = match T::deserialize(Reader(&rest)) {
            Ok(object) => return Read { object: Some(object), problems },
            Err(error) => Some(error),
        };
    }
    Read { object: None, problems }
}

/// Whether what is wrong at `path` may only be so because what stands at `known` was left out.
pub(super) fn follows_from(path: &str, known: &str) -> bool {
    let is_within = |inner: &str, outer: &str| {
        inner
            .strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || outer.is_empty() || rest.starts_with(['.', '[']))
    };
    // Items of a list move up where one is left out.
    let known = known.rsplit_once('[').filter(|(_, index)| index.ends_with(']')).map_or(known, |(list, _)| list);
    is_within(path, known) || is_within(known, path)
}

/// Takes what the trail leads to out of the tree, or the nearest key above it that is there.
fn take(node: &mut Node, trail: &[Segment]) -> bool {
    let Some((segment, below)) = trail.split_last() else { return false };
    match (segment, &mut node.value) {
        (Segment::Key(name), Value::Map(entries)) => {
            let Some(at) = entries.iter().position(|(key, _)| key.name == *name) else { return false };
            if !entries.get_mut(at).is_some_and(|(_, node)| take(node, below)) {
                entries.remove(at);
            }
            true
        }
        (Segment::Index(index), Value::List(items)) => items.get_mut(*index).is_some_and(|item| take(item, below)),
        _ => false,
    }
}

/// What is said of a key that has to be written and is not.
pub(super) const IS_MISSING: &str = "is missing";

/// What went wrong.
#[derive(Debug)]
struct ReadError {
    /// Where, from the inside out: every level that the error passes adds its key.
    trail: Vec<Segment>,
    span: Option<Span>,
    message: String,
}

/// One step of a path.
#[derive(Debug)]
enum Segment {
    Key(Arc<str>),
    Index(usize),
}

impl ReadError {
    /// Where it is, as people write it.
    fn path(&self) -> String {
        let mut path = String::new();
        for segment in self.trail.iter().rev() {
            match segment {
                Segment::Key(name) if path.is_empty() => path += name,
                Segment::Key(name) => path += &format!(".{name}"),
                Segment::Index(index) => path += &format!("[{index}]"),
            }
        }
        path
    }

    fn within(mut self, segment: Segment, span: Span) -> Self {
        self.trail.push(segment);
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
        Self { trail: Vec::new(), span: None, message: message.to_string() }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { trail: vec![Segment::Key(field.into())], span: None, message: IS_MISSING.to_owned() }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let known = expected.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        Self {
            trail: vec![Segment::Key(field.into())],
            span: None,
            message: format!("unknown key, expected one of {known}"),
        }
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
        let segment = Segment::Index(self.index);
        self.index += 1;
        seed.deserialize(Reader(node)).map(Some).map_err(|error| error.within(segment, node.span))
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
        seed.deserialize(Reader(node)).map_err(|error| error.within(Segment::Key(key.name.clone()), node.span))
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
            Some(node) => {
                seed.deserialize(Reader(node)).map_err(|error| error.within(Segment::Key(self.name.into()), node.span))
            }
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
                .map_err(|error| error.within(Segment::Key(self.name.into()), node.span)),
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
        from_node(&node, &sources).whole().map_err(|problems| problems.to_string().trim_end().to_owned())
    }

    #[test]
    fn each_mistake_is_told_and_the_rest_is_read() {
        let text = "many: [1, 70000, 80000]\nkind: odd\nnames: {x: 1, y: true, a.b: 2}\nodd: 1";
        let told = read(text).unwrap_err();
        let paths: Vec<_> = told.lines().filter_map(|line| line.split(": ").nth(2)).collect();
        // The second bad item of the list is not: without the first one, it would be another item.
        assert_eq!(paths, ["many[1]", "kind", "names.x", "names.a.b", "odd"], "{told}");

        let mut sources = Sources::default();
        let node = parse("kind: plain\nmany: []\nnames: {x: 1, y: true}", Format::Yaml, "a", &mut sources).unwrap();
        let read = from_node::<Sample>(&node, &sources);
        assert_eq!(read.problems.len(), 1);
        assert_eq!(read.object.unwrap().names, BTreeMap::from([("y".into(), Some(true))]));
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

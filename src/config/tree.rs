//! The one tree that every source is read into: values, each with the place where it is written.

use std::sync::Arc;

use crate::problem::Place;

/// Most levels of nesting that any source may have. Traefik's deepest key has eleven.
pub const DEPTH_LIMIT: usize = 64;

/// Which source something stands in, as an index into [`Sources`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceId(u32);

/// Where a key or value stands, in twelve bytes: a large configuration has millions of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The file, flag or variable.
    pub source: SourceId,
    /// Line, from 1; 0 where the source has no lines.
    pub line: u32,
    /// Column in characters, from 1; 0 where the source has no columns.
    pub column: u32,
}

impl Span {
    /// The source as a whole.
    pub fn whole(source: SourceId) -> Self {
        Self { source, line: 0, column: 0 }
    }
}

/// The sources that spans point into.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    names: Vec<Arc<str>>,
}

impl Sources {
    /// Adds a source by the name that people know it by: a path, `flag --x.y`, `environment TRAEFIK_X_Y`.
    pub fn add(&mut self, name: impl Into<Arc<str>>) -> SourceId {
        self.names.push(name.into());
        SourceId(u32::try_from(self.names.len() - 1).unwrap_or(u32::MAX))
    }

    /// A span, spelled out for a problem.
    pub fn place(&self, span: Span) -> Option<Place> {
        let name = self.names.get(span.source.0 as usize)?;
        Some(Place { source: name.clone(), line: span.line, column: span.column })
    }
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What is written.
    pub value: Value,
    /// Where it begins.
    pub span: Span,
}

/// What can be written.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing: `key:` in YAML, `null` in JSON.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// Text. Flags, variables and labels have nothing else.
    Str(Box<str>),
    /// Values in order.
    List(Vec<Node>),
    /// Keys and values, in the order they are written.
    Map(Vec<(Key, Node)>),
}

/// The name of a value within a map.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// As written. Shared, because most keys of a large configuration are the same few words.
    pub name: Arc<str>,
    /// Where it begins.
    pub span: Span,
}

impl Node {
    /// A value that stands at `span`.
    pub fn new(value: Value, span: Span) -> Self {
        Self { value, span }
    }

    /// An empty map.
    pub fn empty(span: Span) -> Self {
        Self::new(Value::Map(Vec::new()), span)
    }

    /// The keys and values, if this is a map.
    pub fn entries(&self) -> &[(Key, Self)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The value of a key, whatever its case.
    pub fn get(&self, name: &str) -> Option<&Self> {
        self.entries().iter().find(|(key, _)| same_key(&key.name, name)).map(|(_, node)| node)
    }

    /// Takes the value of a key out of the map.
    pub fn take(&mut self, name: &str) -> Option<Self> {
        let Value::Map(entries) = &mut self.value else { return None };
        let index = entries.iter().position(|(key, _)| same_key(&key.name, name))?;
        Some(entries.remove(index).1)
    }

    /// Puts `over` on top: maps are joined key by key whatever the case, everything else is replaced.
    ///
    /// Turning on (`true`) a section that has settings keeps them, so that `--api` adds nothing to a file that says more.
    pub fn merge(&mut self, over: Self) {
        match (&mut self.value, over.value) {
            (Value::Map(entries), Value::Map(added)) => {
                for (key, node) in added {
                    merge_entry(entries, key, node);
                }
            }
            (Value::Map(_), Value::Bool(true)) => {}
            (Value::Map(_), Value::Str(text)) if text.eq_ignore_ascii_case("true") => {}
            (value, new) => {
                *value = new;
                self.span = over.span;
            }
        }
    }

    /// The same as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Int(value) => (*value).into(),
            Value::Float(value) => (*value).into(),
            Value::Str(text) => (&**text).into(),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => entries.iter().map(|(key, node)| (key.name.to_string(), node.to_json())).collect(),
        }
    }
}

impl Value {
    /// What it is, in a phrase that fits behind "found".
    pub fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".to_owned(),
            Self::Bool(value) => format!("`{value}`"),
            Self::Int(value) => format!("the number {value}"),
            Self::Float(value) => format!("the number {value}"),
            Self::Str(text) if text.chars().count() > 60 => {
                format!("the text `{}…`", text.chars().take(60).collect::<String>())
            }
            Self::Str(text) => format!("the text `{text}`"),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a section".to_owned(),
        }
    }
}

/// Whether two keys are the same to Traefik.
pub fn same_key(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// An exact spelling wins over one that differs in case: names of routers may differ in case alone.
fn merge_entry(entries: &mut Vec<(Key, Node)>, key: Key, node: Node) {
    let found = entries
        .iter()
        .position(|(old, _)| old.name == key.name)
        .or_else(|| entries.iter().position(|(old, _)| same_key(&old.name, &key.name)));
    match found.and_then(|index| entries.get_mut(index)) {
        Some((_, old)) => old.merge(node),
        None => entries.push((key, node)),
    }
}

/// Hands out shared spellings of keys, a bounded number of them.
#[derive(Debug, Default)]
pub(super) struct Spellings {
    seen: hashbrown::HashSet<Arc<str>, ahash::RandomState>,
}

impl Spellings {
    const LIMIT: usize = 2048;

    pub(super) fn share(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.seen.get(name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        if self.seen.len() < Self::LIMIT {
            self.seen.insert(name.clone());
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: Vec<(&str, Node)>) -> Node {
        let key = |name: &str| Key { name: name.into(), span: Span::default() };
        Node::new(Value::Map(entries.into_iter().map(|(name, node)| (key(name), node)).collect()), Span::default())
    }

    fn text(text: &str) -> Node {
        Node::new(Value::Str(text.into()), Span::default())
    }

    #[test]
    fn merging_joins_maps_whatever_the_case_and_replaces_the_rest() {
        let mut file = map(vec![("entryPoints", map(vec![("Web", map(vec![("address", text(":80"))]))]))]);
        file.merge(map(vec![("ENTRYPOINTS", map(vec![("web", map(vec![("address", text(":81"))]))]))]));
        assert_eq!(file.to_json(), serde_json::json!({"entryPoints": {"Web": {"address": ":81"}}}));
    }

    #[test]
    fn switching_on_keeps_settings_and_switching_off_does_not() {
        let mut file = map(vec![("api", map(vec![("insecure", text("true"))]))]);
        file.merge(map(vec![("api", text("true"))]));
        assert_eq!(file.to_json(), serde_json::json!({"api": {"insecure": "true"}}));
        file.merge(map(vec![("api", text("false"))]));
        assert_eq!(file.to_json(), serde_json::json!({"api": "false"}));
    }

    #[test]
    fn a_node_is_small() {
        assert!(size_of::<Span>() <= 12);
        assert!(size_of::<Node>() <= 48, "{}", size_of::<Node>());
    }
}

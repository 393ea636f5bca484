//! Text formats, each read into the tree with line and column of every key and value.

use std::path::Path;

use super::tree::{Key, Node, SourceId, Sources, Span};
use crate::problem::{Problem, Problems};

mod json;
mod toml;
mod yaml;

/// Largest text, in bytes.
pub const SIZE_LIMIT_BYTES: usize = 512 << 20;
/// Most values in one text.
const NODE_LIMIT: usize = 32 << 20;

/// How a text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `key = "value"`
    Toml,
    /// `key: value`
    Yaml,
    /// `{"key": "value"}`
    Json,
}

impl Format {
    /// The format that a file's ending says.
    pub fn of_path(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "toml" => Some(Self::Toml),
            "yaml" | "yml" => Some(Self::Yaml),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// Reads `text`, which comes from `source`: a path or whatever people know it by.
///
/// # Errors
/// What makes the text unreadable, with line and column. Nothing of such a text is used.
pub fn parse(text: &str, format: Format, source: &str, sources: &mut Sources) -> Result<Node, Problems> {
    let id = sources.add(source);
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let faults = if text.len() > SIZE_LIMIT_BYTES {
        Fault::here(Span::whole(id), format!("is larger than {SIZE_LIMIT_BYTES} bytes")).into()
    } else {
        let parsed = match format {
            Format::Toml => toml::parse(text, id),
            Format::Yaml => yaml::parse(text, id),
            Format::Json => json::parse(text, id),
        };
        match parsed {
            Ok(node) => return Ok(node),
            Err(faults) => faults,
        }
    };
    Err(faults.into_iter().map(|fault| Problem::at("", fault.message).placed(sources.place(fault.span))).collect())
}

/// Why a text cannot be read.
#[derive(Debug)]
struct Fault {
    span: Span,
    message: String,
}

type Faults = Vec<Fault>;

impl Fault {
    fn here(span: Span, message: impl Into<String>) -> Self {
        Self { span, message: message.into() }
    }

    fn duplicate(key: &Key) -> Self {
        Self::here(key.span, format!("the key `{}` is written twice", key.name))
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        vec![fault]
    }
}

/// Turns byte offsets into lines and columns.
struct Lines<'a> {
    source: SourceId,
    text: &'a str,
    starts: Vec<u32>,
}

impl<'a> Lines<'a> {
    /// Farther than this into a line, columns count bytes, so that one endless line costs no endless counting.
    const COUNTED_BYTES: usize = 4096;

    fn new(text: &'a str, source: SourceId) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = breaks.map(|(offset, _)| u32::try_from(offset + 1).unwrap_or(u32::MAX));
        Self { source, text, starts: std::iter::once(0).chain(starts).collect() }
    }

    fn span(&self, offset: usize) -> Span {
        let wanted = u32::try_from(offset).unwrap_or(u32::MAX);
        let line = self.starts.partition_point(|start| *start <= wanted);
        let start = self.starts.get(line.saturating_sub(1)).map_or(0, |start| *start as usize);
        let before = self.text.get(start..offset).unwrap_or_default();
        let column = match before.len() > Self::COUNTED_BYTES || before.is_ascii() {
            true => before.len(),
            false => before.chars().count(),
        };
        Span {
            source: self.source,
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column + 1).unwrap_or(u32::MAX),
        }
    }
}

/// The keys that stand more than once in one map: each repetition.
fn repeated(entries: &[(Key, Node)]) -> Vec<&Key> {
    if entries.len() <= 8 {
        let is_repeated = |index: usize, key: &Key| entries.iter().take(index).any(|(other, _)| other.name == key.name);
        return entries
            .iter()
            .enumerate()
            .filter(|(i, (key, _))| is_repeated(*i, key))
            .map(|(_, (key, _))| key)
            .collect();
    }
    let mut seen = hashbrown::HashSet::with_capacity_and_hasher(entries.len(), ahash::RandomState::new());
    entries.iter().map(|(key, _)| key).filter(|key| !seen.insert(&*key.name)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Format; 3] = [Format::Toml, Format::Yaml, Format::Json];

    fn problems(text: &str, format: Format) -> String {
        parse(text, format, "f", &mut Sources::default()).unwrap_err().to_string()
    }

    /// Lists every key and leaf with its place.
    fn places(node: &Node, out: &mut Vec<String>) {
        for (key, value) in node.entries() {
            out.push(format!(
                "{}@{}:{}={}:{}",
                key.name, key.span.line, key.span.column, value.span.line, value.span.column
            ));
            places(value, out);
        }
    }

    #[test]
    fn every_format_gives_the_same_tree_with_places() {
        let expected = serde_json::json!({"a": {"b": [1, "x", true], "é": 1.5}, "c": "d"});
        for (format, text, written) in [
            (
                Format::Toml,
                "c = \"d\"\n[a]\nb = [1, \"x\", true]\n\"é\" = 1.5\n",
                "c@1:1=1:5 a@2:2=2:1 b@3:1=3:5 é@4:1=4:7",
            ),
            (Format::Yaml, "a:\n  b: [1, x, true]\n  é: 1.5\nc: d\n", "a@1:1=2:3 b@2:3=2:6 é@3:3=3:6 c@4:1=4:4"),
            (
                Format::Json,
                "{\"a\": {\"b\": [1, \"x\", true],\n \"é\": 1.5}, \"c\": \"d\"}",
                "a@1:2=1:7 b@1:8=1:13 é@2:2=2:7 c@2:13=2:18",
            ),
        ] {
            let node = parse(text, format, "f", &mut Sources::default()).unwrap();
            assert_eq!(node.to_json(), expected, "{format:?}");
            let mut found = Vec::new();
            places(&node, &mut found);
            assert_eq!(found.join(" "), written, "{format:?}");
        }
    }

    #[test]
    fn mistakes_have_line_and_column() {
        for (format, text, place) in [
            (Format::Toml, "a = 1\nb = \n", "f:2:5: error: "),
            (Format::Toml, "a = 1\na = 2\n", "f:2:1: error: "),
            (Format::Yaml, "a: 1\nb: [1\n", "f:2:4: error: unclosed bracket"),
            (
                Format::Yaml,
                "a: 1\nb: 2\na: 3\nb: 4",
                "f:3:1: error: the key `a` is written twice\nf:4:1: error: the key `b`",
            ),
            (Format::Json, "{\"a\": 1,\n}", "f:2:1: error: expected a key in quotes, found `}`"),
            (Format::Json, "{\"a\": 1, \"a\": 2}", "f:1:10: error: the key `a` is written twice"),
        ] {
            let found = problems(text, format);
            assert!(found.starts_with(place), "{text}: {found}");
        }
    }

    #[test]
    fn empty_texts_are_empty_maps() {
        for (format, text) in
            [(Format::Toml, ""), (Format::Yaml, ""), (Format::Yaml, "# nothing\n---\n"), (Format::Json, " {}")]
        {
            let node = parse(text, format, "f", &mut Sources::default()).unwrap();
            assert_eq!(node.value, super::super::tree::Value::Map(Vec::new()), "{text:?}");
        }
    }

    #[test]
    fn endless_nesting_is_refused() {
        for (format, text) in [
            (Format::Toml, format!("a = {}", "[".repeat(100_000))),
            (Format::Toml, vec!["a"; 100_000].join(".") + " = 1"),
            (Format::Yaml, "[".repeat(100_000)),
            (Format::Yaml, "- ".repeat(100_000)),
            (Format::Json, "[".repeat(100_000)),
            (Format::Json, "{\"a\":".repeat(100_000)),
        ] {
            assert!(parse(&text, format, "f", &mut Sources::default()).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,200}|([\\[\\]{}:,.\"'#&*!|>%@`a-c0-9 \\t\\n=-]{0,120})") {
            for format in ALL {
                let _ = parse(&text, format, "f", &mut Sources::default());
            }
        }
    }
}

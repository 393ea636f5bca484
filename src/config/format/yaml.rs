//! YAML, from the events of the parser: anchors, aliases and merge keys within a budget.

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span as YamlSpan, Tag};

use super::super::tree::{DEPTH_LIMIT, Key, Node, SourceId, Span, Spellings, Value};
use super::{Fault, Faults, NODE_LIMIT, repeated};

/// Most values that anchors and aliases may copy: the end of "billion laughs".
const COPY_LIMIT: usize = 1_000_000;

pub(super) fn parse(text: &str, source: SourceId) -> Result<Node, Faults> {
    let mut builder = Builder { source, ..Builder::default() };
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: DEPTH_LIMIT,
        block_nesting_limit: DEPTH_LIMIT,
    };
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| unreadable(&error, source))?;
        builder.take(event, &span)?;
    }
    if !builder.repeated.is_empty() {
        return Err(builder.repeated);
    }
    Ok(match builder.document {
        Some(Node { value: Value::Null, span }) => Node::empty(span),
        Some(node) => node,
        None => Node::empty(Span { source, line: 1, column: 1 }),
    })
}

#[derive(Default)]
struct Builder {
    source: SourceId,
    open: Vec<Open>,
    document: Option<Node>,
    anchors: hashbrown::HashMap<usize, Node>,
    spellings: Spellings,
    nodes: usize,
    copied: usize,
    repeated: Faults,
}

/// A list or map whose end has not come yet.
struct Open {
    span: Span,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, merged: Vec<Node>, key: Option<Key> },
}

impl Builder {
    fn take(&mut self, event: Event<'_>, at: &YamlSpan) -> Result<(), Fault> {
        let span = self.span(at);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                if let Some(Open { content: Content::Map { key: key @ None, .. }, .. }) = self.open.last_mut() {
                    *key = Some(Key { name: self.spellings.share(&text), span });
                    return Ok(());
                }
                let value = scalar(&text, style, tag.as_deref());
                self.place(Node::new(value, span), anchor)
            }
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id) else {
                    return Err(Fault::here(span, "an alias stands within the value that it names"));
                };
                self.copied += count(node);
                self.check_budget(span)?;
                let copy = self.anchors.get(&id).cloned();
                copy.map_or(Ok(()), |node| self.place(node, 0))
            }
            Event::SequenceStart(_, anchor, _) => self.open(span, anchor, Content::List(Vec::new())),
            Event::MappingStart(_, anchor, _) => {
                let content = Content::Map { entries: Vec::new(), merged: Vec::new(), key: None };
                self.open(span, anchor, content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            _ => Ok(()),
        }
    }

    fn open(&mut self, span: Span, anchor: usize, content: Content) -> Result<(), Fault> {
        if let Some(Open { content: Content::Map { key: None, .. }, .. }) = self.open.last() {
            return Err(Fault::here(span, "a key must be text, found a list or section"));
        }
        if self.open.len() >= DEPTH_LIMIT {
            return Err(Fault::here(span, format!("is nested deeper than {DEPTH_LIMIT} levels")));
        }
        self.open.push(Open { span, anchor, content });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Fault> {
        let Some(Open { span, anchor, content }) = self.open.pop() else { return Ok(()) };
        let value = match content {
            Content::List(mut items) => {
                items.shrink_to_fit();
                Value::List(items)
            }
            Content::Map { mut entries, merged, .. } => {
                self.repeated.extend(repeated(&entries).into_iter().map(Fault::duplicate));
                for node in merged {
                    merge_into(&mut entries, node)?;
                }
                Value::Map(entries)
            }
        };
        self.place(Node::new(value, span), anchor)
    }

    /// Puts a finished value where it belongs: into the innermost open list or map, or into the document.
    fn place(&mut self, node: Node, anchor: usize) -> Result<(), Fault> {
        let span = node.span;
        self.nodes += 1;
        if anchor != 0 {
            self.copied += count(&node);
        }
        self.check_budget(span)?;
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            Some(Content::List(items)) => items.push(node),
            Some(Content::Map { entries, merged, key }) => match key.take() {
                Some(key) if &*key.name == "<<" => merged.push(node),
                Some(key) => entries.push((key, node)),
                None => return Err(Fault::here(span, "a key must be text, found an alias")),
            },
            None if self.document.is_none() => self.document = Some(node),
            None if node.value == Value::Null => {}
            None => return Err(Fault::here(span, "a second document stands here; one file is one document")),
        }
        Ok(())
    }

    fn check_budget(&self, span: Span) -> Result<(), Fault> {
        if self.copied > COPY_LIMIT {
            return Err(Fault::here(span, format!("anchors and aliases copy more than {COPY_LIMIT} values")));
        }
        if self.nodes + self.copied > NODE_LIMIT {
            return Err(Fault::here(span, format!("has more than {NODE_LIMIT} values")));
        }
        Ok(())
    }

    fn span(&self, at: &YamlSpan) -> Span {
        place(self.source, at.start.line(), at.start.col())
    }
}

fn place(source: SourceId, line: usize, column: usize) -> Span {
    let column = column.saturating_add(1);
    Span { source, line: u32::try_from(line).unwrap_or(u32::MAX), column: u32::try_from(column).unwrap_or(u32::MAX) }
}

fn unreadable(error: &ScanError, source: SourceId) -> Fault {
    let marker = error.marker();
    Fault::here(place(source, marker.line(), marker.col()), error.info())
}

/// A merge key: what it brings gives way to what the map has. <https://yaml.org/type/merge.html>
fn merge_into(entries: &mut Vec<(Key, Node)>, node: Node) -> Result<(), Fault> {
    match node.value {
        Value::Map(added) => {
            for (key, node) in added {
                if !entries.iter().any(|(old, _)| old.name == key.name) {
                    entries.push((key, node));
                }
            }
            Ok(())
        }
        Value::List(items) => items.into_iter().try_for_each(|item| merge_into(entries, item)),
        _ => Err(Fault::here(node.span, "`<<` takes a section or a list of sections")),
    }
}

/// Plain text that stands for something else becomes that, but only where it can be written back as it was:
/// a version `1.10` or a code `007` stays text until a key asks for a number.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Value {
    if style != ScalarStyle::Plain || tag.is_some_and(|tag| tag.core_suffix() == Some("str")) {
        return Value::Str(text.into());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" => return Value::Bool(true),
        "false" => return Value::Bool(false),
        _ => {}
    }
    let may_be_number = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'.'));
    if !may_be_number || text.len() > 24 {
        return Value::Str(text.into());
    }
    if let Some(number) = text.parse::<i64>().ok().filter(|number| number.to_string() == text) {
        return Value::Int(number);
    }
    match text.parse::<f64>().ok().filter(|number| number.to_string() == text) {
        Some(number) => Value::Float(number),
        None => Value::Str(text.into()),
    }
}

fn count(node: &Node) -> usize {
    match &node.value {
        Value::List(items) => 1 + items.iter().map(count).sum::<usize>(),
        Value::Map(entries) => 1 + entries.iter().map(|(_, node)| count(node)).sum::<usize>(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, parse};
    use crate::config::tree::Sources;

    fn read(text: &str) -> Result<serde_json::Value, String> {
        parse(text, Format::Yaml, "f", &mut Sources::default())
            .map(|node| node.to_json())
            .map_err(|problems| problems.to_string().trim_end().to_owned())
    }

    #[test]
    fn anchors_aliases_and_merge_keys() {
        let text = "base: &b {x: 1, y: 2}\nuse: {<<: *b, y: 3}\nsame: *b\nmany: {<<: [*b, {z: 4}]}";
        let expected = serde_json::json!({
            "base": {"x": 1, "y": 2}, "use": {"y": 3, "x": 1}, "same": {"x": 1, "y": 2}, "many": {"x": 1, "y": 2, "z": 4}
        });
        assert_eq!(read(text), Ok(expected));
    }

    #[test]
    fn plain_text_keeps_its_spelling() {
        let text = "a: 1.10\nb: 007\nc: '1'\nd: !!str 2\ne: -3\nf: 0.5\ng: yes\nh: 1e3\ni: ~\nj: 99999999999999999999";
        let expected = serde_json::json!({
            "a": "1.10", "b": "007", "c": "1", "d": "2", "e": -3, "f": 0.5, "g": "yes", "h": "1e3", "i": null,
            "j": "99999999999999999999"
        });
        assert_eq!(read(text), Ok(expected));
    }

    #[test]
    fn block_texts_and_quotes() {
        let text = "a: |\n  x\n  y\nb: >-\n  x\n  y\nc: \"\\u00e9\"\n";
        assert_eq!(read(text), Ok(serde_json::json!({"a": "x\ny\n", "b": "x y", "c": "é"})));
    }

    #[test]
    fn bombs_and_oddities_are_refused() {
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..12 {
            let below = format!("*a{}", level - 1);
            bomb += &format!("a{level}: &a{level} [{}]\n", vec![below; 10].join(","));
        }
        for (text, expected) in [
            (bomb.as_str(), "f:6:34: error: anchors and aliases copy more than 1000000 values"),
            ("a: &a [*a]", "f:1:8: error: an alias stands within the value that it names"),
            ("a: *b", "f:1:4: error: while parsing node, found unknown anchor"),
            ("? [a]\n: b", "f:1:3: error: a key must be text, found a list or section"),
            ("<<: 1", "f:1:5: error: `<<` takes a section or a list of sections"),
            ("a: 1\n---\nb: 2", "f:3:1: error: a second document stands here; one file is one document"),
        ] {
            assert_eq!(read(text).unwrap_err(), expected);
        }
    }
}

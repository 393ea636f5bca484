//! JSON, as RFC 8259 has it.

use super::super::tree::{DEPTH_LIMIT, Key, Node, SourceId, Spellings, Value};
use super::{Fault, Faults, Lines, NODE_LIMIT, repeated};

pub(super) fn parse(text: &str, source: SourceId) -> Result<Node, Faults> {
    let mut reader = Reader {
        lines: Lines::new(text, source),
        text,
        at: 0,
        depth: 0,
        nodes: 0,
        spellings: Spellings::default(),
        repeated: Vec::new(),
    };
    let node = reader.node()?;
    reader.skip_space();
    if reader.at < text.len() {
        return Err(reader.expected("nothing more").into());
    }
    if reader.repeated.is_empty() { Ok(node) } else { Err(reader.repeated) }
}

struct Reader<'a> {
    lines: Lines<'a>,
    text: &'a str,
    at: usize,
    depth: usize,
    nodes: usize,
    spellings: Spellings,
    repeated: Faults,
}

impl<'a> Reader<'a> {
    fn node(&mut self) -> Result<Node, Fault> {
        self.skip_space();
        let span = self.lines.span(self.at);
        self.nodes += 1;
        if self.nodes > NODE_LIMIT {
            return Err(Fault::here(span, format!("has more than {NODE_LIMIT} values")));
        }
        let value = match self.peek() {
            Some(b'{') => self.nested(Self::map)?,
            Some(b'[') => self.nested(Self::list)?,
            Some(b'"') => Value::Str(self.string()?.into()),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            _ => self.word()?,
        };
        Ok(Node::new(value, span))
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Value, Fault>) -> Result<Value, Fault> {
        if self.depth >= DEPTH_LIMIT {
            return Err(self.fault(format!("is nested deeper than {DEPTH_LIMIT} levels")));
        }
        self.depth += 1;
        self.at += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn map(&mut self) -> Result<Value, Fault> {
        let mut entries = Vec::new();
        self.skip_space();
        if self.accept(b'}') {
            return Ok(Value::Map(entries));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.expected("a key in quotes"));
            }
            let span = self.lines.span(self.at);
            let name = self.string()?;
            let key = Key { name: self.spellings.share(&name), span };
            self.skip_space();
            if !self.accept(b':') {
                return Err(self.expected("`:`"));
            }
            let node = self.node()?;
            entries.push((key, node));
            self.skip_space();
            if self.accept(b'}') {
                break;
            }
            if !self.accept(b',') {
                return Err(self.expected("`,` or `}`"));
            }
        }
        self.repeated.extend(repeated(&entries).into_iter().map(Fault::duplicate));
        Ok(Value::Map(entries))
    }

    fn list(&mut self) -> Result<Value, Fault> {
        let mut items = Vec::new();
        self.skip_space();
        if self.accept(b']') {
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.node()?);
            self.skip_space();
            if self.accept(b']') {
                items.shrink_to_fit();
                return Ok(Value::List(items));
            }
            if !self.accept(b',') {
                return Err(self.expected("`,` or `]`"));
            }
        }
    }

    /// Text in quotes. One with escapes is left to serde_json.
    fn string(&mut self) -> Result<std::borrow::Cow<'a, str>, Fault> {
        let start = self.at;
        let mut has_escapes = false;
        let bytes = self.text.as_bytes();
        let mut end = start + 1;
        loop {
            match bytes.get(end) {
                None | Some(b'\n') => return Err(self.fault("the text is not closed by a quote".to_owned())),
                Some(b'"') => break,
                Some(b'\\') => {
                    has_escapes = true;
                    end += 2;
                }
                Some(_) => end += 1,
            }
        }
        self.at = end + 1;
        let quoted = self.text.get(start..self.at).unwrap_or_default();
        let inner = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
        if !has_escapes && !inner.bytes().any(|byte| byte < 0x20) {
            return Ok(inner.into());
        }
        serde_json::from_str::<String>(quoted)
            .map(Into::into)
            .map_err(|_| Fault::here(self.lines.span(start), "the text has an invalid escape or a control character"))
    }

    fn number(&mut self) -> Result<Value, Fault> {
        let start = self.at;
        let rest = self.text.get(start..).unwrap_or_default();
        let length = rest.find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E')).unwrap_or(rest.len());
        let written = rest.get(..length).unwrap_or_default();
        self.at += length;
        let number = serde_json::from_str::<serde_json::Number>(written).ok();
        number
            .and_then(|number| number.as_i64().map(Value::Int).or_else(|| number.as_f64().map(Value::Float)))
            .ok_or_else(|| Fault::here(self.lines.span(start), format!("`{written}` is not a number")))
    }

    fn word(&mut self) -> Result<Value, Fault> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        for (word, value) in [("true", Value::Bool(true)), ("false", Value::Bool(false)), ("null", Value::Null)] {
            if rest.starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.expected("a value"))
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn accept(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expected(&self, what: &str) -> Fault {
        match self.text.get(self.at..).and_then(|rest| rest.chars().next()) {
            Some(found) => self.fault(format!("expected {what}, found `{found}`")),
            None => self.fault(format!("expected {what}, found the end")),
        }
    }

    fn fault(&self, message: String) -> Fault {
        Fault::here(self.lines.span(self.at), message)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, parse};
    use crate::config::tree::Sources;

    #[test]
    fn agrees_with_serde_json() {
        for text in [
            r#"{"a":"\u00e9\ud83d\ude00\n","b":-1.5e3,"c":[[],{}],"d":9223372036854775807,"e":null}"#,
            r#"{"a":"\x"}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":01}"#,
            r#"{"a":1.}"#,
            "{\"a\":\"\u{1}\"}",
            r#"{"a":truex}"#,
            r#"{"a":1}}"#,
            r#"{"a" 1}"#,
            "\"a\\",
            "",
        ] {
            let ours = parse(text, Format::Json, "f", &mut Sources::default()).ok().map(|node| node.to_json());
            assert_eq!(ours, serde_json::from_str(text).ok(), "{text}");
        }
    }
}

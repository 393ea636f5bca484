//! JSON, as Go reads and writes it.

use super::OUTPUT_LIMIT_BYTES;
use super::value::{Heap, Map, Misuse, NESTING_LIMIT, Value, too_deep};

/// How JSON is written.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Style {
    /// On one line; `<`, `>` and `&` are escaped.
    Escaped,
    /// On one line, as it is.
    Raw,
    /// Escaped, on many lines.
    Pretty,
}

/// A value as JSON.
pub(super) fn write(heap: &mut Heap<'_>, value: &Value, style: Style) -> Result<String, Misuse> {
    let mut writer = Writer { out: String::new(), style, level: 0 };
    writer.value(heap, value)?;
    Ok(writer.out)
}

/// What JSON says. All numbers are floats, as in Go.
pub(super) fn read(heap: &mut Heap<'_>, text: &str) -> Result<Value, Misuse> {
    heap.charge(text.len() / 4)?;
    let json = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
    from_json(heap, json)
}

fn from_json(heap: &mut Heap<'_>, json: serde_json::Value) -> Result<Value, Misuse> {
    Ok(match json {
        serde_json::Value::Null => Value::Nil,
        serde_json::Value::Bool(value) => Value::Bool(value),
        serde_json::Value::Number(number) => Value::Float(number.as_f64().unwrap_or(0.0)),
        serde_json::Value::String(text) => heap.text(text)?,
        serde_json::Value::Array(items) => {
            let items = items.into_iter().map(|item| from_json(heap, item)).collect::<Result<_, _>>()?;
            heap.list(items)?
        }
        serde_json::Value::Object(entries) => {
            let mut map = Map::new();
            for (key, item) in entries {
                map.insert(key.into(), from_json(heap, item)?);
            }
            heap.add_map(map)?
        }
    })
}

struct Writer {
    out: String,
    style: Style,
    level: u16,
}

impl Writer {
    fn value(&mut self, heap: &mut Heap<'_>, value: &Value) -> Result<(), Misuse> {
        heap.charge(1)?;
        if self.out.len() > OUTPUT_LIMIT_BYTES {
            return Err(format!("a text is longer than {OUTPUT_LIMIT_BYTES} bytes"));
        }
        match value {
            Value::Nil => self.out.push_str("null"),
            Value::Bool(value) => self.out.push_str(if *value { "true" } else { "false" }),
            Value::Int(value) => self.out.push_str(&value.to_string()),
            Value::Float(value) if !value.is_finite() => return Err(format!("{value} cannot be written as JSON")),
            Value::Float(value) => self.out.push_str(&float(*value)),
            Value::Text(text) => self.text(text),
            Value::List(list) => {
                self.open('[')?;
                for (index, item) in list.items.iter().enumerate() {
                    self.separate(index);
                    self.value(heap, item)?;
                }
                self.close(']', list.items.is_empty());
            }
            Value::Map(id) => {
                let map = heap.map(*id).clone();
                heap.charge(map.len())?;
                self.open('{')?;
                for (index, (key, item)) in map.iter().enumerate() {
                    self.separate(index);
                    self.text(key);
                    self.out.push_str(if self.style == Style::Pretty { ": " } else { ":" });
                    self.value(heap, item)?;
                }
                self.close('}', map.is_empty());
            }
        }
        Ok(())
    }

    fn open(&mut self, bracket: char) -> Result<(), Misuse> {
        self.level += 1;
        if self.level > NESTING_LIMIT {
            return Err(too_deep());
        }
        self.out.push(bracket);
        Ok(())
    }

    fn separate(&mut self, index: usize) {
        if index > 0 {
            self.out.push(',');
        }
        self.line();
    }

    fn close(&mut self, bracket: char, is_empty: bool) {
        self.level -= 1;
        if !is_empty {
            self.line();
        }
        self.out.push(bracket);
    }

    fn line(&mut self) {
        if self.style == Style::Pretty {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n("  ", usize::from(self.level)));
        }
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for letter in text.chars() {
            match letter {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\x08' => self.out.push_str("\\b"),
                '\x0c' => self.out.push_str("\\f"),
                '<' | '>' | '&' if self.style != Style::Raw => self.escape(letter),
                '\0'..='\x1f' | '\u{2028}' | '\u{2029}' => self.escape(letter),
                other => self.out.push(other),
            }
        }
        self.out.push('"');
    }

    fn escape(&mut self, letter: char) {
        self.out.push_str(&format!("\\u{:04x}", u32::from(letter)));
    }
}

/// Without a fraction if there is none; with an exponent below 1e-6 and from 1e21 up.
fn float(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-6..1e21).contains(&size) {
        let scientific = format!("{value:e}");
        return match scientific.split_once("e-") {
            Some(_) => scientific,
            None => scientific.replace('e', "e+"),
        };
    }
    format!("{value}")
}

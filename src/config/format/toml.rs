//! TOML.

use ::toml::de::{DeTable, DeValue};

use super::super::tree::{DEPTH_LIMIT, Key, Node, SourceId, Spellings, Value};
use super::{Fault, Faults, Lines};

pub(super) fn parse(text: &str, source: SourceId) -> Result<Node, Faults> {
    let mut reader = Reader { lines: Lines::new(text, source), spellings: Spellings::default(), depth: 0 };
    let document = DeTable::parse(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        Fault::here(reader.lines.span(offset), error.message().lines().collect::<Vec<_>>().join(", "))
    })?;
    let start = reader.lines.span(document.span().start);
    reader.table(document.into_inner()).map(|value| Node::new(value, start)).map_err(Into::into)
}

struct Reader<'a> {
    lines: Lines<'a>,
    spellings: Spellings,
    depth: usize,
}

impl Reader<'_> {
    fn table(&mut self, table: DeTable<'_>) -> Result<Value, Fault> {
        let mut entries = Vec::with_capacity(table.len());
        for (key, value) in table {
            let span = self.lines.span(key.span().start);
            let key = Key { name: self.spellings.share(key.get_ref()), span };
            let offset = value.span().start;
            let value = self.value(value.into_inner(), offset)?;
            entries.push((key, value));
        }
        Ok(Value::Map(entries))
    }

    fn value(&mut self, value: DeValue<'_>, offset: usize) -> Result<Node, Fault> {
        let span = self.lines.span(offset);
        if self.depth >= DEPTH_LIMIT {
            return Err(Fault::here(span, format!("is nested deeper than {DEPTH_LIMIT} levels")));
        }
        let value = match value {
            DeValue::String(text) => Value::Str(text.into_owned().into()),
            DeValue::Boolean(value) => Value::Bool(value),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(value) => Value::Int(value),
                Err(_) => return Err(Fault::here(span, format!("the number {number} is too large"))),
            },
            DeValue::Float(number) => match number.as_str().parse() {
                Ok(value) => Value::Float(value),
                Err(_) => return Err(Fault::here(span, format!("`{number}` is not a number"))),
            },
            DeValue::Datetime(time) => Value::Str(time.to_string().into()),
            DeValue::Array(items) => {
                self.depth += 1;
                let items = items.into_iter().map(|item| {
                    let offset = item.span().start;
                    self.value(item.into_inner(), offset)
                });
                let mut items = items.collect::<Result<Vec<_>, _>>()?;
                items.shrink_to_fit();
                self.depth -= 1;
                Value::List(items)
            }
            DeValue::Table(table) => {
                self.depth += 1;
                let value = self.table(table)?;
                self.depth -= 1;
                value
            }
        };
        Ok(Node::new(value, span))
    }
}

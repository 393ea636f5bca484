//! Lists.

use super::{Call, Function, MANY, plain, unfit};
use crate::provider::template::value::{Misuse, Value};

pub(super) const TABLE: &[Function] = &[
    plain("list", 0, MANY, |call| call.heap.list(call.arguments.to_vec())),
    plain("tuple", 0, MANY, |call| call.heap.list(call.arguments.to_vec())),
    plain("len", 1, 1, len),
    plain("index", 1, MANY, index),
    plain("slice", 1, 3, slice),
    plain("first", 1, 1, |call| Ok(call.list(0)?.items.first().cloned().unwrap_or(Value::Nil))),
    plain("last", 1, 1, |call| Ok(call.list(0)?.items.last().cloned().unwrap_or(Value::Nil))),
    plain("rest", 1, 1, |call| call.heap.list(call.list(0)?.items.iter().skip(1).cloned().collect())),
    plain("initial", 1, 1, initial),
    plain("append", 2, 2, append),
    plain("push", 2, 2, append),
    plain("prepend", 2, 2, prepend),
    plain("concat", 0, MANY, concat),
    plain("reverse", 1, 1, |call| call.heap.list(call.list(0)?.items.iter().rev().cloned().collect())),
    plain("uniq", 1, 1, uniq),
    plain("without", 1, MANY, without),
    plain("compact", 1, 1, compact),
    plain("has", 2, 2, has),
    plain("sortAlpha", 1, 1, sort_alpha),
    plain("chunk", 2, 2, chunk),
];

fn len(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let length = match call.value(0) {
        Value::Text(text) => text.len(),
        Value::List(list) => list.items.len(),
        Value::Map(id) => call.heap.map(*id).len(),
        other => return Err(unfit(0, "a text, a list or a map", other)),
    };
    Ok(Value::Int(i64::try_from(length).unwrap_or(i64::MAX)))
}

/// `index x 1 "a"` is `x[1]["a"]`.
fn index(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let mut value = call.value(0).clone();
    for (position, key) in call.arguments.iter().enumerate().skip(1) {
        value = match (&value, key) {
            (Value::Map(id), Value::Text(key)) => call.heap.map(*id).get(key).cloned().unwrap_or(Value::Nil),
            (Value::Map(_), other) => return Err(unfit(position, "a key", other)),
            (Value::List(list), Value::Int(_) | Value::Float(_)) => {
                let wanted = call.int(position)?;
                let item = usize::try_from(wanted).ok().and_then(|wanted| list.items.get(wanted));
                let missing = || format!("there is no item {wanted} in a list of {}", list.items.len());
                item.cloned().ok_or_else(missing)?
            }
            (Value::Text(text), Value::Int(wanted)) => {
                let byte = usize::try_from(*wanted).ok().and_then(|wanted| text.as_bytes().get(wanted));
                let missing = || format!("there is no byte {wanted} in a text of {}", text.len());
                Value::Int(i64::from(*byte.ok_or_else(missing)?))
            }
            (Value::List(_) | Value::Text(_), other) => return Err(unfit(position, "a whole number", other)),
            (other, _) => return Err(format!("{} has no items", other.describe())),
        };
    }
    Ok(value)
}

fn slice(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let length = match call.value(0) {
        Value::Text(text) => text.len(),
        Value::List(list) => list.items.len(),
        other => return Err(unfit(0, "a list or a text", other)),
    };
    let position = |index: usize, otherwise: usize| match call.arguments.len() > index {
        true => usize::try_from(call.int(index)?).map_err(|_| unfit(index, "a position", call.value(index))),
        false => Ok(otherwise),
    };
    let (from, to) = (position(1, 0)?, position(2, length)?);
    let missing = || format!("{from} to {to} is no part of {length} items");
    match call.value(0) {
        Value::Text(text) => call.heap.text(text.get(from..to).ok_or_else(missing)?),
        Value::List(list) => call.heap.list(list.items.get(from..to).ok_or_else(missing)?.to_vec()),
        other => Err(unfit(0, "a list or a text", other)),
    }
}

fn initial(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let items = &call.list(0)?.items;
    call.heap.list(items.iter().take(items.len().saturating_sub(1)).cloned().collect())
}

fn append(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let last = std::iter::once(call.value(1));
    call.heap.list(call.list(0)?.items.iter().chain(last).cloned().collect())
}

fn prepend(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let first = std::iter::once(call.value(1));
    call.heap.list(first.chain(&call.list(0)?.items).cloned().collect())
}

fn concat(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let mut items = Vec::new();
    for index in 0..call.arguments.len() {
        let list = call.list(index)?;
        call.heap.charge(list.items.len())?;
        items.extend_from_slice(&list.items);
    }
    call.heap.list(items)
}

/// Whether `items` has a value that is the same through and through.
fn holds(call: &mut Call<'_, '_>, items: &[Value], wanted: &Value) -> Result<bool, Misuse> {
    for item in items {
        if call.heap.same(item, wanted)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn uniq(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let mut kept = Vec::new();
    for item in &call.list(0)?.items {
        if !holds(call, &kept, item)? {
            kept.push(item.clone());
        }
    }
    call.heap.list(kept)
}

fn without(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let mut kept = Vec::new();
    for item in &call.list(0)?.items {
        if !holds(call, call.rest(1), item)? {
            kept.push(item.clone());
        }
    }
    call.heap.list(kept)
}

fn compact(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let kept = call.list(0)?.items.iter().filter(|item| call.heap.is_true(item)).cloned().collect();
    call.heap.list(kept)
}

fn has(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    match call.value(1) {
        Value::Nil => Ok(Value::Bool(false)),
        _ => holds(call, &call.list(1)?.items, call.value(0)).map(Value::Bool),
    }
}

fn sort_alpha(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let mut words = Vec::new();
    match call.value(0) {
        Value::List(list) => {
            for item in &list.items {
                words.push(call.written(item)?);
            }
        }
        other => words.push(call.written(other)?),
    }
    words.sort_unstable();
    call.heap.texts(words.into_iter())
}

fn chunk(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let size = usize::try_from(call.int(0)?).ok().filter(|size| *size > 0).ok_or("argument 1 must be above 0")?;
    let mut chunks = Vec::new();
    for items in call.list(1)?.items.chunks(size) {
        chunks.push(call.heap.list(items.to_vec())?);
    }
    call.heap.list(chunks)
}

//! Maps. As in Go, a map is shared by all that hold it: `set` and `merge` change it in place.

use std::rc::Rc;

use super::{Call, Function, MANY, plain};
use crate::provider::template::value::{Map, MapId, Misuse, NESTING_LIMIT, Value, too_deep};

pub(super) const TABLE: &[Function] = &[
    plain("dict", 0, MANY, dict),
    plain("get", 2, 2, get),
    plain("set", 3, 3, set),
    plain("unset", 2, 2, unset),
    plain("hasKey", 2, 2, |call| Ok(Value::Bool(call.heap.map(call.map(0)?).contains_key(call.text(1)?)))),
    plain("keys", 1, MANY, keys),
    plain("values", 1, 1, |call| call.heap.list(call.heap.map(call.map(0)?).values().cloned().collect())),
    plain("pluck", 2, MANY, pluck),
    plain("pick", 1, MANY, |call| filtered(call, true)),
    plain("omit", 1, MANY, |call| filtered(call, false)),
    plain("merge", 1, MANY, |call| merge_all(call, Wins::Left)),
    plain("mustMerge", 1, MANY, |call| merge_all(call, Wins::Left)),
    plain("mergeOverwrite", 1, MANY, |call| merge_all(call, Wins::Right)),
    plain("deepCopy", 1, 1, |call| deep_copy(call, call.value(0), NESTING_LIMIT)),
    plain("dig", 3, MANY, dig),
];

fn dict(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let mut map = Map::new();
    for pair in call.arguments.chunks(2) {
        if let Some(key) = pair.first() {
            let value = pair.get(1).cloned().unwrap_or_else(|| Value::text(""));
            map.insert(call.written(key)?.into(), value);
        }
    }
    call.heap.add_map(map)
}

fn get(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let found = call.heap.map(call.map(0)?).get(call.text(1)?).cloned();
    Ok(found.unwrap_or_else(|| Value::text("")))
}

fn set(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    call.heap.insert(call.map(0)?, call.text(1)?.into(), call.value(2).clone())?;
    Ok(call.value(0).clone())
}

fn unset(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    call.heap.remove(call.map(0)?, call.text(1)?);
    Ok(call.value(0).clone())
}

/// In the order of the alphabet, where sprig has none.
fn keys(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let mut names = Vec::new();
    for index in 0..call.arguments.len() {
        names.extend(call.heap.map(call.map(index)?).keys().cloned());
        call.heap.charge(names.len())?;
    }
    call.heap.texts(names.into_iter())
}

fn pluck(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let mut found = Vec::new();
    for index in 1..call.arguments.len() {
        found.extend(call.heap.map(call.map(index)?).get(call.text(0)?).cloned());
    }
    call.heap.list(found)
}

fn filtered(call: &mut Call<'_, '_>, keep: bool) -> Result<Value, Misuse> {
    let mut names = Vec::new();
    for index in 1..call.arguments.len() {
        names.push(call.text(index)?);
    }
    let map = call.heap.map(call.map(0)?);
    let kept = map.iter().filter(|(key, _)| names.contains(&&***key) == keep);
    let kept = kept.map(|(key, value)| (key.clone(), value.clone())).collect();
    call.heap.add_map(kept)
}

/// Whose value stays when two maps have the same key.
#[derive(Clone, Copy, PartialEq)]
enum Wins {
    Left,
    Right,
}

fn merge_all(call: &mut Call<'_, '_>, wins: Wins) -> Result<Value, Misuse> {
    let into = call.map(0)?;
    for index in 1..call.arguments.len() {
        let from = call.map(index)?;
        merge(call, into, from, (wins, NESTING_LIMIT))?;
    }
    Ok(call.value(0).clone())
}

/// Maps within both are merged; an empty value is as good as none.
fn merge(call: &mut Call<'_, '_>, into: MapId, from: MapId, (wins, levels): (Wins, u16)) -> Result<(), Misuse> {
    let levels = levels.checked_sub(1).ok_or_else(too_deep)?;
    if into == from {
        return Ok(());
    }
    let entries = call.heap.map(from).clone();
    call.heap.charge(entries.len())?;
    for (key, value) in entries {
        let old = call.heap.map(into).get(&key).cloned().unwrap_or(Value::Nil);
        match (&old, &value) {
            (Value::Map(inner), Value::Map(other)) if call.heap.is_true(&old) => {
                merge(call, *inner, *other, (wins, levels))?;
            }
            _ if call.heap.is_true(&old) && (wins == Wins::Left || !call.heap.is_true(&value)) => {}
            _ => call.heap.insert(into, key, value)?,
        }
    }
    Ok(())
}

fn deep_copy(call: &mut Call<'_, '_>, value: &Value, levels: u16) -> Result<Value, Misuse> {
    let levels = levels.checked_sub(1).ok_or_else(too_deep)?;
    match value {
        Value::List(list) => {
            let items = list.items.iter().map(|item| deep_copy(call, item, levels)).collect::<Result<_, _>>()?;
            call.heap.list(items)
        }
        Value::Map(id) => {
            let entries = call.heap.map(*id).clone();
            call.heap.charge(entries.len())?;
            let mut copy = Map::new();
            for (key, item) in entries {
                copy.insert(key, deep_copy(call, &item, levels)?);
            }
            call.heap.add_map(copy)
        }
        other => Ok(other.clone()),
    }
}

/// `dig "a" "b" otherwise map` is `map.a.b`, or `otherwise`.
fn dig(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let count = call.arguments.len();
    let mut value = call.value(count - 1).clone();
    call.map(count - 1)?;
    for index in 0..count - 2 {
        let key: Rc<str> = call.text(index)?.into();
        let Value::Map(id) = &value else {
            return Err(format!("what holds `{key}` must be a map, found {}", value.describe()));
        };
        match call.heap.map(*id).get(&key).cloned() {
            Some(found) => value = found,
            None => return Ok(call.value(count - 2).clone()),
        }
    }
    Ok(value)
}

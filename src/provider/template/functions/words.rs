//! Words: capitals, splitting, joining, and names that are safe in names.

use super::{Call, Function, plain};
use crate::provider::template::value::{Misuse, Value};

pub(super) const TABLE: &[Function] = &[
    plain("title", 1, 1, title),
    plain("untitle", 1, 1, untitle),
    plain("split", 2, 2, |call| split(call.text(0)?, call.text(1)?, call)),
    plain("splitList", 2, 2, |call| split(call.text(1)?, call.text(0)?, call)),
    plain("join", 2, 2, join),
    plain("toStrings", 1, 1, to_strings),
    plain("normalize", 1, 1, normalize),
];

/// Every letter that begins a word becomes a capital.
fn title(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let mut out = String::new();
    let mut within = false;
    for letter in call.text(0)?.chars() {
        match within {
            true => out.push(letter),
            false => out.extend(letter.to_uppercase()),
        }
        within = letter == '_' || letter.is_alphanumeric() || (within && !letter.is_ascii() && !letter.is_whitespace());
    }
    call.heap.text(out)
}

/// Every letter behind white space becomes small.
fn untitle(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let mut out = String::new();
    let mut within = false;
    for letter in call.text(0)?.chars() {
        match within {
            true => out.push(letter),
            false => out.extend(letter.to_lowercase()),
        }
        within = !letter.is_whitespace();
    }
    call.heap.text(out)
}

/// Parts between separators; characters if the separator is empty.
fn split(text: &str, separator: &str, call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    if separator.is_empty() {
        return call.heap.texts(text.chars().map(String::from));
    }
    call.heap.texts(text.split(separator))
}

/// Any value as texts: the items of a list, or the value itself; nothing is left out.
fn texts(call: &mut Call<'_, '_>, value: &Value) -> Result<Vec<String>, Misuse> {
    match value {
        Value::Nil => Ok(Vec::new()),
        Value::List(list) => {
            let items = list.items.iter().filter(|item| !matches!(item, Value::Nil));
            items.map(|item| call.written(item)).collect()
        }
        other => call.written(other).map(|text| vec![text]),
    }
}

fn join(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let parts = texts(call, call.value(1))?;
    let separator = call.text(0)?;
    call.heap.charge(parts.len().saturating_mul(separator.len()) / 16)?;
    call.heap.text(parts.join(separator))
}

fn to_strings(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let parts = texts(call, call.value(0))?;
    call.heap.texts(parts.into_iter())
}

/// Traefik's way to make a name of anything: runs of what is neither letter nor digit become one `-`, none at the ends.
fn normalize(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let words = call.text(0)?.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty());
    let name = words.collect::<Vec<_>>().join("-");
    call.heap.text(name)
}

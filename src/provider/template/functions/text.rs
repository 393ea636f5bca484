//! Texts: cutting, joining, searching, replacing, quoting.

use super::{Call, Function, MANY, plain};
use crate::provider::template::OUTPUT_LIMIT_BYTES;
use crate::provider::template::format::{self, quote};
use crate::provider::template::value::{Misuse, Value};

pub(super) const TABLE: &[Function] = &[
    plain("upper", 1, 1, |call| each(call, str::to_uppercase)),
    plain("toUpper", 1, 1, |call| each(call, str::to_uppercase)),
    plain("lower", 1, 1, |call| each(call, str::to_lowercase)),
    plain("toLower", 1, 1, |call| each(call, str::to_lowercase)),
    plain("trim", 1, 1, |call| each(call, |text| text.trim().to_owned())),
    plain("trimAll", 2, 2, |call| both(call, |set, text| text.trim_matches(|c| set.contains(c)).to_owned())),
    plain("trimall", 2, 2, |call| both(call, |set, text| text.trim_matches(|c| set.contains(c)).to_owned())),
    plain("trimPrefix", 2, 2, |call| both(call, |start, text| text.strip_prefix(start).unwrap_or(text).to_owned())),
    plain("trimSuffix", 2, 2, |call| both(call, |end, text| text.strip_suffix(end).unwrap_or(text).to_owned())),
    plain("nospace", 1, 1, |call| each(call, |text| text.chars().filter(|c| !c.is_whitespace()).collect())),
    plain("contains", 2, 2, |call| Ok(Value::Bool(call.text(1)?.contains(call.text(0)?)))),
    plain("hasPrefix", 2, 2, |call| Ok(Value::Bool(call.text(1)?.starts_with(call.text(0)?)))),
    plain("hasSuffix", 2, 2, |call| Ok(Value::Bool(call.text(1)?.ends_with(call.text(0)?)))),
    plain("replace", 3, 3, replace),
    plain("repeat", 2, 2, repeat),
    plain("substr", 3, 3, substr),
    plain("trunc", 2, 2, trunc),
    plain("quote", 0, MANY, |call| quoted(call, quote)),
    plain("squote", 0, MANY, |call| quoted(call, |out, text| out.extend(["'", text, "'"]))),
    plain("cat", 0, MANY, cat),
    plain("indent", 2, 2, |call| indent(call, "")),
    plain("nindent", 2, 2, |call| indent(call, "\n")),
    plain("toString", 1, 1, to_string),
    plain("print", 0, MANY, print),
    plain("println", 0, MANY, println),
    plain("printf", 1, MANY, printf),
    plain("plural", 3, 3, |call| Ok(call.value(if call.int(2)? == 1 { 0 } else { 1 }).clone())),
    plain("regexMatch", 2, 2, |call| Ok(Value::Bool(call.heap.pattern(call.text(0)?)?.is_match(call.text(1)?)))),
    plain("mustRegexMatch", 2, 2, |call| Ok(Value::Bool(call.heap.pattern(call.text(0)?)?.is_match(call.text(1)?)))),
    plain("regexFind", 2, 2, regex_find),
    plain("regexFindAll", 3, 3, regex_find_all),
    plain("regexReplaceAll", 3, 3, |call| regex_replace(call, false)),
    plain("mustRegexReplaceAll", 3, 3, |call| regex_replace(call, false)),
    plain("regexReplaceAllLiteral", 3, 3, |call| regex_replace(call, true)),
    plain("regexSplit", 3, 3, regex_split),
    plain("regexQuoteMeta", 1, 1, |call| each(call, regex::escape)),
];

fn each(call: &mut Call<'_, '_>, change: impl FnOnce(&str) -> String) -> Result<Value, Misuse> {
    let changed = change(call.text(0)?);
    call.heap.text(changed)
}

fn both(call: &mut Call<'_, '_>, change: impl FnOnce(&str, &str) -> String) -> Result<Value, Misuse> {
    let changed = change(call.text(0)?, call.text(1)?);
    call.heap.text(changed)
}

/// Refuses a text before it is made.
fn check_length(length: Option<usize>) -> Result<(), Misuse> {
    match length {
        Some(length) if length <= OUTPUT_LIMIT_BYTES => Ok(()),
        _ => Err(format!("a text is longer than {OUTPUT_LIMIT_BYTES} bytes")),
    }
}

fn replace(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let (old, new, text) = (call.text(0)?, call.text(1)?, call.text(2)?);
    let most = text.len() / old.len().max(1) + 1;
    check_length(most.checked_mul(new.len()).and_then(|length| length.checked_add(text.len())))?;
    call.heap.text(text.replace(old, new))
}

fn repeat(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let count = usize::try_from(call.int(0)?).map_err(|_| "argument 1 must not be negative")?;
    let text = call.text(1)?;
    check_length(text.len().checked_mul(count))?;
    call.heap.text(text.repeat(count))
}

/// Offsets are bytes, as in Go; negative ones mean the start or the end.
fn substr(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let (start, end, text) = (call.int(0)?, call.int(1)?, call.text(2)?);
    let start = usize::try_from(start).unwrap_or(0);
    let end = usize::try_from(end).map_or(text.len(), |end| end.min(text.len()));
    let part =
        text.get(start..end).ok_or_else(|| format!("{start} to {end} is no part of a text of {} bytes", text.len()))?;
    call.heap.text(part)
}

fn trunc(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let (length, text) = (call.int(0)?, call.text(1)?);
    let size = usize::try_from(length.unsigned_abs()).unwrap_or(usize::MAX);
    let part = match (length < 0, size >= text.len()) {
        (_, true) => Some(text),
        (true, false) => text.get(text.len() - size..),
        (false, false) => text.get(..size),
    };
    call.heap.text(part.ok_or("the text would be cut within a character")?)
}

fn quoted(call: &mut Call<'_, '_>, quote: fn(&mut String, &str)) -> Result<Value, Misuse> {
    let mut out = String::new();
    for value in call.arguments.iter().filter(|value| !matches!(value, Value::Nil)) {
        if !out.is_empty() {
            out.push(' ');
        }
        quote(&mut out, &call.written(value)?);
    }
    call.heap.text(out)
}

fn cat(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let mut words = Vec::new();
    for value in call.arguments.iter().filter(|value| !matches!(value, Value::Nil)) {
        words.push(call.written(value)?);
    }
    call.heap.text(words.join(" "))
}

fn indent(call: &mut Call<'_, '_>, before: &str) -> Result<Value, Misuse> {
    let width = usize::try_from(call.int(0)?).map_err(|_| "argument 1 must not be negative")?;
    let text = call.text(1)?;
    let lines = text.matches('\n').count() + 1;
    check_length(lines.checked_mul(width).and_then(|length| length.checked_add(text.len())))?;
    let padding = " ".repeat(width);
    call.heap.text(format!("{before}{padding}{}", text.replace('\n', &format!("\n{padding}"))))
}

fn to_string(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let text = call.written(call.value(0))?;
    call.heap.text(text)
}

/// Go's `Sprint`: a space between two values if neither is a text.
fn print(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let mut out = String::new();
    let mut after_text = true;
    for value in call.arguments {
        let is_text = matches!(value, Value::Text(_));
        if !after_text && !is_text {
            out.push(' ');
        }
        out.push_str(&call.written(value)?);
        check_length(Some(out.len()))?;
        after_text = is_text;
    }
    call.heap.text(out)
}

fn println(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let mut words = Vec::new();
    for value in call.arguments {
        words.push(call.written(value)?);
    }
    call.heap.text(words.join(" ") + "\n")
}

fn printf(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let text = format::printf(call.heap, call.text(0)?, call.rest(1))?;
    call.heap.text(text)
}

fn regex_find(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let pattern = call.heap.pattern(call.text(0)?)?;
    let found = pattern.regex().find(call.text(1)?);
    call.heap.text(found.map_or("", |found| found.as_str()))
}

/// At most so many matches; all of them if the number is negative.
fn regex_find_all(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let pattern = call.heap.pattern(call.text(0)?)?;
    let most = usize::try_from(call.int(2)?).unwrap_or(usize::MAX);
    let found = pattern.regex().find_iter(call.text(1)?).take(most);
    call.heap.texts(found.map(|found| found.as_str()))
}

fn regex_replace(call: &mut Call<'_, '_>, literal: bool) -> Result<Value, Misuse> {
    let (text, new) = (call.text(1)?, call.text(2)?);
    let pattern = call.heap.pattern(call.text(0)?)?;
    let most = pattern.regex().find_iter(text).count();
    check_length(most.checked_mul(new.len() + if literal { 0 } else { text.len() }).filter(|_| most < 1 << 20))
        .or_else(|error| if most <= 1 { Ok(()) } else { Err(error) })?;
    let replaced = match literal {
        true => pattern.regex().replace_all(text, regex::NoExpand(new)),
        false => pattern.regex().replace_all(text, new),
    };
    call.heap.text(&*replaced)
}

/// At most so many parts; all of them if the number is negative.
fn regex_split(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let pattern = call.heap.pattern(call.text(0)?)?;
    let text = call.text(1)?;
    match usize::try_from(call.int(2)?) {
        Ok(most) => call.heap.texts(pattern.regex().splitn(text, most)),
        Err(_) => call.heap.texts(pattern.regex().split(text)),
    }
}

//! Truth, comparison, defaults, and what ends or informs an evaluation.

use std::cmp::Ordering;

use super::{Body, Call, Function, MANY, plain};
use crate::provider::template::value::{Misuse, Value};

pub(super) const TABLE: &[Function] = &[
    Function { name: "and", least: 1, most: MANY, body: Body::FirstThat(false) },
    Function { name: "or", least: 1, most: MANY, body: Body::FirstThat(true) },
    plain("not", 1, 1, |call| Ok(Value::Bool(!call.heap.is_true(call.value(0))))),
    plain("eq", 2, MANY, eq),
    plain("ne", 2, 2, |call| equal(call.value(0), call.value(1)).map(|same| Value::Bool(!same))),
    plain("lt", 2, 2, |call| order(call).map(|order| Value::Bool(order == Some(Ordering::Less)))),
    plain("le", 2, 2, |call| order(call).map(|order| Value::Bool(order.is_some_and(Ordering::is_le)))),
    plain("gt", 2, 2, |call| order(call).map(|order| Value::Bool(order == Some(Ordering::Greater)))),
    plain("ge", 2, 2, |call| order(call).map(|order| Value::Bool(order.is_some_and(Ordering::is_ge)))),
    plain("default", 1, 2, default),
    plain("empty", 1, 1, |call| Ok(Value::Bool(!call.heap.is_true(call.value(0))))),
    plain("coalesce", 0, MANY, coalesce),
    plain("all", 0, MANY, |call| Ok(Value::Bool(call.arguments.iter().all(|value| call.heap.is_true(value))))),
    plain("any", 0, MANY, |call| Ok(Value::Bool(call.arguments.iter().any(|value| call.heap.is_true(value))))),
    plain("ternary", 3, 3, ternary),
    plain("deepEqual", 2, 2, |call| call.heap.same(call.value(0), call.value(1)).map(Value::Bool)),
    plain("kindOf", 1, 1, |call| Ok(Value::text(kind(call.value(0))))),
    plain("kindIs", 2, 2, kind_is),
    plain("fail", 1, 1, |call| Err(call.text(0)?.to_owned())),
    plain("env", 1, 1, env),
    plain("expandenv", 1, 1, expand_env),
];

fn eq(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    for other in call.rest(1) {
        if equal(call.value(0), other)? {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

/// Go compares values of the same kind only, and no lists or maps.
fn equal(a: &Value, b: &Value) -> Result<bool, Misuse> {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        (Value::Int(a), Value::Int(b)) => Ok(a == b),
        (Value::Float(a), Value::Float(b)) => Ok(a == b),
        (Value::Text(a), Value::Text(b)) => Ok(a == b),
        (Value::Nil, Value::Nil) => Ok(true),
        (Value::Nil, _) | (_, Value::Nil) => Ok(false),
        _ => Err(incomparable(a, b)),
    }
}

fn order(call: &Call<'_, '_>) -> Result<Option<Ordering>, Misuse> {
    match (call.value(0), call.value(1)) {
        (Value::Int(a), Value::Int(b)) => Ok(Some(a.cmp(b))),
        (Value::Float(a), Value::Float(b)) => Ok(a.partial_cmp(b)),
        (Value::Text(a), Value::Text(b)) => Ok(Some(a.cmp(b))),
        (a, b) => Err(incomparable(a, b)),
    }
}

fn incomparable(a: &Value, b: &Value) -> Misuse {
    format!("{} cannot be compared with {}", a.describe(), b.describe())
}

fn default(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let given = call.value(1);
    Ok(if call.heap.is_true(given) { given.clone() } else { call.value(0).clone() })
}

fn coalesce(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    Ok(call.arguments.iter().find(|value| call.heap.is_true(value)).cloned().unwrap_or(Value::Nil))
}

fn ternary(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    Ok(call.value(if call.bool(2)? { 0 } else { 1 }).clone())
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Nil => "invalid",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int",
        Value::Float(_) => "float64",
        Value::Text(_) => "string",
        Value::List(_) => "slice",
        Value::Map(_) => "map",
    }
}

/// There is one kind of whole numbers here; it answers to both of Go's names.
fn kind_is(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let (wanted, found) = (call.text(0)?, kind(call.value(1)));
    Ok(Value::Bool(wanted == found || (found == "int" && wanted == "int64")))
}

fn env(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let name = call.text(0)?;
    let value = (call.heap.environment)(name).unwrap_or_default();
    call.heap.text(value)
}

/// `$NAME` and `${NAME}` in a text.
fn expand_env(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let text = call.text(0)?;
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let (name, left) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some((name, left)) => (name, left),
            None => {
                let end = after.find(|letter: char| letter != '_' && !letter.is_ascii_alphanumeric());
                after.split_at(end.unwrap_or(after.len()))
            }
        };
        match name.is_empty() {
            true => out.push('$'),
            false => out.push_str(&(call.heap.environment)(name).unwrap_or_default()),
        }
        call.heap.charge(out.len() / 16)?;
        rest = left;
    }
    out.push_str(rest);
    call.heap.text(out)
}

//! Numbers.

use super::{Call, Function, MANY, plain};
use crate::provider::template::parser::whole_number;
use crate::provider::template::value::{Misuse, Value};

pub(super) const TABLE: &[Function] = &[
    plain("int", 1, 1, |call| Ok(Value::Int(whole(call.value(0))))),
    plain("int64", 1, 1, |call| Ok(Value::Int(whole(call.value(0))))),
    plain("float64", 1, 1, |call| Ok(Value::Float(fraction(call.value(0))))),
    plain("atoi", 1, 1, |call| Ok(Value::Int(call.text(0)?.parse().unwrap_or(0)))),
    plain("toDecimal", 1, 1, to_decimal),
    plain("add", 0, MANY, |call| fold(call, Some(0), i64::checked_add)),
    plain("add1", 1, 1, |call| checked(whole(call.value(0)).checked_add(1))),
    plain("sub", 2, 2, |call| checked(whole(call.value(0)).checked_sub(whole(call.value(1))))),
    plain("mul", 1, MANY, |call| fold(call, None, i64::checked_mul)),
    plain("div", 2, 2, |call| divided(call, i64::checked_div)),
    plain("mod", 2, 2, |call| divided(call, i64::checked_rem)),
    plain("max", 1, MANY, |call| fold(call, None, |a, b| Some(a.max(b)))),
    plain("biggest", 1, MANY, |call| fold(call, None, |a, b| Some(a.max(b)))),
    plain("min", 1, MANY, |call| fold(call, None, |a, b| Some(a.min(b)))),
    plain("addf", 0, MANY, |call| fold_fractions(call, |a, b| a + b)),
    plain("add1f", 1, 1, |call| Ok(Value::Float(fraction(call.value(0)) + 1.0))),
    plain("subf", 1, MANY, |call| fold_fractions(call, |a, b| a - b)),
    plain("mulf", 1, MANY, |call| fold_fractions(call, |a, b| a * b)),
    plain("divf", 1, MANY, |call| fold_fractions(call, |a, b| a / b)),
    plain("maxf", 1, MANY, |call| fold_fractions(call, f64::max)),
    plain("minf", 1, MANY, |call| fold_fractions(call, f64::min)),
    plain("ceil", 1, 1, |call| Ok(Value::Float(fraction(call.value(0)).ceil()))),
    plain("floor", 1, 1, |call| Ok(Value::Float(fraction(call.value(0)).floor()))),
    plain("round", 2, 3, round),
    plain("until", 1, 1, until),
    plain("untilStep", 3, 3, |call| {
        let (from, to, step) = (call.int(0)?, call.int(1)?, call.int(2)?);
        steps(call, from, to, step)
    }),
    plain("seq", 0, 3, seq),
];

/// Whatever it is, as a whole number; 0 if it is none, as sprig has it.
fn whole(value: &Value) -> i64 {
    match value {
        Value::Int(value) => *value,
        // A float that is too large becomes the largest number.
        Value::Float(value) => *value as i64,
        Value::Bool(value) => i64::from(*value),
        Value::Text(text) => {
            whole_number(text).or_else(|| text.parse::<f64>().ok().map(|value| value as i64)).unwrap_or(0)
        }
        Value::Nil | Value::List(_) | Value::Map(_) => 0,
    }
}

fn fraction(value: &Value) -> f64 {
    match value {
        Value::Float(value) => *value,
        Value::Text(text) => text.parse().unwrap_or(0.0),
        other => whole(other) as f64,
    }
}

fn checked(result: Option<i64>) -> Result<Value, Misuse> {
    result.map(Value::Int).ok_or_else(|| "the number is too large".into())
}

fn fold(call: &Call<'_, '_>, start: Option<i64>, step: fn(i64, i64) -> Option<i64>) -> Result<Value, Misuse> {
    let mut numbers = call.arguments.iter().map(whole);
    let start = start.or_else(|| numbers.next());
    checked(numbers.fold(start, |sum, number| step(sum?, number)))
}

fn divided(call: &Call<'_, '_>, divide: fn(i64, i64) -> Option<i64>) -> Result<Value, Misuse> {
    match (whole(call.value(0)), whole(call.value(1))) {
        (_, 0) => Err("division by zero".into()),
        (a, b) => checked(divide(a, b)),
    }
}

fn fold_fractions(call: &Call<'_, '_>, step: fn(f64, f64) -> f64) -> Result<Value, Misuse> {
    Ok(Value::Float(call.arguments.iter().map(fraction).reduce(step).unwrap_or(0.0)))
}

/// Rounds to a number of digits behind the point.
fn round(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let digits = i32::try_from(call.int(1)?).ok().filter(|digits| (0..=15).contains(digits));
    let scale = 10f64.powi(digits.ok_or("argument 2 must be from 0 to 15")?);
    let up_from = if call.arguments.len() > 2 { fraction(call.value(2)) } else { 0.5 };
    let scaled = fraction(call.value(0)) * scale;
    let rounded = if scaled.fract().abs() >= up_from { scaled.trunc() + scaled.signum() } else { scaled.trunc() };
    Ok(Value::Float(rounded / scale))
}

/// What looks like an octal number, as a number.
fn to_decimal(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let value = call.value(0);
    let text = call.written(value)?;
    Ok(Value::Int(i64::from_str_radix(&text, 8).unwrap_or(0)))
}

fn until(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let count = call.int(0)?;
    steps(call, 0, count, if count < 0 { -1 } else { 1 })
}

fn steps(call: &mut Call<'_, '_>, from: i64, to: i64, step: i64) -> Result<Value, Misuse> {
    let numbers = numbers(call, from, to, step)?;
    call.heap.list(numbers.into_iter().map(Value::Int).collect())
}

/// The numbers from `from` to before `to`; none if the step leads away.
fn numbers(call: &mut Call<'_, '_>, from: i64, to: i64, step: i64) -> Result<Vec<i64>, Misuse> {
    let leads_there = (to > from && step > 0) || (to < from && step < 0);
    if !leads_there {
        return Ok(Vec::new());
    }
    let count = to.abs_diff(from).div_ceil(step.unsigned_abs());
    call.heap.charge(usize::try_from(count).unwrap_or(usize::MAX - 1))?;
    let numbers = std::iter::successors(Some(from), |number| number.checked_add(step));
    Ok(numbers.take(usize::try_from(count).unwrap_or(0)).collect())
}

/// Like the shell's `seq`: a text, both ends included.
fn seq(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let (from, step, to) = match call.arguments.len() {
        0 => return Ok(Value::text("")),
        1 => (1, None, call.int(0)?),
        2 => (call.int(0)?, None, call.int(1)?),
        _ => (call.int(0)?, Some(call.int(1)?), call.int(2)?),
    };
    let direction = if to < from { -1 } else { 1 };
    let after = to.checked_add(direction).ok_or("the number is too large")?;
    let numbers = numbers(call, from, after, step.unwrap_or(direction))?;
    let words = numbers.iter().map(i64::to_string).collect::<Vec<_>>();
    call.heap.text(words.join(" "))
}

//! Single values: flags, variables and labels have nothing but text, and files have the wrong type now and then.

use super::schema::Scalar;
use super::tree::Value;
use crate::units::Duration;

/// Turns what is written into what is meant: flags, variables and labels have nothing but text.
pub(super) fn convert(scalar: Scalar, written: &Value) -> Result<Value, String> {
    let expected = |what: &str| Err(format!("expected {what}, found {}", written.describe()));
    match (scalar, written) {
        (_, Value::Null | Value::List(_) | Value::Map(_)) => expected(singular(scalar)),
        (Scalar::Text | Scalar::Name, Value::Str(_)) => Ok(written.clone()),
        (Scalar::Text | Scalar::Name, Value::Bool(value)) => Ok(Value::Str(value.to_string().into())),
        (Scalar::Text | Scalar::Name, Value::Int(value)) => Ok(Value::Str(value.to_string().into())),
        (Scalar::Text | Scalar::Name, Value::Float(value)) => Ok(Value::Str(value.to_string().into())),
        (Scalar::Bool, _) => {
            read_bool(written).map_or_else(|| expected(singular(scalar)), |value| Ok(Value::Bool(value)))
        }
        (Scalar::Int | Scalar::Int32, _) => match read_int(written) {
            Some(value) if scalar == Scalar::Int || i32::try_from(value).is_ok() => Ok(Value::Int(value)),
            _ => expected(singular(scalar)),
        },
        (Scalar::Float, Value::Float(_)) => Ok(written.clone()),
        (Scalar::Float, Value::Int(value)) => Ok(Value::Float(*value as f64)),
        (Scalar::Float, Value::Str(text)) => match text.trim().parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Value::Float(value)),
            _ => expected(singular(scalar)),
        },
        (Scalar::Duration, Value::Int(_)) => Ok(written.clone()),
        (Scalar::Duration, Value::Str(text)) => Duration::parse(text).map(|_| written.clone()),
        (Scalar::Float | Scalar::Duration, _) => expected(singular(scalar)),
    }
}

/// What Go's `strconv.ParseBool` takes for a yes or no, and what YAML 1.1 does.
pub(super) fn read_bool(written: &Value) -> Option<bool> {
    match written {
        Value::Bool(value) => Some(*value),
        Value::Int(0) => Some(false),
        Value::Int(1) => Some(true),
        Value::Str(text) => match text.trim().to_ascii_lowercase().as_str() {
            "1" | "t" | "true" | "yes" | "on" => Some(true),
            "0" | "f" | "false" | "no" | "off" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn read_int(written: &Value) -> Option<i64> {
    match written {
        Value::Int(value) => Some(*value),
        Value::Float(value) if value.fract() == 0.0 && value.abs() < 9e15 => Some(*value as i64),
        Value::Str(text) => {
            let text = text.trim();
            let radix =
                |prefix: &str, radix| text.strip_prefix(prefix).and_then(|t| i64::from_str_radix(t, radix).ok());
            text.parse().ok().or_else(|| radix("0x", 16)).or_else(|| radix("0o", 8))
        }
        _ => None,
    }
}

/// One of them, in words.
fn singular(scalar: Scalar) -> &'static str {
    match scalar {
        Scalar::Bool => "`true` or `false`",
        Scalar::Int => "a whole number",
        Scalar::Int32 => "a whole number of 32 bits",
        Scalar::Float => "a number",
        Scalar::Text => "text",
        Scalar::Duration => "seconds or a duration like `1m30s`",
        Scalar::Name => "a name",
    }
}

/// Several of them, in words.
pub(super) fn plural(scalar: Scalar) -> &'static str {
    match scalar {
        Scalar::Bool => "yes or no",
        Scalar::Int | Scalar::Int32 => "whole numbers",
        Scalar::Float => "numbers",
        Scalar::Text => "texts",
        Scalar::Duration => "durations",
        Scalar::Name => "names",
    }
}

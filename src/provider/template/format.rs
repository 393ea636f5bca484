//! Values as text, the way Go's fmt writes them.

use std::fmt::Write;

use super::OUTPUT_LIMIT_BYTES;
use super::value::{Heap, Misuse, NESTING_LIMIT, Value, too_deep};

/// Widest field and longest fraction that `printf` makes.
const WIDTH_LIMIT: usize = 4096;

/// How texts are written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Quoting {
    /// As they are.
    Plain,
    /// In double quotes, with escapes.
    Quoted,
}

/// Writes a value as Go's `%v` does, or `%q`.
pub(super) fn write(out: &mut String, heap: &mut Heap<'_>, value: &Value, quoting: Quoting) -> Result<(), Misuse> {
    match value {
        Value::Nil => out.push_str("<no value>"),
        other => write_within(out, heap, other, quoting, NESTING_LIMIT)?,
    }
    Ok(())
}

fn write_within(
    out: &mut String,
    heap: &mut Heap<'_>,
    value: &Value,
    quoting: Quoting,
    levels: u16,
) -> Result<(), Misuse> {
    heap.charge(0)?;
    if out.len() > OUTPUT_LIMIT_BYTES {
        return Err(format!("a text is longer than {OUTPUT_LIMIT_BYTES} bytes"));
    }
    let levels = levels.checked_sub(1).ok_or_else(too_deep)?;
    match value {
        Value::Nil => out.push_str("<nil>"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Int(value) => put(out, format_args!("{value}")),
        Value::Float(value) => out.push_str(&float(*value)),
        Value::Text(text) if quoting == Quoting::Quoted => quote(out, text),
        Value::Text(text) => out.push_str(text),
        Value::List(list) => {
            out.push('[');
            for (index, item) in list.items.iter().enumerate() {
                out.push_str(if index > 0 { " " } else { "" });
                write_within(out, heap, item, quoting, levels)?;
            }
            out.push(']');
        }
        Value::Map(id) => {
            let map = heap.map(*id).clone();
            heap.charge(map.len())?;
            out.push_str("map[");
            for (index, (key, item)) in map.iter().enumerate() {
                out.push_str(if index > 0 { " " } else { "" });
                out.push_str(key);
                out.push(':');
                write_within(out, heap, item, quoting, levels)?;
            }
            out.push(']');
        }
    }
    Ok(())
}

/// A value as `%v` writes it.
pub(super) fn text_of(heap: &mut Heap<'_>, value: &Value) -> Result<String, Misuse> {
    if let Value::Text(text) = value {
        heap.charge(text.len() / 16)?;
        return Ok(text.to_string());
    }
    let mut out = String::new();
    write_within(&mut out, heap, value, Quoting::Plain, NESTING_LIMIT)?;
    Ok(out)
}

/// Writing to a string cannot fail.
fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

/// Go's `strconv.Quote`.
pub(super) fn quote(out: &mut String, text: &str) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            control if u32::from(control) < 0x20 || control == '\x7f' => {
                put(out, format_args!("\\x{:02x}", u32::from(control)));
            }
            hidden if is_hidden(hidden) && u32::from(hidden) < 0x1_0000 => {
                put(out, format_args!("\\u{:04x}", u32::from(hidden)));
            }
            hidden if is_hidden(hidden) => put(out, format_args!("\\U{:08x}", u32::from(hidden))),
            other => out.push(other),
        }
    }
    out.push('"');
}

/// Whether a character shows nothing: Rust's own escapes tell.
fn is_hidden(letter: char) -> bool {
    !letter.is_ascii() && (letter.is_control() || letter.is_whitespace() || letter.escape_debug().len() > 1)
}

/// A float as `%v` writes it: with the fewest digits, with an exponent below 1e-4 and from 1e6 up: Go's shortest form.
pub(super) fn float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let scientific = format!("{value:e}");
    let exponent = scientific.split_once('e').and_then(|(_, exponent)| exponent.parse::<i32>().ok()).unwrap_or(0);
    if value != 0.0 && !(-4..6).contains(&exponent) { exponential(&scientific) } else { format!("{value}") }
}

/// Rust's `1.5e7` as Go's `1.5e+07`.
fn exponential(scientific: &str) -> String {
    let (digits, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent = exponent.parse::<i32>().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

/// `printf`. Where Go would write `%!d(string=x)`, this is a mistake that is said.
pub(super) fn printf(heap: &mut Heap<'_>, format: &str, arguments: &[Value]) -> Result<String, Misuse> {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let (directive, after) = Directive::parse(after, &mut arguments)?;
        let value = arguments.next().ok_or_else(|| format!("no value for `%{}`", directive.verb))?;
        directive.write(&mut out, heap, value)?;
        if out.len() > OUTPUT_LIMIT_BYTES {
            return Err(format!("a text is longer than {OUTPUT_LIMIT_BYTES} bytes"));
        }
        rest = after;
    }
    out.push_str(rest);
    match arguments.len() {
        0 => Ok(out),
        1 => Err("one value more than the format has verbs".into()),
        more => Err(format!("{more} values more than the format has verbs")),
    }
}

/// `%-08.2f` and the like.
#[derive(Default)]
struct Directive {
    verb: char,
    left: bool,
    plus: bool,
    space: bool,
    sharp: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

impl Directive {
    fn parse<'f>(text: &'f str, arguments: &mut std::slice::Iter<'_, Value>) -> Result<(Self, &'f str), Misuse> {
        let mut directive = Self::default();
        let mut rest = text;
        while let Some(flag) = rest.chars().next() {
            match flag {
                '-' => directive.left = true,
                '+' => directive.plus = true,
                ' ' => directive.space = true,
                '#' => directive.sharp = true,
                '0' => directive.zero = true,
                _ => break,
            }
            rest = rest.get(1..).unwrap_or_default();
        }
        let width;
        (width, rest) = count(rest, arguments)?;
        directive.width = width.unwrap_or(0);
        if let Some(after) = rest.strip_prefix('.') {
            let precision;
            (precision, rest) = count(after, arguments)?;
            directive.precision = Some(precision.unwrap_or(0));
        }
        directive.verb = rest.chars().next().ok_or("the format ends within a `%…`")?;
        let after = rest.get(directive.verb.len_utf8()..).unwrap_or_default();
        Ok((directive, after))
    }

    fn write(&self, out: &mut String, heap: &mut Heap<'_>, value: &Value) -> Result<(), Misuse> {
        let unfit = || format!("`%{}` cannot write {}", self.verb, value.describe());
        let text = match (self.verb, value) {
            ('v' | 'd', Value::Int(number)) => {
                self.pad_number(out, &self.signed(*number, 10));
                return Ok(());
            }
            ('x' | 'X' | 'o' | 'b', Value::Int(number)) => {
                let radix = match self.verb {
                    'o' => 8,
                    'b' => 2,
                    _ => 16,
                };
                self.pad_number(out, &self.signed(*number, radix));
                return Ok(());
            }
            ('c', Value::Int(number)) => {
                u32::try_from(*number).ok().and_then(char::from_u32).ok_or_else(unfit)?.to_string()
            }
            ('U', Value::Int(number)) => format!("U+{number:04X}"),
            ('v' | 'g' | 'f' | 'F' | 'e' | 'E' | 'G', Value::Float(number)) => {
                self.pad_number(out, &self.float(*number));
                return Ok(());
            }
            ('t' | 'v', Value::Bool(flag)) => flag.to_string(),
            ('s' | 'v', Value::Text(text)) => self.shortened(text).to_owned(),
            ('q', Value::Text(text)) => {
                let mut quoted = String::new();
                quote(&mut quoted, self.shortened(text));
                quoted
            }
            ('x', Value::Text(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
            ('X', Value::Text(text)) => text.bytes().map(|byte| format!("{byte:02X}")).collect(),
            ('v' | 's' | 'q', Value::List(_) | Value::Map(_) | Value::Nil) => {
                let quoting = if self.verb == 'q' { Quoting::Quoted } else { Quoting::Plain };
                let mut text = String::new();
                write_within(&mut text, heap, value, quoting, NESTING_LIMIT)?;
                text
            }
            _ => return Err(unfit()),
        };
        heap.charge(text.len() / 16)?;
        self.pad(out, &text, ' ');
        Ok(())
    }

    fn shortened<'t>(&self, text: &'t str) -> &'t str {
        let end = self.precision.and_then(|most| text.char_indices().nth(most)).map_or(text.len(), |(end, _)| end);
        text.get(..end).unwrap_or(text)
    }

    fn signed(&self, number: i64, radix: u32) -> String {
        let magnitude = number.unsigned_abs();
        let (prefix, digits) = match (radix, self.verb) {
            (16, 'X') => ("0X", format!("{magnitude:X}")),
            (16, _) => ("0x", format!("{magnitude:x}")),
            (8, _) => ("0", format!("{magnitude:o}")),
            (2, _) => ("0b", format!("{magnitude:b}")),
            _ => ("", magnitude.to_string()),
        };
        let digits = format!("{digits:0>width$}", width = self.precision.unwrap_or(1));
        format!("{}{}{digits}", self.sign(number < 0), if self.sharp { prefix } else { "" })
    }

    fn float(&self, number: f64) -> String {
        let magnitude = number.abs();
        let digits = match (self.verb, self.precision) {
            _ if !number.is_finite() => float(magnitude).trim_start_matches('+').to_owned(),
            ('f' | 'F', precision) => format!("{magnitude:.*}", precision.unwrap_or(6)),
            ('e' | 'E', precision) => exponential(&format!("{magnitude:.*e}", precision.unwrap_or(6))),
            (_, None) => float(magnitude),
            (_, Some(precision)) => significant(magnitude, precision.max(1)),
        };
        let digits = if self.verb.is_ascii_uppercase() { digits.to_uppercase() } else { digits };
        format!("{}{digits}", self.sign(number.is_sign_negative()))
    }

    fn sign(&self, negative: bool) -> &'static str {
        match (negative, self.plus, self.space) {
            (true, ..) => "-",
            (false, true, _) => "+",
            (false, false, true) => " ",
            _ => "",
        }
    }

    /// Zeros go behind the sign.
    fn pad_number(&self, out: &mut String, number: &str) {
        if !self.zero || self.left {
            return self.pad(out, number, ' ');
        }
        let digits = number.trim_start_matches(['+', '-', ' ']);
        let sign = number.get(..number.len() - digits.len()).unwrap_or_default();
        out.push_str(sign);
        put(out, format_args!("{digits:0>width$}", width = self.width.saturating_sub(sign.len())));
    }

    fn pad(&self, out: &mut String, text: &str, fill: char) {
        let missing = self.width.saturating_sub(text.chars().count());
        let padding = std::iter::repeat_n(fill, missing);
        if self.left {
            out.push_str(text);
            out.extend(padding);
        } else {
            out.extend(padding);
            out.push_str(text);
        }
    }
}

/// `%g` with a precision: so many digits, without zeros at the end.
fn significant(magnitude: f64, digits: usize) -> String {
    let scientific = format!("{magnitude:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent = exponent.parse::<i32>().unwrap_or(0);
    let trimmed = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    let most = i32::try_from(digits).unwrap_or(i32::MAX);
    if exponent < -4 || exponent >= most {
        return exponential(&format!("{}e{exponent}", trimmed(mantissa)));
    }
    let fraction = usize::try_from(most - 1 - exponent).unwrap_or(0);
    trimmed(&format!("{magnitude:.fraction$}"))
}

/// A width or precision: digits, or `*` for the next value.
fn count<'f>(text: &'f str, arguments: &mut std::slice::Iter<'_, Value>) -> Result<(Option<usize>, &'f str), Misuse> {
    let wide = || format!("widths and precisions go up to {WIDTH_LIMIT}");
    if let Some(rest) = text.strip_prefix('*') {
        let Some(Value::Int(width)) = arguments.next() else { return Err("`*` needs a number".into()) };
        let width = usize::try_from(*width).ok().filter(|width| *width <= WIDTH_LIMIT).ok_or_else(wide)?;
        return Ok((Some(width), rest));
    }
    let end = text.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    if digits.is_empty() {
        return Ok((None, rest));
    }
    let width = digits.parse().ok().filter(|width| *width <= WIDTH_LIMIT).ok_or_else(wide)?;
    Ok((Some(width), rest))
}

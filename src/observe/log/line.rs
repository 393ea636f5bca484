//! One line of the process log: text for people, JSON for machines.

use std::fmt::{self, Write};

use ::log::kv::{Key, Value, VisitSource};
use ::log::{Level, Record};

use crate::observe::calendar::Moment;
use crate::observe::escape::{push_json, push_number, push_text, push_words};

/// No line is longer, its newline included.
const MAX_LINE: usize = 16 * 1024;
const MAX_MESSAGE: usize = 8 * 1024;
const MAX_VALUE: usize = 1024;
const MAX_KEY: usize = 64;
/// Room kept for what stands behind the pairs: time and message keys, braces.
const TAIL: usize = 256;

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Style {
    pub(super) json: bool,
    pub(super) colours: bool,
    /// Whether lines begin with `<N>`, the priority as the journal reads it.
    pub(super) priorities: bool,
}

/// Appends `record`, said at `level` (which may be lower than its own).
pub(super) fn push_line(line: &mut Vec<u8>, style: Style, record: &Record<'_>, said: (Level, Moment)) {
    let (level, moment) = said;
    if style.priorities {
        line.extend_from_slice(priority(level));
    }
    if style.json {
        push_json_line(line, record, level, moment);
    } else {
        push_text_line(line, style.colours, record, said);
    }
    line.push(b'\n');
}

fn push_text_line(line: &mut Vec<u8>, colours: bool, record: &Record<'_>, (level, moment): (Level, Moment)) {
    let [dim, strong, reset] = if colours { ["\x1b[2m", colour(level), "\x1b[0m"] } else { [""; 3] };
    line.extend_from_slice(dim.as_bytes());
    moment.push_rfc3339_millis(line, 0);
    let _ = write!(Appending(line), "{reset} {strong}{level:<5}{reset} ");
    let end = line.len() + MAX_MESSAGE;
    let _ = write!(Words { line, end }, "{}", record.args());
    let _ = record.key_values().visit(&mut TextPairs { line, dim, reset });
    if !is_ours(record.target()) {
        let _ = write!(Appending(line), "{dim} module=");
        push_text(line, record.target().as_bytes(), MAX_VALUE);
        line.extend_from_slice(reset.as_bytes());
    }
}

fn push_json_line(line: &mut Vec<u8>, record: &Record<'_>, level: Level, moment: Moment) {
    line.extend_from_slice(b"{\"level\":\"");
    line.extend_from_slice(lower(level).as_bytes());
    line.push(b'"');
    if !is_ours(record.target()) {
        line.extend_from_slice(b",\"module\":\"");
        push_json(line, record.target().as_bytes(), MAX_VALUE);
        line.push(b'"');
    }
    let end = line.len() + MAX_LINE - MAX_MESSAGE - TAIL;
    let _ = record.key_values().visit(&mut JsonPairs { line, end });
    line.extend_from_slice(b",\"time\":\"");
    moment.push_rfc3339_millis(line, 0);
    line.extend_from_slice(b"\",\"message\":\"");
    let end = line.len() + MAX_MESSAGE;
    let _ = write!(JsonText { line, end }, "{}", record.args());
    line.extend_from_slice(b"\"}");
}

/// Whether a line comes from this crate.
pub(super) fn is_ours(target: &str) -> bool {
    target.strip_prefix("portcullis").is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn lower(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::Error => "\x1b[31;1m",
        Level::Warn => "\x1b[33m",
        Level::Info => "\x1b[32m",
        Level::Debug => "\x1b[36m",
        Level::Trace => "\x1b[35m",
    }
}

/// Priorities of syslog, as sd-daemon(3) has them.
fn priority(level: Level) -> &'static [u8] {
    match level {
        Level::Error => b"<3>",
        Level::Warn => b"<4>",
        Level::Info => b"<6>",
        Level::Debug | Level::Trace => b"<7>",
    }
}

struct Appending<'a>(&'a mut Vec<u8>);

impl Write for Appending<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// A message on its way into a text line, as far as there is room.
struct Words<'a> {
    line: &'a mut Vec<u8>,
    end: usize,
}

impl Write for Words<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        /// Bytes looked at in one go; escapes take up to four bytes for one.
        const STEP: usize = 256;
        let mut rest = text;
        while !rest.is_empty() {
            let (step, after) = rest.split_at(rest.floor_char_boundary(STEP));
            if self.line.len() + 4 * step.len() > self.end {
                return Err(fmt::Error);
            }
            push_words(self.line, step, 4 * STEP);
            rest = after;
        }
        Ok(())
    }
}

/// A message on its way into a JSON string, as far as there is room.
struct JsonText<'a> {
    line: &'a mut Vec<u8>,
    end: usize,
}

impl Write for JsonText<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.end.checked_sub(self.line.len()).ok_or(fmt::Error)?;
        push_json(self.line, text.as_bytes(), room);
        Ok(())
    }
}

struct TextPairs<'a> {
    line: &'a mut Vec<u8>,
    dim: &'static str,
    reset: &'static str,
}

impl<'kvs> VisitSource<'kvs> for TextPairs<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), ::log::kv::Error> {
        if self.line.len() + MAX_KEY + MAX_VALUE + TAIL > MAX_LINE {
            return Ok(());
        }
        self.line.push(b' ');
        self.line.extend_from_slice(self.dim.as_bytes());
        push_text(self.line, key.as_str().as_bytes(), MAX_KEY);
        self.line.push(b'=');
        self.line.extend_from_slice(self.reset.as_bytes());
        with_text(&value, |text| {
            let quoted = text.is_empty() || text.contains([' ', '"', '=']);
            self.line.extend(quoted.then_some(b'"'));
            push_text(self.line, text.as_bytes(), MAX_VALUE);
            self.line.extend(quoted.then_some(b'"'));
        });
        Ok(())
    }
}

struct JsonPairs<'a> {
    line: &'a mut Vec<u8>,
    end: usize,
}

impl<'kvs> VisitSource<'kvs> for JsonPairs<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), ::log::kv::Error> {
        if self.line.len() + MAX_KEY + MAX_VALUE > self.end {
            return Ok(());
        }
        let key = key.as_str();
        self.line.extend_from_slice(b",\"");
        if ["level", "module", "time", "message"].contains(&key) {
            self.line.push(b'_');
        }
        push_json(self.line, key.as_bytes(), MAX_KEY);
        self.line.extend_from_slice(b"\":");
        if let Some(number) = value.to_u64() {
            push_number(self.line, number);
        } else if let Some(number) = value.to_i64() {
            let _ = write!(Appending(self.line), "{number}");
        } else if let Some(truth) = value.to_bool() {
            self.line.extend_from_slice(if truth { b"true" } else { b"false" });
        } else if let Some(number) = value.to_f64().filter(|number| number.is_finite()) {
            let _ = write!(Appending(self.line), "{number}");
        } else {
            self.line.push(b'"');
            with_text(&value, |text| push_json(self.line, text.as_bytes(), MAX_VALUE));
            self.line.push(b'"');
        }
        Ok(())
    }
}

fn with_text(value: &Value<'_>, write: impl FnOnce(&str)) {
    match value.to_borrowed_str() {
        Some(text) => write(text),
        None => write(&value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::log::kv::{Source, ToValue};
    use std::time::{Duration, UNIX_EPOCH};

    const JSON: Style = Style { json: true, colours: false, priorities: false };
    const TEXT: Style = Style { json: false, colours: false, priorities: false };

    fn line(style: Style, target: &str, message: fmt::Arguments<'_>, pairs: &[(&str, Value<'_>)]) -> String {
        let pairs: Vec<(&str, Value<'_>)> = pairs.to_vec();
        let source: &dyn Source = &pairs;
        let record = Record::builder().level(Level::Warn).target(target).args(message).key_values(&source).build();
        let mut line = Vec::new();
        let moment = Moment::of(UNIX_EPOCH + Duration::from_millis(1_709_210_096_123));
        push_line(&mut line, style, &record, (Level::Warn, moment));
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn text() {
        let pairs =
            [("router", "a@file".to_value()), ("count", 7_u64.to_value()), ("rule", "Host(`a b`)\n".to_value())];
        assert_eq!(
            line(TEXT, "portcullis::control", format_args!("say \"hi\"\nü \x1b[0m"), &pairs),
            "2024-02-29T12:34:56.123Z WARN  say \"hi\"\\n\\xc3\\xbc \\x1b[0m router=a@file count=7 rule=\"Host(`a b`)\\n\"\n"
        );
        assert_eq!(
            line(TEXT, "notify::poll", format_args!("x"), &[]),
            "2024-02-29T12:34:56.123Z WARN  x module=notify::poll\n"
        );
        let coloured = line(Style { colours: true, priorities: true, ..TEXT }, "portcullis", format_args!("x"), &[]);
        assert!(coloured.starts_with("<4>\x1b[2m2024") && coloured.contains("\x1b[33mWARN "), "{coloured:?}");
    }

    #[test]
    fn json() {
        let pairs = [
            ("level", "x".to_value()),
            ("ok", true.to_value()),
            ("count", (-7_i64).to_value()),
            ("ratio", 0.5_f64.to_value()),
            ("path", "/\"\r\n".to_value()),
        ];
        assert_eq!(
            line(JSON, "portcullis", format_args!("say \"hi\""), &pairs),
            "{\"level\":\"warn\",\"_level\":\"x\",\"ok\":true,\"count\":-7,\"ratio\":0.5,\"path\":\"/\\\"\\r\\n\",\
             \"time\":\"2024-02-29T12:34:56.123Z\",\"message\":\"say \\\"hi\\\"\"}\n"
        );
    }

    #[test]
    fn no_line_is_too_long_and_json_stays_json() {
        let long = "\u{1}\"ü".repeat(20_000);
        let pairs: Vec<_> = (0..40).map(|_| ("a-rather-long-key", long.to_value())).collect();
        for style in [TEXT, JSON] {
            let line = line(style, "x", format_args!("{long}"), &pairs);
            assert!(line.len() <= MAX_LINE, "{}", line.len());
            assert!(!style.json || serde_json::from_str::<serde_json::Value>(&line).is_ok());
        }
    }
}

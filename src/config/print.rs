//! What holds in the end, written out for people in any format that can be read.

use std::fmt::Write;

use serde_json::Value;

use super::format::Format;
use super::install::Install;
use super::routing::Routing;
use crate::problem::Problem;

/// Writes what is read at start, and what may change at any time if it is given. Secrets are not shown.
///
/// # Errors
/// If a part cannot be written in that format.
pub fn effective(install: &Install, routing: Option<&Routing>, format: Format) -> Result<String, Problem> {
    let unwritable = |error: &dyn std::fmt::Display| Problem::at("", format!("cannot be written: {error}"));
    let mut all = serde_json::to_value(install).map_err(|error| unwritable(&error))?;
    if let (Some(routing), Value::Object(all)) = (routing, &mut all)
        && let Value::Object(routing) = serde_json::to_value(routing).map_err(|error| unwritable(&error))?
    {
        all.extend(routing);
    }
    drop_nulls(&mut all);
    match format {
        Format::Json => serde_json::to_string_pretty(&all).map(|text| text + "\n").map_err(|error| unwritable(&error)),
        Format::Toml => ::toml::to_string_pretty(&all).map_err(|error| unwritable(&error)),
        Format::Yaml => Ok(yaml(&all)),
    }
}

/// Nothing is written for what is not there; TOML has no word for it.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(entries) => {
            entries.retain(|_, value| !value.is_null());
            entries.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn yaml(value: &Value) -> String {
    let mut out = String::new();
    push_yaml(&mut out, value, 0);
    out
}

/// Writes a value that stands behind a key or a dash, from the line of that key or dash on.
fn push_yaml(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(entries) if !entries.is_empty() => {
            for (index, (key, value)) in entries.iter().enumerate() {
                if index > 0 || out.is_empty() || out.ends_with('\n') {
                    let _ = write!(out, "{:indent$}", "");
                }
                push_scalar(out, key);
                out.push(':');
                push_nested(out, value, indent);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let _ = write!(out, "{:indent$}- ", "");
                match item {
                    Value::Array(_) => {
                        let _ = writeln!(out, "{item}");
                    }
                    _ => push_yaml(out, item, indent + 2),
                }
            }
        }
        Value::String(text) => {
            push_scalar(out, text);
            out.push('\n');
        }
        other => {
            let _ = writeln!(out, "{other}");
        }
    }
}

fn push_nested(out: &mut String, value: &Value, indent: usize) {
    let is_block = match value {
        Value::Object(entries) => !entries.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    out.push(if is_block { '\n' } else { ' ' });
    push_yaml(out, value, indent + 2);
}

/// Text as it is where it cannot be taken for something else, in quotes otherwise: JSON's quotes are YAML's too.
fn push_scalar(out: &mut String, text: &str) {
    let mut bytes = text.bytes();
    let is_plain = bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'/')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"/_.-@".contains(&byte));
    let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf"];
    if is_plain && !words.iter().any(|word| word.eq_ignore_ascii_case(text)) {
        out.push_str(text);
    } else {
        let _ = write!(out, "{}", Value::from(text));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::format::parse;
    use super::super::load;
    use super::super::tree::Sources;
    use super::*;

    const ROUTING: &str = r#"{"http": {
        "routers": {"a": {"rule": "Host(`a`) || Path(`/x: y`)", "service": "s", "entryPoints": ["web"]}},
        "services": {"s": {"loadBalancer": {"servers": [{"url": "http://127.0.0.1:1", "weight": 2}, {"url": "http://127.0.0.1:2"}]}}}
    }}"#;

    #[test]
    fn every_format_reads_back_as_the_same() {
        let routing = load::dynamic(ROUTING, Format::Json, "f", "file").0;
        let install = Install::default();
        let expected: Value =
            serde_json::from_str(&effective(&install, Some(&routing), Format::Json).unwrap()).unwrap();
        for format in [Format::Toml, Format::Yaml] {
            let text = effective(&install, Some(&routing), format).unwrap();
            let read = parse(&text, format, "f", &mut Sources::default()).unwrap().to_json();
            assert_eq!(read, expected, "{text}");
        }
    }

    #[test]
    fn yaml_is_what_people_write() {
        let value =
            serde_json::json!({"a": {"b": [{"c": "x", "d": [1, 2]}, {"c": ":80"}], "e": {}, "f": []}, "g": "yes"});
        let expected = "a:\n  b:\n    - c: x\n      d:\n        - 1\n        - 2\n    - c: \":80\"\n  e: {}\n  f: []\ng: \"yes\"\n";
        assert_eq!(yaml(&value), expected);
    }

    proptest! {
        #[test]
        fn any_text_survives_yaml(text in "\\PC{0,20}|[ \\t\\n:#'\"{}-]{0,6}") {
            let value = serde_json::json!({"k": [text.clone()], "l": {"m": text}});
            let read = parse(&yaml(&value), Format::Yaml, "f", &mut Sources::default()).map(|node| node.to_json());
            prop_assert_eq!(read.ok(), Some(value));
        }
    }
}

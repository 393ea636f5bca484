//! What differs between two static configurations: the one that a process runs with, and the one that is written now.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

use super::deserialize::follows_from;
use super::install::Install;
use crate::problem::Problem;

/// Longest value that is shown in one line, in characters.
const SHOWN_LIMIT: usize = 200;

/// A setting that a process runs with another value than the one that is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its path: `entryPoints.web.address`.
    pub setting: String,
    /// The value that holds; null if it is not set.
    pub running: Value,
    /// The value that is written; null if it is not set.
    pub written: Value,
}

impl Difference {
    /// Whether it may only be there because something was left out that is wrong.
    pub fn follows_from(&self, problem: &Problem) -> bool {
        follows_from(&self.setting, &problem.path)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.setting, shown(&self.running), shown(&self.written))
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "not set".to_owned(),
        // All of its defaults would be listed.
        Value::Object(_) => "set".to_owned(),
        other => {
            let text = other.to_string();
            match text.char_indices().nth(SHOWN_LIMIT) {
                Some((end, _)) => format!("{}…", &text[..end]),
                None => text,
            }
        }
    }
}

/// Each setting that differs, in the order of their paths.
///
/// Values are compared as they are written out, where a secret is `***`: those are compared besides.
pub fn between(running: &Install, written: &Install) -> Vec<Difference> {
    let mut found = BTreeMap::new();
    let as_json = |install: &Install| serde_json::to_value(install).unwrap_or_default();
    compare(String::new(), &as_json(running), &as_json(written), &mut found);
    let secret = |install: &Install, name: &str| {
        let acme = install.certificates_resolvers.get(name)?.acme.as_ref()?;
        Some(acme.eab.as_ref()?.hmac_encoded.clone())
    };
    for name in running.certificates_resolvers.keys() {
        if let (Some(a), Some(b)) = (secret(running, name), secret(written, name))
            && a != b
        {
            let path = format!("certificatesResolvers.{name}.acme.eab.hmacEncoded");
            found.insert(path, ("***".into(), "*** (another)".into()));
        }
    }
    found.into_iter().map(|(setting, (running, written))| Difference { setting, running, written }).collect()
}

fn compare(path: String, running: &Value, written: &Value, found: &mut BTreeMap<String, (Value, Value)>) {
    match (running, written) {
        (Value::Object(a), Value::Object(b)) => {
            for key in keys(a, b) {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(below, a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() && a.iter().all(Value::is_object) => {
            for (at, (a, b)) in a.iter().zip(b).enumerate() {
                compare(format!("{path}[{at}]"), a, b, found);
            }
        }
        (a, b) if a == b => {}
        (a, b) => drop(found.insert(path, (a.clone(), b.clone()))),
    }
}

/// The keys of both, each once.
fn keys<'v>(a: &'v Map<String, Value>, b: &'v Map<String, Value>) -> impl Iterator<Item = &'v String> {
    a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Format, load};

    fn check(running: &str, written: &str, expected: &[&str]) {
        let read = |text| {
            let (install, problems) = load::install_text(text, Format::Yaml, "f");
            assert!(problems.is_empty(), "{text}: {problems}");
            install
        };
        let found: Vec<_> = between(&read(running), &read(written)).iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{running} {written}");
    }

    #[test]
    fn each_setting_that_differs_is_named() {
        check("entryPoints: {web: {address: ':80'}}", "entryPoints: {web: {address: ':80'}}", &[]);
        // As written differently, but the same.
        check("log: {level: info}", "log: {level: INFO}", &[]);
        check(
            "entryPoints: {web: {address: ':80'}, old: {address: ':81'}}\nthreads: 2",
            "entryPoints: {web: {address: ':8080', http: {middlewares: [a]}}, new: {address: ':82'}}\napi: {}",
            &[
                "api: not set -> set",
                "entryPoints.new: not set -> set",
                "entryPoints.old: set -> not set",
                "entryPoints.web.address: \":80\" -> \":8080\"",
                "entryPoints.web.http.middlewares: not set -> [\"a\"]",
                "threads: 2 -> not set",
            ],
        );
        check(
            "serversTransport: {maxIdleConnsPerHost: 5, forwardingTimeouts: {dialTimeout: 60}}",
            "serversTransport: {rootCAs: [a], forwardingTimeouts: {dialTimeout: 1m}}",
            &["serversTransport.maxIdleConnsPerHost: 5 -> 200", "serversTransport.rootCAs: [] -> [\"a\"]"],
        );
        check("{}", "providers: {file: {filename: /a.yaml}}", &["providers.file: not set -> set"]);
    }
}

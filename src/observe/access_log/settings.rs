//! `accessLog` as written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::problem::{Problem, Problems};
use crate::units::{Duration, StatusRange};

use super::field::Field;

/// `accessLog`: one line per request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Settings {
    /// The file that lines are appended to. Standard output if empty.
    pub file_path: String,
    /// The form of a line.
    pub format: Format,
    /// Which requests are written. All, if no filter is set; otherwise those that any filter lets through.
    pub filters: Filters,
    /// Which parts of a request are written.
    pub fields: Fields,
    /// How many lines may wait for the disk. A small number is raised: requests never wait for the log, so a short queue
    /// would lose lines that Traefik would write late.
    pub buffering_size: u64,
    /// Whether requests to internal services (ping, dashboard, metrics, API) are written too.
    pub add_internals: bool,
    /// Write lines here besides OTLP. Has no effect without `otlp`.
    pub dual_output: bool,
    /// OpenTelemetry export. Not available: refused by [`Settings::check`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp: Option<Value>,
}

impl Settings {
    /// What cannot act, and what is likely not meant.
    pub fn check(&self) -> Problems {
        let mut problems = Problems::new();
        if self.otlp.is_some() {
            problems.push(
                Problem::at("otlp", "access logs cannot be sent to an OpenTelemetry collector yet")
                    .with_help("remove the key; a collector can read the JSON lines from standard output or the file"),
            );
        } else if self.dual_output {
            problems.push(Problem::warning("dualOutput", "has no effect without `otlp`"));
        }
        for name in self.fields.names.keys() {
            if Field::named(name).is_none() {
                problems.push(Problem::warning(format!("fields.names.{name}"), "no field has this name"));
            }
        }
        for name in self.fields.headers.names.keys() {
            if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
                problems.push(Problem::warning(format!("fields.headers.names.{name}"), "no header can have this name"));
            }
        }
        problems
    }
}

/// The form of an access-log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// The Common Log Format, extended by Traefik: request count, router, server and duration follow the user agent.
    #[default]
    #[serde(rename = "common")]
    Common,
    /// The Common Log Format up to the user agent.
    #[serde(rename = "genericCLF")]
    GenericClf,
    /// One JSON object per line.
    #[serde(rename = "json")]
    Json,
}

/// Which requests are written. The filters are alternatives.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Filters {
    /// Answers whose status is in one of these: `404`, `500-599`.
    pub status_codes: Vec<StatusRange>,
    /// Requests that needed more than one attempt.
    pub retry_attempts: bool,
    /// Requests that took longer.
    pub min_duration: Duration,
}

/// Which parts of a request are written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Fields {
    /// What happens to fields that `names` does not name.
    pub default_mode: Mode,
    /// What happens to single fields.
    pub names: BTreeMap<String, Mode>,
    /// What happens to header fields.
    pub headers: Headers,
    /// What happens to the query.
    pub query_parameters: QueryParameters,
}

/// What happens to header fields, of the request, of the server's answer and of ours.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Headers {
    /// What happens to those that `names` does not name. With `keep`, credentials and cookies are redacted still: they are
    /// written only if `names` says `keep`.
    pub default_mode: HeaderMode,
    /// What happens to single header fields, by name in any case.
    pub names: BTreeMap<String, HeaderMode>,
}

/// What happens to the query of a path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct QueryParameters {
    /// Whether it is written.
    pub default_mode: Mode,
}

/// Whether something is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It is.
    #[default]
    Keep,
    /// It is not.
    Drop,
}

/// Whether a header field is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeaderMode {
    /// It is.
    Keep,
    /// It is not.
    #[default]
    Drop,
    /// Its name is, with `REDACTED` for its value.
    Redact,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traefik_defaults() {
        let settings: Settings = serde_json::from_str("{}").unwrap();
        assert_eq!(settings, Settings::default());
        assert_eq!(settings.format, Format::Common);
        assert_eq!(settings.fields.default_mode, Mode::Keep);
        assert_eq!(settings.fields.headers.default_mode, HeaderMode::Drop);
        assert_eq!(settings.fields.query_parameters.default_mode, Mode::Keep);
    }

    #[test]
    fn unknown_fields_are_named() {
        let settings: Settings =
            serde_json::from_str(r#"{"format":"genericCLF","fields":{"names":{"ClientPrt":"drop"}}}"#).unwrap();
        let problems = settings.check();
        assert_eq!(problems.iter().map(|p| p.path.as_str()).collect::<Vec<_>>(), ["fields.names.ClientPrt"]);
        assert!(!problems.has_errors());
    }
}

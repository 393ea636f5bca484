//! `log`, `accessLog`, `metrics`: what is recorded, and where it goes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::units::Duration;

/// The process log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Log {
    /// Least level that is written: `TRACE`, `DEBUG`, `INFO`, `WARN`, `ERROR`, `FATAL`, `PANIC`, whatever the case.
    pub level: Box<str>,
    /// `common` or `json`.
    pub format: LogFormat,
    /// Writes no colours.
    pub no_color: bool,
    /// File to write to; the standard output if empty.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub file_path: Box<str>,
    /// Size in megabytes at which the file is rotated; zero means 100.
    pub max_size: i64,
    /// Days after which rotated files are removed; zero means never.
    pub max_age: i64,
    /// Most rotated files that are kept; zero means all.
    pub max_backups: i64,
    /// Compresses rotated files.
    pub compress: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "ERROR".into(),
            format: LogFormat::Common,
            no_color: false,
            file_path: "".into(),
            max_size: 0,
            max_age: 0,
            max_backups: 0,
            compress: false,
        }
    }
}

/// How the process log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Common,
    /// For machines.
    Json,
}

/// The access log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AccessLog {
    /// File to write to; the standard output if empty.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub file_path: Box<str>,
    /// How a line is written.
    pub format: AccessLogFormat,
    /// Which requests are written.
    pub filters: AccessLogFilters,
    /// Which fields are written.
    pub fields: AccessLogFields,
    /// Most lines that may wait to be written.
    pub buffering_size: i64,
    /// Whether requests to our own services are written.
    pub add_internals: bool,
}

/// How a line of the access log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AccessLogFormat {
    /// The common log format, with our own columns at the end.
    #[default]
    Common,
    /// The common log format, ending with the user agent.
    #[serde(rename = "genericCLF")]
    GenericClf,
    /// One object per line.
    Json,
}

/// Which requests are written: those that pass any of the filters; all of them if there are none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AccessLogFilters {
    /// Codes and ranges: `200`, `400-499`.
    pub status_codes: Vec<String>,
    /// Requests that were retried.
    pub retry_attempts: bool,
    /// Requests that took at least so long.
    pub min_duration: Duration,
}

/// Which fields are written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AccessLogFields {
    /// What happens to fields that are not named.
    pub default_mode: FieldMode,
    /// What happens to each named field.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub names: BTreeMap<String, FieldMode>,
    /// What happens to headers.
    pub headers: AccessLogHeaders,
    /// What happens to the query of the path.
    pub query_parameters: AccessLogQuery,
}

impl Default for AccessLogFields {
    fn default() -> Self {
        Self {
            default_mode: FieldMode::Keep,
            names: BTreeMap::new(),
            headers: AccessLogHeaders::default(),
            query_parameters: AccessLogQuery::default(),
        }
    }
}

/// What happens to headers in the access log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AccessLogHeaders {
    /// What happens to headers that are not named.
    pub default_mode: FieldMode,
    /// What happens to each named header.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub names: BTreeMap<String, FieldMode>,
}

impl Default for AccessLogHeaders {
    fn default() -> Self {
        Self { default_mode: FieldMode::Drop, names: BTreeMap::new() }
    }
}

/// What happens to the query of the path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AccessLogQuery {
    /// `keep` or `drop`.
    pub default_mode: FieldMode,
}

impl Default for AccessLogQuery {
    fn default() -> Self {
        Self { default_mode: FieldMode::Keep }
    }
}

/// What happens to one field of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FieldMode {
    /// It is written.
    Keep,
    /// It is left out.
    Drop,
    /// Its name is written, its value is not.
    Redact,
}

/// What is counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Metrics {
    /// Whether requests to our own services are counted.
    pub add_internals: bool,
    /// Shows the counts to Prometheus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<Prometheus>,
}

/// What is counted for Prometheus, and where it is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Prometheus {
    /// Upper bounds of the buckets of durations, in seconds.
    pub buckets: Vec<f64>,
    /// Counts per entry point.
    pub add_entry_points_labels: bool,
    /// Counts per router.
    pub add_routers_labels: bool,
    /// Counts per service.
    pub add_services_labels: bool,
    /// Entry point where `/metrics` is served.
    pub entry_point: Box<str>,
    /// Serves `/metrics` nowhere by itself; a router to `prometheus@internal` does.
    pub manual_routing: bool,
    /// Labels of the request counters, each with the request header that it is taken from.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub header_labels: BTreeMap<String, String>,
}

impl Default for Prometheus {
    fn default() -> Self {
        Self {
            buckets: vec![0.1, 0.3, 1.2, 5.0],
            add_entry_points_labels: true,
            add_routers_labels: false,
            add_services_labels: true,
            entry_point: "traefik".into(),
            manual_routing: false,
            header_labels: BTreeMap::new(),
        }
    }
}

//! `metrics` as written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::problem::{Problem, Problems};

/// `metrics`: what is counted, and who may read it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Settings {
    /// Whether requests to internal services (ping, dashboard, metrics, API) are counted too.
    pub add_internals: bool,
    /// Prometheus reads the metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<Prometheus>,
    /// Datadog. Not available: refused by [`Settings::check`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datadog: Option<Value>,
    /// StatsD. Not available: refused by [`Settings::check`].
    #[serde(rename = "statsD", skip_serializing_if = "Option::is_none")]
    pub stats_d: Option<Value>,
    /// InfluxDB 2. Not available: refused by [`Settings::check`].
    #[serde(rename = "influxDB2", skip_serializing_if = "Option::is_none")]
    pub influx_db2: Option<Value>,
    /// OpenTelemetry. Not available: refused by [`Settings::check`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp: Option<Value>,
}

impl Settings {
    /// What cannot act, and what is likely not meant.
    pub fn check(&self) -> Problems {
        let mut problems = Problems::new();
        for (key, written) in [
            ("datadog", &self.datadog),
            ("statsD", &self.stats_d),
            ("influxDB2", &self.influx_db2),
            ("otlp", &self.otlp),
        ] {
            if written.is_some() {
                problems.push(
                    Problem::at(key, "metrics cannot be sent there yet")
                        .with_help("use `prometheus`; an agent of that system can read its page"),
                );
            }
        }
        if let Some(prometheus) = &self.prometheus {
            problems.extend(prometheus.check().into_iter().map(|problem| problem.under("prometheus")));
        }
        problems
    }
}

/// `metrics.prometheus`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Prometheus {
    /// Upper bounds of the duration histograms, in seconds, rising.
    pub buckets: Vec<f64>,
    /// Whether requests are counted per entry point.
    pub add_entry_points_labels: bool,
    /// Whether requests are counted per router.
    pub add_routers_labels: bool,
    /// Whether requests are counted per service.
    pub add_services_labels: bool,
    /// The entry point that serves `/metrics`.
    pub entry_point: String,
    /// Whether only a router of your own to `prometheus@internal` serves the page.
    pub manual_routing: bool,
    /// Further labels of the `requests_total` families: label to the request header that holds its value.
    pub header_labels: BTreeMap<String, String>,
}

impl Default for Prometheus {
    fn default() -> Self {
        Self {
            buckets: vec![0.1, 0.3, 1.2, 5.0],
            add_entry_points_labels: true,
            add_routers_labels: false,
            add_services_labels: true,
            entry_point: "traefik".to_owned(),
            manual_routing: false,
            header_labels: BTreeMap::new(),
        }
    }
}

/// More buckets than this per histogram cost more memory than they tell.
const MAX_BUCKETS: usize = 64;

impl Prometheus {
    /// What cannot act.
    pub fn check(&self) -> Problems {
        let mut problems = Problems::new();
        let rising = self.buckets.windows(2).all(|pair| pair[0] < pair[1]);
        if !rising || self.buckets.iter().any(|bound| !(bound.is_finite() && *bound > 0.0)) {
            problems.push(Problem::at("buckets", "must be positive numbers of seconds, each above the one before"));
        }
        if self.buckets.len() > MAX_BUCKETS {
            problems.push(Problem::at("buckets", format!("more than {MAX_BUCKETS} buckets")));
        }
        for (label, header) in &self.header_labels {
            let path = || format!("headerLabels.{label}");
            if !is_label(label) {
                problems.push(Problem::at(path(), "not a label name: letters, digits and `_`, and no digit first"));
            } else if TAKEN_LABELS.contains(&label.as_str()) {
                problems.push(Problem::at(path(), "the metrics have a label of this name already"));
            }
            if http::HeaderName::from_bytes(header.as_bytes()).is_err() {
                problems.push(Problem::at(path(), format!("`{header}` is not a header name")));
            }
        }
        problems
    }
}

const TAKEN_LABELS: [&str; 7] = ["code", "method", "protocol", "entrypoint", "router", "service", "le"];

fn is_label(text: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    text.starts_with(letter) && !text.starts_with("__") && text.chars().all(|c| letter(c) || c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traefik_defaults() {
        let settings: Settings = serde_json::from_str(r#"{"prometheus":{}}"#).unwrap();
        assert_eq!(settings.prometheus, Some(Prometheus::default()));
        assert!(settings.check().is_empty());
    }

    #[test]
    fn names_what_cannot_act() {
        let check = |text: &str, expected: &[&str]| {
            let settings: Settings = serde_json::from_str(text).unwrap();
            let paths: Vec<_> = settings.check().into_iter().map(|problem| problem.path).collect();
            assert_eq!(paths, expected, "{text}");
        };
        check(r#"{"otlp":{},"statsD":{"address":"x"}}"#, &["statsD", "otlp"]);
        check(r#"{"prometheus":{"buckets":[1,1]}}"#, &["prometheus.buckets"]);
        check(r#"{"prometheus":{"buckets":[-1,1]}}"#, &["prometheus.buckets"]);
        check(r#"{"prometheus":{"headerLabels":{"code":"X-A"}}}"#, &["prometheus.headerLabels.code"]);
        check(r#"{"prometheus":{"headerLabels":{"a-b":"X-A"}}}"#, &["prometheus.headerLabels.a-b"]);
        check(r#"{"prometheus":{"headerLabels":{"agent":"User Agent"}}}"#, &["prometheus.headerLabels.agent"]);
        check(r#"{"prometheus":{"headerLabels":{"agent":"User-Agent"}}}"#, &[]);
    }
}

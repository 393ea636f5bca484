//! `prometheus@internal`: the metrics as text.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use pingora::http::RequestHeader;

use crate::exchange::{Exchange, Reply};
use crate::observe::export::Exporter;
use crate::service::Internal;

/// Writes the metrics in Prometheus' text format.
pub struct Metrics {
    exporter: Arc<Exporter>,
}

impl Metrics {
    /// Shows what `exporter` gathers.
    pub fn new(exporter: Arc<Exporter>) -> Self {
        Self { exporter }
    }
}

impl Internal for Metrics {
    fn name(&self) -> &str {
        "prometheus"
    }

    fn reply<'a>(&'a self, _: &'a RequestHeader, _: &'a Exchange) -> BoxFuture<'a, Reply> {
        let exporter = self.exporter.clone();
        Box::pin(async move {
            // A scrape walks every series; it must not hold a traffic worker.
            match tokio::task::spawn_blocking(move || exporter.prometheus_text()).await {
                Ok(text) => Reply::status(StatusCode::OK)
                    .with(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"))
                    .with_body(text),
                Err(_) => Reply::status(StatusCode::INTERNAL_SERVER_ERROR),
            }
        })
    }
}

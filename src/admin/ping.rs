//! `ping@internal`: whether the gateway is well, for load balancers and health checks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
use http::StatusCode;
use pingora::http::RequestHeader;

use crate::exchange::{Exchange, Reply};
use crate::service::Internal;

/// Answers `OK`, or the terminating status once the process was told to stop.
#[derive(Debug)]
pub struct Ping {
    terminating: Arc<AtomicBool>,
    terminating_status: StatusCode,
}

impl Ping {
    /// `terminating` is set when the process drains; a status that is none counts as 503.
    pub fn new(terminating: Arc<AtomicBool>, terminating_status: u16) -> Self {
        let terminating_status = StatusCode::from_u16(terminating_status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        Self { terminating, terminating_status }
    }
}

impl Internal for Ping {
    fn name(&self) -> &str {
        "ping"
    }

    fn reply<'a>(&'a self, _: &'a RequestHeader, _: &'a Exchange) -> BoxFuture<'a, Reply> {
        let stops = self.terminating.load(Ordering::Relaxed);
        let status = if stops { self.terminating_status } else { StatusCode::OK };
        Box::pin(async move { Reply::text(status, status.canonical_reason().unwrap_or_default()) })
    }
}

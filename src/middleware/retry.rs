//! `retry`: another attempt after a failure.

use std::sync::Arc;

use pingora::http::RequestHeader;
use serde::{Deserialize, Serialize};

use super::{Flow, Kit, Middleware};
use crate::exchange::{Exchange, RetryPolicy};
use crate::problem::{Problem, Problems, all, each, refuse};
use crate::units::{Duration, StatusRange};

/// Most attempts that can be asked for.
const MOST_ATTEMPTS: i64 = 100;
/// What is kept of a request body where the settings ask for all of it, in bytes.
const BODY_CEILING_BYTES: usize = 16 << 20;

/// `retry` as written.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Settings {
    /// Attempts in total, the first one included. At least 1.
    pub attempts: i64,
    /// No further attempt starts later than this after the first one. 0: no such limit.
    pub timeout: Duration,
    /// First pause between attempts; it grows to twice as much until the last one, with jitter. 0: no pause.
    pub initial_interval: Duration,
    /// Largest request body that is kept for another attempt, in bytes; a request with a longer one is tried once.
    /// Negative: 16 MiB.
    pub max_request_body_bytes: i64,
    /// Answers after which there is another attempt: `500`, `500-599`.
    pub status: Vec<String>,
    /// Tries again after answers only, not after network errors. Needs `status`.
    pub disable_retry_on_network_error: bool,
    /// Tries `POST`, `PATCH` and `LOCK` again too, although the server may already have acted on them.
    pub retry_non_idempotent_method: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            attempts: 0,
            timeout: Duration::ZERO,
            initial_interval: Duration::ZERO,
            max_request_body_bytes: 2 << 20,
            status: Vec::new(),
            disable_retry_on_network_error: false,
            retry_non_idempotent_method: false,
        }
    }
}

/// Asks for another attempt after a failure. The driver, which alone sees attempts, grants it.
#[derive(Debug)]
pub struct Retry(Arc<RetryPolicy>);

impl Middleware for Retry {
    type Settings = Settings;

    fn build(settings: &Settings, _: &Kit<'_>) -> Result<Self, Problems> {
        let attempts = match settings.attempts {
            attempts @ 1..=MOST_ATTEMPTS => Ok(attempts as u32),
            attempts => Err(Problem::at("attempts", format!("{attempts} is not a number from 1 to {MOST_ATTEMPTS}"))),
        };
        let positive = |path: &str, time: Duration| {
            refuse(time.is_negative(), || Problem::at(path, format!("{time} is negative")))
        };
        let is_idle = refuse(settings.disable_retry_on_network_error && settings.status.is_empty(), || {
            Problem::at("disableRetryOnNetworkError", "leaves nothing to retry on")
                .with_help("name answers in `status`")
        });
        let statuses = settings.status.iter().enumerate().map(|(index, text)| {
            let range = StatusRange::parse(text).map_err(|message| Problem::at(format!("status[{index}]"), message));
            range.map(|range| (range.first, range.last))
        });
        let (attempts, (), (), (), statuses) = all((
            attempts,
            positive("timeout", settings.timeout),
            positive("initialInterval", settings.initial_interval),
            is_idle,
            each(statuses),
        ))?;
        Ok(Self(Arc::new(RetryPolicy {
            attempts,
            initial_interval: settings.initial_interval.or_zero(),
            timeout: settings.timeout.positive(),
            statuses,
            network_errors: !settings.disable_retry_on_network_error,
            non_idempotent: settings.retry_non_idempotent_method,
            body_limit_bytes: usize::try_from(settings.max_request_body_bytes).unwrap_or(BODY_CEILING_BYTES),
        })))
    }

    async fn on_request(&self, _: &mut RequestHeader, exchange: &mut Exchange) -> Flow {
        exchange.retry = Some(Arc::clone(&self.0));
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::sample;
    use crate::units::Name;

    fn build(json: &str) -> Result<Retry, String> {
        let name = Name::from("a@file");
        Retry::build(&serde_json::from_str(json).unwrap(), &Kit { name: &name }).map_err(|problem| problem.to_string())
    }

    #[tokio::test]
    async fn installs_its_policy() {
        let retry =
            build(r#"{"attempts":3,"initialInterval":"100ms","timeout":60,"status":["500-503","429"]}"#).unwrap();
        let mut exchange = sample::exchange();
        retry.on_request(&mut sample::request("GET", "/"), &mut exchange).await;
        let expected = RetryPolicy {
            attempts: 3,
            initial_interval: std::time::Duration::from_millis(100),
            timeout: Some(std::time::Duration::from_secs(60)),
            statuses: [(500, 503), (429, 429)].into(),
            network_errors: true,
            non_idempotent: false,
            body_limit_bytes: 2_097_152,
        };
        assert_eq!(exchange.retry.as_deref(), Some(&expected));
    }

    #[test]
    fn refuses_what_cannot_act() {
        for (json, part) in [
            ("{}", "attempts: 0 is not"),
            (r#"{"attempts":-1}"#, "attempts: -1 is not"),
            (r#"{"attempts":2,"timeout":-1}"#, "timeout: -1s is negative"),
            (r#"{"attempts":2,"disableRetryOnNetworkError":true}"#, "leaves nothing"),
            (r#"{"attempts":2,"status":["500","5xx"]}"#, "status[1]: `5xx`"),
            (r#"{"attempts":2,"status":["599-500"]}"#, "status[0]"),
            (r#"{"attempts":2,"status":["99"]}"#, "status[0]"),
        ] {
            let problem = build(json).unwrap_err();
            assert!(problem.contains(part), "{json}: {problem}");
        }
        assert_eq!(build(r#"{"attempts":2,"maxRequestBodyBytes":-1}"#).unwrap().0.body_limit_bytes, 16 << 20);
    }
}

//! How an attempt or a whole exchange ended.

use std::time::Duration;

use super::fault::Fault;

/// How one attempt at a server ended: what balancers and passive health checks learn from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttemptOutcome {
    /// Status of the server's answer, if it gave one.
    pub status: Option<u16>,
    /// Time from picking the server to the first byte of its answer.
    pub first_byte: Option<Duration>,
    /// What went wrong between us and the server, if something did.
    pub failure: Option<Fault>,
}

impl AttemptOutcome {
    /// Whether a passive health check counts it as a failure: a network error, or a 5xx answer.
    pub fn is_failure(&self) -> bool {
        self.failure.is_some_and(|fault| fault != Fault::ClientGone) || self.status.is_some_and(|status| status >= 500)
    }
}

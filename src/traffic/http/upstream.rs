//! Between us and a server: what the server is sent, what its failures mean, and whether another attempt is made.

use std::time::{Duration, Instant};

use http::header::{CONNECTION, HOST, HeaderName, HeaderValue, UPGRADE};
use http::uri::PathAndQuery;
use http::{StatusCode, Uri, Version};
use pingora::ErrorType;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::{Error, ErrorSource, Result};
use pingora_proxy::Session;

use crate::exchange::{AttemptOutcome, Fault};
use crate::service::Selection;

use super::Flight;
use super::hooks::HOP_BY_HOP;
use super::respond::ERROR_HEADER;

/// When an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Before a connection stood.
    Connect,
    /// On a connection.
    Exchange,
}

/// What a Pingora error between us and a server is called.
pub(super) fn fault_of(error: &Error, phase: Phase) -> Fault {
    match error.etype() {
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => Fault::ConnectTimeout,
        ErrorType::TLSHandshakeFailure | ErrorType::InvalidCert | ErrorType::HandshakeError => Fault::ServerTls,
        _ if phase == Phase::Connect => Fault::ConnectFailed,
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => Fault::ServerTimeout,
        ErrorType::InvalidHTTPHeader | ErrorType::H1Error | ErrorType::H2Error | ErrorType::InvalidH2 => {
            Fault::ServerProtocol
        }
        _ => Fault::ServerClosed,
    }
}

/// Host and path as the chosen server wants them.
pub(super) fn address(request: &mut RequestHeader, selection: &Selection) -> Result<()> {
    if !selection.pool.pass_host_header() {
        request.insert_header(HOST, selection.server.host_header().clone())?;
    }
    if let Some(base) = selection.server.base_path() {
        let target = request.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let joined = format!("{}/{}", base.trim_end_matches('/'), target.trim_start_matches('/'));
        let mut parts = request.uri.clone().into_parts();
        parts.path_and_query = joined.parse().ok();
        if let Ok(uri) = Uri::from_parts(parts) {
            request.set_uri(uri);
        }
    }
    Ok(())
}

/// A server may change the protocol only if the client has asked for it (RFC 9110 §7.8); otherwise its bytes would pass for
/// responses.
pub(super) fn check_switch(request: &RequestHeader) -> Result<()> {
    if request.version == Version::HTTP_11 && request.headers.contains_key(UPGRADE) {
        return Ok(());
    }
    let mut error = Error::explain(ErrorType::InvalidHTTPHeader, "the server changes the protocol unasked");
    error.as_up();
    Err(error)
}

/// Removes from a server's answer what concerns its own connection only (RFC 9110 §7.6.1), and what only we may say.
pub(super) fn clean_response(response: &mut ResponseHeader) {
    response.remove_header(&ERROR_HEADER);
    if response.status == StatusCode::SWITCHING_PROTOCOLS || !response.headers.contains_key(CONNECTION) {
        for name in &HOP_BY_HOP[..2] {
            response.remove_header(name);
        }
        return;
    }
    let nominated: smallvec::SmallVec<[HeaderName; 4]> = response
        .headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value: &HeaderValue| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        .filter(|name| !matches!(name.as_str(), "content-length" | "transfer-encoding" | "content-type" | "set-cookie"))
        .collect();
    for name in nominated.iter().chain(&HOP_BY_HOP[..3]).chain([&UPGRADE]) {
        response.remove_header(name);
    }
}

impl Flight {
    /// The server's final answer has begun.
    pub(super) fn note_answer(&mut self, status: StatusCode) {
        self.origin_status = status.as_u16();
        if let Some(started) = self.attempt_started {
            self.first_byte = Some(started.elapsed());
        }
    }

    /// Lets the attempt's server and strategy learn how it went, and gives the server back.
    pub(super) fn end_attempt(&mut self, status: Option<StatusCode>, failure: Option<Fault>) {
        if let Some(started) = self.attempt_started.take() {
            self.origin_duration += started.elapsed();
        }
        if let Some(selection) = self.selection.take() {
            if !self.tried.contains(&selection.server.id()) {
                self.tried.push(selection.server.id());
            }
            let outcome = AttemptOutcome {
                status: status.map(|status| status.as_u16()),
                first_byte: self.first_byte.take(),
                failure,
            };
            selection.finish(&outcome, Instant::now());
        }
        if failure.is_some() {
            self.fault = failure;
        }
    }

    /// Ends an attempt that the server is not to blame for, with the answer that it gave, if any.
    pub(super) fn release_attempt(&mut self) {
        if self.selection.is_some() {
            let status = StatusCode::from_u16(self.origin_status).ok();
            let failure = self.fault.filter(|_| status.is_none());
            self.end_attempt(status, failure.filter(|fault| *fault != Fault::ClientGone));
        }
    }

    /// Whether another attempt follows one that could not connect: nothing was sent, so every method may be tried again.
    pub(super) fn may_retry_connect(&self, request: &RequestHeader) -> bool {
        let _ = request;
        self.policy_allows(|policy| policy.network_errors)
    }

    /// Whether another attempt follows one that broke on a connection.
    ///
    /// Without a `retry` middleware there is one case: a pooled connection that the server had closed meanwhile, and a
    /// request that may be repeated. Pingora marks it (`pool_race`).
    pub(super) fn may_retry_exchange(&self, session: &Session, reused: bool, pool_race: bool) -> bool {
        if self.responding || session.as_ref().retry_buffer_truncated() {
            return false;
        }
        let idempotent = session.req_header().method.is_idempotent();
        if reused && pool_race && idempotent && self.attempt < RACE_ATTEMPTS {
            return true;
        }
        idempotent && self.policy_allows(|policy| policy.network_errors)
    }

    /// Whether an answer with this status is thrown away for another attempt.
    pub(super) fn wants_retry_of_status(&self, session: &Session, status: StatusCode) -> bool {
        if self.responding || session.as_ref().retry_buffer_truncated() || status.is_informational() {
            return false;
        }
        let idempotent = session.req_header().method.is_idempotent();
        self.policy_allows(|policy| (idempotent || policy.non_idempotent) && policy.wants_status(status.as_u16()))
    }

    /// How long to wait before the next attempt.
    pub(super) fn pause_before_attempt(&self) -> Option<Duration> {
        if self.attempt == 0 {
            return None;
        }
        self.exchange.as_ref()?.retry.as_ref()?.pause(self.attempt)
    }

    fn policy_allows(&self, wants: impl Fn(&crate::exchange::RetryPolicy) -> bool) -> bool {
        let Some(exchange) = &self.exchange else { return false };
        exchange.retry.as_ref().is_some_and(|policy| {
            self.attempt < policy.attempts
                && policy.timeout.is_none_or(|timeout| exchange.started.elapsed() < timeout)
                && wants(policy)
        })
    }
}

/// Attempts when a pooled connection turns out to be closed, all together.
const RACE_ATTEMPTS: u32 = 3;

/// Whether the client, not the server, ended the exchange.
pub(super) fn is_client_gone(error: &Error) -> bool {
    *error.esource() == ErrorSource::Downstream
        && matches!(error.etype(), ErrorType::ReadError | ErrorType::WriteError | ErrorType::ConnectionClosed)
}

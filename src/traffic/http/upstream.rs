//! Between us and a server: what the server is sent, what its failures mean, and whether another attempt is made.

use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, EXPECT, HOST, HeaderValue, TE, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{StatusCode, Uri, Version};
use pingora::ErrorType;
use pingora::http::RequestHeader;
use pingora::prelude::{Error, ErrorSource, Result};
use pingora_proxy::Session;

use crate::exchange::{AttemptOutcome, Ending, FailedAttempt, Fault, KeptBody, is_idempotent};
use crate::service::Selection;

use super::Flight;

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
///
/// # Errors
/// If the path is too long with that of the server.
pub fn address(request: &mut RequestHeader, selection: &Selection) -> Result<()> {
    // An HTTP/1.0 client need not say a host, but what we send is HTTP/1.1 and must (RFC 9112 §3.2).
    let has_host = request.headers.contains_key(HOST) || request.uri.authority().is_some();
    if !selection.pool.pass_host_header() || !has_host {
        request.insert_header(HOST, selection.server.host_header().clone())?;
    }
    if let Some(base) = selection.server.base_path() {
        let target = request.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let joined = format!("{}/{}", base.trim_end_matches('/'), target.trim_start_matches('/'));
        let mut parts = request.uri.clone().into_parts();
        let too_long = |_| Error::explain(ErrorType::InternalError, "a path that is too long with that of its server");
        parts.path_and_query = Some(joined.parse().map_err(too_long)?);
        if let Ok(uri) = Uri::from_parts(parts) {
            request.set_uri(uri);
        }
    }
    Ok(())
}

/// Tells an HTTP/2 server that trailers are taken, which gRPC servers insist on: by the client, or by us who put them into the body.
/// Pingora removes the field from requests in the lane, as it speaks of a connection (RFC 9110 §10.1.4); trailers come through
/// this one.
pub(super) fn want_trailers(request: &mut RequestHeader, asked: &RequestHeader, flight: &Flight) -> Result<()> {
    let client_takes =
        || asked.version == Version::HTTP_2 && asked.headers.get(TE).is_some_and(|value| value == "trailers");
    let we_take = flight.exchange.as_ref().is_some_and(|exchange| exchange.is_grpc_web);
    let wanted = request.version == Version::HTTP_2 && !request.headers.contains_key(TE) && (we_take || client_takes());
    if wanted { request.insert_header(TE, HeaderValue::from_static("trailers")) } else { Ok(()) }
}

/// Takes the length that the client told off a request whose body is changed on the way.
pub(super) fn forget_length(request: &mut RequestHeader, flight: &Flight) -> Result<()> {
    let has_length = flight.changes_request_body() && request.remove_header(&CONTENT_LENGTH).is_some();
    if has_length && request.version != Version::HTTP_2 {
        return request.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    Ok(())
}

/// Tells a client that waits for our word (RFC 9110 §10.1.1) to send its body, as a connection to the server stands. The server is
/// not asked, because many never say so.
///
/// # Errors
/// If the client is gone.
pub(super) async fn invite_body(session: &mut Session, request: &mut RequestHeader) -> Result<()> {
    if !request.headers.contains_key(EXPECT) || session.is_body_empty() {
        return Ok(());
    }
    request.remove_header(&EXPECT);
    // The body may be here since an earlier attempt.
    if session.is_body_done() {
        return Ok(());
    }
    session.downstream_session.write_continue_response().await.map_err(Error::into_down)
}

impl Flight {
    /// Whether the server gets other bytes than the client sends.
    pub(super) fn changes_request_body(&self) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| !exchange.request_body.is_empty())
    }

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

    /// Ends an attempt that could not connect; whether another follows. The server has seen nothing of the request.
    pub(super) fn may_connect_again(&mut self, session: &Session, error: &Error) -> bool {
        self.end_attempt(None, Some(fault_of(error, Phase::Connect)));
        self.grant(session, Ending::NothingSent)
    }

    /// Ends an attempt that broke on a connection; whether another follows.
    ///
    /// Without a `retry` middleware there is one case: a pooled connection that the server had closed meanwhile (`is_race`), and
    /// a request that may be repeated. Servers may close what is idle, so that says nothing of the server.
    pub(super) fn may_go_on(&mut self, session: &Session, error: &Error, is_race: bool) -> bool {
        if *error.esource() != ErrorSource::Upstream {
            self.release_attempt();
            return false;
        }
        if matches!(error.etype(), ErrorType::HTTPStatus(_)) {
            // An answer that is thrown away: its attempt has ended, and the next one is granted with its pause.
            return error.retry();
        }
        if is_race
            && self.attempt < RACE_ATTEMPTS
            && !self.responding
            && !session.as_ref().retry_buffer_truncated()
            && is_idempotent(&session.req_header().method)
        {
            self.end_attempt(None, None);
            self.pause = Duration::ZERO;
            return true;
        }
        self.end_attempt(None, Some(fault_of(error, Phase::Exchange)));
        self.grant(session, Ending::Interrupted)
    }

    /// Whether an answer with this status is thrown away for another attempt.
    pub(super) fn wants_retry_of_status(&mut self, session: &Session, status: StatusCode) -> bool {
        !status.is_informational() && self.grant(session, Ending::Answered(status.as_u16()))
    }

    /// Whether there may be another attempt after the body has begun to flow, so that it has to be kept.
    pub(super) fn may_send_again(&self, session: &Session) -> bool {
        let policy = self.exchange.as_ref().and_then(|exchange| exchange.retry.as_ref());
        policy.is_some_and(|policy| policy.attempts > 1) || is_idempotent(&session.req_header().method)
    }

    /// Whether the request's policy grants another attempt; its pause is noted.
    fn grant(&mut self, session: &Session, ending: Ending) -> bool {
        let Some((policy, exchange)) = self.exchange.as_ref().and_then(|it| it.retry.as_ref().zip(Some(it))) else {
            return false;
        };
        let failed = FailedAttempt {
            number: self.attempt,
            elapsed: exchange.started.elapsed(),
            ending,
            body: self.kept_body(session, policy.body_limit_bytes),
            response_sent: self.responding,
        };
        let granted = policy.next_pause(&session.req_header().method, &failed, fastrand::f64());
        self.pause = granted.unwrap_or_default();
        granted.is_some()
    }

    /// What there is of the request body. Pingora keeps its first 64 KiB, and the lane what the policy allows beyond.
    fn kept_body(&self, session: &Session, limit_bytes: usize) -> KeptBody {
        let limit = limit_bytes as u64;
        let announced = session.req_header().headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let announced: u64 = announced.and_then(|length| length.parse().ok()).unwrap_or_default();
        if session.as_ref().retry_buffer_truncated() || self.received_bytes > limit {
            KeptBody::Truncated
        } else if announced <= limit {
            KeptBody::Whole
        } else if self.received_bytes == 0 {
            KeptBody::Unsent
        } else {
            KeptBody::Truncated
        }
    }
}

/// Attempts when a pooled connection turns out to be closed, all together.
const RACE_ATTEMPTS: u32 = 3;

/// Whether the client, not the server, ended the exchange.
pub(super) fn is_client_gone(error: &Error) -> bool {
    *error.esource() == ErrorSource::Downstream
        && matches!(
            error.etype(),
            ErrorType::ReadError | ErrorType::WriteError | ErrorType::ConnectionClosed | ErrorType::H2Error
        )
}

//! A reply of ours on its way to the client: up through the middlewares, then out.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};
use pingora::ErrorType;
use pingora::prelude::{Error, ErrorSource, Result};
use pingora_proxy::Session;

use crate::exchange::{Fault, Reply};

use super::upstream::{self, Phase};
use super::{Flight, Gateway, lane};

/// Says that the gateway answered, not a server, and why: the fault's code.
pub(super) const ERROR_HEADER: HeaderName = HeaderName::from_static("x-portcullis-error");

/// Most of a request body that is read and thrown away so that the client's connection can be kept, in bytes.
const DRAIN_LIMIT_BYTES: u64 = 256 * 1024;
/// Longest that the client may take for it.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// What a failed exchange is called, and whether somebody is left to be told.
pub(super) struct Failure {
    pub(super) fault: Fault,
    pub(super) client_is_there: bool,
}

impl Failure {
    pub(super) fn of(error: &Error, flight: &Flight) -> Self {
        let body_fault = flight.connection.as_ref().and_then(|connection| connection.body_fault());
        let fault = match (error.esource(), error.etype()) {
            // The front door knows why a request body could not be read; Pingora has only seen that it could not.
            (ErrorSource::Downstream, ErrorType::ReadError | ErrorType::ReadTimedout | ErrorType::ConnectionClosed)
                if body_fault.is_some() =>
            {
                body_fault.unwrap_or(Fault::ClientGone)
            }
            _ if upstream::is_client_gone(error) => Fault::ClientGone,
            (ErrorSource::Downstream, ErrorType::ReadTimedout) => Fault::BodyTimeout,
            (ErrorSource::Downstream, ErrorType::WriteTimedout) => Fault::ClientGone,
            (ErrorSource::Downstream, _) => body_fault.unwrap_or(Fault::BadRequest),
            (ErrorSource::Upstream, _) => flight.fault.unwrap_or_else(|| upstream::fault_of(error, Phase::Exchange)),
            _ => flight.fault.unwrap_or(Fault::Internal),
        };
        Self { fault, client_is_there: fault != Fault::ClientGone }
    }
}

impl Gateway {
    /// Sends `reply` up through the middlewares and to the client.
    ///
    /// # Errors
    /// If the client is gone.
    pub(super) async fn reply(&self, session: &mut Session, flight: &mut Flight, mut reply: Reply) -> Result<()> {
        if let Some(fault) = reply.fault {
            flight.fault = Some(fault);
            explain(session, &mut reply, fault);
        }
        if !reply.header.headers.contains_key(CONTENT_LENGTH) && has_body(reply.header.status) {
            let _ = reply.header.insert_header(CONTENT_LENGTH, reply.body.len());
        }
        flight.climb(&mut reply.header);
        flight.status = reply.header.status.as_u16();
        let mut body = (!reply.body.is_empty()).then_some(reply.body);
        if let Some(exchange) = &mut flight.exchange {
            exchange
                .response_body
                .chunk(&mut body, true)
                .map_err(|abort| Error::explain(ErrorType::InternalError, abort.reason))?;
        }
        if let Some(body) = body.as_ref().filter(|_| flight.exchange.as_ref().is_some_and(|it| it.detect_content_type))
        {
            lane::name_type(&mut reply.header, body);
        }
        skim(session).await;
        let keep_alive = keep_alive(session, flight);
        session.set_keepalive(keep_alive);
        flight.responding = true;
        let body = body.filter(|_| session.req_header().method != Method::HEAD && has_body(reply.header.status));
        session.write_response_header(Box::new(reply.header), body.is_none()).await?;
        session.write_response_body(body, true).await?;
        // Pingora lets go of the connection after a failure towards a server; the front door keeps it if all was read.
        if let Some(connection) = flight.connection.as_ref().filter(|_| keep_alive.is_some())
            && drain(session).await
        {
            connection.set_reusable();
        }
        Ok(())
    }
}

/// Adds the fault's code, and replaces the plain words by problem details where the client prefers JSON.
fn explain(session: &Session, reply: &mut Reply, fault: Fault) {
    let _ = reply.header.insert_header(ERROR_HEADER, HeaderValue::from_static(fault.code()));
    let accept = session.req_header().headers.get(ACCEPT).map(HeaderValue::as_bytes).unwrap_or_default();
    if !prefers_json(accept) {
        return;
    }
    let status = reply.header.status;
    let details = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_else(|| fault.text().trim_end()),
        "status": status.as_u16(),
        "code": fault.code(),
    });
    reply.body = Bytes::from(details.to_string());
    let _ = reply.header.insert_header(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    reply.header.remove_header(&CONTENT_LENGTH);
}

/// Whether an `Accept` value names JSON with a greater weight than text or HTML, which are the default.
fn prefers_json(accept: &[u8]) -> bool {
    let Ok(accept) = std::str::from_utf8(accept) else { return false };
    if !accept.contains("json") {
        return false;
    }
    let mut json = 0.0_f32;
    let mut text = 0.0_f32;
    for range in accept.split(',').take(32) {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(1.0, |q| q.parse().unwrap_or(0.0));
        match kind {
            "application/json" | "application/problem+json" => json = json.max(weight),
            "text/html" | "text/plain" | "text/*" => text = text.max(weight),
            _ => {}
        }
    }
    json > 0.0 && json > text
}

fn has_body(status: StatusCode) -> bool {
    !status.is_informational() && status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED
}

/// What to give to `Session::set_keepalive` when an answer is about to be written.
pub(super) fn keep_alive(session: &mut Session, flight: &Flight) -> Option<u64> {
    let connection = flight.connection.as_ref()?;
    if connection.body_fault().is_some() || (expects_word(session) && !session.is_body_done()) {
        return None;
    }
    connection.keep_alive()
}

/// Whether the client waits for our word before it sends its body (RFC 9110 §10.1.1). Nobody can tell whether it sends it after
/// a final answer.
fn expects_word(session: &Session) -> bool {
    session.req_header().headers.contains_key(EXPECT)
}

/// Keeps a client's connection if it was told so, after an answer that has gone out whole. Pingora lets go of it where an HTTP/2 server
/// answers and takes no more of the request, as gRPC servers do with what they refuse: the client's next request would be lost.
pub(super) async fn keep_as_told(session: &mut Session, flight: &Flight) {
    let Some(connection) = flight.connection.as_ref().filter(|connection| !connection.is_upgraded()) else { return };
    if session.downstream_session.get_keepalive().is_some() && drain(session).await {
        connection.set_reusable();
    }
}

/// Throws away what has come of the request body already, without waiting for more: the answer does not wait for the client.
async fn skim(session: &mut Session) {
    let mut read = 0;
    while !session.is_body_done() && read < DRAIN_LIMIT_BYTES {
        let next = tokio::task::unconstrained(session.downstream_session.read_request_body());
        match next.now_or_never() {
            Some(Ok(Some(chunk))) => read += chunk.len() as u64,
            _ => return,
        }
    }
}

/// Reads what is left of the request body after the answer, up to a bound. Whether nothing is left, so that the connection can
/// go on.
async fn drain(session: &mut Session) -> bool {
    if session.is_body_done() {
        return true;
    }
    if session.req_header().version == Version::HTTP_2 || expects_word(session) {
        return false;
    }
    let rest = async {
        let mut read = 0;
        while read < DRAIN_LIMIT_BYTES {
            match session.downstream_session.read_request_body().await {
                Ok(Some(chunk)) => read += chunk.len() as u64,
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
        false
    };
    tokio::time::timeout(DRAIN_LIMIT, rest).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::prefers_json;

    #[test]
    fn json_only_for_those_who_prefer_it() {
        for (accept, expected) in [
            ("", false),
            ("*/*", false),
            ("text/html,application/json;q=0.9", false),
            ("application/json", true),
            ("application/problem+json, text/plain;q=0.5", true),
            ("application/json;q=0", false),
        ] {
            assert_eq!(prefers_json(accept.as_bytes()), expected, "{accept}");
        }
    }
}

//! The direct way of the many requests that are simple: no body, no change of protocol, and a server that speaks HTTP/1.
//!
//! Pingora's own way runs two halves that hand messages to each other, so that both bodies can flow at once. Without a request
//! body there is nothing to run at once. What happens to a request is the same on both ways: the same functions choose the server,
//! address it, judge its answer, take it up through the middlewares, and grant another attempt.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Version};
use pingora::ErrorType;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::{Error, ErrorSource, HttpPeer, Result};
use pingora::protocols::ALPN;
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::v1::client::http_req_header_to_wire;
use pingora::protocols::l4::socket::SocketAddr as PingoraAddress;
use pingora_proxy::Session;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::service::idle::Connection;

use self::answer::{Body, Head};
use super::hooks::is_interim;
use super::{Flight, Gateway};

mod answer;

/// Informational answers that may precede the one that counts.
const INTERIM_ANSWERS: usize = 32;
/// Parts of an answer that are written at once.
const PARTS: usize = 8;
/// Bytes of an answer that may wait for more of it.
const HELD_BYTES: usize = 16 << 10;
/// Bytes asked for with one read: of a head, and of a body.
const READ_BYTES: (usize, usize) = (4 << 10, 64 << 10);
/// Largest buffer that an idle connection keeps.
const IDLE_BYTES: usize = 8 << 10;

/// Fields that speak of the client's connection (RFC 9110 §7.6.1). What `Connection` names is gone before.
static OF_THE_CONNECTION: [HeaderName; 9] = [
    CONNECTION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

/// Whether the direct way is one for this request.
pub(super) fn suits(session: &mut Session, flight: &Flight) -> bool {
    flight.exchange.as_ref().is_some_and(|exchange| !exchange.detect_content_type)
        && session.is_body_empty()
        && !session.req_header().headers.contains_key(UPGRADE)
}

impl Gateway {
    /// Goes to a server and back. Whether the client has an answer; if not, the request has to take Pingora's way, since the
    /// server may speak HTTP/2.
    ///
    /// # Errors
    /// That of the last attempt.
    pub(super) async fn go_direct(&self, session: &mut Session, flight: &mut Flight) -> Result<bool> {
        loop {
            let peer = self.next_peer(session, flight).await?;
            if peer.options.alpn != ALPN::H1 {
                flight.attempt -= 1;
                return Ok(false);
            }
            match self.attempt(session, flight, &peer).await {
                Ok(()) => return Ok(true),
                Err(error) if error.retry() => log::debug!("attempt failed: {error}"),
                Err(error) => return Err(error),
            }
        }
    }

    async fn attempt(&self, session: &mut Session, flight: &mut Flight, peer: &HttpPeer) -> Result<()> {
        let (PingoraAddress::Inet(address), Some(server)) = (&peer._address, flight.last_server.clone()) else {
            return Error::e_explain(ErrorType::InternalError, "a server without an address");
        };
        // A server that has let this request down on an idle connection may have closed the others as well.
        let idle = if flight.tried.contains(&server.id()) {
            None
        } else {
            server.take_idle(*address, flight.attempt_started.unwrap_or_else(Instant::now))
        };
        let reused = idle.is_some();
        let mut connection = match idle {
            Some(connection) => connection,
            None => match self.connector.new_stream(peer).await {
                Ok(stream) => Connection::new(stream, *address),
                Err(error) => {
                    let mut error = error.into_up();
                    let retry = flight.may_connect_again(session, &error);
                    error.set_retry(retry);
                    return Err(error);
                }
            },
        };
        let mut parts = Vec::with_capacity(2);
        match self.converse(session, flight, peer, &mut connection, &mut parts).await {
            Ok(persists) => {
                if persists {
                    if connection.input.capacity() > IDLE_BYTES {
                        connection.input = Default::default();
                    }
                    // Before the client has taken the last bytes: the next request need not wait for a slow one.
                    server.put_idle(connection, Instant::now());
                }
                match session.write_response_tasks(parts).await {
                    Ok(_) => Ok(()),
                    Err(error) => Err(self.interrupted(session, flight, error, false)),
                }
            }
            Err(error) => {
                if !parts.is_empty() && *error.esource() != ErrorSource::Downstream {
                    // What came before the end is the client's.
                    session.write_response_tasks(parts).await?;
                }
                Err(self.interrupted(session, flight, error, reused))
            }
        }
    }

    /// Sends the request and passes the answer on, but for `parts` that are left to be written. Whether the connection can be
    /// used again.
    async fn converse(
        &self,
        session: &mut Session,
        flight: &mut Flight,
        peer: &HttpPeer,
        connection: &mut Connection,
        parts: &mut Vec<HttpTask>,
    ) -> Result<bool> {
        let request = self.request_for_server(session.req_header(), flight)?;
        send(connection, &request, peer.options.write_timeout).await?;
        let head_by = peer.options.read_timeout.map(|limit| Instant::now() + limit);
        let mut interim_answers = 0;
        let mut head = loop {
            let mut head = read_head(session, connection, head_by).await?;
            self.judge(session, &mut head.response, flight)?;
            if !is_interim(&head.response) {
                break head;
            }
            interim_answers += 1;
            if interim_answers > INTERIM_ANSWERS {
                return Err(malformed("too many informational answers"));
            }
            session.write_response_tasks(vec![HttpTask::Header(Box::new(head.response), false)]).await?;
        };
        let mut body = Body::of(&request.method, &head);
        if matches!(body, Body::UntilClose) {
            // The client can keep its connection all the same.
            head.response.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
        }
        let hold = hold(flight, &body, &head.response);
        self.prepare(session, &mut head.response, flight);
        parts.push(HttpTask::Header(Box::new(head.response), body.is_over()));
        let mut ended = body.is_over();
        let mut held_bytes = 0;
        let mut held_until: Option<Instant> = None;
        loop {
            let mut needs_more = false;
            while !ended && !needs_more && parts.len() < PARTS {
                let piece = body.next(&mut connection.input)?;
                ended = body.is_over();
                needs_more = piece.is_none() && !ended;
                if !needs_more {
                    held_bytes += piece.as_ref().map_or(0, Bytes::len);
                    parts.push(pass_up(flight, piece, ended)?);
                }
            }
            if ended {
                return Ok(head.persists && !matches!(body, Body::Closed));
            }
            if !needs_more || hold.is_none() || held_bytes > HELD_BYTES {
                flush(session, parts, &mut held_bytes).await?;
                held_until = None;
            }
            if !needs_more {
                continue;
            }
            if !parts.is_empty() && held_until.is_none() {
                held_until = hold.map(|hold| Instant::now() + hold);
            }
            match read(session, connection, body.wanted_bytes(READ_BYTES), held_until).await? {
                Some(0) => body.close()?,
                Some(_) => {}
                None => {
                    flush(session, parts, &mut held_bytes).await?;
                    held_until = None;
                }
            }
        }
    }

    /// The request as the server gets it: HTTP/1.1, in origin form.
    fn request_for_server(&self, asked: &RequestHeader, flight: &Flight) -> Result<RequestHeader> {
        let mut request = asked.clone();
        request.set_version(Version::HTTP_11);
        for name in &OF_THE_CONNECTION {
            request.remove_header(name);
        }
        // RFC 9113 §8.3.1: an HTTP/2 request names its host elsewhere.
        if let Some(authority) = request.uri.authority().filter(|_| !request.headers.contains_key(HOST)) {
            let host = HeaderValue::from_str(authority.as_str())
                .map_err(|_| Error::explain(ErrorType::InternalError, "an authority that is no header value"))?;
            request.insert_header(HOST, host)?;
        }
        // RFC 9110 §8.6: where a body is expected, its absence is said; some servers answer 411 otherwise.
        if matches!(request.method, Method::POST | Method::PUT | Method::PATCH)
            && !request.headers.contains_key(CONTENT_LENGTH)
        {
            request.insert_header(CONTENT_LENGTH, HeaderValue::from_static("0"))?;
        }
        self.address(&mut request, flight)?;
        Ok(request)
    }
}

/// How long parts of an answer may wait for more (`responseForwarding.flushInterval`). As in Traefik, what streams never waits:
/// events, and bodies whose length nobody knows.
fn hold(flight: &Flight, body: &Body, response: &ResponseHeader) -> Option<Duration> {
    let interval = flight.selection.as_ref()?.pool.flush_interval().positive()?;
    let streams = response
        .headers
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().get(..17).is_some_and(|it| it.eq_ignore_ascii_case(b"text/event-stream")));
    (matches!(body, Body::Length(_)) && !streams).then_some(interval)
}

fn pass_up(flight: &mut Flight, mut piece: Option<Bytes>, ended: bool) -> Result<HttpTask> {
    flight.pass_up(&mut piece, ended)?;
    Ok(HttpTask::Body(piece, ended))
}

async fn flush(session: &mut Session, parts: &mut Vec<HttpTask>, held_bytes: &mut usize) -> Result<()> {
    *held_bytes = 0;
    if !parts.is_empty() {
        session.write_response_tasks(std::mem::take(parts)).await?;
    }
    Ok(())
}

async fn send(connection: &mut Connection, request: &RequestHeader, limit: Option<Duration>) -> Result<()> {
    let head = http_req_header_to_wire(request)
        .ok_or_else(|| Error::explain(ErrorType::InvalidHTTPHeader, "a request that cannot be written").into_down())?;
    let write = async {
        connection.stream.write_all(&head).await?;
        connection.stream.flush().await
    };
    let written = match limit {
        Some(limit) => tokio::time::timeout(limit, write).await,
        None => Ok(write.await),
    };
    match written {
        Ok(Ok(())) => Ok(()),
        // A connection that broke while it was idle: nothing of the request has been read.
        Ok(Err(error)) => Err(lost(Error::because(ErrorType::WriteError, "writing the request", error))),
        Err(_) => Err(Error::explain(ErrorType::WriteTimedout, "writing the request").into_up()),
    }
}

/// Reads the head of the next answer, informational or not.
async fn read_head(session: &mut Session, connection: &mut Connection, head_by: Option<Instant>) -> Result<Head> {
    let mut scanned = 0;
    loop {
        if let Some(head) = answer::take_head(&mut connection.input, &mut scanned)? {
            return Ok(head);
        }
        match read(session, connection, READ_BYTES.0, head_by).await {
            Ok(Some(0)) if connection.input.is_empty() => {
                return Err(lost(Error::explain(ErrorType::ConnectionClosed, "no answer")));
            }
            Ok(Some(0)) => {
                return Err(Error::explain(ErrorType::ConnectionClosed, "within the answer's head").into_up());
            }
            Ok(Some(_)) => {}
            Ok(None) => return Err(Error::explain(ErrorType::ReadTimedout, "no answer in time").into_up()),
            Err(error) if connection.input.is_empty() && *error.esource() == ErrorSource::Upstream => {
                return Err(lost(error));
            }
            Err(error) => return Err(error),
        }
    }
}

/// An error of the server's connection that may be a race with its idle timeout, if the connection has been idle.
fn lost(error: Box<Error>) -> Box<Error> {
    let mut error = error.into_up();
    error.retry = pingora::RetryType::ReusedOnly;
    error
}

fn malformed(why: &'static str) -> Box<Error> {
    Error::explain(ErrorType::InvalidHTTPHeader, why).into_up()
}

/// Reads more of the answer; `None` when it is `until`. Meanwhile the client may go.
async fn read(
    session: &mut Session,
    connection: &mut Connection,
    bytes: usize,
    until: Option<Instant>,
) -> Result<Option<usize>> {
    connection.input.reserve(bytes);
    let time_is_up = async {
        match until {
            Some(until) => tokio::time::sleep_until(until.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        read = connection.stream.read_buf(&mut connection.input) => match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => Err(Error::because(ErrorType::ReadError, "reading the answer", error).into_up()),
        },
        gone = session.downstream_session.read_body_or_idle(true) => Err(match gone {
            Err(error) => error.into_down(),
            Ok(_) => Error::explain(ErrorType::ConnectionClosed, "the client has gone").into_down(),
        }),
        () = time_is_up => Ok(None),
    }
}

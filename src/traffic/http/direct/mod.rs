//! The direct way of most requests: those that ask for no other protocol, to servers that speak HTTP/1.
//!
//! Pingora's own way runs two halves that hand messages to each other. Here both bodies flow in one task (`conversation.rs`), over
//! connections that wait with their server. What happens to a request is the same on both ways: the same functions choose the
//! server, address it, judge its answer, take it up through the middlewares, and grant another attempt.

use std::time::{Duration, Instant};

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Version};
use pingora::ErrorType;
use pingora::http::RequestHeader;
use pingora::prelude::{Error, ErrorSource, HttpPeer, Result};
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::v1::client::http_req_header_to_wire;
use pingora::protocols::l4::socket::SocketAddr as PingoraAddress;
use pingora::protocols::{ALPN, Stream};
use pingora_proxy::Session;
use tokio::io::AsyncWriteExt;

use crate::service::idle::Connection;

use self::answer::Body;
use self::conversation::Conversation;
use self::parts::write_parts;
use self::upload::{Framing, Upload};
use super::hooks::is_interim;
use super::{Flight, Gateway, upstream};

mod answer;
mod conversation;
mod parts;
mod upload;

/// Informational answers that may precede the one that counts.
const INTERIM_ANSWERS: usize = 32;
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
pub(super) fn suits(session: &Session) -> bool {
    !session.req_header().headers.contains_key(UPGRADE)
}

impl Gateway {
    /// Goes to a server and back. Whether the client has an answer; if not, the request has to take Pingora's way, since the
    /// server may speak HTTP/2.
    ///
    /// # Errors
    /// That of the last attempt.
    pub(super) async fn go_direct(&self, session: &mut Session, flight: &mut Flight) -> Result<bool> {
        if !session.is_body_empty() && flight.may_send_again(session) {
            session.as_mut().enable_retry_buffering();
        }
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
            // In a box: few requests need one, and the room for a handshake is four times that for everything else.
            None => match Box::pin(self.connector.new_stream(peer)).await {
                Ok(stream) => Connection::new(stream, *address),
                Err(error) => {
                    let mut error = error.into_up();
                    let retry = flight.may_connect_again(session, &error);
                    error.set_retry(retry);
                    return Err(error);
                }
            },
        };
        let mut conversation = Conversation::new(session, flight, &mut connection);
        let ended = self.converse(&mut conversation, peer).await;
        let mut parts = conversation.parts;
        match ended {
            Ok(persists) => {
                if persists {
                    if connection.input.capacity() > IDLE_BYTES {
                        connection.input = Default::default();
                    }
                    // Before the client has taken the last bytes: the next request need not wait for a slow one.
                    server.put_idle(connection, Instant::now());
                }
                if parts.is_empty() {
                    return Ok(());
                }
                match write_parts(session, parts).await {
                    Ok(()) => Ok(()),
                    Err(error) => Err(self.interrupted(session, flight, error, false)),
                }
            }
            Err(error) if flight.responding && *error.esource() != ErrorSource::Downstream => {
                // What came before the end is the client's, and it must see that there is more.
                parts.push(HttpTask::Failed(error));
                match write_parts(session, parts).await {
                    Err(error) => Err(self.interrupted(session, flight, error, false)),
                    Ok(()) => Error::e_explain(ErrorType::InternalError, "half an answer"),
                }
            }
            Err(error) => Err(self.interrupted(session, flight, error, reused)),
        }
    }

    /// Sends the request and passes the answer on, but for parts that are left to be written. Whether the connection can be used
    /// again.
    async fn converse(&self, conversation: &mut Conversation<'_>, peer: &HttpPeer) -> Result<bool> {
        let framing = match framing(conversation.session)? {
            Some(_) if conversation.flight.changes_request_body() => Some(Framing::Chunked),
            framing => framing,
        };
        let mut request = self.request_for_server(conversation.session.req_header(), conversation.flight, framing)?;
        upstream::invite_body(conversation.session, &mut request).await?;
        let head = http_req_header_to_wire(&request).ok_or_else(|| {
            Error::explain(ErrorType::InvalidHTTPHeader, "a request that cannot be written").into_down()
        })?;
        match framing {
            None => send(conversation.stream(), &head, peer.options.write_timeout).await?,
            Some(framing) => {
                let mut upload = Upload::new(framing, peer.options.write_timeout);
                upload.push(head.freeze());
                conversation.begin(upload)?;
            }
        }
        let mut interim_answers = 0;
        let mut head = loop {
            let mut head = conversation.head(peer.options.read_timeout).await?;
            self.judge(conversation.session, &mut head.response, conversation.flight)?;
            if !is_interim(&head.response) {
                break head;
            }
            interim_answers += 1;
            if interim_answers > INTERIM_ANSWERS {
                return Err(malformed("too many informational answers"));
            }
            conversation.write(vec![HttpTask::Header(Box::new(head.response), false)]).await?;
        };
        let body = Body::of(&request.method, &head);
        if matches!(body, Body::UntilClose) {
            // The client can keep its connection all the same.
            head.response.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
        }
        let hold = conversation::hold(conversation.flight, &body, &head.response);
        self.prepare(conversation.session, &mut head.response, conversation.flight);
        conversation.parts.push(HttpTask::Header(Box::new(head.response), body.is_over()));
        Ok(conversation.pass_answer(body, hold).await? && head.persists)
    }

    /// The request as the server gets it: HTTP/1.1, in origin form. `framing`: of its body, if it has one.
    fn request_for_server(
        &self,
        asked: &RequestHeader,
        flight: &Flight,
        framing: Option<Framing>,
    ) -> Result<RequestHeader> {
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
        match framing {
            Some(Framing::Chunked) => {
                request.remove_header(&CONTENT_LENGTH);
                request.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
            }
            // There may be several that say the same.
            Some(Framing::Length(length)) if request.headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() => {
                request.insert_header(CONTENT_LENGTH, length)?;
            }
            // RFC 9110 §8.6: where a body is expected, its absence is said; some servers answer 411 otherwise.
            None if matches!(request.method, Method::POST | Method::PUT | Method::PATCH)
                && !request.headers.contains_key(CONTENT_LENGTH) =>
            {
                request.insert_header(CONTENT_LENGTH, HeaderValue::from_static("0"))?;
            }
            Some(Framing::Length(_)) | None => {}
        }
        self.address(&mut request, flight)?;
        Ok(request)
    }
}

/// How the body of a request is framed for the server; `None`: it has none.
///
/// # Errors
/// If the client names a length that is none, or several. The front door has let pass no such HTTP/1 request.
fn framing(session: &mut Session) -> Result<Option<Framing>> {
    if session.is_body_empty() {
        return Ok(None);
    }
    let mut lengths = session.req_header().headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return Ok(Some(Framing::Chunked)) };
    let length = first.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match length.and_then(|text| text.parse().ok()) {
        Some(length) if lengths.all(|other| other == first) => Ok(Some(Framing::Length(length))),
        _ => Err(Error::explain(ErrorType::InvalidHTTPHeader, "a request length that is none").into_down()),
    }
}

async fn send(stream: &mut Stream, head: &[u8], limit: Option<Duration>) -> Result<()> {
    let write = async {
        stream.write_all(head).await?;
        stream.flush().await
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

/// An error of the server's connection that may be a race with its idle timeout, if the connection has been idle.
fn lost(error: Box<Error>) -> Box<Error> {
    let mut error = error.into_up();
    error.retry = pingora::RetryType::ReusedOnly;
    error
}

fn malformed(why: &'static str) -> Box<Error> {
    Error::explain(ErrorType::InvalidHTTPHeader, why).into_up()
}

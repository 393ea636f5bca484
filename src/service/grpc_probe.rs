//! `mode: grpc`: the server says that it serves, by gRPC's health protocol.

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, TE};
use http::{HeaderValue, Method, Uri, Version};
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::{HttpPeer, Scheme};
use pingora::{Error, ErrorType};
use pingora_load_balancing::Backend;
use pingora_load_balancing::health_check::HealthCheck;

use super::health::Plan;
use super::probe::connector;

const METHOD: &str = "/grpc.health.v1.Health/Check";
/// A message without fields, in its frame: it asks for the server as a whole.
const QUESTION: &[u8] = &[0; FRAME_BYTES];
/// Whether a message is compressed, and its length.
const FRAME_BYTES: usize = 5;
/// Largest answer that is read: the message has one number in it.
const ANSWER_LIMIT_BYTES: usize = 4096;
/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u64 = 1;

/// An answer that does not pass.
const NOT_SERVING: ErrorType = ErrorType::new("not serving");

/// Asks a server whether it serves, and takes only yes for an answer.
pub(super) struct Serves<'a> {
    pub(super) plan: &'a Plan,
    pub(super) peer: HttpPeer,
    pub(super) host: HeaderValue,
}

#[async_trait]
impl HealthCheck for Serves<'_> {
    async fn check(&self, target: &Backend) -> pingora::Result<()> {
        let mut peer = self.peer.clone();
        peer._address = target.addr.clone();
        let (session, _) = connector().get_http_session(&peer).await?;
        let HttpSession::H2(mut session) = session else {
            return Error::e_explain(ErrorType::H2Error, "the server does not speak HTTP/2");
        };
        session.write_request_header(Box::new(self.request()?), false)?;
        session.write_request_body(Bytes::from_static(QUESTION), true).await?;
        session.read_response_header().await?;
        let Some(head) = session.response_header() else {
            return Error::e_explain(ErrorType::InvalidHTTPHeader, "no answer");
        };
        if head.status != 200 {
            return Error::e_explain(NOT_SERVING, format!("HTTP status {}", head.status.as_str()));
        }
        // An answer without a message says how the call ended in its head.
        judge_call(&head.headers)?;
        let mut answer = Vec::new();
        while let Some(chunk) = session.read_response_body().await? {
            if answer.len() + chunk.len() > ANSWER_LIMIT_BYTES {
                return Error::e_explain(NOT_SERVING, "the answer is too long");
            }
            answer.extend_from_slice(&chunk);
        }
        if let Some(trailers) = session.read_trailers().await? {
            judge_call(&trailers)?;
        }
        match serving_status(&answer) {
            Some(SERVING) => Ok(()),
            Some(status) => Error::e_explain(NOT_SERVING, format!("serving status {status}")),
            None => Error::e_explain(NOT_SERVING, "the answer is not one of the health protocol"),
        }
    }

    fn health_threshold(&self, _: bool) -> usize {
        1
    }
}

impl Serves<'_> {
    fn request(&self) -> pingora::Result<RequestHeader> {
        let scheme = if self.peer.scheme == Scheme::HTTPS { "https" } else { "http" };
        let uri = Uri::builder().scheme(scheme).authority(self.host.as_bytes()).path_and_query(METHOD);
        let uri = uri.build().map_err(|error| Error::explain(ErrorType::InvalidHTTPHeader, error.to_string()))?;
        let mut request = RequestHeader::build(Method::POST, METHOD.as_bytes(), None)?;
        request.set_uri(uri);
        request.set_version(Version::HTTP_2);
        for (name, value) in &self.plan.headers {
            request.insert_header(name, value)?;
        }
        request.insert_header(CONTENT_TYPE, "application/grpc")?;
        request.insert_header(TE, "trailers")?;
        Ok(request)
    }
}

/// Whether a call went well, as far as these fields tell.
fn judge_call(fields: &HeaderMap) -> pingora::Result<()> {
    match fields.get("grpc-status").map(HeaderValue::as_bytes) {
        None | Some(b"0") => Ok(()),
        Some(b"12") => Error::e_explain(NOT_SERVING, "the server does not know the health protocol (gRPC status 12)"),
        Some(status) => Error::e_explain(NOT_SERVING, format!("gRPC status {}", status.escape_ascii())),
    }
}

/// Field 1 of the one message in `body`, 0 if the message leaves it out; `None` if it is no such message.
fn serving_status(body: &[u8]) -> Option<u64> {
    let (frame, message) = body.split_at_checked(FRAME_BYTES)?;
    let length = u32::from_be_bytes(frame.get(1..)?.try_into().ok()?);
    if frame.first() != Some(&0) || usize::try_from(length) != Ok(message.len()) {
        return None;
    }
    let (mut rest, mut status) = (message, 0);
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => status = varint(&mut rest)?,
            // Fields that nobody knows yet are passed over, by their kind of coding.
            (_, 0) => _ = varint(&mut rest)?,
            (_, 1) => rest = rest.get(8..)?,
            (_, 2) => rest = usize::try_from(varint(&mut rest)?).ok().and_then(|length| rest.get(length..))?,
            (_, 5) => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

/// A number of up to ten bytes, seven bits in each, the lowest first.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn answers_are_read_strictly() {
        for (body, expected) in [
            (&[0, 0, 0, 0, 2, 8, 1][..], Some(1)),
            (&[0, 0, 0, 0, 2, 8, 2], Some(2)),
            (&[0, 0, 0, 0, 0], Some(0)),
            (&[0, 0, 0, 0, 3, 8, 0x81, 0], Some(1)),
            (&[0, 0, 0, 0, 9, 0x12, 2, 8, 1, 0x1d, 1, 2, 3, 4], Some(0)),
            (&[0, 0, 0, 0, 4, 0x10, 7, 8, 1], Some(1)),
            (&[], None),
            (&[0, 0, 0, 0], None),
            (&[1, 0, 0, 0, 2, 8, 1], None),
            (&[0, 0, 0, 0, 3, 8, 1], None),
            (&[0, 0, 0, 0, 1, 8, 1], None),
            (&[0, 0, 0, 0, 1, 8], None),
            (&[0, 0, 0, 0, 2, 8, 0x80], None),
            (&[0, 0, 0, 0, 2, 0x0b, 1], None),
            (&[0, 0, 0, 0, 2, 0x12, 9], None),
        ] {
            assert_eq!(serving_status(body), expected, "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_brings_it_down(body in proptest::collection::vec(any::<u8>(), 0..40)) {
            let framed = [&[0, 0, 0, 0, u8::try_from(body.len()).unwrap()], &body[..]].concat();
            let _ = (serving_status(&body), serving_status(&framed));
        }
    }
}

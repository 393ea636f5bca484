//! A response made by the gateway itself.

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use pingora::http::ResponseHeader;

use super::fault::Fault;

/// A response made by us, on its way up through the middlewares to the client.
#[derive(Debug)]
pub struct Reply {
    /// Status line and header fields. `Content-Length` is added when it is written.
    pub header: ResponseHeader,
    /// The whole body.
    pub body: Bytes,
    /// Why the gateway answered instead of a server, if it is a failure.
    pub fault: Option<Fault>,
}

impl Reply {
    /// A response with a status and no body.
    pub fn status(status: StatusCode) -> Self {
        Self { header: header_of(status), body: Bytes::new(), fault: None }
    }

    /// A plain-text response.
    pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self::status(status).with(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")).with_body(body)
    }

    /// A JSON response.
    pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self::status(status).with(CONTENT_TYPE, HeaderValue::from_static("application/json")).with_body(body)
    }

    /// A failure that the gateway explains in its own words: body and status come from the fault.
    pub fn fault(fault: Fault) -> Self {
        let mut reply = Self::text(fault.status(), fault.text());
        reply.fault = Some(fault);
        reply
    }

    /// Replaces the body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets one header field. A value that no header can carry is left out.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        // Pingora refuses nothing that `http` has accepted, so there is no error to pass on.
        let _ = self.header.insert_header(name, value);
        self
    }
}

/// An empty response header; `build` fails for no status that `http` knows.
fn header_of(status: StatusCode) -> ResponseHeader {
    ResponseHeader::build(status, Some(8)).unwrap_or_else(|_| {
        debug_assert!(false, "a StatusCode always builds a header");
        ResponseHeader::build(500, None).unwrap_or_else(|_| unreachable!("500 is a status"))
    })
}

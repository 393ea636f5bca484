//! One request as meters see it, and the labels it gets.

use std::time::Duration;

use http::{HeaderMap, Method, header};

use crate::exchange::TlsFacts;

pub use super::labels::HeaderValues;

/// What is counted of one request, once it is over.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// The client's method.
    pub method: &'a Method,
    /// What was spoken.
    pub protocol: Protocol,
    /// The status sent; for gRPC the `grpc-status`.
    pub status: u16,
    /// From the request head to the end of the response.
    pub duration: Duration,
    /// Bytes of request body.
    pub request_bytes: u64,
    /// Bytes of response body.
    pub response_bytes: u64,
    /// TLS to the client.
    pub tls: Option<&'a TlsFacts>,
    /// What `Metrics::header_values` says of the request.
    pub headers: HeaderValues,
}

/// What is spoken within HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Plain requests.
    #[default]
    Http,
    /// A connection that became a WebSocket.
    Websocket,
    /// Server-sent events.
    Sse,
    /// gRPC.
    Grpc,
    /// gRPC for browsers.
    GrpcWeb,
}

impl Protocol {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Http, "http"),
        (Self::Websocket, "websocket"),
        (Self::Sse, "sse"),
        (Self::Grpc, "grpc"),
        (Self::GrpcWeb, "grpc-web"),
    ];

    /// What a request's header fields ask for.
    pub fn of(headers: &HeaderMap) -> Self {
        let lists = |name: header::HeaderName, wanted: &[u8]| {
            headers.get_all(name).iter().any(|value| lists(value.as_bytes(), wanted))
        };
        let content_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
        let is_kind = |kind: &[u8]| content_type.get(..kind.len()).is_some_and(|it| it.eq_ignore_ascii_case(kind));
        if lists(header::UPGRADE, b"websocket") {
            Self::Websocket
        } else if lists(header::ACCEPT, b"text/event-stream") {
            Self::Sse
        } else if is_kind(b"application/grpc-web") {
            Self::GrpcWeb
        } else if is_kind(b"application/grpc") {
            Self::Grpc
        } else {
            Self::Http
        }
    }
}

/// Whether an entry of a list, without its parameters, is this one.
fn lists(list: &[u8], wanted: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|entry| {
        let end = entry.iter().position(|byte| *byte == b';').unwrap_or(entry.len());
        entry[..end].trim_ascii().eq_ignore_ascii_case(wanted)
    })
}

/// The labels of one series, packed: occupied, header values, protocol, method, code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(pub(super) u32);

impl Key {
    pub(super) const METHODS: [&'static str; 10] =
        ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "EXTENSION_METHOD"];
    const EXTENSION: u32 = Self::METHODS.len() as u32 - 1;
    const OCCUPIED: u32 = 1 << 31;
    /// The code of what has no series of its own, because there are too many.
    const NO_CODE: u32 = 1023;
    /// Requests of series beyond the bound.
    pub(super) const OTHERS: Self = Self(Self::OCCUPIED | Self::EXTENSION << 10 | Self::NO_CODE);

    #[inline]
    pub(super) fn of(observation: &Observation<'_>) -> Self {
        let method = match observation.method.as_str() {
            "GET" => 0,
            "HEAD" => 1,
            "POST" => 2,
            "PUT" => 3,
            "DELETE" => 4,
            "CONNECT" => 5,
            "OPTIONS" => 6,
            "TRACE" => 7,
            "PATCH" => 8,
            _ => Self::EXTENSION,
        };
        let code = u32::from(observation.status);
        let code = if code < 1000 { code } else { Self::NO_CODE };
        let (protocol, headers) = (observation.protocol as u32, u32::from(observation.headers.0));
        Self(Self::OCCUPIED | headers << 17 | protocol << 14 | method << 10 | code)
    }

    /// The same series, whatever its header values.
    pub(super) fn without_headers(self) -> Self {
        Self(self.0 & !(0xff << 17))
    }

    pub(super) fn headers(self) -> HeaderValues {
        HeaderValues((self.0 >> 17 & 0xff) as u8)
    }

    pub(super) fn method(self) -> &'static str {
        Self::METHODS.get((self.0 >> 10 & 0xf) as usize).unwrap_or(&"EXTENSION_METHOD")
    }

    pub(super) fn protocol(self) -> &'static str {
        Protocol::ALL.get((self.0 >> 14 & 7) as usize).map_or("http", |(_, name)| name)
    }

    pub(super) fn code(self) -> String {
        match self.0 & 0x3ff {
            Self::NO_CODE => "other".to_owned(),
            code => code.to_string(),
        }
    }
}

/// TLS versions and suites that have a series: those we offer, and one per version for the rest.
pub(super) const SUITES: [(&str, &str); 11] = [
    ("1.3", "TLS_AES_128_GCM_SHA256"),
    ("1.3", "TLS_AES_256_GCM_SHA384"),
    ("1.3", "TLS_CHACHA20_POLY1305_SHA256"),
    ("1.2", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    ("1.2", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    ("1.2", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    ("1.2", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
    ("1.2", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
    ("1.2", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
    ("1.3", "unknown"),
    ("1.2", "unknown"),
];

/// The place of a connection's suite in [`SUITES`].
pub(super) fn suite(tls: &TlsFacts) -> usize {
    let known = SUITES.iter().position(|(_, cipher)| *cipher == tls.cipher);
    known.unwrap_or(SUITES.len() - if tls.version == "1.3" { 2 } else { 1 })
}

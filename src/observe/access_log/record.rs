//! What is known of a request once it is over, as the access log borrows it.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, Version};

use crate::exchange::Fault;

/// One request, after its end. Everything is borrowed: filling it in allocates nothing.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// When its head was complete.
    pub started: SystemTime,
    /// From then until the last byte of the response.
    pub duration: Duration,
    /// The peer.
    pub peer: SocketAddr,
    /// Who the client proved to be.
    pub user: Option<&'a str>,
    /// The entry point that accepted the connection.
    pub entry_point: &'a str,
    /// TLS to the client.
    pub tls: Option<Tls<'a>>,
    /// The request as the client sent it.
    pub request: Request<'a>,
    /// The router and service that took it, if any did.
    pub route: Option<Routed<'a>>,
    /// The server that was asked last, if any was.
    pub origin: Option<Origin<'a>>,
    /// Attempts after the first one.
    pub retries: u32,
    /// The response that the client got.
    pub response: Response<'a>,
    /// Why the gateway answered by itself, if it did for a failure.
    pub fault: Option<Fault>,
    /// The span that the request belongs to.
    pub trace: Option<Trace<'a>>,
    /// Whether the service is one of the gateway's own.
    pub internal: bool,
}

/// The request as the client sent it, before any middleware touched it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Method.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a [u8],
    /// Version.
    pub version: Version,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// `Host` or authority, with its port if it has one; empty if the client named none.
    pub host: &'a [u8],
    /// Header fields.
    pub headers: &'a HeaderMap,
    /// Bytes of body read from the client.
    pub bytes: u64,
}

/// TLS to the client.
#[derive(Clone, Copy, Debug)]
pub struct Tls<'a> {
    /// `1.3`.
    pub version: &'a str,
    /// IANA name of the suite.
    pub cipher: &'a str,
    /// Subject of the client's certificate, if it showed one.
    pub client_subject: Option<&'a str>,
}

/// The router and service that took the request.
#[derive(Clone, Copy, Debug)]
pub struct Routed<'a> {
    /// `api@docker`.
    pub router: &'a str,
    /// `api@docker`.
    pub service: &'a str,
}

/// The server that was asked.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// `http://10.0.0.7:8080`.
    pub url: &'a str,
    /// `10.0.0.7:8080`.
    pub address: &'a str,
    /// Its answer's status, if it gave one.
    pub status: Option<u16>,
    /// Bytes of body that it sent.
    pub bytes: u64,
    /// How long it took.
    pub duration: Duration,
    /// Header fields of its answer, if they are still known.
    pub headers: Option<&'a HeaderMap>,
}

/// The response that the client got.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    /// Status.
    pub status: u16,
    /// Bytes of body sent.
    pub bytes: u64,
    /// Header fields, if they are still known.
    pub headers: Option<&'a HeaderMap>,
    /// Size of the body before compression, divided by its size after, if we compressed it.
    pub gzip_ratio: Option<f64>,
}

/// The span that the request belongs to, in hexadecimal.
#[derive(Clone, Copy, Debug)]
pub struct Trace<'a> {
    /// 32 digits.
    pub trace_id: &'a str,
    /// 16 digits.
    pub span_id: &'a str,
}

//! Who is calling: one value per connection, shared by its requests.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::HeaderValue;

/// What is known of a client's connection before its first request.
#[derive(Clone, Debug)]
pub struct Client {
    /// Name of the entry point that accepted the connection.
    pub entry_point: Arc<str>,
    /// Position of that entry point in the snapshot's per-entry-point tables.
    pub entry_point_index: usize,
    /// The caller: the TCP peer, or what a trusted peer's PROXY header said.
    pub peer: SocketAddr,
    /// The address that was called: the socket's own, or what a trusted PROXY header said.
    pub local: SocketAddr,
    /// Whether this peer's `X-Forwarded-*` headers are believed.
    pub trusted: bool,
    /// TLS facts, once terminated here.
    pub tls: Option<Arc<TlsFacts>>,
}

/// What the TLS handshake said.
#[derive(Clone, Debug, Default)]
pub struct TlsFacts {
    /// `1.2`, `1.3`.
    pub version: &'static str,
    /// IANA name of the cipher suite.
    pub cipher: &'static str,
    /// Server name that the client asked for, lower case.
    pub server_name: Option<Box<str>>,
    /// Name of the TLS options that the handshake was made with.
    pub options: Option<Arc<str>>,
    /// What they asked of the client's certificate, as a digest: equal for equal demands.
    pub client_demands: [u8; 32],
    /// The protocol that was agreed on (ALPN).
    pub protocol: Option<Box<[u8]>>,
    /// The client's certificate and its issuers as sent, each in DER; none if it showed none.
    pub certificates: Box<[Box<[u8]>]>,
    /// Whom the client's certificate was made for, as its issuer wrote it.
    pub client_subject: Option<Box<str>>,
    /// Whether an earlier session goes on.
    pub is_resumed: bool,
}

impl Client {
    /// The caller's address without its port, IPv4-mapped forms reduced.
    pub fn address(&self) -> IpAddr {
        self.peer.ip().to_canonical()
    }

    /// The caller's address as a header value.
    pub fn address_text(&self) -> HeaderValue {
        // Digits, dots and colons are always a header value.
        HeaderValue::try_from(self.address().to_string()).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

//! What an entry point is told: plain values, checked and defaulted before they come here.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use pingora::protocols::http::v2::server::{H2Options, default_h2_options};

use crate::tls::Challenges;
use crate::traffic::http::EntryPointHttp;
use crate::units::Networks;

/// Everything that one entry point is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Its position in the snapshot's per-entry-point tables.
    pub index: usize,
    /// Whose forwarded headers are believed.
    pub forwarders: Trusted,
    /// Whose PROXY header is believed; `None` if the entry point expects none.
    pub proxy_protocol: Option<Trusted>,
    /// How long clients may take.
    pub timeouts: Timeouts,
    /// How slow clients may be.
    pub rates: Rates,
    /// How much clients may send.
    pub limits: Limits,
    /// When a connection is not kept for another request.
    pub keep_alive: KeepAlive,
    /// HTTP/2 without TLS, by prior knowledge; `None` refuses it.
    pub http2: Option<Http2>,
    /// Proofs for ACME servers.
    pub acme: Acme,
    /// How its requests are treated.
    pub http: Arc<EntryPointHttp>,
    /// Its open connections, with those that were made when other options held.
    pub crowd: Arc<AtomicUsize>,
}

/// What is done with ACME servers that ask for a proof in a handshake.
#[derive(Clone, Debug, Default)]
pub struct Acme {
    /// The proofs that are awaited.
    pub challenges: Arc<Challenges>,
    /// Whether those who ask for another are treated like everybody else, since a server may have it.
    pub by_pass: bool,
}

impl Options {
    /// The defaults of an entry point that is called `name`.
    pub fn new(name: &str, index: usize) -> Self {
        Self {
            name: name.into(),
            index,
            forwarders: Trusted::default(),
            proxy_protocol: None,
            timeouts: Timeouts::default(),
            rates: Rates::default(),
            limits: Limits::default(),
            keep_alive: KeepAlive::default(),
            http2: Some(Http2::default()),
            acme: Acme::default(),
            http: Arc::default(),
            crowd: Arc::default(),
        }
    }
}

/// Peers that are believed.
#[derive(Clone, Debug, Default)]
pub struct Trusted {
    /// Their networks.
    pub networks: Networks,
    /// Believe everybody.
    pub everyone: bool,
}

impl Trusted {
    /// Whether `peer` is believed.
    pub fn contains(&self, peer: std::net::IpAddr) -> bool {
        self.everyone || self.networks.contains(peer)
    }
}

/// How long clients may take. `None` is without end.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a PROXY header, from the accept on.
    pub proxy_header: Duration,
    /// For a TLS handshake, from its first byte on.
    pub handshake: Duration,
    /// For a request head, from its first byte on.
    pub head: Duration,
    /// For a whole request with its body, from its first byte on.
    pub read: Option<Duration>,
    /// For a whole response, from the end of the request head on.
    pub write: Option<Duration>,
    /// Between two requests of a connection.
    pub idle: Option<Duration>,
    /// For an answer to a client that has closed its sending half; it may as well be gone, and nothing else would tell.
    pub half_closed: Duration,
    /// For reading on after an answer that ends the connection, so that a reset does not destroy the answer.
    pub linger: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            proxy_header: Duration::from_secs(5),
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(10),
            read: Some(Duration::from_secs(60)),
            write: None,
            idle: Some(Duration::from_secs(180)),
            half_closed: Duration::from_secs(5),
            linger: Duration::from_secs(2),
        }
    }
}

/// How slow clients may be; only time spent waiting for the client counts.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Of a request body.
    pub body: Rate,
    /// Of taking a response.
    pub send: Rate,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            body: Rate { bytes_per_second: 500, grace: Duration::from_secs(10) },
            send: Rate { bytes_per_second: 500, grace: Duration::from_secs(30) },
        }
    }
}

/// A least rate with a grace: the longest wait that past bytes do not pay for.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Least bytes per second; 0 asks for none.
    pub bytes_per_second: u32,
    /// Longest wait in credit.
    pub grace: Duration,
}

/// How much clients may send.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a request head.
    pub head_bytes: usize,
    /// Header fields of a request. Pingora takes 256 at most, so more is no use.
    pub header_fields: usize,
    /// Bytes of a request target.
    pub target_bytes: usize,
    /// Open connections.
    pub connections: usize,
    /// Bytes read and thrown away after an answer that ends the connection.
    pub linger_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 1 << 20,
            header_fields: 100,
            target_bytes: 8 << 10,
            connections: usize::MAX,
            linger_bytes: 4 << 20,
        }
    }
}

/// When a connection is not kept for another request.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeepAlive {
    /// After this many requests.
    pub max_requests: Option<u64>,
    /// When it is this old.
    pub max_time: Option<Duration>,
}

/// What a client takes for granted before it hears of another size (RFC 9113 §6.5.2).
pub(super) const HEADER_TABLE_BYTES: u32 = 4096;

/// Bytes of one answer that wait for an HTTP/2 client to take what it has said it would. With the library's 400 KiB, a client with wide
/// windows that reads nothing would hold 100 MB.
const SEND_BUFFER_BYTES: usize = 64 << 10;

/// HTTP/2 settings of an entry point.
#[derive(Clone, Copy, Debug)]
pub struct Http2 {
    /// Requests at once on one connection.
    pub max_concurrent_streams: u32,
    /// Bytes of a decoded header list.
    pub max_header_list_bytes: u32,
    /// Flow-control window of one stream, in bytes.
    pub stream_window_bytes: u32,
    /// Flow-control window of a connection, in bytes.
    pub connection_window_bytes: u32,
    /// Largest frame that we take, in bytes.
    pub max_frame_bytes: u32,
    /// Table by which the client may compress header fields, in bytes (RFC 7541 §4.2).
    pub header_table_bytes: u32,
}

impl Default for Http2 {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 250,
            max_header_list_bytes: 64 << 10,
            stream_window_bytes: 64 << 10,
            connection_window_bytes: 1 << 20,
            max_frame_bytes: 16 << 10,
            header_table_bytes: HEADER_TABLE_BYTES,
        }
    }
}

impl Http2 {
    /// As Pingora wants them. Starts from Pingora's bounded defaults: `h2`'s own have no bound on streams and header lists.
    pub(super) fn to_pingora(self) -> H2Options {
        let mut options = default_h2_options();
        options
            .max_concurrent_streams(self.max_concurrent_streams)
            .max_header_list_size(self.max_header_list_bytes)
            .initial_window_size(self.stream_window_bytes)
            .initial_connection_window_size(self.connection_window_bytes)
            .max_frame_size(self.frame_bytes())
            .max_send_buffer_size(SEND_BUFFER_BYTES);
        if self.header_table_bytes != HEADER_TABLE_BYTES {
            options.header_table_size(self.header_table_bytes);
        }
        options
    }

    /// The largest frame, as RFC 9113 §6.5.2 bounds it.
    pub(super) fn frame_bytes(self) -> u32 {
        self.max_frame_bytes.clamp(1 << 14, (1 << 24) - 1)
    }
}

//! Handles resolved when routes are built: no label look-up per request.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderMap, Method, header};
use parking_lot::Mutex;

use crate::exchange::{Fault, TlsFacts};

use super::series::{Line, Series, Shape, Totals, add, read};

pub use super::labels::HeaderValues;

/// What is counted of one request, once it is over.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// The client's method.
    pub method: &'a Method,
    /// What was spoken.
    pub protocol: Protocol,
    /// The status sent; for gRPC the `grpc-status`, if there is one.
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
        let has = |name: header::HeaderName, wanted: &[u8]| {
            headers.get_all(name).iter().any(|value| contains_ignoring_case(value.as_bytes(), wanted))
        };
        let content_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
        if headers.contains_key(header::UPGRADE) && has(header::UPGRADE, b"websocket") {
            Self::Websocket
        } else if has(header::ACCEPT, b"text/event-stream") {
            Self::Sse
        } else if content_type.starts_with(b"application/grpc-web") {
            Self::GrpcWeb
        } else if content_type.starts_with(b"application/grpc") {
            Self::Grpc
        } else {
            Self::Http
        }
    }
}

fn contains_ignoring_case(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window.eq_ignore_ascii_case(wanted))
}

/// The labels of one series, packed: occupied, header values, protocol, method, code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(u32);

impl Key {
    const METHODS: [&'static str; 10] =
        ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "EXTENSION_METHOD"];
    const EXTENSION: u32 = Self::METHODS.len() as u32 - 1;
    const OCCUPIED: u32 = 1 << 31;
    /// The code of what has no series of its own, because there are too many.
    const NO_CODE: u32 = 1023;
    /// Requests of series beyond the bound.
    const OTHERS: Self = Self(Self::OCCUPIED | Self::EXTENSION << 10 | Self::NO_CODE);

    #[inline]
    fn of(observation: &Observation<'_>) -> Self {
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
const SUITE_LINES: usize = SUITES.len().div_ceil(8);

fn suite(tls: &TlsFacts) -> usize {
    let known = SUITES.iter().position(|(_, cipher)| *cipher == tls.cipher);
    known.unwrap_or(SUITES.len() - if tls.version == "1.3" { 2 } else { 1 })
}

/// Counters by method, protocol and status. Costs nothing but its own size until the first request.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// `None`: nobody asked for it, nothing is counted.
    shape: Option<Arc<Shape>>,
    book: OnceLock<Box<Book>>,
}

#[derive(Debug, Default)]
struct Book {
    series: Series,
    tls: OnceLock<Box<[Line]>>,
}

impl Meter {
    pub(super) fn new(shape: Option<Arc<Shape>>) -> Self {
        Self { shape, book: OnceLock::new() }
    }

    #[inline]
    fn record(&self, observation: &Observation<'_>) {
        let Some(shape) = &self.shape else { return };
        let book = self.book.get_or_init(Box::default);
        let counted = (observation.duration, observation.request_bytes, observation.response_bytes);
        book.series.add(shape, (Key::of(observation).0, Key::OTHERS.0), counted);
        if let Some(tls) = observation.tls {
            let counters = book.tls.get_or_init(|| shape.counters(SUITE_LINES));
            add(shape.own(counters, SUITE_LINES), suite(tls), 1);
        }
    }

    /// Calls `see` with each series.
    pub(super) fn each(&self, mut see: impl FnMut(Key, Totals)) {
        if let (Some(shape), Some(book)) = (&self.shape, self.book.get()) {
            book.series.each(shape, |key, totals| see(Key(key), totals));
        }
    }

    /// Requests per entry of [`SUITES`].
    pub(super) fn tls(&self) -> Option<[u64; SUITES.len()]> {
        let counters = self.book.get()?.tls.get()?;
        Some(sums(counters, SUITE_LINES))
    }
}

/// Adds up the shards of `counters`.
fn sums<const N: usize>(counters: &[Line], lines: usize) -> [u64; N] {
    std::array::from_fn(|index| counters.chunks_exact(lines).map(|own| read(own, index)).sum())
}

/// Meters of one entry point.
#[derive(Debug, Default)]
pub struct EntryPointMeters {
    pub(super) name: Arc<str>,
    pub(super) meter: Meter,
    open: [AtomicI64; Transport::ALL.len()],
    /// Transports that there has been a connection of.
    seen: [AtomicBool; Transport::ALL.len()],
    refused: [AtomicU64; Refusal::ALL.len()],
    faults: OnceLock<Box<[Line]>>,
}

/// What carries a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    pub(super) const ALL: [(Self, &'static str); 2] = [(Self::Tcp, "TCP"), (Self::Udp, "UDP")];
}

/// Why a connection was closed before it carried anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There are as many as may be.
    TooMany,
    /// There are as many from this address as may be.
    TooManyFromAddress,
    /// Its PROXY header is missing, broken or not believed.
    ProxyHeader,
    /// It sent nothing in time.
    Silence,
    /// The TLS handshake failed.
    Handshake,
    /// No router takes it.
    NoRouter,
}

impl Refusal {
    pub(super) const ALL: [(Self, &'static str); 6] = [
        (Self::TooMany, "too-many"),
        (Self::TooManyFromAddress, "too-many-from-address"),
        (Self::ProxyHeader, "proxy-header"),
        (Self::Silence, "silence"),
        (Self::Handshake, "handshake"),
        (Self::NoRouter, "no-router"),
    ];
}

/// A connection counted as open, until it drops.
#[derive(Debug)]
pub struct OpenConnection {
    meters: Arc<EntryPointMeters>,
    transport: Transport,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.meters.open[self.transport as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

const FAULT_LINES: usize = FAULTS.div_ceil(8);
const FAULTS: usize = Fault::ALL.len();

impl EntryPointMeters {
    pub(super) fn new(name: &str, shape: Option<Arc<Shape>>) -> Self {
        Self { name: name.into(), meter: Meter::new(shape), ..Self::default() }
    }

    /// Counts a request.
    #[inline]
    pub fn record(&self, observation: &Observation<'_>) {
        self.meter.record(observation);
    }

    /// Counts a failure that the gateway answered by itself.
    pub fn record_fault(&self, fault: Fault) {
        if let Some(shape) = &self.meter.shape {
            let counters = self.faults.get_or_init(|| shape.counters(FAULT_LINES));
            add(shape.own(counters, FAULT_LINES), fault as usize, 1);
        }
    }

    /// Counts a connection that was refused.
    pub fn refuse(&self, refusal: Refusal) {
        self.refused[refusal as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection as open.
    pub fn open(self: &Arc<Self>, transport: Transport) -> OpenConnection {
        self.open[transport as usize].fetch_add(1, Ordering::Relaxed);
        let seen = &self.seen[transport as usize];
        if !seen.load(Ordering::Relaxed) {
            seen.store(true, Ordering::Relaxed);
        }
        OpenConnection { meters: self.clone(), transport }
    }

    /// How many connections are open.
    pub fn open_connections(&self, transport: Transport) -> i64 {
        self.open[transport as usize].load(Ordering::Relaxed)
    }

    /// How many connections are open, if there ever was one: an entry point for TCP has no series for UDP.
    pub(super) fn connections_shown(&self, transport: Transport) -> Option<i64> {
        self.seen[transport as usize].load(Ordering::Relaxed).then(|| self.open_connections(transport))
    }

    pub(super) fn refused(&self, refusal: Refusal) -> u64 {
        self.refused[refusal as usize].load(Ordering::Relaxed)
    }

    /// Failures, in the order of `Fault::ALL`.
    pub(super) fn faults(&self) -> Option<[u64; FAULTS]> {
        self.faults.get().map(|counters| sums(counters, FAULT_LINES))
    }
}

/// Meters of one router and its service.
#[derive(Debug, Default)]
pub struct RouterMeters {
    pub(super) router: Arc<str>,
    pub(super) service: Arc<str>,
    pub(super) meter: Meter,
}

impl RouterMeters {
    pub(super) fn new(router: &str, service: &str, shape: Option<Arc<Shape>>) -> Self {
        Self { router: router.into(), service: service.into(), meter: Meter::new(shape) }
    }

    /// Counts a request.
    #[inline]
    pub fn record(&self, observation: &Observation<'_>) {
        self.meter.record(observation);
    }
}

/// Meters of one service (leaf load balancer).
#[derive(Debug, Default)]
pub struct ServiceMeters {
    pub(super) name: Arc<str>,
    pub(super) meter: Meter,
    retries: AtomicU64,
    servers: Mutex<Option<Box<Servers>>>,
}

#[derive(Debug, Default)]
struct Servers {
    up: BTreeMap<Box<str>, bool>,
    /// Whether `up` names all servers that there are.
    complete: bool,
}

impl ServiceMeters {
    pub(super) fn new(name: &str, shape: Option<Arc<Shape>>) -> Self {
        Self { name: name.into(), meter: Meter::new(shape), ..Self::default() }
    }

    /// Counts a request.
    #[inline]
    pub fn record(&self, observation: &Observation<'_>) {
        self.meter.record(observation);
    }

    /// Counts an attempt after the first one.
    pub fn record_retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets `traefik_service_server_up` of one server.
    ///
    /// A server that [`ServiceMeters::set_servers`] did not name is ignored: it is the last word of a check of a pool that
    /// has been replaced.
    pub fn set_server_up(&self, url: &str, up: bool) {
        let mut servers = self.servers.lock();
        let servers = servers.get_or_insert_default();
        match servers.up.get_mut(url) {
            Some(state) => *state = up,
            None if servers.complete => {}
            None => _ = servers.up.insert(url.into(), up),
        }
    }

    /// Says which servers there are. New ones count as up; those that are not named lose their series.
    pub fn set_servers<'u>(&self, urls: impl IntoIterator<Item = &'u str>) {
        let mut servers = self.servers.lock();
        let servers = servers.get_or_insert_default();
        let up = urls.into_iter().map(|url| (url.into(), servers.up.get(url).copied().unwrap_or(true))).collect();
        **servers = Servers { up, complete: true };
    }

    pub(super) fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Each server, and whether it is up.
    pub(super) fn each_server(&self, mut see: impl FnMut(&str, bool)) {
        if let Some(servers) = &*self.servers.lock() {
            servers.up.iter().for_each(|(url, up)| see(url, *up));
        }
    }
}

#[cfg(test)]
mod tests;

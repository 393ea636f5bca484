//! Handles resolved when routes are built: no label look-up per request.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::exchange::Fault;

use super::observation::{Key, SUITES, suite};
use super::series::{Line, Series, Shape, Totals, add, read};
use super::servers::ServerStates;
use super::shard::Padded;

pub use super::observation::{HeaderValues, Observation, Protocol};

const SUITE_LINES: usize = SUITES.len().div_ceil(8);

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
    /// Every connection writes here; every request reads what stands above.
    open: Padded<[AtomicI64; Transport::ALL.len()]>,
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

    /// Counts a connection as open, until [`EntryPointMeters::closed`].
    pub fn opened(&self, transport: Transport) {
        self.open.0[transport as usize].fetch_add(1, Ordering::Relaxed);
        let seen = &self.seen[transport as usize];
        if !seen.load(Ordering::Relaxed) {
            seen.store(true, Ordering::Relaxed);
        }
    }

    /// A connection that was counted as open is over.
    pub fn closed(&self, transport: Transport) {
        self.open.0[transport as usize].fetch_sub(1, Ordering::Relaxed);
    }

    /// How many connections are open.
    pub fn open_connections(&self, transport: Transport) -> i64 {
        self.open.0[transport as usize].load(Ordering::Relaxed)
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
    servers: ServerStates,
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
        if !self.is_counted() {
            return;
        }
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets `traefik_service_server_up` of one server.
    ///
    /// A server that [`ServiceMeters::set_servers`] did not name is ignored: it is the last word of a check of a pool that
    /// has been replaced.
    pub fn set_server_up(&self, url: &str, up: bool) {
        if !self.is_counted() {
            return;
        }
        self.servers.set(url, up);
    }

    /// Says which servers there are. New ones count as up; those that are not named lose their series.
    pub fn set_servers<'u>(&self, urls: impl IntoIterator<Item = &'u str>) {
        if !self.is_counted() {
            return;
        }
        self.servers.set_all(urls);
    }

    /// Whether anybody asked for it. If not, all services share one of these, and it learns nothing.
    fn is_counted(&self) -> bool {
        self.meter.shape.is_some()
    }

    pub(super) fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Each server, and whether it is up.
    pub(super) fn each_server(&self, see: impl FnMut(&str, bool)) {
        self.servers.each(see);
    }
}

#[cfg(test)]
mod tests;

//! Everything that is counted: live meters by name, and what the process counts as a whole.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use hashbrown::{DefaultHashBuilder, HashTable, hash_table::Entry};
use http::HeaderMap;
use parking_lot::Mutex;

use super::connections::ConnectionMeters;
use super::datagrams::DatagramMeters;
use super::labels::HeaderLabels;
use super::meters::{EntryPointMeters, HeaderValues, RouterMeters, ServiceMeters};
use super::series::Shape;
use super::servers::TcpServiceMeters;

pub(super) mod family;
mod settings;

pub use settings::{Prometheus, Settings};

/// Combinations of labels that one meter may have; with header labels there are more of them.
const MAX_KEYS: usize = 128;
const MAX_KEYS_WITH_HEADERS: usize = 1024;

/// Hands out meters and remembers them, so that a reload goes on counting where it was.
#[derive(Debug)]
pub struct Metrics {
    /// `None`: no requests are counted, because nobody would read it.
    shape: Option<Arc<Shape>>,
    scopes: Scopes,
    add_internals: bool,
    /// Upper bounds of the duration buckets, in seconds.
    pub(super) bounds: Box<[f64]>,
    pub(super) header_labels: HeaderLabels,
    pub(super) entry_points: Mutex<Table<EntryPointMeters>>,
    pub(super) routers: Mutex<Table<RouterMeters>>,
    pub(super) services: Mutex<Table<ServiceMeters>>,
    pub(super) udp_entry_points: Mutex<Table<DatagramMeters>>,
    pub(super) udp_services: Mutex<Table<DatagramMeters>>,
    pub(super) connections: Mutex<Table<ConnectionMeters>>,
    pub(super) tcp_services: Mutex<Table<TcpServiceMeters>>,
    /// What all services have if they are not counted.
    uncounted: Arc<ServiceMeters>,
    pub(super) process: Counters,
}

#[derive(Clone, Copy, Debug, Default)]
struct Scopes {
    entry_points: bool,
    routers: bool,
    services: bool,
}

/// What the process counts as a whole.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) reloads: AtomicU64,
    pub(super) reload_failures: AtomicU64,
    /// Seconds since 1970; 0 before the first.
    pub(super) last_reload: AtomicU64,
    pub(super) problems: [AtomicU64; 2],
    pub(super) upgrades: [AtomicU64; 2],
    pub(super) access_log_drops: Arc<AtomicU64>,
    pub(super) certificates: Mutex<Vec<Certificate>>,
    /// `None`: no OCSP responders are asked.
    pub(super) staples: Mutex<Option<Staples>>,
    pub(super) responder_answers: [AtomicU64; 3],
}

/// What is known of the certificates that name an OCSP responder: how many have an answer that is shown, none, or were revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Staples {
    /// There is an answer that holds, and it is shown.
    pub valid: usize,
    /// There is none.
    pub missing: usize,
    /// The authority has revoked them.
    pub revoked: usize,
}

/// What came of asking an OCSP responder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponderAnswer {
    /// The certificate is good.
    Good,
    /// It was revoked.
    Revoked,
    /// There was no answer, or none that is believed.
    Failed,
}

/// A certificate in use.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Certificate {
    /// Common name of its subject.
    pub common_name: String,
    /// Serial number, in decimal.
    pub serial: String,
    /// Names it is for, joined by commas.
    pub names: String,
    /// End of its validity, in seconds since 1970.
    pub not_after: i64,
}

/// How handing over to a new process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// The successor serves.
    Done,
    /// The successor failed, and this process goes on.
    Failed,
}

impl Metrics {
    /// `threads` is how many threads will count.
    pub fn new(settings: &Settings, threads: usize) -> Self {
        let prometheus = settings.prometheus.as_ref();
        let header_labels =
            prometheus.map(|prometheus| HeaderLabels::new(&prometheus.header_labels)).unwrap_or_default();
        let max_keys = if header_labels.is_empty() { MAX_KEYS } else { MAX_KEYS_WITH_HEADERS };
        let scopes = prometheus.map(|prometheus| Scopes {
            entry_points: prometheus.add_entry_points_labels,
            routers: prometheus.add_routers_labels,
            services: prometheus.add_services_labels,
        });
        Self {
            shape: prometheus.map(|prometheus| Arc::new(Shape::new(&prometheus.buckets, threads, max_keys))),
            scopes: scopes.unwrap_or_default(),
            add_internals: settings.add_internals,
            bounds: prometheus.map(|prometheus| prometheus.buckets.as_slice().into()).unwrap_or_default(),
            header_labels,
            entry_points: Mutex::default(),
            routers: Mutex::default(),
            services: Mutex::default(),
            udp_entry_points: Mutex::default(),
            udp_services: Mutex::default(),
            connections: Mutex::default(),
            tcp_services: Mutex::default(),
            uncounted: Arc::default(),
            process: Counters::default(),
        }
    }

    /// Whether requests to internal services are counted.
    pub fn count_internals(&self) -> bool {
        self.add_internals
    }

    /// The meters of an entry point. They count connections in any case, requests if the settings say so.
    pub fn entry_point(&self, name: &str) -> Arc<EntryPointMeters> {
        let shape = self.shape.as_ref().filter(|_| self.scopes.entry_points);
        self.entry_points.lock().find((name, ""), || EntryPointMeters::new(name, shape.cloned()))
    }

    /// The meters of a router, if routers are counted.
    pub fn router(&self, router: &str, service: &str) -> Option<Arc<RouterMeters>> {
        let shape = self.shape.as_ref().filter(|_| self.scopes.routers)?;
        let new = || RouterMeters::new(router, service, Some(shape.clone()));
        Some(self.routers.lock().find((router, service), new))
    }

    /// The meters of a service; idle ones if services are not counted.
    pub fn service(&self, name: &str) -> Arc<ServiceMeters> {
        match self.shape.as_ref().filter(|_| self.scopes.services) {
            Some(shape) => self.services.lock().find((name, ""), || ServiceMeters::new(name, Some(shape.clone()))),
            None => self.uncounted.clone(),
        }
    }

    /// The meters of an entry point for UDP. They count in any case.
    pub fn udp_entry_point(&self, name: &str) -> Arc<DatagramMeters> {
        self.udp_entry_points.lock().find((name, ""), || DatagramMeters::new(name))
    }

    /// The meters of a UDP service; idle ones if services are not counted.
    pub fn udp_service(&self, name: &str) -> Arc<DatagramMeters> {
        if !self.scopes.services {
            return Arc::default();
        }
        self.udp_services.lock().find((name, ""), || DatagramMeters::new(name))
    }

    /// The meters of a TCP router's connections to its service.
    pub fn connections(&self, router: &str, service: &str) -> Arc<ConnectionMeters> {
        self.connections.lock().find((router, service), || ConnectionMeters::new(router, service))
    }

    /// What is told of a TCP service's servers; idle if services are not counted.
    pub fn tcp_service(&self, name: &str) -> Arc<TcpServiceMeters> {
        if !self.scopes.services {
            return Arc::default();
        }
        self.tcp_services.lock().find((name, ""), || TcpServiceMeters::new(name))
    }

    /// What `headerLabels` makes of a request's header fields. Without such labels it costs nothing.
    #[inline]
    pub fn header_values(&self, headers: &HeaderMap) -> HeaderValues {
        self.header_labels.of(headers)
    }

    /// Counts a configuration that was loaded and is in use from `now` on.
    pub fn config_reloaded(&self, now: SystemTime) {
        self.process.reloads.fetch_add(1, Ordering::Relaxed);
        let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.process.last_reload.store(seconds, Ordering::Relaxed);
    }

    /// Counts a configuration that could not be loaded at all.
    pub fn config_failed(&self) {
        self.process.reload_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Says how many warnings and errors the configuration in use has.
    pub fn set_problems(&self, warnings: usize, errors: usize) {
        self.process.problems[0].store(warnings as u64, Ordering::Relaxed);
        self.process.problems[1].store(errors as u64, Ordering::Relaxed);
    }

    /// Counts a hand-over to a new process.
    pub fn upgraded(&self, upgrade: Upgrade) {
        self.process.upgrades[upgrade as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Says which certificates are in use.
    pub fn set_certificates(&self, certificates: Vec<Certificate>) {
        *self.process.certificates.lock() = certificates;
    }

    /// Says how the certificates stand that name an OCSP responder.
    pub fn set_staples(&self, staples: Staples) {
        *self.process.staples.lock() = Some(staples);
    }

    /// Counts what came of asking an OCSP responder.
    pub fn responder_answered(&self, answer: ResponderAnswer) {
        self.process.responder_answers[answer as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The counter of lines that the access log has lost; given to `AccessLog::open`.
    pub fn access_log_drops(&self) -> Arc<AtomicU64> {
        self.process.access_log_drops.clone()
    }
}

/// Meters by name.
#[derive(Debug)]
pub(super) struct Table<M> {
    meters: HashTable<Arc<M>>,
    hasher: DefaultHashBuilder,
    /// At so many meters, those that nothing uses go, scraped or not: reloads must not fill the memory.
    prune_at: usize,
}

const MIN_PRUNE: usize = 1024;

/// What names a meter: one name, or two.
pub(super) trait Named {
    fn name(&self) -> (&str, &str);
}

impl Named for EntryPointMeters {
    fn name(&self) -> (&str, &str) {
        (&self.name, "")
    }
}

impl Named for RouterMeters {
    fn name(&self) -> (&str, &str) {
        (&self.router, &self.service)
    }
}

impl Named for ServiceMeters {
    fn name(&self) -> (&str, &str) {
        (&self.name, "")
    }
}

impl Named for DatagramMeters {
    fn name(&self) -> (&str, &str) {
        (&self.name, "")
    }
}

impl<M> Default for Table<M> {
    fn default() -> Self {
        Self { meters: HashTable::new(), hasher: DefaultHashBuilder::default(), prune_at: MIN_PRUNE }
    }
}

impl<M: Named> Table<M> {
    fn find(&mut self, name: (&str, &str), new: impl FnOnce() -> M) -> Arc<M> {
        if self.meters.len() >= self.prune_at {
            self.meters.retain(|meter| !is_unused(meter));
            self.prune_at = MIN_PRUNE.max(2 * self.meters.len());
        }
        let Self { meters, hasher, .. } = self;
        let entry =
            meters.entry(hasher.hash_one(name), |meter| meter.name() == name, |meter| hasher.hash_one(meter.name()));
        match entry {
            Entry::Occupied(found) => found.get().clone(),
            Entry::Vacant(vacant) => vacant.insert(Arc::new(new())).get().clone(),
        }
    }

    /// All meters, those that nothing uses any more apart: they are shown once more, and then [`Table::remove`]d.
    pub(super) fn all(&self) -> (Vec<Arc<M>>, Vec<Arc<M>>) {
        let (mut used, mut unused) = (Vec::with_capacity(self.meters.len()), Vec::new());
        for meter in &self.meters {
            let to = if is_unused(meter) { &mut unused } else { &mut used };
            to.push(meter.clone());
        }
        (used, unused)
    }

    /// Removes meters, unless something uses them again.
    pub(super) fn remove(&mut self, unused: Vec<Arc<M>>) {
        for meter in unused {
            let hash = self.hasher.hash_one(meter.name());
            if let Ok(entry) = self.meters.find_entry(hash, |other| Arc::ptr_eq(other, &meter)) {
                drop(meter);
                if is_unused(entry.get()) {
                    entry.remove();
                }
            }
        }
    }
}

/// Whether only the table itself holds the meter.
fn is_unused<M>(meter: &Arc<M>) -> bool {
    Arc::strong_count(meter) == 1
}

#[cfg(test)]
mod tests;

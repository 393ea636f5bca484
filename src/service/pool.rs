//! A pool of servers: who is up, whose turn it is, who sticks to whom.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration as Span, Instant};

use http::HeaderName;
use parking_lot::Mutex;
use pingora::http::RequestHeader;
use pingora::upstreams::peer::HttpPeer;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::clamp_weight;
use super::health::{self, Plan};
use super::passive_health::{self, Failures};
use super::probe;
use super::server::{self, FNV_START, Purpose, Server, fnv1a, millis};
use super::sticky::{self, Sticky, cookies};
use super::strategy::{AnyStrategy, Field, Kind};
use super::transport::Transport;
use crate::exchange::{AttemptOutcome, Exchange, Fault};
use crate::observe::meters::ServiceMeters;
use crate::problem::Problem;
use crate::units::{Duration, Name};

/// Most servers of one pool.
const SERVERS_LIMIT: usize = 10_000;

/// `loadBalancer` as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// The servers.
    pub servers: Vec<server::Settings>,
    /// How one of them is picked.
    pub strategy: Kind,
    /// What `hrw` and `ketama` tell clients apart by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash_key: Option<HashKey>,
    /// Keeps each client with the server it was first sent to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<sticky::Settings>,
    /// Probes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<health::Settings>,
    /// What requests themselves tell of a server's health.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passive_health_check: Option<passive_health::Settings>,
    /// Whether servers see the client's `Host` (the default) or their own.
    pub pass_host_header: bool,
    /// How answers are passed on.
    pub response_forwarding: ResponseForwarding,
    /// Name of the transport; the default one if it is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub servers_transport: Option<Name>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            strategy: Kind::default(),
            hash_key: None,
            sticky: None,
            health_check: None,
            passive_health_check: None,
            pass_host_header: true,
            response_forwarding: ResponseForwarding::default(),
            servers_transport: None,
        }
    }
}

/// `responseForwarding` as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ResponseForwarding {
    /// How long parts of an answer may wait for more. Below zero: not at all.
    pub flush_interval: Duration,
}

impl Default for ResponseForwarding {
    fn default() -> Self {
        Self { flush_interval: Duration::from_millis(100) }
    }
}

/// `hashKey` as written: what clients are told apart by. A request without it is told by its client's address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HashKey {
    /// Where it is taken from.
    pub source: Source,
    /// Name of the header field or cookie.
    #[serde(default)]
    pub name: String,
}

/// Where a hash key is taken from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// The client's address.
    #[default]
    #[serde(rename = "clientIP")]
    ClientIp,
    /// A header field.
    #[serde(rename = "header")]
    Header,
    /// A cookie.
    #[serde(rename = "cookie")]
    Cookie,
}

/// A server and its part in one pool.
#[derive(Debug)]
pub struct Member {
    /// The server.
    pub server: Arc<Server>,
    /// Its share of the requests; 0: drained.
    pub weight: u32,
    failures: Option<Arc<Failures>>,
}

impl Member {
    pub(super) fn new(server: Arc<Server>, weight: u32, failures: Option<Arc<Failures>>) -> Self {
        Self { server, weight, failures }
    }
}

/// The servers of one service.
pub struct ServerPool {
    name: Name,
    members: Box<[Member]>,
    strategy: AnyStrategy,
    key: Key,
    sticky: Option<Sticky>,
    plan: Option<Plan>,
    /// The window of passive health, in milliseconds.
    window: Option<u64>,
    pass_host_header: bool,
    flush_interval: Duration,
    passive: Option<passive_health::Settings>,
    transport: Arc<Transport>,
    /// What is told of it.
    pub meters: Arc<ServiceMeters>,
    tasks: Tasks,
}

impl ServerPool {
    /// Builds the pool of the service `name`. Servers that `previous` has too, over the same transport, are kept as they are:
    /// their health, their requests in flight, what was measured of them and their addresses.
    ///
    /// # Errors
    /// If a setting has no meaning, or is one that cannot act.
    pub fn build(
        name: &Name,
        settings: &Settings,
        transport: Arc<Transport>,
        meters: Arc<ServiceMeters>,
        previous: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, Problem> {
        if settings.servers.len() > SERVERS_LIMIT {
            return Err(Problem::at("servers", format!("has more than {SERVERS_LIMIT} entries")));
        }
        let plan = settings.health_check.as_ref().map(Plan::build).transpose();
        let passive = settings.passive_health_check.as_ref();
        let window = passive.map(passive_health::Settings::window_millis).transpose();
        let members = members(settings, &transport, previous)?;
        let cookie = settings.sticky.as_ref().and_then(|sticky| sticky.cookie.as_ref());
        let urls: Vec<_> = members.iter().map(|member| member.server.url()).collect();
        let sticky = cookie.map(|cookie| Sticky::build(cookie, name.as_str(), &urls)).transpose();
        let unanswered = members.iter().filter(|member| !member.server.addresses().is_known()).count();
        Ok(Arc::new(Self {
            name: name.clone(),
            strategy: AnyStrategy::new(settings.strategy, &members),
            key: Key::build(settings)?,
            sticky: sticky.map_err(|problem| problem.under("sticky"))?,
            plan: plan.map_err(|problem| problem.under("healthCheck"))?,
            window: window.map_err(|problem| problem.under("passiveHealthCheck"))?,
            pass_host_header: settings.pass_host_header,
            flush_interval: settings.response_forwarding.flush_interval,
            passive: passive.cloned(),
            members,
            transport,
            meters,
            tasks: Tasks::new(unanswered, previous),
        }))
    }

    /// Picks the server for one attempt. See [`super::Service::select`].
    ///
    /// # Errors
    /// [`Fault::NoServer`] if none is up.
    pub fn select(
        self: &Arc<Self>,
        request: &RequestHeader,
        exchange: &mut Exchange,
        tried: &[u64],
    ) -> Result<Selection, Fault> {
        // The head's time will do for the clock: what failed within this request lies behind it by less than any window.
        let now = exchange.started;
        let bound = self.sticky.as_ref().and_then(|sticky| sticky.bound(request));
        // A drained server keeps its clients; one that is down does not.
        let bound = bound.filter(|bound| self.members[bound.index].server.is_up(now));
        let index = match bound {
            Some(bound) if !tried.contains(&self.members[bound.index].server.id()) => bound.index,
            // Up, but it failed this very request: another may serve this one, and the client keeps its server.
            bound => {
                let key = if self.strategy.needs_key() { self.key.hash(request, exchange) } else { FNV_START };
                let picked = self.pick(&Field { members: &self.members, tried, key, now });
                picked.or(bound.map(|bound| bound.index)).ok_or(Fault::NoServer)?
            }
        };
        if let Some(sticky) = &self.sticky
            && !bound.is_some_and(|bound| bound.is_current)
        {
            sticky.bind(bound.map_or(index, |bound| bound.index), exchange);
        }
        self.members[index].server.enter();
        Ok(Selection {
            server: self.members[index].server.clone(),
            pool: self.clone(),
            index,
            address: AtomicUsize::new(0),
        })
    }

    fn pick(&self, field: &Field<'_>) -> Option<usize> {
        let fresh = self.strategy.pick(field);
        if fresh.is_some() || field.tried.is_empty() {
            return fresh;
        }
        self.strategy.pick(&Field { tried: &[], ..*field })
    }

    /// Whether there is a server for new requests that is not among `tried`.
    pub(super) fn offers_beyond(&self, tried: &[u64], now: Instant) -> bool {
        Field { members: &self.members, tried, key: FNV_START, now }.offered().next().is_some()
    }

    /// Whether any server takes new requests.
    pub fn is_up(&self, now: Instant) -> bool {
        self.offers_beyond(&[], now)
    }

    /// Qualified name of the service.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The servers with their weights, in the order of the configuration.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Whether servers see the client's `Host`, not their own.
    pub fn pass_host_header(&self) -> bool {
        self.pass_host_header
    }

    /// How long parts of an answer may wait for more. Below zero: not at all.
    pub fn flush_interval(&self) -> Duration {
        self.flush_interval
    }

    pub(super) fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Starts the probes, and the questions to name servers, on `handle`; stops those of the pool it was built from.
    /// They end with the pool. Once it has started, it does nothing.
    pub fn start_probes(self: &Arc<Self>, handle: &Handle) {
        if self.tasks.handle.set(handle.clone()).is_err() {
            return;
        }
        if let Some(previous) = self.tasks.previous.upgrade() {
            previous.stop_probes();
        }
        let mut running = self.tasks.running.lock();
        for (index, Member { server, .. }) in self.members.iter().enumerate() {
            let pool = Arc::downgrade(self);
            if server.addresses().name().is_some() {
                running.push(handle.spawn(probe::resolve_server(pool.clone(), index)).abort_handle());
            }
            match self.plan {
                Some(_) => running.push(handle.spawn(probe::probe_server(pool, index)).abort_handle()),
                None => server.health.forget(),
            }
            self.meters.set_server_up(server.url(), server.is_up(probe::now()));
        }
    }

    /// Stops the probes and questions, for a pool that left the configuration while a request still holds it.
    pub fn stop_probes(&self) {
        self.tasks.running.lock().drain(..).for_each(|task| task.abort());
    }

    /// Waits until every server's name has been asked for once, but not for long. Before that, such a server is down.
    pub async fn addresses_asked(&self) {
        let asked = async {
            loop {
                let answer = self.tasks.answer.notified();
                if self.tasks.unanswered.load(Ordering::Acquire) == 0 {
                    return;
                }
                answer.await;
            }
        };
        let _ = tokio::time::timeout(probe::FIRST_ANSWER_LIMIT, asked).await;
    }

    /// Notes that a name server was asked, for the first time or again.
    pub(super) fn note_answer(&self) {
        let less = |unanswered: usize| unanswered.checked_sub(1);
        let _ = self.tasks.unanswered.fetch_update(Ordering::AcqRel, Ordering::Relaxed, less);
        self.tasks.answer.notify_waiters();
    }

    /// Tells the log and the meters that a server went up or down.
    pub(super) fn announce(&self, server: &Server, is_up: bool, reason: &str) {
        self.meters.set_server_up(server.url(), is_up);
        let (service, server) = (self.name.as_str(), server.url());
        if is_up {
            log::info!(service, server, reason; "server is up");
        } else {
            log::warn!(service, server, reason; "server is down");
        }
    }

    /// Counts a failed attempt against a server, and leaves it alone for a while if it was one too many.
    fn note_failure(self: &Arc<Self>, index: usize, now: Instant) {
        let member = &self.members[index];
        let (Some(window), Some(failures)) = (self.window, &member.failures) else { return };
        let time = millis(now);
        if !failures.note(time, window) || !member.server.leave_alone(time, time.saturating_add(window)) {
            return;
        }
        failures.forget();
        member.server.set_last_error(Some("too many failed requests"));
        self.announce(&member.server, false, "too many failed requests");
        if let Some(handle) = self.tasks.handle.get() {
            let pool = Arc::downgrade(self);
            handle.spawn(async move {
                tokio::time::sleep(Span::from_millis(window + 1)).await;
                if let Some(pool) = pool.upgrade() {
                    pool.take_back(index);
                }
            });
        }
    }

    fn take_back(&self, index: usize) {
        let server = &self.members[index].server;
        if server.is_up(probe::now()) {
            server.set_last_error(None);
            self.announce(server, true, "left alone for long enough");
        }
    }
}

impl fmt::Debug for ServerPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerPool").field("name", &self.name).field("members", &self.members).finish_non_exhaustive()
    }
}

impl Drop for ServerPool {
    fn drop(&mut self) {
        self.stop_probes();
    }
}

/// The server picked for one attempt. While it lives, the attempt counts as in flight.
#[derive(Debug)]
pub struct Selection {
    /// The server.
    pub server: Arc<Server>,
    /// Its pool.
    pub pool: Arc<ServerPool>,
    index: usize,
    /// Which of the server's addresses was handed out.
    address: AtomicUsize,
}

impl Selection {
    /// Where and how to connect. `upgrade`: for a WebSocket or another switch of protocol, on which silence is no failure.
    ///
    /// # Errors
    /// [`Fault::NoServer`] if the server's name has no address.
    pub fn peer(&self, upgrade: bool) -> Result<Box<HttpPeer>, Fault> {
        let purpose = if upgrade { Purpose::Upgrade } else { Purpose::Request };
        let (peer, address) = self.server.peer(purpose, probe::now())?;
        self.address.store(address, Ordering::Relaxed);
        Ok(peer)
    }

    /// Has the balancer and the passive health check learn how the attempt ended. Call it once.
    pub fn finish(&self, outcome: &AttemptOutcome, now: Instant) {
        if matches!(outcome.failure, Some(Fault::ConnectFailed | Fault::ConnectTimeout)) {
            self.server.refuse_address(self.address.load(Ordering::Relaxed), now);
        }
        self.pool.strategy.observe(&self.server, outcome, now);
        if outcome.is_failure() {
            self.pool.note_failure(self.index, now);
        }
    }
}

impl Drop for Selection {
    fn drop(&mut self) {
        self.server.leave();
    }
}

/// What runs for a pool off the request path.
struct Tasks {
    /// Set when they have started.
    handle: OnceLock<Handle>,
    running: Mutex<Vec<AbortHandle>>,
    /// Whose tasks end when these start.
    previous: Weak<ServerPool>,
    /// Servers whose name was never asked for.
    unanswered: AtomicUsize,
    answer: Notify,
}

impl Tasks {
    fn new(unanswered: usize, previous: Option<&Arc<ServerPool>>) -> Self {
        Self {
            handle: OnceLock::new(),
            running: Mutex::new(Vec::new()),
            previous: previous.map(Arc::downgrade).unwrap_or_default(),
            unanswered: AtomicUsize::new(unanswered),
            answer: Notify::new(),
        }
    }
}

/// The members as written; servers that `previous` has are kept, each at most once.
fn members(
    settings: &Settings,
    transport: &Transport,
    previous: Option<&Arc<ServerPool>>,
) -> Result<Box<[Member]>, Problem> {
    let mut known = hashbrown::HashMap::<&str, Vec<&Member>>::new();
    let passive_is_same = previous.is_some_and(|pool| pool.passive == settings.passive_health_check);
    for member in previous.iter().flat_map(|pool| pool.members.iter().rev()) {
        known.entry(member.server.url()).or_default().push(member);
    }
    let mut members = Vec::with_capacity(settings.servers.len());
    for (at, written) in settings.servers.iter().enumerate() {
        let fresh = Server::build(written, transport).map_err(|problem| problem.under(&format!("servers[{at}]")))?;
        let old = known.get_mut(written.url.as_str()).and_then(Vec::pop);
        let old = old.filter(|old| old.server.is_same(written, transport));
        let kept = old.and_then(|old| old.failures.clone()).filter(|_| passive_is_same);
        let server = old.map_or_else(|| Arc::new(fresh), |old| old.server.clone());
        let failures = settings
            .passive_health_check
            .as_ref()
            .map(|passive| kept.unwrap_or_else(|| Arc::new(Failures::new(passive.max_failed_attempts))));
        members.push(Member::new(server, clamp_weight(written.weight), failures));
    }
    Ok(members.into())
}

/// What clients are told apart by, ready for use.
#[derive(Debug)]
enum Key {
    ClientIp,
    Header(HeaderName),
    Cookie(Box<str>),
}

impl Key {
    fn build(settings: &Settings) -> Result<Self, Problem> {
        let Some(written) = &settings.hash_key else { return Ok(Self::ClientIp) };
        if !matches!(settings.strategy, Kind::Hrw | Kind::Ketama) {
            return Err(Problem::at("hashKey", "is only looked at by the strategies `hrw` and `ketama`"));
        }
        let is_named = !written.name.is_empty();
        match written.source {
            Source::ClientIp if is_named => Err(Problem::at("hashKey.name", "has no meaning for `clientIP`")),
            Source::ClientIp => Ok(Self::ClientIp),
            Source::Header => HeaderName::from_bytes(written.name.as_bytes())
                .map(Self::Header)
                .map_err(|_| Problem::at("hashKey.name", "is not the name of a header field")),
            Source::Cookie if is_named => Ok(Self::Cookie(written.name.as_str().into())),
            Source::Cookie => Err(Problem::at("hashKey.name", "must name a cookie")),
        }
    }

    /// FNV-1a state after the text that stands for the client.
    fn hash(&self, request: &RequestHeader, exchange: &Exchange) -> u64 {
        let found = match self {
            Self::ClientIp => None,
            Self::Header(name) => request.headers.get(name).map(|value| value.as_bytes()),
            Self::Cookie(name) => {
                cookies(request).find(|(known, _)| *known == &**name).map(|(_, value)| value.as_bytes())
            }
        };
        match found {
            Some(bytes) => fnv1a(FNV_START, bytes),
            None => {
                let mut hash = Hashed(FNV_START);
                // Writing to a hash cannot fail.
                let _ = write!(hash, "{}", exchange.client.address());
                hash.0
            }
        }
    }
}

/// Hashes text as it is written, so that none is allocated.
struct Hashed(u64);

impl fmt::Write for Hashed {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = fnv1a(self.0, text.as_bytes());
        Ok(())
    }
}

//! A pool of servers: who is up, whose turn it is, who sticks to whom.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration as Span, Instant};

use parking_lot::Mutex;
use pingora::http::RequestHeader;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::clamp_weight;
use super::hash_key::{self, HashKey};
use super::health::{self, Plan};
use super::passive_health::{self, Failures};
use super::probe;
use super::selection::Selection;
use super::server::{self, FNV_START, Server, millis};
use super::sticky::{self, Sticky};
use super::strategy::{AnyStrategy, Field, Kind};
use super::transport::Transport;
use crate::exchange::{AttemptOutcome, Exchange, Fault};
use crate::observe::meters::ServiceMeters;
use crate::problem::{Problem, Problems, all, each};
use crate::units::{Duration, Name};

/// Most servers of one pool.
pub(super) const SERVERS_LIMIT: usize = 10_000;

/// `loadBalancer` as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// The servers.
    pub servers: Box<[server::Settings]>,
    /// How one of them is picked.
    pub strategy: Kind,
    /// What `hrw` and `ketama` tell clients apart by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash_key: Option<Box<hash_key::Settings>>,
    /// Keeps each client with the server it was first sent to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Box<sticky::Settings>>,
    /// Probes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<Box<health::Settings>>,
    /// What requests themselves tell of a server's health.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passive_health_check: Option<Box<passive_health::Settings>>,
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
            servers: Box::default(),
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
    /// `None`: the client's address.
    key: Option<Box<HashKey>>,
    sticky: Option<Box<Sticky>>,
    plan: Option<Box<Plan>>,
    /// The window of passive health, in milliseconds.
    window: Option<u64>,
    pass_host_header: bool,
    flush_interval: Duration,
    /// As written, for the pool that follows.
    health_check: Option<Box<health::Settings>>,
    passive: Option<Box<passive_health::Settings>>,
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
    /// Each setting that has no meaning, or is one that cannot act.
    pub fn build(
        name: &Name,
        settings: &Settings,
        transport: Arc<Transport>,
        meters: Arc<ServiceMeters>,
        previous: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, Problems> {
        let Parts { plan, window, members, sticky, key } = Parts::read(name, settings, &transport, previous)?;
        let unanswered = members.iter().filter(|member| !member.server.addresses().is_known()).count();
        Ok(Arc::new(Self {
            name: name.clone(),
            strategy: AnyStrategy::new(settings.strategy, &members),
            key,
            sticky,
            plan,
            window,
            pass_host_header: settings.pass_host_header,
            flush_interval: settings.response_forwarding.flush_interval,
            health_check: settings.health_check.clone(),
            passive: settings.passive_health_check.clone(),
            members,
            transport,
            meters,
            tasks: Tasks::new(unanswered, previous),
        }))
    }

    /// Finds what is wrong with `settings`, and builds nothing.
    ///
    /// # Errors
    /// As for [`ServerPool::build`].
    pub fn check(name: &Name, settings: &Settings, transport: &Arc<Transport>) -> Result<(), Problems> {
        Parts::read(name, settings, transport, None).map(drop)
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
                let key = self.key.as_deref().unwrap_or(&HashKey::ClientIp);
                let key = if self.strategy.needs_key() { key.hash(request, exchange) } else { FNV_START };
                let picked = self.pick(&Field { members: &self.members, tried, key, now });
                picked.or(bound.map(|bound| bound.index)).ok_or(Fault::NoServer)?
            }
        };
        if let Some(sticky) = &self.sticky
            && !bound.is_some_and(|bound| bound.is_current)
        {
            sticky.bind(bound.map_or(index, |bound| bound.index), exchange);
        }
        Ok(Selection::new(self.clone(), index, now))
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
        self.plan.as_deref()
    }

    /// Whether its servers are spoken to over `transport`, and no other.
    pub fn is_over(&self, transport: &Arc<Transport>) -> bool {
        self.transport.identity() == transport.identity()
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
            if previous.health_check != self.health_check {
                // What was learnt with other questions holds until the new ones are answered, at once.
                self.members.iter().for_each(|member| member.server.health.hurry());
            }
        }
        self.meters.set_servers(self.members.iter().map(|member| member.server.url()));
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
            if let Some(rest) = server.left_alone_for(probe::now()) {
                self.take_back_after(index, rest);
            }
            self.meters.set_server_up(server.url(), server.is_up(probe::now()));
        }
    }

    /// Stops the probes and questions, for a pool that left the configuration while a request still holds it.
    pub fn stop_probes(&self) {
        self.tasks.running.lock().drain(..).for_each(|task| task.abort());
    }

    /// Whether there is a server whose name was never asked for.
    pub fn is_waiting_for_addresses(&self) -> bool {
        self.tasks.first_answers.as_ref().is_some_and(|first| first.unanswered.load(Ordering::Acquire) > 0)
    }

    /// Waits until every server's name has been asked for once, but not for long. Before that, such a server is down.
    pub async fn addresses_asked(&self) {
        let Some(first) = &self.tasks.first_answers else { return };
        let asked = async {
            loop {
                let answer = first.answer.notified();
                if !self.is_waiting_for_addresses() {
                    return;
                }
                answer.await;
            }
        };
        let _ = tokio::time::timeout(probe::FIRST_ANSWER_LIMIT, asked).await;
    }

    /// Notes that a name server was asked, for the first time or again.
    pub(super) fn note_answer(&self) {
        let Some(first) = &self.tasks.first_answers else { return };
        let less = |unanswered: usize| unanswered.checked_sub(1);
        let _ = first.unanswered.fetch_update(Ordering::AcqRel, Ordering::Relaxed, less);
        first.answer.notify_waiters();
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

    /// Has the strategy and passive health learn how an attempt at the `index`th server ended.
    pub(super) fn learn(self: &Arc<Self>, index: usize, outcome: &AttemptOutcome, now: Instant) {
        let member = &self.members[index];
        self.strategy.observe(&member.server, outcome, now);
        if outcome.is_failure() {
            self.note_failure(index, now);
        } else if let (Some(_), None, Some(failures)) = (outcome.status, outcome.failure, &member.failures) {
            failures.forget();
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
        self.take_back_after(index, Span::from_millis(window));
    }

    /// Tells the world, after `pause`, that a server left alone gets requests again. It does so by the clock in any case.
    fn take_back_after(self: &Arc<Self>, index: usize, pause: Span) {
        let Some(handle) = self.tasks.handle.get() else { return };
        let pool = Arc::downgrade(self);
        let mut pause = pause;
        handle.spawn(async move {
            loop {
                tokio::time::sleep(pause + Span::from_millis(1)).await;
                let Some(pool) = pool.upgrade() else { return };
                let server = &pool.members[index].server;
                // Requests that were on their way to it have failed since, and it is left alone for longer.
                if let Some(rest) = server.left_alone_for(probe::now()) {
                    pause = rest;
                    continue;
                }
                if server.is_up(probe::now()) {
                    server.set_last_error(None);
                    pool.announce(server, true, "left alone for long enough");
                }
                return;
            }
        });
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

/// What runs for a pool off the request path.
struct Tasks {
    /// Set when they have started.
    handle: OnceLock<Handle>,
    running: Mutex<Vec<AbortHandle>>,
    /// Whose tasks end when these start.
    previous: Weak<ServerPool>,
    /// `None`: no server's name had to be asked for when the pool was built.
    first_answers: Option<Box<FirstAnswers>>,
}

/// How far the first questions for the names of servers have come.
struct FirstAnswers {
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
            first_answers: (unanswered > 0)
                .then(|| Box::new(FirstAnswers { unanswered: AtomicUsize::new(unanswered), answer: Notify::new() })),
        }
    }
}

/// What a pool is made of, read and checked.
struct Parts {
    plan: Option<Box<Plan>>,
    window: Option<u64>,
    members: Box<[Member]>,
    sticky: Option<Box<Sticky>>,
    key: Option<Box<HashKey>>,
}

impl Parts {
    fn read(
        name: &Name,
        settings: &Settings,
        transport: &Arc<Transport>,
        previous: Option<&Arc<ServerPool>>,
    ) -> Result<Self, Problems> {
        let plan = settings.health_check.as_deref().map(Plan::build).transpose();
        let window = settings.passive_health_check.as_deref().map(passive_health::Settings::window_millis).transpose();
        let cookie = settings.sticky.as_ref().and_then(|sticky| sticky.cookie.as_ref());
        let urls: Vec<_> = settings.servers.iter().map(|server| &*server.url).collect();
        let sticky = cookie.map(|cookie| Sticky::build(cookie, name.as_str(), &urls)).transpose();
        let (members, key, sticky, plan, window) = all((
            members(settings, transport, previous),
            hash_key(settings),
            sticky.map_err(|problems| problems.under("sticky")),
            plan.map_err(|problems| problems.under("healthCheck")),
            window.map_err(|problems| problems.under("passiveHealthCheck")),
        ))?;
        Ok(Self { plan: plan.map(Box::new), window, members, sticky: sticky.map(Box::new), key })
    }
}

/// The members as written; servers that `previous` has are kept, each at most once.
fn members(
    settings: &Settings,
    transport: &Arc<Transport>,
    previous: Option<&Arc<ServerPool>>,
) -> Result<Box<[Member]>, Problems> {
    if settings.servers.len() > SERVERS_LIMIT {
        return Err(Problem::at("servers", format!("has more than {SERVERS_LIMIT} entries")).into());
    }
    let mut known = hashbrown::HashMap::<&str, Vec<&Member>>::new();
    let passive_is_same = previous.is_some_and(|pool| pool.passive == settings.passive_health_check);
    for member in previous.iter().flat_map(|pool| pool.members.iter().rev()) {
        known.entry(member.server.url()).or_default().push(member);
    }
    each(settings.servers.iter().enumerate().map(|(at, written)| {
        let fresh = Server::build(written, transport).map_err(|problems| problems.under(&format!("servers[{at}]")))?;
        let old = known.get_mut(&*written.url).and_then(Vec::pop);
        let old = old.filter(|old| old.server.is_same(written, transport));
        let kept = old.and_then(|old| old.failures.clone()).filter(|_| passive_is_same);
        let server = old.map_or_else(|| Arc::new(fresh), |old| old.server.clone());
        let failures = settings
            .passive_health_check
            .as_ref()
            .map(|passive| kept.unwrap_or_else(|| Arc::new(Failures::new(passive.max_failed_attempts))));
        Ok::<_, Problems>(Member::new(server, clamp_weight(written.weight), failures))
    }))
}

/// What clients are told apart by; only where a strategy asks for it.
fn hash_key(settings: &Settings) -> Result<Option<Box<HashKey>>, Problem> {
    let Some(written) = &settings.hash_key else { return Ok(None) };
    if !matches!(settings.strategy, Kind::Hrw | Kind::Ketama) {
        return Err(Problem::at("hashKey", "is only looked at by the strategies `hrw` and `ketama`"));
    }
    HashKey::build(written).map(Box::new).map(Some).map_err(|problem| problem.under("hashKey"))
}

#[cfg(test)]
mod tests;

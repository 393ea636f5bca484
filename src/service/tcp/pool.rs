//! The servers of one service for TCP connections: who is up, and whose turn it is.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration as Span, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::Selection;
use super::health::{self, Plan};
use super::transport::{ProxyProtocol, Transport, Version};
use crate::observe::servers::TcpServiceMeters;
use crate::problem::{Problem, Problems, all, each};
use crate::service::probe;
use crate::service::resolve::{self, Addresses, Answered, Found, NamedBackends};
use crate::service::server::millis;
use crate::service::strategy::wheel::Wheel;
use crate::units::Name;

/// Most servers of one pool.
const SERVERS_LIMIT: usize = 10_000;
/// How often to look whether a server without an address has one now.
const UNRESOLVED_PAUSE: Span = Span::from_millis(250);

/// `loadBalancer` as written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// The servers.
    pub servers: Vec<ServerSettings>,
    /// Name of the transport; the default one if it is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub servers_transport: Option<Name>,
    /// Deprecated: the transport's counts. Tells servers who the client is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Deprecated: the transport's counts. Milliseconds; below zero is for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub termination_delay: Option<i64>,
    /// Probes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<health::Settings>,
}

/// One of `servers` as written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ServerSettings {
    /// `host:port`.
    pub address: String,
    /// Whether it is spoken to over TLS.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub tls: bool,
}

/// A server.
pub struct Server {
    address: Box<str>,
    host: Box<str>,
    /// Whether it is spoken to over TLS.
    pub tls: bool,
    addresses: Addresses,
    is_up: AtomicBool,
    last_error: Mutex<Option<Arc<str>>>,
}

impl Server {
    pub(super) fn build(settings: &ServerSettings) -> Result<Self, Problem> {
        let wrong = |message: String| Problem::at("address", message);
        let written = settings.address.as_str();
        if written.is_empty() {
            return Err(wrong("is missing".to_owned()));
        }
        let form = || wrong(format!("`{written}` is not of the form `host:port`"));
        let (host, port) = written.rsplit_once(':').ok_or_else(form)?;
        let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(form)?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) if address.parse::<std::net::Ipv6Addr>().is_ok() => address,
            None if !host.is_empty() && host.bytes().all(is_plain) => host,
            _ => return Err(form()),
        };
        Ok(Self {
            address: written.into(),
            host: host.into(),
            tls: settings.tls,
            addresses: Addresses::new(host, port),
            is_up: AtomicBool::new(true),
            last_error: Mutex::new(None),
        })
    }

    /// As written.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The host of its address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether it may get connections: its address is known, and its probes pass.
    pub fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed) && self.addresses.is_known()
    }

    /// Why the last probe or question to a name server failed.
    pub fn last_error(&self) -> Option<Arc<str>> {
        self.last_error.lock().clone()
    }

    /// Connects to one of its addresses, those that lately took no connection last; to another `port` if there is one. Each
    /// that is left has an equal share of the time that is left.
    ///
    /// # Errors
    /// Why the last one took no connection; `TimedOut` if it said nothing.
    pub async fn connect(&self, port: Option<u16>, patience: Span) -> io::Result<TcpStream> {
        let began = Instant::now();
        let mut error = io::Error::new(io::ErrorKind::NotFound, "its address is not known");
        let count = self.addresses.found().as_ref().map_or(0, |found| found.list().len());
        for left in (1..=count).rev() {
            let now = Instant::now();
            let due = self.addresses.found().as_ref().and_then(|found| {
                let at = found.due(millis(now))?;
                Some((found.list()[at], at))
            });
            let Some((mut address, at)) = due else { break };
            address.set_port(port.unwrap_or(address.port()));
            let share = patience.saturating_sub(now - began) / u32::try_from(left).unwrap_or(u32::MAX);
            error = match tokio::time::timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => error,
                Err(_) => io::ErrorKind::TimedOut.into(),
            };
            // Another port says nothing about this one.
            if port.is_none()
                && let Some(found) = self.addresses.found().as_ref()
            {
                found.refuse(at, millis(Instant::now()));
            }
        }
        Err(error)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").field(&self.address).finish()
    }
}

/// The servers of one service.
pub struct Pool {
    name: Name,
    servers: Box<[Arc<Server>]>,
    wheel: Wheel,
    plan: Option<Plan>,
    /// As written, for the pool that follows.
    health_check: Option<health::Settings>,
    /// How they are spoken to.
    pub transport: Arc<Transport>,
    /// Whether they are told who the client is.
    pub proxy_protocol: Option<Version>,
    /// How long one direction goes on when the other has ended; `None` is for ever.
    pub termination_delay: Option<Span>,
    meters: Arc<TcpServiceMeters>,
    tasks: Tasks,
}

/// What runs for a pool off the way of connections.
struct Tasks {
    handle: OnceLock<Handle>,
    running: Mutex<Vec<AbortHandle>>,
    previous: Weak<Pool>,
    /// Servers whose name was never asked for.
    unanswered: AtomicUsize,
    answer: Notify,
}

impl Pool {
    /// Builds the pool of the service `name`. Servers that `previous` has too are kept with their health.
    ///
    /// # Errors
    /// Each setting that has no meaning.
    pub fn build(
        name: &Name,
        settings: &Settings,
        transport: Arc<Transport>,
        meters: Arc<TcpServiceMeters>,
        previous: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, Problems> {
        let plan = settings.health_check.as_ref().map(Plan::build).transpose();
        let plan = plan.map_err(|problems| problems.under("healthCheck"));
        let version = settings.proxy_protocol.as_ref().map(Version::read).transpose();
        let version = version.map_err(|problem| problem.under("proxyProtocol"));
        let (servers, plan, version) = all((read_servers(settings, previous), plan, version))?;
        let unanswered = servers.iter().filter(|server| !server.addresses.is_known()).count();
        let own_delay = settings.termination_delay.map(|millis| u64::try_from(millis).ok().map(Span::from_millis));
        Ok(Arc::new(Self {
            name: name.clone(),
            wheel: Wheel::new(vec![1; servers.len()]),
            servers: servers.into(),
            plan,
            health_check: settings.health_check.clone(),
            proxy_protocol: version.or(transport.proxy_protocol),
            termination_delay: own_delay.unwrap_or(transport.termination_delay),
            transport,
            meters,
            tasks: Tasks {
                handle: OnceLock::new(),
                running: Mutex::default(),
                previous: previous.map(Arc::downgrade).unwrap_or_default(),
                unanswered: AtomicUsize::new(unanswered),
                answer: Notify::new(),
            },
        }))
    }

    /// Qualified name of the service.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The servers, in the order of the configuration.
    pub fn servers(&self) -> &[Arc<Server>] {
        &self.servers
    }

    pub(super) fn select(self: &Arc<Self>, tried: &[Arc<Server>]) -> Option<Selection> {
        let is_tried = |index: usize| tried.iter().any(|server| Arc::ptr_eq(server, &self.servers[index]));
        let index = self.wheel.pick(|index| self.servers[index].is_up() && !is_tried(index));
        let index = index.or_else(|| self.wheel.pick(|index| self.servers[index].is_up()))?;
        Some(Selection { pool: self.clone(), server: self.servers[index].clone() })
    }

    pub(super) fn offers_beyond(&self, tried: &[Arc<Server>]) -> bool {
        self.servers.iter().any(|server| server.is_up() && !tried.iter().any(|one| Arc::ptr_eq(one, server)))
    }

    /// Starts the probes, and the questions to name servers, on `handle`; stops those of the pool it was built from.
    pub fn start_probes(self: &Arc<Self>, handle: &Handle) {
        if self.tasks.handle.set(handle.clone()).is_err() {
            return;
        }
        if let Some(previous) = self.tasks.previous.upgrade() {
            previous.stop_probes();
        }
        self.meters.servers.set_all(self.servers.iter().map(|server| server.address()));
        let mut running = self.tasks.running.lock();
        for (index, server) in self.servers.iter().enumerate() {
            let pool = Arc::downgrade(self);
            if server.addresses.name().is_some() {
                running.push(handle.spawn(resolve_server(pool.clone(), index)).abort_handle());
            }
            match self.plan {
                Some(_) => running.push(handle.spawn(probe_server(pool, index)).abort_handle()),
                None => server.is_up.store(true, Ordering::Relaxed),
            }
            self.meters.servers.set(server.address(), server.is_up());
        }
    }

    /// Stops the probes and questions.
    pub fn stop_probes(&self) {
        self.tasks.running.lock().drain(..).for_each(|task| task.abort());
    }

    /// Whether there is a server whose name was never asked for.
    pub fn is_waiting_for_addresses(&self) -> bool {
        self.tasks.unanswered.load(Ordering::Acquire) > 0
    }

    /// Waits until every server's name has been asked for once, but not for long.
    pub async fn addresses_asked(&self) {
        let asked = async {
            loop {
                let answer = self.tasks.answer.notified();
                if !self.is_waiting_for_addresses() {
                    return;
                }
                answer.await;
            }
        };
        let _ = tokio::time::timeout(probe::FIRST_ANSWER_LIMIT, asked).await;
    }

    fn note_answer(&self) {
        let less = |unanswered: usize| unanswered.checked_sub(1);
        let _ = self.tasks.unanswered.fetch_update(Ordering::AcqRel, Ordering::Relaxed, less);
        self.tasks.answer.notify_waiters();
    }

    /// Notes how a probe ended, and says so if it changes something.
    fn note(&self, server: &Server, result: Result<(), String>) {
        let is_up = result.is_ok();
        *server.last_error.lock() = result.as_ref().err().map(|error| error.as_str().into());
        let was_up = server.is_up.swap(is_up, Ordering::Relaxed);
        self.meters.servers.set(server.address(), server.is_up());
        if was_up == is_up {
            return;
        }
        let (service, address) = (self.name.as_str(), server.address());
        match result {
            Ok(()) => log::info!(service, server = address; "server is up"),
            Err(reason) => log::warn!(service, server = address, reason = reason.as_str(); "server is down"),
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.name).field("servers", &self.servers).finish_non_exhaustive()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop_probes();
    }
}

/// The servers as written; those that `previous` has too are kept, each once, unless they are probed in another way now.
fn read_servers(settings: &Settings, previous: Option<&Arc<Pool>>) -> Result<Vec<Arc<Server>>, Problems> {
    if settings.servers.len() > SERVERS_LIMIT {
        return Err(Problem::at("servers", format!("has more than {SERVERS_LIMIT} entries")).into());
    }
    let previous = previous.filter(|pool| pool.health_check == settings.health_check);
    let mut kept: Vec<_> = previous.map(|pool| pool.servers.to_vec()).unwrap_or_default();
    each(settings.servers.iter().enumerate().map(|(at, written)| {
        let fresh = Server::build(written).map_err(|problem| problem.under(&format!("servers[{at}]")))?;
        let same = kept.iter().position(|old| old.address == fresh.address && old.tls == fresh.tls);
        Ok::<_, Problem>(same.map_or_else(|| Arc::new(fresh), |at| kept.swap_remove(at)))
    }))
}

/// Probes the `index`th server of `pool` for as long as the pool lives; at once for the first time.
async fn probe_server(pool: Weak<Pool>, index: usize) {
    loop {
        let Some(strong) = pool.upgrade() else { return };
        let server = strong.servers[index].clone();
        let Some(plan) = &strong.plan else { return };
        if !server.addresses.is_known() {
            drop(strong);
            tokio::time::sleep(UNRESOLVED_PAUSE).await;
            continue;
        }
        let result = {
            let Ok(_permit) = probe::permits().acquire().await else { return };
            plan.probe(&server, &strong.transport).await
        };
        let is_up = result.is_ok();
        strong.note(&server, result);
        let pause = plan.pause(is_up);
        drop(strong);
        tokio::time::sleep(pause).await;
    }
}

/// Keeps the addresses of the `index`th server of `pool` fresh for as long as the pool lives.
async fn resolve_server(pool: Weak<Pool>, index: usize) {
    let Some((name, port)) = pool.upgrade().and_then(|pool| {
        let addresses = &pool.servers[index].addresses;
        addresses.name().map(|name| (name.to_owned(), addresses.port()))
    }) else {
        return;
    };
    let mut backends: Option<NamedBackends> = None;
    let mut is_first = true;
    loop {
        let found = {
            let Ok(_permit) = probe::permits().acquire().await else { return };
            probe::ask_for(&mut backends, &name, port).await
        };
        let Some(strong) = pool.upgrade() else { return };
        let server = &strong.servers[index];
        let answered = match found {
            Ok(found) if !found.is_empty() => {
                server.addresses.set(Found::new(found, port));
                strong.meters.servers.set(server.address(), server.is_up());
                Answered::Yes
            }
            Ok(_) => Answered::No,
            Err(error) => {
                log::warn!(service = strong.name.as_str(), server = server.address(); "{error}");
                *server.last_error.lock() = Some(error.into());
                Answered::No
            }
        };
        if std::mem::take(&mut is_first) {
            strong.note_answer();
        }
        drop(strong);
        let pause = backends.as_ref().map_or(resolve::RETRY, |backends| backends.pause(answered, probe::now()));
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_a_host_and_a_port() {
        let host = |address: &str| {
            let written = ServerSettings { address: address.to_owned(), tls: false };
            Server::build(&written).map(|server| server.host().to_owned()).map_err(|problem| problem.path)
        };
        for (address, expected) in [("a.test:1", "a.test"), ("10.0.0.1:65535", "10.0.0.1"), ("[::1]:80", "::1")] {
            assert_eq!(host(address).as_deref(), Ok(expected), "{address}");
        }
        for address in
            ["", "a", ":80", "a:0", "a:65536", "a:x", "::1", "::1:80", "[a]:80", "[::1]", "a b:80", "http://a:80"]
        {
            assert_eq!(host(address).as_deref(), Err(&"address".to_owned()), "{address}");
        }
    }

    #[tokio::test]
    async fn every_address_of_a_server_is_tried() {
        let listener = tokio::net::TcpListener::bind("127.0.0.3:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let written = ServerSettings { address: format!("name.test:{port}"), tls: false };
        let server = Server::build(&written).unwrap();
        let patience = Span::from_secs(5);
        assert_eq!(server.connect(None, patience).await.unwrap_err().kind(), io::ErrorKind::NotFound);
        let addresses = [[127, 0, 0, 1], [127, 0, 0, 2], [127, 0, 0, 3]].map(Into::into).to_vec();
        server.addresses.set(Found::new(addresses, port));
        // Whoever has the first turn, and also when all others have refused lately.
        for _ in 0..6 {
            let stream = server.connect(None, patience).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), listener.local_addr().unwrap());
        }
        drop(listener);
        assert_eq!(server.connect(None, patience).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}

//! Names of servers: resolved on the control runtime, kept for their time to live, the last good answer for ever.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration as Span, Instant};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts};
use http::Extensions;
use parking_lot::Mutex;
use pingora::protocols::l4::socket::SocketAddr as PingoraAddr;
use pingora::{Error, ErrorType};
use pingora_load_balancing::Backend;
use pingora_load_balancing::discovery::ServiceDiscovery;

/// No name is asked for more often than this.
const REFRESH_MIN: Span = Span::from_secs(1);
/// An answer is not believed for longer than this.
const REFRESH_MAX: Span = Span::from_secs(300);
/// A name that does not resolve is asked for again after this.
pub const RETRY: Span = Span::from_secs(2);
/// Most addresses of one name that are used.
const ADDRESSES_LIMIT: usize = 64;
/// How long an address that took no connection is passed over while there are others.
const REFUSED_MILLIS: u64 = 10_000;

/// Where a server is: the literal address of its URL, or what its name resolved to.
#[derive(Debug)]
pub struct Addresses {
    /// To be resolved; `None` for a literal address.
    name: Option<Box<str>>,
    port: u16,
    found: ArcSwapOption<Found>,
    /// Whether `found` is something; then it stays so. Strategies ask for every server with each pick.
    is_known: AtomicBool,
}

impl Addresses {
    /// Those of `host`, an address or a name.
    pub fn new(host: &str, port: u16) -> Self {
        let (name, found) = match host.parse::<IpAddr>() {
            Ok(ip) => (None, ArcSwapOption::from_pointee(Found::new(vec![ip], port))),
            Err(_) => (Some(host.into()), ArcSwapOption::empty()),
        };
        let is_known = AtomicBool::new(name.is_none());
        Self { name, port, found, is_known }
    }

    /// The name that must be resolved.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The port of each of them.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether there is one.
    pub fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Acquire)
    }

    /// The last good answer.
    pub fn found(&self) -> arc_swap::Guard<Option<Arc<Found>>> {
        self.found.load()
    }

    /// Takes a new answer. An equal one changes nothing, so the turn goes on.
    pub fn set(&self, answer: Found) {
        if self.found.load().as_ref().is_none_or(|known| known.list != answer.list) {
            self.found.store(Some(Arc::new(answer)));
            self.is_known.store(true, Ordering::Release);
        }
    }
}

/// The addresses of one answer, used in turn.
#[derive(Debug)]
pub struct Found {
    list: Box<[SocketAddr]>,
    turn: AtomicUsize,
    /// One bit for each address that took no connection.
    refused: AtomicU64,
    refused_at: AtomicU64,
}

impl Found {
    /// Sorted, so that the order of an answer does not matter.
    pub fn new(mut addresses: Vec<IpAddr>, port: u16) -> Self {
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(ADDRESSES_LIMIT);
        Self {
            list: addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect(),
            turn: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            refused_at: AtomicU64::new(0),
        }
    }

    /// All of them.
    pub fn list(&self) -> &[SocketAddr] {
        &self.list
    }

    /// The index of the address whose turn it is; those that lately refused are passed over while there are others.
    pub fn due(&self, now: u64) -> Option<usize> {
        let len = self.list.len();
        if len <= 1 {
            return len.checked_sub(1);
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let refused = self.refused.load(Ordering::Relaxed);
        let is_fresh = now.saturating_sub(self.refused_at.load(Ordering::Relaxed)) < REFUSED_MILLIS;
        let is_free = |at: &usize| !is_fresh || refused & (1 << at) == 0;
        (0..len).map(|step| (turn + step) % len).find(is_free).or(Some(turn % len))
    }

    /// Notes that the `at`th took no connection.
    pub fn refuse(&self, at: usize, now: u64) {
        if at >= self.list.len() || self.list.len() == 1 {
            return;
        }
        if now.saturating_sub(self.refused_at.swap(now, Ordering::Relaxed)) >= REFUSED_MILLIS {
            self.refused.store(0, Ordering::Relaxed);
        }
        self.refused.fetch_or(1 << at, Ordering::Relaxed);
    }
}

/// Pingora's view of a name: its addresses are backends.
pub struct NamedBackends {
    resolver: Arc<TokioResolver>,
    name: Box<str>,
    port: u16,
    valid_until: Mutex<Option<Instant>>,
}

impl NamedBackends {
    /// Those of `name`.
    pub fn new(resolver: Arc<TokioResolver>, name: &str, port: u16) -> Self {
        Self { resolver, name: name.into(), port, valid_until: Mutex::new(None) }
    }

    /// How long after `now` to ask again, given whether the last question was answered.
    pub fn pause(&self, was_answered: Answered, now: Instant) -> Span {
        match (was_answered, *self.valid_until.lock()) {
            (Answered::Yes, Some(until)) => until.saturating_duration_since(now).clamp(REFRESH_MIN, REFRESH_MAX),
            _ => RETRY,
        }
    }
}

/// Whether a question was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// With at least one address.
    Yes,
    /// Not at all, or with nothing.
    No,
}

#[async_trait]
impl ServiceDiscovery for NamedBackends {
    async fn discover(&self) -> pingora::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        let explain = |error: String| Error::explain(ErrorType::ConnectNoRoute, error);
        let answer = match self.resolver.lookup_ip(&*self.name).await {
            Ok(answer) => answer,
            // RFC 6761 §6.3: `localhost` is this host, whatever a resolver or its hosts file leave out.
            Err(_) if is_localhost(&self.name) => {
                *self.valid_until.lock() = None;
                return Ok((BTreeSet::from([backend(IpAddr::from([127, 0, 0, 1]), self.port)]), HashMap::new()));
            }
            Err(error) => return Err(explain(format!("cannot resolve `{}`: {error}", self.name))),
        };
        *self.valid_until.lock() = Some(answer.valid_until());
        let backends: BTreeSet<_> = answer.iter().take(ADDRESSES_LIMIT).map(|ip| backend(ip, self.port)).collect();
        if backends.is_empty() {
            Err(explain(format!("`{}` has no address", self.name)))
        } else {
            Ok((backends, HashMap::new()))
        }
    }
}

/// A resolver as the system is configured, hosts file included; IPv6 is asked for only where there is no IPv4.
///
/// # Errors
/// If the system's configuration cannot be read.
pub fn system_resolver() -> Result<Arc<TokioResolver>, String> {
    let mut builder = TokioResolver::builder_tokio().map_err(|error| error.to_string())?;
    let options = builder.options_mut();
    options.use_hosts_file = ResolveHosts::Always;
    options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
    options.negative_max_ttl = Some(RETRY);
    builder.build().map(Arc::new).map_err(|error| error.to_string())
}

/// The addresses of backends.
pub fn ips(backends: &BTreeSet<Backend>) -> Vec<IpAddr> {
    backends.iter().filter_map(|backend| backend.addr.as_inet()).map(SocketAddr::ip).collect()
}

fn backend(ip: IpAddr, port: u16) -> Backend {
    Backend { addr: PingoraAddr::Inet(SocketAddr::new(ip, port)), weight: 1, ext: Extensions::new() }
}

fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(count: u8) -> Found {
        Found::new((1..=count).map(|n| IpAddr::from([10, 0, 0, n])).collect(), 80)
    }

    fn turns(found: &Found, now: u64, count: usize) -> Vec<usize> {
        (0..count).filter_map(|_| found.due(now)).collect()
    }

    #[test]
    fn literals_are_known_and_names_are_not() {
        for host in ["127.0.0.1", "::1"] {
            let literal = Addresses::new(host, 80);
            assert!(literal.is_known() && literal.name().is_none(), "{host}");
        }
        let name = Addresses::new("a.example", 80);
        assert!(!name.is_known() && name.found.load().is_none());
        name.set(found(2));
        assert!(name.is_known());
    }

    #[test]
    fn addresses_take_turns() {
        assert_eq!(turns(&found(3), 1, 6), [0, 1, 2, 0, 1, 2]);
        assert_eq!(turns(&found(1), 1, 2), [0, 0]);
        assert!(turns(&found(0), 1, 2).is_empty());
    }

    #[test]
    fn one_that_refuses_is_passed_over_for_a_while() {
        let found = found(2);
        found.refuse(0, 100);
        assert_eq!(turns(&found, 200, 3), [1, 1, 1]);
        found.refuse(1, 300);
        assert_eq!(turns(&found, 300, 2), [1, 0], "all refused: as if none had");
        assert_eq!(turns(&found, 300 + REFUSED_MILLIS, 2), [1, 0]);
        found.refuse(1, 301 + REFUSED_MILLIS);
        assert_eq!(turns(&found, 302 + REFUSED_MILLIS, 2), [0, 0], "old refusals are forgotten");
    }

    #[test]
    fn an_equal_answer_changes_nothing() {
        let name = Addresses::new("a.example", 80);
        name.set(found(2));
        let first = name.found.load_full();
        name.set(Found::new(vec![IpAddr::from([10, 0, 0, 2]), IpAddr::from([10, 0, 0, 1])], 80));
        assert!(first.zip(name.found.load_full()).is_some_and(|(a, b)| Arc::ptr_eq(&a, &b)));
    }

    #[tokio::test]
    async fn hosts_and_localhost_need_no_name_server() {
        let mut builder = TokioResolver::builder_with_config(Default::default(), Default::default());
        builder.options_mut().use_hosts_file = ResolveHosts::Always;
        builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
        let mut resolver = builder.build().unwrap();
        let mut hosts = hickory_resolver::Hosts::default();
        hosts.read_hosts_conf(&b"10.9.8.7 app\n::1 localhost\n127.0.0.1 localhost\n"[..]).unwrap();
        resolver.set_hosts(Arc::new(hosts));
        let resolver = Arc::new(resolver);
        for (name, expected) in [("app", [10, 9, 8, 7]), ("localhost", [127, 0, 0, 1])] {
            let named = NamedBackends::new(resolver.clone(), name, 81);
            let (backends, _) = named.discover().await.unwrap();
            assert_eq!(ips(&backends), [IpAddr::from(expected)], "{name}");
            assert!(backends.iter().all(|backend| backend.addr.to_string().ends_with(":81")));
            let pause = named.pause(Answered::Yes, Instant::now());
            assert!((REFRESH_MIN..=REFRESH_MAX).contains(&pause));
            assert_eq!(named.pause(Answered::No, Instant::now()), RETRY);
        }
    }

    #[test]
    fn localhost_has_subdomains() {
        for (name, expected) in
            [("localhost", true), ("LOCALHOST.", true), ("a.localhost", true), ("alocalhost", false)]
        {
            assert_eq!(is_localhost(name), expected, "{name}");
        }
    }
}

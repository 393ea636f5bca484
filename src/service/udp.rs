//! UDP services: where the datagrams of a session go.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::pool::SERVERS_LIMIT;
use super::resolve::{self, Addresses, Answered, Found};
use super::server::{check_weight, millis};
use super::strategy::wheel::Wheel;
use super::{clamp_weight, probe, weighted};
use crate::observe::datagrams::{DatagramMeters, ServerReport, ServerView};
use crate::problem::{Problem, Problems, all, each, refuse};
use crate::units::Name;

/// How long a server at whose port nobody listens is passed over while there are others.
const REFUSED_MILLIS: u64 = 2_000;

/// A UDP service as written: exactly one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Servers, each in its turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// Services in weighted turns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weighted: Option<Shares>,
}

/// `loadBalancer` as written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LoadBalancer {
    /// The servers.
    pub servers: Vec<ServerSettings>,
}

/// One of `loadBalancer.servers` as written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ServerSettings {
    /// `host:port`; a name is resolved, and again when its answer is out of date.
    pub address: Box<str>,
}

/// `weighted` as written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Shares {
    /// The services and their weights.
    pub services: Vec<weighted::Share>,
}

/// The one kind that a service is of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind<'a> {
    /// Servers.
    LoadBalancer(&'a LoadBalancer),
    /// Services in weighted turns.
    Weighted(&'a Shares),
}

impl Settings {
    /// The kind that is written.
    ///
    /// # Errors
    /// If none is, or more than one.
    pub fn kind(&self) -> Result<Kind<'_>, Problem> {
        match (&self.load_balancer, &self.weighted) {
            (Some(settings), None) => Ok(Kind::LoadBalancer(settings)),
            (None, Some(settings)) => Ok(Kind::Weighted(settings)),
            (None, None) => Err(Problem::at("", "is of no kind").with_help("add `loadBalancer` or `weighted`")),
            (Some(_), Some(_)) => {
                Err(Problem::at("", "is both `loadBalancer` and `weighted`").with_help("keep one of them"))
            }
        }
    }
}

/// A UDP service as built.
#[derive(Debug)]
pub enum Service {
    /// Servers.
    Servers(Pool),
    /// Services in weighted turns.
    Weighted(Weighted),
}

/// The server of a new session.
#[derive(Clone, Debug)]
pub struct Pick {
    /// The server.
    pub server: Arc<Server>,
    /// Which of its addresses.
    pub address: SocketAddr,
    /// Counters of the service that it belongs to.
    pub meters: Arc<DatagramMeters>,
}

impl Service {
    /// The server whose turn it is. Those that refused lately are passed over while there are others. Takes no lock.
    pub fn pick(&self, now: Instant) -> Option<Pick> {
        self.pick_where(&|server: &Server| server.is_free(now), now)
            .or_else(|| self.pick_where(&|server: &Server| server.addresses.is_known(), now))
    }

    fn pick_where(&self, takes: &dyn Fn(&Server) -> bool, now: Instant) -> Option<Pick> {
        match self {
            Self::Servers(pool) => pool.pick(takes, now),
            Self::Weighted(weighted) => {
                let offers = |index: usize| weighted.shares.get(index).is_some_and(|(one, _)| one.offers(takes));
                let index = weighted.wheel.pick(offers)?;
                weighted.shares.get(index)?.0.pick_where(takes, now)
            }
        }
    }

    fn offers(&self, takes: &dyn Fn(&Server) -> bool) -> bool {
        match self {
            Self::Servers(pool) => pool.servers().iter().any(|server| takes(server)),
            Self::Weighted(weighted) => weighted.shares.iter().any(|(one, weight)| *weight > 0 && one.offers(takes)),
        }
    }

    /// Whether the server is one of its own: sessions with others are not to go on. One of weight zero gets no new sessions, but
    /// those that it has go on.
    pub fn has(&self, server: &Arc<Server>) -> bool {
        match self {
            Self::Servers(pool) => pool.servers().iter().any(|own| Arc::ptr_eq(own, server)),
            Self::Weighted(weighted) => weighted.shares.iter().any(|(one, _)| one.has(server)),
        }
    }
}

/// Servers, each in its turn.
#[derive(Debug)]
pub struct Pool {
    servers: Arc<Servers>,
    wheel: Wheel,
    meters: Arc<DatagramMeters>,
}

impl Pool {
    /// Builds it. Servers that `previous` has too are kept, with all that is known of them.
    ///
    /// # Errors
    /// Each address that is none; too many of them.
    pub fn build(
        settings: &LoadBalancer,
        meters: Arc<DatagramMeters>,
        previous: Option<&Self>,
    ) -> Result<Self, Problems> {
        refuse(settings.servers.len() > SERVERS_LIMIT, || {
            Problem::at("servers", format!("has more than {SERVERS_LIMIT} entries"))
        })?;
        let servers = settings.servers.iter().enumerate().map(|(at, written)| {
            let kept = previous.and_then(|pool| pool.servers().iter().find(|server| server.text == written.address));
            match kept {
                Some(server) => Ok(server.clone()),
                None => Server::build(&written.address)
                    .map(Arc::new)
                    .map_err(|message| Problems::from(Problem::at(format!("servers[{at}].address"), message))),
            }
        });
        let servers = each::<_, _, Vec<_>>(servers)?;
        let wheel = Wheel::new(vec![1; servers.len()]);
        let servers = Arc::new(Servers(servers.into()));
        let report: Weak<Servers> = Arc::downgrade(&servers);
        meters.set_servers(report);
        Ok(Self { wheel, servers, meters })
    }

    /// Its servers.
    pub fn servers(&self) -> &[Arc<Server>] {
        &self.servers.0
    }

    fn pick(&self, takes: &dyn Fn(&Server) -> bool, now: Instant) -> Option<Pick> {
        let servers = self.servers();
        let server = servers.get(self.wheel.pick(|index| servers.get(index).is_some_and(|one| takes(one)))?)?;
        let found = server.addresses.found();
        let found = found.as_ref()?;
        let address = *found.list().get(found.due(millis(now))?)?;
        Some(Pick { server: server.clone(), address, meters: self.meters.clone() })
    }
}

/// The servers of a pool, as metrics see them.
#[derive(Debug)]
struct Servers(Box<[Arc<Server>]>);

impl ServerReport for Servers {
    fn each(&self, see: &mut dyn FnMut(ServerView<'_>)) {
        let now = probe::now();
        // One that is written twice is still one.
        let mut by_address: BTreeMap<&str, (bool, u64)> = BTreeMap::new();
        for server in &self.0 {
            let (is_up, refusals) = by_address.entry(server.text()).or_default();
            *is_up |= server.is_free(now);
            *refusals += server.refusals.load(Ordering::Relaxed);
        }
        for (address, (is_up, refusals)) in by_address {
            see(ServerView { address, is_up, refusals });
        }
    }
}

/// Services in weighted turns.
#[derive(Debug)]
pub struct Weighted {
    shares: Box<[(Arc<Service>, u32)]>,
    wheel: Wheel,
}

impl Weighted {
    /// Builds it; `child` finds the services that it is made of.
    ///
    /// # Errors
    /// Each child that cannot be had, and each weight that is too large.
    pub fn build(
        settings: &Shares,
        mut child: impl FnMut(&Name) -> Result<Arc<Service>, Problem>,
    ) -> Result<Self, Problems> {
        let shares = settings.services.iter().enumerate().map(|(at, share)| {
            let service = if share.name.is_empty() { Err(Problem::at("", "is missing")) } else { child(&share.name) };
            let service = service.map_err(|problem| problem.under("name"));
            let ((), service) = all((check_weight(share.weight), service))
                .map_err(|problems| problems.under(&format!("services[{at}]")))?;
            Ok::<_, Problems>((service, clamp_weight(share.weight)))
        });
        let shares = each::<_, _, Vec<_>>(shares)?;
        let wheel = Wheel::new(shares.iter().map(|(_, weight)| *weight).collect());
        Ok(Self { wheel, shares: shares.into() })
    }

    /// The services and their weights.
    pub fn shares(&self) -> &[(Arc<Service>, u32)] {
        &self.shares
    }
}

/// One server.
#[derive(Debug)]
pub struct Server {
    /// As written.
    text: Box<str>,
    addresses: Addresses,
    /// When nobody listened there, in milliseconds; 0 if that was never so.
    refused_at: AtomicU64,
    /// How often nobody did.
    refusals: AtomicU64,
    /// Whether its name was asked for.
    asked: watch::Sender<bool>,
    is_resolving: AtomicBool,
}

impl Server {
    fn build(text: &str) -> Result<Self, String> {
        let (host, port) = split(text)?;
        let addresses = Addresses::new(host, port);
        let asked = watch::Sender::new(addresses.name().is_none());
        Ok(Self {
            text: text.into(),
            addresses,
            refused_at: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            asked,
            is_resolving: AtomicBool::new(false),
        })
    }

    /// Its address as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether new sessions may go to it.
    pub fn is_free(&self, now: Instant) -> bool {
        let refused_at = self.refused_at.load(Ordering::Relaxed);
        let is_refusing = refused_at > 0 && millis(now).saturating_sub(refused_at) < REFUSED_MILLIS;
        self.addresses.is_known() && !is_refusing
    }

    /// Whether any address of it is known.
    pub fn is_known(&self) -> bool {
        self.addresses.is_known()
    }

    /// Whether it is still to be found at this address, as far as is known.
    pub fn is_at(&self, address: SocketAddr) -> bool {
        self.addresses.found().as_ref().is_none_or(|found| found.list().contains(&address))
    }

    /// Notes that nobody listens at an address of it.
    pub fn refuse(&self, address: SocketAddr, now: Instant) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
        let found = self.addresses.found();
        let others = found.as_ref().filter(|found| found.list().len() > 1);
        match others.and_then(|found| Some((found, found.list().iter().position(|one| *one == address)?))) {
            Some((found, at)) => found.refuse(at, millis(now)),
            None => self.refused_at.store(millis(now).max(1), Ordering::Relaxed),
        }
    }

    /// Keeps its addresses fresh for as long as it lives, if it has a name.
    pub fn keep_resolving(self: &Arc<Self>, service: &Name, handle: &Handle) {
        let Some(name) = self.addresses.name() else { return };
        if !self.is_resolving.swap(true, Ordering::Relaxed) {
            let (name, port) = (name.to_owned(), self.addresses.port());
            handle.spawn(resolve(Arc::downgrade(self), service.clone(), name, port));
        }
    }

    /// Waits until its name has been asked for once, but not for long.
    pub async fn asked(&self) {
        let mut asked = self.asked.subscribe();
        let _ = tokio::time::timeout(probe::FIRST_ANSWER_LIMIT, asked.wait_for(|asked| *asked)).await;
    }
}

async fn resolve(server: Weak<Server>, service: Name, name: String, port: u16) {
    let mut backends = None;
    loop {
        let found = {
            let Ok(_permit) = probe::permits().acquire().await else { return };
            probe::ask_for(&mut backends, &name, port).await
        };
        let Some(server) = server.upgrade() else { return };
        let answered = match found {
            Ok(found) => {
                server.addresses.set(Found::new(found, port));
                Answered::Yes
            }
            Err(error) => {
                log::warn!(service = service.as_str(), server = server.text(), known = server.addresses.is_known(); "{error}");
                Answered::No
            }
        };
        server.asked.send_replace(true);
        drop(server);
        let pause = backends.as_ref().map_or(resolve::RETRY, |backends| backends.pause(answered, probe::now()));
        tokio::time::sleep(pause).await;
    }
}

/// `host:port`, IPv6 in brackets.
fn split(text: &str) -> Result<(&str, u16), String> {
    if text.is_empty() {
        return Err("is missing".to_owned());
    }
    let expected = "expected a form like `10.0.0.1:53`, `[fd00::1]:53` or `name:53`";
    let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("`{text}` has no port, {expected}"))?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inner) if inner.parse::<std::net::Ipv6Addr>().is_ok() => inner,
        Some(_) => return Err(format!("`{text}` has something else than an IPv6 address in brackets")),
        None if host.contains([':', '[', ']']) => return Err(format!("`{text}` is ambiguous, {expected}")),
        None => host,
    };
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
        return Err(format!("`{text}` has no host, {expected}"));
    }
    match port.parse() {
        Ok(port) if port > 0 => Ok((host, port)),
        _ => Err(format!("`{port}` is not a port, expected 1 to 65535")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pool(addresses: &[&str], previous: Option<&Pool>) -> Pool {
        let servers = addresses.iter().map(|address| ServerSettings { address: (*address).into() }).collect();
        Pool::build(&LoadBalancer { servers }, Arc::default(), previous).unwrap()
    }

    fn picks(service: &Service, count: usize, now: Instant) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for _ in 0..count {
            *found.entry(service.pick(now).unwrap().address.to_string()).or_default() += 1;
        }
        found
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for (text, expected) in [
            ("10.0.0.1:53", Some(("10.0.0.1", 53))),
            ("[fd00::1]:53", Some(("fd00::1", 53))),
            ("dns.example:5353", Some(("dns.example", 5353))),
            ("", None),
            (":53", None),
            ("10.0.0.1", None),
            ("fd00::1:53", None),
            ("[x]:53", None),
            ("a:0", None),
            ("a:65536", None),
            ("udp://a:53", None),
            ("a b:53", None),
        ] {
            assert_eq!(split(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn servers_take_turns_and_those_that_refuse_are_passed_over() {
        let service = Service::Servers(pool(&["10.0.0.1:53", "10.0.0.2:53"], None));
        let now = probe::now();
        assert_eq!(picks(&service, 100, now).into_values().collect::<Vec<_>>(), [50, 50]);
        let first = service.pick(now).unwrap();
        first.server.refuse(first.address, now);
        let after = picks(&service, 100, now);
        assert!(after.len() == 1 && !after.contains_key(&first.address.to_string()), "{after:?}");
        let second = service.pick(now).unwrap();
        second.server.refuse(second.address, now);
        assert_eq!(picks(&service, 100, now).len(), 2, "all refuse: as if none did");
        assert_eq!(picks(&service, 100, now + Duration::from_millis(REFUSED_MILLIS)).len(), 2);
        assert!(Service::Servers(pool(&[], None)).pick(now).is_none());
        assert!(Service::Servers(pool(&["name.example:53"], None)).pick(now).is_none(), "not resolved yet");
    }

    #[test]
    fn a_server_that_stays_is_the_same_server() {
        let before = pool(&["10.0.0.1:53", "10.0.0.2:53"], None);
        let after = Service::Servers(pool(&["10.0.0.2:53", "10.0.0.3:53"], Some(&before)));
        assert!(!after.has(&before.servers()[0]) && after.has(&before.servers()[1]));
    }

    #[test]
    fn a_name_with_several_addresses_uses_them_in_turn_and_forgets_those_that_are_gone() {
        let service = Service::Servers(pool(&["dns.example:53"], None));
        let Service::Servers(own) = &service else { unreachable!() };
        let server = &own.servers()[0];
        let (one, two): (SocketAddr, SocketAddr) = ("10.0.0.1:53".parse().unwrap(), "10.0.0.2:53".parse().unwrap());
        assert!(server.is_at(one), "nothing is known yet");
        server.addresses.set(Found::new(vec![one.ip(), two.ip()], 53));
        let now = probe::now();
        assert_eq!(picks(&service, 10, now).into_values().collect::<Vec<_>>(), [5, 5]);
        server.refuse(one, now);
        assert_eq!(picks(&service, 10, now).into_keys().collect::<Vec<_>>(), ["10.0.0.2:53"]);
        assert!(server.is_free(now), "one of its addresses is");
        server.addresses.set(Found::new(vec![two.ip()], 53));
        assert!(!server.is_at(one) && server.is_at(two));
    }

    #[test]
    fn shares_have_weights() {
        let children = ["10.0.0.1:53", "10.0.0.2:53", "later.example:53"].map(|address| {
            let name = address.split(':').next().unwrap().to_owned();
            (name, Arc::new(Service::Servers(pool(&[address], None))))
        });
        let build = |json: &str| {
            Weighted::build(&serde_json::from_str(json).unwrap(), |name| {
                let found = children.iter().find(|(known, _)| known == name.as_str());
                found.map(|(_, service)| service.clone()).ok_or_else(|| Problem::at("", "no such service"))
            })
        };
        let weighted = build(
            r#"{"services": [{"name": "10.0.0.1", "weight": 3}, {"name": "10.0.0.2"}, {"name": "later.example", "weight": 9}]}"#,
        );
        let service = Service::Weighted(weighted.unwrap());
        let found = picks(&service, 400, probe::now());
        assert!(found["10.0.0.1:53"].abs_diff(300) <= 20 && found["10.0.0.2:53"].abs_diff(100) <= 20, "{found:?}");
        let drained = build(r#"{"services": [{"name": "10.0.0.1", "weight": 0}, {"name": "10.0.0.2"}]}"#);
        let drained = Service::Weighted(drained.unwrap());
        assert_eq!(picks(&drained, 50, probe::now()).into_keys().collect::<Vec<_>>(), ["10.0.0.2:53"]);
        let Service::Servers(first) = &*children[0].1 else { unreachable!() };
        assert!(drained.has(&first.servers()[0]), "its sessions go on");
        let path = |json: &str| build(json).map(|_| ()).unwrap_err().only().path;
        assert_eq!(path(r#"{"services": [{"name": "x"}]}"#), "services[0].name");
        assert_eq!(path(r#"{"services": [{"name": "10.0.0.1", "weight": 1000001}]}"#), "services[0].weight");
    }

    #[tokio::test]
    async fn names_are_resolved() {
        let service = Service::Servers(pool(&["localhost:53"], None));
        let Service::Servers(own) = &service else { unreachable!() };
        own.servers()[0].keep_resolving(&Name::from("a@file"), &Handle::current());
        own.servers()[0].asked().await;
        assert!(service.pick(probe::now()).unwrap().address.ip().is_loopback());
    }
}

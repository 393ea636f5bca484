//! One server: its address, whether it is up, how busy and how fast it is, and a connection template.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration as Span, Instant};

use arcstr::ArcStr;
use http::HeaderValue;
use parking_lot::Mutex;
use pingora::protocols::ALPN;
use pingora::protocols::l4::socket::SocketAddr as PingoraAddr;
use pingora::upstreams::peer::{HttpPeer, Scheme};
use serde::{Deserialize, Serialize};

use super::health;
use super::idle::{self, Idle};
use super::resolve::{Addresses, Found};
use super::secure;
use super::strategy::{drr, least_time};
use super::transport::Transport;
use super::upgrade;
use super::url::{Protocol, Url};
use crate::exchange::Fault;
use crate::problem::{Problem, Problems, all, refuse};

/// Heaviest server.
pub const WEIGHT_LIMIT: i64 = 1_000_000;

/// One of `servers` as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// `http://host:port`, `https://…`, or `h2c://…` for HTTP/2 without TLS.
    #[serde(default)]
    pub url: ArcStr,
    /// Its share of the requests. Zero or less: none but those of its sticky clients.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: i64,
    /// Puts the path of the URL before the path of each request.
    #[serde(default, skip_serializing_if = "is_false")]
    pub preserve_path: bool,
}

const fn one() -> i64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
const fn is_one(weight: &i64) -> bool {
    *weight == 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
const fn is_false(written: &bool) -> bool {
    !*written
}

/// A server. It outlives reloads that leave its URL and transport as they are.
pub struct Server {
    id: u64,
    url: ArcStr,
    /// Made when it is asked for: most servers are sent the client's.
    host_header: OnceLock<Box<HeaderValue>>,
    base_path: Option<Box<str>>,
    addresses: Addresses,
    transport: Arc<Transport>,
    protocol: Protocol,
    /// What of the URL a connection needs besides the addresses, for TLS: the name to send and to look for.
    sni: Option<Box<str>>,
    idle: OnceLock<Arc<Idle>>,
    in_flight: AtomicUsize,
    pub(super) health: health::State,
    /// Passive health: no requests before this time, in milliseconds of [`millis`].
    left_alone_until: AtomicU64,
    last_error: Mutex<Option<ArcStr>>,
    pub(super) latency: least_time::Latency,
    pub(super) vigour: drr::Vigour,
}

impl Server {
    /// A server that has not been tried yet: it counts as up as soon as its address is known.
    ///
    /// # Errors
    /// If the URL is not one of a server, or the weight has no meaning.
    pub fn build(settings: &Settings, transport: &Arc<Transport>) -> Result<Self, Problems> {
        let ((), (url, _)) = all((check_weight(settings.weight), read_url(&settings.url)))?;
        Ok(Self {
            id: fnv1a(FNV_START, settings.url.as_bytes()),
            url: settings.url.clone(),
            host_header: OnceLock::new(),
            base_path: url.path.filter(|_| settings.preserve_path).map(Box::from),
            addresses: Addresses::new(url.host, url.port),
            transport: transport.clone(),
            protocol: url.protocol,
            sni: sni(&url, transport).map(Box::from),
            idle: OnceLock::new(),
            in_flight: AtomicUsize::new(0),
            health: health::State::default(),
            left_alone_until: AtomicU64::new(0),
            last_error: Mutex::new(None),
            latency: least_time::Latency::default(),
            vigour: drr::Vigour::default(),
        })
    }

    /// Whether `settings` over `transport` describe this very server, whatever its weight.
    pub fn is_same(&self, settings: &Settings, transport: &Transport) -> bool {
        *self.url == *settings.url
            && self.transport.identity() == transport.identity()
            && self.base_path.is_some()
                == (settings.preserve_path && Url::parse(&self.url).is_ok_and(|u| u.path.is_some()))
    }

    /// Names it among those that a request has tried. The same URL has the same number everywhere.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// As written.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its own host and port, for requests that must not carry the client's.
    pub fn host_header(&self) -> &HeaderValue {
        self.host_header.get_or_init(|| {
            // It was read once before.
            let read = read_url(&self.url).map(|(_, host)| host);
            Box::new(read.unwrap_or_else(|_| HeaderValue::from_static("")))
        })
    }

    /// What comes before each request's path (`preservePath`); without a trailing slash.
    pub fn base_path(&self) -> Option<&str> {
        self.base_path.as_deref()
    }

    /// Requests that it has not answered in full yet.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether it may get requests: its address is known, its probes pass, and it has not failed too often of late.
    pub fn is_up(&self, now: Instant) -> bool {
        self.health.is_up() && self.addresses.is_known() && !self.is_left_alone(now)
    }

    /// What its last failed probe, failed resolution or passive health said. Kept until the server is well again.
    pub fn last_error(&self) -> Option<ArcStr> {
        self.last_error.lock().clone()
    }

    pub(super) fn set_last_error(&self, error: Option<&str>) {
        *self.last_error.lock() = error.map(ArcStr::from);
    }

    /// An idle HTTP/1 connection to `address`, with nothing left of its last exchange.
    pub fn take_idle(&self, address: SocketAddr, now: Instant) -> Option<idle::Connection> {
        self.idle.get()?.take(address, self.idle_bounds(), now)
    }

    /// Gives back a connection over which an exchange has come to its end.
    pub fn put_idle(&self, connection: idle::Connection, now: Instant) {
        self.idle.get_or_init(Arc::default).put(connection, self.idle_bounds(), now);
    }

    fn idle_bounds(&self) -> idle::Bounds {
        idle::Bounds { most: self.transport.idle_limit, longest: self.transport.idle_timeout() }
    }

    pub(super) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    fn is_left_alone(&self, now: Instant) -> bool {
        self.left_alone_for(now).is_some()
    }

    /// How much longer passive health keeps requests away.
    pub(super) fn left_alone_for(&self, now: Instant) -> Option<Span> {
        let until = self.left_alone_until.load(Ordering::Relaxed);
        // Most servers were never left alone: no arithmetic for them.
        if until == 0 {
            return None;
        }
        until.checked_sub(millis(now)).filter(|rest| *rest > 0).map(Span::from_millis)
    }

    /// Keeps requests away until `until`, in milliseconds; whether it was free before `now`.
    pub(super) fn leave_alone(&self, now: u64, until: u64) -> bool {
        self.left_alone_until.swap(until, Ordering::Relaxed) <= now
    }

    pub(super) fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// A connection template with the address that is due.
    ///
    /// # Errors
    /// If no address is known.
    pub(super) fn peer(&self, purpose: Purpose, now: Instant) -> Result<(Box<HttpPeer>, usize), Fault> {
        let found = self.addresses.found();
        let found = found.as_ref().ok_or(Fault::NoServer)?;
        let at = found.due(millis(now)).ok_or(Fault::NoServer)?;
        let sni = self.sni.as_deref().unwrap_or_default();
        let mut peer = Box::new(peer(found.list()[at], (self.protocol, sni), &self.transport));
        if purpose == Purpose::Upgrade {
            // A protocol switch is HTTP/1.1's, on a connection of its own. Pingora's pool tells neither apart: the group key must.
            peer.options.alpn = ALPN::H1;
            peer.group_key = !peer.group_key;
            peer.options.idle_timeout = Some(Span::ZERO);
            peer.options.custom_l4 = Some(match secure_connector((self.protocol, sni), &self.transport) {
                Some(secure) => Arc::new(secure::Connector { purpose, ..secure }),
                None => Arc::new(upgrade::Connector { timeout: peer.options.connection_timeout }),
            });
            peer.options.read_timeout = None;
            peer.options.write_timeout = None;
        }
        // Whoever starts above the limit does not come back to the pool, so never more than that many lie idle.
        if self.transport.idle_limit.is_some_and(|limit| self.in_flight() > limit) {
            peer.options.idle_timeout = Some(Span::ZERO);
        }
        Ok((peer, at))
    }

    /// A template for probes, with the port to ask but no address yet, and the host to name.
    ///
    /// # Errors
    /// If the URL makes no sense with the plan's scheme.
    pub(super) fn probe_target(
        &self,
        plan: &health::Plan,
        transport: &Transport,
    ) -> Result<(HttpPeer, HeaderValue), String> {
        let own = Url::parse(&self.url)?;
        let text = plan.scheme.map(|scheme| format!("{scheme}://{}", own.authority));
        let url = text.as_deref().map_or(Ok(own), Url::parse)?;
        let unknown = SocketAddr::from(([0, 0, 0, 0], plan.port.unwrap_or(url.port)));
        let mut peer = peer(unknown, (url.protocol, sni(&url, transport).unwrap_or_default()), transport);
        if plan.mode == health::Mode::Grpc {
            if peer.options.custom_l4.is_some() {
                return Err("gRPC needs HTTP/2, and connections over this transport speak HTTP/1.1".to_owned());
            }
            peer.options.alpn = ALPN::H2;
        } else if peer.options.alpn == ALPN::H2H1 {
            peer.options.alpn = ALPN::H1;
        }
        // With one stream per connection, Pingora keeps none for others. The probe as a whole has its own limit.
        peer.options.max_h2_streams = 1;
        peer.options.read_timeout = None;
        let host = match (&plan.host, plan.port) {
            (Some(host), _) => host.clone(),
            (None, None) => self.host_header().clone(),
            (None, Some(port)) => {
                let host = if url.host.contains(':') {
                    format!("[{}]:{port}", url.host)
                } else {
                    format!("{}:{port}", url.host)
                };
                HeaderValue::from_str(&host).map_err(|error| error.to_string())?
            }
        };
        Ok((peer, host))
    }

    /// Notes that the `at`th address did not take a connection.
    pub(super) fn refuse_address(&self, at: usize, now: Instant) {
        if let Some(found) = self.addresses.found().as_ref() {
            found.refuse(at, millis(now));
        }
    }

    pub(super) fn set_addresses(&self, addresses: Vec<IpAddr>) {
        if !addresses.is_empty() {
            self.addresses.set(Found::new(addresses, self.addresses.port()));
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.url)
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Request,
    /// WebSocket and other switches of protocol: silence is no failure.
    Upgrade,
}

/// The name that is sent in TLS and looked for in the server's certificate. rustls verifies nothing for an empty name, so there always
/// is one.
fn sni<'a>(url: &Url<'a>, transport: &'a Transport) -> Option<&'a str> {
    let is_tls = url.protocol == Protocol::Https;
    is_tls.then(|| transport.server_name.as_deref().unwrap_or(url.host))
}

/// What makes the connection where Pingora cannot make it.
fn secure_connector((protocol, sni): (Protocol, &str), transport: &Transport) -> Option<secure::Connector> {
    let config = transport.secure.as_ref().filter(|_| protocol == Protocol::Https)?;
    let timeout = transport.connection_timeout();
    Some(secure::Connector { config: config.clone(), host: sni.into(), timeout, purpose: Purpose::Request })
}

/// Where and how to connect. Made anew for each request: it is large, and there may be many servers.
fn peer(address: SocketAddr, (protocol, sni): (Protocol, &str), transport: &Transport) -> HttpPeer {
    let secure = secure_connector((protocol, sni), transport);
    // For Pingora, a connection that we secure ourselves is a plain one.
    let is_tls = protocol == Protocol::Https && secure.is_none();
    let mut options = transport.options();
    let (alpn, group_key) = transport.manner(protocol);
    options.alpn = alpn;
    if !is_tls {
        options.ca = None;
    }
    if let Some(secure) = secure {
        options.custom_l4 = Some(Arc::new(secure));
    }
    HttpPeer {
        _address: PingoraAddr::Inet(address),
        scheme: if is_tls { Scheme::HTTPS } else { Scheme::HTTP },
        sni: if is_tls { sni.to_owned() } else { String::new() },
        proxy: None,
        client_cert_key: transport.client_certificate.clone().filter(|_| is_tls),
        group_key,
        options,
    }
}

pub(super) const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, 64 bits, going on from `state`.
pub(super) fn fnv1a(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Milliseconds since the gateway's first look at the clock, from 1.
pub(super) fn millis(now: Instant) -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(|| {
        let now = Instant::now();
        now.checked_sub(Span::from_secs(3600)).unwrap_or(now)
    });
    u64::try_from(now.saturating_duration_since(*START).as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

/// What no member of a pool may weigh.
pub(super) fn check_weight(weight: i64) -> Result<(), Problem> {
    refuse(weight > WEIGHT_LIMIT, || Problem::at("weight", format!("is above {WEIGHT_LIMIT}")))
}

fn read_url(text: &str) -> Result<(Url<'_>, HeaderValue), Problem> {
    if text.is_empty() {
        return Err(Problem::at("url", "is missing"));
    }
    let url = Url::parse(text).map_err(|message| Problem::at("url", message))?;
    let host_header =
        HeaderValue::from_str(url.authority).map_err(|_| Problem::at("url", "its host is not a valid name"))?;
    Ok((url, host_header))
}

#[cfg(test)]
mod tests {
    use super::super::transport;
    use super::*;

    fn server(url: &str, transport: &str) -> Server {
        let transport = Transport::build(&serde_json::from_str::<transport::Settings>(transport).unwrap()).unwrap();
        Server::build(&Settings { url: url.into(), weight: 1, preserve_path: true }, &transport).unwrap()
    }

    #[test]
    fn peers_are_complete() {
        let now = Instant::now();
        let plain = server("http://127.0.0.1:81", "{}").peer(Purpose::Request, now).unwrap().0;
        assert_eq!(
            (plain._address.to_string().as_str(), plain.is_tls(), plain.sni.as_str()),
            ("127.0.0.1:81", false, "")
        );
        assert_eq!(plain.options.alpn, ALPN::H1);

        let tls = server("https://127.0.0.1", "{}").peer(Purpose::Request, now).unwrap().0;
        assert_eq!(
            (tls._address.to_string().as_str(), tls.is_tls(), tls.sni.as_str()),
            ("127.0.0.1:443", true, "127.0.0.1")
        );
        let named = server("https://127.0.0.1", r#"{"serverName": "a.example", "disableHTTP2": false}"#);
        let request = named.peer(Purpose::Request, now).unwrap().0;
        assert_eq!((request.sni.as_str(), &request.options.alpn), ("a.example", &ALPN::H2H1));
        assert_ne!(request.group_key, tls.group_key);
        let upgrade = named.peer(Purpose::Upgrade, now).unwrap().0;
        assert_eq!((&upgrade.options.alpn, upgrade.options.read_timeout), (&ALPN::H1, None));
        assert_ne!(upgrade.group_key, request.group_key);

        let h2c = server("h2c://127.0.0.1:1", "{}").peer(Purpose::Request, now).unwrap().0;
        assert_eq!((h2c.is_tls(), &h2c.options.alpn), (false, &ALPN::H2));
        assert!(h2c.options.max_h2_streams >= 100);

        let secure = server("https://127.0.0.1", r#"{"minVersion": "VersionTLS13"}"#);
        for purpose in [Purpose::Request, Purpose::Upgrade] {
            let peer = secure.peer(purpose, now).unwrap().0;
            let connector = format!("{:?}", peer.options.custom_l4);
            assert!(connector.contains("ClientConfig") && connector.contains(&format!("{purpose:?}")), "{connector}");
            assert_eq!((peer.is_tls(), &peer.options.alpn), (false, &ALPN::H1));
            assert_ne!(peer.group_key, tls.group_key);
        }
        let plain = server("http://127.0.0.1", r#"{"minVersion": "VersionTLS13"}"#);
        assert!(plain.peer(Purpose::Request, now).unwrap().0.options.custom_l4.is_none());
    }

    #[test]
    fn idle_connections_stay_below_their_limit() {
        let now = Instant::now();
        let server = server("http://127.0.0.1:81", r#"{"maxIdleConnsPerHost": 1}"#);
        server.enter();
        assert_eq!(server.peer(Purpose::Request, now).unwrap().0.options.idle_timeout, Some(Span::from_secs(90)));
        server.enter();
        assert_eq!(server.peer(Purpose::Request, now).unwrap().0.options.idle_timeout, Some(Span::ZERO));
    }

    #[test]
    fn a_name_without_address_is_down() {
        let server = server("http://no-such-name.invalid:81/api/", "{}");
        assert!(!server.is_up(Instant::now()));
        assert_eq!(server.peer(Purpose::Request, Instant::now()).map(|_| ()), Err(Fault::NoServer));
        server.set_addresses(vec![IpAddr::from([127, 0, 0, 1])]);
        assert!(server.is_up(Instant::now()));
        assert_eq!(
            (server.base_path(), server.host_header().as_bytes()),
            (Some("/api"), &b"no-such-name.invalid:81"[..])
        );
    }
}

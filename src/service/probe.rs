//! Probes of one pool: the requests of active health checks and the questions to name servers, off the request path.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration as Span, Instant};

use async_trait::async_trait;
use http::Extensions;
use http::header::{CONTENT_LENGTH, HOST, LOCATION};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method, Uri, Version};
use pingora::connectors::http::Connector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::ALPN;
use pingora::protocols::l4::socket::SocketAddr as PingoraAddr;
use pingora::upstreams::peer::{HttpPeer, Scheme};
use pingora::{Error, ErrorType};
use pingora_load_balancing::Backend;
use pingora_load_balancing::discovery::ServiceDiscovery;
use pingora_load_balancing::health_check::{HealthCheck, TcpHealthCheck};
use tokio::sync::Semaphore;

use super::grpc_probe::Serves;
use super::health::{Mode, Plan};
use super::pool::ServerPool;
use super::resolve::{self, Answered, NamedBackends};
use super::server::{Server, millis};

/// Probes and questions that may be under way at a time, in the whole gateway.
const AT_A_TIME: usize = 256;
/// How often to look whether a server without an address has one now.
const UNRESOLVED_PAUSE: Span = Span::from_millis(250);
/// Redirections followed by one probe.
const REDIRECTS_LIMIT: usize = 10;
/// An answer that does not pass.
const UNEXPECTED: ErrorType = ErrorType::new("unexpected status");
/// Interim answers (1xx) passed over by one probe.
const INTERIM_LIMIT: usize = 16;

/// Probes the `index`th server of `pool` for as long as the pool lives.
pub(super) async fn probe_server(pool: Weak<ServerPool>, index: usize) {
    loop {
        let Some(wait) = pool.upgrade().map(|pool| pool.members()[index].server.health.wait(millis(now()))) else {
            return;
        };
        tokio::time::sleep(wait).await;
        let Ok(permit) = permits().acquire().await else { return };
        let Some(pool) = pool.upgrade() else { return };
        let (Some(plan), server) = (pool.plan(), &pool.members()[index].server) else { return };
        let addresses = server.addresses().found().as_ref().map(|found| found.list().to_vec());
        let Some(addresses) = addresses else {
            // It is down without a probe, and its first address shall be probed at once.
            drop((permit, pool));
            tokio::time::sleep(UNRESOLVED_PAUSE).await;
            continue;
        };
        let result = first_to_pass(&pool, server, &addresses).await;
        // What requests have shown outweighs a probe that passes, until its time is over.
        let is_left_alone = result.is_ok() && server.left_alone_for(now()).is_some();
        if !is_left_alone {
            // The reason stands before the state changes, so that whoever sees the one finds the other.
            server.set_last_error(result.as_ref().err().map(String::as_str));
        }
        let change = server.health.note(result.is_ok(), plan, millis(now()), fastrand::f64());
        if let Some(is_up) = change.filter(|_| !is_left_alone) {
            pool.announce(server, is_up, result.err().as_deref().unwrap_or("probe passed"));
        }
    }
}

/// Keeps the addresses of the `index`th server of `pool` fresh for as long as the pool lives.
pub(super) async fn resolve_server(pool: Weak<ServerPool>, index: usize) {
    let Some((name, port)) = pool.upgrade().and_then(|pool| {
        let addresses = pool.members()[index].server.addresses();
        addresses.name().map(|name| (name.to_owned(), addresses.port()))
    }) else {
        return;
    };
    let mut backends = None;
    let mut is_first = true;
    loop {
        let found = {
            let Ok(_permit) = permits().acquire().await else { return };
            ask_for(&mut backends, &name, port).await
        };
        let Some(pool) = pool.upgrade() else { return };
        let server = &pool.members()[index].server;
        let was_known = server.addresses().is_known();
        let answered = match found {
            Ok(found) => {
                server.set_addresses(found);
                if !was_known && server.is_up(now()) {
                    server.set_last_error(None);
                    pool.announce(server, true, "name resolved");
                }
                Answered::Yes
            }
            Err(error) => {
                server.set_last_error(Some(&error));
                log::warn!(service = pool.name().as_str(), server = server.url(), known = was_known; "{error}");
                Answered::No
            }
        };
        if is_first {
            pool.note_answer();
            is_first = false;
        }
        drop(pool);
        let pause = backends.as_ref().map_or(resolve::RETRY, |backends| backends.pause(answered, now()));
        tokio::time::sleep(pause).await;
    }
}

/// Asks for the addresses of `name`, with the system's resolver as soon as there is one.
pub(super) async fn ask_for(
    backends: &mut Option<NamedBackends>,
    name: &str,
    port: u16,
) -> Result<Vec<IpAddr>, String> {
    let backends = match backends {
        Some(backends) => backends,
        None => backends.insert(NamedBackends::new(resolver()?, name, port)),
    };
    backends.discover().await.map(|(found, _)| resolve::ips(&found)).map_err(|error| reason(&error))
}

/// A server is well if any of its addresses is.
async fn first_to_pass(pool: &ServerPool, server: &Server, addresses: &[SocketAddr]) -> Result<(), String> {
    let Some(plan) = pool.plan() else { return Ok(()) };
    let (peer, host) = server.probe_target(plan, pool.transport())?;
    let port = peer._address.as_inet().map_or(0, SocketAddr::port);
    let check: Box<dyn HealthCheck + Send + Sync> = match plan.mode {
        Mode::Tcp => Box::new(Connectable),
        Mode::Http => Box::new(Answers { plan, peer, host }),
        Mode::Grpc => Box::new(Serves { plan, peer, host }),
    };
    let limit = plan.timeout / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let mut last = Err("it has no address".to_owned());
    for address in addresses {
        let mut address = *address;
        address.set_port(port);
        let backend = Backend { addr: PingoraAddr::Inet(address), weight: 1, ext: Extensions::new() };
        match tokio::time::timeout(limit, check.check(&backend)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => last = Err(reason(&error)),
            Err(_) => last = Err(format!("no answer within {limit:?}")),
        }
    }
    last
}

/// `mode: tcp`: a connection can be made. One check for all, because each of Pingora's loads the system's authorities anew.
struct Connectable;

#[async_trait]
impl HealthCheck for Connectable {
    async fn check(&self, target: &Backend) -> pingora::Result<()> {
        static CHECK: OnceLock<TcpHealthCheck> = OnceLock::new();
        let check = CHECK.get_or_init(|| {
            let mut check = TcpHealthCheck::default();
            // The probe as a whole is limited.
            check.peer_template.options.connection_timeout = None;
            check
        });
        check.check(target).await
    }

    fn health_threshold(&self, _: bool) -> usize {
        1
    }
}

/// `mode: http`: the answer has the right status. Pingora's own check wants a connector, and so all authorities, per server.
struct Answers<'a> {
    plan: &'a Plan,
    peer: HttpPeer,
    host: HeaderValue,
}

#[async_trait]
impl HealthCheck for Answers<'_> {
    async fn check(&self, target: &Backend) -> pingora::Result<()> {
        let mut peer = self.peer.clone();
        peer._address = target.addr.clone();
        let mut path = self.plan.path.clone();
        for _ in 0..=REDIRECTS_LIMIT {
            let answer = ask(&peer, self.request(&path)?).await?;
            match redirection(&answer, &path, (self.scheme(), &self.host)).filter(|_| self.plan.follows_redirects) {
                Some(next) => path = next,
                None if self.plan.passes(answer.status.as_u16()) => return Ok(()),
                None => {
                    return Error::e_explain(UNEXPECTED, answer.status.as_str().to_owned());
                }
            }
        }
        Error::e_explain(ErrorType::InternalError, "too many redirections")
    }

    fn health_threshold(&self, _: bool) -> usize {
        1
    }
}

impl Answers<'_> {
    fn scheme(&self) -> &Scheme {
        // A connection that we secure ourselves is a plain one for Pingora.
        if self.peer.options.custom_l4.is_some() { &Scheme::HTTPS } else { &self.peer.scheme }
    }

    fn request(&self, path: &PathAndQuery) -> pingora::Result<RequestHeader> {
        let mut request = RequestHeader::build(self.plan.method.clone(), path.as_str().as_bytes(), None)?;
        if self.peer.options.alpn == ALPN::H2 {
            let uri = Uri::builder().scheme("http").authority(self.host.as_bytes()).path_and_query(path.clone());
            request
                .set_uri(uri.build().map_err(|error| Error::explain(ErrorType::InvalidHTTPHeader, error.to_string()))?);
            request.set_version(Version::HTTP_2);
        } else {
            request.insert_header(HOST, &self.host)?;
        }
        if matches!(self.plan.method, Method::POST | Method::PUT | Method::PATCH) {
            // RFC 9110 §8.6: a method that expects content says that there is none.
            request.insert_header(CONTENT_LENGTH, "0")?;
        }
        for (name, value) in &self.plan.headers {
            request.insert_header(name, value)?;
        }
        Ok(request)
    }
}

/// One request on a connection of its own, and the head of its answer.
async fn ask(peer: &HttpPeer, request: RequestHeader) -> pingora::Result<ResponseHeader> {
    let (mut session, _) = connector().get_http_session(peer).await?;
    session.write_request_header(Box::new(request)).await?;
    session.finish_request_body().await?;
    for _ in 0..INTERIM_LIMIT {
        session.read_response_header().await?;
        if let Some(answer) = session.response_header().filter(|answer| !answer.status.is_informational()) {
            return Ok(answer.clone());
        }
    }
    Error::e_explain(ErrorType::InvalidHTTPHeader, "no final answer")
}

/// Where a redirection leads, if it stays on the host that was asked.
fn redirection(
    answer: &ResponseHeader,
    path: &PathAndQuery,
    (scheme, host): (&Scheme, &HeaderValue),
) -> Option<PathAndQuery> {
    if !matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = answer.headers.get(LOCATION)?.to_str().ok()?;
    if location.starts_with('/') && !location.starts_with("//") {
        return location.split('#').next()?.parse().ok();
    }
    if let Ok(uri) = location.parse::<Uri>()
        && uri.scheme().is_some()
    {
        // To another scheme means to another port.
        let (own_scheme, own_port) = if *scheme == Scheme::HTTPS { ("https", 443) } else { ("http", 80) };
        let asked = Authority::try_from(host.as_bytes()).ok()?;
        let is_same = |found: &Authority| {
            let port = |authority: &Authority| authority.port_u16().unwrap_or(own_port);
            found.host().eq_ignore_ascii_case(asked.host()) && port(found) == port(&asked)
        };
        let stays = uri.scheme_str() == Some(own_scheme) && uri.authority().is_some_and(is_same);
        return stays.then(|| uri.path_and_query().cloned()).flatten();
    }
    if location.contains("://") || location.starts_with("//") {
        return None;
    }
    let folder = path.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    format!("{folder}/{location}").split('#').next()?.parse().ok()
}

/// One connector for all probes: each loads the system's authorities.
pub(super) fn connector() -> &'static Connector {
    static CONNECTOR: OnceLock<Connector> = OnceLock::new();
    CONNECTOR.get_or_init(|| Connector::new(None))
}

/// One resolver for all names. It holds no task of its own between questions.
fn resolver() -> Result<Arc<hickory_resolver::TokioResolver>, String> {
    static RESOLVER: OnceLock<Arc<hickory_resolver::TokioResolver>> = OnceLock::new();
    match RESOLVER.get() {
        Some(resolver) => Ok(resolver.clone()),
        None => resolve::system_resolver().map(|resolver| RESOLVER.get_or_init(|| resolver).clone()),
    }
}

pub(super) fn permits() -> &'static Semaphore {
    static PERMITS: Semaphore = Semaphore::const_new(AT_A_TIME);
    &PERMITS
}

/// What went wrong, for people: Pingora's own text carries source code lines.
fn reason(error: &Error) -> String {
    let mut text = error.etype().as_str().to_owned();
    if let Some(context) = &error.context {
        text = format!("{text}: {}", context.as_str());
    }
    if let Some(cause) = &error.cause {
        text = format!("{text}: {cause}");
    }
    text.chars().take(300).collect()
}

pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// How long the first answers of name servers are waited for, at most.
pub(super) const FIRST_ANSWER_LIMIT: Span = Span::from_secs(5);

#[cfg(test)]
mod tests;

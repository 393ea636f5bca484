//! What both redirections share: the URL that the client asked for, and the answer that sends it elsewhere.

use http::header::{HeaderName, HeaderValue, LOCATION};
use http::{Method, StatusCode};
use pingora::http::RequestHeader;

use super::Flow;
use crate::exchange::{Exchange, Fault, Reply};

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The URL that a client asked for, in parts.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    /// `http` or `https`, as the client sees it: a trusted proxy before us may say so.
    pub(super) scheme: &'static str,
    /// Host, in brackets if it is an IPv6 address.
    pub(super) host: &'a str,
    /// Port behind its colon; empty if there is none, or it is the scheme's own.
    pub(super) port: &'a str,
    /// Path and query.
    pub(super) target: &'a str,
}

impl<'a> Asked<'a> {
    /// Reads it from the request as it stands now; `None` if the client named no host.
    pub(super) fn from(request: &'a RequestHeader, exchange: &Exchange) -> Option<Self> {
        let authority = authority(request)?;
        let scheme = scheme(request, exchange);
        let (host, port) = split_port(authority);
        let own = if scheme == "https" { ":443" } else { ":80" };
        let port = if port == own { "" } else { port };
        let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
        Some(Self { scheme, host, port, target })
    }

    /// The whole URL.
    pub(super) fn url(&self) -> String {
        [self.scheme, "://", self.host, self.port, self.target].concat()
    }
}

/// Whether answers are cached by clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lasting {
    Permanent,
    Temporary,
}

impl Lasting {
    pub(super) fn of(permanent: bool) -> Self {
        if permanent { Self::Permanent } else { Self::Temporary }
    }
}

/// Sends the client to `location`. A client may turn every method into GET on 301 and 302 (RFC 9110 §15.4), so only those
/// requests get these that lose nothing by it.
pub(super) fn redirect(method: &Method, location: &str, lasting: Lasting) -> Flow {
    let Ok(location) = HeaderValue::from_bytes(location.as_bytes()) else { return refuse() };
    let is_get = matches!(*method, Method::GET | Method::HEAD);
    let status = match (lasting, is_get) {
        (Lasting::Permanent, true) => StatusCode::MOVED_PERMANENTLY,
        (Lasting::Permanent, false) => StatusCode::PERMANENT_REDIRECT,
        (Lasting::Temporary, true) => StatusCode::FOUND,
        (Lasting::Temporary, false) => StatusCode::TEMPORARY_REDIRECT,
    };
    Flow::reply(Reply::text(status, status.canonical_reason().unwrap_or_default()).with(LOCATION, location))
}

/// Answers a request that cannot be sent anywhere.
pub(super) fn refuse() -> Flow {
    Flow::reply(Reply::fault(Fault::BadRequest))
}

/// Authority of the target or Host header, whatever a `headers` middleware before us made of it.
pub(super) fn authority(request: &RequestHeader) -> Option<&str> {
    let host = || request.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
    request.uri.authority().map(|authority| authority.as_str()).or_else(host).filter(|authority| !authority.is_empty())
}

fn scheme(request: &RequestHeader, exchange: &Exchange) -> &'static str {
    let told = || request.headers.get(&FORWARDED_PROTO).and_then(|proto| proto.to_str().ok());
    match exchange.client.trusted.then(told).flatten() {
        // A proxy before us may name the protocol of the upgrade; the URL to send the client to is HTTP's all the same.
        Some(proto) if proto.eq_ignore_ascii_case("https") || proto.eq_ignore_ascii_case("wss") => "https",
        Some(proto) if proto.eq_ignore_ascii_case("http") || proto.eq_ignore_ascii_case("ws") => "http",
        _ => exchange.client.scheme(),
    }
}

/// Host, and port with its colon.
fn split_port(authority: &str) -> (&str, &str) {
    let after = authority.rfind(']').map_or(0, |end| end + 1);
    match authority[after..].find(':') {
        Some(colon) if authority.len() > after + colon + 1 => authority.split_at(after + colon),
        Some(colon) => (&authority[..after + colon], ""),
        None => (authority, ""),
    }
}

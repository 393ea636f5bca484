//! Who forwarded a request: `X-Forwarded-*` is believed from trusted peers only, and rebuilt for servers.
//!
//! Semantics: Traefik, "EntryPoints, Forwarded Headers".

use std::sync::Arc;

use http::header::{CONNECTION, HOST, HeaderName, HeaderValue, UPGRADE};
use pingora::http::RequestHeader;

use crate::exchange::Client;

/// What an entry point does with forwarding headers.
#[derive(Clone, Debug)]
pub struct ForwardedOptions {
    /// Header names that a client's `Connection` may nominate and that still pass through the middlewares.
    pub connection: Box<[HeaderName]>,
    /// Whether the peer's address is appended to `X-Forwarded-For`.
    pub append_for: bool,
    /// Whether `X-Forwarded-Scheme` and `X-Scheme` are set too.
    pub scheme_headers: bool,
    /// What `X-Forwarded-Server` says: this machine's name.
    pub server: HeaderValue,
}

impl Default for ForwardedOptions {
    fn default() -> Self {
        Self {
            connection: Box::default(),
            append_for: true,
            scheme_headers: false,
            server: HeaderValue::from_static("localhost"),
        }
    }
}

// As they are written on the wire: Pingora keeps the spelling, and from a static text it does so without a copy.
const FOR: &str = "X-Forwarded-For";
const PROTO: &str = "X-Forwarded-Proto";
const PORT: &str = "X-Forwarded-Port";
const FORWARDED_HOST: &str = "X-Forwarded-Host";
const SERVER: &str = "X-Forwarded-Server";
const FORWARDED_SCHEME: &str = "X-Forwarded-Scheme";
const SCHEME: &str = "X-Scheme";
const REAL_IP: &str = "X-Real-Ip";

/// Header names that only a trusted peer may set. `Forwarded` (RFC 7239) is among them because servers believe it as well.
static MANAGED: [HeaderName; 14] = [
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-forwarded-scheme"),
    HeaderName::from_static("x-scheme"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-forwarded-uri"),
    HeaderName::from_static("x-forwarded-method"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-forwarded-tls-client-cert"),
    HeaderName::from_static("x-forwarded-tls-client-cert-info"),
    HeaderName::from_static("forwarded"),
];

/// Cleans what the client said of its forwarding and sets what we know, before any middleware sees the request.
///
/// `address` is the client's as text; a connection makes it once.
pub fn receive(request: &mut RequestHeader, client: &Client, address: &HeaderValue, options: &ForwardedOptions) {
    strip_connection(request, options);
    if client.trusted {
        join_for(request);
    } else {
        remove_managed(request);
    }
    assign(request, client, address, options);
}

/// Appends the peer to `X-Forwarded-For`, for the server.
pub(crate) fn append_for(request: &mut RequestHeader, address: &HeaderValue, options: &ForwardedOptions) {
    if !options.append_for {
        return;
    }
    let value = match request.headers.get(FOR) {
        None => Ok(address.clone()),
        Some(chain) => {
            let joined = [chain.as_bytes(), b", ", address.as_bytes()].concat();
            HeaderValue::from_maybe_shared(bytes::Bytes::from(joined))
        }
    };
    if let Ok(value) = value {
        set(request, FOR, value);
    }
}

/// Whether `name` is one of the managed headers in any spelling that a server may take for it (`_` or `.` for `-`).
pub(crate) fn is_managed_alias(name: &str) -> bool {
    MANAGED.iter().any(|managed| {
        let managed = managed.as_str();
        managed.len() == name.len()
            && managed.bytes().zip(name.bytes()).all(|(ours, theirs)| {
                ours == theirs.to_ascii_lowercase() || (ours == b'-' && matches!(theirs, b'_' | b'.'))
            })
    })
}

/// Removes what `Connection` nominates (RFC 9110 §7.6.1) and keeps of it only what an upgrade needs. Afterwards no client
/// can make a later stage delete a header of ours.
fn strip_connection(request: &mut RequestHeader, options: &ForwardedOptions) {
    if !request.headers.contains_key(CONNECTION) {
        // RFC 9110 §7.8: an Upgrade that Connection does not name is no upgrade.
        if request.headers.contains_key(UPGRADE) {
            request.remove_header(&UPGRADE);
        }
        return;
    }
    let mut upgrades = false;
    let nominated: smallvec::SmallVec<[HeaderName; 4]> = request
        .headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        .filter(|name| {
            upgrades |= name == UPGRADE;
            name != UPGRADE && !MANAGED.contains(name) && !options.connection.contains(name)
        })
        .collect();
    for name in nominated {
        request.remove_header(&name);
    }
    request.remove_header(&CONNECTION);
    if upgrades && request.headers.contains_key(UPGRADE) {
        set(request, "Connection", HeaderValue::from_static("Upgrade"));
    } else {
        request.remove_header(&UPGRADE);
    }
}

fn remove_managed(request: &mut RequestHeader) {
    let is_suspect = |name: &HeaderName| {
        let name = name.as_str();
        (name.starts_with('x') || name.starts_with('f')) && is_managed_alias(name)
    };
    if !request.headers.keys().any(is_suspect) {
        return;
    }
    let found: smallvec::SmallVec<[HeaderName; 4]> =
        request.headers.keys().filter(|name| is_suspect(name)).cloned().collect();
    for name in found {
        request.remove_header(&name);
    }
}

/// Several `X-Forwarded-For` lines of a trusted peer are one list.
fn join_for(request: &mut RequestHeader) {
    if request.headers.get_all(FOR).iter().nth(1).is_none() {
        return;
    }
    let joined = request.headers.get_all(FOR).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b", "[..]);
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        set(request, FOR, value);
    }
}

fn assign(request: &mut RequestHeader, client: &Client, address: &HeaderValue, options: &ForwardedOptions) {
    if !request.headers.contains_key(REAL_IP) {
        set(request, REAL_IP, address.clone());
    }
    let websocket =
        request.headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let scheme = match (client.tls.is_some(), websocket) {
        (false, false) => "http",
        (true, false) => "https",
        (false, true) => "ws",
        (true, true) => "wss",
    };
    if !request.headers.contains_key(PROTO) {
        set(request, PROTO, HeaderValue::from_static(scheme));
    }
    if options.scheme_headers {
        for name in [FORWARDED_SCHEME, SCHEME] {
            if !request.headers.contains_key(name) {
                set(request, name, HeaderValue::from_static(scheme));
            }
        }
    }
    let host = authority(request);
    if !request.headers.contains_key(PORT) {
        let port =
            host.as_ref().and_then(|host| port_of(host.as_bytes())).and_then(|port| HeaderValue::from_str(port).ok());
        set(request, PORT, port.unwrap_or_else(|| HeaderValue::from_static(default_port(request, client))));
    }
    if let Some(host) = host.filter(|_| !request.headers.contains_key(FORWARDED_HOST)) {
        set(request, FORWARDED_HOST, host);
    }
    set(request, SERVER, options.server.clone());
}

/// The Host header, or the `:authority` of an HTTP/2 request.
pub fn authority(request: &RequestHeader) -> Option<HeaderValue> {
    match request.headers.get(HOST) {
        Some(host) if request.uri.authority().is_none() => Some(host.clone()),
        _ => request.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()),
    }
}

fn default_port(request: &RequestHeader, client: &Client) -> &'static str {
    let secure = match request.headers.get(PROTO).map(HeaderValue::as_bytes) {
        Some(b"https" | b"wss") => true,
        Some(_) => false,
        None => client.tls.is_some(),
    };
    if secure { "443" } else { "80" }
}

/// The port of an authority, IPv6 literals included.
fn port_of(authority: &[u8]) -> Option<&str> {
    let after = match authority.iter().position(|byte| *byte == b']') {
        Some(bracket) => &authority[bracket + 1..],
        None => authority,
    };
    let colon = after.iter().rposition(|byte| *byte == b':')?;
    let port = &after[colon + 1..];
    if port.is_empty() || port.len() > 5 || !port.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(port).ok()
}

fn set(request: &mut RequestHeader, name: &'static str, value: HeaderValue) {
    // `http` has accepted both already.
    let _ = request.insert_header(name, value);
}

/// This machine's name for `X-Forwarded-Server`.
pub fn host_name() -> Arc<str> {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(trusted: bool) -> Client {
        Client {
            entry_point: "web".into(),
            entry_point_index: 0,
            peer: "192.0.2.9:4000".parse().unwrap(),
            local: "127.0.0.1:80".parse().unwrap(),
            trusted,
            tls: None,
        }
    }

    fn peer() -> HeaderValue {
        client(true).address_text()
    }

    fn request(fields: &[(&str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in fields {
            request.append_header((*name).to_owned(), *value).unwrap();
        }
        request
    }

    fn value<'a>(request: &'a RequestHeader, name: &str) -> Option<&'a str> {
        request.headers.get(name).map(|value| value.to_str().unwrap())
    }

    #[test]
    fn strangers_are_not_believed() {
        let mut request = request(&[
            ("Host", "a.test:8000"),
            ("X-Forwarded-For", "10.0.0.1"),
            ("X_Forwarded_For", "10.0.0.1"),
            ("x-forwarded.host", "evil"),
            ("X-Real-Ip", "10.0.0.1"),
            ("Forwarded", "for=10.0.0.1"),
            ("X-Forwarded-Prefix", "/evil"),
        ]);
        receive(&mut request, &client(false), &peer(), &ForwardedOptions::default());
        append_for(&mut request, &peer(), &ForwardedOptions::default());
        for (name, expected) in [
            ("x-forwarded-for", Some("192.0.2.9")),
            ("x_forwarded_for", None),
            ("x-forwarded.host", None),
            ("x-real-ip", Some("192.0.2.9")),
            ("forwarded", None),
            ("x-forwarded-prefix", None),
            ("x-forwarded-host", Some("a.test:8000")),
            ("x-forwarded-port", Some("8000")),
            ("x-forwarded-proto", Some("http")),
        ] {
            assert_eq!(value(&request, name), expected, "{name}");
        }
    }

    #[test]
    fn trusted_peers_are_believed_and_appended() {
        let mut request = request(&[
            ("Host", "a.test"),
            ("X-Forwarded-For", "10.0.0.1"),
            ("X-Forwarded-For", "10.0.0.2"),
            ("X-Forwarded-Proto", "https"),
        ]);
        receive(&mut request, &client(true), &peer(), &ForwardedOptions::default());
        append_for(&mut request, &peer(), &ForwardedOptions::default());
        assert_eq!(value(&request, "x-forwarded-for"), Some("10.0.0.1, 10.0.0.2, 192.0.2.9"));
        assert_eq!(value(&request, "x-forwarded-proto"), Some("https"));
        assert_eq!(value(&request, "x-forwarded-port"), Some("443"));
    }

    #[test]
    fn connection_takes_along_what_it_names_but_nothing_of_ours() {
        let mut request =
            request(&[("Connection", "keep-alive, X-Real-Ip, x-custom"), ("X-Custom", "1"), ("X-Real-Ip", "10.0.0.1")]);
        receive(&mut request, &client(true), &peer(), &ForwardedOptions::default());
        assert_eq!(value(&request, "x-custom"), None);
        assert_eq!(value(&request, "x-real-ip"), Some("10.0.0.1"));
        assert_eq!(value(&request, "connection"), None);
    }

    #[test]
    fn upgrades_keep_their_connection_header() {
        let mut request = request(&[("Connection", "Upgrade"), ("Upgrade", "websocket")]);
        receive(&mut request, &client(false), &peer(), &ForwardedOptions::default());
        assert_eq!(value(&request, "connection"), Some("Upgrade"));
        assert_eq!(value(&request, "x-forwarded-proto"), Some("ws"));
        let mut bare = tests::request(&[("Upgrade", "websocket")]);
        receive(&mut bare, &client(false), &peer(), &ForwardedOptions::default());
        assert_eq!(value(&bare, "upgrade"), None, "Connection does not name it");
    }
}

//! Who forwarded a request: `X-Forwarded-*` is believed from trusted peers only, and rebuilt for servers.
//!
//! Semantics: Traefik, "EntryPoints, Forwarded Headers".

use std::sync::Arc;

use http::header::{CONNECTION, HOST, HeaderName, HeaderValue, UPGRADE};
use http::{HeaderMap, Uri};
use pingora::http::RequestHeader;
use smallvec::SmallVec;

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

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const SERVER: HeaderName = HeaderName::from_static("x-forwarded-server");
const FORWARDED_SCHEME: HeaderName = HeaderName::from_static("x-forwarded-scheme");
const SCHEME: HeaderName = HeaderName::from_static("x-scheme");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Fields that [`receive`] may add, and [`append_for`]: room for them is made once.
const ADDED_FIELDS: usize = 8;

/// Header names that only a trusted peer may set. `Forwarded` (RFC 7239) is among them because servers believe it as well.
static MANAGED: [HeaderName; 14] = [
    FOR,
    PROTO,
    PORT,
    FORWARDED_HOST,
    SERVER,
    FORWARDED_SCHEME,
    SCHEME,
    REAL_IP,
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
    let mut parts = take_parts(request);
    let fields = &mut parts.headers;
    fields.reserve(ADDED_FIELDS);
    strip_connection(fields, options);
    if client.trusted {
        join_for(fields);
    } else {
        remove_managed(fields);
    }
    let host = host_of(&parts.uri, fields);
    assign(fields, host, client, address, options);
    *request = RequestHeader::from(parts);
}

/// Takes the request out of Pingora's wrapper, and so out of its second map, which keeps how the client spelled each name:
/// two look-ups, two copies of a name and a copy of the map for every field that is set or sent on. Servers get names in
/// lower case, as HTTP/2 has them and RFC 9110 §5.1 allows.
fn take_parts(request: &mut RequestHeader) -> http::request::Parts {
    let (empty, ()) = http::Request::new(()).into_parts();
    std::mem::replace(request, RequestHeader::from(empty)).into()
}

/// Appends the peer to `X-Forwarded-For`, for the server.
pub(crate) fn append_for(request: &mut RequestHeader, address: &HeaderValue, options: &ForwardedOptions) {
    if !options.append_for {
        return;
    }
    let mut parts = take_parts(request);
    let value = match parts.headers.get(&FOR) {
        None => Ok(address.clone()),
        Some(chain) => {
            let joined = [chain.as_bytes(), b", ", address.as_bytes()].concat();
            HeaderValue::from_maybe_shared(bytes::Bytes::from(joined))
        }
    };
    if let Ok(value) = value {
        parts.headers.insert(FOR, value);
    }
    *request = RequestHeader::from(parts);
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
fn strip_connection(fields: &mut HeaderMap, options: &ForwardedOptions) {
    if !fields.contains_key(CONNECTION) {
        // RFC 9110 §7.8: an Upgrade that Connection does not name is no upgrade.
        if fields.contains_key(UPGRADE) {
            fields.remove(UPGRADE);
        }
        return;
    }
    let mut upgrades = false;
    let nominated: SmallVec<[HeaderName; 4]> = fields
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
        fields.remove(name);
    }
    if upgrades && fields.contains_key(UPGRADE) {
        fields.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    } else {
        fields.remove(CONNECTION);
        fields.remove(UPGRADE);
    }
}

fn remove_managed(fields: &mut HeaderMap) {
    let is_suspect = |name: &&HeaderName| {
        let text = name.as_str();
        (text.starts_with('x') || text.starts_with('f')) && is_managed_alias(text)
    };
    let found: SmallVec<[HeaderName; 4]> = fields.keys().filter(is_suspect).cloned().collect();
    for name in found {
        fields.remove(name);
    }
}

/// Several `X-Forwarded-For` lines of a trusted peer are one list.
fn join_for(fields: &mut HeaderMap) {
    if fields.get_all(&FOR).iter().nth(1).is_none() {
        return;
    }
    let joined = fields.get_all(&FOR).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b", "[..]);
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        fields.insert(FOR, value);
    }
}

fn assign(
    fields: &mut HeaderMap,
    host: Option<HeaderValue>,
    client: &Client,
    address: &HeaderValue,
    options: &ForwardedOptions,
) {
    fields.entry(REAL_IP).or_insert_with(|| address.clone());
    let websocket = fields.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let scheme = HeaderValue::from_static(match (client.tls.is_some(), websocket) {
        (false, false) => "http",
        (true, false) => "https",
        (false, true) => "ws",
        (true, true) => "wss",
    });
    let proto = fields.entry(PROTO).or_insert_with(|| scheme.clone());
    let default_port = if matches!(proto.as_bytes(), b"https" | b"wss") { "443" } else { "80" };
    if options.scheme_headers {
        fields.entry(FORWARDED_SCHEME).or_insert_with(|| scheme.clone());
        fields.entry(SCHEME).or_insert(scheme);
    }
    fields.entry(PORT).or_insert_with(|| {
        let port = host.as_ref().and_then(|host| port_of(host.as_bytes()));
        port.and_then(|port| HeaderValue::from_str(port).ok()).unwrap_or_else(|| HeaderValue::from_static(default_port))
    });
    if let Some(host) = host {
        fields.entry(FORWARDED_HOST).or_insert(host);
    }
    fields.insert(SERVER, options.server.clone());
}

/// The Host header, or the `:authority` of an HTTP/2 request.
pub fn authority(request: &RequestHeader) -> Option<HeaderValue> {
    host_of(&request.uri, &request.headers)
}

fn host_of(uri: &Uri, fields: &HeaderMap) -> Option<HeaderValue> {
    match (uri.authority(), fields.get(HOST)) {
        (None, host) => host.cloned(),
        (Some(authority), _) => HeaderValue::from_str(authority.as_str()).ok(),
    }
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

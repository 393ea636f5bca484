//! What matchers may see of a request, or of a connection: normalised once, borrowed.

use std::borrow::Cow;
use std::net::IpAddr;

use http::{HeaderMap, Method};

/// A request as routing sees it.
#[derive(Clone, Debug)]
pub struct RequestView<'a> {
    /// Method as sent.
    pub method: &'a Method,
    /// Host in canonical form: lower case, no port, no trailing dot. Empty if the client named none.
    pub host: Cow<'a, str>,
    /// The routing path: percent-decoded except for reserved characters, so that `/a%2Fb` is not `/a/b`.
    pub path: Cow<'a, str>,
    /// Raw query without its `?`; empty if there is none.
    pub query: &'a str,
    /// All header fields.
    pub headers: &'a HeaderMap,
    /// The connection's peer, never a forwarded header.
    pub client: IpAddr,
}

/// A connection as routing sees it.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionView<'a> {
    /// The name in the ClientHello, lower case; `None` without TLS, or if the client named none.
    pub server_name: Option<&'a str>,
    /// The protocols that the client offers in its ClientHello.
    pub protocols: &'a [Box<[u8]>],
    /// The peer, never a forwarded address.
    pub client: IpAddr,
}

impl<'a> RequestView<'a> {
    /// Normalises what a request says of itself.
    ///
    /// `authority` is the Host header or the authority of an absolute-form target; `path` is the raw, sanitised path.
    pub fn new(
        method: &'a Method,
        authority: &'a str,
        path: &'a str,
        query: &'a str,
        headers: &'a HeaderMap,
        client: IpAddr,
    ) -> Self {
        Self { method, host: canonical_host(authority), path: routing_path(path), query, headers, client }
    }
}

/// The host of an authority: no port, no trailing dot, lower case. Borrows when nothing changes.
pub fn canonical_host(authority: &str) -> Cow<'_, str> {
    // Without an early end, so that the compiler can look at many bytes at once: mostly there is nothing to change.
    let is_odd = |byte: u8| matches!(byte, b':' | b'[' | b'A'..=b'Z');
    if !authority.bytes().fold(false, |odd, byte| odd | is_odd(byte)) && !authority.ends_with('.') {
        return Cow::Borrowed(authority);
    }
    let host = if let Some(end) = authority.strip_prefix('[').and_then(|rest| rest.find(']')) {
        &authority[1..=end]
    } else {
        authority.split_once(':').map_or(authority, |(host, _)| host)
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// Traefik's routing path: every `%XX` decoded except those of reserved characters (RFC 3986 §2.2) and of `%` itself.
/// What does not decode to UTF-8 stays as it is.
pub fn routing_path(path: &str) -> Cow<'_, str> {
    // As above: to the end, but many bytes at once.
    if !path.bytes().fold(false, |found, byte| found | (byte == b'%')) {
        return Cow::Borrowed(path);
    }
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match decoded(&bytes[at..]) {
            Some(byte) if !is_reserved(byte) => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).map_or(Cow::Borrowed(path), Cow::Owned)
}

/// How many bytes of `path` the first `length` bytes of its routing path stand for.
pub fn raw_length(path: &str, length: usize) -> usize {
    if routing_path(path).len() == path.len() {
        return length.min(path.len());
    }
    let bytes = path.as_bytes();
    let mut at = 0;
    for _ in 0..length {
        let Some(rest) = bytes.get(at..) else { break };
        at += if decoded(rest).is_some_and(|byte| !is_reserved(byte)) { 3 } else { 1 };
    }
    at.min(path.len())
}

/// The byte that a leading `%XX` stands for.
fn decoded(bytes: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = bytes else { return None };
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    Some((digit(high)? * 16 + digit(low)?) as u8)
}

const fn is_reserved(byte: u8) -> bool {
    matches!(
        byte,
        b':' | b'/'
            | b'?'
            | b'#'
            | b'['
            | b']'
            | b'@'
            | b'!'
            | b'$'
            | b'&'
            | b'\''
            | b'('
            | b')'
            | b'*'
            | b'+'
            | b','
            | b';'
            | b'='
            | b'%'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_lose_port_dot_and_case() {
        for (authority, host) in [
            ("Example.COM:8080", "example.com"),
            ("example.com.", "example.com"),
            ("example.com.:80", "example.com"),
            ("[::1]:80", "::1"),
            ("[::1]", "::1"),
            ("", ""),
        ] {
            assert_eq!(canonical_host(authority), host, "{authority}");
        }
        assert!(matches!(canonical_host("a.b:1"), Cow::Borrowed("a.b")));
    }

    #[test]
    fn reserved_characters_stay_encoded() {
        for (path, routed) in
            [("/a%20b", "/a b"), ("/a%2Fb", "/a%2Fb"), ("/%C3%A9", "/é"), ("/%ff", "/%ff"), ("/100%", "/100%")]
        {
            assert_eq!(routing_path(path), routed, "{path}");
        }
    }
}

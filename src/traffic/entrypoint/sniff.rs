//! Which protocol a connection speaks, by its first bytes.
//!
//! Entry points with TLS or with plain TCP routers will decide here as well: a first byte of 22 starts a TLS record, whose
//! ClientHello names the server; and an entry point that only has a catch-all TCP router must not wait for bytes at all,
//! as the server may be the one who speaks first.

/// The client connection preface of HTTP/2 (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// More bytes are needed.
    Undecided,
    /// HTTP/1, or nothing that we know: the head reader tells.
    Http1,
    /// HTTP/2 by prior knowledge.
    Http2,
}

/// Decides by the first bytes.
pub(super) fn sniff(bytes: &[u8]) -> Protocol {
    let shared = bytes.len().min(PREFACE.len());
    if bytes[..shared] != PREFACE[..shared] {
        Protocol::Http1
    } else if shared == PREFACE.len() {
        Protocol::Http2
    } else {
        Protocol::Undecided
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_preface_is_http2() {
        for cut in 0..PREFACE.len() {
            assert_eq!(sniff(&PREFACE[..cut]), Protocol::Undecided, "{cut}");
        }
        assert_eq!(sniff(PREFACE), Protocol::Http2);
        for bytes in [&b"POST / HTTP/1.1"[..], b"PRI * HTTP/1.1", b"GET", b"\x16\x03\x01", b"PUT"] {
            assert_eq!(sniff(bytes), Protocol::Http1, "{}", bytes.escape_ascii());
        }
    }
}

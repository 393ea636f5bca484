//! Which protocol a connection speaks, by its first bytes.

/// The client connection preface of HTTP/2 (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a question that a PostgreSQL client may begin with.
pub(super) const POSTGRES_QUESTION_BYTES: usize = 8;
/// What a PostgreSQL client sends before a ClientHello (PostgreSQL, "Frontend/Backend Protocol", SSLRequest).
const SSL_REQUEST: &[u8; POSTGRES_QUESTION_BYTES] = &[0, 0, 0, 8, 4, 210, 22, 47];
/// The same for encryption by GSSAPI, which a client asks for first and does without if it is refused.
const GSSENC_REQUEST: &[u8; POSTGRES_QUESTION_BYTES] = &[0, 0, 0, 8, 4, 210, 22, 48];

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// More bytes are needed.
    Undecided,
    /// HTTP/1, or nothing that we know: the head reader tells.
    Http1,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// The start of a TLS record, or of something that wants to be one.
    Tls,
    /// A PostgreSQL client that asks for TLS.
    PostgresTls,
    /// A PostgreSQL client that asks for GSSAPI.
    PostgresGss,
}

/// Decides by the first bytes.
pub(super) fn sniff(bytes: &[u8]) -> Protocol {
    // 22 starts a handshake record (RFC 8446 §5.1); the high bit started a ClientHello in SSL 2.0, and nothing in HTTP.
    match bytes {
        [] => return Protocol::Undecided,
        [22 | 0x80..=0xff, ..] => return Protocol::Tls,
        _ => {}
    }
    let known: [(&[u8], Protocol); 3] =
        [(PREFACE, Protocol::Http2), (SSL_REQUEST, Protocol::PostgresTls), (GSSENC_REQUEST, Protocol::PostgresGss)];
    let mut is_open = false;
    for (start, protocol) in known {
        if bytes.starts_with(start) {
            return protocol;
        }
        is_open |= start.starts_with(bytes);
    }
    if is_open { Protocol::Undecided } else { Protocol::Http1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_beginnings_decide() {
        for (whole, protocol) in [
            (&PREFACE[..], Protocol::Http2),
            (SSL_REQUEST, Protocol::PostgresTls),
            (GSSENC_REQUEST, Protocol::PostgresGss),
        ] {
            for cut in 0..whole.len() {
                assert_eq!(sniff(&whole[..cut]), Protocol::Undecided, "{protocol:?} {cut}");
            }
            assert_eq!(sniff(whole), protocol);
            assert_eq!(sniff(&[whole, b"more"].concat()), protocol);
        }
        for bytes in
            [&b"POST / HTTP/1.1"[..], b"PRI * HTTP/1.1", b"GET", b"PUT", b"\0\0\0\x08\x04\xd2\x16\x2e", b"\0\0\0\x09"]
        {
            assert_eq!(sniff(bytes), Protocol::Http1, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn one_byte_tells_tls() {
        for bytes in [&b"\x16"[..], b"\x16\x03\x01", b"\x80\x2e\x01\x03\x01", b"\xff"] {
            assert_eq!(sniff(bytes), Protocol::Tls, "{}", bytes.escape_ascii());
        }
    }
}

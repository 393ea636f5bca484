//! What a client says before anything is encrypted (RFC 8446 §4.1.2): the name it asks for and the protocols it can speak.
//!
//! A reader of our own and not the library's, because connections that are passed through may speak versions that the library
//! refuses. It reads what routing needs and leaves the rest to who ends the connection.

use std::borrow::Cow;
use std::net::IpAddr;

/// Longest ClientHello, in bytes. With post-quantum key shares one has about 1,800.
const HELLO_LIMIT_BYTES: usize = 16 << 10;
/// Most records that it may be spread over.
const RECORD_LIMIT: usize = 512;
/// Longest plaintext of a record (RFC 8446 §5.1).
const FRAGMENT_LIMIT_BYTES: usize = 1 << 14;
/// Longest host name (RFC 1035 §2.3.4, with its dots).
const NAME_LIMIT_BYTES: usize = 253;

const RECORD_HEADER_BYTES: usize = 5;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const HOST_NAME: u8 = 0;

/// What a ClientHello says, as far as it matters for where the connection goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The host that the client wants, lower case and without a dot at the end. `None` if it names none, or an address.
    pub server_name: Option<Box<str>>,
    /// The protocols it can speak, the one it likes best first.
    pub protocols: Box<[Box<[u8]>]>,
}

impl ClientHello {
    /// Whether it comes from an ACME server that validates a name (RFC 8737 §3).
    pub fn is_acme_challenge(&self) -> bool {
        matches!(&*self.protocols, [only] if **only == *b"acme-tls/1")
    }
}

/// How far reading has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// More bytes are needed.
    Partial,
    /// It does not start like TLS.
    NotTls,
    /// It starts like TLS and goes wrong.
    Malformed(&'static str),
    /// All of it was read.
    Whole(ClientHello),
}

/// Reads the ClientHello at the start of `input`.
pub fn read(input: &[u8]) -> Reading {
    match input {
        [] => return Reading::Partial,
        [HANDSHAKE, ..] => {}
        // SSL 2.0 began so; whoever still does cannot be talked to.
        [first, ..] if *first >= 0x80 => return Reading::Malformed("a ClientHello of SSL 2.0"),
        _ => return Reading::NotTls,
    }
    match message(input) {
        Ok(Some(hello)) => match parse(&hello) {
            Some(hello) => Reading::Whole(hello),
            None => Reading::Malformed("a ClientHello whose parts do not fit together"),
        },
        Ok(None) => Reading::Partial,
        Err(reason) => Reading::Malformed(reason),
    }
}

/// The body of the first handshake message, put together from its records. `None`: it is not all there.
fn message(input: &[u8]) -> Result<Option<Cow<'_, [u8]>>, &'static str> {
    let mut whole: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut rest = input;
    for _ in 0..RECORD_LIMIT {
        match rest.first() {
            None => return Ok(None),
            Some(&HANDSHAKE) => {}
            Some(_) => return Err("another record inside of the ClientHello"),
        }
        if rest.get(1).is_some_and(|major| *major != 3) {
            return Err("a record of no known version");
        }
        let Some(header) = rest.get(..RECORD_HEADER_BYTES) else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 || length > FRAGMENT_LIMIT_BYTES {
            return Err("a record of no valid length");
        }
        let body = &rest[RECORD_HEADER_BYTES..];
        let fragment = &body[..body.len().min(length)];
        if whole.is_empty() {
            whole = Cow::Borrowed(fragment);
        } else {
            whole.to_mut().extend_from_slice(fragment);
        }
        if whole.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err("a handshake that does not begin with a ClientHello");
        }
        if let [_, high, middle, low, ..] = *whole {
            let announced = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            if announced > HELLO_LIMIT_BYTES {
                return Err("a ClientHello that is too long");
            }
            if whole.len() >= 4 + announced {
                return Ok(Some(match whole {
                    Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[4..4 + announced]),
                    Cow::Owned(bytes) => Cow::Owned(bytes[4..4 + announced].to_vec()),
                }));
            }
        }
        if body.len() < length {
            return Ok(None);
        }
        rest = &body[length..];
    }
    Err("a ClientHello in too many records")
}

/// `None`: malformed.
fn parse(body: &[u8]) -> Option<ClientHello> {
    let mut body = Cursor(body);
    body.take(2 + 32)?;
    body.vector8().filter(|session| session.len() <= 32)?;
    body.vector16().filter(|suites| !suites.is_empty() && suites.len() % 2 == 0)?;
    body.vector8().filter(|compressions| !compressions.is_empty())?;
    let mut hello = ClientHello::default();
    if body.0.is_empty() {
        // Extensions came with TLS 1.0 (RFC 3546); a client may have none.
        return Some(hello);
    }
    let mut extensions = Cursor(body.vector16()?);
    if !body.0.is_empty() {
        return None;
    }
    // Two readers may pick different ones of two equal extensions: RFC 8446 §4.2 forbids them.
    let (mut has_name, mut has_protocols) = (false, false);
    while !extensions.0.is_empty() {
        let kind = extensions.number16()?;
        let data = extensions.vector16()?;
        match kind {
            SERVER_NAME if !std::mem::replace(&mut has_name, true) => hello.server_name = server_name(data)?,
            ALPN if !std::mem::replace(&mut has_protocols, true) => hello.protocols = protocols(data)?,
            SERVER_NAME | ALPN => return None,
            _ => {}
        }
    }
    Some(hello)
}

/// The one host name (RFC 6066 §3). The outer `None`: malformed.
fn server_name(data: &[u8]) -> Option<Option<Box<str>>> {
    let mut data = Cursor(data);
    let mut list = Cursor(data.vector16()?);
    if !data.0.is_empty() || list.0.is_empty() {
        return None;
    }
    let (kind, name) = (list.number8()?, list.vector16()?);
    if kind != HOST_NAME || !list.0.is_empty() {
        return None;
    }
    let name = std::str::from_utf8(name).ok()?;
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if name.parse::<IpAddr>().is_ok() {
        // Forbidden, and sent all the same: no name at all.
        return Some(None);
    }
    let is_name = !name.is_empty() && name.len() <= NAME_LIMIT_BYTES && name.bytes().all(is_plain);
    is_name.then(|| Some(name.to_ascii_lowercase().into()))
}

/// Protocol names (RFC 7301 §3.1). `None`: malformed.
fn protocols(data: &[u8]) -> Option<Box<[Box<[u8]>]>> {
    let mut data = Cursor(data);
    let mut list = Cursor(data.vector16()?);
    if !data.0.is_empty() || list.0.is_empty() {
        return None;
    }
    let mut found = Vec::new();
    while !list.0.is_empty() {
        found.push(list.vector8().filter(|name| !name.is_empty())?.into());
    }
    Some(found.into())
}

/// What is left to read.
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn number8(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn number16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Bytes behind a length of one byte.
    pub(super) fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = self.number8()?;
        self.take(length.into())
    }

    /// Bytes behind a length of two bytes.
    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.number16()?;
        self.take(length.into())
    }

    /// Bytes behind a length of three bytes.
    pub(super) fn vector24(&mut self) -> Option<&'a [u8]> {
        let length = self.take(3)?;
        self.take(usize::from(length[0]) << 16 | usize::from(length[1]) << 8 | usize::from(length[2]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vector16(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
    }

    fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector16(data)].concat()
    }

    fn name(name: &str) -> Vec<u8> {
        extension(SERVER_NAME, &vector16(&[&[HOST_NAME][..], &vector16(name.as_bytes())].concat()))
    }

    fn alpn(names: &[&str]) -> Vec<u8> {
        let list: Vec<u8> = names.iter().flat_map(|n| [&[n.len() as u8][..], n.as_bytes()].concat()).collect();
        extension(ALPN, &vector16(&list))
    }

    /// A ClientHello message with these extensions.
    fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0]);
        body.extend(vector16(&[0x0a, 0x0a, 0x13, 0x01]));
        body.extend([1, 0]);
        body.extend(vector16(&extensions.concat()));
        [&[CLIENT_HELLO, 0], &vector16(&body)[..]].concat()
    }

    /// The message in records of so many bytes.
    fn records(message: &[u8], bytes: usize) -> Vec<u8> {
        message.chunks(bytes).flat_map(|part| [&[HANDSHAKE, 3, 1][..], &vector16(part)].concat()).collect()
    }

    fn sample() -> Vec<u8> {
        hello(&[extension(0x1a1a, b""), name("WWW.Example.com."), alpn(&["h2", "http/1.1"])])
    }

    #[test]
    fn names_and_protocols_are_read() {
        let Reading::Whole(found) = read(&records(&sample(), 9000)) else { panic!() };
        assert_eq!(found.server_name.as_deref(), Some("www.example.com"));
        assert_eq!(found.protocols.iter().map(|name| &**name).collect::<Vec<_>>(), [&b"h2"[..], b"http/1.1"]);
        assert!(!found.is_acme_challenge());
        let Reading::Whole(found) = read(&records(&hello(&[alpn(&["acme-tls/1"])]), 9000)) else { panic!() };
        assert!(found.is_acme_challenge());
        assert_eq!(found.server_name, None);
    }

    #[test]
    fn every_way_to_cut_it_reads_the_same() {
        let whole = read(&records(&sample(), 9000));
        assert!(matches!(whole, Reading::Whole(_)));
        for bytes in 1..sample().len() + 2 {
            let input = records(&sample(), bytes);
            assert_eq!(read(&input), whole, "records of {bytes}");
            for cut in 0..input.len() {
                assert_eq!(read(&input[..cut]), Reading::Partial, "records of {bytes}, cut at {cut}");
            }
            assert_eq!(read(&[&input[..], &[20, 3, 3, 0, 1, 1]].concat()), whole);
        }
    }

    #[test]
    fn what_does_not_fit_together_is_malformed() {
        let with = |extensions: &[Vec<u8>]| records(&hello(extensions), 9000);
        for (input, what) in [
            (vec![0x80, 0x2e, 1, 3, 1], "SSL 2.0"),
            (with(&[name("a"), name("b")]), "two names"),
            (with(&[alpn(&["h2"]), alpn(&["h2"])]), "two lists of protocols"),
            (with(&[name("a\0b")]), "a NUL in the name"),
            (with(&[name("")]), "an empty name"),
            (with(&[name(&"a".repeat(254))]), "a long name"),
            (with(&[name("ex ample")]), "a space in the name"),
            (with(&[name("bücher.example")]), "a name outside ASCII"),
            (with(&[extension(SERVER_NAME, b"")]), "no list of names"),
            (with(&[alpn(&[])]), "no protocols"),
            (with(&[alpn(&[""])]), "an empty protocol"),
            (with(&[vec![0, 0, 0, 9, 1]]), "an extension that is too short"),
            (records(&[2, 0, 0, 1, 0], 9000), "a ServerHello"),
            (records(&[CLIENT_HELLO, 1, 0, 0], 9000), "a message of 64 KiB"),
            (vec![HANDSHAKE, 3, 1, 0, 0], "an empty record"),
            (vec![HANDSHAKE, 3, 1, 0x40, 1], "a record that is too long"),
            (vec![HANDSHAKE, 2], "no version"),
            ([&records(&sample()[..9], 9)[..], &[21, 3, 3, 0, 2, 2, 0]].concat(), "an alert in between"),
            (records(&[&[CLIENT_HELLO, 0, 0x20, 0][..], &[0; 1000]].concat(), 1), "too many records"),
        ] {
            assert!(matches!(read(&input), Reading::Malformed(_)), "{what}: {:?}", read(&input));
        }
        assert_eq!(read(b"GET / HTTP/1.1"), Reading::NotTls);
        assert_eq!(read(b""), Reading::Partial);
    }

    #[test]
    fn addresses_are_no_names() {
        for address in ["192.0.2.1", "2001:db8::1"] {
            let Reading::Whole(found) = read(&records(&hello(&[name(address)]), 9000)) else { panic!() };
            assert_eq!(found.server_name, None, "{address}");
        }
    }

    #[test]
    fn a_hello_without_extensions_is_one() {
        let mut body = vec![3, 0];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0, 5, 1, 0]);
        let message = [&[CLIENT_HELLO, 0], &vector16(&body)[..]].concat();
        assert_eq!(read(&records(&message, 9000)), Reading::Whole(ClientHello::default()));
    }

    proptest! {
        #[test]
        fn nothing_panics(mut input in proptest::collection::vec(any::<u8>(), 0..600), forced in any::<bool>()) {
            if forced && input.len() > 9 {
                input[..6].copy_from_slice(&[HANDSHAKE, 3, 1, 2, 0, CLIENT_HELLO]);
            }
            let _ = read(&input);
        }

        #[test]
        fn one_wrong_byte_never_panics(at in 0usize..120, byte in any::<u8>(), size in 1usize..200) {
            let mut input = records(&sample(), size);
            let at = at % input.len();
            input[at] = byte;
            let _ = read(&input);
        }
    }
}

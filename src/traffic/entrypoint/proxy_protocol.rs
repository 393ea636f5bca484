//! The PROXY protocol, versions 1 and 2: the addresses that a load balancer in front of us tells.
//!
//! By hand, as what we need is small and must be incremental: whether more bytes are wanted is known after each byte,
//! nothing is allocated, and every length is bounded before it is waited for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Start of a version 2 header.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Start of a version 1 header.
const WORD: &[u8; 6] = b"PROXY ";
/// Longest version 1 header, its CRLF included.
const LINE_BYTES: usize = 107;
/// Longest version 2 header that we take; the addresses and the usual TLVs need a few hundred.
const HEADER_BYTES: usize = 4096;

/// What the start of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// More bytes are needed.
    Partial,
    /// No PROXY header: the bytes belong to the client.
    Absent,
    /// A header of `bytes` bytes, with the addresses it tells unless it tells none (LOCAL, UNKNOWN, UNSPEC, Unix).
    Present {
        /// Its length.
        bytes: usize,
        /// Caller and called.
        addresses: Option<(SocketAddr, SocketAddr)>,
    },
    /// A header that breaks the protocol.
    Malformed,
}

/// Reads the start of a connection.
pub(super) fn parse(bytes: &[u8]) -> Header {
    if is_start_of(bytes, SIGNATURE) {
        if bytes.len() < 16 { Header::Partial } else { version_2(bytes).unwrap_or(Header::Malformed) }
    } else if is_start_of(bytes, WORD) {
        version_1(bytes).unwrap_or(Header::Malformed)
    } else {
        Header::Absent
    }
}

/// Whether `bytes` starts with `mark`, as far as it goes.
fn is_start_of(bytes: &[u8], mark: &[u8]) -> bool {
    let shared = bytes.len().min(mark.len());
    bytes[..shared] == mark[..shared]
}

fn version_1(bytes: &[u8]) -> Option<Header> {
    let window = &bytes[..bytes.len().min(LINE_BYTES)];
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return (window.len() < LINE_BYTES).then_some(Header::Partial);
    };
    let line = std::str::from_utf8(bytes[..end].strip_suffix(b"\r")?).ok()?;
    let mut words = line.split(' ').skip(1);
    let addresses = match words.next()? {
        "TCP4" => Some(addresses::<Ipv4Addr>(&mut words)?),
        "TCP6" => Some(addresses::<Ipv6Addr>(&mut words)?),
        "UNKNOWN" => return Some(Header::Present { bytes: end + 1, addresses: None }),
        _ => return None,
    };
    words.next().is_none().then_some(Header::Present { bytes: end + 1, addresses })
}

/// Source address, destination address, source port, destination port.
fn addresses<'a, A: std::str::FromStr + Into<IpAddr>>(
    words: &mut impl Iterator<Item = &'a str>,
) -> Option<(SocketAddr, SocketAddr)> {
    let mut address = || words.next()?.parse::<A>().ok().map(Into::into);
    let (source, destination) = (address()?, address()?);
    let mut port = || {
        let text = words.next()?;
        let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
        if plain { text.parse::<u16>().ok() } else { None }
    };
    Some((SocketAddr::new(source, port()?), SocketAddr::new(destination, port()?)))
}

fn version_2(bytes: &[u8]) -> Option<Header> {
    let (command, family) = (bytes[12], bytes[13]);
    let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if command & 0xf0 != 0x20 || command & 0x0f > 1 || length > HEADER_BYTES - 16 {
        return None;
    }
    let end = 16 + length;
    let Some(body) = bytes.get(16..end) else { return Some(Header::Partial) };
    let is_local = command & 0x0f == 0;
    let (addresses, tlvs) = match family {
        _ if is_local => (None, None),
        0x11 => {
            let (block, tlvs) = body.split_first_chunk::<12>()?;
            let ip = |at: usize| Ipv4Addr::new(block[at], block[at + 1], block[at + 2], block[at + 3]).into();
            (Some((ip(0), ip(4), [block[8], block[9]], [block[10], block[11]])), Some(tlvs))
        }
        0x21 => {
            let (block, tlvs) = body.split_first_chunk::<36>()?;
            let (source, rest) = block.split_first_chunk::<16>()?;
            let (destination, ports) = rest.split_first_chunk::<16>()?;
            let ip = |octets: &[u8; 16]| IpAddr::from(Ipv6Addr::from(*octets));
            (Some((ip(source), ip(destination), [ports[0], ports[1]], [ports[2], ports[3]])), Some(tlvs))
        }
        // Unix sockets and datagrams tell no address that a TCP connection could have; UNSPEC tells none at all.
        0x31 | 0x32 => (None, Some(body.get(216..)?)),
        0x00 | 0x12 | 0x22 => (None, None),
        _ => return None,
    };
    if !tlvs.is_none_or(are_tlvs) {
        return None;
    }
    let addresses = addresses.map(|(source, destination, from, to)| {
        (SocketAddr::new(source, u16::from_be_bytes(from)), SocketAddr::new(destination, u16::from_be_bytes(to)))
    });
    Some(Header::Present { bytes: end, addresses })
}

/// Whether `bytes` is a row of type, length and value, to the last byte.
fn are_tlvs(mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let [_, high, low, rest @ ..] = bytes else { return false };
        let Some((_, next)) = rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low]))) else {
            return false;
        };
        bytes = next;
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn present(bytes: usize, addresses: Option<(&str, &str)>) -> Header {
        let parse = |text: &str| text.parse().unwrap();
        Header::Present { bytes, addresses: addresses.map(|(from, to)| (parse(from), parse(to))) }
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        header.extend(body);
        header
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 2, 0x30, 0x39, 0, 80];

    #[test]
    fn version_1_headers() {
        let addresses = Some(("192.0.2.1:12345", "192.0.2.2:80"));
        for (input, expected) in [
            ("PROXY TCP4 192.0.2.1 192.0.2.2 12345 80\r\nGET", present(41, addresses)),
            ("PROXY TCP6 2001:db8::1 ::1 1 65535\r\n", present(36, Some(("[2001:db8::1]:1", "[::1]:65535")))),
            ("PROXY UNKNOWN\r\n", present(15, None)),
            ("PROXY UNKNOWN ffff:f...f 1 2 3\r\n", present(32, None)),
            ("PROXY TCP4 192.0.2.1", Header::Partial),
            ("P", Header::Partial),
            ("", Header::Partial),
            ("POST / HTTP/1.1\r\n", Header::Absent),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 12345 80\n", Header::Malformed),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 12345\r\n", Header::Malformed),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 12345 80 9\r\n", Header::Malformed),
            ("PROXY TCP4 ::1 ::1 1 1\r\n", Header::Malformed),
            ("PROXY TCP4 192.0.2.01 192.0.2.2 1 1\r\n", Header::Malformed),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 +1 1\r\n", Header::Malformed),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 01 1\r\n", Header::Malformed),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 65536 1\r\n", Header::Malformed),
            ("PROXY UDP4 192.0.2.1 192.0.2.2 1 1\r\n", Header::Malformed),
        ] {
            assert_eq!(parse(input.as_bytes()), expected, "{input:?}");
        }
        assert_eq!(parse(format!("PROXY UNKNOWN {}\r\n", "x".repeat(120)).as_bytes()), Header::Malformed);
    }

    #[test]
    fn version_2_headers() {
        let addresses = Some(("192.0.2.1:12345", "192.0.2.2:80"));
        let mut v6 = [0; 36];
        v6[15] = 1;
        v6[31] = 2;
        v6[33] = 9;
        v6[35] = 80;
        let with_tlv = [&V4[..], &[0x04, 0, 2, 1, 2, 0x20, 0, 0]].concat();
        let bad_tlv = [&V4[..], &[0x04, 0, 9, 1, 2]].concat();
        for (input, expected) in [
            (v2(0x21, 0x11, &V4), present(28, addresses)),
            (v2(0x21, 0x21, &v6), present(52, Some(("[::1]:9", "[::2]:80")))),
            (v2(0x21, 0x11, &with_tlv), present(36, addresses)),
            (v2(0x20, 0x00, b""), present(16, None)),
            (v2(0x20, 0x11, b"anything"), present(24, None)),
            (v2(0x21, 0x00, b"anything"), present(24, None)),
            (v2(0x21, 0x31, &[0; 216]), present(232, None)),
            (v2(0x21, 0x11, &bad_tlv), Header::Malformed),
            (v2(0x21, 0x11, &V4[..11]), Header::Malformed),
            (v2(0x21, 0x41, &V4), Header::Malformed),
            (v2(0x22, 0x11, &V4), Header::Malformed),
            (v2(0x11, 0x11, &V4), Header::Malformed),
            (v2(0x21, 0x11, &[0; 5000]), Header::Malformed),
        ] {
            assert_eq!(parse(&input), expected, "{}", input.escape_ascii());
        }
    }

    #[test]
    fn a_header_is_partial_until_its_last_byte() {
        for input in [v2(0x21, 0x11, &V4), b"PROXY TCP4 192.0.2.1 192.0.2.2 12345 80\r\n".to_vec()] {
            for cut in 0..input.len() {
                assert_eq!(parse(&input[..cut]), Header::Partial, "{cut}");
            }
            assert!(matches!(parse(&input), Header::Present { .. }));
        }
    }

    proptest! {
        #[test]
        fn never_panics(input: Vec<u8>, command: u8, family: u8) {
            let _ = parse(&input);
            let _ = parse(&v2(command, family, &input));
        }
    }
}

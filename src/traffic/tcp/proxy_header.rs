//! The PROXY header that tells a server who the client is (HAProxy, "The PROXY protocol", sections 2.1 and 2.2).

use std::net::{IpAddr, SocketAddr};

use crate::service::tcp::transport::Version;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, a connection for somebody else.
const PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// The header for a connection of `client` to `local`.
pub(super) fn write(version: Version, client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let (from, to) = same_family(client.ip().to_canonical(), local.ip().to_canonical());
    match version {
        Version::V1 => {
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {from} {to} {} {}\r\n", client.port(), local.port()).into_bytes()
        }
        Version::V2 => {
            let mut header = SIGNATURE.to_vec();
            header.push(PROXY);
            match (from, to) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    header.extend_from_slice(&[TCP4, 0, 12]);
                    header.extend_from_slice(&from.octets());
                    header.extend_from_slice(&to.octets());
                }
                (from, to) => {
                    header.extend_from_slice(&[TCP6, 0, 36]);
                    header.extend_from_slice(&v6(from));
                    header.extend_from_slice(&v6(to));
                }
            }
            header.extend_from_slice(&client.port().to_be_bytes());
            header.extend_from_slice(&local.port().to_be_bytes());
            header
        }
    }
}

/// Both in one family: a header has only one.
fn same_family(from: IpAddr, to: IpAddr) -> (IpAddr, IpAddr) {
    if from.is_ipv4() == to.is_ipv4() { (from, to) } else { (v6(from).into(), v6(to).into()) }
}

fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_as_the_protocol_has_them() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (four, other) = (at("192.0.2.1:1234"), at("198.51.100.7:443"));
        assert_eq!(write(Version::V1, four, other), b"PROXY TCP4 192.0.2.1 198.51.100.7 1234 443\r\n");
        assert_eq!(
            write(Version::V2, four, other),
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x07\x04\xd2\x01\xbb"
        );
        let (six, local) = (at("[2001:db8::1]:1234"), at("[2001:db8::2]:443"));
        assert_eq!(write(Version::V1, six, local), b"PROXY TCP6 2001:db8::1 2001:db8::2 1234 443\r\n");
        assert_eq!(write(Version::V2, six, local).len(), 16 + 36);
        assert_eq!(
            write(Version::V1, at("[::ffff:192.0.2.1]:1"), other),
            b"PROXY TCP4 192.0.2.1 198.51.100.7 1 443\r\n"
        );
        let mixed = write(Version::V1, six, other);
        assert_eq!(mixed, b"PROXY TCP6 2001:db8::1 ::ffff:198.51.100.7 1234 443\r\n");
    }
}

//! Sets of networks: `10.0.0.0/8`, `::1`.

use std::net::IpAddr;

use ipnet::IpNet;

/// A set of networks and single addresses.
///
/// IPv4-mapped IPv6 addresses count as the IPv4 address that they carry, on both sides. Lists of whole countries have
/// thousands of networks, so the set is kept as ranges: looking an address up takes a few steps, however many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

/// First and last address of each block, sorted.
type Ranges<T> = Box<[(T, T)]>;

impl Networks {
    /// Reads addresses and CIDR blocks.
    ///
    /// # Errors
    /// The index of each entry that is neither, and a sentence about it.
    pub fn parse<S: AsRef<str>>(entries: &[S]) -> Result<Self, Vec<(usize, String)>> {
        let (mut v4, mut v6, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
        for (index, entry) in entries.iter().enumerate() {
            match parse_network(entry.as_ref()) {
                Ok(IpNet::V4(net)) => v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                Ok(IpNet::V6(net)) => v6.push((net.network().to_bits(), net.broadcast().to_bits())),
                Err(message) => wrong.push((index, message)),
            }
        }
        if wrong.is_empty() { Ok(Self { v4: merged(v4), v6: merged(v6) }) } else { Err(wrong) }
    }

    /// Whether `address` is in any of the networks.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(v4) => is_in(&self.v4, v4.to_bits()),
            IpAddr::V6(v6) => is_in(&self.v6, v6.to_bits()),
        }
    }

    /// Whether the set has no network at all.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// Two blocks are apart, or one is within the other. Those within one that stands before them are left out, so that the last one
/// that begins before an address is the one to ask.
fn merged<T: Ord + Copy>(mut ranges: Vec<(T, T)>) -> Ranges<T> {
    ranges.sort_unstable();
    ranges.dedup_by(|(_, last), (_, end)| *last <= *end);
    ranges.into()
}

fn is_in<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    after.checked_sub(1).is_some_and(|at| address <= ranges[at].1)
}

/// Reads one address or CIDR block.
///
/// # Errors
/// A sentence about what is expected.
pub fn parse_network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let network = match text.parse::<IpNet>() {
        Ok(network) => network,
        Err(_) => match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => return Err(format!("`{text}` is not an IP address or CIDR block like `10.0.0.0/8`")),
        },
    };
    Ok(match network {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.addr().to_ipv4_mapped() {
            Some(v4) => ipnet::Ipv4Net::new(v4, v6.prefix_len() - 96).map_or(network, IpNet::V4),
            None => network,
        },
        _ => network,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn holds_networks_addresses_and_mapped_forms() {
        let networks = Networks::parse(&["10.0.0.0/8", "::1", "192.0.2.7", "::ffff:198.51.100.0/120"]).unwrap();
        for (address, expected) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.1", false),
            ("::1", true),
            ("::2", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("198.51.100.9", true),
        ] {
            assert_eq!(networks.contains(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn everything_is_a_network_too() {
        let check = |entry: &str, v4: bool, v6: bool| {
            let networks = Networks::parse(&[entry]).unwrap();
            for address in ["0.0.0.0", "255.255.255.255"] {
                assert_eq!(networks.contains(address.parse().unwrap()), v4, "{entry} {address}");
            }
            for address in ["::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
                assert_eq!(networks.contains(address.parse().unwrap()), v6, "{entry} {address}");
            }
        };
        check("0.0.0.0/0", true, false);
        check("::/0", false, true);
        check("::ffff:0:0/96", true, false);
    }

    proptest! {
        #[test]
        fn looking_up_is_asking_each(
            blocks in prop::collection::vec((any::<u32>(), 0..=32u8), 0..40), v6: bool, addresses: [u32; 16],
        ) {
            // Close together, so that blocks meet and lie within each other.
            let address = |bits: u32| match v6 {
                false => IpAddr::from((bits & 0xff00_00ff).to_be_bytes()),
                true => IpAddr::from((u128::from(bits & 0xff00_00ff) << 90).to_be_bytes()),
            };
            let entries: Vec<_> = blocks.iter().map(|(bits, length)| format!("{}/{length}", address(*bits))).collect();
            let networks = Networks::parse(&entries).unwrap();
            let each: Vec<IpNet> = entries.iter().map(|entry| entry.parse().unwrap()).collect();
            let ends = each.iter().flat_map(|net| [net.network(), net.broadcast()]);
            for asked in addresses.map(address).into_iter().chain(ends) {
                let expected = each.iter().any(|net| net.contains(&asked));
                prop_assert_eq!(networks.contains(asked), expected, "{} in {:?}", asked, entries);
            }
        }
    }

    #[test]
    fn names_the_entry_that_is_wrong() {
        assert_eq!(Networks::parse(&["10.0.0.0/8", "10.0.0.0/33"]).unwrap_err()[0].0, 1);
        assert_eq!(Networks::parse(&["010.0.0.1"]).unwrap_err()[0].0, 0);
    }
}

//! Sets of networks: `10.0.0.0/8`, `::1`.

use std::net::IpAddr;

use ipnet::IpNet;

/// A set of networks and single addresses.
///
/// IPv4-mapped IPv6 addresses count as the IPv4 address that they carry, on both sides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    networks: Box<[IpNet]>,
}

impl Networks {
    /// Reads addresses and CIDR blocks.
    ///
    /// # Errors
    /// The index of the first entry that is neither, and a sentence about it.
    pub fn parse<S: AsRef<str>>(entries: &[S]) -> Result<Self, (usize, String)> {
        entries
            .iter()
            .enumerate()
            .map(|(index, entry)| parse_network(entry.as_ref()).map_err(|message| (index, message)))
            .collect::<Result<Vec<_>, _>>()
            .map(|networks| Self { networks: networks.into() })
    }

    /// Whether `address` is in any of the networks.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// Whether the set has no network at all.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }
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
    fn names_the_entry_that_is_wrong() {
        assert_eq!(Networks::parse(&["10.0.0.0/8", "10.0.0.0/33"]).unwrap_err().0, 1);
        assert_eq!(Networks::parse(&["010.0.0.1"]).unwrap_err().0, 0);
    }
}

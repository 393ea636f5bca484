//! Where an entry point listens: `[host]:port[/tcp|/udp]`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `[host]:port[/tcp|/udp]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Name or address to listen at, IPv6 without its brackets; empty means all of them.
    pub host: Box<str>,
    /// Port; 0 lets the system choose.
    pub port: u16,
    /// What is spoken below the application.
    pub protocol: Protocol,
}

/// What an entry point's address carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// Streams.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
}

impl Address {
    /// All interfaces at `port`, over TCP.
    pub fn any(port: u16) -> Self {
        Self { host: "".into(), port, protocol: Protocol::Tcp }
    }

    /// Reads `[host]:port[/tcp|/udp]`.
    ///
    /// # Errors
    /// A sentence about what is expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (address, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((address, protocol)) if protocol.eq_ignore_ascii_case("tcp") => (address, Protocol::Tcp),
            Some((address, protocol)) if protocol.eq_ignore_ascii_case("udp") => (address, Protocol::Udp),
            Some((_, protocol)) => return Err(format!("`{protocol}` is not a protocol, expected `tcp` or `udp`")),
        };
        let Some((host, port)) = address.rsplit_once(':') else {
            return Err(format!("`{text}` has no port, expected a form like `:80` or `127.0.0.1:8080`"));
        };
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(inner) => inner,
            None if host.contains([':', '[', ']']) => {
                return Err(format!("`{text}` is ambiguous, write an IPv6 address in brackets: `[::1]:80`"));
            }
            None => host,
        };
        if host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(format!("`{text}` has a space in its host"));
        }
        let port = port.parse().map_err(|_| format!("`{port}` is not a port, expected 0 to 65535"))?;
        Ok(Self { host: host.into(), port, protocol })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port)?,
            false => write!(f, "{}:{}", self.host, self.port)?,
        }
        match self.protocol {
            Protocol::Tcp => Ok(()),
            Protocol::Udp => f.write_str("/udp"),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_port_protocol() {
        for (text, host, port, protocol) in [
            (":80", "", 80, Protocol::Tcp),
            ("0.0.0.0:0", "0.0.0.0", 0, Protocol::Tcp),
            ("[::1]:8080/tcp", "::1", 8080, Protocol::Tcp),
            ("localhost:53/UDP", "localhost", 53, Protocol::Udp),
        ] {
            let expected = Address { host: host.into(), port, protocol };
            assert_eq!(Address::parse(text), Ok(expected.clone()), "{text}");
            assert_eq!(Address::parse(&expected.to_string()), Ok(expected), "{text}");
        }
    }

    #[test]
    fn other_addresses_are_refused_with_a_reason() {
        for (text, reason) in [
            ("80", "`80` has no port, expected a form like `:80` or `127.0.0.1:8080`"),
            (":80/sctp", "`sctp` is not a protocol, expected `tcp` or `udp`"),
            (":99999", "`99999` is not a port, expected 0 to 65535"),
            ("::1:80", "`::1:80` is ambiguous, write an IPv6 address in brackets: `[::1]:80`"),
            ("", "`` has no port, expected a form like `:80` or `127.0.0.1:8080`"),
        ] {
            assert_eq!(Address::parse(text), Err(reason.to_owned()));
        }
    }
}

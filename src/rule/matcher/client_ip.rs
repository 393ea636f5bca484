//! `ClientIP`: the address of the connection's peer, whatever headers claim.

use std::borrow::Cow;

use ipnet::IpNet;

use crate::exchange::RequestView;
use crate::units::network::parse_network;

use super::{Matcher, argument};

/// `ClientIP(n)`: the peer is `n`, an address or a CIDR block.
#[derive(Clone, Debug)]
pub struct ClientIp(Box<IpNet>);

impl Matcher for ClientIp {
    const NAME: &'static str = "ClientIP";
    const PARAMETERS: &'static [&'static str] = &["address"];

    fn parse(arguments: &[String]) -> Result<Self, String> {
        parse_network(argument(arguments, 0)).map(Box::new).map(Self)
    }

    fn matches(&self, request: &RequestView<'_>) -> bool {
        self.0.contains(&request.client.to_canonical())
    }

    fn arguments(&self) -> Vec<Cow<'_, str>> {
        let network =
            if self.0.prefix_len() == self.0.max_prefix_len() { self.0.addr().to_string() } else { self.0.to_string() };
        vec![Cow::Owned(network)]
    }

    fn sees(&self, request: &RequestView<'_>) -> String {
        format!("the client is {}", request.client.to_canonical())
    }
}

#[cfg(test)]
mod tests {
    use crate::rule::tests::{check_client, check_refused};

    #[test]
    fn the_peer_is_in_the_network() {
        for (rule, client, expected) in [
            ("ClientIP(`10.0.0.0/8`)", "10.1.2.3", true),
            ("ClientIP(`10.0.0.0/8`)", "11.1.2.3", false),
            ("ClientIP(`10.1.2.3`)", "10.1.2.3", true),
            ("ClientIP(`10.1.2.3`)", "::ffff:10.1.2.3", true),
            ("ClientIP(`::ffff:10.0.0.0/104`)", "10.1.2.3", true),
            ("ClientIP(`2001:db8::/32`)", "2001:db8::1", true),
            ("ClientIP(`2001:db8::/32`)", "10.1.2.3", false),
            ("!ClientIP(`::/0`)", "10.1.2.3", true),
        ] {
            check_client(rule, client, expected);
        }
        check_refused("ClientIP(`10.0.0.0/33`)", "CIDR");
        check_refused("ClientIP(`localhost`)", "CIDR");
    }
}

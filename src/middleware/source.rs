//! Who shares a limit: the client's address, a header's value, or the host that was asked for.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;

use http::header::HeaderName;
use pingora::http::RequestHeader;
use serde::{Deserialize, Serialize};

use super::fingerprint::fingerprint;
use crate::exchange::view::canonical_host;
use crate::exchange::{Client, Exchange};
use crate::problem::{Problem, Problems, all};
use crate::units::Networks;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// By what requests are told apart. Exactly one of the three may be set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CriterionSettings {
    /// By the client's address; empty for the address of the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_strategy: Option<IpStrategySettings>,
    /// By the value of this request header. Requests without it share one source.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub request_header_name: String,
    /// By the host that the request names.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub request_host: bool,
}

/// Whose requests are counted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Scope {
    /// Those of one router.
    #[default]
    Router,
    /// Those of all routers that use the middleware.
    Middleware,
}

/// Which address is the client's.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct IpStrategySettings {
    /// Takes the n-th address of `X-Forwarded-For`, counted from the right. 0: the address of the connection.
    #[serde(skip_serializing_if = "is_zero")]
    pub depth: i64,
    /// Takes the first address of `X-Forwarded-For`, from the right, that is in none of these networks. Without effect if
    /// `depth` is set.
    #[serde(rename = "excludedIPs", skip_serializing_if = "Vec::is_empty")]
    pub excluded_ips: Vec<String>,
    /// Takes all IPv6 addresses with this many leading bits in common for one; 1 to 128.
    #[serde(rename = "ipv6Subnet", skip_serializing_if = "Option::is_none")]
    pub ipv6_subnet: Option<i64>,
}

const fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl CriterionSettings {
    /// What is written but does nothing.
    pub(crate) fn warnings(&self) -> Vec<Problem> {
        let found = self.ip_strategy.as_ref().and_then(IpStrategySettings::warning);
        found.map(|problem| problem.under("ipStrategy")).into_iter().collect()
    }
}

impl IpStrategySettings {
    /// What is written but does nothing.
    pub(crate) fn warning(&self) -> Option<Problem> {
        (self.depth > 0 && !self.excluded_ips.is_empty()).then(|| {
            Problem::warning("excludedIPs", "has no effect because `depth` is set").with_help("keep one of them")
        })
    }
}

/// Finds the client's address.
#[derive(Clone, Debug)]
pub struct IpStrategy {
    pick: Pick,
    ipv6_prefix: Option<u32>,
}

#[derive(Clone, Debug)]
enum Pick {
    Peer,
    Depth(NonZeroUsize),
    FirstOutside(Networks),
}

impl IpStrategy {
    /// The address of the connection.
    pub const PEER: Self = Self { pick: Pick::Peer, ipv6_prefix: None };

    /// Builds it.
    ///
    /// # Errors
    /// Problems whose paths are relative to the strategy.
    pub fn build(settings: &IpStrategySettings) -> Result<Self, Problems> {
        let ipv6_prefix = match settings.ipv6_subnet {
            None => Ok(None),
            Some(bits @ 1..=128) => Ok(Some(bits as u32)),
            Some(bits) => Err(Problem::at("ipv6Subnet", format!("{bits} is not a prefix length from 1 to 128"))),
        };
        let depth = usize::try_from(settings.depth)
            .map_err(|_| Problem::at("depth", format!("{} is negative", settings.depth)));
        let excluded = networks("excludedIPs", &settings.excluded_ips);
        let (ipv6_prefix, depth, excluded) = all((ipv6_prefix, depth, excluded))?;
        let pick = match NonZeroUsize::new(depth) {
            Some(depth) => Pick::Depth(depth),
            None if excluded.is_empty() => Pick::Peer,
            None => Pick::FirstOutside(excluded),
        };
        Ok(Self { pick, ipv6_prefix })
    }

    /// The client's address; `None` if `X-Forwarded-For` does not hold one at that place, or comes from a peer that is not
    /// trusted with it.
    pub fn address(&self, request: &RequestHeader, client: &Client) -> Option<IpAddr> {
        let address = match &self.pick {
            Pick::Peer => client.address(),
            Pick::Depth(depth) => forwarded(request, client).nth(depth.get() - 1).and_then(parse_address)?,
            Pick::FirstOutside(networks) => forwarded(request, client)
                .filter(|text| !text.is_empty())
                .map(parse_address)
                // What is no address is in no network: it ends the search, and is nobody.
                .find(|address| address.is_none_or(|address| !networks.contains(address)))??,
        };
        Some(match (address, self.ipv6_prefix) {
            (IpAddr::V6(v6), Some(bits)) => IpAddr::V6((v6.to_bits() & (u128::MAX << (128 - bits))).into()),
            _ => address,
        })
    }
}

/// The networks of a list that stands at `path`.
///
/// # Errors
/// Each entry that is none.
pub(super) fn networks(path: &str, list: &[String]) -> Result<Networks, Problems> {
    Networks::parse(list).map_err(|wrong| {
        wrong.into_iter().map(|(index, message)| Problem::at(format!("{path}[{index}]"), message)).collect()
    })
}

/// The entries of `X-Forwarded-For` over all its lines, from the right.
fn forwarded<'a>(request: &'a RequestHeader, client: &Client) -> impl Iterator<Item = &'a [u8]> {
    let values = client.trusted.then(|| request.headers.get_all(FORWARDED_FOR).iter().rev());
    values.into_iter().flatten().flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

/// An address as proxies write it: bare, in brackets, with a port, with a zone (which is local to its host and dropped).
fn parse_address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address.ip().to_canonical());
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let (bare, zone) = bare.split_once('%').unwrap_or((bare, "-"));
    match bare.parse::<IpAddr>() {
        Ok(address @ IpAddr::V6(_)) if !zone.is_empty() => Some(address.to_canonical()),
        _ => None,
    }
}

/// Tells requests apart.
#[derive(Clone, Debug)]
pub enum Criterion {
    /// By address.
    Address(IpStrategy),
    /// By the first value of a header.
    Header(HeaderName),
    /// By host.
    Host,
}

impl Criterion {
    /// Builds it; `default` stands in where nothing is written.
    ///
    /// # Errors
    /// Problems whose paths are relative to the middleware that has the criterion.
    pub fn build(settings: Option<&CriterionSettings>, default: Self) -> Result<Self, Problems> {
        let Some(settings) = settings else { return Ok(default) };
        let has_header = !settings.request_header_name.is_empty();
        match (&settings.ip_strategy, has_header, settings.request_host) {
            (None, false, false) => Ok(default),
            (Some(strategy), false, false) => IpStrategy::build(strategy)
                .map(Self::Address)
                .map_err(|problems| problems.under("sourceCriterion.ipStrategy")),
            (None, true, false) => HeaderName::from_bytes(settings.request_header_name.as_bytes())
                .map(Self::Header)
                .map_err(|_| Problem::at("sourceCriterion.requestHeaderName", "is not a header name").into()),
            (None, false, true) => Ok(Self::Host),
            _ => Err(Problem::at("sourceCriterion", "more than one criterion is set")
                .with_help("keep one of ipStrategy, requestHeaderName and requestHost")
                .into()),
        }
    }

    /// Whom the request counts for: a number that only requests of the same source share. Addresses that cannot be told
    /// count as one source, as do requests without the header.
    pub fn source(&self, request: &RequestHeader, exchange: &Exchange) -> u128 {
        match self {
            Self::Address(strategy) => match strategy.address(request, &exchange.client) {
                Some(IpAddr::V4(v4)) => v4.to_ipv6_mapped().to_bits(),
                Some(IpAddr::V6(v6)) => v6.to_bits(),
                None => 0,
            },
            Self::Header(name) => match request.headers.get(name) {
                Some(value) => fingerprint(&[value.as_bytes()]),
                None => 0,
            },
            Self::Host => match exchange.original.host.to_str() {
                Ok(host) => fingerprint(&[canonical_host(host).as_bytes()]),
                Err(_) => fingerprint(&[exchange.original.host.as_bytes()]),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::sample;

    fn strategy(json: &str) -> Result<IpStrategy, String> {
        IpStrategy::build(&serde_json::from_str(json).unwrap()).map_err(|problem| problem.to_string())
    }

    fn check(settings: &str, forwarded: &[&str], expected: Option<&str>) {
        let mut request = sample::request("GET", "/");
        for value in forwarded {
            request.append_header("X-Forwarded-For", *value).unwrap();
        }
        let client = Client { trusted: true, ..sample::client("[::ffff:192.0.2.1]:4000") };
        let found = strategy(settings).unwrap().address(&request, &client);
        assert_eq!(found, expected.map(|text| text.parse().unwrap()), "{settings} {forwarded:?}");
    }

    #[test]
    fn finds_the_address() {
        for (settings, forwarded, expected) in [
            ("{}", &["10.0.0.9"][..], Some("192.0.2.1")),
            (r#"{"depth":1}"#, &["10.0.0.1, 10.0.0.2"], Some("10.0.0.2")),
            (r#"{"depth":2}"#, &["10.0.0.1, 10.0.0.2"], Some("10.0.0.1")),
            (r#"{"depth":3}"#, &["10.0.0.1, 10.0.0.2"], None),
            (r#"{"depth":3}"#, &["10.0.0.1, 10.0.0.2", "10.0.0.3"], Some("10.0.0.1")),
            (r#"{"depth":1}"#, &[], None),
            (r#"{"depth":1}"#, &["::ffff:10.0.0.2"], Some("10.0.0.2")),
            (r#"{"depth":1}"#, &["10.0.0.2:80"], Some("10.0.0.2")),
            (r#"{"depth":1}"#, &["[2001:db8::1]:80"], Some("2001:db8::1")),
            (r#"{"depth":1}"#, &["[2001:db8::1]"], Some("2001:db8::1")),
            (r#"{"depth":1}"#, &["fe80::1%eth0"], Some("fe80::1")),
            (r#"{"depth":1}"#, &["10.0.0.1%eth0"], None),
            (r#"{"depth":1}"#, &["010.0.0.1"], None),
            (r#"{"depth":1}"#, &["unknown"], None),
            (r#"{"depth":1}"#, &["10.0.0.1,"], None),
            (r#"{"depth":1,"ipv6Subnet":64}"#, &["2001:db8:1:2:3:4:5:6"], Some("2001:db8:1:2::")),
            (r#"{"depth":1,"ipv6Subnet":128}"#, &["2001:db8::6"], Some("2001:db8::6")),
            (r#"{"depth":1,"ipv6Subnet":8}"#, &["10.1.2.3"], Some("10.1.2.3")),
            (r#"{"excludedIPs":["10.0.0.0/8"]}"#, &["192.0.2.7, 10.1.1.1", "10.2.2.2,,"], Some("192.0.2.7")),
            (r#"{"excludedIPs":["10.0.0.0/8"]}"#, &["::ffff:10.1.1.1"], None),
            (r#"{"excludedIPs":["10.0.0.0/8"]}"#, &["192.0.2.7, garbage, 10.1.1.1"], None),
            (r#"{"excludedIPs":["10.0.0.0/8"]}"#, &[], None),
        ] {
            check(settings, forwarded, expected);
        }
    }

    #[test]
    fn a_peer_without_trust_cannot_name_an_address() {
        let mut request = sample::request("GET", "/");
        request.append_header("X-Forwarded-For", "10.0.0.2").unwrap();
        let address = strategy(r#"{"depth":1}"#).unwrap().address(&request, &sample::client("192.0.2.1:4000"));
        assert_eq!(address, None);
    }

    #[test]
    fn refuses_what_cannot_be() {
        for (json, part) in [
            (r#"{"depth":-1}"#, "depth: -1 is negative"),
            (r#"{"ipv6Subnet":0}"#, "ipv6Subnet: 0 is not"),
            (r#"{"ipv6Subnet":129}"#, "ipv6Subnet: 129 is not"),
            (r#"{"excludedIPs":["10.0.0.0/8","x"]}"#, "excludedIPs[1]: `x` is not an IP address"),
        ] {
            let problem = strategy(json).unwrap_err();
            assert!(problem.contains(part), "{json}: {problem}");
        }
    }

    fn criterion(json: &str) -> Result<Criterion, String> {
        let settings: CriterionSettings = serde_json::from_str(json).unwrap();
        Criterion::build(Some(&settings), Criterion::Host).map_err(|problem| problem.to_string())
    }

    #[test]
    fn one_criterion_or_the_default() {
        assert!(matches!(criterion("{}"), Ok(Criterion::Host)));
        assert!(matches!(criterion(r#"{"ipStrategy":{}}"#), Ok(Criterion::Address(_))));
        assert!(matches!(criterion(r#"{"requestHeaderName":"X-Key"}"#), Ok(Criterion::Header(_))));
        assert!(matches!(Criterion::build(None, Criterion::Host), Ok(Criterion::Host)));
        for (json, part) in [
            (r#"{"ipStrategy":{},"requestHost":true}"#, "sourceCriterion: more than one"),
            (r#"{"requestHeaderName":"a","requestHost":true}"#, "sourceCriterion: more than one"),
            (r#"{"requestHeaderName":"a b"}"#, "requestHeaderName: is not"),
            (r#"{"ipStrategy":{"depth":-2}}"#, "sourceCriterion.ipStrategy.depth: -2"),
        ] {
            let problem = criterion(json).unwrap_err();
            assert!(problem.contains(part), "{json}: {problem}");
        }
    }

    #[test]
    fn equal_sources_have_equal_numbers() {
        let host = |name| Criterion::Host.source(&sample::request("GET", "/"), &sample::exchange_for("GET", name));
        assert_eq!(host("Example.com:80"), host("example.com."));
        assert_ne!(host("example.com"), host("example.org"));
        let key = criterion(r#"{"requestHeaderName":"X-Key"}"#).unwrap();
        let with = |value| {
            let mut request = sample::request("GET", "/");
            request.insert_header("x-key", value).unwrap();
            key.source(&request, &sample::exchange())
        };
        assert_eq!(with("a"), with("a"));
        assert_ne!(with("a"), with("b"));
        assert_eq!(key.source(&sample::request("GET", "/"), &sample::exchange()), 0);
    }
}

//! Rules of TCP routers: what a connection says of itself before its first byte is passed on.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::matcher::host::{ascii, parent_domain};
use super::matcher::template::host_pattern;
use super::parser::{self, Call};
use super::predicate::Predicate;
use super::{RuleError, Syntax, is_spelling_of, nearest};
use crate::exchange::ConnectionView;
use crate::units::Pattern;
use crate::units::network::parse_network;

/// Names of the matchers.
const NAMES: [&str; 4] = ["HostSNI", "HostSNIRegexp", "ClientIP", "ALPN"];
/// A protocol that is never a router's: it proves names to ACME servers.
const ACME: &str = "acme-tls/1";

/// When a TCP router takes a connection.
#[derive(Clone, Debug)]
pub struct ConnectionRule {
    predicate: Predicate<ConnectionMatcher>,
}

/// One condition on a connection.
#[derive(Clone, Debug)]
pub enum ConnectionMatcher {
    /// `HostSNI(n)`: the client asks for `n`; `*` is anybody, `*.d` any one label before `d`. Lower case.
    HostSni(Box<str>),
    /// `HostSNIRegexp(re)`, and how it was written.
    HostSniRegexp(Box<(Pattern, Box<str>)>),
    /// `ClientIP(n)`: the peer is `n`, an address or a CIDR block.
    ClientIp(IpNet),
    /// `ALPN(p)`: the client offers the protocol `p`.
    Alpn(Box<str>),
}

/// Names that a connection must ask for to meet a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked<'r> {
    /// One of these; `*.` stands for one label.
    For(Vec<&'r str>),
    /// Any, or none.
    Anything,
}

impl ConnectionRule {
    /// Reads a rule.
    ///
    /// # Errors
    /// What is wrong and where, in order; at least one.
    pub fn parse(text: &str, syntax: Syntax) -> Result<Self, Vec<RuleError>> {
        let build = |call: Call| {
            let Some(name) = NAMES.iter().find(|name| is_spelling_of(&call.name, name)) else {
                let error = RuleError::new(call.column, format!("unknown matcher `{}`", call.name));
                return Err(match nearest(&call.name, &NAMES) {
                    Some(near) => error.with_help(format!("did you mean `{near}`?")),
                    None => error.with_help(format!("there are: {}", NAMES.join(", "))),
                });
            };
            let arguments = &call.arguments;
            let is_counted = match syntax {
                Syntax::V3 => arguments.len() == 1,
                Syntax::V2 => !arguments.is_empty(),
            };
            if !is_counted {
                let message = format!("`{name}` takes 1 parameter, not {}", arguments.len());
                return Err(RuleError::new(call.column, message));
            }
            let terms =
                arguments.iter().map(|argument| ConnectionMatcher::build(name, argument, syntax).map(Predicate::Is));
            let terms = terms.collect::<Result<Vec<_>, _>>();
            terms.map(Predicate::any).map_err(|message| RuleError::new(call.column, message))
        };
        parser::parse(text, &build).map(|predicate| Self { predicate })
    }

    /// Whether the connection meets the rule.
    pub fn matches(&self, connection: &ConnectionView<'_>) -> bool {
        self.predicate.test(&|matcher| matcher.matches(connection))
    }

    /// What the connection fails at, for people. `None`: it meets the rule.
    pub fn first_failure(&self, connection: &ConnectionView<'_>) -> Option<String> {
        let failed = self.predicate.first_failure(&|matcher| matcher.matches(connection))?;
        let name = connection.server_name.map_or("no name is asked for".to_owned(), |name| format!("name is `{name}`"));
        let offered =
            connection.protocols.iter().map(|name| String::from_utf8_lossy(name)).collect::<Vec<_>>().join(", ");
        let said = match failed.matchers().next()?.0 {
            ConnectionMatcher::HostSni(_) | ConnectionMatcher::HostSniRegexp(_) => name,
            ConnectionMatcher::ClientIp(_) => format!("client is {}", connection.client),
            ConnectionMatcher::Alpn(_) if offered.is_empty() => "no protocol is offered".to_owned(),
            ConnectionMatcher::Alpn(_) => format!("offered are {offered}"),
        };
        Some(format!("{failed}: {said}"))
    }

    /// Whether it is ``HostSNI(`*`)`` and nothing else: such a router takes what nobody else wants.
    pub fn is_catch_all(&self) -> bool {
        matches!(&self.predicate, Predicate::Is(ConnectionMatcher::HostSni(name)) if &**name == "*")
    }

    /// Whether it looks at the name or the protocols of a ClientHello, which only TLS has.
    pub fn needs_tls(&self) -> bool {
        self.predicate.matchers().any(|(matcher, _)| match matcher {
            ConnectionMatcher::HostSni(name) => &**name != "*",
            ConnectionMatcher::HostSniRegexp(_) | ConnectionMatcher::Alpn(_) => true,
            ConnectionMatcher::ClientIp(_) => false,
        })
    }

    /// The names that it asks for, not those it excludes, in the order they are written.
    pub fn names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for (matcher, wanted) in self.predicate.matchers() {
            if let ConnectionMatcher::HostSni(name) = matcher
                && wanted
                && &**name != "*"
                && !names.contains(&&**name)
            {
                names.push(&**name);
            }
        }
        names
    }

    /// What an index may know of it: who does not ask for one of these does not meet it.
    pub fn asked(&self) -> Asked<'_> {
        asked(&self.predicate).map_or(Asked::Anything, Asked::For)
    }
}

fn asked(predicate: &Predicate<ConnectionMatcher>) -> Option<Vec<&str>> {
    match predicate {
        Predicate::Is(ConnectionMatcher::HostSni(name)) if &**name != "*" => Some(vec![name]),
        Predicate::Is(_) | Predicate::Not(_) => None,
        Predicate::All(terms) => terms.iter().find_map(asked),
        Predicate::Any(terms) => {
            let each = terms.iter().map(asked).collect::<Option<Vec<_>>>()?;
            Some(each.into_iter().flatten().collect())
        }
    }
}

impl ConnectionMatcher {
    fn build(name: &str, argument: &str, syntax: Syntax) -> Result<Self, String> {
        match name {
            "HostSNI" => {
                let domain = ascii(argument)?;
                let literal = domain.strip_prefix("*.").unwrap_or(domain);
                if domain != "*" && (literal.contains('*') || literal.parse::<IpAddr>().is_ok()) {
                    return Err(format!("no client asks for `{domain}`: `*` stands alone or as the first label"));
                }
                Ok(Self::HostSni(domain.strip_suffix('.').unwrap_or(domain).to_ascii_lowercase().into()))
            }
            "HostSNIRegexp" => {
                let text = ascii(argument)?;
                let pattern = match syntax {
                    Syntax::V2 => host_pattern(text)?,
                    Syntax::V3 => Pattern::new(text)?,
                };
                Ok(Self::HostSniRegexp(Box::new((pattern, text.into()))))
            }
            "ClientIP" => parse_network(argument).map(Self::ClientIp),
            _ if argument == ACME => Err(format!("`{ACME}` is kept for proofs to ACME servers")),
            _ => Ok(Self::Alpn(argument.into())),
        }
    }

    fn matches(&self, connection: &ConnectionView<'_>) -> bool {
        match self {
            Self::HostSni(name) => match (name.strip_prefix('*'), connection.server_name) {
                (Some(""), _) => true,
                (Some(rest), Some(asked)) => parent_domain(asked) == rest.strip_prefix('.'),
                (None, Some(asked)) => asked == &**name,
                (_, None) => false,
            },
            Self::HostSniRegexp(pattern) => pattern.0.is_match(connection.server_name.unwrap_or_default()),
            Self::ClientIp(network) => network.contains(&connection.client.to_canonical()),
            Self::Alpn(protocol) => connection.protocols.iter().any(|offered| **offered == *protocol.as_bytes()),
        }
    }
}

impl fmt::Display for ConnectionMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostSni(name) => write!(f, "HostSNI(`{name}`)"),
            Self::HostSniRegexp(pattern) => write!(f, "HostSNIRegexp(`{}`)", pattern.1),
            Self::ClientIp(network) => write!(f, "ClientIP(`{network}`)"),
            Self::Alpn(protocol) => write!(f, "ALPN(`{protocol}`)"),
        }
    }
}

impl fmt::Display for ConnectionRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.predicate.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: &str, name: Option<&str>, protocols: &[&str], client: &str, expected: bool) {
        let protocols: Vec<Box<[u8]>> = protocols.iter().map(|name| name.as_bytes().into()).collect();
        let view = ConnectionView { server_name: name, protocols: &protocols, client: client.parse().unwrap() };
        let rule = ConnectionRule::parse(rule, Syntax::V3).unwrap_or_else(|errors| panic!("{rule}: {errors:?}"));
        assert_eq!(rule.matches(&view), expected, "{rule} {view:?}");
    }

    #[test]
    fn names_protocols_and_addresses_are_looked_at() {
        for (rule, name, expected) in [
            ("HostSNI(`*`)", None, true),
            ("HostSNI(`*`)", Some("a.b"), true),
            ("HostSNI(`A.b.`)", Some("a.b"), true),
            ("HostSNI(`a.b`)", None, false),
            ("HostSNI(`a.b`)", Some("x.a.b"), false),
            ("HostSNI(`*.a.b`)", Some("x.a.b"), true),
            ("HostSNI(`*.a.b`)", Some("a.b"), false),
            ("HostSNI(`*.a.b`)", Some("y.x.a.b"), false),
            ("!HostSNI(`a.b`)", None, true),
            ("HostSNIRegexp(`^x[0-9]+\\.a$`)", Some("x12.a"), true),
            ("HostSNIRegexp(`^x`)", Some("ax"), false),
            ("HostSNI(`a`) && ClientIP(`10.0.0.0/8`)", Some("a"), true),
            ("HostSNI(`a`) && !ClientIP(`10.0.0.0/8`)", Some("a"), false),
            ("hostsni(`a`) || HOSTSNI(`b`)", Some("b"), true),
            ("ALPN(`h2`)", None, true),
            ("ALPN(`imap`)", None, false),
        ] {
            check(rule, name, &["h2", "http/1.1"], "10.1.2.3", expected);
        }
    }

    #[test]
    fn the_older_syntax_has_lists_and_templates() {
        let rule = ConnectionRule::parse("HostSNI(`a`, `b`) || HostSNIRegexp(`{sub:[a-z]+}.c`)", Syntax::V2).unwrap();
        for (name, expected) in [("a", true), ("b", true), ("x.c", true), ("1.c", false), ("c", false)] {
            let view = ConnectionView { server_name: Some(name), protocols: &[], client: [127, 0, 0, 1].into() };
            assert_eq!(rule.matches(&view), expected, "{name}");
        }
    }

    #[test]
    fn mistakes_have_a_column() {
        for (rule, expected) in [
            ("HostSN(`a`)", "1 unknown matcher `HostSN`"),
            ("HostSNI(`a`, `b`)", "1 `HostSNI` takes 1 parameter, not 2"),
            ("HostSNI(`a`) && ALPN(`acme-tls/1`)", "17 `acme-tls/1` is kept for proofs to ACME servers"),
            ("HostSNI(``)", "9 a parameter of `HostSNI` is empty"),
            ("HostSNI(`a.*`)", "1 no client asks for `a.*`: `*` stands alone or as the first label"),
            ("HostSNI(`ä`)", "ASCII"),
            ("ClientIP(`x`)", "CIDR"),
            ("PathPrefix(`/`)", "1 unknown matcher `PathPrefix`"),
        ] {
            let errors = ConnectionRule::parse(rule, Syntax::V3).unwrap_err();
            let told = format!("{} {}", errors[0].column, errors[0].message);
            assert!(told.contains(expected), "{rule}: {told}");
        }
    }

    #[test]
    fn an_index_may_know_the_names() {
        let asked = |text| match ConnectionRule::parse(text, Syntax::V3).unwrap().asked() {
            Asked::For(names) => names.join(" "),
            Asked::Anything => "-".to_owned(),
        };
        for (rule, expected) in [
            ("HostSNI(`a`)", "a"),
            ("HostSNI(`a`) || HostSNI(`*.b`)", "a *.b"),
            ("HostSNI(`a`) && ALPN(`x`)", "a"),
            ("ALPN(`x`) && HostSNI(`a`)", "a"),
            ("HostSNI(`a`) || ALPN(`x`)", "-"),
            ("!HostSNI(`a`)", "-"),
            ("HostSNI(`*`)", "-"),
        ] {
            assert_eq!(asked(rule), expected, "{rule}");
        }
    }
}

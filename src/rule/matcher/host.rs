//! `Host` and `HostRegexp`: the canonical host of the request.

use std::borrow::Cow;

use crate::exchange::RequestView;
use crate::units::Pattern;

use super::{Hint, Matcher, argument};

/// `Host(d)`: the host is `d`; `*` is any, `*.d` any one label before `.d`. In canonical form.
#[derive(Clone, Debug)]
pub struct Host(Box<str>);

impl Host {
    /// The domain as it is compared.
    pub fn domain(&self) -> &str {
        &self.0
    }
}

impl Matcher for Host {
    const NAME: &'static str = "Host";
    const PARAMETERS: &'static [&'static str] = &["domain"];

    fn parse(arguments: &[String]) -> Result<Self, String> {
        let domain = ascii(argument(arguments, 0))?;
        let domain = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(domain);
        let domain = domain.strip_suffix('.').unwrap_or(domain);
        Ok(Self(domain.to_ascii_lowercase().into()))
    }

    fn matches(&self, request: &RequestView<'_>) -> bool {
        let host = &*request.host;
        match self.hint() {
            Hint::Host(domain) => host == domain && !host.is_empty(),
            Hint::HostUnder(domain) => parent_domain(host) == Some(domain),
            _ => !host.is_empty(),
        }
    }

    fn arguments(&self) -> Vec<Cow<'_, str>> {
        vec![Cow::Borrowed(&self.0)]
    }

    fn sees(&self, request: &RequestView<'_>) -> String {
        seen(request)
    }

    fn hint(&self) -> Hint<'_> {
        match self.0.strip_prefix('*') {
            Some("") => Hint::None,
            Some(rest) if rest.starts_with('.') => Hint::HostUnder(&rest[1..]),
            _ => Hint::Host(&self.0),
        }
    }

    fn doubt(&self) -> Option<String> {
        let literal = self.0.strip_prefix("*.").unwrap_or(&self.0);
        if &*self.0 != "*" && literal.contains('*') {
            return Some(format!("no host is `{}`: `*` stands alone or as the first label", self.0));
        }
        if literal.contains('/') || (literal.contains(':') && literal.parse::<std::net::Ipv6Addr>().is_err()) {
            return Some(format!("no host is `{}`: write the domain without scheme, port and path", self.0));
        }
        None
    }
}

/// `HostRegexp(re)`: the expression matches anywhere in the host.
#[derive(Clone, Debug)]
pub struct HostRegexp(Box<Pattern>);

impl Matcher for HostRegexp {
    const NAME: &'static str = "HostRegexp";
    const PARAMETERS: &'static [&'static str] = &["regexp"];

    fn parse(arguments: &[String]) -> Result<Self, String> {
        Pattern::new(ascii(argument(arguments, 0))?).map(Box::new).map(Self)
    }

    fn matches(&self, request: &RequestView<'_>) -> bool {
        self.0.is_match(&request.host)
    }

    fn arguments(&self) -> Vec<Cow<'_, str>> {
        vec![Cow::Borrowed(self.0.as_str())]
    }

    fn sees(&self, request: &RequestView<'_>) -> String {
        seen(request)
    }

    fn doubt(&self) -> Option<String> {
        let text = self.0.as_str();
        let braces = text.starts_with('{') || text.contains(".{") || text.contains(":[");
        (text.contains('{') && text.contains(':') && braces)
            .then(|| format!("`{text}` looks like a template of the v2 syntax; here it is a plain regular expression"))
    }
}

/// What follows the first label; `None` if that label is empty or all there is.
pub fn parent_domain(host: &str) -> Option<&str> {
    host.split_once('.').filter(|(label, _)| !label.is_empty()).map(|(_, parent)| parent)
}

pub(in crate::rule) fn ascii(domain: &str) -> Result<&str, String> {
    if domain.is_ascii() {
        return Ok(domain);
    }
    Err(format!("`{domain}` has characters outside ASCII; write international domains in their `xn--` form"))
}

pub(super) fn seen(request: &RequestView<'_>) -> String {
    if request.host.is_empty() { "the request has no host".into() } else { format!("host is `{}`", request.host) }
}

#[cfg(test)]
mod tests {
    use crate::rule::tests::{check, check_refused};

    #[test]
    fn hosts_are_exact_any_or_one_label_more() {
        for (rule, authority, expected) in [
            ("Host(`example.com`)", "example.com", true),
            ("Host(`example.com`)", "EXAMPLE.com:8080", true),
            ("Host(`Example.COM.`)", "example.com", true),
            ("Host(`example.com`)", "example.com.", true),
            ("Host(`example.com`)", "a.example.com", false),
            ("Host(`example.com`)", "", false),
            ("Host(`.`)", "", false),
            ("Host(`*`)", "any.thing", true),
            ("Host(`*`)", "", false),
            ("Host(`*.example.com`)", "a.example.com", true),
            ("Host(`*.EXAMPLE.com.`)", "A.example.com.:443", true),
            ("Host(`*.example.com`)", "a.b.example.com", false),
            ("Host(`*.example.com`)", "example.com", false),
            ("Host(`*.example.com`)", ".example.com", false),
            ("Host(`*.b.c`)", "b.c", false),
            ("Host(`::1`)", "[::1]:80", true),
            ("Host(`[::1]`)", "[::1]", true),
        ] {
            check(rule, &format!("GET {authority} /"), expected);
        }
        check_refused("Host(`exämple.com`)", "ASCII");
        check_refused("Host(`a`, `b`)", "1 parameter");
    }

    #[test]
    fn expressions_see_the_canonical_host() {
        for (rule, authority, expected) in [
            ("HostRegexp(`^a.+z$`)", "A-to-Z:80", true),
            ("HostRegexp(`^A`)", "abc", false),
            ("HostRegexp(`b`)", "abc", true),
            ("HostRegexp(`^.+$`)", "", false),
            ("HostRegexp(`^.*$`)", "", true),
        ] {
            check(rule, &format!("GET {authority} /"), expected);
        }
        check_refused("HostRegexp(`(`)", "regular expression");
        check_refused("HostRegexp(`ä`)", "ASCII");
    }
}

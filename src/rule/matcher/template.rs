//! The v2 syntax: matchers that take lists, and templates like `/users/{id:[0-9]+}`.

use std::borrow::Cow;

use crate::exchange::RequestView;
use crate::rule::predicate::Predicate;
use crate::units::Pattern;

use super::client_ip::ClientIp;
use super::header::{Header, HeaderRegexp};
use super::host::Host;
use super::method::Method;
use super::path::{Path, PathPrefix, rooted};
use super::{AnyMatcher, Hint, Matcher, argument, host, path, query};

/// Names of the matchers of the v2 syntax.
pub const NAMES: &[&str] = &[
    "Host",
    "HostHeader",
    "HostRegexp",
    "Path",
    "PathPrefix",
    "Method",
    "Headers",
    "HeadersRegexp",
    "Query",
    "ClientIP",
];

/// Builds what `name` means in the v2 syntax: any of its parameters for hosts, paths, methods and addresses; each of its
/// pairs for headers and queries.
///
/// # Errors
/// A sentence about what is wrong with its parameters.
pub fn build(name: &str, arguments: &[String]) -> Result<Predicate<AnyMatcher>, String> {
    match name {
        "Host" | "HostHeader" => any(arguments, |domain| Host::parse(domain).map(AnyMatcher::Host)),
        "HostRegexp" => any(arguments, |text| HostTemplate::parse(text).map(AnyMatcher::HostTemplate)),
        "Path" => any(arguments, |text| {
            if argument(text, 0).contains(['{', '}']) {
                PathTemplate::parse(text).map(AnyMatcher::PathTemplate)
            } else {
                Path::parse(text).map(AnyMatcher::Path)
            }
        }),
        "PathPrefix" => any(arguments, |text| {
            if argument(text, 0).contains(['{', '}']) {
                PathPrefixTemplate::parse(text).map(AnyMatcher::PathPrefixTemplate)
            } else {
                PathPrefix::parse(text).map(AnyMatcher::PathPrefix)
            }
        }),
        "Method" => any(arguments, |method| Method::parse(method).map(AnyMatcher::Method)),
        "ClientIP" => any(arguments, |address| ClientIp::parse(address).map(AnyMatcher::ClientIp)),
        "Headers" => pairs(name, arguments, |pair| Header::parse(pair).map(AnyMatcher::Header)),
        "HeadersRegexp" => pairs(name, arguments, |pair| HeaderRegexp::parse(pair).map(AnyMatcher::HeaderRegexp)),
        "Query" => {
            // `a=b` is a pair in one parameter; its halves may also be two parameters.
            let halves: Vec<String> =
                arguments.iter().flat_map(|argument| argument.splitn(2, '=')).map(str::to_owned).collect();
            pairs(name, &halves, |pair| QueryTemplate::parse(pair).map(AnyMatcher::QueryTemplate))
        }
        _ => Err(format!("unknown matcher `{name}`")),
    }
}

fn any(
    arguments: &[String],
    build: impl Fn(&[String]) -> Result<AnyMatcher, String>,
) -> Result<Predicate<AnyMatcher>, String> {
    let terms = arguments.chunks(1).map(|one| build(one).map(Predicate::Is)).collect::<Result<Vec<_>, _>>()?;
    Ok(Predicate::any(terms))
}

fn pairs(
    name: &str,
    arguments: &[String],
    build: impl Fn(&[String]) -> Result<AnyMatcher, String>,
) -> Result<Predicate<AnyMatcher>, String> {
    if !arguments.len().is_multiple_of(2) {
        return Err(format!("`{name}` takes pairs of key and value"));
    }
    let terms = arguments.chunks(2).map(|pair| build(pair).map(Predicate::Is)).collect::<Result<Vec<_>, _>>()?;
    Ok(Predicate::all(terms))
}

/// A text with variable parts, and the expression that it stands for.
#[derive(Clone, Debug)]
struct Template {
    text: Box<str>,
    pattern: Pattern,
}

impl Template {
    /// Reads `text`; `{name}` stands for `default`, `{name:re}` for `re`.
    fn parse(text: &str, head: &str, default: &str, tail: &str) -> Result<Box<Self>, String> {
        let mut pattern = String::from(head);
        for part in parts(text)? {
            match part {
                Part::Literal(literal) => pattern.push_str(&regex::escape(literal)),
                Part::Variable(inner) => {
                    let (name, expression) = inner.split_once(':').unwrap_or((inner, default));
                    if name.is_empty() || expression.is_empty() {
                        return Err(format!("`{{{inner}}}` lacks a name or an expression"));
                    }
                    // On its own first: an expression must not close the group around it.
                    Pattern::new(expression)?;
                    pattern.push_str("(?:");
                    pattern.push_str(expression);
                    pattern.push(')');
                }
            }
        }
        pattern.push_str(tail);
        Ok(Box::new(Self { text: text.into(), pattern: Pattern::new(&pattern)? }))
    }

    /// What stands before the first variable.
    fn start(&self) -> &str {
        self.text.split_once('{').map_or(&self.text, |(start, _)| start)
    }
}

enum Part<'t> {
    Literal(&'t str),
    Variable(&'t str),
}

/// Splits at the outermost braces.
fn parts(text: &str) -> Result<Vec<Part<'_>>, String> {
    let unbalanced = || format!("the braces in `{text}` are unbalanced");
    let mut parts = Vec::new();
    let (mut level, mut from) = (0_usize, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => {
                if level == 0 {
                    parts.push(Part::Literal(&text[from..at]));
                    from = at + 1;
                }
                level += 1;
            }
            b'}' => {
                level = level.checked_sub(1).ok_or_else(unbalanced)?;
                if level == 0 {
                    parts.push(Part::Variable(&text[from..at]));
                    from = at + 1;
                }
            }
            _ => {}
        }
    }
    if level > 0 {
        return Err(unbalanced());
    }
    parts.push(Part::Literal(&text[from..]));
    Ok(parts)
}

/// The expression that a template of a host stands for: the whole host, in either case.
///
/// # Errors
/// A sentence about what is wrong with it.
pub fn host_pattern(text: &str) -> Result<Pattern, String> {
    Template::parse(text, "(?i)^", "[^.]+", "$").map(|template| template.pattern)
}

/// `HostRegexp("{sub:[a-z]+}.example.com")`: the whole host, in either case.
#[derive(Clone, Debug)]
pub struct HostTemplate(Box<Template>);

impl Matcher for HostTemplate {
    const NAME: &'static str = "HostRegexp";
    const PARAMETERS: &'static [&'static str] = &["template"];

    fn parse(arguments: &[String]) -> Result<Self, String> {
        Template::parse(host::ascii(argument(arguments, 0))?, "(?i)^", "[^.]+", "$").map(Self)
    }

    fn matches(&self, request: &RequestView<'_>) -> bool {
        self.0.pattern.is_match(&request.host)
    }

    fn arguments(&self) -> Vec<Cow<'_, str>> {
        vec![Cow::Borrowed(&self.0.text)]
    }

    fn sees(&self, request: &RequestView<'_>) -> String {
        host::seen(request)
    }
}

/// A path with variables: all of it if it `ENDS` with the template, otherwise its beginning.
#[derive(Clone, Debug)]
pub struct AnyPathTemplate<const ENDS: bool>(Box<Template>);

/// `Path("/users/{id}")`: the whole path.
pub type PathTemplate = AnyPathTemplate<true>;
/// `PathPrefix("/users/{id}")`: the beginning of the path.
pub type PathPrefixTemplate = AnyPathTemplate<false>;

impl<const ENDS: bool> Matcher for AnyPathTemplate<ENDS> {
    const NAME: &'static str = if ENDS { "Path" } else { "PathPrefix" };
    const PARAMETERS: &'static [&'static str] = &["template"];

    fn parse(arguments: &[String]) -> Result<Self, String> {
        let tail = if ENDS { "$" } else { "" };
        Template::parse(rooted(argument(arguments, 0))?, "^", "[^/]+", tail).map(Self)
    }

    fn matches(&self, request: &RequestView<'_>) -> bool {
        self.0.pattern.is_match(&request.path)
    }

    fn arguments(&self) -> Vec<Cow<'_, str>> {
        vec![Cow::Borrowed(&self.0.text)]
    }

    fn sees(&self, request: &RequestView<'_>) -> String {
        path::seen(request)
    }

    fn hint(&self) -> Hint<'_> {
        Hint::PathBegins(self.0.start())
    }
}

/// `Query("k=v")`: the first value of `k` is the template `v`; any value if that is empty.
#[derive(Clone, Debug)]
pub struct QueryTemplate(Box<(Box<str>, Box<Template>)>);

impl Matcher for QueryTemplate {
    const NAME: &'static str = "Query";
    const PARAMETERS: &'static [&'static str] = &["key", "value"];

    fn parse(arguments: &[String]) -> Result<Self, String> {
        let (key, value) = (argument(arguments, 0), argument(arguments, 1));
        let tail = if value.is_empty() { ".*$" } else { "$" };
        Ok(Self(Box::new((key.into(), Template::parse(value, "^", ".*", tail)?))))
    }

    fn matches(&self, request: &RequestView<'_>) -> bool {
        let (key, template) = &*self.0;
        query::values(request.query, key)
            .next()
            .and_then(query::decode)
            .is_some_and(|value| template.pattern.is_match(&value))
    }

    fn arguments(&self) -> Vec<Cow<'_, str>> {
        vec![Cow::Owned(format!("{}={}", self.0.0, self.0.1.text))]
    }

    fn sees(&self, request: &RequestView<'_>) -> String {
        query::seen(request)
    }
}

#[cfg(test)]
mod tests {
    use crate::rule::tests::{check_v2, check_v2_refused};

    #[test]
    fn lists_are_alternatives_and_pairs_conjunctions() {
        for (rule, request, expected) in [
            ("Host(`a.com`, `b.com`)", "GET b.com /", true),
            ("Host(`a.com`, `b.com`)", "GET c.com /", false),
            ("HostHeader(`a.com`)", "GET A.com:80 /", true),
            ("Path(`/a`, `/b`)", "GET h /b", true),
            ("Path(`/a`, `/b`)", "GET h /b/", false),
            ("PathPrefix(`/a`, `/b`)", "GET h /bc", true),
            ("Method(`get`, `POST`)", "POST h /", true),
            ("Method(`get`, `POST`)", "PUT h /", false),
            ("Headers(`X-A`, `1`, `X-B`, `2`)", "GET h / X-A:1 X-B:2", true),
            ("Headers(`X-A`, `1`, `X-B`, `2`)", "GET h / X-A:1", false),
            ("HeadersRegexp(`X-A`, `^[0-9]$`)", "GET h / X-A:1", true),
            ("!Host(`a.com`, `b.com`)", "GET b.com /", false),
            ("!Host(`a.com`, `b.com`)", "GET c.com /", true),
            ("Query(`a=1`, `b=2`)", "GET h /?a=1&b=2", true),
            ("Query(`a=1`, `b=2`)", "GET h /?a=1", false),
            ("Query(`a`, `1`)", "GET h /?a=1", true),
            ("Query(`a=1`)", "GET h /?a=2&a=1", false),
            ("Query(`a=`)", "GET h /?a=2", true),
            ("Query(`a=`)", "GET h /?b=2", false),
            ("Query(`a={v:[0-9]+}`)", "GET h /?a=12", true),
            ("Query(`a={v:[0-9]+}`)", "GET h /?a=1x", false),
            ("Query(`a=x{v}`)", "GET h /?a=x", true),
        ] {
            check_v2(rule, request, expected);
        }
        check_v2_refused("Headers(`a`)", "pairs");
        check_v2_refused("Query(`a`)", "pairs");
        check_v2_refused("Path(`a`)", "does not start with `/`");
        check_v2_refused("Header(`a`, `b`)", "unknown matcher");
    }

    #[test]
    fn templates_have_variables() {
        for (rule, request, expected) in [
            ("HostRegexp(`{sub:[a-z]+}.example.com`)", "GET ab.example.com /", true),
            ("HostRegexp(`{sub:[A-Z]+}.Example.com`)", "GET ab.example.com:80 /", true),
            ("HostRegexp(`{sub:[a-z]+}.example.com`)", "GET a.b.example.com /", false),
            ("HostRegexp(`{sub}.example.com`, `x`)", "GET x /", true),
            ("HostRegexp(`{sub}.example.com`)", "GET abXexample.com /", false),
            ("HostRegexp(`{any:.+}`)", "GET 10.0.0.1 /", true),
            ("Path(`/users/{id}`)", "GET h /users/7", true),
            ("Path(`/users/{id}`)", "GET h /users/7/x", false),
            ("Path(`/users/{id:[0-9]{2}}`)", "GET h /users/77", true),
            ("Path(`/users/{id:[0-9]{2}}`)", "GET h /users/7", false),
            ("PathPrefix(`/users/{id:(a|b)}/x`)", "GET h /users/b/xyz", true),
            ("PathPrefix(`/{a:x|y}`)", "GET h /z/x", false),
        ] {
            check_v2(rule, request, expected);
        }
        for rule in [
            "Path(`/{`)",
            "Path(`/}`)",
            "Path(`/{}`)",
            "Path(`/{:a}`)",
            "Path(`/{a:}`)",
            "Path(`/{a:(}`)",
            "Path(`/{a:b)|(c}`)",
        ] {
            check_v2_refused(rule, "");
        }
    }
}

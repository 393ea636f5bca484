//! `Path`, `PathPrefix` and `PathRegexp`: the routing path of the request.

use std::borrow::Cow;

use crate::exchange::RequestView;
use crate::units::Pattern;

use super::{Hint, Matcher, argument};

/// `Path(p)`: the path is `p`.
#[derive(Clone, Debug)]
pub struct Path(Box<str>);

impl Matcher for Path {
    const NAME: &'static str = "Path";
    const PARAMETERS: &'static [&'static str] = &["path"];

    fn parse(arguments: &[String]) -> Result<Self, String> {
        rooted(argument(arguments, 0)).map(|path| Self(path.into()))
    }

    fn matches(&self, request: &RequestView<'_>) -> bool {
        *request.path == *self.0
    }

    fn arguments(&self) -> Vec<Cow<'_, str>> {
        vec![Cow::Borrowed(&self.0)]
    }

    fn sees(&self, request: &RequestView<'_>) -> String {
        seen(request)
    }

    fn hint(&self) -> Hint<'_> {
        Hint::Path(&self.0)
    }

    fn doubt(&self) -> Option<String> {
        doubt(&self.0)
    }
}

/// `PathPrefix(p)`: the path begins with the characters `p`; `/foo` also covers `/foobar`.
#[derive(Clone, Debug)]
pub struct PathPrefix(Box<str>);

impl Matcher for PathPrefix {
    const NAME: &'static str = "PathPrefix";
    const PARAMETERS: &'static [&'static str] = &["path"];

    fn parse(arguments: &[String]) -> Result<Self, String> {
        rooted(argument(arguments, 0)).map(|path| Self(path.into()))
    }

    fn matches(&self, request: &RequestView<'_>) -> bool {
        request.path.as_bytes().starts_with(self.0.as_bytes())
    }

    fn arguments(&self) -> Vec<Cow<'_, str>> {
        vec![Cow::Borrowed(&self.0)]
    }

    fn sees(&self, request: &RequestView<'_>) -> String {
        seen(request)
    }

    fn hint(&self) -> Hint<'_> {
        Hint::PathPrefix(&self.0)
    }

    fn doubt(&self) -> Option<String> {
        doubt(&self.0)
    }
}

/// `PathRegexp(re)`: the expression matches anywhere in the path.
#[derive(Clone, Debug)]
pub struct PathRegexp(Box<Pattern>);

impl Matcher for PathRegexp {
    const NAME: &'static str = "PathRegexp";
    const PARAMETERS: &'static [&'static str] = &["regexp"];

    fn parse(arguments: &[String]) -> Result<Self, String> {
        Pattern::new(argument(arguments, 0)).map(Box::new).map(Self)
    }

    fn matches(&self, request: &RequestView<'_>) -> bool {
        self.0.is_match(&request.path)
    }

    fn arguments(&self) -> Vec<Cow<'_, str>> {
        vec![Cow::Borrowed(self.0.as_str())]
    }

    fn sees(&self, request: &RequestView<'_>) -> String {
        seen(request)
    }

    fn hint(&self) -> Hint<'_> {
        match literal_start(self.0.as_str()) {
            "" => Hint::None,
            start => Hint::PathBegins(start),
        }
    }
}

/// The text that everything matched by `pattern` begins with, as far as that is plain to see.
fn literal_start(pattern: &str) -> &str {
    let Some(anchored) = pattern.strip_prefix('^') else { return "" };
    // An alternative need not begin as its neighbour does.
    if anchored.contains('|') {
        return "";
    }
    let is_literal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'~' | b'%');
    let end = anchored.bytes().position(|byte| !is_literal(byte)).unwrap_or(anchored.len());
    match anchored.as_bytes().get(end) {
        // What repeats may also be absent.
        Some(b'*' | b'?' | b'{' | b'+') => &anchored[..end.saturating_sub(1)],
        _ => &anchored[..end],
    }
}

pub(super) fn rooted(path: &str) -> Result<&str, String> {
    if path.starts_with('/') { Ok(path) } else { Err(format!("path `{path}` does not start with `/`")) }
}

pub(super) fn seen(request: &RequestView<'_>) -> String {
    format!("path is `{}`", request.path)
}

fn doubt(path: &str) -> Option<String> {
    if path.contains(['?', '#']) {
        return Some(format!("no path has `?` or `#` like `{path}`; match the query with Query(`key`, `value`)"));
    }
    if path.split_once('{').is_some_and(|(_, rest)| rest.contains('}')) {
        return Some(format!("the braces in `{path}` are plain characters; use PathRegexp for variable parts"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::literal_start;
    use crate::rule::tests::{check, check_refused};

    #[test]
    fn paths_are_equal_begin_or_match() {
        for (rule, path, expected) in [
            ("Path(`/foo`)", "/foo", true),
            ("Path(`/foo`)", "/foo/", false),
            ("Path(`/foo`)", "/FOO", false),
            ("Path(`/a b`)", "/a%20b", true),
            ("Path(`/a/b`)", "/a%2Fb", false),
            ("Path(`/a%2Fb`)", "/a%2Fb", true),
            ("Path(`/é`)", "/%C3%A9", true),
            ("PathPrefix(`/foo`)", "/foobar", true),
            ("PathPrefix(`/foo`)", "/foo", true),
            ("PathPrefix(`/foo/`)", "/foo", false),
            ("PathPrefix(`/`)", "/", true),
            ("PathPrefix(`/`)", "*", false),
            ("PathRegexp(`^/v[0-9]+/`)", "/v12/x", true),
            ("PathRegexp(`^/v[0-9]+/`)", "/vx/v1/", false),
            ("PathRegexp(`bar`)", "/foobar", true),
            (r"PathRegexp(`\.(jpe?g|png)$`)", "/a.jpeg", true),
        ] {
            check(rule, &format!("GET h {path}"), expected);
        }
        check_refused("Path(`foo`)", "does not start with `/`");
        check_refused("PathPrefix(`foo`)", "does not start with `/`");
        check_refused("PathRegexp(`[`)", "regular expression");
        check_refused("PathPrefix(`/a`, `/b`)", "1 parameter");
    }

    #[test]
    fn only_certain_text_starts_a_pattern() {
        for (pattern, expected) in [
            ("^/api/v[0-9]", "/api/v"),
            ("^/api", "/api"),
            ("^/api/?$", "/api"),
            ("^/ab+", "/a"),
            ("^/ab{0}", "/a"),
            ("^*", ""),
            ("^/a|/b", ""),
            ("^/(a|b)", ""),
            ("/api", ""),
            ("(?i)^/api", ""),
            (r"^/a\.b", "/a"),
            ("", ""),
        ] {
            assert_eq!(literal_start(pattern), expected, "{pattern}");
        }
    }
}

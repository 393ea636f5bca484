//! `Query` and `QueryRegexp`: the pairs of the query, decoded only as far as a rule asks for them.

use std::borrow::Cow;

use crate::exchange::RequestView;
use crate::units::Pattern;

use super::{Matcher, argument};

/// `Query(k, v)`: a value of `k` is `v`. `Query(k)`: a value of `k` is empty.
#[derive(Clone, Debug)]
pub struct Query(Box<(Box<str>, Box<str>)>);

impl Matcher for Query {
    const NAME: &'static str = "Query";
    const PARAMETERS: &'static [&'static str] = &["key", "value"];
    const OPTIONAL: usize = 1;

    fn parse(arguments: &[String]) -> Result<Self, String> {
        Ok(Self(Box::new((argument(arguments, 0).into(), argument(arguments, 1).into()))))
    }

    fn matches(&self, request: &RequestView<'_>) -> bool {
        let (key, expected) = &*self.0;
        values(request.query, key).any(|value| decodes_to(value, expected))
    }

    fn arguments(&self) -> Vec<Cow<'_, str>> {
        let (key, value) = &*self.0;
        let mut arguments = vec![Cow::Borrowed(&**key)];
        if !value.is_empty() {
            arguments.push(Cow::Borrowed(value));
        }
        arguments
    }

    fn sees(&self, request: &RequestView<'_>) -> String {
        seen(request)
    }
}

/// `QueryRegexp(k, re)`: the expression matches anywhere in a value of `k`. `QueryRegexp(k)` is `Query(k)`.
#[derive(Clone, Debug)]
pub struct QueryRegexp(Box<(Box<str>, Option<Pattern>)>);

impl Matcher for QueryRegexp {
    const NAME: &'static str = "QueryRegexp";
    const PARAMETERS: &'static [&'static str] = &["key", "regexp"];
    const OPTIONAL: usize = 1;

    fn parse(arguments: &[String]) -> Result<Self, String> {
        let pattern = arguments.get(1).map(|text| Pattern::new(text)).transpose()?;
        Ok(Self(Box::new((argument(arguments, 0).into(), pattern))))
    }

    fn matches(&self, request: &RequestView<'_>) -> bool {
        let (key, pattern) = &*self.0;
        values(request.query, key).any(|value| match pattern {
            Some(pattern) => decode(value).is_some_and(|value| pattern.is_match(&value)),
            None => value.is_empty(),
        })
    }

    fn arguments(&self) -> Vec<Cow<'_, str>> {
        let (key, pattern) = &*self.0;
        let mut arguments = vec![Cow::Borrowed(&**key)];
        arguments.extend(pattern.as_ref().map(|pattern| Cow::Borrowed(pattern.as_str())));
        arguments
    }

    fn sees(&self, request: &RequestView<'_>) -> String {
        seen(request)
    }
}

/// The raw values of `key`. A pair with `;` or with a broken escape counts for nothing.
pub(super) fn values<'q>(query: &'q str, key: &str) -> impl Iterator<Item = &'q str> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.contains(';'))
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter(move |(name, value)| decodes_to(name, key) && decoded(value).all(|byte| byte.is_some()))
        .map(|(_, value)| value)
}

/// The value that `raw` stands for; bytes that are not UTF-8 become U+FFFD.
pub(super) fn decode(raw: &str) -> Option<Cow<'_, str>> {
    if !raw.contains(['%', '+']) {
        return Some(Cow::Borrowed(raw));
    }
    let bytes = decoded(raw).collect::<Option<Vec<u8>>>()?;
    Some(match String::from_utf8(bytes) {
        Ok(text) => Cow::Owned(text),
        Err(error) => Cow::Owned(String::from_utf8_lossy(error.as_bytes()).into_owned()),
    })
}

/// Whether `raw` stands for `expected`.
pub(super) fn decodes_to(raw: &str, expected: &str) -> bool {
    decoded(raw).eq(expected.bytes().map(Some))
}

pub(super) fn seen(request: &RequestView<'_>) -> String {
    if request.query.is_empty() { "the request has no query".into() } else { format!("query is `{}`", request.query) }
}

/// The bytes of a form-encoded text; `None` stands where an escape is broken.
fn decoded(raw: &str) -> impl Iterator<Item = Option<u8>> {
    let mut bytes = raw.bytes();
    std::iter::from_fn(move || {
        Some(match bytes.next()? {
            b'+' => Some(b' '),
            b'%' => hex(bytes.next()).zip(hex(bytes.next())).map(|(high, low)| high << 4 | low),
            byte => Some(byte),
        })
    })
}

fn hex(digit: Option<u8>) -> Option<u8> {
    char::from(digit?).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use crate::rule::tests::{check, check_refused};

    #[test]
    fn queries_are_decoded_and_repeat() {
        for (rule, query, expected) in [
            ("Query(`a`, `1`)", "a=1", true),
            ("Query(`a`, `1`)", "a=2", false),
            ("Query(`a`, `1`)", "a=2&a=1", true),
            ("Query(`a`, `1`)", "b=1", false),
            ("Query(`a`, `1`)", "A=1", false),
            ("Query(`a`)", "a", true),
            ("Query(`a`)", "a=", true),
            ("Query(`a`)", "a=1", false),
            ("Query(`a`)", "a=1&a", true),
            ("Query(`a`)", "", false),
            ("Query(`a b`, `c d`)", "a+b=c%20d", true),
            ("Query(`a`, `b+c`)", "a=b%2Bc", true),
            ("Query(`a`, `b=c`)", "a=b=c", true),
            ("Query(`a`, `é`)", "a=%C3%A9", true),
            ("Query(`a`, `%zz`)", "a=%zz", false),
            ("Query(`a`, `1`)", "a=1;b=2", false),
            ("Query(`b`, `2`)", "a=%&b=2", true),
            ("QueryRegexp(`a`, `^[0-9]+$`)", "a=12", true),
            ("QueryRegexp(`a`, `^[0-9]+$`)", "a=x&a=1", true),
            ("QueryRegexp(`a`, `^b c$`)", "a=b+c", true),
            ("QueryRegexp(`a`, `.*`)", "b=1", false),
            ("QueryRegexp(`a`, `.*`)", "a=%f", false),
            ("QueryRegexp(`a`, `.*`)", "a", true),
            ("QueryRegexp(`a`)", "a=1", false),
            ("QueryRegexp(`a`)", "a", true),
        ] {
            check(rule, &format!("GET h /?{query}"), expected);
        }
        check_refused("Query(`a`, `b`, `c`)", "1 to 2 parameters");
        check_refused("Query(`a`, ``)", "empty");
        check_refused("QueryRegexp(`a`, `(`)", "regular expression");
    }
}

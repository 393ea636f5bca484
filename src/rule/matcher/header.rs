//! `Header` and `HeaderRegexp`: the fields of the request; of a repeated field, each value counts.

use std::borrow::Cow;

use http::header::HeaderName;

use crate::exchange::RequestView;
use crate::units::Pattern;

use super::{Matcher, argument};

/// `Header(k, v)`: a value of field `k` is `v`.
#[derive(Clone, Debug)]
pub struct Header(Box<(HeaderName, Box<str>)>);

impl Matcher for Header {
    const NAME: &'static str = "Header";
    const PARAMETERS: &'static [&'static str] = &["key", "value"];

    fn parse(arguments: &[String]) -> Result<Self, String> {
        Ok(Self(Box::new((field_name(argument(arguments, 0))?, argument(arguments, 1).into()))))
    }

    fn matches(&self, request: &RequestView<'_>) -> bool {
        let (name, expected) = &*self.0;
        request.headers.get_all(name).iter().any(|value| value.as_bytes() == expected.as_bytes())
    }

    fn arguments(&self) -> Vec<Cow<'_, str>> {
        vec![Cow::Borrowed(self.0.0.as_str()), Cow::Borrowed(&self.0.1)]
    }

    fn sees(&self, request: &RequestView<'_>) -> String {
        seen(&self.0.0, request)
    }
}

/// `HeaderRegexp(k, re)`: the expression matches anywhere in a value of field `k`.
#[derive(Clone, Debug)]
pub struct HeaderRegexp(Box<(HeaderName, Pattern)>);

impl Matcher for HeaderRegexp {
    const NAME: &'static str = "HeaderRegexp";
    const PARAMETERS: &'static [&'static str] = &["key", "regexp"];

    fn parse(arguments: &[String]) -> Result<Self, String> {
        Ok(Self(Box::new((field_name(argument(arguments, 0))?, Pattern::new(argument(arguments, 1))?))))
    }

    fn matches(&self, request: &RequestView<'_>) -> bool {
        let (name, pattern) = &*self.0;
        request.headers.get_all(name).iter().any(|value| pattern.is_match(&String::from_utf8_lossy(value.as_bytes())))
    }

    fn arguments(&self) -> Vec<Cow<'_, str>> {
        vec![Cow::Borrowed(self.0.0.as_str()), Cow::Borrowed(self.0.1.as_str())]
    }

    fn sees(&self, request: &RequestView<'_>) -> String {
        seen(&self.0.0, request)
    }
}

fn field_name(name: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is not the name of a header field"))
}

/// Names only whether the field is there: its values may be secret.
fn seen(name: &HeaderName, request: &RequestView<'_>) -> String {
    match request.headers.get_all(name).iter().count() {
        0 => format!("the request has no header `{name}`"),
        1 => format!("the request has a header `{name}`"),
        count => format!("the request has {count} headers `{name}`"),
    }
}

#[cfg(test)]
mod tests {
    use crate::rule::tests::{check, check_refused};

    #[test]
    fn any_value_of_the_field_counts() {
        for (rule, headers, expected) in [
            ("Header(`X-Foo`, `bar`)", "x-foo:bar", true),
            ("Header(`x-foo`, `bar`)", "X-Foo:bar", true),
            ("Header(`X-Foo`, `bar`)", "X-Foo:Bar", false),
            ("Header(`X-Foo`, `bar`)", "X-Foo:a X-Foo:bar", true),
            ("Header(`X-Foo`, `bar`)", "X-Foo:a,bar", false),
            ("Header(`X-Foo`, `bar`)", "X-Bar:bar", false),
            ("!Header(`X-Foo`, `bar`)", "", true),
            ("HeaderRegexp(`X-Foo`, `^b.r$`)", "X-Foo:bar", true),
            ("HeaderRegexp(`X-Foo`, `^b.r$`)", "X-Foo:a X-Foo:bxr", true),
            ("HeaderRegexp(`X-Foo`, `ar`)", "X-Foo:bard", true),
            ("HeaderRegexp(`X-Foo`, `.*`)", "", false),
        ] {
            check(rule, &format!("GET h / {headers}"), expected);
        }
        check_refused("Header(`X-Foo`)", "2 parameters");
        check_refused("Header(`X Foo`, `a`)", "header field");
        check_refused("HeaderRegexp(`X-Foo`, `(`)", "regular expression");
    }
}

//! `Method`: the request method.

use std::borrow::Cow;

use crate::exchange::RequestView;

use super::{Matcher, argument};

/// `Method(m)`: the method is `m`, which is read in upper case.
#[derive(Clone, Debug)]
pub struct Method(Box<str>);

impl Matcher for Method {
    const NAME: &'static str = "Method";
    const PARAMETERS: &'static [&'static str] = &["method"];

    fn parse(arguments: &[String]) -> Result<Self, String> {
        let method = argument(arguments, 0).to_ascii_uppercase();
        match http::Method::from_bytes(method.as_bytes()) {
            Ok(_) => Ok(Self(method.into())),
            Err(_) => Err(format!("`{method}` is not a method like `GET`")),
        }
    }

    fn matches(&self, request: &RequestView<'_>) -> bool {
        request.method.as_str() == &*self.0
    }

    fn arguments(&self) -> Vec<Cow<'_, str>> {
        vec![Cow::Borrowed(&self.0)]
    }

    fn sees(&self, request: &RequestView<'_>) -> String {
        format!("method is `{}`", request.method)
    }
}

#[cfg(test)]
mod tests {
    use crate::rule::tests::{check, check_refused};

    #[test]
    fn methods_are_read_in_upper_case() {
        for (rule, method, expected) in [
            ("Method(`GET`)", "GET", true),
            ("Method(`get`)", "GET", true),
            ("Method(`GET`)", "get", false),
            ("Method(`GET`)", "POST", false),
            ("Method(`PURGE`)", "PURGE", true),
        ] {
            check(rule, &format!("{method} h /"), expected);
        }
        check_refused("Method(`GE T`)", "not a method");
        check_refused("Method(`GET`, `POST`)", "1 parameter");
    }
}

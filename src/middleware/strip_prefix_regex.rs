//! `stripPrefixRegex`: takes what a pattern finds at the start off the request path.

use http::header::HeaderValue;
use pingora::http::RequestHeader;
use serde::{Deserialize, Serialize};

use super::strip_prefix::strip;
use super::{Flow, Kit, Middleware, path};
use crate::exchange::Exchange;
use crate::exchange::view::{raw_length, routing_path};
use crate::problem::{Problem, Problems, each};
use crate::units::Pattern;

/// Settings of `stripPrefixRegex`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Regular expressions. The first that finds something at the start of the path counts; what it found is taken off. They see
    /// the path as routers do: decoded but for reserved characters.
    #[serde(default)]
    pub regex: Vec<String>,
}

/// Takes what a pattern finds at the start off the request path.
#[derive(Debug)]
pub struct StripPrefixRegex {
    patterns: Box<[Pattern]>,
}

impl Middleware for StripPrefixRegex {
    type Settings = Settings;

    fn build(settings: &Settings, _: &Kit<'_>) -> Result<Self, Problems> {
        let pattern = |(index, text): (usize, &String)| {
            Pattern::new(text.trim()).map_err(|message| Problem::at(format!("regex[{index}]"), message))
        };
        Ok(Self { patterns: each(settings.regex.iter().enumerate().map(pattern))? })
    }

    async fn on_request(&self, request: &mut RequestHeader, _: &mut Exchange) -> Flow {
        let raw = request.uri.path();
        let seen = routing_path(raw);
        let end = self.patterns.iter().find_map(|pattern| {
            let found = pattern.regex().find(&seen)?;
            (found.start() == 0 && !found.is_empty()).then_some(found.end())
        });
        let Some(end) = end else { return Flow::Continue };
        let (prefix, rest) = raw.split_at(raw_length(raw, end));
        // The client chose the prefix: one that servers would read as a host must not reach them, they build links from it.
        if prefix.starts_with("//") {
            return path::refuse();
        }
        let Ok(told) = HeaderValue::from_bytes(prefix.as_bytes()) else { return path::refuse() };
        let rest = path::with_leading_slash(rest).into_owned();
        strip(request, &rest, told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::testing::{Call, build, verdict};

    #[track_caller]
    fn check(settings: &str, url: &str, expected: &str) {
        let middleware: StripPrefixRegex = build(settings).unwrap();
        let mut call = Call::new(&format!("GET http://h{url}"));
        let seen = match call.down(&middleware) {
            Flow::Continue => format!("{} [{}]", call.target(), call.field("X-Forwarded-Prefix")),
            reply => verdict(&reply),
        };
        assert_eq!(seen, expected, "{url}");
    }

    #[test]
    fn takes_off_what_is_found_at_the_start() {
        let settings = r#"{"regex":["/a/api/"," /b/([a-z0-9]+)/ ","/c/é[0-9]"]}"#;
        check(settings, "/a/api/x", "/x [/a/api/]");
        check(settings, "/b/api2/x?y", "/x?y [/b/api2/]");
        check(settings, "/b/api/", "/ [/b/api/]");
        check(settings, "/b/API/x", "/b/API/x []");
        check(settings, "/x/b/api/", "/x/b/api/ []");
        check(settings, "/c/%C3%A91/%C3%A9", "/%C3%A9 [/c/%C3%A91]");
        check(r#"{"regex":["^/a b"]}"#, "/a%20b/%2Fc", "/%2Fc [/a%20b]");
        check(r#"{"regex":["^/a%2Fb"]}"#, "/a%2Fb%20/c", "/%20/c [/a%2Fb]");
        check(r#"{"regex":["x*"]}"#, "/a", "/a []");
    }

    #[test]
    fn refuses_a_rest_that_means_another_path() {
        check(r#"{"regex":["^/api"]}"#, "/api../admin", "400 path-rewrite");
        check(r#"{"regex":["^/[a-z]+"]}"#, "/api%2e%2e/admin", "400 path-rewrite");
        check(r#"{"regex":["^//[^/]+"]}"#, "//evil.com/a", "400 path-rewrite");
    }

    #[test]
    fn refuses_what_is_no_pattern() {
        assert_eq!(build::<StripPrefixRegex>(r#"{"regex":["a","("]}"#).unwrap_err().path, "regex[1]");
    }
}

//! `replacePathRegex`: rewrites the request path with a pattern; the server is told the old one.

use http::header::HeaderValue;
use pingora::http::RequestHeader;
use serde::{Deserialize, Serialize};

use super::replace_path::tell_old_path;
use super::{Flow, Kit, Middleware, path};
use crate::exchange::Exchange;
use crate::exchange::path::normalize;
use crate::problem::{Problem, Problems, all};
use crate::units::Pattern;

/// Settings of `replacePathRegex`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// A regular expression. It sees the path as it is sent on, with its escapes.
    #[serde(default)]
    pub regex: String,
    /// What stands for each thing that it finds: `$1` and `${1}` are groups by number, `${name}` by name, `$$` is a dollar sign. The
    /// name of a group is as long as it can be: write `${1}x`, not `$1x`. Behind a `?` stands a query, which then comes before
    /// the request's own. Empty: the middleware does nothing.
    #[serde(default)]
    pub replacement: String,
}

/// Rewrites the request path with a pattern.
#[derive(Debug)]
pub struct ReplacePathRegex {
    pattern: Pattern,
    replacement: String,
}

impl Middleware for ReplacePathRegex {
    type Settings = Settings;

    fn build(settings: &Settings, _: &Kit<'_>) -> Result<Self, Problems> {
        let pattern = Pattern::new(settings.regex.trim()).map_err(|message| Problem::at("regex", message));
        let replacement = path::replacement_from_settings("replacement", &settings.replacement);
        let (pattern, replacement) = all((pattern, replacement))?;
        Ok(Self { pattern, replacement })
    }

    async fn on_request(&self, request: &mut RequestHeader, _: &mut Exchange) -> Flow {
        if self.replacement.is_empty() || !self.pattern.is_match(request.uri.path()) {
            return Flow::Continue;
        }
        let Some(target) = self.rewrite(request) else { return path::refuse() };
        let Ok(old) = HeaderValue::from_str(request.uri.path()) else { return path::refuse() };
        tell_old_path(request, old);
        path::replace_target(request, target)
    }
}

impl ReplacePathRegex {
    /// The new target; `None` if its path would mean another one. Empty segments in the middle are the author's wish, since the
    /// client's part has none: they pass.
    fn rewrite(&self, request: &RequestHeader) -> Option<String> {
        let result = self.pattern.regex().replace_all(request.uri.path(), &*self.replacement);
        let (new_path, added) = result.split_once('?').map_or((&*result, None), |(path, query)| (path, Some(query)));
        let new_path = path::with_leading_slash(new_path);
        // What the author wrote may need escaping; what it then says must still be one path.
        let mut target = normalize(&new_path).ok()?.into_owned();
        if !path::is_plain(&target) {
            return None;
        }
        for (index, query) in
            [added, request.uri.query()].into_iter().flatten().filter(|query| !query.is_empty()).enumerate()
        {
            target.push(if index == 0 { '?' } else { '&' });
            target.push_str(query);
        }
        Some(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::testing::{Call, build, verdict};

    #[track_caller]
    fn check(regex: &str, replacement: &str, url: &str, expected: &str) {
        let settings = serde_json::json!({ "regex": regex, "replacement": replacement });
        let middleware: ReplacePathRegex = build(&settings.to_string()).unwrap();
        let mut call = Call::new(&format!("GET http://h{url}"));
        let seen = match call.down(&middleware) {
            Flow::Continue => format!("{} [{}]", call.target(), call.field("X-Replaced-Path")),
            reply => verdict(&reply),
        };
        assert_eq!(seen, expected, "{regex} {replacement} {url}");
    }

    #[test]
    fn rewrites_as_go_does() {
        check(r"^/whoami/(.*)", "/who-am-i/$1", "/whoami/and/whoami?q", "/who-am-i/and/whoami?q [/whoami/and/whoami]");
        check(r"^(?i)/downloads/([^/]+)/([^/]+)$", "/d/$2-$1", "/Downloads/a/b", "/d/b-a [/Downloads/a/b]");
        check(r"^/(?P<who>\w+)/(?<what>\w+)", "/${what}/${who}", "/a/b", "/b/a [/a/b]");
        check(r"^/a/(\d+)", "/v${1}x", "/a/1", "/v1x [/a/1]");
        check(r"^/a/(\d+)", "/v$1x", "/a/1", "/v [/a/1]");
        check(r"/a", "/b", "/a/a/c", "/b/b/c [/a/a/c]");
        check(r"^/a", "$$1", "/a", "/$1 [/a]");
        check(r"^/nothing", "/b", "/a", "/a []");
        check(r"^/a", "", "/a", "/a []");
        check(r"^/a/(.*)", "/b/$1", "/a/x%2Fy", "/b/x%2Fy [/a/x%2Fy]");
        check(r"^/a$", "/b c", "/a", "/b%20c [/a]");
        check(r"^(.*)$", "/pre/$1", "/a", "/pre//a [/a]");
        check(r"^/a$", "b", "/a", "/b [/a]");
    }

    #[test]
    fn a_question_mark_starts_a_query() {
        check(r"^/user/(.*)$", "/find?name=$1", "/user/ann", "/find?name=ann [/user/ann]");
        check(r"^/user/(.*)$", "/find?name=$1", "/user/ann?x=1", "/find?name=ann&x=1 [/user/ann]");
    }

    #[test]
    fn refuses_a_path_that_means_another_one() {
        check(r"^/api(.*)", "$1", "/api../admin", "400 path-rewrite");
        check(r"^/api/(.*)", "/v1/$1", "/api/../admin", "400 path-rewrite");
        check(r"^/api(.*)", "/v1/$1", "/api../../admin", "400 path-rewrite");
        check(r"^/api(.*)", "/v1/$1", "/api%2e%2e/admin", "400 path-rewrite");
        check(r"^/go(.*)", "/$1", "/go/evil.com", "400 path-rewrite");
        check(r"%2F", "%", "/a%2Fx", "400 path-rewrite");
    }

    #[test]
    fn refuses_what_is_no_pattern() {
        assert_eq!(build::<ReplacePathRegex>(r#"{"regex":"(","replacement":"a"}"#).unwrap_err().path, "regex");
        let long = format!(r#"{{"regex":"a","replacement":"{}"}}"#, "a".repeat(5000));
        assert_eq!(build::<ReplacePathRegex>(&long).unwrap_err().path, "replacement");
    }
}

//! `redirectRegex`: sends clients to a URL made from theirs with a pattern.

use pingora::http::RequestHeader;
use serde::{Deserialize, Serialize};

use super::redirect::{Asked, Lasting, redirect, refuse};
use super::{Flow, Kit, Middleware, path};
use crate::exchange::Exchange;
use crate::problem::{Problem, Problems, all};
use crate::units::Pattern;

/// Settings of `redirectRegex`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// A regular expression. It sees the whole URL: `scheme://host[:port]/path?query`.
    #[serde(default)]
    pub regex: String,
    /// What stands for each thing that it finds; `$1`, `${1}` and `${name}` are groups. Clients are sent to the result if it is
    /// another URL.
    #[serde(default)]
    pub replacement: String,
    /// Whether clients may remember the answer (301, 308) or not (302, 307).
    #[serde(default)]
    pub permanent: bool,
}

/// Sends clients to a URL made from theirs.
#[derive(Debug)]
pub struct RedirectRegex {
    pattern: Pattern,
    replacement: String,
    lasting: Lasting,
}

impl Middleware for RedirectRegex {
    type Settings = Settings;

    fn build(settings: &Settings, _: &Kit<'_>) -> Result<Self, Problems> {
        let pattern = Pattern::new(&settings.regex).map_err(|message| Problem::at("regex", message));
        let replacement = path::replacement_from_settings("replacement", &settings.replacement);
        let (pattern, replacement) = all((pattern, replacement))?;
        Ok(Self { pattern, replacement, lasting: Lasting::of(settings.permanent) })
    }

    async fn on_request(&self, request: &mut RequestHeader, exchange: &mut Exchange) -> Flow {
        let Some(asked) = Asked::from(request, exchange).map(|asked| asked.url()) else { return refuse() };
        let location = match self.pattern.regex().replace_all(&asked, &*self.replacement) {
            std::borrow::Cow::Borrowed(_) => return Flow::Continue,
            std::borrow::Cow::Owned(location) if location == asked => return Flow::Continue,
            std::borrow::Cow::Owned(location) => location,
        };
        // A browser takes `//evil` and `/\evil` for a host. Only the author of the configuration may name one.
        if names_a_host(&location) && !names_a_host(&self.replacement) {
            return path::refuse();
        }
        redirect(&request.method, &location, self.lasting)
    }
}

/// Whether a browser takes a reference without a scheme for one with a host. It skips white space and takes `\` for `/`.
fn names_a_host(reference: &str) -> bool {
    let mut bytes = reference.bytes().filter(|byte| !byte.is_ascii_whitespace());
    let mut slash = || bytes.next().is_some_and(|byte| matches!(byte, b'/' | b'\\'));
    slash() && slash()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::testing::{Call, build, verdict};

    #[track_caller]
    fn check(regex: &str, replacement: &str, call: &str, expected: &str) {
        let settings = serde_json::json!({ "regex": regex, "replacement": replacement });
        let middleware: RedirectRegex = build(&settings.to_string()).unwrap();
        assert_eq!(verdict(&Call::new(call).down(&middleware)), expected, "{regex} {replacement} {call}");
    }

    #[test]
    fn the_pattern_sees_the_whole_url() {
        let regex = r"^(?:http?:\/\/)(foo)(\.com)(:\d+)(.*)$";
        check(regex, "https://${1}${2}:443$4", "GET http://foo.com:8080/x?y=z", "302 https://foo.com:443/x?y=z");
        check(regex, "https://${1}${2}:443$4", "GET http://foo.com:80/x", "continue");
        check(regex, "https://${1}${2}:443$4", "GET http://bar.com:8080/x", "continue");
        check(r"^http://(?P<host>[^/]+)/(.*)", "https://www.${host}/$2", "GET http://a.b/c", "302 https://www.a.b/c");
        check(r"^https://", "http://", "GET https://a/b", "302 http://a/b");
        check(r"^https://", "http://", "GET http://a/b", "continue");
        check(r"^(.*)$", "$1", "GET http://a/b", "continue");
        check(r"^http://a/old", "http://a/new", "POST http://a/old/x", "307 http://a/new/x");
        check(r"^http://[^/]+/(.*)", "/new/$1", "GET http://a/b", "302 /new/b");
    }

    #[test]
    fn a_client_cannot_choose_the_host() {
        check(r"^http://[^/]+/go(.*)", "/$1", "GET http://a/go/evil.com", "400 path-rewrite");
        check(r"^http://[^/]+/go/(.*)", "/$1", r"GET http://a/go/\evil.com", "400 path-rewrite");
        check(r"^http://[^/]+/go/(.*)", "//cdn/$1", "GET http://a/go/x", "302 //cdn/x");
    }

    #[test]
    fn refuses_what_is_no_pattern() {
        assert_eq!(build::<RedirectRegex>(r#"{"regex":"("}"#).unwrap_err().path, "regex");
    }

    #[test]
    fn permanent_ones_may_be_remembered() {
        let middleware: RedirectRegex = build(r#"{"regex":"^http:","replacement":"https:","permanent":true}"#).unwrap();
        assert_eq!(verdict(&Call::new("GET http://a/").down(&middleware)), "301 https://a/");
        assert_eq!(verdict(&Call::new("PUT http://a/").down(&middleware)), "308 https://a/");
    }
}

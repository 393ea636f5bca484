//! `stripPrefix`: takes a prefix off the request path and tells the server which.

use http::header::{HeaderName, HeaderValue};
use pingora::http::RequestHeader;
use serde::{Deserialize, Serialize};

use super::{Flow, Kit, Middleware, field, path};
use crate::exchange::Exchange;
use crate::problem::{Problem, Problems, each};

/// What was taken off.
pub(super) const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Settings of `stripPrefix`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Texts of which the first that the path starts with is taken off. They are compared by characters, not by segments: `/foo` is
    /// also taken off `/foobar`.
    #[serde(default)]
    pub prefixes: Vec<String>,
    /// Whether a path of which nothing is left becomes `/`, and slashes before the rest become one. Deprecated; off if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force_slash: Option<bool>,
}

/// Takes a prefix off the request path.
#[derive(Debug)]
pub struct StripPrefix {
    prefixes: Box<[Prefix]>,
    force_slash: bool,
}

/// One prefix, as it is compared and as the server is told.
#[derive(Debug)]
struct Prefix {
    path: String,
    told: HeaderValue,
}

impl Middleware for StripPrefix {
    type Settings = Settings;

    fn warnings(settings: &Settings) -> Vec<Problem> {
        let deprecated = settings.force_slash.map(|_| {
            Problem::warning("forceSlash", "`forceSlash` is deprecated")
                .with_help("a rest without a leading slash gets one anyway")
        });
        deprecated.into_iter().collect()
    }

    fn build(settings: &Settings, _: &Kit<'_>) -> Result<Self, Problems> {
        let prefix = |(index, text): (usize, &String)| {
            let at = format!("prefixes[{index}]");
            let path = path::from_settings(&at, text)?;
            let told = field::value(text.trim()).map_err(|message| Problem::at(at, message))?;
            Ok::<_, Problem>(Prefix { path, told })
        };
        let prefixes = each(settings.prefixes.iter().enumerate().map(prefix))?;
        Ok(Self { prefixes, force_slash: settings.force_slash == Some(true) })
    }

    async fn on_request(&self, request: &mut RequestHeader, _: &mut Exchange) -> Flow {
        let whole = request.uri.path();
        let found = self.prefixes.iter().find_map(|prefix| Some((whole.strip_prefix(&*prefix.path)?, &prefix.told)));
        let Some((rest, told)) = found else { return Flow::Continue };
        let rest = if self.force_slash { rest.trim_start_matches('/') } else { rest };
        let rest = path::with_leading_slash(rest).into_owned();
        strip(request, &rest, told.clone())
    }
}

/// Leaves `rest` of a request's path and tells the server what was taken off. Refuses if `rest` would mean another path.
pub(super) fn strip(request: &mut RequestHeader, rest: &str, told: HeaderValue) -> Flow {
    if !path::is_canonical(rest) {
        return path::refuse();
    }
    field::remove_aliases(request, &FORWARDED_PREFIX);
    // Appended, so that nested prefixes are all told. It cannot fail: both parts are valid.
    let _ = request.append_header(FORWARDED_PREFIX, told);
    path::replace(request, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::testing::{Call, build, verdict};

    #[track_caller]
    fn check(settings: &str, url: &str, expected: &str) {
        let middleware: StripPrefix = build(settings).unwrap();
        let mut call = Call::new(&format!("GET http://h{url}"));
        let seen = match call.down(&middleware) {
            Flow::Continue => format!("{} [{}]", call.target(), call.field("X-Forwarded-Prefix")),
            reply => verdict(&reply),
        };
        assert_eq!(seen, expected, "{url}");
    }

    #[test]
    fn takes_off_the_first_prefix_that_fits() {
        let settings = r#"{"prefixes":["/foo/","/stat"," /a b"]}"#;
        check(settings, "/foo/bar?q=/foo/", "/bar?q=/foo/ [/foo/]");
        check(settings, "/stat", "/ [/stat]");
        check(settings, "/stat/", "/ [/stat]");
        check(settings, "/static", "/ic [/stat]");
        check(settings, "/stat/us%2Fx", "/us%2Fx [/stat]");
        check(settings, "/foo", "/foo []");
        check(settings, "/nothing", "/nothing []");
        check(r#"{"prefixes":["/é"]}"#, "/%C3%A9/x", "/x [/é]");
        check(r#"{"prefixes":["/a/b"]}"#, "/a%2Fb/x", "/a%2Fb/x []");
        check(r#"{"prefixes":[]}"#, "/a", "/a []");
        check(r#"{"prefixes":["/foo"],"forceSlash":true}"#, "/foo/bar", "/bar [/foo]");
    }

    #[test]
    fn refuses_a_rest_that_means_another_path() {
        for url in
            ["/api../admin", "/api./admin", "/api..", "/api/../admin", "/api//admin", "/api%2e%2e/admin", "/api%2E/x"]
        {
            check(r#"{"prefixes":["/api"]}"#, url, "400 path-rewrite");
        }
        check(r#"{"prefixes":["/api"]}"#, "/api...", "/... [/api]");
        check(r#"{"prefixes":["/api"]}"#, "/api..%2Fadmin", "/..%2Fadmin [/api]");
        check(r#"{"prefixes":["/a"]}"#, "/a//evil.com", "400 path-rewrite");
        check(r#"{"prefixes":["/"]}"#, "//evil.com", "/evil.com [/]");
    }

    #[test]
    fn nested_prefixes_are_all_told_and_aliases_go() {
        let settings = r#"{"prefixes":["/a"]}"#;
        let middleware: StripPrefix = build(settings).unwrap();
        let mut call = Call::new("GET http://h/a/b\nX_Forwarded_Prefix: /evil\nX-Forwarded-Prefix: /outer");
        assert!(matches!(call.down(&middleware), Flow::Continue));
        assert_eq!(call.field("X-Forwarded-Prefix"), "/outer | /a");
        assert_eq!(call.field("X_Forwarded_Prefix"), "");
    }

    #[test]
    fn refuses_what_is_no_path() {
        let problem = build::<StripPrefix>(r#"{"prefixes":["/a","/%"]}"#).unwrap_err();
        assert_eq!(problem.path, "prefixes[1]");
    }
}

//! `addPrefix`: puts a prefix before the request path.

use pingora::http::RequestHeader;
use serde::{Deserialize, Serialize};

use super::{Flow, Kit, Middleware, path};
use crate::exchange::Exchange;
use crate::exchange::path::has_dot_segment;
use crate::problem::{Problem, Problems};

/// Settings of `addPrefix`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Text that is put before the path; a leading `/` is added where it is missing.
    #[serde(default)]
    pub prefix: String,
}

/// Puts a prefix before the request path.
#[derive(Debug)]
pub struct AddPrefix {
    prefix: String,
}

impl Middleware for AddPrefix {
    type Settings = Settings;

    fn build(settings: &Settings, _: &Kit<'_>) -> Result<Self, Problems> {
        if settings.prefix.is_empty() {
            return Err(Problem::at("prefix", "prefix cannot be empty").into());
        }
        let prefix = path::from_settings("prefix", &settings.prefix)?;
        Ok(Self { prefix: path::with_leading_slash(&prefix).into_owned() })
    }

    async fn on_request(&self, request: &mut RequestHeader, _: &mut Exchange) -> Flow {
        let rest = request.uri.path();
        if !rest.starts_with('/') {
            return Flow::Continue;
        }
        // Where entry points do not sanitise paths, one could climb out of the prefix.
        if has_dot_segment(rest) {
            return path::refuse();
        }
        let mut whole = String::with_capacity(self.prefix.len() + rest.len());
        whole.push_str(&self.prefix);
        whole.push_str(rest);
        path::replace(request, &whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::testing::{Call, build, verdict};

    #[track_caller]
    fn check(prefix: &str, url: &str, expected: &str) {
        let middleware: AddPrefix = build(&format!(r#"{{"prefix":"{prefix}"}}"#)).unwrap();
        let mut call = Call::new(&format!("GET http://h{url}"));
        assert!(matches!(call.down(&middleware), Flow::Continue));
        assert_eq!(call.target(), expected);
    }

    #[test]
    fn puts_the_prefix_before_the_path() {
        check("/a", "/b", "/a/b");
        check("/a", "/", "/a/");
        check("a", "/b?c=d", "/a/b?c=d");
        check("/a/", "/b", "/a//b");
        check("/a b", "/c%2Fd", "/a%20b/c%2Fd");
        check("/..", "/b", "/../b");
    }

    #[test]
    fn nothing_climbs_out_of_the_prefix() {
        let middleware: AddPrefix = build(r#"{"prefix":"/a"}"#).unwrap();
        assert_eq!(verdict(&Call::new("GET http://h/%2e%2e/b").down(&middleware)), "400 path-rewrite");
    }

    #[test]
    fn refuses_what_is_no_path() {
        for (prefix, message) in [("", "cannot be empty"), ("/a?b", "`?` or `#`"), ("/%", "percent sign")] {
            let problem = build::<AddPrefix>(&format!(r#"{{"prefix":"{prefix}"}}"#)).unwrap_err();
            assert_eq!(problem.path, "prefix");
            assert!(problem.message.contains(message), "{}", problem.message);
        }
    }
}

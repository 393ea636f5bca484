//! `replacePath`: one path for all requests; the server is told the old one.

use http::header::{HeaderName, HeaderValue};
use pingora::http::RequestHeader;
use serde::{Deserialize, Serialize};

use super::{Flow, Kit, Middleware, field, path};
use crate::exchange::Exchange;
use crate::problem::Problems;

/// The path before it was replaced.
pub(super) const REPLACED_PATH: HeaderName = HeaderName::from_static("x-replaced-path");

/// Settings of `replacePath`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// The path that requests get instead of theirs. Their query stays. The server is told the old one, with its query, in
    /// `X-Replaced-Path`.
    #[serde(default)]
    pub path: String,
}

/// Gives requests another path.
#[derive(Debug)]
pub struct ReplacePath {
    path: String,
}

impl Middleware for ReplacePath {
    type Settings = Settings;

    fn build(settings: &Settings, _: &Kit<'_>) -> Result<Self, Problems> {
        Ok(Self { path: path::from_settings("path", &settings.path)? })
    }

    async fn on_request(&self, request: &mut RequestHeader, _: &mut Exchange) -> Flow {
        let old = request.uri.path_and_query().map_or("/", |target| target.as_str());
        let Ok(old) = HeaderValue::from_bytes(old.as_bytes()) else { return path::refuse() };
        tell_old_path(request, old);
        path::replace(request, &self.path)
    }
}

/// Tells the server the path that was replaced.
pub(super) fn tell_old_path(request: &mut RequestHeader, old: HeaderValue) {
    field::remove_aliases(request, &REPLACED_PATH);
    // Appended, so that nested replacements are all told. It cannot fail: both parts are valid.
    let _ = request.append_header(REPLACED_PATH, old);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::testing::{Call, build};

    #[track_caller]
    fn check(path: &str, url: &str, expected: &str) {
        let middleware: ReplacePath = build(&format!(r#"{{"path":"{path}"}}"#)).unwrap();
        let mut call = Call::new(&format!("GET http://h{url}"));
        assert!(matches!(call.down(&middleware), Flow::Continue));
        assert_eq!(format!("{} [{}]", call.target(), call.field("X-Replaced-Path")), expected);
    }

    #[test]
    fn replaces_and_tells() {
        check("/new", "/old", "/new [/old]");
        check("/new", "/old%2Fx?q=1", "/new?q=1 [/old%2Fx?q=1]");
        check("/new path%2Fx", "/", "/new%20path%2Fx [/]");
        check("", "/old", "/ [/old]");
        check("new", "/old", "/new [/old]");
    }

    #[test]
    fn refuses_what_is_no_path() {
        assert_eq!(build::<ReplacePath>(r#"{"path":"/a?b"}"#).unwrap_err().path, "path");
    }
}

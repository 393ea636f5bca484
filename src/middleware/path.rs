//! Safe edits of a request's path: query, scheme and authority stay, escapes stay escaped.

use std::borrow::Cow;

use http::Uri;
use http::uri::PathAndQuery;
use pingora::http::RequestHeader;

use super::Flow;
use crate::exchange::path::{PathError, has_dot_segment, normalize, sanitize};
use crate::exchange::{Fault, Reply};
use crate::problem::Problem;

/// Longest replacement text, in bytes: what a request's path can grow to stays bounded.
const REPLACEMENT_LIMIT_BYTES: usize = 4096;

/// A path from settings, in canonical spelling; `field` is where a problem stands.
///
/// # Errors
/// If the text cannot be a path.
pub fn from_settings(field: &str, text: &str) -> Result<String, Problem> {
    normalize(text).map(Cow::into_owned).map_err(|error: PathError| Problem::at(field, error.to_string()))
}

/// A replacement from settings.
///
/// # Errors
/// If it is too long.
pub fn replacement_from_settings(field: &str, text: &str) -> Result<String, Problem> {
    if text.len() > REPLACEMENT_LIMIT_BYTES {
        return Err(Problem::at(field, format!("the replacement is longer than {REPLACEMENT_LIMIT_BYTES} bytes")));
    }
    Ok(text.trim().to_owned())
}

/// `path` with the slash that every path starts with.
pub fn with_leading_slash(path: &str) -> Cow<'_, str> {
    if path.starts_with('/') { Cow::Borrowed(path) } else { Cow::Owned(format!("/{path}")) }
}

/// Whether `path`, made from parts that the client chose, still means what it says: sent on as it is, a server would not read it
/// as another path than the one that was routed, nor as a host (`//`).
pub fn is_plain(path: &str) -> bool {
    !path.starts_with("//") && !has_dot_segment(path) && matches!(normalize(path), Ok(Cow::Borrowed(_)))
}

/// Whether `path` is also free of empty segments.
pub fn is_canonical(path: &str) -> bool {
    is_plain(path) && matches!(sanitize(path), Cow::Borrowed(_))
}

/// Refuses a request whose path, once rewritten, would mean something else.
pub fn refuse() -> Flow {
    Flow::reply(Reply::fault(Fault::PathRewrite))
}

/// Gives the request another path; its query stays.
pub fn replace(request: &mut RequestHeader, path: &str) -> Flow {
    let mut target = String::with_capacity(path.len() + 1 + request.uri.query().map_or(0, |query| query.len() + 1));
    target.push_str(&with_leading_slash(path));
    if let Some(query) = request.uri.query() {
        target.push('?');
        target.push_str(query);
    }
    replace_target(request, target)
}

/// Gives the request another path and query.
pub fn replace_target(request: &mut RequestHeader, target: String) -> Flow {
    let Ok(target) = PathAndQuery::from_maybe_shared(bytes::Bytes::from(target)) else { return refuse() };
    let uri = if request.uri.authority().is_none() {
        Uri::from(target)
    } else {
        let mut parts = request.uri.clone().into_parts();
        parts.path_and_query = Some(target);
        match Uri::from_parts(parts) {
            Ok(uri) => uri,
            Err(_) => return refuse(),
        }
    };
    request.set_uri(uri);
    Flow::Continue
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::Call;
    use super::super::{AnyMiddleware, Kit, Settings};
    use super::*;
    use crate::units::Name;

    #[test]
    fn authority_and_query_stay() {
        for (target, expected) in
            [("/a?b=%2f", "/x%2Fy?b=%2f"), ("/a", "/x%2Fy"), ("https://h:1/a?b", "https://h:1/x%2Fy?b")]
        {
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            request.set_uri(target.parse().unwrap());
            assert!(matches!(replace(&mut request, "x%2Fy"), Flow::Continue));
            assert_eq!(request.uri.to_string(), expected);
        }
    }

    #[test]
    fn knows_paths_that_mean_something_else() {
        for (path, plain, canonical) in [
            ("/a/b", true, true),
            ("/a//b", true, false),
            ("//a", false, false),
            ("/../a", false, false),
            ("/%2e%2e/a", false, false),
            ("/%61", false, false),
            ("/a/..", false, false),
        ] {
            assert_eq!((is_plain(path), is_canonical(path)), (plain, canonical), "{path}");
        }
    }

    #[test]
    fn too_long_a_target_is_refused() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        assert!(matches!(replace(&mut request, &"a".repeat(70_000)), Flow::Reply(_)));
        assert_eq!(request.uri.path(), "/");
    }

    /// What a server is sent when `path` has gone through a middleware; `None` if it was refused.
    fn sent(settings: &str, path: &str) -> Option<String> {
        let settings: Settings = serde_json::from_str(settings).unwrap();
        let middleware = AnyMiddleware::build(&settings, &Kit { name: &Name::from("a@file") }).unwrap();
        let mut call = Call::new(&format!("GET http://h{path}"));
        let flow = futures_util::FutureExt::now_or_never(middleware.on_request(&mut call.request, &mut call.exchange))
            .unwrap();
        matches!(flow, Flow::Continue).then(|| call.request.uri.path().to_owned())
    }

    const REWRITES: [&str; 7] = [
        r#"{"addPrefix":{"prefix":"/v1"}}"#,
        r#"{"stripPrefix":{"prefixes":["/api"]}}"#,
        r#"{"stripPrefix":{"prefixes":["/api"],"forceSlash":true}}"#,
        r#"{"stripPrefixRegex":{"regex":["^/a[a-z]+"]}}"#,
        r#"{"replacePathRegex":{"regex":"^/api(.*)","replacement":"$1"}}"#,
        r#"{"replacePathRegex":{"regex":"^/api/?(.*)$","replacement":"/v1/${1}"}}"#,
        r#"{"replacePathRegex":{"regex":"api","replacement":""}}"#,
    ];

    #[test]
    fn no_spelling_reaches_another_path() {
        for tail in [
            "../admin",
            "/../admin",
            "/..%2fadmin",
            "%2e%2e/admin",
            "%2E./admin",
            ".%2e/admin",
            "./admin",
            "%2e/admin",
            "/./admin",
            "//admin",
            "/%2e%2e/admin",
            "/..;/admin",
            "/%5c../admin",
            "..%5cadmin",
            r"..\admin",
            "/x/../../admin",
            "/..",
            "..",
            "/.",
            "../",
            "%2e%2e%2f..%2fadmin",
            "/%252e%252e/admin",
            "%252e%252e/admin",
            "/a/..//../admin",
            "/apiapi../admin",
            "..api/admin",
        ] {
            let Ok(normal) = normalize(tail) else { continue };
            let whole = format!("/api{normal}");
            for settings in REWRITES {
                // As it came, and as the entry point hands it on.
                for path in [&*whole, &sanitize(&whole)] {
                    let Some(seen) = sent(settings, path) else { continue };
                    assert!(is_plain(&seen) || seen == path, "{settings}: {path} became {seen}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_sent_means_what_it_says(tail in r"([a-z./;-]|%2[eEfF]|%5[cC]|%25|\.\.|api|//){0,16}") {
            let whole = format!("/api{tail}");
            let normal = normalize(&whole).unwrap();
            let path = sanitize(&normal);
            for settings in REWRITES {
                if let Some(seen) = sent(settings, &path) {
                    prop_assert!(is_plain(&seen), "{}: {} became {}", settings, path, seen);
                }
            }
        }
    }
}

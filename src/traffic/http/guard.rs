//! What every request must pass before routing: one canonical path, no ambiguous header. Router, middlewares, log and
//! server then see the same request.

use std::borrow::Cow;

use http::header::{COOKIE, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Uri, Version};
use pingora::http::RequestHeader;

use crate::exchange::{Fault, path};

/// Encoded characters that a path may hold. Traefik allows all of them by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodedCharacters {
    /// `%2F`
    pub slash: bool,
    /// `%5C`
    pub backslash: bool,
    /// `%00`
    pub null: bool,
    /// `%3B`
    pub semicolon: bool,
    /// `%25`
    pub percent: bool,
    /// `%3F`
    pub question_mark: bool,
    /// `%23`
    pub hash: bool,
}

impl EncodedCharacters {
    /// Everything may pass.
    pub const ALL: Self = Self {
        slash: true,
        backslash: true,
        null: true,
        semicolon: true,
        percent: true,
        question_mark: true,
        hash: true,
    };

    /// Whether `path` holds none that is denied.
    pub fn allow(&self, path: &str) -> bool {
        if *self == Self::ALL || !path.contains('%') {
            return true;
        }
        path.as_bytes().windows(3).all(|escape| match escape {
            [b'%', b'2', b'F' | b'f'] => self.slash,
            [b'%', b'5', b'C' | b'c'] => self.backslash,
            b"%00" => self.null,
            [b'%', b'3', b'B' | b'b'] => self.semicolon,
            b"%25" => self.percent,
            [b'%', b'3', b'F' | b'f'] => self.question_mark,
            b"%23" => self.hash,
            _ => true,
        })
    }
}

/// What happens to header names with an underscore, which many servers take for a dash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscores {
    /// They pass (Traefik's default).
    #[default]
    Keep,
    /// They are removed.
    Delete,
    /// The request is refused.
    Reject,
}

/// How an entry point treats requests before routing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardOptions {
    /// Whether `.`/`..` segments and repeated slashes are removed.
    pub sanitize_path: bool,
    /// Whether `;` in a query becomes `%3B`; otherwise it parts parameters as `&` does.
    pub encode_query_semicolons: bool,
    /// Header names with underscores.
    pub underscores: Underscores,
}

impl Default for GuardOptions {
    fn default() -> Self {
        Self { sanitize_path: true, encode_query_semicolons: false, underscores: Underscores::Keep }
    }
}

/// Brings a request into its one canonical form.
///
/// # Errors
/// The fault to answer with, if it has none.
pub fn canonicalize(request: &mut RequestHeader, options: &GuardOptions) -> Result<(), Fault> {
    filter_underscores(request, options.underscores)?;
    if request.version == Version::HTTP_2 {
        join_cookies(request);
    }
    let raw = request.uri.path();
    let normal = path::normalize(raw).map_err(|_| Fault::BadRequest)?;
    let clean = if options.sanitize_path { sanitize(normal) } else { normal };
    let query = request.uri.query().unwrap_or_default();
    let semicolons = query.contains(';');
    if clean == raw && !semicolons && request.uri.scheme().is_none() {
        return Ok(());
    }
    let query = match semicolons {
        true if options.encode_query_semicolons => query.replace(';', "%3B"),
        true => query.replace(';', "&"),
        false => query.to_owned(),
    };
    let target = if request.uri.query().is_some() { format!("{clean}?{query}") } else { clean.into_owned() };
    rewrite_target(request, &target)
}

/// Replaces path and query, dropping the authority of an absolute-form target (Host holds it already).
fn rewrite_target(request: &mut RequestHeader, target: &str) -> Result<(), Fault> {
    let target: PathAndQuery = target.parse().map_err(|_| Fault::BadRequest)?;
    let uri = if request.version == Version::HTTP_2 {
        let mut parts = std::mem::take(&mut request.uri.clone()).into_parts();
        parts.path_and_query = Some(target);
        Uri::from_parts(parts)
    } else {
        let mut parts = http::uri::Parts::default();
        parts.path_and_query = Some(target);
        Uri::from_parts(parts)
    };
    request.set_uri(uri.map_err(|_| Fault::BadRequest)?);
    Ok(())
}

fn sanitize(path: Cow<'_, str>) -> Cow<'_, str> {
    match path {
        Cow::Borrowed(path) => path::sanitize(path),
        Cow::Owned(path) => Cow::Owned(path::sanitize(&path).into_owned()),
    }
}

fn filter_underscores(request: &mut RequestHeader, underscores: Underscores) -> Result<(), Fault> {
    if underscores == Underscores::Keep || !request.headers.keys().any(|name| name.as_str().contains('_')) {
        return Ok(());
    }
    if underscores == Underscores::Reject {
        return Err(Fault::BadRequest);
    }
    let found: Vec<HeaderName> = request.headers.keys().filter(|name| name.as_str().contains('_')).cloned().collect();
    for name in found {
        request.remove_header(&name);
    }
    Ok(())
}

/// HTTP/2 clients may send a cookie list in crumbs; everybody else knows one field only (RFC 9113 §8.2.3).
fn join_cookies(request: &mut RequestHeader) {
    if request.headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let joined = request.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b"; "[..]);
    if let Ok(joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        // `http` has accepted all of it already.
        let _ = request.insert_header(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: GuardOptions =
        GuardOptions { sanitize_path: true, encode_query_semicolons: false, underscores: Underscores::Delete };

    fn check(target: &str, options: &GuardOptions, expected: &str) {
        let mut request = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
        canonicalize(&mut request, options).unwrap();
        assert_eq!(request.uri.to_string(), expected, "{target}");
    }

    #[test]
    fn one_path_for_everyone() {
        check("/a/../b//c?x=1", &OPTIONS, "/b/c?x=1");
        check("/%77ith/%2f", &OPTIONS, "/with/%2F");
        check("/a?x=1;y=2", &OPTIONS, "/a?x=1&y=2");
        check("/a?x=1;y=2", &GuardOptions { encode_query_semicolons: true, ..OPTIONS }, "/a?x=1%3By=2");
        check("http://a.test/b?c", &OPTIONS, "/b?c");
        check("/a//b/./c", &GuardOptions { sanitize_path: false, ..OPTIONS }, "/a//b/./c");
    }

    #[test]
    fn denied_characters_are_found_in_either_case() {
        let denied = EncodedCharacters { slash: false, ..EncodedCharacters::ALL };
        assert!(!denied.allow("/a%2fb") && !denied.allow("/a%2Fb") && denied.allow("/a%3Bb/c"));
        assert!(EncodedCharacters::ALL.allow("/a%2fb%00"));
    }

    #[test]
    fn underscored_names_go() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        request.insert_header("x_a", "1").unwrap();
        canonicalize(&mut request, &OPTIONS).unwrap();
        assert!(request.headers.is_empty());
        request.insert_header("x_a", "1").unwrap();
        let reject = GuardOptions { underscores: Underscores::Reject, ..OPTIONS };
        assert_eq!(canonicalize(&mut request, &reject), Err(Fault::BadRequest));
    }
}

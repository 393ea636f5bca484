//! The judgement on the head of an HTTP/2 request, as `framing.rs` makes it for HTTP/1.
//!
//! `h2` has checked frames, names and pseudo-header fields by then. What is left is what the front door refuses over HTTP/1 as well,
//! so that the request can be sent on as HTTP/1 (RFC 9113 §8.3.1, §10.3).

use http::Method;
use http::header::{COOKIE, HOST, HeaderName, HeaderValue};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession;

use super::super::framing::{is_authority, is_method, is_spelling_of, is_target};
use super::super::options::Limits;
use crate::exchange::Fault;

/// Judges a head.
///
/// # Errors
/// `BadRequest` if it is malformed (RFC 9113 §8.1.1), else the failure to answer with.
pub(super) fn judge(request: &RequestHeader, limits: &Limits) -> Result<(), Fault> {
    if !request.headers.iter().all(|(name, value)| is_clear(name, value.as_bytes())) {
        return Err(Fault::BadRequest);
    }
    if request.method == Method::CONNECT {
        return Err(Fault::MethodRefused);
    }
    let target = request.raw_path();
    let knows = |scheme: &str| ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    let is_form = is_method(request.method.as_str().as_bytes())
        && request.uri.scheme_str().is_some_and(knows)
        && (target.starts_with(b"/") || (target == b"*" && request.method == Method::OPTIONS))
        && is_target(target)
        && has_one_host(request);
    if !is_form {
        return Err(Fault::BadRequest);
    }
    if target.len() > limits.target_bytes {
        return Err(Fault::TargetTooLong);
    }
    // The crumbs of a cookie are one field (RFC 9113 §8.2.3).
    let crumbs = request.headers.get_all(COOKIE).iter().count();
    let fields = request.headers.len() - crumbs.saturating_sub(1);
    if fields > limits.header_fields { Err(Fault::HeadTooLarge) } else { Ok(()) }
}

/// Whether a field says what it seems to: no blanks around its value (RFC 9113 §8.2.1), which HTTP/1 would take away, and a name
/// that no server takes for one that frames a message.
fn is_clear(name: &HeaderName, value: &[u8]) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let name = name.as_str().as_bytes();
    let is_alias = |of: &[u8]| name != of && is_spelling_of(name, of);
    !is_blank(value.first())
        && !is_blank(value.last())
        && !name.contains(&b'%')
        && !is_alias(b"content-length")
        && !is_alias(b"transfer-encoding")
}

/// Whether authority and Host say the same, if there are both.
fn has_one_host(request: &RequestHeader) -> bool {
    let mut hosts = request.headers.get_all(HOST).iter().map(HeaderValue::as_bytes);
    let (host, another) = (hosts.next(), hosts.next());
    let authority = request.uri.authority().map(|authority| authority.as_str().as_bytes());
    another.is_none()
        && match (authority, host) {
            (Some(authority), Some(host)) => is_authority(authority) && authority.eq_ignore_ascii_case(host),
            (Some(only), None) | (None, Some(only)) => is_authority(only),
            (None, None) => false,
        }
}

/// Refuses a request that nobody else will see: by a reset if it is malformed, else by an answer.
pub(super) async fn refuse(session: &mut ServerSession, fault: Fault) {
    if fault == Fault::BadRequest {
        return session.shutdown_with_reason(h2::Reason::PROTOCOL_ERROR);
    }
    // A client that is gone misses nothing.
    let _ = answer(session, fault).await;
}

async fn answer(session: &mut ServerSession, fault: Fault) -> pingora::Result<()> {
    let mut header = ResponseHeader::build(fault.status(), Some(4))?;
    header.insert_header("Content-Type", "text/plain; charset=utf-8")?;
    header.insert_header("Content-Length", fault.text().len())?;
    header.insert_header("X-Portcullis-Error", fault.code())?;
    let is_head = session.req_header().method == Method::HEAD;
    session.write_response_header(Box::new(header)).await?;
    let body = if is_head { "" } else { fault.text() };
    session.write_response_body(bytes::Bytes::from_static(body.as_bytes()), true).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, uri: &str, fields: &[(&str, &str)], expected: Result<(), Fault>) {
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let request = RequestHeader::from(request.body(()).unwrap().into_parts().0);
        let limits = Limits { header_fields: 3, target_bytes: 10, ..Limits::default() };
        assert_eq!(judge(&request, &limits), expected, "{method} {uri} {fields:?}");
    }

    #[test]
    fn heads_are_judged_as_those_of_http1() {
        let bad = Err(Fault::BadRequest);
        check("GET", "http://a.test/", &[("x", ""), ("y", "a b")], Ok(()));
        for value in [" a", "a ", "\ta", "a\t", " ", "\t"] {
            check("GET", "http://a.test/", &[("x", value)], bad);
        }
        check("GET", "http://a.test/", &[("host", "A.test")], Ok(()));
        check("GET", "http://a.test/", &[("host", "b.test")], bad);
        check("GET", "ftp://a.test/", &[], bad);
        check("get", "http://a.test/", &[], bad);
        check("GET", "http://a.test/", &[("content_length", "1")], bad);
        check("GET", "http://a.test/", &[("transfer-%45ncoding", "1")], bad);
        check("CONNECT", "a.test:80", &[], Err(Fault::MethodRefused));
        check("CONNECT", "a.test:80", &[("x", " a")], bad);
    }

    #[test]
    fn limits_are_those_of_the_entry_point() {
        check("GET", "http://a.test/123456789", &[], Ok(()));
        check("GET", "http://a.test/1234567890", &[], Err(Fault::TargetTooLong));
        check("GET", "http://a.test/", &[("a", ""), ("b", ""), ("c", "")], Ok(()));
        check("GET", "http://a.test/", &[("a", ""), ("b", ""), ("c", ""), ("d", "")], Err(Fault::HeadTooLarge));
        check("GET", "http://a.test/", &[("a", ""), ("b", ""), ("cookie", "a"), ("cookie", "b")], Ok(()));
    }
}

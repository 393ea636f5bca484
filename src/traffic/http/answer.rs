//! A server's answer: refused if it can be read in two ways, and cleaned of what concerns its own connection.

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::{StatusCode, Version};
use pingora::ErrorType;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::{Error, Result};

use super::hooks::HOP_BY_HOP;
use super::respond::ERROR_HEADER;

/// Largest head of a server's answer, in bytes.
const HEAD_LIMIT_BYTES: usize = 1 << 20;

/// Judges the head of an answer, informational ones included.
///
/// # Errors
/// If nobody can tell where its body ends, or what follows it.
pub(super) fn check(request: &RequestHeader, response: &ResponseHeader) -> Result<()> {
    // RFC 9110 §7.8: unasked, the bytes of the other protocol would pass for responses.
    let may_switch = request.version == Version::HTTP_11 && request.headers.contains_key(UPGRADE);
    if response.status == StatusCode::SWITCHING_PROTOCOLS && !may_switch {
        return refuse("the server changes the protocol unasked");
    }
    // Pingora looks at its limit only between two reads, so how much it takes depends on how the bytes arrive.
    if head_bytes(response) > HEAD_LIMIT_BYTES {
        return refuse("the head of the server's answer is too large");
    }
    if !is_framed_once(response) {
        return refuse("the server's answer has a length that can be read in two ways");
    }
    Ok(())
}

fn head_bytes(response: &ResponseHeader) -> usize {
    response.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum()
}

/// RFC 9112 §6.3: one `chunked`, or lengths that say the same, or neither.
fn is_framed_once(response: &ResponseHeader) -> bool {
    let mut codings = response.headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next().map(HeaderValue::as_bytes);
    let mut lengths = response.headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next().map(HeaderValue::as_bytes);
    match (coding, length) {
        (None, None) => true,
        (Some(coding), None) => {
            let is_readable = response.version != Version::HTTP_10 && coding.eq_ignore_ascii_case(b"chunked");
            is_readable && codings.next().is_none()
        }
        (None, Some(length)) => {
            let is_number = (1..=18).contains(&length.len()) && length.iter().all(u8::is_ascii_digit);
            is_number && lengths.all(|other| other.as_bytes() == length)
        }
        (Some(_), Some(_)) => false,
    }
}

fn refuse(why: &'static str) -> Result<()> {
    let mut error = Error::explain(ErrorType::InvalidHTTPHeader, why);
    error.as_up();
    Err(error)
}

/// Removes what concerns the server's connection only (RFC 9110 §7.6.1), and what only we may say.
pub(super) fn clean(response: &mut ResponseHeader) {
    response.remove_header(&ERROR_HEADER);
    // RFC 9110 §2.5: the version is that of whoever writes the message.
    response.set_version(Version::HTTP_11);
    if response.headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some()
        && let Some(length) = response.headers.get(CONTENT_LENGTH).cloned()
    {
        let _ = response.insert_header(CONTENT_LENGTH, length);
    }
    if response.status.is_informational() || response.status == StatusCode::NO_CONTENT {
        // RFC 9110 §8.6, RFC 9112 §6.1: there is no body to frame.
        response.remove_header(&CONTENT_LENGTH);
        response.remove_header(&TRANSFER_ENCODING);
    }
    if response.status == StatusCode::SWITCHING_PROTOCOLS || !response.headers.contains_key(CONNECTION) {
        for name in &HOP_BY_HOP[..2] {
            response.remove_header(name);
        }
        return;
    }
    let nominated: smallvec::SmallVec<[HeaderName; 4]> = response
        .headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value: &HeaderValue| value.as_bytes().split(|byte| *byte == b','))
        .map(|token| token.trim_ascii())
        // Nearly every server says one of these, and neither names a field that is left.
        .filter(|token| !token.eq_ignore_ascii_case(b"keep-alive") && !token.eq_ignore_ascii_case(b"close"))
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .filter(|name| !matches!(name.as_str(), "content-length" | "transfer-encoding" | "content-type" | "set-cookie"))
        .collect();
    for name in nominated.iter().chain(&HOP_BY_HOP[..3]).chain([&UPGRADE]) {
        response.remove_header(name);
    }
}

/// Takes the chunked coding off an answer to an HTTP/1.0 client, which cannot read it (RFC 9112 §6.1). Whether the body then
/// has no length.
pub(super) fn unchunk(response: &mut ResponseHeader) -> bool {
    response.remove_header(&TRANSFER_ENCODING).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, fields: &[(&'static str, &str)]) -> ResponseHeader {
        let mut response = ResponseHeader::build(status, None).unwrap();
        for (name, value) in fields {
            response.append_header(*name, *value).unwrap();
        }
        response
    }

    #[test]
    fn lengths_are_read_in_one_way() {
        for (fields, expected) in [
            (&[][..], true),
            (&[("content-length", "5")], true),
            (&[("content-length", "5"), ("content-length", "5")], true),
            (&[("content-length", "5"), ("content-length", "6")], false),
            (&[("content-length", "+5")], false),
            (&[("content-length", "")], false),
            (&[("content-length", "5, 5")], false),
            (&[("content-length", "9999999999999999999")], false),
            (&[("transfer-encoding", "Chunked")], true),
            (&[("transfer-encoding", "gzip, chunked")], false),
            (&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], false),
            (&[("transfer-encoding", "chunked"), ("content-length", "5")], false),
        ] {
            let request = RequestHeader::build("GET", b"/", None).unwrap();
            assert_eq!(check(&request, &response(200, fields)).is_ok(), expected, "{fields:?}");
        }
    }

    #[test]
    fn what_is_not_for_the_client_goes() {
        let mut twice = response(200, &[("content-length", "5"), ("content-length", "5"), ("x-portcullis-error", "x")]);
        clean(&mut twice);
        assert_eq!((twice.headers.get_all(CONTENT_LENGTH).iter().count(), twice.headers.len()), (1, 1));
        for status in [103, 204] {
            let mut empty =
                response(status, &[("content-length", "5"), ("transfer-encoding", "chunked"), ("link", "x")]);
            clean(&mut empty);
            assert_eq!(empty.headers.len(), 1, "{status}");
        }
        let mut nominating =
            response(200, &[("connection", "x-a, close, set-cookie"), ("x-a", "1"), ("set-cookie", "a")]);
        clean(&mut nominating);
        assert_eq!(nominating.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["set-cookie"]);
    }
}

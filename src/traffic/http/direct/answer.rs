//! A server's answer as it comes over HTTP/1: its head, and where its body ends.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{Method, StatusCode, Version};
use pingora::ErrorType;
use pingora::http::{ResponseHeader, header_value_from_raw};
use pingora::prelude::{Error, Result};

use super::malformed;
use crate::traffic::chunks::Chunks;

/// Most fields of an answer.
const FIELDS: usize = 256;
/// Largest head, in bytes.
const HEAD_BYTES: usize = 1 << 20;

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) response: ResponseHeader,
    /// The server keeps the connection after the answer (RFC 9112 §9.3).
    pub(super) persists: bool,
}

/// Takes a head out of `input`, if it is whole. `scanned` is how far it was looked at in vain; zero at first.
///
/// # Errors
/// If it is none.
pub(super) fn take_head(input: &mut BytesMut, scanned: &mut usize) -> Result<Option<Head>> {
    if !has_end(input, scanned) {
        return want_more(input);
    }
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let mut parser = httparse::ParserConfig::default();
    // As servers have done for ever; both are mended below (RFC 9112 §5.1, §5.2).
    parser.allow_spaces_after_header_name_in_responses(true);
    parser.allow_obsolete_multiline_headers_in_responses(true);
    let end = match parser.parse_response_with_uninit_headers(&mut parsed, input, &mut fields) {
        Ok(httparse::Status::Complete(end)) => end,
        // What ended was an empty line before the head.
        Ok(httparse::Status::Partial) => return want_more(input),
        Err(error) => {
            return Err(Error::because(ErrorType::InvalidHTTPHeader, "reading the answer's head", error).into_up());
        }
    };
    let start = input.as_ptr().addr();
    let mut response = ResponseHeader::build_no_case(parsed.code.unwrap_or_default(), Some(parsed.headers.len() + 4))
        .map_err(|_| malformed("a status that is none"))?;
    response.set_version(if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 });
    response.set_reason_phrase(parsed.reason)?;
    let places: smallvec::SmallVec<[_; 16]> = parsed
        .headers
        .iter()
        .map(|field| {
            let at = field.value.as_ptr().addr().wrapping_sub(start);
            (HeaderName::from_bytes(field.name.as_bytes()), at..at + field.value.len())
        })
        .collect();
    let head = input.split_to(end).freeze();
    for (name, place) in places {
        let name = name.map_err(|_| malformed("a field name that is none"))?;
        response.append_header(name, value(head.slice(place)))?;
    }
    let persists = persists(&response);
    if response.headers.contains_key(TRANSFER_ENCODING) && response.headers.contains_key(CONTENT_LENGTH) {
        // RFC 9112 §6.3: the coding counts, and the connection is not to be trusted further.
        response.remove_header(&CONTENT_LENGTH);
        return Ok(Some(Head { response, persists: false }));
    }
    Ok(Some(Head { response, persists }))
}

fn want_more(input: &[u8]) -> Result<Option<Head>> {
    if input.len() > HEAD_BYTES { Err(malformed("the head of the server's answer is too large")) } else { Ok(None) }
}

/// Whether the empty line that ends a head has come; no byte is looked at twice.
fn has_end(input: &[u8], scanned: &mut usize) -> bool {
    while let Some(at) = memchr::memchr(b'\n', &input[*scanned..]) {
        let behind = &input[*scanned + at + 1..];
        match behind {
            [b'\n', ..] | [b'\r', b'\n', ..] => return true,
            // The line may be an empty one as soon as more has come.
            [] | [b'\r'] => {
                *scanned += at;
                return false;
            }
            _ => *scanned += at + 1,
        }
    }
    *scanned = input.len();
    false
}

fn value(raw: Bytes) -> HeaderValue {
    if raw.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        return header_value_from_raw(raw);
    }
    HeaderValue::from_maybe_shared(raw.clone()).unwrap_or_else(|_| header_value_from_raw(raw))
}

fn persists(response: &ResponseHeader) -> bool {
    let mut options =
        response.headers.get_all(CONNECTION).iter().flat_map(|value| value.as_bytes().split(|it| *it == b','));
    if response.version == Version::HTTP_10 {
        options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"keep-alive"))
    } else {
        !options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
    }
}

/// What is left of an answer's body (RFC 9112 §6.3).
#[derive(Debug)]
pub(super) enum Body {
    /// So many bytes.
    Length(u64),
    Chunked(Chunks),
    UntilClose,
    /// It ended with the connection.
    Closed,
}

impl Body {
    /// That of an answer whose framing has been judged.
    pub(super) fn of(method: &Method, head: &Head) -> Self {
        let response = &head.response;
        let status = response.status;
        if *method == Method::HEAD || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
            return Self::Length(0);
        }
        if response.headers.contains_key(TRANSFER_ENCODING) {
            return Self::Chunked(Chunks::of_server());
        }
        let length = response.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        length.map_or(Self::UntilClose, Self::Length)
    }

    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.is_done(),
            Self::UntilClose => false,
            Self::Closed => true,
        }
    }

    /// Takes the next piece out of `input`. `None`: more is needed, or the body is over.
    ///
    /// # Errors
    /// If the chunked coding is broken.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>> {
        let all = input.len();
        let taken = match self {
            Self::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(all);
                *left -= taken as u64;
                taken
            }
            Self::Chunked(chunks) => return chunks.next(input).map_err(|_| malformed("a chunked body that is broken")),
            Self::UntilClose => all,
            Self::Closed => 0,
        };
        Ok((taken > 0).then(|| input.split_to(taken).freeze()))
    }

    /// The server has closed.
    ///
    /// # Errors
    /// If the body was not at its end.
    pub(super) fn close(&mut self) -> Result<()> {
        match self {
            Self::UntilClose => {
                *self = Self::Closed;
                Ok(())
            }
            _ => Err(Error::explain(ErrorType::ConnectionClosed, "within the answer's body").into_up()),
        }
    }

    /// How much to ask for with the next read.
    pub(super) fn wanted_bytes(&self, (least, most): (usize, usize)) -> usize {
        match self {
            Self::Length(left) => usize::try_from(*left).unwrap_or(usize::MAX).clamp(least, most),
            _ => most / 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The first head in `input`, when it comes in pieces of `step` bytes, and what is left then.
    fn feed(input: &[u8], step: usize) -> Result<Option<(Head, Bytes)>> {
        let (mut buffer, mut scanned) = (BytesMut::new(), 0);
        for (at, piece) in input.chunks(step.max(1)).enumerate() {
            buffer.extend_from_slice(piece);
            if let Some(head) = take_head(&mut buffer, &mut scanned)? {
                buffer.extend_from_slice(&input[input.len().min((at + 1) * step.max(1))..]);
                return Ok(Some((head, buffer.freeze())));
            }
        }
        Ok(None)
    }

    fn told(input: &[u8], step: usize) -> Option<String> {
        let (head, rest) = feed(input, step).ok()??;
        let fields =
            head.response.headers.iter().map(|(name, value)| format!("{name}={}", value.as_bytes().escape_ascii()));
        let fields = fields.collect::<Vec<_>>().join(" ");
        Some(format!("{} {fields} {} {}", head.response.status.as_u16(), head.persists, rest.escape_ascii()))
    }

    #[test]
    fn heads_are_read_however_they_are_cut() {
        for (input, expected) in [
            ("HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody", Some("200 a=b true body")),
            ("HTTP/1.1 200 OK\r\nConnection: x, Close\r\n\r\n", Some("200 connection=x, Close false ")),
            ("HTTP/1.0 200 OK\r\n\r\n", Some("200  false ")),
            ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", Some("200 connection=keep-alive true ")),
            ("HTTP/1.1 200 OK\nA: b\n\nx", Some("200 a=b true x")),
            ("HTTP/1.1 200 OK\r\nA : b\r\nC: d\r\n e\r\n\r\n", Some("200 a=b c=d e true ")),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                Some("200 transfer-encoding=chunked false "),
            ),
            ("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Some("103  true HTTP/1.1 200 OK\\r\\n\\r\\n")),
            ("HTTP/1.1 099 X\r\n\r\n", None),
            ("HTTP/2 200\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\nA: b\r\n", None),
            ("hello\r\n\r\n", None),
        ] {
            for step in [1, 2, 3, 7, input.len()] {
                assert_eq!(told(input.as_bytes(), step).as_deref(), expected, "{input:?} by {step}");
            }
        }
    }

    #[test]
    fn heads_without_end_are_refused() {
        let endless = format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(HEAD_BYTES));
        assert!(take_head(&mut BytesMut::from(endless.as_bytes()), &mut 0).is_err());
        // Nor can an empty line before it hide that it has none.
        let behind = format!("\r\n\r\n{endless}");
        assert!(take_head(&mut BytesMut::from(behind.as_bytes()), &mut 0).is_err());
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(FIELDS + 1));
        assert!(take_head(&mut BytesMut::from(many.as_bytes()), &mut 0).is_err());
    }

    #[test]
    fn bodies_end_where_their_heads_say() {
        for (method, input, left, over) in [
            ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbodyHTTP", "HTTP", true),
            ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbody", "", false),
            ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", "body", true),
            ("GET", "HTTP/1.1 304 X\r\nContent-Length: 4\r\n\r\nbody", "body", true),
            ("GET", "HTTP/1.1 204 X\r\n\r\nbody", "body", true),
            ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nb\r\n0\r\n\r\nHTTP", "HTTP", true),
            ("GET", "HTTP/1.1 200 OK\r\n\r\nbody", "", false),
        ] {
            let (head, rest) = feed(input.as_bytes(), input.len()).unwrap().unwrap();
            let mut rest = BytesMut::from(&rest[..]);
            let mut body = Body::of(&method.parse().unwrap(), &head);
            while body.next(&mut rest).unwrap().is_some() {}
            assert_eq!((&rest[..], body.is_over()), (left.as_bytes(), over), "{method} {input:?}");
        }
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(input in "HTTP/1.[01] [0-9]{3} [a-z]{0,3}\r?\n([A-C] ?:[ a-z]{0,9}\r?\n){0,5}(\r?\n)?[a-z\r\n]{0,9}", step in 1usize..30) {
            prop_assert_eq!(told(input.as_bytes(), step), told(input.as_bytes(), input.len()));
        }

        #[test]
        fn never_panics(input: Vec<u8>, step in 1usize..9) {
            let _ = feed(&input, step);
        }
    }
}

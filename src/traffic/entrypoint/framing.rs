//! The judgement on a request head: what it says of its body and connection, or why nobody may see it.
//!
//! It is made once, before Pingora parses the head, and it is stricter than the standard asks: whatever two parsers could
//! read in two ways is refused, because behind us stands another parser.

use std::net::Ipv6Addr;
use std::ops::Range;

use super::options::Limits;
use crate::exchange::Fault;
use crate::traffic::chunks::{is_text, is_token};

/// Longest method that we take, in bytes; the longest registered one has 17.
pub(super) const METHOD_BYTES: usize = 32;
/// Most options in the `Connection` fields of a request; Pingora refuses ten.
const CONNECTION_OPTIONS: usize = 9;

/// What a request head says of its framing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Framing {
    /// What follows the head.
    pub body: Body,
    /// The request asks to change the protocol.
    pub upgrade: bool,
    /// The request is HTTP/1.0.
    pub is_http10: bool,
    /// The client wants to send another request after it (RFC 9112 §9.3).
    pub keep_alive: bool,
    /// Bytes of the head that hold the scheme and authority of an absolute-form target; origin form is the head without them.
    pub authority: Option<Range<usize>>,
}

/// What follows a head (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// Judges a whole head: from the first byte of the request line to the empty line, both included.
///
/// # Errors
/// The failure to answer with; the connection must end with that answer.
pub(super) fn judge(head: &[u8], limits: &Limits) -> Result<Framing, Fault> {
    let mut lines = Lines(head);
    let line = lines.next().ok_or(Fault::BadRequest)??;
    let request = RequestLine::parse(line, limits)?;
    let mut fields = Fields::default();
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        fields.count += 1;
        if fields.count > limits.header_fields {
            return Err(Fault::HeadTooLarge);
        }
        let (name, value) = split_field(line)?;
        fields.see(name, value)?;
    }
    fields.conclude(&request)
}

/// The lines of a head without their CRLF; a line that ends or breaks otherwise is an error.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = Result<&'a [u8], Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let line = match self.0.iter().position(|byte| *byte == b'\n') {
            Some(end) if end > 0 && self.0[end - 1] == b'\r' => &self.0[..end - 1],
            _ => return Some(Err(Fault::BadRequest)),
        };
        self.0 = &self.0[line.len() + 2..];
        Some(Ok(line))
    }
}

struct RequestLine<'a> {
    method: &'a [u8],
    /// Authority of an absolute-form target, without its scheme.
    authority: Option<&'a [u8]>,
    /// Where the scheme and authority stand in the head.
    prefix: Option<Range<usize>>,
    is_http10: bool,
}

impl<'a> RequestLine<'a> {
    /// RFC 9112 §3, with single spaces as the only separators.
    fn parse(line: &'a [u8], limits: &Limits) -> Result<Self, Fault> {
        let mut parts = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Fault::BadRequest);
        };
        if !is_method(method) {
            return Err(Fault::BadRequest);
        }
        let is_http10 = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => return Err(Fault::HttpVersion),
            _ => return Err(Fault::BadRequest),
        };
        match method {
            b"CONNECT" => return Err(Fault::MethodRefused),
            b"PRI" => return Err(Fault::BadRequest),
            _ => {}
        }
        if target.len() > limits.target_bytes {
            return Err(Fault::TargetTooLong);
        }
        if !is_target(target) {
            return Err(Fault::BadRequest);
        }
        let mut request = Self { method, authority: None, prefix: None, is_http10 };
        if target == b"*" {
            return if method == b"OPTIONS" { Ok(request) } else { Err(Fault::BadRequest) };
        }
        if !target.starts_with(b"/") {
            request.authority = Some(absolute(target).ok_or(Fault::BadRequest)?);
            let start = method.len() + 1;
            let end = start + target.len() - after_authority(target);
            request.prefix = Some(start..end);
        }
        Ok(request)
    }
}

/// Methods are case-sensitive tokens, and every registered one is upper case: `get` is `GET` only to careless parsers.
pub(super) fn is_method(method: &[u8]) -> bool {
    let may_stand = |byte: &u8| is_token(*byte) && !byte.is_ascii_lowercase();
    !method.is_empty() && method.len() <= METHOD_BYTES && method.iter().all(may_stand)
}

/// Whether a target consists of what every parser behind us takes as it is. RFC 3986 allows less; browsers send `|`, `^`,
/// `{`, `}`, and in queries a backtick, as they are.
pub(super) fn is_target(target: &[u8]) -> bool {
    let path = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
    target.iter().all(|byte| matches!(byte, b'!'..=b'~') && !matches!(byte, b'#' | b'"' | b'<' | b'>'))
        && !target[..path].contains(&b'`')
}

/// The authority of an absolute-form target with a scheme of ours.
fn absolute(target: &[u8]) -> Option<&[u8]> {
    let rest =
        strip_prefix_ignoring_case(target, b"http://").or_else(|| strip_prefix_ignoring_case(target, b"https://"))?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    Some(&rest[..end])
}

/// How many bytes of an absolute-form target follow its authority.
fn after_authority(target: &[u8]) -> usize {
    let scheme = target.iter().position(|byte| *byte == b':').map_or(0, |colon| colon + 3);
    let rest = &target[scheme.min(target.len())..];
    rest.iter().position(|byte| matches!(byte, b'/' | b'?')).map_or(0, |at| rest.len() - at)
}

fn strip_prefix_ignoring_case<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Name and untrimmed value of a field line (RFC 9112 §5).
fn split_field(line: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Fault::BadRequest)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    // A name with `%` is a token, but its only use is to hide another name. A line that starts with white space is the
    // obsolete folding of the one before, and fails here as well.
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte) && *byte != b'%') {
        return Err(Fault::BadRequest);
    }
    if !value.iter().all(|byte| is_text(*byte)) {
        return Err(Fault::BadRequest);
    }
    Ok((name, value))
}

/// What the field lines say of framing, gathered line by line.
#[derive(Default)]
struct Fields<'a> {
    count: usize,
    host: Option<&'a [u8]>,
    length: Option<u64>,
    chunked: bool,
    has_upgrade: bool,
    connection_upgrade: bool,
    connection_close: bool,
    connection_keep_alive: bool,
    connection_options: usize,
    expectation: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    /// Takes note of one field. The length of the name decides first, as nearly every field is none of ours.
    fn see(&mut self, name: &'a [u8], value: &'a [u8]) -> Result<(), Fault> {
        let is_refused = match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.host.replace(trim(value)).is_some(),
            6 if name.eq_ignore_ascii_case(b"expect") => {
                // RFC 9110 §10.1.1 knows one expectation, so two lines hold one too many.
                if self.expectation.is_some() {
                    return Err(Fault::Expectation);
                }
                self.expectation = Some(trim(value));
                false
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.has_upgrade = true;
                false
            }
            10 if name.eq_ignore_ascii_case(b"connection") => return self.see_connection(value),
            14 if is_spelling_of(name, b"content-length") => {
                name[7] != b'-' || self.length.replace(length(value)?).is_some()
            }
            17 if is_spelling_of(name, b"transfer-encoding") => {
                let is_odd = name[8] != b'-' || std::mem::replace(&mut self.chunked, true);
                if !is_odd {
                    chunked(trim(value))?;
                }
                is_odd
            }
            _ => false,
        };
        if is_refused {
            return Err(Fault::BadRequest);
        }
        Ok(())
    }

    fn see_connection(&mut self, value: &[u8]) -> Result<(), Fault> {
        for option in value.split(|byte| *byte == b',') {
            let option = trim(option);
            if option.is_empty() {
                continue;
            }
            self.connection_options += 1;
            if self.connection_options > CONNECTION_OPTIONS
                || !option.iter().all(|byte| is_token(*byte))
                || is_never_hop_by_hop(option)
            {
                return Err(Fault::BadRequest);
            }
            self.connection_upgrade |= option.eq_ignore_ascii_case(b"upgrade");
            self.connection_close |= option.eq_ignore_ascii_case(b"close");
            self.connection_keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
        Ok(())
    }

    fn conclude(self, request: &RequestLine<'_>) -> Result<Framing, Fault> {
        match self.host {
            Some(host) if !is_authority(host) => return Err(Fault::BadRequest),
            None if !request.is_http10 => return Err(Fault::BadRequest),
            _ => {}
        }
        // RFC 9112 §3.2.2: the target's authority and Host must be the same; we do not guess which one was meant.
        if let Some(authority) = request.authority {
            let same = self.host.is_some_and(|host| host.eq_ignore_ascii_case(authority));
            if !same {
                return Err(Fault::BadRequest);
            }
        }
        if self.chunked && (self.length.is_some() || request.is_http10) {
            return Err(Fault::BadRequest);
        }
        // RFC 9110 §10.1.1: a server ignores the expectation of an HTTP/1.0 request.
        let expects = self.expectation.filter(|_| !request.is_http10);
        if expects.is_some_and(|expectation| !expectation.eq_ignore_ascii_case(b"100-continue")) {
            return Err(Fault::Expectation);
        }
        Ok(Framing {
            body: if self.chunked { Body::Chunked } else { Body::Length(self.length.unwrap_or(0)) },
            upgrade: self.has_upgrade && self.connection_upgrade && !request.is_http10 && request.method == b"GET",
            is_http10: request.is_http10,
            keep_alive: !self.connection_close && (!request.is_http10 || self.connection_keep_alive),
            authority: request.prefix.clone(),
        })
    }
}

/// Whether `name` is `canonical`, with any of `-`, `_` and `.` at the dashes: servers behind us may take them for one.
pub(super) fn is_spelling_of(name: &[u8], canonical: &[u8]) -> bool {
    name.len() == canonical.len()
        && name.iter().zip(canonical).all(|(byte, expected)| match expected {
            b'-' => matches!(byte, b'-' | b'_' | b'.'),
            _ => byte.eq_ignore_ascii_case(expected),
        })
}

/// Fields that a client may not have removed by naming them in `Connection`: framing, and what the gateway itself writes.
fn is_never_hop_by_hop(option: &[u8]) -> bool {
    const NAMES: [&[u8]; 6] =
        [b"host", b"content-length", b"transfer-encoding", b"x-real-ip", b"x-scheme", b"forwarded"];
    const PREFIX: &[u8] = b"x-forwarded-";
    NAMES.iter().any(|name| is_spelling_of(option, name))
        || option.split_at_checked(PREFIX.len()).is_some_and(|(start, _)| is_spelling_of(start, PREFIX))
}

/// A `Content-Length`: digits without sign, leading zero or list, up to the largest signed 64-bit number.
fn length(value: &[u8]) -> Result<u64, Fault> {
    if value.contains(&b'\t') {
        return Err(Fault::BadRequest);
    }
    match trim(value) {
        b"0" => Ok(0),
        digits @ [b'1'..=b'9', rest @ ..] if digits.len() <= 19 && rest.iter().all(u8::is_ascii_digit) => {
            let length = digits.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
            if i64::try_from(length).is_ok() { Ok(length) } else { Err(Fault::BadRequest) }
        }
        _ => Err(Fault::BadRequest),
    }
}

/// A `Transfer-Encoding`: `chunked` and nothing else.
fn chunked(value: &[u8]) -> Result<(), Fault> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let mut codings = value.split(|byte| *byte == b',').map(trim).peekable();
    while let Some(coding) = codings.next() {
        let misplaced = coding.eq_ignore_ascii_case(b"chunked") && codings.peek().is_some();
        if misplaced || coding.is_empty() || !coding.iter().all(|byte| is_token(*byte)) {
            return Err(Fault::BadRequest);
        }
    }
    Err(Fault::TransferCoding)
}

/// `host[:port]` with a host that is a name, an IPv4 address or a bracketed IPv6 address.
pub(super) fn is_authority(text: &[u8]) -> bool {
    let (host, port) = match text {
        [b'[', rest @ ..] => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            let is_address = std::str::from_utf8(&rest[..end]).is_ok_and(|host| host.parse::<Ipv6Addr>().is_ok());
            if !is_address {
                return false;
            }
            (None, &rest[end + 1..])
        }
        _ => {
            let end = text.iter().position(|byte| *byte == b':').unwrap_or(text.len());
            (Some(&text[..end]), &text[end..])
        }
    };
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    host.is_none_or(|host| (1..=255).contains(&host.len()) && host.iter().all(is_name)) && is_port(port)
}

/// Nothing, or `:` and a number from 1 to 65535.
fn is_port(text: &[u8]) -> bool {
    match text {
        [] => true,
        [b':', digits @ ..] => {
            (1..=5).contains(&digits.len())
                && digits.iter().all(u8::is_ascii_digit)
                && (1..=65535).contains(&digits.iter().fold(0_u32, |sum, digit| sum * 10 + u32::from(digit - b'0')))
        }
        _ => false,
    }
}

/// Without the optional white space around it (RFC 9110 §5.6.3).
fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests;

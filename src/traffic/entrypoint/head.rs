//! Reading a request head: where it ends, when it is too much, and what is said to a client that gets it wrong.

use bytes::{BufMut, BytesMut};
use pingora::protocols::http::date::get_cached_date;

use super::framing::{Framing, METHOD_BYTES, judge};
use super::options::Limits;
use crate::exchange::Fault;

/// Empty lines tolerated before a request line (RFC 9112 §2.2 asks for one).
const LEADING_LINES: usize = 4;
/// Bytes of a request line besides method and target.
const LINE_EXTRA: usize = "  HTTP/1.1".len();

/// Looks for the end of a head as it arrives; no byte is looked at twice.
#[derive(Debug, Default)]
pub(super) struct HeadScan {
    /// Bytes looked at.
    at: usize,
    line_start: usize,
    lines: usize,
    leading: usize,
}

/// How far a head has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More bytes are needed.
    Partial,
    /// The head ends before this offset, its empty line included.
    Complete(usize),
    /// Nothing that follows can make it acceptable.
    Refused(Fault),
}

impl HeadScan {
    /// Looks at what is new in `buffer`, whose start must not have changed except by `skip_leading_lines`.
    pub(super) fn advance(&mut self, buffer: &mut BytesMut, limits: &Limits) -> Progress {
        if self.at == 0
            && let Some(refused) = self.skip_leading_lines(buffer)
        {
            return refused;
        }
        while let Some(offset) = buffer[self.at..].iter().position(|byte| *byte == b'\n') {
            let end = self.at + offset;
            if end == 0 || buffer[end - 1] != b'\r' {
                return Progress::Refused(Fault::BadRequest);
            }
            self.at = end + 1;
            if end - 1 == self.line_start {
                return Self::complete(self.at, limits);
            }
            if self.lines == 0
                && let Some(fault) = too_long_line(&buffer[..end - 1], limits)
            {
                return Progress::Refused(fault);
            }
            self.line_start = self.at;
            self.lines += 1;
            if self.lines > limits.header_fields.saturating_add(1) {
                return Progress::Refused(Fault::HeadTooLarge);
            }
        }
        self.at = buffer.len();
        if self.lines == 0
            && let Some(fault) = too_long_line(buffer.strip_suffix(b"\r").unwrap_or(buffer), limits)
        {
            return Progress::Refused(fault);
        }
        if buffer.len() > limits.head_bytes { Progress::Refused(Fault::HeadTooLarge) } else { Progress::Partial }
    }

    fn complete(end: usize, limits: &Limits) -> Progress {
        if end > limits.head_bytes { Progress::Refused(Fault::HeadTooLarge) } else { Progress::Complete(end) }
    }

    fn skip_leading_lines(&mut self, buffer: &mut BytesMut) -> Option<Progress> {
        while buffer.starts_with(b"\r\n") {
            self.leading += 1;
            if self.leading > LEADING_LINES {
                return Some(Progress::Refused(Fault::BadRequest));
            }
            let _ = buffer.split_to(2);
        }
        // The LF of a further empty line may be on its way.
        (buffer.as_ref() == b"\r").then_some(Progress::Partial)
    }
}

/// The failure of a request line that is too long already, whole or not; its end is no part of it.
fn too_long_line(line: &[u8], limits: &Limits) -> Option<Fault> {
    let most = METHOD_BYTES + limits.target_bytes + LINE_EXTRA;
    if line.len() <= most {
        return None;
    }
    let has_method = line[..=METHOD_BYTES.min(line.len() - 1)].contains(&b' ');
    Some(if has_method { Fault::TargetTooLong } else { Fault::BadRequest })
}

/// Judges the first `end` bytes of `buffer` and takes them out, in origin form.
///
/// # Errors
/// The failure to answer with; `buffer` is unchanged then.
pub(super) fn take(buffer: &mut BytesMut, end: usize, limits: &Limits) -> Result<(Framing, BytesMut), Fault> {
    let framing = judge(&buffer[..end], limits)?;
    let mut head = BytesMut::with_capacity(end + 1);
    match &framing.authority {
        None => head.put_slice(&buffer[..end]),
        Some(range) => {
            head.put_slice(&buffer[..range.start]);
            if buffer[range.end] != b'/' {
                head.put_u8(if buffer.starts_with(b"OPTIONS ") && buffer[range.end] == b' ' { b'*' } else { b'/' });
            }
            head.put_slice(&buffer[range.end..end]);
        }
    }
    bytes::Buf::advance(buffer, end);
    Ok((framing, head))
}

/// The request line of what has been read, for the log: at most 256 bytes of it.
pub(super) fn request_line(buffer: &[u8]) -> &[u8] {
    let line = &buffer[..buffer.len().min(256)];
    let end = line.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(line.len());
    &line[..end]
}

/// The whole answer to a request that is refused before Pingora sees it.
pub(super) fn answer(fault: Fault, request_line: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(320);
    let status = fault.status();
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(status.canonical_reason().unwrap_or("Error").as_bytes());
    out.put_slice(b"\r\nDate: ");
    out.put_slice(get_cached_date().as_bytes());
    out.put_slice(b"\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: ");
    out.put_slice(fault.text().len().to_string().as_bytes());
    out.put_slice(b"\r\nX-Portcullis-Error: ");
    out.put_slice(fault.code().as_bytes());
    out.put_slice(b"\r\nConnection: close\r\n\r\n");
    if !request_line.starts_with(b"HEAD ") {
        out.put_slice(fault.text().as_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits() -> Limits {
        Limits { head_bytes: 200, target_bytes: 16, header_fields: 4, ..Limits::default() }
    }

    /// The first verdict that is not `Partial`, when `input` comes in pieces of `step` bytes, and what is left then.
    fn feed(input: &[u8], step: usize) -> (Progress, BytesMut) {
        let mut scan = HeadScan::default();
        let mut buffer = BytesMut::new();
        for piece in input.chunks(step.max(1)) {
            buffer.put_slice(piece);
            let progress = scan.advance(&mut buffer, &limits());
            if progress != Progress::Partial {
                return (progress, buffer);
            }
        }
        (Progress::Partial, buffer)
    }

    #[test]
    fn finds_the_end_however_it_is_cut() {
        let long_target = format!("GET /{}", "a".repeat(100));
        let long_field = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(300));
        for (input, expected) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Progress::Complete(27)),
            ("\r\n\r\nGET / HTTP/1.1\r\n\r\n", Progress::Complete(18)),
            ("\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n", Progress::Refused(Fault::BadRequest)),
            ("\nGET / HTTP/1.1\r\n\r\n", Progress::Refused(Fault::BadRequest)),
            ("GET / HTTP/1.1\n", Progress::Refused(Fault::BadRequest)),
            ("GET / HTTP/1.1\r\nHost: a\r\n", Progress::Partial),
            ("GET / HTTP/1.1\r\nA:1\r\nB:2\r\nC:3\r\nD:4\r\nE:5\r\n", Progress::Refused(Fault::HeadTooLarge)),
            (&long_target, Progress::Refused(Fault::TargetTooLong)),
            (&"A".repeat(100), Progress::Refused(Fault::BadRequest)),
            (&long_field, Progress::Refused(Fault::HeadTooLarge)),
        ] {
            for step in [1, 2, 7, 1000] {
                assert_eq!(feed(input.as_bytes(), step).0, expected, "{input:?} by {step}");
            }
        }
    }

    #[test]
    fn a_line_is_as_long_as_it_is_however_it_is_cut() {
        for length in 40..80 {
            let input = format!("GET /{:a<1$}\r\n\r\n", "", length - "GET /".len());
            let (whole, _) = feed(input.as_bytes(), 1000);
            assert_eq!(whole == Progress::Complete(input.len()), length <= METHOD_BYTES + 16 + LINE_EXTRA, "{length}");
            for step in 1..input.len() {
                assert_eq!(feed(input.as_bytes(), step).0, whole, "{length} by {step}");
            }
        }
    }

    #[test]
    fn targets_become_origin_form() {
        for (target, origin) in
            [("http://a.test/x?y", "/x?y"), ("http://a.test?y", "/?y"), ("http://a.test", "/"), ("/x", "/x")]
        {
            let head = format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n");
            let mut buffer = BytesMut::from(format!("{head}NEXT").as_bytes());
            let (_, taken) = take(&mut buffer, head.len(), &Limits::default()).unwrap();
            assert_eq!(taken, format!("GET {origin} HTTP/1.1\r\nHost: a.test\r\n\r\n").as_bytes());
            assert_eq!(buffer, b"NEXT"[..]);
        }
        let head = b"OPTIONS http://a.test HTTP/1.1\r\nHost: a.test\r\n\r\n";
        let (_, taken) = take(&mut BytesMut::from(&head[..]), head.len(), &Limits::default()).unwrap();
        assert!(taken.starts_with(b"OPTIONS * HTTP/1.1\r\n"));
    }

    #[test]
    fn answers_are_whole_and_final() {
        let text = String::from_utf8(answer(Fault::BadRequest, b"GET / HTTP/1.1")).unwrap();
        assert!(text.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{text}");
        assert!(text.contains("\r\nX-Portcullis-Error: bad-request\r\nConnection: close\r\n\r\nBad Request"), "{text}");
        assert!(answer(Fault::BadRequest, b"HEAD / HTTP/1.1").ends_with(b"\r\n\r\n"));
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(input in "(\r\n){0,5}(GET|P) /[a-z]{0,20}( HTTP/1.1)?\r?\n([A-C]:[a-z]{0,9}\r?\n){0,6}(\r?\n)?[a-z\r\n]{0,9}", step in 1usize..30) {
            let (whole, _) = feed(input.as_bytes(), input.len().max(1));
            let (parts, _) = feed(input.as_bytes(), step);
            prop_assert_eq!(parts, whole);
        }

        #[test]
        fn never_panics(input: Vec<u8>, step in 1usize..9) {
            let _ = feed(&input, step);
        }
    }
}

//! The chunked coding, read strictly: where a body ends, and what it holds.

use bytes::{Buf, Bytes, BytesMut};

/// Most bytes of chunk extensions in one body.
const EXTENSION_BYTES: u32 = 16 << 10;
/// Most bytes of a trailer section.
const TRAILER_BYTES: u32 = 16 << 10;
/// Most hexadecimal digits of a chunk size: the length still fits a signed 64-bit number.
const SIZE_DIGITS: u8 = 15;

/// Follows a chunked body (RFC 9112 §7.1) through buffers of any cut.
#[derive(Clone, Debug, Default)]
pub(in crate::traffic) struct Chunks {
    state: State,
    extension_bytes: u32,
    trailer_bytes: u32,
    /// Whether sizes may have white space behind them.
    takes_padding: bool,
}

/// The body breaks the chunked coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::traffic) struct Malformed;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the first digit of a size.
    #[default]
    Start,
    Size {
        size: u64,
        digits: u8,
    },
    /// After the `;` of an extension: its name must follow.
    ExtensionStart {
        size: u64,
    },
    /// After white space behind a size.
    Padding {
        size: u64,
    },
    Extension {
        size: u64,
    },
    /// After the CR of a size line.
    SizeEnd {
        size: u64,
    },
    Content {
        left: u64,
    },
    ContentCr,
    ContentLf,
    /// At the start of a line of the trailer section.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    Done,
}

impl Chunks {
    /// For the answers of servers, of which some pad their sizes with spaces. To clients' requests no leniency is due: what stands
    /// behind us may read them otherwise.
    pub(in crate::traffic) fn of_server() -> Self {
        Self { takes_padding: true, ..Self::default() }
    }

    /// Whether the whole body has been seen.
    pub(in crate::traffic) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Follows `bytes` and says how many of them belong to the body; fewer than all only if it ends there.
    ///
    /// # Errors
    /// At the first byte that no strict reading allows.
    pub(in crate::traffic) fn scan(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            if let State::Content { left } = self.state {
                let taken = left.min((bytes.len() - at) as u64);
                at += taken as usize;
                self.state = if taken == left { State::ContentCr } else { State::Content { left: left - taken } };
                continue;
            }
            self.state = self.step(bytes[at])?;
            at += 1;
        }
        Ok(at)
    }

    /// Takes the next piece of content out of `input`, and what frames it. `None`: more bytes are needed, or the body is over.
    ///
    /// # Errors
    /// At the first byte that no strict reading allows.
    pub(in crate::traffic) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
        let mut at = 0;
        while at < input.len() && self.state != State::Done {
            if let State::Content { left } = self.state {
                input.advance(at);
                let taken = left.min(input.len() as u64);
                self.state = if taken == left { State::ContentCr } else { State::Content { left: left - taken } };
                return Ok(Some(input.split_to(taken as usize).freeze()));
            }
            self.state = self.step(input[at])?;
            at += 1;
        }
        input.advance(at);
        Ok(None)
    }

    fn step(&mut self, byte: u8) -> Result<State, Malformed> {
        Ok(match (self.state, byte) {
            (State::Start, _) => State::Size { size: hex(byte)?, digits: 1 },
            (State::Size { size, .. } | State::Padding { size } | State::Extension { size }, b'\r') => {
                State::SizeEnd { size }
            }
            (State::Size { size, .. } | State::Padding { size } | State::Extension { size }, b';') => {
                State::ExtensionStart { size }
            }
            (State::Size { size, .. } | State::Padding { size }, b' ' | b'\t') if self.takes_padding => {
                self.pad(size)?
            }
            (State::ExtensionStart { size }, _) if is_token(byte) => self.extension(size)?,
            (State::Size { digits, .. }, _) if digits == SIZE_DIGITS => return Err(Malformed),
            (State::Size { size, digits }, _) => State::Size { size: size * 16 + hex(byte)?, digits: digits + 1 },
            (State::Extension { size }, _) if is_text(byte) => self.extension(size)?,
            (State::SizeEnd { size: 0 }, b'\n') => State::TrailerStart,
            (State::SizeEnd { size }, b'\n') => State::Content { left: size },
            (State::ContentCr, b'\r') => State::ContentLf,
            (State::ContentLf, b'\n') => State::Start,
            (State::TrailerStart, b'\r') => State::LastLf,
            (State::TrailerStart | State::TrailerName, _) if is_token(byte) => self.trailer(State::TrailerName)?,
            (State::TrailerName, b':') => self.trailer(State::TrailerValue)?,
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, _) if is_text(byte) => self.trailer(State::TrailerValue)?,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::LastLf, b'\n') => State::Done,
            _ => return Err(Malformed),
        })
    }

    fn pad(&mut self, size: u64) -> Result<State, Malformed> {
        self.extension(size).map(|_| State::Padding { size })
    }

    fn extension(&mut self, size: u64) -> Result<State, Malformed> {
        self.extension_bytes += 1;
        if self.extension_bytes > EXTENSION_BYTES { Err(Malformed) } else { Ok(State::Extension { size }) }
    }

    fn trailer(&mut self, next: State) -> Result<State, Malformed> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES { Err(Malformed) } else { Ok(next) }
    }
}

fn hex(byte: u8) -> Result<u64, Malformed> {
    char::from(byte).to_digit(16).map(u64::from).ok_or(Malformed)
}

/// What may stand in a field value or an extension (RFC 9110 §5.5).
pub(in crate::traffic) const fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

/// What may stand in a token (RFC 9110 §5.6.2).
pub(in crate::traffic) const fn is_token(byte: u8) -> bool {
    matches!(byte,
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z'
        | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `Ok((bytes of the body, whether it is whole))`.
    fn scan(input: &[u8]) -> Result<(usize, bool), Malformed> {
        let mut chunks = Chunks::default();
        let taken = chunks.scan(input)?;
        Ok((taken, chunks.is_done()))
    }

    fn pieces(chunks: &mut Chunks, input: &mut BytesMut) -> Result<(), Malformed> {
        while chunks.next(input)?.is_some() {}
        Ok(())
    }

    #[test]
    fn content_comes_out_of_its_frame() {
        let body = b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nA: b\r\n\r\nHTTP";
        for step in [1, 2, 5, body.len()] {
            let (mut chunks, mut input, mut content) = (Chunks::default(), BytesMut::new(), Vec::new());
            for part in body.chunks(step) {
                input.extend_from_slice(part);
                while let Some(piece) = chunks.next(&mut input).unwrap() {
                    content.extend_from_slice(&piece);
                }
            }
            assert_eq!(
                (&content[..], &input[..], chunks.is_done()),
                (&b"hello world"[..], &b"HTTP"[..], true),
                "{step}"
            );
        }
    }

    #[test]
    fn only_servers_may_pad_their_sizes() {
        let body = b"5  \r\nhello\r\n0 \r\n\r\n";
        assert_eq!(scan(body), Err(Malformed));
        let mut input = BytesMut::from(&body[..]);
        let mut chunks = Chunks::of_server();
        assert_eq!(chunks.next(&mut input).unwrap().unwrap(), b"hello"[..]);
        assert_eq!(chunks.next(&mut input), Ok(None));
        assert!(chunks.is_done() && input.is_empty());
    }

    #[test]
    fn ends_where_the_body_ends() {
        for (input, taken, done) in [
            (&b"0\r\n\r\nGET"[..], 5, true),
            (b"5\r\nhello\r\n0\r\n\r\n", 15, true),
            (b"05\r\nhello\r\n000\r\n\r\n", 18, true),
            (b"A;x=\"y\"\r\n0123456789\r\n0;last\r\nTrailer: v\r\n\r\nPOST", 43, true),
            (b"5\r\nhel", 6, false),
            (b"", 0, false),
        ] {
            assert_eq!(scan(input), Ok((taken, done)), "{}", input.escape_ascii());
        }
    }

    #[test]
    fn takes_nothing_that_another_reader_might_read_otherwise() {
        for input in [
            &b"\r\n"[..],
            b"0x5\r\nhello\r\n",
            b"+5\r\nhello\r\n",
            b"-5\r\n",
            b"5_0\r\n",
            b" 5\r\nhello\r\n",
            b"5 \r\nhello\r\n",
            b"5\t\r\nhello\r\n",
            b"12345678901234567\r\n",
            b"8000000000000000\r\n",
            b"Z\r\n",
            b"0_2e\r\n",
            b"5G\r\n",
            b";a\r\n",
            b"5;\nhello",
            b"5;a\rb",
            b"5\r\r;a",
            b"5\nhello\r\n",
            b"5\r\nhello\n0",
            b"5\r\nhello0\r\n",
            b"5\r\nhelloXY",
            b"5\r\nhello\r\n0\n",
            b"5\r\nhello\r\n0\r\n\n",
            b"0\r\nX: y\n",
            b"0\r\n X: y\r\n",
            b"0\r\nX : y\r\n",
            b"0\r\nX\r\n",
            b"0\r\n: y\r\n",
            b"0\r\nX: \0\r\n",
            b"5;\x01\r\n",
            b"5;\r\nhello\r\n",
            b"5;;a\r\nhello\r\n",
        ] {
            assert_eq!(scan(input), Err(Malformed), "{}", input.escape_ascii());
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let mut extensions = Vec::new();
        for _ in 0..40 {
            extensions.extend_from_slice(b"1;");
            extensions.extend(std::iter::repeat_n(b'x', 500));
            extensions.extend_from_slice(b"\r\na\r\n");
        }
        assert_eq!(scan(&extensions), Err(Malformed));
        let mut trailers = b"0\r\n".to_vec();
        for _ in 0..40 {
            trailers.extend_from_slice(b"X: ");
            trailers.extend(std::iter::repeat_n(b'x', 500));
            trailers.extend_from_slice(b"\r\n");
        }
        assert_eq!(scan(&trailers), Err(Malformed));
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(input in "[05aA;:x\r\n]{0,40}", cut in 0usize..40) {
            let input = input.as_bytes();
            let cut = cut.min(input.len());
            let mut parts = Chunks::default();
            let cut_result = parts.scan(&input[..cut]).and_then(|first| {
                if parts.is_done() { Ok(first) } else { parts.scan(&input[cut..]).map(|second| first + second) }
            });
            prop_assert_eq!(cut_result.map(|taken| (taken, parts.is_done())), scan(input));
        }

        #[test]
        fn pieces_are_what_scanning_passes(input in "[05aA;:x \r\n]{0,40}", cut in 0usize..40) {
            let input = input.as_bytes();
            let cut = cut.min(input.len());
            let mut chunks = Chunks::default();
            let mut left = BytesMut::from(&input[..cut]);
            let first = pieces(&mut chunks, &mut left);
            left.extend_from_slice(&input[cut..]);
            let all = first.and_then(|()| pieces(&mut chunks, &mut left)).map(|()| (input.len() - left.len(), chunks.is_done()));
            prop_assert_eq!(all, scan(input));
        }

        #[test]
        fn never_panics(input: Vec<u8>) {
            let _ = scan(&input);
            let _ = pieces(&mut Chunks::of_server(), &mut BytesMut::from(&input[..]));
        }
    }
}

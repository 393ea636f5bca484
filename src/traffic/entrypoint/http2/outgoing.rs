//! What is sent to a client, looked through for two things that must not go out as they are.

use super::frame::{Cursor, HEAD_BYTES, Head, Piece, Reason, flag, kind};
use super::patience::Patience;

/// The status 400 and nothing else, compressed (RFC 7541 Appendix A). Every answer of ours, and of servers, has a date at least.
const BARE_400: [u8; 1] = [0x8c];

/// Follows what is sent to a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outgoing {
    cursor: Cursor,
    /// The newest stream that a GOAWAY said to be served.
    most_served: u32,
    /// A GOAWAY has named an error.
    has_complained: bool,
    /// The frame that we are in is part of an answer.
    is_in_answer: bool,
    /// Some of an answer has gone out since somebody asked.
    has_answer: bool,
}

/// What is to be done with bytes for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// So many of them may go out.
    Pass(usize),
    /// They begin with a GOAWAY frame of `h2` that calls something a PROTOCOL_ERROR.
    ProtocolError,
    /// They begin with so many bytes that say that the request on this stream was malformed.
    Malformed { bytes: usize, stream: u32 },
}

impl Outgoing {
    pub(super) fn new() -> Self {
        Self {
            cursor: Cursor::behind(0),
            most_served: u32::MAX >> 1,
            has_complained: false,
            is_in_answer: false,
            has_answer: false,
        }
    }

    /// Whether the client was told of an error that ends the connection.
    pub(super) fn has_complained(&self) -> bool {
        self.has_complained
    }

    /// The newest stream that may be said to be served: no more than was said before (RFC 9113 §6.8).
    pub(super) fn most_served(&self) -> u32 {
        self.most_served
    }

    /// Whether some of an answer has gone out since this was asked last.
    pub(super) fn take_answer(&mut self) -> bool {
        std::mem::take(&mut self.has_answer)
    }

    /// Whether what went out ends with a frame.
    pub(super) fn is_between_frames(&self) -> bool {
        self.cursor.is_between_frames()
    }

    /// Looks at what would go out next.
    pub(super) fn look(&self, bytes: &[u8]) -> Look {
        let mut cursor = self.cursor;
        let mut rest = bytes;
        loop {
            let at = bytes.len() - rest.len();
            let is_whole_head = cursor.is_between_frames();
            match cursor.next(&mut rest) {
                Some(Piece::Head(head)) if is_whole_head => match Self::special(head, rest) {
                    Some(special) if at == 0 => return special,
                    Some(_) => return Look::Pass(at),
                    None => {}
                },
                Some(_) => {}
                None => return Look::Pass(bytes.len()),
            }
        }
    }

    fn special(head: Head, payload: &[u8]) -> Option<Look> {
        let whole = flag::END_STREAM | flag::END_HEADERS;
        match head.kind {
            kind::GOAWAY if payload.get(4..8) == Some(&(Reason::Protocol as u32).to_be_bytes()) => {
                Some(Look::ProtocolError)
            }
            kind::HEADERS if head.flags == whole && head.length == 1 && payload.starts_with(&BARE_400) => {
                Some(Look::Malformed { bytes: HEAD_BYTES + BARE_400.len(), stream: head.stream })
            }
            _ => None,
        }
    }

    /// Notes that these bytes have gone out; how many streams they reset for a mistake of the client's.
    pub(super) fn follow(&mut self, mut bytes: &[u8], patience: &mut Patience) -> usize {
        let mut mistakes = 0;
        while let Some(piece) = self.cursor.next(&mut bytes) {
            let Piece::Head(head) = piece else {
                self.has_answer |= self.is_in_answer;
                continue;
            };
            self.is_in_answer = matches!(head.kind, kind::DATA | kind::HEADERS | kind::CONTINUATION);
            self.has_answer |= self.is_in_answer;
            match head.kind {
                kind::DATA | kind::HEADERS => {
                    patience.earn_frame(head.length);
                    if head.has(flag::END_STREAM) {
                        patience.earn_answer();
                    }
                }
                kind::RST_STREAM if is_mistake(bytes) => mistakes += 1,
                kind::GOAWAY => {
                    let number = |at: usize| bytes.get(at..)?.first_chunk().map(|number| u32::from_be_bytes(*number));
                    self.most_served = self.most_served.min(number(0).unwrap_or(u32::MAX));
                    self.has_complained |= number(4).is_some_and(|reason| reason != 0);
                }
                _ => {}
            }
        }
        mistakes
    }
}

/// Whether a stream is reset for a mistake of the client's.
fn is_mistake(payload: &[u8]) -> bool {
    const MISTAKES: [Reason; 3] = [Reason::Protocol, Reason::FlowControl, Reason::StreamClosed];
    payload.first_chunk().is_some_and(|code| MISTAKES.iter().any(|reason| (*reason as u32).to_be_bytes() == *code))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::frame::frame;
    use super::*;

    fn headers(flags: u8, stream: u32, block: &[u8]) -> Vec<u8> {
        [&[0, 0, block.len() as u8, kind::HEADERS, flags], &stream.to_be_bytes()[..], block].concat()
    }

    #[test]
    fn two_things_are_found_where_they_begin() {
        let data = [&[0, 0, 5, kind::DATA, 0, 0, 0, 0, 1][..], b"hello"].concat();
        let whole = flag::END_STREAM | flag::END_HEADERS;
        let malformed = headers(whole, 7, &BARE_400);
        let goaway = |reason: u32| frame(kind::GOAWAY, 0, [9, reason]);
        for (bytes, expected) in [
            (data.clone(), Look::Pass(14)),
            (malformed.clone(), Look::Malformed { bytes: 10, stream: 7 }),
            ([&data[..], &malformed].concat(), Look::Pass(14)),
            ([&malformed[..], &data].concat(), Look::Malformed { bytes: 10, stream: 7 }),
            (headers(flag::END_HEADERS, 7, &BARE_400), Look::Pass(10)),
            (headers(whole, 7, &[0x8c, 0x88]), Look::Pass(11)),
            (headers(whole, 7, &[0x88]), Look::Pass(10)),
            (goaway(1), Look::ProtocolError),
            ([&data[..], &goaway(1)].concat(), Look::Pass(14)),
            (goaway(0), Look::Pass(17)),
            (goaway(6), Look::Pass(17)),
        ] {
            assert_eq!(Outgoing::new().look(&bytes), expected, "{bytes:?}");
        }
        // What looks like them within a payload is none.
        let mut outgoing = Outgoing::new();
        let hidden = [&[0, 0, 27, kind::DATA, 0, 0, 0, 0, 1][..], &malformed, &goaway(1)].concat();
        assert_eq!(outgoing.look(&hidden), Look::Pass(36));
        outgoing.follow(&hidden[..9], &mut Patience::new(Instant::now()));
        assert_eq!((outgoing.look(&hidden[9..]), outgoing.is_between_frames()), (Look::Pass(27), false));
    }

    #[test]
    fn resets_for_mistakes_are_counted_and_promises_kept() {
        let reset = |reason: u32| frame(kind::RST_STREAM, 1, [reason]);
        let bytes =
            [reset(1), reset(3), reset(5), reset(0), reset(7), reset(8), frame(kind::GOAWAY, 0, [9, 0])].concat();
        let mut outgoing = Outgoing::new();
        assert_eq!(outgoing.follow(&bytes, &mut Patience::new(Instant::now())), 3);
        assert_eq!((outgoing.most_served(), outgoing.is_between_frames()), (9, true));
        assert!(!outgoing.has_complained());
        outgoing.follow(&frame(kind::GOAWAY, 0, [11, 3]), &mut Patience::new(Instant::now()));
        assert_eq!((outgoing.most_served(), outgoing.has_complained()), (9, true));
    }
}

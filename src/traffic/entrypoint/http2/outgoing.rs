//! What is sent to a client, looked through for two things that must not go out as they are.

use super::frame::{Cursor, HEAD_BYTES, Head, Piece, Reason, flag, kind};
use super::patience::Patience;

/// The status 400 and nothing else, compressed (RFC 7541 Appendix A). Every answer of ours, and of servers, has a date at least.
const BARE_400: [u8; 1] = [0x8c];
/// Bytes of a payload in which the reason stands, and before it in a GOAWAY the newest stream (RFC 9113 §6.4, §6.8).
const RST_STREAM_BYTES: usize = 4;
const GOAWAY_BYTES: usize = 8;

/// Follows what is sent to a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outgoing {
    cursor: Cursor,
    /// The kind of the frame that we are in.
    kind: u8,
    /// The beginning of its payload, and how much of it there is: a frame may go out in pieces.
    begun: [u8; GOAWAY_BYTES],
    filled: u8,
    /// The newest stream that a GOAWAY said to be served.
    most_served: u32,
    /// A GOAWAY has named an error.
    has_complained: bool,
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
            kind: kind::NONE,
            begun: [0; GOAWAY_BYTES],
            filled: 0,
            most_served: u32::MAX >> 1,
            has_complained: false,
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
            match piece {
                Piece::Head(head) => {
                    (self.kind, self.filled) = (head.kind, 0);
                    if matches!(head.kind, kind::DATA | kind::HEADERS) {
                        patience.earn_frame(head.length);
                        if head.has(flag::END_STREAM) {
                            patience.earn_answer();
                        }
                    }
                }
                Piece::Payload(payload) => mistakes += usize::from(self.is_mistake(payload)),
            }
            self.has_answer |= matches!(self.kind, kind::DATA | kind::HEADERS | kind::CONTINUATION);
        }
        mistakes
    }

    /// Notes a part of a payload: whether with it a stream is reset for a mistake of the client's.
    fn is_mistake(&mut self, payload: &[u8]) -> bool {
        let wanted = match self.kind {
            kind::RST_STREAM => RST_STREAM_BYTES,
            kind::GOAWAY => GOAWAY_BYTES,
            _ => return false,
        };
        let filled = usize::from(self.filled);
        let more = payload.len().min(wanted.saturating_sub(filled));
        self.begun[filled..filled + more].copy_from_slice(&payload[..more]);
        self.filled += more as u8;
        if more == 0 || filled + more < wanted {
            return false;
        }
        let [number, reason] = [0, 4].map(|at| self.begun[at..].first_chunk().copied().map_or(0, u32::from_be_bytes));
        if self.kind == kind::GOAWAY {
            self.most_served = self.most_served.min(number);
            self.has_complained |= reason != 0;
            return false;
        }
        const MISTAKES: [Reason; 3] = [Reason::Protocol, Reason::FlowControl, Reason::StreamClosed];
        MISTAKES.iter().any(|reason| *reason as u32 == number)
    }
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
        let mut complaint = [&frame(kind::GOAWAY, 0, [11, 3])[..], b"why"].concat();
        complaint[2] += 3;
        // However they fall into writes.
        for size in 1..=bytes.len() {
            let (mut outgoing, mut patience) = (Outgoing::new(), Patience::new(Instant::now()));
            let mistakes: usize = bytes.chunks(size).map(|piece| outgoing.follow(piece, &mut patience)).sum();
            assert_eq!((mistakes, outgoing.most_served(), outgoing.is_between_frames()), (3, 9, true), "{size}");
            assert!(!outgoing.has_complained(), "{size}");
            let mistakes: usize = complaint.chunks(size).map(|piece| outgoing.follow(piece, &mut patience)).sum();
            assert_eq!((mistakes, outgoing.most_served(), outgoing.is_between_frames()), (0, 9, true), "{size}");
            assert!(outgoing.has_complained() && !outgoing.take_answer(), "{size}");
        }
    }
}

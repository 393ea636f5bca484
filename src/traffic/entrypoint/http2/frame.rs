//! How a flow of bytes falls into frames (RFC 9113 §4.1), whatever the pieces in which it comes.

/// Bytes of a frame's head.
pub(super) const HEAD_BYTES: usize = 9;
/// Where among them the kind stands.
const KIND_AT: usize = 3;

/// Kinds of frames (RFC 9113 §6).
pub(super) mod kind {
    pub(in super::super) const DATA: u8 = 0;
    pub(in super::super) const HEADERS: u8 = 1;
    pub(in super::super) const PRIORITY: u8 = 2;
    pub(in super::super) const RST_STREAM: u8 = 3;
    pub(in super::super) const SETTINGS: u8 = 4;
    pub(in super::super) const PUSH_PROMISE: u8 = 5;
    pub(in super::super) const PING: u8 = 6;
    pub(in super::super) const GOAWAY: u8 = 7;
    pub(in super::super) const WINDOW_UPDATE: u8 = 8;
    pub(in super::super) const CONTINUATION: u8 = 9;
    /// None that anybody knows: whoever gets it ignores it (RFC 9113 §5.5).
    pub(in super::super) const NONE: u8 = 0xff;
}

/// Flags of frames.
pub(super) mod flag {
    pub(in super::super) const END_STREAM: u8 = 0x1;
    pub(in super::super) const ACK: u8 = 0x1;
    pub(in super::super) const END_HEADERS: u8 = 0x4;
    pub(in super::super) const PADDED: u8 = 0x8;
    pub(in super::super) const PRIORITY: u8 = 0x20;
}

/// Error codes (RFC 9113 §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Reason {
    /// Nothing is wrong.
    No = 0,
    Protocol = 1,
    FlowControl = 3,
    StreamClosed = 5,
    FrameSize = 6,
    Compression = 9,
    EnhanceYourCalm = 11,
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// Bytes of the payload.
    pub(super) length: u32,
    pub(super) kind: u8,
    pub(super) flags: u8,
    /// 0 is the connection.
    pub(super) stream: u32,
}

impl Head {
    fn parse(bytes: [u8; HEAD_BYTES]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = bytes;
        let length = u32::from_be_bytes([0, l0, l1, l2]);
        // The first bit is reserved, and ignored.
        Self { length, kind, flags, stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff }
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Bytes of a HEADERS frame before its fields (RFC 9113 §6.2).
    pub(super) fn before_fields(&self) -> u32 {
        u32::from(self.has(flag::PADDED)) + if self.has(flag::PRIORITY) { 5 } else { 0 }
    }
}

/// A frame that is a head and a few numbers.
pub(super) fn frame<const WORDS: usize>(kind: u8, stream: u32, words: [u32; WORDS]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + 4 * WORDS);
    bytes.extend_from_slice(&[0, 0, (4 * WORDS) as u8, kind, 0]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    words.iter().for_each(|word| bytes.extend_from_slice(&word.to_be_bytes()));
    bytes
}

/// Where in a flow of frames we are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    /// Bytes of the payload that are still to come.
    left: u32,
    /// The beginning of a head that came without its end.
    begun: [u8; HEAD_BYTES],
    filled: u8,
}

/// What comes next in a flow.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    Head(Head),
    /// A part of the payload of the frame whose head came last; never empty.
    Payload(&'a [u8]),
}

impl Cursor {
    /// At the start of a flow whose first `bytes` are no frame.
    pub(super) fn behind(bytes: u32) -> Self {
        Self { left: bytes, begun: [0; HEAD_BYTES], filled: 0 }
    }

    /// Whether what came so far ends with a frame.
    pub(super) fn is_between_frames(&self) -> bool {
        self.left == 0 && self.filled == 0
    }

    /// Takes the next piece off `bytes`; `None` once they are used up.
    pub(super) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Piece<'a>> {
        if bytes.is_empty() {
            return None;
        }
        if self.left > 0 {
            let (piece, rest) = bytes.split_at(bytes.len().min(self.left as usize));
            *bytes = rest;
            self.left -= piece.len() as u32;
            return Some(Piece::Payload(piece));
        }
        let head = match bytes.split_first_chunk::<HEAD_BYTES>() {
            Some((head, rest)) if self.filled == 0 => {
                *bytes = rest;
                *head
            }
            _ => self.finish_head(bytes)?,
        };
        let head = Head::parse(head);
        self.left = head.length;
        Some(Piece::Head(head))
    }

    /// The kind of a frame whose head has begun, and how many bytes ago it came.
    fn begun_kind(&self) -> Option<(u8, usize)> {
        (usize::from(self.filled) > KIND_AT).then(|| (self.begun[KIND_AT], usize::from(self.filled) - KIND_AT))
    }

    /// Gives frames in `bytes`, which come next, another kind.
    pub(super) fn rename(mut self, bytes: &mut [u8], from: u8, to: u8) {
        let mut at = 0;
        loop {
            let mut rest = &bytes[at..];
            let next = self.next(&mut rest).map(|piece| match piece {
                Piece::Head(head) => Some((head.kind, HEAD_BYTES - KIND_AT)),
                Piece::Payload(_) => None,
            });
            at = bytes.len() - rest.len();
            // What came with earlier bytes was given its other kind with them.
            if let Some((kind, ago)) = next.unwrap_or_else(|| self.begun_kind())
                && kind == from
                && let Some(place) = at.checked_sub(ago).and_then(|place| bytes.get_mut(place))
            {
                *place = to;
            }
            if next.is_none() {
                return;
            }
        }
    }

    /// Whether a head has begun that is of this kind.
    pub(super) fn has_begun(&self, kind: u8) -> bool {
        self.begun_kind().is_some_and(|(begun, _)| begun == kind)
    }

    /// Puts together a head that comes in pieces.
    fn finish_head(&mut self, bytes: &mut &[u8]) -> Option<[u8; HEAD_BYTES]> {
        let filled = usize::from(self.filled);
        let (more, rest) = bytes.split_at(bytes.len().min(HEAD_BYTES - filled));
        *bytes = rest;
        self.begun[filled..filled + more.len()].copy_from_slice(more);
        self.filled += more.len() as u8;
        if usize::from(self.filled) < HEAD_BYTES {
            return None;
        }
        self.filled = 0;
        Some(self.begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_in_pieces_of_any_size() {
        let flow =
            [&b"PRI"[..], &frame(kind::PING, 0, [1, 2]), &frame(kind::SETTINGS, 0, []), &frame(3, 5, [8])].concat();
        for size in 1..=flow.len() {
            let mut cursor = Cursor::behind(3);
            let (mut heads, mut payload) = (Vec::new(), 0);
            for mut piece in flow.chunks(size) {
                while let Some(piece) = cursor.next(&mut piece) {
                    match piece {
                        Piece::Head(head) => heads.push((head.kind, head.stream, head.length)),
                        Piece::Payload(bytes) => payload += bytes.len(),
                    }
                }
            }
            assert_eq!(heads, [(kind::PING, 0, 8), (kind::SETTINGS, 0, 0), (kind::RST_STREAM, 5, 4)], "{size}");
            assert_eq!((payload, cursor.is_between_frames()), (3 + 8 + 4, true), "{size}");
        }
    }

    #[test]
    fn frames_get_another_kind_in_pieces_of_any_size() {
        let flow = |kind| {
            let frames =
                [frame(kind, 0, [7, 7]), frame(kind::PING, 0, [7, 7]), frame(kind, 0, []), frame(kind, 0, [7])];
            [&b"\x07\x07\x07\x07"[..], &frames.concat()].concat()
        };
        let whole = flow(kind::GOAWAY);
        for size in 1..=whole.len() {
            let (mut cursor, mut renamed) = (Cursor::behind(4), Vec::new());
            for piece in whole.chunks(size) {
                let mut bytes = piece.to_vec();
                cursor.rename(&mut bytes, kind::GOAWAY, kind::NONE);
                renamed.extend(bytes);
                let mut piece = piece;
                while cursor.next(&mut piece).is_some() {}
            }
            assert_eq!(renamed, flow(kind::NONE), "in pieces of {size}");
        }
    }

    #[test]
    fn the_reserved_bit_says_nothing() {
        let mut cursor = Cursor::behind(0);
        let head = cursor.next(&mut &[0, 0, 0, 6, 1, 0x80, 0, 0, 3][..]);
        assert_eq!(head, Some(Piece::Head(Head { length: 0, kind: kind::PING, flags: 1, stream: 3 })));
    }
}

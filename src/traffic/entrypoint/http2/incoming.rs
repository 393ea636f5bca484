//! What a client's frames must be, judged as they pass: the mistakes that RFC 9113 has a name for, each with that name.
//!
//! Heads of frames are read, and of payloads only what decides: lengths of padding, settings, steps of windows, and the first field
//! of trailers. `h2` behind us looks at all of it again and calls most mistakes a PROTOCOL_ERROR.

use std::time::Instant;

use super::fields::Fields;
use super::frame::{Cursor, Head, Piece, Reason, flag, kind};
use super::patience::{Cost, Patience};
use super::streams::{State, Streams};

/// Most that is looked at of a payload, in bytes.
const LOOK_BYTES: usize = 32;
/// Bytes of a setting (RFC 9113 §6.5.1).
const SETTING_BYTES: usize = 6;
/// Largest window (RFC 9113 §6.9.1).
const MAX_WINDOW: u32 = (1 << 31) - 1;

/// Follows what a client sends.
#[derive(Debug)]
pub(super) struct Incoming {
    cursor: Cursor,
    /// The frame that we are in.
    head: Head,
    is_first: bool,
    max_frame: u32,
    /// The stream whose header block is not over; 0 if none is.
    block: u32,
    look: Look,
    streams: Streams,
    fields: Fields,
    /// The client has said that it goes.
    has_goodbye: bool,
}

/// What is looked at in the payload of a frame.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: What,
    bytes: [u8; LOOK_BYTES],
    filled: u8,
    wanted: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Nothing,
    Padding,
    Setting,
    Window,
    Trailers,
}

/// A mistake of the client's, in bytes that have just come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    /// Where its frame begins.
    pub(super) at: usize,
    pub(super) reason: Reason,
}

impl Incoming {
    /// Of a connection of which nothing has come yet, its preface included; frames may have so many bytes.
    pub(super) fn new(preface: &[u8], max_frame: u32) -> Self {
        Self {
            cursor: Cursor::behind(preface.len() as u32),
            head: Head::default(),
            is_first: true,
            max_frame,
            block: 0,
            look: Look { at: What::Nothing, bytes: [0; LOOK_BYTES], filled: 0, wanted: 0 },
            streams: Streams::new(),
            fields: Fields::default(),
            has_goodbye: false,
        }
    }

    /// Where in the flow of frames we are.
    pub(super) fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Whether the client has said that it goes (GOAWAY).
    pub(super) fn has_goodbye(&self) -> bool {
        self.has_goodbye
    }

    pub(super) fn streams(&self) -> &Streams {
        &self.streams
    }

    /// Whether a header block that came last surely cannot be decompressed, with a dynamic table of so many bytes.
    pub(super) fn has_unreadable_fields(&self, table_bytes: u32) -> bool {
        self.fields.are_unreadable(table_bytes)
    }

    /// Follows bytes as they come.
    ///
    /// # Errors
    /// The first mistake; nothing behind it is looked at, and nothing may come any more.
    pub(super) fn follow(
        &mut self,
        bytes: &[u8],
        patience: &mut Patience,
        now: impl Fn() -> Instant,
    ) -> Result<(), Mistake> {
        // Blocks that were whole when more is read have been taken.
        if self.block == 0 && (self.cursor.is_between_frames() || !self.is_within_fields()) {
            self.fields.clear();
        }
        let mut rest = bytes;
        let mut at = 0;
        loop {
            let here = bytes.len() - rest.len();
            let Some(piece) = self.cursor.next(&mut rest) else { return Ok(()) };
            let judged = match piece {
                Piece::Head(head) => {
                    at = here;
                    self.head = head;
                    self.begin(patience, &now)
                }
                Piece::Payload(payload) => {
                    if self.is_within_fields() {
                        self.fields.add(payload);
                    }
                    self.look_at(payload)
                }
            };
            judged.map_err(|reason| Mistake { at, reason })?;
        }
    }

    fn is_within_fields(&self) -> bool {
        matches!(self.head.kind, kind::HEADERS | kind::CONTINUATION)
    }

    /// Judges the head of a frame.
    fn begin(&mut self, patience: &mut Patience, now: impl Fn() -> Instant) -> Result<(), Reason> {
        let head = self.head;
        self.look.at = What::Nothing;
        demand(head.length <= self.max_frame, Reason::FrameSize)?;
        demand(!self.is_first || head.kind == kind::SETTINGS && !head.has(flag::ACK), Reason::Protocol)?;
        self.is_first = false;
        let goes_on = (head.kind, head.stream) == (kind::CONTINUATION, self.block);
        demand(self.block == 0 || goes_on, Reason::Protocol)?;
        let cost = match head.kind {
            kind::DATA | kind::HEADERS => None,
            kind::RST_STREAM => Some(Cost::Reset),
            _ => Some(Cost::Frame),
        };
        match head.kind {
            kind::DATA => self.begin_data()?,
            kind::HEADERS => self.begin_headers()?,
            kind::CONTINUATION => self.begin_continuation()?,
            kind::PRIORITY => {
                demand(head.stream != 0, Reason::Protocol)?;
                demand(head.length == 5, Reason::FrameSize)?;
            }
            kind::RST_STREAM => {
                demand(self.streams.state(head.stream) != State::Idle, Reason::Protocol)?;
                demand(head.length == 4, Reason::FrameSize)?;
                self.streams.end(head.stream);
            }
            kind::SETTINGS => {
                demand(head.stream == 0, Reason::Protocol)?;
                let fits = if head.has(flag::ACK) { head.length == 0 } else { head.length.is_multiple_of(6) };
                demand(fits, Reason::FrameSize)?;
                self.look.start(What::Setting, SETTING_BYTES);
            }
            kind::PUSH_PROMISE => return Err(Reason::Protocol),
            kind::PING => {
                demand(head.stream == 0, Reason::Protocol)?;
                demand(head.length == 8, Reason::FrameSize)?;
            }
            kind::GOAWAY => {
                demand(head.stream == 0, Reason::Protocol)?;
                demand(head.length >= 8, Reason::FrameSize)?;
                self.has_goodbye = true;
            }
            kind::WINDOW_UPDATE => {
                demand(head.stream == 0 || self.streams.state(head.stream) != State::Idle, Reason::Protocol)?;
                demand(head.length == 4, Reason::FrameSize)?;
                self.look.start(What::Window, 4);
            }
            // RFC 9113 §5.5: what is unknown is ignored.
            _ => {}
        }
        demand(cost.is_none_or(|cost| patience.spend(cost, now)), Reason::EnhanceYourCalm)
    }

    fn begin_data(&mut self) -> Result<(), Reason> {
        let head = self.head;
        match self.streams.state(head.stream) {
            State::Idle => return Err(Reason::Protocol),
            State::Ended => return Err(Reason::StreamClosed),
            State::Unknown | State::Open => {}
        }
        if head.has(flag::PADDED) {
            demand(head.length >= 1, Reason::FrameSize)?;
            self.look.start(What::Padding, 1);
        }
        if head.has(flag::END_STREAM) {
            self.streams.end(head.stream);
        }
        Ok(())
    }

    fn begin_headers(&mut self) -> Result<(), Reason> {
        let head = self.head;
        let state = self.streams.state(head.stream);
        match state {
            State::Idle if head.stream.is_multiple_of(2) => return Err(Reason::Protocol),
            State::Idle => self.streams.open(head.stream),
            State::Ended => return Err(Reason::StreamClosed),
            State::Unknown | State::Open => {}
        }
        demand(head.length >= head.before_fields(), Reason::FrameSize)?;
        if state != State::Idle {
            self.look.start(What::Trailers, LOOK_BYTES.min(head.length as usize));
        } else if head.has(flag::PADDED) {
            self.look.start(What::Padding, 1);
        }
        if head.has(flag::END_STREAM) {
            self.streams.end(head.stream);
        }
        self.end_block();
        Ok(())
    }

    fn begin_continuation(&mut self) -> Result<(), Reason> {
        demand(self.block != 0, Reason::Protocol)?;
        self.end_block();
        Ok(())
    }

    fn end_block(&mut self) {
        self.fields.begin(self.head);
        self.block = if self.head.has(flag::END_HEADERS) { 0 } else { self.head.stream };
    }

    /// Looks at what is wanted of a payload.
    fn look_at(&mut self, mut payload: &[u8]) -> Result<(), Reason> {
        while self.look.at != What::Nothing && !payload.is_empty() {
            if !self.look.take(&mut payload) {
                return Ok(());
            }
            let seen = self.look;
            let bytes = &seen.bytes[..usize::from(seen.wanted)];
            match seen.at {
                What::Setting => judge_setting(bytes)?,
                _ => self.look.at = What::Nothing,
            }
            match seen.at {
                What::Padding => self.judge_padding(bytes)?,
                What::Window if bytes.iter().all(|byte| *byte == 0) || bytes == [0x80, 0, 0, 0] => {
                    return Err(Reason::Protocol);
                }
                What::Trailers => {
                    if self.head.has(flag::PADDED) {
                        self.judge_padding(bytes)?;
                    }
                    let fields = bytes.get(self.head.before_fields() as usize..).unwrap_or_default();
                    demand(!begins_with_pseudo_field(fields), Reason::Protocol)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// RFC 9113 §6.1 and §6.2: padding is shorter than what holds it.
    fn judge_padding(&self, payload: &[u8]) -> Result<(), Reason> {
        let padding = payload.first().copied().map_or(0, u32::from);
        let others = if self.head.kind == kind::HEADERS { self.head.before_fields() } else { 1 };
        demand(padding + others <= self.head.length, Reason::Protocol)
    }
}

impl Look {
    fn start(&mut self, at: What, wanted: usize) {
        *self = Self { at, wanted: wanted as u8, filled: 0, ..*self };
    }

    /// Takes what is wanted off `payload`; whether that is all of it. The next starts anew.
    fn take(&mut self, payload: &mut &[u8]) -> bool {
        let filled = usize::from(self.filled);
        let (more, rest) = payload.split_at(payload.len().min(usize::from(self.wanted) - filled));
        *payload = rest;
        self.bytes[filled..filled + more.len()].copy_from_slice(more);
        self.filled += more.len() as u8;
        let is_all = self.filled == self.wanted;
        if is_all {
            self.filled = 0;
        }
        is_all
    }
}

fn demand(holds: bool, otherwise: Reason) -> Result<(), Reason> {
    if holds { Ok(()) } else { Err(otherwise) }
}

/// RFC 9113 §6.5.2, and RFC 8441 §3 for the last one.
fn judge_setting(bytes: &[u8]) -> Result<(), Reason> {
    let &[i0, i1, v0, v1, v2, v3] = bytes else { return Ok(()) };
    let value = u32::from_be_bytes([v0, v1, v2, v3]);
    match u16::from_be_bytes([i0, i1]) {
        2 | 8 if value > 1 => Err(Reason::Protocol),
        4 if value > MAX_WINDOW => Err(Reason::FlowControl),
        5 if !(1 << 14..1 << 24).contains(&value) => Err(Reason::Protocol),
        _ => Ok(()),
    }
}

/// Whether a header block begins with a field whose name begins with a colon. Behind another field `h2` refuses it, but not there.
///
/// Names that stand in the dynamic table are not known here; such a field is dropped, and goes nowhere.
fn begins_with_pseudo_field(mut block: &[u8]) -> bool {
    // The static table has those fields first (RFC 7541 Appendix A).
    const INDICES: std::ops::RangeInclusive<u8> = 1..=14;
    // Changes of the table's size come first (RFC 7541 §6.3), each as small as can be in five bytes or fewer.
    while let [0x20..=0x3f, rest @ ..] = block {
        let is_long = block[0] == 0x3f;
        block = rest;
        while is_long && let [byte, rest @ ..] = block {
            block = rest;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    let Some((first, rest)) = block.split_first() else { return false };
    let index = match first {
        0x80.. => return INDICES.contains(&(first & 0x7f)),
        0x40..=0x7f => first & 0x3f,
        _ => first & 0x0f,
    };
    if index != 0 {
        return INDICES.contains(&index);
    }
    // A name with its length in front, which may go on for some bytes (RFC 7541 §5.1, §5.2).
    let Some((length, mut name)) = rest.split_first() else { return false };
    if length & 0x7f == 0x7f {
        while let [byte, rest @ ..] = name {
            name = rest;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    let is_huffman = length & 0x80 != 0;
    // A colon is 1011100 in Huffman's code (RFC 7541 Appendix B).
    name.first().is_some_and(|byte| if is_huffman { byte >> 1 == 0b101_1100 } else { *byte == b':' })
}

#[cfg(test)]
mod tests;

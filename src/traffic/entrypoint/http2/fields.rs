//! Header blocks as they came, kept until it is known whether they could be read.
//!
//! `h2` calls it the same whether a block cannot be decompressed or has a name in it that is none. RFC 9113 §4.3 does not: the first is
//! a COMPRESSION_ERROR. Which it was is found out when it has happened, by the form of the block alone (RFC 7541 §5, §6).

use smallvec::SmallVec;

use super::frame::{Head, flag, kind};

/// Most that is kept, in bytes and in frames; of more nothing is said.
const KEPT_BYTES: usize = 32 << 10;
const KEPT_FRAMES: usize = 1 << 10;
/// Largest buffer that stays with the connection, in bytes and in frames.
const IDLE_BYTES: usize = 1 << 10;
const IDLE_FRAMES: usize = 16;
/// Entries of the static table (RFC 7541 Appendix A).
const STATIC_ENTRIES: u32 = 61;
/// Least that an entry of the dynamic table counts for, in bytes (RFC 7541 §4.1).
const ENTRY_BYTES: u32 = 32;

/// The header blocks that came last.
#[derive(Debug, Default)]
pub(super) struct Fields {
    bytes: Vec<u8>,
    frames: SmallVec<[(Head, usize); 4]>,
    is_too_much: bool,
}

impl Fields {
    /// Forgets what was kept.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(IDLE_BYTES);
        self.frames.clear();
        if self.frames.capacity() > IDLE_FRAMES {
            self.frames = SmallVec::new();
        }
        self.is_too_much = false;
    }

    /// A HEADERS or CONTINUATION frame begins.
    pub(super) fn begin(&mut self, head: Head) {
        if self.frames.len() < KEPT_FRAMES {
            self.frames.push((head, self.bytes.len()));
        } else {
            self.is_too_much = true;
        }
    }

    /// A part of its payload.
    pub(super) fn add(&mut self, payload: &[u8]) {
        if self.bytes.len() + payload.len() > KEPT_BYTES {
            self.is_too_much = true;
        } else {
            self.bytes.extend_from_slice(payload);
        }
    }

    /// Whether one of the blocks surely cannot be decompressed, with a dynamic table of so many bytes.
    pub(super) fn are_unreadable(&self, table_bytes: u32) -> bool {
        if self.is_too_much {
            return false;
        }
        let ends = self.frames.iter().skip(1).map(|(_, start)| *start).chain([self.bytes.len()]);
        let mut block = Vec::new();
        for ((head, start), end) in self.frames.iter().zip(ends) {
            let payload = &self.bytes[*start..end];
            // A frame whose end has not come has not been read.
            if payload.len() < head.length as usize {
                break;
            }
            if head.kind == kind::HEADERS {
                block.clear();
            }
            block.extend_from_slice(fragment(head, payload));
            if head.has(flag::END_HEADERS) && !is_readable(&block, table_bytes) {
                return true;
            }
        }
        false
    }
}

/// What of a payload belongs to the block (RFC 9113 §6.2).
fn fragment<'a>(head: &Head, payload: &'a [u8]) -> &'a [u8] {
    if head.kind != kind::HEADERS {
        return payload;
    }
    let padding = if head.has(flag::PADDED) { payload.first().copied().map_or(0, usize::from) } else { 0 };
    let end = payload.len().saturating_sub(padding);
    payload.get(head.before_fields() as usize..end).unwrap_or_default()
}

/// Whether a block has the form of one.
fn is_readable(block: &[u8], table_bytes: u32) -> bool {
    let mut block = Block(block);
    let mut is_start = true;
    while let Some(first) = block.0.first() {
        let read = match first {
            0x80.. => block.integer(7).filter(|index| is_index(*index, table_bytes)).map(drop),
            0x40..=0x7f => block.literal(6, table_bytes),
            // Changes of the table's size stand at the start (RFC 7541 §4.2).
            0x20..=0x3f => block.integer(5).filter(|size| is_start && *size <= table_bytes).map(drop),
            _ => block.literal(4, table_bytes),
        };
        is_start &= (0x20..=0x3f).contains(first);
        if read.is_none() {
            return false;
        }
    }
    true
}

fn is_index(index: u32, table_bytes: u32) -> bool {
    (1..=STATIC_ENTRIES + table_bytes / ENTRY_BYTES).contains(&index)
}

struct Block<'a>(&'a [u8]);

impl Block<'_> {
    /// RFC 7541 §5.1.
    fn integer(&mut self, prefix: u32) -> Option<u32> {
        let most = (1 << prefix) - 1;
        let (first, mut rest) = self.0.split_first()?;
        let mut value = u64::from(*first) & most;
        if value == most {
            let mut shift = 0;
            loop {
                let byte;
                (byte, rest) = rest.split_first()?;
                value += u64::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    break;
                }
                shift += 7;
                if shift > 28 {
                    return None;
                }
            }
        }
        self.0 = rest;
        u32::try_from(value).ok()
    }

    /// A field that is not in a table as it is; its name may be.
    fn literal(&mut self, prefix: u32, table_bytes: u32) -> Option<()> {
        match self.integer(prefix)? {
            0 => self.string()?,
            index if is_index(index, table_bytes) => {}
            _ => return None,
        }
        self.string()
    }

    /// RFC 7541 §5.2.
    fn string(&mut self) -> Option<()> {
        let is_huffman = self.0.first()? & 0x80 != 0;
        let length = self.integer(7)? as usize;
        let (string, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        (!is_huffman || is_huffman_coded(string)).then_some(())
    }
}

/// Symbols of Huffman's code by the length of theirs, 1 bit to 30 (RFC 7541 Appendix B). Codes of a length follow each other, and begin
/// where the shorter ones end, so this is all it takes to know where one ends.
const SYMBOLS: [u32; 30] =
    [0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19, 29, 0, 4];

fn is_huffman_coded(bytes: &[u8]) -> bool {
    // The code that is being read, its length, and the first code of that length.
    let (mut code, mut bits, mut first) = (0_u32, 0_usize, 0_u32);
    for byte in bytes {
        for bit in (0..8).rev() {
            code = code << 1 | u32::from(byte >> bit & 1);
            first <<= 1;
            let Some(symbols) = SYMBOLS.get(bits) else { return false };
            bits += 1;
            if code - first < *symbols {
                // The very last one ends a string, and must not stand in one.
                if code == (1 << SYMBOLS.len()) - 1 {
                    return false;
                }
                (code, bits, first) = (0, 0, 0);
            } else {
                first += symbols;
            }
        }
    }
    // Less than a byte is left over, all ones.
    bits < 8 && code == (1 << bits) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(block: &[u8], expected: bool) {
        assert_eq!(is_readable(block, 4096), expected, "{}", block.escape_ascii());
        // However it falls into frames.
        for at in 0..block.len() {
            let mut fields = Fields::default();
            let head = |kind, flags, length: usize| Head { kind, flags, length: length as u32, stream: 1 };
            fields.begin(head(kind::HEADERS, flag::PADDED | flag::PRIORITY, at + 9));
            fields.add(&[&[3, 0, 0, 0, 0, 0], &block[..at], &[0; 3]].concat());
            fields.begin(head(kind::CONTINUATION, flag::END_HEADERS, block.len() - at));
            fields.add(&block[at..]);
            assert_eq!(fields.are_unreadable(4096), !expected, "{at}: {}", block.escape_ascii());
            fields.clear();
            assert!(!fields.are_unreadable(4096));
        }
    }

    #[test]
    fn blocks_have_a_form() {
        for good in [
            &b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"[..],
            b"\x20\x3f\xe1\x1f\x82",
            b"\x00\x01a\x01b\x10\x00\x00\x5f\x00\x01\x00",
            b"\xbe\xff\x00",
            b"\x0f\x2e\x00",
            // Not names and values, but in form.
            b"\x40\x03a b\x02\r\n",
        ] {
            check(good, true);
        }
        for bad in [
            &b"\x40"[..],
            b"\x40\x01a",
            b"\x40\x01a\x02b",
            b"\x80",
            b"\xff",
            b"\xff\x80\x80\x80\x80\x80\x01",
            b"\xff\xff\xff\xff\xff\x7f",
            b"\xff\x41",
            b"\x7f\xff\x7f\x00",
            // Sizes that are too large, or stand too late.
            b"\x3f\xe2\x1f\x82",
            b"\x82\x20",
            // Padding of a byte, of zeros, and the end of a string within it.
            b"\x41\x82\x07\xff\x00",
            b"\x41\x81\x00",
            b"\x41\x84\xff\xff\xff\xff",
            b"\x41\x85\xff\xff\xff\xfc\xff",
        ] {
            check(bad, false);
        }
        assert!(!is_readable(b"\x3f\x01", 31) && is_readable(b"\x3f\x01", 32));
    }

    #[test]
    fn huffman_strings_are_followed() {
        // RFC 7541 Appendix C.4 and C.6.
        for good in [
            &b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"[..],
            b"\xa8\xeb\x10\x64\x9c\xbf",
            b"\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf",
            b"\x64\x02",
            b"\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\x20\x05\x95\x04\x0b\x81\x66\xe0\x82\xa6\x2d\x1b\xff",
            b"\x94\xe7\x82\x1d\xd7\xf2\xe6\xc7\xb3\x35\xdf\xdf\xcd\x5b\x39\x60\xd5\xaf\x27\x08\x7f\x36\x72\xc1\xab\x27\x0f\xb5\x29\x1f\x95\x87\x31\x60\x65\xc0\x03\xed\x4e\xe5\xb1\x06\x3d\x50\x07",
            b"",
        ] {
            assert!(is_huffman_coded(good), "{}", good.escape_ascii());
        }
        // The code is complete: whatever it is, there is an end to each symbol.
        assert_eq!(SYMBOLS.iter().sum::<u32>(), 257);
    }

    #[test]
    fn of_what_is_too_large_nothing_is_said() {
        let mut fields = Fields::default();
        fields.begin(Head { kind: kind::HEADERS, flags: flag::END_HEADERS, length: 40_000, stream: 1 });
        (0..40).for_each(|_| fields.add(&[0x40; 1000]));
        assert!(!fields.are_unreadable(4096));
        fields.clear();
        assert!(fields.bytes.capacity() <= IDLE_BYTES);
    }
}

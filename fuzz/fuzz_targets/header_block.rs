//! Compressed header blocks of HTTP/2: of what `h2` can decompress we never say that it cannot be.
#![no_main]
#![allow(dead_code, reason = "the reader has more than is called here")]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/traffic/entrypoint/http2"]
mod http2 {
    pub mod fields;
    pub mod frame;

    /// Whether we say so of a block that comes in this many frames.
    pub fn is_unreadable(block: &[u8], frames: usize) -> bool {
        use frame::{Head, flag, kind};
        let mut fields = fields::Fields::default();
        let mut pieces = block.chunks(block.len().div_ceil(frames).max(1)).peekable();
        if pieces.peek().is_none() {
            fields.begin(Head { length: 0, kind: kind::HEADERS, flags: flag::END_HEADERS, stream: 1 });
        }
        let mut kind = kind::HEADERS;
        while let Some(piece) = pieces.next() {
            let flags = if pieces.peek().is_none() { flag::END_HEADERS } else { 0 };
            fields.begin(Head { length: piece.len() as u32, kind, flags, stream: 1 });
            fields.add(piece);
            kind = kind::CONTINUATION;
        }
        fields.are_unreadable(4096)
    }
}

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_core::Stream;
use h2::Codec;
use h2::proto::Error;

/// Whether `h2` can decompress a block; `None` if it does not say.
fn is_decompressed(block: &[u8]) -> Option<bool> {
    let head = [0, (block.len() >> 8) as u8, block.len() as u8, 1, 4, 0, 0, 0, 1];
    let flow = [&head[..], block].concat();
    let mut codec: Codec<_, Bytes> = Codec::new(std::io::Cursor::new(flow));
    match Pin::new(&mut codec).poll_next(&mut Context::from_waker(Waker::noop())) {
        // A field that must not be there is found when it was decompressed.
        Poll::Ready(Some(Ok(_) | Err(Error::Reset(..)))) => Some(true),
        _ => None,
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((frames, block)) = input.split_first() else { return };
    let block = &block[..block.len().min(1 << 14)];
    let is_unreadable = http2::is_unreadable(block, 1);
    assert_eq!(http2::is_unreadable(block, usize::from(*frames) % 8 + 1), is_unreadable);
    if is_decompressed(block) == Some(true) {
        assert!(!is_unreadable, "{}", block.escape_ascii());
    }
});
